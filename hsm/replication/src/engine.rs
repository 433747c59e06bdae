//! Puts the parts of a node together, starts them and stops them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

use hsm_core::Action;
use hsm_core::command::{Form, Origin};
use hsm_crypto::StorageKey;
use hsm_protocol::ErrorCode;
use hsm_protocol::trace::Trace;
use openraft::error::{Fatal as RaftFatal, InitializeError, RaftError};
use openraft::{AsyncRuntime, Config, ServerState, SnapshotPolicy};
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::errands::{Errands, Waiting, errands};
use crate::fault::{Fault, Faults, OpenFault};
use crate::fullness::{self, Fullness};
use crate::leadership::Leadership;
use crate::leases::{self, Grants, Lease, Rounds};
use crate::limits;
use crate::machine::{Applied, Machine};
use crate::memory::{Memory, Remembered};
use crate::network::{History, Link, Peers, history_of};
use crate::outcome::Outcome;
use crate::proposals::Proposals;
use crate::proposer::{Compass, Proposer};
use crate::pulse::{self, Vitals};
use crate::receiving;
use crate::recovery::Recovery;
use crate::roster::{Acquaintances, Addresses};
use crate::runtime::{Rt, wait_for_disk};
use crate::settings::Settings;
use crate::stamp::Stamper;
use crate::standing::{Standing, Standings};
use crate::state::State;
use crate::store::incoming::Incoming;
use crate::store::log::LogStore;
use crate::store::opening::{self, Beginning, Opened};
use crate::store::snapshot::Receiver;
use crate::store::{Store, Work};
use crate::supervisor;
use crate::types::{Lead, Member, NodeId, Raft};
use crate::witness;

type Task = <Rt as AsyncRuntime>::JoinHandle<()>;

/// The parts of a node, which its tasks and callers of any thread share.
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) state: Arc<State>,
    pub(crate) store: Arc<Store>,
    pub(crate) applied: Arc<Applied>,
    pub(crate) proposals: Arc<Proposals>,
    pub(crate) stamper: Arc<Stamper>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) raft: Raft,
    pub(crate) link: Link,
    pub(crate) addresses: Addresses,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) acquaintances: Acquaintances,
    pub(crate) standing: Standings,
    pub(crate) memory: Memory,
    /// How often in a row whoever leads said that this node is no member.
    pub(crate) unlisted: AtomicU32,
    pub(crate) leadership: Leadership,
    pub(crate) faults: Arc<Faults>,
    pub(crate) receiver: Receiver,
    pub(crate) incoming: Incoming,
    pub(crate) errands: Errands,
    pub(crate) lease: Arc<Lease>,
    pub(crate) grants: Grants,
    pub(crate) rounds: Rounds,
    pub(crate) witness: bool,
    /// This node leads and is about to lead no more.
    pub(crate) hands_over: AtomicBool,
    pub(crate) fullness: Arc<Fullness>,
}

/// A running node.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<Task>>,
}

/// Who votes, as far as this node's log tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Company {
    /// Nobody: there is no cluster in this log yet.
    Nobody,
    /// This node alone.
    Alone,
    /// Others, with this node or without it.
    Others,
}

impl Engine {
    /// Begins a history. A store in which an earlier attempt did not get as far as its first command is taken up.
    pub(crate) async fn form(settings: Settings, key: StorageKey, form: Form) -> Result<Self, OpenFault> {
        let (name, address) = (settings.disk.name(), settings.address.clone());
        let new_node = settings.randomness.number();
        let (engine, joins) = Self::start(settings, key, Beginning::Forms(new_node)).await?;
        if engine.shared.applied.now().0 > 0 || joins {
            engine.stop().await;
            return Err(OpenFault::AlreadyFormed(name));
        }
        let formed = engine.form_history(address, form).await;
        if formed.is_err() {
            engine.stop().await;
        }
        formed.map(|()| engine)
    }

    /// Takes part in another node's history, from nothing or from what an earlier attempt got.
    pub(crate) async fn join(
        settings: Settings,
        key: StorageKey,
        node: NodeId,
        history: History,
    ) -> Result<Self, OpenFault> {
        let name = settings.disk.name();
        let (engine, joins) = Self::start(settings, key, Beginning::Joins(node, history)).await?;
        let found = engine.shared.node;
        let refusal = match (joins, found == node) {
            (false, _) => Some(OpenFault::AlreadyFormed(name)),
            (true, false) => Some(OpenFault::OtherNode { found, asked: node }),
            (true, true) => None,
        };
        let went_on = match refusal {
            Some(refusal) => Err(refusal),
            None => engine.go_on().await,
        };
        if went_on.is_err() {
            engine.stop().await;
        }
        went_on.map(|()| engine)
    }

