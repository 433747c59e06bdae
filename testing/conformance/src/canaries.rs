//! Uses known key material in every way that might write it down: import, use, copy, wrap, session objects, a wrong PIN.

use anyhow::{Context as _, Result, bail};
use conformance::module::{Attribute, Mechanism, Refused};
use cryptoki_sys::{
    CKA_CLASS, CKA_DECRYPT, CKA_ENCRYPT, CKA_EXTRACTABLE, CKA_KEY_TYPE, CKA_LABEL, CKA_SENSITIVE, CKA_SIGN, CKA_TOKEN,
    CKA_VALUE, CKA_WRAP, CKK_AES, CKK_GENERIC_SECRET, CKM_AES_KEY_WRAP, CKM_SHA256_HMAC, CKO_SECRET_KEY,
    CKR_PIN_INCORRECT, CKU_USER,
};

use crate::Token;

/// Does all of it once.
pub(crate) fn plant(token: &Token) -> Result<()> {
    let material = std::env::var("KAGIMORI_CANARY_KEY").context("KAGIMORI_CANARY_KEY is not set")?;
    let material = hex::decode(material).context("KAGIMORI_CANARY_KEY is no hexadecimal")?;
    wrong_pin(token)?;
    let session = token.logged_in()?;
    let key = |kind, durable: bool, use_kind| {
        [
            Attribute::number(CKA_CLASS, CKO_SECRET_KEY),
            Attribute::number(CKA_KEY_TYPE, kind),
            Attribute::flag(CKA_TOKEN, durable),
            Attribute::flag(CKA_SENSITIVE, true),
            Attribute::flag(CKA_EXTRACTABLE, true),
            Attribute::flag(use_kind, true),
            Attribute::octets(CKA_LABEL, "canary"),
            Attribute::octets(CKA_VALUE, material.clone()),
        ]
    };
    let mut out = vec![0; 4096];
    for durable in [true, false] {
        let cipher = session.create(&key(CKK_AES, durable, CKA_ENCRYPT))?;
        session.encrypt(&Mechanism::Gcm(vec![7; 12]), cipher, &[1; 64], &mut out)?;
        let mac = session.create(&key(CKK_GENERIC_SECRET, durable, CKA_SIGN))?;
        session.sign(&Mechanism::Plain(CKM_SHA256_HMAC), mac, &[1; 64], &mut out)?;
        let wrapping = session.create(&key(CKK_AES, durable, CKA_WRAP))?;
        session.wrap(&Mechanism::Plain(CKM_AES_KEY_WRAP), wrapping, cipher)?;
        if session.read(cipher, CKA_VALUE).is_ok() {
            bail!("the value of a sensitive key was given out");
        }
        // A template that is refused has been through the same hands.
        let mut refused = Vec::from(key(CKK_AES, durable, CKA_DECRYPT));
        refused.push(Attribute::octets(CKA_VALUE, material[1..].to_vec()));
        if session.create(&refused).is_ok() {
            bail!("a template with two values was taken");
        }
    }
    println!("planted");
    Ok(())
}

/// The right password with something behind it must not be logged as an "attempt".
fn wrong_pin(token: &Token) -> Result<()> {
    let pin = std::env::var("P11_PIN").context("P11_PIN is not set")?;
    let session = token.session()?;
    match session.log_in(CKU_USER, &format!("{pin}-wrong")) {
        Err(Refused { code: CKR_PIN_INCORRECT, .. }) => Ok(()),
        Err(refused) => Err(refused.into()),
        Ok(()) => bail!("a wrong PIN was taken"),
    }
}
