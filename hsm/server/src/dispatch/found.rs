//! From a reference to the object it names, its parsed key and its secret part.

use std::sync::Arc;
use std::time::Duration;

use hsm_core::{Object, ObjectHandle};
use hsm_crypto::{Key, Payload};
use hsm_protocol::{ErrorCode, ObjectReference, SessionObjectId};

use super::call::{Call, Result};
use super::failure::Failure;
use super::limits::BUSY_RETRY;
use super::session_objects::{Holder, OpenedObject};

/// How often a payload is read again when it and its metadata belong to different versions: a change is just being
/// stored, which takes microseconds.
const READS: u32 = 50;

/// Wait between two such reads.
const READ_PAUSE: Duration = Duration::from_millis(1);

/// An object that exists and that the actor may see.
pub(crate) struct Found {
    pub(crate) object: Arc<Object>,
    place: Place,
}

enum Place {
    Token(ObjectHandle),
    Session(Arc<OpenedObject>),
}

/// The secret part of an object while it is used.
pub(crate) enum Secret {
    /// Opened for this use.
    Opened(Option<Payload>),
    /// Held open for its login.
    Held(Arc<OpenedObject>),
}

impl Secret {
    pub(crate) fn payload(&self) -> Option<&Payload> {
        match self {
            Self::Opened(payload) => payload.as_ref(),
            Self::Held(opened) => opened.payload.as_ref(),
        }
    }
}

impl Found {
    /// Finds what a reference names.
    ///
    /// # Errors
    /// [`ErrorCode::ObjectUnknown`]; [`ErrorCode::SessionObjectUnknown`] when the sealed object must be presented;
    /// [`ErrorCode::SessionObjectRefused`] when what was presented is altered or another login's.
    pub(crate) fn find(call: &Call<'_>, reference: &ObjectReference) -> Result<Self> {
        match reference {
            ObjectReference::Token(handle) => {
                let handle = ObjectHandle(*handle);
                let object = call.service.node().read().object(&call.actor, handle)?;
                Ok(Self { object, place: Place::Token(handle) })
            }
            ObjectReference::Session { id, sealed, version } => {
                let opened = session_object(call, *id, sealed, *version)?;
                Ok(Self { object: Arc::clone(&opened.object), place: Place::Session(opened) })
            }
        }
    }

    /// Its handle, when it is a token object.
    pub(crate) fn handle(&self) -> Option<ObjectHandle> {
        match self.place {
            Place::Token(handle) => Some(handle),
            Place::Session(_) => None,
        }
    }

    /// The object as it is now, for uses that last.
    ///
    /// # Errors
    /// [`ErrorCode::ObjectUnknown`] once it was destroyed or may no longer be seen.
    pub(crate) fn now(&self, call: &Call<'_>) -> Result<Arc<Object>> {
        match &self.place {
            Place::Token(handle) => Ok(call.service.node().read().object(&call.actor, *handle)?),
            Place::Session(opened) => {
                let holder = Holder::of(call.actor, call.connection.link().number());
                let held = call.service.session_objects().get(holder, SessionObjectId(self.object.uid().0))?;
                Ok(Arc::clone(held.as_ref().map_or(&opened.object, |held| &held.object)))
            }
        }
    }

    /// Its parsed key: from the cache, or parsed now.
    pub(crate) fn key(&self, call: &Call<'_>) -> Result<Arc<Key>> {
        let handle = match &self.place {
            Place::Session(opened) => return Ok(opened.key()?),
            Place::Token(handle) => *handle,
        };
        let cache = call.service.key_cache();
        if let Some(key) = cache.get(&self.object) {
            return Ok(key);
        }
        let payload = token_payload(call, handle, &self.object)?;
        let key = Arc::new(Key::load(&self.object, payload.as_ref())?);
        cache.put(&self.object, Arc::clone(&key));
        // Destroyed or changed while it was parsed: the notice may have come before the key was kept.
        let now = call.service.node().read().object(&call.actor, handle);
        if now.is_ok_and(|now| now.version() == self.object.version()) {
            return Ok(key);
        }
        cache.forget(self.object.uid());
        Err(ErrorCode::ObjectChanged.into())
    }

    /// Its secret part.
    pub(crate) fn secret(&self, call: &Call<'_>) -> Result<Secret> {
        match &self.place {
            Place::Session(opened) => Ok(Secret::Held(Arc::clone(opened))),
            Place::Token(handle) => Ok(Secret::Opened(token_payload(call, *handle, &self.object)?)),
        }
    }
}

fn session_object(call: &Call<'_>, id: SessionObjectId, sealed: &[u8], version: u32) -> Result<Arc<OpenedObject>> {
    let holder = Holder::of(call.actor, call.connection.link().number());
    let objects = call.service.session_objects();
    // It may have been changed through another HSM: what is held here is then not the object any more.
    if let Some(opened) = objects.get(holder, id)?.filter(|opened| opened.object.version() >= version) {
        return Ok(opened);
    }
    if sealed.is_empty() {
        return Err(ErrorCode::SessionObjectUnknown.into());
    }
    let (object, payload) = call
        .service
        .keys()
        .open_session_object(call.session().ok(), sealed)
        .map_err(|_| call.unless_behind(ErrorCode::SessionObjectRefused))?;
    if object.uid().0 != id.0 {
        return Err(ErrorCode::SessionObjectRefused.into());
    }
    let opened = Arc::new(OpenedObject::new(object, payload));
    objects.put(holder, Arc::clone(&opened))?;
    Ok(opened)
}

/// Reads and opens the payload that belongs to exactly this version of a token object.
fn token_payload(call: &Call<'_>, handle: ObjectHandle, object: &Object) -> Result<Option<Payload>> {
    if !object.has_payload() {
        return Ok(None);
    }
    let node = call.service.node();
    let mut epoch_is_missing = false;
    for _ in 0..READS {
        let sealed = node.payload(handle).map_err(|fault| {
            tracing::error!(request = call.header.request_id, handle = handle.0, %fault, "a key cannot be read");
            ErrorCode::Broken
        })?;
        epoch_is_missing = sealed.as_ref().is_some_and(|sealed| !call.service.keys().has(sealed.epoch));
        if let Some(sealed) = sealed
            && let Ok(payload) = call.service.keys().open_payload(object, &sealed)
        {
            return Ok(Some(payload));
        }
        // The row is another version's, or gone: the state must say so too, perhaps in a moment.
        let now = node.read().object(&call.actor, handle)?;
        if now.version() != object.version() {
            return Err(ErrorCode::ObjectChanged.into());
        }
        std::thread::sleep(READ_PAUSE);
    }
    if epoch_is_missing {
        tracing::warn!(handle = handle.0, "a key is sealed under an epoch of which this HSM does not have the key yet");
        return Err(Failure::after(ErrorCode::NotReady, u64::from(BUSY_RETRY)));
    }
    tracing::error!(
        request = call.header.request_id,
        handle = handle.0,
        "the sealed part of a key does not belong to its metadata: restore the store from a backup"
    );
    Err(ErrorCode::Broken.into())
}
