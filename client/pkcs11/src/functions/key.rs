//! Key management: PKCS#11 3.2 §5.18. Encapsulation (§5.18.8) is in [`crate::functions::later`].

#![expect(unsafe_code, reason = "the C border")]

use cryptoki_sys::*;
use hsm_protocol::limits::PART_LIMIT;
use hsm_protocol::wire::{self, request};
use hsm_protocol::{AttributeKind, Template, convert};

use crate::application::Application;
use crate::entry;
use crate::functions::check_mechanism;
use crate::functions::object::{create, create_one};
use crate::lengths::{self, Length};
use crate::memory::{self, Input, Output};
use crate::parameters::{self, ReadMechanism};
use crate::return_value::{About, Outcome, ReturnValue, refuse};
use crate::session::Session;
use crate::template::Attributes;

/// Reads a mechanism for a use.
///
/// # Safety
/// As PKCS#11 says of the mechanism.
unsafe fn mechanism_for(session: &Session, mechanism: *const CK_MECHANISM, flag: CK_FLAGS) -> Outcome<ReadMechanism> {
    let slot = session.slot();
    // SAFETY: promised by the caller.
    let mechanism = unsafe { parameters::read(mechanism, &|handle| slot.reference(handle, About::Key)) }?;
    check_mechanism(slot, mechanism.kind(), flag)?;
    Ok(mechanism)
}

fn generate_key(session: &Session, mechanism: &ReadMechanism, template: &Template) -> Outcome<CK_OBJECT_HANDLE> {
    session.may_create(template)?;
    let make = |with| {
        request::Body::GenerateKey(wire::GenerateKey {
            mechanism: Some(mechanism.message(with)),
            template: Some(convert::template_message(template)),
        })
    };
    create_one(session, About::Object, template.is(AttributeKind::Token), &make)
}

fn generate_key_pair(
    session: &Session,
    mechanism: &ReadMechanism,
    public: &Template,
    private: &Template,
) -> Outcome<[CK_OBJECT_HANDLE; 2]> {
    session.may_create(public)?;
    session.may_create(private)?;
    let make = |with| {
        request::Body::GenerateKeyPair(wire::GenerateKeyPair {
            mechanism: Some(mechanism.message(with)),
            public_template: Some(convert::template_message(public)),
            private_template: Some(convert::template_message(private)),
        })
    };
    let token = public.is(AttributeKind::Token) || private.is(AttributeKind::Token);
    create(session, About::Object, token, &make)?.try_into().map_err(|_| crate::device::wrong_answer())
}

fn wrap_key(
    session: &Session,
    mechanism: &ReadMechanism,
    wrapping_key: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    output: Output,
) -> Outcome {
    let slot = session.slot();
    let wrapping_key =
        slot.reference(wrapping_key, About::Key).map_err(|_| ReturnValue(CKR_WRAPPING_KEY_HANDLE_INVALID))?;
    let key = slot.reference(key, About::Key)?;
    let asked = output.capacity().is_none();
    let attributes = |reference| {
        if asked { slot.unchanging_attributes(reference, About::Wrap).ok() } else { slot.known_attributes(reference) }
    };
    let length =
        lengths::of_wrapped(mechanism.kind(), attributes(&wrapping_key).as_deref(), attributes(&key).as_deref());
    match (output.capacity(), length) {
        (None, Length::Exact(length) | Length::AtMost(length)) => {
            output.announce(length);
            return Ok(());
        }
        (Some(capacity), Length::Exact(length)) if capacity < length => {
            output.announce(length);
            return refuse(CKR_BUFFER_TOO_SMALL);
        }
        _ => {}
    }
    // A length that cannot be told from here is that of the result itself.
    let make = |with| {
        request::Body::WrapKey(wire::WrapKey {
            mechanism: Some(mechanism.message(with)),
            wrapping_key: Some(wrapping_key.message(with)),
            key: Some(key.message(with)),
        })
    };
    output.give(&slot.call_for_bytes(About::Wrap, &make)?.data)
}

fn unwrap_key(
    session: &Session,
    mechanism: &ReadMechanism,
    unwrapping_key: CK_OBJECT_HANDLE,
    wrapped: Input,
    template: &Template,
) -> Outcome<CK_OBJECT_HANDLE> {
    session.may_create(template)?;
    let unwrapping_key = session.slot().reference(unwrapping_key, About::Unwrap)?;
    if wrapped.len() > PART_LIMIT {
        return refuse(CKR_WRAPPED_KEY_LEN_RANGE);
    }
    let wrapped = wrapped.copy()?;
    let make = |with| {
        request::Body::UnwrapKey(wire::UnwrapKey {
            mechanism: Some(mechanism.message(with)),
            unwrapping_key: Some(unwrapping_key.message(with)),
            wrapped: wrapped.clone(),
            template: Some(convert::template_message(template)),
        })
    };
    create_one(session, About::Unwrap, template.is(AttributeKind::Token), &make)
}

