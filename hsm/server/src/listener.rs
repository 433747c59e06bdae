//! Accepts connections from clients, within limits, and gives each a thread of its own.
//!
//! A connection is *half-open* until its handshake is over. Of these there is a limit, in all and per source, and where
//! it is reached the oldest one goes: an honest handshake takes milliseconds, so a flood of silent connections pushes out
//! itself. Established connections are never pushed out; beyond their limit new ones are closed at once. It must not read
//! or write a byte: `connection` does.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags};

use crate::connection::facts::Origin;
use crate::limits;
use crate::metrics::{Metrics, OpenConnection, Transport};
use crate::peer::{Peer, PeerCredentials, Source};

/// What runs a connection to its end, on the calling thread.
pub type Serve<S> = Arc<dyn Fn(S, Peer) + Send + Sync>;

/// A listener that accepts until it is dropped or stopped. Connections that it has handed over go on.
pub struct Listener {
    bell: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Accepts TLS connections. `serve` runs one of them to its end.
    ///
    /// # Errors
    /// When the system refuses the thread or its bell.
    pub fn start_tls(
        listener: TcpListener,
        connections: usize,
        metrics: Arc<Metrics>,
        serve: Serve<TcpStream>,
    ) -> io::Result<Self> {
        let half_open = Arc::new(HalfOpen::default());
        let gate = Gate::new(connections, Transport::Tls, metrics);
        Self::start("listen-tls", listener, move |listener| {
            let (stream, address) = listener.accept()?;
            let source = Source::Network(address);
            let Some(place) = gate.enter(source) else { return Ok(()) };
            let established = Arc::new(AtomicBool::new(false));
            half_open.admit(source, &stream, &established)?;
            let (serve, half_open) = (Arc::clone(&serve), Arc::clone(&half_open));
            place.run(move || {
                serve(stream, Peer::new(source, established));
                half_open.forget_ended();
            })
        })
    }

    /// Accepts connections on a Unix socket. There is no handshake that could be left half done.
    ///
    /// # Errors
    /// When the system refuses the thread or its bell.
    pub fn start_unix(listener: UnixListener, metrics: Arc<Metrics>, serve: Serve<UnixStream>) -> io::Result<Self> {
        let gate = Gate::new(limits::UNIX_CONNECTIONS, Transport::Unix, metrics);
        Self::start("listen-unix", listener, move |listener| {
            let (stream, _) = listener.accept()?;
            let source = Source::Local(peer_credentials(&stream)?);
            let Some(place) = gate.enter(source) else { return Ok(()) };
            let serve = Arc::clone(&serve);
            place.run(move || serve(stream, Peer::new(source, Arc::new(AtomicBool::new(true)))))
        })
    }

    /// Runs `accept_one` each time that a connection waits.
    pub(crate) fn start<L: AsFd + SetNonblocking + Send + 'static>(
        name: &str,
        listener: L,
        mut accept_one: impl FnMut(&L) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let bell = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let rung = Arc::clone(&bell);
        // A connection may be gone again between poll and accept; accept must not wait for the next one.
        listener.set_nonblocking(true)?;
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while wait(&listener, &rung) {
                match accept_one(&listener) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => {
                        tracing::warn!(%error, "a connection was not accepted");
                        std::thread::sleep(limits::ACCEPT_PAUSE);
                    }
                }
            }
        })?;
        Ok(Self { bell, thread: Some(thread) })
    }

    /// Stops accepting and closes the listening socket.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = rustix::io::write(&self.bell, &1_u64.to_ne_bytes()) {
            tracing::error!(%error, "a listener cannot be stopped");
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a listener's thread had failed");
        }
    }
}

/// std's two kinds of listeners as one.
pub(crate) trait SetNonblocking {
    fn set_nonblocking(&self, on: bool) -> io::Result<()>;
}

impl SetNonblocking for TcpListener {
    fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        self.set_nonblocking(on)
    }
}

impl SetNonblocking for UnixListener {
    fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        self.set_nonblocking(on)
    }
}

