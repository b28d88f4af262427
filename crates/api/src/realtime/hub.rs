//! The channels of this node: who is attached to them here, and what they remember.
//!
//! A channel's subscribers, its members and its memory change under one lock, so that whoever
//! attaches misses nothing and is told nothing twice: what is remembered up to that moment is
//! replayed, everything after it is delivered.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headcount_model::{
    AppId, ConnectionId, Fence, Incarnation, MemberId, Monotonic, Now, Occupancy, ShardId,
    ShardMap, Stage,
};
use headcount_realtime::{
    Broadcast, ChannelModes, Content, Envelope, Message, OccupancyParam, PresenceAction,
    PresenceId, PresenceMessage, ProtocolError, Rewind,
};
use headcount_relay::{
    Action, Change, Delivery as Relayed, Gateway, GatewayEffect, GatewayInput, Lost, Member,
    MemberKey, Message as RelayMessage, Newness, OwnerMessage, Refusal, RelayChannel,
};
use tokio::time::Instant;

use super::NodeIdentity;
use super::changes::Changes;
use super::config::RealtimeConfig;
use super::losses::{Loss, Losses};
use super::mailbox::{AttachmentId, Delivery, Mailbox};
use crate::limits::{Exceeded, Flow, Load, Quota};
use crate::ports::Ports;
use crate::telemetry;

/// How often a publish renews its channel's activity, at most: far below any useful linger.
const ACTIVITY_INTERVAL: Duration = Duration::from_millis(500);

/// A channel of an app, by its whole name without params: `room:1`, `[meta]log`.
pub(crate) type Place = RelayChannel;

/// All channels that this node has to do with.
pub(crate) struct Hub {
    config: Arc<RealtimeConfig>,
    ports: Ports,
    /// One for each shard, as the relay has one owner for each.
    partitions: Box<[Mutex<Partition>]>,
    shards: ShardMap,
    /// Begins every serial, so that those of another life or node are known.
    boot: String,
    /// Who publishes what no connection does.
    own: ConnectionId,
    /// The last number that was given to a message or an attachment.
    last: AtomicU64,
    /// Bytes that all channels remember.
    remembered: AtomicUsize,
    /// What nobody could be told.
    pub(super) losses: Losses,
    start: Instant,
}

/// The channels of one shard.
struct Partition {
    shard: ShardId,
    channels: HashMap<Place, Channel>,
    /// Who is present, and the way to other nodes.
    relay: Gateway,
    effects: Vec<GatewayEffect>,
}

/// A channel as this node knows it.
#[derive(Debug)]
struct Channel {
    subscribers: BTreeMap<AttachmentId, Subscriber>,
    followers: BTreeMap<AttachmentId, Follower>,
    /// Whether the relay knows that somebody is attached here.
    interested: bool,
    /// What happened to members while somebody was attached here.
    changes: Changes,
    memory: VecDeque<Remembered>,
    memory_bytes: usize,
    /// The ids that publishers gave to remembered messages, and the messages' serials.
    ids: HashMap<Box<str>, Serial>,
    /// The last message of which the channel has heard.
    last: u64,
    /// The last message that the channel does not remember any more, or may have missed.
    forgotten: u64,
    /// When a publish last renewed the activity.
    renewed: Option<Instant>,
    /// What its app may do; none of a metachannel, and as long as nothing but reading has been done.
    quota: Option<Arc<Quota>>,
    flow: Flow,
}

/// An attachment.
#[derive(Debug)]
struct Subscriber {
    mailbox: Arc<Mailbox>,
    connection: Arc<str>,
    modes: ChannelModes,
    echo: bool,
}

/// An attachment that is told the channel's occupancy.
#[derive(Debug)]
struct Follower {
    mailbox: Arc<Mailbox>,
    param: OccupancyParam,
    /// What it was told; none as long as it was told nothing.
    last: Option<Occupancy>,
    since: Instant,
}

