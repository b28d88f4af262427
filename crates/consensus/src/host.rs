//! All raft groups of a node.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use headcount_model::{NodeId, ReplicaId};
use headcount_wire::proto::consensus::v1 as wire;
use headcount_wire::proto::consensus::v1::refusal::Reason;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::Fatal;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::beat::Silence;
use crate::calls::Calls;
use crate::error::{FatalError, HostError, StartError};
use crate::group::{self, Group};
use crate::inbound;
use crate::log_store::LogStore;
use crate::machine::Machine;
use crate::network::{Link, Network};
use crate::ports::Peers;
use crate::reconcile::CatchUp;
use crate::state_machine::{Growth, SnapshotChunks, StateMachine};
use crate::status::Leadership;
use crate::store::Store;
use crate::types::{Raft, Snapshot};
use crate::{GroupId, HostConfig, beat, codec, telemetry};

/// How often the gauges are set.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait after a snapshot was asked for before it is asked for again.
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(200);

/// All raft groups of a node; cheap to clone.
///
/// Dropping the last clone leaves groups running that something else still holds; [`Self::shutdown`]
/// ends them all.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

pub(crate) struct Inner {
    config: HostConfig,
    raft_config: Arc<openraft::Config>,
    store: Store,
    peers: Arc<dyn Peers>,
    /// The groups that are started; `None` after shutdown. Written by start and stop, read with
    /// every envelope.
    groups: RwLock<Option<BTreeMap<GroupId, Slot>>>,
    /// Kept by every replica, and once here.
    replicas: Arc<()>,
    next_call: Arc<AtomicU64>,
    snapshot_sends: Arc<Semaphore>,
    fatal: watch::Sender<Option<FatalError>>,
    /// The tasks of the host itself.
    tasks: Mutex<Vec<AbortHandle>>,
}

/// What stands in a group's place.
#[derive(Clone)]
enum Slot {
    /// It is being read from disk; peers are told to wait.
    Starting,
    Started(Group),
}

/// Which replica to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// The group.
    pub group: GroupId,
    /// The replica of it that lives on this node. Unique among the replicas of all groups of the
    /// cluster, and never used twice: its log is kept under it.
    pub replica: ReplicaId,
    /// The shard whose event journal the group's machine writes, if it writes one: the journal
    /// becomes durable with the group's snapshots, and begins anew with one from a leader.
    pub journal: Option<u64>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host")
            .field("node", &self.0.config.node)
            .finish_non_exhaustive()
    }
}

impl Host {
    /// Makes a host without groups. Must be called within a tokio runtime.
    pub fn new(config: HostConfig, store: Store, peers: Arc<dyn Peers>) -> Result<Self, HostError> {
        telemetry::describe();
        let raft_config = config.to_openraft().map_err(|error| HostError::Config {
            reason: error.to_string(),
        })?;
        let host = Self(Arc::new(Inner {
            raft_config: Arc::new(raft_config),
            peers,
            groups: RwLock::new(Some(BTreeMap::new())),
            replicas: Arc::default(),
            next_call: Arc::new(AtomicU64::new(config.boot)),
            snapshot_sends: Arc::new(Semaphore::new(config.limits.snapshot_sends)),
            fatal: watch::Sender::new(None),
            tasks: Mutex::default(),
            config,
            store,
        }));
        let weak = Arc::downgrade(&host.0);
        let heartbeat = host.0.config.timing.heartbeat;
        let tasks = [
            tokio::spawn(sample(Weak::clone(&weak))).abort_handle(),
            tokio::spawn(beat::run(heartbeat, Weak::clone(&weak))).abort_handle(),
            tokio::spawn(watch_store(host.0.store.fatal(), weak)).abort_handle(),
        ];
        host.0.tasks().extend(tasks);
        Ok(host)
    }

    /// Starts a replica: empty if it is new here, else as it was, restored from its snapshot and
    /// its log up to what is known to be committed. A new replica does nothing until its group is
    /// formed ([`Group::initialize`]) or its leader adds it.
    pub async fn start_group(
        &self,
        config: ReplicaConfig,
        machine: Box<dyn Machine>,
    ) -> Result<Group, StartError> {
        let ReplicaConfig { group, replica, .. } = config;
        if self.0.store.is_dropped(replica.0) {
            return Err(StartError::Forgotten { group, replica });
        }
        self.0.reserve(group)?;
        let started = self.0.start(config, machine).await;
        if self.0.settle(group, started.as_ref().ok()) {
            return started;
        }
        // The host was shut down meanwhile.
        if let Ok(started) = started {
            started.stop().await;
        }
        Err(StartError::ShuttingDown)
    }

