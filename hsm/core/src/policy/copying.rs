//! `C_CopyObject`: a new object with the material of another.

use hsm_protocol::attribute::AttributeValue;
use hsm_protocol::{AttributeKind as A, ErrorCode, ObjectClass, Template};

use crate::object::Object;
use crate::permit::Permit;
use crate::policy::{change, schema, sight, values};
use crate::records::Caller;
use crate::refusal::Refusal;
use crate::request::{Draft, Needs};

/// What a copy needs. Who owns the source may copy it; others may copy what they see and has no secret part, or the copy
/// would outlive the owner's deletion of his key.
pub(crate) fn copy(caller: Caller, source: &Object, template: &Template, fips: bool) -> Result<Needs, Refusal> {
    let class = source.class().ok_or(ErrorCode::ObjectUnknown)?;
    if source.has_payload() {
        sight::require_crypto_user(caller)?;
        sight::require_ownership(caller, source)?;
    } else {
        sight::require_sight(caller, source)?;
    }
    if !source.is(A::Copyable) {
        return Err(Refusal::of(ErrorCode::NotCopyable, A::Copyable));
    }
    let mut attributes = source.attributes();
    attributes.remove(A::UniqueId);
    if attributes.get(A::Trusted).is_some() {
        attributes.insert(A::Trusted, AttributeValue::Flag(false));
    }
    for (kind, value) in template.iter() {
        if !schema::applies(kind, class, source.key_type()) {
            return Err(Refusal::of(ErrorCode::AttributeUnknown, kind));
        }
        let value = values::canonical(kind, value)?;
        if !change::may_differ_in_copy(source, kind, &value) {
            return Err(Refusal::of(ErrorCode::AttributeReadOnly, kind));
        }
        attributes.insert(kind, value);
    }
    check(caller, source, class, &attributes)?;
    let has_payload = source.has_payload();
    let draft = Draft { owner: caller.user, class, attributes, has_payload, is_copy: true, fips };
    Ok(Needs::Copy { draft, permit: Permit::new(source.uid(), None, fips) })
}

fn check(caller: Caller, source: &Object, class: ObjectClass, attributes: &Template) -> Result<(), Refusal> {
    sight::require_maker(caller, class, attributes)?;
    values::check_dates(attributes.octets(A::StartDate), attributes.octets(A::EndDate))?;
    values::check_size(attributes)?;
    // The value of a public data object lies among its attributes; a private one's lies in a payload, which a copy of
    // this object would not have.
    let hides = class == ObjectClass::Data && attributes.is(A::Private) && !source.is(A::Private);
    if hides && !source.has_payload() && source.octets(A::Value).is_some() {
        return Err(Refusal::of(ErrorCode::AttributeReadOnly, A::Private));
    }
    Ok(())
}
