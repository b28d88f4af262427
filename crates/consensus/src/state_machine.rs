//! openraft's state machine: a [`Machine`] with its position, its members and its snapshots.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use headcount_model::ReplicaId;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::machine::{AppliedAt, Frozen, Machine, SNAPSHOT_CHUNK_BYTES_MAX};
use crate::store::{JournalStep, Store};
use crate::types::{LogId, Payload, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::{codec, telemetry};

/// A snapshot's content.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotChunks {
    pub(crate) chunks: Vec<Bytes>,
    /// The replica from whose disk it was read, which need not write it again.
    pub(crate) stored_by: Option<ReplicaId>,
}

/// How many bytes of commands were applied since the last snapshot, and how many are too many.
/// Written by the apply loop and by snapshots, read by the group's watch task, which asks for a
/// snapshot when told.
#[derive(Debug)]
pub(crate) struct Growth {
    bytes: AtomicU64,
    /// Bytes of the last snapshot.
    snapshot_bytes: AtomicU64,
    /// Bytes of commands that all replicas of the host may have to replay together.
    replay_bytes: u64,
    /// Kept by every replica that shares that, and once by the host.
    replicas: Arc<()>,
    /// Rung whenever a snapshot is due.
    due: Notify,
}

impl Growth {
    pub(crate) fn new(replay_bytes: u64, replicas: Arc<()>) -> Self {
        Self {
            bytes: AtomicU64::new(0),
            snapshot_bytes: AtomicU64::new(0),
            replay_bytes,
            replicas,
            due: Notify::new(),
        }
    }

    /// Waits until a snapshot is due: once half as much was applied as the last one holds, and at
    /// least the replica's share of what the host may replay. So a start takes as long as the state
    /// is large, whatever happened to it, and snapshots write at most twice what the log does.
    pub(crate) async fn due(&self) {
        loop {
            self.due.notified().await;
            if self.is_due() {
                return;
            }
        }
    }

    fn is_due(&self) -> bool {
        let half = self.snapshot_bytes.load(Ordering::Relaxed) / 2;
        let replicas = Arc::strong_count(&self.replicas).saturating_sub(1).max(1);
        let share = self.replay_bytes / replicas as u64;
        self.bytes.load(Ordering::Relaxed) >= share.max(half)
    }

    fn grow(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.is_due() {
            self.due.notify_one();
        }
    }

    /// Counts anew from a snapshot that is about to be made.
    fn restart(&self) {
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// Takes note of the size of the last snapshot.
    fn measure(&self, bytes: u64) {
        self.snapshot_bytes.store(bytes, Ordering::Relaxed);
    }
}

/// What [`StateMachine`] and its snapshot builders share.
#[derive(Clone, Debug)]
struct Disk {
    store: Store,
    replica: ReplicaId,
    /// The shard whose event journal the machine writes, if it writes one.
    journal: Option<u64>,
    /// Held by whoever writes a snapshot, from what it knows of the last one on.
    writing: Arc<tokio::sync::Mutex<()>>,
}

/// Applies a group's log.
pub(crate) struct StateMachine {
    /// In a mutex only because openraft wants to share the reference, which it never uses from
    /// two tasks; [`Mutex::get_mut`] takes no lock.
    machine: Mutex<Box<dyn Machine>>,
    disk: Disk,
    applied: Option<LogId>,
    membership: StoredMembership,
    growth: Arc<Growth>,
}

impl StateMachine {
    pub(crate) fn new(
        machine: Box<dyn Machine>,
        store: Store,
        replica: ReplicaId,
        journal: Option<u64>,
        growth: Arc<Growth>,
    ) -> Self {
        Self {
            machine: Mutex::new(machine),
            disk: Disk {
                store,
                replica,
                journal,
                writing: Arc::default(),
            },
            applied: None,
            membership: StoredMembership::default(),
            growth,
        }
    }

    fn machine(&mut self) -> &mut dyn Machine {
        self.machine
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
    }

    /// Applies one entry and returns the machine's reply.
    fn apply_entry(&mut self, entry: &crate::types::Entry) -> Bytes {
        let id = entry.log_id;
        let leader = id.committed_leader_id();
        let at = AppliedAt {
            index: id.index(),
            term: leader.term,
            leader: ReplicaId(leader.node_id),
        };
        let reply = match &entry.payload {
            Payload::Normal(command) => {
                self.growth.grow(command.0.len() as u64);
                self.machine().apply(at, &command.0)
            }
            Payload::Blank => {
                self.machine().advance(at);
                Bytes::new()
            }
            Payload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(id), membership.clone());
                self.machine().advance(at);
                Bytes::new()
            }
        };
        self.applied = Some(id);
        reply
    }
}

fn size(chunks: &[Bytes]) -> u64 {
    chunks.iter().map(|chunk| chunk.len() as u64).sum()
}

