//! Objects: what is known of a key, certificate or data object without its secret part.
//!
//! A million of them lie in memory, so the many flags are bits and only the other attributes are values. What an
//! attribute means is for `policy` to say; this file only holds them.

use std::sync::LazyLock;

use hsm_protocol::attribute::{AttributeValue, Shape};
use hsm_protocol::{AttributeKind, KeyType, ObjectClass, Template};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha384};

use crate::ids::{ObjectUid, UserId};

/// An object's metadata: every attribute that is no secret, and who owns it. The secret part is a sealed payload beside
/// it, bound to [`Object::binding`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Object {
    uid: ObjectUid,
    owner: UserId,
    version: u32,
    /// Bit `n` is set when `FLAGS[n]` is present.
    present: u32,
    /// Bit `n` is set when `FLAGS[n]` is true.
    set: u32,
    class: u8,
    key_type: u8,
    has_payload: bool,
    /// The attributes that are no flags, without class and key type, in the order of their numbers.
    values: Box<[(AttributeKind, AttributeValue)]>,
}

impl Object {
    /// Version of a new object.
    pub const FIRST_VERSION: u32 = 1;

    /// An object from its parts. `attributes` must hold no secret: the policy sees to that.
    pub(crate) fn new(uid: ObjectUid, owner: UserId, attributes: &Template, has_payload: bool) -> Self {
        Self::from_parts(uid, Self::FIRST_VERSION, owner, attributes, has_payload)
    }

    /// The next version of this object with other attributes. A value of nothing takes the attribute away.
    pub(crate) fn with_changes(&self, changes: &Template) -> Self {
        let mut attributes = self.template_without_unique_id();
        for (kind, value) in changes.iter() {
            attributes.insert(kind, value.clone());
        }
        let version = self.version.checked_add(1);
        let version = version.unwrap_or_else(|| panic!("an object was changed four thousand million times"));
        Self::from_parts(self.uid, version, self.owner, &attributes, self.has_payload)
    }

    fn from_parts(uid: ObjectUid, version: u32, owner: UserId, attributes: &Template, has_payload: bool) -> Self {
        let code = |kind| attributes.number(kind).and_then(|number| u8::try_from(number).ok());
        let class = code(AttributeKind::Class).unwrap_or(NO_CODE);
        let key_type = code(AttributeKind::KeyType).unwrap_or(NO_CODE);
        let mut object =
            Self { uid, owner, version, present: 0, set: 0, class, key_type, has_payload, values: Box::default() };
        let mut values = Vec::with_capacity(attributes.len());
        for (kind, value) in attributes.iter() {
            match (kind, value) {
                (AttributeKind::Class | AttributeKind::KeyType | AttributeKind::UniqueId, _) => {}
                (_, AttributeValue::Flag(flag)) => object.put_flag(kind, *flag),
                _ if is_nothing(value) => {}
                _ => values.push((kind, compact(value))),
            }
        }
        object.values = values.into_boxed_slice();
        object
    }

    fn put_flag(&mut self, kind: AttributeKind, flag: bool) {
        let bit = flag_bit(kind).unwrap_or_else(|| unreachable!("{kind:?} is a flag without a bit"));
        self.present |= bit;
        if flag {
            self.set |= bit;
        }
    }

    /// Its random name.
    pub fn uid(&self) -> ObjectUid {
        self.uid
    }

