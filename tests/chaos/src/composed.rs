//! The composed run: everything at once, then peace, then judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use headcount_checker::linear::{self, Call, Op};
use headcount_checker::{Allowance, Fault, History, Log, Sample, agree_on_the_log, sessions};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, said, wait_until};
use crate::edges::{self, Churn, Session};
use crate::nemesis::Nemesis;
use crate::plan::{Kind, Strike, draw};
use crate::readers;
use crate::record::Record;
use crate::watchers::{self, Watcher};
use crate::{service, usage};

/// How long a node is believed to live, here.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// From an acknowledgement until every replica answers with it, on a machine that is busy.
const PROPAGATION: Duration = Duration::from_secs(4);

/// How long the effects of a fault last after it was put right: a lease and an election, the
/// recovery of gateways, and adoption.
const RECOVERY: Duration = Duration::from_secs(12);

/// Longest time from healing until everything is right everywhere.
const CONVERGENCE: Duration = Duration::from_secs(60);

/// Time that a cluster may take to grow.
pub(crate) const GROWING: Duration = Duration::from_secs(60);

/// Channels that are churned.
const CHANNELS: usize = 40;

/// Channels of each region that nobody touches.
const STANDING: usize = 4;

/// How long an ordered channel is written and read: short, so that the search stays small.
const EPOCH: Duration = Duration::from_secs(12);

/// Steps of the search for an order, per channel.
const STEPS: u64 = 500_000;

/// Settings by which things happen often enough: the relations between them are those of the
/// defaults.
pub(crate) const QUICK: [&str; 11] = [
    "cluster.name = \"chaos\"",
    "cluster.shards = 4",
    "region.linger = \"400ms\"",
    "region.adoption_cap = \"10s\"",
    "gateway.edge_grace = \"3s\"",
    "gateway.client_grace = \"3s\"",
    "gateway.takeover_timeout = \"12s\"",
    "coordinator.occupancy_interval = \"400ms\"",
    "placement.lease = \"3s\"",
    "placement.suspect_after = \"1500ms\"",
    "store.journal_bytes = \"64MiB\"",
];

