//! AES in the modes that work in parts: ECB, CBC, CTR and GCM. Padding is the caller's affair.

use aws_lc_sys as c;

use super::owned::Owned;
use super::{Failed, check, int};

/// A mode of AES.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Ecb,
    Cbc,
    Ctr,
    Gcm,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Encrypt,
    Decrypt,
}

impl Mode {
    /// The library's description of the mode for a key of so many bytes.
    pub(super) fn descriptor(self, key_bytes: usize) -> Result<*const c::EVP_CIPHER, Failed> {
        // SAFETY: these functions take nothing and return a pointer to static data.
        Ok(unsafe {
            match (self, key_bytes) {
                (Self::Ecb, 16) => c::EVP_aes_128_ecb(),
                (Self::Ecb, 24) => c::EVP_aes_192_ecb(),
                (Self::Ecb, 32) => c::EVP_aes_256_ecb(),
                (Self::Cbc, 16) => c::EVP_aes_128_cbc(),
                (Self::Cbc, 24) => c::EVP_aes_192_cbc(),
                (Self::Cbc, 32) => c::EVP_aes_256_cbc(),
                (Self::Ctr, 16) => c::EVP_aes_128_ctr(),
                (Self::Ctr, 24) => c::EVP_aes_192_ctr(),
                (Self::Ctr, 32) => c::EVP_aes_256_ctr(),
                (Self::Gcm, 16) => c::EVP_aes_128_gcm(),
                (Self::Gcm, 24) => c::EVP_aes_192_gcm(),
                (Self::Gcm, 32) => c::EVP_aes_256_gcm(),
                _ => return Err(Failed),
            }
        })
    }
}

/// A cipher under way.
pub(crate) struct Cipher {
    context: Owned<c::EVP_CIPHER_CTX>,
}

impl Cipher {
    /// Begins, with a key of 16, 24 or 32 bytes. The IV is empty for ECB, one block for CBC and CTR, any length from 1
    /// byte for GCM.
    pub(crate) fn new(mode: Mode, key: &[u8], iv: &[u8], direction: Direction) -> Result<Self, Failed> {
        let fits = match mode {
            Mode::Ecb => iv.is_empty(),
            Mode::Cbc | Mode::Ctr => iv.len() == 16,
            Mode::Gcm => !iv.is_empty(),
        };
        let descriptor = mode.descriptor(key.len())?;
        if !fits {
            return Err(Failed);
        }
        let way = i32::from(direction == Direction::Encrypt);
        // SAFETY: a fresh object that nobody else owns.
        let context = unsafe { Owned::take(c::EVP_CIPHER_CTX_new()) }?;
        let null = std::ptr::null();
        // SAFETY: the key has the length of the descriptor and the IV the length of the mode, which for GCM is set between
        // the two calls; a null argument means "later" or "as before".
        unsafe {
            check(c::EVP_CipherInit_ex(context.pointer(), descriptor, std::ptr::null_mut(), null, null, way))?;
            if mode == Mode::Gcm {
                let set_length = c::EVP_CTRL_AEAD_SET_IVLEN;
                let length = int(iv.len())?;
                check(c::EVP_CIPHER_CTX_ctrl(context.pointer(), set_length, length, std::ptr::null_mut()))?;
            }
            check(c::EVP_CipherInit_ex(
                context.pointer(),
                null.cast(),
                std::ptr::null_mut(),
                key.as_ptr(),
                iv.as_ptr(),
                way,
            ))?;
            check(c::EVP_CIPHER_CTX_set_padding(context.pointer(), 0))?;
        }
        Ok(Self { context })
    }

    /// Takes additional data of GCM, before any input.
    pub(crate) fn additional_data(&mut self, data: &[u8]) -> Result<(), Failed> {
        let mut length = 0;
        // SAFETY: a null output tells the library that the input is additional data; the slice is live.
        check(unsafe {
            c::EVP_CipherUpdate(
                self.context.pointer(),
                std::ptr::null_mut(),
                &raw mut length,
                data.as_ptr(),
                int(data.len())?,
            )
        })
    }

    /// Works on more input and appends what comes out to `output`.
    pub(crate) fn update(&mut self, data: &[u8], output: &mut Vec<u8>) -> Result<(), Failed> {
        if data.is_empty() {
            return Ok(());
        }
        let start = output.len();
        // A mode in blocks may give out one block more than it takes.
        output.resize(start + data.len() + 16, 0);
        let mut length = 0;
        // SAFETY: the output has room for the input and one block, which is the library's bound.
        let status = unsafe {
            c::EVP_CipherUpdate(
                self.context.pointer(),
                output[start..].as_mut_ptr(),
                &raw mut length,
                data.as_ptr(),
                int(data.len())?,
            )
        };
        let written = usize::try_from(length).unwrap_or(0);
        output.truncate(if status == 1 { start + written } else { start });
        check(status)
    }

    /// Ends. Fails when a block is incomplete.
    pub(crate) fn finish(&mut self) -> Result<(), Failed> {
        let mut rest = [0; 16];
        let mut length = 0;
        // SAFETY: without padding nothing is written; one block is the library's bound in any case.
        check(unsafe { c::EVP_CipherFinal_ex(self.context.pointer(), rest.as_mut_ptr(), &raw mut length) })
    }

    /// The whole tag of a GCM encryption that was finished.
    pub(crate) fn tag(&mut self) -> Result<[u8; 16], Failed> {
        let mut tag = [0; 16];
        // SAFETY: the tag has the 16 bytes that are asked for.
        check(unsafe {
            c::EVP_CIPHER_CTX_ctrl(self.context.pointer(), c::EVP_CTRL_AEAD_GET_TAG, 16, tag.as_mut_ptr().cast())
        })?;
        Ok(tag)
    }
}
