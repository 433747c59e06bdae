//! How HSMs of one cluster reach each other: connections over TLS 1.3 with a certificate on both sides.
//!
//! [`Peers`] listens for the others, carries replication's messages ([`hsm_replication::network::Network`]), admits
//! newcomers (`admission`) and asks for admission (`newcomer`). Who the other side is, its certificate says: it must chain
//! to this installation's card key, and for everything but a join it must be the one that the roster has for this node.
//!
//! It must not understand what replication says, decide who may join (`hsm-core` does), or touch a client's request.
//! `member` and `joining` tell it where this HSM belongs; `process` gives it a runtime of its own.

mod admission;
mod fault;
mod inbound;
mod newcomer;
mod outbound;
mod tls;
mod wire;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use hsm_core::{ClusterId, HsmId, Incarnation, MemberRecord, NodeId, ReleaseRule};
use hsm_crypto::Module;
use hsm_protocol::peer::{Opening, opening};
use hsm_replication::network::{Answer, Network, PeerFault};
use hsm_replication::versions::OLDEST;
use hsm_replication::{History, Node};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

pub use fault::{DialFault, PeerRefusal};
pub use newcomer::Admission;

use crate::exit::Fault;
use crate::identity::Identity;
use crate::limits;
use crate::masters::Masters;
use crate::member::stopped;
use crate::release::ReleaseStatement;
use crate::settings::PeerSettings;
use crate::unix_socket::listen;
use inbound::Callers;
use outbound::{Class, Outbound};

/// Name of this protocol in the TLS handshake (RFC 7301).
const ALPN: &[u8] = b"hsm-peer/1";

/// Where this HSM belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The cluster.
    pub cluster: [u8; 16],
    /// Its history.
    pub incarnation: [u8; 16],
    /// The node that this HSM is in it.
    pub node: u64,
}

impl Place {
    /// The history, as replication names it.
    pub fn history(&self) -> History {
        History { cluster: ClusterId(self.cluster), incarnation: Incarnation(self.incarnation) }
    }
}

/// A member as the roster has it, as far as reaching it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub hsm: HsmId,
    /// Where it listens for peers; empty when it does not.
    pub address: String,
    /// The certificate of its node key, DER.
    pub certificate: Vec<u8>,
}

/// The members by their nodes.
pub type Roster = BTreeMap<u64, Known>;

/// What this HSM is a member with.
#[derive(Clone)]
pub struct Home {
    /// Where it belongs.
    pub place: Place,
    /// Its node.
    pub node: Arc<Node>,
    /// The cluster master keys, to be handed to newcomers; a witness's holds none.
    pub masters: Arc<Masters>,
}

/// What the process must know.
#[derive(Clone, Debug)]
pub enum PeerEvent {
    /// A member that has applied this many commands says that this node is not in the roster.
    Stranger {
        /// Who said so.
        by: HsmId,
        /// Last command that it had applied.
        applied: u64,
    },
}

/// What [`Peers`] is made of.
pub struct PeersParts {
    /// Addresses and ports.
    pub settings: PeerSettings,
    /// Who this HSM is.
    pub identity: Arc<Identity>,
    /// What its program is.
    pub release: Arc<ReleaseStatement>,
    /// Randomness.
    pub module: Arc<Module>,
    /// Where connections run.
    pub runtime: tokio::runtime::Handle,
    /// Called from tasks of the runtime: hand over and return.
    pub tell: Arc<dyn Fn(PeerEvent) + Send + Sync>,
}

