//! What single commands promise.

use std::collections::BTreeSet;
use std::time::Duration;

use headcount_model::{Era, Fence, Incarnation, NodeId, RegionName, ShardId, Timestamp};
use headcount_placement::{
    ClusterId, Concern, Control, ControlCommand, ControlParts, FOUNDING_NODE, FOUNDING_REPLICA,
    GroupId, Outcome, PartsError, Refusal, Settings,
};

use crate::world::{World, addresses, facts, new_node, region};

fn init(key: u128) -> ControlCommand {
    let node = new_node(key, "us");
    ControlCommand::Init {
        facts: facts(4),
        settings: Settings::default(),
        node,
    }
}

fn start(node: u64, incarnation: u64, process: u64) -> ControlCommand {
    ControlCommand::Start {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        process,
        addresses: addresses(),
        understands: 1,
    }
}

fn fences(world: &World, place: &RegionName) -> Vec<Fence> {
    let shards = world.control.shards();
    shards
        .map(|shard| world.control.owner(place, shard).unwrap().fence)
        .collect()
}

#[test]
fn nothing_happens_before_a_cluster_is_founded() {
    let mut control = Control::new();
    let join = ControlCommand::Join(new_node(1, "us"));
    assert_eq!(control.apply(1, &join), Err(Refusal::NotFounded));
    assert_eq!(control.applied(), 1);
}

#[test]
fn a_cluster_is_founded_once() {
    let mut control = Control::new();
    let founded = control.apply(1, &init(1));
    let expected = Outcome::Joined {
        node: FOUNDING_NODE,
        incarnation: Incarnation(0),
        replica: FOUNDING_REPLICA,
    };
    assert_eq!(founded, Ok(expected.clone()));
    assert_eq!(control.apply(2, &init(1)), Ok(expected), "the same again");
    let other = control.apply(3, &init(2));
    assert_eq!(
        other,
        Err(Refusal::Founded {
            cluster: ClusterId(7)
        })
    );
    let hosted: Vec<_> = control.replicas_of(FOUNDING_NODE).collect();
    assert_eq!(hosted.len(), 5);
    assert!(
        hosted
            .iter()
            .all(|hosted| hosted.founder && !hosted.leaving)
    );
}

#[test]
fn joining_twice_makes_one_node() {
    let mut world = World::found("us", 4, 1);
    let join = ControlCommand::Join(new_node(77, "eu"));
    let first = world.propose(join.clone());
    assert_eq!(world.propose(join), first);
    let elsewhere = ControlCommand::Join(new_node(77, "ap"));
    let refused = Err(Refusal::OtherRegion {
        node: NodeId(2),
        region: region("eu"),
    });
    assert_eq!(world.propose(elsewhere), refused);
}

#[test]
fn a_joining_node_listens_to_the_control_group_and_nothing_else() {
    let mut world = World::found("us", 4, 1);
    let node = world.join("eu");
    world.settle();
    let hosted: Vec<_> = world
        .control
        .replicas_of(node)
        .map(|hosted| hosted.group)
        .collect();
    assert_eq!(hosted, [GroupId::Control]);
    let membership = world.control.target_membership(GroupId::Control).unwrap();
    assert!(membership.learners.values().any(|learner| *learner == node));
}

#[test]
fn a_restarted_node_has_new_fences_at_once() {
    let mut world = World::found("us", 4, 1);
    world.settle();
    let before = fences(&world, &region("us"));
    world.start(NodeId(1));
    let after = fences(&world, &region("us"));
    assert!(before.iter().max() < after.iter().min());
    assert!(!world.control.is_current(NodeId(1), Incarnation(1)));
    assert!(world.control.is_current(NodeId(1), Incarnation(2)));
}

