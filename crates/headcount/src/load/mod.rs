//! `headcount load`: edges that report traffic as real ones would, and how it went.

mod traffic;
mod zipf;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::{Stream, StreamExt};
use headcount_client::{Client, Notice};
use headcount_model::{EdgeId, Incarnation};
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior};

use crate::cli::{Connect, Load, Style};
use crate::failure::Failure;
use crate::output::{Output, complain};
use crate::rest::server_url;
use crate::serve::Signals;
use traffic::{Shape, Traffic};

/// How often what happened is reported: often enough to look steady, seldom enough to batch.
const TICK: Duration = Duration::from_millis(20);
/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long acknowledgements are waited for before the next progress is told without them.
const FLUSH: Duration = Duration::from_secs(30);
/// How long the last acknowledgements are waited for, and then the goodbyes.
const LAST: Duration = Duration::from_secs(5);

/// How far it is.
#[derive(Clone, Debug, Default, Serialize)]
struct Progress {
    /// Since the beginning.
    seconds: f64,
    /// Connections that are attached, bursts left out.
    connections: usize,
    /// Attaches and detaches so far.
    changes: u64,
    /// Items reported so far.
    items: u64,
    /// Items reported a second, since the last progress.
    items_per_second: f64,
    /// How long the slowest edge waited until all that it had reported was counted.
    acknowledged_ms: f64,
    /// Items that nodes refused.
    refused: u64,
    /// Streams that broke or could not be opened.
    disconnects: u64,
    /// Whether this is the last one.
    finished: bool,
}

/// One edge.
struct Edge {
    client: Client,
    /// Whether it has told anything yet.
    reports: AtomicBool,
}

/// What edges were told. Written by [`listen`], and by whoever saw an acknowledgement; read when
/// progress is told. The counts order nothing.
#[derive(Debug, Default)]
struct Heard {
    refused: AtomicU64,
    disconnects: AtomicU64,
    acknowledged: AtomicBool,
}

pub(crate) async fn run(arguments: Load, connect: &Connect, output: Output) -> Result<(), Failure> {
    let shape = shape(&arguments)?;
    let traffic = Traffic::new(shape, arguments.seed)
        .map_err(|error| Failure::usage(format!("--prefix: {error}")))?;
    let mut signals = Signals::listen()?;
    let (edges, notices) = edges(&arguments, connect.key()?)?;
    let heard = Heard::default();
    let mut load = Running {
        traffic,
        edges,
        heard: &heard,
        begin: Instant::now(),
        progress: Progress::default(),
        output,
    };
    let mut listening = std::pin::pin!(listen(notices, &heard));
    // Whatever the load waits for, its time and the operator end it.
    tokio::select! {
        failure = &mut listening => return Err(failure),
        failure = load.report_for_ever() => return Err(failure),
        () = ending(arguments.duration) => {}
        () = signals.next() => {}
    }
    tokio::select! {
        failure = &mut listening => return Err(failure),
        told = load.finish() => told?,
        () = signals.next() => {}
    }
    load.verdict()
}

/// Waits for the end of the time that was given, if any was.
async fn ending(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// The load under way.
struct Running<'a> {
    traffic: Traffic,
    edges: Vec<Edge>,
    heard: &'a Heard,
    begin: Instant,
    progress: Progress,
    output: Output,
}

