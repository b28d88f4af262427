//! Names, numbers and facts of a cluster, and the bounds of what the control group keeps.

use std::fmt;
use std::time::Duration;

use crate::{Era, NodeId, RegionName, ReplicaId, ShardId, ShardMap};

/// Longest cluster name, zone or address, in bytes of UTF-8.
pub const TEXT_BYTES_MAX: usize = 255;

/// Most nodes that are members at a time. Each of them hosts a replica of the control group, and
/// each batch of owners is looked through when one of them fails.
pub const NODES_MAX: usize = 256;

/// Most regions that a cluster ever has.
pub const REGIONS_MAX: usize = 64;

/// Most removed nodes that are remembered, so that they are refused by name; the oldest go first.
pub const REMOVED_MAX: usize = 256;

/// Most revocations that are remembered, each of a few hundred bytes at most.
pub const REVOCATIONS_MAX: usize = 10_000;

/// Most targets of one revocation.
pub const REVOKED_AT_ONCE_MAX: usize = 100;

/// Longest target of a revocation, in bytes: a channel's name and what kind of target it is.
pub const REVOKED_BYTES_MAX: usize = crate::CHANNEL_BYTES_MAX + 64;

/// How long a revocation is remembered at least, even where room is wanted for others: as long as
/// the longest token lives that the cluster issues.
pub const REVOKED_SPAN_MIN: Duration = Duration::from_secs(24 * 3600);

/// Most pins of a cluster: each channel that is attached is compared with each of them.
pub const PINS_MAX: usize = 64;

/// Shards of a pin, if nobody says otherwise.
pub const PIN_SHARDS_DEFAULT: u32 = 4;

/// Most replicas of a shard that a region can be asked to hold.
pub const COPIES_MAX: u32 = 5;

/// Shortest interval between paced occupancy events: below it every change is told, and busy
/// channels drown their watchers.
pub const OCCUPANCY_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Longest interval between paced occupancy events: the contract's bound on staleness
/// (`contract.md` section 2).
pub const OCCUPANCY_INTERVAL_MAX: Duration = Duration::from_secs(15);

/// The version of [`super::ControlCommand`] that this release understands: a node says it when it
/// starts, so that a newer command is proposed only when every member can apply it.
pub const COMMANDS_VERSION: u32 = 5;

/// From this version of commands on, tokens can be revoked.
pub const REVOKING_VERSION: u32 = 2;

/// From this version of commands on, coordinators can follow traffic.
pub const FOLLOWING_VERSION: u32 = 3;

/// From this version of commands on, a node can say that it is about to stop.
pub const STOPPING_VERSION: u32 = 4;

/// From this version of commands on, what operators want takes effect at most once.
pub const ORDERS_VERSION: u32 = 5;

/// Greatest weight of a region.
pub const WEIGHT_MAX: u32 = 1000;

/// Weight of a region that nobody weighed.
pub const WEIGHT_DEFAULT: u32 = 100;

/// Raft group: the control group, or that of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupId {
    /// The one that keeps members, placement and fences.
    Control,
    /// A shard's.
    Shard(ShardId),
}

impl GroupId {
    /// Returns the number that names the group on the wire and on disk: 0 for the control group,
    /// else the shard's plus one. Fixed for ever.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Self::Control => 0,
            Self::Shard(shard) => u64::from(shard.0) + 1,
        }
    }

    /// Returns the group that `number` names, `None` if it is beyond any shard.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        match number.checked_sub(1) {
            None => Some(Self::Control),
            Some(shard) => Some(Self::Shard(ShardId(shard.try_into().ok()?))),
        }
    }

    /// Returns the shard, unless it is the control group.
    #[must_use]
    pub fn shard(self) -> Option<ShardId> {
        match self {
            Self::Control => None,
            Self::Shard(shard) => Some(shard),
        }
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Control => f.write_str("control"),
            Self::Shard(shard) => write!(f, "shard {shard}"),
        }
    }
}

/// The node that founds a cluster.
pub const FOUNDING_NODE: NodeId = NodeId(1);

