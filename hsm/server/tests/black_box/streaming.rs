//! A state of many keys on its way to an HSM that joins: what a kill costs, and who waits meanwhile.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::observability::{metrics, value};
use crate::peers::free_address;
use crate::rolling::Waits;
use crate::several::{Cluster, eventually, log_in, make_pair, sign, sign_in_the_end, try_make_secret_key, within};

/// Callers that make keys at the same time.
const MAKERS: usize = 32;

/// Memory that a key takes, in bytes, at most: the core's share is 629 (`hsm-core`'s test `million`).
const KEY_BYTES: u64 = 1024;

/// Memory in MiB that sending a state or receiving it may take beside the state: the ranges on their way, pages of the
/// store, and what is made meanwhile.
const TRANSFER_MIB: u64 = 128;

/// What a call may take on a machine on which others work too.
const CALL: Duration = Duration::from_secs(20);

/// Entries after which a newcomer gets the state and not the log.
const ENTRIES: f64 = 1_200.0;

/// Longest wait for a state to be sent and installed.
const PATIENCE: Duration = Duration::from_secs(600);

/// Makes so many AES keys through this HSM, and then single ones until the log of the first ones is gone.
fn fill(cluster: &Cluster, at: usize, health: SocketAddr, keys: u64) {
    let made = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let client = cluster.bound_client(at, CALL);
            let login = log_in(&client);
            let (client, login, made) = (std::sync::Arc::new(client), std::sync::Arc::new(login), &made);
            for _ in 0..MAKERS / 4 {
                let (client, login) = (client.clone(), login.clone());
                scope.spawn(move || {
                    while made.fetch_add(1, Ordering::Relaxed) < keys {
                        try_make_secret_key(&client, &login).unwrap();
                    }
                });
            }
        }
    });
    let client = cluster.bound_client(at, CALL);
    let login = log_in(&client);
    while value(&metrics(health), "kagimori_snapshot_entry ").unwrap() < ENTRIES {
        (0..50).for_each(|_| drop(try_make_secret_key(&client, &login).unwrap()));
    }
}

/// How much of the state has been sent, of everything that is sent now.
fn sent_part(page: &str) -> Option<f64> {
    Some(value(page, "kagimori_member_state_rows{")? / value(page, "kagimori_member_state_rows_total{")?)
}

fn sent_bytes(page: &str) -> f64 {
    value(page, "kagimori_state_sent_bytes_total ").unwrap()
}