impl Running<'_> {
    /// Reports until that is not possible any more, and returns why.
    async fn report_for_ever(&mut self) -> Failure {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = (self.begin, 0);
        loop {
            ticks.tick().await;
            let reported = self.report(&mut told).await;
            if let Err(failure) = reported {
                return failure;
            }
        }
    }

    async fn report(&mut self, told: &mut (Instant, u64)) -> Result<(), Failure> {
        let now = Instant::now();
        self.progress.changes = self.traffic.changes;
        let items = self.traffic.advance(now - self.begin);
        for (edge, items) in self.edges.iter().zip(items) {
            if !items.is_empty() {
                self.progress.items += items.len() as u64;
                edge.reports.store(true, Ordering::Relaxed);
                edge.client.report(items).await.map_err(Failure::failed)?;
            }
        }
        if now - told.0 >= PROGRESS {
            self.progress.items_per_second = rate(self.progress.items - told.1, now - told.0);
            *told = (now, self.progress.items);
            self.tell(FLUSH).await?;
        }
        Ok(())
    }

    /// Tells the last progress and takes everything back.
    async fn finish(&mut self) -> Result<(), Failure> {
        self.progress.finished = true;
        self.progress.items_per_second = rate(self.progress.items, self.begin.elapsed());
        self.tell(LAST).await?;
        let goodbyes = self.edges.drain(..).map(|edge| edge.client.goodbye());
        // An edge that cannot say goodbye any more has nothing left to take back.
        drop(tokio::time::timeout(LAST, futures::future::join_all(goodbyes)).await);
        Ok(())
    }

    /// Waits until everything reported is counted, and tells how far it is.
    async fn tell(&mut self, patience: Duration) -> Result<(), Failure> {
        let asked = Instant::now();
        let flushes = self.edges.iter().map(|edge| async {
            let flushed = edge.client.flush().await;
            if flushed.is_ok() && edge.reports.load(Ordering::Relaxed) {
                self.heard.acknowledged.store(true, Ordering::Relaxed);
            }
            flushed
        });
        match tokio::time::timeout(patience, futures::future::try_join_all(flushes)).await {
            Ok(flushed) => flushed.map(drop).map_err(Failure::failed)?,
            Err(_) => complain(&format!("not everything acknowledged within {patience:?}")),
        }
        let progress = &mut self.progress;
        progress.acknowledged_ms = asked.elapsed().as_secs_f64() * 1_000.0;
        progress.seconds = self.begin.elapsed().as_secs_f64();
        progress.connections = self.traffic.present();
        progress.refused = self.heard.refused.load(Ordering::Relaxed);
        progress.disconnects = self.heard.disconnects.load(Ordering::Relaxed);
        self.output.show(progress, Progress::line)
    }

    /// Says whether that was a load at all.
    fn verdict(&self) -> Result<(), Failure> {
        let items = self.progress.items;
        let refused = self.heard.refused.load(Ordering::Relaxed);
        let wrong = if items == 0 {
            None
        } else if !self.heard.acknowledged.load(Ordering::Relaxed) {
            Some("no node acknowledged anything".to_owned())
        } else if refused.saturating_mul(2) >= items {
            Some(format!("{refused} of {items} items were refused"))
        } else {
            None
        };
        wrong.map_or(Ok(()), |wrong| Err(Failure::Failed(anyhow::anyhow!(wrong))))
    }
}

impl Progress {
    /// Tells it to people.
    fn line(&self) -> String {
        let Self {
            seconds,
            connections,
            changes,
            items,
            ..
        } = self;
        let ending = if self.finished { "finished" } else { "" };
        format!(
            "{seconds:>6.1} s  {connections:>7} attached  {changes:>9} changes  {items:>9} items \
             {:>8.0}/s  acknowledged in {:>6.1} ms  {} refused  {} disconnects  {ending}\n",
            self.items_per_second, self.acknowledged_ms, self.refused, self.disconnects,
        )
    }
}

fn shape(arguments: &Load) -> Result<Shape, Failure> {
    let share = |name: &str, value: f64| {
        let good = (0.0..=1.0).contains(&value);
        if good {
            Ok(value)
        } else {
            Err(Failure::usage(format!("{name}: must be from 0 to 1")))
        }
    };
    let positive = |name: &str, value: f64| {
        let good = value.is_finite() && value >= 0.0;
        if good {
            Ok(value)
        } else {
            Err(Failure::usage(format!("{name}: must not be negative")))
        }
    };
    if arguments.edges == 0 || arguments.channels == 0 {
        return Err(Failure::usage("--edges and --channels: must be at least 1"));
    }
    let burst_every = positive("--burst-every", arguments.burst_every)?;
    Ok(Shape {
        edges: arguments.edges,
        channels: arguments.channels,
        zipf: positive("--zipf", arguments.zipf)?,
        connections: arguments.connections,
        rate: positive("--rate", arguments.rate)?,
        presence: share("--presence", arguments.presence)?,
        readers: share("--readers", arguments.readers)?,
        burst_every: (burst_every > 0.0).then(|| Duration::from_secs_f64(burst_every)),
        burst_size: arguments.burst_size,
        counts: arguments.style == Style::Counts,
        prefix: arguments.prefix.clone(),
    })
}

