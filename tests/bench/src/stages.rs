//! What each stage takes for its part of an attach, alone on one thread, so that a slower one has an
//! address.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use headcount_access::{Capability, Operation};
use headcount_coordinator::Shard;
use headcount_gateway::{Config, Effect, Gateway, Input, StreamId};
use headcount_gossip::{Effect as Proposed, Input as Pending, Outbox, Proposal};
use headcount_model::{
    AppId, Claim, Command, EdgeId, Entry, Era, Fence, GatewayUpdate, Hello, Incarnation, Monotonic,
    NodeId, Now, OwnerRef, RegionName, ShardId, Stage, Timestamp,
};
use headcount_region::{Effect as Decided, Input as Heard, Owner};
use headcount_wire::{ReportReceived, decode_entry, encode_entry, take_report_request};

use crate::process::thread_time;
use crate::table::Table;
use crate::{edge, traffic};

const SHARDS: u32 = 64;
const ITEMS: usize = 4_096;
/// Attaches between two flushes of the gateway, as if a million came in a second.
const PER_FLUSH: usize = 5_000;
/// Flushes between two batches of an owner.
const FLUSHES: usize = 10;

/// Time that a stage took, and for how much.
#[derive(Debug, Default)]
struct Clocks(BTreeMap<&'static str, (Duration, usize)>);

impl Clocks {
    fn time<T>(&mut self, stage: &'static str, count: usize, work: impl FnOnce() -> T) -> T {
        let begun = thread_time();
        let done = black_box(work());
        let clock = self.0.entry(stage).or_default();
        clock.0 += thread_time().saturating_sub(begun);
        clock.1 += count;
        done
    }
}

/// One shard's owner, its way into the log, and the log.
struct Slice {
    owner: Owner,
    outbox: Outbox,
    shard: Shard,
    index: u64,
}

pub(crate) fn measure(channels: u32, connections: u32, table: &mut Table) -> Result<()> {
    let attaches = traffic::attaches(channels, connections, 10, 1);
    let encoded = edge::encode(&attaches, ITEMS, 1);
    let capability = Capability::parse(r#"{"room:*":["occupancy-report"]}"#)?;
    let mut clocks = Clocks::default();
    let (node, life) = (NodeId(1), Incarnation(1));
    let mut at = Monotonic::default();
    let wall = Timestamp(1_700_000_000_000);
    let now = |at| Now {
        monotonic: at,
        wall,
    };
    let config = Config {
        shards: SHARDS.into(),
        recovery: Duration::ZERO,
        window_updates: u64::MAX,
        ..Config::default()
    };
    let mut gateway = Gateway::new(config, node, life, at);
    let mut effects = Vec::new();
    let mut slices = BTreeMap::new();
    let region = RegionName::new("here")?;
    for number in 0..SHARDS {
        let shard = ShardId(number);
        let fence = Fence(1);
        let mut owner = Owner::new(
            headcount_region::Config::default(),
            region.clone(),
            shard,
            fence,
        );
        let claim = Claim {
            owner: OwnerRef {
                region: region.clone(),
                fence,
            },
            node,
            incarnation: life,
            tails: Vec::new(),
        };
        let mut said = Vec::new();
        owner.step(
            now(at),
            Heard::Gateways {
                live: vec![(node, life)],
            },
            &mut said,
        );
        owner.step(now(at), Heard::Claimed { base: Vec::new() }, &mut said);
        let mut outbox = Outbox::new(headcount_gossip::Config::default(), claim.clone());
        let mut log = Shard::new(shard, Era::default());
        log.apply(1, entry(&region, wall, vec![Command::Claim(claim)]));
        let applied = Pending::Applied {
            fence,
            sequence: 0,
            number: 0,
            settled: false,
        };
        outbox.step(now(at), applied, &mut Vec::new());
        slices.insert(
            shard,
            Slice {
                owner,
                outbox,
                shard: log,
                index: 1,
            },
        );
        gateway.step(now(at), Input::Owner { shard, fence }, &mut effects);
    }
    let stream = StreamId(1);
    let app = AppId::new("dev")?;
    let hello = Hello {
        edge: EdgeId::new("bench")?,
        incarnation: life,
        session: 1,
        resume: None,
    };
    gateway.step(now(at), Input::Open { stream, app, hello }, &mut effects);
    for effect in effects.drain(..) {
        if let Effect::Send { shard, update } = effect {
            let slice = slices.get_mut(&shard).expect("all shards are there");
            decide(&mut Clocks::default(), slice, now(at), update);
        }
    }
    let mut since_flush = 0;
    let mut flushes = 0;
    for (bytes, _) in &encoded {
        let received = clocks.time("reporter: decode", 0, || take_report_request(bytes))?;
        let ReportReceived::Batch(received) = received else {
            bail!("a batch was encoded");
        };
        let batch = received.batch;
        let count = batch.items.len();
        clocks.time("reporter: decode", count, || ());
        let permitted = clocks.time("access: permit", count, || {
            batch.items.iter().all(|change| {
                let channel = change.channel().unwrap_or_default();
                capability.permits(Operation::OccupancyReport, channel)
            })
        });
        ensure!(permitted, "the capability permits everything");
        clocks.time("gateway: count", count, || {
            gateway.step(now(at), Input::Batch { stream, batch }, &mut effects);
        });
        since_flush += count;
        if since_flush < PER_FLUSH {
            continue;
        }
        since_flush = 0;
        flushes += 1;
        at = at.after(Duration::from_millis(5));
        let mut flushed = Vec::new();
        clocks.time("gateway: flush", 0, || {
            gateway.on_deadline(now(at), &mut flushed);
        });
        for effect in flushed {
            let Effect::Send { shard, update } = effect else {
                continue;
            };
            let slice = slices.get_mut(&shard).expect("all shards are there");
            let count = update.items.len();
            clocks.time("gateway: flush", count, || ());
            let acks = decide(&mut clocks, slice, now(at), update);
            for ack in acks {
                gateway.step(now(at), Input::Ack { shard, ack }, &mut effects);
            }
        }
        if flushes % FLUSHES == 0 {
            for slice in slices.values_mut() {
                log(&mut clocks, slice, now(at), &region)?;
            }
        }
        effects.clear();
    }
    let total = attaches.len();
    let mut sum = 0.0;
    for (stage, (time, count)) in &clocks.0 {
        let nanoseconds = time.as_secs_f64() * 1e9;
        sum += nanoseconds / total as f64;
        let figure = format!(
            "{:.0} ns for each of {count}, {:.0} ns an attach",
            nanoseconds / (*count).max(1) as f64,
            nanoseconds / total as f64
        );
        table.line(stage, &figure, "");
    }
    table.line("all stages, an attach", &format!("{sum:.0} ns"), "");
    Ok(())
}

fn decide(
    clocks: &mut Clocks,
    slice: &mut Slice,
    now: Now,
    update: GatewayUpdate,
) -> Vec<headcount_model::GatewayAck> {
    let count = update.items.len();
    let mut decided = Vec::new();
    clocks.time("region: decide", count, || {
        slice.owner.step(now, Heard::Update(update), &mut decided);
    });
    let mut acks = Vec::new();
    clocks.time("gossip: pend", decided.len(), || {
        for effect in decided {
            let input = match effect {
                Decided::Acknowledge { ack, .. } => {
                    acks.push(ack);
                    continue;
                }
                Decided::Transition(transition) => Pending::Transition(transition),
                Decided::Register {
                    channel,
                    occupancy,
                    crossing,
                } => Pending::Register {
                    channel,
                    occupancy,
                    crossing,
                },
                Decided::Settled { .. } => continue,
            };
            slice.outbox.step(now, input, &mut Vec::new());
        }
    });
    acks
}

/// Takes what is pending into the log.
fn log(clocks: &mut Clocks, slice: &mut Slice, now: Now, region: &RegionName) -> Result<()> {
    loop {
        let mut proposed = Vec::new();
        let later = Now {
            monotonic: now.monotonic.after(Duration::from_millis(50)),
            ..now
        };
        clocks.time("gossip: batch", 0, || {
            slice.outbox.on_deadline(later, &mut proposed);
        });
        let batches: Vec<_> = proposed
            .into_iter()
            .filter_map(|Proposed::Propose(proposal)| match proposal {
                Proposal::Batch(batch) => Some(batch),
                Proposal::Claim(_) | Proposal::Settled(_) => None,
            })
            .collect();
        if batches.is_empty() {
            return Ok(());
        }
        for batch in batches {
            let count = batch.transitions.len() + batch.registers.len();
            clocks.time("gossip: batch", count, || ());
            let command = Command::Batch(batch.as_ref().clone());
            let proposal = entry(region, now.wall, vec![command]);
            let bytes = clocks.time("wire: encode an entry", count, || encode_entry(&proposal));
            let entry = clocks.time("wire: decode an entry", count, || decode_entry(&bytes))?;
            slice.index += 1;
            clocks.time("coordinator: apply", count, || {
                slice.shard.apply(slice.index, entry)
            });
            let mark = slice.shard.mark(region);
            let applied = Pending::Applied {
                fence: mark.fence,
                sequence: mark.sequence,
                number: mark.number,
                settled: mark.settled,
            };
            slice.outbox.step(later, applied, &mut Vec::new());
        }
    }
}

fn entry(region: &RegionName, stamp: Timestamp, commands: Vec<Command>) -> Entry {
    Entry {
        stamp,
        coordinator: region.clone(),
        commands,
    }
}
