//! Sealing: everything that leaves the process, or lies on a disk, as ciphertext bound to what it is.
//!
//! [`master`] holds the cluster master key and the node's storage key, [`root`] seals them under a root of trust, [`keys`]
//! seals payloads, session objects and tokens under working keys derived from the master key, [`ring`] has those of two
//! epochs, [`row`] seals the rows of the node's own store, [`handover`] seals the master key for a new HSM. [`envelope`]
//! is the one construction that they share. Nothing here knows a mechanism.

pub(crate) mod envelope;
pub(crate) mod handover;
pub(crate) mod keys;
pub(crate) mod master;
pub(crate) mod ring;
pub(crate) mod root;
pub(crate) mod row;

pub use handover::{Handover, SealingPair};
pub use keys::{ClusterKeys, TokenClaims};
pub use master::MasterKey;
pub use ring::{KeyRing, Opened};
pub use root::{RootFault, RootOfTrust};
pub use row::{RowSum, StorageKey};

use crate::fault::CryptoFault;
use crate::wide::Hash;
use crate::wide::stretch;

/// Labels of HKDF: every key that is derived in the product, so that no two uses ever share one.
pub(crate) mod label {
    /// Wraps data keys of payloads.
    pub(crate) const PAYLOAD: &[u8] = b"kagimori payload wrap 1";
    /// Seals session objects for the client that holds them.
    pub(crate) const SESSION_OBJECT: &[u8] = b"kagimori session object 1";
    /// Seals login tokens.
    pub(crate) const TOKEN: &[u8] = b"kagimori token 1";
    /// Seals the cluster's own secrets (TLS key, activation password).
    pub(crate) const BYTES: &[u8] = b"kagimori bytes 1";
    /// Seals rows of the node's store.
    pub(crate) const ROW: &[u8] = b"kagimori row seal 1";
    /// Authenticates the sum of all rows of a store.
    pub(crate) const ROW_SUM: &[u8] = b"kagimori row sum 1";
    /// Seals an HSM's identity under a root key or a stretched passphrase.
    pub(crate) const IDENTITY: &[u8] = b"kagimori identity seal 1";
    /// Seals the master key under a root key or a stretched passphrase.
    pub(crate) const ROOT: &[u8] = b"kagimori master seal 1";
}

/// HKDF-SHA-384 from a uniformly random secret, of which only Expand is needed (RFC 5869 §3.3).
fn derive_key(secret: &[u8], label: &[u8], output: &mut [u8]) -> Result<(), CryptoFault> {
    Ok(stretch::hkdf_expand(Hash::Sha384, secret, label, output)?)
}
