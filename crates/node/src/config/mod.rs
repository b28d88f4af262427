//! Configuration: what was written ([`RawConfig`]) becomes what was checked ([`Config`]).
//!
//! Defaults are overridden by a file, the file by the environment (`HEADCOUNT__SECTION__KEY`), and
//! that by flags (`--set section.key=value`). Everything that is wrong is told at once. Only this
//! module reads files and the environment; stages get their own `Config` by value.

mod apps;
mod check;
mod dev;
mod docs;
mod fault;
mod layers;
mod raw;
mod table;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headcount_access::Apps;
use headcount_model::control::{ClusterFacts, Fingerprint, Pin, Settings, TimingProfile};
use headcount_model::{AppId, NodeId, RegionName, ShardMap};

pub use dev::{DEV_KEYS, DEV_REGIONS, DEV_SHARDS, DevKey, dev_port};
pub use docs::{reference, secrets_masked};
pub use fault::{ConfigError, Fault, Origin};
pub use layers::{Environment, ProcessEnvironment, VARIABLE_PREFIX};
pub use raw::{RawApp, RawConfig, RawKey, RawLifecycle, Secrets, section_docs};
pub use table::{KeyDoc, SectionDoc};
pub use value::{Bytes, Pins, RawPin, SecretText};

use crate::node::StartError;
use crate::telemetry::LogFormat;

/// A node's configuration, checked, with each stage's own part ready to be handed to it.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who and where the node is.
    pub node: NodeConfig,
    /// Where it listens.
    pub listen: ListenConfig,
    /// What is equal on all nodes.
    pub cluster: ClusterConfig,
    /// What the cluster begins with, if this node founds it.
    pub settings: Settings,
    /// How long nodes are believed to live.
    pub lease: headcount_placement::LeaseConfig,
    /// How coordinators follow traffic.
    pub traffic: headcount_placement::TrafficConfig,
    /// What is attached to the node.
    pub gateway: headcount_gateway::Config,
    /// How the region's counts and activity are decided.
    pub region: headcount_region::Config,
    /// How the region's facts travel.
    pub gossip: headcount_gossip::Config,
    /// How events reach watchers.
    pub feed: headcount_feed::Config,
    /// Raft's clockwork, by the cluster's profile.
    pub timing: headcount_consensus::Timing,
    /// Raft's bounds.
    pub limits: headcount_consensus::Limits,
    /// What is on disk.
    pub store: headcount_consensus::store::StoreConfig,
    /// Connections to other nodes.
    pub network: headcount_rpc::peers::NetworkConfig,
    /// Most connections on the peer listener.
    pub peer_connections_max: usize,
    /// Most connections on the reporter listener.
    pub reporter_connections_max: usize,
    /// Edges on the reporter listener.
    pub reporter: headcount_rpc::reporter::Config,
    /// Watchers on the reporter listener.
    pub watch: headcount_rpc::watch::Config,
    /// The client listener.
    pub api: headcount_api::Config,
    /// Realtime clients.
    pub realtime: headcount_api::RealtimeConfig,
    /// The admin listener.
    pub admin: crate::admin::Config,
    /// What the node writes about itself.
    pub telemetry: TelemetryConfig,
    /// The tenants' keys.
    pub apps: Arc<Apps>,
    /// What else is to be known about each tenant.
    pub app_settings: BTreeMap<AppId, AppConfig>,
}

/// Who and where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its region.
    pub region: RegionName,
    /// Its failure domain inside the region; may be empty.
    pub zone: String,
    /// What people call it; empty for what the machine is called.
    pub name: String,
    /// Where its log, snapshots and identity are.
    pub data_dir: PathBuf,
    /// By which name others reach it, if not by the address that it listens on.
    pub advertise_host: Option<String>,
    /// Peers to ask for membership, each `host:port`.
    pub join: Vec<String>,
    /// The dead node whose place it takes when it joins.
    pub replaces: Option<NodeId>,
}

