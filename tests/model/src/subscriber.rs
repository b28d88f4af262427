//! A subscriber with its cursor: early transitions first, the log always (R1, R3, R10).

use crate::rules::{Rule, Rules};
use crate::words::{CHANNELS, Event, EventId, Fault, Fence, PerChannel, REGIONS, Transition};

/// The body that went with an id: activity, count, `isGlobalMaster`.
type Body = (bool, u8, bool);

/// A cursor's early part for one region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Early {
    /// The fence whose claim was read last.
    pub fence: Fence,
    /// Whether the log said that it is over.
    pub ended: bool,
    /// The last number told or read under it.
    pub mark: u8,
    /// Told, but not read from the log.
    pub unlogged: Vec<Transition>,
    /// Whether more was told than `unlogged` could hold; it is empty then, and all that is told
    /// and unlogged is of `fence`.
    pub overflow: bool,
    /// The fence whose tail the last claim could carry on; for the checker only.
    pub after: Fence,
    /// The gateways heard for it; for the checker only.
    pub witnesses: u8,
}

/// Where to go on, in any region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The log's next event, counted from the first that the model still keeps.
    pub position: usize,
    /// The log's state there: activity per region.
    pub logged: [PerChannel<bool>; REGIONS],
    /// The log's state there: open channels.
    pub opened: PerChannel<bool>,
    /// Per region.
    pub early: [Early; REGIONS],
}

/// Somebody who follows the shard through a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subscriber {
    /// The gateway that serves it.
    pub gateway: usize,
    /// Whether it, or its gateway, was ever interrupted.
    pub moved: bool,
    /// Where its gateway is with it.
    pub cursor: Cursor,
    /// The cursor that came with the last thing it was told; what it resumes with. Kept only in
    /// worlds where somebody resumes.
    pub saved: Option<Box<Cursor>>,
    /// The most told-but-unlogged transitions that its cursor keeps.
    pub unlogged_max: usize,
    /// What it believes.
    pub believes: [PerChannel<bool>; REGIONS],
    /// What it was told, by id.
    pub told: Vec<(EventId, Body)>,
}

impl Subscriber {
    /// A subscriber from the beginning of the log on.
    #[must_use]
    pub fn new(gateway: usize, resumes: bool, unlogged_max: usize) -> Self {
        let saved = resumes.then(Box::default);
        Self {
            gateway,
            unlogged_max,
            moved: false,
            cursor: Cursor::default(),
            saved,
            believes: <[PerChannel<bool>; REGIONS]>::default(),
            told: Vec::new(),
        }
    }

    /// The earliest log position it may still read.
    #[must_use]
    pub fn earliest(&self) -> usize {
        let saved = self
            .saved
            .as_ref()
            .map_or(usize::MAX, |saved| saved.position);
        self.cursor.position.min(saved)
    }

    /// Forgets the log's first events, which nobody reads again.
    pub fn shift(&mut self, events: usize) {
        self.cursor.position -= events;
        if let Some(saved) = &mut self.saved {
            saved.position -= events;
        }
    }

    /// Forgets ids that cannot come again because every cursor is past their fence.
    pub fn forget(&mut self) {
        let Self {
            cursor,
            saved,
            told,
            ..
        } = self;
        told.retain(|(id, _)| {
            let (region, fence) = id.origin();
            let saved = saved
                .as_ref()
                .map_or(Fence::MAX, |saved| saved.early[region].fence);
            fence >= cursor.early[region].fence.min(saved)
        });
    }

    /// Whether no cursor of it follows the fence, now or after resuming.
    #[must_use]
    pub fn is_past(&self, region: usize, fence: Fence) -> bool {
        let past = |cursor: &Cursor| {
            let early = &cursor.early[region];
            early.fence > fence || (early.fence == fence && early.ended)
        };
        past(&self.cursor) && self.saved.as_ref().is_none_or(|saved| past(saved))
    }

    /// Loses its connection and resumes with the last cursor it got.
    pub fn resume(&mut self, rules: Rules, gateway: usize) {
        self.gateway = gateway;
        self.moved = true;
        if let Some(saved) = &self.saved {
            self.cursor = (**saved).clone();
        }
        if !rules.has(Rule::CursorUnlogged) {
            for early in &mut self.cursor.early {
                early.unlogged.clear();
            }
        }
    }

