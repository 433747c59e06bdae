//! Fuzz targets of `testing/fuzz`, built by the stable compiler with libFuzzer's instrumentation, each for its time.
//!
//! They run beside the parts of the test that wait for processes most of the time. What they find new is not kept; what
//! makes them crash is left in `testing/fuzz/artifacts` and named.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::Tally;
use crate::narrate;
use crate::workspace::{Workspace, capture, last_lines};

/// The targets; each has a corpus of its name.
const TARGETS: &[&str] = &["frames", "messages", "c_templates", "stored_records"];

/// What makes rustc count edges for libFuzzer: the same flags that cargo-fuzz uses, all of them stable code generation
/// options of LLVM.
const SANITIZER_COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cdebug-assertions";

/// Targets that run.
pub(super) struct Fuzzing {
    thread: JoinHandle<Vec<(&'static str, Result<String>)>>,
}

/// Builds the targets and starts them, one after the other, in the background.
pub(super) fn start(workspace: &Workspace, time: Duration) -> Result<Fuzzing> {
    let step = narrate::begin("build the fuzz targets");
    let folder = workspace.path("testing/fuzz");
    let mut command = workspace.cargo(&["build", "--release", "--locked", "--quiet"]);
    let target = workspace.target().join("fuzz");
    // A target triple keeps the flags away from build scripts.
    let triple = host()?;
    command.current_dir(&folder).env("RUSTFLAGS", SANITIZER_COVERAGE).arg("--target").arg(&triple);
    capture(command.arg("--target-dir").arg(&target))?;
    step.done("");
    let programs = target.join(triple).join("release");
    let thread =
        std::thread::spawn(move || TARGETS.iter().map(|name| (*name, run(&programs, &folder, name, time))).collect());
    Ok(Fuzzing { thread })
}

fn host() -> Result<String> {
    let said = capture(Command::new("rustc").arg("-vV"))?;
    let line = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(line.context("`rustc -vV` names no host")?.to_owned())
}

fn run(programs: &Path, folder: &Path, name: &str, time: Duration) -> Result<String> {
    // New inputs go to a folder that vanishes; the committed corpus is only read.
    let fresh = tempfile::tempdir().context("no folder for temporary files")?;
    let artifacts = folder.join("artifacts").join(name);
    std::fs::create_dir_all(&artifacts).context("no folder for what crashes")?;
    let mut prefix = artifacts.clone().into_os_string();
    prefix.push("/");
    let mut command = Command::new(programs.join(name));
    command.arg(format!("-max_total_time={}", time.as_secs())).args([
        "-rss_limit_mb=2048",
        "-timeout=10",
        "-print_final_stats=1",
    ]);
    let mut artifact: std::ffi::OsString = "-artifact_prefix=".into();
    artifact.push(prefix);
    command.arg(artifact).arg(fresh.path()).arg(folder.join("corpus").join(name)).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("the fuzz target {name} cannot be started"))?;
    if !output.status.success() {
        bail!("it crashed; the input is in {}\n{}", artifacts.display(), last_lines(&output));
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let executed = text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    Ok(format!("{} inputs", executed.unwrap_or("?").trim()))
}

impl Fuzzing {
    /// Waits for the targets.
    pub(super) fn finish(self) -> Result<Tally> {
        let outcomes = self.thread.join().map_err(|_| anyhow!("the thread that fuzzes panicked"))?;
        let mut tally = Tally::default();
        for (name, outcome) in outcomes {
            if let Ok(said) = &outcome {
                narrate::line(format!("{name}: {said}"));
            }
            tally.check(&format!("fuzz target {name} meets nothing that it cannot refuse"), outcome.map(drop));
        }
        Ok(tally)
    }
}
