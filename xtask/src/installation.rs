//! HSMs with everything round them in one folder: the processes, their customer's CA, their users, their clients' files.
//!
//! [`crate::quickstart`] makes one under `.kagimori/` for a person; [`crate::testing`] and [`crate::bench`] make
//! disposable ones. Every step asks first whether it has been done, so an installation that was interrupted anywhere is
//! finished by doing it all again. Nothing here knows how the HSM works: it speaks through `kagimori-hsm manage`,
//! `kagimori` and `openssl`, as an operator would.
//!
//! ```text
//! hsm/      0700  data/ of the process, its log, its process id, its addresses; hsm-2/, hsm-3/, … the others'
//! card/     0700  what certifies the HSMs of one cluster as such; only where there are several
//! admin/    0700  the CAs' keys, the passwords (0600 each)
//! client/   0700 or, with a client group, 0750: what an application needs, and nothing more
//! env       0600  variables for a shell
//! ```

mod authority;
mod cluster;
mod files;
mod members;
pub(crate) mod network;
mod process;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

pub(crate) use files::Password;
pub(crate) use network::Network;
pub(crate) use process::{Running, other_addresses};

use crate::narrate;
use crate::workspace::{Workspace, capture};

/// Token label of every cluster that this makes.
pub(crate) const LABEL: &str = "kagimori";

/// The first admin. The name is fixed by activation.
pub(crate) const ADMIN: &str = "admin";

/// The crypto user whose PIN the environment file has.
pub(crate) const CRYPTO_USER: &str = "app";

/// What an installation shall be.
#[derive(Clone, Default)]
pub(crate) struct Wishes {
    /// Mode FIPS, for ever.
    pub(crate) fips: bool,
    /// Group that may read the clients' files.
    pub(crate) client_group: Option<String>,
    /// Filter of the HSM's log, when it shall not be the usual one.
    pub(crate) log: Option<&'static str>,
    /// Let the system write a core when the HSM crashes, which the HSM must prevent.
    pub(crate) cores: bool,
    /// How many HSMs; 0 is one, without peers.
    pub(crate) hsms: usize,
    /// Namespaces that are the hosts of the HSMs and of their clients; otherwise all are on this one.
    pub(crate) network: Option<Network>,
    /// A Unix socket for clients at each HSM as well.
    pub(crate) client_sockets: bool,
    /// How long applications wait for a call, in seconds, where it is not what the library takes by itself.
    pub(crate) call_timeout: Option<u32>,
}

/// The folder and what is known of it.
pub(crate) struct Installation {
    folder: PathBuf,
    programs: PathBuf,
    wishes: Wishes,
    /// Which of its HSMs this one speaks of, from 1.
    number: usize,
}

/// What a cluster says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The HSM belongs to no cluster.
    Blank,
    /// A cluster whose certificate nobody has signed.
    Uninitialized,
    /// Signed, without a first password.
    Initialized,
    /// In service.
    Active,
    /// Its keys are gone.
    Zeroized,
}

/// The answer of `kagimori-hsm manage status`.
pub(crate) struct Status {
    pub(crate) stage: Stage,
    pub(crate) fips: bool,
    activation_password: Option<Password>,
    /// HSMs that vote.
    pub(crate) voters: usize,
    /// Where whoever leads listens for other HSMs, as far as this one knows.
    pub(crate) leader: Option<std::net::SocketAddr>,
}

impl Installation {
    /// The installation in a folder, made or to be made.
    pub(crate) fn at(workspace: &Workspace, folder: &Path, wishes: Wishes) -> Result<Self> {
        let folder = std::path::absolute(folder).context("the installation's folder has no absolute path")?;
        Ok(Self { folder, programs: workspace.target().join("release"), wishes, number: 1 })
    }

    /// Takes a running HSM from whatever stage it is in to service.
    pub(crate) fn bring_into_service(&self) -> Result<()> {
        if self.status()?.stage == Stage::Blank {
            self.form()?;
        }
        self.refuse_other_mode()?;
        if self.status()?.stage == Stage::Uninitialized {
            self.initialize()?;
        }
        self.write_client_files()?;
        let status = self.status()?;
        match status.stage {
            Stage::Initialized => self.activate(status.activation_password)?,
            Stage::Active => {}
            other => {
                bail!("the cluster is {other:?}, which quickstart cannot lead into service; start with an empty folder")
            }
        }
        self.create_crypto_user()?;
        self.require_client_certificates()?;
        self.write_environment()
    }

    /// Whether this was made in the mode that is wished for now.
    pub(crate) fn refuse_other_mode(&self) -> Result<()> {
        let status = self.status()?;
        if status.stage != Stage::Blank && status.fips != self.wishes.fips {
            let mode = |fips| if fips { "FIPS" } else { "NON_FIPS" };
            bail!(
                "the cluster in {} is {} for ever, and {} was asked for; run it as it is, or stop it and move the folder \
                 away to begin anew",
                self.folder.display(),
                mode(status.fips),
                mode(self.wishes.fips)
            );
        }
        Ok(())
    }

