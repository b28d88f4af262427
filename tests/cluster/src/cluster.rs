//! A cluster of real nodes.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use headcount_model::control::Pin;
use headcount_model::{ChannelKey, RegionName, ShardMap};
use headcount_node::admin::ClusterStatus;
use headcount_node::admin::status::{NodeRow, ShardRow};
use headcount_node::config::{self, Config, RawConfig, Secrets, Sources};
use headcount_node::{Founding, Listeners, Node, Options, StartError};
use tempfile::TempDir;

use crate::ports::{Ports, own_address};
use crate::process::Process;
use crate::wait::wait_while_moving;
use crate::{Logs, PATIENCE, wait_until};

/// The regions of most tests.
pub const REGIONS: [&str; 3] = ["us-east-1", "eu-west-1", "ap-southeast-1"];

/// What makes a cluster quick enough for tests. Each is a setting that an operator may choose, and
/// their relations are those of the defaults: the adoption's cap exceeds the graces, the lease
/// exceeds what raft needs to elect.
const QUICK: &[&str] = &[
    "cluster.name=test",
    "cluster.shards=4",
    "cluster.timing=local",
    "region.linger=300ms",
    "region.adoption_cap=8s",
    "gateway.edge_grace=2s",
    "gateway.client_grace=2s",
    "gateway.takeover_timeout=10s",
    "coordinator.occupancy_interval=300ms",
    "placement.lease=2s",
    "placement.suspect_after=1s",
    "gossip.resend_after=500ms",
];

/// Real nodes of some regions on loopback, with data directories and ports that stay theirs over
/// restarts. The first region's node founds the cluster, the others join.
#[derive(Debug)]
pub struct Cluster {
    slots: Vec<Slot>,
    settings: Vec<String>,
    /// Whether nodes are processes of their own.
    apart: Option<Logs>,
    address: Ipv4Addr,
    home: TempDir,
    http: reqwest::Client,
}

/// A node's place.
#[derive(Debug)]
struct Slot {
    region: String,
    data_dir: PathBuf,
    ports: Ports,
    join: Vec<String>,
    /// The dead member whose place it takes, 0 for none.
    replaces: u64,
    life: Life,
}

#[derive(Debug)]
enum Life {
    Down,
    Here(Node),
    Apart(Process),
}

impl Cluster {
    /// Starts a node per region in this process and waits until the cluster has grown: until every
    /// shard has its replicas, votes and owners.
    pub async fn start(regions: &[&str]) -> Self {
        Self::start_with(regions, &[]).await
    }

    /// Starts a node per region with further settings, each `section.key=value`.
    pub async fn start_with(regions: &[&str], settings: &[&str]) -> Self {
        Self::begin(regions, settings, None).await
    }

    /// Starts a node per region, each as a process that writes to `logs`.
    pub async fn start_apart(regions: &[&str], settings: &[&str], logs: &Logs) -> Self {
        Self::begin(regions, settings, Some(logs.clone())).await
    }

    async fn begin(regions: &[&str], settings: &[&str], apart: Option<Logs>) -> Self {
        let settings = QUICK
            .iter()
            .chain(settings)
            .map(|setting| (*setting).to_owned())
            .collect();
        // A node that refuses a large body closes the connection, which may be in use again by then.
        let http = reqwest::Client::builder().no_proxy();
        let http = http.pool_max_idle_per_host(0).build();
        let mut cluster = Self {
            slots: Vec::new(),
            settings,
            apart,
            address: own_address(),
            home: TempDir::new().expect("a temporary directory can be made"),
            http: http.expect("a client without TLS needs nothing"),
        };
        for region in regions {
            cluster.add(region).await;
        }
        cluster.wait_grown().await;
        cluster
    }

    /// Adds a node, which joins at run time, and waits until it is ready; returns its index.
    pub async fn add(&mut self, region: &str) -> usize {
        let index = self.slots.len();
        let (ports, listeners) = Ports::take(self.address).await;
        let join = self
            .slots
            .iter()
            .map(|slot| slot.ports.peer.to_string())
            .collect();
        self.slots.push(Slot {
            region: region.to_owned(),
            data_dir: self.home.path().join(format!("node-{index}")),
            ports,
            join,
            replaces: 0,
            life: Life::Down,
        });
        let started = self.try_start(index, Some(listeners)).await;
        started.unwrap_or_else(|error| panic!("node {index} does not start: {error}"));
        self.wait_ready(index).await;
        index
    }

