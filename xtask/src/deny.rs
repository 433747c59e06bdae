//! `cargo deny check bans licenses sources` by a cargo-deny that is installed beside the tree.
//!
//! It is built without optimisation: that halves the time of the build, and a check takes two seconds all the same.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Result;

use crate::narrate;
use crate::workspace::{Workspace, capture, show};

/// Version of cargo-deny, so that every machine judges by the same rules.
const VERSION: &str = "0.20.2";

/// Runs the check.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let program = ensure(workspace)?;
    let step = narrate::begin("bans, licences and sources (cargo-deny)");
    let arguments = ["--all-features", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
    let mut command = std::process::Command::new(program);
    capture(command.current_dir(workspace.root()).args(arguments))?;
    step.done("");
    Ok(())
}

/// Installs cargo-deny when it is not there.
pub(crate) fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.tools().join(format!("cargo-deny-{VERSION}"));
    let program = folder.join("bin/cargo-deny");
    if program.is_file() {
        return Ok(program);
    }
    let step = narrate::begin(format!("install cargo-deny {VERSION}"));
    let mut command =
        workspace.cargo(&["install", "cargo-deny", "--locked", "--debug", "--quiet", "--version", VERSION]);
    // Line tables and incremental state are of no use here and cost a quarter of the time.
    command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_DEV_INCREMENTAL", "false");
    show(command.arg("--root").arg(&folder).stdin(Stdio::null()))?;
    step.done("");
    Ok(program)
}
