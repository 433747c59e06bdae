//! The tests that cargo runs: unit, property, vector and simulator tests of every crate.

use anyhow::{Context, Result};

use super::Tally;
use crate::narrate;
use crate::workspace::{Workspace, output};

/// Runs them all, also after a failure.
pub(super) fn run(workspace: &Workspace) -> Result<Tally> {
    let step = narrate::begin("cargo test");
    let output = output(&mut workspace.cargo(&["test", "--release", "--workspace", "--locked", "--no-fail-fast"]))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = workspace.target().join("cargo-test.log");
    let whole = format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(&log, &whole).with_context(|| format!("{} cannot be written", log.display()))?;
    let mut tally = count(&text);
    for line in whole.lines().filter(|line| line.starts_with("error") || line.ends_with("FAILED")) {
        narrate::line(format!("FAILED  {line}"));
    }
    if !output.status.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    step.done(format!("output in {}", log.display()));
    Ok(tally)
}

/// The sum of the lines `test result: ok. 3 passed; 0 failed; …`.
fn count(text: &str) -> Tally {
    let mut tally = Tally::default();
    for line in text.lines().filter(|line| line.starts_with("test result:")) {
        let number = |word: &str| {
            let before = line.split(word).next().and_then(|left| left.split_whitespace().last());
            before.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        tally.passed += number(" passed");
        tally.failed += number(" failed");
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_of_all_binaries_are_added() {
        let tally = count(
            "test result: ok. 3 passed; 0 failed; 0 ignored\nx\ntest result: FAILED. 2 passed; 1 failed; 0 ignored",
        );
        assert_eq!((tally.passed, tally.failed), (5, 1));
    }
}
