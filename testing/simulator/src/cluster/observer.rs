//! Looks at every node many times a second, from outside, and writes down what the invariants judge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hsm_core::{Actor, Index, ObjectHandle, Stamp};
use hsm_protocol::{Role, UserName};
use hsm_replication::runtime::Rt;
use hsm_replication::{Node, Serving, Standing as NodeStanding, Status};
use openraft::AsyncRuntime;
use parking_lot::Mutex;

use crate::cluster::Cluster;
use crate::cluster::clients::Server;
use crate::invariants;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(25);

/// Every so many looks the states of nodes at one index are compared: it costs a hash over the state.
const COMPARE_EVERY: u64 = 16;

/// Every so many looks it is looked for what must be gone: it costs a read of the store for each key.
const PROMISES_EVERY: u64 = 4;

/// How long a member waits for a barrier: a lease and a fail-over, with room.
const BARRIER: Duration = Duration::from_secs(15);

/// How often a barrier is tried before nothing is promised.
const BARRIER_TRIES: usize = 5;

/// How long a member looks for the index of a linearizable read.
const READ: Duration = Duration::from_secs(3);

/// What must not be on any HSM any more.
#[derive(Clone, PartialEq, Eq)]
pub enum Promise {
    /// This key.
    Deleted(ObjectHandle),
    /// A session of this user.
    Disabled(UserName),
    /// A member that serves as this node.
    Removed(u64),
}

/// A promise that was made when a call was acknowledged.
#[derive(Clone)]
pub struct Standing {
    promise: Promise,
    index: Index,
    /// After the barrier: the nodes that it named, each with the cluster's time until which it may not know.
    named: Option<BTreeMap<u64, Stamp>>,
}

/// All promises that stand.
pub type Promises = Mutex<Vec<Standing>>;

impl Cluster {
    /// A removal was acknowledged at this index: members that have come as far must keep to it from now on, and after the
    /// barrier, for which this waits as an HSM does before it answers, everybody who serves.
    pub async fn settle(self: Arc<Self>, index: Index, promise: Promise) {
        self.promises.lock().push(Standing { promise: promise.clone(), index, named: None });
        for _ in 0..BARRIER_TRIES {
            let machine = self.any_member();
            let Some((node, boot)) = machine.reach() else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let waiting = async move { node.barrier(index, BARRIER).await };
            #[expect(clippy::async_yields_async, reason = "the task is started as this node and waited for as nobody")]
            let waiting = boot.run(async { Rt::spawn(waiting) }).await;
            drop((machine, boot));
            let Ok(Ok(unreached)) = waiting.await else { continue };
            self.trace.tell(|| format!("the barrier of {} passed, but for {unreached:?}", index.0));
            let named = unreached.into_iter().map(|one| (one.node, one.until)).collect();
            let mut promises = self.promises.lock();
            if let Some(standing) = promises.iter_mut().find(|one| one.promise == promise && one.index == index) {
                standing.named = Some(named);
            }
            return;
        }
    }

    /// A promise is about to be taken back.
    pub fn release(&self, promise: &Promise) {
        self.promises.lock().retain(|standing| standing.promise != *promise);
    }

    /// The version of a key by a linearizable read; `None` when there was no answer.
    pub async fn read_newest(&self, server: Server, actor: &Actor, handle: ObjectHandle) -> Option<u32> {
        let Server { node, boot, .. } = server;
        let actor = *actor;
        let reading = async move {
            node.read_index(READ).await?;
            let object = node.read().object(&actor, handle).ok()?;
            Some(object.version())
        };
        #[expect(clippy::async_yields_async, reason = "the task is started as this node and waited for as nobody")]
        let reading = boot.run(async { Rt::spawn(reading) }).await;
        drop(boot);
        reading.await.ok()?
    }

    /// Nodes that run, with the places of their machines.
    pub fn nodes(&self) -> Vec<(usize, Arc<Node>)> {
        self.machines.iter().filter_map(|machine| Some((machine.place, machine.look()?))).collect()
    }

    /// Nodes of machines that belong to the cluster, with their places.
    pub fn member_nodes(&self) -> Vec<(usize, Arc<Node>)> {
        self.members().iter().filter_map(|machine| Some((machine.place, machine.look()?))).collect()
    }

