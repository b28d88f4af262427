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
    encode_entry, encode_parcels, encode_snapshot, take_report_request,
};

use crate::peer::{self, Peer};
use crate::process::{self, Process};
use crate::table::Table;
use crate::{edge, traffic};

const SHARDS: u32 = 64;
/// Items of a batch or an update.
const ITEMS: usize = 250;
/// Seconds that it takes all channels to open: for five of them each has an occupancy event held
/// back, which takes memory that is free afterwards and not given back.
const OPENING_SECONDS: usize = 50;
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

/// Measures every table.
pub(crate) async fn measure(channels: u32, table: &mut Table) -> Result<()> {
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
        (Held::Region, 1, "the regional owners' tables", 150.0),
        (Held::Gateway, 1, "the gateway's table, told counts", 150.0),
        (
            Held::Attached,
            1,
            "the gateway's table, told connections with 10 channels each",
            f64::NAN,
        ),
    ];
    let what = |what: &str| format!("bytes a channel of {channels} with 24-byte names: {what}");
    let mut replica = f64::NAN;
    for (held, regions, name, bar) in cases {
        let taken = self::held(held, regions, channels).await?;
        let figure = taken.resident as f64 / f64::from(channels);
        table.at_most(&what(name), figure, bar);
        if held == Held::Coordinator && regions == 1 {
            replica = figure;
        }
    }
    if let Some(theirs) = redis(channels).await? {
        table.at_most(
            &what("one region's counts as a hash in Redis"),
            theirs,
            f64::NAN,
        );
        table.ratio(
            "Redis beside a replica with one region",
            theirs / replica,
            1.3,
            1.0,
        );
    }
    Ok(())
}

/// What a table takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// Bytes in memory because of it.
    pub(crate) resident: u64,
    /// How long a snapshot of it takes to encode; zero for what has none.
    pub(crate) snapshot: Duration,
}

/// Fills a table in a process of its own.
pub(crate) async fn held(held: Held, regions: u16, channels: u32) -> Result<Taken> {
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
    let (resident, snapshot) = said.trim().split_once(' ').context("two numbers")?;
    Ok(Taken {
        resident: resident.parse()?,
        snapshot: Duration::from_nanos(snapshot.parse()?),
    })
}

/// Fills a table and says what it takes, for [`held`].
pub(crate) fn hold(held: Held, regions: u16, channels: u32) -> Result<String> {
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
    let begun = process::thread_time();
    if let Kept::Shards(shards) = &kept {
        for shard in shards {
            std::hint::black_box(encode_snapshot(&shard.freeze()));
        }
    }
    let snapshot = process::thread_time().saturating_sub(begun);
    let resident = after.saturating_sub(before);
    Ok(format!("{resident} {}", snapshot.as_nanos()))
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
            if opened % (order.len() / OPENING_SECONDS).max(1) == 0 {
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

/// Returns the resident bytes of a channel's hash in Redis, if there is one.
async fn redis(channels: u32) -> Result<Option<f64>> {
    let Some(mut peer) = Peer::start().await? else {
        return Ok(None);
    };
    let before = peer.process.resident()?;
    let order = traffic::shuffled(channels, 1);
    for chunk in order.chunks(100_000) {
        let attaches = traffic::in_turn(chunk, 0, 10);
        peer.send(&peer::encode(&attaches, 500)).await?;
    }
    let after = peer.process.resident()?;
    peer.process.stop().await;
    Ok(Some((after - before) as f64 / f64::from(channels)))
}
