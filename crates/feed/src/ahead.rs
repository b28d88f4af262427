//! What one subscriber was told of a region ahead of the log: what its cursor says, at work.

use std::collections::BTreeSet;
use std::sync::Arc;

use headcount_model::{
    ChannelKey, EarlyMark, Event, Fence, Mark, RegionName, TOLD_MAX, Told, WatchEvent,
};

use crate::log::{Correction, Relation, relate};

/// Ahead: the told-but-unlogged transitions of a region's fence, those of the filter's channels
/// only. At most [`TOLD_MAX`] are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) region: RegionName,
    pub(crate) fence: Fence,
    /// Every transition up to this number was told.
    pub(crate) number: u64,
    /// By ascending number.
    told: Vec<Told>,
    /// If the list is not complete: the last number that may be missing from it.
    overflow: Option<u64>,
    /// Every number up to this one is consumed, as far as this subscriber cares.
    consumed: u64,
}

impl Ahead {
    pub(crate) fn new(region: RegionName, fence: Fence) -> Self {
        Self {
            region,
            fence,
            number: 0,
            told: Vec::new(),
            overflow: None,
            consumed: 0,
        }
    }

    pub(crate) fn from_mark(mark: EarlyMark) -> Self {
        let consumed = mark
            .told
            .first()
            .map_or(0, |told| told.number.saturating_sub(1));
        Self {
            region: mark.region,
            fence: mark.fence,
            number: mark.number,
            told: mark.told,
            overflow: mark.overflow.then_some(mark.number),
            consumed,
        }
    }

    /// What a cursor says of it; nothing if the log has all that was told.
    pub(crate) fn to_mark(&self) -> Option<EarlyMark> {
        (!self.is_resolved()).then(|| EarlyMark {
            region: self.region.clone(),
            fence: self.fence,
            number: self.number,
            told: self.told.clone(),
            overflow: self.overflow.is_some(),
        })
    }

    /// Whether the log has caught up with everything that was told.
    pub(crate) fn is_resolved(&self) -> bool {
        self.told.is_empty() && self.overflow.is_none()
    }

    /// Whether everything that was told and is not logged is listed.
    pub(crate) fn is_complete(&self) -> bool {
        self.overflow.is_none()
    }

    /// What was last told of the channel, if it is listed.
    pub(crate) fn told(&self, channel: &ChannelKey) -> Option<bool> {
        let last = self.told.iter().rfind(|told| told.channel == *channel);
        last.map(|told| told.active)
    }

    /// Notes a transition of a watched channel that is told now.
    pub(crate) fn tell(&mut self, number: u64, channel: &ChannelKey, active: bool) {
        if self.is_resolved() {
            self.consumed = self.consumed.max(number.saturating_sub(1));
        }
        self.number = number;
        if self.told.len() >= TOLD_MAX {
            self.overflow = Some(number);
        } else {
            self.told.push(Told {
                number,
                channel: channel.clone(),
                active,
            });
        }
    }

    /// Whether the log's event is the copy of one that was told, or none that could have been.
    pub(crate) fn was_told(&self, event: &Event) -> bool {
        matches!(self.relate(event), Relation::Copy(_) | Relation::Unrelated)
    }

    fn relate(&self, event: &Event) -> Relation {
        relate(event, &self.region, self.fence, self.number)
    }

    /// Takes an event of the log and returns whether it is news.
    pub(crate) fn take(&mut self, event: &Event) -> bool {
        match self.relate(event) {
            Relation::Unrelated => true,
            Relation::Copy(number) => {
                self.copy(number, &event.channel);
                false
            }
            Relation::Next(_) | Relation::Foreign => self.supersede(&event.channel, event.active),
        }
    }

    /// Notes the log's copy of a told transition; earlier ones of its channel are settled with it.
    fn copy(&mut self, number: u64, channel: &ChannelKey) {
        self.told
            .retain(|told| told.number > number || told.channel != *channel);
    }

    /// Notes that the log says something else of the channel, and returns whether it is news.
    pub(crate) fn supersede(&mut self, channel: &ChannelKey, active: bool) -> bool {
        let news = self.told(channel) != Some(active);
        self.told.retain(|told| told.channel != *channel);
        news
    }

