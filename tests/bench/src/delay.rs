//! How late events are over an emulated wide area, beside what the ways alone take; and what one
//! hot channel costs.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use futures::future::try_join_all;
use headcount_wire::proto::feed::v1::feed_client::FeedClient;
use headcount_wire::proto::feed::v1::{EventKind, WatchRequest, watch_response};
use tokio::sync::mpsc;
use tonic::Request;

use crate::edge::{self, Edge};
use crate::http::{self, Http};
use crate::node::{KEY, Nodes};
use crate::table::{Spread, Table};
use crate::traffic;

/// The regions of `headcount dev`, and the round trips that `--wan` emulates between them, in
/// milliseconds.
const REGIONS: [&str; 3] = ["us-east-1", "eu-west-1", "ap-southeast-1"];
const ROUND_TRIPS: [[f64; 3]; 3] = [[0.0, 80.0, 220.0], [80.0, 0.0, 240.0], [220.0, 240.0, 0.0]];

/// Placement has spread the coordinators by then.
const SETTLE: Duration = Duration::from_secs(10);
const WITHIN: Duration = Duration::from_secs(20);
/// Between two attaches of a region.
const PACE: Duration = Duration::from_millis(70);

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Channels that each region opens.
    pub(crate) channels: u32,
    /// How long the hot channel is hot.
    pub(crate) hot: Duration,
}

/// The least that the ways allow, in milliseconds: to the coordinator, from there to a majority and
/// back, and to the watcher.
fn ways(from: usize, coordinator: usize, to: usize) -> f64 {
    let others = (0..3).filter(|other| *other != coordinator);
    let trips = others.map(|other| ROUND_TRIPS[coordinator][other]);
    let majority = trips.fold(f64::INFINITY, f64::min);
    ROUND_TRIPS[from][coordinator] / 2.0 + majority + ROUND_TRIPS[coordinator][to] / 2.0
}

pub(crate) async fn measure(binary: &Path, port: u16, load: Load, table: &mut Table) -> Result<()> {
    let flags = ["--wan", "--set", "limits.app_requests_per_second=1000000"];
    let nodes = Nodes::three(binary, port, &flags).await?;
    // allow-sleep: nothing tells that placement is at rest
    tokio::time::sleep(SETTLE).await;
    events(&nodes, load, table).await?;
    hot(&nodes, load, table).await?;
    nodes.process.stop().await;
    Ok(())
}

/// What a watcher was told.
struct Seen {
    watcher: usize,
    kind: EventKind,
    channel: String,
    region: String,
    at: Instant,
}

async fn events(nodes: &Nodes, load: Load, table: &mut Table) -> Result<()> {
    let (sender, mut seen) = mpsc::unbounded_channel();
    for region in 0..REGIONS.len() {
        watch(nodes, region, sender.clone()).await?;
    }
    let attaching = (0..REGIONS.len()).map(|region| {
        let channels = (region as u32 * 1_000_000..).take(load.channels as usize);
        attach(nodes, region, channels, PACE)
    });
    let attached: HashMap<String, (usize, Instant)> = try_join_all(attaching)
        .await?
        .into_iter()
        .flatten()
        .collect();
    // Two watchers elsewhere and the one here hear that it opened; the one here, that it is active.
    let mut left = attached.len() * 3;
    let (mut ratios, mut delays, mut here) = (Vec::new(), Vec::new(), Vec::new());
    while left > 0 {
        let told = tokio::time::timeout(WITHIN, seen.recv()).await;
        let told = told.with_context(|| format!("{left} events did not come"))?;
        let told = told.context("a watch ended")?;
        let Some((from, since)) = attached.get(&told.channel) else {
            continue;
        };
        let delay = told.at.duration_since(*since).as_secs_f64() * 1e3;
        let coordinator = REGIONS.iter().position(|name| *name == told.region);
        let region = coordinator.context("an event of a region that there is not")?;
        match told.kind {
            EventKind::Opened if told.watcher == *from => {}
            EventKind::Opened => {
                left -= 1;
                ratios.push(delay / ways(*from, region, told.watcher));
                delays.push(delay);
            }
            EventKind::RegionActive if told.watcher == *from && region == *from => {
                left -= 1;
                here.push(delay);
            }
            _ => {}
        }
    }
    let (ratios, delays, here) = (Spread::of(ratios), Spread::of(delays), Spread::of(here));
    let opened = "`channel.opened`, attach in one region to watcher in another";
    table.percentiles(&format!("{opened}: ms"), &delays);
    table.time(
        &format!("{opened}: median beside the ways"),
        &Spread::of([ratios.median()]),
        1.2,
    );
    table.time(
        &format!("{opened}: p99 beside the ways"),
        &Spread::of([ratios.at(0.99)]),
        1.6,
    );
    let active = "`channel.region.active`, attach to watcher in the region";
    table.percentiles(&format!("{active}: ms"), &here);
    table.time(
        &format!("{active}: p99, ms"),
        &Spread::of([here.at(0.99)]),
        10.0,
    );
    Ok(())
}

