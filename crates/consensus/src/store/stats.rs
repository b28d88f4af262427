//! Figures of the store, for the shell to export.

/// A snapshot of the store's figures. Totals count since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes of all log segments on disk.
    pub log_bytes: u64,
    /// Number of log segments on disk.
    pub log_segments: u64,
    /// Bytes of un-purged entries held in memory (payload and meta).
    pub entry_bytes: u64,
    /// Groups that have any state.
    pub groups: u64,
    /// Syncs of the log so far. Together with `operations` it shows how well groups share them.
    pub syncs: u64,
    /// Operations made durable by those syncs.
    pub operations: u64,
    /// Operations in the last batch.
    pub last_batch_operations: u64,
    /// Bytes of the last batch.
    pub last_batch_bytes: u64,
    /// Duration of the last batch's write and sync in microseconds.
    pub last_sync_micros: u64,
    /// Longest write and sync of a batch so far in microseconds.
    pub max_sync_micros: u64,
    /// Operations that wait for the writer.
    pub queued_operations: u64,
    /// Bytes of operations that wait for the writer or are being written.
    pub queued_bytes: u64,
    /// Records written again because an idle group held an old segment.
    pub rewritten_records: u64,
    /// Bytes of all snapshots on disk.
    pub snapshot_bytes: u64,
    /// Bytes of all journals, on disk and gathered in memory.
    pub journal_bytes: u64,
    /// Journal segments on disk.
    pub journal_segments: u64,
    /// Journal segments removed by age or size.
    pub journal_segments_removed: u64,
}
