//! `bench cluster`: what many keys, writing, a loss and a fresh HSM cost a cluster of three, as ratios within one run.
//!
//! Both sides of a ratio are measured round by round beside each other where they can be, so that whatever else the machine
//! does meets both; a figure is the median of its rounds. Three HSMs and their clients share this machine's cores.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Figures;
use crate::conversation::Conversation;
use crate::installation::{Installation, Running, Stage, Wishes};
use crate::workspace::{Workspace, capture};
use crate::{narrate, packages};

/// HSMs that vote, and a fourth that joins at the end.
const MEMBERS: usize = 3;

/// Keys on the smaller side of a ratio.
const FEW: usize = 100;

/// How long an HSM may take to come back.
const RETURN: Duration = Duration::from_secs(120);

/// How long a killed HSM is away.
const AWAY: Duration = Duration::from_secs(6);

/// Arguments of `cargo xtask bench cluster`.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Rounds of each measurement, and kills of the leader and of a follower.
    #[arg(long, default_value_t = 5, value_name = "NUMBER")]
    rounds: usize,

    /// Length of one measurement.
    #[arg(long, default_value_t = 1000, value_name = "MILLISECONDS")]
    milliseconds: u64,

    /// Keys of the larger side of a ratio. The goals speak of 100,000 and, for searching, of 1,000,000.
    #[arg(long, default_value_t = 100_000, value_name = "NUMBER")]
    keys: usize,
}

/// A line of the table.
struct Row {
    number: &'static str,
    what: String,
    value: f64,
    goal: &'static str,
}

/// Measures and prints.
pub(super) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    narrate::heading("bench cluster");
    packages::ensure(packages::QUICKSTART)?;
    let step = narrate::begin("build");
    step.pause();
    workspace.build()?;
    step.done("");
    let folder = tempfile::Builder::new().prefix("kagimori-").tempdir().context("no folder for temporary files")?;
    let wishes = Wishes { log: Some("warn,openraft=error"), hsms: MEMBERS + 1, ..Wishes::default() };
    let installation = Installation::at(workspace, folder.path(), wishes)?;
    installation.make_folders()?;
    let mut running = installation.start_members()?;
    let rows = (|| {
        installation.bring_into_service()?;
        running.extend(installation.grow_to(MEMBERS)?);
        Cluster { workspace, installation: &installation, arguments, rows: Vec::new() }.measure(&mut running)
    })();
    for hsm in running {
        hsm.kill()?;
    }
    print(arguments, &rows?);
    Ok(())
}

struct Cluster<'a> {
    workspace: &'a Workspace,
    installation: &'a Installation,
    arguments: &'a Arguments,
    rows: Vec<Row>,
}

