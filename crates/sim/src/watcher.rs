//! Watchers: they are told what happens, and go on elsewhere when they must or like to.

use std::net::SocketAddr;
use std::time::Duration;

use headcount_checker::Step;
use headcount_model::{WatchFilter, WatchItem};
use headcount_net::Dialer;
use headcount_wire::proto::feed::v1::feed_client::FeedClient;
use headcount_wire::{put_watch_request, take_watch_item};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Request;
use tonic::transport::Endpoint;

use crate::plan::{ROOT, authorization};
use crate::record::Shared;
use crate::time;

/// Pause before the next attempt.
const RETRY: Duration = Duration::from_millis(100);

/// Somebody who watches everything.
#[derive(Debug)]
pub(crate) struct Watcher {
    /// Its name.
    pub(crate) name: String,
    /// The nodes that it watches through, nearest first.
    pub(crate) nodes: Vec<SocketAddr>,
    /// Whether it goes elsewhere every few seconds, for no reason.
    pub(crate) roams: bool,
    /// What its chances follow from.
    pub(crate) seed: u64,
    /// How it connects.
    pub(crate) dialer: Dialer,
    /// Where it writes down what it is told.
    pub(crate) shared: Shared,
}

impl Watcher {
    /// Watches for ever.
    pub(crate) async fn run(self) {
        let mut rng = StdRng::seed_from_u64(self.seed);
        self.shared
            .lock()
            .histories
            .insert(self.name.clone(), Default::default());
        let mut at = 0;
        loop {
            let node = self.nodes[at % self.nodes.len()];
            let until = self
                .roams
                .then(|| Instant::now() + Duration::from_millis(rng.random_range(1_000..5_000)));
            let watching = self.watch(node);
            let ended = match until {
                Some(until) => timeout_at(until, watching)
                    .await
                    .unwrap_or_else(|_| Err("it goes elsewhere".to_owned())),
                None => watching.await,
            };
            if let Err(why) = ended {
                let mut record = self.shared.lock();
                record
                    .trace
                    .say(&format_args!("{} leaves {node}: {why}", self.name));
                let history = record.histories.entry(self.name.clone()).or_default();
                history.steps.push(Step::Broken(why));
            }
            at = if self.roams {
                rng.random_range(0..self.nodes.len())
            } else {
                at + 1
            };
            sleep(RETRY).await;
        }
    }

    /// Watches through a node until the stream is over; `Ok` if there was none.
    async fn watch(&self, node: SocketAddr) -> Result<(), String> {
        let cursor = {
            let record = self.shared.lock();
            let history = record.histories.get(&self.name);
            history.and_then(|history| history.cursor.clone())
        };
        let endpoint = Endpoint::from_shared(format!("http://{node}")).expect("a good address");
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(1))
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        let connector = self.dialer.connector().expect("the network is simulated");
        let Ok(channel) = endpoint.connect_with_connector(connector).await else {
            return Ok(());
        };
        let filter = WatchFilter::default();
        let mut request = Request::new(put_watch_request(&filter, cursor.clone()));
        let authorization = authorization(ROOT).parse().expect("a header's value");
        request
            .metadata_mut()
            .insert("authorization", authorization);
        let mut client = FeedClient::new(channel);
        let opening = tokio::time::timeout(Duration::from_secs(5), client.watch(request)).await;
        let mut stream = match opening {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status))
                if status.code() == tonic::Code::Unavailable
                    || std::error::Error::source(&status).is_some() =>
            {
                return Ok(());
            }
            Ok(Err(status)) => {
                let mut record = self.shared.lock();
                record
                    .wrong
                    .push(format!("{} was refused at {node}: {status}", self.name));
                return Ok(());
            }
            Err(_) => return Ok(()),
        };
        if cursor.is_some() {
            let mut record = self.shared.lock();
            record.coverage.count("watch-resumes");
            let history = record.histories.entry(self.name.clone()).or_default();
            let covered = history.covered;
            history.steps.push(Step::Resumed {
                node: node.to_string(),
                covered,
            });
        }
        loop {
            match stream.message().await {
                Ok(Some(response)) => {
                    let item = take_watch_item(response).map_err(|error| error.to_string())?;
                    self.item(item)?;
                }
                Ok(None) => return Err("the stream ended without an end".to_owned()),
                Err(status) => return Err(status.code().to_string()),
            }
        }
    }

    fn item(&self, item: WatchItem) -> Result<(), String> {
        let mut record = self.shared.lock();
        let record = &mut *record;
        let history = record.histories.entry(self.name.clone()).or_default();
        let before = history.steps.len();
        let outcome = history.take(item);
        for step in &history.steps[before..] {
            if let Step::Event(told) = step {
                record.trace.say(&format_args!("{} {told}", self.name));
                record.coverage.count("events-told");
                let heard = record.heard.entry(told.id.clone());
                heard.or_insert_with(time::now);
            }
        }
        outcome
    }
}
