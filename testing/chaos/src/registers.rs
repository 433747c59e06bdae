//! Labels of keys as registers: several threads write and read them, and the history must be linearizable.
//!
//! A read is promised to be as new as everything that *this client* was ever told, and all threads of this process are one
//! client. So what one thread was answered binds every call that another one begins later, at whichever HSM: that is
//! linearizability of all that this process sees. Judged by the tester of the crate `stateright`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hsm_client::{CallError, Cluster, Login};
use hsm_protocol::wire::ObjectReference;
use hsm_protocol::{AttributeKind, ErrorCode};
use stateright::semantics::register::{Register, RegisterOp, RegisterRet};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

use crate::client;
use crate::journal::Journal;
use crate::limits::{PAUSE, REGISTER_CALLS};

/// A call and its answer; without one it may have been done at any time after it was asked.
#[derive(Clone, Debug)]
struct Span {
    asked: Duration,
    told: Option<Duration>,
    operation: RegisterOp<u64>,
    answer: RegisterRet<u64>,
}

/// One key whose label is written and read.
struct Shared {
    object: ObjectReference,
    spans: Mutex<Vec<Span>>,
    /// A call on it ended in an error: it may be done at any time, and each such call multiplies the orders to be tried. So
    /// this register is used no more.
    closed: AtomicBool,
}

/// All registers of a run; the last one is in use.
pub(crate) struct Registers<'a> {
    cluster: &'a Cluster,
    login: &'a Login,
    journal: &'a Journal,
    began: Instant,
    values: AtomicU64,
    all: Mutex<Vec<Arc<Shared>>>,
}

impl<'a> Registers<'a> {
    pub(crate) fn new(cluster: &'a Cluster, login: &'a Login, journal: &'a Journal) -> Self {
        let (values, all) = (AtomicU64::new(1), Mutex::default());
        Self { cluster, login, journal, began: Instant::now(), values, all }
    }

    /// One thread's work.
    pub(crate) fn work(&self, stop: &AtomicBool) {
        let mut turn = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(PAUSE);
            let Some(shared) = self.current() else { continue };
            turn += 1;
            if turn.is_multiple_of(2) { self.read(&shared) } else { self.write(&shared) }
        }
    }

    /// Judges every history.
    pub(crate) fn judge(&self) {
        for shared in self.all.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let spans = shared.spans.lock().unwrap_or_else(PoisonError::into_inner);
            self.journal.count("histories judged");
            if !is_linearizable(&spans) {
                self.journal.violation(format_args!("the history of a register has no order: {spans:?}"));
            }
        }
    }

    /// The register in use; a new one when the last has had its calls.
    fn current(&self) -> Option<Arc<Shared>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let full =
            |shared: &Arc<Shared>| shared.spans.lock().unwrap_or_else(PoisonError::into_inner).len() >= REGISTER_CALLS;
        if let Some(last) = all.last().filter(|last| !full(last)) {
            return Some(Arc::clone(last));
        }
        let pair = self.journal.call("make a pair", || client::make_pair(self.cluster, self.login, "0"))?;
        let shared = Arc::new(Shared { object: pair.public, spans: Mutex::default(), closed: AtomicBool::new(false) });
        all.push(Arc::clone(&shared));
        Some(shared)
    }

    fn write(&self, shared: &Shared) {
        let value = self.values.fetch_add(1, Ordering::Relaxed);
        let span = self.begin(shared, RegisterOp::Write(value), RegisterRet::WriteOk);
        let changed = AtomicBool::new(false);
        let done = self.journal.call("write a label", || {
            match client::set_label(self.cluster, self.login, &shared.object, &value.to_string()) {
                // Somebody else wrote between this call's look and its entry in the log: it was not done.
                Err(CallError::Refused { code: ErrorCode::ObjectChanged, .. }) => {
                    changed.store(true, Ordering::Relaxed);
                    Ok(())
                }
                other => other,
            }
        });
        if changed.load(Ordering::Relaxed) {
            self.journal.count("writes that another one overtook");
            self.edit(shared, span, |span| span.operation = RegisterOp::Read);
        } else if done.is_some() {
            self.end(shared, span, RegisterRet::WriteOk);
        } else {
            shared.closed.store(true, Ordering::Relaxed);
        }
    }

    fn read(&self, shared: &Shared) {
        let span = self.begin(shared, RegisterOp::Read, RegisterRet::ReadOk(0));
        let read = || client::read(self.cluster, self.login, &shared.object, AttributeKind::Label);
        let Some(octets) = self.journal.call("read a label", read) else { return };
        let text = octets.and_then(|octets| String::from_utf8(octets).ok());
        match text.and_then(|text| text.parse().ok()) {
            Some(value) => self.end(shared, span, RegisterRet::ReadOk(value)),
            None => self.journal.violation("a label is none that was ever written"),
        }
    }

    /// Records a call before it is made.
    fn begin(&self, shared: &Shared, operation: RegisterOp<u64>, answer: RegisterRet<u64>) -> usize {
        let mut spans = shared.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.push(Span { asked: self.began.elapsed(), told: None, operation, answer });
        spans.len() - 1
    }

    fn end(&self, shared: &Shared, span: usize, answer: RegisterRet<u64>) {
        let told = self.began.elapsed();
        self.edit(shared, span, |span| (span.told, span.answer) = (Some(told), answer));
    }

    fn edit(&self, shared: &Shared, span: usize, change: impl FnOnce(&mut Span)) {
        change(&mut shared.spans.lock().unwrap_or_else(PoisonError::into_inner)[span]);
    }
}

