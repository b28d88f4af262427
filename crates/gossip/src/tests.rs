//! Rules one by one, then a lossy path to a naive log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use headcount_model::{
    Batch, Category, ChannelKey, Claim, Fence, Incarnation, Monotonic, NodeId, Now, Occupancy,
    OwnerRef, RegionName, Stage, Timestamp, Transition,
};
use proptest::prelude::*;

use crate::{Config, Effect, Input, Outbox, Proposal};

mod scenarios;

fn key(name: &str) -> ChannelKey {
    ChannelKey::new("app", name).unwrap()
}

fn counts(connections: u32) -> Occupancy {
    let mut occupancy = Occupancy::ZERO;
    occupancy.set(Category::Connections, connections);
    occupancy
}

fn claim() -> Claim {
    let region = RegionName::new("eu").unwrap();
    let owner = OwnerRef {
        region,
        fence: Fence(4),
    };
    Claim {
        owner,
        node: NodeId(1),
        incarnation: Incarnation(1),
        tails: Vec::new(),
    }
}

fn transition(number: u64, name: &str, active: bool) -> Input {
    Input::Transition(Transition {
        number,
        channel: key(name),
        active,
        occupancy: counts(u32::from(active)),
        at: Timestamp(0),
        is_global_master: false,
    })
}

fn register(name: &str, count: u32, crossing: bool) -> Input {
    Input::Register {
        channel: key(name),
        occupancy: counts(count),
        crossing,
    }
}

fn applied(sequence: u64, number: u64) -> Input {
    Input::Applied {
        fence: Fence(4),
        sequence,
        number,
        settled: false,
    }
}

struct World {
    outbox: Outbox,
    now: u64,
}

impl World {
    fn claimed(config: Config) -> Self {
        let mut world = Self {
            outbox: Outbox::new(config, claim()),
            now: 10,
        };
        world.run(vec![]);
        world.run(vec![applied(0, 0)]);
        world
    }

    /// Feeds inputs, then lets deadlines act.
    fn run(&mut self, inputs: Vec<Input>) -> Vec<Proposal> {
        let now = Now {
            monotonic: Monotonic(Duration::from_millis(self.now)),
            ..Now::default()
        };
        let mut effects = Vec::new();
        for input in inputs {
            self.outbox.step(now, input, &mut effects);
        }
        if self
            .outbox
            .next_deadline()
            .is_some_and(|at| at <= now.monotonic)
        {
            self.outbox.on_deadline(now, &mut effects);
        }
        effects
            .into_iter()
            .map(|Effect::Propose(proposal)| proposal)
            .collect()
    }

    fn batches(&mut self, inputs: Vec<Input>) -> Vec<Arc<Batch>> {
        let batch = |proposal| match proposal {
            Proposal::Batch(batch) => batch,
            other => panic!("not a batch: {other:?}"),
        };
        self.run(inputs).into_iter().map(batch).collect()
    }
}

#[test]
fn the_claim_comes_first_and_is_repeated_until_applied() {
    let mut world = World {
        outbox: Outbox::new(Config::default(), claim()),
        now: 10,
    };
    let first = world.run(vec![register("c", 1, true)]);
    assert_eq!(first, [Proposal::Claim(Arc::new(claim()))]);
    assert!(world.run(vec![]).is_empty());
    world.now += 1_000;
    assert_eq!(world.run(vec![]).len(), 1);
    assert_eq!(world.run(vec![Input::PathChanged]).len(), 1);
    let other = Input::Applied {
        fence: Fence(3),
        sequence: 0,
        number: 0,
        settled: false,
    };
    assert!(
        world.run(vec![other]).is_empty(),
        "that is an older owner's mark"
    );
    let batches = world.batches(vec![applied(0, 0)]);
    assert_eq!(
        batches[0].registers.len(),
        1,
        "what came meanwhile follows at once"
    );
}

