//! Cuts, restarts and writes by chance: nothing is done twice or lost, no lease is held on a state before a barrier, and
//! when the faults are over everybody agrees and writes go on.
//!
//! The simulator replays what it finds; this is a smaller net, for every change to this crate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hsm_core::Index;
use hsm_replication::{Node, Outcome, Serving, Standing};
use parking_lot::Mutex;

use crate::support::{Yard, is_done, propose, start, version};

struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }

    fn place(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap()
    }
}

#[derive(Default)]
struct Tally {
    done: AtomicU64,
    unknown: AtomicU64,
    refused: AtomicU64,
    /// The highest index that anybody was told.
    told: AtomicU64,
}

type Nodes = Arc<Mutex<Vec<Option<Arc<Node>>>>>;

/// Proposes through any node until it is told to stop, and looks at barriers and reads.
async fn write(
    mut chance: Chance,
    nodes: Nodes,
    actions: Vec<hsm_core::Action>,
    tally: Arc<Tally>,
    over: Arc<AtomicBool>,
) {
    while !over.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(chance.below(200))).await;
        let place = chance.place(actions.len());
        let Some(node) = nodes.lock()[place].clone() else { continue };
        match start(&node, actions[place].clone()).await {
            Ok(Outcome::Done { index, .. }) => {
                assert!(node.applied() >= index, "who is told has applied it");
                tally.done.fetch_add(1, Ordering::SeqCst);
                tally.told.fetch_max(index.0, Ordering::SeqCst);
                if chance.below(4) == 0 {
                    barrier(&node, &nodes, index).await;
                }
            }
            Ok(Outcome::Unavailable(_)) => drop(tally.refused.fetch_add(1, Ordering::SeqCst)),
            Ok(Outcome::Unknown) | Err(_) => drop(tally.unknown.fetch_add(1, Ordering::SeqCst)),
        }
        if chance.below(4) == 0 {
            let told = tally.told.load(Ordering::SeqCst);
            if let Some(read) = node.read_index(Duration::from_secs(2)).await {
                assert!(read.0 >= told, "a read at {} misses {told}", read.0);
            }
        }
    }
}

async fn barrier(node: &Node, nodes: &Nodes, index: Index) {
    let Ok(unreached) = node.barrier(index, Duration::from_secs(20)).await else { return };
    for other in nodes.lock().iter().flatten() {
        let status = other.status();
        let named = unreached.iter().any(|one| one.node == status.node);
        match other.serving() {
            _ if status.applied >= index => {}
            Serving::Leased => panic!("{:x} holds a lease on a state before {}", status.node, index.0),
            Serving::Isolated { .. } => assert!(named, "{:x} may use its keys and is not named", status.node),
            Serving::Expired => {}
        }
    }
}

async fn torment(yard: &Yard, nodes: &Nodes, chance: &mut Chance) {
    let ids: Vec<u64> = yard.machines.iter().map(crate::support::Machine::id).collect();
    let place = chance.place(ids.len());
    match chance.below(7) {
        0 => yard.wires.isolate(ids[place], &ids),
        1 => yard.wires.cut_one_way(ids[place], ids[chance.place(ids.len())]),
        2 => {
            let node = nodes.lock()[place].take();
            if let Some(node) = node {
                yard.machines[place].stop(node).await;
                tokio::time::sleep(Duration::from_millis(chance.below(3000))).await;
                let node = yard.machines[place].open().await;
                nodes.lock()[place] = Some(node);
            }
        }
        3 => yard.wires.mute(ids[place], ids[chance.place(ids.len())]),
        4 => drop(yard.wires.twice.lock().insert(ids[place])),
        _ => {
            yard.wires.heal();
            yard.wires.twice.lock().clear();
        }
    }
    tokio::time::sleep(Duration::from_millis(chance.below(4000))).await;
}

async fn run(seed: u64) {
    println!("seed {seed}");
    let mut chance = Chance(seed);
    let mut yard = Yard::of(3 + chance.place(3)).await;
    yard.level().await;
    let before = yard.nodes[0].applied();
    let nodes: Nodes = Arc::new(Mutex::new(yard.nodes.drain(..).map(Some).collect()));
    let (tally, over) = (Arc::<Tally>::default(), Arc::<AtomicBool>::default());
    let actions: Vec<_> = yard.machines.iter().map(|machine| version(machine, "chaos")).collect();
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let chance = Chance(seed ^ ((writer + 1) << 32));
            tokio::spawn(write(chance, nodes.clone(), actions.clone(), tally.clone(), over.clone()))
        })
        .collect();
    for _ in 0..25 {
        torment(&yard, &nodes, &mut chance).await;
    }
    yard.wires.heal();
    yard.wires.twice.lock().clear();
    over.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
    yard.nodes = nodes.lock().drain(..).flatten().collect();
    yard.until("all are ready", |yard| yard.nodes.iter().all(|node| node.status().ready.is_ok())).await;
    yard.level().await;
    let applied = yard.nodes[0].applied().0 - before.0;
    let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    let (done, unknown) = (count(&tally.done), count(&tally.unknown));
    println!("{done} done, {unknown} unknown, {} refused, {applied} applied", count(&tally.refused));
    assert!(applied >= done, "{done} were acknowledged and {applied} applied");
    assert!(applied <= done + unknown, "something was done twice, or after it was called refused");
    assert!(done > 20);
    for (machine, node) in yard.machines.iter().zip(&yard.nodes) {
        assert_eq!(*machine.faults.lock(), [""; 0]);
        assert_eq!(node.status().standing, Standing::Member);
        assert!(is_done(&propose(node, version(machine, "after")).await));
    }
    yard.until("all hold a lease", |yard| yard.nodes.iter().all(|node| node.serving() == Serving::Leased)).await;
}

#[tokio::test(start_paused = true)]
async fn cuts_and_restarts_by_chance_lose_nothing_and_do_nothing_twice() {
    let first = std::env::var("KAGIMORI_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let count: u64 = std::env::var("KAGIMORI_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(6);
    for seed in first..first + count {
        run(seed).await;
    }
}
