//! One cluster under measurement: its HSM processes and the load generator's commands for it.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::super::Figures;
use super::tidy::{self, Tidy};
use super::{Bench, WRITERS};
use crate::conversation::Conversation;
use crate::installation::{Installation, Running, Stage, Wishes};
use crate::narrate;
use crate::workspace::capture;

/// How long an HSM may take to come back.
const RETURN: Duration = Duration::from_secs(120);

/// What the load generator may take beyond its measurement: a login, and calls that wait for a leader.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keys a second that are made at the very least, before a run that makes many is called stuck.
const SLOWEST: u64 = 500;

/// A cluster. Its processes and its folder go with it.
pub(super) struct Fleet<'a> {
    pub(super) installation: Installation,
    generator: std::path::PathBuf,
    milliseconds: u64,
    running: Vec<Running>,
    tidy: &'a Tidy,
    folder: Option<tempfile::TempDir>,
}

impl<'a> Fleet<'a> {
    /// One HSM in service, of a cluster that may come to have so many.
    pub(super) fn form(bench: &Bench<'a>, at_most: usize) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("kagimori-").tempdir().context("no folder for temporary files")?;
        bench.tidy.has_folder(folder.path().to_owned());
        let wishes = Wishes { log: Some("warn,openraft=error"), hsms: at_most, ..Wishes::default() };
        let mut fleet = Self {
            installation: Installation::at(bench.workspace, folder.path(), wishes)?,
            generator: bench.workspace.built("bench"),
            milliseconds: bench.arguments.milliseconds,
            running: Vec::new(),
            tidy: bench.tidy,
            folder: Some(folder),
        };
        fleet.installation.make_folders()?;
        fleet.running = fleet.installation.start_members()?;
        fleet.installation.bring_into_service()?;
        Ok(fleet)
    }

    /// How many HSMs run.
    pub(super) fn size(&self) -> usize {
        self.running.len()
    }

    /// Process ids, in no order.
    pub(super) fn processes(&self) -> Vec<u32> {
        self.running.iter().map(Running::process).collect()
    }

    /// Has further HSMs join, until there are so many.
    pub(super) fn grow_to(&mut self, size: usize) -> Result<()> {
        for next in self.size() + 1..=size {
            self.running.extend(self.installation.grow_to(next)?);
        }
        Ok(())
    }

