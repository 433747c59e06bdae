//! ECDSA over a digest that the caller made, or over a message.

use hsm_protocol::MechanismKind as M;

use super::{Call, Family, Gather, Outcome, built_in_hash};
use crate::fault::CryptoFault;

/// `CKM_ECDSA` and `CKM_ECDSA_SHA…`.
pub(crate) struct Ecdsa;

impl Family for Ecdsa {
    fn kinds(&self) -> &'static [M] {
        &[
            M::ECDSA,
            M::ECDSA_SHA1,
            M::ECDSA_SHA224,
            M::ECDSA_SHA256,
            M::ECDSA_SHA384,
            M::ECDSA_SHA512,
            M::ECDSA_SHA3_224,
            M::ECDSA_SHA3_256,
            M::ECDSA_SHA3_384,
            M::ECDSA_SHA3_512,
        ]
    }

    fn gather(&self, call: &Call<'_>) -> Outcome<Gather> {
        built_in_hash(call.mechanism.kind).map_or_else(|| Ok(Gather::whole()), Gather::digest)
    }

    fn sign(&self, call: &Call<'_>, digest: &[u8]) -> Outcome<Vec<u8>> {
        call.key.curve()?.sign(nonempty(digest)?)
    }

    fn verify(&self, call: &Call<'_>, digest: &[u8], signature: &[u8]) -> Outcome<()> {
        call.key.curve()?.verify(nonempty(digest)?, signature)
    }
}

/// A digest of nothing is nobody's digest, and would sign the number 0.
fn nonempty(digest: &[u8]) -> Outcome<&[u8]> {
    if digest.is_empty() { Err(CryptoFault::DataLength) } else { Ok(digest) }
}