/// Runs everything for `length`; returns what is wrong, where in peace things may take `slack` times
/// as long.
pub(crate) async fn run(
    cluster: Arc<Cluster>,
    length: Duration,
    slack: f64,
) -> Result<Vec<String>> {
    let seed = cluster.plan.seed;
    let record = Record::new(Allowance {
        propagation: PROPAGATION,
        departure: LEASE,
    });
    let begun = Instant::now();
    let grown = async {
        cluster.start_all()?;
        cluster.wait_whole(GROWING).await
    };
    grown.await.context("the cluster does not grow")?;
    record.say(format!("grown after {:?}", begun.elapsed()));

    // Actors.
    let (stop, stopped) = watch::channel(false);
    let regions = cluster.plan.regions.len();
    let mut watching = JoinSet::new();
    let (quiet, quieted) = watch::channel(false);
    let all = watchers_of(&cluster, seed);
    let watchers = all.len();
    for watcher in all {
        watching.spawn(watchers::watch(
            cluster.clone(),
            record.clone(),
            watcher,
            quieted.clone(),
        ));
    }
    // Who watches from before anything happens is told everything.
    wait_until("all watch", GROWING, async || {
        let inner = record.write();
        let began = inner
            .histories
            .values()
            .filter(|history| history.cursor.is_some())
            .count();
        (began == watchers)
            .then_some(())
            .ok_or_else(|| format!("{began} of {watchers}"))
    })
    .await?;
    let mut standing = Vec::new();
    let mut channels = Vec::new();
    for region in 0..regions {
        let nodes = cluster.of_region(region);
        let session = Session::begin(&cluster, &record, &format!("standing-{region}"), 1, &nodes)?;
        let mine: Vec<String> = (0..STANDING)
            .map(|of| format!("standing:{region}:{of}"))
            .collect();
        let stands = edges::attach(&session, &mine).await?;
        anyhow::ensure!(stands, "a quiet cluster takes no report");
        channels.extend(mine);
        standing.push(session);
    }
    // Whatever reads less of these from now on must have a reason.
    for node in 0..cluster.nodes.len() {
        let seen = async || lists(&cluster, &record, node).await;
        wait_until(format!("node {node} lists what stands"), GROWING, seen).await?;
    }
    let now = record.now();
    channels
        .iter()
        .for_each(|channel| record.write().ledger.proved(channel, now));
    let held = usage::of_all(&cluster).await?;
    let proving = readers::prove(
        cluster.clone(),
        record.clone(),
        channels.clone(),
        stopped.clone(),
    );
    let proving = tokio::spawn(proving);
    let stands = channels.clone();
    channels.extend((0..CHANNELS).map(|channel| format!("churn:{channel}")));
    let mut churning = JoinSet::new();
    for number in 0..regions * 3 {
        let churn = Churn {
            edge: format!("edge-{number}"),
            region: number % regions,
            roams: number >= regions * 2,
            seed: seed.wrapping_add(number as u64),
            channels: CHANNELS,
            pause: Duration::from_millis(400),
        };
        churning.spawn(edges::churn(
            cluster.clone(),
            record.clone(),
            churn,
            stopped.clone(),
        ));
    }
    let mut reading = JoinSet::new();
    for reader in 0..2 {
        let (cluster, record) = (cluster.clone(), record.clone());
        // One looks at all, the other only at what must be there.
        let channels = if reader == 0 { &channels } else { &stands };
        let channels = channels.clone();
        let seed = seed ^ reader;
        reading.spawn(readers::sample(
            cluster,
            record,
            channels,
            seed,
            stopped.clone(),
        ));
    }
    let ordering = tokio::spawn(order(cluster.clone(), record.clone(), stopped.clone()));
    let leading = tokio::spawn(follow_leaders(
        cluster.clone(),
        record.clone(),
        stopped.clone(),
    ));

    // Safety: everything breaks.
    let (kinds, missing) = Nemesis::possible(&cluster);
    for lack in &missing {
        record.say(lack.clone());
    }
    let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    anyhow::ensure!(
        missing.is_empty() || !in_ci,
        "CI needs every fault: {missing:?}"
    );
    let strikes = draw(seed, &kinds, LEASE, length);
    let broken: Duration = headcount_checker::Spans::new(
        strikes
            .iter()
            .map(|strike| (strike.at, strike.at + strike.lasts)),
    )
    .spans()
    .iter()
    .map(|(from, to)| *to - *from)
    .sum();
    record.say(format!(
        "{} faults planned, something is broken {:.0} % of {length:?}",
        strikes.len(),
        100.0 * broken.as_secs_f64() / length.as_secs_f64()
    ));
    let nemesis = Nemesis::new(cluster.clone(), record.clone(), LEASE, RECOVERY);
    let safety = Instant::now();
    nemesis.run(&strikes).await?;
    // allow-sleep: the phase has its length, and the last fault may have been over before
    tokio::time::sleep(length.saturating_sub(safety.elapsed())).await;

    // Liveness: everything is put right, actors stop where they are.
    record.say(format!(
        "peace; everything must be right within {CONVERGENCE:?}"
    ));
    let healed = Instant::now();
    cluster.heal_ways();
    stop.send_replace(true);
    let mut sessions = Vec::new();
    while let Some(session) = churning.join_next().await {
        sessions.push(session??);
    }
    while let Some(read) = reading.join_next().await {
        read?;
    }
    ordering.await??;
    leading.await?;
    proving.await?;
    let mut wrong = converge(&cluster, &record, healed).await;
    let (peaceful, unserved) = service::in_peace(&cluster, &record, &stands, slack).await?;
    wrong.extend(unserved);
    wrong.extend(usage::returned(&cluster, &record, &held).await);
    quiet.send_replace(true);
    while let Some(watched) = watching.join_next().await {
        watched?;
    }
    wrong.extend(judge(&cluster, &record));
    wrong.extend(uncovered(&cluster, &record, &strikes));
    if !wrong.is_empty() {
        record.keep_histories(&cluster.plan.home)?;
    }
    drop((sessions, standing, peaceful));
    Ok(wrong)
}

