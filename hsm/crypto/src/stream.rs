//! Operations in parts (`C_SignUpdate` and its likes).
//!
//! A stream holds what it needs (module, key, mechanism) and belongs to one connection. Whether its user may still act is
//! asked before each part, by the server. Mechanisms that want their input whole gather it, up to a limit.

use std::sync::Arc;

use hsm_core::Permit;
use hsm_core::permit::{BeDigested, Decrypt, Encrypt, KeyUse, Sign, Verify};
use hsm_protocol::Mechanism;
use zeroize::Zeroizing;

use crate::fault::CryptoFault;
use crate::key::Key;
use crate::mechanism::gather::append;
use crate::mechanism::{Call, Gather, Transform, digest as digests, family};
use crate::module::Module;
use crate::operation::{checked, digestible};
use crate::wide::Direction;

/// An operation under way. After an error it is over: drop it.
pub struct Stream(State);

enum State {
    Sign(Keyed, Gather),
    Verify(Keyed, Gather),
    Digest(Gather),
    Cipher(Box<dyn Transform>),
    /// A cipher that wants its input whole.
    Whole(Keyed, Direction, Zeroizing<Vec<u8>>),
}

/// A use of a key that outlives one call.
struct Keyed {
    module: Arc<Module>,
    key: Arc<Key>,
    mechanism: Mechanism,
    fips: bool,
}

/// What the end of a stream gives.
pub enum Finished {
    /// A signature, MAC or digest, or the last part of what a cipher gives out.
    Data(Vec<u8>),
    /// The signature was right.
    Verified,
}

impl Keyed {
    fn new<U: KeyUse>(
        module: &Arc<Module>,
        permit: Permit<U>,
        key: &Arc<Key>,
        mechanism: Mechanism,
    ) -> Result<Self, CryptoFault> {
        let fips = checked(module, permit, key, &mechanism)?.fips;
        Ok(Self { module: module.clone(), key: key.clone(), mechanism, fips })
    }

    fn call(&self) -> Call<'_> {
        Call { module: &self.module, key: &self.key, mechanism: &self.mechanism, fips: self.fips }
    }
}

impl Stream {
    /// Begins to sign.
    ///
    /// # Errors
    /// As [`sign`](crate::sign), as far as it shows before the data.
    pub fn sign(
        module: &Arc<Module>,
        permit: Permit<Sign>,
        key: &Arc<Key>,
        mechanism: Mechanism,
    ) -> Result<Self, CryptoFault> {
        let keyed = Keyed::new(module, permit, key, mechanism)?;
        let gather = family(keyed.mechanism.kind)?.gather(&keyed.call())?;
        Ok(Self(State::Sign(keyed, gather)))
    }

    /// Begins to verify.
    ///
    /// # Errors
    /// As [`verify`](crate::verify), as far as it shows before the data.
    pub fn verify(
        module: &Arc<Module>,
        permit: Permit<Verify>,
        key: &Arc<Key>,
        mechanism: Mechanism,
    ) -> Result<Self, CryptoFault> {
        let keyed = Keyed::new(module, permit, key, mechanism)?;
        let gather = family(keyed.mechanism.kind)?.gather(&keyed.call())?;
        Ok(Self(State::Verify(keyed, gather)))
    }

    /// Begins to encrypt. [`Stream::iv`] has the IV afterwards, when the HSM made one.
    ///
    /// # Errors
    /// As [`encrypt`](crate::encrypt), as far as it shows before the data.
    pub fn encrypt(
        module: &Arc<Module>,
        permit: Permit<Encrypt>,
        key: &Arc<Key>,
        mechanism: Mechanism,
    ) -> Result<Self, CryptoFault> {
        Self::cipher(Keyed::new(module, permit, key, mechanism)?, Direction::Encrypt)
    }

