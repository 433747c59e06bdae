//! What clients notice of a new epoch of the cluster master key: nothing, but that some wait for milliseconds.

use std::time::Duration;

use hsm_core::command::{EpochStart, Origin};
use hsm_core::{Action, Epoch, SealedMaster};
use hsm_crypto::{ClusterKeys, MasterKey};
use hsm_protocol::wire::{self, reply, request};
use hsm_protocol::{ErrorCode, Role};

use super::client::{Client, Hsm, Login, USER_PASSWORD, bare};

const NOBODY: Origin = Origin { session: None, sequence: 0, lowest_unanswered: 0 };

impl Hsm {
    /// The log begins epoch 2; this HSM has its key only after [`Hsm::follow`].
    fn begin_epoch(&self) {
        let node = *self.node.read().members().keys().next().unwrap();
        let masters = vec![SealedMaster { node, sealed: vec![1; 64], sealed_before: Vec::new() }];
        let (epoch, secret) = (Epoch(2), vec![1]);
        let start =
            EpochStart { epoch, masters, sealed_cluster_key: secret.clone(), sealed_activation_password: secret };
        let outcome = self.node.propose_and_wait(NOBODY, Action::BeginEpoch(start), Duration::from_secs(10));
        outcome.into_result().map(|_| ()).unwrap();
    }

    fn follow(&self) {
        let cluster = self.node.read().cluster().unwrap().cluster;
        let next = MasterKey::generate(self.service.module(), Epoch(2)).unwrap();
        let keys = |master: &MasterKey| ClusterKeys::new(master, cluster).unwrap();
        self.service.keys().advance(keys(&next), Some(keys(&self.master)));
        self.service.ask_for_attaching();
    }
}

/// Binds a login, and gives what it was exchanged for; empty when its token is good.
fn attach(client: &mut Client, login: &Login) -> Result<Vec<u8>, ErrorCode> {
    let proof = login.proof(&client.nonce.clone());
    match client.call(request::Body::Attach(wire::Attach {
        token: login.token.clone(),
        proof,
        ..Default::default()
    }))? {
        reply::Body::Attach(reply) => {
            client.session = reply.session;
            Ok(reply.token)
        }
        _ => panic!("no attach reply"),
    }
}

#[test]
fn a_login_of_the_epoch_before_is_exchanged_and_its_keys_sign_on() {
    let hsm = Hsm::active();
    let mut client = hsm.connect();
    let mut login = client.log_in("app", Role::CryptoUser, USER_PASSWORD);
    let (_, key) = client.make_pair(true);
    let (_, of_session) = client.make_pair(false);
    hsm.begin_epoch();
    // The log is further than this HSM, which must not be taken for a wrong token.
    assert_eq!(attach(&mut hsm.connect(), &login).err(), Some(ErrorCode::NotReady));
    assert!(client.sign(&key, b"data").is_ok(), "keys that are not moved yet are used as before");
    hsm.follow();
    assert_eq!(client.sign(&key, b"data").err(), Some(ErrorCode::NotLoggedIn), "it is asked to attach again");
    let token = attach(&mut client, &login).unwrap();
    assert!(!token.is_empty());
    assert!(client.sign(&key, b"data").is_ok() && client.sign(&bare(&of_session), b"data").is_ok());
    assert!(!hsm.node.read().is_epoch_before_needed() || !hsm.node.read().epoch_record().unwrap().is_settled());
    login.token = token;
    assert!(attach(&mut hsm.connect(), &login).unwrap().is_empty(), "the new token is good");
    hsm.service.keys().forget_before();
    assert!(attach(&mut hsm.connect(), &login).is_ok());
    client.make_pair(true);
}

#[test]
fn a_key_that_is_made_while_an_epoch_begins_is_made_again_under_its_key() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    hsm.begin_epoch();
    std::thread::scope(|scope| {
        let making = scope.spawn(|| client.make_pair(true));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!making.is_finished(), "the log refuses what is sealed under the epoch before");
        hsm.follow();
        making.join().unwrap();
    });
    let handle = hsm.node.read().objects_after(hsm_core::ObjectHandle(0), 1).pop().unwrap().0;
    assert_eq!(hsm.node.payload(handle).unwrap().unwrap().epoch, Epoch(2));
}

#[test]
fn session_objects_go_over_to_a_new_epoch_before_the_token_does() {
    let hsm = Hsm::active();
    let mut client = hsm.connect();
    let login = client.log_in("app", Role::CryptoUser, USER_PASSWORD);
    let (_, key) = client.make_pair(false);
    hsm.begin_epoch();
    hsm.follow();
    let proof = login.proof(&client.nonce.clone());
    let attach = wire::Attach { token: login.token.clone(), proof, holds_objects: true };
    let Ok(reply::Body::Attach(reply)) = client.call(request::Body::Attach(attach)) else { panic!("no attach reply") };
    assert!(reply.exchange && reply.token.is_empty(), "the token comes with the last object");
    client.session = reply.session;
    assert!(hsm.node.read().is_epoch_before_needed(), "the login still holds a token of the epoch before");
    // Others' objects, altered ones and what is no session object are answered by nothing.
    let mut altered = key.clone();
    altered.sealed[40] ^= 1;
    let another = wire::ObjectReference { session_object: vec![9; 16], ..key.clone() };
    let on_token = wire::ObjectReference { token_object: 1, ..Default::default() };
    let objects = vec![altered, another, on_token, wire::ObjectReference::default(), key.clone()];
    let exchanged = exchange(&mut client, objects, true).unwrap();
    assert_eq!(exchanged.sealed.iter().map(Vec::is_empty).collect::<Vec<_>>(), [true, true, true, true, false]);
    assert!(!exchanged.token.is_empty() && !hsm.node.read().is_epoch_before_needed());
    hsm.service.keys().forget_before();
    let session = hsm.service.keys().open_token(&exchanged.token).unwrap().content.session;
    let opens = |sealed: &[u8]| hsm.service.keys().open_session_object(Some(session), sealed).is_ok();
    assert!(opens(&exchanged.sealed[4]) && !opens(&key.sealed));
}

#[test]
fn more_session_objects_than_a_call_may_bring_are_refused_by_number() {
    let hsm = Hsm::active();
    let mut client = hsm.connect_as("app");
    let (_, key) = client.make_pair(false);
    let most = hsm_protocol::limits::EXCHANGED_OBJECTS;
    assert_eq!(exchange(&mut client, vec![key.clone(); most + 1], false).err(), Some(ErrorCode::TooLarge));
    assert_eq!(exchange(&mut client, vec![key; most], false).unwrap().sealed.len(), most);
    assert_eq!(exchange(&mut hsm.connect(), Vec::new(), true).err(), Some(ErrorCode::NotLoggedIn));
}

fn exchange(
    client: &mut Client,
    objects: Vec<wire::ObjectReference>,
    last: bool,
) -> Result<wire::ExchangeObjectsReply, ErrorCode> {
    match client.call(request::Body::ExchangeObjects(wire::ExchangeObjects { objects, last })) {
        Ok(reply::Body::ExchangeObjects(reply)) => Ok(reply),
        Ok(_) => panic!("another answer"),
        Err(refused) => Err(refused),
    }
}