    /// `CKA_UNIQUE_ID`: the uid in hexadecimal. Not among [`Object::attribute`]'s values because it is not stored twice.
    pub fn unique_id(&self) -> String {
        self.uid.0.iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// Raised by every change.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Who owns it.
    pub fn owner(&self) -> UserId {
        self.owner
    }

    /// Whether it has a secret part.
    pub fn has_payload(&self) -> bool {
        self.has_payload
    }

    /// The value of an attribute that is no secret, as far as it is stored: see also [`Object::unique_id`]. An attribute
    /// of octets that is absent here is empty.
    pub fn attribute(&self, kind: AttributeKind) -> Option<&AttributeValue> {
        if let Some(bit) = flag_bit(kind) {
            let value = if self.set & bit != 0 { &TRUE } else { &FALSE };
            return (self.present & bit != 0).then_some(value);
        }
        match kind {
            AttributeKind::Class => NUMBERS.get(usize::from(self.class)),
            AttributeKind::KeyType => NUMBERS.get(usize::from(self.key_type)),
            _ => {
                let position = self.values.binary_search_by_key(&kind, |(kind, _)| *kind).ok()?;
                Some(&self.values[position].1)
            }
        }
    }

    /// The octets of an attribute, as far as it is stored.
    pub fn octets(&self, kind: AttributeKind) -> Option<&[u8]> {
        self.attribute(kind).and_then(AttributeValue::as_octets)
    }

    /// The number of an attribute.
    pub fn number(&self, kind: AttributeKind) -> Option<u64> {
        if let Some(AttributeValue::Number(number)) = self.attribute(kind) { Some(*number) } else { None }
    }

    /// Whether a flag is present and true.
    pub fn is(&self, kind: AttributeKind) -> bool {
        flag_bit(kind).is_some_and(|bit| self.set & bit != 0)
    }

    /// All attributes that are no secret and not empty, `CKA_UNIQUE_ID` among them.
    pub fn attributes(&self) -> Template {
        self.template_without_unique_id().with_octets(AttributeKind::UniqueId, self.unique_id())
    }

    fn template_without_unique_id(&self) -> Template {
        let numbers = [AttributeKind::Class, AttributeKind::KeyType].into_iter();
        let kinds = numbers.chain(FLAGS.iter().copied()).chain(self.values.iter().map(|(kind, _)| *kind));
        kinds.filter_map(|kind| Some((kind, self.attribute(kind)?.clone()))).collect()
    }

    /// `CKA_CLASS`.
    pub fn class(&self) -> Option<ObjectClass> {
        ObjectClass::from_number(u64::from(self.class))
    }

    /// `CKA_KEY_TYPE`.
    pub fn key_type(&self) -> Option<KeyType> {
        KeyType::from_number(u64::from(self.key_type))
    }

    /// What the wrap of the data key is bound to: SHA-384 over name, version, owner and every attribute. A payload thus
    /// never opens under attributes that it was not sealed with.
    pub fn binding(&self) -> [u8; 48] {
        let mut hash = Sha384::new();
        hash.update(b"kagimori object 1\0");
        hash.update(postcard::to_stdvec(self).unwrap_or_else(|_| unreachable!("attributes always encode")));
        hash.finalize().into()
    }
}

/// An object as it is written: every attribute under its own number, so that the bits above may change.
#[derive(Serialize, Deserialize)]
struct Stored {
    uid: ObjectUid,
    version: u32,
    owner: UserId,
    attributes: Template,
    has_payload: bool,
}

impl From<Object> for Stored {
    fn from(object: Object) -> Self {
        Self {
            uid: object.uid,
            version: object.version,
            owner: object.owner,
            attributes: object.template_without_unique_id(),
            has_payload: object.has_payload,
        }
    }
}

impl TryFrom<Stored> for Object {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        if stored.attributes.iter().any(|(kind, value)| !value.fits(kind)) {
            return Err("an attribute has a value of another shape");
        }
        let Stored { uid, version, owner, attributes, has_payload } = stored;
        let object = Self::from_parts(uid, version, owner, &attributes, has_payload);
        if object.class().is_none() || object.template_without_unique_id() != attributes {
            return Err("the attributes are not in the form in which they are written");
        }
        Ok(object)
    }
}

/// Marks that there is no class or key type. No `CKO_` or `CKK_` number that is stored is as high.
const NO_CODE: u8 = 0xFF;

static TRUE: AttributeValue = AttributeValue::Flag(true);
static FALSE: AttributeValue = AttributeValue::Flag(false);

/// The numbers that classes and key types have, as values that can be lent out.
static NUMBERS: LazyLock<Vec<AttributeValue>> = LazyLock::new(|| (0..0x80).map(AttributeValue::Number).collect());