    /// Goes on with a history.
    pub(crate) async fn open(settings: Settings, key: StorageKey) -> Result<Self, OpenFault> {
        let name = settings.disk.name();
        let (engine, joins) = Self::start(settings, key, Beginning::No).await?;
        let company = engine.company().await;
        let nothing = !joins && engine.shared.applied.now().0 == 0;
        let went_on = match company {
            Ok(Company::Nobody) if nothing => Err(OpenFault::NotFormed(name)),
            Ok(Company::Alone) if nothing => match engine.become_sole_leader().await {
                Ok(()) if engine.shared.applied.now().0 == 0 => Err(OpenFault::NotFormed(name)),
                led => led,
            },
            Ok(_) => engine.go_on().await,
            Err(fault) => Err(fault),
        };
        if went_on.is_err() {
            engine.stop().await;
        }
        went_on.map(|()| engine)
    }

    /// Begins a new history with the store of a survivor, and goes on with it.
    pub(crate) async fn recover(settings: Settings, key: StorageKey, recovery: Recovery) -> Result<Self, OpenFault> {
        let faults = Arc::new(Faults::new(settings.on_fault.clone()));
        wait_for_disk(|| recovery.rewrite(&settings, &key, &faults))?;
        Self::open(settings, key).await
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Lets what is under way finish, then ends the tasks and closes the store.
    pub(crate) async fn stop(&self) {
        let Shared { proposals, store, faults, raft, .. } = &*self.shared;
        proposals.close(ErrorCode::NotReady);
        for _ in 0..200 {
            if proposals.is_idle() || faults.is_raised() {
                break;
            }
            <Rt as AsyncRuntime>::sleep(Duration::from_millis(10)).await;
        }
        if <Rt as AsyncRuntime>::timeout(Duration::from_secs(5), raft.shutdown()).await.is_err() {
            tracing::warn!("replication did not stop in time; the log is durable all the same");
        }
        let tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.iter().for_each(Task::abort);
        proposals.fail_all(ErrorCode::NotReady);
        wait_for_disk(|| {
            let whole = !faults.is_raised() && !store.is_closed();
            let written = whole.then(|| store.commit(&Work { durable: true, ..Work::default() }));
            if let Some(Err(fault)) = written {
                tracing::warn!(%fault, "the last state was not written; the log has it");
            }
            store.close();
        });
    }

    /// Closes the store as it is.
    pub(crate) fn let_go(&self) {
        self.shared.proposals.fail_all(ErrorCode::NotReady);
        self.shared.store.close();
    }

    /// A node whose Raft neither votes nor is heard yet, and whether its store was made to join a cluster.
    async fn start(settings: Settings, key: StorageKey, beginning: Beginning) -> Result<(Self, bool), OpenFault> {
        let faults = Arc::new(Faults::new(settings.on_fault.clone()));
        let opened = wait_for_disk(|| opening::open(&settings.disk, &key, settings.cache_bytes, &faults, beginning))?;
        let Opened { store, node, hsm, progress, log, vote, stamped, joins, joined, new, memories } = opened;
        check_version(&store, hsm.version(), settings.newest_state)?;
        let clock = settings.clock.clone();
        let stamper =
            if joins { Stamper::following(clock, stamped, progress.stamp) } else { Stamper::new(clock, stamped) };
        let stamper = Arc::new(stamper);
        let born = vote.map_or(0, |vote| vote.leader_id.term);
        let at_start = Remembered::on_disk(&store.durable());
        let boot = settings.randomness.number();
        store.traffic.number_from(boot);
        let proposals = Arc::new(Proposals::new(node, boot, settings.propose_deadline, born));
        let applied = Arc::new(Applied::new(&progress));
        let history = Arc::new(Mutex::new(history_of(&hsm, node).or(joined)));
        let lease = Arc::new(Lease::new(hsm.members().contains_key(&hsm_core::NodeId(node))));
        let state = Arc::new(State::new(hsm));
        let log = LogStore::new(store.clone(), node, log, vote, proposals.clone(), stamper.clone());
        let machine = Machine {
            state: state.clone(),
            store: store.clone(),
            applied: applied.clone(),
            proposals: proposals.clone(),
            stamper: stamper.clone(),
            effects: settings.effects.clone(),
            faults: faults.clone(),
            progress,
            history: history.clone(),
            node,
            lease: lease.clone(),
            newest_state: settings.newest_state,
        };
        let link = Link { network: settings.network.clone(), node, history };
        let raft = start_raft(&link, &store, settings.witness, log, machine).await?;
        let addresses = Addresses { state: state.clone(), metrics: raft.metrics() };
        let (errands, waiting) = errands();
        let standing = if new { Standing::Joining } else { Standing::Checking };
        let shared = Arc::new(Shared {
            node,
            state,
            store,
            applied,
            proposals,
            stamper,
            clock: settings.clock.clone(),
            raft,
            link,
            addresses,
            vitals: Arc::default(),
            acquaintances: Acquaintances::default(),
            standing: Standings::new(standing, settings.on_standing.clone()),
            memory: Memory::new(memories, at_start),
            unlisted: AtomicU32::new(0),
            leadership: Leadership::default(),
            faults,
            receiver: Receiver::new(),
            incoming: Incoming::default(),
            errands,
            lease,
            grants: Grants::default(),
            rounds: Rounds::new(),
            witness: settings.witness,
            hands_over: AtomicBool::new(false),
            fullness: Arc::new(Fullness::new(settings.witness)),
        });
        let engine = Self { shared, tasks: Mutex::default() };
        engine.spawn_tasks(waiting);
        Ok((engine, joins))
    }

    fn spawn_tasks(&self, waiting: Waiting) {
        let shared = &self.shared;
        let compass = Compass { raft: shared.raft.clone(), vitals: shared.vitals.clone(), clock: shared.clock.clone() };
        let proposer = Proposer {
            proposals: shared.proposals.clone(),
            compass,
            store: shared.store.clone(),
            stamper: shared.stamper.clone(),
            link: shared.link.clone(),
            addresses: shared.addresses.clone(),
            fullness: shared.fullness.clone(),
        };
        let watching = watch(shared.raft.clone(), shared.proposals.clone(), shared.faults.clone());
        self.tasks.lock().extend([
            Rt::spawn(proposer.run()),
            Rt::spawn(watching),
            Rt::spawn(waiting.run()),
            Rt::spawn(pulse::run(shared.clone())),
            Rt::spawn(supervisor::run(shared.clone())),
            Rt::spawn(leases::run_rounds(shared.clone())),
            Rt::spawn(receiving::run(shared.clone())),
        ]);
        if shared.witness {
            self.tasks.lock().push(Rt::spawn(witness::run(shared.clone())));
        } else {
            let tasks = [Rt::spawn(leases::run(shared.clone())), Rt::spawn(fullness::run(shared.clone()))];
            self.tasks.lock().extend(tasks);
        }
    }

    async fn form_history(&self, address: String, mut form: Form) -> Result<(), OpenFault> {
        let Shared { node, raft, proposals, .. } = &*self.shared;
        let members = BTreeMap::from([(*node, Member { address })]);
        match raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(OpenFault::Form(error.to_string())),
        }
        self.become_sole_leader().await?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done = move |outcome| {
            // The receiver waits below, unless this future was dropped.
            drop(sender.send(outcome));
        };
        let origin = Origin { session: None, sequence: 0, lowest_unanswered: 0 };
        form.node = hsm_core::NodeId(*node);
        proposals.propose(Trace::default(), origin, Action::Form(form), Box::new(done));
        match receiver.await {
            Ok(Outcome::Done { result: Ok(_), .. }) => Ok(()),
            Ok(outcome) => {
                let code = outcome.into_result().err().map(|refusal| refusal.code.to_string());
                Err(OpenFault::Form(code.unwrap_or_default()))
            }
            Err(_) => Err(OpenFault::Form("the node stopped".to_owned())),
        }
    }

