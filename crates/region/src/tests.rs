//! Rules one by one, then random gateways against a naive sum.

use std::collections::BTreeMap;
use std::time::Duration;

use headcount_model::{
    Category, ChannelKey, EdgeId, Fence, GatewayItem, GatewayUpdate, Incarnation, Monotonic,
    NodeId, Now, Occupancy, RegionName, ShardId, SourceId, Stage, Timestamp,
};
use proptest::prelude::*;

use crate::{Config, Effect, Input, Owner};

mod scenarios;

fn key(name: &str) -> ChannelKey {
    ChannelKey::new("app", name).unwrap()
}

fn counts(connections: u32) -> Occupancy {
    let mut occupancy = Occupancy::ZERO;
    occupancy.set(Category::Connections, connections);
    occupancy
}

fn session(edge: &str, number: u64) -> SourceId {
    let edge = EdgeId::new(edge).unwrap();
    SourceId::Edge {
        edge,
        incarnation: Incarnation(1),
        session: number,
    }
}

fn register(source: &SourceId, channel: &str, connections: u32) -> GatewayItem {
    let (channel, occupancy) = (key(channel), counts(connections));
    GatewayItem::Register {
        source: source.clone(),
        channel,
        occupancy,
    }
}

/// An owner with its clock, and what it has said.
struct World {
    owner: Owner,
    now: u64,
    sequences: BTreeMap<(u64, u64, u64), u64>,
}

impl World {
    fn claiming() -> Self {
        let region = RegionName::new("eu").unwrap();
        let owner = Owner::new(Config::default(), region, ShardId(3), Fence(9));
        let mut world = Self {
            owner,
            now: 0,
            sequences: BTreeMap::new(),
        };
        world.step(Input::Gateways {
            live: vec![(NodeId(1), Incarnation(1))],
        });
        world
    }

    /// An owner that has claimed this base and is past its adoption.
    fn settled() -> Self {
        let mut world = Self::claiming();
        world.claim(&[]);
        world.say(1, vec![GatewayItem::StreamComplete, GatewayItem::Recovered]);
        assert!(world.owner.is_settled());
        world
    }

    fn now(&self) -> Now {
        Now {
            monotonic: Monotonic(Duration::from_millis(self.now)),
            wall: Timestamp(self.now),
        }
    }

    fn step(&mut self, input: Input) -> Vec<String> {
        let mut effects = Vec::new();
        self.owner.step(self.now(), input, &mut effects);
        lines(effects)
    }

    fn claim(&mut self, base: &[(&str, u32)]) -> Vec<String> {
        let base = base
            .iter()
            .map(|(name, count)| (key(name), counts(*count)))
            .collect();
        self.step(Input::Claimed { base })
    }

    /// The gateway of a node says something on its first stream.
    fn say(&mut self, node: u64, items: Vec<GatewayItem>) -> Vec<String> {
        self.say_as(node, 1, 1, items)
    }

    fn say_as(
        &mut self,
        node: u64,
        life: u64,
        stream: u64,
        items: Vec<GatewayItem>,
    ) -> Vec<String> {
        let sequence = self.sequences.entry((node, life, stream)).or_default();
        *sequence += 1;
        let sequence = *sequence;
        self.step(Input::Update(GatewayUpdate {
            node: NodeId(node),
            incarnation: Incarnation(life),
            fence: Fence(9),
            stream,
            sequence,
            items,
        }))
    }

    fn later(&mut self, millis: u64) -> Vec<String> {
        self.now += millis;
        let mut effects = Vec::new();
        self.owner.on_deadline(self.now(), &mut effects);
        lines(effects)
    }
}

/// Effects but acknowledgements, as text: `+channel count`, `-channel`, `channel=count`, with `!`
/// for a crossing.
fn lines(effects: Vec<Effect>) -> Vec<String> {
    let line = |effect| match effect {
        Effect::Acknowledge { .. } => None,
        Effect::Transition(told) if told.active => Some(format!(
            "+{} {}",
            told.channel.name,
            told.occupancy.get(Category::Connections)
        )),
        Effect::Transition(told) => Some(format!("-{}", told.channel.name)),
        Effect::Register {
            channel,
            occupancy,
            crossing,
        } => {
            let mark = if crossing { "!" } else { "" };
            let count = occupancy.get(Category::Connections);
            Some(format!("{}={count}{mark}", channel.name))
        }
        Effect::Settled { missing } => Some(format!("settled {missing:?}")),
    };
    effects.into_iter().filter_map(line).collect()
}

