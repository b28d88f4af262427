//! What reading a batch of an edge and writing and reading an entry of the log take, by
//! `cargo bench -p headcount-wire`.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use headcount_model::{
    Batch, ChannelKey, Command, Entry, Fence, Modes, OwnerRef, RegionName, Register, Timestamp,
};
use headcount_wire::proto::report::v1 as pb;
use headcount_wire::{decode_entry, encode_entry, take_report_request};
use prost::Message as _;

fn main() {
    divan::main();
}

/// A batch of 1,000 attaches to names of 24 bytes.
#[divan::bench]
fn read_attaches(bencher: Bencher<'_, '_>) {
    let items = (0..1_000).map(|number| pb::Item {
        change: Some(pb::item::Change::Attach(pb::Attach {
            connection: format!("conn-{:09}", number / 10),
            channel: format!("room:{number:019}"),
            modes: Modes::DEFAULT.bits(),
        })),
    });
    let batch = pb::Batch {
        sequence: 1,
        items: items.collect(),
        set_complete: true,
    };
    let body = Some(pb::report_request::Body::Batch(batch));
    let bytes = pb::ReportRequest { body }.encode_to_vec();
    bencher
        .counter(ItemsCount::new(1_000_u32))
        .bench_local(|| take_report_request(black_box(&bytes)));
}

/// An entry with 200 registers.
fn entry() -> Entry {
    let region = RegionName::new("here").expect("a good name");
    let registers = (0..200).map(|number| Register {
        channel: ChannelKey::new("app", &format!("room:{number:019}")).expect("good names"),
        occupancy: Modes::DEFAULT.occupancy(),
    });
    Entry {
        stamp: Timestamp(1_700_000_000_000),
        coordinator: region.clone(),
        commands: vec![Command::Batch(Batch {
            owner: OwnerRef {
                region,
                fence: Fence(1),
            },
            sequence: 1,
            dropped: Vec::new(),
            transitions: Vec::new(),
            registers: registers.collect(),
        })],
    }
}

#[divan::bench]
fn write_registers(bencher: Bencher<'_, '_>) {
    let entry = entry();
    bencher
        .counter(ItemsCount::new(200_u32))
        .bench_local(|| encode_entry(black_box(&entry)));
}

#[divan::bench]
fn read_registers(bencher: Bencher<'_, '_>) {
    let bytes = encode_entry(&entry());
    bencher
        .counter(ItemsCount::new(200_u32))
        .bench_local(|| decode_entry(black_box(&bytes)));
}
