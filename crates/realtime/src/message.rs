//! One message of a channel.

use serde::{Serialize, Serializer};

use crate::client::check_sizes;
use crate::error::FrameError;
use crate::fields::Fields;
use crate::format::Format;
use crate::limits::{Limits, MESSAGES_MAX};
use crate::payload::{Payload, WirePayload};
use crate::tree::Value;

/// Message action: what a message is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MessageAction {
    /// A new message.
    #[default]
    Create = 0,
    /// A new version of an earlier one.
    Update = 1,
    /// An earlier one is gone.
    Delete = 2,
    /// Made by the service about the channel, such as in-band occupancy.
    Meta = 3,
    /// A summary of annotations.
    Summary = 4,
    /// More of an earlier one.
    Append = 5,
}

impl MessageAction {
    /// Every action, in the order of its numbers.
    pub const ALL: [Self; 6] = [
        Self::Create,
        Self::Update,
        Self::Delete,
        Self::Meta,
        Self::Summary,
        Self::Append,
    ];

    fn read(fields: &Fields<'_>) -> Result<Self, FrameError> {
        const ACTION: &str = "action";
        let number = fields.unsigned(ACTION)?.unwrap_or_default();
        Self::ALL
            .into_iter()
            .find(|action| *action as u64 == number)
            .ok_or_else(|| FrameError::UnknownNumber {
                field: fields.name_of(ACTION),
                value: number,
                remedy: "messages have actions from 0 to 5",
            })
    }
}

/// Message: what was published, in no format yet.
///
/// Absent fields are absent on the wire; clients take `id`, `timestamp` and `connectionId` from the
/// envelope then.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// Unique, for idempotent publishing.
    pub id: Option<String>,
    /// The event's name, by which clients subscribe.
    pub name: Option<String>,
    /// Who published it, as far as the publisher says: not yet judged when it is decoded.
    pub client_id: Option<String>,
    /// The publisher's connection; never taken from a client.
    pub connection_id: Option<String>,
    /// The payload.
    pub data: Payload,
    /// How clients get back from the payload to what was published.
    pub encoding: Option<String>,
    /// Whatever else the publisher tells, as JSON.
    pub extras: Option<serde_json::Value>,
    /// What the message is about.
    pub action: MessageAction,
    /// When the service accepted it, in ms since the epoch; never taken from a client.
    pub timestamp_ms: Option<u64>,
    /// Its place in the channel; never taken from a client.
    pub serial: Option<String>,
}

impl Message {
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self, FrameError> {
        let (data, encoding) = Payload::read(fields)?;
        Ok(Self {
            id: fields.text("id")?,
            name: fields.text("name")?,
            client_id: fields.text("clientId")?,
            connection_id: None,
            data,
            encoding,
            extras: read_extras(fields)?,
            action: MessageAction::read(fields)?,
            timestamp_ms: None,
            serial: None,
        })
    }

