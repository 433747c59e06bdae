//! The folder of one HSM's files: its lock, the names in it, and writing a file so that a crash leaves the old or the new.
//!
//! It must not know what the files mean. Every file has mode 0600 and the folder 0700; a folder that others may enter is
//! refused, not repaired.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::exit::Fault;

/// The folder, locked against a second process until this is dropped or the process ends in any way.
pub struct DataFolder {
    path: PathBuf,
    _lock: File,
}

impl DataFolder {
    /// Makes the folder if it is not there, checks whose it is, and locks it.
    ///
    /// # Errors
    /// [`Fault::InUse`], [`Fault::Settings`] for a folder that others may enter, [`Fault::Disk`].
    pub fn take(path: &Path) -> Result<Self, Fault> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| Fault::disk(path, &error))?;
        let facts = std::fs::metadata(path).map_err(|error| Fault::disk(path, &error))?;
        if facts.mode() & 0o077 != 0 {
            return Err(Fault::Settings(format!(
                "the data folder {} has mode {:o}: others may look into it; chmod 700 it, or use another",
                path.display(),
                facts.mode() & 0o777
            )));
        }
        let user = rustix::process::geteuid().as_raw();
        if facts.uid() != user {
            return Err(Fault::Settings(format!(
                "the data folder {} belongs to user {}, but this process runs as {user}; start it as the owner",
                path.display(),
                facts.uid()
            )));
        }
        let name = path.join("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&name);
        let lock = lock.map_err(|error| Fault::disk(&name, &error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Fault::InUse { folder: path.to_owned() }),
            Err(TryLockError::Error(error)) => Err(Fault::disk(&name, &error)),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Log and state.
    pub fn store(&self) -> PathBuf {
        self.path.join("store.redb")
    }

    /// How far the store was durable; `hsm-replication` keeps it beside the store.
    pub fn store_mark(&self) -> PathBuf {
        self.path.join("store.mark")
    }

    /// The cluster master key under the root of trust.
    pub fn seal(&self) -> PathBuf {
        self.path.join("master.seal")
    }

    /// The cluster master key of the epoch before, until nothing is sealed under it any more.
    pub fn seal_before(&self) -> PathBuf {
        self.path.join("master-before.seal")
    }

    /// The same as [`DataFolder::seal`] while a cluster is being formed: renamed when the store has its first command.
    pub fn forming_seal(&self) -> PathBuf {
        self.path.join("master.seal.forming")
    }

    /// The root of trust `file`.
    pub fn root_key(&self) -> PathBuf {
        self.path.join("root.key")
    }

    /// This HSM's random name.
    pub fn hsm_id(&self) -> PathBuf {
        self.path.join("hsm.id")
    }

    /// By what this HSM proves to others who it is, under the root of trust.
    pub fn identity(&self) -> PathBuf {
        self.path.join("identity.seal")
    }

    /// The seal while this HSM has not got the cluster's state: renamed when it has.
    pub fn joining_seal(&self) -> PathBuf {
        self.path.join("master.seal.joining")
    }

    /// Log-ins while this HSM was isolated, until the cluster knows of them.
    pub fn isolated_journal(&self) -> PathBuf {
        self.path.join("isolated.journal")
    }

    /// How far that was written.
    pub fn isolated_mark(&self) -> PathBuf {
        self.path.join("isolated.mark")
    }

    /// Peer addresses of a cluster that this HSM is joining; there until it has joined.
    pub fn joining(&self) -> PathBuf {
        self.path.join("joining")
    }

    /// Where this HSM belongs and who the others are, for a start before there is any state.
    pub fn place(&self) -> PathBuf {
        self.path.join("place")
    }

    /// Writes a file of mode 0600 whole and durably: after a crash it is the old one or the new one.
    ///
    /// # Errors
    /// [`Fault::Disk`].
    pub fn write(&self, file: &Path, content: &[u8]) -> Result<(), Fault> {
        write_durably(file, content).map_err(|error| Fault::disk(file, &error))
    }

    /// [`DataFolder::write`], after which the old content is overwritten with zeros where it lay (as far as the disk lets
    /// that: see [`DataFolder::destroy`]).
    ///
    /// # Errors
    /// [`Fault::Disk`].
    pub fn replace(&self, file: &Path, content: &[u8]) -> Result<(), Fault> {
        let old = OpenOptions::new().write(true).open(file).ok();
        self.write(file, content)?;
        old.map_or(Ok(()), |old| overwrite(&old)).map_err(|error| Fault::disk(file, &error))
    }

    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    /// [`Fault::Disk`].
    pub fn read(&self, file: &Path) -> Result<Option<Vec<u8>>, Fault> {
        match std::fs::read(file) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Fault::disk(file, &error)),
        }
    }

    /// Renames durably, over whatever has the new name.
    ///
    /// # Errors
    /// [`Fault::Disk`].
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), Fault> {
        std::fs::rename(from, to).and_then(|()| sync_folder(to)).map_err(|error| Fault::disk(to, &error))
    }

    /// Removes a file durably if it is there.
    ///
    /// # Errors
    /// [`Fault::Disk`].
    pub fn remove(&self, file: &Path) -> Result<(), Fault> {
        match std::fs::remove_file(file) {
            Ok(()) => sync_folder(file).map_err(|error| Fault::disk(file, &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Fault::disk(file, &error)),
        }
    }

    /// Overwrites a file with zeros and removes it. On disks that write elsewhere (flash, copy-on-write) the old content
    /// may survive below the file system: without the other half of the root of trust it is worth nothing.
    ///
    /// # Errors
    /// [`Fault::Disk`].
    pub fn destroy(&self, file: &Path) -> Result<(), Fault> {
        match OpenOptions::new().write(true).open(file).and_then(|opened| overwrite(&opened)) {
            Ok(()) => self.remove(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Fault::disk(file, &error)),
        }
    }
}

fn overwrite(mut file: &File) -> io::Result<()> {
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    file.write_all(&vec![0; length])?;
    file.sync_all()
}

fn write_durably(file: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    opened.write_all(content)?;
    opened.sync_all()?;
    std::fs::rename(&new, file)?;
    sync_folder(file)
}

/// Makes the names in the folder of `file` durable.
fn sync_folder(file: &Path) -> io::Result<()> {
    File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_that_others_may_enter_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o750)).unwrap();
        let refusal = DataFolder::take(folder.path()).err().unwrap().to_string();
        assert!(refusal.contains("chmod 700"), "{refusal}");
    }

    #[test]
    fn a_second_owner_is_refused_until_the_first_is_gone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let first = DataFolder::take(&path).unwrap();
        assert!(matches!(DataFolder::take(&path), Err(Fault::InUse { .. })));
        drop(first);
        assert!(DataFolder::take(&path).is_ok());
    }

    #[test]
    fn files_are_private_and_replaced_whole() {
        let parent = tempfile::tempdir().unwrap();
        let folder = DataFolder::take(&parent.path().join("data")).unwrap();
        let file = folder.seal();
        folder.write(&file, b"one").unwrap();
        folder.write(&file, b"two").unwrap();
        assert_eq!(folder.read(&file).unwrap().unwrap(), b"two");
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        folder.destroy(&file).unwrap();
        assert_eq!(folder.read(&file).unwrap(), None);
    }
}
