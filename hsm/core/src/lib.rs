//! The HSM as a pure state machine: users, logins, key policy, objects, audit.
//!
//! Requests are asked about ([`Hsm::needs`], [`Hsm::authorize`]), become a [`Command`], and are judged when the log
//! applies them ([`Hsm::apply`]): the result is a value, [`Change`]s and [`Effect`]s, the same on every replica.
//!
//! It must not look at a clock, draw random numbers, do I/O, log, lock, use `unsafe`, hash maps or async, and never sees
//! a plaintext key: `clippy.toml` and `deny.toml` keep it so. Below it is `hsm-protocol`; `hsm-crypto` makes what
//! [`Needs`] asks for and demands its [`Permit`]s; `hsm-replication` orders commands and stores changes.

mod apply;
pub mod audit;
pub mod change;
pub mod cluster;
pub mod command;
pub mod curve;
pub mod epoch;
pub mod hsm;
pub mod ids;
pub mod isolated;
pub mod limits;
pub mod lingering;
pub mod mechanisms;
mod needs;
pub mod object;
mod objects;
pub mod permit;
mod policy;
mod records;
pub mod refusal;
pub mod releases;
pub mod request;
pub mod roster;
pub mod rows;
mod state;
pub mod versions;
mod work;

pub use change::{Change, Effect, Response, Row};
pub use cluster::ClusterRecord;
pub use command::{Action, Command};
pub use curve::Curve;
pub use epoch::{EpochRecord, SealedMaster};
pub use hsm::{Applied, Hsm, SessionView, UserView};
pub use ids::{
    Actor, ClusterId, Epoch, HsmId, Incarnation, Index, NodeId, ObjectHandle, ObjectUid, SessionId, Stamp, UserId,
};
pub use isolated::{IsolatedAttempt, IsolatedCounts, IsolatedLogins, IsolatedSession, WrongPasswords};
pub use lingering::{DepartedMember, Lingering, PastWindow};
pub use object::Object;
pub use permit::Permit;
pub use refusal::{Broken, Refusal};
pub use releases::{Release, ReleaseRule};
pub use request::{Confirmation, Disclosure, Draft, Facts, Material, Needs, PairSpec, Request};
pub use roster::{AdmissionRule, ClusterPolicy, MemberKind, MemberRecord};
