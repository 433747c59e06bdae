//! The words of the command line. What they mean is in the module of each area.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hsm_protocol::Role;

use crate::attributes;

const EXAMPLES: &str = "\
Examples:
  See whether everything between this machine and the cluster is in order:
    kagimori doctor

  Give a new cluster's first admin a password (the HSM's `manage status` shows the activation password):
    kagimori cluster activate --activation-password-file activation --password-file admin-password

  Work as that admin, and make a user for an application:
    export KAGIMORI_ROLE=admin KAGIMORI_PIN=admin:…
    kagimori user create --username app --role crypto-user --password-file app-password

  Work as that user:
    export KAGIMORI_ROLE=crypto-user KAGIMORI_PIN=app:…
    kagimori key generate-asymmetric-pair ec --curve prime256v1 --public-label web --private-label web
    kagimori key list --filter attr.label=web -v

  See every HSM and how far it is; let HSMs join only one by one:
    kagimori cluster status
    kagimori cluster admission set --standing off

Who is logged in: --as, --as-role and --as-password-file, else KAGIMORI_ROLE and KAGIMORI_PIN, else CLOUDHSM_ROLE and
CLOUDHSM_PIN. A PIN is user:password, or the password alone of `default-user` in client.toml (role crypto-user) or of
`admin` (role admin). A password that is missing is asked for on the terminal.

KAGIMORI_LOG=debug shows what the connection does.

Exit codes: 0 done; 1 refused or failed; 2 wrong arguments.";

const LIST_EXAMPLES: &str = "\
Examples:
  kagimori key list --max-items 100
  kagimori key list --filter attr.label=web attr.class=private-key -v
  kagimori key list --filter attr.id=0x0a01
  kagimori key list --filter key-reference=0x2f -v";

const DELETE_EXAMPLES: &str = "\
A pair is two keys of one label: name one by its class, or take both with --all.

Examples:
  kagimori key delete --filter key-reference=0x2f
  kagimori key delete --filter attr.label=web attr.class=public-key
  kagimori key delete --filter attr.label=web --all
All keys of this user:
  kagimori key delete --filter attr.token=true --all";

const USER_RULES: &str = "\
A name has 1 to 31 letters, digits or one of _ - . @, and begins with a letter.
A password has 8 to 128 characters. More than five wrong ones in a row lock the user.";

const CREATE_EXAMPLE: &str = "\
Example:
  kagimori user create --username app --role crypto-user --password-file app-password";

const CHANGE_EXAMPLE: &str = "\
Example, by an admin for a user who is locked:
  kagimori user change-password --username app --role crypto-user --password-file new-password";

const AES_EXAMPLE: &str = "\
Example:
  kagimori key generate-symmetric aes --label backup --key-length-bytes 32 --attributes id=0x0a01 wrap=true";

const RSA_EXAMPLE: &str = "\
Example:
  kagimori key generate-asymmetric-pair rsa --modulus-size-bits 3072 --public-label ca --private-label ca \\
      --public-attributes id=0x01 --private-attributes id=0x01";

const EC_EXAMPLE: &str = "\
Example:
  kagimori key generate-asymmetric-pair ec --curve P-256 --public-label web --private-label web \\
      --public-attributes id=0x02 --private-attributes id=0x02 derive=true";

/// Keys, users and health of a Kagimori cluster.
#[derive(Parser)]
#[command(name = "kagimori", version, after_help = EXAMPLES, arg_required_else_help = true, max_term_width = 120)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,

    #[command(subcommand)]
    pub(crate) area: Area,
}

