//! What applying entries to a shard and listing its channels takes, by
//! `cargo bench -p headcount-coordinator`.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use headcount_coordinator::Shard;
use headcount_model::{
    Batch, ChannelKey, Claim, Command, Entry, Era, Fence, Incarnation, Modes, NodeId, Occupancy,
    OwnerRef, RegionName, Register, ShardId, Timestamp, Transition,
};

fn main() {
    divan::main();
}

const CHANNELS: u32 = 1_000;

fn owner() -> OwnerRef {
    let region = RegionName::new("here").expect("a good name");
    let fence = Fence(1);
    OwnerRef { region, fence }
}

fn key(number: u32) -> ChannelKey {
    ChannelKey::new("app", &format!("room:{number:019}")).expect("good names")
}

fn entry(stamp: u64, command: Command) -> Entry {
    Entry {
        stamp: Timestamp(stamp),
        coordinator: owner().region,
        commands: vec![command],
    }
}

fn batch(sequence: u64, transitions: Vec<Transition>, registers: Vec<Register>) -> Command {
    Command::Batch(Batch {
        owner: owner(),
        sequence,
        dropped: Vec::new(),
        transitions,
        registers,
    })
}

/// The entry that makes all channels active.
fn opening() -> Entry {
    let transitions = (0..CHANNELS).map(|number| Transition {
        number: u64::from(number) + 1,
        channel: key(number),
        active: true,
        occupancy: Modes::DEFAULT.occupancy(),
        at: Timestamp(1),
        is_global_master: true,
    });
    entry(2, batch(1, transitions.collect(), Vec::new()))
}

/// An entry that changes the counts of all channels.
fn change(stamp: u64, sequence: u64, occupancy: Occupancy) -> Entry {
    let registers = (0..CHANNELS).map(|number| Register {
        channel: key(number),
        occupancy,
    });
    entry(stamp, batch(sequence, Vec::new(), registers.collect()))
}

/// A shard with an owner and nothing else.
fn shard() -> Shard {
    let claim = Claim {
        owner: owner(),
        node: NodeId(1),
        incarnation: Incarnation(1),
        tails: Vec::new(),
    };
    let mut shard = Shard::new(ShardId(0), Era::default());
    shard.apply(1, entry(1, Command::Claim(claim)));
    shard
}

#[divan::bench]
fn open(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(CHANNELS))
        .with_inputs(|| (shard(), opening()))
        .bench_local_values(|(mut shard, entry)| (shard.apply(2, entry), shard));
}

/// Counts of channels of which some wait to be told already.
#[divan::bench]
fn register(bencher: Bencher<'_, '_>) {
    let one = Modes::DEFAULT.occupancy();
    let ready = || {
        let mut shard = shard();
        shard.apply(2, opening());
        shard.apply(3, change(3, 2, one.plus(one)));
        (shard, change(4, 3, one.plus(one).plus(one)))
    };
    bencher
        .counter(ItemsCount::new(CHANNELS))
        .with_inputs(ready)
        .bench_local_values(|(mut shard, entry)| (shard.apply(4, entry), shard));
}

#[divan::bench]
fn list(bencher: Bencher<'_, '_>) {
    let mut shard = shard();
    shard.apply(2, opening());
    bencher
        .counter(ItemsCount::new(CHANNELS))
        .bench_local(|| shard.list("app", black_box("room:"), None).count());
}
