//! The number by which one call is known in the application's log and in those of the HSMs that worked on it.
//!
//! The client library draws it; HSMs repeat it and decide nothing by it. It is no secret, and says nothing of the call.

/// Under which target both sides log calls, so that a filter can choose them.
pub const TARGET: &str = "request";

/// The number of a call; 0 = the caller gave none. Shown as 16 hexadecimal digits, to search logs for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trace(pub u64);

impl std::fmt::Display for Trace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            0 => formatter.write_str("-"),
            number => write!(formatter, "{number:016x}"),
        }
    }
}
