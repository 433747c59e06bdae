//! Between the protobuf messages and the checked types. Everything that arrives passes here once.
//!
//! Reading is strict: an unknown attribute, a value of the wrong shape, a repeated attribute or a length over its limit
//! is an error that names the attribute. Nothing here decides what a template means.

use crate::attribute::{AttributeKind, AttributeValue, Template};
use crate::error::ErrorCode;
use crate::limits::{ATTRIBUTE_BYTES, TEMPLATE_ATTRIBUTES, TEMPLATE_DEPTH};
use crate::mechanism::{HkdfSalt, Mechanism, MechanismKind, ObjectReference, Parameters, SessionObjectId};
use crate::wire;

/// A message that was refused, and what about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} (subject {subject:#x})")]
pub struct Malformed {
    /// Why.
    pub code: ErrorCode,
    /// The attribute or mechanism that it is about; 0 for none.
    pub subject: u64,
}

impl From<ErrorCode> for Malformed {
    fn from(code: ErrorCode) -> Self {
        Self { code, subject: 0 }
    }
}

/// Reads a template.
///
/// # Errors
/// [`ErrorCode::AttributeUnknown`], [`ErrorCode::AttributeValue`], [`ErrorCode::TemplateInconsistent`] (an attribute
/// twice with different values) or [`ErrorCode::TooLarge`], with the attribute's number.
pub fn template(message: wire::Attributes) -> Result<Template, Malformed> {
    template_at_depth(message, 0)
}

fn template_at_depth(message: wire::Attributes, depth: usize) -> Result<Template, Malformed> {
    if message.items.len() > TEMPLATE_ATTRIBUTES {
        return Err(ErrorCode::TooLarge.into());
    }
    let mut template = Template::new();
    for item in message.items {
        let subject = item.kind;
        let refuse = |code| Malformed { code, subject };
        let kind = AttributeKind::from_number(subject).ok_or_else(|| refuse(ErrorCode::AttributeUnknown))?;
        let value = value_at_depth(item, depth)?;
        if !value.fits(kind) {
            return Err(refuse(ErrorCode::AttributeValue));
        }
        match template.get(kind) {
            Some(earlier) if *earlier != value => return Err(refuse(ErrorCode::TemplateInconsistent)),
            Some(_) => {}
            None => {
                template.insert(kind, value);
            }
        }
    }
    Ok(template)
}

fn value_at_depth(item: wire::Attribute, depth: usize) -> Result<AttributeValue, Malformed> {
    use wire::attribute::Value;
    let subject = item.kind;
    let refuse = |code| Malformed { code, subject };
    Ok(match item.value {
        Some(Value::Flag(flag)) => AttributeValue::Flag(flag),
        Some(Value::Number(number)) => AttributeValue::Number(number),
        Some(Value::Octets(octets)) if octets.len() > ATTRIBUTE_BYTES => return Err(refuse(ErrorCode::TooLarge)),
        Some(Value::Octets(octets)) => AttributeValue::Octets(octets),
        Some(Value::Numbers(numbers)) if numbers.items.len() > TEMPLATE_ATTRIBUTES => {
            return Err(refuse(ErrorCode::TooLarge));
        }
        Some(Value::Numbers(numbers)) => {
            AttributeValue::Mechanisms(numbers.items.into_iter().map(MechanismKind).collect())
        }
        Some(Value::Template(_)) if depth >= TEMPLATE_DEPTH => return Err(refuse(ErrorCode::AttributeValue)),
        Some(Value::Template(inner)) => AttributeValue::Template(template_at_depth(inner, depth + 1)?),
        None => return Err(refuse(ErrorCode::AttributeValue)),
    })
}

/// Writes a template.
pub fn template_message(template: &Template) -> wire::Attributes {
    wire::Attributes { items: template.iter().map(|(kind, value)| attribute_message(kind, value)).collect() }
}

