//! What the public listener needs from the node that it belongs to.
//!
//! The node implements these traits once, in its adapters; the tests of this crate implement them
//! in memory. Every call may be made at any rate from many tasks at once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use headcount_access::{AccessError, Apps, ClientIdRule, Credential, RevocationTarget};
use headcount_model::{
    AppId, ChannelKey, ChannelName, ChannelStatus, ConnectionId, EventKinds, HistoryPoint, NodeId,
    Refusal, RegionName, ReportItem, ShardId, Timestamp, WatchError, WatchEvent, WatchFilter,
    WatchItem,
};
use headcount_relay::GatewayMessage;
use tokio::sync::watch;

/// Everything from outside, as [`crate::serve`] takes it.
#[derive(Clone)]
pub struct Ports {
    /// Reads and watches.
    pub directory: Arc<dyn Directory>,
    /// Keys and revocations.
    pub access: Arc<dyn Access>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// Counts of realtime clients.
    pub counting: Arc<dyn Counting>,
    /// Connections of clients that come from other nodes.
    pub handing: Arc<dyn HandingOver>,
    /// The way to the owners of this region, for messages and presence.
    pub outlet: Arc<dyn Outlet>,
    /// The node that this listener belongs to.
    pub source: Source,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// How a read is to be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadLevel {
    /// From a replica in this region, at once, with its age.
    #[default]
    Local,
    /// Through the coordinator's read index: everything acknowledged before the read is in it.
    Strong,
}

/// Which replica's knowledge an answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its region.
    pub region: RegionName,
    /// Its node.
    pub node: NodeId,
}

/// What an answer rests on, so that the reader can tell *unknown* from *zero*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// The replica that answered.
    pub source: Source,
    /// How old the replica's knowledge of the global state is: the time since it last heard from
    /// the coordinator; of several replicas, the oldest. Zero for a strong read.
    pub age: Duration,
    /// Regions of which nothing is heard at present, so that their share may be out of date;
    /// ascending.
    pub unheard: Vec<RegionName>,
}

/// A channel's global state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRead {
    /// Activity and counts; inactive with zeros for a channel that nobody ever used.
    pub status: ChannelStatus,
    /// The region of the channel's coordinator: the last that the replica heard of, or the
    /// replica's own if it never heard of any.
    pub coordinator: RegionName,
    /// What the answer rests on.
    pub freshness: Freshness,
}

/// Which active channels to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// The tenant.
    pub app: AppId,
    /// Only names that begin with this text, byte for byte; empty for all.
    pub prefix: String,
    /// Only names greater than this one, byte for byte. It need not exist.
    pub after: Option<ChannelName>,
    /// At most this many items, at least one.
    pub limit: usize,
    /// Whether [`ListItem::value`] is wanted.
    pub with_values: bool,
}

/// One channel of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListItem {
    /// Its name.
    pub name: ChannelName,
    /// Its global state and its coordinator's region, where [`ListQuery::with_values`] asked.
    pub value: Option<(ChannelStatus, RegionName)>,
}

/// A page of a sorted walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRead {
    /// Active channels, ascending by the bytes of their names; may be fewer than the limit, even
    /// none, although more follow.
    pub items: Vec<ListItem>,
    /// The name after which the next page begins; `None` at the end of the walk.
    pub next: Option<ChannelName>,
    /// What the answer rests on: where several replicas answered, the oldest age and every region
    /// that one of them does not hear.
    pub freshness: Freshness,
}

/// Which events of the past to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The tenant.
    pub app: AppId,
    /// Which kinds.
    pub kinds: EventKinds,
    /// Only events that say they were at this time or later.
    pub from: Option<Timestamp>,
    /// Only events that say they were at this time or earlier.
    pub to: Option<Timestamp>,
    /// Whether the newest come first; else the oldest.
    pub newest_first: bool,
    /// Only events beyond this one, in the direction of reading.
    pub after: Option<HistoryPoint>,
    /// At most this many, at least one.
    pub limit: usize,
}

