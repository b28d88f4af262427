//! What the handles and the workers of a store share.
//!
//! Locks are taken in this order: journals, state, a mailbox. The state in memory is always what
//! the disk will hold once everything in the writer's queue is written: an operation changes it and
//! enters the queue under one lock.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::disk::Disk;
use super::journal::{self, Journals};
use super::mailbox::Mailbox;
use super::record::Record;
use super::slots::Slots;
use super::snapshot::SnapshotFile;
use super::{Done, LogRecord, Mark, StoreConfig, StoreError, StoreStats};

/// An operation on its way to the log.
pub(super) struct Op {
    pub(super) record: Record,
    pub(super) weight: usize,
    pub(super) done: Option<Done>,
    /// The operation's part of the queue's bound, given back when it is written. The store's own
    /// operations have none; there are few of them.
    pub(super) permit: Option<OwnedSemaphorePermit>,
    /// Written again to free a segment.
    pub(super) rewrite: bool,
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Op")
            .field("weight", &self.weight)
            .finish_non_exhaustive()
    }
}

/// Work on files other than the log, for the second worker.
pub(super) struct Job(pub(super) Box<dyn FnOnce() + Send>);

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

#[derive(Debug, Clone)]
pub(super) enum Phase {
    Open,
    /// What is queued is still written; nothing more is taken in from outside.
    Closing,
    Poisoned(Arc<str>),
}

/// A group in memory.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) purged: Option<Mark>,
    pub(super) entries: Slots<LogRecord>,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) snapshot: Option<Arc<SnapshotFile>>,
}

impl Group {
    /// Whether there is nothing of it, as of a group that was never heard of.
    pub(super) fn is_empty(&self) -> bool {
        let log_is_empty = self.purged.is_none() && self.entries.next().is_none();
        let marks = self.vote.is_some() || self.committed.is_some() || self.snapshot.is_some();
        log_is_empty && !marks
    }
}

/// The store's state in memory.
#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) groups: BTreeMap<u64, Group>,
    pub(super) dropped: BTreeSet<u64>,
    pub(super) facts: BTreeMap<String, Bytes>,
    /// Committed marks that are written with whatever comes next.
    pub(super) late: BTreeMap<u64, Bytes>,
    pub(super) entry_bytes: u64,
}

