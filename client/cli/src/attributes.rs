//! Attributes by the names of cloudhsm-cli, in words and in JSON.

use hsm_protocol::attribute::AttributeValue;
use hsm_protocol::{AttributeKind, KeyType, ObjectClass, Template};
use serde_json::{Map, Value, json};

use crate::cluster::hexadecimal;
use crate::failure::Failure;

/// The name of each attribute that the command line shows; `true` when it can be given at creation.
const NAMES: &[(&str, AttributeKind, bool)] = &[
    ("key-type", AttributeKind::KeyType, false),
    ("label", AttributeKind::Label, true),
    ("id", AttributeKind::Id, true),
    ("class", AttributeKind::Class, false),
    ("check-value", AttributeKind::CheckValue, false),
    ("encrypt", AttributeKind::Encrypt, true),
    ("decrypt", AttributeKind::Decrypt, true),
    ("token", AttributeKind::Token, false),
    ("always-sensitive", AttributeKind::AlwaysSensitive, false),
    ("derive", AttributeKind::Derive, true),
    ("destroyable", AttributeKind::Destroyable, true),
    ("extractable", AttributeKind::Extractable, true),
    ("local", AttributeKind::Local, false),
    ("modifiable", AttributeKind::Modifiable, true),
    ("never-extractable", AttributeKind::NeverExtractable, false),
    ("private", AttributeKind::Private, true),
    ("sensitive", AttributeKind::Sensitive, true),
    ("sign", AttributeKind::Sign, true),
    ("trusted", AttributeKind::Trusted, false),
    ("unwrap", AttributeKind::Unwrap, true),
    ("verify", AttributeKind::Verify, true),
    ("wrap", AttributeKind::Wrap, true),
    ("wrap-with-trusted", AttributeKind::WrapWithTrusted, true),
    ("key-length-bytes", AttributeKind::ValueLen, false),
    ("ec-point", AttributeKind::EcPoint, false),
    ("curve", AttributeKind::EcParams, false),
    ("modulus", AttributeKind::Modulus, false),
    ("modulus-size-bits", AttributeKind::ModulusBits, false),
    ("public-exponent", AttributeKind::PublicExponent, false),
];

/// The attributes to ask an HSM for.
pub(crate) fn shown() -> Vec<u64> {
    NAMES.iter().map(|&(_, kind, _)| kind.into()).collect()
}

/// The attribute with a name.
pub(crate) fn by_name(name: &str) -> Option<AttributeKind> {
    NAMES.iter().find(|(known, _, _)| *known == name).map(|&(_, kind, _)| kind)
}

fn names(wanted: impl Fn(bool) -> bool) -> String {
    NAMES.iter().filter(|(_, _, given)| wanted(*given)).map(|(name, _, _)| *name).collect::<Vec<_>>().join(", ")
}

/// What a filter may name, for the help.
pub(crate) fn filter_words() -> String {
    format!(
        "NAME in a filter: {}.\nVALUE: true or false; a number; text (label); hexadecimal digits after 0x, as in \
         attr.id=0x0a01 (id, check-value, ec-point, curve, modulus); {CLASS_WORDS} (class); {KEY_TYPE_WORDS} (key-type).",
        names(|_| true)
    )
}

/// What a new key can be given, for the help.
pub(crate) fn given_words() -> String {
    format!(
        "NAME of an attribute: {}.\nVALUE: true or false; text (label); hexadecimal digits after 0x (id=0x0a01).",
        names(|given| given)
    )
}

/// The values that a new key's attribute may have, where the HSM refuses others and its name alone does not tell.
pub(crate) fn range(kind: AttributeKind) -> Option<&'static str> {
    match kind {
        AttributeKind::ModulusBits => Some("2048 to 8192 bits, a multiple of 128 (--modulus-size-bits)"),
        AttributeKind::ValueLen => Some("16, 24 or 32 bytes for AES (--key-length-bytes)"),
        AttributeKind::PublicExponent => Some("an odd number from 3, in mode FIPS from 65537 (--public-exponent)"),
        _ => None,
    }
}

/// Adds `NAME=VALUE` of a new key to its template.
pub(crate) fn add(template: &mut Template, text: &str) -> Result<(), Failure> {
    let found = text.split_once('=').and_then(|(name, value)| {
        let &(_, kind, given) = NAMES.iter().find(|(known, _, _)| *known == name)?;
        given.then_some((kind, value))
    });
    let Some((kind, value)) = found else {
        return Err(Failure::misuse(
            format!("{text:?} is no attribute that a new key can be given"),
            format!("write NAME=VALUE with one of: {}", names(|given| given)),
        ));
    };
    template.insert(kind, parse(kind, value)?);
    Ok(())
}

