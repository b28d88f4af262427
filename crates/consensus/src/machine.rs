//! The port to what a group replicates: a deterministic state machine.

use bytes::Bytes;
use headcount_model::ReplicaId;

/// The greatest size of one chunk of a snapshot, in bytes. A chunk travels in one message.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 1 << 20;

/// Where in its group's log a machine stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppliedAt {
    /// Index of the entry; indexes of a group rise by one from entry to entry, from 0.
    pub index: u64,
    /// Term of the leader that wrote the entry. With `leader` it is the entry's [`Epoch`].
    pub term: u64,
    /// The replica that led when the entry was written.
    pub leader: ReplicaId,
}

impl AppliedAt {
    /// Returns the leadership that wrote the entry.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch {
            term: self.term,
            leader: self.leader,
        }
    }
}

/// One leadership of a group: no two leaders ever share it, and it only grows.
///
/// This, never the term alone, is what fences a coordinator. Ordered by term, then by leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Raft's term.
    pub term: u64,
    /// The replica that leads.
    pub leader: ReplicaId,
}

/// A frozen view of a machine, still to be encoded: returns the chunks of a snapshot, each of at
/// most [`SNAPSHOT_CHUNK_BYTES_MAX`] bytes.
pub type Frozen = Box<dyn FnOnce() -> Vec<Bytes> + Send>;

/// What a raft group applies its log to.
///
/// Every replica's machine is given the same commands at the same positions, so it must depend on
/// nothing else: no clock, no randomness, no setting that differs between replicas. It is called
/// from one task at a time and must not block. It lives in memory: after a restart it is restored
/// from the last snapshot and given the committed entries behind that again, replies unheard.
pub trait Machine: Send + 'static {
    /// Applies `command` and returns what its proposer is told.
    fn apply(&mut self, at: AppliedAt, command: &[u8]) -> Bytes;

    /// Notes that the entry at `at` holds nothing for the machine: a new leader's first entry, or
    /// a change of members.
    fn advance(&mut self, at: AppliedAt);

    /// Freezes the present state, cheaply: apply waits for this call, but not for the encoding,
    /// which runs beside it.
    fn freeze(&self) -> Frozen;

    /// Replaces the whole state by that of a snapshot, given in the chunks that a [`Frozen`] view
    /// returned, of this or an earlier release. Fails if they cannot be understood; the group
    /// stops then, with its disk unchanged.
    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), MachineError>;
}

/// Why a machine cannot take a snapshot.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot cannot be restored: {reason}")]
pub struct MachineError {
    /// For an operator: what was wrong with it.
    pub reason: String,
}
