//! Applies the log to the state machine, and keeps the chain of hashes through it.
//!
//! `h(i) = SHA-384(h(i-1) ‖ index ‖ term ‖ stamp ‖ command)`, numbers as 8 octets big-endian, the command as it stands in
//! the log. Equal index means equal hash on every member, or one of them is wrong.
//!
//! Applying writes nothing: changes wait for the next commit (see `store/pending.rs`). The write lock on the state is
//! held for the moment in which changes are absorbed, never while the disk is waited for.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use hsm_core::command::Versioned;
use hsm_core::{Command, Effect, Index, Refusal, Response};
use openraft::storage::RaftStateMachine;
use openraft::{AsyncRuntime, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use parking_lot::{Condvar, Mutex};
use serde_bytes::ByteArray;
use sha2::{Digest, Sha384};

use crate::fault::{Fault, Faults, StorageFault};
use crate::leases::Lease;
use crate::limits;
use crate::network::{History, history_of};
use crate::node::AuditEntry;
use crate::outcome::{EffectSink, Outcome};
use crate::proposals::Proposals;
use crate::runtime::{Rt, aside, wait_for_disk};
use crate::stamp::Stamper;
use crate::state::State;
use crate::store::incoming::Prepared;
use crate::store::pending::Changes;
use crate::store::rows::{Progress, state_key};
use crate::store::snapshot::{SnapshotData, meta_of};
use crate::store::{Store, Work, panic_text};
use crate::types::{
    Batch, EncodedCommand, Entry, LogId, Membership, NodeId, RaftStorageError, Snapshot, SnapshotMeta, Types,
};

/// The state machine of one node, as openraft drives it.
pub(crate) struct Machine {
    pub(crate) state: Arc<State>,
    pub(crate) store: Arc<Store>,
    pub(crate) applied: Arc<Applied>,
    pub(crate) proposals: Arc<Proposals>,
    pub(crate) stamper: Arc<Stamper>,
    pub(crate) effects: Arc<dyn EffectSink>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) progress: Progress,
    pub(crate) history: Arc<Mutex<Option<History>>>,
    pub(crate) node: NodeId,
    pub(crate) lease: Arc<Lease>,
    /// The newest version of commands that this program knows.
    pub(crate) newest_state: u32,
}

/// The last applied command, to be waited for, and the hashes of those shortly before.
pub(crate) struct Applied {
    state: Mutex<Recent>,
    changed: Condvar,
}

struct Recent {
    index: Index,
    hash: [u8; 48],
    /// After each of the last entries, oldest first.
    before: VecDeque<(Index, [u8; 48])>,
    /// The last change of the roster that is known; at most the state that was found at the start.
    roster: Index,
}

impl Applied {
    pub(crate) fn new(progress: &Progress) -> Self {
        let (index, hash) = (progress.index, progress.hash.into_array());
        let recent = Recent { index, hash, before: VecDeque::new(), roster: index };
        Self { state: Mutex::new(recent), changed: Condvar::new() }
    }

    pub(crate) fn now(&self) -> Index {
        self.state.lock().index
    }

    /// The last change of the roster, or a later command.
    pub(crate) fn roster(&self) -> Index {
        self.state.lock().roster
    }

    fn note_roster(&self, index: Index) {
        self.state.lock().roster = index;
    }

    /// Index and chain hash of the same moment.
    pub(crate) fn with_hash(&self) -> (Index, [u8; 48]) {
        let state = self.state.lock();
        (state.index, state.hash)
    }

    /// The chain hash after the command at `index`, if an entry ended there not long ago.
    pub(crate) fn hash_at(&self, index: Index) -> Option<[u8; 48]> {
        let state = self.state.lock();
        if state.index == index {
            return Some(state.hash);
        }
        let place = state.before.binary_search_by_key(&index, |&(index, _)| index).ok()?;
        state.before.get(place).map(|&(_, hash)| hash)
    }

    pub(crate) fn wait_for(&self, index: Index, at_most: std::time::Duration) -> bool {
        let mut state = self.state.lock();
        let timeout = self.changed.wait_while_for(&mut state, |recent| recent.index < index, at_most);
        !timeout.timed_out()
    }

    fn set(&self, progress: &Progress) {
        let mut state = self.state.lock();
        let last = (state.index, state.hash);
        if progress.index > last.0 {
            if state.before.len() == limits::RECENT_HASHES {
                state.before.pop_front();
            }
            state.before.push_back(last);
        }
        (state.index, state.hash) = (progress.index, progress.hash.into_array());
        drop(state);
        self.changed.notify_all();
    }
}

