//! Applying an entry: what it changes and which events it causes.

use std::collections::BTreeMap;
use std::ops::Bound;

use headcount_model::control::OCCUPANCY_INTERVAL_MAX;
use headcount_model::mutants::Mutant;
use headcount_model::{
    AppId, Batch, ChannelKey, ChannelName, Claim, Command, Entry, Event, EventId, EventKind, Fence,
    Logged, LoggedEvent, Mark, Occupancy, OwnerRef, Pacing, Position, RegionName, Register,
    Timestamp, Transition,
};

use crate::channel::{Channel, Told};
use crate::region::{Region, RegionIndex};
use crate::{DUE_CHUNK, EXPIRE_CHUNK, Shard};

/// What an entry did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What it told, for the feed and the journal.
    pub logged: Logged,
    /// What became of each command, in the entry's order.
    pub outcomes: Vec<Outcome>,
}

/// What became of a command. Not replicated state: the owner reads its own replica's marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Done,
    /// It was applied before and changed nothing now.
    Repeated,
    /// It came under a fence that does not hold: the region's claimed fence is this one, or it was
    /// ended by an expiry.
    Fenced(Fence),
    /// The batch does not follow the last one, whose sequence is this.
    OutOfSequence(u64),
    /// The region's table is full; see `RegionIndex`.
    Refused,
}

impl Shard {
    /// Applies the entry at log index `index`, which is above every index applied before.
    pub fn apply(&mut self, index: u64, entry: Entry) -> Applied {
        self.advance(index);
        self.stamp = self.stamp.max(entry.stamp);
        self.cool();
        let mut run = Run {
            stamp: self.stamp,
            coordinator: entry.coordinator,
            drafts: Vec::new(),
            touched: BTreeMap::new(),
            marks: Vec::new(),
        };
        let outcomes = entry
            .commands
            .into_iter()
            .map(|command| self.command(&mut run, command))
            .collect();
        self.decide_occupancy(&mut run);
        let logged = self.assemble(run);
        self.check_invariants();
        Applied { logged, outcomes }
    }

    fn command(&mut self, run: &mut Run, command: Command) -> Outcome {
        match command {
            Command::Claim(claim) => self.claim(run, claim),
            Command::Batch(batch) => self.batch(run, batch),
            Command::ExpireRegion(owner) => self.expire(run, &owner),
            Command::Settled(owner) => self.settle(run, owner),
            Command::Configure(pacing) => self.configure(pacing),
            Command::Tick => self.tick(run),
        }
    }

    /// R1: ends every lower fence of the region, after taking over what the older owner told.
    fn claim(&mut self, run: &mut Run, claim: Claim) -> Outcome {
        let Some(at) = self.region_or_new(&claim.owner.region) else {
            return Outcome::Refused;
        };
        let region = &self.regions[usize::from(at)];
        if claim.owner.fence <= region.fence {
            let repeated = claim.owner.fence == region.fence && claim.node == region.node;
            return if repeated {
                Outcome::Repeated
            } else {
                Outcome::Fenced(region.fence)
            };
        }
        let before = region.number;
        for tail in claim.tails {
            for transition in tail.transitions {
                let region = &self.regions[usize::from(at)];
                let follows = transition.number == region.number + 1;
                if region.accepts(tail.fence) && follows {
                    self.transition(run, at, tail.fence, &transition);
                }
            }
        }
        self.mark_number(run, at, before);
        let region = &mut self.regions[usize::from(at)];
        let OwnerRef {
            region: name,
            fence,
        } = claim.owner.clone();
        run.marks.push(Mark::Claimed {
            region: name,
            fence,
        });
        *region = Region {
            fence,
            node: claim.node,
            incarnation: claim.incarnation,
            ..Region::new(claim.owner.region)
        };
        Outcome::Done
    }

