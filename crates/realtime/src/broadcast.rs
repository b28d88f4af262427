//! One message or presence change on its way to many subscribers.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::action;
use crate::error::FrameError;
use crate::fields::Fields;
use crate::format::Format;
use crate::limits::{DEPTH_MAX, MESSAGES_MAX, PRESENCE_MAX, VALUES_MAX};
use crate::message::Message;
use crate::presence::PresenceMessage;
use crate::tree::Value;
use crate::wire::{Wire, join};

/// Deepest nesting in what another node has sent: a client may have published the only message of a
/// request's body, which is nested in nothing, and now is in a list and a map.
const RELAYED_DEPTH_MAX: usize = DEPTH_MAX + 2;

/// Most values in what another node has sent: what a client may have said, what is said of each
/// message beside that (at most ten fields), and the envelope.
const RELAYED_VALUES_MAX: usize = VALUES_MAX + 10 * MESSAGES_MAX + 8;

/// Envelope: what the messages of a frame have in common, so that they need not say it themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The frame's id, `connectionId:msgSerial` for what a connection published; a message without
    /// an id has this one and its index, `id:index`.
    pub id: Option<String>,
    /// When the service accepted it, in ms since the epoch.
    pub timestamp_ms: Option<u64>,
    /// The publisher's connection.
    pub connection_id: Option<String>,
}

impl Envelope {
    pub(crate) fn to_wire(&self) -> Wire<'_> {
        Wire {
            id: self.id.as_deref(),
            timestamp: self.timestamp_ms,
            connection_id: self.connection_id.as_deref(),
            ..Wire::default()
        }
    }
}

/// Content: what a broadcast carries.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Messages, for attachments with the mode SUBSCRIBE.
    Messages(Vec<Message>),
    /// Changes of members, for attachments with the mode PRESENCE_SUBSCRIBE.
    Presence(Vec<PresenceMessage>),
}

/// Broadcast: a MESSAGE or PRESENCE frame for many subscribers, whose frames differ in nothing but
/// format, channel (as each has written it) and channel serial.
///
/// All else is encoded at most once per format, by whoever first needs it; a subscriber's frame
/// costs one allocation and a copy.
#[derive(Debug)]
pub struct Broadcast {
    envelope: Envelope,
    content: Content,
    json: OnceLock<Vec<u8>>,
    message_pack: OnceLock<Vec<u8>>,
}

impl Broadcast {
    /// Takes what is to be sent, and encodes nothing yet.
    #[must_use]
    pub fn new(envelope: Envelope, content: Content) -> Self {
        Self {
            envelope,
            content,
            json: OnceLock::new(),
            message_pack: OnceLock::new(),
        }
    }

    /// The envelope.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The content.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The size in bytes of what it carries, for bounds of memory; see [`Message::size`].
    #[must_use]
    pub fn size(&self) -> usize {
        // About what an envelope and the fields of each item take beside what was sent.
        const FIXED: usize = 128;
        match &self.content {
            Content::Messages(messages) => {
                let id = |one: &Message| one.id.as_ref().map_or(0, String::len);
                messages
                    .iter()
                    .map(|one| one.size() + id(one) + FIXED)
                    .sum()
            }
            Content::Presence(items) => items.iter().map(|one| one.size() + FIXED).sum(),
        }
    }

    /// The frame for one subscriber.
    #[must_use]
    pub fn frame(&self, format: Format, channel: &str, channel_serial: Option<&str>) -> Bytes {
        let action = match self.content {
            Content::Messages(_) => action::MESSAGE,
            Content::Presence(_) => action::PRESENCE,
        };
        let own = Wire {
            action: Some(action),
            channel: Some(channel),
            channel_serial,
            ..Wire::default()
        };
        join(format, &own.encode(format), self.shared(format)).into()
    }

    /// The broadcast as one node sends it to another, which reads it with [`Broadcast::from_bytes`].
    #[must_use]
    pub fn to_bytes(&self) -> &[u8] {
        self.shared(Format::MessagePack)
    }

