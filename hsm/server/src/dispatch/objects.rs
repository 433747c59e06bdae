//! Keys, certificates and data objects: made, copied, changed, destroyed, searched, read.
//!
//! Each change is judged by the state, made by the module, judged again by the log. It must not decide by itself what a
//! template means or who may see what.

use hsm_core::command::NewObject;
use hsm_core::{Action, Disclosure, Facts, Needs, ObjectHandle, Request};
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{
    AttributeKind, ErrorCode, KeyType, Mechanism, MechanismKind, ObjectReference, SessionObjectId, Template, convert,
    limits, wire,
};

use super::call::{Answered, Call, Effort, Made, Result};
use super::failure::Failure;
use super::found::Found;
use super::newborn::{self, Newborn, complete};
use super::session_objects::Holder;

/// The state answered a request with needs of another one.
pub(super) fn contradiction(call: &Call<'_>) -> Failure {
    tracing::error!(request = call.header.request_id, method = call.header.method, "the state asks for something else");
    ErrorCode::Broken.into()
}

pub(super) fn template(message: Option<wire::Attributes>) -> Result<Template> {
    Ok(convert::template(message.unwrap_or_default())?)
}

pub(super) fn generate_key(call: &Call<'_>, message: wire::GenerateKey) -> Result<Answered> {
    let (mechanism, template) = (convert::mechanism(message.mechanism)?, template(message.template)?);
    call.change(
        Effort::Short,
        Box::new(move |call| {
            let request = Request::GenerateKey { mechanism: &mechanism, template: &template };
            let needs = call.service.node().read().needs(&call.actor, request)?;
            let Needs::SecretKey { draft, bytes } = needs else { return Err(contradiction(call)) };
            let made = hsm_crypto::generate_secret(call.service.module(), &draft, bytes)?;
            newborn::one(call, draft, made)
        }),
    )
}

pub(super) fn generate_key_pair(call: &Call<'_>, message: wire::GenerateKeyPair) -> Result<Answered> {
    let mechanism = convert::mechanism(message.mechanism)?;
    let (public_template, private_template) = (template(message.public_template)?, template(message.private_template)?);
    // Primes take from 50 ms to seconds to find.
    let effort = if is_rsa_generation(&mechanism) { Effort::Long } else { Effort::Short };
    call.change(
        effort,
        Box::new(move |call| {
            let request = Request::GenerateKeyPair {
                mechanism: &mechanism,
                public_template: &public_template,
                private_template: &private_template,
            };
            let needs = call.service.node().read().needs(&call.actor, request)?;
            let Needs::KeyPair { public, private, pair } = needs else { return Err(contradiction(call)) };
            let made = hsm_crypto::generate_pair(call.service.module(), &pair)?;
            let public = complete(call, public, made.public)?;
            let private = complete(call, private, made.private)?;
            let public = Newborn::seal(call, public, None)?;
            Ok(newborn::made(vec![public, Newborn::seal(call, private, Some(made.payload))?]))
        }),
    )
}

fn is_rsa_generation(mechanism: &Mechanism) -> bool {
    matches!(mechanism.kind, MechanismKind::RSA_PKCS_KEY_PAIR_GEN | MechanismKind::RSA_X9_31_KEY_PAIR_GEN)
}

pub(super) fn create(call: &Call<'_>, message: wire::CreateObject) -> Result<Answered> {
    let template = template(message.template)?;
    // Checking RSA numbers means testing primes.
    let rsa = template.number(AttributeKind::KeyType) == Some(KeyType::Rsa as u64);
    let effort = if rsa { Effort::Long } else { Effort::Short };
    call.change(
        effort,
        Box::new(move |call| {
            let needs = call.service.node().read().needs(&call.actor, Request::CreateObject { template: &template })?;
            let Needs::Import { draft, material } = needs else { return Err(contradiction(call)) };
            let made = hsm_crypto::import(&draft, &material)?;
            newborn::one(call, draft, made)
        }),
    )
}

pub(super) fn copy(call: &Call<'_>, message: wire::CopyObject) -> Result<Answered> {
    let (reference, template) = (convert::object(message.object)?, template(message.template)?);
    call.change(
        Effort::Short,
        Box::new(move |call| {
            let source = Found::find(call, &reference)?;
            let request = Request::CopyObject { source: &source.object, template: &template };
            let needs = call.service.node().read().needs(&call.actor, request)?;
            let Needs::Copy { draft, permit } = needs else { return Err(contradiction(call)) };
            let secret = source.secret(call)?;
            // The facts of a copy are those of its source.
            let copy = complete(call, draft, Facts::new())?;
            let newborn = if copy.is(AttributeKind::Token) {
                let (keys, module) = (call.service.keys(), call.service.module());
                let reseal = |payload: &_| keys.copy_payload(module, permit, &source.object, payload, &copy);
                let payload = secret.payload().map(reseal).transpose()?;
                Newborn::Token(NewObject { object: copy, payload })
            } else {
                Newborn::Session(newborn::hand_out_with(call, &copy, secret.payload())?)
            };
            Ok(newborn::made(vec![newborn]))
        }),
    )
}

