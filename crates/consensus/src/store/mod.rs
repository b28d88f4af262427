//! The one durable store of a node: the raft logs of all its groups, their votes and snapshots, a few
//! facts about the node, and the event journals of its shards.
//!
//! It knows nothing of openraft: a group is a number, an entry an index with two opaque strings of
//! bytes. Groups share one log, one writer and its syncs: what all of them append while one sync is
//! under way shares the next. Entries that are not purged stay in memory, so that reads of the log
//! never touch the disk.
//!
//! ```text
//! lock                          empty; held by the process that has the store open
//! floor                         what is known to be durable (floor.rs)
//! log/000000000001.log …        segments of the shared log (log.rs)
//! snapshots/{group}-{n}.snap    (snapshot.rs)
//! journal/{shard}-{n}.events …  (journal.rs)
//! ```
//! Every byte of these files is under a checksum (frame.rs) and verified when the store is opened.
//! Anything invalid makes it refuse, but for what a crash may leave: an unacknowledged end of the
//! log, and journal data that the log brings back.
//!
//! What cannot be told apart: if the *machine* loses power and, besides, the very last batch of the
//! log is damaged, in the second before the floor follows it, that looks like a torn end.
//!
//! # Why not fjall
//! fjall 3 was the wish, on condition that a byte flipped anywhere makes the node refuse to start.
//! Tried on 3.1.13 with 40 acknowledged (`PersistMode::SyncAll`) entries, one flip at a time: of 604
//! flips 375 were refused, 126 went unnoticed and 103 opened *with acknowledged entries missing*: 16 of
//! 41 in the journal, where recovery takes a batch that it cannot decode for the end and truncates
//! the file (`journal/batch_reader.rs`), and 87 of 177 in a table, whose blocks are verified when they
//! are read, not at open. A commit number and a floor kept aside would find lost batches, but not
//! damaged tables or manifests; to find those, every file would have to be read and checked from
//! outside, against formats that are fjall's own. With our own files every byte is ours to check.
//!
//! # Failures
//! A write or sync that fails poisons the store: whatever waits is told, later operations fail,
//! [`Store::fatal`] says why, and the process must stop. A sync is never tried again, since a second
//! one may succeed without the data being on disk.

mod config;
pub mod disk;
mod error;
mod floor;
mod frame;
mod journal;
mod ledger;
mod log;
mod mailbox;
pub mod memory;
mod record;
mod shared;
mod slots;
mod snapshot;
mod stats;
mod writer;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{SemaphorePermit, watch};

use disk::{Disk, RealDisk};
use log::Log;
use record::Record;
use shared::{Shared, State};

pub use config::StoreConfig;
pub use error::{OpenError, StoreError};
pub use journal::{Journal, JournalItem, JournalMoment, JournalPage, JournalRange};
pub use snapshot::{SnapshotReader, SnapshotWriter};
pub use stats::StoreStats;
pub use writer::StoreDriver;

/// The most bytes that one append, vote or fact may have.
const MAX_OPERATION: usize = 256 << 20;

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
    handle: Arc<Handle>,
}

/// Closes the store when the last [`Store`] is gone.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

fn bounded(what: &'static str, bytes: usize) -> Result<(), StoreError> {
    if bytes > MAX_OPERATION {
        return Err(StoreError::TooLarge {
            what,
            bytes,
            limit: MAX_OPERATION,
        });
    }
    Ok(())
}

impl Store {
    /// Opens the store in `dir`, creating it if the directory is empty or missing, and starts its
    /// threads. Every byte of every file is verified, which takes about a second per gigabyte.
    pub fn open(dir: impl AsRef<Path>, config: StoreConfig) -> Result<Self, OpenError> {
        let dir = dir.as_ref();
        let (store, driver) = Self::open_on(Arc::new(RealDisk::new(dir)), config)?;
        driver
            .spawn()
            .map_err(log::io("start the threads of", &dir.to_string_lossy()))?;
        Ok(store)
    }

