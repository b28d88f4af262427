//! The node as its operators see it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use headcount_consensus::{GroupId as RaftGroupId, Leadership};
use headcount_model::control::{ControlCommand, GroupId, Refusal};
use headcount_model::{Fence, NodeId, RegionName, ShardId};
use headcount_placement::{Control, Node, NodeState};
use headcount_rpc::control::Standings;
use headcount_rpc::read::ShardStanding;
use tokio::sync::watch;

use crate::admin::status::{
    AddressesRow, ClusterRow, ControlRow, LeaderRow, NodeRow, OwnerRow, PinRow, RegionRow,
    ShardRow, TrafficRow, standing_name, state_name,
};
use crate::admin::{ClusterStatus, Health, Operator, OperatorCommand, OperatorError, Readiness};
use crate::control::ControlError;
use crate::node::{Booted, Progress};

/// How long the control group's leader may take to say what only it knows.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an operator waits for a cluster to be founded.
const FOUND_TIMEOUT: Duration = Duration::from_secs(30);

/// Operates this node and, through it, the cluster.
pub(crate) struct NodeOperator {
    progress: Progress,
    booted: watch::Receiver<Option<Booted>>,
    /// Asks the node to found a cluster.
    found: watch::Sender<bool>,
}

impl NodeOperator {
    pub(crate) fn new(
        progress: Progress,
        booted: watch::Receiver<Option<Booted>>,
        found: watch::Sender<bool>,
    ) -> Self {
        Self {
            progress,
            booted,
            found,
        }
    }

    fn booted(&self) -> Option<Booted> {
        self.booted.borrow().clone()
    }

    async fn cluster_status(&self) -> ClusterStatus {
        let control = self.progress.control.borrow().clone();
        let mut status = ClusterStatus {
            answered_by: self.progress.node.borrow().map(|node| node.0),
            cluster: control.facts().map(|facts| ClusterRow {
                id: facts.id.to_string(),
                name: facts.name.clone(),
                shards: facts.shards,
                timing: facts.timing.to_string(),
                era: facts.era.0,
            }),
            plan_pending: control
                .groups()
                .values()
                .filter(|group| !group.is_confirmed())
                .count(),
            ..ClusterStatus::default()
        };
        let Some(booted) = self.booted() else {
            return status;
        };
        let shards = self.progress.shards.borrow().clone();
        let others = shards.map_or_else(Default::default, |shards| shards.parted().1);
        let described = booted.elsewhere.describe(&others).await;
        let described: BTreeMap<ShardId, ShardStanding> = described
            .into_iter()
            .map(|standing| (standing.shard, standing))
            .collect();
        let standings = self.standings(&booted, &control).await;
        status.shards = control
            .shards()
            .map(|shard| {
                let row = match described.get(&shard) {
                    Some(standing) => described_row(&control, shard, standing),
                    None => self.shard_row(&booted, &control, shard),
                };
                placed_row(&control, standings.as_ref(), row)
            })
            .collect();
        status.pins = pin_rows(&control, &status.shards);
        status.traffic = standings.as_ref().map(|_| traffic_row(&status.shards));
        status.nodes = control
            .nodes()
            .keys()
            .map(|id| node_row(standings.as_ref(), &control, &status.shards, *id))
            .collect();
        status.regions = control
            .regions()
            .iter()
            .filter(|(name, _)| has_members(&control, name))
            .map(|(name, region)| {
                let theirs = members_of(&control, name);
                let led = |shard: &&ShardRow| {
                    shard
                        .leader
                        .as_ref()
                        .is_some_and(|leader| leader.region == name.as_str())
                };
                RegionRow {
                    name: name.to_string(),
                    weight: region.weight,
                    nodes: theirs.clone().count(),
                    leaders: status.shards.iter().filter(led).count(),
                    live: theirs.clone().any(Node::is_live),
                    followers: status
                        .shards
                        .iter()
                        .filter(|shard| shard.follows.as_deref() == Some(name.as_str()))
                        .count(),
                }
            })
            .collect();
        let (has_majority, heard_age) = booted.handle.majority().await;
        let known = booted.handle.group().status();
        let (voters, learners) = members(&control, GroupId::Control);
        status.control = ControlRow {
            leader: leader_row(&control, &known.leadership),
            term: term(&known.leadership),
            voters,
            learners,
            applied: known.applied.unwrap_or(0),
            has_majority,
            heard_age_ms: heard_age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        };
        status
    }

