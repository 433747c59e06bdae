//! `cargo xtask …`: everything that is done with this tree beyond compiling it.
//!
//! Each subcommand is a module; [`workspace`] knows where things are, [`narrate`] speaks to the person, [`packages`]
//! installs what a bare machine lacks. It holds no product code and nothing depends on it. `verify` only reads;
//! `fix` is the one that writes to the tree.

mod bench;
mod chaos;
mod conversation;
mod deny;
mod installation;
mod layers;
mod narrate;
mod packages;
mod quickstart;
mod ratchet;
mod release;
mod simulate;
mod testing;
mod verify;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use workspace::Workspace;

/// The tasks of the Kagimori tree.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build, start an HSM, take it through its whole ceremony, sign a file with it and verify the signature.
    Quickstart(quickstart::Arguments),
    /// Run every test: unit, property, vector, black-box, foreign clients, crashes, fuzzing.
    Test(testing::Arguments),
    /// Run simulated clusters under faults: a range of seeds, one seed with its log, or known bugs that must be found.
    Simulate(simulate::Arguments),
    /// Run real HSM processes under kills, cuts, full and old disks while applications use them, and judge what these saw.
    Chaos(chaos::Arguments),
    /// Read-only checks: format, lints, licences and bans, layers, documentation, lengths.
    Verify,
    /// Format the tree and apply the lints' own suggestions.
    Fix,
    /// Measure this product, the bare cryptographic library and SoftHSM2 in one run, and print the table.
    Bench(bench::Arguments),
    /// Sign the built HSM as a release, for clusters that trust the key.
    Release(release::Arguments),
    /// Check that our crates depend on each other only along the arrows of ARCHITECTURE.md.
    CheckLayers,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nfailed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::Quickstart(arguments) => quickstart::run(&workspace, &arguments),
        Task::Test(arguments) => testing::run(&workspace, &arguments),
        Task::Simulate(arguments) => simulate::run(&workspace, &arguments),
        Task::Chaos(arguments) => chaos::run(&workspace, &arguments),
        Task::Verify => verify::run(&workspace),
        Task::Fix => verify::fix(&workspace),
        Task::Bench(arguments) => bench::run(&workspace, &arguments),
        Task::Release(arguments) => release::run(&workspace, &arguments),
        Task::CheckLayers => layers::run(&workspace),
    }
}
