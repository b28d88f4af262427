//! The harness: nodes with real stores, a network with faults, and a machine that remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use headcount_consensus::store::{Store, StoreConfig};
use headcount_consensus::{
    AppliedAt, Dump, Frozen, Group, GroupId, Host, HostConfig, Limits, Machine, MachineError,
    Member, Membership, PeerError, Peers, ReplicaConfig, Timing,
};
use headcount_model::{NodeId, ReplicaId};
use headcount_wire::proto::consensus::v1::{Envelope, SnapshotHeader, SnapshotReply};
use prost::Message as _;
use tokio::sync::mpsc;

/// How long anything may take before a test calls it stuck; generous, as machines are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds, and panics with `why` if it does not in time.
pub(crate) async fn wait_until(why: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never came: {why}");
        // allow-sleep: polls the condition until its deadline
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a machine was given, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Every command with its index.
    pub(crate) commands: Vec<(u64, Bytes)>,
    /// The position.
    pub(crate) at: Option<AppliedAt>,
    /// How often a snapshot was restored.
    pub(crate) restored: u64,
}

impl Record {
    /// Encodes what must be equal on all replicas.
    pub(crate) fn bytes(&self) -> Vec<Bytes> {
        let at = self.at.unwrap_or_default();
        let head = format!("{} {} {}", at.index, at.term, at.leader);
        let mut chunks = vec![Bytes::from(head)];
        for (index, command) in &self.commands {
            let mut chunk = index.to_be_bytes().to_vec();
            chunk.extend_from_slice(command);
            chunks.push(chunk.into());
        }
        chunks
    }

    pub(crate) fn parse(chunks: &[Bytes]) -> Option<Self> {
        let (head, rest) = chunks.split_first()?;
        let head = std::str::from_utf8(head).ok()?;
        let numbers: Vec<u64> = head
            .split(' ')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        let [index, term, leader] = numbers.as_slice() else {
            return None;
        };
        let commands = rest
            .iter()
            .map(|chunk| {
                let (index, command) = chunk.split_first_chunk::<8>()?;
                Some((u64::from_be_bytes(*index), Bytes::copy_from_slice(command)))
            })
            .collect::<Option<_>>()?;
        let at = AppliedAt {
            index: *index,
            term: *term,
            leader: ReplicaId(*leader),
        };
        Some(Self {
            commands,
            at: Some(at),
            restored: 0,
        })
    }
}

/// A machine whose memory a test can look into. It panics when told to.
pub(crate) struct Remembering(pub(crate) Arc<Mutex<Record>>);

impl Remembering {
    fn step(record: &mut Record, at: AppliedAt) {
        let next = record.at.map_or(0, |at| at.index + 1);
        assert_eq!(
            at.index, next,
            "entries come one after the other, each once"
        );
        record.at = Some(at);
    }
}

impl Machine for Remembering {
    fn apply(&mut self, at: AppliedAt, command: &[u8]) -> Bytes {
        assert_ne!(command, b"panic", "as it was told");
        let mut record = self.0.lock().unwrap();
        Self::step(&mut record, at);
        record
            .commands
            .push((at.index, Bytes::copy_from_slice(command)));
        let mut reply = b"took ".to_vec();
        reply.extend_from_slice(command);
        reply.into()
    }

    fn advance(&mut self, at: AppliedAt) {
        Self::step(&mut self.0.lock().unwrap(), at);
    }

    fn freeze(&self) -> Frozen {
        let frozen = self.0.lock().unwrap().clone();
        Box::new(move || frozen.bytes())
    }

    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), MachineError> {
        let restored = Record::parse(chunks).ok_or_else(|| MachineError {
            reason: "not a record".to_owned(),
        })?;
        let mut record = self.0.lock().unwrap();
        *record = Record {
            restored: record.restored + 1,
            ..restored
        };
        Ok(())
    }
}

/// Decides whether an envelope is lost: sender, receiver, envelope.
type Eater = Box<dyn FnMut(NodeId, NodeId, &Envelope) -> bool + Send>;

/// Carries encoded envelopes from one node to another.
type Pipe = mpsc::Sender<Vec<u8>>;

/// Connects hosts. Envelopes of an ordered pair of nodes keep their order.
#[derive(Default)]
pub(crate) struct Net {
    hosts: RwLock<BTreeMap<NodeId, Host>>,
    pipes: Mutex<BTreeMap<(NodeId, NodeId), Pipe>>,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
    eater: Mutex<Option<Eater>>,
    /// Envelopes sent, lost ones included.
    pub(crate) sent: AtomicU64,
}

impl Net {
    /// Cuts `node` off from every other node, both ways, or connects it again.
    pub(crate) fn isolate(&self, node: NodeId, isolated: bool, nodes: &[NodeId]) {
        let mut cut = self.cut.lock().unwrap();
        for other in nodes.iter().filter(|other| **other != node) {
            for pair in [(node, *other), (*other, node)] {
                if isolated {
                    cut.insert(pair);
                } else {
                    cut.remove(&pair);
                }
            }
        }
    }

