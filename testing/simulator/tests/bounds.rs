//! What is bounded stays within its bounds: queue, entries, log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hsm_core::Action;
use hsm_core::ids::AttemptId;
use hsm_protocol::{ErrorCode, Role, UserName};
use hsm_replication::{Node, Outcome, limits};
use simulator::random::Random;
use simulator::workload::{Bench, no_session};
use simulator::world::{World, simulate};

async fn begin(seed: u64) -> (World, Bench) {
    let world = World::new(seed);
    let node = Arc::new(world.form().await.expect("a cluster is formed"));
    let bench = Bench::new(node, world.disk.clone(), world.random.clone());
    bench.begin().await;
    (world, bench)
}

fn attempt(random: &Random) -> Action {
    let name = UserName::new("nobody").expect("a name");
    Action::ReserveAttempt { attempt: AttemptId(random.octets()), name, role: Role::CryptoUser }
}

#[derive(Default)]
struct Counts {
    done: AtomicUsize,
    busy: AtomicUsize,
}

fn propose_many(node: &Node, random: &Random, count: usize, counts: &Arc<Counts>) {
    for _ in 0..count {
        let counts = counts.clone();
        let done = move |outcome| match outcome {
            Outcome::Done { .. } => drop(counts.done.fetch_add(1, Ordering::SeqCst)),
            Outcome::Unavailable(ErrorCode::Busy) => drop(counts.busy.fetch_add(1, Ordering::SeqCst)),
            _ => panic!("another outcome"),
        };
        node.propose(no_session(), attempt(random), Box::new(done));
    }
}

#[test]
fn the_queue_takes_its_bound_and_answers_the_next_with_busy() {
    let seed = Random::seed_of_run(41);
    simulate(seed, async {
        let (_world, bench) = begin(seed).await;
        let counts = Arc::new(Counts::default());
        let before = bench.node.status();
        propose_many(&bench.node, &bench.random, limits::QUEUE_COMMANDS + 1, &counts);
        assert_eq!(counts.busy.load(Ordering::SeqCst), 1, "at once");
        bench.node.stop_here().await;
        assert_eq!(counts.done.load(Ordering::SeqCst), limits::QUEUE_COMMANDS, "a stop lets what waits finish");
        let after = bench.node.status();
        let entries = after.last_entry - before.last_entry;
        assert!(entries >= (limits::QUEUE_COMMANDS / limits::ENTRY_COMMANDS) as u64, "{entries} entries");
        assert!(entries < 64, "{entries} entries: they were batched");
    });
}

#[test]
fn a_command_as_long_as_an_entry_is_taken_and_a_longer_one_is_refused() {
    let seed = Random::seed_of_run(42);
    simulate(seed, async {
        let (_world, bench) = begin(seed).await;
        let with = |length: usize| Action::RegisterTrustAnchor { certificate: "x".repeat(length) };
        let overhead = 64;
        let taken = bench.call(no_session(), with(limits::ENTRY_BYTES - overhead)).await;
        assert!(matches!(taken, Outcome::Done { result: Err(_), .. }), "judged, and refused for what it says");
        let refused = bench.call(no_session(), with(limits::ENTRY_BYTES)).await;
        assert!(matches!(refused, Outcome::Unavailable(ErrorCode::TooLarge)));
        bench.node.stop_here().await;
    });
}

#[test]
fn the_log_before_the_stored_state_goes_and_the_state_stays() {
    let seed = Random::seed_of_run(43);
    simulate(seed, async {
        let (world, bench) = begin(seed).await;
        let entries = 3 * (limits::ENTRIES_PER_SNAPSHOT + limits::ENTRIES_KEPT);
        for _ in 0..entries {
            bench.call(no_session(), attempt(&world.random)).await;
        }
        let status = bench.node.status();
        let kept = status.last_entry - status.purged_entry.expect("entries were purged");
        assert!(kept <= 2 * (limits::ENTRIES_PER_SNAPSHOT + limits::ENTRIES_KEPT), "{kept} entries are kept");
        let (hash, state) = (status.hash, bench.node.read().state_hash());
        let (content, mark) = world.disk.content();
        bench.node.stop_here().await;
        let killed = simulator::disk::SimDisk::holding(content, mark);
        for disk in [world.disk.clone(), killed] {
            let again = World::with(disk, world.random.clone(), world.key.clone());
            let node = again.open().await.expect("the node starts");
            assert!(node.status().hash == hash && node.read().state_hash() == state);
            node.stop_here().await;
        }
    });
}
