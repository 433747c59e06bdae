//! Frames: `u32 length ‖ u8 version ‖ u8 flags ‖ u16 method ‖ u64 request id ‖ protobuf`, all big-endian.
//!
//! `length` counts everything after itself. The codec only cuts bytes; it never looks into the protobuf. A frame that
//! cannot be right is a [`FrameError`], after which the connection must be closed: what follows cannot be trusted to
//! begin at a frame.

use crate::limits::FRAME_LIMIT;

/// Version of the frame layout and of the messages in it.
pub const VERSION: u8 = 1;

/// Application protocol name in the TLS handshake (RFC 7301).
pub const ALPN: &[u8] = b"hsm/1";

/// Bytes before the protobuf, the length field included.
pub const HEADER_BYTES: usize = 16;

/// Bytes of the header that `length` counts.
const COUNTED_HEADER_BYTES: u32 = 12;

/// What stands before the protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Field number of the message's body: says what the message is before it is decoded.
    pub method: u16,
    /// Chosen by the client, repeated in the answer, compared whole.
    pub request_id: u64,
}

/// One whole frame within a buffer.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Method and request id.
    pub header: Header,
    /// The protobuf.
    pub body: &'a [u8],
    /// Bytes of the buffer that this frame took, header included.
    pub consumed: usize,
}

/// The bytes at hand are no frame of this protocol. The peer is at fault; the connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`FRAME_LIMIT`].
    #[error("a frame of {length} bytes is over the limit of {FRAME_LIMIT}; send long input in parts")]
    TooLong {
        /// The length field.
        length: u32,
    },
    /// Shorter than its own header.
    #[error("a frame of {length} bytes is shorter than its header; the peer does not speak this protocol")]
    TooShort {
        /// The length field.
        length: u32,
    },
    /// Another version of the layout.
    #[error("frame version {version} is not spoken here (this side speaks {VERSION}); update the older side")]
    Version {
        /// The version field.
        version: u8,
    },
    /// A flag that this version does not define.
    #[error("frame flags {flags:#04x} are not defined in version {VERSION}; update the older side")]
    Flags {
        /// The flags field.
        flags: u8,
    },
}

/// Cuts the first frame from `buffer`. `Ok(None)` = more bytes are needed. Allocates nothing.
///
/// # Errors
/// [`FrameError`] as soon as the header shows that no honest peer sent it, before its body has arrived.
pub fn parse(buffer: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    let Some((length, _)) = buffer.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length);
    if length > FRAME_LIMIT {
        return Err(FrameError::TooLong { length });
    }
    if length < COUNTED_HEADER_BYTES {
        return Err(FrameError::TooShort { length });
    }
    if let Some(&version) = buffer.get(4)
        && version != VERSION
    {
        return Err(FrameError::Version { version });
    }
    if let Some(&flags) = buffer.get(5)
        && flags != 0
    {
        return Err(FrameError::Flags { flags });
    }
    let consumed = 4 + length as usize;
    let Some(whole) = buffer.get(..consumed) else {
        return Ok(None);
    };
    let mut method = [0; 2];
    method.copy_from_slice(&whole[6..8]);
    let mut request_id = [0; 8];
    request_id.copy_from_slice(&whole[8..16]);
    Ok(Some(Frame {
        header: Header { method: u16::from_be_bytes(method), request_id: u64::from_be_bytes(request_id) },
        body: &whole[HEADER_BYTES..],
        consumed,
    }))
}

/// Appends one frame whose body `message` encodes to `out`.
///
/// # Errors
/// [`FrameError::TooLong`] when the message does not fit in a frame; `out` is then unchanged.
pub fn append(out: &mut Vec<u8>, header: Header, message: &impl prost::Message) -> Result<(), FrameError> {
    let length = u32::try_from(message.encoded_len())
        .ok()
        .and_then(|length| length.checked_add(COUNTED_HEADER_BYTES))
        .unwrap_or(u32::MAX);
    if length > FRAME_LIMIT {
        return Err(FrameError::TooLong { length });
    }
    out.reserve(4 + length as usize);
    out.extend_from_slice(&length.to_be_bytes());
    out.push(VERSION);
    out.push(0);
    out.extend_from_slice(&header.method.to_be_bytes());
    out.extend_from_slice(&header.request_id.to_be_bytes());
    message.encode_raw(out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    fn ping(request_id: u64) -> Vec<u8> {
        let mut out = Vec::new();
        let message =
            wire::Request { body: Some(wire::request::Body::Random(wire::Random { length: 5 })), ..Default::default() };
        append(&mut out, Header { method: 53, request_id }, &message).unwrap();
        out
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let bytes = ping(0x0102_0304_0506_0708);
        let frame = parse(&bytes).unwrap().unwrap();
        assert_eq!(frame.header, Header { method: 53, request_id: 0x0102_0304_0506_0708 });
        assert_eq!(frame.consumed, bytes.len());
        let message = <wire::Request as prost::Message>::decode(frame.body).unwrap();
        assert!(matches!(message.body, Some(wire::request::Body::Random(wire::Random { length: 5 }))));
    }

    #[test]
    fn every_proper_prefix_asks_for_more() {
        let bytes = ping(9);
        for cut in 0..bytes.len() {
            assert!(parse(&bytes[..cut]).unwrap().is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_at_the_limit_is_taken_and_one_past_it_refused() {
        let mut bytes = vec![0; 4 + FRAME_LIMIT as usize];
        bytes[..4].copy_from_slice(&FRAME_LIMIT.to_be_bytes());
        bytes[4] = VERSION;
        assert!(parse(&bytes).unwrap().is_some());
        let over = FRAME_LIMIT + 1;
        assert_eq!(parse(&over.to_be_bytes()).unwrap_err(), FrameError::TooLong { length: over });
    }

    #[test]
    fn a_frame_shorter_than_its_header_is_refused() {
        assert_eq!(parse(&11u32.to_be_bytes()).unwrap_err(), FrameError::TooShort { length: 11 });
    }

    #[test]
    fn unknown_versions_and_flags_are_refused_before_the_body_arrives() {
        let mut bytes = ping(1);
        bytes[4] = 2;
        assert_eq!(parse(&bytes[..5]).unwrap_err(), FrameError::Version { version: 2 });
        bytes[4] = VERSION;
        bytes[5] = 0x80;
        assert_eq!(parse(&bytes[..6]).unwrap_err(), FrameError::Flags { flags: 0x80 });
    }

    proptest::proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            if let Ok(Some(frame)) = parse(&bytes) {
                proptest::prop_assert!(frame.consumed <= bytes.len());
            }
        }
    }
}
