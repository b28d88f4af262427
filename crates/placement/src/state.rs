//! The replicated state, and everything that a node reads from it.

use std::collections::{BTreeMap, BTreeSet};

use headcount_model::{Fence, Incarnation, NodeId, Pacing, RegionName, ReplicaId, ShardId};

use crate::{
    ClusterFacts, ControlParts, Group, GroupId, Membership, Node, NodeKey, NodeState, Region,
    RevokedTokens, Settings, Tenure,
};

/// Owner: the node that speaks for a region's shard, and the fence that it does so under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The node.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Its fence; no other owner of anything ever holds the same.
    pub fence: Fence,
}

/// A replica as its node sees it: what it shall host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosted {
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
    /// Whether it initialises the group, if the group's log is still empty.
    pub founder: bool,
    /// Whether it is still a member; if not, it stays only until the group has confirmed that.
    pub leaving: bool,
}

/// What still binds a node to the cluster's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Replicas of shards, those that leave included.
    pub replicas: u64,
    /// Groups in which it votes, the control group included, or may do so in a membership that is
    /// not confirmed.
    pub votes: u64,
    /// Groups that it should lead.
    pub leads: u64,
    /// Shards of its region that it owns.
    pub owns: u64,
}

/// Whom a change of the state concerns; see [`Control::concern_since`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concern {
    /// Every shard.
    Everybody,
    /// These shards; often none.
    Shards(BTreeSet<ShardId>),
}

/// Control: the replicated state of the whole cluster, as the control group's log made it.
///
/// Changed by [`Control::apply`] only. Every node holds a copy, which may lag; whoever needs the
/// present state asks the control group's leader for a read index first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    pub(crate) parts: ControlParts,
}

impl Control {
    /// Returns the state before anything was applied.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns everything, for a snapshot or a report.
    #[must_use]
    pub fn parts(&self) -> &ControlParts {
        &self.parts
    }