#[derive(Debug)]
struct Remembered {
    at: Instant,
    serial: u64,
    broadcast: Arc<Broadcast>,
}

/// The place of a message in its channel: of what was published together, and in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Serial {
    number: u64,
    index: usize,
}

/// What became of a publish.
#[derive(Debug)]
pub(crate) struct Published {
    /// The serial of each message.
    pub(crate) serials: Vec<String>,
    /// Whether the channel's activity is to be renewed.
    pub(crate) renew: bool,
}

/// Who attaches.
#[derive(Debug)]
pub(crate) struct Attaching<'a> {
    pub(crate) mailbox: &'a Arc<Mailbox>,
    pub(crate) connection: &'a Arc<str>,
    pub(crate) modes: ChannelModes,
    pub(crate) echo: bool,
    pub(crate) since: Since<'a>,
    /// The attachment that this one takes the place of.
    pub(crate) former: Option<AttachmentId>,
    /// What a new channel is taken of; none where there is no such limit.
    pub(crate) quota: Option<&'a Arc<Quota>>,
}

/// Where an attachment begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Since<'a> {
    /// Now.
    Now,
    /// After the message with a serial, if that is still known.
    Serial(&'a str),
    /// Some of the last messages ago.
    Rewind(Rewind),
}

/// What an attachment begins with.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) id: AttachmentId,
    /// The channel's present serial.
    pub(crate) serial: String,
    /// Whether nothing is missing after the serial that was asked for.
    pub(crate) continuous: bool,
    /// What is to be told before anything that is delivered.
    pub(crate) backlog: Vec<(u64, Arc<Broadcast>)>,
    /// The presence set.
    pub(crate) members: Vec<PresenceMessage>,
}

/// The presence set is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetFull {
    pub(crate) max: usize,
}

impl From<SetFull> for ProtocolError {
    fn from(full: SetFull) -> Self {
        telemetry::rejected("presence_members");
        let message = format!("the channel has {} members, as many as it may", full.max);
        Self::new(91003, 400, message)
    }
}

impl Hub {
    pub(crate) fn new(
        config: Arc<RealtimeConfig>,
        ports: Ports,
        node: &NodeIdentity,
        boot: String,
    ) -> Self {
        let relay = headcount_relay::Config {
            members_max: config.members_max(),
            ..headcount_relay::Config::default()
        };
        let partition = |number| {
            Mutex::new(Partition {
                shard: ShardId(number),
                channels: HashMap::new(),
                relay: Gateway::new(relay.clone(), node.node, node.incarnation),
                effects: Vec::new(),
            })
        };
        Self {
            config,
            ports,
            partitions: (0..node.shards.count()).map(partition).collect(),
            shards: node.shards.clone(),
            own: ConnectionId::new(&boot).expect("it is short and printable"),
            boot,
            last: AtomicU64::new(0),
            remembered: AtomicUsize::new(0),
            losses: Losses::default(),
            start: Instant::now(),
        }
    }

    /// Writes a serial as clients see it.
    pub(crate) fn serial(&self, number: u64) -> String {
        format!("{}-{number:010}", self.boot)
    }

    /// Reads a serial that this node gave in this life.
    pub(crate) fn number(&self, serial: &str) -> Option<u64> {
        let number = serial.strip_prefix(&self.boot)?.strip_prefix('-')?;
        number.parse().ok()
    }

    /// Draws a number that is greater than all before.
    pub(crate) fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A channel of which this node has heard nothing yet, or nothing for long: whatever was said
    /// on it before is not remembered.
    fn fresh(&self) -> Channel {
        let before = self.last.load(Ordering::Relaxed);
        Channel {
            subscribers: BTreeMap::new(),
            followers: BTreeMap::new(),
            interested: false,
            changes: Changes::default(),
            memory: VecDeque::new(),
            memory_bytes: 0,
            ids: HashMap::new(),
            last: before,
            forgotten: before,
            renewed: None,
            quota: None,
            flow: Flow::default(),
        }
    }