/// What every command takes.
#[derive(Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Common {
    /// client.toml to use [default: KAGIMORI_CONFIG, the user's configuration folder, /etc/kagimori].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Label of the cluster in client.toml; needed when it has several.
    #[arg(long = "cluster-id", visible_alias = "cluster", global = true, value_name = "LABEL")]
    pub(crate) cluster: Option<String>,

    /// Form of the answer.
    #[arg(long, global = true, value_enum, env = "KAGIMORI_OUTPUT", default_value_t = Output::Text)]
    pub(crate) output: Output,

    /// User who does this [default: of KAGIMORI_PIN or CLOUDHSM_PIN].
    #[arg(long = "as", global = true, value_name = "USER")]
    pub(crate) acting_user: Option<String>,

    /// His role; with --as.
    #[arg(long = "as-role", global = true, value_enum, value_name = "ROLE")]
    pub(crate) acting_role: Option<RoleName>,

    /// File whose first line is his password; with --as. Without it the password is asked for.
    #[arg(long = "as-password-file", global = true, value_name = "FILE")]
    pub(crate) acting_password_file: Option<PathBuf>,
}

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables and sentences for a person.
    Text,
    /// `{"error_code": …, "data": …}`, as cloudhsm-cli prints it.
    Json,
}

/// A role that a person can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// Manages users and policy.
    Admin,
    /// Owns and uses keys.
    CryptoUser,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Admin => Self::Admin,
            RoleName::CryptoUser => Self::CryptoUser,
        }
    }
}

/// The areas of commands.
#[derive(Subcommand)]
pub(crate) enum Area {
    /// The cluster as a whole: activation, members, mutual TLS.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Check a user's credentials and say what came of it. Nothing is kept: every command logs in by itself.
    Login(LoginArguments),
    /// Users.
    #[command(subcommand)]
    User(UserCommand),
    /// Keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Go through everything from the configuration to a login and say what is wrong and what to do. The login is tried
    /// when somebody is named (KAGIMORI_ROLE and KAGIMORI_PIN, or --as).
    Doctor,
}

/// A new password: from a file, from the terminal, or (warned about) from an argument.
#[derive(Args)]
pub(crate) struct NewPassword {
    /// File whose first line is the password. Without it the password is asked for.
    #[arg(long, value_name = "FILE", conflicts_with = "password")]
    pub(crate) password_file: Option<PathBuf>,

    /// The password itself. Every user of this machine can read arguments: prefer --password-file.
    #[arg(long)]
    pub(crate) password: Option<String>,
}

/// `cluster …`.
#[derive(Subcommand)]
pub(crate) enum ClusterCommand {
    /// Give the first admin a password. The activation password is void from then on.
    Activate {
        /// File whose first line is the activation password, which `kagimori-hsm manage status` shows.
        #[arg(long, value_name = "FILE")]
        activation_password_file: Option<PathBuf>,
        #[command(flatten)]
        password: NewPassword,
    },
    /// Members and figures of the cluster.
    #[command(visible_alias = "hsm-info")]
    Info,
    /// Certificates that clients must have.
    #[command(subcommand)]
    Mtls(MtlsCommand),
    /// Every HSM: where it is, what it does, how far it is; who leads; the policy in words. By any user.
    Status,
    /// Which HSMs may join.
    #[command(subcommand)]
    Admission(AdmissionCommand),
    /// What HSMs do that are cut off.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Give the cluster another TLS key and certificate: after a removal, because the removed HSM knows the key. By an admin.
    #[command(subcommand)]
    Reissue(ReissueCommand),
    /// On the host of an HSM: go on with it alone when the majority of the cluster is gone for good. It says what is lost,
    /// and asks. Hands over to `kagimori-hsm manage recover`.
    Recover {
        /// The HSM's management socket.
        #[arg(long, env = "KAGIMORI_HSM_MANAGEMENT_SOCKET", value_name = "PATH")]
        socket: PathBuf,
        /// Do not ask to type the cluster's id.
        #[arg(long)]
        yes: bool,
    },
    /// Which programs of HSMs take part.
    #[command(subcommand)]
    Releases(ReleasesCommand),
    /// Take an HSM out of the cluster. By an admin.
    RemoveHsm {
        /// Its id, as `cluster status` shows it.
        #[arg(value_name = "HSM")]
        hsm: String,
    },
}

