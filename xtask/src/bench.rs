//! `bench`: this product over mutual TLS, the bare cryptographic library and SoftHSM2 in process, in one run.
//!
//! The sides alternate round by round, so that whatever else the machine does meets all of them alike; a figure is the
//! median of its rounds. Ratios are by CPU time, client and server together, unless the row says otherwise: on a shared
//! machine the clock tells of the neighbours.

mod cluster;
mod peer;
mod table;

use std::process::Command;

use anyhow::{Context, Result};

use crate::installation::{Installation, Wishes};
use crate::workspace::{Workspace, capture};
use crate::{narrate, packages};
use peer::SoftHsm;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,

    /// Rounds; more give steadier figures.
    #[arg(long, default_value_t = 5, value_name = "NUMBER")]
    rounds: usize,

    /// Length of one measurement.
    #[arg(long, default_value_t = 1000, value_name = "MILLISECONDS")]
    milliseconds: u64,

    /// Keys beside which searches and logins are measured again.
    #[arg(long, default_value_t = 10_000, value_name = "NUMBER")]
    keys: usize,
}

#[derive(clap::Subcommand)]
enum What {
    /// The figures of a cluster of three: many keys, writing, the loss of an HSM, a fresh one.
    Cluster(cluster::Arguments),
}

/// Whose figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours,
    Bare,
    Peer,
}

/// What is measured on every side: workload and threads.
const CASES: &[(&str, usize)] =
    &[("p256", 1), ("p256", 8), ("p256", 32), ("rsa2048", 1), ("rsa2048", 8), ("gcm", 1), ("gcm", 8)];

/// One measurement, or the median of several.
#[derive(Clone, Copy, Default)]
struct Figures {
    /// Operations a second by the clock.
    rate: f64,
    /// Microseconds of CPU for an operation, client and server.
    cpu: f64,
    /// The server's part of it.
    server: f64,
    /// Microseconds from call to return, half of them below.
    median: f64,
    /// And 99 of 100.
    worst: f64,
}

impl Figures {
    fn read(json: &str) -> Result<Self> {
        let value: serde_json::Value = serde_json::from_str(json).context("the load generator printed no JSON")?;
        let number = |name: &str| value[name].as_f64().with_context(|| format!("the load generator printed no {name}"));
        let operations = number("operations")?.max(1.0);
        let (client, server) = (number("client_cpu")?, number("server_cpu")?);
        Ok(Self {
            rate: operations / number("seconds")?,
            cpu: (client + server) * 1e6 / operations,
            server: server * 1e6 / operations,
            median: number("median_us")?,
            worst: number("p99_us")?,
        })
    }

    /// The median of each figure by itself.
    fn median_of(all: &[Self]) -> Self {
        let middle = |pick: fn(&Self) -> f64| {
            let mut values: Vec<f64> = all.iter().map(pick).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        Self {
            rate: middle(|figures| figures.rate),
            cpu: middle(|figures| figures.cpu),
            server: middle(|figures| figures.server),
            median: middle(|figures| figures.median),
            worst: middle(|figures| figures.worst),
        }
    }
}

/// Everything that was measured.
struct Results {
    cases: Vec<Case>,
    find: [Figures; 2],
    login: [Figures; 2],
    keys: usize,
    frames_per_write: [f64; 2],
}

struct Case {
    workload: &'static str,
    threads: usize,
    ours: Figures,
    bare: Figures,
    peer: Figures,
}

/// Measures and prints.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    if let Some(What::Cluster(arguments)) = &arguments.what {
        return cluster::run(workspace, arguments);
    }
    narrate::heading("bench");
    packages::ensure(packages::QUICKSTART)?;
    packages::ensure(packages::BENCH)?;
    let step = narrate::begin("build");
    step.pause();
    workspace.build()?;
    step.done("");
    let folder = tempfile::Builder::new().prefix("kagimori-").tempdir().context("no folder for temporary files")?;
    let installation = Installation::at(workspace, folder.path(), Wishes { log: Some("warn"), ..Wishes::default() })?;
    installation.make_folders()?;
    let running = installation.start()?;
    let bench =
        Bench { workspace, installation: &installation, peer: SoftHsm::new()?, server: running.process(), arguments };
    let measured = installation.bring_into_service().and_then(|()| bench.measure());
    installation.stop(running)?;
    table::print(&measured?);
    Ok(())
}

struct Bench<'a> {
    workspace: &'a Workspace,
    installation: &'a Installation,
    peer: SoftHsm,
    server: u32,
    arguments: &'a Arguments,
}

