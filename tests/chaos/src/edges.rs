//! Edges: servers that attach, detach, enter, leave, die and move, and keep the ledger.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use headcount_checker::linear::{Call, Op};
use headcount_checker::{At, Source, Ticket};
use headcount_client::{Client, Config, Notice};
use headcount_model::{
    Category, ChannelName, ConnectionId, EdgeId, Incarnation, Modes, Occupancy, ReportItem,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, watch};

use crate::cluster::{Cluster, KEY};
use crate::record::Record;
use crate::service::ANSWER;

/// Longest wait for an acknowledgement before an edge gives its session up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the key as the header carries it.
pub(crate) fn authorization() -> String {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(KEY);
    format!("Basic {encoded}")
}

/// A session of an edge, entered in the ledger.
pub(crate) struct Session {
    record: Arc<Record>,
    source: Source,
    client: Client,
}

impl Session {
    /// Begins a session that reports to the first of `nodes` that answers, all of one region.
    pub(crate) fn begin(
        cluster: &Cluster,
        record: &Arc<Record>,
        edge: &str,
        incarnation: u64,
        nodes: &[usize],
    ) -> Result<Self> {
        let region = cluster.nodes[nodes[0]].region;
        let urls = nodes.iter().map(|node| cluster.reporter(*node)).collect();
        let source = Source {
            edge: edge.to_owned(),
            incarnation,
        };
        let config = Config {
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(2),
            ack_timeout: Duration::from_secs(3),
            ..Config::new(
                urls,
                authorization(),
                EdgeId::new(edge)?,
                Incarnation(incarnation),
            )
        };
        let name = &cluster.plan.regions[region].0;
        record.write().ledger.begin(source.clone(), name);
        let (client, notices) = Client::start(config);
        tokio::spawn(listen(record.clone(), source.clone(), notices));
        Ok(Self {
            record: record.clone(),
            source,
            client,
        })
    }

    /// Reports changes; returns what waits for their acknowledgement.
    async fn send(&self, items: Vec<ReportItem>) -> Option<Ticket> {
        let now = self.record.now();
        let ticket = self.record.write().ledger.report(&self.source, now, &items);
        let reported = tokio::time::timeout(PATIENCE, self.client.report(items)).await;
        reported
            .is_ok_and(|reported| reported.is_ok())
            .then_some(ticket)
    }

    /// Reports changes and waits until they are counted; returns whether they were in time.
    pub(crate) async fn report(&self, items: Vec<ReportItem>) -> bool {
        match self.send(items).await {
            Some(ticket) => self.settle([ticket]).await,
            None => false,
        }
    }

    /// Waits until all that was sent is counted; returns whether it was in time.
    async fn settle(&self, tickets: impl IntoIterator<Item = Ticket>) -> bool {
        let flushed = tokio::time::timeout(PATIENCE, self.client.flush()).await;
        if !flushed.is_ok_and(|flushed| flushed.is_ok()) {
            return false;
        }
        let now = self.record.now();
        for ticket in tickets {
            self.record.write().ledger.acked(ticket, now);
            self.record.count("reports acknowledged");
        }
        true
    }

    /// Dies without a word.
    pub(crate) fn die(self) {
        let now = self.record.now();
        self.record.write().ledger.killed(&self.source, now);
        self.record.count("edges died");
    }

    /// Says goodbye.
    async fn leave(self) {
        let (record, source) = (self.record, self.source);
        let now = record.now();
        record.write().ledger.goodbye(&source, now);
        let said = tokio::time::timeout(PATIENCE, self.client.goodbye()).await;
        let now = record.now();
        if said.is_ok_and(|said| said.is_ok()) {
            record.write().ledger.left(&source, now);
            record.count("edges said goodbye");
        } else {
            record.write().ledger.killed(&source, now);
        }
    }
}

