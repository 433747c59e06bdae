//! The state in memory: every record but the payloads, and the ways to look them up.
//!
//! It changes by [`State::absorb`] alone, row by row; nothing here decides whether a change is allowed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hsm_protocol::{ErrorCode, Lifecycle, Role, UserName};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha384};

use crate::change::{Change, Row};
use crate::cluster::ClusterRecord;
use crate::epoch::EpochRecord;
use crate::ids::{AttemptId, Epoch, NodeId, SessionId, Stamp, UserId};
use crate::isolated::Merges;
use crate::limits::Quotas;
use crate::lingering::Lingering;
use crate::object::Object;
use crate::objects::ObjectTable;
use crate::records::{AttemptRecord, Caller, Counters, SessionRecord, UnknownName, UserRecord};
use crate::refusal::{Broken, Refusal};
use crate::roster::MemberRecord;
use crate::rows::{AttemptKey, decode, describe, encode};
use crate::versions;

/// The state.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) cluster: Option<ClusterRecord>,
    pub(crate) counters: Option<Counters>,
    pub(crate) members: BTreeMap<NodeId, MemberRecord>,
    pub(crate) epochs: BTreeMap<Epoch, EpochRecord>,
    pub(crate) users: BTreeMap<UserId, UserRecord>,
    pub(crate) names: BTreeMap<(UserName, Role), UserId>,
    pub(crate) sessions: BTreeMap<SessionId, SessionRecord>,
    pub(crate) sessions_of: BTreeMap<UserId, BTreeSet<SessionId>>,
    pub(crate) attempts: BTreeMap<AttemptId, AttemptRecord>,
    pub(crate) unknown_names: BTreeMap<(UserName, Role), UnknownName>,
    pub(crate) objects: ObjectTable,
    /// `None` as long as there is nothing to say.
    pub(crate) lingering: Option<Lingering>,
    /// Has no row as long as it is empty.
    pub(crate) merges: Merges,
}

impl State {
    /// The version of commands in use.
    pub(crate) fn version(&self) -> u32 {
        self.cluster.as_ref().map_or(versions::OLDEST, |cluster| cluster.version)
    }

    /// Takes over one row. A payload is skipped.
    pub(crate) fn absorb(&mut self, row: &Row, value: Option<&[u8]>) -> Result<(), Broken> {
        match row {
            Row::Cluster => self.cluster = read(row, value)?,
            Row::Counters => self.counters = read(row, value)?,
            Row::Member(node) => put(&mut self.members, *node, read(row, value)?),
            Row::Epoch(epoch) => put(&mut self.epochs, *epoch, read(row, value)?),
            Row::User(user) => self.absorb_user(*user, read(row, value)?),
            Row::Session(session) => self.absorb_session(*session, read(row, value)?),
            Row::Attempt(key) => match AttemptKey::read(key) {
                Some(AttemptKey::Open(attempt)) => put(&mut self.attempts, attempt, read(row, value)?),
                Some(AttemptKey::UnknownName(name, role)) => {
                    put(&mut self.unknown_names, (name, role), read(row, value)?);
                }
                None => return Err(Broken { row: describe(row), what: "has a name that cannot be" }),
            },
            Row::Object(handle) => match read::<Object>(row, value)? {
                Some(object) => self.objects.put(*handle, Arc::new(object)),
                None => self.objects.remove(*handle),
            },
            Row::Payload(_) => {}
            Row::Lingering => self.lingering = read(row, value)?,
            Row::Merges => self.merges = read(row, value)?.unwrap_or_default(),
        }
        Ok(())
    }

    /// Takes over the changes of one command.
    pub(crate) fn absorb_all(&mut self, changes: &[Change]) -> Result<(), Broken> {
        changes.iter().try_for_each(|change| self.absorb(&change.row, change.value.as_deref()))
    }

    fn absorb_user(&mut self, user: UserId, record: Option<UserRecord>) {
        if let Some(before) = self.users.remove(&user) {
            self.names.remove(&(before.name, before.role));
        }
        if let Some(record) = record {
            self.names.insert((record.name.clone(), record.role), user);
            self.users.insert(user, record);
        }
    }

    fn absorb_session(&mut self, session: SessionId, record: Option<SessionRecord>) {
        if let Some(before) = self.sessions.remove(&session)
            && let Some(of_user) = self.sessions_of.get_mut(&before.user)
        {
            of_user.remove(&session);
            if of_user.is_empty() {
                self.sessions_of.remove(&before.user);
            }
        }
        if let Some(record) = record {
            self.sessions_of.entry(record.user).or_default().insert(session);
            self.sessions.insert(session, record);
        }
    }