/// A page of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRead {
    /// The events, in the direction of reading.
    pub events: Vec<Arc<WatchEvent>>,
    /// The last event's place, if there are more beyond it.
    pub next: Option<HistoryPoint>,
}

/// Why a read has no answer. Nothing was changed, so each may be tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// A strong read found no coordinator that a majority confirms.
    #[error("no majority of the shard's replicas can be reached; consistency=local still answers")]
    NoQuorum,
    /// No replica in reach could answer.
    #[error("no replica can answer: {reason}")]
    Unavailable {
        /// What is missing, for the operator.
        reason: String,
    },
    /// The answer did not come within the deadline of the node.
    #[error("no answer within {} ms", after.as_millis())]
    TimedOut {
        /// The deadline.
        after: Duration,
    },
    /// Too many reads are under way.
    #[error("too many reads are under way, at most {max}")]
    Overloaded {
        /// The bound.
        max: usize,
    },
    /// A fault of the node's own.
    #[error("internal error: {reason}")]
    Internal {
        /// What happened, for the log.
        reason: String,
    },
}

/// Reads and watches of what the cluster knows. Nothing here activates a channel.
pub trait Directory: Send + Sync + 'static {
    /// Returns the global state of a channel, forwarded to the region's node that holds its shard
    /// where needed. An unknown channel is inactive, not an error.
    fn status(
        &self,
        channel: ChannelKey,
        level: ReadLevel,
    ) -> BoxFuture<'_, Result<StatusRead, ReadError>>;

    /// Returns a page of the active channels of an app from this region's replicas, of all shards
    /// merged. A channel that stays active through a walk appears in it exactly once.
    fn list(&self, query: ListQuery) -> BoxFuture<'_, Result<ListRead, ReadError>>;

    /// Starts a watch after `cursor` (a token of [`headcount_model::Cursor`]), or at the present.
    ///
    /// The stream is bounded by the node: a watcher that does not read is told
    /// [`WatchItem::End`]. After that item, or when dropped, it costs nothing more.
    fn watch(
        &self,
        filter: WatchFilter,
        cursor: Option<String>,
    ) -> BoxFuture<'_, Result<BoxStream<'static, WatchItem>, WatchError>>;

    /// Reads lifecycle events of the past from the journals of all shards, in the order of
    /// [`HistoryPoint`]: what the logs say, without what was told ahead of them in vain.
    fn history(&self, query: HistoryQuery) -> BoxFuture<'_, Result<HistoryRead, ReadError>>;
}

/// Counts what realtime clients of this node are attached to.
pub trait Counting: Send + Sync + 'static {
    /// Counts what a connection did, in order; returns what is refused. Answers as soon as it
    /// counts here, and waits for no other node.
    fn report(&self, app: AppId, items: Vec<ReportItem>) -> BoxFuture<'_, Vec<Refusal>>;

    /// Counts what nothing can refuse, such as that a connection detaches. Never lost.
    fn uncount(&self, app: AppId, items: Vec<ReportItem>);

    /// Stops counting a connection, with its attachments and members. Never lost.
    fn forget(&self, app: AppId, connection: ConnectionId);

    /// Resolves once the regional owners that are reachable have acknowledged what was counted and
    /// uncounted before.
    fn settled(&self) -> BoxFuture<'_, ()>;
}

/// A connection that its client has gone on from at another node.
#[derive(Clone, PartialEq, Eq)]
pub struct OldConnection {
    /// Its app.
    pub app: AppId,
    /// Its id.
    pub connection: ConnectionId,
    /// What its client alone knows.
    pub secret: String,
    /// Who has gone on.
    pub identity: ClientIdRule,
}

impl fmt::Debug for OldConnection {
    /// Leaves the secret out: with it, anybody may take the connection over.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OldConnection")
            .field("app", &self.app)
            .field("connection", &self.connection)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// What a node says of a connection that it was to end. Nothing of it counts any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// It was ended.
    Ended,
    /// There is none with that secret, or it is somebody else's.
    Unknown,
}

