//! A naive cluster of one shard: regional owners, a coordinator that logs as design.md section 9
//! says, feeds in three regions, and subscribers that remember what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headcount_feed::{Config, Input, Page, ShardFeed, Start, Subscription};
use headcount_model::{
    ChannelKey, Cursor, Era, Event, EventId, EventKind, Fence, Logged, LoggedEvent, Mark, Now,
    Occupancy, Position, RegionName, ShardId, Stage, Timestamp, WatchEvent, WatchFilter, WatchItem,
};

pub(crate) const ERA: Era = Era(1);
pub(crate) const SHARD: ShardId = ShardId(7);

pub(crate) fn region(n: usize) -> RegionName {
    RegionName::new(["us", "eu", "ap"][n]).unwrap()
}

pub(crate) fn channel(n: usize) -> ChannelKey {
    ChannelKey::new("app", &format!("c{n}")).unwrap()
}

/// A transition as its owner made it.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) event: Event,
    pub(crate) dropped: bool,
}

/// A regional owner under one fence.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub(crate) region: usize,
    pub(crate) fence: Fence,
    active: BTreeSet<ChannelKey>,
    pub(crate) made: Vec<Made>,
}

impl Owner {
    /// Makes a transition of a channel and returns it.
    pub(crate) fn flip(&mut self, channel: &ChannelKey, at: u64) -> Event {
        let active = !self.active.remove(channel);
        if active {
            self.active.insert(channel.clone());
        }
        let mut occupancy = Occupancy::ZERO;
        occupancy.set(headcount_model::Category::Connections, u32::from(active));
        let event = Event {
            id: EventId::Transition {
                era: ERA,
                shard: SHARD,
                region: region(self.region),
                fence: self.fence,
                number: self.made.len() as u64 + 1,
            },
            kind: if active {
                EventKind::RegionActive
            } else {
                EventKind::RegionInactive
            },
            channel: channel.clone(),
            at: Timestamp(at),
            region: region(self.region),
            is_global_master: self.region == 0,
            active,
            occupancy,
        };
        self.made.push(Made {
            event: event.clone(),
            dropped: false,
        });
        event
    }

    pub(crate) fn is_active(&self, channel: &ChannelKey) -> bool {
        self.active.contains(channel)
    }
}

/// What the log says of a region.
#[derive(Clone, Debug, Default)]
pub(crate) struct RegionLog {
    pub(crate) fence: Fence,
    pub(crate) number: u64,
    pub(crate) settled: bool,
    pub(crate) ended: bool,
    /// An expiry under way: the last channel that it looked at.
    pub(crate) expiring: Option<Option<ChannelKey>>,
    pub(crate) active: BTreeSet<ChannelKey>,
}

/// The log of the shard, with its state after every entry.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) entries: Vec<Logged>,
    pub(crate) states: Vec<[RegionLog; 3]>,
    pub(crate) now: [RegionLog; 3],
    events: Vec<Event>,
    marks: Vec<Mark>,
}

impl Log {
    fn new() -> Self {
        Self {
            entries: Vec::new(),
            states: vec![Default::default()],
            now: Default::default(),
            events: Vec::new(),
            marks: Vec::new(),
        }
    }

    /// Index of the last entry; indexes begin at 1.
    pub(crate) fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    fn log_event(&self, kind: EventKind, channel: &ChannelKey, at: usize, active: bool) -> Event {
        let position = Position {
            index: self.last() + 1,
            ordinal: u32::try_from(self.events.len()).unwrap(),
        };
        Event {
            id: EventId::Log {
                era: ERA,
                shard: SHARD,
                position,
            },
            kind,
            channel: channel.clone(),
            at: Timestamp(self.last() + 1),
            region: region(at),
            is_global_master: true,
            active,
            occupancy: Occupancy::ZERO,
        }
    }

