//! A peer for tests: speaks the frames of an HSM from a thread in the test's process, badly when told so.
//!
//! It keeps what a cluster would keep (sessions, results by sequence number, the roster) in a [`World`] that outlives its
//! listeners, so that "the HSM was killed and restarted" is to stop one listener and start another one. Several peers
//! with one world and a [`Face`] each are a cluster: [`hsms`] makes one.
#![expect(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod certificates;
pub(crate) mod hsms;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hsm_client::ClusterConfiguration;
use hsm_protocol::session::{EXPORTER_LABEL, attach_statement};
use hsm_protocol::wire::{self, reply, request};
use hsm_protocol::{ErrorCode, convert, frame};
use prost::Message;
use rustls::{ServerConfig, ServerConnection};

/// What the peer does with one request.
pub(crate) enum Answer {
    /// Answers.
    Now(reply::Body),
    /// Answers later; what comes meanwhile may overtake.
    After(Duration, reply::Body),
    /// Never answers.
    Never,
    /// Does it, and closes the connection without a word.
    Cut(Option<reply::Body>),
    /// Sends these bytes instead of a frame.
    Bytes(Vec<u8>),
    /// Answers under another request id.
    WrongId(reply::Body),
}

pub(crate) type Script = Box<dyn Fn(&World, &wire::Request) -> Option<Answer> + Send + Sync>;

/// The state of a cluster that is not there.
pub(crate) struct World {
    pub(crate) incarnation: Mutex<Vec<u8>>,
    pub(crate) index: AtomicU64,
    /// Token → public key of the session.
    pub(crate) sessions: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    /// (token, sequence) → result.
    pub(crate) results: Mutex<HashMap<(Vec<u8>, u64), reply::Body>>,
    /// Times that a change was done, by its label.
    pub(crate) done: Mutex<HashMap<String, u32>>,
    pub(crate) connections: AtomicU64,
    pub(crate) attaches: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) min_index_seen: AtomicU64,
    pub(crate) lowest_unanswered_seen: AtomicU64,
    /// Who belongs to the cluster, and the version of that; 0 = this cluster tells no roster.
    pub(crate) members: Mutex<Vec<wire::Member>>,
    pub(crate) roster: AtomicU32,
    pub(crate) roster_questions: AtomicU64,
    /// (connection, stream) → operation.
    pub(crate) streams: Mutex<HashMap<(u64, u64), PeerStream>>,
    /// Whether a token is exchanged when it is shown, and is void from then on.
    pub(crate) exchanges_tokens: AtomicBool,
    /// Sessions that one HSM alone knows: token → that HSM.
    pub(crate) alone: Mutex<HashMap<Vec<u8>, [u8; 16]>>,
    script: Mutex<Script>,
}

/// A multi-part operation: gives the input back, in blocks of 16 bytes.
#[derive(Default)]
pub(crate) struct PeerStream {
    pub(crate) next_part: u64,
    pub(crate) held: Vec<u8>,
    pub(crate) total: Vec<u8>,
    pub(crate) iv: Vec<u8>,
}

/// One HSM of the cluster: what is its own.
pub(crate) struct Face {
    pub(crate) hsm: [u8; 16],
    pub(crate) cluster: Mutex<Vec<u8>>,
    /// Another incarnation than the world's.
    pub(crate) incarnation: Mutex<Option<Vec<u8>>>,
    /// As after SIGSTOP: takes connections, as the kernel does, and says nothing.
    pub(crate) frozen: AtomicBool,
    /// The log index at which it is stuck; 0 = it keeps up.
    pub(crate) stuck_at: AtomicU64,
    /// Code with which it answers cryptography; 0 = none.
    pub(crate) refuses: AtomicU32,
    /// Milliseconds that cryptography takes.
    pub(crate) takes: AtomicU64,
    /// Takes logins alone, and only those that say that nobody else does.
    pub(crate) isolated: AtomicBool,
    /// Cryptography that it did.
    pub(crate) served: AtomicU64,
    /// When connections came.
    pub(crate) arrivals: Mutex<Vec<Instant>>,
}

impl Face {
    pub(crate) fn new(hsm: u8) -> Arc<Self> {
        Arc::new(Self {
            hsm: [hsm; 16],
            cluster: Mutex::new(vec![7; 16]),
            incarnation: Mutex::default(),
            frozen: AtomicBool::new(false),
            stuck_at: AtomicU64::new(0),
            refuses: AtomicU32::new(0),
            takes: AtomicU64::new(0),
            isolated: AtomicBool::new(false),
            served: AtomicU64::new(0),
            arrivals: Mutex::default(),
        })
    }

