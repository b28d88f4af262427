//! From one node to many, and back.

use std::collections::{BTreeMap, BTreeSet};

use headcount_model::{Fence, Incarnation, NodeId, ReplicaId, ShardId};
use headcount_placement::{
    ClusterFacts, ControlCommand, FOUNDING_NODE, GroupId, NodeState, Outcome, Pin, Refusal,
};

use crate::world::{World, facts, new_node, region};

fn regions_of(world: &World, group: GroupId) -> BTreeMap<String, usize> {
    let mut regions = BTreeMap::new();
    for node in world
        .control
        .target_membership(group)
        .unwrap()
        .voters
        .values()
    {
        let region = world.control.node(*node).unwrap().region.to_string();
        *regions.entry(region).or_default() += 1;
    }
    regions
}

#[test]
fn one_node_serves_alone() {
    let mut world = World::found("us", 4, 2);
    world.settle();
    world.check_rest();
    let owned: Vec<_> = world.control.owned_by(NodeId(1)).collect();
    assert_eq!(owned.len(), 4);
}

#[test]
fn two_nodes_have_two_voters() {
    let mut world = World::found("us", 4, 2);
    world.add("us");
    world.settle();
    world.check_rest();
    let membership = world
        .control
        .target_membership(GroupId::Shard(ShardId(0)))
        .unwrap();
    assert_eq!((membership.voters.len(), membership.learners.len()), (2, 0));
}

#[test]
fn one_node_grows_into_three_regions_of_three() {
    let mut world = World::found("us", 64, 2);
    world.settle();
    world.add("eu");
    world.add("ap");
    world.settle();
    world.check_rest();
    for place in ["us", "eu", "ap", "us", "eu", "ap"] {
        world.add(place);
        world.settle();
        world.check_rest();
    }
    let mut leads = BTreeMap::new();
    for shard in world.control.shards() {
        let group = GroupId::Shard(shard);
        assert_eq!(regions_of(&world, group).len(), 3);
        assert_eq!(
            world
                .control
                .target_membership(group)
                .unwrap()
                .learners
                .len(),
            3
        );
        let (_, node) = world.control.leader_target(group).unwrap();
        *leads.entry(node).or_insert(0) += 1;
    }
    assert_eq!(leads.len(), 9, "every node leads: {leads:?}");
    assert!(leads.values().all(|led| (6..=9).contains(led)), "{leads:?}");
    let owns: Vec<_> = (1..=9)
        .map(|node| world.control.holdings(NodeId(node)).owns)
        .collect();
    assert!(owns.iter().all(|owns| (20..=23).contains(owns)), "{owns:?}");
}

#[test]
fn two_regions_vote_two_to_one() {
    let mut world = World::found("us", 8, 1);
    for place in ["eu", "us", "eu"] {
        world.add(place);
    }
    world.settle();
    world.check_rest();
    for shard in world.control.shards() {
        let mut voters: Vec<_> = regions_of(&world, GroupId::Shard(shard))
            .into_values()
            .collect();
        voters.sort_unstable();
        assert_eq!(voters, [1, 2]);
    }
}

#[test]
fn a_fourth_region_listens_and_a_fifth_makes_five_voters() {
    let mut world = World::found("a", 8, 1);
    for place in ["b", "c", "d"] {
        world.add(place);
    }
    world.settle();
    world.check_rest();
    let four = world
        .control
        .target_membership(GroupId::Shard(ShardId(0)))
        .unwrap();
    assert_eq!((four.voters.len(), four.learners.len()), (3, 1));
    world.add("e");
    world.settle();
    world.check_rest();
    let five = world
        .control
        .target_membership(GroupId::Shard(ShardId(0)))
        .unwrap();
    assert_eq!((five.voters.len(), five.learners.len()), (5, 0));
}

#[test]
fn zones_keep_copies_apart() {
    let mut world = World::found("us/a", 16, 2);
    for place in ["us/a", "us/b", "us/b", "us/c", "us/c"] {
        world.add(place);
    }
    world.settle();
    for group in world.control.groups().values() {
        let zones: BTreeSet<_> = group
            .voters
            .iter()
            .map(|voter| &world.control.node(group.replicas[voter].node).unwrap().zone)
            .collect();
        assert_eq!(zones.len(), 3);
    }
}

