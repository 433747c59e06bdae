//! A real HSM against bad input, bad luck and bad company. Each check's name is the promise that it looks at.

mod damage;
mod lifecycle;
mod strangers;
mod users;

use anyhow::Result;

use super::Tally;
use super::disposable::Disposable;
use crate::narrate;
use crate::workspace::Workspace;

/// Runs all of it.
pub(super) fn run(workspace: &Workspace) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut hsm = Disposable::start(workspace)?;
    let step = narrate::begin("strangers: wrong passwords, wrong certificates, half-open connections");
    let outcome = strangers::run(&mut tally, workspace, &hsm);
    step.done("");
    tally.check("strangers", outcome);
    let step = narrate::begin("users: deleting, locking, disabling");
    users::run(&mut tally, workspace, &hsm);
    step.done("");
    let step = narrate::begin("lifecycle: kills, restarts, a second process");
    lifecycle::run(&mut tally, workspace, &mut hsm);
    step.done("");
    let step = narrate::begin("damage: flipped bits, a full disk");
    let outcome = damage::run(&mut tally, workspace, &mut hsm);
    step.done("");
    tally.check("damage", outcome);
    Ok(tally)
}
