//! A cluster of HSMs as one thing to call: deadlines, repetition, and what the cluster says of itself.
//!
//! What may be repeated, and when:
//!
//! | what happened | a read, cryptography, a session object | a change with a login | a change without |
//! |---|---|---|---|
//! | no connection yet | waits for one | the same | the same |
//! | connection lost after sending | sent again | sent again, same number | [`CallError::OutcomeUnknown`] |
//! | the HSM was found dead | sent again | sent again, same number | waits |
//! | busy, not ready, isolated | sent to another HSM, or again after a pause | the same | the same |
//! | outcome unknown | sent again | sent again, same number | given to the caller |
//! | no answer in time | [`CallError::TimedOut`] | the same | the same |
//!
//! "Again" is at another HSM where there is one. A login that an isolated HSM took alone, because no other one could, goes
//! on there until that HSM says that the cluster knows it; it changes nothing before.
//!
//! A wrong password that is sent again may count twice; a login is repeated all the same, because a killed HSM must cost
//! its clients time only.

use std::sync::Arc;
use std::time::Duration;

use hsm_protocol::wire::{reply, request};
use hsm_protocol::{ErrorCode, Role, UserName, wire};

use crate::configuration::ClusterConfiguration;
use crate::counters::{Counters, add};
use crate::error::{CallError, PeerFault};
use crate::login::{Login, Sequence, new_session_key};
use crate::pool::Pool;
use crate::stream::StreamCall;
use crate::system::CancellationBlocked;
use crate::trial::{Effect, Trial};

/// Time for a farewell: an application that ends must not wait for an HSM that is gone.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(3);

/// What a request that is being made must contain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct With {
    /// References to session objects must carry the sealed object: the HSM that answers does not hold it.
    pub sealed_objects: bool,
    /// Nobody else can be reached: an HSM that is isolated may take a log-in alone.
    pub isolated: bool,
}

/// One cluster. Connects when it is first called; `Send` and `Sync`; any number of threads may call at once. Clones are
/// the same cluster; with the last one its connections end.
#[derive(Clone)]
pub struct Cluster {
    pool: Arc<Pool>,
}

/// Whether a call may be sent again once an HSM may have seen it, and under which number.
enum Repetition<'a> {
    /// Nothing is harmed by doing it twice.
    Free,
    /// The cluster does it once: by its number.
    Numbered(Sequence<'a>),
    /// It would be done twice.
    Never,
}

impl Repetition<'_> {
    fn effect(&self) -> Effect {
        match self {
            Self::Free => Effect::Harmless,
            Self::Numbered(_) => Effect::Once,
            Self::Never => Effect::EachTime,
        }
    }
}

impl Cluster {
    /// Makes a cluster without connecting or reading a file.
    pub fn new(configuration: ClusterConfiguration) -> Self {
        Self { pool: Arc::new(Pool::new(configuration)) }
    }

    /// What it was made from.
    pub fn configuration(&self) -> &ClusterConfiguration {
        self.pool.configuration()
    }

    /// Whether this process is a child of the one that made this value. Every call then answers
    /// [`CallError::Forked`]; dropping the value closes its sockets without a byte written.
    pub fn forked(&self) -> bool {
        self.pool.guard.is_child()
    }

    /// Reads the certificates and the key that the configuration names, without connecting (`kagimori doctor`).
    ///
    /// # Errors
    /// [`CallError::Configuration`].
    pub fn check_files(&self) -> Result<(), CallError> {
        self.check_process()?;
        if self.configuration().addresses.is_empty() { Ok(()) } else { self.pool.tls().map(|_| ()) }
    }

