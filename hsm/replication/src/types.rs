//! The words of openraft as this crate uses them, and what a log entry holds.

use std::sync::Arc;

use hsm_core::Stamp;
use hsm_core::command::Versioned;
use serde::{Deserialize, Serialize};

use crate::runtime::Rt;
use crate::store::snapshot::SnapshotData;

/// A member's id: random, never used twice.
pub(crate) type NodeId = u64;

pub(crate) type Entry = openraft::Entry<Types>;
/// Who leads, and in which term. One term may have several leaders one after another (openraft's "advanced" leader ids):
/// only both together are one time of leading, and they are ordered.
pub(crate) type Lead = openraft::LeaderId<NodeId>;
pub(crate) type LogId = openraft::LogId<NodeId>;
pub(crate) type Membership = openraft::StoredMembership<NodeId, Member>;
pub(crate) type Raft = openraft::Raft<Types>;
pub(crate) type RaftStorageError = openraft::StorageError<NodeId>;
pub(crate) type Snapshot = openraft::Snapshot<Types>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<NodeId, Member>;
pub(crate) type Vote = openraft::Vote<NodeId>;

openraft::declare_raft_types!(
    /// Ends openraft's generics: every other signature of this crate is concrete.
    pub(crate) Types:
        D = Batch,
        R = (),
        NodeId = NodeId,
        Node = Member,
        Entry = openraft::Entry<Types>,
        SnapshotData = SnapshotData,
        Responder = openraft::impls::OneshotResponder<Types>,
        AsyncRuntime = Rt,
);

/// What the roster of Raft says of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Where other members reach it; empty for a sole HSM.
    pub(crate) address: String,
}

/// What one log entry holds. Cheap to clone.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// The leader's time, which every command of the batch carries.
    pub(crate) stamp: Stamp,
    /// Under which lead it was meant to be proposed. An entry of another one is void: so a command that waited while its
    /// leader lost the lead and won it again is not done behind the back of a caller that was told it was not.
    pub(crate) lead: Lead,
    /// The leader's own part first, then what other members forwarded.
    pub(crate) parts: Arc<[Part]>,
}

/// Commands of one member.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Where callers wait for it.
    pub(crate) proposer: NodeId,
    /// Which start of that node: random.
    pub(crate) boot: u64,
    /// Its number since that start, from 1.
    pub(crate) number: u64,
    /// Each a [`Versioned`] command in postcard.
    pub(crate) commands: Arc<[EncodedCommand]>,
}

impl Part {
    /// Octets of all its commands.
    pub(crate) fn bytes(&self) -> usize {
        self.commands.iter().map(|command| command.0.len()).sum()
    }
}

impl std::fmt::Debug for Batch {
    /// Never what the commands say.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let commands: usize = self.parts.iter().map(|part| part.commands.len()).sum();
        write!(formatter, "batch of {commands} commands in {} parts", self.parts.len())
    }
}

/// A [`Versioned`] command in postcard: what the chain of hashes runs over.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct EncodedCommand(#[serde(with = "serde_bytes")] pub(crate) Vec<u8>);

impl EncodedCommand {
    pub(crate) fn new(command: &Versioned) -> Result<Self, postcard::Error> {
        postcard::to_stdvec(command).map(Self)
    }

    pub(crate) fn decode(&self) -> Result<Versioned, postcard::Error> {
        postcard::from_bytes(&self.0)
    }
}

/// One postcard decoding of everything that this crate stores or sends.
///
/// # Errors
/// Anything left over is an error too.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(octets: &[u8]) -> Result<T, postcard::Error> {
    match postcard::take_from_bytes(octets)? {
        (value, []) => Ok(value),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}
