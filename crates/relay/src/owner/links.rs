//! The owner's ways to its gateways and to other regions' owners.

use std::collections::BTreeSet;

use headcount_model::{Fence, Incarnation, NodeId, RegionName};

use crate::config::Config;
use crate::io::OwnerEffect;
use crate::member::{Change, Member, RelayChannel};
use crate::messages::{OwnerItem, OwnerMessage, RegionItem, RegionMessage};
use crate::outbox::{Item, Outbox, Weight};
use crate::stream::Inbound;

/// A gateway that speaks to the owner.
#[derive(Debug)]
pub(super) struct GatewayLink {
    pub(super) incarnation: Incarnation,
    pub(super) inbound: Inbound,
    /// The owner's number for the gateway's current stream.
    pub(super) round: u64,
    /// Whether it told a whole set on any stream of the incarnation.
    pub(super) complete: bool,
    /// What it is interested in.
    pub(super) channels: BTreeSet<RelayChannel>,
    pub(super) outbox: Outbox<OwnerItem>,
    /// Messages sent in answer to the current stream.
    pub(super) sent: u64,
}

impl GatewayLink {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            inbound: Inbound::default(),
            round: 0,
            complete: false,
            channels: BTreeSet::new(),
            outbox: Outbox::default(),
            sent: 0,
        }
    }

    pub(super) fn push_change(&mut self, config: &Config, channel: &RelayChannel, change: Change) {
        self.outbox
            .push_change(config, channel, 0, change, |changes| OwnerItem::Changes {
                channel: channel.clone(),
                changes,
            });
    }

    pub(super) fn push_set<'a>(
        &mut self,
        config: &Config,
        channel: &RelayChannel,
        members: impl Iterator<Item = &'a Member>,
    ) {
        self.outbox
            .push_set(config, channel, members, |members, first, last| {
                OwnerItem::Set {
                    channel: channel.clone(),
                    members,
                    first,
                    last,
                }
            });
    }

    pub(super) fn flush(
        &mut self,
        config: &Config,
        fence: Fence,
        node: NodeId,
        effects: &mut Vec<OwnerEffect>,
    ) {
        let stream = self.inbound.stream();
        for items in self.outbox.take(config) {
            self.sent += 1;
            let message = OwnerMessage {
                fence,
                stream,
                sequence: self.sent,
                items,
            };
            effects.push(OwnerEffect::ToGateway { node, message });
        }
    }
}

/// The owner of another region.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// The highest fence heard of.
    pub(super) fence: Fence,
    /// What carries this fence or a lower one is void.
    pub(super) expired: Fence,
    /// What is heard from the owner under `fence`.
    pub(super) inbound: Inbound,
    /// The way to it, while it is reachable.
    pub(super) link: Option<RegionLink>,
    /// Whether it said on its current stream that its sets may be pulled.
    pub(super) ready: bool,
    /// Whether nothing was said yet of its being reachable.
    pub(super) awaited: bool,
}

impl Peer {
    pub(super) fn awaited() -> Self {
        Self {
            awaited: true,
            ..Self::default()
        }
    }
}

/// A stream to the owner of another region.
#[derive(Debug)]
pub(super) struct RegionLink {
    /// Its fence.
    pub(super) to: Fence,
    pub(super) stream: u64,
    pub(super) outbox: Outbox<RegionItem>,
    sent: u64,
}

impl RegionLink {
    pub(super) fn new(to: Fence, stream: u64) -> Self {
        Self {
            to,
            stream,
            outbox: Outbox::default(),
            sent: 0,
        }
    }

    pub(super) fn push_change(
        &mut self,
        config: &Config,
        channel: &RelayChannel,
        previous: u64,
        version: u64,
        change: Change,
    ) {
        let make = |changes| RegionItem::Changes {
            channel: channel.clone(),
            previous,
            version,
            changes,
        };
        self.outbox
            .push_change(config, channel, version, change, make);
    }

    pub(super) fn push_set<'a>(
        &mut self,
        config: &Config,
        channel: &RelayChannel,
        version: u64,
        members: impl Iterator<Item = &'a Member>,
    ) {
        self.outbox
            .push_set(config, channel, members, |members, first, last| {
                RegionItem::Set {
                    channel: channel.clone(),
                    version,
                    members,
                    first,
                    last,
                }
            });
    }

    /// Says that the version is still the current one.
    pub(super) fn push_same(&mut self, channel: &RelayChannel, version: u64) {
        let item = RegionItem::Changes {
            channel: channel.clone(),
            previous: version,
            version,
            changes: Vec::new(),
        };
        self.outbox.push(item, Weight::channel(channel));
    }

    pub(super) fn flush(
        &mut self,
        config: &Config,
        (own, fence): (&RegionName, Fence),
        region: &RegionName,
        effects: &mut Vec<OwnerEffect>,
    ) {
        for items in self.outbox.take(config) {
            self.sent += 1;
            let message = RegionMessage {
                region: own.clone(),
                fence,
                to: self.to,
                stream: self.stream,
                sequence: self.sent,
                items,
            };
            effects.push(OwnerEffect::ToRegion {
                region: region.clone(),
                message,
            });
        }
    }
}

impl Item for OwnerItem {
    fn changes(&mut self, wanted: &RelayChannel) -> Option<(&mut Vec<Change>, Option<&mut u64>)> {
        match self {
            Self::Changes { channel, changes } if channel == wanted => Some((changes, None)),
            _ => None,
        }
    }
}

impl Item for RegionItem {
    fn changes(&mut self, wanted: &RelayChannel) -> Option<(&mut Vec<Change>, Option<&mut u64>)> {
        match self {
            Self::Changes {
                channel,
                version,
                changes,
                ..
            } if channel == wanted => Some((changes, Some(version))),
            _ => None,
        }
    }
}
