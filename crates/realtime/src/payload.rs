//! What a message or a presence member carries.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Serialize, Serializer};

use crate::error::FrameError;
use crate::fields::Fields;
use crate::limits::TEXT_BYTES_MAX;
use crate::tree::Value;

/// Payload: the data of a message as it was sent. What it means says the message's `encoding`,
/// which only clients interpret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Payload {
    /// No data.
    #[default]
    None,
    /// Text, also where the encoding says that it is base64 or JSON.
    Text(String),
    /// Binary, as MessagePack has it. For JSON it becomes text in base64, and the encoding says so.
    Bytes(Bytes),
}

impl Payload {
    /// Reads the fields `data` and `encoding`. A list or map becomes text with the encoding `json`.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<(Self, Option<String>), FrameError> {
        const DATA: &str = "data";
        const ENCODING: &str = "encoding";
        let encoding = fields.text(ENCODING)?.filter(|text| !text.is_empty());
        let unusable = || FrameError::UnusableData {
            field: fields.name_of(DATA),
        };
        Ok(match fields.get(DATA) {
            None => (Self::None, encoding),
            Some(Value::Text(text)) => (Self::Text(text.to_string()), encoding),
            Some(Value::Bytes(bytes)) => (Self::Bytes(bytes.to_vec().into()), encoding),
            Some(value @ (Value::List(_) | Value::Map(_))) => {
                let json = value.to_json().ok_or_else(unusable)?;
                let encoding = with_layer(encoding.as_deref(), "json");
                // Other nodes have the same bound, and must not refuse what was taken here.
                fields.check_length(ENCODING, encoding.len(), TEXT_BYTES_MAX)?;
                (Self::Text(json.to_string()), Some(encoding))
            }
            Some(_) => return Err(unusable()),
        })
    }

    /// The length in bytes, before any base64.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// The fields `data` and `encoding` for a format that has binary, or one that has not.
    pub(crate) fn to_wire<'a>(
        &'a self,
        encoding: Option<&'a str>,
        binary: bool,
    ) -> (Option<WirePayload<'a>>, Option<Cow<'a, str>>) {
        let same = encoding.map(Cow::Borrowed);
        match self {
            Self::None => (None, same),
            Self::Text(text) => (Some(WirePayload::Text(Cow::Borrowed(text))), same),
            Self::Bytes(bytes) if binary => (Some(WirePayload::Bytes(bytes)), same),
            Self::Bytes(bytes) => (
                Some(WirePayload::Text(Cow::Owned(STANDARD.encode(bytes)))),
                Some(Cow::Owned(with_layer(encoding, "base64"))),
            ),
        }
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Encodings are a path: the last one was applied last and is undone first.
fn with_layer(encoding: Option<&str>, layer: &str) -> String {
    match encoding {
        None => layer.to_owned(),
        Some(encoding) => format!("{encoding}/{layer}"),
    }
}

/// The data of a message in one format.
pub(crate) enum WirePayload<'a> {
    Text(Cow<'a, str>),
    Bytes(&'a [u8]),
}

impl Serialize for WirePayload<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
        }
    }
}
