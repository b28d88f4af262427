//! What subscribers are told, and how it is named.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Category, ChannelKey, Era, Fence, Occupancy, RegionName, ShardId, Timestamp};

/// Event kind: what changed. The names are the contract's (`contract.md` section 1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// `channel.opened`: active in at least one region, in none before.
    Opened,
    /// `channel.closed`: active in no region any more.
    Closed,
    /// `channel.region.active`: went active in a region.
    RegionActive,
    /// `channel.region.inactive`: went inactive in a region.
    RegionInactive,
    /// `channel.occupancy`: global counts changed.
    Occupancy,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Opened,
        Self::Closed,
        Self::RegionActive,
        Self::RegionInactive,
        Self::Occupancy,
    ];

    /// Returns the contract's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "channel.opened",
            Self::Closed => "channel.closed",
            Self::RegionActive => "channel.region.active",
            Self::RegionInactive => "channel.region.inactive",
            Self::Occupancy => "channel.occupancy",
        }
    }

    /// Returns the kind with the contract's name `text`.
    #[must_use]
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Returns whether the event speaks of one region.
    #[must_use]
    pub fn is_regional(self) -> bool {
        matches!(self, Self::RegionActive | Self::RegionInactive)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Position: a place among the events of a shard's log. The ordinal counts the events of one entry,
/// before any filter (R19). Orders as the log does.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// Index of the log entry.
    pub index: u64,
    /// Which event of the entry, from 0; `u32::MAX` stands for "all of the entry".
    pub ordinal: u32,
}

impl Position {
    /// Before anything.
    pub const START: Self = Self {
        index: 0,
        ordinal: 0,
    };

    /// Returns the position after every event of the entry at `index`.
    #[must_use]
    pub fn end_of(index: u64) -> Self {
        Self {
            index,
            ordinal: u32::MAX,
        }
    }
}

/// Event id: a function of the cause, so that the same fact has the same id however often and
/// wherever it is told (design.md section 4).
///
/// As text: `era.shard.index.ordinal` for what the log decided, `era.shard.region.fence.number` for
/// a transition of a region, the same with `.void` for the correction of a transition that was told
/// early and never logged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventId {
    /// Decided by the log: global events and the inactive events of an expiry.
    Log {
        /// The cluster's era.
        era: Era,
        /// The shard.
        shard: ShardId,
        /// Where in its log.
        position: Position,
    },
    /// Decided by a regional owner.
    Transition {
        /// The cluster's era.
        era: Era,
        /// The shard.
        shard: ShardId,
        /// The region.
        region: RegionName,
        /// The owner's fence.
        fence: Fence,
        /// The transition's number under the fence.
        number: u64,
    },
    /// Takes back what a transition told: it never reached the log (R3).
    Void {
        /// The cluster's era.
        era: Era,
        /// The shard.
        shard: ShardId,
        /// The region.
        region: RegionName,
        /// The fence of the transition taken back.
        fence: Fence,
        /// Its number.
        number: u64,
    },
}

impl EventId {
    /// Returns the shard that the event belongs to.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        match self {
            Self::Log { shard, .. } | Self::Transition { shard, .. } | Self::Void { shard, .. } => {
                *shard
            }
        }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log {
                era,
                shard,
                position,
            } => {
                write!(f, "{era}.{shard}.{}.{}", position.index, position.ordinal)
            }
            Self::Transition {
                era,
                shard,
                region,
                fence,
                number,
            } => {
                write!(f, "{era}.{shard}.{region}.{fence}.{number}")
            }
            Self::Void {
                era,
                shard,
                region,
                fence,
                number,
            } => {
                write!(f, "{era}.{shard}.{region}.{fence}.{number}.void")
            }
        }
    }
}

/// Text that is not an event id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an event id: want era.shard.index.ordinal or era.shard.region.fence.number")]
pub struct EventIdError(pub String);

impl FromStr for EventId {
    type Err = EventIdError;

    fn from_str(text: &str) -> Result<Self, EventIdError> {
        let parts: Vec<&str> = text.split('.').collect();
        let parse = || -> Option<Self> {
            let era = Era(parts.first()?.parse().ok()?);
            let shard = ShardId(parts.get(1)?.parse().ok()?);
            let regional = || -> Option<(RegionName, Fence, u64)> {
                let region = RegionName::new(parts.get(2)?).ok()?;
                Some((
                    region,
                    Fence(parts.get(3)?.parse().ok()?),
                    parts.get(4)?.parse().ok()?,
                ))
            };
            match parts.len() {
                4 => {
                    let index = parts[2].parse().ok()?;
                    let ordinal = parts[3].parse().ok()?;
                    Some(Self::Log {
                        era,
                        shard,
                        position: Position { index, ordinal },
                    })
                }
                5 => {
                    let (region, fence, number) = regional()?;
                    Some(Self::Transition {
                        era,
                        shard,
                        region,
                        fence,
                        number,
                    })
                }
                6 if parts[5] == "void" => {
                    let (region, fence, number) = regional()?;
                    Some(Self::Void {
                        era,
                        shard,
                        region,
                        fence,
                        number,
                    })
                }
                _ => None,
            }
        };
        parse().ok_or_else(|| EventIdError(text.chars().take(200).collect()))
    }
}