fn weight(entry: &LogRecord) -> u64 {
    (entry.meta.len() + entry.payload.len()) as u64
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Open,
            groups: BTreeMap::new(),
            dropped: BTreeSet::new(),
            facts: BTreeMap::new(),
            late: BTreeMap::new(),
            entry_bytes: 0,
        }
    }

    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        match &self.phase {
            Phase::Open => Ok(()),
            Phase::Closing => Err(StoreError::Closed),
            Phase::Poisoned(reason) => Err(StoreError::Poisoned {
                reason: Arc::clone(reason),
            }),
        }
    }

    /// The group, created if it is new.
    pub(super) fn group(&mut self, group: u64) -> Result<&mut Group, StoreError> {
        if self.dropped.contains(&group) {
            return Err(StoreError::Dropped { group });
        }
        Ok(self.groups.entry(group).or_default())
    }

    pub(super) fn append(&mut self, group: u64, entries: &[LogRecord]) -> Result<(), StoreError> {
        let log = self.group(group)?;
        let purged = log.purged.as_ref().map(|mark| mark.index + 1);
        let mut expected = log.entries.next().or(purged);
        for entry in entries {
            if let Some(expected) = expected
                && expected != entry.index
            {
                return Err(StoreError::NotContiguous {
                    group,
                    expected,
                    found: entry.index,
                });
            }
            expected = Some(entry.index + 1);
        }
        for entry in entries {
            log.entries.set(entry.index, entry.clone());
        }
        self.entry_bytes += entries.iter().map(weight).sum::<u64>();
        Ok(())
    }

    pub(super) fn truncate(&mut self, group: u64, keep: Option<u64>) -> Result<(), StoreError> {
        let mut freed = 0;
        self.group(group)?
            .entries
            .truncate_after(keep, |entry| freed += weight(&entry));
        self.entry_bytes -= freed;
        Ok(())
    }

    /// Purges; `false` if more was purged already.
    pub(super) fn purge(&mut self, group: u64, upto: &Mark) -> Result<bool, StoreError> {
        let mut freed = 0;
        let log = self.group(group)?;
        if log
            .purged
            .as_ref()
            .is_some_and(|purged| purged.index >= upto.index)
        {
            return Ok(false);
        }
        log.entries
            .purge(upto.index, |entry| freed += weight(&entry));
        log.purged = Some(upto.clone());
        self.entry_bytes -= freed;
        Ok(true)
    }

    /// Drops the group and gives what has to be removed with it.
    pub(super) fn drop_group(&mut self, group: u64) -> Option<Arc<SnapshotFile>> {
        self.dropped.insert(group);
        self.late.remove(&group);
        let mut gone = self.groups.remove(&group)?;
        gone.entries
            .truncate_after(None, |entry| self.entry_bytes -= weight(&entry));
        gone.snapshot
    }

    /// Applies a record that was read back from the log. Records come in the order of the log, in
    /// which entries that were written again follow their successors.
    pub(super) fn replay(&mut self, record: Record) {
        match record {
            Record::Append { group, entries } => {
                let log = self.groups.entry(group).or_default();
                let purged = log.purged.as_ref().map(|mark| mark.index);
                for entry in entries {
                    if purged.is_none_or(|purged| entry.index > purged) {
                        self.entry_bytes += weight(&entry);
                        if let Some(former) = log.entries.set(entry.index, entry) {
                            self.entry_bytes -= weight(&former);
                        }
                    }
                }
            }
            Record::Truncate { group, keep } => {
                let log = self.groups.entry(group).or_default();
                log.entries
                    .truncate_after(keep, |entry| self.entry_bytes -= weight(&entry));
            }
            Record::Purge { group, upto } => {
                let log = self.groups.entry(group).or_default();
                log.entries
                    .purge(upto.index, |entry| self.entry_bytes -= weight(&entry));
                log.purged = Some(upto);
            }
            Record::Vote { group, vote } => {
                self.groups.entry(group).or_default().vote = Some(vote);
            }
            Record::Committed { group, committed } => {
                self.groups.entry(group).or_default().committed = Some(committed);
            }
            Record::Drop { group } => drop(self.drop_group(group)),
            Record::Fact {
                key,
                value: Some(value),
            } => {
                self.facts.insert(key, value);
            }
            Record::Fact { key, value: None } => {
                self.facts.remove(&key);
            }
            // The ledger keeps these; the files are opened from it.
            Record::Snapshot { .. } | Record::Journal { .. } => {}
        }
    }
}

/// What all handles and workers of a store hold.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) config: StoreConfig,
    /// The number that all files of this store carry.
    pub(super) store: u64,
    state: Mutex<State>,
    journals: Mutex<Journals>,
    /// Operations for the writer, in order.
    pub(super) queue: Mailbox<Op>,
    /// Work for the file worker, in order.
    pub(super) jobs: Mailbox<Job>,
    /// Bytes that may still enter the queue.
    room: Arc<Semaphore>,
    room_bytes: u32,
    /// Held by whoever encodes a snapshot.
    pub(super) snapshot_turn: Semaphore,
    pub(super) fatal: watch::Sender<Option<Arc<str>>>,
    /// Workers that have ended.
    pub(super) ended: watch::Sender<u8>,
    /// Figures that the writer keeps.
    pub(super) figures: Mutex<StoreStats>,
    next_snapshot: AtomicU64,
    /// Whether the workers are threads.
    has_threads: AtomicBool,
}

/// The number of workers: the writer and the file worker.
const WORKERS: u8 = 2;

