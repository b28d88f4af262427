//! The relay's task: messages and presence between this node's front end, the owners of its
//! region, and those of other regions (R17).
//!
//! Everything that it is told may be dropped when there is too much; whoever misses something
//! starts over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use headcount_api::{Loss, Realtime};
use headcount_model::{
    AppId, ChannelKey, ChannelName, Event, EventKind, Fence, Incarnation, Monotonic, NodeId,
    RegionName, ShardId, Stage,
};
use headcount_placement::Control;
use headcount_relay::{
    Config, GatewayItem, GatewayMessage, Message, Owner, OwnerEffect, OwnerInput, OwnerItem,
    RegionItem, Regions, RelayChannel,
};
use headcount_rpc::peers::{Network, RelayMessage, RelayParcel, SendError, Ways};
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::shards::Shards;
use crate::telemetry;

/// Letters that may wait for the relay.
const MAIL_MAX: usize = 16_384;

/// How long after something was too much for the way to another node it is tried anew. At once, a set
/// that is larger than the queue would be begun for ever.
const PAUSE: Duration = Duration::from_secs(1);

/// Most letters that are read before anything else is looked at.
const MAIL_BATCH: usize = 256;

/// What the relay is told.
#[derive(Debug)]
pub(crate) enum RelayMail {
    /// The front end has something for the owner of a shard.
    ToOwner(ShardId, GatewayMessage),
    /// Another node sent something.
    Parcel(RelayParcel),
    /// The log says that channels of a shard went active in regions.
    Activated(ShardId, Vec<(RegionName, RelayChannel)>),
    /// A snapshot took the place of a shard's log: what it activated is not known.
    Jumped(ShardId),
}

/// The way to the relay. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct RelayHandle {
    mail: mpsc::Sender<RelayMail>,
    dropped: Arc<Mutex<Dropped>>,
}

/// What the relay was too far behind to be told, until it catches up.
#[derive(Debug, Default)]
struct Dropped {
    /// Shards of which something for the owner was dropped: their streams begin anew.
    shards: BTreeSet<ShardId>,
    /// For each app a channel, and how many messages of all its channels were dropped.
    messages: BTreeMap<AppId, (RelayChannel, u64)>,
}

impl Dropped {
    fn count(&mut self, channels: Vec<RelayChannel>) {
        for channel in channels {
            let app = channel.app.clone();
            self.messages.entry(app).or_insert((channel, 0)).1 += 1;
        }
    }
}

/// Returns the channel of each published message in what is relayed. Whatever else is lost is told
/// again with the next stream.
fn published(message: &RelayMessage) -> Vec<RelayChannel> {
    let of = |message: &Message| message.channel.clone();
    match message {
        RelayMessage::Gateway(gateway) => published_here(gateway),
        RelayMessage::Owner(owner) => {
            let items = owner.items.iter().filter_map(|item| match item {
                OwnerItem::Message(message) => Some(of(message)),
                OwnerItem::Set { .. } | OwnerItem::Changes { .. } | OwnerItem::Restart => None,
            });
            items.collect()
        }
        RelayMessage::Region(region) => {
            let items = region.items.iter().filter_map(|item| match item {
                RegionItem::Message(message) => Some(of(message)),
                RegionItem::Ready
                | RegionItem::Interest { .. }
                | RegionItem::Set { .. }
                | RegionItem::Changes { .. }
                | RegionItem::Restart { .. } => None,
            });
            items.collect()
        }
    }
}

fn published_here(gateway: &GatewayMessage) -> Vec<RelayChannel> {
    let items = gateway.items.iter().filter_map(|item| match item {
        GatewayItem::Publish(message) => Some(message.channel.clone()),
        GatewayItem::Interest { .. } | GatewayItem::Changes { .. } | GatewayItem::Complete => None,
    });
    items.collect()
}

impl RelayHandle {
    /// Makes the handle and the other end of its queue.
    pub(crate) fn new() -> (Self, mpsc::Receiver<RelayMail>) {
        let (mail, receiver) = mpsc::channel(MAIL_MAX);
        let dropped = Arc::default();
        (Self { mail, dropped }, receiver)
    }

    /// Tells the relay something, unless it is too far behind.
    pub(crate) fn post(&self, mail: RelayMail) {
        if let Err(mpsc::error::TrySendError::Full(mail)) = self.mail.try_send(mail) {
            telemetry::mail_dropped();
            let mut dropped = self.dropped();
            match mail {
                RelayMail::ToOwner(shard, message) => {
                    dropped.shards.insert(shard);
                    dropped.count(published_here(&message));
                }
                RelayMail::Parcel(parcel) => dropped.count(published(&parcel.message)),
                RelayMail::Activated(..) | RelayMail::Jumped(_) => {}
            }
        }
    }

