//! Whatever is altered in a store is named and refused, or makes no difference: never a wrong value, never a panic.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use hsm_core::ObjectHandle;
use hsm_core::command::SealedPayload;
use hsm_replication::{AuditEntry, Node, OpenFault};
use simulator::disk::SimDisk;
use simulator::random::Random;
use simulator::workload::{self, Bench};
use simulator::world::{World, simulate};

/// What a whole store says.
#[derive(PartialEq)]
struct Truth {
    applied: u64,
    hash: [u8; 48],
    state: [u8; 48],
    audit: Vec<AuditEntry>,
    payloads: Vec<Option<SealedPayload>>,
}

/// Objects have handles up to about this.
const HANDLES: u64 = 60;

/// Everything a node can be asked, or what it refuses with. `None` when a row was named and refused.
fn read(node: &Node) -> Option<Truth> {
    let mut audit = Vec::new();
    loop {
        let page = node.audit(audit.len() as u64 + 1, 100).ok()?;
        if page.is_empty() {
            break;
        }
        audit.extend(page);
    }
    let payloads = (0..HANDLES).map(|handle| node.payload(ObjectHandle(handle))).collect::<Result<_, _>>().ok()?;
    let (status, state) = (node.status(), node.read().state_hash());
    Some(Truth { applied: status.applied.0, hash: status.hash, state, audit, payloads })
}

/// A store that was closed, or was left by a kill, and what it says.
async fn make(seed: u64, killed: bool) -> (World, Truth) {
    let world = World::new(seed);
    let node = Arc::new(world.form().await.expect("a cluster is formed"));
    let bench = Bench::new(node.clone(), world.disk.clone(), world.random.clone());
    workload::run(&bench, 3, 10).await;
    let truth = read(&node).expect("a whole store");
    if killed {
        let (content, mark) = world.disk.content();
        node.stop_here().await;
        return (World::with(SimDisk::holding(content, mark), world.random.clone(), world.key.clone()), truth);
    }
    node.stop_here().await;
    (world, truth)
}

async fn flip_and_read(world: &World, truth: &Truth, flips: &[(usize, u8)]) -> bool {
    let (mut content, mark) = world.disk.content();
    for &(place, bits) in flips {
        content[place] ^= bits;
    }
    let altered = World::with(SimDisk::holding(content, mark), world.random.clone(), world.key.clone());
    let node = match altered.open().await {
        Ok(node) => node,
        Err(fault) => {
            assert!(!matches!(fault, OpenFault::Engine(_)), "{flips:?}: the cause is named: {fault}");
            return false;
        }
    };
    let found = read(&node);
    let right = found.as_ref().is_none_or(|found| {
        // A restart begins a new term and changes nothing else.
        found == truth
    });
    assert!(right, "{flips:?}: a wrong value was read");
    node.stop_here().await;
    found.is_some()
}

fn flip_many(killed: bool, default_seed: u64, times: usize) {
    let seed = Random::seed_of_run(default_seed);
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
        simulate(seed, async {
            let (world, truth) = make(seed, killed).await;
            assert!(flip_and_read(&world, &truth, &[]).await, "the store is whole before anything is altered");
            let length = world.disk.content().0.len();
            let mut refused = 0;
            for _ in 0..times {
                let place = world.random.place_below(length);
                let bits = 1 << world.random.below(8);
                refused += usize::from(!flip_and_read(&world, &truth, &[(place, bits)]).await);
            }
            for place in 0..4096 / 7 {
                refused += usize::from(!flip_and_read(&world, &truth, &[(place * 7, 0xff)]).await);
            }
            refused
        })
    }));
    drop(std::panic::take_hook());
    match outcome {
        Ok(refused) => println!("{refused} refused, the others made no difference"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[test]
fn a_flipped_bit_in_a_closed_store_is_named_or_makes_no_difference() {
    flip_many(false, 21, 1200);
}

#[test]
fn a_flipped_bit_in_a_killed_store_is_named_or_makes_no_difference() {
    flip_many(true, 22, 1200);
}
