//! The shared connections of one process to one cluster: which one a call takes, and opening them anew.
//!
//! One connection while few threads are busy, because one thread alone is served best by a connection alone; a second
//! one from eight busy threads on, because then one group's requests are worked on while the other group wakes up.
//! Each place holds one connection; one thread opens it while the others wait for the outcome and share it, also when
//! it fails, so that a dead cluster costs each call one deadline and not a queue of them.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hsm_protocol::wire;
use rustls::ClientConfig;

use crate::address::Address;
use crate::backoff;
use crate::configuration::{ClusterConfiguration, ConfigurationError};
use crate::connection::{Connection, Lost, Opening};
use crate::counters::LiveCounters;
use crate::error::{Attempt, CallError};
use crate::fork::ForkGuard;
use crate::trust;

/// Busy threads that one connection serves before another one is worth its cost.
const THREADS_PER_CONNECTION: u32 = 4;

/// The number of busy threads is taken as the highest seen lately; it falls by one in this many calls.
const PEAK_MEMORY: u32 = 1024;

/// A thread leaves its usual connection when that one has so many more calls in flight than another.
const IMBALANCE: u32 = 3;

/// All connections to one cluster, and what was learnt on them.
pub(crate) struct Pool {
    configuration: ClusterConfiguration,
    places: Box<[Place]>,
    busy: AtomicU32,
    peak: AtomicU32,
    ticks: AtomicU32,
    /// Position in the list of addresses that worked last.
    preferred: AtomicUsize,
    tls: Mutex<Option<Arc<ClientConfig>>>,
    known: Mutex<Known>,
    /// Highest log index that any HSM of this incarnation told.
    index: AtomicU64,
    pub(crate) guard: Arc<ForkGuard>,
    pub(crate) counters: Arc<LiveCounters>,
}

/// What the cluster said of itself.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) hello: Option<Arc<wire::HelloReply>>,
    pub(crate) mechanisms: Option<Arc<Vec<wire::MechanismInfo>>>,
}

struct Place {
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    Empty { failures: u32, not_before: Instant, last: Option<Failure> },
    Opening,
    Open(Arc<Connection>),
}

#[derive(Clone)]
struct Failure {
    when: Instant,
    kind: FailureKind,
}

#[derive(Clone)]
enum FailureKind {
    /// It makes no sense to try again before somebody has changed something.
    Final(CallError),
    /// Nobody answers; try again.
    Nobody(Vec<Attempt>),
}

impl Pool {
    pub(crate) fn new(configuration: ClusterConfiguration) -> Self {
        let place = |now| Place {
            state: Mutex::new(State::Empty { failures: 0, not_before: now, last: None }),
            changed: Condvar::new(),
        };
        let now = Instant::now();
        Self {
            places: (0..configuration.connections.max(1)).map(|_| place(now)).collect(),
            configuration,
            busy: AtomicU32::new(0),
            peak: AtomicU32::new(0),
            ticks: AtomicU32::new(0),
            preferred: AtomicUsize::new(0),
            tls: Mutex::default(),
            known: Mutex::default(),
            index: AtomicU64::new(0),
            guard: Arc::new(ForkGuard::new()),
            counters: Arc::default(),
        }
    }

    pub(crate) fn configuration(&self) -> &ClusterConfiguration {
        &self.configuration
    }