    /// Loses the envelopes for which `eater` says so.
    pub(crate) fn eat(
        &self,
        eater: impl FnMut(NodeId, NodeId, &Envelope) -> bool + Send + 'static,
    ) {
        *self.eater.lock().unwrap() = Some(Box::new(eater));
    }

    fn host(&self, node: NodeId) -> Option<Host> {
        self.hosts.read().unwrap().get(&node).cloned()
    }

    fn connected(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.lock().unwrap().contains(&(from, to)) && self.host(to).is_some()
    }

    /// Returns the pipe from one node to another, laying it first.
    fn pipe(self: &Arc<Self>, from: NodeId, to: NodeId) -> Pipe {
        let mut pipes = self.pipes.lock().unwrap();
        let pipe = pipes.entry((from, to)).or_insert_with(|| {
            let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(4096);
            let net: Weak<Self> = Arc::downgrade(self);
            tokio::spawn(async move {
                while let Some(bytes) = receiver.recv().await {
                    let Some(net) = net.upgrade() else { return };
                    let envelope = Envelope::decode(bytes.as_slice()).unwrap();
                    let eaten = net
                        .eater
                        .lock()
                        .unwrap()
                        .as_mut()
                        .is_some_and(|eater| eater(from, to, &envelope));
                    if !eaten
                        && net.connected(from, to)
                        && let Some(host) = net.host(to)
                    {
                        host.receive(from, envelope);
                    }
                }
            });
            sender
        });
        pipe.clone()
    }
}

/// One node's side of a [`Net`].
pub(crate) struct Side {
    node: NodeId,
    net: Arc<Net>,
}

impl Side {
    /// The side of a node that no other can be reached from.
    pub(crate) fn alone(node: NodeId) -> Self {
        Self {
            node,
            net: Arc::default(),
        }
    }
}

impl Peers for Side {
    fn send(&self, to: NodeId, envelope: Envelope) -> Result<(), PeerError> {
        self.net.sent.fetch_add(1, Ordering::Relaxed);
        if !self.net.connected(self.node, to) {
            return Err(PeerError::NotConnected);
        }
        let pipe = self.net.pipe(self.node, to);
        pipe.try_send(envelope.encode_to_vec())
            .map_err(|_full| PeerError::Full)
    }

    fn send_snapshot(
        &self,
        to: NodeId,
        header: SnapshotHeader,
        chunks: Vec<Bytes>,
    ) -> BoxFuture<'_, Result<SnapshotReply, PeerError>> {
        async move {
            if !self.net.connected(self.node, to) {
                return Err(PeerError::NotConnected);
            }
            let host = self.net.host(to).ok_or(PeerError::NotConnected)?;
            let header = SnapshotHeader::decode(header.encode_to_vec().as_slice()).unwrap();
            let reply = host.receive_snapshot(header, chunks).await;
            Ok(SnapshotReply::decode(reply.encode_to_vec().as_slice()).unwrap())
        }
        .boxed()
    }
}

/// Nodes 1, 2, … with their stores, and what their machines remember.
pub(crate) struct World {
    pub(crate) net: Arc<Net>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    timing: Timing,
    limits: Limits,
    boots: u64,
}

/// A node, up or down.
pub(crate) struct Node {
    dir: tempfile::TempDir,
    up: Option<(Host, Store)>,
    records: BTreeMap<GroupId, Arc<Mutex<Record>>>,
}

/// The replica of `group` on `node`, as these tests number them.
pub(crate) fn replica(group: GroupId, node: NodeId) -> ReplicaId {
    ReplicaId(group.0 * 1000 + node.0)
}

/// The members of `group` on `nodes`.
pub(crate) fn members(group: GroupId, nodes: &[u64]) -> Vec<Member> {
    let member = |node| Member {
        replica: replica(group, node),
        node,
    };
    nodes.iter().copied().map(NodeId).map(member).collect()
}

/// The membership of `group` with voters and learners on the given nodes.
pub(crate) fn membership(group: GroupId, voters: &[u64], learners: &[u64]) -> Membership {
    let side = |nodes| {
        members(group, nodes)
            .into_iter()
            .map(|m| (m.replica, m.node))
            .collect()
    };
    Membership {
        voters: side(voters),
        learners: side(learners),
    }
}

