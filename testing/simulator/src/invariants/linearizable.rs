//! What concurrent clients did with one register has an order that explains every answer and contradicts no clock.
//!
//! Looked at: swaps and linearizable reads of one key's version by several clients at all members, judged by the
//! linearizability tester of the crate `stateright`. A swap that was never answered counts when the log says that it was
//! done, and then may have been done at any time after it was asked for. Fault budget: as for
//! `committed_entries_never_change`.

use std::collections::BTreeMap;
use std::sync::Arc;

use hsm_core::{Action, ObjectHandle};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::{Invariant, nothing};
use crate::cluster::Cluster;
use crate::cluster::history::{RegisterCall, RegisterOperation, Seen};

/// The name.
pub const NAME: &str = "histories_are_linearizable";

/// There is such an order.
pub const INVARIANT: Invariant = Invariant { name: NAME, step: nothing, end };

/// The version of a key, as one thread would see it.
#[derive(Clone, Debug, PartialEq)]
struct Version(u32);

#[derive(Clone, Debug, PartialEq)]
enum Operation {
    Swap(u32),
    Read,
}

#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Swapped(bool),
    Found(u32),
}

impl SequentialSpec for Version {
    type Op = Operation;
    type Ret = Answer;

    fn invoke(&mut self, operation: &Operation) -> Answer {
        match operation {
            Operation::Swap(from) => {
                let swapped = self.0 == *from;
                self.0 += u32::from(swapped);
                Answer::Swapped(swapped)
            }
            Operation::Read => Answer::Found(self.0),
        }
    }
}

fn end(cluster: &Arc<Cluster>) -> Result<(), String> {
    cluster.ledger.with(|seen| {
        let mut registers = BTreeMap::<ObjectHandle, Vec<&RegisterCall>>::new();
        seen.registers.iter().for_each(|call| registers.entry(call.register).or_default().push(call));
        registers.into_iter().try_for_each(|(register, calls)| judge(seen, register, &calls))
    })
}

/// An operation with its answer and its times; `u64::MAX` = it may have been done at any time later.
struct Span {
    asked: u64,
    told: u64,
    operation: Operation,
    answer: Answer,
}

fn judge(seen: &Seen, register: ObjectHandle, calls: &[&RegisterCall]) -> Result<(), String> {
    let spans: Vec<_> = calls.iter().filter_map(|call| span(seen, register, call)).collect();
    // An answer comes before what is asked at the same moment only if it must: ties count as at one time.
    let mut events: Vec<(u64, bool, usize)> = Vec::new();
    for (number, span) in spans.iter().enumerate() {
        events.extend([(span.asked, false, number), (span.told, true, number)]);
    }
    events.sort_unstable();
    let mut tester = LinearizabilityTester::new(Version(1));
    for (_, is_answer, number) in events {
        let span = &spans[number];
        // Each operation is a thread of its own: a client that gave up goes on with the next while the last may be done.
        let judged = if is_answer {
            tester.on_return(number, span.answer.clone()).map(drop)
        } else {
            tester.on_invoke(number, span.operation.clone()).map(drop)
        };
        judged.map_err(|text| format!("the history of {} is none: {text}", register.0))?;
    }
    if tester.is_consistent() {
        Ok(())
    } else {
        Err(format!("{} calls on key {} have no order that explains their answers", spans.len(), register.0))
    }
}

fn span(seen: &Seen, register: ObjectHandle, call: &RegisterCall) -> Option<Span> {
    let asked = call.asked;
    match (call.operation, call.told) {
        (RegisterOperation::Swap { from, done: Some(done) }, Some(told)) => {
            Some(Span { asked, told, operation: Operation::Swap(from), answer: Answer::Swapped(done) })
        }
        (RegisterOperation::Read { found: Some(found) }, Some(told)) => {
            Some(Span { asked, told, operation: Operation::Read, answer: Answer::Found(found) })
        }
        (RegisterOperation::Swap { from, .. }, _) if was_done(seen, register, call, from) => {
            Some(Span { asked, told: u64::MAX, operation: Operation::Swap(from), answer: Answer::Swapped(true) })
        }
        _ => None,
    }
}

/// Whether the log says that this call raised the register from that version.
fn was_done(seen: &Seen, register: ObjectHandle, call: &RegisterCall, from: u32) -> bool {
    seen.decided.values().any(|decided| {
        let raises = matches!(&decided.command.action, Action::ReplaceObject { handle, object, .. }
            if *handle == register && object.version() == from + 1);
        let origin = decided.command.origin;
        let same_call =
            call.number.is_some_and(|number| Some(number.0) == origin.session && number.1 == origin.sequence);
        raises && decided.answer.is_ok() && same_call
    })
}
