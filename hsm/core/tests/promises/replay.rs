//! The same log gives the same state, whatever happens between its commands.

use hsm_core::command::NewSession;
use hsm_core::ids::AttemptId;
use hsm_core::{Action, Command, Effect, Hsm, Index, ObjectHandle, SessionId, Stamp};
use hsm_protocol::{AttributeKind as A, Role, Template};
use proptest::prelude::*;

use crate::world::{HOUR, NO_SESSION, World, by, create_user, numbered, user, verifier};

/// A step of somebody, by small numbers so that steps meet.
#[derive(Clone, Debug)]
enum Step {
    Reserve(u8),
    Finish(u8, bool),
    Fail(u8),
    Key(u8),
    NumberedKey(u8, u8),
    Relabel(u8, u8),
    Destroy(u8, u8),
    NewUser(u8, u8),
    DeleteUser(u8),
    Password(u8, u8),
    Enable(u8, u8, bool),
    LogoutEverywhere(u8),
    Logout(u8),
    Renew(u8),
    Expire,
    Wait(u32),
}

fn step() -> impl Strategy<Value = Step> {
    use Step as S;
    prop_oneof![
        4 => (0..4_u8).prop_map(S::Reserve),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(a, b)| S::Finish(a, b)),
        2 => any::<u8>().prop_map(S::Fail),
        4 => any::<u8>().prop_map(S::Key),
        2 => (any::<u8>(), 1..4_u8).prop_map(|(a, b)| S::NumberedKey(a, b)),
        2 => (any::<u8>(), 0..10_u8).prop_map(|(a, b)| S::Relabel(a, b)),
        2 => (any::<u8>(), 0..10_u8).prop_map(|(a, b)| S::Destroy(a, b)),
        1 => (any::<u8>(), 0..4_u8).prop_map(|(a, b)| S::NewUser(a, b)),
        1 => (0..4_u8).prop_map(S::DeleteUser),
        1 => (any::<u8>(), 0..4_u8).prop_map(|(a, b)| S::Password(a, b)),
        1 => (any::<u8>(), 0..4_u8, any::<bool>()).prop_map(|(a, b, c)| S::Enable(a, b, c)),
        1 => (0..4_u8).prop_map(S::LogoutEverywhere),
        1 => any::<u8>().prop_map(S::Logout),
        1 => any::<u8>().prop_map(S::Renew),
        1 => Just(S::Expire),
        2 => (0..4_000_000_u32).prop_map(S::Wait),
    ]
}

const NAMES: [(&str, Role); 4] =
    [("alice", Role::CryptoUser), ("bob", Role::CryptoUser), ("admin", Role::Admin), ("carol", Role::CryptoUser)];

/// Drives one instance and writes down the log.
struct Driver {
    world: World,
    log: Vec<Command>,
    answers: Vec<Vec<u8>>,
    sessions: Vec<SessionId>,
    attempts: Vec<AttemptId>,
}

impl Driver {
    fn do_(&mut self, origin: hsm_core::command::Origin, action: Action) {
        let stamp = self.world.now;
        self.log.push(Command { stamp, origin, action: action.clone() });
        let answer = self.world.act(origin, action);
        self.answers.push(postcard::to_stdvec(&answer).unwrap());
    }

    fn session(&self, number: u8) -> SessionId {
        self.sessions[usize::from(number) % self.sessions.len()]
    }

    fn key(&mut self, session: SessionId, origin: hsm_core::command::Origin) {
        let mechanism = hsm_protocol::Mechanism::plain(hsm_protocol::MechanismKind::AES_KEY_GEN);
        let template = Template::new().with_number(A::ValueLen, 16).with_flag(A::Token, true);
        let template = template.with_flag(A::Private, self.world.index.is_multiple_of(2));
        let Ok(view) = self.world.hsm.session(session, self.world.now) else { return };
        let request = hsm_core::Request::GenerateKey { mechanism: &mechanism, template: &template };
        let Ok(hsm_core::Needs::SecretKey { draft, bytes }) = self.world.hsm.needs(&view.actor, request) else {
            return;
        };
        let uid = hsm_core::ObjectUid(self.world.bytes());
        let object = draft.complete(crate::world::secret_facts(bytes), uid).unwrap();
        self.do_(origin, crate::world::create_objects(vec![object]));
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Reserve(who) => {
                let (name, role) = NAMES[usize::from(who)];
                let attempt = AttemptId(self.world.bytes());
                self.attempts.push(attempt);
                self.do_(NO_SESSION, Action::ReserveAttempt { attempt, name: user(name), role });
            }
            Step::Finish(which, opens) => {
                let Some(&attempt) = self.attempts.get(usize::from(which) % self.attempts.len().max(1)) else { return };
                let session = SessionId(self.world.bytes());
                let expires_at = Stamp(self.world.now.0 + HOUR);
                let new = opens.then_some(NewSession { session, public_key: [1; 32], expires_at });
                self.sessions.push(session);
                self.do_(NO_SESSION, Action::FinishLogin { attempt, session: new });
            }
            Step::Fail(which) => {
                let Some(&attempt) = self.attempts.get(usize::from(which) % self.attempts.len().max(1)) else { return };
                self.do_(NO_SESSION, Action::FailLogin { attempt });
            }
            Step::Key(who) => self.key(self.session(who), by(self.session(who))),
            Step::NumberedKey(who, sequence) => {
                let session = self.session(who);
                self.key(session, numbered(session, sequence.into(), 1));
            }
            Step::Relabel(who, which) => self.relabel(self.session(who), ObjectHandle(which.into())),
            Step::Destroy(who, which) => {
                self.do_(by(self.session(who)), Action::DestroyObject { handle: ObjectHandle(which.into()) });
            }
            Step::Wait(milliseconds) => self.world.now.0 += u64::from(milliseconds),
            ref of_users => self.take_of_users(of_users),
        }
    }

    fn relabel(&mut self, session: SessionId, handle: ObjectHandle) {
        let Ok(view) = self.world.hsm.session(session, self.world.now) else { return };
        let Ok(object) = self.world.hsm.object(&view.actor, handle) else { return };
        let template = Template::new().with_octets(A::Label, self.world.index.to_be_bytes());
        let request = hsm_core::Request::SetAttributes { object: &object, template: &template };
        let Ok(hsm_core::Needs::Replace { object, .. }) = self.world.hsm.needs(&view.actor, request) else { return };
        let payload = Some(crate::world::sealed());
        self.do_(by(session), Action::ReplaceObject { handle, object, payload });
    }

    fn take_of_users(&mut self, step: &Step) {
        let (origin, action) = match *step {
            Step::NewUser(by_whom, who) => {
                let (name, role) = NAMES[usize::from(who)];
                (by(self.session(by_whom)), create_user(name, role))
            }
            Step::DeleteUser(who) => {
                let (name, role) = NAMES[usize::from(who)];
                (by(self.sessions[0]), Action::DeleteUser { name: user(name), role })
            }
            Step::Password(by_whom, who) => {
                let (name, role) = NAMES[usize::from(who)];
                let action = Action::ChangePassword { name: user(name), role, verifier: verifier("new") };
                (by(self.session(by_whom)), action)
            }
            Step::Enable(by_whom, who, enabled) => {
                let (name, role) = NAMES[usize::from(who)];
                (by(self.session(by_whom)), Action::SetUserEnabled { name: user(name), role, enabled })
            }
            Step::LogoutEverywhere(who) => {
                let (name, role) = NAMES[usize::from(who)];
                (by(self.sessions[0]), Action::LogoutEverywhere { name: user(name), role })
            }
            Step::Logout(which) => {
                let session = self.session(which);
                (by(session), Action::Logout { session })
            }
            Step::Renew(which) => {
                let (session, expires_at) = (self.session(which), Stamp(self.world.now.0 + HOUR));
                (NO_SESSION, Action::RenewSession { session, expires_at })
            }
            _ => (NO_SESSION, Action::ExpireSessions),
        };
        self.do_(origin, action);
    }
}

