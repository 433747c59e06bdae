//! A reply that another thread will give: counted on its connection until it is given, and given exactly once.

use std::sync::Arc;

use hsm_protocol::ErrorCode;
use hsm_protocol::frame::Header;
use hsm_protocol::wire;

use super::link::Link;
use super::replies;

/// The duty to answer one request later. Dropped without an answer (a panic on the way), it answers that the outcome is
/// unknown.
pub(crate) struct LateReply {
    link: Arc<Link>,
    header: Header,
    bytes: usize,
    given: bool,
}

impl LateReply {
    /// Takes a request of `bytes` on. `None` = the connection has too many under way: answer `Busy` at once.
    pub(crate) fn begin(link: &Arc<Link>, header: Header, bytes: usize) -> Option<Self> {
        link.count_in(bytes).then(|| Self { link: Arc::clone(link), header, bytes, given: false })
    }

    /// Which request.
    pub(crate) fn header(&self) -> Header {
        self.header
    }

    /// Seals and sends on this thread.
    pub(crate) fn give(mut self, reply: &wire::Reply) {
        self.given = true;
        let mut frame = Vec::new();
        replies::append(&mut frame, self.header, reply);
        if self.link.send(&frame).is_err() {
            tracing::debug!(connection = self.link.number(), "a late reply found its connection closed");
        }
        frame.fill(0);
    }

    /// Leaves sealing and sending to the courier: for threads that others wait for, such as the log's.
    pub(crate) fn give_by_courier(mut self, reply: &wire::Reply) {
        self.leave_to_courier(reply);
    }

    fn leave_to_courier(&mut self, reply: &wire::Reply) {
        self.given = true;
        let mut frame = Vec::new();
        replies::append(&mut frame, self.header, reply);
        if self.link.send_by_courier(&frame).is_err() {
            tracing::debug!(connection = self.link.number(), "a late reply found its connection closed");
        }
        frame.fill(0);
    }
}

impl Drop for LateReply {
    fn drop(&mut self) {
        if !self.given {
            let failure = wire::Failure { code: ErrorCode::Unknown as u32, ..Default::default() };
            self.leave_to_courier(&wire::Reply {
                body: Some(wire::reply::Body::Failure(failure)),
                ..Default::default()
            });
        }
        self.link.count_out(self.bytes);
    }
}
