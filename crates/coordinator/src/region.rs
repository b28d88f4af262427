//! What a shard knows of each region: its claimed fence and how far it has told.

use headcount_model::{ChannelKey, Fence, Incarnation, NodeId, RegionName};

/// Place of a region in the shard's table; small, because every channel holds one per region.
pub(crate) type RegionIndex = u16;

/// A region's marks (R1, R2, R3, R5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) name: RegionName,
    /// The highest fence that claimed; batches apply under it only.
    pub(crate) fence: Fence,
    /// An expiry ended the fence: nothing of it applies any more.
    pub(crate) ended: bool,
    /// The fence's owner said that its adoption is over.
    pub(crate) settled: bool,
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    /// Sequence of the last batch applied under the fence.
    pub(crate) sequence: u64,
    /// Number of the last transition consumed under the fence.
    pub(crate) number: u64,
    /// While an expiry is under way: the last channel that it has looked at, if any.
    pub(crate) expiring: Option<Option<ChannelKey>>,
}

impl Region {
    pub(crate) fn new(name: RegionName) -> Self {
        Self {
            name,
            fence: Fence(0),
            ended: false,
            settled: false,
            node: NodeId(0),
            incarnation: Incarnation(0),
            sequence: 0,
            number: 0,
            expiring: None,
        }
    }

    /// Returns whether batches and transitions under `fence` may apply.
    pub(crate) fn accepts(&self, fence: Fence) -> bool {
        self.fence == fence && !self.ended
    }
}
