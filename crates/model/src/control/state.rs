//! Members, groups and ownership as the control group's log made them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Addresses, ClusterFacts, GroupId, LastOrder, NodeKey, Settings};
use crate::{Fence, Incarnation, NodeId, RegionName, ReplicaId, ShardId, Timestamp};

/// Whether a member takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeState {
    /// It joined and never started; it holds no lease.
    Joining,
    /// It holds a lease, as far as the log knows.
    Live,
    /// Its lease ran out.
    Dead,
    /// Its membership has ended for ever.
    Removed,
}

/// What is to be said about a node's life. Worse ones last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Heard in time.
    Live,
    /// Not heard for a while; its lease still runs.
    Suspect,
    /// Its lease ran out, or it never had one.
    Dead,
}

/// Node: a member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is recognised by when it joins again.
    pub key: NodeKey,
    /// Where it is.
    pub region: RegionName,
    /// A failure domain inside the region; empty if it named none.
    pub zone: String,
    /// Where it is reached.
    pub addresses: Addresses,
    /// The last life that it registered, 0 if none.
    pub incarnation: Incarnation,
    /// What told that life from others when it registered.
    pub process: u64,
    /// The highest version of control commands that it understands.
    pub understands: u32,
    /// Whether it takes part.
    pub state: NodeState,
    /// Whether an operator wants it emptied.
    pub draining: bool,
    /// Whether its present life is about to end in good order: it owns nothing that another node
    /// can own.
    pub stopping: bool,
}

impl Node {
    /// Returns whether it holds a lease, as far as the log knows.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state == NodeState::Live
    }

    /// Returns whether replicas may be placed on it: live and not draining.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.is_live() && !self.draining
    }

    /// Returns whether it may be given ownership: usable, and not about to stop.
    #[must_use]
    pub fn may_own(&self) -> bool {
        self.is_usable() && !self.stopping
    }

    /// Returns whether it counts when placement decides how many replicas and voters there should
    /// be: it has started, and is meant to stay. A dead node counts, lest each restart reshape
    /// the cluster.
    #[must_use]
    pub fn counts(&self) -> bool {
        matches!(self.state, NodeState::Live | NodeState::Dead) && !self.draining
    }
}

/// Region: a named place with nodes, kept even after its last node is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its share of coordinators, relative to other regions'; with 0 it leads only what nobody
    /// else can.
    pub weight: u32,
}

/// Replica: one copy of a group's state on one node, which it never leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Where it lives.
    pub node: NodeId,
    /// Whether it has caught up once.
    pub ready: bool,
    /// The group's version from which on it is no member; the state forgets it when that version
    /// is confirmed.
    pub leaving: Option<u64>,
}

/// What is known and wanted of one raft group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The replica that initialises the group with itself as the only voter.
    pub founder: ReplicaId,
    /// Every replica, those that leave included.
    pub replicas: BTreeMap<ReplicaId, Replica>,
    /// Those that shall vote.
    pub voters: BTreeSet<ReplicaId>,
    /// Number of the target, raised by each change of it. From 1.
    pub version: u64,
    /// The version that brought the voters.
    pub voters_version: u64,
    /// The highest version that the group's leader reported as reached; 0 before the first.
    pub confirmed: u64,
    /// The voter that should lead; the group may be led by another at any time.
    pub leader: Option<ReplicaId>,
    /// The region that its leader should be in while it has a live voter there.
    pub home: Option<RegionName>,
    /// The region that most of a shard's traffic comes from, found to be so for long enough: its
    /// leader should be there if it has no home.
    pub follows: Option<RegionName>,
}

impl Group {
    /// Returns the replicas that stay members.
    pub fn members(&self) -> impl Iterator<Item = (ReplicaId, &Replica)> {
        self.replicas
            .iter()
            .filter(|(_, replica)| replica.leaving.is_none())
            .map(|(id, replica)| (*id, replica))
    }

