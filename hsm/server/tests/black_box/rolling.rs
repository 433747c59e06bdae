//! A rolling restart of three HSMs under load: every HSM is stopped and started again, and no application notices.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::peers::free_address;
use crate::several::{Cluster, eventually, log_in, make_pair, sign, sign_in_the_end};

/// Longest wait of a signer, on a machine that does nothing else but on one that tests run on: the client leaves an HSM
/// that stops at its word, and one that is silent within half a second.
const SIGNING: Duration = Duration::from_secs(2);

/// Longest wait of whoever changes something: when the leader stops another one is elected (two seconds), and the change
/// is repeated under its number.
const CHANGING: Duration = Duration::from_secs(10);

/// What each kind of caller waited longest, and how often it was answered.
#[derive(Default)]
struct Waits {
    longest: Mutex<Duration>,
    calls: Mutex<u64>,
}

impl Waits {
    /// Repeats a call, which must succeed each time, until it is told to stop.
    fn keep(&self, stop: &AtomicBool, mut call: impl FnMut()) {
        while !stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            call();
            let mut longest = self.longest.lock().unwrap();
            *longest = (*longest).max(begin.elapsed());
            *self.calls.lock().unwrap() += 1;
        }
    }

    fn told(&self) -> (Duration, u64) {
        (*self.longest.lock().unwrap(), *self.calls.lock().unwrap())
    }
}

#[test]
fn every_hsm_of_three_is_restarted_in_turn_and_no_signer_waits_long_or_sees_an_error() {
    let mut cluster = Cluster::blank(0);
    (0..3).for_each(|_| cluster.start(&["--listen", &free_address().to_string()]));
    cluster.unite();
    cluster.activate(0);
    let client = cluster.pinned_client(0);
    let login = log_in(&client);
    let (_, key) = make_pair(&client, &login);
    sign_in_the_end(&client, &login, &key);
    let (stop, signing, changing) = (AtomicBool::new(false), Waits::default(), Waits::default());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| signing.keep(&stop, || drop(sign(&client, &login, &key).unwrap())));
        }
        scope.spawn(|| changing.keep(&stop, || drop(make_pair(&client, &login))));
        for at in 0..3 {
            std::thread::sleep(Duration::from_secs(1));
            assert!(cluster.hsms[at].terminate().success());
            cluster.hsms[at].restart();
            // As docs/operations/upgrade.md says: the next one only when this one serves again.
            eventually("the return", || {
                let status = cluster.hsms[at].status();
                let caught_up = status["applied_index"].as_u64();
                status["client_address"] != ""
                    && caught_up >= cluster.hsms[(at + 1) % 3].status()["applied_index"].as_u64()
            });
        }
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
    });
    let ((signed, signatures), (changed, changes)) = (signing.told(), changing.told());
    println!(
        "signers: {signatures} signatures, longest wait {signed:?}; changes: {changes} pairs, longest wait {changed:?}"
    );
    assert!(signatures > 1_000 && changes > 10, "{signatures} {changes}");
    assert!(signed < SIGNING && changed < CHANGING, "a signer waited {signed:?}, a change {changed:?}");
    // Nothing is lost, on any of them.
    for at in 0..3 {
        let client = cluster.client(at);
        sign_in_the_end(&client, &log_in(&client), &key);
    }
}
