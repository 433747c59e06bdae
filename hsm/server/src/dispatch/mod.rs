//! The work on one request: from the message to the state machine and the cryptographic module, and back to a reply.
//!
//! [`Service`] is what all connections share; `caller` is one connection as its requests see it; `call` is one request and
//! its three ways to an answer (at once, from a worker, from the log); `route` leads to the chapters: `hello`, `login`
//! (`isolated`), `objects`, `transport_keys`, `operate`, `streams`, `random`, `users`, `policy`,
//! `members`.
//!
//! It must not decide what is allowed: `hsm-core` does, when it is asked here and again when the log applies. It must not
//! do cryptography: `hsm-crypto` does, and demands the permits that only the state gives. [`crate::connection`] brings the
//! bytes; the process makes the service and carries out the effects that are not its own.

mod barrier;
mod call;
mod caller;
mod exchange;
mod failure;
mod found;
mod guesses;
mod hello;
mod isolated;
mod key_cache;
mod label;
mod limits;
mod login;
mod members;
mod newborn;
mod objects;
mod operate;
mod passwords;
mod policy;
mod random;
mod reissue;
mod roster;
mod route;
mod service;
mod session_objects;
mod streams;
#[cfg(test)]
mod tests;
mod transport_keys;
mod users;
mod workers;

pub(crate) use isolated::Desk;
pub(crate) use members::{members_seen, serving_state};
#[cfg(test)]
pub(crate) use route::is_known;
pub use service::{Effects, ProcessEffect, Service, ServiceParts};
