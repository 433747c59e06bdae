//! Passwords: stretched when they are set, compared in constant time when they are used.
//!
//! A [`Verifier`] says itself how it was made, so that parameters can rise without touching old ones. Passwords come and
//! go as bytes; the caller wipes his. Whether a user exists, is locked or may try again is `hsm-core`'s affair; for a user
//! that does not exist [`confirm_nobody`] takes the same time.

use argon2::{Algorithm, Argon2, Params, Version};
use hsm_core::command::Verifier;
use zeroize::Zeroizing;

use crate::fault::CryptoFault;
use crate::module::Module;
use crate::wide::{Hash, equal, stretch};

const SALT: usize = 16;
const OUTPUT: usize = 32;
/// First byte of a verifier: the format.
const FORMAT: u8 = 1;

/// How a password is stretched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stretch {
    /// Argon2id (RFC 9106) with version 0x13.
    Argon2id {
        /// Memory in KiB.
        memory: u32,
        /// Passes.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// PBKDF2 with HMAC-SHA-512 (SP 800-132), which is what mode FIPS has.
    Pbkdf2 {
        /// Iterations.
        iterations: u32,
    },
}

impl Stretch {
    /// For log-ins: the second recommended option of OWASP's Password Storage Cheat Sheet (19 MiB, 2 passes), or in mode
    /// FIPS 600,000 iterations (the cheat sheet asks for 210,000 with SHA-512).
    pub(crate) fn for_login(fips: bool) -> Self {
        if fips { Self::Pbkdf2 { iterations: 600_000 } } else { Self::Argon2id { memory: 19_456, passes: 2, lanes: 1 } }
    }

    /// For the passphrase of the root of trust: needed once per start, so it may cost a second: RFC 9106 §4, second
    /// recommended option (64 MiB, 3 passes).
    pub(crate) fn for_root() -> Self {
        Self::Argon2id { memory: 64 * 1024, passes: 3, lanes: 4 }
    }

    /// Bytes of the written form.
    pub(crate) const ENCODED: usize = 13;

    /// The written form: kind, then three numbers, big-endian.
    pub(crate) fn encode(self) -> [u8; Self::ENCODED] {
        let (kind, numbers) = match self {
            Self::Argon2id { memory, passes, lanes } => (1, [memory, passes, lanes]),
            Self::Pbkdf2 { iterations } => (2, [iterations, 0, 0]),
        };
        let mut bytes = [kind; Self::ENCODED];
        bytes[1..].chunks_mut(4).zip(numbers).for_each(|(chunk, number)| chunk.copy_from_slice(&number.to_be_bytes()));
        bytes
    }

    /// Reads the written form; `None` for an unknown kind or for numbers that would take the process down.
    pub(crate) fn decode(bytes: &[u8; Self::ENCODED]) -> Option<Self> {
        const MOST_MEMORY: u32 = 1024 * 1024;
        const MOST_PASSES: u32 = 64;
        const MOST_ITERATIONS: u32 = 100_000_000;
        let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        match (bytes[0], number(1), number(5), number(9)) {
            (1, memory @ 8..=MOST_MEMORY, passes @ 1..=MOST_PASSES, lanes @ 1..=16) => {
                Some(Self::Argon2id { memory, passes, lanes })
            }
            (2, iterations @ 1..=MOST_ITERATIONS, 0, 0) => Some(Self::Pbkdf2 { iterations }),
            _ => None,
        }
    }

    /// Stretches.
    pub(crate) fn run(self, password: &[u8], salt: &[u8], output: &mut [u8]) -> Result<(), CryptoFault> {
        match self {
            Self::Argon2id { memory, passes, lanes } => {
                let parameters =
                    Params::new(memory, passes, lanes, Some(output.len())).map_err(|_| CryptoFault::ModuleFailed)?;
                Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
                    .hash_password_into(password, salt, output)
                    .map_err(|_| CryptoFault::ModuleFailed)
            }
            Self::Pbkdf2 { iterations } => Ok(stretch::pbkdf2(Hash::Sha512, password, salt, iterations, output)?),
        }
    }
}

/// Stretches a new password under a new salt. Takes some 20 to 40 ms (Argon2id) or 300 ms (PBKDF2), and 19 MiB.
///
/// # Errors
/// [`CryptoFault::ModuleFailed`].
pub fn make(module: &Module, password: &[u8], fips: bool) -> Result<Verifier, CryptoFault> {
    let salt: [u8; SALT] = module.random_bytes()?;
    write(Stretch::for_login(fips), &salt, password)
}

