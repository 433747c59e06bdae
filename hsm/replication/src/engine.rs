//! Puts the parts of a node together, starts them and stops them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hsm_core::command::{Form, Origin};
use hsm_core::{Action, Hsm};
use hsm_crypto::StorageKey;
use hsm_protocol::ErrorCode;
use openraft::error::{Fatal as RaftFatal, InitializeError, RaftError};
use openraft::{AsyncRuntime, Config, ServerState, SnapshotPolicy};
use parking_lot::{Mutex, RwLock};

use crate::fault::{Fault, Faults, OpenFault, StorageFault};
use crate::limits;
use crate::machine::{Applied, Machine};
use crate::network::{Ask, Peers, Told};
use crate::node::Status;
use crate::outcome::Outcome;
use crate::proposer::{self, Proposals};
use crate::runtime::{Rt, wait_for_disk};
use crate::settings::Settings;
use crate::stamp::Stamper;
use crate::store::log::LogStore;
use crate::store::opening::{self, Opened};
use crate::store::snapshot::{Received, Receiver, SnapshotData};
use crate::store::{Store, Work};
use crate::types::{Member, NodeId, Raft, Snapshot, decode};

type Task = <Rt as AsyncRuntime>::JoinHandle<()>;

/// What callers of any thread touch.
pub(crate) struct Shared {
    pub(crate) state: Arc<RwLock<Hsm>>,
    pub(crate) store: Arc<Store>,
    pub(crate) applied: Arc<Applied>,
    pub(crate) proposals: Arc<Proposals>,
    pub(crate) stamper: Arc<Stamper>,
}

/// A running node.
pub(crate) struct Engine {
    shared: Shared,
    node: NodeId,
    raft: Raft,
    faults: Arc<Faults>,
    receiver: Receiver,
    tasks: Mutex<Vec<Task>>,
}

impl Engine {
    /// Begins a history. A store in which an earlier attempt did not get as far as its first command is taken up.
    pub(crate) async fn form(settings: Settings, key: StorageKey, form: Form) -> Result<Self, OpenFault> {
        let (name, address) = (settings.disk.name(), settings.address.clone());
        let new_node = settings.randomness.number();
        let engine = Self::start(settings, key, Some(new_node)).await?;
        if engine.shared.applied.now().0 > 0 {
            engine.stop().await;
            return Err(OpenFault::AlreadyFormed(name));
        }
        let formed = engine.form_history(address, form).await;
        if formed.is_err() {
            engine.stop().await;
        }
        formed.map(|()| engine)
    }

    /// Goes on with a history.
    pub(crate) async fn open(settings: Settings, key: StorageKey) -> Result<Self, OpenFault> {
        let name = settings.disk.name();
        let engine = Self::start(settings, key, None).await?;
        let ready = engine.become_ready().await;
        let formed = engine.shared.applied.now().0 > 0;
        if ready.is_err() || !formed {
            engine.stop().await;
        }
        ready?;
        if formed { Ok(engine) } else { Err(OpenFault::NotFormed(name)) }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow().clone();
        let (applied, hash) = self.shared.applied.with_hash();
        Status {
            node: self.node,
            leader: metrics.current_leader,
            term: metrics.current_term,
            applied,
            hash,
            last_entry: metrics.last_log_index.unwrap_or(0),
            purged_entry: metrics.purged.map(|purged| purged.index),
            queued: self.shared.proposals.queued(),
            flushes: self.shared.store.flushes(),
            flushed_commands: self.shared.proposals.commands(),
            ready: self.shared.proposals.closed().map_or(Ok(()), Err),
        }
    }

    /// Answers another member: octets in, octets out.
    pub(crate) async fn answer(&self, message: &[u8]) -> Result<Vec<u8>, StorageFault> {
        let garbled = |error: postcard::Error| StorageFault::Damaged(format!("a member's message: {error}"));
        let told = match decode(message).map_err(garbled)? {
            Ask::Append(request) => Told::Append(self.raft.append_entries(request).await),
            Ask::Vote(request) => Told::Vote(self.raft.vote(request).await),
            Ask::Chunk { vote, meta, chunk } => {
                match wait_for_disk(|| self.receiver.take(&self.shared.store, &meta, &chunk))? {
                    Received::Stored => Told::ChunkStored,
                    Received::OutOfOrder => Told::ChunkRefused,
                    Received::Whole(progress) => {
                        let snapshot = Snapshot { meta, snapshot: Box::new(SnapshotData::received(progress)) };
                        Told::Installed(self.raft.install_full_snapshot(vote, snapshot).await)
                    }
                }
            }
        };
        postcard::to_stdvec(&told).map_err(garbled)
    }

