//! The HSM's side of the management socket.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hsm_protocol::ErrorCode;
use hsm_protocol::management::{Failure, Reply, Request, reply, request};

use super::codec::{self, CodecFault};
use crate::limits;
use crate::listener::{Listener, peer_credentials};
use crate::peer::PeerCredentials;

/// Answers management requests; called on a thread of the connection's own, one request at a time per connection.
pub type Answer = Arc<dyn Fn(Request) -> Reply + Send + Sync>;

/// The management socket, open until this is dropped.
pub struct ManagementServer {
    _listener: Listener,
}

impl ManagementServer {
    /// Answers on this socket.
    ///
    /// # Errors
    /// When the system refuses a thread or a descriptor.
    pub fn start(listener: UnixListener, answer: Answer) -> io::Result<Self> {
        let open = Arc::new(AtomicUsize::new(0));
        let listener = Listener::start("listen-manage", listener, move |listener: &UnixListener| {
            let (stream, _) = listener.accept()?;
            let peer = peer_credentials(&stream)?;
            if !may_manage(peer, rustix::process::geteuid().as_raw()) {
                tracing::warn!(user = peer.user, process = peer.process, "management refused to another user");
                return refuse(stream);
            }
            if open.fetch_add(1, Ordering::AcqRel) >= limits::MANAGEMENT_CONNECTIONS {
                open.fetch_sub(1, Ordering::AcqRel);
                tracing::warn!(process = peer.process, "too many management connections");
                return Ok(());
            }
            let (answer, counted) = (Arc::clone(&answer), Arc::clone(&open));
            let thread = std::thread::Builder::new().name("manage".into()).spawn(move || {
                serve(stream, peer, &answer);
                counted.fetch_sub(1, Ordering::AcqRel);
            });
            if thread.is_err() {
                open.fetch_sub(1, Ordering::AcqRel);
            }
            thread.map(drop)
        })?;
        Ok(Self { _listener: listener })
    }
}

/// The user that the HSM runs as, and root. The socket's mode says the same; this holds where the mode was changed.
fn may_manage(peer: PeerCredentials, this_user: u32) -> bool {
    peer.user == 0 || peer.user == this_user
}

/// Says why before it closes.
fn refuse(mut stream: UnixStream) -> io::Result<()> {
    let reply = failure(ErrorCode::RoleRefused, "only root and the user that the HSM runs as may manage it");
    if let Err(error) = codec::send(&mut stream, &reply, limits::ACCEPT_PAUSE) {
        tracing::debug!(%error, "the refusal was not heard");
    }
    Ok(())
}

fn serve(mut stream: UnixStream, peer: PeerCredentials, answer: &Answer) {
    if let Err(error) = stream.set_nonblocking(false) {
        tracing::warn!(%error, "a management connection cannot be used");
        return;
    }
    let mut patience = limits::MANAGEMENT_TIME;
    loop {
        let reply = match codec::receive::<Request>(&mut stream, patience) {
            Ok(request) => {
                tracing::info!(process = peer.process, user = peer.user, request = name(&request), "management");
                if matches!(request.body, Some(request::Body::Stop(_) | request::Body::Leave(_))) {
                    // Whoever asked to stop or to leave learns by the end of this connection that the process is gone.
                    patience = limits::STOP_TIME * 3;
                }
                answer(request)
            }
            Err(CodecFault::Closed | CodecFault::Socket(_) | CodecFault::TimedOut) => return,
            Err(fault @ CodecFault::TooLong(_)) => failure(ErrorCode::TooLarge, &fault.to_string()),
            Err(fault @ CodecFault::Malformed) => failure(ErrorCode::Malformed, &fault.to_string()),
        };
        let over = matches!(&reply.body, Some(reply::Body::Failure(failure)) if is_fatal(failure.code));
        if let Err(error) = codec::send(&mut stream, &reply, limits::MANAGEMENT_TIME) {
            tracing::debug!(%error, "a management reply was not heard");
            return;
        }
        if over {
            drain(&mut stream);
            return;
        }
    }
}

/// Reads what the peer still sends, for a moment and up to a message's length: closing with bytes unread would reset the
/// connection and could take the refusal with it (unix(7)).
fn drain(stream: &mut UnixStream) {
    let drained = stream
        .shutdown(Shutdown::Write)
        .and_then(|()| stream.set_read_timeout(Some(limits::ACCEPT_PAUSE)))
        .and_then(|()| io::copy(&mut stream.take(limits::MANAGEMENT_MESSAGE as u64), &mut io::sink()));
    if let Err(error) = drained {
        tracing::trace!(%error, "the refused connection is gone");
    }
}

/// After these the next byte need not be the beginning of a message.
fn is_fatal(code: u32) -> bool {
    code == ErrorCode::TooLarge as u32 || code == ErrorCode::Malformed as u32
}

fn name(request: &Request) -> &'static str {
    use hsm_protocol::management::request::Body;
    match request.body {
        Some(Body::Status(_)) => "status",
        Some(Body::Form(_)) => "form",
        Some(Body::Certificates(_)) => "certificates",
        Some(Body::Initialize(_)) => "initialize",
        Some(Body::Join(_)) => "join",
        Some(Body::Leave(_)) => "leave",
        Some(Body::Stop(_)) => "stop",
        Some(request::Body::Recover(_)) => "recover",
        None => "unknown",
    }
}

/// A reply that says no.
pub fn failure(code: ErrorCode, message: &str) -> Reply {
    Reply { body: Some(reply::Body::Failure(Failure { code: code as u32, message: message.to_owned() })) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_same_user_may_manage() {
        let peer = |user| PeerCredentials { process: 1, user, group: 0 };
        assert!(may_manage(peer(0), 1000));
        assert!(may_manage(peer(1000), 1000));
        assert!(!may_manage(peer(1001), 1000));
        assert!(!may_manage(peer(1001), 0));
    }
}
