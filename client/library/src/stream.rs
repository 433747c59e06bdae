//! Operations in parts. One lives on one connection; when that is lost, its input is replayed on another one.
//!
//! The replay begins the operation anew with the same parameters (the IV that an HSM made included) and gives all input
//! so far as one part; what comes out must be as long as what has been given out already, and is dropped. Input is kept
//! up to [`REPLAY_LIMIT`] bytes; beyond that a loss is [`CallError::StreamLost`].

use std::sync::Arc;

use hsm_protocol::ErrorCode;
use hsm_protocol::limits::{PART_LIMIT, REPLAY_LIMIT};
use hsm_protocol::wire::{self, mechanism, reply, request};
use zeroize::Zeroizing;

use crate::cluster::{Cluster, With};
use crate::connection::{Connection, NoAnswer, Stumble};
use crate::counters::add;
use crate::error::CallError;
use crate::login::Login;
use crate::member::{Member, Route};
use crate::system::CancellationBlocked;
use crate::trial::{Effect, Trial};

/// Makes the first message of an operation.
type Begin = Box<dyn Fn(With) -> wire::Operate + Send + Sync>;

/// Makes the reference to a key whose value is digested.
type KeyReference = Box<dyn Fn(With) -> wire::ObjectReference + Send + Sync>;

/// Time to tell an HSM that an operation is given up.
const ABANDON_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// What a part gave.
#[derive(Default)]
pub struct StreamOutput {
    /// Output of this part.
    pub data: Vec<u8>,
    /// The IV that the HSM made, when the mechanism asked for one and this part told it.
    pub iv: Vec<u8>,
}

/// An operation in parts, not begun on any HSM until its first part. Dropping it abandons it.
pub struct StreamCall {
    cluster: Cluster,
    login: Option<Login>,
    begin: Begin,
    pinned: Option<Pinned>,
    /// Parts so far, for a replay; `None` once they were too much.
    replay: Option<Vec<Input>>,
    input_bytes: u64,
    /// Bytes given out so far.
    output_bytes: usize,
    iv: Vec<u8>,
    over: bool,
}

/// Where the operation lives.
struct Pinned {
    member: Arc<Member>,
    connection: Arc<Connection>,
    stream: u64,
    next_part: u64,
}

enum Input {
    Data(Zeroizing<Vec<u8>>),
    Key(KeyReference),
}

