//! Orders commands, applies them, and keeps their results on disk: Raft by openraft, log and state in redb.
//!
//! A [`Node`] takes commands from any thread ([`Node::propose`]), collects those of many callers into one log entry,
//! makes the entry durable with one fsync, applies it to [`hsm_core::Hsm`] and tells each caller its [`Outcome`]. One
//! HSM is a group of one voter. In a cluster one member leads; the others forward commands to it (`proposer.rs`,
//! `forwarding.rs`), tell each other how they do (`pulse.rs`), and the one that leads makes Raft's membership what the
//! roster in the log says (`supervisor.rs`, `voters.rs`). Who may act on its state says its lease (`leases.rs`); when
//! everybody does on a new one, a barrier (`barrier.rs`). A disk that was put back is found out (`memory.rs`).
//!
//! It must not decide whether a command is allowed (`hsm-core` does), see a plaintext key, or speak to clients. It is
//! the only crate that names openraft and redb. Below it are `hsm-crypto` (seals every row) and `hsm-core`; above it is
//! `hsm-server`. Time enters in `clock.rs`, randomness in `randomness.rs`, the disk in `disk.rs`, the network in
//! `network.rs`, the async runtime in `runtime.rs`: one file each, all replaced in simulation.

// Test support that lies outside names this crate as others do.
#[cfg(test)]
extern crate self as hsm_replication;

#[cfg(all(hsm_sim, not(tokio_unstable)))]
compile_error!("cfg(hsm_sim) needs --cfg tokio_unstable: without tokio's rng_seed a simulation does not replay");

mod answers;
mod barrier;
pub mod clock;
pub mod disk;
#[cfg(all(test, not(hsm_sim)))]
mod divergence;
mod engine;
mod errands;
pub mod fault;
mod forwarding;
mod fullness;
mod handover;
mod leadership;
mod leases;
pub mod limits;
mod machine;
mod memory;
pub mod network;
pub mod node;
mod outcome;
mod proposals;
mod proposer;
mod pulse;
pub mod randomness;
mod receiving;
mod recovery;
mod roster;
pub mod runtime;
mod sending;
mod settings;
mod stamp;
mod standing;
mod state;
mod status;
mod store;
mod supervisor;
mod traffic;
mod types;
pub mod versions;
mod voters;
mod witness;

pub use barrier::{Barrier, Unreached};
pub use fault::{Fault, OpenFault, StorageFault};
pub use leases::Serving;
pub use network::History;
pub use node::{AuditEntry, Node};
pub use outcome::{Done, EffectSink, NoEffects, Outcome};
pub use recovery::{Prepare, Recovery};
pub use settings::Settings;
pub use standing::Standing;
pub use state::Reading;
pub use status::{MemberStatus, Role, Status};
pub use traffic::{Share, Snapshots};
