//! One construction for every seal whose key is used often: AES-256-GCM with a 192-bit nonce.
//!
//! Half of the nonce and a CMAC derive a key of its own for each message (SP 800-108r1 §4.1, counter mode), the other half
//! is the nonce of GCM (C2SP XAES-256-GCM). A random nonce thus never repeats in practice: a key may seal 2^80 messages,
//! where GCM alone with random nonces must stop at 2^32 (SP 800-38D §8.3), which a busy store reaches in days.

use zeroize::{Zeroize, Zeroizing};

use crate::fault::{CryptoFault, SealBroken};
use crate::module::Module;
use crate::wide::block::BlockKey;
use crate::wide::{Failed, Gcm};

/// Bytes of a key.
pub(crate) const KEY: usize = 32;
/// Bytes of the nonce.
pub(crate) const NONCE: usize = 24;
/// Bytes that a seal is longer than what is in it: nonce and tag.
pub(crate) const OVERHEAD: usize = NONCE + Gcm::TAG;

/// Seals `data` under `key`, bound to `context`: nonce ‖ ciphertext ‖ tag.
pub(crate) fn seal(module: &Module, key: &[u8], context: &[u8], data: &[u8]) -> Result<Vec<u8>, CryptoFault> {
    let mut nonce = [0; NONCE];
    module.random(&mut nonce)?;
    seal_with(key, &nonce, context, data)
}

fn seal_with(key: &[u8], nonce: &[u8; NONCE], context: &[u8], data: &[u8]) -> Result<Vec<u8>, CryptoFault> {
    let (first, second) = nonce.split_at(NONCE / 2);
    let gcm = message_key(key, first).map_err(|Failed| CryptoFault::ModuleFailed)?;
    let mut sealed = Vec::with_capacity(data.len() + OVERHEAD);
    sealed.extend_from_slice(nonce);
    gcm.seal(second, context, data, &mut sealed).map_err(|Failed| CryptoFault::ModuleFailed)?;
    Ok(sealed)
}

/// Opens what [`seal`] made with the same key and context.
pub(crate) fn open(key: &[u8], context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealBroken> {
    if sealed.len() < OVERHEAD {
        return Err(SealBroken::Format);
    }
    let (nonce, ciphertext) = sealed.split_at(NONCE);
    let (first, second) = nonce.split_at(NONCE / 2);
    let gcm = message_key(key, first).map_err(|Failed| SealBroken::Authentication)?;
    gcm.open(second, context, ciphertext).map_err(|Failed| SealBroken::Authentication)
}

/// The key of one message: two CMAC blocks over counter, label and the first half of the nonce. Each CMAC input is one
/// whole block, so that CMAC is one exclusive or with its first subkey and one encryption (SP 800-38B §6.2).
fn message_key(key: &[u8], nonce: &[u8]) -> Result<Gcm, Failed> {
    let schedule = BlockKey::encrypting(key)?;
    let subkey = Zeroizing::new(doubled(schedule.encrypt(&[0; 16])));
    let mut derived = Zeroizing::new([0; KEY]);
    for (counter, output) in (1_u8..).zip(derived.chunks_mut(16)) {
        let mut block = [0; 16];
        block[..4].copy_from_slice(&[0, counter, b'X', 0]);
        block[4..].copy_from_slice(nonce);
        block.iter_mut().zip(subkey.iter()).for_each(|(byte, subkey)| *byte ^= subkey);
        block = schedule.encrypt(&block);
        output.copy_from_slice(&block);
        block.zeroize();
    }
    Gcm::new(&*derived, Gcm::TAG)
}

/// Multiplication by x in GF(2^128) as CMAC does it (SP 800-38B §6.1).
fn doubled(mut block: [u8; 16]) -> [u8; 16] {
    let value = u128::from_be_bytes(block);
    block.zeroize();
    let carry = (value >> 127) * 0x87;
    ((value << 1) ^ carry).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first example of C2SP XAES-256-GCM; its tag depends on every step, so a wrong step cannot give it.
    #[test]
    fn the_construction_gives_the_published_answers() {
        let sealed = seal_with(&[1; 32], b"ABCDEFGHIJKLMNOPQRSTUVWX", b"", b"XAES-256-GCM").unwrap();
        assert_eq!(hex::encode(&sealed[NONCE..]), "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271");
        let sealed =
            seal_with(&[3; 32], b"ABCDEFGHIJKLMNOPQRSTUVWX", b"c2sp.org/XAES-256-GCM", b"XAES-256-GCM").unwrap();
        assert_eq!(hex::encode(&sealed[NONCE..]), "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d");
    }

    #[test]
    fn each_flipped_bit_is_refused() {
        let module = Module::start().unwrap();
        let sealed = seal(&module, &[7; KEY], b"context", b"some secret").unwrap();
        assert_eq!(open(&[7; KEY], b"context", &sealed).unwrap().as_slice(), b"some secret");
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&[7; KEY], b"context", &altered).unwrap_err(), SealBroken::Authentication, "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(open(&[7; KEY], b"context", &sealed[..length]).is_err());
        }
        assert!(open(&[7; KEY], b"another", &sealed).is_err());
        assert!(open(&[8; KEY], b"context", &sealed).is_err());
    }
}
