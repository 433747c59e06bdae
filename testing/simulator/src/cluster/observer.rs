//! Looks at every node many times a second, from outside, and writes down what the invariants judge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hsm_core::{Actor, Index, ObjectHandle};
use hsm_protocol::{Role, UserName};
use hsm_replication::{Node, Standing as NodeStanding, Status};
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

/// What must not be on any HSM any more.
#[derive(Clone, PartialEq, Eq)]
pub enum Promise {
    /// This key.
    Deleted(ObjectHandle),
    /// A session of this user.
    Disabled(UserName),
}

/// A promise that was made when a call was acknowledged.
#[derive(Clone)]
pub struct Standing {
    promise: Promise,
    index: Index,
}

/// All promises that stand.
pub type Promises = Mutex<Vec<Standing>>;

impl Cluster {
    /// A removal was acknowledged at this index: from now on it is a promise.
    pub async fn settle(self: Arc<Self>, index: Index, promise: Promise) {
        self.promises.lock().push(Standing { promise, index });
    }

    /// A promise is about to be taken back.
    pub fn release(&self, promise: &Promise) {
        self.promises.lock().retain(|standing| standing.promise != *promise);
    }

    /// The version of a key by a linearizable read; `None` when there was no answer.
    pub async fn read_newest(&self, _server: &Server, _actor: &Actor, _handle: ObjectHandle) -> Option<u32> {
        None
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
        let mut known = self.known_voters.lock();
        for (_, node) in self.nodes() {
            let status = node.status();
            if status.applied >= known.0 && !status.voters.is_empty() {
                *known = (status.applied, status.voters);
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

    /// One look at everything.
    pub fn look(&self) {
        let nodes = self.nodes();
        let statuses: Vec<_> = nodes.iter().map(|(place, node)| (*place, node.status())).collect();
        let steps = self.ledger.with(|seen| {
            seen.steps += 1;
            for (_, status) in statuses.iter().filter(|(_, status)| status.leader == Some(status.node)) {
                seen.leaders.entry(status.term).or_default().insert(status.node);
            }
            seen.steps
        });
        self.compare_chains(&statuses);
        self.look_for_forgetful(&statuses);
        if steps % COMPARE_EVERY == 0 {
            self.compare_states(&nodes);
        }
        if steps % PROMISES_EVERY == 0 {
            nodes.iter().for_each(|(place, node)| self.look_for_broken_promises(*place, node));
        }
        self.note_who_is_alone();
    }

    fn compare_chains(&self, statuses: &[(usize, Status)]) {
        self.ledger.with(|seen| {
            for (place, status) in statuses {
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
        let applied = node.applied();
        for Standing { promise, index } in self.promises.lock().iter().filter(|standing| standing.index <= applied) {
            let broken = match promise {
                // An appliance user sees nothing, so the object is looked for by its payload.
                Promise::Deleted(handle) => node.payload(*handle).is_ok_and(|payload| payload.is_some()).then(|| {
                    let line = format!("machine {place} still has key {}, deleted at {}", handle.0, index.0);
                    (invariants::deletes::NAME, line)
                }),
                Promise::Disabled(name) => {
                    let user = node.read().user(name, Role::CryptoUser);
                    user.is_some_and(|user| user.sessions > 0).then(|| {
                        let line = format!("machine {place} has a session of {name}, disabled at {}", index.0);
                        (invariants::disabled_users::NAME, line)
                    })
                }
            };
            if let Some(broken) = broken {
                self.ledger.with(|seen| seen.stale.push(broken));
            }
        }
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
