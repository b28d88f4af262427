//! What is the same for every request: format, version, request id, errors, CORS, telemetry.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::config::Config;
use crate::format::Format;
use crate::ports::ReadError;
use crate::problem::Problem;
use crate::query::Query;
use crate::routes::Shared;
use crate::telemetry;
use crate::version::Version;

/// The header that names the request in answers and logs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The client's protocol version.
const VERSION: &str = "x-ably-version";
/// Longest request id that is taken over from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// As much of a path as a log line holds, in characters.
const PATH_CHARS_MAX: usize = 256;

/// What the exchange found out before the handler runs.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// The decoded query.
    pub(crate) query: Arc<Query>,
    /// The format of the answer.
    pub(crate) format: Format,
    /// The client's protocol version.
    pub(crate) version: Version,
}

impl Exchange {
    /// Returns an answer in the request's format.
    pub(crate) fn answer(&self, value: &impl serde::Serialize) -> Response {
        let mut response = self.format.encode(value).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, self.format.content_type());
        response
    }
}

/// Runs a handler inside all that is the same for every request.
pub(crate) async fn exchange(
    State(shared): State<Arc<Shared>>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let route = match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_owned(),
        None => "unmatched".to_owned(),
    };
    let query = within_bounds(&shared.config, &request)
        .and_then(|()| Query::parse(request.uri().query().unwrap_or("")));
    let request_id = request_id(&shared, query.as_ref().ok());
    let span = tracing::info_span!(
        target: "api",
        "request",
        request_id,
        method = %request.method(),
        path = %request.uri().path().chars().take(PATH_CHARS_MAX).collect::<String>(),
        channel = tracing::field::Empty,
        shard = tracing::field::Empty,
    );
    let preflight = request.method() == Method::OPTIONS;
    let (format, prepared) = prepare(query, request.headers());

    let answer = async {
        if preflight {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        request.extensions_mut().insert(prepared?);
        AssertUnwindSafe(next.run(request))
            .catch_unwind()
            .await
            .map_err(|_| Problem::Panicked)
    };
    let response = answer.instrument(span.clone()).await;
    let mut response = span.in_scope(|| render(response, format));

    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        headers.insert(REQUEST_ID, id);
    }
    allow_all_origins(headers, preflight);
    let took = started.elapsed();
    let status = response.status().as_u16();
    telemetry::answered(&route, status, took);
    span.in_scope(|| tracing::debug!(target: "api", status, ?took, "answered"));
    response
}

/// Judges the sizes of a request's line and headers. The protocols have bounds of their own, which
/// protect memory; these are exact, and tell the client.
fn within_bounds(config: &Config, request: &Request) -> Result<(), Problem> {
    let target = request.uri().path_and_query();
    let bytes = target.map_or(0, |target| target.as_str().len());
    let max = config.target_bytes_max;
    if bytes > max {
        telemetry::rejected("target_too_long");
        return Err(Problem::TargetTooLong { bytes, max });
    }
    let headers = request.headers().iter();
    let bytes = headers.fold(bytes, |sum, (name, value)| {
        sum + name.as_str().len() + value.len()
    });
    let max = config.header_bytes_max;
    if bytes > max {
        telemetry::rejected("header_too_large");
        return Err(Problem::HeadersTooLarge { bytes, max });
    }
    Ok(())
}

/// Reads what is common to all requests. The format is known even if something else is wrong, so
/// that the error can be told in it.
fn prepare(
    query: Result<Query, Problem>,
    headers: &HeaderMap,
) -> (Format, Result<Exchange, Problem>) {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    let query = match query {
        Ok(query) => query,
        Err(problem) => {
            return (
                Format::negotiate(accept, None).unwrap_or_default(),
                Err(problem),
            );
        }
    };
    let format = match Format::negotiate(accept, query.given("format")) {
        Ok(format) => format,
        Err(problem) => return (Format::default(), Err(problem)),
    };
    let version = match (headers.contains_key(VERSION), query.get("v")) {
        // A header that is not text is no version either.
        (true, _) => Version::parse(text(VERSION).unwrap_or("")),
        (false, Some(version)) => Version::parse(version),
        (false, None) => Ok(Version::UNTOLD),
    };
    let exchange = version.map(|version| Exchange {
        query: Arc::new(query),
        format,
        version,
    });
    (format, exchange)
}

/// Returns the format that a request asks for, or JSON if it cannot be told.
pub(crate) fn format_of(uri: &Uri, headers: &HeaderMap) -> Format {
    prepare(Query::parse(uri.query().unwrap_or("")), headers).0
}

/// Takes the client's id for the request, or makes one.
fn request_id(shared: &Shared, query: Option<&Query>) -> String {
    query
        .and_then(|query| query.given("request_id"))
        .filter(|id| id.len() <= REQUEST_ID_BYTES_MAX && id.bytes().all(|b| b.is_ascii_graphic()))
        .map_or_else(
            || URL_SAFE_NO_PAD.encode(shared.ports.entropy.bytes()),
            str::to_owned,
        )
}

/// Puts a problem, wherever it arose, into the request's format.
fn render(response: Result<Response, Problem>, format: Format) -> Response {
    let mut response = response.unwrap_or_else(IntoResponse::into_response);
    let Some(problem) = response.extensions_mut().remove::<Problem>() else {
        return response;
    };
    telemetry::told(problem.code());
    match &problem {
        Problem::Messages(error) => telemetry::frame_refused(error),
        Problem::Panicked => tracing::error!(target: "api", "a handler panicked"),
        Problem::Read(ReadError::Internal { reason }) => {
            tracing::error!(target: "api", reason, "a read failed");
        }
        other => tracing::debug!(target: "api", code = other.code(), %other, "refused"),
    }
    let mut rendered = problem.render(format);
    // What the router knows and the problem does not.
    if let Some(allow) = response.headers_mut().remove(header::ALLOW) {
        rendered.headers_mut().insert(header::ALLOW, allow);
    }
    rendered
}

/// Lets pages of any origin call, and read what answers tell in headers. Nothing here rests on
/// cookies, so this gives nobody's rights away.
pub(crate) fn allow_all_origins(headers: &mut HeaderMap, preflight: bool) {
    let mut set = |name: HeaderName, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    set(
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        "Link, X-Ably-ErrorCode, X-Ably-ErrorMessage, X-Request-Id, Retry-After, \
         Headcount-Source, Headcount-Age-Ms, Headcount-Unheard-Regions",
    );
    if preflight {
        set(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS");
        set(
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "Authorization, Accept, Content-Type, Last-Event-ID, X-Ably-Version, X-Ably-ClientId, \
             X-Ably-Lib, Ably-Agent, X-Requested-With, Cache-Control",
        );
        set(header::ACCESS_CONTROL_MAX_AGE, "86400");
    } else {
        set(header::CACHE_CONTROL, "no-store");
    }
}
