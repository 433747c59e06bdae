//! The tables of the store, the keys of their rows, and the rows that are not the state machine's.

use hsm_core::change::Row;
use hsm_core::{Index, ObjectHandle, SessionId, Stamp, UserId};
use redb::TableDefinition;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use crate::types::{LogId, Membership, NodeId};

/// Version of everything written here. Raised by any change that an older version would misread.
pub(crate) const FORMAT: u32 = 1;

/// In clear, so that an older version can say that the store is newer: the format number.
pub(crate) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Log entries by their position.
pub(crate) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Rows of the state machine, payloads last.
pub(crate) const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");
/// Audit entries by their number.
pub(crate) const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
/// A snapshot that is being received: state and audit rows under the keys that they will have.
pub(crate) const INCOMING_STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("incoming-state");
/// See [`INCOMING_STATE`].
pub(crate) const INCOMING_AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("incoming-audit");

/// Rows of [`META`].
pub(crate) mod meta {
    pub(crate) const FORMAT: &str = "format";
    pub(crate) const IDENTITY: &str = "identity";
    pub(crate) const COMMIT: &str = "commit";
    pub(crate) const VOTE: &str = "vote";
    pub(crate) const BOUNDS: &str = "bounds";
    pub(crate) const PROGRESS: &str = "progress";
    pub(crate) const STAMPED: &str = "stamped";
    /// There in a store that was made to join a cluster and not to begin one.
    pub(crate) const JOINS: &str = "joins";
    /// Which history it joins: what counts until there is state.
    pub(crate) const HISTORY: &str = "history";
    pub(crate) const MEMORIES: &str = "memories";
    /// How far a snapshot goes that lies as a whole in the tables of incoming rows.
    pub(crate) const INCOMING: &str = "incoming";
}

/// Who this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) format: u32,
    pub(crate) node: NodeId,
}

/// How far the state machine is, and the chains through what it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// Last applied log entry.
    pub(crate) last: Option<LogId>,
    /// Last applied membership.
    pub(crate) membership: Membership,
    /// Last applied command.
    pub(crate) index: Index,
    /// Stamp of the last applied entry.
    pub(crate) stamp: Stamp,
    /// SHA-384 chain through all commands: see `machine.rs`.
    pub(crate) hash: ByteArray<48>,
    /// Audit entries so far.
    pub(crate) audit_count: u64,
    /// Link of the last one.
    pub(crate) audit_link: ByteArray<48>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            last: None,
            membership: Membership::default(),
            index: Index::default(),
            stamp: Stamp::default(),
            hash: ByteArray::new([0; 48]),
            audit_count: 0,
            audit_link: ByteArray::new(hsm_core::audit::FIRST_LINK),
        }
    }
}

const CLUSTER: u8 = 1;
const USER: u8 = 2;
const ATTEMPT: u8 = 3;
const SESSION: u8 = 4;
const OBJECT: u8 = 5;
const COUNTERS: u8 = 6;
const MEMBER: u8 = 7;
const EPOCH: u8 = 8;
const LINGERING: u8 = 9;
const MERGES: u8 = 10;
/// Far above the others, so that new kinds of rows that are kept in memory find room before it.
const PAYLOAD: u8 = 0xf0;

/// Where the payloads begin in [`STATE`]: everything before is kept in memory too.
pub(crate) const FIRST_PAYLOAD: &[u8] = &[PAYLOAD];

/// Key of a row of the state machine in [`STATE`]: a kind, then the name; numbers big-endian so that they sort.
pub(crate) fn state_key(row: &Row) -> Vec<u8> {
    let with = |kind: u8, name: &[u8]| [&[kind], name].concat();
    match row {
        Row::Cluster => vec![CLUSTER],
        Row::Counters => vec![COUNTERS],
        Row::Member(node) => with(MEMBER, &node.0.to_be_bytes()),
        Row::Epoch(epoch) => with(EPOCH, &epoch.0.to_be_bytes()),
        Row::User(user) => with(USER, &user.0.to_be_bytes()),
        Row::Attempt(name) => with(ATTEMPT, name),
        Row::Session(session) => with(SESSION, &session.0),
        Row::Object(handle) => with(OBJECT, &handle.0.to_be_bytes()),
        Row::Lingering => vec![LINGERING],
        Row::Merges => vec![MERGES],
        Row::Payload(handle) => with(PAYLOAD, &handle.0.to_be_bytes()),
    }
}

/// The row that a key names; `None` for a key that this version never writes.
pub(crate) fn state_row(key: &[u8]) -> Option<Row> {
    let (&kind, name) = key.split_first()?;
    let number = || name.try_into().ok().map(u64::from_be_bytes);
    match kind {
        CLUSTER if name.is_empty() => Some(Row::Cluster),
        COUNTERS if name.is_empty() => Some(Row::Counters),
        LINGERING if name.is_empty() => Some(Row::Lingering),
        MERGES if name.is_empty() => Some(Row::Merges),
        MEMBER => Some(Row::Member(hsm_core::NodeId(number()?))),
        EPOCH => Some(Row::Epoch(hsm_core::Epoch(name.try_into().ok().map(u32::from_be_bytes)?))),
        USER => Some(Row::User(UserId(number()?))),
        ATTEMPT => Some(Row::Attempt(name.to_vec())),
        SESSION => Some(Row::Session(SessionId(name.try_into().ok()?))),
        OBJECT => Some(Row::Object(ObjectHandle(number()?))),
        PAYLOAD => Some(Row::Payload(ObjectHandle(number()?))),
        _ => None,
    }
}

/// Hexadecimal digits of a key, for messages.
pub(crate) fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_under_its_key_and_payloads_sort_last() {
        let rows = [
            Row::Cluster,
            Row::Counters,
            Row::Lingering,
            Row::Merges,
            Row::User(UserId(7)),
            Row::Epoch(hsm_core::Epoch(2)),
            Row::Member(hsm_core::NodeId(u64::MAX)),
            Row::Attempt(b"mallory".to_vec()),
            Row::Attempt(Vec::new()),
            Row::Session(SessionId([9; 16])),
            Row::Object(ObjectHandle(u64::MAX)),
            Row::Payload(ObjectHandle(1)),
        ];
        for row in rows {
            let key = state_key(&row);
            assert_eq!(key.as_slice() >= FIRST_PAYLOAD, !row.in_memory());
            assert_eq!(state_row(&key), Some(row));
        }
        for bad in [&[][..], &[0], &[1, 1], &[2, 1], &[7, 0], &[8, 0], &[9, 0]] {
            assert_eq!(state_row(bad), None);
        }
    }
}