#[test]
fn nothing_is_said_before_the_claim_applies() {
    let mut world = World::claiming();
    let edge = session("e", 1);
    assert!(world.say(1, vec![register(&edge, "c", 1)]).is_empty());
    assert_eq!(world.claim(&[]), ["+c 1"]);
}

#[test]
fn a_channel_lingers_before_it_goes_inactive() {
    let mut world = World::settled();
    let edge = session("e", 1);
    assert_eq!(world.say(1, vec![register(&edge, "c", 2)]), ["+c 2"]);
    assert_eq!(world.say(1, vec![register(&edge, "c", 0)]), ["c=0!"]);
    assert!(world.later(4_999).is_empty());
    assert_eq!(
        world.say(1, vec![register(&edge, "c", 1)]),
        ["c=1!"],
        "it came back in time"
    );
    assert!(world.later(10_000).is_empty());
    world.say(1, vec![register(&edge, "c", 0)]);
    world.later(3_000);
    world.say(1, vec![GatewayItem::Activity(key("c"))]);
    assert!(world.later(4_000).is_empty(), "activity renews the linger");
    assert_eq!(world.later(1_000), ["-c"]);
    assert_eq!(world.owner.active(), 0);
}

#[test]
fn adoption_publishes_no_decrease() {
    let mut world = World::claiming();
    world.claim(&[("kept", 2), ("gone", 1), ("grown", 1)]);
    let edge = session("e", 1);
    let told = world.say(
        1,
        vec![register(&edge, "kept", 1), register(&edge, "grown", 3)],
    );
    assert_eq!(told, ["grown=3"]);
    world.say(1, vec![GatewayItem::StreamComplete]);
    world.say(1, vec![register(&edge, "kept", 2)]);
    let settled = world.say(1, vec![GatewayItem::Recovered]);
    assert_eq!(settled, ["gone=0!", "settled []"]);
    assert_eq!(world.later(5_000), ["-gone"]);
}

#[test]
fn adoption_waits_for_every_leased_gateway_up_to_its_cap() {
    let mut world = World::claiming();
    let lives = vec![(NodeId(1), Incarnation(1)), (NodeId(2), Incarnation(1))];
    world.step(Input::Gateways { live: lives });
    world.claim(&[("c", 1)]);
    world.say(1, vec![GatewayItem::StreamComplete, GatewayItem::Recovered]);
    assert!(world.later(19_999).is_empty());
    let mut other = World {
        owner: world.owner.clone(),
        now: world.now,
        sequences: BTreeMap::new(),
    };
    assert_eq!(world.later(1), ["c=0!", "settled [NodeId(2)]"]);
    let ended = other.step(Input::Gateways {
        live: vec![(NodeId(1), Incarnation(1))],
    });
    assert_eq!(
        ended,
        ["c=0!", "settled []"],
        "the lease of the other has ended"
    );
}

#[test]
fn what_went_active_during_the_adoption_is_held_too() {
    let mut world = World::claiming();
    let live = vec![(NodeId(1), Incarnation(1)), (NodeId(2), Incarnation(1))];
    world.step(Input::Gateways { live });
    world.claim(&[]);
    let edge = session("e", 1);
    world.say(1, vec![GatewayItem::StreamComplete, GatewayItem::Recovered]);
    assert_eq!(world.say(1, vec![register(&edge, "c", 2)]), ["+c 2"]);
    assert!(world.say(1, vec![register(&edge, "c", 0)]).is_empty());
    assert!(
        world.later(10_000).is_empty(),
        "the other gateway may hold it"
    );
    let settled = world.say(2, vec![GatewayItem::StreamComplete, GatewayItem::Recovered]);
    assert_eq!(settled, ["c=0!", "settled []"]);
    assert_eq!(world.later(5_000), ["-c"]);
}