    /// Reads what another node has sent. Unlike a client, it may say who published and when.
    ///
    /// # Errors
    /// [`FrameError`] names the field that is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FrameError> {
        let (depth_max, values_max) = (RELAYED_DEPTH_MAX, RELAYED_VALUES_MAX);
        let value = Value::read_within(Format::MessagePack, bytes, depth_max, values_max)?;
        let fields = Fields::of_frame(&value)?;
        let envelope = Envelope {
            id: fields.text("id")?,
            timestamp_ms: fields.unsigned("timestamp")?,
            connection_id: fields.text("connectionId")?,
        };
        let presence = fields.items("presence", PRESENCE_MAX, |fields| {
            Ok(PresenceMessage {
                connection_id: fields.text("connectionId")?,
                timestamp_ms: fields.unsigned("timestamp")?,
                ..PresenceMessage::read(fields)?
            })
        })?;
        if !presence.is_empty() {
            return Ok(Self::new(envelope, Content::Presence(presence)));
        }
        let messages = fields.items("messages", MESSAGES_MAX, |fields| {
            Ok(Message {
                connection_id: fields.text("connectionId")?,
                timestamp_ms: fields.unsigned("timestamp")?,
                serial: fields.text("serial")?,
                ..Message::read(fields)?
            })
        })?;
        Ok(Self::new(envelope, Content::Messages(messages)))
    }

    fn shared(&self, format: Format) -> &[u8] {
        let cell = match format {
            Format::Json => &self.json,
            Format::MessagePack => &self.message_pack,
        };
        cell.get_or_init(|| {
            let (messages, presence) = match &self.content {
                Content::Messages(messages) => (Some(&**messages), None),
                Content::Presence(presence) => (None, Some(&**presence)),
            };
            let shared = Wire {
                messages,
                presence,
                ..self.envelope.to_wire()
            };
            shared.encode(format)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{Limits, TEXT_BYTES_MAX};
    use crate::payload::Payload;
    use crate::presence::PresenceAction;

    fn envelope() -> Envelope {
        Envelope {
            id: Some("c:3".to_owned()),
            timestamp_ms: Some(1_760_000_000_000),
            connection_id: Some("c".to_owned()),
        }
    }

    #[test]
    fn another_node_reads_what_was_published() {
        let message = Message {
            name: Some("greet".to_owned()),
            client_id: Some("ann".to_owned()),
            connection_id: Some("c".to_owned()),
            data: Payload::Bytes((&b"\x00\xff"[..]).into()),
            extras: Some(serde_json::json!({ "headers": { "a": 1 } })),
            timestamp_ms: Some(5),
            serial: Some("s".to_owned()),
            ..Message::default()
        };
        let sent = Broadcast::new(envelope(), Content::Messages(vec![message]));
        let read = Broadcast::from_bytes(sent.to_bytes()).unwrap();
        assert_eq!(
            (read.envelope(), read.content()),
            (sent.envelope(), sent.content())
        );
    }

    #[test]
    fn another_node_reads_whatever_a_client_may_publish() {
        let extras = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let encoding = "e".repeat(TEXT_BYTES_MAX - "/json".len());
        let widest = format!("[{}0]", "0,".repeat(VALUES_MAX - 5));
        for body in [
            format!(r#"{{"extras":{}}}"#, extras(DEPTH_MAX - 1)),
            format!(r#"{{"data":[],"encoding":"{encoding}"}}"#),
            format!(r#"{{"extras":{widest}}}"#),
            format!("[{}{{}}]", "{},".repeat(MESSAGES_MAX - 1)),
        ] {
            let limits = Limits {
                message_bytes_max: usize::MAX,
                ..Limits::default()
            };
            let messages = Message::decode_body(Format::Json, body.as_bytes(), &limits).unwrap();
            let sent = Broadcast::new(envelope(), Content::Messages(messages));
            let read = Broadcast::from_bytes(sent.to_bytes()).unwrap();
            assert_eq!(read.content(), sent.content());
        }
        // Such an encoding is no longer than one that is given.
        let longer = format!(r#"{{"data":[],"encoding":"{encoding}x"}}"#);
        let error = Message::decode_body(Format::Json, longer.as_bytes(), &Limits::default());
        assert!(
            matches!(error, Err(FrameError::TooLong { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn another_node_reads_who_is_present() {
        let member = PresenceMessage {
            id: Some("c:3:0".to_owned()),
            action: PresenceAction::Update,
            client_id: Some("ann".to_owned()),
            connection_id: Some("c".to_owned()),
            data: Payload::Text("hi".to_owned()),
            encoding: None,
            extras: None,
            timestamp_ms: Some(5),
        };
        let sent = Broadcast::new(Envelope::default(), Content::Presence(vec![member]));
        let read = Broadcast::from_bytes(sent.to_bytes()).unwrap();
        assert_eq!(read.content(), sent.content());
        assert!(Broadcast::from_bytes(b"\x93").is_err());
    }
}
