//! What the region's gateways say, and what becomes of those that are gone.

use std::collections::BTreeMap;

use headcount_model::{Incarnation, Monotonic, NodeId};

use crate::io::OwnerEffect;
use crate::member::{Change, Regions, RelayChannel};
use crate::messages::{GatewayItem, GatewayMessage, OwnerItem, OwnerMessage};
use crate::owner::{GatewayLink, Owner, Phase, Route};
use crate::roster::Source;
use crate::stream::Heard;

/// Most gateways without a lease that are remembered to have spoken. Far above the nodes of any
/// region; one that is not remembered is heard when it starts its next stream.
const REFUSED_MAX: usize = 1_024;

impl Owner {
    pub(super) fn set_live(
        &mut self,
        live: Vec<(NodeId, Incarnation)>,
        effects: &mut Vec<OwnerEffect>,
    ) {
        let live = BTreeMap::from_iter(live);
        let links = self.gateways.iter();
        let gone = links.filter(|(node, link)| live.get(node) != Some(&link.incarnation));
        let gone: Vec<NodeId> = gone.map(|(node, _)| *node).collect();
        for node in gone {
            self.drop_gateway(node);
        }
        for (node, incarnation) in &live {
            if let Some((spoke, stream)) = self.refused.remove(node)
                && spoke == *incarnation
            {
                effects.push(self.restart(*node, stream));
            }
        }
        self.live = Some(live);
    }

    pub(super) fn hear_gateway(
        &mut self,
        now: Monotonic,
        message: GatewayMessage,
        active: &[Regions],
        effects: &mut Vec<OwnerEffect>,
    ) {
        if !self.admit(&message, effects) {
            return;
        }
        let node = message.node;
        for (index, item) in message.items.into_iter().enumerate() {
            let active = active.get(index).map_or(&[][..], |regions| regions);
            match item {
                GatewayItem::Interest { channel, on: true } => {
                    self.add_interest(now, node, &channel);
                }
                GatewayItem::Interest { channel, on: false } => {
                    if let Some(link) = self.gateways.get_mut(&node) {
                        link.channels.remove(&channel);
                    }
                    self.remove_interest(node, &channel, Route::Active(active));
                }
                GatewayItem::Changes { channel, changes } => {
                    self.take_changes(node, &channel, &changes, Route::Active(active));
                }
                GatewayItem::Publish(message) => {
                    self.tell_gateways(&message, Some(node));
                    self.tell_regions(&message, active);
                }
                GatewayItem::Complete => self.complete(node),
            }
        }
    }

    /// Returns whether the message is to be taken; prepares for a new stream if it starts one.
    fn admit(&mut self, message: &GatewayMessage, effects: &mut Vec<OwnerEffect>) -> bool {
        let GatewayMessage {
            node,
            incarnation,
            stream,
            ..
        } = *message;
        if message.fence != self.fence {
            return false;
        }
        let live = self.live.as_ref().and_then(|live| live.get(&node));
        if live != Some(&incarnation) {
            if self.refused.len() < REFUSED_MAX || self.refused.contains_key(&node) {
                self.refused.insert(node, (incarnation, stream));
            }
            return false;
        }
        let link = self.gateways.entry(node);
        let link = link.or_insert_with(|| GatewayLink::new(incarnation));
        match link.inbound.hear(stream, message.sequence) {
            Heard::Opened => {
                self.round += 1;
                link.round = self.round;
                link.sent = 0;
                link.outbox.clear();
                true
            }
            Heard::Next => true,
            Heard::Ignored => false,
            Heard::Hole => {
                self.stats.holes += 1;
                // What was told before the hole stays until the new stream is complete.
                effects.push(self.restart(node, stream));
                false
            }
        }
    }

    fn restart(&self, node: NodeId, stream: u64) -> OwnerEffect {
        let message = OwnerMessage {
            fence: self.fence,
            stream,
            sequence: 0,
            items: vec![OwnerItem::Restart],
        };
        OwnerEffect::ToGateway { node, message }
    }

    fn add_interest(&mut self, now: Monotonic, node: NodeId, name: &RelayChannel) {
        let Some(link) = self.gateways.get_mut(&node) else {
            return;
        };
        let first = !self.channels.contains_key(name);
        if first && self.channels.len() >= self.config.channels_max {
            self.stats.interests_dropped += 1;
            return;
        }
        link.channels.insert(name.clone());
        let channel = self.channels.entry(name.clone());
        let channel = channel.or_default();
        channel.gateways.insert(node, link.round);
        if first {
            let regions: Vec<_> = self.peers.keys().cloned().collect();
            for region in regions {
                self.pull(&region, name);
            }
        }
        if !first {
            if self.channels.get(name).is_some_and(|channel| channel.open) {
                self.tell_set(node, name);
            }
        } else if self.phase == Phase::Serving && self.is_pulling(name) {
            let latest = now.after(self.config.pull_wait);
            self.waiting.insert((latest, name.clone()));
            if let Some(channel) = self.channels.get_mut(name) {
                channel.latest = Some(latest);
            }
        } else {
            self.open_channel(name);
        }
    }

    fn remove_interest(&mut self, node: NodeId, name: &RelayChannel, route: Route<'_>) {
        self.retain(name, &Source::Node(node), |_| false, route);
        if let Some(channel) = self.channels.get_mut(name) {
            channel.gateways.remove(&node);
            if channel.gateways.is_empty() {
                self.forget(name);
            }
        }
    }

    fn take_changes(
        &mut self,
        node: NodeId,
        name: &RelayChannel,
        changes: &[Change],
        route: Route<'_>,
    ) {
        let channel = self.channels.get(name);
        let Some(round) = channel.and_then(|c| c.gateways.get(&node)).copied() else {
            return; // the channel was one too many
        };
        for change in changes {
            self.change(name, &Source::Node(node), round, change, route);
        }
    }

    /// The gateway has told its whole set: what it did not mention on this stream is gone.
    fn complete(&mut self, node: NodeId) {
        let Some(link) = self.gateways.get_mut(&node) else {
            return;
        };
        link.complete = true;
        let round = link.round;
        let source = Source::Node(node);
        let mut gone = Vec::new();
        for name in link.channels.clone() {
            let channel = self.channels.get(&name);
            if channel.and_then(|c| c.gateways.get(&node)) == Some(&round) {
                self.retain(&name, &source, |h| h.round == round, Route::Everyone);
            } else {
                self.remove_interest(node, &name, Route::Everyone);
                gone.push(name);
            }
        }
        if let Some(link) = self.gateways.get_mut(&node) {
            link.channels.retain(|name| !gone.contains(name));
        }
    }

    fn drop_gateway(&mut self, node: NodeId) {
        if let Some(link) = self.gateways.remove(&node) {
            for name in link.channels {
                self.remove_interest(node, &name, Route::Everyone);
            }
        }
    }
}
