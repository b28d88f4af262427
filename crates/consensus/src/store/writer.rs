//! The store's two workers, as threads or as tasks.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::DiskLock;
use super::log::Log;
use super::record::Record;
use super::shared::{Op, Shared};
use super::{Done, LogRecord};

/// How many bytes of entries are written again between two batches, to free a segment.
const REWRITE_BYTES: u64 = 1 << 20;

/// What a store does in the background: writing the log, and writing other files.
///
/// [`Store::open`](super::Store::open) gives it two threads. A simulation gets it from
/// [`Store::open_on`](super::Store::open_on) and runs it as a task.
#[derive(Debug)]
#[must_use = "a store whose driver does not run makes nothing durable"]
pub struct StoreDriver {
    writer: Writer,
    files: FileWorker,
}

impl StoreDriver {
    pub(super) fn new(shared: &Arc<Shared>, log: Log, lock: Box<dyn DiskLock>) -> Self {
        let lock: Arc<dyn DiskLock> = lock.into();
        let files = FileWorker {
            shared: Arc::clone(shared),
            lock: Arc::clone(&lock),
        };
        let writer = Writer {
            shared: Arc::clone(shared),
            log,
            lock,
            floor_due: None,
            rewriting: 0,
        };
        writer.publish(|_| {});
        Self { writer, files }
    }

    /// Runs until the store is closed or has failed, in the caller's task. Blocks it for every sync.
    pub async fn run(self) {
        let Self { writer, files } = self;
        tokio::join!(writer.run_in_task(), files.run_in_task());
    }

    /// Starts the two threads.
    pub(super) fn spawn(self) -> io::Result<()> {
        let Self { writer, files } = self;
        writer.shared.set_threads();
        let name = |name: &str| std::thread::Builder::new().name(name.to_owned());
        name("store-log").spawn(move || writer.run_in_thread())?;
        name("store-files").spawn(move || files.run_in_thread())?;
        Ok(())
    }
}

/// Marks a worker as ended, and lets go of its part of the lock, however it ends.
struct Ending {
    shared: Arc<Shared>,
    lock: Option<Arc<dyn DiskLock>>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        drop(self.lock.take());
        self.shared.ended.send_modify(|ended| *ended += 1);
    }
}

/// Runs what must not take its worker down silently: a panic poisons the store.
fn guarded<T>(shared: &Shared, work: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(work)).ok();
    if result.is_none() {
        shared.poison("a worker of the store panicked");
    }
    result
}

#[derive(Debug)]
struct FileWorker {
    shared: Arc<Shared>,
    lock: Arc<dyn DiskLock>,
}

impl FileWorker {
    fn ending(&self) -> Ending {
        Ending {
            shared: Arc::clone(&self.shared),
            lock: Some(Arc::clone(&self.lock)),
        }
    }

    /// Does what there is to do; `false` when there will be nothing more.
    fn turn(&self) -> bool {
        for job in self.shared.jobs.take(|_| false) {
            // What waits for a job is told by the job's end that the store has failed.
            if self.shared.poisoned().is_none() {
                guarded(&self.shared, job.0);
            }
        }
        !self.shared.jobs.is_finished()
    }

    fn run_in_thread(self) {
        let ending = self.ending();
        while self.turn() {
            self.shared.jobs.wait(None);
        }
        drop(self);
        drop(ending);
    }

    async fn run_in_task(self) {
        let ending = self.ending();
        while self.turn() {
            self.shared.jobs.wait_in_task(None).await;
            tokio::task::yield_now().await;
        }
        drop(self);
        drop(ending);
    }
}

/// What the writer does after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Waits for operations, at most this long.
    Wait(Option<Duration>),
    Finished,
}

#[derive(Debug)]
struct Writer {
    shared: Arc<Shared>,
    log: Log,
    lock: Arc<dyn DiskLock>,
    /// When the floor file is to be brought up to date.
    floor_due: Option<Duration>,
    /// Operations in the queue that write entries again.
    rewriting: u64,
}

impl Writer {
    fn ending(&self) -> Ending {
        Ending {
            shared: Arc::clone(&self.shared),
            lock: Some(Arc::clone(&self.lock)),
        }
    }

    fn run_in_thread(mut self) {
        let ending = self.ending();
        let started = Instant::now();
        while let Turn::Wait(timeout) = self.turn(started.elapsed()) {
            self.shared.queue.wait(timeout);
        }
        drop(self);
        drop(ending);
    }

    async fn run_in_task(mut self) {
        let ending = self.ending();
        let started = tokio::time::Instant::now();
        while let Turn::Wait(timeout) = self.turn(started.elapsed()) {
            self.shared.queue.wait_in_task(timeout).await;
            // Gives others the chance to add to the next batch, and the machine that to crash.
            match self.shared.disk.sync_time() {
                Duration::ZERO => tokio::task::yield_now().await,
                time => tokio::time::sleep(time).await,
            }
        }
        drop(self);
        drop(ending);
    }

