//! From frames to the bytes of a socket and back: TLS 1.3, or nothing on a Unix socket. Does no I/O.

use std::io::{self, BufRead, IoSlice, Write};

use rustls::ClientConnection;

/// Pieces in one vectored write.
const SLICES: usize = 64;

/// What stands between frames and socket.
pub(crate) enum Channel {
    /// TLS over TCP.
    Tls(Box<ClientConnection>),
    /// Plain frames on a Unix socket.
    Plain,
}

impl Channel {
    /// Appends what must be sent for these frames to `out`, in as few TLS records as hold them, and what TLS itself
    /// wants sent (a key update, an alert).
    pub(crate) fn seal(&mut self, frames: &[Vec<u8>], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Plain => {
                for frame in frames {
                    out.extend_from_slice(frame);
                }
            }
            Self::Tls(tls) => {
                write_all_vectored(&mut tls.writer(), frames)?;
                take_records(tls, out)?;
            }
        }
        Ok(())
    }

    /// Whether TLS itself wants something sent.
    pub(crate) fn has_own_records(&self) -> bool {
        match self {
            Self::Plain => false,
            Self::Tls(tls) => tls.wants_write(),
        }
    }

    /// Appends the plaintext of what was received to `plaintext`. `Ok(true)` = the peer said that it closes.
    pub(crate) fn open(&mut self, mut received: &[u8], plaintext: &mut Vec<u8>) -> Result<bool, rustls::Error> {
        match self {
            Self::Plain => {
                plaintext.extend_from_slice(received);
                Ok(false)
            }
            Self::Tls(tls) => {
                let mut closed = drain(tls, plaintext);
                while !received.is_empty() {
                    // Reading from a slice cannot fail; rustls refuses only when its own buffer is full, and it is
                    // drained in each round.
                    let count =
                        tls.read_tls(&mut received).map_err(|error| rustls::Error::General(error.to_string()))?;
                    tls.process_new_packets()?;
                    closed |= drain(tls, plaintext);
                    if count == 0 {
                        break;
                    }
                }
                Ok(closed)
            }
        }
    }

    /// Appends TLS's word of farewell to `out`.
    pub(crate) fn farewell(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Plain => Ok(()),
            Self::Tls(tls) => {
                tls.send_close_notify();
                take_records(tls, out)
            }
        }
    }
}

/// Takes what is decrypted. Says whether the peer has closed.
fn drain(tls: &mut ClientConnection, plaintext: &mut Vec<u8>) -> bool {
    let mut reader = tls.reader();
    loop {
        match reader.fill_buf() {
            Ok([]) => return true,
            Ok(piece) => {
                plaintext.extend_from_slice(piece);
                let count = piece.len();
                reader.consume(count);
            }
            // WouldBlock: all is taken. Any other: the end without a farewell, which the socket's end shows as well.
            Err(_) => return false,
        }
    }
}

fn take_records(tls: &mut ClientConnection, out: &mut Vec<u8>) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(out)?;
    }
    Ok(())
}

fn write_all_vectored(writer: &mut impl Write, frames: &[Vec<u8>]) -> io::Result<()> {
    let mut rest = frames;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.len().min(SLICES));
        let mut slices: Vec<IoSlice<'_>> = now.iter().map(|frame| IoSlice::new(frame)).collect();
        let mut left = slices.as_mut_slice();
        while !left.is_empty() {
            let count = writer.write_vectored(left)?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut left, count);
        }
        rest = later;
    }
    Ok(())
}