    /// Lets what is under way finish, then ends the tasks and closes the store.
    pub(crate) async fn stop(&self) {
        self.shared.proposals.close(ErrorCode::NotReady);
        for _ in 0..200 {
            if self.shared.proposals.is_idle() || self.faults.is_raised() {
                break;
            }
            <Rt as AsyncRuntime>::sleep(Duration::from_millis(10)).await;
        }
        if <Rt as AsyncRuntime>::timeout(Duration::from_secs(5), self.raft.shutdown()).await.is_err() {
            tracing::warn!("replication did not stop in time; the log is durable all the same");
        }
        let tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.iter().for_each(Task::abort);
        self.shared.proposals.fail_all(ErrorCode::NotReady);
        let store = &self.shared.store;
        wait_for_disk(|| {
            let whole = !self.faults.is_raised() && !store.is_closed();
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

    async fn start(settings: Settings, key: StorageKey, new_node: Option<NodeId>) -> Result<Self, OpenFault> {
        let faults = Arc::new(Faults::new(settings.on_fault.clone()));
        let opened = wait_for_disk(|| opening::open(&settings.disk, &key, settings.cache_bytes, &faults, new_node))?;
        let Opened { store, node, hsm, progress, log, vote, stamped } = opened;
        let stamper = Arc::new(Stamper::new(settings.clock.clone(), stamped));
        let first_number = settings.randomness.number();
        let proposals = Arc::new(Proposals::new(node, first_number, settings.propose_deadline));
        let applied = Arc::new(Applied::new(&progress));
        let state = Arc::new(RwLock::new(hsm));
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
        };
        let peers = Peers { network: settings.network.clone() };
        let raft =
            Raft::new(node, configuration()?, peers, log, machine).await.map_err(|fatal| engine_fault(&fatal))?;
        let shared = Shared { state, store, applied, proposals, stamper };
        let engine = Self { shared, node, raft, faults, receiver: Receiver::new(), tasks: Mutex::default() };
        engine.spawn_tasks();
        Ok(engine)
    }

    fn spawn_tasks(&self) {
        let Shared { proposals, store, stamper, .. } = &self.shared;
        let proposing = proposer::run(proposals.clone(), self.raft.clone(), store.clone(), stamper.clone());
        let watching = watch(self.raft.clone(), proposals.clone(), self.faults.clone());
        self.tasks.lock().extend([Rt::spawn(proposing), Rt::spawn(watching)]);
    }

    async fn form_history(&self, address: String, mut form: Form) -> Result<(), OpenFault> {
        let members = BTreeMap::from([(self.node, Member { address })]);
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
            Err(error) => return Err(OpenFault::Form(error.to_string())),
        }
        self.become_ready().await?;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done = move |outcome| {
            // The receiver waits below, unless this future was dropped.
            drop(sender.send(outcome));
        };
        let origin = Origin { session: None, sequence: 0, lowest_unanswered: 0 };
        form.node = hsm_core::NodeId(self.node);
        self.shared.proposals.propose(origin, Action::Form(form), Box::new(done));
        match receiver.await {
            Ok(Outcome::Done { result: Ok(_), .. }) => Ok(()),
            Ok(outcome) => {
                let code = outcome.into_result().err().map(|refusal| refusal.code.to_string());
                Err(OpenFault::Form(code.unwrap_or_default()))
            }
            Err(_) => Err(OpenFault::Form("the node stopped".to_owned())),
        }
    }

    /// Waits until commands can be proposed: a sole voter elects itself and applies its log; a member of several does so
    /// with the others, in its own time.
    async fn become_ready(&self) -> Result<(), OpenFault> {
        let voters = self.raft.with_raft_state(|state| state.membership_state.effective().voter_ids().count());
        if voters.await.map_err(|fatal| engine_fault(&fatal))? == 1 {
            self.raft.trigger().elect().await.map_err(|fatal| engine_fault(&fatal))?;
            self.lead().await?;
        }
        self.shared.proposals.open();
        Ok(())
    }

    async fn lead(&self) -> Result<(), OpenFault> {
        let mut metrics = self.raft.metrics();
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

fn engine_fault(fatal: &RaftFatal<NodeId>) -> OpenFault {
    OpenFault::Engine(fatal.to_string())
}

fn configuration() -> Result<Arc<Config>, OpenFault> {
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = Config {
        cluster_name: "kagimori".to_owned(),
        heartbeat_interval: milliseconds(limits::HEARTBEAT),
        election_timeout_min: milliseconds(limits::ELECTION_MINIMUM),
        election_timeout_max: milliseconds(limits::ELECTION_MAXIMUM),
        install_snapshot_timeout: milliseconds(limits::SNAPSHOT_TIMEOUT),
        max_payload_entries: limits::ENTRIES_PER_CALL,
        replication_lag_threshold: limits::ENTRIES_PER_SNAPSHOT + limits::ENTRIES_KEPT,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(limits::ENTRIES_PER_SNAPSHOT),
        max_in_snapshot_log_to_keep: limits::ENTRIES_KEPT,
        purge_batch_size: limits::ENTRIES_PER_SNAPSHOT / 4,
        ..Config::default()
    };
    config.validate().map(Arc::new).map_err(|error| OpenFault::Engine(error.to_string()))
}
