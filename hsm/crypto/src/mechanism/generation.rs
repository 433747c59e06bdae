//! Mechanisms that only make keys. The making itself is in `key/make.rs`; here they refuse every other use.

use hsm_protocol::MechanismKind as M;

use super::Family;

/// Key generation.
pub(crate) struct Generation;

impl Family for Generation {
    fn kinds(&self) -> &'static [M] {
        &[
            M::RSA_PKCS_KEY_PAIR_GEN,
            // Any RSA key of these sizes satisfies the conditions on X9.31 primes that FIPS 186-5 §A.1.3 keeps.
            M::RSA_X9_31_KEY_PAIR_GEN,
            M::EC_KEY_PAIR_GEN,
            M::EC_EDWARDS_KEY_PAIR_GEN,
            M::EC_MONTGOMERY_KEY_PAIR_GEN,
            M::AES_KEY_GEN,
            M::GENERIC_SECRET_KEY_GEN,
            M::SHA_1_KEY_GEN,
            M::SHA224_KEY_GEN,
            M::SHA256_KEY_GEN,
            M::SHA384_KEY_GEN,
            M::SHA512_KEY_GEN,
            M::SHA3_224_KEY_GEN,
            M::SHA3_256_KEY_GEN,
            M::SHA3_384_KEY_GEN,
            M::SHA3_512_KEY_GEN,
            M::HKDF_KEY_GEN,
        ]
    }
}
