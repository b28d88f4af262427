//! The nodes that are measured, as processes of the `headcount` binary.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::process::Process;

/// The key that reports and reads.
pub(crate) const KEY: &str = "dev.root:root-secret";

/// How long nodes may take to be ready.
const START: Duration = Duration::from_secs(120);

/// A node on its own.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) process: Process,
    port: u16,
    http: reqwest::Client,
    _data: tempfile::TempDir,
}

impl Nodes {
    /// Starts one node, the only one of its cluster, with these settings over the defaults.
    pub(crate) async fn single(binary: &Path, port: u16, settings: &[&str]) -> Result<Self> {
        let data = tempfile::tempdir()?;
        Self::serve(binary, port, settings, data).await
    }

    async fn serve(
        binary: &Path,
        port: u16,
        settings: &[&str],
        data: tempfile::TempDir,
    ) -> Result<Self> {
        let file = data.path().join("node.toml");
        let text = format!(
            r#"
            node.region = "here"
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
        let mut arguments = vec!["serve", "--init", "--config", file];
        arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        Self::start(binary, &arguments, port, 1, data).await
    }

    async fn start(
        binary: &Path,
        arguments: &[&str],
        port: u16,
        count: u16,
        data: tempfile::TempDir,
    ) -> Result<Self> {
        let process = Process::start(binary, arguments)?;
        let nodes = Self {
            process,
            port,
            http: reqwest::Client::new(),
            _data: data,
        };
        let begun = Instant::now();
        for node in 0..count {
            let url = format!("http://{}/readyz", nodes.address(node, 3));
            loop {
                let answer = nodes.http.get(&url).send().await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    break;
                }
                if begun.elapsed() > START {
                    bail!("node {node} did not become ready");
                }
                // allow-sleep: polls for a condition with a deadline
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
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

    /// Returns a channel's global count of connections, 0 for one that is not active.
    pub(crate) async fn connections(&self, node: u16, channel: &str) -> Result<u64> {
        let answer = self.get(node, &format!("/channels/{channel}")).await?;
        let details: Value = answer.json().await?;
        let connections = details.pointer("/status/occupancy/metrics/connections");
        connections
            .and_then(Value::as_u64)
            .context("the status has no count of connections")
    }

    /// Waits until a node tells that many connections of a channel.
    pub(crate) async fn wait_for(&self, node: u16, channel: &str, expected: u64) -> Result<()> {
        let begun = Instant::now();
        loop {
            let told = self.connections(node, channel).await?;
            if told == expected {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < START,
                "{channel} has {told} connections and not {expected}"
            );
            // allow-sleep: polls for a condition with a deadline
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
