//! Clients that use one key's version as a register: they raise it by one from what they believe it to be, and read it.
//!
//! All log in as one user, whose key it is. What they do and are told is the history that `linearizable` judges.

use std::sync::Arc;

use hsm_core::{Action, ObjectHandle, Request};
use hsm_protocol::{AttributeKind, ErrorCode, Role, Template};

use crate::cluster::Cluster;
use crate::cluster::clients::Client;
use crate::cluster::history::{RegisterCall, RegisterOperation};
use crate::workload;

/// The user whose keys are the registers.
pub const OWNER: &str = "owner";

/// One of the clients.
pub struct Sharer {
    client: Client,
    handle: ObjectHandle,
}

impl Sharer {
    /// One who uses this key.
    pub fn new(cluster: &Arc<Cluster>, number: usize, handle: ObjectHandle) -> Self {
        Self { client: Client::new(cluster, number, OWNER, Role::CryptoUser), handle }
    }

    /// Works for ever.
    pub async fn work(mut self) {
        loop {
            self.client.think(250).await;
            if !self.client.is_logged_in() {
                self.client.log_in().await;
                continue;
            }
            if self.client.cluster.random.once_in(2) { self.read().await } else { self.swap().await }
        }
    }

    /// The operation is on record before it is made.
    fn begin(&self, operation: RegisterOperation) -> usize {
        let (client, asked) = (self.client.number, self.client.cluster.trace.now());
        let swaps = matches!(operation, RegisterOperation::Swap { .. });
        let number = self.client.next_number().filter(|_| swaps);
        let call = RegisterCall { register: self.handle, client, number, asked, told: None, operation };
        self.client.cluster.ledger.with(|seen| {
            seen.registers.push(call);
            seen.registers.len() - 1
        })
    }

    fn end(&self, number: usize, operation: RegisterOperation) {
        let now = self.client.cluster.trace.now();
        self.client.cluster.ledger.with(|seen| {
            let call = &mut seen.registers[number];
            (call.told, call.operation) = (Some(now), operation);
        });
    }

    async fn swap(&mut self) {
        let Some(server) = self.client.find().await else { return };
        let Ok(object) = server.node.read().object(&self.client.actor, self.handle) else {
            self.client.forget_session();
            return;
        };
        let (from, handle) = (object.version(), self.handle);
        let label = format!("register {from}");
        let template = Template::new().with_octets(AttributeKind::Label, label);
        let request = Request::SetAttributes { object: &object, template: &template };
        let needs = server.node.read().needs(&self.client.actor, request);
        let Ok(hsm_core::Needs::Replace { object, .. }) = needs else { return };
        drop(server);
        let payload = Some(workload::payload_of(object.uid(), object.version()));
        let action = Action::ReplaceObject { handle, object, payload };
        let number = self.begin(RegisterOperation::Swap { from, done: None });
        match self.client.change(|_, _| Ok(action.clone())).await {
            Some((_, Ok(_))) => self.end(number, RegisterOperation::Swap { from, done: Some(true) }),
            Some((_, Err(refusal))) if refusal.code == ErrorCode::ObjectChanged => {
                self.end(number, RegisterOperation::Swap { from, done: Some(false) });
            }
            // Refused before it was looked at, or never answered: it may be anything.
            Some(_) | None => {}
        }
    }

    async fn read(&mut self) {
        let Some(server) = self.client.find().await else { return };
        let number = self.begin(RegisterOperation::Read { found: None });
        let Some(found) = self.client.cluster.read_newest(server, &self.client.actor, self.handle).await else {
            return;
        };
        self.end(number, RegisterOperation::Read { found: Some(found) });
    }
}
