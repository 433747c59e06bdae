//! One connection as the requests on it see it: who is logged in, which streams are open, and what its frames become.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hsm_core::{Actor, SessionId};
use hsm_protocol::frame::Header;
use hsm_protocol::session::BINDING_BYTES;
use hsm_protocol::trace::Trace;
use hsm_protocol::{ErrorCode, wire};
use parking_lot::Mutex;
use prost::Message;

use super::call::{Answered, Call};
use super::failure::Failure;
use super::label::Label;
use super::limits::ATTACHED_SESSIONS;
use super::route;
use super::service::Service;
use super::streams::Streams;
use crate::connection::link::Link;
use crate::connection::reader::Requests;
use crate::connection::replies::Replies;
use crate::metrics::Measured;

/// What a connection holds besides its bytes. Ends with it.
pub(crate) struct Connection {
    link: Arc<Link>,
    binding: OnceLock<[u8; BINDING_BYTES]>,
    attached: Mutex<Attached>,
    streams: Streams,
}

/// Logins that were proven on this connection, by the index that requests name them with. An index is never used twice,
/// so one that was logged out names nobody for ever.
#[derive(Default)]
struct Attached {
    logins: BTreeMap<u32, Attachment>,
    last: u32,
}

/// A login on a connection.
#[derive(Clone, Copy)]
pub(crate) struct Attachment {
    pub(crate) session: SessionId,
    pub(crate) actor: Actor,
}

impl Connection {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, binding: OnceLock::new(), attached: Mutex::default(), streams: Streams::default() }
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn streams(&self) -> &Streams {
        &self.streams
    }

    /// What `Attach` proves: the TLS exporter, or the nonce of this Unix connection.
    pub(crate) fn binding(&self) -> Option<&[u8; BINDING_BYTES]> {
        self.binding.get()
    }

    /// The login that a request names; `None` = there is none of that index.
    pub(crate) fn attachment(&self, index: u32) -> Option<Attachment> {
        self.attached.lock().logins.get(&index).copied()
    }

    /// Binds a login to this connection and gives its index: the old one if it was bound before.
    ///
    /// # Errors
    /// [`ErrorCode::SessionLimit`].
    pub(crate) fn attach(&self, attachment: Attachment) -> Result<u32, ErrorCode> {
        let mut attached = self.attached.lock();
        if let Some((&index, _)) = attached.logins.iter().find(|(_, known)| known.session == attachment.session) {
            return Ok(index);
        }
        if attached.logins.len() >= ATTACHED_SESSIONS {
            return Err(ErrorCode::SessionLimit);
        }
        attached.last = attached.last.checked_add(1).ok_or(ErrorCode::SessionLimit)?;
        let index = attached.last;
        attached.logins.insert(index, attachment);
        Ok(index)
    }

    /// Ends what the chosen logins have on this connection: their indexes and streams.
    pub(crate) fn detach(&self, ended: impl Fn(SessionId) -> bool) {
        self.attached.lock().logins.retain(|_, attachment| !ended(attachment.session));
        self.streams.end_of(|actor| matches!(actor, Actor::Session { session, .. } if ended(*session)));
    }

    /// Forgets the indexes of all logins, so that each is attached again at its next call. An operation in parts goes on
    /// under the index that it has.
    pub(crate) fn ask_for_attaching(&self) {
        if self.streams.is_empty() {
            self.attached.lock().logins.clear();
        }
    }

    #[cfg(test)]
    pub(crate) fn attached_actors(&self) -> Vec<Actor> {
        self.attached.lock().logins.values().map(|attachment| attachment.actor).collect()
    }

    fn has_logins(&self) -> bool {
        !self.attached.lock().logins.is_empty()
    }
}

/// Runs the requests of one connection.
pub(crate) struct Caller {
    service: Arc<Service>,
    connection: Arc<Connection>,
}

impl Caller {
    pub(crate) fn new(service: Arc<Service>, connection: Arc<Connection>) -> Self {
        Self { service, connection }
    }

    /// Completes `label` with what the message says.
    fn run(&self, header: Header, body: &[u8], label: &mut Label) -> Result<Answered, Failure> {
        if self.service.is_stopping() {
            return Err(ErrorCode::NotReady.into());
        }
        if !route::is_known(header.method) {
            return Err(ErrorCode::UnknownMethod.into());
        }
        let request = wire::Request::decode(body).map_err(|_| ErrorCode::Malformed)?;
        label.trace = Trace(request.trace);
        let message = request.body.ok_or(ErrorCode::Malformed)?;
        if hsm_protocol::convert::method(&message) != header.method {
            return Err(ErrorCode::Malformed.into());
        }
        label.measured = Measured::by_message(&message);
        let actor = match request.session {
            0 => Actor::Nobody,
            // A library that logs in again may still name the login that has ended.
            _ if route::needs_no_login(header.method) => Actor::Nobody,
            index => self.connection.attachment(index).ok_or(ErrorCode::NotLoggedIn)?.actor,
        };
        let call = Call {
            service: &self.service,
            connection: &self.connection,
            header,
            actor,
            sequence: request.sequence,
            lowest_unanswered: request.lowest_unanswered,
            bytes: body.len(),
            label: *label,
        };
        call.wait_for_index(request.min_index)?;
        let answered = route::run(&call, message)?;
        // Looked at again: the operation itself took time.
        if matches!(answered, Answered::Now(_)) && !route::needs_no_login(header.method) {
            call.check_serving()?;
        }
        Ok(answered)
    }
}

impl Requests for Caller {
    fn ready(&mut self) {
        let link = self.connection.link();
        let binding = link.binding().or_else(|| {
            let mut nonce = [0; BINDING_BYTES];
            self.service.module().random(&mut nonce).is_ok().then_some(nonce)
        });
        if let Some(binding) = binding {
            self.connection.binding.get_or_init(|| binding);
        }
    }

    fn answer(&mut self, header: Header, body: &[u8], replies: &mut Replies) {
        let begin = Instant::now();
        let mut label = Label { measured: Measured::by_method(header.method), trace: Trace::default() };
        let outcome = self.run(header, body, &mut label);
        let result = match outcome {
            Ok(Answered::Later) => return,
            Ok(Answered::Now(body)) => Ok(body),
            Err(failure) => Err(failure),
        };
        let code = result.as_ref().err().map_or(0, |failure| failure.code as u32);
        let index = self.service.node().applied();
        replies.push(header, &reply_message(&self.service, index.0, result));
        label.ended(&self.service, self.connection.link().number(), begin, index, code);
    }

    fn is_idle(&self) -> bool {
        !self.connection.has_logins()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.service.close(&self.connection);
    }
}

/// A reply as of `index`, with the version of the roster that this HSM knows.
pub(crate) fn reply_message(service: &Service, index: u64, result: Result<wire::reply::Body, Failure>) -> wire::Reply {
    let body = result.unwrap_or_else(|failure| wire::reply::Body::Failure(failure.message()));
    wire::Reply { index, roster: service.roster().version(service.node()), body: Some(body) }
}
