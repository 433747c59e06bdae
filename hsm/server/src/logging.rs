//! The log on standard error, as text or JSON, and what happens on a panic.
//!
//! Nothing secret may reach the log: requests have no `Debug`, secrets have no `Debug`, and a panic's message is written
//! only when it is a literal, because a formatted one could carry an operand. Request ids and connection numbers are
//! fields of the spans that `connection` opens.

use tracing_subscriber::EnvFilter;

use crate::command_line::LogFormat;
use crate::exit::Fault;

/// Starts the log. Call once, before anything else that could log.
///
/// # Errors
/// [`Fault::Settings`] when the filter cannot be parsed or a log runs already.
pub fn start(format: LogFormat, filter: &str) -> Result<(), Fault> {
    let filter = EnvFilter::try_new(filter)
        .map_err(|error| Fault::Settings(format!("--log {filter:?} is no log filter: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true);
    let started = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Fault::Settings(format!("the log cannot be started: {error}")))
}

/// From now on a panic on any thread is logged without operands and ends the process by SIGABRT: after a broken
/// invariant nothing in memory can be trusted, and what was acknowledged is on disk.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        tracing::error!(
            place,
            thread = thread.name().unwrap_or("unnamed"),
            "an internal assertion failed: {}; the process aborts. Nothing that was acknowledged is lost. Please \
             report this line",
            literal(panic.payload())
        );
        std::process::abort();
    }));
}

/// The panic's message if it is certain to hold no operand.
fn literal(payload: &(dyn std::any::Any + Send)) -> &'static str {
    payload.downcast_ref::<&'static str>().copied().unwrap_or("(the message is withheld: it may hold data)")
}

#[cfg(test)]
mod tests {
    use super::literal;

    #[test]
    fn a_formatted_panic_message_is_withheld() {
        let secret = format!("password {}", "hunter22");
        let payload: Box<dyn std::any::Any + Send> = Box::new(secret);
        assert!(!literal(&*payload).contains("hunter22"));
        let payload: Box<dyn std::any::Any + Send> = Box::new("the queue is ordered");
        assert_eq!(literal(&*payload), "the queue is ordered");
    }
}
