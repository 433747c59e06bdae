//! Machines with disks in memory, and a network between them that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use hsm_core::command::{CeremonyCertificates, Form, Origin, Verifier};
use hsm_core::{Action, ClusterId, Epoch, HsmId, Incarnation, MemberKind, MemberRecord, NodeId};
use hsm_crypto::{MasterKey, Module, StorageKey};
use hsm_protocol::Lifecycle;
use hsm_replication::clock::{Clock, ClockReading};
use hsm_replication::disk::{Disk, MARK_BYTES, MARK_SLOT_BYTES};
use hsm_replication::network::{Answer, Network, PeerFault};
use hsm_replication::{History, Node, Outcome, Settings, Standing};
use parking_lot::Mutex;
use redb::StorageBackend;

/// A disk that outlives the store on it, can be copied, and can be full.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<(Vec<u8>, Vec<u8>)>>, Arc<AtomicBool>);

impl MemoryDisk {
    pub(crate) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().clone())), Arc::default())
    }

    /// From now on nothing more fits, or there is room again.
    pub(crate) fn fill(&self, full: bool) {
        self.1.store(full, Ordering::SeqCst);
    }
}

impl StorageBackend for MemoryDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().0.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0.lock().0[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).unwrap();
        let octets = &mut self.0.lock().0;
        if len > octets.len() && self.1.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        octets.resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.0.lock().0[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(self.clone()))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(if self.1.load(Ordering::SeqCst) { 0 } else { u64::MAX })
    }

    fn read_mark(&self) -> io::Result<[u8; MARK_BYTES]> {
        let mut mark = [0; MARK_BYTES];
        let stored = &self.0.lock().1;
        mark[..stored.len()].copy_from_slice(stored);
        Ok(mark)
    }

    fn write_mark(&self, slot: usize, mark: &[u8; MARK_SLOT_BYTES]) -> io::Result<()> {
        let stored = &mut self.0.lock().1;
        stored.resize(MARK_BYTES, 0);
        stored[slot * MARK_SLOT_BYTES..][..MARK_SLOT_BYTES].copy_from_slice(mark);
        Ok(())
    }
}

/// A clock on the runtime's time.
struct TestClock(tokio::time::Instant);

impl Clock for TestClock {
    fn read(&self) -> ClockReading {
        let elapsed = u64::try_from(self.0.elapsed().as_millis()).unwrap();
        ClockReading { wall: 1_795_305_600_000 + elapsed, steady: 1000 + elapsed, boot: [1; 16] }
    }
}

/// Who can reach whom.
#[derive(Default)]
pub(crate) struct Wires {
    nodes: Mutex<BTreeMap<u64, Arc<Node>>>,
    /// Messages from one to another get lost.
    cut: Mutex<BTreeSet<(u64, u64)>>,
    /// One can not ask the other, who can ask it and gets answers.
    mute: Mutex<BTreeSet<(u64, u64)>>,
    /// Connections of these prove to be those of another node.
    pub(crate) posing: Mutex<BTreeMap<u64, u64>>,
    /// Each message to these comes twice.
    pub(crate) twice: Mutex<BTreeSet<u64>>,
    /// Octets that a message moves in a second; 0 for any number.
    pub(crate) octets_per_second: AtomicU64,
    /// Version of messages that every other member is said to speak; 0 for the newest.
    pub(crate) version: AtomicU32,
}

impl Wires {
    /// Cuts a node off, both ways.
    pub(crate) fn isolate(&self, node: u64, others: &[u64]) {
        for &other in others {
            self.cut.lock().extend([(node, other), (other, node)]);
        }
    }

    pub(crate) fn cut_one_way(&self, from: u64, to: u64) {
        self.cut.lock().insert((from, to));
    }

    /// The one's questions do not reach the other, its answers do.
    pub(crate) fn mute(&self, from: u64, to: u64) {
        self.mute.lock().insert((from, to));
    }

    pub(crate) fn heal(&self) {
        self.mute.lock().clear();
        self.cut.lock().clear();
    }

    fn passes(&self, from: u64, to: u64) -> bool {
        !self.cut.lock().contains(&(from, to))
    }
}

/// The network as one machine sees it.
struct Wire {
    wires: Arc<Wires>,
    from: Arc<AtomicU64>,
}

const DELAY: Duration = Duration::from_millis(1);

impl Network for Wire {
    fn version(&self, _member: u64) -> u32 {
        match self.wires.version.load(Ordering::SeqCst) {
            0 => hsm_replication::versions::NEWEST,
            version => version,
        }
    }

