//! The channels of this node: who is attached to them here, and what they remember.
//!
//! A channel's subscribers, its members and its memory change under one lock, so that whoever
//! attaches misses nothing and is told nothing twice: what is remembered up to that moment is
//! replayed, everything after it is delivered.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use headcount_model::{AppId, Occupancy};
use headcount_realtime::{
    Broadcast, ChannelModes, OccupancyParam, PresenceAction, PresenceMessage, ProtocolError, Rewind,
};
use tokio::time::Instant;

use super::config::RealtimeConfig;
use super::mailbox::{AttachmentId, Delivery, Mailbox};
use crate::telemetry;

/// How many locks the channels of a node share.
const PARTITIONS: usize = 64;

/// How often a publish renews its channel's activity, at most: far below any useful linger.
const ACTIVITY_INTERVAL: Duration = Duration::from_millis(500);

/// A channel of an app, by its whole name without params: `room:1`, `[meta]log`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) app: AppId,
    pub(crate) name: Arc<str>,
}

/// All channels that this node has to do with.
#[derive(Debug)]
pub(crate) struct Hub {
    config: Arc<RealtimeConfig>,
    partitions: Box<[Mutex<HashMap<Place, Channel>>]>,
    /// Begins every serial, so that those of another life or node are known.
    boot: String,
    /// The last number that was given to a message or an attachment.
    last: AtomicU64,
}

/// A channel as this node knows it.
#[derive(Debug)]
struct Channel {
    subscribers: BTreeMap<AttachmentId, Subscriber>,
    followers: BTreeMap<AttachmentId, Follower>,
    members: BTreeMap<(String, String), PresenceMessage>,
    memory: VecDeque<Remembered>,
    memory_bytes: usize,
    /// The last message of which the channel has heard.
    last: u64,
    /// The last message that the channel does not remember any more, or may have missed.
    forgotten: u64,
    /// When a publish last renewed the activity.
    renewed: Option<Instant>,
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
    pub(crate) fn new(config: Arc<RealtimeConfig>, boot: String) -> Self {
        Self {
            config,
            partitions: (0..PARTITIONS).map(|_| Mutex::default()).collect(),
            boot,
            last: AtomicU64::new(0),
        }
    }

    /// Writes a serial as clients see it.
    pub(crate) fn serial(&self, number: u64) -> String {
        format!("{}-{number:010}", self.boot)
    }

