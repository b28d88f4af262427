//! The relay's end in a node: what is here, and what is known of elsewhere.

use std::collections::{BTreeMap, VecDeque};

use headcount_model::{Fence, Incarnation, Monotonic, NodeId, Now, Stage};

use crate::config::Config;
use crate::io::{Action, Delivery, GatewayEffect, GatewayInput, Lost, Refusal};
use crate::member::{Change, Member, MemberKey, Message, RelayChannel};
use crate::messages::{GatewayItem, GatewayMessage, OwnerItem, OwnerMessage};
use crate::outbox::{Item, Outbox, Weight};
use crate::stream::{Heard, Inbound};

mod channel;
#[cfg(test)]
mod tests;

use channel::Channel;

/// What a gateway holds, and what it had to drop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatewayStats {
    /// Channels of interest.
    pub channels: usize,
    /// Members of this node.
    pub local_members: usize,
    /// Members of other nodes and regions.
    pub remote_members: usize,
    /// Bytes of published messages that wait for an owner.
    pub held_bytes: usize,
    /// Streams opened so far: one more with each trouble.
    pub streams: u64,
    /// Published messages dropped so far, for want of an owner.
    pub messages_dropped: u64,
    /// Remote members not taken so far, as their channel was full.
    pub members_dropped: u64,
}

/// The relay of one shard in one node. See the crate's documentation for its driver's duties.
#[derive(Debug)]
pub struct Gateway {
    config: Config,
    node: NodeId,
    incarnation: Incarnation,
    /// The highest fence heard of; 0 is none.
    fence: Fence,
    /// Whether the owner under that fence is reachable. Nothing is in the outbox while it is not.
    live: bool,
    stream: u64,
    /// Messages sent on the stream.
    sent: u64,
    answers: Inbound,
    channels: BTreeMap<RelayChannel, Channel>,
    /// What was published while there was no owner, with the end of its patience.
    held: VecDeque<(Monotonic, Message)>,
    held_bytes: usize,
    outbox: Outbox<GatewayItem>,
    messages_dropped: u64,
    members_dropped: u64,
}

impl Item for GatewayItem {
    fn changes(&mut self, wanted: &RelayChannel) -> Option<(&mut Vec<Change>, Option<&mut u64>)> {
        match self {
            Self::Changes { channel, changes } if channel == wanted => Some((changes, None)),
            _ => None,
        }
    }
}

impl Gateway {
    /// Makes the gateway of a node, with nothing attached and no owner known.
    #[must_use]
    pub fn new(config: Config, node: NodeId, incarnation: Incarnation) -> Self {
        Self {
            config,
            node,
            incarnation,
            fence: Fence(0),
            live: false,
            stream: 0,
            sent: 0,
            answers: Inbound::default(),
            channels: BTreeMap::new(),
            held: VecDeque::new(),
            held_bytes: 0,
            outbox: Outbox::default(),
            messages_dropped: 0,
            members_dropped: 0,
        }
    }

    /// Returns the channel's members: the local ones by key, then those elsewhere by key. Who is
    /// both is local.
    pub fn members(&self, channel: &RelayChannel) -> impl Iterator<Item = &Member> {
        self.channels.get(channel).into_iter().flat_map(|channel| {
            let remote = channel.remote.iter();
            let elsewhere = remote.filter(|(key, _)| !channel.local.contains_key(key));
            let elsewhere = elsewhere.map(|(_, member)| member);
            channel.local.values().chain(elsewhere)
        })
    }

    /// Returns how many [`Gateway::members`] there are; walks over the local ones.
    #[must_use]
    pub fn count(&self, channel: &RelayChannel) -> usize {
        self.channels.get(channel).map_or(0, |channel| {
            let both = channel.local.keys();
            let both = both.filter(|key| channel.remote.contains_key(*key)).count();
            channel.local.len() + channel.remote.len() - both
        })
    }

    /// Returns whether a member is among [`Gateway::members`].
    #[must_use]
    pub fn holds(&self, channel: &RelayChannel, key: &MemberKey) -> bool {
        self.channels.get(channel).is_some_and(|channel| {
            channel.local.contains_key(key) || channel.remote.contains_key(key)
        })
    }

