//! A member's side of a join: who asks is verified, whether a rule covers it is decided by the log, and then the cluster
//! master key is sealed to the key that the newcomer has proven to be its own.

use hsm_core::command::Origin;
use hsm_core::{Action, HsmId, MemberKind, MemberRecord, NodeId, Stamp};
use hsm_crypto::{Handover, verify_node_proof};
use hsm_protocol::ErrorCode;
use hsm_protocol::peer::{Admitted, Join, Newcomer, Opening, RosterEntry};
use hsm_replication::Outcome;
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::fault::PeerRefusal;
use super::tls::{Caller, join_statement};
use super::{Home, Peers, inbound, name};
use crate::{formation, limits};

/// Admits whoever is at the other end of this connection, if a rule covers it.
pub(super) async fn admit(
    peers: &Peers,
    stream: &TlsStream<TcpStream>,
    caller: &Caller,
    opening: &Opening,
    join: &Join,
) -> Result<Admitted, PeerRefusal> {
    let statement = join_statement(&inbound::exporter(stream)?, &join.newcomer);
    let point = caller.public_point().ok_or(PeerRefusal::Proof)?;
    if !verify_node_proof(&point, &statement, &join.proof) {
        return Err(PeerRefusal::Proof);
    }
    let newcomer = Newcomer::decode(join.newcomer.as_slice()).map_err(|_| PeerRefusal::Malformed)?;
    let home = peers.home().ok_or(PeerRefusal::NotReady)?;
    inbound::check_program(&home, opening)?;
    let member = record(caller, newcomer);
    judge(&home, &member)?;
    let node = u64::from_be_bytes(formation::random(&peers.parts.module).map_err(|_| PeerRefusal::NotReady)?);
    let node = NodeId(node.max(1));
    propose(&home, Action::AdmitMember { node, member: member.clone() }).await?;
    tracing::info!(hsm = %name(member.hsm), node = format!("{:x}", node.0), kind = ?member.kind, zone = member.zone,
        address = member.peer_address, "an HSM was admitted");
    let sealed_master_key = match member.kind {
        MemberKind::Witness => Vec::new(),
        MemberKind::Hsm => hand_over(&home, node, &member)?,
    };
    Ok(Admitted {
        applied: home.node.applied().0,
        cluster: home.place.cluster.to_vec(),
        incarnation: home.place.incarnation.to_vec(),
        epoch: home.master.epoch().0,
        node: node.0,
        sealed_master_key,
        roster: roster(&home),
    })
}

fn record(caller: &Caller, newcomer: Newcomer) -> MemberRecord {
    MemberRecord {
        hsm: caller.hsm,
        kind: if newcomer.witness { MemberKind::Witness } else { MemberKind::Hsm },
        zone: newcomer.zone,
        peer_address: newcomer.peer_address,
        client_address: newcomer.client_address,
        certificate: caller.certificate.clone(),
        sealing_key: newcomer.sealing_key,
        version: newcomer.release,
        state_version: super::state_version(newcomer.newest_state),
        admitted_at: Stamp::default(),
    }
}

/// What can be refused is refused before anything is in the log. The log judges again.
fn judge(home: &Home, member: &MemberRecord) -> Result<(), PeerRefusal> {
    if member.kind == MemberKind::Hsm && home.master.is_keyless() {
        return Err(PeerRefusal::Keyless);
    }
    super::inbound::check_state_version(home, member.state_version)?;
    let now = home.node.now();
    let state = home.node.read();
    if state.cluster().is_none() {
        return Err(PeerRefusal::NotReady);
    }
    if let Some((_, known)) = state.member(member.hsm) {
        let same = known.certificate == member.certificate && known.kind == member.kind;
        return if same { Ok(()) } else { Err(PeerRefusal::Log(ErrorCode::AdmissionRefused)) };
    }
    state.judge_admission(member, now).map_err(|refusal| PeerRefusal::Log(refusal.code))
}

async fn propose(home: &Home, action: Action) -> Result<(), PeerRefusal> {
    const NOBODY: Origin = Origin { session: None, sequence: 0, lowest_unanswered: 0 };
    let (sender, receiver) = oneshot::channel();
    let done = move |outcome| {
        // Nobody waits any more when the time is over.
        drop(sender.send(outcome));
    };
    home.node.propose(NOBODY, action, Box::new(done));
    match timeout(limits::PROPOSAL_TIME, receiver).await {
        Ok(Ok(Outcome::Done { result: Ok(_), .. })) => Ok(()),
        Ok(Ok(Outcome::Done { result: Err(refusal), .. })) => Err(PeerRefusal::Log(refusal.code)),
        Ok(Ok(Outcome::Unavailable(code))) => Err(PeerRefusal::Log(code)),
        Ok(Ok(Outcome::Unknown) | Err(_)) | Err(_) => Err(PeerRefusal::Log(ErrorCode::Unknown)),
    }
}

fn hand_over(home: &Home, node: NodeId, member: &MemberRecord) -> Result<Vec<u8>, PeerRefusal> {
    let binding = binding(home, node, member.hsm);
    home.master.hand_over(&member.sealing_key, &binding).map_err(|fault| {
        tracing::warn!(hsm = %name(member.hsm), %fault, "the master key cannot be sealed to a newcomer's key");
        PeerRefusal::Malformed
    })
}

fn binding(home: &Home, node: NodeId, hsm: HsmId) -> Handover {
    Handover {
        cluster: hsm_core::ClusterId(home.place.cluster),
        incarnation: hsm_core::Incarnation(home.place.incarnation),
        epoch: home.master.epoch(),
        node,
        hsm,
    }
}

fn roster(home: &Home) -> Vec<RosterEntry> {
    let state = home.node.read();
    let entry = |(node, member): (&NodeId, &MemberRecord)| RosterEntry {
        node: node.0,
        hsm: member.hsm.0.to_vec(),
        peer_address: member.peer_address.clone(),
        certificate: member.certificate.clone(),
    };
    state.members().iter().map(entry).collect()
}
