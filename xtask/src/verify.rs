//! `verify`: every check that only reads; and `fix`: what may be repaired by a machine.

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, capture, show};
use crate::{deny, layers, narrate, ratchet, simulate};

/// The excluded workspace of the fuzz targets, which `--workspace` does not reach.
const FUZZ_MANIFEST: &str = "testing/fuzz/Cargo.toml";

/// A check by its name.
type Check = (&'static str, fn(&Workspace) -> Result<()>);

/// All checks, the quick ones first.
const CHECKS: &[Check] = &[
    ("format", format),
    ("lengths, openings and machine paths", ratchet::run),
    ("layers", layers::run),
    ("lints", lints),
    ("documentation", documentation),
    ("bans, licences and sources", deny::run),
];

/// Runs all checks, also after a failure, so that one run shows everything.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    narrate::heading("verify");
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        if let Err(error) = check(workspace) {
            narrate::line(format!("FAILED  {name}: {error:#}"));
            failed.push(*name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("{} did not pass", failed.join(", ")) }
}

fn format(workspace: &Workspace) -> Result<()> {
    let step = narrate::begin("format");
    let unformatted = ["--", "--check", "--files-with-diff"];
    for which in [&["fmt", "--all"][..], &["fmt", "--manifest-path", FUZZ_MANIFEST]] {
        capture(workspace.cargo(which).args(unformatted)).context("`cargo xtask fix` formats these files")?;
    }
    step.done("");
    Ok(())
}

fn lints(workspace: &Workspace) -> Result<()> {
    let step = narrate::begin("lints (clippy, all targets)");
    let clippy = ["clippy", "--release", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"];
    show(&mut workspace.cargo(&clippy))?;
    // What is only there in the simulator's own build.
    simulate::lints(workspace)?;
    step.done("no warning");
    Ok(())
}

fn documentation(workspace: &Workspace) -> Result<()> {
    let step = narrate::begin("documentation");
    let doc = ["doc", "--release", "--workspace", "--no-deps", "--locked", "--quiet"];
    show(workspace.cargo(&doc).env("RUSTDOCFLAGS", "-D warnings"))?;
    step.done("no warning");
    Ok(())
}

/// Formats, and applies the suggestions of the compiler and of clippy.
pub(crate) fn fix(workspace: &Workspace) -> Result<()> {
    let clippy = ["clippy", "--release", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"];
    show(&mut workspace.cargo(&clippy))?;
    show(&mut workspace.cargo(&["fmt", "--all"]))?;
    show(&mut workspace.cargo(&["fmt", "--manifest-path", FUZZ_MANIFEST]))
}
