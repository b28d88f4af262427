//! The feed on the reporter port: what watchers ask for and are told.

use std::sync::Arc;

use headcount_model::{
    CHANNEL_BYTES_MAX, ChannelKey, Event, EventId, EventKind, EventKinds, Position, RegionName,
    ShardId, Timestamp, WatchEnd, WatchEvent, WatchFilter, WatchItem,
};

use crate::error::{WireError, named, required};
use crate::proto::feed::v1 as pb;
use crate::proto::types::v1 as types;

/// Writes a request. The filter's app is not in it: the credential names the app.
#[must_use]
pub fn put_watch_request(filter: &WatchFilter, cursor: Option<String>) -> pb::WatchRequest {
    let kinds = EventKind::ALL
        .into_iter()
        .filter(|kind| filter.kinds.contains(*kind));
    pb::WatchRequest {
        channel_prefix: filter.prefix.clone(),
        kinds: kinds.map(|kind| put_kind(kind).into()).collect(),
        cursor,
    }
}

/// Reads a request: a filter whose app is still to be set from the credential, and the cursor.
///
/// # Errors
/// [`WireError`] for a prefix that no channel name can have and for unknown kinds.
pub fn take_watch_request(
    request: pb::WatchRequest,
) -> Result<(WatchFilter, Option<String>), WireError> {
    let prefix = request.channel_prefix;
    if prefix.len() > CHANNEL_BYTES_MAX {
        return Err(WireError::Range {
            field: "channel_prefix",
            value: prefix.len() as u64,
        });
    }
    let kinds = request
        .kinds
        .into_iter()
        .map(|kind| take_kind("kinds", kind));
    let kinds = kinds.collect::<Result<EventKinds, WireError>>()?;
    let kinds = if kinds.is_empty() {
        EventKinds::ALL
    } else {
        kinds
    };
    Ok((
        WatchFilter {
            app: None,
            prefix,
            kinds,
        },
        request.cursor,
    ))
}

/// Writes an item.
#[must_use]
pub fn put_watch_item(item: &WatchItem) -> pb::WatchResponse {
    use pb::watch_response::Item;
    let (cursor, item) = match item {
        WatchItem::Events { events, cursor } => {
            let events = events.iter().map(|event| put_event(event)).collect();
            (cursor, Item::Events(pb::EventBatch { events }))
        }
        WatchItem::Gap {
            shard,
            region,
            from,
            cursor,
        } => {
            let gap = pb::Gap {
                shard: shard.0,
                region: region.as_ref().map(ToString::to_string),
                from: Some(put_position(*from)),
            };
            (cursor, Item::Gap(gap))
        }
        WatchItem::Position { cursor } => (cursor, Item::Heartbeat(pb::Heartbeat {})),
        WatchItem::End { reason, cursor } => {
            let reason = match reason {
                WatchEnd::TooSlow => pb::EndReason::TooSlow,
                WatchEnd::Moved => pb::EndReason::Moved,
                WatchEnd::Unavailable => pb::EndReason::Unavailable,
            };
            (
                cursor,
                Item::End(pb::End {
                    reason: reason.into(),
                }),
            )
        }
    };
    pb::WatchResponse {
        cursor: cursor.clone(),
        item: Some(item),
    }
}

/// Reads an item.
///
/// # Errors
/// [`WireError`] for anything that [`put_watch_item`] does not write.
pub fn take_watch_item(response: pb::WatchResponse) -> Result<WatchItem, WireError> {
    use pb::watch_response::Item;
    let cursor = response.cursor;
    if cursor.is_empty() {
        return Err(WireError::Missing("cursor"));
    }
    Ok(match required("item", response.item)? {
        Item::Events(batch) => {
            let events = batch
                .events
                .into_iter()
                .map(|event| take_event(event).map(Arc::new));
            let events = events.collect::<Result<Vec<_>, _>>()?;
            if events.is_empty() {
                return Err(WireError::Missing("events"));
            }
            WatchItem::Events { events, cursor }
        }
        Item::Gap(gap) => {
            let region = gap.region.map(|region| RegionName::new(&region));
            WatchItem::Gap {
                shard: ShardId(gap.shard),
                region: region.transpose().map_err(named("region"))?,
                from: take_position(required("from", gap.from)?),
                cursor,
            }
        }
        Item::Heartbeat(pb::Heartbeat {}) => WatchItem::Position { cursor },
        Item::End(end) => {
            let reason = match pb::EndReason::try_from(end.reason) {
                Ok(pb::EndReason::TooSlow) => WatchEnd::TooSlow,
                Ok(pb::EndReason::Moved) => WatchEnd::Moved,
                Ok(pb::EndReason::Unavailable) => WatchEnd::Unavailable,
                Ok(pb::EndReason::Unspecified) | Err(_) => {
                    return Err(unknown("reason", end.reason));
                }
            };
            WatchItem::End { reason, cursor }
        }
    })
}

