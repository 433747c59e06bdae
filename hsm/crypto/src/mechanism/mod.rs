//! Mechanisms: one file per family, and the table that leads from a number to its family.
//!
//! A family takes a parsed key, parameters and data, and gives bytes. It knows no permit, no session and no attribute:
//! `operation.rs` has asked for those before. A mechanism is added here by a line in its family's `KINDS`, and in
//! `hsm-core` by a row of its table; a test holds the two against each other.

pub(crate) mod aes;
pub(crate) mod cmac;
pub(crate) mod derive;
pub(crate) mod digest;
pub(crate) mod ecdh;
pub(crate) mod ecdsa;
pub(crate) mod eddsa;
pub(crate) mod gather;
pub(crate) mod gcm;
pub(crate) mod generation;
pub(crate) mod hkdf;
pub(crate) mod hmac;
pub(crate) mod key_wrap;
pub(crate) mod rsa;
pub(crate) mod rsa_padding;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use hsm_protocol::{Mechanism, MechanismKind};
use zeroize::Zeroizing;

use crate::fault::CryptoFault;
use crate::key::Key;
use crate::module::Module;
use crate::secret::SecretBytes;
use crate::wide::{Direction, Hash};
pub(crate) use gather::Gather;

/// One use of a key by a mechanism.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) module: &'a Module,
    pub(crate) key: &'a Key,
    pub(crate) mechanism: &'a Mechanism,
    /// Mode FIPS, for parameters that the policy cannot judge.
    pub(crate) fips: bool,
}

/// What an encryption gives.
pub struct Encrypted {
    /// The ciphertext, with the tag where there is one.
    pub data: Vec<u8>,
    /// The IV, when the HSM made it.
    pub iv: Option<Vec<u8>>,
}

/// Result of everything here.
pub(crate) type Outcome<T> = Result<T, CryptoFault>;

/// A cipher that works on its input in parts.
pub(crate) trait Transform: Send {
    /// Works on more input; appends what comes out.
    fn update(&mut self, data: &[u8], output: &mut Vec<u8>) -> Outcome<()>;
    /// Ends; appends what was held back.
    fn finish(&mut self, output: &mut Vec<u8>) -> Outcome<()>;
    /// The IV, when the HSM made it.
    fn iv(&self) -> Option<&[u8]> {
        None
    }
}

/// A family of mechanisms. What a family does not do stays at the refusal that stands here.
pub(crate) trait Family: Sync {
    /// The mechanisms that belong to it.
    fn kinds(&self) -> &'static [MechanismKind];

    /// How the input of a signature or MAC is taken in: by default whole.
    fn gather(&self, _call: &Call<'_>) -> Outcome<Gather> {
        Ok(Gather::whole())
    }

    /// Signs what was gathered: a digest, a whole MAC, or the message.
    fn sign(&self, _call: &Call<'_>, _gathered: &[u8]) -> Outcome<Vec<u8>> {
        Err(CryptoFault::MechanismInvalid)
    }

    /// Checks a signature or MAC over what was gathered.
    fn verify(&self, _call: &Call<'_>, _gathered: &[u8], _signature: &[u8]) -> Outcome<()> {
        Err(CryptoFault::MechanismInvalid)
    }

    /// Gives back the data that is inside a signature.
    fn recover(&self, _call: &Call<'_>, _signature: &[u8]) -> Outcome<Vec<u8>> {
        Err(CryptoFault::MechanismInvalid)
    }

    /// A cipher in parts; `None` when the mechanism wants its input whole.
    fn transform(&self, _call: &Call<'_>, _direction: Direction) -> Outcome<Option<Box<dyn Transform>>> {
        Ok(None)
    }

