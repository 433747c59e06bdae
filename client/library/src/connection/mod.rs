//! One connection to one HSM: opening it, the exchange of messages, and the logins that are attached to it.
//!
//! The parts: [`socket`] and [`handshake`] open it, [`channel`] encrypts, [`multiplex`] shares it between threads by the
//! books of [`ledger`], [`patience`] says how long, [`attach`] proves logins on it. Nothing here repeats a call or chooses an HSM: that is the
//! business of [`crate::pool`] and [`crate::cluster`].

mod attach;
mod channel;
mod handshake;
mod ledger;
mod lost;
mod multiplex;
mod patience;
mod socket;
mod visit;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use hsm_protocol::session::BINDING_BYTES;
use hsm_protocol::trace::{TARGET, Trace};
use hsm_protocol::wire::{reply, request};
use hsm_protocol::{convert, frame, wire};
use rustls::ClientConfig;

use self::attach::Attachments;
use self::channel::Channel;
pub(crate) use self::lost::Lost;
use self::multiplex::Multiplexer;
pub(crate) use self::patience::{NoAnswer, Patience, Verdict, Watch};
use self::socket::Socket;
pub(crate) use self::visit::{Step, Visit};
use crate::address::Address;
use crate::counters::{LiveCounters, add};
use crate::error::PeerFault;
use crate::fork::ForkGuard;
use crate::held;
use crate::login::Login;
use crate::wipe::wipe_secrets;

/// What this library calls itself in `Hello`.
const CLIENT: &str = concat!("kagimori-client/", env!("CARGO_PKG_VERSION"));

/// A connection that has said hello.
pub(crate) struct Connection {
    address: String,
    multiplexer: Multiplexer,
    hello: Arc<wire::HelloReply>,
    hsm: HsmId,
    /// Log index and version of the roster that came with the hello.
    greeting: Told,
    binding: [u8; BINDING_BYTES],
    attachments: Attachments,
    streams: AtomicU64,
    calls: AtomicU32,
}

/// Name of an HSM: random, the same as long as its data folder lives.
pub(crate) type HsmId = [u8; 16];

/// What every answer tells besides its message.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// Log index that the HSM had applied.
    pub(crate) index: u64,
    /// Version of the roster that it knows; 0 = it says nothing.
    pub(crate) roster: u32,
}

/// Why an exchange did not end with a message of its own kind.
pub(crate) enum Stumble {
    /// No answer came.
    NoAnswer(NoAnswer),
    /// The HSM answered with a failure.
    Failure(wire::Failure),
    /// The request does not fit in a frame.
    TooLarge,
    /// A replayed operation gave other output than the first time.
    ReplayDiffers,
}

/// What opening a connection needs besides the address.
pub(crate) struct Opening<'a> {
    pub(crate) tls: Option<&'a Arc<ClientConfig>>,
    pub(crate) guard: &'a Arc<ForkGuard>,
    pub(crate) counters: &'a Arc<LiveCounters>,
    pub(crate) deadline: Instant,
}

impl Connection {
    /// Connects, shakes hands and says hello.
    pub(crate) fn open(address: &Address, opening: &Opening<'_>) -> Result<Self, Lost> {
        let deadline = opening.deadline;
        let socket = Socket::connect(address, deadline.saturating_duration_since(Instant::now()))?;
        let (channel, binding) = match (address, opening.tls) {
            (Address::Unix(_), _) => (Channel::Plain, None),
            (Address::Tcp { .. }, Some(tls)) => {
                let (tls, binding) = handshake::shake_hands(&socket, handshake::begin(tls)?, deadline)?;
                (Channel::Tls(Box::new(tls)), Some(binding))
            }
            (Address::Tcp { .. }, None) => return Err(Lost::Io("no TLS configuration".to_owned())),
        };
        Self::over(address.to_string(), socket, channel, binding, opening)
    }

    /// Finishes a visit that was answered.
    pub(crate) fn finish(visit: Visit, opening: &Opening<'_>) -> Result<Self, Lost> {
        let (address, socket, tls, registration) = visit.into_parts();
        let tls = tls.ok_or_else(|| Lost::Io("the handshake has not begun".to_owned()))?;
        let (tls, binding) = handshake::shake_hands(&socket, *tls, opening.deadline)?;
        let connection = Self::over(address.to_string(), socket, Channel::Tls(Box::new(tls)), Some(binding), opening);
        drop(registration);
        connection
    }

