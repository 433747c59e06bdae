//! Stores and snapshots of every released format: see `testing/fixtures/README.md`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hsm_crypto::{MasterKey, Module, RootOfTrust, StorageKey};
use openraft::RaftLogReader;
use openraft::storage::RaftStateMachine;

use super::opening::{self, Beginning, Opened};
use super::snapshot::{Chunk, Received, Receiver};
use super::tests::{MemoryDisk, key, open, parts};
use crate::disk::FileDisk;
use crate::fault::Faults;
use crate::store::rows::hexadecimal;
use crate::types::{SnapshotMeta, decode};

/// What stands in the file `snapshot`.
type Stored = (SnapshotMeta, Vec<Chunk>);

/// A copy of a stored data folder, its key, and what it holds. Removed when dropped.
struct Copy {
    fixture: PathBuf,
    folder: PathBuf,
    key: StorageKey,
    expected: BTreeMap<String, String>,
}

impl Copy {
    fn of(fixture: PathBuf) -> Self {
        let name = format!("kagimori-fixture-{}-{:x}", std::process::id(), rand_number());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for file in ["root.key", "master.seal", "store.redb", "store.mark"] {
            std::fs::copy(fixture.join("data").join(file), folder.join(file)).unwrap();
            std::fs::set_permissions(folder.join(file), std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let root = RootOfTrust::read_file(&folder.join("root.key")).unwrap();
        let sealed = std::fs::read(folder.join("master.seal")).unwrap();
        let key = MasterKey::unseal(&root, &sealed).unwrap().storage_key(&Module::start().unwrap()).unwrap();
        let text = std::fs::read_to_string(fixture.join("expected")).unwrap();
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        let expected = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { fixture, folder, key, expected }
    }

    fn open(&self) -> Opened {
        let disk: Arc<dyn crate::disk::Disk> = Arc::new(FileDisk::new(self.folder.join("store.redb")));
        let faults = Arc::new(Faults::new(Arc::new(|fault| panic!("{fault}"))));
        opening::open(&disk, &self.key, 1024 * 1024, &faults, Beginning::No).unwrap()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn rand_number() -> u64 {
    use crate::randomness::{Randomness, SystemRandomness};
    SystemRandomness.number()
}

fn fixtures() -> impl Iterator<Item = Copy> {
    let stores = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testing/fixtures/stores");
    let folders: Vec<_> = std::fs::read_dir(stores).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!folders.is_empty(), "there are no fixtures");
    folders.into_iter().map(Copy::of)
}

#[tokio::test]
async fn the_log_of_every_released_format_is_replayed_to_the_hash_that_it_had() {
    for copy in fixtures() {
        let opened = copy.open();
        let (from, last) = (opened.progress.last, opened.log.last.expect("a log"));
        let before = opened.progress.index;
        let (mut log, mut machine) = parts(opened);
        let next = from.map_or(0, |from| from.index + 1);
        let entries = log.try_get_log_entries(next..=last.index).await.unwrap();
        machine.apply(entries).await.unwrap();
        let (index, hash) = machine.applied.with_hash();
        let fixture = copy.fixture.display();
        assert_eq!(index.0.to_string(), copy.expected["index"], "{fixture}");
        assert_eq!(hexadecimal(&hash), copy.expected["hash"], "{fixture}");
        assert!(before < index, "the log of {fixture} is not ahead of its state: it proves nothing");
        assert_eq!(machine.state.read().object_count().to_string(), copy.expected["objects"], "{fixture}");
    }
}

#[test]
fn the_snapshot_of_every_released_format_is_installed_and_gives_the_state_that_it_was_taken_of() {
    for copy in fixtures() {
        let (meta, chunks): Stored = decode(&std::fs::read(copy.fixture.join("snapshot")).unwrap()).unwrap();
        let store = open(&MemoryDisk::default(), &key(), Some(7)).unwrap().store;
        let receiver = Receiver::new();
        let mut whole = None;
        for chunk in &chunks {
            match receiver.take(&store, &meta, chunk).unwrap() {
                Received::Stored => {}
                Received::Whole(progress) => whole = Some(progress),
                Received::OutOfOrder => panic!("a chunk of {} is out of order", copy.fixture.display()),
            }
        }
        let progress = whole.expect("a whole snapshot");
        let installed = store.install(&progress).unwrap();
        let source = copy.open();
        assert_eq!(progress, source.progress);
        assert_eq!(hexadecimal(&installed.state_hash()), hexadecimal(&source.hsm.state_hash()));
    }
}

#[test]
#[ignore = "writes testing/fixtures/stores: to be run when a format is new"]
fn make_the_snapshot_of_this_format() {
    for copy in fixtures().filter(|copy| copy.fixture.ends_with(super::rows::FORMAT.to_string())) {
        let store = copy.open().store;
        let (meta, data) = store.snapshot().unwrap().expect("a state");
        let mut reader = data.into_reader().expect("a source");
        let mut chunks = Vec::new();
        while chunks.last().is_none_or(|chunk: &Chunk| !chunk.is_last()) {
            chunks.push(reader.next_chunk().unwrap());
        }
        let stored: Stored = (meta, chunks);
        std::fs::write(copy.fixture.join("snapshot"), postcard::to_stdvec(&stored).unwrap()).unwrap();
    }
}
