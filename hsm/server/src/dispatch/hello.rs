//! Who answers here: identity, mechanisms, members. Needs no login, and tells nothing that a stranger may not know.

use hsm_core::mechanisms;
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{Lifecycle, limits, wire};

use super::call::{Answered, Call, Result};
use super::roster;
use crate::peer::Source;
use crate::release;

/// Name and version that are shown to clients.
const SERVER: &str = concat!("kagimori-hsm ", env!("CARGO_PKG_VERSION"));

pub(super) fn hello(call: &Call<'_>) -> Result<Answered> {
    let on_unix_socket = matches!(call.connection.link().peer().source(), Source::Local(_));
    let nonce = call.connection.binding().filter(|_| on_unix_socket).map_or_else(Vec::new, |nonce| nonce.to_vec());
    let state = call.service.node().read();
    let mut reply = wire::HelloReply {
        server: SERVER.into(),
        hsm: call.service.hsm().to_vec(),
        nonce,
        frame_limit: limits::FRAME_LIMIT,
        requests_in_flight: limits::REQUESTS_IN_FLIGHT,
        ..Default::default()
    };
    if let Some(cluster) = state.cluster() {
        reply.cluster = cluster.cluster.0.to_vec();
        reply.incarnation = cluster.incarnation.0.to_vec();
        reply.label.clone_from(&cluster.label);
        reply.serial = serial(cluster.cluster.0);
        reply.fips = cluster.fips;
        reply.lifecycle = cluster.lifecycle as u32;
    }
    Ok(Answered::Now(Body::Hello(reply)))
}

/// `CK_TOKEN_INFO.serialNumber` has 16 characters: the first half of the cluster's id in hexadecimal.
fn serial(cluster: [u8; 16]) -> String {
    cluster[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn list_mechanisms(call: &Call<'_>) -> Result<Answered> {
    // The mode never changes once the cluster is formed, and a service begins after that.
    let reply = call.service.mechanisms().get_or_init(|| {
        let fips = call.service.node().read().is_fips();
        let items = mechanisms::infos(fips)
            .map(|info| wire::MechanismInfo {
                kind: info.kind.0,
                minimum: info.minimum,
                maximum: info.maximum,
                flags: info.flags,
            })
            .collect();
        wire::ListMechanismsReply { items }
    });
    Ok(Answered::Now(Body::ListMechanisms(reply.clone())))
}

pub(super) fn cluster_info(call: &Call<'_>) -> Result<Answered> {
    let status = call.service.node().status();
    let state = call.service.node().read();
    let members = state.members().iter().map(|(node, member)| {
        let here = node.0 == status.node;
        let mut shown = roster::member(member);
        if here && shown.address.is_empty() {
            shown.address = call.service.address().into();
        }
        wire::Member { leader: status.leader == Some(node.0), voter: status.voters.contains(&node.0), ..shown }
    });
    let cluster = state.cluster();
    let active = cluster.is_some_and(|cluster| cluster.lifecycle == Lifecycle::Active);
    Ok(Answered::Now(Body::ClusterInfo(wire::ClusterInfoReply {
        members: members.collect(),
        roster: roster::version_of(state.members()),
        applied_index: status.applied.0,
        objects: if active { state.object_count() } else { 0 },
        users: if active { state.user_count() } else { 0 },
        sessions: if active { state.session_count() } else { 0 },
        trusts_development: cluster.is_some_and(|cluster| release::trusts_everybody(&cluster.policy.releases)),
        client_certificates_required: cluster.is_some_and(|cluster| cluster.client_certificates_required),
    })))
}
