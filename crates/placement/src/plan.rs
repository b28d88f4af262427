//! Where replicas, votes, ownership and leadership should be, as the next commands towards it.
//!
//! Every step is small and keeps what holds: a replica is a learner until it has caught up, voters
//! change in one joint step to a set whose majority is alive, a replica goes only when it has no
//! vote left. Asked again after its commands were applied and reported as done, [`plan()`] comes to
//! rest.

mod balance;
mod leaders;
mod replicas;
mod voters;

use std::collections::{BTreeMap, BTreeSet};

use headcount_model::{NodeId, RegionName, ReplicaId};

use crate::{Control, ControlCommand, Group, GroupId, Node, NodeState};

/// What [`plan()`] is to respect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Most groups that change their members at a time, and most that copy data to new replicas.
    /// Too low makes growth slow, too high makes it felt by the traffic. At least 1.
    pub changes_max: usize,
    /// Dead nodes that are not waited for any longer; [`crate::Leases::given_up`] says which. The
    /// replicas of a node that died a moment ago stay where they are: it mostly comes back.
    pub given_up: BTreeSet<NodeId>,
    /// Whether a node died a moment ago; [`crate::Leases::is_settling`] says so. Whoever its groups
    /// elected leads them until it is back or that is over: a move would hold up the claims and
    /// counts that follow a death, and mostly be undone. A drain does not wait for this.
    pub settling: bool,
    /// Nodes that restarted a moment ago; [`crate::Leases::restarted`] says which. They are given
    /// nothing to own yet: the ways to them are still being opened again, and one that crashes time
    /// and again would have its region wait for a new owner each time.
    pub restarted: BTreeSet<NodeId>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            changes_max: 8,
            given_up: BTreeSet::new(),
            settling: false,
            restarted: BTreeSet::new(),
        }
    }
}

/// Returns the commands that bring the cluster nearer to where it should be; none if it is there,
/// or if nothing can be done before what was begun has been reported as done.
///
/// To be proposed in their order by the control group's leader only, which asks again when they are
/// applied. If another leader planned at the same time, the versions in the commands see to it that
/// only one of the two has its way.
#[must_use]
pub fn plan(control: &Control, options: &PlanOptions) -> Vec<ControlCommand> {
    if control.facts().is_none() {
        return Vec::new();
    }
    let mut planner = Planner::new(control, options);
    planner.victims();
    planner.votes();
    planner.removals();
    planner.additions();
    planner.balance_replicas();
    planner.balance_votes();
    planner.balance_owners();
    if !options.settling || planner.is_draining() {
        planner.leaders();
    }
    planner.commands
}

/// How much a replica can be counted on, by the node that it lives on. Better ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    /// Live, and meant to stay.
    Usable,
    /// Not live at present, and waited for.
    Waiting,
    /// Live, and draining.
    Going,
    /// Neither live nor waited for.
    Gone,
}

/// One run of [`plan()`].
struct Planner<'a> {
    control: &'a Control,
    options: &'a PlanOptions,
    health: BTreeMap<NodeId, Health>,
    /// The nodes of each region that count.
    counting: BTreeMap<&'a RegionName, Vec<NodeId>>,
    /// Replicas that shall go.
    victims: BTreeMap<GroupId, BTreeSet<ReplicaId>>,
    /// Replicas of shards on each node, victims not counted.
    load: BTreeMap<NodeId, u64>,
    /// Votes in shards' groups on each node.
    votes: BTreeMap<NodeId, u64>,
    /// Groups whose membership is changing, and those that change it by a command of this run.
    changing: BTreeSet<GroupId>,
    /// Groups that copy data to a new replica, and those that begin to by a command of this run.
    copying: BTreeSet<GroupId>,
    /// The voters of groups that change them by a command of this run.
    elected: BTreeMap<GroupId, BTreeSet<ReplicaId>>,
    commands: Vec<ControlCommand>,
}

