//! Edges: they come and go, attach and detach, die and come back, and write down what they did.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use headcount_checker::linear::{Call, Op};
use headcount_checker::{Source, Ticket};
use headcount_client::{Client, Config, Notice};
use headcount_model::{
    Category, ChannelName, ConnectionId, EdgeId, Incarnation, Modes, Occupancy, ReportItem,
};
use headcount_net::Dialer;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::plan::{Plan, ROOT, authorization};
use crate::record::{Phase, Shared};
use crate::time;

/// Reports that may be under way before the edge waits.
const UNDER_WAY_MAX: u64 = 64;

/// Channels that a crowd attaches at once.
pub(crate) const CROWD: usize = 240;

/// How an edge behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Temper {
    /// It attaches some channels at the beginning and nothing else: they must never be taken away.
    Anchor,
    /// It attaches, detaches, dies and comes back.
    Churn,
    /// It counts a channel by absolute numbers that only grow.
    Register,
    /// It attaches more channels at once than a cursor lists (`TOLD_MAX` a shard), and leaves them at
    /// once.
    Crowd,
}

/// An edge.
#[derive(Debug)]
pub(crate) struct Edge {
    /// Its name.
    pub(crate) name: String,
    /// Its region.
    pub(crate) region: String,
    /// How it behaves.
    pub(crate) temper: Temper,
    /// The nodes that it reports to, nearest first.
    pub(crate) nodes: Vec<SocketAddr>,
    /// What its chances follow from.
    pub(crate) seed: u64,
    /// How it connects.
    pub(crate) dialer: Dialer,
    /// Where it writes down what it does.
    pub(crate) shared: Shared,
}

fn channel(name: &str) -> ChannelName {
    name.parse().expect("a good channel name")
}

/// Life: one incarnation of an edge.
struct Life {
    source: Source,
    client: Client,
    attached: BTreeSet<(ConnectionId, ChannelName)>,
    version: u32,
    /// Those who wait for acknowledgements; they end with the life.
    waiting: JoinSet<()>,
}

/// Counts a report as unacknowledged while it lives.
struct Waiting(Shared);

impl Waiting {
    fn new(shared: Shared) -> Self {
        shared.lock().unacknowledged += 1;
        Self(shared)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.lock().unacknowledged -= 1;
    }
}

impl Edge {
    /// Runs until nothing is to change any more and everything is acknowledged.
    pub(crate) async fn run(self) {
        self.shared.lock().restless += 1;
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut incarnation = 1;
        let mut life = self.begin(incarnation, &mut rng);
        if self.temper == Temper::Anchor {
            let items = (0..3).map(|nth| attach("a", &format!("anchor:{}:{nth}", self.name)));
            let shared = attach("a", "anchor:all");
            self.report(&mut life, items.chain([shared]).collect())
                .await;
        }
        loop {
            let phase = self.shared.phase();
            if phase >= Phase::Quiet {
                break;
            }
            let pause = match self.temper {
                Temper::Anchor => rng.random_range(500..2_000),
                Temper::Register => rng.random_range(50..1_000),
                Temper::Crowd => rng.random_range(200..6_000),
                // Sometimes it flaps, mostly it takes its time.
                Temper::Churn if rng.random_bool(0.4) => rng.random_range(1..20),
                Temper::Churn => rng.random_range(20..600),
            };
            sleep(Duration::from_millis(pause)).await;
            if self.shared.lock().unacknowledged > UNDER_WAY_MAX {
                continue;
            }
            match self.temper {
                Temper::Anchor => {}
                Temper::Register => self.step_register(&mut life).await,
                Temper::Crowd => self.step_crowd(&mut life).await,
                Temper::Churn => {
                    let dies = phase < Phase::Healing && rng.random_bool(0.01);
                    if dies {
                        incarnation += 1;
                        life = self.die(life, incarnation, &mut rng).await;
                    } else {
                        self.step(&mut life, &mut rng).await;
                    }
                }
            }
        }
        // What was reported is acknowledged once all nodes are back.
        if life.client.flush().await.is_err() {
            self.wrong("it ended before everything was acknowledged");
        }
        self.shared.lock().restless -= 1;
        // It stays connected: who leaves stops counting.
        std::future::pending::<()>().await;
    }

