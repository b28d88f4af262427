//! The owner: its phases, its decisions about each channel, and its deadlines.

use std::collections::{BTreeMap, BTreeSet};

use headcount_model::mutants::Mutant;
use headcount_model::{
    ChannelKey, Fence, GatewayAck, GatewayItem, GatewayUpdate, Incarnation, Monotonic, NodeId, Now,
    Occupancy, RegionName, ShardId, SourceId, Stage, Transition,
};

use crate::sources::{Source, SourceIndex, Sources};
use crate::table::{Activity, Channel, Channels, Registered};
use crate::{Config, Effect, Input};

/// Owner: the node whose replica speaks for its region and shard, under one fence.
#[derive(Clone, Debug)]
pub struct Owner {
    config: Config,
    region: RegionName,
    shard: ShardId,
    fence: Fence,
    phase: Phase,
    coordinator_here: bool,
    /// Number of the last transition (R3).
    number: u64,
    gateways: BTreeMap<NodeId, Gateway>,
    sources: Sources,
    channels: Channels,
    /// Lingering channels by when they go inactive. Derived from the channels.
    lingering: BTreeSet<(Monotonic, ChannelKey)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The claim is not applied yet: takes updates in, says nothing (R1).
    Claiming,
    /// Publishes no decrease until every gateway is complete (R9), or until this time.
    Adopting(Monotonic),
    /// The region is what its gateways say.
    Settled,
}

/// A node of the region that holds a lease.
#[derive(Clone, Copy, Debug, Default)]
struct Gateway {
    incarnation: Incarnation,
    stream: u64,
    sequence: u64,
    /// Its whole set was told on the present stream.
    complete: bool,
    /// Its recovery time is over: what it lacks is gone.
    recovered: bool,
}

/// Who says an update's items.
struct Speaker {
    node: NodeId,
    incarnation: Incarnation,
    stream: u64,
    /// The source of the last register, and where it is: mostly that of the next one too. Forgotten
    /// with every item that may take sources out.
    last: Option<(SourceId, SourceIndex)>,
}

impl Owner {
    /// Makes an owner that has yet to claim.
    #[must_use]
    pub fn new(config: Config, region: RegionName, shard: ShardId, fence: Fence) -> Self {
        Self {
            config,
            region,
            shard,
            fence,
            phase: Phase::Claiming,
            coordinator_here: false,
            number: 0,
            gateways: BTreeMap::new(),
            sources: Sources::default(),
            channels: Channels::new(config.hash_seed),
            lingering: BTreeSet::new(),
        }
    }

    /// Returns the region that it speaks for.
    #[must_use]
    pub fn region(&self) -> &RegionName {
        &self.region
    }

