//! Foreign clients: the scripts of `testing/conformance/yard/`, each against its list of allowed failures.
//!
//! A list in `testing/conformance/allowed/` has one line for each failing step, `STEP [xTIMES] # reason`, and
//! one line `skips: N`. A step that fails without a line, and a step more that is skipped, are failures. A line whose step passes
//! is said, so that it can be taken out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Tally;
use super::disposable::Disposable;
use crate::narrate;
use crate::workspace::{Workspace, capture, output};

/// The scripts, the quickest first.
const SCRIPTS: &[&str] =
    &["c09-python", "c02-p11tool-gnutls", "c03-openssl-engine", "c01-pkcs11-tool", "c05-java", "c08-wycheproof"];

/// What the scripts need from PyPI.
const PYTHON_PACKAGES: &[&str] = &["PyKCS11==1.5.20", "python-pkcs11==0.10.1", "cryptography==50.0.2"];

/// Runs every script on one HSM.
pub(super) fn run(workspace: &Workspace) -> Result<Tally> {
    let python = python(workspace)?;
    let hsm = Disposable::start(workspace)?;
    let mut sum = Tally::default();
    for script in SCRIPTS {
        let step = narrate::begin(script);
        let mut command = Command::new("bash");
        hsm.installation().give_environment(&mut command)?;
        command.arg(workspace.path(format!("testing/conformance/yard/{script}.sh")));
        command.env("YARD_PYTHON", &python).env("TMPDIR", hsm.folder());
        let said = String::from_utf8_lossy(&output(&mut command)?.stdout).into_owned();
        let log = workspace.target().join(format!("yard-{script}.log"));
        std::fs::write(&log, &said).with_context(|| format!("{} cannot be written", log.display()))?;
        let allowed = Allowed::read(workspace, script)?;
        let verdict = judge(&said, &allowed);
        step.done(format!("{}; whole output in {}", verdict.summary, log.display()));
        for line in &verdict.notes {
            narrate::line(line);
        }
        sum.add(&verdict.tally);
    }
    Ok(sum)
}

/// A Python with the packages, made once.
pub(crate) fn python(workspace: &Workspace) -> Result<PathBuf> {
    let version = capture(Command::new("python3").args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]))?;
    let names = PYTHON_PACKAGES.join("-").replace("==", "-");
    let folder = workspace.tools().join(format!("python-{}-{names}", version.trim()));
    let python = folder.join("bin/python");
    if folder.join("complete").is_file() {
        return Ok(python);
    }
    let step = narrate::begin("install Python packages");
    capture(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    capture(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(PYTHON_PACKAGES),
    )?;
    std::fs::write(folder.join("complete"), "").context("the Python environment cannot be marked as complete")?;
    step.done(PYTHON_PACKAGES.join(", "));
    Ok(python)
}

/// A list of allowed failures.
#[derive(Default)]
pub(crate) struct Allowed {
    /// Step, how often it may fail.
    failures: BTreeMap<String, u64>,
    skips: u64,
}

impl Allowed {
    pub(crate) fn read(workspace: &Workspace, script: &str) -> Result<Self> {
        let path = workspace.path(format!("testing/conformance/allowed/{script}.txt"));
        let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut allowed = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            if let Some(number) = line.strip_prefix("skips:") {
                allowed.skips = number.trim().parse().context("`skips:` needs a number")?;
                continue;
            }
            let Some((step, reason)) = line.split_once(" # ") else { bail!("{line:?} has no reason after ` # `") };
            if reason.trim().is_empty() {
                bail!("{line:?} has an empty reason");
            }
            let (step, times) = match step.trim().rsplit_once(" x") {
                Some((step, times)) if times.parse::<u64>().is_ok() => (step, times.parse()?),
                _ => (step.trim(), 1),
            };
            *allowed.failures.entry(step.to_owned()).or_default() += times;
        }
        Ok(allowed)
    }
}

struct Verdict {
    tally: Tally,
    summary: String,
    notes: Vec<String>,
}

/// How many steps of a script passed, and what failed that is not allowed to.
pub(crate) fn judged(said: &str, allowed: &Allowed) -> (u64, Vec<String>) {
    let verdict = judge(said, allowed);
    (verdict.tally.passed, verdict.notes.into_iter().filter(|note| note.starts_with("FAILED")).collect())
}

/// Steps of a script's output that failed, and how many passed and were skipped.
struct Outcome {
    failures: Vec<String>,
    passed: u64,
    skipped: u64,
    ended: bool,
}

