//! An HSM for tests: in a folder that vanishes, with its log at its loudest.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::installation::{Installation, Running, Wishes};
use crate::workspace::Workspace;

/// A running installation in a folder that vanishes with it.
pub(super) struct Disposable {
    installation: Installation,
    running: Option<Running>,
    folder: tempfile::TempDir,
}

impl Disposable {
    /// Makes one and leads it into service.
    pub(super) fn start(workspace: &Workspace) -> Result<Self> {
        Self::start_as(workspace, Wishes { log: Some("debug"), ..Wishes::default() })
    }

    /// The same with other wishes.
    pub(super) fn start_as(workspace: &Workspace, wishes: Wishes) -> Result<Self> {
        Self::start_below(workspace, &std::env::temp_dir(), wishes)
    }

    /// The same in a folder below this one.
    pub(super) fn start_below(workspace: &Workspace, parent: &Path, wishes: Wishes) -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("kagimori-").tempdir_in(parent).context("no folder for temporary files")?;
        let installation = Installation::at(workspace, folder.path(), wishes)?;
        installation.make_folders()?;
        let running = installation.start()?;
        let disposable = Self { installation, running: Some(running), folder };
        disposable.installation.bring_into_service()?;
        Ok(disposable)
    }

    /// The installation.
    pub(super) fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Its folder.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Process id of the HSM.
    pub(super) fn process(&self) -> Result<u32> {
        Ok(self.running.as_ref().context("the HSM does not run")?.process())
    }

    /// Kills the HSM as a power cut would.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.running.take().context("the HSM does not run")?.kill()
    }

    /// Waits for the end of an HSM that was told to end by other means.
    pub(super) fn wait_for_end(&mut self) -> Result<()> {
        self.running.take().context("the HSM does not run")?.wait()
    }

    /// Stops the HSM as an operator would.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.installation.stop(self.running.take().context("the HSM does not run")?)
    }

    /// Starts the HSM again.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.running = Some(self.installation.start_quietly()?);
        Ok(())
    }

    /// A program of `testing/conformance` as an application of this HSM.
    pub(super) fn application(&self, workspace: &Workspace, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(workspace.built("conformance"));
        self.installation.give_environment(&mut command)?;
        command.args(arguments);
        Ok(command)
    }
}

impl Drop for Disposable {
    fn drop(&mut self) {
        if let Some(running) = self.running.take()
            && let Err(error) = running.kill()
        {
            eprintln!("  a disposable HSM could not be ended: {error:#}");
        }
    }
}
