//! Log-ins on an HSM that hears from no majority: the attempts that were left, sessions that the others take over later, and
//! a journal that a kill does not shorten and nobody edits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hsm_client::{CallError, Cluster as Client, Login};
use hsm_protocol::wire::{self, ListMembersReply, ObjectReference, ServingState, reply, request};
use hsm_protocol::{AttributeKind, ErrorCode, Mechanism, MechanismKind, Operation, Role, Template, convert};

use crate::several::{
    ADMIN, Cluster, USER, copy, eventually, log_in, make_pair, sign, sign_in_the_end, try_make_secret_key,
};

const CALL: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(2);
const JOURNAL: &str = "data/isolated.journal";
const MARK: &str = "data/isolated.mark";

/// A cluster of three whose first two were killed, and whose third one knows that it is alone.
struct Alone {
    cluster: Cluster,
    /// Of before.
    login: Login,
    key: ObjectReference,
    /// Reaches the third one only.
    third: Client,
}

impl Alone {
    fn new() -> Self {
        let mut cluster = Cluster::of(3);
        cluster.activate(0);
        let client = cluster.client_of(&[0, 1, 2]);
        let login = log_in(&client);
        let (_, key) = make_pair(&client, &login);
        let third = cluster.bound_client(2, CALL);
        sign_in_the_end(&third, &login, &key);
        [0, 1].iter().for_each(|&at| cluster.hsms[at].kill());
        let alone = Self { cluster, login, key, third };
        eventually("the isolation", || alone.seen().is_some_and(|seen| seen.serving() == ServingState::Isolated));
        alone
    }

    fn seen(&self) -> Option<ListMembersReply> {
        self.third.list_members(&self.login).ok()
    }

    /// Sessions and failed attempts that the third one has not told.
    fn waiting(&self) -> (u64, u64) {
        let seen = self.seen().unwrap();
        (seen.isolated_sessions, seen.isolated_attempts)
    }

    fn bring_back(&mut self) {
        [0, 1].iter().for_each(|&at| self.cluster.hsms[at].restart());
        eventually("a lease and the merge", || {
            self.seen().is_some_and(|seen| {
                seen.serving() == ServingState::Leased && (seen.isolated_sessions, seen.isolated_attempts) == (0, 0)
            })
        });
    }

    fn file(&self, name: &str) -> PathBuf {
        self.cluster.hsms[2].path(name)
    }
}

fn guess(client: &Client) -> Option<ErrorCode> {
    refusal(client.log_in("app", Role::CryptoUser, b"a wrong password"))
}

fn refusal<T>(result: Result<T, CallError>) -> Option<ErrorCode> {
    match result {
        Ok(_) => None,
        Err(error) => Some(error.code().unwrap_or_else(|| panic!("{error}"))),
    }
}

/// A MAC under an AES key that no HSM stores.
fn use_session_key(client: &Client, login: &Login) -> Vec<u8> {
    let template = Template::new().with_number(AttributeKind::ValueLen, 32).with_flag(AttributeKind::Sign, true);
    let made = client.change(Some(login), &|_| {
        request::Body::GenerateKey(wire::GenerateKey {
            mechanism: Some(convert::mechanism_message(&Mechanism::plain(MechanismKind::AES_KEY_GEN))),
            template: Some(convert::template_message(&template)),
        })
    });
    let reply::Body::Objects(made) = made.unwrap() else { panic!("no object") };
    let key = made.items[0].reference.clone();
    let mac = client.call(Some(login), &|_| {
        request::Body::Operate(wire::Operate {
            operation: Operation::Sign as u32,
            key: key.clone(),
            mechanism: Some(convert::mechanism_message(&Mechanism::plain(MechanismKind::AES_CMAC))),
            data: b"message".to_vec(),
            ..wire::Operate::default()
        })
    });
    let reply::Body::Bytes(mac) = mac.unwrap() else { panic!("no octets") };
    mac.data
}