    /// Returns how many members the channel has.
    #[must_use]
    pub fn members_held(&self, channel: &RelayChannel) -> usize {
        let channel = self.channels.get(channel);
        channel.map_or(0, |channel| channel.local.len() + channel.remote.len())
    }

    /// Returns whether an owner told the channel's set since the interest in it began; until then
    /// only local members are known.
    #[must_use]
    pub fn knows(&self, channel: &RelayChannel) -> bool {
        let channel = self.channels.get(channel);
        channel.is_some_and(|channel| channel.known)
    }

    /// Returns what the gateway holds; walks over its channels.
    #[must_use]
    pub fn stats(&self) -> GatewayStats {
        let channels = self.channels.values();
        GatewayStats {
            channels: self.channels.len(),
            local_members: channels.clone().map(|c| c.local.len()).sum(),
            remote_members: channels.map(|c| c.remote.len()).sum(),
            held_bytes: self.held_bytes,
            streams: self.stream,
            messages_dropped: self.messages_dropped,
            members_dropped: self.members_dropped,
        }
    }

    fn interest(&mut self, channel: RelayChannel, on: bool, effects: &mut Vec<GatewayEffect>) {
        if on == self.channels.contains_key(&channel) {
            return;
        }
        if on {
            let max = self.config.channels_max;
            if self.channels.len() >= max {
                effects.push(GatewayEffect::Refused {
                    channel,
                    member: None,
                    refusal: Refusal::ChannelsFull { max },
                });
                return;
            }
            self.channels.insert(channel.clone(), Channel::default());
        } else {
            self.channels.remove(&channel);
        }
        if self.live {
            let weight = Weight::channel(&channel);
            let item = GatewayItem::Interest { channel, on };
            self.outbox.push(item, weight);
        }
    }

    fn presence(&mut self, name: &RelayChannel, change: Change, effects: &mut Vec<GatewayEffect>) {
        let mut shown = Vec::new();
        let outcome = match self.channels.get_mut(name) {
            Some(channel) => channel.take_local(&change, self.config.members_max, &mut shown),
            None => Err(Refusal::NotInterested),
        };
        match outcome {
            Ok(told) if told && self.live => {
                push_change(&mut self.outbox, &self.config, name, change);
            }
            Ok(_) => {}
            Err(refusal) => effects.push(GatewayEffect::Refused {
                channel: name.clone(),
                member: Some(change.member().key.clone()),
                refusal,
            }),
        }
        deliver(name, shown, effects);
    }

    fn publish(&mut self, now: Monotonic, message: Message, effects: &mut Vec<GatewayEffect>) {
        let weight = Weight::message(&message);
        if self.live {
            let item = GatewayItem::Publish(message);
            self.outbox.push(item, weight);
            return;
        }
        self.held_bytes += weight.bytes();
        let until = now.after(self.config.held_for);
        self.held.push_back((until, message));
        while self.held_bytes > self.config.held_bytes_max {
            self.drop_held(effects);
        }
    }

    fn drop_held(&mut self, effects: &mut Vec<GatewayEffect>) {
        let (_, message) = self
            .held
            .pop_front()
            .expect("held bytes are of held messages");
        self.held_bytes -= Weight::message(&message).bytes();
        self.messages_dropped += 1;
        let (channel, lost) = (message.channel, Lost::Message);
        effects.push(GatewayEffect::Lost { channel, lost });
    }

    fn drop_members(&mut self, name: &RelayChannel, count: u64, effects: &mut Vec<GatewayEffect>) {
        if count > 0 {
            self.members_dropped += count;
            let (channel, lost) = (name.clone(), Lost::Members(count));
            effects.push(GatewayEffect::Lost { channel, lost });
        }
    }

    /// Starts a stream to the owner, and tells it everything (R13).
    fn open(&mut self) {
        self.live = true;
        self.stream += 1;
        self.sent = 0;
        self.answers = Inbound::of(self.stream);
        self.outbox.clear();
        for (name, channel) in &mut self.channels {
            channel.reopen();
            let item = GatewayItem::Interest {
                channel: name.clone(),
                on: true,
            };
            self.outbox.push(item, Weight::channel(name));
            for member in channel.local.values() {
                let change = Change::Put(member.clone());
                push_change(&mut self.outbox, &self.config, name, change);
            }
        }
        self.outbox.push(GatewayItem::Complete, Weight::bare());
        self.held_bytes = 0;
        for (_, message) in self.held.drain(..) {
            let weight = Weight::message(&message);
            self.outbox.push(GatewayItem::Publish(message), weight);
        }
    }

