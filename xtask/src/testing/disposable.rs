//! An HSM for tests: in a folder that vanishes, with its log at its loudest.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

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

/// An application that is talked to line by line.
pub(super) struct Conversation {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Conversation {
    /// Starts it and waits for its `ready`.
    pub(super) fn start(mut command: Command) -> Result<Self> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("the application cannot start")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("the application has no output")?);
        let mut conversation = Self { child, input, output };
        match conversation.line()?.as_str() {
            "ready" => Ok(conversation),
            other => bail!("the application said {other:?} instead of \"ready\""),
        }
    }

    /// Sends an empty line and returns the answer.
    pub(super) fn ask(&mut self) -> Result<String> {
        self.input
            .as_mut()
            .context("the application was told to end")?
            .write_all(b"\n")
            .context("the application is gone")?;
        self.line()
    }

    /// The application's output, to be read elsewhere.
    pub(super) fn output(&mut self) -> &mut BufReader<ChildStdout> {
        &mut self.output
    }

    /// Closes the application's input, which tells it to end.
    pub(super) fn close_input(&mut self) {
        drop(self.input.take());
    }

    /// Closes the application's input and waits for its end.
    pub(super) fn end(mut self) -> Result<()> {
        drop(self.input.take());
        let status = self.child.wait().context("the application's end cannot be read")?;
        if !status.success() {
            bail!("the application ended with {status}");
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line).context("the application's output cannot be read")? == 0 {
            bail!("the application ended too early");
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        drop(self.input.take());
        if matches!(self.child.try_wait(), Ok(None))
            && let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop))
        {
            eprintln!("  an application could not be ended: {error}");
        }
    }
}
