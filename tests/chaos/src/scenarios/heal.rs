//! A region that is cut off while it counts: what it tells its own meanwhile, and how long it takes
//! until all know once the cut is healed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use headcount_model::{ChannelKey, EventKind, shard_of};

use super::{Found, PATIENCE, Stand};
use crate::cluster::{Cluster, said, wait_until};
use crate::composed::staying;
use crate::edges;
use crate::nemesis::pass;
use crate::readers;

/// How long nodes are believed to live here: longer than it takes until a connection breaks, so that
/// what healing takes is also measured where that is all that happened.
pub(super) const LEASE: Duration = Duration::from_secs(8);

/// The cuts: how long each lasts, and how many channels are attached behind it. The first does not
/// break connections, the next two do, and behind the last a region is dead meanwhile.
const CUTS: [(Duration, u32); 4] = [
    (Duration::from_millis(1_500), 200),
    (Duration::from_secs(6), 200),
    (Duration::from_secs(6), 2_000),
    (Duration::from_secs(14), 200),
];

/// `gossip.interval`: how long counts wait for company.
const INTERVAL: Duration = Duration::from_millis(50);

/// `gossip.batch_items_max`.
const BATCH_ITEMS_MAX: usize = 1_000;

/// `network.connect_timeout`, and the pause before the next try: one that began just before the cut
/// was healed has to fail first, and whoever tried that long pauses no more than that. Where a
/// connection survived, TCP sends again what was lost within as long as the cut lasted.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const CONNECT_AGAIN: Duration = Duration::from_millis(50);

/// Round trips in which a connection and its streams are opened.
const OPEN_TRIPS: u32 = 2;

/// Heartbeat of the timing `wan`: by the first one an owner hears who coordinates its shard now.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// What openraft pauses after an append that could not be sent: a replica gets entries again by
/// then, if not by a heartbeat that says what it lacks.
const APPEND_AGAIN: Duration = Duration::from_millis(500);

/// Round trips in which a leader finds out where a replica's log ends, before it sends what follows.
const PROBE_TRIPS: u32 = 1;

/// Round trips of another life: a renewal that is refused; the registration, and its commit; the
/// ownership's commit, and word of it; the claim, and its commit.
const LIFE_TRIPS: u32 = 7;

/// What the reader may be late: a pause between two looks, and a look at three channels on all nodes.
const LOOK: Duration = Duration::from_millis(100);

/// `network.keep_alive_interval` and `keep_alive_timeout`: how long a dead way may go unnoticed.
const NOTICE: Duration = Duration::from_secs(3);

/// What an age may be younger than the cut: what was on its way then still came, and clocks are read
/// twice.
const ON_ITS_WAY: Duration = Duration::from_millis(250);

