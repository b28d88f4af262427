//! The state as plain values, and back.

use headcount_model::mutants::Mutant;
use headcount_model::{
    ChannelKey, ChannelSnapshot, Position, RegionSnapshot, ShardSnapshot, ToldOccupancy,
};

use crate::Shard;
use crate::channel::{Channel, Told};
use crate::region::{Region, RegionIndex};

/// A snapshot that no replica can have made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A channel without a region: it would be active nowhere.
    #[error("the snapshot lists channel {0}, which is active in no region")]
    Inactive(ChannelKey),
    /// A channel's regions are not ascending, or name one that the snapshot does not list.
    #[error("the snapshot's channel {0} has regions out of order or unknown")]
    Regions(ChannelKey),
    /// Channels are not ascending, or one stands twice.
    #[error("the snapshot's channel {0} is out of order")]
    Order(ChannelKey),
    /// More regions than a shard can number.
    #[error("the snapshot has {0} regions")]
    TooManyRegions(usize),
}

impl Shard {
    /// Returns the state as plain values. Takes time in proportion to the number of channels; the
    /// values share their names with the state.
    #[must_use]
    pub fn freeze(&self) -> ShardSnapshot {
        let channels = self.apps.iter().flat_map(|(app, channels)| {
            channels.iter().map(move |(name, channel)| ChannelSnapshot {
                key: ChannelKey {
                    app: app.clone(),
                    name: name.clone(),
                },
                regions: channel.counts().collect(),
                previous: Some(channel.previous).filter(|at| *at != Position::START),
                told: channel.told.as_deref().map(|told| ToldOccupancy {
                    occupancy: told.occupancy,
                    until: told.until,
                }),
            })
        });
        ShardSnapshot {
            shard: self.id,
            era: self.era,
            applied: self.applied,
            stamp: self.stamp,
            pacing: self.pacing,
            regions: self.regions.iter().map(freeze_region).collect(),
            channels: channels.collect(),
        }
    }

    /// Makes a replica of what [`Shard::freeze`] returned.
    ///
    /// # Errors
    /// [`RestoreError`] if the values contradict each other.
    pub fn restore(snapshot: ShardSnapshot) -> Result<Self, RestoreError> {
        let mut shard = Self::new(snapshot.shard, snapshot.era);
        shard.applied = snapshot.applied;
        shard.stamp = snapshot.stamp;
        shard.pacing = snapshot.pacing;
        if RegionIndex::try_from(snapshot.regions.len()).is_err() {
            return Err(RestoreError::TooManyRegions(snapshot.regions.len()));
        }
        shard.regions = snapshot.regions.into_iter().map(restore_region).collect();
        let mut last: Option<ChannelKey> = None;
        for channel in snapshot.channels {
            let key = channel.key;
            if channel.regions.is_empty() {
                return Err(RestoreError::Inactive(key));
            }
            let ascending = channel.regions.is_sorted_by(|(a, _), (b, _)| a < b);
            let known = channel
                .regions
                .iter()
                .all(|(at, _)| usize::from(*at) < shard.regions.len());
            if !ascending || !known {
                return Err(RestoreError::Regions(key));
            }
            if last.as_ref().is_some_and(|last| *last >= key) {
                return Err(RestoreError::Order(key));
            }
            let mut restored = Channel {
                previous: channel.previous.unwrap_or_default(),
                ..Channel::default()
            };
            for (at, counts) in channel.regions {
                restored.set(at, counts);
            }
            shard
                .apps
                .entry(key.app.clone())
                .or_default()
                .insert(key.name.clone(), restored);
            let told = channel.told;
            shard.set_told(
                &key,
                told.map(|t| Told {
                    occupancy: t.occupancy,
                    until: t.until,
                }),
            );
            last = Some(key);
        }
        Ok(shard)
    }
}

fn freeze_region(region: &Region) -> RegionSnapshot {
    let Region {
        name,
        fence,
        ended,
        settled,
        node,
        incarnation,
        sequence,
        number,
        expiring,
    } = region.clone();
    let (sequence, number) = match Mutant::SnapshotWithoutMarks.is_planted() {
        true => (0, 0),
        false => (sequence, number),
    };
    RegionSnapshot {
        name,
        fence,
        ended,
        settled,
        node,
        incarnation,
        sequence,
        number,
        expiring,
    }
}

fn restore_region(region: RegionSnapshot) -> Region {
    let RegionSnapshot {
        name,
        fence,
        ended,
        settled,
        node,
        incarnation,
        sequence,
        number,
        expiring,
    } = region;
    Region {
        name,
        fence,
        ended,
        settled,
        node,
        incarnation,
        sequence,
        number,
        expiring,
    }
}
