//! The admin: begins the cluster, makes users, and then disables and enables one of them again and again.

use std::sync::Arc;
use std::time::Duration;

use hsm_core::{Action, Response};
use hsm_protocol::{ErrorCode, Role, UserName};

use crate::cluster::Cluster;
use crate::cluster::clients::{Client, verifier_of};
use crate::cluster::observer::Promise;

/// A certificate as far as the state machine looks at one.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";

/// Isolation windows, in seconds: none, one that ends within a run, and one that does not.
pub const WINDOWS: [u32; 3] = [0, 5, 3_600];

/// The user whom the admin disables.
pub const DISABLED: &str = "outcast";

/// The admin at work.
pub struct Admin {
    client: Client,
}

impl Admin {
    /// Initialises and activates a cluster that was just formed, and logs in.
    ///
    /// # Panics
    /// When a calm cluster of one refuses it.
    pub async fn begin(cluster: &Arc<Cluster>) -> Self {
        let mut client = Client::new(cluster, 0, "admin", Role::Admin);
        let (certificate, trust_anchor) = (CERTIFICATE.to_owned(), CERTIFICATE.to_owned());
        let verifier = verifier_of(&client.name);
        for action in [Action::InstallCertificate { certificate, trust_anchor }, Action::Activate { verifier }] {
            let (_, answer) = client.request(action).await.expect("a calm cluster answers");
            assert!(answer.is_ok(), "it is allowed");
        }
        assert!(client.log_in().await, "the admin logs in");
        Self { client }
    }

    /// Makes a crypto user; tells where in the log.
    ///
    /// # Panics
    /// When a calm cluster refuses it.
    pub async fn create_user(&mut self, name: &str) {
        let name = UserName::new(name).expect("a name");
        let verifier = verifier_of(&name);
        let create = |_: &_, _: &_| {
            let (name, verifier) = (name.clone(), verifier.clone());
            Ok(Action::CreateUser { name, role: Role::CryptoUser, verifier })
        };
        let (_, answer) = self.client.change(create).await.expect("a calm cluster answers");
        assert!(answer.is_ok(), "a user is made");
    }

    /// Works for ever.
    pub async fn work(mut self) {
        loop {
            self.client.think(1_500).await;
            if !self.client.is_logged_in() {
                self.client.log_in().await;
                continue;
            }
            match self.client.cluster.random.below(8) {
                0 => self.log_out_everywhere().await,
                1 | 2 => self.change_window().await,
                _ => self.disable_and_enable().await,
            }
        }
    }

    /// Sets how long an HSM without a majority goes on.
    ///
    /// # Panics
    /// When a calm cluster refuses it.
    pub async fn set_window(&mut self, seconds: u32) {
        let set = self.client.change(|_, _| Ok(Action::SetIsolationWindow { seconds }));
        let (_, answer) = set.await.expect("a calm cluster answers");
        assert!(answer.is_ok(), "it is allowed");
    }

    /// Another window, up or down, while others may not hear of it.
    async fn change_window(&mut self) {
        let seconds = WINDOWS[self.client.cluster.random.place_below(WINDOWS.len())];
        self.client.change(|_, _| Ok(Action::SetIsolationWindow { seconds })).await;
    }

    async fn log_out_everywhere(&mut self) {
        let name = UserName::new(DISABLED).expect("a name");
        self.client.change(|_, _| Ok(Action::LogoutEverywhere { name: name.clone(), role: Role::CryptoUser })).await;
    }

    async fn disable_and_enable(&mut self) {
        if let Some(index) = self.set_enabled(false).await {
            let promise = Promise::Disabled(UserName::new(DISABLED).expect("a name"));
            let settled = self.client.cluster.clone().settle(index, promise.clone());
            // Who is not answered goes on as well.
            drop(tokio::time::timeout(Duration::from_secs(8), settled).await);
            self.client.think(1_500).await;
            self.client.cluster.release(&promise);
        }
        self.unlock().await;
        // Until it is surely enabled again: else nothing is left to disable.
        while self.set_enabled(true).await.is_none() {
            if !self.client.is_logged_in() {
                self.client.log_in().await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What he tried while he was disabled has locked him as well.
    async fn unlock(&mut self) {
        let name = UserName::new(DISABLED).expect("a name");
        let change = |_: &_, _: &_| {
            let (name, verifier) = (name.clone(), verifier_of(&name));
            Ok(Action::ChangePassword { name, role: Role::CryptoUser, verifier })
        };
        self.client.change(change).await;
    }

    async fn set_enabled(&mut self, enabled: bool) -> Option<hsm_core::Index> {
        let name = UserName::new(DISABLED).expect("a name");
        let set = |_: &_, _: &_| Ok(Action::SetUserEnabled { name: name.clone(), role: Role::CryptoUser, enabled });
        match self.client.change(set).await? {
            (index, Ok(Response::Done)) => Some(index),
            (_, Err(refusal)) if refusal.code == ErrorCode::NotLoggedIn => None,
            _ => None,
        }
    }
}