/// The other HSMs. One per process.
pub struct Peers {
    parts: PeersParts,
    dialer: Arc<outbound::Dialer>,
    acceptor: tokio_rustls::TlsAcceptor,
    home: RwLock<Option<Home>>,
    roster: watch::Sender<Arc<Roster>>,
    outbound: Mutex<BTreeMap<(u64, Class), Outbound>>,
    callers: Callers,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Peers {
    /// Listens, and answers that this HSM belongs to no cluster until [`Peers::settle`].
    ///
    /// # Errors
    /// [`Fault::Listen`], [`Fault::Stopped`].
    pub fn start(parts: PeersParts) -> Result<Arc<Self>, Fault> {
        let address = parts.settings.listen;
        let bound = TcpListener::bind(address).map_err(|error| listen(address, &error))?;
        bound.set_nonblocking(true).map_err(|error| listen(address, &error))?;
        let process = u64::from_be_bytes(crate::formation::random(&parts.module)?);
        let dialer = outbound::Dialer::new(&parts, process).map_err(|fault| stopped(&fault))?;
        let acceptor = tls::acceptor(&parts.identity).map_err(|fault| stopped(&fault))?;
        let peers = Arc::new(Self {
            dialer: Arc::new(dialer),
            acceptor,
            home: RwLock::default(),
            roster: watch::Sender::new(Arc::default()),
            outbound: Mutex::default(),
            callers: Callers::default(),
            accepting: Mutex::default(),
            parts,
        });
        let entered = peers.parts.runtime.enter();
        let listener = tokio::net::TcpListener::from_std(bound).map_err(|error| listen(address, &error))?;
        drop(entered);
        let accepting = peers.parts.runtime.spawn(inbound::accept(Arc::clone(&peers), listener));
        *peers.accepting.lock() = Some(accepting);
        tracing::info!(%address, hsm = %name(peers.parts.identity.hsm()), "other HSMs may connect");
        Ok(peers)
    }

    /// From now on this HSM is a member, and `roster` says who the others are.
    pub fn settle(&self, home: Home, roster: Roster) {
        *self.home.write() = Some(home);
        self.follow(roster);
    }

    /// The roster changed: connections to and from those who are no more in it end, and those who moved are looked for
    /// where they are now.
    pub fn follow(&self, roster: Roster) {
        self.dialer.forget_others(&roster);
        self.outbound.lock().retain(|(node, _), outbound| roster.get(node) == Some(outbound.known()));
        self.roster.send_if_modified(|known| {
            let changed = **known != roster;
            *known = Arc::new(roster);
            changed
        });
    }

    /// The members that are known now.
    pub fn known(&self) -> Roster {
        self.roster.borrow().as_ref().clone()
    }

    /// Which programs of members the cluster takes.
    pub fn follow_rule(&self, rule: &ReleaseRule) {
        self.dialer.follow_rule(rule);
    }

    /// This HSM is a member no more, or stops: every connection ends.
    pub fn withdraw(&self) {
        self.home.write().take();
        self.follow(Roster::new());
    }

    /// Stops listening as well.
    pub fn stop(&self) {
        self.withdraw();
        if let Some(accepting) = self.accepting.lock().take() {
            accepting.abort();
        }
    }

    /// The addresses under which others know this HSM, and the ports that it may connect to.
    pub fn settings(&self) -> &PeerSettings {
        &self.parts.settings
    }

    fn home(&self) -> Option<Home> {
        self.home.read().clone()
    }

    /// Puts a message into the queue to a member; `None` when there is no way to it.
    fn send(&self, node: u64, message: Vec<u8>) -> Option<oneshot::Receiver<Vec<u8>>> {
        let known = self.roster.borrow().get(&node).cloned()?;
        let place = self.home.read().as_ref().map(|home| home.place)?;
        let class = Class::of(&message);
        let mut outbound = self.outbound.lock();
        let way = outbound.entry((node, class)).or_insert_with(|| {
            let way = outbound::Way { dialer: Arc::clone(&self.dialer), place, node, known, class };
            Outbound::start(way, &self.parts.runtime)
        });
        way.send(message)
    }
}

impl Network for Peers {
    fn call(&self, member: u64, _address: &str, message: Vec<u8>, at_most: Duration) -> Answer {
        let deadline = tokio::time::Instant::now() + at_most;
        // The roster says where a member is; what replication remembers may be older.
        let answer = self.send(member, message);
        Box::pin(async move {
            if let Some(answer) = answer
                && let Ok(Ok(answer)) = tokio::time::timeout_at(deadline, answer).await
            {
                return Ok(answer);
            }
            let failed = tokio::time::Instant::now() + limits::PEER_FAILED;
            tokio::time::sleep_until(failed.min(deadline)).await;
            Err(PeerFault::Unreachable(member))
        })
    }

    fn version(&self, member: u64) -> u32 {
        self.dialer.version(member)
    }
}

/// The first version of commands, for whoever does not say.
pub(crate) fn state_version(told: u32) -> u32 {
    told.max(hsm_core::versions::OLDEST)
}

/// What every connection begins with.
fn opening(settings: &PeerSettings, release: &ReleaseStatement, process: u64, purpose: opening::Purpose) -> Opening {
    Opening {
        oldest_version: OLDEST.min(settings.newest_version),
        newest_version: settings.newest_version,
        release: env!("CARGO_PKG_VERSION").to_owned(),
        process,
        newest_state: settings.newest_state,
        measured: Some(release.to_wire()),
        purpose: Some(purpose),
    }
}

/// The roster of a state.
pub fn roster_of(members: &BTreeMap<NodeId, MemberRecord>) -> Roster {
    let known = |member: &MemberRecord| Known {
        hsm: member.hsm,
        address: member.peer_address.clone(),
        certificate: member.certificate.clone(),
    };
    members.iter().map(|(node, member)| (node.0, known(member))).collect()
}

/// An HSM in the log: the name that `manage status` shows.
fn name(hsm: HsmId) -> String {
    crate::member::hexadecimal(&hsm.0)
}

/// Whether this HSM may connect there.
fn check_port(settings: &PeerSettings, address: SocketAddr) -> Result<(), DialFault> {
    if settings.ports.contains(&address.port()) { Ok(()) } else { Err(DialFault::Port { address }) }
}

const _: () = assert!(limits::PEER_SMALL_MESSAGE < limits::PEER_MESSAGE);
