//! Connecting to an HSM and taking it in: whether it belongs to the cluster, who else there is, and whether it is alive.
//!
//! The part of [`Pool`] that talks. Nothing here is on the way of a call that finds an open connection.

use std::cell::Cell;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use hsm_protocol::wire::{self, reply, request};

use crate::address::Address;
use crate::connection::{Connection, HsmId, Lost, Opening, Patience, Verdict, Watch};
use crate::error::{Attempt, CallError, PeerFault};
use crate::limits::{FIRST_ROUND, HEDGE, LONG_WORK, PROBE, RECHECK, ROSTER_PAUSE, SECOND_ROUND};
use crate::member::{Claim, Failure, Member, Route};
use crate::pool::Pool;
use crate::roster;

/// An address that led to no connection.
struct Unopened {
    reason: String,
    /// What only somebody who changes something can cure.
    lasting: Option<Box<CallError>>,
}

/// Whether an HSM gave a sign of life.
enum Sign {
    Alive,
    Dead(String),
    /// There was not the time to tell.
    Unknown,
}

impl Pool {
    /// Tries the addresses of a member and puts the connection into the claimed place. `quick`: there is something else
    /// for the call if this takes long.
    pub(crate) fn open(&self, member: &Arc<Member>, claim: Claim, deadline: Instant, quick: bool) -> Option<Route> {
        let mut attempts = Vec::new();
        let mut lasting = Vec::new();
        let addresses = member.addresses();
        for address in &addresses {
            let now = Instant::now();
            if now >= deadline {
                break;
            }
            let limit = deadline.min(now + self.time_to_connect(member, quick));
            let outcome = self.connect(address, limit).and_then(|connection| {
                let owner = self.take_in(address, &connection, limit).map_err(|lost| unopened(address, lost))?;
                Ok((owner, Arc::new(connection)))
            });
            match outcome {
                Ok((owner, connection)) => {
                    tracing::info!(cluster = %self.configuration().label, hsm = %owner, %address, "connected");
                    self.put(member, claim, &owner, &connection);
                    return Some(Route::new(owner, connection));
                }
                Err(unopened) => {
                    attempts.push(Attempt { address: address.to_string(), reason: unopened.reason });
                    lasting.extend(unopened.lasting);
                }
            }
        }
        drop(claim);
        if !attempts.is_empty() {
            // For good only when every address failed for good: another one may come back.
            let all = lasting.len() == addresses.len();
            let lasting = lasting.into_iter().next().filter(|_| all).map(|error| *error);
            member.note_failure(Failure { when: Instant::now(), attempts, lasting });
        }
        self.recount();
        None
    }

    /// Puts a connection where it belongs, which is another member when an address led to another HSM than it was thought.
    fn put(&self, member: &Arc<Member>, claim: Claim, owner: &Arc<Member>, connection: &Arc<Connection>) {
        let claim = if Arc::ptr_eq(member, owner) {
            Some(claim)
        } else {
            drop(claim);
            if member.identity().is_some() {
                let reason = format!("its address leads to another HSM, {owner}");
                let attempts = vec![Attempt { address: connection.address().to_owned(), reason }];
                member.note_failure(Failure { when: Instant::now(), attempts, lasting: None });
            }
            owner.claim_any()
        };
        if let Some(claim) = claim {
            claim.fill(connection);
        }
        owner.note_life(true);
        self.recount();
    }

    /// How long one attempt may take: with other HSMs to try, less in the first rounds.
    fn time_to_connect(&self, member: &Member, quick: bool) -> Duration {
        let whole = self.configuration().connect_timeout;
        match member.failures() {
            _ if quick => whole.min(PROBE),
            0 if self.is_several() => whole.min(FIRST_ROUND),
            1 if self.is_several() => whole.min(SECOND_ROUND),
            _ => whole,
        }
    }

    fn connect(&self, address: &Address, deadline: Instant) -> Result<Connection, Unopened> {
        let unconfigured = |error: CallError| Unopened { reason: error.to_string(), lasting: Some(Box::new(error)) };
        let tls = match address {
            Address::Unix(_) => None,
            Address::Tcp { .. } => Some(self.tls().map_err(unconfigured)?),
        };
        let opening = Opening { tls: tls.as_ref(), guard: &self.guard, counters: &self.counters, deadline };
        Connection::open(address, &opening).map_err(|lost| unopened(address, lost))
    }

    /// Whose connection this is. Learns whom it tells of, and refuses an HSM that does not belong to the cluster.
    fn take_in(&self, address: &Address, connection: &Connection, deadline: Instant) -> Result<Arc<Member>, Lost> {
        self.check_cluster(connection)?;
        self.note(connection.greeting());
        if self.roster.is_wanted() {
            self.ask_for_roster(connection, deadline);
        }
        let hsm = connection.hsm();
        self.change_table(|table| table.with_learnt(address, hsm));
        self.table().find(hsm).cloned().ok_or(Lost::Peer(PeerFault::NotAMember))
    }

    /// Keeps what the HSM said of the cluster, if it is the one that is known. An incarnation other than the known one is
    /// believed when nobody is left of that: the cluster was restored. It counts its log anew.
    fn check_cluster(&self, connection: &Connection) -> Result<(), PeerFault> {
        let hello = connection.hello();
        let before = self.known().hello.clone();
        let mut anew = false;
        if let Some(before) = before.filter(|before| !before.cluster.is_empty()) {
            if before.cluster != hello.cluster {
                return Err(PeerFault::OtherCluster);
            }
            anew = before.incarnation != hello.incarnation;
            if anew && self.serves_besides(connection.hsm()) {
                return Err(PeerFault::OtherIncarnation);
            }
        }
        let mut known = self.known();
        if anew {
            known.mechanisms = None;
        }
        known.hello = Some(Arc::clone(hello));
        drop(known);
        if anew {
            tracing::warn!(hsm = %crate::connection::Short(&connection.hsm()), "the cluster was restored: log in again");
            self.forget_incarnation();
        }
        Ok(())
    }

