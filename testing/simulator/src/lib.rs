//! Runs the production core, replication and store on a simulated disk and clock, under one seed.
//!
//! [`world`] is one machine: [`disk`] records every write and makes of it what a crash would leave, [`workload`] has
//! concurrent clients use the node, [`oracle`] knows what must still be true afterwards. The modules `cluster` and
//! `invariants`, of builds with `--cfg hsm_sim` alone, are several machines with a network between them, and what must hold
//! of them whatever breaks: `cargo xtask simulate`, and the README beside this crate. There is no second, softer
//! implementation of anything: only disk, network, clock and randomness are replaced.
//!
//! Built plainly, tokio's clock is paused and one thread runs everything, so that time costs nothing and a run of one
//! node repeats; `--cfg hsm_sim --cfg tokio_unstable` adds what several nodes need for exact replay: openraft's random
//! numbers, each node's own clock, and the choices of tokio's `select!` all come from the seed.
//!
//! `KAGIMORI_SEED=<number>` repeats the run that printed it. Nothing depends on this crate.

pub mod clock;
#[cfg(hsm_sim)]
pub mod cluster;
pub mod disk;
#[cfg(hsm_sim)]
pub mod invariants;
pub mod oracle;
#[cfg(hsm_sim)]
pub mod panics;
pub mod random;
pub mod workload;
pub mod world;
