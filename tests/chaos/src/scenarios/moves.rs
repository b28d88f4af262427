//! Coordinators that move on purpose: what waits for them meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Found, PATIENCE, PROBES, Stand};
use crate::cluster::{said, wait_until};
use crate::composed::staying;
use crate::edges;
use crate::service::{opened_within, read_strongly};

/// How often all coordinators move.
const MOVES: usize = 6;

/// Within which an attach is told as opened that meets a coordinator which moves, `wan`: the half
/// second that it takes in peace, and the four longest round trips in which another one begins.
const OPENED: Duration = Duration::from_millis(1_500);

/// Moves all coordinators from region to region, while channels are opened and read strongly in all
/// regions.
pub(super) async fn moves(stand: &Stand, found: &mut Found) -> Result<()> {
    let cluster = &stand.cluster;
    let _crowds = stand.lengthen().await?;
    let (stop, stopped) = watch::channel(false);
    let (mut probing, mut reading) = (JoinSet::new(), JoinSet::new());
    let mut standing = Vec::new();
    for region in 0..3 {
        let nodes = cluster.of_region(region);
        let session = stand.session(&format!("standing-{region}"), &nodes)?;
        let channels: Vec<String> = (0..8).map(|of| format!("standing:{region}:{of}")).collect();
        anyhow::ensure!(edges::attach(&session, &channels).await?, "not counted");
        standing.push(session);
        let session = stand.session(&format!("probe-{region}"), &nodes)?;
        let name = format!("probe:{region}");
        probing.spawn(edges::probe(session, name, PROBES, stopped.clone()));
        let (cluster, stopped) = (cluster.clone(), stopped.clone());
        reading.spawn(read_strongly(cluster, nodes[0], channels, PROBES, stopped));
    }
    let regions = &cluster.plan.regions;
    let all: Vec<usize> = (0..cluster.nodes.len()).collect();
    for turn in 0..MOVES {
        let home = &regions[turn % regions.len()].0;
        let weights = regions
            .iter()
            .map(|(region, _)| format!("{region}={}", u8::from(region == home)));
        let weights: Vec<String> = weights.collect();
        let weights = weights.iter().map(String::as_str);
        let order: Vec<&str> = std::iter::once("weights").chain(weights).collect();
        let begun = Instant::now();
        cluster.operate(0, &order)?;
        let why = format!("{home} coordinates all");
        wait_until(why, PATIENCE, async || {
            let status = cluster.status(0).await.map_err(said)?;
            let leaders = cluster.leaders(&status);
            let at_home = |node: &usize| regions[cluster.nodes[*node].region].0 == *home;
            let all = status["cluster"]["shards"].as_u64().ok_or("no shards")?;
            let there = leaders.values().filter(|node| at_home(node)).count() as u64;
            (there == all)
                .then_some(())
                .ok_or_else(|| format!("{leaders:?}"))
        })
        .await?;
        let what = "all coordinators moved to another region, from the order on";
        found.took(what, begun.elapsed(), None);
        // One move at a time.
        stand.wait_whole(&all).await?;
    }
    stop.send_replace(true);
    let (mut probes, mut asked) = (Vec::new(), Vec::new());
    while let Some(probed) = probing.join_next().await {
        let (session, those) = probed??;
        probes.push(session);
        asked.extend(those);
    }
    let (mut reads, mut refused) = (Vec::new(), 0);
    while let Some(read) = reading.join_next().await {
        let (delays, wrong) = read??;
        reads.extend(delays);
        refused += wrong.len();
        found.wrong.extend(wrong);
    }
    for region in 0..3 {
        let watcher = staying(cluster, region);
        let delays = opened_within(&stand.record, &watcher, &asked).await?;
        found.took(
            "coordinators move: event delay of the probes, the longest of each region's watcher",
            delays.most(),
            Some(OPENED),
        );
    }
    let slowest = reads.iter().max().context("nothing was read strongly")?;
    found.lines.push(format!(
        "{} probes; {} strong reads answered, the slowest after {slowest:?}, {refused} refused",
        asked.len(),
        reads.len()
    ));
    Ok(())
}
