//! An edge: reports through the edge client, and keeps the books of what is really attached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headcount_client::{Client, Config, Notice};
use headcount_model::{
    Category, ChannelName, ConnectionId, EdgeId, Incarnation, MemberId, Modes, Occupancy,
    ReportItem,
};
use tokio::sync::mpsc;

use crate::{Cluster, PATIENCE, ROOT, Reader, authorization, wait_until};

/// A realtime server that reports to one or more nodes.
#[derive(Debug)]
pub struct Edge {
    name: String,
    client: Client,
    notices: mpsc::Receiver<Notice>,
    attached: BTreeMap<(String, String), Attached>,
    counted: BTreeMap<String, Occupancy>,
}

#[derive(Debug)]
struct Attached {
    modes: Modes,
    members: BTreeSet<String>,
}

fn connection(text: &str) -> ConnectionId {
    text.parse().expect("a good connection id")
}

fn channel(text: &str) -> ChannelName {
    text.parse().expect("a good channel name")
}

fn member(text: &str) -> MemberId {
    text.parse().expect("a good member id")
}

impl Edge {
    /// Starts an edge that reports to the first of `nodes` that answers.
    #[must_use]
    pub fn start(cluster: &Cluster, name: &str, nodes: &[usize]) -> Self {
        let urls = nodes
            .iter()
            .map(|node| format!("http://{}", cluster.ports(*node).reporter));
        Self::start_at(name, urls.collect())
    }

    /// Starts an edge that reports to the first of `urls` that answers.
    ///
    /// # Panics
    /// If the name is none.
    #[must_use]
    pub fn start_at(name: &str, urls: Vec<String>) -> Self {
        static INCARNATIONS: AtomicU64 = AtomicU64::new(1);
        let incarnation = INCARNATIONS.fetch_add(1, Ordering::Relaxed);
        let edge = EdgeId::new(name).expect("a good edge name");
        let config = Config {
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(200),
            connect_timeout: Duration::from_secs(2),
            ack_timeout: Duration::from_secs(5),
            ..Config::new(urls, authorization(ROOT), edge, Incarnation(incarnation))
        };
        let (client, notices) = Client::start(config);
        let (attached, counted) = Default::default();
        Self {
            name: name.to_owned(),
            client,
            notices,
            attached,
            counted,
        }
    }

    async fn report(&self, items: Vec<ReportItem>) {
        let reported = tokio::time::timeout(PATIENCE, self.client.report(items)).await;
        reported
            .expect("a report is taken")
            .expect("the edge goes on");
    }

    /// Waits until the node has counted everything so far.
    pub async fn flush(&self) {
        let flushed = tokio::time::timeout(PATIENCE, self.client.flush()).await;
        let flushed = flushed.unwrap_or_else(|_| panic!("edge {}: not acknowledged", self.name));
        flushed.unwrap_or_else(|error| panic!("edge {}: {error}", self.name));
    }

    /// Attaches a connection with the usual modes, and waits until that counts.
    pub async fn attach(&mut self, of: &str, to: &str) {
        self.attach_as(of, to, Modes::DEFAULT).await;
    }

    /// Attaches a connection, or changes its modes, and waits until that counts.
    pub async fn attach_as(&mut self, of: &str, to: &str, modes: Modes) {
        self.attach_all(&[(of, to)], modes).await;
    }

    /// Attaches many connections in one report, and waits until they count.
    pub async fn attach_all(&mut self, pairs: &[(&str, &str)], modes: Modes) {
        let items = pairs.iter().map(|(of, to)| {
            let (connection, channel) = (connection(of), channel(to));
            ReportItem::Attach {
                connection,
                channel,
                modes,
            }
        });
        self.report(items.collect()).await;
        for (of, to) in pairs {
            let key = ((*of).to_owned(), (*to).to_owned());
            let fresh = || Attached {
                modes,
                members: BTreeSet::new(),
            };
            let attached = self.attached.entry(key).or_insert_with(fresh);
            attached.modes = modes;
            if !modes.contains(Modes::PRESENCE) {
                attached.members.clear();
            }
        }
        self.flush().await;
    }

    /// Detaches a connection, and waits until that counts.
    pub async fn detach(&mut self, of: &str, from: &str) {
        self.detach_all(&[(of, from)]).await;
    }

    /// Detaches many connections in one report, and waits until that counts.
    pub async fn detach_all(&mut self, pairs: &[(&str, &str)]) {
        let items = pairs.iter().map(|(of, from)| {
            let (connection, channel) = (connection(of), channel(from));
            ReportItem::Detach {
                connection,
                channel,
            }
        });
        self.report(items.collect()).await;
        for (of, from) in pairs {
            self.attached
                .remove(&((*of).to_owned(), (*from).to_owned()));
        }
        self.flush().await;
    }

