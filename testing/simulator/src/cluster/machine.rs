//! One machine: its disk, its clock, and the process on it, which starts, stops, crashes and stands still.
//!
//! A crash goes in this order: the disk forgets and takes nothing more from the old process, every task of the boot ends
//! where it stands, the node is dropped (what its destructors write reaches nothing), and the runtime gets time to drop
//! the tasks. A node that stops by itself, or whose power goes in the middle of a commit, crashes in the same way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hsm_core::{Command, Effect, HsmId, Incarnation, Index, MemberKind, MemberRecord, Refusal, Response};
use hsm_crypto::StorageKey;
use hsm_replication::runtime::{NodeContext, Rt};
use hsm_replication::{EffectSink, Fault, History, Node, OpenFault, Settings, Standing};
use openraft::AsyncRuntime;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::SimClock;
use crate::cluster::disk::ClusterDisk;
use crate::cluster::history::{Decided, Ledger};
use crate::cluster::network::{Fabric, Host};
use crate::cluster::trace::Trace;
use crate::disk::Crash;
use crate::random::Random;
use crate::world;

/// One machine.
pub struct Machine {
    /// Its number.
    pub place: usize,
    /// The name of the HSM on it; another one after it was replaced.
    hsm: Mutex<HsmId>,
    /// What it may hold.
    pub kind: MemberKind,
    /// Its disk.
    pub disk: ClusterDisk,
    /// Its clock.
    pub clock: Arc<SimClock>,
    /// Raised when its process has stopped by itself.
    pub stopped: Arc<Notify>,
    /// Whoever starts or stops it holds this.
    pub hands: Arc<tokio::sync::Mutex<()>>,
    key: StorageKey,
    around: Around,
    /// Its disk was made to fail: the process may stop for it.
    hurt: Arc<AtomicBool>,
    /// Its memory.
    memory: Arc<Memory>,
    /// It was asked to remove its HSM, and nobody knows whether that was done.
    leaves: Arc<AtomicBool>,
    state: Mutex<State>,
}

/// What a machine shares with the others.
#[derive(Clone)]
pub struct Around {
    /// Links.
    pub fabric: Arc<Fabric>,
    /// What is seen.
    pub ledger: Arc<Ledger>,
    /// What happens.
    pub trace: Arc<Trace>,
    /// Chance.
    pub random: Arc<Random>,
    /// After this time the outcome of a command is unknown.
    pub propose_deadline: std::time::Duration,
}

#[derive(Default)]
struct State {
    boots: u64,
    boot: Option<NodeContext>,
    node: Option<Arc<Node>>,
    /// The node that it is, or becomes.
    identity: Option<u64>,
    /// Whether a process has run as that node.
    was_node: bool,
    /// Something was done to its disk that crashes do not do.
    damaged: bool,
    /// The node that must not take part any more: its disk was rolled back, and its peers know.
    forgets: Option<u64>,
    process: Arc<Process>,
}

/// Whether the memory of a machine does what it should.
#[derive(Default)]
struct Memory {
    /// It will not, once.
    fails: AtomicBool,
    /// It did not: what is on the disk since then is wrong.
    failed: AtomicBool,
}

/// What is known of the process of one boot.
#[derive(Default)]
struct Process {
    /// It said that it cannot go on.
    faulted: AtomicBool,
    /// Others remember more of its node than it has.
    rolled_back: AtomicBool,
    /// It is no member any more.
    removed: AtomicBool,
    /// It crashed: what it says now, nobody hears.
    gone: AtomicBool,
}

impl State {
    fn is_rolled_back(&self) -> bool {
        self.process.rolled_back.load(Ordering::SeqCst)
    }

    fn is_removed(&self) -> bool {
        self.process.removed.load(Ordering::SeqCst)
    }

    fn has_faulted(&self) -> bool {
        self.process.faulted.load(Ordering::SeqCst)
    }
}

/// How a process begins.
pub enum Beginning {
    /// It makes a cluster, with this history.
    Form(Incarnation),
    /// It goes on with what is on the disk.
    Open,
    /// It joins this history, under this node id.
    Join(u64, History),
}

impl Machine {
    /// A machine with an empty disk and no process.
    pub fn new(
        place: usize,
        kind: MemberKind,
        disk: ClusterDisk,
        clock: SimClock,
        key: StorageKey,
        around: Around,
    ) -> Self {
        let (stopped, hands) = (Arc::default(), Arc::default());
        let hsm = Mutex::new(HsmId(around.random.octets()));
        let (hurt, leaves, memory, state) = (Arc::default(), Arc::default(), Arc::default(), Mutex::default());
        Self {
            place,
            hsm,
            kind,
            disk,
            clock: Arc::new(clock),
            stopped,
            hands,
            key,
            around,
            hurt,
            memory,
            leaves,
            state,
        }
    }

    /// The HSM on it.
    pub fn hsm(&self) -> HsmId {
        *self.hsm.lock()
    }

    /// Another HSM stands here from now on. The machine must be off.
    pub fn replace(&self) {
        *self.hsm.lock() = HsmId(self.around.random.octets());
        self.leaves.store(false, Ordering::SeqCst);
        self.forget();
    }

