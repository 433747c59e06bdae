//! Clients that use one node at the same time, and the record of what they were told.
//!
//! An admin makes users; each user logs in and makes, changes and destroys keys, sometimes asks the same again under the
//! same number, sometimes logs out and in again. Everything is drawn from the seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hsm_core::command::{NewObject, NewSession, Origin, SealedPayload, Verifier};
use hsm_core::ids::AttemptId;
use hsm_core::{
    Action, Actor, Epoch, Facts, Needs, Object, ObjectHandle, ObjectUid, Refusal, Request, Response, SessionId, Stamp,
};
use hsm_protocol::{AttributeKind, Lifecycle, Mechanism, MechanismKind, Role, Template, UserName};
use hsm_replication::{AuditEntry, Node, Outcome};
use parking_lot::Mutex;

use crate::disk::SimDisk;
use crate::random::Random;
use crate::world;

/// A certificate as far as the state machine looks at one.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";

/// How long a session is asked for, in milliseconds.
const SESSION_LIFE: u64 = 3_600_000;

/// One call of one client.
#[derive(Clone)]
pub struct Call {
    /// Operations that the disk had done when it was made.
    pub asked_at: usize,
    /// In whose name.
    pub origin: Origin,
    /// What.
    pub action: Action,
    /// Operations that the disk had done when the answer came; `None` when none came.
    pub told_at: Option<usize>,
    /// The answer.
    pub outcome: Option<Outcome>,
}

/// The state after a log entry, as the node that ran had it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Chain of hashes through the commands.
    pub hash: [u8; 48],
    /// Hash of the state.
    pub state: [u8; 48],
}

/// What a run left behind.
#[derive(Default)]
pub struct History {
    /// All calls, in the order in which they were made.
    pub calls: Mutex<Vec<Call>>,
    /// By the index of the last command of each entry.
    pub moments: Mutex<BTreeMap<u64, Moment>>,
    /// The audit log at the end.
    pub audit: Mutex<Vec<AuditEntry>>,
}

/// What clients need.
#[derive(Clone)]
pub struct Bench {
    /// The node.
    pub node: Arc<Node>,
    /// Its disk, for positions.
    pub disk: SimDisk,
    /// Chance.
    pub random: Arc<Random>,
    /// The record.
    pub history: Arc<History>,
}

impl Bench {
    /// A bench around a node.
    pub fn new(node: Arc<Node>, disk: SimDisk, random: Arc<Random>) -> Self {
        Self { node, disk, random, history: Arc::default() }
    }

    /// Makes a call and records it.
    pub async fn call(&self, origin: Origin, action: Action) -> Outcome {
        let number = {
            let mut calls = self.history.calls.lock();
            let asked_at = self.disk.position();
            calls.push(Call { asked_at, origin, action: action.clone(), told_at: None, outcome: None });
            calls.len() - 1
        };
        let outcome = self.ask(origin, action).await;
        let mut calls = self.history.calls.lock();
        let call = &mut calls[number];
        (call.told_at, call.outcome) = (Some(self.disk.position()), Some(outcome.clone()));
        outcome
    }

    /// Makes a call without a record.
    pub async fn ask(&self, origin: Origin, action: Action) -> Outcome {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (node, history) = (Arc::downgrade(&self.node), self.history.clone());
        let done = move |outcome| {
            note_moment(&node, &history);
            assert!(sender.send(outcome).is_ok(), "the client waits");
        };
        self.node.propose(origin, action, Box::new(done));
        receiver.await.expect("every call is answered exactly once")
    }

    /// Initialises and activates the cluster, and logs its admin in.
    ///
    /// # Panics
    /// When a step is refused.
    pub async fn begin(&self) -> Client {
        let (certificate, trust_anchor) = (CERTIFICATE.to_owned(), CERTIFICATE.to_owned());
        done(self.call(no_session(), Action::InstallCertificate { certificate, trust_anchor }).await);
        done(self.call(no_session(), Action::Activate { verifier: verifier(b"admin") }).await);
        let mut admin = Client::new(self.clone(), "admin", Role::Admin);
        admin.log_in().await;
        admin
    }
}

/// The node has applied an entry: this is called for each of its commands, and says the same for all of them.
fn note_moment(node: &Weak<Node>, history: &History) {
    let Some(node) = node.upgrade() else { return };
    let status = node.status();
    let moment = Moment { hash: status.hash, state: node.read().state_hash() };
    let before = history.moments.lock().insert(status.applied.0, moment);
    assert!(before.is_none_or(|before| before == moment), "one index has one state");
}

