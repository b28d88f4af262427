//! What each command does. Deterministic: the same commands at the same indexes give the same state
//! everywhere. A refused command changes nothing but the index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use headcount_model::{
    Era, Fence, Incarnation, NodeId, RegionName, ReplicaId, SHARDS_MAX, ShardId, Timestamp,
};

use crate::{
    Addresses, COPIES_MAX, ClusterFacts, Control, ControlCommand, ControlReply, FOUNDING_NODE,
    FOUNDING_REPLICA, Group, GroupId, LastOrder, NODES_MAX, NewNode, Node, NodeState,
    OCCUPANCY_INTERVAL_MAX, Outcome, PINS_MAX, REGIONS_MAX, REMOVED_MAX, REVOCATIONS_MAX,
    REVOKED_AT_ONCE_MAX, REVOKED_BYTES_MAX, REVOKED_SPAN_MIN, Refusal, Region, Replica, Revocation,
    Settings, TEXT_BYTES_MAX, Tenure, WEIGHT_DEFAULT, WEIGHT_MAX,
};

impl Control {
    /// Applies the command that the log holds at `index`, and returns what its proposer is told.
    ///
    /// # Errors
    /// [`Refusal`] if the command does nothing because it must not; every replica agrees on it.
    pub fn apply(&mut self, index: u64, command: &ControlCommand) -> ControlReply {
        self.parts.applied = index;
        if let ControlCommand::Init {
            facts,
            settings,
            node,
        } = command
        {
            return self.init(facts, *settings, node);
        }
        if self.parts.facts.is_none() {
            return Err(Refusal::NotFounded);
        }
        match command {
            ControlCommand::Init { .. } => unreachable!("handled above"),
            ControlCommand::Join(node) => self.join(node),
            ControlCommand::Start {
                node,
                incarnation,
                process,
                addresses,
                understands,
            } => self.start(*node, *incarnation, *process, addresses, *understands),
            ControlCommand::LeaseLost { node, incarnation } => self.lease_lost(*node, *incarnation),
            ControlCommand::Stop { node, incarnation } => self.stop(*node, *incarnation),
            ControlCommand::Drain(node) => self.drain(*node),
            ControlCommand::Undrain(node) => self.undrain(*node),
            ControlCommand::Remove(node) => self.remove(*node),
            ControlCommand::AddReplicas {
                group,
                version,
                nodes,
            } => self.add_replicas(*group, *version, nodes),
            ControlCommand::SetVoters {
                group,
                version,
                voters,
            } => self.set_voters(*group, *version, voters),
            ControlCommand::RemoveReplicas {
                group,
                version,
                replicas,
            } => self.remove_replicas(*group, *version, replicas),
            ControlCommand::ReplicaReady { group, replica } => self.ready(*group, *replica),
            ControlCommand::Confirm { group, version } => self.confirm(*group, *version),
            ControlCommand::MoveOwner {
                region,
                shard,
                fence,
                node,
            } => self.move_owner(region, *shard, *fence, *node),
            ControlCommand::PreferLeader { group, replica } => self.prefer(*group, *replica),
            ControlCommand::SetHome { shard, home } => self.set_home(*shard, home.as_ref()),
            ControlCommand::FollowTraffic { shard, region } => {
                self.follow_traffic(*shard, region.as_ref())
            }
            ControlCommand::SetPacing { occupancy_interval } => {
                self.set_pacing(*occupancy_interval)
            }
            ControlCommand::SetWeights(weights) => self.set_weights(weights),
            ControlCommand::SetCopies(copies) => self.set_copies(*copies),
            ControlCommand::RaiseEra(era) => self.raise_era(*era),
            ControlCommand::RevokeTokens {
                key,
                targets,
                revocation,
                now,
            } => self.revoke(key, targets, *revocation, *now),
            ControlCommand::Order { after, id, command } => self.order(index, *after, *id, command),
        }
    }

    /// Obeys an order unless it, or another one after the one that it was to follow, took effect.
    fn order(&mut self, index: u64, after: u64, id: u64, command: &ControlCommand) -> ControlReply {
        let last = self.parts.last_order;
        if last.index > 0 && last.id == id {
            return Ok(Outcome::Unchanged);
        }
        if last.index != after {
            let current = last.index;
            return Err(Refusal::Overtaken { current });
        }
        let reply = self.apply(index, command);
        if reply.is_ok() {
            self.parts.last_order = LastOrder { index, id };
        }
        reply
    }

