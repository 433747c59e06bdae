//! What must be true of a node that comes back after a crash, whatever the crash left on the disk.
//!
//! 1. It starts. No crash looks like damage.
//! 2. Every command that was acknowledged before the crash is there: the last applied index is at least the last
//!    acknowledged one.
//! 3. Nothing is half there: chain of hashes and hash of the state are those that the running node had at that index.
//! 4. The audit log is a beginning of what it would have become, with every record of an acknowledged command.
//! 5. A call repeated under its number has the result it had, if it was acknowledged; if it was under way, it gets one
//!    result, and the same again when asked again.
//! 6. Every key that stands has its payload, of its version; a destroyed one has none.

use std::sync::Arc;

use hsm_core::{Action, ObjectHandle, Response};
use hsm_protocol::ErrorCode;
use hsm_replication::{Node, OpenFault, Outcome};

use crate::workload::{self, Bench, Call, History, same_result};
use crate::world::World;

/// What was found after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The crash came before the cluster was formed.
    Nothing,
    /// A node with this index.
    Node(u64),
}

/// Starts a node on what the crash after operation `position` left, and checks all of it.
///
/// # Panics
/// When a promise is broken; the message says which.
pub async fn check(world: &World, history: &History, position: usize) -> Found {
    let calls: Vec<Call> = history.calls.lock().iter().filter(|call| call.asked_at < position).cloned().collect();
    let acknowledged = calls.iter().filter(|call| call.told_at.is_some_and(|told_at| told_at <= position));
    let acknowledged = acknowledged.filter_map(|call| index_of(call.outcome.as_ref())).max().unwrap_or(0);
    let node = match world.open().await {
        Ok(node) => Arc::new(node),
        Err(OpenFault::NotFormed(_)) if acknowledged == 0 => return Found::Nothing,
        Err(fault) => panic!("the node starts: {fault}"),
    };
    let applied = node.applied().0;
    assert!(applied >= acknowledged, "command {acknowledged} was acknowledged and is lost; the last one is {applied}");
    check_moment(&node, history, applied);
    check_audit(&node, history, applied);
    check_payloads(&node, &calls);
    check_repetition(world, &node, &calls, position).await;
    let (after, hash) = (node.status(), node.read().state_hash());
    node.stop_here().await;
    assert_eq!(world.faults.count(), 0, "no fault: {}", world.faults.last());
    let again = world.open().await.unwrap_or_else(|fault| panic!("the node starts again: {fault}"));
    assert!(again.status().hash == after.hash, "a clean restart changes no chain");
    assert!(again.read().state_hash() == hash, "a clean restart changes no state");
    again.stop_here().await;
    Found::Node(applied)
}

fn index_of(outcome: Option<&Outcome>) -> Option<u64> {
    match outcome {
        Some(Outcome::Done { index, .. }) => Some(index.0),
        _ => None,
    }
}

fn check_moment(node: &Node, history: &History, applied: u64) {
    let moments = history.moments.lock();
    // The first command was acknowledged before the record of moments began.
    if let Some(moment) = moments.get(&applied) {
        assert!(node.status().hash == moment.hash, "the chain at {applied} is another one");
        assert!(node.read().state_hash() == moment.state, "the state at {applied} is another one");
    } else {
        assert!(applied <= 1, "index {applied} is inside an entry: half of it was applied");
    }
}

fn check_audit(node: &Node, history: &History, applied: u64) {
    let found = workload::audit_of(node);
    let whole = history.audit.lock();
    assert!(whole.starts_with(&found), "the audit log is another one");
    let expected = whole.iter().take_while(|entry| entry.record.index.0 <= applied).count();
    assert_eq!(found.len(), expected, "an audit record is missing");
}

/// Every object that a call made has its payload, unless the object is gone, and then it has none.
fn check_payloads(node: &Node, calls: &[Call]) {
    for call in calls {
        let (Action::CreateObjects { objects }, Some(Outcome::Done { index, result: Ok(Response::Created(handles)) })) =
            (&call.action, &call.outcome)
        else {
            continue;
        };
        if index.0 > node.applied().0 {
            continue;
        }
        for (object, &handle) in objects.iter().zip(handles) {
            check_payload(node, handle, calls, object.object.uid());
        }
    }
}

fn check_payload(node: &Node, handle: ObjectHandle, calls: &[Call], uid: hsm_core::ObjectUid) {
    let payload = node.payload(handle).unwrap_or_else(|fault| panic!("the payload can be read: {fault}"));
    let versions = calls.iter().filter_map(|call| match (&call.action, &call.outcome) {
        (Action::ReplaceObject { handle: replaced, object, .. }, Some(Outcome::Done { index, result: Ok(_) }))
            if *replaced == handle && index.0 <= node.applied().0 =>
        {
            Some(object.version())
        }
        _ => None,
    });
    let version = versions.max().unwrap_or(1);
    let destroyed = calls.iter().any(|call| {
        matches!(&call.action, Action::DestroyObject { handle: gone } if *gone == handle)
            && matches!(&call.outcome, Some(Outcome::Done { index, result: Ok(_) }) if index.0 <= node.applied().0)
    });
    let expected = (!destroyed).then(|| workload::payload_of(uid, version));
    assert!(payload == expected, "the payload of object {} is not the one that was stored", handle.0);
}

/// Each session's last call before the crash is made again under its number, twice.
async fn check_repetition(world: &World, node: &Arc<Node>, calls: &[Call], position: usize) {
    let bench = Bench::new(node.clone(), world.disk.clone(), world.random.clone());
    let (objects_before, applied) = (node.read().object_count(), node.applied().0);
    let mut created = 0;
    let mut sessions = std::collections::BTreeMap::new();
    for call in calls.iter().filter(|call| call.origin.sequence > 0) {
        sessions.insert(call.origin.session, call);
    }
    for call in sessions.into_values() {
        let mut same_number = calls.iter().filter(|other| {
            other.origin.session == call.origin.session && other.origin.sequence == call.origin.sequence
        });
        let there = same_number.find(|call| index_of(call.outcome.as_ref()).is_some_and(|index| index <= applied));
        let first = bench.ask(call.origin, call.action.clone()).await;
        let second = bench.ask(call.origin, call.action.clone()).await;
        let ended =
            matches!(&first, Outcome::Done { result: Err(refusal), .. } if refusal.code == ErrorCode::NotLoggedIn);
        assert!(same_result(&first, &second), "a repeated call has one result");
        if let (Some(Call { outcome: Some(before), told_at, .. }), false) = (there, ended) {
            let acknowledged = told_at.is_some_and(|told_at| told_at <= position);
            assert!(same_result(before, &first), "the result of a call changed (acknowledged: {acknowledged})");
        }
        let made = matches!(&first, Outcome::Done { result: Ok(Response::Created(_)), .. });
        let destroyed = matches!(&call.action, Action::DestroyObject { .. });
        if there.is_none() && !ended && made {
            created += 1;
        } else if there.is_none() && destroyed && matches!(&first, Outcome::Done { result: Ok(_), .. }) {
            created -= 1;
        }
    }
    let expected = objects_before.saturating_add_signed(created);
    assert_eq!(node.read().object_count(), expected, "one request makes one object");
}
