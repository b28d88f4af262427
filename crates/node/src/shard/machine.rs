//! How consensus applies a shard's log to its replica.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headcount_consensus::store::Journal;
use headcount_consensus::{AppliedAt, Frozen, Machine as ConsensusMachine, MachineError};
use headcount_coordinator::Shard;
use headcount_model::Logged;
use headcount_wire::{decode_entry, decode_snapshot, encode_logged, encode_snapshot};

use super::replica::{AppliedItem, Replica};
use crate::clock::Clock;
use crate::telemetry;

/// The state machine of a shard's raft group.
pub(crate) struct Machine {
    replica: Arc<Replica>,
    journal: Journal,
    clock: Clock,
}

impl Machine {
    pub(crate) fn new(replica: Arc<Replica>, journal: Journal, clock: Clock) -> Self {
        Self {
            replica,
            journal,
            clock,
        }
    }

    /// Writes down what an entry told, so that whoever missed it can read it (R14).
    fn record(&self, logged: &Logged) {
        let (shard, index) = (u64::from(self.replica.id.0), logged.index);
        // A log that is applied again after a start says nothing new, and encoding that would be a
        // good part of the work.
        let written = self.journal.range(shard).last;
        if written.is_some_and(|last| index <= last) {
            return;
        }
        let record = encode_logged(logged);
        if let Err(error) = self.journal.append(shard, index, logged.stamp.0, record) {
            // The store is poisoned then, which stops the node by itself.
            tracing::error!(target: "feed", shard, index, %error, "the journal cannot be written");
        }
    }
}

impl ConsensusMachine for Machine {
    fn apply(&mut self, at: AppliedAt, command: &[u8]) -> Bytes {
        let entry = decode_entry(command);
        // Going on without an entry would make this replica differ from the others for ever; the
        // group stops and says so instead.
        let entry = entry.unwrap_or_else(|error| {
            panic!(
                "entry {} of shard {} is not understood: {error}; if a later release wrote it, start \
                 the node with that release",
                at.index, self.replica.id
            )
        });
        let id = self.replica.id.0;
        tracing::trace!(target: "coordinator", shard = id, index = at.index, ?entry, "applying");
        self.replica.count(&entry);
        let mut shard = self.replica.write();
        let applied = shard.apply(at.index, entry);
        let (logged, outcomes) = (applied.logged, applied.outcomes);
        tracing::trace!(target: "coordinator", shard = id, index = at.index, ?outcomes, "applied");
        let told = !logged.events.is_empty() || !logged.marks.is_empty();
        if told {
            self.record(&logged);
        }
        let lag = self.clock.wall().0.saturating_sub(logged.stamp.0);
        telemetry::entry_applied(Duration::from_millis(lag));
        for event in &logged.events {
            telemetry::event_applied(event.event.kind);
        }
        let entry = AppliedItem::Entry(at.index, told.then_some(logged));
        self.replica.note(&shard, [entry]);
        Bytes::new()
    }

    fn advance(&mut self, at: AppliedAt) {
        // The entry that formed the group has index 0, which the shard begins with.
        if at.index == 0 {
            return;
        }
        let mut shard = self.replica.write();
        shard.advance(at.index);
        self.replica
            .note(&shard, [AppliedItem::Entry(at.index, None)]);
    }

    fn freeze(&self) -> Frozen {
        let frozen = self.replica.read().freeze();
        Box::new(move || encode_snapshot(&frozen))
    }

    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), MachineError> {
        let failed = |reason: String| MachineError { reason };
        let snapshot = decode_snapshot(chunks).map_err(|error| failed(error.to_string()))?;
        if snapshot.shard != self.replica.id {
            return Err(failed(format!("it is of shard {}", snapshot.shard)));
        }
        let restored = Shard::restore(snapshot).map_err(|error| failed(error.to_string()))?;
        let mut shard = self.replica.write();
        *shard = restored;
        let start = Replica::feed_start(&shard, self.replica.region());
        self.replica.note(&shard, [AppliedItem::Jumped(start)]);
        Ok(())
    }
}
