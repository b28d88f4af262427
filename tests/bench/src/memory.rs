//! Resident memory of a channel in each table that holds it, and of the hash in Redis that would.
//!
//! Each table is filled in a process of its own, which tells how much more it has resident than
//! before: what the allocator takes is part of it, and nothing that was freed before is reused.
//! Names come as they do in a node, decoded from what another node sent.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use headcount_coordinator::Shard;
use headcount_gateway::{Config, Effect, Gateway, Input, StreamId};
use headcount_model::{
    AppId, Batch, ChannelKey, Claim, Command, EdgeId, Entry, Era, Fence, GatewayAck, GatewayItem,
    GatewayUpdate, Hello, Incarnation, Modes, Monotonic, NodeId, Now, OwnerRef, RegionName,
    ShardId, ShardMap, SourceId, Stage, Timestamp, Transition,
};
use headcount_region::{Input as Heard, Owner};
use headcount_wire::{
    NameReader, NameWriter, Parcel, ParcelBody, ReportReceived, decode_entry, decode_parcels,
    encode_entry, encode_parcels, take_report_request,
};

use crate::peer::{self, Peer};
use crate::process::Process;
use crate::table::{Spread, Table};
use crate::{edge, traffic};

const SHARDS: u32 = 64;
/// Items of a batch or an update.
const ITEMS: usize = 250;
/// Channels that open in a second: so many have lately had an occupancy event told.
const OPENED_PER_SECOND: usize = 20_000;
const START: Timestamp = Timestamp(1_700_000_000_000);

/// What a process of its own fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Held {
    /// The replicated state of all shards of a node, with the index of names.
    Coordinator,
    /// The table of a region's owners.
    Region,
    /// The table of a gateway that is told counts.
    Gateway,
    /// The table of a gateway that is told attachments.
    Attached,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) channels: u32,
    pub(crate) rounds: usize,
}

/// Measures every table.
pub(crate) async fn measure(load: Load, table: &mut Table) -> Result<()> {
    let cases = [
        (
            Held::Coordinator,
            1,
            "a replica's shards, one region",
            200.0,
        ),
        (
            Held::Coordinator,
            3,
            "a replica's shards, three regions",
            300.0,
        ),
        (Held::Gateway, 1, "the gateway's table, by counts", 150.0),
        (
            Held::Attached,
            1,
            "the gateway's table, 10 channels a connection",
            f64::NAN,
        ),
        (Held::Region, 1, "the regional owners' tables", 150.0),
    ];
    let theirs = redis(load).await?;
    for (held, regions, what, bar) in cases {
        let mut figures = Vec::new();
        for _ in 0..load.rounds {
            figures.push(bytes(held, regions, load.channels).await?);
        }
        let figures = Spread::of(figures);
        let what = format!("{what}: bytes a channel, {} channels", load.channels);
        if bar.is_nan() {
            table.row(&what, &figures, "");
        } else {
            table.most(&what, &figures, bar);
        }
        if held == Held::Coordinator && regions == 1 {
            table.row(
                "the same facts as a hash in Redis",
                &Spread::of([theirs]),
                "",
            );
            let ratio = theirs / figures.median();
            table.ratio("ratio of memory", ratio, 1.5);
        }
    }
    Ok(())
}

/// Fills a table in a process of its own; returns the bytes that each channel takes.
pub(crate) async fn bytes(held: Held, regions: u16, channels: u32) -> Result<f64> {
    let held = held.to_possible_value().context("every table has a name")?;
    let output = tokio::process::Command::new(std::env::current_exe()?)
        .args(["--hold", held.get_name()])
        .args(["--regions", &regions.to_string()])
        .args(["--channels", &channels.to_string()])
        .output()
        .await?;
    let said = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the process failed: {errors}");
    let bytes: f64 = said.trim().parse()?;
    Ok(bytes / f64::from(channels))
}

/// Fills a table and returns the bytes resident because of it.
pub(crate) fn hold(held: Held, regions: u16, channels: u32) -> Result<u64> {
    let order = traffic::shuffled(channels, 1);
    // What every process has is touched before: the threads' stacks, the codecs' tables.
    let _warm = keep(held, regions, &order[..order.len().min(1_000)])?;
    let before = resident()?;
    let kept = keep(held, regions, &order)?;
    let after = resident()?;
    ensure!(
        kept.channels() == channels as usize,
        "all channels are there"
    );
    Ok(after.saturating_sub(before))
}

/// Bytes of this process in memory.
fn resident() -> Result<u64> {
    Process::resident_of("self")
}

/// A filled table.
enum Kept {
    Shards(Vec<Shard>),
    Owners(Vec<Owner>),
    Gateway(Box<Gateway>),
}