fn judge(said: &str, allowed: &Allowed) -> Verdict {
    let outcome = read(said);
    let mut tally = Tally { passed: outcome.passed, failed: 0 };
    let mut notes = Vec::new();
    let mut met: BTreeMap<&str, u64> = BTreeMap::new();
    for step in &outcome.failures {
        *met.entry(step).or_default() += 1;
    }
    for (&step, &times) in &met {
        let over = times.saturating_sub(allowed.failures.get(step).copied().unwrap_or(0));
        if over > 0 {
            tally.failed += over;
            notes.push(format!("FAILED  {step}: {over} times more than is allowed"));
        }
    }
    if outcome.skipped > allowed.skips {
        tally.failed += 1;
        notes.push(format!("FAILED  {} steps were skipped, {} are allowed", outcome.skipped, allowed.skips));
    }
    if !outcome.ended {
        tally.failed += 1;
        notes.push("FAILED  the script did not reach its end".to_owned());
    }
    for (step, &times) in &allowed.failures {
        let healed = times.saturating_sub(met.get(step.as_str()).copied().unwrap_or(0));
        if healed > 0 {
            notes.push(format!("allowed to fail and passes: {step}, {healed} times"));
        }
    }
    let summary = format!("{} passed, {} failed, {} skipped", outcome.passed, outcome.failures.len(), outcome.skipped);
    Verdict { tally, summary, notes }
}

/// Reads `PASS|FAIL|SKIP step` and, from the vectors' script, `FILE name pass fail skip`.
fn read(said: &str) -> Outcome {
    let mut outcome = Outcome { failures: Vec::new(), passed: 0, skipped: 0, ended: false };
    for line in said.lines() {
        let Some((word, rest)) = line.split_once(' ') else { continue };
        match word {
            "PASS" => outcome.passed += 1,
            "SKIP" => outcome.skipped += 1,
            // What stands after ` : ` is the exception of this run and not the step's name.
            "FAIL" => outcome.failures.push(rest.split(" : ").next().unwrap_or(rest).trim().to_owned()),
            "TOTAL" => outcome.ended = true,
            "FILE" => {
                let words: Vec<&str> = rest.split_whitespace().collect();
                let number = |at: usize| words.get(at).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
                let name = words.first().copied().unwrap_or_default();
                outcome.passed += number(1);
                outcome.failures.extend((0..number(2)).map(|_| name.to_owned()));
                outcome.skipped += number(3);
            }
            _ => {}
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str =
        "PASS a\nFAIL b\n     | why\nFAIL java x : Exception 0x7f\nSKIP d (no mechanism)\nTOTAL c pass=1\n";

    #[test]
    fn a_failure_without_a_line_fails_and_one_with_a_line_does_not() {
        let allowed = Allowed::parse("b # the client's own fault\nskips: 1\n").unwrap();
        let verdict = judge(SAID, &allowed);
        assert_eq!((verdict.tally.passed, verdict.tally.failed), (1, 1));
        assert_eq!(verdict.notes, ["FAILED  java x: 1 times more than is allowed"]);
    }

    #[test]
    fn a_step_may_fail_so_often_and_not_once_more() {
        let failing = "FAIL b\nFAIL b\nTOTAL c\n";
        assert_eq!(judge(failing, &Allowed::parse("b x2 # why").unwrap()).tally.failed, 0);
        assert_eq!(judge(failing, &Allowed::parse("b # why").unwrap()).tally.failed, 1);
    }

    #[test]
    fn one_skip_more_than_recorded_fails() {
        let allowed = Allowed::parse("b # x\njava x # y\nskips: 0").unwrap();
        assert_eq!(judge(SAID, &allowed).tally.failed, 1);
    }

    #[test]
    fn a_script_that_stops_early_fails() {
        assert_eq!(judge("PASS a\n", &Allowed::default()).tally.failed, 1);
    }

    #[test]
    fn a_line_without_a_reason_is_refused() {
        assert!(Allowed::parse("b\n").is_err());
        assert!(Allowed::parse("b # \n").is_err());
    }

    #[test]
    fn vectors_count_one_by_one() {
        let outcome = read("FILE aes_gcm_test 300 2 5 why\nTOTAL c08 pass=300\n");
        assert_eq!((outcome.passed, outcome.failures.len(), outcome.skipped), (300, 2, 5));
    }
}
