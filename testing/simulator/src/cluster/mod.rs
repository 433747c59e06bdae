//! A cluster of machines in one process and one thread, under one seed, with everything that can go wrong with them.
//!
//! [`run`] makes a cluster, lets clients use it while faults are injected, heals everything, and demands that it comes
//! together again; the invariants of [`crate::invariants`] are looked at all the time and at the end. Everything that
//! chance decides comes from the seed, so a run with the same seed, commit and `Cargo.lock` is the same to the octet.
//!
//! [`plan`] says what the seed decides; [`machine`], [`disk`] and [`network`] are the world; [`nemesis`] breaks it;
//! [`stranger`] intrudes;
//! [`clients`] use it; [`history`] remembers; [`observer`] looks at every node all the time; [`liveness`] heals.
//!
//! Only in builds with `--cfg hsm_sim --cfg tokio_unstable`: `cargo xtask simulate`.

pub mod clients;
pub mod disk;
pub mod history;
pub mod liveness;
pub mod machine;
pub mod nemesis;
pub mod network;
pub mod observer;
pub mod plan;
pub mod roster;
pub mod run;
pub mod stranger;
pub mod trace;

use std::sync::Arc;

use hsm_core::MemberKind;
use hsm_crypto::{MasterKey, Module};
use parking_lot::Mutex;

use crate::clock::SimClock;
use crate::cluster::disk::ClusterDisk;
use crate::cluster::history::Ledger;
use crate::cluster::machine::{Around, Machine};
use crate::cluster::network::Fabric;
use crate::cluster::plan::Plan;
use crate::cluster::trace::{Lines, Trace};
use crate::random::Random;
use crate::world;

/// The whole simulated world.
pub struct Cluster {
    /// What the seed decided.
    pub plan: Plan,
    /// Chance.
    pub random: Arc<Random>,
    /// What happens.
    pub trace: Arc<Trace>,
    /// What is seen.
    pub ledger: Arc<Ledger>,
    /// Links.
    pub fabric: Arc<Fabric>,
    /// Machines; the first forms the cluster.
    pub machines: Vec<Arc<Machine>>,
    /// The only member of another history of the same cluster, which takes the members of this one for its own.
    pub stranger: Option<Arc<Machine>>,
    /// Places of machines that belong to the cluster, or shall.
    pub members: Mutex<Vec<usize>>,
    /// What was acknowledged to be gone.
    pub promises: observer::Promises,
    /// The voters as the node knew them that had applied most, and how much that was.
    pub known_voters: Mutex<(hsm_core::Index, Vec<Vec<u64>>)>,
    /// Whoever makes a machine forget holds this.
    pub damage: Arc<tokio::sync::Mutex<()>>,
    /// Whoever holds this breaks something that others must have the time to notice: nothing else is broken.
    pub truce: Arc<tokio::sync::Mutex<()>>,
    /// Since when each place is cut off from every majority, in microseconds; `None` = it is not.
    pub alone_since: Mutex<Vec<Option<u64>>>,
}

impl Cluster {
    /// A world of this seed, all machines off. Call it inside [`world::simulate`].
    ///
    /// # Panics
    /// When the cryptographic module does not start.
    pub fn new(seed: u64, plan: Option<Plan>, lines: Lines) -> Arc<Self> {
        let random = Arc::new(Random::new(seed));
        let plan = plan.unwrap_or_else(|| Plan::draw(&random));
        let trace = Arc::new(Trace::new(lines));
        trace.tell(|| format!("seed {seed}: {plan:?}"));
        let places = plan.members + usize::from(plan.witness);
        let fabric = Fabric::new(places + 1, plan.network, random.clone(), trace.clone());
        let ledger = Arc::<Ledger>::default();
        let module = Module::start_on(world::seeded_noise(seed)).expect("the module's tests pass");
        let master = MasterKey::generate(&module, hsm_core::Epoch(1)).expect("randomness");
        let make = |place: usize, ledger: &Arc<Ledger>| {
            let is_witness = plan.witness && place == plan.members;
            let kind = if is_witness { MemberKind::Witness } else { MemberKind::Hsm };
            let drift = if plan.drift == 0 { 0 } else { random.below(2 * plan.drift) };
            let clock = SimClock::drifting(1_000_000 - plan.drift + drift);
            let sync_time = if random.once_in(3) { plan.sync_microseconds } else { 0 };
            let disk = ClusterDisk::new(place, sync_time, trace.clone());
            let (fabric, ledger, trace, random) = (fabric.clone(), ledger.clone(), trace.clone(), random.clone());
            let around = Around { fabric, ledger, trace, random, propose_deadline: plan.propose_deadline };
            let key = master.storage_key(&module).expect("a derived key");
            Arc::new(Machine::new(place, kind, disk, clock, key, around))
        };
        let machines = (0..places).map(|place| make(place, &ledger)).collect();
        // What a stranger decides is no part of this history.
        let stranger = plan.stranger.then(|| make(places, &Arc::default()));
        let members = Mutex::new((0..plan.members + usize::from(plan.witness)).collect());
        let alone_since = Mutex::new(vec![None; places]);
        let (promises, damage, known_voters) = (Mutex::default(), Arc::default(), Mutex::default());
        Arc::new(Self {
            plan,
            random,
            trace,
            ledger,
            fabric,
            machines,
            stranger,
            members,
            promises,
            known_voters,
            damage,
            truce: Arc::default(),
            alone_since,
        })
    }

    /// Machines that belong to the cluster, or shall.
    pub fn members(&self) -> Vec<Arc<Machine>> {
        self.members.lock().iter().map(|&place| self.machines[place].clone()).collect()
    }

    /// One of them.
    pub fn any_member(&self) -> Arc<Machine> {
        let members = self.members.lock();
        self.machines[members[self.random.place_below(members.len())]].clone()
    }

    /// True with this chance in a hundred.
    pub fn chance(&self, percent: u64) -> bool {
        self.random.below(100) < percent
    }
}
