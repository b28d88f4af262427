//! Measures what a crowd of realtime clients costs: starts a development cluster, brings the crowd
//! to its first node, and prints a table in Markdown.
//!
//! * *idle*: resident memory for each connection, at three sizes, so that growth shows;
//! * *connect*: connections a second, and processor time of the server for each;
//! * *fan-out*: from the first subscriber's copy of one lifecycle event to the last one's;
//! * *storm*: all clients of a node that is gone connect to another at once, and attach.
//!
//! The crowd shares the machine with the server, so times are what both need together.

#![expect(clippy::print_stdout, reason = "a table is what it is for")]

mod client;
mod server;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use futures::StreamExt as _;

use crate::client::Client;
use crate::server::Server;

/// Measures what a crowd of realtime clients costs a node.
#[derive(Debug, Parser)]
struct Arguments {
    /// The binary to measure.
    #[arg(long, default_value = "target/release/headcount")]
    binary: std::path::PathBuf,
    /// Idle connections; the machine's limit of open files must allow as many and some.
    #[arg(long, default_value_t = 15_000)]
    connections: usize,
    /// Subscribers of the lifecycle events.
    #[arg(long, default_value_t = 10_000)]
    subscribers: usize,
    /// Clients of the storm.
    #[arg(long, default_value_t = 5_000)]
    storm: usize,
    /// The first port of the cluster; it takes 24 from there on.
    #[arg(long, default_value_t = 23_080)]
    port: u16,
}

/// Connections that are being opened at the same time.
const CONCURRENCY: usize = 64;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let server = Server::start(&arguments.binary, arguments.port).await?;
    let measured = measure(&server, &arguments).await;
    server.stop().await;
    measured
}

async fn measure(server: &Server, arguments: &Arguments) -> Result<()> {
    println!("| what | figure |");
    println!("|---|---:|");
    let mut crowd = idle(server, arguments.connections).await?;
    crowd.truncate(arguments.subscribers);
    fan_out(server, &mut crowd).await?;
    drop(crowd);
    storm(server, arguments.storm).await
}

/// Opens connections and looks at the server's memory on the way.
async fn idle(server: &Server, count: usize) -> Result<Vec<Client>> {
    let mut crowd = Vec::with_capacity(count);
    let (mut seconds, processor) = (0.0, server.processor()?);
    let empty = server.resident()?;
    let mut before = empty;
    for part in 1..=3 {
        let more = count * part / 3 - crowd.len();
        let begun = Instant::now();
        crowd.extend(connect(server.first(), more).await?);
        seconds += begun.elapsed().as_secs_f64();
        let now = server.resident()?;
        let each = now.saturating_sub(before) / more;
        println!("| memory of each connection, the {part}. third | {each} B |");
        before = now;
    }
    let used = server.processor()?.saturating_sub(processor);
    let each = before.saturating_sub(empty) / count;
    println!("| memory of each of {count} idle connections | {each} B |");
    println!(
        "| connections a second, in one go | {:.0} |",
        count as f64 / seconds
    );
    let each = used.as_secs_f64() / count as f64;
    println!(
        "| connections in a second of the server's processor time | {:.0} |",
        1.0 / each
    );
    Ok(crowd)
}

/// Opens connections, half of them in each format.
async fn connect(address: std::net::SocketAddr, count: usize) -> Result<Vec<Client>> {
    let connecting = futures::stream::iter(0..count)
        .map(|number| Client::connect(address, number % 2 == 1))
        .buffer_unordered(CONCURRENCY);
    let connected: Vec<_> = connecting.collect().await;
    connected.into_iter().collect()
}

/// Lets everybody follow the lifecycle events, and opens one channel.
async fn fan_out(server: &Server, crowd: &mut [Client]) -> Result<()> {
    let channel = "[meta]channel.lifecycle";
    let attaching = futures::stream::iter(crowd.iter_mut())
        .map(|client| client.attach(channel))
        .buffer_unordered(CONCURRENCY);
    let attached: Vec<_> = attaching.collect().await;
    attached.into_iter().collect::<Result<Vec<()>>>()?;
    let mut spans = Vec::new();
    for round in 0..5 {
        let name = format!("crowd:{round}");
        let mut cause = Client::connect(server.first(), false).await?;
        let begun = Instant::now();
        cause.attach(&name).await?;
        let told = crowd
            .iter_mut()
            .map(|client| client.wait_for("channel.opened", &name));
        let told = futures::future::try_join_all(told).await?;
        let first = told.iter().min().context("there are subscribers")?;
        let last = told.iter().max().context("there are subscribers")?;
        spans.push((last.duration_since(*first), first.duration_since(begun)));
    }
    spans.sort_unstable();
    let (span, _) = spans[spans.len() / 2];
    let worst = spans[spans.len() - 1].0;
    println!(
        "| one event to {} subscribers, first to last copy: median, worst of {} | {} ms, {} ms |",
        crowd.len(),
        spans.len(),
        span.as_millis(),
        worst.as_millis()
    );
    Ok(())
}

/// Brings clients that were attached at a node that is gone to another one, all at once.
async fn storm(server: &Server, count: usize) -> Result<()> {
    let before = server.resident()?;
    let begun = Instant::now();
    let clients = (0..count).map(|number| async move {
        let mut client = Client::connect(server.second(), number % 2 == 1).await?;
        client.attach(&format!("storm:{}", number % 500)).await?;
        Ok::<_, anyhow::Error>(client)
    });
    let clients = futures::future::join_all(clients).await;
    let took = begun.elapsed();
    let clients = clients.into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(clients.len() == count, "everybody is back");
    let grown = server.resident()?.saturating_sub(before) / (1 << 20);
    println!(
        "| {count} clients connect and attach at once | {:.1} s |",
        took.as_secs_f64()
    );
    println!("| memory that this takes at most | {grown} MiB |");
    ensure!(
        took < Duration::from_secs(60),
        "a storm is over in a minute"
    );
    Ok(())
}
