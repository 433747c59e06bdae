//! Log-ins on an isolated HSM: the attempts that were left and no more, and one command that tells the cluster, once.

use hsm_core::audit::Event;
use hsm_core::command::NewSession;
use hsm_core::limits::{ISOLATED_NAMES, ISOLATED_PARTS, ISOLATED_SESSIONS, WRONG_PASSWORDS};
use hsm_core::versions::NEWEST;
use hsm_core::{
    Action, Actor, Hsm, HsmId, Incarnation, IsolatedLogins, MemberKind, MemberRecord, NodeId, SessionId, Stamp,
};
use hsm_protocol::{ErrorCode, Role};

use crate::world::{HOUR, NO_SESSION, World, by, user, verifier};

const HERE: HsmId = HsmId([1; 16]);

/// A cluster of two whose first HSM is cut off: what it has, and the cluster that goes on without it.
struct Cut {
    world: World,
    admin: SessionId,
    alone: Hsm,
}

impl Cut {
    fn off() -> Self {
        let (world, admin, ..) = World::with_users(false);
        Self::off_with(world, admin)
    }

    fn off_with(world: World, admin: SessionId) -> Self {
        let mut alone = world.reloaded();
        alone.open_isolated(HERE, Vec::new());
        Self { world, admin, alone }
    }

    fn attempt(&mut self, name: &str, session: Option<[u8; 16]>) -> Result<(), ErrorCode> {
        let now = self.world.now;
        let attempt = self.alone.reserve_isolated(&user(name), now).map_err(|refusal| refusal.code)?;
        let Some(session) = session else {
            self.alone.fail_isolated(attempt);
            return Err(ErrorCode::LoginRefused);
        };
        let new = NewSession { session: SessionId(session), public_key: [7; 32], expires_at: Stamp(now.0 + HOUR) };
        self.alone.finish_isolated(attempt, Some(&new), now).map(|_| ()).map_err(|refusal| refusal.code)
    }

    fn fail(&mut self, name: &str, times: u32) {
        (0..times).for_each(|_| assert_eq!(self.attempt(name, None), Err(ErrorCode::LoginRefused)));
    }

    fn is_locked(&mut self, name: &str) -> bool {
        self.attempt(name, None) == Err(ErrorCode::UserLocked)
    }

    /// As the process does when it is heard again: the cluster is told, and its state comes here.
    fn merge(&mut self) -> IsolatedLogins {
        let logins = self.alone.next_merge().expect("something to tell");
        self.world.must(NO_SESSION, merge(&logins));
        self.catch_up();
        logins
    }

    fn catch_up(&mut self) {
        self.alone.replace(self.world.reloaded());
    }

    fn failures_left(&mut self, name: &str) -> u32 {
        let mut left = 0;
        while self.world.reserve(name, Role::CryptoUser).is_ok_and(|(attempt, _)| {
            self.world.refused(NO_SESSION, Action::FailLogin { attempt });
            true
        }) {
            left += 1;
        }
        left
    }
}

fn merge(logins: &IsolatedLogins) -> Action {
    Action::MergeIsolated { hsm: HERE, logins: logins.clone() }
}

/// All attempts that there are.
const ALL: u32 = WRONG_PASSWORDS + 1;

fn acts(hsm: &Hsm, session: [u8; 16], now: Stamp) -> bool {
    hsm.session(SessionId(session), now).is_ok_and(|view| hsm.check(&view.actor, now).is_ok())
}

#[test]
fn an_isolated_hsm_gives_out_the_attempts_that_were_left_and_no_more() {
    let (mut world, admin, ..) = World::with_users(false);
    for _ in 0..2 {
        let (attempt, _) = world.reserve("alice", Role::CryptoUser).unwrap();
        world.refused(NO_SESSION, Action::FailLogin { attempt });
    }
    let mut cut = Cut::off_with(world, admin);
    cut.fail("alice", ALL - 2);
    assert!(cut.is_locked("alice"));
    cut.fail("bob", ALL);
    assert!(cut.is_locked("bob"));
    cut.fail("nobody", ALL);
    assert!(cut.is_locked("nobody"), "a name that belongs to nobody locks as well");
}

