//! `headcount dev`: three regions in one process, on loopback, with keys that everybody knows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use futures::FutureExt;
use futures::future::{join_all, select_all, try_join_all};
use headcount_model::RegionName;
use headcount_node::config::{Config, DEV_KEYS, DEV_REGIONS, RawConfig, Sources, load};
use headcount_node::telemetry::{self, LogFormat};
use headcount_node::{Founding, Listeners, Node, Options};
use serde_json::json;
use tempfile::TempDir;

use crate::cli::Dev;
use crate::failure::Failure;
use crate::kept::Kept;
use crate::output::{Output, complain, table};
use crate::serve::Signals;

/// How long the three nodes may take to become ready together; a start takes about two seconds.
const START: Duration = Duration::from_secs(60);

/// Round trips between the regions under `--wan`, in milliseconds; half of it is each way's delay.
/// Rounded from what large clouds publish.
pub(crate) const ROUND_TRIPS_MS: [(&str, &str, u64); 3] = [
    ("us-east-1", "eu-west-1", 80),
    ("us-east-1", "ap-southeast-1", 220),
    ("eu-west-1", "ap-southeast-1", 240),
];

/// What is logged unless `--log` says otherwise.
const LOG: &str = "warn";

/// One region of a running development cluster.
#[derive(Clone, Debug)]
pub(crate) struct DevRegion {
    pub(crate) name: &'static str,
    /// `http://…` of the client listener.
    pub(crate) client: String,
    /// `http://…` of the reporter listener.
    pub(crate) reporter: String,
    /// `http://…` of the admin listener.
    pub(crate) admin: String,
}

/// A running development cluster.
pub(crate) struct DevCluster {
    nodes: Vec<Node>,
    pub(crate) regions: Vec<DevRegion>,
    shards: u32,
    /// How long a region waits before it says that a channel is inactive there.
    pub(crate) linger: Duration,
    kept_in: Option<PathBuf>,
    /// Removed with everything in it when dropped.
    _forgotten: Option<TempDir>,
}

pub(crate) async fn run(arguments: &Dev, output: Output) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let cluster = tokio::select! {
        cluster = DevCluster::start(arguments, output) => cluster?,
        () = signals.next() => return Ok(()),
    };
    cluster.introduce(arguments, output)?;
    cluster.run_until(&mut signals).await
}

impl DevCluster {
    /// Starts the three nodes and waits until they are ready.
    pub(crate) async fn start(arguments: &Dev, output: Output) -> Result<Self, Failure> {
        let log = arguments.log.as_deref().unwrap_or(LOG);
        telemetry::log_lines(log, LogFormat::Text)
            .map_err(|error| Failure::usage(format!("--log: {error}")))?;
        let (data_dir, forgotten) = match &arguments.data_dir {
            Some(directory) => (directory.clone(), None),
            None => {
                let directory = tempfile::Builder::new().prefix("headcount-dev-").tempdir();
                let directory = directory
                    .context("no place for data")
                    .map_err(Failure::from)?;
                (directory.path().to_owned(), Some(directory))
            }
        };
        let kept = match &arguments.data_dir {
            Some(directory) => Kept::read(directory)?,
            None => None,
        };
        if let Some(kept) = &kept {
            kept.check(arguments)?;
        }
        // All of them before anything is bound, so that a fault is told before anything starts.
        for index in 0..DEV_REGIONS.len() {
            config(arguments, index, &data_dir, kept.as_ref(), None)?;
        }
        output.say("Starting three regions …")?;
        let mut nodes = Vec::new();
        let mut regions = Vec::new();
        let mut ports = Vec::new();
        let mut first_peer = None;
        let (mut shards, mut linger) = (0, Duration::ZERO);
        for (index, name) in DEV_REGIONS.into_iter().enumerate() {
            let config = config(arguments, index, &data_dir, kept.as_ref(), first_peer)?;
            (shards, linger) = (config.cluster.shards, config.region.linger);
            let listeners = Listeners::bind(&config).await.map_err(port_hint)?;
            let address = |listener: &headcount_node::Listener| -> Result<SocketAddr, Failure> {
                listener.local_addr().map_err(Failure::failed)
            };
            ports.push([
                address(&listeners.client)?.port(),
                address(&listeners.reporter)?.port(),
                address(&listeners.peer)?.port(),
                address(&listeners.admin)?.port(),
            ]);
            first_peer = Some(first_peer.unwrap_or(address(&listeners.peer)?));
            regions.push(DevRegion {
                name,
                client: format!("http://{}", address(&listeners.client)?),
                reporter: format!("http://{}", address(&listeners.reporter)?),
                admin: format!("http://{}", address(&listeners.admin)?),
            });
            let founding = if index == 0 {
                Founding::Init
            } else {
                Founding::Join
            };
            let delays = if arguments.wan {
                delays(name)?
            } else {
                BTreeMap::new()
            };
            let options = Options {
                founding,
                delays,
                ..Options::default()
            };
            let node = Node::start(config, listeners, options).await;
            nodes.push(node.map_err(Failure::failed)?);
        }
        if let Some(directory) = &arguments.data_dir {
            let port = arguments.port;
            Kept {
                port,
                shards,
                ports,
            }
            .write(directory)?;
        }
        try_join_all(nodes.iter().map(|node| node.wait_ready(START)))
            .await
            .context("the development cluster did not become ready")
            .map_err(Failure::from)?;
        let kept_in = arguments.data_dir.clone();
        Ok(Self {
            nodes,
            regions,
            shards,
            linger,
            kept_in,
            _forgotten: forgotten,
        })
    }

