//! One run from its seed to its verdict.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hsm_core::Incarnation;
use hsm_protocol::Role;

use crate::cluster::Cluster;
use crate::cluster::clients::admin::{self, Admin};
use crate::cluster::clients::register::{self, Sharer};
use crate::cluster::clients::worker::Worker;
use crate::cluster::clients::{Client, guesser};
use crate::cluster::machine::Beginning;
use crate::cluster::plan::Plan;
use crate::cluster::trace::Lines;
use crate::{invariants, panics, world};

/// The history that a run makes.
pub const HISTORY: Incarnation = Incarnation([2; 16]);

/// How a run is made.
#[derive(Clone, Default)]
pub struct Options {
    /// Conditions other than those that the seed draws.
    pub plan: Option<Plan>,
    /// Keep so many lines of the log.
    pub keep_lines: usize,
    /// Write the whole log there.
    pub log: Option<PathBuf>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The invariant that broke, and how; `None` = all hold.
    pub broken: Option<Broken>,
    /// Hash over everything that happened, and how many events that was.
    pub trace: (u64, u64),
    /// Commands that were acknowledged.
    pub acknowledged: usize,
    /// Time that passed in the simulation.
    pub simulated: Duration,
    /// The last lines of the log, if they were kept.
    pub lines: Vec<String>,
}

/// A promise that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The name of the invariant.
    pub invariant: &'static str,
    /// What was seen.
    pub text: String,
}

/// Runs a seed.
///
/// # Panics
/// When the log cannot be written.
pub fn run(seed: u64, options: &Options) -> Report {
    panics::take();
    let lines = match (&options.log, options.keep_lines) {
        (Some(path), _) => {
            Lines::File(std::io::BufWriter::new(std::fs::File::create(path).expect("the log can be written")))
        }
        (None, 0) => Lines::None,
        (None, most) => Lines::Last(most),
    };
    let plan = options.plan.clone();
    let lived = std::panic::catch_unwind(AssertUnwindSafe(|| {
        world::simulate(seed, async move {
            let cluster = Cluster::new(seed, plan, lines);
            let broken = live(&cluster).await;
            if let Some(Broken { invariant, text }) = &broken {
                cluster.tell_how_they_do();
                cluster.trace.tell(|| format!("BROKEN: {invariant}: {text}"));
            }
            let report = report(seed, &cluster, broken);
            // What holds the world together in a ring is let go, or each seed would leave its memory behind.
            for machine in cluster.machines.iter().chain(&cluster.stranger) {
                machine.crash(crate::disk::Crash::Kill).await;
            }
            report
        })
    }));
    let unwound = |_| {
        let text = panics::take().unwrap_or_else(|| "without a word".to_owned());
        let broken = Some(Broken { invariant: invariants::nothing_panics::NAME, text });
        Report { seed, broken, trace: (0, 0), acknowledged: 0, simulated: Duration::ZERO, lines: Vec::new() }
    };
    lived.unwrap_or_else(unwound)
}

fn report(seed: u64, cluster: &Arc<Cluster>, broken: Option<Broken>) -> Report {
    let acknowledged = cluster.ledger.with(|seen| seen.calls.iter().filter(|call| call.done().is_some()).count());
    let simulated = Duration::from_micros(cluster.trace.now());
    Report { seed, broken, trace: cluster.trace.hash(), acknowledged, simulated, lines: cluster.trace.lines() }
}

/// Calm, faults, healing, judgement.
async fn live(cluster: &Arc<Cluster>) -> Option<Broken> {
    let tasks = match begin(cluster).await {
        Ok(tasks) => tasks,
        Err(text) => return Some(Broken { invariant: invariants::liveness::NAME, text }),
    };
    let torment = tokio::spawn(cluster.clone().torment());
    while !torment.is_finished() {
        if let Some(broken) = invariants::step(cluster) {
            return Some(broken);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.heal().await;
    // The load goes on for a while in a cluster that comes together.
    tokio::time::sleep(Duration::from_millis(500)).await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    if let Some(broken) = invariants::step(cluster) {
        return Some(broken);
    }
    let together = cluster.come_together().await;
    if let Some(broken) = invariants::step(cluster) {
        return Some(broken);
    }
    if let Err(text) = together {
        return Some(Broken { invariant: invariants::liveness::NAME, text });
    }
    cluster.look();
    invariants::end(cluster)
}

/// Forms the cluster, lets the others join, makes users, and starts those who use, keep and observe it.
async fn begin(cluster: &Arc<Cluster>) -> Result<Vec<tokio::task::JoinHandle<()>>, String> {
    let founder = &cluster.machines[0];
    founder.start(Beginning::Form(HISTORY)).await.map_err(|fault| format!("no cluster is formed: {fault}"))?;
    drop(tokio::spawn(cluster.clone().observe()));
    for machine in &cluster.machines {
        drop(tokio::spawn(cluster.clone().keep(machine.clone())));
    }
    let mut admin = Admin::begin(cluster).await;
    admin.set_window(cluster.plan.window).await;
    for name in [admin::DISABLED, guesser::VICTIM, register::OWNER] {
        admin.create_user(name).await;
    }
    for user in 0..cluster.plan.users {
        admin.create_user(&format!("user{user}")).await;
    }
    drop(guesser::begin(cluster).await);
    let mut owner = Client::new(cluster, 2, register::OWNER, Role::CryptoUser);
    owner.log_in().await;
    let register = owner.create_key("register").await.ok_or("the register is not made")?;
    for machine in cluster.members().into_iter().skip(1) {
        let hands = machine.hands.clone().lock_owned().await;
        cluster.bring_back(&machine).await;
        drop(hands);
    }
    // Most runs begin with a cluster that is whole; in some the faults come while it is being made.
    if !cluster.random.once_in(5) {
        cluster.come_together().await?;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }
    if let Some(stranger) = &cluster.stranger {
        drop(tokio::spawn(cluster.clone().intrude(stranger.clone())));
    }
    let mut tasks = vec![tokio::spawn(admin.work())];
    for user in 0..cluster.plan.users {
        let client = Client::new(cluster, 10 + user, &format!("user{user}"), Role::CryptoUser);
        tasks.push(tokio::spawn(Worker::new(client).work()));
    }
    let outcast = Client::new(cluster, 20, admin::DISABLED, Role::CryptoUser);
    tasks.push(tokio::spawn(Worker::new(outcast).work()));
    for number in 30..33 {
        tasks.push(tokio::spawn(guesser::guess(cluster.clone(), number)));
        tasks.push(tokio::spawn(Sharer::new(cluster, number + 10, register).work()));
    }
    Ok(tasks)
}
