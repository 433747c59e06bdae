//! Keys made and used, and the promises about retries, changes and contexts.

use hsm_protocol::wire::{self, reply, request};
use hsm_protocol::{AttributeKind, ErrorCode, MechanismKind, Operation, Template, convert};

use super::client::{
    Client, Hsm, USER_PASSWORD, aes_request, bare, created, octets, operate, pair_request, pair_request_with,
};

fn verify(client: &mut Client, key: &wire::ObjectReference, data: &[u8], signature: &[u8]) -> Result<(), ErrorCode> {
    let request::Body::Operate(mut message) = operate(Operation::Verify, key, MechanismKind::ECDSA_SHA256, data) else {
        unreachable!()
    };
    message.signature = signature.to_vec();
    client.call(request::Body::Operate(message)).map(|_| ())
}

#[test]
fn a_token_key_signs_on_every_connection_of_its_user_and_is_hidden_from_others() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let (public, private) = client.make_pair(true);
    let signature = client.sign(&private, b"data").unwrap();
    assert_eq!(verify(&mut client, &public, b"data", &signature), Ok(()));
    assert_eq!(verify(&mut client, &public, b"date", &signature), Err(ErrorCode::SignatureInvalid));
    assert!(hsm.connect_as("app").sign(&private, b"data").is_ok());
    assert_eq!(hsm.connect_as("other").sign(&private, b"data"), Err(ErrorCode::ObjectUnknown));
    assert!(hsm.connect().sign(&private, b"data").is_err());
}

#[test]
fn a_session_key_signs_and_a_pair_may_live_in_two_places() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let (public, private) = client.make_pair(false);
    assert_eq!((public.token_object, private.token_object), (0, 0));
    let signature = client.sign(&bare(&private), b"data").unwrap();
    assert_eq!(verify(&mut client, &bare(&public), b"data", &signature), Ok(()));
    let mixed = pair_request_with(false, Template::new().with_flag(AttributeKind::Token, true));
    let items = created(client.change(mixed.clone()).unwrap());
    assert_eq!(items[0].token_object, 0);
    assert!(items[1].token_object > 0);
    let signature = client.sign(&items[1], b"data").unwrap();
    assert_eq!(verify(&mut client, &items[0], b"data", &signature), Ok(()));
    assert_eq!(
        client.change_again(mixed).err(),
        Some(ErrorCode::SequencePassed),
        "its public key went with the answer"
    );
}

#[test]
fn a_retried_creation_returns_the_first_handles() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    for body in [pair_request(true), aes_request(true)] {
        let first = created(client.change(body.clone()).unwrap());
        let again = created(client.change_again(body.clone()).unwrap());
        let handles = |items: &[wire::ObjectReference]| items.iter().map(|item| item.token_object).collect::<Vec<_>>();
        assert_eq!(handles(&first), handles(&again));
        let other = created(client.change(body).unwrap());
        assert_ne!(handles(&first), handles(&other));
    }
}

#[test]
fn many_creations_at_once_are_all_answered_once() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let count = 200;
    let sent: Vec<u64> = (0..count).map(|number| client.send_request(aes_request(true), number + 1)).collect();
    let mut handles = Vec::new();
    let mut answered = Vec::new();
    for _ in 0..count {
        let (id, result) = client.read_reply();
        answered.push(id);
        handles.push(created(result.unwrap())[0].token_object);
    }
    answered.sort_unstable();
    assert_eq!(answered, sent);
    handles.sort_unstable();
    handles.dedup();
    assert_eq!(handles.len(), usize::try_from(count).unwrap());
}

#[test]
fn a_changed_key_is_used_in_its_new_form_and_a_destroyed_one_not_at_all() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let (_, key) = client.make_pair(true);
    assert!(client.sign(&key, b"data").is_ok());
    let set = |template: Template| {
        request::Body::SetAttributes(wire::SetAttributes {
            object: Some(key.clone()),
            template: Some(convert::template_message(&template)),
        })
    };
    client.change_done(set(Template::new().with_octets(AttributeKind::Label, "renamed")));
    assert!(client.sign(&key, b"data").is_ok(), "sealed anew under its new attributes");
    client.change_done(set(Template::new().with_flag(AttributeKind::Sign, false)));
    assert_eq!(client.sign(&key, b"data"), Err(ErrorCode::KeyUseRefused));
    client.change_done(request::Body::DestroyObject(wire::DestroyObject { object: Some(key.clone()) }));
    assert_eq!(client.sign(&key, b"data"), Err(ErrorCode::ObjectUnknown));
}