    /// Says hello on a socket that is ready for frames. `binding` = `None`: the HSM gives a nonce for it.
    fn over(
        address: String,
        socket: Socket,
        channel: Channel,
        binding: Option<[u8; BINDING_BYTES]>,
        opening: &Opening<'_>,
    ) -> Result<Self, Lost> {
        let registration = opening.guard.register(&socket);
        let multiplexer = Multiplexer::new(socket, registration, channel, Arc::clone(opening.counters));
        let hello = request::Body::Hello(wire::Hello { client: CLIENT.to_owned() });
        let request = wire::Request { body: Some(hello), ..Default::default() };
        let patience = Patience { deadline: opening.deadline, watch: None };
        let answer = match send(&multiplexer, request, patience) {
            Ok((_, answer)) => answer,
            Err(Stumble::NoAnswer(NoAnswer::Lost { reason, .. })) => return Err((*reason).clone()),
            Err(_) => return Err(Lost::Io("no answer in time to the first message".to_owned())),
        };
        let greeting = told(&answer);
        let hello = match answer.body {
            Some(reply::Body::Hello(hello)) => hello,
            Some(reply::Body::Failure(failure)) => return Err(refused_hello(&failure)),
            _ => return Err(PeerFault::Answer.into()),
        };
        let hsm = hello.hsm.as_slice().try_into().map_err(|_| PeerFault::Answer)?;
        let binding = match binding {
            Some(binding) => binding,
            None => hello.nonce.as_slice().try_into().map_err(|_| PeerFault::Answer)?,
        };
        multiplexer.set_limit(usize::try_from(hello.requests_in_flight).unwrap_or(usize::MAX));
        add(&opening.counters.connections, 1);
        Ok(Self {
            address,
            multiplexer,
            hello: Arc::new(hello),
            hsm,
            greeting,
            binding,
            attachments: Attachments::default(),
            streams: AtomicU64::new(1),
            calls: AtomicU32::new(0),
        })
    }

    /// Where it leads.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What the HSM said first.
    pub(crate) fn hello(&self) -> &Arc<wire::HelloReply> {
        &self.hello
    }

    /// Which HSM it leads to.
    pub(crate) fn hsm(&self) -> HsmId {
        self.hsm
    }

    /// What the HSM told with its hello.
    pub(crate) fn greeting(&self) -> Told {
        self.greeting
    }

    /// Whether new calls may use it.
    pub(crate) fn is_alive(&self) -> bool {
        self.multiplexer.is_alive()
    }

