//! The caller's memory: every pointer that crosses the C border is read and written here, byte by byte.
//!
//! Nothing here keeps a reference into the caller's memory: other threads of the application may write to it, an
//! output may be the input's own buffer, and a pointer may be misaligned. Input is copied out, output copied in. It
//! cannot see whether an address is mapped; that a pointer is good for its length is what the caller of a `C_` function
//! promises (PKCS#11 3.2 §5.1). It must not know what the bytes mean.

#![expect(unsafe_code, reason = "the C border: the only place where the caller's pointers are followed")]

use cryptoki_sys::{CK_ULONG, CK_UNAVAILABLE_INFORMATION, CKR_ARGUMENTS_BAD, CKR_BUFFER_TOO_SMALL, CKR_HOST_MEMORY};

use crate::return_value::{Outcome, refuse};

const _: () = assert!(size_of::<CK_ULONG>() == size_of::<u64>(), "CK_ULONG of 64 bits is assumed");

/// Bytes that the caller offers for reading.
#[derive(Clone, Copy)]
pub struct Input {
    pointer: *const u8,
    length: usize,
}

impl Input {
    /// Takes a pointer with its length. NULL is fine for a length of 0: PyKCS11 passes it for empty input.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD` for NULL with a length, or a length that no memory has.
    ///
    /// # Safety
    /// `pointer` is NULL or readable for `length` bytes for as long as this value is used.
    pub unsafe fn new(pointer: *const u8, length: CK_ULONG) -> Outcome<Self> {
        match usize::try_from(length) {
            Ok(0) => Ok(Self { pointer: std::ptr::null(), length: 0 }),
            Ok(length) if !pointer.is_null() && isize::try_from(length).is_ok() => Ok(Self { pointer, length }),
            _ => refuse(CKR_ARGUMENTS_BAD),
        }
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All bytes.
    ///
    /// # Errors
    /// `CKR_HOST_MEMORY` when there is no memory for a copy.
    pub fn copy(&self) -> Outcome<Vec<u8>> {
        self.copy_range(0, self.length)
    }

    /// `length` bytes from `start`, cut at the end of the input.
    ///
    /// # Errors
    /// `CKR_HOST_MEMORY` when there is no memory for a copy.
    pub fn copy_range(&self, start: usize, length: usize) -> Outcome<Vec<u8>> {
        let mut copy = Vec::new();
        self.append_range(start, length, &mut copy)?;
        Ok(copy)
    }

    /// Appends all bytes to `out`.
    ///
    /// # Errors
    /// `CKR_HOST_MEMORY` when there is no memory for a copy.
    pub fn append_to(&self, out: &mut Vec<u8>) -> Outcome {
        self.append_range(0, self.length, out)
    }

    fn append_range(&self, start: usize, length: usize, out: &mut Vec<u8>) -> Outcome {
        let start = start.min(self.length);
        let length = length.min(self.length - start);
        if length == 0 {
            return Ok(());
        }
        let before = out.len();
        if out.try_reserve(length).is_err() {
            return refuse(CKR_HOST_MEMORY);
        }
        // SAFETY: the source is readable for `self.length` bytes (promised at `new`) and `start + length` is within it;
        // the destination has `length` bytes of reserved capacity, of which all are written before the length is set.
        unsafe {
            std::ptr::copy_nonoverlapping(self.pointer.add(start), out.as_mut_ptr().add(before), length);
            out.set_len(before + length);
        }
        Ok(())
    }
}

/// A buffer that the caller offers for a result, with the place of its length: the convention of PKCS#11 3.2 §5.2.
#[derive(Clone, Copy)]
pub struct Output {
    buffer: *mut u8,
    length: *mut CK_ULONG,
}

impl Output {
    /// Takes a buffer and its length's place. A NULL buffer asks for the length alone.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD` when the length has no place.
    ///
    /// # Safety
    /// `length` is NULL, or readable and writable; `buffer` is NULL or writable for `*length` bytes.
    pub unsafe fn new(buffer: *mut u8, length: *mut CK_ULONG) -> Outcome<Self> {
        if length.is_null() { refuse(CKR_ARGUMENTS_BAD) } else { Ok(Self { buffer, length }) }
    }

