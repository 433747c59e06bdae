//! `quickstart`: from a fresh clone to a signature that OpenSSL verified, in one command.
//!
//! Builds, starts HSMs in `.kagimori/`, leads the first through the ceremony, has the others join it, and shows an
//! application's work, which goes on when the HSM that it is on is killed. A second run finds what the first one made.

mod loss;

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::installation::{Installation, LABEL, Running, Stage, Wishes};
use crate::workspace::{Workspace, capture};
use crate::{narrate, packages};

/// Where quickstart keeps its installation.
const FOLDER: &str = ".kagimori";

/// HSMs of a cluster that nobody wished otherwise: one in each of three zones.
const HSMS: usize = 3;

/// Label of the key that it shows.
const KEY: &str = "quickstart";

/// Arguments of `cargo xtask quickstart`.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Show a signature, stop the HSM and end. An HSM that --detach left running goes on.
    #[arg(long, conflicts_with_all = ["detach", "stop"])]
    once: bool,

    /// Leave the HSM running in the background.
    #[arg(long, conflicts_with = "stop")]
    detach: bool,

    /// Stop the HSM that --detach left running. Nothing is removed: the next start goes on with the same keys.
    #[arg(long)]
    stop: bool,

    /// Make a cluster in mode FIPS: what FIPS does not approve is refused, for ever.
    #[arg(long)]
    fips: bool,

    /// How many HSMs, from 1 to 28; more than one stand in three zones [default: as many as there are, else 3].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=28))]
    hsms: Option<u8>,

    /// Group that may read what applications need (.kagimori/client/), such as a web server's.
    #[arg(long, value_name = "GROUP")]
    client_group: Option<String>,
}

/// Runs it.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let wishes = Wishes { fips: arguments.fips, client_group: arguments.client_group.clone(), ..Wishes::default() };
    let known = Installation::at(workspace, &workspace.path(FOLDER), wishes.clone())?.known_size();
    let hsms = arguments.hsms.map(usize::from).or(known).unwrap_or(HSMS);
    let installation = Installation::at(workspace, &workspace.path(FOLDER), Wishes { hsms, ..wishes })?;
    if arguments.stop {
        return stop(&installation);
    }
    narrate::heading("Kagimori quickstart");
    packages::ensure(packages::QUICKSTART)?;
    let step = narrate::begin("build (some minutes the first time)");
    step.pause();
    workspace.build()?;
    step.done("");
    installation.make_folders()?;
    let found = installation.running().is_some();
    if found {
        narrate::line("ok  this clone's cluster runs already");
    }
    let mut running = installation.start_members()?;
    if installation.status().is_ok_and(|status| status.stage == Stage::Active) {
        narrate::line("ok  the cluster is there from before, with its users and keys");
    }
    let shown = bring_up(workspace, &installation, &mut running);
    if let Err(error) = shown {
        if !found {
            stop_all(&installation, running).context("and the HSMs could not be stopped")?;
        }
        return Err(error);
    }
    invite(&installation);
    match (arguments.once, arguments.detach, found) {
        (_, true, _) | (true, _, true) => {
            narrate::line("the cluster runs in the background; `cargo xtask quickstart --stop` stops it");
            Ok(())
        }
        (true, _, false) => stop_all(&installation, running),
        (false, false, _) => stay(&installation, running),
    }
}

fn stop(installation: &Installation) -> Result<()> {
    let running: Vec<Running> = installation.hsms().iter().filter_map(Installation::running).collect();
    if running.is_empty() {
        narrate::line("no HSM of this clone is running");
    }
    stop_all(installation, running)
}

/// Service, the other HSMs, an application's work, and the loss of an HSM.
fn bring_up(workspace: &Workspace, installation: &Installation, running: &mut Vec<Running>) -> Result<()> {
    installation.bring_into_service()?;
    running.extend(installation.grow()?);
    show(installation)?;
    if installation.size() > 2 { loss::show(workspace, installation, running) } else { Ok(()) }
}