/// A user of the node.
pub struct Client {
    bench: Bench,
    name: UserName,
    role: Role,
    session: Option<SessionId>,
    actor: Actor,
    sequence: u64,
    keys: Vec<ObjectHandle>,
}

impl Client {
    /// One who is not logged in.
    ///
    /// # Panics
    /// When it is no name.
    pub fn new(bench: Bench, name: &str, role: Role) -> Self {
        let name = UserName::new(name).expect("a name");
        Self { bench, name, role, session: None, actor: Actor::Nobody, sequence: 0, keys: Vec::new() }
    }

    /// In whose name it acts.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// Goes on with another node (the same, restarted), in the same session.
    pub fn move_to(&mut self, bench: Bench) {
        self.bench = bench;
    }

    /// Reserves an attempt and finishes it with a new session.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn log_in(&mut self) {
        let attempt = AttemptId(self.bench.random.octets());
        let reserve = Action::ReserveAttempt { attempt, name: self.name.clone(), role: self.role };
        let Response::Attempt { user, .. } = done(self.bench.call(no_session(), reserve).await) else {
            panic!("an attempt was reserved");
        };
        let session = SessionId(self.bench.random.octets());
        let expires_at = Stamp(self.bench.node.now().0 + SESSION_LIFE);
        let new = NewSession { session, public_key: [3; 32], expires_at };
        done(self.bench.call(no_session(), Action::FinishLogin { attempt, session: Some(new) }).await);
        (self.session, self.sequence) = (Some(session), 0);
        self.actor = Actor::Session { session, user, role: self.role };
    }

    /// Calls under the next number of the session.
    pub async fn change(&mut self, action: Action) -> Outcome {
        self.sequence += 1;
        let origin = Origin { session: self.session, sequence: self.sequence, lowest_unanswered: self.sequence };
        let outcome = self.bench.call(origin, action.clone()).await;
        if self.bench.random.once_in(5) {
            let again = self.bench.call(origin, action).await;
            assert!(same_result(&outcome, &again), "a repeated call has the result of the first");
        }
        outcome
    }

    /// Makes a user.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn create_user(&mut self, name: &str) {
        let name = UserName::new(name).expect("a name");
        let verifier = verifier(name.as_str().as_bytes());
        done(self.change(Action::CreateUser { name, role: Role::CryptoUser, verifier }).await);
    }

    /// Makes a key.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn create_key(&mut self) -> ObjectHandle {
        let label = format!("{} {}", self.name, self.sequence);
        let uid = ObjectUid(self.bench.random.octets());
        let object = new_key(&self.bench.node, &self.actor, &label, uid);
        let payload = Some(payload_of(uid, 1));
        let objects = vec![NewObject { object, payload }];
        let Response::Created(handles) = done(self.change(Action::CreateObjects { objects }).await) else {
            panic!("a key was made");
        };
        self.keys.push(handles[0]);
        handles[0]
    }

    /// Gives one of the keys another label.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn relabel_key(&mut self) {
        let Some(handle) = self.pick() else { return };
        let label = Template::new().with_octets(AttributeKind::Label, format!("new {}", self.sequence));
        let object = self.bench.node.read().object(&self.actor, handle).expect("one's own key");
        let needs =
            self.bench.node.read().needs(&self.actor, Request::SetAttributes { object: &object, template: &label });
        let Ok(Needs::Replace { object, .. }) = needs else { panic!("a label may be changed") };
        let payload = Some(payload_of(object.uid(), object.version()));
        done(self.change(Action::ReplaceObject { handle, object, payload }).await);
    }

    /// Destroys one of the keys.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn destroy_key(&mut self) {
        let Some(handle) = self.pick() else { return };
        self.keys.retain(|&key| key != handle);
        done(self.change(Action::DestroyObject { handle }).await);
    }

    /// Guesses a wrong password, gives up, and logs in again.
    pub async fn log_out_and_in(&mut self) {
        let attempt = AttemptId(self.bench.random.octets());
        let reserve = Action::ReserveAttempt { attempt, name: self.name.clone(), role: self.role };
        done(self.bench.call(no_session(), reserve).await);
        self.bench.call(no_session(), Action::FailLogin { attempt }).await;
        if let Some(session) = self.session.take() {
            done(self.bench.call(no_session(), Action::Logout { session }).await);
        }
        self.log_in().await;
    }

    /// Does so many things, each drawn by lot, with pauses between.
    pub async fn work(mut self, steps: usize) -> Self {
        for _ in 0..steps {
            match self.bench.random.below(10) {
                0 => self.log_out_and_in().await,
                1..=2 => self.relabel_key().await,
                3..=4 => self.destroy_key().await,
                _ => drop(self.create_key().await),
            }
            if self.bench.random.once_in(3) {
                tokio::time::sleep(Duration::from_millis(self.bench.random.below(5))).await;
            }
        }
        self
    }

    fn pick(&self) -> Option<ObjectHandle> {
        let count = self.keys.len();
        (count > 0).then(|| self.keys[self.bench.random.place_below(count)])
    }
}

