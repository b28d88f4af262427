//! What the control group's log says, and what its proposers are told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Addresses, ClusterFacts, ClusterId, GroupId, NewNode, Revocation, Settings};
use crate::{Era, Fence, Incarnation, NodeId, RegionName, ReplicaId, ShardId, Timestamp};

/// One entry of the control group's log.
///
/// Whatever a client may ask for twice is idempotent, or is refused the second time with a reason
/// that shows that the first was heard. What placement plans carries the version of the group
/// that it was planned on and does nothing on another. What an operator wants would be as harmless
/// the second time, but not after what was wanted next: it comes as [`Self::Order`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlCommand {
    /// Founds the cluster with its first node, [`super::FOUNDING_NODE`], which holds the first and
    /// only replica of every group.
    Init {
        /// What is settled for ever.
        facts: ClusterFacts,
        /// What operators may change later; the version is ignored.
        settings: Settings,
        /// The first node.
        node: NewNode,
    },
    /// Makes a node a member, or returns its id if it is one already. It gets a replica of the
    /// control group at once; shards, ownership and a lease only after [`Self::Start`].
    Join(NewNode),
    /// Registers a life of a node's process: ends the lease and the fences of the one before (R4).
    Start {
        /// Which node.
        node: NodeId,
        /// The last incarnation that the control group knew, plus one.
        incarnation: Incarnation,
        /// A number that differs from one life of the process to the next, so that the same
        /// request sent twice counts once.
        process: u64,
        /// Where it is reached now.
        addresses: Addresses,
        /// The highest version of these commands that the process understands.
        understands: u32,
    },
    /// A lease ran out; by the control group's leader only. The node is dead, its regions' shards
    /// move to other owners, and a region without any lease is void (R5).
    LeaseLost {
        /// Which node.
        node: NodeId,
        /// Which life; a later one is not touched.
        incarnation: Incarnation,
    },
    /// A node's process is about to end in good order, mostly to come back: others of its region
    /// take over what it owns while it can still tell them its counts. Replicas and votes stay. To
    /// be proposed only if all members understand [`super::STOPPING_VERSION`].
    Stop {
        /// Which node.
        node: NodeId,
        /// Which life; a later one is not touched.
        incarnation: Incarnation,
    },
    /// Moves everything off a node, which goes on serving until it is empty.
    Drain(NodeId),
    /// Takes a drain back.
    Undrain(NodeId),
    /// Ends a membership for ever. The node must be dead, or drained and empty.
    Remove(NodeId),
    /// Places new replicas, learners first.
    AddReplicas {
        /// Of which group.
        group: GroupId,
        /// The group's version that this was planned on.
        version: u64,
        /// On which nodes; none holds one yet.
        nodes: BTreeSet<NodeId>,
    },
    /// Says who shall vote: one joint change.
    SetVoters {
        /// In which group.
        group: GroupId,
        /// The group's version that this was planned on.
        version: u64,
        /// All voters from then on; ready replicas, an odd number or two.
        voters: BTreeSet<ReplicaId>,
    },
    /// Takes replicas away that do not vote; they are gone once the group has confirmed it.
    RemoveReplicas {
        /// Of which group.
        group: GroupId,
        /// The group's version that this was planned on.
        version: u64,
        /// Which.
        replicas: BTreeSet<ReplicaId>,
    },
    /// A learner has caught up; by its group's leader.
    ReplicaReady {
        /// In which group.
        group: GroupId,
        /// Which.
        replica: ReplicaId,
    },
    /// The group's committed membership is its target of `version`; by its leader.
    Confirm {
        /// Which group.
        group: GroupId,
        /// The version of the target that was reached.
        version: u64,
    },
    /// Gives a region's shard to another node of the region, with a new fence.
    MoveOwner {
        /// The region.
        region: RegionName,
        /// The shard.
        shard: ShardId,
        /// The fence that the present owner holds; if another does, nothing happens.
        fence: Fence,
        /// The new owner; live, with a ready replica.
        node: NodeId,
    },
    /// Says which voter should lead a group.
    PreferLeader {
        /// Which group.
        group: GroupId,
        /// Which voter.
        replica: ReplicaId,
    },
    /// Says in which region a shard's coordinator should be, while that region lives.
    SetHome {
        /// Which shard.
        shard: ShardId,
        /// Where, or wherever the weights say.
        home: Option<RegionName>,
    },
    /// Says which region a shard's coordinator should be in because its traffic comes from there;
    /// by the control group's leader, which measures it.
    FollowTraffic {
        /// Which shard.
        shard: ShardId,
        /// Where from, or wherever the weights say.
        region: Option<RegionName>,
    },
    /// Sets how often paced occupancy events are told.
    SetPacing {
        /// Least time between two such events of one channel.
        occupancy_interval: Duration,
    },
    /// Sets the shares of coordinators that regions shall have; regions not named keep theirs.
    SetWeights(BTreeMap<RegionName, u32>),
    /// Sets [`super::Settings::copies`].
    SetCopies(u32),
    /// Raises the era, after a recovery without quorum (R20).
    RaiseEra(Era),
    /// Revokes tokens of a key, beside what was revoked of the same targets before.
    RevokeTokens {
        /// The key's name.
        key: String,
        /// Which of its tokens, as texts that placement does not read; at least one.
        targets: BTreeSet<String>,
        /// Those that were issued before, in ms since the epoch.
        revocation: Revocation,
        /// The proposer's time, by which it is judged what applies already, and what may be
        /// forgotten when there is no room.
        now: Timestamp,
    },
    /// A command that takes effect at most once, and only before any other order: a copy that comes
    /// late, over a way that was slow, does nothing. To be proposed only if all members understand
    /// [`super::ORDERS_VERSION`].
    Order {
        /// [`LastOrder::index`] as its proposer knows it.
        after: u64,
        /// Drawn at random, the same for all copies of the order.
        id: u64,
        /// What is wanted; no order.
        command: Box<Self>,
    },
}