impl Kept {
    fn channels(&self) -> usize {
        match self {
            Self::Shards(shards) => shards.iter().map(Shard::channels).sum(),
            Self::Owners(owners) => owners.iter().map(Owner::active).sum(),
            Self::Gateway(gateway) => gateway.registers().count(),
        }
    }
}

fn keep(held: Held, regions: u16, order: &[u32]) -> Result<Kept> {
    Ok(match held {
        Held::Coordinator => Kept::Shards(shards(regions, order)?),
        Held::Region => Kept::Owners(owners(order)?),
        Held::Gateway => Kept::Gateway(Box::new(gateway(order, false)?)),
        Held::Attached => Kept::Gateway(Box::new(gateway(order, true)?)),
    })
}

/// Opens the channels in each region, some at a time, and lets a quiet time pass.
fn shards(regions: u16, order: &[u32]) -> Result<Vec<Shard>> {
    let map = ShardMap::from(SHARDS);
    let mut shards: Vec<Shard> = (0..SHARDS)
        .map(|number| Shard::new(ShardId(number), Era::default()))
        .collect();
    let names: Vec<RegionName> = (0..regions)
        .map(|region| RegionName::new(&format!("region-{region}")))
        .collect::<Result<_, _>>()?;
    let owner = |region: &RegionName| OwnerRef {
        region: region.clone(),
        fence: Fence(1),
    };
    let apply = |shard: &mut Shard, stamp, command| -> Result<()> {
        let entry = Entry {
            stamp,
            coordinator: names[0].clone(),
            commands: vec![command],
        };
        shard.apply(shard.applied() + 1, decode_entry(&encode_entry(&entry))?);
        Ok(())
    };
    for shard in &mut shards {
        for region in &names {
            let claim = Claim {
                owner: owner(region),
                node: NodeId(1),
                incarnation: Incarnation(1),
                tails: Vec::new(),
            };
            apply(shard, START, Command::Claim(claim))?;
        }
    }
    let mut waiting: Vec<Vec<Transition>> = vec![Vec::new(); shards.len()];
    let mut stamp = START;
    for (at, region) in names.iter().enumerate() {
        let occupancy = Modes::DEFAULT.occupancy();
        for (opened, number) in order.iter().enumerate() {
            if opened % OPENED_PER_SECOND == 0 {
                stamp = stamp.after(Duration::from_secs(1));
            }
            let channel = ChannelKey::new("dev", &traffic::channel(*number))?;
            let place = map.of(&channel).0 as usize;
            waiting[place].push(Transition {
                number: 0,
                channel,
                active: true,
                occupancy,
                at: stamp,
                is_global_master: at == 0,
            });
            let last = opened + 1 == order.len();
            for place in if last {
                0..shards.len()
            } else {
                place..place + 1
            } {
                if waiting[place].is_empty() || !last && waiting[place].len() < ITEMS {
                    continue;
                }
                let shard = &mut shards[place];
                let mark = shard.mark(region);
                let mut transitions = std::mem::take(&mut waiting[place]);
                for (transition, number) in transitions.iter_mut().zip(mark.number + 1..) {
                    transition.number = number;
                }
                let batch = Batch {
                    owner: owner(region),
                    sequence: mark.sequence + 1,
                    dropped: Vec::new(),
                    transitions,
                    registers: Vec::new(),
                };
                apply(shard, stamp, Command::Batch(batch))?;
            }
        }
    }
    for second in 1..=60 {
        let stamp = stamp.after(Duration::from_secs(second));
        for shard in &mut shards {
            apply(shard, stamp, Command::Tick)?;
        }
    }
    Ok(shards)
}

