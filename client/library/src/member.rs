//! One HSM of the cluster as this process sees it: where it is, its connections, how busy it is, and whether it is lost.
//!
//! A member is *lost* from a failure to connect, or from being found dead, until a connection opens again. A lost one is
//! left out of the choice, and visited now and then. Each place holds one connection; one thread opens it while the
//! others go elsewhere, or wait for the outcome and share it. Which member a call takes is decided in [`crate::pool`].

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::address::Address;
use crate::backoff;
use crate::connection::{Connection, HsmId, Short};
use crate::error::{Attempt, CallError};

/// A thread leaves its usual connection when that one has so many more calls in flight than another of the same HSM.
const IMBALANCE: u32 = 3;

/// An HSM, or an address of the configuration of which nobody knows yet whose it is.
pub(crate) struct Member {
    identity: Option<HsmId>,
    addresses: Mutex<Vec<Address>>,
    places: Box<[Mutex<Place>]>,
    calls: AtomicU32,
    lost: AtomicBool,
    asking: AtomicBool,
    health: Mutex<Health>,
}

enum Place {
    Empty,
    /// A thread is opening it.
    Opening,
    Open(Arc<Connection>),
}

/// How it went lately.
struct Health {
    failures: u32,
    /// Not before this when nobody else serves.
    retry_at: Instant,
    /// Not before this when others serve.
    visit_at: Instant,
    last: Option<Failure>,
    /// A connection was open since the last loss.
    served: bool,
    /// When it last gave a sign of life outside the connections that calls wait on.
    sign: Instant,
}

/// A failure to connect.
#[derive(Clone)]
pub(crate) struct Failure {
    pub(crate) when: Instant,
    pub(crate) attempts: Vec<Attempt>,
    /// It makes no sense to try again before somebody has changed something.
    pub(crate) lasting: Option<CallError>,
}

/// What a call finds at a member.
pub(crate) enum Look {
    /// A connection.
    Open(Arc<Connection>),
    /// A place without one; `spare` serves if it cannot be filled.
    Missing { place: usize, spare: Option<Arc<Connection>> },
    /// Another thread is opening one.
    Opening,
}

impl Member {
    pub(crate) fn new(identity: Option<HsmId>, addresses: Vec<Address>, places: usize) -> Self {
        let now = Instant::now();
        Self {
            identity,
            addresses: Mutex::new(addresses),
            places: (0..places.max(1)).map(|_| Mutex::new(Place::Empty)).collect(),
            calls: AtomicU32::new(0),
            lost: AtomicBool::new(false),
            asking: AtomicBool::new(false),
            health: Mutex::new(Health {
                failures: 0,
                retry_at: now,
                visit_at: now,
                last: None,
                served: false,
                sign: now,
            }),
        }
    }

    pub(crate) fn identity(&self) -> Option<HsmId> {
        self.identity
    }

