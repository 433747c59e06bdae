//! How keys may be used: every use goes through a permit.

use hsm_core::permit::{BeDigested, BeWrapped, Decrypt, Encrypt, KeyUse, Sign, SignRecover, Verify};
use hsm_core::{Action, Confirmation, Curve, Needs, Object, Request, SessionId};
use hsm_protocol::attribute::AttributeValue;
use hsm_protocol::{
    AttributeKind as A, ErrorCode, KeyType, Mechanism, MechanismKind as M, ObjectClass, Parameters, Template,
};

use crate::world::{World, by};

fn ask<U: KeyUse>(world: &World, session: SessionId, key: &Object, mechanism: &Mechanism) -> Option<ErrorCode> {
    let permit = world.hsm.authorize::<U>(&world.actor(session), key, mechanism, Confirmation::None);
    permit.err().map(|refusal| refusal.code)
}

fn secret(world: &mut World, session: SessionId, kind: M, template: Template) -> Object {
    let mechanism = Mechanism::plain(kind);
    let template =
        if template.number(A::ValueLen).is_none() { template.with_number(A::ValueLen, 32) } else { template };
    world.make(session, Request::GenerateKey { mechanism: &mechanism, template: &template }).unwrap().remove(0)
}

fn aes(world: &mut World, session: SessionId, template: Template) -> Object {
    secret(world, session, M::AES_KEY_GEN, template)
}

fn rsa(world: &mut World, session: SessionId, private: &Template) -> (Object, Object) {
    let mechanism = Mechanism::plain(M::RSA_PKCS_KEY_PAIR_GEN);
    let public_template = &Template::new().with_number(A::ModulusBits, 2048);
    let request = Request::GenerateKeyPair { mechanism: &mechanism, public_template, private_template: private };
    let mut keys = world.make(session, request).unwrap();
    let private = keys.remove(1);
    (keys.remove(0), private)
}

fn ec(world: &mut World, session: SessionId, curve: Curve) -> (Object, Object) {
    let mechanism = Mechanism::plain(M::EC_KEY_PAIR_GEN);
    let public_template = &Template::new().with_octets(A::EcParams, curve.params());
    let private_template = &Template::new();
    let request = Request::GenerateKeyPair { mechanism: &mechanism, public_template, private_template };
    let mut keys = world.make(session, request).unwrap();
    let private = keys.remove(1);
    (keys.remove(0), private)
}

fn ecb() -> Mechanism {
    Mechanism::plain(M::AES_ECB)
}

fn cbc() -> Mechanism {
    Mechanism { kind: M::AES_CBC_PAD, parameters: Parameters::Iv(vec![0; 16]) }
}

#[test]
fn a_key_does_what_its_flags_say_and_nothing_else() {
    let (mut world, _, alice, _) = World::with_users(false);
    let key = aes(&mut world, alice, Template::new().with_flag(A::Decrypt, false));
    assert_eq!(ask::<Encrypt>(&world, alice, &key, &ecb()), None);
    assert_eq!(ask::<Decrypt>(&world, alice, &key, &ecb()), Some(ErrorCode::KeyUseRefused));
}

#[test]
fn a_mechanism_takes_keys_of_its_type_and_class_only() {
    let (mut world, _, alice, _) = World::with_users(false);
    let key = aes(&mut world, alice, Template::new());
    let (public, private) = rsa(&mut world, alice, &Template::new());
    let pkcs = Mechanism::plain(M::SHA256_RSA_PKCS);
    assert_eq!(ask::<Sign>(&world, alice, &private, &pkcs), None);
    assert_eq!(ask::<Verify>(&world, alice, &public, &pkcs), None);
    assert_eq!(ask::<Sign>(&world, alice, &public, &pkcs), Some(ErrorCode::KeyTypeRefused));
    assert_eq!(ask::<Verify>(&world, alice, &private, &pkcs), Some(ErrorCode::KeyTypeRefused));
    assert_eq!(ask::<Sign>(&world, alice, &key, &pkcs), Some(ErrorCode::KeyTypeRefused));
    assert_eq!(ask::<Sign>(&world, alice, &private, &Mechanism::plain(M::ECDSA)), Some(ErrorCode::KeyTypeRefused));
    assert_eq!(ask::<Sign>(&world, alice, &private, &ecb()), Some(ErrorCode::MechanismInvalid));
    assert_eq!(ask::<SignRecover>(&world, alice, &private, &Mechanism::plain(M::RSA_PKCS)), None);
    assert_eq!(ask::<Sign>(&world, alice, &private, &Mechanism::plain(M(0x8000_0001))), {
        Some(ErrorCode::MechanismInvalid)
    });
}