    /// Attaches, or attaches anew with other modes.
    ///
    /// # Errors
    /// Whoever names a quota may bring too many new channels.
    pub(crate) fn attach(
        &self,
        place: &Place,
        attaching: &Attaching<'_>,
    ) -> Result<Attached, Exceeded> {
        let id = AttachmentId(self.next());
        let asked = match attaching.since {
            Since::Serial(serial) => self.number(serial),
            Since::Now | Since::Rewind(_) => None,
        };
        let now = Instant::now();
        let mut partition = self.partition(place);
        if let Some(quota) = attaching.quota
            && !partition.channels.contains_key(place)
        {
            quota.open_channel(self.monotonic())?;
        }
        let channel = partition.channel(place, attaching.quota, || self.fresh());
        self.forget(place, channel, now);
        let live = attaching.former.is_some_and(|former| {
            channel.followers.remove(&former);
            channel.subscribers.remove(&former).is_some()
        });
        let (continuous, backlog) = match attaching.since {
            Since::Now => (live, Vec::new()),
            Since::Serial(_) => {
                let after = asked.filter(|after| *after >= channel.forgotten);
                let backlog = after.map(|after| channel.after(after));
                (backlog.is_some(), backlog.unwrap_or_default())
            }
            Since::Rewind(rewind) => (false, channel.rewound(rewind, now)),
        };
        let subscriber = Subscriber {
            mailbox: Arc::clone(attaching.mailbox),
            connection: Arc::clone(attaching.connection),
            modes: attaching.modes,
            echo: attaching.echo,
        };
        channel.subscribers.insert(id, subscriber);
        let serial = self.serial(channel.last);
        if !std::mem::replace(&mut channel.interested, true) {
            self.take_interest(&mut partition, place, true);
        }
        Ok(Attached {
            id,
            serial,
            continuous,
            backlog,
            members: partition.members(place),
        })
    }

    /// Lets the relay know whether somebody is attached here.
    fn take_interest(&self, partition: &mut Partition, place: &Place, on: bool) {
        let channel = place.clone();
        if let Some(refusal) = self.relay(partition, GatewayInput::Interest { channel, on }) {
            // The channel works among those who are attached to this node.
            self.losses.note(place, Loss::Channels, 1);
            tracing::warn!(target: "relay", %place, %refusal, "not relayed");
        }
    }

    /// Begins to tell an attachment the channel's occupancy.
    pub(crate) fn follow(
        &self,
        place: &Place,
        id: AttachmentId,
        mailbox: &Arc<Mailbox>,
        param: OccupancyParam,
    ) {
        let follower = Follower {
            mailbox: Arc::clone(mailbox),
            param,
            last: None,
            since: Instant::now(),
        };
        let mut partition = self.partition(place);
        let channel = partition.channel(place, None, || self.fresh());
        channel.followers.insert(id, follower);
    }

    /// Notes what a follower is told first, unless news have overtaken that.
    pub(crate) fn followed_from(&self, place: &Place, id: AttachmentId, occupancy: Occupancy) {
        let mut partition = self.partition(place);
        let channel = partition.channels.get_mut(place);
        if let Some(follower) = channel.and_then(|channel| channel.followers.get_mut(&id)) {
            follower.last.get_or_insert(occupancy);
        }
    }

    /// Detaches.
    pub(crate) fn detach(&self, place: &Place, id: AttachmentId) {
        let mut partition = self.partition(place);
        let Some(channel) = partition.channels.get_mut(place) else {
            return;
        };
        channel.subscribers.remove(&id);
        channel.followers.remove(&id);
        channel.settle();
        let left = channel.subscribers.is_empty() && std::mem::take(&mut channel.interested);
        if channel.is_idle() {
            partition.channels.remove(place);
        }
        if left {
            self.take_interest(&mut partition, place, false);
        }
    }

