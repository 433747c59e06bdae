//! The attributes of a new object, whichever way it comes into being (PKCS#11 3.2 §4.1.1, rules for creating objects).
//!
//! The same steps for all ways: each attribute of the template must be one that the object has and that the caller may
//! give in this way; what is left open gets its default; what only the HSM knows is computed.

use hsm_protocol::attribute::AttributeValue;
use hsm_protocol::{AttributeKind as A, ErrorCode, KeyType, MechanismKind, ObjectClass, Template};

use crate::curve::{self, Curve};
use crate::policy::{defaults, schema, sight, values};
use crate::records::Caller;
use crate::refusal::Refusal;
use crate::request::Draft;

/// How an object comes into being.
#[derive(Clone, Copy)]
pub(crate) enum Birth {
    /// `C_GenerateKey`, `C_GenerateKeyPair`.
    Generated(MechanismKind),
    /// `C_CreateObject`.
    Imported,
    /// `C_UnwrapKey`.
    Unwrapped,
    /// `C_DeriveKey`, with what the base keys always were.
    Derived { always_sensitive: bool, never_extractable: bool },
}

/// What is to be made.
pub(crate) struct Plan<'a> {
    pub(crate) caller: Caller,
    pub(crate) class: ObjectClass,
    pub(crate) key_type: Option<KeyType>,
    pub(crate) birth: Birth,
    pub(crate) template: &'a Template,
    pub(crate) fips: bool,
}

/// `CK_UNAVAILABLE_INFORMATION`: `CKA_KEY_GEN_MECHANISM` of a key that was not generated here.
pub(crate) const UNAVAILABLE: u64 = u64::MAX;

impl Plan<'_> {
    /// Settles the attributes.
    ///
    /// # Errors
    /// What is wrong with the template, or that the caller may not make such an object.
    pub(crate) fn settle(&self) -> Result<Draft, Refusal> {
        let mut attributes = self.given()?;
        defaults::fill(&mut attributes, self.class, self.key_type);
        attributes.insert(A::Class, AttributeValue::Number(self.class as u64));
        if let Some(key_type) = self.key_type {
            attributes.insert(A::KeyType, AttributeValue::Number(key_type as u64));
            self.compute(&mut attributes);
        }
        self.check_whole(&attributes)?;
        sight::require_maker(self.caller, self.class, &attributes)?;
        let has_payload = match self.class {
            ObjectClass::PrivateKey | ObjectClass::SecretKey => true,
            ObjectClass::PublicKey | ObjectClass::Certificate => false,
            ObjectClass::Data => attributes.is(A::Private) && self.data_has_value(),
        };
        if has_payload && self.class == ObjectClass::Data {
            attributes.remove(A::Value);
        }
        let owner = self.caller.user;
        Ok(Draft { owner, class: self.class, attributes, has_payload, is_copy: false, fips: self.fips })
    }

    fn data_has_value(&self) -> bool {
        let derived = matches!(self.birth, Birth::Derived { .. });
        derived || self.template.octets(A::Value).is_some_and(|value| !value.is_empty())
    }

    /// The attributes that the template gives, without material.
    fn given(&self) -> Result<Template, Refusal> {
        let mut given = Template::new();
        for (kind, value) in self.template.iter() {
            let refuse = |code| Err(Refusal::of(code, kind));
            if !schema::applies(kind, self.class, self.key_type) {
                return refuse(ErrorCode::AttributeUnknown);
            }
            if schema::is_computed(kind) {
                return refuse(ErrorCode::AttributeReadOnly);
            }
            match self.place(kind, value) {
                Place::Attribute => {
                    given.insert(kind, self.canonical(kind, value)?);
                }
                Place::Material => {}
                Place::Refused(code) => return refuse(code),
            }
        }
        Ok(given)
    }

    fn canonical(&self, kind: A, value: &AttributeValue) -> Result<AttributeValue, Refusal> {
        match (kind, self.key_type, value) {
            (A::EcParams, Some(key_type), AttributeValue::Octets(params)) => {
                Ok(AttributeValue::Octets(curve::canonical_params(key_type, params)?.to_vec()))
            }
            _ => values::canonical(kind, value),
        }
    }

    /// Where an attribute of the template belongs: to the attributes (where a fact may later have to agree with it), to
    /// the material, or nowhere.
    fn place(&self, kind: A, value: &AttributeValue) -> Place {
        let imported = matches!(self.birth, Birth::Imported);
        let generated = matches!(self.birth, Birth::Generated(_));
        let public = self.class == ObjectClass::PublicKey;
        let is_empty = value.as_octets().is_some_and(<[u8]>::is_empty);
        match kind {
            A::Trusted if *value == AttributeValue::Flag(true) => Place::Refused(ErrorCode::AttributeReadOnly),
            // The value of data and certificates is metadata; that of private data is taken out in the end.
            A::Value if !self.class.is_key() && imported => Place::Attribute,
            A::Value | A::Modulus | A::PrivateExponent | A::Prime1 | A::Prime2 | A::EcPoint if imported => {
                Place::Material
            }
            A::Exponent1 | A::Exponent2 | A::Coefficient | A::PublicExponent | A::EcParams if imported => {
                Place::Material
            }
            A::PublicExponent | A::ModulusBits if generated && public => Place::Attribute,
            A::ModulusBits if imported => Place::Attribute,
            A::EcParams => Place::Attribute,
            A::Value | A::Modulus | A::PrivateExponent | A::Prime1 | A::Prime2 | A::EcPoint => Place::MISPLACED,
            A::Exponent1 | A::Exponent2 | A::Coefficient | A::PublicExponent | A::ModulusBits => Place::MISPLACED,
            // Empty: the caller wants none (PKCS#11 3.2 §4.10.2). Of random material nobody knows it before.
            A::CheckValue if generated && !is_empty => Place::Refused(ErrorCode::AttributeReadOnly),
            A::PublicKeyInfo if is_empty => Place::Material,
            A::PublicKeyInfo if generated => Place::MISPLACED,
            _ => Place::Attribute,
        }
    }

    fn compute(&self, attributes: &mut Template) {
        let (local, mechanism) = match self.birth {
            Birth::Generated(mechanism) => (true, mechanism.0),
            _ => (false, UNAVAILABLE),
        };
        attributes.insert(A::Local, AttributeValue::Flag(local));
        attributes.insert(A::KeyGenMechanism, AttributeValue::Number(mechanism));
        if self.class == ObjectClass::PublicKey {
            return;
        }
        let (was_sensitive, was_kept) = match self.birth {
            Birth::Generated(_) => (true, true),
            Birth::Imported | Birth::Unwrapped => (false, false),
            Birth::Derived { always_sensitive, never_extractable } => (always_sensitive, never_extractable),
        };
        let always_sensitive = was_sensitive && attributes.is(A::Sensitive);
        let never_extractable = was_kept && !attributes.is(A::Extractable);
        attributes.insert(A::AlwaysSensitive, AttributeValue::Flag(always_sensitive));
        attributes.insert(A::NeverExtractable, AttributeValue::Flag(never_extractable));
    }

    /// What must hold between attributes.
    fn check_whole(&self, attributes: &Template) -> Result<(), Refusal> {
        let inconsistent = |kind| Err(Refusal::of(ErrorCode::TemplateInconsistent, kind));
        // PKCS#11 3.2 §4.9: it can be true only when CKA_PRIVATE is.
        if attributes.is(A::AlwaysAuthenticate) && !attributes.is(A::Private) {
            return inconsistent(A::AlwaysAuthenticate);
        }
        if self.fips {
            refuse_unapproved(self.key_type, attributes.octets(A::EcParams))?;
        }
        values::check_dates(attributes.octets(A::StartDate), attributes.octets(A::EndDate))?;
        values::check_size(attributes)
    }
}