    fn index(&self, world: &World) -> u64 {
        let index = world.index.load(Ordering::Relaxed);
        match self.stuck_at.load(Ordering::Relaxed) {
            0 => index,
            stuck => stuck.min(index),
        }
    }

    /// What it answers before it looks at the request.
    fn refusal(&self, world: &World, request: &wire::Request) -> Option<reply::Body> {
        let cryptography = matches!(request.body, Some(request::Body::Operate(_) | request::Body::Stream(_)));
        let refuses = self.refuses.load(Ordering::Relaxed);
        if cryptography && refuses != 0 {
            return Some(failure(ErrorCode::from_number(refuses).unwrap()));
        }
        let lags = self.stuck_at.load(Ordering::Relaxed) != 0 && self.index(world) < request.min_index;
        lags.then(|| failure(ErrorCode::NotReady))
    }
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        Self::scripted(|_, _| None)
    }

    pub(crate) fn scripted(
        script: impl Fn(&Self, &wire::Request) -> Option<Answer> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            incarnation: Mutex::new(vec![1; 16]),
            index: AtomicU64::new(1),
            sessions: Mutex::default(),
            results: Mutex::default(),
            done: Mutex::default(),
            connections: AtomicU64::new(0),
            attaches: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            min_index_seen: AtomicU64::new(0),
            lowest_unanswered_seen: AtomicU64::new(0),
            members: Mutex::default(),
            roster: AtomicU32::new(0),
            roster_questions: AtomicU64::new(0),
            streams: Mutex::default(),
            exchanges_tokens: AtomicBool::new(false),
            alone: Mutex::default(),
            script: Mutex::new(Box::new(script)),
        })
    }

    pub(crate) fn set_script(&self, script: impl Fn(&Self, &wire::Request) -> Option<Answer> + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }

    fn hello(&self, face: &Face, nonce: &[u8; 32]) -> reply::Body {
        reply::Body::Hello(wire::HelloReply {
            server: "peer".to_owned(),
            cluster: face.cluster.lock().unwrap().clone(),
            incarnation: (face.incarnation.lock().unwrap().clone())
                .unwrap_or_else(|| self.incarnation.lock().unwrap().clone()),
            hsm: face.hsm.to_vec(),
            label: "peer".to_owned(),
            serial: "1".to_owned(),
            lifecycle: 3,
            nonce: nonce.to_vec(),
            frame_limit: hsm_protocol::limits::FRAME_LIMIT,
            requests_in_flight: 1024,
            ..Default::default()
        })
    }

    fn log_in(&self, face: &Face, login: wire::Login) -> reply::Body {
        let alone = face.isolated.load(Ordering::Relaxed);
        if alone && !login.isolated {
            return failure(ErrorCode::Isolated);
        }
        if login.password != b"password" {
            return failure(ErrorCode::LoginRefused);
        }
        let number = self.index.fetch_add(1, Ordering::Relaxed);
        let token = format!("token {number}").into_bytes();
        self.sessions.lock().unwrap().insert(token.clone(), login.session_public_key);
        let mut isolated_at = Vec::new();
        if alone {
            isolated_at = face.hsm.to_vec();
            self.alone.lock().unwrap().insert(token.clone(), face.hsm);
        }
        let expires_at = 4_000_000_000_000;
        reply::Body::Login(wire::LoginReply { token, session: vec![5; 16], expires_at, isolated_at })
    }

    fn attach(&self, face: &Face, link: &mut Link, attach: wire::Attach) -> reply::Body {
        self.attaches.fetch_add(1, Ordering::Relaxed);
        let Some(key) = self.sessions.lock().unwrap().get(&attach.token).cloned() else {
            return failure(ErrorCode::TokenRefused);
        };
        let home = self.alone.lock().unwrap().get(&attach.token).copied();
        if home.is_some_and(|home| home != face.hsm) {
            return failure(ErrorCode::NotLoggedIn);
        }
        let statement = attach_statement(&link.binding, &attach.token);
        let key = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, key);
        if key.verify(&statement, &attach.proof).is_err() {
            return failure(ErrorCode::TokenRefused);
        }
        let mut token = Vec::new();
        if self.exchanges_tokens.load(Ordering::Relaxed) {
            token = [attach.token.as_slice(), b" anew"].concat();
            let mut sessions = self.sessions.lock().unwrap();
            let key = sessions.remove(&attach.token).unwrap();
            sessions.insert(token.clone(), key);
        }
        link.sessions.push(if token.is_empty() { attach.token } else { token.clone() });
        let session = u32::try_from(link.sessions.len()).unwrap();
        reply::Body::Attach(wire::AttachReply {
            session,
            expires_at: 4_000_000_000_000,
            token,
            isolated: home.is_some(),
            ..Default::default()
        })
    }

    fn stream(&self, link: &Link, message: wire::Stream) -> reply::Body {
        let mut streams = self.streams.lock().unwrap();
        let key = (link.number, message.stream);
        let mut iv = Vec::new();
        if let Some(begin) = &message.begin {
            let mut stream = PeerStream::default();
            if let Some(wire::Mechanism { parameters: Some(wire::mechanism::Parameters::Gcm(gcm)), .. }) =
                &begin.mechanism
            {
                if gcm.generate_iv {
                    stream.iv = format!("iv of connection {}", link.number).into_bytes();
                    iv.clone_from(&stream.iv);
                } else {
                    stream.iv.clone_from(&gcm.iv);
                }
            }
            streams.insert(key, stream);
        }
        let Some(stream) = streams.get_mut(&key).filter(|stream| stream.next_part == message.part) else {
            return failure(ErrorCode::StreamUnknown);
        };
        stream.next_part += 1;
        stream.held.extend_from_slice(&message.data);
        stream.total.extend_from_slice(&message.data);
        let whole = stream.held.len() / 16 * 16;
        let mut data: Vec<u8> = stream.held.drain(..whole).collect();
        if message.finish {
            data.append(&mut stream.held);
            data.extend_from_slice(&stream.iv);
            streams.remove(&key);
        }
        reply::Body::Bytes(wire::BytesReply { data, iv })
    }

    /// What an honest HSM would do: a read gives its input back, a change counts itself under its label.
    fn honest(&self, face: &Face, link: &mut Link, request: wire::Request) -> reply::Body {
        let token =
            usize::try_from(request.session).ok().and_then(|session| link.sessions.get(session.wrapping_sub(1)));
        let token = token.cloned();
        if request.session != 0 && token.is_none() {
            return failure(ErrorCode::NotLoggedIn);
        }
        match request.body {
            Some(request::Body::Hello(_)) => self.hello(face, &link.binding),
            Some(request::Body::ClusterInfo(_)) => {
                self.roster_questions.fetch_add(1, Ordering::Relaxed);
                reply::Body::ClusterInfo(wire::ClusterInfoReply {
                    members: self.members.lock().unwrap().clone(),
                    applied_index: face.index(self),
                    roster: self.roster.load(Ordering::Relaxed),
                    ..Default::default()
                })
            }
            Some(request::Body::Login(login)) => self.log_in(face, login),
            Some(request::Body::Attach(attach)) => self.attach(face, link, attach),
            Some(request::Body::Logout(_)) => {
                self.sessions.lock().unwrap().remove(&token.unwrap_or_default());
                reply::Body::Done(wire::Done::default())
            }
            Some(request::Body::Operate(operate)) => {
                reply::Body::Bytes(wire::BytesReply { data: operate.data, iv: Vec::new() })
            }
            Some(request::Body::Stream(stream)) => self.stream(link, stream),
            Some(request::Body::AbandonStream(abandon)) => {
                self.streams.lock().unwrap().remove(&(link.number, abandon.stream));
                reply::Body::Done(wire::Done::default())
            }
            Some(request::Body::CreateUser(user)) => {
                let key = (token.unwrap_or_default(), request.sequence);
                self.lowest_unanswered_seen.fetch_max(request.lowest_unanswered, Ordering::Relaxed);
                self.index.fetch_add(1, Ordering::Relaxed);
                let mut results = self.results.lock().unwrap();
                if let Some(result) = results.get(&key).filter(|_| request.sequence != 0) {
                    return result.clone();
                }
                *self.done.lock().unwrap().entry(user.name).or_default() += 1;
                results.insert(key, reply::Body::Done(wire::Done::default()));
                reply::Body::Done(wire::Done::default())
            }
            Some(request::Body::ListMechanisms(_)) => reply::Body::ListMechanisms(wire::ListMechanismsReply {
                items: vec![wire::MechanismInfo { kind: 1, minimum: 2, maximum: 3, flags: 4 }],
            }),
            _ => failure(ErrorCode::NotSupported),
        }
    }

    fn answer(&self, face: &Face, link: &mut Link, request: wire::Request) -> Answer {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.min_index_seen.fetch_max(request.min_index, Ordering::Relaxed);
        if let Some(refusal) = face.refusal(self, &request) {
            return Answer::Now(refusal);
        }
        let cryptography = matches!(request.body, Some(request::Body::Operate(_) | request::Body::Stream(_)));
        face.served.fetch_add(u64::from(cryptography), Ordering::Relaxed);
        let scripted = (self.script.lock().unwrap())(self, &request);
        match scripted {
            // A cut without an answer of its own still does what was asked.
            Some(Answer::Cut(None)) => Answer::Cut(Some(self.honest(face, link, request))),
            Some(answer) => answer,
            None => match face.takes.load(Ordering::Relaxed) {
                takes if cryptography && takes > 0 => {
                    Answer::After(Duration::from_millis(takes), self.honest(face, link, request))
                }
                _ => Answer::Now(self.honest(face, link, request)),
            },
        }
    }
}

