//! One rule each.

use headcount_feed::{Config, Page, Subscription};
use headcount_model::{
    Cursor, Era, EventId, EventKind, Position, ShardCursor, TOLD_MAX, WatchEnd, WatchFilter,
    WatchItem,
};

use crate::world::{ERA, SHARD, World, channel, cursor_of, events_of, region};

const US: usize = 0;
const EU: usize = 1;
const AP: usize = 2;
/// The nodes of those regions; there are two in the first.
const US_NODE: usize = 0;
const US_OTHER: usize = 1;
const EU_NODE: usize = 2;

/// A cluster whose regions are owned and settled, known to every node.
fn settled(config: Config) -> World {
    let mut world = World::new(config);
    for at in [US, EU, AP] {
        world.claim(at, 0);
        world.log.settle(at);
        world.log.commit();
    }
    apply_all(&mut world);
    world
}

fn apply_all(world: &mut World) {
    for node in 0..world.nodes.len() {
        world.apply(node, u64::MAX);
    }
}

/// A region's owner makes a transition; `node` hears of it at once.
fn flip(world: &mut World, at: usize, n: usize, node: Option<usize>) {
    world.flip(at, &channel(n), None);
    let mut heard = Vec::new();
    for (of, this) in world.nodes.iter_mut().enumerate() {
        let events = std::mem::take(&mut this.early);
        if Some(of) == node {
            heard = events;
        }
    }
    for event in heard {
        world.hear(node.unwrap_or_default(), event);
    }
}

fn ship(world: &mut World, at: usize) {
    world.ship(at, usize::MAX);
    world.log.commit();
}

/// What a watcher was told, in short: `+us c0` for a regional event, `opened c0` for a global one.
fn story(world: &World, watcher: usize) -> Vec<String> {
    let told = events_of(&world.watchers[watcher].told).map(|told| {
        let event = &told.event;
        let name = event.channel.name.as_str();
        let void = if matches!(event.id, EventId::Void { .. }) {
            "void "
        } else {
            ""
        };
        match event.kind {
            EventKind::RegionActive => format!("{void}+{} {name}", event.region),
            EventKind::RegionInactive => format!("{void}-{} {name}", event.region),
            EventKind::Opened => format!("opened {name}"),
            EventKind::Closed => format!("closed {name}"),
            EventKind::Occupancy => format!("occupancy {name} {}", event.at.0),
        }
    });
    told.collect()
}

fn gaps(world: &World, watcher: usize) -> Vec<Option<String>> {
    let told = world.watchers[watcher].told.iter();
    told.filter_map(|item| match item {
        WatchItem::Gap { region, .. } => Some(region.as_ref().map(ToString::to_string)),
        WatchItem::Events { .. } | WatchItem::Position { .. } | WatchItem::End { .. } => None,
    })
    .collect()
}

#[test]
fn a_region_hears_its_own_transitions_before_the_log_and_once() {
    let mut world = settled(Config::default());
    let (near, far) = (
        world.watch(US_NODE, WatchFilter::default()),
        world.watch(EU_NODE, WatchFilter::default()),
    );
    flip(&mut world, US, 0, Some(US_NODE));
    world.read(near, 1);
    world.read(far, 1);
    assert_eq!(story(&world, near), ["+us c0"]);
    assert!(story(&world, far).is_empty());
    ship(&mut world, US);
    apply_all(&mut world);
    world.read(near, 1);
    world.read(far, 1);
    assert_eq!(story(&world, near), ["+us c0", "opened c0"]);
    assert_eq!(story(&world, far), ["+us c0", "opened c0"]);
}

#[test]
fn early_transitions_wait_for_their_claim() {
    let mut world = settled(Config::default());
    let watcher = world.watch(US_NODE, WatchFilter::default());
    world.claim(US, 0);
    flip(&mut world, US, 0, Some(US_NODE));
    world.read(watcher, 1);
    assert!(
        story(&world, watcher).is_empty(),
        "the claim was not delivered"
    );
    world.apply(US_NODE, 1);
    world.read(watcher, 1);
    assert_eq!(story(&world, watcher), ["+us c0"]);
}