#[test]
fn a_success_in_isolation_gives_back_its_own_attempt_and_resets_nothing() {
    let mut cut = Cut::off();
    cut.fail("alice", 3);
    assert_eq!(cut.attempt("alice", Some([1; 16])), Ok(()));
    assert_eq!(cut.alone.isolated_counts().attempts, 3);
    cut.fail("alice", ALL - 3);
    assert!(cut.is_locked("alice"));
    assert!(acts(&cut.alone, [1; 16], cut.world.now), "and ends no running session");
}

#[test]
fn an_attempt_whose_password_was_not_looked_at_stays_counted_after_a_restart() {
    let mut cut = Cut::off();
    let attempt = cut.alone.reserve_isolated(&user("alice"), cut.world.now).unwrap();
    let journal = cut.alone.isolated_logins().to_vec();
    assert_eq!(journal[0].users.values().map(|wrong| wrong.attempts).sum::<u32>(), 1, "before its end");
    drop(attempt);
    cut.alone = cut.world.reloaded();
    cut.alone.open_isolated(HERE, journal);
    cut.fail("alice", ALL - 1);
    assert!(cut.is_locked("alice"));
}

#[test]
fn what_only_one_hsm_knows_is_no_part_of_the_state() {
    let mut cut = Cut::off();
    cut.fail("alice", 2);
    cut.attempt("alice", Some([1; 16])).unwrap();
    assert_eq!(cut.alone.state_hash(), cut.world.hsm.state_hash());
    assert!(cut.alone.is_isolated_session(SessionId([1; 16])));
    let now = cut.world.now;
    cut.catch_up();
    assert!(acts(&cut.alone, [1; 16], now), "a snapshot does not take it away");
    assert!(!acts(&cut.world.hsm, [1; 16], now));
    assert!(!acts(&cut.alone, [1; 16], Stamp(now.0 + HOUR)), "it expires as any other");
}

#[test]
fn failures_and_sessions_are_merged_once_however_often_the_cluster_is_told() {
    let mut cut = Cut::off();
    cut.fail("alice", 3);
    cut.fail("nobody", 4);
    cut.attempt("bob", Some([1; 16])).unwrap();
    let audited = cut.world.audit.len();
    let logins = cut.merge();
    cut.world.must(NO_SESSION, merge(&logins));
    let events: Vec<_> = cut.world.audit[audited..].iter().map(|record| (record.event, record.result)).collect();
    let refused = ErrorCode::LoginRefused as u32;
    assert!(
        matches!(
            events.as_slice(),
            [(Event::IsolatedFailures(alice), a), (Event::IsolatedFailures(nobody), b), (Event::IsolatedLogin(at), 0)]
                if alice.attempts == 3 && nobody.attempts == 4 && (*a, *b) == (refused, refused)
                    && at.hsm == HERE && at.at == cut.world.now
        ),
        "{events:?}"
    );
    assert!(acts(&cut.world.hsm, [1; 16], cut.world.now) && acts(&cut.alone, [1; 16], cut.world.now));
    assert!(!cut.alone.is_isolated_session(SessionId([1; 16])));
    assert!(cut.alone.forget_merged() == [logins] && cut.alone.next_merge().is_none());
    assert_eq!(cut.failures_left("alice"), ALL - 3);
    assert_eq!(cut.failures_left("nobody"), ALL - 4);
    assert_eq!(cut.failures_left("bob"), ALL);
    assert_eq!(cut.world.reloaded().state_hash(), cut.world.hsm.state_hash());
}

#[test]
fn too_many_failures_of_both_sides_lock_the_user_and_end_no_session() {
    let mut cut = Cut::off();
    cut.fail("alice", 3);
    cut.attempt("alice", Some([1; 16])).unwrap();
    for _ in 0..3 {
        let (attempt, _) = cut.world.reserve("alice", Role::CryptoUser).unwrap();
        cut.world.refused(NO_SESSION, Action::FailLogin { attempt });
    }
    cut.merge();
    assert!(cut.world.hsm.user(&user("alice"), Role::CryptoUser).unwrap().locked);
    assert!(acts(&cut.world.hsm, [1; 16], cut.world.now));
    assert!(cut.is_locked("alice"));
}