    fn close(&mut self) {
        self.live = false;
        self.outbox.clear();
    }

    fn hear_owner(&mut self, message: OwnerMessage, effects: &mut Vec<GatewayEffect>) {
        let current = message.fence == self.fence && message.stream == self.stream;
        if !self.live || !current {
            return;
        }
        if message.items == [OwnerItem::Restart] {
            return self.open();
        }
        match self.answers.hear(message.stream, message.sequence) {
            Heard::Opened | Heard::Next => {}
            Heard::Ignored => return,
            Heard::Hole => return self.open(),
        }
        let max = self.config.members_max;
        let mut shown = Vec::new();
        for item in message.items {
            match item {
                OwnerItem::Set {
                    channel: name,
                    members,
                    first,
                    last,
                } => {
                    if let Some(channel) = self.channels.get_mut(&name) {
                        let part = (first, last);
                        let dropped = channel.take_part(members, part, max, &mut shown);
                        self.drop_members(&name, dropped, effects);
                    }
                    deliver(&name, std::mem::take(&mut shown), effects);
                }
                OwnerItem::Changes {
                    channel: name,
                    changes,
                } => {
                    if let Some(channel) = self.channels.get_mut(&name) {
                        let dropped = channel.take_changes(changes, max, &mut shown);
                        self.drop_members(&name, dropped, effects);
                    }
                    deliver(&name, std::mem::take(&mut shown), effects);
                }
                OwnerItem::Message(message) => {
                    if self.channels.contains_key(&message.channel) {
                        effects.push(GatewayEffect::Deliver {
                            channel: message.channel.clone(),
                            delivery: Delivery::Message(message),
                        });
                    }
                }
                OwnerItem::Restart => return self.open(),
            }
        }
    }

    fn flush(&mut self, effects: &mut Vec<GatewayEffect>) {
        for items in self.outbox.take(&self.config) {
            self.sent += 1;
            effects.push(GatewayEffect::ToOwner(GatewayMessage {
                node: self.node,
                incarnation: self.incarnation,
                fence: self.fence,
                stream: self.stream,
                sequence: self.sent,
                items,
            }));
        }
    }
}

fn deliver(channel: &RelayChannel, shown: Vec<(Action, Member)>, effects: &mut Vec<GatewayEffect>) {
    effects.extend(shown.into_iter().map(|(action, member)| {
        let delivery = Delivery::Presence { action, member };
        let channel = channel.clone();
        GatewayEffect::Deliver { channel, delivery }
    }));
}

fn push_change(
    outbox: &mut Outbox<GatewayItem>,
    config: &Config,
    channel: &RelayChannel,
    change: Change,
) {
    outbox.push_change(config, channel, 0, change, |changes| GatewayItem::Changes {
        channel: channel.clone(),
        changes,
    });
}

impl Stage for Gateway {
    type Input = GatewayInput;
    type Effect = GatewayEffect;

    fn step(&mut self, now: Now, input: GatewayInput, effects: &mut Vec<GatewayEffect>) {
        match input {
            GatewayInput::Interest { channel, on } => self.interest(channel, on, effects),
            GatewayInput::Presence { channel, change } => self.presence(&channel, change, effects),
            GatewayInput::Publish(message) => self.publish(now.monotonic, message, effects),
            GatewayInput::Owner { fence } if fence >= self.fence => {
                self.fence = fence;
                self.open();
            }
            GatewayInput::OwnerLost { fence } if fence >= self.fence => {
                self.fence = fence;
                self.close();
            }
            GatewayInput::Owner { .. } | GatewayInput::OwnerLost { .. } => {}
            GatewayInput::FromOwner(message) => self.hear_owner(message, effects),
            GatewayInput::Reborn { incarnation } => {
                self.incarnation = incarnation;
                if self.live {
                    self.open();
                }
            }
        }
        self.flush(effects);
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        self.held.front().map(|(until, _)| *until)
    }

    fn on_deadline(&mut self, now: Now, effects: &mut Vec<GatewayEffect>) {
        while self.next_deadline().is_some_and(|at| at <= now.monotonic) {
            self.drop_held(effects);
        }
    }
}