    fn wrong(&self, what: &str) {
        let mut record = self.shared.lock();
        record.wrong.push(format!("edge {}: {what}", self.name));
    }

    fn begin(&self, incarnation: u64, rng: &mut StdRng) -> Life {
        let edge = EdgeId::new(&self.name).expect("a good edge name");
        let urls = self.nodes.iter().map(|node| format!("http://{node}"));
        let config = Config {
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_millis(200),
            connect_timeout: Duration::from_secs(1),
            ack_timeout: Duration::from_secs(1),
            seed: Some(rng.random()),
            dialer: self.dialer.clone(),
            ..Config::new(
                urls.collect(),
                authorization(ROOT),
                edge,
                Incarnation(incarnation),
            )
        };
        let (client, notices) = Client::start(config);
        let source = Source {
            edge: self.name.clone(),
            incarnation,
        };
        self.shared
            .lock()
            .ledger
            .begin(source.clone(), &self.region);
        drop(tokio::spawn(listen(
            notices,
            self.name.clone(),
            self.shared.clone(),
        )));
        Life {
            source,
            client,
            attached: BTreeSet::new(),
            version: 0,
            waiting: JoinSet::new(),
        }
    }

    /// Ends a life, with a word or without one, and begins the next after a while.
    async fn die(&self, mut life: Life, incarnation: u64, rng: &mut StdRng) -> Life {
        if rng.random_bool(0.3) {
            {
                let mut record = self.shared.lock();
                record.ledger.goodbye(&life.source, time::now());
                record.coverage.count("edge-goodbyes");
            }
            let left = tokio::time::timeout(Duration::from_secs(5), life.client.goodbye()).await;
            let mut record = self.shared.lock();
            if matches!(left, Ok(Ok(()))) {
                record.ledger.left(&life.source, time::now());
            } else {
                record.ledger.killed(&life.source, time::now());
            }
        } else {
            life.waiting.shutdown().await;
            drop(life.client);
            let mut record = self.shared.lock();
            record.ledger.killed(&life.source, time::now());
            record.coverage.count("edge-deaths");
            record.trace.say(&format_args!("edge {} dies", self.name));
        }
        sleep(Duration::from_millis(rng.random_range(10..3_000))).await;
        self.begin(incarnation, rng)
    }

    async fn step(&self, life: &mut Life, rng: &mut StdRng) {
        let mut items = Vec::new();
        for _ in 0..rng.random_range(1..=3) {
            let gone = life.attached.iter().choose(rng).cloned();
            let wants_more = life.attached.len() < 6;
            match gone {
                Some((connection, _)) if rng.random_bool(0.1) => {
                    life.attached.retain(|(of, _)| *of != connection);
                    items.push(ReportItem::ConnectionClosed { connection });
                }
                Some((connection, channel)) if !wants_more || rng.random_bool(0.5) => {
                    life.attached.remove(&(connection.clone(), channel.clone()));
                    items.push(ReportItem::Detach {
                        connection,
                        channel,
                    });
                }
                _ => {
                    let names = ["hot:0", "hot:1", "hot:2"].map(str::to_owned);
                    let own = format!("own:{}:{}", self.name, rng.random_range(0..4));
                    let name = if rng.random_bool(0.6) {
                        names.choose(rng).cloned().unwrap_or(own)
                    } else {
                        own
                    };
                    let connection = format!("c{}", rng.random_range(0..3));
                    let mut modes = [Modes::DEFAULT, Modes::SUBSCRIBE, Modes::PRESENCE];
                    modes.shuffle(rng);
                    let connection: ConnectionId = connection.parse().expect("a good connection");
                    life.attached.insert((connection.clone(), channel(&name)));
                    items.push(ReportItem::Attach {
                        connection,
                        channel: channel(&name),
                        modes: modes[0],
                    });
                }
            }
        }
        self.report(life, items).await;
    }

