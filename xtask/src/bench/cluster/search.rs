//! Row 7: search by label among a million keys and among a hundred, each in an HSM of its own, by turns.

use anyhow::Result;

use super::fleet::Fleet;
use super::rows::{Goal, median};
use super::{Bench, FEW};
use crate::narrate;

/// Objects that the limit of a cluster must leave room for: the keys of the workloads.
const OTHERS: usize = 10;

impl Bench<'_> {
    pub(super) fn search(&mut self) -> Result<()> {
        let (few, many) = (Fleet::form(self, 1)?, Fleet::form(self, 1)?);
        let wanted = self.arguments.search_keys;
        few.fill(FEW)?;
        let before = many.memory()?;
        let rate = many.fill(wanted.saturating_sub(OTHERS).max(FEW))?;
        let grown = many.memory()? - before;
        let step = narrate::begin("search by label in both");
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for _ in self.rounds() {
            let (one, other) = (few.measure(&["find"])?, many.measure(&["find"])?);
            rates.push(other.rate / one.rate);
            costs.push(one.server / other.server);
        }
        step.done("");
        self.rows.judge(Goal::SEARCH, format!("search by label: rate at {wanted} / at {FEW}"), median(&rates));
        self.rows.judge(Goal::SEARCH, "the same by the HSM's CPU time", median(&costs));
        self.rows.add(format!("keys a second while {wanted} were made, one HSM, 64 threads"), rate);
        self.rows.add(format!("MiB of memory of an HSM for {wanted} keys"), grown);
        self.rows.add(format!("MiB of disk of an HSM with {wanted} keys"), many.disk()?);
        Ok(())
    }
}
