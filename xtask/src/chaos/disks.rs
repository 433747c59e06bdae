//! The HSMs' disks: small file systems that can be full, and copies of yesterday.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::installation::Installation;
use crate::workspace::capture;

/// Size of a disk: several times what a run writes, and little enough to be filled in a moment.
const SIZE: &str = "size=512m,mode=0700";

/// Octets in one write of what fills a disk.
const CHUNK: usize = 1 << 20;

/// How old a copy must be to be put back: the members write down once a second what they know of each other, and what was
/// not written down yet is beyond the restart check (design: "the last second").
const OLD: Duration = Duration::from_secs(10);

/// Every HSM's disk. Unmounts what it mounted when it is dropped.
pub(super) struct Disks {
    mounted: Vec<PathBuf>,
    copies: PathBuf,
    taken: RefCell<BTreeMap<usize, Instant>>,
}

impl Disks {
    /// Mounts a file system for each HSM's data, if that may be done.
    pub(super) fn new(installation: &Installation, mount: bool) -> Result<Self> {
        let copies = installation.folder().join("copies");
        std::fs::create_dir_all(&copies).context("no folder for copies of disks")?;
        let mut disks = Self { mounted: Vec::new(), copies, taken: RefCell::default() };
        for hsm in installation.hsms().iter().filter(|_| mount) {
            let data = hsm.data();
            std::fs::create_dir_all(&data).context("no folder for a disk")?;
            capture(Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "chaos"]).arg(&data))?;
            disks.mounted.push(data);
        }
        Ok(disks)
    }

    /// Writes until nothing fits any more.
    pub(super) fn fill(&self, hsm: &Installation) -> Result<()> {
        let mut file = std::fs::File::create(filler(hsm)).context("a disk cannot be filled")?;
        for size in [CHUNK, 512] {
            let chunk = vec![0; size];
            while file.write_all(&chunk).is_ok() {}
        }
        Ok(())
    }

    /// Makes room again.
    pub(super) fn empty(&self, hsm: &Installation) -> Result<()> {
        std::fs::remove_file(filler(hsm)).context("a disk cannot be emptied")
    }

    /// Keeps a copy of the disk of an HSM that does not run.
    pub(super) fn copy(&self, hsm: &Installation) -> Result<()> {
        let copy = self.copies.join(hsm.number().to_string());
        clear(&copy)?;
        capture(Command::new("cp").arg("-a").arg("--").arg(hsm.data().join(".")).arg(&copy))?;
        self.taken.borrow_mut().insert(hsm.number(), Instant::now());
        Ok(())
    }

    /// Whether there is a copy that is old enough to be another disk.
    pub(super) fn has_old_copy(&self, hsm: &Installation) -> bool {
        self.taken.borrow().get(&hsm.number()).is_some_and(|taken| taken.elapsed() > OLD)
    }

    /// An HSM that left is another one afterwards: its copies are worth nothing.
    pub(super) fn forget(&self, hsm: &Installation) {
        self.taken.borrow_mut().remove(&hsm.number());
    }

    /// Puts the copy in the place of the disk, once.
    pub(super) fn put_back(&self, hsm: &Installation) -> Result<()> {
        self.forget(hsm);
        clear(&hsm.data())?;
        let copy = self.copies.join(hsm.number().to_string()).join(".");
        capture(Command::new("cp").arg("-a").arg("--").arg(copy).arg(hsm.data())).map(drop)
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for data in &self.mounted {
            if let Err(error) = capture(Command::new("umount").arg("-l").arg(data)) {
                eprintln!("  {} could not be unmounted: {error:#}", data.display());
            }
        }
    }
}

fn filler(hsm: &Installation) -> PathBuf {
    hsm.data().join("filler")
}

/// Makes a folder empty.
fn clear(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    capture(Command::new("find").arg(folder).args(["-mindepth", "1", "-delete"])).map(drop)
}
