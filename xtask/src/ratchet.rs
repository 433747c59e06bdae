//! What no lint of the compiler checks: lengths of files and functions, the opening of each file, and that no file
//! names a place on somebody's machine.
//!
//! A file or function that is over its length may be listed in `xtask/ratchet.txt` with its length of today; the
//! number may only fall, so nothing that is too long grows and nothing new becomes too long.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::narrate;
use crate::workspace::Workspace;

/// Lines of a file before its tests. More is more than one idea.
const FILE_LINES: usize = 600;

/// Lines of a function, its signature and closing brace included: what a screen shows.
const FUNCTION_LINES: usize = 70;

/// Folders that hold nothing of ours.
const SKIPPED: &[&str] = &["target", ".git", ".kagimori", "corpus", "artifacts", "__pycache__"];

/// Endings of the files that are read.
const TEXT: &[&str] = &["rs", "md", "toml", "sh", "py", "yml", "yaml", "java", "txt", "proto", "c", "h"];

/// Checks the tree.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let step = narrate::begin("lengths, openings and machine paths");
    let allowed = read_allowed(&workspace.path("xtask/ratchet.txt"))?;
    let mut paths = Vec::new();
    collect(workspace.root(), &mut paths)?;
    paths.sort();
    let mut faults = Vec::new();
    let mut lengths = BTreeMap::new();
    for path in &paths {
        let name = path.strip_prefix(workspace.root()).unwrap_or(path).to_string_lossy().into_owned();
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        faults.extend(machine_paths(&name, &text));
        if name.ends_with(".rs") {
            faults.extend(opening(&name, &text));
            lengths.extend(too_long(&name, &text));
        }
    }
    faults.extend(compare(&lengths, &allowed));
    if !faults.is_empty() {
        bail!("{} places need work:\n  {}", faults.len(), faults.join("\n  "));
    }
    step.done(format!("{} files", paths.len()));
    Ok(())
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("{} cannot be read", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() && !SKIPPED.iter().any(|skipped| name == *skipped) {
            collect(&path, paths)?;
        }
        let known = path.extension().is_some_and(|ending| TEXT.iter().any(|text| ending == *text));
        if kind.is_file() && (known || path.extension().is_none()) {
            paths.push(path);
        }
    }
    Ok(())
}

/// Folders under which only this or that machine keeps its clones, in two halves so that this file does not name them.
const MACHINE_FOLDERS: &[(&str, &str)] = &[("/wo", "rk/"), ("/fa", "rm/"), ("/ro", "ot/"), ("/home/", "runner/")];

fn machine_paths(name: &str, text: &str) -> Vec<String> {
    let folders: Vec<String> = MACHINE_FOLDERS.iter().map(|(left, right)| format!("{left}{right}")).collect();
    text.lines()
        .enumerate()
        .filter(|(_, line)| folders.iter().any(|folder| line.contains(folder)))
        .map(|(number, _)| format!("{name}:{} names a path of one machine", number + 1))
        .collect()
}

/// A source file says in its first line what it is. Tests and examples speak by their names.
fn opening(name: &str, text: &str) -> Option<String> {
    let is_test = name.contains("/tests/") || name.ends_with("build.rs") || name.ends_with("tests.rs");
    (!is_test && !text.starts_with("//!")).then(|| format!("{name} does not open with what it is (`//! …`)"))
}

/// What is over its length: `file` or `file function`, with the length.
fn too_long(name: &str, text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let end = lines.iter().position(|line| line.trim_start().starts_with("#[cfg(test)]")).unwrap_or(lines.len());
    let mut found = Vec::new();
    if end > FILE_LINES {
        found.push((name.to_owned(), end));
    }
    let mut open: Option<(usize, usize, &str)> = None;
    for (number, line) in lines[..end].iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        match open {
            None => open = function_name(line).map(|function| (number, indent, function)),
            Some((start, depth, function)) if indent == depth && line.trim() == "}" => {
                let length = number - start + 1;
                if length > FUNCTION_LINES {
                    found.push((format!("{name} {function}"), length));
                }
                open = None;
            }
            // A declaration without a body ends where it begins.
            Some((_, depth, _)) if indent <= depth && line.trim_end().ends_with(';') => open = None,
            Some(_) => {}
        }
    }
    found
}

