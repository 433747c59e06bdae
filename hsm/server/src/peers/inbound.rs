//! Connections from other HSMs: who may speak, and what is done with what they say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use hsm_core::{HsmId, NodeId};
use hsm_protocol::peer::{Link, Linked, Opening, OpeningReply, opening, opening_reply};
use hsm_replication::versions::OLDEST;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::fault::PeerRefusal;
use super::outbound::prepare;
use super::tls::{self, Caller};
use super::wire::{self, Kind, WireFault};
use super::{Home, Peers, admission, name};
use crate::limits;
use crate::release;

/// Accepts until it is aborted.
pub(super) async fn accept(peers: Arc<Peers>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(limits::PEER_CONNECTIONS));
    loop {
        let (socket, source) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a peer's connection was not accepted");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%source, "the limit of connections from HSMs is reached; a new one is closed");
            continue;
        };
        let peers = Arc::clone(&peers);
        // It ends with its connection.
        drop(tokio::spawn(async move {
            serve(&peers, socket, source).await;
            drop(place);
        }));
    }
}

async fn serve(peers: &Arc<Peers>, socket: TcpStream, source: SocketAddr) {
    let shaken = async {
        prepare(&socket)?;
        peers.acceptor.accept(socket).await
    };
    let mut stream = match timeout(limits::PEER_OPENING, shaken).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::info!(%source, %error, "a connection at the peer port came to nothing"),
        Err(_) => return tracing::info!(%source, "a connection at the peer port said nothing"),
    };
    let Some(caller) = Caller::of(stream.get_ref().1) else {
        return tracing::warn!(%source, "a certificate that names no HSM was presented at the peer port");
    };
    let received = timeout(limits::PEER_OPENING, wire::receive::<_, Opening>(&mut stream, limits::PEER_OPENING_BYTES));
    let opening = match received.await {
        Ok(Ok(opening)) => opening,
        Ok(Err(fault)) => {
            let refusal = match fault {
                WireFault::Malformed => PeerRefusal::Malformed,
                WireFault::TooLong { .. } => PeerRefusal::TooLong,
                WireFault::Socket(_) | WireFault::Closed => return,
            };
            return refuse(&mut stream, &caller, source, &refusal).await;
        }
        Err(_) => return tracing::info!(%source, hsm = %name(caller.hsm), "an HSM said nothing"),
    };
    let newest = peers.settings().newest_version;
    if opening.newest_version < OLDEST || opening.oldest_version > newest {
        let release = env!("CARGO_PKG_VERSION").to_owned();
        let refusal = PeerRefusal::Version { oldest: OLDEST, newest, release };
        tracing::warn!(hsm = %name(caller.hsm), theirs = opening.release, "an HSM of another version");
        return refuse(&mut stream, &caller, source, &refusal).await;
    }
    let purpose = opening.purpose.clone();
    match purpose {
        Some(opening::Purpose::Link(link)) => match judge_link(peers, &caller, &link, &opening) {
            Ok((home, visit)) => {
                let version = opening.newest_version.min(newest);
                answer(&mut stream, opening_reply::Body::Linked(linked_reply(peers, version))).await;
                linked(peers, stream, caller.hsm, &link, &home, &visit).await;
            }
            Err(refusal) => refuse(&mut stream, &caller, source, &refusal).await,
        },
        Some(opening::Purpose::Join(join)) => match admission::admit(peers, &stream, &caller, &opening, &join).await {
            Ok(admitted) => answer(&mut stream, opening_reply::Body::Admitted(admitted)).await,
            Err(refusal) => refuse(&mut stream, &caller, source, &refusal).await,
        },
        None => refuse(&mut stream, &caller, source, &PeerRefusal::Malformed).await,
    }
}

fn linked_reply(peers: &Peers, version: u32) -> Linked {
    Linked { version, measured: Some(peers.parts.release.to_wire()) }
}

