//! The command line of `kagimori-hsm`: words in, parsed arguments out. Checks of meaning are in `settings`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit::EXIT_CODES;
use crate::limits;

const EXAMPLES: &str = "\
Examples:
  Start an HSM whose data lies in /var/lib/kagimori, for clients on port 2223:
    kagimori-hsm serve --data-dir /var/lib/kagimori --listen 0.0.0.0:2223

  Make a new cluster of it, and fetch what its owner has to sign:
    export KAGIMORI_HSM_MANAGEMENT_SOCKET=/var/lib/kagimori/management.sock
    kagimori-hsm manage form --label payments
    kagimori-hsm manage certificates --out-dir ceremony

  Sign the request with the customer's own CA, and bring the certificate back:
    openssl req -x509 -new -newkey rsa:2048 -nodes -days 3652 \\
        -subj '/CN=Customer CA' -keyout customerCA.key -out customerCA.crt
    openssl x509 -req -days 3652 -in ceremony/ClusterCsr.csr \\
        -CA customerCA.crt -CAkey customerCA.key -set_serial 1 \\
        -out ClusterCertificate.crt
    kagimori-hsm manage initialize --certificate ClusterCertificate.crt \\
        --trust-anchor customerCA.crt

  From then on clients connect; `kagimori cluster activate` gives the first
  admin a password.

  Add a second HSM, which shares the folder of the installation:
    kagimori-hsm serve --data-dir /var/lib/kagimori-2 --zone b \\
        --installation /var/lib/kagimori/installation \\
        --listen 10.0.0.2:2223 --peer-listen 10.0.0.2:2224
    kagimori-hsm manage --socket /var/lib/kagimori-2/management.sock \\
        join --member 10.0.0.1:2224";

/// One HSM of a Kagimori cluster: keeps keys, signs and decrypts with them, and never gives them away.
#[derive(Debug, Parser)]
#[command(name = "kagimori-hsm", version, after_help = EXIT_CODES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run an HSM until it is told to stop (SIGTERM, SIGINT or `manage stop`).
    Serve(ServeArguments),
    /// Ask or tell a running HSM, through its management socket.
    Manage(ManageArguments),
}

/// Arguments of `serve`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct ServeArguments {
    /// Folder of this HSM's files: store, seal, keys. Made with mode 0700 if it is not there; used by one HSM only.
    #[arg(long, env = "KAGIMORI_HSM_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: PathBuf,

    /// Folder of the installation: the roots and the card's key, which certify every HSM. HSMs that shall form one cluster
    /// share it [default: installation in the data folder].
    #[arg(long, env = "KAGIMORI_HSM_INSTALLATION", value_name = "FOLDER")]
    pub installation: Option<PathBuf>,

    /// Address for clients over TLS 1.3. Opens once the cluster is initialised.
    #[arg(long, env = "KAGIMORI_HSM_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:2223")]
    pub listen: SocketAddr,

    /// Address and port under which clients reach this HSM, where it is not that of --listen.
    #[arg(long, env = "KAGIMORI_HSM_CLIENT_ADDRESS", value_name = "HOST:PORT")]
    pub client_address: Option<String>,

    /// Address for the other HSMs of the cluster. Without it this HSM can only be a cluster's sole member.
    #[arg(long, env = "KAGIMORI_HSM_PEER_LISTEN", value_name = "ADDRESS:PORT")]
    pub peer_listen: Option<SocketAddr>,

    /// Address under which the other HSMs reach this one, where it is not that of --peer-listen.
    #[arg(long, env = "KAGIMORI_HSM_PEER_ADDRESS", value_name = "ADDRESS:PORT", requires = "peer_listen")]
    pub peer_address: Option<SocketAddr>,

    /// TCP ports that this HSM may connect to, all of them other HSMs' --peer-listen: numbers and ranges such as
    /// 2224,2300-2327 [default: the port of --peer-listen].
    #[arg(long, env = "KAGIMORI_HSM_PEER_PORTS", value_name = "PORTS", requires = "peer_listen")]
    pub peer_ports: Option<String>,

    /// For tests of two versions in one cluster: speak no newer version of the protocol between HSMs than this one.
    #[arg(long, hide = true, value_name = "NUMBER", requires = "peer_listen")]
    pub newest_version: Option<u32>,

    /// For tests of two versions in one cluster: know no newer version of commands than this one.
    #[arg(long, hide = true, value_name = "NUMBER")]
    pub newest_state: Option<u32>,

    /// Availability zone, room or rack that fails as one: the cluster spreads its voters over zones.
    #[arg(long, env = "KAGIMORI_HSM_ZONE", value_name = "NAME", default_value = "")]
    pub zone: String,

    /// Be a witness: keep the log and vote, so that a cluster of two HSMs outlives one of them, and never hold its keys
    /// or serve clients.
    #[arg(long, requires = "peer_listen")]
    pub witness: bool,

    /// Unix socket for clients on this host: same protocol, no TLS. Opens once the cluster is initialised.
    #[arg(long, env = "KAGIMORI_HSM_UNIX_SOCKET", value_name = "PATH")]
    pub unix_socket: Option<PathBuf>,

    /// Who may connect to --unix-socket: only the user that the HSM runs as, its group too, or every user of the host.
    /// Whoever connects still has to log in.
    #[arg(long, value_enum, value_name = "WHO", default_value_t = SocketAccess::Owner)]
    pub unix_socket_access: SocketAccess,

    /// Unix socket for `manage` [default: management.sock in the data folder].
    #[arg(long, env = "KAGIMORI_HSM_MANAGEMENT_SOCKET", value_name = "PATH")]
    pub management_socket: Option<PathBuf>,

    /// Loopback address for /health/live, /health/ready and /metrics, without login and without secrets.
    #[arg(long, env = "KAGIMORI_HSM_HEALTH", value_name = "ADDRESS:PORT")]
    pub health: Option<SocketAddr>,

    /// Form of the log on standard error.
    #[arg(long, env = "KAGIMORI_HSM_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// How much to log: error, warn, info, debug, or a filter such as `info,hsm_server=debug,openraft=warn`.
    #[arg(long, env = "KAGIMORI_HSM_LOG", value_name = "FILTER", default_value = "info,openraft=off")]
    pub log: String,

    /// What seals the cluster master key at rest: `file` (a key in root.key in the data folder) or
    /// `passphrase-file=PATH` (a passphrase in a file of mode 0600 that you keep elsewhere).
    #[arg(long, env = "KAGIMORI_HSM_ROOT_OF_TRUST", value_name = "KIND", default_value = "file")]
    pub root_of_trust: String,

    /// Connections over TLS at one time.
    #[arg(long, value_name = "NUMBER", default_value_t = limits::CONNECTIONS)]
    pub max_connections: usize,

    /// Go on without Landlock, seccomp and the bans on core dumps and debuggers. For debugging only: whoever takes over
    /// the process can then do whatever its user can.
    #[arg(long)]
    pub no_sandbox: bool,
}

