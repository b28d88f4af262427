//! What counting attaches and telling owners of them takes, by `cargo bench -p headcount-gateway`.

use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use headcount_gateway::{Config, Effect, Gateway, Input, StreamId};
use headcount_model::{
    AppId, EdgeId, Fence, Hello, Incarnation, Modes, Monotonic, NodeId, Now, ReportBatch,
    ReportChange, ReportItems, ShardId, Stage, Timestamp,
};

fn main() {
    divan::main();
}

const STREAM: StreamId = StreamId(1);
const SHARDS: u32 = 16;

/// A gateway with an open session, whose owners are there.
struct World {
    gateway: Gateway,
    now: Now,
    sequence: u64,
    effects: Vec<Effect>,
}

impl World {
    fn new() -> Self {
        let config = Config {
            shards: SHARDS.into(),
            window_updates: u64::MAX,
            ..Config::default()
        };
        let start = Monotonic::default();
        let mut world = Self {
            gateway: Gateway::new(config, NodeId(1), Incarnation(1), start),
            now: Now {
                monotonic: start,
                wall: Timestamp(1_700_000_000_000),
            },
            sequence: 0,
            effects: Vec::new(),
        };
        for shard in (0..SHARDS).map(ShardId) {
            let fence = Fence(1);
            world.step(Input::Owner { shard, fence });
        }
        world.step(Input::Open {
            stream: STREAM,
            app: AppId::new("app").expect("a good name"),
            hello: Hello {
                edge: EdgeId::new("edge").expect("a good name"),
                incarnation: Incarnation(1),
                session: 1,
                resume: None,
            },
        });
        world
    }

    fn step(&mut self, input: Input) {
        self.gateway.step(self.now, input, &mut self.effects);
        self.effects.clear();
    }

    /// Attaches these connections to the same channels, ten each.
    fn attach(&mut self, connections: std::ops::Range<u32>, channels: u32) {
        self.batch(attaches(connections, channels));
    }

    fn batch(&mut self, items: ReportItems) {
        self.sequence += 1;
        let batch = ReportBatch {
            sequence: self.sequence,
            items,
            set_complete: true,
        };
        let stream = STREAM;
        self.step(Input::Batch { stream, batch });
    }

    fn flush(&mut self) -> usize {
        self.now.monotonic = self.now.monotonic.after(Duration::from_millis(100));
        self.gateway.on_deadline(self.now, &mut self.effects);
        let sent = self.effects.len();
        self.effects.clear();
        sent
    }
}

fn attaches(connections: std::ops::Range<u32>, channels: u32) -> ReportItems {
    let mut items = ReportItems::default();
    for connection in connections {
        let id = format!("conn-{connection:09}");
        for at in 0..10 {
            let channel = (connection * 10 + at).wrapping_mul(2_654_435_761) % channels;
            let change = ReportChange::Attach {
                connection: &id,
                channel: &format!("room:{channel:019}"),
                modes: Modes::DEFAULT,
            };
            items.push(change).expect("good names");
        }
    }
    items
}

/// Attaches of new connections to channels that are there: as many as caches hold, and more.
#[divan::bench(args = [10_000, 1_000_000], sample_count = 20)]
fn count_attaches(bencher: Bencher<'_, '_>, channels: u32) {
    let mut world = World::new();
    world.attach(0..channels / 5, channels);
    world.flush();
    let mut next = channels / 5;
    bencher
        .counter(ItemsCount::new(10_000_u32))
        .with_inputs(|| {
            next += 1_000;
            attaches(next - 1_000..next, channels)
        })
        .bench_local_values(|items| world.batch(items));
}

/// Telling 10,000 registers.
#[divan::bench(sample_count = 20)]
fn tell_owners(bencher: Bencher<'_, '_>) {
    let ready = || {
        let mut world = World::new();
        world.attach(0..1_000, 10_000);
        world
    };
    bencher
        .counter(ItemsCount::new(10_000_u32))
        .with_inputs(ready)
        .bench_local_values(|mut world| {
            assert!(world.flush() > 0, "there is something to tell");
            world
        });
}
