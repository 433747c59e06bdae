//! What lies between the frames and the socket: TLS 1.3 driven by hand, or nothing on a Unix socket.
//!
//! Turns bytes into bytes and never touches a socket, so that no lock is held across a read. It must not look into
//! frames. [`super::link::Link`] owns it.

use std::io::{Read, Write};

use hsm_protocol::session::{BINDING_BYTES, EXPORTER_LABEL};

/// The protection of one connection.
pub(crate) enum Channel {
    /// TLS 1.3.
    Tls(Box<rustls::ServerConnection>),
    /// A Unix socket: the kernel vouches for the peer.
    Clear,
}

/// What arrived did not make sense to TLS, or memory refused it. The connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelFault {
    /// The peer broke TLS, or its certificate was refused.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// rustls refused to buffer or to give out bytes.
    #[error("TLS buffers: {0}")]
    Buffers(#[from] std::io::Error),
}

impl Channel {
    /// TLS with the limits that this server keeps by itself.
    pub(crate) fn tls(mut connection: rustls::ServerConnection) -> Self {
        // Back-pressure is Link's: it never seals more than one batch beyond what the socket takes.
        connection.set_buffer_limit(None);
        Self::Tls(Box::new(connection))
    }

    /// Whether the handshake is still going on.
    pub(crate) fn is_handshaking(&self) -> bool {
        match self {
            Self::Tls(connection) => connection.is_handshaking(),
            Self::Clear => false,
        }
    }

    /// Opens what arrived and appends the plaintext. Everything decrypted is drained: the read that ended the handshake
    /// may have brought the first requests with it, and nothing would announce them a second time. Says whether more
    /// may come (false after the peer's `close_notify`).
    ///
    /// # Errors
    /// [`ChannelFault`]; an alert may then wait in [`Channel::seal`]'s output.
    pub(crate) fn open(&mut self, mut arrived: &[u8], plain: &mut Vec<u8>) -> Result<bool, ChannelFault> {
        let Self::Tls(connection) = self else {
            plain.extend_from_slice(arrived);
            return Ok(true);
        };
        while !arrived.is_empty() {
            let taken = connection.read_tls(&mut arrived)?;
            let state = connection.process_new_packets()?;
            let mut waiting = state.plaintext_bytes_to_read();
            while waiting > 0 {
                let from = plain.len();
                plain.resize(from + waiting, 0);
                let read = connection.reader().read(&mut plain[from..])?;
                plain.truncate(from + read);
                waiting -= read.min(waiting);
                if read == 0 {
                    break;
                }
            }
            if state.peer_has_closed() || taken == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Seals `plain` and appends the bytes for the socket, together with any handshake or alert bytes that wait.
    ///
    /// # Errors
    /// [`ChannelFault::Buffers`].
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), ChannelFault> {
        let Self::Tls(connection) = self else {
            out.extend_from_slice(plain);
            return Ok(());
        };
        if !plain.is_empty() {
            connection.writer().write_all(plain)?;
        }
        while connection.wants_write() {
            connection.write_tls(out)?;
        }
        Ok(())
    }

    /// Queues the notice that nothing more will come.
    pub(crate) fn say_goodbye(&mut self) {
        if let Self::Tls(connection) = self {
            connection.send_close_notify();
        }
    }

    /// The exporter value that `Attach` proves (RFC 8446 §7.5); `None` without TLS or before the handshake is over.
    pub(crate) fn binding(&self) -> Option<[u8; BINDING_BYTES]> {
        match self {
            Self::Tls(connection) => connection.export_keying_material([0; BINDING_BYTES], EXPORTER_LABEL, None).ok(),
            Self::Clear => None,
        }
    }

    /// The client's end-entity certificate (DER), when it presented one.
    pub(crate) fn client_certificate(&self) -> Option<Vec<u8>> {
        match self {
            Self::Tls(connection) => {
                connection.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.as_ref().to_vec())
            }
            Self::Clear => None,
        }
    }
}
