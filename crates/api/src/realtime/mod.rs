//! The realtime protocol: clients that stay connected, are counted, and are told what happens.
//!
//! ```text
//! websocket ──▶ upgrade ──▶ CONNECTION ──items──▶ the node's gateway ──▶ counts
//!                            │    ▲
//!                        publish  mailbox
//!                            ▼    │
//!                           HUB ──┘ subscribers, members and memory of this node's channels
//!                            ▲
//!            lifecycle watches, occupancy of the log, other nodes
//! ```
//!
//! Each connection is a task ([`connection`]) with a bounded [`mailbox`]; a channel's fan-out never
//! waits for any of them. A client that cannot keep up loses the channel with a place to go on
//! from, and nobody else notices.

mod app_watch;
mod attachments;
mod changes;
mod channels;
mod config;
#[cfg(test)]
mod conformance;
mod connection;
mod event_stream;
mod handover;
mod hub;
mod lifecycle;
mod losses;
mod mailbox;
mod meta;
mod occupancy;
mod past;
mod registry;
mod transport;
mod upgrade;
mod web_socket;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use headcount_model::{
    AppId, Bucket, ChannelName, ConnectionId, EdgeId, Fence, Incarnation, NodeId, Rate, Refusal,
    RefusalCode, ReportItem, ShardId, ShardMap,
};
use headcount_realtime::{Broadcast, Content, Envelope, Limits, Message, Payload};
use headcount_relay::{OwnerMessage, RelayChannel};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

pub use config::RealtimeConfig;
pub(crate) use event_stream::event_stream;
pub(crate) use lifecycle::{LIFECYCLE, message as lifecycle_message};
pub use losses::Loss;
pub(crate) use upgrade::upgrade;

use self::app_watch::AppWatches;
use self::hub::{Hub, Place};
use self::lifecycle::Encodings;
use self::registry::Registry;
use crate::limits::{AppLimits, Exceeded, Quota, Quotas};
use crate::ports::{NotReleased, OldConnection, Ports, Released};
use crate::server::{Phase, until};
use crate::telemetry;

/// The metachannel of connections that come and go.
const CONNECTIONS: &str = "[meta]connection.lifecycle";

/// The metachannel of errors that no client could be told.
const LOG: &str = "[meta]log";

/// How often a node writes to the log; what is above goes unwritten, and is counted.
const LOG_RATE: Rate = Rate {
    per_second: 10,
    burst: 50,
};

/// Every metachannel there is.
const METACHANNELS: [&str; 3] = [lifecycle::LIFECYCLE, CONNECTIONS, LOG];

/// Most lifecycle events that a rewind by time brings.
const REWIND_EVENTS_MAX: usize = 1_000;

/// How long the node may take to answer what an attachment needs to know.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// How often the relay's deadlines are looked at, which are some seconds away.
const TICK: Duration = Duration::from_secs(1);

/// After how many ticks channels forget what is too old.
const SWEEP_TICKS: u64 = 10;

/// The node that connections belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Which node.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The shards of its cluster.
    pub shards: ShardMap,
}

/// Realtime: the connections of a node and their channels, for whoever brings what other nodes say.
/// A cheap handle; [`crate::serve`] takes the connections.
#[derive(Clone, Debug)]
pub struct Realtime(pub(crate) Arc<Core>);

impl Realtime {
    /// Makes a node's, without connections.
    #[must_use]
    pub fn new(config: RealtimeConfig, ports: Ports, node: NodeIdentity) -> Self {
        Self(Arc::new(Core::new(config, ports, node)))
    }

    /// Says that the regional owner of a shard is reachable: a new one, or the same after something
    /// was lost on the way to it or back.
    pub fn owner(&self, shard: ShardId, fence: Fence) {
        self.0.hub.owner(shard, fence);
    }

    /// Says that the regional owner of a shard is not reachable, or not known.
    pub fn owner_lost(&self, shard: ShardId, fence: Fence) {
        self.0.hub.owner_lost(shard, fence);
    }

    /// Takes what the regional owner of a shard says.
    pub fn owner_said(&self, shard: ShardId, message: OwnerMessage) {
        self.0.hub.owner_said(shard, message);
    }

