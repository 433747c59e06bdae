//! HMAC with every hash, whole or cut to a length (PKCS#11 3.2 §6.21.4 and its likes).

use hsm_protocol::{MechanismKind as M, Parameters};

use super::{Call, Family, Gather, Outcome, built_in_hash};
use crate::fault::CryptoFault;
use crate::wide::{Hmac, equal};

/// `CKM_SHA…_HMAC` and `CKM_SHA…_HMAC_GENERAL`.
pub(crate) struct Hmacs;

impl Family for Hmacs {
    fn kinds(&self) -> &'static [M] {
        &[
            M::SHA_1_HMAC,
            M::SHA_1_HMAC_GENERAL,
            M::SHA224_HMAC,
            M::SHA224_HMAC_GENERAL,
            M::SHA256_HMAC,
            M::SHA256_HMAC_GENERAL,
            M::SHA384_HMAC,
            M::SHA384_HMAC_GENERAL,
            M::SHA512_HMAC,
            M::SHA512_HMAC_GENERAL,
            M::SHA3_224_HMAC,
            M::SHA3_224_HMAC_GENERAL,
            M::SHA3_256_HMAC,
            M::SHA3_256_HMAC_GENERAL,
            M::SHA3_384_HMAC,
            M::SHA3_384_HMAC_GENERAL,
            M::SHA3_512_HMAC,
            M::SHA3_512_HMAC_GENERAL,
        ]
    }

    fn gather(&self, call: &Call<'_>) -> Outcome<Gather> {
        let hash = built_in_hash(call.mechanism.kind).ok_or(CryptoFault::MechanismInvalid)?;
        Ok(Gather::Hmac(Hmac::new(hash, call.key.secret()?)?))
    }

    fn sign(&self, call: &Call<'_>, mac: &[u8]) -> Outcome<Vec<u8>> {
        Ok(mac[..cut(call, mac.len())?].to_vec())
    }

    fn verify(&self, call: &Call<'_>, mac: &[u8], signature: &[u8]) -> Outcome<()> {
        matches(&mac[..cut(call, mac.len())?], signature)
    }
}

/// The length of a MAC whose whole length is given.
pub(super) fn cut(call: &Call<'_>, whole: usize) -> Outcome<usize> {
    match call.mechanism.parameters {
        Parameters::None => Ok(whole),
        Parameters::OutputLength(length) => match usize::try_from(length) {
            Ok(length) if (1..=whole).contains(&length) => Ok(length),
            _ => Err(CryptoFault::MechanismParameters),
        },
        _ => Err(CryptoFault::MechanismParameters),
    }
}

/// Compares a MAC in constant time.
pub(super) fn matches(mac: &[u8], signature: &[u8]) -> Outcome<()> {
    if signature.len() != mac.len() {
        return Err(CryptoFault::SignatureLength);
    }
    if equal(mac, signature) { Ok(()) } else { Err(CryptoFault::SignatureInvalid) }
}
