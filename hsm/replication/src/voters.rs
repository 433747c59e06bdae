//! Which members vote: a rule from what is known to the next set of voters.
//!
//! One HSM: it votes. Two HSMs: one votes, since of two voters either one's loss stops the cluster; with a witness all
//! three vote. From three HSMs on three vote, from five on five, spread over zones. The others learn. A voter stays one
//! unless it left the roster, was not heard of for long and another one can take its place, or stands in a zone whose loss
//! would stop the cluster when another zone has somebody. There is one change at a time, and none that the voters before
//! and after it could not decide by those of them that were just heard of.

use std::collections::{BTreeMap, BTreeSet};

use hsm_core::MemberKind;

use crate::types::NodeId;

/// What the rule looks at of one node.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    pub(crate) kind: MemberKind,
    pub(crate) zone: String,
    /// It is in the roster.
    pub(crate) listed: bool,
    pub(crate) voter: bool,
    /// It leads now.
    pub(crate) leader: bool,
    /// It was just heard of.
    pub(crate) alive: bool,
    /// It was not heard of for long.
    pub(crate) lost: bool,
    /// Its state has reached the leader's, with the same hash.
    pub(crate) ready: bool,
}

/// The next set of voters; `None` when it shall stay, or must.
pub(crate) fn next_voters(candidates: &[Candidate]) -> Option<BTreeSet<NodeId>> {
    let choice = Choice::of(candidates);
    let current: BTreeSet<NodeId> = candidates.iter().filter(|one| one.voter).map(|one| one.node).collect();
    let next = choice.next();
    let decidable = |voters: &BTreeSet<NodeId>| {
        let alive = candidates.iter().filter(|one| voters.contains(&one.node) && one.alive).count();
        2 * alive > voters.len()
    };
    (next != current && decidable(&current) && decidable(&next)).then_some(next)
}

struct Choice<'a> {
    target: usize,
    /// Voters that may stay.
    kept: Vec<&'a Candidate>,
    /// Others that may become voters.
    spare: Vec<&'a Candidate>,
}

impl<'a> Choice<'a> {
    fn of(candidates: &'a [Candidate]) -> Self {
        let listed = |kind| candidates.iter().filter(|one| one.listed && one.kind == kind).count();
        let (hsms, witnesses) = (listed(MemberKind::Hsm), listed(MemberKind::Witness));
        let target = match hsms {
            0..=1 => 1,
            2 if witnesses > 0 => 3,
            2 => 1,
            3..=4 => 3,
            _ => 5,
        };
        let may = |one: &&Candidate| one.listed && (one.kind == MemberKind::Hsm || hsms == 2);
        let kept = candidates.iter().filter(|one| one.voter).filter(may).collect();
        let spare = candidates.iter().filter(|one| !one.voter && one.ready && one.alive).filter(may).collect();
        Self { target, kept, spare }
    }

    fn next(mut self) -> BTreeSet<NodeId> {
        let mut next = std::mem::take(&mut self.kept);
        let before = next.len();
        while next.len() > self.target {
            remove_least(&mut next);
        }
        let trimmed = next.len() < before;
        let stays = next.len();
        while next.len() < self.target {
            let Some(best) = self.take_best(&next) else { break };
            next.push(best);
        }
        // An even number stands no more losses than the odd one below it.
        if next.len() > stays && next.len().is_multiple_of(2) {
            next.pop();
        }
        if !trimmed && next.len() == stays && next.len() == self.target {
            self.replace_one(&mut next);
        }
        next.iter().map(|one| one.node).collect()
    }

    /// The spare one whose zone has fewest of `chosen`.
    fn take_best(&mut self, chosen: &[&Candidate]) -> Option<&'a Candidate> {
        let best = (0..self.spare.len()).min_by_key(|&place| {
            let one = self.spare[place];
            (in_zone(chosen, &one.zone), one.kind, one.node)
        })?;
        Some(self.spare.remove(best))
    }

    /// One that is lost, or else one of a zone that has too many, for one that is better.
    fn replace_one(&mut self, next: &mut [&'a Candidate]) {
        let lost = next.iter().position(|one| one.lost);
        if let Some(place) = lost {
            let others: Vec<&Candidate> = next.iter().filter(|one| !one.lost).copied().collect();
            if let Some(best) = self.take_best(&others) {
                next[place] = best;
            }
            return;
        }
        let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
        next.iter().for_each(|one| *zones.entry(&one.zone).or_default() += 1);
        let bearable = next.len().saturating_sub(1) / 2;
        let crowded = zones.into_iter().max_by_key(|&(_, count)| count).filter(|&(_, count)| count > bearable);
        let Some((zone, count)) = crowded else { return };
        let place = next.iter().position(|one| one.zone == zone && !one.leader);
        let best = self.take_best(next).filter(|best| in_zone(next, &best.zone) + 1 < count);
        if let (Some(place), Some(best)) = (place, best) {
            next[place] = best;
        }
    }
}

fn in_zone(chosen: &[&Candidate], zone: &str) -> usize {
    chosen.iter().filter(|one| one.zone == zone).count()
}

