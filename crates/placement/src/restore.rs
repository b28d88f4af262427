//! A state taken from a snapshot is believed only if it is one that commands can make.

use std::collections::BTreeSet;

use headcount_model::{Fence, ReplicaId};

use crate::{Control, ControlParts, Group, GroupId};

/// What is wrong with the parts of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartsError {
    /// Before the cluster is founded there is nothing.
    #[error("the cluster is not founded, but something is there")]
    NotFounded,
    /// The groups are not those of the cluster's shards and the control group.
    #[error("the cluster has {shards} shards, but groups that do not fit that")]
    Groups {
        /// How many shards there are.
        shards: u32,
    },
    /// A group contradicts itself or names what is not there.
    #[error("{group} contradicts itself: {what}")]
    Group {
        /// Which.
        group: GroupId,
        /// How.
        what: &'static str,
    },
    /// A node has an id that was never handed out, or a region that is not there.
    #[error("node {0} contradicts the rest")]
    Node(headcount_model::NodeId),
    /// An ownership has a fence that was never handed out, or names what is not there.
    #[error("the ownership of shard {1} in region {0} contradicts the rest")]
    Tenure(headcount_model::RegionName, headcount_model::ShardId),
}

impl Control {
    /// Takes the state that [`Control::parts`] gave, of this or an earlier release.
    ///
    /// # Errors
    /// [`PartsError`] if no commands can have made it; a replica must not go on with it.
    pub fn from_parts(parts: ControlParts) -> Result<Self, PartsError> {
        let control = Self { parts };
        control.check_groups()?;
        control.check_nodes()?;
        control.check_tenures()?;
        Ok(control)
    }

    fn check_groups(&self) -> Result<(), PartsError> {
        let groups = self.groups();
        let Some(facts) = self.facts() else {
            let empty = groups.is_empty()
                && self.nodes().is_empty()
                && self.parts.tenures.is_empty()
                && self.parts.revocations.is_empty();
            return if empty {
                Ok(())
            } else {
                Err(PartsError::NotFounded)
            };
        };
        let expected = std::iter::once(GroupId::Control).chain(self.shards().map(GroupId::Shard));
        if !expected.eq(groups.keys().copied()) {
            return Err(PartsError::Groups {
                shards: facts.shards,
            });
        }
        let mut replicas = BTreeSet::new();
        for (id, group) in groups {
            self.check_group(group)
                .map_err(|what| PartsError::Group { group: *id, what })?;
            if !group
                .replicas
                .keys()
                .all(|replica| replicas.insert(*replica))
            {
                return Err(PartsError::Group {
                    group: *id,
                    what: "a replica id is used twice",
                });
            }
        }
        Ok(())
    }

    fn check_group(&self, group: &Group) -> Result<(), &'static str> {
        let stays = |replica: &ReplicaId| {
            group
                .replicas
                .get(replica)
                .is_some_and(|state| state.leaving.is_none())
        };
        let known = |replica: &ReplicaId| (1..=self.parts.last_replica.0).contains(&replica.0);
        if group.voters.is_empty() || !group.voters.iter().all(stays) {
            return Err("its voters are not members");
        }
        if group.confirmed > group.version || group.voters_version > group.version {
            return Err("its versions are not in order");
        }
        if group
            .leader
            .is_some_and(|leader| !group.voters.contains(&leader))
        {
            return Err("its leader should not vote");
        }
        if !group.replicas.keys().all(known) {
            return Err("a replica id was never handed out");
        }
        if !group
            .replicas
            .values()
            .all(|replica| self.node(replica.node).is_some())
        {
            return Err("a replica is on a node that is not there");
        }
        Ok(())
    }

    fn check_nodes(&self) -> Result<(), PartsError> {
        for (id, node) in self.nodes() {
            let known = (1..=self.parts.last_node.0).contains(&id.0);
            if !known || !self.regions().contains_key(&node.region) {
                return Err(PartsError::Node(*id));
            }
        }
        Ok(())
    }

    fn check_tenures(&self) -> Result<(), PartsError> {
        for ((region, shard), tenure) in &self.parts.tenures {
            let known = (Fence(1)..=self.parts.last_fence).contains(&tenure.fence);
            let placed = self.regions().contains_key(region)
                && self.groups().contains_key(&GroupId::Shard(*shard));
            let held = tenure.holder.is_none_or(|(node, incarnation)| {
                self.is_current(node, incarnation) && self.can_own(node, *shard)
            });
            if !known || !placed || !held || tenure.void > tenure.fence {
                return Err(PartsError::Tenure(region.clone(), *shard));
            }
        }
        Ok(())
    }
}
