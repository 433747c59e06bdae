//! What may happen next in the model of the barrier, and what becomes of it.

use super::{ASKS, Ask, Barrier, Clocks, CountsFrom, Demands, Leader, Log, NODES, Stage, State};

/// One step. Nodes and terms are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the members are a leader's term, a node, or a place in the list of asks")]
pub enum Action {
    /// Time passes; one bit for each node whose clock is ahead afterwards.
    Tick { ahead: u8 },
    /// A voter becomes the leader of the next term by the vote of another.
    Elect { node: u8, voter: u8, term: u8 },
    /// A leader writes the deletion into its log.
    Delete { term: u8 },
    /// A node takes over its leader's log, or what it was before the deletion.
    Replicate { term: u8, node: u8, deletion: bool },
    /// A leader learns that a majority has the deletion.
    Commit { term: u8 },
    /// The asker learns from a leader that the deletion is committed, and applies it.
    Apply { term: u8 },
    /// A leader begins the barrier for the deletion.
    Begin { term: u8 },
    /// A leader hears from the asker that it has applied the deletion.
    HearApplied { term: u8 },
    /// The asker asks a leader for a lease.
    Ask { term: u8 },
    /// An ask, or its answer, is lost.
    Lose { ask: usize },
    /// The leader receives an ask; the round for it begins.
    Receive { ask: usize },
    /// A node confirms that it follows a leader: for the round of an ask.
    Confirm { ask: usize, node: u8 },
    /// A leader grants the lease.
    Grant { ask: usize },
    /// The asker has its lease.
    Lease { ask: usize },
    /// A leader tells the client that the key is deleted.
    Acknowledge { term: u8 },
    /// The asker restarts.
    Restart,
}

pub(super) fn actions(model: &Barrier, state: &State, actions: &mut Vec<Action>) {
    let clocks = if model.clocks == Clocks::Free { model.nodes() } else { 0 };
    actions.extend((0..1 << clocks).map(|ahead| Action::Tick { ahead }));
    actions.push(Action::Restart);
    elections(model, state, actions);
    for term in 1..=model.terms {
        of_leader(model, state, term, actions);
    }
    for ask in 0..ASKS {
        of_ask(model, state, ask, actions);
    }
}

fn elections(model: &Barrier, state: &State, actions: &mut Vec<Action>) {
    let Some(term) = (1..=model.terms).find(|&term| !state.leaders[usize::from(term) - 1].elected) else { return };
    for node in 0..model.voters() {
        let candidate = state.nodes[usize::from(node)];
        let others = (0..model.voters()).filter(|&voter| voter != node);
        let willing = others.filter(|&voter| {
            let voter = state.nodes[usize::from(voter)];
            voter.promise < term && candidate.promise < term && voter.log <= candidate.log
        });
        actions.extend(willing.map(|voter| Action::Elect { node, voter, term }));
    }
}

fn of_leader(model: &Barrier, state: &State, term: u8, actions: &mut Vec<Action>) {
    let leader = state.leaders[usize::from(term) - 1];
    if leader.elected && !leader.over && state.asks.iter().flatten().count() < model.asks {
        actions.push(Action::Ask { term });
    }
    // What was committed is the entry of this leader's log, and not another that asked for the same.
    if leader.committed && !state.applied && state.nodes[usize::from(model.asker())].log.deletion == leader.deletion {
        actions.push(Action::Apply { term });
    }
    if !state.leads(term) {
        return;
    }
    let log = state.nodes[usize::from(leader.node)].log;
    if log.deletion == 0 {
        actions.push(Action::Delete { term });
    }
    for node in (0..model.nodes()).filter(|&node| node != leader.node) {
        if state.nodes[usize::from(node)].promise <= term {
            actions.push(Action::Replicate { term, node, deletion: true });
            if log.deletion == term {
                actions.push(Action::Replicate { term, node, deletion: false });
            }
        }
    }
    if !leader.committed && model.is_majority(leader.stored) {
        actions.push(Action::Commit { term });
    }
    if leader.committed && !leader.barrier {
        actions.push(Action::Begin { term });
    }
    if leader.barrier && state.applied && !leader.asker_applied {
        actions.push(Action::HearApplied { term });
    }
    if leader.barrier && leader.wait == 0 && (leader.asker_applied || leader.heard == 0) && !state.acknowledged {
        actions.push(Action::Acknowledge { term });
    }
}

