//! What goes wrong with the store or the node, and who must do something about it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Reading a row failed. The node goes on with what it has; a broken row stays refused.
#[derive(Debug, thiserror::Error)]
pub enum StorageFault {
    /// The row exists and is not what was written: a flipped bit, or another master key.
    #[error("row {row} of table {table:?} is broken ({detail}): restore the store from a backup or rejoin the cluster")]
    Broken {
        /// Table of the store.
        table: &'static str,
        /// The row's key, in hexadecimal.
        row: String,
        /// What was seen.
        detail: String,
    },
    /// The database around the rows is damaged.
    #[error("the store is damaged ({0}): restore it from a backup or rejoin the cluster")]
    Damaged(String),
    /// The operating system refused to read or write.
    #[error("the store's disk failed: {0}")]
    Disk(#[source] io::Error),
    /// The disk is full.
    #[error("the store's disk is full: make room and start again")]
    Full,
    /// An earlier fault stopped this store; the process must end.
    #[error("the store has stopped after an earlier fault: look above in the log, then start the HSM again")]
    Stopped,
}

/// A node could not be formed or opened. Nothing was repaired.
#[derive(Debug, thiserror::Error)]
pub enum OpenFault {
    /// Another process has the store open.
    #[error("another process uses the store {0}: stop that process, or give this one a data folder of its own")]
    InUse(String),
    /// `form` was asked for where a history exists already.
    #[error("the store {0} holds a cluster already: open it, or form the new one in an empty folder")]
    AlreadyFormed(String),
    /// `open` was asked for where nothing was formed.
    #[error("the store {0} holds no cluster: form one first")]
    NotFormed(String),
    /// The store belongs to another node than the one that shall join.
    #[error("the store belongs to node {found:x}, not to {asked:x}: join with an empty store, or under the first id")]
    OtherNode {
        /// Node of the store.
        found: u64,
        /// Node that shall join.
        asked: u64,
    },
    /// The store was written by a newer version.
    #[error("the store has format {found}, this version reads up to {known}: use a newer kagimori-hsm")]
    NewerFormat {
        /// Format of the store.
        found: u32,
        /// Newest format that this version reads.
        known: u32,
    },
    /// The state uses a later version of commands than this program knows.
    #[error(
        "the cluster uses version {found} of commands, this program knows {known} at most: use a newer kagimori-hsm"
    )]
    NewerState {
        /// Version in use.
        found: u32,
        /// Newest version that this program knows.
        known: u32,
    },
    /// The rows of the store do not open under this key although the store itself is whole.
    #[error("the store was sealed under another cluster master key: give the master key that belongs to it")]
    OtherKey,
    /// Something that was durable is missing: the store is older than the mark beside it.
    #[error(
        "the store ends at commit {found}, but commit {durable} was on disk: the store file was damaged or replaced by \
         an older one; restore the newest copy of the store and its mark together"
    )]
    RolledBack {
        /// Last durable commit of the store.
        found: u64,
        /// Last durable commit that the mark names.
        durable: u64,
    },
    /// The store is broken or cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageFault),
    /// The stored state contradicts itself.
    #[error("the stored state is broken ({0}): restore the store from a backup or rejoin the cluster")]
    State(String),
    /// The Raft engine did not come up.
    #[error("replication did not start: {0}")]
    Engine(String),
    /// A survivor's store was not made the beginning of a new history. Nothing was changed.
    #[error("the cluster could not be recovered from this store: {0}")]
    Recovery(String),
    /// The first command of a new history was refused or failed.
    #[error("the cluster could not be formed: {0}")]
    Form(String),
}

/// This node must stop. Everything acknowledged before is durable; what was under way has an unknown outcome.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The store failed while writing: after a failed fsync nothing may be assumed, so the process ends.
    #[error("the store failed: {0}")]
    Storage(String),
    /// The disk became full in the middle of a write, faster than the reserve could be watched.
    #[error("the disk is full: make room and start the HSM again; nothing acknowledged is lost")]
    StorageFull,
    /// The state machine met a state that must not be. Its message names the broken invariant, no operand.
    #[error("an invariant is broken: {0}")]
    Invariant(String),
    /// This node's state differs from that of most voters at the same command: it must not go on with it.
    #[error(
        "this HSM's state differs from that of most voters: its disk or memory failed; empty its data folder and let it \
         join again"
    )]
    Diverged,
    /// The cluster uses a later version of commands than this program knows.
    #[error(
        "the cluster uses version {found} of commands, and this program knows {known} at most: update kagimori-hsm here, \
         then start it again"
    )]
    NewerCommand {
        /// The version that is used.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// The Raft engine ended by itself.
    #[error("replication ended: {0}")]
    Engine(String),
}

impl StorageFault {
    /// A row that is not what was written.
    pub(crate) fn broken(table: &'static str, key: &[u8], detail: impl std::fmt::Display) -> Self {
        Self::Broken { table, row: crate::store::rows::hexadecimal(key), detail: detail.to_string() }
    }

    /// Whether the disk being full is the cause.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Full)
    }
}

impl From<io::Error> for StorageFault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            // What redb says of a file that is none of its own.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Damaged(error.to_string()),
            _ => Self::Disk(error),
        }
    }
}

impl From<redb::Error> for StorageFault {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) => error.into(),
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => Self::Stopped,
            other => Self::Damaged(other.to_string()),
        }
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for StorageFault {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        })*
    };
}

from_redb!(StorageError, TableError, TransactionError, CommitError, DatabaseError, SetDurabilityError);

impl From<hsm_crypto::CryptoFault> for StorageFault {
    fn from(fault: hsm_crypto::CryptoFault) -> Self {
        Self::Damaged(format!("a row could not be sealed: {fault}"))
    }
}

impl From<Fault> for StorageFault {
    fn from(fault: Fault) -> Self {
        Self::Damaged(fault.to_string())
    }
}

/// Tells the process once that the node must stop, and everybody else that it has.
pub(crate) struct Faults {
    raised: AtomicBool,
    on_fault: Arc<dyn Fn(Fault) + Send + Sync>,
}

impl Faults {
    pub(crate) fn new(on_fault: Arc<dyn Fn(Fault) + Send + Sync>) -> Self {
        Self { raised: AtomicBool::new(false), on_fault }
    }

    /// The first fault is told, the others follow from it.
    pub(crate) fn raise(&self, fault: Fault) {
        if !self.raised.swap(true, Ordering::SeqCst) {
            (self.on_fault)(fault);
        }
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::SeqCst)
    }
}
