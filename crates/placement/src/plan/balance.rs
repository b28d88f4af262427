//! Evenness: no node of a region does much more than another. What is even enough stays where it is.

use std::collections::{BTreeMap, BTreeSet};

use headcount_model::{NodeId, RegionName, ReplicaId};

use super::{Health, Planner, lot};
use crate::{ControlCommand, Group, GroupId, Node, Replica};

impl Planner<'_> {
    /// Plans to move replicas from the fullest to the emptiest nodes of a region, by placing a new
    /// one; the old one is a victim as soon as the new one is ready.
    pub(super) fn balance_replicas(&mut self) {
        for region in self.control.regions().keys() {
            while let Some((id, to, from)) = self.movable_replica(region) {
                if !self.may_copy(id) {
                    break;
                }
                self.add(id, BTreeSet::from([to]));
                if let Some(load) = self.load.get_mut(&from) {
                    *load -= 1;
                }
            }
        }
    }

    fn movable_replica(&self, region: &RegionName) -> Option<(GroupId, NodeId, NodeId)> {
        for (from, to) in self.uneven(region, &self.load) {
            let found = self.shard_groups().filter(|(id, group)| {
                let (here, there) = (group.on(from), group.on(to));
                let stays = here.is_some_and(|(replica, state)| {
                    state.leaving.is_none() && state.ready && !self.is_victim(*id, replica)
                });
                stays
                    && there.is_none()
                    && self.is_quiet(*id, group)
                    && self.keeps_apart(group, from, to)
            });
            let least_felt = found.min_by_key(|(id, group)| {
                let votes = group
                    .on(from)
                    .is_some_and(|(replica, _)| group.voters.contains(&replica));
                let owns = self.owner_of(*id, region) == Some(from);
                (votes, owns, lot(*id, to.0))
            });
            if let Some((id, _)) = least_felt {
                return Some((id, to, from));
            }
        }
        None
    }

    /// Returns whether moving a replica between the nodes leaves it in a zone that no more of the
    /// others share.
    fn keeps_apart(&self, group: &Group, from: NodeId, to: NodeId) -> bool {
        let region = self.region(from);
        let others = |zone: &str| {
            let members = group.members().filter(|(_, it)| it.node != from);
            let there = members
                .filter(|(_, it)| self.region(it.node) == region && self.zone(it.node) == zone);
            there.count()
        };
        others(self.zone(to)) <= others(self.zone(from))
    }

    /// Plans to even out votes between nodes of a region that hold the same shards.
    pub(super) fn balance_votes(&mut self) {
        for region in self.control.regions().keys() {
            if self.is_moving(region) {
                continue;
            }
            while let Some((id, voters, from, to)) = self.movable_vote(region) {
                if !self.may_change(id) {
                    break;
                }
                let Some(group) = self.control.group(id) else {
                    break;
                };
                self.set_voters(id, group, voters);
                *self.votes.entry(to).or_default() += 1;
                if let Some(votes) = self.votes.get_mut(&from) {
                    *votes -= 1;
                }
            }
        }
    }

    fn movable_vote(
        &self,
        region: &RegionName,
    ) -> Option<(GroupId, BTreeSet<ReplicaId>, NodeId, NodeId)> {
        for (from, to) in self.uneven(region, &self.votes) {
            for (id, group) in self
                .shard_groups()
                .filter(|(id, group)| self.is_quiet(*id, group))
            {
                let (Some((here, _)), Some((there, state))) = (group.on(from), group.on(to)) else {
                    continue;
                };
                if !group.voters.contains(&here) || group.voters.contains(&there) || !state.ready {
                    continue;
                }
                let mut voters = group.voters.clone();
                voters.remove(&here);
                voters.insert(there);
                // Whatever is worse apart would be moved back at once.
                if self.choose_voters(id, group, &voters) == voters
                    && self.is_majority_alive(group, &voters)
                {
                    return Some((id, voters, from, to));
                }
            }
        }
        None
    }

    /// Plans to even out ownership between the nodes of a region.
    pub(super) fn balance_owners(&mut self) {
        let mut load: BTreeMap<NodeId, u64> = BTreeMap::new();
        for (holder, _) in self
            .control
            .parts()
            .tenures
            .values()
            .filter_map(|it| it.holder)
        {
            *load.entry(holder).or_default() += 1;
        }
        let mut moved = BTreeSet::new();
        for region in self.control.regions().keys() {
            if self.is_moving(region) {
                continue;
            }
            while moved.len() < self.options.changes_max.max(1) {
                let Some((id, from, to)) = self.movable_owner(region, &load, &moved) else {
                    break;
                };
                let owner = id
                    .shard()
                    .and_then(|shard| self.control.owner(region, shard));
                let (Some(shard), Some(owner)) = (id.shard(), owner) else {
                    break;
                };
                moved.insert((region, id));
                *load.entry(from).or_insert(1) -= 1;
                *load.entry(to).or_default() += 1;
                let (region, fence) = (region.clone(), owner.fence);
                self.commands.push(ControlCommand::MoveOwner {
                    region,
                    shard,
                    fence,
                    node: to,
                });
            }
        }
    }

    fn movable_owner(
        &self,
        region: &RegionName,
        load: &BTreeMap<NodeId, u64>,
        moved: &BTreeSet<(&RegionName, GroupId)>,
    ) -> Option<(GroupId, NodeId, NodeId)> {
        for (from, to) in self.uneven(region, load) {
            // Who is about to stop gave away what it owned a moment ago.
            let may_own = self.control.node(to).is_some_and(Node::may_own);
            if !may_own || self.options.restarted.contains(&to) {
                continue;
            }
            let found = self.shard_groups().find(|(id, group)| {
                self.owner_of(*id, region) == Some(from)
                    && !moved.contains(&(region, *id))
                    && group
                        .on(to)
                        .is_some_and(|(replica, state)| self.can_serve(*id, replica, state))
            });
            if let Some((id, _)) = found {
                return Some((id, from, to));
            }
        }
        None
    }

    /// Returns the pairs of usable nodes of which the first has at least two more than the second,
    /// the greatest differences first.
    fn uneven(&self, region: &RegionName, load: &BTreeMap<NodeId, u64>) -> Vec<(NodeId, NodeId)> {
        let nodes: Vec<_> = self
            .usable(region)
            .map(|node| (load.get(&node).copied().unwrap_or(0), node))
            .collect();
        let mut pairs = Vec::new();
        for (more, from) in &nodes {
            for (less, to) in nodes.iter().filter(|(less, _)| less + 2 <= *more) {
                pairs.push((more - less, *from, *to));
            }
        }
        pairs.sort_by_key(|(difference, from, to)| (std::cmp::Reverse(*difference), *from, *to));
        pairs.into_iter().map(|(_, from, to)| (from, to)).collect()
    }

    fn shard_groups(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        let groups = self.control.groups().iter();
        groups
            .filter(|(id, _)| **id != GroupId::Control)
            .map(|(id, group)| (*id, group))
    }

    /// Returns whether nothing is under way in the group, nor begun by this run.
    fn is_quiet(&self, id: GroupId, group: &Group) -> bool {
        let victims = self
            .victims
            .get(&id)
            .is_some_and(|victims| !victims.is_empty());
        let busy = self.changing.contains(&id) || self.copying.contains(&id);
        !busy && !victims && self.has_quorum(group)
    }

    /// Returns whether replicas come to the region or go from it, so that anything evened out now
    /// would be evened out again.
    fn is_moving(&self, region: &RegionName) -> bool {
        let in_region = |node: NodeId| self.region(node) == Some(region);
        let begun = self.commands.iter().any(|command| match command {
            ControlCommand::AddReplicas { nodes, .. } => nodes.iter().any(|node| in_region(*node)),
            _ => false,
        });
        begun
            || self.shard_groups().any(|(id, group)| {
                group.replicas.iter().any(|(replica, state)| {
                    let moves = state.leaving.is_some()
                        || self.is_victim(id, *replica)
                        || !state.ready && self.health(state.node) == Health::Usable;
                    moves && in_region(state.node)
                })
            })
    }

    fn owner_of(&self, id: GroupId, region: &RegionName) -> Option<NodeId> {
        self.control
            .owner(region, id.shard()?)
            .map(|owner| owner.node)
    }

    /// Returns whether the replica can own or lead: ready, on a usable node, and meant to stay.
    pub(super) fn can_serve(&self, id: GroupId, replica: ReplicaId, state: &Replica) -> bool {
        state.ready
            && state.leaving.is_none()
            && self.health(state.node) == Health::Usable
            && !self.is_victim(id, replica)
    }
}