    /// Says where everything is.
    pub(crate) fn introduce(&self, arguments: &Dev, output: Output) -> Result<(), Failure> {
        if output.is_json() {
            let regions = self.regions.iter().map(|region| {
                json!({ "region": region.name, "client": region.client,
                        "reporter": region.reporter, "admin": region.admin })
            });
            let keys =
                DEV_KEYS.map(|key| json!({ "key": full_key(&key), "capability": key.capability }));
            return output.json(&json!({
                "event": "ready", "regions": regions.collect::<Vec<_>>(), "keys": keys,
                "shards": self.shards, "wan": arguments.wan,
            }));
        }
        let rows: Vec<_> = self
            .regions
            .iter()
            .map(|region| {
                [
                    region.name.to_owned(),
                    region.client.clone(),
                    region.reporter.clone(),
                    region.admin.clone(),
                ]
            })
            .collect();
        let state = self.kept_in.as_ref().map_or_else(
            || "state is forgotten at the end".to_owned(),
            |directory| format!("state is kept in {}", directory.display()),
        );
        let latency = if arguments.wan {
            ", wide-area latencies emulated"
        } else {
            ""
        };
        let mut text = format!(
            "Headcount runs: three regions in this process, {} shards{latency}; {state}.\n\n",
            self.shards
        );
        let headings = ["region", "clients (REST, SSE)", "edges (gRPC)", "operators"];
        text.push_str(&table(headings, &rows));
        let keys: Vec<_> = DEV_KEYS
            .iter()
            .map(|key| [full_key(key), key.capability.to_owned()])
            .collect();
        text.push('\n');
        text.push_str(&table(["key", "may"], &keys));
        let (here, there) = (&self.regions[0], &self.regions[1]);
        text.push_str(&format!(
            "\nTry, in another terminal:\n  \
             curl -u dev.root:root-secret {}/channels\n  \
             curl -N -u dev.root:root-secret {}/events\n  \
             headcount load --key dev.root:root-secret --reporter {},{}\n  \
             headcount cluster status --admin {}\n\nCtrl-C ends it.",
            here.client, there.client, here.reporter, there.reporter, here.admin
        ));
        output.line(&text)
    }

    /// Leaves the cluster running until somebody asks it to end, or a node has to.
    pub(crate) async fn run_until(self, signals: &mut Signals) -> Result<(), Failure> {
        let reason = tokio::select! {
            (reason, index, _) = select_all(self.nodes.iter().map(|node| node.stopped().boxed())) => {
                Some((reason, DEV_REGIONS[index]))
            }
            () = signals.next() => None,
        };
        self.shutdown().await;
        match reason {
            None => Ok(()),
            Some((reason, region)) => {
                let error = anyhow::anyhow!("the node of {region} had to stop: {reason}");
                Err(Failure::Failed(error))
            }
        }
    }

    /// Ends all nodes.
    pub(crate) async fn shutdown(self) {
        join_all(self.nodes.into_iter().map(Node::shutdown)).await;
    }
}

/// Returns `app.key:secret`.
fn full_key(key: &headcount_node::config::DevKey) -> String {
    format!("{}.{}:{}", key.app, key.id, key.secret)
}

