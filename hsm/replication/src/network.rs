//! What members say to each other, and the way it takes: openraft's calls as postcard octets over a [`Network`].
//!
//! A sole HSM has [`NoPeers`] and sends nothing. The codec stands in the path all the same, so that a cluster and the
//! simulator exchange the octets that the product would.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hsm_core::{ClusterId, Hsm, Incarnation, Index};
use hsm_protocol::ErrorCode;
use hsm_protocol::trace::Trace;
use openraft::error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{AsyncRuntime, OptionalSend};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::barrier::Barrier;
use crate::limits;
use crate::pulse::{Pulse, PulseTold};
use crate::runtime::Rt;
use crate::sending::SnapshotStop;
use crate::store::Store;
use crate::store::ranges::{Offer, RangeTold};
use crate::store::snapshot::{Chunk, ChunkRow};
use crate::types::{Member, NodeId, Part, Snapshot, SnapshotMeta, Types, Vote, decode};
use crate::versions;

/// An answer under way.
pub type Answer = Pin<Box<dyn Future<Output = Result<Vec<u8>, PeerFault>> + Send>>;

/// Why a member did not answer.
#[derive(Debug, thiserror::Error)]
pub enum PeerFault {
    /// There is no way to it now.
    #[error("member {0:x} cannot be reached")]
    Unreachable(u64),
    /// It answered something else than it was asked.
    #[error("member {0:x} does not speak this protocol: {1}")]
    Garbled(u64, String),
    /// It belongs to another cluster, or to another history of this one.
    #[error("member {0:x} is of another cluster, or of a history before a restore or a recovery")]
    Foreign(u64),
    /// It takes no part now: it was just started and is being checked, or it was rolled back or removed.
    #[error("member {0:x} takes no part in replication now")]
    Apart(u64),
}

/// Carries a message to another member and its answer back.
pub trait Network: Send + Sync {
    /// Sends `message` to `member` at `address`. An implementation that fails waits out `at_most` first, or a second of it:
    /// a caller that is refused at once would ask again at once.
    fn call(&self, member: u64, address: &str, message: Vec<u8>, at_most: Duration) -> Answer;

    /// The newest version of messages that this member and this program both speak, as the last connection to it told;
    /// [`crate::versions::OLDEST`] as long as there was none. An implementation whose members are all of this program
    /// need not say.
    fn version(&self, member: u64) -> u32 {
        let _all_alike = member;
        crate::versions::NEWEST
    }
}

/// The network of a sole HSM: nobody is there.
pub struct NoPeers;

impl Network for NoPeers {
    fn call(&self, member: u64, _address: &str, _message: Vec<u8>, at_most: Duration) -> Answer {
        Box::pin(async move {
            <Rt as AsyncRuntime>::sleep(at_most).await;
            Err(PeerFault::Unreachable(member))
        })
    }
}

/// Which history of which cluster: a message from another one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The cluster.
    pub cluster: ClusterId,
    /// The history.
    pub incarnation: Incarnation,
}

/// The history that a state belongs to; `None` before there is a cluster, and as long as the state does not name this node:
/// then it is older than this node's admission, and a newcomer that goes through the log would take a history that was over
/// by then for its own.
pub(crate) fn history_of(state: &Hsm, node: NodeId) -> Option<History> {
    let cluster = state.cluster().filter(|_| state.members().contains_key(&hsm_core::NodeId(node)))?;
    Some(History { cluster: cluster.cluster, incarnation: cluster.incarnation })
}

/// What one member sends to another.
#[derive(Serialize, Deserialize)]
pub(crate) struct Message {
    /// The sender's node.
    pub(crate) from: NodeId,
    /// The node that is meant. A machine whose disk was replaced answers at the same address as another node, and must
    /// neither vote nor store anything in the name of the one that it was.
    pub(crate) to: NodeId,
    /// `None` from nobody who belongs to a cluster.
    pub(crate) history: Option<History>,
    pub(crate) ask: Ask,
}

/// [`Message`] as it is sent.
#[derive(Serialize)]
struct Sending<'a> {
    from: NodeId,
    to: NodeId,
    history: Option<History>,
    ask: &'a Ask,
}