    /// The number of the early transition that may be passed on next under a fence, or `None`
    /// where the fence is not followed.
    #[must_use]
    pub fn next_early(&self, rules: Rules, region: usize, fence: Fence) -> Option<u8> {
        let early = &self.cursor.early[region];
        let full = early.unlogged.len() >= self.unlogged_max;
        if full && early.unlogged.iter().any(|old| old.fence != fence) {
            return None;
        }
        let waits = rules.has(Rule::FeedWait) && rules.has(Rule::Claim);
        if fence == early.fence && !early.ended {
            Some(early.mark + 1)
        } else if fence > early.fence && !waits {
            Some(1)
        } else {
            None
        }
    }

    /// Is told a transition before the log brings it, unless it believes so already.
    pub fn hear(
        &mut self,
        rules: Rules,
        region: usize,
        transition: Transition,
        faults: &mut Vec<Fault>,
    ) {
        let Transition {
            fence,
            number,
            channel,
            active,
            ..
        } = transition;
        let known = self.overlay(rules, region, channel);
        let early = &mut self.cursor.early[region];
        if early.fence < fence {
            early.fence = fence;
            early.ended = false;
        }
        early.mark = number;
        early
            .unlogged
            .retain(|old| old.channel != channel || old.fence == fence);
        let overflows = early.overflow || early.unlogged.len() >= self.unlogged_max;
        if overflows {
            early.overflow = true;
            early.unlogged.clear();
        } else {
            early.unlogged.push(transition);
        }
        // Among themselves the transitions of one fence alternate.
        if overflows || known != active {
            self.tell_transition(region, transition, faults);
            self.save();
        }
    }

    /// Reads the log's next event.
    pub fn read(&mut self, rules: Rules, event: &Event, faults: &mut Vec<Fault>) {
        self.cursor.position += 1;
        let told = match *event {
            Event::Claimed {
                region,
                fence,
                after,
                witnesses,
            } => {
                let gap = self.close_gap(rules, region);
                let early = &mut self.cursor.early[region];
                if early.fence < fence {
                    early.fence = fence;
                    early.ended = false;
                    early.mark = 0;
                }
                early.after = after;
                early.witnesses = witnesses;
                gap
            }
            Event::Transition { region, transition } => {
                self.check_nesting(transition.channel, faults);
                self.read_transition(rules, region, transition, faults)
            }
            Event::Expired {
                region,
                fence,
                channel,
            } => {
                self.check_nesting(channel, faults);
                let known = self.overlay(rules, region, channel);
                let early = &mut self.cursor.early[region];
                early
                    .unlogged
                    .retain(|old| old.channel != channel || old.fence > fence);
                self.cursor.logged[region][channel] = false;
                if known {
                    let id = EventId::Expiry(region, fence, channel);
                    self.tell(id, region, channel, (false, 0, false), faults);
                }
                known
            }
            Event::Opened { channel } => self.read_global(channel, true, faults),
            Event::Closed { channel } => self.read_global(channel, false, faults),
            Event::ExpiryBegun { region, fence } => {
                let early = &mut self.cursor.early[region];
                early.ended |= early.fence <= fence;
                early.ended && self.close_gap(rules, region)
            }
            Event::ExpiryEnded { region, fence } => {
                let id = |channel| EventId::ExpiryVoid(region, fence, channel);
                rules.has(Rule::ExpirySettles) && self.settle(region, fence + 1, id, faults)
            }
            Event::Settled { region, fence } => {
                let id = |channel| EventId::Void(region, fence, channel);
                let told = self.settle(region, fence, id, faults);
                let early = &mut self.cursor.early[region];
                early.witnesses = 0;
                early.after = 0;
                told
            }
        };
        if told {
            self.save();
        }
    }

    fn read_transition(
        &mut self,
        rules: Rules,
        region: usize,
        transition: Transition,
        faults: &mut Vec<Fault>,
    ) -> bool {
        let Transition {
            fence,
            number,
            channel,
            active,
            ..
        } = transition;
        let known = self.overlay(rules, region, channel);
        let early = &mut self.cursor.early[region];
        if early.fence < fence {
            early.fence = fence;
            early.ended = false;
            early.mark = 0;
        }
        let marked = early.fence == fence && number <= early.mark;
        if early.fence == fence {
            early.mark = early.mark.max(number);
        }
        early.unlogged.retain(|old| {
            let this = old.fence == fence && old.number <= number;
            let superseded = old.fence < fence && old.channel == channel;
            !this && !superseded
        });
        self.cursor.logged[region][channel] = active;
        if marked && number == early.mark {
            early.overflow = false;
        }
        if marked {
            if let Some((_, body)) = self
                .told
                .iter()
                .find(|(id, _)| *id == EventId::Transition(region, fence, number))
                && *body != body_of(transition)
            {
                faults.push(Fault::BodyDiffers);
            }
            return false;
        }
        if known == active {
            return false;
        }
        self.tell_transition(region, transition, faults);
        true
    }

