//! A cluster with an ideal raft: whatever has a quorum commits at once, replicas catch up when they
//! are told to. After every command it checks what must always hold.

use std::collections::{BTreeMap, BTreeSet};

use headcount_model::{Era, Fence, Incarnation, NodeId, RegionName, ReplicaId, ShardId};
use headcount_placement::{
    Addresses, COMMANDS_VERSION, ClusterFacts, ClusterId, Control, ControlCommand, ControlReply,
    FOUNDING_NODE, Fingerprint, GroupId, NewNode, NodeKey, NodeState, Outcome, PlanOptions,
    Settings, TimingProfile, plan,
};

/// Rounds of planning within which a cluster must have come to rest.
const ROUNDS_MAX: usize = 600;

pub(crate) struct World {
    pub(crate) control: Control,
    /// Every command proposed, refused ones included.
    pub(crate) log: Vec<ControlCommand>,
    pub(crate) options: PlanOptions,
    /// Nodes on which no replica catches up.
    pub(crate) slow: BTreeSet<NodeId>,
    /// The voters that each raft group has committed.
    voters: BTreeMap<GroupId, BTreeSet<ReplicaId>>,
    /// Every fence that an owner was seen with, and where.
    fences: BTreeMap<Fence, (RegionName, ShardId)>,
    /// Every replica that was ever seen, and where.
    replicas: BTreeMap<ReplicaId, (GroupId, NodeId)>,
    keys: u128,
}

pub(crate) fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

pub(crate) fn facts(shards: u32) -> ClusterFacts {
    ClusterFacts {
        id: ClusterId(7),
        name: "test".into(),
        shards,
        timing: TimingProfile::Local,
        era: Era(0),
        format: 1,
        fingerprint: Fingerprint(9),
        pins: Vec::new(),
    }
}

pub(crate) fn addresses() -> Addresses {
    Addresses {
        peer: "127.0.0.1:8082".into(),
        ..Addresses::default()
    }
}

pub(crate) fn new_node(key: u128, place: &str) -> NewNode {
    let (name, zone) = place.split_once('/').unwrap_or((place, ""));
    NewNode {
        key: NodeKey(key),
        region: region(name),
        zone: zone.into(),
        addresses: addresses(),
    }
}

impl World {
    /// A founded cluster whose only node, in `place`, has started. A place is `region` or
    /// `region/zone`.
    pub(crate) fn found(place: &str, shards: u32, copies: u32) -> Self {
        Self::found_as(facts(shards), place, copies)
    }

    /// The same with facts of one's own.
    pub(crate) fn found_as(facts: ClusterFacts, place: &str, copies: u32) -> Self {
        let mut world = Self {
            control: Control::new(),
            log: Vec::new(),
            options: PlanOptions::default(),
            slow: BTreeSet::new(),
            voters: BTreeMap::new(),
            fences: BTreeMap::new(),
            replicas: BTreeMap::new(),
            keys: 1,
        };
        let settings = Settings {
            copies,
            ..Settings::default()
        };
        let node = new_node(1, place);
        world
            .propose(ControlCommand::Init {
                facts,
                settings,
                node,
            })
            .unwrap();
        for (id, group) in world.control.groups() {
            world.voters.insert(*id, group.voters.clone());
        }
        world.start(FOUNDING_NODE);
        world
    }

    pub(crate) fn propose(&mut self, command: ControlCommand) -> ControlReply {
        let before = self.control.clone();
        let reply = self.control.apply(self.log.len() as u64 + 1, &command);
        self.log.push(command);
        self.check_always(&before);
        if reply.is_err() {
            let after = self.control.parts().clone();
            let unchanged = headcount_placement::ControlParts {
                applied: before.applied(),
                ..after
            };
            assert_eq!(&unchanged, before.parts(), "a refusal changed the state");
        }
        reply
    }

    pub(crate) fn join(&mut self, place: &str) -> NodeId {
        self.keys += 1;
        let node = new_node(self.keys, place);
        match self.propose(ControlCommand::Join(node)) {
            Ok(Outcome::Joined { node, .. }) => node,
            other => panic!("cannot join: {other:?}"),
        }
    }

    /// Joins and starts.
    pub(crate) fn add(&mut self, place: &str) -> NodeId {
        let node = self.join(place);
        self.start(node);
        node
    }