/// A value in the words that [`show`] uses.
pub(crate) fn parse(kind: AttributeKind, text: &str) -> Result<AttributeValue, Failure> {
    let parsed = match kind {
        AttributeKind::Class => class_number(text).map(AttributeValue::Number),
        AttributeKind::KeyType => key_type_number(text).map(AttributeValue::Number),
        AttributeKind::Label => Some(AttributeValue::Octets(text.as_bytes().to_vec())),
        AttributeKind::ValueLen | AttributeKind::ModulusBits => text.parse().ok().map(AttributeValue::Number),
        AttributeKind::Id
        | AttributeKind::CheckValue
        | AttributeKind::EcPoint
        | AttributeKind::EcParams
        | AttributeKind::Modulus
        | AttributeKind::PublicExponent => octets(text).map(AttributeValue::Octets),
        _ => text.parse().ok().map(AttributeValue::Flag),
    };
    parsed.ok_or_else(|| {
        let form = match kind {
            AttributeKind::Class => CLASS_WORDS,
            AttributeKind::KeyType => KEY_TYPE_WORDS,
            AttributeKind::ValueLen | AttributeKind::ModulusBits => "a number",
            AttributeKind::Id
            | AttributeKind::CheckValue
            | AttributeKind::EcPoint
            | AttributeKind::EcParams
            | AttributeKind::Modulus
            | AttributeKind::PublicExponent => "hexadecimal digits after 0x, two for each byte (0x0a01)",
            _ => "true or false",
        };
        Failure::misuse(format!("{text:?} is no value of this attribute"), format!("use {form}"))
    })
}

/// The attributes of a key as JSON, in the order of the table above.
pub(crate) fn show(template: &Template) -> Map<String, Value> {
    let value = |&(name, kind, _): &(&str, AttributeKind, bool)| {
        template.get(kind).map(|value| (name.to_owned(), show_value(kind, value)))
    };
    NAMES.iter().filter_map(value).collect()
}

fn show_value(kind: AttributeKind, value: &AttributeValue) -> Value {
    match (kind, value) {
        (AttributeKind::Class, AttributeValue::Number(number)) => json!(class_name(*number)),
        (AttributeKind::KeyType, AttributeValue::Number(number)) => json!(key_type_name(*number)),
        (AttributeKind::Label, AttributeValue::Octets(octets)) => json!(String::from_utf8_lossy(octets)),
        (_, AttributeValue::Flag(flag)) => json!(flag),
        (_, AttributeValue::Number(number)) => json!(number),
        (_, AttributeValue::Octets(octets)) => json!(format!("0x{}", hexadecimal(octets))),
        (_, AttributeValue::Mechanisms(_) | AttributeValue::Template(_)) => Value::Null,
    }
}

const CLASS_WORDS: &str = "secret-key, public-key or private-key";
const KEY_TYPE_WORDS: &str = "aes, rsa, ec, ec-edwards or generic-secret";

const CLASSES: &[(&str, ObjectClass)] = &[
    ("secret-key", ObjectClass::SecretKey),
    ("public-key", ObjectClass::PublicKey),
    ("private-key", ObjectClass::PrivateKey),
];

const KEY_TYPES: &[(&str, KeyType)] = &[
    ("aes", KeyType::Aes),
    ("rsa", KeyType::Rsa),
    ("ec", KeyType::Ec),
    ("ec-edwards", KeyType::EcEdwards),
    ("ec-montgomery", KeyType::EcMontgomery),
    ("generic-secret", KeyType::GenericSecret),
    ("hkdf", KeyType::Hkdf),
    ("sha1-hmac", KeyType::Sha1Hmac),
    ("sha224-hmac", KeyType::Sha224Hmac),
    ("sha256-hmac", KeyType::Sha256Hmac),
    ("sha384-hmac", KeyType::Sha384Hmac),
    ("sha512-hmac", KeyType::Sha512Hmac),
];

fn class_number(name: &str) -> Option<u64> {
    CLASSES.iter().find(|(known, _)| *known == name).map(|&(_, class)| class as u64)
}

fn class_name(number: u64) -> String {
    let known = CLASSES.iter().find(|&&(_, class)| class as u64 == number);
    known.map_or_else(|| format!("{number:#x}"), |(name, _)| (*name).to_owned())
}

fn key_type_number(name: &str) -> Option<u64> {
    KEY_TYPES.iter().find(|(known, _)| *known == name).map(|&(_, kind)| kind as u64)
}

fn key_type_name(number: u64) -> String {
    let known = KEY_TYPES.iter().find(|&&(_, kind)| kind as u64 == number);
    known.map_or_else(|| format!("{number:#x}"), |(name, _)| (*name).to_owned())
}

/// Octets from hexadecimal digits after `0x`.
pub(crate) fn octets(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x")?;
    if digits.len() % 2 != 0 || !digits.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_given_back() {
        for (kind, text) in [
            (AttributeKind::Id, "0x0a0b"),
            (AttributeKind::Label, "a b"),
            (AttributeKind::Class, "private-key"),
            (AttributeKind::KeyType, "aes"),
        ] {
            let value = parse(kind, text).unwrap();
            assert_eq!(show_value(kind, &value), json!(text));
        }
    }

    #[test]
    fn attributes_that_only_the_hsm_sets_are_refused_at_creation() {
        let mut template = Template::new();
        for text in ["local=true", "never-extractable=true", "nonsense=1", "sign", "sign=perhaps", "id=12"] {
            assert!(add(&mut template, text).is_err(), "{text}");
        }
        add(&mut template, "sign=true").unwrap();
        assert_eq!(template.flag(AttributeKind::Sign), Some(true));
    }
}
