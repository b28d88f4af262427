//! A small world for tests: three regions of two nodes, one shard, links that keep order and break.
//!
//! The world plays the driver. It checks at every step what people are shown, and keeps a trace.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use headcount_model::{ConnectionId, Fence, Incarnation, NodeId, Now};

use crate::fixtures::{channel, member, message, region};
use crate::{
    Action, Change, Config, Gateway, GatewayInput, GatewayMessage, Member, MemberKey, Owner,
    OwnerInput, OwnerMessage, RegionMessage, RelayChannel,
};

mod driver;

pub(crate) const REGIONS: u64 = 3;
pub(crate) const NODES: u64 = 6;
/// Lines of the trace that a failure shows.
const TRACE_LINES: usize = 80;

type Set = BTreeMap<MemberKey, Member>;

/// A node and what its front end knows and shows.
struct Node {
    number: u64,
    region: u64,
    incarnation: Incarnation,
    /// `None` while the process is down.
    gateway: Option<Gateway>,
    /// Whether the control group holds a lease for it.
    leased: bool,
    /// What is attached, and the members that are entered, by channel.
    local: BTreeMap<RelayChannel, Set>,
    /// What its subscribers see.
    shown: BTreeMap<RelayChannel, Set>,
    /// The last message seen of each publisher and channel.
    heard: BTreeMap<(RelayChannel, ConnectionId), u64>,
    /// Owner that it is connected to.
    connected: Option<Fence>,
}

/// A way that messages go, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// From a node to the owner of its region.
    Up(u64),
    /// From there to the node.
    Down(u64),
    /// From the owner of a region to that of another.
    Across(u64, u64),
}

/// A message on its way.
enum Envelope {
    /// From a gateway of this region.
    Up(u64, GatewayMessage),
    /// To this node.
    Down(u64, OwnerMessage),
    /// To the owner of this region.
    Across(u64, RegionMessage),
}

/// A region's owner.
struct Holder {
    node: u64,
    fence: Fence,
    owner: Owner,
}

pub(crate) struct World {
    config: Config,
    time: Now,
    nodes: BTreeMap<u64, Node>,
    owners: BTreeMap<u64, Holder>,
    /// Which regions' owners reach which.
    joined: BTreeSet<(u64, u64)>,
    /// What is on its way. A way that breaks loses some of it.
    ways: BTreeMap<Way, VecDeque<Envelope>>,
    /// What was on a way that broke, and comes nevertheless.
    late: VecDeque<Envelope>,
    /// What the log says in each region: which channels are active where.
    logs: BTreeMap<u64, BTreeSet<(RelayChannel, u64)>>,
    fences: u64,
    serial: u64,
    /// Messages that subscribers were shown so far.
    pub(crate) messages: u64,
    /// What subscribers were shown of remote members so far.
    pub(crate) actions: Vec<(u64, Action, MemberKey)>,
    trace: VecDeque<String>,
    faults: Vec<String>,
}

impl World {
    /// Makes a world whose nodes all run, and whose regions have owners that are connected.
    pub(crate) fn new(config: Config) -> Self {
        let mut world = Self {
            config,
            time: Now::default(),
            nodes: BTreeMap::new(),
            owners: BTreeMap::new(),
            joined: BTreeSet::new(),
            ways: BTreeMap::new(),
            late: VecDeque::new(),
            logs: BTreeMap::new(),
            fences: 0,
            serial: 0,
            messages: 0,
            actions: Vec::new(),
            trace: VecDeque::new(),
            faults: Vec::new(),
        };
        for number in 0..NODES {
            let incarnation = Incarnation(1);
            let node = Node {
                number,
                region: number % REGIONS,
                incarnation,
                gateway: Some(Gateway::new(
                    world.config.clone(),
                    NodeId(number),
                    incarnation,
                )),
                leased: true,
                local: BTreeMap::new(),
                shown: BTreeMap::new(),
                heard: BTreeMap::new(),
                connected: None,
            };
            world.nodes.insert(number, node);
        }
        world.heal();
        world
    }