#[test]
fn a_start_counts_once_and_an_old_one_never() {
    let mut world = World::found("us", 4, 1);
    assert_eq!(
        world.propose(start(1, 2, 500)),
        Ok(Outcome::Started {
            incarnation: Incarnation(2)
        })
    );
    let before = fences(&world, &region("us"));
    assert_eq!(
        world.propose(start(1, 2, 500)),
        Ok(Outcome::Started {
            incarnation: Incarnation(2)
        })
    );
    let stale = Err(Refusal::StaleIncarnation {
        node: NodeId(1),
        current: Incarnation(2),
    });
    assert_eq!(
        world.propose(start(1, 2, 501)),
        stale,
        "another process with the same number"
    );
    assert_eq!(
        world.propose(start(1, 1, 1)),
        stale,
        "a request that was long on its way"
    );
    assert_eq!(world.propose(start(1, 4, 502)), stale, "none is left out");
    assert_eq!(fences(&world, &region("us")), before);
}

#[test]
fn a_life_that_lost_its_lease_has_ended() {
    let mut world = World::found("us", 4, 1);
    world.add("us");
    world.settle();
    world.kill(NodeId(2));
    let stale = Err(Refusal::StaleIncarnation {
        node: NodeId(2),
        current: Incarnation(1),
    });
    assert_eq!(world.propose(start(2, 1, 1)), stale);
    world.start(NodeId(2));
    assert!(world.control.is_current(NodeId(2), Incarnation(2)));
    // The old life's loss, told late, does not touch the new one.
    let late = ControlCommand::LeaseLost {
        node: NodeId(2),
        incarnation: Incarnation(1),
    };
    assert_eq!(world.propose(late), Ok(Outcome::Unchanged));
    assert!(world.control.is_current(NodeId(2), Incarnation(2)));
}

#[test]
fn the_owner_moves_to_the_other_copy_when_its_lease_ends() {
    let mut world = World::found("us", 8, 2);
    world.add("eu");
    world.add("us");
    world.settle();
    let before = fences(&world, &region("us"));
    let eu = fences(&world, &region("eu"));
    let moved: Vec<_> = world
        .control
        .owned_by(NodeId(3))
        .map(|(shard, _)| shard)
        .collect();
    assert!(!moved.is_empty());
    world.kill(NodeId(3));
    for shard in world.control.shards() {
        let owner = world.control.owner(&region("us"), shard).unwrap();
        assert_eq!(owner.node, NodeId(1));
        let old = before[shard.0 as usize];
        assert_eq!(
            owner.fence > old,
            moved.contains(&shard),
            "who kept it keeps its fence"
        );
        assert_eq!(world.control.voids(shard).count(), 0);
    }
    assert_eq!(fences(&world, &region("eu")), eu);
}

#[test]
fn a_change_concerns_the_shards_whose_owners_change_and_every_shard_if_nodes_do() {
    let mut world = World::found("us", 3, 2);
    world.add("eu");
    let mut before = world.control.clone();
    assert_eq!(before.concern_since(&before), Concern::Shards([].into()));
    world.settle();
    let after = world.control.clone();
    let all: BTreeSet<ShardId> = after.shards().collect();
    assert_eq!(after.concern_since(&before), Concern::Shards(all.clone()));
    // Owners that are gone concern as those that are new do.
    assert_eq!(before.concern_since(&after), Concern::Shards(all));
    before = after;
    world.kill(NodeId(2));
    assert_eq!(world.control.concern_since(&before), Concern::Everybody);
}

#[test]
fn a_region_without_lease_is_void_up_to_its_last_fence() {
    let mut world = World::found("us", 3, 2);
    world.add("eu");
    world.add("ap");
    world.settle();
    let last = fences(&world, &region("eu"));
    world.kill(NodeId(2));
    for shard in world.control.shards() {
        let voids: Vec<_> = world.control.voids(shard).collect();
        assert_eq!(voids, [(&region("eu"), last[shard.0 as usize])]);
    }
    world.start(NodeId(2));
    for shard in world.control.shards() {
        let owner = world.control.owner(&region("eu"), shard).unwrap();
        assert!(owner.fence > last[shard.0 as usize]);
    }
}

#[test]
fn planned_commands_fail_on_a_changed_group() {
    let mut world = World::found("us", 1, 1);
    let node = world.add("us");
    world.settle();
    let group = GroupId::Shard(ShardId(0));
    let stale = ControlCommand::AddReplicas {
        group,
        version: 1,
        nodes: [node].into(),
    };
    assert!(matches!(
        world.propose(stale),
        Err(Refusal::Superseded { .. })
    ));
}