/// The founding node's replica of the control group: who founds a cluster initialises the group
/// with this replica as its only voter before it proposes [`super::ControlCommand::Init`].
pub const FOUNDING_REPLICA: ReplicaId = ReplicaId(1);

/// Cluster id: drawn at random by whoever founds the cluster, so that no node of another cluster is
/// ever taken for one of this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Node key: drawn at random by a node when its data directory is made and kept in it, so that a
/// join that is asked for twice makes one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey(pub u128);

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Fingerprint: a hash of the settings that must be equal on all nodes, made by whoever reads them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u64);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Timing profile: how patient raft is, fixed when the cluster is born (design.md section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimingProfile {
    /// All nodes on one machine or in one building.
    Local,
    /// Round trips up to 100 ms.
    Regional,
    /// Round trips up to 250 ms.
    Wan,
}

impl TimingProfile {
    /// Every profile.
    pub const ALL: [Self; 3] = [Self::Local, Self::Regional, Self::Wan];

    /// Returns the profile's name in configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Regional => "regional",
            Self::Wan => "wan",
        }
    }

    /// Returns the profile of that name.
    #[must_use]
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.as_str() == text)
    }
}

impl fmt::Display for TimingProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Cluster facts: what is settled when a cluster is born. Only the era ever changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFacts {
    /// Which cluster it is.
    pub id: ClusterId,
    /// What people call it; 1 to [`TEXT_BYTES_MAX`] bytes.
    pub name: String,
    /// How many shards there are, 1 to [`crate::SHARDS_MAX`], those of pins included.
    pub shards: u32,
    /// Which channels have shards of their own, ascending by prefix.
    pub pins: Vec<Pin>,
    /// Raft's patience.
    pub timing: TimingProfile,
    /// Raised when an operator recovers the cluster without its quorum (R20).
    pub era: Era,
    /// Version of what is on disk when the cluster was born.
    pub format: u32,
    /// Hash of the settings that must be equal on all nodes.
    pub fingerprint: Fingerprint,
}

impl ClusterFacts {
    /// Returns how many shards the channels without a pin are divided into.
    #[must_use]
    pub fn divided(&self) -> u32 {
        let pinned = self.pins.iter().map(|pin| pin.shards);
        self.shards.saturating_sub(pinned.sum())
    }

    /// Returns which shard each channel belongs to.
    #[must_use]
    pub fn shard_map(&self) -> ShardMap {
        ShardMap::new(self.divided(), &self.pins)
    }
}

/// Pin: channels whose names begin alike have shards of their own, whose coordinators stay in one
/// region while it lives. Which channels these are, and how many shards, is settled when the
/// cluster is born; the region is where it then was, see [`super::Group::home`] for where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// How the names begin, in every app; 1 to [`TEXT_BYTES_MAX`] bytes.
    pub prefix: String,
    /// The region.
    pub home: RegionName,
    /// How many shards, at least 1.
    pub shards: u32,
}

/// Settings that the control group replicates and an operator may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Number of the settings, raised by each change of the pacing; carried to every shard's log
    /// as [`crate::Pacing::version`] (R19). From 1.
    pub version: u64,
    /// Least time between two paced occupancy events of one channel.
    pub occupancy_interval: Duration,
    /// How many replicas of each shard a region holds if it has the nodes for it; more if it must
    /// hold several voters. With 1, a region whose node dies has no owner until a fresh replica has
    /// caught up; with 2, the other takes over at once. At least 1.
    pub copies: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: 1,
            occupancy_interval: Duration::from_secs(5),
            copies: 2,
        }
    }
}

/// Where a node's listeners are reached, each as `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Addresses {
    /// REST, realtime and events.
    pub client: String,
    /// The reporter API, for edges.
    pub reporter: String,
    /// Other nodes.
    pub peer: String,
    /// Health, metrics and operators.
    pub admin: String,
}

/// What a node says about itself when it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Its key.
    pub key: NodeKey,
    /// Where it is.
    pub region: RegionName,
    /// A failure domain inside the region, such as an availability zone; may be empty.
    pub zone: String,
    /// Where it is reached.
    pub addresses: Addresses,
}
