//! What applying a command yields: changes to store, and effects to carry out.

use hsm_protocol::Role;
use serde::{Deserialize, Serialize};

use crate::audit::AuditRecord;
use crate::command::Verifier;
use crate::ids::{Epoch, NodeId, ObjectHandle, ObjectUid, SessionId, UserId};
use crate::refusal::Refusal;

/// One row of the state that a command puts or removes. The store writes them; `Hsm` absorbs them.
///
/// The value is the row's canonical encoding: what a snapshot sends and what a restart reads.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which row.
    pub row: Row,
    /// Its new value; `None` removes it.
    #[serde(with = "serde_bytes")]
    pub value: Option<Vec<u8>>,
}

/// Names a row of the state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Row {
    /// Everything there is one of: identity, lifecycle, certificates, policy.
    Cluster,
    /// The next numbers to give out. Apart from the cluster's row because it changes with every new object.
    Counters,
    /// A user.
    User(UserId),
    /// A member of the cluster.
    Member(NodeId),
    /// An epoch of the cluster master key after the first.
    Epoch(Epoch),
    /// A count of wrong passwords for a name that belongs to nobody, or an attempt under way (see `logins`).
    Attempt(Vec<u8>),
    /// A login session with the results that it may ask for again.
    Session(SessionId),
    /// Metadata of a token object.
    Object(ObjectHandle),
    /// Sealed payload of a token object: not kept in memory, read from the store when the key is needed.
    Payload(ObjectHandle),
    /// What HSMs that nobody hears may still act on.
    Lingering,
    /// Which log-ins of isolated HSMs were merged.
    Merges,
}

impl Row {
    /// Whether `Hsm` keeps the row in memory.
    pub fn in_memory(&self) -> bool {
        !matches!(self, Self::Payload(_))
    }
}

/// What must happen outside because a command was applied.
#[derive(Clone, Serialize, Deserialize)]
pub enum Effect {
    /// Answer the client; only the node that holds it does.
    Respond(Result<Response, Refusal>),
    /// Append to the audit log; every replica does.
    Audit(AuditRecord),
    /// Nothing that these sessions opened may go on.
    CloseSessions(Vec<SessionId>),
    /// Drop the parsed key from memory.
    ForgetKey(ObjectUid),
    /// The cluster's certificate or its rule for client certificates changed: use it for new connections.
    ReloadTls,
    /// Members came, went or moved.
    RosterChanged,
    /// The cluster master key has a new epoch: open it, and seal under it from now on.
    EpochBegan(Epoch),
    /// Destroy the cluster master key and its seal, then stop serving.
    Zeroize,
}

/// The result of a command that was done.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Nothing to say.
    Done,
    /// Handles of created objects, in the order of the command.
    Created(Vec<ObjectHandle>),
    /// An attempt to log in was counted; now compare. Right: propose `FinishLogin`; wrong: `FailLogin`, which writes
    /// the audit record. Without either the attempt stays counted and open for a minute.
    Attempt {
        /// Whose password; `None` = nobody's: compare with a dummy, which costs the same time.
        verifier: Option<Verifier>,
        /// Whose attempt.
        user: UserId,
        /// In which role.
        role: Role,
    },
    /// A session was opened, or (without one) a password was confirmed.
    LoggedIn {
        /// Whose.
        user: UserId,
    },
    /// A trust anchor was registered.
    TrustAnchor(u32),
}
