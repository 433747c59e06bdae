//! The replies to one batch of requests, as frames one after the other, sent by one write.

use hsm_protocol::ErrorCode;
use hsm_protocol::frame::{self, Header};
use hsm_protocol::wire;

/// Frames that wait for one write.
#[derive(Default)]
pub(crate) struct Replies {
    frames: Vec<u8>,
}

impl Replies {
    /// Adds the reply to the request with this header.
    pub(crate) fn push(&mut self, header: Header, reply: &wire::Reply) {
        append(&mut self.frames, header, reply);
    }

    /// The bytes so far.
    pub(crate) fn frames(&self) -> &[u8] {
        &self.frames
    }

    /// Starts again. Replies may hold plaintext, so they are wiped.
    pub(crate) fn clear(&mut self) {
        self.frames.fill(0);
        self.frames.clear();
        self.frames.shrink_to(super::limits::KEPT_BUFFER_BYTES);
    }
}

/// One reply as a frame; one that does not fit into a frame becomes `TooLarge`.
pub(crate) fn append(frames: &mut Vec<u8>, header: Header, reply: &wire::Reply) {
    if frame::append(frames, header, reply).is_ok() {
        return;
    }
    let failure = wire::Failure { code: ErrorCode::TooLarge as u32, ..Default::default() };
    let short =
        wire::Reply { index: reply.index, roster: reply.roster, body: Some(wire::reply::Body::Failure(failure)) };
    if frame::append(frames, header, &short).is_err() {
        unreachable!("a failure of a few bytes fits into every frame");
    }
}
