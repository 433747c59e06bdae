//! Keys that come and go wrapped, and keys that are derived from others.

use hsm_core::{Confirmation, Needs, Request};
use hsm_protocol::mechanism::HkdfSalt;
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{Mechanism, ObjectReference, Parameters, convert, wire};

use super::call::{Answered, Call, Effort, Result};
use super::found::Found;
use super::newborn::{self, Newborn, complete};
use super::objects::{contradiction, template};

pub(super) fn wrap(call: &Call<'_>, message: wire::WrapKey) -> Result<Answered> {
    let mechanism = convert::mechanism(message.mechanism)?;
    let wrapping = Found::find(call, &convert::object(message.wrapping_key)?)?;
    let wrapped = Found::find(call, &convert::object(message.key)?)?;
    let (permit, leave) = {
        let state = call.service.node().read();
        state.authorize_wrap(&call.actor, &wrapping.object, &wrapped.object, &mechanism)?
    };
    let key = wrapping.key(call)?;
    let secret = wrapped.secret(call)?;
    let payload = secret.payload().ok_or_else(|| contradiction(call))?;
    let data = hsm_crypto::wrap(call.service.module(), permit, leave, &key, &mechanism, &wrapped.object, payload)?;
    Ok(Answered::Now(Body::Bytes(data)))
}

pub(super) fn unwrap(call: &Call<'_>, message: wire::UnwrapKey) -> Result<Answered> {
    let mechanism = convert::mechanism(message.mechanism)?;
    let reference = convert::object(message.unwrapping_key)?;
    let template = template(message.template)?;
    let wrapped = message.wrapped;
    let unwrapping = Found::find(call, &reference)?;
    let effort = effort(call, &unwrapping, &mechanism)?;
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
            let (facts, payload) =
                hsm_crypto::unwrap(call.service.module(), permit, &key, &mechanism, &wrapped, &draft, length)?;
            let object = complete(call, draft, facts)?;
            Ok(newborn::made(vec![Newborn::seal(call, object, Some(payload))?]))
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
            let other = other.as_ref().map(|(permit, key)| (permit, &**key));
            let (facts, payload) =
                hsm_crypto::derive(call.service.module(), permit, &key, other, &mechanism, &draft, length)?;
            let object = complete(call, draft, facts)?;
            Ok(newborn::made(vec![Newborn::seal(call, object, Some(payload))?]))
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

/// Where the work of a key is done.
fn effort(call: &Call<'_>, found: &Found, mechanism: &Mechanism) -> Result<Effort> {
    let key = found.key(call)?;
    Ok(if hsm_crypto::is_long(mechanism, &key) { Effort::Long } else { Effort::Short })
}
