//! The delete barrier: no bad state by the rules as they are, and a bad state for each rule that is broken.
//!
//! The tests that are ignored explore more (minutes and gigabytes): `cargo test --release -p models -- --ignored`.

use models::barrier::{
    Action, Barrier, Clocks, CountsFrom, DELETION_IS_ACKNOWLEDGED, Demands, KEY_IS_USED, NO_USE_AFTER_DELETION, Rules,
};
use stateright::{Checker, HasDiscoveries, Model};

/// Three voters, one of which asks; two leaders, one ask at a time.
const VOTER_ASKS: Barrier =
    Barrier { asker_votes: true, terms: 2, asks: 1, lease: 2, clocks: Clocks::Worst, rules: Rules::AS_DECIDED };

/// Explores everything; the promise holds, and what it is about does happen.
fn holds(model: Barrier) {
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!(
        "{} states, {} steps, at most {} deep",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth()
    );
    checker.assert_no_discovery(NO_USE_AFTER_DELETION);
    checker.assert_any_discovery(DELETION_IS_ACKNOWLEDGED);
    checker.assert_any_discovery(KEY_IS_USED);
}

/// Looks for the shortest way to a bad state, which there must be.
fn breaks(rules: Rules) -> Vec<Action> {
    let model = Barrier { rules, ..VOTER_ASKS };
    let checker = model.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let way = checker.assert_any_discovery(NO_USE_AFTER_DELETION).into_actions();
    println!("{} states until a bad one, by {way:?}", checker.unique_state_count());
    way
}

#[test]
fn no_leased_voter_uses_a_key_after_its_deletion_was_acknowledged() {
    holds(VOTER_ASKS);
}

#[test]
fn no_leased_learner_uses_a_key_after_its_deletion_was_acknowledged() {
    holds(Barrier { asker_votes: false, ..VOTER_ASKS });
}

#[test]
fn the_demand_may_be_made_when_the_lease_is_used_as_well() {
    holds(Barrier { rules: Rules { lease_demands: Demands::AppliedAtUse, ..Rules::AS_DECIDED }, ..VOTER_ASKS });
}

#[test]
#[ignore = "minutes: two asks of one HSM under way"]
fn two_asks_under_way_do_no_harm() {
    holds(Barrier { asks: 2, ..VOTER_ASKS });
}

#[test]
#[ignore = "minutes: three leaders"]
fn three_leaders_after_each_other_do_no_harm() {
    holds(Barrier { terms: 3, ..VOTER_ASKS });
}

#[test]
#[ignore = "minutes: every clock as it likes"]
fn clocks_that_differ_as_they_like_do_no_more_harm_than_the_worst() {
    holds(Barrier { clocks: Clocks::Free, ..VOTER_ASKS });
}

#[test]
fn a_new_leader_that_does_not_wait_breaks_it() {
    let way = breaks(Rules { new_leader_waits: false, ..Rules::AS_DECIDED });
    assert!(way.iter().any(|action| matches!(action, Action::Elect { .. })), "two leaders take part");
}

#[test]
fn a_lease_that_counts_from_the_arrival_of_its_grant_breaks_it() {
    breaks(Rules { lease_counts_from: CountsFrom::Arrival, ..Rules::AS_DECIDED });
}

#[test]
fn a_round_that_began_before_the_ask_breaks_it() {
    let way = breaks(Rules { round_after_ask: false, ..Rules::AS_DECIDED });
    assert!(!way.iter().any(|action| matches!(action, Action::Confirm { .. })), "nobody confirmed after the ask");
}

#[test]
fn a_leader_that_waits_hardly_longer_than_a_lease_breaks_it() {
    breaks(Rules { margin: Rules::AS_DECIDED.margin - 1, ..Rules::AS_DECIDED });
}

#[test]
fn a_lease_for_an_hsm_that_has_not_applied_what_was_acknowledged_breaks_it() {
    let way = breaks(Rules { lease_demands: Demands::Nothing, ..Rules::AS_DECIDED });
    assert!(!way.iter().any(|action| matches!(action, Action::Elect { .. })), "one leader is enough");
}

#[test]
fn a_new_leader_that_demands_only_what_it_knows_to_be_committed_breaks_it() {
    for lease_demands in [Demands::KnownCommitsAtUse, Demands::OwnBarriersAtAsk] {
        let way = breaks(Rules { lease_demands, ..Rules::AS_DECIDED });
        assert!(way.iter().any(|action| matches!(action, Action::Elect { .. })), "two leaders take part");
    }
}
