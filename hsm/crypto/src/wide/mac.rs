//! Message authentication codes: HMAC with every hash, CMAC with AES.

use aws_lc_sys as c;

use super::digest::{Hash, LONGEST};
use super::owned::Owned;
use super::{Failed, check};

/// An HMAC under way (FIPS 198-1).
pub(crate) struct Hmac {
    context: Owned<c::HMAC_CTX>,
}

impl Hmac {
    /// Begins. The key may have any length, also none.
    pub(crate) fn new(hash: Hash, key: &[u8]) -> Result<Self, Failed> {
        // SAFETY: a fresh object that nobody else owns.
        let context = unsafe { Owned::take(c::HMAC_CTX_new()) }?;
        // SAFETY: the key slice is live (never null in Rust, so an empty one is an empty key and not "keep the key").
        check(unsafe {
            c::HMAC_Init_ex(context.pointer(), key.as_ptr().cast(), key.len(), hash.descriptor(), std::ptr::null_mut())
        })?;
        Ok(Self { context })
    }

    /// Takes more input.
    pub(crate) fn update(&mut self, data: &[u8]) -> Result<(), Failed> {
        // SAFETY: the context was begun; the slice is live and only read.
        check(unsafe { c::HMAC_Update(self.context.pointer(), data.as_ptr(), data.len()) })
    }

    /// The code, as long as the hash's digest.
    pub(crate) fn finish(self) -> Result<Vec<u8>, Failed> {
        let mut output = [0; LONGEST];
        let mut length = 0;
        // SAFETY: `output` has room for the longest digest.
        check(unsafe { c::HMAC_Final(self.context.pointer(), output.as_mut_ptr(), &raw mut length) })?;
        Ok(output[..length as usize].to_vec())
    }

    /// The code of a whole input.
    pub(crate) fn of(hash: Hash, key: &[u8], data: &[u8]) -> Result<Vec<u8>, Failed> {
        let mut hmac = Self::new(hash, key)?;
        hmac.update(data)?;
        hmac.finish()
    }
}

/// An AES-CMAC under way (SP 800-38B).
pub(crate) struct Cmac {
    context: Owned<c::CMAC_CTX>,
}

impl Cmac {
    /// Begins, with a key of 16, 24 or 32 bytes.
    pub(crate) fn new(key: &[u8]) -> Result<Self, Failed> {
        let cipher = super::cipher::Mode::Cbc.descriptor(key.len())?;
        // SAFETY: a fresh object that nobody else owns.
        let context = unsafe { Owned::take(c::CMAC_CTX_new()) }?;
        // SAFETY: the key slice has the length that the cipher's descriptor was chosen for.
        check(unsafe {
            c::CMAC_Init(context.pointer(), key.as_ptr().cast(), key.len(), cipher, std::ptr::null_mut())
        })?;
        Ok(Self { context })
    }

    /// Takes more input.
    pub(crate) fn update(&mut self, data: &[u8]) -> Result<(), Failed> {
        // SAFETY: the context was begun; the slice is live and only read.
        check(unsafe { c::CMAC_Update(self.context.pointer(), data.as_ptr(), data.len()) })
    }

    /// The code.
    pub(crate) fn finish(self) -> Result<[u8; 16], Failed> {
        let mut output = [0; 16];
        let mut length = 0;
        // SAFETY: `output` has room for one AES block, which is what CMAC gives.
        check(unsafe { c::CMAC_Final(self.context.pointer(), output.as_mut_ptr(), &raw mut length) })?;
        Ok(output)
    }

    /// The code of a whole input.
    pub(crate) fn of(key: &[u8], data: &[u8]) -> Result<[u8; 16], Failed> {
        let mut cmac = Self::new(key)?;
        cmac.update(data)?;
        cmac.finish()
    }
}
