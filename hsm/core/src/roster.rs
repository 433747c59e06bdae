//! Who belongs to the cluster, and by which rule somebody may join it.
//!
//! The roster in the log is what the cluster shall be; `hsm-replication` makes it so. A member is there because a rule
//! covers it that an admin gave in a session: one approval for this HSM, or the standing rule that a cluster begins with.
//! Whether a certificate is good was looked at before, by the member that proposes an admission.

use serde::{Deserialize, Serialize};

use crate::ids::{HsmId, Stamp};
use crate::limits::{ADMISSIONS_PER_DAY, DAY_MILLISECONDS, ISOLATION_WINDOW_SECONDS, MEMBERS};
use crate::releases::ReleaseRule;

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The HSM's own random name, the same as long as its data folder lives.
    pub hsm: HsmId,
    /// What it may hold.
    pub kind: MemberKind,
    /// Where it stands: voters are spread over zones. At most [`crate::limits::ZONE_BYTES`].
    pub zone: String,
    /// Address and port under which other members reach it.
    pub peer_address: String,
    /// Address and port under which clients reach it; empty for a witness.
    pub client_address: String,
    /// The certificate of its node key, DER.
    #[serde(with = "serde_bytes")]
    pub certificate: Vec<u8>,
    /// Public key to which the cluster master key is sealed for it (HPKE); empty for a witness.
    #[serde(with = "serde_bytes")]
    pub sealing_key: Vec<u8>,
    /// Version of its program.
    pub version: String,
    /// The newest version of commands that its program knows.
    pub state_version: u32,
    /// When it was admitted.
    pub admitted_at: Stamp,
}

impl MemberRecord {
    /// A member of which only its name and kind are known: the one HSM of a cluster that has no peers.
    pub fn alone(hsm: HsmId, kind: MemberKind) -> Self {
        Self {
            hsm,
            kind,
            zone: String::new(),
            peer_address: String::new(),
            client_address: String::new(),
            certificate: Vec::new(),
            sealing_key: Vec::new(),
            version: String::new(),
            state_version: crate::versions::NEWEST,
            admitted_at: Stamp::default(),
        }
    }
}

/// What a member may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum MemberKind {
    /// Keys: it signs for clients.
    Hsm,
    /// The log only: it votes, and never gets the cluster master key.
    Witness,
}

/// What admins decided about the cluster as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterPolicy {
    /// How long an HSM that hears from no majority goes on using keys and sessions that it has, in seconds. 0 = not at
    /// all.
    pub isolation_window_seconds: u32,
    /// Who may join.
    pub admission: AdmissionRule,
    /// HSMs that an admin approved one by one and that have not come yet.
    pub approvals: Vec<HsmId>,
    /// When the standing rule admitted somebody, during the last day.
    pub admissions: Vec<Stamp>,
    /// Which programs take part.
    pub releases: ReleaseRule,
}

impl ClusterPolicy {
    /// When the standing rule admitted somebody, during the day before `now`.
    pub fn recent_admissions(&self, now: Stamp) -> impl Iterator<Item = Stamp> + '_ {
        self.admissions.iter().copied().filter(move |then| now.0.saturating_sub(then.0) < DAY_MILLISECONDS)
    }
}

/// By which standing rule an HSM of this installation may join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionRule {
    /// Whether there is one; else every HSM needs an approval of its own.
    pub standing: bool,
    /// HSMs in the cluster, at most.
    pub members: u32,
    /// HSMs that the standing rule admits in 24 hours.
    pub per_day: u32,
}

impl Default for ClusterPolicy {
    /// What a cluster begins with (`docs/operations/administering-a-cluster.md`, "Admission").
    fn default() -> Self {
        Self {
            isolation_window_seconds: ISOLATION_WINDOW_SECONDS,
            admission: AdmissionRule { standing: true, members: MEMBERS, per_day: ADMISSIONS_PER_DAY },
            approvals: Vec::new(),
            admissions: Vec::new(),
            releases: ReleaseRule::default(),
        }
    }
}
