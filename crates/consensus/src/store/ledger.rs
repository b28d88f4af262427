//! What the records written so far amount to, and which segments still hold what is needed.
//!
//! The writer applies each record to it when it is durable; a restart applies them all again.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Mark;
use super::record::{JournalMark, Record};
use super::slots::Slots;

/// The state of the records on disk. Only the writer holds it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) groups: BTreeMap<u64, LedgerGroup>,
    pub(super) dropped: BTreeSet<u64>,
    pub(super) facts: BTreeMap<String, Bytes>,
    pub(super) journals: BTreeMap<u64, JournalMark>,
    /// Bytes of entries that are still needed, by segment.
    live: BTreeMap<u64, u64>,
}

/// A group's state on disk.
#[derive(Debug, Default)]
pub(super) struct LedgerGroup {
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<Mark>,
    /// The number of its snapshot's file.
    pub(super) snapshot: Option<u64>,
    places: Slots<Place>,
}

/// Where an entry was last written.
#[derive(Debug, Clone, Copy)]
struct Place {
    segment: u32,
    bytes: u32,
}

impl Place {
    fn leave(self, live: &mut BTreeMap<u64, u64>) {
        let segment = u64::from(self.segment);
        let left = live
            .get_mut(&segment)
            .expect("a place counts in its segment");
        *left -= u64::from(self.bytes);
        if *left == 0 {
            live.remove(&segment);
        }
    }
}

impl Ledger {
    /// Applies a record that stands in `segment`.
    pub(super) fn apply(&mut self, record: &Record, segment: u64) {
        match record {
            Record::Append { group, entries } => {
                let segment =
                    u32::try_from(segment).expect("segments of a store are far below 2^32");
                let group = self.groups.entry(*group).or_default();
                for entry in entries {
                    if group
                        .purged
                        .as_ref()
                        .is_some_and(|purged| entry.index <= purged.index)
                    {
                        continue;
                    }
                    // Never nothing, so that a segment with an empty entry counts as needed.
                    let bytes = (entry.meta.len() + entry.payload.len()) as u32 + 8;
                    *self.live.entry(u64::from(segment)).or_default() += u64::from(bytes);
                    if let Some(former) = group.places.set(entry.index, Place { segment, bytes }) {
                        former.leave(&mut self.live);
                    }
                }
            }
            Record::Truncate { group, keep } => {
                let group = self.groups.entry(*group).or_default();
                group
                    .places
                    .truncate_after(*keep, |place| place.leave(&mut self.live));
            }
            Record::Purge { group, upto } => {
                let group = self.groups.entry(*group).or_default();
                group
                    .places
                    .purge(upto.index, |place| place.leave(&mut self.live));
                group.purged = Some(upto.clone());
            }
            Record::Vote { group, vote } => {
                self.groups.entry(*group).or_default().vote = Some(vote.clone());
            }
            Record::Committed { group, committed } => {
                self.groups.entry(*group).or_default().committed = Some(committed.clone());
            }
            Record::Drop { group } => {
                if let Some(mut gone) = self.groups.remove(group) {
                    gone.places
                        .truncate_after(None, |place| place.leave(&mut self.live));
                }
                self.dropped.insert(*group);
            }
            Record::Snapshot { group, number } => {
                self.groups.entry(*group).or_default().snapshot = Some(*number);
            }
            Record::Fact {
                key,
                value: Some(value),
            } => {
                self.facts.insert(key.clone(), value.clone());
            }
            Record::Fact { key, value: None } => {
                self.facts.remove(key);
            }
            Record::Journal { shard, mark } => {
                self.journals.insert(*shard, *mark);
            }
        }
    }

    /// Writes records that amount to everything but the entries. With them at its head a segment
    /// needs none of the earlier ones but for entries.
    pub(super) fn checkpoint(&self, out: &mut Vec<u8>) {
        for group in &self.dropped {
            Record::Drop { group: *group }.encode(out);
        }
        for (&group, state) in &self.groups {
            if let Some(vote) = state.vote.clone() {
                Record::Vote { group, vote }.encode(out);
            }
            if let Some(committed) = state.committed.clone() {
                Record::Committed { group, committed }.encode(out);
            }
            if let Some(upto) = state.purged.clone() {
                Record::Purge { group, upto }.encode(out);
            }
            if let Some(number) = state.snapshot {
                Record::Snapshot { group, number }.encode(out);
            }
        }
        for (key, value) in &self.facts {
            Record::Fact {
                key: key.clone(),
                value: Some(value.clone()),
            }
            .encode(out);
        }
        for (&shard, &mark) in &self.journals {
            Record::Journal { shard, mark }.encode(out);
        }
    }

    /// Bytes of entries that are needed.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live.values().sum()
    }

    /// The oldest segment with an entry that is needed.
    pub(super) fn oldest_live(&self) -> Option<u64> {
        self.live.keys().next().copied()
    }

    /// Some of the entries that only `segment` holds, by group and index: about `max_bytes`.
    pub(super) fn entries_in(&self, segment: u64, max_bytes: u64) -> Vec<(u64, u64)> {
        let mut budget = max_bytes;
        let mut found = Vec::new();
        for (group, state) in &self.groups {
            for (index, place) in state.places.from(0) {
                if u64::from(place.segment) == segment {
                    found.push((*group, index));
                    budget = budget.saturating_sub(u64::from(place.bytes));
                    if budget == 0 {
                        return found;
                    }
                }
            }
        }
        found
    }
}
