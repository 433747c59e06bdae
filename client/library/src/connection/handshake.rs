//! The TLS handshake within a time, on a socket that does not block.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use hsm_protocol::frame::ALPN;
use hsm_protocol::session::{BINDING_BYTES, EXPORTER_LABEL};
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::{IpAddr, Ipv4Addr, ServerName};

use super::lost::Lost;
use super::socket::Socket;
use crate::error::PeerFault;
use crate::system::Readiness;

/// Largest flight of a handshake that is read at once.
const FLIGHT_BYTES: usize = 16 * 1024;

/// A handshake whose first flight is to be sent.
pub(crate) fn begin(configuration: &Arc<ClientConfig>) -> Result<ClientConnection, Lost> {
    // The name is neither sent nor compared: see `crate::trust`.
    let nobody = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])));
    let mut tls = ClientConnection::new(Arc::clone(configuration), nobody)?;
    tls.set_buffer_limit(None);
    Ok(tls)
}

/// Shakes hands; gives the connection and the value that binds a login to it.
pub(crate) fn shake_hands(
    socket: &Socket,
    mut tls: ClientConnection,
    deadline: Instant,
) -> Result<(ClientConnection, [u8; BINDING_BYTES]), Lost> {
    let mut buffer = vec![0; FLIGHT_BYTES];
    loop {
        send_records(socket, &mut tls, deadline)?;
        if !tls.is_handshaking() {
            break;
        }
        let count = receive(socket, &mut buffer, deadline)?;
        if count == 0 {
            return Err(Lost::Closed);
        }
        let mut received = &buffer[..count];
        while !received.is_empty() {
            tls.read_tls(&mut received)?;
            if let Err(error) = tls.process_new_packets() {
                // The alert tells the HSM's log what is wrong; if it does not go out, our own error says it.
                drop(send_records(socket, &mut tls, deadline));
                return Err(error.into());
            }
        }
    }
    if tls.alpn_protocol() != Some(ALPN) {
        return Err(PeerFault::Alpn.into());
    }
    let binding = tls.export_keying_material([0; BINDING_BYTES], EXPORTER_LABEL, None)?;
    Ok((tls, binding))
}

fn send_records(socket: &Socket, tls: &mut ClientConnection, deadline: Instant) -> Result<(), Lost> {
    let mut records = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut records)?;
    }
    let mut rest = &records[..];
    while !rest.is_empty() {
        match socket.send(rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait(socket, Readiness { read: false, write: true }, deadline)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn receive(socket: &Socket, buffer: &mut [u8], deadline: Instant) -> Result<usize, Lost> {
    loop {
        match socket.receive(buffer) {
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait(socket, Readiness { read: true, write: false }, deadline)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait(socket: &Socket, wanted: Readiness, deadline: Instant) -> Result<(), Lost> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Lost::Io("no answer in time to the TLS handshake".to_owned()));
    }
    socket.wait_for(wanted, left);
    Ok(())
}
