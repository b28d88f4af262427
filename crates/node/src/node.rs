//! One node, from its listeners to its end: what is started in which order, and what stops when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use headcount_api::{NodeIdentity, Realtime};
use headcount_consensus::store::disk::Disk;
use headcount_consensus::store::{Store, StoreDriver};
use headcount_consensus::{
    Group, GroupId as RaftGroupId, Host, HostConfig, InitializeError, Member, ReplicaConfig, Role,
};
use headcount_gateway::Gateway;
use headcount_model::{Incarnation, NodeId, RegionName, SHARDS_MAX, ShardId};
use headcount_net::{Dialer, Listener};
use headcount_placement::{
    Addresses, ClusterFacts, Control, ControlCommand, FOUNDING_NODE, FOUNDING_REPLICA, GroupId,
    STOPPING_VERSION,
};
use headcount_rpc::control::ControlClient;
use headcount_rpc::peers::{Breaks, Identity, Network, Peer};
use headcount_rpc::read::ReadClient;
use headcount_rpc::{control as rpc_control, handover, peers, read};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::adapters::{
    Keys, Left, NodeControl, NodeCounting, NodeDirectory, NodeHandingOver, NodeInbound,
    NodeOperator, NodeReads, NodeReleases, NodeSessions, NodeWatches, RaftPeers, SystemEntropy,
    WallClock, leave,
};
use crate::admin;
use crate::clock::Clock;
use crate::config::{Config, machine_name};
use crate::control::concerns;
use crate::control::hosting::Hosting;
use crate::control::keeper::Keeper;
use crate::control::membership::Reconciler;
use crate::control::standing::Standing;
use crate::control::traffic::TrafficMeter;
use crate::control::{ControlError, ControlHandle, ControlMachine, Heard};
use crate::following::{Feeds, Following};
use crate::founding::{self, Membership};
use crate::gateway::{GatewayHandle, GatewayTask};
use crate::listening::{Listening, Terms};
use crate::paths::Paths;
use crate::reading::{Elsewhere, Here, Past, PastHere, holders};
use crate::relay::{RelayHandle, RelayTask};
use crate::reporter;
use crate::revoked::Revoked;
use crate::sampling::Sampler;
use crate::shards::{Shards, Wakers};
use crate::surroundings::Surroundings;
use crate::tasks::Tasks;

/// How long streams that end in good order are waited for at a drain.
const GOODBYE: Duration = Duration::from_secs(5);

/// Most streams that another node may have open here: one for each shard that it follows, and calls.
const PEER_STREAMS_MAX: u32 = 2 * SHARDS_MAX;

/// The four listeners of a node, bound.
#[derive(Debug)]
pub struct Listeners {
    /// REST and server-sent events.
    pub client: Listener,
    /// gRPC for edges and watchers.
    pub reporter: Listener,
    /// gRPC between nodes.
    pub peer: Listener,
    /// Health, metrics and operators.
    pub admin: Listener,
}

impl Listeners {
    /// Binds what the configuration names; port 0 takes any free one.
    ///
    /// # Errors
    /// The listener that cannot be bound, and why.
    pub async fn bind(config: &Config) -> Result<Self, StartError> {
        let listen = &config.listen;
        Ok(Self {
            client: bind("listen.client", listen.client).await?,
            reporter: bind("listen.reporter", listen.reporter).await?,
            peer: bind("listen.peer", listen.peer).await?,
            admin: bind("listen.admin", listen.admin).await?,
        })
    }

    /// Returns where others reach the listeners.
    fn addresses(&self, config: &Config) -> Result<Addresses, StartError> {
        let machine = machine_name();
        let address = |listener: &Listener| -> Result<String, StartError> {
            let bound = listener.local_addr().map_err(StartError::Listen)?;
            Ok(config.node.advertised(bound, &machine))
        };
        Ok(Addresses {
            client: address(&self.client)?,
            reporter: address(&self.reporter)?,
            peer: address(&self.peer)?,
            admin: address(&self.admin)?,
        })
    }
}

async fn bind(field: &'static str, address: SocketAddr) -> Result<Listener, StartError> {
    let bound = tokio::net::TcpListener::bind(address).await;
    bound
        .map(Listener::from)
        .map_err(|source| StartError::Bind {
            field,
            address,
            source,
        })
}

/// How a node without data comes to a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Founding {
    /// Takes up what the data directory holds; if it is empty, joins through `node.join`, or waits
    /// for an operator's `init`.
    #[default]
    Resume,
    /// Founds a cluster if the data directory is empty.
    Init,
    /// Joins through `node.join` if the data directory is empty, which must name somebody.
    Join,
}

