//! Operations in parts.

use hsm_protocol::wire::{self, request};
use hsm_protocol::{ErrorCode, Mechanism, MechanismKind, Operation, Parameters, Role, convert, limits};

use super::client::{ADMIN_PASSWORD, Client, Hsm, Refused, octets, operate};

fn begin(operation: Operation, key: Option<&wire::ObjectReference>, mechanism: &Mechanism) -> wire::Operate {
    wire::Operate {
        operation: operation as u32,
        key: key.cloned(),
        mechanism: Some(convert::mechanism_message(mechanism)),
        ..Default::default()
    }
}

fn sha256() -> wire::Operate {
    begin(Operation::Digest, None, &Mechanism::plain(MechanismKind::SHA256))
}

fn signing(key: &wire::ObjectReference) -> wire::Operate {
    begin(Operation::Sign, Some(key), &Mechanism::plain(MechanismKind::ECDSA_SHA256))
}

fn part(client: &mut Client, message: wire::Stream) -> Result<Vec<u8>, Refused> {
    octets(client.call(request::Body::Stream(message)))
}

fn first(stream: u64, begin: wire::Operate, data: &[u8]) -> wire::Stream {
    wire::Stream { stream, begin: Some(begin), data: data.to_vec(), ..Default::default() }
}

fn next(stream: u64, part: u64, data: &[u8]) -> wire::Stream {
    wire::Stream { stream, part, data: data.to_vec(), ..Default::default() }
}

fn last(stream: u64, part: u64) -> wire::Stream {
    wire::Stream { stream, part, finish: true, ..Default::default() }
}

#[test]
fn a_digest_in_parts_is_the_digest_of_the_whole() {
    let hsm = Hsm::active();
    let mut client = hsm.connect();
    assert_eq!(part(&mut client, first(1, sha256(), b"ab")).unwrap(), b"");
    assert_eq!(part(&mut client, next(1, 1, b"c")).unwrap(), b"");
    let digest = part(&mut client, last(1, 2)).unwrap();
    let whole = operate(Operation::Digest, &wire::ObjectReference::default(), MechanismKind::SHA256, b"abc");
    assert_eq!(digest, octets(client.call(whole)).unwrap());
}

#[test]
fn parts_that_do_not_follow_each_other_end_the_stream() {
    let hsm = Hsm::active();
    let mut client = hsm.connect();
    assert!(part(&mut client, first(1, sha256(), b"a")).is_ok());
    assert_eq!(part(&mut client, next(1, 2, b"c")), Err(ErrorCode::StreamUnknown));
    assert_eq!(part(&mut client, next(1, 1, b"b")), Err(ErrorCode::StreamUnknown), "it has ended");
    assert_eq!(part(&mut client, next(9, 0, b"b")), Err(ErrorCode::StreamUnknown), "it never began");
    assert!(part(&mut client, first(1, sha256(), b"a")).is_ok());
    assert_eq!(part(&mut client, first(1, sha256(), b"a")), Err(ErrorCode::StreamUnknown), "its number is taken");
    let mut other = hsm.connect();
    assert_eq!(part(&mut other, next(1, 1, b"b")), Err(ErrorCode::StreamUnknown), "another connection's");
}

#[test]
fn a_connection_has_a_limit_of_streams_and_an_abandoned_one_makes_room() {
    let hsm = Hsm::active();
    let mut client = hsm.connect();
    for stream in 0..limits::STREAMS_PER_CONNECTION as u64 {
        assert!(part(&mut client, first(stream, sha256(), b"a")).is_ok());
    }
    assert_eq!(part(&mut client, first(u64::MAX, sha256(), b"a")), Err(ErrorCode::Busy));
    client.done(request::Body::AbandonStream(wire::AbandonStream { stream: 5 }));
    assert!(part(&mut client, first(u64::MAX, sha256(), b"a")).is_ok());
}

#[test]
fn a_stream_ends_with_its_login_and_belongs_to_it_alone() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let (_, key) = client.make_pair(true);
    assert!(part(&mut client, first(1, signing(&key), b"a")).is_ok());
    let app = client.session;
    client.log_in("other", Role::CryptoUser, super::client::USER_PASSWORD);
    assert_eq!(part(&mut client, next(1, 1, b"b")), Err(ErrorCode::StreamUnknown), "another login's");
    client.session = app;
    client.sequence = 100;
    assert!(part(&mut client, next(1, 1, b"b")).is_ok());
    client.change_done(request::Body::Logout(wire::Logout {}));
    assert_eq!(part(&mut client, last(1, 2)), Err(ErrorCode::NotLoggedIn));
    client.session = 0;
    assert_eq!(part(&mut client, last(1, 2)), Err(ErrorCode::StreamUnknown));
}

#[test]
fn a_stream_does_not_outlive_its_key() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let (_, key) = client.make_pair(true);
    assert!(part(&mut client, first(1, signing(&key), b"a")).is_ok());
    client.change_done(request::Body::DestroyObject(wire::DestroyObject { object: Some(key) }));
    assert_eq!(part(&mut client, last(1, 1)), Err(ErrorCode::ObjectUnknown));
}