#[test]
fn a_new_node_takes_its_share_and_no_more() {
    let mut world = World::found("us", 60, 2);
    for place in ["eu", "ap", "us", "eu", "ap"] {
        world.add(place);
    }
    world.settle();
    let start = world.log.len();
    world.add("us");
    world.settle();
    world.check_rest();
    // 120 replicas in the region, 40 a node; the other regions move nothing.
    assert!(
        (38..=42).contains(&world.placed_since(start)),
        "{}",
        world.placed_since(start)
    );
}

#[test]
fn a_drained_node_is_empty_and_can_be_removed() {
    let mut world = World::found("us", 16, 1);
    for place in ["eu", "ap", "us", "eu", "ap"] {
        world.add(place);
    }
    world.settle();
    let node = NodeId(1);
    assert_eq!(
        world.propose(ControlCommand::Remove(node)),
        Err(Refusal::NotDrained { node })
    );
    world.propose(ControlCommand::Drain(node)).unwrap();
    assert!(matches!(
        world.propose(ControlCommand::Remove(node)),
        Err(Refusal::StillHolds { .. })
    ));
    world.settle();
    let holdings = world.control.holdings(node);
    assert_eq!(
        (
            holdings.replicas,
            holdings.votes,
            holdings.leads,
            holdings.owns
        ),
        (0, 0, 0, 0)
    );
    assert_eq!(
        world.propose(ControlCommand::Remove(node)),
        Ok(Outcome::Changed)
    );
    world.settle();
    world.check_rest();
    assert_eq!(world.control.replicas_of(node).count(), 0);
    assert_eq!(world.control.node(node).unwrap().state, NodeState::Removed);
}

#[test]
fn owners_leave_a_draining_node_only_for_one_that_is_ready() {
    let mut world = World::found("us", 8, 1);
    world.settle();
    world.add("us");
    world.propose(ControlCommand::Drain(NodeId(1))).unwrap();
    assert_eq!(world.control.holdings(NodeId(1)).owns, 8);
    world.settle();
    assert_eq!(world.control.holdings(NodeId(2)).owns, 8);
}

#[test]
fn what_a_stopping_node_owns_others_own_until_its_next_life() {
    let mut world = World::found("us", 8, 2);
    for _ in 0..2 {
        world.add("us");
    }
    world.settle();
    let owns = |world: &World, node| world.control.holdings(node).owns;
    let before = world.control.holdings(FOUNDING_NODE);
    assert!(before.owns >= 2);
    let fences = |world: &World| -> Vec<Fence> {
        let owners = world.control.shards().map(|shard| {
            let owner = world.control.owner(&region("us"), shard);
            owner.unwrap().fence
        });
        owners.collect()
    };
    world.stop(FOUNDING_NODE);
    assert_eq!(owns(&world, FOUNDING_NODE), 0);
    assert_eq!(owns(&world, NodeId(2)) + owns(&world, NodeId(3)), 8);
    let held = fences(&world);
    world.settle();
    assert_eq!(fences(&world), held, "nothing is given back at once");
    let after = world.control.holdings(FOUNDING_NODE);
    assert_eq!(
        (after.replicas, after.votes, after.leads),
        (before.replicas, before.votes, before.leads),
        "it comes back"
    );

    // Its next life is as good as any other after a while, and its last one says nothing more.
    world.start(FOUNDING_NODE);
    world.options.restarted = [FOUNDING_NODE].into();
    world.settle();
    assert_eq!(fences(&world), held, "the ways to it may not be open yet");
    world.options.restarted.clear();
    let late = ControlCommand::Stop {
        node: FOUNDING_NODE,
        incarnation: Incarnation(1),
    };
    assert_eq!(world.propose(late), Ok(Outcome::Unchanged));
    world.settle();
    world.check_rest();
    assert!(owns(&world, FOUNDING_NODE) >= 2);
}

