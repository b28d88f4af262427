//! What snapshots add to the delay of events.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use headcount_model::{ChannelKey, ShardMap};

use crate::delay;
use crate::edge::{self, Edge};
use crate::node::Nodes;
use crate::reads;
use crate::table::{Spread, Table};
use crate::traffic;

const SHARDS: u32 = 64;
/// Each shard has an entry that often, besides the events that are measured.
const PACE: Duration = Duration::from_millis(25);
/// Between two channels that open.
const OPENING: Duration = Duration::from_millis(10);
/// The first number of a channel that is none of those that are there.
const NEW: u32 = 1_000_000_000;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) channels: u32,
    /// Channels that open under each circumstance.
    pub(crate) opened: u32,
}

pub(crate) async fn measure(binary: &Path, port: u16, load: Load, table: &mut Table) -> Result<()> {
    let Load { channels, opened } = load;
    let often = [
        "consensus.snapshot_entries=100",
        "consensus.snapshot_entries_kept=100",
    ];
    let nodes = Nodes::single(binary, port, &often).await?;
    let mut edge = reads::fill(&nodes, channels).await?;
    let built = "consensus_snapshots_built_total";
    let (before, begun) = (nodes.metric(built).await?, Instant::now());
    let taking = busy(&nodes, &mut edge, channels, NEW..NEW + opened).await?;
    let taken = nodes.metric(built).await? - before;
    let taken = taken / begun.elapsed().as_secs_f64();
    ensure!(taken > 0.0, "snapshots are taken");
    // What its log holds no more, a node that joins is sent as snapshots.
    let joined = Nodes::serve(binary, port + 10, "there", Some(port), &often);
    let while_joining = busy(&nodes, &mut edge, channels, NEW + opened..NEW + 2 * opened);
    let (joined, sending) = futures::future::try_join(joined, while_joining).await?;
    let sent = nodes.metric("consensus_snapshots_sent_total").await?;
    let bytes = nodes.metric("consensus_snapshot_sent_bytes_total").await?;
    ensure!(sent > 0.0, "snapshots are sent");
    joined.process.stop().await;
    nodes.process.stop().await;

    let never = [
        "consensus.snapshot_entries=1000000",
        "consensus.snapshot_bytes=1GiB",
    ];
    let nodes = Nodes::single(binary, port, &never).await?;
    let mut edge = reads::fill(&nodes, channels).await?;
    let quiet = busy(&nodes, &mut edge, channels, NEW..NEW + opened).await?;
    nodes.process.stop().await;

    let what = format!("`channel.opened` beside {channels} channels");
    table.percentiles(&format!("{what}, no snapshots: ms"), &quiet);
    table.percentiles(
        &format!("{what}, {taken:.0} snapshots taken a second: ms"),
        &taking,
    );
    let megabytes = bytes / f64::from(1 << 20);
    table.percentiles(
        &format!(
            "{what}, the same and {sent:.0} of {megabytes:.0} MiB sent to a node that joins: ms"
        ),
        &sending,
    );
    for (what, figures) in [("taking", taking), ("sending", sending)] {
        let more = (figures.at(0.99) - quiet.at(0.99)).max(0.0);
        let what = format!("what {what} snapshots adds to the p99: ms");
        table.time(&what, &Spread::of([more]), 50.0);
    }
    Ok(())
}

/// Opens channels while each shard has something else to do, too.
async fn busy(
    nodes: &Nodes,
    edge: &mut Edge,
    channels: u32,
    opening: std::ops::Range<u32>,
) -> Result<Spread> {
    let map = ShardMap::from(SHARDS);
    let mut one_each: Vec<Option<u32>> = vec![None; SHARDS as usize];
    for number in 0..channels {
        let key = ChannelKey::new("dev", &traffic::channel(number))?;
        one_each[map.of(&key).0 as usize].get_or_insert(number);
    }
    let one_each: Option<Vec<u32>> = one_each.into_iter().collect();
    let one_each = one_each.context("each shard has a channel")?;
    let measured = delay::opened(nodes, nodes, 1, opening, OPENING);
    let changing = async {
        let mut interval = tokio::time::interval(PACE);
        let mut subscribers = 1;
        loop {
            interval.tick().await;
            subscribers = subscribers % 1_000 + 1;
            let next = edge.next_sequence();
            let batch = edge::encode_many(&one_each, subscribers, edge.items_max, next);
            if let Err(error) = edge.send(&batch).await {
                return error;
            }
        }
    };
    tokio::select! {
        delays = measured => delays,
        error = changing => Err(error),
    }
}
