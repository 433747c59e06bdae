//! Session objects, which the application's side holds sealed: on every HSM of the cluster they are what they are on one.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use hsm_client::{CallError, Cluster as Client, HeldObject, HeldObjects, Login};
use hsm_protocol::wire::{self, ObjectReference, reply, request};
use hsm_protocol::{AttributeKind, ErrorCode, Role, Template, convert};

use crate::epochs::{all_moved, is_over, remove};
use crate::several::{ADMIN, Cluster, eventually, log_in, make_pair_that_lives, sign, sign_in_the_end};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a module holds for its application.
struct Held(Mutex<ObjectReference>);

impl Held {
    fn now(&self) -> ObjectReference {
        self.0.lock().unwrap().clone()
    }
}

impl HeldObjects for Held {
    fn is_any(&self) -> bool {
        true
    }

    fn all(&self) -> Vec<HeldObject> {
        vec![HeldObject { handle: 7, reference: self.now() }]
    }

    fn exchange(&self, old: &HeldObject, sealed: Vec<u8>) {
        assert_eq!(old.handle, 7);
        self.0.lock().unwrap().sealed = sealed;
    }
}

#[test]
fn a_session_key_that_a_library_holds_outlives_the_key_of_its_epoch() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    let client = cluster.client_of(&[0, 1]);
    let login = log_in(&client);
    let (_, first) = make_pair_that_lives(&client, &login, false);
    let held = Arc::new(Held(Mutex::new(first.clone())));
    let holder: Weak<Held> = Arc::downgrade(&held);
    login.holds(holder);
    remove(&cluster, 0, 2);
    for at in 0..2 {
        eventually("that all keys are moved", || all_moved(&cluster, at, 2));
    }
    // The next call is asked to attach again, and brings its session key.
    sign(&client, &login, &held.now()).unwrap();
    // Those who set the cluster up are gone, and hold tokens of the epoch before.
    let admin = client.log_in("admin", Role::Admin, ADMIN).unwrap();
    client.log_out_everywhere(&admin, "admin", Role::Admin).unwrap();
    for at in 0..2 {
        eventually("that the key of the epoch before is destroyed", || is_over(&cluster, at));
    }
    assert!(held.now().sealed != first.sealed, "it was sealed anew");
    // Nothing is left in the memory of any HSM.
    cluster.lose_power();
    for at in 0..2 {
        cluster.hsms[at].restart();
    }
    sign_in_the_end(&client, &login, &held.now());
    for at in 0..2 {
        sign_in_the_end(&cluster.client_of(&[at]), &login, &held.now());
    }
    // The one of before opens no more: else this test would not see the exchange.
    cluster.hsms[1].kill();
    cluster.hsms[1].restart();
    let other = cluster.client_of(&[1]);
    let refused = |result| matches!(result, Err(CallError::Refused { code: ErrorCode::SessionObjectRefused, .. }));
    eventually("a refusal", || refused(sign(&other, &login, &first)));
    sign(&other, &login, &held.now()).unwrap();
}

/// The label of a session object, as an application's library asks for it: what is sealed goes along when the HSM wants it.
fn label(client: &Client, login: &Login, object: &ObjectReference) -> Vec<u8> {
    let ask = |with: hsm_client::With| {
        let sealed = if with.sealed_objects { object.sealed.clone() } else { Vec::new() };
        let object = Some(ObjectReference { sealed, ..object.clone() });
        request::Body::GetAttributes(wire::GetAttributes { object, kinds: vec![AttributeKind::Label as u64] })
    };
    let Ok(reply::Body::Attributes(reply)) = client.call(Some(login), &ask) else { panic!("no attributes") };
    match reply.items[0].attribute.clone().unwrap().value.unwrap() {
        wire::attribute::Value::Octets(octets) => octets,
        _ => panic!("another kind of value"),
    }
}

#[test]
fn a_session_object_that_was_changed_through_another_hsm_is_not_used_as_it_was() {
    let cluster = Cluster::of(2);
    cluster.activate(0);
    let [one, other] = [0, 1].map(|at| cluster.bound_client(at, PATIENCE));
    let login = log_in(&one);
    let (_, before) = make_pair_that_lives(&one, &login, false);
    assert_eq!(label(&one, &login, &before), b"");
    eventually("the login at the other HSM", || sign(&other, &login, &before).is_ok());
    let change = |_| {
        let template = convert::template_message(&Template::new().with_octets(AttributeKind::Label, b"after"));
        request::Body::SetAttributes(wire::SetAttributes { object: Some(before.clone()), template: Some(template) })
    };
    let reply::Body::Objects(changed) = one.change(Some(&login), &change).unwrap() else { panic!("no object") };
    let after = changed.items[0].reference.clone().unwrap();
    assert_eq!(label(&one, &login, &after), b"after");
    assert_eq!(label(&other, &login, &after), b"after", "the other HSM has it in memory as it was");
    // What is older than an HSM knows is not taken back.
    let known = sign(&other, &login, &ObjectReference { sealed: Vec::new(), ..before.clone() });
    assert!(known.is_ok(), "an older number means any: {:?}", known.err());
    let refused = |result| matches!(result, Err(CallError::Refused { code: ErrorCode::SessionObjectUnknown, .. }));
    let newer = ObjectReference { version: after.version + 1, sealed: Vec::new(), ..after };
    assert!(refused(sign(&other, &login, &newer)), "a version that it has never seen must be shown");
}