#[test]
fn whoever_was_disabled_deleted_or_got_another_password_has_no_session_after_the_merge_nor_before() {
    let named = |name: &str| (user(name), Role::CryptoUser);
    type Change = fn((hsm_protocol::UserName, Role)) -> Vec<Action>;
    let changes: [Change; 4] = [
        |(name, role)| vec![Action::SetUserEnabled { name, role, enabled: false }],
        |(name, role)| {
            let enable = |enabled| Action::SetUserEnabled { name: name.clone(), role, enabled };
            vec![enable(false), enable(true)]
        },
        |(name, role)| vec![Action::ChangePassword { name, role, verifier: verifier("other") }],
        |(name, role)| {
            let out = Action::LogoutEverywhere { name: name.clone(), role };
            vec![out, Action::DeleteUser { name, role }]
        },
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let mut cut = Cut::off();
        cut.fail("alice", 2);
        cut.attempt("alice", Some([1; 16])).unwrap();
        for action in change(named("alice")) {
            cut.world.must(by(cut.admin), action);
        }
        assert!(acts(&cut.alone, [1; 16], cut.world.now), "it does not know yet");
        cut.catch_up();
        assert!(!acts(&cut.alone, [1; 16], cut.world.now), "change {at}: known, and before the merge");
        cut.merge();
        assert!(!acts(&cut.world.hsm, [1; 16], cut.world.now), "change {at}: merged");
        assert!(cut.world.audit.last().unwrap().result != 0);
        if at == 1 {
            assert_eq!(cut.failures_left("alice"), ALL - 2, "what was counted stays counted");
        }
    }
}

#[test]
fn admins_the_disabled_and_the_locked_do_not_log_in_in_isolation() {
    let (mut world, admin, ..) = World::with_users(false);
    let (name, role) = (user("alice"), Role::CryptoUser);
    world.must(by(admin), Action::SetUserEnabled { name, role, enabled: false });
    for _ in 0..ALL {
        let (attempt, _) = world.reserve("bob", Role::CryptoUser).unwrap();
        world.refused(NO_SESSION, Action::FailLogin { attempt });
    }
    let mut cut = Cut::off_with(world, admin);
    assert_eq!(cut.attempt("alice", Some([1; 16])), Err(ErrorCode::UserDisabled));
    assert!(cut.is_locked("bob"));
    // There is no crypto user of that name: the admin's password is compared with nothing.
    assert_eq!(cut.attempt("admin", Some([2; 16])), Err(ErrorCode::LoginRefused));
    assert_eq!(cut.alone.isolated_counts().sessions, 0);
}

#[test]
fn an_older_version_of_commands_or_a_missing_journal_refuses_as_before() {
    let (world, admin, ..) = World::with_users_of(NEWEST - 1);
    let mut cut = Cut::off_with(world, admin);
    assert_eq!(cut.attempt("alice", Some([1; 16])), Err(ErrorCode::Isolated));
    let (users, nobody, sessions) = Default::default();
    let logins = IsolatedLogins { number: 1, incarnation: Incarnation([9; 16]), users, nobody, sessions };
    assert_eq!(cut.world.refused(NO_SESSION, merge(&logins)), ErrorCode::ClusterTooOld);
    let mut cut = Cut::off();
    cut.alone.close_isolated();
    assert_eq!(cut.attempt("alice", Some([1; 16])), Err(ErrorCode::Isolated));
}

#[test]
fn what_the_cluster_may_have_been_told_does_not_change_any_more() {
    let mut cut = Cut::off();
    cut.attempt("alice", Some([1; 16])).unwrap();
    let told = cut.alone.next_merge().unwrap();
    // Cut off again, with the command on its way.
    assert!(!cut.alone.log_out_isolated(SessionId([1; 16])));
    cut.fail("alice", 2);
    cut.attempt("alice", Some([2; 16])).unwrap();
    assert!(cut.alone.log_out_isolated(SessionId([2; 16])));
    assert!(cut.alone.isolated_logins()[0] == told);
    assert!(cut.alone.next_merge().unwrap() == told, "in the order of numbers");
    cut.merge();
    let rest = cut.merge();
    assert!(rest.number > told.number && rest.users.len() == 1 && rest.sessions.is_empty());
    assert_eq!(cut.failures_left("alice"), ALL - 2);
}

