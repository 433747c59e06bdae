//! A load on a cluster that records what it asked and what it was told, and judges it: for `cargo xtask chaos`, which does
//! to the HSMs what can happen to them meanwhile.
//!
//! It speaks through `hsm-client`, as an application would, and knows nothing of the faults. `load` runs until its standard
//! input ends and prints one JSON object; `check` looks afterwards whether every HSM has all that was acknowledged.

mod check;
mod client;
mod journal;
mod limits;
mod load;
mod order;
mod probes;
mod registers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load with a record. KAGIMORI_CONFIG names the cluster; P11_PIN is `user:password` of a crypto user.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Sign, make and destroy keys, write and read labels, until standard input ends.
    Load(Places),
    /// Compare all HSMs with each other and with what `load` was told.
    Check(Places),
}

#[derive(clap::Args)]
struct Places {
    /// Unix sockets for clients of each HSM: there it is known who answers.
    #[arg(long, value_delimiter = ',', required = true)]
    sockets: Vec<PathBuf>,
    /// File in which `load` writes down the keys that were acknowledged at its end, for `check`.
    #[arg(long)]
    keys: PathBuf,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().part {
        Part::Load(places) => load::run(&places.sockets, &places.keys),
        Part::Check(places) => check::run(&places.sockets, &places.keys),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}
