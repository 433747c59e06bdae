//! What templates may ask for, and what an object has when they do not say.

use hsm_core::{Curve, Needs, Object, PairSpec, Request, curve};
use hsm_protocol::attribute::AttributeValue;
use hsm_protocol::{AttributeKind as A, ErrorCode, KeyType, Mechanism, MechanismKind, ObjectClass, Template};

use crate::world::{World, modulus, point};

fn generate(world: &mut World, kind: MechanismKind, template: &Template) -> Result<Object, ErrorCode> {
    let (_, session) = sessions(world);
    let mechanism = Mechanism::plain(kind);
    let request = Request::GenerateKey { mechanism: &mechanism, template };
    world.make(session, request).map(|mut objects| objects.remove(0)).map_err(|refusal| refusal.code)
}

fn pair(
    world: &mut World,
    kind: MechanismKind,
    public: &Template,
    private: &Template,
) -> Result<Vec<Object>, ErrorCode> {
    let (_, session) = sessions(world);
    let mechanism = Mechanism::plain(kind);
    let request =
        Request::GenerateKeyPair { mechanism: &mechanism, public_template: public, private_template: private };
    world.make(session, request).map_err(|refusal| refusal.code)
}

fn import(world: &mut World, template: &Template) -> Result<Object, (ErrorCode, u64)> {
    let (_, session) = sessions(world);
    let objects = world.make(session, Request::CreateObject { template });
    objects.map(|mut objects| objects.remove(0)).map_err(|refusal| (refusal.code, refusal.subject))
}

fn sessions(world: &mut World) -> (hsm_core::SessionId, hsm_core::SessionId) {
    let admin = world.log_in("admin", hsm_protocol::Role::Admin).unwrap();
    (admin, world.log_in("alice", hsm_protocol::Role::CryptoUser).unwrap())
}

fn world() -> World {
    World::with_users(false).0
}

fn of(class: ObjectClass, key_type: KeyType) -> Template {
    Template::new().with_number(A::Class, class as u64).with_number(A::KeyType, key_type as u64)
}

fn flags(object: &Object, kinds: &[A]) -> Vec<bool> {
    kinds.iter().map(|&kind| object.is(kind)).collect()
}

#[test]
fn a_generated_secret_key_is_private_sensitive_and_kept_unless_asked_otherwise() {
    let mut world = world();
    let bare = Template::new().with_number(A::ValueLen, 32);
    let key = generate(&mut world, MechanismKind::AES_KEY_GEN, &bare).unwrap();
    let protected = [A::Private, A::Sensitive, A::AlwaysSensitive, A::NeverExtractable, A::Local, A::Modifiable];
    assert_eq!(flags(&key, &protected), [true; 6]);
    assert_eq!(flags(&key, &[A::Extractable, A::Token, A::Trusted, A::WrapWithTrusted, A::Derive]), [false; 5]);
    let uses = [A::Encrypt, A::Decrypt, A::Sign, A::Verify, A::Wrap, A::Unwrap];
    assert_eq!(flags(&key, &uses), [true; 6]);
    assert_eq!(key.number(A::KeyGenMechanism), Some(MechanismKind::AES_KEY_GEN.0));

    let open = bare.with_flag(A::Sensitive, false).with_flag(A::Extractable, true);
    let key = generate(&mut world, MechanismKind::AES_KEY_GEN, &open).unwrap();
    assert_eq!(flags(&key, &[A::Sensitive, A::AlwaysSensitive, A::NeverExtractable]), [false; 3]);
}

