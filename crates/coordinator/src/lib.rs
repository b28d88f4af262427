//! The replicated state machine of a shard: `gateway → region → gossip → COORDINATOR → feed`.
//!
//! A [`Shard`] applies the entries of its raft log, one by one and in order, and says what events
//! each of them causes. Every replica applies the same entries and so derives the same events in
//! the same order with the same ids; none of them reads a clock, draws a random number or looks at
//! configuration. What the state holds and why is in `DESIGN.md`.
//!
//! The driver's duties:
//! 1. Apply each entry exactly once, in the order of its index, on every replica.
//! 2. Make events visible only after the entry is committed, in the order given.
//! 3. On the leader: stamp entries by [`Shard::clamp`], propose [`Command::Tick`] when
//!    [`Shard::next_due`] has come and [`Command::ExpireRegion`] again while
//!    [`Shard::expiring`] names an owner.
//! 4. Persist [`Shard::freeze`] before the entries that it covers are purged.
//!
//! [`Command::Tick`]: headcount_model::Command::Tick
//! [`Command::ExpireRegion`]: headcount_model::Command::ExpireRegion
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod apply;
mod channel;
mod query;
mod region;
mod snapshot;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use headcount_model::{AppId, ChannelKey, ChannelName, Era, Pacing, ShardId, Timestamp};

pub use apply::{Applied, Outcome};
pub use query::{RegionMark, Status};
pub use snapshot::RestoreError;

use channel::Channel;
use region::{Region, RegionIndex};

/// Most channels that one [`headcount_model::Command::ExpireRegion`] looks at. Part of the
/// replicated rules: changing it changes where an expiry's chunks end.
pub const EXPIRE_CHUNK: usize = 1024;

/// Most occupancy events that one entry tells because they became due. Part of the replicated rules.
pub const DUE_CHUNK: usize = 1024;

/// Shard: the replicated state of a slice of the channel space.
///
/// Equal after equal logs, to the byte of its snapshot.
#[derive(Clone, Debug)]
pub struct Shard {
    id: ShardId,
    era: Era,
    /// Index of the last applied entry.
    applied: u64,
    /// Stamp of the last applied entry; never goes back.
    stamp: Timestamp,
    pacing: Pacing,
    regions: Vec<Region>,
    apps: BTreeMap<AppId, BTreeMap<ChannelName, Channel>>,
    /// Channels whose counts differ from what was last told, by when they may be told. Derived.
    due: BTreeSet<(Timestamp, ChannelKey)>,
    /// Channels that were told recently and have not changed since. Derived.
    cooling: BTreeSet<(Timestamp, ChannelKey)>,
}

impl Shard {
    /// Makes the state before the first entry.
    #[must_use]
    pub fn new(id: ShardId, era: Era) -> Self {
        Self {
            id,
            era,
            applied: 0,
            stamp: Timestamp(0),
            pacing: Pacing::default(),
            regions: Vec::new(),
            apps: BTreeMap::new(),
            due: BTreeSet::new(),
            cooling: BTreeSet::new(),
        }
    }

    /// Returns which shard it is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Returns the index of the last applied entry, 0 before the first.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Returns the stamp of the last applied entry.
    #[must_use]
    pub fn stamp(&self) -> Timestamp {
        self.stamp
    }

    /// Returns the pacing in force.
    #[must_use]
    pub fn pacing(&self) -> Pacing {
        self.pacing
    }

    /// Returns the stamp for an entry proposed now (R15): never before the last entry's stamp plus
    /// the leader's own time since it applied that one.
    #[must_use]
    pub fn clamp(&self, wall: Timestamp, since_last_apply: Duration) -> Timestamp {
        wall.max(self.stamp.after(since_last_apply))
    }

    /// Returns the stamp from which a tick would tell a paced occupancy event.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Notes that an entry which changes nothing was committed at `index` (raft's own entries).
    pub fn advance(&mut self, index: u64) {
        debug_assert!(index > self.applied, "entries are applied in order");
        self.applied = index;
    }

    fn channel(&self, key: &ChannelKey) -> Option<&Channel> {
        self.apps.get(&key.app)?.get(&key.name)
    }

    fn region_index(&self, name: &str) -> Option<RegionIndex> {
        let at = self
            .regions
            .iter()
            .position(|region| region.name.as_str() == name)?;
        Some(RegionIndex::try_from(at).expect("a region takes an index only if one is free"))
    }
}
