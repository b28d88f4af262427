//! The relay of a region: its own members by gateway, those of other regions, and who is told what.

use std::collections::{BTreeMap, BTreeSet};

use headcount_model::{Fence, Incarnation, Monotonic, NodeId, Now, RegionName, Stage};

use crate::config::Config;
use crate::io::{OwnerEffect, OwnerInput};
use crate::member::{Change, Member, MemberKey, Message, RelayChannel};
use crate::messages::{OwnerItem, RegionItem};
use crate::outbox::Weight;
use crate::roster::{Holding, Holdings, Roster, Source, difference, newest};
use crate::told::Told;

mod gateways;
#[cfg(test)]
mod invariants;
mod links;
mod regions;
#[cfg(test)]
mod tests;

use links::{GatewayLink, Peer, RegionLink};

/// What an owner holds, and what it had to drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnerStats {
    /// Whether its adoption is over: gateways are told sets.
    pub serving: bool,
    /// Channels in which gateways of the region are interested.
    pub channels: usize,
    /// Members of those channels, of all regions.
    pub members: usize,
    /// Interests told by other regions and held.
    pub told: usize,
    /// Sets of other regions that are pulled and have not come.
    pub pulls: usize,
    /// Members not taken so far, as their channel was full.
    pub members_dropped: u64,
    /// Interests of gateways and regions not held so far, as there were too many.
    pub interests_dropped: u64,
    /// Messages that could not go to a region so far, as its owner was not reachable.
    pub messages_dropped: u64,
    /// Messages missing in a stream so far; each costs a new stream.
    pub holes: u64,
}

/// How far a new owner is in learning what the one before it knew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not every live gateway has told its whole set: the region's set is not whole, and nobody is
    /// told it.
    Gathering,
    /// The region's set is whole, and other regions may have it. Their sets are not all here, and
    /// no gateway is told a set.
    Pulling,
    /// Everything is told.
    Serving,
}

/// A channel in which at least one gateway of the region is interested.
#[derive(Debug, Default)]
struct Channel {
    /// Who is interested, with the round of its stream in which it last said so.
    gateways: BTreeMap<NodeId, u64>,
    roster: Roster,
    /// Version of the region's own set: that of its last change, 0 while there was none.
    version: u64,
    /// What is known of other regions' sets.
    remotes: BTreeMap<RegionName, Remote>,
    /// Whether gateways are told the channel's set, and then its changes.
    open: bool,
    /// When it opens at the latest, if it waits for pulled sets.
    latest: Option<Monotonic>,
}

/// How much of another region's set of a channel is known.
#[derive(Debug, Default)]
struct Remote {
    /// The owner who told it; 0 if nobody did.
    fence: Fence,
    version: u64,
    /// The parts of a set so far, until its last.
    incoming: Option<BTreeMap<MemberKey, Member>>,
}

/// Where a change or a message goes besides to those who told their interest.
#[derive(Clone, Copy, Debug)]
enum Route<'a> {
    /// To these regions.
    Active(&'a [RegionName]),
    /// To every region: where it belongs was not looked up, since it is one of many and rare. Who
    /// is not interested ignores it.
    Everyone,
}

/// The relay of one shard in its regional owner. See the crate's documentation for its driver's
/// duties.
#[derive(Debug)]
pub struct Owner {
    config: Config,
    region: RegionName,
    fence: Fence,
    phase: Phase,
    /// When the adoption ends at the latest.
    cap: Monotonic,
    /// Who holds a lease; `None` until it was said.
    live: Option<BTreeMap<NodeId, Incarnation>>,
    gateways: BTreeMap<NodeId, GatewayLink>,
    /// Gateways that spoke without a lease, and the stream; they start anew once they have one.
    refused: BTreeMap<NodeId, (Incarnation, u64)>,
    /// Number of the last stream of any gateway; marks what was told on which.
    round: u64,
    /// Every other region that was heard of.
    peers: BTreeMap<RegionName, Peer>,
    /// Number of the last stream to any region.
    stream: u64,
    channels: BTreeMap<RelayChannel, Channel>,
    /// The last version given to any channel's set. Shared, so that a channel that is forgotten and
    /// comes back never has an old version again.
    version: u64,
    /// What other regions are interested in.
    told: Told,
    /// Sets that were pulled and have not come, of reachable regions.
    pulls: BTreeSet<(RegionName, RelayChannel)>,
    /// Channels that wait for pulled sets before they open, by when they open at the latest.
    waiting: BTreeSet<(Monotonic, RelayChannel)>,
    stats: OwnerStats,
}

