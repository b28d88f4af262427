//! The one durable store of a node: raft logs of all groups, votes, snapshots, event journals.
//!
//! (Interface first; the files behind it follow.) It knows nothing of openraft: a group is a number,
//! an entry is an index with two opaque byte strings.

mod config;
mod error;
mod stats;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::watch;

pub use config::StoreConfig;
pub use error::{OpenError, StoreError};
pub use stats::StoreStats;

/// A position in a group's log: an index and whatever the caller wants to remember with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Index in the group's log.
    pub index: u64,
    /// Opaque to the store.
    pub meta: Bytes,
}

/// An entry of a group's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Index in the group's log.
    pub index: u64,
    /// Opaque to the store; small. Comes back in [`LogRange`].
    pub meta: Bytes,
    /// Opaque to the store.
    pub payload: Bytes,
}

/// What a group's log holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogRange {
    /// Up to where entries were purged, inclusive.
    pub purged: Option<Mark>,
    /// The last entry; `purged` if there is none.
    pub last: Option<Mark>,
}

/// Told once when an operation is durable, or why it never will be. Called from the writer's thread
/// (or, on refusal, the caller's): it must not block.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What happens to a shard's journal together with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalStep {
    /// The group has no journal.
    None,
    /// The snapshot was built here: what was appended to this shard's journal is made durable, so
    /// that the log may be purged.
    Keep {
        /// The journal's shard.
        shard: u64,
    },
    /// The snapshot came from elsewhere: this shard's journal begins anew, complete from
    /// `first_index` on.
    Restart {
        /// The journal's shard.
        shard: u64,
        /// The first log index that the journal will be told of.
        first_index: u64,
    },
}

/// A node's durable store. A clone is another handle to the same store; the last one to be dropped
/// closes it in the background, [`close`](Self::close) does so and waits.
#[derive(Debug, Clone)]
pub struct Store {
    state: Arc<Mutex<State>>,
    fatal: watch::Sender<Option<Arc<str>>>,
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<u64, Group>,
    dropped: BTreeSet<u64>,
    meta: BTreeMap<String, Bytes>,
    journal: BTreeMap<u64, (u64, VecDeque<JournalItem>)>,
}

#[derive(Debug, Default)]
struct Group {
    purged: Option<Mark>,
    entries: VecDeque<LogRecord>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    snapshot: Option<(Bytes, Vec<Bytes>)>,
}