    /// Returns the shard that it speaks about.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Returns the fence that it holds.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Returns whether its claim was applied.
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        self.phase != Phase::Claiming
    }

    /// Returns whether its adoption is over.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.phase == Phase::Settled
    }

    /// Returns a channel's published counts, `None` while it is inactive in the region.
    #[must_use]
    pub fn published(&self, channel: &ChannelKey) -> Option<Occupancy> {
        self.channels
            .get(channel)
            .filter(|channel| channel.is_active())
            .map(|channel| channel.published.get())
    }

    /// Returns how many channels are active in the region.
    #[must_use]
    pub fn active(&self) -> usize {
        let active = self
            .channels
            .iter()
            .filter(|(_, channel)| channel.is_active());
        active.count()
    }

    fn claimed(&mut self, now: Now, base: Vec<(ChannelKey, Occupancy)>, effects: &mut Vec<Effect>) {
        if self.is_claimed() {
            return;
        }
        self.phase = Phase::Adopting(now.monotonic.after(self.config.adoption_cap));
        for (key, occupancy) in base {
            let channel = self.channels.get_or_add(&key);
            channel.activity = Activity::ACTIVE;
            channel.published = occupancy.into();
        }
        let keys = self.keys();
        self.decide(now, keys, effects);
        self.end_adoption(now, false, effects);
    }

    fn gateways(&mut self, now: Now, live: &[(NodeId, Incarnation)], effects: &mut Vec<Effect>) {
        let dead: Vec<NodeId> = self
            .gateways
            .keys()
            .copied()
            .filter(|node| live.iter().all(|(live, _)| live != node))
            .collect();
        for node in dead {
            self.gateways.remove(&node);
            self.end_sources(|source| source.node == node);
        }
        for (node, incarnation) in live {
            let known = self.gateways.entry(*node).or_default();
            if known.incarnation < *incarnation {
                // What its former life registered stays until this one has recovered (R9).
                *known = Gateway {
                    incarnation: *incarnation,
                    ..Gateway::default()
                };
            }
        }
        self.decide(now, Vec::new(), effects);
        self.end_adoption(now, false, effects);
    }

    fn update(&mut self, now: Now, update: GatewayUpdate, effects: &mut Vec<Effect>) {
        let GatewayUpdate {
            node,
            incarnation,
            fence,
            stream,
            sequence,
            items,
        } = update;
        let Some(gateway) = self.gateways.get_mut(&node) else {
            return;
        };
        if fence != self.fence || incarnation != gateway.incarnation || stream < gateway.stream {
            return;
        }
        if stream > gateway.stream {
            if sequence != 1 {
                return;
            }
            *gateway = Gateway {
                stream,
                sequence: 0,
                complete: false,
                ..*gateway
            };
        }
        if sequence == gateway.sequence + 1 {
            gateway.sequence = sequence;
            let mut touched = Vec::with_capacity(items.len());
            let mut speaker = Speaker {
                node,
                incarnation,
                stream,
                last: None,
            };
            for item in items {
                self.item(now, &mut speaker, item, &mut touched);
            }
            self.decide(now, touched, effects);
        }
        let sequence = self.gateways[&node].sequence;
        let ack = GatewayAck {
            fence,
            stream,
            sequence,
        };
        effects.push(Effect::Acknowledge { node, ack });
        self.end_adoption(now, false, effects);
    }

    fn item(
        &mut self,
        now: Now,
        speaker: &mut Speaker,
        item: GatewayItem,
        touched: &mut Vec<ChannelKey>,
    ) {
        let Speaker {
            node,
            incarnation,
            stream,
            ..
        } = *speaker;
        match item {
            GatewayItem::Register {
                source,
                channel,
                occupancy,
            } => {
                let known = speaker.last.as_ref().filter(|(last, _)| *last == source);
                let known = known.map(|(_, index)| *index);
                let admitted = known.or_else(|| self.sources.admit(&source, node, incarnation));
                let Some(index) = admitted else {
                    return;
                };
                if known.is_none() {
                    speaker.last = Some((source, index));
                }
                let source = index;
                let registered = Registered {
                    source,
                    stream: tag(stream),
                    occupancy: occupancy.into(),
                };
                self.channels.get_or_add(&channel).register(registered);
                touched.push(channel);
            }
            GatewayItem::SourceComplete(source) => {
                speaker.last = None;
                let Some(source) = self.sources.admit(&source, node, incarnation) else {
                    return;
                };
                let older = self.sources.complete(source, stream);
                if !Mutant::TakeoverAdds.is_planted() {
                    self.sources.end_all(older);
                }
            }
            GatewayItem::SourceEnded(source) => {
                speaker.last = None;
                let Some(source) = self.sources.admit(&source, node, incarnation) else {
                    return;
                };
                self.sources.end_all([source]);
            }
            GatewayItem::Activity(channel) => self.renew(now, &channel),
            GatewayItem::StreamComplete => {
                speaker.last = None;
                self.gateway(node).complete = true;
                self.drop_unmentioned(node, incarnation, stream, touched);
            }
            GatewayItem::Recovered => {
                speaker.last = None;
                self.gateway(node).recovered = true;
                // What its former lives registered and nobody has taken over.
                self.end_sources(|source| source.node == node && source.incarnation != incarnation);
            }
        }
    }

    fn gateway(&mut self, node: NodeId) -> &mut Gateway {
        self.gateways
            .get_mut(&node)
            .expect("only called for a gateway that just spoke")
    }

    /// Takes away what a gateway registered before this stream and did not mention on it.
    ///
    /// Sources that have no registers then end, save those that the stream said to be complete:
    /// they stand for an edge that has nothing here, and keep its older sessions away.
    fn drop_unmentioned(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        stream: u64,
        touched: &mut Vec<ChannelKey>,
    ) {
        let sources = &self.sources;
        let is_theirs = |source: &Source| source.node == node && source.incarnation == incarnation;
        let mut mentioned = BTreeSet::new();
        let before_walk = touched.len();
        for (app, channel) in self.channels.iter_mut() {
            let changed = channel.registered.retain(|entry| {
                let stays = entry.stream == tag(stream) || !is_theirs(sources.get(entry.source));
                if stays {
                    mentioned.insert(entry.source);
                }
                stays
            });
            if changed {
                touched.push(channel.key(app));
            }
        }
        touched[before_walk..].sort_unstable();
        let theirs = sources.iter().filter(|(_, source)| is_theirs(source));
        let unnamed = theirs
            .map(|(index, _)| index)
            .filter(|index| !mentioned.contains(index) && !sources.is_complete_on(*index, stream));
        let unnamed: Vec<SourceIndex> = unnamed.collect();
        self.sources.end_all(unnamed);
    }

    fn end_sources(&mut self, wanted: impl Fn(&Source) -> bool) {
        let ended = self.sources.iter().filter(|(_, source)| wanted(source));
        let ended: Vec<SourceIndex> = ended.map(|(index, _)| index).collect();
        self.sources.end_all(ended);
    }

    /// Takes out the registers of sources that have ended, and finds the channels of those that
    /// began or ceased to count: once for all that one input said, since it looks at every channel.
    fn sweep(&mut self, touched: &mut Vec<ChannelKey>) {
        if !self.sources.is_unsettled() {
            return;
        }
        let sources = &self.sources;
        let before_walk = touched.len();
        for (app, channel) in self.channels.iter_mut() {
            let mut changed = false;
            channel.registered.retain(|entry| {
                let source = sources.get(entry.source);
                changed |= source.ended || source.changed;
                !source.ended
            });
            if changed {
                touched.push(channel.key(app));
            }
        }
        touched[before_walk..].sort_unstable();
        self.sources.settle();
    }

    /// Returns all channels, ascending: the order in the table is nobody's business.
    fn keys(&self) -> Vec<ChannelKey> {
        let keys = self.channels.iter().map(|(app, channel)| channel.key(app));
        let mut keys: Vec<ChannelKey> = keys.collect();
        keys.sort_unstable();
        keys
    }

    /// Decides about each touched channel whether it goes active, changes counts or lingers. One
    /// that was touched twice is decided once: the second time nothing has changed.
    fn decide(&mut self, now: Now, mut touched: Vec<ChannelKey>, effects: &mut Vec<Effect>) {
        self.sweep(&mut touched);
        if !self.is_claimed() {
            return;
        }
        let settled = self.is_settled();
        for key in touched {
            let Some(channel) = self.channels.get_mut(&key) else {
                continue;
            };
            let mut sum = channel.sum(&self.sources);
            let (published, was_active) = (channel.published.get(), channel.is_active());
            if !settled && was_active {
                // Whoever is missing may be with a gateway that is not complete (R9).
                sum = sum.max(published);
            }
            let activates = !was_active && !sum.is_zero();
            let changes = was_active && sum != published;
            let crossing = published.crosses(&sum);
            if activates {
                channel.activity = Activity::ACTIVE;
            }
            if activates || changes {
                channel.published = sum.into();
            }
            let lingers = settled && channel.is_active() && sum.is_zero();
            let rests = lingers == channel.inactive_at().is_some() && !channel.is_idle();
            if activates {
                self.transition(now, &key, true, sum, effects);
            }
            let register = |channel| Effect::Register {
                channel,
                occupancy: sum,
                crossing,
            };
            if rests {
                effects.extend(changes.then(|| register(key)));
            } else {
                effects.extend(changes.then(|| register(key.clone())));
                self.linger(now, &key, lingers, effects);
            }
        }
    }

    /// Starts, stops or ends a channel's linger, as its counts ask for.
    fn linger(&mut self, now: Now, key: &ChannelKey, wanted: bool, effects: &mut Vec<Effect>) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        match (wanted, channel.inactive_at()) {
            (true, None) if self.config.linger.is_zero() => self.deactivate(now, key, effects),
            (true, None) => {
                let at = now.monotonic.after(self.config.linger);
                channel.activity = Activity::lingering(at);
                self.lingering.insert((at, key.clone()));
            }
            (false, Some(at)) => {
                channel.activity = Activity::ACTIVE;
                self.lingering.remove(&(at, key.clone()));
            }
            (true, Some(_)) | (false, None) => {}
        }
        if self.channels.get(key).is_some_and(Channel::is_idle) {
            self.channels.remove(key);
        }
    }

    /// Makes a lingering channel linger anew.
    fn renew(&mut self, now: Now, key: &ChannelKey) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        let Some(at) = channel.inactive_at() else {
            return;
        };
        let later = now.monotonic.after(self.config.linger);
        channel.activity = Activity::lingering(later);
        self.lingering.remove(&(at, key.clone()));
        self.lingering.insert((later, key.clone()));
    }

    fn deactivate(&mut self, now: Now, key: &ChannelKey, effects: &mut Vec<Effect>) {
        let Some(channel) = self.channels.get_mut(key) else {
            return;
        };
        channel.activity = Activity::INACTIVE;
        self.transition(now, key, false, Occupancy::ZERO, effects);
        if self.channels.get(key).is_some_and(Channel::is_idle) {
            self.channels.remove(key);
        }
    }

    fn transition(
        &mut self,
        now: Now,
        key: &ChannelKey,
        active: bool,
        occupancy: Occupancy,
        effects: &mut Vec<Effect>,
    ) {
        self.number += 1;
        effects.push(Effect::Transition(Transition {
            number: self.number,
            channel: key.clone(),
            active,
            occupancy,
            at: now.wall,
            is_global_master: self.coordinator_here,
        }));
    }

    /// Ends the adoption once every gateway is complete, or when its time is up (R9).
    fn end_adoption(&mut self, now: Now, capped: bool, effects: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Adopting(_)) {
            return;
        }
        let incomplete = self
            .gateways
            .iter()
            .filter(|(_, g)| !(g.complete && g.recovered));
        let missing: Vec<NodeId> = incomplete.map(|(node, _)| *node).collect();
        let waiting = self.gateways.is_empty() || !missing.is_empty();
        if waiting && !capped && !Mutant::AdoptionEndsAtOnce.is_planted() {
            return;
        }
        self.phase = Phase::Settled;
        let all = self.keys();
        self.decide(now, all, effects);
        effects.push(Effect::Settled { missing });
    }
}

impl Stage for Owner {
    type Input = Input;
    type Effect = Effect;

    fn step(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Claimed { base } => self.claimed(now, base, effects),
            Input::Gateways { live } => self.gateways(now, &live, effects),
            Input::Update(update) => self.update(now, update, effects),
            Input::CoordinatorHere(here) => self.coordinator_here = here,
        }
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        let linger = self.lingering.first().map(|(at, _)| *at);
        let cap = match self.phase {
            Phase::Adopting(until) => Some(until),
            Phase::Claiming | Phase::Settled => None,
        };
        linger.into_iter().chain(cap).min()
    }

    fn on_deadline(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while self
            .lingering
            .first()
            .is_some_and(|(at, _)| *at <= now.monotonic)
        {
            let (_, key) = self.lingering.pop_first().expect("it was just seen");
            self.deactivate(now, &key, effects);
        }
        if matches!(self.phase, Phase::Adopting(until) if until <= now.monotonic) {
            self.end_adoption(now, true, effects);
        }
    }
}

/// Shortens a stream's number to what a register holds of it.
fn tag(stream: u64) -> u32 {
    stream as u32
}
