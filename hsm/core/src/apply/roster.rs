//! Members come and go, and the rules by which they may.
//!
//! An admission is proposed by a member that has checked the newcomer's certificate; here it is judged by the rule that
//! admins gave. Nobody's session stands behind it, so only what a rule covers is done. Removal is an admin's word, or the
//! leaving HSM's own, given over its management socket.

use hsm_protocol::{ErrorCode, Lifecycle};

use super::Answer;
use super::users::require_admin;
use crate::change::{Effect, Response};
use crate::cluster::ClusterRecord;
use crate::command::Action;
use crate::ids::{HsmId, NodeId, Stamp};
use crate::limits::{
    ADDRESS_BYTES, APPROVALS, ISOLATION_WINDOW_MAXIMUM_SECONDS, MEMBER_KEY_BYTES, MEMBERS, WITNESSES, ZONE_BYTES,
};
use crate::records::Caller;
use crate::refusal::Refusal;
use crate::releases::ReleaseRule;
use crate::roster::{AdmissionRule, ClusterPolicy, MemberKind, MemberRecord};
use crate::state::State;
use crate::versions;
use crate::work::Work;

/// The first member, with the cluster itself.
pub(super) fn found(work: &mut Work<'_>, node: NodeId, member: &MemberRecord) -> Result<(), Refusal> {
    check_shape(member)?;
    if member.kind != MemberKind::Hsm {
        return Err(ErrorCode::Malformed.into());
    }
    work.put_member(node, Some(&MemberRecord { admitted_at: work.stamp, ..member.clone() }));
    Ok(())
}

/// A newcomer, or a member that returns under a new node id with the certificate that it had.
pub(super) fn admit(work: &mut Work<'_>, node: NodeId, member: &MemberRecord) -> Answer {
    let mut cluster = standing_cluster(work.state)?;
    check_shape(member)?;
    check_version(&cluster, member)?;
    if let Some(known) = work.state.members.get(&node) {
        // The same admission again: its first answer was lost.
        let same = known.hsm == member.hsm && known.certificate == member.certificate;
        return if same { Ok(Response::Done) } else { Err(ErrorCode::AdmissionRefused.into()) };
    }
    let before =
        work.state.members.iter().find(|(_, known)| known.hsm == member.hsm).map(|(&node, known)| (node, known));
    match before {
        Some((_, known)) if known.certificate != member.certificate || known.kind != member.kind => {
            return Err(ErrorCode::AdmissionRefused.into());
        }
        Some((old, _)) => work.put_member(old, None),
        None => {
            judge_admission(work.state, &cluster.policy, member, work.stamp)?;
            spend(&mut cluster.policy, member, work.stamp);
            work.put_cluster(cluster);
        }
    }
    work.put_member(node, Some(&MemberRecord { admitted_at: work.stamp, ..member.clone() }));
    work.effect(Effect::RosterChanged);
    Ok(Response::Done)
}

/// Whoever knows less than what is in use would have to guess.
fn check_version(cluster: &ClusterRecord, member: &MemberRecord) -> Result<(), Refusal> {
    if member.state_version < cluster.version { Err(ErrorCode::VersionRefused.into()) } else { Ok(()) }
}

/// From now on the cluster uses a later version of commands, if every member knows it.
pub(super) fn raise_version(work: &mut Work<'_>, version: u32) -> Answer {
    let mut cluster = standing_cluster(work.state)?;
    if work.state.members.values().any(|member| member.state_version < version) {
        return Err(ErrorCode::ClusterTooOld.into());
    }
    if version > cluster.version {
        cluster.version = version;
        work.put_cluster(cluster);
    }
    Ok(Response::Done)
}

pub(crate) fn judge_release_rule(state: &State, caller: Caller, rule: &ReleaseRule) -> Result<(), Refusal> {
    require_admin(caller)?;
    if standing(state)?.version < versions::since(&Action::SetReleaseRule { rule: ReleaseRule::default() }) {
        return Err(ErrorCode::ClusterTooOld.into());
    }
    if rule.is_possible() { Ok(()) } else { Err(ErrorCode::AttributeValue.into()) }
}

