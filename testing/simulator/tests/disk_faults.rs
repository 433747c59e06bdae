//! Disks that fail: the node stops or refuses, says so, and nothing acknowledged is lost.

use std::sync::Arc;

use hsm_protocol::{ErrorCode, Role};
use hsm_replication::{OpenFault, Outcome, StorageFault};
use simulator::random::Random;
use simulator::workload::{self, Bench, Client, no_session};
use simulator::world::{World, simulate};

fn attempt(random: &Random) -> hsm_core::Action {
    let name = hsm_protocol::UserName::new("nobody").expect("a name");
    hsm_core::Action::ReserveAttempt {
        attempt: hsm_core::ids::AttemptId(random.octets()),
        name,
        role: Role::CryptoUser,
    }
}

/// A node with a history, and the bench around it.
async fn started(seed: u64) -> (World, Bench) {
    let world = World::new(seed);
    world.disk.record();
    let node = Arc::new(world.form().await.expect("a cluster is formed"));
    let bench = Bench::new(node, world.disk.clone(), world.random.clone());
    workload::run(&bench, 2, 4).await;
    (world, bench)
}

#[test]
fn a_failed_sync_stops_the_node_and_acknowledges_nothing_after_it() {
    let seed = Random::seed_of_run(11);
    simulate(seed, async {
        for count in 0..3 {
            let (world, bench) = started(seed + count).await;
            world.disk.fail_sync_in(count);
            let mut told = 0;
            while world.faults.count() == 0 {
                match bench.call(no_session(), attempt(&world.random)).await {
                    Outcome::Done { .. } => told += 1,
                    Outcome::Unknown | Outcome::Unavailable(ErrorCode::Broken | ErrorCode::NotReady) => break,
                    Outcome::Unavailable(code) => panic!("{code}"),
                }
                assert!(told < 100, "the fault comes");
            }
            assert_eq!(world.faults.count(), 1, "the process is told once");
            let after = bench.call(no_session(), attempt(&world.random)).await;
            assert!(matches!(after, Outcome::Unavailable(_)), "a stopped node takes nothing");
            let position = world.disk.position();
            world.disk.crash();
            *bench.history.audit.lock() = Vec::new();
            // What the failed sync left is not known: both ends of it must be right.
            let mut crashes = world.disk.recording();
            restart_is_right(&world, &bench, &mut crashes, position).await;
        }
    });
}

async fn restart_is_right(world: &World, bench: &Bench, recording: &mut simulator::disk::Recording, position: usize) {
    let mut crashes = recording.crashes();
    for crash in simulator::disk::Crash::ALL {
        let disk = crashes.at(position, crash, &world.random);
        let survivor = World::with(disk, world.random.clone(), world.key.clone());
        let node = Arc::new(survivor.open().await.expect("the node starts"));
        let acknowledged = bench
            .history
            .calls
            .lock()
            .iter()
            .filter_map(|call| match &call.outcome {
                Some(Outcome::Done { index, .. }) => Some(index.0),
                _ => None,
            })
            .max();
        assert!(Some(node.applied().0) >= acknowledged, "what was acknowledged is there");
        assert!(!workload::audit_of(&node).is_empty());
        node.stop_here().await;
    }
}

#[test]
fn a_failed_write_stops_the_node_and_loses_nothing() {
    let seed = Random::seed_of_run(12);
    simulate(seed, async {
        for count in 0..8 {
            let (world, bench) = started(seed + count).await;
            world.disk.fail_write_in(count);
            for _ in 0..4 {
                bench.call(no_session(), attempt(&world.random)).await;
            }
            assert_eq!(world.faults.count(), 1, "the process is told once");
            let mut recording = world.disk.recording();
            restart_is_right(&world, &bench, &mut recording, world.disk.position()).await;
        }
    });
}