    /// Encrypts a whole input.
    fn encrypt(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Encrypted> {
        let mut cipher = self.transform(call, Direction::Encrypt)?.ok_or(CryptoFault::MechanismInvalid)?;
        let mut output = Vec::with_capacity(data.len() + 32);
        cipher.update(data, &mut output)?;
        cipher.finish(&mut output)?;
        Ok(Encrypted { data: output, iv: cipher.iv().map(<[u8]>::to_vec) })
    }

    /// Decrypts a whole input.
    fn decrypt(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
        let mut cipher = self.transform(call, Direction::Decrypt)?.ok_or(CryptoFault::MechanismInvalid)?;
        let mut output = Zeroizing::new(Vec::with_capacity(data.len() + 32));
        cipher.update(data, &mut output)?;
        cipher.finish(&mut output)?;
        Ok(output)
    }

    /// Wraps a key that was exported: by default encrypts it.
    fn wrap(&self, call: &Call<'_>, material: &[u8], _is_secret_key: bool) -> Outcome<Encrypted> {
        self.encrypt(call, material).map_err(|fault| match fault {
            CryptoFault::DataLength | CryptoFault::DataInvalid => CryptoFault::NotWrappable,
            other => other,
        })
    }

    /// Unwraps a key: by default decrypts it. `length` is the wanted length of a secret key.
    fn unwrap(&self, call: &Call<'_>, wrapped: &[u8], _length: Option<usize>) -> Outcome<SecretBytes> {
        let opened = self.decrypt(call, wrapped).map_err(|fault| match fault {
            CryptoFault::EncryptedInvalid => CryptoFault::WrappedKeyInvalid,
            CryptoFault::EncryptedLength => CryptoFault::WrappedKeyLength,
            other => other,
        })?;
        Ok(opened.into())
    }

    /// Derives octets. `length` is the wanted length; `None` = what the mechanism gives.
    fn derive(&self, _call: &Call<'_>, _second: Option<&Key>, _length: Option<usize>) -> Outcome<SecretBytes> {
        Err(CryptoFault::MechanismInvalid)
    }
}

/// Every family.
const FAMILIES: &[&dyn Family] = &[
    &generation::Generation,
    &digest::Digests,
    &rsa::Raw,
    &rsa_padding::Pkcs1,
    &rsa_padding::HashedPkcs1,
    &rsa_padding::Pss,
    &rsa_padding::Oaep,
    &ecdsa::Ecdsa,
    &eddsa::Eddsa,
    &ecdh::Ecdh,
    &hmac::Hmacs,
    &hkdf::Hkdf,
    &derive::Derivation,
    &aes::Modes,
    &gcm::AesGcm,
    &gcm::AesGmac,
    &cmac::AesMac,
    &key_wrap::KeyWrap,
];

/// The family of a mechanism.
pub(crate) fn family(kind: MechanismKind) -> Outcome<&'static dyn Family> {
    static BY_KIND: LazyLock<BTreeMap<MechanismKind, &'static dyn Family>> = LazyLock::new(|| {
        FAMILIES.iter().flat_map(|&family| family.kinds().iter().map(move |&kind| (kind, family))).collect()
    });
    BY_KIND.get(&kind).copied().ok_or(CryptoFault::MechanismInvalid)
}

/// The hash that a `CKM_` number of a digest names.
pub(crate) fn hash_of(kind: MechanismKind) -> Outcome<Hash> {
    Ok(match kind {
        MechanismKind::SHA_1 => Hash::Sha1,
        MechanismKind::SHA224 => Hash::Sha224,
        MechanismKind::SHA256 => Hash::Sha256,
        MechanismKind::SHA384 => Hash::Sha384,
        MechanismKind::SHA512 => Hash::Sha512,
        MechanismKind::SHA3_224 => Hash::Sha3_224,
        MechanismKind::SHA3_256 => Hash::Sha3_256,
        MechanismKind::SHA3_384 => Hash::Sha3_384,
        MechanismKind::SHA3_512 => Hash::Sha3_512,
        _ => return Err(CryptoFault::MechanismParameters),
    })
}

/// The digest that is built into a mechanism, from the policy's table.
pub(crate) fn built_in_hash(kind: MechanismKind) -> Option<Hash> {
    hash_of(hsm_core::mechanisms::find(kind)?.hash?).ok()
}