    /// The place of the machine that holds this node id.
    pub fn place_of(&self, node: u64) -> Option<usize> {
        let holds = |machine: &&Arc<crate::cluster::machine::Machine>| {
            let now = machine.look().map(|running| running.status().node);
            now.or(machine.identity()) == Some(node)
        };
        self.machines.iter().find(holds).map(|machine| machine.place)
    }

    /// The voters as the node knows them, or knew them, that has applied most.
    pub fn voters(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.deciding().into_iter().flatten().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The sets of voters of which a majority of each decides, in the same way.
    pub fn deciding(&self) -> Vec<Vec<u64>> {
        let mut known = self.known_voters.lock();
        for (_, node) in self.nodes() {
            let status = node.status();
            if status.applied >= known.0 && !status.deciding.is_empty() {
                *known = (status.applied, status.deciding);
            }
        }
        known.1.clone()
    }

    /// Looks for ever.
    pub async fn observe(self: Arc<Self>) {
        loop {
            self.look();
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Writes into the log what every node says of itself.
    pub fn tell_how_they_do(&self) {
        for (place, node) in self.nodes() {
            let Status { node, standing, leader, term, applied, last_entry, voters, .. } = node.status();
            self.trace.tell(|| {
                let leader = leader.unwrap_or_default();
                let (applied, voters) = (applied.0, voters.iter().map(|voter| format!("{voter:x}")).collect::<Vec<_>>());
                format!(
                    "machine {place} is node {node:x}, {standing:?} in term {term} under {leader:x}, at command {applied} and \
                     entry {last_entry}, voters {voters:?}"
                )
            });
        }
    }

    /// One look at everything.
    pub fn look(&self) {
        let nodes = self.nodes();
        let statuses: Vec<_> = nodes.iter().map(|(place, node)| (*place, node.status())).collect();
        let mut lead = Vec::new();
        let steps = self.ledger.with(|seen| {
            seen.steps += 1;
            for (place, status) in statuses.iter().filter(|(_, status)| status.leader == Some(status.node)) {
                if seen.leaders.entry(status.term).or_default().insert(status.node) {
                    lead.push((*place, status.term));
                }
            }
            seen.steps
        });
        lead.into_iter().for_each(|(place, term)| self.trace.tell(|| format!("machine {place} leads in term {term}")));
        self.compare_chains(&statuses);
        self.look_for_forgetful(&statuses);
        self.look_for_forgotten_votes(&statuses);
        self.look_for_strangers(&statuses);
        self.look_for_empty_voters(&statuses);
        if steps.is_multiple_of(COMPARE_EVERY) {
            self.compare_states(&nodes);
        }
        if steps.is_multiple_of(PROMISES_EVERY) {
            nodes.iter().for_each(|(place, node)| self.look_for_broken_promises(*place, node));
        }
        self.note_who_is_alone();
    }

    fn compare_chains(&self, statuses: &[(usize, Status)]) {
        self.ledger.with(|seen| {
            for (place, status) in statuses.iter().filter(|(place, _)| !self.machines[*place].has_faltered()) {
                let decided = seen.decided.get(&status.applied.0).map(|decided| decided.hash);
                if decided.is_some_and(|hash| hash != status.hash) {
                    let line = format!("machine {place} has another chain of hashes at {}", status.applied.0);
                    seen.different.push(line);
                }
            }
        });
    }

    fn look_for_forgetful(&self, statuses: &[(usize, Status)]) {
        for (place, status) in statuses {
            let forgets = self.machines[*place].forgets() == Some(status.node);
            if forgets && status.standing == NodeStanding::Member {
                let line = format!("machine {place} takes part as node {:x}, whose disk was rolled back", status.node);
                self.ledger.with(|seen| seen.forgetful.push(line));
            }
        }
    }

    fn look_for_forgotten_votes(&self, statuses: &[(usize, Status)]) {
        for (place, status) in statuses.iter().filter(|(place, _)| !self.machines[*place].is_damaged()) {
            self.ledger.with(|seen| {
                let highest = seen.terms.entry(status.node).or_insert(status.term);
                let (before, now) = (*highest, status.term);
                *highest = before.max(now);
                if now < before {
                    seen.forgotten_votes.push(format!("machine {place} was in term {before} and is in {now} again"));
                }
            });
        }
    }

    fn look_for_empty_voters(&self, statuses: &[(usize, Status)]) {
        let voters = self.voters();
        let many = voters.len() > 1;
        let empty = |(place, status): &&(usize, Status)| {
            many && status.applied.0 == 0 && voters.contains(&status.node) && !self.machines[*place].is_damaged()
        };
        for (place, status) in statuses.iter().filter(empty) {
            let line = format!("machine {place} votes as node {:x} and has no state", status.node);
            self.ledger.with(|seen| seen.empty_voters.push(line));
        }
    }

    fn look_for_strangers(&self, statuses: &[(usize, Status)]) {
        let Some(stranger) = self.stranger_node() else { return };
        if self.fabric.strangers_heard() > 0 {
            let line = "a member answers a node of another history with more than a refusal".to_owned();
            self.ledger.with(|seen| seen.strangers.push(line));
        }
        for (place, status) in statuses {
            if status.leader == Some(stranger) || status.voters.contains(&stranger) {
                let line = format!("machine {place} follows a node of another history, or counts its vote");
                self.ledger.with(|seen| seen.strangers.push(line));
            }
        }
    }

    fn compare_states(&self, nodes: &[(usize, Arc<Node>)]) {
        let mut states = BTreeMap::new();
        for (place, node) in nodes {
            let applied = node.applied();
            let many = nodes.iter().filter(|(_, other)| other.applied() == applied).count() > 1;
            if applied.0 == 0 || !many {
                continue;
            }
            let hash = node.read().state_hash();
            let (first, before) = *states.entry(applied).or_insert((*place, hash));
            if before != hash {
                let line = format!("machines {first} and {place} have different states at {}", applied.0);
                self.ledger.with(|seen| seen.different.push(line));
            }
        }
    }

    fn look_for_broken_promises(&self, place: usize, node: &Arc<Node>) {
        let (applied, serving, number) = (node.applied(), node.serving(), node.status().node);
        for Standing { promise, index, named } in self.promises.lock().iter() {
            let knows = *index <= applied;
            let named = named.as_ref().map(|named| named.get(&number).copied());
            let bound = match named {
                _ if knows => true,
                // It does not know yet, and nobody was promised that it does.
                None => false,
                Some(until) => serving != Serving::Expired && until.is_none_or(|until| self.cluster_time() > until),
            };
            if bound && let Some((invariant, text)) = broken(promise, node, serving) {
                let line = format!("machine {place} ({serving:?}, at {}) {text} at {}", applied.0, index.0);
                self.ledger.with(|seen| seen.stale.push((invariant, line)));
            }
        }
    }

    /// The cluster's time, by the member that is behind most.
    fn cluster_time(&self) -> Stamp {
        self.nodes().iter().map(|(_, node)| node.now()).min().unwrap_or_default()
    }

    /// Writes down since when each place can reach no majority of the voters.
    pub fn note_who_is_alone(&self) {
        let voters = self.voters();
        let places: Vec<_> = voters.iter().map(|&voter| self.place_of(voter)).collect();
        let now = self.trace.now();
        let mut alone_since = self.alone_since.lock();
        for (place, since) in alone_since.iter_mut().enumerate() {
            let near = self.fabric.component(place);
            let reached = places.iter().flatten().filter(|place| near.contains(place)).count();
            let alone = !voters.is_empty() && reached * 2 <= voters.len();
            *since = if alone { since.or(Some(now)) } else { None };
        }
    }
}

/// What this node still has, or does, of what is promised to be over.
fn broken(promise: &Promise, node: &Node, serving: Serving) -> Option<(&'static str, String)> {
    match promise {
        // Nobody who may see the object is at hand, so it is looked for by its payload.
        Promise::Deleted(handle) => {
            let there = node.payload(*handle).is_ok_and(|payload| payload.is_some());
            there.then(|| (invariants::deletes::NAME, format!("still has key {}, deleted", handle.0)))
        }
        Promise::Disabled(name) => {
            let user = node.read().user(name, Role::CryptoUser);
            let there = user.is_some_and(|user| user.sessions > 0);
            there.then(|| (invariants::disabled_users::NAME, format!("has a session of {name}, disabled")))
        }
        Promise::Removed(removed) => {
            let serves = node.status().node == *removed && serving != Serving::Expired;
            serves.then(|| (invariants::removed_members::NAME, format!("serves as node {removed:x}, removed")))
        }
    }
}