    /// Lets a connection's member enter presence, and waits until that counts.
    pub async fn enter(&mut self, of: &str, to: &str, who: &str) {
        let (connection, channel, member) = (connection(of), channel(to), member(who));
        self.report(vec![ReportItem::PresenceEnter {
            connection,
            channel,
            member,
        }])
        .await;
        let attached = self.attached.get_mut(&(of.to_owned(), to.to_owned()));
        attached
            .expect("it is attached")
            .members
            .insert(who.to_owned());
        self.flush().await;
    }

    /// Lets a member leave presence, and waits until that counts.
    pub async fn leave(&mut self, of: &str, from: &str, who: &str) {
        let (connection, channel, member) = (connection(of), channel(from), member(who));
        self.report(vec![ReportItem::PresenceLeave {
            connection,
            channel,
            member,
        }])
        .await;
        let attached = self.attached.get_mut(&(of.to_owned(), from.to_owned()));
        attached.expect("it is attached").members.remove(who);
        self.flush().await;
    }

    /// Closes a connection with all that it has, and waits until that counts.
    pub async fn close(&mut self, of: &str) {
        let connection = connection(of);
        self.report(vec![ReportItem::ConnectionClosed { connection }])
            .await;
        self.attached.retain(|(connection, _), _| connection != of);
        self.flush().await;
    }

    /// Says a channel's absolute counts, and waits until they count.
    pub async fn counts(&mut self, of: &str, occupancy: Occupancy) {
        self.report(vec![ReportItem::Counts {
            channel: channel(of),
            occupancy,
        }])
        .await;
        self.counted.insert(of.to_owned(), occupancy);
        self.flush().await;
    }

    /// Ends the session at once, with all that it attached.
    pub async fn goodbye(self) {
        let ended = tokio::time::timeout(PATIENCE, self.client.goodbye()).await;
        ended
            .expect("a goodbye is answered")
            .expect("the edge goes on until then");
    }

    /// Waits for the next time that a stream carries the session; returns the node's URL and
    /// whether it went on with what it knew.
    pub async fn wait_connected(&mut self) -> (String, bool) {
        let connected = async {
            loop {
                match self.notices.recv().await.expect("the edge goes on") {
                    Notice::Connected { node, resumed, .. } => return (node, resumed),
                    Notice::Disconnected { .. } | Notice::Missed(_) => {}
                    bad @ (Notice::Refused(_) | Notice::Stopped(_)) => panic!("{bad:?}"),
                }
            }
        };
        let connected = tokio::time::timeout(PATIENCE, connected).await;
        connected.unwrap_or_else(|_| panic!("edge {} does not connect", self.name))
    }

    /// Returns what is attached here, by channel, zeros left out.
    #[must_use]
    pub fn occupancy(&self) -> BTreeMap<String, Occupancy> {
        let mut sums: BTreeMap<String, Occupancy> = self.counted.clone();
        for ((_, channel), attached) in &self.attached {
            let mut counts = attached.modes.occupancy();
            let members = u32::try_from(attached.members.len()).expect("tests have few members");
            counts.set(Category::PresenceMembers, members);
            let sum = sums.entry(channel.clone()).or_default();
            *sum = sum.plus(counts);
        }
        sums.retain(|_, counts| !counts.is_zero());
        sums
    }
}

/// Waits until every running node says what the edges' books say: exactly their channels, each with
/// the sum of what is attached.
pub async fn agree_on_counts(cluster: &Cluster, edges: &[&Edge]) {
    let mut sums = BTreeMap::<String, Occupancy>::new();
    for (channel, counts) in edges.iter().flat_map(|edge| edge.occupancy()) {
        let sum = sums.entry(channel).or_default();
        *sum = sum.plus(counts);
    }
    for node in cluster.running() {
        let reader = Reader::new(cluster, node);
        wait_until(
            &format!("node {node} counts what is attached"),
            async || {
                let listed = reader.list("").await?;
                let listed = listed
                    .into_iter()
                    .map(|item| (item.channel, item.occupancy));
                let listed: BTreeMap<_, _> = listed.collect();
                if listed == sums {
                    return Ok(());
                }
                let wrong = sums
                    .keys()
                    .chain(listed.keys())
                    .find(|channel| listed.get(*channel) != sums.get(*channel));
                let wrong = wrong.expect("maps that differ differ somewhere");
                let (is, want) = (listed.get(wrong), sums.get(wrong));
                Err(format!("{wrong}: {is:?} is told, {want:?} is attached"))
            },
        )
        .await;
    }
}