    /// Changes a region's activity with `event`, or a log event if there is none, and tells what
    /// follows from it.
    fn change(&mut self, at: usize, channel: &ChannelKey, active: bool, event: Option<Event>) {
        let kind = if active {
            EventKind::RegionActive
        } else {
            EventKind::RegionInactive
        };
        let event = event.unwrap_or_else(|| self.log_event(kind, channel, at, active));
        let anywhere = |now: &[RegionLog; 3]| now.iter().any(|r| r.active.contains(channel));
        let before = anywhere(&self.now);
        if active {
            assert!(
                self.now[at].active.insert(channel.clone()),
                "the log alternates"
            );
        } else {
            assert!(self.now[at].active.remove(channel), "the log alternates");
        }
        self.events.push(event);
        let after = anywhere(&self.now);
        if before != after {
            let kind = if after {
                EventKind::Opened
            } else {
                EventKind::Closed
            };
            self.events.push(self.log_event(kind, channel, 0, after));
        }
    }

    fn transition(&mut self, at: usize, made: &Made) {
        self.now[at].number += 1;
        let event = &made.event;
        if !made.dropped && self.now[at].active.contains(&event.channel) != event.active {
            self.change(at, &event.channel, event.active, Some(event.clone()));
        }
    }

    fn mark_number(&mut self, at: usize, before: u64) {
        let RegionLog { fence, number, .. } = self.now[at];
        if number > before {
            self.marks.push(Mark::Numbered {
                region: region(at),
                fence,
                number,
            });
        }
    }

    pub(crate) fn claim(&mut self, at: usize, fence: Fence, tail: &[Made]) {
        let before = self.now[at].number;
        if !self.now[at].ended {
            for made in tail {
                let made = Made {
                    dropped: false,
                    ..made.clone()
                };
                self.transition(at, &made);
            }
            self.mark_number(at, before);
        }
        let active = std::mem::take(&mut self.now[at].active);
        self.now[at] = RegionLog {
            fence,
            active,
            ..RegionLog::default()
        };
        self.marks.push(Mark::Claimed {
            region: region(at),
            fence,
        });
    }

    pub(crate) fn batch(&mut self, at: usize, made: &[Made]) {
        let before = self.now[at].number;
        for made in made {
            self.transition(at, made);
        }
        self.mark_number(at, before);
    }

    pub(crate) fn settle(&mut self, at: usize) {
        if !std::mem::replace(&mut self.now[at].settled, true) {
            self.marks.push(Mark::Settled {
                region: region(at),
                fence: self.now[at].fence,
            });
        }
    }

    pub(crate) fn expire(&mut self, at: usize, chunk: usize) {
        let this = &mut self.now[at];
        if !std::mem::replace(&mut this.ended, true) {
            this.expiring = Some(None);
        }
        let Some(after) = this.expiring.take() else {
            return;
        };
        let channels = this
            .active
            .iter()
            .filter(|c| after.as_ref().is_none_or(|after| *c > after));
        let channels: Vec<ChannelKey> = channels.take(chunk).cloned().collect();
        if channels.len() == chunk {
            this.expiring = Some(channels.last().cloned());
        }
        let done = this.expiring.is_none();
        let fence = this.fence;
        self.marks.push(Mark::Expired {
            region: region(at),
            fence,
            done,
        });
        for channel in channels {
            self.change(at, &channel, false, None);
        }
    }

    pub(crate) fn occupancy(&mut self, channel: &ChannelKey) {
        if self.now.iter().any(|r| r.active.contains(channel)) {
            self.events
                .push(self.log_event(EventKind::Occupancy, channel, 0, true));
        }
    }

    /// Ends the entry.
    pub(crate) fn commit(&mut self) {
        let index = self.last() + 1;
        let events = std::mem::take(&mut self.events);
        let logged = events
            .into_iter()
            .enumerate()
            .map(|(ordinal, event)| LoggedEvent {
                position: Position {
                    index,
                    ordinal: u32::try_from(ordinal).unwrap(),
                },
                previous: None,
                event,
            });
        self.entries.push(Logged {
            index,
            stamp: Timestamp(index),
            coordinator: region(0),
            events: logged.collect(),
            marks: std::mem::take(&mut self.marks),
        });
        self.states.push(self.now.clone());
    }

