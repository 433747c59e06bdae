//! New objects on their way to the log (token objects) or, sealed, to the library (session objects).

use std::sync::Arc;

use hsm_core::command::NewObject;
use hsm_core::{Action, Draft, Facts, Object, ObjectHandle, ObjectUid, Response};
use hsm_crypto::{CryptoFault, Payload};
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{AttributeKind, ErrorCode, ObjectReference, SessionObjectId, convert, wire};

use super::call::{Call, Made, Result};
use super::session_objects::{Holder, OpenedObject};

/// A finished object.
pub(crate) enum Newborn {
    /// For the log.
    Token(NewObject),
    /// For the library.
    Session(wire::CreatedObject),
}

/// Completes a draft with what its material is like, under a new random name.
pub(crate) fn complete(call: &Call<'_>, draft: Draft, facts: Facts) -> Result<Object> {
    let uid = ObjectUid(call.service.module().random_bytes()?);
    Ok(draft.complete(facts, uid)?)
}

/// One new object from its draft and what was made for it.
pub(crate) fn one(call: &Call<'_>, draft: Draft, material: hsm_crypto::Made) -> Result<Made> {
    let object = complete(call, draft, material.facts)?;
    Ok(made(vec![Newborn::seal(call, object, material.payload)?]))
}

impl Newborn {
    /// Seals an object and its secret part for where it will live.
    pub(crate) fn seal(call: &Call<'_>, object: Object, payload: Option<Payload>) -> Result<Self> {
        if object.is(AttributeKind::Token) {
            let (keys, module) = (call.service.keys(), call.service.module());
            let payload = payload.map(|payload| keys.seal_payload(module, &object, &payload)).transpose()?;
            return Ok(Self::Token(NewObject { object, payload }));
        }
        let opened = OpenedObject::new(object, payload);
        Ok(Self::Session(hand_out(call, opened)?))
    }
}

/// Seals a session object for the library and keeps it open here.
pub(crate) fn hand_out(call: &Call<'_>, opened: OpenedObject) -> Result<wire::CreatedObject> {
    let (keys, module) = (call.service.keys(), call.service.module());
    let sealed = keys.seal_session_object(module, call.session().ok(), &opened.object, opened.payload.as_ref())?;
    announce(call, opened, sealed)
}

/// The same for an object whose secret part belongs to another one: a copy, or the next version.
pub(crate) fn hand_out_with(
    call: &Call<'_>,
    object: &Object,
    payload: Option<&Payload>,
) -> Result<wire::CreatedObject> {
    let (keys, module) = (call.service.keys(), call.service.module());
    let session = call.session().ok();
    let sealed = keys.seal_session_object(module, session, object, payload)?;
    let (object, payload) = keys.open_session_object(session, &sealed).map_err(CryptoFault::from)?;
    announce(call, OpenedObject::new(object, payload), sealed)
}

fn announce(call: &Call<'_>, opened: OpenedObject, sealed: Vec<u8>) -> Result<wire::CreatedObject> {
    let attributes = call.service.node().read().readable(&call.actor, &opened.object);
    let (id, version) = (SessionObjectId(opened.object.uid().0), opened.object.version());
    let reference = ObjectReference::Session { id, sealed, version };
    let holder = Holder::of(call.actor, call.connection.link().number());
    call.service.session_objects().put(holder, Arc::new(opened))?;
    Ok(wire::CreatedObject {
        reference: Some(convert::object_message(&reference)),
        attributes: Some(convert::template_message(&attributes)),
    })
}

/// What finished objects become: a command when one is a token object, else the reply itself.
pub(crate) fn made(newborns: Vec<Newborn>) -> Made {
    let mut objects = Vec::new();
    let mut items = Vec::new();
    for newborn in newborns {
        match newborn {
            Newborn::Token(object) => {
                objects.push(object);
                items.push(None);
            }
            Newborn::Session(created) => items.push(Some(created)),
        }
    }
    if objects.is_empty() {
        return Made::Body(reply(items.into_iter().flatten().collect()));
    }
    let mixed = objects.len() < items.len();
    let first = objects[0].object.uid();
    let then = move |call: &Call<'_>, response: Response| {
        let Response::Created(handles) = response else {
            tracing::error!(request = call.header.request_id, "a creation was answered with another response");
            return Err(ErrorCode::Broken.into());
        };
        if mixed && !is_ours(call, &handles, first) {
            // A retry: the first result stands, but its session object went with the first answer.
            return Err(ErrorCode::SequencePassed.into());
        }
        let mut handles = handles.into_iter();
        let created = |item: Option<wire::CreatedObject>| item.or_else(|| handles.next().map(token_object));
        Ok(reply(items.into_iter().filter_map(created).collect()))
    };
    Made::Action(Action::CreateObjects { objects }, Box::new(then))
}

/// The reply of a call whose first execution stands in the log.
///
/// # Errors
/// [`ErrorCode::SequencePassed`] for a pair of which one key was a session object: it went with the first answer.
pub(crate) fn repeated(call: &Call<'_>, response: Response) -> Result<Body> {
    match response {
        Response::Created(handles) if call.header.method == PAIR && handles.len() < 2 => {
            Err(ErrorCode::SequencePassed.into())
        }
        Response::Created(handles) => Ok(reply(handles.into_iter().map(token_object).collect())),
        Response::TrustAnchor(reference) => Ok(Body::TrustAnchor(wire::TrustAnchorReply { reference })),
        Response::Done => Ok(Body::Done(wire::Done::default())),
        Response::Attempt { .. } | Response::LoggedIn { .. } => {
            tracing::error!(request = call.header.request_id, "the log answers a call with a login");
            Err(ErrorCode::Broken.into())
        }
    }
}

/// Method of `GenerateKeyPair`.
const PAIR: u16 = 31;

fn is_ours(call: &Call<'_>, handles: &[ObjectHandle], uid: ObjectUid) -> bool {
    let state = call.service.node().read();
    handles.first().is_some_and(|&handle| state.object(&call.actor, handle).is_ok_and(|object| object.uid() == uid))
}

fn token_object(handle: ObjectHandle) -> wire::CreatedObject {
    let reference = convert::object_message(&ObjectReference::Token(handle.0));
    wire::CreatedObject { reference: Some(reference), attributes: None }
}

fn reply(items: Vec<wire::CreatedObject>) -> Body {
    Body::Objects(wire::ObjectsReply { items })
}
