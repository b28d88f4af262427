//! What readers and owners ask a replica.

use std::ops::Bound;

use headcount_model::{ChannelKey, ChannelName, Fence, Occupancy, OwnerRef, RegionName};

use crate::Shard;
use crate::channel::Channel;

/// Status: a channel as the replica knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The counts of all regions together.
    pub occupancy: Occupancy,
    /// The counts of each region in which the channel is active.
    pub regions: Vec<(RegionName, Occupancy)>,
}

/// Region mark: how far a region has told, under which fence (R2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionMark {
    /// The claimed fence, 0 if none.
    pub fence: Fence,
    /// Sequence of the last batch applied under it.
    pub sequence: u64,
    /// Number of the last transition consumed under it.
    pub number: u64,
    /// Whether an expiry ended it.
    pub ended: bool,
    /// Whether its owner's adoption is over.
    pub settled: bool,
}

impl Shard {
    /// Returns a channel's status, `None` if it is active nowhere. Reading changes nothing.
    #[must_use]
    pub fn status(&self, key: &ChannelKey) -> Option<Status> {
        self.channel(key).map(|channel| self.status_of(channel))
    }

    /// Returns the counts of all regions together, `None` if the channel is active nowhere.
    #[must_use]
    pub fn occupancy(&self, key: &ChannelKey) -> Option<Occupancy> {
        self.channel(key).map(Channel::occupancy)
    }

    /// Returns an app's active channels whose names start with `prefix` and come after `after`,
    /// ascending by name bytes.
    pub fn list<'a>(
        &'a self,
        app: &str,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a ChannelName, Status)> + 'a {
        let first = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let channels = self.apps.get(app).into_iter();
        let range =
            channels.flat_map(move |names| names.range::<str, _>((first, Bound::Unbounded)));
        range
            .take_while(move |(name, _)| name.as_str().starts_with(prefix))
            .map(|(name, channel)| (name, self.status_of(channel)))
    }

    /// Returns how many channels are active.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.apps
            .values()
            .map(std::collections::BTreeMap::len)
            .sum()
    }

    /// Returns how far a region has told.
    #[must_use]
    pub fn mark(&self, region: &RegionName) -> RegionMark {
        let at = self.region_index(region.as_str());
        at.map_or(RegionMark::default(), |at| {
            let region = &self.regions[usize::from(at)];
            RegionMark {
                fence: region.fence,
                sequence: region.sequence,
                number: region.number,
                ended: region.ended,
                settled: region.settled,
            }
        })
    }

    /// Returns the marks of every region that ever claimed.
    pub fn marks(&self) -> impl Iterator<Item = (&RegionName, RegionMark)> {
        self.regions
            .iter()
            .map(|region| (&region.name, self.mark(&region.name)))
    }

    /// Returns a region's counts on a channel, `None` if it is inactive there.
    #[must_use]
    pub fn regional(&self, region: &RegionName, key: &ChannelKey) -> Option<Occupancy> {
        let at = self.region_index(region.as_str())?;
        self.channel(key)?.regional(at)
    }

    /// Returns every channel that is active in a region: an owner's base at its claim (R1, R11).
    #[must_use]
    pub fn base(&self, region: &RegionName) -> Vec<(ChannelKey, Occupancy)> {
        let Some(at) = self.region_index(region.as_str()) else {
            return Vec::new();
        };
        let channels = self.apps.iter().flat_map(|(app, channels)| {
            channels
                .iter()
                .map(move |(name, channel)| (app, name, channel))
        });
        channels
            .filter_map(|(app, name, channel)| {
                let key = || ChannelKey {
                    app: app.clone(),
                    name: name.clone(),
                };
                channel.regional(at).map(|occupancy| (key(), occupancy))
            })
            .collect()
    }

    /// Returns a region whose expiry has more to do, as the command to propose for it.
    #[must_use]
    pub fn expiring(&self) -> Option<OwnerRef> {
        let region = self
            .regions
            .iter()
            .find(|region| region.expiring.is_some())?;
        Some(OwnerRef {
            region: region.name.clone(),
            fence: region.fence,
        })
    }

    fn status_of(&self, channel: &Channel) -> Status {
        let regions = channel.counts();
        Status {
            occupancy: channel.occupancy(),
            regions: regions
                .map(|(at, counts)| (self.regions[usize::from(at)].name.clone(), counts))
                .collect(),
        }
    }
}