    /// Tells messages to everybody who is attached, here and elsewhere, and remembers them. One with
    /// an id that the channel remembers was published before: it is not told again, and has the
    /// serial that it had.
    ///
    /// # Errors
    /// What the quota's app may not do; without a quota there is no such limit.
    pub(crate) fn publish(
        &self,
        place: &Place,
        quota: Option<&Arc<Quota>>,
        publisher: Option<&ConnectionId>,
        broadcast: Broadcast,
    ) -> Result<Published, Exceeded> {
        let now = Instant::now();
        let mut partition = self.partition(place);
        let known = partition.channels.get(place);
        let mut flow = known.map(|channel| channel.flow).unwrap_or_default();
        if let Some(quota) = quota {
            let load = Load::of(&broadcast);
            flow.publish(quota, load, known.is_none(), self.monotonic())?;
        }
        let channel = partition.channel(place, quota, || self.fresh());
        channel.flow = flow;
        self.forget(place, channel, now);
        // Drawn under the lock, so that serials rise along the channel.
        let number = self.next();
        let (broadcast, serials) = channel.sift(number, broadcast);
        let serials = serials.into_iter().map(|Serial { number, index }| {
            let serial = self.serial(number);
            format!("{serial}:{index}")
        });
        let serials = serials.collect();
        let Some(broadcast) = broadcast.map(Arc::new) else {
            let renew = false;
            return Ok(Published { serials, renew });
        };
        let from = publisher.map(ConnectionId::as_str);
        self.take(place, channel, number, from, &broadcast);
        let renew = channel
            .renewed
            .is_none_or(|renewed| now - renewed >= ACTIVITY_INTERVAL);
        if renew {
            channel.renewed = Some(now);
        }
        let message = RelayMessage {
            channel: place.clone(),
            publisher: publisher.unwrap_or(&self.own).clone(),
            body: broadcast.to_bytes().into(),
        };
        let _nothing = self.relay(&mut partition, GatewayInput::Publish(message));
        Ok(Published { serials, renew })
    }

    /// Remembers messages, of which none was there before, and tells them to everybody who is
    /// attached here.
    fn take(
        &self,
        place: &Place,
        channel: &mut Channel,
        serial: u64,
        from: Option<&str>,
        broadcast: &Arc<Broadcast>,
    ) {
        let now = Instant::now();
        channel.last = serial;
        channel.memory_bytes += broadcast.size();
        self.remembered
            .fetch_add(broadcast.size(), Ordering::Relaxed);
        channel.memory.push_back(Remembered {
            at: now,
            serial,
            broadcast: Arc::clone(broadcast),
        });
        self.forget(place, channel, now);
        channel.settle();
        let mode = ChannelModes::SUBSCRIBE;
        let told: Arc<str> = self.serial(serial).into();
        channel.tell(&self.config, mode, from, Some(&told), broadcast);
    }

    /// Forgets messages of a channel that are too old or too many; and when all channels together
    /// remember too much, whatever the channel remembers.
    fn forget(&self, place: &Place, channel: &mut Channel, now: Instant) {
        let config = &self.config;
        channel.changes.forget(config, now, &self.remembered);
        while let Some(oldest) = channel.memory.front() {
            let fits = channel.memory.len() <= config.memory_messages_max
                && channel.memory_bytes <= config.memory_bytes_max;
            let all = self.remembered.load(Ordering::Relaxed) <= config.memory_total_max;
            if fits && all && now - oldest.at <= config.memory {
                break;
            }
            if !all {
                self.losses.note(place, Loss::Memory, 1);
            }
            let bytes = oldest.broadcast.size();
            channel.forgotten = channel.forgotten.max(oldest.serial);
            channel.memory_bytes -= bytes;
            self.remembered.fetch_sub(bytes, Ordering::Relaxed);
            for id in ids_of(&oldest.broadcast) {
                channel.ids.remove(id);
            }
            channel.memory.pop_front();
        }
    }

