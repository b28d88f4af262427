//! Overload: slow readers of every kind, churn, and edges that tell as much as flow control lets
//! them, while the memory of one node is bounded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use headcount_checker::Step;
use headcount_model::Modes;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Found, PATIENCE, SLOW, Stand};
use crate::cluster::{Cluster, said, wait_until};
use crate::composed::{lists, staying};
use crate::edges::{self, Churn};
use crate::laggards::{self, Asks};
use crate::nemesis::pass;
use crate::readers;
use crate::service::opened_within;
use crate::watchers::Watcher;

const MIB: u64 = 1024 * 1024;

/// What the node may hold, its disk included: 80,000 attachments of its own edge, what 24 event
/// streams, sockets and lists may have waiting each, and batches of three edges that never rest.
const BOUND: u64 = 512 * MIB;

/// Laggards of each kind come in rounds, and stay on their side until the end: whoever leaves was
/// cut off by the node. A round lasts longer than [`SETTINGS`] have a write wait.
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(12);
const EACH: usize = 8;

/// Settings by which laggards are dealt with while it lasts, and by which a node's disk, which is
/// memory here and charged to it, is small beside what the process holds: about 50 MiB.
pub(super) const SETTINGS: [&str; 5] = [
    "api.write_timeout = \"10s\"",
    "store.journal_bytes = \"16MiB\"",
    "store.segment_bytes = \"4MiB\"",
    "consensus.snapshot_bytes = \"8MiB\"",
    "consensus.snapshot_entries_kept = 400",
];

/// What the node must have done about laggards, by metrics, and how often at least: who reads events
/// or a list over HTTP and takes nothing is cut off, while half of the lists trickle on; a websocket
/// loses the channel first and then goes, too; a watcher over gRPC is spared older counts.
const DEALT_WITH: [(&str, usize); 5] = [
    ("api_event_streams_ended_total", ROUNDS * EACH),
    (
        "api_rejected_total{reason=\"write_timeout\"}",
        ROUNDS * EACH * 3 / 2,
    ),
    ("api_rejected_total{reason=\"subscriber_too_slow\"}", EACH),
    ("api_realtime_drops_total", ROUNDS * EACH),
    ("feed_events_rolled_up_total", 1),
];

/// The part of the time that edges at the limit must have been held back at least.
const HELD_BACK: f64 = 0.5;

/// How far a reader that keeps up may be behind. No figure is promised of overload; this is far less
/// than it lasts.
const KEEPS_UP: Duration = Duration::from_secs(10);