    /// Where it may be reached, in the order to try.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        lock(&self.addresses).clone()
    }

    pub(crate) fn set_addresses(&self, addresses: Vec<Address>) {
        *lock(&self.addresses) = addresses;
    }

    /// Calls that are under way at it.
    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    // ---- connections ----

    /// A connection among the first `allowed` places: the thread's usual one, unless it is much busier than another.
    pub(crate) fn look(&self, usual: usize, allowed: usize) -> Look {
        let allowed = allowed.clamp(1, self.places.len());
        let usual = usual % allowed;
        let first = self.open_at(0);
        match (self.open_at(usual), first) {
            (Some(connection), Some(_)) if allowed > 1 => Look::Open(self.least_busy(connection, allowed)),
            (Some(connection), Some(_)) => Look::Open(connection),
            (_, None) if matches!(*lock(&self.places[0]), Place::Opening) => {
                self.any_open().map_or(Look::Opening, Look::Open)
            }
            (_, None) => Look::Missing { place: 0, spare: None },
            (None, Some(first)) => {
                let opening = matches!(*lock(&self.places[usual]), Place::Opening);
                if opening || self.health().retry_at > Instant::now() {
                    Look::Open(first)
                } else {
                    Look::Missing { place: usual, spare: Some(first) }
                }
            }
        }
    }

    fn open_at(&self, place: usize) -> Option<Arc<Connection>> {
        open_in(&lock(&self.places[place]))
    }

    fn least_busy(&self, usual: Arc<Connection>, allowed: usize) -> Arc<Connection> {
        let calls = |connection: &Connection| connection.calls().load(Ordering::Relaxed);
        let mut chosen = usual;
        for place in self.places.iter().take(allowed) {
            if let Some(other) = open_in(&lock(place))
                && calls(&chosen) >= calls(&other) + IMBALANCE
            {
                chosen = other;
            }
        }
        chosen
    }

    /// Any connection that is open.
    pub(crate) fn any_open(&self) -> Option<Arc<Connection>> {
        self.places.iter().find_map(|place| open_in(&lock(place)))
    }

    /// Takes a place in order to open it; `None` when it is open by now or another thread is at it.
    pub(crate) fn claim(self: &Arc<Self>, place: usize) -> Option<Claim> {
        let mut state = lock(self.places.get(place)?);
        let free = match &*state {
            Place::Empty => true,
            Place::Opening => false,
            Place::Open(connection) => !connection.is_alive(),
        };
        if !free {
            return None;
        }
        *state = Place::Opening;
        drop(state);
        Some(Claim { member: Arc::clone(self), place })
    }

    /// Takes the first place that has no connection.
    pub(crate) fn claim_any(self: &Arc<Self>) -> Option<Claim> {
        (0..self.places.len()).find_map(|place| self.claim(place))
    }

    // ---- health ----

    /// Whether it is left out of the choice.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// When a call that has nowhere else to go may try it.
    pub(crate) fn retry_at(&self) -> Instant {
        self.health().retry_at
    }

    /// Whether it is time to visit a lost one while others serve. Says so to one thread only.
    pub(crate) fn claim_visit(&self, now: Instant) -> bool {
        let mut health = self.health();
        let due = self.is_lost() && health.visit_at <= now;
        if due {
            health.visit_at = now + backoff::visit_after(health.failures);
        }
        due
    }

    /// How the last attempt to connect failed; `None` when it did not.
    pub(crate) fn last_failure(&self) -> Option<Failure> {
        self.health().last.clone()
    }

    /// How often it failed in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.health().failures
    }

    /// A connection opened, or it gave a sign of life.
    pub(crate) fn note_life(&self, connected: bool) {
        let mut health = self.health();
        health.sign = Instant::now();
        if connected {
            health.failures = 0;
            health.last = None;
            health.served = true;
            if self.lost.swap(false, Ordering::Relaxed) {
                tracing::info!(hsm = %self, "the HSM serves again");
            }
        }
    }

    /// When it last gave a sign of life outside the connections that calls wait on.
    pub(crate) fn last_sign(&self) -> Instant {
        self.health().sign
    }

    /// It could not be reached, or was found dead. Lost from now on, unless a connection to it is open.
    pub(crate) fn note_failure(&self, failure: Failure) {
        let still_open = self.any_open().is_some();
        let mut health = self.health();
        let now = failure.when;
        health.retry_at = now + backoff::wait_after(health.failures);
        health.visit_at = now + backoff::visit_after(health.failures);
        health.failures = health.failures.saturating_add(1);
        let reason = failure.attempts.last().map(|attempt| attempt.reason.clone()).unwrap_or_default();
        health.last = Some(failure);
        if still_open || self.lost.swap(true, Ordering::Relaxed) {
            return;
        }
        if std::mem::take(&mut health.served) {
            tracing::warn!(hsm = %self, %reason, "the HSM is lost; it is tried again from time to time");
        } else {
            // The error of the call that gives up is the warning; until then there is another attempt.
            tracing::info!(hsm = %self, %reason, "cannot connect");
        }
    }

    /// It is dead as far as anybody can tell: ends the use of all its connections.
    pub(crate) fn condemn(&self, failure: Failure) {
        let mut condemned = Vec::new();
        for place in &self.places {
            let mut state = lock(place);
            if let Place::Open(connection) = &*state {
                condemned.push(Arc::clone(connection));
                *state = Place::Empty;
            }
        }
        self.note_failure(failure);
        condemned.iter().for_each(|connection| connection.condemn());
    }

    /// Takes the right to ask it for a sign of life; `None` when another thread has it.
    pub(crate) fn ask(&self) -> Option<Asking<'_>> {
        (!self.asking.swap(true, Ordering::Acquire)).then_some(Asking(self))
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }
}

impl std::fmt::Display for Member {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(hsm) = &self.identity {
            write!(formatter, "{} at ", Short(hsm))?;
        }
        match lock(&self.addresses).first() {
            Some(address) => address.fmt(formatter),
            None => formatter.write_str("no address"),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open_in(place: &Place) -> Option<Arc<Connection>> {
    match place {
        Place::Open(connection) if connection.is_alive() => Some(Arc::clone(connection)),
        _ => None,
    }
}

/// A place that this thread opens. Dropped without a connection it is empty again, also when the thread panics.
pub(crate) struct Claim {
    member: Arc<Member>,
    place: usize,
}

impl Claim {
    /// Puts the connection in.
    pub(crate) fn fill(self, connection: &Arc<Connection>) {
        *lock(&self.member.places[self.place]) = Place::Open(Arc::clone(connection));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = lock(&self.member.places[self.place]);
        if matches!(*state, Place::Opening) {
            *state = Place::Empty;
        }
    }
}

/// The right to ask a member for a sign of life.
pub(crate) struct Asking<'a>(&'a Member);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asking.store(false, Ordering::Release);
    }
}

/// A member and a connection to it, counted as in use until it is dropped.
pub(crate) struct Route {
    pub(crate) member: Arc<Member>,
    pub(crate) connection: Arc<Connection>,
}

impl Route {
    pub(crate) fn new(member: Arc<Member>, connection: Arc<Connection>) -> Self {
        member.calls.fetch_add(1, Ordering::Relaxed);
        connection.calls().fetch_add(1, Ordering::Relaxed);
        Self { member, connection }
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.connection.calls().fetch_sub(1, Ordering::Relaxed);
        self.member.calls.fetch_sub(1, Ordering::Relaxed);
    }
}