#[test]
fn what_is_in_flight_is_sent_again_at_once_when_the_path_changed() {
    // Long before it would be sent again by itself, also right after the process began.
    let mut world = World::claimed(Config::default());
    let batches = world.batches(vec![register("c", 1, true)]);
    assert_eq!(world.batches(vec![Input::PathChanged]), batches);
    assert!(world.batches(vec![]).is_empty(), "once");
    world.now += 999;
    assert!(world.batches(vec![]).is_empty(), "not earlier than before");
    world.batches(vec![applied(1, 0)]);
    assert!(world.batches(vec![Input::PathChanged]).is_empty());
}

#[test]
fn transitions_and_crossings_hurry_and_counts_wait() {
    let mut world = World::claimed(Config::default());
    assert!(world.run(vec![register("c", 1, false)]).is_empty());
    world.now += 49;
    assert!(world.run(vec![register("c", 2, false)]).is_empty());
    world.now += 1;
    let batches = world.batches(vec![]);
    assert_eq!(
        batches[0].registers[0].occupancy,
        counts(2),
        "coalesced to the last"
    );
    assert_eq!(world.batches(vec![register("c", 0, true)]).len(), 1);
    let batches = world.batches(vec![transition(1, "d", true), register("c", 4, false)]);
    assert_eq!(
        (
            batches.len(),
            batches[0].transitions.len(),
            batches[0].registers.len()
        ),
        (1, 1, 1)
    );
}

#[test]
fn batches_are_resent_unchanged_until_applied() {
    let mut world = World::claimed(Config::default());
    let first = world.batches(vec![transition(1, "c", true)]);
    let second = world.batches(vec![register("c", 2, true)]);
    world.now += 1_000;
    let again = world.batches(vec![register("c", 3, false)]);
    assert_eq!(again, [first, second].concat());
    world.now += 1_000;
    let rest = world.batches(vec![applied(1, 1)]);
    assert_eq!(
        rest.iter().map(|batch| batch.sequence).collect::<Vec<_>>(),
        [2, 3]
    );
    world.run(vec![applied(3, 1)]);
    assert!(world.outbox.is_drained());
    assert_eq!(world.outbox.next_deadline(), None);
}

#[test]
fn a_full_window_coalesces() {
    let mut world = World::claimed(Config {
        window: 2,
        ..Config::default()
    });
    for count in 1..10 {
        world.run(vec![register("c", count, true)]);
    }
    assert_eq!(world.outbox.stats().in_flight, 2);
    let next = world.batches(vec![applied(1, 0)]);
    assert_eq!(
        (next[0].sequence, next[0].registers[0].occupancy),
        (3, counts(9))
    );
}

#[test]
fn a_channel_that_changes_all_the_time_is_not_put_before_one_that_waits() {
    let config = Config {
        items_max: 1,
        window: 1,
        ..Config::default()
    };
    let mut world = World::claimed(config);
    let mut told = Vec::new();
    let mut inputs = vec![register("b", 1, true), register("c", 1, true)];
    for sequence in 1..=3 {
        inputs.push(register("a", sequence, true));
        let batches = world.batches(std::mem::take(&mut inputs));
        told.push(batches[0].registers[0].channel.clone());
        inputs.push(applied(u64::from(sequence), 0));
    }
    told.sort_unstable();
    assert_eq!(told, ["a", "b", "c"].map(key));
}

#[test]
fn counts_go_on_however_many_transitions_wait() {
    let config = Config {
        items_max: 8,
        window: 1,
        ..Config::default()
    };
    let mut world = World::claimed(config);
    let names: Vec<String> = (0..20).map(|of| format!("c{of:02}")).collect();
    let transitions = (1..)
        .zip(&names)
        .map(|(at, name)| transition(at, name, true));
    let inputs = [register("z", 7, true)].into_iter().chain(transitions);
    let first = world.batches(inputs.collect());
    assert_eq!(
        (first[0].transitions.len(), first[0].registers.len()),
        (7, 1)
    );
}

