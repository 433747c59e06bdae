//! What one command has changed so far: reads see it, and at the end it becomes rows and effects.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::audit::{AuditRecord, Event};
use crate::change::{Change, Effect, Response, Row};
use crate::cluster::ClusterRecord;
use crate::command::SealedPayload;
use crate::epoch::EpochRecord;
use crate::hsm::Applied;
use crate::ids::{AttemptId, Epoch, HsmId, Index, NodeId, ObjectHandle, SessionId, Stamp, UserId};
use crate::isolated::Merges;
use crate::lingering::Lingering;
use crate::object::Object;
use crate::records::{AttemptRecord, Caller, Counters, SessionRecord, UnknownName, UserRecord};
use crate::refusal::Refusal;
use crate::roster::MemberRecord;
use crate::rows::{AttemptKey, encode};
use crate::state::State;

/// The work of one command.
pub(crate) struct Work<'a> {
    pub(crate) state: &'a State,
    pub(crate) index: Index,
    pub(crate) stamp: Stamp,
    rows: BTreeMap<Row, Option<Vec<u8>>>,
    users: BTreeMap<UserId, Option<UserRecord>>,
    sessions: BTreeMap<SessionId, Option<SessionRecord>>,
    counters: Option<Counters>,
    cluster: Option<ClusterRecord>,
    effects: Vec<Effect>,
    closed: Vec<SessionId>,
}

impl<'a> Work<'a> {
    pub(crate) fn new(state: &'a State, index: Index, stamp: Stamp) -> Self {
        let (rows, users, sessions) = Default::default();
        let (effects, closed) = Default::default();
        Self { state, index, stamp, rows, users, sessions, counters: None, cluster: None, effects, closed }
    }

    /// Forgets everything that was done: a refused command changes nothing.
    pub(crate) fn undo(&mut self) {
        *self = Self::new(self.state, self.index, self.stamp);
    }

    pub(crate) fn user(&self, user: UserId) -> Option<UserRecord> {
        self.users.get(&user).cloned().unwrap_or_else(|| self.state.users.get(&user).cloned())
    }

    pub(crate) fn put_user(&mut self, user: UserId, record: Option<UserRecord>) {
        self.users.insert(user, record);
    }

    pub(crate) fn session(&self, session: SessionId) -> Option<SessionRecord> {
        self.sessions.get(&session).cloned().unwrap_or_else(|| self.state.sessions.get(&session).cloned())
    }

    pub(crate) fn put_session(&mut self, session: SessionId, record: SessionRecord) {
        self.sessions.insert(session, Some(record));
    }

    /// Removes a session and closes what was opened under it.
    pub(crate) fn end_session(&mut self, session: SessionId) {
        self.sessions.insert(session, None);
        self.closed.push(session);
    }

    /// Removes every session of a user but one.
    pub(crate) fn end_sessions_of(&mut self, user: UserId, but: Option<SessionId>) {
        let of_user = self.state.sessions_of.get(&user);
        for &session in of_user.into_iter().flatten().filter(|&&session| Some(session) != but) {
            self.end_session(session);
        }
    }

    pub(crate) fn counters(&mut self) -> &mut Counters {
        let before = self.state.counters.unwrap_or_default();
        self.counters.get_or_insert(before)
    }

    pub(crate) fn put_cluster(&mut self, cluster: ClusterRecord) {
        self.cluster = Some(cluster);
    }

    pub(crate) fn put_attempt(&mut self, attempt: AttemptId, record: Option<&AttemptRecord>) {
        self.put(AttemptKey::Open(attempt).row(), record);
    }

    pub(crate) fn put_unknown_name(&mut self, key: &AttemptKey, record: Option<&UnknownName>) {
        self.put(key.row(), record);
    }

    pub(crate) fn put_member(&mut self, node: NodeId, member: Option<&MemberRecord>) {
        self.put(Row::Member(node), member);
    }

    /// Changes what HSMs that nobody hears may still act on.
    pub(crate) fn linger(&mut self, change: impl FnOnce(&mut Lingering)) {
        let mut lingering = self.state.lingering.clone().unwrap_or_default();
        change(&mut lingering);
        self.put(Row::Lingering, Some(&lingering));
    }

    /// Changes which log-ins of isolated HSMs are known.
    pub(crate) fn merge(&mut self, change: impl FnOnce(&mut Merges)) {
        let mut merges = self.state.merges.clone();
        change(&mut merges);
        self.put(Row::Merges, Some(&merges).filter(|merges| !merges.is_empty()));
    }

    /// The other HSMs are gone for good.
    pub(crate) fn forget_merges(&mut self, keep: impl Fn(HsmId) -> bool) {
        if !self.state.merges.is_empty() {
            self.merge(|merges| merges.keep(keep));
        }
    }

    pub(crate) fn put_epoch(&mut self, epoch: Epoch, record: Option<&EpochRecord>) {
        self.put(Row::Epoch(epoch), record);
    }

    pub(crate) fn put_object(&mut self, handle: ObjectHandle, object: Option<&Object>) {
        self.put(Row::Object(handle), object);
    }

    pub(crate) fn put_payload(&mut self, handle: ObjectHandle, payload: Option<&SealedPayload>) {
        self.put(Row::Payload(handle), payload);
    }

    fn put(&mut self, row: Row, record: Option<&impl Serialize>) {
        self.rows.insert(row, record.map(encode));
    }

    pub(crate) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(crate) fn audit(&mut self, entry: &Entry, caller: Caller, result: Result<(), Refusal>) {
        self.effects.push(Effect::Audit(AuditRecord {
            index: self.index,
            stamp: self.stamp,
            event: entry.event,
            user: caller.user,
            session: caller.session,
            objects: entry.objects.clone(),
            subject: entry.subject,
            result: result.map_or_else(|refusal| refusal.code as u32, |()| 0),
        }));
    }

    /// The changes and effects, with the answer first.
    pub(crate) fn finish(self, answer: Result<Response, Refusal>) -> Applied {
        let Self { mut rows, users, sessions, counters, cluster, mut effects, mut closed, .. } = self;
        rows.extend(users.iter().map(|(&user, record)| (Row::User(user), record.as_ref().map(encode))));
        rows.extend(sessions.iter().map(|(&session, record)| (Row::Session(session), record.as_ref().map(encode))));
        rows.extend(counters.iter().map(|counters| (Row::Counters, Some(encode(counters)))));
        rows.extend(cluster.iter().map(|cluster| (Row::Cluster, Some(encode(cluster)))));
        let changes = rows.into_iter().map(|(row, value)| Change { row, value }).collect();
        if !closed.is_empty() {
            closed.sort_unstable();
            effects.push(Effect::CloseSessions(closed));
        }
        effects.insert(0, Effect::Respond(answer));
        Applied { changes, effects }
    }
}

/// What an audit record says besides who and when.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) event: Event,
    pub(crate) objects: Vec<ObjectHandle>,
    pub(crate) subject: Option<UserId>,
}

impl Entry {
    pub(crate) fn new(event: Event) -> Self {
        Self { event, objects: Vec::new(), subject: None }
    }

    pub(crate) fn of_objects(event: Event, objects: Vec<ObjectHandle>) -> Self {
        Self { objects, ..Self::new(event) }
    }

    pub(crate) fn about(event: Event, subject: Option<UserId>) -> Self {
        Self { subject, ..Self::new(event) }
    }
}
