//! The receiving side: what other nodes send, handed on.

use std::sync::Arc;

use futures::StreamExt;
use futures::future::ready;
use futures::stream::{self, BoxStream};
use headcount_model::NodeId;
use headcount_wire::proto::consensus::v1::consensus_server::{Consensus, ConsensusServer};
use headcount_wire::proto::consensus::v1::install_snapshot_request::Part;
use headcount_wire::proto::consensus::v1::{
    ExchangeRequest, ExchangeResponse, InstallSnapshotRequest, InstallSnapshotResponse,
};
use headcount_wire::proto::gossip::v1::gossip_server::{Gossip, GossipServer};
use headcount_wire::proto::gossip::v1::{TellRequest, TellResponse};
use headcount_wire::proto::relay::v1::relay_server::{Relay, RelayServer};
use headcount_wire::proto::relay::v1::{CarryRequest, CarryResponse};
use headcount_wire::{NameReader, WireError, decode_parcels};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status, Streaming};

use super::network::Network;
use super::ports::Inbound;
use super::relayed::RelayParcel;
use super::ways::OpenWay;

/// Largest message between nodes: an append of the greatest size with room for its frame, or a full
/// batch of parcels with long names. No relayed parcel has more.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Most bytes of one snapshot that are gathered before it is refused.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;

/// Makes the services between nodes. They admit peers of the network's own cluster only.
#[must_use]
pub fn services(
    network: &Network,
    inbound: Arc<dyn Inbound>,
) -> (
    ConsensusServer<PeerService>,
    GossipServer<PeerService>,
    RelayServer<PeerService>,
) {
    let service = PeerService {
        network: network.clone(),
        inbound,
    };
    let consensus =
        ConsensusServer::new(service.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let gossip = GossipServer::new(service.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let relay = RelayServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX);
    (consensus, gossip, relay)
}

/// Peer service: takes streams of other nodes.
#[derive(Clone)]
pub struct PeerService {
    network: Network,
    inbound: Arc<dyn Inbound>,
}

impl std::fmt::Debug for PeerService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerService").finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl Consensus for PeerService {
    async fn exchange(
        &self,
        request: Request<Streaming<ExchangeRequest>>,
    ) -> Result<Response<ExchangeResponse>, Status> {
        let from = self.network.admit(request.metadata())?;
        let _stream = self.network.raft_stream(from);
        let mut requests = request.into_inner();
        while let Some(request) = requests.message().await? {
            for envelope in request.envelopes {
                self.inbound.envelope(from, envelope);
            }
        }
        Ok(Response::new(ExchangeResponse {}))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<InstallSnapshotRequest>>,
    ) -> Result<Response<InstallSnapshotResponse>, Status> {
        self.network.admit(request.metadata())?;
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|first| first.part);
        let Some(Part::Header(header)) = first else {
            return Err(Status::invalid_argument(
                "header: a snapshot begins with its header",
            ));
        };
        if header.bytes > SNAPSHOT_BYTES_MAX {
            let reason = format!("header.bytes: {} exceed {SNAPSHOT_BYTES_MAX}", header.bytes);
            return Err(Status::resource_exhausted(reason));
        }
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        while let Some(request) = parts.message().await? {
            let Some(Part::Chunk(chunk)) = request.part else {
                return Err(Status::invalid_argument(
                    "chunk: only chunks follow the header",
                ));
            };
            bytes += chunk.len() as u64;
            if bytes > header.bytes {
                return Err(Status::invalid_argument(
                    "chunk: more bytes than the header said",
                ));
            }
            chunks.push(chunk);
        }
        if bytes != header.bytes || chunks.len() as u64 != header.chunks {
            return Err(Status::data_loss(
                "chunk: fewer bytes or chunks than the header said",
            ));
        }
        let reply = self.inbound.snapshot(header, chunks).await;
        Ok(Response::new(InstallSnapshotResponse {
            reply: Some(reply),
        }))
    }
}

#[tonic::async_trait]
impl Gossip for PeerService {
    type TellStream = BoxStream<'static, Result<TellResponse, Status>>;

    async fn tell(
        &self,
        request: Request<Streaming<TellRequest>>,
    ) -> Result<Response<Self::TellStream>, Status> {
        let from = self.network.admit(request.metadata())?;
        let way = self.network.gossip_opened_from(from);
        let (inbound, requests) = (Arc::clone(&self.inbound), request.into_inner());
        let taken = async move { take_told(&*inbound, from, requests).await };
        Ok(opened(TellResponse {}, way, taken))
    }
}

#[tonic::async_trait]
impl Relay for PeerService {
    type CarryStream = BoxStream<'static, Result<CarryResponse, Status>>;

    async fn carry(
        &self,
        request: Request<Streaming<CarryRequest>>,
    ) -> Result<Response<Self::CarryStream>, Status> {
        let from = self.network.admit(request.metadata())?;
        let way = self.network.relay_opened_from(from);
        let (inbound, requests) = (Arc::clone(&self.inbound), request.into_inner());
        let taken = async move { take_relayed(&*inbound, from, requests).await };
        Ok(opened(CarryResponse {}, way, taken))
    }
}

/// Answers a peer's stream with `first`, by which it knows that it was taken, and lets `taken` take
/// what comes on it, apart from the response: that is polled only while the peer has room for more
/// of it. The way is open until then.
fn opened<T: Send + 'static>(
    first: T,
    way: OpenWay,
    taken: impl Future<Output = Result<(), Status>> + Send + 'static,
) -> Response<BoxStream<'static, Result<T, Status>>> {
    let (ended, end) = oneshot::channel();
    tokio::spawn(async move {
        let taken = taken.await;
        drop(way);
        if let Err(status) = taken {
            // Nobody waits for it if the connection is what broke.
            ended.send(status).ok();
        }
    });
    let first = stream::once(ready(Ok(first)));
    let failed = stream::once(end).filter_map(|end| ready(end.ok().map(Err)));
    Response::new(first.chain(failed).boxed())
}

/// Hands on what is told on a stream, until it ends.
async fn take_told(
    inbound: &dyn Inbound,
    from: NodeId,
    mut requests: Streaming<TellRequest>,
) -> Result<(), Status> {
    let mut names = NameReader::default();
    while let Some(request) = requests.message().await? {
        let parcels = decode_parcels(request, &mut names).map_err(|error| malformed(&error))?;
        for parcel in parcels {
            inbound.parcel(from, parcel);
        }
    }
    Ok(())
}

/// Hands on what comes on a stream, until it ends.
async fn take_relayed(
    inbound: &dyn Inbound,
    from: NodeId,
    mut requests: Streaming<CarryRequest>,
) -> Result<(), Status> {
    while let Some(request) = requests.message().await? {
        for parcel in request.parcels {
            let parcel = RelayParcel::try_from(parcel).map_err(|error| malformed(&error))?;
            inbound.relayed(from, parcel);
        }
    }
    Ok(())
}

fn malformed(error: &WireError) -> Status {
    Status::invalid_argument(error.to_string())
}
