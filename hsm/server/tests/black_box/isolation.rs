//! HSMs that hear from no majority: how long they go on, and what is said of them meanwhile.

use std::time::{Duration, Instant, SystemTime};

use hsm_client::{CallError, Cluster as Client, Login};
use hsm_protocol::wire::{ObjectReference, ServingState};
use hsm_protocol::{ErrorCode, Role};
use hsm_replication::limits::{LEASE, LEASE_PASSED};

use crate::several::{ADMIN, Cluster, destroy, eventually, log_in, make_pair, sign, sign_in_the_end};

/// Time for a call of a client that looks again and again.
const GLANCE: Duration = Duration::from_secs(1);

/// The isolation window of a new cluster.
const WINDOW: Duration = Duration::from_secs(3600);

/// A cluster of three in service, with a key that the third one has.
fn cluster_with_a_key() -> (Cluster, Client, Login, ObjectReference) {
    let cluster = Cluster::of(3);
    cluster.activate(0);
    let client = cluster.client_of(&[0, 1, 2]);
    let login = log_in(&client);
    let (_, key) = make_pair(&client, &login);
    sign_in_the_end(&cluster.bound_client(2, Duration::from_secs(20)), &login, &key);
    (cluster, client, login, key)
}

#[test]
fn a_signer_outlives_two_of_three_hsms_without_an_error_and_both_come_back_by_themselves() {
    let (mut cluster, client, login, key) = cluster_with_a_key();
    let third = cluster.bound_client(2, Duration::from_secs(20));
    [0, 1].iter().for_each(|&at| cluster.hsms[at].kill());
    let killed = Instant::now();
    // Longer than any lease: from then on it is the isolation window that lets the survivor go on.
    while killed.elapsed() < LEASE_PASSED + Duration::from_secs(1) {
        sign(&client, &login, &key).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(third.list_members(&login).unwrap().serving() == ServingState::Isolated);
    [0, 1].iter().for_each(|&at| cluster.hsms[at].restart());
    cluster.are_equal(&[0, 1, 2]);
    make_pair(&client, &login);
}

#[test]
fn with_a_window_of_nothing_an_hsm_without_a_majority_stops_before_its_lease_can_be_over_elsewhere() {
    let (mut cluster, client, login, key) = cluster_with_a_key();
    let admin = client.log_in("admin", Role::Admin, ADMIN).unwrap();
    client.set_isolation_window(&admin, 0).unwrap();
    let third = cluster.bound_client(2, GLANCE);
    eventually("that the survivor knows the policy", || {
        third.cluster_policy(&login).unwrap().isolation_window_seconds == 0
    });
    [0, 1].iter().for_each(|&at| cluster.hsms[at].kill());
    let killed = Instant::now();
    let (mut last, mut refused) = (Duration::ZERO, None);
    while killed.elapsed() < LEASE_PASSED + Duration::from_secs(2) {
        match sign(&third, &login, &key) {
            Ok(_) => last = killed.elapsed(),
            Err(CallError::Refused { code: ErrorCode::Isolated, .. }) => {
                refused.get_or_insert(killed.elapsed());
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(last > LEASE - Duration::from_secs(2), "it gave up its lease after {last:?}");
    assert!(last < LEASE_PASSED, "it signed {last:?} after the loss");
    assert!(refused.is_some());
    [0, 1].iter().for_each(|&at| cluster.hsms[at].restart());
    sign_in_the_end(&third, &login, &key);
    cluster.are_equal(&[0, 1, 2]);
}

#[test]
fn a_deletion_names_the_hsm_that_is_cut_off_and_until_when_it_may_use_the_key() {
    let (cluster, _, login, key) = cluster_with_a_key();
    let away = cluster.hsms[2].status()["hsm"].as_str().unwrap().to_owned();
    let first = cluster.bound_client(0, Duration::from_secs(20));
    let admin = first.log_in("admin", Role::Admin, ADMIN).unwrap();
    cluster.hsms[2].freeze();
    let began = milliseconds_now();
    let named = destroy(&first, &login, &key);
    let answered = milliseconds_now();
    let [silent] = named.as_slice() else { panic!("{} HSMs were named", named.len()) };
    let hsm: String = silent.hsm.iter().map(|octet| format!("{octet:02x}")).collect();
    assert_eq!(hsm, away);
    // Its lease was over when the answer came, and the window began with it.
    let window = u64::try_from(WINDOW.as_millis()).unwrap();
    let passed = u64::try_from(LEASE_PASSED.as_millis()).unwrap();
    assert!(answered - began <= passed + 1000, "the answer took {} ms", answered - began);
    assert!(silent.until >= began + window, "{} and {began}", silent.until);
    let slowest = window / hsm_replication::limits::SLOWEST_CLOCK;
    assert!(silent.until <= answered + window + slowest + passed, "{} and {answered}", silent.until);
    // The window runs: the next answer does not begin it anew.
    std::thread::sleep(Duration::from_secs(2));
    let (_, other) = make_pair(&first, &login);
    let later = destroy(&first, &login, &other);
    assert!(later[0].until < silent.until + 1500, "{} after {}", later[0].until, silent.until);
    // So does the answer to the end of all logins of a user.
    let named = first.log_out_everywhere(&admin, "admin", Role::Admin).unwrap();
    assert!(named.len() == 1 && named[0].hsm == silent.hsm, "{} HSMs were named", named.len());

    cluster.hsms[2].thaw();
    let third = cluster.bound_client(2, Duration::from_secs(20));
    let gone = |result| matches!(result, Err(CallError::Refused { code: ErrorCode::ObjectUnknown, .. }));
    eventually("that the third one knows", || gone(sign(&third, &login, &key)));
    cluster.are_equal(&[0, 1, 2]);
    // Nobody is silent now, and nobody is named.
    let (_, another) = make_pair(&first, &login);
    assert!(destroy(&first, &login, &another).is_empty());
}

fn milliseconds_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}