    /// Whether an entry with these marks and events cannot be judged, because the list is incomplete
    /// and the entry is about what it leaves out: a number that was told left no copy, or the fence
    /// has ended. Somebody who followed the feed passes the claim that ended it with such a list, so
    /// that its settling and what other fences say show it as well. What [was told](Self::was_told)
    /// is known even so.
    pub(crate) fn is_lost_to(&self, marks: &[Mark], events: &[Arc<WatchEvent>]) -> bool {
        let Some(overflow) = self.overflow else {
            return false;
        };
        for mark in marks {
            if *mark.region() != self.region {
                continue;
            }
            match mark {
                Mark::Numbered { fence, number, .. } if *fence == self.fence => {
                    if self.misses_a_copy(*number, events) {
                        return true;
                    }
                    if overflow <= *number {
                        return false;
                    }
                }
                Mark::Claimed { fence, .. } | Mark::Settled { fence, .. } => {
                    if *fence > self.fence {
                        return true;
                    }
                }
                Mark::Expired { fence, .. } => {
                    if *fence >= self.fence {
                        return true;
                    }
                }
                Mark::Numbered { .. } => {}
            }
        }
        let mut relations = events.iter().map(|event| self.relate(&event.event));
        relations.any(|relation| relation == Relation::Foreign)
    }

    /// Takes the marks of an entry, and returns what somebody who reads the log alone must be told.
    /// Who follows the feed, which settles more exactly, needs the list for the cursor only.
    pub(crate) fn settle(&mut self, marks: &[Mark]) -> Vec<(ChannelKey, Correction)> {
        let mut corrections = Vec::new();
        for mark in marks {
            if *mark.region() != self.region {
                continue;
            }
            match mark {
                Mark::Numbered { fence, number, .. } if *fence == self.fence => {
                    corrections.append(&mut self.consume(*number));
                }
                Mark::Settled { fence, .. } if *fence > self.fence => {
                    corrections.append(&mut self.end());
                }
                Mark::Expired {
                    fence, done: true, ..
                } if *fence >= self.fence => {
                    corrections.append(&mut self.end());
                }
                Mark::Numbered { .. }
                | Mark::Claimed { .. }
                | Mark::Settled { .. }
                | Mark::Expired { .. } => {}
            }
        }
        corrections
    }

    /// With an incomplete list: whether a number that was told is consumed by `mark` without a copy
    /// among `events`. Then a pair (R7) may have been told by half, nobody knows of which channel.
    fn misses_a_copy(&self, mark: u64, events: &[Arc<WatchEvent>]) -> bool {
        let last = mark.min(self.number);
        if self.overflow.is_none() || self.consumed >= last {
            return false;
        }
        let copied = |number: &u64| self.consumed < *number && *number <= last;
        let numbers = events.iter().filter_map(|event| {
            match relate(&event.event, &self.region, self.fence, 0) {
                Relation::Next(number) => Some(number),
                Relation::Unrelated | Relation::Copy(_) | Relation::Foreign => None,
            }
        });
        (numbers.filter(copied).count() as u64) < last - self.consumed
    }

    /// Notes that every number up to `mark` is consumed, and returns what must be told.
    fn consume(&mut self, mark: u64) -> Vec<(ChannelKey, Correction)> {
        self.consumed = self.consumed.max(mark);
        if self.overflow.is_some_and(|number| number <= mark) {
            self.overflow = None;
        }
        let mut corrections = Vec::new();
        // A channel whose last told number is above the mark is left whole: what the log says of
        // it is known from the first that was told.
        let open: BTreeSet<ChannelKey> = self
            .told
            .iter()
            .filter(|told| told.number > mark)
            .map(|told| told.channel.clone())
            .collect();
        let (stay, gone): (Vec<Told>, Vec<Told>) = self
            .told
            .drain(..)
            .partition(|told| open.contains(&told.channel));
        self.told = stay;
        for (at, last) in gone.iter().enumerate() {
            if gone[at + 1..]
                .iter()
                .any(|later| later.channel == last.channel)
            {
                continue;
            }
            let first = gone.iter().find(|told| told.channel == last.channel);
            let logged = !first.expect("the last is one of them").active;
            if logged != last.active {
                let correction = Correction {
                    number: last.number,
                    active: logged,
                };
                corrections.push((last.channel.clone(), correction));
            }
        }
        corrections
    }

    /// Notes that nothing more of the fence will be logged, and returns what must be told.
    fn end(&mut self) -> Vec<(ChannelKey, Correction)> {
        self.overflow = None;
        self.consume(u64::MAX)
    }
}
