//! Readers: ask nodes how many are where, and write down what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use headcount_checker::Sample;
use headcount_checker::linear::{Call, Op};
use headcount_checker::sessions::Seen;
use headcount_model::{ChannelDetails, Modes, Occupancy};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

use crate::cluster::{Cluster, KEY};
use crate::edges::category;
use crate::record::Record;
use crate::service::ANSWER;

/// How much an admitted age may be off: it is told in milliseconds, and clocks are read twice.
const AGE_SLACK: Duration = Duration::from_millis(50);

/// What a node said.
pub(crate) struct Answer {
    pub(crate) occupancy: Occupancy,
    /// How old that is.
    pub(crate) age: Duration,
    /// The regions that it does not hear.
    pub(crate) unheard: BTreeSet<String>,
}

/// Asks a node about a channel: as it has it, or strongly.
pub(crate) async fn ask(
    cluster: &Cluster,
    node: usize,
    channel: &str,
    strong: bool,
) -> Result<Answer> {
    let base = cluster.client(node);
    let consistency = if strong { "?consistency=strong" } else { "" };
    let url = format!(
        "{base}/channels/{}{consistency}",
        channel.replace(':', "%3A")
    );
    let (user, secret) = KEY.split_once(':').context("a key has a secret")?;
    let request = cluster.http.get(url).basic_auth(user, Some(secret));
    let answer = request.timeout(ANSWER).send().await?;
    let status = answer.status();
    let header = |name| answer.headers().get(name)?.to_str().ok();
    let age = header("headcount-age-ms").and_then(|age| age.parse().ok());
    let unheard = header("headcount-unheard-regions").into_iter();
    let unheard = unheard.flat_map(|regions| regions.split(','));
    let unheard = unheard.map(str::to_owned).collect();
    let body = answer.text().await?;
    if !status.is_success() {
        bail!("{status}: {body}");
    }
    let details: ChannelDetails = serde_json::from_str(&body)?;
    Ok(Answer {
        occupancy: details.status.occupancy.metrics,
        age: Duration::from_millis(age.context("no age")?),
        unheard,
    })
}

/// Returns what a node says of a channel, as it has it.
pub(crate) async fn occupancy(cluster: &Cluster, node: usize, channel: &str) -> Result<Occupancy> {
    Ok(ask(cluster, node, channel, false).await?.occupancy)
}

/// Asks any node of any of the channels until told to stop, as each has it.
pub(crate) async fn sample(
    cluster: Arc<Cluster>,
    record: Arc<Record>,
    channels: Vec<String>,
    seed: u64,
    mut stop: watch::Receiver<bool>,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    while !*stop.borrow() {
        let node = rng.random_range(0..cluster.nodes.len());
        let channel = &channels[rng.random_range(0..channels.len())];
        let asked = record.now();
        match ask(&cluster, node, channel, false).await {
            Ok(Answer { occupancy, age, .. }) => {
                let to = record.now();
                record.write().samples.push(Sample {
                    node: format!("node {node}"),
                    channel: channel.clone(),
                    from: asked.saturating_sub(age + AGE_SLACK),
                    to,
                    occupancy,
                });
                record.count("reads answered");
            }
            Err(why) => {
                let what = format!("node {node} did not tell {channel}: {why:#}");
                record.missed(what, cluster.nodes[node].region, asked);
                record.count("reads without an answer");
            }
        }
        // allow-sleep: the pace of a reader; stopping cuts it short
        drop(tokio::time::timeout(Duration::from_millis(80), stop.wait_for(|stop| *stop)).await);
    }
}

/// Looks again and again whether all nodes answer with what is attached to channels that nobody
/// touches, and notes when that is proved.
pub(crate) async fn prove(
    cluster: Arc<Cluster>,
    record: Arc<Record>,
    channels: Vec<String>,
    mut stop: watch::Receiver<bool>,
) {
    let attached = Modes::DEFAULT.occupancy();
    while !*stop.borrow() {
        for channel in &channels {
            let asked = record.now();
            let nodes = 0..cluster.nodes.len();
            let answers = nodes.map(|node| ask(&cluster, node, channel, false));
            let answers = futures::future::join_all(answers).await;
            let right = |answer: &Result<Answer>| {
                let answer = answer.as_ref();
                answer
                    .is_ok_and(|answer| answer.occupancy == attached && answer.age < AGE_SLACK * 10)
            };
            if answers.iter().all(right) {
                record.write().ledger.proved(channel, asked);
                record.count("proofs that all is there");
            }
        }
        // allow-sleep: the pace of a reader; stopping cuts it short
        drop(tokio::time::timeout(Duration::from_millis(500), stop.wait_for(|stop| *stop)).await);
    }
}

/// Reads an ordered channel strongly through a node until told to stop, and as the node has it.
pub(crate) async fn read(
    cluster: Arc<Cluster>,
    record: Arc<Record>,
    node: usize,
    channel: String,
    pause: Duration,
    mut stop: watch::Receiver<bool>,
) {
    while !*stop.borrow() {
        let invoked = record.now();
        if let Ok(Answer { occupancy, .. }) = ask(&cluster, node, &channel, true).await {
            let returned = Some(record.now());
            let call = Call {
                op: Op::Read(occupancy),
                invoked,
                returned,
            };
            record
                .write()
                .calls
                .entry(channel.clone())
                .or_default()
                .push(call);
            record.count("strong reads answered");
        } else {
            record.count("strong reads without an answer");
        }
        let life = cluster.starts(node);
        if let Ok(Answer { occupancy, .. }) = ask(&cluster, node, &channel, false).await
            && life == cluster.starts(node)
            && !*stop.borrow()
        {
            let mut inner = record.write();
            inner
                .seen
                .extend((0..cluster.plan.regions.len()).map(|region| Seen {
                    session: format!("reader of node {node} in its life {life}"),
                    subject: format!("{channel} in region {region}"),
                    version: occupancy.get(category(region)),
                }));
        }
        // allow-sleep: the pace of a reader; stopping cuts it short
        drop(tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await);
    }
}

/// Returns all that a node lists, with counts.
pub(crate) async fn list(cluster: &Cluster, node: usize) -> Result<BTreeMap<String, Occupancy>> {
    let (user, secret) = KEY.split_once(':').context("a key has a secret")?;
    let base = cluster.client(node);
    let mut listed = BTreeMap::new();
    let mut next = Some("/channels?by=value&limit=100".to_owned());
    while let Some(path) = next {
        let request = cluster
            .http
            .get(format!("{base}{path}"))
            .basic_auth(user, Some(secret));
        let answer = request.timeout(ANSWER).send().await?.error_for_status()?;
        let mut links = answer.headers().get_all("link").iter();
        let link =
            links.find_map(|link| link.to_str().ok().filter(|link| link.contains("\"next\"")));
        let target = link.and_then(|link| link.trim_start_matches('<').split('>').next());
        next = target.map(|to| format!("/{}", to.trim_start_matches("./").trim_start_matches('/')));
        let page: Vec<ChannelDetails> = answer.json().await?;
        listed.extend(
            page.into_iter()
                .map(|details| (details.channel_id, details.status.occupancy.metrics)),
        );
    }
    Ok(listed)
}
