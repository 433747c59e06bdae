//! Random numbers of the harness, all from one seed (SplitMix64).

use std::sync::atomic::{AtomicU64, Ordering};

use hsm_replication::randomness::Randomness;

/// A stream of random numbers.
#[derive(Debug)]
pub struct Random(AtomicU64);

impl Random {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The seed of this run: `KAGIMORI_SEED`, or the default, printed so that it can be repeated.
    ///
    /// # Panics
    /// When the variable is set to something else than a number.
    pub fn seed_of_run(default: u64) -> u64 {
        let seed = match std::env::var("KAGIMORI_SEED") {
            Ok(text) => text.parse().expect("KAGIMORI_SEED is a number"),
            Err(_) => default,
        };
        println!("seed {seed}; repeat with KAGIMORI_SEED={seed}");
        seed
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&self, end: u64) -> u64 {
        self.next() % end
    }

    /// A place below `end`, which is not 0.
    ///
    /// # Panics
    /// Never: the number is below a `usize`.
    pub fn place_below(&self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("a number below a usize")
    }

    /// True once in `times`.
    pub fn once_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Random octets.
    pub fn octets<const N: usize>(&self) -> [u8; N] {
        let mut octets = [0; N];
        octets.iter_mut().for_each(|octet| *octet = self.next().to_be_bytes()[0]);
        octets
    }
}

impl Randomness for Random {
    fn number(&self) -> u64 {
        self.next()
    }
}
