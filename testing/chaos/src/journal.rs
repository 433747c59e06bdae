//! What the load did and was told: counts, the longest waits, errors, and what must never have been.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use hsm_client::CallError;
use serde_json::{Value, json};

use crate::limits::REPEATED;

/// The record of a run; shared by all threads.
#[derive(Default)]
pub(crate) struct Journal(Mutex<Record>);

#[derive(Default)]
struct Record {
    calls: BTreeMap<&'static str, Calls>,
    errors: Vec<String>,
    violations: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
struct Calls {
    done: u64,
    longest: Duration,
}

impl Journal {
    /// Makes a call and records it. `None` after an error, which is one that an application saw.
    pub(crate) fn call<T>(&self, what: &'static str, run: impl FnOnce() -> Result<T, CallError>) -> Option<T> {
        let began = Instant::now();
        let outcome = run();
        let took = began.elapsed();
        let mut record = self.record();
        match outcome {
            Ok(value) => {
                let calls = record.calls.entry(what).or_default();
                calls.done += 1;
                calls.longest = calls.longest.max(took);
                Some(value)
            }
            Err(error) => {
                record.errors.push(format!("{} {what} after {took:.1?}: {error}", clock()));
                None
            }
        }
    }

    /// Something that must never be.
    pub(crate) fn violation(&self, what: impl Display) {
        self.record().violations.push(format!("{} {what}", clock()));
    }

    /// Counts something that is neither.
    pub(crate) fn count(&self, what: &'static str) {
        *self.record().counts.entry(what).or_default() += 1;
    }

    /// All of it, for `cargo xtask chaos`.
    pub(crate) fn report(&self) -> Value {
        let record = self.record();
        let calls = record.calls.iter().map(|(what, calls)| {
            (what.to_string(), json!({ "done": calls.done, "longest_ms": u64::try_from(calls.longest.as_millis()).unwrap_or(u64::MAX) }))
        });
        let first = |lines: &Vec<String>| lines.iter().take(REPEATED).cloned().collect::<Vec<_>>();
        json!({
            "calls": calls.collect::<serde_json::Map<_, _>>(),
            "counts": record.counts,
            "errors": record.errors.len(), "first_errors": first(&record.errors),
            "violations": record.violations.len(), "first_violations": first(&record.violations),
        })
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Milliseconds since 1970-01-01 UTC, as answers of HSMs tell time.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Time of day in UTC, as the logs of HSMs have it.
fn clock() -> String {
    let seconds = now() / 1000;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60, now() % 1000)
}
