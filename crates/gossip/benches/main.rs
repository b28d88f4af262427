//! What taking registers in and making batches of them takes, by `cargo bench -p headcount-gossip`.

use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use headcount_gossip::{Config, Effect, Input, Outbox};
use headcount_model::{
    ChannelKey, Claim, Fence, Incarnation, Modes, Monotonic, NodeId, Now, OwnerRef, RegionName,
    Stage, Timestamp,
};

fn main() {
    divan::main();
}

fn now() -> Now {
    Now {
        monotonic: Monotonic::default(),
        wall: Timestamp(1_700_000_000_000),
    }
}

/// An outbox whose claim is in the log, and 1,000 registers for it.
fn ready() -> (Outbox, Vec<Input>) {
    let fence = Fence(1);
    let region = RegionName::new("here").expect("a good name");
    let claim = Claim {
        owner: OwnerRef { region, fence },
        node: NodeId(1),
        incarnation: Incarnation(1),
        tails: Vec::new(),
    };
    let mut outbox = Outbox::new(Config::default(), claim);
    let applied = Input::Applied {
        fence,
        sequence: 0,
        number: 0,
        settled: false,
    };
    outbox.step(now(), applied, &mut Vec::new());
    let registers = (0..1_000_u64).map(|number| Input::Register {
        // In no order, as a gateway tells them.
        channel: ChannelKey::new("app", &format!("room:{:019}", number * 7_919 % 1_000))
            .expect("good names"),
        occupancy: Modes::DEFAULT.occupancy(),
        crossing: false,
    });
    (outbox, registers.collect())
}

fn take_in((mut outbox, registers): (Outbox, Vec<Input>)) -> Outbox {
    for register in registers {
        outbox.step(now(), register, &mut Vec::new());
    }
    outbox
}

#[divan::bench]
fn wait(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(1_000_u32))
        .with_inputs(ready)
        .bench_local_values(take_in);
}

#[divan::bench]
fn batch(bencher: Bencher<'_, '_>) {
    let later = Now {
        monotonic: now().monotonic.after(Duration::from_secs(1)),
        ..now()
    };
    bencher
        .counter(ItemsCount::new(1_000_u32))
        .with_inputs(|| take_in(ready()))
        .bench_local_values(|mut outbox| {
            let mut effects: Vec<Effect> = Vec::new();
            outbox.on_deadline(later, &mut effects);
            assert!(!effects.is_empty(), "there is something to propose");
            (effects, outbox)
        });
}