/// The flags, by their bits. The order is in memory only.
const FLAGS: [AttributeKind; 22] = [
    AttributeKind::Token,
    AttributeKind::Private,
    AttributeKind::Trusted,
    AttributeKind::Sensitive,
    AttributeKind::Encrypt,
    AttributeKind::Decrypt,
    AttributeKind::Wrap,
    AttributeKind::Unwrap,
    AttributeKind::Sign,
    AttributeKind::SignRecover,
    AttributeKind::Verify,
    AttributeKind::VerifyRecover,
    AttributeKind::Derive,
    AttributeKind::Extractable,
    AttributeKind::Local,
    AttributeKind::NeverExtractable,
    AttributeKind::AlwaysSensitive,
    AttributeKind::Modifiable,
    AttributeKind::Copyable,
    AttributeKind::Destroyable,
    AttributeKind::AlwaysAuthenticate,
    AttributeKind::WrapWithTrusted,
];

fn flag_bit(kind: AttributeKind) -> Option<u32> {
    if kind.shape() != Shape::Flag {
        return None;
    }
    FLAGS.binary_search(&kind).ok().map(|position| 1 << position)
}

/// A value that says as much as no value: no octets, no mechanisms, no template.
fn is_nothing(value: &AttributeValue) -> bool {
    match value {
        AttributeValue::Octets(octets) => octets.is_empty(),
        AttributeValue::Mechanisms(kinds) => kinds.is_empty(),
        AttributeValue::Template(template) => template.is_empty(),
        AttributeValue::Flag(_) | AttributeValue::Number(_) => false,
    }
}

/// A copy without spare capacity.
fn compact(value: &AttributeValue) -> AttributeValue {
    match value {
        AttributeValue::Octets(octets) => AttributeValue::Octets(octets.as_slice().to_vec()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use hsm_protocol::MechanismKind;

    use super::*;

    fn sample() -> Object {
        let attributes = Template::new()
            .with_number(AttributeKind::Class, ObjectClass::SecretKey as u64)
            .with_number(AttributeKind::KeyType, KeyType::Aes as u64)
            .with_octets(AttributeKind::Label, "a")
            .with_octets(AttributeKind::Id, "")
            .with_flag(AttributeKind::Sign, true)
            .with_flag(AttributeKind::Token, false)
            .with_number(AttributeKind::KeyGenMechanism, MechanismKind::AES_KEY_GEN.0);
        Object::new(ObjectUid([0xAB; 16]), UserId(3), &attributes, true)
    }

    #[test]
    fn every_flag_has_a_bit() {
        let flags: Vec<_> = AttributeKind::ALL.iter().filter(|kind| kind.shape() == Shape::Flag).copied().collect();
        assert_eq!(FLAGS.as_slice(), flags);
    }

    #[test]
    fn attributes_come_back_as_they_were_given() {
        let object = sample();
        assert!(object.is(AttributeKind::Sign) && !object.is(AttributeKind::Token) && !object.is(AttributeKind::Wrap));
        assert!(object.attribute(AttributeKind::Token) == Some(&AttributeValue::Flag(false)));
        assert!(object.attribute(AttributeKind::Wrap).is_none());
        assert!(object.attribute(AttributeKind::Class) == Some(&AttributeValue::Number(4)));
        assert_eq!((object.class(), object.key_type()), (Some(ObjectClass::SecretKey), Some(KeyType::Aes)));
        assert_eq!(object.octets(AttributeKind::Label), Some(&b"a"[..]));
        assert_eq!(object.unique_id(), "ab".repeat(16));
        assert_eq!(object.attributes().octets(AttributeKind::UniqueId), Some("ab".repeat(16).as_bytes()));
    }

    #[test]
    fn an_object_is_written_and_read_and_its_binding_stays() {
        let object = sample();
        let written = postcard::to_stdvec(&object).unwrap();
        let read: Object = postcard::from_bytes(&written).unwrap();
        assert!(read == object);
        assert_eq!(read.binding(), object.binding());
    }

    #[test]
    fn every_change_changes_the_binding() {
        let object = sample();
        let changed = object.with_changes(&Template::new().with_octets(AttributeKind::Label, "b"));
        assert_eq!(changed.version(), 2);
        assert_ne!(changed.binding(), object.binding());
        assert_ne!(object.with_changes(&Template::new()).binding(), object.binding());
        let emptied = object.with_changes(&Template::new().with_octets(AttributeKind::Label, ""));
        assert!(emptied.attribute(AttributeKind::Label).is_none());
    }
}