/// Who is at the other end of a Unix socket.
pub(crate) fn peer_credentials(stream: &UnixStream) -> io::Result<PeerCredentials> {
    let credentials = rustix::net::sockopt::socket_peercred(stream)?;
    Ok(PeerCredentials {
        process: credentials.pid.as_raw_nonzero().get(),
        user: credentials.uid.as_raw(),
        group: credentials.gid.as_raw(),
    })
}

/// Sleeps until a connection waits (true) or the bell rings (false).
fn wait(listener: &impl AsFd, bell: &OwnedFd) -> bool {
    loop {
        let mut descriptors = [PollFd::new(listener, PollFlags::IN), PollFd::new(bell, PollFlags::IN)];
        match rustix::event::poll(&mut descriptors, None) {
            Ok(_) if !descriptors[1].revents().is_empty() => return false,
            Ok(_) if !descriptors[0].revents().is_empty() => return true,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "a listener cannot wait");
                std::thread::sleep(limits::ACCEPT_PAUSE);
            }
        }
    }
}

/// Counts the connections of one listener.
struct Gate {
    limit: usize,
    open: Arc<AtomicUsize>,
    transport: Transport,
    metrics: Arc<Metrics>,
    full: AtomicBool,
}

/// One connection's place in the count; its drop gives it back.
struct Place {
    open: Arc<AtomicUsize>,
    _counted: OpenConnection,
}

impl Gate {
    fn new(limit: usize, transport: Transport, metrics: Arc<Metrics>) -> Self {
        Self { limit, open: Arc::default(), transport, metrics, full: AtomicBool::new(false) }
    }

    /// A place, or none when the limit is reached; said once per time that it is.
    fn enter(&self, source: Source) -> Option<Place> {
        if self.open.fetch_add(1, Ordering::AcqRel) >= self.limit {
            self.open.fetch_sub(1, Ordering::AcqRel);
            self.metrics.connection_refused();
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::warn!(limit = self.limit, %source, "the limit of connections is reached; new ones are closed");
            }
            return None;
        }
        self.full.store(false, Ordering::Relaxed);
        Some(Place { open: Arc::clone(&self.open), _counted: self.metrics.connection(self.transport) })
    }
}

impl Place {
    /// Runs `serve` on a thread of its own, holding the place.
    fn run(self, serve: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let builder = std::thread::Builder::new().name("connection".into()).stack_size(limits::CONNECTION_STACK);
        let thread = builder.spawn(move || {
            serve();
            drop(self);
        })?;
        // It is not joined: it ends with its connection, and `process` waits for connections by the service's count.
        drop(thread);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Handshakes under way, the oldest first.
#[derive(Default)]
struct HalfOpen {
    waiting: Mutex<Vec<Handshake>>,
}

struct Handshake {
    origin: Origin,
    established: Weak<AtomicBool>,
    stream: TcpStream,
}

impl Handshake {
    /// Whether it is still under way: neither over nor given up.
    fn is_waiting(&self) -> bool {
        self.established.upgrade().is_some_and(|established| !established.load(Ordering::Acquire))
    }
}

impl HalfOpen {
    /// Notes a new handshake; the oldest goes where a limit is passed.
    fn admit(&self, source: Source, stream: &TcpStream, established: &Arc<AtomicBool>) -> io::Result<()> {
        let origin = Origin::of(source);
        let waiting = &mut *self.waiting.lock();
        waiting.retain(Handshake::is_waiting);
        let crowded = waiting.iter().filter(|handshake| handshake.origin == origin).count();
        let oldest = if crowded >= limits::HALF_OPEN_PER_SOURCE {
            waiting.iter().position(|handshake| handshake.origin == origin)
        } else {
            (waiting.len() >= limits::HALF_OPEN).then_some(0)
        };
        if let Some(oldest) = oldest {
            let handshake = waiting.remove(oldest);
            if let Err(error) = handshake.stream.shutdown(Shutdown::Both) {
                tracing::trace!(%error, "the half-open connection had ended already");
            }
        }
        waiting.push(Handshake { origin, established: Arc::downgrade(established), stream: stream.try_clone()? });
        Ok(())
    }

    /// Lets go of sockets whose handshake is over, so that they close when their connection does.
    fn forget_ended(&self) {
        self.waiting.lock().retain(Handshake::is_waiting);
    }
}