fn put_event(watched: &WatchEvent) -> pb::Event {
    let event = &watched.event;
    pb::Event {
        id: event.id.to_string(),
        kind: put_kind(event.kind).into(),
        channel: Some(types::Channel {
            app: event.channel.app.to_string(),
            name: event.channel.name.to_string(),
        }),
        at_ms: event.at.0,
        region: event.region.to_string(),
        is_global_master: event.is_global_master,
        active: event.active,
        occupancy: (!event.occupancy.is_zero()).then(|| event.occupancy.into()),
        shard: watched.shard.0,
        log_position: watched.position.map(put_position),
    }
}

fn take_event(event: pb::Event) -> Result<WatchEvent, WireError> {
    let id: EventId = event
        .id
        .parse()
        .map_err(|_| WireError::Contradiction("id is not an event id"))?;
    let shard = ShardId(event.shard);
    if id.shard() != shard {
        return Err(WireError::Contradiction("id and shard differ"));
    }
    let channel = required("channel", event.channel)?;
    Ok(WatchEvent {
        shard,
        position: event.log_position.map(take_position),
        event: Event {
            id,
            kind: take_kind("kind", event.kind)?,
            channel: ChannelKey::new(&channel.app, &channel.name).map_err(named("channel"))?,
            at: Timestamp(event.at_ms),
            region: RegionName::new(&event.region).map_err(named("region"))?,
            is_global_master: event.is_global_master,
            active: event.active,
            occupancy: event.occupancy.unwrap_or_default().into(),
        },
    })
}

fn put_position(position: Position) -> pb::LogPosition {
    pb::LogPosition {
        index: position.index,
        ordinal: position.ordinal,
    }
}

fn take_position(position: pb::LogPosition) -> Position {
    Position {
        index: position.index,
        ordinal: position.ordinal,
    }
}

fn put_kind(kind: EventKind) -> pb::EventKind {
    match kind {
        EventKind::Opened => pb::EventKind::Opened,
        EventKind::Closed => pb::EventKind::Closed,
        EventKind::RegionActive => pb::EventKind::RegionActive,
        EventKind::RegionInactive => pb::EventKind::RegionInactive,
        EventKind::Occupancy => pb::EventKind::Occupancy,
    }
}

fn take_kind(field: &'static str, kind: i32) -> Result<EventKind, WireError> {
    match pb::EventKind::try_from(kind) {
        Ok(pb::EventKind::Opened) => Ok(EventKind::Opened),
        Ok(pb::EventKind::Closed) => Ok(EventKind::Closed),
        Ok(pb::EventKind::RegionActive) => Ok(EventKind::RegionActive),
        Ok(pb::EventKind::RegionInactive) => Ok(EventKind::RegionInactive),
        Ok(pb::EventKind::Occupancy) => Ok(EventKind::Occupancy),
        Ok(pb::EventKind::Unspecified) | Err(_) => Err(unknown(field, kind)),
    }
}

