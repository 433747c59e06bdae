//! One call on its way through attempts: how long it may take, what a stumble means, and where it goes next.
//!
//! The table of what may be repeated is at the head of [`crate::cluster`].

use std::fmt::{Display, Formatter};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hsm_protocol::trace::{TARGET, Trace};
use hsm_protocol::wire::{self, reply, request};
use hsm_protocol::{ErrorCode, Party, convert};

use crate::backoff;
use crate::cluster::{Cluster, With};
use crate::connection::{Lost, NoAnswer, Patience, Short, Stumble, Watch};
use crate::error::{Attempt, CallError, PeerFault};
use crate::limits::{LOGIN_WAIT_MILLISECONDS, SLOW_CALL};
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
    /// By which the logs here and at the HSMs know this call.
    trace: Trace,
    login: Option<&'a Login>,
    pub(crate) with: With,
    begin: Instant,
    patience: Duration,
    reach: Duration,
    effect: Effect,
    failures: u32,
    /// How often the login was attached again at the HSM that is asked now.
    attached_again: usize,
    /// Members that did not serve this call, until all have been tried.
    avoid: Vec<Arc<Member>>,
    /// An HSM was lost that may have done it.
    perhaps_done: Option<String>,
    after_loss: bool,
    /// Seconds are no wonder.
    is_long: bool,
}

impl<'a> Trial<'a> {
    pub(crate) fn new(cluster: &'a Cluster, login: Option<&'a Login>, patience: Duration, effect: Effect) -> Self {
        Self {
            cluster,
            trace: cluster.pool().new_trace(),
            login,
            with: With::default(),
            begin: Instant::now(),
            patience,
            reach: patience,
            effect,
            failures: 0,
            attached_again: 0,
            avoid: all_but_home(cluster, login),
            perhaps_done: None,
            after_loss: false,
            is_long: false,
        }
    }

    /// Gives more time to what takes long by nature.
    pub(crate) fn extend_for(&mut self, body: &request::Body) {
        let least = patience_for(convert::method(body));
        self.is_long = least == KEY_PAIR_PATIENCE;
        self.patience = self.patience.max(least);
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
            Some(login) => route.connection.session(login, pool.index(), self.trace, patience, &note)?,
            None => 0,
        };
        let (min_index, trace) = (pool.index(), self.trace.0);
        let request = wire::Request { session, min_index, sequence, lowest_unanswered, trace, body: Some(body) };
        route.connection.exchange(request, patience, &note)
    }

    /// Decides whether the call goes on: `Ok` = try again, after the pause that this made.
    pub(crate) fn recover(&mut self, route: &Route, stumble: Stumble) -> Result<(), CallError> {
        let (hsm, reason) = (Short(&route.connection.hsm()), Reason(&stumble));
        tracing::debug!(target: TARGET, trace = %self.trace, %hsm, %reason, "an attempt did not succeed");
        self.decide(route, stumble)
    }

    /// The line of a call that is over, by which the application's log leads to those of the HSMs: at level debug; above
    /// it when the call took long or failed for another reason than the caller's own.
    pub(crate) fn ended(&self, error: Option<&CallError>) {
        let milliseconds = self.begin.elapsed().as_millis();
        let outcome = Ended(error);
        if error.is_some_and(is_news) || (self.begin.elapsed() >= SLOW_CALL && !self.is_long) {
            tracing::warn!(target: TARGET, trace = %self.trace, milliseconds, %outcome, "a call failed or took long");
        } else if error.is_some() {
            tracing::info!(target: TARGET, trace = %self.trace, milliseconds, %outcome, "a call was refused");
        } else {
            tracing::debug!(target: TARGET, trace = %self.trace, milliseconds, %outcome, "a call is done");
        }
    }

    fn decide(&mut self, route: &Route, stumble: Stumble) -> Result<(), CallError> {
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
            // It is the HSM that took the login alone which knows it, and that one cannot be reached.
            ErrorCode::NotLoggedIn if self.is_away_from_home(route) => {
                if self.turn_away(route) || self.pause(Duration::ZERO) { Ok(()) } else { Err(refused) }
            }
            ErrorCode::NotLoggedIn if self.attached_again < self.cluster.configuration().connections => {
                match self.login {
                    Some(login) => {
                        // Refused before anything was done: perhaps the HSM has forgotten the index. It forgets those of all
                        // connections when a new epoch begins, and the next attempt may take another one.
                        self.attached_again += 1;
                        route.connection.detach(login);
                        Ok(())
                    }
                    None => Err(refused),
                }
            }
            ErrorCode::Isolated if !self.with.isolated => {
                // Others are asked first, also those that only this HSM knows; if there are none, it may take a login alone.
                self.with.isolated = !self.turn_away(route) && !self.turn_to_unknown(route);
                Ok(())
            }
            ErrorCode::LoginNotMerged => {
                let at_least = Duration::from_millis(failure.retry_after_milliseconds.into());
                if self.pause(at_least) { Ok(()) } else { Err(refused) }
            }
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

    /// Whether the login is known to one HSM alone, and this is another one.
    fn is_away_from_home(&self, route: &Route) -> bool {
        self.login.and_then(Login::home).is_some_and(|home| home != route.connection.hsm())
    }

    /// Goes to another HSM next; `false` when all have been tried, and begins anew.
    fn turn_away(&mut self, route: &Route) -> bool {
        let pool = self.cluster.pool();
        if !pool.is_several() {
            return false;
        }
        self.avoid.push(Arc::clone(&route.member));
        self.attached_again = 0;
        let other = pool.has_other(&self.avoid);
        if !other {
            self.avoid = all_but_home(self.cluster, self.login);
        }
        other
    }

    /// Learns of members that this process does not know yet, and goes there next.
    fn turn_to_unknown(&mut self, route: &Route) -> bool {
        let pool = self.cluster.pool();
        if !pool.roster.is_wanted() {
            return false;
        }
        pool.ask_for_roster(&route.connection, self.deadline());
        self.turn_away(route)
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

/// Where a call does not go first: a login that one HSM took alone is known there.
fn all_but_home(cluster: &Cluster, login: Option<&Login>) -> Vec<Arc<Member>> {
    login.and_then(Login::home).map_or_else(Vec::new, |home| cluster.pool().all_but(home))
}

/// Why an attempt failed, for the log.
struct Reason<'a>(&'a Stumble);

impl Display for Reason<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Stumble::TooLarge => formatter.write_str("the request is too large"),
            Stumble::ReplayDiffers => formatter.write_str("a replayed operation gave other output"),
            Stumble::NoAnswer(NoAnswer::Full) => formatter.write_str("too many calls are under way"),
            Stumble::NoAnswer(NoAnswer::TimedOut) => formatter.write_str("no answer in time"),
            Stumble::NoAnswer(NoAnswer::Lost { reason, .. }) => reason.fmt(formatter),
            Stumble::Failure(failure) => match ErrorCode::from_number(failure.code) {
                Some(code) => write!(formatter, "{code:?}"),
                None => write!(formatter, "code {}", failure.code),
            },
        }
    }
}

/// How a call ended, for the log.
struct Ended<'a>(Option<&'a CallError>);

impl Display for Ended<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            None => formatter.write_str("done"),
            Some(CallError::Refused { code, .. }) => write!(formatter, "{code:?}"),
            Some(error) => error.fmt(formatter),
        }
    }
}

/// Whether an operator should hear of a failed call: what the caller did wrong or may not do is his own business.
fn is_news(error: &CallError) -> bool {
    match error {
        CallError::Refused { code, .. } => !matches!(code.party(), Party::Refusal | Party::Misuse),
        _ => true,
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
