//! Coordinators follow traffic: late enough, rarely enough, and as far as weights allow.

use std::collections::BTreeMap;
use std::time::Duration;

use headcount_model::{Monotonic, RegionName, ShardId};
use headcount_placement::{
    ControlCommand, FOLLOWING_VERSION, GroupId, MoveReason, Traffic, TrafficConfig,
};
use proptest::prelude::*;

use crate::world::{World, region};

const STEADY: Duration = Duration::from_secs(60);

/// A cluster of which each shard has so much traffic from each region in a second.
struct Drive {
    world: World,
    traffic: Traffic,
    now: Monotonic,
    /// When which shard began to follow what.
    moves: Vec<(Monotonic, ShardId, Option<RegionName>)>,
}

impl Drive {
    fn new(places: &[&str], shards: u32, config: TrafficConfig) -> Self {
        let mut world = World::found(places[0], shards, 1);
        for place in &places[1..] {
            world.add(place);
        }
        world.settle();
        Self {
            world,
            traffic: Traffic::new(config),
            now: Monotonic(Duration::from_secs(1_000)),
            moves: Vec::new(),
        }
    }

    /// Lets a second pass in which `items` come in each shard.
    fn second(&mut self, items: impl Fn(ShardId) -> Vec<(&'static str, u64)>) {
        self.now = self.now.after(Duration::from_secs(1));
        for shard in self.world.control.shards() {
            let items: BTreeMap<_, _> = items(shard)
                .into_iter()
                .map(|(name, items)| (region(name), items))
                .collect();
            self.traffic.note(self.now, shard, &items);
        }
        for command in self.traffic.decide(self.now, &self.world.control) {
            let ControlCommand::FollowTraffic { shard, region } = &command else {
                panic!("{command:?} has nothing to do with traffic");
            };
            self.moves.push((self.now, *shard, region.clone()));
            self.world.propose(command).unwrap();
        }
        self.world.settle();
    }

    fn seconds(&mut self, count: u64, items: impl Fn(ShardId) -> Vec<(&'static str, u64)> + Copy) {
        for _ in 0..count {
            self.second(items);
        }
    }

    fn leads(&self, name: &str) -> usize {
        let shards = self.world.control.shards();
        shards.filter(|shard| self.leader_in(*shard, name)).count()
    }

    fn leader_in(&self, shard: ShardId, name: &str) -> bool {
        let leader = self.world.control.leader_target(GroupId::Shard(shard));
        let (_, node) = leader.unwrap();
        self.world.control.node(node).unwrap().region == region(name)
    }

    /// Most changes within any span of five seconds.
    fn most_at_a_time(&self) -> usize {
        let within = |from: Monotonic| {
            let until = from.after(Duration::from_secs(5));
            let moves = self.moves.iter();
            moves.filter(|(at, ..)| (from..until).contains(at)).count()
        };
        self.moves
            .iter()
            .map(|(at, ..)| within(*at))
            .max()
            .unwrap_or(0)
    }
}

fn config() -> TrafficConfig {
    TrafficConfig {
        steady: STEADY,
        ..TrafficConfig::default()
    }
}

#[test]
fn coordinators_go_where_the_traffic_has_come_from_for_long_a_few_at_a_time() {
    let mut drive = Drive::new(&["a", "b", "c"], 12, config());
    assert_eq!(
        [drive.leads("a"), drive.leads("b"), drive.leads("c")],
        [4; 3]
    );

    // Half of the shards have their traffic in `b`; the others have none.
    let half = |shard: ShardId| match shard.0 {
        0..6 => vec![("b", 9), ("c", 1)],
        _ => Vec::new(),
    };
    drive.seconds(60, half);
    assert_eq!(drive.moves, [], "nothing moves before its time");
    drive.seconds(30, half);
    for shard in 0..6 {
        assert!(drive.leader_in(ShardId(shard), "b"), "{shard}");
    }
    // The rest makes up for it.
    assert_eq!(
        [drive.leads("a"), drive.leads("b"), drive.leads("c")],
        [3, 6, 3]
    );
    assert_eq!(drive.moves.len(), 6);
    assert!(drive.most_at_a_time() <= 4);

    // The traffic goes elsewhere, and they follow; each moves once.
    let gone = |shard: ShardId| match shard.0 {
        0..6 => vec![("a", 9), ("b", 4)],
        _ => Vec::new(),
    };
    drive.seconds(300, gone);
    assert_eq!(drive.moves.len(), 12);
    assert_eq!(drive.leads("a"), 6);

    // It stops: for long they stay, then the weights have them.
    drive.seconds(600, |_| Vec::new());
    assert_eq!(drive.leads("a"), 6);
    drive.seconds(200, |_| Vec::new());
    assert_eq!(
        [drive.leads("a"), drive.leads("b"), drive.leads("c")],
        [4; 3]
    );
}

#[test]
fn too_little_traffic_moves_nothing() {
    let mut drive = Drive::new(&["a", "b", "c"], 3, config());
    for second in 0..600 {
        drive.second(|_| {
            if second % 5 == 0 {
                vec![("b", 1)]
            } else {
                Vec::new()
            }
        });
    }
    assert_eq!(drive.moves, []);
}

#[test]
fn nothing_follows_where_it_is_turned_off_or_not_understood() {
    let busy = |_| vec![("b", 100)];
    let off = TrafficConfig {
        follow: false,
        ..config()
    };
    let mut drive = Drive::new(&["a", "b", "c"], 3, config());
    drive.seconds(100, busy);
    assert_eq!(drive.leads("b"), 3);
    drive.traffic = Traffic::new(off);
    drive.seconds(2, busy);
    assert_eq!(drive.leads("b"), 1, "the weights have them again");
    drive.seconds(300, busy);
    assert_eq!(drive.moves.len(), 6);

    // A node of an earlier release could not apply it.
    let mut drive = Drive::new(&["a", "b", "c"], 3, config());
    let old = drive.world.join("c");
    let (key, process) = (headcount_model::Incarnation(1), 7);
    let start = ControlCommand::Start {
        node: old,
        incarnation: key,
        process,
        addresses: crate::world::addresses(),
        understands: FOLLOWING_VERSION - 1,
    };
    drive.world.propose(start).unwrap();
    drive.seconds(200, busy);
    assert_eq!(drive.moves, []);
}

#[test]
fn a_home_comes_before_traffic() {
    let mut drive = Drive::new(&["a", "b", "c"], 3, config());
    let home = ControlCommand::SetHome {
        shard: ShardId(1),
        home: Some(region("c")),
    };
    drive.world.propose(home).unwrap();
    drive.seconds(200, |_| vec![("b", 100)]);
    assert!(drive.leader_in(ShardId(1), "c"));
    assert!(drive.moves.iter().all(|(_, shard, _)| *shard != ShardId(1)));
    assert_eq!(drive.leads("b"), 2);
}

#[test]
fn a_new_leader_of_the_control_group_moves_nothing_until_it_has_measured() {
    let mut drive = Drive::new(&["a", "b", "c"], 6, config());
    drive.seconds(120, |_| vec![("b", 10), ("a", 1)]);
    assert_eq!(drive.leads("b"), 6);
    for _ in 0..20 {
        drive.traffic = Traffic::new(config());
        drive.seconds(50, |_| vec![("b", 10), ("a", 1)]);
    }
    assert_eq!((drive.leads("b"), drive.moves.len()), (6, 6));
}

#[test]
fn a_move_is_told_with_its_reason() {
    let mut drive = Drive::new(&["a", "b", "c"], 1, config());
    let id = GroupId::Shard(ShardId(0));
    let in_region = |drive: &Drive, name: &str| {
        let group = drive.world.control.group(id).unwrap();
        let found = group.members().find(|(_, replica)| {
            drive.world.control.node(replica.node).unwrap().region == region(name)
        });
        found.unwrap().0
    };
    let here = drive.world.control.leader_target(id).unwrap();
    let own = drive.world.control.node(here.1).unwrap().region.clone();
    let names = ["a", "b", "c"];
    let others: Vec<_> = names.iter().filter(|name| region(name) != own).collect();
    let (one, other) = (in_region(&drive, others[0]), in_region(&drive, others[1]));
    let reason = |drive: &Drive, replica| drive.world.control.move_reason(id, replica);
    assert_eq!(reason(&drive, here.0), None);
    assert_eq!(reason(&drive, one), Some(MoveReason::Balance));

    let follow = ControlCommand::FollowTraffic {
        shard: ShardId(0),
        region: Some(region(others[0])),
    };
    drive.world.propose(follow).unwrap();
    assert_eq!(reason(&drive, one), Some(MoveReason::Traffic));
    assert_eq!(reason(&drive, other), Some(MoveReason::Balance));

    let home = ControlCommand::SetHome {
        shard: ShardId(0),
        home: Some(region(others[1])),
    };
    drive.world.propose(home).unwrap();
    assert_eq!(reason(&drive, other), Some(MoveReason::Home));
    assert_eq!(reason(&drive, one), Some(MoveReason::Balance));

    drive.world.kill(here.1);
    assert_eq!(reason(&drive, other), Some(MoveReason::Vacant));
}

/// What a shard has in each second, from three regions.
fn loads(max: std::ops::Range<u64>) -> impl Strategy<Value = Vec<[u64; 3]>> {
    proptest::collection::vec([max.clone(), max.clone(), max], 150..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 10))]