/// Returns the name of the watcher that stays in a region.
pub(crate) fn staying(cluster: &Cluster, region: usize) -> String {
    format!("stays in {}", cluster.plan.regions[region].0)
}

pub(crate) fn watchers_of(cluster: &Cluster, seed: u64) -> Vec<Watcher> {
    let all: Vec<usize> = (0..cluster.nodes.len()).collect();
    let mut watchers = Vec::new();
    for region in 0..cluster.plan.regions.len() {
        watchers.push(Watcher {
            name: staying(cluster, region),
            nodes: cluster.of_region(region),
            stays: None,
            pause: None,
            seed: seed ^ region as u64,
        });
    }
    for number in 0..2 {
        watchers.push(Watcher {
            name: format!("roams {number}"),
            nodes: all.clone(),
            stays: Some(Duration::from_secs(4)),
            pause: None,
            seed: seed ^ (100 + number),
        });
    }
    watchers
}

/// Writes and reads ordered channels, two at a time. Each has one writing region and two reading
/// nodes, others each time.
async fn order(
    cluster: Arc<Cluster>,
    record: Arc<Record>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let nodes = cluster.nodes.len();
    for epoch in 0.. {
        let (end, ended) = watch::channel(false);
        let mut writing = JoinSet::new();
        let mut reading = JoinSet::new();
        for turn in 0..2 {
            let channel = format!("ordered:{epoch}:{turn}");
            writing.spawn(edges::write(
                cluster.clone(),
                record.clone(),
                (epoch + turn) % cluster.plan.regions.len(),
                channel.clone(),
                Duration::from_millis(500),
                ended.clone(),
            ));
            for reader in 0..2 {
                let node = (epoch * 2 + turn + reader * (nodes / 2) + 1) % nodes;
                reading.spawn(readers::read(
                    cluster.clone(),
                    record.clone(),
                    node,
                    channel.clone(),
                    Duration::from_millis(300),
                    ended.clone(),
                ));
            }
        }
        drop(tokio::time::timeout(EPOCH, stop.wait_for(|stop| *stop)).await);
        // Readers first: that counts go back to zero is no going back.
        end.send_replace(true);
        while let Some(read) = reading.join_next().await {
            read?;
        }
        while let Some(wrote) = writing.join_next().await {
            wrote??;
        }
        if *stop.borrow() {
            break;
        }
    }
    Ok(())
}

/// Counts how often coordinators change, and looks how large nodes are.
async fn follow_leaders(
    cluster: Arc<Cluster>,
    record: Arc<Record>,
    mut stop: watch::Receiver<bool>,
) {
    let mut known = BTreeMap::new();
    while !*stop.borrow() {
        for node in 0..cluster.nodes.len() {
            let mib = cluster.resident(node).unwrap_or_default() / (1024 * 1024);
            let mut inner = record.write();
            let most = inner.counts.entry("largest node, MiB").or_default();
            *most = mib.max(*most);
        }
        if let Some(status) = cluster.any_status().await {
            for (shard, leader) in cluster.leaders(&status) {
                let before = known.insert(shard, leader);
                if before.is_some_and(|before| before != leader) {
                    record.count("coordinators changed");
                }
            }
        }
        // allow-sleep: looks once a second; stopping cuts it short
        drop(tokio::time::timeout(Duration::from_secs(1), stop.wait_for(|stop| *stop)).await);
    }
}

/// Looks whether a node lists what is attached.
pub(crate) async fn lists(cluster: &Cluster, record: &Record, node: usize) -> Result<(), String> {
    let listed = readers::list(cluster, node).await.map_err(said)?;
    let fault = record
        .write()
        .ledger
        .converged(&format!("node {node}"), &listed);
    fault.map_or(Ok(()), |fault| Err(fault.to_string()))
}

