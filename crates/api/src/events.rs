//! `GET /events`: lifecycle events as server-sent events, resumable on any node.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use headcount_access::{Credential, Operation};
use headcount_model::{EventKind, EventKinds, WatchEnd, WatchError, WatchFilter, WatchItem};
use http::{HeaderMap, HeaderValue, header};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::credentials;
use crate::exchange::Exchange;
use crate::page::prefix;
use crate::problem::Problem;
use crate::query::Query;
use crate::routes::{Shared, app_of};
use crate::server::{Phase, until};
use crate::sse::Blocks;
use crate::telemetry;

/// The metachannel on which the same events are found, and whose capability they need.
const LIFECYCLE: &str = "[meta]channel.lifecycle";
/// The header by which a reader that reconnects tells where it was.
pub(crate) const LAST_EVENT_ID: &str = "last-event-id";

/// Starts a stream: `prefix` and `kinds` (names of events, separated by commas) choose, the header
/// `Last-Event-ID` or else `cursor` resumes.
pub(crate) async fn events(
    State(shared): State<Arc<Shared>>,
    Extension(exchange): Extension<Exchange>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let credential = credentials::authenticate(&shared, &headers, &exchange.query)?;
    credential.may(Operation::Subscribe, LIFECYCLE)?;
    let filter = WatchFilter {
        app: Some(app_of(&credential)),
        prefix: prefix(&exchange.query)?,
        kinds: kinds(&exchange.query)?,
    };
    let cursor = resume_point(&headers, &exchange.query)?;
    let permit = Arc::clone(&shared.event_streams)
        .try_acquire_owned()
        .map_err(|_| {
            telemetry::rejected("event_streams");
            Problem::TooManyEventStreams {
                max: shared.config.event_streams_max,
            }
        })?;
    let after = shared.config.read_timeout;
    let watch = shared.ports.directory.watch(filter, cursor.clone());
    let items = tokio::time::timeout(after, watch)
        .await
        .unwrap_or_else(|_| {
            let reason = format!("it did not start within {} ms", after.as_millis());
            Err(WatchError::Unavailable(reason))
        })?;
    let telling = Telling::new(&shared, items, credential, cursor, permit);
    let blocks = stream::once(async { Blocks::start().into_bytes() }).chain(telling.blocks());
    let body = Body::from_stream(blocks.map(Ok::<Bytes, std::convert::Infallible>));
    let event_stream = HeaderValue::from_static("text/event-stream");
    Ok(([(header::CONTENT_TYPE, event_stream)], body).into_response())
}

/// Reads `kinds`; none means all.
fn kinds(query: &Query) -> Result<EventKinds, Problem> {
    let Some(text) = query.given("kinds") else {
        return Ok(EventKinds::ALL);
    };
    text.split(',')
        .map(|name| {
            EventKind::from_name(name).ok_or(Problem::Parameter {
                name: "kinds",
                reason: "known are channel.opened, channel.closed, channel.region.active, \
                         channel.region.inactive and channel.occupancy, separated by commas",
            })
        })
        .collect()
}

/// The reader's resume point. The header is the newer one: a browser that reconnects repeats the
/// address with its old parameter.
fn resume_point(headers: &HeaderMap, query: &Query) -> Result<Option<String>, Problem> {
    let damaged = Problem::Watch(WatchError::Cursor(headcount_model::CursorError::Damaged));
    let header = headers
        .get(LAST_EVENT_ID)
        .map(HeaderValue::to_str)
        .transpose();
    let header = header.map_err(|_| damaged)?.filter(|text| !text.is_empty());
    Ok(header.or_else(|| query.given("cursor")).map(str::to_owned))
}

/// One stream being told. Nothing is buffered here: the connection asks for the next blocks when it
/// has room, and a reader who asks too late is ended by the node's bound on its watch.
struct Telling {
    shared: Arc<Shared>,
    items: BoxStream<'static, WatchItem>,
    credential: Credential,
    /// When the credential ends.
    expires: Option<Instant>,
    heartbeat: Interval,
    phase: watch::Receiver<Phase>,
    revoked: watch::Receiver<u64>,
    /// The newest resume point that the reader has, for an end that comes from this side.
    cursor: Option<String>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
    _entered: telemetry::Entered,
}

