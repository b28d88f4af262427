//! One shard's events in the order in which this node tells them.

use std::collections::BTreeMap;
use std::sync::Arc;

use headcount_model::mutants::Mutant;
use headcount_model::{
    ChannelKey, Era, Event, EventId, Fence, Logged, Mark, Monotonic, Now, Position, RegionName,
    ShardId, Stage, WatchEvent,
};

use crate::config::Config;
use crate::log::{Correction, Origin, Relation, correction_event, relate};
use crate::overlay::Overlay;
use crate::ring::{Ring, RingEntry, RingItem};
use crate::waiting::Waiting;

/// Where a feed begins: what the local replica says at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// End of the last applied entry; the next `Logged` follows it.
    pub position: Position,
    /// The local region's claimed fence there, 0 for none.
    pub fence: Fence,
    /// The highest consumed number of that fence.
    pub number: u64,
    /// Whether an expiry has ended that fence.
    pub expired: bool,
}

/// Everything that can happen to a shard's feed.
#[derive(Clone, Debug)]
pub enum Input {
    /// The replica applied an entry. In order; entries without events and marks may be missing.
    Logged(Logged),
    /// The replica applied up to here and there is nothing to tell of it.
    Advanced(Position),
    /// The local region's owner made a transition. In any order, repeats and losses allowed.
    Early {
        /// What the log's copy will say, with the id of a transition.
        event: Event,
        /// Whether the replica says, as of the last entry that was fed, that the channel is active
        /// in the region: what was told already is judged against the log (R10), and the feed does
        /// not hold a second copy of it.
        logged: bool,
    },
    /// The replica was replaced by a snapshot: entries are missing here, not in the journal.
    Jumped(Start),
}

/// Everything that a shard's feed asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// There is something new: let the subscriptions of this shard read.
    Wake,
}

/// What a feed counted, for the driver's metrics. Ever increasing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Transitions told ahead of the log.
    pub early_told: u64,
    /// Early transitions that came too late, twice, or from an ended fence.
    pub early_stale: u64,
    /// Early transitions that did not fit the bounds and were left to the log.
    pub early_overflow: u64,
    /// Corrections of what was told and never logged.
    pub corrections: u64,
}

/// Shard feed: the ordered events of one shard as this node tells them.
#[derive(Debug)]
pub struct ShardFeed {
    config: Config,
    origin: Origin,
    region: RegionName,
    ring: Ring,
    /// End of the last entry.
    position: Position,
    /// The region's claimed fence at `position`, and the highest number consumed of it.
    claimed: Fence,
    consumed: u64,
    /// An expiry has ended the claimed fence.
    expired: bool,
    /// The fence that is followed early: the claimed one, or an older one of which something that
    /// was told still waits for its settling.
    fence: Fence,
    /// Every transition of `fence` up to this number was told, early or by the log.
    number: u64,
    /// What was told under `fence` and is not logged.
    overlay: Overlay,
    /// Events of `fence` that were told early and are not consumed, for those who join.
    kept: BTreeMap<u64, Arc<WatchEvent>>,
    /// `kept` misses some event up to this number.
    kept_lost: u64,
    /// Early transitions that do not follow yet.
    waiting: Waiting,
    /// How often entries went missing here.
    jumps: u64,
    stats: Stats,
}

impl ShardFeed {
    /// Returns a feed of `shard` for subscribers in `region`, which continues `start`.
    #[must_use]
    pub fn new(config: Config, era: Era, shard: ShardId, region: RegionName, start: Start) -> Self {
        Self {
            config,
            origin: Origin { era, shard },
            region,
            ring: Ring::new(start.position),
            position: start.position,
            claimed: start.fence,
            consumed: start.number,
            expired: start.expired,
            fence: start.fence,
            number: start.number,
            overlay: Overlay::default(),
            kept: BTreeMap::new(),
            kept_lost: 0,
            waiting: Waiting::default(),
            jumps: 0,
            stats: Stats::default(),
        }
    }