    async fn company(&self) -> Result<Company, OpenFault> {
        let voters = self.shared.raft.with_raft_state(|state| {
            let voters: Vec<NodeId> = state.membership_state.effective().voter_ids().collect();
            voters
        });
        Ok(match voters.await.map_err(|fatal| engine_fault(&fatal))?.as_slice() {
            [] => Company::Nobody,
            [one] if *one == self.shared.node => Company::Alone,
            _ => Company::Others,
        })
    }

    /// A sole voter elects itself and applies its log, before this returns. A member of several does so with the others,
    /// in its own time.
    async fn go_on(&self) -> Result<(), OpenFault> {
        match self.company().await? {
            Company::Alone => self.become_sole_leader().await,
            Company::Nobody | Company::Others => {
                let following = self.shared.clone().follow();
                self.tasks.lock().push(Rt::spawn(following));
                Ok(())
            }
        }
    }

    async fn become_sole_leader(&self) -> Result<(), OpenFault> {
        let Shared { raft, standing, proposals, .. } = &*self.shared;
        standing.become_now(Standing::Member);
        raft.runtime_config().elect(true);
        raft.trigger().elect().await.map_err(|fatal| engine_fault(&fatal))?;
        self.lead().await?;
        let term = raft.metrics().borrow().current_term;
        self.shared.memory.goes_on_alone(Lead::new(term, self.shared.node));
        self.shared.lease.hold_always();
        proposals.open();
        Ok(())
    }

