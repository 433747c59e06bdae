//! Token objects: created, replaced by their next version, destroyed.
//!
//! The objects in a command were made from drafts that policy had settled. What could have changed since is judged again:
//! the login, the owner, the quotas, the epoch and the version.

use hsm_protocol::{AttributeKind as A, ErrorCode, ObjectClass};

use super::Answer;
use crate::change::{Effect, Response};
use crate::command::{NewObject, SealedPayload};
use crate::ids::ObjectHandle;
use crate::limits::OBJECTS_PER_COMMAND;
use crate::object::Object;
use crate::policy::{change, schema, sight};
use crate::records::Caller;
use crate::refusal::Refusal;
use crate::state::State;
use crate::work::Work;

pub(super) fn create(work: &mut Work<'_>, caller: Caller, new: &[NewObject]) -> Answer {
    sight::require_crypto_user(caller)?;
    if new.is_empty() || new.len() > OBJECTS_PER_COMMAND {
        return Err(ErrorCode::Malformed.into());
    }
    judge_room(work.state, new.iter().map(|new| new.object.class()))?;
    for (position, NewObject { object, payload }) in new.iter().enumerate() {
        judge_new(work.state, caller, object, payload.as_ref())?;
        let twice = new[..position].iter().any(|earlier| earlier.object.uid() == object.uid());
        if twice || work.state.objects.handle_of(object.uid()).is_some() {
            return Err(ErrorCode::ObjectChanged.into());
        }
    }
    let mut handles = Vec::with_capacity(new.len());
    for NewObject { object, payload } in new {
        let handle = work.counters().next_object;
        work.counters().next_object = ObjectHandle(handle.0 + 1);
        work.put_object(handle, Some(object));
        if payload.is_some() {
            work.put_payload(handle, payload.as_ref());
        }
        handles.push(handle);
    }
    Ok(Response::Created(handles))
}

/// Refuses what the quotas have no room for.
pub(crate) fn judge_room(state: &State, classes: impl Iterator<Item = Option<ObjectClass>>) -> Result<(), Refusal> {
    let quotas = state.quotas();
    let (mut objects, mut asymmetric) = (state.objects.len(), state.objects.asymmetric());
    for class in classes {
        objects += 1;
        asymmetric += u64::from(matches!(class, Some(ObjectClass::PublicKey | ObjectClass::PrivateKey)));
    }
    let is_over = objects > quotas.objects || asymmetric > quotas.asymmetric_keys;
    if is_over { Err(ErrorCode::ObjectLimit.into()) } else { Ok(()) }
}

pub(super) fn replace(
    work: &mut Work<'_>,
    caller: Caller,
    handle: ObjectHandle,
    object: &Object,
    payload: Option<&SealedPayload>,
) -> Answer {
    let before = work.state.objects.get(handle).filter(|before| sight::sees(caller, before));
    let before = before.ok_or(ErrorCode::ObjectUnknown)?;
    let follows = before.version().checked_add(1) == Some(object.version());
    if !follows || object.uid() != before.uid() || object.owner() != before.owner() {
        return Err(ErrorCode::ObjectChanged.into());
    }
    let expected = change::changed(caller, before, &change::difference(before, object))?;
    if expected != *object || object.has_payload() != payload.is_some() {
        return Err(ErrorCode::Malformed.into());
    }
    judge_epoch(work.state, payload)?;
    let uid = object.uid();
    work.put_object(handle, Some(object));
    if payload.is_some() {
        work.put_payload(handle, payload);
    }
    work.effect(Effect::ForgetKey(uid));
    Ok(Response::Done)
}

/// Only its owner destroys an object, and only one that can be.
pub(crate) fn judge_destruction(caller: Caller, object: &Object) -> Result<(), Refusal> {
    sight::require_key_user(caller)?;
    sight::require_ownership(caller, object)?;
    if object.is(A::Destroyable) { Ok(()) } else { Err(Refusal::of(ErrorCode::NotDestroyable, A::Destroyable)) }
}

pub(super) fn destroy(work: &mut Work<'_>, caller: Caller, handle: ObjectHandle) -> Answer {
    let object = work.state.objects.get(handle).ok_or(ErrorCode::ObjectUnknown)?;
    judge_destruction(caller, object)?;
    let (uid, has_payload) = (object.uid(), object.has_payload());
    work.put_object(handle, None);
    if has_payload {
        work.put_payload(handle, None);
    }
    work.effect(Effect::ForgetKey(uid));
    Ok(Response::Done)
}

