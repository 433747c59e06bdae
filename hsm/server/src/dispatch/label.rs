//! What a request is counted and logged as: its kind, and the number by which its caller's log knows it.
//!
//! One line for each request, at level debug under the target `request`; slow ones and failures of this HSM also without
//! that, as many as [`REQUEST_LINES`] permits. The line says what was asked in one word, how it ended and how long it
//! took. It never has an operand, a name or a key.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hsm_core::Index;
use hsm_protocol::trace::Trace;
use hsm_protocol::{ErrorCode, Party};

use super::service::Service;
use crate::limits::{REQUEST_LINES, SLOW_REQUEST};
use crate::metrics::Measured;

/// Under which target requests are logged: `--log info,request=debug` shows them all.
const TARGET: &str = hsm_protocol::trace::TARGET;

/// What is known of a request besides its content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    pub(crate) measured: Measured,
    pub(crate) trace: Trace,
}

/// One line about a request; a macro, because the level of a line is fixed when it is compiled.
macro_rules! log_request {
    ($level:ident, $label:expr, $connection:expr, $elapsed:expr, $index:expr, $code:expr, $what:literal) => {
        tracing::$level!(
            target: TARGET,
            trace = %$label.trace,
            operation = $label.measured.name(),
            outcome = %Outcome($code),
            microseconds = microseconds($elapsed),
            index = $index.0,
            connection = $connection,
            $what
        )
    };
}

impl Label {
    /// Counts and logs a request that began then. `code` is 0 for success, else the number of the `ErrorCode`.
    pub(crate) fn ended(self, service: &Service, connection: u64, begin: Instant, index: Index, code: u32) {
        let elapsed = begin.elapsed();
        service.metrics().request(self.measured, code, elapsed);
        let code = ErrorCode::from_number(code);
        if is_worth_a_line(self.measured, elapsed, code) && service.lines().take() {
            self.log_unasked(connection, elapsed, index, code);
        } else {
            log_request!(debug, self, connection, elapsed, index, code, "served");
        }
    }

    #[cold]
    fn log_unasked(self, connection: u64, elapsed: Duration, index: Index, code: Option<ErrorCode>) {
        let what = if code.is_some() { "not served" } else { "served slowly" };
        log_request!(info, self, connection, elapsed, index, code, "{what}");
    }
}

/// Whether an operator wants to hear of it: not of what a client did wrong or may not do, but of somebody who may be guessing.
fn is_worth_a_line(measured: Measured, elapsed: Duration, code: Option<ErrorCode>) -> bool {
    if matches!(code, Some(ErrorCode::LoginRefused | ErrorCode::UserLocked | ErrorCode::TokenRefused)) {
        return true;
    }
    match code.map(ErrorCode::party) {
        Some(Party::Unavailable | Party::Broken) => true,
        _ => elapsed >= SLOW_REQUEST && !measured.is_long_by_nature(),
    }
}

fn microseconds(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

struct Outcome(Option<ErrorCode>);

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            None => formatter.write_str("done"),
            Some(code) => write!(formatter, "{code:?}"),
        }
    }
}

/// How many lines may still be written in this second.
pub(crate) struct Lines {
    born: Instant,
    /// Second since then, and lines in it: 32 bits each.
    written: AtomicU64,
}

impl Default for Lines {
    fn default() -> Self {
        Self { born: Instant::now(), written: AtomicU64::new(0) }
    }
}

impl Lines {
    fn take(&self) -> bool {
        self.take_at(self.born.elapsed().as_secs())
    }

    fn take_at(&self, second: u64) -> bool {
        let take = |written: u64| match written >> 32 {
            same if same == second => (written & u64::from(u32::MAX) < u64::from(REQUEST_LINES)).then_some(written + 1),
            _ => Some((second << 32) | 1),
        };
        self.written.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_fails_all_the_time_fills_no_log() {
        let lines = Lines::default();
        for second in [0, 1, 7] {
            let written = (0..1000).filter(|_| lines.take_at(second)).count();
            assert_eq!(written, REQUEST_LINES as usize, "in second {second}");
        }
    }

    #[test]
    fn what_a_client_may_not_do_is_no_news_and_what_this_hsm_cannot_do_is() {
        let (sign, moment) = (Measured::by_method(50), Duration::from_millis(1));
        assert!(!is_worth_a_line(sign, moment, None));
        assert!(!is_worth_a_line(sign, moment, Some(ErrorCode::OwnerRefused)));
        assert!(
            is_worth_a_line(Measured::by_method(20), moment, Some(ErrorCode::LoginRefused)),
            "somebody may be guessing"
        );
        assert!(is_worth_a_line(sign, moment, Some(ErrorCode::Isolated)));
        assert!(is_worth_a_line(sign, moment, Some(ErrorCode::Broken)));
        assert!(is_worth_a_line(sign, SLOW_REQUEST, None));
        assert!(!is_worth_a_line(Measured::by_method(31), SLOW_REQUEST, None), "an RSA key takes its time");
    }
}