impl Owner {
    /// Makes an owner that knows nothing and adopts from `start` on. `awaited` are the other regions
    /// that have an owner: until each is said to be reachable or lost, their sets may be missing.
    #[must_use]
    pub fn new(
        config: Config,
        region: RegionName,
        fence: Fence,
        awaited: impl IntoIterator<Item = RegionName>,
        start: Monotonic,
    ) -> Self {
        let cap = start.after(config.adoption_cap);
        let mut peers = BTreeMap::new();
        for awaited in awaited.into_iter().filter(|awaited| *awaited != region) {
            peers.insert(awaited, Peer::awaited());
        }
        Self {
            config,
            region,
            fence,
            phase: Phase::Gathering,
            cap,
            live: None,
            gateways: BTreeMap::new(),
            refused: BTreeMap::new(),
            round: 0,
            peers,
            stream: 0,
            channels: BTreeMap::new(),
            version: 0,
            told: Told::default(),
            pulls: BTreeSet::new(),
            waiting: BTreeSet::new(),
            stats: OwnerStats::default(),
        }
    }

    /// Returns what the owner holds; walks over its channels.
    #[must_use]
    pub fn stats(&self) -> OwnerStats {
        OwnerStats {
            serving: self.phase == Phase::Serving,
            channels: self.channels.len(),
            members: self.channels.values().map(|c| c.roster.len()).sum(),
            told: self.told.len(),
            pulls: self.pulls.len(),
            ..self.stats
        }
    }

    /// Takes what `source` says of a member, and tells everybody who sees the channel differently
    /// by it.
    fn change(
        &mut self,
        name: &RelayChannel,
        source: &Source,
        round: u64,
        change: &Change,
        route: Route<'_>,
    ) {
        let Some(channel) = self.channels.get_mut(name) else {
            return;
        };
        let key = &change.member().key;
        let before = Holdings::from(channel.roster.holdings(key));
        match change {
            Change::Put(member) => {
                let holding = Holding {
                    source: source.clone(),
                    round,
                    member: member.clone(),
                };
                if !channel.roster.put(holding, self.config.members_max) {
                    self.stats.members_dropped += 1;
                    return;
                }
            }
            Change::Leave(_) => channel.roster.remove(source, key),
        }
        let after = channel.roster.holdings(key);

        let seen = Source::is_node;
        if let Some(own) = difference(newest(&before, seen), newest(after, seen), change) {
            self.version += 1;
            let previous = std::mem::replace(&mut channel.version, self.version);
            if self.phase != Phase::Gathering {
                for (region, peer) in &mut self.peers {
                    let wanted = route.reaches(region) || self.told.contains(name, region);
                    if let Some(link) = peer.link.as_mut().filter(|_| wanted) {
                        let own = own.clone();
                        link.push_change(&self.config, name, previous, self.version, own);
                    }
                }
            }
        }
        if channel.open {
            for node in channel.gateways.keys() {
                let itself = Source::Node(*node);
                let seen = |source: &Source| *source != itself;
                if let Some(change) = difference(newest(&before, seen), newest(after, seen), change)
                    && let Some(link) = self.gateways.get_mut(node)
                {
                    link.push_change(&self.config, name, change);
                }
            }
        }
    }

