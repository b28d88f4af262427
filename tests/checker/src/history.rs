//! What a watcher was told, judged event by event.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use headcount_model::{EventKind, Occupancy, Position, WatchEvent, WatchItem};

use crate::{Fault, Rule};

/// An event as any surface tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The event's id.
    pub id: String,
    /// What changed.
    pub kind: EventKind,
    /// Where.
    pub channel: String,
    /// The region that the event names.
    pub region: String,
    /// Whether the coordinator is there.
    pub is_global_master: bool,
    /// The state after the event.
    pub active: bool,
    /// The counts that belong to it.
    pub occupancy: Occupancy,
    /// When its cause was decided, milliseconds since the epoch.
    pub at_ms: u64,
    /// Where the log has it. No part of the body; server-sent events do not tell it.
    pub position: Option<Position>,
}

impl Told {
    /// Returns whether two tellings have the same body.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let plain = |told: &Self| Self {
            position: None,
            ..told.clone()
        };
        plain(self) == plain(other)
    }
}

impl From<&WatchEvent> for Told {
    fn from(watched: &WatchEvent) -> Self {
        let event = &watched.event;
        Self {
            id: event.id.to_string(),
            kind: event.kind,
            channel: event.channel.name.to_string(),
            region: event.region.to_string(),
            is_global_master: event.is_global_master,
            active: event.active,
            occupancy: event.occupancy,
            at_ms: event.at.0,
            position: watched.position,
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            kind,
            channel,
            region,
            active,
            occupancy,
            ..
        } = self;
        write!(
            f,
            "{kind} {channel} {region} active={active} {:?} {id}",
            occupancy.counts()
        )?;
        if let Some(Position { index, ordinal }) = self.position {
            write!(f, " at {index}.{ordinal}")?;
        }
        Ok(())
    }
}

/// What a watcher went through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was told something.
    Event(Told),
    /// It went on with a cursor.
    Resumed {
        /// Where.
        node: String,
        /// How many of the steps the cursor covers: those must not come again.
        covered: usize,
    },
    /// Its stream ended or broke.
    Broken(String),
    /// It was told that events are missing.
    Gap(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event(told) => write!(f, "{told}"),
            Self::Resumed { node, covered } => write!(f, "-- resumed at {node} after {covered}"),
            Self::Broken(why) => write!(f, "-- broken: {why}"),
            Self::Gap(gap) => write!(f, "-- gap: {gap}"),
        }
    }
}

/// A channel as the events tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelState {
    /// Whether it is open.
    pub open: bool,
    /// The regions in which it is active.
    pub active: Vec<String>,
    /// Its global counts.
    pub occupancy: Occupancy,
}

/// Everything that a watcher was told, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// In the order in which they happened.
    pub steps: Vec<Step>,
    /// The newest resume point.
    pub cursor: Option<String>,
    /// How many of the steps it covers.
    pub covered: usize,
}

impl History {
    /// Writes down an item of a watch.
    ///
    /// # Errors
    /// The reason, if it ends the watch.
    pub fn take(&mut self, item: WatchItem) -> Result<(), String> {
        let (cursor, outcome) = match item {
            WatchItem::Events { events, cursor } => {
                let told = events.iter().map(|watched| Told::from(&**watched));
                self.steps.extend(told.map(Step::Event));
                (cursor, Ok(()))
            }
            WatchItem::Gap {
                shard,
                region,
                from,
                cursor,
            } => {
                let gap = format!("shard {shard} region {region:?} from {from:?}");
                self.steps.push(Step::Gap(gap));
                (cursor, Ok(()))
            }
            WatchItem::Position { cursor } => (cursor, Ok(())),
            WatchItem::End { reason, cursor } => (cursor, Err(reason.as_str().to_owned())),
        };
        self.cursor = Some(cursor);
        self.covered = self.steps.len();
        outcome
    }

    /// Returns the events in order, each once: what came again under its id after a resumption is
    /// left out.
    #[must_use]
    pub fn events(&self) -> Vec<&Told> {
        let mut seen = BTreeMap::new();
        let told = self.steps.iter().filter_map(|step| match step {
            Step::Event(told) => Some(told),
            Step::Resumed { .. } | Step::Broken(_) | Step::Gap(_) => None,
        });
        told.filter(|told| seen.insert(told.id.as_str(), ()).is_none())
            .collect()
    }

    /// Returns the events of a channel in order.
    #[must_use]
    pub fn of(&self, channel: &str) -> Vec<&Told> {
        self.events()
            .into_iter()
            .filter(|told| told.channel == channel)
            .collect()
    }

