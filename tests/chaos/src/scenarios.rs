//! Scenarios: one thing breaks, and how long its effects last is measured.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use headcount_checker::{Allowance, History, Step};
use headcount_model::{ChannelKey, EventKind, Modes, ReportItem, shard_of};
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Plan, said, wait_until};
use crate::composed::{GROWING, LEASE, lists, watchers_of};
use crate::edges::{self, Session};
use crate::nemesis::{pass, says_why};
use crate::readers;
use crate::record::Record;
use crate::watchers::{self, Watcher};

/// Longest wait for anything in a scenario.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a thing is measured.
const TIMES: usize = 5;

/// Attaches a second while nodes are restarted, in all regions together.
const CROWD: usize = 50_000;

/// A watcher that is slow on purpose: what it did not read is rolled up.
const SLOW: &str = "slow";

/// The scenarios by name, with what each measures.
pub(crate) const ALL: [(&str, &str); 9] = [
    (
        "ghosts",
        "how long the counts of a killed edge and of a killed node stand",
    ),
    (
        "failover-local",
        "coordinator killed, timing `local`: until events flow again",
    ),
    ("failover-regional", "the same with `regional`"),
    ("failover-wan", "the same with `wan`"),
    (
        "region",
        "a region killed: until its counts are gone everywhere",
    ),
    (
        "heal",
        "a region cut off while it counts: until all know, from healing on",
    ),
    ("rolling", "all nodes restarted one by one under load"),
    (
        "disks",
        "full, failing, damaged and torn disks, and a disk that is replaced",
    ),
    ("slow", "a slow watcher and churn with bounded memory"),
];

/// A figure of a scenario.
#[derive(Debug)]
pub(crate) struct Figure {
    what: String,
    measured: Vec<Duration>,
    /// What the product promises; nothing where it promises no number.
    promised: Option<Duration>,
}

/// What a scenario found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    figures: Vec<Figure>,
    lines: Vec<String>,
}

impl Found {
    fn took(&mut self, what: &str, measured: Duration, promised: Option<Duration>) {
        if let Some(figure) = self.figures.iter_mut().find(|figure| figure.what == what) {
            figure.measured.push(measured);
            return;
        }
        self.figures.push(Figure {
            what: what.to_owned(),
            measured: vec![measured],
            promised,
        });
    }

    /// Returns the figures as rows of a table, and what is wrong: more than twice what is promised,
    /// since a machine that is busy with other things is no fault of the product's.
    pub(crate) fn table(mut self) -> (String, Vec<String>) {
        let (mut table, mut wrong) = (String::new(), Vec::new());
        for Figure {
            what,
            measured,
            promised,
        } in &mut self.figures
        {
            measured.sort_unstable();
            let (median, most) = (measured[measured.len() / 2], measured[measured.len() - 1]);
            let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
            let bound = promised.map_or_else(String::new, seconds);
            let times = measured.len();
            let (median, worst) = (seconds(median), seconds(most));
            table += &format!("| {what} | {times} | {median} | {worst} | {bound} |\n");
            if promised.is_some_and(|promised| most > promised * 2) {
                wrong.push(format!("{what}: {most:?}, promised {promised:?}"));
            }
        }
        for line in self.lines {
            table += &format!("| {line} | | | | |\n");
        }
        (table, wrong)
    }
}

/// How long nodes are believed to live if nobody says otherwise: what is promised after a death is
/// measured with it. Elections of `wan` take about as long as the lease that other runs have.
const DEFAULT_LEASE: Duration = Duration::from_secs(5);

/// Returns the plan of a scenario, made from that of composed runs.
pub(crate) fn plan(name: &str, plan: Plan) -> Result<Plan> {
    ensure!(
        ALL.iter().any(|(known, _)| *known == name),
        "no scenario {name:?}; there are {:?}",
        ALL.map(|(name, _)| name)
    );
    let (timing, round_trips_ms) = match name {
        "failover-local" => ("local", [1, 1, 1]),
        "failover-regional" => ("regional", [40, 80, 80]),
        _ => ("wan", [80, 220, 240]),
    };
    let mut plan = plan;
    plan.settings
        .retain(|setting| !setting.starts_with("cluster.timing"));
    plan.settings.push(format!("cluster.timing = {timing:?}"));
    if matches!(name, "ghosts" | "region") {
        let shortened = ["placement.", "gateway.edge_grace"];
        plan.settings
            .retain(|setting| !shortened.iter().any(|section| setting.starts_with(section)));
        plan.settings.push(format!(
            "gateway.edge_grace = \"{}s\"",
            DEFAULT_LEASE.as_secs()
        ));
    }
    plan.tricks = name == "disks";
    Ok(Plan {
        round_trips_ms,
        ..plan
    })
}