    /// R2: applies exactly the next batch of the claimed fence, and consumes it whatever it holds.
    fn batch(&mut self, run: &mut Run, batch: Batch) -> Outcome {
        let Some(at) = self.region_index(batch.owner.region.as_str()) else {
            return Outcome::Fenced(Fence(0));
        };
        let region = &mut self.regions[usize::from(at)];
        let fence = batch.owner.fence;
        if !region.accepts(fence) && !Mutant::DropFence.is_planted() {
            return Outcome::Fenced(region.fence);
        }
        if batch.sequence <= region.sequence && !Mutant::RepeatBatch.is_planted() {
            return Outcome::Repeated;
        }
        if batch.sequence > region.sequence + 1 {
            return Outcome::OutOfSequence(region.sequence);
        }
        region.sequence = batch.sequence;
        let before = region.number;
        let mut dropped = batch.dropped.into_iter().peekable();
        for transition in batch.transitions {
            let region = &mut self.regions[usize::from(at)];
            while dropped.next_if_eq(&(region.number + 1)).is_some() {
                region.number += 1;
            }
            if transition.number == region.number + 1 {
                self.transition(run, at, fence, &transition);
            }
        }
        let region = &mut self.regions[usize::from(at)];
        while dropped.next_if_eq(&(region.number + 1)).is_some() {
            region.number += 1;
        }
        self.mark_number(run, at, before);
        for register in batch.registers {
            self.register(run, at, register);
        }
        Outcome::Done
    }

    /// Consumes the transition's number; changes activity unless the log is already there, which
    /// only a faulty owner can cause (R11) and which must not break the log's alternation.
    fn transition(&mut self, run: &mut Run, at: RegionIndex, fence: Fence, told: &Transition) {
        let region = &mut self.regions[usize::from(at)];
        region.number = told.number;
        let id = EventId::Transition {
            era: self.era,
            shard: self.id,
            region: region.name.clone(),
            fence,
            number: told.number,
        };
        let was_active = self
            .channel(&told.channel)
            .is_some_and(|channel| channel.regional(at).is_some());
        if was_active == told.active {
            return;
        }
        let draft = Draft {
            id: Some(id),
            kind: if told.active {
                EventKind::RegionActive
            } else {
                EventKind::RegionInactive
            },
            at: told.at,
            region: self.regions[usize::from(at)].name.clone(),
            is_global_master: told.is_global_master,
            active: told.active,
            occupancy: told.occupancy,
        };
        let counts = told.active.then_some(told.occupancy);
        self.set_activity(run, at, &told.channel, counts, draft);
    }

    /// Changes a region's activity on a channel, and the channel's where that follows.
    fn set_activity(
        &mut self,
        run: &mut Run,
        at: RegionIndex,
        key: &ChannelKey,
        counts: Option<Occupancy>,
        regional: Draft,
    ) {
        run.touch(self.channel(key), key.clone());
        let (coordinator, stamp) = (run.coordinator.clone(), run.stamp);
        let channels = self.apps.entry(key.app.clone()).or_default();
        let (kind, occupancy) = if let Some(counts) = counts {
            let channel = channels.entry(key.name.clone()).or_default();
            let opens = channel.regions.is_empty();
            channel.set(at, counts);
            (opens.then_some(EventKind::Opened), channel.occupancy())
        } else {
            let channel = channels
                .get_mut(&key.name)
                .expect("an active channel is in the table");
            channel.remove(at);
            let closes = channel.regions.is_empty();
            (closes.then_some(EventKind::Closed), channel.occupancy())
        };
        run.draft(key, regional);
        if let Some(kind) = kind {
            if kind == EventKind::Closed {
                self.forget(key);
            }
            let active = kind == EventKind::Opened;
            let global = Draft {
                id: None,
                kind,
                at: stamp,
                region: coordinator,
                is_global_master: true,
                active,
                occupancy,
            };
            run.draft(key, global);
        }
    }

    /// Changes counts, never activity: a register of a channel that is inactive there is void.
    fn register(&mut self, run: &mut Run, at: RegionIndex, register: Register) {
        let Register { channel, occupancy } = register;
        let channels = self.apps.get_mut(&channel.app);
        let held = channels.and_then(|channels| channels.get_mut(&channel.name));
        if let Some(held) = held.filter(|held| held.regional(at).is_some()) {
            run.touch(Some(held), channel);
            held.set(at, occupancy);
        }
    }

