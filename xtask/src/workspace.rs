//! Where things are in the tree, and how programs are run from it.
//!
//! Must not know what any task does. Errors here name the program that failed, show the end of what it printed, and
//! say what to do next.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Lines of a failed program's output that an error repeats: enough for a compiler error, little enough to read.
const REPEATED_LINES: usize = 40;

/// The tree.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The tree that cargo runs us from, or the one round the current folder.
    pub(crate) fn find() -> Result<Self> {
        let start = match std::env::var_os("CARGO_MANIFEST_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => std::env::current_dir().context("the current folder cannot be read")?,
        };
        let root = start
            .ancestors()
            .find(|folder| folder.join("xtask/Cargo.toml").is_file() && folder.join("Cargo.lock").is_file())
            .context("no Kagimori tree above the current folder; change into the clone and run `cargo xtask` there")?;
        Ok(Self { root: root.to_owned() })
    }

    /// A copy of the tree.
    pub(crate) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// A path in the tree.
    pub(crate) fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.root.join(below)
    }

    /// The top folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's folder for what it builds.
    pub(crate) fn target(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => self.root.join(folder),
            None => self.path("target"),
        }
    }

    /// A program or library of ours, as [`Self::build`] leaves it.
    pub(crate) fn built(&self, name: &str) -> PathBuf {
        self.target().join("release").join(name)
    }

    /// Folder for tools that are installed beside the tree and not on the machine.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target().join("tools")
    }

    /// A cargo command in this tree.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(&self.root).args(arguments);
        // What `cargo run` sets for us concerns xtask alone; build scripts of others must not see it.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
                command.env_remove(name);
            }
        }
        command
    }

    /// A git command in this tree.
    pub(crate) fn git(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.current_dir(&self.root).args(arguments);
        command
    }

    /// Builds every crate in the one profile. Always the whole workspace, because a smaller selection unifies features
    /// differently and would compile the dependencies a second time.
    pub(crate) fn build(&self) -> Result<()> {
        show(self.cargo(&["build", "--release", "--workspace", "--locked"]).stdin(Stdio::null()))
    }
}

/// Runs a program whose output the person shall see.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("`{}` failed ({status}); its output is above", words(command));
    }
    Ok(())
}

/// Runs a program and returns what it printed on standard output.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("`{}` failed ({}):\n{}", words(command), output.status, last_lines(&output));
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed what is no UTF-8", words(command)))
}

/// Runs a program to its end with no standard input.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| cannot_start(command))
}

/// Whether a program is on the search path.
pub(crate) fn has_program(name: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else { return false };
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// The end of what a program printed, both streams.
pub(crate) fn last_lines(output: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(REPEATED_LINES);
    lines[from..].iter().map(|line| format!("  | {line}\n")).collect()
}

/// A command as a person would type it. Arguments never hold secrets: those go through files or the environment.
fn words(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program()).to_string_lossy();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    std::iter::once(program).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn cannot_start(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    format!("the program `{program}` could not be started; is it installed and on the PATH?")
}