pub(super) fn set_release_rule(work: &mut Work<'_>, caller: Caller, rule: &ReleaseRule) -> Answer {
    judge_release_rule(work.state, caller, rule)?;
    let mut cluster = standing_cluster(work.state)?;
    cluster.policy.releases = rule.clone();
    work.put_cluster(cluster);
    Ok(Response::Done)
}

/// Whether a rule covers this newcomer.
pub(crate) fn judge_admission(
    state: &State,
    policy: &ClusterPolicy,
    member: &MemberRecord,
    now: Stamp,
) -> Result<(), Refusal> {
    let of_kind = state.members.values().filter(|known| known.kind == member.kind).count();
    let most = match member.kind {
        MemberKind::Hsm => policy.admission.members.min(MEMBERS) as usize,
        MemberKind::Witness => WITNESSES,
    };
    if of_kind >= most {
        return Err(ErrorCode::MemberLimit.into());
    }
    let approved = policy.approvals.contains(&member.hsm);
    let room_today = policy.recent_admissions(now).count() < policy.admission.per_day as usize;
    // A witness gets no key, so the number of admissions a day does not bound it.
    let covered = approved || (policy.admission.standing && (room_today || member.kind == MemberKind::Witness));
    if covered { Ok(()) } else { Err(ErrorCode::AdmissionRefused.into()) }
}

/// Uses up what covered the admission: an approval, else one of today's.
fn spend(policy: &mut ClusterPolicy, member: &MemberRecord, now: Stamp) {
    let approvals = policy.approvals.len();
    policy.approvals.retain(|&approved| approved != member.hsm);
    if policy.approvals.len() == approvals && member.kind == MemberKind::Hsm {
        policy.admissions = policy.recent_admissions(now).collect();
        policy.admissions.push(now);
    }
}

/// A member says where it can be reached now, and what it runs. Its identity stays.
pub(super) fn update(work: &mut Work<'_>, node: NodeId, member: &MemberRecord) -> Answer {
    check_shape(member)?;
    let known = work.state.members.get(&node).ok_or(ErrorCode::MemberUnknown)?;
    let same = known.hsm == member.hsm && known.certificate == member.certificate && known.kind == member.kind;
    if !same {
        return Err(ErrorCode::AdmissionRefused.into());
    }
    check_version(standing(work.state)?, member)?;
    let (admitted_at, sealing_key) = (known.admitted_at, known.sealing_key.clone());
    work.put_member(node, Some(&MemberRecord { admitted_at, sealing_key, ..member.clone() }));
    work.effect(Effect::RosterChanged);
    Ok(Response::Done)
}

/// Removes a member: by an admin, or (no session) by the HSM that leaves.
pub(crate) fn judge_removal(state: &State, caller: Caller, hsm: HsmId) -> Result<NodeId, Refusal> {
    if caller.session.is_some() {
        require_admin(caller)?;
    }
    let (&node, member) = state.members.iter().find(|(_, member)| member.hsm == hsm).ok_or(ErrorCode::MemberUnknown)?;
    let hsms = state.members.values().filter(|member| member.kind == MemberKind::Hsm).count();
    if member.kind == MemberKind::Hsm && hsms == 1 { Err(ErrorCode::LastMember.into()) } else { Ok(node) }
}

pub(super) fn remove(work: &mut Work<'_>, caller: Caller, hsm: HsmId) -> Answer {
    let node = judge_removal(work.state, caller, hsm)?;
    let knows_keys = work.state.members.get(&node).is_some_and(|member| member.kind == MemberKind::Hsm);
    if let Some(cluster) = work.state.cluster.as_ref().filter(|_| knows_keys) {
        let seconds = cluster.policy.isolation_window_seconds;
        let (index, now) = (work.index, work.stamp);
        work.linger(|lingering| lingering.depart(node, hsm, index, seconds, now));
        work.put_cluster(ClusterRecord { epoch_due: true, ..cluster.clone() });
    }
    work.put_member(node, None);
    work.forget_merges(|other| other != hsm);
    work.effect(Effect::RosterChanged);
    Ok(Response::Done)
}

