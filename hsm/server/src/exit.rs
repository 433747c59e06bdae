//! How the program ends: one exit code per kind of trouble, and the sentence that says what to do.
//!
//! The codes are part of the command line's interface: a supervisor decides by them whether a restart can help.

use std::path::PathBuf;

/// Why `kagimori-hsm` ends other than well. The message names the file or address and the way out.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Settings that cannot work.
    #[error("{0}")]
    Settings(String),
    /// Another process has the data folder.
    #[error(
        "another kagimori-hsm is running on {folder}: stop it first (`kagimori-hsm manage --socket … stop`), or use \
         another --data-dir"
    )]
    InUse {
        /// The data folder.
        folder: PathBuf,
    },
    /// The store or a file beside it is damaged, or is not this HSM's.
    #[error("{file} is damaged or does not belong here: {cause}. Nothing was repaired. {remedy}", file = .file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// What was seen.
        cause: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The disk does not take writes.
    #[error(
        "{file} cannot be written: {cause}. Nothing that was acknowledged is lost; free space or repair the disk, then \
         start again",
        file = .file.display()
    )]
    Disk {
        /// The file or folder.
        file: PathBuf,
        /// The system's words.
        cause: String,
    },
    /// An address or socket cannot be used.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// Address or path.
        address: String,
        /// The system's words.
        cause: String,
    },
    /// The cluster master key cannot be had from its seal.
    #[error("the cluster master key in {file} cannot be opened: {cause}. {remedy}", file = .file.display())]
    RootOfTrust {
        /// The seal or the key that opens it.
        file: PathBuf,
        /// What was seen.
        cause: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The cryptographic module failed its own tests.
    #[error(
        "the cryptographic module failed its self-test: {0}. Do not use this machine for keys until it is understood"
    )]
    SelfTest(String),
    /// The system refused to lock the process up.
    #[error("the sandbox cannot be set up: {0}. For debugging only, --no-sandbox goes on without it")]
    Sandbox(String),
    /// The state or the log broke while serving.
    #[error("this HSM stopped itself: {0}. What was acknowledged is on disk; look at the log above, then start again")]
    Stopped(String),
    /// The cluster goes on without this HSM.
    #[error(
        "this HSM (hsm {hsm}) is no member of the cluster any more: its copy of the keys, its state and its identity are \
         destroyed. Started again on this folder it is a new HSM, which may join"
    )]
    Removed {
        /// Its name.
        hsm: String,
    },
    /// The management socket cannot be reached.
    #[error(
        "no HSM answers on {socket}: {cause}. Is `kagimori-hsm serve` running, and are you the user that it runs as?",
        socket = .socket.display()
    )]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What was seen.
        cause: String,
    },
    /// The HSM said no.
    #[error("refused: {message} (code {code})")]
    Refused {
        /// Number of the `ErrorCode`.
        code: u32,
        /// The HSM's sentence.
        message: String,
    },
    /// A file named on the command line cannot be read or written.
    #[error("{file}: {cause}", file = .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The system's words.
        cause: String,
    },
}

/// What `--help` says about exit codes.
pub const EXIT_CODES: &str = "\
Exit codes:
  0   ended as asked
  2   the command line is wrong (see --help)
  3   a setting cannot work
  4   another process has the data folder
  5   the store or a file beside it is damaged or foreign; nothing was repaired
  6   the disk is full or does not take writes
  7   an address or socket cannot be used
  8   the root of trust does not open the cluster master key
  9   the cryptographic self-test failed
  10  the sandbox cannot be set up
  11  the HSM stopped itself: state or log broke while serving
  12  manage: no HSM answers on the socket
  13  manage: the HSM refused; the message says why
  14  manage: a named file cannot be read or written
  15  the HSM left its cluster or was removed from it; its keys are destroyed
  134 an internal assertion failed (SIGABRT); nothing that was acknowledged is lost";

impl Fault {
    /// The process's exit code: see [`EXIT_CODES`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) => 3,
            Self::InUse { .. } => 4,
            Self::Broken { .. } => 5,
            Self::Disk { .. } => 6,
            Self::Listen { .. } => 7,
            Self::RootOfTrust { .. } => 8,
            Self::SelfTest(_) => 9,
            Self::Sandbox(_) => 10,
            Self::Stopped(_) => 11,
            Self::Unreachable { .. } => 12,
            Self::Refused { .. } => 13,
            Self::File { .. } => 14,
            Self::Removed { .. } => 15,
        }
    }

    /// A failed write or read of a file that this HSM owns: [`Fault::Disk`] in words.
    pub(crate) fn disk(file: impl Into<PathBuf>, error: &std::io::Error) -> Self {
        Self::Disk { file: file.into(), cause: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_documented() {
        let faults = [
            Fault::Settings(String::new()),
            Fault::InUse { folder: PathBuf::new() },
            Fault::Broken { file: PathBuf::new(), cause: String::new(), remedy: "" },
            Fault::Disk { file: PathBuf::new(), cause: String::new() },
            Fault::Listen { address: String::new(), cause: String::new() },
            Fault::RootOfTrust { file: PathBuf::new(), cause: String::new(), remedy: "" },
            Fault::SelfTest(String::new()),
            Fault::Sandbox(String::new()),
            Fault::Stopped(String::new()),
            Fault::Unreachable { socket: PathBuf::new(), cause: String::new() },
            Fault::Refused { code: 0, message: String::new() },
            Fault::File { file: PathBuf::new(), cause: String::new() },
            Fault::Removed { hsm: String::new() },
        ];
        for fault in faults {
            let line = format!("\n  {:<3} ", fault.exit_code());
            assert!(EXIT_CODES.contains(&line), "{fault:?}");
        }
    }
}
