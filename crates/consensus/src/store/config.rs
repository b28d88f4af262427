//! The store's settings.

use std::time::Duration;

/// Settings of a [`Store`](super::Store). All may differ between nodes and be changed at a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Size in bytes at which a log segment is ended and the next begun. Default 64 MiB. Too low:
    /// many files and floor writes; too high: space comes back late. A segment may exceed it by one
    /// batch.
    pub segment_bytes: u64,
    /// Bound in bytes on operations that wait for the writer. Default 64 MiB. At the bound,
    /// [`append`](super::Store::append) and its like wait until the disk has caught up.
    pub queue_bytes: usize,
    /// Bound in bytes on what one sync covers, unless a single operation is larger. Default 4 MiB.
    /// Higher gives more throughput and a longer wait for each.
    pub batch_bytes: usize,
    /// How long at most the floor file may lag behind what was acknowledged, while anything is
    /// written. Default 1 s.
    pub floor_interval: Duration,
    /// Age beyond which journal items may be removed, in whole segments. Default 24 h.
    pub journal_retention: Duration,
    /// Bound in bytes on all shards' journals together; the oldest segments go first. Default 1 GiB.
    /// Too low: watchers that were away are told of gaps; too high: disk, and seconds at each start.
    pub journal_bytes: u64,
    /// Size in bytes at which a shard's journal segment is ended. Default 4 MiB. It is also the
    /// grain of removal, so it should be well below `journal_bytes` divided by the shards.
    pub journal_segment_bytes: u64,
    /// How much of a shard's journal is gathered in memory before it is written. Default 32 KiB.
    /// After a crash it is derived anew from the log.
    pub journal_block_bytes: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            queue_bytes: 64 << 20,
            batch_bytes: 4 << 20,
            floor_interval: Duration::from_secs(1),
            journal_retention: Duration::from_secs(24 * 3600),
            journal_bytes: 1 << 30,
            journal_segment_bytes: 4 << 20,
            journal_block_bytes: 32 << 10,
        }
    }
}
