//! How costs grow with channels and with regions.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::delay;
use crate::edge::{self, Edge};
use crate::memory::{self, Held};
use crate::node::{KEY, Nodes};
use crate::reads;
use crate::table::{Table, short};
use crate::traffic;

/// The first number of a channel that is none of those that are there.
const NEW: u32 = 1_000_000_000;
const WATCHERS: usize = 100;
const OPENED: u32 = 50;
const PACE: Duration = Duration::from_millis(20);
/// Channels that are active in each of some regions.
const SHARED: u32 = 10_000;

/// What is measured at each size.
#[derive(Debug, Default)]
struct Curve {
    what: &'static str,
    unit: &'static str,
    /// What it is divided by to be constant if it is linear; the figure itself where it should not
    /// grow at all.
    each: &'static str,
    /// Why it is not linear, if it is not.
    because: &'static str,
    points: Vec<(u32, f64, f64)>,
}

/// A curve whose cost for each differs by more than this is not linear.
const LINEAR: f64 = 1.5;

impl Curve {
    fn new(
        what: &'static str,
        unit: &'static str,
        each: &'static str,
        because: &'static str,
    ) -> Self {
        Self {
            what,
            unit,
            each,
            because,
            points: Vec::new(),
        }
    }

    fn point(&mut self, size: u32, figure: f64, divisor: f64) {
        eprintln!("{} at {size}: {figure:.4} {}", self.what, self.unit);
        self.points.push((size, figure, figure / divisor));
    }

    /// Writes the curve with a bar for each point, as long as its cost for each.
    fn tell(&self, table: &mut Table) {
        let costs = self.points.iter().map(|(_, _, each)| *each);
        let most = costs.clone().fold(f64::MIN_POSITIVE, f64::max);
        let least = costs.fold(f64::INFINITY, f64::min).max(f64::MIN_POSITIVE);
        let unit = if self.each.is_empty() {
            self.unit.to_owned()
        } else {
            format!("{} {}", self.unit, self.each)
        };
        table.note(&format!("{}, {unit}:", self.what));
        for (size, _, each) in &self.points {
            let bar = "█".repeat((30.0 * each / most).ceil() as usize);
            table.note(&format!("{size:>9} {bar} {}", digits(*each)));
        }
        if most / least > LINEAR {
            table.note(&format!("  not linear: {}", self.because));
        }
        table.note("");
    }
}

fn digits(figure: f64) -> String {
    if figure < 10.0 {
        format!("{figure:.2}")
    } else {
        format!("{figure:.0}")
    }
}

/// Measures at each number of channels, ascending.
pub(crate) async fn with_channels(
    binary: &Path,
    port: u16,
    sizes: &[u32],
    table: &mut Table,
) -> Result<()> {
    let few = "what a node does anyway is shared by few channels at the smallest size";
    let (mut opening, mut resident, mut replica) = (
        Curve::new("opening channels", "µs of processor time", "a channel", few),
        Curve::new("memory of the node", "bytes", "a channel", few),
        Curve::new("memory of its replicas", "bytes", "a channel", few),
    );
    let (mut walk, mut encode) = (
        Curve::new(
            "enumeration",
            "µs of processor time",
            "a channel",
            "each page begins in all 64 shards, and their trees leave the processor's caches",
        ),
        Curve::new(
            "encoding a snapshot of all shards",
            "ns",
            "a channel",
            "names leave the processor's caches",
        ),
    );
    let (mut back, mut fan) = (
        Curve::new(
            "killed, until reads are served again",
            "s",
            "",
            "shards up to half a mebibyte take no snapshot, so all of their log is replayed",
        ),
        Curve::new(
            "an attach until 100 watchers have heard of it, median",
            "ms",
            "",
            "the node was still busy",
        ),
    );
    let mut replay = Curve::new(
        "the same",
        "µs of processor time",
        "a channel",
        "what a start takes anyway is shared by few channels at the smallest size",
    );
    for size in sizes.iter().copied() {
        let each = f64::from(size);
        let nodes = Nodes::single(binary, port, &reads::SETTINGS).await?;
        let (bytes, used) = (nodes.process.resident()?, nodes.process.processor()?);
        let edge = reads::fill(&nodes, size).await?;
        let used = nodes.process.processor()? - used;
        opening.point(size, used.as_secs_f64() * 1e6, each);
        let bytes = nodes.process.resident()?.saturating_sub(bytes);
        resident.point(size, bytes as f64, each);
        let delays = delay::opened(&nodes, &nodes, WATCHERS, NEW..NEW + OPENED, PACE).await?;
        fan.point(size, delays.median(), 1.0);
        // Few channels take less than what the system counts in.
        let walks = (1_000_000 / size).clamp(1, 20);
        let mut used = 0.0;
        for _ in 0..walks {
            used += reads::walk(&nodes, size + OPENED).await?.1;
        }
        walk.point(size, used * 1e6 / f64::from(walks), each);
        let begun = Instant::now();
        drop(edge);
        let nodes = nodes.killed_and_started_again(&traffic::channel(0)).await?;
        back.point(size, begun.elapsed().as_secs_f64(), 1.0);
        replay.point(size, nodes.process.processor()?.as_secs_f64() * 1e6, each);
        nodes.process.stop().await;
        let held = memory::held(Held::Coordinator, 1, size).await?;
        replica.point(size, held.resident as f64, each);
        encode.point(size, held.snapshot.as_secs_f64() * 1e9, each);
    }
    let curves = [opening, resident, replica, walk, encode, back, replay, fan];
    lines(&curves, "channels", table);
    for curve in curves {
        curve.tell(table);
    }
    Ok(())
}