    /// Writes one batch and does what is due. `now` is the time since the worker began.
    fn turn(&mut self, now: Duration) -> Turn {
        let shared = Arc::clone(&self.shared);
        if shared.poisoned().is_none() {
            match guarded(&shared, || self.work(now)) {
                Some(Ok(turn)) => return turn,
                Some(Err(error)) => {
                    shared.poison(&format!("cannot write the log: {error}"));
                }
                None => {}
            }
        }
        let reason = shared.failure();
        // Nothing may enter behind the last look.
        shared.queue.close();
        for op in shared.queue.take(|_| true) {
            if let Some(done) = op.done {
                done(Err(reason.clone().into()));
            }
        }
        Turn::Finished
    }

    fn work(&mut self, now: Duration) -> io::Result<Turn> {
        let shared = Arc::clone(&self.shared);
        let mut bytes = 0;
        let ops = shared.queue.take(|op| {
            bytes += op.weight;
            bytes <= shared.config.batch_bytes
        });
        let finishing = ops.is_empty() && shared.queue.is_finished();
        let floor_due = self.floor_due.is_some_and(|due| due <= now);
        if !ops.is_empty() || floor_due || finishing {
            self.write(ops)?;
        }
        if finishing {
            self.log.close()?;
            self.publish(|_| {});
            return Ok(Turn::Finished);
        }
        if floor_due {
            self.floor_due = None;
            if self.log.floor_is_old() {
                self.log.save_floor()?;
            }
        } else if self.floor_due.is_none() && self.log.floor_is_old() {
            self.floor_due = Some(now + shared.config.floor_interval);
        }
        Ok(Turn::Wait(
            self.floor_due.map(|due| due.saturating_sub(now)),
        ))
    }

    /// Writes a batch, with the committed marks that wait, and tells that it is durable.
    fn write(&mut self, ops: Vec<Op>) -> io::Result<()> {
        let late = std::mem::take(&mut self.shared.state().late);
        if ops.is_empty() && late.is_empty() {
            return Ok(());
        }
        let operations = ops.len() as u64;
        let mut records = Vec::with_capacity(ops.len() + late.len());
        let mut told: Vec<Done> = Vec::with_capacity(ops.len());
        let mut permits = Vec::with_capacity(ops.len());
        let mut rewritten = 0;
        for op in ops {
            if let (true, Record::Append { entries, .. }) = (op.rewrite, &op.record) {
                self.rewriting -= 1;
                rewritten += entries.len() as u64;
            }
            records.push(op.record);
            told.extend(op.done);
            permits.extend(op.permit);
        }
        // They are newer than what is in the batch. Of a group that it drops there is none: that
        // took place in memory before.
        let late = late.into_iter();
        records.extend(late.map(|(group, committed)| Record::Committed { group, committed }));

        let started = Instant::now();
        let result = self.log.commit(&records);
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        if let Err(error) = &result {
            self.shared
                .poison(&format!("cannot write the log: {error}"));
        }
        drop(permits);
        for done in told {
            done(result.as_ref().map(|_| ()).map_err(copy));
        }
        let bytes = result?.bytes;
        if self.shared.queue.is_empty() {
            self.log.seal()?;
        }
        self.log.reclaim()?;
        self.rewrite();
        self.publish(|figures| {
            figures.syncs += 1;
            figures.operations += operations;
            figures.last_batch_operations = operations;
            figures.last_batch_bytes = bytes;
            figures.last_sync_micros = micros;
            figures.max_sync_micros = figures.max_sync_micros.max(micros);
            figures.rewritten_records += rewritten;
        });
        Ok(())
    }

    /// Enters entries of the oldest segment to be written again, if that is worth it. They are taken
    /// from memory and put last in the queue, under one lock: whatever the queue will do to them
    /// before is done in memory already.
    fn rewrite(&mut self) {
        if self.rewriting > 0 {
            return;
        }
        let places = self.log.to_rewrite(REWRITE_BYTES);
        if places.is_empty() {
            return;
        }
        let state = self.shared.state();
        let mut runs: Vec<(u64, Vec<LogRecord>)> = Vec::new();
        for (group, index) in places {
            let log = state.groups.get(&group);
            let Some(entry) = log.and_then(|log| log.entries.get(index)) else {
                continue;
            };
            match runs.last_mut() {
                Some((same, run))
                    if *same == group && run.last().is_some_and(|last| last.index + 1 == index) =>
                {
                    run.push(entry.clone());
                }
                _ => runs.push((group, vec![entry.clone()])),
            }
        }
        for (group, entries) in runs {
            let record = Record::Append { group, entries };
            let weight = record.weight();
            let op = Op {
                record,
                weight,
                done: None,
                permit: None,
                rewrite: true,
            };
            if self.shared.queue.push(op).is_ok() {
                self.rewriting += 1;
            }
        }
    }

    /// Brings the figures up to date.
    fn publish(&self, change: impl FnOnce(&mut super::StoreStats)) {
        let mut figures = self.shared.figures();
        change(&mut figures);
        figures.log_bytes = self.log.bytes();
        figures.log_segments = self.log.segments();
    }
}

/// An error of the same kind and text.
fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}
