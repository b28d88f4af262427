//! The sending side: links to all other nodes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use headcount_model::{Incarnation, NodeId};
use headcount_net::Dialer;
use headcount_wire::proto::consensus::v1::consensus_client::ConsensusClient;
use headcount_wire::proto::consensus::v1::install_snapshot_request::Part;
use headcount_wire::proto::consensus::v1::{
    Envelope, ExchangeRequest, InstallSnapshotRequest, SnapshotHeader, SnapshotReply,
};
use headcount_wire::proto::gossip::v1::gossip_client::GossipClient;
use headcount_wire::proto::relay::v1 as relay;
use headcount_wire::proto::relay::v1::relay_client::RelayClient;
use headcount_wire::{NameWriter, Parcel, encode_parcels};
use prost::Message as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use super::handshake::Identity;
use super::link::{BatchStream, Outlet, Refused, outlet, weighed_outlet};
use super::relayed::RelayParcel;
use super::server::MESSAGE_BYTES_MAX;
use super::ways::{Breakable, Breaks, Direction, OpenWay, Ways};
use crate::telemetry;

/// Settings of a [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Most raft envelopes that wait for one peer; more are refused. Default 4,096.
    pub envelopes_max: usize,
    /// Most parcels of counts that wait for one peer; more are dropped and told again by whoever
    /// told them. Default 8,192.
    pub parcels_max: usize,
    /// Most relayed parcels that wait for one peer; more are refused, and what they held is told
    /// anew or lost. Default 8,192.
    pub relay_max: usize,
    /// Most bytes of relayed parcels that wait for one peer; more are refused likewise. Default
    /// 128 MiB: a node's members as they are told to one peer when a way was opened. Too low: large
    /// sets are never told in full. Too high costs memory while a peer is slow.
    pub relay_bytes_max: usize,
    /// Most items in one message. Default 512.
    pub batch_max: usize,
    /// How long a connection may take to come about before the next one is tried. Default
    /// 500 ms: two round trips to the farthest region of the timing `wan`.
    pub connect_timeout: Duration,
    /// How often an idle connection is probed, and how long the answer may take: what bounds how
    /// long a dead way goes unnoticed. Default 1 s and 2 s.
    pub keep_alive: (Duration, Duration),
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            envelopes_max: 4_096,
            parcels_max: 8_192,
            relay_max: 8_192,
            relay_bytes_max: 128 << 20,
            batch_max: 512,
            connect_timeout: Duration::from_millis(500),
            keep_alive: (Duration::from_secs(1), Duration::from_secs(2)),
        }
    }
}

/// Most links; nodes that introduce themselves beyond that are not answered before the control group
/// has told of them.
const LINKS_MAX: usize = 1_024;

/// Peer: another node, and the way there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// The life that it was in when it had this address.
    pub incarnation: Incarnation,
    /// Where it is reached, `host:port`.
    pub address: String,
    /// The one-way delay that is emulated on the way there.
    pub delay: Duration,
}

/// Why nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no connection to the node at present.
    #[error("not connected")]
    NotConnected,
    /// The queue to the node is full, or the item is larger than a message may be.
    #[error("the queue is full")]
    Full,
    /// The connection broke before the answer came.
    #[error("the connection broke")]
    Broken,
}

impl From<Refused> for SendError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotConnected => Self::NotConnected,
            Refused::Full => Self::Full,
        }
    }
}

/// Network: the ways to all other nodes. A cheap handle.
#[derive(Clone, Debug)]
pub struct Network(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: NetworkConfig,
    dialer: Dialer,
    identity: RwLock<Identity>,
    links: RwLock<BTreeMap<NodeId, Arc<Link>>>,
    /// Written by the streams of envelopes, in both directions, as they begin and end.
    raft_breaks: watch::Sender<Breaks>,
    /// Written by the streams of counts, in both directions, as they open and end.
    gossip_ways: watch::Sender<Ways>,
    /// Likewise by those of relayed parcels.
    relay_ways: watch::Sender<Ways>,
}

