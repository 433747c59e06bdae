//! The restart check: a voter whose disk is older than what its peers remember of it does not vote.
//!
//! **What is modelled.** Three voters with durable promises (Raft's terms), votes and logs. Leaders are elected by a
//! majority, begin their term with an entry of their own, append entries and copy their log to others; what a majority
//! has stored is acknowledged. Any voter may stop at any time and start again. Once, a copy of the disk of one of them, the
//! *victim*, is put in place of its disk while it is off: the disk is *rolled back*.
//!
//! Every voter keeps a durable *memory* of the others: the newest promise, vote and end of log that it knows them to have
//! stored. Only what the two others remember of the victim is kept in the model, because nobody can remember more of
//! a voter than what was on its disk, unless the disk was rolled back. Whoever takes part in a step of Raft with the
//! victim remembers it in that step: the product does so within a second, and a disk that is rolled back by less than
//! that is beyond the check. The third one learns it when it hears from the victim, which may be late or never.
//!
//! A voter that starts first *asks*: it answers others what it remembers of them, and does nothing else. By the answers,
//! the rule lets it vote again; or it is *out*: it would come back under another name, as a learner, which concerns no
//! election any more.
//!
//! **What must never be.** Two leaders in one term; a leader of a later term without an entry that was acknowledged.
//!
//! **What is not modelled.** Messages (a step between two voters is one step, in which both are up), snapshots, learners,
//! changes of membership.

use std::hash::Hash;

use stateright::{Model, Property};

/// Voters.
const VOTERS: usize = 3;
/// The voter whose disk may be rolled back.
const VICTIM: usize = 0;
/// Terms that a model may have.
const TERMS: usize = 3;
/// Entries that a log may have.
const LOG: usize = 4;

/// Name of the property that elections are what Raft says.
pub const ONE_LEADER: &str = "no term has two leaders";
/// Name of the property that nothing is lost.
pub const NOTHING_LOST: &str = "no acknowledged entry is lost";
/// Name of the property that a rolled-back disk is found.
pub const ROLLBACK_IS_FOUND: &str = "a voter with an old disk is kept from voting";

/// Name of the property that the check is no nuisance.
pub const HONEST_IS_LET_IN: &str = "nobody is kept out who has his own disk";

/// By which answers a voter that starts votes again. None of them may remember more of it than it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// No check.
    None,
    /// A majority has answered, the voter itself included.
    MajorityWithItself,
    /// A majority has answered, the voter itself included, and everybody else who is not dead.
    MajorityAndAllAlive,
    /// So many others have answered that every majority with this voter has another member among them.
    EveryMajorityOfOthers,
}

/// The model: how much may happen, and by which rule.
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// Highest term, at most three.
    pub terms: u8,
    /// Entries that clients write.
    pub entries: u8,
    /// Starts of voters in all.
    pub starts: u8,
    /// Voters that may be dead: off, and known to be so.
    pub deaths: u8,
    /// By which rule.
    pub rule: Rule,
}

/// Everything that is so at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    voters: [Voter; VOTERS],
    /// What each voter remembers of the victim; nothing in the victim's own place.
    memory: [Mark; VOTERS],
    copy: Copied,
    /// The longest log that was acknowledged, and the term in which it was.
    acknowledged: Log,
    acknowledged_in: u8,
    /// Who was elected in each term; one bit for each voter.
    elected: [u8; TERMS],
    written: u8,
    starts: u8,
}

/// The copy of the victim's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Copied {
    #[default]
    NotYet,
    Kept(Disk),
    /// It is in the disk's place.
    PutBack,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Voter {
    run: Run,
    disk: Disk,
    /// Leads the term of its promise.
    leads: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Run {
    #[default]
    Up,
    Off,
    /// Off, and the others know that it will not answer.
    Dead,
    /// Started, and not voting yet.
    Asking,
    /// Never to vote again under this name.
    Out,
}

/// What is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Disk {
    promise: u8,
    /// The voter that it voted for in this term, plus one; 0 = none.
    vote: u8,
    log: Log,
}

impl Disk {
    fn mark(&self) -> Mark {
        Mark { promise: self.promise, vote: self.vote, last: self.log.last() }
    }
}

/// What one remembers of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Mark {
    promise: u8,
    vote: u8,
    last: Last,
}

/// Term and number of a log's last entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Last {
    term: u8,
    length: u8,
}

/// Terms of the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Log {
    terms: [u8; LOG],
    length: u8,
}

impl Log {
    fn push(&mut self, term: u8) {
        self.terms[usize::from(self.length)] = term;
        self.length += 1;
    }

    fn is_full(self) -> bool {
        usize::from(self.length) == LOG
    }

    fn last(self) -> Last {
        let term = if self.length == 0 { 0 } else { self.terms[usize::from(self.length) - 1] };
        Last { term, length: self.length }
    }

