//! Bytes and messages that no honest library sends.

use std::io::{Read, Write};

use hsm_protocol::frame::{self, Header};
use hsm_protocol::wire::{self, request};
use hsm_protocol::{ErrorCode, MechanismKind, Operation, limits};

use super::client::{Client, Hsm, operate};

fn raw_frame(method: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(12 + body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(&[frame::VERSION, 0]);
    bytes.extend_from_slice(&method.to_be_bytes());
    bytes.extend_from_slice(&77u64.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn refused(client: &mut Client, bytes: &[u8]) -> ErrorCode {
    client.send(bytes);
    let (id, result) = client.read_reply();
    assert_eq!(id, 77);
    result.err().unwrap()
}

/// The connection works.
fn still_answers(client: &mut Client) {
    assert!(client.call(request::Body::Random(wire::Random { length: 8 })).is_ok());
}

#[test]
fn an_unknown_method_is_answered_and_the_connection_goes_on() {
    let hsm = Hsm::active();
    let mut client = hsm.connect();
    for method in [0, 1, 13, 41, 55, 76, 89, 104, 500, u16::MAX] {
        assert_eq!(refused(&mut client, &raw_frame(method, &[])), ErrorCode::UnknownMethod, "{method}");
    }
    still_answers(&mut client);
}

#[test]
fn a_message_that_is_no_protobuf_or_of_another_method_is_malformed_and_the_connection_goes_on() {
    let hsm = Hsm::active();
    let mut client = hsm.connect();
    assert_eq!(refused(&mut client, &raw_frame(53, &[0xFF; 9])), ErrorCode::Malformed);
    assert_eq!(refused(&mut client, &raw_frame(53, &[])), ErrorCode::Malformed);
    let random = wire::Request { body: Some(request::Body::Random(wire::Random { length: 8 })), ..Default::default() };
    let mut other = Vec::new();
    frame::append(&mut other, Header { method: 50, request_id: 77 }, &random).unwrap();
    assert_eq!(refused(&mut client, &other), ErrorCode::Malformed);
    still_answers(&mut client);
}

#[test]
fn ten_thousand_random_messages_of_every_method_leave_the_connection_working() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    // Logging in and activating look at passwords, which takes time and is limited.
    let methods =
        (10..=12).chain([21]).chain(30..=40).chain(50..=54).chain(70..=74).chain(90..=99).collect::<Vec<u16>>();
    for round in 0..10_000_usize {
        let method = methods[round % methods.len()];
        let length = usize::try_from(next() % 48).unwrap();
        let mut body: Vec<u8> = (0..length).map(|_| next().to_le_bytes()[0]).collect();
        if round % 2 == 0 {
            // Something that begins like a message of this method in the client's session.
            let mut framed = vec![0x08, 0x01];
            prost::encoding::encode_key(u32::from(method), prost::encoding::WireType::LengthDelimited, &mut framed);
            framed.push(u8::try_from(body.len()).unwrap());
            framed.append(&mut body);
            body = framed;
        }
        client.send(&raw_frame(method, &body));
        let (id, _) = client.read_reply();
        assert_eq!(id, 77);
    }
    still_answers(&mut client);
}

#[test]
fn a_frame_error_closes_the_connection() {
    let hsm = Hsm::active();
    for bytes in [(limits::FRAME_LIMIT + 1).to_be_bytes().to_vec(), 3u32.to_be_bytes().to_vec()] {
        let mut client = hsm.connect();
        client.stream.write_all(&bytes).unwrap();
        assert_eq!(client.stream.read(&mut [0; 1]).unwrap(), 0);
    }
}

#[test]
fn limits_on_lengths_are_answered() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let random = |length| request::Body::Random(wire::Random { length });
    assert!(client.call(random(limits::RANDOM_BYTES)).is_ok());
    assert_eq!(client.call(random(limits::RANDOM_BYTES + 1)).err(), Some(ErrorCode::TooLarge));
    let (_, key) = client.make_pair(false);
    let input = |length| operate(Operation::Sign, &key, MechanismKind::ECDSA_SHA256, &vec![0; length]);
    assert!(client.call(input(limits::PART_LIMIT)).is_ok());
    assert_eq!(client.call(input(limits::PART_LIMIT + 1)).err(), Some(ErrorCode::TooLarge));
    let kinds = wire::GetAttributes { object: Some(key), kinds: vec![1; limits::TEMPLATE_ATTRIBUTES + 1] };
    assert_eq!(client.call(request::Body::GetAttributes(kinds)).err(), Some(ErrorCode::TooLarge));
}