/// Registers the channels with the owners of a region.
fn owners(order: &[u32]) -> Result<Vec<Owner>> {
    let map = ShardMap::from(SHARDS);
    let region = RegionName::new("here")?;
    let (node, incarnation, fence) = (NodeId(1), Incarnation(1), Fence(1));
    let now = Now {
        monotonic: Monotonic::default(),
        wall: START,
    };
    let mut effects = Vec::new();
    let mut owners = Vec::new();
    for number in 0..SHARDS {
        let config = headcount_region::Config::default();
        let mut owner = Owner::new(config, region.clone(), ShardId(number), fence);
        let live = vec![(node, incarnation)];
        owner.step(now, Heard::Gateways { live }, &mut effects);
        owner.step(now, Heard::Claimed { base: Vec::new() }, &mut effects);
        owners.push(owner);
    }
    let source = SourceId::Edge {
        edge: EdgeId::new("bench")?,
        incarnation,
        session: 1,
    };
    let mut waiting: Vec<Vec<GatewayItem>> = vec![Vec::new(); owners.len()];
    let mut sequences = vec![0; owners.len()];
    let (mut writer, mut reader) = (NameWriter::default(), NameReader::default());
    let mut flush = |place: usize, items: Vec<GatewayItem>, owners: &mut Vec<Owner>| {
        sequences[place] += 1;
        let update = GatewayUpdate {
            node,
            incarnation,
            fence,
            stream: 1,
            sequence: sequences[place],
            items,
        };
        let parcel = Parcel {
            shard: ShardId(place as u32),
            take_on: false,
            body: ParcelBody::Update(update),
        };
        let told = encode_parcels(&[parcel], &mut writer);
        for parcel in decode_parcels(told, &mut reader)? {
            if let ParcelBody::Update(update) = parcel.body {
                owners[place].step(now, Heard::Update(update), &mut effects);
            }
        }
        effects.clear();
        Ok::<_, anyhow::Error>(())
    };
    for number in order {
        let channel = ChannelKey::new("dev", &traffic::channel(*number))?;
        let place = map.of(&channel).0 as usize;
        waiting[place].push(GatewayItem::Register {
            source: source.clone(),
            channel,
            occupancy: Modes::DEFAULT.occupancy(),
        });
        if waiting[place].len() == ITEMS {
            let items = std::mem::take(&mut waiting[place]);
            flush(place, items, &mut owners)?;
        }
    }
    for (place, mut items) in waiting.into_iter().enumerate() {
        items.push(GatewayItem::SourceComplete(source.clone()));
        items.extend([GatewayItem::StreamComplete, GatewayItem::Recovered]);
        flush(place, items, &mut owners)?;
    }
    ensure!(owners.iter().all(Owner::is_settled), "all owners settle");
    Ok(owners)
}

/// Tells a gateway the channels, all of which its owners hear of.
fn gateway(order: &[u32], attached: bool) -> Result<Gateway> {
    let config = Config {
        shards: SHARDS.into(),
        recovery: Duration::ZERO,
        ..Config::default()
    };
    let mut at = Monotonic::default();
    let (stream, incarnation) = (StreamId(1), Incarnation(1));
    let mut gateway = Gateway::new(config, NodeId(1), incarnation, at);
    let now = |monotonic| Now {
        monotonic,
        wall: START,
    };
    let mut effects = Vec::new();
    for shard in (0..SHARDS).map(ShardId) {
        let fence = Fence(1);
        gateway.step(now(at), Input::Owner { shard, fence }, &mut effects);
    }
    let hello = Hello {
        edge: EdgeId::new("bench")?,
        incarnation,
        session: 1,
        resume: None,
    };
    let app = AppId::new("dev")?;
    gateway.step(now(at), Input::Open { stream, app, hello }, &mut effects);
    for (chunk, first) in order.chunks(4_000).zip((1_u64..).step_by(1)) {
        let encoded = if attached {
            edge::encode(
                &traffic::in_turn(chunk, first as u32 * 400, 10),
                4_000,
                first,
            )
        } else {
            edge::encode_counts(chunk, 4_000, first)
        };
        for (bytes, _) in encoded {
            let ReportReceived::Batch(received) = take_report_request(&bytes)? else {
                anyhow::bail!("a batch was encoded");
            };
            let batch = received.batch;
            gateway.step(now(at), Input::Batch { stream, batch }, &mut effects);
        }
        loop {
            at = at.after(Duration::from_millis(50));
            gateway.on_deadline(now(at), &mut effects);
            let mut acks = BTreeMap::new();
            for effect in effects.drain(..) {
                if let Effect::Send { shard, update } = effect {
                    let GatewayUpdate {
                        fence,
                        stream,
                        sequence,
                        ..
                    } = update;
                    let ack = GatewayAck {
                        fence,
                        stream,
                        sequence,
                    };
                    acks.insert(shard, ack);
                }
            }
            if acks.is_empty() {
                break;
            }
            for (shard, ack) in acks {
                gateway.step(now(at), Input::Ack { shard, ack }, &mut effects);
            }
        }
    }
    Ok(gateway)
}

/// Returns the resident bytes of a channel's hash in Redis.
async fn redis(load: Load) -> Result<f64> {
    let mut peer = Peer::start().await?;
    let before = peer.process.resident()?;
    let order = traffic::shuffled(load.channels, 1);
    for chunk in order.chunks(100_000) {
        let attaches = traffic::in_turn(chunk, 0, 10);
        peer.send(&peer::encode(&attaches, 500)).await?;
    }
    let after = peer.process.resident()?;
    peer.process.stop().await;
    Ok((after - before) as f64 / f64::from(load.channels))
}