    /// Reads a serial that this node gave in this life.
    fn number(&self, serial: &str) -> Option<u64> {
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
            members: BTreeMap::new(),
            memory: VecDeque::new(),
            memory_bytes: 0,
            last: before,
            forgotten: before,
            renewed: None,
        }
    }

    /// Attaches, or attaches anew with other modes.
    pub(crate) fn attach(&self, place: &Place, attaching: Attaching<'_>) -> Attached {
        let id = AttachmentId(self.next());
        let asked = match attaching.since {
            Since::Serial(serial) => self.number(serial),
            Since::Now | Since::Rewind(_) => None,
        };
        let now = Instant::now();
        let mut partition = self.partition(place);
        let channel = partition
            .entry(place.clone())
            .or_insert_with(|| self.fresh());
        channel.forget(&self.config, now);
        let live = attaching
            .former
            .is_some_and(|former| channel.subscribers.remove(&former).is_some());
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
        Attached {
            id,
            serial: self.serial(channel.last),
            continuous,
            backlog,
            members: channel.members.values().cloned().collect(),
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
        let channel = partition
            .entry(place.clone())
            .or_insert_with(|| self.fresh());
        channel.followers.insert(id, follower);
    }

    /// Notes what a follower is told first, unless news have overtaken that.
    pub(crate) fn followed_from(&self, place: &Place, id: AttachmentId, occupancy: Occupancy) {
        let mut partition = self.partition(place);
        let channel = partition.get_mut(place);
        if let Some(follower) = channel.and_then(|channel| channel.followers.get_mut(&id)) {
            follower.last.get_or_insert(occupancy);
        }
    }

    /// Detaches.
    pub(crate) fn detach(&self, place: &Place, id: AttachmentId) {
        let mut partition = self.partition(place);
        if let Entry::Occupied(mut channel) = partition.entry(place.clone()) {
            let left = channel.get_mut();
            left.subscribers.remove(&id);
            left.followers.remove(&id);
            left.settle();
            if left.is_idle() {
                channel.remove();
            }
        }
    }

    /// Tells a message to everybody who is attached here, and remembers it. Returns its serial, and
    /// whether the channel's activity is to be renewed.
    pub(crate) fn publish(
        &self,
        place: &Place,
        publisher: Option<&str>,
        broadcast: &Arc<Broadcast>,
    ) -> (u64, bool) {
        let now = Instant::now();
        let mut partition = self.partition(place);
        let channel = partition
            .entry(place.clone())
            .or_insert_with(|| self.fresh());
        // Drawn under the lock, so that serials rise along the channel.
        let serial = self.next();
        channel.last = serial;
        channel.memory_bytes += broadcast.size();
        channel.memory.push_back(Remembered {
            at: now,
            serial,
            broadcast: Arc::clone(broadcast),
        });
        channel.forget(&self.config, now);
        let renew = channel
            .renewed
            .is_none_or(|renewed| now - renewed >= ACTIVITY_INTERVAL);
        if renew {
            channel.renewed = Some(now);
        }
        channel.settle();
        let room = self.config.room();
        channel.subscribers.retain(|id, subscriber| {
            let own = publisher.is_some_and(|from| *subscriber.connection == *from);
            if !subscriber.modes.contains(ChannelModes::SUBSCRIBE) || own && !subscriber.echo {
                return true;
            }
            let delivery = Delivery {
                attachment: *id,
                broadcast: Arc::clone(broadcast),
                serial: Some(serial),
            };
            subscriber.mailbox.deliver(delivery, room)
        });
        (serial, renew)
    }

    /// Says whether changes fit into the presence set.
    ///
    /// # Errors
    /// [`SetFull`].
    pub(crate) fn has_room(
        &self,
        place: &Place,
        changes: &[PresenceMessage],
    ) -> Result<(), SetFull> {
        let partition = self.partition(place);
        let Some(channel) = partition.get(place) else {
            return Ok(());
        };
        let fresh = changes
            .iter()
            .filter(|change| !is_leave(change) && !channel.members.contains_key(&member(change)));
        let max = self.config.members_max;
        if channel.members.len() + fresh.count() > max {
            return Err(SetFull { max });
        }
        Ok(())
    }

    /// Changes the presence set and tells it to everybody who follows it here.
    pub(crate) fn presence(
        &self,
        place: &Place,
        changes: Vec<PresenceMessage>,
        broadcast: &Arc<Broadcast>,
    ) {
        let mut partition = self.partition(place);
        let channel = partition
            .entry(place.clone())
            .or_insert_with(|| self.fresh());
        for change in changes {
            if is_leave(&change) {
                channel.members.remove(&member(&change));
            } else {
                let present = PresenceMessage {
                    action: PresenceAction::Present,
                    ..change
                };
                channel.members.insert(member(&present), present);
            }
        }
        let room = self.config.room();
        channel.subscribers.retain(|id, subscriber| {
            if !subscriber.modes.contains(ChannelModes::PRESENCE_SUBSCRIBE) {
                return true;
            }
            let delivery = Delivery {
                attachment: *id,
                broadcast: Arc::clone(broadcast),
                serial: None,
            };
            subscriber.mailbox.deliver(delivery, room)
        });
    }

    /// Returns the presence set.
    pub(crate) fn members(&self, place: &Place) -> Vec<PresenceMessage> {
        let partition = self.partition(place);
        let channel = partition.get(place);
        channel.map_or_else(Vec::new, |channel| {
            channel.members.values().cloned().collect()
        })
    }

    /// Returns what the channel remembers, oldest first.
    pub(crate) fn remembered(&self, place: &Place) -> Vec<(u64, Arc<Broadcast>)> {
        let mut partition = self.partition(place);
        let Some(channel) = partition.get_mut(place) else {
            return Vec::new();
        };
        channel.forget(&self.config, Instant::now());
        channel.after(0)
    }

    /// Tells those who have followed a channel's occupancy for so long what it is now.
    pub(crate) fn occupancy(&self, place: &Place, occupancy: Occupancy, followed_for: Duration) {
        let mut partition = self.partition(place);
        let Some(channel) = partition.get_mut(place) else {
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
            let channels = lock(partition);
            let of_app = channels
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
            lock(partition).retain(|_, channel| {
                channel.forget(&self.config, now);
                !channel.is_idle()
            });
        }
    }

    fn partition(&self, place: &Place) -> MutexGuard<'_, HashMap<Place, Channel>> {
        use std::hash::BuildHasher as _;
        let hash = foldhash::fast::FixedState::default().hash_one(place);
        let index = usize::try_from(hash % PARTITIONS as u64).unwrap_or_default();
        lock(&self.partitions[index])
    }
}

fn lock(partition: &Mutex<HashMap<Place, Channel>>) -> MutexGuard<'_, HashMap<Place, Channel>> {
    partition.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_leave(change: &PresenceMessage) -> bool {
    matches!(
        change.action,
        PresenceAction::Leave | PresenceAction::Absent
    )
}

/// Whose change it is: one client id of one connection.
fn member(change: &PresenceMessage) -> (String, String) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    (text(&change.connection_id), text(&change.client_id))
}

impl Channel {
    fn is_idle(&self) -> bool {
        self.subscribers.is_empty()
            && self.followers.is_empty()
            && self.members.is_empty()
            && self.memory.is_empty()
    }

    /// While nobody is attached here, messages of other nodes do not come: who comes back cannot be
    /// promised that nothing was missed.
    fn settle(&mut self) {
        if self.subscribers.is_empty() {
            self.forgotten = self.last;
        }
    }

    /// Forgets messages that are too old or too many.
    fn forget(&mut self, config: &RealtimeConfig, now: Instant) {
        while let Some(oldest) = self.memory.front() {
            let fits = self.memory.len() <= config.memory_messages_max
                && self.memory_bytes <= config.memory_bytes_max;
            if fits && now - oldest.at <= config.memory {
                break;
            }
            self.forgotten = self.forgotten.max(oldest.serial);
            self.memory_bytes -= oldest.broadcast.size();
            self.memory.pop_front();
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
