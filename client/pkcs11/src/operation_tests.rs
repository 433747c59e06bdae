//! Operations against a stand-in that notes every call: what goes out, when, and what is never asked.

#![expect(unsafe_code, reason = "buffers of a caller, built from values of the test")]

use std::sync::Arc;

use hsm_client::CallError;
use hsm_protocol::wire::{reply, request};
use hsm_protocol::{AttributeKind, ErrorCode, Parameters};

use super::*;
use crate::device::fake::Fake;

const OPERATE: u16 = 50;
const STREAM: u16 = 51;
const GET_ATTRIBUTES: u16 = 35;

/// Answers every operation with 64 bytes, and a key's attributes with those of a P-256 key.
fn hsm() -> Fake {
    answering(|operate| Ok(vec![u8::try_from(operate.data.len() % 256).unwrap(); 64]))
}

fn answering(answer: impl Fn(&wire::Operate) -> Result<Vec<u8>, ErrorCode> + Send + Sync + 'static) -> Fake {
    Fake::new(Vec::new(), move |body| match body {
        request::Body::Operate(operate) => match answer(operate) {
            Ok(data) => Ok(reply::Body::Bytes(wire::BytesReply { data, iv: Vec::new() })),
            Err(code) => Err(CallError::Refused { code, subject: 0 }),
        },
        request::Body::GetAttributes(asked) => {
            let p256 = [0x06, 0x08, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
            let result = |&kind: &u64| match AttributeKind::from_number(kind) {
                Some(AttributeKind::EcParams) => wire::AttributeResult {
                    status: 0,
                    attribute: Some(wire::Attribute {
                        kind,
                        value: Some(wire::attribute::Value::Octets(p256.to_vec())),
                    }),
                },
                _ => wire::AttributeResult { status: 2, attribute: None },
            };
            Ok(reply::Body::Attributes(wire::AttributesReply { items: asked.kinds.iter().map(result).collect() }))
        }
        _ => Err(CallError::Refused { code: ErrorCode::NotSupported, subject: 0 }),
    })
}

fn slot(fake: &Fake) -> Arc<Slot> {
    Arc::new(Slot::with_device(0, "fake".into(), None, fake.device()))
}

fn active(operation: Operation, kind: MechanismKind) -> Active {
    Active::new(operation, Some(Reference::Token(7)), ReadMechanism::new(Mechanism::plain(kind)))
}

fn cbc_pad(operation: Operation) -> Active {
    let mechanism = Mechanism { kind: MechanismKind::AES_CBC_PAD, parameters: Parameters::Iv(vec![0; 16]) };
    Active::new(operation, Some(Reference::Token(7)), ReadMechanism::new(mechanism))
}

fn input(bytes: &[u8]) -> Input {
    // SAFETY: the tests keep the bytes.
    unsafe { Input::new(bytes.as_ptr(), bytes.len() as CK_ULONG) }.unwrap()
}

/// A caller's buffer with the place of its length.
struct Buffer {
    bytes: Vec<u8>,
    length: CK_ULONG,
}

impl Buffer {
    fn of(length: usize) -> Self {
        Self { bytes: vec![0; length], length: length as CK_ULONG }
    }

    fn output(&mut self) -> Output {
        // SAFETY: the tests keep the buffer.
        unsafe { Output::new(self.bytes.as_mut_ptr(), &raw mut self.length) }.unwrap()
    }

    fn question(&mut self) -> Output {
        // SAFETY: a NULL buffer is allowed.
        unsafe { Output::new(std::ptr::null_mut(), &raw mut self.length) }.unwrap()
    }
}

fn assert_stays(step: &Step, outcome: Outcome) {
    assert_eq!(step.outcome, outcome);
    assert!(!step.over, "the operation ended");
}

fn assert_ends(step: &Step, outcome: Outcome) {
    assert_eq!(step.outcome, outcome);
    assert!(step.over, "the operation goes on");
}

const TOO_SMALL: Outcome = Err(ReturnValue(CKR_BUFFER_TOO_SMALL));

#[test]
fn asking_for_the_length_makes_no_signature_and_asks_for_the_keys_attributes_once() {
    let fake = hsm();
    let slot = slot(&fake);
    let mut buffer = Buffer::of(0);
    for _ in 0..3 {
        let mut sign = active(Operation::Sign, MechanismKind::ECDSA);
        assert_stays(&sign.whole(&slot, input(b"hash"), buffer.question()), Ok(()));
        assert_eq!(buffer.length, 64);
    }
    assert_eq!(fake.asked(), [GET_ATTRIBUTES]);
}

#[test]
fn a_buffer_too_small_costs_no_call_when_the_length_is_known() {
    let fake = hsm();
    let slot = slot(&fake);
    let mut hmac = active(Operation::Sign, MechanismKind::SHA256_HMAC);
    let mut buffer = Buffer::of(31);
    assert_stays(&hmac.whole(&slot, input(b"data"), buffer.output()), TOO_SMALL);
    assert_eq!(buffer.length, 32);
    assert!(fake.asked().is_empty());
}

#[test]
fn a_signature_that_did_not_fit_is_kept_and_never_made_again() {
    let fake = hsm();
    let slot = slot(&fake);
    let mut sign = active(Operation::Sign, MechanismKind::ECDSA);
    assert_stays(&sign.whole(&slot, input(b"hash"), Buffer::of(10).output()), TOO_SMALL);
    let mut buffer = Buffer::of(64);
    assert_ends(&sign.whole(&slot, input(b"hash"), buffer.output()), Ok(()));
    assert_eq!(buffer.bytes, [4; 64]);
    assert_eq!(fake.asked(), [OPERATE]);
}

#[test]
fn parts_of_a_signature_go_out_in_one_call() {
    let fake = hsm();
    let slot = slot(&fake);
    let mut sign = active(Operation::Sign, MechanismKind::ECDSA_SHA256);
    for _ in 0..5 {
        assert_stays(&sign.gather(&slot, input(&[1; 20])), Ok(()));
    }
    let mut buffer = Buffer::of(64);
    assert_ends(&sign.finish_gathered(&slot, buffer.output()), Ok(()));
    assert_eq!(buffer.bytes, [100; 64]);
    assert_eq!(fake.asked(), [OPERATE]);
}

#[test]
fn more_parts_than_can_be_replayed_are_streamed() {
    let fake = hsm();
    let slot = slot(&fake);
    let mut digest = active(Operation::Sign, MechanismKind::SHA256_HMAC);
    let part = vec![1; REPLAY_LIMIT];
    assert_stays(&digest.gather(&slot, input(&part)), Ok(()));
    assert!(fake.asked().is_empty(), "one call's worth must wait for the end");
    assert_stays(&digest.gather(&slot, input(&[1])), Ok(()));
    assert!(fake.asked().iter().all(|&method| method == STREAM) && !fake.asked().is_empty());
    assert_ends(&digest.finish_gathered(&slot, Buffer::of(64).output()), Ok(()));
}

#[test]
fn a_whole_operation_cannot_end_one_in_parts() {
    let fake = hsm();
    let slot = slot(&fake);
    let mut sign = active(Operation::Sign, MechanismKind::ECDSA_SHA256);
    assert_stays(&sign.gather(&slot, input(b"part")), Ok(()));
    let step = sign.whole(&slot, input(b"rest"), Buffer::of(64).output());
    assert_stays(&step, Err(ReturnValue(CKR_OPERATION_NOT_INITIALIZED)));
}

#[test]
fn an_error_ends_the_operation_and_names_its_cause() {
    let slot = slot(&answering(|_| Err(ErrorCode::KeyUseRefused)));
    let mut sign = active(Operation::Sign, MechanismKind::ECDSA);
    let step = sign.whole(&slot, input(b"hash"), Buffer::of(64).output());
    assert_ends(&step, Err(ReturnValue(CKR_KEY_FUNCTION_NOT_PERMITTED)));
}

#[test]
fn a_verification_sends_the_signature_with_the_data() {
    let slot = slot(&answering(|operate| match (&operate.data[..], &operate.signature[..]) {
        (b"data", b"signature") => Ok(Vec::new()),
        _ => Err(ErrorCode::SignatureInvalid),
    }));
    let mut right = active(Operation::Verify, MechanismKind::ECDSA);
    assert_ends(&right.verify_whole(&slot, input(b"data"), Some(input(b"signature"))), Ok(()));
    let mut wrong = active(Operation::Verify, MechanismKind::ECDSA);
    assert_stays(&wrong.gather(&slot, input(b"data")), Ok(()));
    let step = wrong.finish_verification(&slot, Some(input(b"another")));
    assert_ends(&step, Err(ReturnValue(CKR_SIGNATURE_INVALID)));
    let mut first = active(Operation::Verify, MechanismKind::ECDSA).with_signature(b"signature".to_vec());
    assert_ends(&first.verify_whole(&slot, input(b"data"), None), Ok(()));
}

#[test]
fn cipher_parts_without_output_wait_for_the_end_and_go_out_in_one_call() {
    let fake = answering(|operate| Ok(vec![9; operate.data.len() / 16 * 16 + 16]));
    let slot = slot(&fake);
    let mut encrypt = cbc_pad(Operation::Encrypt);
    let mut buffer = Buffer::of(32);
    let (step, _) = encrypt.cipher_part(&slot, input(&[1; 15]), buffer.output());
    assert_stays(&step, Ok(()));
    assert_eq!(buffer.length, 0);
    let mut end = Buffer::of(15);
    assert_stays(&encrypt.finish_cipher(&slot, end.output()), TOO_SMALL);
    assert_eq!(end.length, 16);
    assert!(fake.asked().is_empty());
    let mut end = Buffer::of(16);
    assert_ends(&encrypt.finish_cipher(&slot, end.output()), Ok(()));
    assert_eq!(fake.asked(), [OPERATE]);
}

#[test]
fn a_part_whose_output_does_not_fit_is_not_taken() {
    let fake = hsm();
    let slot = slot(&fake);
    let mut encrypt = cbc_pad(Operation::Encrypt);
    let mut small = Buffer::of(31);
    assert_stays(&encrypt.cipher_part(&slot, input(&[1; 40]), small.output()).0, TOO_SMALL);
    assert_eq!(small.length, 32);
    let mut question = Buffer::of(0);
    assert_stays(&encrypt.cipher_part(&slot, input(&[1; 40]), question.question()).0, Ok(()));
    assert_eq!(question.length, 32);
    assert!(fake.asked().is_empty());
    assert_eq!(encrypt.taken, 0);
}

#[test]
fn a_context_password_goes_with_the_next_call() {
    let slot = slot(&answering(|operate| match &operate.context_password[..] {
        b"again" => Ok(vec![0; 64]),
        _ => Err(ErrorCode::NotLoggedIn),
    }));
    let mut sign = active(Operation::Sign, MechanismKind::ECDSA);
    assert!(sign.takes_context_password());
    sign.set_context_password(b"again");
    assert_ends(&sign.whole(&slot, input(b"hash"), Buffer::of(64).output()), Ok(()));
}

#[test]
fn a_saved_digest_goes_on_where_it_stopped() {
    let fake = hsm();
    let slot = slot(&fake);
    let mut digest = Active::new(Operation::Digest, None, ReadMechanism::new(Mechanism::plain(MechanismKind::SHA256)));
    assert_stays(&digest.gather(&slot, input(b"abc")), Ok(()));
    let state = digest.save().unwrap();
    let mut copy = Active::restore(&state).unwrap();
    assert_stays(&copy.gather(&slot, input(b"de")), Ok(()));
    let mut buffer = Buffer::of(64);
    assert_ends(&copy.finish_gathered(&slot, buffer.output()), Ok(()));
    assert_eq!(buffer.bytes, [5; 64]);
    assert_eq!(Active::restore(b"nonsense").err(), Some(ReturnValue(CKR_SAVED_STATE_INVALID)));
    assert!(active(Operation::Sign, MechanismKind::ECDSA).save().is_none());
}