#[test]
fn a_stopping_node_goes_on_owning_what_nobody_else_can() {
    let mut world = World::found("us", 8, 2);
    world.add("eu");
    world.settle();
    world.stop(FOUNDING_NODE);
    world.settle();
    assert_eq!(world.control.holdings(FOUNDING_NODE).owns, 8);
    // One that stops is better than none.
    let node = world.add("us");
    world.stop(node);
    world.settle();
    let owns = |node| world.control.holdings(node).owns;
    assert_eq!(owns(FOUNDING_NODE) + owns(node), 8);
}

#[test]
fn a_whole_region_can_go() {
    let mut world = World::found("us", 8, 2);
    for place in ["eu", "ap", "sa"] {
        world.add(place);
    }
    world.settle();
    world.propose(ControlCommand::Drain(NodeId(2))).unwrap();
    world.settle();
    world.propose(ControlCommand::Remove(NodeId(2))).unwrap();
    world.settle();
    world.check_rest();
    let void: BTreeSet<_> = world
        .control
        .voids(ShardId(3))
        .map(|(region, _)| region)
        .collect();
    assert_eq!(void, BTreeSet::from([&region("eu")]));
}

#[test]
fn a_dead_node_is_replaced_in_its_region_once_given_up() {
    let mut world = World::found("us", 12, 2);
    for place in ["eu", "ap", "us", "us"] {
        world.add(place);
    }
    world.settle();
    let start = world.log.len();
    world.kill(NodeId(1));
    world.settle();
    assert_eq!(world.placed_since(start), 0, "it may come back");
    for shard in world.control.shards() {
        let group = world.control.group(GroupId::Shard(shard)).unwrap();
        let votes = group
            .voters
            .iter()
            .any(|voter| group.replicas[voter].node == NodeId(1));
        assert!(!votes, "a ready replica of the region votes instead");
        assert_ne!(
            world.control.owner(&region("us"), shard).unwrap().node,
            NodeId(1)
        );
    }
    world.options.given_up.insert(NodeId(1));
    world.settle();
    assert_eq!(world.control.holdings(NodeId(1)).replicas, 0);
    world.propose(ControlCommand::Remove(NodeId(1))).unwrap();
    world.settle();
    world.check_rest();
}

#[test]
fn leadership_stays_while_a_death_is_fresh_unless_a_node_drains() {
    let mut world = World::found("us", 12, 2);
    for place in ["eu", "ap", "us", "eu", "ap"] {
        world.add(place);
    }
    world.settle();
    let moves = |world: &World, start: usize| {
        let log = &world.log[start..];
        let moves = log.iter();
        moves
            .filter(|command| matches!(command, ControlCommand::PreferLeader { .. }))
            .count()
    };
    let start = world.log.len();
    world.options.settling = true;
    world.kill(NodeId(2));
    world.settle();
    assert_eq!(moves(&world, start), 0, "it may be back in a moment");
    world.start(NodeId(2));
    world.kill(NodeId(3));
    world.propose(ControlCommand::Drain(NodeId(1))).unwrap();
    world.settle();
    assert!(
        moves(&world, start) > 0,
        "whoever stops a node waits for it"
    );
    world.propose(ControlCommand::Undrain(NodeId(1))).unwrap();
    world.options.settling = false;
    world.settle();
    let led = |node| {
        let groups = world.control.groups().keys();
        groups
            .filter(|id| {
                world
                    .control
                    .leader_target(**id)
                    .is_some_and(|(_, on)| on == node)
            })
            .count()
    };
    assert_eq!(led(NodeId(3)), 0, "the dead lead nothing once that is over");
    world.start(NodeId(3));
    world.settle();
    world.check_rest();
}

#[test]
fn a_region_without_owner_gets_a_replica_at_once() {
    let mut world = World::found("us", 6, 1);
    for place in ["eu", "ap", "us"] {
        world.add(place);
    }
    world.settle();
    let held = world.control.holdings(NodeId(1)).replicas;
    assert!(held > 0);
    let start = world.log.len();
    world.kill(NodeId(1));
    world.settle();
    assert_eq!(world.placed_since(start) as u64, held);
    for shard in world.control.shards() {
        assert_eq!(
            world.control.owner(&region("us"), shard).unwrap().node,
            NodeId(4)
        );
    }
    world.start(NodeId(1));
    world.settle();
    world.check_rest();
}

