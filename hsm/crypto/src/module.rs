//! The module: started once, tested before use, and the source of every random byte.

use std::sync::{Arc, OnceLock};

use crate::fault::{CryptoFault, SelfTestFailure};
use crate::random::{NoiseSource, Pool, SystemNoise};
use crate::self_test;

/// The cryptographic module. Everything that makes keys or draws random bytes goes through it.
pub struct Module {
    pool: Pool,
}

impl Module {
    /// Runs the known-answer tests and the start-up tests of the noise source, then serves. The known-answer tests run
    /// once in a process; a later start only tests its noise.
    ///
    /// # Errors
    /// The test that failed: the process must not go on.
    pub fn start() -> Result<Arc<Self>, SelfTestFailure> {
        known_answers()?;
        Ok(Arc::new(Self { pool: Pool::new(Box::new(SystemNoise))? }))
    }

    /// [`Module::start`] on another source of noise, such as a simulation's seed. What the module draws follows from the
    /// source and from the order of requests alone; what AWS-LC draws for itself (RSA primes, EC scalars, nonces of
    /// ECDSA, salts) does not.
    ///
    /// # Errors
    /// As [`Module::start`].
    pub fn start_on(noise: Box<dyn NoiseSource>) -> Result<Arc<Self>, SelfTestFailure> {
        known_answers()?;
        Ok(Arc::new(Self { pool: Pool::single(noise)? }))
    }

    /// Fills `output` with random bytes (`C_GenerateRandom`, names, nonces, keys).
    ///
    /// # Errors
    /// [`CryptoFault::ModuleFailed`] when the noise source broke: stop the node.
    pub fn random(&self, output: &mut [u8]) -> Result<(), CryptoFault> {
        Ok(self.pool.fill(output)?)
    }

    /// Random bytes by value: a name, a nonce.
    ///
    /// # Errors
    /// As [`Module::random`].
    pub fn random_bytes<const N: usize>(&self) -> Result<[u8; N], CryptoFault> {
        let mut bytes = [0; N];
        self.random(&mut bytes)?;
        Ok(bytes)
    }

    /// Seeds every generator anew (`C_SeedRandom`): from the noise source, with the caller's bytes as additional input,
    /// which can add to the state and never take from it.
    ///
    /// # Errors
    /// As [`Module::random`].
    pub fn reseed(&self, additional: &[u8]) -> Result<(), CryptoFault> {
        Ok(self.pool.reseed(additional)?)
    }
}

/// Runs the known-answer tests, once in a process.
fn known_answers() -> Result<(), SelfTestFailure> {
    static RESULT: OnceLock<Result<(), SelfTestFailure>> = OnceLock::new();
    *RESULT.get_or_init(self_test::known_answers)
}

impl From<crate::wide::Failed> for CryptoFault {
    /// Where the library cannot say no for the caller's sake, its no is a failure of the module.
    fn from(_: crate::wide::Failed) -> Self {
        Self::ModuleFailed
    }
}
