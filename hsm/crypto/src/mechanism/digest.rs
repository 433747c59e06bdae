//! Digests. They need no key; `operation.rs` calls [`of`] and streams gather by it.

use hsm_protocol::MechanismKind as M;

use super::{Family, Outcome, hash_of};
use crate::fault::CryptoFault;
use crate::wide::Hash;

/// SHA-1, SHA-2, SHA-3.
pub(crate) struct Digests;

impl Family for Digests {
    fn kinds(&self) -> &'static [M] {
        &[M::SHA_1, M::SHA224, M::SHA256, M::SHA384, M::SHA512, M::SHA3_224, M::SHA3_256, M::SHA3_384, M::SHA3_512]
    }
}

/// The hash of a digest mechanism.
pub(crate) fn of(kind: M) -> Outcome<Hash> {
    hash_of(kind).map_err(|_| CryptoFault::MechanismInvalid)
}