pub(super) async fn slow(mut stand: Stand, mut found: Found) -> Result<(Found, Vec<String>)> {
    let (cluster, record) = (stand.cluster.clone(), stand.record.clone());
    let node = cluster.of_region(1)[0];
    let bounded = cluster.bound_memory(node, BOUND)?;
    ensure!(
        bounded,
        "control groups of version 1 cannot be written here"
    );
    for number in 0..EACH {
        let watcher = Watcher {
            name: format!("{SLOW} {number}"),
            nodes: vec![node],
            stays: None,
            pause: Some(Duration::from_millis(500)),
            seed: 1,
        };
        stand.watch(watcher).await?;
    }
    let _standing = stand.standing().await?;
    let standing: Vec<String> = (0..3)
        .map(|region| format!("standing:{region}:0"))
        .collect();
    for channel in &standing {
        stand.counted(&[node], channel, 1).await?;
    }

    // Edges, and readers that keep up.
    let (stop, stopped) = watch::channel(false);
    let (mut flooding, mut churning) = (JoinSet::new(), JoinSet::new());
    for region in 0..3 {
        let session = stand.session(&format!("flood-{region}"), &cluster.of_region(region))?;
        flooding.spawn(edges::flood(session, stopped.clone()));
        let churn = Churn {
            edge: format!("churner-{region}"),
            region,
            roams: false,
            seed: cluster.plan.seed ^ region as u64,
            channels: 40,
            pause: Duration::from_millis(100),
        };
        let (cluster, record) = (cluster.clone(), record.clone());
        churning.spawn(edges::churn(cluster, record, churn, stopped.clone()));
    }
    let probe = stand.session("probe", &cluster.of_region(0))?;
    let probes = Duration::from_millis(500);
    let probing = edges::probe(probe, "probe".to_owned(), probes, stopped.clone());
    let probing = tokio::spawn(probing);
    let reading = tokio::spawn(read(cluster.clone(), node, standing, stopped.clone()));
    wait_until("a page of the list is full", PATIENCE, async || {
        let listed = readers::list(&cluster, node).await.map_err(said)?.len();
        (listed > 1_000)
            .then_some(())
            .ok_or_else(|| listed.to_string())
    })
    .await?;

    // Laggards.
    let begun = Instant::now();
    let (mut silent, mut sipping) = (Vec::new(), JoinSet::new());
    let mut held = Vec::new();
    for round in 1..=ROUNDS as u32 {
        for number in 0..EACH {
            for asks in [Asks::Events, Asks::Lifecycle, Asks::List] {
                let asked = laggards::ask(&cluster, node, asks).await;
                lives(&cluster, node)?;
                let laggard = asked.with_context(|| format!("{asks:?} in round {round}"))?;
                if asks == Asks::List && number % 2 == 0 {
                    sipping.spawn(laggards::sip(laggard, stopped.clone()));
                } else {
                    silent.push(laggard);
                }
            }
        }
        while begun.elapsed() < ROUND * round {
            lives(&cluster, node)?;
            pass(Duration::from_millis(200)).await;
        }
        held.push(mib(cluster.resident_most(node)));
    }
    let dealt_with = wait_until("laggards are dealt with", PATIENCE, async || {
        dealt_with(&cluster, node).await
    })
    .await;
    let lasted = begun.elapsed();
    lives(&cluster, node)?;
    match dealt_with {
        Ok(told) => found.lines.push(told),
        Err(late) => found.wrong.push(late.to_string()),
    }

    stop.send_replace(true);
    // Kept until all is judged: what they attached stands.
    let (mut sessions, mut rate, mut held_back) = (Vec::new(), 0.0, f64::MAX);
    while let Some(flooded) = flooding.join_next().await {
        let (session, changes, waited) = flooded??;
        sessions.push(session);
        rate += changes;
        held_back = waited.min(held_back);
    }
    while let Some(churned) = churning.join_next().await {
        sessions.push(churned??);
    }
    let (_probe, asked) = probing.await??;
    let (reads, slowest, wrong) = reading.await?;
    found.wrong.extend(wrong);
    let (mut sipped, sippers) = (0, sipping.len());
    while let Some(bytes) = sipping.join_next().await {
        match bytes? {
            Ok(bytes) => sipped += bytes,
            Err(cut) => found.wrong.push(format!("{cut:#}")),
        }
    }
    let quick = staying(&cluster, 1);
    let what = "overload: event delay of the probes, p99 of the node's quick watcher";
    match opened_within(&record, &quick, &asked).await {
        Ok(delays) => found.took(what, delays.p99(), Some(KEEPS_UP)),
        Err(late) => found.wrong.push(late.to_string()),
    }

    // However much waited on the way: every node counts what is attached, and nothing else.
    for node in 0..cluster.nodes.len() {
        let why = format!("node {node} lists what is attached");
        let right = async || lists(&cluster, &record, node).await;
        let late = wait_until(why, PATIENCE, right).await.err();
        found.wrong.extend(late.map(|late| late.to_string()));
    }
    lives(&cluster, node)?;
    drop(silent);

    let (mut items, mut registers) = (0.0, 0.0);
    for node in 0..cluster.nodes.len() {
        items += cluster.metric(node, "gateway_items_total").await?;
        registers += cluster.metric(node, "gossip_registers_total").await?;
    }
    let resident = cluster.resident_most(node);
    let (told, most, gaps) = {
        let inner = record.write();
        let slow = inner.histories.iter();
        let slow = slow.filter(|(name, _)| name.starts_with(SLOW));
        let most = slow.map(|(_, history)| history.events().len()).max();
        let quick = &inner.histories[&quick];
        let gaps = quick.steps.iter();
        let gaps = gaps.filter(|step| matches!(step, Step::Gap(_))).count();
        (quick.events().len(), most.unwrap_or_default(), gaps)
    };
    found.lines.extend([
        format!(
            "overload for {lasted:?}: the node held {} MiB at most ({held:?} after each round), with \
             its disk {} MiB, bound {}",
            mib(resident),
            mib(cluster.charged_most(node)),
            mib(Some(BOUND))
        ),
        format!(
            "edges told {rate:.0} changes a second, each held back {:.0} % of the time or more; \
             {items:.0} changes became {registers:.0} registers for coordinators",
            held_back * 100.0
        ),
        format!(
            "{reads} reads of the node, the slowest took {slowest:?}; {sippers} that trickled on \
             read {sipped} bytes; {told} events told to its quick watcher, {most} to a slow one"
        ),
    ]);
    let faults = [
        (resident > Some(BOUND), "the node held more than its bound"),
        (held_back < HELD_BACK, "an edge was hardly held back"),
        (gaps > 0, "events are missing for who keeps up"),
        (most >= told, "the slow watchers were not slow"),
    ];
    let faults = faults.iter().filter(|(is_so, _)| *is_so);
    let faults = faults.map(|(_, what)| (*what).to_owned());
    found.wrong.extend(faults);
    let wrong = stand.end().await?;
    Ok((found, wrong))
}

/// Fails if a node has ended, as where the kernel kills it for its memory.
fn lives(cluster: &Cluster, node: usize) -> Result<()> {
    let (ended, charged) = (cluster.ended(node)?, cluster.charged_most(node));
    ensure!(
        ended.is_none(),
        "the node ended with {ended:?}; {charged:?} bytes were charged to it at most"
    );
    Ok(())
}

/// Returns what a node did about laggards, or what it did not yet.
async fn dealt_with(cluster: &Cluster, node: usize) -> Result<String, String> {
    let mut told = Vec::new();
    for (metric, least) in DEALT_WITH {
        let times = cluster.metric(node, metric).await.map_err(said)?;
        told.push(format!("{metric} {times:.0}"));
        if times < least as f64 {
            return Err(format!("{}, wanted {least}", told.join(", ")));
        }
    }
    Ok(told.join(", "))
}

/// Reads what stands through a node until told to stop; returns how often, how long that took at
/// most, and what was wrong.
async fn read(
    cluster: Arc<Cluster>,
    node: usize,
    channels: Vec<String>,
    stop: watch::Receiver<bool>,
) -> (usize, Duration, Vec<String>) {
    let (mut reads, mut slowest, mut wrong) = (0, Duration::ZERO, Vec::new());
    for channel in channels.iter().cycle() {
        if *stop.borrow() {
            break;
        }
        let asked = Instant::now();
        match readers::ask(&cluster, node, channel, false).await {
            Ok(answer) if answer.occupancy == Modes::DEFAULT.occupancy() => reads += 1,
            Ok(answer) => wrong.push(format!("{channel} stands, told {:?}", answer.occupancy)),
            Err(why) => wrong.push(format!("{channel} was not told: {why:#}")),
        }
        slowest = slowest.max(asked.elapsed());
        pass(Duration::from_millis(100)).await;
    }
    (reads, slowest, wrong)
}

fn mib(bytes: Option<u64>) -> u64 {
    bytes.unwrap_or_default() / MIB
}