/// An enum's number that this release gives no meaning.
fn unknown(field: &'static str, value: i32) -> WireError {
    WireError::Range {
        field,
        value: u64::from(value.cast_unsigned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headcount_model::{Category, Era, Fence, Occupancy};

    fn events() -> Vec<Arc<WatchEvent>> {
        let mut occupancy = Occupancy::ZERO;
        occupancy.set(Category::PresenceMembers, 3);
        let (era, shard) = (Era(1), ShardId(9));
        let region = RegionName::new("eu-west-1").unwrap();
        let position = Position {
            index: 4,
            ordinal: 2,
        };
        let (fence, number) = (Fence(5), 6);
        let ids = [
            (
                EventId::Log {
                    era,
                    shard,
                    position,
                },
                Some(position),
            ),
            (
                EventId::Transition {
                    era,
                    shard,
                    region: region.clone(),
                    fence,
                    number,
                },
                None,
            ),
            (
                EventId::Void {
                    era,
                    shard,
                    region: region.clone(),
                    fence,
                    number,
                },
                None,
            ),
        ];
        let event = |(id, position), kind, occupancy: Occupancy| {
            let channel = ChannelKey::new("dev", "room:1").unwrap();
            let (at, region) = (Timestamp(77), region.clone());
            let (is_global_master, active) = (true, !occupancy.is_zero());
            let event = Event {
                id,
                kind,
                channel,
                at,
                region,
                is_global_master,
                active,
                occupancy,
            };
            Arc::new(WatchEvent {
                shard,
                position,
                event,
            })
        };
        let [log, transition, void] = ids;
        vec![
            event(log, EventKind::Opened, occupancy),
            event(transition, EventKind::RegionActive, occupancy),
            event(void, EventKind::RegionInactive, Occupancy::ZERO),
        ]
    }

    fn items() -> Vec<WatchItem> {
        let cursor = || "cursor".to_owned();
        let from = Position::end_of(12);
        let region = RegionName::new("eu-west-1").ok();
        let mut items = vec![
            WatchItem::Events {
                events: events(),
                cursor: cursor(),
            },
            WatchItem::Gap {
                shard: ShardId(3),
                region: None,
                from,
                cursor: cursor(),
            },
            WatchItem::Gap {
                shard: ShardId(3),
                region,
                from,
                cursor: cursor(),
            },
            WatchItem::Position { cursor: cursor() },
        ];
        for reason in [WatchEnd::TooSlow, WatchEnd::Moved, WatchEnd::Unavailable] {
            items.push(WatchItem::End {
                reason,
                cursor: cursor(),
            });
        }
        items
    }

    #[test]
    fn items_survive_the_wire() {
        for item in items() {
            assert_eq!(take_watch_item(put_watch_item(&item)), Ok(item));
        }
    }

    #[test]
    fn requests_survive_the_wire() {
        let kinds: EventKinds = [EventKind::Closed, EventKind::Occupancy]
            .into_iter()
            .collect();
        for kinds in [kinds, EventKinds::ALL] {
            let filter = WatchFilter {
                app: None,
                prefix: "ro".into(),
                kinds,
            };
            let request = put_watch_request(&filter, Some("c".into()));
            assert_eq!(take_watch_request(request), Ok((filter, Some("c".into()))));
        }
        let all = take_watch_request(pb::WatchRequest::default()).unwrap();
        assert_eq!(all, (WatchFilter::default(), None));
    }

    #[test]
    fn faults_name_their_field() {
        let request = |kind| pb::WatchRequest {
            kinds: vec![kind],
            ..Default::default()
        };
        for kind in [0, 6, -1] {
            let fault = take_watch_request(request(kind)).unwrap_err();
            assert!(fault.to_string().starts_with("kinds is "), "{fault}");
        }
        let channel_prefix = "x".repeat(CHANNEL_BYTES_MAX + 1);
        let request = pb::WatchRequest {
            channel_prefix,
            ..Default::default()
        };
        let fault = take_watch_request(request).unwrap_err();
        assert!(
            fault.to_string().starts_with("channel_prefix is 2049"),
            "{fault}"
        );

        let event = put_event(&events()[0]);
        let broken = [
            (
                "id",
                pb::Event {
                    id: "x".into(),
                    ..event.clone()
                },
            ),
            (
                "id",
                pb::Event {
                    shard: 1,
                    ..event.clone()
                },
            ),
            (
                "kind",
                pb::Event {
                    kind: 0,
                    ..event.clone()
                },
            ),
            (
                "channel",
                pb::Event {
                    channel: None,
                    ..event.clone()
                },
            ),
            (
                "region",
                pb::Event {
                    region: String::new(),
                    ..event
                },
            ),
        ];
        for (field, event) in broken {
            let fault = take_event(event).unwrap_err().to_string();
            assert!(
                fault.starts_with(field),
                "{fault} does not begin with {field}"
            );
        }
        let item = Some(pb::watch_response::Item::Events(pb::EventBatch::default()));
        let empty = pb::WatchResponse {
            cursor: "c".into(),
            item,
        };
        assert_eq!(take_watch_item(empty), Err(WireError::Missing("events")));
        let nothing = pb::WatchResponse {
            cursor: "c".into(),
            item: None,
        };
        assert_eq!(take_watch_item(nothing), Err(WireError::Missing("item")));
    }
}
