//! What the host needs from outside: a way to the other nodes.

use bytes::Bytes;
use futures::future::BoxFuture;
use headcount_model::NodeId;
use headcount_wire::proto::consensus::v1::{Envelope, SnapshotHeader, SnapshotReply};

/// How envelopes and snapshots reach other nodes.
///
/// Whoever implements it hands what arrives there to [`crate::Host::receive`] and
/// [`crate::Host::receive_snapshot`]. Envelopes may be lost, and overtaken by later ones; nothing
/// but speed suffers.
pub trait Peers: Send + Sync + 'static {
    /// Puts `envelope` on its way to the node `to` and returns at once. Fails without effect if
    /// there is no connection or its queue, which must be bounded, is full.
    fn send(&self, to: NodeId, envelope: Envelope) -> Result<(), PeerError>;

    /// Sends a snapshot and waits until the node `to` has taken or refused it. Dropping the future
    /// gives the transfer up. An implementation must end it when the connection makes no progress.
    fn send_snapshot(
        &self,
        to: NodeId,
        header: SnapshotHeader,
        chunks: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<SnapshotReply, PeerError>>;
}

/// Why nothing reached a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// There is no connection to the node at present.
    #[error("not connected")]
    NotConnected,
    /// The queue to the node is full.
    #[error("the queue is full")]
    Full,
    /// The connection broke, or made no progress, before the answer came.
    #[error("the connection broke")]
    Broken,
}
