//! Another TLS key and certificate for the cluster, as an admin orders it: a key is made and waits, its request is shown, and
//! what the customer's CA signed is brought.
//!
//! The rules for certificates are those of the initialisation (`customer_certificate`). The key serves once it is signed;
//! the change reaches the listener as an effect of the log.

use hsm_core::{Action, Request};
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{ErrorCode, wire};

use super::call::{Answered, Call, Effort, Made, Result};
use crate::ceremony::{CeremonyKey, cluster_request};
use crate::customer_certificate::CheckedCertificates;
use crate::member::{PURPOSE_CLUSTER_KEY, hexadecimal, now};

pub(super) fn begin(call: &Call<'_>) -> Result<Answered> {
    call.service.node().read().needs(&call.actor, Request::BeginReissue)?;
    call.change(
        Effort::Long,
        Box::new(|call| {
            let broken = |fault: &dyn std::fmt::Display| {
                tracing::error!(%fault, "no TLS key can be made");
                ErrorCode::Broken
            };
            let key = CeremonyKey::generate().map_err(|fault| broken(&fault))?;
            let keys = call.service.keys();
            let epoch = keys.epoch();
            let sealed_cluster_key = keys.seal_bytes(call.service.module(), PURPOSE_CLUSTER_KEY, &key.pkcs8())?;
            let action = Action::BeginReissue { epoch, sealed_cluster_key };
            Ok(Made::Action(action, Box::new(|_, _| Ok(Body::Done(wire::Done::default())))))
        }),
    )
}

pub(super) fn request(call: &Call<'_>) -> Result<Answered> {
    let (key, fips) = waiting(call)?;
    let hsm = hexadecimal(&call.service.hsm()[..8]);
    let csr = cluster_request(&key, &hsm, fips).map_err(|fault| {
        tracing::error!(request = call.header.request_id, %fault, "no certificate request can be made");
        ErrorCode::Broken
    })?;
    Ok(Answered::Now(Body::ReissueRequest(wire::ReissueRequestReply { csr })))
}

pub(super) fn finish(call: &Call<'_>, message: wire::FinishReissue) -> Result<Answered> {
    let (key, _) = waiting(call)?;
    let wire::FinishReissue { certificate, trust_anchor } = message;
    let checked = CheckedCertificates::check(&certificate, &trust_anchor, &key.public_key(), now());
    let checked = checked.map_err(|refusal| {
        tracing::warn!(request = call.header.request_id, %refusal, "a reissued certificate was refused");
        ErrorCode::CertificateRefused
    })?;
    call.change_plainly(Action::FinishReissue {
        certificate: checked.certificate().to_owned(),
        trust_anchor: checked.trust_anchor().to_owned(),
    })
}

/// The key that waits, and whether the cluster is in mode FIPS.
fn waiting(call: &Call<'_>) -> Result<(CeremonyKey, bool)> {
    let (sealed, fips) = {
        let state = call.service.node().read();
        state.needs(&call.actor, Request::FinishReissue)?;
        let cluster = state.cluster().ok_or(ErrorCode::NotReady)?;
        (cluster.sealed_next_cluster_key.clone(), cluster.fips)
    };
    let opened = call.service.keys().open_bytes(PURPOSE_CLUSTER_KEY, &sealed);
    let opened = opened.map_err(|_| call.unless_behind(ErrorCode::Broken))?;
    let key = CeremonyKey::from_pkcs8(opened.expose()).map_err(|_| ErrorCode::Broken)?;
    Ok((key, fips))
}
