//! An application that is talked to line by line: the programs of `testing/conformance`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

/// An application that is talked to line by line.
pub(crate) struct Conversation {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Conversation {
    /// Starts it and waits for its `ready`.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
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
    pub(crate) fn ask(&mut self) -> Result<String> {
        self.input
            .as_mut()
            .context("the application was told to end")?
            .write_all(b"\n")
            .context("the application is gone")?;
        self.line()
    }

    /// The application's output, to be read elsewhere.
    pub(crate) fn output(&mut self) -> &mut BufReader<ChildStdout> {
        &mut self.output
    }

    /// Closes the application's input, which tells it to end.
    pub(crate) fn close_input(&mut self) {
        drop(self.input.take());
    }

    /// Closes the application's input and waits for its end.
    pub(crate) fn end(mut self) -> Result<()> {
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
