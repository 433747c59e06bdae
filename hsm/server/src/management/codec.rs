//! Frames of the management socket, with limits and a deadline on both sides.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::limits::MANAGEMENT_MESSAGE;

/// A message could not be sent or received. The connection is over.
#[derive(Debug, thiserror::Error)]
pub enum CodecFault {
    /// The peer went away, or the socket failed.
    #[error("the connection failed: {0}")]
    Socket(#[from] io::Error),
    /// The peer closed the connection between messages.
    #[error("the connection was closed")]
    Closed,
    /// Over [`MANAGEMENT_MESSAGE`].
    #[error("a message of {0} bytes is over the limit of {MANAGEMENT_MESSAGE}")]
    TooLong(usize),
    /// Not this protocol.
    #[error("the message cannot be decoded; the other side speaks another protocol or version")]
    Malformed,
    /// The deadline passed before the message was whole.
    #[error("the message did not come in time")]
    TimedOut,
}

/// Sends one message.
///
/// # Errors
/// [`CodecFault`].
pub fn send(stream: &mut UnixStream, message: &impl prost::Message, within: Duration) -> Result<(), CodecFault> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).ok().filter(|_| length <= MANAGEMENT_MESSAGE);
    let prefix = prefix.ok_or(CodecFault::TooLong(length))?;
    // Replies may carry the activation password.
    let mut bytes = Zeroizing::new(Vec::with_capacity(4 + length));
    bytes.extend_from_slice(&prefix.to_be_bytes());
    message.encode_raw(&mut *bytes);
    stream.set_write_timeout(Some(within))?;
    stream.write_all(&bytes).map_err(timed_out)
}

/// Receives one message, whole within this time from its first byte; the first byte may take as long.
///
/// # Errors
/// [`CodecFault`].
pub fn receive<M: prost::Message + Default>(stream: &mut UnixStream, within: Duration) -> Result<M, CodecFault> {
    let mut prefix = [0; 4];
    let deadline = Instant::now() + within;
    fill(stream, &mut prefix, deadline, true)?;
    let length = u32::from_be_bytes(prefix) as usize;
    if length > MANAGEMENT_MESSAGE {
        return Err(CodecFault::TooLong(length));
    }
    let mut bytes = Zeroizing::new(vec![0; length]);
    fill(stream, &mut bytes, deadline, false)?;
    M::decode(bytes.as_slice()).map_err(|_| CodecFault::Malformed)
}

/// Fills `buffer`; a peer that sends a byte now and then does not move the deadline.
fn fill(stream: &mut UnixStream, buffer: &mut [u8], deadline: Instant, may_close: bool) -> Result<(), CodecFault> {
    let mut filled = 0;
    while filled < buffer.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CodecFault::TimedOut);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer[filled..]) {
            Ok(0) if may_close && filled == 0 => return Err(CodecFault::Closed),
            Ok(0) => return Err(CodecFault::Malformed),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(timed_out(error)),
        }
    }
    Ok(())
}

fn timed_out(error: io::Error) -> CodecFault {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CodecFault::TimedOut,
        _ => CodecFault::Socket(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hsm_protocol::management::{Form, Request, request::Body};

    const TIME: Duration = Duration::from_millis(200);

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    fn form(label: &str) -> Request {
        Request { body: Some(Body::Form(Form { label: label.into(), fips: true })) }
    }

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        let (mut here, mut there) = pair();
        send(&mut here, &form("payments"), TIME).unwrap();
        let received: Request = receive(&mut there, TIME).unwrap();
        assert!(matches!(received.body, Some(Body::Form(Form { label, fips: true })) if label == "payments"));
    }

    #[test]
    fn a_length_past_the_limit_is_refused_before_the_message_is_read() {
        let (mut here, mut there) = pair();
        let over = u32::try_from(MANAGEMENT_MESSAGE).unwrap() + 1;
        here.write_all(&over.to_be_bytes()).unwrap();
        assert!(matches!(receive::<Request>(&mut there, TIME), Err(CodecFault::TooLong(_))));
        assert!(matches!(send(&mut here, &form(&"x".repeat(MANAGEMENT_MESSAGE)), TIME), Err(CodecFault::TooLong(_))));
    }

    #[test]
    fn truncated_undecodable_and_slow_messages_are_typed_errors() {
        let (mut here, mut there) = pair();
        here.write_all(&[0, 0, 0, 9, 1]).unwrap();
        assert!(matches!(receive::<Request>(&mut there, TIME), Err(CodecFault::TimedOut)));
        let (mut here, mut there) = pair();
        here.write_all(&[0, 0, 0, 9, 1]).unwrap();
        drop(here);
        assert!(matches!(receive::<Request>(&mut there, TIME), Err(CodecFault::Malformed)));
        let (mut here, mut there) = pair();
        here.write_all(&[0, 0, 0, 2, 0xff, 0xff]).unwrap();
        assert!(matches!(receive::<Request>(&mut there, TIME), Err(CodecFault::Malformed)));
        let (here, mut there) = pair();
        drop(here);
        assert!(matches!(receive::<Request>(&mut there, TIME), Err(CodecFault::Closed)));
    }
}
