//! `simulate`: clusters of the product under one seed each, with everything that can go wrong with them; and known bugs
//! that are put back, each of which must be found by the invariant of its name.
//!
//! The simulator is built with flags of its own into `target/sim`, so that it and the product do not rebuild each other.

mod mutations;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::narrate;
use crate::workspace::{Workspace, show};

/// What the simulator is built with: without tokio's own seed a run does not replay.
const FLAGS: &str = "--cfg tokio_unstable --cfg hsm_sim";

/// Arguments of `cargo xtask simulate`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Replay this seed and print its log.
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["seeds", "from", "mutations"])]
    seed: Option<u64>,

    /// Write the whole log of that seed here, with every message and disk operation.
    #[arg(long, value_name = "FILE", requires = "seed")]
    log: Option<PathBuf>,

    /// Run so many seeds.
    #[arg(long, default_value_t = 200, value_name = "COUNT")]
    seeds: u64,

    /// The first of them.
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    from: u64,

    /// Run the first so many of them twice and compare what happened.
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    check_replay: u64,

    /// Go on after a seed that failed.
    #[arg(long)]
    keep_going: bool,

    /// Put known bugs back, one after the other, and demand that each is found by name.
    #[arg(long)]
    mutations: bool,

    /// With `--mutations`: only this one.
    #[arg(long, value_name = "NAME", requires = "mutations")]
    only: Option<String>,
}

/// Builds the simulator and runs it.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    if arguments.mutations {
        return mutations::run(workspace, arguments.only.as_deref());
    }
    build(workspace)?;
    let mut command = Command::new(program(&folder(workspace)));
    match arguments.seed {
        Some(seed) => {
            command.args(["--seed", &seed.to_string()]);
            command.args(arguments.log.iter().flat_map(|log| ["--log".into(), log.clone().into_os_string()]));
        }
        None => {
            command.args(["--seeds", &arguments.seeds.to_string(), "--from", &arguments.from.to_string()]);
            command.args(["--check-replay", &arguments.check_replay.to_string()]);
            command.args(arguments.keep_going.then_some("--keep-going"));
        }
    }
    show(&mut command)
}

/// The seeds that every change must pass, the first twenty of them twice, and the simulator's tests of itself.
pub(crate) fn run_for_tests(workspace: &Workspace) -> Result<()> {
    build(workspace)?;
    let mut tests = workspace.cargo(&["test", "--release", "--locked", "-p", "simulator", "--test", "clusters"]);
    show(tests.arg("--target-dir").arg(folder(workspace)).env("RUSTFLAGS", FLAGS).stdin(Stdio::null()))?;
    show(Command::new(program(&folder(workspace))).args(["--seeds", "200", "--check-replay", "20"]))
}

/// The lints of what is only there in the simulator's own build.
pub(crate) fn lints(workspace: &Workspace) -> Result<()> {
    let mut clippy =
        workspace.cargo(&["clippy", "--release", "--locked", "--quiet", "-p", "simulator", "--all-targets"]);
    clippy.arg("--target-dir").arg(folder(workspace)).env("RUSTFLAGS", FLAGS);
    show(clippy.args(["--", "-D", "warnings"]))
}

fn build(workspace: &Workspace) -> Result<()> {
    let step = narrate::begin("build of the simulator");
    step.pause();
    show(&mut cargo(workspace, &folder(workspace)))?;
    step.done("");
    Ok(())
}

/// Builds the simulator of a tree, which may be a copy, into a folder.
fn cargo(tree: &Workspace, folder: &Path) -> Command {
    // Together with its tests: cargo would otherwise build everything once more for their features.
    let what = ["-p", "simulator", "--bin", "simulate", "--test", "clusters"];
    let mut cargo = tree.cargo(&[&["build", "--release", "--locked"], &what[..]].concat());
    cargo.arg("--target-dir").arg(folder).env("RUSTFLAGS", FLAGS).stdin(Stdio::null());
    cargo
}

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target().join("sim")
}

/// The program in a folder that [`cargo`] built into.
fn program(folder: &Path) -> PathBuf {
    folder.join("release/simulate")
}
