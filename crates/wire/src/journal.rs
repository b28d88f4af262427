//! A journal record as protobuf, and back.

use bytes::Bytes;
use headcount_model::{
    Era, Event, EventId, EventKind, EventKinds, Fence, Logged, LoggedEvent, Mark, Position,
    RegionName, ShardId, Timestamp,
};
use prost::Message;

use crate::error::{WireError, named, required};
use crate::names::{NameReader, NameWriter, put_counts, take_counts};
use crate::proto::storage::v1 as proto;
use crate::proto::storage::v1::JournalKind;
use crate::proto::storage::v1::journal_mark::Mark as ProtoMark;
use crate::shard::{FORMAT, check_format, decode_error};

/// Encodes what an applied entry told.
#[must_use]
pub fn encode_logged(logged: &Logged) -> Bytes {
    let mut names = NameWriter::default();
    let mut regions: Vec<String> = Vec::new();
    let mut place = |region: &RegionName| -> u32 {
        let known = regions.iter().position(|known| known == region.as_str());
        let place = known.unwrap_or_else(|| {
            regions.push(region.as_str().to_owned());
            regions.len() - 1
        });
        u32::try_from(place).expect("there are few regions")
    };
    let events = logged.events.iter().map(|logged| {
        let event = &logged.event;
        let (fence, number) = match &event.id {
            EventId::Transition { fence, number, .. } => (fence.0, *number),
            EventId::Log { .. } | EventId::Void { .. } => (0, 0),
        };
        let previous = logged.previous.unwrap_or_default();
        proto::JournalEvent {
            kind: put_kind(event.kind).into(),
            channel: names.number(&event.channel),
            region: place(&event.region),
            at_ms: event.at.0,
            is_global_master: event.is_global_master,
            active: event.active,
            counts: put_counts(&event.occupancy),
            fence,
            number,
            previous_index: previous.index,
            previous_ordinal: previous.ordinal,
        }
    });
    let events = events.collect();
    let marks = logged
        .marks
        .iter()
        .map(|mark| put_mark(mark, &mut place))
        .collect();
    let entry = proto::JournalEntry {
        format: FORMAT,
        stamp_ms: logged.stamp.0,
        coordinator: logged.coordinator.as_str().to_owned(),
        channels: names.take_fresh(),
        regions,
        events,
        marks,
    };
    entry.encode_to_vec().into()
}

/// Decodes what [`encode_logged`] made for the entry of a shard at `index`.
///
/// # Errors
/// [`WireError`] names what cannot be understood.
pub fn decode_logged(
    era: Era,
    shard: ShardId,
    index: u64,
    bytes: &[u8],
) -> Result<Logged, WireError> {
    let decoded = proto::JournalEntry::decode(bytes);
    let entry = decoded.map_err(|error| decode_error("journal entry", &error))?;
    check_format("journal entry", entry.format)?;
    let mut names = NameReader::default();
    names.add(entry.channels)?;
    let regions = entry.regions.iter().map(|region| RegionName::new(region));
    let regions = regions
        .collect::<Result<Vec<_>, _>>()
        .map_err(named("regions"))?;
    let region = |place: u32| -> Result<RegionName, WireError> {
        let known = regions.get(place as usize).cloned();
        known.ok_or(WireError::Range {
            field: "region",
            value: u64::from(place),
        })
    };
    let mut events = Vec::with_capacity(entry.events.len());
    for (ordinal, event) in (0..).zip(entry.events) {
        let position = Position { index, ordinal };
        let kind = take_kind(event.kind())?;
        let (fence, number) = (Fence(event.fence), event.number);
        let id = if number == 0 {
            EventId::Log {
                era,
                shard,
                position,
            }
        } else {
            EventId::Transition {
                era,
                shard,
                region: region(event.region)?,
                fence,
                number,
            }
        };
        let previous = Position {
            index: event.previous_index,
            ordinal: event.previous_ordinal,
        };
        let told = Event {
            id,
            kind,
            channel: names.channel(event.channel)?,
            at: Timestamp(event.at_ms),
            region: region(event.region)?,
            is_global_master: event.is_global_master,
            active: event.active,
            occupancy: take_counts(&event.counts)?,
        };
        let previous = Some(previous).filter(|previous| *previous != Position::START);
        events.push(LoggedEvent {
            position,
            previous,
            event: told,
        });
    }
    let mark = |mark: proto::JournalMark| take_mark(&mark, region(mark.region)?);
    Ok(Logged {
        index,
        stamp: Timestamp(entry.stamp_ms),
        coordinator: RegionName::new(&entry.coordinator).map_err(named("coordinator"))?,
        events,
        marks: entry
            .marks
            .into_iter()
            .map(mark)
            .collect::<Result<_, _>>()?,
    })
}