    /// Says whether changes fit into the presence set, of so many members at most.
    ///
    /// # Errors
    /// [`SetFull`].
    pub(crate) fn has_room(
        &self,
        place: &Place,
        changes: &[PresenceMessage],
        max: usize,
    ) -> Result<(), SetFull> {
        let partition = self.partition(place);
        let holds = |change: &PresenceMessage| {
            key(change).is_some_and(|key| partition.relay.holds(place, &key))
        };
        let fresh = changes.iter();
        let fresh = fresh.filter(|change| !is_leave(change) && !holds(change));
        if fresh.count() > max.saturating_sub(partition.relay.members_held(place)) {
            return Err(SetFull { max });
        }
        Ok(())
    }

    /// Changes the presence set and tells it to everybody who follows it, here and elsewhere.
    pub(crate) fn presence(&self, place: &Place, changes: &[PresenceMessage]) {
        let mut partition = self.partition(place);
        for change in changes {
            let broadcast = alone(change.clone());
            if let Some(channel) = partition.channels.get_mut(place) {
                self.tell_change(place, channel, &broadcast);
            }
            let Some(key) = key(change) else {
                continue;
            };
            let member = Member {
                key,
                newness: newness(change),
                data: broadcast.to_bytes().into(),
            };
            let input = GatewayInput::Presence {
                channel: place.clone(),
                change: if is_leave(change) {
                    Change::Leave(member)
                } else {
                    Change::Put(member)
                },
            };
            if let Some(refusal) = self.relay(&mut partition, input) {
                tracing::debug!(target: "relay", %place, %refusal, "a change is not relayed");
            }
        }
    }

    /// Tells a member's change to everybody who follows the set here, and remembers it.
    fn tell_change(&self, place: &Place, channel: &mut Channel, broadcast: &Arc<Broadcast>) {
        let now = Instant::now();
        channel.changes.remember(now, broadcast, &self.remembered);
        self.forget(place, channel, now);
        let mode = ChannelModes::PRESENCE_SUBSCRIBE;
        channel.tell(&self.config, mode, None, None, broadcast);
    }

    /// Returns whether the presence set is known, and not only its members of this node.
    pub(crate) fn knows(&self, place: &Place) -> bool {
        self.partition(place).relay.knows(place)
    }

    /// Returns the presence set.
    pub(crate) fn members(&self, place: &Place) -> Vec<PresenceMessage> {
        self.partition(place).members(place)
    }

    /// Returns what the channel remembers, oldest first.
    pub(crate) fn remembered(&self, place: &Place) -> Vec<(u64, Arc<Broadcast>)> {
        let mut partition = self.partition(place);
        let Some(channel) = partition.channels.get_mut(place) else {
            return Vec::new();
        };
        self.forget(place, channel, Instant::now());
        channel.after(0)
    }

    /// Returns what the channel remembers of its members, oldest first.
    pub(crate) fn changes(&self, place: &Place) -> Vec<Arc<Broadcast>> {
        let mut partition = self.partition(place);
        let Some(channel) = partition.channels.get_mut(place) else {
            return Vec::new();
        };
        self.forget(place, channel, Instant::now());
        channel.changes.all()
    }

    /// Says that a shard's regional owner is reachable, anew or again.
    pub(crate) fn owner(&self, shard: ShardId, fence: Fence) {
        self.relay_to(shard, GatewayInput::Owner { fence });
    }

    /// Says that a shard's regional owner is not reachable.
    pub(crate) fn owner_lost(&self, shard: ShardId, fence: Fence) {
        self.relay_to(shard, GatewayInput::OwnerLost { fence });
    }

    /// Takes what a shard's regional owner says.
    pub(crate) fn owner_said(&self, shard: ShardId, message: OwnerMessage) {
        self.relay_to(shard, GatewayInput::FromOwner(message));
    }

    /// Says that the node has a new incarnation.
    pub(crate) fn reborn(&self, incarnation: Incarnation) {
        for partition in &self.partitions {
            let input = GatewayInput::Reborn { incarnation };
            let _nothing = self.relay(&mut lock(partition), input);
        }
    }

