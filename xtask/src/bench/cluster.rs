//! `bench cluster`: what many keys, writing, a loss, a fresh HSM and more HSMs do to a cluster, on real processes in one run.
//!
//! Both sides of a ratio are measured round by round beside each other where they can be, so that whatever else the machine
//! does meets both; a figure is the median of its rounds. HSMs and clients share this machine's cores. Every wait has an
//! end, and [`tidy`] removes what a run leaves, however it ends.

mod fleet;
mod join;
mod keys;
mod loss;
mod quota;
mod reads;
mod rows;
mod search;
mod tidy;
mod writer;

use std::time::Duration;

use anyhow::Result;

use crate::workspace::Workspace;
use crate::{narrate, packages};
use fleet::Fleet;
use rows::Rows;
use tidy::Tidy;

/// HSMs that vote.
const MEMBERS: usize = 3;

/// Keys on the smaller side of a ratio.
const FEW: usize = 100;

/// Threads that make many keys: as many as the measurements of the design had.
const WRITERS: usize = 64;

/// Arguments of `cargo xtask bench cluster`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Rounds of each measurement, and kills of the leader and of a follower.
    #[arg(long, default_value_t = 5, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,

    /// Length of one measurement.
    #[arg(long, default_value_t = 1000, value_name = "MILLISECONDS")]
    milliseconds: u64,

    /// Keys of the larger side of a ratio.
    #[arg(long, default_value_t = 100_000, value_name = "NUMBER")]
    keys: usize,

    /// Keys of the larger side of the search: a cluster holds 1,000,000 objects.
    #[arg(long, default_value_t = 1_000_000, value_name = "NUMBER")]
    search_keys: usize,

    /// Only these.
    #[arg(long, value_enum, num_args = 1.., value_name = "ROW")]
    rows: Vec<Part>,

    /// The whole run ends after this time, whatever it is at.
    #[arg(long, default_value_t = 25, value_name = "MINUTES")]
    at_most: u64,
}

/// Measurements that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Signatures of one, two and three HSMs with an equal share of a core each.
    Reads,
    /// Keys by one, eight and 64 threads.
    Threads,
    /// Signing beside a writer.
    Writer,
    /// The loss of the leader and of a follower.
    Loss,
    /// The same with many keys; memory and disk.
    Keys,
    /// Fresh HSMs beside many keys.
    Join,
    /// Search by label.
    Search,
}

/// What every measurement needs.
struct Bench<'a> {
    workspace: &'a Workspace,
    arguments: &'a Arguments,
    tidy: &'a Tidy,
    rows: Rows,
}

/// Measures and prints.
pub(super) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    narrate::heading("bench cluster");
    packages::ensure(packages::QUICKSTART)?;
    let step = narrate::begin("build");
    step.pause();
    workspace.build()?;
    step.done("");
    let tidy = Tidy::new(Duration::from_secs(arguments.at_most * 60))?;
    let before = rows::load();
    let mut bench = Bench { workspace, arguments, tidy: &tidy, rows: Rows::default() };
    let outcome = bench.measure();
    // What was measured before a failure is worth reading too.
    bench.rows.print(arguments, &before);
    outcome
}

impl Bench<'_> {
    fn wants(&self, part: Part) -> bool {
        self.arguments.rows.is_empty() || self.arguments.rows.contains(&part)
    }

    fn measure(&mut self) -> Result<()> {
        if self.wants(Part::Search) {
            self.search()?;
        }
        if self.arguments.rows.iter().all(|&part| part == Part::Search) && !self.arguments.rows.is_empty() {
            return Ok(());
        }
        let mut few = Fleet::form(self, MEMBERS)?;
        few.prepare()?;
        if self.wants(Part::Reads) {
            self.reads(&mut few)?;
        }
        few.grow_to(MEMBERS)?;
        few.fill(FEW)?;
        if self.wants(Part::Threads) {
            self.threads(&few)?;
        }
        if self.wants(Part::Writer) {
            self.beside_a_writer(&few)?;
        }
        if self.wants(Part::Keys) || self.wants(Part::Join) {
            self.many(&few)?;
        }
        if self.wants(Part::Loss) {
            self.losses(&mut few)?;
        }
        Ok(())
    }

    /// Many keys in one HSM, then in three, then in four.
    fn many(&mut self, few: &Fleet) -> Result<()> {
        let mut many = Fleet::form(self, MEMBERS + 1)?;
        many.prepare()?;
        self.weigh(&many)?;
        self.joins(&mut many)?;
        if self.wants(Part::Keys) {
            self.among_many(few, &many)?;
        }
        if self.wants(Part::Join) { self.join_under_load(&mut many) } else { Ok(()) }
    }

    fn rounds(&self) -> std::ops::Range<u16> {
        0..self.arguments.rounds
    }
}
