//! What an HSM measures of its own program, and the signature of a release over it.
//!
//! A measurement that a process makes of itself proves nothing against whoever controls the host: it keeps wrong, altered
//! and old builds out (`SECURITY.md`).

use std::io::Read;

use aws_lc_rs::digest::{Context, SHA384};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use crate::fault::CryptoFault;
use crate::wide::edwards::{self, Scheme};

/// Bytes of a measurement: SHA-384.
pub const MEASUREMENT_BYTES: usize = 48;

/// Bytes of an Ed25519 signature (RFC 8032 §5.1.6).
pub const RELEASE_SIGNATURE_BYTES: usize = 64;

/// What a release's key signs: `kagimori release 1 ‖ 0 ‖ version ‖ 0 ‖ SHA-384 of the program`. A version has no 0 octet.
pub fn release_statement(version: &str, measurement: &[u8; MEASUREMENT_BYTES]) -> Vec<u8> {
    [b"kagimori release 1\0", version.as_bytes(), b"\0", measurement].concat()
}

/// SHA-384 of everything that this reader gives.
///
/// # Errors
/// When reading fails.
pub fn measure(mut program: impl Read) -> std::io::Result<[u8; MEASUREMENT_BYTES]> {
    let mut context = Context::new(&SHA384);
    let mut piece = vec![0; 256 * 1024];
    loop {
        match program.read(&mut piece)? {
            0 => break,
            count => context.update(&piece[..count]),
        }
    }
    let mut measurement = [0; MEASUREMENT_BYTES];
    measurement.copy_from_slice(context.finish().as_ref());
    Ok(measurement)
}

/// Whether this key signed a release of this version with this measurement.
pub fn verify_release(
    key: &[u8; 32],
    version: &str,
    measurement: &[u8; MEASUREMENT_BYTES],
    signature: &[u8; RELEASE_SIGNATURE_BYTES],
) -> bool {
    !version.contains('\0') && edwards::verify(Scheme::Pure, key, &release_statement(version, measurement), signature)
}

/// Signs a release with a key of 32 octets (RFC 8032 §5.1.5); gives the public key and the signature.
///
/// # Errors
/// [`CryptoFault::ModuleFailed`].
pub fn sign_release(
    seed: &[u8; 32],
    version: &str,
    measurement: &[u8; MEASUREMENT_BYTES],
) -> Result<([u8; 32], [u8; RELEASE_SIGNATURE_BYTES]), CryptoFault> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| CryptoFault::ModuleFailed)?;
    let (mut key, mut signature) = ([0; 32], [0; RELEASE_SIGNATURE_BYTES]);
    key.copy_from_slice(pair.public_key().as_ref());
    signature.copy_from_slice(pair.sign(&release_statement(version, measurement)).as_ref());
    Ok((key, signature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_for_one_version_one_program_and_one_key() {
        let (program, seed) = (measure(&b"a program"[..]).unwrap(), [7; 32]);
        let (key, signature) = sign_release(&seed, "1.2.3", &program).unwrap();
        assert!(verify_release(&key, "1.2.3", &program, &signature));
        let altered = measure(&b"A program"[..]).unwrap();
        assert!(!verify_release(&key, "1.2.3", &altered, &signature), "another program");
        assert!(!verify_release(&key, "1.2.4", &program, &signature), "another version");
        let (other, _) = sign_release(&[8; 32], "1.2.3", &program).unwrap();
        assert!(!verify_release(&other, "1.2.3", &program, &signature), "another key");
        let mut flipped = signature;
        flipped[0] ^= 1;
        assert!(!verify_release(&key, "1.2.3", &program, &flipped));
    }

    #[test]
    fn a_measurement_is_the_hash_of_all_octets() {
        // SHA-384 of "abc": FIPS 180-4's example.
        let measured = measure(&b"abc"[..]).unwrap();
        assert_eq!(&measured[..8], &[0xcb, 0x00, 0x75, 0x3f, 0x45, 0xa3, 0x5e, 0x8b]);
        assert_ne!(measure(&vec![0; 300_000][..]).unwrap(), measure(&vec![0; 300_001][..]).unwrap());
    }
}
