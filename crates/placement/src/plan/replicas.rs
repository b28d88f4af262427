//! Who holds replicas: as many in each region as are wanted there, on different zones and nodes.

use std::collections::{BTreeMap, BTreeSet};

use headcount_model::{NodeId, RegionName, ReplicaId};

use super::{Health, Planner, lot};
use crate::{ControlCommand, Group, GroupId, Replica};

impl Planner<'_> {
    /// Returns how many replicas of a shard each region should hold, regions without nodes
    /// included.
    fn wanted(&self, id: GroupId, group: &Group) -> Vec<(RegionName, usize)> {
        let copies = self.control.settings().copies as usize;
        let quotas = self.quotas(id, group);
        let wanted = self.counting.iter().map(|(region, nodes)| {
            let quota = quotas.get(*region).copied().unwrap_or(0);
            ((*region).clone(), copies.max(quota).min(nodes.len()))
        });
        wanted.collect()
    }

    /// Returns the replicas of the group in the region that stay members.
    fn members_in<'g>(
        &self,
        group: &'g Group,
        region: &RegionName,
    ) -> Vec<(ReplicaId, &'g Replica)> {
        let members = group.members();
        members
            .filter(|(_, replica)| self.region(replica.node) == Some(region))
            .collect()
    }

    /// Decides which replicas shall go: those on nodes that go or are gone, once enough others are
    /// ready, and those beyond what is wanted.
    pub(super) fn victims(&mut self) {
        for (id, group) in self.control.groups() {
            if *id == GroupId::Control {
                let gone = |node: NodeId| {
                    self.control
                        .node(node)
                        .is_none_or(|node| node.state == crate::NodeState::Removed)
                };
                let members = group.members();
                let removed = members.filter(|(_, replica)| gone(replica.node));
                let removed: BTreeSet<_> = removed.map(|(replica, _)| replica).collect();
                self.victims.insert(*id, removed);
                continue;
            }
            for (region, wanted) in self.wanted(*id, group) {
                let members = self.members_in(group, &region);
                let mut ready = members
                    .iter()
                    .filter(|(_, it)| it.ready && self.health(it.node) == Health::Usable)
                    .count();
                let counted = members
                    .iter()
                    .filter(|(_, it)| self.health(it.node) <= Health::Waiting)
                    .count();
                let mut excess = counted.saturating_sub(wanted);
                if ready < wanted {
                    continue;
                }
                for (replica, state) in &members {
                    if self.health(state.node) > Health::Waiting {
                        self.condemn(*id, *replica, state.node);
                    }
                }
                while excess > 0 {
                    let owner = group_owner(self, *id, &region);
                    let candidates = members.iter().filter(|(replica, state)| {
                        let health = self.health(state.node);
                        let spare = state.ready && ready > wanted;
                        !self.is_victim(*id, *replica)
                            && (health == Health::Waiting || health == Health::Usable && spare)
                    });
                    let victim = candidates.max_by_key(|(replica, state)| {
                        (
                            self.health(state.node),
                            self.crowd(&members, *id, state.node),
                            self.load.get(&state.node).copied().unwrap_or(0),
                            !group.voters.contains(replica),
                            owner != Some(state.node),
                            *replica,
                        )
                    });
                    let Some((replica, state)) = victim else {
                        break;
                    };
                    ready -= usize::from(self.health(state.node) == Health::Usable);
                    excess -= 1;
                    self.condemn(*id, *replica, state.node);
                }
            }
        }
    }

    fn condemn(&mut self, id: GroupId, replica: ReplicaId, node: NodeId) {
        if self.victims.entry(id).or_default().insert(replica)
            && let Some(load) = self.load.get_mut(&node)
        {
            *load -= 1;
        }
    }

    /// Returns how many replicas that stay share the node's zone, the node's own included.
    fn crowd(&self, members: &[(ReplicaId, &Replica)], id: GroupId, node: NodeId) -> usize {
        let zone = self.zone(node);
        let stay = members
            .iter()
            .filter(|(replica, _)| !self.is_victim(id, *replica));
        stay.filter(|(_, state)| self.zone(state.node) == zone)
            .count()
    }

    /// Plans to take away victims that do not vote.
    pub(super) fn removals(&mut self) {
        for (id, group) in self.control.groups() {
            let Some(victims) = self.victims.get(id) else {
                continue;
            };
            let replicas: BTreeSet<_> = victims.difference(&group.voters).copied().collect();
            let settled = group.is_confirmed() && self.has_quorum(group);
            if replicas.is_empty() || !settled || !self.may_change(*id) {
                continue;
            }
            let version = group.version;
            self.commands.push(ControlCommand::RemoveReplicas {
                group: *id,
                version,
                replicas,
            });
        }
    }

    /// Plans new replicas where a region holds too few. A region that has none on a live node comes
    /// first: nobody there can own the shard.
    pub(super) fn additions(&mut self) {
        let mut urgent = Vec::new();
        let mut others = Vec::new();
        for (id, group) in self.control.groups() {
            let settled = group.is_confirmed() && self.has_quorum(group);
            if *id == GroupId::Control || !settled {
                continue;
            }
            let mut nodes = BTreeSet::new();
            let mut bare = false;
            for (region, wanted) in self.wanted(*id, group) {
                let members = self.members_in(group, &region);
                let at_most = |health| {
                    members
                        .iter()
                        .filter(|(_, it)| self.health(it.node) <= health)
                        .count()
                };
                let live = members
                    .iter()
                    .any(|(_, it)| matches!(self.health(it.node), Health::Usable | Health::Going));
                let missing = wanted.saturating_sub(at_most(Health::Waiting));
                let missing = if live || wanted == 0 {
                    missing
                } else {
                    missing.max(1)
                };
                let hosts = self.hosts(*id, group, &region, missing, &nodes);
                bare |= !live && !hosts.is_empty();
                nodes.extend(hosts);
            }
            if !nodes.is_empty() {
                if bare { &mut urgent } else { &mut others }.push((*id, nodes));
            }
        }
        for (id, nodes) in urgent.into_iter().chain(others) {
            if self.may_copy(id) {
                self.add(id, nodes);
            }
        }
    }

    pub(super) fn add(&mut self, id: GroupId, nodes: BTreeSet<NodeId>) {
        for node in &nodes {
            *self.load.entry(*node).or_default() += 1;
        }
        let version = self.control.group(id).map_or(0, |group| group.version);
        self.commands.push(ControlCommand::AddReplicas {
            group: id,
            version,
            nodes,
        });
    }

    /// Chooses nodes of the region for new replicas: in the zone that holds fewest, then where there
    /// is least.
    fn hosts(
        &self,
        id: GroupId,
        group: &Group,
        region: &RegionName,
        missing: usize,
        taken: &BTreeSet<NodeId>,
    ) -> Vec<NodeId> {
        let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, replica) in self.members_in(group, region) {
            *zones.entry(self.zone(replica.node)).or_default() += 1;
        }
        let mut free: Vec<_> = self
            .usable(region)
            .filter(|node| group.on(*node).is_none() && !taken.contains(node))
            .collect();
        let mut hosts = Vec::new();
        while hosts.len() < missing {
            let best = free.iter().enumerate().min_by_key(|(_, node)| {
                let crowd = zones.get(self.zone(**node)).copied().unwrap_or(0);
                (
                    crowd,
                    self.load.get(node).copied().unwrap_or(0),
                    lot(id, node.0),
                )
            });
            let Some((at, _)) = best else { break };
            let node = free.swap_remove(at);
            *zones.entry(self.zone(node)).or_default() += 1;
            hosts.push(node);
        }
        hosts
    }
}

fn group_owner(planner: &Planner<'_>, id: GroupId, region: &RegionName) -> Option<NodeId> {
    planner
        .control
        .owner(region, id.shard()?)
        .map(|owner| owner.node)
}