/// Runs users beside each other, each so many steps, and closes the history.
///
/// # Panics
/// When something that must be possible is refused.
pub async fn run(bench: &Bench, users: usize, steps: usize) {
    let mut admin = bench.begin().await;
    let mut clients = Vec::new();
    for number in 0..users {
        let name = format!("user{number}");
        admin.create_user(&name).await;
        let mut client = Client::new(bench.clone(), &name, Role::CryptoUser);
        clients.push(world::spawn(async move {
            client.log_in().await;
            client.work(steps).await
        }));
    }
    for client in clients {
        client.await.expect("the client's expectations hold");
    }
    assert_eq!(bench.node.read().lifecycle(), Some(Lifecycle::Active));
    *bench.history.audit.lock() = audit_of(&bench.node);
}

/// The whole audit log.
///
/// # Panics
/// When the store refuses it.
pub fn audit_of(node: &Node) -> Vec<AuditEntry> {
    let mut entries: Vec<AuditEntry> = Vec::new();
    loop {
        let from = entries.len() as u64 + 1;
        let page = node.audit(from, hsm_replication::limits::AUDIT_PAGE).expect("a whole chain");
        if page.is_empty() {
            return entries;
        }
        entries.extend(page);
    }
}

/// A key as the policy lets this actor make it.
///
/// # Panics
/// When it is refused.
pub fn new_key(node: &Node, actor: &Actor, label: &str, uid: ObjectUid) -> Object {
    draft_key(node, actor, label, uid).unwrap_or_else(|refusal| panic!("a key may be made: {refusal}"))
}

/// [`new_key`] where it may be refused.
///
/// # Errors
/// Why the actor may not make it.
///
/// # Panics
/// When something else than a secret key is asked for.
pub fn draft_key(node: &Node, actor: &Actor, label: &str, uid: ObjectUid) -> Result<Object, Refusal> {
    let template = Template::new()
        .with_flag(AttributeKind::Token, true)
        .with_number(AttributeKind::ValueLen, 32)
        .with_octets(AttributeKind::Label, label);
    let mechanism = Mechanism::plain(MechanismKind::AES_KEY_GEN);
    let needs = node.read().needs(actor, Request::GenerateKey { mechanism: &mechanism, template: &template });
    let Needs::SecretKey { draft, .. } = needs? else { panic!("a secret key is needed") };
    let facts = Facts::new()
        .with_number(AttributeKind::ValueLen, 32)
        .with_octets(AttributeKind::CheckValue, [uid.0[0], uid.0[1], uid.0[2]]);
    draft.complete(facts, uid)
}

/// What stands for the sealed payload of a version of a key: the state machine never opens it.
pub fn payload_of(uid: ObjectUid, version: u32) -> SealedPayload {
    let mut ciphertext = uid.0.to_vec();
    ciphertext.extend_from_slice(&version.to_be_bytes());
    ciphertext.resize(96, 0xa5);
    SealedPayload { epoch: Epoch(1), wrapped_data_key: uid.0.repeat(4), ciphertext }
}

/// Whether two answers to the same number say the same.
pub fn same_result(first: &Outcome, second: &Outcome) -> bool {
    match (first, second) {
        (Outcome::Done { result: first, .. }, Outcome::Done { result: second, .. }) => first == second,
        _ => false,
    }
}

/// Nobody's call.
pub fn no_session() -> Origin {
    Origin { session: None, sequence: 0, lowest_unanswered: 0 }
}

fn verifier(of: &[u8]) -> Verifier {
    Verifier([of, &[0x5a; 60]].concat())
}

/// The response of a call that must have been done.
///
/// # Panics
/// When it was not.
pub fn done(outcome: Outcome) -> Response {
    match outcome {
        Outcome::Done { result: Ok(response), .. } => response,
        Outcome::Done { result: Err(refusal), .. } => panic!("refused: {refusal}"),
        Outcome::Unavailable(code) => panic!("unavailable: {code}"),
        Outcome::Unknown => panic!("the outcome is unknown"),
    }
}