/// Whether this certificate may speak for this node, to this node, now.
fn judge_link(peers: &Peers, caller: &Caller, link: &Link, opening: &Opening) -> Result<(Home, Visit), PeerRefusal> {
    let home = peers.home().ok_or(PeerRefusal::NotReady)?;
    if link.cluster != home.place.cluster {
        return Err(PeerRefusal::OtherCluster);
    }
    if link.incarnation != home.place.incarnation {
        return Err(PeerRefusal::OtherHistory);
    }
    if link.to != home.place.node {
        return Err(PeerRefusal::OtherNode);
    }
    let certificate = known_certificate(peers, &home, link.from)?;
    if certificate != caller.certificate {
        tracing::warn!(hsm = %name(caller.hsm), node = format!("{:x}", link.from), "an HSM poses as another node");
        return Err(PeerRefusal::Stranger { applied: 0 });
    }
    check_program(&home, opening)?;
    let visit = peers.callers.enter(link.from, opening.process)?;
    Ok((home, visit))
}

/// An HSM that does not know what the cluster uses would have to guess at it.
pub(super) fn check_state_version(home: &Home, knows: u32) -> Result<(), PeerRefusal> {
    let needs = home.node.read().version();
    if knows < needs { Err(PeerRefusal::TooOld { needs }) } else { Ok(()) }
}

/// Whether the cluster takes part with this program: it knows what is in use, and is a release that is trusted.
pub(super) fn check_program(home: &Home, opening: &Opening) -> Result<(), PeerRefusal> {
    check_state_version(home, super::state_version(opening.newest_state))?;
    let state = home.node.read();
    let Some(cluster) = state.cluster() else { return Ok(()) };
    let rule = &cluster.policy.releases;
    release::judge(rule, opening.measured.as_ref()).map_err(|misfit| PeerRefusal::of_program(misfit, rule))
}

/// The certificate that the roster has for this node. The index is read before the roster, so that the roster is at least
/// as new: a node that it lacks was removed, if that node saw itself in the roster before.
fn known_certificate(peers: &Peers, home: &Home, node: u64) -> Result<Vec<u8>, PeerRefusal> {
    let applied = home.node.applied().0;
    let state = home.node.read();
    if state.cluster().is_some() {
        let member = state.members().get(&NodeId(node)).map(|member| member.certificate.clone());
        // A member that came while this HSM was away: whoever introduced it is a member itself.
        let member = member.or_else(|| home.node.introduced(node));
        if state.members().contains_key(&NodeId(home.place.node)) {
            let removed = || match peers.roster.borrow().get(&node) {
                // It was removed and still has its vote.
                Some(known) if home.node.votes(node) => Ok(known.certificate.clone()),
                None if home.node.votes(node) => Err(PeerRefusal::NotReady),
                _ => Err(PeerRefusal::Stranger { applied }),
            };
            return member.map_or_else(removed, Ok);
        }
        if let Some(member) = member {
            return Ok(member);
        }
    }
    // This HSM is a newcomer itself, whose state has not come as far as its admission: it knows who was there then.
    let known = peers.roster.borrow().get(&node).map(|known| known.certificate.clone());
    known.ok_or(PeerRefusal::NotReady)
}