/// Bound: what healing may take, part by part.
struct Bound(Vec<(&'static str, Duration)>);

impl Bound {
    /// Two gossip intervals and a round trip per batch are the promise; the others are what real
    /// connections need before that begins.
    fn new(round_trip: Duration, batches: u32, lasts: Duration) -> Self {
        // A way that is not known to be dead yet has to be found dead first.
        let connection = match NOTICE.checked_sub(lasts) {
            Some(unnoticed) => ("a dead way is noticed", unnoticed),
            None => ("a try to connect that fails", CONNECT_TIMEOUT),
        };
        let mut parts = vec![
            ("two gossip intervals", INTERVAL * 2),
            ("a round trip per batch", round_trip * batches),
            ("the last one's commit", round_trip),
            connection,
            ("the pause after it", CONNECT_AGAIN),
            ("opening", round_trip * OPEN_TRIPS),
            ("a heartbeat", HEARTBEAT),
            ("the next append", APPEND_AGAIN),
            ("a probe", round_trip * PROBE_TRIPS),
            ("the reader", LOOK),
        ];
        if lasts > LEASE {
            parts.push(("another life", round_trip * LIFE_TRIPS));
        }
        Self(parts)
    }

    fn total(&self) -> Duration {
        self.0.iter().map(|(_, time)| *time).sum()
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self
            .0
            .iter()
            .map(|(part, time)| format!("{part} {:.2} s", time.as_secs_f64()));
        f.write_str(&parts.collect::<Vec<_>>().join(" + "))
    }
}

/// Returns how many batches the channels of one shard take at most.
fn batches(channels: &[String], shards: u32) -> Result<u32> {
    let mut by_shard: BTreeMap<u32, usize> = BTreeMap::new();
    for channel in channels {
        let shard = shard_of(&ChannelKey::new("chaos", channel)?, shards);
        *by_shard.entry(shard.0).or_default() += 1;
    }
    let most = by_shard.into_values().max().unwrap_or_default();
    Ok(u32::try_from(most.div_ceil(BATCH_ITEMS_MAX))?)
}

/// A cut that lasts.
struct Cut<'a> {
    stand: &'a Stand,
    region: usize,
    begun: Instant,
    lasts: Duration,
}

pub(super) async fn heal(stand: &Stand, found: &mut Found) -> Result<()> {
    let cluster = &stand.cluster;
    let all: Vec<usize> = (0..cluster.nodes.len()).collect();
    let round_trip = cluster.plan.round_trips_ms.into_iter().max();
    let round_trip = Duration::from_millis(round_trip.unwrap_or_default());
    let shards = cluster.leaders(&cluster.status(0).await?).len();
    for (turn, (lasts, count)) in CUTS.into_iter().enumerate() {
        let region = turn % 3;
        let session = stand.session(&format!("edge-{turn}"), &cluster.of_region(region))?;
        let first = format!("heal:{turn}:first");
        ensure!(
            edges::attach(&session, std::slice::from_ref(&first)).await?,
            "not counted"
        );
        stand.counted(&all, &first, 1).await?;
        let channels: Vec<String> = (0..count).map(|of| format!("heal:{turn}:{of}")).collect();
        let sampled = [
            &channels[0],
            &channels[channels.len() / 2],
            &channels[channels.len() - 1],
        ];

        set_cut(cluster, region, true);
        let cut = Cut {
            stand,
            region,
            begun: Instant::now(),
            lasts,
        };
        ensure!(
            edges::attach(&session, &channels).await?,
            "a region that is cut off counts on"
        );
        cut.tells(&sampled).await?;
        // The first channel, too.
        cut.counts(count + 1).await?;
        let mut read = cut.reads(&first).await;
        pass(lasts.saturating_sub(cut.begun.elapsed())).await;
        if read.is_ok() {
            read = cut.reads(&first).await;
        }
        // How long healing takes is measured all the same.
        found.wrong.extend(read.err().map(|why| why.to_string()));
        set_cut(cluster, region, false);

        let healed = Instant::now();
        for channel in sampled {
            stand.counted(&all, channel, 1).await?;
        }
        let took = healed.elapsed();
        let batches = batches(&channels, u32::try_from(shards)?)?;
        let bound = Bound::new(round_trip, batches, lasts);
        let what = format!("cut off for {lasts:?} with {count} channels: all know, after healing");
        found.lines.push(format!("{what}: {bound}"));
        found.took(&what, took, Some(bound.total()));
        session.die();
        stand.wait_whole(&cluster.of_region(region)).await?;
    }
    Ok(())
}

/// Cuts a region off from the others, or joins it again.
fn set_cut(cluster: &Cluster, region: usize, cut: bool) {
    for inside in cluster.of_region(region) {
        let outside = (0..cluster.nodes.len()).filter(|node| cluster.nodes[*node].region != region);
        for outside in outside {
            for (from, to) in [(inside, outside), (outside, inside)] {
                cluster.fabric.set(from, to, |quality| quality.cut = cut);
            }
        }
    }
}

impl Cut<'_> {
    /// Waits until the region's own watcher is told that channels are active there, with the counts
    /// that the region has.
    async fn tells(&self, channels: &[&String]) -> Result<()> {
        let cluster = &self.stand.cluster;
        let name = &cluster.plan.regions[self.region].0;
        let watcher = staying(cluster, self.region);
        let why = "what is attached behind a cut is active there";
        let told = self.stand.told(&watcher, why, |history| {
            channels.iter().all(|channel| {
                let told = history.of(channel);
                let active = told
                    .iter()
                    .find(|told| told.kind == EventKind::RegionActive && told.region == *name);
                active.is_some_and(|told| told.occupancy.counts()[0] == 1)
            })
        });
        told.await?;
        Ok(())
    }

    /// Waits until the region's nodes count so many attachments together. Reads answer from the
    /// log, which a region that is cut off cannot add to.
    async fn counts(&self, attachments: u32) -> Result<()> {
        let cluster = &self.stand.cluster;
        wait_until("all is counted behind a cut", PATIENCE, async || {
            let mut counted = 0.0;
            for node in cluster.of_region(self.region) {
                let here = cluster.metric(node, "gateway_attachments").await;
                counted += here.map_err(said)?;
            }
            let is = (counted - f64::from(attachments)).abs() < 0.5;
            is.then_some(()).ok_or_else(|| counted.to_string())
        })
        .await
    }

    /// Waits until the region's nodes answer with what was counted before the cut, with an age that
    /// is no younger than the cut, so that it grows with it, and, once dead ways must have been
    /// noticed, with the names of the regions that are missing.
    async fn reads(&self, channel: &str) -> Result<()> {
        let cluster = &self.stand.cluster;
        let regions = cluster.plan.regions.iter().enumerate();
        let others = regions.filter(|(region, _)| *region != self.region);
        let others: BTreeSet<String> = others.map(|(_, (name, _))| name.clone()).collect();
        for node in cluster.of_region(self.region) {
            // A look takes a moment also where the cut is over.
            let left = self.lasts.saturating_sub(self.begun.elapsed());
            let left = left.max(Duration::from_secs(1));
            let why = format!("node {node} says what it lacks behind a cut");
            wait_until(why, left, async || {
                let lasted = self.begun.elapsed();
                let answer = readers::ask(cluster, node, channel, false).await;
                let answer = answer.map_err(said)?;
                let counts = answer.occupancy.counts()[0];
                let is_old = answer.age + ON_ITS_WAY >= lasted;
                let is_named = self.lasts <= NOTICE || answer.unheard == others;
                (counts == 1 && is_old && is_named)
                    .then_some(())
                    .ok_or_else(|| {
                        let (age, unheard) = (answer.age, answer.unheard);
                        format!(
                            "{counts} counted, {age:?} old after {lasted:?}, missing {unheard:?}"
                        )
                    })
            })
            .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_the_sum_of_its_parts() {
        let round_trip = Duration::from_millis(240);
        let after = |cut| move |batches| Bound::new(round_trip, batches, Duration::from_secs(cut));
        // 0.1 + 0.24 + 0.24, 0.5 + 0.05 + 0.48 until connections work, 0.5 + 0.5 + 0.24 until all
        // is known, and 0.1 for the reader.
        let bound = after(6)(1);
        assert_eq!(bound.total(), Duration::from_millis(2_950));
        assert_eq!(after(6)(2).total() - bound.total(), round_trip);
        // A way that lasted a second of the cut may seem to live for two more.
        let unnoticed = after(1)(1).total() - bound.total();
        assert_eq!(unnoticed, Duration::from_millis(1_500));
        let dead = after(14)(1).total() - bound.total();
        assert_eq!(dead, round_trip * 7);
        assert!(
            bound
                .to_string()
                .starts_with("two gossip intervals 0.10 s + ")
        );
    }

    #[test]
    fn batches_are_those_of_the_fullest_shard() {
        let channels: Vec<String> = (0..2_000).map(|of| format!("heal:0:{of}")).collect();
        assert_eq!(batches(&channels, 4).ok(), Some(1));
        assert_eq!(batches(&channels, 1).ok(), Some(2));
        assert_eq!(batches(&[], 4).ok(), Some(0));
    }
}
