//! Long operations leave the connection's thread: what is short goes on meanwhile.

use hsm_protocol::wire::{self, request};
use hsm_protocol::{AttributeKind, Mechanism, MechanismKind, Operation, Template, convert};

use super::client::{Hsm, created, octets, operate};

fn rsa_pair(bits: u64) -> request::Body {
    let public = Template::new()
        .with_flag(AttributeKind::Token, true)
        .with_flag(AttributeKind::Verify, true)
        .with_number(AttributeKind::ModulusBits, bits)
        .with_octets(AttributeKind::PublicExponent, [1, 0, 1]);
    let private = Template::new().with_flag(AttributeKind::Token, true).with_flag(AttributeKind::Sign, true);
    request::Body::GenerateKeyPair(wire::GenerateKeyPair {
        mechanism: Some(convert::mechanism_message(&Mechanism::plain(MechanismKind::RSA_PKCS_KEY_PAIR_GEN))),
        public_template: Some(convert::template_message(&public)),
        private_template: Some(convert::template_message(&private)),
    })
}

#[test]
fn a_short_request_behind_a_long_one_is_answered_first() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let random = || request::Body::Random(wire::Random { length: 8 });
    let generation = client.send_request(rsa_pair(3072), 1);
    let short = client.send_request(random(), 0);
    assert_eq!(client.read_reply().0, short);
    let (id, pair) = client.read_reply();
    assert_eq!(id, generation);
    let key = created(pair.unwrap()).remove(1);
    let signature = client.send_request(operate(Operation::Sign, &key, MechanismKind::SHA256_RSA_PKCS, b"data"), 0);
    let short = client.send_request(random(), 0);
    // A signature takes less than a millisecond, so either may come first; both come, each with its own answer.
    let (first, second) = (client.read_reply(), client.read_reply());
    let (signed, other) = if first.0 == signature { (first, second) } else { (second, first) };
    assert_eq!((signed.0, other.0), (signature, short));
    assert_eq!(octets(signed.1).unwrap().len(), 384);
}

#[test]
fn a_long_operation_ends_for_nobody_when_its_connection_is_gone() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    client.send_request(rsa_pair(2048), 1);
    drop(client);
    let mut other = hsm.connect_as("app");
    assert!(other.make_pair(true).1.token_object > 0);
}
