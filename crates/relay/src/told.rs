//! Interests that other regions told directly, until the log says the same (R17).

use std::collections::{BTreeMap, BTreeSet};

use headcount_model::{Monotonic, RegionName};

use crate::member::RelayChannel;

/// Interests of other regions, each with the end of the time for which it is held.
#[derive(Debug, Default)]
pub(crate) struct Told {
    channels: BTreeMap<RelayChannel, BTreeMap<RegionName, Monotonic>>,
    deadlines: BTreeSet<(Monotonic, RelayChannel, RegionName)>,
}

impl Told {
    pub(crate) fn len(&self) -> usize {
        self.deadlines.len()
    }

    /// Holds an interest until `until`, also if it was held for less. Returns false if there are
    /// `max` others already.
    pub(crate) fn hold(
        &mut self,
        channel: &RelayChannel,
        region: &RegionName,
        until: Monotonic,
        max: usize,
    ) -> bool {
        self.drop(channel, region);
        if self.len() >= max {
            return false;
        }
        let regions = self.channels.entry(channel.clone()).or_default();
        regions.insert(region.clone(), until);
        let deadline = (until, channel.clone(), region.clone());
        self.deadlines.insert(deadline);
        true
    }

    /// Does not hold an interest any longer.
    pub(crate) fn drop(&mut self, channel: &RelayChannel, region: &RegionName) {
        let Some(regions) = self.channels.get_mut(channel) else {
            return;
        };
        if let Some(until) = regions.remove(region) {
            let deadline = (until, channel.clone(), region.clone());
            self.deadlines.remove(&deadline);
        }
        if regions.is_empty() {
            self.channels.remove(channel);
        }
    }

    /// Drops all that a region told.
    pub(crate) fn drop_all(&mut self, region: &RegionName) {
        self.deadlines.retain(|(_, _, of)| of != region);
        self.channels.retain(|_, regions| {
            regions.remove(region);
            !regions.is_empty()
        });
    }

    /// Drops what was held long enough.
    pub(crate) fn expire(&mut self, now: Monotonic) {
        while let Some((until, channel, region)) = self.deadlines.first().cloned()
            && until <= now
        {
            self.drop(&channel, &region);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotonic> {
        self.deadlines.first().map(|(until, ..)| *until)
    }

    pub(crate) fn contains(&self, channel: &RelayChannel, region: &RegionName) -> bool {
        let regions = self.channels.get(channel);
        regions.is_some_and(|regions| regions.contains_key(region))
    }

    /// Returns the regions that told interest in the channel.
    pub(crate) fn regions(&self, channel: &RelayChannel) -> impl Iterator<Item = &RegionName> {
        let regions = self.channels.get(channel).into_iter();
        regions.flat_map(BTreeMap::keys)
    }
}
