//! What is done to the HSMs: one fault at a time, each with its end, and after each the wait until all are there again.
//!
//! So much is broken at one time as a cluster of three voters must bear, or for a moment more: a call waits then, and must
//! not fail.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::disks::Disks;
use super::random::Random;
use crate::installation::network::Direction;
use crate::installation::{Installation, Network, Running, Stage};
use crate::narrate;

/// HSMs that vote, of the four.
const VOTERS: usize = 3;

/// How long the HSMs may take to be all in service again after a fault: a replaced disk joins anew.
const RETURN: Duration = Duration::from_secs(90);

/// What an HSM logs when a write of its log failed because its disk was full.
const LOG_FAILED: &str = "the store's disk is full";

/// How long that takes.
const LOGGED: Duration = Duration::from_millis(300);

/// What an HSM logs when it notices that its disk is an old one, and when it is a member again.
const ROLLED_BACK: &str = "disk was rolled back";
const MEMBER: &str = "this HSM is a member of the cluster";

/// How long it may take to notice: it asks the others for as long.
const NOTICED: Duration = Duration::from_secs(10);

/// How often an HSM is told to leave, twice a second: it is refused while too few others are known to live.
const LEAVE_TRIES: u32 = 40;

/// Kinds of faults, in the words of the report and of `--only`.
const KINDS: [&str; 11] = [KILL, POWER, FREEZE, "cut", "deaf", "mute", "bridge", "zone", FULL, OLD, REPLACE];
const KILL: &str = "kill";
const POWER: &str = "power";
const FREEZE: &str = "stop";
const FULL: &str = "full-disk";
const OLD: &str = "old-disk";
const REPLACE: &str = "leave-and-join";

/// Those that need namespaces or disks of their own.
const NEED_HOSTS: [&str; 6] = ["cut", "deaf", "mute", "bridge", "zone", FULL];

/// Does them.
pub(super) struct Faults<'a> {
    hsms: Vec<Installation>,
    network: Option<Network>,
    disks: &'a Disks,
    running: &'a mut Vec<Running>,
    random: Random,
    kinds: Vec<&'static str>,
    done: BTreeMap<&'static str, u64>,
    began: Instant,
}

