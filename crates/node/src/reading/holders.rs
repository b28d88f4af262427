//! Who can be asked for a shard.

use headcount_model::{NodeId, RegionName, ShardId};
use headcount_placement::{Control, GroupId};

/// How near a holder is; the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Nearness {
    /// It owns the asking node's region's part of the shard: nobody knows more of the region.
    Owner,
    /// It is in the asking node's region.
    Region,
    /// It is in another region.
    Elsewhere,
}

/// A node that holds a replica which has caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    /// How near it is.
    pub(crate) nearness: Nearness,
    /// The node.
    pub(crate) node: NodeId,
}

/// Returns the live nodes other than `node` that hold a replica which has caught up and stays, the
/// nearest to `region` first.
pub(crate) fn holders(
    control: &Control,
    node: NodeId,
    region: &RegionName,
    shard: ShardId,
) -> Vec<Holder> {
    let Some(group) = control.group(GroupId::Shard(shard)) else {
        return Vec::new();
    };
    let owner = control.owner(region, shard).map(|owner| owner.node);
    let others = group
        .members()
        .filter(|(_, replica)| replica.ready && replica.node != node);
    let live = others.filter_map(|(_, replica)| {
        let holder = control.node(replica.node).filter(|it| it.is_live())?;
        let nearness = if owner == Some(replica.node) {
            Nearness::Owner
        } else if holder.region == *region {
            Nearness::Region
        } else {
            Nearness::Elsewhere
        };
        Some(Holder {
            nearness,
            node: replica.node,
        })
    });
    let mut holders: Vec<Holder> = live.collect();
    holders.sort_unstable();
    holders
}
