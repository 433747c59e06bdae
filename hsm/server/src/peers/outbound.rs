//! Connections to other members: one for small messages and one for large ones to each, opened when they are needed and
//! opened anew, with growing pauses, when they are lost.
//!
//! Messages have numbers, and answers come in any order: a caller that gave up leaves nothing half read behind. It must
//! not know what the messages mean.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hsm_core::ReleaseRule;
use hsm_protocol::peer::{Link, OpeningReply, Release, opening, opening_reply};
use hsm_replication::versions::OLDEST;
use parking_lot::Mutex;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::fault::{DialFault, PeerRefusal};
use super::tls::{self, Caller, PeerTlsFault};
use super::wire::{self, Kind, WireFault};
use super::{Known, PeerEvent, PeersParts, Place, Roster, check_port, name};
use crate::identity::Identity;
use crate::limits;
use crate::release::{self, ReleaseStatement};
use crate::settings::PeerSettings;

/// Which connection a message takes, so that no heartbeat waits behind a part of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Up to [`limits::PEER_SMALL_MESSAGE`]: votes, heartbeats, pulses.
    Small,
    /// Above: entries with much in them, parts of snapshots.
    Large,
}

impl Class {
    pub(super) fn of(message: &[u8]) -> Self {
        if message.len() <= limits::PEER_SMALL_MESSAGE { Self::Small } else { Self::Large }
    }
}

/// Opens connections in this HSM's name.
pub(super) struct Dialer {
    connector: tokio_rustls::TlsConnector,
    settings: PeerSettings,
    pub(super) identity: Arc<Identity>,
    release: Arc<ReleaseStatement>,
    pub(super) process: u64,
    tell: Arc<dyn Fn(PeerEvent) + Send + Sync>,
    /// The newest version that a member and this HSM speak, by its node, as it was told last.
    versions: Mutex<BTreeMap<u64, u32>>,
    /// Which programs the cluster takes.
    rule: Mutex<ReleaseRule>,
}

impl Dialer {
    pub(super) fn new(parts: &PeersParts, process: u64) -> Result<Self, PeerTlsFault> {
        Ok(Self {
            connector: tls::connector(&parts.identity)?,
            settings: parts.settings.clone(),
            identity: Arc::clone(&parts.identity),
            release: Arc::clone(&parts.release),
            process,
            tell: Arc::clone(&parts.tell),
            versions: Mutex::default(),
            rule: Mutex::default(),
        })
    }

    /// The newest version that this member and this HSM both speak, as far as it is known.
    pub(super) fn version(&self, node: u64) -> u32 {
        self.versions.lock().get(&node).copied().unwrap_or(OLDEST)
    }

    /// A member answered that this is the newest that both speak. A member may come back with an older program.
    fn note_version(&self, node: u64, told: u32) {
        let version = told.min(self.settings.newest_version).max(OLDEST);
        self.versions.lock().insert(node, version);
    }

    /// From now on members are taken by this rule.
    pub(super) fn follow_rule(&self, rule: &ReleaseRule) {
        self.rule.lock().clone_from(rule);
    }

    fn check_program(&self, stated: Option<&Release>) -> Result<(), DialFault> {
        let rule = self.rule.lock();
        release::judge(&rule, stated).map_err(|misfit| DialFault::Program(PeerRefusal::of_program(misfit, &rule)))
    }

    /// Members that are no more leave nothing behind.
    pub(super) fn forget_others(&self, roster: &Roster) {
        self.versions.lock().retain(|node, _| roster.contains_key(node));
    }

    /// A connection whose handshake is over, and who is at its other end.
    pub(super) async fn dial(&self, address: SocketAddr) -> Result<(TlsStream<TcpStream>, Caller), DialFault> {
        check_port(&self.settings, address)?;
        let connecting = timeout(limits::PEER_CONNECT, TcpStream::connect(address)).await;
        let socket = connecting.map_err(|_| DialFault::TimedOut)?.map_err(DialFault::Unreachable)?;
        prepare(&socket).map_err(DialFault::Unreachable)?;
        let shaking = self.connector.connect(tls::server_name(address.ip()), socket);
        let stream = timeout(limits::PEER_OPENING, shaking).await;
        let stream = stream.map_err(|_| DialFault::TimedOut)?.map_err(DialFault::of_tls)?;
        let caller = Caller::of(stream.get_ref().1).ok_or(DialFault::OtherHsm)?;
        Ok((stream, caller))
    }

