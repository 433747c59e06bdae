//! What a run has outside of its own process: programs, mounted disks, namespaces, and a folder that names the run. Cleared when
//! the run is interrupted, and by the next run when this one was killed.
//!
//! Everything is recognised by what only a run of this makes: a folder `chaos-PROCESS-…` for temporary files with a mark in
//! it, and namespaces `kagimori-PROCESS-…`. The folder of a run that came to its end has no mark and stays.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::installation::network;
use crate::narrate;
use crate::workspace::capture;

/// How the folder's name begins; the process id follows.
const FOLDER: &str = "chaos-";

/// The file that says that the run has not come to its end.
const MARK: &str = "under-way";

/// How often it is tried: a program that was just starting another is found with it the next time, and what an interrupted
/// run still wrote into its folder is removed then.
const ROUNDS: usize = 5;

/// Pause between two tries.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

/// A folder for the run of this process.
pub(super) fn make_folder() -> Result<tempfile::TempDir> {
    let prefix = format!("{FOLDER}{}-", std::process::id());
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir().context("no folder for temporary files")?;
    fs::write(folder.path().join(MARK), []).context("the folder for temporary files cannot be written")?;
    Ok(folder)
}

/// The run came to its end, and what is in the folder is for whoever reads it.
pub(super) fn keep(folder: tempfile::TempDir) -> Result<PathBuf> {
    fs::remove_file(folder.path().join(MARK)).context("the run's mark cannot be removed")?;
    Ok(folder.keep())
}

/// On Ctrl-C and SIGTERM this run is cleared away, and the process ends.
pub(super) fn clear_when_interrupted() -> Result<()> {
    ctrlc::set_handler(|| {
        eprintln!("  interrupted: what this run made is removed");
        clear(std::process::id());
        std::process::exit(130);
    })
    .context("Ctrl-C cannot be caught")
}

/// Clears what runs left that were killed.
pub(super) fn clear_earlier() {
    let with_folders = folders().into_iter().map(|(process, _)| process);
    let dead: BTreeSet<u32> = with_folders.chain(network::owners()).filter(|&process| !runs(process)).collect();
    for process in dead {
        narrate::line(format!("an earlier run (process {process}) was killed: what it left is removed"));
        clear(process);
    }
}

/// What cannot be removed is said and left.
fn clear(process: u32) {
    for (_, folder) in folders().into_iter().filter(|(owner, _)| *owner == process) {
        let mut removed = Ok(());
        for _ in 0..ROUNDS {
            programs_of(&folder).into_iter().for_each(|program| tell(kill(program)));
            mounts_in(&folder).iter().for_each(|mount| tell(unmount(mount)));
            removed = fs::remove_dir_all(&folder);
            if removed.is_ok() {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        tell(removed.with_context(|| format!("{} cannot be removed", folder.display())));
    }
    network::remove_of(process);
}

fn tell(outcome: Result<()>) {
    if let Err(error) = outcome {
        eprintln!("  {error:#}");
    }
}

/// Folders of runs that have not come to their end, by the processes of these.
fn folders() -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = |path: PathBuf| {
        let rest = path.file_name()?.to_str()?.strip_prefix(FOLDER)?;
        Some((rest.split_once('-')?.0.parse().ok()?, path))
    };
    entries.filter(|path| path.join(MARK).is_file()).filter_map(named).collect()
}

/// Whether that process is a run of this and lives.
fn runs(process: u32) -> bool {
    let own = fs::read_to_string("/proc/self/comm").unwrap_or_default();
    fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|name| name == own)
}

/// Processes to whom the folder was given, as an argument or in the environment, but this one.
fn programs_of(folder: &Path) -> Vec<u32> {
    let wanted = format!("{}/", folder.display());
    let names = |process: u32| {
        ["cmdline", "environ"].into_iter().any(|file| {
            let octets = fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
            octets.windows(wanted.len()).any(|part| part == wanted.as_bytes())
        })
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    processes.filter(|&process| process != std::process::id() && names(process)).collect()
}

/// Ends a program; one that has ended meanwhile is no error.
fn kill(program: u32) -> Result<()> {
    let killed = capture(Command::new("kill").args(["-s", "KILL", &program.to_string()])).map(drop);
    if Path::new(&format!("/proc/{program}")).exists() { killed } else { Ok(()) }
}

fn mounts_in(folder: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    points.filter(|point| point.starts_with(folder)).collect()
}

fn unmount(mount: &Path) -> Result<()> {
    capture(Command::new("umount").arg("-l").arg(mount)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_run_left_is_found_and_removed_and_what_a_finished_one_left_stays() {
        let left = tempfile::Builder::new().prefix("chaos-4294967294-").tempdir().expect("a folder").keep();
        fs::write(left.join(MARK), []).expect("a mark");
        let finished = tempfile::Builder::new().prefix("chaos-4294967293-").tempdir().expect("a folder");
        let mut program = Command::new("sleep").arg("60").env("SOMETHING", left.join("client")).spawn().expect("sleep");
        clear(4_294_967_294);
        clear(4_294_967_293);
        assert!(!left.exists() && finished.path().exists());
        assert!(!program.wait().expect("it was started here").success(), "it was ended");
        assert!(!runs(4_294_967_294));
    }
}
