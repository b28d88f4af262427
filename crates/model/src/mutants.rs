//! Bugs that can be planted, to see that they are caught.
//!
//! Without the feature `mutants` nothing can be planted, and asking costs nothing. With it, the
//! process may plant one before it starts anything; only the simulator does.

/// Mutant: a bug that is known to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// The shard applies what owners of ended fences send.
    DropFence,
    /// The shard applies a batch again that it has applied.
    RepeatBatch,
    /// A feed goes on after a snapshot as if nothing were missing.
    JumpUntold,
    /// A region that expires keeps its fence.
    ExpireKeepsFence,
    /// A new leader of the control group gives nobody a lease.
    VoidAtElection,
    /// A restarted node keeps its incarnation.
    KeepIncarnation,
    /// The store acknowledges before it has synced.
    AckBeforeSync,
    /// A strong read asks nobody whether this replica still leads.
    StaleStrongRead,
    /// An edge's client forgets, when it begins a new session, what was detached and not told.
    ForgetDetach,
    /// A snapshot says nothing of how far each region's batches were applied.
    SnapshotWithoutMarks,
    /// An owner's adoption is over as soon as it begins.
    AdoptionEndsAtOnce,
    /// A session that was taken over goes on counting.
    TakeoverAdds,
    /// A gateway tells a new owner only what changes from then on.
    StreamWithoutSet,
    /// A watcher that goes on elsewhere is told again what it was told ahead of the log.
    CursorWithoutEarly,
    /// A vote is not written.
    ForgetVote,
}

impl Mutant {
    /// Every one, with its name.
    pub const NAMED: [(Self, &'static str); 15] = [
        (Self::DropFence, "drop-fence"),
        (Self::RepeatBatch, "repeat-batch"),
        (Self::JumpUntold, "jump-untold"),
        (Self::ExpireKeepsFence, "expire-keeps-fence"),
        (Self::VoidAtElection, "void-at-election"),
        (Self::KeepIncarnation, "keep-incarnation"),
        (Self::AckBeforeSync, "ack-before-sync"),
        (Self::StaleStrongRead, "stale-strong-read"),
        (Self::ForgetDetach, "forget-detach"),
        (Self::SnapshotWithoutMarks, "snapshot-without-marks"),
        (Self::AdoptionEndsAtOnce, "adoption-ends-at-once"),
        (Self::TakeoverAdds, "takeover-adds"),
        (Self::StreamWithoutSet, "stream-without-set"),
        (Self::CursorWithoutEarly, "cursor-without-early"),
        (Self::ForgetVote, "forget-vote"),
    ];

    /// Returns the one of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let named = Self::NAMED.iter().find(|(_, of)| *of == name);
        named.map(|(mutant, _)| *mutant)
    }

    /// Returns whether it is planted in this process.
    #[must_use]
    #[inline]
    pub fn is_planted(self) -> bool {
        #[cfg(feature = "mutants")]
        return PLANTED.get() == Some(&self);
        #[cfg(not(feature = "mutants"))]
        false
    }
}

#[cfg(feature = "mutants")]
static PLANTED: std::sync::OnceLock<Mutant> = std::sync::OnceLock::new();

/// Plants a bug in this process, for good.
///
/// # Panics
/// If one is planted already.
#[cfg(feature = "mutants")]
pub fn plant(mutant: Mutant) {
    PLANTED.set(mutant).expect("one bug is planted once");
}
