//! A member's side of a join: who asks is verified, whether a rule covers it is decided by the log, and then the cluster
//! master key is sealed to the key that the newcomer has proven to be its own.

use std::time::{Duration, Instant};

use hsm_core::command::Origin;
use hsm_core::{Action, MemberKind, MemberRecord, NodeId, Stamp};
use hsm_crypto::{Handover, MasterKey, verify_node_proof};
use hsm_protocol::ErrorCode;
use hsm_protocol::peer::{Admitted, Join, Newcomer, Opening, RosterEntry};
use hsm_replication::Outcome;
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_rustls::server::TlsStream;

use super::fault::PeerRefusal;
use super::tls::{Caller, join_statement};
use super::{Home, Peers, inbound, name};
use crate::masters::Held;
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
    let held = masters_of_now(&home).await?;
    let seal = |master: &MasterKey| hand_over(&home, master, node, &member);
    let (sealed_master_key, sealed_master_key_before) = match (member.kind, &held.before) {
        (MemberKind::Witness, _) => (Vec::new(), Vec::new()),
        (MemberKind::Hsm, None) => (seal(&held.present)?, Vec::new()),
        (MemberKind::Hsm, Some(before)) => (seal(&held.present)?, seal(before)?),
    };
    Ok(Admitted {
        applied: home.node.applied().0,
        cluster: home.place.cluster.to_vec(),
        incarnation: home.place.incarnation.to_vec(),
        epoch: held.present.epoch().0,
        node: node.0,
        sealed_master_key,
        sealed_master_key_before,
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
    if member.kind == MemberKind::Hsm && home.masters.held().present.is_keyless() {
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

/// The master keys, once they are those of the state that has the newcomer in its roster: whatever epoch begins later is
/// sealed for the newcomer too.
async fn masters_of_now(home: &Home) -> Result<Held, PeerRefusal> {
    let deadline = Instant::now() + limits::EPOCH_WAIT;
    loop {
        let epoch = home.node.read().cluster().map(|cluster| cluster.epoch);
        let held = home.masters.held();
        if held.present.is_keyless() || Some(held.present.epoch()) == epoch {
            return Ok(held);
        }
        if Instant::now() > deadline {
            return Err(PeerRefusal::NotReady);
        }
        sleep(Duration::from_millis(10)).await;
    }
}

fn hand_over(home: &Home, master: &MasterKey, node: NodeId, member: &MemberRecord) -> Result<Vec<u8>, PeerRefusal> {
    let binding = Handover {
        cluster: hsm_core::ClusterId(home.place.cluster),
        incarnation: hsm_core::Incarnation(home.place.incarnation),
        epoch: master.epoch(),
        node,
        hsm: member.hsm,
    };
    master.hand_over(&member.sealing_key, &binding).map_err(|fault| {
        tracing::warn!(hsm = %name(member.hsm), %fault, "the master key cannot be sealed to a newcomer's key");
        PeerRefusal::Malformed
    })
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
