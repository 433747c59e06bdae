//! AES-GCM on whole messages, with a key that stays expanded.

use aws_lc_sys as c;
use zeroize::Zeroizing;

use super::owned::Owned;
use super::{Failed, check};

/// An expanded AES-GCM key for one tag length. Works for many threads at once.
pub(crate) struct Gcm {
    context: Owned<c::EVP_AEAD_CTX>,
    tag_bytes: usize,
}

// SAFETY: sealing and opening take the context as const and change nothing in it (openssl/aead.h).
unsafe impl Sync for Gcm {}

impl Gcm {
    /// Bytes of the whole tag.
    pub(crate) const TAG: usize = 16;

    /// Expands a key of 16, 24 or 32 bytes; the tag has 1 to 16 bytes.
    pub(crate) fn new(key: &[u8], tag_bytes: usize) -> Result<Self, Failed> {
        if !(1..=Self::TAG).contains(&tag_bytes) {
            return Err(Failed);
        }
        // SAFETY: these functions take nothing and return a pointer to static data.
        let algorithm = unsafe {
            match key.len() {
                16 => c::EVP_aead_aes_128_gcm(),
                24 => c::EVP_aead_aes_192_gcm(),
                32 => c::EVP_aead_aes_256_gcm(),
                _ => return Err(Failed),
            }
        };
        // SAFETY: the key has the length of the algorithm; the object is fresh and nobody else owns it.
        let context = unsafe { Owned::take(c::EVP_AEAD_CTX_new(algorithm, key.as_ptr(), key.len(), tag_bytes)) }?;
        Ok(Self { context, tag_bytes })
    }

    /// Appends ciphertext and tag to `output`. The nonce has one byte or more and must never repeat under one key.
    pub(crate) fn seal(
        &self,
        nonce: &[u8],
        additional: &[u8],
        data: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), Failed> {
        let start = output.len();
        output.resize(start + data.len() + self.tag_bytes, 0);
        let mut length = 0;
        // SAFETY: the output has room for the data and the tag and does not overlap the inputs.
        let status = unsafe {
            c::EVP_AEAD_CTX_seal(
                self.context.pointer(),
                output[start..].as_mut_ptr(),
                &raw mut length,
                data.len() + self.tag_bytes,
                nonce.as_ptr(),
                nonce.len(),
                data.as_ptr(),
                data.len(),
                additional.as_ptr(),
                additional.len(),
            )
        };
        output.truncate(start + length);
        check(status)
    }

    /// Opens ciphertext and tag. Gives out nothing when the tag is wrong.
    pub(crate) fn open(&self, nonce: &[u8], additional: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failed> {
        let mut output = Zeroizing::new(vec![0; sealed.len()]);
        let mut length = 0;
        // SAFETY: the output is as long as the input, which is the library's bound, and does not overlap it.
        check(unsafe {
            c::EVP_AEAD_CTX_open(
                self.context.pointer(),
                output.as_mut_ptr(),
                &raw mut length,
                output.len(),
                nonce.as_ptr(),
                nonce.len(),
                sealed.as_ptr(),
                sealed.len(),
                additional.as_ptr(),
                additional.len(),
            )
        })?;
        output.truncate(length);
        Ok(output)
    }
}