    /// Asks the control group's leader what only it knows.
    async fn standings(&self, booted: &Booted, control: &Control) -> Option<Standings> {
        if let Some(own) = booted.keeper.standings(control) {
            return Some(own);
        }
        let leader = booted.handle.leader()?;
        let asking = booted.handle.client().standings(leader);
        match tokio::time::timeout(ASK_TIMEOUT, asking).await {
            Ok(Ok(standings)) => Some(standings),
            Ok(Err(error)) => {
                tracing::debug!(target: "admin", %leader, %error, "the leader tells no standings");
                None
            }
            Err(_) => None,
        }
    }

    fn shard_row(&self, booted: &Booted, control: &Control, shard: ShardId) -> ShardRow {
        let id = GroupId::Shard(shard);
        let known = booted
            .host
            .group(RaftGroupId(id.number()))
            .map(|group| group.status());
        let hosted = self
            .progress
            .shards
            .borrow()
            .as_ref()
            .and_then(|shards| shards.get(shard));
        let settled = |region: &RegionName| {
            let hosted = hosted.as_ref()?;
            let mark = hosted.replica.read().mark(region);
            mark.settled.then_some(mark.fence)
        };
        let owners = owner_rows(control, shard, settled);
        let (voters, learners) = members(control, id);
        ShardRow {
            shard: shard.0,
            leader: known
                .as_ref()
                .and_then(|known| leader_row(control, &known.leadership)),
            term: known.as_ref().map_or(0, |known| term(&known.leadership)),
            owners,
            voters,
            learners,
            applied: known.as_ref().and_then(|known| known.applied),
            committed: known.as_ref().and_then(|known| known.committed),
            channels: hosted
                .as_ref()
                .map(|hosted| hosted.replica.read().channels()),
            ..ShardRow::default()
        }
    }

    async fn carry_out(&self, command: OperatorCommand) -> Result<(), OperatorError> {
        command.check()?;
        let booted = self.booted().ok_or(OperatorError::NoCluster)?;
        let commands = match command {
            OperatorCommand::SetHomes(homes) => self.home_commands(&homes)?,
            single => vec![single_command(single)],
        };
        for command in commands {
            match booted.handle.order(command).await {
                Ok(_) => {}
                Err(ControlError::Refused(refusal)) => return Err(OperatorError::Refused(refusal)),
                Err(ControlError::Unavailable { reason }) => {
                    return Err(OperatorError::Unknown(reason));
                }
            }
        }
        Ok(())
    }

    /// Returns what gives the shards of pins other homes.
    fn home_commands(
        &self,
        homes: &BTreeMap<String, RegionName>,
    ) -> Result<Vec<ControlCommand>, OperatorError> {
        let control = self.progress.control.borrow().clone();
        let facts = control.facts().ok_or(OperatorError::NoCluster)?;
        let map = facts.shard_map();
        let mut commands = Vec::new();
        for (prefix, home) in homes {
            if !control.regions().contains_key(home) {
                let region = home.clone();
                return Err(OperatorError::Refused(Refusal::UnknownRegion { region }));
            }
            let shards: Vec<ShardId> = map.pinned(prefix).collect();
            if shards.is_empty() {
                let known: Vec<_> = facts.pins.iter().map(|pin| &pin.prefix).collect();
                return Err(OperatorError::Invalid(format!(
                    "{prefix:?} is no pin of this cluster; it was founded with {known:?}, and pins \
                     cannot be added later"
                )));
            }
            commands.extend(shards.into_iter().map(|shard| ControlCommand::SetHome {
                shard,
                home: Some(home.clone()),
            }));
        }
        Ok(commands)
    }

