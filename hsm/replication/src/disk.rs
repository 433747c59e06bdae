//! Where the store lies: a redb storage backend, the space left, and the mark beside it.
//!
//! The mark is a few octets in a file of their own that say how far the store was durable. redb alone cannot tell a
//! damaged last commit from one that a crash tore, and would go back to the commit before without a word; the mark can.
//! It is written after each durable commit and never synced: after a power loss it may be old, which says nothing, and
//! never too new.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// Octets of the file beside the store: two slots, written in turn, so that a torn one leaves the other.
pub const MARK_BYTES: usize = 2 * MARK_SLOT_BYTES;

/// Octets of one slot.
pub const MARK_SLOT_BYTES: usize = 64;

/// A place for one store.
pub trait Disk: Send + Sync {
    /// Its name for messages.
    fn name(&self) -> String;

    /// Opens the store, making an empty one if there is none.
    ///
    /// # Errors
    /// What the system says.
    fn open(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// Octets that can still be written.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self) -> io::Result<u64>;

    /// The slots of the mark; zeros where nothing was written.
    ///
    /// # Errors
    /// What the system says.
    fn read_mark(&self) -> io::Result<[u8; MARK_BYTES]>;

    /// Writes one slot (0 or 1) of the mark, without waiting for the disk.
    ///
    /// # Errors
    /// What the system says.
    fn write_mark(&self, slot: usize, mark: &[u8; MARK_SLOT_BYTES]) -> io::Result<()>;
}

/// A store in a file, with its mark in a second file of the same name and the extension `mark`.
pub struct FileDisk {
    path: PathBuf,
    mark: Mutex<Option<File>>,
}

impl FileDisk {
    /// A store at this path.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_path_buf(), mark: Mutex::new(None) }
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// Opens or makes a file for this process's user alone, and makes its name durable.
    fn open_file(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        if file.metadata()?.len() == 0 {
            file.sync_all()?;
            File::open(self.folder())?.sync_all()?;
        }
        Ok(file)
    }

    fn with_mark<T>(&self, run: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        let mut mark = self.mark.lock();
        let file = match mark.take() {
            Some(file) => file,
            None => self.open_file(&self.path.with_extension("mark"))?,
        };
        run(mark.insert(file))
    }
}

impl Disk for FileDisk {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let file = self.open_file(&self.path)?;
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let statistics = rustix::fs::statvfs(self.folder())?;
        Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
    }

    fn read_mark(&self) -> io::Result<[u8; MARK_BYTES]> {
        self.with_mark(|file| {
            let mut octets = [0; MARK_BYTES];
            let length = usize::try_from(file.metadata()?.len()).unwrap_or(MARK_BYTES).min(MARK_BYTES);
            file.read_exact_at(&mut octets[..length], 0)?;
            Ok(octets)
        })
    }

    fn write_mark(&self, slot: usize, mark: &[u8; MARK_SLOT_BYTES]) -> io::Result<()> {
        self.with_mark(|file| file.write_all_at(mark, (slot * MARK_SLOT_BYTES) as u64))
    }
}

/// A boxed backend as redb wants it: a type of its own.
#[derive(Debug)]
pub(crate) struct Backend(pub(crate) Box<dyn StorageBackend>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.query_lock_range(start, end)
    }
}
