//! secp256k1 by `k256`, which is seven times faster than AWS-LC on this curve and constant-time by design.

use k256::ecdsa::signature::hazmat::{PrehashSigner, PrehashVerifier};
use k256::ecdsa::{Signature, SigningKey, VerifyingKey};

use crate::secret::SecretBytes;
use crate::wide::Failed;

/// Bytes of a scalar and of half a signature.
const SCALAR: usize = 32;

/// A private key. `k256` wipes it on drop.
pub(crate) struct PrivateKey(SigningKey);

/// A public key.
pub(crate) struct PublicKey(VerifyingKey);

impl PrivateKey {
    /// The key of a scalar (big-endian, without leading zeros or with). Fails when it is not in [1, n - 1].
    pub(crate) fn from_scalar(scalar: &[u8]) -> Result<Self, Failed> {
        let first = scalar.iter().position(|&byte| byte != 0).unwrap_or(scalar.len());
        let significant = &scalar[first..];
        let mut padded = SecretBytes::zeros(SCALAR);
        let start = SCALAR.checked_sub(significant.len()).ok_or(Failed)?;
        padded.expose_mut()[start..].copy_from_slice(significant);
        SigningKey::from_slice(padded.expose()).map(Self).map_err(|_| Failed)
    }

    /// The scalar.
    pub(crate) fn scalar(&self) -> SecretBytes {
        let bytes = zeroize::Zeroizing::new(<[u8; SCALAR]>::from(self.0.to_bytes()));
        SecretBytes::copy_of(&*bytes)
    }

    /// The public key.
    pub(crate) fn public(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }

    /// Signs a digest of any length, deterministically (RFC 6979): r ‖ s.
    pub(crate) fn sign(&self, digest: &[u8]) -> Result<Vec<u8>, Failed> {
        let signature: Signature = self.0.sign_prehash(&leftmost(digest)).map_err(|_| Failed)?;
        Ok(signature.to_bytes().to_vec())
    }

    /// The x-coordinate of the shared point.
    pub(crate) fn agree(&self, peer: &PublicKey) -> SecretBytes {
        let shared = k256::ecdh::diffie_hellman(self.0.as_nonzero_scalar(), peer.0.as_affine());
        SecretBytes::copy_of(shared.raw_secret_bytes())
    }
}

impl PublicKey {
    /// The key of a point, compressed or not. Fails when it is not on the curve.
    pub(crate) fn from_point(point: &[u8]) -> Result<Self, Failed> {
        VerifyingKey::from_sec1_bytes(point).map(Self).map_err(|_| Failed)
    }

    /// The point, uncompressed.
    pub(crate) fn point(&self) -> Vec<u8> {
        self.0.to_sec1_point(false).as_bytes().to_vec()
    }

    /// Whether r and s, each at most 32 bytes, are a signature of the digest. Takes high s as well, which `k256` by itself
    /// refuses: (r, n - s) is as good a signature, and other makers do not care.
    pub(crate) fn verify(&self, digest: &[u8], r: &[u8], s: &[u8]) -> bool {
        let (Some(r), Some(s)) = (fixed(r), fixed(s)) else { return false };
        Signature::from_scalars(r, s)
            .is_ok_and(|signature| self.0.verify_prehash(&leftmost(digest), &signature.normalize_s()).is_ok())
    }
}

/// The leftmost 256 bits of a digest as a number of 32 bytes (FIPS 186-5 §6.4.1).
fn leftmost(digest: &[u8]) -> [u8; SCALAR] {
    let used = &digest[..digest.len().min(SCALAR)];
    let mut number = [0; SCALAR];
    number[SCALAR - used.len()..].copy_from_slice(used);
    number
}

fn fixed(number: &[u8]) -> Option<[u8; SCALAR]> {
    let mut output = [0; SCALAR];
    let start = SCALAR.checked_sub(number.len())?;
    output[start..].copy_from_slice(number);
    Some(output)
}