    fn init(&mut self, facts: &ClusterFacts, settings: Settings, node: &NewNode) -> ControlReply {
        if let Some(founded) = &self.parts.facts {
            let again = founded.id == facts.id
                && self
                    .node(FOUNDING_NODE)
                    .is_some_and(|known| known.key == node.key);
            return if again {
                self.joined(FOUNDING_NODE)
            } else {
                Err(Refusal::Founded {
                    cluster: founded.id,
                })
            };
        }
        check_text("cluster name", &facts.name)?;
        check_range("shards", u64::from(facts.shards), u64::from(SHARDS_MAX))?;
        check_pins(facts)?;
        check_range("copies", u64::from(settings.copies), u64::from(COPIES_MAX))?;
        let occupancy_interval = check_interval(settings.occupancy_interval)?;
        check_new_node(node)?;

        self.parts.settings = Settings {
            version: 1,
            occupancy_interval,
            ..settings
        };
        self.parts.facts = Some(facts.clone());
        self.parts.last_node = FOUNDING_NODE;
        self.insert_node(FOUNDING_NODE, node);
        let shards: Vec<_> = self.shards().map(GroupId::Shard).collect();
        let map = facts.shard_map();
        let homes = facts.pins.iter().flat_map(|pin| {
            let shards = map.pinned(&pin.prefix);
            shards.map(|shard| (GroupId::Shard(shard), pin.home.clone()))
        });
        let mut homes: BTreeMap<GroupId, RegionName> = homes.collect();
        for group in std::iter::once(GroupId::Control).chain(shards) {
            let founder = self.next_replica();
            let replica = Replica {
                node: FOUNDING_NODE,
                ready: true,
                leaving: None,
            };
            let group_state = Group {
                founder,
                replicas: BTreeMap::from([(founder, replica)]),
                voters: BTreeSet::from([founder]),
                version: 1,
                voters_version: 1,
                confirmed: 0,
                leader: None,
                // It may have no node yet.
                home: homes.remove(&group),
                follows: None,
            };
            self.parts.groups.insert(group, group_state);
        }
        debug_assert_eq!(
            self.parts.groups[&GroupId::Control].founder,
            FOUNDING_REPLICA
        );
        self.joined(FOUNDING_NODE)
    }

    fn join(&mut self, node: &NewNode) -> ControlReply {
        check_new_node(node)?;
        if let Some((id, known)) = self.node_by_key(node.key) {
            if known.state == NodeState::Removed {
                return Err(Refusal::NodeRemoved { node: id });
            }
            if known.region != node.region {
                return Err(Refusal::OtherRegion {
                    node: id,
                    region: known.region.clone(),
                });
            }
            return self.joined(id);
        }
        let members = self
            .parts
            .nodes
            .values()
            .filter(|node| node.state != NodeState::Removed);
        check_range("nodes", members.count() as u64 + 1, NODES_MAX as u64)?;
        let new_region = !self.parts.regions.contains_key(&node.region);
        let regions = self.parts.regions.len() + usize::from(new_region);
        check_range("regions", regions as u64, REGIONS_MAX as u64)?;

        self.parts.last_node.0 += 1;
        let id = self.parts.last_node;
        self.insert_node(id, node);
        // At once, unlike the shards' replicas: the node reads from it what it shall do.
        let replica = self.next_replica();
        let control = self
            .parts
            .groups
            .get_mut(&GroupId::Control)
            .expect("made by init");
        control.replicas.insert(
            replica,
            Replica {
                node: id,
                ready: false,
                leaving: None,
            },
        );
        control.version += 1;
        self.joined(id)
    }

    /// Answers a join: the same for every repetition.
    fn joined(&self, id: NodeId) -> ControlReply {
        let node = self.node(id).ok_or(Refusal::UnknownNode { node: id })?;
        let control = self.group(GroupId::Control);
        let replica = control
            .and_then(|group| group.on(id))
            .map(|(replica, _)| replica);
        // Only removed nodes lose their replica of the control group.
        let replica = replica.ok_or(Refusal::NodeRemoved { node: id })?;
        Ok(Outcome::Joined {
            node: id,
            incarnation: node.incarnation,
            replica,
        })
    }

