//! Known bugs as patches in `testing/simulator/mutations`. Each is applied to a copy of the tree, built and run; a seed
//! must fail, by the invariant that the patch names in its first line: `Breaks: <invariant>`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use super::{cargo, program};
use crate::narrate;
use crate::workspace::{Workspace, capture, last_lines, output};

/// Within how many seeds a bug must be found.
const SEEDS: &str = "200";

/// Runs all of them, also after one that was not found.
pub(super) fn run(workspace: &Workspace, only: Option<&str>) -> Result<()> {
    narrate::heading("mutations");
    let mut missed = Vec::new();
    let patches = patches(workspace)?;
    let wanted: Vec<_> = patches.iter().filter(|patch| only.is_none_or(|only| name_of(patch) == only)).collect();
    ensure!(!wanted.is_empty(), "there is no such mutation in testing/simulator/mutations");
    for patch in wanted {
        if let Err(error) = find(workspace, patch) {
            narrate::line(format!("FAILED  {}: {error:#}", name_of(patch)));
            missed.push(name_of(patch));
        }
    }
    if missed.is_empty() { Ok(()) } else { bail!("not found by name: {}", missed.join(", ")) }
}

fn patches(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let folder = workspace.path("testing/simulator/mutations");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut patches = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    patches.retain(|path| path.extension().is_some_and(|ending| ending == "patch"));
    patches.sort();
    Ok(patches)
}

fn name_of(patch: &Path) -> String {
    patch.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn find(workspace: &Workspace, patch: &Path) -> Result<()> {
    let step = narrate::begin(name_of(patch));
    let text = std::fs::read_to_string(patch)?;
    let first = text.lines().next().and_then(|line| line.strip_prefix("Breaks: "));
    let invariant = first.context("the first line of a mutation is `Breaks: <invariant>`")?.trim();
    let tree = copy(workspace)?;
    capture(tree.git(&["apply", "--whitespace=nowarn"]).arg(patch))
        .context("the patch does not fit the tree any more")?;
    let folder = workspace.target().join("mutants/sim");
    capture(&mut cargo(&tree, &folder)).context("the mutant does not compile")?;
    let began = Instant::now();
    let found = output(Command::new(program(&folder)).args(["--seeds", SEEDS, "--expect", invariant]))?;
    let printed = String::from_utf8_lossy(&found.stdout);
    let by = format!("breaks {invariant}:");
    let seed = printed.lines().find(|line| line.contains(&by)).and_then(|line| line.split_whitespace().nth(1));
    match seed {
        Some(seed) if found.status.success() => {
            let seconds = began.elapsed().as_secs_f64();
            step.done(format!("{invariant} at seed {seed} ({seconds:.0} s)"));
            Ok(())
        }
        _ => bail!("{invariant} holds in {SEEDS} seeds:\n{}", last_lines(&found)),
    }
}

/// A copy of what git knows of the tree, as it is now, in a folder of its own.
fn copy(workspace: &Workspace) -> Result<Workspace> {
    let copy = workspace.target().join("mutants/tree");
    let listed = capture(&mut workspace.git(&["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    for name in listed.lines() {
        let (from, to) = (workspace.path(name), copy.join(name));
        let Ok(content) = std::fs::read(&from) else { continue };
        // A file that did not change keeps its time, so that only what a patch touches is compiled again.
        if std::fs::read(&to).is_ok_and(|before| before == content) {
            continue;
        }
        let folder = to.parent().context("a file of the tree lies in a folder")?;
        std::fs::create_dir_all(folder)?;
        std::fs::write(&to, content).with_context(|| format!("{} cannot be written", to.display()))?;
    }
    Ok(Workspace::at(copy))
}
