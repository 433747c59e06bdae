//! The load: threads that sign, that make and destroy keys, and that write and read labels.

use std::collections::VecDeque;
use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use hsm_client::{Cluster, Login};
use hsm_protocol::AttributeKind;

use crate::client::{self, Pair};
use crate::journal::Journal;
use crate::limits;
use crate::probes::Probes;
use crate::registers::Registers;

/// What the threads share.
struct Load<'a> {
    cluster: &'a Cluster,
    login: &'a Login,
    journal: &'a Journal,
    probes: &'a Probes,
    stop: &'a AtomicBool,
    /// Pairs that were acknowledged and not destroyed, and those whose destruction was acknowledged.
    kept: Mutex<Vec<u64>>,
    gone: Mutex<Vec<u64>>,
}

/// Works until standard input ends, judges, and prints the report.
pub(crate) fn run(sockets: &[PathBuf], keys: &Path) -> Result<()> {
    let cluster = client::cluster()?;
    let login = client::log_in(&cluster)?;
    let (journal, probes, stop) = (Journal::default(), Probes::new(sockets), AtomicBool::new(false));
    let registers = Registers::new(&cluster, &login, &journal);
    let load = Load {
        cluster: &cluster,
        login: &login,
        journal: &journal,
        probes: &probes,
        stop: &stop,
        kept: Mutex::default(),
        gone: Mutex::default(),
    };
    let signing = client::make_pair(&cluster, &login, "chaos-signer")?;
    let point = public_point(&cluster, &login, &signing)?;
    say("ready")?;
    std::thread::scope(|scope| -> Result<()> {
        let (load, registers, point, signing) = (&load, &registers, &point, &signing);
        for _ in 0..limits::SIGNERS {
            scope.spawn(move || load.sign(signing, point));
        }
        for maker in 0..limits::MAKERS {
            scope.spawn(move || load.make(maker));
        }
        for _ in 0..limits::SHARERS {
            scope.spawn(move || registers.work(load.stop));
        }
        for hsm in 0..sockets.len() {
            scope.spawn(move || load.probes.work(hsm, load.login, load.journal, load.stop));
        }
        let mut line = String::new();
        let waited = std::io::stdin().lock().read_line(&mut line);
        load.stop.store(true, Ordering::Relaxed);
        waited.map(drop).context("standard input cannot be read")
    })?;
    registers.judge();
    let of = |list: &Mutex<Vec<u64>>| list.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let text = serde_json::json!({ "kept": of(&load.kept), "gone": of(&load.gone) }).to_string();
    std::fs::write(keys, text).with_context(|| format!("{} cannot be written", keys.display()))?;
    say(&journal.report().to_string())
}

/// The public half's point, uncompressed.
fn public_point(cluster: &Cluster, login: &Login, pair: &Pair) -> Result<Vec<u8>> {
    let octets =
        client::read(cluster, login, &pair.public, AttributeKind::EcPoint)?.context("a key without a point")?;
    // DER of an OCTET STRING of 65 octets (PKCS#11 2.40 §2.3.3).
    octets.strip_prefix(&[4, 65]).map(<[u8]>::to_vec).context("the point is no OCTET STRING")
}

impl Load<'_> {
    fn runs(&self) -> bool {
        std::thread::sleep(limits::PAUSE);
        !self.stop.load(Ordering::Relaxed)
    }

    fn sign(&self, pair: &Pair, point: &[u8]) {
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        while self.runs() {
            let made = self.journal.call("sign", || client::sign(self.cluster, self.login, &pair.private));
            if made.is_some_and(|signature| public.verify(client::MESSAGE, &signature).is_err()) {
                self.journal.violation("a signature does not verify");
            }
        }
    }

    fn make(&self, maker: usize) {
        let mut kept = VecDeque::new();
        let mut number = 0_u64;
        while self.runs() {
            number += 1;
            let label = format!("chaos-{maker}-{number}");
            let make = || client::make_pair(self.cluster, self.login, &label);
            let Some(pair) = self.journal.call("make a pair", make) else { continue };
            self.note(&self.kept, &pair);
            kept.push_back(pair);
            if kept.len() > limits::KEPT
                && let Some(oldest) = kept.pop_front()
            {
                self.destroy(&oldest);
            }
        }
    }

    fn destroy(&self, pair: &Pair) {
        let handles = handles(pair);
        // From here on it may be gone.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).retain(|handle| !handles.contains(handle));
        let destroy = |object| self.journal.call("destroy", || client::destroy(self.cluster, self.login, object));
        if let Some(named) = destroy(&pair.private) {
            if !named.is_empty() {
                self.journal.count("destructions that named an HSM");
            }
            self.probes.add(&pair.private, &named, self.journal);
            if destroy(&pair.public).is_some() {
                self.note(&self.gone, pair);
            }
        }
    }

    fn note(&self, list: &Mutex<Vec<u64>>, pair: &Pair) {
        list.lock().unwrap_or_else(PoisonError::into_inner).extend(handles(pair));
    }
}

fn handles(pair: &Pair) -> [u64; 2] {
    [pair.public.token_object, pair.private.token_object]
}

fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).context("standard output is closed")
}