/// Watches in a region until the receiver is gone.
async fn watch(nodes: &Nodes, watcher: usize, seen: mpsc::UnboundedSender<Seen>) -> Result<()> {
    let address = format!("http://{}", nodes.reporter(watcher as u16));
    let mut client = FeedClient::connect(address).await?;
    let mut request = Request::new(WatchRequest {
        channel_prefix: "room:".to_owned(),
        kinds: vec![EventKind::Opened.into(), EventKind::RegionActive.into()],
        cursor: None,
    });
    let key = base64::engine::general_purpose::STANDARD.encode(KEY);
    let basic = format!("Basic {key}").parse()?;
    request.metadata_mut().insert("authorization", basic);
    let mut told = client.watch(request).await?.into_inner();
    tokio::spawn(async move {
        while let Some(response) = told.message().await.transpose() {
            let response = match response {
                Ok(response) => response,
                Err(status) => {
                    if !seen.is_closed() {
                        eprintln!("a watch ended: {status}");
                    }
                    return;
                }
            };
            let at = Instant::now();
            let Some(watch_response::Item::Events(batch)) = response.item else {
                continue;
            };
            for event in batch.events {
                let seen_now = Seen {
                    watcher,
                    kind: event.kind(),
                    channel: event.channel.unwrap_or_default().name,
                    region: event.region,
                    at,
                };
                if seen.send(seen_now).is_err() {
                    return;
                }
            }
        }
    });
    Ok(())
}

/// Attaches to channels one after the other; returns when.
async fn attach(
    nodes: &Nodes,
    region: usize,
    channels: impl Iterator<Item = u32>,
    pace: Duration,
) -> Result<Vec<(String, (usize, Instant))>> {
    let mut channels = channels.peekable();
    let name = format!("delay-{}", channels.peek().context("there are channels")?);
    let mut edge = Edge::open(nodes.reporter(region as u16), &name, KEY).await?;
    let mut attached = Vec::new();
    for (number, sequence) in channels.zip(1..) {
        let batch = edge::encode(&[traffic::attach(number, number)], 1, sequence);
        attached.push((traffic::channel(number), (region, Instant::now())));
        edge.send(&batch).await?;
        // allow-sleep: the pace of the load
        tokio::time::sleep(pace).await;
    }
    Ok(attached)
}

/// Opens channels with numbers from `first` on through one node; returns how long it takes until
/// all of some watchers of another have heard of each, in milliseconds.
pub(crate) async fn opened(
    from: &Nodes,
    to: &Nodes,
    watchers: usize,
    channels: std::ops::Range<u32>,
    pace: Duration,
) -> Result<Spread> {
    let (sender, mut seen) = mpsc::unbounded_channel();
    for _ in 0..watchers {
        watch(to, 0, sender.clone()).await?;
    }
    let attached = attach(from, 0, channels, pace).await?;
    let attached: HashMap<String, (usize, Instant)> = attached.into_iter().collect();
    let mut heard: HashMap<String, usize> = HashMap::new();
    let mut delays = Vec::new();
    while delays.len() < attached.len() {
        let told = tokio::time::timeout(WITHIN, seen.recv()).await;
        let told = told.with_context(|| {
            let missing = attached.len() - delays.len();
            format!("{missing} events did not come")
        })?;
        let told = told.context("a watch ended")?;
        let Some((_, since)) = attached.get(&told.channel) else {
            continue;
        };
        if told.kind != EventKind::Opened {
            continue;
        }
        let heard = heard.entry(told.channel).or_default();
        *heard += 1;
        if *heard == watchers {
            delays.push(told.at.duration_since(*since).as_secs_f64() * 1e3);
        }
    }
    Ok(Spread::of(delays))
}

/// The hot channel's number, and how often each region's edge reports.
const HOT: u32 = 999_999_999;
const TICK: Duration = Duration::from_millis(20);
/// Attaches of a region in a tick, and detaches: one less.
const ATTACHES: u32 = 334;
/// Attached from the beginning in each region.
const BASE: u32 = 1_000;

/// Gateway's flush and gossip's interval, in milliseconds: what a count may wait besides the ways.
const FLUSHES: f64 = 5.0 + 50.0;

