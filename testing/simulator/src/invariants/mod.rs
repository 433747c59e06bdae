//! What must hold, one file each. A file says what is promised, what is looked at, and under which faults it must hold.
//!
//! A check looks at what the observer and the ledger wrote down, or at the nodes themselves; it never mends anything.
//! [`step`] runs all the time and [`end`] once, when the cluster has come together after the faults.

pub mod acknowledged_keys;
pub mod answers;
pub mod attempts;
pub mod audit_chain;
pub mod committed_entries;
pub mod deletes;
pub mod differing_members;
pub mod disabled_users;
pub mod empty_voters;
pub mod equal_index;
pub mod forgetful_voters;
pub mod honest_nodes;
pub mod incarnations;
pub mod joined_nodes;
pub mod linearizable;
pub mod liveness;
pub mod minority;
pub mod nothing_panics;
pub mod one_object;
pub mod removed_members;
pub mod running_sessions;
pub mod votes;

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::cluster::run::Broken;

/// Looks at a cluster; `Err` says what is wrong.
pub type Check = fn(&Arc<Cluster>) -> Result<(), String>;

/// A promise.
pub struct Invariant {
    /// Its name: what a failed run prints and a mutation names.
    pub name: &'static str,
    /// Looked at all the time.
    pub step: Check,
    /// Looked at when the cluster has come together.
    pub end: Check,
}

/// Nothing to look at.
pub fn nothing(_: &Arc<Cluster>) -> Result<(), String> {
    Ok(())
}

/// All of them. Where one fault breaks several, the first names it.
pub const ALL: &[Invariant] = &[
    incarnations::INVARIANT,
    nothing_panics::INVARIANT,
    votes::INVARIANT,
    committed_entries::INVARIANT,
    minority::INVARIANT,
    forgetful_voters::INVARIANT,
    empty_voters::INVARIANT,
    differing_members::INVARIANT,
    answers::INVARIANT,
    one_object::INVARIANT,
    attempts::INVARIANT,
    deletes::INVARIANT,
    disabled_users::INVARIANT,
    removed_members::INVARIANT,
    running_sessions::INVARIANT,
    linearizable::INVARIANT,
    joined_nodes::INVARIANT,
    acknowledged_keys::INVARIANT,
    audit_chain::INVARIANT,
    equal_index::INVARIANT,
    honest_nodes::INVARIANT,
    liveness::INVARIANT,
];

/// The first promise that does not hold now.
pub fn step(cluster: &Arc<Cluster>) -> Option<Broken> {
    first(cluster, |invariant| invariant.step)
}

/// The first promise that does not hold at the end.
pub fn end(cluster: &Arc<Cluster>) -> Option<Broken> {
    step(cluster).or_else(|| first(cluster, |invariant| invariant.end))
}

fn first(cluster: &Arc<Cluster>, which: impl Fn(&Invariant) -> Check) -> Option<Broken> {
    ALL.iter().find_map(|invariant| {
        let text = which(invariant)(cluster).err()?;
        Some(Broken { invariant: invariant.name, text })
    })
}

/// What is gone or served although it must not be, under this name.
pub(crate) fn first_stale(cluster: &Arc<Cluster>, name: &str) -> Result<(), String> {
    let line = cluster.ledger.with(|seen| seen.stale.iter().find(|(of, _)| *of == name).map(|(_, line)| line.clone()));
    line.map_or(Ok(()), Err)
}
