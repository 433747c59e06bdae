//! `client.toml`: which clusters there are and how to reach and trust them.
//!
//! It holds no secret, and is read by whoever the application runs as: a web server starts as root and works as
//! somebody else, and drops the environment. So the first file found on the search path is used whole, paths inside are
//! relative to its folder, and every error names the file, the line or key, and what to do. The files that it names are
//! read at the first connection ([`crate::trust`]), or earlier by [`crate::Cluster::check_files`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use hsm_protocol::UserName;
use serde::Deserialize;

use crate::address::Address;

/// Environment variable with the path of `client.toml`. Ignored in a process with raised privileges.
pub const ENVIRONMENT_VARIABLE: &str = "KAGIMORI_CONFIG";

/// File for all users of a machine.
const SYSTEM_FILE: &str = "/etc/kagimori/client.toml";

/// Where it lies under the user's configuration folder (XDG Base Directory: `$XDG_CONFIG_HOME`, else `~/.config`).
const USER_FILE: &str = "kagimori/client.toml";

/// Longest label in bytes: `CK_TOKEN_INFO.label` of PKCS#11 has 32.
const LABEL_BYTES: usize = 32;

/// Longest zone in bytes, as in an HSM's own configuration.
const ZONE_BYTES: usize = 32;

/// Largest `connections`. Each one costs a thread in the HSM.
pub(crate) const CONNECTIONS_MAX: usize = 16;

/// Longest time-out that can be configured, in seconds; longer is a typing error.
const TIMEOUT_SECONDS_MAX: u64 = 3600;

/// Everything that `client.toml` says.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The file it was read from.
    pub file: PathBuf,
    /// The clusters in the order of the file. `hsm-pkcs11` shows each as a slot, numbered from 0.
    pub clusters: Vec<ClusterConfiguration>,
    /// What the library logs, and where.
    pub log: LogConfiguration,
}

/// One `[[cluster]]`.
#[derive(Clone, Debug)]
pub struct ClusterConfiguration {
    /// Its name among the clusters here and, by default, the token's label.
    pub label: String,
    /// `host:port` of its HSMs: one that can be reached is enough to learn of all.
    pub addresses: Vec<String>,
    /// Socket of an HSM on this host, preferred: the same protocol at a third less cost.
    pub unix_socket: Option<PathBuf>,
    /// Where this client stands: HSMs of the same zone are preferred.
    pub zone: Option<String>,
    /// PEM file of the certificates that may sign the cluster's; needed for `addresses`.
    pub trust_anchor: Option<PathBuf>,
    /// PEM file with this client's certificate and those between it and its anchor.
    pub client_certificate: Option<PathBuf>,
    /// PEM file with its key (PKCS#8, SEC 1 or PKCS#1).
    pub client_key: Option<PathBuf>,
    /// The user to whom a PIN without colon belongs.
    pub default_user: Option<String>,
    /// Whose behaviour the PKCS#11 library shows.
    pub profile: Profile,
    /// Shared connections that one process may open to each HSM. More than one is used only by several busy threads.
    pub connections: usize,
    /// How long one attempt to connect may take, handshake included.
    pub connect_timeout: Duration,
    /// How long a call may take in all, connecting and repeating included. Key generation gets longer.
    pub call_timeout: Duration,
}

impl ClusterConfiguration {
    /// Shared connections by default: `evidence` of two cores; see `ARCHITECTURE.md`, "The data plane".
    pub const CONNECTIONS: usize = 2;
    /// Time for one attempt to connect by default.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
    /// Time for a call by default.
    pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

    /// A cluster with this label and nothing else: set what is needed.
    pub fn new(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            addresses: Vec::new(),
            unix_socket: None,
            zone: None,
            trust_anchor: None,
            client_certificate: None,
            client_key: None,
            default_user: None,
            profile: Profile::Oasis,
            connections: Self::CONNECTIONS,
            connect_timeout: Self::CONNECT_TIMEOUT,
            call_timeout: Self::CALL_TIMEOUT,
        }
    }
}

/// Whose behaviour the PKCS#11 library shows where they differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The OASIS standard.
    #[default]
    Oasis,
    /// AWS CloudHSM's library, for those who test against it.
    Cloudhsm,
}

