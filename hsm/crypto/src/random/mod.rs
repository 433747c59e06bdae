//! Randomness: the one place where it enters the HSM.
//!
//! [`source`] gathers noise, [`health`] tests it, [`drbg`] turns it into random numbers (CTR_DRBG, SP 800-90A), and
//! [`Pool`] shares the generators among threads. Keys and nonces inside AWS-LC's own key generation and ECDSA come from
//! AWS-LC's generator, which is a second CTR_DRBG of the same standard; everything that this crate draws comes from here.

pub(crate) mod drbg;
pub(crate) mod health;
pub(crate) mod source;

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drbg::CtrDrbg;
use health::Monitor;
use source::Jitter;
pub use source::{NoiseSource, SystemNoise};
use zeroize::Zeroizing;

use crate::fault::SelfTestFailure;

/// Generators that stand side by side, so that threads seldom meet at one lock. 8 busy threads on 16 generators are given
/// different ones, because threads take them in turn.
const SHARDS: usize = 16;

/// Requests to one generator before it is seeded anew. SP 800-90A Table 3 allows 2^48; noise costs microseconds.
const RESEED_INTERVAL: u64 = 1 << 16;

/// Bytes of noise for one seed: 384 bits, of which the health tests' assumption of 4 bits a byte credits 256 with the
/// rest twice over; the derivation function condenses them.
const NOISE_BYTES: usize = 128;

/// Bytes that one request to a generator may have: 2^19 bits (SP 800-90A Table 3).
const REQUEST_BYTES: usize = 1 << 16;

/// The generators of a module.
pub(crate) struct Pool {
    noise: Mutex<Noise>,
    shards: Box<[Mutex<Option<CtrDrbg>>]>,
}

struct Noise {
    source: Box<dyn NoiseSource>,
    jitter: Option<Jitter>,
    monitor: Monitor,
    /// Set for ever once a health test failed: no seed is taken from a broken source.
    failure: Option<SelfTestFailure>,
}

impl Pool {
    /// A pool on a source and on processor jitter, after the start-up tests of SP 800-90B §4.3 (1,024 samples).
    pub(crate) fn new(source: Box<dyn NoiseSource>) -> Result<Self, SelfTestFailure> {
        Self::with_shards(source, Some(Jitter::new()), SHARDS)
    }

    /// A pool with one generator: what it gives follows from the source and from the order of requests alone.
    pub(crate) fn single(source: Box<dyn NoiseSource>) -> Result<Self, SelfTestFailure> {
        Self::with_shards(source, None, 1)
    }

    fn with_shards(
        source: Box<dyn NoiseSource>,
        jitter: Option<Jitter>,
        shards: usize,
    ) -> Result<Self, SelfTestFailure> {
        let mut noise = Noise { source, jitter, monitor: Monitor::new(), failure: None };
        let mut start_up = Zeroizing::new([0; health::START_UP_SAMPLES]);
        noise.take(&mut *start_up)?;
        Ok(Self { noise: Mutex::new(noise), shards: (0..shards).map(|_| Mutex::new(None)).collect() })
    }

    /// Fills `output` with random bytes.
    pub(crate) fn fill(&self, output: &mut [u8]) -> Result<(), SelfTestFailure> {
        let position = my_number() % self.shards.len();
        let mut shard = lock(&self.shards[position]);
        let drbg = match &mut *shard {
            Some(drbg) => drbg,
            empty @ None => empty.insert(self.instantiate(position)?),
        };
        for part in output.chunks_mut(REQUEST_BYTES) {
            if drbg.requests() >= RESEED_INTERVAL {
                drbg.reseed(&*self.seed()?, &[])?;
            }
            drbg.generate(part)?;
        }
        Ok(())
    }

    /// Seeds every generator anew, with `additional` as additional input.
    pub(crate) fn reseed(&self, additional: &[u8]) -> Result<(), SelfTestFailure> {
        for shard in self.shards.iter() {
            if let Some(drbg) = &mut *lock(shard) {
                drbg.reseed(&*self.seed()?, additional)?;
            }
        }
        Ok(())
    }