/// Where a node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// REST and server-sent events.
    pub client: SocketAddr,
    /// gRPC for edges and watchers.
    pub reporter: SocketAddr,
    /// gRPC for nodes.
    pub peer: SocketAddr,
    /// Health, metrics and operators.
    pub admin: SocketAddr,
}

/// What is equal on all nodes of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// What people call it.
    pub name: String,
    /// How many shards it has for channels without a pin.
    pub shards: u32,
    /// Which channels have shards of their own, ascending by prefix.
    pub pins: Vec<Pin>,
    /// How patient raft is.
    pub timing: TimingProfile,
}

/// What a node writes about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// Which log lines.
    pub log: String,
    /// How they look.
    pub log_format: LogFormat,
}

/// What is to be known about a tenant besides its keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppConfig {
    /// Whether `[meta]channel.lifecycle` carries `channel.occupancy` (contract, decision 3).
    pub lifecycle_occupancy: bool,
    /// What it may do, if that is not what all may.
    pub limits: Option<headcount_api::AppLimits>,
}

/// Where settings come from, each over the one before.
pub struct Sources<'a> {
    /// What holds where nobody wrote anything.
    pub base: RawConfig,
    /// A file: what to call it in faults, and its text.
    pub file: Option<(String, String)>,
    /// The environment; `None` where it is not to be heard.
    pub environment: Option<&'a dyn Environment>,
    /// Flags `section.key=value`.
    pub flags: &'a [String],
}

impl std::fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file.as_ref().map(|(name, _)| name);
        f.debug_struct("Sources")
            .field("file", &file)
            .finish_non_exhaustive()
    }
}

impl Sources<'static> {
    /// Returns the defaults alone.
    #[must_use]
    pub fn defaults() -> Self {
        Self {
            base: RawConfig::default(),
            file: None,
            environment: None,
            flags: &[],
        }
    }
}

impl Sources<'_> {
    /// Reads a file in.
    ///
    /// # Errors
    /// [`ConfigError`] with the file's name, if it cannot be read.
    pub fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => {
                self.file = Some((name, text));
                Ok(())
            }
            Err(error) => {
                let what = format!("cannot be read: {error}");
                let fault = Fault {
                    key: "the file".to_owned(),
                    origin: Origin::File(name),
                    what,
                };
                Err(ConfigError {
                    faults: vec![fault],
                })
            }
        }
    }
}

/// What was written and what came of it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Every value in force.
    pub raw: RawConfig,
    /// The checked configuration.
    pub config: Config,
}

/// Puts the layers together and checks the outcome.
///
/// # Errors
/// [`ConfigError`] with everything that is wrong.
pub fn load(sources: Sources<'_>) -> Result<Loaded, ConfigError> {
    let mut faults = Vec::new();
    let mut layers = layers::Layers::default();
    if let Some((name, text)) = &sources.file {
        layers.add_file(name, text, &mut faults);
    }
    if let Some(environment) = sources.environment {
        layers.add_environment(environment, &mut faults);
    }
    layers.add_flags(sources.flags, &mut faults);

    let mut raw = sources.base.read_sections(&mut layers, &mut faults);
    let apps_origin = match layers.apps.take() {
        Some((written, origin)) => {
            raw.app = apps::read(written, &origin, &mut faults);
            origin
        }
        None => Origin::Default,
    };
    docs::unknown_keys(&layers, &mut faults);
    let config = check::Check::new(&layers, &mut faults).run(&raw, &apps_origin);
    match config {
        Some(config) if faults.is_empty() => Ok(Loaded { raw, config }),
        _ => Err(ConfigError { faults }),
    }
}

