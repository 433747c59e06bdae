//! Templates between C and the checked types: `CK_ATTRIBUTE` arrays of any caller, hostile ones too.
//!
//! Reading checks what can be checked without knowing the object: sizes, NULL pointers, repeats, contradictions.
//! Writing is the rule of `C_GetAttributeValue` (PKCS#11 3.2 §5.7.5). What a template means is for the HSM to say.

#![expect(unsafe_code, reason = "the C border: arrays of CK_ATTRIBUTE")]

use cryptoki_sys::*;
use hsm_protocol::attribute::Shape;
use hsm_protocol::limits::{ATTRIBUTE_BYTES, TEMPLATE_ATTRIBUTES, TEMPLATE_DEPTH};
use hsm_protocol::{AttributeKind, AttributeValue, MechanismKind, Template};

use crate::memory::{self, Input, UNAVAILABLE};
use crate::return_value::{Outcome, ReturnValue, refuse};

const NUMBER_BYTES: usize = size_of::<CK_ULONG>();
const ATTRIBUTE_STRUCTURE_BYTES: usize = size_of::<CK_ATTRIBUTE>();

/// A caller's array of attributes: taken apart once, then filled in.
pub(crate) struct Attributes {
    pointer: *mut CK_ATTRIBUTE,
    items: Vec<CK_ATTRIBUTE>,
}

impl Attributes {
    /// Takes an array with its length.
    ///
    /// # Errors
    /// `CKR_ARGUMENTS_BAD` for NULL with a length, or more attributes than any template has.
    ///
    /// # Safety
    /// `pointer` is NULL, or an array of `count` attributes whose values are NULL or readable (and, for
    /// [`Self::fill`], writable) for their lengths.
    pub(crate) unsafe fn new(pointer: *mut CK_ATTRIBUTE, count: CK_ULONG) -> Outcome<Self> {
        let count = match usize::try_from(count) {
            Ok(0) => return Ok(Self { pointer, items: Vec::new() }),
            Ok(count) if !pointer.is_null() && count <= TEMPLATE_ATTRIBUTES => count,
            _ => return refuse(CKR_ARGUMENTS_BAD),
        };
        // SAFETY: promised by the caller; alignment is not assumed.
        let items = (0..count).map(|position| unsafe { pointer.add(position).read_unaligned() }).collect();
        Ok(Self { pointer, items })
    }

    /// The attributes' numbers, in the caller's order.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = u64> {
        self.items.iter().map(|item| item.type_)
    }

    /// Reads a template.
    ///
    /// # Errors
    /// `CKR_ATTRIBUTE_TYPE_INVALID` for an attribute that is not known, `CKR_ATTRIBUTE_VALUE_INVALID` for a value that
    /// no such attribute has, `CKR_TEMPLATE_INCONSISTENT` for one that is there twice with different values.
    pub(crate) fn read(&self) -> Outcome<Template> {
        read_items(&self.items, 0)
    }

    /// Reads a template for a search: `None` when it asks for an attribute that no object here can have.
    ///
    /// # Errors
    /// As [`Self::read`]; an unknown attribute is no error, because applications look for other vendors' objects.
    pub(crate) fn read_for_search(&self) -> Outcome<Option<Template>> {
        if self.kinds().all(|kind| AttributeKind::from_number(kind).is_some()) {
            self.read().map(Some)
        } else {
            Ok(None)
        }
    }

    /// Fills in what was found, in the caller's order: the rule of `C_GetAttributeValue`.
    ///
    /// # Errors
    /// Of the faults met, the first of `CKR_ATTRIBUTE_SENSITIVE`, `CKR_ATTRIBUTE_TYPE_INVALID`, `CKR_BUFFER_TOO_SMALL`;
    /// every attribute is dealt with all the same.
    pub(crate) fn fill(mut self, found: &[Found]) -> Outcome {
        debug_assert_eq!(found.len(), self.items.len());
        let mut faults = Faults::default();
        for (position, found) in found.iter().enumerate().take(self.items.len()) {
            let item = &mut self.items[position];
            item.ulValueLen = match found {
                Found::Sensitive => faults.note(CKR_ATTRIBUTE_SENSITIVE),
                Found::Absent => faults.note(CKR_ATTRIBUTE_TYPE_INVALID),
                // SAFETY: the item came from the caller's array, whose promise stands at `new`.
                Found::Value(value) => unsafe { fill_value(item, value, &mut faults) },
            };
            // SAFETY: `position` is within the caller's array; alignment is not assumed.
            unsafe { self.pointer.add(position).write_unaligned(*item) };
        }
        faults.outcome()
    }
}

/// What an object has of an attribute.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its value.
    Value(AttributeValue),
    /// A value that must not be told.
    Sensitive,
    /// No such attribute.
    Absent,
}

#[derive(Default)]
struct Faults {
    sensitive: bool,
    absent: bool,
    too_small: bool,
}

impl Faults {
    /// Notes a fault; the length that the caller then gets.
    fn note(&mut self, fault: CK_RV) -> CK_ULONG {
        match fault {
            CKR_ATTRIBUTE_SENSITIVE => self.sensitive = true,
            CKR_ATTRIBUTE_TYPE_INVALID => self.absent = true,
            _ => self.too_small = true,
        }
        UNAVAILABLE
    }

    fn outcome(&self) -> Outcome {
        if self.sensitive {
            refuse(CKR_ATTRIBUTE_SENSITIVE)
        } else if self.absent {
            refuse(CKR_ATTRIBUTE_TYPE_INVALID)
        } else if self.too_small {
            refuse(CKR_BUFFER_TOO_SMALL)
        } else {
            Ok(())
        }
    }
}

