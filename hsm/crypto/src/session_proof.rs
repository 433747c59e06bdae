//! The proof that binds a login to a connection.

use crate::wide::edwards::{self, Scheme};

/// Whether `proof` is the login's signature over the statement of [`hsm_protocol::session::attach_statement`].
pub fn verify_session_proof(public_key: &[u8; 32], statement: &[u8], proof: &[u8]) -> bool {
    proof.try_into().is_ok_and(|proof| edwards::verify(Scheme::Pure, public_key, statement, proof))
}
