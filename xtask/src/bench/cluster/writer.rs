//! Row 10: signing alone, and beside another client that makes keys.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Bench;
use super::fleet::Fleet;
use super::rows::{Goal, median};
use crate::narrate;

/// Milliseconds that the writer works before the measurement, and twice that after it, so that it covers all of it.
const MARGIN: u64 = 750;

impl Bench<'_> {
    pub(super) fn beside_a_writer(&mut self, fleet: &Fleet<'_>) -> Result<()> {
        let step = narrate::begin("sign alone and beside a writer");
        let sign = ["token", "--workload", "p256", "--threads", "1"];
        let (mut ratios, mut waits) = (Vec::new(), Vec::new());
        for _ in self.rounds() {
            let alone = fleet.measure(&sign)?;
            let time = self.arguments.milliseconds + 3 * MARGIN;
            let mut writer = fleet.generator(Duration::from_millis(time) + Duration::from_secs(60))?;
            writer.args(["make", "--threads", "1", "--tidy", "--milliseconds", &time.to_string()]);
            let mut writer = writer.stdout(Stdio::null()).spawn().context("the writer cannot start")?;
            std::thread::sleep(Duration::from_millis(MARGIN));
            let beside = fleet.measure(&sign);
            writer.wait().context("the writer's end cannot be read")?;
            let beside = beside?;
            ratios.push(beside.rate / alone.rate);
            waits.push((alone, beside));
        }
        let of = |pick: fn(&super::super::Figures) -> f64| {
            let (alone, beside): (Vec<f64>, Vec<f64>) =
                waits.iter().map(|(alone, beside)| (pick(alone), pick(beside))).unzip();
            (median(&alone), median(&beside))
        };
        let ((rate, slower), (middle, later)) = (of(|figures| figures.rate), of(|figures| figures.median));
        step.done(format!("{rate:.0} and {slower:.0} a second"));
        self.rows.judge(Goal::BESIDE_A_WRITER, "signing beside a writer / alone", median(&ratios));
        self.rows.judge(Goal::BESIDE_A_WRITER, "the same by the median time of a call", middle / later);
        Ok(())
    }
}
