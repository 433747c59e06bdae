//! Where the library's log lines go: standard error, or the file of `[log]` in `client.toml`.
//!
//! One line for each event, written by one `write` call to a descriptor in append mode: no lock, so a fork at any moment
//! is harmless, and no state of the thread. The level is `[log] level`, or `KAGIMORI_LOG` (off, error, warn, info,
//! debug, trace) when that is set. It must not format a secret; nothing that it is given has one.

#![expect(unsafe_code, reason = "write(2) on a raw descriptor: std's types would close or lock it")]

use std::fmt::Write as _;
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use hsm_client::{LogConfiguration, LogLevel};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::limits::LOG_LINE_BYTES;

/// Environment variable that goes before `[log] level`.
const LEVEL_VARIABLE: &str = "KAGIMORI_LOG";

const STANDARD_ERROR: i32 = 2;

static DESCRIPTOR: AtomicI32 = AtomicI32::new(STANDARD_ERROR);
static LEVEL: AtomicUsize = AtomicUsize::new(LogLevel::Warn as usize);

/// Takes the configuration into use. The first call in a process also connects the events of this library, which are
/// its own: the application's log is not touched, as all symbols are hidden.
pub(crate) fn configure(configuration: &LogConfiguration) {
    let level = std::env::var(LEVEL_VARIABLE).ok().and_then(|name| level_by_name(&name));
    LEVEL.store(level.unwrap_or(configuration.level) as usize, Ordering::Relaxed);
    // A second C_Initialize finds it set: it reads the level at each event.
    let _stands_already = tracing::subscriber::set_global_default(Lines).is_err();
    let Some(path) = &configuration.file else { return };
    match std::fs::OpenOptions::new().append(true).create(true).open(path) {
        Ok(file) => {
            let before = DESCRIPTOR.swap(file.into_raw_fd(), Ordering::Relaxed);
            close(before);
        }
        Err(error) => {
            tracing::warn!("the log file {} cannot be opened ({error}); logging to standard error", path.display());
        }
    }
}

/// Closes the log file, if there is one; lines go to standard error again.
pub(crate) fn close_file() {
    close(DESCRIPTOR.swap(STANDARD_ERROR, Ordering::Relaxed));
}

fn close(descriptor: i32) {
    if descriptor != STANDARD_ERROR {
        // SAFETY: the descriptor came from `into_raw_fd` and was taken out of `DESCRIPTOR`, so it is closed once.
        unsafe { libc::close(descriptor) };
    }
}

fn level_by_name(name: &str) -> Option<LogLevel> {
    Some(match name.trim().to_ascii_lowercase().as_str() {
        "off" => LogLevel::Off,
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "info" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        _ => return None,
    })
}

fn verbosity(level: Level) -> usize {
    let level = match level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        Level::DEBUG => LogLevel::Debug,
        _ => LogLevel::Trace,
    };
    level as usize
}

/// Writes each event as a line. Spans are not used in this library.
struct Lines;

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        verbosity(*metadata.level()) <= LEVEL.load(Ordering::Relaxed)
    }

    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        // The level may change with the next C_Initialize, so nothing is decided for good.
        tracing::subscriber::Interest::sometimes()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = String::new();
        event.record(&mut Text(&mut text));
        let mut line = format!("kagimori-pkcs11[{}] {}: {text}", std::process::id(), event.metadata().level());
        // One event is one line, whatever an HSM's name or a path may hold.
        line.retain(|character| !character.is_control());
        let mut end = line.len().min(LOG_LINE_BYTES);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('\n');
        // SAFETY: the pointer and the length are those of `line`. A line that cannot be written is lost: there is
        // nobody to tell.
        unsafe { libc::write(DESCRIPTOR.load(Ordering::Relaxed), line.as_ptr().cast(), line.len()) };
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Message first, then each other field as `name=value`.
struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let separator = if self.0.is_empty() { "" } else { " " };
        let written = if field.name() == "message" {
            write!(self.0, "{separator}{value:?}")
        } else {
            write!(self.0, "{separator}{}={value:?}", field.name())
        };
        debug_assert!(written.is_ok(), "writing to a string does not fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_levels_order_as_their_names_say() {
        assert!(verbosity(Level::ERROR) < verbosity(Level::WARN));
        assert!(verbosity(Level::DEBUG) < verbosity(Level::TRACE));
        assert!((LogLevel::Off as usize) < verbosity(Level::ERROR));
    }

    #[test]
    fn a_level_that_is_misspelt_leaves_the_configured_one() {
        assert!(level_by_name("Debug ").is_some());
        assert!(level_by_name("verbose").is_none());
    }
}