#[test]
fn a_newer_session_replaces_the_older_in_one_step() {
    let mut world = World::settled();
    let live = vec![(NodeId(1), Incarnation(1)), (NodeId(2), Incarnation(1))];
    world.step(Input::Gateways { live });
    let (old, new) = (session("e", 1), session("e", 2));
    world.say(
        1,
        vec![register(&old, "same", 3), register(&old, "left", 1)],
    );
    let staged = world.say(2, vec![register(&new, "same", 3), register(&new, "new", 1)]);
    assert!(
        staged.is_empty(),
        "the older session stands until the newer is complete"
    );
    let taken = world.say(2, vec![GatewayItem::SourceComplete(new.clone())]);
    assert_eq!(taken, ["left=0!", "+new 1"]);
    assert!(
        world.say(1, vec![register(&old, "same", 9)]).is_empty(),
        "it was replaced"
    );
    assert!(world.say(1, vec![GatewayItem::SourceEnded(old)]).is_empty());
    assert_eq!(
        world.say(2, vec![GatewayItem::SourceEnded(new)]),
        ["new=0!", "same=0!"]
    );
}

#[test]
fn a_staged_session_counts_once_the_older_has_ended() {
    let mut world = World::settled();
    let (old, new) = (session("e", 1), session("e", 2));
    world.say(1, vec![register(&old, "c", 3)]);
    world.say(1, vec![register(&new, "c", 2)]);
    assert_eq!(world.say(1, vec![GatewayItem::SourceEnded(old)]), ["c=2"]);
}

/// A new owner hears gateways in any order, and large sets in parts.
#[test]
fn an_edge_counts_once_also_if_its_newer_session_is_heard_first() {
    let mut world = World::settled();
    let live = vec![(NodeId(1), Incarnation(1)), (NodeId(2), Incarnation(1))];
    world.step(Input::Gateways { live });
    let (old, new) = (session("e", 1), session("e", 2));
    assert_eq!(world.say(2, vec![register(&new, "c", 1)]), ["+c 1"]);
    assert!(
        world.say(1, vec![register(&old, "c", 3)]).is_empty(),
        "one session of the edge counts"
    );
    // Of the two sets the older one is whole.
    let told = world.say(1, vec![GatewayItem::SourceComplete(old.clone())]);
    assert_eq!(told, ["c=3"], "it takes over in one step");
    assert!(world.say(2, vec![register(&new, "c", 2)]).is_empty());
    let told = world.say(2, vec![GatewayItem::SourceComplete(new.clone())]);
    assert_eq!(told, ["c=2"], "as the newer one does, once it is whole");
    assert!(world.say(1, vec![register(&old, "c", 3)]).is_empty());
    assert_eq!(world.say(2, vec![GatewayItem::SourceEnded(new)]), ["c=0!"]);
}

#[test]
fn an_older_session_that_does_not_count_leaves_the_newer_alone() {
    let mut world = World::settled();
    let (old, new) = (session("e", 1), session("e", 2));
    world.say(1, vec![register(&new, "c", 2)]);
    world.say(1, vec![register(&old, "c", 3)]);
    assert!(world.say(1, vec![GatewayItem::SourceEnded(old)]).is_empty());
    assert_eq!(world.owner.published(&key("c")), Some(counts(2)));
}

/// That it ended was lost with the stream before.
#[test]
fn a_complete_session_that_a_whole_set_does_not_name_is_over() {
    let mut world = World::settled();
    let (old, new) = (session("e", 1), session("e", 2));
    let complete = |source: &SourceId| GatewayItem::SourceComplete(source.clone());
    world.say(1, vec![complete(&new)]);
    world.say_as(1, 1, 2, vec![complete(&new), GatewayItem::StreamComplete]);
    assert!(
        world
            .say_as(1, 1, 2, vec![register(&old, "c", 1)])
            .is_empty(),
        "it stands, although it has nothing"
    );
    world.say_as(1, 1, 3, vec![GatewayItem::StreamComplete]);
    let told = world.say_as(1, 1, 3, vec![register(&old, "c", 1)]);
    assert_eq!(told, ["+c 1"]);
}

