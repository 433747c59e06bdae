//! `check-layers`: our crates depend on each other only along the arrows of ARCHITECTURE.md.
//!
//! Two of the missing arrows are statements of security: nothing in `client/` reaches `hsm/`, and neither the control
//! plane nor the KMS service does.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use crate::narrate;
use crate::workspace::{Workspace, capture};

/// Which of our crates each of our crates may name as a normal dependency. A crate may also use what lies further
/// along its arrow, so the rows are transitive.
const ARROWS: &[(&str, &[&str])] = &[
    ("hsm-protocol", &[]),
    ("hsm-core", &["hsm-protocol"]),
    ("hsm-crypto", &["hsm-core", "hsm-protocol"]),
    ("hsm-replication", &["hsm-crypto", "hsm-core", "hsm-protocol"]),
    ("hsm-server", &["hsm-replication", "hsm-crypto", "hsm-core", "hsm-protocol"]),
    ("hsm-client", &["hsm-protocol"]),
    ("hsm-pkcs11", &["hsm-client", "hsm-protocol"]),
    ("kagimori", &["hsm-client", "hsm-protocol"]),
    ("kms", &["hsm-client", "hsm-protocol"]),
    ("control-plane", &["hsm-protocol"]),
];

/// Folders whose crates may use any crate, and which no crate outside them may use.
const OUTSIDE: &[&str] = &["testing", "xtask"];

/// What the state machine must not reach, directly or through others: randomness, I/O, time, plaintext keys.
/// `hsm/core/clippy.toml` bans the same things of the standard library.
const NEVER_IN_CORE: &[&str] = &[
    "aws-lc-rs",
    "aws-lc-sys",
    "getrandom",
    "mio",
    "openraft",
    "parking_lot",
    "rand",
    "redb",
    "rustls",
    "tokio",
    "tracing",
];

/// Checks the whole workspace.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let step = narrate::begin("layers");
    let metadata = MetadataCommand::new()
        .manifest_path(workspace.path("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo could not describe the workspace")?;
    let edges = edges(&metadata);
    let mut faults = faults(&edges);
    faults.extend(core_faults(workspace)?);
    if !faults.is_empty() {
        bail!(
            "the layers are broken:\n{}\nTake the dependency out, or change the arrows in xtask/src/layers.rs and \
             ARCHITECTURE.md together, with a decision record that says why.",
            faults.join("\n")
        );
    }
    step.done(format!("{} edges, all along the arrows", edges.len()));
    Ok(())
}

/// A normal dependency of one of our crates on another.
struct Edge {
    from: Crate,
    to: Option<Crate>,
}

#[derive(Clone, PartialEq, Eq)]
struct Crate {
    name: String,
    outside: bool,
}

/// Every crate once without a target, and once for each of our crates that it depends on.
fn edges(metadata: &Metadata) -> Vec<Edge> {
    let ours: Vec<(Crate, &cargo_metadata::Package)> = metadata
        .workspace_packages()
        .into_iter()
        .map(|package| {
            let folder = package.manifest_path.strip_prefix(&metadata.workspace_root).unwrap_or(&package.manifest_path);
            let outside = OUTSIDE.iter().any(|top| folder.starts_with(top));
            (Crate { name: package.name.to_string(), outside }, package)
        })
        .collect();
    let mut edges = Vec::new();
    for (from, package) in &ours {
        edges.push(Edge { from: from.clone(), to: None });
        for dependency in package.dependencies.iter().filter(|found| found.kind == DependencyKind::Normal) {
            if let Some((to, _)) = ours.iter().find(|(to, _)| to.name == dependency.name) {
                edges.push(Edge { from: from.clone(), to: Some(to.clone()) });
            }
        }
    }
    edges
}

/// What the dependency tree of `hsm-core` holds that it must not. `cargo tree` judges the crate by itself; the metadata
/// of the whole workspace would show features that others switch on.
fn core_faults(workspace: &Workspace) -> Result<Vec<String>> {
    let arguments = ["tree", "--package", "hsm-core", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let tree = capture(&mut workspace.cargo(&arguments))?;
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    let reached = names.into_iter().filter(|name| NEVER_IN_CORE.contains(name));
    Ok(reached.map(|name| format!("  hsm-core reaches {name}")).collect())
}

fn faults(edges: &[Edge]) -> Vec<String> {
    edges.iter().filter_map(fault).collect()
}

fn fault(edge: &Edge) -> Option<String> {
    let from = &edge.from;
    if from.outside {
        return None;
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == from.name) else {
        return Some(format!("  {} has no row in the arrows", from.name));
    };
    let to = edge.to.as_ref()?;
    if to.outside {
        return Some(format!("  {} depends on {}, which is there for testing only", from.name, to.name));
    }
    (!allowed.contains(&to.name.as_str())).then(|| format!("  {} depends on {}", from.name, to.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: &str, to: &str) -> Edge {
        let named = |name: &str| Crate { name: name.to_owned(), outside: name.starts_with("testing-") };
        Edge { from: named(from), to: Some(named(to)) }
    }

    #[test]
    fn the_arrows_are_allowed() {
        assert!(faults(&[edge("hsm-server", "hsm-core"), edge("kagimori", "hsm-client")]).is_empty());
    }

    #[test]
    fn a_client_that_reaches_the_hsm_is_refused() {
        for client in ["hsm-client", "hsm-pkcs11", "kagimori", "kms", "control-plane"] {
            for hsm in ["hsm-core", "hsm-crypto", "hsm-replication", "hsm-server"] {
                assert_eq!(faults(&[edge(client, hsm)]).len(), 1, "{client} -> {hsm}");
            }
        }
    }

    #[test]
    fn an_arrow_against_the_direction_is_refused() {
        assert_eq!(faults(&[edge("hsm-core", "hsm-crypto"), edge("hsm-protocol", "hsm-core")]).len(), 2);
    }

    #[test]
    fn a_product_crate_that_uses_a_test_crate_is_refused() {
        assert_eq!(faults(&[edge("hsm-server", "testing-simulator")]).len(), 1);
        assert!(faults(&[edge("testing-simulator", "hsm-server")]).is_empty());
    }

    #[test]
    fn a_crate_without_a_row_is_refused() {
        let edge = Edge { from: Crate { name: "newcomer".to_owned(), outside: false }, to: None };
        assert_eq!(faults(&[edge]).len(), 1);
    }
}
