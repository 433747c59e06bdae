//! The same log makes the same state, however often the node is restarted on the way and however commands fall into
//! entries.

use std::sync::Arc;

use hsm_core::command::Origin;
use hsm_core::{Action, Index};
use hsm_replication::{Node, Outcome};
use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};
use simulator::workload::{self, Bench};
use simulator::world::{World, simulate};

struct Line {
    commands: Vec<(Origin, Action)>,
    results: Vec<Outcome>,
    state: [u8; 48],
    audit: Vec<hsm_replication::AuditEntry>,
}

/// One client's life, in the order of the log.
async fn live(seed: u64) -> Line {
    let world = World::new(seed);
    world.clock.stand_still();
    let node = Arc::new(world.form().await.expect("a cluster is formed"));
    let bench = Bench::new(node.clone(), world.disk.clone(), world.random.clone());
    workload::run(&bench, 1, 25).await;
    let calls = bench.history.calls.lock().clone();
    let line = Line {
        commands: calls.iter().map(|call| (call.origin, call.action.clone())).collect(),
        results: calls.iter().filter_map(|call| call.outcome.clone()).collect(),
        state: node.read().state_hash(),
        audit: workload::audit_of(&node),
    };
    node.stop_here().await;
    line
}

/// The same commands again, so many at a time, with a restart after each group: clean, or as if killed.
async fn relive(
    seed: u64,
    line: &Line,
    groups: &[(usize, Option<bool>)],
) -> (Vec<Outcome>, [u8; 48], Vec<hsm_replication::AuditEntry>) {
    let mut world = World::new(seed);
    world.clock.stand_still();
    let mut node = Arc::new(world.form().await.expect("a cluster is formed"));
    let mut results = Vec::new();
    let mut rest = line.commands.as_slice();
    let mut groups = groups.iter().cycle();
    while !rest.is_empty() {
        let &(size, restart) = groups.next().expect("there are groups");
        let (group, later) = rest.split_at(size.clamp(1, rest.len()));
        rest = later;
        results.extend(propose_together(&node, group).await);
        if let Some(killed) = restart {
            let (content, mark) = world.disk.content();
            node.stop_here().await;
            if killed {
                let clock = world.clock.clone();
                world = World::with(simulator::disk::SimDisk::holding(content, mark), world.random, world.key);
                world.clock = clock;
            }
            node = Arc::new(world.open().await.expect("the node starts"));
        }
    }
    let state = node.read().state_hash();
    let audit = workload::audit_of(&node);
    node.stop_here().await;
    (results, state, audit)
}

async fn propose_together(node: &Node, group: &[(Origin, Action)]) -> Vec<Outcome> {
    let mut waiting = Vec::new();
    for (origin, action) in group {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done = move |outcome| assert!(sender.send(outcome).is_ok());
        node.propose(*origin, action.clone(), Box::new(done));
        waiting.push(receiver);
    }
    let mut outcomes = Vec::new();
    for receiver in waiting {
        outcomes.push(receiver.await.expect("an answer"));
    }
    outcomes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_same_log_makes_the_same_state(
        seed in any::<u64>(),
        groups in prop::collection::vec((1_usize..20, prop::option::of(any::<bool>())), 1..6),
    ) {
        simulate(seed, async {
            let line = live(seed).await;
            let (results, state, audit) = relive(seed, &line, &groups).await;
            prop_assert_eq!(results.len(), line.results.len());
            for (number, (first, second)) in line.results.iter().zip(&results).enumerate() {
                let index = |outcome: &Outcome| match outcome {
                    Outcome::Done { index, .. } => *index,
                    _ => Index(0),
                };
                prop_assert!(workload::same_result(first, second), "the result of command {}", number);
                prop_assert_eq!(index(first), index(second));
            }
            prop_assert!(state == line.state, "the state");
            prop_assert!(audit == line.audit, "the audit log");
            Ok(())
        })?;
    }
}
