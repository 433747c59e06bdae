//! Row 9: durable keys by threads and among many keys; what many keys weigh.

use anyhow::Result;

use super::fleet::Fleet;
use super::rows::{Goal, median};
use super::{Bench, FEW, WRITERS};
use crate::narrate;

/// One, eight and many threads that make keys and destroy them after the measurement.
const MAKE: [[&str; 4]; 3] =
    [["make", "--tidy", "--threads", "1"], ["make", "--tidy", "--threads", "8"], ["make", "--tidy", "--threads", "64"]];
const _: () = assert!(WRITERS == 64);

impl Bench<'_> {
    /// By threads, in turns.
    pub(super) fn threads(&mut self, fleet: &Fleet<'_>) -> Result<()> {
        let step = narrate::begin("make keys by 1, 8 and 64 threads");
        let mut all = [Vec::new(), Vec::new(), Vec::new()];
        for _ in self.rounds() {
            for (words, figures) in MAKE.iter().zip(&mut all) {
                figures.push(fleet.measure(words)?);
            }
        }
        let [one, eight, many] = all.map(|figures| super::super::Figures::median_of(&figures));
        step.done(format!("{:.0}, {:.0} and {:.0} a second", one.rate, eight.rate, many.rate));
        self.rows.judge(Goal::KEYS_BY_THREADS, "durable keys, three HSMs: 8 threads / 1 thread", eight.rate / one.rate);
        for (threads, figures) in [(1, one), (8, eight), (64, many)] {
            self.rows.add(format!("durable keys a second, three HSMs, {threads} threads"), figures.rate);
            self.rows.add(format!("median milliseconds for one of them, {threads} threads"), figures.median / 1000.0);
            self.rows.add(format!("µs of CPU of all HSMs for one of them, {threads} threads"), figures.server);
        }
        Ok(())
    }

    /// Makes many in one HSM.
    pub(super) fn weigh(&mut self, many: &Fleet<'_>) -> Result<()> {
        let keys = self.arguments.keys;
        many.fill(FEW)?;
        let (memory, disk) = (many.memory()?, many.disk()?);
        let rate = many.fill(keys)?;
        let each = 1e5 / keys as f64;
        self.rows.add(format!("keys a second while {keys} were made, one HSM, {WRITERS} threads"), rate);
        self.rows.add("MiB of memory of an HSM with 100 keys", memory);
        self.rows.add("MiB of memory of an HSM for 100,000 more", (many.memory()? - memory) * each);
        self.rows.add("MiB of disk of an HSM for 100,000 more", (many.disk()? - disk) * each);
        Ok(())
    }

    /// Among many and among few, in turns: two clusters of three.
    pub(super) fn among_many(&mut self, few: &Fleet<'_>, many: &Fleet<'_>) -> Result<()> {
        let step = narrate::begin("make keys by 8 threads among few and among many");
        let (mut ratios, mut costs) = (Vec::new(), Vec::new());
        for _ in self.rounds() {
            let (one, other) = (few.measure(&MAKE[1])?, many.measure(&MAKE[1])?);
            ratios.push(other.rate / one.rate);
            costs.push(one.server / other.server);
        }
        step.done("");
        let keys = self.arguments.keys;
        let what = format!("durable keys, three HSMs, 8 threads: rate at {keys} / at {FEW}");
        self.rows.judge(Goal::KEYS_AMONG_MANY, what, median(&ratios));
        self.rows.judge(Goal::KEYS_AMONG_MANY, "the same by the HSMs' CPU time", median(&costs));
        Ok(())
    }
}
