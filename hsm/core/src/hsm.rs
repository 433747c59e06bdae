//! The whole state machine: what is asked of it, and how commands change it.

use std::sync::Arc;

use hsm_protocol::{AttributeKind, ErrorCode, Lifecycle, Mechanism, Role, Template, UserName};

use crate::change::{Change, Effect, Row};
use crate::cluster::ClusterRecord;
use crate::command::Command;
use crate::ids::{Actor, Index, ObjectHandle, SessionId, Stamp, UserId};
use crate::object::Object;
use crate::permit::{BeWrapped, KeyUse, Permit, Wrap};
use crate::refusal::{Broken, Refusal};
use crate::request::{Confirmation, Disclosure, Needs, Request};

/// The in-memory state: metadata of everything, with indexes. Payloads are not here.
#[derive(Default)]
pub struct Hsm {}

/// What applying one command yields.
#[derive(Clone)]
pub struct Applied {
    /// Rows to store and to absorb, each row at most once, in the order of rows.
    pub changes: Vec<Change>,
    /// What must happen outside, in order. Exactly one is `Respond`.
    pub effects: Vec<Effect>,
}

/// A login session that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Who acts in it.
    pub actor: Actor,
    /// Ed25519 public key of the library that logged in.
    pub public_key: [u8; 32],
    /// Until when it stands without renewal.
    pub expires_at: Stamp,
}

/// A user as lists show him.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserView {
    /// His id.
    pub user: UserId,
    /// His name in lower case.
    pub name: UserName,
    /// His role.
    pub role: Role,
    /// Too many wrong passwords.
    pub locked: bool,
    /// Not disabled by an admin.
    pub enabled: bool,
    /// Time of the command that made him.
    pub created_at: Stamp,
    /// Token objects that he owns.
    pub keys: u64,
    /// Login sessions, expired ones that were not yet removed included.
    pub sessions: u64,
}

impl Hsm {
    /// The state before the first command.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The state that rows describe: after a restart, or from a snapshot. Rows that are not kept in memory are skipped.
    ///
    /// # Errors
    /// A row that this program cannot have written.
    pub fn load(_rows: impl Iterator<Item = (Row, Vec<u8>)>) -> Result<Self, Broken> {
        Ok(Self::default())
    }

    /// Judges a command against this state: total, and the same on every replica. Changes nothing by itself.
    pub fn apply(&self, _index: Index, _command: &Command) -> Applied {
        Applied { changes: Vec::new(), effects: vec![Effect::Respond(Err(ErrorCode::NotSupported.into()))] }
    }

    /// Takes over the changes of an applied command. Every row is the whole new value, so a repetition does no harm.
    ///
    /// # Panics
    /// When a change is not one that [`Hsm::apply`] makes: the node must stop.
    pub fn absorb(&mut self, _changes: &[Change]) {}

    /// SHA-384 over all in-memory rows in their order. Costs time in proportion to the state.
    pub fn state_hash(&self) -> [u8; 48] {
        [0; 48]
    }

    /// Where the cluster stands; `None` before it was formed.
    pub fn lifecycle(&self) -> Option<Lifecycle> {
        None
    }

    /// What there is one of; `None` before the cluster was formed.
    pub fn cluster(&self) -> Option<&ClusterRecord> {
        None
    }

    /// Whether the cluster is in mode FIPS.
    pub fn is_fips(&self) -> bool {
        false
    }

    /// How many token objects there are.
    pub fn object_count(&self) -> u64 {
        0
    }

    /// How many login sessions there are.
    pub fn session_count(&self) -> u64 {
        0
    }

    /// How many users there are.
    pub fn user_count(&self) -> u64 {
        0
    }

    /// All users in the order of their ids.
    pub fn users(&self) -> Vec<UserView> {
        Vec::new()
    }

    /// The user of that name and role.
    pub fn user(&self, _name: &UserName, _role: Role) -> Option<UserView> {
        None
    }

    /// A user by id.
    pub fn user_by_id(&self, _user: UserId) -> Option<UserView> {
        None
    }

