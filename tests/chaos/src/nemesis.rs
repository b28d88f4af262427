//! The nemesis: breaks things as planned, puts them right again, and writes down what that excuses.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use headcount_checker::At;
use rustix::process::Signal;

use crate::cluster::{Cluster, Trick, wait_until};
use crate::plan::{Kind, Strike};
use crate::record::Record;
use crate::service::Outage;

/// How long a node may take to notice that its disk fails.
const NOTICE: Duration = Duration::from_secs(20);

/// How long a strike waits for its victim.
const VICTIM: Duration = Duration::from_secs(20);

/// The nemesis of one run.
pub(crate) struct Nemesis {
    cluster: Arc<Cluster>,
    record: Arc<Record>,
    lease: Duration,
    /// How long after a fault was put right its effects may last.
    recovery: Duration,
    struck: Mutex<Struck>,
}

#[derive(Default)]
struct Struck {
    /// Nodes whose process is being dealt with.
    nodes: BTreeSet<usize>,
    /// Whether the ways are being dealt with, so that healing one fault does not heal another.
    ways: bool,
}

/// What a strike has taken for itself.
struct Taken<'a> {
    nemesis: &'a Nemesis,
    nodes: Vec<usize>,
    ways: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut struck = lock(&self.nemesis.struck);
        struck.nodes.retain(|node| !self.nodes.contains(node));
        struck.ways &= !self.ways;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks that a node that ended by itself says with its last word why; `before` is how long its
/// log was when it was struck. Returns that line.
pub(crate) fn says_why(cluster: &Cluster, node: usize, before: usize) -> Result<String> {
    let log = cluster.log(node);
    let said = log.get(before..).unwrap_or_default();
    let why = last_word(said).filter(|line| tells_of_a_disk(line));
    let why = why.with_context(|| format!("node {node} does not say why it ended: {said}"))?;
    Ok(why.to_owned())
}

/// Returns the error with which a process ends, if it told any: errors on the way there, and
/// whatever else is logged, may be of other things.
fn last_word(said: &str) -> Option<&str> {
    let mut lines = said.lines().rev();
    let is_error = |line: &&str| {
        let level = line.split_whitespace().nth(1);
        line.starts_with("error: ") || level == Some("ERROR")
    };
    lines.find(is_error)
}

/// Returns whether an error names what the system refused, or what is damaged.
fn tells_of_a_disk(error: &str) -> bool {
    let reasons = [
        "os error ",
        "is damaged at ",
        "is missing: ",
        "cannot read ",
    ];
    reasons.iter().any(|reason| error.contains(reason))
}

/// Lets time pass: that of a fault, or of its rhythm.
pub(crate) async fn pass(time: Duration) {
    // allow-sleep: faults last as long as planned
    tokio::time::sleep(time).await;
}