/// The ways to one node.
#[derive(Debug)]
struct Link {
    address: String,
    delay: Duration,
    /// As of which life of the node this is its address.
    incarnation: Incarnation,
    /// Whether the node said itself that it is to be reached there.
    introduced: bool,
    channel: Channel,
    raft: Outlet<Envelope>,
    gossip: Outlet<Parcel>,
    relay: Outlet<relay::Parcel>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Network {
    /// Makes a network without peers.
    #[must_use]
    pub fn new(config: NetworkConfig, dialer: Dialer, identity: Identity) -> Self {
        let (identity, links) = (RwLock::new(identity), RwLock::default());
        Self(Arc::new(Inner {
            config,
            dialer,
            identity,
            links,
            raft_breaks: watch::Sender::default(),
            gossip_ways: watch::Sender::default(),
            relay_ways: watch::Sender::default(),
        }))
    }

    /// Changes what is told of this node on streams opened from now on.
    pub fn identify(&self, identity: Identity) {
        *self
            .0
            .identity
            .write()
            .unwrap_or_else(PoisonError::into_inner) = identity;
    }

    /// Returns what is told of this node.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.0
            .identity
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Makes `peers` the nodes that can be reached. Ways that stay the same are not touched; neither
    /// are those to nodes that introduced themselves and of which `knows` says that the caller has
    /// not heard. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The peer whose address cannot be used, with the reason; the others are set.
    pub fn set_peers(
        &self,
        peers: impl IntoIterator<Item = Peer>,
        knows: impl Fn(NodeId) -> bool,
    ) -> Result<(), (NodeId, String)> {
        let mut links = self.0.links.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *links);
        let mut fault = Ok(());
        for peer in peers {
            let (node, same) = (peer.node, before.remove(&peer.node));
            let same = same.filter(|link| {
                let is_newer = link.introduced && link.incarnation > peer.incarnation;
                is_newer || link.address == peer.address && link.delay == peer.delay
            });
            match same.map_or_else(|| self.open(peer, false).map(Arc::new), Ok) {
                Ok(link) => {
                    links.insert(node, link);
                }
                Err(reason) => fault = Err((node, reason)),
            }
        }
        let unheard = |(node, link): &(NodeId, Arc<Link>)| link.introduced && !knows(*node);
        links.extend(before.into_iter().filter(unheard));
        fault
    }

