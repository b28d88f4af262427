//! `headcount demo`: a short story on a development cluster, told line by line, through the same
//! surfaces that everybody has: the reporter API, REST, and event streams.
//!
//! The story is checked while it is told: where the cluster does not do what the text says, the
//! command fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use headcount_client::Client;
use headcount_model::{
    Category, ChannelDetails, ChannelName, ConnectionId, EdgeId, Incarnation, MemberId, Modes,
    ReportItem,
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cli::Demo;
use crate::dev::{DevCluster, DevRegion};
use crate::events::since;
use crate::failure::Failure;
use crate::output::Output;
use crate::rest::{Follower, Reader, Told, ToldEvent, Wanted};
use crate::serve::Signals;

/// The key that the story is played with.
const KEY: &str = "dev.root:root-secret";
/// Its channel.
const LOBBY: &str = "demo:lobby";
/// How long anything in the story may take before the story fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// Events that wait to be told; watchers wait beyond it.
const HEARD_MAX: usize = 1_024;
/// How many rush in.
const RUSH: usize = 2_000;
/// A pause for the reader's eye; only where somebody watches.
const BREATH: Duration = Duration::from_millis(900);

pub(crate) async fn run(arguments: &Demo, output: Output) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let cluster = tokio::select! {
        cluster = DevCluster::start(&arguments.dev, output) => cluster?,
        () = signals.next() => return Ok(()),
    };
    let told = tokio::select! {
        told = story(&cluster, arguments.dev.wan, output) => told,
        () = signals.next() => {
            cluster.shutdown().await;
            return Ok(());
        }
    };
    if told.is_err() || arguments.exit_after_story {
        cluster.shutdown().await;
        return told;
    }
    output.say("\nThe cluster is left running for you.\n")?;
    cluster.introduce(&arguments.dev, output)?;
    cluster.run_until(&mut signals).await
}

/// What one watcher heard.
struct Heard {
    region: usize,
    event: ToldEvent,
    /// How long after its cause.
    after: Duration,
    /// Where to go on after it, if nothing else came together with it.
    cursor: Option<String>,
}

/// The story's teller.
struct Teller<'a> {
    regions: &'a [DevRegion],
    readers: Vec<Reader>,
    heard: mpsc::Receiver<Heard>,
    /// Everything that was heard: by region, in order.
    log: Vec<Vec<ToldEvent>>,
    /// Where the first watcher was when the channel had opened: the resume point, and how many
    /// events it had heard.
    bookmark: Option<(String, usize)>,
    linger: Duration,
    step: u32,
    output: Output,
}

async fn story(cluster: &DevCluster, wan: bool, output: Output) -> Result<(), Failure> {
    let regions = &cluster.regions;
    let readers: Result<Vec<Reader>, Failure> = regions
        .iter()
        .map(|region| Reader::new(&region.client, KEY))
        .collect();
    let readers = readers?;
    let (hear, heard) = mpsc::channel(HEARD_MAX);
    let wanted = Wanted {
        prefix: "demo:".to_owned(),
        ..Wanted::default()
    };
    let mut watchers = Watchers::default();
    for (region, reader) in readers.iter().enumerate() {
        let mut follower = reader.clone().follow(wanted.clone(), None);
        follower.open().await.context("no event stream")?;
        watchers
            .0
            .push(tokio::spawn(watch(region, follower, hear.clone())));
    }
    drop(hear);
    let log = vec![Vec::new(); regions.len()];
    let mut teller = Teller {
        regions,
        readers,
        heard,
        log,
        bookmark: None,
        linger: cluster.linger,
        step: 0,
        output,
    };
    teller.tell(wan).await?;
    drop(watchers);
    teller.resumed_elsewhere().await
}

/// The watchers' tasks; ended when dropped.
#[derive(Default)]
struct Watchers(Vec<JoinHandle<()>>);

impl Drop for Watchers {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

async fn watch(region: usize, mut follower: Follower, hear: mpsc::Sender<Heard>) {
    while let Ok(told) = follower.next().await {
        if let Told::Event(event) = told {
            let after = since(event.timestamp);
            let cursor = follower.cursor().map(str::to_owned);
            let event = *event;
            let heard = Heard {
                region,
                event,
                after,
                cursor,
            };
            if hear.send(heard).await.is_err() {
                return;
            }
        }
    }
}

impl Teller<'_> {
    async fn tell(&mut self, wan: bool) -> Result<(), Failure> {
        self.opening(wan).await?;
        let (us, eu, ap) = (
            self.edge(0, "us")?,
            self.edge(1, "eu")?,
            self.edge(2, "ap")?,
        );
        self.first_attach(&us).await?;
        self.second_region(&eu).await?;
        self.a_reader_far_away(&ap).await?;
        self.the_same_answer_everywhere().await?;
        self.a_rush(&us).await?;
        self.leaving(us, eu, ap).await?;
        self.exactly_once()
    }