/// Waits until this HSM has sent so much.
fn until_sent(health: SocketAddr, part: f64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while sent_part(&metrics(health)).is_none_or(|sent| sent < part) {
        assert!(Instant::now() < deadline, "{part} of the state is not sent");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn leader(cluster: &Cluster, among: &[usize]) -> usize {
    let mut leader = None;
    within(Duration::from_secs(60), "a leader", || {
        leader = cluster.leader(among[0]).filter(|leader| among.contains(leader));
        leader.is_some()
    });
    leader.unwrap()
}

#[test]
fn a_join_that_loses_the_newcomer_and_then_the_leader_ends_and_little_is_sent_twice() {
    let mut cluster = Cluster::blank(0);
    let health: Vec<_> = (0..5).map(|_| free_address()).collect();
    (0..3).for_each(|at| cluster.start(&["--health", &health[at].to_string()]));
    cluster.unite();
    cluster.activate(0);
    let first = leader(&cluster, &[0, 1, 2]);
    fill(&cluster, first, health[first], 20_000);
    cluster.start(&["--health", &health[3].to_string()]);
    let member = cluster.addresses[first].to_string();
    let newcomer = &cluster.hsms[3];
    std::thread::scope(|scope| {
        // It is killed while it joins, so that nobody answers.
        let join = scope.spawn(|| drop(newcomer.manage(&["join", "--member", &member])));
        until_sent(health[first], 0.4);
        newcomer.signal(rustix::process::Signal::KILL);
        join.join().unwrap();
    });
    cluster.hsms[3].wait();
    cluster.hsms[3].restart();
    until_sent(health[first], 0.7);
    let before = sent_bytes(&metrics(health[first]));
    cluster.hsms[first].kill();
    let others: Vec<_> = (0..3).filter(|&at| at != first).collect();
    within(PATIENCE, "the state", || cluster.members(3).len() == 4);
    let sent = before + others.iter().map(|&at| sent_bytes(&metrics(health[at]))).sum::<f64>();
    // What it takes without any disturbance.
    let second = leader(&cluster, &others);
    let until_now = sent_bytes(&metrics(health[second]));
    cluster.start(&["--health", &health[4].to_string()]);
    cluster.hsms[4].managed(&["join", "--member", &cluster.addresses[second].to_string()]);
    let whole = sent_bytes(&metrics(health[second])) - until_now;
    println!("the state is {whole} octets; sent in three attempts: {sent}");
    // Four ranges that were not flushed, and those that were on their way: half a mebibyte each.
    assert!(sent < whole + f64::from(8 * 1024 * 1024) && sent < whole * 1.5, "{sent} octets of {whole}");
    cluster.hsms[first].restart();
    let (client, login) = (cluster.client(first), log_in(&cluster.client(first)));
    let (_, key) = make_pair(&client, &login);
    let newcomer = cluster.client(3);
    sign_in_the_end(&newcomer, &log_in(&newcomer), &key);
}

/// Resident memory of an HSM now, and at most since it started, in MiB.
fn memory(cluster: &Cluster, at: usize) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{}/status", cluster.hsms[at].process())).unwrap();
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    (of("VmRSS"), of("VmHWM"))
}

/// Signs and makes keys on the HSM that leads until `work` is done; longest waits and how often.
fn under_load(cluster: &Cluster, at: usize, name: &str, work: impl FnOnce()) {
    let client = cluster.bound_client(at, CALL);
    let login = log_in(&client);
    let (_, key) = make_pair(&client, &login);
    let (stop, signing, changing) = (AtomicBool::new(false), Waits::default(), Waits::default());
    std::thread::scope(|scope| {
        scope.spawn(|| signing.keep(&stop, || drop(sign(&client, &login, &key).unwrap())));
        scope.spawn(|| changing.keep(&stop, || drop(try_make_secret_key(&client, &login).unwrap())));
        work();
        stop.store(true, Ordering::Relaxed);
    });
    println!(
        "{name}: longest wait of a signer and signatures {:?}, of a writer and keys {:?}",
        signing.told(),
        changing.told()
    );
}

#[test]
#[ignore = "a measurement of minutes: KAGIMORI_KEYS=1000000"]
fn a_join_with_very_many_keys_is_measured() {
    let keys = std::env::var("KAGIMORI_KEYS").map_or(20_000, |keys| keys.parse().unwrap());
    let mut cluster = Cluster::blank(0);
    let health: Vec<_> = (0..2).map(|_| free_address()).collect();
    (0..2).for_each(|at| cluster.start(&["--health", &health[at].to_string()]));
    cluster.hsms[0].initialise();
    cluster.activate(0);
    let empty = memory(&cluster, 0);
    let begin = Instant::now();
    fill(&cluster, 0, health[0], keys);
    println!("{keys} keys made in {:?}", begin.elapsed());
    println!("memory of the sender in MiB: empty {empty:?}, then {:?}", memory(&cluster, 0));
    under_load(&cluster, 0, "alone", || std::thread::sleep(Duration::from_secs(15)));
    let before = memory(&cluster, 0).0;
    println!("memory of the sender {before}");
    let begin = Instant::now();
    under_load(&cluster, 0, "while an HSM joins", || {
        // The command waits less than this may take.
        drop(cluster.hsms[1].manage(&["join", "--member", &cluster.addresses[0].to_string()]));
        within(PATIENCE, "the join", || cluster.hsms[1].status()["joining"] == "" && cluster.members(1).len() == 2);
        println!("joined in {:?}", begin.elapsed());
    });
    let (sender, receiver) = (memory(&cluster, 0), memory(&cluster, 1));
    println!("memory of the sender {sender:?}, of the receiver {receiver:?}");
    assert!((before - empty.0) * 1024 * 1024 / keys.max(100_000) < KEY_BYTES);
    assert!(sender.1 < before + TRANSFER_MIB && receiver.1 < before + TRANSFER_MIB);
    for at in [0, 1] {
        let page = metrics(health[at]);
        let lines =
            page.lines().filter(|line| line.starts_with("kagimori_state") || line.starts_with("kagimori_objects"));
        lines.for_each(|line| println!("HSM {at}: {line}"));
        let store = std::fs::metadata(cluster.hsms[at].path("data/store.redb")).unwrap().len() / 1024 / 1024;
        println!("HSM {at}: store.redb {store} MiB");
    }
    let client = cluster.client(1);
    let login = log_in(&client);
    let (_, key) = make_pair(&client, &login);
    eventually("a signature", || sign(&client, &login, &key).is_ok());
    println!("memory of the sender {:?}, of the receiver {:?}", memory(&cluster, 0), memory(&cluster, 1));
}