#[test]
fn a_new_stream_replaces_the_set() {
    let mut world = World::settled();
    let edge = session("e", 1);
    world.say(
        1,
        vec![register(&edge, "kept", 1), register(&edge, "lost", 1)],
    );
    assert!(
        world
            .say_as(1, 1, 2, vec![register(&edge, "kept", 1)])
            .is_empty()
    );
    assert_eq!(
        world.say_as(1, 1, 2, vec![GatewayItem::StreamComplete]),
        ["lost=0!"]
    );
    assert!(
        world.say(1, vec![register(&edge, "kept", 7)]).is_empty(),
        "the old stream is over"
    );
}

#[test]
fn a_restarted_node_takes_nothing_away_before_it_has_recovered() {
    let mut world = World::settled();
    let edge = session("e", 1);
    let clients = SourceId::Clients;
    world.say(1, vec![register(&edge, "c", 2), register(&clients, "d", 4)]);
    world.step(Input::Gateways {
        live: vec![(NodeId(1), Incarnation(2))],
    });
    assert!(
        world.say(1, vec![register(&edge, "c", 9)]).is_empty(),
        "its former life is over"
    );
    world.say_as(1, 2, 1, vec![GatewayItem::StreamComplete]);
    assert!(
        world
            .say_as(1, 2, 1, vec![register(&clients, "d", 3)])
            .is_empty()
    );
    let grown = world.say_as(1, 2, 1, vec![register(&clients, "d", 5)]);
    assert_eq!(grown, ["d=5"], "of both lives the larger counts");
    let again = session("e", 2);
    world.say_as(
        1,
        2,
        1,
        vec![register(&again, "c", 2), GatewayItem::SourceComplete(again)],
    );
    world.say_as(1, 2, 1, vec![register(&clients, "d", 3)]);
    assert_eq!(world.say_as(1, 2, 1, vec![GatewayItem::Recovered]), ["d=3"]);
}

#[test]
fn a_dead_node_takes_its_registers_along() {
    let mut world = World::settled();
    world.say(1, vec![register(&session("e", 1), "c", 2)]);
    assert_eq!(world.step(Input::Gateways { live: Vec::new() }), ["c=0!"]);
}

#[test]
fn repeated_and_stale_updates_are_acknowledged_but_change_nothing() {
    let mut world = World::settled();
    let update = |sequence, count| GatewayUpdate {
        node: NodeId(1),
        incarnation: Incarnation(1),
        fence: Fence(9),
        stream: 1,
        sequence,
        items: vec![register(&session("e", 1), "c", count)],
    };
    assert_eq!(world.step(Input::Update(update(2, 1))), ["+c 1"]);
    assert!(world.step(Input::Update(update(2, 5))).is_empty());
    assert!(
        world.step(Input::Update(update(4, 5))).is_empty(),
        "there is a hole before it"
    );
    let other = GatewayUpdate {
        fence: Fence(8),
        ..update(3, 5)
    };
    assert!(world.step(Input::Update(other)).is_empty());
    assert_eq!(world.step(Input::Update(update(3, 2))), ["c=2"]);
}

// Properties.

#[derive(Clone, Debug)]
enum Step {
    Register {
        node: u8,
        edge: u8,
        channel: u8,
        count: u32,
    },
    End {
        node: u8,
        edge: u8,
    },
    Restream {
        node: u8,
    },
    Later {
        millis: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..2_u8, 0..2_u8, 0..3_u8, 0..3_u32).prop_map(|(node, edge, channel, count)| {
            Step::Register { node, edge, channel, count }
        }),
        1 => (0..2_u8, 0..2_u8).prop_map(|(node, edge)| Step::End { node, edge }),
        1 => (0..2_u8).prop_map(|node| Step::Restream { node }),
        2 => (0..8_000_u64).prop_map(|millis| Step::Later { millis }),
    ];
    proptest::collection::vec(step, 0..80)
}

