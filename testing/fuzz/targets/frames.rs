//! Bytes of a stranger as a stream of frames: nothing panics, and no frame reaches beyond what was there.
#![no_main]

use hsm_protocol::{frame, wire};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some(found)) = frame::parse(rest) {
        assert!(found.consumed <= rest.len() && found.consumed >= frame::HEADER_BYTES);
        if let Ok(message) = wire::Request::decode(found.body) {
            // What was read can be written and read again, and is the same.
            let mut written = Vec::new();
            frame::append(&mut written, found.header, &message).expect("a message that came in a frame fits in one");
            let again = frame::parse(&written).expect("our own frame").expect("a whole one");
            assert_eq!(again.header, found.header);
            assert!(wire::Request::decode(again.body).expect("our own message") == message);
        }
        rest = &rest[found.consumed..];
    }
});
