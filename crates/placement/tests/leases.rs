//! Leases at the control group's leader.

use std::collections::BTreeSet;
use std::time::Duration;

use headcount_model::{Incarnation, Monotonic, NodeId};
use headcount_placement::{ControlCommand, LeaseConfig, Leases, RenewError, Standing};

use crate::world::World;

fn at(millis: u64) -> Monotonic {
    Monotonic(Duration::from_millis(millis))
}

/// Two live nodes, and leases of 5 s from an election at 100 s.
fn begin() -> (World, Leases) {
    let mut world = World::found("us", 2, 1);
    world.add("us");
    let leases = Leases::new(LeaseConfig::default(), at(100_000), &world.control);
    (world, leases)
}

/// Looks every 500 ms, as a driver would, and returns the first commands.
fn run(
    leases: &mut Leases,
    world: &World,
    from: u64,
    to: u64,
) -> Option<(u64, Vec<ControlCommand>)> {
    (from..=to).step_by(500).find_map(|now| {
        let lost = leases.expire(at(now), &world.control);
        (!lost.is_empty()).then_some((now, lost))
    })
}

#[test]
fn a_new_leader_gives_everybody_a_full_lease() {
    let (world, mut leases) = begin();
    let (now, lost) = run(&mut leases, &world, 100_000, 110_000).unwrap();
    assert_eq!(now, 105_000);
    assert_eq!(lost.len(), 2);
}

#[test]
fn who_is_heard_lives() {
    let (world, mut leases) = begin();
    for now in (100_000..120_000).step_by(500) {
        for node in [1, 2] {
            leases
                .renew(at(now), &world.control, NodeId(node), Incarnation(1))
                .unwrap();
        }
        assert_eq!(leases.expire(at(now), &world.control), []);
    }
    assert_eq!(
        leases.standing(at(119_500), &world.control, NodeId(1)),
        Standing::Live
    );
    assert_eq!(
        leases.standing(at(122_000), &world.control, NodeId(1)),
        Standing::Suspect
    );
    assert_eq!(
        leases.standing(at(124_500), &world.control, NodeId(1)),
        Standing::Dead
    );
}

#[test]
fn only_who_is_silent_dies_and_only_once() {
    let (mut world, mut leases) = begin();
    let mut lost = Vec::new();
    for now in (100_000..110_000).step_by(500) {
        leases
            .renew(at(now), &world.control, NodeId(1), Incarnation(1))
            .unwrap();
        lost = leases.expire(at(now), &world.control);
        if !lost.is_empty() {
            break;
        }
    }
    let expected = ControlCommand::LeaseLost {
        node: NodeId(2),
        incarnation: Incarnation(1),
    };
    assert_eq!(lost, std::slice::from_ref(&expected));
    world.propose(expected).unwrap();
    assert_eq!(leases.expire(at(105_100), &world.control), []);
    assert_eq!(
        leases.renew(at(105_200), &world.control, NodeId(2), Incarnation(1)),
        Err(RenewError::Ended {
            node: NodeId(2),
            current: Incarnation(1)
        })
    );
}

#[test]
fn a_lease_that_was_told_as_lost_is_not_renewed_before_that_is_applied() {
    let (mut world, mut leases) = begin();
    let (now, lost) = run(&mut leases, &world, 100_000, 110_000).unwrap();
    let renewed = leases.renew(at(now), &world.control, NodeId(2), Incarnation(1));
    let ended = RenewError::Ended {
        node: NodeId(2),
        current: Incarnation(1),
    };
    assert_eq!(renewed, Err(ended));
    // Nor does a stall of the leader bring it back: it is told until it is applied.
    assert_eq!(leases.expire(at(now + 60_000), &world.control), lost);

    // The next life has a lease of its own.
    world.start(NodeId(2));
    let renewed = leases.renew(at(now + 60_000), &world.control, NodeId(2), Incarnation(2));
    assert_eq!(renewed, Ok(Duration::from_secs(5)));
}