proptest! {
    /// Whatever gateways say, transitions are numbered without holes and alternate, registers speak
    /// of active channels only, and the region ends as the plain sum.
    #[test]
    fn the_region_is_the_sum_of_its_sources(steps in steps()) {
        let mut world = World::settled();
        let live = vec![(NodeId(1), Incarnation(1)), (NodeId(2), Incarnation(1))];
        world.step(Input::Gateways { live });
        let mut streams = [1_u64, 1];
        let mut sums: BTreeMap<(u8, u8, u8), u32> = BTreeMap::new();
        let mut effects = Vec::new();
        for step in steps {
            let items = match &step {
                Step::Register { node, edge, channel, count } => {
                    sums.insert((*node, *edge, *channel), *count);
                    let source = session(&format!("e{node}{edge}"), 1);
                    vec![register(&source, &format!("c{channel}"), *count)]
                }
                Step::End { node, edge } => {
                    sums.retain(|(n, e, _), _| (n, e) != (node, edge));
                    vec![GatewayItem::SourceEnded(session(&format!("e{node}{edge}"), 1))]
                }
                Step::Restream { node } => {
                    streams[usize::from(*node)] += 1;
                    let theirs = sums.iter().filter(|((n, ..), _)| n == node);
                    let mut items: Vec<GatewayItem> = theirs.map(|((n, e, channel), count)| {
                        register(&session(&format!("e{n}{e}"), 1), &format!("c{channel}"), *count)
                    }).collect();
                    items.push(GatewayItem::StreamComplete);
                    items
                }
                Step::Later { millis } => {
                    world.now += millis;
                    world.owner.on_deadline(world.now(), &mut effects);
                    continue;
                }
            };
            let node = match step {
                Step::Register { node, .. } | Step::End { node, .. } | Step::Restream { node } => node,
                Step::Later { .. } => continue,
            };
            let stream = streams[usize::from(node)];
            let sequence = world.sequences.entry((u64::from(node), 7, stream)).or_default();
            *sequence += 1;
            let update = GatewayUpdate {
                node: NodeId(u64::from(node) + 1),
                incarnation: Incarnation(1),
                fence: Fence(9),
                stream,
                sequence: *sequence + u64::from(node == 0 && stream == 1),
                items,
            };
            let now = world.now();
            world.owner.step(now, Input::Update(update.clone()), &mut effects);
            let before = effects.len();
            world.owner.step(now, Input::Update(update), &mut effects);
            let repeated = &effects[before..];
            prop_assert!(matches!(repeated, [Effect::Acknowledge { .. }]), "{:?}", repeated);
        }
        let mut active: BTreeMap<ChannelKey, Occupancy> = BTreeMap::new();
        let mut number = 0;
        for effect in effects {
            match effect {
                Effect::Transition(told) => {
                    number += 1;
                    prop_assert_eq!(told.number, number);
                    let before = if told.active {
                        active.insert(told.channel, told.occupancy).map(|_| ())
                    } else {
                        active.remove(&told.channel).map(|_| ())
                    };
                    prop_assert_eq!(before.is_some(), !told.active);
                }
                Effect::Register { channel, occupancy, .. } => {
                    prop_assert!(active.insert(channel, occupancy).is_some());
                }
                Effect::Acknowledge { .. } | Effect::Settled { .. } => {}
            }
        }
        let mut naive: BTreeMap<ChannelKey, Occupancy> = BTreeMap::new();
        for ((_, _, channel), count) in sums {
            let sum = naive.entry(key(&format!("c{channel}"))).or_default();
            *sum = sum.plus(counts(count));
        }
        naive.retain(|_, sum| !sum.is_zero());
        active.retain(|_, occupancy| !occupancy.is_zero());
        prop_assert_eq!(active, naive);
    }
}

/// What one gateway says of one channel.
fn said() -> impl Strategy<Value = (u64, u8, u32)> {
    (1..=2_u64, 0..3_u8, 0..4_u32)
}

/// An owner of two gateways that have been told to be there.
fn merging() -> Owner {
    let mut world = World::claiming();
    let live = vec![
        (NodeId(1), Incarnation(1)),
        (NodeId(2), Incarnation(1)),
        (NodeId(3), Incarnation(1)),
    ];
    world.step(Input::Gateways { live });
    world.claim(&[]);
    world.owner
}

