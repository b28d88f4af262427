//! What the listener refuses: one table of public codes, and the one mapping from errors to it.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use headcount_access::AccessError;
use headcount_model::{NameError, WatchError};
use headcount_realtime::FrameError;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::format::Format;
use crate::limits::Exceeded;
use crate::ports::{ReadError, RevokeError};

/// A public code: a stable number, of which clients and people know what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The number (`contract.md` section 3.7; those for 408, 414 and 431 follow its scheme).
    pub code: u32,
    /// The HTTP status that it usually comes with.
    pub status: u16,
    /// What happened.
    pub cause: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

const fn code(code: u32, status: u16, cause: &'static str, remedy: &'static str) -> Code {
    Code {
        code,
        status,
        cause,
        remedy,
    }
}

/// Every code that this listener answers with, ascending.
pub const CODES: &[Code] = &[
    code(
        40000,
        400,
        "The request cannot be read, or something in it has the wrong form.",
        "Check the percent-encoding of the query, and what the message names.",
    ),
    code(
        40001,
        400,
        "The body is not what its content type says, or not an object.",
        "Send JSON, or MessagePack as application/x-msgpack.",
    ),
    code(
        40003,
        400,
        "A parameter or field has a value that is not allowed.",
        "The message names the parameter and what it may be.",
    ),
    code(
        40005,
        400,
        "A key or token cannot be read.",
        "A key is appId.keyId:secret; a token is sent as it was issued, or in base64.",
    ),
    code(
        40009,
        413,
        "The body, or the messages in it, are larger than this listener takes.",
        "Send less; the message names the bound.",
    ),
    code(
        40010,
        400,
        "The channel's name or its qualifier is invalid.",
        "Names are not empty, have no line breaks and do not begin with '[', ':', ',' or a blank.",
    ),
    code(
        40011,
        400,
        "The cursor of a page or of an event stream is damaged or belongs elsewhere.",
        "Start again without a cursor; after an event stream, list the channels once.",
    ),
    code(
        40012,
        400,
        "The clientId is invalid.",
        "Use another one, or none.",
    ),
    code(
        40013,
        400,
        "The data of a message is nothing that a message can carry.",
        "Send text, binary, or JSON in a list or an object.",
    ),
    code(
        40017,
        400,
        "The protocol version is not a number such as 6 or 1.2.",
        "Correct the header X-Ably-Version or the parameter v, or leave them out.",
    ),
    code(
        40100,
        401,
        "The Authorization header has another scheme than Basic and Bearer.",
        "Use one of the two.",
    ),
    code(
        40101,
        401,
        "There is no credential, or it is wrong.",
        "Send Basic with a key, Bearer with a token, or the parameters key or access_token.",
    ),
    code(
        40102,
        401,
        "Two parts of the request name different keys, apps or client ids.",
        "Use one key for the path, the body and the credential.",
    ),
    code(
        40103,
        401,
        "A key came over a connection without TLS, which this node does not allow.",
        "Use TLS, or a token.",
    ),
    code(
        40104,
        401,
        "A token request is stamped more than two minutes away from this node's time.",
        "Set the client's clock, or let it ask GET /time first.",
    ),
    code(
        40105,
        401,
        "A token request was used before.",
        "Sign a new one with a new nonce.",
    ),
    code(
        40131,
        401,
        "The key was revoked.",
        "Use another key; tokens of this one are refused too.",
    ),
    code(
        40140,
        401,
        "This kind of token is not accepted.",
        "Use a token of this cluster or a JWT signed with HS256.",
    ),
    code(40141, 401, "The token was revoked.", "Obtain a new token."),
    code(40142, 401, "The token has expired.", "Obtain a new token."),
    code(
        40143,
        401,
        "No key of this cluster has signed the token.",
        "Check that the token was issued by this cluster and that its key still exists.",
    ),
    code(
        40144,
        401,
        "The JWT is invalid.",
        "Sign with HS256, kid = the key's name, and the claims iat and exp.",
    ),
    code(
        40145,
        401,
        "The token is damaged.",
        "Send it exactly as it was issued.",
    ),
    code(
        40160,
        401,
        "The credential's capability does not permit this.",
        "Use a key or token that is granted the operation on the channel.",
    ),
    code(
        40161,
        401,
        "The operation needs a client that has said who it is.",
        "Use a credential with a clientId.",
    ),
    code(
        40162,
        401,
        "The operation needs a key.",
        "Use Basic authentication.",
    ),
    code(
        40400,
        404,
        "There is nothing at this path.",
        "Compare the path with the API reference.",
    ),
    code(
        40500,
        405,
        "The path exists, but not for this method.",
        "The header Allow names the methods.",
    ),
    code(
        40800,
        408,
        "The request's body did not arrive in time.",
        "Try again.",
    ),
    code(
        41400,
        414,
        "The path and query are longer than this listener takes.",
        "Send credentials and cursors in headers; the message names the bound.",
    ),
    code(
        42910,
        429,
        "A limit of this node is reached.",
        "Try again after the seconds that Retry-After gives, or on another node.",
    ),
    code(
        42913,
        429,
        "There are too many messages on the channel.",
        "Send fewer, or spread them over channels; the message names the bound.",
    ),
    code(
        42914,
        429,
        "The messages on the channel have too many bytes.",
        "Send smaller ones, or spread them over channels; the message names the bound.",
    ),
    code(
        42917,
        429,
        "The app has too many messages on this node.",
        "Send fewer; the message names the bound, which is a setting of the app.",
    ),
    code(
        42918,
        429,
        "The app asks this node too often.",
        "Follow events instead of asking; the message names the bound, a setting of the app.",
    ),
    code(
        43100,
        431,
        "The headers are larger than this listener takes.",
        "Send fewer or shorter ones; the message names the bound.",
    ),
    code(
        50000,
        500,
        "A fault of the node's own.",
        "Try again; report it with the request id, which the node's log names too.",
    ),
    code(
        50003,
        503,
        "The answer could not be had in time, or no majority confirms it.",
        "Try again; consistency=local answers without a majority and tells its age.",
    ),
    code(
        50305,
        503,
        "This node cannot serve the request now.",
        "Try again, or on another node.",
    ),
    code(
        90021,
        429,
        "Too many channels of the app come into use on this node.",
        "Try again after the seconds that Retry-After gives, or on another node.",
    ),
    code(
        91000,
        400,
        "Presence needs a clientId.",
        "Use a credential with a clientId.",
    ),
];