/// What scenarios stand on: a cluster that has grown, and a watcher in each region.
struct Stand {
    cluster: Arc<Cluster>,
    record: Arc<Record>,
    stop: watch::Sender<bool>,
    watching: JoinSet<()>,
}

impl Stand {
    async fn start(cluster: Arc<Cluster>) -> Result<Self> {
        let allowance = Allowance {
            propagation: LEASE,
            departure: LEASE,
        };
        let record = Record::new(allowance);
        cluster.start_all()?;
        cluster.wait_whole(GROWING).await?;
        let (stop, _) = watch::channel(false);
        let mut stand = Self {
            cluster,
            record,
            stop,
            watching: JoinSet::new(),
        };
        for watcher in watchers_of(&stand.cluster, stand.cluster.plan.seed) {
            if watcher.stays.is_none() {
                stand.watch(watcher).await?;
            }
        }
        Ok(stand)
    }

    async fn watch(&mut self, watcher: Watcher) -> Result<()> {
        let (name, record) = (watcher.name.clone(), self.record.clone());
        let cluster = self.cluster.clone();
        let watching = watchers::watch(cluster, record, watcher, self.stop.subscribe());
        self.watching.spawn(watching);
        self.told(&name, "it begins", |history| history.cursor.is_some())
            .await
            .map(drop)
    }

    /// Waits until a watcher was told something; returns when that was seen.
    async fn told(
        &self,
        watcher: &str,
        why: &str,
        wanted: impl Fn(&History) -> bool,
    ) -> Result<Instant> {
        wait_until(format!("{watcher}: {why}"), PATIENCE, async || {
            let inner = self.record.write();
            let history = inner.histories.get(watcher).ok_or("nothing is told")?;
            wanted(history)
                .then(Instant::now)
                .ok_or_else(|| "not yet".to_owned())
        })
        .await
    }

    fn session(&self, edge: &str, nodes: &[usize]) -> Result<Session> {
        Session::begin(&self.cluster, &self.record, edge, 1, nodes)
    }

    /// Waits until nodes count so many connections on a channel.
    async fn counted(&self, nodes: &[usize], channel: &str, connections: u32) -> Result<()> {
        for node in nodes {
            wait_until(
                format!("node {node} counts {connections}"),
                PATIENCE,
                async || {
                    let read = readers::occupancy(&self.cluster, *node, channel)
                        .await
                        .map_err(said)?;
                    let is = read.counts()[0];
                    (is == connections)
                        .then_some(())
                        .ok_or_else(|| is.to_string())
                },
            )
            .await?;
        }
        Ok(())
    }

    /// Attaches a hundred channels in each region, which stay as long as what is returned.
    async fn standing(&self) -> Result<Vec<Session>> {
        let mut standing = Vec::new();
        for region in 0..3 {
            let nodes = self.cluster.of_region(region);
            let session = self.session(&format!("standing-{region}"), &nodes)?;
            let channels: Vec<String> = (0..100)
                .map(|of| format!("standing:{region}:{of}"))
                .collect();
            ensure!(edges::attach(&session, &channels).await?, "not counted");
            standing.push(session);
        }
        Ok(standing)
    }

    async fn control_leader(&self) -> Result<usize> {
        let status = self.cluster.any_status().await.context("no node answers")?;
        let leader = status["control"]["leader"]["node"]
            .as_u64()
            .context("no leader")?;
        self.cluster
            .index_of(&status, leader)
            .context("a leader that is no node")
    }