proptest! {
    /// Merging what gateways say is commutative and associative, whichever of them is heard first,
    /// and idempotent: what is heard again changes nothing.
    #[test]
    fn merging_gateways_needs_no_order_and_no_once(
        said in proptest::collection::vec(said(), 0..30),
        turns in proptest::collection::vec(any::<bool>(), 60),
        again in proptest::collection::vec(0..3_usize, 30),
    ) {
        let mut queues = [Vec::new(), Vec::new()];
        for (node, channel, count) in &said {
            let queue = &mut queues[usize::from(*node == 2)];
            queue.push(GatewayUpdate {
                node: NodeId(*node),
                incarnation: Incarnation(1),
                fence: Fence(9),
                stream: 1,
                sequence: queue.len() as u64 + 1,
                items: vec![register(&session(&format!("e{node}"), 1), &format!("c{channel}"), *count)],
            });
        }
        let (now, mut effects) = (Now::default(), Vec::new());
        let mut in_turn = merging();
        for update in queues.iter().flatten() {
            in_turn.step(now, Input::Update(update.clone()), &mut effects);
        }
        let mut mixed = merging();
        let mut queues = queues.map(|queue| queue.into_iter().peekable());
        let mut heard: Vec<GatewayUpdate> = Vec::new();
        for (turn, again) in turns.iter().zip(again.iter().cycle()) {
            let [one, other] = &mut queues;
            let (first, second) = if *turn { (one, other) } else { (other, one) };
            let Some(update) = first.next().or_else(|| second.next()) else {
                break;
            };
            mixed.step(now, Input::Update(update.clone()), &mut effects);
            heard.push(update);
            for update in heard.iter().rev().take(*again) {
                mixed.step(now, Input::Update(update.clone()), &mut effects);
            }
        }
        // Once the adoption ends, what is published is what the gateways say.
        let settle = |mut owner: Owner| {
            let later = Now {
                monotonic: Monotonic(Duration::from_secs(20)),
                ..Now::default()
            };
            owner.on_deadline(later, &mut Vec::new());
            assert!(owner.is_settled());
            (0..3).map(|channel| {
                let published = owner.published(&key(&format!("c{channel}")));
                published.unwrap_or_default()
            }).collect::<Vec<_>>()
        };
        prop_assert_eq!(settle(in_turn), settle(mixed));
    }
}

/// An item of a gateway whose edges open sessions in the place of others, and end them.
fn of_sessions() -> impl Strategy<Value = GatewayItem> {
    let source =
        || (0..2_u8, 1..4_u64).prop_map(|(edge, number)| session(&format!("e{edge}"), number));
    prop_oneof![
        6 => (source(), 0..3_u8, 0..3_u32)
            .prop_map(|(source, channel, count)| register(&source, &format!("c{channel}"), count)),
        2 => source().prop_map(GatewayItem::SourceComplete),
        2 => source().prop_map(GatewayItem::SourceEnded),
        1 => Just(GatewayItem::StreamComplete),
    ]
}

proptest! {
    /// Where one update ends and the next begins is nobody's business: sources that end, begin to
    /// count and come back are the same in one update as one by one.
    #[test]
    fn updates_may_be_cut_anywhere(
        items in proptest::collection::vec(of_sessions(), 0..40),
        length in 2..40_usize,
    ) {
        let end = |updates: Vec<Vec<GatewayItem>>| {
            let mut world = World::settled();
            for items in updates {
                world.say(1, items);
            }
            world.now += 60_000;
            let now = world.now();
            world.owner.on_deadline(now, &mut Vec::new());
            (0..3).map(|channel| world.owner.published(&key(&format!("c{channel}")))).collect::<Vec<_>>()
        };
        let one_by_one = items.iter().map(|item| vec![item.clone()]).collect();
        let together = items.chunks(length).map(<[_]>::to_vec).collect();
        prop_assert_eq!(end(one_by_one), end(together));
    }
}
