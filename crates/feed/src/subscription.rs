//! One subscriber: where it stands in each shard, and what it is told next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use headcount_model::mutants::Mutant;
use headcount_model::{
    ChannelKey, Cursor, Era, Event, EventId, EventKind, Position, RegionName, ShardCursor, ShardId,
    TOLD_MAX, WatchEnd, WatchEvent, WatchFilter, WatchItem,
};

use crate::ahead::Ahead;
use crate::config::Config;
use crate::log::{Page, correction_event};
use crate::ring::{RingEntry, RingItem};
use crate::shard::ShardFeed;

/// Fetch: a subscription needs a stretch of a shard's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The shard.
    pub shard: ShardId,
    /// Everything after this position is wanted; see [`Page::entries`].
    pub after: Position,
}

/// Subscription: one subscriber of some shards' feeds.
///
/// It holds places in the feeds' rings and at most one batch of shared events; its backlog is the
/// rings themselves. Its driver lets it [read](Self::read) the feeds that woke and
/// [takes](Self::take) what there is to say when its subscriber can be written to.
#[derive(Debug)]
pub struct Subscription {
    filter: WatchFilter,
    config: Config,
    readers: BTreeMap<ShardId, Reader>,
    outbox: Outbox,
    fetches: Vec<Fetch>,
    end: Option<WatchEnd>,
    ended: bool,
}

/// What is ready to be taken.
#[derive(Debug)]
struct Outbox {
    /// Up to date after every read.
    cursor: Cursor,
    /// Finished items.
    ready: VecDeque<WatchItem>,
    /// The batch being gathered; `None` where an event was rolled up.
    batch: Vec<Option<Arc<WatchEvent>>>,
    /// How many of the batch are left.
    events: usize,
    /// Places in the batch of the newest occupancy of each channel, while rolling up.
    newest: BTreeMap<ChannelKey, usize>,
    rolled_up: u64,
}

impl Outbox {
    fn tell(&mut self, event: Arc<WatchEvent>, roll_up: bool) {
        if roll_up && event.event.kind == EventKind::Occupancy {
            let older = self
                .newest
                .insert(event.event.channel.clone(), self.batch.len());
            if let Some(older) = older {
                self.batch[older] = None;
                self.events -= 1;
                self.rolled_up += 1;
            }
        }
        self.batch.push(Some(event));
        self.events += 1;
    }

    /// Tells a gap after what was told so far, for which the cursor must be up to date.
    fn gap(&mut self, shard: ShardId, region: Option<RegionName>, after: ShardCursor) {
        self.flush();
        let from = after.log;
        self.cursor.shards.insert(shard, after);
        let cursor = self.cursor.to_token();
        self.ready.push_back(WatchItem::Gap {
            shard,
            region,
            from,
            cursor,
        });
    }

    /// Finishes the batch; the cursor must be up to date.
    fn flush(&mut self) {
        self.newest.clear();
        self.events = 0;
        let events: Vec<_> = self.batch.drain(..).flatten().collect();
        if !events.is_empty() {
            self.ready.push_back(WatchItem::Events {
                events,
                cursor: self.cursor.to_token(),
            });
        }
    }
}

/// A subscriber's place in one shard.
#[derive(Debug)]
struct Reader {
    shard: ShardId,
    /// Every event of the log up to here was told.
    log: Position,
    /// What was told ahead of the log.
    ahead: Option<Box<Ahead>>,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    /// Nothing was read yet and there is no place to resume from; `lost` if there was one once.
    Fresh { lost: bool },
    /// Reads the log, from the journal or the ring, and judges by its own `ahead`.
    Behind(Box<Behind>),
    /// Follows the feed item by item, early transitions included.
    Live(Live),
}

#[derive(Debug, Default)]
struct Behind {
    /// A fetch is under way.
    fetching: bool,
    /// Entries that were fetched and are not told.
    entries: VecDeque<RingEntry>,
    /// How far the journal speaks once `entries` are told.
    through: Option<Position>,
}

#[derive(Debug)]
struct Live {
    /// The next item of the ring.
    offset: u64,
    /// How many of that item's corrections were told.
    corrected: usize,
    /// The feed's count of jumps when this began.
    jumps: u64,
    /// What was told early before this began and is told first.
    backlog: VecDeque<Arc<WatchEvent>>,
    /// Fell behind and has not caught up since.
    rolling_up: bool,
}