    pub(crate) fn start(&self, index: u64, at: usize) -> Start {
        let state = &self.states[usize::try_from(index).unwrap()][at];
        Start {
            position: Position::end_of(index),
            fence: state.fence,
            number: state.number,
            expired: state.ended,
        }
    }

    /// A stretch of the journal, as a driver would read it.
    pub(crate) fn page(&self, after: Position, oldest: u64, through: u64, max: usize) -> Page {
        let entries = self.entries.iter().filter(|entry| {
            entry.index > oldest
                && entry.index <= through
                && Position::end_of(entry.index) > after.max(Position::end_of(oldest))
        });
        let entries: Vec<Logged> = entries.take(max).cloned().collect();
        let last = entries.last().map_or(through, |entry| entry.index);
        let oldest = if oldest == 0 {
            Position::START
        } else {
            Position::end_of(oldest)
        };
        Page {
            oldest,
            entries,
            through: Position::end_of(last),
        }
    }
}

/// A node's feed, with the early transitions that are on their way to it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) region: usize,
    pub(crate) feed: ShardFeed,
    pub(crate) applied: u64,
    pub(crate) early: Vec<Event>,
}

/// What a subscriber remembers.
#[derive(Debug)]
pub(crate) struct Watcher {
    pub(crate) node: usize,
    pub(crate) filter: WatchFilter,
    pub(crate) subscription: Subscription,
    /// What it was told and has not forgotten.
    pub(crate) told: Vec<WatchItem>,
    /// Index of the log at which it began: what it knows is the log's state there.
    pub(crate) begun: u64,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) log: Log,
    pub(crate) oldest: u64,
    pub(crate) owners: Vec<Owner>,
    fences: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) bodies: BTreeMap<EventId, Event>,
    page_max: usize,
}

/// The region of each node: two in the first, so that a subscriber also moves inside a region.
pub(crate) const NODES: [usize; 4] = [0, 0, 1, 2];

impl World {
    pub(crate) fn new(config: Config) -> Self {
        let nodes = NODES.map(|at| Node {
            region: at,
            feed: ShardFeed::new(config.clone(), ERA, SHARD, region(at), Start::default()),
            applied: 0,
            early: Vec::new(),
        });
        Self {
            config,
            log: Log::new(),
            oldest: 0,
            owners: Vec::new(),
            fences: 0,
            nodes: nodes.into(),
            watchers: Vec::new(),
            bodies: BTreeMap::new(),
            page_max: 3,
        }
    }

    pub(crate) fn owner(&mut self, at: usize) -> Option<&mut Owner> {
        let fence = self.log.now[at].fence;
        self.owners
            .iter_mut()
            .find(|owner| owner.region == at && owner.fence == fence)
    }

    /// A new owner claims the region, with at most `tail_max` of what the last one told.
    pub(crate) fn claim(&mut self, at: usize, tail_max: usize) {
        self.fences += 1;
        let fence = Fence(self.fences);
        let number = usize::try_from(self.log.now[at].number).unwrap();
        let tail: Vec<Made> = self.owner(at).map_or_else(Vec::new, |owner| {
            owner.made[number..]
                .iter()
                .take(tail_max)
                .cloned()
                .collect()
        });
        self.log.claim(at, fence, &tail);
        self.log.commit();
        let active = self.log.now[at].active.clone();
        self.owners.push(Owner {
            region: at,
            fence,
            active,
            made: Vec::new(),
        });
    }