/// What one member asks of another.
#[derive(Serialize, Deserialize)]
pub(crate) enum Ask {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<NodeId>),
    /// Part of a snapshot; the last one installs it.
    Chunk {
        vote: Vote,
        meta: SnapshotMeta,
        chunk: Chunk,
    },
    /// Commands for the leader of this term.
    Propose {
        term: u64,
        part: Part,
    },
    /// How the asker does, and how does the other?
    Pulse(Pulse),
    /// A lease, for an HSM that has applied this.
    Lease {
        applied: Index,
    },
    /// To the leader: wait until no HSM acts on a state before this command, at most so many milliseconds.
    Barrier {
        index: Index,
        at_most: u64,
    },
    /// Say when this is applied.
    Acknowledge {
        index: Index,
    },
    /// To the leader: what a read must have applied.
    ReadIndex,
    /// From a witness that leads, or an HSM that leads with a full disk: stand for election. Whoever has no room does not.
    Elect,
    /// As `Propose`, and by which numbers the callers of these commands know them. Since [`versions::TRACES`].
    ProposeTraced {
        term: u64,
        part: Part,
        /// One for each command; 0 = none.
        traces: Vec<u64>,
    },
    /// Are the rows of this range of a state there? After the last one it is installed. Since [`versions::RANGES`].
    Range {
        vote: Vote,
        meta: SnapshotMeta,
        offer: Offer,
    },
    /// The rows of the range that was offered before. Since [`versions::RANGES`].
    RangeRows {
        vote: Vote,
        meta: SnapshotMeta,
        transfer: u64,
        number: u64,
        rows: Vec<ChunkRow>,
    },
}

/// What it answers.
#[derive(Serialize, Deserialize)]
pub(crate) enum Told {
    Append(Result<AppendEntriesResponse<NodeId>, RaftError<NodeId>>),
    Vote(Result<VoteResponse<NodeId>, RaftError<NodeId>>),
    /// The chunk is stored; the next one is expected from this row on.
    ChunkStored,
    Installed(Result<SnapshotResponse<NodeId>, Fatal<NodeId>>),
    /// The chunk does not continue what was received: begin again.
    ChunkRefused,
    /// The part is in the leader's log, on its disk.
    Proposed,
    /// The part is in no log and never will be.
    NotProposed(ErrorCode),
    /// Whether the part is in a log is not known here.
    Unsure,
    Pulse(Box<PulseTold>),
    /// Whether the lease is granted.
    Lease(bool),
    Barrier(Barrier),
    /// What is applied here.
    Acknowledged(Index),
    ReadIndex(Option<Index>),
    /// It is done.
    Done,
    /// The asker belongs to another cluster or another history of it.
    Foreign,
    /// This node takes no part now.
    Apart,
    /// Since [`versions::RANGES`].
    Range(RangeTold),
}

/// The node that a message says it comes from; `None` when it is no message.
pub fn sender(message: &[u8]) -> Option<u64> {
    postcard::take_from_bytes(message).ok().map(|(from, _)| from)
}

/// The way to other members.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) network: Arc<dyn Network>,
    /// This node.
    pub(crate) node: NodeId,
    /// That of the state; of a newcomer that of its admission. Empty before a cluster is formed.
    pub(crate) history: Arc<Mutex<Option<History>>>,
}

impl Link {
    /// What a member that forwards commands says, in the newest version that the leader speaks.
    pub(crate) fn propose(&self, leader: NodeId, term: u64, part: Part, traces: &[Trace]) -> Ask {
        if self.network.version(leader) < versions::TRACES {
            return Ask::Propose { term, part };
        }
        Ask::ProposeTraced { term, part, traces: traces.iter().map(|trace| trace.0).collect() }
    }

