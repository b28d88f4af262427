//! Stories of the whole world: what people see when connections, owners and regions move.
//!
//! Nodes 0 and 3 are in region 0, nodes 1 and 4 in region 1, nodes 2 and 5 in region 2.

use crate::fixtures::key;
use crate::world::{NODES, World};
use crate::{Action, Config};

/// A world in which every node is interested in channel 0, and the log knows it.
fn attached() -> World {
    let mut world = World::new(Config::default());
    for node in 0..NODES {
        world.interest(node, 0, true);
    }
    world.heal();
    world
}

/// Checks that everybody sees who is there, and returns what they were shown since the last time.
fn settled(world: &mut World) -> Vec<(u64, Action)> {
    world.check_sets();
    world.verdict().unwrap();
    let actions = std::mem::take(&mut world.actions);
    actions
        .into_iter()
        .map(|(node, action, _)| (node, action))
        .collect()
}

#[test]
fn a_member_is_shown_at_every_other_node_once() {
    let mut world = attached();
    for (step, action) in [(1, Action::Enter), (2, Action::Update), (3, Action::Leave)] {
        if step == 3 {
            world.leave(0, 0, 1, 1);
        } else {
            world.enter(0, 0, 1, 1);
        }
        world.drain();
        let mut shown = settled(&mut world);
        shown.sort_unstable();
        let expected: Vec<_> = (1..NODES).map(|node| (node, action)).collect();
        assert_eq!(shown, expected);
    }
}

#[test]
fn who_was_there_before_is_present_and_does_not_enter() {
    let mut world = World::new(Config::default());
    world.interest(0, 0, true);
    world.enter(0, 0, 1, 1);
    world.drain();
    // The first of the region, then the second.
    for node in [3, 1, 4] {
        world.interest(node, 0, true);
        world.drain();
        assert_eq!(settled(&mut world), [(node, Action::Present)]);
    }
}

#[test]
fn a_message_is_shown_at_every_other_node_once() {
    let mut world = attached();
    for _ in 0..10 {
        world.publish(0, 0);
        world.publish(4, 0);
    }
    world.drain();
    world.verdict().unwrap();
    assert_eq!(world.messages, 2 * 10 * (NODES - 1));
}

#[test]
fn a_region_is_told_before_the_log_knows_that_it_wants_to_be() {
    let mut world = World::new(Config::default());
    world.interest(0, 0, true);
    world.interest(1, 0, true);
    world.drain();
    world.enter(0, 0, 1, 1);
    world.publish(0, 0);
    world.drain();
    assert_eq!(settled(&mut world), [(1, Action::Enter)]);
    assert_eq!(world.messages, 1);
}

#[test]
fn what_was_missed_while_the_log_was_late_comes_with_it() {
    let mut world = World::new(Config::default());
    world.interest(0, 0, true);
    world.interest(1, 0, true);
    world.drain();
    world.pass(31_000);
    world.enter(0, 0, 1, 1);
    world.drain();
    assert_eq!(world.actions, [], "nobody knows where to send it");
    world.catch_up(0);
    world.drain();
    assert_eq!(settled(&mut world), [(1, Action::Enter)]);
}

#[test]
fn a_new_owner_makes_nobody_leave() {
    let mut world = attached();
    for node in 0..NODES {
        world.enter(node, 0, node, 1);
    }
    world.drain();
    settled(&mut world);
    for region in 0..3 {
        world.move_owner(region);
        world.heal();
        assert_eq!(
            settled(&mut world),
            [],
            "after region {region}'s owner moved"
        );
    }
    // Not even if all move at once.
    for region in 0..3 {
        world.move_owner(region);
    }
    world.heal();
    assert_eq!(settled(&mut world), []);
}

#[test]
fn a_connection_that_moves_makes_nobody_leave() {
    let mut world = attached();
    world.enter(0, 0, 1, 1);
    world.drain();
    settled(&mut world);
    // To another node of the region, then to another region; the old node lets go last.
    for (from, to) in [(0, 3), (3, 1)] {
        world.enter(to, 0, 1, 1);
        world.drain();
        world.leave(from, 0, 1, 1);
        world.drain();
        let shown = settled(&mut world);
        // The old node itself was told of the other one's member while it had its own.
        let left = shown.iter().any(|(_, action)| *action == Action::Leave);
        assert!(!left, "{shown:?}");
    }
}

#[test]
fn leaves_that_a_broken_way_hid_are_told_when_it_is_back() {
    let mut world = attached();
    world.enter(0, 0, 1, 1);
    world.drain();
    settled(&mut world);
    world.disconnect(0);
    world.leave(0, 0, 1, 1);
    world.connect(0);
    world.drain();
    assert_eq!(settled(&mut world).len(), 5);
}

#[test]
fn a_region_that_is_cut_off_keeps_its_sight_and_catches_up() {
    let mut world = attached();
    world.enter(0, 0, 1, 1);
    world.drain();
    settled(&mut world);
    for other in [1, 2] {
        world.cut(0, other);
        world.cut(other, 0);
    }
    world.leave(0, 0, 1, 1);
    world.enter(1, 0, 2, 1);
    world.drain();
    let shown = std::mem::take(&mut world.actions);
    assert!(
        !shown.contains(&(1, Action::Leave, key(1, 1))),
        "unknown, not gone"
    );
    world.heal();
    let shown = settled(&mut world);
    assert!(shown.contains(&(1, Action::Leave)) && shown.contains(&(0, Action::Enter)));
}

#[test]
fn a_region_dies_and_returns() {
    let mut world = attached();
    world.enter(0, 0, 1, 1);
    world.enter(1, 0, 2, 1);
    world.drain();
    settled(&mut world);
    world.crash(0);
    world.crash(3);
    assert_eq!(world.actions, []);
    world.heal();
    let mut shown = settled(&mut world);
    shown.sort_unstable();
    assert_eq!(shown, [1, 2, 4, 5].map(|node| (node, Action::Leave)));

    world.restart(0);
    world.interest(0, 0, true);
    world.enter(0, 0, 3, 1);
    world.heal();
    let shown = settled(&mut world);
    assert!(shown.contains(&(0, Action::Present)) && shown.contains(&(5, Action::Enter)));
}