/// The name of the function that a formatted line begins, when it has a body that does not end on the line.
fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    if rest.ends_with(';') || rest.ends_with('}') {
        return None;
    }
    loop {
        let (word, after) = rest.split_once(' ')?;
        match word {
            "fn" => return after.split(|character: char| !character.is_alphanumeric() && character != '_').next(),
            "pub" | "const" | "async" | "unsafe" | "extern" | "default" => rest = after,
            word if word.starts_with("pub(") || word.starts_with('"') => rest = after,
            _ => return None,
        }
    }
}

fn read_allowed(path: &Path) -> Result<BTreeMap<String, usize>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let mut allowed = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, length) = line.rsplit_once(' ').context("a line of xtask/ratchet.txt is `file [function] lines`")?;
        allowed.insert(name.to_owned(), length.parse().context("xtask/ratchet.txt: the last word is a number")?);
    }
    Ok(allowed)
}

fn compare(lengths: &BTreeMap<String, usize>, allowed: &BTreeMap<String, usize>) -> Vec<String> {
    let mut faults = Vec::new();
    for (name, &length) in lengths {
        match allowed.get(name) {
            Some(&limit) if length <= limit => {}
            Some(&limit) => faults.push(format!("{name} grew from {limit} lines to {length}")),
            None => {
                faults.push(format!("{name} has {length} lines (files: {FILE_LINES}, functions: {FUNCTION_LINES})"))
            }
        }
    }
    for (name, &limit) in allowed {
        if lengths.get(name).is_none_or(|&length| length < limit) {
            faults.push(format!("{name} is shorter than xtask/ratchet.txt says; lower or drop its line"));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function_of(lines: usize) -> String {
        format!("//! x\npub(crate) fn long(a: u8) -> u8 {{\n{}}}\n", "    step();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_at_the_limit_is_taken_and_one_line_past_it_refused() {
        assert!(too_long("a.rs", &function_of(FUNCTION_LINES)).is_empty());
        let over = too_long("a.rs", &function_of(FUNCTION_LINES + 1));
        assert_eq!(over, [("a.rs long".to_owned(), FUNCTION_LINES + 1)]);
    }

    #[test]
    fn tests_do_not_count_to_the_length_of_a_file() {
        let text = format!("{}#[cfg(test)]\n{}", "//!\n".repeat(FILE_LINES), "//\n".repeat(50));
        assert!(too_long("a.rs", &text).is_empty());
        assert_eq!(too_long("a.rs", &"//!\n".repeat(FILE_LINES + 1)).len(), 1);
    }

    #[test]
    fn what_is_listed_may_shrink_and_never_grow() {
        let lengths = |length| BTreeMap::from([("a.rs".to_owned(), length)]);
        assert!(compare(&lengths(700), &lengths(700)).is_empty());
        assert_eq!(compare(&lengths(701), &lengths(700)).len(), 1);
        assert_eq!(compare(&lengths(699), &lengths(700)).len(), 1);
        assert_eq!(compare(&BTreeMap::new(), &lengths(700)).len(), 1);
    }

    #[test]
    fn a_path_of_a_machine_is_found() {
        let (left, right) = MACHINE_FOLDERS[0];
        assert_eq!(machine_paths("a", &format!("see {left}{right}main")).len(), 1);
        assert!(machine_paths("a", "see /etc/kagimori and /usr/lib").is_empty());
    }

    #[test]
    fn a_file_without_an_opening_is_found() {
        assert!(opening("src/a.rs", "use std;").is_some());
        assert!(opening("src/a.rs", "//! A thing.").is_none());
        assert!(opening("x/tests/a.rs", "use std;").is_none());
    }
}