    /// Returns what happened to a channel as short lines `kind region`, without occupancy.
    #[must_use]
    pub fn story(&self, channel: &str) -> Vec<String> {
        let told = self.of(channel).into_iter();
        let told = told.filter(|told| told.kind != EventKind::Occupancy);
        told.map(|told| match told.kind.is_regional() {
            true => format!("{} {}", told.kind, told.region),
            false => told.kind.to_string(),
        })
        .collect()
    }

    /// Returns how many events of a kind a channel had.
    #[must_use]
    pub fn count(&self, channel: &str, kind: EventKind) -> usize {
        self.of(channel)
            .into_iter()
            .filter(|told| told.kind == kind)
            .count()
    }

    /// Returns whether the channel is open, as far as was told.
    #[must_use]
    pub fn is_open(&self, channel: &str) -> bool {
        let mut global = self.of(channel).into_iter().rev();
        let last = global.find(|told| matches!(told.kind, EventKind::Opened | EventKind::Closed));
        last.is_some_and(|told| told.kind == EventKind::Opened)
    }

    /// Returns whether the channel is active in a region, as far as was told.
    #[must_use]
    pub fn is_active(&self, channel: &str, region: &str) -> bool {
        let mut told = self.of(channel).into_iter().rev();
        let last = told.find(|told| told.kind.is_regional() && told.region == region);
        last.is_some_and(|told| told.kind == EventKind::RegionActive)
    }

    /// Returns the state that the events end in, by channel; channels that are closed and nowhere
    /// active are left out.
    ///
    /// # Panics
    /// If what was told breaks a promise: see [`History::faults`].
    #[must_use]
    pub fn check(&self) -> BTreeMap<String, ChannelState> {
        let (states, faults) = self.fold();
        assert!(faults.is_empty(), "{faults:#?}\nthe history:\n{self}");
        states
    }

    /// Returns the state that the events end in as [`History::check`] does, right or wrong.
    #[must_use]
    pub fn states(&self) -> BTreeMap<String, ChannelState> {
        self.fold().0
    }

    /// Returns what is wrong: opened and closed do not alternate for a channel, or active and
    /// inactive for one of its regions; something came again that the cursor covers, or with
    /// another body, or without a resumption; the body contradicts the kind; there is a gap; or
    /// a log that was told in full does not nest regional events in opened and closed.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        self.fold().1
    }

    fn fold(&self) -> (BTreeMap<String, ChannelState>, Vec<Fault>) {
        let mut faults = Vec::new();
        let mut states: BTreeMap<String, ChannelState> = BTreeMap::new();
        let mut seen: BTreeMap<&str, (usize, &Told)> = BTreeMap::new();
        // What the cursors of resumptions did not cover, and was not told again since: it comes
        // again whenever its shard is read, which may be after further resumptions.
        let mut uncovered: BTreeSet<&str> = BTreeSet::new();
        // R6: early regional events may precede the log's order; without any, all must nest.
        let nested = self.events().iter().all(|told| told.position.is_some());
        for (at, step) in self.steps.iter().enumerate() {
            let told = match step {
                Step::Event(told) => told,
                Step::Resumed { covered, .. } => {
                    let lost = seen.iter().filter(|(_, (last, _))| last >= covered);
                    uncovered.extend(lost.map(|(id, _)| *id));
                    continue;
                }
                Step::Broken(_) => continue,
                Step::Gap(gap) => {
                    faults.push(Fault::new(Rule::Contiguity, format!("a gap: {gap}")));
                    continue;
                }
            };
            if let Some((last, body)) = seen.get_mut(told.id.as_str()) {
                if !told.is_same(body) {
                    faults.push(two_bodies(told, body));
                }
                if !uncovered.remove(told.id.as_str()) {
                    faults.push(Fault::new(Rule::ExactlyOnce, format!("told twice: {told}")));
                }
                *last = at;
                continue;
            }
            seen.insert(&told.id, (at, told));
            let state = states.entry(told.channel.clone()).or_default();
            if let Some(fault) = apply(state, told, nested) {
                faults.push(Fault::new(Rule::Alternation, format!("{fault}: {told}")));
            }
        }
        states.retain(|_, state| state.open || !state.active.is_empty());
        (states, faults)
    }
}

fn two_bodies(told: &Told, body: &Told) -> Fault {
    let what = format!("one id, two bodies: {told} and {body}");
    Fault::new(Rule::ExactlyOnce, what)
}

