//! Labels of keys as registers: several threads write and read them, and the history must be linearizable.
//!
//! A read is promised to be as new as everything that *this client* was ever told, and all threads of this process are one
//! client. So what one thread was answered binds every call that another one begins later, at whichever HSM: that is
//! linearizability of all that this process sees. `order.rs` judges it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hsm_client::{CallError, Cluster, Login};
use hsm_protocol::wire::ObjectReference;
use hsm_protocol::{AttributeKind, ErrorCode};

use crate::client;
use crate::journal::Journal;
use crate::limits::{PAUSE, REGISTER_CALLS};
use crate::order::{Call, FIRST, Span, is_linearizable};

/// One key whose label is written and read.
struct Shared {
    object: ObjectReference,
    spans: Mutex<Vec<Span>>,
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
        let pair =
            self.journal.call("make a pair", || client::make_pair(self.cluster, self.login, &FIRST.to_string()))?;
        let shared = Arc::new(Shared { object: pair.public, spans: Mutex::default() });
        all.push(Arc::clone(&shared));
        Some(shared)
    }

    fn write(&self, shared: &Shared) {
        let value = self.values.fetch_add(1, Ordering::Relaxed);
        let span = self.begin(shared, Call::Write(value));
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
            self.edit(shared, span, |span| span.call = Call::Read(None));
        } else if done.is_some() {
            self.end(shared, span, Call::Write(value));
        }
    }

    fn read(&self, shared: &Shared) {
        let span = self.begin(shared, Call::Read(None));
        let read = || client::read(self.cluster, self.login, &shared.object, AttributeKind::Label);
        let Some(octets) = self.journal.call("read a label", read) else { return };
        let text = octets.and_then(|octets| String::from_utf8(octets).ok());
        match text.and_then(|text| text.parse().ok()) {
            Some(value) => self.end(shared, span, Call::Read(Some(value))),
            None => self.journal.violation("a label is none that was ever written"),
        }
    }

    /// Records a call before it is made.
    fn begin(&self, shared: &Shared, call: Call) -> usize {
        let mut spans = shared.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.push(Span { asked: self.began.elapsed(), told: None, call });
        spans.len() - 1
    }

    fn end(&self, shared: &Shared, span: usize, call: Call) {
        let told = self.began.elapsed();
        self.edit(shared, span, |span| (span.told, span.call) = (Some(told), call));
    }

    fn edit(&self, shared: &Shared, span: usize, change: impl FnOnce(&mut Span)) {
        change(&mut shared.spans.lock().unwrap_or_else(PoisonError::into_inner)[span]);
    }
}
