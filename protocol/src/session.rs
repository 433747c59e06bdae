//! What a library signs to bind a login to a connection.

/// Bytes of the channel binding: TLS exporter output (RFC 8446 §7.5) or, on a Unix socket, the nonce of `Hello`.
pub const BINDING_BYTES: usize = 32;

/// Label of the TLS exporter. It has no context value.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-kagimori-attach";

/// Bytes of the session's Ed25519 public key.
pub const SESSION_KEY_BYTES: usize = 32;

/// Bytes that name a login session.
pub const SESSION_ID_BYTES: usize = 16;

/// The statement that `Attach` proves: this login, on this channel and no other. A stolen token is useless without the
/// session's private key, and a proof is useless on another connection.
pub fn attach_statement(binding: &[u8; BINDING_BYTES], token: &[u8]) -> Vec<u8> {
    const PURPOSE: &[u8] = b"kagimori attach 1\0";
    let mut statement = Vec::with_capacity(PURPOSE.len() + binding.len() + token.len());
    statement.extend_from_slice(PURPOSE);
    statement.extend_from_slice(binding);
    statement.extend_from_slice(token);
    statement
}
