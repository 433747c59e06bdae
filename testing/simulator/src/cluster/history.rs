//! What was asked, told and decided in a run. The invariants judge it; nothing here does.

use std::collections::{BTreeMap, BTreeSet};

use hsm_core::command::Origin;
use hsm_core::{Action, Command, Index, ObjectHandle, Refusal, Response, SessionId, UserId};
use hsm_replication::Outcome;
use parking_lot::Mutex;

/// One attempt of one client to have something done, at one HSM.
#[derive(Clone)]
pub struct Call {
    /// Which client.
    pub client: usize,
    /// The machine that was asked.
    pub place: usize,
    /// In whose name, and under which number.
    pub origin: Origin,
    /// What.
    pub action: Action,
    /// When, in microseconds of the run.
    pub asked: u64,
    /// When the answer came, and what it was; `None` when none came.
    pub told: Option<(u64, Outcome)>,
}

impl Call {
    /// Position and result, if it was decided as far as the client knows.
    pub fn done(&self) -> Option<(Index, &Result<Response, Refusal>)> {
        match &self.told {
            Some((_, Outcome::Done { index, result })) => Some((*index, result)),
            _ => None,
        }
    }

    /// Whether it was surely never executed.
    pub fn is_void(&self) -> bool {
        matches!(&self.told, Some((_, Outcome::Unavailable(_))))
    }

    /// Whether it was done and not refused, as far as the client knows.
    pub fn is_success(&self) -> bool {
        self.done().is_some_and(|(_, result)| result.is_ok())
    }
}

/// A command as a member decided it.
#[derive(Clone)]
pub struct Decided {
    /// The chain of hashes through it.
    pub hash: [u8; 48],
    /// The command.
    pub command: Command,
    /// The answer.
    pub answer: Result<Response, Refusal>,
}

/// What was seen of a run.
#[derive(Default)]
pub struct Seen {
    /// All calls, in the order in which they were made.
    pub calls: Vec<Call>,
    /// The log, as the first member that applied each command decided it.
    pub decided: BTreeMap<u64, Decided>,
    /// Members that decided something else at an index: `(index, place)`.
    pub conflicts: Vec<(u64, usize)>,
    /// Who said that it leads, by term.
    pub leaders: BTreeMap<u64, BTreeSet<u64>>,
    /// The highest term that each node was seen in.
    pub terms: BTreeMap<u64, u64>,
    /// Nodes that were in an earlier term again.
    pub forgotten_votes: Vec<String>,
    /// Answers that a machine gave although it was cut off from every majority all the time: numbers of calls.
    pub alone: Vec<usize>,
    /// What nodes stopped for although nothing was done to their disk, or what must never be: `(place, text)`.
    pub faults: Vec<(usize, String)>,
    /// Two nodes at one index with different hashes of chain or state.
    pub different: Vec<String>,
    /// Members that went on with another state than the others.
    pub differing: Vec<String>,
    /// Nodes that vote and have no state.
    pub empty_voters: Vec<String>,
    /// Nodes that took part although their disk had forgotten what they knew.
    pub forgetful: Vec<String>,
    /// Machines that had no business to be answered, and were.
    pub strangers: Vec<String>,
    /// HSMs that served what they must not: a deleted key, a disabled user.
    pub stale: Vec<(&'static str, String)>,
    /// What is said of single registers, for the judge of linearizability.
    pub registers: Vec<RegisterCall>,
    /// Users for whom only wrong passwords were tried.
    pub victims: Vec<Victim>,
    /// Steps of the observer, so that a run that saw nothing is noticed.
    pub steps: u64,
}

/// A user whose password strangers guess.
#[derive(Clone, Copy)]
pub struct Victim {
    /// Who.
    pub user: UserId,
    /// Log position after which no attempt of his own counts.
    pub since: Index,
    /// The session that was open before.
    pub session: SessionId,
}

/// A call on a register: the label of one key, with the version that it was made from.
#[derive(Clone, Debug)]
pub struct RegisterCall {
    /// Which register.
    pub register: ObjectHandle,
    /// The client.
    pub client: usize,
    /// Session and number under which it was made; a read has none.
    pub number: Option<(SessionId, u64)>,
    /// When it was made and when it was answered, in microseconds; `None` = no answer.
    pub asked: u64,
    /// See `asked`.
    pub told: Option<u64>,
    /// What.
    pub operation: RegisterOperation,
}

/// What was done with a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterOperation {
    /// Version `from` was to become `from` + 1; `Some(true)` = it did, `Some(false)` = it was another one by then.
    Swap {
        /// Version that was expected.
        from: u32,
        /// The answer.
        done: Option<bool>,
    },
    /// A linearizable read, with the version that it found.
    Read {
        /// The answer.
        found: Option<u32>,
    },
}

/// The record of a run.
#[derive(Default)]
pub struct Ledger(Mutex<Seen>);

impl Ledger {
    /// Looks at it, or adds to it.
    pub fn with<T>(&self, run: impl FnOnce(&mut Seen) -> T) -> T {
        run(&mut self.0.lock())
    }

    /// A member has decided a command.
    pub fn decide(&self, place: usize, index: Index, decided: Decided) {
        let mut seen = self.0.lock();
        match seen.decided.get(&index.0) {
            Some(before) if before.hash != decided.hash || before.answer != decided.answer => {
                seen.conflicts.push((index.0, place));
            }
            Some(_) => {}
            None => drop(seen.decided.insert(index.0, decided)),
        }
    }

    /// A call is made; its number.
    pub fn ask(&self, call: Call) -> usize {
        let mut seen = self.0.lock();
        seen.calls.push(call);
        seen.calls.len() - 1
    }

    /// A call is answered.
    pub fn tell(&self, number: usize, at: u64, outcome: Outcome) {
        self.0.lock().calls[number].told = Some((at, outcome));
    }
}