    async fn opening(&mut self, wan: bool) -> Result<(), Failure> {
        self.chapter("Nobody is on the channel, and asking changes nothing.")?;
        for index in 0..self.regions.len() {
            let (details, _) = self.readers[index].status(LOBBY, false).await?;
            let state = if details.status.is_active {
                "active"
            } else {
                "inactive"
            };
            let line = format!("GET {}/channels/{LOBBY}", self.regions[index].client);
            self.line(&format!("{line}  →  {state}, {}", people(&details)))?;
            demand(
                !details.status.is_active,
                "the channel is active before anybody came",
            )?;
        }
        self.line("A watcher listens in each region from here on (GET /events).")?;
        if wan {
            self.line("Between the regions, messages take 40 to 120 ms, as over an ocean.")?;
        }
        Ok(())
    }

    async fn first_attach(&mut self, us: &Edge) -> Result<(), Failure> {
        self.chapter("An edge in us-east-1 reports, over gRPC, that Alice attached.")?;
        us.report(vec![attach("alice", Modes::DEFAULT)?]).await?;
        self.line("Its own region hears it without asking anybody; the others through the log:")?;
        self.until_all("channel.region.active", Some("us-east-1"))
            .await?;
        self.until_all("channel.opened", None).await?;
        Ok(())
    }

    async fn second_region(&mut self, eu: &Edge) -> Result<(), Failure> {
        self.chapter("Two more come in eu-west-1, and one of them enters presence.")?;
        self.line("The channel is open already, so only the region's own state is news:")?;
        let enter = ReportItem::PresenceEnter {
            connection: connection("bob")?,
            channel: channel()?,
            member: MemberId::new("bob").map_err(Failure::failed)?,
        };
        let bob = attach("bob", Modes::DEFAULT)?;
        eu.report(vec![bob, attach("carol", Modes::DEFAULT)?, enter])
            .await?;
        self.until_all("channel.region.active", Some("eu-west-1"))
            .await?;
        self.until_count(Category::PresenceMembers, 1).await
    }

    async fn a_reader_far_away(&mut self, ap: &Edge) -> Result<(), Failure> {
        self.chapter("Somebody in ap-southeast-1 only listens.")?;
        ap.report(vec![attach("dave", Modes::SUBSCRIBE)?]).await?;
        self.until_all("channel.region.active", Some("ap-southeast-1"))
            .await?;
        self.until_count(Category::Connections, 4).await
    }