/// Does what a machine does, and turns its panic into an error: openraft's core would go on without
/// noticing that the task which applies is gone.
fn guarded<T>(what: &str, act: impl FnOnce() -> T) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(act))
        .map_err(|_panic| io::Error::other(format!("the machine panicked: cannot {what}")))
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotChunks;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let reply = guarded("apply an entry", || self.apply_entry(&entry))?;
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.growth.restart();
        SnapshotBuilder {
            growth: Arc::clone(&self.growth),
            disk: self.disk.clone(),
            meta: SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
            },
            frozen: Mutex::new(Some(guarded("freeze", || self.machine().freeze()))),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotChunks,
    ) -> io::Result<()> {
        let first_index = meta.last_log_id.map_or(0, |id| id.index() + 1);
        let comes_from_elsewhere = snapshot.stored_by != Some(self.disk.replica);
        if let Some(shard) = self.disk.journal
            && comes_from_elsewhere
        {
            // Before the machine: whoever reads a journal that ends before what the machine has
            // would take what is missing for entries that told nothing (R14).
            self.disk
                .store
                .journal()
                .replace(shard, first_index)
                .await?;
        }
        let bytes = size(&snapshot.chunks);
        // Then the machine: what it refuses must not take the place of the snapshot on the disk.
        guarded("restore a snapshot", || {
            self.machine().restore(&snapshot.chunks)
        })?
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if comes_from_elsewhere {
            telemetry::snapshots_installed_total.count(1);
            let journal =
                self.disk
                    .journal
                    .map_or(JournalStep::None, |shard| JournalStep::Restart {
                        shard,
                        first_index,
                    });
            let _writing = self.disk.writing.lock().await;
            self.disk.write(meta, journal, snapshot.chunks).await?;
        }
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.growth.restart();
        self.growth.measure(bytes);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        self.disk.read()
    }
}

impl Disk {
    async fn write(
        &self,
        meta: &SnapshotMeta,
        journal: JournalStep,
        chunks: Vec<Bytes>,
    ) -> io::Result<()> {
        let meta = codec::snapshot_meta_to_bytes(meta);
        Ok(self
            .store
            .write_snapshot(self.replica.0, meta, journal, chunks)
            .await?)
    }

    /// Returns the last entry in the snapshot, without reading that.
    fn last(&self) -> io::Result<Option<LogId>> {
        let Some(reader) = self.store.snapshot(self.replica.0) else {
            return Ok(None);
        };
        Ok(codec::snapshot_meta_from_bytes(reader.meta())?.last_log_id)
    }

    fn read(&self) -> io::Result<Option<Snapshot>> {
        let Some(reader) = self.store.snapshot(self.replica.0) else {
            return Ok(None);
        };
        let chunks = (0..reader.chunks())
            .map(|number| reader.chunk(number))
            .collect::<Result<_, _>>()?;
        Ok(Some(Snapshot {
            meta: codec::snapshot_meta_from_bytes(reader.meta())?,
            snapshot: SnapshotChunks {
                chunks,
                stored_by: Some(self.replica),
            },
        }))
    }
}

/// Encodes a frozen view and stores it, while the machine goes on.
pub(crate) struct SnapshotBuilder {
    growth: Arc<Growth>,
    disk: Disk,
    meta: SnapshotMeta,
    /// In a mutex for the same reason as the machine.
    frozen: Mutex<Option<io::Result<Frozen>>>,
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = SnapshotChunks;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let frozen = self
            .frozen
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let frozen = frozen.ok_or_else(|| io::Error::other("a view is encoded once"))??;
        let _turn = self.disk.store.snapshot_turn().await;
        let begun = Instant::now();
        let chunks = guarded("encode its state", frozen)?;
        if let Some(chunk) = chunks
            .iter()
            .find(|chunk| chunk.len() > SNAPSHOT_CHUNK_BYTES_MAX)
        {
            return Err(io::Error::other(format!(
                "a machine made a snapshot chunk of {} bytes; at most {SNAPSHOT_CHUNK_BYTES_MAX} \
                 are allowed",
                chunk.len()
            )));
        }
        self.growth.measure(size(&chunks));
        let journal = self
            .disk
            .journal
            .map_or(JournalStep::None, |shard| JournalStep::Keep { shard });
        let _writing = self.disk.writing.lock().await;
        // One that a leader sent meanwhile is newer, and the log is purged up to that.
        if self.disk.last()? > self.meta.last_log_id
            && let Some(newer) = self.disk.read()?
        {
            return Ok(newer);
        }
        self.disk.write(&self.meta, journal, chunks.clone()).await?;
        telemetry::snapshots_built_total.count(1);
        telemetry::snapshot_build_seconds.record(begun.elapsed());
        let snapshot = SnapshotChunks {
            chunks,
            stored_by: Some(self.disk.replica),
        };
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn is_asked(growth: &Growth) -> bool {
        growth.due().now_or_never().is_some()
    }

    #[test]
    fn a_snapshot_is_due_by_its_share_until_it_is_begun() {
        let host = Arc::new(());
        let growth = Growth::new(400, Arc::clone(&host));
        let others = [(); 3].map(|()| Growth::new(400, Arc::clone(&host)));
        growth.grow(99);
        assert!(!is_asked(&growth));
        growth.grow(1);
        assert!(is_asked(&growth));
        growth.grow(1);
        assert!(is_asked(&growth), "the first time may have been refused");
        growth.grow(1);
        growth.restart();
        assert!(!is_asked(&growth));
        growth.grow(100);
        assert!(is_asked(&growth));
        drop(others);
        assert!(!is_asked(&growth), "alone it may replay more");
    }

    #[test]
    fn a_large_state_grows_by_half_before_it_is_written_again() {
        let growth = Growth::new(100, Arc::default());
        growth.measure(1_000);
        growth.grow(499);
        assert!(!is_asked(&growth));
        growth.grow(1);
        assert!(is_asked(&growth));
        // What is applied while it is made counts for the next one, which may be due at once.
        growth.restart();
        growth.grow(150);
        growth.measure(20);
        growth.grow(1);
        assert!(is_asked(&growth));
    }
}