/// Writes one attribute.
pub fn attribute_message(kind: AttributeKind, value: &AttributeValue) -> wire::Attribute {
    use wire::attribute::Value;
    let value = match value {
        AttributeValue::Flag(flag) => Value::Flag(*flag),
        AttributeValue::Number(number) => Value::Number(*number),
        AttributeValue::Octets(octets) => Value::Octets(octets.clone()),
        AttributeValue::Mechanisms(kinds) => {
            Value::Numbers(wire::Numbers { items: kinds.iter().map(|kind| kind.0).collect() })
        }
        AttributeValue::Template(inner) => Value::Template(template_message(inner)),
    };
    wire::Attribute { kind: kind as u64, value: Some(value) }
}

/// Reads a reference to an object.
///
/// # Errors
/// [`ErrorCode::ObjectUnknown`] when the reference names nothing or two things.
pub fn object(message: Option<wire::ObjectReference>) -> Result<ObjectReference, Malformed> {
    let message = message.ok_or(ErrorCode::ObjectUnknown)?;
    if message.session_object.is_empty() {
        return match message.token_object {
            0 => Err(ErrorCode::ObjectUnknown.into()),
            handle => Ok(ObjectReference::Token(handle)),
        };
    }
    let id = message.session_object.try_into().map_err(|_| ErrorCode::ObjectUnknown)?;
    if message.token_object != 0 {
        return Err(ErrorCode::ObjectUnknown.into());
    }
    Ok(ObjectReference::Session { id: SessionObjectId(id), sealed: message.sealed, version: message.version })
}

/// Writes a reference to an object.
pub fn object_message(reference: &ObjectReference) -> wire::ObjectReference {
    match reference {
        ObjectReference::Token(handle) => wire::ObjectReference { token_object: *handle, ..Default::default() },
        ObjectReference::Session { id, sealed, version } => wire::ObjectReference {
            token_object: 0,
            session_object: id.0.to_vec(),
            sealed: sealed.clone(),
            version: *version,
        },
    }
}

/// Reads a mechanism.
///
/// # Errors
/// [`ErrorCode::MechanismInvalid`] when there is none, [`ErrorCode::MechanismParameters`] when its parameters cannot be.
pub fn mechanism(message: Option<wire::Mechanism>) -> Result<Mechanism, Malformed> {
    let message = message.ok_or(ErrorCode::MechanismInvalid)?;
    let subject = message.kind;
    let parameters = match message.parameters {
        None => Parameters::None,
        Some(parameters) => {
            parameters_from(parameters).map_err(|_| Malformed { code: ErrorCode::MechanismParameters, subject })?
        }
    };
    Ok(Mechanism { kind: MechanismKind(subject), parameters })
}

fn parameters_from(message: wire::mechanism::Parameters) -> Result<Parameters, Malformed> {
    use wire::mechanism::Parameters as Message;
    Ok(match message {
        Message::Iv(iv) => Parameters::Iv(iv),
        Message::Gcm(gcm) => Parameters::Gcm {
            iv: gcm.iv,
            additional_data: gcm.additional_data,
            tag_bits: gcm.tag_bits,
            generate_iv: gcm.generate_iv,
        },
        Message::Ctr(ctr) => Parameters::Ctr {
            counter_bits: ctr.counter_bits,
            block: ctr.counter_block.try_into().map_err(|_| ErrorCode::MechanismParameters)?,
        },
        Message::Pss(pss) => {
            Parameters::Pss { hash: MechanismKind(pss.hash), mgf: pss.mgf, salt_length: pss.salt_length }
        }
        Message::Oaep(oaep) => Parameters::Oaep { hash: MechanismKind(oaep.hash), mgf: oaep.mgf, label: oaep.label },
        Message::Ecdh(ecdh) => {
            Parameters::Ecdh { kdf: ecdh.kdf, shared_data: ecdh.shared_data, public_data: ecdh.public_data }
        }
        Message::Hkdf(hkdf) => hkdf_from(hkdf)?,
        Message::Eddsa(eddsa) => Parameters::Eddsa { prehash: eddsa.prehash, context: eddsa.context },
        Message::OutputLength(length) => Parameters::OutputLength(length),
        Message::DerivationData(data) => Parameters::DerivationData(data),
        Message::CbcDerivation(cbc) => Parameters::CbcDerivation { iv: cbc.iv, data: cbc.data },
        Message::OtherKey(reference) => Parameters::OtherKey(object(Some(reference))?),
    })
}

