//! The node: what the server has in its hand.

use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hsm_core::audit::AuditRecord;
use hsm_core::command::{Form, Origin, SealedPayload};
use hsm_core::{Action, Hsm, Index, ObjectHandle, Stamp};
use hsm_crypto::StorageKey;
use hsm_protocol::ErrorCode;
use hsm_protocol::trace::Trace;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::barrier::Barrier;
use crate::engine::{Engine, Shared};
use crate::fault::{OpenFault, StorageFault};
use crate::leases::Serving;
use crate::network::History;
use crate::outcome::Outcome;
use crate::recovery::Recovery;
use crate::settings::Settings;
use crate::state::Reading;
use crate::status::Status;

/// One member of a cluster: the state, the log and the store. Every method may be called from any thread.
///
/// Dropping it without [`Node::stop`] is a crash: nothing acknowledged is lost.
pub struct Node {
    engine: Arc<Engine>,
    /// The thread that openraft runs on; `None` when the caller's runtime is used (simulation), and after a stop.
    thread: Mutex<Option<OwnThread>>,
}

/// One thread for all of replication: a log entry goes through it without changing threads, and waiting for the disk
/// there delays nobody who would not have to wait for the same disk.
struct OwnThread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// Something that will be known later. In a box, so that what is in it is compiled here and not in every crate that waits.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A row of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Position, from 1, without gaps.
    pub number: u64,
    /// What happened.
    pub record: AuditRecord,
    /// `hsm_core::audit::link` of the entry before and this record.
    pub link: [u8; 48],
}

impl Node {
    /// Makes a new history in an empty store and applies `form` as its first command. Blocks.
    ///
    /// # Errors
    /// [`OpenFault::AlreadyFormed`] when the store holds a history; else what [`Node::open`] says.
    pub fn form(settings: Settings, key: StorageKey, form: Form) -> Result<Self, OpenFault> {
        Self::on_own_thread(move || Engine::form(settings, key, form))
    }

    /// Makes an empty store part of an existing cluster, under a node id that its roster names, or goes on with such an
    /// attempt. Returns before there is any state: the node answers members of that history and nobody else, gets the
    /// state from whoever leads, and takes commands as soon as it has it ([`Status::ready`]). Blocks.
    ///
    /// # Errors
    /// [`OpenFault::AlreadyFormed`] when the store was formed, [`OpenFault::OtherNode`] when it joined under another id;
    /// else what [`Node::open`] says.
    pub fn join(settings: Settings, key: StorageKey, node: u64, history: History) -> Result<Self, OpenFault> {
        Self::on_own_thread(move || Engine::join(settings, key, node, history))
    }

    /// Opens an existing store, verifies and loads it, and replays the log. A sole HSM takes commands when this returns;
    /// a member of several does in its own time ([`Status::ready`]), since that needs the others. Blocks; takes time in
    /// proportion to the size of the store, every row of which is verified.
    ///
    /// # Errors
    /// Whatever is wrong with the store; nothing is repaired.
    pub fn open(settings: Settings, key: StorageKey) -> Result<Self, OpenFault> {
        Self::on_own_thread(move || Engine::open(settings, key))
    }

    /// Makes the store of a member that has stopped the beginning of a new history, whose only voter and only member it is,
    /// under a new node id, and goes on with that. Everything in its log counts, whether the others had it or not. One
    /// commit: after a crash the store is the old member's or the new one's. Blocks.
    ///
    /// # Errors
    /// [`OpenFault::Recovery`] when the state refuses, and nothing was changed; else what [`Node::open`] says.
    pub fn recover(settings: Settings, key: StorageKey, recovery: Recovery) -> Result<Self, OpenFault> {
        Self::on_own_thread(move || Engine::recover(settings, key, recovery))
    }

