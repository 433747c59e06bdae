//! What all connections share: the node, the module, the caches, the threads, and the list of connections itself.

use std::collections::BTreeMap;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use hsm_core::{Effect, Index, ObjectUid, SessionId};
use hsm_crypto::{KeyRing, Module};
use hsm_protocol::wire;
use hsm_replication::{EffectSink, Node};
use parking_lot::Mutex;

use super::caller::{Caller, Connection};
use super::guesses::Guesses;
use super::isolated::Desk;
use super::key_cache::KeyCache;
use super::label::Lines;
use super::limits::{COMPUTE_QUEUE, PASSWORD_QUEUE, PASSWORD_THREADS};
use super::roster::Roster;
use super::session_objects::SessionObjects;
use super::workers::Workers;
use crate::connection::ConnectionFacts;
use crate::connection::courier::Courier;
use crate::connection::limits::STALL_TIME;
use crate::connection::link::Link;
use crate::connection::pace::Busy;
use crate::metrics::Metrics;

/// What a service is made of.
pub struct ServiceParts {
    /// State and log.
    pub node: Arc<Node>,
    /// Randomness and self-tests.
    pub module: Arc<Module>,
    /// The keys that seal objects, tokens and session objects.
    pub keys: Arc<KeyRing>,
    /// Counters of the process.
    pub metrics: Arc<Metrics>,
    /// The sink that was given to the node's settings; it works from now on.
    pub effects: Arc<Effects>,
    /// Id of this HSM, as `Hello` and the roster show it.
    pub hsm: [u8; 16],
    /// Address under which clients reach this HSM, as the roster shows it.
    pub address: String,
    /// Log-ins while this HSM is isolated.
    pub(crate) desk: Desk,
}

/// Runs requests. One per process; every connection's thread works in it.
pub struct Service {
    node: Arc<Node>,
    module: Arc<Module>,
    keys: Arc<KeyRing>,
    metrics: Arc<Metrics>,
    hsm: [u8; 16],
    address: String,
    courier: Arc<Courier>,
    compute: Arc<Workers>,
    passwords: Arc<Workers>,
    key_cache: KeyCache,
    session_objects: SessionObjects,
    guesses: Guesses,
    busy: Busy,
    connections: Mutex<BTreeMap<u64, Weak<Connection>>>,
    next_connection: AtomicU64,
    stopping: AtomicBool,
    mechanisms: OnceLock<wire::ListMechanismsReply>,
    roster: Roster,
    lines: Lines,
    desk: Desk,
}

impl Service {
    /// Starts the threads that connections share.
    ///
    /// # Errors
    /// When the system refuses a thread or a descriptor.
    pub fn new(parts: ServiceParts) -> std::io::Result<Arc<Self>> {
        let ServiceParts { node, module, keys, metrics, effects, hsm, address, desk } = parts;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let service = Arc::new(Self {
            node,
            module,
            keys,
            metrics,
            hsm,
            address,
            courier: Courier::start(STALL_TIME)?,
            compute: Workers::start("compute", cores, COMPUTE_QUEUE)?,
            passwords: Workers::start("passwords", cores.clamp(2, PASSWORD_THREADS), PASSWORD_QUEUE)?,
            key_cache: KeyCache::default(),
            session_objects: SessionObjects::default(),
            guesses: Guesses::default(),
            busy: Busy::default(),
            connections: Mutex::default(),
            next_connection: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            mechanisms: OnceLock::new(),
            roster: Roster::default(),
            lines: Lines::default(),
            desk,
        });
        effects.attach(&service);
        Ok(service)
    }

    /// Ends every connection that `must_close` says so of, at once: for policy changes.
    pub fn close_all(&self, must_close: impl Fn(&ConnectionFacts) -> bool) {
        for connection in self.live_connections() {
            if must_close(&connection.link().facts()) {
                connection.link().end();
            }
        }
    }

    /// Takes no new requests, lets those under way be answered until `at_most` has passed, and ends all connections and
    /// threads. Calling it again does no harm.
    pub fn stop(&self, at_most: Duration) {
        let deadline = Instant::now() + at_most;
        self.stopping.store(true, Ordering::Release);
        for connection in self.live_connections() {
            connection.link().stop_reading();
        }
        while !self.live_connections().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        for connection in self.live_connections() {
            connection.link().end();
        }
        self.compute.stop();
        self.passwords.stop();
        self.courier.stop();
        self.key_cache.clear();
        self.session_objects.clear();
    }

    /// Connections that are open now.
    pub fn connection_count(&self) -> usize {
        self.live_connections().len()
    }

    pub(crate) fn open(self: &Arc<Self>, link: &Arc<Link>) -> Caller {
        let connection = Arc::new(Connection::new(Arc::clone(link)));
        self.connections.lock().insert(link.number(), Arc::downgrade(&connection));
        if self.is_stopping() {
            link.stop_reading();
        }
        Caller::new(Arc::clone(self), connection)
    }

