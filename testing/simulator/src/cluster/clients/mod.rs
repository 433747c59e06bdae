//! Clients of a cluster: they ask any member, ask another one when the first does not answer, and repeat a call whose
//! outcome is unknown under its number, made anew as an HSM would make it.
//!
//! Everything goes through `Node::propose` of the member that is asked; what is read, is read from its state, when that is
//! as new as everything that this client was told.

pub mod admin;
pub mod guesser;
pub mod register;
pub mod worker;

use std::sync::Arc;
use std::time::Duration;

use hsm_core::command::{NewObject, NewSession, Origin, Verifier};
use hsm_core::ids::AttemptId;
use hsm_core::{Action, Actor, Index, ObjectHandle, ObjectUid, Refusal, Response, SessionId, Stamp};
use hsm_protocol::error::Party;
use hsm_protocol::{ErrorCode, Role, UserName};
use hsm_replication::runtime::NodeContext;
use hsm_replication::{Node, Outcome};

use crate::cluster::Cluster;
use crate::cluster::history::Call;
use crate::cluster::machine::Machine;
use crate::workload;

/// How long a session is asked for, in milliseconds.
const SESSION_LIFE: u64 = 3_600_000;

/// How often a client asks for one thing before it gives up.
const TRIES: usize = 8;

/// What was decided.
pub type Decision = (Index, Result<Response, Refusal>);

/// Whom a client asks.
pub struct Server {
    /// The machine.
    pub machine: Arc<Machine>,
    /// Its node. Let go of it before waiting: what a crash drops must be gone.
    pub node: Arc<Node>,
    /// The boot that the node belongs to.
    pub boot: NodeContext,
}

impl Cluster {
    /// Makes a call at a member and records it. A crash or a long silence makes its outcome unknown.
    pub async fn ask(self: &Arc<Self>, client: usize, server: Server, origin: Origin, action: Action) -> Outcome {
        let Server { machine, node, boot } = server;
        let place = machine.place;
        let what = describe(&action);
        let call = Call { client, place, origin, action: action.clone(), asked: self.trace.now(), told: None };
        let number = self.ledger.ask(call);
        self.trace.tell(|| format!("call {number}: client {client} asks {place}: {what}"));
        let (tell, told) = tokio::sync::oneshot::channel();
        let cluster = self.clone();
        let done = move |outcome: Outcome| {
            cluster.hear(number, &outcome);
            // The client may have given up.
            tell.send(outcome).ok();
        };
        boot.run(async { node.propose(origin, action, Box::new(done)) }).await;
        drop((node, boot, machine));
        let patience = self.plan.propose_deadline + Duration::from_secs(1);
        match tokio::time::timeout(patience, told).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        }
    }

    /// An answer has left a member: from here on it is a promise.
    fn hear(&self, number: usize, outcome: &Outcome) {
        let now = self.trace.now();
        self.trace.tell(|| format!("call {number}: {}", describe_outcome(outcome)));
        let alone_since = self.alone_since.lock().clone();
        self.ledger.with(|seen| {
            let call = &seen.calls[number];
            let alone = alone_since[call.place].is_some_and(|since| since <= call.asked);
            if alone && matches!(outcome, Outcome::Done { .. }) {
                seen.alone.push(number);
            }
        });
        self.ledger.tell(number, now, outcome.clone());
    }
}

/// Somebody with a name and a password.
pub struct Client {
    /// The world.
    pub cluster: Arc<Cluster>,
    /// Its number.
    pub number: usize,
    /// Whose name it uses.
    pub name: UserName,
    /// In which role.
    pub role: Role,
    /// In whose name it acts.
    pub actor: Actor,
    session: Option<SessionId>,
    sequence: u64,
    /// First number whose outcome it does not know.
    lowest_unanswered: u64,
    /// Highest index that it was told.
    pub least: Index,
}

impl Client {
    /// One who is not logged in.
    ///
    /// # Panics
    /// When it is no name.
    pub fn new(cluster: &Arc<Cluster>, number: usize, name: &str, role: Role) -> Self {
        let name = UserName::new(name).expect("a name");
        Self {
            cluster: cluster.clone(),
            number,
            name,
            role,
            actor: Actor::Nobody,
            session: None,
            sequence: 0,
            lowest_unanswered: 1,
            least: Index(0),
        }
    }

    /// Whether it has a session.
    pub fn is_logged_in(&self) -> bool {
        self.session.is_some()
    }

