//! What uses the cluster meanwhile: the load with a record, and the foreign clients c09 (Python) and c05 (Java).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use crate::conversation::Conversation;
use crate::installation::Installation;
use crate::testing::yard;
use crate::workspace::{Workspace, capture};

/// The scripts, in turn.
const SCRIPTS: [&str; 2] = ["c09-python", "c05-java"];

/// The one step of theirs that sends more than 1 MiB in parts: with its HSM it ends in an error, and must.
const UNREPLAYABLE: &str = "AES-CBC-PAD 3 MB in one call";

/// The user of c09's wrong PIN is nobody, whose wrong passwords are counted as anybody's: from the seventh run on he is locked,
/// which refuses the wrong PIN as well as it must be.
const LOCKED_NOBODY: &str = "wrong PIN PinLocked";

/// The load's own crypto user: Java reads every object of its user, and must not meet one that is just destroyed.
pub(super) const LOAD_USER: &str = "load";

/// The load of `testing/chaos`.
pub(super) struct Load(Conversation);

impl Load {
    pub(super) fn start(workspace: &Workspace, installation: &Installation) -> Result<Self> {
        let mut command = command(workspace, installation, "load")?;
        let log = std::fs::File::create(installation.folder().join("load.log")).context("no log for the load")?;
        command.stderr(log);
        Conversation::start(command).map(Self)
    }

    /// Ends it; its report.
    pub(super) fn end(mut self) -> Result<Value> {
        let line = self.0.ask().context("the load ended without a report; load.log says why")?;
        self.0.end()?;
        serde_json::from_str(&line).context("the report of the load is no JSON")
    }
}

/// Whether all HSMs are equal and have what was acknowledged to the load; what was found.
pub(super) fn check(workspace: &Workspace, installation: &Installation) -> Result<String> {
    capture(&mut command(workspace, installation, "check")?)
}

/// Where the load writes down what it was told.
fn keys(installation: &Installation) -> PathBuf {
    installation.folder().join("keys.json")
}

fn command(workspace: &Workspace, installation: &Installation, part: &str) -> Result<Command> {
    let mut command = installation.at_client(workspace.built("chaos"));
    installation.give_environment(&mut command)?;
    command.env("P11_PIN", installation.pin(LOAD_USER)?);
    let sockets: Vec<String> =
        installation.hsms().iter().map(|hsm| hsm.client_socket().display().to_string()).collect();
    command.args([part, "--sockets", &sockets.join(",")]).arg("--keys").arg(keys(installation));
    Ok(command)
}

/// What the foreign clients saw.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) runs: u64,
    pub(super) passed: u64,
    pub(super) failures: Vec<String>,
    pub(super) unreplayable: Vec<String>,
}

/// The foreign clients, one script after the other until they are told to end.
pub(super) struct Foreign {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Tally>>,
}

impl Foreign {
    pub(super) fn start(workspace: &Workspace, installation: &Installation, python: &Path) -> Result<Self> {
        let mut commands = Vec::new();
        for script in SCRIPTS {
            let mut command = installation.at_client("bash");
            installation.give_environment(&mut command)?;
            command.arg(workspace.path(format!("testing/conformance/yard/{script}.sh")));
            command.env("YARD_PYTHON", python).env("TMPDIR", installation.folder());
            let log = installation.folder().join(format!("{script}.log"));
            commands.push((command, yard::Allowed::read(workspace, script)?, log));
        }
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut tally = Tally::default();
            while !told.load(Ordering::Relaxed) {
                for (command, allowed, log) in &mut commands {
                    run(command, allowed, log, &mut tally)?;
                }
            }
            Ok(tally)
        });
        Ok(Self { stop, thread })
    }

    /// Waits until the scripts have come to their end.
    pub(super) fn end(self) -> Result<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the thread of the foreign clients panicked"))?
    }
}

fn run(command: &mut Command, allowed: &yard::Allowed, log: &Path, tally: &mut Tally) -> Result<()> {
    let said = String::from_utf8_lossy(&crate::workspace::output(command)?.stdout).into_owned();
    tally.runs += 1;
    // Of the last run with a failure, or else of the last one.
    let (passed, mut failures) = yard::judged(&said, allowed);
    failures.retain(|line| !line.contains(LOCKED_NOBODY));
    if !failures.is_empty() || !log.is_file() {
        std::fs::write(log, &said).with_context(|| format!("{} cannot be written", log.display()))?;
    }
    tally.passed += passed;
    let (unreplayable, failures): (Vec<_>, Vec<_>) = failures.into_iter().partition(|line| line.contains(UNREPLAYABLE));
    tally.unreplayable.extend(unreplayable);
    tally.failures.extend(failures);
    Ok(())
}