    /// The region's owner, or a deposed one of it, makes a transition and tells its region.
    pub(crate) fn flip(&mut self, at: usize, channel: &ChannelKey, deposed: Option<usize>) {
        let stamp = 1_000 + self.log.last();
        let settled = self.log.now[at].settled;
        let owner = match deposed {
            None => self.owner(at),
            Some(n) => {
                let count = self
                    .owners
                    .iter()
                    .filter(|owner| owner.region == at)
                    .count();
                let mut all = self.owners.iter_mut().filter(|owner| owner.region == at);
                if count == 0 { None } else { all.nth(n % count) }
            }
        };
        let Some(owner) = owner else { return };
        if deposed.is_none() && !settled && owner.is_active(channel) {
            return; // R9: no inactive before adoption ends.
        }
        let event = owner.flip(channel, stamp);
        for node in self.nodes.iter_mut().filter(|node| node.region == at) {
            node.early.push(event.clone());
        }
    }

    /// The owner's next `count` transitions are logged.
    pub(crate) fn ship(&mut self, at: usize, count: usize) {
        let number = usize::try_from(self.log.now[at].number).unwrap();
        let ended = self.log.now[at].ended;
        let Some(owner) = self.owner(at) else { return };
        let made: Vec<Made> = owner.made[number..].iter().take(count).cloned().collect();
        if !ended && !made.is_empty() {
            self.log.batch(at, &made);
        }
    }

    /// The owner drops an adjacent pair of the channel that it never sent (R7).
    pub(crate) fn drop_pair(&mut self, at: usize, channel: &ChannelKey) {
        let number = usize::try_from(self.log.now[at].number).unwrap();
        let Some(owner) = self.owner(at) else { return };
        let made = owner.made[number..].iter_mut();
        let unsent: Vec<&mut Made> = made
            .filter(|made| made.event.channel == *channel && !made.dropped)
            .collect();
        for made in unsent
            .into_iter()
            .take(2)
            .collect::<Vec<_>>()
            .chunks_exact_mut(2)
            .flatten()
        {
            made.dropped = true;
        }
    }

    pub(crate) fn step(&mut self, node: usize, input: Input) {
        self.nodes[node]
            .feed
            .step(Now::default(), input, &mut Vec::new());
    }

    /// An early transition reaches a node.
    pub(crate) fn hear(&mut self, node: usize, event: Event) {
        let Node {
            region, applied, ..
        } = self.nodes[node];
        let state = &self.log.states[usize::try_from(applied).unwrap()][region];
        let logged = state.active.contains(&event.channel);
        self.step(node, Input::Early { event, logged });
    }

    pub(crate) fn apply(&mut self, node: usize, count: u64) {
        for _ in 0..count {
            let at = usize::try_from(self.nodes[node].applied).unwrap();
            let Some(logged) = self.log.entries.get(at).cloned() else {
                return;
            };
            self.nodes[node].applied += 1;
            let silent = logged.events.is_empty() && logged.marks.is_empty();
            let input = if silent {
                Input::Advanced(Position::end_of(logged.index))
            } else {
                Input::Logged(logged)
            };
            self.step(node, input);
        }
    }

    pub(crate) fn restart(&mut self, node: usize) {
        let at = self.nodes[node].region;
        let start = self.log.start(self.nodes[node].applied, at);
        let feed = ShardFeed::new(self.config.clone(), ERA, SHARD, region(at), start);
        self.nodes[node].feed = feed;
        for watcher in 0..self.watchers.len() {
            if self.watchers[watcher].node == node {
                self.resume(watcher, node, 0);
            }
        }
    }

    pub(crate) fn jump(&mut self, node: usize, to: u64) {
        let at = self.nodes[node].region;
        if to > self.nodes[node].applied {
            self.nodes[node].applied = to;
            self.step(node, Input::Jumped(self.log.start(to, at)));
        }
    }

    pub(crate) fn watch(&mut self, node: usize, filter: WatchFilter) -> usize {
        let subscription =
            Subscription::new(self.config.clone(), ERA, filter.clone(), [SHARD], None);
        let begun = self.nodes[node].applied;
        self.watchers.push(Watcher {
            node,
            filter,
            subscription,
            told: Vec::new(),
            begun,
        });
        let watcher = self.watchers.len() - 1;
        self.read(watcher, 0);
        watcher
    }