pub(crate) fn judge_approval(state: &State, caller: Caller, hsm: HsmId) -> Result<(), Refusal> {
    require_admin(caller)?;
    let policy = &standing(state)?.policy;
    let known = policy.approvals.contains(&hsm) || state.members.values().any(|member| member.hsm == hsm);
    if !known && policy.approvals.len() >= APPROVALS { Err(ErrorCode::MemberLimit.into()) } else { Ok(()) }
}

pub(super) fn approve(work: &mut Work<'_>, caller: Caller, hsm: HsmId) -> Answer {
    judge_approval(work.state, caller, hsm)?;
    let mut cluster = standing_cluster(work.state)?;
    let known = work.state.members.values().any(|member| member.hsm == hsm);
    if !known && !cluster.policy.approvals.contains(&hsm) {
        cluster.policy.approvals.push(hsm);
        work.put_cluster(cluster);
    }
    Ok(Response::Done)
}

pub(crate) fn judge_rule(caller: Caller, rule: AdmissionRule) -> Result<(), Refusal> {
    require_admin(caller)?;
    let possible = (1..=MEMBERS).contains(&rule.members) && rule.per_day <= crate::limits::ADMISSIONS_PER_DAY_MAXIMUM;
    if possible { Ok(()) } else { Err(ErrorCode::AttributeValue.into()) }
}

pub(super) fn set_rule(work: &mut Work<'_>, caller: Caller, rule: AdmissionRule) -> Answer {
    judge_rule(caller, rule)?;
    let mut cluster = standing_cluster(work.state)?;
    cluster.policy.admission = rule;
    work.put_cluster(cluster);
    Ok(Response::Done)
}

pub(crate) fn judge_window(caller: Caller, seconds: u32) -> Result<(), Refusal> {
    require_admin(caller)?;
    if seconds <= ISOLATION_WINDOW_MAXIMUM_SECONDS { Ok(()) } else { Err(ErrorCode::AttributeValue.into()) }
}

pub(super) fn set_window(work: &mut Work<'_>, caller: Caller, seconds: u32) -> Answer {
    judge_window(caller, seconds)?;
    let mut cluster = standing_cluster(work.state)?;
    let before = std::mem::replace(&mut cluster.policy.isolation_window_seconds, seconds);
    if seconds < before {
        let (index, now) = (work.index, work.stamp);
        work.linger(|lingering| lingering.lower(before, index, now));
    }
    work.put_cluster(cluster);
    Ok(Response::Done)
}

/// Lengths, and what must be there. The certificate was verified by whoever proposed the member.
fn check_shape(member: &MemberRecord) -> Result<(), Refusal> {
    let texts = [&member.peer_address, &member.client_address, &member.version];
    let short = texts.iter().all(|text| text.len() <= ADDRESS_BYTES) && member.zone.len() <= ZONE_BYTES;
    let plain = texts.into_iter().chain([&member.zone]).all(|text| !text.chars().any(char::is_control));
    let keys = member.certificate.len() <= MEMBER_KEY_BYTES && member.sealing_key.len() <= MEMBER_KEY_BYTES;
    if short && plain && keys { Ok(()) } else { Err(ErrorCode::Malformed.into()) }
}

fn standing(state: &State) -> Result<&ClusterRecord, Refusal> {
    let cluster = state.cluster.as_ref().filter(|cluster| cluster.lifecycle != Lifecycle::Zeroized);
    cluster.ok_or(ErrorCode::LifecycleRefused.into())
}

fn standing_cluster(state: &State) -> Result<ClusterRecord, Refusal> {
    standing(state).cloned()
}