#[test]
fn a_use_that_has_its_own_way_gets_no_permit_by_the_common_one() {
    let (mut world, _, alice, _) = World::with_users(false);
    let key = aes(&mut world, alice, Template::new().with_flag(A::Extractable, true));
    let wrap = Mechanism::plain(M::AES_KEY_WRAP);
    assert_eq!(ask::<BeWrapped>(&world, alice, &key, &wrap), Some(ErrorCode::NotSupported));
    assert_eq!(ask::<hsm_core::permit::Disclose>(&world, alice, &key, &wrap), Some(ErrorCode::NotSupported));
    assert_eq!(ask::<hsm_core::permit::BeCopied>(&world, alice, &key, &wrap), Some(ErrorCode::NotSupported));
}

#[test]
fn a_key_with_allowed_mechanisms_takes_no_other() {
    let (mut world, _, alice, _) = World::with_users(false);
    let mut template = Template::new();
    template.insert(A::AllowedMechanisms, AttributeValue::Mechanisms(vec![M::AES_CBC_PAD]));
    let key = aes(&mut world, alice, template);
    assert_eq!(ask::<Encrypt>(&world, alice, &key, &cbc()), None);
    assert_eq!(ask::<Encrypt>(&world, alice, &key, &ecb()), Some(ErrorCode::MechanismNotAllowed));
}

#[test]
fn a_private_key_serves_its_owner_and_a_public_one_everybody_but_admins() {
    let (mut world, admin, alice, bob) = World::with_users(false);
    let (public, private) = rsa(&mut world, alice, &Template::new());
    let pkcs = Mechanism::plain(M::SHA256_RSA_PKCS);
    assert_eq!(ask::<Sign>(&world, bob, &private, &pkcs), Some(ErrorCode::ObjectUnknown));
    assert_eq!(ask::<Verify>(&world, bob, &public, &pkcs), None);
    assert_eq!(ask::<Sign>(&world, admin, &private, &pkcs), Some(ErrorCode::RoleRefused));
    assert_eq!(ask::<Verify>(&world, admin, &public, &pkcs), Some(ErrorCode::RoleRefused));
    let nobody = world.hsm.authorize::<Verify>(&hsm_core::Actor::Nobody, &public, &pkcs, Confirmation::None);
    assert!(nobody.is_ok());
    let nobody = world.hsm.authorize::<Sign>(&hsm_core::Actor::Nobody, &private, &pkcs, Confirmation::None);
    assert_eq!(nobody.err().unwrap().code, ErrorCode::ObjectUnknown);
}

#[test]
fn a_login_that_has_ended_uses_nothing() {
    let (mut world, admin, alice, _) = World::with_users(false);
    let key = aes(&mut world, alice, Template::new());
    let actor = world.actor(alice);
    let disable = Action::SetUserEnabled {
        name: crate::world::user("alice"),
        role: hsm_protocol::Role::CryptoUser,
        enabled: false,
    };
    world.must(by(admin), disable);
    let permit = world.hsm.authorize::<Encrypt>(&actor, &key, &ecb(), Confirmation::None);
    assert_eq!(permit.err().unwrap().code, ErrorCode::NotLoggedIn);
    let request = Request::SetAttributes { object: &key, template: &Template::new() };
    assert_eq!(world.hsm.needs(&actor, request).err().unwrap().code, ErrorCode::NotLoggedIn);
}

#[test]
fn a_key_that_asks_at_each_use_demands_a_confirmation_each_time() {
    let (mut world, _, alice, _) = World::with_users(false);
    let (public, private) = rsa(&mut world, alice, &Template::new().with_flag(A::AlwaysAuthenticate, true));
    let actor = world.actor(alice);
    let pkcs = Mechanism::plain(M::SHA256_RSA_PKCS);
    let unconfirmed = world.hsm.authorize::<Sign>(&actor, &private, &pkcs, Confirmation::None).err().unwrap();
    assert_eq!((unconfirmed.code, unconfirmed.subject), (ErrorCode::NotLoggedIn, A::AlwaysAuthenticate as u64));
    assert!(world.hsm.authorize::<Sign>(&actor, &private, &pkcs, Confirmation::Given).is_ok());
    assert_eq!(ask::<Verify>(&world, alice, &public, &pkcs), None);
    let raw = Mechanism::plain(M::RSA_PKCS);
    assert_eq!(ask::<Decrypt>(&world, alice, &private, &raw), Some(ErrorCode::NotLoggedIn));
    let template = &Template::new().with_number(A::Class, 4).with_number(A::KeyType, KeyType::Aes as u64);
    let confirmation = Confirmation::None;
    let request = Request::UnwrapKey { mechanism: &raw, unwrapping_key: &private, template, confirmation };
    assert_eq!(world.needs(alice, request).err().unwrap().code, ErrorCode::NotLoggedIn);
}

