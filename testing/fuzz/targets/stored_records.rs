//! Rows of a store that somebody wrote into: loaded or named as broken, and never a panic.
#![no_main]

use hsm_core::ids::{ObjectHandle, SessionId, UserId};
use hsm_core::{Command, Hsm, Row};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // A command as it lies in the log.
    if let Ok(command) = postcard::from_bytes::<Command>(bytes) {
        drop(command);
    }
    let rows = rows(bytes);
    for (row, value) in &rows {
        if let Row::Payload(_) = row {
            drop(hsm_core::rows::payload(row, value));
        }
    }
    // A state that could be loaded has a hash.
    if let Ok(hsm) = Hsm::load(rows.into_iter()) {
        let _hash = hsm.state_hash();
    }
});

/// Each row: one octet that says the table, one with the key, one with the length of the value.
fn rows(mut bytes: &[u8]) -> Vec<(Row, Vec<u8>)> {
    let mut rows = Vec::new();
    while let [table, key, length, rest @ ..] = bytes {
        let length = usize::from(*length).min(rest.len());
        let (value, after) = rest.split_at(length);
        let row = match table % 7 {
            0 => Row::Cluster,
            1 => Row::Counters,
            2 => Row::User(UserId(u64::from(*key))),
            3 => Row::Attempt(vec![*key; usize::from(key % 24)]),
            4 => Row::Session(SessionId([*key; 16])),
            5 => Row::Object(ObjectHandle(u64::from(*key))),
            _ => Row::Payload(ObjectHandle(u64::from(*key))),
        };
        rows.push((row, value.to_vec()));
        bytes = after;
    }
    rows
}