/// Stops every HSM, the last one first.
fn stop_all(installation: &Installation, mut running: Vec<Running>) -> Result<()> {
    while let Some(hsm) = running.pop() {
        let process = hsm.process();
        let of = installation.hsms().into_iter().find(|view| view.runs_as(process));
        of.context("an HSM's files do not say which it is")?.stop(hsm)?;
    }
    Ok(())
}

/// An application's work: a key through PKCS#11, a signature, and OpenSSL's verdict on it.
fn show(installation: &Installation) -> Result<()> {
    let folder = tempfile::tempdir().context("no folder for temporary files")?;
    let at = |name: &str| folder.path().join(name);
    let (message, public, signature) = (at("message"), at("public.der"), at("signature"));
    std::fs::write(&message, "Kagimori keeps the key; OpenSSL checks the signature.\n")?;

    let step = narrate::begin("make a P-256 key through PKCS#11 (pkcs11-tool)");
    let read = |installation: &Installation| {
        let mut command = pkcs11_tool(installation)?;
        capture(command.args(["--read-object", "--type", "pubkey", "--label", KEY, "--output-file"]).arg(&public))
    };
    if read(installation).is_err() {
        let mut command = pkcs11_tool(installation)?;
        command.args(["--keypairgen", "--key-type", "EC:prime256v1", "--label", KEY, "--id", "51"]);
        capture(&mut command)?;
        read(installation)?;
        step.done(format!("label {KEY}; its private half never leaves the HSM"));
    } else {
        step.done(format!("label {KEY} is there from before"));
    }

    let step = narrate::begin("sign a file with it (ECDSA with SHA-256, over mutual TLS)");
    let mut command = pkcs11_tool(installation)?;
    command.args(["--sign", "--mechanism", "ECDSA-SHA256", "--label", KEY, "--signature-format", "openssl"]);
    capture(command.arg("--input-file").arg(&message).arg("--output-file").arg(&signature))?;
    step.done("");

    let step = narrate::begin("verify the signature with the system's OpenSSL");
    let said = verify(&public, &message, &signature)?;
    step.done(said.trim());
    Ok(())
}

fn pkcs11_tool(installation: &Installation) -> Result<Command> {
    let mut command = Command::new("pkcs11-tool");
    installation.give_environment(&mut command)?;
    // The PIN goes by the environment: arguments are readable by every user of the machine.
    command.arg("--module").arg(installation.module()).args([
        "--token-label",
        LABEL,
        "--login",
        "--pin",
        "env:P11_PIN",
    ]);
    Ok(command)
}

fn verify(public: &Path, message: &Path, signature: &Path) -> Result<String> {
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-keyform", "DER", "-verify"]).arg(public);
    let said = capture(command.arg("-signature").arg(signature).arg(message))?;
    if !said.contains("Verified OK") {
        bail!("openssl did not verify the signature; it said: {said}");
    }
    Ok(said)
}

fn invite(installation: &Installation) {
    narrate::heading("Use it from a shell:");
    narrate::line(format!(". {}", installation.environment().display()));
    narrate::line("pkcs11-tool --module $P11_MODULE --login --pin $P11_PIN --list-objects");
    narrate::line("kagimori key list                                               # as the crypto user");
    narrate::line("KAGIMORI_ROLE=admin KAGIMORI_PIN=$P11_SO_PIN kagimori user list # as the admin");
    narrate::line(format!("The passwords lie in {}.", installation.admin().display()));
}

/// Stays until the person ends it, or an HSM ends by itself.
fn stay(installation: &Installation, mut running: Vec<Running>) -> Result<()> {
    narrate::heading("It runs until you press Ctrl-C. Logs: ");
    installation.hsms().iter().for_each(|hsm| narrate::line(hsm.log().display()));
    let (sender, receiver) = channel();
    ctrlc::set_handler(move || {
        // Without a receiver the process is ending already.
        if sender.send(()).is_err() {
            std::process::exit(1);
        }
    })
    .context("Ctrl-C cannot be caught")?;
    loop {
        match receiver.recv_timeout(Duration::from_millis(500)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return stop_all(installation, running),
        }
        for hsm in &mut running {
            if hsm.has_ended()? {
                bail!("the HSM of process {} has ended by itself; its log says why", hsm.process());
            }
        }
    }
}
