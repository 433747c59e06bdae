//! Octets between HSMs: first messages after a length, then frames, each with a limit that is looked at before anything
//! is read or allocated. It must not know what the octets mean.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::limits;

/// Octets after the length field that stand before a frame's payload: kind and number.
const HEAD: usize = 9;

/// What came cannot be used; the connection is over.
#[derive(Debug, thiserror::Error)]
pub enum WireFault {
    /// The socket or TLS failed.
    #[error("the connection failed: {0}")]
    Socket(#[from] io::Error),
    /// The other side ended the connection between messages.
    #[error("the connection was closed")]
    Closed,
    /// Over the limit.
    #[error("a message of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// What its length field says.
        length: usize,
        /// What is taken.
        limit: usize,
    },
    /// Not this protocol.
    #[error("the message cannot be decoded")]
    Malformed,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A message of replication.
    Message,
    /// The answer to the message of the same number.
    Answer,
}

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) number: u64,
    pub(super) payload: Vec<u8>,
}

/// Sends a first message.
pub(super) async fn send<W: AsyncWrite + Unpin>(
    writer: &mut W,
    message: &impl prost::Message,
) -> Result<(), WireFault> {
    let mut bytes = vec![0; 4];
    message.encode_raw(&mut bytes);
    let length = u32::try_from(bytes.len() - 4).map_err(|_| WireFault::Malformed)?;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    writer.write_all(&bytes).await?;
    Ok(writer.flush().await?)
}

/// Receives a first message of at most so many bytes.
pub(super) async fn receive<R: AsyncRead + Unpin, M: prost::Message + Default>(
    reader: &mut R,
    limit: usize,
) -> Result<M, WireFault> {
    let length = length(reader).await?.ok_or(WireFault::Closed)?;
    if length > limit {
        return Err(WireFault::TooLong { length, limit });
    }
    let mut bytes = vec![0; length];
    reader.read_exact(&mut bytes).await?;
    M::decode(bytes.as_slice()).map_err(|_| WireFault::Malformed)
}

/// Sends a frame.
pub(super) async fn send_frame<W: AsyncWrite + Unpin>(
    writer: &mut W,
    kind: Kind,
    number: u64,
    payload: &[u8],
) -> Result<(), WireFault> {
    let length = HEAD + payload.len();
    let prefix = u32::try_from(length).ok().filter(|_| payload.len() <= limits::PEER_MESSAGE);
    let prefix = prefix.ok_or(WireFault::TooLong { length, limit: limits::PEER_MESSAGE })?;
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&prefix.to_be_bytes());
    bytes.push(if kind == Kind::Message { 1 } else { 2 });
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(payload);
    writer.write_all(&bytes).await?;
    Ok(writer.flush().await?)
}

/// Receives a frame; `None` when the other side ended the connection between frames.
pub(super) async fn receive_frame<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<Frame>, WireFault> {
    let Some(length) = length(reader).await? else { return Ok(None) };
    if length < HEAD {
        return Err(WireFault::Malformed);
    }
    if length > HEAD + limits::PEER_MESSAGE {
        return Err(WireFault::TooLong { length, limit: limits::PEER_MESSAGE });
    }
    let mut head = [0; HEAD];
    reader.read_exact(&mut head).await?;
    let kind = match head[0] {
        1 => Kind::Message,
        2 => Kind::Answer,
        _ => return Err(WireFault::Malformed),
    };
    let mut number = [0; 8];
    number.copy_from_slice(&head[1..]);
    let mut payload = vec![0; length - HEAD];
    reader.read_exact(&mut payload).await?;
    Ok(Some(Frame { kind, number: u64::from_be_bytes(number), payload }))
}

/// The next length; `None` at the end of the connection. One that ends within a length is cut.
async fn length<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<usize>, WireFault> {
    let mut prefix = [0; 4];
    let mut filled = 0;
    while filled < prefix.len() {
        match reader.read(&mut prefix[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(WireFault::Malformed),
            count => filled += count,
        }
    }
    Ok(Some(u32::from_be_bytes(prefix) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        run(send_frame(&mut bytes, Kind::Message, 7, payload)).unwrap();
        bytes
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let bytes = frame(b"votes");
        let read = run(receive_frame(&mut bytes.as_slice())).unwrap().unwrap();
        assert_eq!(read, Frame { kind: Kind::Message, number: 7, payload: b"votes".to_vec() });
        assert!(run(receive_frame(&mut [].as_slice())).unwrap().is_none());
    }

    #[test]
    fn a_truncated_frame_is_an_error_and_never_half_a_message() {
        let bytes = frame(b"votes");
        for cut in 1..bytes.len() {
            assert!(run(receive_frame(&mut &bytes[..cut])).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_at_the_bound_is_taken_and_one_past_it_refused_before_it_is_read() {
        let bytes = frame(&vec![0; limits::PEER_MESSAGE]);
        assert!(run(receive_frame(&mut bytes.as_slice())).is_ok());
        let over = u32::try_from(HEAD + limits::PEER_MESSAGE + 1).unwrap();
        let read = run(receive_frame(&mut over.to_be_bytes().as_slice()));
        assert!(matches!(read, Err(WireFault::TooLong { .. })), "{read:?}");
        let sent = run(send_frame(&mut Vec::new(), Kind::Answer, 1, &vec![0; limits::PEER_MESSAGE + 1]));
        assert!(matches!(sent, Err(WireFault::TooLong { .. })));
    }

    #[test]
    fn garbage_is_refused() {
        for bytes in [&[0, 0, 0, 8, 1, 0, 0, 0, 0, 0, 0, 0][..], &[0, 0, 0, 9, 3, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(matches!(run(receive_frame(&mut &bytes[..])), Err(WireFault::Malformed)));
        }
        let first = run(receive::<_, hsm_protocol::peer::Opening>(&mut [0, 0, 0, 2, 0xFF, 0xFF].as_slice(), 10));
        assert!(matches!(first, Err(WireFault::Malformed)));
        let long = run(receive::<_, hsm_protocol::peer::Opening>(&mut [0, 0, 0, 11].as_slice(), 10));
        assert!(matches!(long, Err(WireFault::TooLong { length: 11, limit: 10 })));
    }
}