#[test]
fn counts_go_on_however_long_the_names_of_transitions_are() {
    let mut world = World::claimed(Config::default());
    let names: Vec<String> = (0..800).map(|of| format!("{of:0>200}")).collect();
    let transitions = (1..)
        .zip(&names)
        .map(|(at, name)| transition(at, name, true));
    let inputs = [register("z", 7, true)].into_iter().chain(transitions);
    let first = world.batches(inputs.collect());
    assert!(first[0].transitions.len() < names.len(), "it is full");
    assert_eq!(first[0].registers.len(), 1);
}

#[test]
fn registers_do_not_overtake_transitions() {
    let config = Config {
        items_max: 2,
        window: 1,
        ..Config::default()
    };
    let mut world = World::claimed(config);
    let inputs = vec![
        transition(1, "a", true),
        transition(2, "b", true),
        transition(3, "c", true),
        register("c", 7, false),
        register("a", 5, false),
    ];
    let first = world.batches(inputs);
    assert_eq!(
        (first[0].transitions.len(), first[0].registers.len()),
        (2, 0)
    );
    let second = world.batches(vec![applied(1, 2)]);
    assert_eq!(
        (second[0].transitions.len(), second[0].registers.len()),
        (1, 1)
    );
    let third = world.batches(vec![applied(2, 3)]);
    assert_eq!(third[0].registers[0].channel, key("c"));
}

#[test]
fn only_pairs_that_no_batch_holds_are_dropped() {
    let config = Config {
        window: 1,
        pending_max: 4,
        ..Config::default()
    };
    let mut world = World::claimed(config);
    world.run(vec![transition(1, "c", true)]);
    let flapping = (2..=9).map(|number| transition(number, "c", number % 2 == 1));
    world.run(flapping.collect());
    assert!(world.outbox.stats().dropped >= 4);
    let mut numbers = vec![1];
    let mut sequence = 1;
    while !world.outbox.is_drained() {
        let batches = world.batches(vec![applied(sequence, 0)]);
        for batch in &batches {
            numbers.extend(&batch.dropped);
            numbers.extend(batch.transitions.iter().map(|transition| transition.number));
            sequence = batch.sequence;
        }
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=9).collect::<Vec<_>>());
}

#[test]
fn settling_follows_every_earlier_transition() {
    let mut world = World::claimed(Config::default());
    world.run(vec![transition(1, "c", true), Input::Settled]);
    assert!(world.run(vec![]).is_empty());
    let settled = world.run(vec![applied(1, 1)]);
    assert_eq!(settled, [Proposal::Settled(claim().owner)]);
    world.now += 1_000;
    assert_eq!(world.run(vec![]).len(), 1, "it is repeated until applied");
    world.run(vec![Input::Applied {
        fence: Fence(4),
        sequence: 1,
        number: 1,
        settled: true,
    }]);
    assert!(world.outbox.is_drained());
}

#[test]
fn settling_needs_no_news_of_what_the_log_has_already() {
    let mut world = World::claimed(Config::default());
    world.run(vec![transition(1, "c", true)]);
    assert!(world.run(vec![applied(1, 1)]).is_empty());
    // A quiet shard: nothing more will be applied to hear of.
    let settled = world.run(vec![Input::Settled]);
    assert_eq!(settled, [Proposal::Settled(claim().owner)]);
}

// Properties.

#[derive(Clone, Debug)]
enum Step {
    Flip {
        channel: u8,
    },
    Count {
        channel: u8,
        count: u32,
    },
    Later {
        millis: u64,
    },
    /// Delivers one of the proposals under way, chosen by number, maybe keeping it under way.
    Deliver {
        which: usize,
        keep: bool,
    },
    Lose {
        which: usize,
    },
    Acknowledge,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..3_u8).prop_map(|channel| Step::Flip { channel }),
        3 => (0..3_u8, 1..4_u32).prop_map(|(channel, count)| Step::Count { channel, count }),
        2 => (0..800_u64).prop_map(|millis| Step::Later { millis }),
        5 => (any::<usize>(), any::<bool>()).prop_map(|(which, keep)| Step::Deliver { which, keep }),
        1 => any::<usize>().prop_map(|which| Step::Lose { which }),
        3 => Just(Step::Acknowledge),
    ];
    proptest::collection::vec(step, 0..120)
}