/// What is not configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How to come to a cluster.
    pub founding: Founding,
    /// One-way delay that is emulated on the way to a region's nodes; see [`Node::set_delays`].
    pub delays: BTreeMap<RegionName, Duration>,
    /// What the node stands on.
    pub surroundings: Surroundings,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener cannot be bound.
    #[error("{field}: cannot listen on {address}: {source}")]
    Bind {
        /// The setting.
        field: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A listener does not know its own address.
    #[error("a listener's address is not known: {0}")]
    Listen(#[source] std::io::Error),
    /// The store refuses to open.
    #[error("node.data_dir {dir}: {source}")]
    Store {
        /// The directory.
        dir: String,
        /// Why.
        source: headcount_consensus::store::OpenError,
    },
    /// What the store holds about this node cannot be read or written.
    #[error("node.data_dir: {0}")]
    Data(String),
    /// The data directory is a node's of another region.
    #[error(
        "node.region is {configured}, but node.data_dir holds a node of {member_of}: a node cannot \
         move, so set its region back, or join with an empty directory"
    )]
    OtherRegion {
        /// The setting.
        configured: RegionName,
        /// The region that the node is a member in.
        member_of: String,
    },
    /// The configuration divides channels otherwise than the cluster does.
    #[error(
        "{key}: the cluster was founded with {settled}, this node's configuration says \
         {configured}; where channels live is settled when a cluster is born, so write what it has"
    )]
    Settled {
        /// The setting.
        key: &'static str,
        /// What the cluster has.
        settled: String,
        /// What is written.
        configured: String,
    },
    /// Raft cannot run with these settings, or its state cannot be read.
    #[error("consensus: {0}")]
    Consensus(String),
    /// There is no way to a cluster.
    #[error("node.join is empty: name a node of the cluster, or found one with --init")]
    NobodyToJoin,
    /// A cluster refuses this node, for a reason that time does not mend.
    #[error("the cluster refuses this node: {0}")]
    Refused(String),
}

/// Why a node ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// The store failed, or a state machine did: going on would risk the data.
    #[error("{0}")]
    Fatal(String),
    /// The node could not start fully.
    #[error("{0}")]
    Start(String),
    /// It was told to.
    #[error("the node was stopped")]
    Stopped,
}

/// Why a node is not ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not ready within {waited:?}: {reasons:?}")]
pub struct NotReady {
    /// How long was waited.
    pub waited: Duration,
    /// What is missing.
    pub reasons: Vec<String>,
}

/// What readiness looks at; parts appear as the node starts.
#[derive(Clone)]
pub(crate) struct Progress {
    pub(crate) node: watch::Receiver<Option<NodeId>>,
    pub(crate) shards: watch::Receiver<Option<Shards>>,
    pub(crate) hosted: watch::Receiver<bool>,
    pub(crate) incarnation: watch::Receiver<Incarnation>,
    pub(crate) control: watch::Receiver<Arc<Control>>,
    pub(crate) draining: watch::Receiver<bool>,
    pub(crate) fatal: watch::Receiver<Option<StopReason>>,
}

impl Progress {
    /// Returns the same as one sentence, for whoever asks too early.
    pub(crate) fn unready(&self) -> String {
        match self.missing() {
            missing if missing.is_empty() => "it becomes ready at this moment".to_owned(),
            missing => missing.join("; "),
        }
    }

    /// Returns what keeps the node from being ready; nothing, if it is.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if let Some(reason) = self.fatal.borrow().as_ref() {
            missing.push(reason.to_string());
        }
        if *self.draining.borrow() {
            missing.push("the node is draining".to_owned());
        }
        let Some(node) = *self.node.borrow() else {
            missing.push("not a member of a cluster: run `headcount init` or set node.join".into());
            return missing;
        };
        if self.incarnation.borrow().0 == 0 {
            missing.push("not registered with the control group".to_owned());
        }
        let control = self.control.borrow().clone();
        let placed = control
            .replicas_of(node)
            .filter(|placed| placed.group.shard().is_some());
        let placed = placed.count();
        let shards = self.shards.borrow().clone();
        let here = shards.as_ref().map_or(0, |shards| shards.all().len());
        if here < placed || !*self.hosted.borrow() {
            missing.push(format!("{here} of {placed} placed replicas are started"));
        }
        if shards.is_none() {
            missing.push("the cluster's state is not known".to_owned());
        }
        if let Some(shards) = shards {
            let (_, elsewhere) = shards.parted();
            let unread = elsewhere
                .iter()
                .filter(|shard| !is_read_elsewhere(&control, node, **shard));
            let unread = unread.count();
            if unread > 0 {
                missing.push(format!(
                    "{unread} of {} shards are not read here nor in the region",
                    shards.count()
                ));
            }
            let all = shards.all();
            let leaderless = all
                .values()
                .filter(|hosted| hosted.leader().is_none())
                .count();
            if leaderless > 0 {
                missing.push(format!("{leaderless} shards have no leader"));
            }
            let behind = all.values().filter(|hosted| {
                let status = hosted.group.status();
                status.committed > status.applied
                    || status.applied.is_none()
                    || (status.leadership.role == Role::Learner && status.applied == Some(0))
            });
            let behind = behind.count();
            if behind > 0 {
                missing.push(format!("{behind} replicas have not caught up"));
            }
        }
        missing
    }
}

/// Returns whether a node can have a shard read by others: its region is to hold the shard, and some
/// live node does. That may be in another region, lest one node's failure make its neighbours
/// unready too.
fn is_read_elsewhere(control: &Control, node: NodeId, shard: ShardId) -> bool {
    let Some(region) = control.node(node).map(|node| &node.region) else {
        return false;
    };
    let group = control.group(GroupId::Shard(shard));
    let mut members = group.into_iter().flat_map(|group| group.members());
    let placed = members.any(|(_, replica)| {
        let host = control.node(replica.node);
        host.is_some_and(|host| host.region == *region)
    });
    placed && !holders(control, node, region, shard).is_empty()
}

