//! What an edge wants a node to know, what the node was told, and the difference between the two.
//!
//! Pure: no stream, no clock. A change only moves what is wanted; batches are made by comparing, so
//! whatever changes back and forth before it is sent costs nothing.

use std::collections::{BTreeMap, VecDeque};

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use headcount_model::mutants::Mutant;
use headcount_model::{
    CHANNEL_BYTES_MAX, ChannelName, ConnectionId, ID_BYTES_MAX, MemberId, Modes, Occupancy,
    RefusalCode, ReportBatch, ReportItem, ReportLimits,
};

/// Bytes of an item beside its names, generously: tags, lengths, modes, eight counts.
const ITEM_BYTES: usize = 80;

/// Bytes of the largest item.
const ITEM_BYTES_MAX: usize = ITEM_BYTES + CHANNEL_BYTES_MAX + 2 * ID_BYTES_MAX;

/// A batch whose items may have to be looked at again, one by one.
pub(crate) type Batch = ReportBatch<Vec<ReportItem>>;

/// A connection's place on a channel, as wanted and as told.
#[derive(Debug)]
struct Attachment {
    connection: ConnectionId,
    channel: ChannelName,
    wanted: Option<Modes>,
    told: Option<Modes>,
    /// Ascending by id.
    members: Vec<Member>,
    queued: bool,
}

#[derive(Debug)]
struct Member {
    id: MemberId,
    wanted: bool,
    told: bool,
}

impl Attachment {
    /// Returns the next thing to tell, and takes it as told.
    fn next_item(&mut self) -> Option<ReportItem> {
        let (connection, channel) = (self.connection.clone(), self.channel.clone());
        if self.wanted != self.told {
            self.told = self.wanted;
            let Some(modes) = self.wanted else {
                self.members.clear();
                return Some(ReportItem::Detach {
                    connection,
                    channel,
                });
            };
            if !modes.contains(Modes::PRESENCE) {
                // The node lets them leave by itself.
                self.members.retain(|member| member.wanted);
                self.members
                    .iter_mut()
                    .for_each(|member| member.told = false);
            }
            return Some(ReportItem::Attach {
                connection,
                channel,
                modes,
            });
        }
        let changed = |member: &Member| member.wanted != member.told;
        let index = self.members.iter().position(changed)?;
        let member = &mut self.members[index];
        member.told = member.wanted;
        let id = member.id.clone();
        if member.wanted {
            return Some(ReportItem::PresenceEnter {
                connection,
                channel,
                member: id,
            });
        }
        self.members.remove(index);
        Some(ReportItem::PresenceLeave {
            connection,
            channel,
            member: id,
        })
    }

    fn is_told(&self) -> bool {
        self.wanted == self.told
            && self
                .members
                .iter()
                .all(|member| member.wanted == member.told)
    }
}

/// Counts of a channel, as wanted and as told.
#[derive(Debug, Default)]
struct Counts {
    wanted: Occupancy,
    told: Occupancy,
    queued: bool,
}

/// What may have to be told.
#[derive(Clone, Debug)]
enum Key {
    Attachment(usize),
    Counts(ChannelName),
    Activity(ChannelName),
}

/// A batch that was sent and is not acknowledged.
#[derive(Debug)]
struct Sent<W> {
    batch: Batch,
    /// Whoever waits for this batch.
    waiting: Vec<W>,
}

/// An item that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What it said.
    pub item: ReportItem,
    /// The kind of refusal. Unknown ones, of a newer node, are `None`.
    pub code: Option<RefusalCode>,
    /// What the node said about it.
    pub message: String,
}

/// What an edge wants to be known, and how far that is told. `W` is whoever waits for a flush.
#[derive(Debug)]
pub(crate) struct Outbox<W> {
    attachments: Vec<Option<Attachment>>,
    free: Vec<usize>,
    places: HashMap<ConnectionId, BTreeMap<ChannelName, usize>>,
    counts: HashMap<ChannelName, Counts>,
    active: HashSet<ChannelName>,
    queue: VecDeque<Key>,
    /// Keys ever queued and ever taken; flushes are marked by the first.
    queued: u64,
    taken: u64,
    /// What is to be told before the set is complete; `None` once it was said.
    complete_at: Option<u64>,
    waiting: VecDeque<(u64, W)>,
    sent: VecDeque<Sent<W>>,
    /// Sequence of the last batch made.
    sequence: u64,
    /// Refused for lack of room, to be tried again.
    overloaded: Vec<ReportItem>,
}