impl Nemesis {
    /// Makes a nemesis that breaks nothing yet.
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        record: Arc<Record>,
        lease: Duration,
        recovery: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            cluster,
            record,
            lease,
            recovery,
            struck: Mutex::default(),
        })
    }

    /// Returns which kinds can be had here, and why not the others.
    pub(crate) fn possible(cluster: &Cluster) -> (Vec<Kind>, Vec<String>) {
        let has = |trick| cluster.nodes.iter().any(|node| node.trick == trick);
        let (mut kinds, mut missing) = (Kind::ALL.to_vec(), Vec::new());
        let mut lacks = |kind: Kind, there: bool, why: &str| {
            if !there {
                kinds.retain(|other| *other != kind);
                missing.push(format!("no {}: {why}", kind.as_str()));
            }
        };
        lacks(
            Kind::ClockStep,
            has(Trick::Clock),
            "faketime is not installed",
        );
        lacks(
            Kind::SyncError,
            has(Trick::Disk),
            "fiu-utils is not installed",
        );
        let bounded = cluster
            .bound_memory(0, u64::MAX / 2)
            .is_ok_and(|bounded| bounded);
        lacks(Kind::Squeeze, bounded, "control groups cannot be written");
        (kinds, missing)
    }

    /// Strikes as planned; returns when everything is put right again.
    pub(crate) async fn run(self: &Arc<Self>, strikes: &[Strike]) -> Result<()> {
        let start = tokio::time::Instant::now();
        let all = strikes.iter().map(|strike| async move {
            // allow-sleep: the plan says when
            tokio::time::sleep_until(start + strike.at).await;
            let struck = self.strike(strike).await;
            struck.with_context(|| format!("while breaking: {}", strike.kind.as_str()))
        });
        futures::future::try_join_all(all).await.map(drop)
    }

    /// Takes nodes that nobody deals with, those first for which `wanted` is higher.
    fn take(&self, count: usize, wanted: impl Fn(usize) -> Option<u32>) -> Option<Taken<'_>> {
        let mut struck = lock(&self.struck);
        let nodes = 0..self.cluster.nodes.len();
        let free = nodes.filter(|node| !struck.nodes.contains(node));
        let mut nodes: Vec<_> = free
            .filter_map(|node| Some((wanted(node)?, node)))
            .collect();
        nodes.sort_unstable();
        let nodes: Vec<usize> = nodes
            .into_iter()
            .rev()
            .take(count)
            .map(|(_, node)| node)
            .collect();
        if nodes.len() < count {
            return None;
        }
        struck.nodes.extend(&nodes);
        Some(Taken {
            nemesis: self,
            nodes,
            ways: false,
        })
    }

    fn take_ways(&self) -> Option<Taken<'_>> {
        let mut struck = lock(&self.struck);
        if std::mem::replace(&mut struck.ways, true) {
            return None;
        }
        Some(Taken {
            nemesis: self,
            nodes: Vec::new(),
            ways: true,
        })
    }

    /// Writes down what a fault that is over excuses, until its effects must be over, too.
    fn excuse(&self, from: At, voids: &[usize]) {
        let now = self.record.now();
        let mut inner = self.record.write();
        inner.ledger.late(from, now + self.recovery);
        // Who was not heard just before the end may be called dead just after it.
        let to = now + self.lease * 2;
        for region in voids {
            let name = &self.cluster.plan.regions[*region].0;
            inner.ledger.may_void(name, from, to);
        }
    }

    /// Returns the node that leads the control group.
    async fn control_leader(&self) -> Option<usize> {
        let status = self.cluster.any_status().await?;
        let leader = status["control"]["leader"]["node"].as_u64()?;
        self.cluster.index_of(&status, leader)
    }

    /// Returns a node that owns some shard of its region.
    async fn owner(&self, dice: u32) -> Option<usize> {
        let status = self.cluster.any_status().await?;
        let shards = status["shards"].as_array()?;
        let owners = shards.iter().flat_map(|shard| shard["owners"].as_array());
        let owners: Vec<u64> = owners
            .flatten()
            .filter_map(|owner| owner["node"].as_u64())
            .collect();
        let owner = owners.get(dice as usize % owners.len().max(1))?;
        self.cluster.index_of(&status, *owner)
    }

    /// Takes what a strike needs, if nobody deals with it.
    async fn victim(&self, kind: Kind, region: usize, dice: u32) -> Option<Taken<'_>> {
        // A stable order of nodes for these dice.
        let drawn = |node: usize| Some((node as u32).wrapping_mul(0x9e37_79b9) ^ dice);
        let nodes = &self.cluster.nodes;
        match kind {
            Kind::Kill | Kind::Pause | Kind::Stutter | Kind::DiskFull | Kind::Squeeze => {
                self.take(1, drawn)
            }
            Kind::ClockStep => self.take(1, |node| {
                drawn(node).filter(|_| nodes[node].trick == Trick::Clock)
            }),
            Kind::SyncError => self.take(1, |node| {
                drawn(node).filter(|_| nodes[node].trick == Trick::Disk)
            }),
            Kind::KillLeader | Kind::PauseLeader => {
                let leader = self.control_leader().await;
                self.take(1, |node| (Some(node) == leader).then_some(0))
            }
            Kind::PauseOwner => {
                let owner = self.owner(dice).await;
                self.take(1, |node| (Some(node) == owner).then_some(0))
            }
            Kind::KillRegion => {
                let here = self.cluster.of_region(region);
                self.take(here.len(), |node| here.contains(&node).then_some(0))
            }
            Kind::KillAll => self.take(nodes.len(), drawn),
            Kind::CutRegion
            | Kind::CutOneWay
            | Kind::CutBridge
            | Kind::CutLeader
            | Kind::Flap
            | Kind::Loss
            | Kind::Distance
            | Kind::Narrow => self.take_ways(),
        }
    }

    async fn strike(&self, strike: &Strike) -> Result<()> {
        let Strike {
            kind, lasts, dice, ..
        } = strike;
        let region = *dice as usize % self.cluster.plan.regions.len();
        // Its victim may be somebody else's just now.
        let waiting = wait_until("a victim", VICTIM, async || {
            let taken = self.victim(*kind, region, *dice).await;
            taken.ok_or_else(|| "struck already".to_owned())
        });
        let Ok(taken) = waiting.await else {
            self.record.say(format!(
                "skip  {}: its victim is struck already",
                kind.as_str()
            ));
            return Ok(());
        };
        self.record.say(format!(
            "break {} {:?} for {lasts:?}",
            kind.as_str(),
            taken.nodes
        ));
        let from = self.record.now();
        match kind {
            Kind::Kill | Kind::KillLeader | Kind::KillRegion | Kind::KillAll => {
                self.down(&taken.nodes, *lasts, *kind).await?;
            }
            Kind::Pause | Kind::PauseOwner | Kind::PauseLeader => {
                self.pause(taken.nodes[0], *lasts).await?;
            }
            Kind::Stutter => self.stutter(taken.nodes[0], *lasts).await?,
            Kind::CutRegion | Kind::CutOneWay | Kind::CutBridge | Kind::CutLeader | Kind::Flap => {
                self.cut(*kind, region, *lasts).await?;
            }
            Kind::Loss | Kind::Distance | Kind::Narrow => {
                self.degrade(*kind, *dice, *lasts).await;
            }
            Kind::ClockStep => self.step_clock(taken.nodes[0], *dice, *lasts).await?,
            Kind::SyncError => self.fail_syncs(taken.nodes[0], *lasts).await?,
            Kind::DiskFull => self.fill_disk(taken.nodes[0], *lasts).await?,
            Kind::Squeeze => self.squeeze(taken.nodes[0], *lasts).await?,
        }
        let regions = taken.nodes.iter();
        let regions = regions.map(|node| self.cluster.nodes[*node].region);
        let outage = Outage {
            regions: regions.collect(),
            from,
            to: self.record.now() + self.recovery,
        };
        {
            let mut inner = self.record.write();
            inner.outages.push(outage);
            *inner.counts.entry(kind.as_str()).or_default() += 1;
        }
        self.record
            .say(format!("heal  {} {:?}", kind.as_str(), taken.nodes));
        Ok(())
    }

    fn regions(&self) -> std::ops::Range<usize> {
        0..self.cluster.plan.regions.len()
    }

    /// Returns what the loss of nodes takes away: regions of which no node is left, as far as is
    /// known, and those whose node was the other one's refuge.
    fn voided(&self, down: &[usize]) -> Vec<usize> {
        let struck = lock(&self.struck);
        let regions = 0..self.cluster.plan.regions.len();
        let lost = regions.filter(|region| {
            let here = self.cluster.of_region(*region);
            let hit = here.iter().any(|node| down.contains(node));
            // Also where other faults hit the region's other nodes.
            hit && here
                .iter()
                .all(|node| down.contains(node) || struck.nodes.contains(node))
        });
        lost.collect()
    }

    async fn down(&self, nodes: &[usize], lasts: Duration, kind: Kind) -> Result<()> {
        let (voids, ways) = (self.voided(nodes), lock(&self.struck).ways);
        let from = self.record.now();
        nodes.iter().try_for_each(|node| self.cluster.kill(*node))?;
        pass(lasts).await;
        let also = self.voided(nodes);
        nodes
            .iter()
            .try_for_each(|node| self.cluster.start(*node))?;
        self.wait_ready(nodes).await?;
        // Who comes back within its lease, and whose region was never without a node, is missed by
        // nobody; neither is a cluster that was down as a whole, since nobody could judge the others.
        // Where ways are broken as well, nodes may be heard of too late for that.
        let voids: Vec<usize> = match (kind, ways || lock(&self.struck).ways) {
            (Kind::KillAll, false) => Vec::new(),
            (Kind::KillAll, true) => self.regions().collect(),
            _ => voids.into_iter().chain(also).collect(),
        };
        self.excuse(from, &voids);
        Ok(())
    }

    /// Waits until nodes that were started serve again.
    async fn wait_ready(&self, nodes: &[usize]) -> Result<()> {
        for node in nodes {
            wait_until(
                format!("node {node} lives again"),
                Duration::from_secs(60),
                async || {
                    if let Ok(Some(status)) = self.cluster.ended(*node) {
                        return Err(format!("it ended again: {status}"));
                    }
                    // That it answers is enough here: whether it is ready may be another fault's doing.
                    let answer = self.cluster.admin(*node, "/healthz").await;
                    answer.map(drop).map_err(|error| error.to_string())
                },
            )
            .await?;
        }
        Ok(())
    }

    async fn pause(&self, node: usize, lasts: Duration) -> Result<()> {
        let region = self.cluster.nodes[node].region;
        let long = lasts >= self.lease / 2;
        let voids = if long {
            vec![region]
        } else {
            self.voided(&[node])
        };
        let from = self.record.now();
        self.cluster.signal(node, Signal::STOP)?;
        pass(lasts).await;
        self.cluster.signal(node, Signal::CONT)?;
        self.excuse(from, &voids);
        Ok(())
    }

    async fn stutter(&self, node: usize, lasts: Duration) -> Result<()> {
        let voids = self.voided(&[node]);
        let from = self.record.now();
        let until = tokio::time::Instant::now() + lasts;
        while tokio::time::Instant::now() < until {
            self.cluster.signal(node, Signal::STOP)?;
            pass(Duration::from_millis(120)).await;
            self.cluster.signal(node, Signal::CONT)?;
            pass(Duration::from_millis(120)).await;
        }
        self.excuse(from, &voids);
        Ok(())
    }

    /// Cuts or joins ways, one direction at a time.
    fn set_cut(&self, cut: bool, between: impl Fn(usize, usize) -> bool) {
        for from in 0..self.cluster.nodes.len() {
            for to in 0..self.cluster.nodes.len() {
                if from != to && between(from, to) {
                    self.cluster
                        .fabric
                        .set(from, to, |quality| quality.cut = cut);
                }
            }
        }
    }

    async fn cut(&self, kind: Kind, region: usize, lasts: Duration) -> Result<()> {
        let regions = self.cluster.plan.regions.len();
        let of = |node: usize| self.cluster.nodes[node].region;
        let other = (region + 1) % regions;
        let leader = self.control_leader().await;
        let leads = leader.map(of);
        let leader = leader.unwrap_or_default();
        let between = |from: usize, to: usize| {
            let (out, back) = (of(from) == region, of(to) == region);
            match kind {
                Kind::CutOneWay => out && !back,
                Kind::CutBridge => (out && of(to) == other) || (back && of(from) == other),
                Kind::CutLeader => from == leader || to == leader,
                _ => out != back,
            }
        };
        let mut voids = match kind {
            Kind::CutBridge => vec![region, other],
            Kind::CutLeader => vec![of(leader)],
            _ => vec![region],
        };
        // Where the leader of the control group is behind the cut, all others are not heard by it
        // either; and between two cuts it may act on that without ever losing its majority.
        if kind == Kind::Flap || leads.is_none_or(|leads| voids.contains(&leads)) {
            voids = self.regions().collect();
        }
        let from = self.record.now();
        if kind == Kind::Flap {
            let until = tokio::time::Instant::now() + lasts;
            while tokio::time::Instant::now() < until {
                self.set_cut(true, between);
                pass(Duration::from_millis(350)).await;
                self.set_cut(false, between);
                pass(Duration::from_millis(350)).await;
            }
        } else {
            self.set_cut(true, between);
            pass(lasts).await;
        }
        self.cluster.heal_ways();
        self.excuse(from, &voids);
        Ok(())
    }

    async fn degrade(&self, kind: Kind, dice: u32, lasts: Duration) {
        let loss = [5, 15, 30][dice as usize % 3];
        let all: Vec<usize> = self.regions().collect();
        // What a lease needs may be lost, or wait behind what else is sent.
        let voids = match kind {
            Kind::Loss if loss > 5 => all,
            Kind::Narrow => all,
            _ => Vec::new(),
        };
        let from = self.record.now();
        let nodes = self.cluster.nodes.len();
        for (here, there) in (0..nodes).flat_map(|here| (0..nodes).map(move |there| (here, there)))
        {
            let apart = self.cluster.nodes[here].region != self.cluster.nodes[there].region;
            self.cluster.fabric.set(here, there, |quality| match kind {
                Kind::Loss => quality.loss_percent = loss,
                // 1 Mbit/s.
                Kind::Narrow if apart => quality.bytes_per_second = 125_000,
                Kind::Distance if apart => {
                    quality.delay = Duration::from_millis(150);
                    quality.jitter = Duration::from_millis(40);
                    quality.twice_percent = 1;
                    quality.overtaken_percent = 1;
                }
                _ => {}
            });
        }
        pass(lasts).await;
        self.cluster.heal_ways();
        self.excuse(from, &voids);
    }

    async fn step_clock(&self, node: usize, dice: u32, lasts: Duration) -> Result<()> {
        let offset = [3_600, -3_600, 2, -2][dice as usize % 4];
        // Nothing at all is excused: no promise hangs on a wall clock. What is decided at that very
        // moment may be late.
        let from = self.record.now();
        self.cluster.set_clock(node, offset)?;
        pass(lasts).await;
        self.cluster.set_clock(node, 0)?;
        self.excuse(from, &[]);
        Ok(())
    }

    /// Waits until a node ends by itself, with a reason in its log, which was `before` bytes long
    /// when its disk failed.
    async fn wait_stopped(&self, node: usize, reason: &str, before: usize) -> Result<()> {
        let ended = wait_until(format!("node {node} stops: {reason}"), NOTICE, async || {
            let ended = self
                .cluster
                .ended(node)
                .map_err(|error| error.to_string())?;
            ended.ok_or_else(|| "it goes on".to_owned())
        });
        let status = ended.await?;
        if status.success() {
            bail!("node {node} ended as if all were well although its disk failed");
        }
        says_why(&self.cluster, node, before)?;
        self.record.count("nodes stopped by their disk");
        Ok(())
    }

    async fn fail_syncs(&self, node: usize, lasts: Duration) -> Result<()> {
        let voids = self.voided(&[node]);
        let from = self.record.now();
        let before = self.cluster.log(node).len();
        self.cluster.fail_syncs(node, true)?;
        self.wait_stopped(node, "its syncs fail", before).await?;
        pass(lasts).await;
        self.back(node, from, voids).await
    }

    async fn fill_disk(&self, node: usize, lasts: Duration) -> Result<()> {
        let voids = self.voided(&[node]);
        let from = self.record.now();
        let before = self.cluster.log(node).len();
        self.cluster.fill(node)?;
        self.wait_stopped(node, "its disk is full", before).await?;
        pass(lasts).await;
        self.cluster.unfill(node)?;
        self.back(node, from, voids).await
    }

    async fn squeeze(&self, node: usize, lasts: Duration) -> Result<()> {
        let voids = self.voided(&[node]);
        let from = self.record.now();
        self.cluster.squeeze(node, 60)?;
        pass(lasts).await;
        if self.cluster.ended(node)?.is_some() {
            self.record.count("nodes killed for memory");
            return self.back(node, from, voids).await;
        }
        self.cluster.unbound_memory(node)?;
        self.excuse(from, &voids);
        Ok(())
    }

    /// Starts a node that ended, on what it left.
    async fn back(&self, node: usize, from: At, mut voids: Vec<usize>) -> Result<()> {
        voids.extend(self.voided(&[node]));
        self.cluster.start(node)?;
        self.wait_ready(&[node]).await?;
        self.excuse(from, &voids);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_says_with_its_last_word_why_it_ended() {
        let full = "2026-11-26T14:39:57.2Z ERROR node: the node must stop reason=\"the store failed: \
                    cannot write the log: No space left on device (os error 28)\"\n\
                    2026-11-26T14:39:57.3Z  INFO consensus: a group ended\n\
                    error: the node had to stop: the store failed: cannot write the log: No space \
                    left on device (os error 28)\n";
        let word = last_word(full).expect("it says something");
        assert!(word.starts_with("error: the node had to stop: "), "{word}");
        assert!(tells_of_a_disk(word));

        let word = last_word(
            "error: log/0.log is damaged at byte 7: no such record; \
                              the store is not opened",
        );
        assert!(word.is_some_and(tells_of_a_disk));
    }

    #[test]
    fn what_is_said_on_the_way_is_no_reason() {
        let busy = "2026-11-26T14:39:57.2Z  WARN consensus: the store is slow (os error 11)\n\
                    2026-11-26T14:39:57.3Z ERROR node: the store did not close cleanly\n";
        let word = last_word(busy).expect("it says something");
        assert!(!tells_of_a_disk(word), "{word}");
        assert_eq!(
            last_word("2026-11-26T14:39:57.2Z  INFO store: opened\n"),
            None
        );
    }
}