/// Makes the settings of one node; the first one's peer address is known once it is bound.
fn config(
    arguments: &Dev,
    index: usize,
    data_dir: &Path,
    kept: Option<&Kept>,
    first_peer: Option<SocketAddr>,
) -> Result<Config, Failure> {
    let own = |flag: &&String| flag.starts_with("node.") || flag.starts_with("listen.");
    if let Some(flag) = arguments.set.iter().find(own) {
        return Err(Failure::usage(format!(
            "--set {flag}: each of dev's three nodes has its own; use --port, --data-dir, or \
             `headcount serve`"
        )));
    }
    let mut base = RawConfig::dev(index, &data_dir.join(DEV_REGIONS[index]));
    if arguments.wan {
        "wan".clone_into(&mut base.cluster.timing);
    }
    if let Some(shards) = arguments.shards.or(kept.map(|kept| kept.shards)) {
        base.cluster.shards = shards;
    }
    let listen = &mut base.listen;
    let listeners = [
        &mut listen.client,
        &mut listen.reporter,
        &mut listen.peer,
        &mut listen.admin,
    ];
    for (place, listener) in (0_u16..).zip(listeners) {
        let offset = 10 * u16::try_from(index).unwrap_or(0) + place;
        let port = if arguments.port == 0 {
            // Any free one at first, and the same ever after.
            let kept = kept.and_then(|kept| kept.ports.get(index));
            Some(kept.map_or(0, |ports| ports[usize::from(place)]))
        } else {
            arguments.port.checked_add(offset)
        };
        let port = port.ok_or_else(|| Failure::usage("--port: must be at most 65512"))?;
        *listener = format!("127.0.0.1:{port}");
    }
    if index > 0 {
        base.node.join = first_peer
            .map(|peer| peer.to_string())
            .into_iter()
            .collect();
    }
    let mut flags = arguments.set.clone();
    if let Some(shards) = arguments.shards {
        // As a flag too, so that its bounds are checked.
        flags.push(format!("cluster.shards={shards}"));
    }
    Ok(load(Sources {
        base,
        flags: &flags,
        ..Sources::defaults()
    })?
    .config)
}

fn port_hint(error: headcount_node::StartError) -> Failure {
    let hint = "is `headcount dev` running already? --port chooses other ports, 0 any free ones";
    complain(&format!("hint: {hint}"));
    Failure::failed(error)
}

/// Returns the emulated one-way delays from a region to the others.
fn delays(from: &str) -> Result<BTreeMap<RegionName, Duration>, Failure> {
    let mut delays = BTreeMap::new();
    for (one, other, round_trip_ms) in ROUND_TRIPS_MS {
        let to = match from {
            from if from == one => other,
            from if from == other => one,
            _ => continue,
        };
        let region = RegionName::new(to).map_err(Failure::failed)?;
        delays.insert(region, Duration::from_millis(round_trip_ms / 2));
    }
    Ok(delays)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn arguments(line: &str) -> Dev {
        let line = format!("headcount dev {line}");
        match Cli::try_parse_from(line.split_whitespace())
            .unwrap()
            .command
        {
            Command::Dev(arguments) => arguments,
            other => panic!("{other:?}"),
        }
    }

    fn configured(line: &str, index: usize) -> Result<Config, Failure> {
        config(
            &arguments(line),
            index,
            Path::new("x"),
            None,
            Some("127.0.0.1:7".parse().unwrap()),
        )
    }

    #[test]
    fn flags_change_all_three_nodes_alike() {
        for index in 0..3 {
            let config = configured("--wan --shards 4 --set region.linger=1s", index).unwrap();
            assert_eq!(config.cluster.shards, 4);
            assert_eq!(config.cluster.timing.as_str(), "wan");
            assert_eq!(config.region.linger, Duration::from_secs(1));
            assert_eq!(config.node.join.len(), usize::from(index > 0));
        }
        let config = configured("--set cluster.timing=regional --wan", 0).unwrap();
        assert_eq!(
            config.cluster.timing.as_str(),
            "regional",
            "the flag is nearer"
        );
    }

    #[test]
    fn ports_can_be_moved_or_left_to_the_system() {
        assert_eq!(
            configured("--port 9000", 2).unwrap().listen.admin.port(),
            9023
        );
        assert_eq!(configured("--port 0", 2).unwrap().listen.admin.port(), 0);
        assert!(matches!(
            configured("--port 65530", 2),
            Err(Failure::Usage(_))
        ));
    }

    #[test]
    fn what_belongs_to_one_node_cannot_be_set_for_three() {
        for flag in ["node.region=x", "listen.client=127.0.0.1:1"] {
            let result = configured(&format!("--set {flag}"), 0);
            assert!(matches!(result, Err(Failure::Usage(_))), "{flag}");
        }
        assert!(matches!(
            configured("--shards 0", 0),
            Err(Failure::Config(_))
        ));
    }

    #[test]
    fn every_pair_of_regions_has_a_delay() {
        for (region, expected) in [
            ("us-east-1", [("ap-southeast-1", 110), ("eu-west-1", 40)]),
            ("eu-west-1", [("ap-southeast-1", 120), ("us-east-1", 40)]),
            ("ap-southeast-1", [("eu-west-1", 120), ("us-east-1", 110)]),
        ] {
            let delays = delays(region).unwrap();
            let delays = delays
                .iter()
                .map(|(to, delay)| (to.as_str(), delay.as_millis()));
            assert_eq!(delays.collect::<Vec<_>>(), expected);
        }
    }
}
