//! Bytes that a changed count takes between regions: on the stream to the coordinator, as they pass
//! through a relay that counts them, and in the entry that raft replicates.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use headcount_gossip::{Effect, Input, Outbox, Proposal};
use headcount_model::{
    Category, ChannelKey, Claim, Command, Entry, Fence, Incarnation, Modes, Monotonic, NodeId, Now,
    OwnerRef, RegionName, ShardId, ShardMap, Stage as _, Timestamp,
};
use headcount_net::Dialer;
use headcount_rpc::peers::{
    Identity, Inbound, Network, NetworkConfig, Peer, RelayParcel, services,
};
use headcount_wire::proto::consensus::v1::{Envelope, SnapshotHeader, SnapshotReply};
use headcount_wire::proto::gossip::v1::parcel::Body;
use headcount_wire::{NameWriter, Parcel, ParcelBody, encode_entry, encode_parcels};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::table::Table;
use crate::traffic;

const SHARDS: u32 = 64;
const TELLER: NodeId = NodeId(1);
const TOLD: NodeId = NodeId(2);
const WITHIN: Duration = Duration::from_secs(60);
const START: Timestamp = Timestamp(1_700_000_000_000);
/// How often all counts change.
const ROUNDS: u64 = 20;

/// What passed for some counts.
#[derive(Clone, Copy, Debug)]
struct Passed {
    /// Bytes on the wire for each.
    wire: f64,
    /// Those of them that are not the count's own.
    framing: f64,
    /// Bytes of raft's entry for each.
    entry: f64,
}

pub(crate) async fn measure(table: &mut Table) -> Result<()> {
    for (channels, bar) in [(10_000, 20.0), (640, f64::NAN)] {
        let each = channels / SHARDS;
        let (first, later) = told(channels).await?;
        let what = format!("{each} counts a batch: bytes a count on the gossip stream");
        table.line(
            &format!("{what}, its name told with it"),
            &format!("{:.1}", first.wire),
            "",
        );
        table.at_most(&format!("{what}, after that"), later.wire, bar);
        let bar = if bar.is_nan() { bar } else { 1.0 };
        table.at_most("of these, what is not the count's own", later.framing, bar);
        table.line(
            "the same count in raft's entry, names included: bytes",
            &format!("{:.1}", later.entry),
            "",
        );
    }
    Ok(())
}

/// Tells counts of channels of all shards from one node to another; returns what passed for each
/// when it was told for the first time, and after that.
async fn told(channels: u32) -> Result<(Passed, Passed)> {
    let (sender, mut inbox) = tokio::sync::mpsc::unbounded_channel();
    let receiver = Network::new(NetworkConfig::default(), Dialer::default(), identity(TOLD));
    let (consensus, gossip, relay) = services(&receiver, Arc::new(Inbox(sender)));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = tonic::transport::Server::builder()
        .add_service(consensus)
        .add_service(gossip)
        .add_service(relay);
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let serving = tokio::spawn(router.serve_with_incoming(incoming));
    let passed = Arc::new(AtomicU64::new(0));
    let (address, relaying) = counting_relay(address, Arc::clone(&passed)).await?;
    let network = Network::new(
        NetworkConfig::default(),
        Dialer::default(),
        identity(TELLER),
    );
    let mut ways = network.gossip_ways();
    let peer = Peer {
        node: TOLD,
        incarnation: Incarnation(1),
        address: address.to_string(),
        delay: Duration::ZERO,
    };
    let known = network.set_peers([peer], |_| true);
    known.map_err(|(_, reason)| anyhow::anyhow!(reason))?;
    // What opens the stream passes before anything is counted.
    let open = ways.wait_for(|ways| ways.opening_to(TOLD).is_some());
    let opened = tokio::time::timeout(WITHIN, open).await;
    opened.context("the stream did not open")??;
    let settled = Parcel {
        shard: ShardId(0),
        take_on: false,
        body: ParcelBody::Settled(OwnerRef {
            region: RegionName::new("eu-west-1")?,
            fence: Fence(1),
        }),
    };
    network.tell(TOLD, settled)?;
    let told = tokio::time::timeout(WITHIN, inbox.recv()).await?;
    told.context("the receiver is gone")?;

    let mut owners = Owners::new(channels)?;
    let mut names = NameWriter::default();
    let (mut first, mut later) = (Sum::default(), Sum::default());
    for round in 0..=ROUNDS {
        let sum = if round == 0 { &mut first } else { &mut later };
        let parcels = owners.change_all(round);
        let before = passed.load(Ordering::Relaxed);
        for parcel in &parcels {
            let sent = network.tell(TOLD, parcel.clone());
            sent.context("the stream to the peer is not open")?;
        }
        for _ in &parcels {
            let told = tokio::time::timeout(WITHIN, inbox.recv()).await?;
            told.context("the receiver is gone")?;
        }
        sum.wire += passed.load(Ordering::Relaxed) - before;
        sum.add(&parcels, &mut names);
    }
    relaying.abort();
    serving.abort();
    Ok((first.each(), later.each()))
}

#[derive(Debug, Default)]
struct Sum {
    counts: u64,
    wire: u64,
    own: u64,
    entries: u64,
}

impl Sum {
    /// Adds what the same parcels take by themselves.
    fn add(&mut self, parcels: &[Parcel], names: &mut NameWriter) {
        for parcel in encode_parcels(parcels, names).parcels {
            if let Some(Body::Batch(batch)) = parcel.body {
                self.counts += batch.registers.len() as u64;
                // With the two bytes that begin a field.
                let registers = batch.registers.iter();
                self.own += registers
                    .map(|register| 2 + register.encoded_len() as u64)
                    .sum::<u64>();
            }
        }
        for parcel in parcels {
            if let ParcelBody::Batch(batch) = &parcel.body {
                let entry = Entry {
                    stamp: START,
                    coordinator: batch.owner.region.clone(),
                    commands: vec![Command::Batch(batch.clone())],
                };
                self.entries += encode_entry(&entry).len() as u64;
            }
        }
    }

