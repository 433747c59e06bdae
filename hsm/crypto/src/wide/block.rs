//! AES on single blocks, and the key wraps built on it.

use aws_lc_sys as c;
use zeroize::Zeroizing;

use super::{Failed, check, failed};

/// An expanded AES encryption key. Boxed so that it never moves, and wiped when it goes.
pub(crate) struct BlockKey(Box<c::AES_KEY>);

impl BlockKey {
    /// Expands a key of 16, 24 or 32 bytes for encryption.
    pub(crate) fn encrypting(key: &[u8]) -> Result<Self, Failed> {
        Self::expand(key, |bytes, bits, schedule| {
            // SAFETY: `bits` is the length of `bytes`, and `schedule` is a live AES_KEY.
            unsafe { c::AES_set_encrypt_key(bytes, bits, schedule) }
        })
    }

    /// Expands a key of 16, 24 or 32 bytes for decryption.
    pub(crate) fn decrypting(key: &[u8]) -> Result<Self, Failed> {
        Self::expand(key, |bytes, bits, schedule| {
            // SAFETY: `bits` is the length of `bytes`, and `schedule` is a live AES_KEY.
            unsafe { c::AES_set_decrypt_key(bytes, bits, schedule) }
        })
    }

    fn expand(key: &[u8], with: impl Fn(*const u8, u32, *mut c::AES_KEY) -> i32) -> Result<Self, Failed> {
        let bits = match key.len() {
            16 => 128,
            24 => 192,
            32 => 256,
            _ => return Err(Failed),
        };
        // SAFETY: AES_KEY is plain integers, for which all zeros is a value.
        let mut schedule: Box<c::AES_KEY> = Box::new(unsafe { std::mem::zeroed() });
        // Unlike the rest of the library these two answer 0 for success.
        if with(key.as_ptr(), bits, &raw mut *schedule) == 0 { Ok(Self(schedule)) } else { Err(failed()) }
    }

    /// Encrypts one block; the key must be an encrypting one.
    pub(crate) fn encrypt(&self, block: &[u8; 16]) -> [u8; 16] {
        let mut output = [0; 16];
        // SAFETY: both blocks have 16 bytes and the key is expanded.
        unsafe { c::AES_encrypt(block.as_ptr(), output.as_mut_ptr(), &raw const *self.0) };
        output
    }

    /// Fills `output` with the key stream of counter mode, from `counter` on (all 128 bits count, big-endian).
    pub(crate) fn key_stream(&self, counter: &[u8; 16], output: &mut [u8]) {
        output.fill(0);
        let mut counter = *counter;
        let mut rest = Zeroizing::new([0; 16]);
        let mut position = 0;
        // SAFETY: in and out are the same live slice, which the function allows; counter and rest have 16 bytes.
        unsafe {
            c::AES_ctr128_encrypt(
                output.as_ptr(),
                output.as_mut_ptr(),
                output.len(),
                &raw const *self.0,
                counter.as_mut_ptr(),
                rest.as_mut_ptr(),
                &raw mut position,
            );
        }
    }
}

impl Drop for BlockKey {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the boxed schedule.
        unsafe { c::OPENSSL_cleanse((&raw mut *self.0).cast(), size_of::<c::AES_KEY>()) };
    }
}

/// Bytes that a key wrap adds.
const WRAP_OVERHEAD: usize = 8;

/// AES-KW (RFC 3394) with an 8-byte initial value; `None` is the standard one. `data` is 16 bytes or more, in eights.
pub(crate) fn wrap(key: &[u8], initial: Option<&[u8; 8]>, data: &[u8]) -> Result<Vec<u8>, Failed> {
    let schedule = BlockKey::encrypting(key)?;
    let mut output = vec![0; data.len() + WRAP_OVERHEAD];
    let initial = initial.map_or(std::ptr::null(), |initial| initial.as_ptr());
    // SAFETY: `output` has eight bytes more than `data`, as the function demands; a null initial value is the standard one.
    let length =
        unsafe { c::AES_wrap_key(&raw const *schedule.0, initial, output.as_mut_ptr(), data.as_ptr(), data.len()) };
    if usize::try_from(length) == Ok(output.len()) { Ok(output) } else { Err(failed()) }
}

/// Undoes [`wrap`].
pub(crate) fn unwrap(key: &[u8], initial: Option<&[u8; 8]>, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let schedule = BlockKey::decrypting(key)?;
    let length = data.len().checked_sub(WRAP_OVERHEAD).ok_or(Failed)?;
    let mut output = Zeroizing::new(vec![0; length]);
    let initial = initial.map_or(std::ptr::null(), |initial| initial.as_ptr());
    // SAFETY: `output` has eight bytes less than `data`, as the function demands.
    let written =
        unsafe { c::AES_unwrap_key(&raw const *schedule.0, initial, output.as_mut_ptr(), data.as_ptr(), data.len()) };
    if usize::try_from(written) == Ok(length) { Ok(output) } else { Err(failed()) }
}

/// AES-KWP (RFC 5649): one byte or more.
pub(crate) fn wrap_padded(key: &[u8], data: &[u8]) -> Result<Vec<u8>, Failed> {
    let schedule = BlockKey::encrypting(key)?;
    let mut output = vec![0; data.len().next_multiple_of(8) + WRAP_OVERHEAD];
    let mut length = 0;
    // SAFETY: `output` has the capacity that is passed beside it.
    check(unsafe {
        c::AES_wrap_key_padded(
            &raw const *schedule.0,
            output.as_mut_ptr(),
            &raw mut length,
            output.len(),
            data.as_ptr(),
            data.len(),
        )
    })?;
    output.truncate(length);
    Ok(output)
}

/// Undoes [`wrap_padded`].
pub(crate) fn unwrap_padded(key: &[u8], data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Failed> {
    let schedule = BlockKey::decrypting(key)?;
    let mut output = Zeroizing::new(vec![0; data.len()]);
    let mut length = 0;
    // SAFETY: `output` has the capacity that is passed beside it.
    check(unsafe {
        c::AES_unwrap_key_padded(
            &raw const *schedule.0,
            output.as_mut_ptr(),
            &raw mut length,
            output.len(),
            data.as_ptr(),
            data.len(),
        )
    })?;
    output.truncate(length);
    Ok(output)
}
