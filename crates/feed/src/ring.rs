//! The last things that a shard's feed said, shared by its subscribers.

use std::collections::VecDeque;
use std::sync::Arc;

use headcount_model::{Fence, Logged, Position, WatchEvent};

/// An applied entry as the ring holds it.
#[derive(Debug)]
pub(crate) struct RingEntry {
    /// The entry; its events are in `events` instead.
    pub(crate) logged: Logged,
    /// The entry's events, with ascending positions.
    pub(crate) events: Vec<Arc<WatchEvent>>,
    /// Ordinals of those that whoever follows early was told already, ascending.
    pub(crate) told_already: Vec<u32>,
    /// What whoever follows early is told after the events.
    pub(crate) corrections: Vec<Arc<WatchEvent>>,
    /// The fence that is followed early after the entry.
    pub(crate) fence: Fence,
}

impl RingEntry {
    /// Takes the events out of `logged` and into shared ones.
    pub(crate) fn new(mut logged: Logged) -> Self {
        let events = std::mem::take(&mut logged.events);
        let events = events.into_iter().map(|logged| {
            Arc::new(WatchEvent {
                shard: logged.event.id.shard(),
                position: Some(logged.position),
                event: logged.event,
            })
        });
        Self {
            events: events.collect(),
            logged,
            told_already: Vec::new(),
            corrections: Vec::new(),
            fence: Fence::default(),
        }
    }
}

/// One item of the ring.
#[derive(Debug)]
pub(crate) enum RingItem {
    /// An applied entry.
    Entry(RingEntry),
    /// A transition ahead of the log.
    Early(Arc<WatchEvent>),
}

#[derive(Debug)]
struct Slot {
    item: RingItem,
    /// Log index that the feed had reached with the item.
    index: u64,
    /// Events in all items before this one, ever.
    events_before: u64,
}

/// Ring: the newest items, bounded by their events and numbered by an ever increasing offset.
#[derive(Debug)]
pub(crate) struct Ring {
    slots: VecDeque<Slot>,
    /// Offset of the first slot.
    start: u64,
    /// Events ever pushed; each item counts for one more, so that empty entries are bounded too.
    events: u64,
    /// The ring holds every entry after this position.
    floor: Position,
}

impl Ring {
    pub(crate) fn new(floor: Position) -> Self {
        Self {
            slots: VecDeque::new(),
            start: 0,
            events: 0,
            floor,
        }
    }

    /// Offset of the oldest item.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Offset after the newest item.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.slots.len() as u64
    }

    pub(crate) fn floor(&self) -> Position {
        self.floor
    }

    pub(crate) fn get(&self, offset: u64) -> Option<&RingItem> {
        self.slot(offset).map(|slot| &slot.item)
    }

    /// How many events lie between the item at `offset` and the newest.
    pub(crate) fn lag(&self, offset: u64) -> u64 {
        self.slot(offset)
            .map_or(0, |slot| self.events - slot.events_before)
    }

    /// Offset of the first item that may say something after `position`.
    pub(crate) fn find(&self, position: Position) -> u64 {
        self.start
            + self
                .slots
                .partition_point(|slot| slot.index < position.index) as u64
    }

    /// Appends an item and drops the oldest ones beyond `events_max`, the newest never.
    pub(crate) fn push(&mut self, item: RingItem, index: u64, events_max: u64) {
        let weight = match &item {
            RingItem::Entry(entry) => 1 + (entry.events.len() + entry.corrections.len()) as u64,
            RingItem::Early(_) => 1,
        };
        self.slots.push_back(Slot {
            item,
            index,
            events_before: self.events,
        });
        self.events += weight;
        while self.slots.len() > 1 && self.lag(self.start) > events_max {
            let slot = self.slots.pop_front().expect("more than one slot");
            self.start += 1;
            if let RingItem::Entry(entry) = slot.item {
                self.floor = Position::end_of(entry.logged.index);
            }
        }
    }

    /// Forgets everything; what comes next follows `floor`.
    pub(crate) fn restart(&mut self, floor: Position) {
        self.start = self.end();
        self.slots.clear();
        self.floor = floor;
    }

    fn slot(&self, offset: u64) -> Option<&Slot> {
        let at = offset.checked_sub(self.start)?;
        self.slots.get(usize::try_from(at).ok()?)
    }
}