    /// Its fence is over: if not all that was told of it is known, it says so, and the subscriber
    /// takes the log's state as if from the beginning.
    fn close_gap(&mut self, rules: Rules, region: usize) -> bool {
        let early = &mut self.cursor.early[region];
        let gap = early.overflow && rules.has(Rule::OverflowGap);
        early.overflow = false;
        if gap {
            self.believes[region] = self.cursor.logged[region];
        }
        gap
    }

    fn read_global(&mut self, channel: usize, open: bool, faults: &mut Vec<Fault>) -> bool {
        if self.cursor.opened[channel] == open {
            faults.push(Fault::NotNested);
        }
        self.cursor.opened[channel] = open;
        true
    }

    /// Tells the logged state where what was told under fences below `below` never got logged.
    fn settle(
        &mut self,
        region: usize,
        below: Fence,
        id: impl Fn(usize) -> EventId,
        faults: &mut Vec<Fault>,
    ) -> bool {
        let mut told = false;
        for channel in 0..CHANNELS {
            let dead = |old: &Transition| old.channel == channel && old.fence < below;
            let last = self.cursor.early[region]
                .unlogged
                .iter()
                .rfind(|old| dead(old))
                .copied();
            let Some(last) = last else { continue };
            let logged = self.cursor.logged[region][channel];
            let early = &mut self.cursor.early[region];
            early.unlogged.retain(|old| !dead(old));
            let witnessed = !self.moved
                && early.after == last.fence
                && early.witnesses & (1 << self.gateway) != 0;
            if last.active != logged {
                if witnessed {
                    faults.push(Fault::NeedlessVoid);
                }
                self.tell(id(channel), region, channel, (logged, 0, false), faults);
                told = true;
            }
        }
        told
    }

    /// What it was told last: the log's state overlaid with the told-but-unlogged.
    fn overlay(&self, rules: Rules, region: usize, channel: usize) -> bool {
        let logged = self.cursor.logged[region][channel];
        if !rules.has(Rule::Overlay) {
            return logged;
        }
        let of_channel = |old: &&Transition| old.channel == channel;
        let unlogged = &self.cursor.early[region].unlogged;
        unlogged
            .iter()
            .rfind(of_channel)
            .map_or(logged, |old| old.active)
    }

    fn tell_transition(&mut self, region: usize, transition: Transition, faults: &mut Vec<Fault>) {
        let Transition {
            fence,
            number,
            channel,
            ..
        } = transition;
        let id = EventId::Transition(region, fence, number);
        self.tell(id, region, channel, body_of(transition), faults);
    }

    /// A repeat under the same id changes nothing, but must be the same; anything else must
    /// alternate.
    fn tell(
        &mut self,
        id: EventId,
        region: usize,
        channel: usize,
        body: Body,
        faults: &mut Vec<Fault>,
    ) {
        match self.told.binary_search_by_key(&id, |(id, _)| *id) {
            Ok(place) => {
                if self.told[place].1 != body {
                    faults.push(Fault::BodyDiffers);
                }
            }
            Err(place) => {
                self.told.insert(place, (id, body));
                if self.believes[region][channel] == body.0 {
                    faults.push(Fault::ToldRepeats);
                }
                self.believes[region][channel] = body.0;
            }
        }
    }

    fn save(&mut self) {
        if let Some(saved) = &mut self.saved {
            (**saved).clone_from(&self.cursor);
        }
    }

    fn check_nesting(&self, channel: usize, faults: &mut Vec<Fault>) {
        let open = self.cursor.logged.iter().any(|active| active[channel]);
        if open != self.cursor.opened[channel] {
            faults.push(Fault::NotNested);
        }
    }
}

const fn body_of(transition: Transition) -> Body {
    (
        transition.active,
        transition.count,
        transition.global_master,
    )
}
