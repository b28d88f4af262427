//! Attaches into one node, beside the same attaches into Redis.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::edge::{self, Edge};
use crate::node::{KEY, Nodes};
use crate::peer::{self, Peer};
use crate::table::{Spread, Table};
use crate::traffic::{self, Attach};

/// Attaches that the peer is sent in one write.
const PEER_BATCH: usize = 500;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) channels: u32,
    pub(crate) connections: u32,
    /// Channels that each connection attaches to.
    pub(crate) each: u32,
    pub(crate) rounds: usize,
}

impl Load {
    fn attaches(&self, round: usize) -> Vec<Attach> {
        traffic::attaches(self.channels, self.connections, self.each, round as u64)
    }

    fn on_each_channel(&self) -> u64 {
        u64::from(self.connections) * u64::from(self.each) / u64::from(self.channels)
    }
}

/// Attaches in a second, by the clock and by the processor time of whoever serves.
#[derive(Clone, Copy, Debug)]
struct Rate {
    wall: f64,
    processor: f64,
}

impl Rate {
    fn of(attaches: usize, wall: Duration, processor: Duration) -> Self {
        let each = |time: Duration| attaches as f64 / time.as_secs_f64().max(0.001);
        Self {
            wall: each(wall),
            processor: each(processor),
        }
    }
}

/// Below this ratio of processor times a run fails.
const FLOOR: f64 = 2.0;

/// Measures both in turn, the order changing with each round.
pub(crate) async fn measure(binary: &Path, port: u16, load: Load, table: &mut Table) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..load.rounds {
        if round % 2 == 0 {
            ours.push(headcount(binary, port, load, round).await?);
            theirs.extend(redis(load, round).await?);
        } else {
            theirs.extend(redis(load, round).await?);
            ours.push(headcount(binary, port, load, round).await?);
        }
    }
    let what = format!(
        "{} connections attach to {} of {} channels each",
        load.connections, load.each, load.channels
    );
    let by = |rates: &[Rate], which: fn(&Rate) -> f64| Spread::of(rates.iter().map(which));
    for (name, which, floor) in [
        (
            "by the clock",
            (|rate: &Rate| rate.wall) as fn(&Rate) -> f64,
            0.0,
        ),
        ("by its processor time", |rate: &Rate| rate.processor, FLOOR),
    ] {
        let ours = by(&ours, which);
        table.row(&format!("{what}: attaches/s {name}"), &ours, "");
        if theirs.is_empty() {
            continue;
        }
        let theirs = by(&theirs, which);
        table.row(&format!("the same, Redis, {name}"), &theirs, "");
        let ratio = ours.median() / theirs.median();
        table.ratio(&format!("ratio {name}"), ratio, 5.0, floor);
    }
    Ok(())
}

async fn headcount(binary: &Path, port: u16, load: Load, round: usize) -> Result<Rate> {
    let nodes = Nodes::single(binary, port, &[]).await?;
    let mut edge = Edge::open(nodes.reporter(0), "bench", KEY).await?;
    let attaches = load.attaches(round);
    let encoded = edge::encode(&attaches, edge.items_max, 1);
    let (begun, used) = (Instant::now(), nodes.process.processor()?);
    edge.send(&encoded).await?;
    // Those acknowledged last, and some of every shard, must be seen by whoever asks.
    let last = attaches.iter().rev().take(10).map(Attach::channel);
    let step = (load.channels as usize / 100).max(1);
    let some = (0..load.channels).step_by(step).map(traffic::channel);
    for channel in last.chain(some) {
        nodes.wait_for(0, &channel, load.on_each_channel()).await?;
    }
    let (wall, used) = (begun.elapsed(), nodes.process.processor()? - used);
    nodes.process.stop().await;
    Ok(Rate::of(attaches.len(), wall, used))
}

/// Returns nothing if there is no Redis.
async fn redis(load: Load, round: usize) -> Result<Option<Rate>> {
    let Some(mut peer) = Peer::start().await? else {
        return Ok(None);
    };
    let attaches = load.attaches(round);
    let encoded = peer::encode(&attaches, PEER_BATCH);
    let (begun, used) = (Instant::now(), peer.process.processor()?);
    peer.send(&encoded).await?;
    let (wall, used) = (begun.elapsed(), peer.process.processor()? - used);
    let channel = traffic::channel(0);
    let counted = peer.connections(&channel).await?;
    ensure!(counted == load.on_each_channel(), "{channel}: {counted}");
    peer.process.stop().await;
    Ok(Some(Rate::of(attaches.len(), wall, used)))
}