    /// Ends the watchers; returns what their histories show to be wrong.
    async fn end(mut self) -> Result<Vec<String>> {
        self.stop.send_replace(true);
        while let Some(watched) = self.watching.join_next().await {
            watched?;
        }
        let mut inner = self.record.write();
        let mut wrong = std::mem::take(&mut inner.wrong);
        for (name, history) in &inner.histories {
            // Who was told that events are missing begins anew there, and is judged no further.
            if history
                .steps
                .iter()
                .any(|step| matches!(step, Step::Gap(_)))
                || name == SLOW
            {
                continue;
            }
            wrong.extend(
                history
                    .faults()
                    .iter()
                    .map(|fault| format!("{name}: {fault}")),
            );
        }
        wrong.extend(self.cluster.lines_with(&["panicked at"]));
        Ok(wrong)
    }
}

/// Plays a scenario; returns what it found and what is wrong.
pub(crate) async fn play(name: &str, cluster: Arc<Cluster>) -> Result<(Found, Vec<String>)> {
    let stand = Stand::start(cluster.clone()).await?;
    let record = stand.record.clone();
    let played = play_on(name, stand).await;
    let is_right = matches!(&played, Ok((_, wrong)) if wrong.is_empty());
    if !is_right {
        record.keep_histories(&cluster.plan.home)?;
    }
    played
}

async fn play_on(name: &str, stand: Stand) -> Result<(Found, Vec<String>)> {
    let mut found = Found::default();
    match name {
        "ghosts" => ghosts(&stand, &mut found).await?,
        "failover-local" => failover(&stand, &mut found, Duration::from_millis(1_500)).await?,
        "failover-regional" => failover(&stand, &mut found, Duration::from_secs(3)).await?,
        "failover-wan" => failover(&stand, &mut found, Duration::from_secs(5)).await?,
        "region" => region(&stand, &mut found).await?,
        "heal" => heal(&stand, &mut found).await?,
        "rolling" => rolling(&stand, &mut found).await?,
        "disks" => disks(&stand, &mut found).await?,
        "slow" => return slow(stand, found).await,
        _ => bail!("no scenario {name:?}"),
    }
    let wrong = stand.end().await?;
    Ok((found, wrong))
}

async fn ghosts(stand: &Stand, found: &mut Found) -> Result<()> {
    let cluster = &stand.cluster;
    let all: Vec<usize> = (0..cluster.nodes.len()).collect();
    for turn in 0..TIMES {
        // An edge dies; its node lives.
        let (region, channel) = (turn % 3, format!("edge:{turn}"));
        let session = stand.session(&format!("edge-{turn}"), &cluster.of_region(region))?;
        ensure!(
            edges::attach(&session, std::slice::from_ref(&channel)).await?,
            "not counted"
        );
        stand.counted(&all, &channel, 1).await?;
        let killed = Instant::now();
        session.die();
        stand.counted(&all, &channel, 0).await?;
        let promised = DEFAULT_LEASE + Duration::from_secs(1);
        found.took(
            "edge killed (grace 5 s): its counts are gone everywhere",
            killed.elapsed(),
            Some(promised),
        );
    }
    for turn in 0..TIMES {
        // A node dies with its edge, which knows no other.
        let leader = stand.control_leader().await?;
        let leads = turn % 2 == 1;
        let node = if leads {
            leader
        } else {
            (leader + 1 + turn) % cluster.nodes.len()
        };
        let channel = format!("node:{turn}");
        let session = stand.session(&format!("lonely-{turn}"), &[node])?;
        ensure!(
            edges::attach(&session, std::slice::from_ref(&channel)).await?,
            "not counted"
        );
        stand.counted(&all, &channel, 1).await?;
        let killed = Instant::now();
        cluster.kill(node)?;
        session.die();
        let others: Vec<usize> = all.iter().copied().filter(|other| *other != node).collect();
        stand.counted(&others, &channel, 0).await?;
        let (what, promised) = match leads {
            // One election and one fresh lease more.
            true => (
                "node killed that led the control group",
                DEFAULT_LEASE * 2 + Duration::from_secs(3),
            ),
            false => (
                "node killed (lease 5 s)",
                DEFAULT_LEASE + Duration::from_secs(1),
            ),
        };
        found.took(
            &format!("{what}: its counts are gone"),
            killed.elapsed(),
            Some(promised),
        );
        cluster.start(node)?;
        cluster.wait_whole(PATIENCE).await?;
    }
    Ok(())
}

