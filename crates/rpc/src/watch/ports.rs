//! What the feed service needs from the node that it belongs to.

use std::fmt;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use headcount_model::{AppId, WatchError, WatchFilter, WatchItem};

/// The node's feeds.
pub trait Watches: Send + Sync + 'static {
    /// Starts a watch after `cursor` (a token of [`headcount_model::Cursor`]), or at the present.
    ///
    /// The stream is read only when the watcher can be written to, and must keep no queue that
    /// grows meanwhile. It tells [`WatchItem::Position`] now and then while nothing happens, and
    /// ends after [`WatchItem::End`]. When dropped, it costs nothing more.
    fn watch(
        &self,
        filter: WatchFilter,
        cursor: Option<String>,
    ) -> BoxFuture<'_, Result<BoxStream<'static, WatchItem>, WatchError>>;
}

/// Who may watch.
pub trait Admission: Send + Sync + 'static {
    /// Admits to the app whose channels the bearer of `authorization` may watch: the credential must
    /// permit `subscribe` on `[meta]channel.lifecycle`.
    ///
    /// `authorization` is the value of the metadata of that name, as in HTTP.
    ///
    /// # Errors
    /// [`Denied`], with what the caller is to be told.
    fn admit_watcher<'a>(
        &'a self,
        authorization: &'a str,
    ) -> BoxFuture<'a, Result<Admitted, Denied>>;
}

/// A watcher who was admitted.
pub struct Admitted {
    /// The app whose channels it may watch.
    pub app: AppId,
    /// Resolves with what the watcher is told once its credential is good no more, because it
    /// expired or was revoked.
    pub ended: BoxFuture<'static, String>,
}

impl fmt::Debug for Admitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admitted")
            .field("app", &self.app)
            .finish_non_exhaustive()
    }
}

/// Why a watcher was not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The credential is malformed, unknown, expired or revoked.
    #[error("{0}")]
    Unauthenticated(String),
    /// The credential is good and does not permit watching.
    #[error("{0}")]
    PermissionDenied(String),
}