#[test]
fn a_crypto_user_logs_in_on_the_last_of_three_and_the_session_and_the_failures_become_the_clusters() {
    let mut alone = Alone::new();
    // An application that starts now, and knows all three.
    let client = alone.cluster.client_of_addresses(&[0, 1, 2], CALL);
    let login = client.log_in("app", Role::CryptoUser, USER).unwrap();
    sign(&client, &login, &alone.key).unwrap();
    assert_eq!(use_session_key(&client, &login).len(), 16);
    let hasty = alone.cluster.bound_client(2, SHORT);
    let changed = try_make_secret_key(&hasty, &login);
    assert_eq!(refusal(changed), Some(ErrorCode::LoginNotMerged));
    assert!(hasty.log_in("admin", Role::Admin, ADMIN).is_err(), "admins wait for the others");

    (0..3).for_each(|_| assert_eq!(guess(&client), Some(ErrorCode::LoginRefused)));
    let ended = client.log_in("app", Role::CryptoUser, USER).unwrap();
    assert_eq!(alone.waiting(), (2, 3));
    client.log_out(ended).unwrap();
    assert_eq!(alone.waiting(), (1, 3), "a success has reset nothing, a logout ends its session");

    // Killed and started again it does not know what it may do, and gives no attempt back.
    alone.cluster.hsms[2].restart();
    assert!(sign(&hasty, &login, &alone.key).is_err());
    assert!(hasty.log_in("app", Role::CryptoUser, USER).is_err());
    alone.bring_back();
    sign_in_the_end(&client, &login, &alone.key);
    for at in [0, 1] {
        sign_in_the_end(&alone.cluster.bound_client(at, CALL), &login, &alone.key);
    }
    try_make_secret_key(&client, &login).unwrap();

    // Three of six were used up.
    let first = alone.cluster.bound_client(0, CALL);
    (0..3).for_each(|_| assert_eq!(guess(&first), Some(ErrorCode::LoginRefused)));
    assert_eq!(refusal(first.log_in("app", Role::CryptoUser, USER).map(drop)), Some(ErrorCode::UserLocked));
    let admin = first.log_in("admin", Role::Admin, ADMIN).unwrap();
    assert!(first.list_users(Some(&admin)).unwrap().iter().any(|user| user.name == "app" && user.locked));
    sign(&client, &login, &alone.key).unwrap();
    eventually("that the journal is gone", || !alone.file(JOURNAL).exists());
}

#[test]
fn six_wrong_passwords_in_isolation_lock_the_user_there_and_then_everywhere_and_end_no_session() {
    let mut alone = Alone::new();
    (0..6).for_each(|_| assert_eq!(guess(&alone.third), Some(ErrorCode::LoginRefused)));
    let locked = |client: &Client| refusal(client.log_in("app", Role::CryptoUser, USER).map(drop));
    assert_eq!(locked(&alone.third), Some(ErrorCode::UserLocked));
    sign(&alone.third, &alone.login, &alone.key).unwrap();
    alone.bring_back();
    for at in 0..3 {
        let client = alone.cluster.bound_client(at, CALL);
        eventually("the lock everywhere", || locked(&client) == Some(ErrorCode::UserLocked));
        sign_in_the_end(&client, &alone.login, &alone.key);
    }
}

/// Makes a file something else; `None` removes it.
type Damage = fn(&[u8]) -> Option<Vec<u8>>;

/// Writes a file, or takes it away.
fn put(path: &Path, octets: Option<Vec<u8>>) {
    match octets {
        Some(octets) => std::fs::write(path, octets).unwrap(),
        None => std::fs::remove_file(path).unwrap(),
    }
}

const DAMAGES: [(&str, Damage); 6] = [
    ("an edited octet", |octets| {
        let mut edited = octets.to_vec();
        *edited.last_mut()? ^= 1;
        Some(edited)
    }),
    ("a truncated one", |octets| Some(octets[..octets.len() - 9].to_vec())),
    ("an empty one", |_| Some(Vec::new())),
    ("another format", |octets| Some([&[9], &octets[1..]].concat())),
    ("a huge one", |_| Some(vec![1; 5 * 1024 * 1024])),
    ("none", |_| None),
];

