//! What every subscriber is promised, over random histories.

use std::collections::{BTreeMap, BTreeSet};

use headcount_feed::Config;
use headcount_model::{EventId, EventKind, EventKinds, Position, WatchFilter, WatchItem};
use proptest::prelude::*;

use crate::world::{NODES, Watcher, World, channel, events_of, region};

/// Channels that change one by one.
const CHANNELS: usize = 4;
/// Channels that a burst changes on top: more than a cursor lists.
const BURST: usize = 66;

/// One thing that happens. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Op {
    Claim {
        region: usize,
        tail_max: usize,
    },
    Flip {
        region: usize,
        channel: usize,
    },
    Burst {
        region: usize,
    },
    FlipDeposed {
        region: usize,
        channel: usize,
        which: usize,
    },
    Drop {
        region: usize,
        channel: usize,
    },
    Ship {
        region: usize,
        count: usize,
    },
    Settle {
        region: usize,
    },
    Expire {
        region: usize,
        chunk: usize,
    },
    Occupancy {
        channel: usize,
    },
    Commit,
    Apply {
        node: usize,
        count: u64,
    },
    Early {
        node: usize,
        which: usize,
        lost: bool,
        twice: bool,
    },
    AllEarly {
        node: usize,
    },
    Restart {
        node: usize,
    },
    Jump {
        node: usize,
    },
    Trim {
        keep: u64,
    },
    Watch {
        node: usize,
        filter: usize,
    },
    Read {
        watcher: usize,
        items: usize,
    },
    Resume {
        watcher: usize,
        node: usize,
        forget: usize,
    },
}

fn ops(trims: bool, bursts: bool) -> impl Strategy<Value = Vec<Op>> {
    let region = 0..3_usize;
    let channel = 0..CHANNELS;
    let node = 0..NODES.len();
    let op = prop_oneof![
        3 => (region.clone(), 0..4_usize).prop_map(|(region, tail_max)| Op::Claim { region, tail_max }),
        12 => (region.clone(), channel.clone()).prop_map(|(region, channel)| Op::Flip { region, channel }),
        1 => region.clone().prop_map(move |region| {
            if bursts { Op::Burst { region } } else { Op::Commit }
        }),
        2 => (region.clone(), channel.clone(), 0..4_usize)
            .prop_map(|(region, channel, which)| Op::FlipDeposed { region, channel, which }),
        5 => (region.clone(), channel.clone()).prop_map(|(region, channel)| Op::Drop { region, channel }),
        6 => (region.clone(), 1..4_usize).prop_map(|(region, count)| Op::Ship { region, count }),
        3 => region.clone().prop_map(|region| Op::Settle { region }),
        2 => (region, 1..3_usize).prop_map(|(region, chunk)| Op::Expire { region, chunk }),
        2 => channel.prop_map(|channel| Op::Occupancy { channel }),
        6 => Just(Op::Commit),
        10 => (node.clone(), 1..5_u64).prop_map(|(node, count)| Op::Apply { node, count }),
        6 => (node.clone(), 0..4_usize, prop::bool::weighted(0.2), prop::bool::weighted(0.2))
            .prop_map(|(node, which, lost, twice)| Op::Early { node, which, lost, twice }),
        6 => node.clone().prop_map(|node| Op::AllEarly { node }),
        1 => node.clone().prop_map(|node| Op::Restart { node }),
        1 => node.clone().prop_map(|node| Op::Jump { node }),
        1 => (0..8_u64).prop_map(move |keep| Op::Trim { keep: if trims { keep } else { u64::MAX } }),
        2 => (node.clone(), 0..4_usize).prop_map(|(node, filter)| Op::Watch { node, filter }),
        10 => (0..8_usize, 1..4_usize).prop_map(|(watcher, items)| Op::Read { watcher, items }),
        5 => (0..8_usize, node, 0..3_usize)
            .prop_map(|(watcher, node, forget)| Op::Resume { watcher, node, forget }),
    ];
    prop::collection::vec(op, 1..120)
}

fn filter(n: usize) -> WatchFilter {
    let regional = [EventKind::RegionActive, EventKind::RegionInactive];
    match n {
        0 | 1 => WatchFilter::default(),
        2 => WatchFilter {
            kinds: regional.into_iter().collect(),
            ..WatchFilter::default()
        },
        _ => WatchFilter {
            prefix: "c1".into(),
            ..WatchFilter::default()
        },
    }
}

fn config() -> Config {
    Config {
        ring_events_max: 12,
        rollup_lag_events: 12,
        batch_events_max: 3,
        ..Config::default()
    }
}

fn play(ops: Vec<Op>, config: Config) -> World {
    let mut world = World::new(config);
    for node in 0..NODES.len() {
        world.watch(node, filter(node));
    }
    for at in 0..3 {
        world.claim(at, 0);
        world.log.settle(at);
        world.log.commit();
    }
    for op in ops {
        perform(&mut world, &op);
    }
    world.quiesce();
    world
}