async fn failover(stand: &Stand, found: &mut Found, promised: Duration) -> Result<()> {
    let cluster = &stand.cluster;
    for turn in 0..TIMES {
        let status = cluster.any_status().await.context("no node answers")?;
        let shards = u32::try_from(cluster.leaders(&status).len())?;
        let channel = format!("after:{turn}");
        let shard = shard_of(&ChannelKey::new("chaos", &channel)?, shards).0;
        let coordinator = cluster.leaders(&status).get(&u64::from(shard)).copied();
        let coordinator = coordinator.context("the shard has no coordinator")?;
        // Who reports and who watches are in other regions than the one that is lost.
        let region = (cluster.nodes[coordinator].region + 1) % 3;
        let session = stand.session(&format!("edge-{turn}"), &cluster.of_region(region))?;
        ensure!(
            edges::attach(&session, &["warm".to_owned()]).await?,
            "not counted"
        );
        let watcher = format!("stays in {}", cluster.plan.regions[(region + 1) % 3].0);
        let killed = Instant::now();
        cluster.kill(coordinator)?;
        ensure!(
            edges::attach(&session, std::slice::from_ref(&channel)).await?,
            "not counted"
        );
        let told = stand.told(&watcher, "the channel is opened", |history| {
            history.is_open(&channel)
        });
        let took = told.await?.duration_since(killed);
        let timing = cluster
            .plan
            .settings
            .iter()
            .find_map(|of| of.strip_prefix("cluster.timing = "));
        let timing = timing.unwrap_or_default().trim_matches('"');
        let what = format!("coordinator killed, timing `{timing}`: an attach is told as opened");
        found.took(&what, took, Some(promised));
        session.die();
        cluster.start(coordinator)?;
        cluster.wait_whole(PATIENCE).await?;
    }
    Ok(())
}

async fn region(stand: &Stand, found: &mut Found) -> Result<()> {
    let cluster = &stand.cluster;
    for turn in 0..TIMES {
        let leader = cluster.nodes[stand.control_leader().await?].region;
        let leads = turn % 2 == 1;
        let region = if leads { leader } else { (leader + 1) % 3 };
        let lost = cluster.of_region(region);
        let left: Vec<usize> = (0..cluster.nodes.len())
            .filter(|node| !lost.contains(node))
            .collect();
        let channel = format!("lost:{turn}");
        let session = stand.session(&format!("edge-{turn}"), &lost)?;
        ensure!(
            edges::attach(&session, std::slice::from_ref(&channel)).await?,
            "not counted"
        );
        stand.counted(&left, &channel, 1).await?;
        let killed = Instant::now();
        lost.iter().try_for_each(|node| cluster.kill(*node))?;
        session.die();
        stand.counted(&left, &channel, 0).await?;
        let (what, promised) = match leads {
            true => (
                "region killed that led the control group",
                DEFAULT_LEASE * 2 + Duration::from_secs(4),
            ),
            false => (
                "region killed (lease 5 s)",
                DEFAULT_LEASE + Duration::from_secs(2),
            ),
        };
        found.took(
            &format!("{what}: its counts are gone"),
            killed.elapsed(),
            Some(promised),
        );
        lost.iter().try_for_each(|node| cluster.start(*node))?;
        cluster.wait_whole(PATIENCE).await?;
    }
    Ok(())
}

async fn heal(stand: &Stand, found: &mut Found) -> Result<()> {
    let cluster = &stand.cluster;
    for (turn, (count, cut)) in [(200_u32, 1_500), (200, 6_000), (2_000, 6_000)]
        .into_iter()
        .enumerate()
    {
        let region = turn % 3;
        let here = cluster.of_region(region);
        let others: Vec<usize> = (0..cluster.nodes.len())
            .filter(|node| !here.contains(node))
            .collect();
        let session = stand.session(&format!("edge-{turn}"), &here)?;
        let first = format!("heal:{turn}:first");
        ensure!(
            edges::attach(&session, std::slice::from_ref(&first)).await?,
            "not counted"
        );
        stand.counted(&others, &first, 1).await?;
        let set = |cut| {
            for (inside, outside) in here
                .iter()
                .flat_map(|i| others.iter().map(move |o| (*i, *o)))
            {
                cluster
                    .fabric
                    .set(inside, outside, |quality| quality.cut = cut);
                cluster
                    .fabric
                    .set(outside, inside, |quality| quality.cut = cut);
            }
        };
        set(true);
        let begun = Instant::now();
        let channels: Vec<String> = (0..count).map(|of| format!("heal:{turn}:{of}")).collect();
        ensure!(
            edges::attach(&session, &channels).await?,
            "a region that is cut off counts on"
        );
        pass(Duration::from_millis(cut).saturating_sub(begun.elapsed())).await;
        set(false);
        let healed = Instant::now();
        for channel in [
            &channels[0],
            &channels[channels.len() / 2],
            &channels[channels.len() - 1],
        ] {
            stand.counted(&others, channel, 1).await?;
        }
        let what = format!("cut off for {cut} ms with {count} channels: all know, after healing");
        found.took(&what, healed.elapsed(), None);
        session.die();
        cluster.wait_whole(PATIENCE).await?;
    }
    Ok(())
}

