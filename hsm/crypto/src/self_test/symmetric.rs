//! Ciphers, digests, MACs, derivations and the generator.

use super::{Case, Test};
use crate::password::Stretch;
use crate::random::drbg::CtrDrbg;
use crate::wide::block::BlockKey;
use crate::wide::{Cipher, Cmac, Direction, Failed, Gcm, Hash, Hmac, Mode, block, stretch};

/// In the order in which things build on each other.
pub(super) const TESTS: &[Test] = &[
    ("AES", aes),
    ("AES-GCM", gcm),
    ("AES-CMAC", cmac),
    ("AES key wrap", key_wrap),
    ("AES key wrap with padding", key_wrap_padded),
    ("SHA-1, SHA-2 and SHA-3", digests),
    ("HMAC", hmacs),
    ("HKDF", hkdf),
    ("PBKDF2", pbkdf2),
    ("Argon2id", argon2id),
    ("CTR_DRBG", ctr_drbg),
];

const HASHES: [(&str, Hash); 9] = [
    ("sha1", Hash::Sha1),
    ("sha224", Hash::Sha224),
    ("sha256", Hash::Sha256),
    ("sha384", Hash::Sha384),
    ("sha512", Hash::Sha512),
    ("sha3_224", Hash::Sha3_224),
    ("sha3_256", Hash::Sha3_256),
    ("sha3_384", Hash::Sha3_384),
    ("sha3_512", Hash::Sha3_512),
];

fn aes() -> Result<bool, Failed> {
    const CASE: Case = Case::new(include_str!("../../testdata/aes_256.txt"));
    let (key, plain, cipher) = (CASE.bytes("key")?, CASE.array("plain")?, CASE.bytes("cipher")?);
    let mut opened = Vec::new();
    Cipher::new(Mode::Ecb, &key, &[], Direction::Decrypt)?.update(&cipher, &mut opened)?;
    // CBC of one block with a zero IV is ECB; CTR of zeros from that block on is its encryption.
    let mut chained = Vec::new();
    Cipher::new(Mode::Cbc, &key, &[0; 16], Direction::Encrypt)?.update(&plain, &mut chained)?;
    let mut counted = Vec::new();
    Cipher::new(Mode::Ctr, &key, &plain, Direction::Encrypt)?.update(&[0; 16], &mut counted)?;
    let encrypted = BlockKey::encrypting(&key)?.encrypt(&plain).to_vec();
    Ok(encrypted == cipher && opened == plain && chained == cipher && counted == cipher)
}

fn gcm() -> Result<bool, Failed> {
    const CASE: Case = Case::new(include_str!("../../testdata/aes_gcm.txt"));
    let (key, iv, plain) = (CASE.bytes("key")?, CASE.bytes("iv")?, CASE.bytes("plain")?);
    let cipher = CASE.bytes("cipher")?;
    let gcm = Gcm::new(&key, Gcm::TAG)?;
    let mut sealed = Vec::new();
    gcm.seal(&iv, &[], &plain, &mut sealed)?;
    let mut parts = Vec::new();
    let mut in_parts = Cipher::new(Mode::Gcm, &key, &iv, Direction::Encrypt)?;
    in_parts.update(&plain, &mut parts)?;
    in_parts.finish()?;
    parts.extend_from_slice(&in_parts.tag()?);
    Ok(sealed == cipher && parts == cipher && *gcm.open(&iv, &[], &cipher)? == plain)
}

fn cmac() -> Result<bool, Failed> {
    const CASE: Case = Case::new(include_str!("../../testdata/aes_cmac.txt"));
    Ok(Cmac::of(&CASE.bytes("key")?, &CASE.bytes("message")?)? == CASE.array("mac")?)
}

fn key_wrap() -> Result<bool, Failed> {
    const CASE: Case = Case::new(include_str!("../../testdata/aes_kw.txt"));
    let (key, plain, cipher) = (CASE.bytes("key")?, CASE.bytes("plain")?, CASE.bytes("cipher")?);
    Ok(block::wrap(&key, None, &plain)? == cipher && *block::unwrap(&key, None, &cipher)? == plain)
}

fn key_wrap_padded() -> Result<bool, Failed> {
    const CASE: Case = Case::new(include_str!("../../testdata/aes_kwp.txt"));
    let (key, plain, cipher) = (CASE.bytes("key")?, CASE.bytes("plain")?, CASE.bytes("cipher")?);
    Ok(block::wrap_padded(&key, &plain)? == cipher && *block::unwrap_padded(&key, &cipher)? == plain)
}

fn digests() -> Result<bool, Failed> {
    const CASE: Case = Case::new(include_str!("../../testdata/digests.txt"));
    let message = CASE.bytes("message")?;
    HASHES.iter().try_fold(true, |good, (name, hash)| Ok(good && hash.digest(&message)? == CASE.bytes(name)?))
}

fn hmacs() -> Result<bool, Failed> {
    const CASE: Case = Case::new(include_str!("../../testdata/hmacs.txt"));
    let (key, message) = (CASE.bytes("key")?, CASE.bytes("message")?);
    HASHES.iter().try_fold(true, |good, (name, hash)| Ok(good && Hmac::of(*hash, &key, &message)? == CASE.bytes(name)?))
}

fn hkdf() -> Result<bool, Failed> {
    const CASE: Case = Case::new(include_str!("../../testdata/hkdf_sha256.txt"));
    let expected = CASE.bytes("output")?;
    let extracted = stretch::hkdf_extract(Hash::Sha256, &CASE.bytes("salt")?, &CASE.bytes("secret")?)?;
    let mut output = vec![0; expected.len()];
    stretch::hkdf_expand(Hash::Sha256, &extracted, &CASE.bytes("info")?, &mut output)?;
    Ok(output == expected)
}

fn pbkdf2() -> Result<bool, Failed> {
    const CASE: Case = Case::new(include_str!("../../testdata/pbkdf2_sha512.txt"));
    let iterations = u32::from_be_bytes(CASE.array("iterations")?);
    let expected = CASE.bytes("output")?;
    let mut output = vec![0; expected.len()];
    stretch::pbkdf2(Hash::Sha512, &CASE.bytes("password")?, &CASE.bytes("salt")?, iterations, &mut output)?;
    Ok(output == expected)
}

fn argon2id() -> Result<bool, Failed> {
    const CASE: Case = Case::new(include_str!("../../testdata/argon2id.txt"));
    let how = Stretch::Argon2id { memory: 256, passes: 2, lanes: 1 };
    let expected = CASE.bytes("output")?;
    let mut output = vec![0; expected.len()];
    how.run(&CASE.bytes("password")?, &CASE.bytes("salt")?, &mut output).map_err(|_| Failed)?;
    Ok(output == expected)
}

fn ctr_drbg() -> Result<bool, Failed> {
    const CASE: Case = Case::new(include_str!("../../testdata/ctr_drbg.txt"));
    let (entropy, nonce, reseed) = (CASE.bytes("entropy")?, CASE.bytes("nonce")?, CASE.bytes("reseed")?);
    let expected = CASE.bytes("output")?;
    let mut output = vec![0; expected.len()];
    let mut drbg = CtrDrbg::instantiate(&entropy, &nonce, &[]).map_err(|_| Failed)?;
    drbg.reseed(&reseed, &[]).map_err(|_| Failed)?;
    drbg.generate(&mut output).map_err(|_| Failed)?;
    drbg.generate(&mut output).map_err(|_| Failed)?;
    Ok(output == expected)
}
