//! Bounds of a feed and of its subscriptions.

/// Feed configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Events that a shard keeps in memory for its subscribers (default 4,096, about 300 bytes
    /// each). Too low and a short stall of a subscriber costs it a reconnect; too high and 64 busy
    /// shards take more memory than their state.
    pub ring_events_max: u64,
    /// A live subscriber more than this many events behind has `channel.occupancy` rolled up to the
    /// newest per channel until it caught up (default 1,024, a quarter of the ring). At or above
    /// `ring_events_max` nothing is ever rolled up.
    pub rollup_lag_events: u64,
    /// Most events of one batch (default 256): what a subscriber holds outside of the ring.
    pub batch_events_max: usize,
    /// Early transitions that wait for their claim or for a lost predecessor (default 4,096 a
    /// shard). What does not fit is brought by the log.
    pub early_waiting_max: usize,
    /// Channels of which the latest transition was told and is not logged (default 262,144 a
    /// shard). Beyond that, the log brings further ones: only a region that is cut off gets here.
    pub early_channels_max: usize,
    /// Early events kept for subscribers that join (default 16,384 a shard). While more are
    /// unlogged, a new subscriber gets the region's events from the log.
    pub early_kept_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ring_events_max: 4_096,
            rollup_lag_events: 1_024,
            batch_events_max: 256,
            early_waiting_max: 4_096,
            early_channels_max: 262_144,
            early_kept_max: 16_384,
        }
    }
}