    /// Says that the node has a new incarnation.
    pub fn reborn(&self, incarnation: Incarnation) {
        self.0.hub.reborn(incarnation);
    }

    /// Ends a connection of this node whose client has gone on at another one, which says so. Waits
    /// until nothing of it counts, and the regional owners have acknowledged that.
    ///
    /// # Errors
    /// It is to be asked again: the connection does not count yet, as it was itself not released by
    /// the node that it came from.
    pub async fn release(&self, old: OldConnection) -> Result<Released, NotReleased> {
        handover::release(&self.0, old).await
    }

    /// Waits until the server drains and has no connection any more, and the regional owners have
    /// acknowledged that nothing of it counts.
    pub async fn left(&self) {
        let mut phase = self.0.phase();
        until(&mut phase, Phase::Draining).await;
        self.0.registry.emptied().await;
        self.0.ports.counting.settled().await;
    }

    /// Tells `[meta]log` that a batch of an edge had items that were refused, if there are any: how
    /// many, and why the first (contract, decision 11). The edge was told of each, but not the
    /// people who run the app.
    pub fn edge_refused(&self, app: &AppId, edge: &EdgeId, refusals: &[Refusal]) {
        if let Some(first) = refusals.first() {
            self.0.tell_refusals(app, edge, first, refusals.len());
        }
    }

    /// Says that something of a channel was lost of which no client can be told; `[meta]log` is
    /// told a little later, once for whatever an app lost of the kind meanwhile. Waits for nobody.
    pub fn lost(&self, channel: &RelayChannel, loss: Loss, count: u64) {
        self.0.hub.losses.note(channel, loss, count);
    }
}

/// All realtime connections of a node, and the channels that they are attached to.
pub(crate) struct Core {
    config: Arc<RealtimeConfig>,
    ports: Ports,
    hub: Hub,
    registry: Registry,
    watches: AppWatches,
    encodings: Encodings,
    /// What each app has left of its limits.
    pub(crate) quotas: Quotas,
    connects: Mutex<Bucket>,
    logs: Mutex<Bucket>,
    /// Everything that serves a client.
    pub(crate) tasks: TaskTracker,
    /// One permit per connection.
    slots: Arc<Semaphore>,
    /// One permit per client that came from another node, until that has let it go.
    handovers: Arc<Semaphore>,
    /// Written by the server as it shuts down.
    pub(crate) phase: watch::Sender<Phase>,
    /// The cluster's shards.
    pub(crate) shards: ShardMap,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

impl Core {
    fn new(config: RealtimeConfig, ports: Ports, node: NodeIdentity) -> Self {
        let config = Arc::new(config);
        let boot = URL_SAFE_NO_PAD.encode(&ports.entropy.bytes()[..6]);
        Self {
            hub: Hub::new(Arc::clone(&config), ports.clone(), &node, boot),
            registry: Registry::default(),
            watches: AppWatches::default(),
            encodings: Encodings::default(),
            quotas: Quotas::new(config.limits, config.app_limits.clone()),
            connects: Mutex::default(),
            logs: Mutex::default(),
            tasks: TaskTracker::new(),
            slots: Arc::new(Semaphore::new(config.connections_max)),
            handovers: Arc::new(Semaphore::new(config.handovers_max)),
            config,
            ports,
            phase: watch::Sender::new(Phase::Serving),
            shards: node.shards,
        }
    }

    /// Lets channels forget, as long as the server runs.
    pub(crate) async fn sweep(&self) {
        let mut ticks = tokio::time::interval(TICK);
        for tick in 1_u64.. {
            ticks.tick().await;
            self.hub.tick();
            self.tell_losses();
            if tick % SWEEP_TICKS == 0 {
                self.hub.sweep();
            }
        }
    }

    fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    fn limits(&self, limits: &AppLimits) -> Limits {
        Limits {
            frame_bytes_max: self.config.frame_bytes_max,
            message_bytes_max: limits.message_bytes_max,
        }
    }

    /// Draws an id that nothing else has.
    fn draw_id(&self) -> String {
        format!("{}.", self.hub.serial(self.hub.next()))
    }

    /// Takes a new connection's turn.
    fn may_connect(&self, quota: &Quota) -> Result<(), Exceeded> {
        let now = self.hub.monotonic();
        quota.connect(&self.connects, self.config.connect_rate, now)
    }