    fn insert_node(&mut self, id: NodeId, node: &NewNode) {
        let region = Region {
            weight: WEIGHT_DEFAULT,
        };
        self.parts
            .regions
            .entry(node.region.clone())
            .or_insert(region);
        let state = Node {
            key: node.key,
            region: node.region.clone(),
            zone: node.zone.clone(),
            addresses: node.addresses.clone(),
            incarnation: Incarnation(0),
            process: 0,
            understands: 0,
            state: NodeState::Joining,
            draining: false,
            stopping: false,
        };
        self.parts.nodes.insert(id, state);
    }

    fn start(
        &mut self,
        id: NodeId,
        incarnation: Incarnation,
        process: u64,
        addresses: &Addresses,
        understands: u32,
    ) -> ControlReply {
        check_addresses(addresses)?;
        let node = self.member(id)?;
        let current = node.incarnation;
        if node.is_live() && current == incarnation && node.process == process {
            return Ok(Outcome::Started { incarnation });
        }
        if incarnation.0 != current.0 + 1 {
            return Err(Refusal::StaleIncarnation { node: id, current });
        }
        node.incarnation = incarnation;
        node.process = process;
        node.addresses = addresses.clone();
        node.understands = understands;
        node.state = NodeState::Live;
        node.stopping = false;
        let region = node.region.clone();
        // The life before ends here: none of its ownerships is of this incarnation, so that each
        // goes on under a new fence, mostly in the same hands.
        self.settle_region(&region);
        Ok(Outcome::Started { incarnation })
    }

    fn lease_lost(&mut self, id: NodeId, incarnation: Incarnation) -> ControlReply {
        let node = self.member(id)?;
        if !node.is_live() || node.incarnation != incarnation {
            return Ok(Outcome::Unchanged);
        }
        node.state = NodeState::Dead;
        node.stopping = false;
        self.end_lease(id);
        Ok(Outcome::Changed)
    }

    fn stop(&mut self, id: NodeId, incarnation: Incarnation) -> ControlReply {
        let node = self.member(id)?;
        if !node.is_live() || node.incarnation != incarnation || node.stopping {
            return Ok(Outcome::Unchanged);
        }
        node.stopping = true;
        let region = node.region.clone();
        self.settle_region(&region);
        Ok(Outcome::Changed)
    }

    fn drain(&mut self, id: NodeId) -> ControlReply {
        let node = self.member(id)?;
        if node.draining {
            return Ok(Outcome::Unchanged);
        }
        let region = node.region.clone();
        let mut others = self
            .parts
            .nodes
            .iter()
            .filter(|(other, node)| **other != id && node.counts());
        if others.next().is_none() {
            return Err(Refusal::LastNode { node: id });
        }
        self.member(id)?.draining = true;
        self.settle_region(&region);
        Ok(Outcome::Changed)
    }

    fn undrain(&mut self, id: NodeId) -> ControlReply {
        let node = self.member(id)?;
        let outcome = if node.draining {
            Outcome::Changed
        } else {
            Outcome::Unchanged
        };
        node.draining = false;
        Ok(outcome)
    }

    fn remove(&mut self, id: NodeId) -> ControlReply {
        let node = self.node(id).ok_or(Refusal::UnknownNode { node: id })?;
        if node.state == NodeState::Removed {
            return Ok(Outcome::Unchanged);
        }
        if node.is_live() {
            if !node.draining {
                return Err(Refusal::NotDrained { node: id });
            }
            let holdings = self.holdings(id);
            let replicas = holdings.replicas + holdings.votes;
            if replicas > 0 {
                return Err(Refusal::StillHolds { node: id, replicas });
            }
        }
        let mut others = self
            .parts
            .nodes
            .iter()
            .filter(|(other, node)| **other != id && node.counts());
        if others.next().is_none() {
            return Err(Refusal::LastNode { node: id });
        }
        self.member(id)?.state = NodeState::Removed;
        self.end_lease(id);
        self.forget_removed();
        Ok(Outcome::Changed)
    }

    /// Forgets the oldest removed nodes beyond the bound, save those whose replicas are not gone.
    fn forget_removed(&mut self) {
        let bound: BTreeSet<_> = self
            .parts
            .groups
            .values()
            .flat_map(|group| group.replicas.values().map(|replica| replica.node))
            .collect();
        let nodes = self.parts.nodes.iter();
        let removed: Vec<_> = nodes
            .filter(|(id, node)| node.state == NodeState::Removed && !bound.contains(id))
            .map(|(id, _)| *id)
            .collect();
        for id in &removed[..removed.len().saturating_sub(REMOVED_MAX)] {
            self.parts.nodes.remove(id);
        }
    }