#[test]
fn an_aead_stream_gives_out_nothing_before_its_tag_is_checked() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let key = client.make_aes(true);
    let gcm = Mechanism {
        kind: MechanismKind::AES_GCM,
        parameters: Parameters::Gcm { iv: vec![1; 12], additional_data: vec![], tag_bits: 128, generate_iv: false },
    };
    let plain = vec![5; 100_000];
    let mut sealed = part(&mut client, first(1, begin(Operation::Encrypt, Some(&key), &gcm), &plain)).unwrap();
    sealed.extend(part(&mut client, last(1, 1)).unwrap());
    assert_eq!(sealed.len(), plain.len() + 16);
    let decrypt = begin(Operation::Decrypt, Some(&key), &gcm);
    assert_eq!(part(&mut client, first(2, decrypt.clone(), &sealed)).unwrap(), b"");
    assert_eq!(part(&mut client, last(2, 1)).unwrap(), plain);
    *sealed.last_mut().unwrap() ^= 1;
    assert_eq!(part(&mut client, first(3, decrypt, &sealed)).unwrap(), b"");
    assert_eq!(part(&mut client, last(3, 1)), Err(ErrorCode::EncryptedInvalid));
}

#[test]
fn a_last_output_longer_than_an_answer_is_given_in_pieces_to_who_asks_for_the_next_one() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let key = client.make_aes(true);
    let gcm = Mechanism {
        kind: MechanismKind::AES_GCM,
        parameters: Parameters::Gcm { iv: vec![1; 12], additional_data: vec![], tag_bits: 128, generate_iv: false },
    };
    for extra in [0, 5, limits::PART_LIMIT] {
        let plain = vec![5; limits::PART_LIMIT + extra];
        let mut sealed = Vec::new();
        let mut pieces = plain.chunks(limits::PART_LIMIT);
        let encrypt = begin(Operation::Encrypt, Some(&key), &gcm);
        sealed.extend(part(&mut client, first(1, encrypt, pieces.next().unwrap())).unwrap());
        sealed.extend(part(&mut client, next(1, 1, pieces.next().unwrap_or_default())).unwrap());
        sealed.extend(part(&mut client, last(1, 2)).unwrap());
        let decrypt = begin(Operation::Decrypt, Some(&key), &gcm);
        let mut number = 0;
        for piece in sealed.chunks(limits::PART_LIMIT) {
            let message = if number == 0 { first(2, decrypt.clone(), piece) } else { next(2, number, piece) };
            assert_eq!(part(&mut client, message).unwrap(), b"");
            number += 1;
        }
        let mut opened = Vec::new();
        loop {
            let piece = part(&mut client, last(2, number)).unwrap();
            number += 1;
            opened.extend_from_slice(&piece);
            if piece.len() < limits::PART_LIMIT {
                break;
            }
            assert_eq!(part(&mut client, next(2, number, b"x")), Err(ErrorCode::StreamUnknown), "it takes no input");
        }
        assert!(opened == plain, "{extra} more than a part");
        assert_eq!(part(&mut client, last(2, number)), Err(ErrorCode::StreamUnknown), "nothing is left");
    }
}

#[test]
fn an_admin_uses_no_key_and_may_digest() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let (_, key) = client.make_pair(true);
    client.log_in("admin", Role::Admin, ADMIN_PASSWORD);
    assert!(part(&mut client, first(1, signing(&key), b"a")).is_err());
    assert!(part(&mut client, first(2, sha256(), b"a")).is_ok());
}

#[test]
fn the_value_of_a_secret_key_can_be_digested_and_a_lost_one_can_be_presented_again() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let key = client.make_aes(false);
    let with_key = |stream, part, key: &wire::ObjectReference| wire::Stream {
        stream,
        part,
        digest_key: Some(key.clone()),
        ..Default::default()
    };
    assert!(part(&mut client, first(1, sha256(), b"a")).is_ok());
    assert!(part(&mut client, with_key(1, 1, &super::client::bare(&key))).is_ok());
    let once = part(&mut client, last(1, 2)).unwrap();
    hsm.service.forget_session_objects();
    assert!(part(&mut client, first(2, sha256(), b"a")).is_ok());
    let unknown = part(&mut client, with_key(2, 1, &super::client::bare(&key)));
    assert_eq!(unknown, Err(ErrorCode::SessionObjectUnknown));
    assert!(part(&mut client, with_key(2, 1, &key)).is_ok(), "the same part again, with the sealed key");
    assert_eq!(part(&mut client, last(2, 2)).unwrap(), once);
    let (_, private) = client.make_pair(false);
    assert!(part(&mut client, first(3, sha256(), b"a")).is_ok());
    assert!(part(&mut client, with_key(3, 1, &private)).is_err(), "no private key");
}
