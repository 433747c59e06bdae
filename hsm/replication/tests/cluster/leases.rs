//! Leases, barriers and reads.

use std::time::Duration;

use hsm_core::command::{NewSession, Origin, Verifier};
use hsm_core::ids::AttemptId;
use hsm_core::{Action, Index, MemberKind, SessionId};
use hsm_protocol::{ErrorCode, Role, UserName};
use hsm_replication::{Node, Outcome, Serving, limits};

use crate::support::{Yard, is_done, propose, start_by, version};

async fn write(yard: &Yard, node: usize, text: &str) -> Index {
    match propose(&yard.nodes[node], version(&yard.machines[node], text)).await {
        Outcome::Done { index, result: Ok(_) } => index,
        _ => panic!("it is done"),
    }
}

async fn all_leased(yard: &Yard) {
    let leased = |yard: &Yard| yard.nodes.iter().all(|node| node.serving() == Serving::Leased);
    yard.until("all hold a lease", leased).await;
}

fn ids(yard: &Yard) -> Vec<u64> {
    yard.nodes.iter().map(|node| node.status().node).collect()
}

/// Long enough for a new leader's first barrier.
async fn settle() {
    tokio::time::sleep(limits::LEASE_PASSED + Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_sole_hsm_is_always_leased_and_its_barrier_ends_at_once() {
    let yard = Yard::form().await;
    assert_eq!(yard.nodes[0].serving(), Serving::Leased);
    let index = write(&yard, 0, "1").await;
    let began = tokio::time::Instant::now();
    assert_eq!(yard.nodes[0].barrier(index, Duration::from_secs(5)).await, Ok(Vec::new()));
    assert!(began.elapsed() < Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn a_barrier_among_the_living_takes_milliseconds_from_any_member() {
    let yard = Yard::of(4).await;
    all_leased(&yard).await;
    settle().await;
    for node in 0..4 {
        let index = write(&yard, node, "1").await;
        let began = tokio::time::Instant::now();
        assert_eq!(yard.nodes[node].barrier(index, Duration::from_secs(10)).await, Ok(Vec::new()));
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        assert!(yard.nodes.iter().all(|node| node.applied() >= index));
    }
}

#[tokio::test(start_paused = true)]
async fn a_barrier_names_the_silent_one_and_ends_when_its_lease_has() {
    let yard = Yard::of(3).await;
    all_leased(&yard).await;
    settle().await;
    let leader = yard.leader().await;
    let silent = (leader + 1) % 3;
    let ids = ids(&yard);
    yard.wires.isolate(ids[silent], &ids);
    let index = write(&yard, leader, "unheard").await;
    let began = tokio::time::Instant::now();
    let unreached = yard.nodes[leader].barrier(index, Duration::from_secs(10)).await.unwrap();
    assert!(began.elapsed() <= limits::LEASE_PASSED + Duration::from_millis(100), "{:?}", began.elapsed());
    assert!(began.elapsed() >= limits::LEASE - limits::LEASE_ASK - Duration::from_millis(100));
    assert_ne!(yard.nodes[silent].serving(), Serving::Leased, "its lease is over before the barrier is");
    let [named] = unreached.as_slice() else { panic!("one is named") };
    assert_eq!((named.node, named.hsm), (ids[silent], Some(yard.machines[silent].record().hsm)));
    let Serving::Isolated { left_milliseconds, .. } = yard.nodes[silent].serving() else { panic!("it is isolated") };
    let end = yard.nodes[leader].now().0 + left_milliseconds;
    let latest = end + left_milliseconds / limits::SLOWEST_CLOCK + 5000;
    assert!(named.until.0 >= end && named.until.0 < latest, "the time that is named is the time that it has");
    // It comes back, and is leased only with the command applied.
    yard.wires.heal();
    yard.until("it is leased", |yard| yard.nodes[silent].serving() == Serving::Leased).await;
    assert!(yard.nodes[silent].applied() >= index);
}

#[tokio::test(start_paused = true)]
async fn an_hsm_that_gets_no_entries_gets_no_lease_after_a_barrier_either() {
    let yard = Yard::of(3).await;
    all_leased(&yard).await;
    settle().await;
    let leader = yard.leader().await;
    let behind = (leader + 1) % 3;
    let ids = ids(&yard);
    // It does not stand for election, or it would be heard.
    yard.wires.mute(ids[leader], ids[behind]);
    yard.wires.mute(ids[behind], ids[(leader + 2) % 3]);
    let index = write(&yard, leader, "unheard").await;
    let unreached = yard.nodes[leader].barrier(index, Duration::from_secs(10)).await;
    assert!(yard.nodes[behind].applied() < index);
    assert_ne!(yard.nodes[behind].serving(), Serving::Leased);
    if let Ok(unreached) = unreached {
        assert_eq!(unreached.iter().map(|one| one.node).collect::<Vec<_>>(), [ids[behind]]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_isolated_hsm_expires_with_the_window_and_a_restarted_one_begins_expired() {
    let mut yard = Yard::of(3).await;
    all_leased(&yard).await;
    let ids = ids(&yard);
    ids.iter().for_each(|&id| yard.wires.isolate(id, &ids));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let isolated = |serving| matches!(serving, Serving::Isolated { for_milliseconds: 55_000..60_000, .. });
    assert!(yard.nodes.iter().all(|node| isolated(node.serving())), "also the one that led");
    let node = yard.nodes.remove(0);
    yard.machines[0].stop(node).await;
    yard.nodes.insert(0, yard.machines[0].open().await);
    assert_eq!(yard.nodes[0].serving(), Serving::Expired);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(yard.nodes.iter().all(|node| node.serving() == Serving::Expired));
    yard.wires.heal();
    all_leased(&yard).await;
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_a_leader_isolates_nobody() {
    let mut yard = Yard::of(3).await;
    all_leased(&yard).await;
    let leader = yard.leader().await;
    let node = yard.nodes.remove(leader);
    let machine = yard.machines.remove(leader);
    machine.stop(node).await;
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(yard.nodes.iter().all(|node| node.serving() == Serving::Leased));
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_waits_for_leases_that_it_did_not_grant() {
    let yard = Yard::of(3).await;
    all_leased(&yard).await;
    settle().await;
    let leader = yard.leader().await;
    let ids = ids(&yard);
    // The old leader is cut off: its lease from its own last round still runs.
    yard.wires.isolate(ids[leader], &ids);
    let other = (leader + 1) % 3;
    yard.until("another one leads", |yard| yard.nodes[other].status().leader.is_some_and(|id| id != ids[leader])).await;
    let index = write(&yard, other, "new").await;
    let unreached = yard.nodes[other].barrier(index, Duration::from_secs(10)).await.unwrap();
    assert_eq!(unreached.iter().map(|one| one.node).collect::<Vec<_>>(), [ids[leader]]);
    assert_ne!(yard.nodes[leader].serving(), Serving::Leased);
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_no_barrier_ends() {
    let yard = Yard::of(3).await;
    all_leased(&yard).await;
    let ids = ids(&yard);
    ids.iter().for_each(|&id| yard.wires.isolate(id, &ids));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let follower = (yard.leads().unwrap_or(0) + 1) % 3;
    let outcome = yard.nodes[follower].barrier(Index(1), Duration::from_secs(5)).await;
    assert_eq!(outcome, Err(ErrorCode::QuorumLoss));
}

#[tokio::test(start_paused = true)]
async fn a_linearizable_read_sees_what_was_acknowledged_elsewhere() {
    let yard = Yard::of(4).await;
    for node in 0..4 {
        let index = write(&yard, node, "read me").await;
        let reader = (node + 1) % 4;
        let read = yard.nodes[reader].read_index(Duration::from_secs(5)).await;
        assert!(read.is_some_and(|read| read >= index) && yard.nodes[reader].applied() >= index);
    }
    let ids = ids(&yard);
    ids.iter().for_each(|&id| yard.wires.isolate(id, &ids));
    for node in &yard.nodes {
        assert_eq!(node.read_index(Duration::from_secs(5)).await, None, "alone nobody knows");
    }
}

#[tokio::test(start_paused = true)]
async fn a_witness_holds_no_lease_and_leads_only_until_an_hsm_can() {
    let mut yard = Yard::of(2).await;
    yard.join(MemberKind::Witness).await;
    yard.until("all three vote", |yard| yard.voters().len() == 3).await;
    yard.level().await;
    // A commit is shared by the witness and the leader; the other HSM does not hear of it, and the leader dies.
    let leader = yard.leader().await;
    let other = 1 - leader;
    let ids = ids(&yard);
    yard.wires.isolate(ids[other], &ids);
    let index = write(&yard, leader, "shared").await;
    let node = yard.nodes.remove(leader);
    let machine = yard.machines.remove(leader);
    machine.stop(node).await;
    yard.wires.heal();
    let hsm = yard.machines[0].id();
    yard.until("the other HSM leads", |yard| yard.nodes.iter().all(|node| node.status().leader == Some(hsm))).await;
    assert!(yard.nodes[0].applied() >= index);
    write(&yard, 0, "after").await;
    assert_ne!(yard.nodes[1].serving(), Serving::Leased, "a witness serves nobody");
}

#[tokio::test(start_paused = true)]
async fn what_a_member_knows_of_the_others_is_told() {
    let yard = Yard::of(3).await;
    all_leased(&yard).await;
    yard.level().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let leader = yard.leader().await;
    let status = yard.nodes[leader].status();
    assert_eq!(status.members.len(), 2);
    for member in status.members.values() {
        assert_eq!(member.hashes_agree, Some(true));
        assert_eq!(member.lag, Some(0));
        assert!(member.heard_milliseconds_ago.is_some_and(|ago| ago <= 1100));
        assert!(member.lease_milliseconds_left.is_some_and(|left| left > 2000));
    }
}

/// Activates the cluster and opens a session of its admin.
async fn admin(node: &Node) -> SessionId {
    let certificate = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".to_owned();
    let (attempt, session) = (AttemptId([5; 16]), SessionId([6; 16]));
    let expires_at = hsm_core::Stamp(node.now().0 + 3_600_000);
    let new = NewSession { session, public_key: [7; 32], expires_at };
    for action in [
        Action::InstallCertificate { certificate: certificate.clone(), trust_anchor: certificate },
        Action::Activate { verifier: Verifier(vec![7; 48]) },
        Action::ReserveAttempt { attempt, name: UserName::new("admin").unwrap(), role: Role::Admin },
        Action::FinishLogin { attempt, session: Some(new) },
    ] {
        assert!(is_done(&propose(node, action).await));
    }
    session
}

#[tokio::test(start_paused = true)]
async fn an_hsm_that_has_not_heard_of_a_shorter_window_is_named_for_the_longer_one() {
    let yard = Yard::of(4).await;
    all_leased(&yard).await;
    settle().await;
    let leader = yard.leader().await;
    let session = admin(&yard.nodes[leader]).await;
    yard.level().await;
    let ids = ids(&yard);
    let silent = (0..4).find(|&place| !yard.voters().contains(&ids[place])).expect("one of four does not vote");
    yard.wires.isolate(ids[silent], &ids);
    let origin = Origin { session: Some(session), sequence: 1, lowest_unanswered: 1 };
    let lowered = start_by(&yard.nodes[leader], origin, Action::SetIsolationWindow { seconds: 0 }).await;
    let Ok(Outcome::Done { index: lowered, result: Ok(_) }) = lowered else { panic!("it is done") };
    let named = |unreached: Vec<hsm_replication::Unreached>| match unreached.as_slice() {
        [one] => (one.node, one.until.0),
        _ => panic!("one is named"),
    };
    let (node, until) = named(yard.nodes[leader].barrier(lowered, Duration::from_secs(10)).await.unwrap());
    assert_eq!(node, ids[silent]);
    let Serving::Isolated { left_milliseconds, .. } = yard.nodes[silent].serving() else { panic!("it goes on") };
    assert!(until >= yard.nodes[leader].now().0 + left_milliseconds, "as long as it goes on");
    // Another leader knows it as well.
    yard.wires.isolate(ids[leader], &ids);
    let leads = |yard: &Yard| {
        let others = (0..4).filter(|&place| place != leader);
        others.into_iter().find(|&place| yard.nodes[place].status().leader == Some(ids[place]))
    };
    yard.until("another one leads", |yard| leads(yard).is_some()).await;
    let other = leads(&yard).unwrap();
    yard.wires.heal();
    yard.wires.isolate(ids[silent], &ids);
    settle().await;
    let index = write(&yard, other, "unheard").await;
    let (node, until) = named(yard.nodes[other].barrier(index, Duration::from_secs(10)).await.unwrap());
    let Serving::Isolated { left_milliseconds, .. } = yard.nodes[silent].serving() else { panic!("it goes on") };
    assert!(node == ids[silent] && until >= yard.nodes[other].now().0 + left_milliseconds);
    // Once it has heard, it stops with its lease.
    yard.wires.heal();
    all_leased(&yard).await;
    yard.level().await;
    yard.wires.isolate(ids[silent], &ids);
    let leads = yard.leads().unwrap();
    let index = write(&yard, leads, "unheard again").await;
    assert_eq!(yard.nodes[leads].barrier(index, Duration::from_secs(10)).await, Ok(Vec::new()));
    assert_eq!(yard.nodes[silent].serving(), Serving::Expired);
}

#[tokio::test(start_paused = true)]
async fn an_hsm_that_was_removed_unheard_is_named_by_a_leader_that_never_knew_it() {
    let yard = Yard::of(4).await;
    all_leased(&yard).await;
    settle().await;
    let leader = yard.leader().await;
    let ids = ids(&yard);
    let silent = (0..4).find(|&place| !yard.voters().contains(&ids[place])).expect("one of four does not vote");
    yard.wires.isolate(ids[silent], &ids);
    let hsm = yard.machines[silent].record().hsm;
    let removal = propose(&yard.nodes[leader], Action::RemoveMember { hsm }).await;
    let Outcome::Done { index, result: Ok(_) } = removal else { panic!("it is done") };
    yard.until("it has no place", |yard| !yard.nodes[leader].status().members.contains_key(&ids[silent])).await;
    yard.wires.isolate(ids[leader], &ids);
    let others = |place: &usize| *place != leader && *place != silent;
    let leads =
        |yard: &Yard| (0..4).filter(others).find(|&place| yard.nodes[place].status().leader == Some(ids[place]));
    yard.until("another one leads", |yard| leads(yard).is_some()).await;
    let next = leads(&yard).unwrap();
    for index in [index, write(&yard, next, "after").await] {
        let unreached = yard.nodes[next].barrier(index, Duration::from_secs(10)).await.unwrap();
        let named = unreached.iter().find(|one| one.node == ids[silent]).expect("it is named");
        let Serving::Isolated { left_milliseconds, .. } = yard.nodes[silent].serving() else { panic!("it goes on") };
        assert_eq!(named.hsm, Some(hsm));
        assert!(named.until.0 >= yard.nodes[next].now().0 + left_milliseconds);
    }
}

#[tokio::test(start_paused = true)]
async fn an_hsm_that_was_just_started_holds_up_no_barrier() {
    let mut yard = Yard::of(3).await;
    all_leased(&yard).await;
    settle().await;
    let leader = yard.leader().await;
    let (restarted, ids) = ((leader + 1) % 3, ids(&yard));
    let node = yard.nodes.remove(restarted);
    yard.machines[restarted].stop(node).await;
    // It does not hear the third, so it is not let in at once.
    yard.wires.isolate(ids[(leader + 2) % 3], &[ids[restarted]]);
    yard.nodes.insert(restarted, yard.machines[restarted].open().await);
    assert_eq!(yard.nodes[restarted].serving(), Serving::Expired);
    let index = write(&yard, leader, "unheard").await;
    let began = tokio::time::Instant::now();
    assert_eq!(yard.nodes[leader].barrier(index, Duration::from_secs(10)).await, Ok(Vec::new()));
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    assert_eq!(yard.nodes[restarted].status().standing, hsm_replication::Standing::Checking);
}