async fn rolling(stand: &Stand, found: &mut Found) -> Result<()> {
    let cluster = &stand.cluster;
    let _standing = stand.standing().await?;
    let all: Vec<usize> = (0..cluster.nodes.len()).collect();
    stand.counted(&all, "standing:2:99", 1).await?;

    // A crowd, and a probe that attaches something new all the time.
    let (stop, stopped) = watch::channel(false);
    let mut loading = JoinSet::new();
    for region in 0..3 {
        let session = stand.session(&format!("load-{region}"), &cluster.of_region(region))?;
        loading.spawn(edges::crowd(session, CROWD / 3, stopped.clone()));
    }
    let probe = stand.session("probe", &cluster.of_region(0))?;
    let probing = tokio::spawn(edges::probe(stand.record.clone(), probe, stopped.clone()));
    let begun = Instant::now();
    for node in &all {
        cluster.stop(*node).await?;
        cluster.start(*node)?;
        cluster.wait_whole(PATIENCE).await?;
    }
    found.lines.push(format!(
        "{} nodes restarted one by one in {:?}",
        all.len(),
        begun.elapsed()
    ));
    stop.send_replace(true);
    let mut reported = 0;
    while let Some(loaded) = loading.join_next().await {
        reported += loaded??;
    }
    let rate = reported as f64 / begun.elapsed().as_secs_f64();
    found.lines.push(format!(
        "attaches meanwhile: {rate:.0} a second, and as many detaches"
    ));
    let asked = probing.await??;
    let watcher = format!("stays in {}", cluster.plan.regions[1].0);
    // All of them: shards have no order among them.
    stand
        .told(&watcher, "every probe is told", |history| {
            let told = history.events().into_iter();
            let opened: BTreeSet<&str> = told
                .filter(|told| told.kind == EventKind::Opened)
                .map(|told| told.channel.as_str())
                .collect();
            asked
                .iter()
                .all(|(channel, _)| opened.contains(channel.as_str()))
        })
        .await?;
    let inner = stand.record.write();
    let history = &inner.histories[&watcher];
    let told = history.events();
    let mut delays: Vec<Duration> = Vec::new();
    for (channel, at) in &asked {
        let opened = told
            .iter()
            .find(|told| told.channel == *channel && told.kind.as_str() == "channel.opened");
        let opened = opened.with_context(|| format!("{channel} was never opened"))?;
        delays.push(inner.heard[&opened.id].saturating_sub(*at));
    }
    delays.sort_unstable();
    let p99 = delays[delays.len() * 99 / 100];
    found.took(
        "rolling restart: event delay, p99 of the probe",
        p99,
        Some(Duration::from_secs(3)),
    );
    for (name, history) in &inner.histories {
        let gone = history
            .events()
            .into_iter()
            .filter(|told| told.channel.starts_with("standing") && !told.active);
        ensure!(
            gone.count() == 0,
            "{name} was told that what stands had gone"
        );
    }
    found
        .lines
        .push("false transitions of 300 standing channels: 0".to_owned());
    Ok(())
}

