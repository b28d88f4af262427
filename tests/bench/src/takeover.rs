//! What it takes an owner when edges open new sessions in the place of those that they had, as after
//! the death of the node that they were connected to.

use std::time::Duration;

use anyhow::Result;
use headcount_model::{
    ChannelKey, EdgeId, Fence, GatewayItem, GatewayUpdate, Incarnation, Modes, Monotonic, NodeId,
    Now, RegionName, ShardId, SourceId, Stage, Timestamp,
};
use headcount_region::{Config, Input, Owner};

use crate::process::thread_time;
use crate::table::{Spread, Table};

const NODE: (NodeId, Incarnation) = (NodeId(1), Incarnation(1));
const FENCE: Fence = Fence(1);
/// Channels of each edge in the owner's shard, which nobody else is attached to.
const CHANNELS: u32 = 10;
/// Items that a gateway sends at once.
const ITEMS: usize = 1_000;
const FEW: u32 = 1_000;
const MANY: u32 = 10_000;

/// How much more an edge may take among ten times as many: tables leave the processor's caches, and
/// each update looks at all channels once.
const BAR: f64 = 4.0;

pub(crate) fn measure(rounds: usize, table: &mut Table) -> Result<()> {
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        few.push(of_each(FEW)?);
        many.push(of_each(MANY)?);
    }
    let (few, many) = (Spread::of(few), Spread::of(many));
    table.row("µs for each of 1,000 edges", &few, "");
    table.row("µs for each of 10,000 edges", &many, "");
    let ratio = many.median() / few.median();
    table.at_most("an edge of 10,000 beside one of 1,000", ratio, BAR);
    Ok(())
}

/// Returns how many microseconds the owner takes for each of so many edges.
fn of_each(edges: u32) -> Result<f64> {
    let region = RegionName::new("here")?;
    let mut owner = Owner::new(Config::default(), region, ShardId(0), FENCE);
    hear(&mut owner, Input::Gateways { live: vec![NODE] });
    hear(&mut owner, Input::Claimed { base: Vec::new() });
    let before = sessions(edges, 1, 0)?;
    let last = before.len() as u64;
    before
        .into_iter()
        .for_each(|update| hear(&mut owner, Input::Update(update)));
    let replacing = sessions(edges, 2, last)?;
    let begun = thread_time();
    replacing
        .into_iter()
        .for_each(|update| hear(&mut owner, Input::Update(update)));
    let took: Duration = thread_time().saturating_sub(begun);
    anyhow::ensure!(
        owner.active() == (edges * CHANNELS) as usize,
        "all are still active"
    );
    Ok(took.as_secs_f64() * 1e6 / f64::from(edges))
}

fn hear(owner: &mut Owner, input: Input) {
    let now = Now {
        monotonic: Monotonic::default(),
        wall: Timestamp(1_700_000_000_000),
    };
    owner.step(now, input, &mut Vec::new());
}

/// Returns what the gateway says, after its update number `last`, when each edge opens `session`.
fn sessions(edges: u32, session: u64, last: u64) -> Result<Vec<GatewayUpdate>> {
    let mut items = Vec::new();
    for edge in 0..edges {
        let source = SourceId::Edge {
            edge: EdgeId::new(&format!("dev/edge-{edge}"))?,
            incarnation: Incarnation(1),
            session,
        };
        for channel in 0..CHANNELS {
            items.push(GatewayItem::Register {
                source: source.clone(),
                channel: ChannelKey::new("dev", &format!("room:{edge}:{channel}"))?,
                occupancy: Modes::DEFAULT.occupancy(),
            });
        }
        items.push(GatewayItem::SourceComplete(source));
    }
    let updates = items
        .chunks(ITEMS)
        .zip(last + 1..)
        .map(|(items, sequence)| GatewayUpdate {
            node: NODE.0,
            incarnation: NODE.1,
            fence: FENCE,
            stream: 1,
            sequence,
            items: items.to_vec(),
        });
    Ok(updates.collect())
}