/// A running node.
pub struct Node {
    addresses: Addresses,
    progress: Progress,
    booted: watch::Receiver<Option<Booted>>,
    store: Store,
    draining: watch::Sender<bool>,
    /// True once the shards are to decide nothing more.
    quiet: watch::Sender<bool>,
    delays: watch::Sender<BTreeMap<RegionName, Duration>>,
    stop: watch::Sender<Option<StopReason>>,
    tasks: Tasks,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// What exists once the node has a cluster.
#[derive(Clone)]
pub(crate) struct Booted {
    pub(crate) host: Host,
    pub(crate) handle: ControlHandle,
    pub(crate) keeper: Keeper,
    pub(crate) gateway: GatewayHandle,
    pub(crate) elsewhere: Elsewhere,
    /// Clients of this node; written once it takes any.
    pub(crate) front: Arc<OnceLock<Realtime>>,
}

impl Node {
    /// Starts a node on bound listeners. Returns once its store is open and its admin port answers;
    /// it comes to its cluster and becomes ready after that, see [`Node::wait_ready`].
    ///
    /// # Errors
    /// [`StartError`] if it cannot even do that.
    pub async fn start(
        config: Config,
        listeners: Listeners,
        options: Options,
    ) -> Result<Self, StartError> {
        let addresses = listeners.addresses(&config)?;
        let surroundings = options.surroundings;
        let (store, driver) = open_store(&config, surroundings.disk).await?;
        // Not one of the tasks that end with the node: the store closes after all of them.
        if let Some(driver) = driver {
            drop(tokio::spawn(driver.run()));
        }
        founding::check_region(&store, &config.node.region)?;
        let clock = Clock::start(surroundings.wall);
        let (node, node_seen) = watch::channel(None);
        let (shards, shards_seen) = watch::channel(None);
        let (hosted, hosted_seen) = watch::channel(false);
        let (incarnation, incarnation_seen) = watch::channel(Incarnation(0));
        let (control, control_seen) = watch::channel(Arc::new(Control::new()));
        let (draining, draining_seen) = watch::channel(false);
        let (quiet, quiet_seen) = watch::channel(false);
        let (stop, stop_seen) = watch::channel(None);
        let (booted, booted_seen) = watch::channel(None);
        let progress = Progress {
            node: node_seen,
            shards: shards_seen,
            hosted: hosted_seen,
            incarnation: incarnation_seen,
            control: control_seen,
            draining: draining_seen,
            fatal: stop_seen,
        };
        let (delays, delays_seen) = watch::channel(options.delays);
        let tasks = Tasks::default();
        let (asked, asked_to_found) = watch::channel(false);
        let operator = NodeOperator::new(progress.clone(), booted_seen.clone(), asked);
        let Listeners {
            client,
            reporter,
            peer,
            admin: admin_listener,
        } = listeners;
        let ended = tasks.ended();
        tasks.spawn(admin::serve(
            config.admin.clone(),
            admin_listener,
            Arc::new(operator),
            surroundings.is_measured,
            async move { ended.cancelled().await },
        ));
        let boot = Boot {
            clock,
            store: store.clone(),
            addresses: addresses.clone(),
            dialer: surroundings.dialer,
            founding: options.founding,
            delays: delays_seen,
            progress: progress.clone(),
            tasks: tasks.clone(),
            asked_to_found,
            node,
            shards,
            hosted,
            incarnation,
            control,
            booted,
            quiet: quiet_seen,
            config,
        };
        let failed = stop.clone();
        tasks.spawn(async move {
            if let Err(error) = Box::pin(boot.run(client, reporter, peer)).await {
                tracing::error!(target: "node", %error, "the node cannot start");
                failed.send_if_modified(|reason| {
                    let first = reason.is_none();
                    reason.get_or_insert(StopReason::Start(error.to_string()));
                    first
                });
            }
        });
        let node = Self {
            addresses,
            progress,
            booted: booted_seen,
            store,
            draining,
            quiet,
            delays,
            stop,
            tasks,
        };
        node.watch_fatal();
        Ok(node)
    }

    /// Tells [`Node::stopped`] when the store or a state machine fails.
    fn watch_fatal(&self) {
        let (mut booted, stop) = (self.booted.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let Ok(host) = booted
                .wait_for(Option::is_some)
                .await
                .map(|booted| booted.as_ref().map(|booted| booted.host.clone()))
            else {
                return;
            };
            let Some(host) = host else { return };
            let mut fatal = host.fatal();
            let Ok(reason) = fatal.wait_for(Option::is_some).await.map(|reason| {
                reason
                    .as_ref()
                    .map_or_else(String::new, ToString::to_string)
            }) else {
                return;
            };
            tracing::error!(target: "node", reason, "the node must stop");
            stop.send_replace(Some(StopReason::Fatal(reason)));
        });
    }

