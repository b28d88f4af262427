//! The event feed of the reporter port: `proto/headcount/feed/v1` over the node's feeds.
//!
//! The service keeps no queue. An item is taken from the node when the connection has room for it,
//! so a watcher that does not read holds a place in the node's rings and nothing else; the node
//! decides when it has fallen too far behind.

mod ports;
mod telemetry;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use headcount_model::{WatchError, WatchItem};
use headcount_wire::proto::feed::v1 as pb;
use headcount_wire::proto::feed::v1::feed_server::{Feed, FeedServer};
use headcount_wire::{put_watch_item, take_watch_request};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};

pub use ports::{Admission, Admitted, Denied, Watches};
pub use telemetry::describe;

/// Feed service configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Watchers that the port serves at once (default 1,024). Each costs a place per shard, about
    /// 18 kB with 64 shards, and the connection's buffers. Too low and watchers are refused; too
    /// high and a burst of events goes out late to all of them.
    pub watchers_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            watchers_max: 1_024,
        }
    }
}

/// The feed service; see [`WatchService::into_server`].
pub struct WatchService {
    watches: Arc<dyn Watches>,
    admission: Arc<dyn Admission>,
    config: Config,
    places: Arc<Semaphore>,
}

impl fmt::Debug for WatchService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchService")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl WatchService {
    /// Returns a service of the node's feeds for those who are admitted.
    #[must_use]
    pub fn new(config: Config, watches: Arc<dyn Watches>, admission: Arc<dyn Admission>) -> Self {
        let places = Arc::new(Semaphore::new(config.watchers_max));
        Self {
            watches,
            admission,
            config,
            places,
        }
    }

    /// Returns what a tonic server takes.
    #[must_use]
    pub fn into_server(self) -> FeedServer<Self> {
        FeedServer::new(self)
    }

    async fn start(&self, request: Request<pb::WatchRequest>) -> Result<Started, Refusal> {
        let authorization = request.metadata().get("authorization");
        let authorization = authorization.and_then(|value| value.to_str().ok()).ok_or_else(|| {
            let reason = "metadata authorization is missing: send Basic with a key or Bearer with \
                          a token";
            Refusal("unauthenticated", Status::unauthenticated(reason))
        })?;
        let Admitted { app, ended } = self.admission.admit_watcher(authorization).await?;
        let (mut filter, cursor) = take_watch_request(request.into_inner())
            .map_err(|fault| Refusal("invalid", Status::invalid_argument(fault.to_string())))?;
        filter.app = Some(app);
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            Refusal::from(WatchError::TooManyWatchers {
                max: self.config.watchers_max,
            })
        })?;
        let items = self.watches.watch(filter, cursor).await?;
        Ok(Started {
            items,
            credential_ended: ended,
            _place: place,
            _watching: telemetry::Watching::begin(),
        })
    }
}

#[tonic::async_trait]
impl Feed for WatchService {
    type WatchStream = BoxStream<'static, Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let started = self
            .start(request)
            .await
            .map_err(|Refusal(reason, status)| {
                telemetry::refused(reason);
                status
            })?;
        let responses = stream::unfold(Some(started), |started| async {
            let mut started = started?;
            let item = tokio::select! {
                biased;
                reason = &mut started.credential_ended => {
                    telemetry::credential_ended();
                    let what = format!("{reason}; resume with a new credential");
                    return Some((Err(Status::unauthenticated(what)), None));
                }
                item = started.items.next() => item?,
            };
            telemetry::sent(&item);
            let response = put_watch_item(&item);
            let ended = matches!(item, WatchItem::End { .. });
            Some((Ok(response), (!ended).then_some(started)))
        });
        Ok(Response::new(responses.boxed()))
    }
}

/// A watch that started, with its place among the node's watchers.
struct Started {
    items: BoxStream<'static, WatchItem>,
    credential_ended: BoxFuture<'static, String>,
    _place: OwnedSemaphorePermit,
    _watching: telemetry::Watching,
}

/// A watch that did not start: the metric's label and what the caller is told.
struct Refusal(&'static str, Status);

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unauthenticated(reason) => {
                Self("unauthenticated", Status::unauthenticated(reason))
            }
            Denied::PermissionDenied(reason) => {
                Self("permission_denied", Status::permission_denied(reason))
            }
        }
    }
}

impl From<WatchError> for Refusal {
    fn from(error: WatchError) -> Self {
        let reason = error.to_string();
        match error {
            WatchError::Cursor(_) | WatchError::UnknownShard { .. } => {
                Self("invalid", Status::invalid_argument(reason))
            }
            WatchError::TooManyWatchers { .. } => {
                Self("too_many", Status::resource_exhausted(reason))
            }
            WatchError::Unavailable(_) => Self("unavailable", Status::unavailable(reason)),
        }
    }
}
