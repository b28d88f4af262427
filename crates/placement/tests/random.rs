//! Whatever happens to a cluster, in any order.

use headcount_model::NodeId;
use headcount_placement::{Control, ControlCommand, NodeState, Outcome};
use proptest::prelude::*;

use crate::world::{World, region};

#[derive(Clone, Debug)]
enum Happening {
    Join(usize),
    JoinWithoutStart(usize),
    Kill(usize),
    Restart(usize),
    Stop(usize),
    Drain(usize),
    Undrain(usize),
    Remove(usize),
    GiveUp(usize),
    Slow(usize),
    Fast,
    SetCopies(u32),
    Weigh(usize, u32),
    Home(u32, usize),
    Follow(u32, usize),
    Steps(usize),
}

const PLACES: [&str; 7] = ["a", "b", "c", "d/x", "d/y", "e", "a/z"];
const SHARDS: u32 = 5;

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let happening = prop_oneof![
        4 => (0..PLACES.len()).prop_map(Happening::Join),
        1 => (0..PLACES.len()).prop_map(Happening::JoinWithoutStart),
        4 => (0..16_usize).prop_map(Happening::Kill),
        3 => (0..16_usize).prop_map(Happening::Restart),
        3 => (0..16_usize).prop_map(Happening::Stop),
        2 => (0..16_usize).prop_map(Happening::Drain),
        1 => (0..16_usize).prop_map(Happening::Undrain),
        2 => (0..16_usize).prop_map(Happening::Remove),
        2 => (0..16_usize).prop_map(Happening::GiveUp),
        2 => (0..16_usize).prop_map(Happening::Slow),
        1 => Just(Happening::Fast),
        1 => (1..4_u32).prop_map(Happening::SetCopies),
        1 => (0..PLACES.len(), 0..300_u32).prop_map(|(at, weight)| Happening::Weigh(at, weight)),
        1 => (0..SHARDS, 0..PLACES.len()).prop_map(|(shard, at)| Happening::Home(shard, at)),
        1 => (0..SHARDS, 0..PLACES.len()).prop_map(|(shard, at)| Happening::Follow(shard, at)),
        6 => (1..12_usize).prop_map(Happening::Steps),
    ];
    proptest::collection::vec(happening, 0..40)
}

fn place(at: usize) -> headcount_model::RegionName {
    region(PLACES[at].split('/').next().unwrap())
}

fn happen(world: &mut World, happening: &Happening) {
    let members = world.members();
    let pick = |at: usize| members[at % members.len()];
    match happening {
        Happening::Join(at) if members.len() < 12 => {
            world.add(PLACES[*at]);
        }
        Happening::JoinWithoutStart(at) if members.len() < 12 => {
            world.join(PLACES[*at]);
        }
        Happening::Join(_) | Happening::JoinWithoutStart(_) => {}
        // Without the control group's quorum nothing could be committed.
        Happening::Kill(at) => {
            if world.is_live(pick(*at)) && world.survives(pick(*at), false) {
                world.kill(pick(*at));
            }
        }
        Happening::Restart(at) => {
            world.start(pick(*at));
            world.options.given_up.remove(&pick(*at));
        }
        Happening::Stop(at) => world.stop(pick(*at)),
        Happening::Drain(at) => drop(world.propose(ControlCommand::Drain(pick(*at)))),
        Happening::Undrain(at) => drop(world.propose(ControlCommand::Undrain(pick(*at)))),
        // What an operator does who would lose a shard by it is another chapter.
        Happening::Remove(at) => {
            if world.survives(pick(*at), true) {
                drop(world.propose(ControlCommand::Remove(pick(*at))));
            }
        }
        Happening::GiveUp(at) => {
            if world.control.node(pick(*at)).unwrap().state == NodeState::Dead {
                world.options.given_up.insert(pick(*at));
            }
        }
        Happening::Slow(at) => {
            world.slow.insert(pick(*at));
        }
        Happening::Fast => world.slow.clear(),
        Happening::SetCopies(copies) => {
            world.propose(ControlCommand::SetCopies(*copies)).unwrap();
        }
        Happening::Weigh(at, weight) => {
            let weights = [(place(*at), *weight)].into();
            drop(world.propose(ControlCommand::SetWeights(weights)));
        }
        Happening::Home(shard, at) => {
            let shard = headcount_model::ShardId(*shard);
            let home = Some(place(*at));
            drop(world.propose(ControlCommand::SetHome { shard, home }));
        }
        Happening::Follow(shard, at) => {
            let shard = headcount_model::ShardId(*shard);
            let region = Some(place(*at));
            drop(world.propose(ControlCommand::FollowTraffic { shard, region }));
        }
        Happening::Steps(steps) => {
            for _ in 0..*steps {
                world.step();
            }
        }
    }
}