    /// Bytes that fit; `None` when the caller only asks for the length.
    pub fn capacity(&self) -> Option<usize> {
        if self.buffer.is_null() {
            return None;
        }
        // SAFETY: `length` is readable (promised at `new`) and need not be aligned.
        let length = unsafe { self.length.read_unaligned() };
        Some(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// Tells a length without giving bytes.
    pub fn announce(&self, length: usize) {
        // SAFETY: `length` is writable (promised at `new`) and need not be aligned.
        unsafe { self.length.write_unaligned(length as CK_ULONG) }
    }

    /// Gives the bytes and their number; to a caller who asks for the length, only that.
    ///
    /// # Errors
    /// `CKR_BUFFER_TOO_SMALL`, with the length needed in its place.
    pub fn give(&self, bytes: &[u8]) -> Outcome {
        match self.capacity() {
            None => self.announce(bytes.len()),
            Some(capacity) if capacity < bytes.len() => {
                self.announce(bytes.len());
                return refuse(CKR_BUFFER_TOO_SMALL);
            }
            Some(_) => {
                // SAFETY: the buffer is writable for the length that the caller gave (promised at `new`), which is no
                // less than that of `bytes`; our own bytes cannot overlap the caller's buffer.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.buffer, bytes.len()) }
                self.announce(bytes.len());
            }
        }
        Ok(())
    }
}

/// Reads a value of a C type.
///
/// # Errors
/// `CKR_ARGUMENTS_BAD` for NULL.
///
/// # Safety
/// `pointer` is NULL or readable for one `T`, of which every bit pattern is a value.
pub unsafe fn read<T: Copy>(pointer: *const T) -> Outcome<T> {
    if pointer.is_null() {
        return refuse(CKR_ARGUMENTS_BAD);
    }
    // SAFETY: promised by the caller; alignment is not assumed.
    Ok(unsafe { pointer.read_unaligned() })
}

/// Writes a value of a C type.
///
/// # Errors
/// `CKR_ARGUMENTS_BAD` for NULL.
///
/// # Safety
/// `pointer` is NULL or writable for one `T`.
pub unsafe fn write<T: Copy>(pointer: *mut T, value: T) -> Outcome {
    if pointer.is_null() {
        return refuse(CKR_ARGUMENTS_BAD);
    }
    // SAFETY: promised by the caller; alignment is not assumed.
    unsafe { pointer.write_unaligned(value) };
    Ok(())
}

/// Writes bytes where the caller gave a pointer and the length is fixed by the call.
///
/// # Errors
/// `CKR_ARGUMENTS_BAD` for NULL with bytes to write.
///
/// # Safety
/// `pointer` is NULL or writable for `bytes.len()` bytes.
pub unsafe fn write_bytes(pointer: *mut u8, bytes: &[u8]) -> Outcome {
    if bytes.is_empty() {
        return Ok(());
    }
    if pointer.is_null() {
        return refuse(CKR_ARGUMENTS_BAD);
    }
    // SAFETY: promised by the caller; our own bytes cannot overlap the caller's buffer.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, bytes.len()) };
    Ok(())
}

/// A list of numbers that the caller wants, or their count: `C_GetSlotList`, `C_GetMechanismList`.
///
/// # Errors
/// `CKR_ARGUMENTS_BAD` when the count has no place, `CKR_BUFFER_TOO_SMALL` when the list is longer than the place.
///
/// # Safety
/// `count` is NULL, or readable and writable; `list` is NULL or writable for `*count` items.
pub unsafe fn write_list<T: Copy>(list: *mut T, count: *mut CK_ULONG, items: &[T]) -> Outcome {
    // SAFETY: promised by the caller.
    let room = unsafe { read(count) }?;
    // SAFETY: promised by the caller.
    unsafe { write(count, items.len() as CK_ULONG) }?;
    if list.is_null() {
        return Ok(());
    }
    if room < items.len() as CK_ULONG {
        return refuse(CKR_BUFFER_TOO_SMALL);
    }
    for (position, item) in items.iter().enumerate() {
        // SAFETY: `position` is below the count that the caller gave, so the place is his and writable.
        unsafe { list.add(position).write_unaligned(*item) };
    }
    Ok(())
}

/// The length that says "not to be had": PKCS#11 3.2 §5.7.5.
pub const UNAVAILABLE: CK_ULONG = CK_UNAVAILABLE_INFORMATION;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::return_value::ReturnValue;

    #[test]
    fn null_is_empty_input_and_null_with_a_length_is_refused() {
        // SAFETY: NULL is allowed.
        unsafe {
            assert!(Input::new(std::ptr::null(), 0).unwrap().copy().unwrap().is_empty());
            assert_eq!(Input::new(std::ptr::null(), 1).err(), Some(ReturnValue(CKR_ARGUMENTS_BAD)));
            assert_eq!(Input::new([0u8].as_ptr(), CK_ULONG::MAX).err(), Some(ReturnValue(CKR_ARGUMENTS_BAD)));
        }
    }

    #[test]
    fn a_buffer_one_byte_too_small_is_told_the_length_and_left_alone() {
        let mut buffer = [7u8; 4];
        let mut length: CK_ULONG = 3;
        // SAFETY: both live on this stack.
        let output = unsafe { Output::new(buffer.as_mut_ptr(), &raw mut length) }.unwrap();
        assert_eq!(output.give(&[1, 2, 3, 4]), Err(ReturnValue(CKR_BUFFER_TOO_SMALL)));
        assert_eq!((length, buffer), (4, [7; 4]));
        assert_eq!(output.give(&[1, 2, 3, 4]), Ok(()));
        assert_eq!((length, buffer), (4, [1, 2, 3, 4]));
    }

    #[test]
    fn misaligned_places_are_read_and_written() {
        let mut bytes = [0u8; 1 + size_of::<CK_ULONG>()];
        let place = bytes[1..].as_mut_ptr().cast::<CK_ULONG>();
        // SAFETY: the place has room for one CK_ULONG.
        unsafe {
            write(place, 0x0102_0304).unwrap();
            assert_eq!(read(place).unwrap(), 0x0102_0304);
        }
    }

    #[test]
    fn a_list_one_item_too_short_is_told_the_count() {
        let mut list = [0u64; 2];
        let mut count: CK_ULONG = 1;
        // SAFETY: both live on this stack.
        unsafe {
            assert_eq!(write_list(list.as_mut_ptr(), &raw mut count, &[5, 6]), Err(ReturnValue(CKR_BUFFER_TOO_SMALL)));
            assert_eq!(count, 2);
            assert_eq!(write_list(list.as_mut_ptr(), &raw mut count, &[5, 6]), Ok(()));
        }
        assert_eq!(list, [5, 6]);
    }
}