    async fn the_same_answer_everywhere(&mut self) -> Result<(), Failure> {
        self.chapter("Each region answers from its own memory, and says how old that is.")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut answers = Vec::new();
            for reader in &self.readers {
                answers.push(reader.status(LOBBY, false).await?);
            }
            let metrics = |index: usize| {
                let details: &ChannelDetails = &answers[index].0;
                details.status.occupancy.metrics
            };
            let agreed = (1..answers.len()).all(|index| metrics(index) == metrics(0))
                && metrics(0).get(Category::Connections) == 4;
            if agreed {
                for (region, (details, freshness)) in self.regions.iter().zip(&answers) {
                    let (name, counts) = (region.name, people(details));
                    let age = freshness.age_ms;
                    self.line(&format!("{name:<15} {counts}; {age} ms old"))?;
                }
                return Ok(());
            }
            demand(
                Instant::now() < deadline,
                "the regions do not agree on the counts",
            )?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn a_rush(&mut self, us: &Edge) -> Result<(), Failure> {
        self.chapter(&format!("{RUSH} people rush in at once, in us-east-1."))?;
        self.line("Counts are absolute and coalesced, so this is a few messages, not thousands:")?;
        let before = self.log[2].len();
        let rush: Result<Vec<ReportItem>, Failure> = (0..RUSH)
            .map(|number| attach(&format!("rush-{number}"), Modes::DEFAULT))
            .collect();
        us.report(rush?).await?;
        let wanted = u32::try_from(RUSH).unwrap_or(u32::MAX) + 4;
        self.until_count(Category::Connections, wanted).await?;
        let told = self.log[2].len() - before;
        self.line(&format!(
            "ap-southeast-1 was told {told} event(s) about {RUSH} attachments."
        ))
    }

    async fn leaving(&mut self, us: Edge, eu: Edge, ap: Edge) -> Result<(), Failure> {
        self.chapter("Everybody leaves us-east-1.")?;
        let linger = humantime::format_duration(self.linger);
        self.line(&format!(
            "A region waits a while ({linger}) before it says so, lest it flaps:"
        ))?;
        us.leave().await?;
        self.until_all("channel.region.inactive", Some("us-east-1"))
            .await?;
        self.line("The channel is open still: there are people in the other two.")?;

        self.chapter("Then the rest, and the last one closes the door.")?;
        eu.leave().await?;
        ap.leave().await?;
        self.until_all("channel.region.inactive", Some("eu-west-1"))
            .await?;
        self.until_all("channel.region.inactive", Some("ap-southeast-1"))
            .await?;
        self.until_all("channel.closed", None).await?;
        Ok(())
    }

    fn exactly_once(&mut self) -> Result<(), Failure> {
        self.chapter("Exactly once: what the three watchers heard, compared by the events' ids.")?;
        let facts: Vec<BTreeMap<&str, &str>> = self
            .log
            .iter()
            .map(|log| lifecycle(log).collect())
            .collect();
        for (region, log) in self.regions.iter().zip(&self.log) {
            let ids: BTreeSet<&str> = log.iter().map(|event| event.id.as_str()).collect();
            demand(
                ids.len() == log.len(),
                &format!("{} heard an event twice", region.name),
            )?;
            self.line(&format!(
                "{:<15} {} events, no id twice",
                region.name,
                log.len()
            ))?;
        }
        let same = facts.iter().all(|other| *other == facts[0]);
        demand(same, "the regions heard different events")?;
        let times = |name: &str| facts[0].values().filter(|told| **told == name).count();
        let once = times("channel.opened") == 1 && times("channel.closed") == 1;
        demand(once, "opened and closed were not told once each")?;
        let told = facts[0].len();
        self.line(&format!(
            "The same {told} lifecycle events; opened and closed once each."
        ))
    }

    /// Goes on in another region where the first watcher was early in the story.
    async fn resumed_elsewhere(&mut self) -> Result<(), Failure> {
        self.chapter("Somebody who listened in us-east-1 goes on in ap-southeast-1, by cursor.")?;
        let (cursor, position) = self.bookmark.take().context("no event brought a cursor")?;
        let wanted = Wanted {
            prefix: LOBBY.to_owned(),
            ..Wanted::default()
        };
        let mut follower = self.readers[2].clone().follow(wanted, Some(cursor));
        let mut again: Vec<ToldEvent> = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while again.iter().all(|event| event.name != "channel.closed") {
            let told = tokio::time::timeout_at(deadline, follower.next()).await;
            match told.context("the journal does not bring the end of the story")?? {
                Told::Event(event) => again.push(*event),
                Told::Gap(gap) => demand(false, &format!("events are missing: {gap}"))?,
                Told::Broken(reason) => demand(false, &reason)?,
            }
        }
        let missed: Vec<_> = lifecycle(&self.log[0][position..]).collect();
        let brought: Vec<_> = lifecycle(&again).collect();
        let (missed_set, brought_set): (BTreeSet<_>, BTreeSet<_>) =
            (missed.iter().collect(), brought.iter().collect());
        demand(missed_set == brought_set, "the journal tells other events")?;
        demand(
            brought.len() == brought_set.len(),
            "the journal tells an event twice",
        )?;
        let count = brought.len();
        self.line(&format!(
            "The {count} lifecycle events since then, each once, by the same ids."
        ))
    }

    /// Begins a part of the story.
    fn chapter(&mut self, text: &str) -> Result<(), Failure> {
        self.step += 1;
        let step = self.step;
        self.output.json(&json!({ "story": step, "text": text }))?;
        self.output.say(&format!("\n{step}. {text}"))
    }

    fn line(&self, text: &str) -> Result<(), Failure> {
        self.output
            .json(&json!({ "story": self.step, "text": text }))?;
        self.output.say(&format!("   {text}"))
    }

    /// Waits until the watchers of all regions have heard such an event, telling all that they
    /// hear meanwhile.
    async fn until_all(&mut self, name: &str, region: Option<&str>) -> Result<(), Failure> {
        let is_wanted = |event: &ToldEvent| {
            event.name == name
                && region.is_none_or(|region| event.data.region.as_deref() == Some(region))
        };
        let what = format!("{name} {}", region.unwrap_or_default());
        self.until(&what, |log| {
            log.iter().all(|heard| heard.iter().any(is_wanted))
        })
        .await
    }

    /// Waits until the watchers of all regions have heard of that count.
    async fn until_count(&mut self, category: Category, count: u32) -> Result<(), Failure> {
        let what = format!("{} {count}", category.as_str());
        let has_count = |event: &ToldEvent| {
            event.name == "channel.occupancy"
                && event.data.status.occupancy.metrics.get(category) == count
        };
        self.until(&what, |log| {
            log.iter().all(|heard| heard.iter().any(has_count))
        })
        .await
    }

    async fn until(
        &mut self,
        what: &str,
        reached: impl Fn(&[Vec<ToldEvent>]) -> bool,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        while !reached(&self.log) {
            let heard = tokio::time::timeout_at(deadline, self.heard.recv()).await;
            let heard = heard.with_context(|| format!("nobody heard of {what}"))?;
            self.hear(heard.context("the watchers ended")?)?;
        }
        // What belongs to the same moment should stand in the same part of the story.
        while let Ok(heard) = self.heard.try_recv() {
            self.hear(heard)?;
        }
        if Output::is_terminal() {
            tokio::time::sleep(BREATH).await;
        }
        Ok(())
    }

    fn hear(&mut self, heard: Heard) -> Result<(), Failure> {
        let Heard {
            region,
            event,
            after,
            cursor,
        } = heard;
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let name = self.regions[region].name;
        self.output
            .json(&json!({ "heard_in": name, "after_ms": after_ms, "event": event }))?;
        let about = event.data.region.as_deref().unwrap_or_default();
        let about = if event.name.starts_with("channel.region.") {
            about
        } else {
            "everywhere"
        };
        self.output.say(&format!(
            "   {name:<15} hears {:<23} {about:<15} {}  ({after_ms} ms)",
            event.name,
            people(&event.data),
        ))?;
        self.log[region].push(event);
        let opened = self.log[0]
            .iter()
            .any(|event| event.name == "channel.opened");
        if region == 0 && self.bookmark.is_none() && opened {
            self.bookmark = cursor.map(|cursor| (cursor, self.log[0].len()));
        }
        Ok(())
    }

    fn edge(&self, region: usize, name: &str) -> Result<Edge, Failure> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let incarnation = u64::try_from(now.as_millis()).unwrap_or(1);
        let edge = EdgeId::new(&format!("demo-{name}")).map_err(Failure::failed)?;
        let nodes = vec![self.regions[region].reporter.clone()];
        let authorization = format!("Basic {}", BASE64.encode(KEY));
        let config =
            headcount_client::Config::new(nodes, authorization, edge, Incarnation(incarnation));
        let (client, mut notices) = Client::start(config);
        let refused = tokio::spawn(async move {
            let mut refused = 0;
            while let Some(notice) = notices.recv().await {
                refused += u32::from(matches!(notice, headcount_client::Notice::Refused(_)));
            }
            refused
        });
        Ok(Edge { client, refused })
    }
}

