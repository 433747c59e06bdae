//! A cluster of HSMs as one thing to call: deadlines, repetition, and what the cluster says of itself.
//!
//! What may be repeated, and when:
//!
//! | what happened | a read, cryptography, a session object | a change with a login | a change without |
//! |---|---|---|---|
//! | no connection yet | waits for one | the same | the same |
//! | connection lost after sending | sent again | sent again, same number | [`CallError::OutcomeUnknown`] |
//! | busy, not ready | sent again after a pause | the same | the same |
//! | outcome unknown | sent again | sent again, same number | given to the caller |
//! | no answer in time | [`CallError::TimedOut`] | the same | the same |
//!
//! A wrong password that is sent again may count twice; a login is repeated all the same, because a killed HSM must cost
//! its clients time only.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hsm_protocol::wire::{reply, request};
use hsm_protocol::{ErrorCode, Role, UserName, convert, wire};

use crate::backoff;
use crate::configuration::ClusterConfiguration;
use crate::connection::{Connection, Lost, NoAnswer, Stumble};
use crate::counters::{Counters, add};
use crate::error::{CallError, PeerFault};
use crate::login::{Login, Sequence, new_session_key};
use crate::pool::Pool;
use crate::stream::StreamCall;
use crate::system::CancellationBlocked;

/// Time for an answer to what makes RSA keys: 8192 bits take a minute on a busy machine.
const KEY_PAIR_PATIENCE: Duration = Duration::from_secs(180);

/// Time for an answer to what stretches a password: the HSM bounds how many it works on at once.
const PASSWORD_PATIENCE: Duration = Duration::from_secs(30);

/// Time for a farewell: an application that ends must not wait for an HSM that is gone.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(3);

/// What a request that is being made must contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct With {
    /// References to session objects must carry the sealed object: the HSM that answers does not hold it.
    pub sealed_objects: bool,
}

/// One cluster. Connects when it is first called; `Send` and `Sync`; any number of threads may call at once. Clones are
/// the same cluster; with the last one its connections end.
#[derive(Clone)]
pub struct Cluster {
    pool: Arc<Pool>,
}