/// Where an attribute of a template belongs.
enum Place {
    Attribute,
    Material,
    Refused(ErrorCode),
}

impl Place {
    /// Material where none may be given.
    const MISPLACED: Self = Self::Refused(ErrorCode::TemplateInconsistent);
}

/// Refuses keys that nothing can be done with in mode FIPS.
///
/// # Errors
/// [`ErrorCode::FipsRefused`].
pub(crate) fn refuse_unapproved(key_type: Option<KeyType>, params: Option<&[u8]>) -> Result<(), Refusal> {
    let approved = match key_type {
        Some(KeyType::EcEdwards | KeyType::EcMontgomery) => false,
        Some(KeyType::Ec) => params.and_then(|params| Curve::from_params(params).ok()).is_none_or(Curve::is_fips),
        _ => true,
    };
    if approved { Ok(()) } else { Err(Refusal::of(ErrorCode::FipsRefused, A::KeyType)) }
}

/// The class that a template names.
///
/// # Errors
/// [`ErrorCode::TemplateIncomplete`] or [`ErrorCode::AttributeValue`].
pub(crate) fn class_of(template: &Template) -> Result<ObjectClass, Refusal> {
    let number = template.number(A::Class).ok_or(Refusal::of(ErrorCode::TemplateIncomplete, A::Class))?;
    ObjectClass::from_number(number).ok_or(Refusal::of(ErrorCode::AttributeValue, A::Class))
}

/// The key type that a template names, if it names one.
///
/// # Errors
/// [`ErrorCode::AttributeValue`].
pub(crate) fn key_type_in(template: &Template) -> Result<Option<KeyType>, Refusal> {
    let Some(number) = template.number(A::KeyType) else { return Ok(None) };
    let key_type = KeyType::from_number(number).ok_or(Refusal::of(ErrorCode::AttributeValue, A::KeyType))?;
    Ok(Some(key_type))
}

/// Refuses a template whose class, when it names one, is another.
///
/// # Errors
/// [`ErrorCode::TemplateInconsistent`].
pub(crate) fn require_class(template: &Template, class: ObjectClass) -> Result<(), Refusal> {
    match template.number(A::Class) {
        Some(number) if number != class as u64 => Err(Refusal::of(ErrorCode::TemplateInconsistent, A::Class)),
        _ => Ok(()),
    }
}

/// Refuses classes and key types that do not go together.
///
/// # Errors
/// [`ErrorCode::TemplateInconsistent`].
pub(crate) fn require_pairing(class: ObjectClass, key_type: KeyType) -> Result<(), Refusal> {
    let is_secret = key_type == KeyType::Aes || key_type.is_octets();
    let fits = match class {
        ObjectClass::SecretKey => is_secret,
        ObjectClass::PublicKey | ObjectClass::PrivateKey => !is_secret,
        ObjectClass::Data | ObjectClass::Certificate => false,
    };
    if fits { Ok(()) } else { Err(Refusal::of(ErrorCode::TemplateInconsistent, A::KeyType)) }
}