/// Waits until every node lists what is attached and every watcher was told so; returns what is not
/// so in time.
async fn converge(cluster: &Cluster, record: &Record, healed: Instant) -> Vec<String> {
    let mut wrong = Vec::new();
    let left = || CONVERGENCE.saturating_sub(healed.elapsed());
    for node in 0..cluster.nodes.len() {
        let why = format!("node {node} lists what is attached");
        let converged = wait_until(why, left(), async || lists(cluster, record, node).await);
        match converged.await {
            Ok(()) => record.say(format!(
                "node {node} is right {:?} after healing",
                healed.elapsed()
            )),
            Err(late) => wrong.push(late.to_string()),
        }
    }
    let names: Vec<String> = record.write().histories.keys().cloned().collect();
    for name in names {
        let told = wait_until(
            format!("what is told ends in what is: {name}"),
            left(),
            async || {
                let inner = record.write();
                let states = inner.histories[&name].states();
                inner
                    .ledger
                    .ends(&states)
                    .map_or(Ok(()), |fault| Err(fault.to_string()))
            },
        );
        if let Err(late) = told.await {
            wrong.push(late.to_string());
        }
    }
    record.say(format!(
        "everything is right {:?} after healing",
        healed.elapsed()
    ));
    wrong
}

/// Judges everything that was told.
fn judge(cluster: &Cluster, record: &Record) -> Vec<String> {
    let mut inner = record.write();
    let inner = &mut *inner;
    let mut faults: Vec<Fault> = Vec::new();
    let heard = inner.heard_first();
    for (name, history) in &inner.histories {
        let of = |fault: Fault| Fault::new(fault.rule, format!("{name}: {}", fault.what));
        faults.extend(history.faults().into_iter().map(of));
        faults.extend(inner.ledger.justify(history, &heard).into_iter().map(of));
    }
    let histories: Vec<History> = inner.histories.values().cloned().collect();
    match Log::of(&histories) {
        Ok(log) => {
            faults.extend(log.faults());
            faults.extend(histories.iter().flat_map(|history| log.missed(history)));
            inner.counts.insert("events of the log", log.len() as u64);
        }
        Err(fault) => faults.push(fault),
    }
    let mut wrong = std::mem::take(&mut inner.wrong);
    wrong.extend(service::unexcused(&inner.missed, &inner.outages));
    let missed = inner.missed.len() as u64;
    inner.counts.insert("requests not answered in time", missed);
    wrong.extend(agree_on_the_log(&histories).err());
    let mut sharp = 0;
    for sample in &inner.samples {
        let Sample {
            channel, from, to, ..
        } = sample;
        let (least, most) = inner.ledger.bounds(channel, None, *from, *to);
        sharp += u64::from(least == most && !least.is_zero());
        faults.extend(inner.ledger.judge(sample));
    }
    inner.counts.insert("reads with one right answer", sharp);
    let (calls, ordered) = ordered(cluster, inner);
    let (found, undecided) = linear::judge(&calls, STEPS);
    inner
        .counts
        .insert("ordered channels judged", (calls.len() - undecided) as u64);
    inner
        .counts
        .insert("ordered channels given up", undecided as u64);
    faults.extend(found);
    let seen = inner
        .seen
        .iter()
        .filter(|seen| ordered.iter().any(|of| seen.subject.starts_with(of)));
    faults.extend(sessions::backward(seen));
    wrong.extend(faults.iter().map(ToString::to_string));
    wrong.extend(cluster.lines_with(&["panicked at"]));
    wrong
}