/// `[log]`.
#[derive(Clone, Debug, Default)]
pub struct LogConfiguration {
    /// What is worth a line.
    pub level: LogLevel,
    /// Where lines go; `None` = standard error.
    pub file: Option<PathBuf>,
}

/// What is worth a line in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the usual levels by their usual names")]
pub enum LogLevel {
    Off,
    Error,
    #[default]
    Warn,
    Info,
    Debug,
    Trace,
}

/// `client.toml` cannot be used, or a file that it names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// There is none.
    #[error(
        "no client.toml found: looked at {}; write one there, or set {ENVIRONMENT_VARIABLE} to its path",
        Paths(places)
    )]
    NotFound {
        /// Where it was looked for.
        places: Vec<PathBuf>,
    },
    /// It is there and cannot be read.
    #[error("{} cannot be read ({reason}); make it and its folders readable for user {user}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        reason: String,
        /// Number of the user who tried.
        user: u32,
    },
    /// It is no TOML, or has a key that is not known or of the wrong type.
    #[error("{}, line {line}: {reason}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A value cannot be.
    #[error("{}: cluster \"{cluster}\", key `{key}`: {reason}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// Label of the cluster.
        cluster: String,
        /// The key.
        key: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A file that it names holds something else.
    #[error("{} (key `{key}` of cluster \"{cluster}\"): {reason}", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// Label of the cluster.
        cluster: String,
        /// The key that names the file.
        key: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl Configuration {
    /// Reads the first `client.toml` of the search path: [`ENVIRONMENT_VARIABLE`], the user's configuration folder,
    /// `/etc/kagimori`.
    ///
    /// # Errors
    /// [`ConfigurationError`]. When the variable is set, only its file counts.
    pub fn load() -> Result<Self, ConfigurationError> {
        let places = Self::search_path();
        for place in &places {
            match std::fs::read_to_string(place) {
                Ok(text) => return Self::parse(place, &text),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(place, &error)),
            }
        }
        Err(ConfigurationError::NotFound { places })
    }

    /// The places that [`Self::load`] looks at, in order.
    pub fn search_path() -> Vec<PathBuf> {
        let elevated = crate::system::privileges_were_raised();
        let variable = |name| if elevated { None } else { std::env::var_os(name).filter(|value| !value.is_empty()) };
        if let Some(file) = variable(ENVIRONMENT_VARIABLE) {
            return vec![PathBuf::from(file)];
        }
        let folder = variable("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|folder| folder.is_absolute())
            .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")));
        let user_file = folder.map(|folder| folder.join(USER_FILE));
        user_file.into_iter().chain([PathBuf::from(SYSTEM_FILE)]).collect()
    }

    /// Reads this file.
    ///
    /// # Errors
    /// [`ConfigurationError`].
    pub fn load_from(file: &Path) -> Result<Self, ConfigurationError> {
        let text = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
        Self::parse(file, &text)
    }

    /// Reads `text` as if it stood in `file`.
    ///
    /// # Errors
    /// [`ConfigurationError::Syntax`] and [`ConfigurationError::Value`].
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigurationError> {
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let written: WrittenFile = toml::from_str(text).map_err(|error| ConfigurationError::Syntax {
            file: file.clone(),
            line: error.span().map_or(1, |span| line_of(text, span.start)),
            reason: error.message().to_owned(),
        })?;
        let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
        if written.cluster.is_empty() {
            let reason = "there is no [[cluster]]; add one with `label` and `addresses` or `unix-socket`".to_owned();
            return Err(ConfigurationError::Syntax { file, line: 1, reason });
        }
        let mut clusters: Vec<ClusterConfiguration> = Vec::new();
        for entry in written.cluster {
            let label = entry.label.clone();
            let cluster = entry.check(&folder).and_then(|cluster| {
                let twice = clusters.iter().any(|earlier| earlier.label == cluster.label);
                if twice { Err(fault("label", "is used twice; give each cluster its own")) } else { Ok(cluster) }
            });
            clusters.push(cluster.map_err(|(key, reason)| ConfigurationError::Value {
                file: file.clone(),
                cluster: label,
                key,
                reason,
            })?);
        }
        let log = LogConfiguration { level: written.log.level, file: written.log.file.map(|path| folder.join(path)) };
        Ok(Self { file, clusters, log })
    }
}