    fn begins_with(self, other: Self) -> bool {
        let length = usize::from(other.length);
        self.length >= other.length && self.terms[..length] == other.terms[..length]
    }
}

impl Mark {
    /// Whether somebody who remembers this knows of something that `own` has not.
    fn exceeds(self, own: Self) -> bool {
        (self.promise, self.vote) > (own.promise, own.vote) || self.last > own.last
    }

    fn learn(&mut self, newer: Self) {
        let (promise, vote) = (self.promise, self.vote).max((newer.promise, newer.vote));
        *self = Self { promise, vote, last: self.last.max(newer.last) };
    }
}

/// One step. Voters are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the members are voters")]
pub enum Action {
    /// A voter becomes leader of its next term by the vote of another.
    Elect { candidate: usize, voter: usize },
    /// A leader writes an entry of a client.
    Append { leader: usize },
    /// A voter takes over its leader's log.
    Replicate { leader: usize, voter: usize },
    /// A voter hears from the victim and remembers what that one has.
    Hear { voter: usize },
    /// A copy of the victim's disk is made.
    Copy,
    /// A voter stops.
    Stop { voter: usize },
    /// A voter that is off will not come back soon, and the others know.
    Die { voter: usize },
    /// The copy takes the place of the victim's disk.
    RollBack,
    /// A voter starts, and asks.
    Start { voter: usize },
    /// A voter that asks has the answers of these; one bit each.
    Decide { voter: usize, answers: u8 },
}

impl Restart {
    /// Whether the answers of `answers` (bits) are enough for `voter`.
    fn suffices(&self, state: &State, voter: usize, answers: u8) -> bool {
        let others = answers.count_ones() as usize;
        let dead = |number: usize| state.voters[number].run == Run::Dead;
        match self.rule {
            Rule::None => true,
            Rule::MajorityWithItself => 2 * (others + 1) > VOTERS,
            Rule::MajorityAndAllAlive => {
                let all = (0..VOTERS).all(|other| other == voter || answers & 1 << other != 0 || dead(other));
                all && 2 * (others + 1) > VOTERS
            }
            // A majority with this voter has at least VOTERS / 2 others.
            Rule::EveryMajorityOfOthers => others + VOTERS / 2 >= VOTERS,
        }
    }

    fn elections(&self, state: &State, actions: &mut Vec<Action>) {
        for (candidate, asking) in state.voters.iter().enumerate() {
            let term = asking.disk.promise + 1;
            if asking.run != Run::Up || term > self.terms || asking.disk.log.is_full() {
                continue;
            }
            for (voter, asked) in state.voters.iter().enumerate() {
                let Mark { promise, vote, last } = asked.disk.mark();
                let free = promise < term || promise == term && (vote == 0 || usize::from(vote) == candidate + 1);
                if voter != candidate && asked.run == Run::Up && free && last <= asking.disk.log.last() {
                    actions.push(Action::Elect { candidate, voter });
                }
            }
        }
    }

    fn of_leader(&self, state: &State, leader: usize, actions: &mut Vec<Action>) {
        let leading = &state.voters[leader];
        if !leading.leads {
            return;
        }
        if state.written < self.entries && !leading.disk.log.is_full() {
            actions.push(Action::Append { leader });
        }
        for (voter, following) in state.voters.iter().enumerate() {
            let follows = following.disk.promise <= leading.disk.promise;
            if voter != leader && following.run == Run::Up && follows {
                actions.push(Action::Replicate { leader, voter });
            }
        }
    }

    fn of_process(&self, state: &State, voter: usize, actions: &mut Vec<Action>) {
        match state.voters[voter].run {
            Run::Up => actions.push(Action::Stop { voter }),
            Run::Off => {
                if state.starts < self.starts {
                    actions.push(Action::Start { voter });
                }
                let dead = state.voters.iter().filter(|voter| voter.run == Run::Dead).count();
                if dead < usize::from(self.deaths) {
                    actions.push(Action::Die { voter });
                }
            }
            Run::Dead if state.starts < self.starts => actions.push(Action::Start { voter }),
            Run::Asking => {
                let answering = |other: usize| matches!(state.voters[other].run, Run::Up | Run::Asking);
                for answers in 0..1_u8 << VOTERS {
                    let mut of = (0..VOTERS).filter(|other| answers & 1 << other != 0);
                    if of.all(|other| other != voter && answering(other)) && self.suffices(state, voter, answers) {
                        actions.push(Action::Decide { voter, answers });
                    }
                }
            }
            Run::Dead | Run::Out => {}
        }
    }
}

