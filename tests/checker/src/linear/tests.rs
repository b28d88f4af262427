//! Histories that are linearizable and that are not, and all small ones against brute force.

use std::time::Duration;

use headcount_model::Category;
use proptest::prelude::*;

use super::*;

const STEPS: u64 = 1_000_000;

fn call<O>(op: O, invoked: u64, returned: Option<u64>) -> Call<O> {
    Call {
        op,
        invoked: Duration::from_millis(invoked),
        returned: returned.map(Duration::from_millis),
    }
}

fn counts(connections: u32) -> Occupancy {
    let mut counts = Occupancy::ZERO;
    counts.set(Category::Connections, connections);
    counts
}

fn apply(region: &str, version: u64, connections: u32) -> Op {
    let (region, occupancy) = (region.to_owned(), counts(connections));
    Op::Apply {
        region,
        version,
        occupancy,
    }
}

fn read(connections: u32) -> Op {
    Op::Read(counts(connections))
}

fn verdict(calls: &[Call<Op>]) -> Verdict {
    search(&Channel, calls, STEPS)
}

#[test]
fn reads_one_after_the_other_are_explained() {
    let calls = vec![
        call(read(0), 0, Some(1)),
        call(apply("us", 1, 2), 2, Some(3)),
        call(read(2), 4, Some(5)),
        call(apply("eu", 1, 3), 6, Some(9)),
        // While it is under way, both answers are right, in this order.
        call(read(2), 7, Some(8)),
        call(read(5), 7, Some(8)),
    ];
    assert_eq!(verdict(&calls), Verdict::Linearizable);
}

#[test]
fn a_stale_read_is_found() {
    let calls = vec![
        call(apply("us", 1, 2), 0, Some(1)),
        call(read(0), 2, Some(3)),
    ];
    let stuck = Verdict::Contradiction {
        explained: vec![0],
        stuck: vec![1],
    };
    assert_eq!(verdict(&calls), stuck);
}

#[test]
fn two_readers_that_saw_two_orders_are_found() {
    // Nobody knows when the change took effect, but it did for the first reader.
    let calls = |first, second| {
        vec![
            call(apply("us", 1, 2), 0, None),
            call(read(first), 1, Some(2)),
            call(read(second), 3, Some(4)),
        ]
    };
    assert_eq!(verdict(&calls(0, 2)), Verdict::Linearizable);
    assert_eq!(verdict(&calls(0, 0)), Verdict::Linearizable);
    assert!(matches!(
        verdict(&calls(2, 0)),
        Verdict::Contradiction { .. }
    ));
}

#[test]
fn old_counts_do_not_come_after_new_ones_and_expired_ones_may_come_again() {
    let back = vec![
        call(apply("us", 2, 5), 0, Some(1)),
        call(apply("us", 1, 3), 2, Some(3)),
        call(read(3), 4, Some(5)),
    ];
    assert!(matches!(verdict(&back), Verdict::Contradiction { .. }));
    let again = vec![
        call(apply("us", 1, 3), 0, Some(1)),
        call(
            Op::Void {
                region: "us".to_owned(),
            },
            0,
            None,
        ),
        call(read(0), 2, Some(3)),
        call(apply("us", 1, 3), 4, None),
        call(read(3), 5, Some(6)),
    ];
    assert_eq!(verdict(&again), Verdict::Linearizable);
}

#[test]
fn a_fault_names_the_channel_and_a_search_that_takes_too_long_is_given_up() {
    let stale = vec![
        call(apply("us", 1, 2), 0, Some(1)),
        call(read(0), 2, Some(3)),
    ];
    let channels = BTreeMap::from([
        ("bad".to_owned(), stale),
        ("good".to_owned(), vec![call(read(0), 0, Some(1))]),
    ]);
    let (faults, undecided) = judge(&channels, STEPS);
    assert_eq!((faults.len(), undecided), (1, 0));
    assert_eq!(faults[0].rule, Rule::Linearizability);
    assert!(faults[0].what.contains("bad") && faults[0].what.contains("not explained:\n  read"));
    assert_eq!(judge(&channels, 0), (Vec::new(), 2));
}

#[test]
fn two_hundred_calls_of_eight_at_a_time_are_searched() {
    // Eight clients, each after the other's start, so that all overlap.
    let mut calls = Vec::new();
    for round in 0..25_u64 {
        for client in 0..8_u64 {
            let at = round * 100 + client;
            let op = match client {
                0 => apply("us", round + 1, u32::try_from(round).unwrap() + 1),
                _ => read(u32::try_from(round).unwrap() + u32::from(client > 4)),
            };
            calls.push(call(op, at, Some(round * 100 + 90)));
        }
    }
    assert_eq!(verdict(&calls), Verdict::Linearizable);
    calls.push(call(read(3), 2_600, Some(2_601)));
    assert!(matches!(verdict(&calls), Verdict::Contradiction { .. }));
}

/// Tries every order of every subset that holds all answered calls.
fn brute_force(calls: &[Call<Op>]) -> bool {
    fn go(calls: &[Call<Op>], left: &[usize], state: &<Channel as Model>::State) -> bool {
        if left.iter().all(|index| calls[*index].returned.is_none()) {
            return true;
        }
        left.iter().any(|index| {
            let call = &calls[*index];
            let late = left.iter().any(|other| {
                calls[*other]
                    .returned
                    .is_some_and(|returned| returned < call.invoked)
            });
            let others: Vec<usize> = left
                .iter()
                .copied()
                .filter(|other| other != index)
                .collect();
            let after = Channel.step(state, &call.op);
            !late && after.is_some_and(|after| go(calls, &others, &after))
        })
    }
    let all: Vec<usize> = (0..calls.len()).collect();
    go(calls, &all, &Channel.initial())
}

fn ops() -> impl Strategy<Value = Op> {
    let region = || prop_oneof![Just("us"), Just("eu")];
    prop_oneof![
        3 => (0..4_u32).prop_map(read),
        2 => (region(), 1..3_u64, 0..3_u32).prop_map(|(of, version, n)| apply(of, version, n)),
        1 => region().prop_map(|of| Op::Void { region: of.to_owned() }),
    ]
}

fn calls() -> impl Strategy<Value = Vec<Call<Op>>> {
    let one = (ops(), 0..8_u64, proptest::option::weighted(0.8, 0..5_u64));
    let one = one.prop_map(|(op, from, takes)| call(op, from, takes.map(|takes| from + takes)));
    proptest::collection::vec(one, 0..7)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8 * ProptestConfig::default().cases))]

    #[test]
    fn the_search_finds_what_brute_force_finds(calls in calls()) {
        let found = search(&Channel, &calls, STEPS);
        prop_assert_eq!(found == Verdict::Linearizable, brute_force(&calls), "{:?}", found);
    }
}
