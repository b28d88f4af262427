//! What the hand-over service needs of its node, and the words of its calls.

use futures::future::BoxFuture;
use headcount_model::{AppId, ConnectionId, Incarnation, NodeId};

/// Which connection is to be ended.
#[derive(Clone, PartialEq, Eq)]
pub struct ReleaseAsk {
    /// Its app.
    pub app: AppId,
    /// Its id.
    pub connection: ConnectionId,
    /// What its client alone knows. Not checked yet.
    pub secret: String,
    /// Who has gone on.
    pub client: Client,
}

impl std::fmt::Debug for ReleaseAsk {
    /// Leaves the secret out: with it, anybody may take the connection over.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReleaseAsk")
            .field("app", &self.app)
            .field("connection", &self.connection)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// Who a client may say that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// Anybody.
    Any,
    /// This one and no other.
    Named(String),
    /// Nobody.
    Anonymous,
}

/// What became of a connection. Nothing of it counts any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseReply {
    /// It was ended.
    Released,
    /// There is none with that secret, or it is somebody else's.
    Unknown,
}

/// Why a connection was not ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReleased {
    /// Not now: ask again.
    #[error("{0}")]
    Unavailable(String),
    /// The question or the answer breaks a rule: the nodes do not understand each other.
    #[error("{0}")]
    Invalid(String),
}

/// The node behind the service.
pub trait HandOverPort: Send + Sync + 'static {
    /// Ends a connection, and answers once nothing of it counts.
    fn release(&self, ask: ReleaseAsk) -> BoxFuture<'_, Result<ReleaseReply, NotReleased>>;

    /// Takes note that another node has no realtime clients any more in that life of it.
    fn left(&self, node: NodeId, incarnation: Incarnation);
}
