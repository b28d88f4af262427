//! What a client says in the query of its websocket request.

use serde::Deserialize;

use crate::format::Format;
use crate::protocol_error::ProtocolError;

/// Shortest interval of heartbeats that a client may ask for, in ms.
pub const HEARTBEAT_INTERVAL_MS_MIN: u64 = 5_000;

/// Longest interval of heartbeats that a client may ask for, in ms.
pub const HEARTBEAT_INTERVAL_MS_MAX: u64 = 1_800_000;

/// Newest protocol version that is spoken; the oldest is 1.
const VERSION_MAX: u8 = 6;

/// Connect query: how a client wants its connection (contract §5.1). Credentials (`key`,
/// `access_token`, `accessToken`) are the caller's business, and unknown parameters nobody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectQuery {
    /// `v` without its fraction: the version of the protocol, if the client says it.
    pub version: Option<u8>,
    /// `format`.
    pub format: Format,
    /// `heartbeats`: whether HEARTBEAT frames must be sent, since the client does not notice pings.
    pub heartbeats: bool,
    /// `echo`: whether the client receives its own messages.
    pub echo: bool,
    /// `resume`: the key of the connection to go on with.
    pub resume: Option<String>,
    /// `recover`: the key of the connection of an earlier process to go on with.
    pub recover: Option<String>,
    /// `clientId`: who the client says that it is.
    pub client_id: Option<String>,
    /// `heartbeatInterval`, cut to its bounds.
    pub heartbeat_interval_ms: Option<u64>,
    /// `remainPresentFor`: how long members stay after a drop, if not as long as what the connection
    /// is attached to counts; never longer. Not cut.
    pub remain_present_for_ms: Option<u64>,
}

impl ConnectQuery {
    /// Reads percent-decoded names and values; of a repeated name the last value counts, and an
    /// empty value is as good as none.
    ///
    /// # Errors
    /// 40017 for a version that is not spoken; 40003 for another format or for an interval that is
    /// no number.
    pub fn parse<N: AsRef<str>, V: AsRef<str>>(pairs: &[(N, V)]) -> Result<Self, ProtocolError> {
        let value = |name: &str| {
            let mut named = pairs.iter().rev().filter(|(key, _)| key.as_ref() == name);
            let value = named.next()?.1.as_ref();
            (!value.is_empty()).then_some(value)
        };
        let text = |name| value(name).map(str::to_owned);
        let number = |name| {
            value(name)
                .map(|text| {
                    let number = text.parse::<u64>();
                    number.map_err(|_| ProtocolError::bad_param(name, text, "use a time in ms"))
                })
                .transpose()
        };
        Ok(Self {
            version: value("v").map(parse_version).transpose()?,
            format: value("format").map_or(Ok(Format::default()), parse_format)?,
            heartbeats: value("heartbeats") != Some("false"),
            echo: value("echo") != Some("false"),
            resume: text("resume"),
            recover: value("recover").map(connection_key),
            client_id: text("clientId"),
            heartbeat_interval_ms: number("heartbeatInterval")?.map(|interval_ms| {
                interval_ms.clamp(HEARTBEAT_INTERVAL_MS_MIN, HEARTBEAT_INTERVAL_MS_MAX)
            }),
            remain_present_for_ms: number("remainPresentFor")?,
        })
    }
}

fn parse_format(name: &str) -> Result<Format, ProtocolError> {
    let remedy = "use json or msgpack";
    Format::from_name(name).ok_or_else(|| ProtocolError::bad_param("format", name, remedy))
}

/// Reads `6` or `1.2`: the fraction is of no consequence.
fn parse_version(text: &str) -> Result<u8, ProtocolError> {
    let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
    let version = major.parse().ok();
    let spoken = version.filter(|major| (1..=VERSION_MAX).contains(major));
    spoken
        .filter(|_| minor.parse::<u8>().is_ok())
        .ok_or_else(|| {
            let bad = ProtocolError::bad_param("v", text, "use a version from 1 to 6");
            ProtocolError { code: 40017, ..bad }
        })
}

/// Takes the connection's key out of a recovery key, which is JSON. Official clients do that
/// themselves; what is not JSON, or without a key, is looked up as it is and found to be unknown.
fn connection_key(text: &str) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct RecoveryKey {
        connection_key: String,
    }
    serde_json::from_str(text)
        .map_or_else(|_| text.to_owned(), |key: RecoveryKey| key.connection_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<ConnectQuery, ProtocolError> {
        let pairs: Vec<_> = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .collect();
        ConnectQuery::parse(&pairs)
    }

    #[test]
    fn an_empty_query_has_defaults() {
        let query = ConnectQuery {
            version: None,
            format: Format::Json,
            heartbeats: true,
            echo: true,
            resume: None,
            recover: None,
            client_id: None,
            heartbeat_interval_ms: None,
            remain_present_for_ms: None,
        };
        assert_eq!(parse(""), Ok(query));
    }

    #[test]
    fn queries_of_official_clients() {
        let js = parse(
            "access_token=t&clientId=u&format=msgpack&heartbeats=false&v=6&agent=ably-js/2.28.0\
             &echo=false&resume=k&heartbeatInterval=15000&remainPresentFor=0",
        );
        let js = js.unwrap();
        assert_eq!((js.version, js.format), (Some(6), Format::MessagePack));
        assert_eq!((js.heartbeats, js.echo), (false, false));
        assert_eq!(js.resume.as_deref(), Some("k"));
        assert_eq!(js.client_id.as_deref(), Some("u"));
        assert_eq!(js.heartbeat_interval_ms, Some(15_000));
        assert_eq!(js.remain_present_for_ms, Some(0));

        let python = parse("accessToken=t&v=5").unwrap();
        assert_eq!((python.version, python.format), (Some(5), Format::Json));
        assert!(python.heartbeats && python.echo);
    }

    #[test]
    fn versions_from_one_to_six_are_spoken() {
        for (text, version) in [("1.0", 1), ("1.2", 1), ("2", 2), ("6", 6)] {
            assert_eq!(parse(&format!("v={text}")).unwrap().version, Some(version));
        }
        for bad in ["0", "0.9", "7", "x", "1.x", "-1", "1.2.3", "1."] {
            let error = parse(&format!("v={bad}")).unwrap_err();
            assert_eq!((error.code, error.status_code), (40017, 400), "{bad}");
        }
    }

    #[test]
    fn intervals_are_clamped_and_must_be_numbers() {
        let interval = |text| parse(&format!("heartbeatInterval={text}"));
        assert_eq!(interval("1").unwrap().heartbeat_interval_ms, Some(5_000));
        assert_eq!(
            interval("9999999").unwrap().heartbeat_interval_ms,
            Some(1_800_000)
        );
        assert_eq!(interval("5s").unwrap_err().code, 40003);
        assert_eq!(parse("remainPresentFor=-1").unwrap_err().code, 40003);
        assert_eq!(parse("format=xml").unwrap_err().code, 40003);
    }

    #[test]
    fn recovery_keys_are_unwrapped() {
        let recover = |text: &str| {
            let query = ConnectQuery::parse(&[("recover", text)]);
            query.unwrap().recover.unwrap()
        };
        let json = r#"{"connectionKey":"a!b","msgSerial":3,"channelSerials":{"c":"s"}}"#;
        assert_eq!(recover(json), "a!b");
        assert_eq!(recover("a!b"), "a!b");
        assert_eq!(recover("{}"), "{}");
    }
}
