//! What the reporter service needs of the node that it runs in.

use std::future::Future;

use futures::future::BoxFuture;
use headcount_model::{AppId, Hello, Refusal, ReportAck, ReportBatch, SessionError, Welcome};

/// Judges credentials.
pub trait Authorize: Send + Sync + 'static {
    /// What a credential permits.
    type Grant: Grant;

    /// Judges the metadata `authorization` of a call, as it was sent.
    ///
    /// # Errors
    /// [`Denied`] with what the edge is told.
    fn authorize(&self, authorization: Option<&str>) -> Result<Self::Grant, Denied>;
}

/// What a credential permits to an edge.
pub trait Grant: Send + Sync + 'static {
    /// The app that it speaks for.
    fn app(&self) -> &AppId;

    /// Returns whether it has `occupancy-report` on all channels, so that nobody need ask for each.
    fn may_report_all(&self) -> bool;

    /// Returns whether it has `occupancy-report` on the channel. Asked for every item.
    fn may_report(&self, channel: &str) -> bool;

    /// Resolves with what the edge is told once the credential is good no more, because it expired
    /// or was revoked.
    fn ended(&self) -> BoxFuture<'static, String>;
}

/// Why a credential opens nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Missing, unreadable, wrong, expired or revoked.
    #[error("{0}")]
    Unauthenticated(String),
    /// Good, but for nothing here.
    #[error("{0}")]
    PermissionDenied(String),
}

/// Opens sessions of edges.
pub trait Sessions: Send + Sync + 'static {
    /// One session, on one stream.
    type Session: Session;

    /// Opens a session, or goes on with one.
    fn open(
        &self,
        app: AppId,
        hello: Hello,
    ) -> impl Future<Output = Result<(Welcome, Self::Session), SessionError>> + Send;
}

/// A session on its stream. Dropping it means that the stream broke.
pub trait Session: Send + 'static {
    /// Counts a batch. Called again only once it has answered.
    fn apply(
        &mut self,
        batch: ReportBatch,
    ) -> impl Future<Output = Result<ReportAck, SessionError>> + Send;

    /// Says that items of a batch were refused, here or by [`Self::apply`]; there is at least one.
    /// The edge is told by the acknowledgement.
    fn refused(&self, refusals: &[Refusal]);

    /// Resolves when the stream is to be closed; until then it may be dropped and called again.
    fn closed(&mut self) -> impl Future<Output = SessionError> + Send;

    /// Ends the session with everything that it attached.
    fn goodbye(self) -> impl Future<Output = ()> + Send;
}