#[test]
fn attributes_are_answered_in_the_order_asked_and_secrets_are_not() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let key = client.make_aes(true);
    let asked = [0x7777, AttributeKind::Value as u64, AttributeKind::ValueLen as u64, AttributeKind::Modulus as u64];
    let body = client
        .call(request::Body::GetAttributes(wire::GetAttributes { object: Some(key), kinds: asked.to_vec() }))
        .unwrap();
    let reply::Body::Attributes(reply) = body else { panic!("no attributes") };
    let seen: Vec<_> = reply.items.iter().map(|item| (item.attribute.as_ref().unwrap().kind, item.status)).collect();
    assert_eq!(seen, asked.into_iter().zip([2, 1, 0, 2]).collect::<Vec<_>>());
}

#[test]
fn objects_are_found_in_pages_by_their_label() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    for _ in 0..5 {
        let label = Template::new().with_octets(AttributeKind::Label, "wanted");
        client.change(pair_request_with(true, label)).unwrap();
    }
    let wanted = convert::template_message(&Template::new().with_octets(AttributeKind::Label, "wanted"));
    let mut found = Vec::new();
    loop {
        let body = client
            .call(request::Body::FindObjects(wire::FindObjects {
                template: Some(wanted.clone()),
                after: found.last().copied().unwrap_or(0),
                limit: 2,
            }))
            .unwrap();
        let reply::Body::FindObjects(page) = body else { panic!("no objects") };
        found.extend(page.objects);
        if !page.more {
            break;
        }
    }
    assert_eq!(found.len(), 5);
    assert!(found.is_sorted());
}

#[test]
fn an_always_authenticate_key_needs_the_password_at_each_use() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let always = Template::new().with_flag(AttributeKind::AlwaysAuthenticate, true);
    let key = created(client.change(pair_request_with(true, always)).unwrap()).remove(1);
    assert_eq!(client.sign(&key, b"data"), Err(ErrorCode::NotLoggedIn));
    let with = |password: &[u8]| {
        let request::Body::Operate(mut message) = operate(Operation::Sign, &key, MechanismKind::ECDSA_SHA256, b"data")
        else {
            unreachable!()
        };
        message.context_password = password.to_vec();
        request::Body::Operate(message)
    };
    assert_eq!(client.call(with(b"wrong password")).err(), Some(ErrorCode::LoginRefused));
    assert!(octets(client.call(with(USER_PASSWORD))).is_ok());
    assert_eq!(client.sign(&key, b"data"), Err(ErrorCode::NotLoggedIn), "good for one operation only");
    for _ in 0..6 {
        assert_eq!(client.call(with(b"wrong password")).err(), Some(ErrorCode::LoginRefused));
    }
    assert_eq!(
        client.call(with(USER_PASSWORD)).err(),
        Some(ErrorCode::UserLocked),
        "it is the same counter as a login's"
    );
}

#[test]
fn an_answer_older_than_what_the_client_has_seen_is_never_given() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let (_, key) = client.make_pair(true);
    client.index += 1000;
    assert_eq!(client.sign(&key, b"data"), Err(ErrorCode::NotReady));
    client.index -= 1000;
    assert!(client.sign(&key, b"data").is_ok());
}

#[test]
fn a_stopping_hsm_answers_what_is_under_way_and_takes_nothing_new() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let sent: Vec<u64> = (1..=20).map(|number| client.send_request(aes_request(true), number)).collect();
    assert!(sent.iter().all(|_| client.read_reply().1.is_ok()));
    hsm.service.stop(std::time::Duration::from_secs(5));
    assert_eq!(hsm.service.connection_count(), 0);
    use std::io::Read;
    assert_eq!(client.stream.read(&mut [0; 1]).unwrap_or(0), 0);
}