async fn hot(nodes: &Nodes, load: Load, table: &mut Table) -> Result<()> {
    let channel = traffic::channel(HOT);
    let mut edges = Vec::new();
    for region in 0..REGIONS.len() {
        let name = format!("hot-{region}");
        let mut edge = Edge::open(nodes.reporter(region as u16), &name, KEY).await?;
        let base: Vec<_> = (0..BASE)
            .map(|connection| traffic::attach(HOT, connection))
            .collect();
        edge.send(&edge::encode(&base, BASE as usize, 1)).await?;
        edges.push(edge);
    }
    for region in 0..REGIONS.len() {
        nodes
            .wait_for(region as u16, &channel, u64::from(BASE) * 3)
            .await?;
    }
    let ticks = (load.hot.as_millis() / TICK.as_millis()) as u32;
    let batches: Vec<_> = (0..ticks)
        .map(|tick| {
            let attaches =
                (0..ATTACHES).map(|at| traffic::attach(HOT, BASE + tick * ATTACHES + at));
            let detaches = (1..ATTACHES).map(|at| tick * (ATTACHES - 1) + at - 1);
            let detaches = detaches.map(|connection| traffic::attach(HOT, connection));
            edge::encode_both(
                &attaches.collect::<Vec<_>>(),
                &detaches.collect::<Vec<_>>(),
                tick.into(),
            )
        })
        .collect();
    let entries = nodes.metric("coordinator_apply_lag_seconds_count").await?;
    let used = nodes.process.processor()?;
    let begun = Instant::now();
    let report = edges.iter_mut().map(async |edge| {
        let mut told = Vec::new();
        let mut interval = tokio::time::interval(TICK);
        for batch in &batches {
            interval.tick().await;
            told.push(Instant::now());
            edge.send(std::slice::from_ref(batch)).await?;
        }
        Ok::<_, anyhow::Error>(told)
    });
    let until = begun + load.hot;
    let read = (0..REGIONS.len()).map(async |region| read(nodes, region, &channel, until).await);
    let (told, reads) = futures::future::try_join(try_join_all(report), try_join_all(read)).await?;
    let took = begun.elapsed().as_secs_f64();
    let used = (nodes.process.processor()? - used).as_secs_f64();
    let entries = (nodes.metric("coordinator_apply_lag_seconds_count").await? - entries) / 3.0;

    let changes = f64::from(ticks * (2 * ATTACHES - 1) * 3) / took;
    table.line(
        "one hot channel: attaches and detaches/s of three regions",
        &format!("{changes:.0}"),
        "",
    );
    table.line(
        "the processors that it keeps busy",
        &format!("{:.2}", used / took),
        "",
    );
    // A batch for each region and gossip interval, and a tick for each occupancy event.
    let most = 3.0 * 20.0 + 1.0;
    table.at_most("entries of the log a second", entries / took, most);
    // The sum grows by one with each batch: what it was tells when it was.
    let mut times: Vec<Instant> = told.into_iter().flatten().collect();
    times.sort_unstable();
    let mut late = Vec::new();
    let mut most = 0.0_f64;
    for (region, reads) in reads.into_iter().enumerate() {
        let slowest = (0..3).map(|from| ways(from, reads.coordinator, region));
        let slowest = slowest.fold(0.0, f64::max);
        most = most.max(slowest);
        for (at, count) in reads.counts {
            let place = count
                .checked_sub(u64::from(BASE) * 3)
                .context("fewer than at first")?;
            let Some(passed) = times.get(place as usize).filter(|passed| **passed < at) else {
                continue;
            };
            let age = at.duration_since(*passed).as_secs_f64() * 1e3;
            late.push(age / (FLUSHES + slowest));
        }
    }
    let late = Spread::of(late);
    let what = "age of what its readers see, beside two flush intervals and the slowest ways";
    table.time(
        &format!("{what}: median"),
        &Spread::of([late.median()]),
        1.0,
    );
    table.time(&format!("{what}: p99"), &Spread::of([late.at(0.99)]), 1.0);
    table.line(
        "two flush intervals and the slowest ways: ms",
        &format!("{:.0}", FLUSHES + most),
        "",
    );
    Ok(())
}

/// Counts as they were read.
struct Reads {
    /// Place of the coordinator's region.
    coordinator: usize,
    counts: Vec<(Instant, u64)>,
}

async fn read(nodes: &Nodes, region: usize, channel: &str, until: Instant) -> Result<Reads> {
    let mut http = Http::open(nodes.client(region as u16)).await?;
    let request = http::get(&format!("/channels/{channel}"));
    let mut reads = Reads {
        coordinator: 0,
        counts: Vec::new(),
    };
    let mut interval = tokio::time::interval(Duration::from_millis(10));
    while Instant::now() < until {
        interval.tick().await;
        let answer = http.ask(&request).await?;
        let at = Instant::now();
        let details: serde_json::Value = serde_json::from_slice(answer.body)?;
        let count = details.pointer("/status/occupancy/metrics/connections");
        let count = count.and_then(serde_json::Value::as_u64);
        reads
            .counts
            .push((at, count.context("a status without its count")?));
        let coordinator = details.get("region").and_then(serde_json::Value::as_str);
        let place = REGIONS.iter().position(|name| Some(*name) == coordinator);
        reads.coordinator = place.context("a status without its region")?;
    }
    ensure!(!reads.counts.is_empty(), "nothing was read");
    Ok(reads)
}