/// Measures at each number of regions, with a node in each.
pub(crate) async fn with_regions(
    binary: &Path,
    port: u16,
    sizes: &[u16],
    table: &mut Table,
) -> Result<()> {
    let mut opening = Curve::new(
        "channels that open in all regions, all nodes together",
        "µs of processor time",
        "a channel, region and replica",
        "batches of all regions share entries, and what a node does anyway is shared by more",
    );
    let mut replica = Curve::new(
        "memory of a replica",
        "bytes",
        "a channel and region",
        "the name and the tree are there once, however many regions a channel is active in",
    );
    let mut delays = Curve::new(
        "an attach until a watcher in another region has heard, median",
        "ms",
        "",
        "all nodes share the machine's cores, and its disk syncs for all of them",
    );
    for size in sizes.iter().copied() {
        let settings = ["cluster.shards=16", "cluster.timing=wan"];
        let mut nodes = Vec::new();
        for at in 0..size {
            let region = format!("region-{at}");
            let join = (at > 0).then_some(port);
            let own = port + 10 * at;
            nodes.push(Nodes::serve(binary, own, &region, join, &settings).await?);
        }
        let mut edges = Vec::new();
        for (at, node) in nodes.iter().enumerate() {
            edges.push(Edge::open(node.reporter(0), &format!("bench-{at}"), KEY).await?);
        }
        let order = traffic::shuffled(SHARED, 1);
        let mut used = Duration::ZERO;
        for node in &nodes {
            used += node.process.processor()?;
        }
        for edge in &mut edges {
            let encoded = edge::encode_counts(&order, edge.items_max, 1);
            edge.send(&encoded).await?;
        }
        for node in &nodes {
            for channel in order.iter().rev().take(100) {
                let name = traffic::channel(*channel);
                node.wait_for(0, &name, size.into()).await?;
            }
        }
        let mut after = Duration::ZERO;
        for node in &nodes {
            after += node.process.processor()?;
        }
        let facts = f64::from(SHARED) * f64::from(size);
        let used = (after - used).as_secs_f64() * 1e6;
        opening.point(size.into(), used, facts * f64::from(size));
        let (first, last) = (&nodes[0], &nodes[nodes.len() - 1]);
        let heard = delay::opened(first, last, 1, NEW..NEW + OPENED, PACE).await?;
        delays.point(size.into(), heard.median(), 1.0);
        for node in nodes {
            node.process.stop().await;
        }
        let held = memory::held(Held::Coordinator, size, SHARED).await?;
        replica.point(size.into(), held.resident as f64, facts);
    }
    let curves = [opening, replica, delays];
    lines(&curves, "regions", table);
    for curve in curves {
        curve.tell(table);
    }
    Ok(())
}

/// Adds the figures themselves to the table.
fn lines(curves: &[Curve], of: &str, table: &mut Table) {
    for curve in curves {
        let (sizes, figures): (Vec<_>, Vec<_>) = curve
            .points
            .iter()
            .map(|(size, figure, _)| (size.to_string(), short(*figure)))
            .unzip();
        let what = format!("{}, {}: {} {of}", curve.what, curve.unit, sizes.join("; "));
        table.line(&what, &figures.join("; "), "");
    }
}
