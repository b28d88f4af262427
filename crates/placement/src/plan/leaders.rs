//! Who should lead: every region its share by weight, every node of a region as much as another.

use std::collections::{BTreeMap, BTreeSet};

use headcount_model::{NodeId, ReplicaId};

use super::{Planner, lot};
use crate::{ControlCommand, Group, GroupId};

/// A group whose leader is where it may be.
struct Led {
    id: GroupId,
    node: NodeId,
    /// Who else may lead it, the leader included.
    heirs: Vec<(ReplicaId, NodeId)>,
}

impl Planner<'_> {
    /// Plans who should lead: a live voter that stays, in the group's seat if it has one, on the
    /// node that is then furthest below its share.
    ///
    /// A node that leads `n` groups is burdened by `n` times its [`Planner::price`], and a group
    /// moves only where the burden is less afterwards than it was before here. Each such move lowers
    /// the sum of `n (n + 1)` prices, so that moving comes to an end.
    pub(super) fn leaders(&mut self) {
        let mut load: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut open = Vec::new();
        let mut settled = Vec::new();
        for (id, group) in self.control.groups() {
            let heirs = self.heirs(*id, group);
            let leader = group.leader.and_then(|leader| {
                heirs
                    .iter()
                    .find(|(replica, _)| *replica == leader)
                    .map(|(_, node)| *node)
            });
            match leader {
                None => open.push((*id, heirs)),
                // The control group is one among many, and stays where it is.
                Some(_) if *id == GroupId::Control => {}
                Some(node) => {
                    *load.entry(node).or_default() += 1;
                    settled.push(Led {
                        id: *id,
                        node,
                        heirs,
                    });
                }
            }
        }
        let mut left = self.options.changes_max.max(1);
        for (id, heirs) in open {
            let best = heirs
                .iter()
                .min_by_key(|(_, node)| (self.burden(*node, &load, 1), lot(id, node.0)));
            let Some((replica, node)) = best.filter(|_| left > 0) else {
                continue;
            };
            *load.entry(*node).or_default() += u64::from(id != GroupId::Control);
            left -= 1;
            self.commands.push(ControlCommand::PreferLeader {
                group: id,
                replica: *replica,
            });
        }
        let mut moved = BTreeSet::new();
        while left > 0 {
            let Some((id, replica, from, to)) = self.movable_leader(&settled, &moved, &load) else {
                return;
            };
            moved.insert(id);
            left -= 1;
            *load.entry(from).or_insert(1) -= 1;
            *load.entry(to).or_default() += 1;
            self.commands
                .push(ControlCommand::PreferLeader { group: id, replica });
        }
    }

    /// Returns the move that eases most.
    fn movable_leader(
        &self,
        settled: &[Led],
        moved: &BTreeSet<GroupId>,
        load: &BTreeMap<NodeId, u64>,
    ) -> Option<(GroupId, ReplicaId, NodeId, NodeId)> {
        let movable = settled.iter().filter(|led| !moved.contains(&led.id));
        let moves = movable.flat_map(|led| {
            led.heirs
                .iter()
                .map(|(replica, to)| (led.id, *replica, led.node, *to))
        });
        let eased = moves.filter_map(|(id, replica, from, to)| {
            let (here, there) = (self.burden(from, load, 0), self.burden(to, load, 1));
            let ease = here
                .checked_sub(there)
                .filter(|ease| *ease > 0 && from != to)?;
            Some(((ease, lot(id, to.0)), (id, replica, from, to)))
        });
        eased.max_by_key(|(key, _)| *key).map(|(_, best)| best)
    }

    /// Returns how burdened a node would be if it led so many groups more.
    fn burden(&self, node: NodeId, load: &BTreeMap<NodeId, u64>, more: u64) -> u64 {
        (load.get(&node).copied().unwrap_or(0) + more) * self.price(node)
    }

    /// Returns what one group counts on a node: the less, the greater its region's weight and the
    /// fewer nodes share it. Without weight it counts more than all groups elsewhere.
    fn price(&self, node: NodeId) -> u64 {
        let Some(region) = self.region(node) else {
            return 0;
        };
        let weight = self
            .control
            .regions()
            .get(region)
            .map_or(0, |region| u64::from(region.weight));
        let nodes = self.usable(region).count().max(1) as u64;
        (nodes * 1_000_000).checked_div(weight).unwrap_or(1 << 50)
    }

    /// Returns the voters that may lead: live ones that stay, only those in its seat if there are any.
    fn heirs(&self, id: GroupId, group: &Group) -> Vec<(ReplicaId, NodeId)> {
        let voting = self.elected.get(&id).unwrap_or(&group.voters);
        let voters = group.members().filter(|(replica, state)| {
            voting.contains(replica) && self.can_serve(id, *replica, state)
        });
        let voters: Vec<_> = voters
            .map(|(replica, state)| (replica, state.node))
            .collect();
        let home = |node: NodeId| self.region(node) == group.seat();
        let at_home: Vec<_> = voters
            .iter()
            .copied()
            .filter(|(_, node)| home(*node))
            .collect();
        if at_home.is_empty() { voters } else { at_home }
    }
}