    /// Opens a way back to a node that this one has not heard of, or not of its present life. Whoever
    /// leads the control group may be such a node; if it were not answered before its log has told
    /// of it, it could never tell.
    fn introduce(&self, node: NodeId, incarnation: Incarnation, address: &str) {
        let is_known = |links: &BTreeMap<NodeId, Arc<Link>>| {
            let known = links.get(&node);
            known.is_some_and(|link| link.address == address || link.incarnation >= incarnation)
        };
        if is_known(&self.0.links.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let mut links = self.0.links.write().unwrap_or_else(PoisonError::into_inner);
        if is_known(&links) {
            return;
        }
        if links.len() >= LINKS_MAX {
            tracing::warn!(target: "rpc", %node, address, "too many nodes introduce themselves");
            return;
        }
        let peer = Peer {
            node,
            incarnation,
            address: address.to_owned(),
            delay: Duration::ZERO,
        };
        match self.open(peer, true) {
            Ok(link) => {
                let address = &link.address;
                tracing::info!(target: "rpc", %node, %incarnation, address, "introduced itself");
                links.insert(node, Arc::new(link));
            }
            Err(reason) => tracing::warn!(target: "rpc", %node, reason, "a useless introduction"),
        }
    }

    /// Puts an envelope on its way.
    ///
    /// # Errors
    /// [`SendError`] if it cannot be queued; nothing was sent then.
    pub fn send_envelope(&self, to: NodeId, envelope: Envelope) -> Result<(), SendError> {
        let link = self.link(to)?;
        link.raft.send(envelope).map_err(|refused| {
            telemetry::peer_refused("raft");
            refused.into()
        })
    }

    /// Puts a parcel on its way. It arrives unless the stream that it is queued for breaks, after
    /// which [`Self::gossip_ways`] has another opening of the way; or unless the peer has no room.
    ///
    /// # Errors
    /// [`SendError`] if it cannot be queued; nothing was sent then.
    pub fn tell(&self, to: NodeId, parcel: Parcel) -> Result<(), SendError> {
        let link = self.link(to)?;
        link.gossip.send(parcel).map_err(|refused| {
            telemetry::peer_refused("gossip");
            refused.into()
        })
    }

    /// Puts a relayed parcel on its way. Parcels arrive in order, or are lost together with
    /// everything after them until the way has another [`Ways::opening`].
    ///
    /// # Errors
    /// [`SendError`] if it cannot be queued; nothing was sent then.
    pub fn carry(&self, to: NodeId, parcel: &RelayParcel) -> Result<(), SendError> {
        let queued = self.link(to).and_then(|link| {
            // A link takes items as soon as it tries to open a stream. What is relayed is too much
            // to be gathered for a peer that may not be there.
            if self.0.relay_ways.borrow().opening_to(to).is_none() {
                return Err(SendError::NotConnected);
            }
            let parcel = relay::Parcel::from(parcel);
            if weigh(&parcel) > MESSAGE_BYTES_MAX {
                return Err(SendError::Full);
            }
            link.relay.send(parcel).map_err(SendError::from)
        });
        queued.inspect_err(|_| telemetry::peer_refused("relay"))
    }

    /// Returns how often the ways of envelopes broke, to be looked at and waited for.
    #[must_use]
    pub fn raft_breaks(&self) -> watch::Receiver<Breaks> {
        self.0.raft_breaks.subscribe()
    }

    /// Notes that a stream of envelopes to or from a node begins.
    pub(super) fn raft_stream(&self, node: NodeId) -> Breakable {
        Breakable::begin(&self.0.raft_breaks, node)
    }

    /// Returns the ways of parcels of counts, to be looked at and waited for.
    #[must_use]
    pub fn gossip_ways(&self) -> watch::Receiver<Ways> {
        self.0.gossip_ways.subscribe()
    }

    /// Notes that a node opened a stream of parcels of counts to this one.
    pub(super) fn gossip_opened_from(&self, node: NodeId) -> OpenWay {
        OpenWay::new(&self.0.gossip_ways, node, Direction::From)
    }

    /// Returns the ways of relayed parcels, to be looked at and waited for.
    #[must_use]
    pub fn relay_ways(&self) -> watch::Receiver<Ways> {
        self.0.relay_ways.subscribe()
    }

    /// Notes that a node opened a stream of relayed parcels to this one.
    pub(super) fn relay_opened_from(&self, node: NodeId) -> OpenWay {
        OpenWay::new(&self.0.relay_ways, node, Direction::From)
    }

    /// Sends a snapshot and waits for what the peer made of it.
    ///
    /// # Errors
    /// [`SendError`] if the peer cannot be reached or the connection broke.
    pub async fn send_snapshot(
        &self,
        to: NodeId,
        header: SnapshotHeader,
        chunks: Vec<Bytes>,
    ) -> Result<SnapshotReply, SendError> {
        let link = self.link(to)?;
        tokio::time::sleep(link.delay).await;
        let parts =
            std::iter::once(Part::Header(header)).chain(chunks.into_iter().map(Part::Chunk));
        let parts = parts.map(|part| InstallSnapshotRequest { part: Some(part) });
        let request = self.signed(futures::stream::iter(parts.collect::<Vec<_>>()));
        let mut client = ConsensusClient::new(link.channel.clone());
        let response = client
            .install_snapshot(request)
            .await
            .map_err(|_| SendError::Broken)?;
        tokio::time::sleep(link.delay).await;
        response.into_inner().reply.ok_or(SendError::Broken)
    }

    /// Returns the channel to a node for calls, with the one-way delay that is emulated.
    #[must_use]
    pub fn channel(&self, to: NodeId) -> Option<(Channel, Duration)> {
        let link = self.link(to).ok()?;
        Some((link.channel.clone(), link.delay))
    }

    /// Puts this node's identity on a request.
    #[must_use]
    pub fn signed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        self.identity().sign(&mut request);
        request
    }

    /// Checks that a request comes from a member of this node's cluster; returns which. It can be
    /// answered from then on, also if this node has not heard of it before. Must be called inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// The status that the caller is to be told.
    pub fn admit(&self, metadata: &MetadataMap) -> Result<NodeId, Status> {
        let identity = self.identity();
        let node = identity.admit(metadata)?;
        if node != identity.node
            && let Some((incarnation, address)) = Identity::introduction(metadata)
        {
            self.introduce(node, incarnation, address);
        }
        Ok(node)
    }