fn perform(world: &mut World, op: &Op) {
    match *op {
        Op::Claim { region, tail_max } => world.claim(region, tail_max),
        Op::Flip { region, channel: n } => world.flip(region, &channel(n), None),
        Op::Burst { region } => {
            for n in CHANNELS..CHANNELS + BURST {
                world.flip(region, &channel(n), None);
            }
        }
        Op::FlipDeposed {
            region,
            channel: n,
            which,
        } => {
            let now = &world.log.now[region];
            let deposed: Vec<_> = world
                .owners
                .iter()
                .filter(|owner| owner.region == region)
                .collect();
            let which = which % deposed.len();
            if deposed[which].fence < now.fence || now.ended {
                world.flip(region, &channel(n), Some(which));
            }
        }
        Op::Drop { region, channel: n } => world.drop_pair(region, &channel(n)),
        Op::Ship { region, count } => world.ship(region, count),
        Op::Settle { region } => {
            if !world.log.now[region].ended {
                world.log.settle(region);
            }
        }
        Op::Expire { region, chunk } => world.log.expire(region, chunk),
        Op::Occupancy { channel: n } => world.log.occupancy(&channel(n)),
        Op::Commit => world.log.commit(),
        Op::Apply { node, count } => world.apply(node, count),
        Op::Early {
            node,
            which,
            lost,
            twice,
        } => {
            if world.nodes[node].early.is_empty() {
                return;
            }
            let which = which % world.nodes[node].early.len();
            let event = if twice {
                world.nodes[node].early[which].clone()
            } else {
                world.nodes[node].early.remove(which)
            };
            if !lost {
                world.hear(node, event);
            }
        }
        Op::AllEarly { node } => {
            for event in std::mem::take(&mut world.nodes[node].early) {
                world.hear(node, event);
            }
        }
        Op::Restart { node } => world.restart(node),
        Op::Jump { node } => world.jump(node, world.log.last()),
        Op::Trim { keep } => world.oldest = world.oldest.max(world.log.last().saturating_sub(keep)),
        Op::Watch { node, filter: n } => {
            if world.watchers.len() < 8 {
                world.watch(node, filter(n));
            }
        }
        Op::Read { watcher, items } => {
            let watcher = watcher % world.watchers.len();
            world.read(watcher, items);
        }
        Op::Resume {
            watcher,
            node,
            forget,
        } => {
            let watcher = watcher % world.watchers.len();
            world.resume(watcher, node, forget);
        }
    }
}

/// What a watcher knows: per (region or none for global, channel) whether it is active.
type View = BTreeMap<(Option<String>, String), bool>;

fn view_of(world: &World, index: u64) -> View {
    let state = &world.log.states[usize::try_from(index).unwrap()];
    let mut view = View::new();
    for n in 0..CHANNELS + BURST {
        let name = channel(n).name.to_string();
        for (at, log) in state.iter().enumerate() {
            let active = log.active.contains(&channel(n));
            view.insert((Some(region(at).to_string()), name.clone()), active);
        }
        let anywhere = state.iter().any(|log| log.active.contains(&channel(n)));
        view.insert((None, name), anywhere);
    }
    view
}

/// Plays back what a watcher was told, and returns what it then believes; what a gap put in doubt
/// is missing.
fn believe(world: &World, watcher: &Watcher) -> Result<View, TestCaseError> {
    let mut view = view_of(world, watcher.begun);
    let mut seen = BTreeSet::new();
    for item in &watcher.told {
        match item {
            WatchItem::Events { events, .. } => {
                prop_assert!(!events.is_empty());
                for told in events {
                    let event = &told.event;
                    prop_assert!(watcher.filter.matches(event), "unasked {event:?}");
                    prop_assert!(seen.insert(event.id.clone()), "{} was told twice", event.id);
                    let key = match event.kind {
                        EventKind::Occupancy => continue,
                        EventKind::Opened | EventKind::Closed => None,
                        EventKind::RegionActive | EventKind::RegionInactive => {
                            Some(event.region.to_string())
                        }
                    };
                    let key = (key, event.channel.name.to_string());
                    let before = view.insert(key, event.active);
                    prop_assert!(
                        before.is_none_or(|before| before != event.active),
                        "{} {} does not alternate",
                        event.id,
                        event.kind
                    );
                }
            }
            WatchItem::Gap { region, .. } => {
                seen.clear();
                view.retain(|(at, _), _| {
                    region
                        .as_ref()
                        .is_some_and(|region| at.as_deref() != Some(region.as_str()))
                });
            }
            WatchItem::Position { .. } | WatchItem::End { .. } => {}
        }
    }
    Ok(view)
}