/// Reads what a client has to say; refusals are wrong, as no edge here asks for what it may not.
async fn listen(record: Arc<Record>, source: Source, mut notices: mpsc::Receiver<Notice>) {
    while let Some(notice) = notices.recv().await {
        match notice {
            Notice::Connected { resumed, .. } => {
                record.count(if resumed {
                    "sessions resumed"
                } else {
                    "sessions told anew"
                });
            }
            Notice::Disconnected { .. } => record.count("streams broken"),
            Notice::Missed(_) => {}
            Notice::Refused(refused) => {
                record.write().wrong.push(format!("{source}: {refused:?}"));
            }
            Notice::Stopped(stopped) => {
                record.write().wrong.push(format!("{source}: {stopped}"));
            }
        }
    }
}

/// Attaches a connection to each of some channels; if nobody touches them afterwards, they must
/// stand through everything that their region survives.
pub(crate) async fn attach(session: &Session, channels: &[String]) -> Result<bool> {
    Ok(session.report(attaches(channels)?).await)
}

fn attaches(channels: &[String]) -> Result<Vec<ReportItem>> {
    let attaches = channels.iter().map(|channel| {
        Ok(ReportItem::Attach {
            connection: "standing".parse()?,
            channel: channel.parse()?,
            modes: Modes::DEFAULT,
        })
    });
    attaches.collect()
}

/// What a churning edge does.
#[derive(Clone, Debug)]
pub(crate) struct Churn {
    /// Its name.
    pub(crate) edge: String,
    /// Its region at the beginning.
    pub(crate) region: usize,
    /// Whether it moves to other regions.
    pub(crate) roams: bool,
    /// From what chance is drawn.
    pub(crate) seed: u64,
    /// On which channels it is, few of them hot.
    pub(crate) channels: usize,
    /// Longest pause between changes.
    pub(crate) pause: Duration,
}

/// Lets an edge change things until it is told to stop; what it has then stays. Returns its last
/// session.
pub(crate) async fn churn(
    cluster: Arc<Cluster>,
    record: Arc<Record>,
    churn: Churn,
    mut stop: watch::Receiver<bool>,
) -> Result<Session> {
    let mut rng = StdRng::seed_from_u64(churn.seed);
    let (mut region, mut incarnation) = (churn.region, 1);
    loop {
        let mut nodes = cluster.of_region(region);
        nodes.shuffle(&mut rng);
        let session = Session::begin(&cluster, &record, &churn.edge, incarnation, &nodes)?;
        let mut attached: Vec<(u32, usize)> = Vec::new();
        let end = loop {
            if *stop.borrow() {
                return Ok(session);
            }
            let items = change(&mut rng, churn.channels, &mut attached)?;
            let asked = record.now();
            let counted = session.report(items).await;
            if !counted || record.now() - asked > ANSWER {
                let what = format!("{} was not told that its report counts", session.source);
                record.missed(what, region, asked);
            }
            if !counted && !*stop.borrow() {
                // Nobody answered for so long that its server gives up.
                break rng.random_range(0..2);
            }
            if rng.random_ratio(1, 60) {
                break rng.random_range(0..3);
            }
            let pause = rng.random_range(Duration::ZERO..=churn.pause);
            // allow-sleep: the pace of an edge; stopping cuts it short
            drop(tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await);
        };
        if end == 2 {
            session.leave().await;
        } else {
            session.die();
        }
        incarnation += 1;
        if churn.roams {
            region = rng.random_range(0..cluster.plan.regions.len());
            record.count("edges roamed");
        }
    }
}