/// A new object must be one that a draft can have become: the caller's own, a token object, trusted by nobody, with
/// nothing secret among its attributes and a payload where it says that it has one.
fn judge_new(state: &State, caller: Caller, object: &Object, payload: Option<&SealedPayload>) -> Result<(), Refusal> {
    let class = object.class().ok_or(ErrorCode::Malformed)?;
    let belongs = |kind| {
        let secret = object.has_payload() && schema::is_secret(kind, class);
        kind == A::UniqueId || (schema::applies(kind, class, object.key_type()) && !secret)
    };
    let needs_payload = matches!(class, ObjectClass::PrivateKey | ObjectClass::SecretKey);
    let sound = object.version() == Object::FIRST_VERSION
        && object.owner() == caller.user
        && object.is(A::Token)
        && !object.is(A::Trusted)
        && object.has_payload() == payload.is_some()
        && (object.has_payload() || !needs_payload)
        && class.is_key() == object.key_type().is_some()
        && object.attributes().iter().all(|(kind, _)| belongs(kind));
    if !sound {
        return Err(ErrorCode::Malformed.into());
    }
    change::check_result(object)?;
    judge_epoch(state, payload)
}

/// What was sealed under another epoch is made again by the HSM.
fn judge_epoch(state: &State, payload: Option<&SealedPayload>) -> Result<(), Refusal> {
    let epoch = state.cluster.as_ref().map(|cluster| cluster.epoch);
    let stale = payload.is_some_and(|payload| Some(payload.epoch) != epoch);
    if stale { Err(ErrorCode::ObjectChanged.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hsm_protocol::Template;

    use super::*;
    use crate::cluster::{ClusterRecord, QuotaProfile};
    use crate::ids::{ClusterId, Epoch, Incarnation, ObjectUid, UserId};
    use crate::limits::Quotas;

    fn state(quotas: QuotaProfile, class: ObjectClass, count: u64) -> State {
        let cluster = ClusterRecord {
            cluster: ClusterId([0; 16]),
            incarnation: Incarnation([0; 16]),
            fips: false,
            label: String::new(),
            epoch: Epoch(1),
            lifecycle: hsm_protocol::Lifecycle::Active,
            sealed_activation_password: Vec::new(),
            sealed_cluster_key: Vec::new(),
            ceremony: Default::default(),
            certificate: String::new(),
            trust_anchor: String::new(),
            client_anchors: Vec::new(),
            client_certificates_required: false,
            quotas,
            policy: crate::roster::ClusterPolicy::default(),
            epoch_due: false,
            version: crate::versions::NEWEST,
            sealed_next_cluster_key: Vec::new(),
        };
        let mut state = State { cluster: Some(cluster), ..State::default() };
        for number in 0..count {
            let attributes = Template::new().with_number(A::Class, class as u64);
            let mut uid = [0; 16];
            uid[..8].copy_from_slice(&number.to_be_bytes());
            let object = Object::new(ObjectUid(uid), UserId(1), &attributes, false);
            state.objects.put(ObjectHandle(number + 1), Arc::new(object));
        }
        state
    }

    #[test]
    fn a_quota_holds_at_its_bound_and_not_one_past_it() {
        let quotas = Quotas::AWS_HSM2M;
        let room = |class, held, more: usize| {
            let state = state(QuotaProfile::AwsHsm2m, class, held);
            judge_room(&state, std::iter::repeat_n(Some(class), more)).err().map(|refusal| refusal.code)
        };
        let full = Some(ErrorCode::ObjectLimit);
        assert_eq!(room(ObjectClass::SecretKey, quotas.objects - 1, 1), None);
        assert_eq!(room(ObjectClass::SecretKey, quotas.objects, 1), full);
        assert_eq!(room(ObjectClass::PrivateKey, quotas.asymmetric_keys - 2, 2), None);
        assert_eq!(room(ObjectClass::PrivateKey, quotas.asymmetric_keys - 1, 2), full);
        let ours = state(QuotaProfile::Ours, ObjectClass::PrivateKey, quotas.asymmetric_keys);
        assert!(judge_room(&ours, std::iter::once(Some(ObjectClass::PrivateKey))).is_ok());
    }
}