    fn relay_to(&self, shard: ShardId, input: GatewayInput) {
        let partition = usize::try_from(shard.0).ok();
        if let Some(partition) = partition.and_then(|at| self.partitions.get(at)) {
            let _nothing = self.relay(&mut lock(partition), input);
        }
    }

    /// The time by which rates are judged.
    pub(crate) fn monotonic(&self) -> Monotonic {
        Monotonic(self.start.elapsed())
    }

    fn now(&self) -> Now {
        Now {
            monotonic: self.monotonic(),
            wall: self.ports.clock.wall(),
        }
    }

    /// Steps a shard's relay and does what it asks for; returns what it refused.
    fn relay(&self, partition: &mut Partition, input: GatewayInput) -> Option<Refusal> {
        let mut effects = std::mem::take(&mut partition.effects);
        partition.relay.step(self.now(), input, &mut effects);
        let refused = self.carry_out(partition, &mut effects);
        partition.effects = effects;
        refused
    }

    fn carry_out(
        &self,
        partition: &mut Partition,
        effects: &mut Vec<GatewayEffect>,
    ) -> Option<Refusal> {
        let mut refused = None;
        for effect in effects.drain(..) {
            match effect {
                GatewayEffect::ToOwner(message) => {
                    self.ports.outlet.to_owner(partition.shard, message);
                }
                GatewayEffect::Deliver { channel, delivery } => {
                    self.relayed(partition, &channel, delivery);
                }
                GatewayEffect::Lost { channel, lost } => {
                    let (loss, count) = match lost {
                        Lost::Message => (Loss::Unsent, 1),
                        Lost::Members(count) => (Loss::Members, count),
                    };
                    self.losses.note(&channel, loss, count);
                }
                GatewayEffect::Refused { refusal, .. } => refused = Some(refusal),
            }
        }
        refused
    }

    /// Tells what came from elsewhere to everybody who is attached here.
    fn relayed(&self, partition: &mut Partition, place: &Place, relayed: Relayed) {
        let Some(channel) = partition.channels.get_mut(place) else {
            return;
        };
        match relayed {
            Relayed::Message(message) => match Broadcast::from_bytes(&message.body) {
                Ok(broadcast) => self.take_relayed(place, channel, broadcast),
                Err(error) => {
                    tracing::warn!(target: "relay", %place, %error, "a message is not understood");
                }
            },
            Relayed::Presence { action, member } => {
                if let Some(shown) = shown(&member, action) {
                    self.tell_change(place, channel, &alone(shown));
                }
            }
        }
    }

    /// Takes messages of another node, save those that were published here before: a client that
    /// was not answered tries again elsewhere.
    fn take_relayed(&self, place: &Place, channel: &mut Channel, broadcast: Broadcast) {
        if let Some(quota) = &channel.quota {
            let load = Load::of(&broadcast);
            let limits = &quota.limits;
            channel.flow.relayed(limits, load, self.monotonic());
        }
        self.forget(place, channel, Instant::now());
        let number = self.next();
        let (broadcast, _) = channel.sift(number, broadcast);
        if let Some(broadcast) = broadcast {
            self.take(place, channel, number, None, &Arc::new(broadcast));
        }
    }

    /// Tells those who have followed a channel's occupancy for so long what it is now.
    pub(crate) fn occupancy(&self, place: &Place, occupancy: Occupancy, followed_for: Duration) {
        let mut partition = self.partition(place);
        let Some(channel) = partition.channels.get_mut(place) else {
            return;
        };
        for (id, follower) in &mut channel.followers {
            if follower.since.elapsed() < followed_for {
                continue;
            }
            let param = follower.param;
            let news = |last| param.changed(&last, &occupancy);
            if follower.last.is_none_or(news) {
                follower.last = Some(occupancy);
                follower.mailbox.occupancy(*id, occupancy);
            }
        }
    }

