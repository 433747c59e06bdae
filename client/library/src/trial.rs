//! One call on its way through attempts: how long it may take, what a stumble means, and where it goes next.
//!
//! The table of what may be repeated is at the head of [`crate::cluster`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use hsm_protocol::wire::{self, reply, request};
use hsm_protocol::{ErrorCode, convert};

use crate::backoff;
use crate::cluster::{Cluster, With};
use crate::connection::{Lost, NoAnswer, Patience, Stumble, Watch};
use crate::error::{Attempt, CallError, PeerFault};
use crate::limits::LOGIN_WAIT_MILLISECONDS;
use crate::login::Login;
use crate::member::{Member, Route};
use crate::opening::Watcher;

/// Time for an answer to what makes RSA keys: 8192 bits take a minute on a busy machine.
const KEY_PAIR_PATIENCE: Duration = Duration::from_secs(180);

/// Time for an answer to what stretches a password: the HSM bounds how many it works on at once.
const PASSWORD_PATIENCE: Duration = Duration::from_secs(30);

/// What it means to send a call twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    Harmless,
    /// The cluster does it once, by its number.
    Once,
    /// It would be done twice.
    EachTime,
}

/// One call on its way.
pub(crate) struct Trial<'a> {
    cluster: &'a Cluster,
    login: Option<&'a Login>,
    pub(crate) with: With,
    begin: Instant,
    patience: Duration,
    reach: Duration,
    effect: Effect,
    failures: u32,
    attached_again: bool,
    /// Members that did not serve this call, until all have been tried.
    avoid: Vec<Arc<Member>>,
    /// An HSM was lost that may have done it.
    perhaps_done: Option<String>,
    after_loss: bool,
}

impl<'a> Trial<'a> {
    pub(crate) fn new(cluster: &'a Cluster, login: Option<&'a Login>, patience: Duration, effect: Effect) -> Self {
        Self {
            cluster,
            login,
            with: With { sealed_objects: false },
            begin: Instant::now(),
            patience,
            reach: patience,
            effect,
            failures: 0,
            attached_again: false,
            avoid: Vec::new(),
            perhaps_done: None,
            after_loss: false,
        }
    }

    /// Gives more time to what takes long by nature.
    pub(crate) fn extend_for(&mut self, body: &request::Body) {
        self.patience = self.patience.max(patience_for(convert::method(body)));
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.begin + self.patience
    }

    /// Where to send it. Looks for a connection no longer than an ordinary call may take.
    pub(crate) fn route(&self) -> Result<Route, CallError> {
        let deadline = self.deadline().min(Instant::now() + self.reach);
        self.cluster.pool().route(deadline, &self.avoid, self.after_loss).map_err(|error| {
            match (&error, &self.perhaps_done) {
                // Not "unreachable", which says that it was not done.
                (CallError::Unreachable { .. }, Some(reason)) => self.outcome_unknown(reason.clone()),
                _ => error,
            }
        })
    }

    /// Sends the request on this connection, attached to its login.
    pub(crate) fn attempt(
        &self,
        route: &Route,
        body: request::Body,
        sequence: u64,
        lowest_unanswered: u64,
    ) -> Result<reply::Body, Stumble> {
        let pool = self.cluster.pool();
        let note = |told| pool.note(told);
        let watcher = Watcher::new(pool, route);
        let may_leave = self.effect != Effect::EachTime && pool.is_several();
        let watch = may_leave.then_some(&watcher as &dyn Watch);
        let patience = Patience { deadline: self.deadline(), watch };
        let session = match self.login {
            Some(login) => route.connection.session(login, pool.index(), patience, &note)?,
            None => 0,
        };
        let request = wire::Request { session, min_index: pool.index(), sequence, lowest_unanswered, body: Some(body) };
        route.connection.exchange(request, patience, &note)
    }