impl Subscription {
    /// Returns a subscription to the feeds of `shards`, after `cursor` or from now on.
    ///
    /// Shards that the cursor names and `shards` does not are passed over. A cursor of another era
    /// is answered by a gap in each shard (R20).
    #[must_use]
    pub fn new(
        config: Config,
        era: Era,
        filter: WatchFilter,
        shards: impl IntoIterator<Item = ShardId>,
        cursor: Option<Cursor>,
    ) -> Self {
        let lost = cursor.as_ref().is_some_and(|cursor| cursor.era != era);
        let mut places = cursor.unwrap_or_default().shards;
        let readers = shards.into_iter().map(|shard| {
            let place = places.remove(&shard);
            let reader = match place {
                Some(place) if !lost => Reader::resume(shard, place),
                other => Reader {
                    shard,
                    log: Position::START,
                    ahead: None,
                    mode: Mode::Fresh {
                        lost: other.is_some(),
                    },
                },
            };
            (shard, reader)
        });
        let readers: BTreeMap<ShardId, Reader> = readers.collect();
        let resumed = readers
            .values()
            .filter(|reader| !matches!(reader.mode, Mode::Fresh { .. }));
        let shards = resumed
            .map(|reader| (reader.shard, reader.cursor()))
            .collect();
        Self {
            filter,
            config,
            readers,
            outbox: Outbox {
                cursor: Cursor { era, shards },
                ready: VecDeque::new(),
                batch: Vec::new(),
                events: 0,
                newest: BTreeMap::new(),
                rolled_up: 0,
            },
            fetches: Vec::new(),
            end: None,
            ended: false,
        }
    }

    /// Returns the filter.
    #[must_use]
    pub fn filter(&self) -> &WatchFilter {
        &self.filter
    }

    /// Returns whether a batch is full or an item is ready: to read on makes no sense before a
    /// [`Subscription::take`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.end.is_some()
            || !self.outbox.ready.is_empty()
            || self.outbox.events >= self.config.batch_events_max
    }

    /// Returns how many occupancy events were left out because a newer one of their channel
    /// followed.
    #[must_use]
    pub fn rolled_up(&self) -> u64 {
        self.outbox.rolled_up
    }

    /// Returns whether the subscription has told everything that `feed` holds.
    #[must_use]
    pub fn is_caught_up(&self, feed: &ShardFeed) -> bool {
        let Some(reader) = self.readers.get(&feed.shard()) else {
            return true;
        };
        match &reader.mode {
            Mode::Fresh { .. } => false,
            Mode::Behind(_) => reader.log >= feed.position(),
            Mode::Live(live) => {
                live.jumps == feed.jumps()
                    && live.backlog.is_empty()
                    && live.offset >= feed.ring().end()
            }
        }
    }

    /// Reads what is new in a shard, up to a full batch. Feeds of shards that are not followed are
    /// passed over.
    pub fn read(&mut self, feed: &ShardFeed) {
        if self.is_full() {
            return;
        }
        let Some(reader) = self.readers.get_mut(&feed.shard()) else {
            return;
        };
        let mut read = Read {
            feed,
            filter: &self.filter,
            config: &self.config,
            outbox: &mut self.outbox,
            fetches: &mut self.fetches,
        };
        self.end = read.read(reader);
        self.outbox
            .cursor
            .shards
            .insert(reader.shard, reader.cursor());
    }

    /// Takes what a fetch brought. Call [`Subscription::read`] afterwards. A page that says nothing
    /// new ends the subscription: its journal is behind its feed.
    pub fn page(&mut self, shard: ShardId, page: Page) {
        let Some(reader) = self.readers.get_mut(&shard) else {
            return;
        };
        let Mode::Behind(behind) = &mut reader.mode else {
            return;
        };
        if !std::mem::take(&mut behind.fetching) {
            return;
        }
        let gap = reader.log < page.oldest;
        if gap {
            reader.log = page.oldest;
            reader.ahead = None;
        }
        let log = reader.log;
        let entries = page.entries.into_iter();
        let entries = entries.filter(|entry| Position::end_of(entry.index) > log);
        behind.entries = entries.map(RingEntry::new).collect();
        behind.through = Some(page.through);
        if gap {
            self.outbox.gap(shard, None, reader.cursor());
        } else if behind.entries.is_empty() && page.through <= log {
            self.end = Some(WatchEnd::Unavailable);
        }
    }

    /// Ends the subscription after what was read: a fetch failed, or the node drains.
    pub fn finish(&mut self, reason: WatchEnd) {
        self.end.get_or_insert(reason);
    }

    /// Takes the journal reads that are wanted since the last call, at most one a shard.
    pub fn take_fetches(&mut self) -> Vec<Fetch> {
        std::mem::take(&mut self.fetches)
    }

    /// Takes the next thing to tell. After [`WatchItem::End`] there is nothing more.
    pub fn take(&mut self) -> Option<WatchItem> {
        if self.outbox.ready.is_empty() {
            self.outbox.flush();
        }
        if let Some(item) = self.outbox.ready.pop_front() {
            return Some(item);
        }
        let reason = self.end.filter(|_| !self.ended)?;
        self.ended = true;
        Some(WatchItem::End {
            reason,
            cursor: self.outbox.cursor.to_token(),
        })
    }

    /// Returns the present resume point as an item: what to tell when there was nothing else for a
    /// while. `None` if there is something to [take](Self::take) or the end was told.
    #[must_use]
    pub fn heartbeat(&self) -> Option<WatchItem> {
        let idle = self.end.is_none() && self.outbox.ready.is_empty() && self.outbox.events == 0;
        idle.then(|| WatchItem::Position {
            cursor: self.outbox.cursor.to_token(),
        })
    }

    /// Asserts what must hold between calls.
    ///
    /// # Panics
    /// If the subscription has a bug.
    pub fn invariants(&self) {
        let held = self.outbox.batch.iter().flatten().count();
        assert_eq!(held, self.outbox.events, "I6: events are counted");
        let max = self.config.batch_events_max + self.readers.len() * TOLD_MAX;
        assert!(held <= max, "I6: {held} events in a batch");
    }
}

