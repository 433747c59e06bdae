//! Templates of `C_CreateObject`.

use hsm_protocol::{AttributeKind as A, ErrorCode, KeyType, ObjectClass, Template};

use crate::curve::{canonical_params, canonical_point};
use crate::limits::{RSA_BITS_MAXIMUM, RSA_BITS_MINIMUM, SECRET_KEY_BYTES};
use crate::policy::creation::{Birth, Plan, class_of, key_type_in, refuse_unapproved, require_pairing};
use crate::policy::generation::{check_exponent, check_length};
use crate::policy::schema;
use crate::records::Caller;
use crate::refusal::Refusal;
use crate::request::{Material, Needs};

/// `CKC_X_509`.
const X_509: u64 = 0;

/// What `C_CreateObject` needs.
pub(crate) fn object(caller: Caller, template: &Template, fips: bool) -> Result<Needs, Refusal> {
    let class = class_of(template)?;
    let key_type = if class.is_key() {
        let key_type = key_type_in(template)?.ok_or(Refusal::of(ErrorCode::TemplateIncomplete, A::KeyType))?;
        require_pairing(class, key_type)?;
        Some(key_type)
    } else {
        None
    };
    let draft = Plan { caller, class, key_type, birth: Birth::Imported, template, fips }.settle()?;
    let material = match (class, key_type) {
        (ObjectClass::Certificate, _) => certificate(template)?,
        (ObjectClass::Data, _) if draft.has_payload => take(template, &[A::Value]),
        (_, Some(KeyType::Rsa)) => rsa(class, template, fips)?,
        (_, Some(key_type @ (KeyType::Ec | KeyType::EcEdwards | KeyType::EcMontgomery))) => {
            on_curve(class, key_type, template, fips)?
        }
        (_, Some(key_type)) => secret(key_type, template)?,
        (_, None) => Template::new(),
    };
    Ok(Needs::Import { draft, material: Material::new(material) })
}

/// X.509 needs a subject, and a value or a place to find it (PKCS#11 3.2 §4.6.3).
fn certificate(template: &Template) -> Result<Template, Refusal> {
    let missing = |kind| Err(Refusal::of(ErrorCode::TemplateIncomplete, kind));
    let present = |kind| template.octets(kind).is_some_and(|octets| !octets.is_empty());
    let Some(kind) = template.number(A::CertificateType) else { return missing(A::CertificateType) };
    if kind == X_509 && template.octets(A::Subject).is_none() {
        return missing(A::Subject);
    }
    if present(A::Value) || present(A::Url) { Ok(Template::new()) } else { missing(A::Value) }
}

fn secret(key_type: KeyType, template: &Template) -> Result<Template, Refusal> {
    let value = need(template, A::Value)?;
    let refuse = || Refusal::of(ErrorCode::AttributeValue, A::Value);
    let bytes = value.len() as u64;
    // HMAC has keys of no octets (RFC 2104), and vectors that try them.
    let possible = if bytes == 0 { key_type != KeyType::Aes } else { check_length(key_type, bytes).is_ok() };
    if !possible || bytes > SECRET_KEY_BYTES {
        return Err(refuse());
    }
    Ok(take(template, &[A::Value]))
}

fn rsa(class: ObjectClass, template: &Template, fips: bool) -> Result<Template, Refusal> {
    let bits = schema::bits(need(template, A::Modulus)?);
    if !(RSA_BITS_MINIMUM..=RSA_BITS_MAXIMUM).contains(&bits) {
        return Err(Refusal::of(ErrorCode::KeySizeRefused, A::Modulus));
    }
    if class == ObjectClass::PrivateKey {
        need(template, A::PrivateExponent)?;
        if let Some(exponent) = template.octets(A::PublicExponent) {
            check_exponent(exponent, fips)?;
        }
    } else {
        check_exponent(need(template, A::PublicExponent)?, fips)?;
    }
    let numbers = [A::Modulus, A::PublicExponent, A::PrivateExponent, A::Prime1, A::Prime2];
    let derived = [A::Exponent1, A::Exponent2, A::Coefficient];
    let kinds = numbers.into_iter().chain(derived);
    let without_zeros = |kind| Some((kind, schema::without_leading_zeros(template.octets(kind)?)));
    Ok(kinds.filter_map(without_zeros).fold(Template::new(), |sum, (kind, octets)| sum.with_octets(kind, octets)))
}

fn on_curve(class: ObjectClass, key_type: KeyType, template: &Template, fips: bool) -> Result<Template, Refusal> {
    let params = canonical_params(key_type, need(template, A::EcParams)?)?;
    if fips {
        refuse_unapproved(Some(key_type), Some(params))?;
    }
    let mut material = Template::new().with_octets(A::EcParams, params);
    if class == ObjectClass::PrivateKey {
        material = material.with_octets(A::Value, need(template, A::Value)?);
    }
    let point = template.octets(A::EcPoint);
    if class == ObjectClass::PublicKey && point.is_none() {
        need(template, A::EcPoint)?;
    }
    if let Some(point) = point {
        material = material.with_octets(A::EcPoint, canonical_point(key_type, params, point)?);
    }
    Ok(material)
}

fn need(template: &Template, kind: A) -> Result<&[u8], Refusal> {
    template.octets(kind).ok_or(Refusal::of(ErrorCode::TemplateIncomplete, kind))
}

fn take(template: &Template, kinds: &[A]) -> Template {
    kinds.iter().filter_map(|&kind| Some((kind, template.get(kind)?.clone()))).collect()
}