impl Cluster<'_> {
    fn measure(mut self, running: &mut Vec<Running>) -> Result<Vec<Row>> {
        capture(self.generator()?.arg("prepare"))?;
        self.fill(FEW)?;
        let few_find = self.rates("searches among few keys", &["find"])?;
        let one = self.rates("one thread makes keys", &["make", "--threads", "1"])?;
        let eight = self.rates("eight threads make keys", &["make", "--threads", "8"])?;
        self.beside_a_writer()?;
        self.losses(running)?;
        let memory = memory(running)?;
        let began = Instant::now();
        self.fill(self.arguments.keys)?;
        let seconds = began.elapsed().as_secs_f64();
        let grown = (memory_sum(&self::memory(running)?) - memory_sum(&memory)) / running.len() as f64;
        let many_find = self.rates("searches among many keys", &["find"])?;
        let many = self.rates("eight threads make keys", &["make", "--threads", "8"])?;
        let keys = self.arguments.keys;
        self.row(
            "7",
            format!("search by label: rate at {keys} / at {FEW}"),
            many_find.rate / few_find.rate,
            "0.9; 0.97",
        );
        self.row("9", format!("durable keys: rate at {keys} / at {FEW}"), many.rate / eight.rate, "0.9; 0.97");
        self.row("9", "durable keys: 8 threads / 1 thread".to_owned(), eight.rate / one.rate, "3; 6");
        self.row("", "durable keys a second, 8 threads".to_owned(), eight.rate, "");
        self.row("", format!("keys a second while {keys} were made"), keys as f64 / seconds, "");
        self.row("", "MiB of memory of an HSM for 100,000 keys".to_owned(), grown * 1e5 / keys as f64, "");
        self.join(running)?;
        Ok(self.rows)
    }

    fn row(&mut self, number: &'static str, what: String, value: f64, goal: &'static str) {
        self.rows.push(Row { number, what, value, goal });
    }

    fn generator(&self) -> Result<Command> {
        let mut command = Command::new(self.workspace.built("bench"));
        self.installation.give_environment(&mut command)?;
        Ok(command)
    }

    fn fill(&self, count: usize) -> Result<()> {
        let step = narrate::begin(format!("make keys until there are {count}"));
        capture(self.generator()?.args(["fill", "--count", &count.to_string()]))?;
        step.done("");
        Ok(())
    }

    fn once(&self, words: &[&str]) -> Result<Figures> {
        let mut command = self.generator()?;
        command.args(words).args(["--milliseconds", &self.arguments.milliseconds.to_string()]);
        Figures::read(&capture(&mut command)?)
    }

    fn rates(&self, what: &str, words: &[&str]) -> Result<Figures> {
        let step = narrate::begin(what);
        let all: Vec<Figures> = (0..self.arguments.rounds).map(|_| self.once(words)).collect::<Result<_>>()?;
        let median = Figures::median_of(&all);
        step.done(format!("{:.0} a second", median.rate));
        Ok(median)
    }

    /// Row 10: signing by one client alone and beside another that makes keys, by turns.
    fn beside_a_writer(&mut self) -> Result<()> {
        let step = narrate::begin("sign alone and beside a writer");
        let sign = ["token", "--workload", "p256", "--threads", "1"];
        let mut ratios = Vec::new();
        for _ in 0..self.arguments.rounds {
            let alone = self.once(&sign)?;
            let time = (self.arguments.milliseconds + 2000).to_string();
            let mut writer = self.generator()?;
            writer.args(["make", "--threads", "1", "--milliseconds", &time]).stdout(Stdio::null());
            let mut writer = writer.spawn().context("the writer cannot start")?;
            std::thread::sleep(Duration::from_millis(500));
            let beside = self.once(&sign)?;
            writer.wait().context("the writer's end cannot be read")?;
            ratios.push(beside.rate / alone.rate);
        }
        step.done("");
        self.row("10", "signing beside a writer / alone".to_owned(), median(&mut ratios), "0.8; 0.9");
        Ok(())
    }

    /// Row 12: the longest wait of a signer and of a writer when the leader and when a follower is killed.
    fn losses(&mut self, running: &mut Vec<Running>) -> Result<()> {
        for leads in [true, false] {
            let who = if leads { "the leader" } else { "a follower" };
            let step = narrate::begin(format!("kill {who} under a signer and a writer"));
            let (mut signer, mut writer) = (Vec::new(), Vec::new());
            for _ in 0..self.arguments.rounds {
                let (sign, write) = self.loss(running, leads)?;
                signer.push(sign);
                writer.push(write);
            }
            step.done("no call failed");
            let worst = signer.iter().copied().fold(0.0, f64::max);
            self.row(
                "12",
                format!("longest wait of a signer, ms, {who} killed, median"),
                median(&mut signer),
                "3000; 500",
            );
            self.row("12", format!("the same, worst of {}", self.arguments.rounds), worst, "3000; 500");
            self.row("", format!("longest wait of a writer, ms, {who} killed, median"), median(&mut writer), "");
        }
        Ok(())
    }

    fn loss(&self, running: &mut Vec<Running>, leads: bool) -> Result<(f64, f64)> {
        let hsms = self.installation.hsms();
        let leader = hsms[0].status()?.leader.context("nobody leads")?;
        let chosen = |hsm: &&Installation| {
            hsm.number() <= MEMBERS && (hsm.peer_address().ok().flatten() == Some(leader)) == leads
        };
        let victim = hsms.iter().find(chosen).context("there is no such HSM")?;
        let start = |words: &[&str]| -> Result<Conversation> {
            let mut command = self.generator()?;
            command.args(words).stderr(Stdio::null());
            Conversation::start(command)
        };
        let (mut signer, mut writer) = (start(&["waits"])?, start(&["waits", "--writes"])?);
        std::thread::sleep(Duration::from_secs(1));
        waited(&mut signer)?;
        waited(&mut writer)?;
        let position = running.iter().position(|hsm| victim.runs_as(hsm.process())).context("it does not run")?;
        running.remove(position).kill()?;
        std::thread::sleep(AWAY);
        let waits = (waited(&mut signer)?, waited(&mut writer)?);
        signer.end()?;
        writer.end()?;
        running.push(victim.start_quietly()?);
        victim.wait_until(Stage::Active, RETURN)?;
        std::thread::sleep(Duration::from_secs(2));
        Ok(waits)
    }

    /// A fresh HSM beside all these keys.
    fn join(&mut self, running: &mut Vec<Running>) -> Result<()> {
        let began = Instant::now();
        running.extend(self.installation.grow_to(MEMBERS + 1)?);
        let keys = self.arguments.keys;
        self.row("", format!("a fresh HSM joins and serves {keys} keys, seconds"), began.elapsed().as_secs_f64(), "");
        Ok(())
    }
}

/// The longest wait since it was last asked, in milliseconds.
fn waited(application: &mut Conversation) -> Result<f64> {
    let said = application.ask()?;
    match said.split_once(' ').map(|(longest, _)| longest.parse()) {
        Some(Ok(longest)) => Ok(longest),
        _ => bail!("an application saw an error: {said}"),
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Mebibytes of each process in memory.
fn memory(running: &[Running]) -> Result<Vec<f64>> {
    let of = |hsm: &Running| {
        let text = std::fs::read_to_string(format!("/proc/{}/status", hsm.process())).context("an HSM is gone")?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc")?;
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")?;
        Ok(kibibytes / 1024.0)
    };
    running.iter().map(of).collect()
}

fn memory_sum(all: &[f64]) -> f64 {
    all.iter().sum()
}

fn print(arguments: &Arguments, rows: &[Row]) {
    let Arguments { rounds, milliseconds, .. } = arguments;
    println!("\n{}", super::table::machine());
    println!("\nThree HSMs and their clients on these cores; {rounds} rounds of {milliseconds} ms, medians.\n");
    println!("| row | what | measured | reach; stretch |");
    println!("|---|---|---|---|");
    for Row { number, what, value, goal } in rows {
        println!("| {number} | {what} | {value:.2} | {goal} |");
    }
}