    /// Takes a request's turn, whose credential was found to be good.
    ///
    /// # Errors
    /// There are too many of its app.
    pub(crate) fn may_ask(&self, app: &AppId) -> Result<(), Exceeded> {
        self.quotas.of(app).request(self.hub.monotonic())
    }

    /// Publishes to a channel that counts, which keeps it active; returns each message's serial.
    ///
    /// # Errors
    /// What the app may not do.
    pub(crate) fn publish(
        &self,
        quota: &Arc<Quota>,
        app: &AppId,
        name: &ChannelName,
        connection: Option<&ConnectionId>,
        broadcast: Broadcast,
    ) -> Result<Vec<String>, Exceeded> {
        let place = Place {
            app: app.clone(),
            name: name.as_str().into(),
        };
        let published = self
            .hub
            .publish(&place, Some(quota), connection, broadcast)?;
        if published.renew {
            let channel = name.clone();
            let items = vec![ReportItem::Activity { channel }];
            self.ports.counting.uncount(app.clone(), items);
        }
        Ok(published.serials)
    }

    /// Tells `[meta]connection.lifecycle` (contract, decision 11).
    fn tell_connection(
        &self,
        app: &AppId,
        name: &'static str,
        connection: &str,
        transport: &str,
        client_id: Option<&str>,
        reason: Option<&str>,
    ) {
        let source = &self.ports.source;
        let mut data = serde_json::json!({
            "connectionId": connection,
            "transport": transport,
            "region": source.region.as_str(),
            "node": source.node.to_string(),
        });
        for (key, value) in [("clientId", client_id), ("reason", reason)] {
            if let Some(value) = value {
                data[key] = value.into();
            }
        }
        self.tell_meta(app, CONNECTIONS, name, &data);
    }

    /// Tells `[meta]log`, under the name by which command lines look for what concerns counts.
    fn tell_refusals(&self, app: &AppId, edge: &EdgeId, first: &Refusal, refused: usize) {
        let (code, status) = match first.reason.code() {
            RefusalCode::NotPermitted => (40160, 401),
            RefusalCode::Overloaded => (42910, 429),
            _ => (40000, 400),
        };
        let message = format!(
            "edge {:?}, item {}: {}",
            edge.as_str(),
            first.item,
            first.reason
        );
        let data = serde_json::json!({
            "error": { "code": code, "statusCode": status, "message": message },
            "edge": edge.as_str(),
            "refused": refused,
            "region": self.ports.source.region.as_str(),
        });
        self.tell_log(app, "channel.occupancy", &data);
    }

    /// Tells `[meta]log` what was lost since the last time.
    fn tell_losses(&self) {
        for ((app, loss), lost) in self.hub.losses.take() {
            let (code, status) = loss.code();
            let data = serde_json::json!({
                "error": { "code": code, "statusCode": status, "message": loss.message() },
                "channel": &*lost.channel,
                "lost": lost.count,
                "region": self.ports.source.region.as_str(),
                "node": self.ports.source.node.to_string(),
            });
            self.tell_log(&app, loss.source(), &data);
        }
    }

    /// Writes to `[meta]log`, unless too much is written to it.
    fn tell_log(&self, app: &AppId, source: &str, data: &serde_json::Value) {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        let granted = logs.take(LOG_RATE, 1, self.hub.monotonic());
        drop(logs);
        if granted {
            self.tell_meta(app, LOG, source, data);
        } else {
            telemetry::rejected("log_rate");
        }
    }

    /// Tells a metachannel.
    fn tell_meta(&self, app: &AppId, channel: &'static str, name: &str, data: &serde_json::Value) {
        let place = Place {
            app: app.clone(),
            name: channel.into(),
        };
        let message = Message {
            name: Some(name.to_owned()),
            data: Payload::Text(data.to_string()),
            encoding: Some("json".to_owned()),
            ..Message::default()
        };
        let envelope = Envelope {
            id: Some(self.draw_id()),
            timestamp_ms: Some(self.ports.clock.wall().0),
            connection_id: None,
        };
        let broadcast = Broadcast::new(envelope, Content::Messages(vec![message]));
        let _unlimited = self.hub.publish(&place, None, None, broadcast);
    }
}
