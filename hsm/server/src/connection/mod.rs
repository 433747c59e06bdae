//! Connections: sockets, TLS, frames, and the order in which bytes come and go.
//!
//! Each connection has a blocking thread that reads all there is, runs all short requests and writes once; replies that
//! take longer are sent by other threads under a short lock, and no slow reader blocks anybody but itself. It must not
//! look into messages: that is [`crate::dispatch`]'s, through the trait of `reader`. The listener calls [`serve_tls`]
//! and [`serve_unix`] on a thread of the connection's own.

mod channel;
pub(crate) mod courier;
pub(crate) mod facts;
pub(crate) mod late;
pub(crate) mod limits;
pub(crate) mod link;
pub(crate) mod pace;
pub(crate) mod reader;
pub(crate) mod replies;
mod socket;
#[cfg(test)]
mod tests;

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

pub use facts::ConnectionFacts;

use crate::dispatch::Service;
use crate::peer::Peer;
use channel::Channel;
use link::Link;
use reader::End;
use socket::Socket;

/// Runs a TLS connection to its end, on this thread, and logs why it ended. Tells `peer` when the handshake is over.
pub fn serve_tls(service: &Arc<Service>, stream: TcpStream, tls: Arc<rustls::ServerConfig>, peer: Peer) {
    match rustls::ServerConnection::new(tls) {
        Ok(connection) => serve(service, Socket::Tcp(stream), Channel::tls(connection), peer),
        Err(error) => tracing::error!(%peer, %error, "TLS cannot be offered; check the cluster certificate"),
    }
}

/// Runs a connection on the Unix socket to its end, on this thread. Tells `peer` when the first whole frame has come.
pub fn serve_unix(service: &Arc<Service>, stream: UnixStream, peer: Peer) {
    serve(service, Socket::Unix(stream), Channel::Clear, peer);
}

fn serve(service: &Arc<Service>, socket: Socket, channel: Channel, peer: Peer) {
    if let Err(error) = socket.prepare() {
        tracing::warn!(%peer, %error, "the connection was gone before it began");
        return;
    }
    let link = Link::new(service.next_connection(), peer, socket, channel, Arc::clone(service.courier()));
    let mut caller = service.open(&link);
    let end = reader::run(&link, &mut caller, service.busy());
    log_end(service, &link, &end);
}

fn log_end(service: &Service, link: &Link, end: &End) {
    let (connection, peer) = (link.number(), link.peer());
    match end {
        End::Closed | End::Ended | End::Idle => tracing::debug!(connection, %peer, reason = %end, "connection closed"),
        End::BrokenOff | End::Socket(_) => tracing::info!(connection, %peer, reason = %end, "connection lost"),
        End::Channel(_) | End::Handshake => {
            if link.is_handshaking() {
                service.metrics().handshake_failed();
            }
            tracing::warn!(connection, %peer, reason = %end, "connection refused");
        }
        End::Frame(_) | End::Slow => tracing::warn!(connection, %peer, reason = %end, "connection cut off"),
    }
}
