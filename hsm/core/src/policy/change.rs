//! What may change of an object that exists (`C_SetAttributeValue`, PKCS#11 3.2 §4.1.2).

use hsm_protocol::attribute::AttributeValue;
use hsm_protocol::{AttributeKind as A, ErrorCode, ObjectClass, Role, Template};

use crate::object::Object;
use crate::policy::{schema, sight, values};
use crate::records::Caller;
use crate::refusal::Refusal;

/// In which direction an attribute may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    /// To any possible value.
    Any,
    /// From false to true and never back.
    ToTrue,
    /// From true to false and never back.
    ToFalse,
    /// By an admin only.
    ByAdmin,
    /// Never.
    Fixed,
}

/// The object as it would be after the change: one version higher.
///
/// # Errors
/// What forbids it. Only the owner changes an object; an admin changes `CKA_TRUSTED` and nothing else.
pub(crate) fn changed(caller: Caller, object: &Object, template: &Template) -> Result<Object, Refusal> {
    let class = object.class().ok_or(ErrorCode::ObjectUnknown)?;
    if caller.role == Some(Role::Admin) {
        sight::require_sight(caller, object)?;
        if template.is_empty() || template.iter().any(|(kind, _)| kind != A::Trusted) {
            return Err(ErrorCode::RoleRefused.into());
        }
    } else {
        sight::require_ownership(caller, object)?;
    }
    if !object.is(A::Modifiable) {
        return Err(Refusal::of(ErrorCode::NotModifiable, A::Modifiable));
    }
    let mut changes = Template::new();
    for (kind, value) in template.iter() {
        check(caller, object, class, kind, value)?;
        changes.insert(kind, values::canonical(kind, value)?);
    }
    let changed = object.with_changes(&changes);
    check_result(&changed)?;
    Ok(changed)
}

/// What must hold of the result of a change or a copy.
///
/// # Errors
/// [`ErrorCode::TemplateInconsistent`] or [`ErrorCode::TooLarge`].
pub(crate) fn check_result(object: &Object) -> Result<(), Refusal> {
    values::check_dates(object.octets(A::StartDate), object.octets(A::EndDate))?;
    values::check_size(&object.attributes())
}

/// What differs between two versions of an object.
pub(crate) fn difference(before: &Object, after: &Object) -> Template {
    let value = |object: &Object, kind| {
        let stored = object.attribute(kind).cloned();
        stored.or_else(|| schema::value_when_absent(object, kind))
    };
    let differs = |&kind: &A| {
        let after = value(after, kind);
        if after == value(before, kind) { None } else { after.map(|after| (kind, after)) }
    };
    A::ALL.iter().filter_map(differs).collect()
}

fn check(caller: Caller, object: &Object, class: ObjectClass, kind: A, value: &AttributeValue) -> Result<(), Refusal> {
    let refuse = |code| Err(Refusal::of(code, kind));
    if !schema::applies(kind, class, object.key_type()) {
        return refuse(ErrorCode::AttributeUnknown);
    }
    let is_admin = caller.role == Some(Role::Admin);
    let same = object.attribute(kind) == Some(value);
    let allowed = match direction(kind, class, object.has_payload()) {
        Direction::Any => is_harmless_to_trust(caller, object, kind, value),
        Direction::ToTrue => same || *value == AttributeValue::Flag(true),
        Direction::ToFalse => same || *value == AttributeValue::Flag(false),
        Direction::ByAdmin => same || is_admin,
        Direction::Fixed => false,
    };
    if allowed { Ok(()) } else { refuse(ErrorCode::AttributeReadOnly) }
}

/// An admin who trusts a wrapping key has looked at what it can do: its owner cannot make it do more.
fn is_harmless_to_trust(caller: Caller, object: &Object, kind: A, value: &AttributeValue) -> bool {
    let does_more = schema::is_usage(kind) && *value == AttributeValue::Flag(true) && !object.is(kind);
    !(does_more && object.is(A::Trusted) && caller.role != Some(Role::Admin))
}

fn direction(kind: A, class: ObjectClass, has_payload: bool) -> Direction {
    let key = class.is_key();
    match kind {
        _ if schema::is_usage(kind) => Direction::Any,
        A::Label | A::Id | A::Application | A::ObjectId | A::Destroyable => Direction::Any,
        A::StartDate | A::EndDate => Direction::Any,
        A::Issuer | A::SerialNumber => Direction::Any,
        A::Subject if key => Direction::Any,
        A::Value if class == ObjectClass::Data && !has_payload => Direction::Any,
        A::Sensitive | A::WrapWithTrusted => Direction::ToTrue,
        A::Extractable | A::Copyable | A::Modifiable => Direction::ToFalse,
        A::Trusted => Direction::ByAdmin,
        _ => Direction::Fixed,
    }
}

/// Whether `C_CopyObject` may give the copy another value: what may change, and besides that where the copy lies, who
/// sees it and whether it can be changed (PKCS#11 3.2 §4.4).
pub(crate) fn may_differ_in_copy(source: &Object, kind: A, value: &AttributeValue) -> bool {
    let Some(class) = source.class() else { return false };
    let same = source.attribute(kind) == Some(value);
    match (kind, value) {
        (A::Token | A::Modifiable, _) => true,
        (A::Private, AttributeValue::Flag(private)) => *private || same,
        // The copy is trusted by nobody yet.
        (A::Trusted, AttributeValue::Flag(trusted)) => !trusted,
        _ => match direction(kind, class, source.has_payload()) {
            Direction::Any => true,
            Direction::ToTrue => same || *value == AttributeValue::Flag(true),
            Direction::ToFalse => same || *value == AttributeValue::Flag(false),
            Direction::ByAdmin => false,
            // To say again what is so does no harm.
            Direction::Fixed => same,
        },
    }
}
