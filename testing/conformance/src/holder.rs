//! One login and one key through whatever happens to the HSM meanwhile.

use std::io::{BufRead as _, Write as _};

use anyhow::{Context as _, Result};
use conformance::module::{Attribute, Mechanism};
use cryptoki_sys::{CKA_EC_PARAMS, CKA_LABEL, CKA_SIGN, CKA_TOKEN, CKM_EC_KEY_PAIR_GEN, CKM_ECDSA};

use crate::Token;

/// DER of the object identifier of P-256.
const P256: &[u8] = &[0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];

/// Prints `ready` once the pair is acknowledged, then `signed` or `refused …` for each line; `tidy` leaves no key behind.
pub(crate) fn hold(token: &Token, tidy: bool) -> Result<()> {
    let session = token.logged_in()?;
    let label = format!("hold-{}", std::process::id());
    let public = [
        Attribute::flag(CKA_TOKEN, true),
        Attribute::octets(CKA_LABEL, label.as_str()),
        Attribute::octets(CKA_EC_PARAMS, P256),
    ];
    let private = [
        Attribute::flag(CKA_TOKEN, true),
        Attribute::octets(CKA_LABEL, label.as_str()),
        Attribute::flag(CKA_SIGN, true),
    ];
    let (public, key) = session.generate_pair(CKM_EC_KEY_PAIR_GEN, &public, &private)?;
    say("ready")?;
    for line in std::io::stdin().lock().lines() {
        line.context("standard input cannot be read")?;
        let mut signature = [0; 64];
        match session.sign(&Mechanism::Plain(CKM_ECDSA), key, &[3; 32], &mut signature) {
            Ok(64) => say("signed")?,
            Ok(length) => say(&format!("refused: a signature of {length} bytes"))?,
            Err(refused) => say(&format!("refused: {refused}"))?,
        }
    }
    if tidy {
        [public, key].into_iter().try_for_each(|half| session.destroy(half))?;
    }
    Ok(())
}

fn say(line: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).context("standard output is closed")
}