    /// Returns the shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.origin.shard
    }

    /// Returns the end of the last entry that was fed.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Returns what was counted so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Returns how many channels are told otherwise than the log says.
    #[must_use]
    pub fn early_channels(&self) -> usize {
        self.overlay.len()
    }

    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    pub(crate) fn region(&self) -> &RegionName {
        &self.region
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    pub(crate) fn jumps(&self) -> u64 {
        self.jumps
    }

    /// Fence and number up to which those who follow early were told.
    pub(crate) fn told_through(&self) -> (Fence, u64) {
        (self.fence, self.number)
    }

    /// Events that were told early and are not logged, by number; `None` while a newcomer cannot
    /// be brought to the same state and has to wait for the log.
    pub(crate) fn joinable(&self) -> Option<&BTreeMap<u64, Arc<WatchEvent>>> {
        let alive = self.fence == self.claimed && (!self.expired || self.overlay.is_empty());
        (alive && self.kept_lost <= self.consumed).then_some(&self.kept)
    }

    /// What the log says of a channel of which something kept was told.
    pub(crate) fn logged(&self, channel: &ChannelKey) -> Option<bool> {
        self.overlay.logged(channel)
    }

    /// Asserts what must hold between steps.
    ///
    /// # Panics
    /// If the feed has a bug.
    pub fn invariants(&self) {
        assert!(
            self.fence <= self.claimed,
            "I2: followed {} of {}",
            self.fence,
            self.claimed
        );
        assert!(
            self.fence == self.claimed || !self.overlay.is_empty(),
            "I3: an older fence is followed only while something of it waits"
        );
        assert!(
            self.fence != self.claimed || self.consumed <= self.number,
            "I4: the log is ahead of what was told"
        );
        assert!(self.waiting.len() <= self.config.early_waiting_max, "I5");
        assert!(self.kept.len() <= self.config.early_kept_max, "I5");
        assert!(self.overlay.len() <= self.config.early_channels_max, "I5");
    }

    fn take_entry(&mut self, logged: Logged, effects: &mut Vec<Effect>) {
        if logged.index <= self.position.index {
            return;
        }
        let mut entry = RingEntry::new(logged);
        for event in &entry.events {
            if !self.take_event(&event.event) {
                let position = event.position.expect("events of the log have a position");
                entry.told_already.push(position.ordinal);
            }
        }
        let mut corrections = Vec::new();
        for mark in &entry.logged.marks {
            self.take_mark(mark, &mut corrections);
        }
        self.stats.corrections += corrections.len() as u64;
        for (channel, correction) in corrections {
            let event = correction_event(
                &entry.logged,
                self.origin,
                &self.region,
                self.fence,
                channel,
                correction,
            );
            entry.corrections.push(Arc::new(event));
        }
        self.position = Position::end_of(entry.logged.index);
        self.follow();
        entry.fence = self.fence;
        if !entry.events.is_empty() || !entry.logged.marks.is_empty() {
            let index = entry.logged.index;
            self.ring
                .push(RingItem::Entry(entry), index, self.config.ring_events_max);
        }
        effects.push(Effect::Wake);
        self.pass_on(effects);
    }

    /// Takes an event of the log and returns whether it is news to those who follow early.
    fn take_event(&mut self, event: &Event) -> bool {
        if let Relation::Next(number) | Relation::Copy(number) =
            relate(event, &self.region, self.claimed, 0)
        {
            self.consumed = self.consumed.max(number);
        }
        if event.kind.is_regional() && event.region == self.region {
            self.waiting.log(&event.channel, event.active);
        }
        match relate(event, &self.region, self.fence, self.number) {
            Relation::Unrelated => true,
            Relation::Copy(number) => {
                self.overlay.copy(number, &event.channel, event.active);
                false
            }
            Relation::Next(number) => {
                self.number = number;
                self.overlay.supersede(&event.channel, event.active)
            }
            Relation::Foreign => self.overlay.supersede(&event.channel, event.active),
        }
    }

    fn take_mark(&mut self, mark: &Mark, corrections: &mut Vec<(ChannelKey, Correction)>) {
        if *mark.region() != self.region {
            return;
        }
        match mark {
            Mark::Numbered { fence, number, .. } => {
                if *fence == self.claimed {
                    self.consumed = self.consumed.max(*number);
                }
                if *fence == self.fence {
                    self.number = self.number.max(*number);
                    corrections.append(&mut self.overlay.consume(*number));
                }
            }
            Mark::Claimed { fence, .. } => {
                if *fence > self.claimed {
                    self.claimed = *fence;
                    self.consumed = 0;
                    self.expired = false;
                }
            }
            Mark::Settled { fence, .. } => {
                if *fence > self.fence {
                    corrections.append(&mut self.overlay.end());
                }
            }
            Mark::Expired { fence, done, .. } => {
                self.expired |= *fence >= self.claimed;
                if *done && *fence >= self.fence {
                    corrections.append(&mut self.overlay.end());
                }
            }
        }
    }

    /// Turns to the claimed fence once nothing of an older one waits.
    fn follow(&mut self) {
        if self.fence < self.claimed && self.overlay.is_empty() {
            self.fence = self.claimed;
            self.number = self.consumed;
            self.kept.clear();
            self.kept_lost = 0;
        }
        if self.fence == self.claimed {
            self.kept = self.kept.split_off(&self.consumed.saturating_add(1));
            if self.expired && self.overlay.is_empty() {
                self.kept.clear();
            }
        }
        self.waiting.drop_below(self.claimed);
    }

    fn take_early(&mut self, event: Event, logged: bool, effects: &mut Vec<Effect>) {
        let (fence, number) = match &event.id {
            EventId::Transition {
                era,
                shard,
                region,
                fence,
                number,
            } if (Origin {
                era: *era,
                shard: *shard,
            }) == self.origin
                && *region == self.region
                && event.region == *region
                && event.kind.is_regional() =>
            {
                (*fence, *number)
            }
            EventId::Transition { .. } | EventId::Log { .. } | EventId::Void { .. } => {
                self.stats.early_stale += 1;
                return;
            }
        };
        let told = fence == self.fence && number <= self.number;
        if told || fence < self.claimed || self.waiting.contains(fence, number) {
            self.stats.early_stale += 1;
        } else if self.waiting.len() >= self.config.early_waiting_max {
            self.stats.early_overflow += 1;
        } else {
            self.waiting.insert(fence, number, event, logged);
            self.pass_on(effects);
        }
    }

    /// Tells the waiting transitions that follow what was told (R1, R10).
    fn pass_on(&mut self, effects: &mut Vec<Effect>) {
        if self.fence != self.claimed || self.expired {
            return;
        }
        let mut told = false;
        while let Some((fence, number, event)) = self.waiting.first() {
            if fence != self.fence || number > self.number + 1 {
                break;
            }
            let before = self.overlay.told(&event.channel);
            if before.is_none() && self.overlay.len() >= self.config.early_channels_max {
                self.stats.early_overflow += 1;
                break;
            }
            let (event, logged) = self.waiting.pop_first().expect("I1: there is a first");
            if number <= self.number {
                self.stats.early_stale += 1;
                continue;
            }
            self.number = number;
            // The second half of a pair whose first half was dropped (R7) and never told here.
            if before.unwrap_or(logged) == event.active {
                self.stats.early_stale += 1;
                continue;
            }
            self.tell_early(event, number);
            told = true;
        }
        if told {
            effects.push(Effect::Wake);
        }
    }

    fn tell_early(&mut self, event: Event, number: u64) {
        self.overlay.tell(number, &event.channel, event.active);
        let event = Arc::new(WatchEvent {
            shard: self.origin.shard,
            position: None,
            event,
        });
        if self.kept.len() < self.config.early_kept_max {
            self.kept.insert(number, event.clone());
        } else {
            self.kept_lost = number;
        }
        let item = RingItem::Early(event);
        self.ring
            .push(item, self.position.index, self.config.ring_events_max);
        self.stats.early_told += 1;
    }

    fn jump(&mut self, start: Start, effects: &mut Vec<Effect>) {
        self.jumps += u64::from(!Mutant::JumpUntold.is_planted());
        self.ring.restart(start.position);
        self.position = start.position;
        (self.claimed, self.fence) = (start.fence, start.fence);
        (self.consumed, self.number) = (start.number, start.number);
        self.expired = start.expired;
        self.overlay = Overlay::default();
        self.kept.clear();
        self.kept_lost = 0;
        self.waiting.clear();
        effects.push(Effect::Wake);
    }
}

impl Stage for ShardFeed {
    type Input = Input;
    type Effect = Effect;

    fn step(&mut self, _now: Now, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Logged(logged) => self.take_entry(logged, effects),
            Input::Advanced(position) => self.position = self.position.max(position),
            Input::Early { event, logged } => self.take_early(event, logged, effects),
            Input::Jumped(start) => self.jump(start, effects),
        }
        if cfg!(debug_assertions) {
            self.invariants();
        }
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        None
    }

    fn on_deadline(&mut self, _now: Now, _effects: &mut Vec<Effect>) {}
}
