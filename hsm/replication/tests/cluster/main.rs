//! Several nodes in one process, on disks in memory, in tokio's paused time.

#![cfg(not(hsm_sim))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod chaos;
mod forwarding;
mod fullness;
mod leases;
mod members;
mod memory;
mod recovery;
mod streaming;
mod support;
