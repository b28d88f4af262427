//! What owners of other regions say, and what becomes of regions that are gone.

use std::collections::BTreeMap;

use headcount_model::{Fence, Monotonic, RegionName};

use crate::member::{Change, Member, RelayChannel};
use crate::messages::{RegionItem, RegionMessage};
use crate::outbox::Weight;
use crate::owner::{Owner, Peer, Phase, RegionLink, Route};
use crate::roster::Source;
use crate::stream::{Heard, Inbound};

/// What another region says is for this region's gateways, and goes to no other region.
const NOWHERE: Route<'static> = Route::Active(&[]);

impl Owner {
    pub(super) fn region_owner(&mut self, region: &RegionName, fence: Fence) {
        if *region == self.region || !self.meet(region, fence) {
            return;
        }
        self.open(region);
    }

    pub(super) fn region_lost(&mut self, region: &RegionName, fence: Fence) {
        let peer = self.peers.get_mut(region);
        if let Some(peer) = peer.filter(|peer| peer.fence <= fence) {
            peer.link = None;
            peer.awaited = false;
            self.stop_pulls(region);
        }
    }

    pub(super) fn region_expired(&mut self, region: &RegionName, fence: Fence) {
        let peer = self.peers.entry(region.clone()).or_default();
        if peer.fence > fence {
            return;
        }
        *peer = Peer {
            fence,
            expired: fence,
            ..Peer::default()
        };
        self.told.drop_all(region);
        self.stop_pulls(region);
        let names: Vec<RelayChannel> = self.channels.keys().cloned().collect();
        for name in names {
            let source = Source::Region(region.clone());
            self.retain(&name, &source, |_| false, NOWHERE);
            if let Some(channel) = self.channels.get_mut(&name) {
                channel.remotes.remove(region);
            }
        }
    }

    pub(super) fn hear_region(&mut self, now: Monotonic, message: RegionMessage) {
        let RegionMessage {
            region,
            fence,
            to,
            stream,
            sequence,
            items,
        } = message;
        if to != self.fence || region == self.region || !self.meet(&region, fence) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        match peer.inbound.hear(stream, sequence) {
            // What it is interested in comes again.
            Heard::Opened => {
                peer.ready = false;
                self.told.drop_all(&region);
            }
            Heard::Next => {}
            Heard::Ignored => return,
            Heard::Hole => {
                self.stats.holes += 1;
                if let Some(link) = &mut peer.link {
                    let item = RegionItem::Restart { stream };
                    link.outbox.push(item, Weight::bare());
                }
                return;
            }
        }
        for item in items {
            self.take(now, &region, item);
        }
    }

    /// The log knows of these interests from now on; before, changes may have gone without them.
    pub(super) fn activate(&mut self, activations: &[(RegionName, RelayChannel)]) {
        for (region, name) in activations {
            self.told.drop(name, region);
            if self.phase == Phase::Gathering {
                continue; // it will pull everything
            }
            let version = self.channels.get(name).map_or(0, |channel| channel.version);
            let link = self.peers.get_mut(region).and_then(|p| p.link.as_mut());
            if let Some(link) = link {
                link.push_same(name, version);
            }
        }
    }

    /// Hears of a region's owner; returns whether it is the newest heard of.
    fn meet(&mut self, region: &RegionName, fence: Fence) -> bool {
        let peer = self.peers.entry(region.clone()).or_default();
        if fence < peer.fence || fence <= peer.expired {
            return false;
        }
        if fence > peer.fence {
            // Its members stay as the one before told them, until this one tells its set.
            peer.fence = fence;
            peer.inbound = Inbound::default();
            peer.ready = false;
            peer.link = None;
            self.told.drop_all(region);
            self.stop_pulls(region);
        }
        true
    }

    /// Starts a stream to a region's owner, and pulls everything from it.
    fn open(&mut self, region: &RegionName) {
        let Some(peer) = self.peers.get_mut(region) else {
            return;
        };
        self.stream += 1;
        let mut link = RegionLink::new(peer.fence, self.stream);
        if self.phase != Phase::Gathering {
            link.outbox.push(RegionItem::Ready, Weight::bare());
        }
        peer.link = Some(link);
        peer.awaited = false;
        self.pull_all(region);
    }

    fn pull_all(&mut self, region: &RegionName) {
        let names: Vec<RelayChannel> = self.channels.keys().cloned().collect();
        for name in names {
            self.pull(region, &name);
        }
    }