impl Store {
    /// Opens the store in `dir`, creating it if the directory is empty or missing, and starts its
    /// threads. Every byte of every file is verified, which takes about a second per gigabyte.
    pub fn open(dir: impl AsRef<Path>, config: StoreConfig) -> Result<Self, OpenError> {
        let _ = (dir.as_ref(), config);
        Ok(Self { state: Arc::default(), fatal: watch::Sender::new(None) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    /// The groups that have any state, ascending; dropped ones are not among them.
    pub fn groups(&self) -> Vec<u64> {
        self.lock().groups.keys().copied().collect()
    }

    /// Whether the group was dropped here, so that its id is never to be used again.
    pub fn is_dropped(&self, group: u64) -> bool {
        self.lock().dropped.contains(&group)
    }

    /// Where the group's log begins and ends.
    pub fn log_range(&self, group: u64) -> LogRange {
        let state = self.lock();
        let Some(group) = state.groups.get(&group) else { return LogRange::default() };
        let last = group.entries.back().map(|r| Mark { index: r.index, meta: r.meta.clone() });
        LogRange { purged: group.purged.clone(), last: last.or_else(|| group.purged.clone()) }
    }

    /// The entries with an index in `range`, ascending, from memory. Stops before `max_bytes` of
    /// payload are exceeded, but gives at least one if there is one. What is purged or not yet
    /// appended is left out.
    pub fn entries(&self, group: u64, range: Range<u64>, max_bytes: usize) -> Vec<LogRecord> {
        let state = self.lock();
        let Some(group) = state.groups.get(&group) else { return Vec::new() };
        let mut bytes = 0;
        group
            .entries
            .iter()
            .filter(|r| range.contains(&r.index))
            .take_while(|r| {
                bytes += r.payload.len();
                bytes <= max_bytes || bytes == r.payload.len()
            })
            .cloned()
            .collect()
    }

    /// Appends `records`, which must follow the log without a hole (an empty, never purged log
    /// begins anywhere). They are readable when this returns, and durable when `done` is told so;
    /// `done` is called exactly once in every case. Waits only while the queue is full.
    pub async fn append(
        &self,
        group: u64,
        records: Vec<LogRecord>,
        done: Done,
    ) -> Result<(), StoreError> {
        let result = self.with(group, |g| g.entries.extend(records));
        done(result.clone().map_err(io::Error::from));
        result
    }

    fn with(&self, group: u64, change: impl FnOnce(&mut Group)) -> Result<(), StoreError> {
        let mut state = self.lock();
        if state.dropped.contains(&group) {
            return Err(StoreError::Dropped { group });
        }
        change(state.groups.entry(group).or_default());
        Ok(())
    }

    /// Removes all entries after `index`, or all with `None`. In order with other operations; durable
    /// with the next one that is awaited.
    pub async fn truncate_after(&self, group: u64, index: Option<u64>) -> Result<(), StoreError> {
        self.with(group, |g| g.entries.retain(|r| index.is_some_and(|i| r.index <= i)))
    }

    /// Removes all entries up to `upto`, inclusive, and remembers it. It may lie beyond the last
    /// entry. Only call it once a snapshot that covers them is durable. In order with other
    /// operations; durable with the next one that is awaited.
    pub async fn purge(&self, group: u64, upto: Mark) -> Result<(), StoreError> {
        self.with(group, |g| {
            g.entries.retain(|r| r.index > upto.index);
            g.purged = Some(upto);
        })
    }

    /// Replaces the group's vote and waits until that is durable.
    pub async fn save_vote(&self, group: u64, vote: Bytes) -> Result<(), StoreError> {
        self.with(group, |g| g.vote = Some(vote))
    }

    /// The last vote given to [`save_vote`](Self::save_vote).
    pub fn vote(&self, group: u64) -> Option<Bytes> {
        self.lock().groups.get(&group)?.vote.clone()
    }

    /// Replaces the group's committed mark. It is written with whatever is synced next, or within
    /// a second or so; a crash may bring an older one back.
    pub fn save_committed(&self, group: u64, committed: Bytes) -> Result<(), StoreError> {
        self.with(group, |g| g.committed = Some(committed))
    }

    /// The last value given to [`save_committed`](Self::save_committed).
    pub fn committed(&self, group: u64) -> Option<Bytes> {
        self.lock().groups.get(&group)?.committed.clone()
    }

    /// Deletes everything of the group, durably, and retires its id for ever: later writes to it
    /// fail with [`StoreError::Dropped`]. Ids must therefore be ones that are never used again,
    /// such as replica ids. Journals are by shard and stay.
    pub async fn drop_group(&self, group: u64) -> Result<(), StoreError> {
        let mut state = self.lock();
        state.groups.remove(&group);
        state.dropped.insert(group);
        Ok(())
    }

    /// Writes a snapshot of the group from chunks that are all at hand; see
    /// [`begin_snapshot`](Self::begin_snapshot).
    pub async fn write_snapshot(
        &self,
        group: u64,
        meta: Bytes,
        journal: JournalStep,
        chunks: Vec<Bytes>,
    ) -> Result<(), StoreError> {
        let mut writer = self.begin_snapshot(group, meta, journal)?;
        for chunk in chunks {
            writer.write(chunk).await?;
        }
        writer.finish().await
    }

    /// Begins a snapshot that will replace the group's present one when it is finished; until then,
    /// and if the writer is dropped, the present one stays.
    pub fn begin_snapshot(
        &self,
        group: u64,
        meta: Bytes,
        journal: JournalStep,
    ) -> Result<SnapshotWriter, StoreError> {
        Ok(SnapshotWriter { store: self.clone(), group, meta, journal, chunks: Vec::new() })
    }

    /// The group's durable snapshot.
    pub fn snapshot(&self, group: u64) -> Option<SnapshotReader> {
        let (meta, chunks) = self.lock().groups.get(&group)?.snapshot.clone()?;
        Some(SnapshotReader { meta, chunks })
    }

    /// Sets a small fact of the node (its id, the cluster's, an incarnation) and waits until that
    /// is durable. Keys and values together should stay below some tens of kilobytes, since each
    /// log segment repeats them.
    pub async fn put_meta(&self, key: &str, value: Bytes) -> Result<(), StoreError> {
        self.lock().meta.insert(key.to_owned(), value);
        Ok(())
    }

    /// Removes a fact and waits until that is durable.
    pub async fn delete_meta(&self, key: &str) -> Result<(), StoreError> {
        self.lock().meta.remove(key);
        Ok(())
    }

    /// The value last given to [`put_meta`](Self::put_meta).
    pub fn meta(&self, key: &str) -> Option<Bytes> {
        self.lock().meta.get(key).cloned()
    }

    /// The event journals of all shards.
    pub fn journal(&self) -> Journal {
        Journal { store: self.clone() }
    }

    /// Becomes `Some(reason)` when the store has failed. Whoever runs the process must watch it
    /// and stop: nothing is acknowledged any more, and what is in memory is no longer the truth.
    pub fn fatal(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.fatal.subscribe()
    }

    /// The store's figures.
    pub fn stats(&self) -> StoreStats {
        StoreStats::default()
    }

    /// Makes everything durable, marks the store as cleanly closed and lets go of its lock. Later
    /// operations fail with [`StoreError::Closed`].
    pub async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A snapshot being written.
#[derive(Debug)]
pub struct SnapshotWriter {
    store: Store,
    group: u64,
    meta: Bytes,
    journal: JournalStep,
    chunks: Vec<Bytes>,
}

impl SnapshotWriter {
    /// Adds a chunk; 256 KiB is a good size. Chunks are read back as they were written.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.chunks.push(chunk);
        Ok(())
    }

    /// Makes the snapshot, and with it what [`JournalStep`] says, durable and puts it in the place
    /// of the former one. The log may be purged up to it when this has returned.
    pub async fn finish(self) -> Result<(), StoreError> {
        if let JournalStep::Restart { shard, first_index } = self.journal {
            self.store.lock().journal.insert(shard, (first_index, VecDeque::new()));
        }
        let snapshot = (self.meta, self.chunks);
        self.store.with(self.group, |g| g.snapshot = Some(snapshot))
    }
}

/// A durable snapshot. Stays readable while it is held, even if a newer one takes its place.
#[derive(Debug, Clone)]
pub struct SnapshotReader {
    meta: Bytes,
    chunks: Vec<Bytes>,
}

impl SnapshotReader {
    /// The meta given to [`Store::begin_snapshot`].
    pub fn meta(&self) -> &Bytes {
        &self.meta
    }

    /// The number of chunks.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Bytes of all chunks together.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|c| c.len() as u64).sum()
    }

    /// Reads and verifies the chunk with this number, from 0 to [`chunks`](Self::chunks). Blocks
    /// for one read of a file.
    ///
    /// # Panics
    /// If there is no chunk of that number.
    pub fn chunk(&self, number: usize) -> Result<Bytes, StoreError> {
        Ok(self.chunks[number].clone())
    }
}

/// One item of a shard's journal: what one log entry brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalItem {
    /// Index of the log entry.
    pub index: u64,
    /// When, in milliseconds since 1970, by the coordinator's stamp.
    pub stamp_ms: u64,
    /// Opaque to the store.
    pub payload: Bytes,
}

/// A page of a shard's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalPage {
    /// Items in order of their index.
    pub items: Vec<JournalItem>,
    /// Where the journal was complete from and ended when the page was read. If the index that was
    /// asked for lies before `range.first` - 1, there is a gap.
    pub range: JournalRange,
}

