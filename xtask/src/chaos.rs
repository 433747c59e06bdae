//! `chaos`: real HSM processes to which everything happens that can, while applications use them; then the verdict.
//!
//! Namespaces of the network are the hosts, in three zones; each HSM's disk is a small file system of its own. That needs
//! root; without it, processes are killed and stopped, disks replaced and members removed, and the report says what could
//! not be done. The load records what it asked and was told (`testing/chaos`); foreign clients run beside it. The same seed
//! draws the same faults; what meets them depends on the machine.

mod applications;
mod disks;
mod faults;
mod random;
mod remains;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::installation::{Installation, Network, Running, Wishes};
use crate::workspace::{Workspace, capture};
use crate::{narrate, packages};
use applications::{Foreign, Load};
use disks::Disks;
use faults::Faults;
use random::Random;

/// HSMs: three that vote, in three zones, and one that learns, so that a voter may be replaced.
const HSMS: usize = 4;

/// Seconds that an application waits for a call: longer than any fault, so that what fails fails for another reason.
const CALL_TIMEOUT: u32 = 60;

/// Arguments of `cargo xtask chaos`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long faults go on.
    #[arg(long, default_value_t = 5, value_name = "NUMBER")]
    minutes: u64,

    /// Draws the faults; said in the report [default: another one each time].
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// Only these kinds of faults.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    only: Vec<String>,

    /// Do without namespaces and disks of their own also as root.
    #[arg(long)]
    plain: bool,
}

/// What became of a run.
struct Outcome {
    faults: Vec<(&'static str, u64)>,
    load: Value,
    foreign: applications::Tally,
    equal: Result<String>,
}

/// Runs it.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    narrate::heading("chaos");
    packages::ensure(packages::TEST)?;
    let hosts = packages::is_root() && !arguments.plain;
    if hosts {
        packages::ensure(packages::NETWORK)?;
    } else {
        narrate::line("no namespaces: links are not cut and disks do not fill; run it as root for these");
    }
    let step = narrate::begin("build");
    step.pause();
    workspace.build()?;
    step.done("");
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()) ^ random::of_the_clock());
    narrate::line(format!("seed {seed}"));
    remains::clear_earlier();
    let folder = remains::make_folder()?;
    remains::clear_when_interrupted()?;
    let network = if hosts { Some(Network::make(HSMS)?) } else { None };
    let outcome = in_folder(workspace, arguments, folder.path(), network.clone(), seed);
    if let Some(network) = &network {
        network.remove();
    }
    let verdict = outcome.and_then(|outcome| report(workspace, arguments, seed, hosts, &outcome));
    if verdict.is_err() {
        narrate::line(format!("logs and keys of this run stay in {}", remains::keep(folder)?.display()));
    }
    verdict
}

fn in_folder(
    workspace: &Workspace,
    arguments: &Arguments,
    folder: &Path,
    network: Option<Network>,
    seed: u64,
) -> Result<Outcome> {
    let wishes = Wishes {
        log: Some("info,openraft=error"),
        hsms: HSMS,
        network: network.clone(),
        client_sockets: true,
        call_timeout: Some(CALL_TIMEOUT),
        ..Wishes::default()
    };
    let installation = Installation::at(workspace, folder, wishes)?;
    installation.make_folders()?;
    let disks = Disks::new(&installation, network.is_some())?;
    let mut running = installation.start_members()?;
    let outcome = (|| {
        installation.bring_into_service()?;
        running.extend(installation.grow()?);
        installation.create_user(applications::LOAD_USER)?;
        shorten_the_window(&installation)?;
        torment(workspace, arguments, &installation, network, &disks, &mut running, seed)
    })();
    for hsm in running {
        // One that was stopped must go on to be ended in order; here it is ended at once.
        hsm.kill()?;
    }
    outcome
}

/// Seconds that an HSM goes on without a majority: so short that the end of a named window comes within the run.
const WINDOW_SECONDS: &str = "3";

fn shorten_the_window(installation: &Installation) -> Result<()> {
    let mut command = installation.kagimori_as_admin()?;
    capture(command.args(["cluster", "policy", "set", "--isolation-window", WINDOW_SECONDS])).map(drop)
}