    async fn lead(&self) -> Result<(), OpenFault> {
        let mut metrics = self.shared.raft.metrics();
        loop {
            {
                let metrics = metrics.borrow_and_update();
                metrics.running_state.as_ref().map_err(engine_fault)?;
                let applied = metrics.last_applied.map(|log_id| (log_id.leader_id.term, log_id.index));
                // The blank entry of this term is applied, and with it everything that was in the log before.
                let caught_up = applied
                    .is_some_and(|(term, index)| term == metrics.current_term && Some(index) == metrics.last_log_index);
                if metrics.state == ServerState::Leader && caught_up {
                    return Ok(());
                }
            }
            metrics.changed().await.map_err(|_| OpenFault::Engine("it ended".to_owned()))?;
        }
    }
}

impl Shared {
    /// Becomes ready as soon as it is clear that this node may take part and there is the state of a cluster here.
    async fn follow(self: Arc<Self>) {
        if self.standing.now() == Standing::Checking && !self.is_whole().await {
            return self.put_aside(Standing::RolledBack);
        }
        if self.applied.now().0 == 0 {
            self.standing.become_now(Standing::Joining);
        }
        self.raft.runtime_config().elect(true);
        while self.applied.now().0 == 0 {
            <Rt as AsyncRuntime>::sleep(limits::LEADER_POLL).await;
        }
        self.standing.become_now(Standing::Member);
        if self.standing.takes_part() {
            self.proposals.open();
        }
    }
}

/// Ends what waits when openraft ends by itself.
async fn watch(raft: Raft, proposals: Arc<Proposals>, faults: Arc<Faults>) {
    let mut metrics = raft.metrics();
    let ended = loop {
        if let Err(fatal) = &metrics.borrow_and_update().running_state {
            break fatal.clone();
        }
        if metrics.changed().await.is_err() {
            break RaftFatal::Stopped;
        }
    };
    if !matches!(ended, RaftFatal::Stopped) {
        // Where the store or the state machine is the cause, they have told it already.
        faults.raise(Fault::Engine(ended.to_string()));
    }
    let code = if faults.is_raised() { ErrorCode::Broken } else { ErrorCode::NotReady };
    proposals.fail_all(code);
}

/// Whether this program knows the version of commands that the state was made with.
fn check_version(store: &Store, found: u32, known: u32) -> Result<(), OpenFault> {
    if found > known {
        store.close();
        return Err(OpenFault::NewerState { found, known });
    }
    Ok(())
}

async fn start_raft(
    link: &Link,
    store: &Arc<Store>,
    witness: bool,
    log: LogStore,
    machine: Machine,
) -> Result<Raft, OpenFault> {
    let peers = Peers { link: link.clone(), store: store.clone() };
    let raft = Raft::new(link.node, configuration(witness)?, peers, log, machine).await;
    let raft = raft.map_err(|fatal| engine_fault(&fatal))?;
    // The metrics tell nothing true before it runs.
    raft.with_raft_state(|_| ()).await.map_err(|fatal| engine_fault(&fatal))?;
    Ok(raft)
}

fn engine_fault(fatal: &RaftFatal<NodeId>) -> OpenFault {
    OpenFault::Engine(fatal.to_string())
}

fn configuration(witness: bool) -> Result<Arc<Config>, OpenFault> {
    // An HSM goes first.
    let patience = if witness { limits::WITNESS_PATIENCE } else { 1 };
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "kagimori".to_owned(),
        // Until it is clear that this node may: see `standing.rs`.
        enable_elect: false,
        heartbeat_interval: milliseconds(limits::HEARTBEAT),
        election_timeout_min: milliseconds(limits::ELECTION_MINIMUM * patience),
        election_timeout_max: milliseconds(limits::ELECTION_MAXIMUM * patience),
        install_snapshot_timeout: milliseconds(limits::INSTALL_TIMEOUT),
        max_payload_entries: limits::ENTRIES_PER_CALL,
        replication_lag_threshold: limits::ENTRIES_PER_SNAPSHOT + limits::ENTRIES_KEPT,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(limits::ENTRIES_PER_SNAPSHOT),
        max_in_snapshot_log_to_keep: limits::ENTRIES_KEPT,
        purge_batch_size: limits::ENTRIES_PER_SNAPSHOT / 4,
        ..Config::default()
    };
    config.validate().map(Arc::new).map_err(|error| OpenFault::Engine(error.to_string()))
}
