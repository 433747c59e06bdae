//! Ed25519, with its context and prehash variants (RFC 8032; PKCS#11 3.2 §6.3.16).

use hsm_protocol::{MechanismKind as M, Parameters};

use super::{Call, Family, Outcome};
use crate::fault::CryptoFault;
use crate::key::{KeyMaterial, fixed};
use crate::wide::edwards::{self, Scheme};

/// `CKM_EDDSA`.
pub(crate) struct Eddsa;

impl Family for Eddsa {
    fn kinds(&self) -> &'static [M] {
        &[M::EDDSA]
    }

    fn sign(&self, call: &Call<'_>, data: &[u8]) -> Outcome<Vec<u8>> {
        let KeyMaterial::Ed25519Private(key) = call.key.material() else { return Err(CryptoFault::KeyType) };
        Ok(key.sign(scheme(call)?, data)?)
    }

    fn verify(&self, call: &Call<'_>, data: &[u8], signature: &[u8]) -> Outcome<()> {
        let public = match call.key.material() {
            KeyMaterial::Ed25519Public(key) => *key,
            KeyMaterial::Ed25519Private(key) => fixed(key.public())?,
            _ => return Err(CryptoFault::KeyType),
        };
        let signature = signature.try_into().map_err(|_| CryptoFault::SignatureLength)?;
        let right = edwards::verify(scheme(call)?, &public, data, signature);
        if right { Ok(()) } else { Err(CryptoFault::SignatureInvalid) }
    }
}

/// Which scheme the parameters mean. Without prehash an empty context means plain Ed25519: RFC 8032 §8.3 says that
/// Ed25519ctx should not be used with an empty one.
fn scheme<'a>(call: &Call<'a>) -> Outcome<Scheme<'a>> {
    match &call.mechanism.parameters {
        Parameters::None => Ok(Scheme::Pure),
        Parameters::Eddsa { context, .. } if context.len() > 255 => Err(CryptoFault::MechanismParameters),
        Parameters::Eddsa { prehash: true, context } => Ok(Scheme::Prehash(context)),
        Parameters::Eddsa { prehash: false, context } if context.is_empty() => Ok(Scheme::Pure),
        Parameters::Eddsa { prehash: false, context } => Ok(Scheme::Context(context)),
        _ => Err(CryptoFault::MechanismParameters),
    }
}
