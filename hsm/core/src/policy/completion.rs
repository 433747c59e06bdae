//! A draft becomes an object: the facts that making its material brought to light are added and compared with what the
//! caller asked for.

use hsm_protocol::attribute::{AttributeValue, Shape};
use hsm_protocol::{AttributeKind as A, ErrorCode, KeyType, ObjectClass};

use crate::curve::{canonical_params, canonical_point};
use crate::ids::ObjectUid;
use crate::limits::{RSA_BITS_MAXIMUM, RSA_BITS_MINIMUM, SECRET_KEY_BYTES};
use crate::object::Object;
use crate::policy::creation::refuse_unapproved;
use crate::policy::generation::check_length;
use crate::policy::{schema, values};
use crate::refusal::Refusal;
use crate::request::{Draft, Facts};

impl Draft {
    /// The object, once its material is known.
    ///
    /// # Errors
    /// [`ErrorCode::TemplateInconsistent`] or [`ErrorCode::AttributeValue`] when a fact contradicts what the caller asked
    /// for, [`ErrorCode::TemplateIncomplete`] when a fact is missing, [`ErrorCode::KeySizeRefused`],
    /// [`ErrorCode::FipsRefused`].
    pub fn complete(mut self, facts: Facts, uid: ObjectUid) -> Result<Object, Refusal> {
        if !self.is_copy {
            for (kind, value) in facts.attributes().iter() {
                self.add(kind, value)?;
            }
            self.check_material()?;
        }
        values::check_size(&self.attributes)?;
        Ok(Object::new(uid, self.owner, &self.attributes, self.has_payload))
    }

    fn add(&mut self, kind: A, value: &AttributeValue) -> Result<(), Refusal> {
        let refuse = |code| Err(Refusal::of(code, kind));
        let is_payload = self.has_payload && schema::is_secret(kind, self.class);
        if !is_fact(kind) || is_payload {
            return refuse(ErrorCode::TemplateInconsistent);
        }
        // Both halves of a pair may be given the same facts.
        if !schema::applies(kind, self.class, self.key_type()) {
            return Ok(());
        }
        let value = self.canonical(kind, value)?;
        match self.attributes.get(kind) {
            // The caller wants no check value.
            Some(AttributeValue::Octets(asked)) if kind == A::CheckValue && asked.is_empty() => return Ok(()),
            Some(asked) if *asked != value && kind == A::CheckValue => return refuse(ErrorCode::AttributeValue),
            Some(asked) if *asked != value => return refuse(ErrorCode::TemplateInconsistent),
            _ => {}
        }
        self.attributes.insert(kind, value);
        Ok(())
    }

    fn canonical(&self, kind: A, value: &AttributeValue) -> Result<AttributeValue, Refusal> {
        let key_type = self.key_type().unwrap_or(KeyType::GenericSecret);
        Ok(match (kind, value) {
            (A::EcParams, AttributeValue::Octets(params)) => {
                AttributeValue::Octets(canonical_params(key_type, params)?.to_vec())
            }
            (A::EcPoint, AttributeValue::Octets(point)) => {
                let params = self.attributes.octets(A::EcParams);
                let params = params.ok_or(Refusal::of(ErrorCode::TemplateIncomplete, A::EcParams))?;
                AttributeValue::Octets(canonical_point(key_type, params, point)?)
            }
            (_, AttributeValue::Octets(octets)) if kind.shape() == Shape::BigInteger => {
                AttributeValue::Octets(schema::without_leading_zeros(octets).to_vec())
            }
            _ => value.clone(),
        })
    }

    /// What a key must have in the end.
    fn check_material(&mut self) -> Result<(), Refusal> {
        match self.key_type() {
            Some(KeyType::Rsa) => self.check_rsa(),
            Some(KeyType::Ec | KeyType::EcEdwards | KeyType::EcMontgomery) => self.check_on_curve(),
            Some(key_type) => self.check_secret(key_type),
            None => Ok(()),
        }
    }

    fn check_rsa(&mut self) -> Result<(), Refusal> {
        let modulus = self.attributes.octets(A::Modulus);
        let bits = schema::bits(modulus.ok_or(Refusal::of(ErrorCode::TemplateIncomplete, A::Modulus))?);
        if !(RSA_BITS_MINIMUM..=RSA_BITS_MAXIMUM).contains(&bits) {
            return Err(Refusal::of(ErrorCode::KeySizeRefused, A::Modulus));
        }
        if self.attributes.octets(A::PublicExponent).is_none() {
            return Err(Refusal::of(ErrorCode::TemplateIncomplete, A::PublicExponent));
        }
        if self.class != ObjectClass::PublicKey {
            return Ok(());
        }
        match self.attributes.insert(A::ModulusBits, AttributeValue::Number(bits)) {
            Some(asked) if asked != AttributeValue::Number(bits) => {
                Err(Refusal::of(ErrorCode::TemplateInconsistent, A::ModulusBits))
            }
            _ => Ok(()),
        }
    }

    fn check_on_curve(&self) -> Result<(), Refusal> {
        let required: &[A] =
            if self.class == ObjectClass::PublicKey { &[A::EcParams, A::EcPoint] } else { &[A::EcParams] };
        for &kind in required {
            if self.attributes.octets(kind).is_none() {
                return Err(Refusal::of(ErrorCode::TemplateIncomplete, kind));
            }
        }
        if self.fips { refuse_unapproved(self.key_type(), self.attributes.octets(A::EcParams)) } else { Ok(()) }
    }

    fn check_secret(&self, key_type: KeyType) -> Result<(), Refusal> {
        let length = self.attributes.number(A::ValueLen);
        let length = length.ok_or(Refusal::of(ErrorCode::TemplateIncomplete, A::ValueLen))?;
        let empty = length == 0 && key_type != KeyType::Aes;
        if empty || (check_length(key_type, length).is_ok() && length <= SECRET_KEY_BYTES) {
            Ok(())
        } else {
            Err(Refusal::of(ErrorCode::KeySizeRefused, A::ValueLen))
        }
    }
}

/// What the making of material can bring to light.
fn is_fact(kind: A) -> bool {
    matches!(
        kind,
        A::Modulus
            | A::ModulusBits
            | A::PublicExponent
            | A::PublicKeyInfo
            | A::EcParams
            | A::EcPoint
            | A::ValueLen
            | A::CheckValue
            | A::Value
    )
}