fn of_ask(model: &Barrier, state: &State, place: usize, actions: &mut Vec<Action>) {
    let Some(ask) = state.asks[place] else { return };
    actions.push(Action::Lose { ask: place });
    match ask.stage {
        Stage::Sent if state.leads(ask.term) => actions.push(Action::Receive { ask: place }),
        Stage::Received(confirmed) => {
            for node in (0..model.voters()).filter(|node| confirmed & 1 << node == 0) {
                if state.nodes[usize::from(node)].promise <= ask.term {
                    actions.push(Action::Confirm { ask: place, node });
                }
            }
            let confirmed = if model.rules.round_after_ask {
                confirmed
            } else {
                confirmed | state.leaders[usize::from(ask.term) - 1].confirmed
            };
            if state.leads(ask.term) && model.is_majority(confirmed) {
                actions.push(Action::Grant { ask: place });
            }
        }
        Stage::Granted { .. } => actions.push(Action::Lease { ask: place }),
        Stage::Sent => {}
    }
}

impl State {
    /// Whether the leader of this term believes that it leads, rightly or not.
    pub(super) fn leads(&self, term: u8) -> bool {
        let leader = self.leaders[usize::from(term) - 1];
        leader.elected && !leader.over && self.nodes[usize::from(leader.node)].promise == term
    }

    /// Makes `node` the leader of a term that these voters, itself included, have promised.
    pub(super) fn elect(&mut self, model: &Barrier, node: u8, term: u8, promised: &[u8]) {
        for &voter in promised {
            self.nodes[usize::from(voter)].promise = term;
        }
        let log = &mut self.nodes[usize::from(node)].log;
        // A leader begins its term with an entry of its own.
        log.term = term;
        let deletion = log.deletion;
        let leader = &mut self.leaders[usize::from(term) - 1];
        leader.node = node;
        leader.elected = true;
        leader.wait = if model.rules.new_leader_waits { model.patience() } else { 0 };
        leader.deletion = deletion;
        leader.stored = if deletion == 0 { 0 } else { 1 << node };
        self.note_confirmation(model, term, node);
    }

    pub(super) fn step(&mut self, model: &Barrier, action: Action) {
        match action {
            Action::Tick { ahead } => self.tick(model, ahead),
            Action::Elect { node, voter, term } => self.elect(model, node, term, &[node, voter]),
            Action::Delete { term } => {
                let leader = &mut self.leaders[usize::from(term) - 1];
                leader.deletion = term;
                leader.stored = 1 << leader.node;
                self.nodes[usize::from(leader.node)].log.deletion = term;
            }
            Action::Replicate { term, node, deletion } => self.replicate(model, term, node, deletion),
            Action::Commit { term } => self.leaders[usize::from(term) - 1].committed = true,
            Action::Begin { term } => self.leaders[usize::from(term) - 1].barrier = true,
            Action::Apply { .. } => self.applied = true,
            Action::HearApplied { term } => self.leaders[usize::from(term) - 1].asker_applied = true,
            Action::Acknowledge { .. } => self.acknowledged = true,
            Action::Restart => self.restart(model),
            Action::Ask { term } => {
                if let Some(free) = self.asks.iter_mut().find(|ask| ask.is_none()) {
                    *free = Some(Ask { age: 0, term, applied: self.applied, stage: Stage::Sent });
                }
            }
            Action::Lose { ask } => self.asks[ask] = None,
            Action::Receive { ask } => self.receive(model, ask),
            Action::Confirm { ask, node } => self.confirm(model, ask, node),
            Action::Grant { ask } => self.grant(model, ask),
            Action::Lease { ask } => self.take_lease(model, ask),
        }
        self.forget_what_is_over(model);
    }

    fn tick(&mut self, model: &Barrier, ahead: u8) {
        let mut passed = [0_u8; NODES];
        for (number, node) in self.nodes.iter_mut().enumerate() {
            let is_ahead = ahead & 1 << number != 0;
            passed[number] = 1 + u8::from(is_ahead) - u8::from(node.ahead);
            node.ahead = is_ahead;
        }
        let of_asker = passed[usize::from(model.asker())];
        self.lease = self.lease.saturating_sub(of_asker);
        for ask in self.asks.iter_mut().flatten() {
            ask.age = (ask.age + of_asker).min(model.lease_ticks());
        }
        for leader in &mut self.leaders {
            let of_leader = passed[usize::from(leader.node)];
            leader.wait = leader.wait.saturating_sub(of_leader);
            leader.heard = leader.heard.saturating_sub(of_leader);
        }
    }