#[test]
fn a_key_of_octets_signs_and_derives_and_a_generic_one_may_be_of_any_such_type() {
    let mut world = world();
    let bare = Template::new().with_number(A::ValueLen, 64);
    let key = generate(&mut world, MechanismKind::GENERIC_SECRET_KEY_GEN, &bare).unwrap();
    assert_eq!(flags(&key, &[A::Sign, A::Verify, A::Derive, A::Encrypt, A::Wrap]), [true, true, true, false, false]);
    let hmac = bare.with_number(A::KeyType, KeyType::Sha256Hmac as u64);
    let key = generate(&mut world, MechanismKind::GENERIC_SECRET_KEY_GEN, &hmac).unwrap();
    assert_eq!(key.key_type(), Some(KeyType::Sha256Hmac));
    let key = generate(&mut world, MechanismKind::SHA512_KEY_GEN, &Template::new()).unwrap();
    assert_eq!(key.number(A::ValueLen), Some(64));
}

#[test]
fn templates_of_new_secret_keys_that_cannot_be_are_refused_by_name() {
    let mut world = world();
    let bare = || Template::new().with_number(A::ValueLen, 32);
    let aes = |world: &mut World, template: Template| generate(world, MechanismKind::AES_KEY_GEN, &template).err();
    let cases = [
        (Template::new(), ErrorCode::TemplateIncomplete),
        (Template::new().with_number(A::ValueLen, 17), ErrorCode::AttributeValue),
        (Template::new().with_number(A::ValueLen, u64::MAX), ErrorCode::AttributeValue),
        (bare().with_number(A::Class, ObjectClass::PrivateKey as u64), ErrorCode::TemplateInconsistent),
        (bare().with_number(A::KeyType, KeyType::Rsa as u64), ErrorCode::TemplateInconsistent),
        (bare().with_number(A::KeyType, 0x7777), ErrorCode::AttributeValue),
        (bare().with_octets(A::Value, [1; 32]), ErrorCode::TemplateInconsistent),
        (bare().with_octets(A::CheckValue, [1; 3]), ErrorCode::AttributeReadOnly),
        (bare().with_octets(A::Modulus, [1; 3]), ErrorCode::AttributeUnknown),
        (bare().with_flag(A::Local, true), ErrorCode::AttributeReadOnly),
        (bare().with_flag(A::AlwaysSensitive, true), ErrorCode::AttributeReadOnly),
        (bare().with_flag(A::NeverExtractable, true), ErrorCode::AttributeReadOnly),
        (bare().with_number(A::KeyGenMechanism, 1), ErrorCode::AttributeReadOnly),
        (bare().with_octets(A::UniqueId, "1"), ErrorCode::AttributeReadOnly),
        (bare().with_flag(A::Trusted, true), ErrorCode::AttributeReadOnly),
        (bare().with_octets(A::StartDate, "20261301"), ErrorCode::AttributeValue),
        (
            bare().with_octets(A::StartDate, "20261201").with_octets(A::EndDate, "20261130"),
            ErrorCode::TemplateInconsistent,
        ),
    ];
    for (position, (template, code)) in cases.into_iter().enumerate() {
        assert_eq!(aes(&mut world, template), Some(code), "case {position}");
    }
    assert_eq!(aes(&mut world, bare().with_flag(A::Trusted, false)), None);
}

