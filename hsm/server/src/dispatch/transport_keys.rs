//! Keys that come and go wrapped, and keys that are derived from others.

use hsm_core::{Confirmation, Needs, Request};
use hsm_protocol::mechanism::HkdfSalt;
use hsm_protocol::{AttributeKind, Mechanism, ObjectClass, ObjectReference, Parameters, Template, convert, wire};

use super::call::{Answered, Call, Effort, Result};
use super::found::Found;
use super::newborn;
use super::objects::{contradiction, template};
use super::operate::encrypted;

pub(super) fn wrap(call: &Call<'_>, message: wire::WrapKey) -> Result<Answered> {
    let mechanism = convert::mechanism(message.mechanism)?;
    let wrapping = Found::find(call, &convert::object(message.wrapping_key)?)?;
    let wrapped = Found::find(call, &convert::object(message.key)?)?;
    let permits = {
        let state = call.service.node().read();
        state.authorize_wrap(&call.actor, &wrapping.object, &wrapped.object, &mechanism)?
    };
    let key = wrapping.key(call)?;
    let secret = wrapped.secret(call)?;
    let payload = secret.payload().ok_or_else(|| contradiction(call))?;
    let data = hsm_crypto::wrap(call.service.module(), permits, &key, &mechanism, &wrapped.object, payload)?;
    Ok(Answered::Now(encrypted(data)))
}

pub(super) fn unwrap(call: &Call<'_>, message: wire::UnwrapKey) -> Result<Answered> {
    let mechanism = convert::mechanism(message.mechanism)?;
    let reference = convert::object(message.unwrapping_key)?;
    let template = template(message.template)?;
    let wrapped = message.wrapped;
    let unwrapping = Found::find(call, &reference)?;
    // Unwrapping a private key tests its numbers.
    let slow = unwrapping.key(call)?.is_slow() || brings_private_key(&template);
    let effort = if slow { Effort::Long } else { Effort::Short };
    call.change(
        effort,
        Box::new(move |call| {
            let unwrapping = Found::find(call, &reference)?;
            let request = Request::UnwrapKey {
                mechanism: &mechanism,
                unwrapping_key: &unwrapping.object,
                template: &template,
                confirmation: Confirmation::None,
            };
            let needs = call.service.node().read().needs(&call.actor, request)?;
            let Needs::Unwrap { draft, permit, length } = needs else { return Err(contradiction(call)) };
            let key = unwrapping.key(call)?;
            let module = call.service.module();
            let made = hsm_crypto::unwrap(module, permit, &key, &mechanism, &wrapped, &draft, length)?;
            newborn::one(call, draft, made)
        }),
    )
}

pub(super) fn derive(call: &Call<'_>, message: wire::DeriveKey) -> Result<Answered> {
    let mechanism = convert::mechanism(message.mechanism)?;
    let reference = convert::object(message.base_key)?;
    let template = template(message.template)?;
    call.change(
        Effort::Short,
        Box::new(move |call| {
            let base = Found::find(call, &reference)?;
            let other = other_key(&mechanism).map(|reference| Found::find(call, reference)).transpose()?;
            let request = Request::DeriveKey {
                mechanism: &mechanism,
                base_key: &base.object,
                second: other.as_ref().map(|other| &*other.object),
                template: &template,
                confirmation: Confirmation::None,
            };
            let needs = call.service.node().read().needs(&call.actor, request)?;
            let Needs::Derive { draft, permit, second, length } = needs else { return Err(contradiction(call)) };
            let key = base.key(call)?;
            let other = match (second, other) {
                (Some(permit), Some(other)) => Some((permit, other.key(call)?)),
                (None, _) => None,
                (Some(_), None) => return Err(contradiction(call)),
            };
            let (permit_of_other, other) = other.unzip();
            let second = permit_of_other.zip(other.as_deref());
            let module = call.service.module();
            let made = hsm_crypto::derive(module, permit, &key, second, &mechanism, &draft, length)?;
            newborn::one(call, draft, made)
        }),
    )
}

/// The second key that some mechanisms take.
fn other_key(mechanism: &Mechanism) -> Option<&ObjectReference> {
    match &mechanism.parameters {
        Parameters::OtherKey(reference) | Parameters::Hkdf { salt: HkdfSalt::Key(reference), .. } => Some(reference),
        _ => None,
    }
}

fn brings_private_key(template: &Template) -> bool {
    template.number(AttributeKind::Class) == Some(ObjectClass::PrivateKey as u64)
}
