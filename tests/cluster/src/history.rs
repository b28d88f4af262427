//! The checker: what a watcher was told, judged event by event.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use headcount_model::{EventKind, Occupancy, Position};

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

    /// Returns what is wrong: opened and closed do not alternate for a channel, or active and
    /// inactive for one of its regions; something came again that the cursor covers, or with
    /// another body, or without a resumption; the body contradicts the kind; there is a gap; or
    /// a log that was told in full does not nest regional events in opened and closed.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        self.fold().1
    }

    fn fold(&self) -> (BTreeMap<String, ChannelState>, Vec<String>) {
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
                    faults.push(format!("a gap: {gap}"));
                    continue;
                }
            };
            if let Some((last, body)) = seen.get_mut(told.id.as_str()) {
                if !told.is_same(body) {
                    faults.push(format!("one id, two bodies: {told} and {body}"));
                }
                if !uncovered.remove(told.id.as_str()) {
                    faults.push(format!("told twice: {told}"));
                }
                *last = at;
                continue;
            }
            seen.insert(&told.id, (at, told));
            let state = states.entry(told.channel.clone()).or_default();
            if let Some(fault) = apply(state, told, nested) {
                faults.push(format!("{fault}: {told}"));
            }
        }
        states.retain(|_, state| state.open || !state.active.is_empty());
        (states, faults)
    }
}

/// Applies an event to a channel's state; returns what is wrong with it.
fn apply(state: &mut ChannelState, told: &Told, nested: bool) -> Option<&'static str> {
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
            return Err(format!("one id, two bodies: {told} and {body}"));
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
mod tests {
    use super::*;

    fn told(id: &str, kind: EventKind, region: &str) -> Step {
        let active = matches!(
            kind,
            EventKind::Opened | EventKind::RegionActive | EventKind::Occupancy
        );
        Step::Event(Told {
            id: id.to_owned(),
            kind,
            channel: "room".to_owned(),
            region: region.to_owned(),
            is_global_master: true,
            active,
            occupancy: Occupancy::ZERO,
            at_ms: 0,
            position: Some(Position::START),
        })
    }

    fn history(steps: Vec<Step>) -> History {
        History {
            steps,
            cursor: None,
            covered: 0,
        }
    }

    fn life() -> Vec<Step> {
        vec![
            told("1", EventKind::RegionActive, "us"),
            told("2", EventKind::Opened, "us"),
            told("3", EventKind::RegionActive, "eu"),
            told("4", EventKind::RegionInactive, "us"),
            told("5", EventKind::RegionInactive, "eu"),
            told("6", EventKind::Closed, "us"),
        ]
    }

    fn without(at: usize) -> History {
        let mut steps = life();
        steps.remove(at);
        history(steps)
    }

    #[test]
    fn a_whole_life_is_right_and_leaves_nothing() {
        assert_eq!(history(life()).check(), BTreeMap::new());
    }

    #[test]
    fn every_missing_event_is_found() {
        for at in 0..6 {
            let lost = without(at);
            let found = !lost.faults().is_empty() || !lost.fold().0.is_empty();
            assert!(found, "nobody misses event {at}");
        }
    }

    #[test]
    fn exchanged_neighbours_are_found_where_order_matters() {
        for at in [0, 3, 4] {
            let mut steps = life();
            steps.swap(at, at + 1);
            let wrong = history(steps).faults();
            assert_eq!(wrong.is_empty(), at == 3, "{at}: {wrong:?}");
        }
    }

    #[test]
    fn what_a_cursor_covers_must_not_come_again() {
        let mut steps = life();
        let again = steps[5].clone();
        steps.push(Step::Resumed {
            node: "b".to_owned(),
            covered: 5,
        });
        steps.push(again.clone());
        assert_eq!(history(steps.clone()).faults(), Vec::<String>::new());
        steps[6] = Step::Resumed {
            node: "b".to_owned(),
            covered: 6,
        };
        assert_eq!(history(steps).faults().len(), 1);
        let mut steps = life();
        steps.push(again);
        assert_eq!(history(steps).faults().len(), 1);
    }

    #[test]
    fn what_was_not_covered_may_come_after_further_resumptions_and_once() {
        let resumed = |covered| Step::Resumed {
            node: "b".to_owned(),
            covered,
        };
        let mut steps = life();
        let again = steps[5].clone();
        steps.extend([resumed(5), resumed(8), again.clone()]);
        assert_eq!(history(steps.clone()).faults(), Vec::<String>::new());
        steps.push(again);
        assert_eq!(history(steps).faults().len(), 1);
    }

    #[test]
    fn gaps_and_other_bodies_are_found() {
        let mut steps = life();
        steps.push(Step::Gap("shard 0".to_owned()));
        assert_eq!(history(steps).faults().len(), 1);
        let mut steps = life();
        steps.push(Step::Resumed {
            node: "b".to_owned(),
            covered: 0,
        });
        steps.push(told("2", EventKind::Opened, "eu"));
        assert_eq!(history(steps).faults().len(), 1);
    }

    #[test]
    fn watchers_that_were_told_differently_do_not_agree() {
        assert_eq!(agree(&[history(life()), history(life())]), Ok(()));
        for at in 0..6 {
            let compared = agree(&[history(life()), without(at)]);
            assert!(compared.is_err(), "nobody misses event {at}");
        }
    }

    #[test]
    fn what_never_reached_the_log_may_be_told_to_some() {
        let early = |id: &str, kind| match told(id, kind, "us") {
            Step::Event(told) => Step::Event(Told {
                position: None,
                ..told
            }),
            other => other,
        };
        let mut steps = life();
        steps.insert(1, early("1b", EventKind::RegionInactive));
        steps.insert(2, early("1c", EventKind::RegionActive));
        let both = [history(life()), history(steps)];
        assert_eq!(both[1].check(), BTreeMap::new());
        assert_eq!(agree_on_the_log(&both), Ok(()));
        assert!(agree(&both).is_err());
        assert!(agree_on_the_log(&[history(life()), without(1)]).is_err());
        let other = history(vec![told("1", EventKind::RegionActive, "eu")]);
        let other = [history(life()[..1].to_vec()), other];
        assert!(agree_on_the_log(&other).is_err());
    }
}
