//! Session objects that this HSM holds opened, per login. The library has each one sealed and presents it again when it
//! is not here, so nothing is lost by forgetting; what was destroyed or replaced here is remembered, so that its old
//! sealed form is refused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hsm_core::{Actor, Object, SessionId};
use hsm_crypto::{Key, Payload};
use hsm_protocol::{ErrorCode, SessionObjectId};
use parking_lot::Mutex;

use super::limits::{DESTROYED_SESSION_OBJECTS, SESSION_OBJECTS, SESSION_OBJECTS_IN_ALL};

const SHARDS: usize = 16;

/// Whose objects they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    /// A login, on whatever connections.
    Login(SessionId),
    /// A connection without login, by its number.
    Connection(u64),
}

impl Holder {
    /// Who holds what this actor makes on that connection.
    pub(crate) fn of(actor: Actor, connection: u64) -> Self {
        match actor {
            Actor::Session { session, .. } => Self::Login(session),
            Actor::Nobody => Self::Connection(connection),
        }
    }
}

/// An opened session object.
pub(crate) struct OpenedObject {
    pub(crate) object: Arc<Object>,
    pub(crate) payload: Option<Payload>,
    key: std::sync::OnceLock<Arc<Key>>,
}

impl OpenedObject {
    pub(crate) fn new(object: Object, payload: Option<Payload>) -> Self {
        Self { object: Arc::new(object), payload, key: std::sync::OnceLock::new() }
    }

    /// Its parsed key, parsed at first use.
    ///
    /// # Errors
    /// When the material is no usable key.
    pub(crate) fn key(&self) -> Result<Arc<Key>, hsm_crypto::CryptoFault> {
        if let Some(key) = self.key.get() {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(Key::load(&self.object, self.payload.as_ref())?);
        Ok(Arc::clone(self.key.get_or_init(|| key)))
    }
}

/// All of them.
#[derive(Default)]
pub(crate) struct SessionObjects {
    shards: [Mutex<BTreeMap<Holder, Held>>; SHARDS],
    count: AtomicUsize,
}

#[derive(Default)]
struct Held {
    objects: BTreeMap<SessionObjectId, Arc<OpenedObject>>,
    /// In the order of their arrival, oldest first; ids that are gone from `objects` are skipped.
    arrivals: VecDeque<SessionObjectId>,
    destroyed: BTreeSet<SessionObjectId>,
    destroyed_order: VecDeque<SessionObjectId>,
    /// Lowest version that is still the object, for those that were changed here.
    versions: BTreeMap<SessionObjectId, u32>,
}

impl SessionObjects {
    /// The opened object; `Ok(None)` = not here, open the sealed one.
    ///
    /// # Errors
    /// [`ErrorCode::ObjectUnknown`] when it was destroyed.
    pub(crate) fn get(&self, holder: Holder, id: SessionObjectId) -> Result<Option<Arc<OpenedObject>>, ErrorCode> {
        let shard = self.shard(holder).lock();
        let Some(held) = shard.get(&holder) else { return Ok(None) };
        if held.destroyed.contains(&id) {
            return Err(ErrorCode::ObjectUnknown);
        }
        Ok(held.objects.get(&id).map(Arc::clone))
    }

    /// Keeps an opened object.
    ///
    /// # Errors
    /// [`ErrorCode::SessionObjectRefused`] when a later version of it is known, [`ErrorCode::ObjectUnknown`] when it was
    /// destroyed meanwhile.
    pub(crate) fn put(&self, holder: Holder, opened: Arc<OpenedObject>) -> Result<(), ErrorCode> {
        let id = SessionObjectId(opened.object.uid().0);
        let version = opened.object.version();
        let mut shard = self.shard(holder).lock();
        let held = shard.entry(holder).or_default();
        if held.destroyed.contains(&id) {
            return Err(ErrorCode::ObjectUnknown);
        }
        if held.versions.get(&id).is_some_and(|&known| version < known) {
            return Err(ErrorCode::SessionObjectRefused);
        }
        if version > Object::FIRST_VERSION && held.versions.len() < DESTROYED_SESSION_OBJECTS {
            held.versions.insert(id, version);
        }
        let in_all = self.count.load(Ordering::Relaxed);
        while held.objects.len() >= SESSION_OBJECTS || (in_all >= SESSION_OBJECTS_IN_ALL && !held.objects.is_empty()) {
            let Some(oldest) = held.arrivals.pop_front() else { break };
            if held.objects.remove(&oldest).is_some() {
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
            if in_all >= SESSION_OBJECTS_IN_ALL {
                break;
            }
        }
        if in_all >= SESSION_OBJECTS_IN_ALL && held.objects.is_empty() {
            // Others fill the memory: this one is used once and presented again.
            return Ok(());
        }
        if held.objects.insert(id, opened).is_none() {
            held.arrivals.push_back(id);
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Destroys an object for ever, as far as this HSM goes.
    pub(crate) fn destroy(&self, holder: Holder, id: SessionObjectId) {
        let mut shard = self.shard(holder).lock();
        let held = shard.entry(holder).or_default();
        if held.objects.remove(&id).is_some() {
            self.count.fetch_sub(1, Ordering::Relaxed);
            held.arrivals.retain(|&known| known != id);
        }
        held.versions.remove(&id);
        if held.destroyed.insert(id) {
            held.destroyed_order.push_back(id);
        }
        if held.destroyed.len() > DESTROYED_SESSION_OBJECTS
            && let Some(oldest) = held.destroyed_order.pop_front()
        {
            held.destroyed.remove(&oldest);
        }
    }

    /// Drops what a login held.
    pub(crate) fn forget_session(&self, session: SessionId) {
        self.forget(Holder::Login(session));
    }

    /// Drops what a connection without login held.
    pub(crate) fn forget_connection(&self, connection: u64) {
        self.forget(Holder::Connection(connection));
    }

    /// Drops everything.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let whole = std::mem::take(&mut *shard.lock());
            self.count.fetch_sub(whole.values().map(|held| held.objects.len()).sum(), Ordering::Relaxed);
        }
    }

    fn forget(&self, holder: Holder) {
        let held = self.shard(holder).lock().remove(&holder);
        if let Some(held) = held {
            self.count.fetch_sub(held.objects.len(), Ordering::Relaxed);
        }
    }

    fn shard(&self, holder: Holder) -> &Mutex<BTreeMap<Holder, Held>> {
        let number = match holder {
            Holder::Login(session) => usize::from(session.0[0]),
            Holder::Connection(number) => usize::try_from(number % SHARDS as u64).unwrap_or(0),
        };
        &self.shards[number % SHARDS]
    }
}