/// `cluster admission …`.
#[derive(Subcommand)]
pub(crate) enum AdmissionCommand {
    /// The rule, who is approved, and how many joined in the last day. By any user.
    Show,
    /// Change the rule; what is not named stays. By an admin.
    #[command(arg_required_else_help = true)]
    Set {
        /// `on`: HSMs of this installation join by themselves. `off`: each needs an approval.
        #[arg(long, value_enum)]
        standing: Option<Switch>,
        /// HSMs in the cluster at most: 1 to 28.
        #[arg(long, value_name = "NUMBER", value_parser = crate::members::members_range())]
        members: Option<u32>,
        /// HSMs that join by the rule in 24 hours at most: 0 to 1024.
        #[arg(long, value_name = "NUMBER", value_parser = crate::members::per_day_range())]
        per_day: Option<u32>,
    },
    /// Let one HSM join once, whatever the rule says. By an admin.
    Approve {
        /// Its id, as its own `kagimori-hsm manage status` shows it.
        #[arg(value_name = "HSM")]
        hsm: String,
    },
}

/// `cluster policy …`.
#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// The policy in words. By any user.
    Show,
    /// Change the policy. By an admin.
    Set {
        /// How long an HSM that hears from no majority goes on with the keys that it has: 0 (not at all) to 604800.
        #[arg(long, value_name = "SECONDS", value_parser = crate::members::window_range())]
        isolation_window: u32,
    },
}

/// `cluster releases …`.
#[derive(Subcommand)]
pub(crate) enum ReleasesCommand {
    /// Whose signature on a release counts, and the oldest that takes part. By any user.
    Show,
    /// Change that; what is not named stays. By an admin.
    #[command(arg_required_else_help = true)]
    Set {
        /// A key whose signature counts, 64 hexadecimal digits, in the place of all before; may be repeated.
        #[arg(long = "key", value_name = "KEY")]
        keys: Vec<String>,
        /// The oldest release that takes part, such as 1.2.3.
        #[arg(long, value_name = "VERSION")]
        minimum: Option<String>,
    },
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Switch {
    /// It is so.
    On,
    /// It is not so.
    Off,
}

/// `cluster reissue …`.
#[derive(Subcommand)]
pub(crate) enum ReissueCommand {
    /// Make a key, and write the request that the CA must sign. A key that waited before is void.
    Begin {
        /// File for the request, PEM.
        #[arg(long, value_name = "FILE")]
        csr_out: PathBuf,
    },
    /// Bring what the CA signed: every HSM shows it to new connections from then on.
    Finish {
        /// The signed certificate, PEM.
        #[arg(long, value_name = "FILE")]
        certificate: PathBuf,
        /// The self-signed certificate of the CA that signed it, PEM. Clients trust it alone: with another CA than before,
        /// give them this file first.
        #[arg(long, value_name = "FILE")]
        trust_anchor: PathBuf,
    },
}

/// `cluster mtls …`.
#[derive(Subcommand)]
pub(crate) enum MtlsCommand {
    /// Register a CA whose client certificates are good.
    RegisterTrustAnchor {
        /// Its certificate, PEM.
        #[arg(long, value_name = "FILE")]
        path: PathBuf,
    },
    /// Take registered CAs away.
    DeregisterTrustAnchor {
        /// References, as `list-trust-anchors` shows them.
        #[arg(long, required = true, num_args = 1.., value_name = "REFERENCE")]
        certificate_reference: Vec<String>,
    },
    /// The registered CAs.
    ListTrustAnchors,
    /// Whether clients must have a certificate.
    GetEnforcement,
    /// Say whether clients must have a certificate.
    SetEnforcement {
        /// `none`: no certificate is asked for. `cluster`: every HSM requires one.
        #[arg(long, value_enum)]
        level: Level,
    },
}

/// Where client certificates are required.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// Nowhere.
    None,
    /// On every HSM.
    Cluster,
}

/// `login`.
#[derive(Args)]
pub(crate) struct LoginArguments {
    /// Name of the user.
    #[arg(long)]
    pub(crate) username: String,
    /// Role of the user.
    #[arg(long, value_enum)]
    pub(crate) role: RoleName,
    #[command(flatten)]
    pub(crate) password: NewPassword,
}

/// A user as commands name him.
#[derive(Args)]
pub(crate) struct Who {
    /// Name of the user; case does not matter.
    #[arg(long)]
    pub(crate) username: String,
    /// Role of the user.
    #[arg(long, value_enum)]
    pub(crate) role: RoleName,
}