    /// An empty disk, on which the same HSM becomes another node. The machine must be off.
    pub fn forget(&self) {
        self.disk.wipe();
        self.memory.failed.store(false, Ordering::SeqCst);
        let mut state = self.state.lock();
        (state.identity, state.damaged, state.forgets) = (None, false, None);
        state.was_node = false;
    }

    /// What the roster says of it.
    pub fn record(&self) -> MemberRecord {
        let hsm = self.hsm();
        MemberRecord {
            zone: format!("zone-{}", self.place % 3),
            peer_address: Fabric::address(self.place),
            certificate: hsm.0.to_vec(),
            sealing_key: if self.kind == MemberKind::Hsm { hsm.0.to_vec() } else { Vec::new() },
            version: "0.1.0".to_owned(),
            ..MemberRecord::alone(hsm, self.kind)
        }
    }

    /// The running node, if there is one and it is not frozen: whom a client can ask.
    pub fn reach(&self) -> Option<(Arc<Node>, NodeContext)> {
        let state = self.state.lock();
        let boot = state.boot.clone().filter(|boot| !boot.is_frozen() && !state.has_faulted())?;
        Some((state.node.clone()?, boot))
    }

    /// The running node, frozen or not: for whoever looks from outside.
    pub fn look(&self) -> Option<Arc<Node>> {
        let state = self.state.lock();
        state.node.clone().filter(|_| !state.has_faulted())
    }

    /// Whether a process is there.
    pub fn is_on(&self) -> bool {
        self.state.lock().boot.is_some()
    }

    /// The node that it is, or becomes.
    pub fn identity(&self) -> Option<u64> {
        self.state.lock().identity
    }

    /// It shall become this node.
    pub fn assign(&self, node: u64) {
        self.state.lock().identity = Some(node);
    }

    /// Whether a process has run as the node that it is.
    pub fn was_node(&self) -> bool {
        self.state.lock().was_node
    }

    /// The process stands still, as by SIGSTOP; what it returns lets it go on.
    pub fn freeze(&self) -> Option<NodeContext> {
        let boot = self.state.lock().boot.clone()?;
        boot.freeze();
        Some(boot)
    }

    /// Whether something was done to its disk that crashes do not do.
    pub fn is_damaged(&self) -> bool {
        self.state.lock().damaged
    }

    /// Something was done to its disk that crashes do not do; or it was replaced by another one.
    pub fn set_damaged(&self, damaged: bool) {
        self.state.lock().damaged = damaged;
    }

    /// This node must not take part any more: its disk was rolled back, and its peers know.
    pub fn set_forgets(&self, node: Option<u64>) {
        self.state.lock().forgets = node;
    }

    /// The node that must not take part any more.
    pub fn forgets(&self) -> Option<u64> {
        self.state.lock().forgets
    }

    /// Its disk was made to fail: the process may stop for it.
    pub fn expect_fault(&self) {
        self.hurt.store(true, Ordering::SeqCst);
    }

    /// It is asked for that its HSM leaves: it may learn that it was removed before whoever asked does.
    pub fn expect_removal(&self) {
        self.leaves.store(true, Ordering::SeqCst);
    }

    /// Whether its process has said that it cannot go on.
    pub fn has_faulted(&self) -> bool {
        self.state.lock().has_faulted()
    }

    /// Whether its process has said that its HSM was removed, which was asked for.
    pub fn was_removed(&self) -> bool {
        self.state.lock().is_removed()
    }

    /// With the next command that it applies its memory fails, if `fails`.
    pub fn let_memory_fail(&self, fails: bool) {
        self.memory.fails.store(fails, Ordering::SeqCst);
    }

    /// Whether it has applied a command wrongly, and lives with that.
    pub fn has_faltered(&self) -> bool {
        self.memory.failed.load(Ordering::SeqCst)
    }

    /// Whether its process must be started again.
    pub fn has_stopped(&self) -> bool {
        let state = self.state.lock();
        state.boot.is_some()
            && (state.has_faulted() || state.is_rolled_back() || state.is_removed() || self.disk.is_cut())
    }

    /// Whether the others have told its process that they remember more of its node than it has.
    pub fn was_rolled_back(&self) -> bool {
        self.state.lock().is_rolled_back()
    }