fn read_items(items: &[CK_ATTRIBUTE], depth: usize) -> Outcome<Template> {
    let mut template = Template::new();
    for item in items {
        let kind = AttributeKind::from_number(item.type_).ok_or(ReturnValue(CKR_ATTRIBUTE_TYPE_INVALID))?;
        let value = read_value(kind, item, depth)?;
        match template.get(kind) {
            Some(earlier) if *earlier != value => return refuse(CKR_TEMPLATE_INCONSISTENT),
            Some(_) => {}
            None => {
                template.insert(kind, value);
            }
        }
    }
    Ok(template)
}

fn read_value(kind: AttributeKind, item: &CK_ATTRIBUTE, depth: usize) -> Outcome<AttributeValue> {
    let invalid = ReturnValue(CKR_ATTRIBUTE_VALUE_INVALID);
    // SAFETY: the item came from the caller's array, whose promise stands at `Attributes::new`.
    let input = unsafe { Input::new(item.pValue.cast::<u8>(), item.ulValueLen) }.map_err(|_| invalid)?;
    if input.len() > ATTRIBUTE_BYTES {
        return Err(invalid);
    }
    let bytes = input.copy()?;
    Ok(match kind.shape() {
        Shape::Flag => match bytes[..] {
            [CK_FALSE] => AttributeValue::Flag(false),
            [CK_TRUE] => AttributeValue::Flag(true),
            _ => return Err(invalid),
        },
        Shape::Number => AttributeValue::Number(number(&bytes).ok_or(invalid)?),
        Shape::Octets | Shape::Text => AttributeValue::Octets(bytes),
        Shape::BigInteger => {
            let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
            AttributeValue::Octets(bytes[zeros..].to_vec())
        }
        Shape::Date if matches!(bytes.len(), 0 | 8) => AttributeValue::Octets(bytes),
        Shape::Date => return Err(invalid),
        Shape::Mechanisms => {
            let chunks = bytes.chunks_exact(NUMBER_BYTES);
            if !chunks.remainder().is_empty() || chunks.len() > TEMPLATE_ATTRIBUTES {
                return Err(invalid);
            }
            AttributeValue::Mechanisms(chunks.filter_map(number).map(MechanismKind).collect())
        }
        Shape::Template => {
            if depth >= TEMPLATE_DEPTH || !bytes.len().is_multiple_of(ATTRIBUTE_STRUCTURE_BYTES) {
                return Err(invalid);
            }
            let count = (bytes.len() / ATTRIBUTE_STRUCTURE_BYTES) as CK_ULONG;
            // SAFETY: an array attribute's value is an array of attributes, as the caller promised at `new`.
            let inner = unsafe { Attributes::new(item.pValue.cast(), count) }.map_err(|_| invalid)?;
            AttributeValue::Template(read_items(&inner.items, depth + 1)?)
        }
    })
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_ne_bytes)
}

/// Writes one value where the caller wants it; the length that he gets.
///
/// # Safety
/// The item's value is NULL or writable for its length.
unsafe fn fill_value(item: &CK_ATTRIBUTE, value: &AttributeValue, faults: &mut Faults) -> CK_ULONG {
    if let AttributeValue::Template(template) = value {
        // SAFETY: promised by the caller.
        return unsafe { fill_template(item, template, faults) };
    }
    let bytes = value_bytes(value);
    if item.pValue.is_null() {
        return bytes.len() as CK_ULONG;
    }
    if item.ulValueLen < bytes.len() as CK_ULONG {
        return faults.note(CKR_BUFFER_TOO_SMALL);
    }
    // SAFETY: the value is writable for its length, which is no less than that of `bytes`.
    match unsafe { memory::write_bytes(item.pValue.cast(), &bytes) } {
        Ok(()) => bytes.len() as CK_ULONG,
        Err(ReturnValue(fault)) => faults.note(fault),
    }
}

/// An array attribute: the caller first learns its length, then the numbers and lengths in it, then the values.
///
/// # Safety
/// The item's value is NULL, or an array of attributes with values that are NULL or writable for their lengths.
unsafe fn fill_template(item: &CK_ATTRIBUTE, template: &Template, faults: &mut Faults) -> CK_ULONG {
    let needed = (template.len() * ATTRIBUTE_STRUCTURE_BYTES) as CK_ULONG;
    if item.pValue.is_null() {
        return needed;
    }
    if item.ulValueLen < needed {
        return faults.note(CKR_BUFFER_TOO_SMALL);
    }
    let array = item.pValue.cast::<CK_ATTRIBUTE>();
    for (position, (kind, value)) in template.iter().enumerate() {
        // SAFETY: `position` is within the caller's array, whose length was checked; alignment is not assumed.
        let mut inner = unsafe { array.add(position).read_unaligned() };
        inner.type_ = kind as CK_ULONG;
        // SAFETY: promised by the caller. Templates nest one level, so this is no array again.
        inner.ulValueLen = unsafe { fill_value(&inner, value, faults) };
        // SAFETY: as for the read above.
        unsafe { array.add(position).write_unaligned(inner) };
    }
    needed
}

/// A value as C has it. Array attributes of attributes are not made of plain bytes and give none.
pub(crate) fn value_bytes(value: &AttributeValue) -> Vec<u8> {
    match value {
        AttributeValue::Flag(flag) => vec![if *flag { CK_TRUE } else { CK_FALSE }],
        AttributeValue::Number(number) => number.to_ne_bytes().to_vec(),
        AttributeValue::Octets(octets) => octets.clone(),
        AttributeValue::Mechanisms(kinds) => kinds.iter().flat_map(|kind| kind.0.to_ne_bytes()).collect(),
        AttributeValue::Template(_) => Vec::new(),
    }
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