#[test]
fn ownership_moves_on_command_under_its_present_fence_only() {
    let mut world = World::found("us", 2, 2);
    world.add("us");
    world.settle();
    let (shard, place) = (ShardId(0), region("us"));
    let owner = world.control.owner(&place, shard).unwrap();
    let other = NodeId(3 - owner.node.0);
    let to = |fence, node| ControlCommand::MoveOwner {
        region: place.clone(),
        shard,
        fence,
        node,
    };
    assert!(matches!(
        world.propose(to(Fence(0), other)),
        Err(Refusal::OwnerMoved { current, .. }) if current == owner.fence
    ));
    assert!(matches!(
        world.propose(to(owner.fence, NodeId(9))),
        Err(Refusal::UnknownNode { .. })
    ));
    assert_eq!(world.propose(to(owner.fence, other)), Ok(Outcome::Changed));
    let moved = world.control.owner(&place, shard).unwrap();
    assert!(moved.node == other && moved.fence > owner.fence);
}

#[test]
fn settings_rise_by_version_and_only_when_they_change() {
    let mut world = World::found("us", 1, 1);
    let set = |millis: u64| ControlCommand::SetPacing {
        occupancy_interval: Duration::from_micros(millis * 1000 + 7),
    };
    assert_eq!(world.propose(set(2500)), Ok(Outcome::Changed));
    assert_eq!(world.propose(set(2500)), Ok(Outcome::Unchanged));
    let pacing = world.control.pacing();
    assert_eq!(
        (pacing.version, pacing.occupancy_interval),
        (2, Duration::from_millis(2500))
    );
    assert!(matches!(
        world.propose(set(3_600_000)),
        Err(Refusal::TooMuch { .. })
    ));
    assert!(matches!(
        world.propose(ControlCommand::SetCopies(0)),
        Err(Refusal::Missing { .. })
    ));
}

#[test]
fn a_revocation_for_later_neither_delays_nor_takes_back_another() {
    use headcount_placement::Revocation;
    let mut world = World::found("us", 1, 1);
    let mut known = |issued: u64, applies: u64, now: u64| {
        let command = ControlCommand::RevokeTokens {
            key: "dev.k".to_owned(),
            targets: ["clientId:a".to_owned()].into(),
            revocation: Revocation {
                issued_before: Timestamp(issued),
                applies_at: Timestamp(applies),
            },
            now: Timestamp(now),
        };
        world.propose(command).unwrap();
        let known = world.control.revocations().values().flatten();
        let known = known.map(|it| (it.issued_before.0, it.applies_at.0));
        known.collect::<Vec<_>>()
    };
    // What is void stays so while more is to be.
    assert_eq!(known(10, 10, 10), [(10, 10)]);
    assert_eq!(known(20, 50, 20), [(10, 10), (20, 50)]);
    // Another one for later does not put off the first.
    assert_eq!(known(30, 60, 30), [(10, 10), (20, 50), (30, 60)]);
    // One that applies at once outdoes all that say less.
    assert_eq!(known(25, 40, 40), [(25, 40), (30, 60)]);
    // What applies by now is one, and what says nothing new is dropped.
    assert_eq!(known(28, 70, 65), [(30, 60)]);
    assert_eq!(known(35, 70, 65), [(30, 60), (35, 70)]);
}