    /// [`Node::recover`] on the runtime that the caller runs in: for simulation.
    ///
    /// # Errors
    /// As [`Node::recover`].
    pub fn recover_here(
        settings: Settings,
        key: StorageKey,
        recovery: Recovery,
    ) -> Later<'static, Result<Self, OpenFault>> {
        Box::pin(async move { Ok(Self::around(Engine::recover(settings, key, recovery).await?)) })
    }

    /// [`Node::form`] on the runtime that the caller runs in: for simulation.
    ///
    /// # Errors
    /// As [`Node::form`].
    pub fn form_here(settings: Settings, key: StorageKey, form: Form) -> Later<'static, Result<Self, OpenFault>> {
        Box::pin(async move { Ok(Self::around(Engine::form(settings, key, form).await?)) })
    }

    /// [`Node::join`] on the runtime that the caller runs in: for simulation.
    ///
    /// # Errors
    /// As [`Node::join`].
    pub fn join_here(
        settings: Settings,
        key: StorageKey,
        node: u64,
        history: History,
    ) -> Later<'static, Result<Self, OpenFault>> {
        Box::pin(async move { Ok(Self::around(Engine::join(settings, key, node, history).await?)) })
    }

    /// [`Node::open`] on the runtime that the caller runs in: for simulation.
    ///
    /// # Errors
    /// As [`Node::open`].
    pub fn open_here(settings: Settings, key: StorageKey) -> Later<'static, Result<Self, OpenFault>> {
        Box::pin(async move { Ok(Self::around(Engine::open(settings, key).await?)) })
    }

    /// Proposes a command. Cheap, never blocks on the disk. `done` is called exactly once: at once with
    /// [`Outcome::Unavailable`] when the command is not taken, else on a thread of this crate when its entry is durable
    /// and applied, or with [`Outcome::Unknown`] at the deadline of the settings.
    pub fn propose(&self, origin: Origin, action: Action, done: crate::outcome::Done) {
        self.propose_traced(Trace::default(), origin, action, done);
    }

    /// [`Node::propose`] for a call that its caller's log knows by a number: whoever leads logs it by the same.
    pub fn propose_traced(&self, trace: Trace, origin: Origin, action: Action, done: crate::outcome::Done) {
        self.shared().proposals.propose(trace, origin, action, done);
    }

    /// [`Node::propose`] for callers that may block. Returns [`Outcome::Unknown`] after `deadline`, while the command may
    /// still be under way.
    pub fn propose_and_wait(&self, origin: Origin, action: Action, deadline: Duration) -> Outcome {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let done = move |outcome| {
            // The receiver is gone when the caller's deadline came first; then nobody wants to know.
            sender.send(outcome).ok();
        };
        self.propose(origin, action, Box::new(done));
        receiver.recv_timeout(deadline).unwrap_or(Outcome::Unknown)
    }

    /// The state as of the last applied command.
    pub fn read(&self) -> Reading<'_> {
        self.shared().state.read()
    }

    /// Changes what this HSM keeps beside the state, of log-ins while it is isolated (`hsm_core::isolated`). Commands wait
    /// meanwhile, and the calling thread must hold no reading.
    pub fn alone<T>(&self, change: impl FnOnce(&mut Hsm) -> T) -> T {
        change(&mut self.shared().state.write())
    }

    /// The last applied command.
    pub fn applied(&self) -> Index {
        self.shared().applied.now()
    }

    /// Waits until the command at `index` is applied. `false` when `at_most` passed first. Blocks.
    pub fn wait_for(&self, index: Index, at_most: Duration) -> bool {
        self.shared().applied.wait_for(index, at_most)
    }

    /// The sealed secret part of a token object; `None` when there is no such row. Reads the store.
    ///
    /// # Errors
    /// A row that is not what was written is named and refused.
    pub fn payload(&self, handle: ObjectHandle) -> Result<Option<SealedPayload>, StorageFault> {
        self.shared().store.payload(handle)
    }

    /// Up to `limit` (at most [`crate::limits::AUDIT_PAGE`]) audit entries from number `from` (from 1) on, each verified
    /// against the chain.
    ///
    /// # Errors
    /// A broken row or a broken chain is named and refused.
    pub fn audit(&self, from: u64, limit: usize) -> Result<Vec<AuditEntry>, StorageFault> {
        self.shared().store.audit(from, limit)
    }

    /// Time as the log tells it: what a command proposed now would be stamped with. Never goes back.
    pub fn now(&self) -> Stamp {
        self.shared().stamper.now()
    }

    /// Whether this HSM may act on what it knows. Cheap enough for every request while it holds a lease.
    pub fn serving(&self) -> Serving {
        self.shared().serving()
    }

    /// Waits, at most so long, until no HSM acts on a state before the command at `index`, but those that are named, with
    /// the time until which they may. May be called on any member and waited for on any thread; `Err` when nobody could say.
    pub fn barrier(&self, index: Index, at_most: Duration) -> Later<'_, Barrier> {
        let shared = self.shared();
        let waited = shared.errands.run(shared.clone().barrier(index, at_most));
        Box::pin(async move { waited.await.unwrap_or(Err(ErrorCode::NotReady)) })
    }

    /// [`Node::barrier`] for callers that must not wait: `done` runs on this crate's thread, or at once where nobody else
    /// holds keys. It is dropped when the node stops.
    pub fn barrier_then(&self, index: Index, at_most: Duration, done: Box<dyn FnOnce(Barrier) + Send>) {
        let shared = self.shared();
        if shared.state.read().members().len() <= 1 {
            return done(Ok(Vec::new()));
        }
        let waited = shared.clone().barrier(index, at_most);
        shared.errands.give(async move { done(waited.await) });
    }

    /// [`Node::barrier`] for callers that may block.
    pub fn barrier_and_wait(&self, index: Index, at_most: Duration) -> Barrier {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let waited = self.shared().clone().barrier(index, at_most);
        self.shared().errands.give(async move {
            // The receiver is gone when the caller's time was over.
            sender.send(waited.await).ok();
        });
        receiver.recv_timeout(at_most.saturating_add(Duration::from_secs(1))).unwrap_or(Err(ErrorCode::NotReady))
    }

    /// The index of the last command that a read must see to be linearizable, once it is applied here; `None` when nobody
    /// could say in time. May be waited for on any thread.
    pub fn read_index(&self, at_most: Duration) -> Later<'_, Option<Index>> {
        let shared = self.shared();
        let waited = shared.errands.run(shared.clone().read_index(at_most));
        Box::pin(async move { waited.await.flatten() })
    }

    /// Whether that node votes, as far as this node's log says. Reads no state: it may be asked while that is being read.
    pub fn votes(&self, node: u64) -> bool {
        self.shared().votes(node)
    }

    /// Whether the others may need this node's vote: it has one, or the entry that took it away may still be lost. A node that
    /// was removed and has the vote goes on until this is over, or until it hears that it is ([`Standing::Removed`]).
    ///
    /// [`Standing::Removed`]: crate::Standing::Removed
    pub fn is_vote_needed(&self) -> bool {
        self.shared().is_vote_needed()
    }

    /// How the node does.
    pub fn status(&self) -> Status {
        self.shared().status()
    }

    /// Stops taking commands, waits for those under way, writes what is in memory and closes the store. Blocks. Calling
    /// it twice is harmless.
    pub fn stop(&self) {
        if let Some(own) = self.thread.lock().take() {
            // A thread that has ended by itself needs no word.
            own.stop.send(()).ok();
            join(own.thread);
        }
    }

    /// [`Node::stop`] on the runtime that the caller runs in: for simulation.
    pub fn stop_here(&self) -> Later<'_, ()> {
        Box::pin(self.engine.stop())
    }

    /// Answers a message that another member's `Network` carried here. `from` is the node that the connection belongs to,
    /// as its certificate proves: what speaks for another one is not answered.
    ///
    /// # Errors
    /// A message that is none, or a store that failed: drop the connection.
    pub fn answer<'node>(&'node self, from: u64, message: &'node [u8]) -> Later<'node, Result<Vec<u8>, StorageFault>> {
        Box::pin(self.shared().answer(from, message))
    }

    /// The certificate of a node that this HSM's own roster lacks, as a member said whose state is newer: such a node may
    /// lead, and only from it can this HSM learn the rest. `None` when nobody said so.
    pub fn introduced(&self, node: u64) -> Option<Vec<u8>> {
        self.shared().acquaintances.certificate(node)
    }

    fn shared(&self) -> &Arc<Shared> {
        self.engine.shared()
    }

    fn on_own_thread<F>(start: impl FnOnce() -> F + Send + 'static) -> Result<Self, OpenFault>
    where
        F: Future<Output = Result<Engine, OpenFault>>,
    {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("replication".to_owned()).spawn(move || {
            // Whoever started this thread waits for what is told.
            let started = run_on_this_thread(start(), stopped, |engine| tell.send(engine).is_ok());
            if let Err(fault) = started {
                drop(tell.send(Err(fault)));
            }
        });
        let thread = thread.map_err(|error| OpenFault::Engine(error.to_string()))?;
        let ended = |_| Err(OpenFault::Engine("its thread ended".to_owned()));
        let engine = told.recv().unwrap_or_else(ended)?;
        Ok(Self { engine, thread: Mutex::new(Some(OwnThread { stop, thread })) })
    }

    fn around(engine: Engine) -> Self {
        Self { engine: Arc::new(engine), thread: Mutex::new(None) }
    }
}

impl Drop for Node {
    /// Lets go of the store, so that it can be opened again at once.
    fn drop(&mut self) {
        if let Some(OwnThread { stop, thread }) = self.thread.get_mut().take() {
            drop(stop);
            join(thread);
        }
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("the replication thread panicked; the log is durable all the same");
    }
}

/// Starts an engine, tells of it, and runs it until it shall stop or nobody is left who could say so.
fn run_on_this_thread(
    start: impl Future<Output = Result<Engine, OpenFault>>,
    stopped: oneshot::Receiver<()>,
    tell: impl FnOnce(Result<Arc<Engine>, OpenFault>) -> bool,
) -> Result<(), OpenFault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| OpenFault::Engine(error.to_string()))?;
    runtime.block_on(async {
        let engine = Arc::new(start.await?);
        if tell(Ok(engine.clone())) && stopped.await.is_ok() {
            engine.stop().await;
        } else {
            engine.let_go();
        }
        Ok(())
    })
}