/// Why a request is refused or failed. Becomes the body and headers of `contract.md` section 3.5.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// The credential, or what it may do.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The node has no answer.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The node does not start a watch.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// Tokens are not revoked.
    #[error(transparent)]
    Revoke(#[from] RevokeError),
    /// The app does something too often.
    #[error(transparent)]
    Limit(#[from] Exceeded),
    /// A channel's name breaks a rule.
    #[error("invalid channel name: {0}")]
    Name(NameError),
    /// A channel's name in the path cannot be decoded.
    #[error("invalid channel name: its percent-encoding is broken")]
    MalformedName,
    /// The query cannot be decoded.
    #[error("the percent-encoding of the query is broken")]
    MalformedQuery,
    /// The body is not of its format.
    #[error("the body cannot be read: {reason}")]
    MalformedBody {
        /// What is wrong, and where.
        reason: String,
    },
    /// A parameter's value is not allowed.
    #[error("invalid {name} param: {reason}")]
    Parameter {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        reason: &'static str,
    },
    /// The protocol version cannot be read.
    #[error("invalid protocol version {text:?}")]
    Version {
        /// How it began.
        text: String,
    },
    /// A cursor of enumeration that no page of this walk has given.
    #[error("the cursor is damaged or belongs to another prefix: start the list again")]
    ListCursor,
    /// A cursor of a history or of members that no page of this walk has given.
    #[error("the cursor is damaged or belongs elsewhere: start again without it")]
    HistoryCursor,
    /// The body is no message that could be published.
    #[error("the body cannot be taken: {0}")]
    Messages(#[from] FrameError),
    /// A metachannel that there is not.
    #[error("there is no such metachannel")]
    NoMetachannel,
    /// No such path.
    #[error("there is nothing at this path")]
    NotFound,
    /// No such method at this path.
    #[error("the method is not allowed at this path")]
    MethodNotAllowed,
    /// The body is too large.
    #[error("the body has more than {max} bytes")]
    BodyTooLarge {
        /// The bound.
        max: usize,
    },
    /// The body came too slowly, or the client went away in the middle of it.
    #[error("the body did not arrive within {} ms", after.as_millis())]
    BodyIncomplete {
        /// The bound.
        after: Duration,
    },
    /// The path and query are too long.
    #[error("the path and query have {bytes} bytes, at most {max} are allowed")]
    TargetTooLong {
        /// Their length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// The headers are too large.
    #[error("the headers have {bytes} bytes, at most {max} are allowed")]
    HeadersTooLarge {
        /// Their length.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// Too many event streams.
    #[error("this node serves {max} event streams already")]
    TooManyEventStreams {
        /// The bound.
        max: usize,
    },
    /// Too many connections.
    #[error("this node serves {max} connections already")]
    TooManyConnections {
        /// The bound.
        max: usize,
    },
    /// The node is not a ready member of its cluster yet.
    #[error("this node does not serve yet: {reason}")]
    Unready {
        /// What is missing.
        reason: String,
    },
    /// The listener's own code failed.
    #[error("internal error")]
    Panicked,
}

/// The contract's form of an error.
#[derive(Serialize)]
struct Body {
    error: ErrorBody,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ErrorBody {
    code: u32,
    status_code: u16,
    message: String,
    href: String,
}

impl Problem {
    /// Returns the public code; each is in [`CODES`].
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::Access(error) => error.code(),
            Self::Read(error) => match error {
                ReadError::NoQuorum | ReadError::TimedOut { .. } => 50003,
                ReadError::Unavailable { .. } => 50305,
                ReadError::Overloaded { .. } => 42910,
                ReadError::Internal { .. } => 50000,
            },
            Self::Watch(error) => match error {
                WatchError::Cursor(_) | WatchError::UnknownShard { .. } => 40011,
                WatchError::TooManyWatchers { .. } => 42910,
                WatchError::Unavailable(_) => 50305,
            },
            Self::Revoke(error) => match error {
                RevokeError::Full { .. } => 42910,
                RevokeError::Unconfirmed { .. } => 50003,
            },
            Self::Limit(exceeded) => exceeded.code(),
            Self::Name(_) | Self::MalformedName => 40010,
            Self::MalformedQuery => 40000,
            Self::MalformedBody { .. } => 40001,
            Self::Parameter { .. } => 40003,
            Self::Version { .. } => 40017,
            Self::ListCursor | Self::HistoryCursor => 40011,
            Self::Messages(error) => error.code(),
            Self::NoMetachannel | Self::NotFound => 40400,
            Self::MethodNotAllowed => 40500,
            Self::BodyTooLarge { .. } => 40009,
            Self::BodyIncomplete { .. } => 40800,
            Self::TargetTooLong { .. } => 41400,
            Self::HeadersTooLarge { .. } => 43100,
            Self::TooManyEventStreams { .. } => 42910,
            Self::TooManyConnections { .. } | Self::Unready { .. } => 50305,
            Self::Panicked => 50000,
        }
    }

    /// Returns the HTTP status: the code's, but for what access decides by case.
    pub(crate) fn status(&self) -> StatusCode {
        let status = match self {
            Self::Access(error) => error.status(),
            _ => {
                let code = self.code();
                CODES
                    .binary_search_by_key(&code, |row| row.code)
                    .map_or(500, |index| CODES[index].status)
            }
        };
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Returns what the client is told. Faults of the node's own are for its log.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Read(ReadError::Internal { .. }) => Self::Panicked.to_string(),
            other => other.to_string(),
        }
    }

    /// Returns when to try again, where a limit is the reason.
    fn retry_after(&self) -> Option<Duration> {
        (self.status() == StatusCode::TOO_MANY_REQUESTS).then_some(Duration::from_secs(1))
    }

    /// Returns the error as it stands in a body.
    pub(crate) fn body(&self) -> ErrorBody {
        let code = self.code();
        ErrorBody {
            code,
            status_code: self.status().as_u16(),
            message: self.message(),
            href: format!("https://help.ably.io/error/{code}"),
        }
    }

    /// Returns the answer in a format: body and headers say the same, since some clients read only
    /// the one or the other.
    pub(crate) fn render(&self, format: Format) -> Response {
        let (code, status, message) = (self.code(), self.status(), self.message());
        let body = format.encode(&Body { error: self.body() });
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, format.content_type());
        headers.insert(ERROR_CODE, HeaderValue::from(code));
        headers.insert(ERROR_MESSAGE, header_text(&message));
        if status == StatusCode::UNAUTHORIZED {
            // Not Basic: browsers would ask the user for a password.
            let challenge = HeaderValue::from_static("Bearer realm=\"headcount\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(span) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(span.as_secs()));
        }
        (status, headers, body).into_response()
    }
}

/// The header with the public code.
pub(crate) const ERROR_CODE: HeaderName = HeaderName::from_static("x-ably-errorcode");
/// The header with the message.
pub(crate) const ERROR_MESSAGE: HeaderName = HeaderName::from_static("x-ably-errormessage");

/// The longest message in a header, in characters.
const HEADER_TEXT_CHARS_MAX: usize = 512;

/// Makes text fit for a header: one line of printable ASCII, everything else as question marks.
fn header_text(text: &str) -> HeaderValue {
    let plain = |c: char| {
        if c == ' ' || c.is_ascii_graphic() {
            c
        } else {
            '?'
        }
    };
    let text: String = text
        .chars()
        .take(HEADER_TEXT_CHARS_MAX)
        .map(plain)
        .collect();
    HeaderValue::from_str(text.trim()).expect("printable ASCII is fit for a header")
}

/// The answer of a handler that fails. The format is not known there, so the exchange around it
/// finds the problem here and renders it.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headcount_access::Operation;
    use headcount_model::{CursorError, Rate, ShardId};
    use proptest::prelude::*;

    use crate::limits::Limit;

    /// One of each, with awkward texts.
    fn problems() -> Vec<Problem> {
        let after = Duration::from_secs(1);
        let rate = Rate::over(1, 1);
        let text = || "ü\r\nX-Evil: 1".to_owned();
        vec![
            AccessError::NoCredentials.into(),
            AccessError::UnsupportedScheme.into(),
            AccessError::MalformedClaim { claim: "iat" }.into(),
            AccessError::NotPermitted {
                operation: Operation::ChannelMetadata,
                resource: text(),
            }
            .into(),
            AccessError::TooManyTokenRequests { capacity: 1 }.into(),
            ReadError::NoQuorum.into(),
            ReadError::Unavailable { reason: text() }.into(),
            ReadError::TimedOut { after }.into(),
            ReadError::Overloaded { max: 1 }.into(),
            ReadError::Internal { reason: text() }.into(),
            WatchError::Cursor(CursorError::Damaged).into(),
            WatchError::UnknownShard {
                shard: ShardId(9),
                shards: 4,
            }
            .into(),
            WatchError::TooManyWatchers { max: 1 }.into(),
            WatchError::Unavailable(text()).into(),
            Limit::AppRequests.exceeded(rate).into(),
            Limit::AppMessages.exceeded(rate).into(),
            Limit::AppChannels.exceeded(rate).into(),
            Limit::ChannelMessages.exceeded(rate).into(),
            Limit::ChannelBytes.exceeded(rate).into(),
            RevokeError::Full { max: 1 }.into(),
            RevokeError::Unconfirmed { reason: text() }.into(),
            Problem::Name(NameError::Empty { what: "name" }),
            Problem::MalformedName,
            Problem::MalformedQuery,
            Problem::MalformedBody { reason: text() },
            Problem::Parameter {
                name: "limit",
                reason: "it is not a number",
            },
            Problem::Version { text: text() },
            Problem::ListCursor,
            Problem::HistoryCursor,
            FrameError::UnusableData { field: text() }.into(),
            FrameError::Missing { field: text() }.into(),
            Problem::NoMetachannel,
            Problem::NotFound,
            Problem::MethodNotAllowed,
            Problem::BodyTooLarge { max: 1 },
            Problem::BodyIncomplete { after },
            Problem::TargetTooLong { bytes: 2, max: 1 },
            Problem::HeadersTooLarge { bytes: 2, max: 1 },
            Problem::TooManyEventStreams { max: 1 },
            Problem::TooManyConnections { max: 1 },
            Problem::Unready { reason: text() },
            Problem::Panicked,
        ]
    }

    #[test]
    fn the_table_is_sorted_and_says_what_to_do() {
        assert!(CODES.windows(2).all(|pair| pair[0].code < pair[1].code));
        for row in CODES {
            assert!(
                row.cause.ends_with('.') && row.remedy.ends_with('.'),
                "{row:?}"
            );
            let scheme = u32::from(row.status) == row.code / 100;
            assert!(
                scheme || matches!(row.code, 40000..=40199 | 50000..=50099 | 90021 | 91000),
                "{row:?}"
            );
        }
    }

    #[test]
    fn every_problem_has_its_row() {
        for problem in problems() {
            let row = CODES.iter().find(|row| row.code == problem.code());
            let row = row.unwrap_or_else(|| panic!("{problem} has no row"));
            let by_case = matches!(problem.code(), 40144);
            assert!(
                by_case || row.status == problem.status().as_u16(),
                "{problem}"
            );
        }
    }

    #[test]
    fn body_and_headers_agree() {
        for problem in problems() {
            let response = problem.render(Format::Json);
            assert_eq!(response.headers()[ERROR_CODE], problem.code().to_string());
            assert_eq!(response.status(), problem.status());
            let message = response.headers()[ERROR_MESSAGE].to_str().unwrap();
            assert!(
                !message.is_empty() && !message.contains(['\r', '\n']),
                "{message}"
            );
            let challenged = response.headers().contains_key(header::WWW_AUTHENTICATE);
            assert_eq!(challenged, problem.status() == 401);
        }
    }

    #[test]
    fn faults_of_the_node_are_not_told() {
        let problem = Problem::Read(ReadError::Internal {
            reason: "disk /var".into(),
        });
        assert_eq!(problem.message(), "internal error");
    }

    proptest! {
        #[test]
        fn any_message_fits_a_header(text in ".*") {
            let value = header_text(&text);
            prop_assert!(value.to_str().unwrap().len() <= HEADER_TEXT_CHARS_MAX);
        }
    }
}