    /// Returns the configuration of a node.
    fn config(&self, node: usize) -> (RawConfig, Config) {
        let slot = &self.slots[node];
        let mut base = RawConfig::dev(0, &slot.data_dir);
        base.node.region.clone_from(&slot.region);
        base.node.join.clone_from(&slot.join);
        base.node.replaces = slot.replaces;
        base.listen.client = slot.ports.client.to_string();
        base.listen.reporter = slot.ports.reporter.to_string();
        base.listen.peer = slot.ports.peer.to_string();
        base.listen.admin = slot.ports.admin.to_string();
        let sources = Sources {
            base,
            file: None,
            environment: None,
            flags: &self.settings,
        };
        let loaded = config::load(sources);
        let loaded = loaded.unwrap_or_else(|error| panic!("a test's settings are wrong: {error}"));
        (loaded.raw, loaded.config)
    }

    /// Starts a node and returns why it refuses, if it does; for processes nothing is known yet
    /// when this returns.
    async fn try_start(
        &mut self,
        node: usize,
        listeners: Option<Listeners>,
    ) -> Result<(), StartError> {
        let (raw, config) = self.config(node);
        let founds = self.slots[node].join.is_empty();
        let first = listeners.is_some();
        let life = if let Some(logs) = &self.apart {
            drop(listeners);
            let file = self.home.path().join(format!("node-{node}.toml"));
            let text = raw.to_table(Secrets::Shown).to_string();
            std::fs::write(&file, text).expect("the temporary directory can be written");
            let process = Process::start(&format!("node {node}"), &file, logs);
            if founds && first {
                self.found(node).await;
            }
            Life::Apart(process)
        } else {
            let listeners = match listeners {
                Some(listeners) => listeners,
                None => Listeners::bind(&config).await?,
            };
            let founding = if founds {
                Founding::Init
            } else {
                Founding::Join
            };
            let options = Options {
                founding,
                ..Options::default()
            };
            Life::Here(Box::pin(Node::start(config, listeners, options)).await?)
        };
        self.slots[node].life = life;
        Ok(())
    }

    /// Asks a process to found the cluster, as `headcount init` does.
    async fn found(&self, node: usize) {
        let url = format!("http://{}/v1/init", self.ports(node).admin);
        wait_until("the founder takes the order to found", async || {
            let answer = self
                .http
                .post(&url)
                .send()
                .await
                .map_err(|error| error.to_string())?;
            let status = answer.status();
            status
                .is_success()
                .then_some(())
                .ok_or_else(|| status.to_string())
        })
        .await;
    }