    /// Stops a group's replica, if it is started. With `forget` deletes its data and remembers, for
    /// ever, that it must not be started here again: for a replica that its group has removed.
    pub async fn stop_group(&self, group: GroupId, forget: bool) -> Result<(), FatalError> {
        let stopped = {
            let mut groups = self.0.write_groups();
            match groups
                .as_mut()
                .and_then(|groups| groups.get(&group).cloned())
            {
                Some(Slot::Started(stopped)) => {
                    groups.as_mut().map(|groups| groups.remove(&group));
                    stopped
                }
                Some(Slot::Starting) | None => return Ok(()),
            }
        };
        stopped.stop().await;
        if forget {
            self.forget_replica(stopped.replica()).await?;
        }
        Ok(())
    }

    /// Deletes the data of a replica that is not started, and remembers that it must not be started
    /// here again.
    pub async fn forget_replica(&self, replica: ReplicaId) -> Result<(), FatalError> {
        let dropped = self.0.store.drop_group(replica.0).await;
        dropped.map_err(|error| FatalError {
            reason: format!("replica {replica}: {error}"),
        })
    }

    /// Returns a started group.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<Group> {
        match self.0.slot(group) {
            Some(Slot::Started(group)) => Some(group),
            Some(Slot::Starting) | None => None,
        }
    }

    /// Returns all started groups, in order.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        self.0.started()
    }

    /// Takes an envelope that the node `from` sent. Never waits: a request that finds no room is
    /// refused.
    pub fn receive(&self, from: NodeId, envelope: wire::Envelope) {
        let Some(body) = envelope.body.as_ref() else {
            return;
        };
        let slot = self.0.slot(GroupId(envelope.group));
        if !inbound::is_request(body) {
            if let (Some(Slot::Started(group)), Some(body)) = (slot, envelope.body) {
                group.0.calls.complete(envelope.call, body);
            }
            return;
        }
        let (envelope, reason) = match slot {
            None => (envelope, Reason::UnknownGroup),
            Some(Slot::Starting) => (envelope, Reason::Overloaded),
            Some(Slot::Started(group)) => {
                match inbound::check_addressee(envelope.to, group.replica()) {
                    Err(reason) => (envelope, reason),
                    Ok(()) => match group.0.inbound.try_send((from, envelope)) {
                        Ok(()) => return,
                        Err(mpsc::error::TrySendError::Full((_, envelope))) => {
                            (envelope, Reason::Overloaded)
                        }
                        Err(mpsc::error::TrySendError::Closed((_, envelope))) => {
                            (envelope, Reason::Stopped)
                        }
                    },
                }
            }
        };
        let reply = inbound::refuse(&envelope, reason);
        inbound::send_reply(self.0.peers.as_ref(), from, reply);
    }

    /// Fails what waits for answers of a node: the connection broke, and what was on its way may be
    /// lost. Without that each call waits for its own deadline, appends for three seconds.
    pub fn lost(&self, node: NodeId) {
        for group in self.0.started() {
            group.0.calls.lose(node);
        }
    }

    /// Takes a snapshot that another node sent, and returns what to answer when it is installed or
    /// refused. Whoever calls bounds how many chunks it collects by what the header says.
    pub async fn receive_snapshot(
        &self,
        header: wire::SnapshotHeader,
        chunks: Vec<Bytes>,
    ) -> wire::SnapshotReply {
        use wire::snapshot_reply::Result as Reply;
        let result = match self.0.install(header, chunks).await {
            Ok(vote) => Reply::Vote(vote),
            Err(reason) => {
                telemetry::inbound_refused_total.count(1);
                Reply::Refusal(wire::Refusal {
                    reason: reason.into(),
                })
            }
        };
        wire::SnapshotReply {
            result: Some(result),
        }
    }

    /// Returns a receiver that hears when the node must not go on: the store failed, or a group
    /// stopped for a reason of its own. Whoever runs the process must watch it and stop.
    #[must_use]
    pub fn fatal(&self) -> watch::Receiver<Option<FatalError>> {
        self.0.fatal.subscribe()
    }

    /// Stops all groups. They are on disk as they were; hand leadership over before.
    pub async fn shutdown(&self) {
        for task in self.0.tasks().drain(..) {
            task.abort();
        }
        let groups = self.0.write_groups().take().unwrap_or_default();
        let stops = groups.values().filter_map(|slot| match slot {
            Slot::Started(group) => Some(group.stop()),
            Slot::Starting => None,
        });
        futures::future::join_all(stops).await;
    }
}

