//! Strangers who guess the password of a user at many HSMs at once. Nobody else logs in as that user, so every attempt
//! that is granted is one of theirs.

use std::sync::Arc;

use hsm_protocol::{ErrorCode, Role};

use crate::cluster::Cluster;
use crate::cluster::clients::Client;
use crate::cluster::history::Victim;

/// The user whose password is guessed.
pub const VICTIM: &str = "victim";

/// Logs the victim in, once, before anybody guesses.
///
/// # Panics
/// When a calm cluster refuses it.
pub async fn begin(cluster: &Arc<Cluster>) -> Client {
    let mut client = Client::new(cluster, 1, VICTIM, Role::CryptoUser);
    assert!(client.log_in().await, "the victim logs in");
    let hsm_core::Actor::Session { session, user, .. } = client.actor else { unreachable!("it is logged in") };
    let since = client.least;
    cluster.ledger.with(|seen| seen.victims.push(Victim { user, since, session }));
    client
}

/// Guesses for ever; after the user is locked, seldom.
pub async fn guess(cluster: Arc<Cluster>, number: usize) {
    let mut client = Client::new(&cluster, number, VICTIM, Role::CryptoUser);
    loop {
        client.think(400).await;
        if client.guess(false).await == Some(Err(ErrorCode::UserLocked)) {
            client.think(8_000).await;
        }
    }
}