    async fn found_cluster(&self) -> Result<(), OperatorError> {
        if self.progress.node.borrow().is_some() {
            return Err(OperatorError::HasCluster);
        }
        self.found.send_replace(true);
        let mut control = self.progress.control.clone();
        let founded = control.wait_for(|control| control.facts().is_some());
        match tokio::time::timeout(FOUND_TIMEOUT, founded).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(OperatorError::Unknown("the node is stopping".to_owned())),
            Err(_) => Err(OperatorError::Unknown(
                "it takes longer than 30 s".to_owned(),
            )),
        }
    }
}

impl Operator for NodeOperator {
    fn health(&self) -> Health {
        let broken = self
            .progress
            .fatal
            .borrow()
            .iter()
            .map(ToString::to_string)
            .collect();
        Health { broken }
    }

    fn readiness(&self) -> Readiness {
        Readiness {
            missing: self.progress.missing(),
        }
    }

    fn status(&self) -> BoxFuture<'_, ClusterStatus> {
        self.cluster_status().boxed()
    }

    fn init(&self) -> BoxFuture<'_, Result<(), OperatorError>> {
        self.found_cluster().boxed()
    }

    fn command(&self, command: OperatorCommand) -> BoxFuture<'_, Result<(), OperatorError>> {
        self.carry_out(command).boxed()
    }
}

/// Returns what has a command of an operator carried out that is a single one of the control group.
fn single_command(command: OperatorCommand) -> ControlCommand {
    match command {
        OperatorCommand::Drain(node) => ControlCommand::Drain(node),
        OperatorCommand::Undrain(node) => ControlCommand::Undrain(node),
        OperatorCommand::Remove(node) => ControlCommand::Remove(node),
        OperatorCommand::SetWeights(weights) => ControlCommand::SetWeights(weights),
        OperatorCommand::SetOccupancyInterval(occupancy_interval) => {
            ControlCommand::SetPacing { occupancy_interval }
        }
        OperatorCommand::SetCopies(copies) => ControlCommand::SetCopies(copies),
        OperatorCommand::SetHomes(_) => unreachable!("it is one for each shard"),
    }
}

/// Returns the nodes whose replicas of a group shall vote, and those that shall listen.
fn members(control: &Control, id: GroupId) -> (Vec<u64>, Vec<u64>) {
    control
        .target_membership(id)
        .map_or_else(Default::default, |wanted| {
            let nodes = |side: &BTreeMap<_, NodeId>| side.values().map(|node| node.0).collect();
            (nodes(&wanted.voters), nodes(&wanted.learners))
        })
}

/// Returns whether a region has nodes; else it is remembered for its fences only.
fn has_members(control: &Control, region: &RegionName) -> bool {
    members_of(control, region).next().is_some()
}

/// Returns the nodes of a region that were not removed.
fn members_of<'a>(
    control: &'a Control,
    region: &'a RegionName,
) -> impl Iterator<Item = &'a Node> + Clone {
    let nodes = control.nodes().values();
    nodes.filter(move |node| node.region == *region && node.state != NodeState::Removed)
}

/// Returns the owners of a shard's parts; `settled` says which fence of a region has settled.
fn owner_rows(
    control: &Control,
    shard: ShardId,
    settled: impl Fn(&RegionName) -> Option<Fence>,
) -> Vec<OwnerRow> {
    let regions = control.regions().keys();
    let regions = regions.filter(|region| has_members(control, region));
    let rows = regions.map(|region| {
        let tenure = control.tenure(region, shard).unwrap_or_default();
        OwnerRow {
            region: region.to_string(),
            node: tenure.holder.map(|(node, _)| node.0),
            fence: tenure.fence.0,
            settled: settled(region) == Some(tenure.fence),
        }
    });
    rows.collect()
}

/// Returns the row of a shard that this node does not hold, as a holder described it.
fn described_row(control: &Control, shard: ShardId, standing: &ShardStanding) -> ShardRow {
    let settled = |region: &RegionName| {
        let mut regions = standing.regions.iter();
        let theirs = regions.find(|theirs| theirs.region == *region)?;
        theirs.settled.then_some(theirs.fence)
    };
    let (voters, learners) = members(control, GroupId::Shard(shard));
    let leader = standing.leader.and_then(|leader| {
        let region = control.node(leader)?.region.to_string();
        Some(LeaderRow {
            node: leader.0,
            region,
        })
    });
    ShardRow {
        shard: shard.0,
        leader,
        term: standing.term,
        owners: owner_rows(control, shard, settled),
        voters,
        learners,
        applied: None,
        committed: None,
        channels: usize::try_from(standing.channels).ok(),
        ..ShardRow::default()
    }
}

