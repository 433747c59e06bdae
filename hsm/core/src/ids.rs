//! The names of things, each a type of its own so that one is never taken for another.

use hsm_protocol::Role;
use serde::{Deserialize, Serialize};

/// A token object as applications name it: given by the log, the same on every HSM, never used twice. From 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectHandle(pub u64);

/// An object as its seal names it: random, made with the object (`CKA_UNIQUE_ID` is its hexadecimal form).
///
/// The seal cannot use [`ObjectHandle`], which exists only once the log has applied the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectUid(pub [u8; 16]);

/// A user: given by the log, never used twice. 0 is nobody, the owner of public session objects made without login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UserId(pub u64);

impl UserId {
    /// No user: what a connection without login acts as.
    pub const NOBODY: Self = Self(0);
}

/// A login session: random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

/// One attempt to log in, between its reservation and its outcome: random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId(pub [u8; 16]);

/// A cluster: random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

/// One history of a cluster: random; restore and recovery start a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub [u8; 16]);

/// Position of a command in the replicated log, counted in commands (not in entries, which hold batches). From 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Index(pub u64);

/// Which cluster master key a wrap was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u32);

/// An HSM: random, made at its first start, the same as long as its data folder lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HsmId(pub [u8; 16]);

/// A member as replication counts votes: random, given with an admission, never used twice. A wiped disk is a new node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

/// Time that the leader gave a command: milliseconds since 1970-01-01 UTC, never less than the command before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp(pub u64);

/// In whose name a request is made. Says who claims to act; the state says whether the session still stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A connection without login: sees public objects only.
    Nobody,
    /// A login session.
    Session {
        /// Its record in the state.
        session: SessionId,
        /// The user it belongs to.
        user: UserId,
        /// The role it was opened in.
        role: Role,
    },
}
