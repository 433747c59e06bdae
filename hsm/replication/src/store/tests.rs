//! The store as openraft sees it, by openraft's own test suite, and what it keeps over restarts.

use std::sync::Arc;

use hsm_core::Row;
use hsm_core::{Epoch, ObjectHandle};
use hsm_crypto::{MasterKey, Module};
use openraft::storage::{RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite, blank_ent};
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::log::LogStore;
use super::opening::{self, Beginning, Opened};
use super::rows::state_key;
use super::*;
use crate::clock::SystemClock;
use crate::disk::{MARK_BYTES, MARK_SLOT_BYTES};
use crate::fault::OpenFault;
use crate::machine::{Applied, Machine};
use crate::outcome::NoEffects;
use crate::proposals::Proposals;
use crate::stamp::Stamper;
use crate::state::State;
use crate::types::{Batch, EncodedCommand, Lead, NodeId, Part, RaftStorageError, Types};

/// Memory that outlives the database on it.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryDisk(Arc<InMemoryBackend>);

impl StorageBackend for MemoryDisk {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
}

impl Disk for MemoryDisk {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn open(&self) -> std::io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(self.clone()))
    }

    fn free_bytes(&self) -> std::io::Result<u64> {
        Ok(u64::MAX)
    }

    fn read_mark(&self) -> std::io::Result<[u8; MARK_BYTES]> {
        Ok([0; MARK_BYTES])
    }

    fn write_mark(&self, _slot: usize, _mark: &[u8; MARK_SLOT_BYTES]) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) fn key() -> StorageKey {
    let module = Module::start().unwrap();
    MasterKey::generate(&module, Epoch(1)).unwrap().storage_key(&module).unwrap()
}

pub(super) fn open(disk: &MemoryDisk, key: &StorageKey, new_node: Option<NodeId>) -> Result<Opened, OpenFault> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let beginning = new_node.map_or(Beginning::No, Beginning::Forms);
    opening::open(&disk, key, 1024 * 1024, &Arc::new(Faults::new(Arc::new(|_| {}))), beginning)
}

pub(super) fn parts(opened: Opened) -> (LogStore, Machine) {
    let Opened { store, node, hsm, progress, log, vote, stamped, .. } = opened;
    let stamper = Arc::new(Stamper::new(Arc::new(SystemClock::start()), stamped));
    let proposals = Arc::new(Proposals::new(node, 1, std::time::Duration::from_secs(1), 0));
    let log = LogStore::new(store.clone(), node, log, vote, proposals.clone(), stamper.clone());
    let machine = Machine {
        state: Arc::new(State::new(hsm)),
        applied: Arc::new(Applied::new(&progress)),
        effects: Arc::new(NoEffects),
        faults: Arc::new(Faults::new(Arc::new(|_| {}))),
        store,
        proposals,
        stamper,
        progress,
        history: Arc::default(),
        node,
        lease: Arc::new(crate::leases::Lease::new(true)),
        newest_state: hsm_core::versions::NEWEST,
    };
    (log, machine)
}

struct NewStores;

impl StoreBuilder<Types, LogStore, Machine> for NewStores {
    async fn build(&self) -> Result<((), LogStore, Machine), RaftStorageError> {
        let (log, machine) = parts(open(&MemoryDisk::default(), &key(), Some(7)).unwrap());
        Ok(((), log, machine))
    }
}

#[test]
fn the_store_keeps_every_promise_that_openraft_tests() {
    Suite::test_all(NewStores).unwrap();
}

/// Something done to the rows behind the store's back.
type Tamper<'a> = &'a dyn Fn(&mut Table<'_, &[u8], &[u8]>);

fn changes(users: std::ops::Range<u64>, last: u64) -> Changes {
    let row = |user: u64| (state_key(&Row::Payload(ObjectHandle(user))), Some(vec![user.to_le_bytes()[0]; 40]));
    let log_id = blank_ent::<Types>(1, 7, last).log_id;
    let progress = Progress { last: Some(log_id), index: hsm_core::Index(last), ..Progress::default() };
    Changes { rows: users.map(row).collect(), audit: Vec::new(), progress: Some(progress) }
}

#[test]
fn what_waits_is_seen_and_survives_only_with_a_durable_commit() {
    let (disk, key) = (MemoryDisk::default(), key());
    let store = open(&disk, &key, Some(7)).unwrap().store;
    store.pend(changes(1..3, 4));
    let row = |store: &Store, user: u64| store.pending.row(&state_key(&Row::Payload(ObjectHandle(user))));
    assert_eq!(row(&store, 2), Some(Some(vec![2; 40])));
    assert_eq!(store.durable().progress.index.0, 0);
    store.commit(&Work { durable: true, ..Work::default() }).unwrap();
    assert_eq!((row(&store, 2), store.durable().progress.index.0), (None, 4));
    store.pend(changes(3..5, 5));
    drop(store);
    let store = open(&disk, &key, None).unwrap().store;
    assert_eq!(store.durable().progress.index.0, 4);
    store.close();
    assert!(matches!(store.payload(ObjectHandle(1)), Err(StorageFault::Stopped)));
}

#[test]
fn a_row_that_was_removed_or_put_back_is_missed() {
    let (disk, key) = (MemoryDisk::default(), key());
    let store = open(&disk, &key, Some(7)).unwrap().store;
    store.pend(changes(1..4, 4));
    store.commit(&Work { durable: true, ..Work::default() }).unwrap();
    let place = state_key(&Row::Payload(ObjectHandle(2)));
    let tamper = |change: Tamper<'_>| {
        store
            .with_database(|database| {
                let transaction = database.begin_write()?;
                change(&mut transaction.open_table(STATE)?);
                Ok(transaction.commit()?)
            })
            .unwrap();
    };
    let sealed = store
        .with_database(|database| {
            let table = database.begin_read()?.open_table(STATE)?;
            Ok(table.get(place.as_slice())?.unwrap().value().to_vec())
        })
        .unwrap();
    tamper(&|table| drop(table.remove(place.as_slice()).unwrap()));
    store.close();
    let refused = open(&disk, &key, None).err();
    assert!(matches!(refused, Some(OpenFault::Storage(StorageFault::Damaged(_)))), "a removed row");
    assert!(key.open_row("state", &place, &sealed).is_ok());
}