    /// A login session, if it stands at that time: not expired, its user enabled and of the same generation.
    ///
    /// # Errors
    /// [`ErrorCode::NotLoggedIn`].
    pub fn session(&self, _session: SessionId, _now: Stamp) -> Result<SessionView, Refusal> {
        Err(ErrorCode::NotLoggedIn.into())
    }

    /// Whether the actor may still act: asked at every use of anything.
    ///
    /// # Errors
    /// [`ErrorCode::NotLoggedIn`] when the login has ended, [`ErrorCode::LifecycleRefused`] when the cluster is not
    /// active.
    pub fn check(&self, _actor: &Actor, _now: Stamp) -> Result<(), Refusal> {
        Err(ErrorCode::NotLoggedIn.into())
    }

    /// A token object that the actor may see.
    ///
    /// # Errors
    /// [`ErrorCode::ObjectUnknown`], whether it does not exist or may not be seen.
    pub fn object(&self, _actor: &Actor, _handle: ObjectHandle) -> Result<Arc<Object>, Refusal> {
        Err(ErrorCode::ObjectUnknown.into())
    }

    /// Handles above `after` of the token objects that match and may be seen, in order, at most `limit`; and whether
    /// there are more.
    ///
    /// # Errors
    /// [`ErrorCode::NotLoggedIn`].
    pub fn find(
        &self,
        _actor: &Actor,
        _template: &Template,
        _after: ObjectHandle,
        _limit: usize,
    ) -> Result<(Vec<ObjectHandle>, bool), Refusal> {
        Ok((Vec::new(), false))
    }

    /// Whether `U` may be done with this key by this mechanism.
    ///
    /// For `U` = Sign, Verify, Encrypt, Decrypt, SignRecover, VerifyRecover, BeDigested. Unwrapping and deriving go
    /// through [`Hsm::needs`], wrapping through [`Hsm::authorize_wrap`].
    ///
    /// # Errors
    /// Any refusal; [`ErrorCode::NotLoggedIn`] also when the key demands a confirmation that was not given.
    pub fn authorize<U: KeyUse>(
        &self,
        _actor: &Actor,
        _object: &Object,
        _mechanism: &Mechanism,
        _confirmation: Confirmation,
    ) -> Result<Permit<U>, Refusal> {
        Err(ErrorCode::NotSupported.into())
    }

    /// Whether `key` may leave the HSM wrapped by `wrapping`.
    ///
    /// # Errors
    /// Any refusal.
    pub fn authorize_wrap(
        &self,
        _actor: &Actor,
        _wrapping: &Object,
        _key: &Object,
        _mechanism: &Mechanism,
    ) -> Result<(Permit<Wrap>, Permit<BeWrapped>), Refusal> {
        Err(ErrorCode::NotSupported.into())
    }

    /// Whether this digest may be computed. Needs no login.
    ///
    /// # Errors
    /// [`ErrorCode::MechanismInvalid`], [`ErrorCode::MechanismParameters`], [`ErrorCode::FipsRefused`].
    pub fn authorize_digest(&self, _mechanism: &Mechanism) -> Result<(), Refusal> {
        Err(ErrorCode::NotSupported.into())
    }

    /// Answers for attributes of an object that the actor may see, one for each kind asked and in that order. What an
    /// empty question means is for the caller: see [`Hsm::readable`].
    pub fn disclose(&self, _actor: &Actor, _object: &Object, _kinds: &[AttributeKind]) -> Vec<Disclosure> {
        Vec::new()
    }

    /// Every attribute of the object that can be read without its payload.
    pub fn readable(&self, _actor: &Actor, _object: &Object) -> Template {
        Template::new()
    }

    /// Judges a request early, and says what must be made for it.
    ///
    /// # Errors
    /// Any refusal.
    pub fn needs(&self, _actor: &Actor, _request: Request<'_>) -> Result<Needs, Refusal> {
        Err(ErrorCode::NotSupported.into())
    }
}
