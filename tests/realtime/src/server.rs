//! The cluster that is measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, Command};

use crate::client::Client;

/// How long the cluster may take to be there.
const START: Duration = Duration::from_secs(60);

/// A development cluster in a process of its own.
pub(crate) struct Server {
    process: Child,
    port: u16,
    _data: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start(binary: &Path, port: u16) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let process = Command::new(binary)
            .arg("dev")
            .args(["--port", &port.to_string()])
            .arg("--data-dir")
            .arg(data.path())
            .args(["--set", "realtime.connects_per_second=100000"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} is not there (make release)", binary.display()))?;
        let server = Self {
            process,
            port,
            _data: data,
        };
        let begun = Instant::now();
        for address in [server.first(), server.second()] {
            while Client::connect(address, false).await.is_err() {
                if begun.elapsed() > START {
                    bail!("the cluster did not start");
                }
                // allow-sleep: polls for a condition with a deadline
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(server)
    }

    /// The client port of the first region.
    pub(crate) fn first(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The client port of the second region.
    pub(crate) fn second(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port + 10).into()
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident(&self) -> Result<usize> {
        let status = std::fs::read_to_string(self.proc("status")?)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next());
        Ok(kib.context("VmRSS is not told")?.parse::<usize>()? * 1024)
    }

    /// Processor time so far.
    pub(crate) fn processor(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(self.proc("stat")?)?;
        let rest = stat.rsplit_once(')').context("no name in stat")?.1;
        // The 14th and 15th field of the file, in ticks of 10 ms.
        let ticks = rest.split_whitespace().skip(11).take(2);
        let ticks: Vec<u64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
        Ok(Duration::from_millis(10) * u32::try_from(ticks.iter().sum::<u64>())?)
    }

    fn proc(&self, file: &str) -> Result<String> {
        let id = self.process.id().context("the cluster has ended")?;
        Ok(format!("/proc/{id}/{file}"))
    }

    pub(crate) async fn stop(mut self) {
        drop(self.process.kill().await);
    }
}
