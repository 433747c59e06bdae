//! What health and metrics show of this process at a moment.

use hsm_protocol::ErrorCode;
use hsm_replication::Serving;

use super::Process;
use crate::dispatch::{members_seen, serving_state};
use crate::health::{ClusterView, Snapshot};
use crate::member::Member;

impl Process {
    /// Must not block, and change nothing.
    pub(super) fn snapshot(&self) -> Snapshot {
        let Some(member) = self.member() else {
            let joining = self.joining.lock().clone();
            let why = if joining.is_empty() { "this HSM belongs to no cluster yet".to_owned() } else { joining };
            return Snapshot { not_ready: Some(why), ..Snapshot::default() };
        };
        let node = member.node().status();
        let cluster = cluster(&member, &node, self.surroundings.hsm);
        let state = member.node().read();
        let not_ready = match (member.client_address(), node.ready) {
            // A witness has no clients, and is ready when its node is.
            (None, Ok(())) if self.surroundings.settings.witness() => None,
            (None, _) => Some("the cluster is not initialised".to_owned()),
            (Some(_), Err(code)) => Some(code.to_string()),
            // Whoever asked it to sign would be refused.
            (Some(_), Ok(())) if node.serving == Serving::Expired => Some(ErrorCode::Isolated.to_string()),
            (Some(_), Ok(())) => None,
        };
        Snapshot {
            not_ready,
            lifecycle: state.lifecycle().map_or(0, |lifecycle| lifecycle as u32),
            applied_index: node.applied.0,
            objects: state.object_count(),
            users: state.user_count(),
            sessions: state.session_count(),
            queued: node.queued as u64,
            flushes: node.flushes,
            flushed_commands: node.flushed_commands,
            cluster: Some(cluster),
        }
    }
}

fn cluster(member: &Member, status: &hsm_replication::Status, hsm: [u8; 16]) -> ClusterView {
    let state = member.node().read();
    let (serving, isolated_milliseconds) = serving_state(status.serving);
    ClusterView {
        hsm,
        members: members_seen(&state, status),
        has_leader: status.leader.is_some(),
        leads: status.leader == Some(status.node),
        term: status.term,
        voters: status.voters.len() as u64,
        epoch: state.cluster().map_or(0, |cluster| cluster.epoch.0),
        last_entry: status.last_entry,
        snapshot_entry: status.snapshot_entry.unwrap_or(0),
        snapshots: status.snapshots.clone(),
        lease_milliseconds: status.lease_milliseconds_left,
        serving,
        isolated_milliseconds,
        isolated: state.isolated_counts(),
        isolated_journal_bytes: member.isolated_journal_bytes(),
    }
}