    /// Returns where the listeners are reached.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Waits until the node has joined and its replicas have caught up.
    ///
    /// # Errors
    /// [`NotReady`] with what is missing when the time is over.
    pub async fn wait_ready(&self, timeout: Duration) -> Result<(), NotReady> {
        let start = Instant::now();
        loop {
            let reasons = self.progress.missing();
            if reasons.is_empty() {
                return Ok(());
            }
            let failed = self.progress.fatal.borrow().is_some();
            if failed || start.elapsed() >= timeout {
                return Err(NotReady {
                    waited: start.elapsed(),
                    reasons,
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Changes the one-way delays that are emulated on the way to regions' nodes, those of its own,
    /// too. A very long one is a way that is cut and that nobody notices to be. What is on the way
    /// to a region whose delay changes is lost.
    pub fn set_delays(&self, delays: BTreeMap<RegionName, Duration>) {
        self.delays.send_replace(delays);
    }

    /// Waits until the node must not go on, and returns why.
    pub async fn stopped(&self) -> StopReason {
        let mut stop = self.stop.subscribe();
        let reason = stop.wait_for(Option::is_some).await;
        reason
            .ok()
            .and_then(|reason| reason.clone())
            .unwrap_or(StopReason::Stopped)
    }

    /// Ends the node in good order: edges and watchers are sent elsewhere, other nodes of the region
    /// take over what it owns, leadership is handed over, then everything stops.
    pub async fn drain(self) {
        // First, so that nobody begins something here that ends a moment later.
        self.draining.send_replace(true);
        let booted = self.booted.borrow().clone();
        if let Some(booted) = booted {
            booted.gateway.input(headcount_gateway::Input::Drain);
            let relieving = tokio::time::timeout(GOODBYE, self.relieve(&booted));
            let leaving = tokio::time::timeout(GOODBYE, self.leave(&booted));
            let (relieved, left) = tokio::join!(relieving, leaving);
            if relieved.is_err() {
                tracing::warn!(target: "node", "what it owns was not taken over in time");
            }
            if left.is_err() {
                tracing::warn!(target: "node", "realtime clients did not leave in time");
            }
            let handing_over = tokio::time::timeout(GOODBYE, hand_over(&booted));
            if handing_over.await.is_err() {
                tracing::warn!(target: "node", "leadership was not handed over in time");
            }
        }
        self.quiet.send_replace(true);
        let shards = self.progress.shards.borrow().clone();
        if let Some(shards) = shards
            && tokio::time::timeout(GOODBYE, shards.logged())
                .await
                .is_err()
        {
            tracing::warn!(target: "node", "the log does not have everything that was told here");
        }
        self.shutdown().await;
    }

    /// Has other nodes of the region own what this one owns, and tells them its counts: they need
    /// not wait for its next life, or for the end of its lease.
    async fn relieve(&self, booted: &Booted) {
        let Elsewhere { node, region, .. } = &booted.elsewhere;
        let incarnation = *self.progress.incarnation.borrow();
        let mut control = self.progress.control.clone();
        let understood = control.borrow().understood() >= STOPPING_VERSION;
        if incarnation == Incarnation(0) || !understood {
            return;
        }
        let command = ControlCommand::Stop {
            node: *node,
            incarnation,
        };
        if let Err(error) = booted.handle.propose(command).await {
            tracing::warn!(target: "node", %error, "nobody knows that this node stops");
            return;
        }
        // Another life is one that nobody is relieved of by this one.
        let is_known = |control: &Arc<Control>| {
            let known = control.node(*node);
            known.is_none_or(|known| known.stopping || known.incarnation != incarnation)
        };
        if control.wait_for(is_known).await.is_err() {
            return;
        }
        let shards = self.progress.shards.borrow().clone();
        if let Some(shards) = shards {
            shards.claimed(&control, region).await;
        }
        booted.gateway.settled().await;
    }

    /// Tells the region's nodes when this one has no realtime clients any more, so that who comes
    /// to them later does not wait for its lease.
    async fn leave(&self, booted: &Booted) {
        let Elsewhere {
            node,
            region,
            control,
            network,
            ..
        } = &booted.elsewhere;
        let control = control.borrow().clone();
        let others = control.live_nodes(region).map(|(other, _)| other);
        let others = others.filter(|other| other != node).collect();
        let incarnation = *self.progress.incarnation.borrow();
        leave(&booted.front, incarnation, network, others).await;
    }

    /// Stops the node at once; what is on disk is complete.
    pub async fn shutdown(self) {
        let booted = self.booted.borrow().clone();
        self.tasks.end().await;
        if let Some(Booted { host, .. }) = booted {
            host.shutdown().await;
        }
        if let Err(error) = self.store.close().await {
            tracing::error!(target: "node", %error, "the store did not close cleanly");
        }
    }
}

/// Opens the store; where it brings a driver, that is to be run as a task.
async fn open_store(
    config: &Config,
    disk: Option<Arc<dyn Disk>>,
) -> Result<(Store, Option<StoreDriver>), StartError> {
    let dir = config.node.data_dir.clone();
    let store_config = config.store.clone();
    if let Some(disk) = disk {
        let opened = Store::open_on(disk, store_config);
        let dir = dir.display().to_string();
        return opened
            .map(|(store, driver)| (store, Some(driver)))
            .map_err(|source| StartError::Store { dir, source });
    }
    let opening = {
        let dir = dir.clone();
        tokio::task::spawn_blocking(move || Store::open(dir, store_config))
    };
    let opened = opening
        .await
        .map_err(|error| StartError::Data(error.to_string()))?;
    let dir = dir.display().to_string();
    opened
        .map(|store| (store, None))
        .map_err(|source| StartError::Store { dir, source })
}

/// Tells consensus which nodes' answers may be lost, whenever a way to or from one broke.
async fn tell_breaks(mut breaks: watch::Receiver<Breaks>, host: Host) {
    let mut told = Breaks::new();
    // The network keeps the sender.
    while breaks.changed().await.is_ok() {
        let now = breaks.borrow_and_update().clone();
        for (node, count) in &now {
            if told.get(node) != Some(count) {
                host.lost(*node);
            }
        }
        told = now;
    }
}

/// Hands over every group that this node leads, to whichever voter has caught up; to one that is
/// about to stop too only if there is no other.
async fn hand_over(booted: &Booted) {
    let control = booted.elsewhere.control.borrow().clone();
    let goes = |node: NodeId| control.node(node).is_none_or(|node| !node.may_own());
    let led = booted
        .host
        .groups()
        .into_iter()
        .filter(|group| group.leadership().role == Role::Leader);
    let transfers = led.map(|group| async move {
        let status = group.status();
        let voters = status.leadership.members.voters;
        let mut heirs: Vec<_> = status
            .followers
            .iter()
            .filter_map(|(replica, follower)| {
                let voter = voters.get(replica)?;
                Some((goes(*voter), follower.lag, *replica))
            })
            .collect();
        heirs.sort_unstable();
        for (_, _, heir) in heirs {
            match group.transfer_leader(heir).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(target: "node", %error, "an heir was not able"),
            }
        }
    });
    futures::future::join_all(transfers).await;
}

/// What edges and clients are served with.
struct Prepared {
    gateway: GatewayHandle,
    watches: NodeWatches,
    keys: Keys,
    realtime: Realtime,
    ports: headcount_api::ports::Ports,
}

/// Bringing a node to its cluster and starting everything that needs one.
struct Boot {
    config: Config,
    clock: Clock,
    store: Store,
    addresses: Addresses,
    dialer: Dialer,
    founding: Founding,
    delays: watch::Receiver<BTreeMap<RegionName, Duration>>,
    progress: Progress,
    tasks: Tasks,
    asked_to_found: watch::Receiver<bool>,
    node: watch::Sender<Option<NodeId>>,
    shards: watch::Sender<Option<Shards>>,
    hosted: watch::Sender<bool>,
    incarnation: watch::Sender<Incarnation>,
    control: watch::Sender<Arc<Control>>,
    booted: watch::Sender<Option<Booted>>,
    quiet: watch::Receiver<bool>,
}

impl Boot {
    /// Brings the node to its cluster, and serves edges and clients from then on; until then they
    /// are told at once that it is not ready, as whoever waits for an answer does not ask elsewhere.
    async fn run(
        mut self,
        client: Listener,
        reporter: Listener,
        peer: Listener,
    ) -> Result<(), StartError> {
        let (health, health_service) = tonic_health::server::health_reporter();
        reporter::not_yet(&health).await;
        self.tasks
            .spawn(reporter::follow(health, self.progress.clone()));
        let reporter = self.listening(
            "reporter",
            reporter,
            Terms {
                connections_max: self.config.reporter_connections_max,
                beginning: self.config.reporter.hello_timeout,
                silence: None,
            },
        );
        let ready = CancellationToken::new();
        let (api, reports) = (self.config.api.clone(), self.config.reporter.clone());
        let (progress, refusing) = (self.progress.clone(), self.progress.clone());
        let clients = headcount_api::serve_unready(
            &api,
            &client,
            Arc::new(WallClock(self.clock)),
            Arc::new(move || progress.unready()),
            ready.cancelled(),
        );
        let service = health_service.clone();
        let edges = reporter::refuse(&reports, &reporter, service, refusing, ready.clone());
        let preparing = async {
            let prepared = self.prepare(peer).await;
            ready.cancel();
            prepared
        };
        let (prepared, (), ()) = tokio::join!(preparing, clients, edges);
        let Prepared {
            gateway,
            watches,
            keys,
            realtime,
            ports,
        } = prepared?;
        let sessions = NodeSessions::new(gateway, realtime.clone());
        self.serve_reporters(reporter, health_service, sessions, watches, keys);
        self.serve_clients(client, realtime, ports);
        Ok(())
    }

    async fn prepare(&mut self, peer: Listener) -> Result<Prepared, StartError> {
        let membership = founding::membership(
            &self.config,
            &self.store,
            &self.addresses,
            self.founding,
            &mut self.asked_to_found,
            &self.dialer,
        )
        .await?;
        let node = membership.node;
        tracing::info!(target: "node", %node, cluster = %membership.cluster, "member");

        // The network first: consensus sends over it from its first moment.
        let network = Network::new(
            self.config.network,
            self.dialer.clone(),
            Identity {
                node,
                incarnation: Incarnation(0),
                cluster: membership.cluster.to_string(),
                fingerprint: self.config.cluster.fingerprint().to_string(),
                address: self.addresses.peer.clone(),
            },
        );
        self.follow_peers(&network, &membership);
        let host = self.start_host(node, &network)?;
        self.tasks
            .spawn(tell_breaks(network.raft_breaks(), host.clone()));
        let (gateway, gateway_inputs) = GatewayHandle::new();
        let (relay, relay_mail) = RelayHandle::new();
        let heard = Heard::default();
        let inbound = NodeInbound {
            host: host.clone(),
            control: heard.clone(),
            shards: self.progress.shards.clone(),
            gateway: gateway.clone(),
            relay: relay.clone(),
        };

        // The control group: from it the node reads everything else.
        let machine = ControlMachine::new(self.control.clone());
        let group = host
            .start_group(
                ReplicaConfig {
                    group: RaftGroupId(GroupId::Control.number()),
                    replica: membership.replica,
                    journal: None,
                },
                Box::new(machine),
            )
            .await
            .map_err(|error| StartError::Consensus(error.to_string()))?;
        let control_client = ControlClient::new(network.clone());
        let handle = ControlHandle::new(
            node,
            group.clone(),
            self.progress.control.clone(),
            control_client,
            heard,
        );
        let keeper = Keeper::new(self.clock, self.config.lease, self.config.traffic);
        let elsewhere = Elsewhere {
            node,
            region: self.config.node.region.clone(),
            control: self.progress.control.clone(),
            network: network.clone(),
            client: ReadClient::new(network.clone()),
        };
        let here = Here {
            source: headcount_api::ports::Source {
                region: self.config.node.region.clone(),
                node,
            },
            shards: self.progress.shards.clone(),
            control: self.progress.control.clone(),
            handle: handle.clone(),
            network: network.clone(),
        };
        let front = Arc::new(OnceLock::new());
        let booted = Booted {
            front: Arc::clone(&front),
            host: host.clone(),
            handle: handle.clone(),
            keeper: keeper.clone(),
            gateway: gateway.clone(),
            elsewhere: elsewhere.clone(),
        };
        self.booted.send_replace(Some(booted));
        let past = PastHere::new(here.clone(), self.store.journal(), self.clock);
        let (left, others_left) = watch::channel(Left::new());
        let releases = NodeReleases {
            realtime: Arc::clone(&front),
            left,
        };
        self.serve_peers(peer, inbound, &here, &past, &keeper, releases);
        if membership.founds {
            self.found(&group, &handle, &membership).await?;
        }
        self.node.send_replace(Some(node));
        self.tasks.spawn(keeper.clone().run(
            group.clone(),
            self.progress.control.clone(),
            handle.clone(),
        ));
        self.tasks.spawn(
            Reconciler {
                host: host.clone(),
                control: self.progress.control.clone(),
                handle: handle.clone(),
            }
            .run(),
        );

        // This life, before anything is owned under it (R4).
        let mut control = self.progress.control.clone();
        let known = control.wait_for(|control| control.facts().is_some()).await;
        let known = known.ok().map(|control| control.clone());
        let facts = known.as_ref().and_then(|control| control.facts().cloned());
        let facts = facts.ok_or_else(|| StartError::Data("the node was stopped".to_owned()))?;
        self.config.cluster.check_settled(&facts)?;
        let admitted = known.as_ref().and_then(|control| control.node(node));
        if let Some(admitted) = admitted
            && admitted.region != self.config.node.region
        {
            return Err(StartError::OtherRegion {
                configured: self.config.node.region.clone(),
                member_of: admitted.region.to_string(),
            });
        }
        let (renewed, _) = watch::channel(None);
        self.tasks.spawn(
            Standing {
                node,
                addresses: self.addresses.clone(),
                process: founding::process_number(),
                renew_every: self.config.lease.renew_every(),
                control: self.progress.control.clone(),
                handle: handle.clone(),
                keeper,
                network: network.clone(),
                incarnation: self.incarnation.clone(),
                meter: TrafficMeter::new(
                    self.config.node.region.clone(),
                    self.progress.shards.clone(),
                ),
                renewed,
                clock: self.clock,
                paths: Paths::default(),
                led_by: None,
            }
            .run(),
        );

        // The shards that are placed here.
        let shards = Shards::new(facts.shard_map());
        let wakers = Wakers::default();
        self.tasks.spawn(
            Hosting {
                node,
                region: self.config.node.region.clone(),
                clock: self.clock,
                host,
                store: self.store.clone(),
                owner: headcount_region::Config {
                    // Drawn anew, as the gateway's.
                    hash_seed: founding::process_number(),
                    ..self.config.region
                },
                gossip: self.config.gossip,
                feed: self.config.feed.clone(),
                network: network.clone(),
                gateway: gateway.clone(),
                relay: relay.clone(),
                shards: shards.clone(),
                wakers: wakers.clone(),
                control: self.progress.control.clone(),
                incarnation: self.progress.incarnation.clone(),
                quiet: self.quiet.clone(),
                complete: self.hosted.clone(),
                tasks: self.tasks.clone(),
            }
            .run(),
        );
        self.tasks.spawn(concerns::ring(
            self.progress.control.clone(),
            shards.clone(),
        ));
        self.shards.send_replace(Some(shards.clone()));
        self.tasks.spawn(
            Sampler {
                clock: self.clock,
                region: self.config.node.region.clone(),
                shards: shards.clone(),
                wakers: wakers.clone(),
                store: self.store.clone(),
                network: network.clone(),
            }
            .run(),
        );

        // Last, those who bring load.
        let gateway_task = GatewayTask {
            node,
            region: self.config.node.region.clone(),
            clock: self.clock,
            network: network.clone(),
            shards: shards.clone(),
            control: self.progress.control.clone(),
            incarnation: self.progress.incarnation.clone(),
            handle: gateway.clone(),
            inputs: gateway_inputs,
        };
        let mut registered = self.progress.incarnation.clone();
        let incarnation = registered.wait_for(|incarnation| incarnation.0 > 0).await;
        let incarnation = incarnation.map_or(Incarnation(0), |incarnation| *incarnation);
        let mut gateway_config = self.config.gateway.clone();
        gateway_config.shards = facts.shard_map();
        // Drawn anew, lest names are made to collide.
        gateway_config.hash_seed = founding::process_number();
        if membership.fresh {
            // Nobody can have been attached to a node that did not exist.
            gateway_config.recovery = Duration::ZERO;
        }
        let stage = Gateway::new(gateway_config, node, incarnation, self.clock.monotonic());
        self.tasks.spawn(gateway_task.run(stage));
        let journal = self.store.journal();
        let feeds = Feeds::new(facts.era, shards.clone(), journal, elsewhere.clone());
        let following = Following {
            region: self.config.node.region.clone(),
            clock: self.clock,
            config: self.config.feed.clone(),
            feeds: feeds.clone(),
            wakers: wakers.clone(),
            tasks: self.tasks.clone(),
        };
        self.tasks.spawn(following.run());
        let watches = NodeWatches {
            config: self.config.feed.clone(),
            watchers_max: self.config.watch.watchers_max,
            feeds,
            wakers,
            draining: self.progress.draining.clone(),
        };
        let past = Past {
            here: past,
            elsewhere: elsewhere.clone(),
        };
        let directory = NodeDirectory {
            here,
            elsewhere,
            watches: watches.clone(),
            past,
        };
        let revoked = Revoked::new(handle, self.clock, self.progress.control.clone());
        self.tasks.spawn(revoked.clone().run());
        let keys = Keys::new(&self.config, revoked, self.clock);
        let ports = headcount_api::ports::Ports {
            source: directory.here.source.clone(),
            directory: Arc::new(directory),
            access: Arc::new(keys.clone()),
            clock: Arc::new(WallClock(self.clock)),
            entropy: Arc::new(SystemEntropy),
            counting: Arc::new(NodeCounting::new(gateway.clone())),
            handing: Arc::new(NodeHandingOver {
                region: self.config.node.region.clone(),
                control: self.progress.control.clone(),
                network: network.clone(),
                // A commit is told with the next append, at the latest with a heartbeat.
                hearing: self.config.timing.heartbeat,
                left: others_left,
                calls: Mutex::default(),
            }),
            outlet: Arc::new(relay.clone()),
        };
        let identity = NodeIdentity {
            node,
            incarnation,
            shards: facts.shard_map(),
        };
        let realtime = Realtime::new(self.config.realtime.clone(), ports.clone(), identity);
        // Nobody else writes it.
        let _first = front.set(realtime.clone()).is_ok();
        let relay_task = RelayTask {
            node,
            region: self.config.node.region.clone(),
            config: headcount_relay::Config {
                members_max: self.config.realtime.members_max(),
                ..headcount_relay::Config::default()
            },
            clock: self.clock,
            network,
            shards,
            control: self.progress.control.clone(),
            incarnation: self.progress.incarnation.clone(),
            realtime: realtime.clone(),
            handle: relay,
            mail: relay_mail,
        };
        self.tasks.spawn(relay_task.run());
        Ok(Prepared {
            gateway,
            watches,
            keys,
            realtime,
            ports,
        })
    }

    fn start_host(&self, node: NodeId, network: &Network) -> Result<Host, StartError> {
        let config = HostConfig {
            node,
            timing: self.config.timing,
            boot: founding::process_number(),
            limits: self.config.limits,
        };
        let peers = RaftPeers::new(network.clone(), self.progress.shards.clone());
        let peers = Arc::new(peers);
        Host::new(config, self.store.clone(), peers)
            .map_err(|error| StartError::Consensus(error.to_string()))
    }

    /// Keeps the network's peers what the control group says; until it says something, those that
    /// the join named.
    fn follow_peers(&self, network: &Network, membership: &Membership) {
        let node = membership.node;
        let mut delays = self.delays.clone();
        let delay = |delays: &BTreeMap<RegionName, Duration>, of: &RegionName| {
            delays.get(of).copied().unwrap_or_default()
        };
        let first = membership
            .members
            .iter()
            .filter(|member| member.node != node);
        let now = delays.borrow_and_update().clone();
        let first: Vec<_> = first
            .map(|member| Peer {
                node: member.node,
                incarnation: Incarnation(0),
                address: member.peer.clone(),
                delay: delay(&now, &member.region),
            })
            .collect();
        let set = |network: &Network, peers: Vec<Peer>, knows: &dyn Fn(NodeId) -> bool| {
            if let Err((peer, reason)) = network.set_peers(peers, knows) {
                tracing::error!(target: "rpc", %peer, reason, "a peer has no usable address");
            }
        };
        set(network, first, &|_| false);
        let (network, mut control) = (network.clone(), self.progress.control.clone());
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    changed = control.changed() => if changed.is_err() { return },
                    changed = delays.changed() => if changed.is_err() { return },
                }
                let now = delays.borrow_and_update().clone();
                let state = control.borrow_and_update().clone();
                let others = state.nodes().iter().filter(|(id, other)| {
                    **id != node && other.state != headcount_placement::NodeState::Removed
                });
                let peers: Vec<_> = others
                    .map(|(id, other)| Peer {
                        node: *id,
                        incarnation: other.incarnation,
                        address: other.addresses.peer.clone(),
                        delay: delay(&now, &other.region),
                    })
                    .collect();
                // A state from before the join does not name all that the join named, and without
                // a way to the leader it would never become newer.
                if state.node(node).is_some() {
                    set(&network, peers, &|node| state.node(node).is_some());
                }
            }
        });
    }