    fn add_replicas(
        &mut self,
        id: GroupId,
        version: u64,
        nodes: &BTreeSet<NodeId>,
    ) -> ControlReply {
        let group = self.group_at(id, version)?;
        let occupied = nodes
            .iter()
            .find(|node| group.on(**node).is_some())
            .copied();
        if let Some(node) = occupied {
            return Err(Refusal::Occupied { group: id, node });
        }
        if nodes.is_empty() {
            return Err(Refusal::Missing {
                what: "nodes".into(),
            });
        }
        for node in nodes {
            let known = self
                .node(*node)
                .ok_or(Refusal::UnknownNode { node: *node })?;
            if !known.is_usable() {
                return Err(Refusal::NotEligible {
                    group: id,
                    node: *node,
                });
            }
        }
        for node in nodes {
            let replica = self.next_replica();
            let group = self.group_at(id, version)?;
            group.replicas.insert(
                replica,
                Replica {
                    node: *node,
                    ready: false,
                    leaving: None,
                },
            );
        }
        self.group_at(id, version)?.version += 1;
        Ok(Outcome::Changed)
    }

    fn set_voters(
        &mut self,
        id: GroupId,
        version: u64,
        voters: &BTreeSet<ReplicaId>,
    ) -> ControlReply {
        let group = self.group_at(id, version)?;
        let fit = |replica: &ReplicaId| {
            group
                .replicas
                .get(replica)
                .is_some_and(|it| it.ready && it.leaving.is_none())
        };
        if !(voters.len() % 2 == 1 || voters.len() == 2) || !voters.iter().all(fit) {
            return Err(Refusal::BadVoters { group: id });
        }
        if group.voters == *voters {
            return Ok(Outcome::Unchanged);
        }
        group.voters.clone_from(voters);
        group.version += 1;
        group.voters_version = group.version;
        group.leader = group.leader.filter(|leader| voters.contains(leader));
        Ok(Outcome::Changed)
    }

    fn remove_replicas(
        &mut self,
        id: GroupId,
        version: u64,
        replicas: &BTreeSet<ReplicaId>,
    ) -> ControlReply {
        let group = self.group_at(id, version)?;
        for replica in replicas {
            if !group.replicas.contains_key(replica) {
                return Err(Refusal::UnknownReplica {
                    group: id,
                    replica: *replica,
                });
            }
            if group.voters.contains(replica) || group.confirmed < group.voters_version {
                return Err(Refusal::StillVotes {
                    group: id,
                    replica: *replica,
                });
            }
        }
        let mut outcome = Outcome::Unchanged;
        let next = group.version + 1;
        for (replica, state) in &mut group.replicas {
            if replicas.contains(replica) && state.leaving.is_none() {
                state.leaving = Some(next);
                group.version = next;
                outcome = Outcome::Changed;
            }
        }
        if let Some(shard) = id.shard() {
            self.settle_shard(shard);
        }
        Ok(outcome)
    }

    fn ready(&mut self, id: GroupId, replica: ReplicaId) -> ControlReply {
        let group = self.group_mut(id)?;
        let state = group.replicas.get_mut(&replica);
        let state = state.ok_or(Refusal::UnknownReplica { group: id, replica })?;
        if state.ready {
            return Ok(Outcome::Unchanged);
        }
        state.ready = true;
        if let Some(shard) = id.shard() {
            self.settle_shard(shard);
        }
        Ok(Outcome::Changed)
    }

    fn confirm(&mut self, id: GroupId, version: u64) -> ControlReply {
        let group = self.group_mut(id)?;
        if version > group.version {
            return Err(Refusal::Superseded {
                group: id,
                current: group.version,
            });
        }
        if version <= group.confirmed {
            return Ok(Outcome::Unchanged);
        }
        group.confirmed = version;
        group
            .replicas
            .retain(|_, replica| replica.leaving.is_none_or(|at| at > version));
        Ok(Outcome::Changed)
    }