    /// R5: ends the fence at once, then takes the region's counts away chunk by chunk.
    fn expire(&mut self, run: &mut Run, owner: &OwnerRef) -> Outcome {
        let Some(at) = self.region_or_new(&owner.region) else {
            return Outcome::Refused;
        };
        let region = &mut self.regions[usize::from(at)];
        if region.fence > owner.fence {
            return Outcome::Fenced(region.fence);
        }
        if region.fence < owner.fence {
            // Owners that were appointed up to this fence and never claimed are ended with it.
            let name = region.name.clone();
            *region = Region {
                fence: owner.fence,
                ..Region::new(name)
            };
        }
        if !region.ended {
            region.ended = !Mutant::ExpireKeepsFence.is_planted();
            region.expiring = Some(None);
        }
        let Some(after) = region.expiring.take() else {
            return Outcome::Repeated;
        };
        let OwnerRef { region, fence } = owner.clone();
        let chunk: Vec<ChannelKey> = self.keys_after(after.as_ref()).take(EXPIRE_CHUNK).collect();
        if chunk.len() == EXPIRE_CHUNK {
            self.regions[usize::from(at)].expiring = Some(chunk.last().cloned());
        }
        let done = self.regions[usize::from(at)].expiring.is_none();
        run.marks.push(Mark::Expired {
            region,
            fence,
            done,
        });
        for key in chunk {
            if self
                .channel(&key)
                .and_then(|channel| channel.regional(at))
                .is_none()
            {
                continue;
            }
            let regional = Draft {
                id: None,
                kind: EventKind::RegionInactive,
                at: run.stamp,
                region: owner.region.clone(),
                is_global_master: owner.region == run.coordinator,
                active: false,
                occupancy: Occupancy::ZERO,
            };
            self.set_activity(run, at, &key, None, regional);
        }
        Outcome::Done
    }

    fn settle(&mut self, run: &mut Run, owner: OwnerRef) -> Outcome {
        let Some(at) = self.region_index(owner.region.as_str()) else {
            return Outcome::Fenced(Fence(0));
        };
        let region = &mut self.regions[usize::from(at)];
        if !region.accepts(owner.fence) {
            return Outcome::Fenced(region.fence);
        }
        if std::mem::replace(&mut region.settled, true) {
            return Outcome::Repeated;
        }
        let OwnerRef { region, fence } = owner;
        run.marks.push(Mark::Settled { region, fence });
        Outcome::Done
    }

    /// Marks that transitions were consumed, if any were.
    fn mark_number(&self, run: &mut Run, at: RegionIndex, before: u64) {
        let region = &self.regions[usize::from(at)];
        if region.number != before {
            let (region, fence, number) = (region.name.clone(), region.fence, region.number);
            run.marks.push(Mark::Numbered {
                region,
                fence,
                number,
            });
        }
    }

    /// R19: takes new pacing; what is already held back keeps its time.
    fn configure(&mut self, pacing: Pacing) -> Outcome {
        if pacing.version <= self.pacing.version {
            return Outcome::Repeated;
        }
        // Refused before it comes here; what an older release let through is bounded all the same.
        let occupancy_interval = pacing.occupancy_interval.min(OCCUPANCY_INTERVAL_MAX);
        self.pacing = Pacing {
            occupancy_interval,
            ..pacing
        };
        Outcome::Done
    }

    /// Marks channels whose time has come as touched, so that the entry's end decides about them.
    fn tick(&self, run: &mut Run) -> Outcome {
        let stamp = run.stamp;
        for (_, key) in self
            .due
            .iter()
            .take_while(|(until, _)| *until <= stamp)
            .take(DUE_CHUNK)
        {
            run.touch(self.channel(key), key.clone());
        }
        Outcome::Done
    }

    /// Decides once for each touched channel whether its counts are told now or held back.
    fn decide_occupancy(&mut self, run: &mut Run) {
        for (key, touched) in &mut run.touched {
            let channel = self
                .apps
                .get(&key.app)
                .and_then(|channels| channels.get(&key.name));
            let occupancy = channel.map_or(Occupancy::ZERO, Channel::occupancy);
            let held = touched.told.map_or(Timestamp(0), |told| told.until);
            let last = touched
                .told
                .map_or(touched.occupancy, |told| told.occupancy);
            let changes = occupancy != last && (last.crosses(&occupancy) || held <= run.stamp);
            // Who takes counts from whatever is told of a channel has them from its opening, who hears
            // of counts only from its former life: nothing is held back unless both know the same.
            let parts = |opened| opened != occupancy || last != occupancy;
            touched.tell = changes || touched.opened.is_some_and(parts);
            let before = std::mem::replace(&mut touched.occupancy, occupancy);
            let Some(channel) = channel else { continue };
            let told = if touched.tell {
                let until = run.stamp.after(self.pacing.occupancy_interval);
                Some(Told { occupancy, until })
            } else {
                // A closed and reopened channel has lost what was told of its former life.
                touched.told.filter(|told| told.until > run.stamp)
            };
            // Of a busy channel something was told before and something waits already.
            let pends = |occupancy| told.is_some_and(|told| told.occupancy != occupancy);
            let stays = told == touched.told && told.as_ref() == channel.told.as_deref();
            if !stays || pends(before) != pends(occupancy) {
                self.set_told(key, told);
            }
        }
    }

