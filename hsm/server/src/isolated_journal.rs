//! The journal of log-ins while this HSM is isolated: what a restart must not forget, sealed, in a file of its own.
//!
//! It is written whole each time, so that after a crash it is the old one or the new one, and it counts its writings. A
//! second file says how far it was: an older copy put back, or none where there was one, is noticed. Both are sealed under
//! the cluster's keys for this HSM, so another cluster's or another HSM's does not open. What does not open is named and
//! left as it is: this HSM lets nobody log in while it is isolated then, and serves as ever. Both files together, older or
//! gone, are not noticed, as little as the whole data folder (SECURITY.md).
//!
//! What it holds is `hsm_core::isolated`'s; when it is written, `dispatch::isolated`'s.

use std::path::PathBuf;
use std::sync::Arc;

use hsm_core::IsolatedLogins;
use hsm_crypto::KeyRing;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::exit::Fault;
use crate::limits::ISOLATED_JOURNAL_BYTES;
use crate::member::{Surroundings, hexadecimal, stopped};

/// First byte of both files.
const FORMAT: u8 = 1;

/// What to do about a journal that cannot be used.
const REMEDY: &str = "Nobody logs in here while this HSM is isolated. Put back the files as they were; or see \
                      docs/operations/losing-an-hsm.md";

/// The two files, and how often they were written.
pub(crate) struct Journal {
    surroundings: Arc<Surroundings>,
    keys: Arc<KeyRing>,
    revision: u64,
    bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct Content {
    revision: u64,
    logins: Vec<IsolatedLogins>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Mark {
    /// Of the last writing that counts.
    revision: u64,
    /// Whether there was nothing left then: whatever the journal's file holds up to there was merged.
    is_empty: bool,
}

impl Journal {
    /// Reads the journal of this HSM, and gives what it holds.
    ///
    /// # Errors
    /// [`Fault::Broken`], which names the file that is damaged, older than it was or another HSM's; [`Fault::Disk`].
    pub(crate) fn open(
        surroundings: &Arc<Surroundings>,
        keys: &Arc<KeyRing>,
    ) -> Result<(Self, Vec<IsolatedLogins>), Fault> {
        let (surroundings, keys) = (Arc::clone(surroundings), Arc::clone(keys));
        let mut journal = Self { surroundings, keys, revision: 0, bytes: 0 };
        let mark: Option<Mark> = journal.read(&journal.mark_file(), "mark")?;
        let content: Option<Content> = journal.read(&journal.file(), "journal")?;
        let known = mark.map_or(0, |mark| mark.revision);
        let found = content.as_ref().map_or(0, |content| content.revision);
        if mark.is_none_or(|mark| mark.is_empty) && found <= known {
            // The cluster knows all that it holds; a crash came before it was removed, or somebody put it back.
            journal.revision = known;
            journal.surroundings.folder.remove(&journal.file())?;
            return Ok((journal, Vec::new()));
        }
        if found < known {
            let cause = format!("it was written {known} times, and this is writing {found}");
            return Err(broken(journal.file(), cause));
        }
        if mark.is_none() && found > 1 {
            return Err(broken(journal.mark_file(), "it is gone, and the journal is not".to_owned()));
        }
        journal.revision = found;
        journal.bytes = std::fs::metadata(journal.file()).map_or(0, |facts| facts.len());
        Ok((journal, content.map(|content| content.logins).unwrap_or_default()))
    }

    /// Makes this the journal, durably.
    ///
    /// # Errors
    /// [`Fault::Disk`]; the journal may be the old one or the new one then.
    pub(crate) fn write(&mut self, logins: &[IsolatedLogins]) -> Result<(), Fault> {
        self.revision += 1;
        let revision = self.revision;
        let mark = Mark { revision, is_empty: logins.is_empty() };
        if logins.is_empty() {
            self.put(&self.mark_file(), "mark", &mark)?;
            self.bytes = 0;
            return self.surroundings.folder.remove(&self.file());
        }
        let content = Content { revision, logins: logins.to_vec() };
        self.bytes = self.put(&self.file(), "journal", &content)?;
        self.put(&self.mark_file(), "mark", &mark).map(drop)
    }

    /// Size of the file, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn file(&self) -> PathBuf {
        self.surroundings.folder.isolated_journal()
    }

    fn mark_file(&self) -> PathBuf {
        self.surroundings.folder.isolated_mark()
    }

    /// What the seal of a file is bound to, besides the cluster.
    fn purpose(&self, what: &str) -> String {
        format!("{what} of log-ins on isolated HSM {}", hexadecimal(&self.surroundings.hsm))
    }

    fn put(&self, file: &std::path::Path, what: &str, content: &impl Serialize) -> Result<u64, Fault> {
        let plain = postcard::to_stdvec(content).map_err(|fault| stopped(&fault))?;
        let sealed = self.keys.seal_bytes(&self.surroundings.module, &self.purpose(what), &plain);
        let octets = [&[FORMAT][..], &sealed.map_err(|fault| stopped(&fault))?].concat();
        self.surroundings.folder.write(file, &octets)?;
        Ok(octets.len() as u64)
    }

    fn read<T: DeserializeOwned>(&self, file: &std::path::Path, what: &str) -> Result<Option<T>, Fault> {
        let because = |cause: &str| broken(file.to_owned(), cause.to_owned());
        let size = std::fs::metadata(file).map_or(0, |facts| facts.len());
        if size > ISOLATED_JOURNAL_BYTES {
            return Err(because("it is larger than any that this program writes"));
        }
        let Some(octets) = self.surroundings.folder.read(file)? else { return Ok(None) };
        let Some((&FORMAT, sealed)) = octets.split_first() else {
            return Err(because("it has a format that this program does not know"));
        };
        let opened = self.keys.open_bytes(&self.purpose(what), sealed);
        let opened = opened.map_err(|_| because("its seal does not open under this HSM's keys"))?;
        postcard::from_bytes(opened.expose()).map(Some).map_err(|_| because("it cannot be decoded"))
    }
}

fn broken(file: PathBuf, cause: String) -> Fault {
    Fault::Broken { file, cause, remedy: REMEDY }
}
