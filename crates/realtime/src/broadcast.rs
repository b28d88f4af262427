//! One message or presence change on its way to many subscribers.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::action;
use crate::format::Format;
use crate::message::Message;
use crate::presence::PresenceMessage;
use crate::wire::{Wire, join};

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
            Content::Messages(messages) => messages.iter().map(|one| one.size() + FIXED).sum(),
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