    /// Opens the store on any disk. The caller runs the driver; nothing becomes durable before.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        config: StoreConfig,
    ) -> Result<(Self, StoreDriver), OpenError> {
        let root = disk.root();
        let own = |file: &str| root.join(file).to_string_lossy().into_owned();
        disk.create_dir("")
            .map_err(log::io("create", &root.to_string_lossy()))?;
        let lock = disk.lock().map_err(log::io("lock", &own("lock")))?;
        let lock = lock.ok_or_else(|| OpenError::Locked { dir: disk.root() })?;
        for dir in [log::DIR, snapshot::DIR, journal::DIR] {
            disk.create_dir(dir).map_err(log::io("create", &own(dir)))?;
        }
        let mut state = State::new();
        let log = Log::open(Arc::clone(&disk), config.segment_bytes, |r| state.replay(r))?;
        for (group, log) in &state.groups {
            if let Some(index) = log.entries.hole() {
                let reason = format!("entry {index} of group {group} is not in any segment");
                return Err(OpenError::Missing {
                    file: log::DIR.into(),
                    reason,
                });
            }
        }
        let ledger = log.ledger();
        let named = ledger
            .groups
            .iter()
            .filter_map(|(group, g)| Some((*group, g.snapshot?)));
        let (snapshots, next) = snapshot::open(&*disk, log.store(), &named.collect())?;
        for (group, info) in snapshots {
            state.groups.entry(group).or_default().snapshot = Some(info);
        }
        let journals = journal::open(&*disk, log.store(), &ledger.journals)?;
        let shared = Shared::new(disk, config, log.store(), state, journals, next);
        let shared = Arc::new(shared);
        let driver = StoreDriver::new(&shared, log, lock);
        Ok((
            Self {
                handle: Arc::new(Handle { shared }),
            },
            driver,
        ))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    /// The groups that have any state, ascending; dropped ones are not among them.
    pub fn groups(&self) -> Vec<u64> {
        let state = self.shared().state();
        let groups = state.groups.iter().filter(|(_, group)| !group.is_empty());
        groups.map(|(number, _)| *number).collect()
    }

    /// Whether the group was dropped here, so that its id is never to be used again.
    pub fn is_dropped(&self, group: u64) -> bool {
        self.shared().state().dropped.contains(&group)
    }

    /// Where the group's log begins and ends.
    pub fn log_range(&self, group: u64) -> LogRange {
        let state = self.shared().state();
        let Some(group) = state.groups.get(&group) else {
            return LogRange::default();
        };
        let last = group.entries.last();
        let last = last.map(|entry| Mark {
            index: entry.index,
            meta: entry.meta.clone(),
        });
        LogRange {
            purged: group.purged.clone(),
            last: last.or_else(|| group.purged.clone()),
        }
    }

    /// The entries with an index in `range`, ascending, from memory. Stops before `max_bytes` of
    /// payload are exceeded, but gives at least one if there is one. What is purged or not yet
    /// appended is left out.
    pub fn entries(&self, group: u64, range: Range<u64>, max_bytes: usize) -> Vec<LogRecord> {
        let state = self.shared().state();
        let Some(group) = state.groups.get(&group) else {
            return Vec::new();
        };
        let mut bytes = 0_usize;
        let mut first = true;
        group
            .entries
            .from(range.start)
            .map(|(_, entry)| entry)
            .take_while(|entry| {
                bytes = bytes.saturating_add(entry.payload.len());
                entry.index < range.end && (std::mem::take(&mut first) || bytes <= max_bytes)
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
        let record = Record::Append {
            group,
            entries: records,
        };
        let weight = record.weight();
        let change = move |state: &mut State| {
            bounded("append", weight)?;
            if let Record::Append { entries, .. } = &record {
                state.append(group, entries)?;
            }
            Ok(record)
        };
        self.shared().submit(weight, Some(done), change).await
    }

    /// Removes all entries after `index`, or all with `None`. In order with other operations; durable
    /// with the next one that is awaited.
    pub async fn truncate_after(&self, group: u64, index: Option<u64>) -> Result<(), StoreError> {
        let record = Record::Truncate { group, keep: index };
        let change = |state: &mut State| state.truncate(group, index).map(|()| record);
        self.shared().submit(32, None, change).await
    }

    /// Removes all entries up to `upto`, inclusive, and remembers it; does nothing if more was purged
    /// before. It may lie beyond the last entry. Only call it once a snapshot that covers them is
    /// durable. In order with other operations; durable with the next one that is awaited.
    pub async fn purge(&self, group: u64, upto: Mark) -> Result<(), StoreError> {
        let change = |state: &mut State| {
            if state.purge(group, &upto)? {
                return Ok(Record::Purge { group, upto });
            }
            let purged = state.group(group)?.purged.clone();
            Ok(Record::Purge {
                group,
                upto: purged.unwrap_or(upto),
            })
        };
        self.shared().submit(64, None, change).await
    }

    /// Replaces the group's vote and waits until that is durable.
    pub async fn save_vote(&self, group: u64, vote: Bytes) -> Result<(), StoreError> {
        let record = Record::Vote {
            group,
            vote: vote.clone(),
        };
        let weight = record.weight();
        let change = move |state: &mut State| {
            bounded("vote", weight)?;
            state.group(group)?.vote = Some(vote);
            Ok(record)
        };
        self.shared().submit_and_wait(weight, change, || {}).await
    }

    /// The last vote given to [`save_vote`](Self::save_vote).
    pub fn vote(&self, group: u64) -> Option<Bytes> {
        self.shared().state().groups.get(&group)?.vote.clone()
    }

    /// Replaces the group's committed mark. It is written with whatever is synced next, or when the
    /// store is closed; a crash may bring an older one back.
    pub fn save_committed(&self, group: u64, committed: Bytes) -> Result<(), StoreError> {
        bounded("committed mark", committed.len())?;
        let mut state = self.shared().state();
        state.check_open()?;
        state.group(group)?.committed = Some(committed.clone());
        state.late.insert(group, committed);
        Ok(())
    }

    /// The last value given to [`save_committed`](Self::save_committed).
    pub fn committed(&self, group: u64) -> Option<Bytes> {
        self.shared().state().groups.get(&group)?.committed.clone()
    }

    /// Deletes everything of the group, durably, and retires its id for ever: later writes to it
    /// fail with [`StoreError::Dropped`]. Ids must therefore be ones that are never used again,
    /// such as replica ids. Journals are by shard and stay.
    pub async fn drop_group(&self, group: u64) -> Result<(), StoreError> {
        let shared = Arc::clone(self.shared());
        let (file, gone) = std::sync::mpsc::channel();
        let change = move |state: &mut State| {
            if let Some(snapshot) = state.drop_group(group) {
                // The receiver waits in the closure below.
                drop(file.send(snapshot.path.clone()));
            }
            Ok(Record::Drop { group })
        };
        let then = move || gone.try_iter().for_each(|path| shared.remove_later(path));
        self.shared().submit_and_wait(32, change, then).await
    }

    /// Waits until no other group of the store encodes a snapshot, and holds the others back until
    /// what is returned is dropped. All groups of a busy node come to it at about the same time, and
    /// together they would keep every thread from anything else for as long.
    pub(crate) async fn snapshot_turn(&self) -> SemaphorePermit<'_> {
        let turn = self.shared().snapshot_turn.acquire().await;
        turn.expect("the semaphore is never closed")
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
        bounded("snapshot meta", meta.len())?;
        let mut state = self.shared().state();
        state.check_open()?;
        state.group(group)?;
        drop(state);
        Ok(SnapshotWriter::new(
            Arc::clone(self.shared()),
            group,
            meta,
            journal,
        ))
    }

    /// The group's durable snapshot.
    pub fn snapshot(&self, group: u64) -> Option<SnapshotReader> {
        let info = self.shared().state().groups.get(&group)?.snapshot.clone()?;
        Some(SnapshotReader { info })
    }

    /// Sets a small fact of the node (its id, the cluster's, an incarnation) and waits until that
    /// is durable. Keys and values together should stay below some tens of kilobytes, since each
    /// log segment repeats them.
    pub async fn put_meta(&self, key: &str, value: Bytes) -> Result<(), StoreError> {
        self.put_fact(key, Some(value)).await
    }

    /// Removes a fact and waits until that is durable.
    pub async fn delete_meta(&self, key: &str) -> Result<(), StoreError> {
        self.put_fact(key, None).await
    }

    async fn put_fact(&self, key: &str, value: Option<Bytes>) -> Result<(), StoreError> {
        let record = Record::Fact {
            key: key.to_owned(),
            value: value.clone(),
        };
        let weight = record.weight();
        let change = move |state: &mut State| {
            bounded("fact", weight)?;
            match value {
                Some(value) => state.facts.insert(key.to_owned(), value),
                None => state.facts.remove(key),
            };
            Ok(record)
        };
        self.shared().submit_and_wait(weight, change, || {}).await
    }

    /// The value last given to [`put_meta`](Self::put_meta).
    pub fn meta(&self, key: &str) -> Option<Bytes> {
        self.shared().state().facts.get(key).cloned()
    }

    /// The event journals of all shards.
    pub fn journal(&self) -> Journal {
        Journal {
            shared: Arc::clone(self.shared()),
        }
    }

    /// Becomes `Some(reason)` when the store has failed. Whoever runs the process must watch it
    /// and stop: nothing is acknowledged any more, and what is in memory is no longer the truth.
    pub fn fatal(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.shared().fatal.subscribe()
    }

    /// The store's figures.
    pub fn stats(&self) -> StoreStats {
        let shared = self.shared();
        let mut stats = *shared.figures();
        stats.queued_operations = shared.queue.len() as u64;
        stats.queued_bytes = shared.queued_bytes();
        {
            let journals = shared.journals();
            stats.journal_bytes = journals.bytes;
            stats.journal_segments = journals.files();
            stats.journal_segments_removed = journals.removed;
        }
        let state = shared.state();
        stats.groups = state.groups.len() as u64;
        stats.entry_bytes = state.entry_bytes;
        let snapshots = state
            .groups
            .values()
            .filter_map(|group| group.snapshot.as_ref());
        stats.snapshot_bytes = snapshots.map(|info| info.file_bytes).sum();
        stats
    }

    /// Makes everything durable, marks the store as cleanly closed and lets go of its lock. Later
    /// operations fail with [`StoreError::Closed`]. Fails if the store had failed.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.shared().close();
        self.shared().closed().await
    }
}

#[cfg(test)]
mod tests;