    /// Starts a process. Returns when it can be asked, or with what it found. The machine must be off.
    ///
    /// # Errors
    /// As [`Node::open`]; also when it crashed meanwhile.
    pub async fn start(&self, beginning: Beginning) -> Result<(), OpenFault> {
        let (boot, settings) = self.begin_boot();
        let key = self.key.clone();
        let opening = match beginning {
            Beginning::Form(incarnation) => {
                let form = hsm_core::command::Form { incarnation, member: self.record(), ..world::form() };
                Node::form_here(settings, key, form)
            }
            Beginning::Open => Node::open_here(settings, key),
            Beginning::Join(node, history) => Node::join_here(settings, key, node, history),
        };
        #[expect(clippy::async_yields_async, reason = "the task is started as this node and waited for as nobody")]
        let opening = boot.run(async { Rt::spawn(opening) }).await;
        let crashed = |_| Err(OpenFault::Engine("it crashed while it started".to_owned()));
        let node = opening.await.unwrap_or_else(crashed)?;
        let mut state = self.state.lock();
        let same_boot = state.boot.is_some();
        if !same_boot {
            return Err(OpenFault::Engine("it crashed when it had started".to_owned()));
        }
        let (node, place) = (Arc::new(node), self.place);
        let number = node.status().node;
        (state.identity, state.was_node) = (Some(number), true);
        state.node = Some(node.clone());
        drop(state);
        self.around.fabric.host(place, Some(Host { node, boot }));
        self.around.trace.tell(|| format!("machine {place} runs node {number:x}"));
        Ok(())
    }

    fn begin_boot(&self) -> (NodeContext, Settings) {
        let Around { random, .. } = &self.around;
        let boot = NodeContext::new(random.next(), random.below(1_000_000_007), self.clock.speed());
        let process = Arc::new(Process::default());
        let mut state = self.state.lock();
        state.boots += 1;
        let number = state.boots;
        (state.boot, state.process) = (Some(boot.clone()), process.clone());
        drop(state);
        self.disk.serve(boot.clone());
        (boot, self.settings(number, process))
    }

    fn settings(&self, boot: u64, process: Arc<Process>) -> Settings {
        let Around { fabric, ledger, trace, random, propose_deadline } = self.around.clone();
        let (place, stopped, hurt, disk) = (self.place, self.stopped.clone(), self.hurt.clone(), self.disk.clone());
        let on_standing = {
            let (trace, process, stopped) = (trace.clone(), process.clone(), stopped.clone());
            let leaves = self.leaves.clone();
            move |standing: Standing| {
                trace.tell(|| format!("machine {place} is {standing:?}"));
                let ends = match standing {
                    _ if process.gone.load(Ordering::SeqCst) => return,
                    Standing::RolledBack => &process.rolled_back,
                    Standing::Removed if leaves.load(Ordering::SeqCst) => &process.removed,
                    _ => return,
                };
                ends.store(true, Ordering::SeqCst);
                stopped.notify_one();
            }
        };
        let on_fault = {
            let (trace, ledger) = (trace.clone(), ledger.clone());
            move |fault: Fault| {
                if process.gone.load(Ordering::SeqCst) {
                    return;
                }
                trace.tell(|| format!("machine {place} boot {boot} stops: {fault}"));
                let expected = hurt.load(Ordering::SeqCst) || disk.is_cut();
                if !expected || matches!(fault, Fault::Invariant(_)) {
                    ledger.with(|seen| seen.faults.push((place, fault.to_string())));
                }
                process.faulted.store(true, Ordering::SeqCst);
                stopped.notify_one();
            }
        };
        Settings {
            newest_state: hsm_core::versions::NEWEST,
            disk: Arc::new(self.disk.clone()),
            clock: self.clock.clone(),
            randomness: Arc::new(Random::new(random.next())),
            network: fabric.at(place),
            effects: Arc::new(Watcher { place, ledger, trace, memory: self.memory.clone() }),
            on_fault: Arc::new(on_fault),
            on_standing: Arc::new(on_standing),
            witness: self.kind == MemberKind::Witness,
            propose_deadline,
            cache_bytes: 1024 * 1024,
            address: Fabric::address(place),
        }
    }

    /// Ends the process where it stands. Does nothing to a machine that is off.
    pub async fn crash(&self, crash: Crash) {
        let (boot, node, process) = {
            let mut state = self.state.lock();
            (state.boot.take(), state.node.take(), state.process.clone())
        };
        let Some(boot) = boot else { return };
        process.gone.store(true, Ordering::SeqCst);
        self.around.trace.tell(|| format!("machine {} is off ({crash:?})", self.place));
        self.disk.crash(crash, &self.around.random);
        self.around.fabric.host(self.place, None);
        boot.crash();
        drop(node);
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }
}

/// Sees what a member decides.
struct Watcher {
    place: usize,
    ledger: Arc<Ledger>,
    trace: Arc<Trace>,
    memory: Arc<Memory>,
}

impl EffectSink for Watcher {
    fn falters(&self, index: Index) -> bool {
        let fails = self.memory.fails.swap(false, Ordering::SeqCst);
        if fails {
            self.trace.tell(|| format!("machine {} applies {} wrongly", self.place, index.0));
            self.memory.failed.store(true, Ordering::SeqCst);
        }
        fails
    }

    fn decided(&self, index: Index, hash: &[u8; 48], command: &Command, answer: &Result<Response, Refusal>) {
        if self.memory.failed.load(Ordering::SeqCst) {
            return;
        }
        self.trace.note(hash, || format!("{} applies {}", self.place, index.0));
        let decided = Decided { hash: *hash, command: command.clone(), answer: answer.clone() };
        self.ledger.decide(self.place, index, decided);
    }

    fn carry_out(&self, _index: Index, _effect: Effect) {}
}