    pub(crate) async fn ask(
        &self,
        member: NodeId,
        address: &str,
        ask: &Ask,
        at_most: Duration,
    ) -> Result<Told, PeerFault> {
        let garbled = |error: postcard::Error| PeerFault::Garbled(member, error.to_string());
        let message = Sending { from: self.node, to: member, history: *self.history.lock(), ask };
        let message = postcard::to_stdvec(&message).map_err(garbled)?;
        let answer = self.network.call(member, address, message, at_most);
        // A network that keeps no time is none that this crate may wait for.
        let answer = <Rt as AsyncRuntime>::timeout(at_most.saturating_mul(2), answer).await;
        match decode(&answer.map_err(|_| PeerFault::Unreachable(member))??).map_err(garbled)? {
            Told::Foreign => Err(PeerFault::Foreign(member)),
            Told::Apart => Err(PeerFault::Apart(member)),
            told => Ok(told),
        }
    }
}

/// Makes a [`Peer`] for each member.
pub(crate) struct Peers {
    pub(crate) link: Link,
    pub(crate) store: Arc<Store>,
}

impl RaftNetworkFactory<Types> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, member: &Member) -> Peer {
        Peer { link: self.link.clone(), store: self.store.clone(), target, address: member.address.clone() }
    }
}

/// One other member.
pub(crate) struct Peer {
    pub(crate) link: Link,
    /// What is counted of snapshots stands there.
    pub(crate) store: Arc<Store>,
    pub(crate) target: NodeId,
    address: String,
}

impl Peer {
    pub(crate) async fn ask(&self, ask: &Ask, at_most: Duration) -> Result<Told, PeerFault> {
        let asked = self.link.ask(self.target, &self.address, ask, at_most).await;
        if matches!(asked, Err(PeerFault::Foreign(_) | PeerFault::Apart(_))) {
            // It answers at once, and would be asked again at once.
            <Rt as AsyncRuntime>::sleep(at_most.min(limits::HEARTBEAT)).await;
        }
        asked
    }

    pub(crate) fn garbled(&self) -> PeerFault {
        PeerFault::Garbled(self.target, "an answer to another question".to_owned())
    }
}

/// How openraft wants to hear of it: a peer that cannot be reached is asked again after [`RaftNetwork::backoff`].
fn rpc_error(fault: &PeerFault) -> RPCError<NodeId, Member, RaftError<NodeId>> {
    match fault {
        PeerFault::Garbled(..) => RPCError::Network(NetworkError::new(fault)),
        PeerFault::Unreachable(_) | PeerFault::Foreign(_) | PeerFault::Apart(_) => {
            RPCError::Unreachable(Unreachable::new(fault))
        }
    }
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RPCError<NodeId, Member, RaftError<NodeId>>> {
        match self.ask(&Ask::Append(request), option.hard_ttl()).await {
            Ok(Told::Append(Ok(response))) => Ok(response),
            Ok(_) => Err(rpc_error(&self.garbled())),
            Err(fault) => Err(rpc_error(&fault)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RPCError<NodeId, Member, RaftError<NodeId>>> {
        match self.ask(&Ask::Vote(request), option.hard_ttl()).await {
            Ok(Told::Vote(Ok(response))) => Ok(response),
            Ok(_) => Err(rpc_error(&self.garbled())),
            Err(fault) => Err(rpc_error(&fault)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<Types, Fatal<NodeId>>> {
        let sending = self.send_snapshot(vote, snapshot);
        // openraft sets no outer limit here; each chunk has its own, and `cancel` ends all of it.
        let sent = tokio::select! {
            biased;
            closed = cancel => return Err(closed.into()),
            sent = sending => sent,
        };
        sent.map_err(|stop| match stop {
            SnapshotStop::Peer(fault) => StreamingError::Unreachable(Unreachable::new(&fault)),
            SnapshotStop::Again(why) => {
                tracing::info!(to = format!("{:x}", self.target), why, "the state is sent anew, but for what is held");
                StreamingError::Unreachable(Unreachable::new(&PeerFault::Unreachable(self.target)))
            }
            SnapshotStop::Source(detail) => StreamingError::StorageError(
                openraft::StorageIOError::read_snapshot(None, &std::io::Error::other(detail)).into(),
            ),
        })
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(Duration::from_millis(100)))
    }
}