#[test]
fn a_lost_region_keeps_its_votes_until_it_is_given_up() {
    let mut world = World::found("us", 6, 2);
    for place in ["eu", "ap", "us", "eu", "ap"] {
        world.add(place);
    }
    world.settle();
    let before: Vec<_> = world
        .control
        .groups()
        .values()
        .map(|it| it.voters.clone())
        .collect();
    world.kill(NodeId(3));
    world.kill(NodeId(6));
    for shard in world.control.shards() {
        assert_eq!(world.control.owner(&region("ap"), shard), None);
        let voids: Vec<_> = world.control.voids(shard).collect();
        assert!(voids.len() == 1 && voids[0].1 > Fence(0));
    }
    world.settle();
    for (group, before) in world.control.groups().values().zip(before) {
        let kept = group.voters.intersection(&before).count();
        assert!(
            kept >= 2,
            "at most the vote inside the lost region may have moved"
        );
        let ap = group
            .voters
            .iter()
            .filter(|voter| group.replicas[voter].node.0 % 3 == 0);
        assert_eq!(ap.count(), 1);
    }
    world.options.given_up.extend([NodeId(3), NodeId(6)]);
    world.settle();
    for group in world.control.groups().values() {
        let alive = group
            .voters
            .iter()
            .all(|voter| group.replicas[voter].node.0 % 3 != 0);
        assert!(alive && group.voters.len() == 3);
    }
    world.options.given_up.clear();
    world.start(NodeId(3));
    world.start(NodeId(6));
    world.settle();
    world.check_rest();
}

#[test]
fn leaders_follow_weights_and_homes() {
    let mut world = World::found("us", 40, 1);
    world.add("eu");
    world.add("ap");
    world.settle();
    let weights = [("us", 300), ("eu", 100), ("ap", 0)];
    let weights = weights.map(|(name, weight)| (region(name), weight)).into();
    world.propose(ControlCommand::SetWeights(weights)).unwrap();
    let shard = ShardId(5);
    world
        .propose(ControlCommand::SetHome {
            shard,
            home: Some(region("ap")),
        })
        .unwrap();
    world.settle();
    let mut leads: BTreeMap<u64, usize> = BTreeMap::new();
    for shard in world.control.shards() {
        *leads
            .entry(
                world
                    .control
                    .leader_target(GroupId::Shard(shard))
                    .unwrap()
                    .1
                    .0,
            )
            .or_default() += 1;
    }
    assert_eq!(leads[&3], 1, "the shard whose home it is");
    assert!((28..=31).contains(&leads[&1]), "{leads:?}");
}

#[test]
fn pinned_shards_are_led_from_home_while_it_lives() {
    let pin = |prefix: &str, home: &str, shards| Pin {
        prefix: prefix.to_owned(),
        home: region(home),
        shards,
    };
    let pins = vec![pin("ap:", "ap", 1), pin("eu:", "eu", 3)];
    let facts = ClusterFacts { pins, ..facts(8) };
    assert_eq!(facts.divided(), 4);
    let mut world = World::found_as(facts, "us", 1);
    world.settle();
    let led_from = |world: &World, shard| {
        let (_, node) = world
            .control
            .leader_target(GroupId::Shard(ShardId(shard)))
            .unwrap();
        world.control.node(node).unwrap().region.clone()
    };
    assert_eq!(
        led_from(&world, 5),
        region("us"),
        "its home has no node yet"
    );
    for place in ["eu", "ap", "sa"] {
        world.add(place);
    }
    // Homes come before weights.
    let weights = [(region("eu"), 0)].into();
    world.propose(ControlCommand::SetWeights(weights)).unwrap();
    world.settle();
    world.check_rest();
    let homes = |world: &World| [4, 5, 6, 7].map(|shard| led_from(world, shard));
    assert_eq!(homes(&world), ["ap", "eu", "eu", "eu"].map(region));

    world.kill(NodeId(2));
    world.settle();
    assert!(homes(&world)[1..].iter().all(|home| *home != region("eu")));
    world.start(NodeId(2));
    world.settle();
    assert_eq!(homes(&world), ["ap", "eu", "eu", "eu"].map(region));
}