    /// Lets a watcher read, and take at most `items`.
    pub(crate) fn read(&mut self, watcher: usize, items: usize) {
        let this = &mut self.watchers[watcher];
        let node = &self.nodes[this.node];
        this.subscription.read(&node.feed);
        this.subscription.invariants();
        for _ in 0..items {
            for fetch in this.subscription.take_fetches() {
                let page = self
                    .log
                    .page(fetch.after, self.oldest, node.applied, self.page_max);
                this.subscription.page(fetch.shard, page);
                this.subscription.read(&node.feed);
            }
            let item = this
                .subscription
                .take()
                .or_else(|| this.subscription.heartbeat());
            let Some(item) = item else { break };
            if let WatchItem::Events { events, .. } = &item {
                for event in events {
                    let first = self.bodies.entry(event.event.id.clone());
                    let first = first.or_insert_with(|| event.event.clone());
                    assert_eq!(*first, event.event, "R12: same id, same body");
                }
            }
            this.told.push(item);
            this.subscription.read(&node.feed);
            this.subscription.invariants();
        }
    }

    /// A watcher forgets its last `forget` items and resumes on a node.
    pub(crate) fn resume(&mut self, watcher: usize, node: usize, forget: usize) {
        let this = &mut self.watchers[watcher];
        let keep = this.told.len().saturating_sub(forget);
        this.told.truncate(keep);
        let cursor = match this.told.last().map(cursor_of) {
            Some(token) => Cursor::from_token(token).unwrap(),
            None => {
                let mut cursor = Cursor {
                    era: ERA,
                    ..Cursor::default()
                };
                let log = Position::end_of(this.begun);
                cursor
                    .shards
                    .insert(SHARD, headcount_model::ShardCursor { log, early: None });
                cursor
            }
        };
        this.node = node;
        this.subscription = Subscription::new(
            self.config.clone(),
            ERA,
            this.filter.clone(),
            [SHARD],
            Some(cursor),
        );
    }

    /// Everything heals: owners settle, everything is sent, logged, applied and read.
    pub(crate) fn quiesce(&mut self) {
        for at in 0..3 {
            while self.log.now[at].expiring.is_some() {
                self.log.expire(at, 2);
                self.log.commit();
            }
            if self.log.now[at].fence == Fence(0) || self.log.now[at].ended {
                self.claim(at, 0);
            }
            self.ship(at, usize::MAX);
            self.log.commit();
            self.log.settle(at);
            self.log.commit();
        }
        for node in 0..self.nodes.len() {
            self.apply(node, u64::MAX);
        }
        for watcher in 0..self.watchers.len() {
            let node = self.watchers[watcher].node;
            for _ in 0..200 {
                self.read(watcher, 8);
                let this = &self.watchers[watcher];
                let last = this.told.last();
                if matches!(last, Some(WatchItem::End { .. })) {
                    self.resume(watcher, node, 0);
                } else if this.subscription.is_caught_up(&self.nodes[node].feed)
                    && matches!(last, Some(WatchItem::Position { .. }))
                {
                    break;
                }
            }
            let this = &self.watchers[watcher];
            assert!(this.subscription.is_caught_up(&self.nodes[node].feed));
            let cursor = Cursor::from_token(cursor_of(this.told.last().unwrap())).unwrap();
            assert_eq!(
                cursor.shards[&SHARD].early, None,
                "the log has everything that was told"
            );
        }
    }
}

pub(crate) fn cursor_of(item: &WatchItem) -> &str {
    match item {
        WatchItem::Events { cursor, .. }
        | WatchItem::Gap { cursor, .. }
        | WatchItem::Position { cursor }
        | WatchItem::End { cursor, .. } => cursor,
    }
}

pub(crate) fn events_of(told: &[WatchItem]) -> impl Iterator<Item = &Arc<WatchEvent>> {
    told.iter()
        .filter_map(|item| match item {
            WatchItem::Events { events, .. } => Some(events),
            WatchItem::Gap { .. } | WatchItem::Position { .. } | WatchItem::End { .. } => None,
        })
        .flatten()
}
