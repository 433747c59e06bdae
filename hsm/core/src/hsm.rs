//! The whole state machine: what is asked of it, and how commands change it.
//!
//! Asking is a courtesy that refuses early; applying judges again. No clock is read here: where time matters it is an
//! argument, and [`Hsm::check`] is the one ask that looks at a session's expiry.

use std::collections::BTreeMap;
use std::sync::Arc;

use hsm_protocol::{AttributeKind, ErrorCode, Lifecycle, Mechanism, Role, Template, UserName};

use crate::apply;
use crate::change::{Change, Effect, Response, Row};
use crate::cluster::ClusterRecord;
use crate::command::{Command, Origin};
use crate::epoch::EpochRecord;
use crate::ids::{Actor, HsmId, Index, NodeId, ObjectHandle, SessionId, Stamp, UserId};
use crate::isolated::Isolated;
use crate::lingering::Lingering;
use crate::needs;
use crate::object::Object;
use crate::permit::{BeWrapped, KeyUse, Permit, Wrap};
use crate::policy::usage::{self, Use};
use crate::policy::{disclosure, sight};
use crate::records::{Caller, UserRecord};
use crate::refusal::{Broken, Refusal};
use crate::request::{Confirmation, Disclosure, Needs, Request};
use crate::roster::MemberRecord;
use crate::state::State;

/// The in-memory state: metadata of everything, with indexes. Payloads are not here.
#[derive(Default)]
pub struct Hsm {
    pub(crate) state: State,
    /// What only this HSM knows: no part of the state.
    pub(crate) isolated: Isolated,
}

/// What applying one command yields.
#[derive(Clone)]
pub struct Applied {
    /// Rows to store and to absorb, each row at most once, in the order of rows.
    pub changes: Vec<Change>,
    /// What must happen outside, in order. The first is `Respond`, and there is only one.
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
    pub fn load(mut rows: impl Iterator<Item = (Row, Vec<u8>)>) -> Result<Self, Broken> {
        let mut state = State::default();
        rows.try_for_each(|(row, value)| state.absorb(&row, Some(&value)))?;
        state.check_whole()?;
        Ok(Self { state, isolated: Isolated::default() })
    }

    /// Judges a command against this state: total, and the same on every replica. Changes nothing by itself.
    pub fn apply(&self, index: Index, command: &Command) -> Applied {
        apply::apply(&self.state, index, command)
    }

    /// Takes over the changes of an applied command. Every row is the whole new value, so a repetition does no harm.
    ///
    /// # Panics
    /// When a change is not one that [`Hsm::apply`] makes: the node must stop.
    pub fn absorb(&mut self, changes: &[Change]) {
        if let Err(broken) = self.state.absorb_all(changes) {
            panic!("a change that was just made cannot be taken over: {broken}");
        }
    }

    /// Another state takes the place of this one, from a snapshot. What only this HSM knows stays. Gives the state of before,
    /// because its end takes a while with a million keys.
    pub fn replace(&mut self, mut newer: Self) -> Self {
        std::mem::swap(&mut self.state, &mut newer.state);
        newer
    }

    /// SHA-384 over all in-memory rows in their order. Costs time in proportion to the state.
    pub fn state_hash(&self) -> [u8; 48] {
        self.state.hash()
    }

    /// Where the cluster stands; `None` before it was formed.
    pub fn lifecycle(&self) -> Option<Lifecycle> {
        self.state.lifecycle()
    }

    /// What there is one of; `None` before the cluster was formed.
    pub fn cluster(&self) -> Option<&ClusterRecord> {
        self.state.cluster.as_ref()
    }

    /// Whether the cluster is in mode FIPS.
    pub fn is_fips(&self) -> bool {
        self.state.is_fips()
    }

    /// The version of commands in use.
    pub fn version(&self) -> u32 {
        self.state.version()
    }

