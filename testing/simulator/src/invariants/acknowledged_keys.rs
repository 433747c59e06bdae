//! A key that was acknowledged, and that nobody asked to destroy, is on every member at the end, of at least the version
//! that was acknowledged, and it is the same key.
//!
//! Looked at: the payload of every key on every member; while the run goes on, the key's owner looks for it at members
//! that know as much as he does. Fault budget: any crash; disks that forget on a minority of the voters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hsm_core::{Action, ObjectHandle, Response};
use hsm_replication::Node;

use super::{Invariant, first_stale};
use crate::cluster::Cluster;

/// The name.
pub const NAME: &str = "acknowledged_keys_are_everywhere";

/// No key is lost.
pub const INVARIANT: Invariant = Invariant { name: NAME, step: |cluster| first_stale(cluster, NAME), end };

/// A key as it must be.
#[derive(Default)]
struct Expected {
    /// Who it is: by the first command that made it.
    uid: Option<[u8; 16]>,
    /// Version that was acknowledged.
    version: u32,
}

fn end(cluster: &Arc<Cluster>) -> Result<(), String> {
    let (keys, gone) = expected(cluster);
    for (place, node) in cluster.member_nodes() {
        for (&handle, expected) in keys.iter().filter(|(handle, _)| !gone.contains(handle)) {
            let payload = node.payload(handle).map_err(|fault| format!("machine {place}: {fault}"))?;
            let Some(payload) = payload else {
                return Err(format!("machine {place} has lost key {}, which was acknowledged", handle.0));
            };
            let uid = payload.ciphertext.get(..16);
            if expected.uid.is_some_and(|expected| uid != Some(&expected[..])) {
                return Err(format!("machine {place} has another key as {}", handle.0));
            }
            let version =
                payload.ciphertext.get(16..20).map(|octets| u32::from_be_bytes(octets.try_into().unwrap_or_default()));
            if version < Some(expected.version) {
                let told = expected.version;
                return Err(format!(
                    "machine {place} has version {version:?} of key {}, {told} was acknowledged",
                    handle.0
                ));
            }
        }
    }
    Ok(())
}

/// Keys that clients were told of, and those that somebody asked to destroy.
fn expected(cluster: &Arc<Cluster>) -> (BTreeMap<ObjectHandle, Expected>, BTreeSet<ObjectHandle>) {
    let (mut keys, mut gone) = (BTreeMap::<_, Expected>::new(), BTreeSet::new());
    cluster.ledger.with(|seen| {
        for call in &seen.calls {
            match (&call.action, call.done()) {
                (Action::CreateObjects { .. }, Some((_, Ok(Response::Created(handles))))) => {
                    for &handle in handles {
                        keys.entry(handle).or_default();
                    }
                }
                (Action::DestroyObject { handle }, _) if !call.is_void() => drop(gone.insert(*handle)),
                _ => {}
            }
        }
        // What is told under a number is the answer to the first command of that number: only that one was executed.
        let mut first = BTreeMap::new();
        for (index, decided) in &seen.decided {
            let origin = decided.command.origin;
            first.entry((origin.session, origin.sequence)).or_insert(*index);
        }
        for (call, index) in seen.calls.iter().filter_map(|call| Some((call, call.done()?.0))) {
            let executed = first.get(&(call.origin.session, call.origin.sequence)) == Some(&index.0);
            if let (Action::ReplaceObject { handle, object, .. }, true, true) =
                (&call.action, executed, call.is_success())
            {
                let version = &mut keys.entry(*handle).or_default().version;
                *version = object.version().max(*version);
            }
        }
        for decided in seen.decided.values() {
            let (Action::CreateObjects { objects }, Ok(Response::Created(handles))) =
                (&decided.command.action, &decided.answer)
            else {
                continue;
            };
            for (new, handle) in objects.iter().zip(handles) {
                if let Some(expected) = keys.get_mut(handle) {
                    expected.uid.get_or_insert(new.object.uid().0);
                }
            }
        }
    });
    (keys, gone)
}

/// The highest handle that any command made.
pub(crate) fn highest_handle(cluster: &Arc<Cluster>) -> u64 {
    cluster.ledger.with(|seen| {
        let made = seen.decided.values().filter_map(|decided| match &decided.answer {
            Ok(Response::Created(handles)) => handles.iter().map(|handle| handle.0).max(),
            _ => None,
        });
        made.max().unwrap_or(0)
    })
}

/// Who the key of this handle is; `None` = there is none.
pub(crate) fn uid_in(node: &Node, handle: u64) -> Result<Option<[u8; 16]>, String> {
    let payload = node.payload(ObjectHandle(handle)).map_err(|fault| fault.to_string())?;
    Ok(payload.and_then(|payload| payload.ciphertext.get(..16)?.try_into().ok()))
}