    /// Asks something that changes nothing, or that may be done twice without harm: reads, cryptography, session
    /// objects. Repeated on a new connection after a loss.
    ///
    /// `make` is called once per attempt, and with [`With::sealed_objects`] when the HSM lacks a session object.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(&self, login: Option<&Login>, make: &dyn Fn(With) -> request::Body) -> Result<reply::Body, CallError> {
        self.perform(login, &Repetition::Free, make, self.configuration().call_timeout)
    }

    /// Changes state, exactly once: carries a sequence number of the login, and is repeated with the same one until its
    /// outcome is known. Without a login it is sent at most once.
    ///
    /// # Errors
    /// [`CallError`]; after [`CallError::TimedOut`] and [`CallError::OutcomeUnknown`] it may have been done.
    pub fn change(
        &self,
        login: Option<&Login>,
        make: &dyn Fn(With) -> request::Body,
    ) -> Result<reply::Body, CallError> {
        self.check_process()?;
        let repetition = login.map_or(Repetition::Never, |login| Repetition::Numbered(login.new_sequence()));
        let answer = self.perform(login, &repetition, make, self.configuration().call_timeout)?;
        if let reply::Body::Done(done) = &answer {
            warn_of(&done.unreached);
        }
        Ok(answer)
    }

    /// Logs in. The login outlives connections and is good on every HSM of the cluster.
    ///
    /// # Errors
    /// [`CallError`]; a wrong password and an unknown user are both [`ErrorCode::LoginRefused`].
    pub fn log_in(&self, name: &str, role: Role, password: &[u8]) -> Result<Login, CallError> {
        self.check_process()?;
        // What cannot be a name is nobody's, and the answer must not tell more than that.
        let name = UserName::new(name).map_err(|_| CallError::refused(ErrorCode::LoginRefused))?;
        let (key, public) = new_session_key().ok_or_else(|| CallError::refused(ErrorCode::CryptoFailed))?;
        let make = |with: With| {
            request::Body::Login(wire::Login {
                user: name.as_str().to_owned(),
                role: role as u32,
                password: password.to_vec(),
                session_public_key: public.clone(),
                isolated: with.isolated,
            })
        };
        match self.call(None, &make)? {
            reply::Body::Login(reply) if !reply.token.is_empty() => {
                Ok(Login::new(name.into(), role, key, reply, Arc::clone(&self.pool.guard)))
            }
            _ => Err(self.unfitting_answer()),
        }
    }

    /// Ends a login. Without an answer the session ends by itself at its expiry.
    ///
    /// # Errors
    /// [`CallError`]; a login that has ended already is no error.
    #[expect(clippy::needless_pass_by_value, reason = "a login that is logged out is not to be used again")]
    pub fn log_out(&self, login: Login) -> Result<(), CallError> {
        self.check_process()?;
        let repetition = Repetition::Numbered(login.new_sequence());
        let patience = self.configuration().call_timeout.min(FAREWELL_PATIENCE);
        let make = |_| request::Body::Logout(wire::Logout {});
        match self.perform(Some(&login), &repetition, &make, patience) {
            Ok(reply::Body::Done(_)) => Ok(()),
            Ok(_) => Err(self.unfitting_answer()),
            Err(error) => match error.code() {
                Some(ErrorCode::NotLoggedIn | ErrorCode::TokenRefused) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Prepares an operation in parts; sends nothing yet. `begin` makes its first message, again for each replay.
    pub fn stream(&self, login: Option<&Login>, begin: Box<dyn Fn(With) -> wire::Operate + Send + Sync>) -> StreamCall {
        StreamCall::new(self.clone(), login.cloned(), begin)
    }

    /// What the HSM said of itself and its cluster at the last connect. Connects when there was none.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn hello(&self) -> Result<Arc<wire::HelloReply>, CallError> {
        self.check_process()?;
        if let Some(hello) = self.pool.known().hello.clone() {
            return Ok(hello);
        }
        self.hello_within(self.configuration().call_timeout)
    }

    /// As [`Self::hello`], but gives up after `patience`, and asks the HSM again instead of answering from memory.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn hello_within(&self, patience: Duration) -> Result<Arc<wire::HelloReply>, CallError> {
        let make = |_| request::Body::Hello(wire::Hello { client: String::new() });
        match self.perform(None, &Repetition::Free, &make, patience)? {
            reply::Body::Hello(hello) => {
                let hello = Arc::new(hello);
                self.pool.known().hello = Some(Arc::clone(&hello));
                Ok(hello)
            }
            _ => Err(self.unfitting_answer()),
        }
    }

    /// The mechanisms of the cluster, asked once.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn mechanisms(&self) -> Result<Arc<Vec<wire::MechanismInfo>>, CallError> {
        self.check_process()?;
        if let Some(mechanisms) = self.pool.known().mechanisms.clone() {
            return Ok(mechanisms);
        }
        match self.call(None, &|_| request::Body::ListMechanisms(wire::ListMechanisms {}))? {
            reply::Body::ListMechanisms(reply) => {
                let mechanisms = Arc::new(reply.items);
                self.pool.known().mechanisms = Some(Arc::clone(&mechanisms));
                Ok(mechanisms)
            }
            _ => Err(self.unfitting_answer()),
        }
    }

    /// What the connections did so far.
    pub fn counters(&self) -> Counters {
        self.pool.counters.snapshot()
    }

    // ---- for the other parts of this crate ----

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn check_process(&self) -> Result<(), CallError> {
        if self.forked() { Err(CallError::Forked) } else { Ok(()) }
    }

    /// The HSM answered with a message of another kind than the call's.
    pub(crate) fn unfitting_answer(&self) -> CallError {
        CallError::Peer { address: self.configuration().label.clone(), fault: PeerFault::Answer }
    }

    fn perform(
        &self,
        login: Option<&Login>,
        repetition: &Repetition<'_>,
        make: &dyn Fn(With) -> request::Body,
        patience: Duration,
    ) -> Result<reply::Body, CallError> {
        self.check_process()?;
        let _blocked = CancellationBlocked::new();
        let _busy = self.pool.enter();
        let mut trial = Trial::new(self, login, patience, repetition.effect());
        let outcome = self.attempt_until_done(&mut trial, repetition, make);
        trial.ended(outcome.as_ref().err());
        outcome
    }

    fn attempt_until_done(
        &self,
        trial: &mut Trial<'_>,
        repetition: &Repetition<'_>,
        make: &dyn Fn(With) -> request::Body,
    ) -> Result<reply::Body, CallError> {
        loop {
            let body = make(trial.with);
            trial.extend_for(&body);
            let route = trial.route()?;
            let (sequence, lowest_unanswered) = match repetition {
                Repetition::Numbered(sequence) => (sequence.number(), sequence.lowest_unanswered()),
                Repetition::Free | Repetition::Never => (0, 0),
            };
            let stumble = match trial.attempt(&route, body, sequence, lowest_unanswered) {
                Ok(answer) => {
                    if self.pool.roster.is_wanted() {
                        self.pool.ask_for_roster(&route.connection, trial.deadline());
                    }
                    return Ok(answer);
                }
                Err(stumble) => stumble,
            };
            trial.recover(&route, stumble)?;
            add(&self.pool.counters.repeats, 1);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.forked() {
            // No lock, no byte, nothing freed: another thread of the parent may have been in the midst of it.
            self.pool.guard.abandon_sockets();
            std::mem::forget(Arc::clone(&self.pool));
        }
    }
}

/// Tells the application's log what the caller may not be able to pass on: PKCS#11 has no answer but "done".
fn warn_of(unreached: &[wire::Unreached]) {
    for one in unreached {
        let hsm: String = one.hsm.iter().map(|octet| format!("{octet:02x}")).collect();
        let until = one.until;
        tracing::warn!(
            %hsm,
            until_milliseconds = until,
            "the change is done; an HSM that hears from no majority may act on the old state until then"
        );
    }
}