    /// What was found wrong first, with the end of the trace.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        let Some(fault) = self.faults.first() else {
            return Ok(());
        };
        let trace: Vec<&str> = self.trace.iter().map(String::as_str).collect();
        Err(format!("{fault}\ntrace:\n{}", trace.join("\n")))
    }

    pub(crate) fn note(&mut self, line: String) {
        if self.faults.is_empty() {
            self.trace.push_back(line);
            if self.trace.len() > TRACE_LINES {
                self.trace.pop_front();
            }
        }
    }

    fn fault(&mut self, what: String) {
        self.note(format!("!! {what}"));
        self.faults.push(what);
    }

    // What people do.

    pub(crate) fn interest(&mut self, node: u64, number: u64, on: bool) {
        let channel = channel(number);
        let Some(front) = self.running(node) else {
            return;
        };
        if on {
            front.local.entry(channel.clone()).or_default();
            front.shown.entry(channel.clone()).or_default();
        } else {
            front.local.remove(&channel);
            front.shown.remove(&channel);
            front.heard.retain(|(of, _), _| *of != channel);
        }
        self.tell(node, GatewayInput::Interest { channel, on });
    }

    pub(crate) fn enter(&mut self, node: u64, number: u64, connection: u64, id: u64) {
        self.serial += 1;
        let member = member(connection, id, self.serial);
        let channel = channel(number);
        let Some(front) = self.running(node) else {
            return;
        };
        let Some(local) = front.local.get_mut(&channel) else {
            return;
        };
        local.insert(member.key.clone(), member.clone());
        let shown = front.shown.entry(channel.clone()).or_default();
        shown.insert(member.key.clone(), member.clone());
        let change = Change::Put(member);
        self.tell(node, GatewayInput::Presence { channel, change });
    }

    pub(crate) fn leave(&mut self, node: u64, number: u64, connection: u64, id: u64) {
        self.serial += 1;
        let member = member(connection, id, self.serial);
        let channel = channel(number);
        let Some(front) = self.running(node) else {
            return;
        };
        let local = front.local.get_mut(&channel);
        if local.and_then(|local| local.remove(&member.key)).is_some() {
            let shown = front.shown.entry(channel.clone()).or_default();
            shown.remove(&member.key);
        }
        let change = Change::Leave(member);
        self.tell(node, GatewayInput::Presence { channel, change });
    }

    pub(crate) fn publish(&mut self, node: u64, number: u64) {
        self.serial += 1;
        let serial = self.serial;
        let Some(front) = self.running(node) else {
            return;
        };
        let publisher = format!("publisher{node}.{}", front.incarnation);
        let message = message(number, &publisher, serial);
        self.tell(node, GatewayInput::Publish(message));
    }

    // What the network and the control group do.

    /// Breaks a way: each second message on it is lost, and the others come late.
    fn break_way(&mut self, way: Way) {
        let lost = self.ways.remove(&way).unwrap_or_default();
        self.late.extend(lost.into_iter().step_by(2));
    }

    /// Cuts a node off from its owner, in both directions.
    pub(crate) fn disconnect(&mut self, node: u64) {
        self.break_way(Way::Up(node));
        self.break_way(Way::Down(node));
        if let Some(fence) = self.nodes.get_mut(&node).unwrap().connected.take() {
            self.tell(node, GatewayInput::OwnerLost { fence });
        }
    }

    /// Connects a node to the owner of its region, if it is not.
    pub(crate) fn connect(&mut self, node: u64) {
        let front = self.nodes.get_mut(&node).unwrap();
        let Some(holder) = self.owners.get(&front.region) else {
            return;
        };
        let fence = holder.fence;
        if front.connected != Some(fence) && front.gateway.is_some() {
            front.connected = Some(fence);
            self.tell(node, GatewayInput::Owner { fence });
        }
    }

    /// Cuts the way from one region to another.
    pub(crate) fn cut(&mut self, from: u64, to: u64) {
        self.break_way(Way::Across(from, to));
        if self.joined.remove(&(from, to)) {
            let (region, fence) = (region(to), self.owners[&to].fence);
            self.tell_owner(from, OwnerInput::RegionLost { region, fence });
        }
    }

    /// Opens the way from one region to another, if it is not open.
    pub(crate) fn join(&mut self, from: u64, to: u64) {
        let both = self.owners.contains_key(&from) && self.owners.contains_key(&to);
        if from != to && both && self.joined.insert((from, to)) {
            let (region, fence) = (region(to), self.owners[&to].fence);
            self.tell_owner(from, OwnerInput::RegionOwner { region, fence });
        }
    }

    /// Gives a region's ownership to another running node; all state of the owner is lost.
    pub(crate) fn move_owner(&mut self, number: u64) {
        let old = self.drop_owner(number);
        let nodes = self.nodes.iter();
        let mut nodes: Vec<u64> = nodes
            .filter(|(_, n)| n.region == number && n.leased && n.gateway.is_some())
            .map(|(node, _)| *node)
            .collect();
        nodes.sort_by_key(|node| Some(*node) == old);
        let Some(node) = nodes.first().copied() else {
            return;
        };
        self.fences += 1;
        let fence = Fence(self.fences);
        let others = self.owners.keys().map(|other| region(*other));
        let start = self.time.monotonic;
        let owner = Owner::new(self.config.clone(), region(number), fence, others, start);
        self.note(format!("owner of r{number}: node {node}, fence {fence}"));
        let holder = Holder { node, fence, owner };
        self.owners.insert(number, holder);
        self.tell_live(number);
    }

    fn drop_owner(&mut self, number: u64) -> Option<u64> {
        for other in 0..REGIONS {
            self.cut(number, other);
            self.cut(other, number);
        }
        let holder = self.owners.remove(&number)?;
        let nodes = self.nodes.iter();
        let nodes: Vec<u64> = nodes
            .filter(|(_, n)| n.region == number && n.connected == Some(holder.fence))
            .map(|(node, _)| *node)
            .collect();
        for node in nodes {
            self.disconnect(node);
        }
        Some(holder.node)
    }

    /// Ends a process; the control group notices later.
    pub(crate) fn crash(&mut self, node: u64) {
        self.note(format!("node {node} crashes"));
        let front = self.nodes.get_mut(&node).unwrap();
        front.gateway = None;
        front.local.clear();
        front.shown.clear();
        front.heard.clear();
        let number = front.region;
        self.disconnect(node);
        if self
            .owners
            .get(&number)
            .is_some_and(|holder| holder.node == node)
        {
            self.drop_owner(number);
        }
    }

    /// Starts a process that is down, as a new incarnation.
    pub(crate) fn restart(&mut self, node: u64) {
        let config = self.config.clone();
        let front = self.nodes.get_mut(&node).unwrap();
        if front.gateway.is_some() {
            return;
        }
        front.incarnation.0 += 1;
        front.leased = true;
        front.gateway = Some(Gateway::new(config, NodeId(node), front.incarnation));
        let number = front.region;
        self.tell_live(number);
    }

    /// Ends a node's lease; if it runs, it gets another one at once, as another incarnation.
    pub(crate) fn lapse(&mut self, node: u64) {
        self.note(format!("lease of node {node} ends"));
        let front = self.nodes.get_mut(&node).unwrap();
        let number = front.region;
        front.leased = false;
        self.tell_live(number);
        let front = self.nodes.get_mut(&node).unwrap();
        if front.gateway.is_some() {
            front.leased = true;
            front.incarnation.0 += 1;
            let incarnation = front.incarnation;
            self.tell(node, GatewayInput::Reborn { incarnation });
            self.tell_live(number);
        }
    }

    /// The log in a region catches up with what is attached everywhere.
    pub(crate) fn catch_up(&mut self, number: u64) {
        let mut log = BTreeSet::new();
        for node in self.nodes.values() {
            let channels = node.local.keys();
            log.extend(channels.map(|channel| (channel.clone(), node.region)));
        }
        let old = self.logs.insert(number, log.clone()).unwrap_or_default();
        let new = log.difference(&old);
        let activations = new.map(|(channel, at)| (region(*at), channel.clone()));
        let activations = activations.collect();
        self.tell_owner(number, OwnerInput::Activated { activations });
    }

    /// Repairs everything that may be repaired, and lets everything happen that is due.
    pub(crate) fn heal(&mut self) {
        for node in 0..NODES {
            if self.nodes[&node].gateway.is_none() && self.nodes[&node].leased {
                self.lapse(node);
            }
        }
        for number in 0..REGIONS {
            let lives = |node: &&Node| node.region == number && node.gateway.is_some();
            let any = self.nodes.values().find(lives).is_some();
            if !any {
                self.drop_owner(number);
                let fence = Fence(self.fences);
                let region = region(number);
                for other in (0..REGIONS).filter(|other| *other != number) {
                    let region = region.clone();
                    self.tell_owner(other, OwnerInput::RegionExpired { region, fence });
                }
            } else if !self.owners.contains_key(&number) {
                self.move_owner(number);
            }
        }
        for number in 0..REGIONS {
            self.catch_up(number);
        }
        for node in 0..NODES {
            self.connect(node);
        }
        for from in 0..REGIONS {
            for to in 0..REGIONS {
                self.join(from, to);
            }
        }
        self.quiesce();
    }

    /// Compares what every node shows with what is entered at all nodes.
    pub(crate) fn check_sets(&mut self) {
        for (number, node) in &self.nodes {
            for (channel, local) in &node.local {
                let mut expected = Set::new();
                let others = self.nodes.iter().filter(|(other, _)| *other != number);
                for (_, other) in others {
                    for member in other.local.get(channel).into_iter().flat_map(Set::values) {
                        let best = expected.entry(member.key.clone());
                        let best = best.or_insert_with(|| member.clone());
                        if best.newness < member.newness {
                            *best = member.clone();
                        }
                    }
                }
                expected.extend(local.clone());
                let shown = &node.shown[channel];
                if *shown != expected {
                    let what = format!(
                        "node {number} shows of {channel} {:?}, not {:?}",
                        brief(shown),
                        brief(&expected)
                    );
                    return self.fault(what);
                }
            }
        }
    }
}

/// Members as (connection and id, newness), for people.
fn brief(set: &Set) -> Vec<String> {
    let members = set.values();
    members
        .map(|m| format!("{}/{}@{}", m.key.connection, m.key.id, m.newness.serial))
        .collect()
}
