//! Sends the state to a member that lacks more than the log has: range by range, each offered before it is sent.
//!
//! Whatever interrupts it, the next attempt, of this node or of another one that leads by then, offers all ranges of the
//! state as it is then, and sends those that the receiver does not hold. Reading runs aside, one range at a time, and the
//! log behind the state is kept until the receiver has read it.

use std::sync::Arc;
use std::time::Duration;

use openraft::AsyncRuntime;
use openraft::raft::SnapshotResponse;

use crate::fault::StorageFault;
use crate::limits;
use crate::network::{Ask, Peer, PeerFault, Told};
use crate::runtime::{Rt, aside};
use crate::store::Store;
use crate::store::ranges::{Offer, RangeTold, Ranges};
use crate::store::snapshot::{ChunkRow, Reader};
use crate::traffic::Share;
use crate::types::{NodeId, Snapshot, SnapshotMeta, Vote};
use crate::versions;

type Now = <Rt as AsyncRuntime>::Instant;

/// Why a state did not arrive.
pub(crate) enum SnapshotStop {
    /// This node could not read it.
    Source(String),
    /// The receiver did not take it.
    Peer(PeerFault),
    /// A newer one should be sent.
    Again(String),
}

impl From<PeerFault> for SnapshotStop {
    fn from(fault: PeerFault) -> Self {
        Self::Peer(fault)
    }
}

impl From<StorageFault> for SnapshotStop {
    fn from(fault: StorageFault) -> Self {
        Self::Source(fault.to_string())
    }
}

/// As long as it lives, the log is kept.
struct Hold(Arc<Store>);

impl Hold {
    fn of(store: &Arc<Store>) -> Self {
        store.traffic.hold_log();
        Self(store.clone())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.traffic.let_log_go();
    }
}

/// As long as it lives, this member counts among those that are being sent the state.
struct Sending(Arc<Store>, NodeId);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.traffic.sends_no_more(self.1);
    }
}

impl Peer {
    pub(crate) async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<NodeId>, SnapshotStop> {
        let reader = snapshot.snapshot.into_reader().ok_or(SnapshotStop::Source("not a source".to_owned()))?;
        let hold = Hold::of(&self.store);
        if !self.knows_ranges().await {
            return self.send_chunks(vote, snapshot.meta, reader).await;
        }
        let sent = self.send_ranges(vote, snapshot.meta, Ranges::new(reader)?).await;
        if sent.is_ok() {
            drop(<Rt as AsyncRuntime>::spawn(async move {
                <Rt as AsyncRuntime>::sleep(limits::HELD_LOG_AFTER).await;
                drop(hold);
            }));
        }
        sent
    }

    /// What the other one speaks is known only after it was spoken to.
    async fn knows_ranges(&self) -> bool {
        let knows = || self.link.network.version(self.target) >= versions::RANGES;
        if !knows() {
            let hello = Ask::Acknowledge { index: hsm_core::Index::default() };
            if let Err(fault) = self.ask(&hello, limits::PULSE).await {
                tracing::debug!(%fault, "whoever shall be sent the state does not answer");
            }
        }
        knows()
    }

    async fn send_ranges(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        mut ranges: Ranges,
    ) -> Result<SnapshotResponse<NodeId>, SnapshotStop> {
        let _counted = Sending(self.store.clone(), self.target);
        let (begun, mut restarts, mut rows_done) = (Now::now(), 0, 0);
        loop {
            if Now::now() - begun > limits::TRANSFER_LIFE {
                return Err(SnapshotStop::Again("it took too long".to_owned()));
            }
            self.store.traffic.sends(self.target, Share { rows: rows_done, total: ranges.total() });
            let read;
            (ranges, read) = aside(move || {
                let read = ranges.next_range();
                (ranges, read)
            })
            .await;
            let (offer, rows) = read?;
            let in_range = offer.rows;
            match self.send_range(vote, &meta, offer, rows).await? {
                Told::Range(RangeTold::Held | RangeTold::Stored) => rows_done += in_range,
                Told::Range(RangeTold::Refused(refusal))
                    if refusal.begins_again() && restarts < limits::RANGE_RESTARTS =>
                {
                    ranges.begin_again();
                    (restarts, rows_done) = (restarts + 1, 0);
                }
                Told::Range(RangeTold::Refused(refusal)) => {
                    tracing::warn!(to = format!("{:x}", self.target), %refusal, "a range of the state is refused");
                    return Err(SnapshotStop::Again(refusal.to_string()));
                }
                Told::Installed(Ok(response)) => return Ok(response),
                _ => return Err(self.garbled().into()),
            }
        }
    }

    /// Offers a range, and sends it if it is wanted.
    async fn send_range(
        &self,
        vote: Vote,
        meta: &SnapshotMeta,
        offer: Offer,
        rows: Vec<ChunkRow>,
    ) -> Result<Told, SnapshotStop> {
        let (transfer, number, bytes) = (offer.transfer, offer.number, offer.bytes);
        let offered = Ask::Range { vote, meta: meta.clone(), offer };
        let mut told = self.ask_again(&offered, limits::RANGE_TIMEOUT).await?;
        if matches!(told, Told::Range(RangeTold::Wanted)) {
            self.store.traffic.sent(bytes);
            let ask = Ask::RangeRows { vote, meta: meta.clone(), transfer, number, rows };
            told = self.ask_again(&ask, limits::RANGE_TIMEOUT).await?;
        } else {
            self.store.traffic.spared(bytes);
        }
        let begun = Now::now();
        // It has all ranges: now it is asked until it has installed them.
        while matches!(told, Told::Range(RangeTold::Working)) && Now::now() - begun < limits::INSTALLING {
            <Rt as AsyncRuntime>::sleep(limits::INSTALLING_LOOK).await;
            told = self.ask_again(&offered, limits::RANGE_TIMEOUT).await?;
        }
        Ok(told)
    }

    /// To a member whose program is older: chunk by chunk, which only one connection's cut outlives.
    async fn send_chunks(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        mut reader: Reader,
    ) -> Result<SnapshotResponse<NodeId>, SnapshotStop> {
        loop {
            let read;
            (reader, read) = aside(move || {
                let read = reader.next_chunk();
                (reader, read)
            })
            .await;
            let chunk = read?;
            let at_most = if chunk.is_last() { limits::INSTALL_TIMEOUT } else { limits::CHUNK_TIMEOUT };
            let ask = Ask::Chunk { vote, meta: meta.clone(), chunk };
            match self.ask_again(&ask, at_most).await? {
                Told::ChunkStored => {}
                Told::ChunkRefused => reader.begin_again(),
                Told::Installed(Ok(response)) => return Ok(response),
                _ => return Err(self.garbled().into()),
            }
        }
    }

    /// Asks, and again when the question or its answer was lost.
    async fn ask_again(&self, ask: &Ask, at_most: Duration) -> Result<Told, PeerFault> {
        let mut tries = limits::CHUNK_TRIES;
        loop {
            tries -= 1;
            match self.ask(ask, at_most).await {
                Err(PeerFault::Unreachable(_) | PeerFault::Apart(_)) if tries > 0 => {}
                told => return told,
            }
        }
    }
}
