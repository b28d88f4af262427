//! Readers: they ask nodes over HTTP, eventually and strongly, and what the cluster looks like.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use headcount_checker::Sample;
use headcount_checker::linear::{Call, Op};
use headcount_checker::sessions::Seen;
use headcount_model::{Category, ChannelDetails, Occupancy};
use headcount_node::admin::status::ClusterStatus;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::sleep;

use crate::http::{Answer, get};
use crate::network::SimDialer;
use crate::plan::{ROOT, authorization};
use crate::record::{Phase, Shared};
use crate::time;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What stands for the control group among the shards.
const CONTROL: u32 = u32::MAX;

/// Most calls to one register: beyond, the search for their order takes too long.
const CALLS_MAX: usize = 160;

/// Somebody who asks.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    /// The client listeners of all nodes.
    pub(crate) nodes: Vec<SocketAddr>,
    /// The channels that are read for judging one by one.
    pub(crate) channels: Vec<String>,
    /// The channels that are counted by numbers that only grow.
    pub(crate) registers: Vec<String>,
    /// What its chances follow from.
    pub(crate) seed: u64,
    /// How it connects.
    pub(crate) dialer: SimDialer,
    /// Where it writes down what it is told.
    pub(crate) shared: Shared,
}

/// What a node says of a channel.
struct Status {
    occupancy: Occupancy,
    age: Duration,
    source: String,
}

fn status_of(answer: &Answer) -> Result<Status, String> {
    if answer.status != 200 {
        return Err(format!("{}: {}", answer.status, answer.body));
    }
    let details: ChannelDetails =
        serde_json::from_str(&answer.body).map_err(|error| format!("{error}: {answer:?}"))?;
    let header = |name: &str| {
        let value = answer.headers.get(name);
        let value = value.and_then(|value| value.to_str().ok());
        value.ok_or_else(|| format!("no {name}: {answer:?}"))
    };
    let age = header("headcount-age-ms")?;
    let age = age.parse().map_err(|_| format!("an odd age: {age}"))?;
    Ok(Status {
        occupancy: details.status.occupancy.metrics,
        age: Duration::from_millis(age),
        source: header("headcount-source")?.to_owned(),
    })
}

impl Reader {
    /// Reads for ever.
    pub(crate) async fn run(self) {
        let mut rng = StdRng::seed_from_u64(self.seed);
        loop {
            sleep(Duration::from_millis(rng.random_range(20..400))).await;
            if self.shared.phase() < Phase::Calm {
                continue;
            }
            let node = self.nodes[rng.random_range(0..self.nodes.len())];
            if rng.random_bool(0.5) {
                let channel = &self.registers[rng.random_range(0..self.registers.len())];
                self.strong(node, channel).await;
            } else {
                let of = if rng.random_bool(0.8) {
                    &self.channels
                } else {
                    &self.registers
                };
                let channel = &of[rng.random_range(0..of.len())];
                self.eventual(node, channel).await;
            }
        }
    }

    async fn status(&self, node: SocketAddr, path: &str) -> Result<Status, String> {
        let answer = get(&self.dialer, node, path, &authorization(ROOT), ANSWER).await?;
        status_of(&answer)
    }

    async fn eventual(&self, node: SocketAddr, channel: &str) {
        let asked = time::now();
        let answer = self.status(node, &format!("/channels/{channel}")).await;
        let mut record = self.shared.lock();
        record.coverage.count("reads-asked");
        let Ok(Status {
            occupancy,
            age,
            source,
        }) = answer
        else {
            return;
        };
        record.coverage.count("reads");
        record.trace.say(&format_args!(
            "{node} says {:?} of {channel}, from {source}, {age:?} old",
            occupancy.counts()
        ));
        if self.registers.iter().any(|register| register == channel) {
            // What one replica says does not go back while it lives. Whose lives began since is
            // not told, so that any new one begins a new session.
            let lives: u64 = record.lives.iter().map(|life| life.number).sum();
            let reader = self.seed;
            record.seen.push(Seen {
                session: format!("reader {reader} of {source} after {lives} starts"),
                subject: channel.to_owned(),
                version: u64::from(occupancy.get(Category::Connections)),
            });
        }
        record.samples.push(Sample {
            node: format!("{node} ({source})"),
            channel: channel.to_owned(),
            from: asked.saturating_sub(age),
            to: time::now(),
            occupancy,
        });
    }

