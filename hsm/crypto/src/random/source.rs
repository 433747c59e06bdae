//! Noise: bytes of the kernel's generator, and the jitter of the processor that is mixed into them.
//!
//! The kernel's bytes carry the whole assumed entropy, and are what the health tests look at, before anything is mixed
//! in. The jitter is a second opinion that is credited with nothing: it is added by exclusive or, which cannot make the
//! sum worse, and keeps two virtual machines apart that were restored from one snapshot.

use std::time::Instant;

use crate::fault::SelfTestFailure;

/// Where noise comes from: the system, or in a simulation a seed.
pub trait NoiseSource: Send {
    /// Fills `output` with noise.
    ///
    /// # Errors
    /// [`SelfTestFailure::NoEntropy`].
    fn fill(&mut self, output: &mut [u8]) -> Result<(), SelfTestFailure>;
}

/// `getrandom(2)`.
pub struct SystemNoise;

impl NoiseSource for SystemNoise {
    fn fill(&mut self, output: &mut [u8]) -> Result<(), SelfTestFailure> {
        kernel(output)
    }
}

/// The jitter of the processor: how long the same walk through memory takes, again and again.
pub(crate) struct Jitter {
    /// Walked over between two readings of the clock, so that caches and predictors have their say.
    field: Vec<u8>,
    position: usize,
}

/// Bytes of memory that are walked over: more than a first-level cache holds.
const FIELD_BYTES: usize = 64 * 1024;

/// Readings of the clock that are folded into one byte of jitter.
const READINGS: u32 = 8;

/// Bytes of jitter that are mixed into one take, at most: it costs about a microsecond a byte.
const JITTER_BYTES: usize = 64;

impl Jitter {
    /// Nothing walked yet.
    pub(crate) fn new() -> Self {
        Self { field: vec![1; FIELD_BYTES], position: 0 }
    }

    /// Mixes jitter into noise that was tested.
    pub(crate) fn mix(&mut self, noise: &mut [u8]) {
        for byte in noise.iter_mut().take(JITTER_BYTES) {
            *byte ^= self.byte();
        }
    }

    fn byte(&mut self) -> u8 {
        let mut folded = 0_u8;
        for _ in 0..READINGS {
            let before = Instant::now();
            for _ in 0..16 {
                let here = self.position % FIELD_BYTES;
                self.field[here] = self.field[here].wrapping_mul(5).wrapping_add(folded | 1);
                self.position = self.position.wrapping_add(usize::from(self.field[here]) * 67 + 61);
            }
            let elapsed = before.elapsed().as_nanos();
            #[expect(clippy::cast_possible_truncation, reason = "the low bits are the ones that jitter")]
            let low = elapsed as u8 ^ (elapsed >> 8) as u8;
            folded = folded.rotate_left(3) ^ low;
        }
        folded
    }
}

/// `getrandom(2)` without flags: waits, once after boot, until the kernel's generator is seeded.
#[expect(unsafe_code, reason = "std has no getrandom; one system call, see its SAFETY")]
fn kernel(mut output: &mut [u8]) -> Result<(), SelfTestFailure> {
    while !output.is_empty() {
        // SAFETY: the pointer and length describe a live slice that is only written.
        let got = unsafe { libc::getrandom(output.as_mut_ptr().cast(), output.len(), 0) };
        match usize::try_from(got) {
            Ok(0) => return Err(SelfTestFailure::NoEntropy),
            Ok(count) => output = &mut output[count..],
            Err(_) if std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return Err(SelfTestFailure::NoEntropy),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_is_not_constant() {
        let mut jitter = Jitter::new();
        let values: std::collections::BTreeSet<u8> = (0..256).map(|_| jitter.byte()).collect();
        assert!(values.len() > 4, "only {} values", values.len());
    }
}
