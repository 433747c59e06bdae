//! Trust anchors for client certificates, and whether clients must present one. Admins only.

use hsm_protocol::ErrorCode;
use hsm_protocol::limits::TRUST_ANCHORS;

use super::Answer;
use super::lifecycle::check_pem;
use super::users::require_admin;
use crate::change::{Effect, Response};
use crate::cluster::{ClientAnchor, ClusterRecord};
use crate::records::Caller;
use crate::refusal::Refusal;
use crate::state::State;
use crate::work::Work;

pub(crate) fn judge_registration(state: &State, caller: Caller, certificate: &str) -> Result<(), Refusal> {
    require_admin(caller)?;
    check_pem(certificate)?;
    let anchors = &cluster(state)?.client_anchors;
    if anchors.iter().any(|anchor| same_pem(&anchor.certificate, certificate)) {
        return Err(ErrorCode::TrustAnchorExists.into());
    }
    if anchors.len() >= TRUST_ANCHORS { Err(ErrorCode::TrustAnchorLimit.into()) } else { Ok(()) }
}

pub(super) fn register(work: &mut Work<'_>, caller: Caller, certificate: &str) -> Answer {
    judge_registration(work.state, caller, certificate)?;
    let mut cluster = cluster(work.state)?.clone();
    let reference = work.counters().next_anchor;
    work.counters().next_anchor = reference + 1;
    cluster.client_anchors.push(ClientAnchor { reference, certificate: certificate.to_owned() });
    work.put_cluster(cluster);
    work.effect(Effect::ReloadTls);
    Ok(Response::TrustAnchor(reference))
}

/// The last anchor stays while certificates are required: without it no client could connect.
pub(crate) fn judge_deregistration(state: &State, caller: Caller, reference: u32) -> Result<(), Refusal> {
    require_admin(caller)?;
    let cluster = cluster(state)?;
    if !cluster.client_anchors.iter().any(|anchor| anchor.reference == reference) {
        return Err(ErrorCode::TrustAnchorUnknown.into());
    }
    let is_last = cluster.client_anchors.len() == 1;
    if is_last && cluster.client_certificates_required { Err(ErrorCode::TrustAnchorMissing.into()) } else { Ok(()) }
}

pub(super) fn deregister(work: &mut Work<'_>, caller: Caller, reference: u32) -> Answer {
    judge_deregistration(work.state, caller, reference)?;
    let mut cluster = cluster(work.state)?.clone();
    cluster.client_anchors.retain(|anchor| anchor.reference != reference);
    work.put_cluster(cluster);
    work.effect(Effect::ReloadTls);
    Ok(Response::Done)
}

pub(crate) fn judge_client_certificates(state: &State, caller: Caller, required: bool) -> Result<(), Refusal> {
    require_admin(caller)?;
    let has_anchor = !cluster(state)?.client_anchors.is_empty();
    if required && !has_anchor { Err(ErrorCode::TrustAnchorMissing.into()) } else { Ok(()) }
}

pub(super) fn set_required(work: &mut Work<'_>, caller: Caller, required: bool) -> Answer {
    judge_client_certificates(work.state, caller, required)?;
    let mut cluster = cluster(work.state)?.clone();
    cluster.client_certificates_required = required;
    work.put_cluster(cluster);
    work.effect(Effect::ReloadTls);
    Ok(Response::Done)
}

fn cluster(state: &State) -> Result<&ClusterRecord, Refusal> {
    state.cluster.as_ref().ok_or(ErrorCode::LifecycleRefused.into())
}

/// The same certificate but for white space.
fn same_pem(one: &str, other: &str) -> bool {
    one.split_ascii_whitespace().eq(other.split_ascii_whitespace())
}
