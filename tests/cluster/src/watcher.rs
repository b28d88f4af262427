//! A watcher: collects events over gRPC or server-sent events, and goes on elsewhere.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use headcount_model::{ChannelDetails, EventKind, WatchFilter};
use headcount_wire::proto::feed::v1::feed_client::FeedClient;
use headcount_wire::{put_watch_request, take_watch_item};
use tokio::task::JoinHandle;
use tonic::Request;
use tonic::transport::Endpoint;

use crate::{Cluster, History, ROOT, Reader, Step, Told, authorization, wait_until};

/// Pause before the next attempt after a node that does not answer.
const RETRY: Duration = Duration::from_millis(50);

/// How a watcher is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Surface {
    Grpc,
    Sse,
}

/// Somebody who watches an app's channels through one node at a time.
#[derive(Debug)]
pub struct Watcher {
    surface: Surface,
    prefix: String,
    kept: Arc<Mutex<History>>,
    task: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Watches channels with a prefix over gRPC through the first of `nodes`; if that one fails, it
    /// goes on with the next, and so on around. Returns once the watch has a resume point, so that
    /// whatever happens afterwards is told.
    pub async fn grpc(cluster: &Cluster, nodes: &[usize], prefix: &str) -> Self {
        Self::begin(Surface::Grpc, cluster, nodes, prefix).await
    }

    /// Watches channels with a prefix by server-sent events, otherwise as [`Watcher::grpc`].
    pub async fn sse(cluster: &Cluster, nodes: &[usize], prefix: &str) -> Self {
        Self::begin(Surface::Sse, cluster, nodes, prefix).await
    }

    async fn begin(surface: Surface, cluster: &Cluster, nodes: &[usize], prefix: &str) -> Self {
        let kept = Arc::default();
        let mut watcher = Self {
            surface,
            prefix: prefix.to_owned(),
            kept,
            task: None,
        };
        watcher.resume(cluster, nodes);
        watcher
            .wait_for("a watch begins", |history| history.cursor.is_some())
            .await;
        watcher
    }