    fn replicate(&mut self, model: &Barrier, term: u8, node: u8, deletion: bool) {
        let leader = &mut self.leaders[usize::from(term) - 1];
        let follower = &mut self.nodes[usize::from(node)];
        let has_it = follower.log == Log { term, deletion: leader.deletion };
        follower.promise = term;
        if deletion || has_it {
            follower.log = Log { term, deletion: leader.deletion };
            if leader.deletion != 0 {
                leader.stored |= 1 << node;
            }
        } else {
            follower.log = Log { term, deletion: 0 };
        }
        self.note_confirmation(model, term, node);
    }

    /// The asker forgets what was not on its disk. What it had applied is applied again when it hears from a leader.
    fn restart(&mut self, model: &Barrier) {
        self.lease = 0;
        self.asks = [None; ASKS];
        self.applied = false;
        for leader in self.leaders.iter_mut().filter(|leader| leader.elected && leader.node == model.asker()) {
            leader.over = true;
        }
    }

    fn receive(&mut self, model: &Barrier, place: usize) {
        let Some(ask) = &mut self.asks[place] else { return };
        let leader = &mut self.leaders[usize::from(ask.term) - 1];
        let inherited = leader.deletion != 0 && leader.deletion != ask.term;
        let demanded = match model.rules.lease_demands {
            Demands::AppliedAtAsk => inherited || leader.barrier,
            Demands::OwnBarriersAtAsk => leader.barrier,
            Demands::AppliedAtUse | Demands::KnownCommitsAtUse | Demands::Nothing => false,
        };
        if demanded && !ask.applied {
            self.asks[place] = None;
        } else {
            leader.heard = model.patience();
            ask.stage = Stage::Received(1 << leader.node);
        }
    }

    fn confirm(&mut self, model: &Barrier, place: usize, node: u8) {
        if let Some(Ask { term, stage: Stage::Received(confirmed), .. }) = &mut self.asks[place] {
            *confirmed |= 1 << node;
            let term = *term;
            self.nodes[usize::from(node)].promise = term;
            self.note_confirmation(model, term, node);
        }
    }

    fn grant(&mut self, model: &Barrier, place: usize) {
        if let Some(ask) = &mut self.asks[place] {
            let leader = self.leaders[usize::from(ask.term) - 1];
            let inherited = leader.deletion != 0 && leader.deletion != ask.term;
            let demands_deletion = match model.rules.lease_demands {
                Demands::AppliedAtUse => inherited || leader.committed,
                Demands::KnownCommitsAtUse => leader.committed,
                Demands::AppliedAtAsk | Demands::OwnBarriersAtAsk | Demands::Nothing => false,
            };
            ask.stage = Stage::Granted { demands_deletion };
        }
    }

    fn take_lease(&mut self, model: &Barrier, place: usize) {
        let Some(Ask { age, term, stage: Stage::Granted { demands_deletion }, .. }) = self.asks[place].take() else {
            return;
        };
        let left = match model.rules.lease_counts_from {
            CountsFrom::Sending => model.lease_ticks() - age,
            CountsFrom::Arrival => model.lease_ticks(),
        };
        if left >= self.lease {
            self.lease = left;
            self.lease_demands_deletion = demands_deletion;
            self.lease_term = term;
        }
    }

    fn note_confirmation(&mut self, model: &Barrier, term: u8, node: u8) {
        if !model.rules.round_after_ask {
            self.leaders[usize::from(term) - 1].confirmed |= 1 << node;
        }
    }

    /// Makes states alike that differ only in what can matter no more.
    fn forget_what_is_over(&mut self, model: &Barrier) {
        for term in 1..=model.terms {
            let leads = self.leads(term);
            let leader = &mut self.leaders[usize::from(term) - 1];
            if leader.elected && !leads {
                let Leader { node, deletion, committed, .. } = *leader;
                *leader = Leader { node, elected: true, over: true, deletion, committed, ..Leader::default() };
            }
            if self.acknowledged {
                leader.wait = 0;
                leader.heard = 0;
                leader.asker_applied = false;
                leader.barrier |= leader.committed && leads;
            }
        }
        for place in &mut self.asks {
            let Some(ask) = *place else { continue };
            let is_useless = model.rules.lease_counts_from == CountsFrom::Sending && ask.age >= model.lease_ticks();
            let is_lost = self.leaders[usize::from(ask.term) - 1].over && !matches!(ask.stage, Stage::Granted { .. });
            // An ask that is too old, if the leader received it, would only make the leader wait longer.
            if is_useless || is_lost {
                *place = None;
            }
        }
        if self.lease == 0 {
            self.lease_demands_deletion = false;
            self.lease_term = 0;
        }
        self.asks.sort_unstable();
    }
}