async fn linked(peers: &Arc<Peers>, stream: TlsStream<TcpStream>, hsm: HsmId, link: &Link, home: &Home, visit: &Visit) {
    tracing::debug!(hsm = %name(hsm), "a member connected");
    let node = link.from;
    let mut roster = peers.roster.subscribe();
    let removed = async {
        // Until there is state, the table holds whoever was there at the admission.
        while peers.home().is_some_and(|now| now.place == home.place) && known_certificate(peers, home, node).is_ok() {
            if roster.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        ended = carry(stream, node, home, visit) => match ended {
            Ok(()) => tracing::debug!(hsm = %name(hsm), "a member's connection ended"),
            Err(fault @ (WireFault::TooLong { .. } | WireFault::Malformed)) => {
                tracing::warn!(hsm = %name(hsm), %fault, "a member's connection was cut");
            }
            Err(fault) => tracing::debug!(hsm = %name(hsm), %fault, "a member's connection ended"),
        },
        () = removed => tracing::info!(hsm = %name(hsm), "the connection of an HSM that is no member any more was cut"),
    }
}

/// Answers messages until the connection ends. Several are answered at one time, each when it is ready.
async fn carry(stream: TlsStream<TcpStream>, from: u64, home: &Home, visit: &Visit) -> Result<(), WireFault> {
    let (mut reader, writer) = tokio::io::split(stream);
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    let places = Arc::new(Semaphore::new(limits::PEER_ANSWERS));
    let (broken, mut breaks) = mpsc::channel::<WireFault>(1);
    let reading = async {
        while let Some(frame) = wire::receive_frame(&mut reader).await? {
            if frame.kind != Kind::Message {
                return Err(WireFault::Malformed);
            }
            visit.heard();
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
            let (node, writer, broken) = (Arc::clone(&home.node), Arc::clone(&writer), broken.clone());
            // It ends with its answer, which has a deadline in replication.
            drop(tokio::spawn(async move {
                let answered = match node.answer(from, &frame.payload).await {
                    Ok(answer) => {
                        let mut writer = writer.lock().await;
                        wire::send_frame(&mut *writer, Kind::Answer, frame.number, &answer).await
                    }
                    Err(fault) => {
                        tracing::warn!(%fault, "a member's message was not answered");
                        Err(WireFault::Malformed)
                    }
                };
                if let Err(fault) = answered {
                    // One reason is enough to end the connection.
                    drop(broken.try_send(fault));
                }
                drop(place);
            }));
        }
        Ok(())
    };
    tokio::select! {
        read = reading => read,
        Some(fault) = breaks.recv() => Err(fault),
    }
}

async fn answer(stream: &mut TlsStream<TcpStream>, body: opening_reply::Body) {
    let reply = OpeningReply { body: Some(body) };
    match timeout(limits::PEER_OPENING, wire::send(stream, &reply)).await {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => tracing::debug!(%fault, "an answer to an HSM was not heard"),
        Err(_) => tracing::debug!("an answer to an HSM was not heard in time"),
    }
}

async fn refuse(stream: &mut TlsStream<TcpStream>, caller: &Caller, source: SocketAddr, refusal: &PeerRefusal) {
    use tokio::io::AsyncWriteExt;
    tracing::warn!(hsm = %name(caller.hsm), %source, reason = %refusal, "an HSM was refused");
    answer(stream, opening_reply::Body::Refused(refusal.to_wire())).await;
    if let Ok(Err(error)) = timeout(limits::PEER_OPENING, stream.shutdown()).await {
        tracing::trace!(%error, "the refused HSM is gone");
    }
}

/// Which processes speak for which nodes.
#[derive(Default)]
pub(super) struct Callers {
    processes: Arc<Mutex<BTreeMap<u64, Speaking>>>,
}

struct Speaking {
    process: u64,
    connections: usize,
    heard: Instant,
}

/// One connection of a process that speaks for a node.
pub(super) struct Visit {
    processes: Arc<Mutex<BTreeMap<u64, Speaking>>>,
    node: u64,
    process: u64,
}

impl Callers {
    /// Notes a connection; a second process for the same node is refused while the first is heard.
    fn enter(&self, node: u64, process: u64) -> Result<Visit, PeerRefusal> {
        let mut processes = self.processes.lock();
        let fresh = Speaking { process, connections: 0, heard: Instant::now() };
        let speaking = processes.entry(node).or_insert(fresh);
        if speaking.process != process {
            if speaking.connections > 0 && speaking.heard.elapsed() < limits::PEER_TWIN {
                return Err(PeerRefusal::Twin);
            }
            *speaking = Speaking { process, connections: 0, heard: Instant::now() };
        }
        speaking.connections += 1;
        Ok(Visit { processes: Arc::clone(&self.processes), node, process })
    }
}

impl Visit {
    fn heard(&self) {
        if let Some(speaking) = self.processes.lock().get_mut(&self.node).filter(|known| known.process == self.process)
        {
            speaking.heard = Instant::now();
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut processes = self.processes.lock();
        if let Some(speaking) = processes.get_mut(&self.node).filter(|known| known.process == self.process) {
            speaking.connections -= 1;
            if speaking.connections == 0 {
                processes.remove(&self.node);
            }
        }
    }
}

/// What a newcomer signs over on this connection.
pub(super) fn exporter(stream: &TlsStream<TcpStream>) -> Result<[u8; 32], PeerRefusal> {
    tls::exporter(stream.get_ref().1).map_err(|_| PeerRefusal::Proof)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_with_the_same_identity_is_refused_while_the_first_is_heard() {
        let callers = Callers::default();
        let first = callers.enter(1, 100).unwrap();
        let second = callers.enter(1, 100).unwrap();
        assert_eq!(callers.enter(1, 200).err(), Some(PeerRefusal::Twin));
        assert!(callers.enter(2, 200).is_ok());
        drop((first, second));
        assert!(callers.enter(1, 200).is_ok(), "a process that ended leaves its place at once");
    }
}