    fn form(&self) -> Result<()> {
        let step = narrate::begin("form a cluster of this one HSM");
        let mut command = self.manage();
        command.args(["form", "--label", LABEL]);
        if self.wishes.fips {
            command.arg("--fips");
        }
        capture(&mut command)?;
        step.done(format!("token label {LABEL}, mode {}", if self.wishes.fips { "FIPS" } else { "NON_FIPS" }));
        Ok(())
    }

    /// The ceremony that AWS documents: the customer signs the cluster's request by a CA of his own.
    fn initialize(&self) -> Result<()> {
        let step = narrate::begin("fetch the cluster's certificate request, sign it by a new customer CA (openssl)");
        let ceremony = self.admin().join("ceremony");
        capture(self.manage().arg("certificates").arg("--out-dir").arg(&ceremony))?;
        self.make_authority(authority::CUSTOMER)?;
        let certificate = ceremony.join("ClusterCertificate.crt");
        self.sign_cluster_request(&ceremony.join("ClusterCsr.csr"), &certificate)?;
        step.done("");
        let step = narrate::begin("initialise the cluster with the signed certificate");
        let mut command = self.manage();
        command.arg("initialize").arg("--certificate").arg(&certificate);
        capture(command.arg("--trust-anchor").arg(self.authority_certificate(authority::CUSTOMER)))?;
        step.done("clients trust the customer's CA and nothing else");
        Ok(())
    }

    /// The HSM's own word on where it stands.
    pub(crate) fn status(&self) -> Result<Status> {
        let answer = capture(self.manage().args(["status", "--output", "json"]))?;
        let answer: serde_json::Value =
            serde_json::from_str(&answer).context("`kagimori-hsm manage status` printed no JSON")?;
        let stage = match answer["lifecycle"].as_str().unwrap_or_default() {
            "none" => Stage::Blank,
            "uninitialized" => Stage::Uninitialized,
            "initialized" => Stage::Initialized,
            "active" => Stage::Active,
            "zeroized" => Stage::Zeroized,
            other => bail!("`kagimori-hsm manage status` names a lifecycle {other:?} that is not known here"),
        };
        let password = answer["activation_password"].as_str().filter(|password| !password.is_empty());
        let members = answer["members"].as_array().map_or(&[][..], Vec::as_slice);
        let voters = members.iter().filter(|member| member["votes"] == true).count();
        let leader = members.iter().find(|member| member["leads"] == true);
        let leader = leader.and_then(|leader| leader["peer_address"].as_str()?.parse().ok());
        let activation_password = password.map(Password::known);
        Ok(Status { stage, fips: answer["mode"] == "FIPS", activation_password, voters, leader })
    }

    fn manage(&self) -> Command {
        let mut command = Command::new(self.programs.join("kagimori-hsm"));
        command.arg("manage").arg("--socket").arg(self.management_socket());
        command
    }

    /// The command line, configured for this installation.
    pub(crate) fn kagimori(&self) -> Command {
        let mut command = self.at_client(self.programs.join("kagimori"));
        command.env("KAGIMORI_CONFIG", self.client_configuration());
        for name in ["CLOUDHSM_ROLE", "CLOUDHSM_PIN", "KAGIMORI_ROLE", "KAGIMORI_PIN"] {
            command.env_remove(name);
        }
        command
    }

    /// The command line, logged in as the admin.
    pub(crate) fn kagimori_as_admin(&self) -> Result<Command> {
        let mut command = self.kagimori();
        command.env("KAGIMORI_ROLE", "admin").env("KAGIMORI_PIN", self.pin(ADMIN)?);
        Ok(command)
    }

    /// `user:password` of a user whose password lies in `admin/`.
    pub(crate) fn pin(&self, user: &str) -> Result<String> {
        Ok(format!("{user}:{}", self.password(user)?.expose()))
    }

    /// Top folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The HSM's own folder.
    pub(crate) fn hsm(&self) -> PathBuf {
        self.folder.join(if self.number == 1 { "hsm".to_owned() } else { format!("hsm-{}", self.number) })
    }

    /// Keys and passwords of the administrators.
    pub(crate) fn admin(&self) -> PathBuf {
        self.folder.join("admin")
    }

    /// What applications read.
    pub(crate) fn client(&self) -> PathBuf {
        self.folder.join("client")
    }

    /// `client.toml`.
    pub(crate) fn client_configuration(&self) -> PathBuf {
        self.client().join("client.toml")
    }

    /// The PKCS#11 library that applications load.
    pub(crate) fn module(&self) -> PathBuf {
        self.client().join("libkagimori_pkcs11.so")
    }

    /// The file for a shell.
    pub(crate) fn environment(&self) -> PathBuf {
        self.folder.join("env")
    }
}
