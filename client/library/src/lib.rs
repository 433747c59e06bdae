//! The client's side of an HSM cluster: connections, logins, retries. Blocking and free of background threads.
//!
//! It lives inside applications that were written without it in mind (a web server's workers, a Java process), so: no
//! thread, no async runtime, no `atexit`, no global destructor, and nothing outlives the last [`Cluster`] and
//! [`StreamCall`]. It never sees a private key. It must not decide what a request means: `hsm-pkcs11`, `kagimori` and
//! the KMS service make the messages of `hsm-protocol`; this crate carries them.
//!
//! The way of a call: [`Cluster::call`] or [`Cluster::change`] (`cluster`) gives it a deadline and repeats it where
//! that is safe (`trial`); the pool (`pool`) chooses an HSM (`choice`) of those that are known (`roster`) and finds or
//! opens a connection to it (`member`, `opening`); the connection (`connection`) shares one socket between all threads of
//! the process and attaches the [`Login`] to it.

mod address;
mod administration;
mod backoff;
mod choice;
mod cluster;
mod configuration;
mod connection;
mod counters;
mod error;
mod fork;
mod held;
mod limits;
mod login;
mod member;
mod opening;
mod pool;
mod roster;
mod stream;
mod system;
mod trial;
mod trust;
mod wipe;

pub use administration::User;
pub use cluster::{Cluster, With};
pub use configuration::{
    ClusterConfiguration, Configuration, ConfigurationError, ENVIRONMENT_VARIABLE, LogConfiguration, LogLevel, Profile,
};
pub use counters::Counters;
pub use error::{Attempt, CallError, CertificateFault, PeerFault};
pub use held::{HeldObject, HeldObjects};
pub use login::Login;
pub use stream::{StreamCall, StreamOutput};