#[test]
fn a_life_that_begins_late_has_a_full_lease() {
    let (mut world, mut leases) = begin();
    world.kill(NodeId(2));
    for now in (100_000..200_000).step_by(500) {
        leases
            .renew(at(now), &world.control, NodeId(1), Incarnation(1))
            .unwrap();
        assert_eq!(leases.expire(at(now), &world.control), []);
    }
    world.start(NodeId(2));
    assert_eq!(
        leases.standing(at(199_900), &world.control, NodeId(2)),
        Standing::Live
    );
    leases
        .renew(at(200_000), &world.control, NodeId(1), Incarnation(1))
        .unwrap();
    assert_eq!(leases.expire(at(200_000), &world.control), []);
    assert_eq!(
        leases.renew(at(200_100), &world.control, NodeId(2), Incarnation(1)),
        Err(RenewError::Ended {
            node: NodeId(2),
            current: Incarnation(2)
        }),
        "the life before has no lease"
    );
    let (now, _) = run(&mut leases, &world, 200_000, 210_000).unwrap();
    assert_eq!(now, 205_000);
}

#[test]
fn a_restart_begins_a_full_lease() {
    let (mut world, mut leases) = begin();
    let mut lost = Vec::new();
    for now in (100_000..120_000).step_by(500) {
        leases
            .renew(at(now), &world.control, NodeId(1), Incarnation(1))
            .unwrap();
        if now == 104_000 {
            world.start(NodeId(2));
        }
        for command in leases.expire(at(now), &world.control) {
            lost.push((now, command));
        }
        if !lost.is_empty() {
            break;
        }
    }
    let expected = ControlCommand::LeaseLost {
        node: NodeId(2),
        incarnation: Incarnation(2),
    };
    assert_eq!(lost, [(109_000, expected)]);
}

#[test]
fn a_stall_of_the_leader_is_nobodys_silence() {
    let (world, mut leases) = begin();
    assert_eq!(run(&mut leases, &world, 100_000, 102_000), None);
    // Stopped for ten seconds, and woken before what was sent to it is read.
    assert_eq!(leases.expire(at(112_000), &world.control), []);
    let (now, _) = run(&mut leases, &world, 112_000, 130_000).unwrap();
    assert_eq!(now, 115_000, "three seconds of the lease were left");
}

#[test]
fn the_dead_are_given_up_after_a_while() {
    let (mut world, mut leases) = begin();
    world.kill(NodeId(2));
    for now in (100_000..170_000).step_by(500) {
        leases
            .renew(at(now), &world.control, NodeId(1), Incarnation(1))
            .unwrap();
        leases.expire(at(now), &world.control);
        assert_eq!(
            leases.given_up(at(now)).contains(&NodeId(2)),
            now >= 160_000
        );
    }
    world.start(NodeId(2));
    leases.expire(at(170_000), &world.control);
    assert!(leases.given_up(at(170_000)).is_empty());
}

#[test]
fn a_death_is_fresh_for_as_long_as_a_lease_unless_the_node_is_back() {
    let (mut world, mut leases) = begin();
    assert!(!leases.is_settling(at(100_000)));
    world.kill(NodeId(2));
    leases.expire(at(100_000), &world.control);
    assert!(leases.is_settling(at(104_999)));
    assert!(!leases.is_settling(at(105_000)));
    world.start(NodeId(2));
    leases.expire(at(101_000), &world.control);
    assert!(!leases.is_settling(at(101_000)));
}

#[test]
fn a_node_has_restarted_for_as_long_as_a_lease() {
    let (mut world, mut leases) = begin();
    assert_eq!(leases.restarted(at(100_000)), BTreeSet::new());
    world.start(NodeId(2));
    let first = world.add("us");
    leases.expire(at(101_000), &world.control);
    let restarted = BTreeSet::from([NodeId(2)]);
    assert_eq!(leases.restarted(at(105_999)), restarted, "not {first}");
    assert_eq!(leases.restarted(at(106_000)), BTreeSet::new());
    // Whoever leads since then cannot say.
    let leases = Leases::new(LeaseConfig::default(), at(102_000), &world.control);
    assert_eq!(leases.restarted(at(102_000)), BTreeSet::new());
}

#[test]
fn the_deadline_is_when_the_next_lease_ends_or_earlier() {
    let (world, mut leases) = begin();
    let mut now = at(100_000);
    loop {
        let next = leases.next_deadline(&world.control);
        assert!(next > now && next <= at(105_000));
        now = next;
        if !leases.expire(now, &world.control).is_empty() {
            break;
        }
    }
    assert_eq!(now, at(105_000));

    // Though the loss is not applied yet, there is time to rest before it is told again.
    assert!(leases.next_deadline(&world.control) >= at(105_500));
}
