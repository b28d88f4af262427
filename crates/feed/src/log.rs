//! What the feed is told about a shard's log.

use headcount_model::{Era, Event, EventKind, Occupancy, WatchEvent};
use headcount_model::{EventId, Fence, LoggedEvent, Position, RegionName, ShardId, Timestamp};

/// Logged: one applied entry of a shard's log, and one record of its journal.
///
/// Entries that yield neither events nor marks may be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Index of the entry.
    pub index: u64,
    /// Shard time of the entry (R15).
    pub stamp: Timestamp,
    /// Where the coordinator that proposed it was (R12).
    pub coordinator: RegionName,
    /// Its events in order.
    pub events: Vec<LoggedEvent>,
    /// What it did to fences, in the order of its commands; read after its events.
    pub marks: Vec<Mark>,
}

/// Mark: what an entry did to a region's fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A claim was applied: every lower fence of the region has ended (R1). What the claim's tail
    /// logged of the older fence may be marked `Numbered` before it; else settling resolves it.
    Claimed {
        /// The region.
        region: RegionName,
        /// Its new fence.
        fence: Fence,
    },
    /// Every transition of the fence up to the number is consumed: logged, dropped in a pair (R7)
    /// or voided singly (R2). Needed after each entry that consumed any.
    Numbered {
        /// The region.
        region: RegionName,
        /// The fence.
        fence: Fence,
        /// The highest consumed number.
        number: u64,
    },
    /// The owner's adoption ended: what older fences told and never logged is void (R3).
    Settled {
        /// The region.
        region: RegionName,
        /// The fence of the owner that settled; it is the older ones that are void.
        fence: Fence,
    },
    /// The region expired up to this fence (R5): nothing of it applies from this entry on.
    Expired {
        /// The region.
        region: RegionName,
        /// The highest fence that ended.
        fence: Fence,
        /// False with the first chunk, true with the last; one entry may be both and then says
        /// true only.
        done: bool,
    },
}

/// What a shard's state says of one region's fence; [`marks_between`] turns two of them into marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionState {
    /// The claimed fence, 0 for none.
    pub fence: Fence,
    /// The highest consumed number of it.
    pub number: u64,
    /// Whether its owner's adoption is over.
    pub settled: bool,
    /// Whether an expiry ended it.
    pub ended: bool,
    /// Whether that expiry has more chunks to go.
    pub expiring: bool,
}

/// Returns the marks of an entry before and after which `region` stood so.
#[must_use]
pub fn marks_between(region: &RegionName, before: RegionState, after: RegionState) -> Vec<Mark> {
    let mut marks = Vec::new();
    let fence = after.fence;
    let fresh = fence > before.fence;
    let before = if fresh {
        RegionState {
            fence,
            ..RegionState::default()
        }
    } else {
        before
    };
    if fresh {
        marks.push(Mark::Claimed {
            region: region.clone(),
            fence,
        });
    }
    if after.number > before.number {
        marks.push(Mark::Numbered {
            region: region.clone(),
            fence,
            number: after.number,
        });
    }
    if after.settled && !before.settled {
        marks.push(Mark::Settled {
            region: region.clone(),
            fence,
        });
    }
    let begins = after.ended && !before.ended;
    let ends = after.ended && !after.expiring && (begins || before.expiring);
    if begins || ends {
        marks.push(Mark::Expired {
            region: region.clone(),
            fence,
            done: ends,
        });
    }
    marks
}

/// Page: a stretch of a shard's journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Everything after this position is still in the journal; [`Position::START`] if nothing was
    /// ever dropped.
    pub oldest: Position,
    /// In order, beginning with the entry that holds the asked-for position unless that was the
    /// entry's end. Bounded by the driver.
    pub entries: Vec<Logged>,
    /// The page speaks of everything up to here. At least the end of its last entry; with nothing
    /// more to read, the journal's end.
    pub through: Position,
}

/// What identifies a shard's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) era: Era,
    pub(crate) shard: ShardId,
}

/// Correction: the log's state of a channel in a region, where what was told ahead differs (R3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Correction {
    /// Number of the last transition that was told and is void.
    pub(crate) number: u64,
    /// What the log says.
    pub(crate) active: bool,
}

impl Logged {
    /// Returns the body of a correction that this entry causes. A function of the log alone, so
    /// that every feed tells the same (R12). It carries a state and no counts: the journal does not
    /// hold the region's counts at this entry, and active without counts is what lingering is.
    pub(crate) fn correct(
        &self,
        origin: Origin,
        region: &RegionName,
        fence: Fence,
        channel: headcount_model::ChannelKey,
        correction: Correction,
    ) -> WatchEvent {
        let Correction { number, active } = correction;
        WatchEvent {
            shard: origin.shard,
            position: None,
            event: Event {
                id: EventId::Void {
                    era: origin.era,
                    shard: origin.shard,
                    region: region.clone(),
                    fence,
                    number,
                },
                kind: if active {
                    EventKind::RegionActive
                } else {
                    EventKind::RegionInactive
                },
                channel,
                at: self.stamp,
                region: region.clone(),
                is_global_master: self.coordinator == *region,
                active,
                occupancy: Occupancy::ZERO,
            },
        }
    }
}

/// What a logged event is to somebody who follows a region's fence ahead of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// It is not about the region's activity.
    Unrelated,
    /// The log's copy of a transition that was passed on already, with its number.
    Copy(u64),
    /// A transition of the fence that was not passed on, with its number.
    Next(u64),
    /// The region's activity, from another fence or an expiry.
    Foreign,
}

/// Says how `event` relates to what was told of `region` under `fence` up to `number`.
pub(crate) fn relate(event: &Event, region: &RegionName, fence: Fence, number: u64) -> Relation {
    if !event.kind.is_regional() || event.region != *region {
        return Relation::Unrelated;
    }
    match event.id {
        EventId::Transition {
            fence: of,
            number: nth,
            ..
        } if of == fence => {
            if nth <= number {
                Relation::Copy(nth)
            } else {
                Relation::Next(nth)
            }
        }
        EventId::Transition { .. } | EventId::Log { .. } | EventId::Void { .. } => {
            Relation::Foreign
        }
    }
}
