//! The state of a shard as plain values: what a snapshot holds, free of the indices that speed up
//! its use.

use std::time::Duration;

use crate::{
    ChannelKey, Era, Fence, Incarnation, NodeId, Occupancy, Pacing, Position, RegionName, ShardId,
    Timestamp,
};

/// Shard snapshot: everything that a replica of a shard knows after applying `applied`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSnapshot {
    /// The shard.
    pub shard: ShardId,
    /// The cluster's era.
    pub era: Era,
    /// Index of the last log entry that is part of it.
    pub applied: u64,
    /// Stamp of the last entry.
    pub stamp: Timestamp,
    /// The pacing in force.
    pub pacing: Pacing,
    /// Every region that ever claimed the shard, in the order of their first claims.
    pub regions: Vec<RegionSnapshot>,
    /// Every active channel, ascending by key.
    pub channels: Vec<ChannelSnapshot>,
}

/// What a shard knows of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionSnapshot {
    /// The region.
    pub name: RegionName,
    /// The highest fence that claimed, 0 if none.
    pub fence: Fence,
    /// True once an expiry ended that fence.
    pub ended: bool,
    /// True once that fence's owner said that its adoption is over.
    pub settled: bool,
    /// The claiming node.
    pub node: NodeId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Sequence of the last batch applied under the fence.
    pub sequence: u64,
    /// Number of the last transition consumed under the fence.
    pub number: u64,
    /// While an expiry is under way: the last channel it has looked at, if any.
    pub expiring: Option<Option<ChannelKey>>,
}

/// An active channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelSnapshot {
    /// The channel.
    pub key: ChannelKey,
    /// Counts by region, as indices into [`ShardSnapshot::regions`], ascending; each region listed
    /// is active.
    pub regions: Vec<(u16, Occupancy)>,
    /// Position of its last event.
    pub previous: Option<Position>,
    /// The last occupancy event, while it still holds back further ones.
    pub told: Option<ToldOccupancy>,
}

/// An occupancy event that holds back further ones of its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldOccupancy {
    /// What was told.
    pub occupancy: Occupancy,
    /// When further changes may be told.
    pub until: Timestamp,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            version: 0,
            occupancy_interval: Duration::from_secs(5),
        }
    }
}
