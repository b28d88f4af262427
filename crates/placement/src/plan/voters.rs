//! Who votes: an odd number, as far apart as can be, changed no more than needed.

use std::collections::{BTreeMap, BTreeSet};

use headcount_model::{NodeId, RegionName, ReplicaId};

use super::{Health, Planner, lot, region_lot};
use crate::{ControlCommand, Group, GroupId};

impl Planner<'_> {
    /// Plans the changes of voters. They may come on top of learners that are still catching up,
    /// since a lost voter should not wait for a slow copy elsewhere; but never on top of another
    /// change of voters.
    pub(super) fn votes(&mut self) {
        for (id, group) in self.control.groups() {
            if group.confirmed < group.voters_version || !self.has_quorum(group) {
                continue;
            }
            let wanted = self.choose_voters(*id, group, &group.voters);
            if wanted == group.voters || !self.is_majority_alive(group, &wanted) {
                continue;
            }
            if self.changing.contains(id) || self.may_change(*id) {
                self.set_voters(*id, group, wanted);
            }
        }
    }

    pub(super) fn set_voters(&mut self, id: GroupId, group: &Group, voters: BTreeSet<ReplicaId>) {
        let version = group.version;
        self.elected.insert(id, voters.clone());
        self.commands.push(ControlCommand::SetVoters {
            group: id,
            version,
            voters,
        });
    }

    /// Returns how many voters a group should have, by the failure domains that count: regions, or
    /// the zones of a single region, or the nodes of a single zone.
    pub(super) fn voters_wanted(&self, counts: impl Fn(NodeId) -> bool) -> usize {
        let nodes: Vec<_> = self
            .counting
            .values()
            .flatten()
            .copied()
            .filter(|node| counts(*node))
            .collect();
        let regions: BTreeSet<_> = nodes.iter().filter_map(|node| self.region(*node)).collect();
        let zones: BTreeSet<_> = nodes.iter().map(|node| self.zone(*node)).collect();
        let domains = match (regions.len(), zones.len()) {
            (1, 1) => nodes.len(),
            (1, zones) => zones,
            (regions, _) => regions,
        };
        match nodes.len() {
            0 => 1,
            few @ 1..=2 => few,
            _ if domains >= 5 => 5,
            _ => 3,
        }
    }

    /// Returns how many replicas of the group may have to vote in each region.
    pub(super) fn quotas(&self, id: GroupId, group: &Group) -> BTreeMap<&RegionName, usize> {
        let mut quotas = BTreeMap::new();
        let count = |region: &RegionName, voting: bool| {
            let members = group.members();
            let there = members.filter(|(replica, state)| {
                self.region(state.node) == Some(region)
                    && (!voting || group.voters.contains(replica))
            });
            there.count()
        };
        for _ in 0..self.voters_wanted(|_| true) {
            let open = self
                .counting
                .iter()
                .filter(|(region, nodes)| nodes.len() > quotas.get(**region).copied().unwrap_or(0));
            let next = open.min_by_key(|(region, _)| {
                let picks = quotas.get(**region).copied().unwrap_or(0);
                (
                    picks,
                    group.seat() != Some(**region),
                    count(region, true) <= picks,
                    count(region, false) <= picks,
                    region_lot(id, region),
                )
            });
            let Some((region, _)) = next else { break };
            *quotas.entry(*region).or_insert(0) += 1;
        }
        quotas
    }

    /// Returns who should vote, given who does. Candidates are ready replicas; one that is not
    /// live only if it votes already. Regions come first, then zones, then liveness: a dead voter
    /// gives way to a live replica at once where that costs no spread, and only when its node is
    /// given up where it does.
    pub(super) fn choose_voters(
        &self,
        id: GroupId,
        group: &Group,
        current: &BTreeSet<ReplicaId>,
    ) -> BTreeSet<ReplicaId> {
        let class = |replica: ReplicaId, node: NodeId| match self.health(node) {
            Health::Gone => 2,
            Health::Going => 1,
            Health::Usable | Health::Waiting if self.is_victim(id, replica) => 1,
            Health::Usable | Health::Waiting => 0,
        };
        let mut candidates: Vec<_> = group
            .members()
            .filter(|(replica, state)| {
                let usable = self.health(state.node) == Health::Usable;
                state.ready && (current.contains(replica) || usable)
            })
            .map(|(replica, state)| (replica, state.node, class(replica, state.node)))
            .filter(|(replica, _, class)| *class == 0 || current.contains(replica))
            .collect();
        let good = candidates
            .iter()
            .filter(|(_, _, class)| *class == 0)
            .count();
        let number = self.voters_possible(good, current.len());

        let mut chosen = BTreeSet::new();
        let mut regions: BTreeMap<&RegionName, usize> = BTreeMap::new();
        let mut zones: BTreeMap<(&RegionName, &str), usize> = BTreeMap::new();
        while chosen.len() < number {
            let best = candidates
                .iter()
                .enumerate()
                .filter_map(|(at, (replica, node, class))| {
                    let region = self.region(*node)?;
                    let zone = self.zone(*node);
                    let key = (
                        *class,
                        regions.get(region).copied().unwrap_or(0),
                        zones.get(&(region, zone)).copied().unwrap_or(0),
                        group.seat() != Some(region),
                        self.health(*node) != Health::Usable,
                        !current.contains(replica),
                        self.votes.get(node).copied().unwrap_or(0),
                        lot(id, node.0),
                    );
                    Some((key, at))
                });
            let Some((_, at)) = best.min() else { break };
            let (replica, node, _) = candidates.swap_remove(at);
            if let Some(region) = self.region(node) {
                *regions.entry(region).or_default() += 1;
                *zones.entry((region, self.zone(node))).or_default() += 1;
            }
            chosen.insert(replica);
        }
        chosen
    }

    /// Returns how many voters there can be: as many as wanted if there are enough good candidates,
    /// else the greatest fitting number, but not fewer than now.
    fn voters_possible(&self, good: usize, current: usize) -> usize {
        let wanted = self.voters_wanted(|_| true);
        if good >= wanted {
            return wanted;
        }
        // While a node is waited for, two live ones of three do not go down to two voters.
        let waited = self.voters_wanted(|node| self.health(node) != Health::Gone);
        let fitting = match good {
            5.. => 5,
            3 | 4 => 3,
            2 if waited == 2 => 2,
            _ => 1,
        };
        fitting.max(current)
    }
}
