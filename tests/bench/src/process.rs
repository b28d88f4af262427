//! A process that is measured: what it holds and what it used.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::process::{Child, Command};

/// A process of our own, killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program that says nothing.
    pub(crate) fn start(program: &Path, arguments: &[&str]) -> Result<Self> {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        Ok(Self(child))
    }

    /// Returns whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// Processor time so far, of user and system.
    pub(crate) fn processor(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(self.file("stat")?)?;
        let rest = stat.rsplit_once(')').context("no name in stat")?.1;
        // The 14th and 15th field of the file, in ticks of 10 ms.
        let ticks = rest.split_whitespace().skip(11).take(2);
        let ticks: Vec<u64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
        Ok(Duration::from_millis(10) * u32::try_from(ticks.iter().sum::<u64>())?)
    }

    /// Bytes in memory.
    pub(crate) fn resident(&self) -> Result<u64> {
        let id = self.0.id().context("the process has ended")?;
        Self::resident_of(&id.to_string())
    }

    /// Bytes in memory of the process with this name in `/proc`.
    pub(crate) fn resident_of(process: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        let kilobytes: u64 = kilobytes.context("no VmRSS in status")?.parse()?;
        Ok(kilobytes * 1_024)
    }

    fn file(&self, file: &str) -> Result<String> {
        let id = self.0.id().context("the process has ended")?;
        Ok(format!("/proc/{id}/{file}"))
    }

    /// Ends it, and waits for that.
    pub(crate) async fn stop(mut self) {
        drop(self.0.kill().await);
    }
}

/// Processor time of this thread.
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
