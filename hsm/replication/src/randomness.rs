//! Where randomness comes from: node ids, which must differ between any two nodes of any cluster.
//!
//! Nothing secret is made of it; keys and nonces come from `hsm-crypto`.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// A source of random numbers that need not be secret.
pub trait Randomness: Send + Sync {
    /// A random number.
    fn number(&self) -> u64;
}

/// The randomness with which the standard library seeds its hash maps: from the system, once per thread, then counted
/// and hashed with SipHash.
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn number(&self) -> u64 {
        RandomState::new().hash_one(0_u8)
    }
}