#[test]
fn a_journal_that_was_edited_cut_put_back_or_taken_away_is_named_and_stops_such_log_ins_but_no_signing() {
    let mut alone = Alone::new();
    assert_eq!(guess(&alone.third), Some(ErrorCode::LoginRefused));
    let older = std::fs::read(alone.file(JOURNAL)).unwrap();
    (0..2).for_each(|_| assert_eq!(guess(&alone.third), Some(ErrorCode::LoginRefused)));
    alone.cluster.hsms[2].kill();
    let (journal, mark) = (alone.file(JOURNAL), alone.file(MARK));
    let files = [std::fs::read(&journal).unwrap(), std::fs::read(&mark).unwrap()];
    let mut named = 0;
    let mut refused = |alone: &mut Alone, what: &str| {
        alone.cluster.hsms[2].restart();
        let log = alone.cluster.hsms[2].log();
        let lines = log.lines().filter(|line| line.contains("isolated.") && line.contains("cannot be used")).count();
        named += 1;
        assert_eq!(lines, named, "{what} is not named");
        alone.cluster.hsms[2].kill();
    };
    for (what, damage) in DAMAGES {
        put(&journal, damage(&files[0]));
        refused(&mut alone, what);
        put(&journal, Some(files[0].clone()));
    }
    put(&journal, Some(older));
    refused(&mut alone, "an older one");
    put(&journal, Some(files[0].clone()));
    put(&mark, None);
    refused(&mut alone, "a lost mark");
    put(&mark, Some(files[1].clone()));
    // Of another cluster, and of another HSM: sealed under other keys, or bound to another name.
    let stranger = Alone::new();
    guess(&stranger.third);
    copy(&stranger.file(JOURNAL), &journal);
    refused(&mut alone, "another cluster's");

    // With it, this HSM serves like any other.
    alone.cluster.hsms[2].spawn();
    [0, 1].iter().for_each(|&at| alone.cluster.hsms[at].restart());
    sign_in_the_end(&alone.third, &alone.login, &alone.key);
    assert!(alone.seen().unwrap().isolated_logins_refused);
    // Put right, what it holds counts.
    alone.cluster.hsms[2].kill();
    put(&journal, Some(files[0].clone()));
    alone.cluster.hsms[2].restart();
    eventually("the merge", || {
        alone.seen().is_some_and(|seen| !seen.isolated_logins_refused && seen.isolated_attempts == 0)
            && !journal.exists()
    });
    let first = alone.cluster.bound_client(0, CALL);
    (0..3).for_each(|_| assert_eq!(guess(&first), Some(ErrorCode::LoginRefused)));
    assert_eq!(guess(&first), Some(ErrorCode::UserLocked));
    // A journal that was merged counts for nothing when it is put back.
    let admin = first.log_in("admin", Role::Admin, ADMIN).unwrap();
    first.change_password(&admin, Some(("app", Role::CryptoUser)), USER).unwrap();
    alone.cluster.hsms[2].kill();
    put(&journal, Some(files[0].clone()));
    alone.cluster.hsms[2].restart();
    eventually("that it is dropped", || !journal.exists());
    (0..6).for_each(|_| assert_eq!(guess(&first), Some(ErrorCode::LoginRefused)));
}

#[test]
fn with_a_window_of_nothing_nobody_logs_in_in_isolation() {
    let mut cluster = Cluster::of(3);
    cluster.activate(0);
    let client = cluster.client_of(&[0, 1, 2]);
    let admin = client.log_in("admin", Role::Admin, ADMIN).unwrap();
    client.set_isolation_window(&admin, 0).unwrap();
    let third = cluster.bound_client(2, CALL);
    let login = log_in(&third);
    eventually("that the third one knows", || third.cluster_policy(&login).unwrap().isolation_window_seconds == 0);
    [0, 1].iter().for_each(|&at| cluster.hsms[at].kill());
    std::thread::sleep(hsm_replication::limits::LEASE_PASSED + SHORT);
    assert!(cluster.bound_client(2, SHORT).log_in("app", Role::CryptoUser, USER).is_err());
    assert!(!cluster.hsms[2].path(JOURNAL).exists());
}

#[test]
fn a_survivor_that_is_recovered_keeps_the_failures_of_its_isolation_and_no_session() {
    let alone = Alone::new();
    (0..3).for_each(|_| assert_eq!(guess(&alone.third), Some(ErrorCode::LoginRefused)));
    let login = alone.third.log_in("app", Role::CryptoUser, USER).unwrap();
    sign(&alone.third, &login, &alone.key).unwrap();
    eventually("the recovery", || alone.cluster.hsms[2].manage(&["recover", "--yes"]).status.success());
    let after = alone.cluster.bound_client(2, CALL);
    eventually("the merge", || !alone.file(JOURNAL).exists());
    assert!(sign(&after, &login, &alone.key).is_err(), "a login of the old history signs");
    (0..3).for_each(|_| assert_eq!(guess(&after), Some(ErrorCode::LoginRefused)));
    assert_eq!(guess(&after), Some(ErrorCode::UserLocked));
}