    /// Returns the index of the last command applied, 0 if none.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.parts.applied
    }

    /// Returns what was settled at birth; `None` before [`crate::ControlCommand::Init`].
    #[must_use]
    pub fn facts(&self) -> Option<&ClusterFacts> {
        self.parts.facts.as_ref()
    }

    /// Returns the replicated settings.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.parts.settings
    }

    /// Returns the pacing that shards shall have (R19).
    #[must_use]
    pub fn pacing(&self) -> Pacing {
        Pacing {
            version: self.parts.settings.version,
            occupancy_interval: self.parts.settings.occupancy_interval,
        }
    }

    /// Returns every shard, ascending.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.parts.facts.as_ref().map_or(0, |facts| facts.shards)).map(ShardId)
    }

    /// Returns the tokens that were revoked before their time.
    #[must_use]
    pub fn revocations(&self) -> &RevokedTokens {
        &self.parts.revocations
    }

    /// Returns every region that ever had a node.
    #[must_use]
    pub fn regions(&self) -> &BTreeMap<RegionName, Region> {
        &self.parts.regions
    }

    /// Returns every node, the removed ones that are still remembered included.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.parts.nodes
    }

    /// Returns one node.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&Node> {
        self.parts.nodes.get(&node)
    }

    /// Returns the node with that key.
    #[must_use]
    pub fn node_by_key(&self, key: NodeKey) -> Option<(NodeId, &Node)> {
        let mut found = self.parts.nodes.iter().filter(|(_, node)| node.key == key);
        found.next().map(|(id, node)| (*id, node))
    }

    /// Returns the nodes of a region that hold a lease: the gateways that an owner hears.
    pub fn live_nodes<'a>(
        &'a self,
        region: &'a RegionName,
    ) -> impl Iterator<Item = (NodeId, &'a Node)> + 'a {
        let nodes = self.parts.nodes.iter();
        nodes
            .filter(|(_, node)| node.is_live() && node.region == *region)
            .map(|(id, node)| (*id, node))
    }

    /// Returns whether that life of a node may act: it is the last one registered, and its lease
    /// has not ended. Whatever another one sends is refused (R4, R13).
    #[must_use]
    pub fn is_current(&self, node: NodeId, incarnation: Incarnation) -> bool {
        self.node(node)
            .is_some_and(|node| node.is_live() && node.incarnation == incarnation)
    }

    /// Returns the version of commands that every member understands, 0 if one has not said.
    #[must_use]
    pub fn understood(&self) -> u32 {
        let members = self
            .parts
            .nodes
            .values()
            .filter(|node| node.state != NodeState::Removed);
        members.map(|node| node.understands).min().unwrap_or(0)
    }

    /// Returns every group.
    #[must_use]
    pub fn groups(&self) -> &BTreeMap<GroupId, Group> {
        &self.parts.groups
    }

    /// Returns one group.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<&Group> {
        self.parts.groups.get(&group)
    }

    /// Returns what a node shall host. A replica on its disk that is not named here, and whose id
    /// is not above [`ControlParts::last_replica`], is to be stopped and destroyed.
    pub fn replicas_of(&self, node: NodeId) -> impl Iterator<Item = Hosted> + '_ {
        self.parts.groups.iter().filter_map(move |(id, group)| {
            let (replica, state) = group.on(node)?;
            Some(Hosted {
                group: *id,
                replica,
                founder: group.founder == replica,
                leaving: state.leaving.is_some(),
            })
        })
    }

    /// Returns the membership that a group's leader shall bring about.
    #[must_use]
    pub fn target_membership(&self, group: GroupId) -> Option<Membership> {
        self.group(group).map(Group::membership)
    }

    /// Returns the voter that should lead a group, and its node.
    #[must_use]
    pub fn leader_target(&self, group: GroupId) -> Option<(ReplicaId, NodeId)> {
        let group = self.group(group)?;
        let replica = group.leader?;
        Some((replica, group.replicas.get(&replica)?.node))
    }

    /// Returns who speaks for a region's shard.
    #[must_use]
    pub fn owner(&self, region: &RegionName, shard: ShardId) -> Option<Owner> {
        let tenure = self.tenure(region, shard)?;
        let (node, incarnation) = tenure.holder?;
        Some(Owner {
            node,
            incarnation,
            fence: tenure.fence,
        })
    }

    /// Returns all that is known of a region's ownership of a shard.
    #[must_use]
    pub fn tenure(&self, region: &RegionName, shard: ShardId) -> Option<Tenure> {
        self.parts.tenures.get(&(region.clone(), shard)).copied()
    }

    /// Returns what a node owns: shards of its region, with the fence of each.
    pub fn owned_by(&self, node: NodeId) -> impl Iterator<Item = (ShardId, Owner)> + '_ {
        self.parts
            .tenures
            .iter()
            .filter_map(move |((_, shard), tenure)| {
                let (holder, incarnation) = tenure.holder?;
                let owner = Owner {
                    node: holder,
                    incarnation,
                    fence: tenure.fence,
                };
                (holder == node).then_some((*shard, owner))
            })
    }

    /// Returns the regions whose contributions to a shard are void, and up to which fence (R5).
    /// They stay listed after the region has a new owner: its claim is higher and prevails.
    pub fn voids(&self, shard: ShardId) -> impl Iterator<Item = (&RegionName, Fence)> {
        self.parts.regions.keys().filter_map(move |region| {
            let tenure = self.tenure(region, shard)?;
            (tenure.void > Fence(0)).then_some((region, tenure.void))
        })
    }

    /// Returns whom it concerns that the state was `before` and is this one, among those who work
    /// with a shard's owners, with its voids, with nodes or with settings.
    #[must_use]
    pub fn concern_since(&self, before: &Self) -> Concern {
        let (old, new) = (&before.parts, &self.parts);
        if old.nodes != new.nodes
            || old.regions != new.regions
            || old.settings != new.settings
            || old.facts != new.facts
        {
            return Concern::Everybody;
        }
        let changed = |one: &BTreeMap<(RegionName, ShardId), Tenure>, other: &BTreeMap<_, _>| {
            let changed = one
                .iter()
                .filter(|(of, tenure)| other.get(*of) != Some(*tenure));
            changed
                .map(|((_, shard), _)| *shard)
                .collect::<BTreeSet<_>>()
        };
        let mut shards = changed(&new.tenures, &old.tenures);
        // And what is gone.
        shards.extend(changed(&old.tenures, &new.tenures));
        Concern::Shards(shards)
    }

    /// Returns what still binds a node to the cluster's data; a drained node has no replicas and no
    /// votes.
    #[must_use]
    pub fn holdings(&self, node: NodeId) -> Holdings {
        let mut holdings = Holdings::default();
        for (id, group) in &self.parts.groups {
            let Some((replica, _)) = group.on(node) else {
                continue;
            };
            holdings.replicas += u64::from(*id != GroupId::Control);
            let settled = group.confirmed >= group.voters_version;
            let votes = group.voters.contains(&replica) || !settled;
            holdings.votes += u64::from(votes);
            holdings.leads += u64::from(group.leader == Some(replica));
        }
        holdings.owns = self.owned_by(node).count() as u64;
        holdings
    }
}
