//! What a node with very many channels takes to be asked about them, and to be back after a crash.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::edge::{self, Edge};
use crate::http::{self, Http};
use crate::node::{KEY, Nodes};
use crate::table::{Spread, Table};
use crate::traffic;

/// Connections that ask at a time.
const READERS: usize = 16;

/// How often all counts change before the node is killed: its log holds much more than its state.
const CHANGES: u32 = 8;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) channels: u32,
    /// Requests of each kind in a round.
    pub(crate) requests: usize,
    pub(crate) rounds: usize,
}

/// A busy reader is refused at some rate, and channels close when their edge is away, neither of
/// which is what is measured.
pub(crate) const SETTINGS: [&str; 4] = [
    "limits.app_requests_per_second=1000000",
    "gateway.edge_grace=10m",
    "gateway.takeover_timeout=1h",
    "region.adoption_cap=1h",
];

/// Tells a node that all channels are active; returns once it says so, with the edge that did.
pub(crate) async fn fill(nodes: &Nodes, channels: u32) -> Result<Edge> {
    let mut edge = Edge::open(nodes.reporter(0), "bench", KEY).await?;
    let order = traffic::shuffled(channels, 1);
    let encoded = edge::encode_counts(&order, edge.items_max, 1);
    edge.send(&encoded).await?;
    for channel in order.iter().rev().take(1_000) {
        nodes.wait_for(0, &traffic::channel(*channel), 1).await?;
    }
    Ok(edge)
}

pub(crate) async fn measure(binary: &Path, port: u16, load: Load, table: &mut Table) -> Result<()> {
    let channels = load.channels;
    let nodes = Nodes::single(binary, port, &SETTINGS).await?;
    let edge = fill(&nodes, channels).await?;

    let mut walks = Vec::new();
    for _ in 0..load.rounds {
        walks.push(walk(&nodes, channels).await?);
    }
    let walk = |which: fn(&(f64, f64)) -> f64| Spread::of(walks.iter().map(which));
    let what = format!("enumeration of {channels} channels, 1,000 a page");
    let bar = f64::from(channels) * 5.0 / 1_000_000.0;
    table.time(
        &format!("{what}: s by the clock"),
        &walk(|(wall, _)| *wall),
        bar,
    );
    table.row(
        "the same, s of the node's processor time",
        &walk(|(_, used)| *used),
        "",
    );

    let (mut empty, mut status) = (Vec::new(), Vec::new());
    let names: Vec<_> = traffic::shuffled(channels, 2)
        .into_iter()
        .take(10_000)
        .collect();
    let statuses: Vec<_> = names
        .iter()
        .map(|name| http::get(&format!("/channels/{}", traffic::channel(*name))))
        .collect();
    let times = vec![http::get("/time")];
    for round in 0..load.rounds {
        let (first, second) = if round % 2 == 0 {
            (&times, &statuses)
        } else {
            (&statuses, &times)
        };
        let one = ask(&nodes, first, load.requests).await?;
        let other = ask(&nodes, second, load.requests).await?;
        let (time, read) = if round % 2 == 0 {
            (one, other)
        } else {
            (other, one)
        };
        empty.push(time);
        status.push(read);
    }
    let (empty, status) = (Spread::of(empty), Spread::of(status));
    table.row("status reads/s of the node's processor time", &status, "");
    table.row("the same of `GET /time`, which does nothing", &empty, "");
    table.ratio(
        "ratio of status reads",
        status.median() / empty.median(),
        0.6,
        0.3,
    );

    let mut edge = edge;
    change(&nodes, &mut edge, channels).await?;
    let mut back = Vec::new();
    let mut nodes = nodes;
    drop(edge);
    for _ in 0..load.rounds.div_ceil(2) {
        let begun = Instant::now();
        nodes = nodes
            .killed_and_started_again(&traffic::channel(names[0]))
            .await?;
        let used = nodes.process.processor()?;
        back.push((begun.elapsed().as_secs_f64(), used.as_secs_f64()));
        self::walk(&nodes, channels).await?;
    }
    let what = format!(
        "killed with {channels} channels whose counts changed {CHANGES} times, serving reads again: s"
    );
    let back = |which: fn(&(f64, f64)) -> f64| Spread::of(back.iter().map(which));
    table.time(&what, &back(|(wall, _)| *wall), 10.0);
    let used = back(|(_, used)| *used);
    table.row(
        "the same, s of the node's processor time, of two cores",
        &used,
        "",
    );
    nodes.process.stop().await;
    Ok(())
}

/// Changes the counts of all channels, again and again; returns once the last change is seen.
async fn change(nodes: &Nodes, edge: &mut Edge, channels: u32) -> Result<()> {
    for turn in 1..=CHANGES {
        let order = traffic::shuffled(channels, 2 + u64::from(turn));
        let (items_max, next) = (edge.items_max, edge.next_sequence());
        edge.send(&edge::encode_many(&order, 1 + turn, items_max, next))
            .await?;
        for channel in order.iter().rev().take(100) {
            let channel = traffic::channel(*channel);
            nodes
                .wait_for_count(0, &channel, "subscribers", u64::from(1 + turn))
                .await?;
        }
    }
    Ok(())
}

/// Walks over all channels; returns the time that it took, and the node's processor time, in
/// seconds.
pub(crate) async fn walk(nodes: &Nodes, channels: u32) -> Result<(f64, f64)> {
    let mut http = Http::open(nodes.client(0)).await?;
    let (begun, used) = (Instant::now(), nodes.process.processor()?);
    let mut path = Some("/channels?by=id&limit=1000".to_owned());
    let (mut seen, mut last) = (0, String::new());
    while let Some(next) = path {
        let answer = http.ask(&http::get(&next)).await?;
        let names: Vec<&str> = serde_json::from_slice(answer.body)?;
        for name in &names {
            ensure!(last.as_str() < *name, "{name} does not come after {last}");
            (*name).clone_into(&mut last);
        }
        seen += names.len();
        path = answer.next();
    }
    ensure!(seen == channels as usize, "{seen} of {channels} channels");
    let used = nodes.process.processor()? - used;
    Ok((begun.elapsed().as_secs_f64(), used.as_secs_f64()))
}

/// Asks in turn, on some connections at a time; returns how many requests a second of the node's
/// processor time are answered.
async fn ask(nodes: &Nodes, requests: &[Vec<u8>], count: usize) -> Result<f64> {
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(Http::open(nodes.client(0)).await?);
    }
    let used = nodes.process.processor()?;
    let asked = readers.iter_mut().enumerate().map(async |(at, http)| {
        let requests = requests.iter().cycle().skip(at * requests.len() / READERS);
        for request in requests.take(count / READERS) {
            http.ask(request).await?;
        }
        Ok::<_, anyhow::Error>(())
    });
    futures::future::try_join_all(asked).await?;
    let used = nodes.process.processor()?.saturating_sub(used);
    Ok(count as f64 / used.max(Duration::from_millis(1)).as_secs_f64())
}