/// Waits until it is so; whether it was so in time.
fn within(time: Duration, so: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    while !so() {
        if began.elapsed() > time {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

impl<'a> Faults<'a> {
    pub(super) fn new(
        installation: &Installation,
        network: Option<Network>,
        disks: &'a Disks,
        running: &'a mut Vec<Running>,
        random: Random,
        only: &[String],
    ) -> Result<Self> {
        if let Some(unknown) = only.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
            bail!("there is no fault {unknown:?}; there are {}", KINDS.join(", "));
        }
        let possible = |kind: &&str| network.is_some() || !NEED_HOSTS.contains(kind);
        let wanted = |kind: &&str| only.is_empty() || only.iter().any(|one| one == kind);
        let kinds: Vec<_> = KINDS.into_iter().filter(possible).filter(wanted).collect();
        if kinds.is_empty() {
            bail!("none of these faults can be done without namespaces; run it as root");
        }
        let (hsms, done, began) = (installation.hsms(), BTreeMap::new(), Instant::now());
        Ok(Self { hsms, network, disks, running, random, kinds, done, began })
    }

    /// How often each was done.
    pub(super) fn done(&self) -> Vec<(&'static str, u64)> {
        self.done.iter().map(|(&kind, &count)| (kind, count)).collect()
    }

    /// Does one, ends it, and waits until all HSMs are in service.
    pub(super) fn one(&mut self) -> Result<()> {
        let kind = self.kinds[self.random.below(self.kinds.len())];
        let victim = self.random.below(self.hsms.len());
        if kind == OLD && !self.disks.has_old_copy(&self.hsms[victim]) {
            // The copy is taken in a kill; another one is drawn next.
            return self.kill(victim).and_then(|()| self.settle(KILL, victim));
        }
        narrate::line(format!("{:5.1} s  {kind} {}", self.began.elapsed().as_secs_f64(), self.hsms[victim].name()));
        match kind {
            KILL => self.kill(victim),
            POWER => self.lose_power(),
            FREEZE => self.freeze(victim),
            FULL => self.fill(victim),
            OLD => self.put_disk_back(victim),
            REPLACE => self.replace(victim),
            link => self.cut(link, victim),
        }
        .with_context(|| format!("during {kind} of {}", self.hsms[victim].name()))?;
        self.settle(kind, victim)
    }

    fn settle(&mut self, kind: &'static str, victim: usize) -> Result<()> {
        *self.done.entry(kind).or_default() += 1;
        for hsm in &self.hsms {
            hsm.wait_until(Stage::Active, RETURN).with_context(|| {
                format!("after {kind} of {} all were to come back by themselves", self.hsms[victim].name())
            })?;
        }
        let three_vote = || self.hsms.iter().all(|hsm| hsm.status().is_ok_and(|status| status.voters == VOTERS));
        if !within(RETURN, three_vote) {
            bail!("after {kind} of {} {VOTERS} HSMs were to vote again", self.hsms[victim].name());
        }
        std::thread::sleep(self.random.time(500, 3000));
        Ok(())
    }

    fn take(&mut self, victim: usize) -> Result<Running> {
        let of = |hsm: &Running| self.hsms[victim].runs_as(hsm.process());
        let position = self.running.iter().position(of).context("the HSM does not run")?;
        Ok(self.running.remove(position))
    }

    fn process(&self, victim: usize) -> Result<&Running> {
        self.running.iter().find(|hsm| self.hsms[victim].runs_as(hsm.process())).context("the HSM does not run")
    }

    fn start(&mut self, victim: usize) -> Result<()> {
        self.running.push(self.hsms[victim].start_quietly()?);
        Ok(())
    }

    fn kill(&mut self, victim: usize) -> Result<()> {
        self.take(victim)?.kill()?;
        let time = self.random.time(200, 3000);
        if !self.disks.has_old_copy(&self.hsms[victim]) {
            self.disks.copy(&self.hsms[victim])?;
        }
        std::thread::sleep(time);
        self.start(victim)
    }

    /// All at once, and all start again at the same time.
    fn lose_power(&mut self) -> Result<()> {
        self.running.iter().try_for_each(|hsm| hsm.signal("KILL"))?;
        self.running.drain(..).try_for_each(Running::kill)?;
        let started: Vec<Result<Running>> = std::thread::scope(|scope| {
            let threads: Vec<_> = self.hsms.iter().map(|hsm| scope.spawn(|| hsm.start_quietly())).collect();
            let ended = |_| Err(anyhow::anyhow!("a thread that starts an HSM panicked"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(ended)).collect()
        });
        for hsm in started {
            self.running.push(hsm?);
        }
        Ok(())
    }

    fn freeze(&mut self, victim: usize) -> Result<()> {
        let time = self.random.time(500, 9000);
        self.process(victim)?.signal("STOP")?;
        std::thread::sleep(time);
        self.process(victim)?.signal("CONT")
    }

    /// Links: `cut` = nothing in, nothing out; `deaf` = nothing in; `mute` = nothing out; `bridge` = to one other HSM;
    /// `zone` = a whole zone from the others and the clients.
    fn cut(&mut self, kind: &str, victim: usize) -> Result<()> {
        let network = self.network.clone().context("there are no namespaces")?;
        let time = self.random.time(1000, 9000);
        let neighbour = (victim + 1 + self.random.below(self.hsms.len() - 1)) % self.hsms.len();
        let zone = self.hsms[victim].zone();
        // Host 0 is the clients'.
        let (inside, outside): (Vec<usize>, Vec<usize>) = match kind {
            "bridge" => (vec![victim + 1], vec![neighbour + 1]),
            "zone" => (0..=self.hsms.len()).partition(|&host| host > 0 && self.hsms[host - 1].zone() == zone),
            _ => (0..=self.hsms.len()).partition(|&host| host == victim + 1),
        };
        for &host in &inside {
            if kind != "mute" {
                network.cut(host, Direction::In, &outside)?;
            }
            if kind != "deaf" {
                network.cut(host, Direction::Out, &outside)?;
            }
        }
        std::thread::sleep(time);
        inside.iter().try_for_each(|&host| network.heal(host))
    }

    fn fill(&mut self, victim: usize) -> Result<()> {
        let time = self.random.time(1000, 6000);
        let logged = self.hsms[victim].log_length();
        self.disks.fill(&self.hsms[victim])?;
        std::thread::sleep(time);
        self.disks.empty(&self.hsms[victim])?;
        std::thread::sleep(LOGGED);
        // A write of its log may have failed. Then it must end, which takes as long as the calls that it still answers, and its
        // host starts it again.
        if !self.hsms[victim].log_since(logged).contains(LOG_FAILED) {
            return Ok(());
        }
        self.take(victim)?.wait()?;
        self.start(victim)
    }

    fn put_disk_back(&mut self, victim: usize) -> Result<()> {
        self.take(victim)?.kill()?;
        self.disks.put_back(&self.hsms[victim])?;
        let logged = self.hsms[victim].log_length();
        self.start(victim)?;
        // It is in service for a moment before it notices. Another fault must not meet it then: it has no vote meanwhile.
        let says = |words: &str| self.hsms[victim].log_since(logged).contains(words);
        if within(NOTICED, || says(ROLLED_BACK)) && !within(RETURN, || says(MEMBER)) {
            bail!("{} noticed that its disk is an old one, and did not join again", self.hsms[victim].name());
        }
        Ok(())
    }

    /// Leaves the cluster, and joins it as a new HSM.
    fn replace(&mut self, victim: usize) -> Result<()> {
        let mut tries = 0;
        while let Err(error) = self.hsms[victim].leave() {
            tries += 1;
            if tries == LEAVE_TRIES {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        self.take(victim)?.wait()?;
        self.disks.forget(&self.hsms[victim]);
        self.start(victim)?;
        let member = &self.hsms[(victim + 1) % self.hsms.len()];
        let address = member.peer_address()?.context("a member has an address")?;
        self.hsms[victim].join(address)
    }
}