    /// Tells the relay which channels went active in an entry of a shard that this node owns.
    pub(crate) fn activated<'a>(&self, shard: ShardId, events: impl Iterator<Item = &'a Event>) {
        let active = events.filter(|event| event.kind == EventKind::RegionActive);
        let activations: Vec<_> = active
            .map(|event| (event.region.clone(), RelayChannel::from(&event.channel)))
            .collect();
        if !activations.is_empty() {
            self.post(RelayMail::Activated(shard, activations));
        }
    }

    fn dropped(&self) -> std::sync::MutexGuard<'_, Dropped> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl headcount_api::ports::Outlet for RelayHandle {
    fn to_owner(&self, shard: ShardId, message: GatewayMessage) {
        self.post(RelayMail::ToOwner(shard, message));
    }
}

/// An owner that is there, and the opening of the way to it, 0 for this node itself.
type Way = (NodeId, Fence, u64);

/// Finds a region's owner of a shard: its fence if there is one, and the way to it if it is reached.
type FindWay<'a> = dyn Fn(&RegionName, ShardId) -> (Option<Fence>, Option<Way>) + 'a;

/// A shard that this node owns in its region.
struct Owned {
    stage: Owner,
    fence: Fence,
    live: Vec<(NodeId, Incarnation)>,
    regions: BTreeMap<RegionName, Option<Way>>,
    expired: BTreeMap<RegionName, Fence>,
}

/// What the relay's task works with.
pub(crate) struct RelayTask {
    pub(crate) node: NodeId,
    pub(crate) region: RegionName,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) network: Network,
    pub(crate) shards: Shards,
    pub(crate) control: watch::Receiver<Arc<Control>>,
    pub(crate) incarnation: watch::Receiver<Incarnation>,
    pub(crate) realtime: Realtime,
    pub(crate) handle: RelayHandle,
    pub(crate) mail: mpsc::Receiver<RelayMail>,
}