/// Draws the next change, mostly on few channels.
fn change(
    rng: &mut StdRng,
    channels: usize,
    attached: &mut Vec<(u32, usize)>,
) -> Result<Vec<ReportItem>> {
    let leave = !attached.is_empty() && (attached.len() > 12 || rng.random_bool(0.5));
    if leave {
        let (connection, channel) = attached.swap_remove(rng.random_range(0..attached.len()));
        if rng.random_ratio(1, 8) {
            attached.retain(|(other, _)| *other != connection);
            let connection = format!("c{connection}").parse()?;
            return Ok(vec![ReportItem::ConnectionClosed { connection }]);
        }
        let (connection, channel) = (format!("c{connection}").parse()?, name(channel).parse()?);
        return Ok(vec![ReportItem::Detach {
            connection,
            channel,
        }]);
    }
    // Half of all on the first eighth.
    let channel = rng.random_range(0..channels);
    let channel = if rng.random_bool(0.5) {
        channel / 8
    } else {
        channel
    };
    let connection = rng.random_range(0..6);
    let (on, of) = (name(channel).parse()?, format!("c{connection}").parse()?);
    if attached.contains(&(connection, channel)) {
        let member = format!("m{}", rng.random_range(0..2)).parse()?;
        let item = match rng.random_bool(0.6) {
            true => ReportItem::PresenceEnter {
                connection: of,
                channel: on,
                member,
            },
            false => ReportItem::PresenceLeave {
                connection: of,
                channel: on,
                member,
            },
        };
        return Ok(vec![item]);
    }
    attached.push((connection, channel));
    let objects = Modes::OBJECT_PUBLISH.union(Modes::OBJECT_SUBSCRIBE);
    let modes = match rng.random_bool(0.2) {
        true => Modes::DEFAULT.union(objects),
        false => Modes::DEFAULT,
    };
    Ok(vec![ReportItem::Attach {
        connection: of,
        channel: on,
        modes,
    }])
}

/// Returns the name of a churned channel.
fn name(channel: usize) -> String {
    format!("churn:{channel}")
}

/// Returns the category by whose count a region's writes to an ordered channel are known.
pub(crate) fn category(region: usize) -> Category {
    [
        Category::Publishers,
        Category::Subscribers,
        Category::PresenceConnections,
    ][region % 3]
}

/// Returns the counts of a region's write with this version.
pub(crate) fn counts(region: usize, version: u32) -> Occupancy {
    let mut counts = Occupancy::ZERO;
    counts.set(category(region), version);
    counts
}

/// Writes to an ordered channel until told to stop: absolute counts that only grow, so that whoever
/// reads them knows which write they are of. At the end takes all back.
pub(crate) async fn write(
    cluster: Arc<Cluster>,
    record: Arc<Record>,
    region: usize,
    channel: String,
    pause: Duration,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let edge = format!("writer-{}-{region}", channel.replace(':', "-"));
    let session = Session::begin(&cluster, &record, &edge, 1, &cluster.of_region(region))?;
    let mut version = 0;
    let mut waited = stop;
    loop {
        let last = *waited.borrow();
        version += 1;
        let occupancy = if last {
            Occupancy::ZERO
        } else {
            counts(region, version)
        };
        let name = cluster.plan.regions[region].0.clone();
        let invoked = record.now();
        record
            .write()
            .calls
            .entry(channel.clone())
            .or_default()
            .push(Call {
                op: Op::Apply {
                    region: name,
                    version: version.into(),
                    occupancy,
                },
                invoked,
                // Nobody is told when it gets into the log; see `judge`.
                returned: None,
            });
        let channel = channel.parse()?;
        session
            .report(vec![ReportItem::Counts { channel, occupancy }])
            .await;
        if last {
            session.leave().await;
            return Ok(());
        }
        // allow-sleep: the pace of a writer; stopping cuts it short
        drop(tokio::time::timeout(pause, waited.wait_for(|stop| *stop)).await);
    }
}