    /// Counts a call as busy until the value is dropped.
    pub(crate) fn enter(&self) -> Busy<'_> {
        let busy = self.busy.fetch_add(1, Ordering::Relaxed) + 1;
        let peak = self.peak.load(Ordering::Relaxed);
        if busy > peak {
            self.peak.store(busy, Ordering::Relaxed);
        } else if self.ticks.fetch_add(1, Ordering::Relaxed).is_multiple_of(PEAK_MEMORY) {
            self.peak.store(peak.saturating_sub(1), Ordering::Relaxed);
        }
        Busy(self)
    }

    /// The index that answers must not be older than.
    pub(crate) fn index(&self) -> u64 {
        self.index.load(Ordering::Acquire)
    }

    /// Notes the index of an answer.
    pub(crate) fn note_index(&self, index: u64) {
        if index > self.index.load(Ordering::Relaxed) {
            self.index.fetch_max(index, Ordering::AcqRel);
        }
    }

    /// What the cluster said of itself.
    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for a call of this thread; opens one when there is none.
    ///
    /// # Errors
    /// [`CallError::Unreachable`], or at once when trying again makes no sense.
    pub(crate) fn connection(&self, deadline: Instant) -> Result<Arc<Connection>, CallError> {
        let allowed = (self.peak.load(Ordering::Relaxed) / THREADS_PER_CONNECTION).max(1);
        let allowed = self.places.len().min(usize::try_from(allowed).unwrap_or(1));
        if allowed > 1 {
            let usual = thread_number() % allowed;
            if let Some(connection) = self.among_several(usual, allowed) {
                return Ok(connection);
            }
        }
        self.open_place(&self.places[0], deadline)
    }

    /// An open connection among the first `allowed` places: the usual one unless it is much busier than another. A
    /// place that is empty is filled on the way; if that fails, the first place serves all.
    fn among_several(&self, usual: usize, allowed: usize) -> Option<Arc<Connection>> {
        let mut chosen = match self.places[usual].open_now() {
            Some(connection) => connection,
            None if usual > 0 && self.places[0].open_now().is_some() && self.places[usual].may_open() => {
                let deadline = Instant::now() + self.configuration.connect_timeout;
                return self.open_place_once(&self.places[usual], deadline).ok();
            }
            None => return None,
        };
        for place in self.places.iter().take(allowed) {
            if let Some(other) = place.open_now() {
                let (here, there) = (chosen.calls().load(Ordering::Relaxed), other.calls().load(Ordering::Relaxed));
                if here >= there + IMBALANCE {
                    chosen = other;
                }
            }
        }
        Some(chosen)
    }

    /// Opens the place if it is empty, again and again until the deadline; waits for a thread that is at it.
    fn open_place(&self, place: &Place, deadline: Instant) -> Result<Arc<Connection>, CallError> {
        let arrived = Instant::now();
        let mut state = place.lock();
        loop {
            let now = Instant::now();
            let wait_until = match &*state {
                State::Open(connection) if connection.is_alive() => return Ok(Arc::clone(connection)),
                State::Open(_) => None,
                State::Opening => Some(deadline),
                State::Empty { last: Some(Failure { when, kind: FailureKind::Final(error) }), .. }
                    if *when >= arrived =>
                {
                    return Err(error.clone());
                }
                State::Empty { not_before, .. } if *not_before > now => Some(*not_before),
                State::Empty { .. } => None,
            };
            if now >= deadline {
                return Err(self.unreachable(&state));
            }
            match wait_until {
                Some(until) => {
                    let left = until.min(deadline).saturating_duration_since(now);
                    state = place.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                }
                None => {
                    drop(state);
                    match self.open_place_once(place, deadline) {
                        Ok(connection) => return Ok(connection),
                        Err(Some(error)) => return Err(error),
                        Err(None) => state = place.lock(),
                    }
                }
            }
        }
    }

    /// One round over the addresses, unless another thread is at it (`Err(None)`, as for a failure that may pass).
    fn open_place_once(&self, place: &Place, deadline: Instant) -> Result<Arc<Connection>, Option<CallError>> {
        let failures = {
            let mut state = place.lock();
            let failures = match &*state {
                State::Open(connection) if connection.is_alive() => return Ok(Arc::clone(connection)),
                State::Opening => return Err(None),
                State::Open(_) => 0,
                State::Empty { failures, .. } => *failures,
            };
            *state = State::Opening;
            failures
        };
        let unfinished = Unfinished { place, failures };
        let outcome = self.open_any(deadline);
        let mut state = place.lock();
        let result = match outcome {
            Ok(connection) => {
                let connection = Arc::new(connection);
                self.note_hello(&connection);
                *state = State::Open(Arc::clone(&connection));
                Ok(connection)
            }
            Err(kind) => {
                let error = match &kind {
                    FailureKind::Final(error) => Some(error.clone()),
                    FailureKind::Nobody(_) => None,
                };
                *state = empty_after(failures, Some(kind));
                Err(error)
            }
        };
        drop(state);
        drop(unfinished);
        result
    }

    fn open_any(&self, deadline: Instant) -> Result<Connection, FailureKind> {
        let addresses = self.addresses().map_err(FailureKind::Final)?;
        let preferred = self.preferred.load(Ordering::Relaxed);
        let mut attempts = Vec::new();
        let mut finals = Vec::new();
        for step in 0..addresses.len() {
            let position = (preferred + step) % addresses.len();
            let address = &addresses[position];
            let now = Instant::now();
            if now >= deadline {
                break;
            }
            let tls = match address {
                Address::Unix(_) => None,
                Address::Tcp { .. } => Some(self.tls().map_err(FailureKind::Final)?),
            };
            let opening = Opening {
                tls: tls.as_ref(),
                guard: &self.guard,
                counters: &self.counters,
                deadline: deadline.min(now + self.configuration.connect_timeout),
            };
            match Connection::open(address, &opening) {
                Ok(connection) => {
                    self.preferred.store(position, Ordering::Relaxed);
                    tracing::info!(cluster = %self.configuration.label, %address, "connected");
                    return Ok(connection);
                }
                Err(lost) => {
                    // The error of the call that gives up is the warning; until then there is another attempt.
                    tracing::info!(cluster = %self.configuration.label, %address, reason = %lost, "cannot connect");
                    attempts.push(Attempt { address: address.to_string(), reason: lost.to_string() });
                    finals.extend(final_error(address, lost));
                }
            }
        }
        // For good only when every address failed for good: another one may come back.
        let all = finals.len() == addresses.len();
        match finals.into_iter().next() {
            Some(error) if all => Err(FailureKind::Final(error)),
            _ => Err(FailureKind::Nobody(attempts)),
        }
    }

    fn addresses(&self) -> Result<Vec<Address>, CallError> {
        let mut addresses: Vec<Address> = self.configuration.unix_socket.iter().cloned().map(Address::Unix).collect();
        for text in &self.configuration.addresses {
            addresses.push(Address::parse(text).map_err(|reason| self.misconfigured("addresses", reason))?);
        }
        if addresses.is_empty() {
            return Err(self.misconfigured("addresses", "is empty, and there is no `unix-socket`".to_owned()));
        }
        Ok(addresses)
    }

    fn misconfigured(&self, key: &'static str, reason: String) -> CallError {
        let cluster = self.configuration.label.clone();
        CallError::Configuration(ConfigurationError::Value { file: "client.toml".into(), cluster, key, reason })
    }

    /// The TLS configuration, read from its files once.
    pub(crate) fn tls(&self) -> Result<Arc<ClientConfig>, CallError> {
        let mut tls = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tls) = &*tls {
            return Ok(Arc::clone(tls));
        }
        let made = Arc::new(trust::tls_configuration(&self.configuration)?);
        *tls = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Keeps what the HSM said. Another incarnation counts its log anew.
    fn note_hello(&self, connection: &Connection) {
        let hello = connection.hello();
        let mut known = self.known();
        if known.hello.as_ref().is_some_and(|before| before.incarnation != hello.incarnation) {
            self.index.store(0, Ordering::Release);
            known.mechanisms = None;
        }
        known.hello = Some(Arc::clone(hello));
    }

    fn unreachable(&self, state: &State) -> CallError {
        let attempts = match state {
            State::Empty { last: Some(Failure { kind: FailureKind::Nobody(attempts), .. }), .. } => attempts.clone(),
            _ => Vec::new(),
        };
        CallError::Unreachable { cluster: self.configuration.label.clone(), attempts }
    }
}