    fn instantiate(&self, position: usize) -> Result<CtrDrbg, SelfTestFailure> {
        let mut personalization = b"kagimori hsm-crypto 1\0".to_vec();
        personalization.extend_from_slice(&(position as u64).to_be_bytes());
        let seed = self.seed()?;
        let (entropy, nonce) = seed.split_at(NOISE_BYTES * 2 / 3);
        CtrDrbg::instantiate(entropy, nonce, &personalization)
    }

    fn seed(&self) -> Result<Zeroizing<[u8; NOISE_BYTES]>, SelfTestFailure> {
        let mut seed = Zeroizing::new([0; NOISE_BYTES]);
        lock(&self.noise).take(&mut *seed)?;
        Ok(seed)
    }
}

impl Noise {
    fn take(&mut self, output: &mut [u8]) -> Result<(), SelfTestFailure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let taken = self.source.fill(output).and_then(|()| self.monitor.check(output));
        match (taken, &mut self.jitter) {
            (Err(failure), _) => self.failure = Some(failure),
            (Ok(()), Some(jitter)) => jitter.mix(output),
            (Ok(()), None) => {}
        }
        taken
    }
}

/// The calling thread's number: threads are numbered in the order in which they first ask.
fn my_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<Option<usize>> = const { Cell::new(None) };
    }
    MINE.with(|mine| {
        mine.get().unwrap_or_else(|| {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            mine.set(Some(number));
            number
        })
    })
}

/// A generator is consistent between any two of its statements' effects that matter (it is advanced before it gives
/// anything out), so a panic elsewhere does not make it unusable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_never_see_the_same_bytes() {
        let pool = Pool::new(Box::new(SystemNoise)).unwrap();
        let draws: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let draw = || {
                let mut bytes = [0; 32];
                pool.fill(&mut bytes).unwrap();
                bytes
            };
            let threads: Vec<_> = (0..40).map(|_| scope.spawn(draw)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let different: std::collections::BTreeSet<_> = draws.iter().collect();
        assert_eq!(different.len(), draws.len());
    }

    /// A counter in place of noise.
    struct Counting(u64);

    impl NoiseSource for Counting {
        fn fill(&mut self, output: &mut [u8]) -> Result<(), SelfTestFailure> {
            for byte in output {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = self.0.to_be_bytes()[0];
            }
            Ok(())
        }
    }

    #[test]
    fn one_seed_gives_one_history_on_every_thread() {
        let draw = || {
            let pool = Pool::single(Box::new(Counting(7))).unwrap();
            let mut bytes = [0; 64];
            pool.fill(&mut bytes).unwrap();
            bytes
        };
        let elsewhere = std::thread::spawn(draw).join().unwrap();
        assert_eq!(draw(), elsewhere);
    }

    #[test]
    fn a_request_beyond_one_call_of_the_generator_is_filled_to_its_end() {
        let pool = Pool::new(Box::new(SystemNoise)).unwrap();
        let mut long = vec![0; REQUEST_BYTES * 2 + 100];
        pool.fill(&mut long).unwrap();
        assert!(long[long.len() - 100..].iter().any(|&byte| byte != 0));
    }

    /// Gives good noise until it is told to break.
    struct Breaking(std::sync::Arc<std::sync::atomic::AtomicBool>);

    impl NoiseSource for Breaking {
        fn fill(&mut self, output: &mut [u8]) -> Result<(), SelfTestFailure> {
            SystemNoise.fill(output)?;
            if self.0.load(Ordering::Relaxed) {
                output.fill(7);
            }
            Ok(())
        }
    }

    #[test]
    fn a_source_that_breaks_is_never_used_again() {
        let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let pool = Pool::new(Box::new(Breaking(broken.clone()))).unwrap();
        pool.fill(&mut [0; 16]).unwrap();
        broken.store(true, Ordering::Relaxed);
        assert_eq!(pool.reseed(&[]), Err(SelfTestFailure::Repetition));
        broken.store(false, Ordering::Relaxed);
        assert_eq!(pool.reseed(&[]), Err(SelfTestFailure::Repetition));
    }

    #[test]
    fn a_source_that_is_stuck_from_the_start_makes_no_pool() {
        let stuck = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        assert_eq!(Pool::new(Box::new(Breaking(stuck))).err(), Some(SelfTestFailure::Repetition));
    }
}
