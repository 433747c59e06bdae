//! The lease of this HSM: until when it may act on its state as the newest there is.
//!
//! An HSM asks whoever leads; the leader grants after a round with a majority that began after it received the ask, unless
//! the HSM has not applied what a barrier waits for. The lease counts from the asker's moment of sending, by its steady
//! clock. So whoever leads knows that an HSM whose ask it last received at a moment has no lease [`limits::LEASE_PASSED`]
//! after that, and a new leader knows it of every HSM that long after it began. A voter that votes alone is always leased:
//! nobody else can decide anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hsm_core::Index;
use openraft::AsyncRuntime;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::engine::Shared;
use crate::leadership::Leading;
use crate::limits;
use crate::network::{Ask, Told};
use crate::runtime::Rt;
use crate::types::NodeId;

/// Whether an HSM may act on what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// It holds a lease: no change that was acknowledged is unknown to it, or the answer to that change names this HSM.
    Leased,
    /// Its lease ran out, and the cluster's isolation window has not: it may use the keys and sessions that it has.
    Isolated {
        /// For how long it is isolated, in milliseconds.
        for_milliseconds: u64,
        /// What is left of the window, in milliseconds.
        left_milliseconds: u64,
    },
    /// It must not use its keys: the window is over, or it was started and has had no lease since.
    Expired,
}

const ALWAYS: u64 = u64::MAX;
const NEVER: u64 = 0;

/// This HSM's own lease.
pub(crate) struct Lease {
    /// By the steady clock, in milliseconds.
    until: AtomicU64,
    /// Whether the applied roster has this node.
    listed: AtomicBool,
}

impl Lease {
    pub(crate) fn new(listed: bool) -> Self {
        Self { until: AtomicU64::new(NEVER), listed: AtomicBool::new(listed) }
    }

    /// The roster was changed. To be called before the change counts as applied: who has acknowledged its removal serves
    /// nobody.
    pub(crate) fn set_listed(&self, listed: bool) {
        self.listed.store(listed, Ordering::SeqCst);
    }

    /// Whether it has.
    pub(crate) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::SeqCst)
    }

    /// The node votes alone.
    pub(crate) fn hold_always(&self) {
        self.until.store(ALWAYS, Ordering::SeqCst);
    }

    /// A lease that was asked for at `sent` was granted.
    fn granted(&self, sent: u64) {
        self.until.fetch_max(sent.saturating_add(milliseconds(limits::LEASE)), Ordering::SeqCst);
    }

    /// The node votes alone no more: what it decided until now it decided alone.
    fn hold_no_longer_always(&self, now: u64) {
        let until = now.saturating_add(milliseconds(limits::LEASE));
        // Any other value is a lease that was granted.
        self.until.compare_exchange(ALWAYS, until, Ordering::SeqCst, Ordering::SeqCst).ok();
    }

    /// The node takes no part any more.
    pub(crate) fn end(&self) {
        self.until.store(NEVER, Ordering::SeqCst);
    }

    /// There was none since the start, or it was ended.
    pub(crate) fn is_over_for_good(&self) -> bool {
        self.until() == NEVER
    }

    pub(crate) fn until(&self) -> u64 {
        self.until.load(Ordering::SeqCst)
    }

    /// What is left of it, in milliseconds; `None` when it never ends.
    pub(crate) fn left(&self, now: u64) -> Option<u64> {
        Some(self.until()).filter(|&until| until != ALWAYS).map(|until| until.saturating_sub(now))
    }
}

/// What the leader knows of the others' leases.
#[derive(Default)]
pub(crate) struct Grants {
    granting: Mutex<Granting>,
    /// What each is known to have applied. One that was started again has maybe less, and no lease until it has as much.
    applied: Mutex<BTreeMap<NodeId, Index>>,
}

#[derive(Default)]
pub(crate) struct Granting {
    /// The time of leading for which this holds.
    term: u64,
    /// What an HSM must have applied to get a lease.
    fence: Index,
    /// When the last ask that was, or may be, granted was received, by the steady clock.
    asked: BTreeMap<NodeId, u64>,
}

impl Grants {
    /// What this HSM is known to have applied, 0 if it never said.
    pub(crate) fn applied(&self, node: NodeId) -> Index {
        self.applied.lock().get(&node).copied().unwrap_or_default()
    }

    /// It says that it has applied this.
    pub(crate) fn note_applied(&self, node: NodeId, index: Index) {
        let mut applied = self.applied.lock();
        if applied.len() >= limits::MEMORIES && !applied.contains_key(&node) {
            // Whoever is still there says it again.
            applied.clear();
        }
        let known = applied.entry(node).or_default();
        *known = index.max(*known);
    }

    /// Begins anew with another time of leading: an HSM must then have all that was applied when it began, which is all
    /// that any barrier before waited for; and whoever was a member then may hold a lease of the leader before, also when
    /// it is removed a moment later.
    ///
    /// `look` tells what is applied and who is a member, and runs while nothing is locked: whoever reads the state asks
    /// for leases too.
    fn in_term(
        &self,
        leading: Leading,
        look: impl FnOnce() -> (Index, BTreeSet<NodeId>),
    ) -> parking_lot::MutexGuard<'_, Granting> {
        let granting = self.granting.lock();
        if granting.term == leading.term {
            return granting;
        }
        drop(granting);
        let (applied, members) = look();
        let mut granting = self.granting.lock();
        if granting.term != leading.term {
            let asked = members.into_iter().map(|node| (node, leading.since)).collect();
            *granting = Granting { term: leading.term, fence: applied, asked };
        }
        granting
    }
}