/// A refusal.
pub(crate) fn failure(code: ErrorCode) -> reply::Body {
    reply::Body::Failure(wire::Failure { code: code as u32, retry_after_milliseconds: 0, subject: 0 })
}

/// An echo request.
pub(crate) fn echo(data: &[u8]) -> request::Body {
    request::Body::Operate(wire::Operate { operation: 1, data: data.to_vec(), ..Default::default() })
}

/// The data of an echo's answer.
pub(crate) fn echoed(answer: reply::Body) -> Vec<u8> {
    match answer {
        reply::Body::Bytes(bytes) => bytes.data,
        _ => panic!("not the answer of an echo"),
    }
}

/// A change that counts itself under `label`.
pub(crate) fn counted_change(label: &str) -> request::Body {
    request::Body::CreateUser(wire::CreateUser { name: label.to_owned(), role: 1, password: Vec::new() })
}

/// One listener and its connections. Dropping it is `kill -9`.
pub(crate) struct Peer {
    pub(crate) address: PeerAddress,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

pub(crate) enum PeerAddress {
    Unix(PathBuf),
    Tcp(String),
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener, Arc<ServerConfig>),
}

struct Link {
    number: u64,
    binding: [u8; 32],
    sessions: Vec<Vec<u8>>,
}

trait Transport: Read + Write + Send {}
impl<T: Read + Write + Send> Transport for T {}

