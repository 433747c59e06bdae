//! Ed25519 (RFC 8032) and X25519 (RFC 7748).

use aws_lc_sys as c;

use super::{Failed, check};
use crate::secret::SecretBytes;

/// Bytes of a seed, a private scalar and a public key.
pub(crate) const KEY: usize = 32;
/// Bytes of a signature.
pub(crate) const SIGNATURE: usize = 64;

/// Which of the three signature schemes of RFC 8032 §5.1.
#[derive(Clone, Copy)]
pub(crate) enum Scheme<'a> {
    /// Ed25519.
    Pure,
    /// Ed25519ctx.
    Context(&'a [u8]),
    /// Ed25519ph, with a context that may be empty. The library hashes the message.
    Prehash(&'a [u8]),
}

/// An Ed25519 private key: the seed and the public key, expanded once.
pub(crate) struct SigningKey {
    /// Seed ‖ public key, as the library wants it.
    pair: SecretBytes,
}

impl SigningKey {
    /// The key of a seed.
    pub(crate) fn from_seed(seed: &[u8; KEY]) -> Self {
        let mut public = [0; KEY];
        let mut pair = SecretBytes::zeros(2 * KEY);
        // SAFETY: the three arrays have the 32, 64 and 32 bytes that the function works on.
        unsafe {
            c::ED25519_keypair_from_seed(public.as_mut_ptr(), pair.expose_mut().as_mut_ptr(), seed.as_ptr());
        }
        Self { pair }
    }

    /// Its public key.
    pub(crate) fn public(&self) -> &[u8] {
        &self.pair.expose()[KEY..]
    }

    /// Signs.
    pub(crate) fn sign(&self, scheme: Scheme<'_>, message: &[u8]) -> Result<Vec<u8>, Failed> {
        let mut signature = vec![0; SIGNATURE];
        let (output, key) = (signature.as_mut_ptr(), self.pair.expose().as_ptr());
        let (data, length) = (message.as_ptr(), message.len());
        // SAFETY: the signature has 64 bytes, the key 64; the other slices are live and only read.
        check(unsafe {
            match scheme {
                Scheme::Pure => c::ED25519_sign(output, data, length, key),
                Scheme::Context(context) => {
                    c::ED25519ctx_sign(output, data, length, key, context.as_ptr(), context.len())
                }
                Scheme::Prehash(context) => {
                    c::ED25519ph_sign(output, data, length, key, context.as_ptr(), context.len())
                }
            }
        })?;
        Ok(signature)
    }
}

/// Whether an Ed25519 signature is right.
pub(crate) fn verify(scheme: Scheme<'_>, public: &[u8; KEY], message: &[u8], signature: &[u8; SIGNATURE]) -> bool {
    let (data, length) = (message.as_ptr(), message.len());
    let (signature, key) = (signature.as_ptr(), public.as_ptr());
    // SAFETY: signature and key have their 64 and 32 bytes; the other slices are live; everything is only read.
    check(unsafe {
        match scheme {
            Scheme::Pure => c::ED25519_verify(data, length, signature, key),
            Scheme::Context(context) => {
                c::ED25519ctx_verify(data, length, signature, key, context.as_ptr(), context.len())
            }
            Scheme::Prehash(context) => {
                c::ED25519ph_verify(data, length, signature, key, context.as_ptr(), context.len())
            }
        }
    })
    .is_ok()
}

/// The public key of an X25519 private key.
pub(crate) fn x25519_public(private: &[u8; KEY]) -> [u8; KEY] {
    let mut public = [0; KEY];
    // SAFETY: both arrays have 32 bytes.
    unsafe { c::X25519_public_from_private(public.as_mut_ptr(), private.as_ptr()) };
    public
}

/// The shared secret of X25519. Fails when it is all zeros, which a peer's point of small order makes (RFC 7748 §6.1).
pub(crate) fn x25519(private: &[u8; KEY], peer: &[u8; KEY]) -> Result<SecretBytes, Failed> {
    let mut shared = SecretBytes::zeros(KEY);
    // SAFETY: the three arrays have 32 bytes.
    check(unsafe { c::X25519(shared.expose_mut().as_mut_ptr(), private.as_ptr(), peer.as_ptr()) })?;
    Ok(shared)
}