impl Inner {
    fn tasks(&self) -> MutexGuard<'_, Vec<AbortHandle>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_groups(&self) -> std::sync::RwLockWriteGuard<'_, Option<BTreeMap<GroupId, Slot>>> {
        self.groups.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, group: GroupId) -> Option<Slot> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.as_ref()?.get(&group).cloned()
    }

    pub(crate) fn started(&self) -> Vec<Group> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        let slots = groups.as_ref().into_iter().flat_map(BTreeMap::values);
        slots
            .filter_map(|slot| match slot {
                Slot::Started(group) => Some(group.clone()),
                Slot::Starting => None,
            })
            .collect()
    }

    /// Takes the group's place, so that it is started once.
    fn reserve(&self, group: GroupId) -> Result<(), StartError> {
        let mut groups = self.write_groups();
        let groups = groups.as_mut().ok_or(StartError::ShuttingDown)?;
        if groups.contains_key(&group) {
            return Err(StartError::Started(group));
        }
        groups.insert(group, Slot::Starting);
        Ok(())
    }

    /// Puts a group into its place, or gives the place up. Returns whether there still is one.
    fn settle(&self, group: GroupId, started: Option<&Group>) -> bool {
        let mut groups = self.write_groups();
        let Some(groups) = groups.as_mut() else {
            return false;
        };
        match started {
            Some(started) => groups.insert(group, Slot::Started(started.clone())),
            None => groups.remove(&group),
        };
        true
    }

    async fn start(
        self: &Arc<Self>,
        config: ReplicaConfig,
        machine: Box<dyn Machine>,
    ) -> Result<Group, StartError> {
        let ReplicaConfig {
            group,
            replica,
            journal,
        } = config;
        let HostConfig { timing, limits, .. } = self.config;
        let calls = Calls::new(Arc::clone(&self.next_call));
        let log_store = LogStore::new(self.store.clone(), replica, limits.append_bytes);
        let network = Network(Arc::new(Link {
            group,
            replica,
            log: log_store.clone(),
            peers: Arc::clone(&self.peers),
            calls: Arc::clone(&calls),
            timing,
            limits,
            snapshot_sends: Arc::clone(&self.snapshot_sends),
        }));
        let replicas = Arc::clone(&self.replicas);
        let growth = Arc::new(Growth::new(limits.snapshot_bytes, replicas));
        let state_machine = StateMachine::new(
            machine,
            self.store.clone(),
            replica,
            journal,
            Arc::clone(&growth),
        );
        let raft_config = Arc::clone(&self.raft_config);
        let log = log_store.clone();
        let raft = Raft::new(replica.0, raft_config, network, log_store, state_machine)
            .await
            .map_err(|error| StartError::Store {
                group,
                reason: error.to_string(),
            })?;

        let (inbound, requests) = mpsc::channel(limits.inbound_per_group);
        let silence = Silence::new();
        let answering = inbound::serve(
            raft.clone(),
            log,
            Arc::clone(&silence),
            Arc::clone(&self.peers),
            requests,
            limits.inbound_per_group,
        );
        let (told, leadership) = watch::channel(Leadership::default());
        let watching = Watching {
            group,
            raft: raft.clone(),
            growth,
            host: Arc::downgrade(self),
        };
        let tasks = vec![
            tokio::spawn(answering).abort_handle(),
            tokio::spawn(watching.run(told)).abort_handle(),
        ];
        Ok(Group(Arc::new(group::Inner {
            id: group,
            replica,
            raft,
            timing,
            limits,
            calls,
            silence,
            inbound,
            leadership,
            proposals: Semaphore::new(limits.proposals_in_flight),
            turn: tokio::sync::Mutex::default(),
            catch_up: Mutex::new(CatchUp::default()),
            handed_over_term: AtomicU64::new(0),
            tasks,
        })))
    }

    async fn install(
        &self,
        header: wire::SnapshotHeader,
        chunks: Vec<Bytes>,
    ) -> Result<headcount_wire::proto::storage::v1::Vote, Reason> {
        let group = match self.slot(GroupId(header.group)) {
            Some(Slot::Started(group)) => group,
            Some(Slot::Starting) => return Err(Reason::Overloaded),
            None => return Err(Reason::UnknownGroup),
        };
        inbound::check_addressee(header.to, group.replica())?;
        let bytes: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        if (header.chunks, header.bytes) != (chunks.len() as u64, bytes) {
            return Err(Reason::Malformed);
        }
        let vote = header.vote.ok_or(Reason::Malformed)?;
        let vote = codec::vote_from_proto(&vote).map_err(inbound::malformed)?;
        let meta = header.meta.ok_or(Reason::Malformed)?;
        let meta = codec::snapshot_meta_from_proto(&meta).map_err(inbound::malformed)?;
        let snapshot = Snapshot {
            meta,
            snapshot: SnapshotChunks {
                chunks,
                stored_by: None,
            },
        };
        let installing = group.0.raft.install_full_snapshot(vote, snapshot);
        let response = installing.await.map_err(inbound::stopped)?;
        Ok(codec::vote_to_proto(&response.vote))
    }

    /// Tells the first failure to whoever watches.
    fn fail(&self, reason: String) {
        tracing::error!(target: "consensus", reason, "the node cannot go on");
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            fatal.get_or_insert(FatalError { reason });
            first
        });
    }
}