fn cluster(happenings: &[Happening]) -> World {
    let mut world = World::found("a", SHARDS, 2);
    for happening in happenings {
        happen(&mut world, happening);
    }
    world
}

proptest! {
    // Few, as each is a whole history.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 5))]

    #[test]
    fn placement_comes_to_rest_as_it_should(happenings in happenings()) {
        let mut world = cluster(&happenings);
        let is_down = |node: &NodeId| !world.is_live(*node) || world.control.node(*node).unwrap().stopping;
        let down: Vec<_> = world.members().into_iter().filter(is_down).collect();
        for node in down {
            world.start(node);
        }
        world.options.given_up.clear();
        world.slow.clear();
        world.settle();
        world.check_rest();
    }

    #[test]
    fn whatever_lives_comes_to_rest(happenings in happenings()) {
        let mut world = cluster(&happenings);
        world.settle();
    }

    #[test]
    fn the_same_log_gives_the_same_state(happenings in happenings()) {
        let world = cluster(&happenings);
        let mut again = Control::new();
        for (index, command) in (1..).zip(&world.log) {
            drop(again.apply(index, command));
        }
        prop_assert_eq!(&again, &world.control);
        prop_assert_eq!(Control::from_parts(again.parts().clone()), Ok(again));
    }

    #[test]
    fn one_more_node_moves_its_share(
        nodes in 2..6_usize,
        copies in 1..3_u32,
        shards in 8..40_u32,
    ) {
        let mut world = World::found("a", shards, copies);
        for _ in 1..nodes {
            world.add("a");
        }
        world.add("b");
        world.add("c");
        world.settle();
        let start = world.log.len();
        let node = world.add("a");
        world.settle();
        world.check_rest();
        let held: u64 = world
            .members()
            .into_iter()
            .filter(|id| world.control.node(*id).unwrap().region == region("a"))
            .map(|id| world.control.holdings(id).replicas)
            .sum();
        let share = held.div_ceil(nodes as u64 + 1) + 1;
        prop_assert!(world.placed_since(start) as u64 <= share, "{} of {held}", world.placed_since(start));
        prop_assert!(world.control.holdings(node).replicas + 2 >= share);
        prop_assert_eq!(world.control.holdings(NodeId(99)).replicas, 0);
    }
}

proptest! {
    /// Orders are given one after the other, and copies of them come whenever they like: what is
    /// wanted last is what is so.
    #[test]
    fn copies_of_orders_that_come_late_do_nothing(
        comes in proptest::collection::vec(proptest::option::of(0..20_usize), 1..40),
    ) {
        let mut world = World::found("a", 1, 1);
        let mut orders: Vec<ControlCommand> = Vec::new();
        for copy in comes {
            let copy = copy.and_then(|at| orders.get(at).cloned());
            let settings = world.control.settings();
            if let Some(copy) = copy {
                let reply = world.propose(copy.clone());
                prop_assert!(!matches!(reply, Ok(Outcome::Changed)), "{:?}", reply);
                prop_assert_eq!(reply.is_ok(), orders.last() == Some(&copy));
                prop_assert_eq!(world.control.settings(), settings);
                continue;
            }
            let id = orders.len() as u64 + 100;
            let occupancy_interval = std::time::Duration::from_millis(id);
            let order = ControlCommand::Order {
                after: world.control.parts().last_order.index,
                id,
                command: Box::new(ControlCommand::SetPacing { occupancy_interval }),
            };
            prop_assert_eq!(world.propose(order.clone()), Ok(Outcome::Changed));
            prop_assert_eq!(world.control.settings().occupancy_interval, occupancy_interval);
            orders.push(order);
        }
    }
}
