//! What holds whatever happens: people are shown a story that makes sense at every step, messages
//! in order and once, and in the end everybody who is there.

use std::time::Duration;

use proptest::prelude::*;

use crate::Config;
use crate::world::{NODES, REGIONS, World};

/// One thing that happens. Numbers pick among what there is.
#[derive(Clone, Debug)]
enum Op {
    Interest(u64, u64, bool),
    Enter(u64, u64, u64, u64),
    Leave(u64, u64, u64, u64),
    Publish(u64, u64),
    /// Deliver so many messages, of links picked from here.
    Deliver(usize, usize),
    Drain,
    Disconnect(u64),
    Connect(u64),
    Cut(u64, u64),
    Join(u64, u64),
    MoveOwner(u64),
    Crash(u64),
    Restart(u64),
    Lapse(u64),
    CatchUp(u64),
    Pass(u64),
}

fn people() -> impl Strategy<Value = Op> {
    let (node, channel) = (0..NODES, 0..2_u64);
    let who = (node.clone(), channel.clone(), 0..3_u64, 0..2_u64);
    prop_oneof![
        3 => (node.clone(), channel.clone(), prop::bool::weighted(0.7))
            .prop_map(|(n, c, on)| Op::Interest(n, c, on)),
        4 => who.clone().prop_map(|(n, c, who, id)| Op::Enter(n, c, who, id)),
        2 => who.prop_map(|(n, c, who, id)| Op::Leave(n, c, who, id)),
        2 => (node, channel).prop_map(|(n, c)| Op::Publish(n, c)),
        4 => (1..12_usize, 0..64_usize).prop_map(|(count, pick)| Op::Deliver(count, pick)),
        1 => Just(Op::Drain),
        1 => (0..REGIONS).prop_map(Op::CatchUp),
        1 => (1..20_000_u64).prop_map(Op::Pass),
    ]
}

fn trouble() -> impl Strategy<Value = Op> {
    let pair = (0..REGIONS, 0..REGIONS);
    prop_oneof![
        2 => (0..NODES).prop_map(Op::Disconnect),
        4 => (0..NODES).prop_map(Op::Connect),
        2 => pair.clone().prop_map(|(from, to)| Op::Cut(from, to)),
        4 => pair.prop_map(|(from, to)| Op::Join(from, to)),
        2 => (0..REGIONS).prop_map(Op::MoveOwner),
        1 => (0..NODES).prop_map(Op::Crash),
        2 => (0..NODES).prop_map(Op::Restart),
        1 => (0..NODES).prop_map(Op::Lapse),
    ]
}

fn play(world: &mut World, op: &Op) {
    world.note(format!("-- {op:?}"));
    match *op {
        Op::Interest(node, channel, on) => world.interest(node, channel, on),
        Op::Enter(node, channel, who, id) => world.enter(node, channel, who, id),
        Op::Leave(node, channel, who, id) => world.leave(node, channel, who, id),
        Op::Publish(node, channel) => world.publish(node, channel),
        Op::Deliver(count, pick) => {
            for more in 0..count {
                world.deliver(pick + more);
            }
        }
        Op::Drain => world.drain(),
        Op::Disconnect(node) => world.disconnect(node),
        Op::Connect(node) => world.connect(node),
        Op::Cut(from, to) => world.cut(from, to),
        Op::Join(from, to) => world.join(from, to),
        Op::MoveOwner(region) => world.move_owner(region),
        Op::Crash(node) => world.crash(node),
        Op::Restart(node) => world.restart(node),
        Op::Lapse(node) => world.lapse(node),
        Op::CatchUp(region) => world.catch_up(region),
        Op::Pass(millis) => world.pass(millis),
    }
}

/// Plays `ops`, repairs everything, and says what was wrong at any time.
fn story(config: Config, ops: &[Op]) -> Result<(), String> {
    let mut world = World::new(config);
    for op in ops {
        play(&mut world, op);
        world.verdict()?;
    }
    world.note("-- heal".to_owned());
    world.heal();
    world.check_sets();
    world.verdict()
}

/// Small messages, so that sets come in parts, and short patience.
fn config() -> Config {
    Config {
        message_items_max: 2,
        held_for: Duration::from_secs(3),
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2 * ProptestConfig::default().cases))]

    #[test]
    fn everybody_sees_everybody_in_the_end(
        ops in prop::collection::vec(prop_oneof![2 => people(), 1 => trouble()], 1..80),
    ) {
        story(config(), &ops).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn everybody_sees_everybody_when_nothing_fails(
        ops in prop::collection::vec(people(), 1..80),
    ) {
        story(Config::default(), &ops).map_err(TestCaseError::fail)?;
    }
}
