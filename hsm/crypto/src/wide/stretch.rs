//! Key derivation from secrets: HKDF and PBKDF2.

use aws_lc_sys as c;
use zeroize::Zeroizing;

use super::digest::{Hash, LONGEST};
use super::{Failed, check};

/// HKDF-Extract (RFC 5869 §2.2).
pub(crate) fn hkdf_extract(hash: Hash, salt: &[u8], secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let mut output = Zeroizing::new(vec![0; LONGEST]);
    let mut length = 0;
    // SAFETY: `output` has room for the longest digest; the slices are live and only read.
    check(unsafe {
        c::HKDF_extract(
            output.as_mut_ptr(),
            &raw mut length,
            hash.descriptor(),
            secret.as_ptr(),
            secret.len(),
            salt.as_ptr(),
            salt.len(),
        )
    })?;
    output.truncate(length);
    Ok(output)
}

/// HKDF-Expand (RFC 5869 §2.3); fails when more than 255 digests are asked for.
pub(crate) fn hkdf_expand(hash: Hash, key: &[u8], info: &[u8], output: &mut [u8]) -> Result<(), Failed> {
    // SAFETY: all slices are live; only `output` is written, within its length.
    check(unsafe {
        c::HKDF_expand(
            output.as_mut_ptr(),
            output.len(),
            hash.descriptor(),
            key.as_ptr(),
            key.len(),
            info.as_ptr(),
            info.len(),
        )
    })
}

/// PBKDF2 with HMAC (RFC 8018 §5.2).
pub(crate) fn pbkdf2(
    hash: Hash,
    password: &[u8],
    salt: &[u8],
    iterations: u32,
    output: &mut [u8],
) -> Result<(), Failed> {
    // SAFETY: all slices are live; only `output` is written, within its length.
    check(unsafe {
        c::PKCS5_PBKDF2_HMAC(
            password.as_ptr().cast(),
            password.len(),
            salt.as_ptr(),
            salt.len(),
            iterations,
            hash.descriptor(),
            output.len(),
            output.as_mut_ptr(),
        )
    })
}