    /// Returns the channels of an app whose occupancy is followed here.
    pub(crate) fn followed(&self, app: &AppId) -> Vec<Place> {
        let mut followed = Vec::new();
        for partition in &self.partitions {
            let partition = lock(partition);
            let of_app = partition
                .channels
                .iter()
                .filter(|(place, channel)| place.app == *app && !channel.followers.is_empty());
            followed.extend(of_app.map(|(place, _)| place.clone()));
        }
        followed
    }

    /// Forgets what is too old. Called now and then, so that quiet channels do not stay.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        for partition in &self.partitions {
            lock(partition).channels.retain(|place, channel| {
                self.forget(place, channel, now);
                !channel.is_idle()
            });
        }
    }

    /// Lets the relay act on its deadlines.
    pub(crate) fn tick(&self) {
        let now = self.now();
        for partition in &self.partitions {
            let mut partition = lock(partition);
            let due = partition.relay.next_deadline();
            if due.is_some_and(|due| due <= now.monotonic) {
                let mut effects = std::mem::take(&mut partition.effects);
                partition.relay.on_deadline(now, &mut effects);
                let _nothing = self.carry_out(&mut partition, &mut effects);
                partition.effects = effects;
            }
        }
    }

    fn partition(&self, place: &Place) -> MutexGuard<'_, Partition> {
        let shard = self.shards.of_name(place.app.as_str(), &place.name);
        lock(&self.partitions[shard.0 as usize])
    }
}

fn lock(partition: &Mutex<Partition>) -> MutexGuard<'_, Partition> {
    partition.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Partition {
    fn channel(
        &mut self,
        place: &Place,
        quota: Option<&Arc<Quota>>,
        fresh: impl FnOnce() -> Channel,
    ) -> &mut Channel {
        if !self.channels.contains_key(place) {
            self.channels.insert(place.clone(), fresh());
        }
        let channel = self.channels.get_mut(place).expect("it is there by now");
        if channel.quota.is_none() {
            channel.quota = quota.cloned();
        }
        channel
    }

    fn members(&self, place: &Place) -> Vec<PresenceMessage> {
        let members = self.relay.members(place);
        members
            .filter_map(|member| shown(member, Action::Present))
            .collect()
    }
}

/// A member as it is shown to clients.
fn shown(member: &Member, action: Action) -> Option<PresenceMessage> {
    let broadcast = Broadcast::from_bytes(&member.data).ok()?;
    let Content::Presence(items) = broadcast.content() else {
        return None;
    };
    Some(PresenceMessage {
        action: match action {
            Action::Present => PresenceAction::Present,
            Action::Enter => PresenceAction::Enter,
            Action::Update => PresenceAction::Update,
            Action::Leave => PresenceAction::Leave,
        },
        ..items.first()?.clone()
    })
}

/// One change, as all who follow the set are told it.
fn alone(change: PresenceMessage) -> Arc<Broadcast> {
    let envelope = Envelope {
        id: change.id.clone(),
        timestamp_ms: change.timestamp_ms,
        connection_id: change.connection_id.clone(),
    };
    Arc::new(Broadcast::new(envelope, Content::Presence(vec![change])))
}

/// Whose change it is: one client id of one connection.
fn key(change: &PresenceMessage) -> Option<MemberKey> {
    Some(MemberKey {
        connection: ConnectionId::new(change.connection_id.as_deref()?).ok()?,
        id: MemberId::new(change.client_id.as_deref()?).ok()?,
    })
}

/// How new a change is: as its connection has numbered it, or the last if the node has made it.
fn newness(change: &PresenceMessage) -> Newness {
    let (id, connection) = (change.id.as_deref(), change.connection_id.as_deref());
    let made = id
        .zip(connection)
        .and_then(|(id, connection)| PresenceId::parse(id, connection));
    made.map_or(Newness::LAST, |id| Newness {
        serial: id.msg_serial,
        index: u32::try_from(id.index).unwrap_or(u32::MAX),
    })
}