    /// Founds the cluster: forms the control group with this node alone, then says what is settled.
    /// A founder that comes back may have stopped half-way, so it does this again, which changes
    /// nothing once it is done; then it has all the time in the world, as others may be away.
    async fn found(
        &self,
        group: &Group,
        handle: &ControlHandle,
        membership: &Membership,
    ) -> Result<(), StartError> {
        let founder = Member {
            replica: FOUNDING_REPLICA,
            node: FOUNDING_NODE,
        };
        match group.initialize(&[founder]).await {
            Ok(()) | Err(InitializeError::Already) => {}
            Err(error) => return Err(StartError::Consensus(error.to_string())),
        }
        let cluster = &self.config.cluster;
        let command = ControlCommand::Init {
            facts: ClusterFacts {
                id: membership.cluster,
                name: cluster.name.clone(),
                shards: cluster.shard_map().count(),
                pins: cluster.pins.clone(),
                timing: cluster.timing,
                era: headcount_model::Era(0),
                format: 1,
                fingerprint: self.config.cluster.fingerprint(),
            },
            settings: self.config.settings,
            node: founding::new_node(&self.config, membership.key, &self.addresses),
        };
        let mut control = self.progress.control.clone();
        loop {
            let known = async {
                control
                    .wait_for(|control| control.facts().is_some())
                    .await
                    .is_ok()
            };
            tokio::select! {
                true = known => return Ok(()),
                founded = handle.propose(command.clone()) => match founded {
                    Ok(_) => return Ok(()),
                    Err(ControlError::Refused(refusal)) => {
                        return Err(StartError::Refused(refusal.to_string()));
                    }
                    Err(ControlError::Unavailable { reason }) => {
                        tracing::info!(target: "node", reason, "waiting for the control group");
                    }
                },
            }
        }
    }