    pub(crate) fn start(&mut self, node: NodeId) {
        let current = self.control.node(node).unwrap().incarnation;
        let incarnation = Incarnation(current.0 + 1);
        let process = incarnation.0;
        let command = ControlCommand::Start {
            node,
            incarnation,
            process,
            addresses: addresses(),
            understands: COMMANDS_VERSION,
        };
        assert_eq!(self.propose(command), Ok(Outcome::Started { incarnation }));
    }

    pub(crate) fn kill(&mut self, node: NodeId) {
        let incarnation = self.control.node(node).unwrap().incarnation;
        self.propose(ControlCommand::LeaseLost { node, incarnation })
            .unwrap();
    }

    pub(crate) fn stop(&mut self, node: NodeId) {
        let incarnation = self.control.node(node).unwrap().incarnation;
        self.propose(ControlCommand::Stop { node, incarnation })
            .unwrap();
    }

    /// Plans once, applies, lets raft follow. Returns whether anything happened.
    pub(crate) fn step(&mut self) -> bool {
        let commands = plan(&self.control, &self.options);
        let planned = !commands.is_empty();
        for command in commands {
            self.check_planned(&command);
            let reply = self.propose(command.clone());
            assert!(reply.is_ok(), "planned {command:?}, refused as {reply:?}");
        }
        self.raft() || planned
    }

