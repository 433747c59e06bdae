//! The load generator: one workload on one PKCS#11 module, or on the bare cryptographic library, and what it cost.
//!
//! `cargo xtask bench` runs it again and again, alternating the sides, and makes the table. It prints one JSON object.
//! It must treat every module alike: the same calls, the same keys, the same clock.

mod bare;
mod cost;
mod frames;
mod keys;
mod load;
mod token;
mod waits;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures. P11_MODULE, P11_TOKEN_LABEL and P11_PIN come from the environment.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Make the keys that `token` uses, unless they are there.
    Prepare,
    /// A workload on the module.
    Token(Load),
    /// The same workload on aws-lc-rs in this process.
    Bare(Load),
    /// Make token keys, up to this number, and print how many and in how many seconds.
    Fill {
        /// Keys that there shall be.
        #[arg(long)]
        count: usize,
        /// By how many threads: one log entry takes the keys of all that wait.
        #[arg(long, default_value_t = 8)]
        threads: usize,
    },
    /// Makes durable token keys.
    Make {
        /// By how many threads, each with a session.
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// Destroy them after the measurement.
        #[arg(long)]
        tidy: bool,
        #[command(flatten)]
        length: Length,
    },
    /// The longest wait of one thread between two lines of standard input, until it ends.
    Waits {
        /// Make keys instead of signing.
        #[arg(long)]
        writes: bool,
    },
    /// Searches by label among the keys of `fill`.
    Find(Length),
    /// Logins, each ended again.
    Login(Length),
    /// Frames that the client library sends and receives with one system call, under P-256 signatures.
    Frames {
        /// By how many threads.
        #[arg(long, default_value_t = 8)]
        threads: usize,
        #[command(flatten)]
        length: Length,
    },
}

#[derive(Args, Clone)]
struct Load {
    /// What is done.
    #[arg(long, value_enum)]
    workload: Workload,
    /// By how many threads, each with a session.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[command(flatten)]
    length: Length,
}

#[derive(Args, Clone)]
struct Length {
    /// How long is measured.
    #[arg(long, default_value_t = 1000, value_name = "MILLISECONDS")]
    milliseconds: u64,
    /// Process whose CPU time counts as the server's; may be given several times.
    #[arg(long)]
    server: Vec<u32>,
}

impl Length {
    fn time(&self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// `CKM_ECDSA` on P-256 over 32 bytes.
    P256,
    /// `CKM_SHA256_RSA_PKCS` with 2048 bits over 32 bytes.
    Rsa2048,
    /// `CKM_AES_GCM` with 256 bits over 1 KiB.
    Gcm,
}

fn main() -> ExitCode {
    match run(Arguments::parse().what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: What) -> Result<()> {
    match what {
        What::Prepare => keys::prepare(),
        What::Token(load) => token::run(load.workload, load.threads, &load.length),
        What::Bare(load) => bare::run(load.workload, load.threads, &load.length),
        What::Fill { count, threads } => keys::fill(count, threads),
        What::Make { threads, tidy, length } => keys::make(threads, tidy, &length),
        What::Waits { writes } => waits::run(writes),
        What::Find(length) => keys::find(&length),
        What::Login(length) => keys::login(&length),
        What::Frames { threads, length } => frames::run(threads, &length),
    }
}