    /// The version of commands that could be in use: what every member knows, if that is more.
    pub fn possible_version(&self) -> Option<u32> {
        let known = self.state.members.values().map(|member| member.state_version).min()?;
        Some(known).filter(|&known| known > self.state.version())
    }

    /// The members by their node ids.
    pub fn members(&self) -> &BTreeMap<NodeId, MemberRecord> {
        &self.state.members
    }

    /// What HSMs that nobody hears may still act on.
    pub fn lingering(&self) -> Lingering {
        self.state.lingering.clone().unwrap_or_default()
    }

    /// The present epoch of the cluster master key, if it is not the first.
    pub fn epoch_record(&self) -> Option<&EpochRecord> {
        self.state.epochs.get(&self.state.cluster.as_ref()?.epoch)
    }

    /// Whether something may still be sealed under the epoch before the present one: a payload that was not moved, or what
    /// a login session holds that was neither opened nor renewed since. A session that is used is renewed, and its library
    /// gets a token of the present epoch then.
    pub fn is_epoch_before_needed(&self) -> bool {
        self.epoch_record().is_some_and(|record| {
            let old = |begun_at| self.state.sessions.values().any(|session| session.renewed_at <= begun_at);
            !record.is_settled() || old(record.begun_at)
        })
    }

    /// Token objects with a payload that have a handle above `after`, in order, at most `limit`: for moving them to another
    /// epoch.
    pub fn objects_after(&self, after: ObjectHandle, limit: usize) -> Vec<(ObjectHandle, Arc<Object>)> {
        let objects = self.state.objects.between(after, ObjectHandle(u64::MAX));
        objects
            .filter(|(_, object)| object.has_payload())
            .take(limit)
            .map(|(handle, object)| (handle, object.clone()))
            .collect()
    }

    /// The member that this HSM is, and its node id.
    pub fn member(&self, hsm: HsmId) -> Option<(NodeId, &MemberRecord)> {
        self.state.members.iter().find(|(_, member)| member.hsm == hsm).map(|(&node, member)| (node, member))
    }

    /// Whether a rule covers the admission of this HSM, which is new.
    ///
    /// # Errors
    /// [`ErrorCode::AdmissionRefused`], [`ErrorCode::MemberLimit`], [`ErrorCode::LifecycleRefused`].
    pub fn judge_admission(&self, member: &MemberRecord, now: Stamp) -> Result<(), Refusal> {
        let cluster = self.state.cluster.as_ref().filter(|cluster| cluster.lifecycle != Lifecycle::Zeroized);
        let cluster = cluster.ok_or(ErrorCode::LifecycleRefused)?;
        apply::judge_admission(&self.state, &cluster.policy, member, now)
    }

    /// How many token objects there are.
    pub fn object_count(&self) -> u64 {
        self.state.objects.len()
    }

    /// How many login sessions there are.
    pub fn session_count(&self) -> u64 {
        self.state.sessions.len() as u64
    }

    /// How many users there are, the appliance user included.
    pub fn user_count(&self) -> u64 {
        self.state.users.len() as u64
    }

    /// Whether a session's time is over, so that housekeeping should propose `ExpireSessions`.
    pub fn has_expired_sessions(&self, now: Stamp) -> bool {
        self.state.sessions.values().any(|session| session.expires_at <= now)
    }

    /// All users in the order of their ids.
    pub fn users(&self) -> Vec<UserView> {
        self.state.users.iter().map(|(&user, record)| self.view(user, record)).collect()
    }

    /// The user of that name and role.
    pub fn user(&self, name: &UserName, role: Role) -> Option<UserView> {
        self.state.user_of(name, role).map(|(user, record)| self.view(user, record))
    }

    /// A user by id.
    pub fn user_by_id(&self, user: UserId) -> Option<UserView> {
        self.state.users.get(&user).map(|record| self.view(user, record))
    }

