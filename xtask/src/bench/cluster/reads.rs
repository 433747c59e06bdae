//! Signatures of one, two and three HSMs, each with the same small share of a core, so that the growth can be seen on a
//! machine with few cores. The load generator runs outside of these shares.

use anyhow::Result;

use super::fleet::Fleet;
use super::quota::Quota;
use super::rows::median;
use super::{Bench, MEMBERS};
use crate::narrate;

/// Hundredths of a core for each HSM: three of them leave the larger part of two cores to the load generator.
const SHARE: u64 = 20;

/// Threads of the load generator: enough that none of three HSMs waits for requests.
const THREADS: &str = "24";

impl Bench<'_> {
    pub(super) fn reads(&mut self, fleet: &mut Fleet<'_>) -> Result<()> {
        let mut rates = Vec::new();
        let mut bounded = Ok(());
        for size in 1..=MEMBERS {
            fleet.grow_to(size)?;
            let step = narrate::begin(format!("sign with {size} HSMs of {SHARE} % of a core each"));
            let quotas: Result<Vec<Quota<'_>>> =
                fleet.processes().into_iter().map(|process| Quota::of(self.tidy, process, SHARE)).collect();
            let mut all = Vec::new();
            for _ in self.rounds() {
                all.push(fleet.measure(&["token", "--workload", "p256", "--threads", THREADS])?);
            }
            bounded = bounded.and(quotas.map(drop));
            let rate = median(&all.iter().map(|figures| figures.rate).collect::<Vec<_>>());
            let cost = median(&all.iter().map(|figures| figures.server).collect::<Vec<_>>());
            step.done(format!("{rate:.0} a second, {cost:.1} µs of an HSM's CPU each"));
            rates.push((rate, cost));
        }
        let how = match &bounded {
            Ok(()) => format!("{SHARE} % of a core each"),
            Err(error) => {
                self.rows.remark(format!(
                    "Reads: no share of a core could be given to an HSM ({error:#}). So the HSMs had the same cores as the \
                     load generator, and the growth from one to three shows little."
                ));
                "no bound".to_owned()
            }
        };
        for (size, (rate, cost)) in (1..).zip(&rates) {
            self.rows.add(format!("P-256 signatures a second, {size} HSMs, {how}"), *rate);
            self.rows.add(format!("µs of an HSM's CPU for each of them, {size} HSMs"), *cost);
        }
        for (size, (rate, _)) in (2..).zip(&rates[1..]) {
            self.rows.add(format!("signatures of {size} HSMs / of 1"), rate / rates[0].0);
        }
        Ok(())
    }
}
