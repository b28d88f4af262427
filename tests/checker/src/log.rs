//! The events of the shards' logs, and whether a watcher was told all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use headcount_model::{EventId, EventKind, Position, ShardId};

use crate::history::apply;
use crate::{ChannelState, Fault, History, Rule, Told};

/// Log: the events of all shards' logs by position, dumped or put together from what was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log(BTreeMap<ShardId, BTreeMap<Position, Told>>);

/// Returns where the log has an event, as far as its teller or its id says.
fn place(told: &Told) -> Option<(ShardId, Position)> {
    let id: EventId = told.id.parse().ok()?;
    let by_id = match &id {
        EventId::Log { position, .. } => Some(*position),
        EventId::Transition { .. } | EventId::Void { .. } => None,
    };
    Some((id.shard(), told.position.or(by_id)?))
}

impl Log {
    /// Puts a log together from what watchers were told; whoever is told by position tells it.
    ///
    /// # Errors
    /// Where two watchers were told different events of the same position.
    pub fn of(histories: &[History]) -> Result<Self, Fault> {
        let mut log = Self::default();
        for told in histories.iter().flat_map(History::events) {
            log.add(told)?;
        }
        Ok(log)
    }

    /// Adds an event; one whose position nobody knows is passed over.
    ///
    /// # Errors
    /// If another event is there.
    pub fn add(&mut self, told: &Told) -> Result<(), Fault> {
        let Some((shard, position)) = place(told) else {
            return Ok(());
        };
        let events = self.0.entry(shard).or_default();
        let known = events.entry(position).or_insert_with(|| told.clone());
        if known.is_same(told) {
            return Ok(());
        }
        let what = format!("one position, two events: {known} and {told}");
        Err(Fault::new(Rule::ExactlyOnce, what))
    }

    /// Returns the events of a shard in order.
    pub fn events(&self, shard: ShardId) -> impl Iterator<Item = &Told> {
        self.0.get(&shard).into_iter().flat_map(BTreeMap::values)
    }