fn derive_key(
    session: &Session,
    mechanism: &ReadMechanism,
    base_key: CK_OBJECT_HANDLE,
    template: &Template,
) -> Outcome<CK_OBJECT_HANDLE> {
    session.may_create(template)?;
    let base_key = session.slot().reference(base_key, About::Key)?;
    let make = |with| {
        request::Body::DeriveKey(wire::DeriveKey {
            mechanism: Some(mechanism.message(with)),
            base_key: Some(base_key.message(with)),
            template: Some(convert::template_message(template)),
        })
    };
    create_one(session, About::Derive, template.is(AttributeKind::Token), &make)
}

/// Session and mechanism of a call that makes a key. The place of the new handle is looked at before a key is made for it,
/// and the mechanism before the template, whose attributes may be of a mechanism that this HSM does not have.
///
/// # Safety
/// As PKCS#11 says of the mechanism.
unsafe fn session_and_mechanism(
    application: &Application,
    session: CK_SESSION_HANDLE,
    mechanism: *const CK_MECHANISM,
    flag: CK_FLAGS,
    place: *mut CK_OBJECT_HANDLE,
) -> Outcome<(std::sync::Arc<Session>, ReadMechanism)> {
    let session = application.session(session)?;
    if place.is_null() {
        return refuse(CKR_ARGUMENTS_BAD);
    }
    // SAFETY: promised by the caller.
    let mechanism = unsafe { mechanism_for(&session, mechanism, flag) }?;
    Ok((session, mechanism))
}

entry! {
    /// `C_GenerateKey` (§5.18.1).
    fn C_GenerateKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        place: *mut CK_OBJECT_HANDLE,
    ) = unsafe |application| {
        let (session, mechanism) = session_and_mechanism(application, session, mechanism, CKF_GENERATE, place)?;
        let template = Attributes::new(template, count)?.read()?;
        memory::write(place, generate_key(&session, &mechanism, &template)?)
    };
}

entry! {
    /// `C_GenerateKeyPair` (§5.18.2).
    fn C_GenerateKeyPair(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        public_template: *mut CK_ATTRIBUTE,
        public_count: CK_ULONG,
        private_template: *mut CK_ATTRIBUTE,
        private_count: CK_ULONG,
        public_place: *mut CK_OBJECT_HANDLE,
        private_place: *mut CK_OBJECT_HANDLE,
    ) = unsafe |application| {
        let (session, mechanism) =
            session_and_mechanism(application, session, mechanism, CKF_GENERATE_KEY_PAIR, public_place)?;
        if private_place.is_null() {
            return refuse(CKR_ARGUMENTS_BAD);
        }
        let public = Attributes::new(public_template, public_count)?.read()?;
        let private = Attributes::new(private_template, private_count)?.read()?;
        let [public, private] = generate_key_pair(&session, &mechanism, &public, &private)?;
        memory::write(public_place, public)?;
        memory::write(private_place, private)
    };
}

entry! {
    /// `C_WrapKey` (§5.18.3).
    fn C_WrapKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        wrapping_key: CK_OBJECT_HANDLE,
        key: CK_OBJECT_HANDLE,
        wrapped: *mut CK_BYTE,
        wrapped_length: *mut CK_ULONG,
    ) = unsafe |application| {
        let session = application.session(session)?;
        let output = Output::new(wrapped, wrapped_length)?;
        let mechanism = mechanism_for(&session, mechanism, CKF_WRAP)?;
        wrap_key(&session, &mechanism, wrapping_key, key, output)
    };
}

entry! {
    /// `C_UnwrapKey` (§5.18.4).
    fn C_UnwrapKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        unwrapping_key: CK_OBJECT_HANDLE,
        wrapped: *mut CK_BYTE,
        wrapped_length: CK_ULONG,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        place: *mut CK_OBJECT_HANDLE,
    ) = unsafe |application| {
        let (session, mechanism) = session_and_mechanism(application, session, mechanism, CKF_UNWRAP, place)?;
        let wrapped = Input::new(wrapped, wrapped_length)?;
        let template = Attributes::new(template, count)?.read()?;
        memory::write(place, unwrap_key(&session, &mechanism, unwrapping_key, wrapped, &template)?)
    };
}

entry! {
    /// `C_DeriveKey` (§5.18.5).
    fn C_DeriveKey(
        session: CK_SESSION_HANDLE,
        mechanism: *mut CK_MECHANISM,
        base_key: CK_OBJECT_HANDLE,
        template: *mut CK_ATTRIBUTE,
        count: CK_ULONG,
        place: *mut CK_OBJECT_HANDLE,
    ) = unsafe |application| {
        let (session, mechanism) = session_and_mechanism(application, session, mechanism, CKF_DERIVE, place)?;
        let template = Attributes::new(template, count)?.read()?;
        memory::write(place, derive_key(&session, &mechanism, base_key, &template)?)
    };
}
