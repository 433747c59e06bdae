//! Searches find what matches and what may be seen, in order, and page by page.

use hsm_core::{Actor, Curve, Hsm, ObjectHandle, Request, SessionId, curve};
use hsm_protocol::{AttributeKind as A, KeyType, Role, Template};
use proptest::prelude::*;

use crate::world::World;

fn whole(world: &World, actor: &Actor, template: &Template, page: usize) -> Vec<ObjectHandle> {
    let mut found = Vec::new();
    loop {
        let after = found.last().copied().unwrap_or(ObjectHandle(0));
        let (handles, more) = world.hsm.find(actor, template, after, page).unwrap();
        assert!(handles.len() <= page && (!more || handles.len() == page));
        found.extend(handles);
        if !more {
            return found;
        }
    }
}

/// By looking at every object.
fn by_hand(world: &World, actor: &Actor, template: &Template, last: u64) -> Vec<ObjectHandle> {
    let seen =
        |&handle: &ObjectHandle| world.hsm.object(actor, handle).is_ok_and(|object| Hsm::matches(&object, template));
    (1..=last).map(ObjectHandle).filter(seen).collect()
}

#[derive(Clone, Debug)]
struct Made {
    by_bob: bool,
    kind: u8,
    label: u8,
    id: u8,
    private: bool,
}

fn made() -> impl Strategy<Value = Made> {
    (any::<bool>(), 0..4_u8, 0..3_u8, 0..3_u8, any::<bool>()).prop_map(|(by_bob, kind, label, id, private)| Made {
        by_bob,
        kind,
        label,
        id,
        private,
    })
}

fn create(world: &mut World, session: SessionId, made: &Made) -> ObjectHandle {
    let names = Template::new().with_octets(A::Label, vec![b'l'; usize::from(made.label)]);
    let names = names.with_octets(A::Id, vec![b'i'; usize::from(made.id)]);
    let names = names.with_flag(A::Private, made.private).with_flag(A::Token, true);
    let template = match made.kind {
        0 => names.with_number(A::Class, 4).with_number(A::KeyType, KeyType::Aes as u64).with_octets(A::Value, [1; 16]),
        1 => names
            .with_number(A::Class, 4)
            .with_number(A::KeyType, KeyType::GenericSecret as u64)
            .with_octets(A::Value, [1; 9]),
        2 => {
            let mut names = names;
            names.remove(A::Id);
            names.with_number(A::Class, 0).with_octets(A::Value, "data")
        }
        _ => names
            .with_number(A::Class, 1)
            .with_number(A::CertificateType, 0)
            .with_octets(A::Subject, vec![b's'; usize::from(made.id)])
            .with_octets(A::Value, "der"),
    };
    world.create(session, Request::CreateObject { template: &template }).unwrap()[0]
}

/// What a search asks for; templates themselves have no `Debug`.
#[derive(Clone, Debug)]
struct Asked {
    label: Option<u8>,
    id: Option<u8>,
    subject: Option<u8>,
    class: Option<u64>,
    private: Option<bool>,
    aes: bool,
}

impl Asked {
    fn template(&self) -> Template {
        let mut template = Template::new();
        let names = [(A::Label, self.label, b'l'), (A::Id, self.id, b'i'), (A::Subject, self.subject, b's')];
        for (kind, length, letter) in names {
            if let Some(length) = length {
                template = template.with_octets(kind, vec![letter; usize::from(length)]);
            }
        }
        if let Some(class) = self.class {
            template = template.with_number(A::Class, class);
        }
        if let Some(private) = self.private {
            template = template.with_flag(A::Private, private);
        }
        if self.aes { template.with_number(A::KeyType, KeyType::Aes as u64) } else { template }
    }
}

fn asked() -> impl Strategy<Value = Asked> {
    let part = || proptest::option::of(0..3_u8);
    let flag = proptest::option::of(any::<bool>());
    (part(), part(), part(), proptest::option::of(0..5_u64), flag, any::<bool>())
        .prop_map(|(label, id, subject, class, private, aes)| Asked { label, id, subject, class, private, aes })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_search_equals_looking_at_every_object(
        objects in proptest::collection::vec(made(), 0..40),
        asked in proptest::collection::vec(asked(), 1..10),
        gone in proptest::collection::vec(0..40_usize, 0..10),
        page in 1..7_usize,
    ) {
        let (mut world, admin, alice, bob) = World::with_users(false);
        let owner = |made: &Made| if made.by_bob { bob } else { alice };
        let handles: Vec<_> = objects.iter().map(|made| (owner(made), create(&mut world, owner(made), made))).collect();
        for position in gone {
            if let Some(&(owner, handle)) = handles.get(position) {
                // The second time it is gone already.
                let destroyed = world.act(crate::world::by(owner), hsm_core::Action::DestroyObject { handle });
                prop_assert!(destroyed.is_ok() || world.hsm.object(&world.actor(owner), handle).is_err());
            }
        }
        let last = objects.len() as u64;
        for actor in [world.actor(alice), world.actor(bob), world.actor(admin), Actor::Nobody] {
            for template in asked.iter().map(Asked::template) {
                let template = &template;
                let found = whole(&world, &actor, template, page);
                prop_assert_eq!(&found, &by_hand(&world, &actor, template, last));
                world.hsm = world.reloaded();
                prop_assert_eq!(&found, &whole(&world, &actor, template, 1000));
            }
        }
    }
}

