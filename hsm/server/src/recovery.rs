//! A survivor goes on alone when the majority of its cluster is gone for good.
//!
//! What can be known here is whether a majority is alive; whether those who are silent are gone for good only a person
//! knows, who is told what is given up. The store is rewritten while no node has it open (`hsm-replication`), and the state
//! judges the new history. Whoever reaches the management socket owns the disk; no admin is asked, because a login needs the
//! majority that is gone (`docs/adr/0050`).

use std::sync::Arc;

use hsm_core::{Hsm, Incarnation, NodeId};
use hsm_protocol::ErrorCode;
use hsm_protocol::management::{GivenUp, Recovery as Plan};
use hsm_replication::limits::ALIVE;
use hsm_replication::{Node, Recovery, Serving, Status};

use crate::exit::Fault;
use crate::member::{Member, Surroundings, hexadecimal, stopped};
use crate::node_watch::{self, Watch};
use crate::{epochs, formation};

/// Why there is nothing to recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotNow {
    /// It would split a cluster that works.
    #[error("a majority of the voters is alive: nothing is lost, and the cluster goes on by itself")]
    Majority,
    /// It has no keys.
    #[error("a witness holds no keys and cannot go on alone: recover on an HSM")]
    Witness,
}

impl NotNow {
    pub(crate) fn code(self) -> ErrorCode {
        match self {
            Self::Majority => ErrorCode::LifecycleRefused,
            Self::Witness => ErrorCode::NotSupported,
        }
    }
}

/// What a recovery would be now.
///
/// # Errors
/// [`NotNow`].
pub(crate) fn plan(member: &Member) -> Result<Plan, NotNow> {
    if member.masters().held().present.is_keyless() {
        return Err(NotNow::Witness);
    }
    let status = member.node().status();
    if has_majority(&status) {
        return Err(NotNow::Majority);
    }
    let (place, state) = (member.place(), member.node().read());
    let others = state.members().iter().filter(|(node, _)| node.0 != place.node);
    let given_up = others.map(|(node, member)| {
        let seen = status.members.get(&node.0);
        GivenUp {
            hsm: hexadecimal(&member.hsm.0),
            zone: member.zone.clone(),
            peer_address: member.peer_address.clone(),
            silent_milliseconds: seen.and_then(|seen| seen.heard_milliseconds_ago),
            applied_index: seen.and_then(|seen| seen.applied).map(|applied| applied.0),
        }
    });
    Ok(Plan {
        cluster: hexadecimal(&place.cluster),
        incarnation: hexadecimal(&place.incarnation),
        applied_index: status.applied.0,
        members: given_up.collect(),
        done: false,
    })
}

/// Whether a majority of the voters was heard of just now, or this HSM holds a lease, which only a majority gives.
fn has_majority(status: &Status) -> bool {
    let is_heard = |node: &u64| {
        let heard = status.members.get(node).and_then(|seen| seen.heard_milliseconds_ago);
        *node == status.node || heard.is_some_and(|ago| u128::from(ago) <= ALIVE.as_millis())
    };
    let alive = status.voters.iter().filter(|node| is_heard(node)).count();
    matches!(status.serving, Serving::Leased) || 2 * alive > status.voters.len()
}

/// Stops this member and begins a new history with its store. Blocks.
///
/// # Errors
/// [`Fault`]: the process must end, and goes on at its next start with what is on the disk.
pub(crate) fn recover(surroundings: &Arc<Surroundings>, member: Arc<Member>) -> Result<Member, Fault> {
    let Surroundings { folder, module, .. } = &**surroundings;
    let (old, masters) = (member.place(), Arc::clone(member.masters()));
    let incarnation = Incarnation(formation::random(module)?);
    let node = u64::from_be_bytes(formation::random(module)?).max(1);
    tracing::error!(
        incarnation = %hexadecimal(&incarnation.0), node = format!("{node:x}"), applied = member.node().applied().0,
        "the cluster is recovered: this HSM goes on alone, and every other member is given up"
    );
    let record = record(surroundings, &member)?;
    member.stop();
    drop(member);
    let (of, held) = (Arc::clone(surroundings), Arc::clone(&masters));
    let prepare = move |state: &Hsm| epochs::catch_up(&of, &held, old.node, state).map_err(|fault| fault.to_string());
    let effects = (surroundings.effects)();
    let watch = Watch::new(surroundings);
    let storage = masters.held().present.storage_key(module).map_err(|fault| stopped(&fault))?;
    let recovery = Recovery { incarnation, node, member: record, prepare: Box::new(prepare) };
    let node = Node::recover(node_watch::settings(surroundings, &effects, &watch), storage, recovery)
        .map_err(|fault| node_watch::open_fault(folder, fault))?;
    watch.begin();
    Member::around(surroundings, Arc::new(node), masters, effects)
}

/// This HSM as the old roster has it, with its addresses as they are now.
fn record(surroundings: &Surroundings, member: &Member) -> Result<hsm_core::MemberRecord, Fault> {
    let state = member.node().read();
    let known = state.members().get(&NodeId(member.place().node));
    let known = known.ok_or_else(|| stopped(&"this HSM is in no roster"))?.clone();
    let own = formation::own_record(surroundings, member.client_address());
    Ok(hsm_core::MemberRecord { admitted_at: known.admitted_at, sealing_key: known.sealing_key, ..own })
}