/// Why a node has not ended a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not released: {reason}; to be tried again")]
pub struct NotReleased {
    /// What is missing.
    pub reason: String,
}

/// Where a node is, of which a client's key says that it comes from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// In this region, dead or alive: what it counts is in the same sums as what this one counts.
    Here,
    /// In another region.
    Elsewhere,
    /// It is no member of the cluster, and counts nothing.
    Nowhere,
}

/// Ends connections at the nodes that their clients came from (R8).
pub trait HandingOver: Send + Sync + 'static {
    /// Returns where a node is.
    fn whereabouts(&self, node: NodeId) -> Whereabouts;

    /// Asks a node once, for about a second, to end a connection.
    fn release(
        &self,
        node: NodeId,
        old: OldConnection,
    ) -> BoxFuture<'_, Result<Released, NotReleased>>;

    /// Resolves once the lease that a node has at the call has ended, and the owners of its region
    /// have had time to hear of that, or once the node has said that it has no clients any more:
    /// what it counted is in no sum.
    fn lease_ended(&self, node: NodeId) -> BoxFuture<'static, ()>;
}

/// The way of messages and presence to other nodes (design.md section 2.6).
pub trait Outlet: Send + Sync + 'static {
    /// Sends something to the regional owner of a shard, under the fence that it names. Never waits,
    /// and calls nobody back. May lose it together with everything after it on its stream; then
    /// [`crate::Realtime::owner`] is to be called.
    fn to_owner(&self, shard: ShardId, message: GatewayMessage);
}

/// Which tokens are to be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoking {
    /// The key of which they are.
    pub key_name: String,
    /// Which of its tokens, at least one target.
    pub targets: Vec<RevocationTarget>,
    /// Only those that were issued before.
    pub issued_before: Timestamp,
    /// From when on they are refused.
    pub applies_at: Timestamp,
}

/// Why tokens are not revoked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// There is no room for more revocations.
    #[error("the cluster remembers {max} revocations of the last day, as many as it may")]
    Full {
        /// The bound.
        max: usize,
    },
    /// The cluster did not say that they are; they may be all the same.
    #[error("nobody confirms the revocation, repeat it: {reason}")]
    Unconfirmed {
        /// What is missing.
        reason: String,
    },
}

/// The configuration of keys, and what was revoked since.
pub trait Access: Send + Sync + 'static {
    /// Returns the apps and keys in force.
    fn apps(&self) -> Arc<Apps>;

    /// Says whether an authenticated credential was revoked.
    ///
    /// # Errors
    /// [`AccessError::TokenRevoked`].
    fn check(&self, credential: &Credential) -> Result<(), AccessError>;

    /// Returns whether an authenticated credential is revoked, be it for a time to come: its bearer
    /// had better fetch another.
    fn is_announced(&self, credential: &Credential) -> bool;

    /// Returns what changes whenever [`Self::check`] or [`Self::is_announced`] may have come to
    /// concern more.
    fn revoked(&self) -> watch::Receiver<u64>;

    /// Revokes tokens in the whole cluster, and returns once this node refuses them, unless that
    /// is for later. What was revoked already is no error.
    fn revoke(&self, revoking: Revoking) -> BoxFuture<'_, Result<(), RevokeError>>;

    /// Says whether `[meta]channel.lifecycle` of an app carries `channel.occupancy` too.
    fn tells_occupancy(&self, app: &str) -> bool;
}

/// The wall clock.
pub trait Clock: Send + Sync + 'static {
    /// Returns what time it is.
    fn wall(&self) -> Timestamp;
}

/// Randomness, for ids that nobody else can guess.
pub trait Entropy: Send + Sync + 'static {
    /// Returns fresh random bytes.
    fn bytes(&self) -> [u8; 16];
}
