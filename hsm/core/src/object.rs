//! Objects: what is known of a key, certificate or data object without its secret part.

use hsm_protocol::attribute::AttributeValue;
use hsm_protocol::{AttributeKind, KeyType, ObjectClass, Template};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha384};

use crate::ids::{ObjectUid, UserId};

/// An object's metadata: every attribute that is no secret, and who owns it. The secret part is a sealed payload beside
/// it, bound to [`Object::binding`].
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    uid: ObjectUid,
    version: u32,
    owner: UserId,
    attributes: Template,
    has_payload: bool,
}

impl Object {
    /// Version of a new object.
    pub const FIRST_VERSION: u32 = 1;

    /// An object from its parts. `attributes` must hold no secret: the policy sees to that.
    pub(crate) fn new(uid: ObjectUid, owner: UserId, attributes: Template, has_payload: bool) -> Self {
        Self { uid, version: Self::FIRST_VERSION, owner, attributes, has_payload }
    }

    /// Its random name.
    pub fn uid(&self) -> ObjectUid {
        self.uid
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

    /// The value of an attribute that is no secret.
    pub fn attribute(&self, kind: AttributeKind) -> Option<&AttributeValue> {
        self.attributes.get(kind)
    }

    /// Whether a flag is present and true.
    pub fn is(&self, kind: AttributeKind) -> bool {
        self.attributes.is(kind)
    }

    /// All attributes that are no secret.
    pub fn attributes(&self) -> &Template {
        &self.attributes
    }

    /// `CKA_CLASS`.
    pub fn class(&self) -> Option<ObjectClass> {
        self.attributes.number(AttributeKind::Class).and_then(ObjectClass::from_number)
    }

    /// `CKA_KEY_TYPE`.
    pub fn key_type(&self) -> Option<KeyType> {
        self.attributes.number(AttributeKind::KeyType).and_then(KeyType::from_number)
    }

    /// What the wrap of the data key is bound to: SHA-384 over name, version, owner and every attribute. A payload thus
    /// never opens under attributes that it was not sealed with.
    pub fn binding(&self) -> [u8; 48] {
        let mut hash = Sha384::new();
        hash.update(postcard::to_stdvec(self).unwrap_or_else(|_| unreachable!("attributes always encode")));
        hash.finalize().into()
    }
}