#[tokio::test]
async fn the_own_vote_comes_back_uncommitted_and_a_foreign_one_as_it_was() {
    for (voter, committed) in [(7, false), (8, true)] {
        let (disk, key) = (MemoryDisk::default(), key());
        let (mut log, _machine) = parts(open(&disk, &key, Some(7)).unwrap());
        use openraft::storage::RaftLogStorage;
        log.save_vote(&Vote::new_committed(3, voter)).await.unwrap();
        drop((log, _machine));
        let (mut log, _machine) = parts(open(&disk, &key, None).unwrap());
        let vote = log.read_vote().await.unwrap().unwrap();
        assert_eq!((vote.leader_id.term, vote.leader_id.node_id, vote.committed), (3, voter, committed));
    }
}

#[tokio::test]
async fn a_snapshot_of_many_chunks_carries_every_row_to_another_store_under_its_own_key() {
    let (_log, machine) = parts(open(&MemoryDisk::default(), &key(), Some(7)).unwrap());
    machine.store.pend(changes(0..30_000, 9));
    let (meta, data) = machine.store.snapshot().unwrap().unwrap();
    let mut reader = data.into_reader().unwrap();
    let receiver = snapshot::Receiver::new();
    let (_other_log, mut other) = parts(open(&MemoryDisk::default(), &key(), Some(8)).unwrap());
    other.store.pend(changes(40_000..40_010, 2));
    let mut chunks = 0;
    let mut earlier = Vec::new();
    let progress = loop {
        let chunk = reader.next_chunk().unwrap();
        chunks += 1;
        match receiver.take(&other.store, &meta, &chunk).unwrap() {
            snapshot::Received::Stored => {}
            snapshot::Received::Whole(progress) => break progress,
            snapshot::Received::OutOfOrder => panic!("the chunks are in order"),
        }
        let again = receiver.take(&other.store, &meta, &chunk).unwrap();
        assert!(matches!(again, snapshot::Received::Stored), "a chunk whose answer was lost may come again");
        earlier.push(chunk);
        if let [.., before_last, _] = earlier.as_slice()
            && chunks > 2
        {
            let late = receiver.take(&other.store, &meta, before_last).unwrap();
            assert!(matches!(late, snapshot::Received::OutOfOrder), "an earlier one is refused");
        }
    };
    assert!(chunks > 1, "{chunks} chunks");
    let data = Box::new(snapshot::SnapshotData::received(progress));
    other.install_snapshot(&meta, data).await.unwrap();
    assert_eq!(other.applied_state().await.unwrap().0.map(|last| last.index), Some(9));
    let rows = |store: &Store| {
        store
            .with_database(|database| {
                let table = database.begin_read()?.open_table(STATE)?;
                let mut rows = Vec::new();
                for row in table.range::<&[u8]>(..)? {
                    let (key, sealed) = row?;
                    rows.push((key.value().to_vec(), store.unseal("state", key.value(), sealed.value())?));
                }
                Ok(rows)
            })
            .unwrap()
    };
    assert_eq!(rows(&other.store).len(), 30_000);
    assert!(rows(&other.store) == rows(&machine.store));
}