    fn each(&self) -> Passed {
        let each = |bytes: u64| bytes as f64 / self.counts as f64;
        Passed {
            wire: each(self.wire),
            framing: each(self.wire.saturating_sub(self.own)),
            entry: each(self.entries),
        }
    }
}

/// The owners of a region.
struct Owners {
    outboxes: Vec<Outbox>,
    channels: Vec<(usize, ChannelKey)>,
    at: Monotonic,
}

impl Owners {
    fn new(channels: u32) -> Result<Self> {
        let map = ShardMap::from(SHARDS);
        let region = RegionName::new("eu-west-1")?;
        let mut outboxes = Vec::new();
        for _ in 0..SHARDS {
            let claim = Claim {
                owner: OwnerRef {
                    region: region.clone(),
                    fence: Fence(1),
                },
                node: TELLER,
                incarnation: Incarnation(1),
                tails: Vec::new(),
            };
            outboxes.push(Outbox::new(headcount_gossip::Config::default(), claim));
        }
        let channels = traffic::shuffled(channels, 1).into_iter().map(|number| {
            let key = ChannelKey::new("dev", &traffic::channel(number))?;
            Ok((map.of(&key).0 as usize, key))
        });
        Ok(Self {
            outboxes,
            channels: channels.collect::<Result<_>>()?,
            at: Monotonic::default(),
        })
    }

    fn now(&self) -> Now {
        Now {
            monotonic: self.at,
            wall: START,
        }
    }

    /// Changes the counts of every channel, once what was told before is in the log; returns what
    /// is to be told.
    fn change_all(&mut self, round: u64) -> Vec<Parcel> {
        let now = self.now();
        for outbox in &mut self.outboxes {
            let applied = Input::Applied {
                fence: Fence(1),
                sequence: u64::MAX,
                number: 0,
                settled: false,
            };
            outbox.step(now, applied, &mut Vec::new());
        }
        for (at, (shard, channel)) in self.channels.iter().enumerate() {
            // From 1 to 1,000 on a channel, as many subscribe as attach, a few publish.
            let many = 1 + u32::try_from((at as u64 * 37 + round * 101) % 1_000).unwrap_or(0);
            let mut occupancy = Modes::DEFAULT.occupancy();
            for category in [
                Category::Connections,
                Category::Subscribers,
                Category::PresenceConnections,
                Category::PresenceSubscribers,
            ] {
                occupancy.set(category, many);
            }
            let register = Input::Register {
                channel: channel.clone(),
                occupancy,
                crossing: false,
            };
            self.outboxes[*shard].step(now, register, &mut Vec::new());
        }
        self.at = self.at.after(Duration::from_millis(50));
        let now = self.now();
        let mut parcels = Vec::new();
        for (outbox, shard) in self.outboxes.iter_mut().zip(0..) {
            let mut effects = Vec::new();
            outbox.on_deadline(now, &mut effects);
            for Effect::Propose(proposal) in effects {
                if let Proposal::Batch(batch) = proposal {
                    parcels.push(Parcel {
                        shard: ShardId(shard),
                        take_on: false,
                        body: ParcelBody::Batch(batch.as_ref().clone()),
                    });
                }
            }
        }
        parcels
    }
}

fn identity(node: NodeId) -> Identity {
    Identity {
        node,
        incarnation: Incarnation(1),
        cluster: "bench".to_owned(),
        fingerprint: "bench".to_owned(),
        address: String::new(),
    }
}

/// Tells that a parcel came.
struct Inbox(tokio::sync::mpsc::UnboundedSender<()>);

impl Inbound for Inbox {
    fn envelope(&self, _from: NodeId, _envelope: Envelope) {}

    fn parcel(&self, _from: NodeId, _parcel: Parcel) {
        // Whoever measures may be done.
        self.0.send(()).ok();
    }

    fn relayed(&self, _from: NodeId, _parcel: RelayParcel) {}

    fn snapshot(
        &self,
        _header: SnapshotHeader,
        _chunks: Vec<Bytes>,
    ) -> BoxFuture<'static, SnapshotReply> {
        async { SnapshotReply::default() }.boxed()
    }
}

/// Relays connections to an address, and counts the bytes that go there.
async fn counting_relay(
    to: SocketAddr,
    passed: Arc<AtomicU64>,
) -> Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let relaying = tokio::spawn(async move {
        let incoming = futures::stream::unfold(listener, async |listener| {
            let (socket, _) = listener.accept().await.ok()?;
            Some((socket, listener))
        });
        incoming
            .for_each_concurrent(None, |socket| relay(socket, to, &passed).map(drop))
            .await;
    });
    Ok((address, relaying))
}

async fn relay(from: TcpStream, to: SocketAddr, passed: &AtomicU64) -> Result<()> {
    let mut to = TcpStream::connect(to).await?;
    to.set_nodelay(true)?;
    from.set_nodelay(true)?;
    let (mut from_read, mut from_write) = from.into_split();
    let (mut to_read, mut to_write) = to.split();
    let there = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = from_read.read(&mut buffer).await?;
            if read == 0 {
                return Ok::<_, anyhow::Error>(());
            }
            passed.fetch_add(read as u64, Ordering::Relaxed);
            to_write.write_all(&buffer[..read]).await?;
        }
    };
    let back = async {
        tokio::io::copy(&mut to_read, &mut from_write).await?;
        Ok(())
    };
    futures::future::try_join(there, back).await?;
    Ok(())
}
