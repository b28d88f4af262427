//! Server-sent events as text: one block per event, made once, with nothing that could break it.

use bytes::Bytes;
use headcount_model::{ChannelDetails, Event, RegionName, ShardId, Timestamp};
use serde::Serialize;

/// How soon a client reconnects, in milliseconds. Half the others' patience would be a storm, twice
/// as much a hole that people see.
const RETRY_MS: u32 = 2000;

/// Blocks that belong together and are sent at once.
#[derive(Debug, Default)]
pub(crate) struct Blocks(String);

/// An event's data: what the contract calls a message, with the event's id.
#[derive(Serialize)]
struct EventFields<'a> {
    id: &'a str,
    name: &'a str,
    timestamp: Timestamp,
    data: ChannelDetails,
}

/// What a reader is told about events that are missing.
#[derive(Serialize)]
struct GapFields<'a> {
    shard: ShardId,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a RegionName>,
    message: &'a str,
    resync: &'a str,
}

/// What a reader is told about the end of the stream.
#[derive(Serialize)]
struct EndFields<'a> {
    reason: &'a str,
    message: &'a str,
}

/// What to do about missing events.
const GAP_MESSAGE: &str = "Events of this shard are missing (of this region, if one is named), \
    because they are older than the journal keeps. What follows is complete again and carries \
    absolute states: read the list of channels after this event, then apply what follows on top.";
/// Where a reader finds the present state.
const GAP_RESYNC: &str = "/channels?by=value&limit=1000";

impl Blocks {
    /// Starts a stream: tells when to reconnect, and lets the headers out.
    pub(crate) fn start() -> Self {
        let mut blocks = Self::default();
        blocks.0.push_str(&format!("retry: {RETRY_MS}\n\n"));
        blocks
    }

    /// Adds an event. Only the last of those that came together has the resume point, since an
    /// interrupted reader must get all of them again, under the same ids.
    pub(crate) fn event(&mut self, event: &Event, cursor: Option<&str>) {
        let id = event.id.to_string();
        let data = EventFields {
            id: &id,
            name: event.kind.as_str(),
            timestamp: event.at,
            data: event.details(),
        };
        self.block(event.kind.as_str(), cursor, &data);
    }

    /// Adds the notice that events are missing.
    pub(crate) fn gap(&mut self, shard: ShardId, region: Option<&RegionName>, cursor: &str) {
        let data = GapFields {
            shard,
            region,
            message: GAP_MESSAGE,
            resync: GAP_RESYNC,
        };
        self.block("gap", Some(cursor), &data);
    }

    /// Adds the notice that the stream ends here.
    pub(crate) fn end(&mut self, reason: &str, message: &str, cursor: Option<&str>) {
        self.block("end", cursor, &EndFields { reason, message });
    }

    /// Adds a resume point without an event: readers remember it and their program sees nothing.
    pub(crate) fn position(&mut self, cursor: &str) {
        self.id(Some(cursor));
        self.0.push('\n');
    }

    /// Adds a comment, which readers ignore.
    pub(crate) fn heartbeat(&mut self) {
        self.0.push_str(": heartbeat\n\n");
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.0.into()
    }

    fn id(&mut self, cursor: Option<&str>) {
        // Cursors are base64url; one that is not would only be able to damage the stream.
        if let Some(cursor) = cursor.filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            self.0.push_str(&format!("id: {cursor}\n"));
        }
    }

    fn block(&mut self, kind: &str, cursor: Option<&str>, data: &impl Serialize) {
        self.0.push_str(&format!("event: {kind}\n"));
        self.id(cursor);
        let data = serde_json::to_string(data).expect("events have string keys");
        self.0.push_str(&format!("data: {data}\n\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headcount_model::{ChannelKey, Era, EventId, EventKind, Occupancy, Position};

    fn opened(name: &str) -> Event {
        Event {
            id: EventId::Log {
                era: Era(1),
                shard: ShardId(2),
                position: Position {
                    index: 3,
                    ordinal: 4,
                },
            },
            kind: EventKind::Opened,
            channel: ChannelKey::new("dev", name).unwrap(),
            at: Timestamp(5),
            region: RegionName::new("eu-west-1").unwrap(),
            is_global_master: true,
            active: true,
            occupancy: Occupancy::ZERO,
        }
    }

    fn text(blocks: Blocks) -> String {
        String::from_utf8(blocks.into_bytes().to_vec()).unwrap()
    }

    #[test]
    fn an_event_is_one_block() {
        let mut blocks = Blocks::default();
        blocks.event(&opened("room:\"ü\"\u{7}"), Some("abc"));
        let text = text(blocks);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "event: channel.opened");
        assert_eq!(lines[1], "id: abc");
        let data: serde_json::Value =
            serde_json::from_str(lines[2].strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["id"], "1.2.3.4");
        assert_eq!(data["name"], "channel.opened");
        assert_eq!(data["timestamp"], 5);
        assert_eq!(data["data"]["channelId"], "room:\"ü\"\u{7}");
        assert_eq!(
            data["data"]["status"]["occupancy"]["metrics"]["connections"],
            0
        );
        assert_eq!(lines.len(), 4);
        assert!(text.ends_with("\n\n"));
    }

    #[test]
    fn every_block_ends_with_an_empty_line() {
        let mut blocks = Blocks::start();
        blocks.heartbeat();
        blocks.position("p");
        blocks.gap(ShardId(7), None, "g");
        blocks.event(&opened("x"), None);
        blocks.end("too_slow", "Read faster.", Some("e"));
        let text = text(blocks);
        let kinds: Vec<&str> = text
            .trim_end()
            .split("\n\n")
            .map(|block| block.lines().next().unwrap())
            .collect();
        let expected = [
            "retry: 2000",
            ": heartbeat",
            "id: p",
            "event: gap",
            "event: channel.opened",
            "event: end",
        ];
        assert_eq!(kinds, expected);
        assert_eq!(text.matches("id: ").count(), 3);
    }

    #[test]
    fn no_cursor_breaks_out_of_its_line() {
        let mut blocks = Blocks::default();
        blocks.position("a\nevent: evil");
        assert_eq!(text(blocks), "\n");
    }
}