#[test]
fn what_was_told_and_never_logged_is_taken_back_when_the_next_owner_settles() {
    let mut world = settled(Config::default());
    let stays = world.watch(US_NODE, WatchFilter::default());
    let moves = world.watch(US_NODE, WatchFilter::default());
    flip(&mut world, US, 0, Some(US_NODE));
    world.read(stays, 1);
    world.read(moves, 1);
    world.resume(moves, EU_NODE, 0);
    world.claim(US, 0);
    apply_all(&mut world);
    for watcher in [stays, moves] {
        world.read(watcher, 2);
        assert_eq!(story(&world, watcher), ["+us c0"], "adoption is under way");
    }
    world.log.settle(US);
    world.log.commit();
    apply_all(&mut world);
    for watcher in [stays, moves] {
        world.read(watcher, 2);
        assert_eq!(story(&world, watcher), ["+us c0", "void -us c0"]);
        assert_eq!(gaps(&world, watcher), []);
    }
}

#[test]
fn a_tail_keeps_the_ids_of_what_was_told() {
    let mut world = settled(Config::default());
    let stays = world.watch(US_NODE, WatchFilter::default());
    let other = world.watch(EU_NODE, WatchFilter::default());
    flip(&mut world, US, 0, Some(US_NODE));
    world.claim(US, usize::MAX);
    world.log.settle(US);
    world.log.commit();
    apply_all(&mut world);
    let ids = [stays, other].map(|watcher| {
        world.read(watcher, 3);
        assert_eq!(story(&world, watcher), ["+us c0", "opened c0"]);
        events_of(&world.watchers[watcher].told)
            .map(|told| told.event.id.clone())
            .collect()
    });
    let [stays, other]: [Vec<EventId>; 2] = ids;
    assert_eq!(stays, other);
}

#[test]
fn an_expiry_corrects_what_was_told_and_repeats_nothing() {
    let mut world = settled(Config::default());
    flip(&mut world, US, 0, Some(US_NODE));
    ship(&mut world, US);
    apply_all(&mut world);
    let watcher = world.watch(US_NODE, WatchFilter::default());
    flip(&mut world, US, 0, Some(US_NODE));
    flip(&mut world, US, 1, Some(US_NODE));
    world.read(watcher, 1);
    assert_eq!(story(&world, watcher), ["-us c0", "+us c1"]);
    world.log.expire(US, 100);
    world.log.commit();
    apply_all(&mut world);
    world.read(watcher, 2);
    assert_eq!(
        story(&world, watcher),
        ["-us c0", "+us c1", "closed c0", "void -us c1"]
    );
}

#[test]
fn half_of_a_dropped_pair_is_taken_back_when_the_log_passes_it() {
    let mut world = settled(Config::default());
    let stays = world.watch(US_NODE, WatchFilter::default());
    let moves = world.watch(US_NODE, WatchFilter::default());
    flip(&mut world, US, 0, Some(US_NODE));
    flip(&mut world, US, 0, None);
    flip(&mut world, US, 1, None);
    world.drop_pair(US, &channel(0));
    for watcher in [stays, moves] {
        world.read(watcher, 1);
    }
    world.resume(moves, EU_NODE, 0);
    ship(&mut world, US);
    apply_all(&mut world);
    for watcher in [stays, moves] {
        world.read(watcher, 2);
        let expected = ["+us c0", "+us c1", "opened c1", "void -us c0"];
        assert_eq!(story(&world, watcher), expected);
    }
}

#[test]
fn the_other_half_of_a_dropped_pair_is_not_told() {
    let mut world = settled(Config::default());
    let watcher = world.watch(US_NODE, WatchFilter::default());
    flip(&mut world, US, 0, None);
    world.flip(US, &channel(0), None);
    world.drop_pair(US, &channel(0));
    let second = world.nodes[US_NODE].early.pop().unwrap();
    world.ship(US, 1);
    world.log.commit();
    apply_all(&mut world);
    world.hear(US_NODE, second);
    world.read(watcher, 1);
    assert_eq!(story(&world, watcher), [""; 0]);
    flip(&mut world, US, 0, Some(US_NODE));
    world.read(watcher, 1);
    assert_eq!(story(&world, watcher), ["+us c0"], "the next one is");
}

