//! A new epoch of the master key, the moving of payloads to it, and a new history of the cluster.
//!
//! All are proposed by HSMs in nobody's session: the first two by whoever leads, after a removal; the last by a survivor
//! when the majority is lost for good and admins have said so.

use hsm_protocol::{ErrorCode, Lifecycle};

use super::Answer;
use crate::change::{Effect, Response};
use crate::command::{EpochStart, MovedPayload};
use crate::epoch::EpochRecord;
use crate::ids::{Epoch, Incarnation, NodeId, ObjectHandle};
use crate::limits::{MOVES_PER_COMMAND, SEALED_MASTER_BYTES};
use crate::roster::{MemberKind, MemberRecord};
use crate::work::Work;

/// Begins the epoch after the present one, for exactly the HSMs that are members now: if one came or went meanwhile, the
/// keys must be sealed again. The epoch before must be settled, so that there are never more than two.
pub(super) fn begin(work: &mut Work<'_>, start: &EpochStart) -> Answer {
    let cluster = work.state.cluster.as_ref().filter(|cluster| cluster.lifecycle != Lifecycle::Zeroized);
    let mut cluster = cluster.cloned().ok_or(ErrorCode::LifecycleRefused)?;
    let before = cluster.epoch;
    let settled = work.state.epochs.get(&before).is_none_or(EpochRecord::is_settled);
    let hsms = work.state.members.iter().filter(|(_, member)| member.kind == MemberKind::Hsm).map(|(&node, _)| node);
    let short = |sealed: &[u8]| sealed.len() <= SEALED_MASTER_BYTES;
    let fits = start.masters.iter().all(|master| short(&master.sealed) && short(&master.sealed_before));
    if start.epoch.0 != before.0 + 1 || !settled || !hsms.eq(start.masters.iter().map(|master| master.node)) {
        return Err(ErrorCode::ObjectChanged.into());
    }
    if !fits || start.sealed_cluster_key.is_empty() != cluster.sealed_cluster_key.is_empty() {
        return Err(ErrorCode::Malformed.into());
    }
    cluster.epoch = start.epoch;
    cluster.epoch_due = false;
    cluster.sealed_cluster_key.clone_from(&start.sealed_cluster_key);
    // Whoever was removed can open it, so that it must never serve: a reissue begins anew.
    cluster.sealed_next_cluster_key.clear();
    // The activation password is void once the cluster is active.
    if !cluster.sealed_activation_password.is_empty() {
        cluster.sealed_activation_password.clone_from(&start.sealed_activation_password);
    }
    let end = work.counters().next_object;
    let keys = work.state.objects.iter().filter(|(_, object)| object.has_payload()).count() as u64;
    let record = EpochRecord {
        before,
        begun_at: work.stamp,
        masters: start.masters.clone(),
        moved_to: ObjectHandle(0),
        end,
        keys,
        moved: 0,
    };
    work.put_cluster(cluster);
    work.put_epoch(start.epoch, Some(&record.forgetting_before()));
    // What the epoch before remembers is of no use any more: its payloads are all of this history's last two epochs.
    work.state.epochs.keys().for_each(|&old| work.put_epoch(old, None));
    work.effect(Effect::EpochBegan(start.epoch));
    Ok(Response::Done)
}

/// Puts payloads that were sealed anew under the present epoch, up to and with `through`. An object that changed or went
/// meanwhile is under the present epoch already, or needs nothing.
pub(super) fn move_payloads(
    work: &mut Work<'_>,
    epoch: Epoch,
    after: ObjectHandle,
    through: ObjectHandle,
    moved: &[MovedPayload],
) -> Answer {
    let present = work.state.cluster.as_ref().map(|cluster| cluster.epoch);
    let record = work.state.epochs.get(&epoch).filter(|_| present == Some(epoch));
    let record = record.filter(|record| record.moved_to == after).ok_or(ErrorCode::ObjectChanged)?;
    let in_range = moved.iter().all(|moved| moved.handle > after && moved.handle <= through);
    let sealed_now = moved.iter().all(|moved| moved.payload.epoch == epoch);
    if !in_range || !sealed_now || moved.len() > MOVES_PER_COMMAND || through <= after {
        return Err(ErrorCode::Malformed.into());
    }
    let mut count = 0;
    // Nothing may be passed over: every payload in the range that is as it was must have been moved.
    for (handle, object) in work.state.objects.between(after, through) {
        if !object.has_payload() {
            continue;
        }
        count += u64::from(handle < record.end);
        match moved.iter().find(|moved| moved.handle == handle) {
            Some(moved) if moved.version == object.version() => work.put_payload(handle, Some(&moved.payload)),
            // Replaced since: `replace` let only the present epoch in.
            Some(_) => {}
            None => return Err(ErrorCode::ObjectChanged.into()),
        }
    }
    let record = EpochRecord { moved_to: through, moved: record.moved + count, ..record.clone() };
    work.put_epoch(epoch, Some(&record.forgetting_before()));
    Ok(Response::Done)
}

/// A new history: the survivor alone, and all sessions void.
pub(super) fn begin_incarnation(
    work: &mut Work<'_>,
    incarnation: Incarnation,
    node: NodeId,
    member: &MemberRecord,
) -> Answer {
    let mut cluster = work.state.cluster.clone().ok_or(ErrorCode::LifecycleRefused)?;
    let known = work.state.members.values().find(|known| known.hsm == member.hsm).ok_or(ErrorCode::MemberUnknown)?;
    if cluster.incarnation == incarnation || known.certificate != member.certificate || known.kind != member.kind {
        return Err(ErrorCode::AdmissionRefused.into());
    }
    if member.kind != MemberKind::Hsm {
        return Err(ErrorCode::MemberUnknown.into());
    }
    cluster.incarnation = incarnation;
    // Whoever is gone knows the present master key.
    cluster.epoch_due = work.state.members.len() > 1;
    work.put_cluster(cluster);
    let admitted_at = known.admitted_at;
    work.state.members.keys().for_each(|&other| work.put_member(other, None));
    work.put_member(node, Some(&MemberRecord { admitted_at, ..member.clone() }));
    work.forget_merges(|hsm| hsm == member.hsm);
    work.state.sessions.keys().for_each(|&session| work.end_session(session));
    work.state.attempts.keys().for_each(|&attempt| work.put_attempt(attempt, None));
    work.effect(Effect::RosterChanged);
    Ok(Response::Done)
}