    /// Below the factor nothing ever moves, however it goes up and down.
    #[test]
    fn noise_below_the_factor_moves_nothing(loads in loads(10..20), follows in 0..4_usize) {
        let mut drive = Drive::new(&["a", "b", "c"], 2, config());
        if let Some(name) = ["a", "b", "c"].get(follows) {
            for shard in [ShardId(0), ShardId(1)] {
                let region = Some(region(name));
                drive.world.propose(ControlCommand::FollowTraffic { shard, region }).unwrap();
            }
        }
        for [a, b, c] in loads {
            drive.second(|_| vec![("a", a), ("b", b), ("c", c)]);
        }
        prop_assert_eq!(drive.moves, []);
    }

    /// Load that alternates faster than what counts as steady moves a coordinator once at most.
    #[test]
    fn alternating_load_does_not_make_coordinators_run(period in 1..60_u64, high in 1..1_000_u64) {
        let mut drive = Drive::new(&["a", "b", "c"], 2, config());
        for second in 0..1_200 {
            let name = if second / period % 2 == 0 { "a" } else { "b" };
            drive.second(|_| vec![(name, high)]);
        }
        prop_assert!(drive.moves.len() <= 2, "{:?}", drive.moves);
    }

    /// Whatever happens: few at a time, each shard rarely, and no region beyond its share.
    #[test]
    fn weights_bound_what_traffic_attracts(
        loads in loads(0..100),
        weights in [0..300_u32, 0..300, 0..300],
        share_max in 1..4_u32,
        away in 0..3_usize,
    ) {
        prop_assume!(weights.iter().any(|weight| *weight > 0));
        let shards = 10;
        let config = TrafficConfig { share_max, steady: Duration::from_secs(8), ..config() };
        let names = ["a", "b", "c"];
        let mut drive = Drive::new(&names, shards, config);
        let given: BTreeMap<_, _> = names.iter().map(|name| region(name)).zip(weights).collect();
        drive.world.propose(ControlCommand::SetWeights(given)).unwrap();
        drive.world.settle();
        let all: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for load in &loads {
            let [a, b, c] = *load;
            // Each shard has the load turned round by its number, and more of one region.
            drive.second(|shard| {
                let mut items = [a, b, c];
                items.rotate_left(shard.0 as usize % 3);
                items[away] *= 3;
                names.into_iter().zip(items).collect()
            });
            for (name, weight) in names.iter().zip(weights) {
                let following = drive.world.control.groups().values();
                let following = following
                    .filter(|group| group.follows == Some(region(name)))
                    .count() as u64;
                let most = u64::from(shards * weight * share_max).div_ceil(all);
                prop_assert!(following <= most, "{following} follow {name}, {most} may");
            }
        }
        prop_assert!(drive.most_at_a_time() <= 4);
        for shard in (0..shards).map(ShardId) {
            let times: Vec<_> = drive.moves.iter().filter(|(_, of, _)| *of == shard).collect();
            for pair in times.windows(2) {
                let apart = pair[1].0.since(pair[0].0);
                prop_assert!(apart >= config.steady, "{pair:?}");
            }
        }
    }
}