async fn disks(stand: &Stand, found: &mut Found) -> Result<()> {
    let cluster = &stand.cluster;
    let session = stand.session("edge", &cluster.of_region(0))?;
    let churned: Vec<String> = (0..500).map(|of| format!("disk:{of}")).collect();
    ensure!(edges::attach(&session, &churned).await?, "not counted");
    let (stop, stopped) = watch::channel(false);
    let load = stand.session("load", &cluster.of_region(0))?;
    let loading = tokio::spawn(edges::load(load, stopped));

    // Full.
    let node = cluster.of_region(1)[0];
    let before = cluster.log(node).len();
    cluster.fill(node)?;
    let took = stops(cluster, node).await?;
    found.took("disk full: the node has ended", took, None);
    found
        .lines
        .push(quote("disk full", &says_why(cluster, node, before)?));
    cluster.unfill(node)?;
    back(
        cluster,
        node,
        found,
        "disk full, space again: the cluster is whole",
    )
    .await?;

    // Failing.
    let node = cluster.of_region(1)[1];
    let before = cluster.log(node).len();
    cluster.fail_syncs(node, true)?;
    let took = stops(cluster, node).await?;
    found.took("sync fails: the node has ended", took, None);
    found
        .lines
        .push(quote("sync fails", &says_why(cluster, node, before)?));
    back(
        cluster,
        node,
        found,
        "sync failed, disk well again: the cluster is whole",
    )
    .await?;
    stop.send_replace(true);
    loading.await??;

    // Torn: the last bytes of the newest log are gone, as after a crash in the middle of a write.
    let node = cluster.of_region(2)[0];
    cluster.kill(node)?;
    let newest = largest(cluster, node)?;
    let length = newest.metadata()?.len();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&newest)?
        .set_len(length - 7)?;
    let before = cluster.log(node).len();
    cluster.start(node)?;
    match lives_or_ends(cluster, node).await? {
        true => found.lines.push("torn tail: the node starts".to_owned()),
        false => {
            found
                .lines
                .push(quote("torn tail", &says_why(cluster, node, before)?));
            replace(
                stand,
                node,
                found,
                "torn tail, wiped and joined anew: the cluster is whole",
            )
            .await?;
        }
    }
    cluster.wait_whole(PATIENCE).await?;

    // Damaged: one bit in the middle.
    let node = cluster.of_region(2)[1];
    cluster.kill(node)?;
    let file = largest(cluster, node)?;
    let mut bytes = std::fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&file, bytes)?;
    let before = cluster.log(node).len();
    cluster.start(node)?;
    ensure!(
        !lives_or_ends(cluster, node).await?,
        "a node starts on damaged data"
    );
    found
        .lines
        .push(quote("bit flipped", &says_why(cluster, node, before)?));
    replace(
        stand,
        node,
        found,
        "bit flipped, wiped and joined anew: the cluster is whole",
    )
    .await?;
    stand.counted(&[node], &churned[0], 1).await?;
    drop(session);
    Ok(())
}

/// Makes a line of a log fit for a table.
fn quote(what: &str, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    format!(
        "{what}: `{}`",
        words.join(" ").replace('|', "/").replace('`', "'")
    )
}

/// Waits until a node has ended by itself; returns how long that took.
async fn stops(cluster: &Cluster, node: usize) -> Result<Duration> {
    let begun = Instant::now();
    let status = wait_until(format!("node {node} ends"), PATIENCE, async || {
        cluster
            .ended(node)
            .map_err(said)?
            .ok_or_else(|| "it goes on".to_owned())
    });
    ensure!(
        !status.await?.success(),
        "node {node} ended as if all were well"
    );
    Ok(begun.elapsed())
}

async fn back(cluster: &Cluster, node: usize, found: &mut Found, what: &str) -> Result<()> {
    let begun = Instant::now();
    cluster.start(node)?;
    cluster.wait_whole(PATIENCE).await?;
    found.took(what, begun.elapsed(), None);
    Ok(())
}

/// Waits until a node serves or has ended; returns whether it serves.
async fn lives_or_ends(cluster: &Cluster, node: usize) -> Result<bool> {
    wait_until(
        format!("node {node} serves or ends"),
        PATIENCE,
        async || {
            if cluster.ended(node).map_err(said)?.is_some() {
                return Ok(false);
            }
            let (status, body) = cluster.admin(node, "/readyz").await.map_err(said)?;
            (status == 200).then_some(true).ok_or(body)
        },
    )
    .await
}