#[test]
fn nothing_is_told_while_an_attempt_is_under_way() {
    let mut cut = Cut::off();
    let attempt = cut.alone.reserve_isolated(&user("alice"), cut.world.now).unwrap();
    assert!(cut.alone.next_merge().is_none());
    cut.alone.fail_isolated(attempt);
    assert!(cut.alone.next_merge().is_some());
}

#[test]
fn a_removed_hsm_tells_nothing_and_a_new_history_takes_its_failures_and_no_session() {
    let (mut world, admin, ..) = World::with_users(false);
    let second = MemberRecord { certificate: vec![2; 8], ..MemberRecord::alone(HsmId([2; 16]), MemberKind::Hsm) };
    world.must(NO_SESSION, Action::AdmitMember { node: NodeId(2), member: second.clone() });
    let mut cut = Cut::off_with(world, admin);
    cut.fail("alice", 2);
    cut.attempt("alice", Some([1; 16])).unwrap();
    let logins = cut.alone.next_merge().unwrap();
    let stranger = Action::MergeIsolated { hsm: HsmId([3; 16]), logins: logins.clone() };
    assert_eq!(cut.world.refused(NO_SESSION, stranger), ErrorCode::MemberUnknown);

    let (node, own) = cut.world.hsm.member(HERE).map(|(node, member)| (node, member.clone())).unwrap();
    let begin = Action::BeginIncarnation { incarnation: Incarnation([8; 16]), node: NodeId(node.0 + 9), member: own };
    cut.world.must(NO_SESSION, begin);
    cut.catch_up();
    assert!(!acts(&cut.alone, [1; 16], cut.world.now), "every session of the history before has ended");
    cut.merge();
    assert!(!acts(&cut.world.hsm, [1; 16], cut.world.now));
    assert_eq!(cut.failures_left("alice"), ALL - 2);
    // Its journal goes on in the new history.
    cut.attempt("bob", Some([3; 16])).unwrap();
    assert!(acts(&cut.alone, [3; 16], cut.world.now));
}

#[test]
fn sessions_names_and_parts_have_their_bounds() {
    let mut cut = Cut::off();
    let session = |number: usize| {
        let mut octets = [9; 16];
        octets[..8].copy_from_slice(&(number as u64).to_be_bytes());
        octets
    };
    (0..ISOLATED_SESSIONS).for_each(|number| cut.attempt("alice", Some(session(number))).unwrap());
    assert_eq!(cut.attempt("alice", Some([1; 16])), Err(ErrorCode::SessionLimit));
    assert!(cut.alone.log_out_isolated(SessionId(session(0))));
    cut.attempt("alice", Some([1; 16])).unwrap();
    for number in 0..=ISOLATED_NAMES {
        cut.world.now.0 += 1;
        cut.fail(&format!("nobody{number}"), 1);
    }
    assert_eq!(cut.alone.isolated_logins()[0].nobody.len(), ISOLATED_NAMES);
    let logins = cut.alone.next_merge().unwrap();
    let command = postcard::to_stdvec(&merge(&logins)).unwrap();
    assert!(command.len() < 192 * 1024, "{} bytes do not leave room in an entry", command.len());
    cut.merge();
    cut.alone.forget_merged();
    for number in 1..=ISOLATED_PARTS {
        assert_eq!(cut.attempt("bob", Some(session(number + ISOLATED_SESSIONS))), Ok(()));
        assert!(cut.alone.next_merge().is_some());
    }
    assert_eq!(cut.attempt("bob", Some([2; 16])), Err(ErrorCode::Isolated), "never heard for longer than a moment");
}

#[test]
fn nobody_acts_in_anothers_name_in_such_a_session() {
    let mut cut = Cut::off();
    cut.attempt("alice", Some([1; 16])).unwrap();
    let (session, now) = (SessionId([1; 16]), cut.world.now);
    let view = cut.alone.session(session, now).unwrap();
    let Actor::Session { user, role, .. } = view.actor else { panic!("nobody") };
    assert_eq!((view.public_key, role), ([7; 32], Role::CryptoUser));
    let other = Actor::Session { session, user: hsm_core::UserId(user.0 + 1), role };
    let admin = Actor::Session { session, user, role: Role::Admin };
    assert!(cut.alone.check(&other, now).is_err() && cut.alone.check(&admin, now).is_err());
}