fn has_gap(watcher: &Watcher) -> bool {
    watcher
        .told
        .iter()
        .any(|item| matches!(item, WatchItem::Gap { .. }))
}

/// The log's events after the watcher began, as it must be told them.
fn check_nothing_missed(world: &World, watcher: &Watcher) -> Result<(), TestCaseError> {
    let told: Vec<_> = events_of(&watcher.told).collect();
    let ids: BTreeSet<&EventId> = told.iter().map(|told| &told.event.id).collect();
    let logged = world
        .log
        .entries
        .iter()
        .filter(|entry| entry.index > watcher.begun);
    let logged = logged.flat_map(|entry| &entry.events);
    let logged: Vec<_> = logged
        .filter(|logged| watcher.filter.matches(&logged.event))
        .collect();
    for logged in &logged {
        let event = &logged.event;
        if ids.contains(&event.id) {
            continue;
        }
        // Only what had been told ahead under an id that never was logged may be passed over.
        let foretold = told.iter().any(|told| {
            told.event.channel == event.channel
                && told.event.region == event.region
                && told.event.active == event.active
                && told.position.is_none()
        });
        prop_assert!(
            event.kind.is_regional() && foretold,
            "{} was missed",
            event.id
        );
    }
    let positions: Vec<Position> = told.iter().filter_map(|told| told.position).collect();
    prop_assert!(
        positions.is_sorted_by(|a, b| a < b),
        "out of the log's order"
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn every_watcher_is_told_an_alternating_story_that_ends_in_the_logs_state(ops in ops(false, false)) {
        let world = play(ops, config());
        let truth = view_of(&world, world.log.last());
        for (n, watcher) in world.watchers.iter().enumerate() {
            let view = believe(&world, watcher)?;
            prop_assert!(!has_gap(watcher), "nothing was lost, so no gap");
            for (key, believed) in &view {
                let told = match (&key.0, watcher.filter.kinds == EventKinds::ALL) {
                    (None, false) => false,
                    _ => key.1.starts_with(&watcher.filter.prefix),
                };
                prop_assert!(!told || truth[key] == *believed, "watcher {n} believes {key:?} {believed}");
            }
            check_nothing_missed(&world, watcher)?;
        }
    }

    #[test]
    fn more_than_a_cursor_lists_is_exact_or_a_gap_of_the_region(ops in ops(false, true)) {
        let config = Config { early_kept_max: 30, ring_events_max: 300, ..config() };
        let config = Config { rollup_lag_events: 300, batch_events_max: 40, ..config };
        let world = play(ops, config);
        let truth = view_of(&world, world.log.last());
        for watcher in &world.watchers {
            let view = believe(&world, watcher)?;
            for (key, believed) in &view {
                let covered = watcher.filter == WatchFilter::default();
                prop_assert!(!covered || truth[key] == *believed, "believes {key:?} {believed}");
            }
            for item in &watcher.told {
                let whole = matches!(item, WatchItem::Gap { region: None, .. });
                prop_assert!(!whole, "only a region is in doubt");
            }
            if !has_gap(watcher) {
                check_nothing_missed(&world, watcher)?;
            }
        }
    }

    #[test]
    fn only_superseded_occupancy_is_rolled_up(ops in ops(false, false)) {
        let world = play(ops, Config { rollup_lag_events: 2, batch_events_max: 9, ..config() });
        for watcher in &world.watchers {
            believe(&world, watcher)?;
            prop_assert!(!has_gap(watcher));
            let told: Vec<_> = events_of(&watcher.told).map(|told| &told.event).collect();
            for logged in world.log.entries.iter().flat_map(|entry| &entry.events) {
                let event = &logged.event;
                let late = logged.position > Position::end_of(watcher.begun);
                if late && event.kind == EventKind::Occupancy && watcher.filter.matches(event) {
                    let at = told.iter().position(|told| told.id == event.id);
                    let newer = told.iter().any(|told| {
                        told.kind == EventKind::Occupancy
                            && told.channel == event.channel
                            && told.id > event.id
                    });
                    prop_assert!(at.is_some() || newer, "{} was rolled up into nothing", event.id);
                }
            }
        }
    }

    #[test]
    fn what_a_short_journal_lost_is_told_as_a_gap(ops in ops(true, false)) {
        let world = play(ops, config());
        let truth = view_of(&world, world.log.last());
        for watcher in &world.watchers {
            let view = believe(&world, watcher)?;
            for (key, believed) in &view {
                let covered = watcher.filter == WatchFilter::default();
                prop_assert!(!covered || truth[key] == *believed, "believes {key:?} {believed}");
            }
            if !has_gap(watcher) {
                check_nothing_missed(&world, watcher)?;
            }
        }
    }
}
