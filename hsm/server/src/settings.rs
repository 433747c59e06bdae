//! Settings of `serve`: what the command line said, checked. A [`Settings`] value can be worked with.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hsm_core::limits::{ADDRESS_BYTES, ZONE_BYTES};
use hsm_core::versions;
use hsm_replication::versions::NEWEST;

use crate::command_line::{LogFormat, ServeArguments, SocketAccess};
use crate::exit::Fault;
use crate::limits;

/// Longest path of a Unix socket: `sun_path` is 108 bytes with its end (unix(7)).
const SOCKET_PATH_BYTES: usize = 107;

/// Settings that fit together.
#[derive(Clone, Debug)]
pub struct Settings {
    data_folder: PathBuf,
    installation: PathBuf,
    listen: SocketAddr,
    client_address: String,
    peers: Option<PeerSettings>,
    zone: String,
    witness: bool,
    newest_state: u32,
    unix_socket: Option<(PathBuf, SocketAccess)>,
    management_socket: PathBuf,
    health: Option<SocketAddr>,
    log_format: LogFormat,
    log_filter: String,
    root_of_trust: RootOfTrustSetting,
    connections: usize,
    sandbox: bool,
}

/// How this HSM and the others reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Where it listens for them.
    pub listen: SocketAddr,
    /// Where they reach it.
    pub address: SocketAddr,
    /// Ports of theirs that it may connect to, without doubles.
    pub ports: Vec<u16>,
    /// The newest version of the protocol between HSMs that it speaks: this program's own, but in tests of two versions.
    pub newest_version: u32,
    /// The newest version of commands that it knows.
    pub newest_state: u32,
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
        let peers = PeerSettings::check(arguments)?;
        if arguments.zone.len() > ZONE_BYTES || arguments.zone.chars().any(char::is_control) {
            return Err(Fault::Settings(format!(
                "--zone {:?} must have at most {ZONE_BYTES} bytes and no control characters",
                arguments.zone
            )));
        }
        let room = usize::try_from(limits::OPEN_FILES).unwrap_or(usize::MAX) / 2 - 1024;
        if arguments.max_connections == 0 || arguments.max_connections > room {
            return Err(Fault::Settings(format!("--max-connections must be 1 to {room}")));
        }
        let installation = match &arguments.installation {
            Some(path) => absolute(path)?,
            None => data_folder.join("installation"),
        };
        Ok(Self {
            data_folder,
            installation,
            listen: arguments.listen,
            client_address: client_address(arguments)?,
            peers,
            zone: arguments.zone.clone(),
            witness: arguments.witness,
            newest_state: arguments.newest_state.unwrap_or(versions::NEWEST).min(versions::NEWEST),
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

    /// Absolute path of the folder of the installation.
    pub fn installation(&self) -> &Path {
        &self.installation
    }

    /// Address and port that the roster shows to clients; empty = the one that is listened on.
    pub fn client_address(&self) -> &str {
        &self.client_address
    }

    /// How other HSMs are reached; `None` = there can be none.
    pub fn peers(&self) -> Option<&PeerSettings> {
        self.peers.as_ref()
    }

    /// Where this HSM stands.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// Whether it is a witness.
    pub fn witness(&self) -> bool {
        self.witness
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

    /// The newest version of commands that this HSM knows: the program's own, but in tests of two versions.
    pub fn newest_state(&self) -> u32 {
        self.newest_state
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

impl PeerSettings {
    fn check(arguments: &ServeArguments) -> Result<Option<Self>, Fault> {
        let Some(listen) = arguments.peer_listen else { return Ok(None) };
        let address = arguments.peer_address.unwrap_or(listen);
        if listen.port() == 0 || address.port() == 0 {
            return Err(Fault::Settings("--peer-listen needs a port that stays: other HSMs remember it".into()));
        }
        if address.ip().is_unspecified() {
            return Err(Fault::Settings(format!(
                "--peer-listen {listen} says not how other HSMs reach this one: name it with --peer-address"
            )));
        }
        if [Some(arguments.listen), arguments.health].contains(&Some(listen)) {
            return Err(Fault::Settings("--peer-listen, --listen and --health must be different addresses".into()));
        }
        let ports = match &arguments.peer_ports {
            Some(words) => parse_ports(words)?,
            None => vec![listen.port()],
        };
        let newest_version = arguments.newest_version.unwrap_or(NEWEST).min(NEWEST);
        let newest_state = arguments.newest_state.unwrap_or(versions::NEWEST).min(versions::NEWEST);
        Ok(Some(Self { listen, address, ports, newest_version, newest_state }))
    }
}

fn parse_ports(words: &str) -> Result<Vec<u16>, Fault> {
    let refused = || {
        let most = limits::PEER_PORTS;
        Fault::Settings(format!("--peer-ports {words:?} is no list such as 2224,2300-2327 of at most {most} ports"))
    };
    let mut ports = std::collections::BTreeSet::new();
    for part in words.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|&port| port > 0).ok_or_else(refused);
        let (first, last) = (port(first)?, port(last)?);
        if first > last || usize::from(last - first) >= limits::PEER_PORTS {
            return Err(refused());
        }
        ports.extend(first..=last);
    }
    if ports.len() > limits::PEER_PORTS { Err(refused()) } else { Ok(ports.into_iter().collect()) }
}

fn client_address(arguments: &ServeArguments) -> Result<String, Fault> {
    let address = arguments.client_address.clone().unwrap_or_default();
    if address.len() > ADDRESS_BYTES || address.chars().any(|character| character.is_control()) {
        return Err(Fault::Settings(format!("--client-address must have at most {ADDRESS_BYTES} plain bytes")));
    }
    let silent = address.is_empty() && arguments.listen.ip().is_unspecified();
    if silent && arguments.peer_listen.is_some() && !arguments.witness {
        return Err(Fault::Settings(format!(
            "--listen {} says not how clients reach this HSM of a cluster: name it with --client-address",
            arguments.listen
        )));
    }
    Ok(address)
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
    fn a_sole_hsm_has_no_peers_and_a_member_says_how_it_is_reached() {
        assert_eq!(check(&[]).unwrap().peers(), None);
        let peers = check(&["--peer-listen", "127.0.0.2:2224"]).unwrap().peers().cloned().unwrap();
        assert_eq!((peers.address, peers.ports), ("127.0.0.2:2224".parse().unwrap(), vec![2224]));
        let words = ["--peer-listen", "127.0.0.2:2224", "--peer-ports", "9,5-7,6"];
        assert_eq!(check(&words).unwrap().peers().unwrap().ports, [5, 6, 7, 9]);
        assert!(refusal(&["--peer-listen", "0.0.0.0:2224"]).contains("--peer-address"));
        assert!(refusal(&["--peer-listen", "127.0.0.1:0"]).contains("port that stays"));
        assert!(refusal(&["--peer-listen", "127.0.0.1:2223"]).contains("different"));
        assert!(refusal(&["--peer-listen", "10.0.0.1:2224", "--listen", "0.0.0.0:2223"]).contains("--client-address"));
        assert!(refusal(&["--zone", &"z".repeat(33)]).contains("--zone"));
        for ports in ["", "0", "7-5", "1-1025", "x"] {
            assert!(refusal(&["--peer-listen", "127.0.0.1:2224", "--peer-ports", ports]).contains("--peer-ports"));
        }
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