/// Rounds with a majority, one after another, for all who wait.
pub(crate) struct Rounds {
    wanted: Notify,
    begun: AtomicU64,
    /// Number of the last round that ended, and whether a majority answered.
    ended: watch::Sender<(u64, bool)>,
}

impl Rounds {
    pub(crate) fn new() -> Self {
        Self { wanted: Notify::new(), begun: AtomicU64::new(0), ended: watch::Sender::new((0, false)) }
    }

    /// Whether a majority confirmed that this node leads in a round that began after this call.
    async fn confirmed(&self) -> bool {
        let mut ended = self.ended.subscribe();
        let before = self.begun.load(Ordering::SeqCst);
        self.wanted.notify_one();
        ended.wait_for(|&(number, _)| number > before).await.is_ok_and(|round| round.1)
    }
}

/// The task of rounds: runs until the node stops.
pub(crate) async fn run_rounds(shared: Arc<Shared>) {
    let rounds = &shared.rounds;
    loop {
        rounds.wanted.notified().await;
        let number = rounds.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let round = <Rt as AsyncRuntime>::timeout(limits::HEARTBEAT * 2, shared.raft.get_read_log_id()).await;
        rounds.ended.send_replace((number, matches!(round, Ok(Ok(_)))));
    }
}

/// The asking task: runs until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        if shared.votes_alone() {
            shared.lease.hold_always();
            <Rt as AsyncRuntime>::sleep(limits::LEASE_RETRY).await;
            continue;
        }
        let now = shared.clock.read().steady;
        shared.lease.hold_no_longer_always(now);
        drop(<Rt as AsyncRuntime>::spawn(shared.clone().ask_lease()));
        let leased = shared.lease.until() > now;
        <Rt as AsyncRuntime>::sleep(if leased { limits::LEASE_ASK } else { limits::LEASE_RETRY }).await;
    }
}

impl Shared {
    /// Whether this HSM may act on what it knows. Cheap while it holds a lease.
    pub(crate) fn serving(&self) -> Serving {
        if !self.lease.is_listed() {
            // It was removed, whatever it was granted before.
            return Serving::Expired;
        }
        let until = self.lease.until();
        if until == ALWAYS {
            return Serving::Leased;
        }
        let now = self.clock.read().steady;
        if now < until {
            return Serving::Leased;
        }
        let end = until.saturating_add(self.isolation_window());
        if until == NEVER || now >= end {
            return Serving::Expired;
        }
        Serving::Isolated { for_milliseconds: now - until, left_milliseconds: end - now }
    }

    /// The policy's window, in milliseconds.
    pub(crate) fn isolation_window(&self) -> u64 {
        let state = self.state.read();
        state.cluster().map_or(0, |cluster| u64::from(cluster.policy.isolation_window_seconds) * 1000)
    }

    fn votes_alone(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let configs = metrics.membership_config.membership().get_joint_config();
        let alone = matches!(configs.as_slice(), [one] if one.len() == 1 && one.contains(&self.node));
        alone && self.standing.takes_part() && metrics.current_leader == Some(self.node)
    }

    async fn ask_lease(self: Arc<Self>) {
        if !self.standing.takes_part() {
            // Nothing may be on its way to one that says that it serves nobody.
            return;
        }
        let sent = self.clock.read().steady;
        let leader = self.raft.metrics().borrow().current_leader;
        let granted = match leader {
            Some(leader) if leader == self.node => self.leading().is_some() && self.rounds.confirmed().await,
            Some(leader) => {
                let ask = Ask::Lease { applied: self.applied.now() };
                let told = self.link.ask(leader, &self.addresses.of(leader), &ask, limits::LEASE_ASK).await;
                matches!(told, Ok(Told::Lease(true)))
            }
            None => false,
        };
        if granted && self.standing.takes_part() {
            self.lease.granted(sent);
            if !self.standing.takes_part() {
                // It was put aside meanwhile.
                self.lease.end();
            }
        }
    }

    /// Another member asks for a lease, with this much applied.
    pub(crate) async fn grant_lease(self: Arc<Self>, from: NodeId, applied: Index) -> bool {
        let received = self.clock.read().steady;
        let Some(leading) = self.leading() else {
            return false;
        };
        {
            let lowering = self.state.read().lingering().last_lowering();
            let mut granting = self.granting(leading);
            if applied < granting.fence.max(lowering) {
                return false;
            }
            // From here on a barrier must count on it.
            granting.asked.insert(from, received);
        }
        self.grants.note_applied(from, applied);
        self.rounds.confirmed().await && self.leading().is_some_and(|now| now.term == leading.term)
    }

    /// From now on no HSM gets a lease that has not applied `index`; says when each one's last ask was received, in this
    /// term.
    pub(crate) fn raise_fence(&self, leading: Leading, index: Index) -> BTreeMap<NodeId, u64> {
        let mut granting = self.granting(leading);
        granting.fence = granting.fence.max(index);
        granting.asked.clone()
    }

    /// What this node grants while it leads. To be asked for as soon as it does: see [`Grants::in_term`].
    pub(crate) fn granting(&self, leading: Leading) -> parking_lot::MutexGuard<'_, Granting> {
        self.grants.in_term(leading, || (self.applied.now(), self.addresses.nodes(&self.state.read())))
    }

    /// What is left of a member's lease at most, as the leader of `term` knows, in milliseconds.
    pub(crate) fn lease_left(&self, node: NodeId, now: u64) -> Option<u64> {
        let leading = self.leading()?;
        let asked = self.granting(leading).asked.get(&node).copied()?;
        Some(asked.saturating_add(milliseconds(limits::LEASE)).saturating_sub(now))
    }
}

pub(crate) fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
