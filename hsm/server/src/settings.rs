//! Settings of `serve`: what the command line said, checked. A [`Settings`] value can be worked with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::command_line::{LogFormat, ServeArguments, SocketAccess};
use crate::exit::Fault;
use crate::limits;

/// Longest path of a Unix socket: `sun_path` is 108 bytes with its end (unix(7)).
const SOCKET_PATH_BYTES: usize = 107;

/// Settings that fit together.
#[derive(Clone, Debug)]
pub struct Settings {
    data_folder: PathBuf,
    listen: SocketAddr,
    unix_socket: Option<(PathBuf, SocketAccess)>,
    management_socket: PathBuf,
    health: Option<SocketAddr>,
    log_format: LogFormat,
    log_filter: String,
    root_of_trust: RootOfTrustSetting,
    connections: usize,
    sandbox: bool,
}

/// What seals the cluster master key at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootOfTrustSetting {
    /// A key in `root.key` in the data folder.
    File,
    /// A passphrase in this file.
    PassphraseFile(PathBuf),
}

impl Settings {
    /// Checks what the command line said.
    ///
    /// # Errors
    /// [`Fault::Settings`] with the argument and what it should be.
    pub fn check(arguments: &ServeArguments) -> Result<Self, Fault> {
        let data_folder = absolute(&arguments.data_dir)?;
        let management_socket = match &arguments.management_socket {
            Some(path) => absolute(path)?,
            None => data_folder.join("management.sock"),
        };
        let unix_socket = arguments.unix_socket.as_deref().map(absolute).transpose()?;
        if unix_socket.as_ref() == Some(&management_socket) {
            return Err(Fault::Settings("--unix-socket and --management-socket must be different paths".into()));
        }
        for path in unix_socket.iter().chain([&management_socket]) {
            check_socket_path(path)?;
        }
        if let Some(health) = arguments.health
            && !health.ip().is_loopback()
        {
            return Err(Fault::Settings(format!(
                "--health {health} is refused: health and metrics have no login, so they listen on loopback only; use \
                 127.0.0.1:PORT or [::1]:PORT"
            )));
        }
        if arguments.health.is_some_and(|health| health == arguments.listen && health.port() != 0) {
            return Err(Fault::Settings("--health and --listen must be different addresses".into()));
        }
        let room = usize::try_from(limits::OPEN_FILES).unwrap_or(usize::MAX) / 2 - 1024;
        if arguments.max_connections == 0 || arguments.max_connections > room {
            return Err(Fault::Settings(format!("--max-connections must be 1 to {room}")));
        }
        Ok(Self {
            data_folder,
            listen: arguments.listen,
            unix_socket: unix_socket.map(|path| (path, arguments.unix_socket_access)),
            management_socket,
            health: arguments.health,
            log_format: arguments.log_format,
            log_filter: arguments.log.clone(),
            root_of_trust: RootOfTrustSetting::parse(&arguments.root_of_trust)?,
            connections: arguments.max_connections,
            sandbox: !arguments.no_sandbox,
        })
    }

    /// Absolute path of the folder of this HSM's files.
    pub fn data_folder(&self) -> &Path {
        &self.data_folder
    }

    /// Address for clients over TLS.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Unix socket for clients, and who may connect.
    pub fn unix_socket(&self) -> Option<(&Path, SocketAccess)> {
        self.unix_socket.as_ref().map(|(path, access)| (path.as_path(), *access))
    }

    /// Unix socket for management.
    pub fn management_socket(&self) -> &Path {
        &self.management_socket
    }

    /// Loopback address for health and metrics.
    pub fn health(&self) -> Option<SocketAddr> {
        self.health
    }

    /// Form of the log.
    pub fn log_format(&self) -> LogFormat {
        self.log_format
    }

    /// Filter of the log.
    pub fn log_filter(&self) -> &str {
        &self.log_filter
    }

    /// What seals the cluster master key.
    pub fn root_of_trust(&self) -> &RootOfTrustSetting {
        &self.root_of_trust
    }

    /// Connections over TLS at one time.
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// Whether the process locks itself up.
    pub fn sandbox(&self) -> bool {
        self.sandbox
    }
}

impl RootOfTrustSetting {
    fn parse(words: &str) -> Result<Self, Fault> {
        match words.split_once('=') {
            None if words == "file" => Ok(Self::File),
            Some(("passphrase-file", path)) if !path.is_empty() => Ok(Self::PassphraseFile(absolute(Path::new(path))?)),
            _ => Err(Fault::Settings(format!(
                "--root-of-trust {words:?} is not known: use `file` or `passphrase-file=PATH`"
            ))),
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Fault> {
    std::path::absolute(path)
        .map_err(|error| Fault::Settings(format!("the path {} cannot be made absolute: {error}", path.display())))
}

fn check_socket_path(path: &Path) -> Result<(), Fault> {
    if path.as_os_str().len() > SOCKET_PATH_BYTES {
        return Err(Fault::Settings(format!(
            "the socket path {} is longer than the {SOCKET_PATH_BYTES} bytes that the system allows; use a shorter one",
            path.display()
        )));
    }
    if path.file_name().is_none() {
        return Err(Fault::Settings(format!("the socket path {} names a folder, not a file in it", path.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::{Command, CommandLine};
    use clap::Parser;

    fn check(extra: &[&str]) -> Result<Settings, Fault> {
        let words = ["kagimori-hsm", "serve", "--data-dir", "/d"].iter().chain(extra);
        let Command::Serve(arguments) = CommandLine::try_parse_from(words).unwrap().command else { unreachable!() };
        Settings::check(&arguments)
    }

    fn refusal(extra: &[&str]) -> String {
        check(extra).unwrap_err().to_string()
    }

    #[test]
    fn the_management_socket_lies_in_the_data_folder_unless_named() {
        assert_eq!(check(&[]).unwrap().management_socket(), Path::new("/d/management.sock"));
        assert_eq!(check(&["--management-socket", "/m"]).unwrap().management_socket(), Path::new("/m"));
    }

    #[test]
    fn health_listens_on_loopback_only() {
        assert!(refusal(&["--health", "0.0.0.0:9223"]).contains("loopback"));
        assert!(refusal(&["--health", "192.0.2.1:9223"]).contains("loopback"));
        assert!(check(&["--health", "[::1]:9223"]).is_ok());
    }

    #[test]
    fn contradictions_and_unknown_words_are_refused() {
        assert!(refusal(&["--unix-socket", "/s", "--management-socket", "/s"]).contains("different"));
        assert!(refusal(&["--health", "127.0.0.1:2223"]).contains("different"));
        assert!(refusal(&["--root-of-trust", "tpm"]).contains("passphrase-file"));
        assert!(refusal(&["--root-of-trust", "passphrase-file="]).contains("passphrase-file"));
        assert!(refusal(&["--max-connections", "0"]).contains("--max-connections"));
        assert!(refusal(&["--unix-socket", &format!("/{}", "x".repeat(107))]).contains("shorter"));
    }

    #[test]
    fn a_socket_path_at_the_bound_is_taken() {
        assert!(check(&["--unix-socket", &format!("/{}", "x".repeat(106))]).is_ok());
    }
}
