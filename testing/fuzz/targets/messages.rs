//! A request of a stranger on its way into the checked types: refused or taken, and what is taken says the same again.
#![no_main]

use hsm_protocol::wire::request::Body;
use hsm_protocol::{convert, wire};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let Ok(request) = wire::Request::decode(bytes) else { return };
    match request.body {
        Some(Body::GenerateKey(body)) => {
            mechanism(body.mechanism);
            template(body.template);
        }
        Some(Body::GenerateKeyPair(body)) => {
            mechanism(body.mechanism);
            template(body.public_template);
            template(body.private_template);
        }
        Some(Body::CreateObject(body)) => template(body.template),
        Some(Body::FindObjects(body)) => template(body.template),
        Some(Body::CopyObject(body)) => {
            object(body.object);
            template(body.template);
        }
        Some(Body::SetAttributes(body)) => {
            object(body.object);
            template(body.template);
        }
        Some(Body::UnwrapKey(body)) => {
            mechanism(body.mechanism);
            object(body.unwrapping_key);
            template(body.template);
        }
        Some(Body::DeriveKey(body)) => {
            mechanism(body.mechanism);
            object(body.base_key);
            template(body.template);
        }
        Some(Body::Operate(body)) => {
            mechanism(body.mechanism);
            object(body.key);
        }
        _ => {}
    }
});

fn template(message: Option<wire::Attributes>) {
    let Some(message) = message else { return };
    let Ok(read) = convert::template(message) else { return };
    let again = convert::template(convert::template_message(&read));
    assert!(again.is_ok_and(|again| again == read), "a template that was taken is refused when written again");
}

fn mechanism(message: Option<wire::Mechanism>) {
    let Ok(read) = convert::mechanism(message) else { return };
    let again = convert::mechanism(Some(convert::mechanism_message(&read)));
    assert!(again.is_ok_and(|again| again == read), "a mechanism that was taken is refused when written again");
}

fn object(message: Option<wire::ObjectReference>) {
    let Ok(read) = convert::object(message) else { return };
    let again = convert::object(Some(convert::object_message(&read)));
    assert!(again.is_ok_and(|again| again == read), "a reference that was taken is refused when written again");
}
