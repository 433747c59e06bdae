//! Crypto users who make, change, read and destroy keys.

use hsm_core::{Action, ObjectHandle, Request};
use hsm_protocol::{AttributeKind, ErrorCode, Template};

use crate::cluster::clients::{Client, Decision};
use crate::cluster::observer::Promise;
use crate::workload;

/// A user at work.
pub struct Worker {
    client: Client,
    /// Keys that he was told of, and that he has not asked to destroy.
    keys: Vec<ObjectHandle>,
    made: u64,
}

impl Worker {
    /// A user who begins.
    pub fn new(client: Client) -> Self {
        Self { client, keys: Vec::new(), made: 0 }
    }

    /// Works for ever.
    pub async fn work(mut self) {
        loop {
            self.client.think(120).await;
            if !self.client.is_logged_in() {
                self.client.log_in().await;
                continue;
            }
            match self.client.cluster.random.below(20) {
                0..=8 => self.create().await,
                9..=12 => self.relabel().await,
                13..=15 => self.destroy().await,
                16..=18 => self.look().await,
                _ => self.log_out().await,
            }
        }
    }

    /// Makes one key, whose label nobody else uses.
    pub async fn create(&mut self) {
        self.made += 1;
        let label = format!("key {}-{}", self.client.number, self.made);
        let made = self.client.create_key(&label).await;
        self.keys.extend(made);
    }

    async fn relabel(&mut self) {
        let Some(handle) = self.pick() else { return };
        let label = format!("new {}", self.client.cluster.random.below(1_000));
        let decision = self.client.change(|node, actor| {
            let template = Template::new().with_octets(AttributeKind::Label, label.as_str());
            let object = node.read().object(actor, handle)?;
            let needs = node.read().needs(actor, Request::SetAttributes { object: &object, template: &template })?;
            let hsm_core::Needs::Replace { object, .. } = needs else { return Err(ErrorCode::Malformed.into()) };
            let payload = Some(workload::payload_of(object.uid(), object.version()));
            Ok(Action::ReplaceObject { handle, object, payload })
        });
        decision.await;
    }

    async fn destroy(&mut self) {
        let Some(handle) = self.pick() else { return };
        self.keys.retain(|&key| key != handle);
        let decision: Option<Decision> = self.client.change(|_, _| Ok(Action::DestroyObject { handle })).await;
        if let Some((index, Ok(_))) = decision {
            drop(tokio::spawn(self.client.cluster.clone().settle(index, Promise::Deleted(handle))));
        }
    }

    /// A key that was acknowledged can be used at every member that knows as much as this client.
    async fn look(&mut self) {
        let Some(handle) = self.pick() else { return };
        let Some(server) = self.client.find().await else { return };
        let found = server.node.read().object(&self.client.actor, handle);
        let session_stands = found.as_ref().err().is_none_or(|refusal| refusal.code != ErrorCode::NotLoggedIn);
        if session_stands && found.is_err() {
            let line = format!("machine {} has not key {}, which was acknowledged", server.machine.place, handle.0);
            self.client.cluster.ledger.with(|seen| seen.stale.push((crate::invariants::acknowledged_keys::NAME, line)));
        }
    }

    async fn log_out(&mut self) {
        if let hsm_core::Actor::Session { session, .. } = self.client.actor {
            self.client.change(|_, _| Ok(Action::Logout { session })).await;
            self.client.forget_session();
        }
    }

    fn pick(&self) -> Option<ObjectHandle> {
        let count = self.keys.len();
        (count > 0).then(|| self.keys[self.client.cluster.random.place_below(count)])
    }
}
