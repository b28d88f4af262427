//! Scenarios: one thing breaks, and how long its effects last is measured.

mod heal;
mod moves;
mod slow;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use headcount_checker::{Allowance, History, Step};
use headcount_model::{ChannelKey, ReportItem, shard_of};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Plan, said, wait_until};
use crate::composed::{GROWING, LEASE, staying, watchers_of};
use crate::edges::{self, Session};
use crate::nemesis::says_why;
use crate::readers;
use crate::record::Record;
use crate::service::opened_within;
use crate::watchers::{self, Watcher};

/// Longest wait for anything in a scenario.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a thing is measured.
const TIMES: usize = 5;

/// Attaches a second while nodes are restarted, in all regions together, and the part of them that
/// must have been offered at least: a few ticks may be late at the end.
const CROWD: usize = 50_000;
const OFFERED_LEAST: f64 = 0.995;

/// How often something new is attached while nodes are restarted.
const PROBES: Duration = Duration::from_millis(100);

/// Entries of a log that is long.
const LONG: u64 = 1_000;

/// What a scenario's name ends with whose victims fall silent instead of being killed.
const SILENT: &str = "-silent";

/// What the names of watchers begin with that are slow on purpose: what they do not read is rolled
/// up.
const SLOW: &str = "slow";

/// The scenarios by name, with what each measures.
pub(crate) const ALL: [(&str, &str); 15] = [
    (
        "ghosts",
        "how long the counts of a killed edge and of a killed node stand",
    ),
    (
        "ghosts-silent",
        "the same of a node that nobody reaches any more",
    ),
    (
        "failover-local",
        "coordinator killed, timing `local`: until events flow again",
    ),
    ("failover-regional", "the same with `regional`"),
    ("failover-wan", "the same with `wan`"),
    (
        "failover-local-silent",
        "the same, `local`, of one that nobody reaches any more",
    ),
    ("failover-regional-silent", "the same with `regional`"),
    ("failover-wan-silent", "the same with `wan`"),
    (
        "moves",
        "all coordinators moved from region to region: what waits for them meanwhile",
    ),
    (
        "region",
        "a region killed: until its counts are gone everywhere",
    ),
    (
        "region-silent",
        "the same of one that nobody reaches any more",
    ),
    (
        "heal",
        "a region cut off while it counts: what it tells meanwhile; until all know, from healing on",
    ),
    ("rolling", "all nodes restarted one by one under load"),
    (
        "disks",
        "full, failing, damaged and torn disks, and a disk that is replaced",
    ),
    (
        "slow",
        "slow readers of every kind, churn and edges at the limit, with bounded memory",
    ),
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
    /// What is wrong besides figures.
    wrong: Vec<String>,
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

    /// Returns the figures as rows of a table, and what is wrong: what took longer than is promised.
    /// On a machine that is slower than the promise supposes, `slack` times as long is allowed.
    pub(crate) fn table(mut self, slack: f64) -> (String, Vec<String>) {
        let (mut table, mut wrong) = (String::new(), self.wrong);
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
            if promised.is_some_and(|promised| most > promised.mul_f64(slack)) {
                wrong.push(format!("{what}: {most:?}, promised {promised:?}"));
            }
        }
        for line in self.lines {
            table += &format!("| {line} | | | | |\n");
        }
        (table, wrong)
    }
}

/// Death: how somebody goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// The processes are killed, and the kernel resets their connections, so that others know at
    /// once.
    Killed,
    /// All ways are cut, as where power is lost: nobody is told anything. The processes go on, and
    /// are zombies once they are reached again.
    Silent,
}

impl Death {
    fn of(scenario: &str) -> Self {
        match scenario.ends_with(SILENT) {
            true => Self::Silent,
            false => Self::Killed,
        }
    }

    fn strike(self, cluster: &Cluster, nodes: &[usize]) -> Result<()> {
        match self {
            Self::Killed => nodes.iter().try_for_each(|node| cluster.kill(*node)),
            Self::Silent => {
                cluster.silence(nodes, true);
                Ok(())
            }
        }
    }

