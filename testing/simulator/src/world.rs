//! One machine with one node on it, and the time it lives in.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hsm_core::command::{CeremonyCertificates, Form, Verifier};
use hsm_core::{ClusterId, Epoch, HsmId, Incarnation, MemberKind, MemberRecord, NodeId};
use hsm_crypto::{MasterKey, Module, NoiseSource, SelfTestFailure, StorageKey};
use hsm_protocol::Lifecycle;
use hsm_replication::disk::Disk;
use hsm_replication::network::NoPeers;
use hsm_replication::{Node, OpenFault, Settings};
use parking_lot::Mutex;

use crate::clock::SimClock;
use crate::disk::SimDisk;
use crate::random::Random;

/// Runs a simulation in its own time: the clock stands while anything is to be done, and jumps to the next timer when
/// nothing is. Everything happens on this thread.
///
/// # Panics
/// When the system gives no runtime.
pub fn simulate<T>(seed: u64, simulation: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(hsm_sim)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime of one thread");
    #[cfg(hsm_sim)]
    return runtime.block_on(async {
        let node = hsm_replication::runtime::NodeContext::new(seed, seed % 1_000_000_007, 1_000_000);
        node.run(simulation).await
    });
    #[cfg(not(hsm_sim))]
    {
        // Without cfg(hsm_sim) only the harness draws from the seed; see the crate's documentation.
        let _ = seed;
        runtime.block_on(simulation)
    }
}

/// A task of the node that the caller belongs to.
pub fn spawn<F>(future: F) -> tokio::task::JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    <hsm_replication::runtime::Rt as openraft::AsyncRuntime>::spawn(future)
}

/// The machine.
pub struct World {
    /// Its disk.
    pub disk: SimDisk,
    /// Its clock.
    pub clock: Arc<SimClock>,
    /// Chance.
    pub random: Arc<Random>,
    /// The key of the store.
    pub key: StorageKey,
    /// Faults that nodes told.
    pub faults: Arc<Faults>,
}

/// Counts faults.
#[derive(Default)]
pub struct Faults {
    count: AtomicUsize,
    last: Mutex<String>,
}

impl Faults {
    /// How many nodes have stopped by themselves.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// What the last one said.
    pub fn last(&self) -> String {
        self.last.lock().clone()
    }
}

impl World {
    /// A machine with an empty disk. Call it inside [`simulate`].
    ///
    /// # Panics
    /// When the cryptographic module does not start.
    pub fn new(seed: u64) -> Self {
        Self::with(SimDisk::new(), Arc::new(Random::new(seed)), storage_key(seed))
    }

    /// A machine with this disk and the key that belongs to it.
    pub fn with(disk: SimDisk, random: Arc<Random>, key: StorageKey) -> Self {
        Self { disk, clock: Arc::new(SimClock::new()), random, key, faults: Arc::default() }
    }

    /// What a node on this machine is opened with.
    pub fn settings(&self) -> Settings {
        self.settings_on(Arc::new(self.disk.clone()))
    }

    /// The same on another disk.
    pub fn settings_on(&self, disk: Arc<dyn Disk>) -> Settings {
        let faults = self.faults.clone();
        Settings {
            newest_state: hsm_core::versions::NEWEST,
            disk,
            clock: self.clock.clone(),
            randomness: self.random.clone(),
            network: Arc::new(NoPeers),
            effects: Arc::new(hsm_replication::NoEffects),
            on_fault: Arc::new(move |fault| {
                faults.count.fetch_add(1, Ordering::SeqCst);
                *faults.last.lock() = fault.to_string();
            }),
            on_standing: Arc::new(|_| {}),
            propose_deadline: std::time::Duration::from_secs(10),
            cache_bytes: 4 * 1024 * 1024,
            address: String::new(),
            witness: false,
        }
    }

    /// Makes a cluster.
    ///
    /// # Errors
    /// As [`Node::form`].
    pub async fn form(&self) -> Result<Node, OpenFault> {
        Node::form_here(self.settings(), self.key.clone(), form()).await
    }

    /// Starts the node again.
    ///
    /// # Errors
    /// As [`Node::open`].
    pub async fn open(&self) -> Result<Node, OpenFault> {
        Node::open_here(self.settings(), self.key.clone()).await
    }
}

/// A storage key, and all its nonces, from a seed: the same seed writes the same octets.
///
/// # Panics
/// When the cryptographic module does not start.
pub fn storage_key(seed: u64) -> StorageKey {
    let module = Module::start_on(seeded_noise(seed)).expect("the module's tests pass");
    let master = MasterKey::generate(&module, Epoch(1)).expect("randomness");
    master.storage_key(&module).expect("a derived key")
}

/// Noise for a cryptographic module, from a seed.
pub fn seeded_noise(seed: u64) -> Box<dyn NoiseSource> {
    Box::new(SeededNoise(Random::new(seed)))
}

struct SeededNoise(Random);

impl NoiseSource for SeededNoise {
    fn fill(&mut self, output: &mut [u8]) -> Result<(), SelfTestFailure> {
        output.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.0.octets::<8>()[..chunk.len()]));
        Ok(())
    }
}

/// What a simulated cluster begins with.
pub fn form() -> Form {
    Form {
        cluster: ClusterId([1; 16]),
        incarnation: Incarnation([2; 16]),
        fips: false,
        label: "simulated".to_owned(),
        epoch: Epoch(1),
        lifecycle: Lifecycle::Uninitialized,
        activation: Verifier(vec![7; 48]),
        sealed_activation_password: vec![1; 32],
        sealed_cluster_key: vec![2; 64],
        releases: hsm_core::ReleaseRule::default(),
        certificates: CeremonyCertificates::default(),
        node: NodeId(1),
        member: MemberRecord::alone(HsmId([1; 16]), MemberKind::Hsm),
    }
}