    /// Makes `source` hold nothing of the channel but `set`.
    fn replace(
        &mut self,
        name: &RelayChannel,
        source: &Source,
        set: BTreeMap<MemberKey, Member>,
        route: Route<'_>,
    ) {
        self.retain(
            name,
            source,
            |holding| set.contains_key(&holding.member.key),
            route,
        );
        for member in set.into_values() {
            self.change(name, source, 0, &Change::Put(member), route);
        }
    }

    /// Takes away what `source` holds of the channel and `kept` does not let through.
    fn retain(
        &mut self,
        name: &RelayChannel,
        source: &Source,
        kept: impl Fn(&Holding) -> bool,
        route: Route<'_>,
    ) {
        let Some(channel) = self.channels.get(name) else {
            return;
        };
        let gone = channel
            .roster
            .held_by(source)
            .filter(|holding| !kept(holding));
        let gone: Vec<Member> = gone.map(|holding| holding.member.clone()).collect();
        for member in gone {
            self.change(name, source, 0, &Change::Leave(member), route);
        }
    }

    /// Gives a message to the region's interested gateways, save the one that it came from.
    fn tell_gateways(&mut self, message: &Message, from: Option<NodeId>) {
        let Some(channel) = self.channels.get(&message.channel) else {
            return;
        };
        for node in channel.gateways.keys().filter(|node| from != Some(**node)) {
            if let Some(link) = self.gateways.get_mut(node) {
                let item = OwnerItem::Message(message.clone());
                link.outbox.push(item, Weight::message(message));
            }
        }
    }

    /// Gives a message to the other regions that have to do with its channel.
    fn tell_regions(&mut self, message: &Message, active: &[RegionName]) {
        let told = self.told.regions(&message.channel);
        let regions: BTreeSet<&RegionName> = active.iter().chain(told).collect();
        for region in regions.into_iter().filter(|region| **region != self.region) {
            let link = self.peers.get_mut(region).and_then(|p| p.link.as_mut());
            if let Some(link) = link {
                let item = RegionItem::Message(message.clone());
                link.outbox.push(item, Weight::message(message));
            } else {
                self.stats.messages_dropped += 1;
            }
        }
    }

    /// Tells a gateway the whole set of a channel as others have it.
    fn tell_set(&mut self, node: NodeId, name: &RelayChannel) {
        let channel = self.channels.get(name);
        let link = self.gateways.get_mut(&node);
        if let (Some(channel), Some(link)) = (channel, link) {
            let itself = Source::Node(node);
            let members = channel.roster.view(|source| *source != itself);
            link.push_set(&self.config, name, members);
        }
    }

    /// Opens a channel: its gateways are told its set.
    fn open_channel(&mut self, name: &RelayChannel) {
        let channel = self.channels.get_mut(name).filter(|c| !c.open);
        if let Some(channel) = channel.filter(|_| self.phase == Phase::Serving) {
            channel.open = true;
            if let Some(latest) = channel.latest.take() {
                self.waiting.remove(&(latest, name.clone()));
            }
            let nodes: Vec<NodeId> = channel.gateways.keys().copied().collect();
            for node in nodes {
                self.tell_set(node, name);
            }
        }
    }

    /// Returns whether another region's set of the channel is on its way, as far as is known.
    fn is_pulling(&self, name: &RelayChannel) -> bool {
        let ready = self.peers.iter().filter(|(_, peer)| peer.ready);
        let mut ready = ready.map(|(region, _)| (region.clone(), name.clone()));
        ready.any(|pull| self.pulls.contains(&pull))
    }

    /// Pulls a region's set of a channel, and tells the region that the channel is of interest.
    fn pull(&mut self, region: &RegionName, name: &RelayChannel) {
        let link = self.peers.get_mut(region).and_then(|p| p.link.as_mut());
        let (Some(link), Some(channel)) = (link, self.channels.get(name)) else {
            return; // everything is pulled when the region becomes reachable
        };
        let known = channel.remotes.get(region);
        let item = RegionItem::Interest {
            channel: name.clone(),
            fence: known.map_or(Fence(0), |known| known.fence),
            version: known.map_or(0, |known| known.version),
        };
        link.outbox.push(item, Weight::channel(name));
        self.pulls.insert((region.clone(), name.clone()));
    }

