//! What regional owners tell the coordinator, and what a shard's log holds (design.md section 9).

use std::time::Duration;

use crate::{ChannelKey, Fence, Incarnation, NodeId, Occupancy, RegionName, Timestamp};

/// Owner reference: a region's owner under one fence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerRef {
    /// The region that it speaks for.
    pub region: RegionName,
    /// The fence that it holds.
    pub fence: Fence,
}

/// Register: absolute counts of one channel from one region; never an increment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// The channel.
    pub channel: ChannelKey,
    /// The region's counts.
    pub occupancy: Occupancy,
}

/// Transition: a channel going active or inactive in a region; numbered, never coalesced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// From 1 in each fence, without holes (R3).
    pub number: u64,
    /// The channel.
    pub channel: ChannelKey,
    /// True when it went active.
    pub active: bool,
    /// The region's counts at that moment.
    pub occupancy: Occupancy,
    /// When the owner decided it.
    pub at: Timestamp,
    /// Whether the coordinator was in the region then. Copied into the event unchanged (R12).
    pub is_global_master: bool,
}

/// Batch: what changed in a region, under one fence and sequence. Never altered once numbered (R2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Whose it is.
    pub owner: OwnerRef,
    /// From 1 in each fence, without holes.
    pub sequence: u64,
    /// Numbers of transitions that were dropped in pairs while cut off (R7), ascending.
    pub dropped: Vec<u64>,
    /// In the order of their numbers; they stand before the registers.
    pub transitions: Vec<Transition>,
    /// At most one for a channel.
    pub registers: Vec<Register>,
}

/// Tail: transitions of an older fence that were told but are not known to be logged (R3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The fence that they were told under.
    pub fence: Fence,
    /// A run without holes, ascending.
    pub transitions: Vec<Transition>,
}

/// Claim: an owner's first command in a shard; it ends every lower fence of the region (R1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The region and its new fence.
    pub owner: OwnerRef,
    /// The node that owns it now.
    pub node: NodeId,
    /// Which life of that node.
    pub incarnation: Incarnation,
    /// What older owners told and may not have logged.
    pub tails: Vec<Tail>,
}

/// Pacing: when occupancy changes that cross nothing are told. Replicated by version (R19).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pacing {
    /// A command with a version not above the applied one does nothing.
    pub version: u64,
    /// Least time between two such events of one channel.
    pub occupancy_interval: Duration,
}

/// Command: one thing that a shard's log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// An owner takes its region over.
    Claim(Claim),
    /// What changed in a region.
    Batch(Batch),
    /// A region is dead up to this fence: its counts are void (R5). Applied in chunks; proposed
    /// again until the shard says that it is done.
    ExpireRegion(OwnerRef),
    /// The owner's adoption ended: what was told under older fences and never logged is void (R3).
    Settled(OwnerRef),
    /// New pacing.
    Configure(Pacing),
    /// Paced occupancy events are due.
    Tick,
}

/// Entry: what one raft log entry of a shard holds. Time is data: apply reads no clock (R15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The coordinator's time, clamped to be monotonic per shard.
    pub stamp: Timestamp,
    /// Where the coordinator that proposed it is; the `region` of global events (R12).
    pub coordinator: RegionName,
    /// Applied in order.
    pub commands: Vec<Command>,
}
