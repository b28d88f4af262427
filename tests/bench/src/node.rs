//! The nodes that are measured, as processes of the `headcount` binary.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::process::Process;

/// The key that reports and reads.
pub(crate) const KEY: &str = "dev.root:root-secret";

/// How long nodes may take to be ready.
const START: Duration = Duration::from_secs(300);

/// A node on its own.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) process: Process,
    port: u16,
    http: reqwest::Client,
    command: Command,
    data: tempfile::TempDir,
}

/// How they are started.
#[derive(Clone, Debug)]
struct Command {
    binary: PathBuf,
    arguments: Vec<String>,
    count: u16,
}

impl Nodes {
    /// Starts one node, the only one of its cluster, with these settings over the defaults.
    pub(crate) async fn single(binary: &Path, port: u16, settings: &[&str]) -> Result<Self> {
        Self::serve(binary, port, "here", None, settings).await
    }

    /// Starts the node of a region, which joins the cluster of the node at another port, if any.
    pub(crate) async fn serve(
        binary: &Path,
        port: u16,
        region: &str,
        join: Option<u16>,
        settings: &[&str],
    ) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let file = data.path().join("node.toml");
        let text = format!(
            r#"
            node.region = "{region}"
            node.data_dir = "{data}"
            listen.client = "127.0.0.1:{client}"
            listen.reporter = "127.0.0.1:{reporter}"
            listen.peer = "127.0.0.1:{peer}"
            listen.admin = "127.0.0.1:{admin}"
            admin.open_on_loopback = true
            telemetry.log = "warn"
            [[app]]
            id = "dev"
            [[app.key]]
            id = "root"
            secret = "root-secret"
            capability = {{ "[*]*" = ["*"] }}
            "#,
            data = data.path().join("node").display(),
            client = port,
            reporter = port + 1,
            peer = port + 2,
            admin = port + 3,
        );
        std::fs::write(&file, text)?;
        let file = file.to_str().context("the path is not text")?;
        let other = join.map(|join| format!("127.0.0.1:{}", join + 2));
        let mut arguments = match &other {
            None => vec!["serve", "--init"],
            Some(other) => vec!["join", other],
        };
        arguments.extend(["--config", file]);
        arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        let command = Command::new(binary, &arguments, 1);
        let mut nodes = Self::start(command, port, data)?;
        nodes.wait_until_ready().await?;
        Ok(nodes)
    }

    /// Starts three regions in one process, with these flags.
    pub(crate) async fn three(binary: &Path, port: u16, flags: &[&str]) -> Result<Self> {
        let port_flag = port.to_string();
        let mut arguments = vec!["dev", "--port", &port_flag];
        arguments.extend(flags);
        let command = Command::new(binary, &arguments, 3);
        let mut nodes = Self::start(command, port, tempfile::tempdir()?)?;
        nodes.wait_until_ready().await?;
        Ok(nodes)
    }

    fn start(command: Command, port: u16, data: tempfile::TempDir) -> Result<Self> {
        let arguments: Vec<&str> = command.arguments.iter().map(String::as_str).collect();
        let process = Process::start(&command.binary, &arguments)?;
        Ok(Self {
            process,
            port,
            http: reqwest::Client::new(),
            command,
            data,
        })
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        for node in 0..self.command.count {
            let url = format!("http://{}/readyz", self.address(node, 3));
            loop {
                let answer = self.http.get(&url).send().await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    break;
                }
                // Else another node that has its ports would be measured.
                ensure!(!self.process.has_ended()?, "the nodes have ended");
                if begun.elapsed() > START {
                    bail!("node {node} did not become ready");
                }
                // allow-sleep: polls for a condition with a deadline
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Kills it, starts it again on the same data, and waits until it lists channels, which takes all
    /// shards, and tells one connection of a channel.
    pub(crate) async fn killed_and_started_again(self, channel: &str) -> Result<Self> {
        let Self {
            process,
            port,
            command,
            data,
            ..
        } = self;
        process.stop().await;
        let nodes = Self::start(command, port, data)?;
        let begun = Instant::now();
        // A node that is not there yet waits for itself, longer than is of use here.
        let patience = Duration::from_millis(200);
        let lists = async || {
            let listing = nodes.get(0, "/channels?limit=1");
            matches!(tokio::time::timeout(patience, listing).await, Ok(Ok(_)))
        };
        while !(lists().await && matches!(nodes.connections(0, channel).await, Ok(1))) {
            ensure!(begun.elapsed() < START, "the node does not serve reads");
            // allow-sleep: polls for a condition with a deadline
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(nodes)
    }

    fn address(&self, node: u16, listener: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port + 10 * node + listener).into()
    }

    /// Where clients of a node connect.
    pub(crate) fn client(&self, node: u16) -> SocketAddr {
        self.address(node, 0)
    }

    /// Where edges and watchers of a node connect.
    pub(crate) fn reporter(&self, node: u16) -> SocketAddr {
        self.address(node, 1)
    }

    /// Asks a node over REST.
    pub(crate) async fn get(&self, node: u16, path: &str) -> Result<reqwest::Response> {
        let url = format!("http://{}{path}", self.client(node));
        let (name, secret) = KEY.split_once(':').context("a key has two parts")?;
        let request = self.http.get(url).basic_auth(name, Some(secret));
        let answer = request.send().await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        Ok(answer)
    }

    /// Returns a metric without labels, of the whole process; 0 before it is first counted.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64> {
        let url = format!("http://{}/metrics", self.address(0, 3));
        let text = self.http.get(url).send().await?.error_for_status()?;
        let text = text.text().await?;
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let value = lines.find(|(found, _)| *found == name);
        Ok(value.map_or(Ok(0.0), |(_, value)| value.parse())?)
    }

    /// Returns a channel's global count of connections, 0 for one that is not active.
    pub(crate) async fn connections(&self, node: u16, channel: &str) -> Result<u64> {
        self.count(node, channel, "connections").await
    }

    /// Returns one of the metrics of a channel's occupancy.
    async fn count(&self, node: u16, channel: &str, metric: &str) -> Result<u64> {
        let answer = self.get(node, &format!("/channels/{channel}")).await?;
        let details: Value = answer.json().await?;
        let metrics = details.pointer("/status/occupancy/metrics");
        metrics
            .and_then(|metrics| metrics[metric].as_u64())
            .with_context(|| format!("the status has no {metric}"))
    }

    /// Waits until a node tells that many connections of a channel.
    pub(crate) async fn wait_for(&self, node: u16, channel: &str, expected: u64) -> Result<()> {
        self.wait_for_count(node, channel, "connections", expected)
            .await
    }

    /// Waits until a node tells that count of a channel's occupancy.
    pub(crate) async fn wait_for_count(
        &self,
        node: u16,
        channel: &str,
        metric: &str,
        expected: u64,
    ) -> Result<()> {
        let begun = Instant::now();
        loop {
            let told = self.count(node, channel, metric).await?;
            if told == expected {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < START,
                "{channel} has {told} {metric} and not {expected}"
            );
            // allow-sleep: polls for a condition with a deadline
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Command {
    fn new(binary: &Path, arguments: &[&str], count: u16) -> Self {
        Self {
            binary: binary.to_owned(),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            count,
        }
    }
}