    fn take(&mut self, now: Monotonic, region: &RegionName, item: RegionItem) {
        match item {
            RegionItem::Ready => {
                if let Some(peer) = self.peers.get_mut(region) {
                    peer.ready = true;
                }
                self.pull_all(region);
            }
            RegionItem::Interest {
                channel,
                fence,
                version,
            } => {
                let until = now.after(self.config.told_hold);
                let max = self.config.told_max;
                if !self.told.hold(&channel, region, until, max) {
                    self.stats.interests_dropped += 1;
                }
                self.answer(region, &channel, fence, version);
            }
            RegionItem::Set {
                channel,
                version,
                members,
                first,
                last,
            } => self.take_set(region, &channel, version, members, (first, last)),
            RegionItem::Changes {
                channel,
                previous,
                version,
                changes,
            } => self.take_versioned(region, &channel, (previous, version), changes),
            RegionItem::Message(message) => self.tell_gateways(&message, None),
            RegionItem::Restart { stream } => {
                let peer = self.peers.get(region);
                let link = peer.and_then(|peer| peer.link.as_ref());
                if link.is_some_and(|link| link.stream == stream) {
                    self.open(region);
                }
            }
        }
    }

    /// Answers a pull of the region's own set, of which the other knows (`fence`, `version`).
    fn answer(&mut self, region: &RegionName, name: &RelayChannel, fence: Fence, version: u64) {
        let peer = self.peers.get_mut(region);
        let link = peer.and_then(|peer| {
            let current = peer.fence;
            peer.link.as_mut().filter(|link| link.to == current)
        });
        let Some(link) = link.filter(|_| self.phase != Phase::Gathering) else {
            return; // it pulls again when it hears that this owner is ready
        };
        let channel = self.channels.get(name);
        let current = channel.map_or(0, |channel| channel.version);
        if (fence, version) == (self.fence, current) {
            link.push_same(name, current);
            return;
        }
        let own = channel.map(|channel| channel.roster.view(Source::is_node));
        let own = own.into_iter().flatten();
        link.push_set(&self.config, name, current, own);
    }

    fn take_set(
        &mut self,
        region: &RegionName,
        name: &RelayChannel,
        version: u64,
        members: Vec<Member>,
        (first, last): (bool, bool),
    ) {
        let Some(channel) = self.channels.get_mut(name) else {
            return;
        };
        let remote = channel.remotes.entry(region.clone()).or_default();
        if first {
            remote.incoming = Some(BTreeMap::new());
        }
        // A set whose beginning was for an earlier interest is of no use; another one follows.
        let Some(incoming) = &mut remote.incoming else {
            return;
        };
        for member in members {
            if incoming.len() < self.config.members_max {
                incoming.insert(member.key.clone(), member);
            } else {
                self.stats.members_dropped += 1;
            }
        }
        if last {
            let set = remote.incoming.take().unwrap_or_default();
            self.replace(name, &Source::Region(region.clone()), set, NOWHERE);
            self.know(region, name, version);
        }
    }

    fn take_versioned(
        &mut self,
        region: &RegionName,
        name: &RelayChannel,
        (previous, version): (u64, u64),
        changes: Vec<Change>,
    ) {
        let source = Source::Region(region.clone());
        let fence = self.peers.get(region).map(|peer| peer.fence);
        let Some(channel) = self.channels.get_mut(name) else {
            return;
        };
        let known = channel.remotes.get(region);
        let follows = known.is_some_and(|k| Some(k.fence) == fence && k.version == previous);
        if follows {
            for change in changes {
                self.change(name, &source, 0, &change, NOWHERE);
            }
        } else if previous == 0 {
            // Whatever is known, these changes lead from nothing to the whole set.
            let mut set = BTreeMap::new();
            for change in changes {
                match change {
                    Change::Put(member) => set.insert(member.key.clone(), member),
                    Change::Leave(member) => set.remove(&member.key),
                };
            }
            self.replace(name, &source, set, NOWHERE);
        } else {
            if !self.pulls.contains(&(region.clone(), name.clone())) {
                self.pull(region, name);
            }
            return;
        }
        self.know(region, name, version);
    }

    /// The region's set of the channel is known in this version now.
    fn know(&mut self, region: &RegionName, name: &RelayChannel, version: u64) {
        let fence = self.peers.get(region).map(|peer| peer.fence);
        let channel = self.channels.get_mut(name);
        if let (Some(channel), Some(fence)) = (channel, fence) {
            let remote = channel.remotes.entry(region.clone()).or_default();
            remote.fence = fence;
            remote.version = version;
            remote.incoming = None;
        }
        self.pulls.remove(&(region.clone(), name.clone()));
        if !self.is_pulling(name) {
            self.open_channel(name);
        }
    }

    /// Waits for nothing from the region any longer.
    fn stop_pulls(&mut self, region: &RegionName) {
        self.pulls.retain(|(of, _)| of != region);
        let waiting: Vec<RelayChannel> =
            self.waiting.iter().map(|(_, name)| name.clone()).collect();
        for name in waiting {
            if !self.is_pulling(&name) {
                self.open_channel(&name);
            }
        }
    }
}