/// Applies an event to a channel's state; returns what is wrong with it.
pub(crate) fn apply(state: &mut ChannelState, told: &Told, nested: bool) -> Option<&'static str> {
    let position = state
        .active
        .iter()
        .position(|region| *region == told.region);
    let was_open = state.open;
    if !told.kind.is_regional() {
        if !told.is_global_master {
            return Some("a global event that is not of the coordinator's region");
        }
        state.occupancy = told.occupancy;
    }
    match told.kind {
        EventKind::Opened => {
            state.open = true;
            let nests = !nested || !state.active.is_empty();
            (was_open && told.active)
                .then_some("opened again")
                .or(match told.active {
                    false => Some("opened and not active"),
                    true => (!nests).then_some("opened and active nowhere"),
                })
        }
        EventKind::Closed => {
            state.open = false;
            let nests = !nested || state.active.is_empty();
            (!was_open).then_some("closed again").or(match told.active {
                true => Some("closed and active"),
                false => (!nests).then_some("closed and still active somewhere"),
            })
        }
        EventKind::RegionActive => match position {
            Some(_) => Some("active again"),
            None => {
                state.active.push(told.region.clone());
                (!told.active).then_some("active and not active")
            }
        },
        EventKind::RegionInactive => match position {
            None => Some("inactive again"),
            Some(position) => {
                state.active.remove(position);
                told.active.then_some("inactive and active")
            }
        },
        EventKind::Occupancy => (!was_open).then_some("occupancy of a closed channel"),
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            writeln!(f, "{at:>5} {step}")?;
        }
        Ok(())
    }
}

/// Checks that watchers who began before anything happened were told the same: each channel's
/// opened, closed and occupancy, and each region's active and inactive, in the same order under the
/// same ids with the same bodies.
///
/// # Errors
/// What they were told differently.
pub fn agree(histories: &[History]) -> Result<(), String> {
    compare(histories, &|_| true)
}

/// Checks what [`agree`] does of global events, and that the same id has the same body everywhere.
/// Where all nodes of a region die that an owner told something ahead of the log, nobody brings it
/// there; who was told it is put right where it matters (R3), and not told what it knows already.
///
/// # Errors
/// What they were told differently.
pub fn agree_on_the_log(histories: &[History]) -> Result<(), String> {
    compare(histories, &|told| !told.kind.is_regional())?;
    let mut bodies: BTreeMap<&str, &Told> = BTreeMap::new();
    for told in histories.iter().flat_map(History::events) {
        let body = bodies.entry(&told.id).or_insert(told);
        if !told.is_same(body) {
            return Err(two_bodies(told, body).to_string());
        }
    }
    Ok(())
}

fn compare(histories: &[History], counts: &dyn Fn(&Told) -> bool) -> Result<(), String> {
    let Some((first, others)) = histories.split_first() else {
        return Ok(());
    };
    for other in others {
        let (ours, theirs) = (by_subject(first, counts), by_subject(other, counts));
        for subject in ours.keys().chain(theirs.keys()) {
            let none = Vec::new();
            let mine = ours.get(subject).unwrap_or(&none);
            let yours = theirs.get(subject).unwrap_or(&none);
            let same = mine.len() == yours.len()
                && mine
                    .iter()
                    .zip(yours)
                    .all(|(mine, yours)| mine.is_same(yours));
            if !same {
                let lines = |of: &[&Told]| {
                    let lines = of.iter().map(|told| format!("  {told}\n"));
                    lines.collect::<String>()
                };
                let (mine, yours) = (lines(mine), lines(yours));
                return Err(format!(
                    "watchers disagree on {subject:?}:\n{mine}and\n{yours}"
                ));
            }
        }
    }
    Ok(())
}

/// What is ordered: a channel's global transitions, its counts, or its transitions in a region.
type Subject = (String, String);

fn by_subject<'a>(
    history: &'a History,
    counts: &dyn Fn(&Told) -> bool,
) -> BTreeMap<Subject, Vec<&'a Told>> {
    let mut subjects: BTreeMap<Subject, Vec<&Told>> = BTreeMap::new();
    for told in history.events().into_iter().filter(|told| counts(told)) {
        let subject = match told.kind {
            EventKind::Opened | EventKind::Closed => "state".to_owned(),
            EventKind::Occupancy => "counts".to_owned(),
            EventKind::RegionActive | EventKind::RegionInactive => told.region.clone(),
        };
        subjects
            .entry((told.channel.clone(), subject))
            .or_default()
            .push(told);
    }
    subjects
}

#[cfg(test)]
mod tests;
