//! Random number generation: PKCS#11 3.2 §5.19. The numbers come from the HSM, in chunks.

#![expect(unsafe_code, reason = "the C border")]

use cryptoki_sys::*;
use hsm_protocol::limits::{PART_LIMIT, RANDOM_BYTES};
use hsm_protocol::wire::{self, request};

use crate::application::Application;
use crate::device::wrong_answer;
use crate::entry;
use crate::memory::{self, Input};
use crate::return_value::{About, Outcome, refuse};

fn seed(application: &Application, session: CK_SESSION_HANDLE, input: Input) -> Outcome {
    let session = application.session(session)?;
    for start in (0..input.len()).step_by(PART_LIMIT) {
        let part = input.copy_range(start, PART_LIMIT)?;
        let make = |_| request::Body::SeedRandom(wire::SeedRandom { seed: part.clone() });
        session.slot().call(About::Token, &make)?;
    }
    Ok(())
}

/// # Safety
/// `place` is NULL or writable for `length` bytes.
unsafe fn generate(
    application: &Application,
    session: CK_SESSION_HANDLE,
    place: *mut CK_BYTE,
    length: CK_ULONG,
) -> Outcome {
    let session = application.session(session)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if place.is_null() || isize::try_from(length).is_err() {
        return if length == 0 { Ok(()) } else { refuse(CKR_ARGUMENTS_BAD) };
    }
    let mut done = 0;
    while done < length {
        let chunk = u32::try_from(length - done).unwrap_or(u32::MAX).min(RANDOM_BYTES);
        let make = |_| request::Body::Random(wire::Random { length: chunk });
        let bytes = session.slot().call_for_bytes(About::Token, &make)?.data;
        if bytes.len() != chunk as usize {
            return Err(wrong_answer());
        }
        // SAFETY: `done + chunk` is within the length that the caller promised.
        unsafe { memory::write_bytes(place.add(done), &bytes) }?;
        done += bytes.len();
    }
    Ok(())
}

entry! {
    /// `C_SeedRandom` (§5.19.1): mixed in beside the HSM's own sources.
    fn C_SeedRandom(session: CK_SESSION_HANDLE, seed_bytes: *mut CK_BYTE, length: CK_ULONG) = unsafe |application| {
        seed(application, session, Input::new(seed_bytes, length)?)
    };
}

entry! {
    /// `C_GenerateRandom` (§5.19.2).
    fn C_GenerateRandom(session: CK_SESSION_HANDLE, place: *mut CK_BYTE, length: CK_ULONG) = unsafe |application| {
        generate(application, session, place, length)
    };
}