#[test]
fn a_full_disk_refuses_with_its_name_and_the_node_goes_on_when_there_is_room() {
    let seed = Random::seed_of_run(13);
    simulate(seed, async {
        let (world, bench) = started(seed).await;
        let (content, _) = world.disk.content();
        world.disk.set_capacity(content.len() as u64 + 1000);
        for _ in 0..3 {
            let outcome = bench.call(no_session(), attempt(&world.random)).await;
            assert!(matches!(outcome, Outcome::Unavailable(ErrorCode::StorageFull)), "named, and certainly not done");
        }
        assert_eq!(world.faults.count(), 0, "the node goes on");
        assert!(bench.node.read().user_count() > 0, "reads go on");
        world.disk.set_capacity(u64::MAX);
        let mut client = Client::new(bench.clone(), "user0", Role::CryptoUser);
        client.log_in().await;
        client.create_key().await;
        bench.node.stop_here().await;
        *bench.history.audit.lock() = Vec::new();
        assert!(world.open().await.is_ok());
    });
}

#[test]
fn a_disk_that_fills_up_in_the_middle_of_a_write_stops_the_node_and_a_restart_with_room_has_everything() {
    let seed = Random::seed_of_run(14);
    simulate(seed, async {
        let (world, bench) = started(seed).await;
        let mut client = Client::new(bench.clone(), "user0", Role::CryptoUser);
        client.log_in().await;
        // The room is gone between the look at it and the write.
        world.disk.fill_unseen();
        let mut refused = 0;
        while world.faults.count() == 0 {
            if !matches!(bench.call(no_session(), attempt(&world.random)).await, Outcome::Done { .. }) {
                refused += 1;
            }
            assert!(refused < 3, "the fault comes");
        }
        assert!(world.faults.last().contains("full"), "{}", world.faults.last());
        let position = world.disk.position();
        let mut recording = world.disk.recording();
        restart_is_right(&world, &bench, &mut recording, position).await;
    });
}

#[test]
fn a_second_process_on_the_same_store_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let key = simulator::world::storage_key(1);
    let settings = || hsm_replication::Settings::at(&path);
    let node = hsm_replication::Node::form(settings(), key.clone(), simulator::world::form()).unwrap();
    let second = hsm_replication::Node::open(settings(), key.clone());
    assert!(matches!(second.err(), Some(OpenFault::InUse(name)) if name.ends_with("store.redb")));
    assert!(matches!(
        hsm_replication::Node::form(settings(), key.clone(), simulator::world::form()).err(),
        Some(OpenFault::InUse(_))
    ));
    node.stop();
    let node = hsm_replication::Node::open(settings(), key.clone()).unwrap();
    assert_eq!(node.applied().0, 1);
    node.stop();
    node.stop();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let again = hsm_replication::Node::form(settings(), key, simulator::world::form());
    assert!(matches!(again.err(), Some(OpenFault::AlreadyFormed(_))));
    let other = hsm_replication::Node::open(settings(), simulator::world::storage_key(2));
    assert!(matches!(other.err(), Some(OpenFault::OtherKey)));
}

#[test]
fn an_older_copy_of_the_store_is_refused_by_the_mark() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let key = simulator::world::storage_key(1);
    let settings = || hsm_replication::Settings::at(&path);
    hsm_replication::Node::form(settings(), key.clone(), simulator::world::form()).unwrap().stop();
    let yesterday = std::fs::read(&path).unwrap();
    hsm_replication::Node::open(settings(), key.clone()).unwrap().stop();
    std::fs::write(&path, yesterday).unwrap();
    let opened = hsm_replication::Node::open(settings(), key.clone());
    assert!(matches!(opened.err(), Some(OpenFault::RolledBack { .. })));
    std::fs::write(&path, []).unwrap();
    let opened = hsm_replication::Node::open(settings(), key.clone());
    assert!(matches!(opened.err(), Some(OpenFault::RolledBack { found: 0, .. })));
    std::fs::write(&path, [7; 5000]).unwrap();
    let opened = hsm_replication::Node::open(settings(), key);
    assert!(matches!(opened.err(), Some(OpenFault::Storage(StorageFault::Damaged(_) | StorageFault::Disk(_)))));
}