/// Makes the edges, and one stream of all that they have to say.
fn edges(
    arguments: &Load,
    key: &str,
) -> Result<(Vec<Edge>, impl Stream<Item = Notice> + use<>), Failure> {
    for address in &arguments.reporter {
        server_url("--reporter", address)?;
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let incarnation = Incarnation(u64::try_from(now.as_millis()).unwrap_or(1));
    let authorization = format!("Basic {}", BASE64.encode(key));
    let process = std::process::id();
    let mut edges = Vec::new();
    let mut notices = Vec::new();
    for index in 0..arguments.edges {
        // One address each: an edge that moved to another region would count in both.
        let node = arguments.reporter[index % arguments.reporter.len()].clone();
        let name = EdgeId::new(&format!("load-{process}-{index}")).map_err(Failure::failed)?;
        let config =
            headcount_client::Config::new(vec![node], authorization.clone(), name, incarnation);
        let (client, told) = Client::start(config);
        edges.push(Edge {
            client,
            reports: AtomicBool::new(false),
        });
        notices.push(
            futures::stream::unfold(told, async |mut told| Some((told.recv().await?, told)))
                .boxed(),
        );
    }
    Ok((edges, futures::stream::select_all(notices)))
}

/// Takes notices as they come; returns when one says that going on is of no use.
async fn listen(mut notices: impl Stream<Item = Notice> + Unpin, heard: &Heard) -> Failure {
    while let Some(notice) = notices.next().await {
        if let Err(failure) = note(notice, heard) {
            return failure;
        }
    }
    // All edges have said goodbye.
    std::future::pending().await
}

fn note(notice: Notice, heard: &Heard) -> Result<(), Failure> {
    match notice {
        Notice::Connected { .. } => {}
        Notice::Disconnected {
            reason,
            unauthenticated: true,
        } => {
            let reason = anyhow::anyhow!("the node does not accept the key: {reason}");
            return Err(Failure::Failed(reason));
        }
        Notice::Disconnected { reason, .. } => {
            heard.disconnects.fetch_add(1, Ordering::Relaxed);
            complain(&format!("disconnected: {reason}"));
        }
        Notice::Refused(refused) => {
            if heard.refused.fetch_add(1, Ordering::Relaxed) == 0 {
                complain(&format!("the first refusal: {refused:?}"));
            }
        }
        Notice::Missed(notices) => complain(&format!("{notices} notices were lost")),
        Notice::Stopped(stopped) => return Err(Failure::failed(stopped)),
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "beyond 2^53 nobody sees it")]
fn rate(items: u64, span: Duration) -> f64 {
    items as f64 / span.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn shaped(flags: &str) -> Result<Shape, Failure> {
        let line = format!("headcount load {flags}");
        match Cli::try_parse_from(line.split_whitespace())
            .unwrap()
            .command
        {
            Command::Load(arguments) => shape(&arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_out_of_range_are_usage() {
        assert!(shaped("").is_ok());
        assert!(shaped("--burst-every 0").unwrap().burst_every.is_none());
        for bad in [
            "--presence 1.5",
            "--edges 0",
            "--channels 0",
            "--rate=-1",
            "--zipf=NaN",
        ] {
            assert!(matches!(shaped(bad), Err(Failure::Usage(_))), "{bad}");
        }
    }
}
