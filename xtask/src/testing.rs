//! `test`: every test there is, each part with its time, and a last line with the sum.
//!
//! Parts that need an HSM get a disposable one in a folder for temporary files, made as quickstart makes one. A part
//! that cannot run is a failure and never silence.

mod black_box;
mod canary;
mod crash;
mod disposable;
mod fuzz;
mod rust;
mod scripts;
pub(crate) mod yard;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::workspace::Workspace;
use crate::{narrate, packages};

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these parts.
    #[arg(long, value_enum, num_args = 1.., value_name = "PART")]
    only: Vec<Part>,

    /// How often the HSM is killed under load.
    #[arg(long, default_value_t = 1000, value_name = "NUMBER")]
    kills: u32,

    /// How long the crash test may go on at most, whatever the number of kills.
    #[arg(long, default_value_t = 420, value_name = "SECONDS")]
    kill_seconds: u64,

    /// How long each fuzz target runs.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    fuzz_seconds: u64,
}

/// The parts in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Unit, property, vector and simulator tests: `cargo test` of the workspace.
    Rust,
    /// 200 simulated clusters under faults.
    Simulation,
    /// Fuzz targets, beside the parts that mostly wait.
    Fuzz,
    /// Foreign PKCS#11 clients.
    Yard,
    /// Scripts of the PKCS#11 library: fork, dlopen.
    Scripts,
    /// A real HSM against bad input: killed, locked out, without certificates, with a damaged store.
    BlackBox,
    /// Kills under load.
    Crash,
    /// The search for canary secrets.
    Canary,
}

/// What came of a part.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Counts one check and says so when it failed.
    fn check(&mut self, name: &str, outcome: Result<()>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(error) => {
                self.failed += 1;
                narrate::line(format!("FAILED  {name}: {error:#}"));
            }
        }
    }

    fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs the parts.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    narrate::heading("test");
    packages::ensure(packages::TEST)?;
    let step = narrate::begin("build");
    step.pause();
    workspace.build()?;
    step.done("");
    let wanted = |part: Part| arguments.only.is_empty() || arguments.only.contains(&part);
    let mut sum = Tally::default();
    if wanted(Part::Rust) {
        timed(Part::Rust, &mut sum, || rust::run(workspace));
    }
    let fuzzing = wanted(Part::Fuzz).then(|| fuzz::start(workspace, Duration::from_secs(arguments.fuzz_seconds)));
    for part in Part::value_variants().iter().copied().filter(|&part| wanted(part)) {
        match part {
            Part::Rust | Part::Fuzz => {}
            Part::Simulation => timed(part, &mut sum, || {
                crate::simulate::run_for_tests(workspace).map(|()| Tally { passed: 1, failed: 0 })
            }),
            Part::Yard => timed(part, &mut sum, || yard::run(workspace)),
            Part::Scripts => timed(part, &mut sum, || scripts::run(workspace)),
            Part::BlackBox => timed(part, &mut sum, || black_box::run(workspace)),
            Part::Crash => {
                let patience = Duration::from_secs(arguments.kill_seconds);
                timed(part, &mut sum, || crash::run(workspace, arguments.kills, patience));
            }
            Part::Canary => timed(part, &mut sum, || canary::run(workspace)),
        }
    }
    if let Some(fuzzing) = fuzzing {
        timed(Part::Fuzz, &mut sum, || fuzzing.and_then(fuzz::Fuzzing::finish));
    }
    println!("\n{} passed, {} failed", sum.passed, sum.failed);
    if sum.failed > 0 || sum.passed == 0 {
        bail!("{} tests failed; their names are above, each after the word FAILED", sum.failed);
    }
    Ok(())
}

/// Runs a part; one that cannot run counts as one failure.
fn timed(part: Part, sum: &mut Tally, run: impl FnOnce() -> Result<Tally>) {
    let name = part.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    narrate::heading(format!("test: {name}"));
    let began = Instant::now();
    let tally = run().unwrap_or_else(|error| {
        narrate::line(format!("FAILED  {name} could not run: {error:#}"));
        Tally { passed: 0, failed: 1 }
    });
    let seconds = began.elapsed().as_secs_f64();
    narrate::line(format!("{name}: {} passed, {} failed in {seconds:.0} s", tally.passed, tally.failed));
    sum.add(&tally);
}