impl Peer {
    pub(crate) fn on_socket(path: &Path, world: &Arc<World>) -> Self {
        // Left behind by a killed one.
        drop(std::fs::remove_file(path));
        let listener = UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self::serve(PeerAddress::Unix(path.to_owned()), Listener::Unix(listener), world, &Face::new(9))
    }

    pub(crate) fn on_socket_as(path: &Path, world: &Arc<World>, face: &Arc<Face>) -> Self {
        drop(std::fs::remove_file(path));
        let listener = UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self::serve(PeerAddress::Unix(path.to_owned()), Listener::Unix(listener), world, face)
    }

    /// `address`: "127.0.0.1:0" for any port.
    pub(crate) fn on_port(address: &str, world: &Arc<World>, tls: Arc<ServerConfig>) -> Self {
        Self::on_port_as(address, world, tls, &Face::new(9))
    }

    pub(crate) fn on_port_as(address: &str, world: &Arc<World>, tls: Arc<ServerConfig>, face: &Arc<Face>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = PeerAddress::Tcp(listener.local_addr().unwrap().to_string());
        Self::serve(address, Listener::Tcp(listener, tls), world, face)
    }

    pub(crate) fn configuration(&self) -> ClusterConfiguration {
        let mut configuration = ClusterConfiguration::new("test");
        match &self.address {
            PeerAddress::Unix(path) => configuration.unix_socket = Some(path.clone()),
            PeerAddress::Tcp(address) => configuration.addresses = vec![address.clone()],
        }
        configuration
    }

