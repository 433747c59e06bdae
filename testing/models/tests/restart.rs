//! The restart check: which rule keeps a voter with an old disk from doing harm, and which do not.
//!
//! The test that is ignored explores more (minutes and gigabytes): `cargo test --release -p models -- --ignored`.

use models::restart::{Action, HONEST_IS_LET_IN, NOTHING_LOST, ONE_LEADER, ROLLBACK_IS_FOUND, Restart, Rule};
use stateright::{Checker, HasDiscoveries, Model};

/// Two terms, one entry of a client beside those of the leaders, two starts.
const TWO_TERMS: Restart = Restart { terms: 2, entries: 1, starts: 2, deaths: 0, rule: Rule::EveryMajorityOfOthers };

/// Explores everything within the bounds; both promises hold, and old disks were found.
fn holds(model: Restart) {
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!(
        "{} states, {} steps, at most {} deep",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth()
    );
    for promise in [ONE_LEADER, NOTHING_LOST, HONEST_IS_LET_IN] {
        checker.assert_no_discovery(promise);
    }
    checker.assert_any_discovery(ROLLBACK_IS_FOUND);
}

/// Looks for the shortest way to this bad state, which there must be.
fn breaks(model: Restart, promise: &'static str) -> Vec<Action> {
    let finish = HasDiscoveries::AllOf([promise].into());
    let checker = model.checker().finish_when(finish).spawn_bfs().join();
    let way = checker.assert_any_discovery(promise).into_actions();
    println!("{} states until a bad one, by {way:?}", checker.unique_state_count());
    way
}

fn decided_without(way: &[Action], missing: usize) -> bool {
    way.iter().any(|action| matches!(action, Action::Decide { voter: 0, answers } if answers & 1 << missing == 0))
}

#[test]
fn a_voter_that_hears_from_every_majority_of_the_others_does_no_harm_with_an_old_disk() {
    holds(TWO_TERMS);
}

#[test]
fn a_voter_that_waits_for_everybody_who_is_alive_does_no_harm_when_nobody_is_dead() {
    holds(Restart { rule: Rule::MajorityAndAllAlive, ..TWO_TERMS });
}

#[test]
#[ignore = "minutes: three terms"]
fn three_terms_show_nothing_else() {
    holds(Restart { terms: 3, ..TWO_TERMS });
}

#[test]
fn without_the_check_a_term_has_two_leaders_and_an_acknowledged_entry_is_lost() {
    let model = Restart { rule: Rule::None, ..TWO_TERMS };
    breaks(model, ONE_LEADER);
    breaks(model, NOTHING_LOST);
}

#[test]
fn a_majority_that_counts_the_voter_itself_may_lack_the_only_one_who_remembers() {
    let model = Restart { rule: Rule::MajorityWithItself, ..TWO_TERMS };
    for promise in [ONE_LEADER, NOTHING_LOST] {
        let way = breaks(model, promise);
        assert!(decided_without(&way, 1) || decided_without(&way, 2), "somebody was not asked: {way:?}");
    }
}

#[test]
fn an_old_disk_while_the_only_one_who_remembers_is_dead_is_beyond_a_majority() {
    let model = Restart { rule: Rule::MajorityAndAllAlive, deaths: 1, ..TWO_TERMS };
    for promise in [ONE_LEADER, NOTHING_LOST] {
        let way = breaks(model, promise);
        assert!(way.iter().any(|action| matches!(action, Action::Die { .. })), "{way:?}");
    }
}
