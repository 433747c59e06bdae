//! A cluster of HSMs as one thing to call.

use std::sync::Arc;
use std::time::Duration;

use hsm_protocol::wire::{reply, request};
use hsm_protocol::{ErrorCode, Role, wire};

use crate::configuration::ClusterConfiguration;
use crate::counters::Counters;
use crate::error::CallError;
use crate::login::Login;
use crate::stream::StreamCall;

/// What a request that is being made must contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct With {
    /// References to session objects must carry the sealed object: the HSM that answers does not hold it.
    pub sealed_objects: bool,
}

/// One cluster. Connects when it is first called; `Send` and `Sync`; any number of threads may call at once.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) inner: Arc<ClusterConfiguration>,
}

impl Cluster {
    /// Makes a cluster without connecting or reading a file.
    pub fn new(configuration: ClusterConfiguration) -> Self {
        Self { inner: Arc::new(configuration) }
    }

    /// What it was made from.
    pub fn configuration(&self) -> &ClusterConfiguration {
        &self.inner
    }

    /// Whether this process is a child of the one that made this value. Every call then answers
    /// [`CallError::Forked`]; dropping the value closes its sockets without a byte written.
    pub fn forked(&self) -> bool {
        false
    }

    /// Reads the certificates and the key that the configuration names, without connecting (`kagimori doctor`).
    ///
    /// # Errors
    /// [`CallError::Configuration`].
    pub fn check_files(&self) -> Result<(), CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Asks something that changes nothing, or that may be done twice without harm: reads, cryptography, session
    /// objects. Repeated on a new connection after a loss.
    ///
    /// `make` is called once per attempt, and with [`With::sealed_objects`] when the HSM lacks a session object.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(&self, _login: Option<&Login>, _make: &dyn Fn(With) -> request::Body) -> Result<reply::Body, CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Changes state, exactly once: carries a sequence number of the login, and is repeated with the same one until its
    /// outcome is known. Without a login it is sent at most once.
    ///
    /// # Errors
    /// [`CallError`]; after [`CallError::TimedOut`] and [`CallError::OutcomeUnknown`] it may have been done.
    pub fn change(&self, _login: Option<&Login>, _make: &dyn Fn(With) -> request::Body) -> Result<reply::Body, CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Logs in. The login outlives connections and is good on every HSM of the cluster.
    ///
    /// # Errors
    /// [`CallError`]; a wrong password and an unknown user are both [`ErrorCode::LoginRefused`].
    pub fn log_in(&self, _name: &str, _role: Role, _password: &[u8]) -> Result<Login, CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Ends a login. Without an answer the session ends by itself at its expiry.
    ///
    /// # Errors
    /// [`CallError`]; a login that has ended already is no error.
    pub fn log_out(&self, _login: Login) -> Result<(), CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// Prepares an operation in parts; sends nothing yet. `begin` makes its first message, again for each replay.
    pub fn stream(
        &self,
        login: Option<&Login>,
        begin: Box<dyn Fn(With) -> wire::Operate + Send + Sync>,
    ) -> StreamCall {
        StreamCall::new(self.clone(), login.cloned(), begin)
    }

    /// What the HSM said of itself and its cluster at the last connect. Connects when there was none.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn hello(&self) -> Result<Arc<wire::HelloReply>, CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// As [`Self::hello`], but gives up after `patience`, and asks the HSM again instead of answering from memory.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn hello_within(&self, _patience: Duration) -> Result<Arc<wire::HelloReply>, CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// The mechanisms of the cluster, asked once.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn mechanisms(&self) -> Result<Arc<Vec<wire::MechanismInfo>>, CallError> {
        Err(CallError::refused(ErrorCode::NotSupported))
    }

    /// What the connections did so far.
    pub fn counters(&self) -> Counters {
        Counters::default()
    }
}
