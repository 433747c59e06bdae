//! A new TLS key and certificate for a cluster in service: after a removal, since the removed HSM knows the key that the old
//! certificate is for. Admins only.

use hsm_protocol::{ErrorCode, Lifecycle};

use super::Answer;
use super::lifecycle::check_pem;
use super::users::require_admin;
use crate::change::{Effect, Response};
use crate::cluster::ClusterRecord;
use crate::ids::Epoch;
use crate::limits::SEALED_CLUSTER_KEY_BYTES;
use crate::records::Caller;
use crate::refusal::Refusal;
use crate::state::State;
use crate::work::Work;

/// Whether a reissue may begin.
pub(crate) fn judge(state: &State, caller: Caller) -> Result<ClusterRecord, Refusal> {
    require_admin(caller)?;
    let cluster = state.cluster.as_ref().filter(|cluster| cluster.lifecycle == Lifecycle::Active);
    cluster.cloned().ok_or(ErrorCode::LifecycleRefused.into())
}

/// Whether one has begun, and so may end.
pub(crate) fn judge_waiting(state: &State, caller: Caller) -> Result<ClusterRecord, Refusal> {
    let cluster = judge(state, caller)?;
    if cluster.sealed_next_cluster_key.is_empty() { Err(ErrorCode::LifecycleRefused.into()) } else { Ok(cluster) }
}

pub(super) fn begin(work: &mut Work<'_>, caller: Caller, epoch: Epoch, sealed: &[u8]) -> Answer {
    let mut cluster = judge(work.state, caller)?;
    if cluster.epoch != epoch {
        return Err(ErrorCode::ObjectChanged.into());
    }
    if sealed.is_empty() || sealed.len() > SEALED_CLUSTER_KEY_BYTES {
        return Err(ErrorCode::Malformed.into());
    }
    cluster.sealed_next_cluster_key = sealed.to_vec();
    work.put_cluster(cluster);
    Ok(Response::Done)
}

pub(super) fn finish(work: &mut Work<'_>, caller: Caller, certificate: &str, trust_anchor: &str) -> Answer {
    let mut cluster = judge_waiting(work.state, caller)?;
    for pem in [certificate, trust_anchor] {
        check_pem(pem)?;
    }
    cluster.sealed_cluster_key = std::mem::take(&mut cluster.sealed_next_cluster_key);
    cluster.certificate = certificate.to_owned();
    cluster.trust_anchor = trust_anchor.to_owned();
    work.put_cluster(cluster);
    work.effect(Effect::ReloadTls);
    Ok(Response::Done)
}
