//! What the feed is told about a shard's log.

use headcount_model::{
    ChannelKey, Era, Event, EventId, EventKind, Fence, Logged, Occupancy, Position, RegionName,
    ShardId, WatchEvent,
};

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

/// Returns the body of a correction that the entry `cause` brings about. A function of the log
/// alone, so that every feed tells the same (R12). It carries a state and no counts: the journal
/// does not hold the region's counts at that entry, and active without counts is what lingering is.
pub(crate) fn correction_event(
    cause: &Logged,
    origin: Origin,
    region: &RegionName,
    fence: Fence,
    channel: ChannelKey,
    Correction { number, active }: Correction,
) -> WatchEvent {
    let Origin { era, shard } = origin;
    let event = Event {
        id: EventId::Void {
            era,
            shard,
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
        at: cause.stamp,
        region: region.clone(),
        is_global_master: cause.coordinator == *region,
        active,
        occupancy: Occupancy::ZERO,
    };
    WatchEvent {
        shard,
        position: None,
        event,
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
