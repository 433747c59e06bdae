//! The simulator of clusters itself: it replays, and it sees what it must see. `cargo xtask test --only simulation`.
#![cfg(hsm_sim)]

use simulator::cluster::plan::Plan;
use simulator::cluster::run::{Options, run};
use simulator::random::Random;

#[test]
fn a_seed_replays_exactly() {
    for seed in 1..6 {
        let (first, second) = (run(seed, &Options::default()), run(seed, &Options::default()));
        assert!(first.trace.1 > 1_000, "something happened");
        assert_eq!(first.trace, second.trace, "seed {seed}");
        let kept = run(seed, &Options { keep_lines: 50, ..Options::default() });
        assert_eq!(first.trace, kept.trace, "keeping the log changes nothing");
        assert_eq!(kept.lines.len(), 50);
    }
}

#[test]
fn another_seed_is_another_run() {
    let traces: Vec<_> = (11..15).map(|seed| run(seed, &Options::default()).trace).collect();
    assert!((1..traces.len()).all(|number| traces[number] != traces[0]));
}

#[test]
fn seeds_draw_clusters_of_every_size_and_every_kind_of_fault() {
    let plans: Vec<_> = (1..200).map(|seed| Plan::draw(&Random::new(seed))).collect();
    for members in 1..=6 {
        assert!(plans.iter().any(|plan| plan.members == members), "{members} members");
    }
    assert!(plans.iter().any(|plan| plan.witness));
    let drawn = |weight: fn(&Plan) -> u64| plans.iter().filter(|plan| weight(plan) > 0).count();
    let kinds: [fn(&Plan) -> u64; 12] = [
        |plan| plan.weights.crash,
        |plan| plan.weights.torn,
        |plan| plan.weights.blackout,
        |plan| plan.weights.pause,
        |plan| plan.weights.cut,
        |plan| plan.weights.clock,
        |plan| plan.weights.disk,
        |plan| plan.weights.damage,
        |plan| plan.weights.replace,
        |plan| plan.network.lost_one_in,
        |plan| plan.network.twice_one_in,
        |plan| plan.sync_microseconds,
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        assert!(drawn(kind) > 40, "kind {number}");
    }
}