    fn move_owner(
        &mut self,
        region: &RegionName,
        shard: ShardId,
        fence: Fence,
        node: NodeId,
    ) -> ControlReply {
        let group = GroupId::Shard(shard);
        self.group_mut(group)?;
        let tenure = self.tenure(region, shard).unwrap_or_default();
        let Some((holder, _)) = tenure.holder.filter(|_| tenure.fence == fence) else {
            let current = tenure.fence;
            return Err(Refusal::OwnerMoved {
                region: region.clone(),
                shard,
                current,
            });
        };
        if holder == node {
            return Ok(Outcome::Unchanged);
        }
        let taker = self.node(node).ok_or(Refusal::UnknownNode { node })?;
        if taker.region != *region || !taker.may_own() || !self.can_own(node, shard) {
            return Err(Refusal::NotEligible { group, node });
        }
        let incarnation = taker.incarnation;
        self.appoint(region, shard, node, incarnation);
        Ok(Outcome::Changed)
    }

    fn prefer(&mut self, id: GroupId, replica: ReplicaId) -> ControlReply {
        let group = self.group_mut(id)?;
        if !group.voters.contains(&replica) {
            return Err(Refusal::UnknownReplica { group: id, replica });
        }
        let before = group.leader.replace(replica);
        Ok(if before == Some(replica) {
            Outcome::Unchanged
        } else {
            Outcome::Changed
        })
    }

    fn set_home(&mut self, shard: ShardId, home: Option<&RegionName>) -> ControlReply {
        if let Some(region) = home.filter(|region| !self.parts.regions.contains_key(*region)) {
            return Err(Refusal::UnknownRegion {
                region: region.clone(),
            });
        }
        let group = self.group_mut(GroupId::Shard(shard))?;
        if group.home.as_ref() == home {
            return Ok(Outcome::Unchanged);
        }
        group.home = home.cloned();
        Ok(Outcome::Changed)
    }

    fn follow_traffic(&mut self, shard: ShardId, region: Option<&RegionName>) -> ControlReply {
        if let Some(region) = region.filter(|region| !self.parts.regions.contains_key(*region)) {
            return Err(Refusal::UnknownRegion {
                region: region.clone(),
            });
        }
        let group = self.group_mut(GroupId::Shard(shard))?;
        if group.follows.as_ref() == region {
            return Ok(Outcome::Unchanged);
        }
        group.follows = region.cloned();
        Ok(Outcome::Changed)
    }

    fn set_pacing(&mut self, interval: Duration) -> ControlReply {
        let interval = check_interval(interval)?;
        let settings = &mut self.parts.settings;
        if settings.occupancy_interval == interval {
            return Ok(Outcome::Unchanged);
        }
        settings.occupancy_interval = interval;
        settings.version += 1;
        Ok(Outcome::Changed)
    }

    fn revoke(
        &mut self,
        key: &str,
        targets: &BTreeSet<String>,
        revocation: Revocation,
        now: Timestamp,
    ) -> ControlReply {
        check_text("key", key)?;
        check_range("targets", targets.len() as u64, REVOKED_AT_ONCE_MAX as u64)?;
        for target in targets {
            check_range("target", target.len() as u64, REVOKED_BYTES_MAX as u64)?;
        }
        let mut revocations = BTreeMap::clone(&self.parts.revocations);
        for target in targets {
            let place = (key.to_owned(), target.clone());
            revocation.add_to(revocations.entry(place).or_default(), now);
        }
        let count = |of: &BTreeMap<_, Vec<_>>| of.values().map(Vec::len).sum::<usize>();
        if count(&revocations) > REVOCATIONS_MAX {
            // Tokens of this cluster have expired by then; a JWT that lives longer may not have,
            // which is why nothing is forgotten without need.
            revocations.retain(|_, known| {
                known.retain(|it| it.applies_at.after(REVOKED_SPAN_MIN) > now);
                !known.is_empty()
            });
        }
        let (held, max) = (count(&revocations) as u64, REVOCATIONS_MAX as u64);
        check_range("revocations", held, max)?;
        if revocations == *self.parts.revocations {
            return Ok(Outcome::Unchanged);
        }
        self.parts.revocations = Arc::new(revocations);
        Ok(Outcome::Changed)
    }

