//! What never changes of a token object, remembered so that it is asked for once.
//!
//! Class, key type, modulus, curve and the like: enough to tell lengths and to refuse a wrong key without a call. A
//! handle is never used twice, so an entry cannot come to mean another object; all is forgotten at logout and an entry
//! when its object turns out to be gone. Nothing here permits anything: the HSM judges every use.

use std::collections::HashMap;
use std::sync::Arc;

use crate::lock::RwLock;
use cryptoki_sys::CK_OBJECT_HANDLE;
use hsm_protocol::{AttributeKind, AttributeValue, Template};

use crate::limits::REMEMBERED_KEYS;

/// Attributes that an object keeps for life (PKCS#11 3.2 §4, footnotes of the attribute tables).
pub(crate) const UNCHANGING: &[AttributeKind] = &[
    AttributeKind::Class,
    AttributeKind::Token,
    AttributeKind::Private,
    AttributeKind::UniqueId,
    AttributeKind::CertificateType,
    AttributeKind::KeyType,
    AttributeKind::Modulus,
    AttributeKind::ModulusBits,
    AttributeKind::PublicExponent,
    AttributeKind::ValueLen,
    AttributeKind::Local,
    AttributeKind::KeyGenMechanism,
    AttributeKind::EcParams,
    AttributeKind::EcPoint,
    AttributeKind::AlwaysAuthenticate,
];

/// What is known of one object.
#[derive(Clone, Default)]
struct Known {
    attributes: Arc<Template>,
    /// All of [`UNCHANGING`] was asked for: what is missing does not exist.
    complete: bool,
}

/// What is known of the objects of one slot.
#[derive(Default)]
pub(crate) struct Remembered {
    by_handle: RwLock<HashMap<CK_OBJECT_HANDLE, Known>>,
}

impl Remembered {
    /// Everything unchanging of an object, if all of it was asked for before.
    pub(crate) fn whole(&self, handle: CK_OBJECT_HANDLE) -> Option<Arc<Template>> {
        self.by_handle.read().get(&handle).filter(|known| known.complete).map(|known| Arc::clone(&known.attributes))
    }

    /// Whatever is known of an object.
    pub(crate) fn partial(&self, handle: CK_OBJECT_HANDLE) -> Option<Arc<Template>> {
        self.by_handle.read().get(&handle).map(|known| Arc::clone(&known.attributes))
    }

    /// Notes values of an object; those that may change are left out.
    pub(crate) fn learn<'a>(
        &self,
        handle: CK_OBJECT_HANDLE,
        values: impl Iterator<Item = (AttributeKind, &'a AttributeValue)>,
        complete: bool,
    ) {
        let mut by_handle = self.by_handle.write();
        if by_handle.len() >= REMEMBERED_KEYS && !by_handle.contains_key(&handle) {
            by_handle.clear();
        }
        let known = by_handle.entry(handle).or_default();
        let mut attributes = Template::clone(&known.attributes);
        for (kind, value) in values.filter(|(kind, _)| UNCHANGING.contains(kind)) {
            attributes.insert(kind, value.clone());
        }
        *known = Known { attributes: Arc::new(attributes), complete: known.complete || complete };
    }

    pub(crate) fn forget(&self, handle: CK_OBJECT_HANDLE) {
        self.by_handle.write().remove(&handle);
    }

    pub(crate) fn clear(&self) {
        self.by_handle.write().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_never_changes_is_remembered() {
        let remembered = Remembered::default();
        let values = Template::new().with_number(AttributeKind::KeyType, 3).with_octets(AttributeKind::Label, "x");
        remembered.learn(7, values.iter(), false);
        let known = remembered.partial(7).unwrap();
        assert_eq!(known.number(AttributeKind::KeyType), Some(3));
        assert!(known.get(AttributeKind::Label).is_none());
        assert!(remembered.whole(7).is_none());
        remembered.learn(7, Template::new().iter(), true);
        assert!(remembered.whole(7).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let remembered = Remembered::default();
        for handle in 0..REMEMBERED_KEYS as u64 + 1 {
            remembered.learn(handle, Template::new().iter(), true);
        }
        assert_eq!(remembered.by_handle.read().len(), 1);
    }
}
