//! Row 12: what signers and writers notice when the leader and when a follower is killed, and when writes go on.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::fleet::Fleet;
use super::rows::{Goal, median, worst};
use super::{Bench, MEMBERS};
use crate::narrate;

/// How long the applications work before.
const BEFORE: Duration = Duration::from_secs(1);

/// How long a killed HSM is away.
const AWAY: Duration = Duration::from_secs(6);

/// Time for its return to end: leases, votes.
const SETTLE: Duration = Duration::from_secs(2);

/// Milliseconds.
#[derive(Default)]
struct Seen {
    /// Longest wait of a signer that is connected to the killed HSM.
    beside: Vec<f64>,
    /// Of one that is connected to another one.
    elsewhere: Vec<f64>,
    /// Of a writer, the worse of two.
    writer: Vec<f64>,
    /// From the kill until the first new key was acknowledged to either of two writers, whose calls were then under way.
    again: Vec<f64>,
    /// From the return of the killed HSM until it has what the others had then.
    level: Vec<f64>,
}

impl Bench<'_> {
    pub(super) fn losses(&mut self, fleet: &mut Fleet<'_>) -> Result<()> {
        let rounds = self.arguments.rounds;
        for (who, leads) in [("leader", true), ("follower", false)] {
            let step = narrate::begin(format!("kill the {who} under signers and writers, {rounds} times"));
            let mut seen = Seen::default();
            for _ in self.rounds() {
                loss(fleet, leads, &mut seen)?;
            }
            step.done("no call failed");
            let kinds = [("connected to it", &seen.beside), ("connected to another one", &seen.elsewhere)];
            for (which, waits) in kinds {
                let what = format!("longest wait of a signer {which}, ms, {who} killed: median");
                self.rows.judge(Goal::STALL, what, median(waits));
                self.rows.judge(Goal::STALL, format!("the same: worst of {rounds}"), worst(waits));
            }
            self.rows.add(format!("longest wait of a writer, ms, {who} killed: median"), median(&seen.writer));
            self.rows.add(format!("the same: worst of {rounds}"), worst(&seen.writer));
            let what = format!("ms until the {who} that is started again has what it missed in {AWAY:?}: median");
            self.rows.add(what, median(&seen.level));
            self.rows.add(format!("the same: worst of {rounds}"), worst(&seen.level));
            if leads {
                self.rows.add("fail-over: ms from the kill to the first new durable key: median", median(&seen.again));
                self.rows.add(format!("the same: worst of {rounds}"), worst(&seen.again));
            }
        }
        Ok(())
    }
}

fn loss(fleet: &mut Fleet<'_>, leads: bool, seen: &mut Seen) -> Result<()> {
    let leader = fleet.leader()?;
    let follower = (1..=MEMBERS).find(|&number| number != leader).context("a cluster of one has no follower")?;
    let victim = if leads { leader } else { follower };
    let survivor = (1..=MEMBERS).rev().find(|&number| number != victim).context("nobody is left")?;
    let zone = |number| fleet.installation.hsm_number(number).zone();
    let (here, there) = (zone(victim), zone(survivor));
    let mut watched = [
        fleet.watch(&here, false)?,
        fleet.watch(&there, false)?,
        fleet.watch(&here, true)?,
        fleet.watch(&there, true)?,
    ];
    std::thread::sleep(BEFORE);
    for one in &mut watched {
        one.ask()?;
    }
    let killed = fleet.kill(victim)?;
    std::thread::sleep(AWAY);
    let mut waits = Vec::new();
    for one in &mut watched {
        waits.push(one.ask()?);
    }
    watched.into_iter().try_for_each(super::fleet::Watched::end)?;
    let [beside, elsewhere, one, other] = &waits[..] else { bail!("there were four applications") };
    seen.beside.push(beside.longest);
    seen.elsewhere.push(elsewhere.longest);
    seen.writer.push(one.longest.max(other.longest));
    seen.again.push(one.ended.min(other.ended) - killed);
    fleet.revive(victim)?;
    seen.level.push(fleet.catch_up(victim, survivor)?);
    std::thread::sleep(SETTLE);
    Ok(())
}
