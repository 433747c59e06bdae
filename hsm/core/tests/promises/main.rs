//! What the state machine promises, by topic. A test's name is the promise that breaks when it fails.

#![expect(clippy::unwrap_used, reason = "what cannot fail in a test may stop it")]

mod audit;
mod epochs;
mod isolated;
mod keys;
mod logins;
mod objects;
mod policy;
mod repetition;
mod replay;
mod roster;
mod search;
mod sessions;
mod templates;
mod users;
mod versions;
mod world;
