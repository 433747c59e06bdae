//! What a login is good for, and what a stolen one is not.

use hsm_core::{Action, Actor};
use hsm_protocol::wire::{self, request};
use hsm_protocol::{ErrorCode, Role, convert};

use super::client::{Hsm, USER_PASSWORD, aes_request, bare, operate, pair_request};

#[test]
fn a_stolen_token_is_useless_without_the_session_key() {
    let hsm = Hsm::active();
    let mut owner = hsm.connect();
    let login = owner.open_login("app", Role::CryptoUser, USER_PASSWORD).unwrap();
    let mut thief = hsm.connect();
    let other = thief.open_login("other", Role::CryptoUser, USER_PASSWORD).unwrap();
    let nonce = thief.nonce;
    let forged = other.key.sign(&hsm_protocol::session::attach_statement(&nonce, &login.token));
    assert_eq!(thief.attach(&login.token, forged.as_ref()), Err(ErrorCode::TokenRefused));
    assert_eq!(thief.attach(&login.token, &[]), Err(ErrorCode::TokenRefused));
    assert_eq!(thief.attach(&login.token, &[0; 64]), Err(ErrorCode::TokenRefused));
    let mut altered = login.token.clone();
    altered[20] ^= 1;
    assert_eq!(thief.attach(&altered, &login.proof(&nonce)), Err(ErrorCode::TokenRefused));
}

#[test]
fn a_proof_is_useless_on_another_connection() {
    let hsm = Hsm::active();
    let mut owner = hsm.connect();
    let login = owner.open_login("app", Role::CryptoUser, USER_PASSWORD).unwrap();
    let proof = login.proof(&owner.nonce);
    assert!(owner.attach(&login.token, &proof).is_ok());
    let mut thief = hsm.connect();
    assert_ne!(thief.nonce, owner.nonce);
    assert_eq!(thief.attach(&login.token, &proof), Err(ErrorCode::TokenRefused));
}

#[test]
fn a_login_is_bound_to_each_connection_and_its_index_names_nobody_elsewhere() {
    let hsm = Hsm::active();
    let mut first = hsm.connect();
    let login = first.log_in("app", Role::CryptoUser, USER_PASSWORD);
    let (_, key) = first.make_pair(true);
    let mut second = hsm.connect();
    second.session = first.session;
    assert_eq!(second.sign(&key, b"data"), Err(ErrorCode::NotLoggedIn), "not attached here");
    let nonce = second.nonce;
    second.session = 0;
    second.session = second.attach(&login.token, &login.proof(&nonce)).unwrap();
    assert!(second.sign(&key, b"data").is_ok());
    let again = second.attach(&login.token, &login.proof(&nonce)).unwrap();
    assert_eq!(again, second.session, "attaching again gives the same index");
}

/// Every request that needs a login or acts in its name.
fn every_request(key: &wire::ObjectReference) -> Vec<request::Body> {
    let mechanism =
        Some(convert::mechanism_message(&hsm_protocol::Mechanism::plain(hsm_protocol::MechanismKind::ECDSA_SHA256)));
    let object = Some(key.clone());
    let role = Role::CryptoUser as u32;
    vec![
        request::Body::Logout(wire::Logout {}),
        request::Body::LogoutEverywhere(wire::LogoutEverywhere::default()),
        aes_request(true),
        aes_request(false),
        pair_request(true),
        request::Body::CreateObject(wire::CreateObject::default()),
        request::Body::CopyObject(wire::CopyObject { object: object.clone(), template: None }),
        request::Body::DestroyObject(wire::DestroyObject { object: object.clone() }),
        request::Body::GetAttributes(wire::GetAttributes { object: object.clone(), kinds: vec![3] }),
        request::Body::SetAttributes(wire::SetAttributes { object: object.clone(), template: None }),
        request::Body::FindObjects(wire::FindObjects::default()),
        request::Body::WrapKey(wire::WrapKey {
            mechanism: mechanism.clone(),
            wrapping_key: object.clone(),
            key: object.clone(),
        }),
        request::Body::UnwrapKey(wire::UnwrapKey {
            mechanism: mechanism.clone(),
            unwrapping_key: object.clone(),
            ..Default::default()
        }),
        request::Body::DeriveKey(wire::DeriveKey { mechanism, base_key: object, template: None }),
        operate(hsm_protocol::Operation::Sign, key, hsm_protocol::MechanismKind::ECDSA_SHA256, b"data"),
        request::Body::Stream(wire::Stream::default()),
        request::Body::AbandonStream(wire::AbandonStream::default()),
        request::Body::Random(wire::Random { length: 8 }),
        request::Body::SeedRandom(wire::SeedRandom::default()),
        request::Body::CreateUser(wire::CreateUser { name: "x".into(), role, password: b"12345678".to_vec() }),
        request::Body::DeleteUser(wire::DeleteUser { name: "x".into(), role }),
        request::Body::ListUsers(wire::ListUsers {}),
        request::Body::ChangePassword(wire::ChangePassword {
            name: String::new(),
            role,
            password: b"12345678".to_vec(),
        }),
        request::Body::SetUserEnabled(wire::SetUserEnabled { name: "x".into(), role, enabled: true }),
        request::Body::RegisterTrustAnchor(wire::RegisterTrustAnchor::default()),
        request::Body::DeregisterTrustAnchor(wire::DeregisterTrustAnchor::default()),
        request::Body::ListTrustAnchors(wire::ListTrustAnchors {}),
        request::Body::SetClientCertificates(wire::SetClientCertificates::default()),
    ]
}

