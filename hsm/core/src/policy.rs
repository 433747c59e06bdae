//! The policy of keys and other objects: what a template may ask for, who may see and use what, what may change.
//!
//! Everything here is a function of the object, the template and the caller. It knows no rows and no commands: the asks
//! of `hsm.rs` and the judgements of `apply` both call it.

pub(crate) mod change;
pub(crate) mod completion;
pub(crate) mod copying;
pub(crate) mod creation;
pub(crate) mod defaults;
pub(crate) mod derivation;
pub(crate) mod disclosure;
pub(crate) mod generation;
pub(crate) mod import;
pub(crate) mod schema;
pub(crate) mod sight;
pub(crate) mod usage;
pub(crate) mod values;