    /// Takes back what was done, and waits until all is whole.
    async fn undo(self, stand: &Stand, nodes: &[usize]) -> Result<()> {
        match self {
            Self::Killed => nodes
                .iter()
                .try_for_each(|node| stand.cluster.start(*node))?,
            Self::Silent => stand.cluster.silence(nodes, false),
        }
        stand.wait_whole(nodes).await
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Silent => "silent",
        }
    }
}

/// How long nodes are believed to live if nobody says otherwise: what is promised after a death is
/// measured with it. Elections of `wan` take about as long as the lease that other runs have.
const DEFAULT_LEASE: Duration = Duration::from_secs(5);

/// Returns what a scenario breaks, whether or not it falls silent.
fn kind(name: &str) -> &str {
    name.strip_suffix(SILENT).unwrap_or(name)
}

/// Returns the plan of a scenario, made from that of composed runs.
pub(crate) fn plan(name: &str, plan: Plan) -> Result<Plan> {
    ensure!(
        ALL.iter().any(|(known, _)| *known == name),
        "no scenario {name:?}; there are {:?}",
        ALL.map(|(name, _)| name)
    );
    let (timing, round_trips_ms) = match kind(name) {
        "failover-local" => ("local", [1, 1, 1]),
        "failover-regional" => ("regional", [40, 80, 80]),
        _ => ("wan", [80, 220, 240]),
    };
    let mut plan = plan;
    set(&mut plan, &format!("cluster.timing = {timing:?}"));
    if matches!(kind(name), "ghosts" | "region") {
        let shortened = ["placement.", "gateway.edge_grace"];
        plan.settings
            .retain(|setting| !shortened.iter().any(|section| setting.starts_with(section)));
        plan.settings.push(format!(
            "gateway.edge_grace = \"{}s\"",
            DEFAULT_LEASE.as_secs()
        ));
    }
    if name == "heal" {
        let lease = heal::LEASE.as_secs();
        set(&mut plan, &format!("placement.lease = \"{lease}s\""));
    }
    if name == "moves" {
        // Only the weights say where coordinators are.
        set(&mut plan, "placement.follow_traffic = false");
    }
    if name == "slow" {
        for setting in slow::SETTINGS {
            set(&mut plan, setting);
        }
    }
    plan.tricks = name == "disks";
    Ok(Plan {
        round_trips_ms,
        ..plan
    })
}

/// Sets what a plan may have set otherwise.
fn set(plan: &mut Plan, setting: &str) {
    let key = |setting: &str| setting.split(" =").next().map(str::to_owned);
    plan.settings.retain(|other| key(other) != key(setting));
    plan.settings.push(setting.to_owned());
}