#[test]
fn a_cluster_is_not_founded_with_pins_that_make_no_sense() {
    let pin = |prefix: &str, shards| Pin {
        prefix: prefix.to_owned(),
        home: region("eu"),
        shards,
    };
    for pins in [
        vec![pin("b", 1), pin("a", 1)],
        vec![pin("a", 1), pin("a", 1)],
        vec![pin("", 1)],
        vec![pin("a", 0)],
        vec![pin("a", 8)],
    ] {
        let mut control = headcount_placement::Control::new();
        let facts = ClusterFacts { pins, ..facts(8) };
        let refused = control.apply(
            1,
            &ControlCommand::Init {
                facts: facts.clone(),
                settings: headcount_placement::Settings::default(),
                node: new_node(1, "us"),
            },
        );
        assert!(refused.is_err(), "{facts:?}");
        assert!(control.facts().is_none());
    }
}

#[test]
fn changes_at_a_time_are_bounded() {
    let mut world = World::found("us", 64, 1);
    world.options.changes_max = 3;
    world.settle();
    world.add("eu");
    world.add("ap");
    let commands = headcount_placement::plan(&world.control, &world.options);
    let groups: BTreeSet<_> = commands
        .iter()
        .filter_map(|command| match command {
            ControlCommand::AddReplicas { group, .. } => Some(*group),
            _ => None,
        })
        .collect();
    assert_eq!(groups.len(), 3);
    world.settle();
    world.check_rest();
}

#[test]
fn members_go_only_after_their_vote_has() {
    let mut world = World::found("us", 1, 1);
    for place in ["eu", "ap", "us"] {
        world.add(place);
    }
    world.settle();
    let id = GroupId::Shard(ShardId(0));
    let group = world.control.group(id).unwrap().clone();
    let voter: ReplicaId = *group.voters.first().unwrap();
    let removal = ControlCommand::RemoveReplicas {
        group: id,
        version: group.version,
        replicas: [voter].into(),
    };
    assert_eq!(
        world.propose(removal),
        Err(Refusal::StillVotes {
            group: id,
            replica: voter
        })
    );

    // It loses its vote, but may still use it until the group has confirmed that.
    let other = world
        .control
        .nodes()
        .keys()
        .copied()
        .find(|node| group.on(*node).is_none());
    let node = other.expect("four nodes, three replicas");
    let version = group.version;
    let nodes = [node].into();
    world
        .propose(ControlCommand::AddReplicas {
            group: id,
            version,
            nodes,
        })
        .unwrap();
    let (heir, _) = world.control.group(id).unwrap().on(node).unwrap();
    world
        .propose(ControlCommand::ReplicaReady {
            group: id,
            replica: heir,
        })
        .unwrap();
    let mut voters = group.voters.clone();
    voters.remove(&voter);
    voters.insert(heir);
    let version = version + 1;
    world
        .propose(ControlCommand::SetVoters {
            group: id,
            version,
            voters,
        })
        .unwrap();
    let version = version + 1;
    let removal = ControlCommand::RemoveReplicas {
        group: id,
        version,
        replicas: [voter].into(),
    };
    let early = Err(Refusal::StillVotes {
        group: id,
        replica: voter,
    });
    assert_eq!(world.propose(removal.clone()), early);
    world
        .propose(ControlCommand::Confirm { group: id, version })
        .unwrap();
    assert_eq!(world.propose(removal), Ok(Outcome::Changed));
    assert!(
        world
            .control
            .replicas_of(group.replicas[&voter].node)
            .any(|it| it.leaving)
    );
    let version = version + 1;
    world
        .propose(ControlCommand::Confirm { group: id, version })
        .unwrap();
    assert!(
        !world
            .control
            .group(id)
            .unwrap()
            .replicas
            .contains_key(&voter)
    );
}