impl Machine {
    fn apply_entry(&mut self, entry: Entry) -> Result<(), Fault> {
        let log_id = entry.log_id;
        match entry.payload {
            EntryPayload::Blank => self.advance(log_id, None),
            EntryPayload::Membership(membership) => {
                self.advance(log_id, Some(Membership::new(Some(log_id), membership)))
            }
            EntryPayload::Normal(batch) => self.apply_batch(log_id, &batch)?,
        }
        Ok(())
    }

    /// An entry without commands.
    fn advance(&mut self, log_id: LogId, membership: Option<Membership>) {
        self.progress.last = Some(log_id);
        if let Some(membership) = membership {
            self.progress.membership = membership;
        }
        self.store.pend(Changes { progress: Some(self.progress.clone()), ..Changes::default() });
        self.proposals.passed(log_id.leader_id);
    }

    fn apply_batch(&mut self, log_id: LogId, batch: &Batch) -> Result<(), Fault> {
        self.stamper.observe(batch.stamp);
        self.progress.stamp = self.progress.stamp.max(batch.stamp);
        if batch.lead != log_id.leader_id {
            self.advance(log_id, None);
            return Ok(());
        }
        let mut changes = Changes::default();
        let mut own = Vec::new();
        for part in batch.parts.iter() {
            let ours = self.proposals.owns(part);
            let mut outcomes = Vec::with_capacity(if ours { part.commands.len() } else { 0 });
            for encoded in part.commands.iter() {
                let (index, result) = self.apply_command(log_id, batch, encoded, &mut changes)?;
                if ours {
                    outcomes.push(Outcome::Done { index, result });
                }
            }
            if ours {
                own.push((part.number, outcomes));
            }
        }
        self.progress.last = Some(log_id);
        changes.progress = Some(self.progress.clone());
        self.store.pend(changes);
        if self.history.lock().is_none() {
            self.learn_history();
        }
        self.applied.set(&self.progress);
        own.into_iter().for_each(|(number, outcomes)| self.proposals.applied(number, outcomes));
        self.proposals.passed(log_id.leader_id);
        Ok(())
    }

    /// Looks whether this node is in the roster.
    fn look_for_self(&self) {
        let listed = self.state.read().members().contains_key(&hsm_core::NodeId(self.node));
        self.lease.set_listed(listed);
    }

    /// Remembers which history this is, as soon as there is one. A recovery begins another one, with another roster.
    fn learn_history(&self) {
        if let Some(history) = history_of(&self.state.read(), self.node) {
            *self.history.lock() = Some(history);
        }
        self.look_for_self();
    }

    fn apply_command(
        &mut self,
        log_id: LogId,
        batch: &Batch,
        encoded: &EncodedCommand,
        changes: &mut Changes,
    ) -> Result<(Index, Result<Response, Refusal>), Fault> {
        let (found, known) = (Versioned::version_of(&encoded.0), self.newest_state);
        if let Some(found) = found.filter(|&found| found > known) {
            // The others do not send it to whom they know to be older; to guess would be worse than to stop.
            return Err(Fault::NewerCommand { found, known });
        }
        let decoded =
            encoded.decode().map_err(|error| Fault::Invariant(format!("a command does not decode: {error}")))?;
        let (_, command) = decoded.into_parts();
        let command = Command { stamp: batch.stamp, ..command };
        let index = Index(self.progress.index.0 + 1);
        let state = &self.state;
        let judge = || {
            let judged = state.read().apply(index, &command);
            state.write().absorb(&judged.changes);
            judged
        };
        let judged = catch_unwind(AssertUnwindSafe(judge)).map_err(|panic| Fault::Invariant(panic_text(&*panic)))?;
        self.progress.index = index;
        self.progress.hash = ByteArray::new(chain(&self.progress.hash, index, log_id.leader_id.term, batch, encoded));
        #[cfg(hsm_sim)]
        if self.effects.falters(index) {
            self.progress.hash[0] ^= 1;
        }
        let rows = judged.changes.into_iter().map(|change| (state_key(&change.row), change.value));
        changes.rows.extend(rows);
        let mut answer = None;
        for effect in judged.effects {
            match effect {
                Effect::Respond(result) => {
                    self.effects.decided(index, &self.progress.hash, &command, &result);
                    answer = Some(result);
                }
                Effect::Audit(record) => {
                    let link = hsm_core::audit::link(&self.progress.audit_link, &record);
                    self.progress.audit_count += 1;
                    self.progress.audit_link = ByteArray::new(link);
                    changes.audit.push(AuditEntry { number: self.progress.audit_count, record, link });
                }
                other => {
                    if matches!(other, Effect::RosterChanged) {
                        self.learn_history();
                        self.applied.note_roster(index);
                    }
                    self.effects.carry_out(index, other);
                }
            }
        }
        let answer = answer.ok_or_else(|| Fault::Invariant("a command was applied without an answer".to_owned()))?;
        Ok((index, answer))
    }

