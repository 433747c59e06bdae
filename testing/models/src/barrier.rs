//! The delete barrier with leases: once a deletion is acknowledged, no HSM that acts under a lease uses the key.
//!
//! **What is modelled.** Voters with promises (Raft's terms) and logs, of which only the deletion matters; leaders that
//! replicate, commit and are overtaken by later ones without noticing; one HSM, the *asker*, that asks leaders for leases
//! and uses the key while it has one. The asker is a voter, which may lead as well, or a learner beside the voters. More
//! askers would add nothing: a barrier waits for all of them, and one asker's lease does not touch another's.
//!
//! * An ask goes to a leader, may be late or lost, and is answered after a *round*: a majority confirms that it follows
//!   this leader. The confirmation and its arrival are two steps. Several asks may be under way.
//! * The lease is counted from the sending of the ask, in the asker's clock.
//! * A leader acknowledges the deletion when it is committed, the time of a new leader's wait is over, and the asker has
//!   either said that it applied the deletion or was silent for longer than a lease, in the leader's clock.
//! * The asker may restart at any time: it forgets its lease, its asks, and that it had applied the deletion.
//!
//! **Time** is counted in ticks. At each tick every clock moves on by one, but any of them may be ahead of true time by
//! one, and change between the two at any tick: over any stretch of time two clocks differ by at most two ticks, which is
//! what [`Rules::margin`] must make good. All times are counted down, so the model has no end of time: it is
//! explored until no new state comes.
//!
//! **What is not.** How logs are repaired (a follower takes over its leader's log in one step), votes and lost votes
//! (an election is one step, which is the worst case: the new leader's wait begins at once), and the isolation window:
//! what an HSM does without a lease is not this promise's matter, because the answer names that HSM.

mod step;

pub use step::Action;

use std::hash::Hash;

use stateright::{Model, Property};

/// Nodes that a model may have: three voters, and a learner.
pub(crate) const NODES: usize = 4;
/// Leaders that follow each other.
pub(crate) const TERMS: usize = 3;
/// Asks that are under way at one time.
pub(crate) const ASKS: usize = 2;

/// Name of the property that must hold.
pub const NO_USE_AFTER_DELETION: &str = "no leased HSM uses a key after its deletion was acknowledged";
/// Name of the property that something happens at all.
pub const DELETION_IS_ACKNOWLEDGED: &str = "a deletion is acknowledged while the asker is silent";
/// Name of the property that leases are of use.
pub const KEY_IS_USED: &str = "the asker uses the key under a lease of a later leader";

/// What the cluster must do. [`Rules::AS_DECIDED`] is what it does; every other value is a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A new leader waits for the longest lease of its forerunners before its first barrier.
    pub new_leader_waits: bool,
    /// From when the lease counts.
    pub lease_counts_from: CountsFrom,
    /// The round for an ask begins after the ask was received; else confirmations from before are good as well.
    pub round_after_ask: bool,
    /// What the asker must have applied.
    pub lease_demands: Demands,
    /// How many ticks a leader waits longer than a lease lasts.
    pub margin: u8,
}

/// From when a lease counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountsFrom {
    /// The sending of the ask.
    Sending,
    /// The arrival of the grant.
    Arrival,
}

/// What an HSM must have applied to have a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demands {
    /// When it asks: everything that was in the leader's log when its term began, and everything for which the leader has
    /// begun a barrier. Else the ask is refused, and the leader does not count it as heard.
    AppliedAtAsk,
    /// When it asks: only that for which this leader has begun a barrier.
    OwnBarriersAtAsk,
    /// When it uses the lease: everything that was in the leader's log when its term began, and what it has committed
    /// until the grant, which says so. As good as [`Demands::AppliedAtAsk`].
    AppliedAtUse,
    /// When it uses the lease: what the leader knew to be committed.
    KnownCommitsAtUse,
    /// Nothing.
    Nothing,
}

impl Rules {
    /// The rules of the product.
    pub const AS_DECIDED: Self = Self {
        new_leader_waits: true,
        lease_counts_from: CountsFrom::Sending,
        round_after_ask: true,
        lease_demands: Demands::AppliedAtAsk,
        margin: 2,
    };
}

/// How clocks go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clocks {
    /// Each as it likes within its bound.
    Free,
    /// The asker's as slow and the leaders' as fast as the bound allows.
    Worst,
}

/// The model: who takes part, how much, and by which rules.
#[derive(Clone, Copy, Debug)]
pub struct Barrier {
    /// Whether the asker votes (three voters, of which it is one) or learns (beside three voters).
    pub asker_votes: bool,
    /// Leaders that follow each other: at most three.
    pub terms: u8,
    /// Asks under way at one time: at most two.
    pub asks: usize,
    /// Ticks that a lease lasts.
    pub lease: u8,
    /// How clocks go wrong.
    pub clocks: Clocks,
    /// By which rules.
    pub rules: Rules,
}