impl<W> Outbox<W> {
    pub(crate) fn new() -> Self {
        Self {
            attachments: Vec::new(),
            free: Vec::new(),
            places: HashMap::new(),
            counts: HashMap::new(),
            active: HashSet::new(),
            queue: VecDeque::new(),
            queued: 0,
            taken: 0,
            complete_at: Some(0),
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            sequence: 0,
            overloaded: Vec::new(),
        }
    }

    /// Returns how many keys wait to be told.
    pub(crate) fn pending(&self) -> usize {
        self.queue.len()
    }

    /// Returns how many batches are not acknowledged.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.sent.len()
    }

    /// Returns whether there is anything to make a batch of.
    pub(crate) fn has_work(&self) -> bool {
        !self.queue.is_empty() || self.complete_at.is_some()
    }

    pub(crate) fn has_overloaded(&self) -> bool {
        !self.overloaded.is_empty()
    }

    /// Takes a change of what is wanted.
    pub(crate) fn change(&mut self, item: ReportItem) {
        match item {
            ReportItem::Attach {
                connection,
                channel,
                modes,
            } => {
                let place = self.place(connection, channel);
                let attachment = self.attachment(place);
                attachment.wanted = Some(modes);
                if !modes.contains(Modes::PRESENCE) {
                    attachment
                        .members
                        .iter_mut()
                        .for_each(|member| member.wanted = false);
                }
                self.queue_attachment(place);
            }
            ReportItem::Detach {
                connection,
                channel,
            } => {
                let of_connection = self.places.get(&connection);
                if let Some(place) = of_connection.and_then(|places| places.get(&channel)) {
                    self.detach(*place);
                }
            }
            ReportItem::PresenceEnter {
                connection,
                channel,
                member,
            } => {
                let place = self.place(connection, channel);
                self.set_member(place, member, true);
            }
            ReportItem::PresenceLeave {
                connection,
                channel,
                member,
            } => {
                let of_connection = self.places.get(&connection);
                if let Some(place) = of_connection.and_then(|places| places.get(&channel)) {
                    self.set_member(*place, member, false);
                }
            }
            ReportItem::ConnectionClosed { connection } => {
                let of_connection = self.places.get(&connection);
                let places: Vec<_> = of_connection
                    .into_iter()
                    .flat_map(|p| p.values().copied())
                    .collect();
                for place in places {
                    self.detach(place);
                }
            }
            ReportItem::Counts { channel, occupancy } => {
                self.counts.entry(channel.clone()).or_default().wanted = occupancy;
                self.queue_counts(channel);
            }
            ReportItem::Activity { channel } => {
                if self.active.insert(channel.clone()) {
                    self.push(Key::Activity(channel));
                }
            }
        }
    }

    fn detach(&mut self, place: usize) {
        let attachment = self.attachment(place);
        attachment.wanted = None;
        for member in &mut attachment.members {
            member.wanted = false;
        }
        self.queue_attachment(place);
    }

    fn set_member(&mut self, place: usize, id: MemberId, wanted: bool) {
        let members = &mut self.attachment(place).members;
        match members.binary_search_by(|member| member.id.cmp(&id)) {
            Ok(index) => members[index].wanted = wanted,
            Err(index) if wanted => members.insert(
                index,
                Member {
                    id,
                    wanted,
                    told: false,
                },
            ),
            Err(_) => return,
        }
        self.queue_attachment(place);
    }

    /// Calls `waiter` when everything wanted by now is acknowledged: gives it back at once if it
    /// is, else with the acknowledgement.
    pub(crate) fn flush(&mut self, waiter: W) -> Option<W> {
        if !self.has_work() {
            let Some(last) = self.sent.back_mut() else {
                return Some(waiter);
            };
            last.waiting.push(waiter);
        } else {
            self.waiting.push_back((self.queued, waiter));
        }
        None
    }

    /// Makes the next batch within the limits, and keeps it until it is acknowledged. The caller
    /// sees to the window.
    pub(crate) fn next_batch(&mut self, limits: &ReportLimits) -> Option<&Batch> {
        if !self.has_work() {
            return None;
        }
        // The batch's own fields take less than an item.
        let room = (limits.batch_bytes_max as usize).saturating_sub(ITEM_BYTES + ITEM_BYTES_MAX);
        let most = limits.batch_items_max as usize;
        let mut items = Vec::with_capacity(most.min(self.queue.len()));
        let mut bytes = 0;
        while items.len() < most && bytes <= room {
            let Some(key) = self.queue.pop_front() else {
                break;
            };
            let (item, is_done) = self.tell(&key);
            if let Some(item) = item {
                bytes += size_of(&item);
                items.push(item);
            }
            if is_done {
                self.taken += 1;
            } else {
                self.queue.push_front(key);
            }
        }
        let set_complete = self.complete_at.is_some_and(|at| self.taken >= at);
        if set_complete {
            self.complete_at = None;
        }
        self.sequence += 1;
        let mut waiting = Vec::new();
        while self
            .waiting
            .front()
            .is_some_and(|(at, _)| *at <= self.taken)
        {
            waiting.extend(self.waiting.pop_front().map(|(_, waiter)| waiter));
        }
        self.sent.push_back(Sent {
            batch: Batch {
                sequence: self.sequence,
                items,
                set_complete,
            },
            waiting,
        });
        self.sent.back().map(|sent| &sent.batch)
    }

    /// Returns what a key has to tell, and whether that is all.
    fn tell(&mut self, key: &Key) -> (Option<ReportItem>, bool) {
        match key {
            Key::Attachment(place) => {
                let attachment = self.attachment(*place);
                let item = attachment.next_item();
                let is_done = attachment.is_told();
                if is_done {
                    attachment.queued = false;
                    if attachment.wanted.is_none() {
                        self.drop_attachment(*place);
                    }
                }
                (item, is_done)
            }
            Key::Counts(channel) => {
                let Some(counts) = self.counts.get_mut(channel) else {
                    return (None, true);
                };
                counts.queued = false;
                let changed = counts.wanted != counts.told;
                let occupancy = counts.wanted;
                counts.told = occupancy;
                if occupancy.is_zero() {
                    self.counts.remove(channel);
                }
                let channel = channel.clone();
                let item = ReportItem::Counts { channel, occupancy };
                (changed.then_some(item), true)
            }
            Key::Activity(channel) => {
                self.active.remove(channel);
                let channel = channel.clone();
                (Some(ReportItem::Activity { channel }), true)
            }
        }
    }

    /// Returns every batch that is not acknowledged, in order, to be sent once more.
    pub(crate) fn unacknowledged_batches(&self) -> impl Iterator<Item = &Batch> {
        self.sent.iter().map(|sent| &sent.batch)
    }

    /// Takes an acknowledgement of `sequence` with its refusals: index, code and message. Returns
    /// what was refused and who need not wait any longer.
    pub(crate) fn acknowledge(
        &mut self,
        sequence: u64,
        refusals: Vec<(u32, Option<RefusalCode>, String)>,
    ) -> (Vec<Refused>, Vec<W>) {
        let mut refused = Vec::new();
        let mut done = Vec::new();
        while self
            .sent
            .front()
            .is_some_and(|sent| sent.batch.sequence < sequence)
        {
            done.extend(
                self.sent
                    .pop_front()
                    .into_iter()
                    .flat_map(|sent| sent.waiting),
            );
        }
        if self
            .sent
            .front()
            .is_none_or(|sent| sent.batch.sequence != sequence)
        {
            return (refused, done);
        }
        let Some(sent) = self.sent.pop_front() else {
            return (refused, done);
        };
        for (index, code, message) in refusals {
            let Some(item) = sent.batch.items.get(index as usize).cloned() else {
                continue;
            };
            if self.is_worth_retrying(&item, code) {
                self.overloaded.push(item.clone());
            } else {
                self.give_up(&item);
            }
            refused.push(Refused {
                item,
                code,
                message,
            });
        }
        done.extend(sent.waiting);
        (refused, done)
    }

    /// Returns whether a refusal may be different next time: the node was full, or had no room for
    /// the attachment that a member needs.
    fn is_worth_retrying(&self, item: &ReportItem, code: Option<RefusalCode>) -> bool {
        if code == Some(RefusalCode::NotAttached)
            && let ReportItem::PresenceEnter {
                connection,
                channel,
                ..
            } = item
        {
            let place = self.find(connection, channel);
            let held = place.and_then(|place| self.attachments[place].as_ref());
            return held.is_some_and(|attachment| attachment.wanted.is_some());
        }
        code == Some(RefusalCode::Overloaded)
    }

    /// Forgets what was refused for good, unless something else is wanted by now.
    fn give_up(&mut self, item: &ReportItem) {
        match item {
            ReportItem::Attach {
                connection,
                channel,
                modes,
            } => {
                if let Some(place) = self.find(connection, channel) {
                    let attachment = self.attachment(place);
                    if attachment.wanted == Some(*modes) && attachment.told == Some(*modes) {
                        attachment.wanted = None;
                        attachment.told = None;
                        attachment.members.clear();
                        if !attachment.queued {
                            self.drop_attachment(place);
                        }
                    }
                }
            }
            ReportItem::PresenceEnter {
                connection,
                channel,
                member,
            } => {
                if let Some(place) = self.find(connection, channel) {
                    let members = &mut self.attachment(place).members;
                    members.retain(|held| held.id != *member || !held.told || !held.wanted);
                    self.drop_if_unwanted(place);
                }
            }
            ReportItem::Counts { channel, occupancy } => {
                let counts = self.counts.get(channel);
                if counts.is_some_and(|held| held.told == *occupancy && held.wanted == *occupancy) {
                    self.counts.remove(channel);
                }
            }
            ReportItem::Detach { .. }
            | ReportItem::PresenceLeave { .. }
            | ReportItem::ConnectionClosed { .. }
            | ReportItem::Activity { .. } => {}
        }
    }

    /// Queues again what was refused for lack of room.
    pub(crate) fn retry(&mut self) {
        for item in std::mem::take(&mut self.overloaded) {
            self.untell(&item);
        }
    }

    /// Takes an item as not told, where it says what is still wanted.
    fn untell(&mut self, item: &ReportItem) {
        match item {
            ReportItem::Attach {
                connection,
                channel,
                modes,
            } => {
                if let Some(place) = self.find(connection, channel) {
                    let attachment = self.attachment(place);
                    if attachment.told == Some(*modes) {
                        attachment.told = None;
                    }
                    self.queue_attachment(place);
                }
            }
            ReportItem::PresenceEnter {
                connection,
                channel,
                member,
            } => {
                if let Some(place) = self.find(connection, channel) {
                    let members = &mut self.attachment(place).members;
                    if let Some(held) = members.iter_mut().find(|held| held.id == *member) {
                        held.told = false;
                    }
                    self.queue_attachment(place);
                }
            }
            ReportItem::Counts { channel, occupancy } => {
                if let Some(counts) = self.counts.get_mut(channel) {
                    if counts.told == *occupancy {
                        counts.told = Occupancy::ZERO;
                    }
                    self.queue_counts(channel.clone());
                }
            }
            ReportItem::Activity { channel } => {
                let channel = channel.clone();
                self.change(ReportItem::Activity { channel });
            }
            // These take something away, which no node refuses for lack of room.
            ReportItem::Detach { .. }
            | ReportItem::PresenceLeave { .. }
            | ReportItem::ConnectionClosed { .. } => {}
        }
    }

    /// Starts a session in which nothing was told: queues all that is wanted.
    pub(crate) fn start_session(&mut self) {
        self.sequence = 0;
        let unanswered = std::mem::take(&mut self.sent);
        self.queue.retain(|key| matches!(key, Key::Activity(_)));
        self.taken = self.queued - self.queue.len() as u64;
        self.overloaded.clear();
        for place in 0..self.attachments.len() {
            let Some(attachment) = &mut self.attachments[place] else {
                continue;
            };
            if Mutant::ForgetDetach.is_planted() && attachment.wanted.is_none() {
                attachment.wanted = attachment.told;
            }
            attachment.told = None;
            attachment.queued = false;
            attachment.members.retain(|member| member.wanted);
            for member in &mut attachment.members {
                member.told = false;
            }
            if attachment.wanted.is_none() && attachment.members.is_empty() {
                self.drop_attachment(place);
            } else {
                self.queue_attachment(place);
            }
        }
        self.counts.retain(|_, counts| !counts.wanted.is_zero());
        for counts in self.counts.values_mut() {
            counts.told = Occupancy::ZERO;
            counts.queued = false;
        }
        // In the order of their names, so that the same history makes the same batches.
        let mut channels: Vec<_> = self.counts.keys().cloned().collect();
        channels.sort_unstable();
        for channel in channels {
            self.queue_counts(channel);
        }
        self.complete_at = Some(self.queued);
        // Whoever waited for what was told before waits for all of it now.
        let waiters = unanswered.into_iter().flat_map(|sent| sent.waiting);
        let others = std::mem::take(&mut self.waiting)
            .into_iter()
            .map(|(_, waiter)| waiter);
        self.waiting = waiters
            .chain(others)
            .map(|waiter| (self.queued, waiter))
            .collect();
    }

    fn push(&mut self, key: Key) {
        self.queue.push_back(key);
        self.queued += 1;
    }

    fn queue_attachment(&mut self, place: usize) {
        let attachment = self.attachment(place);
        if !std::mem::replace(&mut attachment.queued, true) {
            self.push(Key::Attachment(place));
        }
    }

    fn queue_counts(&mut self, channel: ChannelName) {
        let counts = self.counts.entry(channel.clone()).or_default();
        if !std::mem::replace(&mut counts.queued, true) {
            self.push(Key::Counts(channel));
        }
    }

    fn find(&self, connection: &ConnectionId, channel: &ChannelName) -> Option<usize> {
        self.places.get(connection)?.get(channel).copied()
    }

    /// Returns the place of an attachment, making one if there is none.
    fn place(&mut self, connection: ConnectionId, channel: ChannelName) -> usize {
        if let Some(place) = self.find(&connection, &channel) {
            return place;
        }
        let attachment = Some(Attachment {
            connection: connection.clone(),
            channel: channel.clone(),
            wanted: None,
            told: None,
            members: Vec::new(),
            queued: false,
        });
        let place = if let Some(place) = self.free.pop() {
            self.attachments[place] = attachment;
            place
        } else {
            self.attachments.push(attachment);
            self.attachments.len() - 1
        };
        self.places
            .entry(connection)
            .or_default()
            .insert(channel, place);
        place
    }

    fn attachment(&mut self, place: usize) -> &mut Attachment {
        self.attachments[place]
            .as_mut()
            .expect("places lead to attachments")
    }

    fn drop_if_unwanted(&mut self, place: usize) {
        let attachment = self.attachment(place);
        let is_empty = attachment.wanted.is_none() && attachment.told.is_none();
        if is_empty && attachment.members.is_empty() && !attachment.queued {
            self.drop_attachment(place);
        }
    }

    fn drop_attachment(&mut self, place: usize) {
        let Some(gone) = self.attachments[place].take() else {
            return;
        };
        self.free.push(place);
        if let Some(places) = self.places.get_mut(&gone.connection) {
            places.remove(&gone.channel);
            if places.is_empty() {
                self.places.remove(&gone.connection);
            }
        }
    }
}

/// Returns at least the bytes that an item takes in an encoded batch.
fn size_of(item: &ReportItem) -> usize {
    let (connection, member) = match item {
        ReportItem::Attach { connection, .. }
        | ReportItem::Detach { connection, .. }
        | ReportItem::ConnectionClosed { connection } => (Some(connection), None),
        ReportItem::PresenceEnter {
            connection, member, ..
        }
        | ReportItem::PresenceLeave {
            connection, member, ..
        } => (Some(connection), Some(member)),
        ReportItem::Counts { .. } | ReportItem::Activity { .. } => (None, None),
    };
    let channel = item.channel().map_or(0, |channel| channel.as_str().len());
    let connection = connection.map_or(0, |connection| connection.as_str().len());
    let member = member.map_or(0, |member| member.as_str().len());
    ITEM_BYTES + channel + connection + member
}

#[cfg(test)]
mod tests;