    fn set_weights(&mut self, weights: &BTreeMap<RegionName, u32>) -> ControlReply {
        for (region, weight) in weights {
            if !self.parts.regions.contains_key(region) {
                return Err(Refusal::UnknownRegion {
                    region: region.clone(),
                });
            }
            if *weight > WEIGHT_MAX {
                return Err(Refusal::TooMuch {
                    what: "weight".into(),
                    max: u64::from(WEIGHT_MAX),
                });
            }
        }
        let mut outcome = Outcome::Unchanged;
        for (name, weight) in weights {
            let region = self.parts.regions.get_mut(name).expect("looked up above");
            if region.weight != *weight {
                region.weight = *weight;
                outcome = Outcome::Changed;
            }
        }
        Ok(outcome)
    }

    fn set_copies(&mut self, copies: u32) -> ControlReply {
        check_range("copies", u64::from(copies), u64::from(COPIES_MAX))?;
        let before = std::mem::replace(&mut self.parts.settings.copies, copies);
        Ok(if before == copies {
            Outcome::Unchanged
        } else {
            Outcome::Changed
        })
    }

    fn raise_era(&mut self, era: Era) -> ControlReply {
        let facts = self
            .parts
            .facts
            .as_mut()
            .expect("apply refuses everything before init");
        if era < facts.era {
            return Err(Refusal::OldEra { current: facts.era });
        }
        let before = std::mem::replace(&mut facts.era, era);
        Ok(if before == era {
            Outcome::Unchanged
        } else {
            Outcome::Changed
        })
    }

    /// Takes from a node that just lost its lease whatever it owned. Others of its region go on
    /// with higher fences; if there are none, the region is void.
    fn end_lease(&mut self, id: NodeId) {
        let Some(region) = self.node(id).map(|node| node.region.clone()) else {
            return;
        };
        for ((of, _), tenure) in &mut self.parts.tenures {
            if *of == region && tenure.holder.is_some_and(|(holder, _)| holder == id) {
                tenure.holder = None;
            }
        }
        if self.live_nodes(&region).next().is_some() {
            self.settle_region(&region);
            return;
        }
        for ((of, _), tenure) in &mut self.parts.tenures {
            if *of == region {
                tenure.void = tenure.fence;
            }
        }
    }

    /// Sees to it that every shard has an owner in the region, if any of its nodes can be.
    fn settle_region(&mut self, region: &RegionName) {
        let mut load = self.owner_load();
        for shard in self.shards() {
            self.settle(region, shard, &mut load);
        }
    }

    /// Sees to it that the shard has an owner in every region that can have one.
    fn settle_shard(&mut self, shard: ShardId) {
        let mut load = self.owner_load();
        let regions: Vec<_> = self.parts.regions.keys().cloned().collect();
        for region in &regions {
            self.settle(region, shard, &mut load);
        }
    }

    /// Keeps the owner if it may stay, else appoints the candidate that owns least. An owner that
    /// drains or stops may stay only while nobody else can take over.
    fn settle(&mut self, region: &RegionName, shard: ShardId, load: &mut BTreeMap<NodeId, u64>) {
        let candidates: Vec<_> = self
            .live_nodes(region)
            .filter(|(id, _)| self.can_own(*id, shard))
            .map(|(id, node)| (id, node.incarnation, !node.may_own()))
            .collect();
        let others = candidates.iter().any(|(_, _, going)| !going);
        let holder = self.tenure(region, shard).and_then(|tenure| tenure.holder);
        let stays = candidates.iter().any(|(id, incarnation, going)| {
            holder == Some((*id, *incarnation)) && !(*going && others)
        });
        if stays {
            return;
        }
        let chosen = candidates
            .iter()
            .min_by_key(|(id, _, going)| (*going, load.get(id).copied().unwrap_or(0), *id));
        if let Some((before, _)) = holder {
            *load.entry(before).or_insert(1) -= 1;
        }
        if let Some((node, incarnation, _)) = chosen {
            *load.entry(*node).or_default() += 1;
            self.appoint(region, shard, *node, *incarnation);
        } else if let Some(tenure) = self.parts.tenures.get_mut(&(region.clone(), shard)) {
            tenure.holder = None;
        }
    }

    fn appoint(
        &mut self,
        region: &RegionName,
        shard: ShardId,
        node: NodeId,
        incarnation: Incarnation,
    ) {
        let fence = self.next_fence();
        let tenure: &mut Tenure = self
            .parts
            .tenures
            .entry((region.clone(), shard))
            .or_default();
        tenure.fence = fence;
        tenure.holder = Some((node, incarnation));
    }

