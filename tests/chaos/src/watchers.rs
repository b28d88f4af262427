//! Watchers that stay with a region and that go on elsewhere all the time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use headcount_checker::Step;
use headcount_model::{WatchFilter, WatchItem};
use headcount_wire::proto::feed::v1::feed_client::FeedClient;
use headcount_wire::{put_watch_request, take_watch_item};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;
use tonic::Request;
use tonic::transport::Endpoint;

use crate::cluster::Cluster;
use crate::edges::authorization;
use crate::record::Record;

/// Who watches.
#[derive(Clone, Debug)]
pub(crate) struct Watcher {
    /// Its name in the record.
    pub(crate) name: String,
    /// The nodes that it uses, one after the other.
    pub(crate) nodes: Vec<usize>,
    /// How long it stays with one, if it does not stay as long as it can.
    pub(crate) stays: Option<Duration>,
    /// How slowly it reads: a pause after each message.
    pub(crate) pause: Option<Duration>,
    /// From what chance is drawn.
    pub(crate) seed: u64,
}

/// Lets a watcher follow everything until it is told to stop.
pub(crate) async fn watch(
    cluster: Arc<Cluster>,
    record: Arc<Record>,
    watcher: Watcher,
    mut stop: watch::Receiver<bool>,
) {
    let mut rng = StdRng::seed_from_u64(watcher.seed);
    let mut turn = 0;
    while !*stop.borrow() {
        let node = match watcher.stays {
            None => watcher.nodes[turn % watcher.nodes.len()],
            Some(_) => watcher.nodes[rng.random_range(0..watcher.nodes.len())],
        };
        turn += 1;
        let most = watcher.stays.map_or(Duration::MAX, |stays| {
            stays.mul_f64(rng.random_range(0.5..1.5))
        });
        let following = follow(&cluster, &record, &watcher, node);
        tokio::select! {
            followed = following => {
                if let Err(why) = followed {
                    note(&record, &watcher.name, Step::Broken(why.to_string()));
                }
            }
            // allow-sleep: that long it stays with a node
            () = tokio::time::sleep(most) => record.count("watchers moved"),
            _ = stop.wait_for(|stop| *stop) => return,
        }
        // allow-sleep: a client's pause before it connects anew
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn note(record: &Record, watcher: &str, step: Step) {
    let mut inner = record.write();
    let history = inner.histories.entry(watcher.to_owned()).or_default();
    history.steps.push(step);
}

async fn follow(cluster: &Cluster, record: &Record, watcher: &Watcher, node: usize) -> Result<()> {
    let mut endpoint = Endpoint::from_shared(cluster.reporter(node))?
        .connect_timeout(Duration::from_secs(1))
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2));
    if watcher.pause.is_some() {
        // As little as the protocol has: what is not read soon waits in the node, not here.
        endpoint = endpoint.initial_stream_window_size(65_535);
    }
    // A node that is down is no part of the history.
    let Ok(channel) = endpoint.connect().await else {
        return Ok(());
    };
    let name = &watcher.name;
    let cursor = record
        .write()
        .histories
        .entry(name.clone())
        .or_default()
        .cursor
        .clone();
    let mut request = Request::new(put_watch_request(&WatchFilter::default(), cursor.clone()));
    request
        .metadata_mut()
        .insert("authorization", authorization().parse()?);
    let mut client = FeedClient::new(channel);
    let asked = tokio::time::timeout(Duration::from_secs(4), client.watch(request)).await;
    let mut stream = match asked {
        Ok(Ok(stream)) => stream.into_inner(),
        Ok(Err(status)) => {
            let gone = std::error::Error::source(&status).is_some();
            if !gone && status.code() != tonic::Code::Unavailable {
                let what = format!("{name} was refused by node {node}: {status}");
                record.write().wrong.push(what);
            }
            return Ok(());
        }
        Err(_) => return Ok(()),
    };
    if cursor.is_some() {
        let mut inner = record.write();
        let history = inner.histories.entry(name.clone()).or_default();
        let covered = history.covered;
        history.steps.push(Step::Resumed {
            node: format!("node {node}"),
            covered,
        });
        drop(inner);
        record.count("watches resumed");
    }
    while let Some(response) = stream.message().await? {
        take(record, name, take_watch_item(response)?);
        if let Some(pause) = watcher.pause {
            // allow-sleep: a reader that is slow on purpose
            tokio::time::sleep(pause).await;
        }
    }
    Ok(())
}

fn take(record: &Record, watcher: &str, item: WatchItem) {
    let now = record.now();
    let mut inner = record.write();
    let inner = &mut *inner;
    let history = inner.histories.entry(watcher.to_owned()).or_default();
    let heard = inner.heard.entry(watcher.to_owned()).or_default();
    let before = history.steps.len();
    let outcome = history.take(item);
    for step in &history.steps[before..] {
        if let Step::Event(told) = step {
            *inner.counts.entry("events told").or_default() += 1;
            heard.entry(told.id.clone()).or_insert(now);
        }
    }
    if let Err(why) = outcome {
        history.steps.push(Step::Broken(why));
    }
}
