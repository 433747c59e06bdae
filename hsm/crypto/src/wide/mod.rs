//! Safe functions over the C interface of AWS-LC: the only place of this crate that calls foreign code.
//!
//! Covers what the safe interface of `aws-lc-rs` lacks: raw RSA, digests of any length under ECDSA, GCM in parts and with
//! any IV, key wrap, SHA-3 under everything. It knows nothing of PKCS#11, objects or permits; its callers are the files of
//! `mechanism/`, `random/` and `sealing/`. Every object frees itself, key objects wipe themselves (AWS-LC wipes whatever
//! it frees), and every failure empties the library's error queue, which lives per thread and would otherwise grow.

pub(crate) mod aead;
pub(crate) mod big;
pub(crate) mod block;
pub(crate) mod cipher;
pub(crate) mod digest;
pub(crate) mod edwards;
pub(crate) mod elliptic;
pub(crate) mod encoding;
pub(crate) mod mac;
pub(crate) mod owned;
pub(crate) mod rsa;
pub(crate) mod stretch;

pub(crate) use aead::Gcm;
pub(crate) use cipher::{Cipher, Direction, Mode};
pub(crate) use digest::{Digest, Hash};
pub(crate) use elliptic::{EcKey, NamedCurve};
pub(crate) use mac::{Cmac, Hmac};
pub(crate) use rsa::Rsa;

/// The library said no. Which no it was is for the caller to know from what he asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

/// Turns the library's "1 is success" into a result.
fn check(status: std::ffi::c_int) -> Result<(), Failed> {
    if status == 1 { Ok(()) } else { Err(failed()) }
}

/// Empties the error queue and returns the failure.
fn failed() -> Failed {
    // SAFETY: touches only the calling thread's error queue.
    unsafe { aws_lc_sys::ERR_clear_error() };
    Failed
}

/// A length as the library's `int`.
fn int(length: usize) -> Result<std::ffi::c_int, Failed> {
    std::ffi::c_int::try_from(length).map_err(|_| Failed)
}

/// Whether two byte strings are equal, in a time that depends on their lengths only.
pub(crate) fn equal(one: &[u8], other: &[u8]) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one, other).is_ok()
}