impl RelayTask {
    /// Runs until every handle is gone.
    pub(crate) async fn run(mut self) {
        let mut ways = self.network.relay_ways();
        let mut state = State::default();
        let mut letters = Vec::new();
        self.control.mark_changed();
        loop {
            let deadline = state.next_deadline();
            tokio::select! {
                biased;
                changed = self.control.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.settle(&mut state, &mut ways);
                }
                changed = self.incarnation.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let incarnation = *self.incarnation.borrow_and_update();
                    self.realtime.reborn(incarnation);
                    self.settle(&mut state, &mut ways);
                }
                changed = ways.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.settle(&mut state, &mut ways);
                }
                count = self.mail.recv_many(&mut letters, MAIL_BATCH) => {
                    if count == 0 {
                        return;
                    }
                    for letter in letters.drain(..) {
                        self.letter(&mut state, letter);
                    }
                }
                () = sleep_until(&self.clock, deadline) => self.due(&mut state),
            }
            let Dropped { shards, messages } = std::mem::take(&mut *self.handle.dropped());
            for shard in shards {
                state.refuse(shard, None, self.clock.monotonic());
            }
            for (channel, count) in messages.into_values() {
                self.realtime.lost(&channel, Loss::Crowded, count);
            }
        }
    }

    /// Lets deadlines act, and begins ways anew.
    fn due(&self, state: &mut State) {
        let now = self.clock.monotonic();
        let due = state.owned.iter().filter(|(_, owned)| {
            let at = owned.stage.next_deadline();
            at.is_some_and(|at| at <= now)
        });
        let due: Vec<_> = due.map(|(shard, _)| *shard).collect();
        for shard in due {
            self.step(state, shard, None);
        }
        let refused = state.refused.iter().filter(|(_, at)| **at <= now);
        let refused: Vec<_> = refused.map(|(way, _)| way.clone()).collect();
        for way in refused {
            state.refused.remove(&way);
            let (shard, region) = way;
            let Some(region) = region else {
                if let Some((_, fence, _)) = state.owners.get(&shard).copied().flatten() {
                    self.realtime.owner(shard, fence);
                }
                continue;
            };
            self.begin_region(state, shard, region);
        }
    }

    /// Begins the stream to the owner of another region anew.
    fn begin_region(&self, state: &mut State, shard: ShardId, region: RegionName) {
        let owned = state.owned.get(&shard);
        let way = owned.and_then(|owned| owned.regions.get(&region).copied().flatten());
        if let Some((_, fence, _)) = way {
            let input = OwnerInput::RegionOwner { region, fence };
            self.step(state, shard, Some(input));
        }
    }

    /// Takes up and lays down what the control group says, and tells everybody whom they reach.
    fn settle(&self, state: &mut State, ways: &mut watch::Receiver<Ways>) {
        // A copy, as whoever sends looks at them, too, and a borrow keeps writers waiting.
        let ways = ways.borrow_and_update().clone();
        let control = self.control.borrow().clone();
        let incarnation = *self.incarnation.borrow();
        let way = |region: &RegionName, shard| -> (Option<Fence>, Option<Way>) {
            let owner = control.owner(region, shard);
            let reached = owner.and_then(|owner| {
                let opening = if owner.node == self.node {
                    0
                } else {
                    ways.opening(owner.node)?
                };
                Some((owner.node, owner.fence, opening))
            });
            (owner.map(|owner| owner.fence), reached)
        };
        let live = control.nodes().iter().filter(|(_, node)| node.is_live());
        let live = live.filter(|(_, node)| node.region == self.region);
        let live: Vec<_> = live.map(|(id, node)| (*id, node.incarnation)).collect();
        for shard in control.shards() {
            let ours = control.owner(&self.region, shard).filter(|owner| {
                // R4: nobody acts under a fence of an earlier life.
                owner.node == self.node && owner.incarnation == incarnation && incarnation.0 > 0
            });
            self.own(state, &control, shard, ours.map(|owner| owner.fence));
            if state.owned.contains_key(&shard) {
                self.tell_owner(state, &control, shard, &live, &way);
            }
            let (fence, reached) = way(&self.region, shard);
            let reached = reached.filter(|(node, ..)| {
                // This node's own owner is there once it was taken up.
                *node != self.node || state.owned.contains_key(&shard)
            });
            let known = state.owners.insert(shard, reached);
            if known == Some(reached) {
                continue;
            }
            match (reached, fence, known.flatten()) {
                (Some((_, fence, _)), ..) => self.realtime.owner(shard, fence),
                (None, Some(fence), _) | (None, None, Some((_, fence, _))) => {
                    self.realtime.owner_lost(shard, fence);
                }
                (None, None, None) => {}
            }
        }
    }

    /// Makes this node's owner of a shard the one under a fence, or none.
    fn own(&self, state: &mut State, control: &Control, shard: ShardId, fence: Option<Fence>) {
        let held = state.owned.get(&shard).map(|owned| owned.fence);
        if held == fence {
            return;
        }
        let Some(fence) = fence else {
            state.owned.remove(&shard);
            return;
        };
        let regions = control.regions().keys();
        let awaited = regions.filter(|region| control.owner(region, shard).is_some());
        let owned = Owned {
            stage: Owner::new(
                self.config.clone(),
                self.region.clone(),
                fence,
                awaited.cloned(),
                self.clock.monotonic(),
            ),
            fence,
            live: Vec::new(),
            regions: BTreeMap::new(),
            expired: BTreeMap::new(),
        };
        state.owned.insert(shard, owned);
    }

    /// Tells this node's owner of a shard who is alive and whom it reaches.
    fn tell_owner(
        &self,
        state: &mut State,
        control: &Control,
        shard: ShardId,
        live: &[(NodeId, Incarnation)],
        way: &FindWay<'_>,
    ) {
        let mut inputs = Vec::new();
        if let Some(owned) = state.owned.get_mut(&shard) {
            if owned.live != live {
                owned.live = live.to_vec();
                let live = live.to_vec();
                inputs.push(OwnerInput::Gateways { live });
            }
            for (region, fence) in control.voids(shard) {
                if owned.expired.insert(region.clone(), fence) != Some(fence) {
                    let region = region.clone();
                    inputs.push(OwnerInput::RegionExpired { region, fence });
                }
            }
            let others = control.regions().keys();
            for region in others.filter(|region| **region != self.region) {
                let (fence, reached) = way(region, shard);
                let known = owned.regions.insert(region.clone(), reached);
                if known == Some(reached) {
                    continue;
                }
                let region = region.clone();
                match (reached, fence, known.flatten()) {
                    (Some((_, fence, _)), ..) => {
                        inputs.push(OwnerInput::RegionOwner { region, fence });
                    }
                    (None, Some(fence), _) | (None, None, Some((_, fence, _))) => {
                        inputs.push(OwnerInput::RegionLost { region, fence });
                    }
                    (None, None, None) => {}
                }
            }
        }
        for input in inputs {
            self.step(state, shard, Some(input));
        }
    }

    fn letter(&self, state: &mut State, letter: RelayMail) {
        match letter {
            RelayMail::ToOwner(shard, message) => {
                let Some((node, fence, _)) = state.owners.get(&shard).copied().flatten() else {
                    return;
                };
                if fence != message.fence {
                    return;
                }
                if node == self.node {
                    self.gateway_said(state, shard, message);
                } else if !self.carry(node, shard, RelayMessage::Gateway(message)) {
                    state.refuse(shard, None, self.clock.monotonic());
                }
            }
            RelayMail::Parcel(RelayParcel { shard, message }) => match message {
                RelayMessage::Gateway(message) => self.gateway_said(state, shard, message),
                RelayMessage::Owner(message) => self.realtime.owner_said(shard, message),
                RelayMessage::Region(message) => {
                    self.step(state, shard, Some(OwnerInput::FromRegion(message)));
                }
            },
            RelayMail::Activated(shard, activations) => {
                self.step(state, shard, Some(OwnerInput::Activated { activations }));
            }
            RelayMail::Jumped(shard) => {
                let owned = state.owned.get(&shard);
                let regions = owned.map(|owned| owned.regions.keys().cloned().collect::<Vec<_>>());
                for region in regions.unwrap_or_default() {
                    self.begin_region(state, shard, region);
                }
            }
        }
    }

    fn gateway_said(&self, state: &mut State, shard: ShardId, message: GatewayMessage) {
        if !state.owned.contains_key(&shard) {
            return;
        }
        let items = message.items.iter();
        let active = items.map(|item| {
            let channel = item.channel();
            channel.map_or_else(Regions::new, |channel| self.active(shard, channel))
        });
        let active = active.collect();
        let input = OwnerInput::FromGateway { message, active };
        self.step(state, shard, Some(input));
    }

    /// Returns the regions in which a channel is active, as the log says; a metachannel is active
    /// everywhere.
    fn active(&self, shard: ShardId, channel: &RelayChannel) -> Regions {
        let Ok(name) = ChannelName::new(&channel.name) else {
            let control = self.control.borrow().clone();
            return control.regions().keys().cloned().collect();
        };
        let key = ChannelKey {
            app: channel.app.clone(),
            name,
        };
        let status = self
            .shards
            .get(shard)
            .and_then(|hosted| hosted.replica.read().status(&key));
        let regions = status.map(|status| status.regions).unwrap_or_default();
        regions.into_iter().map(|(region, _)| region).collect()
    }

    /// Steps this node's owner of a shard, or lets its deadlines act, and does what it asks for.
    fn step(&self, state: &mut State, shard: ShardId, input: Option<OwnerInput>) {
        let Some(owned) = state.owned.get_mut(&shard) else {
            return;
        };
        let (now, mut effects) = (self.clock.now(), Vec::new());
        match input {
            Some(input) => owned.stage.step(now, input, &mut effects),
            None => owned.stage.on_deadline(now, &mut effects),
        }
        let mut refused = Vec::new();
        for effect in effects {
            match effect {
                OwnerEffect::ToGateway { node, message } if node == self.node => {
                    self.realtime.owner_said(shard, message);
                }
                OwnerEffect::ToGateway { node, message } => {
                    // The gateway sees the hole with the next message.
                    let _carried = self.carry(node, shard, RelayMessage::Owner(message));
                }
                OwnerEffect::ToRegion { region, message } => {
                    let way = owned.regions.get(&region).copied().flatten();
                    if let Some((node, fence, _)) = way
                        && fence == message.to
                        && !self.carry(node, shard, RelayMessage::Region(message))
                    {
                        refused.push(region);
                    }
                }
            }
        }
        for region in refused {
            state.refuse(shard, Some(region), now.monotonic);
        }
    }

    /// Puts something on its way; false if it was too much for it. Where there is no way, everything
    /// begins anew once there is one.
    fn carry(&self, to: NodeId, shard: ShardId, message: RelayMessage) -> bool {
        let parcel = RelayParcel { shard, message };
        let carried = self.network.carry(to, &parcel);
        if let Err(error) = carried {
            tracing::debug!(target: "relay", shard = shard.0, %to, %error, "not carried");
        }
        if carried == Err(SendError::Full) {
            for channel in published(&parcel.message) {
                self.realtime.lost(&channel, Loss::Crowded, 1);
            }
        }
        carried != Err(SendError::Full)
    }
}

/// What the relay's task knows.
#[derive(Default)]
struct State {
    owned: BTreeMap<ShardId, Owned>,
    /// The owners of this node's region, as the front end was told of them.
    owners: BTreeMap<ShardId, Option<Way>>,
    /// Ways on which something was refused, and when they are begun anew: to the owner of this
    /// region, or of another.
    refused: BTreeMap<(ShardId, Option<RegionName>), Monotonic>,
}

impl State {
    /// Has a way begun anew after a pause.
    fn refuse(&mut self, shard: ShardId, region: Option<RegionName>, now: Monotonic) {
        let at = now.after(PAUSE);
        self.refused.entry((shard, region)).or_insert(at);
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        let stages = self.owned.values();
        let stages = stages.filter_map(|owned| owned.stage.next_deadline());
        stages.chain(self.refused.values().copied()).min()
    }
}

async fn sleep_until(clock: &Clock, deadline: Option<Monotonic>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(clock.instant(at)).await,
        None => std::future::pending().await,
    }
}
