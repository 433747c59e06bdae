//! Object management: PKCS#11 3.2 §5.7.

#![expect(unsafe_code, reason = "the C border")]

use cryptoki_sys::*;
use hsm_client::With;
use hsm_protocol::wire::{self, reply, request};
use hsm_protocol::{AttributeKind, Template, convert};

use crate::application::Application;
use crate::device::wrong_answer;
use crate::entry;
use crate::memory;
use crate::objects::Reference;
use crate::remembered::UNCHANGING;
use crate::return_value::{About, Outcome, ReturnValue, refuse};
use crate::search::Search;
use crate::session::Session;
use crate::slot::{Slot, value_of};
use crate::template::{Attributes, Found, value_bytes};

/// Bytes that an attribute costs beside its value, for `C_GetObjectSize`.
const ATTRIBUTE_OVERHEAD: usize = 16;

/// Makes objects and takes them into use: what is stored in the HSM goes through its log, exactly once; what belongs to
/// a session may be made again when an answer is lost.
pub(crate) fn create(
    session: &Session,
    about: About,
    token: bool,
    make: &dyn Fn(With) -> request::Body,
) -> Outcome<Vec<CK_OBJECT_HANDLE>> {
    let slot = session.slot();
    let answer = if token { slot.change(about, make) } else { slot.call(about, make) }?;
    let reply::Body::Objects(reply) = answer else { return Err(wrong_answer()) };
    reply.items.into_iter().map(|created| slot.adopt(created, session)).collect()
}

/// As [`create`], for one object.
pub(crate) fn create_one(
    session: &Session,
    about: About,
    token: bool,
    make: &dyn Fn(With) -> request::Body,
) -> Outcome<CK_OBJECT_HANDLE> {
    match create(session, about, token, make)?[..] {
        [handle] => Ok(handle),
        _ => Err(wrong_answer()),
    }
}

fn create_object(session: &Session, template: &Template) -> Outcome<CK_OBJECT_HANDLE> {
    session.may_create(template)?;
    let make =
        |_| request::Body::CreateObject(wire::CreateObject { template: Some(convert::template_message(template)) });
    create_one(session, About::Object, template.is(AttributeKind::Token), &make)
}

fn copy_object(session: &Session, source: CK_OBJECT_HANDLE, template: &Template) -> Outcome<CK_OBJECT_HANDLE> {
    let source = session.slot().reference(source, About::Object)?;
    let token = template.flag(AttributeKind::Token).unwrap_or(source.is_token());
    if token {
        session.may_write()?;
    }
    let make = |with| {
        request::Body::CopyObject(wire::CopyObject {
            object: Some(source.message(with)),
            template: Some(convert::template_message(template)),
        })
    };
    create_one(session, About::Object, token, &make)
}

fn destroy_object(session: &Session, object: CK_OBJECT_HANDLE) -> Outcome {
    let slot = session.slot();
    let reference = slot.reference(object, About::Object)?;
    if let Reference::Session(held) = &reference {
        if held.attributes().flag(AttributeKind::Destroyable) == Some(false) {
            return refuse(CKR_ACTION_PROHIBITED);
        }
        slot.objects.remove(held.handle());
        slot.destroy_at_hsm(&reference);
        return Ok(());
    }
    session.may_write()?;
    let make = |with| request::Body::DestroyObject(wire::DestroyObject { object: Some(reference.message(with)) });
    let destroyed = slot.change(About::Object, &make);
    slot.forget(&reference);
    destroyed.map(|_| ())
}

fn object_size(session: &Session, object: CK_OBJECT_HANDLE) -> Outcome<CK_ULONG> {
    let slot = session.slot();
    let reference = slot.reference(object, About::Object)?;
    let mut size = 0;
    for answer in slot.ask_attributes(&reference, &[], About::Object)? {
        if let Some((_, value)) = value_of(answer)? {
            size += ATTRIBUTE_OVERHEAD + value_bytes(&value).len();
        }
    }
    Ok(size as CK_ULONG)
}