    /// Decides whether the call goes on: `Ok` = try again, after the pause that this made.
    pub(crate) fn recover(&mut self, route: &Route, stumble: Stumble) -> Result<(), CallError> {
        let failure = match stumble {
            Stumble::TooLarge => return Err(CallError::refused(ErrorCode::TooLarge)),
            Stumble::ReplayDiffers => return Err(CallError::refused(ErrorCode::StreamUnknown)),
            Stumble::NoAnswer(no_answer) => return self.recover_from_silence(route, no_answer),
            Stumble::Failure(failure) => failure,
        };
        let Some(code) = ErrorCode::from_number(failure.code) else {
            let fault = PeerFault::Code(failure.code);
            return Err(CallError::Peer { address: route.connection.address().to_owned(), fault });
        };
        let subject = match failure.subject {
            0 if code == ErrorCode::LoginDelayed => failure.retry_after_milliseconds.into(),
            subject => subject,
        };
        let refused = CallError::Refused { code, subject };
        match code {
            ErrorCode::SessionObjectUnknown if !self.with.sealed_objects => {
                self.with.sealed_objects = true;
                Ok(())
            }
            ErrorCode::NotLoggedIn if !self.attached_again => match self.login {
                Some(login) => {
                    // Refused before anything was done: perhaps the HSM has forgotten the index.
                    self.attached_again = true;
                    route.connection.detach(login);
                    Ok(())
                }
                None => Err(refused),
            },
            // Nothing was done, and another HSM may be better off.
            ErrorCode::Busy | ErrorCode::NotReady | ErrorCode::Isolated => {
                let at_least = Duration::from_millis(failure.retry_after_milliseconds.into());
                if self.turn_away(route) || self.pause(at_least) { Ok(()) } else { Err(refused) }
            }
            // Many log in at once, of whom all may be right: one after another they may.
            ErrorCode::LoginDelayed if subject <= LOGIN_WAIT_MILLISECONDS => {
                if self.pause(Duration::from_millis(subject)) { Ok(()) } else { Err(refused) }
            }
            ErrorCode::StorageFull | ErrorCode::Broken if self.effect != Effect::EachTime && self.turn_away(route) => {
                Ok(())
            }
            ErrorCode::Unknown
                if self.effect != Effect::EachTime && (self.turn_away(route) || self.pause(Duration::ZERO)) =>
            {
                Ok(())
            }
            _ => Err(refused),
        }
    }

    fn recover_from_silence(&mut self, route: &Route, no_answer: NoAnswer) -> Result<(), CallError> {
        let (reason, sent) = match no_answer {
            NoAnswer::Full if self.turn_away(route) || self.pause(Duration::ZERO) => return Ok(()),
            NoAnswer::Full => return Err(CallError::refused(ErrorCode::Busy)),
            NoAnswer::TimedOut => {
                let cluster = self.cluster.configuration().label.clone();
                return Err(CallError::TimedOut { cluster, waited: self.begin.elapsed() });
            }
            NoAnswer::Lost { reason, sent } => (reason, sent),
        };
        if let Lost::Peer(fault) = &*reason {
            let address = route.connection.address().to_owned();
            return Err(CallError::Peer { address, fault: fault.clone() });
        }
        if sent && self.effect != Effect::Harmless {
            self.perhaps_done = Some(reason.to_string());
            if self.effect == Effect::EachTime {
                return Err(self.outcome_unknown(reason.to_string()));
            }
        }
        // At once the first time: a restarted HSM is there again, or another one serves.
        self.failures += 1;
        self.after_loss = true;
        if self.turn_away(route) || self.failures == 1 || self.pause(Duration::ZERO) {
            return Ok(());
        }
        Err(match &self.perhaps_done {
            Some(reason) => self.outcome_unknown(reason.clone()),
            None => {
                let attempt = Attempt { address: route.connection.address().to_owned(), reason: reason.to_string() };
                CallError::Unreachable { cluster: self.cluster.configuration().label.clone(), attempts: vec![attempt] }
            }
        })
    }

    fn outcome_unknown(&self, reason: String) -> CallError {
        CallError::OutcomeUnknown { cluster: self.cluster.configuration().label.clone(), reason }
    }

    /// Goes to another HSM next; `false` when all have been tried, and begins anew.
    fn turn_away(&mut self, route: &Route) -> bool {
        let pool = self.cluster.pool();
        if !pool.is_several() {
            return false;
        }
        self.avoid.push(Arc::clone(&route.member));
        self.attached_again = false;
        let other = pool.has_other(&self.avoid);
        if !other {
            self.avoid.clear();
        }
        other
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