#[test]
fn a_newcomer_is_not_told_the_other_half_of_a_dropped_pair() {
    let mut world = settled(Config::default());
    flip(&mut world, US, 0, Some(US_NODE));
    flip(&mut world, US, 0, Some(US_NODE));
    world.drop_pair(US, &channel(0));
    world.ship(US, 1);
    world.log.commit();
    apply_all(&mut world);
    let watcher = world.watch(US_NODE, WatchFilter::default());
    world.read(watcher, 1);
    assert_eq!(story(&world, watcher), [""; 0]);
}

#[test]
fn a_newcomer_is_told_what_the_log_does_not_have_yet() {
    let mut world = settled(Config::default());
    flip(&mut world, US, 0, Some(US_NODE));
    let watcher = world.watch(US_NODE, WatchFilter::default());
    world.read(watcher, 1);
    assert_eq!(story(&world, watcher), ["+us c0"]);
}

#[test]
fn more_untold_than_a_cursor_holds_is_a_gap_if_its_fence_ends() {
    for (fence_ends, moves_to) in [(true, EU_NODE), (false, EU_NODE), (false, US_OTHER)] {
        let mut world = settled(Config::default());
        let watcher = world.watch(US_NODE, WatchFilter::default());
        for n in 0..TOLD_MAX + 6 {
            flip(&mut world, US, n, Some(US_NODE));
        }
        world.read(watcher, 1);
        world.resume(watcher, moves_to, 0);
        if fence_ends {
            world.claim(US, 10);
            world.log.settle(US);
        } else {
            world.ship(US, usize::MAX);
        }
        world.log.commit();
        apply_all(&mut world);
        for _ in 0..3 {
            world.read(watcher, 1);
        }
        let expected = if fence_ends {
            vec![Some("us".to_owned())]
        } else {
            vec![]
        };
        assert_eq!(gaps(&world, watcher), expected);
        let regional = story(&world, watcher)
            .iter()
            .filter(|told| told.starts_with('+'))
            .count();
        assert_eq!(regional, TOLD_MAX + 6, "each was told once");
    }
}

#[test]
fn a_claim_that_was_passed_before_resuming_ends_what_a_cursor_leaves_out() {
    for settles in [true, false] {
        let mut world = settled(Config::default());
        let watcher = world.watch(US_NODE, WatchFilter::default());
        for n in 0..TOLD_MAX + 6 {
            flip(&mut world, US, n, Some(US_NODE));
        }
        world.claim(US, 0);
        apply_all(&mut world);
        world.read(watcher, 1);
        // The cursor stands behind the claim that ended its fence, and names not all that it told.
        world.resume(watcher, US_NODE, 0);
        if settles {
            world.log.settle(US);
            world.log.commit();
        } else {
            // The new owner tells of a channel that the cursor leaves out.
            world.flip(US, &channel(TOLD_MAX + 2), None);
            ship(&mut world, US);
        }
        apply_all(&mut world);
        world.read(watcher, 2);
        assert_eq!(gaps(&world, watcher), [Some("us".to_owned())]);
        let last = world.watchers[watcher].told.last();
        assert!(
            settles || matches!(last, Some(WatchItem::Events { .. })),
            "after the gap"
        );
    }
}

