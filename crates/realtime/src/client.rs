//! What a client may say.

use std::collections::BTreeMap;

use crate::action;
use crate::error::FrameError;
use crate::fields::Fields;
use crate::format::Format;
use crate::limits::{CHANNEL_TEXT_BYTES_MAX, Limits, MESSAGES_MAX, PRESENCE_MAX};
use crate::message::Message;
use crate::presence::PresenceMessage;
use crate::server::ServerFrame;
use crate::tree::Value;

/// Client frame: one protocol message from a client. Channels are as the client wrote them.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientFrame {
    /// Wants the same back, if it has an id.
    Heartbeat {
        /// Chosen by the client.
        id: Option<String>,
    },
    /// The client drops this transport, and may resume on another.
    Disconnect,
    /// The client ends its connection.
    Close,
    /// The client attaches, or changes its attachment.
    Attach {
        /// The channel.
        channel: String,
        /// How far the client has read, if it was attached before.
        channel_serial: Option<String>,
        /// What [`crate::AttachParams::resolve`] reads, together with the flags.
        params: BTreeMap<String, String>,
        /// See [`crate::flags`].
        flags: u64,
    },
    /// The client detaches.
    Detach {
        /// The channel.
        channel: String,
    },
    /// The client's members come, go or change.
    Presence {
        /// The channel.
        channel: String,
        /// The number to acknowledge.
        msg_serial: u64,
        /// What happened, at least one.
        items: Vec<PresenceMessage>,
    },
    /// The client publishes.
    Message {
        /// The channel.
        channel: String,
        /// The number to acknowledge.
        msg_serial: u64,
        /// The messages, at least one.
        messages: Vec<Message>,
    },
    /// The client asks for the presence set.
    Sync {
        /// The channel.
        channel: String,
        /// Where to go on.
        channel_serial: Option<String>,
    },
    /// The client brings a new token.
    Auth {
        /// The token.
        access_token: String,
    },
    /// Nothing that a node of this release acts on. To be ignored, for the sake of later clients,
    /// unless it wants to be acknowledged; then it is refused by a NACK.
    Unknown {
        /// The action's number.
        action: u64,
        /// The number to acknowledge.
        msg_serial: Option<u64>,
    },
}

impl ClientFrame {
    /// Reads one frame of a connection with that format.
    ///
    /// # Errors
    /// [`RefusedFrame`] says what is wrong, and what to reply.
    pub fn decode(format: Format, bytes: &[u8], limits: &Limits) -> Result<Self, RefusedFrame> {
        if bytes.len() > limits.frame_bytes_max {
            return Err(RefusedFrame::unreadable(FrameError::FrameTooLarge {
                bytes: bytes.len(),
                max: limits.frame_bytes_max,
            }));
        }
        let value = Value::read(format, bytes).map_err(RefusedFrame::unreadable)?;
        let fields = Fields::of_frame(&value).map_err(RefusedFrame::unreadable)?;
        let action = fields.unsigned("action");
        let action = action.and_then(|action| action.ok_or_else(|| fields.missing("action")));
        let action = action.map_err(RefusedFrame::unreadable)?;
        Self::read(action, &fields, limits).map_err(|error| RefusedFrame {
            error,
            channel: channel(&fields).ok(),
            msg_serial: action::is_acknowledged(action)
                .then(|| msg_serial(&fields).ok())
                .flatten(),
        })
    }

    fn read(action: u64, fields: &Fields<'_>, limits: &Limits) -> Result<Self, FrameError> {
        Ok(match action {
            action::HEARTBEAT => Self::Heartbeat {
                id: fields.text("id")?,
            },
            action::DISCONNECT => Self::Disconnect,
            action::CLOSE => Self::Close,
            action::ATTACH => Self::Attach {
                channel: channel(fields)?,
                channel_serial: fields.text("channelSerial")?,
                params: fields.params()?,
                flags: fields.unsigned("flags")?.unwrap_or_default(),
            },
            action::DETACH => Self::Detach {
                channel: channel(fields)?,
            },
            action::PRESENCE => Self::Presence {
                channel: channel(fields)?,
                msg_serial: msg_serial(fields)?,
                items: {
                    let items = fields.items("presence", PRESENCE_MAX, PresenceMessage::read)?;
                    check_sizes("presence", items.iter().map(PresenceMessage::size), limits)?;
                    items
                },
            },
            action::MESSAGE => Self::Message {
                channel: channel(fields)?,
                msg_serial: msg_serial(fields)?,
                messages: {
                    let messages = fields.items("messages", MESSAGES_MAX, Message::read)?;
                    check_sizes("messages", messages.iter().map(Message::size), limits)?;
                    messages
                },
            },
            action::SYNC => Self::Sync {
                channel: channel(fields)?,
                channel_serial: fields.text("channelSerial")?,
            },
            action::AUTH => Self::Auth {
                access_token: access_token(fields)?,
            },
            _ => Self::Unknown {
                action,
                msg_serial: if action::is_acknowledged(action) {
                    Some(msg_serial(fields)?)
                } else {
                    None
                },
            },
        })
    }
}

fn channel(fields: &Fields<'_>) -> Result<String, FrameError> {
    const CHANNEL: &str = "channel";
    let channel = fields.text_within(CHANNEL, CHANNEL_TEXT_BYTES_MAX)?;
    channel.ok_or_else(|| fields.missing(CHANNEL))
}

/// The token's own bound is that of `headcount-access`, with its own code.
fn access_token(fields: &Fields<'_>) -> Result<String, FrameError> {
    const ACCESS_TOKEN: &str = "accessToken";
    let auth = fields.inner("auth")?;
    let auth = auth.ok_or_else(|| fields.missing("auth"))?;
    let token = auth.text_within(ACCESS_TOKEN, usize::MAX)?;
    token.ok_or_else(|| auth.missing(ACCESS_TOKEN))
}

/// Absent counts as zero: encoders that leave out what is zero are an old trap of this protocol.
fn msg_serial(fields: &Fields<'_>) -> Result<u64, FrameError> {
    Ok(fields.unsigned("msgSerial")?.unwrap_or_default())
}

/// Checks that there is something, and that it is not too much together.
pub(crate) fn check_sizes(
    field: &'static str,
    sizes: impl ExactSizeIterator<Item = usize>,
    limits: &Limits,
) -> Result<(), FrameError> {
    if sizes.len() == 0 {
        return Err(FrameError::Missing {
            field: field.to_owned(),
        });
    }
    let (bytes, max) = (sizes.sum(), limits.message_bytes_max);
    if bytes > max {
        return Err(FrameError::MessagesTooLarge { field, bytes, max });
    }
    Ok(())
}

/// A frame that cannot be taken, and whom to tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the frame is refused")]
pub struct RefusedFrame {
    /// What is wrong.
    #[source]
    pub error: FrameError,
    /// The channel that the frame is about.
    pub channel: Option<String>,
    /// The number that the client waits to be acknowledged.
    pub msg_serial: Option<u64>,
}

impl RefusedFrame {
    fn unreadable(error: FrameError) -> Self {
        Self {
            error,
            channel: None,
            msg_serial: None,
        }
    }

    /// The reply: a NACK if the client waits for one, else an ERROR, which fails the channel, or
    /// the connection if the frame is about no channel.
    #[must_use]
    pub fn reply(&self) -> ServerFrame {
        let error = self.error.clone().into();
        match self.msg_serial {
            Some(msg_serial) => ServerFrame::Nack {
                msg_serial,
                count: 1,
                error,
            },
            None => ServerFrame::Error {
                channel: self.channel.clone(),
                error,
            },
        }
    }
}