fn failures(world: &World) -> Vec<(String, bool)> {
    world.hsm.users().iter().map(|user| (user.name.to_string(), user.locked)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_same_log_gives_the_same_state_even_across_a_restart(
        steps in proptest::collection::vec(step(), 1..120),
        restart in 0..120_usize,
    ) {
        let (mut world, admin, alice, bob) = World::with_users(false);
        let mut replica = world.reloaded();
        prop_assert_eq!(replica.state_hash(), world.hsm.state_hash());
        let mut index = world.index;
        world.audit.clear();
        let sessions = vec![admin, alice, bob];
        let mut driver = Driver { world, log: Vec::new(), answers: Vec::new(), sessions, attempts: Vec::new() };
        for (position, step) in steps.iter().enumerate() {
            if position == restart {
                driver.world.hsm = driver.world.reloaded();
            }
            let before = failures(&driver.world);
            driver.take(step);
            let unlocked = failures(&driver.world).iter().any(|now| before.contains(&(now.0.clone(), true)) && !now.1);
            prop_assert!(!unlocked || matches!(step, Step::Finish(..) | Step::Password(..) | Step::DeleteUser(_)));
        }
        let (mut audit, mut answers) = (Vec::new(), Vec::new());
        for command in &driver.log {
            index += 1;
            let written = postcard::to_stdvec(command).unwrap();
            let command: Command = postcard::from_bytes(&written).unwrap();
            let applied = replica.apply(Index(index), &command);
            replica.absorb(&applied.changes);
            // A second time does no harm.
            replica.absorb(&applied.changes);
            for effect in applied.effects {
                match effect {
                    Effect::Audit(record) => audit.push(record),
                    Effect::Respond(answer) => answers.push(postcard::to_stdvec(&answer).unwrap()),
                    _ => {}
                }
            }
        }
        prop_assert_eq!(replica.state_hash(), driver.world.hsm.state_hash());
        prop_assert_eq!(driver.world.reloaded().state_hash(), replica.state_hash());
        prop_assert_eq!(audit, driver.world.audit);
        prop_assert_eq!(answers, driver.answers);
    }
}

#[test]
fn a_row_that_was_altered_is_named_and_not_loaded() {
    let (mut world, _, alice, _) = World::with_users(false);
    world.aes(alice, &Template::new()).unwrap();
    for (row, value) in &world.rows {
        if !row.in_memory() {
            continue;
        }
        let cut = [(row.clone(), value[..value.len() - 1].to_vec())];
        assert!(Hsm::load(cut.into_iter()).is_err(), "{row:?}");
        let longer = [(row.clone(), [value.as_slice(), &[0]].concat())];
        assert!(Hsm::load(longer.into_iter()).is_err(), "{row:?}");
    }
}

#[test]
fn rows_that_do_not_belong_together_are_not_loaded() {
    let (mut world, _, alice, _) = World::with_users(false);
    world.aes(alice, &Template::new()).unwrap();
    for left_out in world.rows.keys() {
        let rows = world.rows.iter().filter(|(row, _)| *row != left_out && row.in_memory());
        let loaded = Hsm::load(rows.map(|(row, value)| (row.clone(), value.clone())));
        use hsm_core::Row;
        let needed = match left_out {
            Row::Cluster | Row::Counters | Row::Member(_) => true,
            Row::User(user) => user.0 > 2 || user.0 == 1,
            _ => false,
        };
        assert_eq!(loaded.is_err(), needed, "{left_out:?}");
    }
}