/// A log that takes exactly the next batch, and what it makes of the channels.
#[derive(Default)]
struct NaiveLog {
    sequence: u64,
    number: u64,
    active: BTreeMap<ChannelKey, Occupancy>,
}

impl NaiveLog {
    fn apply(&mut self, batch: &Batch) {
        if batch.sequence != self.sequence + 1 {
            return;
        }
        self.sequence += 1;
        let mut dropped = batch.dropped.iter().peekable();
        for transition in &batch.transitions {
            while dropped
                .next_if(|number| **number == self.number + 1)
                .is_some()
            {
                self.number += 1;
            }
            self.number += 1;
            assert_eq!(transition.number, self.number, "numbers have no holes");
            let was = if transition.active {
                self.active
                    .insert(transition.channel.clone(), transition.occupancy)
            } else {
                self.active.remove(&transition.channel)
            };
            assert_eq!(was.is_some(), !transition.active, "transitions alternate");
        }
        self.number += dropped.count() as u64;
        for register in &batch.registers {
            let known = self.active.get_mut(&register.channel);
            *known.expect("registers speak of active channels") = register.occupancy;
        }
    }
}

proptest! {
    /// However proposals are lost, repeated and reordered, the log ends as the region is.
    #[test]
    fn the_log_ends_as_the_region_is(steps in steps(), window in 1..4_usize, items_max in 1..5_usize) {
        let config = Config { window, items_max, pending_max: 6, ..Config::default() };
        let mut world = World::claimed(config);
        let mut log = NaiveLog::default();
        let mut region: BTreeMap<ChannelKey, Occupancy> = BTreeMap::new();
        let mut under_way: Vec<Proposal> = Vec::new();
        let mut number = 0;
        for step in steps {
            let inputs = match step {
                Step::Flip { channel } => {
                    number += 1;
                    let name = format!("c{channel}");
                    let active = region.remove(&key(&name)).is_none();
                    if active {
                        region.insert(key(&name), counts(1));
                    }
                    vec![transition(number, &name, active)]
                }
                Step::Count { channel, count } => {
                    let name = format!("c{channel}");
                    match region.get_mut(&key(&name)) {
                        Some(known) => {
                            *known = counts(count);
                            vec![register(&name, count, count == 1)]
                        }
                        None => vec![],
                    }
                }
                Step::Later { millis } => {
                    world.now += millis;
                    vec![]
                }
                Step::Deliver { which, keep } if !under_way.is_empty() => {
                    let at = which % under_way.len();
                    let proposal =
                        if keep { under_way[at].clone() } else { under_way.remove(at) };
                    if let Proposal::Batch(batch) = proposal {
                        log.apply(&batch);
                    }
                    vec![]
                }
                Step::Lose { which } if !under_way.is_empty() => {
                    let at = which % under_way.len();
                    under_way.remove(at);
                    vec![]
                }
                Step::Acknowledge => vec![applied(log.sequence, log.number)],
                Step::Deliver { .. } | Step::Lose { .. } => vec![],
            };
            under_way.extend(world.run(inputs));
        }
        for _ in 0..1_000 {
            if world.outbox.is_drained() {
                break;
            }
            world.now += 1_000;
            for proposal in world.run(vec![applied(log.sequence, log.number)]) {
                if let Proposal::Batch(batch) = proposal {
                    log.apply(&batch);
                }
            }
        }
        prop_assert!(world.outbox.is_drained());
        prop_assert_eq!(log.active, region);
        prop_assert_eq!(log.number, number);
    }
}