#[test]
fn revocations_are_merged_and_bounded() {
    use headcount_placement::{REVOCATIONS_MAX, Revocation};
    let mut world = World::found("us", 1, 1);
    let revoke = |targets: &[String], issued: u64, now: u64| ControlCommand::RevokeTokens {
        key: "dev.k".to_owned(),
        targets: targets.iter().cloned().collect(),
        revocation: Revocation {
            issued_before: Timestamp(issued),
            applies_at: Timestamp(now),
        },
        now: Timestamp(now),
    };
    let one = ["clientId:a".to_owned()];
    assert_eq!(world.propose(revoke(&one, 7, 10)), Ok(Outcome::Changed));
    assert_eq!(world.propose(revoke(&one, 6, 11)), Ok(Outcome::Unchanged));
    let place = ("dev.k".to_owned(), "clientId:a".to_owned());
    let known = |world: &World| {
        let known = &world.control.revocations()[&place];
        let known = known.iter().map(|it| (it.issued_before.0, it.applies_at.0));
        known.collect::<Vec<_>>()
    };
    assert_eq!(known(&world), [(7, 10)]);
    for (targets, issued) in [
        (Vec::new(), 1),
        (vec![String::new()], 1),
        (vec!["x".repeat(5_000)], 1),
    ] {
        assert!(world.propose(revoke(&targets, issued, 1)).is_err());
    }

    let names: Vec<_> = (1..REVOCATIONS_MAX)
        .map(|n| format!("clientId:{n}"))
        .collect();
    for names in names.chunks(100) {
        assert_eq!(world.propose(revoke(names, 1, 20)), Ok(Outcome::Changed));
    }
    let more = ["clientId:more".to_owned()];
    let day = 24 * 3_600 * 1_000;
    let full = world.propose(revoke(&more, 1, day));
    assert!(matches!(full, Err(Refusal::TooMuch { .. })), "{full:?}");
    assert_eq!(world.control.revocations().len(), REVOCATIONS_MAX);
    // Nothing is forgotten before a day is over, and then only what is that old.
    assert_eq!(
        world.propose(revoke(&more, 1, day + 10)),
        Ok(Outcome::Changed)
    );
    assert_eq!(world.control.revocations().len(), REVOCATIONS_MAX);
    assert!(!world.control.revocations().contains_key(&place));
}

#[test]
fn the_era_never_falls() {
    let mut world = World::found("us", 1, 1);
    assert_eq!(
        world.propose(ControlCommand::RaiseEra(Era(2))),
        Ok(Outcome::Changed)
    );
    let refused = Err(Refusal::OldEra { current: Era(2) });
    assert_eq!(world.propose(ControlCommand::RaiseEra(Era(1))), refused);
    assert_eq!(world.control.facts().unwrap().era, Era(2));
}

fn order(after: u64, id: u64, command: ControlCommand) -> ControlCommand {
    let command = Box::new(command);
    ControlCommand::Order { after, id, command }
}

#[test]
fn an_order_takes_effect_once_and_not_after_the_next() {
    let mut world = World::found("us", 1, 1);
    let node = world.add("us");
    let drain = order(0, 7, ControlCommand::Drain(node));
    assert_eq!(world.propose(drain.clone()), Ok(Outcome::Changed));
    let drained = world.control.parts().last_order;
    assert_eq!((drained.index, drained.id), (world.control.applied(), 7));
    assert_eq!(world.propose(drain.clone()), Ok(Outcome::Unchanged));

    // Whoever has not heard of it is told of it.
    let current = drained.index;
    let blind = order(0, 8, ControlCommand::Undrain(node));
    let overtaken = Err(Refusal::Overtaken { current });
    assert_eq!(world.propose(blind), overtaken);
    let undrain = order(current, 8, ControlCommand::Undrain(node));
    assert_eq!(world.propose(undrain), Ok(Outcome::Changed));

    let current = world.control.parts().last_order.index;
    let overtaken = Err(Refusal::Overtaken { current });
    assert_eq!(world.propose(drain), overtaken, "it comes too late");
    assert!(!world.control.node(node).unwrap().draining);

    // One that is refused is as if it had not been.
    let unknown = NodeId(99);
    let refused = order(current, 9, ControlCommand::Drain(unknown));
    let node = unknown;
    let unknown = Err(Refusal::UnknownNode { node });
    assert_eq!(world.propose(refused), unknown);
    assert_eq!(world.control.parts().last_order.index, current);
}

#[test]
fn the_last_node_stays() {
    let mut world = World::found("us", 1, 1);
    let node = NodeId(1);
    let refused = Err(Refusal::LastNode { node });
    assert_eq!(world.propose(ControlCommand::Drain(node)), refused);
    world.kill(node);
    assert_eq!(world.propose(ControlCommand::Remove(node)), refused);
}