#[test]
fn an_rsa_pair_takes_its_size_from_the_public_template() {
    let mut world = world();
    let kind = MechanismKind::RSA_PKCS_KEY_PAIR_GEN;
    let public = Template::new().with_number(A::ModulusBits, 2048);
    let pair_of = |world: &mut World, public: &Template| pair(world, kind, public, &Template::new());
    let keys = pair_of(&mut world, &public).unwrap();
    let (public_key, private_key) = (&keys[0], &keys[1]);
    assert_eq!(flags(public_key, &[A::Private, A::Encrypt, A::Verify, A::VerifyRecover, A::Wrap]), {
        [false, true, true, true, true]
    });
    assert_eq!(flags(private_key, &[A::Private, A::Sensitive, A::Decrypt, A::Sign, A::Unwrap]), [true; 5]);
    assert_eq!(flags(private_key, &[A::Extractable, A::AlwaysAuthenticate]), [false; 2]);
    assert_eq!(public_key.number(A::ModulusBits), Some(2048));
    assert_eq!(private_key.octets(A::PublicExponent), Some(&[1, 0, 1][..]));
    assert!(!public_key.has_payload() && private_key.has_payload());

    let cases = [
        (Template::new(), ErrorCode::TemplateIncomplete),
        (Template::new().with_number(A::ModulusBits, 1024), ErrorCode::AttributeValue),
        (Template::new().with_number(A::ModulusBits, 2049), ErrorCode::AttributeValue),
        (Template::new().with_number(A::ModulusBits, 16384), ErrorCode::AttributeValue),
        (public.clone().with_octets(A::PublicExponent, [2]), ErrorCode::AttributeValue),
        (public.clone().with_octets(A::PublicExponent, [1]), ErrorCode::AttributeValue),
        (public.clone().with_octets(A::PublicExponent, []), ErrorCode::AttributeValue),
        (public.clone().with_octets(A::PublicExponent, [1; 33]), ErrorCode::AttributeValue),
        (public.clone().with_flag(A::Sign, true), ErrorCode::AttributeUnknown),
        (public.clone().with_octets(A::Modulus, modulus(2048)), ErrorCode::TemplateInconsistent),
    ];
    for (position, (template, code)) in cases.into_iter().enumerate() {
        assert_eq!(pair_of(&mut world, &template).err(), Some(code), "case {position}");
    }
    assert!(pair_of(&mut world, &public.with_octets(A::PublicExponent, [0, 3])).is_ok());
}