    /// The number of the HSM that leads.
    pub(super) fn leader(&self) -> Result<usize> {
        let began = Instant::now();
        let hsms = self.installation.hsms();
        while began.elapsed() < PATIENCE {
            if let Some(leader) = hsms[0].status()?.leader {
                let leads = |hsm: &&Installation| hsm.peer_address().ok().flatten() == Some(leader);
                return Ok(hsms.iter().find(leads).context("somebody else leads")?.number());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("nobody leads after {PATIENCE:?}")
    }

    /// Kills an HSM as a power cut would; says when, in milliseconds since 1970.
    pub(super) fn kill(&mut self, number: usize) -> Result<f64> {
        let victim = self.installation.hsm_number(number);
        let position = self.running.iter().position(|hsm| victim.runs_as(hsm.process())).context("it does not run")?;
        let hsm = self.running.remove(position);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?;
        hsm.kill()?;
        Ok(now.as_secs_f64() * 1000.0)
    }

    /// Starts it again and waits until it is in service.
    pub(super) fn revive(&mut self, number: usize) -> Result<()> {
        let victim = self.installation.hsm_number(number);
        self.running.push(victim.start_quietly()?);
        victim.wait_until(Stage::Active, RETURN)
    }

    /// Waits until an HSM has applied what another one has applied by now; the milliseconds.
    pub(super) fn catch_up(&self, number: usize, other: usize) -> Result<f64> {
        let wanted = self.applied(other)?;
        let began = Instant::now();
        while self.applied(number)? < wanted {
            if began.elapsed() > RETURN {
                bail!("HSM {number} is still behind after {RETURN:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(began.elapsed().as_secs_f64() * 1000.0)
    }

    fn applied(&self, number: usize) -> Result<u64> {
        const LINE: &str = "kagimori_applied_index ";
        let metrics = self.installation.hsm_number(number).metrics()?;
        let line =
            metrics.lines().find_map(|line| line.strip_prefix(LINE)).context("no applied index in the metrics")?;
        line.trim().parse().context("the metrics hold no number")
    }

    /// The load generator, ended after this time whatever it is at.
    pub(super) fn generator(&self, at_most: Duration) -> Result<Command> {
        let mut command = Command::new("timeout");
        command.args(["--foreground", "--kill-after=5", &at_most.as_secs().to_string()]).arg(&self.generator);
        self.installation.give_environment(&mut command)?;
        Ok(command)
    }

    /// One measurement, with the HSMs' CPU time.
    pub(super) fn measure(&self, words: &[&str]) -> Result<Figures> {
        self.measure_for(words, self.milliseconds)
    }

    /// The same for another length.
    pub(super) fn measure_for(&self, words: &[&str], milliseconds: u64) -> Result<Figures> {
        let mut command = self.generator(PATIENCE + Duration::from_millis(milliseconds))?;
        command.args(words).args(["--milliseconds", &milliseconds.to_string()]);
        for process in self.processes() {
            command.args(["--server", &process.to_string()]);
        }
        Figures::read(&capture(&mut command)?)
    }

    /// The keys of the workloads.
    pub(super) fn prepare(&self) -> Result<()> {
        capture(self.generator(PATIENCE)?.arg("prepare")).map(drop)
    }

    /// Makes keys until there are so many beside those of the workloads; the rate.
    pub(super) fn fill(&self, count: usize) -> Result<f64> {
        let step = narrate::begin(format!("make keys until there are {count}"));
        let mut command = self.generator(PATIENCE + Duration::from_secs(count as u64 / SLOWEST))?;
        command.args(["fill", "--count", &count.to_string(), "--threads", &WRITERS.to_string()]);
        let said: serde_json::Value =
            serde_json::from_str(&capture(&mut command)?).context("`bench fill` printed no JSON")?;
        let number = |name: &str| said[name].as_f64().with_context(|| format!("`bench fill` printed no {name}"));
        let rate = number("keys")? / number("seconds")?.max(1e-6);
        step.done(format!("{rate:.0} a second"));
        Ok(rate)
    }

    /// An application in a zone whose waits are watched: a signer, or one that makes keys.
    pub(super) fn watch(&self, zone: &str, writes: bool) -> Result<Watched> {
        let client = self.installation.client();
        let file = client.join(format!("{zone}.toml"));
        let text = std::fs::read_to_string(self.installation.client_configuration())?;
        std::fs::write(&file, format!("{text}zone = \"{zone}\"\n")).context("no file for a client in a zone")?;
        let mut command = self.generator(4 * PATIENCE)?;
        command.env("KAGIMORI_CONFIG", &file).arg("waits").stderr(Stdio::null());
        if writes {
            command.arg("--writes");
        }
        Ok(Watched(Conversation::start(command)?))
    }

    /// Mebibytes in memory, of all HSMs on average.
    pub(super) fn memory(&self) -> Result<f64> {
        let of = |hsm: &Running| {
            let text = std::fs::read_to_string(format!("/proc/{}/status", hsm.process())).context("an HSM is gone")?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc")?;
            let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")?;
            Ok(kibibytes / 1024.0)
        };
        let all: Vec<f64> = self.running.iter().map(of).collect::<Result<_>>()?;
        Ok(all.iter().sum::<f64>() / all.len().max(1) as f64)
    }

    /// Mebibytes of the first HSM's store on its disk.
    pub(super) fn disk(&self) -> Result<f64> {
        use std::os::unix::fs::MetadataExt as _;
        let entries = std::fs::read_dir(self.installation.data()).context("the HSM's folder cannot be read")?;
        let mut blocks = 0;
        for entry in entries {
            blocks += entry?.metadata()?.blocks();
        }
        Ok(blocks as f64 * 512.0 / 1_048_576.0)
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        for hsm in self.running.drain(..) {
            if let Err(error) = hsm.kill() {
                eprintln!("  {error:#}");
            }
        }
        if let Some(folder) = self.folder.take() {
            let path = folder.path().to_owned();
            // One that was started and did not come into service is in no list.
            if let Err(error) = tidy::end_processes(&path) {
                eprintln!("  {error:#}");
            }
            match folder.close() {
                Ok(()) => self.tidy.lost_folder(&path),
                Err(error) => eprintln!("  {} stays: {error}", path.display()),
            }
        }
    }
}

/// An application whose waits are watched.
pub(super) struct Watched(Conversation);

/// What it did since it was asked last.
pub(super) struct Waits {
    /// Milliseconds of the longest call.
    pub(super) longest: f64,
    /// When that one ended, in milliseconds since 1970.
    pub(super) ended: f64,
    /// Calls.
    pub(super) count: f64,
}

impl Watched {
    pub(super) fn ask(&mut self) -> Result<Waits> {
        let said = self.0.ask()?;
        let numbers: Result<Vec<f64>, _> = said.split(' ').map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[longest, count, ended]) => Ok(Waits { longest, ended, count }),
            _ => bail!("an application saw an error: {said}"),
        }
    }

    /// Ends it after the call that is under way. Its last words say what call failed, if one did.
    pub(super) fn end(mut self) -> Result<()> {
        self.0.close_input();
        let mut words = String::new();
        self.0.output().read_to_string(&mut words).context("an application's last words cannot be read")?;
        self.0.end().with_context(|| words)
    }
}
