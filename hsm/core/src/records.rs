//! The records of the state besides objects and the cluster: users, sessions, attempts, counters. Each is one row.

use std::collections::BTreeMap;

use hsm_protocol::{Role, UserName};
use serde::{Deserialize, Serialize};

use crate::change::Response;
use crate::command::Verifier;
use crate::ids::{ObjectHandle, SessionId, Stamp, UserId};
use crate::limits::WRONG_PASSWORDS;
use crate::refusal::Refusal;

/// A user.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct UserRecord {
    pub name: UserName,
    pub role: Role,
    /// `None` for the appliance user, whom nobody can log in as.
    pub verifier: Option<Verifier>,
    /// Raised when every session and attempt of the user must end.
    pub generation: u64,
    /// Attempts to log in since the last success that were not successful, those under way included.
    pub failures: u32,
    /// When the last attempt was counted.
    pub last_attempt: Stamp,
    pub enabled: bool,
    pub created_at: Stamp,
}

impl UserRecord {
    /// Whether wrong passwords have stopped new logins (the last usable admin is an exception: see `apply/logins.rs`).
    pub(crate) fn is_locked(&self) -> bool {
        self.failures > WRONG_PASSWORDS
    }

    /// Whether this admin can keep the cluster administrable.
    pub(crate) fn is_usable_admin(&self) -> bool {
        self.role == Role::Admin && self.enabled && !self.is_locked()
    }
}

/// A login session.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct SessionRecord {
    pub user: UserId,
    pub role: Role,
    /// The user's generation that the session belongs to.
    pub generation: u64,
    pub public_key: [u8; 32],
    /// When it was opened or renewed.
    pub renewed_at: Stamp,
    pub expires_at: Stamp,
    /// Every number below was answered.
    pub lowest_unanswered: u64,
    /// Results that may be asked for again, by sequence number.
    pub results: BTreeMap<u64, Result<Response, Refusal>>,
}

/// An attempt to log in between its reservation and its outcome.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttemptRecord {
    pub name: UserName,
    pub role: Role,
    /// Whose; `None` when the name belongs to nobody.
    pub user: Option<UserId>,
    /// The user's generation when it was reserved.
    pub generation: u64,
    pub reserved_at: Stamp,
}

/// Wrong passwords for a name that belongs to nobody.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnknownName {
    pub failures: u32,
    pub last_attempt: Stamp,
}

/// The next numbers to give out. None is ever given out twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub next_user: UserId,
    pub next_object: ObjectHandle,
    pub next_anchor: u32,
}

impl Default for Counters {
    fn default() -> Self {
        Self { next_user: UserId(1), next_object: ObjectHandle(1), next_anchor: 1 }
    }
}

/// Who acts, after the session was found to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub session: Option<SessionId>,
    pub user: UserId,
    /// `None` for nobody.
    pub role: Option<Role>,
}

impl Caller {
    pub(crate) const NOBODY: Self = Self { session: None, user: UserId::NOBODY, role: None };
}