    /// Whether another HSM has an open connection.
    fn serves_besides(&self, hsm: HsmId) -> bool {
        let table = self.table();
        let mut others = table.everybody().filter(|member| member.identity().is_some_and(|other| other != hsm));
        others.any(|member| member.any_open().is_some_and(|connection| !connection.is_hung_up()))
    }

    /// Asks who the members are, once for each version that is told of. Best effort: the next answer tells of it again.
    pub(crate) fn ask_for_roster(&self, connection: &Connection, deadline: Instant) {
        if !self.roster.take() {
            return;
        }
        let now = Instant::now();
        {
            let mut next = self.roster.next.lock().unwrap_or_else(PoisonError::into_inner);
            if next.is_some_and(|next| now < next) {
                return;
            }
            *next = Some(now + ROSTER_PAUSE);
        }
        let body = request::Body::ClusterInfo(wire::ClusterInfo {});
        let request = wire::Request { min_index: self.index(), body: Some(body), ..Default::default() };
        let patience = Patience { deadline: deadline.min(now + PROBE), watch: None };
        match connection.exchange(request, patience, &|_| {}) {
            Ok(reply::Body::ClusterInfo(reply)) => {
                let told = roster::Told::read(&reply);
                tracing::info!(members = reply.members.len(), version = told.version, "the roster of the cluster");
                self.change_table(|table| table.with_roster(told));
            }
            Ok(_) | Err(_) => tracing::info!(address = connection.address(), "the roster was not told; asked again"),
        }
    }

    /// Whether there is somewhere else to make a call at: a member that is not lost, or one that can be reached now.
    fn has_elsewhere(&self, member: &Arc<Member>, deadline: Instant) -> bool {
        if self.has_other(std::slice::from_ref(member)) {
            return true;
        }
        let now = Instant::now();
        let other = {
            let table = self.table();
            let mut others = table.everybody().filter(|other| !Arc::ptr_eq(other, member));
            others.find(|other| !other.is_lost() || other.retry_at() <= now).cloned()
        };
        let Some(other) = other else { return false };
        let Some(claim) = other.claim_any() else { return false };
        self.open(&other, claim, deadline, true).is_some_and(|route| !Arc::ptr_eq(&route.member, member))
    }

    /// Asks an HSM for a sign of life, on a connection of its own.
    fn ask_for_sign(&self, member: &Member, deadline: Instant) -> Sign {
        let limit = deadline.min(Instant::now() + PROBE);
        let mut reason = String::new();
        for address in member.addresses() {
            if Instant::now() >= limit {
                break;
            }
            match self.connect(&address, limit) {
                Ok(connection) if Some(connection.hsm()) == member.identity() => return Sign::Alive,
                Ok(_) => reason = "its address leads to another HSM".to_owned(),
                // It spoke.
                Err(Unopened { lasting: Some(_), .. }) => return Sign::Alive,
                Err(unopened) => reason = unopened.reason,
            }
        }
        if limit == deadline { Sign::Unknown } else { Sign::Dead(reason) }
    }
}

fn unopened(address: &Address, lost: Lost) -> Unopened {
    let reason = lost.to_string();
    let address = address.to_string();
    let lasting = match lost {
        Lost::Certificate(fault) => Some(CallError::Certificate { address, fault }),
        Lost::Peer(fault) => Some(CallError::Peer { address, fault }),
        _ => None,
    };
    Unopened { reason, lasting: lasting.map(Box::new) }
}

/// Judges the silence of the HSM that a call was sent to.
pub(crate) struct Watcher<'a> {
    pool: &'a Pool,
    route: &'a Route,
    /// Signs of life so far: while it works on something long, it is asked less and less often.
    signs: Cell<u32>,
}

impl<'a> Watcher<'a> {
    pub(crate) fn new(pool: &'a Pool, route: &'a Route) -> Self {
        Self { pool, route, signs: Cell::new(0) }
    }
}

impl Watch for Watcher<'_> {
    fn judge(&self, silent_since: Instant, deadline: Instant) -> Verdict {
        let member = &self.route.member;
        let pause = HEDGE.saturating_mul(1 << self.signs.get().min(8)).min(LONG_WORK);
        let due = silent_since.max(member.last_sign()) + pause;
        let now = Instant::now();
        if now < due {
            return Verdict::WaitUntil(due);
        }
        let Some(_asking) = member.ask() else {
            return Verdict::WaitUntil(now + RECHECK);
        };
        if !self.pool.has_elsewhere(member, deadline) {
            return Verdict::WaitUntil(Instant::now() + HEDGE);
        }
        match self.pool.ask_for_sign(member, deadline) {
            Sign::Alive => {
                member.note_life(false);
                self.signs.set(self.signs.get() + 1);
                Verdict::WaitUntil(Instant::now() + pause)
            }
            Sign::Unknown => Verdict::WaitUntil(deadline),
            Sign::Dead(reason) => {
                let attempts = vec![Attempt { address: self.route.connection.address().to_owned(), reason }];
                member.condemn(Failure { when: Instant::now(), attempts, lasting: None });
                self.pool.recount();
                Verdict::Leave
            }
        }
    }
}