/// Encodes one event of the past, as the journal record of an entry with nothing but it.
#[must_use]
pub fn encode_past_event(stamp: Timestamp, logged: &LoggedEvent) -> Bytes {
    encode_logged(&Logged {
        index: logged.position.index,
        stamp,
        coordinator: logged.event.region.clone(),
        events: vec![logged.clone()],
        marks: Vec::new(),
    })
}

/// Decodes what [`encode_past_event`] made of the event at a position; returns the log's time with
/// the event.
///
/// # Errors
/// [`WireError`] names what cannot be understood.
pub fn decode_past_event(
    era: Era,
    shard: ShardId,
    position: Position,
    bytes: &[u8],
) -> Result<(Timestamp, Event), WireError> {
    let logged = decode_logged(era, shard, position.index, bytes)?;
    let only = logged.events.into_iter().next();
    let mut event = required("events", only)?.event;
    // Alone, it has lost its place in the entry.
    if let EventId::Log { position: own, .. } = &mut event.id {
        *own = position;
    }
    Ok((logged.stamp, event))
}

/// Encodes a set of kinds.
#[must_use]
pub fn put_kinds(kinds: EventKinds) -> Vec<i32> {
    let wanted = EventKind::ALL.into_iter();
    let wanted = wanted.filter(|kind| kinds.contains(*kind));
    wanted.map(|kind| put_kind(kind).into()).collect()
}

/// Decodes a set of kinds.
///
/// # Errors
/// [`WireError`] if there is a kind that this release does not know.
pub fn take_kinds(kinds: &[i32]) -> Result<EventKinds, WireError> {
    let kinds = kinds.iter().map(|kind| JournalKind::try_from(*kind));
    let kinds = kinds.map(|kind| take_kind(kind.unwrap_or(JournalKind::Unspecified)));
    kinds.collect()
}

fn put_kind(kind: EventKind) -> JournalKind {
    match kind {
        EventKind::Opened => JournalKind::Opened,
        EventKind::Closed => JournalKind::Closed,
        EventKind::RegionActive => JournalKind::RegionActive,
        EventKind::RegionInactive => JournalKind::RegionInactive,
        EventKind::Occupancy => JournalKind::Occupancy,
    }
}

fn take_kind(kind: JournalKind) -> Result<EventKind, WireError> {
    match kind {
        JournalKind::Unspecified => Err(WireError::Missing("events.kind")),
        JournalKind::Opened => Ok(EventKind::Opened),
        JournalKind::Closed => Ok(EventKind::Closed),
        JournalKind::RegionActive => Ok(EventKind::RegionActive),
        JournalKind::RegionInactive => Ok(EventKind::RegionInactive),
        JournalKind::Occupancy => Ok(EventKind::Occupancy),
    }
}

fn put_mark(mark: &Mark, place: &mut impl FnMut(&RegionName) -> u32) -> proto::JournalMark {
    let (region, fence, mark) = match mark {
        Mark::Claimed { region, fence } => {
            (region, fence, ProtoMark::Claimed(proto::MarkClaimed {}))
        }
        Mark::Numbered {
            region,
            fence,
            number,
        } => (region, fence, ProtoMark::Numbered(*number)),
        Mark::Settled { region, fence } => {
            (region, fence, ProtoMark::Settled(proto::MarkSettled {}))
        }
        Mark::Expired {
            region,
            fence,
            done,
        } => (
            region,
            fence,
            ProtoMark::Expired(proto::MarkExpired { done: *done }),
        ),
    };
    proto::JournalMark {
        region: place(region),
        fence: fence.0,
        mark: Some(mark),
    }
}

fn take_mark(mark: &proto::JournalMark, region: RegionName) -> Result<Mark, WireError> {
    let fence = Fence(mark.fence);
    Ok(match required("marks.mark", mark.mark)? {
        ProtoMark::Claimed(proto::MarkClaimed {}) => Mark::Claimed { region, fence },
        ProtoMark::Numbered(number) => Mark::Numbered {
            region,
            fence,
            number,
        },
        ProtoMark::Settled(proto::MarkSettled {}) => Mark::Settled { region, fence },
        ProtoMark::Expired(proto::MarkExpired { done }) => Mark::Expired {
            region,
            fence,
            done,
        },
    })
}