pub(crate) fn command(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

impl World {
    /// Makes nodes 1 to `count`, all up, with local timing.
    pub(crate) fn new(count: u64) -> Self {
        Self::with(count, Timing::LOCAL, Limits::default())
    }

    pub(crate) fn with(count: u64, timing: Timing, limits: Limits) -> Self {
        let mut world = Self {
            net: Arc::default(),
            nodes: BTreeMap::new(),
            timing,
            limits,
            boots: 0,
        };
        for node in (1..=count).map(NodeId) {
            let dir = tempfile::tempdir().unwrap();
            world.nodes.insert(
                node,
                Node {
                    dir,
                    up: None,
                    records: BTreeMap::new(),
                },
            );
            world.up(node);
        }
        world
    }

    pub(crate) fn node_ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// Starts a node's process, without groups.
    pub(crate) fn up(&mut self, node: NodeId) {
        self.boots += 1;
        let boot = self.boots << 32;
        let config = HostConfig {
            limits: self.limits,
            ..HostConfig::new(node, self.timing, boot)
        };
        let this = self.nodes.get_mut(&node).unwrap();
        assert!(this.up.is_none(), "node {node} is up");
        let store = Store::open(this.dir.path(), StoreConfig::default()).unwrap();
        let side = Arc::new(Side {
            node,
            net: Arc::clone(&self.net),
        });
        let host = Host::new(config, store.clone(), side).unwrap();
        self.net.hosts.write().unwrap().insert(node, host.clone());
        this.up = Some((host, store));
    }

    /// Returns what the store of a node that is down holds.
    pub(crate) async fn dumps(&self, node: NodeId) -> Vec<Dump> {
        let this = &self.nodes[&node];
        assert!(this.up.is_none(), "node {node} is up");
        let store = Store::open(this.dir.path(), StoreConfig::default()).unwrap();
        let dumps = Dump::all(&store).unwrap();
        store.close().await.unwrap();
        dumps
    }

    /// Ends a node's process in order.
    pub(crate) async fn down(&mut self, node: NodeId) {
        self.net.hosts.write().unwrap().remove(&node);
        let this = self.nodes.get_mut(&node).unwrap();
        let (host, store) = this.up.take().expect("the node is up");
        host.shutdown().await;
        store.close().await.unwrap();
        this.records.clear();
    }

    pub(crate) fn host(&self, node: NodeId) -> &Host {
        &self.nodes[&node].up.as_ref().expect("the node is up").0
    }

    /// Starts the replica of `group` on `node`.
    pub(crate) async fn start(&mut self, group: GroupId, node: NodeId) -> Group {
        let record = Arc::new(Mutex::new(Record::default()));
        let machine = Box::new(Remembering(Arc::clone(&record)));
        let config = ReplicaConfig {
            group,
            replica: replica(group, node),
            journal: None,
        };
        let started = self.host(node).start_group(config, machine).await.unwrap();
        self.nodes
            .get_mut(&node)
            .unwrap()
            .records
            .insert(group, record);
        started
    }

    /// Starts `group` on `nodes` and forms it there, led by the first.
    pub(crate) async fn form(&mut self, group: GroupId, nodes: &[u64]) {
        for node in nodes {
            self.start(group, NodeId(*node)).await;
        }
        let first = self.group(group, NodeId(nodes[0]));
        first.initialize(&members(group, nodes)).await.unwrap();
    }

    pub(crate) fn group(&self, group: GroupId, node: NodeId) -> Group {
        self.host(node).group(group).expect("the group is started")
    }

    pub(crate) fn record(&self, group: GroupId, node: NodeId) -> Record {
        self.nodes[&node].records[&group].lock().unwrap().clone()
    }

    /// Returns the replica of `group` that leads, and may.
    pub(crate) fn leader_now(&self, group: GroupId) -> Option<Group> {
        let up = self.nodes.values().filter_map(|node| node.up.as_ref());
        let groups = up.filter_map(|(host, _)| host.group(group));
        groups
            .filter(|group| {
                let until = group.status().leading_until;
                until.is_some_and(|until| until > tokio::time::Instant::now())
            })
            .max_by_key(|group| group.leadership().epoch)
    }

    /// Waits until somebody leads `group`.
    pub(crate) async fn leader(&self, group: GroupId) -> Group {
        let mut leader = None;
        wait_until("a leader", || {
            leader = self.leader_now(group);
            leader.is_some()
        })
        .await;
        leader.unwrap()
    }

    /// Proposes on whoever leads until it is done. Commands proposed with it may be applied twice.
    pub(crate) async fn propose(&self, group: GroupId, text: impl Into<String>) -> u64 {
        let command = command(text);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let leader = self.leader(group).await;
            match leader.propose(command.clone()).await {
                Ok(proposed) => return proposed.index,
                Err(error) => {
                    assert!(
                        tokio::time::Instant::now() < deadline,
                        "cannot propose: {error}"
                    );
                }
            }
        }
    }

    /// Asks whoever leads for a read index until there is one.
    async fn read_index(&self, group: GroupId) -> u64 {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.leader(group).await.read_index().await {
                Ok(index) => return index,
                Err(error) => {
                    assert!(
                        tokio::time::Instant::now() < deadline,
                        "cannot read: {error}"
                    );
                }
            }
        }
    }

    /// Waits until the machines of `group` on `nodes` are equal and have applied all that the
    /// leader committed; returns what they remember.
    pub(crate) async fn agree(&self, group: GroupId, nodes: &[u64]) -> Record {
        let index = self.read_index(group).await;
        for node in nodes.iter().copied().map(NodeId) {
            self.group(group, node)
                .wait_applied(index, PATIENCE)
                .await
                .unwrap();
        }
        wait_until("equal machines", || {
            let mut records = nodes
                .iter()
                .map(|node| self.record(group, NodeId(*node)).bytes());
            let first = records.next();
            records.all(|record| Some(&record) == first.as_ref())
        })
        .await;
        self.record(group, NodeId(nodes[0]))
    }
}