#[test]
fn who_was_told_more_than_a_cursor_holds_waits_for_the_log() {
    let mut world = settled(Config::default());
    let watcher = world.watch(US_NODE, WatchFilter::default());
    let all = TOLD_MAX + 6;
    let flip_all = |world: &mut World| {
        for n in 0..all {
            world.flip(US, &channel(n), None);
        }
        for node in [US_NODE, US_OTHER] {
            for event in std::mem::take(&mut world.nodes[node].early) {
                world.hear(node, event);
            }
        }
    };
    flip_all(&mut world);
    world.read(watcher, 1);
    // Its cursor does not say of all of them that they were told; the log says nothing yet.
    flip_all(&mut world);
    world.resume(watcher, US_OTHER, 0);
    world.read(watcher, 1);
    for _ in 0..2 {
        world.ship(US, all);
        world.log.commit();
        apply_all(&mut world);
        world.read(watcher, 2);
    }
    let story = story(&world, watcher);
    for n in 0..all {
        let of = format!("us c{n}");
        let regional = story.iter().filter(|told| told[1..] == of);
        let regional: String = regional.map(|told| &told[..1]).collect();
        assert_eq!(regional, "+-", "{of}");
    }
    assert!(gaps(&world, watcher).is_empty());
}

#[test]
fn an_expiry_is_not_judged_by_an_incomplete_cursor() {
    let mut world = settled(Config::default());
    for _ in 0..2 {
        for n in 0..TOLD_MAX + 6 {
            flip(&mut world, US, n, Some(US_NODE));
        }
        if world.watchers.is_empty() {
            ship(&mut world, US);
            apply_all(&mut world);
            world.watch(US_NODE, WatchFilter::default());
        }
    }
    world.read(0, 1);
    assert_eq!(
        story(&world, 0).len(),
        TOLD_MAX + 6,
        "all were told inactive"
    );
    world.resume(0, EU_NODE, 0);
    world.log.expire(US, 100);
    world.log.commit();
    apply_all(&mut world);
    world.read(0, 1);
    let next = &world.watchers[0].told[1];
    assert!(
        matches!(
            next,
            WatchItem::Gap {
                region: Some(_),
                ..
            }
        ),
        "{next:?}"
    );
}

#[test]
fn the_slow_are_rolled_up_then_ended_and_others_never_notice() {
    let config = Config {
        ring_events_max: 40,
        rollup_lag_events: 10,
        batch_events_max: 100,
        ..Config::default()
    };
    let mut world = settled(config);
    for n in 0..2 {
        flip(&mut world, US, n, None);
    }
    ship(&mut world, US);
    apply_all(&mut world);
    let (fast, slow) = (
        world.watch(US_NODE, WatchFilter::default()),
        world.watch(US_NODE, WatchFilter::default()),
    );
    let round = |world: &mut World| {
        for n in [0, 1] {
            world.log.occupancy(&channel(n));
            world.log.commit();
        }
        apply_all(world);
        world.read(fast, 1);
    };
    for _ in 0..8 {
        round(&mut world);
    }
    let first = world.log.last() - 15;
    world.read(slow, 1);
    let newest = |n: u64| {
        [
            format!("occupancy c0 {}", n - 1),
            format!("occupancy c1 {n}"),
        ]
    };
    assert_eq!(story(&world, slow), newest(first + 15));
    assert_eq!(world.watchers[slow].subscription.rolled_up(), 14);
    assert_eq!(story(&world, fast).len(), 16);

    for _ in 0..40 {
        round(&mut world);
    }
    world.read(slow, 1);
    let end = world.watchers[slow].told.last().unwrap();
    assert!(
        matches!(
            end,
            WatchItem::End {
                reason: WatchEnd::TooSlow,
                ..
            }
        ),
        "{end:?}"
    );
    assert!(world.watchers[slow].subscription.take().is_none());
    assert_eq!(story(&world, fast).len(), 96);

    world.resume(slow, US_OTHER, 0);
    for _ in 0..100 {
        world.read(slow, 1);
    }
    assert_eq!(
        story(&world, slow).len(),
        2 + 80,
        "it resumes from the journal without loss"
    );
}

#[test]
fn a_cursor_older_than_the_journal_is_told_the_gap_and_where_events_go_on() {
    let mut world = settled(Config {
        ring_events_max: 2,
        ..Config::default()
    });
    let watcher = world.watch(EU_NODE, WatchFilter::default());
    for n in 0..6 {
        flip(&mut world, US, n, None);
        ship(&mut world, US);
    }
    apply_all(&mut world);
    world.oldest = world.log.last() - 2;
    world.resume(watcher, US_NODE, 0);
    for _ in 0..3 {
        world.read(watcher, 1);
    }
    let from = Position::end_of(world.oldest);
    let gap = &world.watchers[watcher].told[0];
    assert!(
        matches!(gap, WatchItem::Gap { from: at, region: None, .. } if *at == from),
        "{gap:?}"
    );
    assert_eq!(
        story(&world, watcher),
        ["+us c4", "opened c4", "+us c5", "opened c5"]
    );
}

