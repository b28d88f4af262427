//! With all rules every world is searched to its end and keeps every promise; with one rule left
//! out, a world breaks one.

use headcount_protocol_model::check::{self, Subject, TABLE_HEAD};
use headcount_protocol_model::rules::{Rule, Rules};
use headcount_protocol_model::world::World;
use headcount_protocol_model::{leases, newness, relay, sessions, uplink};

/// Searches a world under all rules; `unique_min` keeps it from shrinking unnoticed.
#[expect(clippy::print_stdout, reason = "the state count is part of the result")]
fn exhaust(subject: Subject, unique_min: usize) {
    let report = check::run(subject, Rules::all());
    println!("{TABLE_HEAD}\n{report}");
    if let Some(found) = &report.counterexample {
        panic!("{} after {:#?}\n{}", found.property, found.steps, found.end);
    }
    assert!(report.exhausted, "the search ended early");
    assert!(report.unique >= unique_min, "only {} states", report.unique);
}

macro_rules! exhaust {
    ($($test:ident: $world:expr, $unique_min:literal;)*) => {$(
        #[test]
        fn $test() {
            exhaust($world.into(), $unique_min);
        }
    )*};
}

exhaust! {
    three_owner_incarnations_keep_every_promise: World::claims(), 1_000_000;
    a_client_that_comes_and_goes_keeps_every_promise: World::churn(), 150_000;
    channels_that_share_a_fence_keep_every_promise: World::channels(), 90_000;
    gateways_that_were_told_different_things_keep_every_promise: World::witnesses(), 120_000;
    expiry_keeps_every_promise: World::expiry(), 280_000;
    two_regions_keep_every_promise: World::regions(), 280_000;
    adoption_keeps_every_promise: World::adoption(), 60_000;
    gateway_restarts_keep_every_promise: World::restarts(), 550_000;
    cursors_keep_every_promise: World::cursors(), 1_500_000;
    roaming_between_live_regions_keeps_every_promise: World::roaming(), 800_000;
    overflowing_cursors_keep_every_promise: World::overflow(), 130_000;
    words_to_an_owner_may_be_lost_and_late: uplink::World::uplink(), 45_000;
    lives_of_a_gateway_keep_every_promise: uplink::World::reborn(), 30_000;
    owners_that_follow_each_other_hear_all: uplink::World::owners(), 6_000;
    an_edge_goes_from_gateway_to_gateway: sessions::World::takeover(), 100_000;
    a_wandering_edge_is_counted_as_it_is: sessions::World::wandering(), 120_000;
    goodbyes_leave_nothing_behind: sessions::World::goodbye(), 10_000;
    a_direct_client_is_handed_over: sessions::World::handover(), 1_000;
    interests_before_the_log_miss_nothing: relay::World::interest(), 500_000;
    relay_owners_move_below_a_member_that_stays: relay::World::moving(), 15_000;
    a_dead_region_shows_nobody: relay::World::dead(), 25_000;
    a_member_between_two_nodes_is_shown_as_it_is: newness::World::newness(), 2_000;
    lives_of_a_node_end_in_order: leases::World::lives(), 500;
    elections_kill_nobody_who_lives: leases::World::elections(), 5_000;
}

#[test]
fn leaving_out_any_rule_breaks_a_promise() {
    println!("{TABLE_HEAD}");
    for (subject, left_out) in check::ablations() {
        let report = check::run(subject, Rules::all().without(&left_out));
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

/// The product's own rules: it only does not stop by its clock, and promises nothing that hangs on
/// that.
#[test]
fn a_node_that_acts_on_after_its_lease_breaks_no_other_promise() {
    let rules = Rules::all().without(&[Rule::StopInTime]);
    let report = check::run(leases::World::as_built().into(), rules);
    println!("{TABLE_HEAD}\n{report}");
    assert!(report.exhausted, "{:?}", report.counterexample);
    assert!(report.unique >= 5_000, "only {} states", report.unique);
}

/// Sequences already keep numbers in order. The numbers' own check is for what the model leaves
/// out (transitions dropped by R7), so leaving it out alone must change nothing.
#[test]
fn numbers_alone_are_a_second_lock() {
    for world in [World::churn(), World::witnesses(), World::channels()] {
        let report = check::run(world.into(), Rules::all().without(&[Rule::Numbers]));
        println!("{report}");
        assert!(report.exhausted, "{:?}", report.counterexample);
    }
}