    fn owner_load(&self) -> BTreeMap<NodeId, u64> {
        let mut load = BTreeMap::new();
        for (holder, _) in self
            .parts
            .tenures
            .values()
            .filter_map(|tenure| tenure.holder)
        {
            *load.entry(holder).or_default() += 1;
        }
        load
    }

    /// Returns whether the node has a ready replica of the shard that stays.
    pub(crate) fn can_own(&self, node: NodeId, shard: ShardId) -> bool {
        let group = self.group(GroupId::Shard(shard));
        group
            .and_then(|group| group.on(node))
            .is_some_and(|(_, replica)| replica.ready && replica.leaving.is_none())
    }

    fn next_replica(&mut self) -> ReplicaId {
        self.parts.last_replica.0 += 1;
        self.parts.last_replica
    }

    fn next_fence(&mut self) -> Fence {
        self.parts.last_fence.0 += 1;
        self.parts.last_fence
    }

    fn member(&mut self, id: NodeId) -> Result<&mut Node, Refusal> {
        match self.parts.nodes.get_mut(&id) {
            None => Err(Refusal::UnknownNode { node: id }),
            Some(node) if node.state == NodeState::Removed => {
                Err(Refusal::NodeRemoved { node: id })
            }
            Some(node) => Ok(node),
        }
    }

    fn group_mut(&mut self, id: GroupId) -> Result<&mut Group, Refusal> {
        self.parts
            .groups
            .get_mut(&id)
            .ok_or(Refusal::UnknownGroup { group: id })
    }

    /// Returns the group if it is still at `version`.
    fn group_at(&mut self, id: GroupId, version: u64) -> Result<&mut Group, Refusal> {
        let group = self.group_mut(id)?;
        if group.version == version {
            Ok(group)
        } else {
            Err(Refusal::Superseded {
                group: id,
                current: group.version,
            })
        }
    }
}

fn check_range(what: &str, value: u64, max: u64) -> Result<(), Refusal> {
    match value {
        0 => Err(Refusal::Missing { what: what.into() }),
        _ if value > max => Err(Refusal::TooMuch {
            what: what.into(),
            max,
        }),
        _ => Ok(()),
    }
}

fn check_pins(facts: &ClusterFacts) -> Result<(), Refusal> {
    let pins = &facts.pins;
    if !pins.is_empty() {
        check_range("pins", pins.len() as u64, PINS_MAX as u64)?;
        let pinned: u64 = pins.iter().map(|pin| u64::from(pin.shards)).sum();
        let most = u64::from(facts.shards) - 1;
        check_range("shards of pins", pinned, most)?;
    }
    for pin in pins {
        check_text("the prefix of a pin", &pin.prefix)?;
        check_range(
            "shards of a pin",
            u64::from(pin.shards),
            u64::from(SHARDS_MAX),
        )?;
    }
    if pins.windows(2).any(|pair| pair[0].prefix >= pair[1].prefix) {
        let what = "the order of the pins' prefixes".into();
        return Err(Refusal::Missing { what });
    }
    Ok(())
}

fn check_text(what: &str, text: &str) -> Result<(), Refusal> {
    check_range(what, text.len() as u64, TEXT_BYTES_MAX as u64)
}

/// Rounds down to whole milliseconds, which is what is stored.
fn check_interval(interval: Duration) -> Result<Duration, Refusal> {
    let max = OCCUPANCY_INTERVAL_MAX;
    if interval > max {
        let max = max.as_secs();
        return Err(Refusal::TooMuch {
            what: "occupancy interval in seconds".into(),
            max,
        });
    }
    Ok(interval - Duration::from_nanos(u64::from(interval.subsec_nanos() % 1_000_000)))
}

fn check_new_node(node: &NewNode) -> Result<(), Refusal> {
    if !node.zone.is_empty() {
        check_text("zone", &node.zone)?;
    }
    check_addresses(&node.addresses)
}

fn check_addresses(addresses: &Addresses) -> Result<(), Refusal> {
    check_text("peer address", &addresses.peer)?;
    let optional = [
        ("client address", &addresses.client),
        ("reporter address", &addresses.reporter),
        ("admin address", &addresses.admin),
    ];
    for (what, address) in optional
        .into_iter()
        .filter(|(_, address)| !address.is_empty())
    {
        check_text(what, address)?;
    }
    Ok(())
}
