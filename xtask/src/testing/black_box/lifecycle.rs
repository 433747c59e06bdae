//! The HSM is killed, started twice, and looked at on disk.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::conversation::Conversation;
use crate::installation::other_addresses;
use crate::testing::Tally;
use crate::testing::disposable::Disposable;
use crate::workspace::Workspace;

/// How long a start that must fail may take to do so.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the checks.
pub(super) fn run(tally: &mut Tally, workspace: &Workspace, hsm: &mut Disposable) {
    tally.check("a session goes on after a kill, with the key that it was promised", resumes(workspace, hsm));
    tally.check("a session goes on after a graceful restart", restarts(workspace, hsm));
    tally.check("a second process on the same store is refused", second_process(hsm));
    let (data, admin) = (hsm.installation().data(), hsm.installation().admin());
    tally.check("the HSM's files are its owner's alone", private(&data));
    tally.check("the admins' files are their owner's alone", private(&admin));
}

fn resumes(workspace: &Workspace, hsm: &mut Disposable) -> Result<()> {
    let mut application = Conversation::start(hsm.application(workspace, &["hold"])?)?;
    hsm.kill()?;
    hsm.restart()?;
    signs(&mut application)?;
    application.end()
}

fn restarts(workspace: &Workspace, hsm: &mut Disposable) -> Result<()> {
    let mut application = Conversation::start(hsm.application(workspace, &["hold"])?)?;
    signs(&mut application)?;
    hsm.stop()?;
    hsm.restart()?;
    signs(&mut application)?;
    application.end()
}

/// Asks a held session for a signature.
pub(super) fn signs(application: &mut Conversation) -> Result<()> {
    match application.ask()?.as_str() {
        "signed" => Ok(()),
        other => bail!("the session said: {other}"),
    }
}

fn second_process(hsm: &Disposable) -> Result<()> {
    let mut child = hsm.installation().serve(other_addresses()?)?.spawn().context("no second HSM can be started")?;
    let status = ends(&mut child)?;
    if status.success() {
        bail!("the second HSM ended as if all were well");
    }
    hsm.installation().status().map(drop).context("the first HSM does not answer any more")
}

/// Waits for the end of a process that must end by itself.
pub(super) fn ends(child: &mut Child) -> Result<std::process::ExitStatus> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if began.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("it was still running after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn private(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))? {
        let path = entry?.path();
        let metadata = path.symlink_metadata()?;
        let mode = metadata.permissions().mode() & 0o777;
        // Certificates and requests are public; everything else of an HSM or an admin is not.
        let is_public =
            path.extension().is_some_and(|ending| ["crt", "csr", "cnf", "srl"].iter().any(|known| ending == *known));
        if mode & 0o077 != 0 && !is_public && !metadata.is_dir() {
            bail!("{} has mode {mode:o}", path.display());
        }
    }
    let mode = folder.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 { bail!("{} has mode {mode:o}", folder.display()) } else { Ok(()) }
}
