//! Consensus and gossip over the network between nodes.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use headcount_consensus::{Host, PeerError, Peers};
use headcount_model::{NodeId, ShardId};
use headcount_placement::GroupId;
use headcount_rpc::peers::{Inbound, Network, RelayMessage, RelayParcel, SendError};
use headcount_wire::proto::consensus::v1::envelope::Body;
use headcount_wire::proto::consensus::v1::{Envelope, SnapshotHeader, SnapshotReply};
use headcount_wire::{Parcel, ParcelBody};
use tokio::sync::watch;

use crate::control::Heard;
use crate::gateway::GatewayHandle;
use crate::relay::{RelayHandle, RelayMail};
use crate::shard::Mail;
use crate::shards::Shards;

/// The way of raft's envelopes to other nodes.
pub(crate) struct RaftPeers {
    network: Network,
    /// Known once the node has a cluster.
    shards: watch::Receiver<Option<Shards>>,
}

impl RaftPeers {
    pub(crate) fn new(network: Network, shards: watch::Receiver<Option<Shards>>) -> Self {
        Self { network, shards }
    }

    /// Completes an envelope of a shard's replica.
    fn complete(&self, envelope: &mut Envelope) {
        let shards = self.shards.borrow();
        let shard = GroupId::from_number(envelope.group).and_then(GroupId::shard);
        if let (Some(shards), Some(shard), Some(body)) =
            (shards.as_ref(), shard, &mut envelope.body)
            && let Some(hosted) = shards.all().get(&shard)
        {
            hosted.complete(envelope.to, body);
        }
    }
}

fn peer_error(error: SendError) -> PeerError {
    match error {
        SendError::NotConnected => PeerError::NotConnected,
        SendError::Full => PeerError::Full,
        SendError::Broken => PeerError::Broken,
    }
}

impl Peers for RaftPeers {
    fn send(&self, to: NodeId, mut envelope: Envelope) -> Result<(), PeerError> {
        self.complete(&mut envelope);
        self.network.send_envelope(to, envelope).map_err(peer_error)
    }

    fn send_snapshot(
        &self,
        to: NodeId,
        header: SnapshotHeader,
        chunks: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<SnapshotReply, PeerError>> {
        async move {
            self.network
                .send_snapshot(to, header, chunks)
                .await
                .map_err(peer_error)
        }
        .boxed()
    }
}

/// Where what other nodes send goes.
pub(crate) struct NodeInbound {
    pub(crate) host: Host,
    pub(crate) control: Heard,
    /// Known once the node has a cluster.
    pub(crate) shards: watch::Receiver<Option<Shards>>,
    pub(crate) gateway: GatewayHandle,
    pub(crate) relay: RelayHandle,
}

impl NodeInbound {
    fn shard(&self, shard: ShardId) -> Option<crate::shards::Hosted> {
        self.shards.borrow().as_ref()?.get(shard)
    }
}

impl Inbound for NodeInbound {
    fn envelope(&self, from: NodeId, envelope: Envelope) {
        match (GroupId::from_number(envelope.group), &envelope.body) {
            (Some(GroupId::Control), Some(Body::Append(_))) => self.control.hear(),
            (Some(GroupId::Shard(shard)), Some(Body::Append(append))) => {
                let said = append.vote.as_ref().zip(append.committed.as_ref());
                if let (Some((vote, committed)), Some(freshness)) = (said, &append.freshness)
                    && let Some(hosted) = self.shard(shard)
                {
                    hosted.hear(vote.term, *committed, freshness);
                }
            }
            (Some(GroupId::Shard(shard)), Some(Body::AppendReply(reply))) => {
                if let Some(hosted) = self.shard(shard) {
                    hosted.note_moment(envelope.from, reply.moment);
                }
            }
            _ => {}
        }
        self.host.receive(from, envelope);
    }

    fn parcel(&self, _from: NodeId, parcel: Parcel) {
        let shard = parcel.shard;
        if let ParcelBody::Ack(ack) = parcel.body {
            // The gateway reports every shard, held here or not.
            self.gateway
                .input(headcount_gateway::Input::Ack { shard, ack });
        } else if let Some(hosted) = self.shard(shard) {
            hosted.mailbox.post(Mail::Parcel(parcel));
        }
    }

    fn relayed(&self, from: NodeId, parcel: RelayParcel) {
        if let RelayMessage::Gateway(message) = &parcel.message
            && message.node != from
        {
            return tracing::warn!(target: "relay", %from, "a node speaks for another");
        }
        self.relay.post(RelayMail::Parcel(parcel));
    }

    fn snapshot(
        &self,
        header: SnapshotHeader,
        chunks: Vec<Bytes>,
    ) -> BoxFuture<'static, SnapshotReply> {
        let host = self.host.clone();
        async move { host.receive_snapshot(header, chunks).await }.boxed()
    }
}

/// Keeps the inbound side shareable.
impl NodeInbound {
    pub(crate) fn shared(self) -> Arc<dyn Inbound> {
        Arc::new(self)
    }
}
