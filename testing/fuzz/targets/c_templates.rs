//! An application's `CK_ATTRIBUTE` array, as hostile as C allows: misaligned, repeated, NULL with a length, templates in
//! templates. Nothing panics or reads beyond what it was given.
//!
//! The library's own files are compiled in here; only its error type has a stand-in, because the real one needs the whole
//! client and its cryptographic provider.
#![no_main]

#[path = "../../../client/pkcs11/src/memory.rs"]
#[expect(dead_code, reason = "the target needs a part of it")]
mod memory;
#[path = "../../../client/pkcs11/src/template.rs"]
#[expect(dead_code, reason = "the target needs a part of it")]
mod template;

/// Stand-in for the library's module of the same name.
mod return_value {
    /// A `CKR_…`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ReturnValue(pub cryptoki_sys::CK_RV);

    /// What every function of the library answers.
    pub type Outcome<T = ()> = Result<T, ReturnValue>;

    /// A refusal.
    pub fn refuse<T>(code: cryptoki_sys::CK_RV) -> Outcome<T> {
        Err(ReturnValue(code))
    }
}

use cryptoki_sys::{CK_ATTRIBUTE, CK_ULONG};
use hsm_protocol::AttributeKind;
use hsm_protocol::attribute::Shape;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut buffers = Vec::new();
    let mut items = Vec::new();
    take_items(bytes, &mut buffers, &mut items);
    // The array begins at any address.
    let size = size_of::<CK_ATTRIBUTE>();
    let offset = usize::from(bytes.first().copied().unwrap_or(0) % 8);
    let mut place = vec![0_u8; offset + items.len() * size];
    for (position, item) in items.iter().enumerate() {
        let at = place[offset + position * size..].as_mut_ptr().cast::<CK_ATTRIBUTE>();
        // SAFETY: `place` has room for every item from `offset` on.
        unsafe { at.write_unaligned(*item) };
    }
    let start = place[offset..].as_mut_ptr().cast::<CK_ATTRIBUTE>();
    let start = if items.is_empty() { std::ptr::null_mut() } else { start };
    // SAFETY: the array has that many items, and each value is NULL or a buffer of its length.
    let Ok(attributes) = (unsafe { template::Attributes::new(start, items.len() as CK_ULONG) }) else { return };
    let read = attributes.read();
    let found: Vec<_> = attributes
        .kinds()
        .map(|kind| {
            let value =
                read.as_ref().ok().zip(AttributeKind::from_number(kind)).and_then(|(read, kind)| read.get(kind));
            value.map_or(template::Found::Absent, |value| template::Found::Value(value.clone()))
        })
        .collect();
    let _outcome = attributes.fill(&found);
});

/// Makes items: a number, a length, and whether the value is NULL; arrays of attributes hold further items.
fn take_items(mut bytes: &[u8], buffers: &mut Vec<Vec<u8>>, items: &mut Vec<CK_ATTRIBUTE>) {
    while let [kind, how, length, rest @ ..] = bytes {
        let length = usize::from(*length).min(rest.len());
        let (value, after) = rest.split_at(length);
        let known = AttributeKind::ALL[usize::from(*kind) % AttributeKind::ALL.len()];
        let type_ = if how & 1 == 0 { known as u64 } else { u64::from(*kind) << (how >> 3) };
        // PKCS#11 promises that what the number calls an array of attributes is one; only its content may be hostile.
        let is_template = how & 1 == 0 && known.shape() == Shape::Template;
        let buffer = if is_template || how & 4 != 0 { nested(value, buffers) } else { value.to_vec() };
        buffers.push(buffer);
        let Some(buffer) = buffers.last_mut() else { return };
        let pointer = if how & 2 != 0 { std::ptr::null_mut() } else { buffer.as_mut_ptr().cast() };
        items.push(CK_ATTRIBUTE { type_, pValue: pointer, ulValueLen: buffer.len() as CK_ULONG });
        bytes = after;
    }
}

/// An array of attributes as the octets of a value.
fn nested(bytes: &[u8], buffers: &mut Vec<Vec<u8>>) -> Vec<u8> {
    let mut inner = Vec::new();
    if bytes.len() < 60 {
        let mut simple = bytes.to_vec();
        // One level is enough: deeper ones are refused by their depth alone.
        simple.iter_mut().skip(1).step_by(3).for_each(|how| *how &= !4);
        take_items(&simple, buffers, &mut inner);
    }
    let mut octets = Vec::new();
    for item in inner {
        octets.extend_from_slice(&item.type_.to_ne_bytes());
        octets.extend_from_slice(&(item.pValue as usize).to_ne_bytes());
        octets.extend_from_slice(&item.ulValueLen.to_ne_bytes());
    }
    octets
}
