//! What a seed decides before a run begins: how large the cluster is, how bad its network, its disks and its clocks are.

use std::time::Duration;

use crate::random::Random;

/// The conditions of one run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// HSMs in the cluster when the faults begin.
    pub members: usize,
    /// Whether a witness belongs to it (with two HSMs).
    pub witness: bool,
    /// Whether a node of another history of the same cluster takes the members for its own.
    pub stranger: bool,
    /// How long an HSM without a majority goes on, in seconds.
    pub window: u32,
    /// How long faults are injected.
    pub faults_for: Duration,
    /// Time between two faults, on average, in milliseconds.
    pub fault_every: u64,
    /// What a message meets.
    pub network: Weather,
    /// Crash, pause, cut and the like, each with its weight; 0 = never in this run.
    pub weights: Weights,
    /// Largest drift of a clock, in millionths.
    pub drift: u64,
    /// Time that a sync takes at most, in microseconds, on a slow disk; 0 = all disks are fast.
    pub sync_microseconds: u64,
    /// Users who make and destroy keys.
    pub users: usize,
    /// After this time the outcome of a command is unknown.
    pub propose_deadline: Duration,
}

/// What a message meets on its way.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Shortest time of a way, in microseconds.
    pub least: u64,
    /// Usual spread above it, in microseconds.
    pub spread: u64,
    /// One message in so many takes the long tail; 0 = none.
    pub tail_one_in: u64,
    /// Longest tail, in microseconds.
    pub tail: u64,
    /// One in so many is lost; 0 = none.
    pub lost_one_in: u64,
    /// One in so many arrives twice; 0 = none.
    pub twice_one_in: u64,
}

/// How often each kind of fault is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// Power off, and on again.
    pub crash: u64,
    /// Power off in the middle of a commit.
    pub torn: u64,
    /// Everything stops at once.
    pub blackout: u64,
    /// A process stands still.
    pub pause: u64,
    /// Links are cut.
    pub cut: u64,
    /// A clock jumps.
    pub clock: u64,
    /// A disk stalls, fails once, or is full for a while.
    pub disk: u64,
    /// A disk loses or alters what it held: lies, rots, is wiped, is replaced by an older copy. A minority only.
    pub damage: u64,
    /// An HSM is removed, and another joins.
    pub replace: u64,
}

impl Plan {
    /// The conditions of this seed.
    pub fn draw(random: &Random) -> Self {
        let members = [1, 2, 3, 3, 3, 3, 3, 4, 5, 6][random.place_below(10)];
        let one_in = |choices: &[u64]| choices[random.place_below(choices.len())];
        let network = Weather {
            least: one_in(&[50, 200, 1_000]),
            spread: one_in(&[200, 1_000, 5_000]),
            tail_one_in: one_in(&[0, 500, 100, 30]),
            tail: one_in(&[20_000, 150_000, 1_500_000]),
            lost_one_in: one_in(&[0, 0, 1_000, 100, 20]),
            twice_one_in: one_in(&[0, 500, 50, 10]),
        };
        let weight = |most: u64| if random.once_in(3) { 0 } else { 1 + random.below(most) };
        let weights = Weights {
            crash: 1 + weight(6),
            torn: weight(6),
            blackout: weight(2),
            pause: weight(4),
            cut: 1 + weight(6),
            clock: weight(2),
            disk: weight(3),
            damage: weight(3),
            replace: weight(2),
        };
        Self {
            members,
            witness: members == 2 && random.once_in(2),
            stranger: random.once_in(4),
            window: [0, 0, 5, 3_600][random.place_below(4)],
            faults_for: Duration::from_millis(12_000 + random.below(8_000)),
            fault_every: 200 + random.below(1_200),
            network,
            weights,
            drift: one_in(&[0, 1_000, 20_000]),
            sync_microseconds: one_in(&[0, 0, 500, 5_000, 40_000]),
            users: 2 + random.place_below(3),
            propose_deadline: Duration::from_millis(2_000 + random.below(8_000)),
        }
    }
}
