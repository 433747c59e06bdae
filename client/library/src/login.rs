//! A login: what proves on any connection, to any HSM, that its user's password was right.
//!
//! The library makes a key pair for each login; the HSMs give a token for its public half. On each connection the
//! private half signs a statement that names the connection, so that a stolen token is of no use. A login also numbers
//! its changes, so that a repeated one is done once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use hsm_protocol::session::{BINDING_BYTES, attach_statement};
use hsm_protocol::{Role, wire};

use crate::connection::HsmId;
use crate::fork::ForkGuard;
use crate::held::HeldObjects;

/// A login session. Clones are the same session. It is not ended by dropping it: see [`crate::Cluster::log_out`].
///
/// Holds the session's key pair and token, so it has no `Debug`.
#[derive(Clone)]
pub struct Login {
    inner: Arc<LoginInner>,
}

struct LoginInner {
    number: u64,
    name: String,
    role: Role,
    key: Ed25519KeyPair,
    /// The newest that an HSM gave: a new epoch of the cluster's keys brings another one.
    token: Mutex<Vec<u8>>,
    session: Vec<u8>,
    /// The HSM that alone knows the session, as long as `is_alone`.
    home: Option<HsmId>,
    is_alone: AtomicBool,
    sequences: Mutex<Sequences>,
    guard: Arc<ForkGuard>,
    /// What goes over to a new epoch with the token.
    held: OnceLock<Weak<dyn HeldObjects>>,
}

struct Sequences {
    next: u64,
    unanswered: BTreeSet<u64>,
}

/// Tells logins of one process apart.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl Login {
    /// The user's name in lower case.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The role it was opened in.
    pub fn role(&self) -> Role {
        self.inner.role
    }

    /// Name of the session in the cluster's state and audit log; no secret.
    pub fn session(&self) -> &[u8] {
        &self.inner.session
    }

    pub(crate) fn new(
        name: String,
        role: Role,
        key: Ed25519KeyPair,
        reply: wire::LoginReply,
        guard: Arc<ForkGuard>,
    ) -> Self {
        let inner = LoginInner {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            name,
            role,
            key,
            token: Mutex::new(reply.token),
            home: HsmId::try_from(reply.isolated_at.as_slice()).ok(),
            is_alone: AtomicBool::new(!reply.isolated_at.is_empty()),
            session: reply.session,
            sequences: Mutex::new(Sequences { next: 1, unanswered: BTreeSet::new() }),
            guard,
            held: OnceLock::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Says who holds the session objects of this login, so that they go over to a new epoch of the cluster's keys with
    /// it. Once; whoever comes later is not heard.
    pub fn holds(&self, objects: Weak<dyn HeldObjects>) {
        drop(self.inner.held.set(objects));
    }

    /// The session objects that belong to it now.
    pub(crate) fn held(&self) -> Option<Arc<dyn HeldObjects>> {
        self.inner.held.get().and_then(Weak::upgrade)
    }

    pub(crate) fn number(&self) -> u64 {
        self.inner.number
    }

    /// The HSM that alone knows this login, because it was isolated; `None` when every HSM does.
    pub(crate) fn home(&self) -> Option<HsmId> {
        self.inner.home.filter(|_| self.inner.is_alone.load(Ordering::Relaxed))
    }

    /// An HSM says that the cluster knows it.
    pub(crate) fn note_merged(&self) {
        self.inner.is_alone.store(false, Ordering::Relaxed);
    }

    /// The message that attaches this login to the connection with that binding.
    pub(crate) fn attach(&self, binding: &[u8; BINDING_BYTES]) -> wire::Attach {
        let token = self.inner.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let statement = attach_statement(binding, &token);
        let holds_objects = self.held().is_some_and(|held| held.is_any());
        wire::Attach { token, proof: self.inner.key.sign(&statement).as_ref().to_vec(), holds_objects }
    }

    /// What an HSM gave in exchange for the token that it was shown; empty when that one is good.
    pub(crate) fn exchange_token(&self, given: &[u8]) {
        if !given.is_empty() {
            given.clone_into(&mut self.inner.token.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// A number for a change, unanswered until the value is dropped.
    pub(crate) fn new_sequence(&self) -> Sequence<'_> {
        let mut sequences = self.inner.sequences.lock().unwrap_or_else(PoisonError::into_inner);
        let number = sequences.next;
        sequences.next += 1;
        sequences.unanswered.insert(number);
        Sequence { login: self, number }
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        if self.inner.guard.is_child() {
            // Another thread of the parent may have been in the midst of it: leaked, not freed.
            std::mem::forget(Arc::clone(&self.inner));
        }
    }
}

/// The number of one change.
pub(crate) struct Sequence<'a> {
    login: &'a Login,
    number: u64,
}

impl Sequence<'_> {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Every number below this one is answered, or given up.
    pub(crate) fn lowest_unanswered(&self) -> u64 {
        let sequences = self.login.inner.sequences.lock().unwrap_or_else(PoisonError::into_inner);
        sequences.unanswered.first().copied().unwrap_or(sequences.next)
    }
}

impl Drop for Sequence<'_> {
    /// Answered, or never to be asked again: either way the cluster may forget its result.
    fn drop(&mut self) {
        self.login.inner.sequences.lock().unwrap_or_else(PoisonError::into_inner).unanswered.remove(&self.number);
    }
}

/// A new key pair for a login, and its public half.
pub(crate) fn new_session_key() -> Option<(Ed25519KeyPair, Vec<u8>)> {
    let key = Ed25519KeyPair::generate().ok()?;
    let public = key.public_key().as_ref().to_vec();
    Some((key, public))
}
