//! What an applied entry of a shard's log told: one record of the shard's journal.

use crate::{Fence, LoggedEvent, Position, RegionName, ShardId, Timestamp};

/// Logged: one applied entry of a shard's log, and one record of its journal.
///
/// Entries that yield neither events nor marks may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Index of the entry.
    pub index: u64,
    /// Shard time of the entry (R15).
    pub stamp: Timestamp,
    /// Where the coordinator that proposed it was (R12).
    pub coordinator: RegionName,
    /// Its events in order.
    pub events: Vec<LoggedEvent>,
    /// What it did to fences, in the order of its commands; read after its events.
    pub marks: Vec<Mark>,
}

/// Mark: what an entry did to a region's fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A claim was applied: every lower fence of the region has ended (R1). What the claim's tail
    /// logged of the older fence is marked `Numbered` before it.
    Claimed {
        /// The region.
        region: RegionName,
        /// Its new fence.
        fence: Fence,
    },
    /// Every transition of the fence up to the number is consumed: logged, dropped in a pair (R7)
    /// or voided singly (R2). Stands after each command that consumed any.
    Numbered {
        /// The region.
        region: RegionName,
        /// The fence.
        fence: Fence,
        /// The highest consumed number.
        number: u64,
    },
    /// The owner's adoption ended: what older fences told and never logged is void (R3).
    Settled {
        /// The region.
        region: RegionName,
        /// The fence of the owner that settled; it is the older ones that are void.
        fence: Fence,
    },
    /// The region expired up to this fence (R5): nothing of it applies from this entry on.
    Expired {
        /// The region.
        region: RegionName,
        /// The highest fence that ended.
        fence: Fence,
        /// False with the first chunk, true with the last; one entry may be both and then says
        /// true only.
        done: bool,
    },
}

impl Mark {
    /// Returns the region that it is about.
    #[must_use]
    pub fn region(&self) -> &RegionName {
        match self {
            Self::Claimed { region, .. }
            | Self::Numbered { region, .. }
            | Self::Settled { region, .. }
            | Self::Expired { region, .. } => region,
        }
    }
}

/// History point: a place in the past of all shards, which has one order on every node: by the
/// log's time, then by shard and place in its log. So the events of a channel keep the order of
/// their log, although those of a region carry its own clock's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryPoint {
    /// The shard time of the log entry that the event is of.
    pub at: Timestamp,
    /// The shard.
    pub shard: ShardId,
    /// The event's place in its log.
    pub position: Position,
}