#[test]
fn a_removed_node_never_returns() {
    let mut world = World::found("us", 2, 1);
    world.add("us");
    let third = world.add("us");
    world.settle();
    world.kill(third);
    world.propose(ControlCommand::Remove(third)).unwrap();
    assert_eq!(
        world.propose(ControlCommand::Remove(third)),
        Ok(Outcome::Unchanged)
    );
    let gone = Err(Refusal::NodeRemoved { node: third });
    assert_eq!(world.propose(start(third.0, 2, 9)), gone);
    assert_eq!(world.propose(ControlCommand::Join(new_node(3, "us"))), gone);
}

#[test]
fn group_numbers_are_fixed_for_ever() {
    assert_eq!(GroupId::Control.number(), 0);
    assert_eq!(GroupId::Shard(ShardId(41)).number(), 42);
    assert_eq!(GroupId::from_number(42), Some(GroupId::Shard(ShardId(41))));
    assert_eq!(GroupId::from_number(u64::MAX), None);
}

#[test]
fn a_snapshot_restores_the_state_and_a_damaged_one_does_not() {
    let mut world = World::found("us", 2, 2);
    for place in ["eu", "ap", "us"] {
        world.add(place);
    }
    world.settle();
    let parts = world.control.parts().clone();
    assert_eq!(
        Control::from_parts(parts.clone()).as_ref(),
        Ok(&world.control)
    );
    assert_eq!(
        Control::from_parts(ControlParts::default()),
        Ok(Control::new())
    );

    let damaged = |damage: &dyn Fn(&mut ControlParts)| {
        let mut parts = parts.clone();
        damage(&mut parts);
        Control::from_parts(parts).expect_err("damage goes unnoticed")
    };
    let group = GroupId::Shard(ShardId(1));
    let groups = damaged(&|parts| drop(parts.groups.remove(&group)));
    assert_eq!(groups, PartsError::Groups { shards: 2 });
    let no_voters = damaged(&|parts| parts.groups.get_mut(&group).unwrap().voters.clear());
    assert!(matches!(no_voters, PartsError::Group { .. }));
    let reused = damaged(&|parts| parts.last_replica.0 -= 1);
    assert!(matches!(reused, PartsError::Group { .. }));
    let lost = damaged(&|parts| drop(parts.nodes.remove(&NodeId(4))));
    assert!(matches!(lost, PartsError::Group { .. }));
    let fences = damaged(&|parts| parts.last_fence.0 -= 1);
    assert!(matches!(fences, PartsError::Tenure(..)));
    let unfounded = damaged(&|parts| parts.facts = None);
    assert_eq!(unfounded, PartsError::NotFounded);
}

#[test]
fn a_replica_is_remembered_until_its_removal_is_confirmed() {
    let mut world = World::found("us", 1, 1);
    let (second, third) = (world.add("us"), world.add("us"));
    let group = GroupId::Shard(ShardId(0));
    let confirm = |version| ControlCommand::Confirm { group, version };
    let add = |version, node| ControlCommand::AddReplicas {
        group,
        version,
        nodes: [node].into(),
    };
    world.propose(confirm(1)).unwrap();
    world.propose(add(1, second)).unwrap();
    let (replica, _) = world.control.group(group).unwrap().on(second).unwrap();
    world.propose(add(2, third)).unwrap();
    let replicas = [replica].into();
    world
        .propose(ControlCommand::RemoveReplicas {
            group,
            version: 3,
            replicas,
        })
        .unwrap();
    let hosts = |world: &World| {
        world
            .control
            .replicas_of(second)
            .any(|hosted| hosted.group == group && hosted.leaving)
    };
    // The group has brought in the third, but not yet let go of the second.
    world.propose(confirm(3)).unwrap();
    assert!(hosts(&world));
    assert!(
        !world
            .control
            .target_membership(group)
            .unwrap()
            .learners
            .contains_key(&replica)
    );
    world.propose(confirm(4)).unwrap();
    assert!(!hosts(&world));
}
