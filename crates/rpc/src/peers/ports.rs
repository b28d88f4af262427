//! What the receiving side needs from outside.

use bytes::Bytes;
use futures::future::BoxFuture;
use headcount_model::NodeId;
use headcount_wire::Parcel;
use headcount_wire::proto::consensus::v1::{Envelope, SnapshotHeader, SnapshotReply};

use super::relayed::RelayParcel;

/// Where what other nodes send goes. Calls must not block: whoever cannot take more drops it.
pub trait Inbound: Send + Sync + 'static {
    /// A raft envelope came.
    fn envelope(&self, from: NodeId, envelope: Envelope);

    /// A parcel of counts came.
    fn parcel(&self, from: NodeId, parcel: Parcel);

    /// A relayed parcel came, in the order in which it was carried. The stage that it is for misses
    /// one that is dropped by its number, and asks for a new stream.
    fn relayed(&self, from: NodeId, parcel: RelayParcel);

    /// A snapshot came in full.
    fn snapshot(
        &self,
        header: SnapshotHeader,
        chunks: Vec<Bytes>,
    ) -> BoxFuture<'static, SnapshotReply>;
}