pub(crate) fn unreadable(file: &Path, error: &std::io::Error) -> ConfigurationError {
    let user = crate::system::effective_user();
    ConfigurationError::Unreadable { file: file.to_owned(), reason: error.to_string(), user }
}

struct Paths<'a>(&'a [PathBuf]);

impl std::fmt::Display for Paths<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (position, path) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { " and " };
            write!(formatter, "{separator}{}", path.display())?;
        }
        Ok(())
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

type ValueFault = (&'static str, String);

fn fault(key: &'static str, reason: &str) -> ValueFault {
    (key, reason.to_owned())
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct WrittenFile {
    #[serde(default)]
    cluster: Vec<WrittenCluster>,
    #[serde(default)]
    log: WrittenLog,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct WrittenLog {
    #[serde(default)]
    level: LogLevel,
    file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct WrittenCluster {
    label: String,
    #[serde(default)]
    addresses: Vec<String>,
    unix_socket: Option<PathBuf>,
    zone: Option<String>,
    trust_anchor: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_key: Option<PathBuf>,
    default_user: Option<String>,
    #[serde(default)]
    profile: Profile,
    connections: Option<usize>,
    connect_timeout_seconds: Option<u64>,
    call_timeout_seconds: Option<u64>,
}

impl WrittenCluster {
    fn check(self, folder: &Path) -> Result<ClusterConfiguration, ValueFault> {
        if self.label.is_empty() || self.label.len() > LABEL_BYTES {
            return Err(("label", format!("must have 1 to {LABEL_BYTES} bytes")));
        }
        if self.addresses.is_empty() && self.unix_socket.is_none() {
            return Err(fault("addresses", "is empty and there is no `unix-socket`; give \"host:port\" of an HSM"));
        }
        for address in &self.addresses {
            Address::parse(address).map_err(|reason| ("addresses", reason))?;
        }
        if !self.addresses.is_empty() && self.trust_anchor.is_none() {
            return Err(fault("trust-anchor", "is missing; name the PEM file of the CA that signed the cluster"));
        }
        if self.client_certificate.is_some() != self.client_key.is_some() {
            return Err(fault("client-certificate", "goes with `client-key`: set both or neither"));
        }
        if let Some(user) = &self.default_user {
            UserName::new(user).map_err(|code| ("default-user", code.explanation().to_owned()))?;
        }
        if self.zone.as_ref().is_some_and(|zone| zone.is_empty() || zone.len() > ZONE_BYTES) {
            return Err(("zone", format!("must have 1 to {ZONE_BYTES} bytes")));
        }
        let connections = self.connections.unwrap_or(ClusterConfiguration::CONNECTIONS);
        if !(1..=CONNECTIONS_MAX).contains(&connections) {
            return Err(("connections", format!("must be 1 to {CONNECTIONS_MAX}")));
        }
        let under = |path: Option<PathBuf>| path.map(|path| folder.join(path));
        Ok(ClusterConfiguration {
            label: self.label,
            addresses: self.addresses,
            unix_socket: under(self.unix_socket),
            zone: self.zone,
            trust_anchor: under(self.trust_anchor),
            client_certificate: under(self.client_certificate),
            client_key: under(self.client_key),
            default_user: self.default_user,
            profile: self.profile,
            connections,
            connect_timeout: seconds(
                "connect-timeout-seconds",
                self.connect_timeout_seconds,
                ClusterConfiguration::CONNECT_TIMEOUT,
            )?,
            call_timeout: seconds(
                "call-timeout-seconds",
                self.call_timeout_seconds,
                ClusterConfiguration::CALL_TIMEOUT,
            )?,
        })
    }
}

fn seconds(key: &'static str, value: Option<u64>, default: Duration) -> Result<Duration, ValueFault> {
    match value {
        None => Ok(default),
        Some(value) if (1..=TIMEOUT_SECONDS_MAX).contains(&value) => Ok(Duration::from_secs(value)),
        Some(_) => Err((key, format!("must be 1 to {TIMEOUT_SECONDS_MAX}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
        [[cluster]]
        label = "kagimori"
        addresses = ["127.0.0.1:2223", "[::1]:2223", "hsm.example:2223"]
        unix-socket = "/run/hsm.sock"
        zone = "zone-a"
        trust-anchor = "customerCA.crt"
        client-certificate = "client.crt"
        client-key = "client.key"
        default-user = "app"
        profile = "cloudhsm"
        connections = 4
        call-timeout-seconds = 20

        [[cluster]]
        label = "other"
        unix-socket = "other.sock"

        [log]
        level = "debug"
        file = "client.log"
    "#;

    fn parse(text: &str) -> Result<Configuration, ConfigurationError> {
        Configuration::parse(Path::new("/folder/client.toml"), text)
    }

    #[test]
    fn a_whole_file_is_read_and_its_paths_are_relative_to_its_folder() {
        let configuration = parse(WHOLE).unwrap();
        let [first, second] = &configuration.clusters[..] else { panic!("two clusters") };
        assert_eq!(first.trust_anchor.as_deref(), Some(Path::new("/folder/customerCA.crt")));
        assert_eq!(first.unix_socket.as_deref(), Some(Path::new("/run/hsm.sock")));
        assert_eq!(first.zone.as_deref(), Some("zone-a"));
        assert_eq!((first.profile, first.connections), (Profile::Cloudhsm, 4));
        assert_eq!(first.call_timeout, Duration::from_secs(20));
        assert_eq!(second.unix_socket.as_deref(), Some(Path::new("/folder/other.sock")));
        assert_eq!(second.connect_timeout, ClusterConfiguration::CONNECT_TIMEOUT);
        assert_eq!(configuration.log.level, LogLevel::Debug);
        assert_eq!(configuration.log.file.as_deref(), Some(Path::new("/folder/client.log")));
    }

    #[test]
    fn a_syntax_error_names_file_line_and_key() {
        let message = parse("[[cluster]]\nlabel = \"a\"\nadresses = []\n").unwrap_err().to_string();
        assert!(message.contains("/folder/client.toml, line 3"), "{message}");
        assert!(message.contains("adresses"), "{message}");
        let message = parse("\n[[cluster]]\nlabel = 7\n").unwrap_err().to_string();
        assert!(message.contains("line 3"), "{message}");
    }

    #[test]
    fn a_value_that_cannot_be_is_named_by_cluster_and_key() {
        let with = |line: &str| format!("[[cluster]]\nlabel = \"c\"\nunix-socket = \"s\"\n{line}\n");
        for (text, key) in [
            ("[[cluster]]\nlabel = \"c\"".to_owned(), "addresses"),
            ("[[cluster]]\nlabel = \"\"\nunix-socket = \"s\"".to_owned(), "label"),
            (with("addresses = [\"1.2.3.4:5\"]"), "trust-anchor"),
            (with("addresses = [\"nowhere\"]\ntrust-anchor = \"t\""), "addresses"),
            (with("client-key = \"k\""), "client-certificate"),
            (with("default-user = \"1\""), "default-user"),
            (with("zone = \"\""), "zone"),
            (with("connections = 0"), "connections"),
            (with("connections = 17"), "connections"),
            (with("call-timeout-seconds = 0"), "call-timeout-seconds"),
            (with("connect-timeout-seconds = 3601"), "connect-timeout-seconds"),
            (with("[[cluster]]\nlabel = \"c\"\nunix-socket = \"t\""), "label"),
        ] {
            match parse(&text) {
                Err(ConfigurationError::Value { key: found, cluster, .. }) => {
                    assert_eq!(found, key, "{text}");
                    assert!(cluster == "c" || key == "label", "{text}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(matches!(parse("[log]\nlevel = \"warn\""), Err(ConfigurationError::Syntax { .. })));
    }

    #[test]
    fn an_unreadable_file_says_for_whom_it_must_be_readable() {
        let error = Configuration::load_from(Path::new("/nonexistent/client.toml")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/client.toml") && error.contains("readable for user"), "{error}");
    }
}