/// What can only be cured by somebody who changes something.
fn final_error(address: &Address, lost: Lost) -> Option<CallError> {
    let address = address.to_string();
    match lost {
        Lost::Certificate(fault) => Some(CallError::Certificate { address, fault }),
        Lost::Peer(fault) => Some(CallError::Peer { address, fault }),
        _ => None,
    }
}

fn empty_after(failures: u32, kind: Option<FailureKind>) -> State {
    let now = Instant::now();
    let last = kind.map(|kind| Failure { when: now, kind });
    State::Empty { failures: failures + 1, not_before: now + backoff::wait_after(failures), last }
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_now(&self) -> Option<Arc<Connection>> {
        match &*self.lock() {
            State::Open(connection) if connection.is_alive() => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    fn may_open(&self) -> bool {
        match &*self.lock() {
            State::Open(_) => true,
            State::Opening => false,
            State::Empty { not_before, .. } => *not_before <= Instant::now(),
        }
    }
}

/// Whoever opens a place leaves it open or empty, also when he panics, and tells those who wait.
struct Unfinished<'a> {
    place: &'a Place,
    failures: u32,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let mut state = self.place.lock();
        if matches!(*state, State::Opening) {
            *state = empty_after(self.failures, None);
        }
        drop(state);
        self.place.changed.notify_all();
    }
}

/// One call under way.
pub(crate) struct Busy<'a>(&'a Pool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Spreads threads over connections: the first thread that asks is 0.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    // No destructor: one would keep a library from being unloaded.
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(0) });
    NUMBER.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}