/// Removes the one that is missed least: not the leader; first who is not heard of, then a witness, then of the zone that
/// has most.
fn remove_least(chosen: &mut Vec<&Candidate>) {
    let least = (0..chosen.len()).max_by_key(|&place| {
        let one = chosen[place];
        let crowd = in_zone(chosen, &one.zone);
        (!one.leader, one.lost, !one.alive, one.kind == MemberKind::Witness, crowd, one.node)
    });
    if let Some(least) = least {
        chosen.remove(least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hsm(node: NodeId, zone: &str) -> Candidate {
        Candidate {
            node,
            kind: MemberKind::Hsm,
            zone: zone.to_owned(),
            listed: true,
            voter: false,
            leader: false,
            alive: true,
            lost: false,
            ready: true,
        }
    }

    fn voter(node: NodeId, zone: &str) -> Candidate {
        Candidate { voter: true, leader: node == 1, ..hsm(node, zone) }
    }

    fn witness(node: NodeId) -> Candidate {
        Candidate { kind: MemberKind::Witness, ..hsm(node, "w") }
    }

    fn dead(one: Candidate) -> Candidate {
        Candidate { alive: false, lost: true, ready: false, ..one }
    }

    fn next(candidates: &[Candidate]) -> Option<Vec<NodeId>> {
        next_voters(candidates).map(|voters| voters.into_iter().collect())
    }

    #[test]
    fn one_votes_alone_and_of_two_hsms_too() {
        assert_eq!(next(&[voter(1, "a")]), None);
        assert_eq!(next(&[voter(1, "a"), hsm(2, "b")]), None);
    }

    #[test]
    fn two_hsms_and_a_witness_vote_together_once_both_newcomers_are_ready() {
        assert_eq!(next(&[voter(1, "a"), hsm(2, "b"), witness(3)]), Some(vec![1, 2, 3]));
        let unready = Candidate { ready: false, ..hsm(2, "b") };
        assert_eq!(next(&[voter(1, "a"), unready, witness(3)]), None);
    }

    #[test]
    fn a_witness_gives_way_to_the_third_hsm() {
        let witness = Candidate { voter: true, ..witness(3) };
        assert_eq!(next(&[voter(1, "a"), voter(2, "b"), witness, hsm(4, "c")]), Some(vec![1, 2, 4]));
    }

    #[test]
    fn three_of_three_and_of_four_vote_and_five_from_five_on() {
        assert_eq!(next(&[voter(1, "a"), hsm(2, "b"), hsm(3, "c")]), Some(vec![1, 2, 3]));
        let three = [voter(1, "a"), voter(2, "b"), voter(3, "c")];
        let with = |others: &[Candidate]| [&three[..], others].concat();
        assert_eq!(next(&with(&[hsm(4, "a")])), None);
        assert_eq!(next(&with(&[hsm(4, "a"), hsm(5, "b")])), Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(next(&with(&[hsm(4, "a"), dead(hsm(5, "b"))])), None, "four would stand no more than three");
    }

    #[test]
    fn voters_are_spread_over_zones() {
        let many = [voter(1, "a"), hsm(2, "a"), hsm(3, "a"), hsm(4, "b"), hsm(5, "c")];
        let many = &many.map(|one| Candidate { listed: true, ..one })[..];
        assert_eq!(next(&many[..4]), Some(vec![1, 2, 4]));
        let crowded = [voter(1, "a"), voter(2, "a"), voter(3, "b"), hsm(4, "c")];
        assert_eq!(next(&crowded), Some(vec![1, 3, 4]), "the loss of zone a would stop the cluster");
        let no_better = [voter(1, "a"), voter(2, "a"), voter(3, "b"), hsm(4, "b")];
        assert_eq!(next(&no_better), None);
    }

    #[test]
    fn a_voter_that_is_lost_is_replaced_and_one_that_was_just_missed_is_not() {
        let spare = hsm(4, "d");
        assert_eq!(next(&[voter(1, "a"), voter(2, "b"), dead(voter(3, "c")), spare.clone()]), Some(vec![1, 2, 4]));
        let missed = Candidate { alive: false, ..voter(3, "c") };
        assert_eq!(next(&[voter(1, "a"), voter(2, "b"), missed, spare]), None);
        assert_eq!(next(&[voter(1, "a"), voter(2, "b"), dead(voter(3, "c"))]), None, "nobody takes its place");
    }

    #[test]
    fn a_voter_that_left_the_roster_loses_its_vote() {
        let left = Candidate { listed: false, ..voter(3, "c") };
        assert_eq!(next(&[voter(1, "a"), voter(2, "b"), left.clone()]), Some(vec![1]));
        assert_eq!(next(&[voter(1, "a"), voter(2, "b"), left.clone(), hsm(4, "d")]), Some(vec![1, 2, 4]));
        let leader = Candidate { listed: false, ..voter(1, "a") };
        assert_eq!(next(&[leader.clone(), hsm(2, "b")]), Some(vec![2]), "a leader hands over");
        assert_eq!(next(&[leader, Candidate { ready: false, ..hsm(2, "b") }]), None);
    }

    #[test]
    fn nothing_changes_that_the_living_could_not_decide() {
        let two_dead = [voter(1, "a"), dead(voter(2, "b")), dead(voter(3, "c")), hsm(4, "d"), hsm(5, "e")];
        assert_eq!(next(&two_dead), None);
        let left = Candidate { listed: false, ..voter(3, "c") };
        let third = Candidate { ready: false, ..hsm(4, "d") };
        assert_eq!(next(&[voter(1, "a"), dead(voter(2, "b")), left, third]), None, "one of two is no majority");
    }
}
