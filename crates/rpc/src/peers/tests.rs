//! Relayed parcels between two nodes over loopback.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use headcount_model::{AppId, ConnectionId, Fence, Incarnation, NodeId, SHARDS_MAX, ShardId};
use headcount_net::Dialer;
use headcount_relay::{GatewayItem, GatewayMessage, Message, RelayChannel};
use headcount_wire::Parcel;
use headcount_wire::proto::consensus::v1::{Envelope, SnapshotHeader, SnapshotReply};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tonic::transport::server::TcpIncoming;

use super::*;

const WITHIN: Duration = Duration::from_secs(20);
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

/// Keeps what is relayed.
struct Inbox(mpsc::UnboundedSender<(NodeId, RelayParcel)>);

impl Inbound for Inbox {
    fn envelope(&self, _from: NodeId, _envelope: Envelope) {}

    fn parcel(&self, _from: NodeId, _parcel: Parcel) {}

    fn relayed(&self, from: NodeId, parcel: RelayParcel) {
        self.0.send((from, parcel)).ok();
    }

    fn snapshot(
        &self,
        _header: SnapshotHeader,
        _chunks: Vec<Bytes>,
    ) -> BoxFuture<'static, SnapshotReply> {
        async { SnapshotReply::default() }.boxed()
    }
}

/// A node that can die: its tasks have a runtime of their own.
struct Node {
    id: NodeId,
    network: Network,
    address: String,
    inbox: mpsc::UnboundedReceiver<(NodeId, RelayParcel)>,
    runtime: Option<Runtime>,
}