#[test]
fn the_owner_finds_his_private_keys_and_nobody_else_does_but_the_admin() {
    let (mut world, admin, alice, bob) = World::with_users(false);
    let handle = world.aes(alice, &Template::new().with_octets(A::Label, "k")).unwrap();
    let template = Template::new().with_octets(A::Label, "k");
    let find = |actor: &Actor| world.hsm.find(actor, &template, ObjectHandle(0), 10).unwrap().0;
    assert_eq!(find(&world.actor(alice)), [handle]);
    assert_eq!(find(&world.actor(admin)), [handle]);
    assert!(find(&world.actor(bob)).is_empty() && find(&Actor::Nobody).is_empty());
}

#[test]
fn a_secret_attribute_finds_nothing() {
    let (mut world, _, alice, _) = World::with_users(false);
    let template = Template::new()
        .with_number(A::Class, 4)
        .with_number(A::KeyType, KeyType::Aes as u64)
        .with_flag(A::Token, true)
        .with_flag(A::Sensitive, false)
        .with_octets(A::Value, [1; 16]);
    world.create(alice, Request::CreateObject { template: &template }).unwrap();
    let by_value = Template::new().with_octets(A::Value, [1; 16]);
    assert!(whole(&world, &world.actor(alice), &by_value, 10).is_empty());
    let by_nothing = Template::new().with_octets(A::Value, []);
    assert!(whole(&world, &world.actor(alice), &by_nothing, 10).is_empty());
}

#[test]
fn an_object_is_found_by_its_unique_id_and_by_numbers_with_leading_zeros() {
    let (mut world, _, alice, _) = World::with_users(false);
    let handle = world.aes(alice, &Template::new()).unwrap();
    let unique_id = world.object(alice, handle).unique_id();
    let template = Template::new().with_octets(A::UniqueId, unique_id);
    assert_eq!(whole(&world, &world.actor(alice), &template, 10), [handle]);
    let public = Template::new()
        .with_number(A::Class, 2)
        .with_number(A::KeyType, 0)
        .with_flag(A::Token, true)
        .with_octets(A::Modulus, crate::world::modulus(2048))
        .with_octets(A::PublicExponent, [3]);
    let handle = world.create(alice, Request::CreateObject { template: &public }).unwrap()[0];
    let padded = [vec![0], crate::world::modulus(2048)].concat();
    let template = Template::new().with_octets(A::Modulus, padded);
    assert_eq!(whole(&world, &world.actor(alice), &template, 10), [handle]);
}

#[test]
fn a_key_is_found_by_its_point_and_curve_in_every_usual_form() {
    let (mut world, _, alice, _) = World::with_users(false);
    let point = crate::world::point(Curve::P256);
    let public = Template::new()
        .with_number(A::Class, 2)
        .with_number(A::KeyType, KeyType::Ec as u64)
        .with_flag(A::Token, true)
        .with_octets(A::EcParams, Curve::P256.params())
        .with_octets(A::EcPoint, point.clone());
    let handle = world.create(alice, Request::CreateObject { template: &public }).unwrap()[0];
    let named = [&[0x13, 9][..], b"secp256r1"].concat();
    for params in [Curve::P256.params().to_vec(), named] {
        for point in [point.clone(), curve::raw_point(&point).unwrap().to_vec()] {
            let template = Template::new().with_octets(A::EcParams, params.clone()).with_octets(A::EcPoint, point);
            assert_eq!(whole(&world, &world.actor(alice), &template, 10), [handle]);
        }
    }
}

#[test]
fn a_changed_label_is_found_under_its_new_value_only() {
    let (mut world, _, alice, _) = World::with_users(false);
    let handle = world.aes(alice, &Template::new().with_octets(A::Label, "old")).unwrap();
    let object = world.object(alice, handle);
    let new = Template::new().with_octets(A::Label, "new");
    let changed = world.make(alice, Request::SetAttributes { object: &object, template: &new }).unwrap().remove(0);
    let payload = Some(crate::world::sealed());
    world.must(crate::world::by(alice), hsm_core::Action::ReplaceObject { handle, object: changed, payload });
    assert_eq!(whole(&world, &world.actor(alice), &new, 10), [handle]);
    let old = Template::new().with_octets(A::Label, "old");
    assert!(whole(&world, &world.actor(alice), &old, 10).is_empty());
    assert_eq!(world.user("alice", Role::CryptoUser).keys, 1);
}
