//! What a regional owner takes to hear of registers, by `cargo bench -p headcount-region`.

use divan::Bencher;
use divan::counter::ItemsCount;
use headcount_model::{
    ChannelKey, EdgeId, Fence, GatewayItem, GatewayUpdate, Incarnation, Modes, Monotonic, NodeId,
    Now, Occupancy, RegionName, ShardId, SourceId, Stage, Timestamp,
};
use headcount_region::{Config, Effect, Input, Owner};

fn main() {
    divan::main();
}

const NODE: (NodeId, Incarnation) = (NodeId(1), Incarnation(1));
const FENCE: Fence = Fence(1);

fn now() -> Now {
    Now {
        monotonic: Monotonic::default(),
        wall: Timestamp(1_700_000_000_000),
    }
}

fn step(owner: &mut Owner, input: Input) -> Vec<Effect> {
    let mut effects = Vec::new();
    owner.step(now(), input, &mut effects);
    effects
}

/// An owner that has claimed.
fn owner() -> Owner {
    let region = RegionName::new("here").expect("a good name");
    let mut owner = Owner::new(Config::default(), region, ShardId(0), FENCE);
    let live = vec![NODE];
    step(&mut owner, Input::Gateways { live });
    step(&mut owner, Input::Claimed { base: Vec::new() });
    owner
}

/// An update that says `occupancy` of 1,000 channels.
fn update(sequence: u64, occupancy: Occupancy) -> GatewayUpdate {
    let source = SourceId::Edge {
        edge: EdgeId::new("app/edge").expect("a good name"),
        incarnation: Incarnation(1),
        session: 1,
    };
    let items = (0..1_000).map(|number| GatewayItem::Register {
        source: source.clone(),
        channel: ChannelKey::new("app", &format!("room:{number:019}")).expect("good names"),
        occupancy,
    });
    GatewayUpdate {
        node: NODE.0,
        incarnation: NODE.1,
        fence: FENCE,
        stream: 1,
        sequence,
        items: items.collect(),
    }
}

/// Channels that become active.
#[divan::bench]
fn activate(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(1_000_u32))
        .with_inputs(|| (owner(), update(1, Modes::DEFAULT.occupancy())))
        .bench_local_values(|(mut owner, update)| step(&mut owner, Input::Update(update)));
}

/// Counts of active channels that change.
#[divan::bench]
fn change(bencher: Bencher<'_, '_>) {
    let one = Modes::DEFAULT.occupancy();
    let ready = || {
        let mut owner = owner();
        step(&mut owner, Input::Update(update(1, one)));
        (owner, update(2, one.plus(one)))
    };
    bencher
        .counter(ItemsCount::new(1_000_u32))
        .with_inputs(ready)
        .bench_local_values(|(mut owner, update)| step(&mut owner, Input::Update(update)));
}
