//! With all rules every world is searched to its end and keeps every promise; with one rule left
//! out, a world breaks one.

use headcount_protocol_model::check::{self, TABLE_HEAD};
use headcount_protocol_model::rules::{Rule, Rules};
use headcount_protocol_model::world::World;

/// Searches a world under all rules; `unique_min` keeps it from shrinking unnoticed.
#[expect(clippy::print_stdout, reason = "the state count is part of the result")]
fn exhaust(world: World, unique_min: usize) {
    let report = check::run(world, Rules::all());
    println!("{TABLE_HEAD}\n{report}");
    if let Some(found) = &report.counterexample {
        panic!("{} after {:#?}\n{}", found.property, found.steps, found.end);
    }
    assert!(report.exhausted, "the search ended early");
    assert!(report.unique >= unique_min, "only {} states", report.unique);
}

macro_rules! exhaust {
    ($($test:ident: $world:ident, $unique_min:literal;)*) => {$(
        #[test]
        fn $test() {
            exhaust(World::$world(), $unique_min);
        }
    )*};
}

exhaust! {
    three_owner_incarnations_keep_every_promise: claims, 1_000_000;
    a_client_that_comes_and_goes_keeps_every_promise: churn, 150_000;
    channels_that_share_a_fence_keep_every_promise: channels, 90_000;
    gateways_that_were_told_different_things_keep_every_promise: witnesses, 120_000;
    expiry_keeps_every_promise: expiry, 280_000;
    two_regions_keep_every_promise: regions, 280_000;
    adoption_keeps_every_promise: adoption, 60_000;
    gateway_restarts_keep_every_promise: restarts, 550_000;
    cursors_keep_every_promise: cursors, 1_500_000;
    roaming_between_live_regions_keeps_every_promise: roaming, 800_000;
    overflowing_cursors_keep_every_promise: overflow, 130_000;
}

#[test]
fn leaving_out_any_rule_breaks_a_promise() {
    println!("{TABLE_HEAD}");
    for (world, left_out) in check::ablations() {
        let report = check::run(world, Rules::all().without(&left_out));
        println!("{report}");
        let found = report.counterexample.unwrap_or_else(|| {
            panic!("nothing breaks in {} without {left_out:?}", report.world);
        });
        assert!(!found.steps.is_empty());
        assert_ne!(
            found.property, "nothing is stuck",
            "{left_out:?} should break a promise, not the model"
        );
    }
}

#[test]
fn every_rule_is_left_out_once() {
    let left_out: Vec<Rule> = check::ablations()
        .into_iter()
        .flat_map(|(_, rules)| rules)
        .collect();
    let forgotten: Vec<Rule> = Rule::ALL
        .into_iter()
        .filter(|rule| !left_out.contains(rule))
        .collect();
    assert_eq!(forgotten, [], "no world shows why these are needed");
}

/// Sequences already keep numbers in order. The numbers' own check is for what the model leaves
/// out (transitions dropped by R7), so leaving it out alone must change nothing.
#[test]
fn numbers_alone_are_a_second_lock() {
    for world in [World::churn(), World::witnesses(), World::channels()] {
        let report = check::run(world, Rules::all().without(&[Rule::Numbers]));
        println!("{report}");
        assert!(report.exhausted, "{:?}", report.counterexample);
    }
}