/// A part to send.
#[derive(Clone, Copy)]
enum Part<'a> {
    Data(&'a [u8]),
    Key(&'a KeyReference),
    Finish { signature: &'a [u8] },
}

impl StreamCall {
    pub(crate) fn new(cluster: Cluster, login: Option<Login>, begin: Begin) -> Self {
        let replay = Some(Vec::new());
        let (pinned, iv) = (None, Vec::new());
        Self { cluster, login, begin, pinned, replay, input_bytes: 0, output_bytes: 0, iv, over: false }
    }

    /// Feeds input of any length, and gives the output that it completed.
    ///
    /// # Errors
    /// [`CallError`]; after any the operation is over.
    pub fn update(&mut self, data: &[u8]) -> Result<StreamOutput, CallError> {
        let mut output = StreamOutput::default();
        for piece in data.chunks(PART_LIMIT) {
            let reply = self.feed(Part::Data(piece))?;
            self.keep(Input::Data(Zeroizing::new(piece.to_vec())), piece.len());
            output.data.extend_from_slice(&reply.data);
            output.iv = reply.iv;
        }
        Ok(output)
    }

    /// Feeds the value of a key (`C_DigestKey`).
    ///
    /// # Errors
    /// [`CallError`]; after any the operation is over.
    pub fn update_with_key(&mut self, key: KeyReference) -> Result<StreamOutput, CallError> {
        let reply = self.feed(Part::Key(&key))?;
        self.keep(Input::Key(key), 0);
        Ok(reply)
    }

    /// Ends the operation: the signature, digest or last output; for a verification `signature` is checked.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn finish(mut self, signature: &[u8]) -> Result<StreamOutput, CallError> {
        let mut output = self.feed(Part::Finish { signature })?;
        let mut piece = output.data.len();
        // Just as much as goes into one answer: the rest follows. It lies with this HSM, so it cannot be replayed.
        while piece == PART_LIMIT {
            self.replay = None;
            let next = self.feed(Part::Finish { signature: &[] })?;
            piece = next.data.len();
            output.data.extend_from_slice(&next.data);
        }
        self.over = true;
        Ok(output)
    }

    /// Bytes of input so far.
    pub fn input_bytes(&self) -> u64 {
        self.input_bytes
    }

    fn keep(&mut self, input: Input, bytes: usize) {
        self.input_bytes += bytes as u64;
        if self.input_bytes > REPLAY_LIMIT as u64 {
            self.replay = None;
        }
        if let Some(replay) = &mut self.replay {
            match (replay.last_mut(), input) {
                // Never grown in place: a reallocation would leave a copy of the input behind unwiped.
                (Some(Input::Data(last)), Input::Data(more)) if last.capacity() - last.len() >= more.len() => {
                    last.extend_from_slice(&more);
                }
                (_, Input::Data(more)) if more.len() < SMALL_PART => {
                    let mut roomy = Zeroizing::new(Vec::with_capacity(SMALL_PART));
                    roomy.extend_from_slice(&more);
                    replay.push(Input::Data(roomy));
                }
                (_, input) => replay.push(input),
            }
        }
    }

    fn feed(&mut self, part: Part<'_>) -> Result<StreamOutput, CallError> {
        self.cluster.check_process()?;
        if self.over {
            return Err(CallError::refused(ErrorCode::StreamUnknown));
        }
        let _blocked = CancellationBlocked::new();
        let output = self.feed_until_done(part);
        match &output {
            Ok(output) => {
                self.output_bytes += output.data.len();
                if !output.iv.is_empty() {
                    self.iv.clone_from(&output.iv);
                }
            }
            Err(_) => {
                self.abandon();
                self.over = true;
            }
        }
        output
    }

    fn feed_until_done(&mut self, part: Part<'_>) -> Result<StreamOutput, CallError> {
        let cluster = self.cluster.clone();
        let login = self.login.clone();
        let _busy = cluster.pool().enter();
        let mut trial = Trial::new(&cluster, login.as_ref(), cluster.configuration().call_timeout, self.effect());
        let outcome = self.attempt_until_done(&cluster, &mut trial, part);
        trial.ended(outcome.as_ref().err());
        outcome
    }

    fn attempt_until_done(
        &mut self,
        cluster: &Cluster,
        trial: &mut Trial<'_>,
        part: Part<'_>,
    ) -> Result<StreamOutput, CallError> {
        loop {
            if self.pinned.as_ref().is_some_and(|pinned| self.is_to_be_left(&pinned.connection)) {
                self.pinned = None;
            }
            if self.pinned.is_none() && self.replay.is_none() {
                return Err(CallError::StreamLost { input: self.input_bytes });
            }
            let (route, outcome) = match &self.pinned {
                Some(pinned) => (Route::new(Arc::clone(&pinned.member), Arc::clone(&pinned.connection)), Ok(())),
                None => {
                    let route = trial.route()?;
                    let outcome = self.replay_on(&route, trial);
                    (route, outcome)
                }
            };
            let outcome = outcome.and_then(|()| self.send_part(trial, part));
            let stumble = match outcome {
                Ok(output) => return Ok(output),
                Err(Stumble::ReplayDiffers) => return Err(CallError::StreamLost { input: self.input_bytes }),
                Err(stumble) => stumble,
            };
            match &stumble {
                Stumble::NoAnswer(NoAnswer::Lost { .. }) if self.replay.is_none() => {
                    self.pinned = None;
                    return Err(CallError::StreamLost { input: self.input_bytes });
                }
                Stumble::NoAnswer(NoAnswer::Lost { .. }) => self.pinned = None,
                // It lags, is cut off or stops: another one serves if all can be brought there.
                Stumble::Failure(failure) if self.replay.is_some() && is_elsewhere_better(failure) => self.abandon(),
                _ => {}
            }
            trial.recover(&route, stumble)?;
            add(&cluster.pool().counters.repeats, 1);
        }
    }

    /// A part that cannot be replayed must be waited for: it would be lost with its connection.
    fn effect(&self) -> Effect {
        if self.replay.is_some() { Effect::Harmless } else { Effect::EachTime }
    }

    /// Whether nothing more is to be had on a connection: it is lost, or its HSM was found dead and the input is here.
    fn is_to_be_left(&self, connection: &Connection) -> bool {
        connection.is_lost() || (self.replay.is_some() && !connection.is_alive())
    }

    /// Begins the operation on a connection and brings it to where it was.
    fn replay_on(&mut self, route: &Route, trial: &Trial<'_>) -> Result<(), Stumble> {
        let (member, connection) = (Arc::clone(&route.member), Arc::clone(&route.connection));
        let stream = connection.new_stream();
        self.pinned = Some(Pinned { member, connection, stream, next_part: 0 });
        let Some(inputs) = self.replay.take() else {
            return Ok(());
        };
        let outcome = self.replay_inputs(&inputs, trial);
        self.replay = Some(inputs);
        match outcome {
            Ok(bytes) if bytes != self.output_bytes => {
                self.abandon();
                Err(Stumble::ReplayDiffers)
            }
            Ok(_) => Ok(()),
            Err(stumble) => {
                self.abandon();
                Err(stumble)
            }
        }
    }

    fn replay_inputs(&mut self, inputs: &[Input], trial: &Trial<'_>) -> Result<usize, Stumble> {
        let mut output_bytes = 0;
        let mut data = Zeroizing::new(Vec::with_capacity(data_bytes(inputs)));
        for input in inputs {
            match input {
                Input::Data(piece) => data.extend_from_slice(piece),
                Input::Key(key) => {
                    output_bytes += self.replay_data(&data, trial)?;
                    data.clear();
                    output_bytes += self.send_part(trial, Part::Key(key))?.data.len();
                }
            }
        }
        Ok(output_bytes + self.replay_data(&data, trial)?)
    }

    fn replay_data(&mut self, data: &[u8], trial: &Trial<'_>) -> Result<usize, Stumble> {
        if data.is_empty() { Ok(0) } else { Ok(self.send_part(trial, Part::Data(data))?.data.len()) }
    }

    fn send_part(&mut self, trial: &Trial<'_>, part: Part<'_>) -> Result<StreamOutput, Stumble> {
        let Some(pinned) = &mut self.pinned else {
            return Err(Stumble::Failure(wire::Failure {
                code: ErrorCode::StreamUnknown as u32,
                ..Default::default()
            }));
        };
        let begin = (pinned.next_part == 0).then(|| with_iv((self.begin)(trial.with), &self.iv));
        let mut message = wire::Stream { stream: pinned.stream, part: pinned.next_part, begin, ..Default::default() };
        match part {
            Part::Data(data) => message.data = data.to_vec(),
            Part::Key(key) => message.digest_key = Some(key(trial.with)),
            Part::Finish { signature } => {
                message.finish = true;
                message.signature = signature.to_vec();
            }
        }
        let route = Route::new(Arc::clone(&pinned.member), Arc::clone(&pinned.connection));
        match trial.attempt(&route, request::Body::Stream(message), 0, 0)? {
            reply::Body::Bytes(reply) => {
                pinned.next_part += 1;
                Ok(StreamOutput { data: reply.data, iv: reply.iv })
            }
            reply::Body::Done(_) => {
                pinned.next_part += 1;
                Ok(StreamOutput::default())
            }
            _ => Err(pinned.connection.broken_answer()),
        }
    }

    /// Frees what the HSM keeps for the operation.
    fn abandon(&mut self) {
        let Some(pinned) = self.pinned.take() else {
            return;
        };
        if pinned.next_part == 0 || !pinned.connection.is_alive() {
            return;
        }
        let _blocked = CancellationBlocked::new();
        let trial = Trial::new(&self.cluster, self.login.as_ref(), ABANDON_PATIENCE, Effect::Harmless);
        let message = request::Body::AbandonStream(wire::AbandonStream { stream: pinned.stream });
        let route = Route::new(pinned.member, pinned.connection);
        if trial.attempt(&route, message, 0, 0).is_err() {
            tracing::debug!("an abandoned operation stays with its HSM until the connection ends");
        }
    }
}

/// Whether an HSM says that it cannot serve now, so that another one should.
fn is_elsewhere_better(failure: &wire::Failure) -> bool {
    matches!(
        ErrorCode::from_number(failure.code),
        Some(ErrorCode::NotReady | ErrorCode::Isolated | ErrorCode::Broken | ErrorCode::StorageFull)
    )
}

/// Small parts are collected in pieces of this many bytes, so that a replay has few of them.
const SMALL_PART: usize = 4096;

fn data_bytes(inputs: &[Input]) -> usize {
    inputs.iter().map(|input| if let Input::Data(piece) = input { piece.len() } else { 0 }).sum()
}

/// The HSM that first began the operation may have made its IV; every other one must use the same.
fn with_iv(mut begin: wire::Operate, iv: &[u8]) -> wire::Operate {
    if iv.is_empty() {
        return begin;
    }
    if let Some(wire::Mechanism { parameters: Some(mechanism::Parameters::Gcm(gcm)), .. }) = &mut begin.mechanism {
        gcm.iv = iv.to_vec();
        gcm.generate_iv = false;
    }
    begin
}

impl Drop for StreamCall {
    fn drop(&mut self) {
        if self.cluster.forked() {
            self.cluster.pool().guard.abandon_sockets();
            if let Some(pinned) = self.pinned.take() {
                std::mem::forget(pinned);
            }
        } else if !self.over {
            self.abandon();
        }
    }
}