/// Whether some order of the calls explains every answer and contradicts no clock.
fn is_linearizable(spans: &[Span]) -> bool {
    // A read without an answer says nothing.
    let known = |span: &&Span| span.told.is_some() || !matches!(span.operation, RegisterOp::Read);
    let spans: Vec<&Span> = spans.iter().filter(known).collect();
    let mut events: Vec<(Duration, bool, usize)> = Vec::new();
    for (number, span) in spans.iter().enumerate() {
        events.push((span.asked, false, number));
        events.extend(span.told.map(|told| (told, true, number)));
    }
    // What is asked and what is answered at the same moment count as at one time.
    events.sort_unstable();
    let mut tester = LinearizabilityTester::new(Register(0_u64));
    for (_, is_answer, number) in events {
        // Each call is a thread of its own: one that was given up may be done while its client goes on.
        let noted = if is_answer {
            tester.on_return(number, spans[number].answer.clone()).is_ok()
        } else {
            tester.on_invoke(number, spans[number].operation.clone()).is_ok()
        };
        if !noted {
            return false;
        }
    }
    tester.is_consistent()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(asked: u64, told: Option<u64>, operation: RegisterOp<u64>, answer: RegisterRet<u64>) -> Span {
        Span { asked: Duration::from_millis(asked), told: told.map(Duration::from_millis), operation, answer }
    }

    fn write(asked: u64, told: Option<u64>, value: u64) -> Span {
        span(asked, told, RegisterOp::Write(value), RegisterRet::WriteOk)
    }

    fn read(asked: u64, told: u64, value: u64) -> Span {
        span(asked, Some(told), RegisterOp::Read, RegisterRet::ReadOk(value))
    }

    #[test]
    fn a_read_that_goes_back_in_time_is_found() {
        assert!(is_linearizable(&[write(0, Some(1), 7), read(2, 3, 7)]));
        assert!(!is_linearizable(&[write(0, Some(1), 7), read(2, 3, 0)]));
        assert!(!is_linearizable(&[write(0, Some(9), 7), read(2, 3, 7), read(4, 5, 0)]));
    }

    #[test]
    fn a_write_without_an_answer_may_be_seen_late_or_never() {
        assert!(is_linearizable(&[write(0, None, 7), read(1, 2, 0), read(3, 4, 7)]));
        assert!(is_linearizable(&[write(0, None, 7), read(1, 2, 0)]));
        assert!(!is_linearizable(&[write(0, None, 7), read(1, 2, 7), read(3, 4, 0)]));
    }
}