    /// Begins to decrypt. An AEAD mechanism gives out nothing before its tag was checked.
    ///
    /// # Errors
    /// As [`decrypt`](crate::decrypt), as far as it shows before the data.
    pub fn decrypt(
        module: &Arc<Module>,
        permit: Permit<Decrypt>,
        key: &Arc<Key>,
        mechanism: Mechanism,
    ) -> Result<Self, CryptoFault> {
        Self::cipher(Keyed::new(module, permit, key, mechanism)?, Direction::Decrypt)
    }

    fn cipher(keyed: Keyed, direction: Direction) -> Result<Self, CryptoFault> {
        let transform = family(keyed.mechanism.kind)?.transform(&keyed.call(), direction)?;
        Ok(Self(match transform {
            Some(transform) => State::Cipher(transform),
            None => State::Whole(keyed, direction, Zeroizing::default()),
        }))
    }

    /// Begins a digest.
    ///
    /// # Errors
    /// [`CryptoFault::MechanismInvalid`].
    pub fn digest(mechanism: &Mechanism) -> Result<Self, CryptoFault> {
        Ok(Self(State::Digest(Gather::digest(digests::of(mechanism.kind)?)?)))
    }

    /// The IV that the HSM made for this encryption.
    pub fn iv(&self) -> Option<&[u8]> {
        if let State::Cipher(transform) = &self.0 { transform.iv() } else { None }
    }

    /// Takes the next part, and gives out what is ready.
    ///
    /// # Errors
    /// [`CryptoFault::TooLarge`] when input that must be held is over the limit, [`CryptoFault::DataLength`].
    pub fn update(&mut self, data: &[u8]) -> Result<Vec<u8>, CryptoFault> {
        match &mut self.0 {
            State::Sign(_, gather) | State::Verify(_, gather) | State::Digest(gather) => {
                gather.update(data)?;
                Ok(Vec::new())
            }
            State::Cipher(transform) => {
                let mut output = Vec::new();
                transform.update(data, &mut output)?;
                Ok(output)
            }
            State::Whole(_, _, held) => {
                append(held, data)?;
                Ok(Vec::new())
            }
        }
    }

    /// Takes the value of a secret key as the next part of a digest (`C_DigestKey`).
    ///
    /// # Errors
    /// [`CryptoFault::Indigestible`], [`CryptoFault::OutOfOrder`] when this is no digest.
    #[expect(clippy::needless_pass_by_value, reason = "a permit is used up")]
    pub fn update_with_key(&mut self, permit: Permit<BeDigested>, key: &Key) -> Result<(), CryptoFault> {
        let State::Digest(gather) = &mut self.0 else { return Err(CryptoFault::OutOfOrder) };
        gather.update(digestible(&permit, key)?)
    }

    /// Ends. `signature` is for verifying only.
    ///
    /// # Errors
    /// As the operation at once.
    pub fn finish(self, signature: Option<&[u8]>) -> Result<Finished, CryptoFault> {
        match self.0 {
            State::Sign(keyed, gather) => {
                let gathered = gather.finish()?;
                family(keyed.mechanism.kind)?.sign(&keyed.call(), &gathered).map(Finished::Data)
            }
            State::Verify(keyed, gather) => {
                let signature = signature.ok_or(CryptoFault::SignatureLength)?;
                let gathered = gather.finish()?;
                family(keyed.mechanism.kind)?.verify(&keyed.call(), &gathered, signature).map(|()| Finished::Verified)
            }
            State::Digest(gather) => Ok(Finished::Data(std::mem::take(&mut *gather.finish()?))),
            State::Cipher(mut transform) => {
                let mut output = Vec::new();
                transform.finish(&mut output)?;
                Ok(Finished::Data(output))
            }
            State::Whole(keyed, direction, held) => {
                let family = family(keyed.mechanism.kind)?;
                Ok(Finished::Data(match direction {
                    Direction::Encrypt => family.encrypt(&keyed.call(), &held)?.data,
                    Direction::Decrypt => std::mem::take(&mut *family.decrypt(&keyed.call(), &held)?),
                }))
            }
        }
    }
}