    /// Forgets a channel in which no gateway is interested any more.
    fn forget(&mut self, name: &RelayChannel) {
        let latest = self.channels.remove(name).and_then(|c| c.latest);
        if let Some(latest) = latest {
            self.waiting.remove(&(latest, name.clone()));
        }
        for region in self.peers.keys() {
            self.pulls.remove(&(region.clone(), name.clone()));
        }
    }

    /// Goes on to the next phases if what the current one waits for has come, or is waited for no
    /// longer.
    fn advance(&mut self, now: Monotonic) {
        let over = now >= self.cap;
        if self.phase == Phase::Gathering && (over || self.is_gathered()) {
            self.phase = Phase::Pulling;
            for link in self.peers.values_mut().filter_map(|p| p.link.as_mut()) {
                link.outbox.push(RegionItem::Ready, Weight::bare());
            }
        }
        if self.phase == Phase::Pulling && (over || self.is_pulled()) {
            self.phase = Phase::Serving;
            let names: Vec<RelayChannel> = self.channels.keys().cloned().collect();
            for name in names {
                self.open_channel(&name);
            }
        }
        while self.waiting.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, name)) = self.waiting.pop_first() {
                self.open_channel(&name);
            }
        }
    }

    fn is_gathered(&self) -> bool {
        self.live.as_ref().is_some_and(|live| {
            let links = live.keys().map(|node| self.gateways.get(node));
            links
                .into_iter()
                .all(|link| link.is_some_and(|link| link.complete))
        })
    }

    fn is_pulled(&self) -> bool {
        self.pulls.is_empty() && !self.peers.values().any(|peer| peer.awaited)
    }

    fn flush(&mut self, effects: &mut Vec<OwnerEffect>) {
        for (node, link) in &mut self.gateways {
            link.flush(&self.config, self.fence, *node, effects);
        }
        for (region, peer) in &mut self.peers {
            if let Some(link) = &mut peer.link {
                link.flush(&self.config, (&self.region, self.fence), region, effects);
            }
        }
    }
}

impl Route<'_> {
    fn reaches(self, region: &RegionName) -> bool {
        match self {
            Self::Active(regions) => regions.contains(region),
            Self::Everyone => true,
        }
    }
}

impl Stage for Owner {
    type Input = OwnerInput;
    type Effect = OwnerEffect;

    fn step(&mut self, now: Now, input: OwnerInput, effects: &mut Vec<OwnerEffect>) {
        let now = now.monotonic;
        match input {
            OwnerInput::Gateways { live } => self.set_live(live, effects),
            OwnerInput::FromGateway { message, active } => {
                self.hear_gateway(now, message, &active, effects);
            }
            OwnerInput::RegionOwner { region, fence } => self.region_owner(&region, fence),
            OwnerInput::RegionLost { region, fence } => self.region_lost(&region, fence),
            OwnerInput::RegionExpired { region, fence } => self.region_expired(&region, fence),
            OwnerInput::FromRegion(message) => self.hear_region(now, message),
            OwnerInput::Activated { activations } => self.activate(&activations),
        }
        self.advance(now);
        self.flush(effects);
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        let cap = (self.phase != Phase::Serving).then_some(self.cap);
        let waiting = self.waiting.first().map(|(at, _)| *at);
        let told = self.told.next_deadline();
        cap.into_iter().chain(waiting).chain(told).min()
    }

    fn on_deadline(&mut self, now: Now, effects: &mut Vec<OwnerEffect>) {
        let now = now.monotonic;
        self.told.expire(now);
        self.advance(now);
        self.flush(effects);
    }
}