/// `CKF_HKDF_SALT_NULL`, `_DATA` and `_KEY` (PKCS#11 3.2 §6.62.3).
const HKDF_SALT_NULL: u32 = 1;
const HKDF_SALT_DATA: u32 = 2;
const HKDF_SALT_KEY: u32 = 4;

fn hkdf_from(hkdf: wire::HkdfParameters) -> Result<Parameters, Malformed> {
    let salt = match hkdf.salt_kind {
        0 | HKDF_SALT_NULL => HkdfSalt::Null,
        HKDF_SALT_DATA => HkdfSalt::Data(hkdf.salt),
        HKDF_SALT_KEY => HkdfSalt::Key(object(hkdf.salt_key)?),
        _ => return Err(ErrorCode::MechanismParameters.into()),
    };
    Ok(Parameters::Hkdf {
        extract: hkdf.extract,
        expand: hkdf.expand,
        hash: MechanismKind(hkdf.hash),
        salt,
        info: hkdf.info,
    })
}

/// Writes a mechanism.
pub fn mechanism_message(mechanism: &Mechanism) -> wire::Mechanism {
    wire::Mechanism { kind: mechanism.kind.0, parameters: parameters_message(&mechanism.parameters) }
}

fn parameters_message(parameters: &Parameters) -> Option<wire::mechanism::Parameters> {
    use wire::mechanism::Parameters as Message;
    Some(match parameters.clone() {
        Parameters::None => return None,
        Parameters::Iv(iv) => Message::Iv(iv),
        Parameters::Gcm { iv, additional_data, tag_bits, generate_iv } => {
            Message::Gcm(wire::GcmParameters { iv, additional_data, tag_bits, generate_iv, iv_length: 0 })
        }
        Parameters::Ctr { counter_bits, block } => {
            Message::Ctr(wire::CtrParameters { counter_bits, counter_block: block.to_vec() })
        }
        Parameters::Pss { hash, mgf, salt_length } => {
            Message::Pss(wire::PssParameters { hash: hash.0, mgf, salt_length })
        }
        Parameters::Oaep { hash, mgf, label } => Message::Oaep(wire::OaepParameters { hash: hash.0, mgf, label }),
        Parameters::Ecdh { kdf, shared_data, public_data } => {
            Message::Ecdh(wire::EcdhParameters { kdf, shared_data, public_data })
        }
        Parameters::Hkdf { extract, expand, hash, salt, info } => {
            let mut message = wire::HkdfParameters { extract, expand, hash: hash.0, info, ..Default::default() };
            match salt {
                HkdfSalt::Null => message.salt_kind = HKDF_SALT_NULL,
                HkdfSalt::Data(data) => {
                    message.salt_kind = HKDF_SALT_DATA;
                    message.salt = data;
                }
                HkdfSalt::Key(key) => {
                    message.salt_kind = HKDF_SALT_KEY;
                    message.salt_key = Some(object_message(&key));
                }
            }
            Message::Hkdf(message)
        }
        Parameters::Eddsa { prehash, context } => Message::Eddsa(wire::EddsaParameters { prehash, context }),
        Parameters::OutputLength(length) => Message::OutputLength(length),
        Parameters::DerivationData(data) => Message::DerivationData(data),
        Parameters::CbcDerivation { iv, data } => Message::CbcDerivation(wire::CbcDerivation { iv, data }),
        Parameters::OtherKey(reference) => Message::OtherKey(object_message(&reference)),
    })
}