impl Config {
    /// Returns the configuration of `headcount dev` for the region of that index: the ports and keys
    /// that `design.md` section 8 gives, and everything on loopback.
    ///
    /// # Panics
    /// If there is no such region; see [`DEV_REGIONS`].
    #[must_use]
    pub fn dev(region_index: usize, data_dir: &Path) -> Self {
        let base = RawConfig::dev(region_index, data_dir);
        load(Sources {
            base,
            ..Sources::defaults()
        })
        .expect("the settings of dev are good")
        .config
    }

    /// Returns how many connections the node may hold at once, each of which is an open file.
    #[must_use]
    pub fn connections_max(&self) -> usize {
        let of_clients = self.api.connections_max + self.realtime.connections_max;
        of_clients
            + self.reporter_connections_max
            + self.peer_connections_max
            + self.admin.connections_max
    }

    /// Returns what an operator should know although it is no fault.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.app_settings.is_empty() {
            warnings.push("[[app]]: there is none, so nobody can report or read".to_owned());
        }
        if self.admin.token.is_none() && !self.admin.open_on_loopback {
            warnings.push("admin.token: not set, so the operator API refuses everybody".to_owned());
        }
        let (interval, timeout) = self.network.keep_alive;
        let unnoticed = interval + timeout + self.network.connect_timeout;
        if self.lease.duration < unnoticed {
            warnings.push(format!(
                "placement.lease: shorter than network.keep_alive_interval, keep_alive_timeout and \
                 connect_timeout together ({unnoticed:?}), so a node that lives may lose it when a \
                 connection dies in silence"
            ));
        }
        warnings
    }
}

impl ClusterConfig {
    /// Returns which shard each channel belongs to.
    #[must_use]
    pub fn shard_map(&self) -> ShardMap {
        ShardMap::new(self.shards, &self.pins)
    }

    /// Checks that channels are divided as the cluster divides them.
    pub(crate) fn check_settled(&self, facts: &ClusterFacts) -> Result<(), StartError> {
        if self.shards != facts.divided() {
            return Err(StartError::Settled {
                key: "cluster.shards",
                settled: facts.divided().to_string(),
                configured: self.shards.to_string(),
            });
        }
        let told = |pins: &[Pin]| {
            let told = pins
                .iter()
                .map(|pin| format!("{:?} in {} shards", pin.prefix, pin.shards));
            let told: Vec<String> = told.collect();
            if told.is_empty() {
                "none".to_owned()
            } else {
                told.join(", ")
            }
        };
        let (settled, configured) = (told(&facts.pins), told(&self.pins));
        if settled == configured {
            return Ok(());
        }
        Err(StartError::Settled {
            key: "placement.pins",
            settled,
            configured,
        })
    }

    /// Returns the hash by which nodes see that they agree on this section and on pins: FNV-1a of its canonical
    /// text, fixed for ever.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let Self {
            name,
            shards,
            pins,
            timing,
        } = self;
        let mut text =
            format!("headcount cluster 1\nname={name}\nshards={shards}\ntiming={timing}\n");
        // Not their homes, which may change.
        for Pin { prefix, shards, .. } in pins {
            text.push_str(&format!("pin={shards} {prefix:?}\n"));
        }
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Fingerprint(hash)
    }
}

impl NodeConfig {
    /// Returns the address to tell others for a listener that was bound to `bound`: the advertised
    /// host, else the address itself, else (it is any address) `machine`, the machine's name.
    #[must_use]
    pub fn advertised(&self, bound: SocketAddr, machine: &str) -> String {
        let host = match (&self.advertise_host, bound.ip()) {
            (Some(host), _) if host.contains(':') => format!("[{host}]"),
            (Some(host), _) => host.clone(),
            (None, ip) if ip.is_unspecified() => machine.to_owned(),
            (None, IpAddr::V4(ip)) => ip.to_string(),
            (None, IpAddr::V6(ip)) => format!("[{ip}]"),
        };
        format!("{host}:{}", bound.port())
    }
}

/// Returns the machine's name, or `localhost` if it has none.
#[must_use]
pub fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name.to_owned()
    }
}