/// Who may connect to the Unix socket for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SocketAccess {
    /// Mode 0600.
    Owner,
    /// Mode 0660.
    Group,
    /// Mode 0666.
    Everyone,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line for a person.
    Text,
    /// A JSON object per line.
    Json,
}

/// Arguments of `manage`.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct ManageArguments {
    /// The HSM's management socket; needed.
    #[arg(long, global = true, env = "KAGIMORI_HSM_MANAGEMENT_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Form of the answer.
    #[arg(long, value_enum, global = true, default_value_t = Output::Text)]
    pub output: Output,

    /// What to ask or tell.
    #[command(subcommand)]
    pub command: ManageCommand,
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for a person.
    Text,
    /// One JSON object.
    Json,
}

/// What to ask or tell a running HSM.
#[derive(Clone, Debug, Subcommand)]
pub enum ManageCommand {
    /// Show the HSM, its cluster and, until activation, the activation password.
    Status,
    /// Make a new cluster whose only member is this HSM. It must belong to none.
    Form {
        /// Token label that PKCS#11 shows: 1 to 32 bytes.
        #[arg(long)]
        label: String,
        /// Mode FIPS, for ever: what FIPS does not approve is refused.
        #[arg(long)]
        fips: bool,
    },
    /// Write the certificates of the initialisation ceremony, and the request to sign, to files.
    Certificates {
        /// Folder for the files; made if it is not there.
        #[arg(long, value_name = "FOLDER")]
        out_dir: PathBuf,
    },
    /// Install the certificate that the customer's CA made from ClusterCsr.csr; clients may connect from then on.
    Initialize {
        /// The signed certificate, PEM.
        #[arg(long, value_name = "FILE")]
        certificate: PathBuf,
        /// The self-signed certificate of the CA that signed it, PEM.
        #[arg(long, value_name = "FILE")]
        trust_anchor: PathBuf,
    },
    /// Join a cluster. This HSM must belong to none; a rule of the cluster must cover it.
    Join {
        /// Peer address of an HSM of the cluster (its --peer-listen); several are tried in turn.
        #[arg(long = "member", value_name = "ADDRESS:PORT", required = true)]
        members: Vec<SocketAddr>,
    },
    /// Leave the cluster: its other members go on, and this HSM destroys its copy of the keys and stops.
    Leave,
    /// Go on alone when the majority of the cluster is gone for good. This HSM becomes the only member of a new history of
    /// the cluster: all logins end, what the others acknowledged and this HSM had not heard of is lost, and the others can
    /// never come back as the members that they were. They must be off. Refused while a majority is alive.
    Recover {
        /// Do not ask to type the cluster's id.
        #[arg(long)]
        yes: bool,
    },
    /// Stop the HSM as SIGTERM does, and wait until it has.
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn the_management_socket_may_stand_before_or_after_what_is_asked() {
        for words in [["--socket", "s", "status"], ["status", "--socket", "s"]] {
            let parsed = CommandLine::try_parse_from(["kagimori-hsm", "manage"].into_iter().chain(words)).unwrap();
            let Command::Manage(arguments) = parsed.command else { panic!("{words:?}") };
            assert_eq!(arguments.socket, Some(PathBuf::from("s")), "{words:?}");
        }
    }

    #[test]
    fn help_has_examples_and_exit_codes() {
        let help = CommandLine::command().render_long_help().to_string();
        assert!(help.contains("openssl x509 -req -days 3652"), "{help}");
        assert!(help.contains("Exit codes:"), "{help}");
    }
}