#[test]
fn fips_uses_no_key_that_it_does_not_approve() {
    let (mut world, _, alice, _) = World::with_users(true);
    let (_, private) = rsa(&mut world, alice, &Template::new());
    let fips = Some(ErrorCode::FipsRefused);
    assert_eq!(ask::<Sign>(&world, alice, &private, &Mechanism::plain(M::SHA1_RSA_PKCS)), fips);
    assert_eq!(ask::<Decrypt>(&world, alice, &private, &Mechanism::plain(M::RSA_PKCS)), fips);
    assert_eq!(ask::<Sign>(&world, alice, &private, &Mechanism::plain(M::SHA256_RSA_PKCS)), None);
    // A short secret that came from elsewhere checks what was made before, and makes nothing new.
    let short = Template::new().with_number(A::Class, 4).with_number(A::KeyType, KeyType::GenericSecret as u64);
    let short = short.with_octets(A::Value, [1; 13]);
    let key = world.make(alice, Request::CreateObject { template: &short }).unwrap().remove(0);
    let hmac = Mechanism::plain(M::SHA256_HMAC);
    assert_eq!(ask::<Sign>(&world, alice, &key, &hmac), fips);
    assert_eq!(ask::<Verify>(&world, alice, &key, &hmac), None);
}

fn wrap(world: &World, session: SessionId, by: &Object, key: &Object, kind: M) -> Option<ErrorCode> {
    let mechanism = Mechanism::plain(kind);
    world.hsm.authorize_wrap(&world.actor(session), by, key, &mechanism).err().map(|refusal| refusal.code)
}

#[test]
fn a_key_leaves_only_when_it_is_extractable_and_its_owner_wraps_it() {
    let (mut world, _, alice, bob) = World::with_users(false);
    let open = || Template::new().with_flag(A::Extractable, true);
    let kek = aes(&mut world, bob, Template::new().with_flag(A::Private, false));
    let kept = aes(&mut world, alice, Template::new());
    let key = aes(&mut world, alice, open());
    let shown = aes(&mut world, alice, open().with_flag(A::Private, false));
    assert_eq!(wrap(&world, alice, &kek, &key, M::AES_KEY_WRAP), None);
    assert_eq!(wrap(&world, alice, &kek, &kept, M::AES_KEY_WRAP), Some(ErrorCode::NotExtractable));
    assert_eq!(wrap(&world, bob, &kek, &key, M::AES_KEY_WRAP), Some(ErrorCode::ObjectUnknown));
    assert_eq!(wrap(&world, bob, &kek, &shown, M::AES_KEY_WRAP), Some(ErrorCode::OwnerRefused));
    let idle = aes(&mut world, alice, Template::new().with_flag(A::Wrap, false));
    assert_eq!(wrap(&world, alice, &idle, &key, M::AES_KEY_WRAP), Some(ErrorCode::KeyUseRefused));
    let (public, private) = rsa(&mut world, alice, &open());
    assert_eq!(wrap(&world, alice, &public, &key, M::RSA_PKCS), None);
    assert_eq!(wrap(&world, alice, &public, &private, M::RSA_PKCS), Some(ErrorCode::KeyNotWrappable));
    assert_eq!(wrap(&world, alice, &kek, &private, M::AES_KEY_WRAP_KWP), None);
    assert_eq!(wrap(&world, alice, &kek, &public, M::AES_KEY_WRAP_KWP), Some(ErrorCode::KeyNotWrappable));
}

#[test]
fn a_key_that_asks_for_a_trusted_wrapper_is_wrapped_by_no_other() {
    let (mut world, admin, alice, _) = World::with_users(false);
    let guarded = Template::new().with_flag(A::Extractable, true).with_flag(A::WrapWithTrusted, true);
    let key = aes(&mut world, alice, guarded);
    let kek = aes(&mut world, alice, Template::new());
    assert_eq!(wrap(&world, alice, &kek, &key, M::AES_KEY_WRAP), Some(ErrorCode::WrapWithTrusted));
    let trust = &Template::new().with_flag(A::Trusted, true);
    let by_owner = world.needs(alice, Request::SetAttributes { object: &kek, template: trust });
    assert_eq!(by_owner.err().unwrap().code, ErrorCode::AttributeReadOnly);
    let trusted = world.make(admin, Request::SetAttributes { object: &kek, template: trust }).unwrap().remove(0);
    assert_eq!(wrap(&world, alice, &trusted, &key, M::AES_KEY_WRAP), None);
}