impl Shared {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        config: StoreConfig,
        store: u64,
        state: State,
        journals: Journals,
        next_snapshot: u64,
    ) -> Self {
        let room_bytes = u32::try_from(config.queue_bytes.min(Semaphore::MAX_PERMITS));
        let room_bytes = room_bytes.unwrap_or(u32::MAX).max(1);
        Self {
            disk,
            config,
            store,
            state: Mutex::new(state),
            journals: Mutex::new(journals),
            queue: Mailbox::new(),
            jobs: Mailbox::new(),
            room: Arc::new(Semaphore::new(room_bytes as usize)),
            room_bytes,
            snapshot_turn: Semaphore::new(1),
            fatal: watch::Sender::new(None),
            ended: watch::Sender::new(0),
            figures: Mutex::new(StoreStats::default()),
            next_snapshot: AtomicU64::new(next_snapshot),
            has_threads: AtomicBool::new(false),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }

    pub(super) fn journals(&self) -> MutexGuard<'_, Journals> {
        self.journals.lock().expect("no holder of the lock panics")
    }

    pub(super) fn figures(&self) -> MutexGuard<'_, StoreStats> {
        self.figures.lock().expect("no holder of the lock panics")
    }

    pub(super) fn queued_bytes(&self) -> u64 {
        u64::from(self.room_bytes).saturating_sub(self.room.available_permits() as u64)
    }

    /// Notes that the workers are threads.
    pub(super) fn set_threads(&self) {
        self.has_threads.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_threads(&self) -> bool {
        self.has_threads.load(Ordering::Relaxed)
    }

    pub(super) fn next_snapshot(&self) -> u64 {
        self.next_snapshot.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        self.state().check_open()
    }

    pub(super) fn is_open(&self) -> bool {
        self.check_open().is_ok()
    }

    /// Why nothing more can be done.
    pub(super) fn failure(&self) -> StoreError {
        self.check_open().err().unwrap_or(StoreError::Closed)
    }

    pub(super) fn poisoned(&self) -> Option<Arc<str>> {
        match &self.state().phase {
            Phase::Poisoned(reason) => Some(Arc::clone(reason)),
            Phase::Open | Phase::Closing => None,
        }
    }

    /// Ends everything: whatever failed first is the reason.
    pub(super) fn poison(&self, reason: &str) -> StoreError {
        let mut state = self.state();
        if let Phase::Poisoned(reason) = &state.phase {
            return StoreError::Poisoned {
                reason: Arc::clone(reason),
            };
        }
        let reason: Arc<str> = reason.into();
        state.phase = Phase::Poisoned(Arc::clone(&reason));
        drop(state);
        tracing::error!(
            store = %self.disk.root().display(),
            %reason,
            "the store has failed and takes nothing in any more; the process must stop"
        );
        self.room.close();
        self.queue.close();
        self.jobs.close();
        self.fatal.send_replace(Some(Arc::clone(&reason)));
        StoreError::Poisoned { reason }
    }

    /// Changes the state and enters the record that says so, waiting while the queue is full.
    /// `done` is called exactly once in every case.
    pub(super) async fn submit(
        &self,
        weight: usize,
        done: Option<Done>,
        change: impl FnOnce(&mut State) -> Result<Record, StoreError>,
    ) -> Result<(), StoreError> {
        let wanted = u32::try_from(weight)
            .unwrap_or(u32::MAX)
            .min(self.room_bytes);
        let permit = Arc::clone(&self.room).acquire_many_owned(wanted).await;
        let refused = {
            let mut state = self.state();
            let entered = permit.map_err(|_| StoreError::Closed).and_then(|permit| {
                state.check_open()?;
                change(&mut state).map(|record| (permit, record))
            });
            match entered {
                Ok((permit, record)) => {
                    let op = Op {
                        record,
                        weight,
                        done,
                        permit: Some(permit),
                        rewrite: false,
                    };
                    match self.queue.push(op) {
                        Ok(()) => return Ok(()),
                        Err(op) => (StoreError::Closed, op.done),
                    }
                }
                Err(error) => (error, done),
            }
        };
        let (error, done) = refused;
        // Only the poisoned store closes its room.
        let error = match error {
            StoreError::Closed => self.failure(),
            error => error,
        };
        if let Some(done) = done {
            done(Err(error.clone().into()));
        }
        Err(error)
    }

    /// As [`submit`](Self::submit), then waits until the record is durable. `then` runs in the
    /// writer once it is.
    pub(super) async fn submit_and_wait(
        &self,
        weight: usize,
        change: impl FnOnce(&mut State) -> Result<Record, StoreError>,
        then: impl FnOnce() + Send + 'static,
    ) -> Result<(), StoreError> {
        let (done, told) = self.telling();
        let done: Done = Box::new(move |result| {
            if result.is_ok() {
                then();
            }
            done(result);
        });
        self.submit(weight, Some(done), change).await?;
        self.told(told).await
    }

    /// A [`Done`] and where it tells.
    pub(super) fn telling(&self) -> (Done, oneshot::Receiver<io::Result<()>>) {
        let (tell, told) = oneshot::channel();
        // Nobody may be waiting any more.
        (Box::new(move |result| drop(tell.send(result))), told)
    }

    pub(super) async fn told(
        &self,
        told: oneshot::Receiver<io::Result<()>>,
    ) -> Result<(), StoreError> {
        match told.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(self.failure()),
        }
    }

    /// Enters one of the store's own records, without waiting, also while it is being closed.
    pub(super) fn submit_inside(&self, record: Record, done: Done) {
        let weight = record.weight();
        let op = Op {
            record,
            weight,
            done: Some(done),
            permit: None,
            rewrite: false,
        };
        let refused = {
            let _state = self.state();
            self.queue.push(op).err()
        };
        if let Some(done) = refused.and_then(|op| op.done) {
            done(Err(self.failure().into()));
        }
    }

    /// Has the file worker do something and waits for it.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.check_open()?;
        let (tell, told) = oneshot::channel();
        let shared = Arc::clone(self);
        let job = Job(Box::new(move || drop(tell.send(work(&shared)))));
        if self.jobs.push(job).is_err() {
            return Err(self.failure());
        }
        match told.await {
            Ok(result) => result,
            Err(_) => Err(self.failure()),
        }
    }

    /// Has the file worker remove a file that is not needed. If it does not come to it, the next opening
    /// does.
    pub(super) fn remove_later(self: &Arc<Self>, path: String) {
        let disk = Arc::clone(&self.disk);
        let job = Job(Box::new(move || {
            if let Err(error) = disk.remove(&path) {
                tracing::warn!(path, %error, "cannot remove a file that is no longer needed");
            }
        }));
        drop(self.jobs.push(job));
    }

    /// Makes a durable snapshot the group's present one.
    pub(super) fn install_snapshot(self: &Arc<Self>, group: u64, info: Arc<SnapshotFile>) {
        let former = match self.state().group(group) {
            Ok(state) => state.snapshot.replace(info),
            // Dropped while this was written.
            Err(_) => Some(info),
        };
        if let Some(former) = former {
            self.remove_later(former.path.clone());
        }
    }

    pub(super) fn sync_journal(self: &Arc<Self>, shard: u64) -> io::Result<()> {
        journal::sync(self, shard)
    }

    pub(super) fn restart_journal(
        self: &Arc<Self>,
        shard: u64,
        first_index: u64,
        done: Option<Done>,
    ) {
        self.journals().restart(self, shard, first_index, done);
    }

    /// Begins to close the store: the file worker finishes what it has, makes the journals durable and
    /// then lets the writer finish.
    pub(super) fn close(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if !matches!(state.phase, Phase::Open) {
                return;
            }
            state.phase = Phase::Closing;
        }
        let shared = Arc::clone(self);
        let job = Job(Box::new(move || {
            if let Err(error) = journal::sync_all(&shared) {
                shared.poison(&format!("cannot write a journal: {error}"));
            }
            shared.queue.close();
        }));
        // A failure means that the store was poisoned meanwhile.
        drop(self.jobs.push(job));
        self.jobs.close();
    }

    /// Waits until both workers have ended and the lock is free.
    pub(super) async fn closed(&self) -> Result<(), StoreError> {
        let mut ended = self.ended.subscribe();
        // The sender lives in `self`.
        drop(ended.wait_for(|ended| *ended == WORKERS).await);
        match self.poisoned() {
            Some(reason) => Err(StoreError::Poisoned { reason }),
            None => Ok(()),
        }
    }
}
