//! What the receiving side needs from outside.

use bytes::Bytes;
use futures::future::BoxFuture;
use headcount_model::NodeId;
use headcount_wire::Parcel;
use headcount_wire::proto::consensus::v1::{Envelope, SnapshotHeader, SnapshotReply};

/// Where what other nodes send goes. Calls must not block: whoever cannot take more drops it.
pub trait Inbound: Send + Sync + 'static {
    /// A raft envelope came.
    fn envelope(&self, from: NodeId, envelope: Envelope);

    /// A parcel of counts came.
    fn parcel(&self, from: NodeId, parcel: Parcel);

    /// A snapshot came in full.
    fn snapshot(
        &self,
        header: SnapshotHeader,
        chunks: Vec<Bytes>,
    ) -> BoxFuture<'static, SnapshotReply>;
}