    /// Sends the first message and reads its answer.
    pub(super) async fn open(
        &self,
        stream: &mut TlsStream<TcpStream>,
        purpose: opening::Purpose,
        within: Duration,
    ) -> Result<opening_reply::Body, DialFault> {
        let exchange = async {
            // What the other side has to say of our certificate comes as the answer to what we say first.
            wire::send(stream, &super::opening(&self.settings, &self.release, self.process, purpose)).await?;
            wire::receive::<_, OpeningReply>(stream, limits::PEER_OPENING_REPLY_BYTES).await
        };
        match timeout(within, exchange).await {
            Err(_) => Err(DialFault::TimedOut),
            Ok(Err(WireFault::Socket(error))) => Err(DialFault::of_tls(error)),
            Ok(Err(fault)) => Err(fault.into()),
            Ok(Ok(reply)) => match reply.body {
                Some(opening_reply::Body::Refused(refused)) => Err(DialFault::Refused(PeerRefusal::from_wire(refused))),
                Some(body) => Ok(body),
                None => Err(WireFault::Malformed.into()),
            },
        }
    }
}

/// Small messages leave at once, and a connection whose other end is gone is noticed.
pub(super) fn prepare(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let silence = u32::try_from(limits::PEER_SILENCE.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(socket, silence)?;
    rustix::net::sockopt::set_socket_keepalive(socket, true)?;
    rustix::net::sockopt::set_tcp_keepidle(socket, limits::PEER_SILENCE)?;
    rustix::net::sockopt::set_tcp_keepintvl(socket, limits::PEER_SILENCE / 2)?;
    Ok(())
}

/// Which connection this is.
pub(super) struct Way {
    pub(super) dialer: Arc<Dialer>,
    pub(super) place: Place,
    pub(super) node: u64,
    pub(super) known: Known,
    pub(super) class: Class,
}

/// The queue of one connection. Its drop ends the connection.
pub(super) struct Outbound {
    known: Known,
    queue: mpsc::Sender<Call>,
}

struct Call {
    message: Vec<u8>,
    done: oneshot::Sender<Vec<u8>>,
}

type Waiting = Mutex<BTreeMap<u64, oneshot::Sender<Vec<u8>>>>;

impl Outbound {
    pub(super) fn start(way: Way, runtime: &tokio::runtime::Handle) -> Self {
        let (queue, calls) = mpsc::channel(limits::PEER_QUEUE);
        let known = way.known.clone();
        // The task ends when the queue does.
        drop(runtime.spawn(way.run(calls)));
        Self { known, queue }
    }

    pub(super) fn known(&self) -> &Known {
        &self.known
    }

    /// The answer, once there is one; `None` when the queue is full. The receiver fails when the connection does.
    pub(super) fn send(&self, message: Vec<u8>) -> Option<oneshot::Receiver<Vec<u8>>> {
        let (done, answer) = oneshot::channel();
        self.queue.try_send(Call { message, done }).ok().map(|()| answer)
    }
}

impl Way {
    async fn run(self, mut calls: mpsc::Receiver<Call>) {
        let mut pause = limits::PEER_PAUSE;
        let mut said = false;
        while let Some(first) = calls.recv().await {
            if first.done.is_closed() {
                continue;
            }
            match self.link().await {
                Ok(stream) => {
                    tracing::debug!(hsm = %name(self.known.hsm), class = ?self.class, "connected to a member");
                    (pause, said) = (limits::PEER_PAUSE, false);
                    if let Err(fault) = carry(stream, first, &mut calls).await {
                        tracing::debug!(hsm = %name(self.known.hsm), %fault, "the connection to a member ended");
                    }
                }
                Err(fault) => {
                    self.complain(&fault, &mut said);
                    drop(first);
                    // Their callers wait out their time and ask again.
                    while calls.try_recv().is_ok() {}
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(limits::PEER_PAUSE_MAXIMUM);
                }
            }
        }
    }

    /// Says it once per time that the member is lost, and hands on that this HSM may have been removed.
    fn complain(&self, fault: &DialFault, said: &mut bool) {
        let hsm = name(self.known.hsm);
        if std::mem::replace(said, true) {
            tracing::debug!(%hsm, address = self.known.address, %fault, "a member is still not reached");
        } else {
            tracing::warn!(%hsm, address = self.known.address, %fault, "a member is not reached");
        }
        if let DialFault::Refused(PeerRefusal::Stranger { applied }) = fault {
            (self.dialer.tell)(PeerEvent::Stranger { by: self.known.hsm, applied: *applied });
        }
    }

    async fn link(&self) -> Result<TlsStream<TcpStream>, DialFault> {
        let address = self.known.address.parse().map_err(|_| DialFault::Address(self.known.address.clone()))?;
        let (mut stream, caller) = self.dialer.dial(address).await?;
        if caller.certificate != self.known.certificate {
            return Err(DialFault::OtherHsm);
        }
        let link = Link {
            cluster: self.place.cluster.to_vec(),
            incarnation: self.place.incarnation.to_vec(),
            from: self.place.node,
            to: self.node,
        };
        match self.dialer.open(&mut stream, opening::Purpose::Link(link), limits::PEER_OPENING).await? {
            opening_reply::Body::Linked(linked) => {
                self.dialer.check_program(linked.measured.as_ref())?;
                self.dialer.note_version(self.node, linked.version);
                Ok(stream)
            }
            _ => Err(WireFault::Malformed.into()),
        }
    }
}

/// Sends calls and brings their answers until the connection fails, is idle, or nobody can call any more.
async fn carry(stream: TlsStream<TcpStream>, first: Call, calls: &mut mpsc::Receiver<Call>) -> Result<(), WireFault> {
    let waiting = Waiting::default();
    let (reader, writer) = tokio::io::split(stream);
    // Whichever ends first ends the connection; calls that wait fail with the map.
    tokio::select! {
        ended = send_calls(writer, first, calls, &waiting) => ended,
        ended = bring_answers(reader, &waiting) => ended,
    }
}

async fn send_calls(
    mut writer: WriteHalf<TlsStream<TcpStream>>,
    first: Call,
    calls: &mut mpsc::Receiver<Call>,
    waiting: &Waiting,
) -> Result<(), WireFault> {
    let mut next = Some(first);
    for number in 1.. {
        let call = match next.take() {
            Some(call) => call,
            None => match timeout(limits::PEER_IDLE, calls.recv()).await {
                Ok(Some(call)) => call,
                Ok(None) | Err(_) => return Ok(()),
            },
        };
        if call.done.is_closed() {
            continue;
        }
        {
            let mut waiting = waiting.lock();
            if waiting.len() >= limits::PEER_QUEUE {
                waiting.retain(|_, done| !done.is_closed());
            }
            waiting.insert(number, call.done);
        }
        wire::send_frame(&mut writer, Kind::Message, number, &call.message).await?;
    }
    Ok(())
}

async fn bring_answers(mut reader: ReadHalf<TlsStream<TcpStream>>, waiting: &Waiting) -> Result<(), WireFault> {
    while let Some(frame) = wire::receive_frame(&mut reader).await? {
        if frame.kind != Kind::Answer {
            return Err(WireFault::Malformed);
        }
        // Nobody waits for it any more when its caller gave up.
        if let Some(done) = waiting.lock().remove(&frame.number)
            && done.send(frame.payload).is_err()
        {
            tracing::trace!(number = frame.number, "an answer came too late");
        }
    }
    Err(WireFault::Closed)
}