/// What a shard's journal covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalRange {
    /// The log index from which on the journal is complete. 0 if it always was.
    pub first: u64,
    /// The index of the last item, if any is held.
    pub last: Option<u64>,
}

/// The event journals of a node, one per shard; derived from the logs and kept for a while. A cheap
/// handle.
#[derive(Debug, Clone)]
pub struct Journal {
    store: Store,
}

impl Journal {
    /// Appends what the log entry `index` brought about. An index at or before the last, or before
    /// the journal's start, is passed over: a log that is applied again after a restart says
    /// nothing new. Stamps should not go back. Durable with the next snapshot ([`JournalStep`]);
    /// until then the log brings it back.
    pub fn append(
        &self,
        shard: u64,
        index: u64,
        stamp_ms: u64,
        payload: Bytes,
    ) -> Result<(), StoreError> {
        let mut state = self.store.lock();
        let (first, items) = state.journal.entry(shard).or_default();
        if index >= *first && items.back().is_none_or(|last| last.index < index) {
            items.push_back(JournalItem { index, stamp_ms, payload });
        }
        Ok(())
    }

    /// Reads the items after `after`, at most `max_items` and about `max_bytes`, but at least one
    /// if there is one. May block for a few reads of a file.
    pub fn read(
        &self,
        shard: u64,
        after: Option<u64>,
        max_items: usize,
        max_bytes: usize,
    ) -> Result<JournalPage, StoreError> {
        let range = self.range(shard);
        let state = self.store.lock();
        let mut bytes = 0;
        let items = state.journal.get(&shard).map(|(_, items)| {
            items
                .iter()
                .filter(|item| after.is_none_or(|after| item.index > after))
                .take(max_items)
                .take_while(|item| {
                    bytes += item.payload.len();
                    bytes <= max_bytes || bytes == item.payload.len()
                })
                .cloned()
                .collect()
        });
        Ok(JournalPage { items: items.unwrap_or_default(), range })
    }

    /// What the shard's journal covers.
    pub fn range(&self, shard: u64) -> JournalRange {
        let state = self.store.lock();
        let Some((first, items)) = state.journal.get(&shard) else {
            return JournalRange { first: 0, last: None };
        };
        JournalRange { first: *first, last: items.back().map(|item| item.index) }
    }

    /// Empties the shard's journal and lets it begin at `first_index`, durably. A snapshot from
    /// elsewhere does this by itself, see [`JournalStep::Restart`].
    pub async fn replace(&self, shard: u64, first_index: u64) -> Result<(), StoreError> {
        self.store.lock().journal.insert(shard, (first_index, VecDeque::new()));
        Ok(())
    }

    /// Removes what is older than the retention, in whole segments. Call it now and then; the byte
    /// bound holds without it.
    pub fn trim(&self, now_ms: u64) -> Result<(), StoreError> {
        let _ = now_ms;
        Ok(())
    }
}