    /// Returns the node's replica, even if it leaves.
    #[must_use]
    pub fn on(&self, node: NodeId) -> Option<(ReplicaId, &Replica)> {
        let mut found = self
            .replicas
            .iter()
            .filter(|(_, replica)| replica.node == node);
        found.next().map(|(id, replica)| (*id, replica))
    }

    /// Returns the region that the group's leader should be in while it has a live voter there.
    #[must_use]
    pub fn seat(&self) -> Option<&RegionName> {
        self.home.as_ref().or(self.follows.as_ref())
    }

    /// Returns whether the group's leader reported the present target as reached.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.confirmed == self.version
    }

    /// Returns the membership that the group's leader shall bring about. The same shape as what a
    /// raft group is given.
    #[must_use]
    pub fn membership(&self) -> Membership {
        let (voters, learners) = self
            .members()
            .map(|(id, replica)| (id, replica.node))
            .partition(|(id, _)| self.voters.contains(id));
        Membership {
            version: self.version,
            voters,
            learners,
        }
    }
}

/// Who shall belong to a raft group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Number of this target; [`super::ControlCommand::Confirm`] names it.
    pub version: u64,
    /// Those who decide, with their nodes; at least one.
    pub voters: BTreeMap<ReplicaId, NodeId>,
    /// Those who only listen, with their nodes; none of them is a voter.
    pub learners: BTreeMap<ReplicaId, NodeId>,
}

/// Who speaks for a region's shard, and who did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenure {
    /// The last fence that was handed out; the present owner's, if there is one.
    pub fence: Fence,
    /// The owner and its incarnation.
    pub holder: Option<(NodeId, Incarnation)>,
    /// Everything under this fence or a lower one is void (R5); 0 if nothing is.
    pub void: Fence,
}

/// Revocation: which tokens of a target are void, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Those that were issued before.
    pub issued_before: Timestamp,
    /// From then on; before, clients may fetch new ones.
    pub applies_at: Timestamp,
}

impl Revocation {
    /// Adds a revocation to what is known of its target. One with a time to come neither takes back
    /// nor hastens what another one says: kept is each that voids more tokens than all that apply
    /// before it.
    pub fn add_to(self, known: &mut Vec<Self>, now: Timestamp) {
        known.push(self);
        // Whatever applies by now applies alike.
        known.sort_by_key(|it| (it.applies_at.max(now), Reverse(it.issued_before)));
        let mut voided = None;
        known.retain(|it| {
            let adds = voided < Some(it.issued_before);
            voided = voided.max(Some(it.issued_before));
            adds
        });
    }

    /// Says whether everything that another one voids is void as soon.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.issued_before >= other.issued_before && self.applies_at <= other.applies_at
    }
}

/// Revocations: by the key's name and the target, by when they apply. Shared, since it may be large
/// and the state is copied with each command.
pub type RevokedTokens = Arc<BTreeMap<(String, String), Vec<Revocation>>>;

/// Everything of the state, laid open for snapshots. Whoever applies commands
/// guards what must hold among it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlParts {
    /// Index of the last command applied.
    pub applied: u64,
    /// Missing before [`super::ControlCommand::Init`]; then everything else is empty.
    pub facts: Option<ClusterFacts>,
    /// What operators may change.
    pub settings: Settings,
    /// Last node id handed out.
    pub last_node: NodeId,
    /// Last replica id handed out.
    pub last_replica: ReplicaId,
    /// Last fence handed out.
    pub last_fence: Fence,
    /// The last order that took effect.
    pub last_order: LastOrder,
    /// By name.
    pub regions: BTreeMap<RegionName, Region>,
    /// Members, and some that were.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Every group.
    pub groups: BTreeMap<GroupId, Group>,
    /// By region and shard; missing where nobody ever owned.
    pub tenures: BTreeMap<(RegionName, ShardId), Tenure>,
    /// Tokens revoked before their time.
    pub revocations: RevokedTokens,
}