impl Reader {
    fn resume(shard: ShardId, place: ShardCursor) -> Self {
        Self {
            shard,
            log: place.log,
            ahead: place
                .early
                .filter(|_| !Mutant::CursorWithoutEarly.is_planted())
                .map(|mark| Box::new(Ahead::from_mark(mark))),
            mode: Mode::Behind(Box::default()),
        }
    }

    fn cursor(&self) -> ShardCursor {
        ShardCursor {
            log: self.log,
            early: self.ahead.as_ref().and_then(|ahead| ahead.to_mark()),
        }
    }
}

/// What to do after a step of reading.
enum Next {
    Again,
    Wait,
    End(WatchEnd),
}

/// One call of [`Subscription::read`].
struct Read<'a> {
    feed: &'a ShardFeed,
    filter: &'a WatchFilter,
    config: &'a Config,
    outbox: &'a mut Outbox,
    fetches: &'a mut Vec<Fetch>,
}

impl Read<'_> {
    fn read(&mut self, reader: &mut Reader) -> Option<WatchEnd> {
        while !self.is_full() {
            let next = match reader.mode {
                Mode::Fresh { lost } => self.begin(reader, lost),
                Mode::Behind(_) => self.read_behind(reader),
                Mode::Live(_) => self.read_live(reader),
            };
            match next {
                Next::Again => {}
                Next::Wait => return None,
                Next::End(reason) => return Some(reason),
            }
        }
        None
    }

    fn is_full(&self) -> bool {
        !self.outbox.ready.is_empty() || self.outbox.events >= self.config.batch_events_max
    }

    fn tell(&mut self, event: &Arc<WatchEvent>, roll_up: bool) {
        if self.filter.matches(&event.event) {
            self.outbox.tell(event.clone(), roll_up);
        }
    }

    /// Whether the cursor keeps account of the channel's transitions. Those of both kinds, so that
    /// the log's state can be told from the first one even if only one kind is wanted.
    fn tracks(&self, channel: &ChannelKey) -> bool {
        self.filter.kinds.any_regional() && self.filter.covers(channel)
    }

    fn begin(&mut self, reader: &mut Reader, lost: bool) -> Next {
        reader.log = self.feed.position();
        reader.mode = Mode::Behind(Box::default());
        if lost {
            self.outbox.gap(reader.shard, None, reader.cursor());
        }
        Next::Again
    }

    fn read_behind(&mut self, reader: &mut Reader) -> Next {
        let Reader {
            shard,
            log,
            ahead,
            mode,
        } = reader;
        let Mode::Behind(behind) = mode else {
            return Next::Again;
        };
        while let Some(entry) = behind.entries.front() {
            if !self.read_entry_behind(*shard, log, ahead, entry) {
                return Next::Wait;
            }
            behind.entries.pop_front();
        }
        if let Some(through) = behind.through.take() {
            *log = (*log).max(through);
        }
        let ring = self.feed.ring();
        if behind.fetching {
            return Next::Wait;
        }
        if *log < ring.floor() {
            behind.fetching = true;
            self.fetches.push(Fetch {
                shard: *shard,
                after: *log,
            });
            return Next::Wait;
        }
        for offset in ring.find(*log)..ring.end() {
            if let Some(RingItem::Entry(entry)) = ring.get(offset)
                && Position::end_of(entry.logged.index) > *log
                && !self.read_entry_behind(*shard, log, ahead, entry)
            {
                return Next::Wait;
            }
        }
        *log = (*log).max(self.feed.position());
        let Some(live) = self.join(*log, ahead.as_deref()) else {
            return Next::Wait;
        };
        reader.mode = Mode::Live(live);
        Next::Again
    }

    /// Tells an entry by the log alone. Returns false if it is not finished because the batch is
    /// full.
    fn read_entry_behind(
        &mut self,
        shard: ShardId,
        log: &mut Position,
        ahead: &mut Option<Box<Ahead>>,
        entry: &RingEntry,
    ) -> bool {
        let marks = &entry.logged.marks;
        let known = ahead.as_ref();
        let is_lost = known.is_some_and(|ahead| ahead.is_lost_to(marks, &entry.events));
        for event in &entry.events {
            let position = event.position.unwrap_or_default();
            if position <= *log {
                continue;
            }
            if let Some(lost) = ahead.take_if(|ahead| is_lost && !ahead.was_told(&event.event)) {
                self.lose(shard, *log, *log, &lost);
            }
            if self.is_full() {
                return false;
            }
            if ahead.as_mut().is_none_or(|ahead| ahead.take(&event.event)) {
                self.tell(event, false);
            }
            *log = position;
        }
        if self.is_full() {
            return false;
        }
        let end = Position::end_of(entry.logged.index);
        if let Some(lost) = ahead.take_if(|_| is_lost) {
            self.lose(shard, *log, end, &lost);
        }
        if let Some(known) = ahead {
            let corrections = known.settle(marks);
            let (origin, cause) = (self.feed.origin(), &entry.logged);
            for (channel, correction) in corrections {
                let (region, fence) = (&known.region, known.fence);
                let event = correction_event(cause, origin, region, fence, channel, correction);
                self.tell(&Arc::new(event), false);
            }
        }
        ahead.take_if(|ahead| ahead.is_resolved());
        *log = end;
        true
    }

    /// Tells that one region's transitions cannot be told exactly any more.
    fn lose(&mut self, shard: ShardId, before: Position, after: Position, lost: &Ahead) {
        let cursor = |log, early| ShardCursor { log, early };
        let before = cursor(before, lost.to_mark());
        self.outbox.cursor.shards.insert(shard, before);
        let region = Some(lost.region.clone());
        self.outbox.gap(shard, region, cursor(after, None));
    }

    /// Follows the feed from its end on, if it can bring a subscriber that stands at `log` and was
    /// told `ahead` to what everybody was told there.
    fn join(&self, log: Position, ahead: Option<&Ahead>) -> Option<Live> {
        if log != self.feed.position() {
            return None;
        }
        let kept = self.feed.joinable()?;
        let (fence, number) = self.feed.told_through();
        let told = match ahead {
            None => 0,
            Some(ahead) => {
                let same = ahead.region == *self.feed.region() && ahead.fence == fence;
                // What was told of a channel that is not listed, nobody knows before the log says it.
                let known = same && ahead.is_complete() && ahead.number <= number;
                known.then_some(ahead.number)?
            }
        };
        let mut states: BTreeMap<&ChannelKey, bool> = BTreeMap::new();
        let mut backlog = VecDeque::new();
        for event in kept.range(told.saturating_add(1)..).map(|(_, event)| event) {
            let WatchEvent {
                event: Event {
                    channel, active, ..
                },
                ..
            } = event.as_ref();
            if !self.tracks(channel) {
                continue;
            }
            // Not the second half of a pair (R7) whose first half the log has passed already.
            let before = states.get(channel).copied();
            let before = before.or_else(|| ahead.and_then(|ahead| ahead.told(channel)));
            let before = before.or_else(|| self.feed.logged(channel));
            if before != Some(*active) {
                states.insert(channel, *active);
                backlog.push_back(event.clone());
            }
        }
        Some(Live {
            offset: self.feed.ring().end(),
            corrected: 0,
            jumps: self.feed.jumps(),
            backlog,
            rolling_up: false,
        })
    }

    fn read_live(&mut self, reader: &mut Reader) -> Next {
        let Reader {
            log, ahead, mode, ..
        } = reader;
        let Mode::Live(live) = mode else {
            return Next::Again;
        };
        if live.jumps != self.feed.jumps() {
            *mode = Mode::Behind(Box::default());
            return Next::Again;
        }
        while let Some(event) = live.backlog.front() {
            if self.is_full() {
                return Next::Wait;
            }
            self.read_early(ahead, event);
            live.backlog.pop_front();
        }
        let ring = self.feed.ring();
        if live.offset < ring.start() {
            return Next::End(WatchEnd::TooSlow);
        }
        while let Some(item) = ring.get(live.offset) {
            live.rolling_up |= ring.lag(live.offset) > self.config.rollup_lag_events;
            if self.is_full() {
                return Next::Wait;
            }
            match item {
                RingItem::Early(event) => self.read_early(ahead, event),
                RingItem::Entry(entry) => {
                    if !self.read_entry_live(log, ahead, live, entry) {
                        return Next::Wait;
                    }
                }
            }
            live.offset += 1;
        }
        live.rolling_up = false;
        *log = (*log).max(self.feed.position());
        Next::Wait
    }

    fn read_early(&mut self, ahead: &mut Option<Box<Ahead>>, event: &Arc<WatchEvent>) {
        let EventId::Transition {
            region,
            fence,
            number,
            ..
        } = &event.event.id
        else {
            return;
        };
        if !self.tracks(&event.event.channel) {
            return;
        }
        let known = match ahead {
            Some(known) if known.fence == *fence && known.region == *region => known,
            other => other.insert(Box::new(Ahead::new(region.clone(), *fence))),
        };
        known.tell(*number, &event.event.channel, event.event.active);
        self.tell(event, false);
    }

    /// Tells an entry as the feed judged it. Returns false if it is not finished because the batch
    /// is full.
    fn read_entry_live(
        &mut self,
        log: &mut Position,
        ahead: &mut Option<Box<Ahead>>,
        live: &mut Live,
        entry: &RingEntry,
    ) -> bool {
        for event in &entry.events {
            let position = event.position.unwrap_or_default();
            if position <= *log {
                continue;
            }
            if self.is_full() {
                return false;
            }
            if let Some(ahead) = ahead {
                ahead.take(&event.event);
            }
            if entry.told_already.binary_search(&position.ordinal).is_err() {
                self.tell(event, live.rolling_up);
            }
            *log = position;
        }
        for event in &entry.corrections[live.corrected..] {
            if self.is_full() {
                return false;
            }
            if let Some(ahead) = ahead {
                ahead.supersede(&event.event.channel, event.event.active);
            }
            self.tell(event, false);
            live.corrected += 1;
        }
        live.corrected = 0;
        if let Some(known) = ahead {
            known.settle(&entry.logged.marks);
            if known.is_resolved() || known.fence != entry.fence {
                *ahead = None;
            }
        }
        *log = Position::end_of(entry.logged.index);
        true
    }
}