fn torment(
    workspace: &Workspace,
    arguments: &Arguments,
    installation: &Installation,
    network: Option<Network>,
    disks: &Disks,
    running: &mut Vec<Running>,
    seed: u64,
) -> Result<Outcome> {
    let python = crate::testing::yard::python(workspace)?;
    let load = Load::start(workspace, installation)?;
    let foreign = Foreign::start(workspace, installation, &python)?;
    let mut faults = Faults::new(installation, network, disks, running, Random::new(seed), &arguments.only)?;
    let (began, time) = (Instant::now(), Duration::from_secs(60 * arguments.minutes));
    let mut outcome = Ok(());
    while outcome.is_ok() && began.elapsed() < time {
        outcome = faults.one();
    }
    let done = faults.done();
    let step = narrate::begin("let the applications end");
    let (load_said, foreign_said) = (load.end(), foreign.end());
    step.done("");
    outcome?;
    let equal = applications::check(workspace, installation);
    Ok(Outcome { faults: done, load: load_said?, foreign: foreign_said?, equal })
}

/// Prints what was seen, writes it down, and fails when something must not be.
fn report(workspace: &Workspace, arguments: &Arguments, seed: u64, hosts: bool, outcome: &Outcome) -> Result<()> {
    let mut lines = vec![format!(
        "chaos: {} minutes, seed {seed}, {HSMS} HSMs {}",
        arguments.minutes,
        if hosts { "in namespaces as hosts of three zones" } else { "on this host, without cuts and full disks" }
    )];
    let count: u64 = outcome.faults.iter().map(|(_, count)| count).sum();
    let kinds = outcome.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>();
    lines.push(format!("faults: {count} ({})", kinds.join(", ")));
    let calls = || outcome.load["calls"].as_object().into_iter().flatten();
    let done: u64 = calls().map(|(_, calls)| calls["done"].as_u64().unwrap_or_default()).sum();
    lines.push(format!("operations: {done} of the load, and {} steps of foreign clients", outcome.foreign.passed));
    for (what, calls) in calls() {
        lines.push(format!("calls: {what}: {}, longest {} ms", calls["done"], calls["longest_ms"]));
    }
    for (what, count) in outcome.load["counts"].as_object().into_iter().flatten() {
        lines.push(format!("count: {what}: {count}"));
    }
    let applications::Tally { runs, passed, failures, unreplayable } = &outcome.foreign;
    lines.push(format!("foreign clients (c09, c05): {runs} runs, {passed} steps passed, {} failed", failures.len()));
    lines.push(format!(
        "of calls that cannot be replayed (more than 1 MiB in parts) {} ended in an error",
        unreplayable.len()
    ));
    let errors = outcome.load["errors"].as_u64().unwrap_or(u64::MAX);
    let violations = outcome.load["violations"].as_u64().unwrap_or(u64::MAX);
    let count = |what: &str| outcome.load["counts"][what].as_u64().unwrap_or_default();
    lines.push(format!(
        "invariants that were checked: signatures verify; histories of registers are linearizable ({}); no destroyed key is \
         used but where the answer named the HSM ({} trials); at the end all HSMs are equal, have what was acknowledged, and \
         nothing that was destroyed",
        count("histories judged"),
        count("uses of destroyed keys tried"),
    ));
    lines.push(format!("errors that the load saw: {errors}; what must never be: {violations}"));
    for list in ["first_errors", "first_violations"] {
        lines.extend(outcome.load[list].as_array().into_iter().flatten().map(|line| format!("  {list}: {line}")));
    }
    lines.extend(failures.iter().chain(unreplayable).map(|line| format!("  foreign: {line}")));
    match &outcome.equal {
        Ok(said) => lines.push(format!("at the end: {}", said.trim())),
        Err(error) => lines.push(format!("at the end: FAILED: {error:#}")),
    }
    let good = errors == 0 && violations == 0 && failures.is_empty() && outcome.equal.is_ok();
    lines.push(format!("verdict: {}", if good { "holds" } else { "does not hold" }));
    let file = workspace.target().join(format!("chaos-{seed}.txt"));
    std::fs::write(&file, lines.join("\n")).with_context(|| format!("{} cannot be written", file.display()))?;
    lines.iter().for_each(|line| println!("{line}"));
    if good { Ok(()) } else { bail!("the report {} says what must not be", file.display()) }
}
