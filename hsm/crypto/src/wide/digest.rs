//! Hash functions: SHA-1, SHA-2 and SHA-3, at once or in parts.

use aws_lc_sys as c;

use super::owned::Owned;
use super::{Failed, check};

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Sha3_224,
    Sha3_256,
    Sha3_384,
    Sha3_512,
}

/// Bytes of the longest digest.
pub(crate) const LONGEST: usize = 64;

impl Hash {
    /// Bytes of its digest.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 | Self::Sha3_224 => 28,
            Self::Sha256 | Self::Sha3_256 => 32,
            Self::Sha384 | Self::Sha3_384 => 48,
            Self::Sha512 | Self::Sha3_512 => 64,
        }
    }

    /// The library's description of it.
    pub(super) fn descriptor(self) -> *const c::EVP_MD {
        // SAFETY: these functions take nothing and return a pointer to static data.
        unsafe {
            match self {
                Self::Sha1 => c::EVP_sha1(),
                Self::Sha224 => c::EVP_sha224(),
                Self::Sha256 => c::EVP_sha256(),
                Self::Sha384 => c::EVP_sha384(),
                Self::Sha512 => c::EVP_sha512(),
                Self::Sha3_224 => c::EVP_sha3_224(),
                Self::Sha3_256 => c::EVP_sha3_256(),
                Self::Sha3_384 => c::EVP_sha3_384(),
                Self::Sha3_512 => c::EVP_sha3_512(),
            }
        }
    }

    /// The digest of a whole input.
    pub(crate) fn digest(self, data: &[u8]) -> Result<Vec<u8>, Failed> {
        let mut digest = Digest::new(self)?;
        digest.update(data)?;
        digest.finish()
    }
}

/// A digest under way.
pub(crate) struct Digest {
    context: Owned<c::EVP_MD_CTX>,
    hash: Hash,
}

impl Digest {
    /// Begins.
    pub(crate) fn new(hash: Hash) -> Result<Self, Failed> {
        // SAFETY: a fresh object that nobody else owns.
        let context = unsafe { Owned::take(c::EVP_MD_CTX_new()) }?;
        // SAFETY: the context is valid, the descriptor is static, a null engine means none.
        check(unsafe { c::EVP_DigestInit_ex(context.pointer(), hash.descriptor(), std::ptr::null_mut()) })?;
        Ok(Self { context, hash })
    }

    /// Takes more input.
    pub(crate) fn update(&mut self, data: &[u8]) -> Result<(), Failed> {
        // SAFETY: the context was begun; the pointer and length describe a live slice, which is only read.
        check(unsafe { c::EVP_DigestUpdate(self.context.pointer(), data.as_ptr().cast(), data.len()) })
    }

    /// The digest.
    pub(crate) fn finish(self) -> Result<Vec<u8>, Failed> {
        let mut output = [0; LONGEST];
        let mut length = 0;
        // SAFETY: `output` has room for the longest digest (EVP_MAX_MD_SIZE is 64).
        check(unsafe { c::EVP_DigestFinal_ex(self.context.pointer(), output.as_mut_ptr(), &raw mut length) })?;
        debug_assert_eq!(length as usize, self.hash.size());
        Ok(output[..self.hash.size()].to_vec())
    }
}
