//! Clocks that jump end no session and make none live for ever.

use std::sync::Arc;

use hsm_core::{Actor, Stamp};
use hsm_protocol::Role;
use simulator::random::Random;
use simulator::workload::{Bench, Client};
use simulator::world::{World, simulate};

const YEAR: i64 = 365 * 24 * 3600 * 1000;

async fn logged_in(seed: u64) -> (World, Bench, Client) {
    let world = World::new(seed);
    let node = Arc::new(world.form().await.expect("a cluster is formed"));
    let bench = Bench::new(node, world.disk.clone(), world.random.clone());
    let mut admin = bench.begin().await;
    admin.create_user("alice").await;
    let mut client = Client::new(bench.clone(), "alice", Role::CryptoUser);
    client.log_in().await;
    (world, bench, client)
}

fn stands(bench: &Bench, actor: &Actor) -> bool {
    bench.node.read().check(actor, bench.node.now()).is_ok()
}

#[test]
fn a_clock_that_jumps_while_the_node_runs_ends_no_session() {
    let seed = Random::seed_of_run(31);
    simulate(seed, async {
        let (world, bench, mut client) = logged_in(seed).await;
        let mut last = Stamp(0);
        for jump in [10 * YEAR, -20 * YEAR, 3_600_000, -7_200_000, 50 * YEAR] {
            world.clock.jump(jump);
            tokio::time::sleep(std::time::Duration::from_secs(60)).await;
            client.create_key().await;
            assert!(stands(&bench, client.actor()), "after a jump of {jump} ms");
            let now = bench.node.now();
            assert!(now.0 >= last.0 + 52_000 && (last.0 == 0 || now.0 <= last.0 + 68_000), "time goes on steadily");
            last = now;
        }
        tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
        assert!(!stands(&bench, client.actor()), "an hour ends a session of an hour");
    });
}

#[test]
fn a_clock_that_is_wrong_at_the_restart_ends_no_session() {
    let seed = Random::seed_of_run(32);
    simulate(seed, async {
        for jump in [30 * YEAR, -30 * YEAR] {
            let (world, bench, mut client) = logged_in(seed).await;
            client.create_key().await;
            bench.node.stop_here().await;
            world.clock.jump(jump);
            let node = Arc::new(world.open().await.expect("the node starts"));
            let bench = Bench::new(node, world.disk.clone(), world.random.clone());
            assert!(stands(&bench, client.actor()), "after a restart with a jump of {jump} ms");
            client.move_to(bench.clone());
            client.create_key().await;
            bench.node.stop_here().await;
        }
    });
}
