//! The members of the cluster, and what admins say about who may join and how long an HSM goes on alone.
//!
//! The roster in the log is what the cluster shall be; the state judges every change of it. What a member does now (who
//! leads, who votes, how far it is) comes from replication.

use hsm_core::{Action, AdmissionRule, ClusterPolicy, HsmId, MemberKind, MemberRecord, NodeId, Request};
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{ErrorCode, wire};
use hsm_replication::Status;

use super::call::{Answered, Call, Result};

pub(super) fn set_rule(call: &Call<'_>, message: wire::SetAdmissionRule) -> Result<Answered> {
    let wire::AdmissionRule { standing, members, per_day } = message.rule.ok_or(ErrorCode::Malformed)?;
    let rule = AdmissionRule { standing, members, per_day };
    allowed(call, Request::SetAdmissionRule { rule })?;
    call.change_plainly(Action::SetAdmissionRule { rule })
}

pub(super) fn approve(call: &Call<'_>, message: &wire::ApproveMember) -> Result<Answered> {
    let hsm = id(&message.hsm)?;
    allowed(call, Request::ApproveMember { hsm })?;
    call.change_plainly(Action::ApproveMember { hsm })
}

pub(super) fn set_window(call: &Call<'_>, message: &wire::SetIsolationWindow) -> Result<Answered> {
    let seconds = message.seconds;
    allowed(call, Request::SetIsolationWindow { seconds })?;
    call.change_plainly(Action::SetIsolationWindow { seconds })
}

pub(super) fn remove(call: &Call<'_>, message: &wire::RemoveMember) -> Result<Answered> {
    let hsm = id(&message.hsm)?;
    allowed(call, Request::RemoveMember { hsm })?;
    call.change_plainly(Action::RemoveMember { hsm })
}

pub(super) fn policy(call: &Call<'_>) -> Result<Answered> {
    let state = call.service.node().read();
    state.needs(&call.actor, Request::ShowCluster)?;
    let Some(cluster) = state.cluster() else { return Err(ErrorCode::NotReady.into()) };
    let ClusterPolicy { isolation_window_seconds, admission, approvals, .. } = &cluster.policy;
    let reply = wire::ClusterPolicyReply {
        rule: Some(wire::AdmissionRule {
            standing: admission.standing,
            members: admission.members,
            per_day: admission.per_day,
        }),
        approvals: approvals.iter().map(|hsm| hsm.0.to_vec()).collect(),
        admissions: cluster.policy.recent_admissions(call.service.node().now()).map(|stamp| stamp.0).collect(),
        isolation_window_seconds: *isolation_window_seconds,
    };
    Ok(Answered::Now(Body::ClusterPolicy(reply)))
}

pub(super) fn list(call: &Call<'_>) -> Result<Answered> {
    let status = call.service.node().status();
    let state = call.service.node().read();
    state.needs(&call.actor, Request::ShowCluster)?;
    let Some(cluster) = state.cluster() else { return Err(ErrorCode::NotReady.into()) };
    let reply = wire::ListMembersReply {
        items: state.members().iter().map(|(&node, member)| describe(node, member, &status)).collect(),
        hsm: call.service.hsm().to_vec(),
        term: status.term,
        applied_index: status.applied.0,
        chain_hash: status.hash.to_vec(),
        epoch: cluster.epoch.0,
    };
    Ok(Answered::Now(Body::ListMembers(reply)))
}

fn describe(node: NodeId, member: &MemberRecord, status: &Status) -> wire::MemberState {
    let part = if status.leader == Some(node.0) { wire::MemberPart::Leader } else { wire::MemberPart::Unknown };
    wire::MemberState {
        hsm: member.hsm.0.to_vec(),
        node: node.0,
        witness: member.kind == MemberKind::Witness,
        zone: member.zone.clone(),
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
        version: member.version.clone(),
        admitted_at: member.admitted_at.0,
        part: part as i32,
        applied_index: (node.0 == status.node).then_some(status.applied.0),
        silent_milliseconds: None,
    }
}

fn allowed(call: &Call<'_>, request: Request<'_>) -> Result<()> {
    call.service.node().read().needs(&call.actor, request)?;
    Ok(())
}

fn id(octets: &[u8]) -> Result<HsmId> {
    Ok(HsmId(octets.try_into().map_err(|_| ErrorCode::Malformed)?))
}
