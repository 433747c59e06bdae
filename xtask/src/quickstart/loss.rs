//! What a client sees of the loss of an HSM: nothing.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::conversation::Conversation;
use crate::installation::{Installation, Running, Stage};
use crate::narrate;
use crate::workspace::Workspace;

/// Signatures before the loss, so that it is known which HSM makes them, and after it.
const SIGNATURES: usize = 200;

/// How long the HSM that was killed may take to come back.
const RETURN: Duration = Duration::from_secs(60);

/// Has a client sign, kills the HSM that it signs on, and starts it again.
pub(super) fn show(workspace: &Workspace, installation: &Installation, running: &mut Vec<Running>) -> Result<()> {
    let step = narrate::begin("kill the HSM that a client is signing on (SIGKILL)");
    let mut command = Command::new(workspace.built("conformance"));
    installation.give_environment(&mut command)?;
    // The library warns of the connection that it lost, which is the point here.
    command.args(["hold", "--tidy"]).stderr(std::process::Stdio::null());
    let mut client = Conversation::start(command)?;
    let hsms = installation.hsms();
    let before: Vec<u64> = hsms.iter().map(Installation::operations).collect::<Result<_>>()?;
    sign(&mut client)?;
    let after: Vec<u64> = hsms.iter().map(Installation::operations).collect::<Result<_>>()?;
    let served = |number: usize| after[number].saturating_sub(before[number]);
    let busiest = (0..hsms.len()).max_by_key(|&number| served(number)).context("there is no HSM")?;
    let victim = &hsms[busiest];
    let position = running.iter().position(|hsm| victim.runs_as(hsm.process()));
    let process = position.map(|position| running.remove(position)).context("the HSM was not started here")?;
    process.kill()?;
    let longest = sign(&mut client)?;
    client.end()?;
    step.done(format!(
        "it had made {} of {SIGNATURES} signatures; the same session made {SIGNATURES} more, no error, longest wait {:.0} ms",
        served(busiest),
        longest.as_secs_f64() * 1000.0
    ));
    let step = narrate::begin("start it again");
    running.push(victim.start_quietly()?);
    victim.wait_until(Stage::Active, RETURN)?;
    step.done("it has caught up");
    Ok(())
}

/// Signs so often; the longest time that one signature took.
fn sign(client: &mut Conversation) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for _ in 0..SIGNATURES {
        let began = Instant::now();
        match client.ask()?.as_str() {
            "signed" => longest = longest.max(began.elapsed()),
            other => bail!("the client saw an error: {other}"),
        }
    }
    Ok(longest)
}