/// `user …`.
#[derive(Subcommand)]
pub(crate) enum UserCommand {
    /// Make a user. By an admin.
    #[command(after_help = format!("{USER_RULES}\n\n{CREATE_EXAMPLE}"))]
    Create {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        password: NewPassword,
    },
    /// Remove a user who owns no key and is logged in nowhere. By an admin.
    Delete(Who),
    /// All users.
    List,
    /// Change a password: an admin anybody's, which also unlocks a locked user; others their own.
    #[command(after_help = format!("{USER_RULES}\n\n{CHANGE_EXAMPLE}"))]
    ChangePassword {
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        password: NewPassword,
    },
    /// Take `disable` back. Does not unlock: that is what `change-password` does. By an admin.
    Enable(Who),
    /// End a user's logins and refuse new ones. By an admin.
    Disable(Who),
    /// End all logins of a user, on every HSM; he may log in again. By an admin or the user himself.
    Logout(Who),
}

/// `key …`.
#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// Keys that this user may see.
    #[command(after_help = format!("{}\n\n{LIST_EXAMPLES}", attributes::filter_words()))]
    List {
        /// What to show: `key-reference=0x…`, or `attr.NAME=VALUE`, several of which must all fit.
        #[arg(long, num_args = 1.., value_name = "FILTER")]
        filter: Vec<String>,
        /// How many to show.
        #[arg(long, default_value_t = 10, value_name = "NUMBER")]
        max_items: usize,
        /// Where an earlier list ended: its `next_token`.
        #[arg(long, value_name = "TOKEN")]
        starting_token: Option<String>,
        /// Show the attributes as well.
        #[arg(long, short)]
        verbose: bool,
    },
    /// Destroy a key for ever. By its owner.
    #[command(after_help = format!("{DELETE_EXAMPLES}\n\n{}", attributes::filter_words()))]
    Delete {
        /// The key: `key-reference=0x…`, or `attr.NAME=VALUE`, several of which must all fit.
        #[arg(long, required = true, num_args = 1.., value_name = "FILTER")]
        filter: Vec<String>,
        /// Destroy every key of this user that fits. Without it exactly one must fit.
        #[arg(long)]
        all: bool,
    },
    /// Make a secret key.
    #[command(subcommand)]
    GenerateSymmetric(SymmetricCommand),
    /// Make a pair of keys.
    #[command(subcommand)]
    GenerateAsymmetricPair(PairCommand),
}

/// `key generate-symmetric …`.
#[derive(Subcommand)]
pub(crate) enum SymmetricCommand {
    /// An AES key that encrypts and decrypts and cannot leave the HSM, unless --attributes says otherwise.
    #[command(after_help = format!("{}\n\n{AES_EXAMPLE}", attributes::given_words()))]
    Aes {
        /// Label; need not be unique.
        #[arg(long)]
        label: String,
        /// 16, 24 or 32.
        #[arg(long, value_name = "BYTES")]
        key_length_bytes: u64,
        /// Further attributes, `NAME=VALUE`.
        #[arg(long, num_args = 1.., value_name = "NAME=VALUE")]
        attributes: Vec<String>,
    },
}

/// Labels and attributes of a pair.
#[derive(Args)]
pub(crate) struct PairAttributes {
    /// Label of the public key.
    #[arg(long)]
    pub(crate) public_label: String,
    /// Label of the private key.
    #[arg(long)]
    pub(crate) private_label: String,
    /// Further attributes of the public key, `NAME=VALUE`.
    #[arg(long, num_args = 1.., value_name = "NAME=VALUE")]
    pub(crate) public_attributes: Vec<String>,
    /// Further attributes of the private key, `NAME=VALUE`.
    #[arg(long, num_args = 1.., value_name = "NAME=VALUE")]
    pub(crate) private_attributes: Vec<String>,
}

