//! Keys that were destroyed are tried at each HSM by itself: none may use one, but who was named in the answer, until the
//! time named there.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};

use hsm_client::{Cluster, Login};
use hsm_protocol::wire::{ObjectReference, Unreached};

use crate::client;
use crate::journal::{Journal, now};
use crate::limits::{PAUSE, PROBE_CALL, PROBED_AFTER, PROBES_WAITING};

/// A key that is gone.
#[derive(Clone)]
struct Destroyed {
    key: ObjectReference,
    /// When that was acknowledged, in milliseconds since 1970.
    acknowledged: u64,
    named: Vec<Unreached>,
}

/// The keys to be tried at each HSM.
pub(crate) struct Probes {
    hsms: Vec<(PathBuf, Mutex<Vec<Destroyed>>)>,
}

impl Probes {
    pub(crate) fn new(sockets: &[PathBuf]) -> Self {
        Self { hsms: sockets.iter().map(|socket| (socket.clone(), Mutex::default())).collect() }
    }

    /// Has every HSM tried with a key whose destruction was just acknowledged.
    pub(crate) fn add(&self, key: &ObjectReference, named: &[Unreached], journal: &Journal) {
        let destroyed = Destroyed { key: key.clone(), acknowledged: now(), named: named.to_vec() };
        for (_, waiting) in &self.hsms {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() < PROBES_WAITING {
                waiting.push(destroyed.clone());
            } else {
                journal.count("destroyed keys that were not tried at an HSM");
            }
        }
    }

    /// Tries at one HSM, until the load ends.
    pub(crate) fn work(&self, number: usize, login: &Login, journal: &Journal, stop: &AtomicBool) {
        let Some((socket, waiting)) = self.hsms.get(number) else { return };
        let cluster = client::one_hsm(socket, PROBE_CALL);
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(PAUSE);
            let mut keys = waiting.lock().unwrap_or_else(PoisonError::into_inner).clone();
            keys.retain(|destroyed| probe(&cluster, login, destroyed, journal));
            let tried: Vec<u64> = keys.iter().map(|destroyed| destroyed.key.token_object).collect();
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = |destroyed: &Destroyed| destroyed.acknowledged + 50 > now();
            waiting.retain(|destroyed| is_new(destroyed) || tried.contains(&destroyed.key.token_object));
        }
    }
}

/// Tries once; whether it shall be tried again.
fn probe(cluster: &Cluster, login: &Login, destroyed: &Destroyed, journal: &Journal) -> bool {
    let began = now();
    let after = u64::try_from(PROBED_AFTER.as_millis()).unwrap_or(u64::MAX);
    let last = destroyed.named.iter().map(|one| one.until).max().unwrap_or(0).max(destroyed.acknowledged);
    let signed = client::sign(cluster, login, &destroyed.key).is_ok();
    journal.count("uses of destroyed keys tried");
    if signed {
        judge(cluster, destroyed, began, journal);
    }
    began < last.saturating_add(after)
}

/// A destroyed key was used by a call that began at that time.
fn judge(cluster: &Cluster, destroyed: &Destroyed, began: u64, journal: &Journal) {
    let Ok(hello) = cluster.hello_within(PROBE_CALL) else { return };
    let named = destroyed.named.iter().find(|one| one.hsm == hello.hsm);
    let name: String = hello.hsm.iter().map(|octet| format!("{octet:02x}")).collect();
    match named {
        Some(one) if began <= one.until => journal.count("uses of destroyed keys within the time that was named"),
        Some(one) => journal.violation(format_args!(
            "HSM {name} used key {} {} ms after the end of the time that was named",
            destroyed.key.token_object,
            began - one.until
        )),
        None => journal.violation(format_args!(
            "HSM {name} used key {} {} ms after its destruction was acknowledged without naming it",
            destroyed.key.token_object,
            began - destroyed.acknowledged
        )),
    }
}