    fn serve(address: PeerAddress, listener: Listener, world: &Arc<World>, face: &Arc<Face>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (world, stopped, face) = (Arc::clone(world), Arc::clone(&stop), Arc::clone(face));
        let accept = move || {
            let mut links = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if face.frozen.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                match accept_one(&listener) {
                    Some(open) => {
                        face.arrivals.lock().unwrap().push(Instant::now());
                        let (world, stopped, face) = (Arc::clone(&world), Arc::clone(&stopped), Arc::clone(&face));
                        links.push(std::thread::spawn(move || {
                            if let Some((transport, binding)) = open() {
                                serve_link(transport, binding, &world, &face, &stopped);
                            }
                        }));
                    }
                    None => std::thread::sleep(Duration::from_millis(1)),
                }
            }
            drop(listener);
            links.into_iter().for_each(|link| link.join().unwrap());
        };
        Self { address, stop, threads: vec![std::thread::spawn(accept)] }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

type Opened = Option<(Box<dyn Transport>, [u8; 32])>;

fn accept_one(listener: &Listener) -> Option<Box<dyn FnOnce() -> Opened + Send>> {
    let patience = Some(Duration::from_millis(1));
    match listener {
        Listener::Unix(listener) => {
            let (socket, _) = listener.accept().ok()?;
            socket.set_nonblocking(false).unwrap();
            socket.set_read_timeout(patience).unwrap();
            let mut nonce = [0; 32];
            aws_lc_rs::rand::fill(&mut nonce).unwrap();
            Some(Box::new(move || Some((Box::new(socket) as Box<dyn Transport>, nonce))))
        }
        Listener::Tcp(listener, tls) => {
            let (mut socket, _) = listener.accept().ok()?;
            socket.set_nonblocking(false).unwrap();
            socket.set_nodelay(true).unwrap();
            let tls = Arc::clone(tls);
            Some(Box::new(move || {
                socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                let mut connection = ServerConnection::new(tls).unwrap();
                connection.set_buffer_limit(None);
                while connection.is_handshaking() {
                    connection.complete_io(&mut socket).ok()?;
                }
                let binding = connection.export_keying_material([0; 32], EXPORTER_LABEL, None).ok()?;
                socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                let transport = rustls::StreamOwned::new(connection, socket);
                Some((Box::new(transport) as Box<dyn Transport>, binding))
            }))
        }
    }
}

fn serve_link(mut transport: Box<dyn Transport>, binding: [u8; 32], world: &World, face: &Face, stop: &AtomicBool) {
    let number = world.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let mut link = Link { number, binding, sessions: Vec::new() };
    let mut received: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut later: Vec<(Instant, Vec<u8>)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if face.frozen.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        match transport.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
        let mut out = Vec::new();
        let mut begin = 0;
        while let Some(found) = frame::parse(&received[begin..]).unwrap() {
            begin += found.consumed;
            let request = wire::Request::decode(found.body).unwrap();
            assert_eq!(found.header.method, request.body.as_ref().map_or(0, convert::method));
            let id = found.header.request_id;
            match world.answer(face, &mut link, request) {
                Answer::Now(body) => append(world, face, &mut out, id, body),
                Answer::After(delay, body) => {
                    let mut bytes = Vec::new();
                    append(world, face, &mut bytes, id, body);
                    later.push((Instant::now() + delay, bytes));
                }
                Answer::Never => {}
                Answer::Cut(_) => return,
                Answer::Bytes(bytes) => out.extend_from_slice(&bytes),
                Answer::WrongId(body) => append(world, face, &mut out, id ^ (1 << 40), body),
            }
        }
        received.drain(..begin);
        let now = Instant::now();
        later.retain(|(due, bytes)| {
            let is_due = *due <= now;
            if is_due {
                out.extend_from_slice(bytes);
            }
            !is_due
        });
        if !out.is_empty() && transport.write_all(&out).and_then(|()| transport.flush()).is_err() {
            return;
        }
    }
}

fn append(world: &World, face: &Face, out: &mut Vec<u8>, request_id: u64, body: reply::Body) {
    let (index, roster) = (face.index(world), world.roster.load(Ordering::Relaxed));
    // An HSM that is stuck may know an older roster as well.
    let roster = if face.stuck_at.load(Ordering::Relaxed) == 0 { roster } else { roster.min(1) };
    let reply = wire::Reply { index, roster, body: Some(body) };
    frame::append(out, frame::Header { method: 0, request_id }, &reply).unwrap();
}