/// The field number of a request's body, which is also the frame's method.
pub fn method(body: &wire::request::Body) -> u16 {
    use wire::request::Body;
    match body {
        Body::Hello(_) => 10,
        Body::ListMechanisms(_) => 11,
        Body::ClusterInfo(_) => 12,
        Body::Login(_) => 20,
        Body::Attach(_) => 21,
        Body::Logout(_) => 22,
        Body::LogoutEverywhere(_) => 23,
        Body::ExchangeObjects(_) => 24,
        Body::GenerateKey(_) => 30,
        Body::GenerateKeyPair(_) => 31,
        Body::CreateObject(_) => 32,
        Body::CopyObject(_) => 33,
        Body::DestroyObject(_) => 34,
        Body::GetAttributes(_) => 35,
        Body::SetAttributes(_) => 36,
        Body::FindObjects(_) => 37,
        Body::WrapKey(_) => 38,
        Body::UnwrapKey(_) => 39,
        Body::DeriveKey(_) => 40,
        Body::Operate(_) => 50,
        Body::Stream(_) => 51,
        Body::AbandonStream(_) => 52,
        Body::Random(_) => 53,
        Body::SeedRandom(_) => 54,
        Body::CreateUser(_) => 70,
        Body::DeleteUser(_) => 71,
        Body::ListUsers(_) => 72,
        Body::ChangePassword(_) => 73,
        Body::SetUserEnabled(_) => 74,
        Body::Activate(_) => 75,
        Body::RegisterTrustAnchor(_) => 90,
        Body::DeregisterTrustAnchor(_) => 91,
        Body::ListTrustAnchors(_) => 92,
        Body::SetClientCertificates(_) => 93,
        Body::SetAdmissionRule(_) => 94,
        Body::ApproveMember(_) => 95,
        Body::SetIsolationWindow(_) => 96,
        Body::RemoveMember(_) => 97,
        Body::GetClusterPolicy(_) => 98,
        Body::ListMembers(_) => 99,
        Body::BeginReissue(_) => 100,
        Body::GetReissueRequest(_) => 101,
        Body::FinishReissue(_) => 102,
        Body::SetReleaseRule(_) => 103,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(kind: u64, flag: bool) -> wire::Attribute {
        wire::Attribute { kind, value: Some(wire::attribute::Value::Flag(flag)) }
    }

    #[test]
    fn a_repeated_attribute_is_taken_when_it_agrees_and_refused_when_it_contradicts() {
        assert_eq!(template(wire::Attributes { items: vec![flag(1, true), flag(1, true)] }).ok().unwrap().len(), 1);
        let refused = template(wire::Attributes { items: vec![flag(1, true), flag(1, false)] }).err().unwrap();
        assert_eq!(refused, Malformed { code: ErrorCode::TemplateInconsistent, subject: 1 });
    }

    #[test]
    fn unknown_attributes_and_wrong_shapes_are_named() {
        let unknown = template(wire::Attributes { items: vec![flag(0x7777, true)] }).err().unwrap();
        assert_eq!(unknown, Malformed { code: ErrorCode::AttributeUnknown, subject: 0x7777 });
        let shape = template(wire::Attributes { items: vec![flag(3, true)] }).err().unwrap();
        assert_eq!(shape, Malformed { code: ErrorCode::AttributeValue, subject: 3 });
    }

    #[test]
    fn a_template_has_a_limit_of_attributes() {
        let many = |count| wire::Attributes { items: vec![flag(1, true); count] };
        assert!(template(many(TEMPLATE_ATTRIBUTES)).is_ok());
        assert_eq!(template(many(TEMPLATE_ATTRIBUTES + 1)).err().unwrap().code, ErrorCode::TooLarge);
    }

    #[test]
    fn templates_nest_one_level() {
        let nest = |inner: wire::Attributes| wire::Attributes {
            items: vec![wire::Attribute { kind: 0x4000_0212, value: Some(wire::attribute::Value::Template(inner)) }],
        };
        assert!(template(nest(wire::Attributes { items: vec![flag(1, true)] })).is_ok());
        let deep = template(nest(nest(wire::Attributes::default()))).err().unwrap();
        assert_eq!(deep, Malformed { code: ErrorCode::AttributeValue, subject: 0x4000_0212 });
    }

    #[test]
    fn a_reference_names_one_object() {
        assert!(object(None).is_err());
        assert!(object(Some(wire::ObjectReference::default())).is_err());
        let both = wire::ObjectReference { token_object: 1, session_object: vec![0; 16], ..Default::default() };
        assert!(object(Some(both)).is_err());
        let short = wire::ObjectReference { session_object: vec![0; 15], ..Default::default() };
        assert!(object(Some(short)).is_err());
    }
}