#[test]
fn a_wrapping_key_wraps_what_its_template_says() {
    let (mut world, _, alice, _) = World::with_users(false);
    let mut template = Template::new();
    let rule = Template::new().with_octets(A::Label, "mine").with_number(A::KeyType, KeyType::Aes as u64);
    template.insert(A::WrapTemplate, AttributeValue::Template(rule));
    let kek = aes(&mut world, alice, template);
    let open = || Template::new().with_flag(A::Extractable, true);
    let mine = aes(&mut world, alice, open().with_octets(A::Label, "mine"));
    let other = aes(&mut world, alice, open().with_octets(A::Label, "other"));
    assert_eq!(wrap(&world, alice, &kek, &mine, M::AES_KEY_WRAP), None);
    assert_eq!(wrap(&world, alice, &kek, &other, M::AES_KEY_WRAP), Some(ErrorCode::WrapTemplate));
}

fn unwrap(world: &World, session: SessionId, with: &Object, template: &Template) -> Result<Needs, ErrorCode> {
    let mechanism = Mechanism::plain(M::AES_KEY_WRAP);
    let confirmation = Confirmation::None;
    let request = Request::UnwrapKey { mechanism: &mechanism, unwrapping_key: with, template, confirmation };
    world.needs(session, request).map_err(|refusal| refusal.code)
}

#[test]
fn an_unwrapped_key_obeys_the_template_of_the_key_that_unwrapped_it() {
    let (mut world, _, alice, _) = World::with_users(false);
    let mut template = Template::new();
    let rule = Template::new().with_flag(A::Extractable, false).with_flag(A::Decrypt, false);
    template.insert(A::UnwrapTemplate, AttributeValue::Template(rule));
    let kek = aes(&mut world, alice, template);
    let class = Template::new().with_number(A::Class, 4);
    let key = class.clone().with_number(A::KeyType, KeyType::Aes as u64);
    let Ok(Needs::Unwrap { draft, length, .. }) = unwrap(&world, alice, &kek, &key) else { panic!("refused") };
    assert!(draft.attribute(A::Decrypt) == Some(&AttributeValue::Flag(false)));
    assert_eq!((draft.key_type(), length), (Some(KeyType::Aes), None));
    let contrary = key.clone().with_flag(A::Extractable, true);
    assert_eq!(unwrap(&world, alice, &kek, &contrary).err(), Some(ErrorCode::TemplateInconsistent));
    assert_eq!(unwrap(&world, alice, &kek, &class).err(), Some(ErrorCode::TemplateIncomplete));
    assert_eq!(unwrap(&world, alice, &kek, &Template::new()).err(), Some(ErrorCode::TemplateIncomplete));
    let public = Template::new().with_number(A::Class, 2).with_number(A::KeyType, 0);
    assert_eq!(unwrap(&world, alice, &kek, &public).err(), Some(ErrorCode::TemplateInconsistent));
    let material = key.with_octets(A::Value, [1; 16]);
    assert_eq!(unwrap(&world, alice, &kek, &material).err(), Some(ErrorCode::TemplateInconsistent));
}

fn derive(
    world: &World,
    session: SessionId,
    base: &Object,
    mechanism: &Mechanism,
    second: Option<&Object>,
    template: &Template,
) -> Result<Needs, ErrorCode> {
    let confirmation = Confirmation::None;
    let request = Request::DeriveKey { mechanism, base_key: base, second, template, confirmation };
    world.needs(session, request).map_err(|refusal| refusal.code)
}

#[test]
fn a_derived_key_is_what_the_template_says_and_remembers_its_base() {
    let (mut world, _, alice, _) = World::with_users(false);
    let (_, private) = ec(&mut world, alice, Curve::P256);
    let parameters = Parameters::Ecdh { kdf: 1, shared_data: vec![], public_data: vec![4; 65] };
    let ecdh = Mechanism { kind: M::ECDH1_DERIVE, parameters };
    let Ok(Needs::Derive { draft, length, .. }) = derive(&world, alice, &private, &ecdh, None, &Template::new()) else {
        panic!("refused")
    };
    assert_eq!((draft.class(), draft.key_type(), length), (ObjectClass::SecretKey, Some(KeyType::GenericSecret), None));
    assert!(draft.attribute(A::AlwaysSensitive) == Some(&AttributeValue::Flag(true)));
    let open = Template::new().with_flag(A::Sensitive, false).with_flag(A::Extractable, true);
    let open = open.with_number(A::KeyType, KeyType::Aes as u64).with_number(A::ValueLen, 16);
    let Ok(Needs::Derive { draft, length, .. }) = derive(&world, alice, &private, &ecdh, None, &open) else {
        panic!("refused")
    };
    assert_eq!(length, Some(16));
    assert!(draft.attribute(A::NeverExtractable) == Some(&AttributeValue::Flag(false)));
    let wrong = Template::new().with_number(A::KeyType, KeyType::Aes as u64).with_number(A::ValueLen, 17);
    assert_eq!(derive(&world, alice, &private, &ecdh, None, &wrong).err(), Some(ErrorCode::AttributeValue));
    let pair = Template::new().with_number(A::Class, 3);
    assert_eq!(derive(&world, alice, &private, &ecdh, None, &pair).err(), Some(ErrorCode::TemplateInconsistent));
}

