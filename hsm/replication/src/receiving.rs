//! Takes a state that another member sends, in ranges or, from an older program, in chunks, and hands it to openraft when
//! it is whole.
//!
//! What takes long runs aside: this node goes on answering, asking for its lease, and using the state that it has.

use std::sync::Arc;

use openraft::AsyncRuntime;
use openraft::raft::SnapshotResponse;

use crate::engine::Shared;
use crate::fault::StorageFault;
use crate::limits;
use crate::network::Told;
use crate::runtime::{Rt, aside};
use crate::store::incoming::{Prepared, Taken};
use crate::store::ranges::{Offer, RangeTold};
use crate::store::rows::Progress;
use crate::store::snapshot::{Chunk, ChunkRow, Received, SnapshotData};
use crate::types::{NodeId, Snapshot, SnapshotMeta, Vote};

/// Removes what was received when nobody goes on sending it: runs until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut silent = std::time::Duration::ZERO;
    let mut heard = shared.receiver.taken();
    loop {
        <Rt as AsyncRuntime>::sleep(limits::INCOMING_LOOK).await;
        let now = shared.receiver.taken();
        silent = if now == heard { silent + limits::INCOMING_LOOK } else { std::time::Duration::ZERO };
        heard = now;
        if silent >= limits::INCOMING_KEPT {
            shared.clone().give_up().await;
        }
    }
}

impl Shared {
    async fn give_up(self: Arc<Self>) {
        let mut heard = self.receiver.taken();
        loop {
            let turn = self.receiver.turn().await;
            heard += 1;
            if self.receiver.taken() != heard {
                // Somebody goes on sending after all.
                return;
            }
            let shared = self.clone();
            match aside(move || shared.incoming.give_up(&shared.store)).await {
                Ok(true) => drop(turn),
                Ok(false) => return,
                Err(fault) => return tracing::warn!(%fault, "what was received of a state is still on the disk"),
            }
            <Rt as AsyncRuntime>::sleep(limits::APPLIED_POLL).await;
        }
    }

    /// What to answer at once to whoever sends a state: that another one leads, or that this node is further than it.
    fn answer_early(&self, vote: Vote, meta: &SnapshotMeta) -> Option<Told> {
        // Only the last part comes to openraft. One who led before and does not know it would begin again and again, and
        // with it the one who leads.
        let own = self.raft.server_metrics().borrow().vote;
        let older = meta.last_log_id.is_none() || meta.last_log_id <= self.store.durable().progress.last;
        (vote < own || (older && vote == own)).then(|| Told::Installed(Ok(SnapshotResponse::new(own))))
    }

    /// A range of a state is offered.
    pub(crate) async fn take_offer(
        self: Arc<Self>,
        from: NodeId,
        vote: Vote,
        meta: SnapshotMeta,
        offer: Offer,
    ) -> Result<Told, StorageFault> {
        let of = meta.clone();
        self.take(vote, meta, move |shared| shared.incoming.offer(&shared.store, from, &of, &offer)).await
    }

    /// The rows of a range.
    pub(crate) async fn take_rows(
        self: Arc<Self>,
        from: NodeId,
        vote: Vote,
        meta: SnapshotMeta,
        which: (u64, u64),
        rows: Vec<ChunkRow>,
    ) -> Result<Told, StorageFault> {
        let of = meta.clone();
        self.take(vote, meta, move |shared| shared.incoming.rows(&shared.store, from, &of, which, &rows)).await
    }

    async fn take(
        self: Arc<Self>,
        vote: Vote,
        meta: SnapshotMeta,
        take: impl FnOnce(&Self) -> Result<Taken, StorageFault> + Send + 'static,
    ) -> Result<Told, StorageFault> {
        if self.receiver.installs() {
            return Ok(Told::Range(RangeTold::Working));
        }
        let turn = self.receiver.turn().await;
        if let Some(told) = self.answer_early(vote, &meta) {
            return Ok(told);
        }
        let shared = self.clone();
        let told = match aside(move || take(&shared)).await? {
            Taken::Held => RangeTold::Held,
            Taken::Wanted => RangeTold::Wanted,
            Taken::Stored => RangeTold::Stored,
            Taken::Refused(refusal) => {
                tracing::warn!(%refusal, "a range of a state that another member sends is refused");
                RangeTold::Refused(refusal)
            }
            Taken::Whole(progress) => {
                self.receiver.set_installs(true);
                self.errands.give(self.clone().install_whole(vote, meta, progress, turn));
                RangeTold::Working
            }
        };
        Ok(Told::Range(told))
    }

    /// Installs a state whose ranges are all here. It takes long, and whoever sent it asks again meanwhile.
    async fn install_whole(
        self: Arc<Self>,
        vote: Vote,
        meta: SnapshotMeta,
        progress: Progress,
        turn: tokio::sync::OwnedMutexGuard<()>,
    ) {
        let (shared, whole) = (self.clone(), progress.clone());
        match aside(move || shared.incoming.prepare(&shared.store, &whole)).await {
            Ok(Some(prepared)) => drop(self.install(vote, meta, progress, Some(prepared)).await),
            Ok(None) => {}
            Err(fault) => tracing::warn!(%fault, "a state that was received is not installed"),
        }
        self.receiver.set_installs(false);
        drop(turn);
    }

    async fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        progress: Progress,
        prepared: Option<Box<Prepared>>,
    ) -> Told {
        let snapshot = Snapshot { meta, snapshot: Box::new(SnapshotData::received(progress, prepared)) };
        Told::Installed(self.raft.install_full_snapshot(vote, snapshot).await)
    }

    /// Part of a snapshot from an older program; the last one installs it.
    pub(crate) async fn take_chunk(
        self: Arc<Self>,
        vote: Vote,
        meta: SnapshotMeta,
        chunk: Chunk,
    ) -> Result<Told, StorageFault> {
        let turn = self.receiver.turn().await;
        let own = self.raft.server_metrics().borrow().vote;
        if vote < own {
            return Ok(Told::Installed(Ok(SnapshotResponse::new(own))));
        }
        let (shared, of) = (self.clone(), meta.clone());
        let told = match aside(move || shared.receiver.take(&shared.store, &of, &chunk)).await? {
            Received::Stored => Told::ChunkStored,
            Received::OutOfOrder => Told::ChunkRefused,
            Received::Whole(progress) => self.install(vote, meta, progress, None).await,
        };
        drop(turn);
        Ok(told)
    }
}