    fn call(&self, member: u64, _address: &str, message: Vec<u8>, at_most: Duration) -> Answer {
        let wires = self.wires.clone();
        let from = self.from.load(Ordering::SeqCst);
        Box::pin(async move {
            let deadline = tokio::time::Instant::now() + at_most;
            let speaker = wires.posing.lock().get(&from).copied().unwrap_or(from);
            let exchange = async {
                let speed = wires.octets_per_second.load(Ordering::SeqCst);
                let transfer = (message.len() as u64 * 1_000_000).checked_div(speed).unwrap_or(0);
                tokio::time::sleep(DELAY + Duration::from_micros(transfer)).await;
                let reaches = wires.passes(from, member) && !wires.mute.lock().contains(&(from, member));
                let node = wires.nodes.lock().get(&member).cloned().filter(|_| reaches)?;
                let again = wires.twice.lock().contains(&member).then(|| (node.clone(), message.clone()));
                let answered = tokio::spawn(async move { node.answer(speaker, &message).await });
                if let Some((node, message)) = again {
                    drop(tokio::spawn(async move { node.answer(speaker, &message).await.map(drop) }));
                }
                let answer = answered.await.ok()?.ok()?;
                tokio::time::sleep(DELAY).await;
                wires.passes(member, from).then_some(answer)
            };
            match tokio::time::timeout_at(deadline, exchange).await {
                Ok(Some(answer)) => Ok(answer),
                _ => {
                    tokio::time::sleep_until(deadline).await;
                    Err(PeerFault::Unreachable(member))
                }
            }
        })
    }
}

/// One machine.
pub(crate) struct Machine {
    pub(crate) number: u8,
    pub(crate) disk: MemoryDisk,
    pub(crate) zone: String,
    pub(crate) kind: MemberKind,
    pub(crate) standings: Arc<Mutex<Vec<Standing>>>,
    pub(crate) faults: Arc<Mutex<Vec<String>>>,
    key: StorageKey,
    wires: Arc<Wires>,
    node_id: Arc<AtomicU64>,
    clock: Arc<TestClock>,
}

impl Machine {
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::at("unused");
        settings.disk = Arc::new(self.disk.clone());
        settings.clock = Arc::<TestClock>::clone(&self.clock);
        settings.network = Arc::new(Wire { wires: self.wires.clone(), from: self.node_id.clone() });
        settings.cache_bytes = 1024 * 1024;
        settings.witness = self.kind == MemberKind::Witness;
        let standings = self.standings.clone();
        settings.on_standing = Arc::new(move |standing| standings.lock().push(standing));
        let faults = self.faults.clone();
        settings.on_fault = Arc::new(move |fault| faults.lock().push(format!("{fault:?}")));
        settings
    }

    pub(crate) fn id(&self) -> u64 {
        self.node_id.load(Ordering::SeqCst)
    }

    pub(crate) fn record(&self) -> MemberRecord {
        MemberRecord {
            zone: self.zone.clone(),
            peer_address: format!("machine{}:1", self.number),
            ..MemberRecord::alone(HsmId([self.number; 16]), self.kind)
        }
    }

    pub(crate) fn plug(&self, node: Node) -> Arc<Node> {
        let node = Arc::new(node);
        self.node_id.store(node.status().node, Ordering::SeqCst);
        self.wires.nodes.lock().insert(self.id(), node.clone());
        node
    }

    /// Takes the node off the network and stops it.
    pub(crate) async fn stop(&self, node: Arc<Node>) {
        self.wires.nodes.lock().remove(&self.id());
        node.stop_here().await;
        drop(node);
    }

    pub(crate) async fn open(&self) -> Arc<Node> {
        self.plug(Node::open_here(self.settings(), self.key.clone()).await.unwrap())
    }

    pub(crate) fn key(&self) -> StorageKey {
        self.key.clone()
    }
}

/// A cluster that grows.
pub(crate) struct Yard {
    pub(crate) wires: Arc<Wires>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) nodes: Vec<Arc<Node>>,
}

impl Yard {
    /// One HSM with a cluster.
    pub(crate) async fn form() -> Self {
        let mut yard = Self { wires: Arc::default(), machines: Vec::new(), nodes: Vec::new() };
        let machine = yard.machine(MemberKind::Hsm);
        let form = form(machine.record());
        let node = machine.plug(Node::form_here(machine.settings(), machine.key(), form).await.unwrap());
        yard.machines.push(machine);
        yard.nodes.push(node);
        yard
    }