    async fn strong(&self, node: SocketAddr, channel: &str) {
        let asked = time::now();
        let path = format!("/channels/{channel}?consistency=strong");
        let answer = self.status(node, &path).await;
        let mut record = self.shared.lock();
        record.coverage.count("strong-reads-asked");
        let Ok(Status {
            occupancy, source, ..
        }) = answer
        else {
            return;
        };
        record.coverage.count("strong-reads");
        record.trace.say(&format_args!(
            "{node} says {:?} of {channel}, strongly, from {source}",
            occupancy.counts()
        ));
        let calls = record.calls.entry(channel.to_owned()).or_default();
        if calls.len() < CALLS_MAX {
            calls.push(Call {
                op: Op::Read(occupancy),
                invoked: asked,
                returned: Some(time::now()),
            });
        }
        // Strong reads are one session: each is at least as new as all that were answered before
        // it was asked. This reader asks one after the other.
        let version = u64::from(occupancy.get(Category::Connections));
        record.seen.push(Seen {
            session: format!("reader {}", self.seed),
            subject: channel.to_owned(),
            version,
        });
    }

    /// Once nothing changes any more, lists what all nodes say is active, again and again.
    pub(crate) async fn list_all(self) {
        loop {
            sleep(Duration::from_millis(100)).await;
            if self.shared.phase() < Phase::Quiet {
                continue;
            }
            for (node, address) in self.nodes.iter().enumerate() {
                let listed = self.list(*address).await;
                self.shared.lock().listed.insert(node, listed);
            }
        }
    }

    /// Lists what a node says is active.
    ///
    /// # Errors
    /// Why there is no list.
    pub(crate) async fn list(
        &self,
        node: SocketAddr,
    ) -> Result<BTreeMap<String, Occupancy>, String> {
        let path = "/channels?by=value&limit=1000";
        let answer = get(&self.dialer, node, path, &authorization(ROOT), ANSWER).await?;
        if answer.status != 200 {
            return Err(format!("{}: {}", answer.status, answer.body));
        }
        let page: Vec<ChannelDetails> = serde_json::from_str(&answer.body)
            .map_err(|error| format!("{error}: {}", answer.body))?;
        let counts = page
            .into_iter()
            .map(|details| (details.channel_id, details.status.occupancy.metrics));
        Ok(counts.collect())
    }
}

/// Asks all nodes in turn how the cluster is, for ever.
pub(crate) async fn watch_status(nodes: Vec<SocketAddr>, dialer: SimDialer, shared: Shared) {
    let mut terms: BTreeMap<u32, u64> = BTreeMap::new();
    let mut dead: BTreeSet<(u64, u64)> = BTreeSet::new();
    for node in nodes.iter().cycle() {
        sleep(Duration::from_millis(100)).await;
        let within = Duration::from_secs(2);
        let answer = get(
            &dialer,
            *node,
            "/v1/status",
            "Bearer simulated-operator",
            within,
        )
        .await;
        let Ok(answer) = answer.and_then(|answer| match answer.status {
            200 => Ok(answer),
            _ => Err(answer.body),
        }) else {
            continue;
        };
        let Ok(status) = serde_json::from_str::<ClusterStatus>(&answer.body) else {
            continue;
        };
        let mut record = shared.lock();
        let groups = status.shards.iter().map(|shard| (shard.shard, shard.term));
        for (group, term) in groups.chain([(CONTROL, status.control.term)]) {
            let known = terms.entry(group).or_insert(term);
            record.coverage.add("terms", term.saturating_sub(*known));
            *known = term.max(*known);
        }
        for node in status.nodes.iter().filter(|node| node.state == "dead") {
            let fresh = dead.insert((node.id, node.incarnation));
            record.coverage.add("nodes-declared-dead", u64::from(fresh));
        }
        record.status = Some(status);
    }
}