    /// Returns the events of another log that this one does not have in the same place with the same
    /// body: those of a shard whose indexes are in a range.
    #[must_use]
    pub fn lacking<'a>(
        &self,
        other: &'a Self,
        shard: ShardId,
        indexes: &RangeInclusive<u64>,
    ) -> Vec<&'a Told> {
        let place = |index, ordinal| Position { index, ordinal };
        let places = place(*indexes.start(), 0)..=place(*indexes.end(), u32::MAX);
        let here = self.0.get(&shard);
        let is_here = |(position, told): &(&Position, &Told)| {
            let own = here.and_then(|events| events.get(position));
            own.is_some_and(|own| own.is_same(told))
        };
        let theirs = other.0.get(&shard).into_iter();
        let theirs = theirs.filter(|_| !indexes.is_empty());
        let theirs = theirs.flat_map(|events| events.range(places.clone()));
        let lacking = theirs.filter(|event| !is_here(event));
        lacking.map(|(_, told)| told).collect()
    }

    /// Returns the index of the last entry that told something of a shard.
    #[must_use]
    pub fn last(&self, shard: ShardId) -> Option<u64> {
        let (position, _) = self.0.get(&shard)?.last_key_value()?;
        Some(position.index)
    }

    /// Returns how many events there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns what is wrong with a log that is known from its beginning: it does not alternate or
    /// nest, an id is at two positions, or the ordinals of an entry have a hole.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut states: BTreeMap<&str, ChannelState> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for (shard, events) in &self.0 {
            let mut next: Option<Position> = None;
            for (position, told) in events {
                let wanted = next.filter(|next| next.index == position.index);
                let wanted = wanted.map_or(0, |next| next.ordinal);
                if position.ordinal != wanted {
                    let what = format!("shard {shard} misses ordinal {wanted} before {told}");
                    faults.push(Fault::new(Rule::Contiguity, what));
                }
                next = Some(Position {
                    index: position.index,
                    ordinal: position.ordinal.saturating_add(1),
                });
                if !ids.insert(told.id.as_str()) {
                    let what = format!("logged twice: {told}");
                    faults.push(Fault::new(Rule::ExactlyOnce, what));
                }
                let state = states.entry(&told.channel).or_default();
                if let Some(fault) = apply(state, told, true) {
                    faults.push(Fault::new(Rule::Alternation, format!("{fault}: {told}")));
                }
            }
        }
        faults
    }

    /// Returns what a watcher of everything should have been told and was not, or was told in
    /// another order than the log's: of each shard, it must know each transition between the first
    /// and the last that it was told. Occupancy may have been rolled up; and who was told a region's
    /// transition that never got into the log is not told what it knows already (R10).
    #[must_use]
    pub fn missed(&self, history: &History) -> Vec<Fault> {
        let mut faults = Vec::new();
        let told = history.events();
        let known: BTreeSet<&str> = told.iter().map(|told| told.id.as_str()).collect();
        let logged = self.0.values().flat_map(BTreeMap::values);
        let logged: BTreeSet<&str> = logged.map(|told| told.id.as_str()).collect();
        let ahead = told.iter().filter(|told| told.kind.is_regional());
        let ahead = ahead.filter(|told| !logged.contains(told.id.as_str()));
        let ahead: BTreeSet<_> = ahead.map(|told| (&told.channel, &told.region)).collect();
        let mut ranges: BTreeMap<ShardId, (Position, Position)> = BTreeMap::new();
        for told in told {
            let Some((shard, position)) = place(told) else {
                continue;
            };
            let (_, last) = ranges.entry(shard).or_insert((position, position));
            if position < *last {
                let what = format!("told after {}.{}: {told}", last.index, last.ordinal);
                faults.push(Fault::new(Rule::Contiguity, what));
            }
            *last = position.max(*last);
        }
        for (shard, (first, last)) in ranges {
            let between = self.0.get(&shard).into_iter();
            let between = between.flat_map(|events| events.range(first..last));
            for (_, event) in between {
                let is_known = known.contains(event.id.as_str())
                    || (event.kind.is_regional()
                        && ahead.contains(&(&event.channel, &event.region)));
                if event.kind != EventKind::Occupancy && !is_known {
                    let what = format!("not told, but what came after it: {event}");
                    faults.push(Fault::new(Rule::Contiguity, what));
                }
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use headcount_model::Occupancy;

    use super::*;
    use crate::Step;

    fn told(index: u64, ordinal: u32, kind: EventKind) -> Told {
        let regional = kind.is_regional();
        let id = match regional {
            true => format!("1.0.us.7.{index}"),
            false => format!("1.0.{index}.{ordinal}"),
        };
        Told {
            id,
            kind,
            channel: "c".to_owned(),
            region: "us".to_owned(),
            is_global_master: true,
            active: !matches!(kind, EventKind::Closed | EventKind::RegionInactive),
            occupancy: Occupancy::ZERO,
            at_ms: 0,
            position: Some(Position { index, ordinal }),
        }
    }

    fn life() -> Vec<Told> {
        vec![
            told(1, 0, EventKind::RegionActive),
            told(1, 1, EventKind::Opened),
            told(1, 2, EventKind::Occupancy),
            told(4, 0, EventKind::RegionInactive),
            told(4, 1, EventKind::Closed),
            told(9, 0, EventKind::RegionActive),
            told(9, 1, EventKind::Opened),
        ]
    }

    fn log(events: &[Told]) -> Log {
        let mut log = Log::default();
        events.iter().for_each(|told| log.add(told).unwrap());
        log
    }

    fn history(events: Vec<Told>) -> History {
        History {
            steps: events.into_iter().map(Step::Event).collect(),
            ..History::default()
        }
    }

    fn rules(faults: &[Fault]) -> BTreeSet<Rule> {
        faults.iter().map(|fault| fault.rule).collect()
    }

    #[test]
    fn a_whole_log_is_right_and_all_of_it_was_told() {
        assert_eq!(log(&life()).faults(), []);
        assert_eq!(log(&life()).missed(&history(life())), []);
        let whole = Log::of(&[history(life()), history(life()[2..].to_vec())]).unwrap();
        assert_eq!((whole.len(), whole.is_empty()), (7, false));
        assert_eq!(whole.events(ShardId(0)).count(), 7);
    }

    #[test]
    fn a_hole_in_an_entry_is_found_and_nothing_else() {
        let mut events = life();
        events[2].position = Some(Position {
            index: 1,
            ordinal: 3,
        });
        events[2].id = "1.0.1.3".to_owned();
        assert_eq!(rules(&log(&events).faults()), [Rule::Contiguity].into());
    }

    #[test]
    fn a_log_that_does_not_nest_is_found_and_nothing_else() {
        let mut events = life();
        events[0].region = "eu".to_owned();
        assert_eq!(rules(&log(&events).faults()), [Rule::Alternation].into());
    }

    #[test]
    fn an_id_at_two_positions_is_found() {
        let mut events = life();
        events[5].id = life()[0].id.clone();
        assert_eq!(rules(&log(&events).faults()), [Rule::ExactlyOnce].into());
    }

    #[test]
    fn two_events_at_one_position_are_found() {
        let mut other = life();
        other[0].region = "eu".to_owned();
        let fault = Log::of(&[history(life()), history(other)]).unwrap_err();
        assert_eq!(fault.rule, Rule::ExactlyOnce);
    }

    #[test]
    fn what_a_watcher_missed_is_found_unless_it_may_be_rolled_up() {
        let whole = log(&life());
        for at in 0..life().len() {
            let mut events = life();
            events.remove(at);
            let missed = whole.missed(&history(events));
            // What is before the first or after the last is no hole.
            let expected = ![0, 2, life().len() - 1].contains(&at);
            assert_eq!(!missed.is_empty(), expected, "{at}: {missed:?}");
        }
    }

    #[test]
    fn what_another_log_has_more_or_otherwise_is_found() {
        let (whole, shard) = (log(&life()), ShardId(0));
        assert_eq!((whole.last(shard), whole.last(ShardId(1))), (Some(9), None));
        assert_eq!(whole.lacking(&whole, shard, &(0..=9)), Vec::<&Told>::new());
        let mut events = life();
        let gone = events.remove(1);
        events[2].region = "eu".to_owned();
        let other = log(&events);
        assert_eq!(other.lacking(&whole, shard, &(0..=9)), [&gone, &life()[3]]);
        assert_eq!(other.lacking(&whole, shard, &(2..=9)), [&life()[3]]);
        assert_eq!(whole.lacking(&other, shard, &(0..=9)), [&events[2]]);
        let (few, none) = (0..=3, RangeInclusive::new(4, 3));
        assert_eq!(whole.lacking(&other, shard, &few), Vec::<&Told>::new());
        assert_eq!(whole.lacking(&other, shard, &none), Vec::<&Told>::new());
        assert_eq!(
            other.lacking(&whole, ShardId(1), &(0..=9)),
            Vec::<&Told>::new()
        );
    }

    #[test]
    fn what_was_told_early_was_told() {
        let mut events = life();
        events[3].position = None;
        events.swap(2, 3);
        assert_eq!(log(&life()).missed(&history(events)), []);
    }

    #[test]
    fn who_was_told_what_never_was_logged_is_not_told_it_again() {
        let mut events = life();
        // An owner told the end ahead, and died; the expiry logged it.
        let ahead = Told {
            id: "1.0.us.6.3".to_owned(),
            position: None,
            ..events[3].clone()
        };
        events[3] = ahead.clone();
        assert_eq!(log(&life()).missed(&history(events.clone())), []);
        // What is told of another region, or of all, is no excuse.
        events[3] = Told {
            region: "eu".to_owned(),
            ..ahead
        };
        assert_eq!(log(&life()).missed(&history(events.clone())).len(), 1);
        events.remove(4);
        assert_eq!(log(&life()).missed(&history(events)).len(), 2);
    }

    #[test]
    fn another_order_than_the_logs_is_found() {
        let mut events = life();
        events.swap(3, 4);
        assert_eq!(
            rules(&log(&life()).missed(&history(events))),
            [Rule::Contiguity].into()
        );
    }
}
