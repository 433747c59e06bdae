//! Ownership of the library's heap objects.

use std::ptr::NonNull;

use aws_lc_sys as c;

use super::{Failed, failed};

/// A heap object of the library that is freed when it goes.
pub(crate) struct Owned<T: Free>(NonNull<T>);

/// How a type of the library is freed.
pub(crate) trait Free {
    /// Frees it.
    ///
    /// # Safety
    /// `object` came from the library's constructor for this type and is not used afterwards.
    unsafe fn free(object: *mut Self);
}

impl<T: Free> Owned<T> {
    /// Takes what a constructor returned; null means that it failed.
    ///
    /// # Safety
    /// `object` is null, or the caller hands over its only owning pointer.
    pub(super) unsafe fn take(object: *mut T) -> Result<Self, Failed> {
        NonNull::new(object).map(Self).ok_or_else(failed)
    }

    /// The pointer, for calls.
    pub(super) fn pointer(&self) -> *mut T {
        self.0.as_ptr()
    }

    /// Gives the object away: somebody else frees it.
    pub(super) fn release(self) -> *mut T {
        std::mem::ManuallyDrop::new(self).0.as_ptr()
    }
}

impl<T: Free> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: `take` was given the only owning pointer, and nobody uses it after this.
        unsafe { T::free(self.0.as_ptr()) }
    }
}

// SAFETY: the library's objects are not tied to the thread that made them.
unsafe impl<T: Free> Send for Owned<T> {}

macro_rules! freed_by {
    ($($type:ident => $free:ident;)+) => {
        $(impl Free for c::$type {
            unsafe fn free(object: *mut Self) {
                // SAFETY: the caller's promise is the library's demand.
                unsafe { c::$free(object) };
            }
        })+
    };
}

freed_by! {
    BIGNUM => BN_clear_free;
    BN_CTX => BN_CTX_free;
    CMAC_CTX => CMAC_CTX_free;
    EC_KEY => EC_KEY_free;
    EC_POINT => EC_POINT_clear_free;
    ECDSA_SIG => ECDSA_SIG_free;
    EVP_AEAD_CTX => EVP_AEAD_CTX_free;
    EVP_CIPHER_CTX => EVP_CIPHER_CTX_free;
    EVP_MD_CTX => EVP_MD_CTX_free;
    EVP_PKEY => EVP_PKEY_free;
    EVP_PKEY_CTX => EVP_PKEY_CTX_free;
    HMAC_CTX => HMAC_CTX_free;
    RSA => RSA_free;
}