#[test]
fn a_key_that_contains_a_sensitive_key_is_no_less_protected() {
    let (mut world, _, alice, _) = World::with_users(false);
    let base = secret(&mut world, alice, M::GENERIC_SECRET_KEY_GEN, Template::new());
    let parameters = Parameters::DerivationData(vec![1]);
    for kind in [M::CONCATENATE_BASE_AND_DATA, M::CONCATENATE_DATA_AND_BASE, M::XOR_BASE_AND_DATA] {
        let mechanism = Mechanism { kind, parameters: parameters.clone() };
        for loose in [Template::new().with_flag(A::Sensitive, false), Template::new().with_flag(A::Extractable, true)] {
            let refused = derive(&world, alice, &base, &mechanism, None, &loose);
            assert_eq!(refused.err(), Some(ErrorCode::TemplateInconsistent));
        }
        assert!(derive(&world, alice, &base, &mechanism, None, &Template::new()).is_ok());
    }
}

#[test]
fn a_second_key_comes_when_the_mechanism_has_one_and_may_be_derived_from() {
    let (mut world, _, alice, bob) = World::with_users(false);
    let kind = M::GENERIC_SECRET_KEY_GEN;
    let base = secret(&mut world, alice, kind, Template::new());
    let second = secret(&mut world, alice, kind, Template::new());
    let fixed = secret(&mut world, alice, kind, Template::new().with_flag(A::Derive, false));
    let foreign = secret(&mut world, bob, kind, Template::new());
    let reference = hsm_protocol::ObjectReference::Token(1);
    let mechanism = Mechanism { kind: M::CONCATENATE_BASE_AND_KEY, parameters: Parameters::OtherKey(reference) };
    let ask = |second| derive(&world, alice, &base, &mechanism, second, &Template::new()).err();
    assert_eq!(ask(Some(&second)), None);
    assert_eq!(ask(None), Some(ErrorCode::MechanismParameters));
    assert_eq!(ask(Some(&fixed)), Some(ErrorCode::KeyUseRefused));
    assert_eq!(ask(Some(&foreign)), Some(ErrorCode::ObjectUnknown));
}

#[test]
fn data_is_derived_as_a_data_object() {
    let (mut world, _, alice, _) = World::with_users(false);
    let base = secret(&mut world, alice, M::HKDF_KEY_GEN, Template::new());
    let salt = hsm_protocol::mechanism::HkdfSalt::Null;
    let parameters = Parameters::Hkdf { extract: true, expand: true, hash: M::SHA256, salt, info: vec![] };
    let mechanism = Mechanism { kind: M::HKDF_DATA, parameters };
    let template = Template::new().with_number(A::Class, 0).with_number(A::ValueLen, 40);
    let Ok(Needs::Derive { draft, length, .. }) = derive(&world, alice, &base, &mechanism, None, &template) else {
        panic!("refused")
    };
    assert_eq!((draft.class(), draft.has_payload(), length), (ObjectClass::Data, true, Some(40)));
}

#[test]
fn a_digest_of_a_secret_key_is_no_oracle() {
    let (mut world, _, alice, _) = World::with_users(false);
    let sha = Mechanism::plain(M::SHA256);
    let sensitive = aes(&mut world, alice, Template::new());
    assert_eq!(ask::<BeDigested>(&world, alice, &sensitive, &sha), Some(ErrorCode::KeyIndigestible));
    let open = aes(&mut world, alice, Template::new().with_flag(A::Sensitive, false).with_flag(A::Extractable, true));
    assert_eq!(ask::<BeDigested>(&world, alice, &open, &sha), None);
    assert!(world.hsm.authorize_digest(&sha).is_ok());
    assert_eq!(world.hsm.authorize_digest(&ecb()).unwrap_err().code, ErrorCode::MechanismInvalid);
}