#[test]
fn a_logged_out_session_is_refused_at_every_method_on_every_connection() {
    let hsm = Hsm::active();
    let mut first = hsm.connect();
    let login = first.log_in("app", Role::CryptoUser, USER_PASSWORD);
    let (_, key) = first.make_pair(true);
    let mut second = hsm.connect();
    let nonce = second.nonce;
    second.session = second.attach(&login.token, &login.proof(&nonce)).unwrap();
    first.change_done(request::Body::Logout(wire::Logout {}));
    for client in [&mut first, &mut second] {
        for body in every_request(&key) {
            let method = convert::method(&body);
            assert_eq!(client.change(body).err(), Some(ErrorCode::NotLoggedIn), "method {method}");
        }
        client.session = 0;
        let nonce = client.nonce;
        assert_eq!(client.attach(&login.token, &login.proof(&nonce)), Err(ErrorCode::NotLoggedIn));
    }
}

#[test]
fn the_state_alone_ends_a_session_even_if_no_notice_reached_the_connection() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let (_, key) = client.make_pair(true);
    assert!(client.sign(&key, b"data").is_ok());
    let nobody = hsm_core::command::Origin { session: None, sequence: 0, lowest_unanswered: 0 };
    let everybody = hsm.node.read().users();
    let app = everybody.iter().find(|user| user.name.as_str() == "app").unwrap();
    assert_eq!(app.sessions, 1);
    // An expiry in the past is refused by the state, so end the session by the name of its record.
    let session = hsm.service.attached_sessions().pop().unwrap();
    let Actor::Session { session, .. } = session else { panic!("nobody is attached") };
    let own = hsm_core::command::Origin { session: Some(session), ..nobody };
    let ended = hsm.node.propose_and_wait(own, Action::Logout { session }, std::time::Duration::from_secs(10));
    assert!(ended.into_result().is_ok());
    assert_eq!(client.sign(&key, b"data"), Err(ErrorCode::NotLoggedIn));
}

#[test]
fn a_sealed_session_object_is_refused_for_another_login_and_when_altered() {
    let hsm = Hsm::active();
    let mut owner = hsm.connect_as("app");
    let (_, key) = owner.make_pair(false);
    assert!(owner.sign(&bare(&key), b"data").is_ok(), "this HSM holds it open");
    let mut thief = hsm.connect_as("other");
    assert_eq!(thief.sign(&bare(&key), b"data"), Err(ErrorCode::SessionObjectUnknown));
    assert_eq!(thief.sign(&key, b"data"), Err(ErrorCode::SessionObjectRefused));
    let mut own_other_login = hsm.connect_as("app");
    assert_eq!(own_other_login.sign(&key, b"data"), Err(ErrorCode::SessionObjectRefused));
    let mut stranger = hsm.connect();
    assert!(stranger.sign(&key, b"data").is_err());
    let mut altered = key.clone();
    *altered.sealed.last_mut().unwrap() ^= 1;
    hsm.service.forget_session_objects();
    assert_eq!(owner.sign(&altered, b"data"), Err(ErrorCode::SessionObjectRefused));
    assert_eq!(owner.sign(&bare(&key), b"data"), Err(ErrorCode::SessionObjectUnknown));
    let mut renamed = key.clone();
    renamed.session_object[0] ^= 1;
    assert_eq!(owner.sign(&renamed, b"data"), Err(ErrorCode::SessionObjectRefused));
    assert!(owner.sign(&key, b"data").is_ok(), "presented again, it works again");
}

#[test]
fn a_destroyed_session_object_stays_destroyed_when_it_is_presented_again() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let (_, key) = client.make_pair(false);
    client.change_done(request::Body::DestroyObject(wire::DestroyObject { object: Some(bare(&key)) }));
    assert_eq!(client.sign(&bare(&key), b"data"), Err(ErrorCode::ObjectUnknown));
    assert_eq!(client.sign(&key, b"data"), Err(ErrorCode::ObjectUnknown));
}
