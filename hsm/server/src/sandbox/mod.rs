//! Locks the process up: no core dumps, no debugger, no new privileges, a few folders, a few system calls.
//!
//! In three steps, because the kernel wants it so. [`harden_process`] and [`restrict_files`] come before the first
//! thread is started (a Landlock domain is inherited by threads that the restricted one starts, and covers others only
//! from ABI 8 on); [`restrict_system_calls`] comes last, to all threads at once, when nothing that start-up alone needs
//! is left to do. Neighbours: `process` calls it, nothing else.
//!
//! What this is worth: it bounds what an attacker can do who has taken over the process through a defect. It does not
//! protect against root on the host.

mod files;
mod process_limits;
mod system_calls;

pub use files::{FileRules, restrict_files};
pub use process_limits::harden_process;
pub use system_calls::restrict_system_calls;

/// What a step of the sandbox achieved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// Everything that was asked for.
    Full,
    /// The kernel lacks something; in words.
    Partial(String),
}

/// What is enforced in the running process, for status and log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// Switched off by `--no-sandbox`.
    Off,
    /// On; what the kernel lacks, in words.
    On {
        /// Empty when everything is enforced.
        missing: Vec<String>,
    },
}

impl Sandbox {
    /// Adds the outcome of a step.
    pub fn add(&mut self, enforcement: Enforcement) {
        if let (Self::On { missing }, Enforcement::Partial(words)) = (self, enforcement) {
            missing.push(words);
        }
    }
}

impl std::fmt::Display for Sandbox {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => formatter.write_str("off"),
            Self::On { missing } if missing.is_empty() => formatter.write_str("full"),
            Self::On { missing } => write!(formatter, "partial: {}", missing.join("; ")),
        }
    }
}