    /// Cuts the watch wherever it is.
    pub async fn cut(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            if let Err(error) = task.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    /// Goes on with the newest resume point through the first of `nodes`.
    ///
    /// # Panics
    /// If the watch was not cut.
    pub fn resume(&mut self, cluster: &Cluster, nodes: &[usize]) {
        assert!(self.task.is_none(), "the watch was not cut");
        let addresses = nodes.iter().map(|node| match self.surface {
            Surface::Grpc => format!("http://{}", cluster.ports(*node).reporter),
            Surface::Sse => format!("http://{}", cluster.ports(*node).client),
        });
        let watching = Watching {
            surface: self.surface,
            prefix: self.prefix.clone(),
            nodes: addresses.collect(),
            http: cluster.http().clone(),
            kept: self.kept.clone(),
        };
        self.task = Some(tokio::spawn(watching.run()));
    }

    /// Cuts the watch and goes on through other nodes.
    pub async fn move_to(&mut self, cluster: &Cluster, nodes: &[usize]) {
        self.cut().await;
        self.resume(cluster, nodes);
    }

    /// Returns what was told so far.
    #[must_use]
    pub fn history(&self) -> History {
        lock(&self.kept).clone()
    }

    /// Waits until what was told is as wanted.
    pub async fn wait_for(&self, why: &str, wanted: impl Fn(&History) -> bool) {
        wait_until(why, async || {
            let history = lock(&self.kept);
            wanted(&history)
                .then_some(())
                .ok_or_else(|| format!("told so far:\n{history}"))
        })
        .await;
    }

    /// Waits until what was told ends in what a reader is told, and checks all of it.
    pub async fn wait_settled(&self, reader: &Reader) -> History {
        wait_until("the events end in the state", async || {
            let history = self.history();
            let (told, listed) = (history.check(), reader.list(&self.prefix).await?);
            let told: BTreeMap<_, _> = told.into_iter().collect();
            let open = told.iter().filter(|(_, state)| state.open);
            let open: Vec<_> = open
                .map(|(name, state)| (name.clone(), state.occupancy))
                .collect();
            let halves = told
                .values()
                .find(|state| state.open == state.active.is_empty());
            if let Some(half) = halves {
                return Err(format!("told by half: {half:?}\n{history}"));
            }
            let is: Vec<_> = listed
                .into_iter()
                .map(|item| (item.channel, item.occupancy))
                .collect();
            if open == is {
                Ok(())
            } else {
                Err(format!("{open:?} is told, {is:?} is listed"))
            }
        })
        .await;
        self.history()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn lock(history: &Mutex<History>) -> std::sync::MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task of a watcher.
struct Watching {
    surface: Surface,
    prefix: String,
    nodes: Vec<String>,
    http: reqwest::Client,
    kept: Arc<Mutex<History>>,
}

impl Watching {
    async fn run(self) {
        for node in self.nodes.iter().cycle() {
            let cursor = lock(&self.kept).cursor.clone();
            let broken = match self.surface {
                Surface::Grpc => self.grpc(node, cursor).await,
                Surface::Sse => self.sse(node, cursor).await,
            };
            // Nodes that are down are tried again and again; that is no part of the history.
            if let Err(why) = broken {
                lock(&self.kept).steps.push(Step::Broken(why));
            }
            // allow-sleep: a client's pause before it connects anew
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Notes that a stream is open.
    fn opened(&self, node: &str, cursor: Option<&String>) {
        if cursor.is_some() {
            let mut history = lock(&self.kept);
            let covered = history.covered;
            history.steps.push(Step::Resumed {
                node: node.to_owned(),
                covered,
            });
        }
    }

    /// Watches until the stream is over; `Ok` if there was none.
    async fn grpc(&self, node: &str, cursor: Option<String>) -> Result<(), String> {
        let endpoint = Endpoint::from_shared(node.to_owned()).expect("a good address");
        let Ok(channel) = endpoint
            .connect_timeout(Duration::from_secs(2))
            .connect()
            .await
        else {
            return Ok(());
        };
        let filter = WatchFilter {
            prefix: self.prefix.clone(),
            ..WatchFilter::default()
        };
        let mut request = Request::new(put_watch_request(&filter, cursor.clone()));
        let authorization = authorization(ROOT).parse().expect("a header's value");
        request
            .metadata_mut()
            .insert("authorization", authorization);
        let mut stream = match FeedClient::new(channel).watch(request).await {
            Ok(response) => response.into_inner(),
            Err(status) if status.code() == tonic::Code::Unavailable => return Ok(()),
            // The node was killed while it was asked: that is no answer of its.
            Err(status) if std::error::Error::source(&status).is_some() => return Ok(()),
            Err(status) => panic!("a watch was refused: {status}"),
        };
        self.opened(node, cursor.as_ref());
        loop {
            match stream.message().await {
                Ok(Some(response)) => {
                    let item = take_watch_item(response).expect("a node's item can be read");
                    lock(&self.kept).take(item)?;
                }
                Ok(None) => return Err("the stream ended without an end".to_owned()),
                Err(status) => return Err(status.to_string()),
            }
        }
    }

    async fn sse(&self, node: &str, cursor: Option<String>) -> Result<(), String> {
        let mut request = self.http.get(format!("{node}/events"));
        request = request.query(&[("prefix", &self.prefix)]);
        request = request.header("authorization", authorization(ROOT));
        if let Some(cursor) = &cursor {
            request = request.header("last-event-id", cursor);
        }
        let Ok(response) = request.send().await else {
            return Ok(());
        };
        if response.status() == reqwest::StatusCode::SERVICE_UNAVAILABLE {
            return Ok(());
        }
        assert!(
            response.status().is_success(),
            "a watch was refused: {response:?}"
        );
        self.opened(node, cursor.as_ref());
        let mut chunks = response.bytes_stream();
        let mut unread = Vec::new();
        while let Some(chunk) = chunks.next().await {
            unread.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
            while let Some(end) = unread.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = unread.drain(..end + 2).collect();
                self.block(&String::from_utf8(block).expect("server-sent events are UTF-8"))?;
            }
        }
        Err("the stream ended without an end".to_owned())
    }

    fn block(&self, block: &str) -> Result<(), String> {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        let (event, data, id) = (field("event: "), field("data: "), field("id: "));
        let json = || -> serde_json::Value {
            let data = data.unwrap_or_else(|| panic!("an event without data: {block}"));
            serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"))
        };
        let mut history = lock(&self.kept);
        let mut outcome = Ok(());
        match event {
            None => {}
            Some("gap") => history.steps.push(Step::Gap(json().to_string())),
            Some("end") => outcome = Err(json().to_string()),
            Some(name) => {
                let json = json();
                let kind = EventKind::from_name(name).unwrap_or_else(|| panic!("{block}"));
                assert_eq!(json["name"], name, "{block}");
                let details: ChannelDetails = serde_json::from_value(json["data"].clone())
                    .unwrap_or_else(|error| panic!("{error}: {block}"));
                history.steps.push(Step::Event(Told {
                    id: json["id"].as_str().expect("an id").to_owned(),
                    kind,
                    channel: details.channel_id,
                    region: details.region.expect("a region"),
                    is_global_master: details.is_global_master.expect("whether it is the master"),
                    active: details.status.is_active,
                    occupancy: details.status.occupancy.metrics,
                    at_ms: json["timestamp"].as_u64().expect("a time"),
                    position: None,
                }));
            }
        }
        if let Some(id) = id {
            history.cursor = Some(id.to_owned());
            history.covered = history.steps.len();
        }
        outcome
    }
}
