//! `libkagimori_pkcs11.so`: PKCS#11 2.40, 3.0 and 3.2 over a cluster of HSMs.
//!
//! An application loads this library and finds a slot for each cluster in `client.toml`. The way of a call: an entry
//! ([`functions`], one file for each chapter of the standard) checks the caller's memory ([`memory`]), finds session
//! and slot ([`application`]), and lets the operation (`operation`) ask the HSM through `device`, which is
//! `hsm-client`. Errors become `CKR_…` in [`return_value`], with a line in the `log`.
//!
//! It must not see a private key, decide what a key may be used for, keep a thread, or leave anything behind at
//! `C_Finalize`. It lives in processes that fork, load and unload it, and use other cryptographic libraries: only `C_…`
//! symbols are exported. Its neighbours are `hsm-client` and `hsm-protocol`; nothing in `hsm/`.
//!
//! What differs from the standard, and what is missing: `docs/compat/pkcs11.md`.

#![cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "the CK_ types and numbers of cryptoki-sys all have their own prefix")
)]

pub mod application;
mod device;
pub mod entry;
pub mod functions;
pub mod interfaces;
mod lengths;
mod limits;
mod lock;
mod log;
pub mod memory;
mod message;
mod objects;
mod operation;
mod parameters;
mod pin;
mod remembered;
pub mod return_value;
mod search;
mod session;
mod slot;
mod template;