    /// Whether no answer can come on it any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.multiplexer.is_lost()
    }

    /// Whether the HSM has hung up, also when nobody has noticed yet.
    pub(crate) fn is_hung_up(&self) -> bool {
        self.is_lost() || self.multiplexer.is_hung_up()
    }

    /// Has every call leave that can be made elsewhere: the HSM was found dead.
    pub(crate) fn condemn(&self) {
        self.multiplexer.condemn();
    }

    /// Calls that use it now.
    pub(crate) fn calls(&self) -> &AtomicU32 {
        &self.calls
    }

    /// A number for a multi-part operation, new on this connection.
    pub(crate) fn new_stream(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a request and gives its answer; a failure comes back as [`Stumble::Failure`]. `note` gets what the answer
    /// told besides, in both cases.
    pub(crate) fn exchange(
        &self,
        request: wire::Request,
        patience: Patience<'_>,
        note: &dyn Fn(Told),
    ) -> Result<reply::Body, Stumble> {
        let trace = Trace(request.trace);
        let (id, answer) = send(&self.multiplexer, request, patience)?;
        note(told(&answer));
        let hsm = Short(&self.hsm);
        tracing::debug!(target: TARGET, %trace, %hsm, address = self.address, request = id, "answered");
        match answer.body {
            Some(reply::Body::Failure(failure)) => Err(Stumble::Failure(failure)),
            Some(body) => Ok(body),
            None => Err(self.broken_answer()),
        }
    }

    /// The index of a login on this connection; attaches it when it is not.
    pub(crate) fn session(
        &self,
        login: &Login,
        min_index: u64,
        trace: Trace,
        patience: Patience<'_>,
        note: &dyn Fn(Told),
    ) -> Result<u32, Stumble> {
        self.attachments.session(login.number(), patience.deadline, || {
            let attach = request::Body::Attach(login.attach(&self.binding));
            let request = wire::Request { body: Some(attach), min_index, trace: trace.0, ..Default::default() };
            match self.exchange(request, patience, note)? {
                reply::Body::Attach(reply) if reply.session != 0 => {
                    login.exchange_token(&reply.token);
                    if reply.exchange {
                        self.exchange_objects(login, &reply, trace, patience, note)?;
                    }
                    if !reply.isolated {
                        login.note_merged();
                    }
                    Ok(reply)
                }
                _ => Err(self.broken_answer()),
            }
        })
    }

    /// Brings what the login holds over to the present epoch, and its token last. A refusal leaves all as it is: the old
    /// token stays good, and the next connection tries again.
    fn exchange_objects(
        &self,
        login: &Login,
        attached: &wire::AttachReply,
        trace: Trace,
        patience: Patience<'_>,
        note: &dyn Fn(Told),
    ) -> Result<(), Stumble> {
        let Some(holder) = login.held() else { return Ok(()) };
        let all = holder.all();
        let parts = held::parts(&all);
        for (at, part) in parts.iter().enumerate() {
            let objects = part.iter().map(|object| object.reference.clone()).collect();
            let exchange = wire::ExchangeObjects { objects, last: at + 1 == parts.len() };
            let body = Some(request::Body::ExchangeObjects(exchange));
            let request = wire::Request { session: attached.session, body, trace: trace.0, ..Default::default() };
            let reply = match self.exchange(request, patience, note) {
                Ok(reply::Body::ExchangeObjects(reply)) if reply.sealed.len() == part.len() => reply,
                Ok(_) => return Err(self.broken_answer()),
                Err(Stumble::Failure(failure)) => {
                    tracing::debug!(target: TARGET, %trace, code = failure.code, "session objects were not exchanged");
                    return Ok(());
                }
                Err(stumble) => return Err(stumble),
            };
            for (old, sealed) in part.iter().zip(reply.sealed).filter(|(_, sealed)| !sealed.is_empty()) {
                holder.exchange(old, sealed);
            }
            login.exchange_token(&reply.token);
        }
        Ok(())
    }

    /// Forgets the index of a login, so that the next call attaches it anew.
    pub(crate) fn detach(&self, login: &Login) {
        self.attachments.forget(login.number());
    }

    /// The HSM answered something that does not fit: nothing more that it says can be trusted.
    pub(crate) fn broken_answer(&self) -> Stumble {
        self.multiplexer.fail(PeerFault::Answer.into());
        let reason = Arc::new(Lost::Peer(PeerFault::Answer));
        Stumble::NoAnswer(NoAnswer::Lost { reason, sent: true })
    }
}

fn refused_hello(failure: &wire::Failure) -> Lost {
    match hsm_protocol::ErrorCode::from_number(failure.code) {
        Some(code) => Lost::Io(code.to_string()),
        None => Lost::Peer(PeerFault::Code(failure.code)),
    }
}

fn told(answer: &wire::Reply) -> Told {
    Told { index: answer.index, roster: answer.roster }
}

/// The beginning of an HSM's name, for the log.
pub(crate) struct Short<'a>(pub(crate) &'a HsmId);

impl std::fmt::Display for Short<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0[..4].iter().try_for_each(|octet| write!(formatter, "{octet:02x}"))
    }
}

/// Sends a request; gives its id and its answer.
fn send(
    multiplexer: &Multiplexer,
    mut request: wire::Request,
    patience: Patience<'_>,
) -> Result<(u64, wire::Reply), Stumble> {
    let mut bytes = Vec::new();
    let method = request.body.as_ref().map_or(0, convert::method);
    let encoded = frame::append(&mut bytes, frame::Header { method, request_id: 0 }, &request);
    let secret = request.body.as_mut().is_some_and(wipe_secrets);
    drop(request);
    encoded.map_err(|_| Stumble::TooLarge)?;
    let answer = multiplexer.exchange(bytes, secret, patience).map_err(Stumble::NoAnswer)?;
    match <wire::Reply as prost::Message>::decode(answer.body.as_slice()) {
        Ok(reply) => Ok((answer.id, reply)),
        Err(_) => {
            multiplexer.fail(PeerFault::Answer.into());
            let reason = Arc::new(Lost::Peer(PeerFault::Answer));
            Err(Stumble::NoAnswer(NoAnswer::Lost { reason, sent: true }))
        }
    }
}
