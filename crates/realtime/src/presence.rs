//! One member of a channel's presence set, and what happened to it.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

use crate::error::FrameError;
use crate::fields::Fields;
use crate::message::{extras_size, read_extras};
use crate::payload::{Payload, WirePayload};

/// Presence action: what happened to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PresenceAction {
    /// It is known to be gone, while a set is being synchronised.
    Absent = 0,
    /// It is there, and was before: items of a SYNC.
    Present = 1,
    /// It came.
    Enter = 2,
    /// It went.
    Leave = 3,
    /// Its data changed.
    Update = 4,
}

impl PresenceAction {
    /// What a client may do.
    const OF_CLIENTS: [Self; 3] = [Self::Enter, Self::Leave, Self::Update];

    fn read(fields: &Fields<'_>) -> Result<Self, FrameError> {
        const ACTION: &str = "action";
        let number = fields
            .unsigned(ACTION)?
            .ok_or_else(|| fields.missing(ACTION))?;
        Self::OF_CLIENTS
            .into_iter()
            .find(|action| *action as u64 == number)
            .ok_or_else(|| FrameError::UnknownNumber {
                field: fields.name_of(ACTION),
                value: number,
                remedy: "clients enter with 2, leave with 3 and update with 4",
            })
    }
}

/// Presence message: a change of one member, or a member as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct PresenceMessage {
    /// [`PresenceId`] as text, or an id that the service made up.
    pub id: Option<String>,
    /// What happened.
    pub action: PresenceAction,
    /// Who; a client leaves it out if it means itself.
    pub client_id: Option<String>,
    /// By which connection; never taken from a client.
    pub connection_id: Option<String>,
    /// The member's data.
    pub data: Payload,
    /// How clients get back from the payload to what was entered.
    pub encoding: Option<String>,
    /// Whatever else the member tells, as JSON.
    pub extras: Option<serde_json::Value>,
    /// When the service accepted it, in ms since the epoch; never taken from a client.
    pub timestamp_ms: Option<u64>,
}

impl PresenceMessage {
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self, FrameError> {
        let (data, encoding) = Payload::read(fields)?;
        Ok(Self {
            id: fields.text("id")?,
            action: PresenceAction::read(fields)?,
            client_id: fields.text("clientId")?,
            connection_id: None,
            data,
            encoding,
            extras: read_extras(fields)?,
            timestamp_ms: None,
        })
    }

    /// The size in bytes that is held against `maxMessageSize`: client id, data and extras.
    #[must_use]
    pub fn size(&self) -> usize {
        let client_id = self.client_id.as_ref().map_or(0, String::len);
        client_id + self.data.size() + extras_size(&self.extras)
    }

    /// Returns whether this message, which has just come, takes the place of `known`, which is of
    /// the same member. It is what clients decide, so sets agree (contract §5.8).
    ///
    /// By msgSerial and index if both have an id that their connection made; else by time, where
    /// the later one to come wins a tie.
    #[must_use]
    pub fn is_newer_than(&self, known: &Self) -> bool {
        match (self.made_id(), known.made_id()) {
            (Some(own), Some(known)) => {
                (own.msg_serial, own.index) > (known.msg_serial, known.index)
            }
            _ => self.timestamp_ms >= known.timestamp_ms,
        }
    }

    /// The id, unless the service made it up.
    fn made_id(&self) -> Option<PresenceId<'_>> {
        PresenceId::parse(self.id.as_deref()?, self.connection_id.as_deref()?)
    }
}

/// Presence id: `connectionId:msgSerial:index`, which orders what one connection says of its
/// members. An id of any other form is synthesised: made up by the service, and ordered by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresenceId<'a> {
    /// The member's connection.
    pub connection_id: &'a str,
    /// The frame, of which the connection counts them up.
    pub msg_serial: u64,
    /// The item's place in the frame.
    pub index: u64,
}

impl<'a> PresenceId<'a> {
    /// Reads an id of that connection; `None` if it is synthesised.
    #[must_use]
    pub fn parse(id: &'a str, connection_id: &str) -> Option<Self> {
        let (own, rest) = id.split_at_checked(connection_id.len())?;
        let (msg_serial, index) = rest.strip_prefix(':')?.split_once(':')?;
        (own == connection_id).then_some(Self {
            connection_id: own,
            msg_serial: msg_serial.parse().ok()?,
            index: index.parse().ok()?,
        })
    }
}

impl fmt::Display for PresenceId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}",
            self.connection_id, self.msg_serial, self.index
        )
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WirePresence<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    action: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<WirePayload<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extras: Option<&'a serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<u64>,
}

impl Serialize for PresenceMessage {
    /// Writes the member as a frame or a REST answer holds it, as [`crate::Message`] does.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let binary = !serializer.is_human_readable();
        let (data, encoding) = self.data.to_wire(self.encoding.as_deref(), binary);
        WirePresence {
            id: self.id.as_deref(),
            action: self.action as u8,
            client_id: self.client_id.as_deref(),
            connection_id: self.connection_id.as_deref(),
            data,
            encoding,
            extras: self.extras.as_ref(),
            timestamp: self.timestamp_ms,
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str, timestamp_ms: u64) -> PresenceMessage {
        PresenceMessage {
            id: Some(id.to_owned()),
            action: PresenceAction::Update,
            client_id: Some("u".to_owned()),
            connection_id: Some("c:1".to_owned()),
            data: Payload::None,
            encoding: None,
            extras: None,
            timestamp_ms: Some(timestamp_ms),
        }
    }

    #[test]
    fn ids_of_the_connection_compare_by_serial_then_index() {
        let known = message("c:1:9:3", 100);
        assert!(message("c:1:10:0", 1).is_newer_than(&known));
        assert!(message("c:1:9:4", 1).is_newer_than(&known));
        assert!(!message("c:1:9:3", 200).is_newer_than(&known));
        assert!(!message("c:1:8:4", 200).is_newer_than(&known));
    }

    #[test]
    fn synthesised_ids_compare_by_time() {
        for id in ["other:9:9", "c:1", "c:1:x:1", "c:12:1:1", ""] {
            let leave = |at| message(id, at);
            assert!(leave(100).is_newer_than(&message("c:1:9:3", 100)), "{id}");
            assert!(!leave(99).is_newer_than(&message("c:1:9:3", 100)), "{id}");
            assert!(message("c:1:0:0", 100).is_newer_than(&leave(100)), "{id}");
        }
        let anonymous = PresenceMessage {
            id: None,
            ..message("", 100)
        };
        assert!(anonymous.is_newer_than(&message("c:1:9:3", 100)));
    }

    #[test]
    fn ids_survive_text() {
        let id = PresenceId {
            connection_id: "c:1",
            msg_serial: 9,
            index: 3,
        };
        assert_eq!(PresenceId::parse(&id.to_string(), "c:1"), Some(id));
        assert_eq!(PresenceId::parse("ü:1:1", "a"), None);
    }
}