/// The last order that took effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LastOrder {
    /// Its index in the control group's log, 0 if there was none.
    pub index: u64,
    /// [`ControlCommand::Order::id`].
    pub id: u64,
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The state changed.
    Changed,
    /// It was so already.
    Unchanged,
    /// The node is a member.
    Joined {
        /// Its id, the same for every join with its key.
        node: NodeId,
        /// The last incarnation that it registered, 0 if none; it starts with the next.
        incarnation: Incarnation,
        /// Its replica of the control group.
        replica: ReplicaId,
    },
    /// The life is registered and may hold a lease.
    Started {
        /// The node's incarnation.
        incarnation: Incarnation,
    },
}

/// Why a command did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No cluster was founded yet.
    #[error("the cluster is not founded yet: run `init` on exactly one node")]
    NotFounded,
    /// A cluster was founded before.
    #[error("the cluster {cluster} is founded already")]
    Founded {
        /// Which one.
        cluster: ClusterId,
    },
    /// A value is outside its bounds.
    #[error("{what} is out of bounds: at most {max} are allowed")]
    TooMuch {
        /// What.
        what: String,
        /// The greatest value allowed.
        max: u64,
    },
    /// A value that must not be empty or zero is.
    #[error("{what} is missing")]
    Missing {
        /// What.
        what: String,
    },
    /// There is no such node.
    #[error("there is no node {node}")]
    UnknownNode {
        /// Its id.
        node: NodeId,
    },
    /// The node was removed for ever.
    #[error("node {node} was removed: join with an empty data directory")]
    NodeRemoved {
        /// Its id.
        node: NodeId,
    },
    /// A node never moves to another region.
    #[error("node {node} belongs to region {region}: join with an empty data directory")]
    OtherRegion {
        /// Its id.
        node: NodeId,
        /// Where it joined.
        region: RegionName,
    },
    /// The incarnation is not the one after the last.
    #[error("node {node} is at incarnation {current}: start with the next one")]
    StaleIncarnation {
        /// Which node.
        node: NodeId,
        /// The last one registered.
        current: Incarnation,
    },
    /// The cluster would have no node left to hold its data.
    #[error("node {node} is the last one that can hold replicas")]
    LastNode {
        /// Its id.
        node: NodeId,
    },
    /// The node lives and is not drained.
    #[error("node {node} is alive and not drained: drain it first")]
    NotDrained {
        /// Its id.
        node: NodeId,
    },
    /// The node still holds replicas.
    #[error("node {node} still holds {replicas} replicas: wait until it is drained")]
    StillHolds {
        /// Its id.
        node: NodeId,
        /// How many, the control group's counted only if it votes.
        replicas: u64,
    },
    /// There is no such region.
    #[error("there is no region {region}")]
    UnknownRegion {
        /// Its name.
        region: RegionName,
    },
    /// There is no such group.
    #[error("there is no group {group}")]
    UnknownGroup {
        /// Which.
        group: GroupId,
    },
    /// The group has no such replica.
    #[error("{group} has no replica {replica}")]
    UnknownReplica {
        /// Which group.
        group: GroupId,
        /// Which replica.
        replica: ReplicaId,
    },
    /// The group changed since the command was planned.
    #[error("{group} is at version {current} by now")]
    Superseded {
        /// Which group.
        group: GroupId,
        /// Its version.
        current: u64,
    },
    /// The ownership changed since the command was planned.
    #[error("region {region} owns shard {shard} under fence {current} by now")]
    OwnerMoved {
        /// The region.
        region: RegionName,
        /// The shard.
        shard: ShardId,
        /// The fence that is valid; the last one if nobody owns it.
        current: Fence,
    },
    /// The node already holds a replica of the group, perhaps one that is leaving.
    #[error("node {node} holds a replica of {group} already")]
    Occupied {
        /// Which group.
        group: GroupId,
        /// Which node.
        node: NodeId,
    },
    /// The node cannot take it: it is not live, draining, or without a ready replica.
    #[error("node {node} cannot take {group}: it must be live, with a ready replica")]
    NotEligible {
        /// Which group.
        group: GroupId,
        /// Which node.
        node: NodeId,
    },
    /// Voters must be ready replicas that stay, in an odd number, or two.
    #[error("{group} cannot have these voters: want ready replicas, an odd number or two")]
    BadVoters {
        /// Which group.
        group: GroupId,
    },
    /// A voter, or a replica that may be one in an unconfirmed membership, cannot be taken away.
    #[error("replica {replica} of {group} votes, or did until a change that is not confirmed yet")]
    StillVotes {
        /// Which group.
        group: GroupId,
        /// Which replica.
        replica: ReplicaId,
    },
    /// The era only grows.
    #[error("the era is {current} already")]
    OldEra {
        /// The present one.
        current: Era,
    },
    /// Another order took effect since the one that this order was to follow.
    #[error("another order took effect meanwhile: look at the status before trying again")]
    Overtaken {
        /// The last one's index.
        current: u64,
    },
}

/// What a proposer is told.
pub type ControlReply = Result<Outcome, Refusal>;
