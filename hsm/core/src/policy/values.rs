//! Whether a single value is possible for its attribute, whatever object it belongs to.

use hsm_protocol::attribute::{AttributeValue, Shape};
use hsm_protocol::{AttributeKind, ErrorCode, ObjectClass, Template};

use crate::limits::{ALLOWED_MECHANISMS, OBJECT_BYTES};
use crate::policy::schema;
use crate::refusal::Refusal;

/// Highest `CKC_…` that is stored: X.509, X.509 attribute, WTLS.
const CERTIFICATE_TYPES: u64 = 2;

/// Highest `CK_CERTIFICATE_CATEGORY_…` and `CK_SECURITY_DOMAIN_…` (PKCS#11 3.2 §4.6.2).
const CATEGORIES: u64 = 3;

/// Brings a value into the form in which it is stored.
///
/// # Errors
/// [`ErrorCode::AttributeValue`] when it cannot be.
pub(crate) fn canonical(kind: AttributeKind, value: &AttributeValue) -> Result<AttributeValue, Refusal> {
    let possible = value.fits(kind)
        && match value {
            AttributeValue::Octets(octets) if kind.shape() == Shape::Date => is_date(octets),
            AttributeValue::Mechanisms(kinds) => kinds.len() <= ALLOWED_MECHANISMS,
            AttributeValue::Template(inner) => is_rule(inner),
            AttributeValue::Number(number) => is_number(kind, *number),
            AttributeValue::Octets(_) | AttributeValue::Flag(_) => true,
        };
    if !possible {
        return Err(Refusal::of(ErrorCode::AttributeValue, kind));
    }
    Ok(match value {
        AttributeValue::Octets(octets) if kind.shape() == Shape::BigInteger => {
            AttributeValue::Octets(schema::without_leading_zeros(octets).to_vec())
        }
        other => other.clone(),
    })
}

/// Refuses metadata that is too long to be kept in memory a million times.
///
/// # Errors
/// [`ErrorCode::TooLarge`].
pub(crate) fn check_size(attributes: &Template) -> Result<(), Refusal> {
    if size(attributes) > OBJECT_BYTES { Err(ErrorCode::TooLarge.into()) } else { Ok(()) }
}

/// Refuses a validity that ends before it begins.
///
/// # Errors
/// [`ErrorCode::TemplateInconsistent`].
pub(crate) fn check_dates(start: Option<&[u8]>, end: Option<&[u8]>) -> Result<(), Refusal> {
    match (start.unwrap_or_default(), end.unwrap_or_default()) {
        ([], _) | (_, []) => Ok(()),
        (start, end) if start <= end => Ok(()),
        _ => Err(Refusal::of(ErrorCode::TemplateInconsistent, AttributeKind::EndDate)),
    }
}

fn size(attributes: &Template) -> usize {
    let of_value = |value: &AttributeValue| match value {
        AttributeValue::Octets(octets) => octets.len(),
        AttributeValue::Mechanisms(kinds) => kinds.len() * 8,
        AttributeValue::Template(inner) => size(inner),
        AttributeValue::Flag(_) | AttributeValue::Number(_) => 8,
    };
    attributes.iter().map(|(_, value)| of_value(value)).sum()
}

fn is_number(kind: AttributeKind, number: u64) -> bool {
    match kind {
        AttributeKind::Class => ObjectClass::from_number(number).is_some(),
        AttributeKind::CertificateType => number <= CERTIFICATE_TYPES,
        AttributeKind::CertificateCategory | AttributeKind::JavaMidpSecurityDomain => number <= CATEGORIES,
        _ => true,
    }
}

/// Whether a template can be a rule for other keys: no secret would be kept in metadata.
fn is_rule(inner: &Template) -> bool {
    inner.iter().all(|(kind, value)| {
        let secret =
            schema::is_secret(kind, ObjectClass::SecretKey) || schema::is_secret(kind, ObjectClass::PrivateKey);
        value.fits(kind) && kind.shape() != Shape::Template && !secret
    })
}

/// `CK_DATE`: empty, or YYYYMMDD.
fn is_date(octets: &[u8]) -> bool {
    if octets.is_empty() {
        return true;
    }
    let number = |digits: &[u8]| digits.iter().fold(0_u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    octets.len() == 8
        && octets.iter().all(u8::is_ascii_digit)
        && (1..=12).contains(&number(&octets[4..6]))
        && (1..=31).contains(&number(&octets[6..8]))
}

#[cfg(test)]
mod tests {
    use hsm_protocol::MechanismKind;

    use super::*;

    #[test]
    fn dates_are_dates() {
        for good in ["", "20260101", "20261231"] {
            assert!(is_date(good.as_bytes()), "{good}");
        }
        for bad in ["2026010", "20261301", "20260132", "20260100", "2026-1-1", "202601011"] {
            assert!(!is_date(bad.as_bytes()), "{bad}");
        }
        assert!(check_dates(Some(b"20260102"), Some(b"20260101")).is_err());
        assert!(check_dates(Some(b"20260102"), None).is_ok());
    }

    #[test]
    fn a_rule_for_other_keys_cannot_hold_a_secret() {
        let rule = |inner| canonical(AttributeKind::UnwrapTemplate, &AttributeValue::Template(inner));
        assert!(rule(Template::new().with_flag(AttributeKind::Sensitive, true)).is_ok());
        let secret = rule(Template::new().with_octets(AttributeKind::Value, "x"));
        assert_eq!(secret.err().unwrap().code, ErrorCode::AttributeValue);
    }

    #[test]
    fn the_list_of_allowed_mechanisms_is_bounded() {
        let list = |count| AttributeValue::Mechanisms(vec![MechanismKind::ECDSA; count]);
        assert!(canonical(AttributeKind::AllowedMechanisms, &list(ALLOWED_MECHANISMS)).is_ok());
        assert!(canonical(AttributeKind::AllowedMechanisms, &list(ALLOWED_MECHANISMS + 1)).is_err());
    }

    #[test]
    fn integers_lose_their_leading_zeros() {
        let value = canonical(AttributeKind::Modulus, &AttributeValue::Octets(vec![0, 0, 9])).ok().unwrap();
        assert!(value == AttributeValue::Octets(vec![9]));
    }
}
