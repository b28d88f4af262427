//! What operators are told of a cluster, as JSON.

use std::collections::BTreeMap;

use headcount_model::control::{Node, NodeState, Standing};
use serde::{Deserialize, Serialize};

/// What one node knows of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The node that answers; missing before it is a member.
    pub answered_by: Option<u64>,
    /// What was settled when the cluster was born; missing before.
    pub cluster: Option<ClusterRow>,
    /// By name.
    pub regions: Vec<RegionRow>,
    /// By id.
    pub nodes: Vec<NodeRow>,
    /// Channels whose coordinators stay in one region, by prefix.
    #[serde(default)]
    pub pins: Vec<PinRow>,
    /// By id: those shards of which the node knows something.
    pub shards: Vec<ShardRow>,
    /// The group that decides about all of the above.
    pub control: ControlRow,
    /// Changes of the placement that are decided and not reached.
    pub plan_pending: usize,
    /// Where coordinators are, measured by where traffic comes from; missing if the control group's
    /// leader could not be asked.
    #[serde(default)]
    pub traffic: Option<TrafficRow>,
}

/// The traffic of all shards, over the time that placement looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficRow {
    /// Transitions and registers that coordinators took.
    pub items: u64,
    /// How many of them came from their coordinator's own region.
    pub local_items: u64,
}

/// The cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRow {
    /// Its id, in hexadecimal.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// How many shards it has.
    pub shards: u32,
    /// The name of its timing profile.
    pub timing: String,
    /// How often it was recovered without its quorum.
    pub era: u32,
}

/// A pin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRow {
    /// How the names of its channels begin.
    pub prefix: String,
    /// The region where their coordinators should be.
    pub home: String,
    /// The shards that they have for themselves.
    pub shards: Vec<u32>,
    /// How many of those are led from there, as far as is known.
    pub at_home: usize,
}

/// A region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionRow {
    /// Its name.
    pub name: String,
    /// Its share of coordinators, relative to the other regions'.
    pub weight: u32,
    /// How many nodes it has.
    pub nodes: usize,
    /// How many shards are led from it, as far as is known.
    pub leaders: usize,
    /// Whether a node of it holds a lease.
    pub live: bool,
    /// How many shards' coordinators are to be in it because their traffic comes from there.
    #[serde(default)]
    pub followers: usize,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Its id.
    pub id: u64,
    /// Where it is.
    pub region: String,
    /// Its failure domain inside the region; may be empty.
    pub zone: String,
    /// What the log says of it: `joining`, `live`, `draining`, `stopping`, `dead` or `removed`.
    pub state: String,
    /// What the control group's leader says of its lease: `live`, `suspect` or `dead`; missing if
    /// the leader could not be asked.
    pub standing: Option<String>,
    /// Which life of it.
    pub incarnation: u64,
    /// Where it is reached.
    pub addresses: AddressesRow,
    /// How many replicas are placed on it.
    pub replicas: usize,
    /// How many of them vote.
    pub voters: usize,
    /// How many shards it leads, as far as is known.
    pub leaders: usize,
    /// How many shards it owns for its region.
    #[serde(default)]
    pub owned: usize,
    /// What it must lose, once drained, before it can be removed: replicas of shards and votes, that
    /// in the control group included.
    #[serde(default)]
    pub held: usize,
    /// How long ago its lease was renewed, as the control group's leader knows; missing if it could
    /// not be asked.
    pub lease_age_ms: Option<u64>,
}

/// Where a node's listeners are reached, each `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressesRow {
    /// REST and server-sent events.
    pub client: String,
    /// gRPC for edges and watchers.
    pub reporter: String,
    /// gRPC for nodes.
    pub peer: String,
    /// Health, metrics and operators.
    pub admin: String,
}

impl From<&headcount_model::control::Addresses> for AddressesRow {
    fn from(addresses: &headcount_model::control::Addresses) -> Self {
        Self {
            client: addresses.client.clone(),
            reporter: addresses.reporter.clone(),
            peer: addresses.peer.clone(),
            admin: addresses.admin.clone(),
        }
    }
}

/// A shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRow {
    /// Its id.
    pub shard: u32,
    /// Its coordinator, as far as is known.
    pub leader: Option<LeaderRow>,
    /// The term in which that is so.
    pub term: u64,
    /// The region that the coordinator should be in while it lives, because of a pin.
    #[serde(default)]
    pub home: Option<String>,
    /// The region that the coordinator should be in because traffic comes from there.
    #[serde(default)]
    pub follows: Option<String>,
    /// What came lately by region; empty without traffic, or if the control group's leader could
    /// not be asked.
    #[serde(default)]
    pub traffic: BTreeMap<String, u64>,
    /// Who speaks for each region.
    pub owners: Vec<OwnerRow>,
    /// Nodes whose replicas vote.
    pub voters: Vec<u64>,
    /// Nodes whose replicas only listen.
    pub learners: Vec<u64>,
    /// Index of the last entry that the answering node applied; missing without a replica.
    pub applied: Option<u64>,
    /// Index of the last entry that it knows to be committed; missing without a replica.
    pub committed: Option<u64>,
    /// How many channels are active, as the answering node's replica has it, or without one a holder
    /// that could be asked.
    pub channels: Option<usize>,
}

/// A leader.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRow {
    /// Its node.
    pub node: u64,
    /// That node's region.
    pub region: String,
}

/// Who speaks for a region's shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRow {
    /// The region.
    pub region: String,
    /// The owning node; missing while nobody may speak.
    pub node: Option<u64>,
    /// Under which fence.
    pub fence: u64,
    /// Whether its adoption is over, as the log has it.
    pub settled: bool,
}

/// The control group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlRow {
    /// Its leader, as far as is known.
    pub leader: Option<LeaderRow>,
    /// The term in which that is so.
    pub term: u64,
    /// Nodes whose replicas vote.
    pub voters: Vec<u64>,
    /// Nodes whose replicas only listen.
    pub learners: Vec<u64>,
    /// Index of the last entry that the answering node applied.
    pub applied: u64,
    /// Whether a majority of its voters confirmed it just now. Without one nothing in this status
    /// is sure to hold still, and nothing can be changed.
    #[serde(default)]
    pub has_majority: bool,
    /// How long ago a majority, or who led by one, was last heard; missing if never since the
    /// answering node started.
    #[serde(default)]
    pub heard_age_ms: Option<u64>,
}

/// Returns what [`NodeRow::state`] says.
#[must_use]
pub fn state_name(node: &Node) -> &'static str {
    match node.state {
        NodeState::Joining => "joining",
        NodeState::Live if node.draining => "draining",
        NodeState::Live if node.stopping => "stopping",
        NodeState::Live => "live",
        NodeState::Dead => "dead",
        NodeState::Removed => "removed",
    }
}

/// Returns what [`NodeRow::standing`] says.
#[must_use]
pub fn standing_name(standing: Standing) -> &'static str {
    match standing {
        Standing::Live => "live",
        Standing::Suspect => "suspect",
        Standing::Dead => "dead",
    }
}
