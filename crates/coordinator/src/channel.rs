//! An active channel.

use headcount_model::{CompactOccupancy, Occupancy, Position, Timestamp};
use smallvec::SmallVec;

use crate::region::RegionIndex;

/// A channel that is active somewhere. One that is active nowhere is not in the state at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Channel {
    /// Counts of the regions in which it is active, ascending by region.
    pub(crate) regions: SmallVec<[(RegionIndex, CompactOccupancy); 1]>,
    /// Position of its last event, [`Position::START`] before the first.
    pub(crate) previous: Position,
    /// Present while a recent occupancy event holds back further ones; most channels have none.
    pub(crate) told: Option<Box<Told>>,
}

/// The last occupancy event of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) occupancy: Occupancy,
    /// When further changes may be told.
    pub(crate) until: Timestamp,
}

impl Channel {
    /// Returns the counts of each region in which it is active, ascending by region.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (RegionIndex, Occupancy)> {
        self.regions.iter().map(|(at, counts)| (*at, counts.get()))
    }

    /// Returns the counts of all regions together.
    pub(crate) fn occupancy(&self) -> Occupancy {
        self.counts().map(|(_, counts)| counts).sum()
    }

    /// Returns the counts of one region, `None` if the channel is inactive there.
    pub(crate) fn regional(&self, region: RegionIndex) -> Option<Occupancy> {
        let at = self.find(region).ok()?;
        Some(self.regions[at].1.get())
    }

    /// Makes the channel active in a region, or changes its counts there.
    pub(crate) fn set(&mut self, region: RegionIndex, occupancy: Occupancy) {
        match self.find(region) {
            Ok(at) => self.regions[at].1 = occupancy.into(),
            Err(at) => {
                // Regions are few and come seldom: room for more would be memory for nothing.
                self.regions.reserve_exact(1);
                self.regions.insert(at, (region, occupancy.into()));
            }
        }
    }

    /// Makes the channel inactive in a region.
    pub(crate) fn remove(&mut self, region: RegionIndex) {
        if let Ok(at) = self.find(region) {
            self.regions.remove(at);
        }
    }

    fn find(&self, region: RegionIndex) -> Result<usize, usize> {
        self.regions
            .binary_search_by_key(&region, |(region, _)| *region)
    }
}