    /// Returns whether counts are exchanged with a node in both directions, as far as is known: that
    /// way it is heard, and can be asked.
    #[must_use]
    pub fn is_connected(&self, to: NodeId) -> bool {
        self.0.gossip_ways.borrow().opening(to).is_some()
    }

    /// Returns how many items wait for all peers together, by stream.
    #[must_use]
    pub fn waiting(&self) -> [(&'static str, usize); 3] {
        let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
        let links = || links.values();
        [
            ("raft", links().map(|link| link.raft.waiting()).sum()),
            ("gossip", links().map(|link| link.gossip.waiting()).sum()),
            ("relay", links().map(|link| link.relay.waiting()).sum()),
        ]
    }

    fn link(&self, to: NodeId) -> Result<Arc<Link>, SendError> {
        let links = self.0.links.read().unwrap_or_else(PoisonError::into_inner);
        links.get(&to).cloned().ok_or(SendError::NotConnected)
    }

    fn open(&self, peer: Peer, introduced: bool) -> Result<Link, String> {
        let Peer {
            node,
            incarnation,
            address,
            delay,
        } = peer;
        let NetworkConfig {
            connect_timeout,
            keep_alive,
            batch_max,
            ..
        } = self.0.config;
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(|error| format!("address {address:?}: {error}"))?;
        let channel = endpoint
            .connect_timeout(connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(keep_alive.0)
            .keep_alive_timeout(keep_alive.1)
            .keep_alive_while_idle(true);
        let channel = match self.0.dialer.connector() {
            None => channel.connect_lazy(),
            Some(connector) => channel.connect_with_connector_lazy(connector),
        };
        let (raft, raft_source) = outlet(self.0.config.envelopes_max);
        let (gossip, gossip_source) = outlet(self.0.config.parcels_max);
        let (relay, relay_source) = weighed_outlet(
            self.0.config.relay_max,
            self.0.config.relay_bytes_max,
            weigh,
        );
        let endings = Endings::of(node, connect_timeout);
        let open_raft = {
            let (network, channel, endings) = (self.clone(), channel.clone(), endings.clone());
            move |batches| exchange(&network, &channel, &endings, batches)
        };
        let open_gossip = {
            let (network, channel, endings) = (self.clone(), channel.clone(), endings.clone());
            move |batches| tell(&network, &channel, &endings, batches)
        };
        let open_relay = {
            let (network, channel) = (self.clone(), channel.clone());
            move |batches| carry(&network, &channel, &endings, batches)
        };
        let tasks = vec![
            tokio::spawn(raft_source.run(delay, batch_max, open_raft)),
            tokio::spawn(gossip_source.run(delay, batch_max, open_gossip)),
            tokio::spawn(relay_source.run(delay, batch_max, open_relay)),
        ];
        Ok(Link {
            address,
            delay,
            incarnation,
            introduced,
            channel,
            raft,
            gossip,
            relay,
            tasks,
        })
    }
}

/// Runs one stream of envelopes; resolves to whether it worked for a while.
fn exchange(
    network: &Network,
    channel: &Channel,
    endings: &Endings,
    batches: BatchStream<Envelope>,
) -> BoxFuture<'static, bool> {
    let mut client =
        ConsensusClient::new(channel.clone()).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let requests = batches.map(|envelopes| {
        telemetry::peer_batch("raft", envelopes.len());
        ExchangeRequest { envelopes }
    });
    let request = network.signed(Requests(requests.boxed()));
    let stream = network.raft_stream(endings.node);
    async move {
        let ended = client.exchange(request).await;
        drop(stream);
        ended.map(drop)
    }
    .map(endings.log("raft"))
    .boxed()
}

/// Runs one stream of parcels; resolves to whether it worked for a while.
fn tell(
    network: &Network,
    channel: &Channel,
    endings: &Endings,
    batches: BatchStream<Parcel>,
) -> BoxFuture<'static, bool> {
    let mut client =
        GossipClient::new(channel.clone()).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let mut names = NameWriter::default();
    let requests = batches.map(move |parcels| {
        telemetry::peer_batch("gossip", parcels.len());
        encode_parcels(&parcels, &mut names)
    });
    let request = network.signed(Requests(requests.boxed()));
    let (ways, to) = (network.0.gossip_ways.clone(), endings.node);
    async move {
        let responses = client.tell(request).await?.into_inner();
        hold_open(&ways, to, responses).await
    }
    .map(endings.log("gossip"))
    .boxed()
}