impl<'a> Planner<'a> {
    fn new(control: &'a Control, options: &'a PlanOptions) -> Self {
        let nodes = control.nodes().iter();
        let health = nodes
            .map(|(id, node)| (*id, health(*id, node, options)))
            .collect();
        let mut counting: BTreeMap<_, Vec<_>> = control
            .regions()
            .keys()
            .map(|region| (region, Vec::new()))
            .collect();
        for (id, node) in control.nodes().iter().filter(|(_, node)| node.counts()) {
            counting.entry(&node.region).or_default().push(*id);
        }
        let mut planner = Self {
            control,
            options,
            health,
            counting,
            victims: BTreeMap::new(),
            load: BTreeMap::new(),
            votes: BTreeMap::new(),
            changing: BTreeSet::new(),
            copying: BTreeSet::new(),
            elected: BTreeMap::new(),
            commands: Vec::new(),
        };
        for (id, group) in control.groups() {
            if planner.has_quorum(group) && !group.is_confirmed() {
                planner.changing.insert(*id);
            }
            // Every node copies the control group when it joins; that is not planned.
            if *id == GroupId::Control {
                continue;
            }
            let mut fresh = group.members().filter(|(_, replica)| !replica.ready);
            if fresh.any(|(_, replica)| planner.health(replica.node) == Health::Usable) {
                planner.copying.insert(*id);
            }
            for (replica, state) in group.members() {
                *planner.load.entry(state.node).or_default() += 1;
                let votes = u64::from(group.voters.contains(&replica));
                *planner.votes.entry(state.node).or_default() += votes;
            }
        }
        planner
    }

    /// Returns whether a node that lives is to be emptied.
    fn is_draining(&self) -> bool {
        self.health.values().any(|health| *health == Health::Going)
    }

    fn health(&self, node: NodeId) -> Health {
        self.health.get(&node).copied().unwrap_or(Health::Gone)
    }

    fn region(&self, node: NodeId) -> Option<&'a RegionName> {
        self.control.node(node).map(|node| &node.region)
    }

    fn zone(&self, node: NodeId) -> &'a str {
        self.control.node(node).map_or("", |node| &node.zone)
    }

    /// Returns the usable nodes of a region.
    fn usable(&self, region: &RegionName) -> impl Iterator<Item = NodeId> + '_ {
        let nodes = self.counting.get(region).into_iter().flatten().copied();
        nodes.filter(|node| self.health(*node) == Health::Usable)
    }

    fn is_victim(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.victims
            .get(&group)
            .is_some_and(|victims| victims.contains(&replica))
    }

    /// Returns whether a majority of the voters is alive, so that the group can do anything at all.
    fn has_quorum(&self, group: &Group) -> bool {
        self.is_majority_alive(group, &group.voters)
    }

    fn is_majority_alive(&self, group: &Group, voters: &BTreeSet<ReplicaId>) -> bool {
        let alive = voters.iter().filter(|voter| {
            let replica = group.replicas.get(voter);
            let health = replica.map_or(Health::Gone, |replica| self.health(replica.node));
            matches!(health, Health::Usable | Health::Going)
        });
        alive.count() * 2 > voters.len()
    }

    /// Returns whether the group may change its membership now, and takes note that it does.
    fn may_change(&mut self, group: GroupId) -> bool {
        // The control group is not among those that wait for each other.
        let shards = self
            .changing
            .iter()
            .filter(|id| **id != GroupId::Control)
            .count();
        let free = group == GroupId::Control || shards < self.options.changes_max.max(1);
        free && self.changing.insert(group)
    }

    /// Returns whether the group may begin to copy data now, and takes note that it does.
    fn may_copy(&mut self, group: GroupId) -> bool {
        if self.copying.contains(&group) {
            return self.may_change(group);
        }
        self.copying.len() < self.options.changes_max.max(1)
            && self.may_change(group)
            && self.copying.insert(group)
    }
}

fn health(id: NodeId, node: &Node, options: &PlanOptions) -> Health {
    match node.state {
        NodeState::Live if node.draining => Health::Going,
        NodeState::Live => Health::Usable,
        NodeState::Removed => Health::Gone,
        NodeState::Joining | NodeState::Dead => {
            if node.draining || options.given_up.contains(&id) {
                Health::Gone
            } else {
                Health::Waiting
            }
        }
    }
}

/// Breaks ties in a way that is equal on all nodes and different from group to group.
fn lot(group: GroupId, what: u64) -> u64 {
    let mut mixed = (group.number() << 32 ^ what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The same for a region.
fn region_lot(group: GroupId, region: &RegionName) -> u64 {
    let hash = region
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    lot(group, hash)
}
