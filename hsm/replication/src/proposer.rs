//! The proposing task: gives what waits to openraft while this node leads, and sends it to the leader otherwise.

use std::sync::Arc;

use hsm_protocol::ErrorCode;
use hsm_protocol::trace::Trace;
use openraft::error::ClientWriteError;
use openraft::{AsyncRuntime, ServerState};

use crate::clock::Clock;
use crate::fullness::Fullness;
use crate::limits;
use crate::network::{Link, PeerFault, Told};
use crate::proposals::Proposals;
use crate::pulse::Vitals;
use crate::roster::Addresses;
use crate::runtime::Rt;
use crate::stamp::Stamper;
use crate::store::Store;
use crate::types::{Lead, NodeId, Part, Raft};

/// What the task needs.
pub(crate) struct Proposer {
    pub(crate) proposals: Arc<Proposals>,
    pub(crate) compass: Compass,
    pub(crate) store: Arc<Store>,
    pub(crate) stamper: Arc<Stamper>,
    pub(crate) link: Link,
    pub(crate) addresses: Addresses,
    pub(crate) fullness: Arc<Fullness>,
}

/// Who orders commands now, and in which term.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Here(u64),
    There(NodeId, u64),
    Nobody,
}

/// Finds whoever orders commands.
#[derive(Clone)]
pub(crate) struct Compass {
    pub(crate) raft: Raft,
    pub(crate) vitals: Arc<Vitals>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Compass {
    /// As Raft knows it. A member that moved hears nothing of Raft before the others know its new address, and can tell
    /// them only if it asks who leads; meanwhile it may have voted for itself in later terms, which nobody heeds.
    fn order(&self) -> Order {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        match metrics.current_leader {
            Some(leader) if leader != metrics.id => Order::There(leader, metrics.current_term),
            Some(_) if metrics.state == ServerState::Leader => Order::Here(metrics.current_term),
            _ => match self.vitals.leader(self.clock.read().steady) {
                Some((leader, term)) => Order::There(leader, term),
                None => Order::Nobody,
            },
        }
    }
}

impl Proposer {
    /// Runs until the node stops.
    pub(crate) async fn run(self) {
        loop {
            let next = self.proposals.expire();
            if self.proposals.has_work() && self.proposals.may_fly() {
                match self.compass.order() {
                    Order::Here(_) | Order::There(..) => self.proposals.gather().await,
                    Order::Nobody => <Rt as AsyncRuntime>::sleep(limits::LEADER_POLL).await,
                }
                // It may have changed meanwhile.
                match self.compass.order() {
                    Order::Here(_) if !self.store.has_room() => self.without_room().await,
                    Order::Here(term) => self.fly(term).await,
                    Order::There(leader, term) => self.forward(leader, term),
                    Order::Nobody => self.proposals.inbox.lock().refuse_all(ErrorCode::NotReady),
                }
                continue;
            }
            let woken = self.proposals.wake.notified();
            match next {
                // Either way the loop looks again at everything.
                Some(at) => drop(<Rt as AsyncRuntime>::timeout_at(at, woken).await),
                None => woken.await,
            }
        }
    }

    /// What waits here waits for a leader with room, and what other members sent goes back to them, to be sent to that one.
    async fn without_room(&self) {
        if self.fullness.is_everywhere() {
            return self.proposals.refuse_waiting(ErrorCode::StorageFull);
        }
        self.proposals.inbox.lock().refuse_all(ErrorCode::NotReady);
        <Rt as AsyncRuntime>::sleep(limits::LEADER_POLL).await;
    }

    async fn fly(&self, term: u64) {
        let Some((number, batch)) = self.proposals.next_batch(self.stamper.now(), Lead::new(term, self.link.node))
        else {
            return;
        };
        // An error here is a stop, which answers everybody.
        if let Ok(answer) = self.compass.raft.client_write_ff(batch).await {
            let proposals = self.proposals.clone();
            drop(<Rt as AsyncRuntime>::spawn(async move {
                // Success was told by the state machine. Whether an entry that was begun stays in the log, the log will say.
                if let Ok(Err(ClientWriteError::ForwardToLeader(_))) = answer.await {
                    <Rt as AsyncRuntime>::sleep(limits::LEADER_POLL).await;
                    proposals.given_up(number);
                }
            }));
        }
    }

    /// Sends what waits to the leader.
    fn forward(&self, leader: NodeId, term: u64) {
        self.proposals.inbox.lock().refuse_all(ErrorCode::NotReady);
        let Some((part, traces)) = self.proposals.next_part(Lead::new(term, leader)) else {
            return;
        };
        let sending = Forward {
            proposals: self.proposals.clone(),
            compass: self.compass.clone(),
            link: self.link.clone(),
            address: self.addresses.of(leader),
            leader,
            term,
        };
        drop(<Rt as AsyncRuntime>::spawn(sending.run(part, traces)));
    }
}

/// One part on its way to the leader.
struct Forward {
    proposals: Arc<Proposals>,
    compass: Compass,
    link: Link,
    address: String,
    leader: NodeId,
    term: u64,
}

impl Forward {
    /// Sends it until there is an answer, as long as this leader leads: the leader takes it once, however often it comes.
    async fn run(self, part: Part, traces: Arc<[Trace]>) {
        let number = part.number;
        let ask = self.link.propose(self.leader, self.term, part, &traces);
        while self.proposals.is_flying(number) {
            match self.link.ask(self.leader, &self.address, &ask, limits::FORWARD_TIMEOUT).await {
                Ok(Told::Proposed) => return self.proposals.acknowledged(number),
                Ok(Told::NotProposed(ErrorCode::NotReady)) => {
                    <Rt as AsyncRuntime>::sleep(limits::LEADER_POLL).await;
                    return self.proposals.not_done(number);
                }
                Ok(Told::NotProposed(code)) => return self.proposals.refused(number, code),
                Err(PeerFault::Unreachable(_)) if self.still_leads() => {}
                // The log will say.
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn still_leads(&self) -> bool {
        self.compass.order() == Order::There(self.leader, self.term)
    }
}