    /// Reads the body of a publish over HTTP: one message, or a list of them. The bounds are those
    /// of a frame, and so is what is not taken from clients.
    ///
    /// # Errors
    /// [`FrameError`] says what is wrong, as of a frame's `messages`.
    pub fn decode_body(
        format: Format,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Vec<Self>, FrameError> {
        const MESSAGES: &str = "messages";
        if bytes.len() > limits.frame_bytes_max {
            return Err(FrameError::FrameTooLarge {
                bytes: bytes.len(),
                max: limits.frame_bytes_max,
            });
        }
        let value = Value::read(format, bytes)?;
        let messages = Fields::listed(MESSAGES, &value, MESSAGES_MAX, Self::read)?;
        check_sizes(MESSAGES, messages.iter().map(Self::size), limits)?;
        Ok(messages)
    }

    /// The size in bytes that is held against `maxMessageSize`: name, client id, data and extras.
    #[must_use]
    pub fn size(&self) -> usize {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        length(&self.name) + length(&self.client_id) + self.data.size() + extras_size(&self.extras)
    }
}

/// Reads `extras`: a map, as every client sends it, without binary in it. What JSON has no word for
/// and is null in it, such as a number that is none, is as absent as null.
pub(crate) fn read_extras(fields: &Fields<'_>) -> Result<Option<serde_json::Value>, FrameError> {
    const EXTRAS: &str = "extras";
    let Some(value) = fields.get(EXTRAS) else {
        return Ok(None);
    };
    let json = value.to_json().ok_or_else(|| FrameError::WrongType {
        field: fields.name_of(EXTRAS),
        wanted: "JSON, without binary in it",
    })?;
    Ok(Some(json).filter(|json| !json.is_null()))
}

pub(crate) fn extras_size(extras: &Option<serde_json::Value>) -> usize {
    extras.as_ref().map_or(0, |json| json.to_string().len())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireMessage<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<WirePayload<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extras: Option<&'a serde_json::Value>,
    action: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<&'a str>,
}

impl Serialize for Message {
    /// Writes the message as a frame or a REST answer holds it; a format that is not readable for
    /// humans is taken to have binary.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let binary = !serializer.is_human_readable();
        let (data, encoding) = self.data.to_wire(self.encoding.as_deref(), binary);
        WireMessage {
            id: self.id.as_deref(),
            name: self.name.as_deref(),
            client_id: self.client_id.as_deref(),
            connection_id: self.connection_id.as_deref(),
            data,
            encoding,
            extras: self.extras.as_ref(),
            action: self.action as u8,
            timestamp: self.timestamp_ms,
            serial: self.serial.as_deref(),
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(format: Format, bytes: &[u8]) -> Result<Message, FrameError> {
        Message::read(&Fields::of_frame(&Value::read(format, bytes)?)?)
    }

    fn from_json(json: &serde_json::Value) -> Result<Message, FrameError> {
        read(Format::Json, json.to_string().as_bytes())
    }

    #[test]
    fn binary_becomes_base64_for_json_and_stays_for_message_pack() {
        let message = Message {
            data: Payload::Bytes((&b"\x00\xffhi"[..]).into()),
            encoding: Some("cipher+aes-128-cbc".to_owned()),
            ..Message::default()
        };
        assert_eq!(
            serde_json::to_value(&message).unwrap(),
            json!({ "action": 0, "data": "AP9oaQ==", "encoding": "cipher+aes-128-cbc/base64" })
        );
        let packed = rmp_serde::to_vec_named(&message).unwrap();
        assert_eq!(read(Format::MessagePack, &packed).unwrap(), message);
    }

    #[test]
    fn base64_text_passes_as_it_is() {
        let message = from_json(&json!({ "data": "AP9oaQ==", "encoding": "base64" })).unwrap();
        let packed = rmp_serde::to_vec_named(&message).unwrap();
        let unpacked = read(Format::MessagePack, &packed).unwrap();
        assert_eq!(unpacked.data, "AP9oaQ==".into());
        assert_eq!(unpacked.encoding.as_deref(), Some("base64"));
    }

    #[test]
    fn a_list_or_map_becomes_json_text() {
        let message = from_json(&json!({ "data": { "a": [1, -2, 0.5, null, true] } })).unwrap();
        assert_eq!(message.data, r#"{"a":[1,-2,0.5,null,true]}"#.into());
        assert_eq!(message.encoding.as_deref(), Some("json"));
        let packed = rmp_serde::to_vec_named(&json!({ "data": [1] })).unwrap();
        assert_eq!(
            read(Format::MessagePack, &packed).unwrap().data,
            "[1]".into()
        );
    }

    #[test]
    fn other_data_is_refused() {
        for data in [json!(1), json!(true)] {
            let error = from_json(&json!({ "data": data })).unwrap_err();
            assert_eq!((error.code(), error.status()), (40013, 400));
        }
        // {"data": [bin]}
        let error = read(Format::MessagePack, b"\x81\xa4data\x91\xc4\x01\x00").unwrap_err();
        assert_eq!(error.code(), 40013);
    }

    #[test]
    fn extras_that_are_no_number_are_absent() {
        // {"extras": NaN}, in which JSON would have null.
        let packed = b"\x81\xa6extras\xcb\x7f\xf8\0\0\0\0\0\0";
        assert_eq!(
            read(Format::MessagePack, packed).unwrap(),
            Message::default()
        );
    }

    #[test]
    fn what_only_the_service_says_is_not_taken_from_clients() {
        let forged = json!({ "connectionId": "c", "timestamp": 1, "serial": "s", "new": {} });
        assert_eq!(from_json(&forged).unwrap(), Message::default());
    }

    #[test]
    fn the_size_is_name_client_data_and_extras() {
        let message = json!({ "id": "ignored", "name": "ab", "clientId": "cde", "data": "fghi",
            "extras": { "k": 1 } });
        assert_eq!(from_json(&message).unwrap().size(), 2 + 3 + 4 + 7);
    }

    fn body(format: Format, bytes: &[u8]) -> Result<Vec<Message>, FrameError> {
        let limits = Limits {
            frame_bytes_max: 100,
            message_bytes_max: 10,
        };
        Message::decode_body(format, bytes, &limits)
    }

    #[test]
    fn a_body_is_one_message_or_a_list() {
        let message = |name: &str| Message {
            name: Some(name.to_owned()),
            data: "x".into(),
            ..Message::default()
        };
        let one = json!({ "name": "a", "data": "x", "timestamp": 1 });
        let two = json!([one, { "name": "b", "data": "x" }]);
        for format in Format::ALL {
            let encode = |value: &serde_json::Value| match format {
                Format::Json => value.to_string().into_bytes(),
                Format::MessagePack => rmp_serde::to_vec_named(value).unwrap(),
            };
            assert_eq!(body(format, &encode(&one)), Ok(vec![message("a")]));
            let both = Ok(vec![message("a"), message("b")]);
            assert_eq!(body(format, &encode(&two)), both);
        }
    }

    #[test]
    fn a_body_has_the_bounds_of_a_frame() {
        let long = format!("[{}]", " ".repeat(99));
        let many = format!("[{}{{}}]", "{},".repeat(MESSAGES_MAX));
        let limits = Limits::default();
        let error = Message::decode_body(Format::Json, many.as_bytes(), &limits).unwrap_err();
        assert_eq!(error.code(), 40000);
        for (text, code) in [
            (long.as_str(), 40009),
            (r#"{"data":"01234567890"}"#, 40009),
            (r#"[{"data":"01234"},{"data":"567890"}]"#, 40009),
            ("[]", 40000),
            ("null", 40000),
            ("[1]", 40000),
            ("[[{}]]", 40000),
            (r#"[{"name":1}]"#, 40000),
            ("{", 40001),
            ("", 40001),
        ] {
            let error = body(Format::Json, text.as_bytes()).unwrap_err();
            assert_eq!(error.code(), code, "{text}: {error}");
        }
        let error = body(Format::Json, br#"[{},{"name":1}]"#).unwrap_err();
        assert!(error.to_string().contains("messages[1].name"), "{error}");
    }

    #[test]
    fn unknown_actions_are_refused() {
        let error = from_json(&json!({ "action": 6 })).unwrap_err();
        assert_eq!(error.code(), 40003);
    }
}