/// Everything that is so at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(crate) nodes: [Node; NODES],
    pub(crate) leaders: [Leader; TERMS],
    /// Sorted, because their order says nothing.
    pub(crate) asks: [Option<Ask>; ASKS],
    /// Ticks of the asker's clock until its lease ends; 0 = none.
    pub(crate) lease: u8,
    /// The lease may be used only after the deletion was applied.
    pub(crate) lease_demands_deletion: bool,
    /// Term of the leader that granted it.
    pub(crate) lease_term: u8,
    /// The asker has applied the deletion.
    pub(crate) applied: bool,
    /// The client was told that the key is deleted.
    pub(crate) acknowledged: bool,
}

/// A member as Raft sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    /// It follows no leader of a lower term.
    pub(crate) promise: u8,
    pub(crate) log: Log,
    /// Its clock is one tick ahead.
    pub(crate) ahead: bool,
}

/// A log: under one term all logs are beginnings of the leader's, so two numbers say it all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Log {
    /// Term of its last entry.
    pub(crate) term: u8,
    /// Term of the entry that deletes the key; 0 = there is none.
    pub(crate) deletion: u8,
}

/// Whoever leads in a term; `leaders[0]` is the leader of term 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Leader {
    pub(crate) node: u8,
    pub(crate) elected: bool,
    /// It restarted, and leads no more.
    pub(crate) over: bool,
    /// Ticks of its clock before its first barrier may end.
    pub(crate) wait: u8,
    /// Ticks of its clock until the asker counts as silent.
    pub(crate) heard: u8,
    /// Nodes whose log has the deletion, as this leader knows; one bit each.
    pub(crate) stored: u8,
    /// Nodes that confirmed that they follow it, whenever; one bit each. Only the rule without rounds looks at it.
    pub(crate) confirmed: u8,
    /// Term of the entry in its log that deletes the key; 0 = there is none.
    pub(crate) deletion: u8,
    pub(crate) committed: bool,
    /// It waits until it may acknowledge the deletion.
    pub(crate) barrier: bool,
    /// The asker told it that it has applied the deletion.
    pub(crate) asker_applied: bool,
}

/// An ask for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ask {
    /// Ticks of the asker's clock since it was sent, at most the length of a lease.
    pub(crate) age: u8,
    /// Term of the leader that is asked.
    pub(crate) term: u8,
    /// The asker had applied the deletion when it asked.
    pub(crate) applied: bool,
    pub(crate) stage: Stage,
}

/// How far an ask is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stage {
    Sent,
    /// The leader has it and collects confirmations; one bit for each node.
    Received(u8),
    /// The answer is on its way.
    Granted {
        demands_deletion: bool,
    },
}

impl Barrier {
    pub(crate) fn voters(&self) -> u8 {
        3
    }

    pub(crate) fn nodes(&self) -> u8 {
        if self.asker_votes { 3 } else { 4 }
    }

    /// The asker: the first voter, or the learner.
    pub(crate) fn asker(&self) -> u8 {
        if self.asker_votes { 0 } else { 3 }
    }

    /// Ticks that a lease lasts: of the asker's clock, or of true time when that clock is slow.
    pub(crate) fn lease_ticks(&self) -> u8 {
        self.lease + u8::from(self.clocks == Clocks::Worst)
    }

    /// How long a leader waits for leases that it does not know to be over: by its clock, or in true time when that clock
    /// is fast.
    pub(crate) fn patience(&self) -> u8 {
        self.lease + self.rules.margin - u8::from(self.clocks == Clocks::Worst)
    }

    pub(crate) fn is_majority(&self, nodes: u8) -> bool {
        let voters = (1_u8 << self.voters()) - 1;
        (nodes & voters).count_ones() * 2 > u32::from(self.voters())
    }
}

impl State {
    /// The asker acts on the key now.
    pub(crate) fn uses_key(&self) -> bool {
        self.lease > 0 && !self.applied && !self.lease_demands_deletion
    }
}

impl Model for Barrier {
    type State = State;
    type Action = Action;

    /// The leader of term 1 was elected just now; it is the asker or another voter.
    fn init_states(&self) -> Vec<State> {
        let first = |leader: u8| {
            let mut state = State {
                nodes: [Node::default(); NODES],
                leaders: [Leader::default(); TERMS],
                asks: [None; ASKS],
                lease: 0,
                lease_demands_deletion: false,
                lease_term: 0,
                applied: false,
                acknowledged: false,
            };
            state.elect(self, leader, 1, &[0, 1, 2]);
            state
        };
        if self.asker_votes { vec![first(0), first(1)] } else { vec![first(0)] }
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        step::actions(self, state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        next.step(self, action);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NO_USE_AFTER_DELETION, |_, state: &State| !(state.acknowledged && state.uses_key())),
            Property::sometimes(DELETION_IS_ACKNOWLEDGED, |_, state: &State| state.acknowledged && !state.applied),
            Property::sometimes(KEY_IS_USED, |_, state: &State| state.uses_key() && state.lease_term > 1),
        ]
    }
}
