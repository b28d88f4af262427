//! What the read service needs of its node, and the words of its calls.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use headcount_model::{
    AppId, ChannelKey, ChannelName, ChannelStatus, EventKinds, Fence, HistoryPoint, NodeId,
    Position, RegionName, ShardId, Timestamp,
};
use headcount_wire::Early;

/// Why a read has no answer. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Not now, or not here: ask another node.
    #[error("{0}")]
    Unavailable(String),
    /// No majority confirms the shard's coordinator.
    #[error("no majority of the shard's replicas can be reached")]
    NoQuorum,
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
    /// The question or the answer breaks a rule: the nodes do not understand each other.
    #[error("{0}")]
    Invalid(String),
}

/// What an answer rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Basis {
    /// Time since the replica last heard from the coordinator; of several replicas the oldest.
    pub age: Duration,
    /// Regions that the node does not hear.
    pub unheard: Vec<RegionName>,
}

/// Which channel's state is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusAsk {
    /// The channel's shard.
    pub shard: ShardId,
    /// The channel.
    pub channel: ChannelKey,
    /// Whether everything that was acknowledged before must be in the answer.
    pub strong: bool,
}

/// A channel's global state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReply {
    /// Activity and counts.
    pub status: ChannelStatus,
    /// The coordinator's region.
    pub coordinator: RegionName,
    /// What it rests on.
    pub basis: Basis,
}

/// Which channels are to be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListAsk {
    /// In which shards, at least one.
    pub shards: Vec<ShardId>,
    /// Of which app.
    pub app: AppId,
    /// Only names that begin with this.
    pub prefix: String,
    /// Only names greater than this one, byte for byte.
    pub after: Option<ChannelName>,
    /// At most this many, from 1 to 1000.
    pub limit: usize,
    /// Whether counts are wanted.
    pub with_values: bool,
}

/// One channel of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedChannel {
    /// Its name.
    pub name: ChannelName,
    /// Its state and its coordinator's region, if wanted.
    pub value: Option<(ChannelStatus, RegionName)>,
}

/// A page of a sorted walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListReply {
    /// Active channels, ascending by the bytes of their names.
    pub items: Vec<ListedChannel>,
    /// Whether there are greater names; then there is at least one item.
    pub more: bool,
    /// What it rests on.
    pub basis: Basis,
}

/// Which stretch of a shard's journal is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalAsk {
    /// The shard.
    pub shard: ShardId,
    /// Only records of greater log indexes; `None` for all.
    pub after: Option<u64>,
    /// The holder answers once it has applied up to this log index.
    pub applied: u64,
}

/// What one log entry told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Index of the entry.
    pub index: u64,
    /// As [`headcount_wire::encode_logged`] wrote it.
    pub entry: Bytes,
}

/// A stretch of a shard's journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalReply {
    /// The log index from which on the journal is complete; 0 if it always was.
    pub first: u64,
    /// Ascending.
    pub records: Vec<Record>,
    /// The answer speaks of every entry up to this log index.
    pub through: u64,
}

/// Which events of the past are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryAsk {
    /// In which shards, at least one.
    pub shards: Vec<ShardId>,
    /// Of which app.
    pub app: AppId,
    /// Which kinds, at least one.
    pub kinds: EventKinds,
    /// Only events that say they were then or later.
    pub from: Option<Timestamp>,
    /// Only events that say they were then or earlier.
    pub to: Option<Timestamp>,
    /// Whether the newest are wanted, else the oldest.
    pub newest_first: bool,
    /// Only events beyond this place, in the direction of reading.
    pub after: Option<HistoryPoint>,
    /// At most this many, from 1 to 1001.
    pub limit: usize,
}

/// An event of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastEvent {
    /// Its shard.
    pub shard: ShardId,
    /// Its place in the log.
    pub position: Position,
    /// As [`headcount_wire::encode_past_event`] wrote it.
    pub event: Bytes,
}

/// Events of the past.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryReply {
    /// In the direction of reading, at most as many as wanted.
    pub events: Vec<PastEvent>,
    /// Shards whose journal begins after what was wanted, although it may be kept elsewhere.
    pub lacking: Vec<ShardId>,
}

/// Which shard is to be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowAsk {
    /// The shard.
    pub shard: ShardId,
    /// The region whose fence the start is to name, and whose early transitions are wanted.
    pub region: RegionName,
    /// The last log index that is known already; `None` to begin at the present.
    pub after: Option<u64>,
}

/// Where a holder's replica is when it begins to be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowStart {
    /// The last applied log index.
    pub index: u64,
    /// The region's claimed fence there, 0 for none.
    pub fence: Fence,
    /// The highest consumed number of that fence.
    pub number: u64,
    /// Whether an expiry has ended that fence.
    pub expired: bool,
    /// Whether everything after [`FollowAsk::after`] follows. If not, the items go on after
    /// `index`.
    pub resumed: bool,
}

/// One thing that a holder's feed is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FollowItem {
    /// What an entry told.
    Record(Record),
    /// Up to this log index there is nothing to tell.
    Advanced(u64),
    /// A transition ahead of the log.
    Early(Box<Early>),
}

/// What follows a start, in batches of what came meanwhile.
pub type FollowBatches = BoxStream<'static, Vec<FollowItem>>;

/// What a node knows of a shard that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStanding {
    /// The shard.
    pub shard: ShardId,
    /// The coordinator's node, if one is known.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: u64,
    /// The regions that ever claimed.
    pub regions: Vec<RegionStanding>,
    /// How many channels are active.
    pub channels: u64,
}

/// What a replica says of a region's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionStanding {
    /// The region.
    pub region: RegionName,
    /// The claimed fence.
    pub fence: Fence,
    /// Whether its owner's adoption is over.
    pub settled: bool,
}

/// The node behind the service.
pub trait ReadPort: Send + Sync + 'static {
    /// Reads a channel's state from the node's own replica.
    fn status(&self, ask: StatusAsk) -> BoxFuture<'_, Result<StatusReply, ReadError>>;

    /// Lists channels of the node's own replicas.
    fn list(&self, ask: ListAsk) -> Result<ListReply, ReadError>;

    /// Reads the node's own journal.
    fn journal(&self, ask: JournalAsk) -> BoxFuture<'_, Result<JournalReply, ReadError>>;

    /// Reads events of the past from the node's own journals.
    fn history(&self, ask: HistoryAsk) -> BoxFuture<'_, Result<HistoryReply, ReadError>>;

    /// Lets the node's own feed of a shard be followed. The stream is bounded: it ends when it is
    /// not read fast enough.
    fn follow(
        &self,
        ask: FollowAsk,
    ) -> BoxFuture<'_, Result<(FollowStart, FollowBatches), ReadError>>;

    /// Tells of those of the shards that the node holds.
    fn describe(&self, shards: &[ShardId]) -> Vec<ShardStanding>;
}
