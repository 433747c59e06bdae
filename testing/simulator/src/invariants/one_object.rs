//! A call that is repeated under its number, at whichever member, makes one object and gets one answer.
//!
//! Looked at: answers under one number, and the keys that are there at the end by the label that each call gave its own.
//! Fault budget: any crash, cut, loss, duplication and pause.

use std::collections::BTreeMap;
use std::sync::Arc;

use hsm_core::{Action, Response};
use hsm_protocol::AttributeKind;

use super::acknowledged_keys::{highest_handle, uid_in};
use super::{Invariant, nothing};
use crate::cluster::Cluster;

/// The name.
pub const NAME: &str = "one_request_makes_one_object";

/// No object twice.
pub const INVARIANT: Invariant = Invariant { name: NAME, step: nothing, end };

fn end(cluster: &Arc<Cluster>) -> Result<(), String> {
    one_answer(cluster)?;
    let mut label_of = BTreeMap::new();
    cluster.ledger.with(|seen| {
        for call in &seen.calls {
            let Action::CreateObjects { objects } = &call.action else { continue };
            for new in objects {
                let label = new.object.octets(AttributeKind::Label).unwrap_or_default().to_vec();
                label_of.insert(new.object.uid().0, label);
            }
        }
    });
    for (place, node) in cluster.member_nodes() {
        let mut found = BTreeMap::new();
        for handle in 1..=highest_handle(cluster) {
            let Some(label) = uid_in(&node, handle)?.and_then(|uid| label_of.get(&uid)) else { continue };
            if let Some(before) = found.insert(label, handle) {
                let label = String::from_utf8_lossy(label);
                return Err(format!("machine {place} has {label:?} twice: as {before} and as {handle}"));
            }
        }
    }
    Ok(())
}

fn one_answer(cluster: &Arc<Cluster>) -> Result<(), String> {
    let mut answers = BTreeMap::new();
    cluster.ledger.with(|seen| {
        for (number, call) in seen.calls.iter().enumerate() {
            let Some((_, Ok(Response::Created(handles)))) = call.done() else { continue };
            let before = answers.insert((call.origin.session, call.origin.sequence), handles.clone());
            if before.is_some_and(|before| before != *handles) {
                return Err(format!("call {number} got another object than the call of the same number before"));
            }
        }
        Ok(())
    })
}
