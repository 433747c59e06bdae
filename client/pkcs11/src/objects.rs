//! Objects as calls name them, and the session objects that this process holds.
//!
//! A token object is the HSM's number. A session object lives here: its attributes for searches, and the object itself
//! as the HSM sealed it, which goes along when an HSM does not hold it. Its handle is this process's, never used twice,
//! and dies with the PKCS#11 session that made it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::lock::RwLock;
use cryptoki_sys::{CK_OBJECT_HANDLE, CKR_SESSION_CLOSED};
use hsm_client::{HeldObject, HeldObjects, With};
use hsm_protocol::{AttributeKind, ObjectReference, SessionObjectId, Template, convert, wire};

use crate::device::wrong_answer;
use crate::return_value::{Outcome, refuse};
use crate::session::Session;

/// Set in the handles of session objects; the HSM's own numbers stay far below it.
const SESSION_OBJECT: u64 = 1 << 62;

/// For all slots and all `C_Initialize`s of this process: a handle is never used twice.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// An object that a call names.
#[derive(Clone)]
pub(crate) enum Reference {
    /// By the HSM's number.
    Token(u64),
    /// By what is held here.
    Session(Arc<SessionObject>),
}

impl Reference {
    /// Whether it is stored in the HSM.
    pub(crate) fn is_token(&self) -> bool {
        matches!(self, Self::Token(_))
    }

    /// As the checked types have it.
    pub(crate) fn protocol(&self, with: With) -> ObjectReference {
        match self {
            Self::Token(handle) => ObjectReference::Token(*handle),
            Self::Session(object) => object.reference(with.sealed_objects),
        }
    }

    /// As the HSM reads it.
    pub(crate) fn message(&self, with: With) -> wire::ObjectReference {
        convert::object_message(&self.protocol(with))
    }
}

/// Whether a handle is of a session object.
pub(crate) fn is_session_handle(handle: CK_OBJECT_HANDLE) -> bool {
    handle & SESSION_OBJECT != 0
}

/// A session object.
pub(crate) struct SessionObject {
    handle: CK_OBJECT_HANDLE,
    id: SessionObjectId,
    session: u64,
    held: RwLock<Held>,
}

struct Held {
    sealed: Vec<u8>,
    version: u32,
    attributes: Arc<Template>,
}

impl Held {
    fn new(created: wire::CreatedObject) -> Outcome<(SessionObjectId, Self)> {
        let reference = convert::object(created.reference).map_err(|_| wrong_answer())?;
        let ObjectReference::Session { id, sealed, version } = reference else { return Err(wrong_answer()) };
        let attributes = convert::template(created.attributes.unwrap_or_default()).map_err(|_| wrong_answer())?;
        Ok((id, Self { sealed, version, attributes: Arc::new(attributes) }))
    }
}

impl SessionObject {
    fn reference(&self, sealed: bool) -> ObjectReference {
        let held = self.held.read();
        let sealed = if sealed { held.sealed.clone() } else { Vec::new() };
        ObjectReference::Session { id: self.id, sealed, version: held.version }
    }

    /// What may be read of it.
    pub(crate) fn attributes(&self) -> Arc<Template> {
        Arc::clone(&self.held.read().attributes)
    }

    /// Its handle.
    pub(crate) fn handle(&self) -> CK_OBJECT_HANDLE {
        self.handle
    }

    /// Takes the object as the HSM sealed it anew after a change.
    ///
    /// # Errors
    /// `CKR_DEVICE_ERROR` when the answer holds no session object.
    pub(crate) fn replace(&self, created: wire::CreatedObject) -> Outcome {
        let (id, held) = Held::new(created)?;
        if id != self.id {
            return Err(wrong_answer());
        }
        *self.held.write() = held;
        Ok(())
    }
}

/// The session objects of one slot.
#[derive(Default)]
pub(crate) struct SessionObjects {
    by_handle: RwLock<BTreeMap<CK_OBJECT_HANDLE, Arc<SessionObject>>>,
}