/// Adds to a shard's row where its coordinator should be, and why.
fn placed_row(control: &Control, standings: Option<&Standings>, row: ShardRow) -> ShardRow {
    let shard = ShardId(row.shard);
    let group = control.group(GroupId::Shard(shard));
    let named = |region: Option<&RegionName>| region.map(ToString::to_string);
    let traffic = standings.and_then(|standings| standings.traffic.get(&shard));
    let traffic = traffic.into_iter().flatten();
    ShardRow {
        home: named(group.and_then(|group| group.home.as_ref())),
        follows: named(group.and_then(|group| group.follows.as_ref())),
        traffic: traffic
            .map(|(region, items)| (region.to_string(), *items))
            .collect(),
        ..row
    }
}

/// Tells the pins of a cluster, each with where its shards are led.
fn pin_rows(control: &Control, shards: &[ShardRow]) -> Vec<PinRow> {
    let Some(facts) = control.facts() else {
        return Vec::new();
    };
    let map = facts.shard_map();
    let rows = facts.pins.iter().map(|pin| {
        let ids: Vec<u32> = map.pinned(&pin.prefix).map(|shard| shard.0).collect();
        let mut theirs = shards
            .iter()
            .filter(|row| ids.contains(&row.shard))
            .peekable();
        let home = theirs
            .peek()
            .and_then(|row| row.home.clone())
            .unwrap_or_default();
        let at_home = theirs.filter(|row| {
            let leader = row.leader.as_ref();
            leader.is_some_and(|leader| leader.region == home)
        });
        PinRow {
            prefix: pin.prefix.clone(),
            at_home: at_home.count(),
            home,
            shards: ids,
        }
    });
    rows.collect()
}

/// Sums up the traffic of all shards.
fn traffic_row(shards: &[ShardRow]) -> TrafficRow {
    let mut row = TrafficRow::default();
    for shard in shards {
        row.items += shard.traffic.values().sum::<u64>();
        let leader = shard.leader.as_ref();
        let local = leader.and_then(|leader| shard.traffic.get(&leader.region));
        row.local_items += local.copied().unwrap_or(0);
    }
    row
}

fn term(leadership: &Leadership) -> u64 {
    leadership.epoch.map_or(0, |epoch| epoch.term)
}

fn leader_row(control: &Control, leadership: &Leadership) -> Option<LeaderRow> {
    let node = leadership.leader?.node;
    let region = control.node(node)?.region.to_string();
    Some(LeaderRow {
        node: node.0,
        region,
    })
}

fn node_row(
    standings: Option<&Standings>,
    control: &Control,
    shards: &[ShardRow],
    id: NodeId,
) -> NodeRow {
    let standing = standings.and_then(|standings| standings.nodes.get(&id).copied());
    let led = shards.iter().filter(|shard| {
        shard
            .leader
            .as_ref()
            .is_some_and(|leader| leader.node == id.0)
    });
    let votes = shards.iter().filter(|shard| shard.voters.contains(&id.0));
    let holdings = control.holdings(id);
    let mut row = NodeRow {
        id: id.0,
        standing: standing.map(|(standing, _)| standing_name(standing).to_owned()),
        lease_age_ms: standing.map(|(_, age)| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        replicas: usize::try_from(holdings.replicas).unwrap_or(usize::MAX),
        voters: votes.count(),
        leaders: led.count(),
        owned: usize::try_from(holdings.owns).unwrap_or(usize::MAX),
        held: usize::try_from(holdings.replicas + holdings.votes).unwrap_or(usize::MAX),
        ..NodeRow::default()
    };
    if let Some(node) = control.node(id) {
        row.region = node.region.to_string();
        row.zone.clone_from(&node.zone);
        row.state = state_name(node).to_owned();
        row.incarnation = node.incarnation.0;
        row.addresses = AddressesRow::from(&node.addresses);
    }
    row
}