    /// As many HSMs as said, all of them up to date, with the voters that the rule wants.
    pub(crate) async fn of(hsms: usize) -> Self {
        let mut yard = Self::form().await;
        for _ in 1..hsms {
            yard.join(MemberKind::Hsm).await;
        }
        let voters = match hsms {
            ..=2 => 1,
            3..=4 => 3,
            _ => 5,
        };
        yard.until("the voters vote", |yard| yard.voters().len() == voters).await;
        yard
    }

    pub(crate) fn machine(&self, kind: MemberKind) -> Machine {
        let number = u8::try_from(self.machines.len() + 1).unwrap();
        let module = Module::start().unwrap();
        Machine {
            number,
            disk: MemoryDisk::default(),
            zone: format!("zone{}", number % 3),
            kind,
            standings: Arc::default(),
            faults: Arc::default(),
            key: MasterKey::generate(&module, Epoch(1)).unwrap().storage_key(&module).unwrap(),
            wires: self.wires.clone(),
            node_id: Arc::default(),
            clock: Arc::new(TestClock(tokio::time::Instant::now())),
        }
    }

    /// Admits another machine and lets it join.
    pub(crate) async fn join(&mut self, kind: MemberKind) -> u64 {
        let machine = self.machine(kind);
        let id = 1000 + u64::from(machine.number);
        let action = Action::AdmitMember { node: NodeId(id), member: machine.record() };
        let leader = self.leader().await;
        assert!(matches!(propose(&self.nodes[leader], action).await, Outcome::Done { result: Ok(_), .. }));
        let history = {
            let state = self.nodes[leader].read();
            let cluster = state.cluster().unwrap();
            History { cluster: cluster.cluster, incarnation: cluster.incarnation }
        };
        let node = Node::join_here(machine.settings(), machine.key(), id, history).await.unwrap();
        self.nodes.push(machine.plug(node));
        self.machines.push(machine);
        id
    }

    /// The place of the node that leads, as most see it and it itself.
    pub(crate) async fn leader(&self) -> usize {
        self.until("somebody leads", |yard| yard.leads().is_some()).await;
        self.leads().unwrap()
    }

    pub(crate) fn leads(&self) -> Option<usize> {
        let leads = |node: &Arc<Node>| node.status().leader == Some(node.status().node);
        let term = |place: &usize| self.nodes[*place].status().term;
        (0..self.nodes.len()).filter(|&place| leads(&self.nodes[place])).max_by_key(term)
    }

    pub(crate) fn voters(&self) -> BTreeSet<u64> {
        let leads = self.leads().unwrap_or(0);
        self.nodes[leads].status().voters.iter().copied().collect()
    }

    /// Waits, in virtual time.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        while !holds(self) {
            assert!(tokio::time::Instant::now() < deadline, "in two minutes: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until all nodes have applied the same.
    pub(crate) async fn level(&self) {
        let level = |yard: &Self| {
            let first = yard.nodes[0].status();
            yard.nodes.iter().all(|node| node.status().applied == first.applied && node.status().hash == first.hash)
        };
        self.until("all have applied the same", level).await;
    }
}

/// The history of every cluster here.
pub(crate) const HISTORY: History = History { cluster: ClusterId([1; 16]), incarnation: Incarnation([2; 16]) };

pub(crate) fn form(member: MemberRecord) -> Form {
    Form {
        cluster: HISTORY.cluster,
        incarnation: HISTORY.incarnation,
        fips: false,
        label: "test".to_owned(),
        epoch: Epoch(1),
        lifecycle: Lifecycle::Uninitialized,
        activation: Verifier(vec![7; 48]),
        sealed_activation_password: vec![1; 32],
        sealed_cluster_key: vec![2; 64],
        releases: hsm_core::ReleaseRule::default(),
        certificates: CeremonyCertificates::default(),
        node: NodeId(1),
        member,
    }
}

/// A command that always has an effect: a member says which version it runs.
pub(crate) fn version(machine: &Machine, version: &str) -> Action {
    let member = MemberRecord { version: version.to_owned(), ..machine.record() };
    Action::UpdateMember { node: NodeId(machine.id()), member }
}

pub(crate) fn start(node: &Node, action: Action) -> tokio::sync::oneshot::Receiver<Outcome> {
    start_by(node, Origin { session: None, sequence: 0, lowest_unanswered: 0 }, action)
}

pub(crate) fn start_by(node: &Node, origin: Origin, action: Action) -> tokio::sync::oneshot::Receiver<Outcome> {
    let (tell, told) = tokio::sync::oneshot::channel();
    node.propose(origin, action, Box::new(move |outcome| drop(tell.send(outcome))));
    told
}

pub(crate) async fn propose(node: &Node, action: Action) -> Outcome {
    start(node, action).await.unwrap()
}

pub(crate) fn is_done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { result: Ok(_), .. })
}