/// What an object has of some attributes: from memory where that is certain, else from the HSM in one call.
fn look_up(slot: &Slot, reference: &Reference, kinds: &[u64]) -> Outcome<Vec<Found>> {
    let known = slot.known_attributes(reference);
    let complete = match reference {
        Reference::Token(handle) => slot.remembered.whole(*handle).is_some(),
        Reference::Session(_) => false,
    };
    let mut asked = Vec::new();
    let mut found = Vec::with_capacity(kinds.len());
    for &number in kinds {
        let Some(kind) = AttributeKind::from_number(number) else {
            found.push(Some(Found::Absent));
            continue;
        };
        match known.as_ref().and_then(|known| known.get(kind)) {
            Some(value) => found.push(Some(Found::Value(value.clone()))),
            None if complete && UNCHANGING.contains(&kind) => found.push(Some(Found::Absent)),
            None => {
                asked.push(kind);
                found.push(None);
            }
        }
    }
    if asked.is_empty() && (known.is_some() || kinds.is_empty()) {
        return Ok(found.into_iter().flatten().collect());
    }
    let mut answers = slot.ask_attributes(reference, &asked, About::Object)?.into_iter();
    let mut learnt = Template::new();
    for place in found.iter_mut().filter(|place| place.is_none()) {
        let answer = answers.next().ok_or_else(wrong_answer)?;
        let sensitive = answer.status == ATTRIBUTE_SENSITIVE;
        *place = Some(match value_of(answer)? {
            Some((kind, value)) => {
                learnt.insert(kind, value.clone());
                Found::Value(value)
            }
            None if sensitive => Found::Sensitive,
            None => Found::Absent,
        });
    }
    if let Reference::Token(handle) = reference {
        slot.remembered.learn(*handle, learnt.iter(), false);
    }
    Ok(found.into_iter().flatten().collect())
}

/// `AttributeResult.status` of client.proto.
const ATTRIBUTE_SENSITIVE: u32 = 1;

fn get_attributes(session: &Session, object: CK_OBJECT_HANDLE, attributes: Attributes) -> Outcome {
    let slot = session.slot();
    let reference = slot.reference(object, About::Object)?;
    let kinds: Vec<u64> = attributes.kinds().collect();
    attributes.fill(&look_up(slot, &reference, &kinds)?)
}

fn set_attributes(session: &Session, object: CK_OBJECT_HANDLE, template: &Template) -> Outcome {
    let slot = session.slot();
    let reference = slot.reference(object, About::Object)?;
    let make = |with| {
        request::Body::SetAttributes(wire::SetAttributes {
            object: Some(reference.message(with)),
            template: Some(convert::template_message(template)),
        })
    };
    let Reference::Session(held) = &reference else {
        session.may_write()?;
        return slot.change(About::Object, &make).map(|_| ());
    };
    match slot.call(About::Object, &make)? {
        reply::Body::Objects(mut reply) if reply.items.len() == 1 => held.replace(reply.items.remove(0)),
        _ => Err(wrong_answer()),
    }
}

fn find_init(application: &Application, session: CK_SESSION_HANDLE, attributes: &Attributes) -> Outcome {
    let session = application.session(session)?;
    let mut operations = session.operations()?;
    if operations.search.is_some() {
        return refuse(CKR_OPERATION_ACTIVE);
    }
    operations.search = Some(Search::new(session.slot(), attributes.read_for_search()?));
    Ok(())
}

