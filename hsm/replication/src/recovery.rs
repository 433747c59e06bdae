//! A new history from one survivor's store, when the majority of the old one is gone for good.
//!
//! Two entries are put behind the survivor's log: a membership whose only voter is the survivor under a new node id, and
//! the command that begins the new incarnation. Both, the new id and a vote under which they stand are one commit of the
//! store, so a crash leaves the old member or the new one. What the log held before counts, committed or not: what was
//! acknowledged by a majority that this node belonged to is in it, and what was not has an unknown outcome anyway.
//!
//! It must not judge whether the others are gone: nobody here can know. The server asks a person.

use std::sync::Arc;

use hsm_core::command::{Origin, Versioned};
use hsm_core::{Action, Command, Effect, Hsm, Incarnation, Index, MemberRecord, Stamp};
use hsm_crypto::StorageKey;
use openraft::EntryPayload;
use redb::ReadableDatabase;

use crate::fault::{Faults, OpenFault, StorageFault};
use crate::memory::Memories;
use crate::settings::Settings;
use crate::stamp::Stamper;
use crate::store::opening::{self, Beginning, LogBounds, Opened};
use crate::store::rows::LOG;
use crate::store::{Work, encode};
use crate::types::{Batch, EncodedCommand, Entry, Lead, LogId, Member, NodeId, Part, Vote};

/// What a new history begins with.
pub struct Recovery {
    /// Its random name.
    pub incarnation: Incarnation,
    /// The survivor's new node id: random, never used before.
    pub node: u64,
    /// The survivor, as the new roster has it.
    pub member: MemberRecord,
    /// Sees the state with everything that the log holds, before the new history begins. What it says keeps the store as
    /// it is.
    pub prepare: Prepare,
}

/// Gets ready for a new history, or says why there can be none.
pub type Prepare = Box<dyn FnOnce(&Hsm) -> Result<(), String> + Send>;

impl Recovery {
    /// Rewrites the store. Nothing else may have it open.
    pub(crate) fn rewrite(self, settings: &Settings, key: &StorageKey, faults: &Arc<Faults>) -> Result<(), OpenFault> {
        let opened = opening::open(&settings.disk, key, settings.cache_bytes, faults, Beginning::No)?;
        let store = opened.store.clone();
        let rewritten = self.rewrite_opened(settings, opened);
        store.close();
        rewritten
    }

    fn rewrite_opened(self, settings: &Settings, opened: Opened) -> Result<(), OpenFault> {
        let Self { incarnation, node, member, prepare } = self;
        let entries = unapplied(&opened)?;
        let last = opened.log.last.max(opened.log.purged);
        let last = last.ok_or_else(|| OpenFault::NotFormed(settings.disk.name()))?;
        let stamps = entries.iter().filter_map(|entry| match &entry.payload {
            EntryPayload::Normal(batch) => Some(batch.stamp),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        });
        let latest = stamps.chain([opened.progress.stamp]).max().unwrap_or_default();
        let stamper = Stamper::new(settings.clock.clone(), opened.stamped);
        stamper.observe(latest);
        let lead = Lead::new(opened.vote.map_or(0, |vote| vote.leader_id.term).max(last.leader_id.term) + 1, node);
        let begin = Action::BeginIncarnation { incarnation, node: hsm_core::NodeId(node), member };
        let command = Command { stamp: stamper.now(), origin: NOBODY, action: begin };
        let Opened { store, mut hsm, progress, log, .. } = opened;
        let applied = replay(&mut hsm, progress.index, &entries)?;
        prepare(&hsm).map_err(OpenFault::Recovery)?;
        judge(&hsm, Index(applied.0 + 1), &command)?;
        let new = new_entries(last, lead, &settings.address, command)?;
        let append = new.iter().map(|entry| {
            let index = entry.log_id.index;
            Ok((index, encode("log", &index.to_be_bytes(), entry)?))
        });
        let work = Work {
            append: append.collect::<Result<_, StorageFault>>()?,
            bounds: Some(LogBounds { last: new.last().map(|entry| entry.log_id), ..log }),
            vote: Some(Vote::new(lead.term, node)),
            stamped: stamper.give(),
            // They remember another node; of this one there is nothing to remember.
            memories: Some(Memories::new()),
            node: Some(node),
            durable: true,
            ..Work::default()
        };
        Ok(store.commit(&work)?)
    }
}

/// In whose name a survivor begins a new history.
const NOBODY: Origin = Origin { session: None, sequence: 0, lowest_unanswered: 0 };

/// What the log holds beyond the stored state, in order.
fn unapplied(opened: &Opened) -> Result<Vec<Entry>, StorageFault> {
    let from = opened.progress.last.map_or(0, |applied| applied.index + 1);
    opened.store.with_database(|database| {
        let table = database.begin_read()?.open_table(LOG)?;
        let entry = |row: Result<(redb::AccessGuard<'_, u64>, redb::AccessGuard<'_, &[u8]>), redb::StorageError>| {
            let (index, sealed) = row?;
            opened.store.log_entry(index.value(), sealed.value())
        };
        table.range(from..)?.map(entry).collect()
    })
}

/// Brings the state to the end of the log, in memory, and says at which command that is.
fn replay(hsm: &mut Hsm, mut index: Index, entries: &[Entry]) -> Result<Index, OpenFault> {
    for entry in entries {
        let EntryPayload::Normal(batch) = &entry.payload else { continue };
        // An entry of another lead than it was meant for is void, as `machine` has it.
        if batch.lead != entry.log_id.leader_id {
            continue;
        }
        for encoded in batch.parts.iter().flat_map(|part| part.commands.iter()) {
            let decoded = encoded.decode().map_err(|error| OpenFault::State(error.to_string()))?;
            let (_, command) = decoded.into_parts();
            index = Index(index.0 + 1);
            let command = Command { stamp: batch.stamp, ..command };
            let changes = hsm.apply(index, &command).changes;
            hsm.absorb(&changes);
        }
    }
    Ok(index)
}

/// Whether the state takes the new history: refused afterwards it would have a voter that is in no roster.
fn judge(hsm: &Hsm, index: Index, command: &Command) -> Result<(), OpenFault> {
    let effects = hsm.apply(index, command).effects;
    match effects.first() {
        Some(Effect::Respond(Ok(_))) => Ok(()),
        Some(Effect::Respond(Err(refusal))) => Err(OpenFault::Recovery(refusal.code.explanation().to_owned())),
        _ => Err(OpenFault::State("a command was judged without an answer".to_owned())),
    }
}

/// The membership of one, and the command that begins its history.
fn new_entries(last: LogId, lead: Lead, address: &str, command: Command) -> Result<[Entry; 2], OpenFault> {
    let node: NodeId = lead.node_id;
    let alone = std::collections::BTreeMap::from([(node, Member { address: address.to_owned() })]);
    let voters = vec![std::collections::BTreeSet::from([node])];
    let stamp: Stamp = command.stamp;
    let encoded = EncodedCommand::new(&Versioned::new(command)).map_err(|error| OpenFault::State(error.to_string()))?;
    let part = Part { proposer: node, boot: 0, number: 0, commands: Arc::new([encoded]) };
    let batch = Batch { stamp, lead, parts: Arc::new([part]) };
    let at = |offset| LogId::new(lead, last.index + offset);
    Ok([
        Entry { log_id: at(1), payload: EntryPayload::Membership(openraft::Membership::new(voters, alone)) },
        Entry { log_id: at(2), payload: EntryPayload::Normal(batch) },
    ])
}