/// The ids that the publisher gave.
fn ids_of(broadcast: &Broadcast) -> impl Iterator<Item = &str> {
    let messages = match broadcast.content() {
        Content::Messages(messages) => messages.as_slice(),
        Content::Presence(_) => &[],
    };
    messages.iter().filter_map(|message| message.id.as_deref())
}

fn is_leave(change: &PresenceMessage) -> bool {
    matches!(
        change.action,
        PresenceAction::Leave | PresenceAction::Absent
    )
}

impl Channel {
    fn is_idle(&self) -> bool {
        self.subscribers.is_empty()
            && self.followers.is_empty()
            && self.memory.is_empty()
            && self.changes.is_empty()
    }

    /// Leaves something for every subscriber with a mode; who has no room for it is a subscriber no
    /// longer.
    fn tell(
        &mut self,
        config: &RealtimeConfig,
        mode: ChannelModes,
        from: Option<&str>,
        serial: Option<&Arc<str>>,
        broadcast: &Arc<Broadcast>,
    ) {
        let capacity = config.capacity();
        self.subscribers.retain(|id, subscriber| {
            let own = from.is_some_and(|from| *subscriber.connection == *from);
            if !subscriber.modes.contains(mode) || own && !subscriber.echo {
                return true;
            }
            let delivery = Delivery {
                attachment: *id,
                broadcast: Arc::clone(broadcast),
                serial: serial.cloned(),
                rolls_up: None,
            };
            subscriber.mailbox.deliver(delivery, capacity)
        });
    }

    /// Keeps of what is to have a serial those messages that were not published before under the
    /// ids that they have; returns the serial of each of them all.
    fn sift(&mut self, number: u64, broadcast: Broadcast) -> (Option<Broadcast>, Vec<Serial>) {
        let Content::Messages(messages) = broadcast.content() else {
            return (Some(broadcast), Vec::new());
        };
        let (mut kept, mut serials) = (Vec::new(), Vec::new());
        for message in messages {
            let serial = Serial {
                number,
                index: kept.len(),
            };
            if let Some(id) = &message.id {
                if let Some(before) = self.ids.get(id.as_str()) {
                    telemetry::realtime_repeats_total.count(1);
                    serials.push(*before);
                    continue;
                }
                self.ids.insert(id.as_str().into(), serial);
            }
            serials.push(serial);
            kept.push(message);
        }
        if kept.len() == messages.len() {
            return (Some(broadcast), serials);
        }
        let kept: Vec<Message> = kept.into_iter().cloned().collect();
        let envelope = broadcast.envelope().clone();
        let kept = (!kept.is_empty()).then(|| Broadcast::new(envelope, Content::Messages(kept)));
        (kept, serials)
    }

    /// While nobody is attached here, messages of other nodes do not come: who comes back cannot be
    /// promised that nothing was missed.
    fn settle(&mut self) {
        if self.subscribers.is_empty() {
            self.forgotten = self.last;
        }
    }

    /// Returns the messages after a serial.
    fn after(&self, serial: u64) -> Vec<(u64, Arc<Broadcast>)> {
        let begin = self
            .memory
            .partition_point(|message| message.serial <= serial);
        let rest = self.memory.iter().skip(begin);
        rest.map(|message| (message.serial, Arc::clone(&message.broadcast)))
            .collect()
    }

    /// Returns the messages of a rewind.
    fn rewound(&self, rewind: Rewind, now: Instant) -> Vec<(u64, Arc<Broadcast>)> {
        let begin = match rewind {
            Rewind::Messages(count) => self.memory.len().saturating_sub(count as usize),
            Rewind::Span(span) => self
                .memory
                .partition_point(|message| now - message.at > span),
        };
        let rest = self.memory.iter().skip(begin);
        rest.map(|message| (message.serial, Arc::clone(&message.broadcast)))
            .collect()
    }
}