/// Attaches and detaches a thousand channels at a time until told to stop; returns how many changes
/// were counted.
pub(crate) async fn load(session: Session, stop: watch::Receiver<bool>) -> Result<u64> {
    let edge = &session.source.edge;
    let channels: Vec<String> = (0..1_000).map(|of| format!("{edge}:{of}")).collect();
    let mut counted = 0;
    for turn in 0_u64.. {
        let items = crate::scenarios::changes(&channels, turn.is_multiple_of(2))?;
        let changes = items.len() as u64;
        if session.report(items).await {
            counted += changes;
        }
        // Only with nothing attached.
        if *stop.borrow() && !turn.is_multiple_of(2) {
            break;
        }
        // allow-sleep: the machine is shared by all nodes
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(counted)
}

/// How often a crowd comes and goes.
pub(crate) const CROWD_TICK: Duration = Duration::from_millis(50);

/// Groups of a crowd: one comes with each tick, and another one leaves.
const CROWD_GROUPS: usize = 8;

/// Attaches `size` connections each [`CROWD_TICK`] to a hundred channels that stay open, and
/// detaches as many, until told to stop; returns the session, which holds the channels open, and
/// how many it attached a second. What the ledger would have of it is of no interest.
pub(crate) async fn crowd(
    session: Session,
    size: usize,
    stop: watch::Receiver<bool>,
) -> Result<(Session, f64)> {
    let edge = &session.source.edge;
    let channels = (0..100).map(|of| format!("crowd:{edge}:{of}").parse());
    let channels = channels.collect::<Result<Vec<ChannelName>, _>>()?;
    let report = async |items| {
        let reported = tokio::time::timeout(PATIENCE, session.client.report(items)).await;
        Ok::<(), anyhow::Error>(reported??)
    };
    let host: ConnectionId = "host".parse()?;
    let opens = channels.iter().map(|of| turn_of(&host, of, true));
    report(opens.collect()).await?;
    let mut groups = Vec::new();
    for group in 0..CROWD_GROUPS {
        let people = (0..size).map(|of| format!("{group}-{of}").parse());
        groups.push(people.collect::<Result<Vec<ConnectionId>, _>>()?);
    }
    // A tick that comes late is made up for: what is offered does not depend on who takes it.
    let (mut attached, mut ticks) = (0, tokio::time::interval(CROWD_TICK));
    let begun = tokio::time::Instant::now();
    for turn in 0.. {
        ticks.tick().await;
        if *stop.borrow() {
            break;
        }
        let comes = groups[turn % CROWD_GROUPS]
            .iter()
            .zip(channels.iter().cycle());
        let mut items: Vec<_> = comes.map(|(who, to)| turn_of(who, to, true)).collect();
        attached += items.len();
        if turn >= CROWD_GROUPS / 2 {
            let goes = groups[(turn - CROWD_GROUPS / 2) % CROWD_GROUPS].iter();
            let goes = goes.zip(channels.iter().cycle());
            items.extend(goes.map(|(who, from)| turn_of(who, from, false)));
        }
        report(items).await?;
    }
    let rate = attached as f64 / begun.elapsed().as_secs_f64();
    tokio::time::timeout(PATIENCE, session.client.flush()).await??;
    Ok((session, rate))
}

/// Says that a connection comes to a channel, or goes.
pub(crate) fn turn_of(connection: &ConnectionId, channel: &ChannelName, comes: bool) -> ReportItem {
    let (connection, channel) = (connection.clone(), channel.clone());
    match comes {
        true => ReportItem::Attach {
            connection,
            channel,
            modes: Modes::DEFAULT,
        },
        false => ReportItem::Detach {
            connection,
            channel,
        },
    }
}

/// Lets a connection come to channels of every shard and go again, a turn each [`CROWD_TICK`], until
/// told to stop: each turn becomes entries of all logs. Returns the session, another connection of
/// which stays.
pub(crate) async fn flicker(session: Session, stop: watch::Receiver<bool>) -> Result<Session> {
    let edge = &session.source.edge;
    let names: Vec<String> = (0..16).map(|of| format!("flicker:{edge}:{of}")).collect();
    let channels = names.iter().map(|name| name.parse());
    let channels = channels.collect::<Result<Vec<ChannelName>, _>>()?;
    anyhow::ensure!(attach(&session, &names).await?, "not counted");
    let guest: ConnectionId = "guest".parse()?;
    let mut ticks = tokio::time::interval(CROWD_TICK);
    for comes in [true, false].into_iter().cycle() {
        ticks.tick().await;
        if comes && *stop.borrow() {
            break;
        }
        let turn = channels.iter().map(|of| turn_of(&guest, of, comes));
        anyhow::ensure!(session.report(turn.collect()).await, "not counted");
    }
    Ok(session)
}

/// A flood's connections, and the channels that each is on: together more changes than wait in a
/// client (`Config::queue_max`), where one that takes back what still waits would spare both.
const FLOOD: (usize, usize) = (80, 1_000);

/// How long it may take to tell what waits in a client and in its window when a flood ends.
const EBB: Duration = Duration::from_secs(60);

/// Lets connections come and go as fast as the client takes it, which is as fast as flow control
/// lets the client tell it, until told to stop; then attaches to half of the channels, as the
/// ledger is told. Returns the session, changes a second, and the part of the time that the
/// client's queue was full.
pub(crate) async fn flood(
    session: Session,
    stop: watch::Receiver<bool>,
) -> Result<(Session, f64, f64)> {
    let edge = &session.source.edge;
    let names: Vec<String> = (0..FLOOD.1).map(|of| format!("{edge}:{of}")).collect();
    let channels = names.iter().map(|name| name.parse());
    let channels = channels.collect::<Result<Vec<ChannelName>, _>>()?;
    let people = (0..FLOOD.0).map(|of| format!("p{of}").parse());
    let people = people.collect::<Result<Vec<ConnectionId>, _>>()?;
    let report = async |who: &ConnectionId, comes: bool| {
        let items = channels.iter().map(|channel| turn_of(who, channel, comes));
        let (items, asked) = (items.collect(), Instant::now());
        tokio::time::timeout(PATIENCE, session.client.report(items)).await??;
        Ok::<Duration, anyhow::Error>(asked.elapsed())
    };
    let (mut changes, mut waited, begun) = (0, Duration::ZERO, Instant::now());
    'told: for comes in [true, false].into_iter().cycle() {
        for who in &people {
            if *stop.borrow() {
                break 'told;
            }
            waited += report(who, comes).await?;
            changes += channels.len();
        }
    }
    let took = begun.elapsed().as_secs_f64();
    for who in &people {
        report(who, false).await?;
    }
    tokio::time::timeout(EBB, session.client.flush()).await??;
    let stays = attach(&session, &names[..FLOOD.1 / 2]).await?;
    anyhow::ensure!(stays, "what stays of a flood is not counted");
    Ok((session, changes as f64 / took, waited.as_secs_f64() / took))
}

/// Attaches to one new channel after the other, called `name` and a number, until told to stop;
/// returns the session, and which channels were due when. None waits until those before it are
/// counted, or the worst delays would keep the next probes from being made.
pub(crate) async fn probe(
    session: Session,
    name: String,
    pace: Duration,
    stop: watch::Receiver<bool>,
) -> Result<(Session, Vec<(String, At)>)> {
    let (mut asked, mut tickets) = (Vec::new(), Vec::new());
    let mut ticks = tokio::time::interval(pace);
    loop {
        // Late or not, it counts from when it should have been.
        let due = session.record.at(ticks.tick().await);
        if *stop.borrow() {
            break;
        }
        let channel = format!("{name}:{}", asked.len());
        let sent = session
            .send(attaches(std::slice::from_ref(&channel))?)
            .await;
        tickets.push(sent.context("a probe is not taken")?);
        asked.push((channel, due));
    }
    let counted = session.settle(tickets).await;
    anyhow::ensure!(counted, "the probes are not counted");
    Ok((session, asked))
}