    async fn install(&mut self, progress: Progress, prepared: Option<Box<Prepared>>) -> Result<(), StorageFault> {
        let (store, whole) = (self.store.clone(), progress.clone());
        let hsm = aside(move || store.install(&whole, prepared))
            .await
            .map_err(|fault| StorageFault::Damaged(fault.to_string()))?;
        if hsm.version() > self.newest_state {
            let (found, known) = (hsm.version(), self.newest_state);
            self.faults.raise(Fault::NewerCommand { found, known });
            return Err(StorageFault::Stopped);
        }
        let before = self.state.write().replace(hsm);
        self.progress = progress;
        self.stamper.observe(self.progress.stamp);
        self.learn_history();
        self.applied.note_roster(self.progress.index);
        self.applied.set(&self.progress);
        self.proposals.skipped();
        // With a million keys, letting go of them takes a while.
        aside(move || drop(before)).await;
        Ok(())
    }
}

fn chain(before: &[u8; 48], index: Index, term: u64, batch: &Batch, command: &EncodedCommand) -> [u8; 48] {
    let mut hash = Sha384::new();
    hash.update(before);
    hash.update(index.0.to_be_bytes());
    hash.update(term.to_be_bytes());
    hash.update(batch.stamp.0.to_be_bytes());
    hash.update(&command.0);
    hash.finalize().into()
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = SnapshotMarker;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), RaftStorageError> {
        Ok((self.progress.last, self.progress.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, RaftStorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut done = Vec::new();
        for entry in entries {
            let log_id = entry.log_id;
            if let Err(fault) = self.apply_entry(entry) {
                let text = fault.to_string();
                self.faults.raise(fault);
                return Err(StorageIOError::apply(log_id, &std::io::Error::other(text)).into());
            }
            done.push(());
        }
        Ok(done)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotMarker {
        SnapshotMarker { store: self.store.clone() }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotData>, RaftStorageError> {
        Ok(Box::new(SnapshotData::mark()))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotData>,
    ) -> Result<(), RaftStorageError> {
        let refused = |detail: &str| {
            StorageIOError::write_snapshot(Some(meta.signature()), &std::io::Error::other(detail.to_owned()))
        };
        let received = wait_for_disk(|| snapshot.receive(&self.store, meta));
        let (progress, prepared) = received.map_err(|fault| refused(&fault.to_string()))?;
        self.install(progress, prepared).await.map_err(|fault| refused(&fault.to_string()).into())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, RaftStorageError> {
        let snapshot = wait_for_disk(|| self.store.snapshot());
        let snapshot = snapshot.map_err(|fault| StorageIOError::read_snapshot(None, &fault))?;
        Ok(snapshot.map(|(meta, data)| Snapshot { meta, snapshot: Box::new(data) }))
    }
}

/// "Builds" a snapshot: the durable state is one, so there is only its position to tell, after what waits was written.
/// The log before it may go, as soon as no member is being sent a state that it continues.
pub(crate) struct SnapshotMarker {
    store: Arc<Store>,
}

impl RaftSnapshotBuilder<Types> for SnapshotMarker {
    async fn build_snapshot(&mut self) -> Result<Snapshot, RaftStorageError> {
        let since = self.store.traffic.log_bytes();
        let fits = || self.store.traffic.log_bytes() - since < limits::HELD_LOG_BYTES;
        while self.store.traffic.holds_log() && fits() && !self.store.is_closed() {
            <Rt as AsyncRuntime>::sleep(limits::HELD_LOG_LOOK).await;
        }
        if self.store.is_closed() {
            // The node stopped meanwhile, which is no fault of the disk.
            return Err(StorageIOError::write_snapshot(None, &StorageFault::Stopped).into());
        }
        let work = Work { durable: true, ..Work::default() };
        wait_for_disk(|| self.store.commit(&work)).map_err(|fault| StorageIOError::write_snapshot(None, &fault))?;
        Ok(Snapshot { meta: meta_of(&self.store.durable().progress), snapshot: Box::new(SnapshotData::mark()) })
    }
}
