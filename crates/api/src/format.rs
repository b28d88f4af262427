//! JSON or MessagePack: which one a request wants and sends.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

use crate::problem::Problem;

/// The format of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// `application/json`.
    #[default]
    Json,
    /// `application/x-msgpack`.
    MessagePack,
}

impl Format {
    /// Returns the exact content type. An official client compares it as text, so there is no
    /// `charset` (`contract.md` section 3.4).
    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json",
            Self::MessagePack => "application/x-msgpack",
        })
    }

    fn from_media_type(text: &str) -> Option<Self> {
        let is = |name: &str| text.eq_ignore_ascii_case(name);
        if is("application/json") {
            Some(Self::Json)
        } else if is("application/x-msgpack")
            || is("application/msgpack")
            || is("application/vnd.msgpack")
        {
            Some(Self::MessagePack)
        } else {
            None
        }
    }

    /// Returns the format of the answer. `Accept` wins if it names one of ours, else the query's
    /// `format` counts, else it is JSON.
    ///
    /// # Errors
    /// [`Problem::Parameter`] for a `format` that is neither `json` nor `msgpack`.
    pub(crate) fn negotiate(accept: Option<&str>, format: Option<&str>) -> Result<Self, Problem> {
        if let Some(accepted) = accept.and_then(Self::best_accepted) {
            return Ok(accepted);
        }
        match format {
            None | Some("json") => Ok(Self::Json),
            Some("msgpack") => Ok(Self::MessagePack),
            Some(_) => Err(Problem::Parameter {
                name: "format",
                reason: "it is neither json nor msgpack",
            }),
        }
    }

    /// The format with the highest weight in an `Accept` header; of equal ones, the first.
    fn best_accepted(accept: &str) -> Option<Self> {
        let mut best: Option<(f32, Self)> = None;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let Some(format) = parts.next().and_then(Self::from_media_type) else {
                continue;
            };
            let weight = parts
                .find_map(|part| part.strip_prefix("q="))
                .map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            if weight > best.map_or(0.0, |(weight, _)| weight) {
                best = Some((weight, format));
            }
        }
        best.map(|(_, format)| format)
    }

    /// Returns the format of a request's body. Anything but MessagePack is read as JSON, since
    /// people's tools send JSON under many names.
    pub(crate) fn of_body(headers: &HeaderMap) -> Self {
        headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .and_then(|value| Self::from_media_type(value.trim()))
            .unwrap_or_default()
    }

    /// Encodes an answer.
    pub(crate) fn encode(self, value: &impl Serialize) -> Bytes {
        match self {
            Self::Json => serde_json::to_vec(value).map_err(|error| error.to_string()),
            Self::MessagePack => rmp_serde::to_vec_named(value).map_err(|error| error.to_string()),
        }
        .expect("answers have string keys and nothing that cannot be encoded")
        .into()
    }

    /// Decodes a request's body.
    ///
    /// # Errors
    /// [`Problem::MalformedBody`] if it is not of this format.
    pub(crate) fn decode(self, body: &[u8]) -> Result<Value, Problem> {
        match self {
            Self::Json => serde_json::from_slice(body).map_err(|error| error.to_string()),
            Self::MessagePack => decode_message_pack(body),
        }
        .map_err(|reason| Problem::MalformedBody { reason })
    }
}

/// How deep a MessagePack body may nest. The library's own bound overflows the stack of a thread;
/// the bodies that are asked for here have two levels.
const DEPTH_MAX: usize = 32;

fn decode_message_pack(body: &[u8]) -> Result<Value, String> {
    let mut reader = body;
    let mut deserializer = rmp_serde::Deserializer::new(&mut reader);
    deserializer.set_max_depth(DEPTH_MAX);
    let value = Value::deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    match reader.len() {
        0 => Ok(value),
        left => Err(format!("{left} bytes follow the value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn negotiated(accept: &str, format: Option<&str>) -> Format {
        Format::negotiate(Some(accept), format).unwrap()
    }

    #[test]
    fn accept_wins_over_the_parameter() {
        let msgpack = Some("msgpack");
        assert_eq!(negotiated("application/json", msgpack), Format::Json);
        assert_eq!(
            negotiated("application/x-msgpack", Some("json")),
            Format::MessagePack
        );
        assert_eq!(negotiated("*/*", msgpack), Format::MessagePack);
        assert_eq!(negotiated("text/html, image/png", None), Format::Json);
        assert_eq!(
            Format::negotiate(None, msgpack).unwrap(),
            Format::MessagePack
        );
        assert!(Format::negotiate(None, Some("html")).is_err());
        assert_eq!(negotiated("application/json", Some("html")), Format::Json);
    }

    #[test]
    fn weights_are_obeyed() {
        let both = "application/json;q=0.5, Application/X-MsgPack; q=0.9";
        assert_eq!(negotiated(both, None), Format::MessagePack);
        assert_eq!(negotiated("application/x-msgpack;q=0", None), Format::Json);
        assert_eq!(
            negotiated("application/x-msgpack;q=high", None),
            Format::Json
        );
        assert_eq!(
            negotiated("application/x-msgpack, application/json", None),
            Format::MessagePack
        );
    }

    #[test]
    fn bodies_must_be_whole() {
        let value = json!({"a": [1, null, "x"]});
        for format in [Format::Json, Format::MessagePack] {
            let mut body = format.encode(&value).to_vec();
            assert_eq!(format.decode(&body).unwrap(), value);
            assert!(format.decode(&body[..body.len() - 1]).is_err());
            body.push(b'x');
            assert!(format.decode(&body).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Format::Json.decode(&body));
            drop(Format::MessagePack.decode(&body));
        }

        #[test]
        fn no_header_makes_it_panic(accept in ".*", format in ".*") {
            drop(Format::negotiate(Some(&accept), Some(&format)));
        }
    }
}
