//! The gateway's settings.

use std::time::Duration;

use headcount_model::{COUNT_MAX, ShardMap};

/// Settings of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Shards of the cluster, fixed when it was born; 1 to
    /// [`SHARDS_MAX`](headcount_model::SHARDS_MAX).
    pub shards: ShardMap,
    /// How long changes are gathered before they are sent to the regional owners. Default 5 ms.
    /// Counts that change and stay above zero wait up to ten times as long when a flush has
    /// thousands of them to tell; what comes from or goes to zero never does.
    /// Too low: an update per attach. Too high: everybody learns later by as much.
    pub flush_interval: Duration,
    /// How long a session outlives its stream. Default 5 s, as a lease. Too low: a reconnecting edge makes
    /// its channels flap. Too high: an edge that is gone goes on counting.
    pub grace: Duration,
    /// How long, at most, a broken session is kept while a newer one of its edge is telling its
    /// set, so that the set is replaced in one step. Default 60 s; at least the grace.
    pub takeover: Duration,
    /// How long after its start the gateway says that what it lacks is gone (R9): the longer of
    /// the grace of edges and that of clients. Default 15 s.
    pub recovery: Duration,
    /// How long the highest session number of an edge without sessions is remembered. Default
    /// 2 min, the resume window of the contract.
    pub edge_memory: Duration,
    /// How long the owner may take to acknowledge an update before the whole set is sent anew;
    /// doubles with each time in a row, up to eight times as long. Default 2 s.
    pub ack_timeout: Duration,
    /// Most items in an update. Default 1,000: with the longest names, about 2.5 MiB.
    pub update_items_max: usize,
    /// Most updates of a shard that are sent and not acknowledged. Default 8.
    pub window_updates: u64,
    /// Most batches of a session whose refusals are kept to be told again; edges are told to have
    /// no more unacknowledged. Default 16.
    pub window_batches: usize,
    /// Most edges that are known at a time, with those remembered. Default 10,000.
    pub edges_max: usize,
    /// Most attachments, presence members and channels told by counts of the node. Default
    /// 10,000,000, so that no count can exceed [`COUNT_MAX`].
    pub entries_max: usize,
    /// Most channels of a shard whose activity waits for the next update. Default 10,000.
    pub activity_max: usize,
    /// Seeds the hash of names, against names made to collide. Default 0.
    pub hash_seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            shards: 64.into(),
            flush_interval: Duration::from_millis(5),
            grace: Duration::from_secs(5),
            takeover: Duration::from_secs(60),
            recovery: Duration::from_secs(15),
            edge_memory: Duration::from_secs(120),
            ack_timeout: Duration::from_secs(2),
            update_items_max: 1_000,
            window_updates: 8,
            window_batches: 16,
            edges_max: 10_000,
            entries_max: COUNT_MAX as usize,
            activity_max: 10_000,
            hash_seed: 0,
        }
    }
}