/// Event: what subscribers see. Two events with the same id are equal (R12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unique to its cause.
    pub id: EventId,
    /// What changed.
    pub kind: EventKind,
    /// Where.
    pub channel: ChannelKey,
    /// When its cause was decided.
    pub at: Timestamp,
    /// The region that a regional event is about; else the coordinator's.
    pub region: RegionName,
    /// Whether the coordinator is in `region`; always true for global events.
    pub is_global_master: bool,
    /// The state after the event: of the region for a regional event, else of the channel.
    pub active: bool,
    /// The counts that belong to that state.
    pub occupancy: Occupancy,
}

impl Event {
    /// Returns what the contract calls the event's data.
    #[must_use]
    pub fn details(&self) -> ChannelDetails {
        ChannelDetails {
            channel_id: self.channel.name.to_string(),
            name: self.channel.name.to_string(),
            region: Some(self.region.to_string()),
            is_global_master: Some(self.is_global_master),
            status: ChannelStatus::new(self.active, self.occupancy),
        }
    }
}

/// An event as a shard's log tells it, with its place among the shard's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedEvent {
    /// Where in the log. Not part of the body: an early copy of the event does not know it.
    pub position: Position,
    /// The position of the channel's previous event in the log, `None` for the first since the
    /// channel was last forgotten (R16).
    pub previous: Option<Position>,
    /// The event.
    pub event: Event,
}

/// Channel details: the contract's description of a channel (`contract.md` section 1.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelDetails {
    /// The channel's name.
    pub channel_id: String,
    /// The same name again: the contract sends both.
    pub name: String,
    /// The region that the details speak of, or the coordinator's for global ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Whether that region coordinates the channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_global_master: Option<bool>,
    /// State and counts.
    pub status: ChannelStatus,
}

/// Channel status: whether a channel is active, and its counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelStatus {
    /// In the region that the details speak of, or anywhere.
    pub is_active: bool,
    /// The counts, one level down.
    pub occupancy: OccupancyMetrics,
}

impl ChannelStatus {
    /// Returns the status with these counts.
    #[must_use]
    pub fn new(active: bool, occupancy: Occupancy) -> Self {
        Self {
            is_active: active,
            occupancy: OccupancyMetrics { metrics: occupancy },
        }
    }
}

/// The level between `occupancy` and the counts that the contract has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OccupancyMetrics {
    /// All eight counts, zeros included.
    pub metrics: Occupancy,
}

impl Serialize for Occupancy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer
            .collect_map(Category::ALL.map(|category| (category.as_str(), self.get(category))))
    }
}

impl<'de> Deserialize<'de> for Occupancy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let counts = <std::collections::BTreeMap<String, u32>>::deserialize(deserializer)?;
        let count = |category: Category| counts.get(category.as_str()).copied().unwrap_or(0);
        Ok(Self::from_counts(Category::ALL.map(count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids() -> impl Strategy<Value = EventId> {
        let names = ("[a-z][a-z0-9-]{0,12}", any::<u64>(), any::<u64>());
        (
            any::<u32>(),
            any::<u32>(),
            any::<u64>(),
            any::<u32>(),
            names,
            0..3,
        )
            .prop_map(
                |(era, shard, index, ordinal, (region, fence, number), kind)| {
                    let (era, shard, fence) = (Era(era), ShardId(shard), Fence(fence));
                    let region = RegionName::new(&region).unwrap();
                    match kind {
                        0 => EventId::Log {
                            era,
                            shard,
                            position: Position { index, ordinal },
                        },
                        1 => EventId::Transition {
                            era,
                            shard,
                            region,
                            fence,
                            number,
                        },
                        _ => EventId::Void {
                            era,
                            shard,
                            region,
                            fence,
                            number,
                        },
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn ids_survive_text(id in ids()) {
            prop_assert_eq!(id.to_string().parse::<EventId>(), Ok(id));
        }

        #[test]
        fn no_text_makes_id_parsing_panic(text in ".{0,40}") {
            let parsed = text.parse::<EventId>();
            prop_assert!(parsed.is_err() || parsed.unwrap().to_string().len() <= text.len());
        }
    }
}