    fn view(&self, user: UserId, record: &UserRecord) -> UserView {
        UserView {
            user,
            name: record.name.clone(),
            role: record.role,
            locked: record.is_locked(),
            enabled: record.enabled,
            created_at: record.created_at,
            keys: self.state.objects.owned_by(user),
            sessions: self.state.sessions_of.get(&user).map_or(0, |sessions| sessions.len() as u64),
        }
    }

    /// A login session, if it stands at that time: not expired, its user enabled and of the same generation.
    ///
    /// # Errors
    /// [`ErrorCode::NotLoggedIn`].
    pub fn session(&self, session: SessionId, now: Stamp) -> Result<SessionView, Refusal> {
        let caller = self.caller_in(session, Some(now))?;
        let known = self.state.sessions.get(&session).map(|record| (record.public_key, record.expires_at));
        let alone = || self.isolated_session(session).map(|record| (record.public_key, record.expires_at));
        let (public_key, expires_at) = known.or_else(alone).ok_or(ErrorCode::NotLoggedIn)?;
        let role = caller.role.ok_or(ErrorCode::NotLoggedIn)?;
        Ok(SessionView { actor: Actor::Session { session, user: caller.user, role }, public_key, expires_at })
    }

    /// Whether the actor may still act: asked at every use of anything.
    ///
    /// # Errors
    /// [`ErrorCode::NotLoggedIn`] when the login has ended, [`ErrorCode::LifecycleRefused`] when the cluster is not
    /// active.
    pub fn check(&self, actor: &Actor, now: Stamp) -> Result<(), Refusal> {
        self.state.require_active()?;
        self.caller_of(actor, Some(now)).map(|_| ())
    }

    /// Who acts, in a cluster that is in service. The session's expiry is for [`Hsm::check`].
    fn caller(&self, actor: &Actor) -> Result<Caller, Refusal> {
        self.state.require_active()?;
        self.caller_of(actor, None)
    }

    /// The caller that an actor claims to be, if his session stands.
    fn caller_of(&self, actor: &Actor, now: Option<Stamp>) -> Result<Caller, Refusal> {
        match *actor {
            Actor::Nobody => Ok(Caller::NOBODY),
            Actor::Session { session, user, role } => {
                let caller = self.caller_in(session, now)?;
                let honest = caller.user == user && caller.role == Some(role);
                if honest { Ok(caller) } else { Err(ErrorCode::NotLoggedIn.into()) }
            }
        }
    }

    /// A token object that the actor may see.
    ///
    /// # Errors
    /// [`ErrorCode::ObjectUnknown`], whether it does not exist or may not be seen; [`ErrorCode::NotLoggedIn`].
    pub fn object(&self, actor: &Actor, handle: ObjectHandle) -> Result<Arc<Object>, Refusal> {
        let caller = self.caller(actor)?;
        let object = self.state.objects.get(handle).filter(|object| sight::sees(caller, object));
        object.cloned().ok_or(ErrorCode::ObjectUnknown.into())
    }

    /// Handles above `after` of the token objects that match and may be seen, in order, at most `limit`; and whether
    /// there are more.
    ///
    /// Takes O(log n) and the objects that match what is indexed: label, id, class, key type, subject, and who may see.
    /// A secret attribute matches nothing.
    ///
    /// # Errors
    /// [`ErrorCode::NotLoggedIn`].
    pub fn find(
        &self,
        actor: &Actor,
        template: &Template,
        after: ObjectHandle,
        limit: usize,
    ) -> Result<(Vec<ObjectHandle>, bool), Refusal> {
        let caller = self.caller(actor)?;
        let scopes = sight::scopes(caller, template, self.state.objects.owners());
        let shown = |object: &Object| sight::sees(caller, object);
        Ok(self.state.objects.find(&scopes, template, shown, after, limit))
    }

    /// Whether a session object matches a template, by the rule of [`Hsm::find`].
    pub fn matches(object: &Object, template: &Template) -> bool {
        crate::objects::matches(object, template)
    }

