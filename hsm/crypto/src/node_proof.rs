//! The proof by which an HSM shows on a connection that it holds its node key, and which sealing key is its own.

use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1, UnparsedPublicKey};

/// Whether `proof` is a signature over `statement` (ECDSA on P-384 with SHA-384, DER) by this key, an uncompressed point.
pub fn verify_node_proof(public_point: &[u8], statement: &[u8], proof: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, public_point).verify(statement, proof).is_ok()
}