impl Bench<'_> {
    fn measure(&self) -> Result<Results> {
        let step = narrate::begin("make the keys of the workloads");
        for side in [Side::Ours, Side::Peer] {
            capture(self.command(side)?.arg("prepare"))?;
        }
        step.done("");
        let mut cases = Vec::new();
        for &(workload, threads) in CASES {
            let step = narrate::begin(format!("{workload}, {threads} threads"));
            let [mut ours, mut bare, mut peer] = [Vec::new(), Vec::new(), Vec::new()];
            for _ in 0..self.arguments.rounds {
                ours.push(self.case(Side::Ours, workload, threads)?);
                bare.push(self.case(Side::Bare, workload, threads)?);
                peer.push(self.case(Side::Peer, workload, threads)?);
            }
            let [ours, bare, peer] = [ours, bare, peer].map(|all| Figures::median_of(&all));
            step.done(format!("{:.0} a second", ours.rate));
            cases.push(Case { workload, threads, ours, bare, peer });
        }
        let frames_per_write = [self.frames_per_write(8)?, self.frames_per_write(32)?];
        let (few_find, few_login) = self.among(100)?;
        let (many_find, many_login) = self.among(self.arguments.keys)?;
        Ok(Results {
            cases,
            find: [few_find, many_find],
            login: [few_login, many_login],
            keys: self.arguments.keys,
            frames_per_write,
        })
    }

    fn command(&self, side: Side) -> Result<Command> {
        let mut command = Command::new(self.workspace.built("bench"));
        match side {
            Side::Ours => self.installation.give_environment(&mut command)?,
            Side::Peer => self.peer.give_environment(&mut command),
            Side::Bare => {}
        }
        Ok(command)
    }

    fn case(&self, side: Side, workload: &str, threads: usize) -> Result<Figures> {
        let mut command = self.command(side)?;
        command.arg(if side == Side::Bare { "bare" } else { "token" });
        command.args(["--workload", workload, "--threads", &threads.to_string()]);
        self.timed(side, command, self.arguments.milliseconds)
    }

    fn timed(&self, side: Side, mut command: Command, milliseconds: u64) -> Result<Figures> {
        command.args(["--milliseconds", &milliseconds.to_string()]);
        if side == Side::Ours {
            command.args(["--server", &self.server.to_string()]);
        }
        Figures::read(&capture(&mut command)?)
    }

    /// Searches and logins among so many keys.
    fn among(&self, keys: usize) -> Result<(Figures, Figures)> {
        let step = narrate::begin(format!("search and log in among {keys} keys"));
        capture(self.command(Side::Ours)?.args(["fill", "--count", &keys.to_string()]))?;
        let [mut find, mut login] = [Vec::new(), Vec::new()];
        for _ in 0..self.arguments.rounds {
            // Shorter for logins: an HSM takes 20 a second from one source for long, and those beyond wait.
            let length = self.arguments.milliseconds;
            for (what, figures, length) in [("find", &mut find, length), ("login", &mut login, length / 3)] {
                let mut command = self.command(Side::Ours)?;
                command.arg(what);
                figures.push(self.timed(Side::Ours, command, length)?);
            }
        }
        step.done("");
        Ok((Figures::median_of(&find), Figures::median_of(&login)))
    }

    /// Frames in one write of the client library, with so many threads.
    fn frames_per_write(&self, threads: usize) -> Result<f64> {
        let mut command = self.command(Side::Ours)?;
        command.args(["frames", "--threads", &threads.to_string()]);
        command.args(["--milliseconds", &self.arguments.milliseconds.to_string()]);
        let value: serde_json::Value =
            serde_json::from_str(&capture(&mut command)?).context("`bench frames` printed no JSON")?;
        value["frames_per_write"].as_f64().context("`bench frames` printed no number")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_generator_prints_becomes_figures_of_one_operation() {
        let json = "{\"operations\":1000,\"seconds\":2.0,\"client_cpu\":0.5,\"server_cpu\":1.5,\"median_us\":7.0,\"p99_us\":9.0}";
        let figures = Figures::read(json).unwrap();
        assert_eq!((figures.rate, figures.cpu, figures.server), (500.0, 2000.0, 1500.0));
    }

    #[test]
    fn the_median_of_rounds_ignores_one_bad_round() {
        let round = |rate| Figures { rate, ..Figures::default() };
        assert_eq!(Figures::median_of(&[round(9.0), round(1.0), round(8.0)]).rate, 8.0);
    }
}
