//! Memory for secrets: what holds them wipes them, and nothing prints, copies or serializes them.
//!
//! [`SecretBytes`] is for key material in passing and beside its object (the heap, wiped on drop). [`pages::Pages`] is
//! for the cluster master key and the working keys: memory that the kernel itself takes out of its own view
//! (`memfd_secret`), or locked memory that is in no core and no child. Nothing here does cryptography.

pub(crate) mod pages;
#[cfg(test)]
pub(crate) mod watch;

use zeroize::Zeroize;

pub use pages::MemoryKind;

/// Bytes that nobody but the holder should see. Wiped on drop; no `Clone`, `Debug`, `PartialEq` or `Serialize`.
pub struct SecretBytes(Box<[u8]>);

impl SecretBytes {
    /// Copies bytes into a box of exactly their length. The caller wipes his own.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// So many zeros, to be filled.
    pub(crate) fn zeros(length: usize) -> Self {
        Self(vec![0; length].into_boxed_slice())
    }

    /// The bytes. One word to search for where secrets come out.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, to be filled.
    pub(crate) fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for SecretBytes {
    /// Takes the bytes and wipes the vector that they came in (also its spare capacity).
    fn from(mut bytes: Vec<u8>) -> Self {
        let secret = Self::copy_of(&bytes);
        bytes.zeroize();
        secret
    }
}

impl From<zeroize::Zeroizing<Vec<u8>>> for SecretBytes {
    fn from(bytes: zeroize::Zeroizing<Vec<u8>>) -> Self {
        Self::copy_of(&bytes)
    }
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