impl Node {
    async fn start(id: NodeId, config: NetworkConfig) -> Self {
        let identity = Identity {
            node: id,
            incarnation: Incarnation(1),
            cluster: "c".to_owned(),
            fingerprint: "f".to_owned(),
            address: String::new(),
        };
        let network = Network::new(config, Dialer::default(), identity);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (sender, inbox) = mpsc::unbounded_channel();
        let (consensus, gossip, relay) = services(&network, Arc::new(Inbox(sender)));
        let serving = async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let router = tonic::transport::Server::builder()
                .add_service(consensus)
                .add_service(gossip)
                .add_service(relay);
            tokio::spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
            address
        };
        let address = runtime.spawn(serving).await.unwrap();
        Self {
            id,
            network,
            address,
            inbox,
            runtime: Some(runtime),
        }
    }

    fn know(&self, peer: &Self, delay: Duration) {
        let _inside = self.runtime.as_ref().unwrap().enter();
        let peer = Peer {
            node: peer.id,
            incarnation: Incarnation(1),
            address: peer.address.clone(),
            delay,
        };
        self.hear_of(&[peer], &[]);
    }

    /// Hears that there are `peers`, and that there were those that are `gone`.
    fn hear_of(&self, peers: &[Peer], gone: &[NodeId]) {
        let _inside = self.runtime.as_ref().unwrap().enter();
        let knows = |node| gone.contains(&node) || peers.iter().any(|peer| peer.node == node);
        self.network.set_peers(peers.to_vec(), knows).unwrap();
    }

    /// Tells everybody from now on where it is.
    fn introduce_itself(&self, incarnation: u64, address: &str) {
        self.network.identify(Identity {
            incarnation: Incarnation(incarnation),
            address: address.to_owned(),
            ..self.network.identity()
        });
    }

    fn carry(&self, to: NodeId, parcel: &RelayParcel) -> Result<(), SendError> {
        self.network.carry(to, parcel)
    }

    /// Waits until the way to a node is open and is not the one of `before`.
    async fn opening(&self, node: NodeId, before: Option<u64>) -> u64 {
        let is_new = |ways: &Ways| ways.opening(node) > before;
        let ways = self.wait("a way was opened", is_new).await;
        ways.borrow().opening(node).expect("it was just open")
    }

    async fn wait(&self, why: &str, condition: impl FnMut(&Ways) -> bool) -> watch::Receiver<Ways> {
        wait(self.network.relay_ways(), why, condition).await
    }

    async fn take(&mut self) -> (NodeId, RelayParcel) {
        let taken = timeout(WITHIN, self.inbox.recv()).await;
        taken.expect("a parcel comes").expect("the node lives")
    }

    fn die(mut self) {
        self.shutdown();
    }

    fn shutdown(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn wait(
    mut ways: watch::Receiver<Ways>,
    why: &str,
    condition: impl FnMut(&Ways) -> bool,
) -> watch::Receiver<Ways> {
    let waited = timeout(WITHIN, ways.wait_for(condition)).await;
    drop(waited.expect(why).expect("the network is kept"));
    ways
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Starts two nodes that know each other.
async fn pair(config: NetworkConfig, delay: Duration) -> (Node, Node) {
    let a = Node::start(A, config).await;
    let b = Node::start(B, config).await;
    a.know(&b, delay);
    b.know(&a, Duration::ZERO);
    a.opening(B, None).await;
    b.opening(A, None).await;
    (a, b)
}

fn parcel(sequence: u64, body: usize) -> RelayParcel {
    let message = Message {
        channel: RelayChannel::new(AppId::new("dev").unwrap(), "[meta]log").unwrap(),
        publisher: ConnectionId::new("c").unwrap(),
        body: vec![7; body].into(),
    };
    RelayParcel {
        shard: ShardId(3),
        message: RelayMessage::Gateway(GatewayMessage {
            node: A,
            incarnation: Incarnation(1),
            fence: Fence(1),
            stream: 1,
            sequence,
            items: vec![GatewayItem::Publish(message)],
        }),
    }
}

#[tokio::test]
async fn relayed_parcels_arrive_as_they_were_and_in_order() {
    for delay in [Duration::ZERO, Duration::from_millis(20)] {
        let (a, mut b) = pair(NetworkConfig::default(), delay).await;
        // Far more than a message may have together.
        let parcels: Vec<_> = (1..=40).map(|sequence| parcel(sequence, 600_000)).collect();
        for parcel in &parcels {
            a.carry(B, parcel).unwrap();
        }
        for parcel in parcels {
            assert_eq!(b.take().await, (A, parcel));
        }
    }
}

#[tokio::test]
async fn a_full_queue_refuses() {
    let config = NetworkConfig {
        relay_max: 4,
        relay_bytes_max: 100_000,
        ..NetworkConfig::default()
    };
    let (a, _b) = pair(config, Duration::from_secs(3_600)).await;
    assert_eq!(a.carry(B, &parcel(1, 100_000)), Err(SendError::Full));
    assert_eq!(a.carry(B, &parcel(1, 60_000)), Ok(()));
    assert_eq!(a.carry(B, &parcel(2, 60_000)), Err(SendError::Full));
    // Four wait, and one is held back, which the stream takes out of the queue when it gets to it.
    let sent: Vec<_> = (2..=9)
        .map(|sequence| a.carry(B, &parcel(sequence, 1)))
        .collect();
    let (taken, refused): (Vec<_>, Vec<_>) = sent.into_iter().partition(Result::is_ok);
    assert!((3..=4).contains(&taken.len()), "{} were taken", taken.len());
    assert_eq!(refused, vec![Err(SendError::Full); 8 - taken.len()]);
}

#[tokio::test]
async fn what_no_message_can_hold_is_refused_and_breaks_nothing() {
    let (a, mut b) = pair(NetworkConfig::default(), Duration::ZERO).await;
    let before = a.opening(B, None).await;
    let refused = a.carry(B, &parcel(1, MESSAGE_BYTES_MAX));
    assert_eq!(refused, Err(SendError::Full));
    let large = parcel(2, MESSAGE_BYTES_MAX - 1_000);
    a.carry(B, &large).unwrap();
    assert_eq!(b.take().await, (A, large));
    assert_eq!(a.opening(B, None).await, before);
}

#[tokio::test]
async fn nothing_is_gathered_for_who_is_not_there() {
    let a = Node::start(A, NetworkConfig::default()).await;
    assert_eq!(a.carry(B, &parcel(1, 1)), Err(SendError::NotConnected));
    let b = Node::start(B, NetworkConfig::default()).await;
    a.know(&b, Duration::ZERO);
    // One direction is enough to send, but not to be told everything.
    let ways = a
        .wait("a stream was opened", |ways| ways.opening_to(B).is_some())
        .await;
    assert_eq!(ways.borrow().opening(B), None);
    assert_eq!(a.carry(B, &parcel(1, 1)), Ok(()));
    b.die();
    a.wait("the stream broke", |ways| ways.opening_to(B).is_none())
        .await;
    assert_eq!(a.carry(B, &parcel(2, 1)), Err(SendError::NotConnected));
}

#[tokio::test]
async fn a_broken_way_has_a_higher_number_when_it_is_opened_again() {
    let (a, mut b) = pair(NetworkConfig::default(), Duration::ZERO).await;
    let before = (a.opening(B, None).await, b.opening(A, None).await);

    // A malformed parcel ends the stream that it is on; both sides notice.
    let malformed = RelayParcel {
        shard: ShardId(SHARDS_MAX),
        ..parcel(1, 1)
    };
    a.carry(B, &malformed).unwrap();
    let again = a.opening(B, Some(before.0)).await;
    b.opening(A, Some(before.1)).await;
    a.carry(B, &parcel(2, 1)).unwrap();
    assert_eq!(b.take().await, (A, parcel(2, 1)));

    // A node that dies takes both directions with it, and comes back elsewhere.
    b.die();
    a.wait("the way broke", |ways| ways.openings().count() == 0)
        .await;
    let mut b = Node::start(B, NetworkConfig::default()).await;
    b.know(&a, Duration::ZERO);
    a.know(&b, Duration::ZERO);
    a.opening(B, Some(again)).await;
    a.carry(B, &parcel(3, 1)).unwrap();
    assert_eq!(b.take().await, (A, parcel(3, 1)));
}

#[tokio::test]
async fn counts_have_ways_of_their_own() {
    let (a, b) = pair(NetworkConfig::default(), Duration::ZERO).await;
    let open = |ways: &Ways| ways.opening(B).is_some();
    let gossip = a.network.gossip_ways();
    let ways = wait(gossip, "counts are exchanged", open).await;
    let before = ways.borrow().opening(B);
    let relayed = a.opening(B, None).await;
    let malformed = RelayParcel {
        shard: ShardId(SHARDS_MAX),
        ..parcel(1, 1)
    };
    a.carry(B, &malformed).unwrap();
    a.opening(B, Some(relayed)).await;
    assert_eq!(ways.borrow().opening(B), before, "it broke elsewhere");

    b.die();
    let ways = wait(ways, "it broke", |ways| ways.opening_to(B).is_none()).await;
    let b = Node::start(B, NetworkConfig::default()).await;
    b.know(&a, Duration::ZERO);
    a.know(&b, Duration::ZERO);
    let again = |ways: &Ways| ways.opening(B) > before;
    wait(ways, "it has a higher number", again).await;
}

#[tokio::test]
async fn streams_of_envelopes_that_begin_or_end_are_told() {
    let (a, b) = pair(NetworkConfig::default(), Duration::ZERO).await;
    let mut breaks = a.network.raft_breaks();
    let mut more = async |than: u64| {
        let count = |breaks: &Breaks| breaks.get(&B).copied().unwrap_or_default();
        let more = breaks.wait_for(|breaks| count(breaks) > than);
        let told = timeout(WITHIN, more).await.expect("it is told");
        count(&told.expect("the network is kept"))
    };
    // One of each direction.
    let both = more(1).await;
    b.die();
    let ended = more(both + 1).await;
    // Tries count, too.
    more(ended).await;
}

#[tokio::test]
async fn who_was_not_heard_of_can_be_answered() {
    let known = Node::start(NodeId(1), NetworkConfig::default()).await;
    let mut stranger = Node::start(NodeId(2), NetworkConfig::default()).await;
    stranger.introduce_itself(0, &stranger.address);
    stranger.know(&known, Duration::ZERO);
    let opening = known.opening(stranger.id, None).await;
    known.carry(stranger.id, &parcel(1, 10)).unwrap();
    assert_eq!(stranger.take().await.0, known.id);

    // What the control group says meanwhile does not speak of it, and takes nothing away.
    known.hear_of(&[], &[]);
    known.carry(stranger.id, &parcel(2, 10)).unwrap();
    assert_eq!(stranger.take().await.1, parcel(2, 10));
    assert_eq!(known.opening(stranger.id, None).await, opening);

    // It was removed.
    known.hear_of(&[], &[stranger.id]);
    let refused = known.carry(stranger.id, &parcel(3, 10));
    assert_eq!(refused, Err(SendError::NotConnected));
}

#[tokio::test]
async fn the_address_of_the_later_life_counts() {
    let known = Node::start(NodeId(1), NetworkConfig::default()).await;
    let mut moved = Node::start(NodeId(2), NetworkConfig::default()).await;
    let at = |incarnation, address: &str| Peer {
        node: NodeId(2),
        incarnation: Incarnation(incarnation),
        address: address.to_owned(),
        delay: Duration::ZERO,
    };
    let nowhere = at(3, "127.0.0.1:1");
    known.hear_of(std::slice::from_ref(&nowhere), &[]);
    moved.introduce_itself(4, &moved.address);
    moved.know(&known, Duration::ZERO);
    known.opening(moved.id, None).await;
    // Again what is out of date.
    known.hear_of(&[nowhere], &[]);
    known.carry(moved.id, &parcel(1, 10)).unwrap();
    assert_eq!(moved.take().await.0, known.id);
    // The control group has the last word on the same life.
    known.hear_of(&[at(4, "127.0.0.1:1")], &[]);
    let gone = |ways: &Ways| ways.opening(NodeId(2)).is_none();
    known.wait("the old address is given up", gone).await;
}
