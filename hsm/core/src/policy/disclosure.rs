//! What may be told of an object's attributes.

use hsm_protocol::attribute::AttributeValue;
use hsm_protocol::{AttributeKind, ObjectClass, Role};

use crate::object::Object;
use crate::permit::Permit;
use crate::policy::{schema, sight};
use crate::records::Caller;
use crate::request::Disclosure;

/// The answer for one attribute.
pub(crate) fn disclose(caller: Caller, object: &Object, kind: AttributeKind, fips: bool) -> Disclosure {
    let Some(class) = object.class().filter(|_| sight::sees(caller, object)) else { return Disclosure::Absent };
    if !schema::applies(kind, class, object.key_type()) {
        return Disclosure::Absent;
    }
    if kind == AttributeKind::UniqueId {
        return Disclosure::Value(AttributeValue::Octets(object.unique_id().into_bytes()));
    }
    if object.has_payload() && schema::is_secret(kind, class) {
        return if may_leave(caller, object, class) {
            Disclosure::FromPayload(Permit::new(object.uid(), None, fips), kind)
        } else {
            Disclosure::Sensitive
        };
    }
    let value = object.attribute(kind).cloned().or_else(|| schema::value_when_absent(object, kind));
    value.map_or(Disclosure::Absent, Disclosure::Value)
}

/// Whether the secret part may be told in the clear: never of a key that is sensitive or not extractable (PKCS#11 3.2
/// §4.9, footnote 7), and never to an admin.
fn may_leave(caller: Caller, object: &Object, class: ObjectClass) -> bool {
    let bare = !object.is(AttributeKind::Sensitive) && object.is(AttributeKind::Extractable);
    caller.role != Some(Role::Admin) && (bare || class == ObjectClass::Data)
}
