//! Answers other members: octets in, octets out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hsm_protocol::ErrorCode;
use hsm_protocol::trace::{TARGET, Trace};
use openraft::ServerState;

use crate::engine::Shared;
use crate::fault::StorageFault;
use crate::forwarding::Received as ReceivedPart;
use crate::limits;
use crate::network::{Ask, Message, Told};
use crate::types::{NodeId, Part, decode};

/// The leader's line of a call that another member serves.
fn log_forwarded(from: NodeId, term: u64, traces: &[u64], told: &Told) {
    let outcome = match told {
        Told::Proposed => "in the log",
        Told::NotProposed(_) => "not in the log",
        _ => "not known",
    };
    for &trace in traces.iter().filter(|&&trace| trace != 0).take(limits::ENTRY_COMMANDS) {
        let trace = Trace(trace);
        tracing::debug!(target: TARGET, %trace, from = format!("{from:x}"), term, outcome, "forwarded to this leader");
    }
}

impl Shared {
    /// Answers one message. May be called on any thread.
    pub(crate) async fn answer(self: &Arc<Self>, speaker: NodeId, message: &[u8]) -> Result<Vec<u8>, StorageFault> {
        let garbled = |error: postcard::Error| StorageFault::Damaged(format!("a member's message: {error}"));
        let Message { from, to, history, ask } = decode(message).map_err(garbled)?;
        let ours = *self.link.history.lock();
        let told = match () {
            () if to != self.node || from != speaker => Told::Apart,
            () if history.is_none() || history != ours => Told::Foreign,
            () => self.tell(from, ask).await?,
        };
        postcard::to_stdvec(&told).map_err(garbled)
    }

    async fn tell(self: &Arc<Self>, from: NodeId, ask: Ask) -> Result<Told, StorageFault> {
        Ok(match ask {
            _ if self.faults.is_raised() => Told::Apart,
            Ask::Pulse(pulse) => match self.errands.run(self.clone().answer_pulse(from, pulse)).await {
                Some(told) => Told::Pulse(Box::new(told)),
                None => Told::Apart,
            },
            // It has no lease and asks for none, and will get none without that command: it serves nobody on an older state.
            Ask::Acknowledge { index } if self.rests() => Told::Acknowledged(index),
            _ if !self.standing.takes_part() => Told::Apart,
            // A node that was removed, or a stranger, decides nothing here. A newcomer knows nobody yet.
            _ if !self.may_order(from) => Told::Apart,
            Ask::Append(request) => Told::Append(self.raft.append_entries(request).await),
            Ask::Vote(request) => Told::Vote(self.vote(request).await),
            Ask::Chunk { vote, meta, chunk } => {
                // It ends with the node, and not with whoever carried the message.
                match self.errands.run(self.clone().take_chunk(vote, meta, chunk)).await {
                    Some(told) => told?,
                    None => Told::Apart,
                }
            }
            Ask::Range { vote, meta, offer } => {
                match self.errands.run(self.clone().take_offer(from, vote, meta, offer)).await {
                    Some(told) => told?,
                    None => Told::Apart,
                }
            }
            Ask::RangeRows { vote, meta, transfer, number, rows } => {
                match self.errands.run(self.clone().take_rows(from, vote, meta, (transfer, number), rows)).await {
                    Some(told) => told?,
                    None => Told::Apart,
                }
            }
            // What follows is for members alone.
            _ if !self.is_member(from) => Told::Apart,
            Ask::Propose { term, part } => self.take_part(term, part).await,
            Ask::ProposeTraced { term, part, traces } => {
                let told = self.take_part(term, part).await;
                log_forwarded(from, term, &traces, &told);
                told
            }
            Ask::Lease { applied } => {
                Told::Lease(self.errands.run(self.clone().grant_lease(from, applied)).await.unwrap_or(false))
            }
            Ask::Barrier { index, at_most } => {
                let outcome = self.errands.run(self.clone().lead_barrier(index, at_most)).await;
                Told::Barrier(outcome.unwrap_or(Err(ErrorCode::NotReady)))
            }
            Ask::Acknowledge { index } => match self.errands.run(self.clone().acknowledge(index)).await {
                Some(applied) => Told::Acknowledged(applied),
                None => Told::Apart,
            },
            Ask::ReadIndex => {
                let shared = self.clone();
                let index = self.errands.run(async move { shared.lead_read_index().await }).await;
                Told::ReadIndex(index.flatten())
            }
            Ask::Elect => self.take_lead(),
        })
    }

    /// Whether this node has had no lease since it started, and neither asks for one nor takes one.
    fn rests(&self) -> bool {
        !self.standing.takes_part() && self.lease.is_over_for_good()
    }

    /// Whether entries, votes and state of this node count. A newcomer that has not come as far as its own admission knows
    /// an old roster or none: it takes them from everybody of its history.
    pub(crate) fn may_order(&self, from: NodeId) -> bool {
        !self.lease.is_listed() || self.is_member(from) || self.acquaintances.know(from)
    }

    /// Whether a node is in the roster, or still in Raft's membership.
    pub(crate) fn is_member(&self, node: NodeId) -> bool {
        let listed = self.state.read().members().contains_key(&hsm_core::NodeId(node));
        listed || self.raft.metrics().borrow().membership_config.membership().get_node(&node).is_some()
    }

    /// A part that another member forwards to the leader of `term`.
    async fn take_part(&self, term: u64, part: Part) -> Told {
        let too_large = part.bytes() > limits::ENTRY_BYTES || part.commands.len() > limits::ENTRY_COMMANDS;
        let leads = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let hands_over = self.hands_over.load(Ordering::SeqCst);
            metrics.state == ServerState::Leader && metrics.current_term == term && !hands_over
        };
        if too_large {
            return Told::NotProposed(ErrorCode::TooLarge);
        }
        let received = self.proposals.inbox.lock().receive(term, part, leads);
        let waits = match received {
            ReceivedPart::Waits(told) => told,
            ReceivedPart::Before => return Told::Proposed,
            ReceivedPart::Refused(code) => return Told::NotProposed(code),
            ReceivedPart::Unsure => return Told::Unsure,
        };
        self.proposals.wake.notify_one();
        match waits.await {
            Ok(Ok(())) => Told::Proposed,
            Ok(Err(code)) => Told::NotProposed(code),
            Err(_) => Told::Unsure,
        }
    }
}