impl Model for Restart {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            voters: [Voter::default(); VOTERS],
            memory: [Mark::default(); VOTERS],
            copy: Copied::NotYet,
            acknowledged: Log::default(),
            acknowledged_in: 0,
            elected: [0; TERMS],
            written: 0,
            starts: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.elections(state, actions);
        for voter in 0..VOTERS {
            self.of_leader(state, voter, actions);
            self.of_process(state, voter, actions);
            let is_up = |number: usize| state.voters[number].run == Run::Up;
            if voter != VICTIM && is_up(voter) && is_up(VICTIM) {
                actions.push(Action::Hear { voter });
            }
        }
        match state.copy {
            Copied::NotYet => actions.push(Action::Copy),
            Copied::Kept(_) if state.voters[VICTIM].run == Run::Off => actions.push(Action::RollBack),
            Copied::Kept(_) | Copied::PutBack => {}
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        next.step(action);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_LEADER, |_, state: &State| {
                state.elected.iter().all(|elected| elected.count_ones() <= 1)
            }),
            Property::always(NOTHING_LOST, |_, state: &State| {
                let later = |voter: &Voter| voter.leads && voter.disk.promise >= state.acknowledged_in;
                state
                    .voters
                    .iter()
                    .filter(|voter| later(voter))
                    .all(|voter| voter.disk.log.begins_with(state.acknowledged))
            }),
            Property::always(HONEST_IS_LET_IN, |_, state: &State| {
                let kept_out = state.voters.iter().any(|voter| voter.run == Run::Out);
                !kept_out || state.copy == Copied::PutBack
            }),
            Property::sometimes(ROLLBACK_IS_FOUND, |_, state: &State| state.voters[VICTIM].run == Run::Out),
        ]
    }
}

impl State {
    fn step(&mut self, action: Action) {
        match action {
            Action::Elect { candidate, voter } => self.elect(candidate, voter),
            Action::Append { leader } => {
                self.written += 1;
                self.append(leader);
            }
            Action::Replicate { leader, voter } => self.replicate(leader, voter),
            Action::Hear { voter } => self.hear(voter),
            Action::Copy => self.copy = Copied::Kept(self.voters[VICTIM].disk),
            Action::Stop { voter } => self.voters[voter] = Voter { run: Run::Off, leads: false, ..self.voters[voter] },
            Action::Die { voter } => self.voters[voter].run = Run::Dead,
            Action::RollBack => {
                if let Copied::Kept(disk) = self.copy {
                    self.voters[VICTIM].disk = disk;
                    self.copy = Copied::PutBack;
                }
            }
            Action::Start { voter } => {
                self.starts += 1;
                self.voters[voter].run = Run::Asking;
            }
            Action::Decide { voter, answers } => self.decide(voter, answers),
        }
    }

    fn elect(&mut self, candidate: usize, voter: usize) {
        let term = self.voters[candidate].disk.promise + 1;
        for standing in [candidate, voter] {
            let standing = &mut self.voters[standing];
            standing.leads = false;
            standing.disk.promise = term;
            standing.disk.vote = number(candidate) + 1;
        }
        self.voters[candidate].leads = true;
        self.elected[usize::from(term) - 1] |= 1 << candidate;
        self.append(candidate);
        self.meet(candidate, voter);
    }

    fn append(&mut self, leader: usize) {
        let disk = &mut self.voters[leader].disk;
        disk.log.push(disk.promise);
    }

    /// The voter stores its leader's log; with two of three it is acknowledged.
    fn replicate(&mut self, leader: usize, voter: usize) {
        let Disk { promise: term, log, .. } = self.voters[leader].disk;
        let following = &mut self.voters[voter];
        if following.disk.promise < term {
            following.leads = false;
            following.disk.promise = term;
            following.disk.vote = 0;
        }
        following.disk.log = log;
        if log.length > self.acknowledged.length || term > self.acknowledged_in {
            self.acknowledged = log;
            self.acknowledged_in = term;
        }
        self.meet(leader, voter);
    }

    /// Two took part in the same step.
    fn meet(&mut self, one: usize, other: usize) {
        match (one, other) {
            (VICTIM, voter) | (voter, VICTIM) => self.hear(voter),
            _ => {}
        }
    }

    fn hear(&mut self, voter: usize) {
        self.memory[voter].learn(self.voters[VICTIM].disk.mark());
    }

    fn decide(&mut self, voter: usize, answers: u8) {
        let own = self.voters[voter].disk.mark();
        let mut others = (0..VOTERS).filter(|other| answers & 1 << other != 0);
        let is_old = voter == VICTIM && others.any(|other| self.memory[other].exceeds(own));
        self.voters[voter].run = if is_old { Run::Out } else { Run::Up };
    }
}

/// A voter's number as it is stored.
fn number(voter: usize) -> u8 {
    u8::try_from(voter).unwrap_or(u8::MAX)
}