#[tokio::test]
async fn rows_that_came_after_a_whole_snapshot_are_not_installed_for_it() {
    let (_log, machine) = parts(open(&MemoryDisk::default(), &key(), Some(7)).unwrap());
    machine.store.pend(changes(0..30_000, 9));
    let (meta, data) = machine.store.snapshot().unwrap().unwrap();
    let mut reader = data.into_reader().unwrap();
    let receiver = snapshot::Receiver::new();
    let (_other_log, mut other) = parts(open(&MemoryDisk::default(), &key(), Some(8)).unwrap());
    let first = reader.next_chunk().unwrap();
    let mut received = receiver.take(&other.store, &meta, &first).unwrap();
    let progress = loop {
        match received {
            snapshot::Received::Whole(progress) => break progress,
            _ => received = receiver.take(&other.store, &meta, &reader.next_chunk().unwrap()).unwrap(),
        }
    };
    // The first chunk comes again before the whole is installed.
    receiver.take(&other.store, &meta, &first).unwrap();
    let data = Box::new(snapshot::SnapshotData::received(progress));
    assert!(other.install_snapshot(&meta, data).await.is_err());
    assert_eq!(other.applied_state().await.unwrap().0, None, "a part of it is nothing");
}

#[test]
fn what_a_power_cut_may_take_counts_as_not_reached() {
    let opened = open(&MemoryDisk::default(), &key(), Some(7)).unwrap();
    let last = blank_ent::<Types>(2, 7, 0).log_id;
    let bounds = LogBounds { purged: None, last: Some(last) };
    opened.store.commit(&Work { bounds: Some(bounds), ..Work::default() }).unwrap();
    assert_eq!(opened.store.durable().log.end(), None, "it is written and not flushed");
    let vote = Vote::new(2, 7);
    opened.store.commit(&Work { vote: Some(vote), durable: true, ..Work::default() }).unwrap();
    assert_eq!((opened.store.durable().vote, opened.store.durable().log.end()), (Some(vote), Some(last)));
}

#[tokio::test]
async fn entries_are_read_from_memory_and_disk_alike() {
    let (disk, key) = (MemoryDisk::default(), key());
    let (mut log, machine) = parts(open(&disk, &key, Some(7)).unwrap());
    for index in 0..200 {
        log.blocking_append([blank_ent::<Types>(1, 7, index)]).await.unwrap();
    }
    use openraft::RaftLogReader;
    for (first, end) in [(0, 200), (10, 20), (130, 150), (199, 200), (0, 1)] {
        let entries = log.try_get_log_entries(first..end).await.unwrap();
        let found: Vec<_> = entries.iter().map(|entry| entry.log_id.index).collect();
        assert_eq!(found, (first..end).collect::<Vec<_>>());
    }
    drop((log, machine));
    let opened = open(&disk, &key, None).unwrap();
    assert_eq!(opened.log.last.map(|last| last.index), Some(199));
}

#[tokio::test]
async fn a_batch_that_was_meant_for_another_lead_is_void() {
    let (_log, mut machine) = parts(open(&MemoryDisk::default(), &key(), Some(7)).unwrap());
    let origin = hsm_core::command::Origin { session: None, sequence: 0, lowest_unanswered: 0 };
    let action = hsm_core::Action::RemoveMember { hsm: hsm_core::HsmId([1; 16]) };
    let command = hsm_core::Command { stamp: hsm_core::Stamp(5), origin, action };
    let encoded = EncodedCommand::new(&hsm_core::command::Versioned::new(command)).unwrap();
    for (index, (term, node), applied) in [(0, (2, 7), 0), (1, (3, 8), 0), (2, (3, 7), 1)] {
        // It stands in the log under the lead of node 7 in term 3.
        let mut entry = blank_ent::<Types>(3, 7, index);
        let part = Part { proposer: 8, boot: 1, number: 1, commands: Arc::new([encoded.clone()]) };
        let lead = Lead::new(term, node);
        entry.payload =
            openraft::EntryPayload::Normal(Batch { stamp: hsm_core::Stamp(5), lead, parts: Arc::new([part]) });
        machine.apply([entry]).await.unwrap();
        assert_eq!(machine.applied.now().0, applied);
        assert_eq!(machine.applied_state().await.unwrap().0.map(|last| last.index), Some(index));
    }
}

#[tokio::test]
async fn a_command_of_a_later_version_stops_the_node_by_name_and_is_not_guessed_at() {
    let (_log, mut machine) = parts(open(&MemoryDisk::default(), &key(), Some(7)).unwrap());
    let told = Arc::new(Mutex::new(None));
    let ear = told.clone();
    machine.faults = Arc::new(Faults::new(Arc::new(move |fault| *ear.lock() = Some(fault))));
    let later = hsm_core::versions::NEWEST + 1;
    // Postcard's number of the variant, then what this program cannot know.
    let encoded = EncodedCommand(vec![u8::try_from(later - 1).unwrap(), 0xde, 0xad]);
    let part = Part { proposer: 8, boot: 1, number: 1, commands: Arc::new([encoded]) };
    let mut entry = blank_ent::<Types>(1, 7, 0);
    let (stamp, lead) = (hsm_core::Stamp(5), Lead::new(1, 7));
    entry.payload = openraft::EntryPayload::Normal(Batch { stamp, lead, parts: Arc::new([part]) });
    assert!(machine.apply([entry]).await.is_err());
    assert_eq!(machine.applied.now().0, 0);
    let fault = told.lock().take().expect("the process is told");
    assert!(matches!(fault, crate::fault::Fault::NewerCommand { found, .. } if found == later), "{fault}");
}