/// Runs one stream of relayed parcels; resolves to whether it worked for a while.
fn carry(
    network: &Network,
    channel: &Channel,
    endings: &Endings,
    batches: BatchStream<relay::Parcel>,
) -> BoxFuture<'static, bool> {
    let mut client = RelayClient::new(channel.clone()).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let requests = batches.map(|parcels| {
        telemetry::peer_batch("relay", parcels.len());
        relay::CarryRequest { parcels }
    });
    let request = network.signed(Requests(requests.boxed()));
    let (ways, to) = (network.0.relay_ways.clone(), endings.node);
    async move {
        let responses = client.carry(request).await?.into_inner();
        hold_open(&ways, to, responses).await
    }
    .map(endings.log("relay"))
    .boxed()
}

/// Enters a way from the first response, by which the peer says that it took the stream, to the end.
async fn hold_open<T>(
    ways: &watch::Sender<Ways>,
    to: NodeId,
    mut responses: Streaming<T>,
) -> Result<(), Status> {
    let mut way = None;
    while responses.message().await?.is_some() {
        way.get_or_insert_with(|| OpenWay::new(ways, to, Direction::To));
    }
    Ok(())
}

/// Returns the bytes that a parcel takes in a message, its tag and length included.
fn weigh(parcel: &relay::Parcel) -> usize {
    const FRAME_BYTES_MAX: usize = 6;
    parcel.encoded_len() + FRAME_BYTES_MAX
}

/// A boxed stream under a name without lifetimes: with the bare box, the compiler cannot prove that
/// the call's future is `Send`.
struct Requests<T>(BoxStream<'static, T>);

impl<T> Stream for Requests<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.as_mut().poll_next(context)
    }
}

/// How the streams to one node end, and what was logged of it. A cheap handle.
#[derive(Clone, Debug)]
struct Endings {
    node: NodeId,
    /// How long a try to connect takes that is not answered.
    connect_timeout: Duration,
    /// Why the node refused a stream when that was logged last; until then, or once a stream
    /// worked, nothing. Held for a comparison, never across an await.
    refused: Arc<Mutex<Option<String>>>,
}

impl Endings {
    fn of(node: NodeId, connect_timeout: Duration) -> Self {
        Self {
            node,
            connect_timeout,
            refused: Arc::default(),
        }
    }

    /// Returns what logs the end of a stream that begins now, and says whether it worked for a
    /// while; or took so long to fail that it was its own pause. A refusal is logged once for all
    /// streams, until its reason changes: they are opened again every second, and time does not mend
    /// what was refused.
    fn log(&self, stream: &'static str) -> impl FnOnce(Result<(), Status>) -> bool + use<> {
        let started = tokio::time::Instant::now();
        let endings = self.clone();
        move |ended| {
            let worked = started.elapsed() >= endings.connect_timeout;
            if worked {
                endings.told(None);
            }
            let peer = endings.node;
            match ended {
                Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                    let reason = status.message();
                    if endings.told(Some(reason)) {
                        tracing::error!(target: "rpc", %peer, stream, reason, "refused by a peer");
                    }
                }
                Err(status) => {
                    tracing::debug!(
                        target: "rpc", %peer, stream, reason = %status, "stream to a peer broke"
                    );
                }
                Ok(()) => tracing::debug!(target: "rpc", %peer, stream, "a peer ended the stream"),
            }
            worked
        }
    }

    /// Notes why the node refuses now; returns whether that is new.
    fn told(&self, reason: Option<&str>) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.as_deref() == reason {
            return false;
        }
        *refused = reason.map(str::to_owned);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_once_until_it_changes_or_a_stream_worked() {
        let endings = Endings::of(NodeId(2), Duration::from_secs(1));
        let of_another_stream = endings.clone();
        assert!(endings.told(Some("other settings")));
        assert!(!of_another_stream.told(Some("other settings")));
        assert!(endings.told(Some("another cluster")));
        endings.told(None);
        assert!(endings.told(Some("another cluster")));
    }
}