pub(super) fn destroy(call: &Call<'_>, message: wire::DestroyObject) -> Result<Answered> {
    let reference = convert::object(message.object)?;
    call.change(
        Effort::Short,
        Box::new(move |call| {
            let found = find_to_destroy(call, &reference)?;
            let Some(handle) = found.handle() else {
                let holder = Holder::of(call.actor, call.connection.link().number());
                call.service.session_objects().destroy(holder, SessionObjectId(found.object.uid().0));
                return Ok(Made::Body(done()));
            };
            Ok(Made::Action(Action::DestroyObject { handle }, Box::new(|_, _| Ok(done()))))
        }),
    )
}

fn find_to_destroy(call: &Call<'_>, reference: &ObjectReference) -> Result<Found> {
    let found = Found::find(call, reference)?;
    let needs = call.service.node().read().needs(&call.actor, Request::DestroyObject { object: &found.object })?;
    if matches!(needs, Needs::Nothing) { Ok(found) } else { Err(contradiction(call)) }
}

fn done() -> Body {
    Body::Done(wire::Done::default())
}

pub(super) fn set_attributes(call: &Call<'_>, message: wire::SetAttributes) -> Result<Answered> {
    let (reference, template) = (convert::object(message.object)?, template(message.template)?);
    call.change(
        Effort::Short,
        Box::new(move |call| {
            let found = Found::find(call, &reference)?;
            let request = Request::SetAttributes { object: &found.object, template: &template };
            let needs = call.service.node().read().needs(&call.actor, request)?;
            let Needs::Replace { object, .. } = needs else { return Err(contradiction(call)) };
            let secret = found.secret(call)?;
            let (keys, module) = (call.service.keys(), call.service.module());
            let Some(handle) = found.handle() else {
                let created = newborn::hand_out_with(call, &object, secret.payload())?;
                return Ok(newborn::made(vec![Newborn::Session(created)]));
            };
            let payload = secret.payload().map(|payload| keys.seal_payload(module, &object, payload)).transpose()?;
            let action = Action::ReplaceObject { handle, object, payload };
            Ok(Made::Action(action, Box::new(|_, _| Ok(done()))))
        }),
    )
}

pub(super) fn find(call: &Call<'_>, message: wire::FindObjects) -> Result<Answered> {
    let template = template(message.template)?;
    let limit = if message.limit == 0 { limits::FIND_PAGE } else { message.limit.min(limits::FIND_PAGE) };
    let after = ObjectHandle(message.after);
    let state = call.service.node().read();
    let (objects, more) = state.find(&call.actor, &template, after, limit as usize)?;
    drop(state);
    let objects = objects.into_iter().map(|handle| handle.0).collect();
    Ok(Answered::Now(Body::FindObjects(wire::FindObjectsReply { objects, more })))
}

/// `AttributeResult.status`.
const PRESENT: u32 = 0;
const SENSITIVE: u32 = 1;
const ABSENT: u32 = 2;

pub(super) fn get_attributes(call: &Call<'_>, message: wire::GetAttributes) -> Result<Answered> {
    if message.kinds.len() > limits::TEMPLATE_ATTRIBUTES {
        return Err(ErrorCode::TooLarge.into());
    }
    let found = Found::find(call, &convert::object(message.object)?)?;
    let everything = message.kinds.is_empty();
    let known: Vec<AttributeKind> = if everything {
        AttributeKind::ALL.to_vec()
    } else {
        message.kinds.iter().filter_map(|&kind| AttributeKind::from_number(kind)).collect()
    };
    let disclosures = call.service.node().read().disclose(&call.actor, &found.object, &known);
    let mut answers = Vec::with_capacity(known.len());
    let mut secret = None;
    for (kind, disclosure) in known.into_iter().zip(disclosures) {
        let answer = match disclosure {
            Disclosure::Value(value) => attribute(PRESENT, convert::attribute_message(kind, &value)),
            Disclosure::Sensitive => attribute(SENSITIVE, nothing(kind as u64)),
            Disclosure::Absent => attribute(ABSENT, nothing(kind as u64)),
            Disclosure::FromPayload(permit, kind) => {
                if secret.is_none() {
                    secret = Some(found.secret(call)?);
                }
                let payload = secret.as_ref().and_then(|secret| secret.payload());
                let value = payload
                    .map(|payload| hsm_crypto::disclose(permit, &found.object, payload, kind))
                    .transpose()?
                    .flatten();
                match value {
                    Some(value) => attribute(PRESENT, convert::attribute_message(kind, &value)),
                    None => attribute(ABSENT, nothing(kind as u64)),
                }
            }
        };
        answers.push(answer);
    }
    if everything {
        answers.retain(|answer| answer.status == PRESENT);
    } else {
        answers = in_the_order_asked(&message.kinds, answers);
    }
    Ok(Answered::Now(Body::Attributes(wire::AttributesReply { items: answers })))
}

/// One answer for each kind asked; a number that this version does not know is an attribute that no object has.
fn in_the_order_asked(kinds: &[u64], answers: Vec<wire::AttributeResult>) -> Vec<wire::AttributeResult> {
    let mut answers = answers.into_iter();
    let answer = |&kind: &u64| match AttributeKind::from_number(kind) {
        Some(_) => answers.next(),
        None => Some(attribute(ABSENT, nothing(kind))),
    };
    kinds.iter().filter_map(answer).collect()
}

fn attribute(status: u32, attribute: wire::Attribute) -> wire::AttributeResult {
    wire::AttributeResult { status, attribute: Some(attribute) }
}

fn nothing(kind: u64) -> wire::Attribute {
    wire::Attribute { kind, value: None }
}