/// Gives a node an empty disk: it joins as a new one, and the old one is removed by an operator.
async fn replace(stand: &Stand, node: usize, found: &mut Found, what: &str) -> Result<()> {
    let cluster = &stand.cluster;
    let begun = Instant::now();
    cluster.wipe(node)?;
    cluster.start(node)?;
    let asked = cluster.of_region(0)[0];
    let status = cluster.status(asked).await?;
    let old = {
        let rows = status["nodes"].as_array().context("nodes are listed")?;
        let here = |row: &&serde_json::Value| {
            let id = row["id"].as_u64().unwrap_or_default();
            cluster.index_of(&status, id) == Some(node)
        };
        let ids = rows
            .iter()
            .filter(here)
            .filter_map(|row| row["id"].as_u64());
        ids.min().context("the old node is listed")?
    };
    wait_until("the old node is removed", PATIENCE, async || {
        cluster
            .operate(asked, &["remove", &old.to_string()])
            .map(drop)
            .map_err(said)
    })
    .await?;
    cluster.wait_whole(PATIENCE).await?;
    found.took(what, begun.elapsed(), None);
    Ok(())
}

/// Returns the largest file of a node's data.
fn largest(cluster: &Cluster, node: usize) -> Result<std::path::PathBuf> {
    let (mut files, mut left) = (Vec::new(), vec![cluster.data_dir(node)]);
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            } else {
                files.push((entry.metadata()?.len(), entry.path()));
            }
        }
    }
    files.sort();
    Ok(files.pop().context("the node has data")?.1)
}

async fn slow(mut stand: Stand, mut found: Found) -> Result<(Found, Vec<String>)> {
    const BOUND: u64 = 192 * 1024 * 1024;
    let cluster = stand.cluster.clone();
    let node = cluster.of_region(1)[0];
    let bounded = cluster.bound_memory(node, BOUND)?;
    ensure!(
        bounded,
        "control groups of version 1 cannot be written here"
    );
    stand
        .watch(Watcher {
            name: SLOW.to_owned(),
            nodes: vec![node],
            stays: None,
            pause: Some(Duration::from_secs(2)),
            seed: 1,
        })
        .await?;
    let _standing = stand.standing().await?;
    let (stop, stopped) = watch::channel(false);
    let mut loading = JoinSet::new();
    for region in 0..3 {
        let session = stand.session(&format!("load-{region}"), &cluster.of_region(region))?;
        loading.spawn(edges::load(session, stopped.clone()));
    }
    let (mut most, begun) = (0, Instant::now());
    while begun.elapsed() < Duration::from_secs(40) {
        most = cluster.resident(node).unwrap_or_default().max(most);
        ensure!(
            cluster.ended(node)?.is_none(),
            "the node was killed for its memory"
        );
        pass(Duration::from_millis(200)).await;
    }
    stop.send_replace(true);
    let mut reported = 0;
    while let Some(loaded) = loading.join_next().await {
        reported += loaded??;
    }
    let (told, slow) = {
        let inner = stand.record.write();
        let events = |name: &str| inner.histories[name].events().len();
        (
            events(&format!("stays in {}", cluster.plan.regions[1].0)),
            events(SLOW),
        )
    };
    found.lines.push(format!(
        "slow watcher: the node holds {} MiB at most, bound {} MiB; {reported} changes; \
         {told} events told to its quick watcher, {slow} to its slow one",
        most / (1024 * 1024),
        BOUND / (1024 * 1024)
    ));
    ensure!(slow < told, "the slow watcher was not slow");
    // However much waited on the way: every node counts what is attached, and nothing else.
    for node in 0..cluster.nodes.len() {
        let why = format!("node {node} lists what is attached");
        let right = async || lists(&cluster, &stand.record, node).await;
        wait_until(why, PATIENCE, right).await?;
    }
    cluster.signal(node, Signal::CONT)?;
    let wrong = stand.end().await?;
    Ok((found, wrong))
}

/// Returns items that attach or detach a connection.
pub(crate) fn changes(channels: &[String], attach: bool) -> Result<Vec<ReportItem>> {
    let mut items = Vec::new();
    for channel in channels {
        let (connection, channel) = ("load".parse()?, channel.parse()?);
        items.push(match attach {
            true => ReportItem::Attach {
                connection,
                channel,
                modes: Modes::DEFAULT,
            },
            false => ReportItem::Detach {
                connection,
                channel,
            },
        });
    }
    Ok(items)
}