#[test]
fn a_journal_behind_its_feed_ends_the_watch() {
    let mut world = settled(Config {
        ring_events_max: 1,
        ..Config::default()
    });
    let cursor = Cursor {
        era: ERA,
        shards: [(SHARD, ShardCursor::default())].into(),
    };
    let mut subscription = Subscription::new(
        Config::default(),
        ERA,
        WatchFilter::default(),
        [SHARD],
        Some(cursor),
    );
    flip(&mut world, US, 0, None);
    ship(&mut world, US);
    apply_all(&mut world);
    subscription.read(&world.nodes[US_NODE].feed);
    assert_eq!(subscription.take_fetches().len(), 1);
    subscription.read(&world.nodes[US_NODE].feed);
    assert_eq!(subscription.take_fetches(), [], "one at a time");
    let nothing = Page {
        oldest: Position::START,
        entries: Vec::new(),
        through: Position::START,
    };
    subscription.page(SHARD, nothing);
    let end = subscription.take();
    assert!(
        matches!(
            end,
            Some(WatchItem::End {
                reason: WatchEnd::Unavailable,
                ..
            })
        ),
        "{end:?}"
    );
}

#[test]
fn a_cursor_of_another_era_is_a_gap() {
    let world = settled(Config::default());
    let cursor = Cursor {
        era: Era(0),
        shards: [(SHARD, ShardCursor::default())].into(),
    };
    let mut subscription = Subscription::new(
        Config::default(),
        ERA,
        WatchFilter::default(),
        [SHARD],
        Some(cursor),
    );
    let feed = &world.nodes[US_NODE].feed;
    subscription.read(feed);
    let gap = subscription.take().unwrap();
    assert!(
        matches!(&gap, WatchItem::Gap { from, .. } if *from == feed.position()),
        "{gap:?}"
    );
    let cursor = Cursor::from_token(cursor_of(&gap)).unwrap();
    assert_eq!(cursor.era, ERA);
    subscription.read(feed);
    assert_eq!(subscription.take(), None);
    assert!(subscription.is_caught_up(feed));
}

#[test]
fn a_cursor_ahead_of_this_region_waits_for_it() {
    let mut world = settled(Config::default());
    let watcher = world.watch(US_NODE, WatchFilter::default());
    flip(&mut world, AP, 0, None);
    ship(&mut world, AP);
    world.apply(US_NODE, u64::MAX);
    world.read(watcher, 1);
    world.resume(watcher, EU_NODE, 0);
    flip(&mut world, EU, 0, Some(EU_NODE));
    world.read(watcher, 2);
    assert_eq!(story(&world, watcher), ["+ap c0", "opened c0"]);
    world.apply(EU_NODE, u64::MAX);
    world.read(watcher, 2);
    assert_eq!(story(&world, watcher), ["+ap c0", "opened c0", "+eu c0"]);
}

#[test]
fn a_cursor_names_no_channel_that_the_filter_leaves_out() {
    let mut world = settled(Config::default());
    let filter = WatchFilter {
        prefix: "c1".into(),
        ..WatchFilter::default()
    };
    let watcher = world.watch(US_NODE, filter);
    flip(&mut world, US, 0, Some(US_NODE));
    flip(&mut world, US, 1, Some(US_NODE));
    world.read(watcher, 1);
    let token = cursor_of(world.watchers[watcher].told.last().unwrap());
    let early = Cursor::from_token(token).unwrap().shards[&SHARD]
        .early
        .clone()
        .unwrap();
    assert_eq!(early.region, region(US));
    let told: Vec<_> = early.told.iter().map(|told| told.channel.clone()).collect();
    assert_eq!(told, [channel(1)]);
}