/// Whether a call may be sent again once an HSM may have seen it.
enum Repetition<'a> {
    /// Nothing is harmed by doing it twice.
    Free,
    /// The cluster does it once: by its number.
    Numbered(Sequence<'a>),
    /// It would be done twice.
    Never,
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
        self.perform(login, &repetition, make, self.configuration().call_timeout)
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
        let make = |_| {
            request::Body::Login(wire::Login {
                user: name.as_str().to_owned(),
                role: role as u32,
                password: password.to_vec(),
                session_public_key: public.clone(),
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
        let mut call = Trial::new(self, login, patience);
        loop {
            let body = make(call.with);
            call.extend_for(&body);
            let connection = self.pool.connection(call.reach_deadline())?;
            let _counted = Counted::new(&connection);
            let (sequence, lowest_unanswered) = match repetition {
                Repetition::Numbered(sequence) => (sequence.number(), sequence.lowest_unanswered()),
                Repetition::Free | Repetition::Never => (0, 0),
            };
            let stumble = match call.attempt(&connection, body, sequence, lowest_unanswered) {
                Ok(answer) => return Ok(answer),
                Err(stumble) => stumble,
            };
            call.recover(&connection, stumble, !matches!(repetition, Repetition::Never))?;
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

/// One call on its way through attempts.
pub(crate) struct Trial<'a> {
    cluster: &'a Cluster,
    login: Option<&'a Login>,
    pub(crate) with: With,
    begin: Instant,
    patience: Duration,
    reach: Duration,
    failures: u32,
    attached_again: bool,
}

impl<'a> Trial<'a> {
    pub(crate) fn new(cluster: &'a Cluster, login: Option<&'a Login>, patience: Duration) -> Self {
        let with = With { sealed_objects: false };
        let begin = Instant::now();
        Self { cluster, login, with, begin, patience, reach: patience, failures: 0, attached_again: false }
    }

    /// Gives more time to what takes long by nature.
    fn extend_for(&mut self, body: &request::Body) {
        self.patience = self.patience.max(patience_for(convert::method(body)));
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.begin + self.patience
    }

    /// Until when to look for a connection: no longer than an ordinary call may take.
    pub(crate) fn reach_deadline(&self) -> Instant {
        self.deadline().min(Instant::now() + self.reach)
    }

    /// Sends the request on this connection, attached to its login.
    pub(crate) fn attempt(
        &self,
        connection: &Connection,
        body: request::Body,
        sequence: u64,
        lowest_unanswered: u64,
    ) -> Result<reply::Body, Stumble> {
        let pool = self.cluster.pool();
        let note = |index| pool.note_index(index);
        let deadline = self.deadline();
        let session = match self.login {
            Some(login) => connection.session(login, pool.index(), deadline, &note)?,
            None => 0,
        };
        let request = wire::Request { session, min_index: pool.index(), sequence, lowest_unanswered, body: Some(body) };
        connection.exchange(request, deadline, &note)
    }

    /// Decides whether the call goes on: `Ok` = try again, after the pause that this made.
    pub(crate) fn recover(
        &mut self,
        connection: &Connection,
        stumble: Stumble,
        may_repeat: bool,
    ) -> Result<(), CallError> {
        let failure = match stumble {
            Stumble::TooLarge => return Err(CallError::refused(ErrorCode::TooLarge)),
            Stumble::ReplayDiffers => return Err(CallError::refused(ErrorCode::StreamUnknown)),
            Stumble::NoAnswer(no_answer) => return self.recover_from_silence(connection, no_answer, may_repeat),
            Stumble::Failure(failure) => failure,
        };
        let Some(code) = ErrorCode::from_number(failure.code) else {
            let fault = PeerFault::Code(failure.code);
            return Err(CallError::Peer { address: connection.address().to_owned(), fault });
        };
        let again = match code {
            ErrorCode::SessionObjectUnknown if !self.with.sealed_objects => {
                self.with.sealed_objects = true;
                return Ok(());
            }
            ErrorCode::NotLoggedIn if !self.attached_again => match self.login {
                Some(login) => {
                    // Refused before anything was done: perhaps the HSM has forgotten the index.
                    self.attached_again = true;
                    connection.detach(login);
                    return Ok(());
                }
                None => false,
            },
            ErrorCode::Busy | ErrorCode::NotReady => true,
            ErrorCode::Unknown => may_repeat,
            _ => false,
        };
        let at_least = Duration::from_millis(failure.retry_after_milliseconds.into());
        if again && self.pause(at_least) {
            return Ok(());
        }
        let subject = match failure.subject {
            0 if code == ErrorCode::LoginDelayed => failure.retry_after_milliseconds.into(),
            subject => subject,
        };
        Err(CallError::Refused { code, subject })
    }

    fn recover_from_silence(
        &mut self,
        connection: &Connection,
        no_answer: NoAnswer,
        may_repeat: bool,
    ) -> Result<(), CallError> {
        let cluster = || self.cluster.configuration().label.clone();
        match no_answer {
            NoAnswer::Full if self.pause(Duration::ZERO) => Ok(()),
            NoAnswer::Full => Err(CallError::refused(ErrorCode::Busy)),
            NoAnswer::TimedOut => Err(CallError::TimedOut { cluster: cluster(), waited: self.begin.elapsed() }),
            NoAnswer::Lost { reason, .. } if matches!(*reason, Lost::Peer(_)) => match &*reason {
                Lost::Peer(fault) => {
                    Err(CallError::Peer { address: connection.address().to_owned(), fault: fault.clone() })
                }
                _ => Ok(()),
            },
            NoAnswer::Lost { reason, sent } if sent && !may_repeat => {
                Err(CallError::OutcomeUnknown { cluster: cluster(), reason: reason.to_string() })
            }
            NoAnswer::Lost { reason, .. } => {
                // At once the first time: a restarted HSM is there again, or another one serves.
                self.failures += 1;
                if self.failures == 1 || self.pause(Duration::ZERO) {
                    return Ok(());
                }
                Err(CallError::OutcomeUnknown { cluster: cluster(), reason: reason.to_string() })
            }
        }
    }

    /// Waits before the next attempt; `false` = the deadline does not leave the time.
    fn pause(&mut self, at_least: Duration) -> bool {
        let wait = backoff::wait_after(self.failures).max(at_least);
        self.failures += 1;
        if Instant::now() + wait >= self.deadline() {
            return false;
        }
        std::thread::sleep(wait);
        true
    }
}

/// Counts a call on its connection.
pub(crate) struct Counted<'a>(&'a Connection);

impl<'a> Counted<'a> {
    pub(crate) fn new(connection: &'a Connection) -> Self {
        connection.calls().fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.calls().fetch_sub(1, Ordering::Relaxed);
    }
}

/// Least time for an answer to a method (the field number of its body in `client.proto`).
fn patience_for(method: u16) -> Duration {
    match method {
        // GenerateKeyPair.
        31 => KEY_PAIR_PATIENCE,
        // Login, CreateUser, ChangePassword, Activate.
        20 | 70 | 73 | 75 => PASSWORD_PATIENCE,
        _ => Duration::ZERO,
    }
}