#[test]
fn curves_are_named_in_every_usual_way_and_kept_in_one() {
    let mut world = world();
    let name = |text: &str| [&[0x13, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let cases = [
        (MechanismKind::EC_KEY_PAIR_GEN, Curve::P384.params().to_vec(), Curve::P384.params()),
        (MechanismKind::EC_KEY_PAIR_GEN, name("secp256k1"), Curve::Secp256k1.params()),
        (MechanismKind::EC_EDWARDS_KEY_PAIR_GEN, name("edwards25519"), curve::ED25519_PARAMS),
        (MechanismKind::EC_EDWARDS_KEY_PAIR_GEN, curve::ED25519_PARAMS.to_vec(), curve::ED25519_PARAMS),
        (MechanismKind::EC_MONTGOMERY_KEY_PAIR_GEN, name("curve25519"), curve::X25519_PARAMS),
    ];
    for (kind, given, kept) in cases {
        let public = Template::new().with_octets(A::EcParams, given);
        let keys = pair(&mut world, kind, &public, &Template::new()).unwrap();
        assert_eq!(keys[0].octets(A::EcParams), Some(kept));
        assert_eq!(keys[1].octets(A::EcParams), Some(kept));
    }
    let brainpool = Template::new().with_octets(A::EcParams, [6, 3, 1, 2, 3]);
    let refused = pair(&mut world, MechanismKind::EC_KEY_PAIR_GEN, &brainpool, &Template::new());
    assert_eq!(refused.err(), Some(ErrorCode::CurveUnsupported));
    let other = Template::new().with_octets(A::EcParams, Curve::P521.params());
    let public = Template::new().with_octets(A::EcParams, Curve::P256.params());
    let refused = pair(&mut world, MechanismKind::EC_KEY_PAIR_GEN, &public, &other);
    assert_eq!(refused.err(), Some(ErrorCode::TemplateInconsistent));
}

#[test]
fn a_pair_says_what_is_to_be_made() {
    let (world, _, alice, _) = World::with_users(false);
    let spec = |kind, public: Template| {
        let mechanism = Mechanism::plain(kind);
        let private_template = &Template::new();
        let request = Request::GenerateKeyPair { mechanism: &mechanism, public_template: &public, private_template };
        match world.needs(alice, request) {
            Ok(Needs::KeyPair { pair, .. }) => pair,
            _ => panic!("no pair"),
        }
    };
    let rsa = Template::new().with_number(A::ModulusBits, 3072).with_octets(A::PublicExponent, [0, 1, 0, 1]);
    let expected = PairSpec::Rsa { bits: 3072, exponent: vec![1, 0, 1] };
    assert_eq!(spec(MechanismKind::RSA_X9_31_KEY_PAIR_GEN, rsa), expected);
    let ec = Template::new().with_octets(A::EcParams, Curve::P521.params());
    assert_eq!(spec(MechanismKind::EC_KEY_PAIR_GEN, ec), PairSpec::Ec(Curve::P521));
    let edwards = Template::new().with_octets(A::EcParams, curve::ED25519_PARAMS);
    assert_eq!(spec(MechanismKind::EC_EDWARDS_KEY_PAIR_GEN, edwards), PairSpec::Ed25519);
}

#[test]
fn imported_keys_were_never_secret_here() {
    let mut world = world();
    let key = of(ObjectClass::SecretKey, KeyType::Aes).with_octets(A::Value, [7; 16]).with_flag(A::Sensitive, true);
    let key = import(&mut world, &key).unwrap();
    assert_eq!(flags(&key, &[A::Sensitive, A::AlwaysSensitive, A::NeverExtractable, A::Local]), {
        [true, false, false, false]
    });
    assert_eq!(key.number(A::KeyGenMechanism), Some(u64::MAX));
    assert_eq!(key.number(A::ValueLen), Some(16));
    assert!(key.attribute(A::Value).is_none() && key.has_payload());
}

#[test]
fn material_is_complete_and_fits_or_is_refused_by_name() {
    let mut world = world();
    let aes = || of(ObjectClass::SecretKey, KeyType::Aes);
    let rsa = || of(ObjectClass::PublicKey, KeyType::Rsa).with_octets(A::PublicExponent, [1, 0, 1]);
    let ec = || of(ObjectClass::PublicKey, KeyType::Ec).with_octets(A::EcParams, Curve::P256.params());
    let cases = [
        (Template::new(), ErrorCode::TemplateIncomplete, A::Class),
        (Template::new().with_number(A::Class, 99), ErrorCode::AttributeValue, A::Class),
        (Template::new().with_number(A::Class, 4), ErrorCode::TemplateIncomplete, A::KeyType),
        (of(ObjectClass::SecretKey, KeyType::Rsa), ErrorCode::TemplateInconsistent, A::KeyType),
        (of(ObjectClass::PublicKey, KeyType::Aes), ErrorCode::TemplateInconsistent, A::KeyType),
        (aes(), ErrorCode::TemplateIncomplete, A::Value),
        (aes().with_octets(A::Value, [1; 15]), ErrorCode::AttributeValue, A::Value),
        (aes().with_octets(A::Value, []), ErrorCode::AttributeValue, A::Value),
        (
            aes().with_octets(A::Value, [1; 16]).with_number(A::ValueLen, 32),
            ErrorCode::TemplateInconsistent,
            A::ValueLen,
        ),
        (
            aes().with_octets(A::Value, [1; 16]).with_octets(A::CheckValue, [9; 3]),
            ErrorCode::AttributeValue,
            A::CheckValue,
        ),
        (rsa(), ErrorCode::TemplateIncomplete, A::Modulus),
        (rsa().with_octets(A::Modulus, modulus(1024)), ErrorCode::KeySizeRefused, A::Modulus),
        (
            rsa().with_octets(A::Modulus, modulus(2048)).with_number(A::ModulusBits, 4096),
            ErrorCode::TemplateInconsistent,
            A::ModulusBits,
        ),
        (
            of(ObjectClass::PrivateKey, KeyType::Rsa).with_octets(A::Modulus, modulus(2048)),
            ErrorCode::TemplateIncomplete,
            A::PrivateExponent,
        ),
        (ec(), ErrorCode::TemplateIncomplete, A::EcPoint),
        (ec().with_octets(A::EcPoint, [4; 64]), ErrorCode::AttributeValue, A::EcPoint),
        (
            of(ObjectClass::PrivateKey, KeyType::Ec).with_octets(A::EcParams, Curve::P256.params()),
            ErrorCode::TemplateIncomplete,
            A::Value,
        ),
    ];
    for (position, (template, code, kind)) in cases.into_iter().enumerate() {
        assert_eq!(import(&mut world, &template).err(), Some((code, kind as u64)), "case {position}");
    }
}

#[test]
fn numbers_come_with_leading_zeros_and_points_raw_or_in_der() {
    let mut world = world();
    let zeros = [vec![0, 0], modulus(2048)].concat();
    let rsa = of(ObjectClass::PublicKey, KeyType::Rsa);
    let rsa = rsa.with_octets(A::Modulus, zeros).with_octets(A::PublicExponent, [0, 1, 0, 1]);
    let key = import(&mut world, &rsa).unwrap();
    assert_eq!(key.octets(A::Modulus), Some(modulus(2048).as_slice()));
    assert_eq!((key.octets(A::PublicExponent), key.number(A::ModulusBits)), (Some(&[1, 0, 1][..]), Some(2048)));
    for given in [point(Curve::P256), curve::raw_point(&point(Curve::P256)).unwrap().to_vec()] {
        let ec = of(ObjectClass::PublicKey, KeyType::Ec).with_octets(A::EcParams, Curve::P256.params());
        let key = import(&mut world, &ec.with_octets(A::EcPoint, given)).unwrap();
        assert_eq!(key.octets(A::EcPoint), Some(point(Curve::P256).as_slice()));
    }
}

#[test]
fn a_check_value_that_is_asked_to_be_empty_is_not_made() {
    let mut world = world();
    let bare = Template::new().with_number(A::ValueLen, 32).with_octets(A::CheckValue, []);
    let key = generate(&mut world, MechanismKind::AES_KEY_GEN, &bare).unwrap();
    assert!(key.attribute(A::CheckValue).is_none());
}

#[test]
fn the_value_of_private_data_is_sealed_and_that_of_public_data_and_certificates_is_not() {
    let mut world = world();
    let data = || Template::new().with_number(A::Class, 0).with_octets(A::Value, "secret");
    let private = import(&mut world, &data()).unwrap();
    assert!(private.is(A::Private) && private.has_payload() && private.attribute(A::Value).is_none());
    let public = import(&mut world, &data().with_flag(A::Private, false)).unwrap();
    assert!(!public.has_payload() && public.octets(A::Value) == Some(b"secret"));
    let empty = import(&mut world, &Template::new().with_number(A::Class, 0)).unwrap();
    assert!(!empty.has_payload());

    let certificate = Template::new().with_number(A::Class, 1).with_number(A::CertificateType, 0);
    let whole = certificate.clone().with_octets(A::Subject, "s").with_octets(A::Value, "der");
    let stored = import(&mut world, &whole).unwrap();
    assert!(!stored.is(A::Private) && stored.octets(A::Value) == Some(b"der"));
    for (template, missing) in [
        (Template::new().with_number(A::Class, 1), A::CertificateType),
        (certificate.clone(), A::Subject),
        (certificate.with_octets(A::Subject, "s"), A::Value),
    ] {
        assert_eq!(import(&mut world, &template).err(), Some((ErrorCode::TemplateIncomplete, missing as u64)));
    }
}

#[test]
fn without_a_login_only_public_session_objects_without_secrets_are_made() {
    let (world, admin, ..) = World::with_users(false);
    let nobody = hsm_core::Actor::Nobody;
    let data = Template::new().with_number(A::Class, 0).with_octets(A::Value, "x");
    let public = data.clone().with_flag(A::Private, false);
    let token = public.clone().with_flag(A::Token, true);
    let secret = of(ObjectClass::SecretKey, KeyType::Aes).with_octets(A::Value, [1; 16]).with_flag(A::Private, false);
    for (actor, code) in [(nobody, ErrorCode::NotLoggedIn), (world.actor(admin), ErrorCode::RoleRefused)] {
        let ask = |template| world.hsm.needs(&actor, Request::CreateObject { template }).err().map(|no| no.code);
        assert_eq!(ask(&public), None);
        assert_eq!([ask(&data), ask(&token), ask(&secret)], [Some(code); 3]);
        let mechanism = Mechanism::plain(MechanismKind::AES_KEY_GEN);
        let template = &Template::new().with_number(A::ValueLen, 16).with_flag(A::Private, false);
        let generate = world.hsm.needs(&actor, Request::GenerateKey { mechanism: &mechanism, template });
        assert_eq!(generate.err().map(|no| no.code), Some(code));
    }
}

#[test]
fn a_key_that_asks_at_each_use_is_private() {
    let mut world = world();
    let public = Template::new().with_number(A::ModulusBits, 2048);
    let asks = Template::new().with_flag(A::AlwaysAuthenticate, true);
    let kind = MechanismKind::RSA_PKCS_KEY_PAIR_GEN;
    assert!(pair(&mut world, kind, &public, &asks).is_ok());
    let seen = asks.with_flag(A::Private, false);
    assert_eq!(pair(&mut world, kind, &public, &seen).err(), Some(ErrorCode::TemplateInconsistent));
}

#[test]
fn metadata_is_bounded() {
    let mut world = world();
    let half = vec![b'x'; hsm_core::limits::OBJECT_BYTES / 2 + 1];
    let bare = Template::new().with_number(A::ValueLen, 32).with_octets(A::Label, half.clone());
    assert!(generate(&mut world, MechanismKind::AES_KEY_GEN, &bare).is_ok());
    let long = bare.with_octets(A::Id, half);
    assert_eq!(generate(&mut world, MechanismKind::AES_KEY_GEN, &long).err(), Some(ErrorCode::TooLarge));
}

#[test]
fn fips_makes_no_key_that_it_does_not_approve() {
    let mut world = World::with_users(true).0;
    let none = Template::new();
    let params = |octets: &[u8]| Template::new().with_octets(A::EcParams, octets);
    let (ec, edwards) = (MechanismKind::EC_KEY_PAIR_GEN, MechanismKind::EC_EDWARDS_KEY_PAIR_GEN);
    let fips = Some(ErrorCode::FipsRefused);
    assert_eq!(pair(&mut world, ec, &params(Curve::Secp256k1.params()), &none).err(), fips);
    assert_eq!(pair(&mut world, edwards, &params(curve::ED25519_PARAMS), &none).err(), fips);
    assert!(pair(&mut world, ec, &params(Curve::P256.params()), &none).is_ok());
    let small = Template::new().with_number(A::ModulusBits, 2048).with_octets(A::PublicExponent, [3]);
    assert_eq!(pair(&mut world, MechanismKind::RSA_PKCS_KEY_PAIR_GEN, &small, &none).err(), fips);
    let short = Template::new().with_number(A::ValueLen, 13);
    assert_eq!(generate(&mut world, MechanismKind::GENERIC_SECRET_KEY_GEN, &short).err(), fips);
    let key = of(ObjectClass::PublicKey, KeyType::Ec).with_octets(A::EcParams, Curve::Secp256k1.params());
    let key = key.with_octets(A::EcPoint, point(Curve::Secp256k1));
    assert_eq!(import(&mut world, &key).err().map(|(code, _)| code), fips);
}

#[test]
fn an_empty_list_of_allowed_mechanisms_forbids_nothing() {
    let mut world = world();
    let bare = Template::new().with_number(A::ValueLen, 32);
    let mut empty = bare.clone();
    empty.insert(A::AllowedMechanisms, AttributeValue::Mechanisms(Vec::new()));
    assert!(
        generate(&mut world, MechanismKind::AES_KEY_GEN, &empty).unwrap().attribute(A::AllowedMechanisms).is_none()
    );
}
