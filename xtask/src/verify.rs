//! `verify`: every check that only reads; and `fix`: what may be repaired by a machine.

use anyhow::Result;

use crate::workspace::{Workspace, capture, show};
use crate::{deny, layers, narrate, ratchet};

/// The excluded workspace of the fuzz targets, which `--workspace` does not reach.
const FUZZ_MANIFEST: &str = "testing/fuzz/Cargo.toml";

/// Runs all checks and stops at the first that fails.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    narrate::heading("verify");
    let step = narrate::begin("format");
    capture(&mut workspace.cargo(&["fmt", "--all", "--", "--check"]))?;
    capture(&mut workspace.cargo(&["fmt", "--manifest-path", FUZZ_MANIFEST, "--", "--check"]))?;
    step.done("");
    ratchet::run(workspace)?;
    layers::run(workspace)?;
    let step = narrate::begin("lints (clippy, all targets)");
    let clippy = ["clippy", "--release", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"];
    show(&mut workspace.cargo(&clippy))?;
    step.done("no warning");
    let step = narrate::begin("documentation");
    let doc = ["doc", "--release", "--workspace", "--no-deps", "--locked", "--quiet"];
    show(workspace.cargo(&doc).env("RUSTDOCFLAGS", "-D warnings"))?;
    step.done("no warning");
    deny::run(workspace)
}

/// Formats, and applies the suggestions of the compiler and of clippy.
pub(crate) fn fix(workspace: &Workspace) -> Result<()> {
    let clippy = ["clippy", "--release", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"];
    show(&mut workspace.cargo(&clippy))?;
    show(&mut workspace.cargo(&["fmt", "--all"]))?;
    show(&mut workspace.cargo(&["fmt", "--manifest-path", FUZZ_MANIFEST]))
}