    /// Has an operator's order carried out by a node: a path such as `nodes/3/drain`.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn order(&self, node: usize, path: &str) {
        let url = format!("http://{}/v1/{path}", self.ports(node).admin);
        obeyed(self.http.post(url), path).await;
    }

    /// Has a node set the regions' shares of coordinators: `{"eu-west-1": 300}`.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn weigh(&self, node: usize, weights: &str) {
        let url = format!("http://{}/v1/weights", self.ports(node).admin);
        obeyed(self.http.put(url).body(weights.to_owned()), weights).await;
    }

    /// Returns the id that a node has in the cluster, as another one tells.
    pub async fn id_of(&self, node: usize, told_by: usize) -> u64 {
        let admin = self.ports(node).admin.to_string();
        wait_until(&format!("node {node} has an id"), async || {
            let nodes = self.status(told_by).await?.nodes;
            let mut rows = nodes.iter().filter(|row| row.state != "removed");
            let row = rows.find(|row| row.addresses.admin == admin);
            row.map(|row| row.id).ok_or_else(|| format!("{nodes:?}"))
        })
        .await
    }

    /// Starts a node whose disk was lost, with an empty one, in the place of the dead member `old`.
    pub async fn replace(&mut self, node: usize, old: u64) {
        let slot = &self.slots[node];
        assert!(matches!(slot.life, Life::Down), "node {node} runs");
        std::fs::remove_dir_all(&slot.data_dir).expect("it has a directory");
        let others = (0..self.slots.len()).filter(|other| *other != node);
        let join = others.map(|other| self.slots[other].ports.peer.to_string());
        self.slots[node].join = join.collect();
        self.slots[node].replaces = old;
        self.restart(node).await;
    }

    /// Returns how many nodes there are, running or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns whether there are no nodes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Returns where a node listens.
    #[must_use]
    pub fn ports(&self, node: usize) -> Ports {
        self.slots[node].ports
    }

    /// Returns a node's region.
    #[must_use]
    pub fn region(&self, node: usize) -> &str {
        &self.slots[node].region
    }

    /// Configures another region for a node that does not run.
    pub fn relocate(&mut self, node: usize, region: &str) {
        region.clone_into(&mut self.slots[node].region);
    }

    /// Returns the hash of the settings that all nodes share, as a node's peers are told it.
    #[must_use]
    pub fn fingerprint(&self, node: usize) -> String {
        self.config(node).1.cluster.fingerprint().to_string()
    }

    /// Returns where a node's data is.
    #[must_use]
    pub fn data_dir(&self, node: usize) -> &Path {
        &self.slots[node].data_dir
    }

    /// Returns the client for HTTP that tests share.
    #[must_use]
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Returns the nodes that run.
    #[must_use]
    pub fn running(&self) -> Vec<usize> {
        let up = |node: &usize| !matches!(self.slots[*node].life, Life::Down);
        (0..self.slots.len()).filter(up).collect()
    }

    /// Stops a node in good order.
    pub async fn stop(&mut self, node: usize) {
        match std::mem::replace(&mut self.slots[node].life, Life::Down) {
            Life::Down => panic!("node {node} does not run"),
            Life::Here(running) => running.drain().await,
            Life::Apart(process) => process.stop().await,
        }
    }

    /// Stops a node with no word to anybody; a process is killed as by `kill -9`.
    pub async fn kill(&mut self, node: usize) {
        match std::mem::replace(&mut self.slots[node].life, Life::Down) {
            Life::Down => panic!("node {node} does not run"),
            Life::Here(running) => running.shutdown().await,
            Life::Apart(process) => process.kill().await,
        }
    }

    /// Lets a process do nothing, and not even know that time passes, until [`Cluster::unfreeze`].
    pub async fn freeze(&self, node: usize) {
        self.signal(node, "STOP").await;
    }

    /// Lets a process go on.
    pub async fn unfreeze(&self, node: usize) {
        self.signal(node, "CONT").await;
    }

    async fn signal(&self, node: usize, signal: &str) {
        match &self.slots[node].life {
            Life::Apart(process) => process.signal(signal).await,
            Life::Down | Life::Here(_) => panic!("node {node} is no process"),
        }
    }

    /// Starts a node that was stopped, on what it left.
    pub async fn restart(&mut self, node: usize) {
        let started = self.try_start(node, None).await;
        started.unwrap_or_else(|error| panic!("node {node} does not start again: {error}"));
    }

    /// Starts a node that must refuse to, because of `why`; returns what it says.
    pub async fn refuses_to_start(&mut self, node: usize, why: &str) -> String {
        match self.try_start(node, None).await {
            Ok(()) => panic!("node {node} starts with {why}"),
            Err(error) => error.to_string(),
        }
    }

    /// Cuts the way between the regions of two nodes of this process, both ways, as if packets were
    /// swallowed; with `None` heals what is cut at `node`.
    pub fn cut(&self, node: usize, from: Option<usize>) {
        let others = from.map_or_else(|| self.running(), |from| vec![from]);
        for (here, there) in others.iter().flat_map(|at| [(node, *at), (*at, node)]) {
            let Life::Here(running) = &self.slots[here].life else {
                panic!("node {here} does not run in this process");
            };
            let region = RegionName::new(self.region(there)).expect("a node has a region");
            let cut = from.map(|_| (region, Duration::from_secs(3_600)));
            running.set_delays(cut.into_iter().collect());
        }
    }

    /// Cuts a node of this process off from every other region, both ways, as [`Cluster::cut`] does
    /// for two.
    pub fn isolate(&self, node: usize) {
        for here in self.running() {
            let Life::Here(running) = &self.slots[here].life else {
                panic!("node {here} does not run in this process");
            };
            let others = self.running().into_iter();
            let cut = others.filter(|there| *there != here && (here == node || *there == node));
            let cut = cut.map(|there| {
                let region = RegionName::new(self.region(there)).expect("a node has a region");
                (region, Duration::from_secs(3_600))
            });
            running.set_delays(cut.collect());
        }
    }

    /// Cuts the ways from a node of this process to the regions of others, and not the ways back;
    /// [`Cluster::cut`] with `None` heals them.
    pub fn cut_one_way(&self, from: usize, to: &[usize]) {
        self.delay(from, to, Duration::from_secs(3_600));
    }

    /// Lets what a node of this process tells the regions of others arrive late from now on, and
    /// what they tell it at once; [`Cluster::cut`] with `None` ends that, and loses what is on its
    /// way.
    pub fn delay(&self, from: usize, to: &[usize], delay: Duration) {
        let Life::Here(running) = &self.slots[from].life else {
            panic!("node {from} does not run in this process");
        };
        let regions = to.iter().map(|there| {
            let region = RegionName::new(self.region(*there)).expect("a node has a region");
            (region, delay)
        });
        running.set_delays(regions.collect());
    }

    /// Waits for a process to end by itself; returns its exit code.
    pub async fn exit_code(&mut self, node: usize) -> Option<i32> {
        match std::mem::replace(&mut self.slots[node].life, Life::Down) {
            Life::Apart(process) => process.ended().await,
            Life::Down | Life::Here(_) => panic!("node {node} is no process"),
        }
    }

    /// Stops all nodes in good order. At the end of a test, so that what only shows at the end
    /// shows.
    pub async fn end(mut self) {
        let lives = self
            .slots
            .iter_mut()
            .map(|slot| std::mem::replace(&mut slot.life, Life::Down));
        let ends = lives.map(|life| async {
            match life {
                Life::Down => {}
                Life::Here(running) => running.shutdown().await,
                Life::Apart(process) => process.stop().await,
            }
        });
        futures::future::join_all(ends).await;
    }

    /// Returns the status and the body of a `GET` on a node's admin listener.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn admin(&self, node: usize, path: &str) -> Result<(u16, String), String> {
        let url = format!("http://{}{path}", self.ports(node).admin);
        let answer = self
            .http
            .get(url)
            .timeout(Duration::from_secs(5))
            .send()
            .await;
        let answer = answer.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = answer.text().await.map_err(|error| error.to_string())?;
        Ok((status, body))
    }

    /// Waits until a node says that it is ready.
    pub async fn wait_ready(&self, node: usize) {
        wait_while_moving(&format!("node {node} is ready"), async || {
            let (status, body) = self.admin(node, "/readyz").await?;
            (status == 200).then_some(()).ok_or(body)
        })
        .await;
    }

    /// Returns what a node knows of the cluster.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn status(&self, node: usize) -> Result<ClusterStatus, String> {
        let (status, body) = self.admin(node, "/v1/status").await?;
        if status != 200 {
            return Err(format!("{status}: {body}"));
        }
        serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))
    }

    /// Waits until all that the placement wants is so, as every running node sees it: each shard
    /// has its voters, a leader, and a settled owner in every region with a running node.
    pub async fn wait_grown(&self) {
        for node in self.running() {
            self.wait_ready(node).await;
            wait_while_moving(&format!("node {node} sees the cluster grown"), async || {
                let status = self.status(node).await?;
                self.missing(&status)
            })
            .await;
        }
    }

    fn missing(&self, status: &ClusterStatus) -> Result<(), String> {
        let shards = status.cluster.as_ref().map_or(0, |cluster| cluster.shards) as usize;
        let voters = if self.slots.len() >= 3 {
            3
        } else {
            self.slots.len()
        };
        let running = self.running();
        let has = |shard: &ShardRow| {
            let owned = running.iter().all(|node| {
                let region = self.region(*node);
                let owner = shard.owners.iter().find(|owner| owner.region == region);
                owner.is_some_and(|owner| owner.node.is_some() && owner.settled)
            });
            owned && shard.voters.len() == voters && shard.leader.is_some()
        };
        if status.shards.len() != shards || shards == 0 {
            return Err(format!(
                "{} of {shards} shards are known",
                status.shards.len()
            ));
        }
        if let Some(shard) = status.shards.iter().find(|shard| !has(shard)) {
            return Err(format!("{shard:?}"));
        }
        if status.plan_pending > 0 {
            return Err(format!("{} changes are pending", status.plan_pending));
        }
        Ok(())
    }

    /// Waits until a node knows who leads a channel's shard, and returns that node.
    pub async fn coordinator_of(&self, channel: &str) -> usize {
        let asked = *self.running().first().expect("a node runs");
        wait_until(&format!("{channel} has a coordinator"), async || {
            let status = self.status(asked).await?;
            let shard = shard_row(&status, channel)?;
            let leader = shard.leader.as_ref().ok_or("no leader")?;
            self.index_of(&status, leader.node)
        })
        .await
    }

    /// Waits until a node knows who leads the control group, and returns that node.
    pub async fn control_leader(&self) -> usize {
        let asked = *self.running().first().expect("a node runs");
        wait_until("the control group has a leader", async || {
            let status = self.status(asked).await?;
            let leader = status.control.leader.as_ref().ok_or("no leader")?;
            self.index_of(&status, leader.node)
        })
        .await
    }

    /// Waits until a node knows who owns a region's part of a channel's shard, and returns that
    /// node.
    pub async fn owner_of(&self, region: &str, channel: &str) -> usize {
        let asked = *self.running().first().expect("a node runs");
        wait_until(&format!("{channel} has an owner in {region}"), async || {
            let status = self.status(asked).await?;
            let shard = shard_row(&status, channel)?;
            let owner = shard.owners.iter().find(|owner| owner.region == region);
            let node = owner.and_then(|owner| owner.node).ok_or("no owner")?;
            self.index_of(&status, node)
        })
        .await
    }

    /// Returns the index of the node with that id.
    fn index_of(&self, status: &ClusterStatus, id: u64) -> Result<usize, String> {
        let row = status.nodes.iter().find(|row| row.id == id);
        let row: &NodeRow = row.ok_or_else(|| format!("node {id} is not listed"))?;
        let mine = |slot: &Slot| slot.ports.admin.to_string() == row.addresses.admin;
        let index = self.slots.iter().position(mine);
        index.ok_or_else(|| format!("node {id} is not of this cluster"))
    }

    /// Waits until the settled state of a shard's log is applied by all running nodes alike.
    pub async fn wait_applied(&self) {
        wait_until("all replicas applied the same", async || {
            let mut seen: Option<Vec<Option<u64>>> = None;
            for node in self.running() {
                let status = self.status(node).await?;
                let applied: Vec<_> = status.shards.iter().map(|shard| shard.applied).collect();
                match &seen {
                    Some(other) if *other != applied => {
                        return Err(format!("{other:?} and {applied:?}"));
                    }
                    _ => seen = Some(applied),
                }
            }
            Ok(())
        })
        .await;
    }

    /// Returns how many entries of all shards' logs a node has applied.
    pub async fn applied(&self, node: usize) -> u64 {
        let status = self.status(node).await.expect("the node answers");
        status.shards.iter().filter_map(|shard| shard.applied).sum()
    }

    /// How long anything that must happen is waited for.
    #[must_use]
    pub fn patience(&self) -> Duration {
        PATIENCE
    }
}

fn shard_row<'a>(status: &'a ClusterStatus, channel: &str) -> Result<&'a ShardRow, String> {
    let shards = status.cluster.as_ref().ok_or("no cluster yet")?.shards;
    let pins = status.pins.iter().map(|pin| Pin {
        prefix: pin.prefix.clone(),
        home: RegionName::new(&pin.home).expect("a home is a region"),
        shards: u32::try_from(pin.shards.len()).expect("there are few"),
    });
    let pins: Vec<Pin> = pins.collect();
    let divided = shards - pins.iter().map(|pin| pin.shards).sum::<u32>();
    let channel = ChannelKey::new("dev", channel).map_err(|error| error.to_string())?;
    let shard = ShardMap::new(divided, &pins).of(&channel).0;
    let row = status.shards.iter().find(|row| row.shard == shard);
    row.ok_or_else(|| format!("shard {shard} is not known"))
}

/// Sends an operator's order, which is not to be refused.
async fn obeyed(order: reqwest::RequestBuilder, what: &str) {
    let answer = order.send().await;
    let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
    let status = answer.status();
    let body = answer.text().await.unwrap_or_default();
    assert!(status.is_success(), "{what}: {status} {body}");
}