/// Follows one group: tells of leadership, asks for snapshots of what grew large, notices its end.
struct Watching {
    group: GroupId,
    raft: Raft,
    growth: Arc<Growth>,
    host: Weak<Inner>,
}

impl Watching {
    async fn run(self, told: watch::Sender<Leadership>) {
        let mut server = self.raft.server_metrics();
        // openraft passes over a trigger while it makes a snapshot.
        let mut snapshot_after = Instant::now();
        loop {
            let now = Leadership::observe(&server.borrow_watched());
            told.send_if_modified(|before| {
                let changed = *before != now;
                if before.epoch != now.epoch && now.epoch.is_some() {
                    telemetry::leader_changes_total.count(1);
                }
                *before = now;
                changed
            });
            tokio::select! {
                changed = server.changed() => if changed.is_err() {
                    return self.ended();
                },
                () = due(&self.growth, snapshot_after) => {
                    snapshot_after = Instant::now() + SNAPSHOT_PAUSE;
                    if self.raft.trigger().snapshot().await.is_err() {
                        return self.ended();
                    }
                }
            }
        }
    }

    /// Notes why raft ended. Asked to stop is no failure.
    fn ended(&self) {
        let state = self.raft.metrics().borrow_watched().running_state.clone();
        let Some(host) = self.host.upgrade() else {
            return;
        };
        match state {
            Ok(()) | Err(Fatal::Stopped) => {}
            Err(error @ (Fatal::StorageError(_) | Fatal::Panicked)) => {
                host.fail(format!("group {}: {error}", self.group));
            }
        }
    }
}

/// Waits until a snapshot is due, and not before `after`.
async fn due(growth: &Growth, after: Instant) {
    tokio::time::sleep_until(after).await;
    growth.due().await;
}

/// Passes on the store's failure, which groups without traffic would not notice.
async fn watch_store(mut store: watch::Receiver<Option<Arc<str>>>, host: Weak<Inner>) {
    let Ok(reason) = store
        .wait_for(Option::is_some)
        .await
        .map(|reason| reason.clone())
    else {
        return;
    };
    if let (Some(host), Some(reason)) = (host.upgrade(), reason) {
        host.fail(format!("the store failed: {reason}"));
    }
}

/// Sets the gauges now and then.
async fn sample(host: Weak<Inner>) {
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(host) = host.upgrade() else { return };
        let groups = host.started();
        let (mut leading, mut lag, mut lag_max, mut log, mut in_flight) = (0, 0, 0, 0, 0);
        for group in &groups {
            let metrics = group.0.raft.data_metrics().borrow_watched().clone();
            let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
            let applied = next(metrics.last_applied.map(|id| id.index()));
            let behind = next(metrics.local_committed.map(|id| id.index())).saturating_sub(applied);
            leading += u64::from(group.seems_to_lead());
            lag += behind;
            lag_max = lag_max.max(behind);
            log += next(metrics.last_log.map(|id| id.index()))
                .saturating_sub(next(metrics.purged.map(|id| id.index())));
            in_flight += group.proposals_in_flight();
        }
        telemetry::groups.set(groups.len() as u64);
        telemetry::leading.set(leading);
        telemetry::apply_lag_entries.set(lag);
        telemetry::apply_lag_entries_max.set(lag_max);
        telemetry::log_entries.set(log);
        telemetry::proposals_in_flight.set(in_flight);
        telemetry::snapshot_sends_free.set(host.snapshot_sends.available_permits() as u64);
    }
}
