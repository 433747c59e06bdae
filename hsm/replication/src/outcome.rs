//! What a caller learns of its command, and who carries out the effects.

use hsm_core::{Command, Effect, Index, Refusal, Response};
use hsm_protocol::ErrorCode;

/// What became of a proposed command.
#[derive(Clone)]
pub enum Outcome {
    /// It was decided, on durable storage, at this position of the log: done, or refused by the state machine.
    Done {
        /// Position of the command.
        index: Index,
        /// What `apply` answered. A refusal is as final and as durable as a success.
        result: Result<Response, Refusal>,
    },
    /// It was not executed and never will be: `Busy` (queue full), `NotReady` (starting, stopping, no leader),
    /// `StorageFull`, `TooLarge` (over [`crate::limits::ENTRY_BYTES`]) or `Broken` (this node has stopped).
    Unavailable(ErrorCode),
    /// It may or may not be executed, now or later. A retry with the same sequence number learns which.
    Unknown,
}

impl Outcome {
    /// The response, or the code that a client gets.
    ///
    /// # Errors
    /// The refusal of the state machine, or one made of the code of `Unavailable` and `Unknown`.
    pub fn into_result(self) -> Result<(Index, Response), Refusal> {
        match self {
            Self::Done { index, result } => result.map(|response| (index, response)),
            Self::Unavailable(code) => Err(code.into()),
            Self::Unknown => Err(ErrorCode::Unknown.into()),
        }
    }
}

/// What runs once when the outcome of a command is known. Called on a thread of this crate: hand over and return.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// Carries out the effects of applied commands, in the order of the log.
///
/// `Respond` and `Audit` never come here: the one becomes the [`Outcome`], the other a row of the audit log. An effect
/// comes after its command is durable and absorbed, and before the command's caller learns the outcome. After a crash
/// the effects of the last entries come *again*, so carrying one out twice must be harmless.
///
/// Called on the thread that applies: hand over and return at once.
pub trait EffectSink: Send + Sync {
    /// The command at `index` was decided; `hash` is the chain of hashes through it. Comes before its effects, and is for
    /// those who watch the log go by: the simulator compares what every member applies.
    fn decided(&self, _index: Index, _hash: &[u8; 48], _command: &Command, _answer: &Result<Response, Refusal>) {}

    /// One effect of the command at `index`.
    fn carry_out(&self, index: Index, effect: Effect);

    /// Whether this machine's memory fails while it applies this command, so that it comes to another state.
    #[cfg(hsm_sim)]
    fn falters(&self, index: Index) -> bool {
        let _ = index;
        false
    }
}

/// Drops every effect: for tools and tests that have no clients.
pub struct NoEffects;

impl EffectSink for NoEffects {
    fn carry_out(&self, _index: Index, _effect: Effect) {}
}