    fn serve_peers(
        &self,
        listener: Listener,
        inbound: NodeInbound,
        here: &Here,
        past: &PastHere,
        keeper: &Keeper,
        releases: NodeReleases,
    ) {
        let network = &here.network;
        let (consensus, gossip, relay) = peers::services(network, inbound.shared());
        let reads = NodeReads {
            here: here.clone(),
            journal: self.store.journal(),
            past: past.clone(),
        };
        let control = rpc_control::service(
            network,
            NodeControl {
                handle: here.handle.clone(),
                keeper: keeper.clone(),
                control: self.progress.control.clone(),
                shards: self.progress.shards.clone(),
                fingerprint: self.config.cluster.fingerprint(),
                timing: self.config.cluster.timing,
            },
        );
        let router = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .max_concurrent_streams(PEER_STREAMS_MAX)
            .add_service(consensus)
            .add_service(gossip)
            .add_service(relay)
            .add_service(control)
            .add_service(handover::service(network, releases))
            .add_service(read::service(network, reads));
        let terms = Terms {
            connections_max: self.config.peer_connections_max,
            beginning: self.config.network.connect_timeout * 6,
            silence: None,
        };
        let listening = self.listening("peer", listener, terms);
        self.tasks
            .spawn(reporter::serve(router, listening, self.tasks.ended()));
    }

    fn serve_reporters<H: Health>(
        &self,
        listening: Listening,
        health: HealthServer<H>,
        sessions: NodeSessions,
        watches: NodeWatches,
        keys: Keys,
    ) {
        let served = reporter::Served {
            config: self.config.reporter.clone(),
            watch: self.config.watch.clone(),
            keys,
            sessions,
            watches,
            health,
        };
        let serving = reporter::serve(served.router(), listening, self.tasks.ended());
        self.tasks.spawn(serving);
    }

    fn listening(&self, name: &'static str, listener: Listener, terms: Terms) -> Listening {
        Listening::new(name, listener, terms, self.tasks.ended())
    }

    fn serve_clients(
        &self,
        listener: Listener,
        realtime: Realtime,
        ports: headcount_api::ports::Ports,
    ) {
        let mut draining = self.progress.draining.clone();
        let ended = self.tasks.ended();
        let shutdown = async move {
            tokio::select! {
                _ = draining.wait_for(|draining| *draining) => {}
                () = ended.cancelled() => {}
            }
        };
        self.tasks.spawn(headcount_api::serve(
            self.config.api.clone(),
            realtime,
            listener,
            ports,
            shutdown,
        ));
    }
}