/// Somebody else's realtime server, played by this process.
struct Edge {
    client: Client,
    refused: JoinHandle<u32>,
}

impl Edge {
    /// Reports, and waits until the node has counted it.
    async fn report(&self, items: Vec<ReportItem>) -> Result<(), Failure> {
        self.client.report(items).await.map_err(Failure::failed)?;
        let counted = tokio::time::timeout(PATIENCE, self.client.flush()).await;
        counted
            .context("the node does not acknowledge")?
            .map_err(Failure::failed)
    }

    /// Closes the session in good order: everything attached at the edge leaves.
    async fn leave(self) -> Result<(), Failure> {
        let gone = tokio::time::timeout(PATIENCE, self.client.goodbye()).await;
        gone.context("the node does not let the edge go")?
            .map_err(Failure::failed)?;
        let refused = self.refused.await.map_err(Failure::failed)?;
        demand(
            refused == 0,
            "the node refused something that the edge reported",
        )
    }
}

/// Says a channel's counts in the fewest words: connections, and members of the presence set.
fn people(details: &ChannelDetails) -> String {
    let count = |category| details.status.occupancy.metrics.get(category);
    let members = count(Category::PresenceMembers);
    match (count(Category::Connections), members) {
        (0, _) => "nobody".to_owned(),
        (1, 0) => "1 connection".to_owned(),
        (connections, 0) => format!("{connections} connections"),
        (connections, _) => format!("{connections} connections, {members} present"),
    }
}

/// Returns the ids and names of the events that are about the channel's life, not its counts.
fn lifecycle(events: &[ToldEvent]) -> impl Iterator<Item = (&str, &str)> {
    let lifecycle = events
        .iter()
        .filter(|event| event.name != "channel.occupancy");
    lifecycle.map(|event| (event.id.as_str(), event.name.as_str()))
}

fn demand(holds: bool, otherwise: &str) -> Result<(), Failure> {
    if holds {
        Ok(())
    } else {
        Err(Failure::Failed(anyhow::anyhow!("{otherwise}")))
    }
}

fn attach(name: &str, modes: Modes) -> Result<ReportItem, Failure> {
    Ok(ReportItem::Attach {
        connection: connection(name)?,
        channel: channel()?,
        modes,
    })
}

fn connection(name: &str) -> Result<ConnectionId, Failure> {
    ConnectionId::new(name).map_err(Failure::failed)
}

fn channel() -> Result<ChannelName, Failure> {
    ChannelName::new(LOBBY).map_err(Failure::failed)
}
