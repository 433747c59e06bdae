//! The search for secrets where none may be: known passwords and key bytes are used in every way, then looked for in
//! every file of the HSM and its clients, in logs and cores, and in what the process shows of itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Tally;
use super::disposable::Disposable;
use crate::installation::{ADMIN, CRYPTO_USER, Installation, Wishes};
use crate::narrate;
use crate::workspace::{Workspace, capture};

/// Bytes of the canary key: nothing else looks like them.
const KEY: [u8; 32] = *b"\xC4\xA7\xA4\x12Canary-Key-of-these-tests\xFE\x01\x99";

/// Name of the user with the canary password.
const USER: &str = "canary";

/// Runs the work and the search.
pub(super) fn run(workspace: &Workspace) -> Result<Tally> {
    let wishes = Wishes { log: Some("trace"), cores: true, ..Wishes::default() };
    let mut hsm = Disposable::start_as(workspace, wishes)?;
    let installation = hsm.installation();
    log_loudly(installation)?;
    let step = narrate::begin("use canary secrets in every way");
    installation.create_user(USER)?;
    let password = installation.pin(USER)?;
    let mut command = hsm.application(workspace, &["canaries"])?;
    command.env("P11_PIN", &password).env("KAGIMORI_CANARY_KEY", hexadecimal(&KEY));
    capture(&mut command)?;
    step.done("");
    let mut tally = Tally::default();
    let log = installation.client().join("client.log");
    let written = std::fs::metadata(&log).is_ok_and(|found| found.len() > 0);
    tally.check("the client's log was written", if written { Ok(()) } else { bail!("{} is empty", log.display()) });
    let secrets = secrets(installation)?;
    let process = hsm.process()?;
    for name in ["cmdline", "environ"] {
        let path = PathBuf::from(format!("/proc/{process}/{name}"));
        tally.check(&format!("no secret in the process's {name}"), search(&path, &secrets).map(drop));
    }
    let clients = [hsm.installation().client(), hsm.installation().hsm()];
    search_folders(&mut tally, "of a running HSM", &clients, &secrets);
    tally.check("an aborted HSM leaves no core", abort(&mut hsm, process));
    let everything = [hsm.installation().client(), hsm.installation().hsm()];
    search_folders(&mut tally, "after an abort", &everything, &secrets);
    hsm.restart()?;
    hsm.stop()?;
    search_folders(&mut tally, "after a restart and a stop", &everything, &secrets);
    tally.check("the search finds what is there", finds(&secrets));
    Ok(tally)
}

/// Has the clients write everything to a log among their files.
fn log_loudly(installation: &Installation) -> Result<()> {
    let path = installation.client_configuration();
    let mut text = std::fs::read_to_string(&path).context("client.toml cannot be read")?;
    text.push_str("\n[log]\nlevel = \"trace\"\nfile = \"client.log\"\n");
    std::fs::write(&path, text).context("client.toml cannot be written")
}

/// Everything that must not be found, in every form in which it could stand in a text.
fn secrets(installation: &Installation) -> Result<Vec<Vec<u8>>> {
    let mut secrets = vec![KEY.to_vec(), hexadecimal(&KEY).into_bytes(), hexadecimal(&KEY).to_uppercase().into_bytes()];
    // Sixteen bytes in a row: a part of the key is as bad as the whole.
    secrets.push(KEY[8..24].to_vec());
    let list: Vec<String> = KEY.iter().map(u8::to_string).collect();
    secrets.push(list.join(", ").into_bytes());
    for user in [USER, ADMIN, CRYPTO_USER] {
        let password = installation.password(user)?;
        secrets.push(password.expose().as_bytes().to_vec());
        secrets.push(hexadecimal(password.expose().as_bytes()).into_bytes());
    }
    Ok(secrets)
}

fn search_folders(tally: &mut Tally, when: &str, folders: &[PathBuf], secrets: &[Vec<u8>]) {
    let mut files = 0;
    for folder in folders {
        let outcome = walk(folder, secrets, &mut files);
        tally.check(&format!("no secret in the files {when}"), outcome);
    }
    narrate::line(format!("searched {files} files {when}"));
}

fn walk(folder: &Path, secrets: &[Vec<u8>], files: &mut u32) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), secrets, files)?;
        } else if kind.is_file() {
            *files += 1;
            search(&entry.path(), secrets)?;
        }
    }
    Ok(())
}

fn search(path: &Path, secrets: &[Vec<u8>]) -> Result<()> {
    let content = match std::fs::read(path) {
        Ok(content) => content,
        // A process that is not dumpable does not even show its environment to its owner.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied && path.starts_with("/proc") => {
            return Ok(());
        }
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
    };
    for (number, secret) in secrets.iter().enumerate() {
        if contains(&content, secret) {
            bail!("{} holds canary {number}", path.display());
        }
    }
    Ok(())
}

fn contains(content: &[u8], secret: &[u8]) -> bool {
    let Some((&first, _)) = secret.split_first() else { return false };
    let mut from = 0;
    while let Some(at) = content[from..].iter().position(|&octet| octet == first) {
        from += at;
        if content[from..].starts_with(secret) {
            return true;
        }
        from += 1;
    }
    false
}

/// Sends the signal that makes a core where cores are allowed, and looks for one.
fn abort(hsm: &mut Disposable, process: u32) -> Result<()> {
    // The shell's own word, because a bare Debian has no program of that name.
    capture(Command::new("sh").args(["-c", &format!("kill -ABRT {process}")]))?;
    hsm.wait_for_end()?;
    let folder = hsm.installation().hsm();
    for entry in std::fs::read_dir(&folder).context("the HSM's folder cannot be read")? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with("core") {
            bail!("{} is there", folder.join(name).display());
        }
    }
    Ok(())
}

/// The search itself is tested on a file that holds a secret.
fn finds(secrets: &[Vec<u8>]) -> Result<()> {
    let folder = tempfile::tempdir().context("no folder for temporary files")?;
    for secret in secrets {
        let content = [b"before ".as_slice(), secret, b" after"].concat();
        std::fs::write(folder.path().join("planted"), content).context("no file can be planted")?;
        if walk(folder.path(), secrets, &mut 0).is_ok() {
            bail!("a planted secret was not found");
        }
    }
    Ok(())
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
