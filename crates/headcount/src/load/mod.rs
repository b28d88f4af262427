//! `headcount load`: edges that report traffic as real ones would, and how it went.

mod traffic;
mod zipf;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use headcount_client::{Client, Notice};
use headcount_model::{EdgeId, Incarnation, ReportItem};
use serde::Serialize;
use tokio::sync::mpsc;
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
/// How long the last acknowledgements are waited for.
const LAST: Duration = Duration::from_secs(30);

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
    notices: mpsc::Receiver<Notice>,
}

pub(crate) async fn run(arguments: Load, connect: &Connect, output: Output) -> Result<(), Failure> {
    let shape = shape(&arguments)?;
    let mut traffic = Traffic::new(shape, arguments.seed)
        .map_err(|error| Failure::usage(format!("--prefix: {error}")))?;
    let mut edges = edges(&arguments, connect.key()?)?;
    let mut signals = Signals::listen()?;

    let begin = Instant::now();
    let end = arguments.duration.map(|duration| begin + duration);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut progress = Progress::default();
    let mut told = (begin, 0);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = signals.next() => break,
        }
        let now = Instant::now();
        if end.is_some_and(|end| now >= end) {
            break;
        }
        progress.changes = traffic.changes;
        for (edge, items) in edges.iter().zip(traffic.advance(now - begin)) {
            progress.items += items.len() as u64;
            report(edge, items).await?;
        }
        if now - told.0 >= PROGRESS {
            progress.items_per_second = rate(progress.items - told.1, now - told.0);
            told = (now, progress.items);
            tell(&mut progress, &mut edges, &traffic, begin, output).await?;
        }
    }
    progress.finished = true;
    progress.items_per_second = rate(progress.items, begin.elapsed());
    tell(&mut progress, &mut edges, &traffic, begin, output).await?;
    for edge in edges {
        // An edge that cannot say goodbye any more has nothing left to take back.
        drop(tokio::time::timeout(LAST, edge.client.goodbye()).await);
    }
    Ok(())
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

fn edges(arguments: &Load, key: &str) -> Result<Vec<Edge>, Failure> {
    for address in &arguments.reporter {
        server_url("--reporter", address)?;
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let incarnation = Incarnation(u64::try_from(now.as_millis()).unwrap_or(1));
    let authorization = format!("Basic {}", BASE64.encode(key));
    let process = std::process::id();
    (0..arguments.edges)
        .map(|index| {
            // One address each: an edge that moved to another region would count in both.
            let node = arguments.reporter[index % arguments.reporter.len()].clone();
            let name = EdgeId::new(&format!("load-{process}-{index}")).map_err(Failure::failed)?;
            let config =
                headcount_client::Config::new(vec![node], authorization.clone(), name, incarnation);
            let (client, notices) = Client::start(config);
            Ok(Edge { client, notices })
        })
        .collect()
}

async fn report(edge: &Edge, items: Vec<ReportItem>) -> Result<(), Failure> {
    if items.is_empty() {
        Ok(())
    } else {
        edge.client.report(items).await.map_err(Failure::failed)
    }
}

/// Waits until everything reported is counted, and tells how far it is.
async fn tell(
    progress: &mut Progress,
    edges: &mut [Edge],
    traffic: &Traffic,
    begin: Instant,
    output: Output,
) -> Result<(), Failure> {
    let asked = Instant::now();
    let flushes = futures::future::try_join_all(edges.iter().map(|edge| edge.client.flush()));
    match tokio::time::timeout(LAST, flushes).await {
        Ok(flushed) => flushed.map(drop).map_err(Failure::failed)?,
        Err(_) => complain(&format!("no acknowledgement within {LAST:?}; going on")),
    }
    progress.acknowledged_ms = asked.elapsed().as_secs_f64() * 1_000.0;
    progress.seconds = begin.elapsed().as_secs_f64();
    progress.connections = traffic.present();
    for edge in edges {
        while let Ok(notice) = edge.notices.try_recv() {
            note(notice, progress)?;
        }
    }
    output.show(progress, |progress| {
        let Progress {
            seconds,
            connections,
            changes,
            items,
            ..
        } = progress;
        let ending = if progress.finished { "finished" } else { "" };
        format!(
            "{seconds:>6.1} s  {connections:>7} attached  {changes:>9} changes  {items:>9} items \
             {:>8.0}/s  acknowledged in {:>6.1} ms  {} refused  {} disconnects  {ending}\n",
            progress.items_per_second,
            progress.acknowledged_ms,
            progress.refused,
            progress.disconnects,
        )
    })
}

fn note(notice: Notice, progress: &mut Progress) -> Result<(), Failure> {
    match notice {
        Notice::Connected { .. } => {}
        Notice::Disconnected { reason } => {
            progress.disconnects += 1;
            complain(&format!("disconnected: {reason}"));
        }
        Notice::Refused(refused) => {
            progress.refused += 1;
            if progress.refused == 1 {
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