    /// Plans until there is nothing to do.
    pub(crate) fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if !self.step() {
                return;
            }
        }
        panic!(
            "no rest after {ROUNDS_MAX} rounds: {:?}",
            plan(&self.control, &self.options)
        );
    }

    /// Every group with a quorum reaches its target, every learner on a live node catches up.
    fn raft(&mut self) -> bool {
        let mut reports = Vec::new();
        for (id, group) in self.control.groups() {
            let actual = &self.voters[id];
            if !self.is_majority_alive(*id, actual) || !self.is_majority_alive(*id, &group.voters) {
                continue;
            }
            self.voters.insert(*id, group.voters.clone());
            if !group.is_confirmed() {
                reports.push(ControlCommand::Confirm {
                    group: *id,
                    version: group.version,
                });
            }
            for (replica, state) in group.members() {
                let slow = self.slow.contains(&state.node);
                if !state.ready && !slow && self.is_live(state.node) {
                    reports.push(ControlCommand::ReplicaReady {
                        group: *id,
                        replica,
                    });
                }
            }
        }
        let any = !reports.is_empty();
        for report in reports {
            self.propose(report).unwrap();
        }
        any
    }

    pub(crate) fn is_live(&self, node: NodeId) -> bool {
        self.control
            .node(node)
            .is_some_and(headcount_placement::Node::is_live)
    }

    fn is_majority_alive(&self, id: GroupId, voters: &BTreeSet<ReplicaId>) -> bool {
        let alive = voters
            .iter()
            .filter(|voter| self.is_live(self.replicas[voter].1))
            .count();
        let _ = id;
        alive * 2 > voters.len()
    }

    /// Returns whether every group, or the control group alone, keeps its quorum without `node`.
    pub(crate) fn survives(&self, node: NodeId, all: bool) -> bool {
        let groups = self.control.groups().iter();
        groups
            .filter(|(id, _)| all || **id == GroupId::Control)
            .all(|(id, group)| {
                [&self.voters[id], &group.voters].into_iter().all(|voters| {
                    let rest = voters.iter().filter(|voter| {
                        let on = self.replicas[voter].1;
                        on != node && self.is_live(on)
                    });
                    rest.count() * 2 > voters.len()
                })
            })
    }

    /// What holds whenever a plan is made: no step loses a majority, none makes an even number of
    /// voters but two for two nodes.
    fn check_planned(&self, command: &ControlCommand) {
        if let ControlCommand::RemoveReplicas {
            group, replicas, ..
        } = command
        {
            self.check_removal(*group, replicas);
        }
        let ControlCommand::SetVoters { group, voters, .. } = command else {
            return;
        };
        assert!(
            self.is_majority_alive(*group, voters),
            "{command:?} has no live majority"
        );
        let counts = self.control.nodes().iter().filter(|(id, node)| {
            node.counts() && (node.is_live() || !self.options.given_up.contains(id))
        });
        let nodes = counts.count();
        let before = self.control.group(*group).unwrap().voters.len();
        match voters.len() {
            1 => assert!(before == 1 || nodes < 3, "one voter for {nodes} nodes"),
            2 => assert!(before == 2 || nodes == 2, "two voters for {nodes} nodes"),
            number => assert!(number % 2 == 1, "{number} voters"),
        }
    }

    /// A replica that could serve goes only if enough others in its region can.
    fn check_removal(&self, id: GroupId, replicas: &BTreeSet<ReplicaId>) {
        let group = self.control.group(id).unwrap();
        let node = |replica: &ReplicaId| self.control.node(group.replicas[replica].node).unwrap();
        for replica in replicas.iter().filter(|replica| node(replica).is_usable()) {
            let region = &node(replica).region;
            let counting = self.control.nodes().values();
            let counting = counting
                .filter(|node| node.counts() && node.region == *region)
                .count();
            let stay = group.members().filter(|(other, state)| {
                let there = node(other).is_usable() && node(other).region == *region;
                there && state.ready && !replicas.contains(other)
            });
            let least = (self.control.settings().copies as usize).min(counting);
            assert!(
                stay.count() >= least,
                "{id} loses replica {replica} too early"
            );
        }
    }

    /// What holds after every command.
    fn check_always(&mut self, before: &Control) {
        let parts = self.control.parts();
        let old = before.parts();
        assert!(parts.last_fence >= old.last_fence);
        assert!(parts.last_replica >= old.last_replica);
        for ((region, shard), tenure) in &parts.tenures {
            let last = old
                .tenures
                .get(&(region.clone(), *shard))
                .copied()
                .unwrap_or_default();
            assert!(tenure.fence >= last.fence && tenure.void >= last.void);
            assert!(tenure.void <= tenure.fence && tenure.fence <= parts.last_fence);
            if tenure.holder.is_some() && tenure.holder != last.holder {
                assert!(
                    tenure.fence > old.last_fence,
                    "an old fence was handed out again"
                );
            }
            let place = (region.clone(), *shard);
            assert_eq!(
                self.fences
                    .entry(tenure.fence)
                    .or_insert_with(|| place.clone()),
                &place
            );
            let Some((node, incarnation)) = tenure.holder else {
                continue;
            };
            let state = self.control.node(node).unwrap();
            assert!(state.is_live(), "a node without lease owns");
            assert_eq!(state.incarnation, incarnation, "an ended life owns");
            assert_eq!(state.region, *region);
            let (_, replica) = self
                .control
                .group(GroupId::Shard(*shard))
                .unwrap()
                .on(node)
                .unwrap();
            assert!(replica.ready && replica.leaving.is_none());
            assert!(tenure.void < tenure.fence, "a void owner");
        }
        for region in parts.regions.keys() {
            let dead = self.control.live_nodes(region).next().is_none();
            for ((of, shard), tenure) in &parts.tenures {
                let void = tenure.void == tenure.fence && tenure.holder.is_none();
                assert!(
                    of != region || void || !dead,
                    "shard {shard} of {region}: {tenure:?}"
                );
            }
        }
        for (id, group) in &parts.groups {
            assert!(!group.voters.is_empty());
            assert!(group.confirmed <= group.version && group.voters_version <= group.version);
            let mut nodes = BTreeSet::new();
            for (replica, state) in &group.replicas {
                let place = (*id, state.node);
                let seen = self.replicas.entry(*replica).or_insert_with(|| {
                    assert!(
                        *replica > old.last_replica,
                        "replica id {replica} was used again"
                    );
                    place
                });
                assert_eq!(*seen, place, "replica {replica} moved");
                assert!(
                    nodes.insert(state.node),
                    "two replicas of {id} on node {}",
                    state.node
                );
            }
            for voter in &group.voters {
                assert!(group.replicas[voter].leaving.is_none());
            }
        }
    }

    /// What holds at rest when every node that was not removed is live, or some are drained.
    pub(crate) fn check_rest(&self) {
        assert_eq!(plan(&self.control, &self.options), []);
        let counting: Vec<_> = self
            .control
            .nodes()
            .iter()
            .filter(|(_, node)| node.counts())
            .collect();
        let mut by_region: BTreeMap<&RegionName, Vec<NodeId>> = BTreeMap::new();
        for (id, node) in &counting {
            by_region.entry(&node.region).or_default().push(**id);
        }
        let copies = self.control.settings().copies as usize;
        let voters = match counting.len() {
            few @ 1..=2 => few,
            _ if self.domains() >= 5 => 5,
            _ => 3,
        };
        for (id, group) in self.control.groups() {
            assert!(group.is_confirmed());
            assert_eq!(group.voters.len(), voters, "voters of {id}");
            let mut spread: BTreeMap<&RegionName, usize> =
                by_region.keys().map(|region| (*region, 0)).collect();
            for voter in &group.voters {
                let node = self.control.node(group.replicas[voter].node).unwrap();
                assert!(node.counts(), "a node that goes votes");
                *spread.get_mut(&node.region).unwrap() += 1;
            }
            for (region, here) in &spread {
                let full = *here == by_region[*region].len();
                let most = spread.values().max().unwrap();
                assert!(full || here + 1 >= *most, "voters of {id}: {spread:?}");
            }
            let GroupId::Shard(shard) = id else { continue };
            let leader = self
                .control
                .leader_target(*id)
                .expect("a leader is preferred");
            assert!(self.control.node(leader.1).unwrap().is_usable());
            for (region, nodes) in &by_region {
                let here = group
                    .members()
                    .filter(|(_, replica)| nodes.contains(&replica.node));
                let here = here.inspect(|(_, replica)| assert!(replica.ready)).count();
                let least = copies.min(nodes.len());
                assert!(here >= least.max(1), "{here} replicas of {id} in {region}");
                assert!(
                    here <= least
                        .max(spread[*region])
                        .max(voters.div_ceil(by_region.len()))
                );
                assert!(
                    self.control.owner(region, *shard).is_some(),
                    "{region} has no owner"
                );
            }
            for (replica, state) in &group.replicas {
                let node = self.control.node(state.node).unwrap();
                assert!(node.counts(), "replica {replica} of {id} on {node:?}");
            }
        }
        for (region, nodes) in &by_region {
            let mut zones: BTreeMap<&str, Vec<NodeId>> = BTreeMap::new();
            for node in nodes {
                zones
                    .entry(&self.control.node(*node).unwrap().zone)
                    .or_default()
                    .push(*node);
            }
            // Spread over zones comes before evenness, so that a small zone may be fuller.
            for nodes in zones.values() {
                let loads = nodes
                    .iter()
                    .map(|node| self.control.holdings(*node).replicas);
                assert!(
                    uneven(loads.clone()) <= 1,
                    "{region} holds {:?}",
                    loads.collect::<Vec<_>>()
                );
            }
            if zones.len() == 1 {
                let loads = nodes.iter().map(|node| self.control.holdings(*node).owns);
                assert!(
                    uneven(loads.clone()) <= 3,
                    "{region} owns {:?}",
                    loads.collect::<Vec<_>>()
                );
            }
        }
    }

    fn domains(&self) -> usize {
        let counting: Vec<_> = self
            .control
            .nodes()
            .values()
            .filter(|node| node.counts())
            .collect();
        let regions: BTreeSet<_> = counting.iter().map(|node| &node.region).collect();
        let zones: BTreeSet<_> = counting.iter().map(|node| &node.zone).collect();
        match (regions.len(), zones.len()) {
            (1, 1) => counting.len(),
            (1, zones) => zones,
            (regions, _) => regions,
        }
    }

    /// Returns the ids of the members, in order.
    pub(crate) fn members(&self) -> Vec<NodeId> {
        let nodes = self.control.nodes().iter();
        nodes
            .filter(|(_, node)| node.state != NodeState::Removed)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Returns how many replicas were placed by the log from `start` on.
    pub(crate) fn placed_since(&self, start: usize) -> usize {
        let added = self.log[start..].iter().map(|command| match command {
            ControlCommand::AddReplicas { nodes, .. } => nodes.len(),
            _ => 0,
        });
        added.sum()
    }
}

fn uneven(loads: impl Iterator<Item = u64> + Clone) -> u64 {
    loads.clone().max().unwrap() - loads.min().unwrap()
}