/// Returns how many nodes each region has in a scenario if nobody says: what is promised of rolling
/// restarts is promised of nine.
pub(crate) fn nodes(name: &str) -> usize {
    if name == "rolling" { 3 } else { 2 }
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

    /// Waits until the cluster is whole, and some nodes that were away have all that was committed
    /// meanwhile: nobody need have noticed that they were.
    async fn wait_whole(&self, away: &[usize]) -> Result<()> {
        self.cluster.wait_whole(PATIENCE).await?;
        for node in away {
            wait_until(format!("node {node} is back"), PATIENCE, async || {
                // Some of these for each shard; none is there, and to look makes none.
                let channels = (0..16).map(|of| format!("nothing:{of}"));
                let reads = channels.map(async |channel| {
                    let read = readers::ask(&self.cluster, *node, &channel, true).await;
                    read.map(drop).map_err(said)
                });
                futures::future::try_join_all(reads).await?;
                Ok(())
            })
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

    /// Lets something go on until the logs of all shards are as long as they are where that is so: a
    /// new leader has to find out how far each is its own. Returns the sessions of who did it, whose
    /// channels stand.
    async fn lengthen(&self) -> Result<Vec<Session>> {
        let (stop, stopped) = watch::channel(false);
        let mut loading = JoinSet::new();
        for region in 0..3 {
            let session =
                self.session(&format!("long-{region}"), &self.cluster.of_region(region))?;
            loading.spawn(edges::flicker(session, stopped.clone()));
        }
        wait_until("all logs are long".to_owned(), PATIENCE, async || {
            let status = self.cluster.status(0).await.map_err(said)?;
            let shards = status["shards"].as_array().ok_or("no shards")?;
            let applied = shards.iter().map(|shard| shard["applied"].as_u64());
            let shortest = applied.min().flatten().ok_or("not all are here")?;
            (shortest >= LONG)
                .then_some(())
                .ok_or_else(|| format!("{shortest} entries"))
        })
        .await?;
        stop.send_replace(true);
        let mut sessions = Vec::new();
        while let Some(loaded) = loading.join_next().await {
            sessions.push(loaded??);
        }
        Ok(sessions)
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
                || name.starts_with(SLOW)
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
    let death = Death::of(name);
    match kind(name) {
        "ghosts" => ghosts(&stand, &mut found, death).await?,
        "failover-local" => {
            failover(&stand, &mut found, death, Duration::from_millis(1_500)).await?;
        }
        "failover-regional" => {
            failover(&stand, &mut found, death, Duration::from_secs(3)).await?;
        }
        "failover-wan" => failover(&stand, &mut found, death, Duration::from_secs(5)).await?,
        "moves" => moves::moves(&stand, &mut found).await?,
        "region" => region(&stand, &mut found, death).await?,
        "heal" => heal::heal(&stand, &mut found).await?,
        "rolling" => rolling(&stand, &mut found).await?,
        "disks" => disks(&stand, &mut found).await?,
        "slow" => return slow::slow(stand, found).await,
        _ => bail!("no scenario {name:?}"),
    }
    let wrong = stand.end().await?;
    Ok((found, wrong))
}

async fn ghosts(stand: &Stand, found: &mut Found, death: Death) -> Result<()> {
    // An edge is no host of its own, whose ways could be cut.
    if death == Death::Killed {
        ghosts_of_edges(stand, found).await?;
    }
    let cluster = &stand.cluster;
    let all: Vec<usize> = (0..cluster.nodes.len()).collect();
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
        death.strike(cluster, &[node])?;
        session.die();
        let others: Vec<usize> = all.iter().copied().filter(|other| *other != node).collect();
        stand.counted(&others, &channel, 0).await?;
        let (what, promised) = match leads {
            // One election and one fresh lease more.
            true => (
                "that led the control group",
                DEFAULT_LEASE * 2 + Duration::from_secs(3),
            ),
            false => ("(lease 5 s)", DEFAULT_LEASE + Duration::from_secs(1)),
        };
        found.took(
            &format!("node {} {what}: its counts are gone", death.as_str()),
            killed.elapsed(),
            Some(promised),
        );
        death.undo(stand, &[node]).await?;
    }
    Ok(())
}

/// Lets edges die whose nodes live.
async fn ghosts_of_edges(stand: &Stand, found: &mut Found) -> Result<()> {
    let cluster = &stand.cluster;
    let all: Vec<usize> = (0..cluster.nodes.len()).collect();
    for turn in 0..TIMES {
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
    Ok(())
}

async fn failover(
    stand: &Stand,
    found: &mut Found,
    death: Death,
    promised: Duration,
) -> Result<()> {
    let cluster = &stand.cluster;
    let _crowds = stand.lengthen().await?;
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
        let watcher = staying(cluster, (region + 1) % 3);
        let killed = Instant::now();
        death.strike(cluster, &[coordinator])?;
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
        let how = death.as_str();
        let what = format!("coordinator {how}, timing `{timing}`: an attach is told as opened");
        found.took(&what, took, Some(promised));
        session.die();
        death.undo(stand, &[coordinator]).await?;
    }
    Ok(())
}

async fn region(stand: &Stand, found: &mut Found, death: Death) -> Result<()> {
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
        death.strike(cluster, &lost)?;
        session.die();
        stand.counted(&left, &channel, 0).await?;
        let (what, promised) = match leads {
            true => (
                "that led the control group",
                DEFAULT_LEASE * 2 + Duration::from_secs(4),
            ),
            false => ("(lease 5 s)", DEFAULT_LEASE + Duration::from_secs(2)),
        };
        found.took(
            &format!("region {} {what}: its counts are gone", death.as_str()),
            killed.elapsed(),
            Some(promised),
        );
        death.undo(stand, &lost).await?;
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
    let come = CROWD * usize::try_from(edges::CROWD_TICK.as_millis())? / 1_000;
    for region in 0..3 {
        let session = stand.session(&format!("load-{region}"), &cluster.of_region(region))?;
        // Thirds that are together as many as are wanted.
        loading.spawn(edges::crowd(session, (come + region) / 3, stopped.clone()));
    }
    let probe = stand.session("probe", &cluster.of_region(0))?;
    let probing = edges::probe(probe, "probe".to_owned(), PROBES, stopped.clone());
    let probing = tokio::spawn(probing);
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
    // Kept until all is judged: what they attached stands.
    let (mut crowds, mut rate) = (Vec::new(), 0.0);
    while let Some(loaded) = loading.join_next().await {
        let (crowd, offered) = loaded??;
        crowds.push(crowd);
        rate += offered;
    }
    found.lines.push(format!(
        "attaches offered meanwhile: {rate:.0} a second, and as many detaches"
    ));
    if rate < CROWD as f64 * OFFERED_LEAST {
        let what = format!("{rate:.0} attaches a second are fewer than were to be offered");
        found.wrong.push(what);
    }
    let (_probe, asked) = probing.await??;
    for region in 0..3 {
        let watcher = staying(cluster, region);
        let p99 = opened_within(&stand.record, &watcher, &asked).await?.p99();
        found.took(
            "rolling restart: event delay of the probes, p99 of each region's watcher",
            p99,
            Some(Duration::from_secs(3)),
        );
        let line = format!("{watcher}: p99 of {} probes {p99:?}", asked.len());
        found.lines.push(line);
    }
    let inner = stand.record.write();
    let stands = |channel: &str| {
        let prefixes = ["standing:", "crowd:", "probe:"];
        prefixes.iter().any(|prefix| channel.starts_with(prefix))
    };
    let mut gone = 0;
    for history in inner.histories.values() {
        let told = history.events().into_iter();
        gone += told
            .filter(|told| stands(&told.channel) && !told.active)
            .count();
    }
    let line = format!(
        "false transitions of 300 standing channels, 300 of the crowd and {} probes: {gone}",
        asked.len()
    );
    if gone > 0 {
        found.wrong.push(line.clone());
    }
    found.lines.push(line);
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

/// Returns items that attach or detach a connection.
pub(crate) fn changes(channels: &[String], attach: bool) -> Result<Vec<ReportItem>> {
    let connection = "load".parse()?;
    let items = channels
        .iter()
        .map(|channel| Ok(edges::turn_of(&connection, &channel.parse()?, attach)));
    items.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns what is wrong with a figure that took so long, of which 6 s are promised.
    fn wrong(most: Duration, slack: f64) -> usize {
        let mut found = Found::default();
        for took in [SECOND, most, SECOND] {
            found.took("it is gone", took, Some(SECOND * 6));
        }
        found.table(slack).1.len()
    }

    #[test]
    fn the_worst_of_a_figure_fails_beyond_the_promise() {
        let longer = Duration::from_millis(1);
        assert_eq!(wrong(SECOND * 6, 1.0), 0);
        assert_eq!(wrong(SECOND * 6 + longer, 1.0), 1);
        assert_eq!(wrong(SECOND * 9, 1.5), 0);
        assert_eq!(wrong(SECOND * 9 + longer, 1.5), 1);
    }

    #[test]
    fn what_nothing_is_promised_of_may_take_long() {
        let mut found = Found::default();
        found.took("it starts", SECOND * 600, None);
        assert_eq!(found.table(1.0).1, Vec::<String>::new());
    }

    #[test]
    fn the_crowds_of_all_regions_are_as_many_as_are_wanted() {
        let tick = edges::CROWD_TICK.as_millis() as usize;
        let come = CROWD * tick / 1_000;
        let all: usize = (0..3).map(|region| (come + region) / 3).sum();
        assert_eq!(all * 1_000 / tick, CROWD);
    }
}