/// # Safety
/// As PKCS#11 says.
unsafe fn find(
    application: &Application,
    session: CK_SESSION_HANDLE,
    list: *mut CK_OBJECT_HANDLE,
    limit: CK_ULONG,
    count: *mut CK_ULONG,
) -> Outcome {
    let session = application.session(session)?;
    let mut operations = session.operations()?;
    let search = operations.search.as_mut().ok_or(ReturnValue(CKR_OPERATION_NOT_INITIALIZED))?;
    if count.is_null() || (list.is_null() && limit > 0) {
        return refuse(CKR_ARGUMENTS_BAD);
    }
    let handles = search.next(session.slot(), usize::try_from(limit).unwrap_or(usize::MAX))?;
    let mut room = limit;
    // SAFETY: the list is good for `limit` handles as the caller promised, and there are no more than that.
    unsafe {
        memory::write_list(list, &raw mut room, &handles)?;
        memory::write(count, handles.len() as CK_ULONG)
    }
}

fn find_final(application: &Application, session: CK_SESSION_HANDLE) -> Outcome {
    let session = application.session(session)?;
    let search = session.operations()?.search.take();
    search.map(|_| ()).ok_or(ReturnValue(CKR_OPERATION_NOT_INITIALIZED))
}

entry! {
    /// `C_CreateObject` (§5.7.1).
    fn C_CreateObject(
        session: CK_SESSION_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        place: *mut CK_OBJECT_HANDLE,
    ) = unsafe |application| {
        let session = application.session(session)?;
        if place.is_null() {
            return refuse(CKR_ARGUMENTS_BAD);
        }
        memory::write(place, create_object(&session, &Attributes::new(template, count)?.read()?)?)
    };
}

entry! {
    /// `C_CopyObject` (§5.7.2).
    fn C_CopyObject(
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        place: *mut CK_OBJECT_HANDLE,
    ) = unsafe |application| {
        let session = application.session(session)?;
        if place.is_null() {
            return refuse(CKR_ARGUMENTS_BAD);
        }
        memory::write(place, copy_object(&session, object, &Attributes::new(template, count)?.read()?)?)
    };
}

entry! {
    /// `C_DestroyObject` (§5.7.3).
    fn C_DestroyObject(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE) = |application| {
        destroy_object(&*application.session(session)?, object)
    };
}

entry! {
    /// `C_GetObjectSize` (§5.7.4): bytes of what may be read of it.
    fn C_GetObjectSize(session: CK_SESSION_HANDLE, object: CK_OBJECT_HANDLE, place: *mut CK_ULONG) = unsafe |application| {
        let session = application.session(session)?;
        if place.is_null() { refuse(CKR_ARGUMENTS_BAD) } else { memory::write(place, object_size(&session, object)?) }
    };
}

entry! {
    /// `C_GetAttributeValue` (§5.7.5).
    fn C_GetAttributeValue(
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
    ) = unsafe |application| {
        let session = application.session(session)?;
        get_attributes(&session, object, Attributes::new(template, count)?)
    };
}

entry! {
    /// `C_SetAttributeValue` (§5.7.6).
    fn C_SetAttributeValue(
        session: CK_SESSION_HANDLE,
        object: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
    ) = unsafe |application| {
        let session = application.session(session)?;
        set_attributes(&session, object, &Attributes::new(template, count)?.read()?)
    };
}

entry! {
    /// `C_FindObjectsInit` (§5.7.7).
    fn C_FindObjectsInit(session: CK_SESSION_HANDLE, template: *mut CK_ATTRIBUTE, count: CK_ULONG) = unsafe |application| {
        find_init(application, session, &Attributes::new(template, count)?)
    };
}

entry! {
    /// `C_FindObjects` (§5.7.8).
    fn C_FindObjects(
        session: CK_SESSION_HANDLE,
        list: *mut CK_OBJECT_HANDLE,
        limit: CK_ULONG,
        count: *mut CK_ULONG,
    ) = unsafe |application| find(application, session, list, limit, count);
}

entry! {
    /// `C_FindObjectsFinal` (§5.7.9).
    fn C_FindObjectsFinal(session: CK_SESSION_HANDLE) = |application| find_final(application, session);
}