    /// Whether `U` may be done with this key by this mechanism.
    ///
    /// For `U` = Sign, Verify, Encrypt, Decrypt, SignRecover, VerifyRecover, BeDigested. Unwrapping and deriving go
    /// through [`Hsm::needs`], wrapping through [`Hsm::authorize_wrap`].
    ///
    /// # Errors
    /// Any refusal; [`ErrorCode::NotLoggedIn`] also when the key demands a confirmation that was not given (the subject
    /// is then `CKA_ALWAYS_AUTHENTICATE`).
    pub fn authorize<U: KeyUse>(
        &self,
        actor: &Actor,
        object: &Object,
        mechanism: &Mechanism,
        confirmation: Confirmation,
    ) -> Result<Permit<U>, Refusal> {
        // Uses without an operation of their own have their own ways: see `disclose` and `Request::CopyObject`.
        if U::OPERATION.is_empty() || U::FLAG == Some(AttributeKind::Extractable) {
            return Err(ErrorCode::NotSupported.into());
        }
        let caller = self.caller(actor)?;
        Use { caller, object, mechanism, confirmation, fips: self.is_fips() }.permit()
    }

    /// Whether `key` may leave the HSM wrapped by `wrapping`.
    ///
    /// # Errors
    /// Any refusal.
    pub fn authorize_wrap(
        &self,
        actor: &Actor,
        wrapping: &Object,
        key: &Object,
        mechanism: &Mechanism,
    ) -> Result<(Permit<Wrap>, Permit<BeWrapped>), Refusal> {
        let caller = self.caller(actor)?;
        let (object, confirmation) = (wrapping, Confirmation::None);
        usage::wrap(&Use { caller, object, mechanism, confirmation, fips: self.is_fips() }, key)
    }

    /// Whether this digest may be computed. Needs no login.
    ///
    /// # Errors
    /// [`ErrorCode::MechanismInvalid`], [`ErrorCode::MechanismParameters`], [`ErrorCode::FipsRefused`].
    pub fn authorize_digest(&self, mechanism: &Mechanism) -> Result<(), Refusal> {
        usage::digest(mechanism, self.is_fips())
    }

    /// Answers for attributes of an object that the actor may see, one for each kind asked and in that order. What an
    /// empty question means is for the caller: see [`Hsm::readable`].
    pub fn disclose(&self, actor: &Actor, object: &Object, kinds: &[AttributeKind]) -> Vec<Disclosure> {
        let caller = self.caller(actor);
        let one = |&kind: &AttributeKind| match caller {
            Ok(caller) => disclosure::disclose(caller, object, kind, self.is_fips()),
            Err(_) => Disclosure::Absent,
        };
        kinds.iter().map(one).collect()
    }

    /// Every attribute of the object that can be read without its payload.
    pub fn readable(&self, actor: &Actor, object: &Object) -> Template {
        let answers = self.disclose(actor, object, AttributeKind::ALL);
        let values = AttributeKind::ALL.iter().zip(answers);
        let values = values.filter_map(|(&kind, answer)| match answer {
            Disclosure::Value(value) => Some((kind, value)),
            Disclosure::Sensitive | Disclosure::Absent | Disclosure::FromPayload(..) => None,
        });
        values.collect()
    }

    /// The answer that a repeated call gets without being executed: its first result, or why there is none any more. Asked
    /// before anything is made for a call, because a repetition would be refused for what its first execution did.
    /// `None` = the call is new.
    pub fn first_answer(&self, origin: &Origin) -> Option<Result<Response, Refusal>> {
        apply::first_answer(&self.state, origin)
    }

    /// Judges a request early, and says what must be made for it.
    ///
    /// # Errors
    /// Any refusal.
    pub fn needs(&self, actor: &Actor, request: Request<'_>) -> Result<Needs, Refusal> {
        let caller = self.caller(actor)?;
        needs::needs(&self.state, caller, request)
    }
}