impl SessionObjects {
    /// Takes a new object into the session that made it.
    ///
    /// # Errors
    /// `CKR_SESSION_CLOSED` when that session was closed meanwhile: the object is then gone already.
    pub(crate) fn insert(&self, created: wire::CreatedObject, session: &Session) -> Outcome<CK_OBJECT_HANDLE> {
        let (id, held) = Held::new(created)?;
        let handle = SESSION_OBJECT | NEXT.fetch_add(1, Ordering::Relaxed);
        let object = Arc::new(SessionObject { handle, id, session: session.handle(), held: RwLock::new(held) });
        let mut by_handle = self.by_handle.write();
        // Under the lock that `remove_of_session` takes after the session was marked closed: no object outlives it.
        if session.is_closed() {
            return refuse(CKR_SESSION_CLOSED);
        }
        by_handle.insert(handle, object);
        Ok(handle)
    }

    pub(crate) fn get(&self, handle: CK_OBJECT_HANDLE) -> Option<Arc<SessionObject>> {
        self.by_handle.read().get(&handle).cloned()
    }

    pub(crate) fn remove(&self, handle: CK_OBJECT_HANDLE) {
        self.by_handle.write().remove(&handle);
    }

    /// Takes out what a closed session made.
    pub(crate) fn remove_of_session(&self, session: u64) -> Vec<Arc<SessionObject>> {
        let mut removed = Vec::new();
        self.by_handle.write().retain(|_, object| {
            let stays = object.session != session;
            if !stays {
                removed.push(Arc::clone(object));
            }
            stays
        });
        removed
    }

    /// Forgets all: they are sealed for a login that has ended.
    pub(crate) fn clear(&self) {
        self.by_handle.write().clear();
    }

    /// Handles of the objects that match, in ascending order. Private ones are seen by a logged-in user only.
    pub(crate) fn find(&self, wanted: &Template, logged_in: bool) -> Vec<CK_OBJECT_HANDLE> {
        let by_handle = self.by_handle.read();
        let visible = |object: &SessionObject| {
            let attributes = object.attributes();
            (logged_in || !attributes.is(AttributeKind::Private)) && attributes.matches(wanted)
        };
        by_handle.iter().filter(|(_, object)| visible(object)).map(|(&handle, _)| handle).collect()
    }
}

impl HeldObjects for SessionObjects {
    fn is_any(&self) -> bool {
        !self.by_handle.read().is_empty()
    }

    fn all(&self) -> Vec<HeldObject> {
        let by_handle = self.by_handle.read();
        let held = |object: &Arc<SessionObject>| HeldObject {
            handle: object.handle,
            reference: convert::object_message(&object.reference(true)),
        };
        by_handle.values().map(held).collect()
    }

    fn exchange(&self, old: &HeldObject, sealed: Vec<u8>) {
        let Some(object) = self.get(old.handle) else { return };
        let mut held = object.held.write();
        // It may have been changed meanwhile, and is then sealed anew already.
        if held.sealed == old.reference.sealed {
            held.sealed = sealed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects() -> SessionObjects {
        let held =
            |sealed: &[u8]| RwLock::new(Held { sealed: sealed.to_vec(), version: 1, attributes: Arc::default() });
        let object = |handle| SessionObject { handle, id: SessionObjectId([1; 16]), session: 1, held: held(b"before") };
        let objects = SessionObjects::default();
        for handle in 1..=2 {
            objects.by_handle.write().insert(handle, Arc::new(object(handle)));
        }
        objects
    }

    fn sealed(objects: &SessionObjects, handle: CK_OBJECT_HANDLE) -> Vec<u8> {
        objects.get(handle).unwrap().held.read().sealed.clone()
    }

    #[test]
    fn an_object_that_was_changed_while_it_was_exchanged_stays_as_it_was_changed() {
        let objects = objects();
        assert!(objects.is_any() && !SessionObjects::default().is_any());
        let all = objects.all();
        objects.get(2).unwrap().held.write().sealed = b"changed".to_vec();
        for old in &all {
            objects.exchange(old, b"after".to_vec());
        }
        assert_eq!((sealed(&objects, 1), sealed(&objects, 2)), (b"after".to_vec(), b"changed".to_vec()));
        objects.remove(1);
        objects.exchange(&all[0], b"late".to_vec());
        assert!(objects.get(1).is_none());
    }
}
