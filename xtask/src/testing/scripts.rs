//! The PKCS#11 library's own scripts (`client/pkcs11/tests/*.sh`, `*.py`): programs that fork, load and unload it.
//!
//! Each gets the variables of quickstart's environment file, and a Python; it passes when it exits with 0 and
//! skips nothing.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Tally;
use super::disposable::Disposable;
use crate::narrate;
use crate::workspace::{Workspace, last_lines, output};

/// Runs them all on one HSM.
pub(super) fn run(workspace: &Workspace) -> Result<Tally> {
    let folder = workspace.path("client/pkcs11/tests");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut scripts: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    scripts.retain(|path| path.extension().is_some_and(|ending| ending == "sh" || ending == "py"));
    scripts.sort();
    if scripts.is_empty() {
        bail!("{} holds no script", folder.display());
    }
    let hsm = Disposable::start(workspace)?;
    let mut tally = Tally::default();
    for script in scripts {
        let name = script.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let step = narrate::begin(&name);
        let interpreter = if name.ends_with(".py") { "python3" } else { "bash" };
        let mut command = Command::new(interpreter);
        hsm.installation().give_environment(&mut command)?;
        let outcome = output(command.arg(&script).current_dir(hsm.folder())).and_then(|output| {
            let skipped = String::from_utf8_lossy(&output.stdout).lines().any(|line| line.starts_with("SKIP"));
            if output.status.success() && !skipped {
                Ok(())
            } else {
                bail!("{}\n{}", output.status, last_lines(&output))
            }
        });
        step.done("");
        tally.check(&name, outcome);
    }
    Ok(tally)
}