/// `key generate-asymmetric-pair …`.
#[derive(Subcommand)]
pub(crate) enum PairCommand {
    /// An RSA pair that signs, verifies, encrypts and decrypts, unless the attributes say otherwise.
    #[command(after_help = format!("{}\n\n{RSA_EXAMPLE}", attributes::given_words()))]
    Rsa {
        #[command(flatten)]
        pair: PairAttributes,
        /// Size of the modulus in bits: 2048 to 8192, a multiple of 128.
        #[arg(long, value_name = "BITS")]
        modulus_size_bits: u64,
        /// Public exponent, odd.
        #[arg(long, default_value_t = 65537, value_name = "NUMBER")]
        public_exponent: u64,
    },
    /// A pair on an elliptic curve that signs and verifies, unless the attributes say otherwise.
    #[command(after_help = format!("{}\n\n{EC_EXAMPLE}", attributes::given_words()))]
    Ec {
        #[command(flatten)]
        pair: PairAttributes,
        /// The curve; also by the names P-256, P-384, P-521.
        #[arg(long, value_enum, ignore_case = true)]
        curve: CurveName,
    },
}

/// Curves by the names of cloudhsm-cli.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CurveName {
    /// NIST P-256.
    #[value(aliases = ["secp256r1", "p-256", "p256", "nistp256"])]
    Prime256v1,
    /// NIST P-384.
    #[value(aliases = ["p-384", "p384", "nistp384"])]
    Secp384r1,
    /// NIST P-521.
    #[value(aliases = ["p-521", "p521", "nistp521"])]
    Secp521r1,
    /// The curve of Bitcoin.
    Secp256k1,
    /// Edwards25519 for EdDSA.
    Ed25519,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn is_taken(words: &str) -> bool {
        Arguments::try_parse_from(words.split(' ')).is_ok()
    }

    #[test]
    fn rules_and_windows_are_taken_at_their_bounds_and_not_past_them() {
        let set = "kagimori cluster admission set";
        for good in ["--members 1", "--members 28", "--per-day 0", "--per-day 1024", "--standing off --per-day 3"] {
            assert!(is_taken(&format!("{set} {good}")), "{good}");
        }
        for bad in ["--members 0", "--members 29", "--per-day 1025", "--standing maybe"] {
            assert!(!is_taken(&format!("{set} {bad}")), "{bad}");
        }
        assert!(!is_taken(set), "something must be set");
        let window = "kagimori cluster policy set --isolation-window";
        assert!(is_taken(&format!("{window} 0")) && is_taken(&format!("{window} 604800")));
        assert!(!is_taken(&format!("{window} 604801")) && !is_taken("kagimori cluster policy set"));
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// The help of a subcommand, as `--help` prints it.
    fn help_of(path: &[&str]) -> String {
        let words = std::iter::once("kagimori").chain(path.iter().copied()).chain(["--help"]);
        let error = Arguments::command().try_get_matches_from(words).unwrap_err();
        error.to_string()
    }

    #[test]
    fn a_commands_own_options_stand_before_those_of_every_command() {
        let help = help_of(&["user", "create"]);
        let at = |words: &str| help.find(words).unwrap_or_else(|| panic!("no {words:?} in:\n{help}"));
        assert!(
            at("--username") < at("Options of every command:") && at("Options of every command:") < at("--as-role")
        );
        assert!(at("8 to 128 characters") > 0 && at("Example:") > 0);
    }

    #[test]
    fn help_names_the_attributes_and_the_form_of_an_id() {
        for path in [&["key", "list"][..], &["key", "delete"], &["key", "generate-symmetric", "aes"]] {
            let help = help_of(path);
            assert!(help.contains("extractable") && help.contains("id=0x0a01"), "{help}");
        }
    }

    #[test]
    fn a_curve_has_the_names_of_nist_too() {
        for (name, curve) in [("P-256", CurveName::Prime256v1), ("p-384", CurveName::Secp384r1)] {
            assert_eq!(CurveName::from_str(name, true).ok(), Some(curve));
        }
    }

    #[test]
    fn help_has_examples_and_exit_codes() {
        let help = Arguments::command().render_long_help().to_string();
        assert!(help.contains("kagimori cluster activate") && help.contains("Exit codes:"), "{help}");
    }
}
