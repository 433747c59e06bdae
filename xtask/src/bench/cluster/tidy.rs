//! What a run leaves behind when it fails, hangs or is interrupted: nothing.
//!
//! Folders and control groups are written down here when they are made. A thread of its own removes them, the HSMs that run
//! in those folders, and this process, when the time is over or Ctrl-C is pressed; a run that comes to its end does it by
//! itself. Load generators end by themselves when nobody answers them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::quota;
use crate::workspace::capture;

/// How long a killed process may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is there now.
#[derive(Default)]
struct Things {
    groups: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
}

/// The list, and the thread that watches the time.
pub(super) struct Tidy {
    things: Arc<Mutex<Things>>,
    /// Dropped when the run is over.
    _running: Sender<&'static str>,
}

impl Tidy {
    /// Everything ends after this time.
    pub(super) fn new(at_most: Duration) -> Result<Self> {
        let things: Arc<Mutex<Things>> = Arc::default();
        let (sender, receiver) = channel();
        let interrupt = sender.clone();
        ctrlc::set_handler(move || {
            // Without a receiver the run is ending already.
            interrupt.send("interrupted").ok();
        })
        .context("Ctrl-C cannot be caught")?;
        let watched = Arc::clone(&things);
        std::thread::spawn(move || {
            let why = match receiver.recv_timeout(at_most) {
                Ok(why) => why,
                Err(RecvTimeoutError::Timeout) => "it took too long (`--at-most`)",
                Err(RecvTimeoutError::Disconnected) => return,
            };
            eprintln!("\nfailed: {why}; its processes, folders and control groups are removed");
            sweep(&watched);
            std::process::exit(1);
        });
        Ok(Self { things, _running: sender })
    }

    pub(super) fn has_group(&self, group: PathBuf) {
        self.lock().groups.insert(group);
    }

    pub(super) fn lost_group(&self, group: &PathBuf) {
        self.lock().groups.remove(group);
    }

    pub(super) fn has_folder(&self, folder: PathBuf) {
        self.lock().folders.insert(folder);
    }

    pub(super) fn lost_folder(&self, folder: &PathBuf) {
        self.lock().folders.remove(folder);
    }

    fn lock(&self) -> MutexGuard<'_, Things> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sweep(things: &Mutex<Things>) {
    let Things { groups, folders } = std::mem::take(&mut *things.lock().unwrap_or_else(PoisonError::into_inner));
    folders.iter().for_each(|folder| said(end_processes(folder)));
    groups.iter().for_each(|group| said(quota::remove(group)));
    for folder in folders {
        // A process that was just killed may still have made a file; the second attempt finds it.
        if std::fs::remove_dir_all(&folder).is_err() {
            std::thread::sleep(Duration::from_millis(500));
            said(std::fs::remove_dir_all(&folder).with_context(|| format!("{} stays", folder.display())));
        }
    }
}

/// Kills every HSM whose command line names this folder, which nobody else uses.
pub(super) fn end_processes(folder: &Path) -> Result<()> {
    for process in processes(folder) {
        capture(Command::new("kill").args(["-s", "KILL", &process]))?;
    }
    let began = Instant::now();
    while !processes(folder).is_empty() {
        if began.elapsed() > PATIENCE {
            bail!("HSMs in {} outlive a kill", folder.display());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn processes(folder: &Path) -> Vec<String> {
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    let names = all.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let name = folder.as_os_str().as_encoded_bytes();
    let is_ours = |process: &String| {
        let read = |file: &str| std::fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
        // A killed process that was not waited for yet has no command line.
        read("comm") == b"kagimori-hsm\n" && read("cmdline").windows(name.len()).any(|part| part == name)
    };
    names.filter(|name| name.bytes().all(|octet| octet.is_ascii_digit())).filter(is_ours).collect()
}

fn said(outcome: Result<()>) {
    if let Err(error) = outcome {
        eprintln!("  {error:#}");
    }
}
