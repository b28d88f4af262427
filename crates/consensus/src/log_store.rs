//! openraft's log storage, on the node's store.
//!
//! A replica's log is kept under its replica id, which is never used twice. All of a group's
//! writes go through the store's one queue in the order in which openraft asks for them, votes
//! included, and are told to be done only when they are durable.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use headcount_model::ReplicaId;
use headcount_model::mutants::Mutant;
use openraft::entry::RaftEntry as _;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};

use crate::codec;
use crate::store::{LogRecord, Mark, Store};
use crate::types::{Entry, LogId, Types, Vote};

/// One replica's log. A clone reads the same log.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    store: Store,
    replica: ReplicaId,
    /// The most bytes of entries that one append to a follower carries.
    append_bytes: usize,
    /// How often the log was cut back in this life of the replica.
    truncations: Arc<AtomicU64>,
}

/// Where a log ended at a moment.
#[derive(Debug)]
pub(crate) struct LogEnd {
    last: Option<LogId>,
    truncations: u64,
}

impl LogStore {
    pub(crate) fn new(store: Store, replica: ReplicaId, append_bytes: usize) -> Self {
        Self {
            store,
            replica,
            append_bytes,
            truncations: Arc::default(),
        }
    }

    /// Returns where the log ends now, of which not all need be durable.
    pub(crate) fn end(&self) -> io::Result<LogEnd> {
        // First: what is cut back while the last entry is read must be noticed later.
        let truncations = self.truncations.load(Ordering::SeqCst);
        let range = self.store.log_range(self.replica.0);
        let last = log_id(range.last.as_ref())?;
        Ok(LogEnd { last, truncations })
    }

    /// Returns the entry at which the log ended, if it was not cut back since.
    pub(crate) fn kept(&self, end: &LogEnd) -> Option<LogId> {
        let is_kept = self.truncations.load(Ordering::SeqCst) == end.truncations;
        end.last.filter(|_| is_kept)
    }

    /// Returns whether an entry is part of the log, and known: not one that was purged, save for the
    /// last of those.
    pub(crate) fn holds(&self, id: &LogId) -> bool {
        let index = id.index();
        let is_id = |meta: &[u8]| codec::log_id_from_bytes(meta).is_ok_and(|held| held == *id);
        let held = self
            .store
            .entries(self.replica.0, index..index.saturating_add(1), 0);
        match held.first() {
            Some(record) => is_id(&record.meta),
            None => {
                let purged = self.store.log_range(self.replica.0).purged;
                purged.is_some_and(|purged| purged.index == index && is_id(&purged.meta))
            }
        }
    }

    fn read(&self, range: std::ops::Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        self.store
            .entries(self.replica.0, range, max_bytes)
            .into_iter()
            .map(|record| Ok(codec::entry_from_bytes(record.payload)?))
            .collect()
    }
}

fn mark(id: &LogId) -> Mark {
    Mark {
        index: id.index(),
        meta: codec::log_id_to_bytes(id),
    }
}

fn log_id(mark: Option<&Mark>) -> io::Result<Option<LogId>> {
    Ok(mark
        .map(|mark| codec::log_id_from_bytes(&mark.meta))
        .transpose()?)
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start..end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start..end, self.append_bytes)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let vote = self.store.vote(self.replica.0);
        Ok(vote
            .map(|bytes| codec::vote_from_bytes(&bytes))
            .transpose()?)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let range = self.store.log_range(self.replica.0);
        Ok(LogState {
            last_purged_log_id: log_id(range.purged.as_ref())?,
            last_log_id: log_id(range.last.as_ref())?,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        if Mutant::ForgetVote.is_planted() {
            return Ok(());
        }
        Ok(self
            .store
            .save_vote(self.replica.0, codec::vote_to_bytes(vote))
            .await?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let bytes = codec::committed_to_bytes(committed.as_ref());
        Ok(self.store.save_committed(self.replica.0, bytes)?)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let Some(bytes) = self.store.committed(self.replica.0) else {
            return Ok(None);
        };
        let committed = codec::committed_from_bytes(&bytes)?;
        // A follower may learn that entries are committed before they are durable here, and lose
        // them in a crash. It then knows of no position, and hears of one from its leader.
        let last = self.get_log_state().await?.last_log_id;
        Ok(committed.filter(|id| Some(*id) <= last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let records = entries
            .into_iter()
            .map(|entry| LogRecord {
                index: entry.index(),
                meta: codec::log_id_to_bytes(&entry.log_id),
                payload: codec::entry_to_bytes(&entry),
            })
            .collect();
        if Mutant::AckBeforeSync.is_planted() {
            let nobody = Box::new(|_: io::Result<()>| {});
            self.store.append(self.replica.0, records, nobody).await?;
            callback.io_completed(Ok(()));
            return Ok(());
        }
        let done = Box::new(move |result| callback.io_completed(result));
        Ok(self.store.append(self.replica.0, records, done).await?)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.truncations.fetch_add(1, Ordering::SeqCst);
        Ok(self
            .store
            .truncate_after(self.replica.0, last.map(|id| id.index()))
            .await?)
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        Ok(self.store.purge(self.replica.0, mark(&upto)).await?)
    }
}
