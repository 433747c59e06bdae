//! A node of another history of the same cluster, as a restore makes one, whose roster names the members of this one: it
//! sends them its entries and asks for their votes, in ever higher terms.

use std::sync::Arc;
use std::time::Duration;

use hsm_core::{Action, Incarnation, NodeId};

use crate::cluster::Cluster;
use crate::cluster::machine::{Beginning, Machine};
use crate::workload;

/// Its history.
const HISTORY: Incarnation = Incarnation([9; 16]);

impl Cluster {
    /// Forms another history and takes the members into its roster, again and again: they come and go.
    pub async fn intrude(self: Arc<Self>, stranger: Arc<Machine>) {
        if let Err(fault) = stranger.start(Beginning::Form(HISTORY)).await {
            self.trace.tell(|| format!("the stranger does not start: {fault}"));
            return;
        }
        loop {
            for machine in self.members() {
                let member = machine.look().map(|node| node.status());
                let (Some(status), Some((own, boot))) = (member, stranger.reach()) else { continue };
                let node = status.node;
                let action = Action::AdmitMember { node: NodeId(node), member: machine.record() };
                let done = Box::new(|_| ());
                boot.run(async { own.propose(workload::no_session(), action, done) }).await;
            }
            tokio::time::sleep(Duration::from_millis(1_000)).await;
        }
    }

    /// The node that belongs to another history.
    pub fn stranger_node(&self) -> Option<u64> {
        self.stranger.as_ref()?.identity()
    }
}