    /// Forgets a connection that is over, and what it alone held.
    pub(crate) fn close(&self, connection: &Connection) {
        self.connections.lock().remove(&connection.link().number());
        self.session_objects.forget_connection(connection.link().number());
    }

    fn live_connections(&self) -> Vec<Arc<Connection>> {
        self.connections.lock().values().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn close_sessions(&self, sessions: &[SessionId]) {
        for session in sessions {
            self.session_objects.forget_session(*session);
        }
        for connection in self.live_connections() {
            connection.detach(|attached| sessions.contains(&attached));
        }
    }

    /// The cluster's keys have a new epoch: every library that is connected attaches its logins again at their next call,
    /// and gets a token of the new epoch. The others do when they come.
    pub fn ask_for_attaching(&self) {
        self.live_connections().iter().for_each(|connection| connection.ask_for_attaching());
    }

    fn forget_key(&self, uid: ObjectUid) {
        self.key_cache.forget(uid);
    }

    pub(crate) fn next_connection(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    pub(crate) fn module(&self) -> &Arc<Module> {
        &self.module
    }

    pub(crate) fn keys(&self) -> &KeyRing {
        &self.keys
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn hsm(&self) -> [u8; 16] {
        self.hsm
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn courier(&self) -> &Arc<Courier> {
        &self.courier
    }

    pub(crate) fn compute(&self) -> &Workers {
        &self.compute
    }

    pub(crate) fn passwords(&self) -> &Workers {
        &self.passwords
    }

    pub(crate) fn key_cache(&self) -> &KeyCache {
        &self.key_cache
    }

    pub(crate) fn session_objects(&self) -> &SessionObjects {
        &self.session_objects
    }

    pub(crate) fn guesses(&self) -> &Guesses {
        &self.guesses
    }

    pub(crate) fn busy(&self) -> &Busy {
        &self.busy
    }

    /// How much of requests may be logged unasked.
    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    pub(crate) fn desk(&self) -> &Desk {
        &self.desk
    }

    pub(crate) fn roster(&self) -> &Roster {
        &self.roster
    }

    pub(crate) fn mechanisms(&self) -> &OnceLock<wire::ListMechanismsReply> {
        &self.mechanisms
    }
}

#[cfg(test)]
impl Service {
    /// Who is logged in on some connection.
    pub(crate) fn attached_sessions(&self) -> Vec<hsm_core::Actor> {
        self.live_connections().iter().flat_map(|connection| connection.attached_actors()).collect()
    }

    /// The connection that has a login of this index; there must be one in all.
    pub(crate) fn connection_of(&self, index: u32) -> Option<Arc<Connection>> {
        self.live_connections().into_iter().find(|connection| connection.attachment(index).is_some())
    }

    /// Holds no session object open any more, as after a restart.
    pub(crate) fn forget_session_objects(&self) {
        self.session_objects.clear();
    }
}

/// Effects of applied commands that are not the service's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessEffect {
    /// The cluster's certificate or its rule for client certificates changed: use it for new connections.
    ReloadTls,
    /// The cluster master key has a new epoch.
    EpochBegan,
    /// Members came, went or moved.
    RosterChanged,
    /// Destroy the cluster master key and its seal, then stop serving.
    Zeroize,
}

/// Carries out effects of the log: those about keys and sessions here, the rest by the process. Made before the node,
/// which needs it to open; the service attaches itself later, when there are connections that effects could concern.
pub struct Effects {
    service: OnceLock<Weak<Service>>,
    process: Box<dyn Fn(ProcessEffect) + Send + Sync>,
}

impl Effects {
    /// A sink that hands to `process` what concerns it. `process` is called on the thread that applies the log and must
    /// return at once.
    pub fn new(process: impl Fn(ProcessEffect) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { service: OnceLock::new(), process: Box::new(process) })
    }

    fn attach(&self, service: &Arc<Service>) {
        if self.service.set(Arc::downgrade(service)).is_err() {
            unreachable!("a process has one service");
        }
    }

    fn service(&self) -> Option<Arc<Service>> {
        self.service.get().and_then(Weak::upgrade)
    }
}

impl EffectSink for Effects {
    fn carry_out(&self, _index: Index, effect: Effect) {
        match effect {
            Effect::CloseSessions(sessions) => {
                if let Some(service) = self.service() {
                    service.close_sessions(&sessions);
                }
            }
            Effect::ForgetKey(uid) => {
                if let Some(service) = self.service() {
                    service.forget_key(uid);
                }
            }
            Effect::ReloadTls => (self.process)(ProcessEffect::ReloadTls),
            Effect::EpochBegan(_) => (self.process)(ProcessEffect::EpochBegan),
            Effect::RosterChanged => (self.process)(ProcessEffect::RosterChanged),
            Effect::Zeroize => {
                if let Some(service) = self.service() {
                    service.key_cache.clear();
                    service.session_objects.clear();
                }
                (self.process)(ProcessEffect::Zeroize);
            }
            Effect::Respond(_) | Effect::Audit(_) => {}
        }
    }
}
