//! A fresh HSM beside many keys: how long until it serves, alone and under load, and what applications notice.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::fleet::Fleet;
use super::rows::{median, worst};
use super::{Bench, MEMBERS};
use crate::narrate;

/// How long the applications work before and after.
const AROUND: Duration = Duration::from_secs(1);

impl Bench<'_> {
    /// The second and the third HSM, with nobody at work.
    pub(super) fn joins(&mut self, fleet: &mut Fleet<'_>) -> Result<()> {
        let mut times = Vec::new();
        for size in 2..=MEMBERS {
            let began = Instant::now();
            fleet.grow_to(size)?;
            times.push(began.elapsed().as_secs_f64());
        }
        let keys = self.arguments.keys;
        self.rows.add(format!("seconds from the start of a fresh HSM until it serves {keys} keys"), median(&times));
        Ok(())
    }

    /// The fourth one, beside a signer and a writer.
    pub(super) fn join_under_load(&mut self, fleet: &mut Fleet<'_>) -> Result<()> {
        let step = narrate::begin("watch a signer and a writer");
        let mut watched = vec![fleet.watch("zone-b", false)?, fleet.watch("zone-c", true)?];
        std::thread::sleep(AROUND);
        let before: Vec<f64> = watched.iter_mut().map(|one| Ok(one.ask()?.longest)).collect::<Result<_>>()?;
        step.done("");
        let began = Instant::now();
        fleet.grow_to(MEMBERS + 1)?;
        let time = began.elapsed().as_secs_f64();
        std::thread::sleep(AROUND);
        let during: Vec<_> = watched.iter_mut().map(super::fleet::Watched::ask).collect::<Result<_>>()?;
        watched.into_iter().try_for_each(super::fleet::Watched::end)?;
        let keys = self.arguments.keys;
        self.rows.add(format!("the same beside a signer and a writer, {keys} keys, seconds"), time);
        for (who, (before, during)) in ["signer", "writer"].iter().zip(before.iter().zip(&during)) {
            let rate = during.count / (time + AROUND.as_secs_f64());
            self.rows.add(format!("longest wait of the {who} meanwhile, ms ({before} ms before)"), during.longest);
            self.rows.add(format!("calls a second of the {who} meanwhile"), rate);
        }
        let waits: Vec<f64> = during.iter().map(|one| one.longest).collect();
        self.rows
            .remark(format!("During the join under load no call failed; the longest wait was {} ms.", worst(&waits)));
        Ok(())
    }
}
