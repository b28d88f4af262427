//! What a node may say.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use crate::action;
use crate::broadcast::Envelope;
use crate::format::Format;
use crate::message::Message;
use crate::presence::PresenceMessage;
use crate::protocol_error::ProtocolError;
use crate::wire::Wire;

/// Server frame: one protocol message to one client. Channels are as that client wrote them.
///
/// What goes to many subscribers of a channel is a [`crate::Broadcast`], which encodes once.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerFrame {
    /// A sign of life, or the answer to one.
    Heartbeat {
        /// The id of the heartbeat that is answered.
        id: Option<String>,
    },
    /// `count` frames of the client, from `msg_serial` on, are accepted.
    Ack {
        /// The first one's number.
        msg_serial: u64,
        /// How many.
        count: u64,
        /// One result for each; empty if there is nothing to tell.
        results: Vec<PublishResult>,
    },
    /// `count` frames of the client, from `msg_serial` on, are refused.
    Nack {
        /// The first one's number.
        msg_serial: u64,
        /// How many.
        count: u64,
        /// Why.
        error: ProtocolError,
    },
    /// The client is connected, or what it knows of its connection has changed.
    Connected {
        /// The connection; a new one if a resume failed.
        connection_id: String,
        /// What the client must know.
        details: Box<ConnectionDetails>,
        /// Why a resume failed.
        error: Option<ProtocolError>,
    },
    /// This transport ends; the client should come back and resume.
    Disconnected {
        /// Why: clients do not heed one without.
        error: ProtocolError,
    },
    /// The connection has ended, as the client wished.
    Closed,
    /// A channel has failed, or without a channel the connection.
    Error {
        /// The channel.
        channel: Option<String>,
        /// Why.
        error: ProtocolError,
    },
    /// The client is attached, or its attachment has changed.
    Attached {
        /// The channel.
        channel: String,
        /// From where on messages will come.
        channel_serial: Option<String>,
        /// The modes in effect and what else [`crate::flags`] has.
        flags: u64,
        /// What took effect of the client's params.
        params: BTreeMap<String, String>,
        /// Why continuity was lost.
        error: Option<ProtocolError>,
    },
    /// The client is not attached any more.
    Detached {
        /// The channel.
        channel: String,
        /// Why, if the client did not ask for it; it attaches again at once.
        error: Option<ProtocolError>,
    },
    /// Messages for this client alone, such as those of a rewind.
    Message {
        /// The channel.
        channel: String,
        /// The place of the last one.
        channel_serial: Option<String>,
        /// What they have in common.
        envelope: Envelope,
        /// The messages.
        messages: Vec<Message>,
    },
    /// Presence changes for this client alone.
    Presence {
        /// The channel.
        channel: String,
        /// The place of the last one.
        channel_serial: Option<String>,
        /// What they have in common.
        envelope: Envelope,
        /// The changes.
        presence: Vec<PresenceMessage>,
    },
    /// One page of the presence set.
    Sync {
        /// The channel.
        channel: String,
        /// `sequence:cursor`; the last page has no cursor, `sequence:`.
        channel_serial: String,
        /// The members of the page.
        presence: Vec<PresenceMessage>,
    },
    /// The client should bring a new token.
    Auth,
}

/// What came of one published frame.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PublishResult {
    /// The serials of its messages.
    pub serials: Vec<String>,
}

/// Connection details: what a client must know of its connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionDetails {
    /// Who the client is; `*` if it may be anybody and did not say, absent if it is nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// By which it resumes.
    pub connection_key: String,
    /// Largest message, in bytes.
    pub max_message_size: u64,
    /// Largest frame, in bytes.
    pub max_frame_size: u64,
    /// Most frames in a second.
    pub max_inbound_rate: u64,
    /// How long a dropped connection can be resumed, in ms.
    #[serde(rename = "connectionStateTtl")]
    pub connection_state_ttl_ms: u64,
    /// How long the node may be silent, in ms.
    #[serde(rename = "maxIdleInterval")]
    pub max_idle_interval_ms: u64,
    /// The node.
    pub server_id: String,
    /// The region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site_code: Option<String>,
}

impl ServerFrame {
    /// Encodes the frame; JSON is UTF-8, for a text frame.
    #[must_use]
    pub fn encode(&self, format: Format) -> Bytes {
        self.to_wire().encode(format).into()
    }

    fn to_wire(&self) -> Wire<'_> {
        let of = |action| Wire {
            action: Some(action),
            ..Wire::default()
        };
        match self {
            Self::Heartbeat { id } => Wire {
                id: id.as_deref(),
                ..of(action::HEARTBEAT)
            },
            Self::Ack {
                msg_serial,
                count,
                results,
            } => Wire {
                msg_serial: Some(*msg_serial),
                count: Some(*count),
                res: (!results.is_empty()).then_some(results),
                ..of(action::ACK)
            },
            Self::Nack {
                msg_serial,
                count,
                error,
            } => Wire {
                msg_serial: Some(*msg_serial),
                count: Some(*count),
                error: Some(error),
                ..of(action::NACK)
            },
            Self::Connected {
                connection_id,
                details,
                error,
            } => Wire {
                connection_id: Some(connection_id),
                connection_details: Some(details),
                error: error.as_ref(),
                ..of(action::CONNECTED)
            },
            Self::Disconnected { error } => Wire {
                error: Some(error),
                ..of(action::DISCONNECTED)
            },
            Self::Closed => of(action::CLOSED),
            Self::Error { channel, error } => Wire {
                channel: channel.as_deref(),
                error: Some(error),
                ..of(action::ERROR)
            },
            Self::Attached {
                channel,
                channel_serial,
                flags,
                params,
                error,
            } => Wire {
                channel: Some(channel),
                channel_serial: channel_serial.as_deref(),
                flags: Some(*flags),
                params: Some(params),
                error: error.as_ref(),
                ..of(action::ATTACHED)
            },
            Self::Detached { channel, error } => Wire {
                channel: Some(channel),
                error: error.as_ref(),
                ..of(action::DETACHED)
            },
            Self::Message {
                channel,
                channel_serial,
                envelope,
                messages,
            } => Wire {
                action: Some(action::MESSAGE),
                channel: Some(channel),
                channel_serial: channel_serial.as_deref(),
                messages: Some(messages),
                ..envelope.to_wire()
            },
            Self::Presence {
                channel,
                channel_serial,
                envelope,
                presence,
            } => Wire {
                action: Some(action::PRESENCE),
                channel: Some(channel),
                channel_serial: channel_serial.as_deref(),
                presence: Some(presence),
                ..envelope.to_wire()
            },
            Self::Sync {
                channel,
                channel_serial,
                presence,
            } => Wire {
                channel: Some(channel),
                channel_serial: Some(channel_serial),
                presence: Some(presence),
                ..of(action::SYNC)
            },
            Self::Auth => of(action::AUTH),
        }
    }
}
