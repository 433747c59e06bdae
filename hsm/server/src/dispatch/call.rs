//! One request under way: who asks, where, and the three ways to an answer: at once, from a worker, or from the log.

use std::sync::Arc;
use std::time::Instant;

use hsm_core::command::Origin;
use hsm_core::{Action, Actor, Index, Response, SessionId};
use hsm_protocol::frame::Header;
use hsm_protocol::wire::reply::Body;
use hsm_protocol::{ErrorCode, wire};
use hsm_replication::Outcome;

use super::barrier;
use super::caller::{Connection, reply_message};
use super::failure::Failure;
use super::label::Label;
use super::limits::{BUSY_RETRY, EPOCH_PAUSE, INDEX_WAIT, REMAKES};
use super::newborn;
use super::service::Service;
use super::workers::Workers;
use crate::connection::late::LateReply;
use crate::limits::EPOCH_WAIT;

/// A queue or a count is full.
const BUSY: Failure = Failure { code: ErrorCode::Busy, subject: 0, retry_after: BUSY_RETRY };

/// What became of a request.
pub(crate) enum Answered {
    /// Its reply.
    Now(Body),
    /// The reply comes from another thread.
    Later,
}

/// What every chapter returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A request on the thread that runs it.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) service: &'a Arc<Service>,
    pub(crate) connection: &'a Arc<Connection>,
    pub(crate) header: Header,
    /// Who acts. [`Call::check`] says whether he still may.
    pub(crate) actor: Actor,
    pub(crate) sequence: u64,
    pub(crate) lowest_unanswered: u64,
    /// Size of the request in bytes.
    pub(crate) bytes: usize,
    /// What it is counted and logged as.
    pub(crate) label: Label,
}