    /// Puts the occupancy events in their places and gives every event its position.
    fn assemble(&mut self, run: Run) -> Logged {
        let Run {
            stamp,
            coordinator,
            drafts,
            mut touched,
            marks,
        } = run;
        let occupancy = |touched: &Touched| Draft {
            id: None,
            kind: EventKind::Occupancy,
            at: stamp,
            region: coordinator.clone(),
            is_global_master: true,
            active: true,
            occupancy: touched.occupancy,
        };
        let mut ordered = Vec::with_capacity(drafts.len() + touched.len());
        for (at, (key, draft)) in drafts.into_iter().enumerate() {
            let facts = &touched[&key];
            if facts.tell && facts.closed && facts.last == Some(at) {
                ordered.push((key.clone(), occupancy(facts)));
            }
            ordered.push((key, draft));
        }
        for (key, facts) in touched
            .iter()
            .filter(|(_, facts)| facts.tell && !facts.closed)
        {
            ordered.push((key.clone(), occupancy(facts)));
        }
        let mut events = Vec::with_capacity(ordered.len());
        for (ordinal, (channel, draft)) in ordered.into_iter().enumerate() {
            let ordinal = u32::try_from(ordinal).expect("an entry's events are far below 2^32");
            let position = Position {
                index: self.applied,
                ordinal,
            };
            let facts = touched
                .get_mut(&channel)
                .expect("an event's channel was touched");
            let previous = facts.previous.replace(position);
            if draft.kind == EventKind::Closed {
                facts.previous = None;
            }
            let log_id = EventId::Log {
                era: self.era,
                shard: self.id,
                position,
            };
            let event = Event {
                id: draft.id.unwrap_or(log_id),
                kind: draft.kind,
                channel,
                at: draft.at,
                region: draft.region,
                is_global_master: draft.is_global_master,
                active: draft.active,
                occupancy: draft.occupancy,
            };
            events.push(LoggedEvent {
                position,
                previous,
                event,
            });
        }
        for (key, facts) in touched {
            let has_events = facts.tell || facts.last.is_some();
            if has_events && self.channel(&key).is_some() {
                self.channel_mut(&key).previous = facts.previous.unwrap_or_default();
            }
        }
        Logged {
            index: self.applied,
            stamp,
            coordinator,
            events,
            marks,
        }
    }

    /// Drops what no longer holds anything back. Bounded, so that no entry pays for many others.
    fn cool(&mut self) {
        for _ in 0..DUE_CHUNK {
            match self.cooling.first() {
                Some((until, _)) if *until <= self.stamp => {
                    let (_, key) = self.cooling.pop_first().expect("it was just seen");
                    self.channel_mut(&key).told = None;
                }
                _ => return,
            }
        }
    }

    /// Changes what holds a channel's events back, in the channel and in the indices.
    pub(crate) fn set_told(&mut self, key: &ChannelKey, told: Option<Told>) {
        self.unindex(key);
        let channel = self.channel_mut(key);
        channel.told = told.map(Box::new);
        let Some(told) = told else { return };
        let pending = channel.occupancy() != told.occupancy;
        let index = if pending {
            &mut self.due
        } else {
            &mut self.cooling
        };
        index.insert((told.until, key.clone()));
    }

    /// Takes a channel that is active nowhere out of the state.
    fn forget(&mut self, key: &ChannelKey) {
        self.unindex(key);
        let channels = self
            .apps
            .get_mut(&key.app)
            .expect("a channel's app is in the table");
        channels.remove(&key.name);
        if channels.is_empty() {
            self.apps.remove(&key.app);
        }
    }

    fn unindex(&mut self, key: &ChannelKey) {
        let Some(until) = self.channel(key).and_then(|channel| channel.told.as_ref()) else {
            return;
        };
        let place = (until.until, key.clone());
        let _was_due = self.due.remove(&place);
        let _was_cooling = self.cooling.remove(&place);
    }