    /// What rows must agree on with one another.
    pub(crate) fn check_whole(&self) -> Result<(), Broken> {
        let broken = |row: Row, what| Err(Broken { row: describe(&row), what });
        if self.cluster.is_some() != self.counters.is_some() {
            return broken(Row::Cluster, "and the counters are not both there");
        }
        if self.cluster.is_some() == self.members.is_empty() {
            return broken(Row::Cluster, "and its members are not both there");
        }
        if self.names.len() != self.users.len() {
            return broken(Row::Cluster, "has two users of one name and role");
        }
        if let Some((&session, _)) = self.sessions.iter().find(|(_, record)| !self.users.contains_key(&record.user)) {
            return broken(Row::Session(session), "belongs to nobody");
        }
        let next = self.counters.unwrap_or_default().next_object;
        let stray = |object: &Object, owner| !self.users.contains_key(&owner) || object.version() == 0;
        match self.objects.iter().find(|(handle, object)| *handle >= next || stray(object, object.owner())) {
            Some((handle, _)) => broken(Row::Object(handle), "has an owner or a number that cannot be"),
            None => Ok(()),
        }
    }

    /// SHA-384 over the in-memory rows in their order.
    pub(crate) fn hash(&self) -> [u8; 48] {
        let mut hash = Sha384::new();
        let mut add = |row: Row, value: Vec<u8>| {
            let name = encode(&row);
            hash.update((name.len() as u64).to_be_bytes());
            hash.update(name);
            hash.update((value.len() as u64).to_be_bytes());
            hash.update(value);
        };
        if let Some(cluster) = &self.cluster {
            add(Row::Cluster, encode(cluster));
        }
        if let Some(counters) = &self.counters {
            add(Row::Counters, encode(counters));
        }
        self.members.iter().for_each(|(&node, record)| add(Row::Member(node), encode(record)));
        self.epochs.iter().for_each(|(&epoch, record)| add(Row::Epoch(epoch), encode(record)));
        self.users.iter().for_each(|(&user, record)| add(Row::User(user), encode(record)));
        for (&attempt, record) in &self.attempts {
            add(AttemptKey::Open(attempt).row(), encode(record));
        }
        for ((name, role), record) in &self.unknown_names {
            add(AttemptKey::UnknownName(name.clone(), *role).row(), encode(record));
        }
        self.sessions.iter().for_each(|(&session, record)| add(Row::Session(session), encode(record)));
        self.objects.iter().for_each(|(handle, object)| add(Row::Object(handle), encode(object.as_ref())));
        if let Some(lingering) = &self.lingering {
            add(Row::Lingering, encode(lingering));
        }
        if !self.merges.is_empty() {
            add(Row::Merges, encode(&self.merges));
        }
        hash.finalize().into()
    }

    pub(crate) fn lifecycle(&self) -> Option<Lifecycle> {
        self.cluster.as_ref().map(|cluster| cluster.lifecycle)
    }

    pub(crate) fn is_fips(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.fips)
    }

    pub(crate) fn quotas(&self) -> Quotas {
        self.cluster.as_ref().map_or(Quotas::OURS, |cluster| cluster.quotas.quotas())
    }

    /// Refuses unless the cluster is in service.
    pub(crate) fn require_active(&self) -> Result<(), Refusal> {
        if self.lifecycle() == Some(Lifecycle::Active) { Ok(()) } else { Err(ErrorCode::LifecycleRefused.into()) }
    }

    pub(crate) fn user_of(&self, name: &UserName, role: Role) -> Option<(UserId, &UserRecord)> {
        let user = *self.names.get(&(name.clone(), role))?;
        Some((user, self.users.get(&user)?))
    }

    /// Who acts in a session, if it stands: its user enabled and of the same generation. `now` = `None` leaves the expiry
    /// to the caller.
    pub(crate) fn caller(&self, session: SessionId, now: Option<Stamp>) -> Result<Caller, Refusal> {
        let standing = || {
            let record = self.sessions.get(&session)?;
            let user = self.users.get(&record.user)?;
            let in_time = now.is_none_or(|now| now < record.expires_at);
            let stands = user.enabled && user.generation == record.generation && user.role == record.role && in_time;
            stands.then_some(Caller { session: Some(session), user: record.user, role: Some(record.role) })
        };
        standing().ok_or(ErrorCode::NotLoggedIn.into())
    }
}

fn read<T: DeserializeOwned>(row: &Row, value: Option<&[u8]>) -> Result<Option<T>, Broken> {
    value.map(|value| decode(row, value)).transpose()
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
