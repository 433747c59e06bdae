//! Prints how many durable commands a node does per second with one caller and with eight, and what one takes.
//!
//! `cargo run --release -p simulator --example durable_rate [FOLDER]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use hsm_core::Action;
use hsm_core::command::Origin;
use hsm_core::ids::AttemptId;
use hsm_protocol::{Role, UserName};
use hsm_replication::{Node, Outcome, Settings};
use simulator::world;

fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "target".to_owned());
    let folder = tempfile::tempdir_in(folder).expect("a folder");
    let settings = Settings::at(folder.path().join("store.redb"));
    let node = Arc::new(Node::form(settings, world::storage_key(1), world::form()).expect("a formed node"));
    let counts =
        std::env::args().nth(2).map_or(vec![1, 2, 4, 8, 16, 32], |count| vec![count.parse().expect("a number")]);
    for threads in counts {
        measure(&node, threads);
    }
    node.stop();
}

fn measure(node: &Arc<Node>, threads: usize) {
    let before = node.status();
    let start = Instant::now();
    let until = start + Duration::from_secs(2);
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let node = node.clone();
            std::thread::spawn(move || {
                let mut times = Vec::new();
                while Instant::now() < until {
                    let begun = Instant::now();
                    let outcome =
                        node.propose_and_wait(origin(), attempt(thread, times.len()), Duration::from_secs(10));
                    assert!(matches!(outcome, Outcome::Done { .. }), "done");
                    times.push(begun.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times: Vec<_> = workers.into_iter().flat_map(|worker| worker.join().expect("a worker")).collect();
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    let after = node.status();
    let commands = (after.flushed_commands - before.flushed_commands) as f64;
    let flushes = (after.flushes - before.flushes) as f64;
    println!(
        "{threads:2} threads: {rate:7.0} commands/s, median {:?}, p99 {:?}, {:.2} commands per fsync",
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        commands / flushes
    );
}

fn origin() -> Origin {
    Origin { session: None, sequence: 0, lowest_unanswered: 0 }
}

fn attempt(thread: usize, number: usize) -> Action {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(thread as u64).to_be_bytes());
    id[8..].copy_from_slice(&(number as u64).to_be_bytes());
    let name = UserName::new(&format!("user{thread}")).expect("a name");
    Action::ReserveAttempt { attempt: AttemptId(id), name, role: Role::CryptoUser }
}