impl Call<'_> {
    /// Waits until this HSM is as new as what the client has seen.
    pub(crate) fn wait_for_index(&self, minimum: u64) -> Result<()> {
        let node = self.service.node();
        if node.applied().0 >= minimum || node.wait_for(Index(minimum), INDEX_WAIT) {
            return Ok(());
        }
        Err(Failure { code: ErrorCode::NotReady, subject: 0, retry_after: BUSY_RETRY })
    }

    /// Waits until this HSM has the key of the present epoch, which it opens within milliseconds after the log began it.
    /// For threads that may wait.
    pub(crate) fn wait_for_epoch(&self) -> Result<()> {
        let deadline = Instant::now() + EPOCH_WAIT;
        while !self.has_epoch() {
            if Instant::now() >= deadline {
                return Err(Failure { code: ErrorCode::NotReady, subject: 0, retry_after: BUSY_RETRY });
            }
            std::thread::sleep(EPOCH_PAUSE);
        }
        Ok(())
    }

    /// Whether this HSM has the key of the present epoch. Without it, what others sealed may not open here, which is not
    /// the client's fault.
    pub(crate) fn has_epoch(&self) -> bool {
        let epoch = self.service.node().read().cluster().map(|cluster| cluster.epoch);
        epoch.is_none_or(|epoch| self.service.keys().epoch() >= epoch)
    }

    /// The code for what does not open: another one while this HSM does not have the present epoch's key.
    pub(crate) fn unless_behind(&self, code: ErrorCode) -> Failure {
        if self.has_epoch() { code.into() } else { Failure::after(ErrorCode::NotReady, u64::from(BUSY_RETRY)) }
    }

    /// Whether the actor's login still stands and the cluster is in service.
    pub(crate) fn check(&self) -> Result<()> {
        let node = self.service.node();
        Ok(node.read().check(&self.actor, node.now())?)
    }

    /// The login of this request.
    ///
    /// # Errors
    /// [`ErrorCode::NotLoggedIn`] when nobody is logged in.
    pub(crate) fn session(&self) -> Result<SessionId> {
        match self.actor {
            Actor::Session { session, .. } => Ok(session),
            Actor::Nobody => Err(ErrorCode::NotLoggedIn.into()),
        }
    }

    /// Under which number a command of this request goes through the log.
    pub(crate) fn origin(&self) -> Origin {
        let session = match self.actor {
            Actor::Session { session, .. } => Some(session),
            Actor::Nobody => None,
        };
        Origin { session, sequence: self.sequence, lowest_unanswered: self.lowest_unanswered }
    }

    /// The answer that this call had before, if it is a repetition.
    pub(crate) fn first_answer(&self) -> Option<Result<Body>> {
        if self.sequence == 0 {
            return None;
        }
        let answer = self.service.node().read().first_answer(&self.origin())?;
        Some(answer.map_err(Failure::from).and_then(|response| newborn::repeated(self, response)))
    }

    /// Answers a repeated call, whose change was done, as its first execution would have been.
    pub(crate) fn answer_again(&self, body: Body) -> Result<Answered> {
        if !barrier::follows_method(self.header.method) {
            return Ok(Answered::Now(body));
        }
        let applied = self.service.node().applied();
        self.begin_late()?.answer_after_barrier(applied, body);
        Ok(Answered::Later)
    }

    /// Goes on with this request on a worker for long computations.
    pub(crate) fn compute(&self, job: impl FnOnce(&Call<'_>) -> Result<Body> + Send + 'static) -> Result<Answered> {
        self.on(self.service.compute(), job)
    }

    /// Goes on with this request on one of the few threads that look at passwords.
    pub(crate) fn with_password(
        &self,
        job: impl FnOnce(&Call<'_>) -> Result<Body> + Send + 'static,
    ) -> Result<Answered> {
        self.on(self.service.passwords(), job)
    }

    fn on(&self, workers: &Workers, job: impl FnOnce(&Call<'_>) -> Result<Body> + Send + 'static) -> Result<Answered> {
        let place = workers.place().ok_or(BUSY)?;
        let late = self.begin_late()?;
        place.take(Box::new(move || {
            let result = job(&late.call());
            late.answer(result);
        }));
        Ok(Answered::Later)
    }

    /// Takes the request off its connection's thread.
    fn begin_late(&self) -> Result<LateCall> {
        let reply = LateReply::begin(self.connection.link(), self.header, self.bytes).ok_or(BUSY)?;
        Ok(LateCall {
            service: Arc::clone(self.service),
            connection: Arc::clone(self.connection),
            actor: self.actor,
            sequence: self.sequence,
            lowest_unanswered: self.lowest_unanswered,
            bytes: self.bytes,
            label: self.label,
            begin: Instant::now(),
            reply,
        })
    }

    /// Makes a change and proposes it to the log. `make` runs on this thread, or on a worker when it is long; again if
    /// the object changed while it was made.
    pub(crate) fn change(&self, effort: Effort, make: Make) -> Result<Answered> {
        match effort {
            Effort::Short => {
                // Refusals and results that need no log are answered with the batch.
                let (action, then) = match make(self)? {
                    Made::Body(body) => return Ok(Answered::Now(body)),
                    Made::Action(action, then) => (action, then),
                };
                Change { late: self.begin_late()?, make, remakes: REMAKES, barrier: false }.propose(action, then);
            }
            Effort::Long | Effort::Password => {
                let change = Change { late: self.begin_late()?, make, remakes: REMAKES, barrier: false };
                change.make_on(if effort == Effort::Long { self.service.compute() } else { self.service.passwords() });
            }
        }
        Ok(Answered::Later)
    }

    /// Proposes an action for which nothing must be made and whose success says nothing more.
    pub(crate) fn change_plainly(&self, action: Action) -> Result<Answered> {
        self.change(
            Effort::Short,
            Box::new(move |_| Ok(Made::Action(action.clone(), Box::new(|_, _| Ok(Body::Done(wire::Done::default())))))),
        )
    }
}

/// Where a change is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// On the connection's thread.
    Short,
    /// On a worker.
    Long,
    /// On one of the few threads that stretch passwords.
    Password,
}

/// Makes what a change needs. Called again when the object changed meanwhile.
pub(crate) type Make = Box<dyn Fn(&Call<'_>) -> Result<Made> + Send>;

/// What was made.
pub(crate) enum Made {
    /// The reply: there is nothing for the log.
    Body(Body),
    /// A command, and what its response becomes.
    Action(Action, Then),
}

/// Turns the log's response into a reply. Runs on the log's thread: must be quick.
pub(crate) type Then = Box<dyn FnOnce(&Call<'_>, Response) -> Result<Body> + Send>;

/// A request that has left its connection's thread.
pub(crate) struct LateCall {
    service: Arc<Service>,
    connection: Arc<Connection>,
    actor: Actor,
    sequence: u64,
    lowest_unanswered: u64,
    bytes: usize,
    label: Label,
    begin: Instant,
    reply: LateReply,
}

impl LateCall {
    fn call(&self) -> Call<'_> {
        Call {
            service: &self.service,
            connection: &self.connection,
            header: self.reply.header(),
            actor: self.actor,
            sequence: self.sequence,
            lowest_unanswered: self.lowest_unanswered,
            bytes: self.bytes,
            label: self.label,
        }
    }

    /// Sends the reply from this thread.
    fn answer(self, result: Result<Body>) {
        // A long computation may have outlived the time for which this HSM may go on.
        let result = result.and_then(|body| self.call().check_serving().map(|()| body));
        let index = self.service.node().applied();
        self.count(index, &result);
        self.reply.give(&reply_message(&self.service, index.0, result));
    }

    /// Has the courier send the reply: for the log's threads.
    fn answer_by_courier(self, index: Index, result: Result<Body>) {
        self.count(index, &result);
        self.reply.give_by_courier(&reply_message(&self.service, index.0, result));
    }

    /// Sends the reply once every HSM knows of the change at `index`, or it is known which may not.
    fn answer_after_barrier(self, index: Index, body: Body) {
        let service = Arc::clone(&self.service);
        barrier::after(&service, index, move |ended| self.answer_by_courier(index, barrier::answer(body, ended)));
    }

    fn count(&self, index: Index, result: &Result<Body>) {
        let code = result.as_ref().err().map_or(0, |failure| failure.code as u32);
        self.label.ended(&self.service, self.connection.link().number(), self.begin, index, code);
    }
}

/// A change on its way through making and the log.
struct Change {
    late: LateCall,
    make: Make,
    remakes: u32,
    /// Whether the answer waits until every HSM knows.
    barrier: bool,
}

impl Change {
    fn make_on(self, workers: &Workers) {
        let Some(place) = workers.place() else {
            let applied = self.late.service.node().applied();
            return self.late.answer_by_courier(applied, Err(BUSY));
        };
        let make = |change: &Self| {
            let call = change.late.call();
            call.wait_for_epoch().and_then(|()| (change.make)(&call))
        };
        let job = move || match make(&self) {
            Ok(Made::Action(action, then)) => self.propose(action, then),
            Ok(Made::Body(body)) => self.late.answer(Ok(body)),
            // Its first execution may have come in between.
            Err(failure) => {
                let first = self.late.call().first_answer();
                self.late.answer(first.unwrap_or(Err(failure)));
            }
        };
        place.take(Box::new(job));
    }

    fn propose(mut self, action: Action, then: Then) {
        if let Err(failure) = self.late.call().check_merged() {
            let applied = self.late.service.node().applied();
            return self.late.answer_by_courier(applied, Err(failure));
        }
        self.barrier = barrier::follows(&action);
        let service = Arc::clone(&self.late.service);
        service.metrics().proposal();
        let origin = self.late.call().origin();
        let trace = self.late.label.trace;
        service.node().propose_traced(trace, origin, action, Box::new(move |outcome| self.settle(outcome, then)));
    }

    fn settle(mut self, outcome: Outcome, then: Then) {
        let applied = self.late.service.node().applied();
        match outcome {
            Outcome::Done { index, result: Ok(response) } => {
                let result = then(&self.late.call(), response);
                match result {
                    Ok(body) if self.barrier => self.late.answer_after_barrier(index, body),
                    result => self.late.answer_by_courier(index, result),
                }
            }
            Outcome::Done { result: Err(refusal), .. }
                if refusal.code == ErrorCode::ObjectChanged && self.remakes > 0 =>
            {
                self.remakes -= 1;
                let service = Arc::clone(&self.late.service);
                self.make_on(service.compute());
            }
            Outcome::Done { index, result: Err(refusal) } => {
                self.late.answer_by_courier(index, Err(refusal.into()));
            }
            Outcome::Unavailable(code) => {
                let failure = if code == ErrorCode::Busy { BUSY } else { code.into() };
                self.late.answer_by_courier(applied, Err(failure));
            }
            Outcome::Unknown => self.late.answer_by_courier(applied, Err(ErrorCode::Unknown.into())),
        }
    }
}