impl Telling {
    fn new(
        shared: &Arc<Shared>,
        items: BoxStream<'static, WatchItem>,
        credential: Credential,
        cursor: Option<String>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let now_ms = shared.ports.clock.wall().0;
        let expires = credential.expires_at_ms().map(|expires_at_ms| {
            Instant::now() + Duration::from_millis(expires_at_ms.saturating_sub(now_ms))
        });
        let every = shared.config.heartbeat_interval;
        let mut heartbeat = tokio::time::interval_at(Instant::now() + every, every);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            shared: Arc::clone(shared),
            items,
            credential,
            expires,
            heartbeat,
            phase: shared.phase.clone(),
            revoked: shared.ports.access.revoked(),
            cursor,
            ended: false,
            _permit: permit,
            _entered: telemetry::event_streams.enter(),
        }
    }

    fn blocks(self) -> impl futures::Stream<Item = Bytes> + Send + 'static {
        stream::unfold(self, |mut telling| async {
            if telling.ended {
                return None;
            }
            let blocks = telling.next().await;
            Some((blocks.into_bytes(), telling))
        })
    }

    /// Waits for the next thing to tell.
    async fn next(&mut self) -> Blocks {
        let expires = self.expires;
        let expiry = async {
            match expires {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = until(&mut self.phase, Phase::Draining) => {
                let message = "This node shuts down: resume on another.";
                self.end("shutdown", message)
            }
            () = expiry => {
                self.end("token_expired", "The token has expired (40142): resume with a new one.")
            }
            // Before the events, of which there may always be more.
            Ok(()) = self.revoked.changed() => self.check(),
            item = self.items.next() => match item {
                Some(item) => self.tell(item),
                None => self.end("unavailable", "The node ended the watch: resume here or elsewhere."),
            },
            _ = self.heartbeat.tick() => self.check(),
        }
    }

    /// Shows that the stream lives, or ends it if the credential was revoked.
    fn check(&mut self) -> Blocks {
        match self.shared.ports.access.check(&self.credential) {
            Ok(()) => {
                let mut blocks = Blocks::default();
                blocks.heartbeat();
                blocks
            }
            Err(error) => self.end("revoked", &format!("{error} ({}).", error.code())),
        }
    }

    fn tell(&mut self, item: WatchItem) -> Blocks {
        let mut blocks = Blocks::default();
        match item {
            WatchItem::Events { events, cursor } => {
                telemetry::events_total.count(events.len() as u64);
                let last = events.len().saturating_sub(1);
                for (index, event) in events.iter().enumerate() {
                    let resume = (index == last).then_some(cursor.as_str());
                    blocks.event(&event.event, resume);
                }
                self.cursor = Some(cursor);
            }
            WatchItem::Gap {
                shard,
                region,
                from: _,
                cursor,
            } => {
                blocks.gap(shard, region.as_ref(), &cursor);
                self.cursor = Some(cursor);
            }
            WatchItem::Position { cursor } => {
                blocks.position(&cursor);
                self.cursor = Some(cursor);
            }
            WatchItem::End { reason, cursor } => {
                self.cursor = Some(cursor);
                return self.end(reason.as_str(), end_message(reason));
            }
        }
        blocks
    }

    fn end(&mut self, reason: &'static str, message: &str) -> Blocks {
        self.ended = true;
        telemetry::event_stream_ended(reason);
        let mut blocks = Blocks::default();
        blocks.end(reason, message, self.cursor.as_deref());
        blocks
    }
}

/// Counts the readers who left.
impl Drop for Telling {
    fn drop(&mut self) {
        if !self.ended {
            telemetry::event_stream_ended("left");
        }
    }
}

fn end_message(reason: WatchEnd) -> &'static str {
    match reason {
        WatchEnd::TooSlow => "Events came faster than they were read: resume from this id.",
        WatchEnd::Moved => {
            "This node no longer serves these channels: resume from this id on another."
        }
        WatchEnd::Unavailable => "Missing events cannot be read now: resume from this id later.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_the_contracts_names() {
        let parse = |text: &str| kinds(&Query::parse(text).unwrap());
        assert_eq!(parse("").unwrap(), EventKinds::ALL);
        let two = parse("kinds=channel.opened,channel.region.active").unwrap();
        assert!(two.contains(EventKind::Opened) && two.contains(EventKind::RegionActive));
        assert!(!two.contains(EventKind::Closed));
        for bad in ["kinds=opened", "kinds=channel.opened,", "kinds=,"] {
            assert_eq!(parse(bad).unwrap_err().code(), 40003, "{bad}");
        }
    }

    #[test]
    fn the_header_is_newer_than_the_parameter() {
        let query = Query::parse("cursor=old").unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(
            resume_point(&headers, &query).unwrap().as_deref(),
            Some("old")
        );
        headers.insert(LAST_EVENT_ID, HeaderValue::from_static(""));
        assert_eq!(
            resume_point(&headers, &query).unwrap().as_deref(),
            Some("old")
        );
        headers.insert(LAST_EVENT_ID, HeaderValue::from_static("new"));
        assert_eq!(
            resume_point(&headers, &query).unwrap().as_deref(),
            Some("new")
        );
        headers.insert(LAST_EVENT_ID, HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(resume_point(&headers, &query).unwrap_err().code(), 40011);
    }
}