/// Returns the calls to the ordered channels, with the time at which each write was seen first and
/// with what may have been taken away and told again. Returns also those of which nothing was.
fn ordered(
    cluster: &Cluster,
    inner: &crate::record::Inner,
) -> (BTreeMap<String, Vec<Call<Op>>>, Vec<String>) {
    let mut judged = BTreeMap::new();
    let mut kept = Vec::new();
    for (channel, recorded) in &inner.calls {
        let mut calls = recorded.clone();
        for call in &mut calls {
            let Op::Apply {
                region, occupancy, ..
            } = &call.op
            else {
                continue;
            };
            let index = cluster
                .plan
                .regions
                .iter()
                .position(|(name, _)| name == region);
            let category = edges::category(index.unwrap_or_default());
            let version = occupancy.get(category);
            // Whoever read this version, or a later one, read after it had got into the log.
            let saw = recorded.iter().filter(|read| match read.op {
                Op::Read(counts) => version > 0 && counts.get(category) >= version,
                Op::Apply { .. } | Op::Void { .. } => false,
            });
            call.returned = saw.filter_map(|read| read.returned).min();
        }
        let begun = calls
            .iter()
            .map(|call| call.invoked)
            .min()
            .unwrap_or_default();
        let ended = calls
            .iter()
            .map(|call| call.returned.unwrap_or(call.invoked))
            .max();
        let ended = ended.unwrap_or_default();
        let mut taken = false;
        for (name, _) in &cluster.plan.regions {
            let writes =
                |call: &&Call<Op>| matches!(&call.op, Op::Apply { region, .. } if region == name);
            let windows = inner.ledger.voided(channel, name);
            for (from, to) in windows.spans() {
                if *to < begun || *from > ended || !recorded.iter().any(|call| writes(&call)) {
                    continue;
                }
                taken = true;
                for _ in 0..2 {
                    let op = Op::Void {
                        region: name.clone(),
                    };
                    calls.push(Call {
                        op,
                        invoked: *from,
                        returned: None,
                    });
                    let again = recorded.iter().filter(writes);
                    let again = again.filter(|call| call.invoked <= *to);
                    calls.extend(again.map(|call| Call {
                        invoked: call.invoked.max(*from),
                        returned: None,
                        op: call.op.clone(),
                    }));
                }
            }
        }
        if !taken {
            kept.push(format!("{channel} "));
        }
        judged.insert(channel.clone(), calls);
    }
    (judged, kept)
}

/// Tells what the run went through; returns what it should have and did not.
fn uncovered(cluster: &Cluster, record: &Record, strikes: &[Strike]) -> Vec<String> {
    let needed = [
        "reports acknowledged",
        "sessions told anew",
        "streams broken",
        "edges died",
        "edges roamed",
        "watches resumed",
        "watchers moved",
        "events told",
        "events of the log",
        "reads answered",
        "reads with one right answer",
        "strong reads answered",
        "ordered channels judged",
        "coordinators changed",
        "openings in peace",
        "strong reads beside openings",
        "reads in peace",
    ];
    let planned: BTreeSet<Kind> = strikes.iter().map(|strike| strike.kind).collect();
    let carried = cluster.fabric.counters();
    let ways = [
        ("packets delivered", &carried.passed, &Kind::ALL[..]),
        ("packets lost", &carried.lost, &[Kind::Loss][..]),
        (
            "packets overtaken",
            &carried.overtaken,
            &[Kind::Distance][..],
        ),
        // Whether any was depends on how much is told meanwhile.
        ("packets without room", &carried.crowded, &[][..]),
        (
            "packets cut",
            &carried.cut,
            &[Kind::CutRegion, Kind::CutOneWay, Kind::CutBridge][..],
        ),
    ];
    let mut counts = record.write().counts.clone();
    let mut needed: BTreeSet<&str> = needed.into_iter().collect();
    needed.extend(planned.iter().map(|kind| kind.as_str()));
    for (name, counter, kinds) in ways {
        counts.insert(name, counter.load(Ordering::Relaxed));
        if kinds.iter().any(|kind| planned.contains(kind)) {
            needed.insert(name);
        }
    }
    for (what, count) in &counts {
        eprintln!("{count:>10} {what}");
    }
    let lacking = needed
        .into_iter()
        .filter(|what| counts.get(what).is_none_or(|count| *count == 0));
    lacking
        .map(|what| format!("the run never had: {what}"))
        .collect()
}