    async fn step_register(&self, life: &mut Life) {
        life.version += 1;
        let name = format!("register:{}", self.name);
        let mut occupancy = Occupancy::ZERO;
        occupancy.set(Category::Connections, life.version);
        {
            let mut record = self.shared.lock();
            let apply = Op::Apply {
                region: self.region.clone(),
                version: u64::from(life.version),
                occupancy,
            };
            let call = Call {
                op: apply,
                invoked: time::now(),
                returned: None,
            };
            record.calls.entry(name.clone()).or_default().push(call);
        }
        let items = vec![ReportItem::Counts {
            channel: channel(&name),
            occupancy,
        }];
        self.report(life, items).await;
    }

    async fn step_crowd(&self, life: &mut Life) {
        let items = if let Some((connection, _)) = life.attached.pop_first() {
            life.attached.clear();
            vec![ReportItem::ConnectionClosed { connection }]
        } else {
            let connection: ConnectionId = "a".parse().expect("a good connection");
            let names = (0..CROWD).map(|nth| format!("crowd:{}:{nth}", self.name));
            let pairs = names.map(|name| (connection.clone(), channel(&name)));
            life.attached = pairs.collect();
            let attached = life.attached.iter();
            attached
                .map(|(of, to)| attach(of.as_str(), to.as_str()))
                .collect()
        };
        self.report(life, items).await;
    }

    /// Reports something, and writes down when that was asked and when it was acknowledged.
    async fn report(&self, life: &mut Life, items: Vec<ReportItem>) {
        let ticket: Ticket = {
            let mut record = self.shared.lock();
            record.coverage.add("items", items.len() as u64);
            record.ledger.report(&life.source, time::now(), &items)
        };
        if life.client.report(items).await.is_err() {
            self.wrong("it ended by itself");
            return;
        }
        let (client, shared) = (life.client.clone(), self.shared.clone());
        let waiting = Waiting::new(shared.clone());
        life.waiting.spawn(async move {
            let _waiting = waiting;
            if client.flush().await.is_ok() {
                shared.lock().ledger.acked(ticket, time::now());
            }
        });
        while life.waiting.try_join_next().is_some() {}
    }
}

fn attach(connection: &str, to: &str) -> ReportItem {
    ReportItem::Attach {
        connection: connection.parse().expect("a good connection"),
        channel: channel(to),
        modes: Modes::DEFAULT,
    }
}

/// Writes down what an edge is told about its session.
async fn listen(mut notices: mpsc::Receiver<Notice>, edge: String, shared: Shared) {
    while let Some(notice) = notices.recv().await {
        let mut record = shared.lock();
        match notice {
            Notice::Connected { node, resumed, .. } => {
                record.coverage.count(if resumed {
                    "edge-resumes"
                } else {
                    "edge-sessions"
                });
                record
                    .trace
                    .say(&format_args!("edge {edge} at {node} resumed={resumed}"));
            }
            Notice::Disconnected { .. } => record.coverage.count("edge-disconnects"),
            Notice::Missed(_) => {}
            Notice::Refused(refused) => {
                record.wrong.push(format!("edge {edge}: {refused:?}"));
            }
            Notice::Stopped(stopped) => record.wrong.push(format!("edge {edge}: {stopped:?}")),
        }
    }
}

/// Returns what edges of a region there are.
#[must_use]
pub(crate) fn of_region(
    region: &str,
    index: usize,
    plan: &Plan,
    nodes: &[SocketAddr],
    dialer: &Dialer,
    shared: &Shared,
    rng: &mut StdRng,
) -> Vec<Edge> {
    let tempers = [Temper::Anchor, Temper::Register]
        .into_iter()
        .chain(std::iter::repeat_n(Temper::Churn, plan.edges))
        .chain(plan.has_crowds.then_some(Temper::Crowd));
    tempers
        .enumerate()
        .map(|(nth, temper)| {
            let mut nodes = nodes.to_vec();
            nodes.shuffle(rng);
            Edge {
                name: format!("e{index}{nth}"),
                region: region.to_owned(),
                temper,
                nodes,
                seed: rng.random(),
                dialer: dialer.clone(),
                shared: shared.clone(),
            }
        })
        .collect()
}

/// Makes a dialer of something that dials.
#[must_use]
pub(crate) fn dialer(of: crate::network::SimDialer) -> Dialer {
    Dialer::of(Arc::new(of))
}
