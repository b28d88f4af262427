//! What nodes take while nobody is attached.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::node::Nodes;
use crate::table::{Spread, Table};

/// A node has done by then what it does after its start.
const SETTLE: Duration = Duration::from_secs(20);

/// How long nodes are watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) span: Duration,
    pub(crate) rounds: usize,
}

pub(crate) async fn measure(binary: &Path, port: u16, load: Load, table: &mut Table) -> Result<()> {
    let flags = ["--shards", "64", "--set", "cluster.timing=wan"];
    let nodes = Nodes::three(binary, port, &flags).await?;
    let (percents, bytes) = watch(&nodes, load).await?;
    nodes.process.stop().await;
    let what = "three idle regions in one process, 64 shards: % of a core";
    table.most(what, &percents, 10.0);
    table.row("their memory, MiB", &bytes, "");
    let nodes = Nodes::single(binary, port, &[]).await?;
    let (percents, bytes) = watch(&nodes, load).await?;
    nodes.process.stop().await;
    table.row(
        "an idle node on its own, 64 shards: % of a core",
        &percents,
        "",
    );
    table.most("its memory, MiB", &bytes, 200.0);
    Ok(())
}

/// Returns shares of a core in per cent, and the memory at the end in MiB.
async fn watch(nodes: &Nodes, load: Load) -> Result<(Spread, Spread)> {
    // allow-sleep: nothing is waited for; idling is what is measured
    tokio::time::sleep(SETTLE).await;
    let mut percents = Vec::new();
    for _ in 0..load.rounds {
        let (begun, used) = (Instant::now(), nodes.process.processor()?);
        // allow-sleep: nothing is waited for; idling is what is measured
        tokio::time::sleep(load.span).await;
        let used = nodes.process.processor()?.saturating_sub(used);
        percents.push(100.0 * used.as_secs_f64() / begun.elapsed().as_secs_f64());
    }
    let bytes = nodes.process.resident()? as f64 / f64::from(1 << 20);
    Ok((Spread::of(percents), Spread::of([bytes])))
}
