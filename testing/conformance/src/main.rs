//! Applications of our own for black-box tests: they load the PKCS#11 library and nothing else of the product.
//!
//! `cargo xtask test` starts them, kills and restarts the HSM under them, and reads what they print: one line for each
//! thing that was acknowledged to them.

mod canaries;
mod holder;
mod store;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use clap::{Parser, Subcommand};
use conformance::module::{Module, Session};
use cryptoki_sys::{CK_SLOT_ID, CKU_USER};

/// Test applications. P11_MODULE, P11_TOKEN_LABEL and P11_PIN come from the environment.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Create and destroy token objects until standard input ends; a line for each acknowledged one.
    StoreLoad {
        /// Threads that do so at once.
        #[arg(long, default_value_t = 8)]
        threads: u32,
    },
    /// Read what `store-load` printed on standard input, and look each object up.
    StoreCheck,
    /// Import and use key material that a search can find again: KAGIMORI_CANARY_KEY in hexadecimal.
    Canaries,
    /// Make a pair, then sign once for each line of standard input, always in the same session.
    Hold {
        /// Destroy the pair at the end.
        #[arg(long)]
        tidy: bool,
    },
}

/// A token as an application has it.
struct Token {
    module: Arc<Module>,
    slot: CK_SLOT_ID,
}

impl Token {
    fn from_environment() -> Result<Self> {
        let path = PathBuf::from(std::env::var_os("P11_MODULE").context("P11_MODULE is not set")?);
        let label = std::env::var("P11_TOKEN_LABEL").context("P11_TOKEN_LABEL is not set")?;
        let module = Module::load(&path).map_err(|error| anyhow!(error))?;
        let slot = module.slot(&label).map_err(|error| anyhow!(error))?;
        Ok(Self { module, slot })
    }

    /// A session in which the user of P11_PIN is logged in.
    fn logged_in(&self) -> Result<Session> {
        let pin = std::env::var("P11_PIN").context("P11_PIN is not set")?;
        let session = self.module.open(self.slot)?;
        session.log_in(CKU_USER, &pin)?;
        Ok(session)
    }

    /// A further session: logged in as well when one of this process is.
    fn session(&self) -> Result<Session> {
        Ok(self.module.open(self.slot)?)
    }
}

fn main() -> ExitCode {
    let part = Arguments::parse().part;
    let outcome = Token::from_environment().and_then(|token| match part {
        Part::StoreLoad { threads } => store::load(&token, threads),
        Part::StoreCheck => store::check(&token),
        Part::Canaries => canaries::plant(&token),
        Part::Hold { tidy } => holder::hold(&token, tidy),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed {error:#}");
            ExitCode::FAILURE
        }
    }
}
