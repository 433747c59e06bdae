//! Durable objects under load, and the look afterwards whether each is there.
//!
//! A line is printed only after the HSM has acknowledged: `kept LABEL COUNT` after creating that many objects with the
//! label, `gone LABEL` after destroying them. What was under way when the program was told to stop is printed as
//! `open LABEL`: it may be either.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail};
use conformance::module::{Attribute, Refused, Session};
use cryptoki_sys::{
    CK_OBJECT_HANDLE, CKA_APPLICATION, CKA_CLASS, CKA_EC_PARAMS, CKA_LABEL, CKA_PRIVATE, CKA_SIGN, CKA_TOKEN,
    CKA_VALUE, CKA_VALUE_LEN, CKM_AES_KEY_GEN, CKM_EC_KEY_PAIR_GEN, CKO_DATA,
};

use crate::Token;

/// Objects that a thread keeps before it destroys its oldest: enough to be in the store for several restarts, few
/// enough that the thousandth restart is as quick as the first.
const KEPT: usize = 40;

/// DER of the object identifier of P-256.
const P256: &[u8] = &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];

/// Creates and destroys until standard input ends.
pub(crate) fn load(token: &Token, threads: u32) -> Result<()> {
    let _login = token.logged_in()?;
    let run = std::process::id();
    let stop = AtomicBool::new(false);
    say("ready")?;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let stop = &stop;
                scope.spawn(move || work(token, &format!("store-{run}-{thread}"), stop))
            })
            .collect();
        let mut line = String::new();
        let waited = std::io::stdin().read_line(&mut line);
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        waited.context("standard input cannot be read")?;
        Ok(())
    })
}

fn work(token: &Token, prefix: &str, stop: &AtomicBool) -> Result<()> {
    let session = token.session()?;
    let mut kept: VecDeque<(String, Vec<CK_OBJECT_HANDLE>)> = VecDeque::new();
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let label = format!("{prefix}-{number}");
        let objects = create(&session, &label, number).with_context(|| format!("open {label}"))?;
        say(&format!("kept {label} {}", objects.len()))?;
        kept.push_back((label, objects));
        number += 1;
        if kept.len() > KEPT
            && let Some((label, objects)) = kept.pop_front()
        {
            // From here on until its line is printed, the objects may be there or not.
            say(&format!("open {label}"))?;
            for object in objects {
                session.destroy(object).with_context(|| format!("destroying {label}"))?;
            }
            say(&format!("gone {label}"))?;
        }
    }
    Ok(())
}

fn create(session: &Session, label: &str, number: u64) -> Result<Vec<CK_OBJECT_HANDLE>, Refused> {
    let token = || Attribute::flag(CKA_TOKEN, true);
    let named = || Attribute::octets(CKA_LABEL, label);
    match number % 3 {
        0 => {
            let attributes = [token(), named(), Attribute::number(CKA_VALUE_LEN, 32)];
            session.generate_key(CKM_AES_KEY_GEN, &attributes).map(|key| vec![key])
        }
        1 => {
            let public = [token(), named(), Attribute::octets(CKA_EC_PARAMS, P256)];
            let private = [token(), named(), Attribute::flag(CKA_SIGN, true)];
            session.generate_pair(CKM_EC_KEY_PAIR_GEN, &public, &private).map(|(public, private)| vec![public, private])
        }
        _ => {
            let attributes = [
                Attribute::number(CKA_CLASS, CKO_DATA),
                token(),
                named(),
                Attribute::flag(CKA_PRIVATE, true),
                Attribute::octets(CKA_APPLICATION, "conformance"),
                Attribute::octets(CKA_VALUE, vec![7; 300]),
            ];
            session.create(&attributes).map(|object| vec![object])
        }
    }
}

/// What an object's lines say at the end.
enum Said {
    Kept(usize),
    Gone,
    Open,
}

/// Looks every object up that standard input names.
pub(crate) fn check(token: &Token) -> Result<()> {
    let mut said = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("standard input cannot be read")?;
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["kept", label, count] => said.insert((*label).to_owned(), Said::Kept(count.parse().context("no number")?)),
            ["gone", label] => said.insert((*label).to_owned(), Said::Gone),
            ["open", label] => said.insert((*label).to_owned(), Said::Open),
            _ => None,
        };
    }
    let session = token.logged_in()?;
    let (mut lost, mut returned) = (0, 0);
    for (label, said) in &said {
        let found = session.find(&[Attribute::octets(CKA_LABEL, label.as_str())])?.len();
        match said {
            Said::Kept(count) if found != *count => {
                lost += 1;
                say(&format!("lost {label}: {found} of {count} objects"))?;
            }
            Said::Gone if found != 0 => {
                returned += 1;
                say(&format!("returned {label}: {found} objects"))?;
            }
            Said::Kept(_) | Said::Gone | Said::Open => {}
        }
    }
    say(&format!("checked {} labels: {lost} lost, {returned} returned", said.len()))?;
    if lost + returned > 0 {
        bail!("acknowledged changes are not in the store");
    }
    Ok(())
}

/// Prints a whole line at once: other threads print too.
fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(format!("{line}\n").as_bytes()).and_then(|()| output.flush()).context("standard output is closed")
}