    fn channel_mut(&mut self, key: &ChannelKey) -> &mut Channel {
        let channels = self.apps.get_mut(&key.app);
        let channel = channels.and_then(|channels| channels.get_mut(&key.name));
        channel.expect("only called for a channel that is in the table")
    }

    /// Returns every channel's key after `after`, ascending.
    pub(crate) fn keys_after<'a>(
        &'a self,
        after: Option<&'a ChannelKey>,
    ) -> impl Iterator<Item = ChannelKey> + 'a {
        let first_app = after.map_or(Bound::Unbounded, |key| Bound::Included(&key.app));
        self.apps
            .range::<AppId, _>((first_app, Bound::Unbounded))
            .flat_map(move |(app, channels)| {
                let inside = after.filter(|key| key.app == *app);
                let first = inside.map_or(Bound::Unbounded, |key| Bound::Excluded(&key.name));
                let names = channels.range::<ChannelName, _>((first, Bound::Unbounded));
                names.map(|(name, _)| ChannelKey {
                    app: app.clone(),
                    name: name.clone(),
                })
            })
    }

    fn region_or_new(&mut self, name: &RegionName) -> Option<RegionIndex> {
        if let Some(at) = self.region_index(name.as_str()) {
            return Some(at);
        }
        let at = RegionIndex::try_from(self.regions.len()).ok()?;
        self.regions.push(Region::new(name.clone()));
        Some(at)
    }

    /// I1–I3 of `DESIGN.md`, in debug builds.
    fn check_invariants(&self) {
        debug_assert!(
            self.apps.values().all(|channels| !channels.is_empty()),
            "I1: an app without active channels is not in the state"
        );
        debug_assert!(
            self.due.iter().chain(&self.cooling).all(|(until, key)| {
                let told = self.channel(key).and_then(|channel| channel.told.as_ref());
                told.is_some_and(|told| told.until == *until)
            }),
            "I3: the indices name exactly the channels that hold something back"
        );
    }
}

/// The work on one entry.
struct Run {
    stamp: Timestamp,
    coordinator: RegionName,
    drafts: Vec<(ChannelKey, Draft)>,
    touched: BTreeMap<ChannelKey, Touched>,
    marks: Vec<Mark>,
}

/// An event before it has a place in the log.
struct Draft {
    /// The id of a regional transition; others are named by their place.
    id: Option<EventId>,
    kind: EventKind,
    at: Timestamp,
    region: RegionName,
    is_global_master: bool,
    active: bool,
    occupancy: Occupancy,
}

/// What the entry found and did about a channel.
struct Touched {
    /// Global counts, before the entry and then after it.
    occupancy: Occupancy,
    /// What held its events back before the entry.
    told: Option<Told>,
    /// Position of its last event.
    previous: Option<Position>,
    /// Place of its last draft.
    last: Option<usize>,
    /// Whether that draft closed it.
    closed: bool,
    /// With which counts the entry opened it, if it did not close it again.
    opened: Option<Occupancy>,
    /// Whether its counts are told at the end of the entry.
    tell: bool,
}

impl Run {
    /// Notes how a channel was before the entry changes it.
    fn touch(&mut self, channel: Option<&Channel>, key: ChannelKey) {
        self.touched.entry(key).or_insert_with(|| Touched {
            occupancy: channel.map_or(Occupancy::ZERO, Channel::occupancy),
            told: channel.and_then(|channel| channel.told.as_deref().copied()),
            previous: channel
                .map(|channel| channel.previous)
                .filter(|previous| *previous != Position::START),
            last: None,
            closed: false,
            opened: None,
            tell: false,
        });
    }

    fn draft(&mut self, key: &ChannelKey, draft: Draft) {
        let touched = self
            .touched
            .get_mut(key)
            .expect("a channel is touched before it changes");
        touched.last = Some(self.drafts.len());
        touched.closed = draft.kind == EventKind::Closed;
        match draft.kind {
            EventKind::Opened => touched.opened = Some(draft.occupancy),
            EventKind::Closed => touched.opened = None,
            EventKind::RegionActive | EventKind::RegionInactive | EventKind::Occupancy => {}
        }
        self.drafts.push((key.clone(), draft));
    }
}