fn write(how: Stretch, salt: &[u8; SALT], password: &[u8]) -> Result<Verifier, CryptoFault> {
    let mut bytes = Vec::with_capacity(1 + Stretch::ENCODED + SALT + OUTPUT);
    bytes.push(FORMAT);
    bytes.extend_from_slice(&how.encode());
    bytes.extend_from_slice(salt);
    let mut output = [0; OUTPUT];
    how.run(password, salt, &mut output)?;
    bytes.extend_from_slice(&output);
    Ok(Verifier(bytes))
}

/// Whether the password is the one that the verifier was made of. As slow as [`make`].
///
/// # Errors
/// [`CryptoFault::ModuleFailed`] when the verifier is none of ours: the state is broken.
pub fn confirm(verifier: &Verifier, password: &[u8]) -> Result<bool, CryptoFault> {
    let (how, salt, expected) = read(&verifier.0).ok_or(CryptoFault::ModuleFailed)?;
    let mut output = Zeroizing::new([0; OUTPUT]);
    how.run(password, salt, &mut *output)?;
    Ok(equal(&*output, expected))
}

/// Takes as long as [`confirm`] on a verifier of that mode, and says no: for a user that does not exist.
///
/// # Errors
/// [`CryptoFault::ModuleFailed`].
pub fn confirm_nobody(fips: bool, password: &[u8]) -> Result<bool, CryptoFault> {
    confirm(&nobody(fips), password).map(|_| false)
}

/// A verifier that no password fits.
pub fn nobody(fips: bool) -> Verifier {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(&Stretch::for_login(fips).encode());
    bytes.resize(1 + Stretch::ENCODED + SALT + OUTPUT, 0);
    Verifier(bytes)
}

fn read(bytes: &[u8]) -> Option<(Stretch, &[u8], &[u8])> {
    let (&FORMAT, rest) = bytes.split_first()? else { return None };
    let (how, rest) = rest.split_first_chunk()?;
    let (salt, expected) = rest.split_at_checked(SALT)?;
    (expected.len() == OUTPUT).then_some((Stretch::decode(how)?, salt, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_fits_its_verifier_and_no_other() {
        let module = Module::start().unwrap();
        for fips in [false, true] {
            let verifier = make(&module, b"correct horse", fips).unwrap();
            assert!(confirm(&verifier, b"correct horse").unwrap());
            assert!(!confirm(&verifier, b"correct hors").unwrap());
            assert!(!confirm(&nobody(fips), b"").unwrap());
            assert_ne!(make(&module, b"correct horse", fips).unwrap().0, verifier.0, "salted");
        }
    }

    /// The work is the same, parameter by parameter; a clock would only measure the machine's other business.
    #[test]
    fn nobody_costs_what_somebody_costs() {
        let module = Module::start().unwrap();
        for fips in [false, true] {
            let (somebody, nobody) = (make(&module, b"correct horse", fips).unwrap(), nobody(fips));
            let (how, salt, expected) = read(&somebody.0).unwrap();
            let (nobody_how, nobody_salt, nobody_expected) = read(&nobody.0).unwrap();
            assert_eq!(how, nobody_how);
            assert_eq!((salt.len(), expected.len()), (nobody_salt.len(), nobody_expected.len()));
            assert!(!confirm_nobody(fips, b"wrong").unwrap());
        }
    }

    #[test]
    fn a_verifier_of_another_format_or_with_absurd_parameters_is_refused() {
        let good = nobody(false).0;
        for bad in [&good[..good.len() - 1], &[], &[2; 62]] {
            assert_eq!(confirm(&Verifier(bad.to_vec()), b"x"), Err(CryptoFault::ModuleFailed));
        }
        let mut greedy = good;
        greedy[2] = 0xFF;
        assert_eq!(confirm(&Verifier(greedy), b"x"), Err(CryptoFault::ModuleFailed));
    }

    #[test]
    fn the_written_form_of_parameters_comes_back() {
        for how in [Stretch::for_login(false), Stretch::for_login(true), Stretch::for_root()] {
            assert_eq!(Stretch::decode(&how.encode()), Some(how));
        }
    }

    /// From the tests of the reference program (phc-winner-argon2, CC0): version 0x13, 64 MiB, 2 passes, 1 lane.
    #[test]
    fn argon2id_gives_the_answer_of_the_reference() {
        let how = Stretch::Argon2id { memory: 65_536, passes: 2, lanes: 1 };
        let mut output = [0; 32];
        how.run(b"password", b"somesalt", &mut output).unwrap();
        assert_eq!(hex::encode(output), "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7");
    }
}