    /// Session and number of the next call.
    pub fn next_number(&self) -> Option<(SessionId, u64)> {
        Some((self.session?, self.sequence + 1))
    }

    /// Its session has ended.
    pub fn forget_session(&mut self) {
        (self.session, self.actor) = (None, Actor::Nobody);
    }

    /// A member that answers and knows what this client knows; `None` when none was found in a while.
    pub async fn find(&mut self) -> Option<Server> {
        for _ in 0..40 {
            let machine = self.draw();
            let late = self.cluster.random.below(2_000);
            tokio::time::sleep(Duration::from_micros(100 + late)).await;
            for _ in 0..5 {
                if let Some((node, boot)) = machine.reach()
                    && node.status().ready.is_ok()
                    && machine.kind == hsm_core::MemberKind::Hsm
                    && node.applied() >= self.least
                {
                    return Some(Server { machine, node, boot });
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        None
    }

    /// A member, and one that runs if there are any: in a cluster that is being made most are off.
    fn draw(&self) -> Arc<Machine> {
        let drawn = std::iter::repeat_with(|| self.cluster.any_member()).take(8);
        let mut drawn = drawn.skip_while(|machine| !machine.is_on());
        drawn.next().unwrap_or_else(|| self.cluster.any_member())
    }

    /// Has something done in its session; `make` makes the command from the state of the member that is asked, each time
    /// anew. `None` when the outcome stayed unknown.
    pub async fn change(&mut self, mut make: impl FnMut(&Node, &Actor) -> Result<Action, Refusal>) -> Option<Decision> {
        self.sequence += 1;
        let (session, sequence) = (self.session, self.sequence);
        let lowest_unanswered = self.lowest_unanswered.min(sequence);
        let origin = Origin { session, sequence, lowest_unanswered };
        for _ in 0..TRIES {
            let server = self.find().await?;
            let first = server.node.read().first_answer(&origin);
            if let Some(first) = first.filter(|first| !is_for_now(first)) {
                let applied = server.node.applied();
                return Some(self.learn(applied, first));
            }
            let action = match make(&server.node, &self.actor) {
                Ok(action) => action,
                Err(refusal) => return Some((self.least, Err(refusal))),
            };
            match self.cluster.ask(self.number, server, origin, action).await {
                Outcome::Done { result, .. } if is_for_now(&result) => {}
                Outcome::Done { index, result } => return Some(self.learn(index, result)),
                Outcome::Unavailable(_) | Outcome::Unknown => {}
            }
            let wait = 20 + self.cluster.random.below(400);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        None
    }

    /// Has something done in nobody's name, under no number: an outcome that is unknown stays so.
    pub async fn request(&mut self, action: Action) -> Option<Decision> {
        let server = self.find().await?;
        match self.cluster.ask(self.number, server, workload::no_session(), action).await {
            Outcome::Done { index, result } => {
                self.least = self.least.max(index);
                Some((index, result))
            }
            Outcome::Unavailable(_) | Outcome::Unknown => None,
        }
    }

    fn learn(&mut self, index: Index, result: Result<Response, Refusal>) -> Decision {
        if self.lowest_unanswered == self.sequence {
            self.lowest_unanswered += 1;
        }
        self.least = self.least.max(index);
        if result.as_ref().is_err_and(|refusal| refusal.code == ErrorCode::NotLoggedIn) {
            self.forget_session();
        }
        (index, result)
    }

    /// Makes a key in its session; `None` when it was refused or its outcome stayed unknown.
    pub async fn create_key(&mut self, label: &str) -> Option<ObjectHandle> {
        let random = self.cluster.random.clone();
        let decision = self.change(|node, actor| {
            let uid = ObjectUid(random.octets());
            let object = workload::draft_key(node, actor, label, uid)?;
            let payload = Some(workload::payload_of(uid, 1));
            Ok(Action::CreateObjects { objects: vec![NewObject { object, payload }] })
        });
        match decision.await? {
            (_, Ok(Response::Created(handles))) => handles.first().copied(),
            _ => None,
        }
    }

    /// Logs in with the right password; true when it has a session afterwards.
    pub async fn log_in(&mut self) -> bool {
        for _ in 0..TRIES {
            match self.guess(true).await {
                Some(Ok(())) => return true,
                Some(Err(code)) if code.party() != Party::Unavailable => return false,
                Some(Err(_)) | None => {}
            }
            let wait = 50 + self.cluster.random.below(500);
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        false
    }

    /// Reserves an attempt and finishes it: with a new session when the password is right. `None` = it does not know.
    pub async fn guess(&mut self, right: bool) -> Option<Result<(), ErrorCode>> {
        let attempt = AttemptId(self.cluster.random.octets());
        let (name, role) = (self.name.clone(), self.role);
        let reserve = Action::ReserveAttempt { attempt, name, role };
        let (_, reserved) = self.request(reserve).await?;
        let (verifier, user) = match reserved {
            Ok(Response::Attempt { verifier, user, .. }) => (verifier, user),
            Ok(_) => return None,
            Err(refusal) => return Some(Err(refusal.code)),
        };
        if !right || verifier != Some(verifier_of(&self.name)) {
            // Whether this is recorded or not, the attempt stays counted.
            drop(self.request(Action::FailLogin { attempt }).await);
            return Some(Err(ErrorCode::LoginRefused));
        }
        let session = SessionId(self.cluster.random.octets());
        let server = self.find().await?;
        let expires_at = Stamp(server.node.now().0 + SESSION_LIFE);
        drop(server);
        let new = NewSession { session, public_key: [3; 32], expires_at };
        let (_, finished) = self.request(Action::FinishLogin { attempt, session: Some(new) }).await?;
        if let Err(refusal) = finished {
            return Some(Err(refusal.code));
        }
        (self.session, self.sequence, self.lowest_unanswered) = (Some(session), 0, 1);
        self.actor = Actor::Session { session, user, role };
        Some(Ok(()))
    }

    /// Waits a while, at random.
    pub async fn think(&self, at_most: u64) {
        tokio::time::sleep(Duration::from_millis(self.cluster.random.below(at_most))).await;
    }
}

/// A refusal that says "not now": the same number may be tried again.
fn is_for_now(result: &Result<Response, Refusal>) -> bool {
    result.as_ref().is_err_and(|refusal| refusal.code.party() == Party::Unavailable)
}

/// The stretched password of a user.
pub fn verifier_of(name: &UserName) -> Verifier {
    Verifier([name.as_str().as_bytes(), &[0x5a; 60]].concat())
}

/// One line on an action.
pub fn describe(action: &Action) -> String {
    match action {
        Action::CreateUser { name, .. } => format!("create user {name}"),
        Action::SetUserEnabled { name, enabled, .. } => format!("set user {name} enabled {enabled}"),
        Action::ChangePassword { name, .. } => format!("change password of {name}"),
        Action::ReserveAttempt { name, attempt, .. } => format!("reserve attempt {} of {name}", short(&attempt.0)),
        Action::FinishLogin { attempt, .. } => format!("finish login {}", short(&attempt.0)),
        Action::FailLogin { attempt } => format!("fail login {}", short(&attempt.0)),
        Action::Logout { session } => format!("log out {}", short(&session.0)),
        Action::LogoutEverywhere { name, .. } => format!("log out {name} everywhere"),
        Action::CreateObjects { objects } => {
            let object = objects.first().map(|new| &new.object);
            let label = object.and_then(|object| object.octets(hsm_protocol::AttributeKind::Label));
            format!("create key {:?}", String::from_utf8_lossy(label.unwrap_or_default()))
        }
        Action::ReplaceObject { handle, object, .. } => format!("replace {} by version {}", handle.0, object.version()),
        Action::DestroyObject { handle } => format!("destroy {}", handle.0),
        Action::AdmitMember { node, member } => format!("admit {:x} ({})", node.0, member.peer_address),
        Action::RemoveMember { hsm } => format!("remove {}", short(&hsm.0)),
        Action::SetIsolationWindow { seconds } => format!("set the isolation window to {seconds} s"),
        Action::InstallCertificate { .. } => "install certificate".to_owned(),
        Action::Activate { .. } => "activate".to_owned(),
        Action::ExpireSessions => "expire sessions".to_owned(),
        _ => "something else".to_owned(),
    }
}

fn short(id: &[u8; 16]) -> String {
    format!("{:08x}", u32::from_be_bytes([id[0], id[1], id[2], id[3]]))
}

fn describe_outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { index, result: Ok(Response::Created(handles)) } => {
            format!("done at {}: created {:?}", index.0, handles.iter().map(|handle| handle.0).collect::<Vec<_>>())
        }
        Outcome::Done { index, result: Ok(_) } => format!("done at {}", index.0),
        Outcome::Done { index, result: Err(refusal) } => format!("refused at {}: {:?}", index.0, refusal.code),
        Outcome::Unavailable(code) => format!("unavailable: {code:?}"),
        Outcome::Unknown => "unknown".to_owned(),
    }
}
