//! Real nodes, each in a network namespace and on a disk of its own.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cage;
use crate::fabric::Fabric;

/// The key that may do everything.
pub(crate) const KEY: &str = "chaos.root:a-secret-of-tests-only";

/// What operators bring.
const TOKEN: &str = "a-token-of-tests-only";

/// Ports of every node, each at its own address.
const CLIENT: u16 = 8080;
const REPORTER: u16 = 8081;
const PEER: u16 = 8082;
const ADMIN: u16 = 8083;

/// Where Debian has the libraries that stand between a program and the system.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
const FIU: [&str; 2] = [
    "/usr/lib/fiu/fiu_run_preload.so",
    "/usr/lib/fiu/fiu_posix_preload.so",
];

/// What a cluster is like.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The binary of the nodes.
    pub(crate) binary: PathBuf,
    /// Where configurations, logs and disks are.
    pub(crate) home: PathBuf,
    /// What control groups are called.
    pub(crate) group: String,
    /// Regions by name, with how many nodes each has.
    pub(crate) regions: Vec<(String, usize)>,
    /// Further settings of each node, `section.key=value`.
    pub(crate) settings: Vec<String>,
    /// Size of each node's disk.
    pub(crate) disk_mib: u32,
    /// Round trips between regions, in the order 0–1, 0–2, 1–2.
    pub(crate) round_trips_ms: [u64; 3],
    /// From what chance is drawn.
    pub(crate) seed: u64,
    /// Whether some nodes run under libraries that change their clock or fail their disk.
    pub(crate) tricks: bool,
}

/// What stands between a node and the system, from its start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trick {
    /// Nothing.
    None,
    /// Its wall clock can be set.
    Clock,
    /// Its syncs can be made to fail.
    Disk,
}

/// A node's place.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its region's index.
    pub(crate) region: usize,
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// What stands between it and the system.
    pub(crate) trick: Trick,
    disk: PathBuf,
    config: PathBuf,
    log: PathBuf,
    group: Option<PathBuf>,
    life: Mutex<Life>,
}

#[derive(Debug, Default)]
struct Life {
    process: Option<Child>,
    starts: u64,
    /// Whether it ever was told to found the cluster.
    founded: bool,
}

/// The cluster.
pub(crate) struct Cluster {
    /// The plan that it follows.
    pub(crate) plan: Plan,
    /// All nodes.
    pub(crate) nodes: Vec<Node>,
    /// What joins them; host `nodes.len()` is this process.
    pub(crate) fabric: Fabric,
    /// For asking over HTTP.
    pub(crate) http: reqwest::Client,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// Makes namespaces, disks and ways, and no process yet.
    pub(crate) fn make(plan: Plan) -> Result<Self> {
        let mut nodes = Vec::new();
        for (region, (_, count)) in plan.regions.iter().enumerate() {
            for _ in 0..*count {
                nodes.push(Node::new(&plan, nodes.len(), region)?);
            }
        }
        let own = Ipv4Addr::new(10, 88, 0, 1);
        let hosts: Vec<Ipv4Addr> = nodes.iter().map(|node| node.address).chain([own]).collect();
        let fabric = Fabric::start(&hosts, plan.seed)?;
        // Names of namespaces are files; those of the machine are none of ours.
        std::fs::create_dir_all("/run/netns")?;
        cage::run("mount", &["-t", "tmpfs", "headcount-chaos", "/run/netns"])?;
        cage::run("ip", &["link", "set", "lo", "up"])?;
        let here = format!("hc-{}", nodes.len());
        cage::run("ip", &["addr", "add", &format!("{own}/16"), "dev", &here])?;
        cage::run("ip", &["link", "set", &here, "up"])?;
        for (index, node) in nodes.iter().enumerate() {
            let (name, device) = (format!("n{index}"), format!("hc-{index}"));
            cage::run("ip", &["netns", "add", &name])?;
            cage::run("ip", &["link", "set", &device, "netns", &name])?;
            let address = format!("{}/16", node.address);
            cage::run(
                "ip",
                &["-n", &name, "addr", "add", &address, "dev", &device],
            )?;
            cage::run("ip", &["-n", &name, "link", "set", &device, "up"])?;
            cage::run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
        }
        let http = reqwest::Client::builder();
        let http = http.no_proxy().connect_timeout(Duration::from_secs(2));
        let cluster = Self {
            plan,
            nodes,
            fabric,
            http: http.build()?,
        };
        cluster.heal_ways();
        Ok(cluster)
    }

    /// Makes all ways as they are when nothing is broken.
    pub(crate) fn heal_ways(&self) {
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                self.heal_way(from, to);
            }
        }
    }

    /// Makes one direction as it is when nothing is broken.
    pub(crate) fn heal_way(&self, from: usize, to: usize) {
        let mut pair = [self.nodes[from].region, self.nodes[to].region];
        pair.sort_unstable();
        let round_trip = match pair {
            [0, 1] => self.plan.round_trips_ms[0],
            [0, 2] => self.plan.round_trips_ms[1],
            [1, 2] => self.plan.round_trips_ms[2],
            _ => 0,
        };
        self.fabric.set(from, to, |quality| {
            *quality = crate::wan::Quality {
                delay: Duration::from_micros(round_trip * 500),
                ..crate::wan::Quality::default()
            };
        });
    }

    /// Cuts every way to and from some nodes, that of the driver, too, or joins them again: nothing
    /// tells anybody that they are gone, as where power is lost.
    pub(crate) fn silence(&self, nodes: &[usize], silent: bool) {
        // The driver is the last host.
        let hosts = 0..=self.nodes.len();
        let pairs = nodes
            .iter()
            .flat_map(|node| hosts.clone().map(move |other| (*node, other)));
        for (node, other) in pairs.filter(|(node, other)| node != other) {
            let cut = |quality: &mut crate::wan::Quality| quality.cut = silent;
            self.fabric.set(node, other, cut);
            self.fabric.set(other, node, cut);
        }
    }

    /// Starts all nodes; the first founds the cluster.
    pub(crate) fn start_all(&self) -> Result<()> {
        (0..self.nodes.len()).try_for_each(|node| self.start(node))
    }

    /// Starts a node that does not run, on what it left.
    pub(crate) fn start(&self, node: usize) -> Result<()> {
        let Node {
            config,
            log,
            trick,
            group,
            life,
            ..
        } = &self.nodes[node];
        let mut life = lock(life);
        if life.process.is_some() {
            bail!("node {node} runs");
        }
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/n{node}")).arg("--");
        match trick {
            Trick::None => {}
            Trick::Clock => {
                let clock = self.clock_file(node);
                if !clock.exists() {
                    std::fs::write(&clock, "+0")?;
                }
                command.args(["env", &format!("LD_PRELOAD={FAKETIME}")]);
                command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()));
                command.args([
                    "FAKETIME_DONT_FAKE_MONOTONIC=1",
                    "FAKETIME_CACHE_DURATION=1",
                ]);
            }
            Trick::Disk => {
                command.args(["env", &format!("LD_PRELOAD={}", FIU.join(":"))]);
                command.arg(format!(
                    "FIU_CTRL_FIFO={}",
                    self.plan.home.join("fiu").display()
                ));
            }
        }
        command
            .arg(&self.plan.binary)
            .arg("serve")
            .arg("--config")
            .arg(config);
        if node == 0 && !life.founded {
            command.arg("--init");
            life.founded = true;
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // What is sent to the run from a terminal is not for its nodes.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let process = command.spawn().context("cannot run `nsenter`")?;
        if let Some(group) = group {
            // A node that was bounded before starts without bounds.
            std::fs::write(group.join("memory.limit_in_bytes"), "-1")?;
            std::fs::write(group.join("cgroup.procs"), process.id().to_string())?;
        }
        life.starts += 1;
        life.process = Some(process);
        Ok(())
    }

    /// Sends a signal to a node; returns whether it runs.
    pub(crate) fn signal(&self, node: usize, signal: Signal) -> Result<bool> {
        let life = lock(&self.nodes[node].life);
        let Some(process) = &life.process else {
            return Ok(false);
        };
        kill_process(Pid::from_child(process), signal)?;
        Ok(true)
    }

    /// Ends a node as `kill -9` does, if it runs.
    pub(crate) fn kill(&self, node: usize) -> Result<()> {
        let process = lock(&self.nodes[node].life).process.take();
        if let Some(mut process) = process {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Returns how a node ended by itself, if it did since it was started.
    pub(crate) fn ended(&self, node: usize) -> Result<Option<ExitStatus>> {
        let mut life = lock(&self.nodes[node].life);
        let Some(process) = &mut life.process else {
            return Ok(None);
        };
        let status = process.try_wait()?;
        if status.is_some() {
            life.process = None;
        }
        Ok(status)
    }

    /// Returns whether a node's process is there.
    pub(crate) fn runs(&self, node: usize) -> bool {
        lock(&self.nodes[node].life).process.is_some()
    }

    /// Returns how often a node was started.
    pub(crate) fn starts(&self, node: usize) -> u64 {
        lock(&self.nodes[node].life).starts
    }

    /// Asks a node to end in good order, and waits until it has.
    pub(crate) async fn stop(&self, node: usize) -> Result<()> {
        self.signal(node, Signal::TERM)?;
        let why = format!("node {node} ends when it is asked to");
        let status = wait_until(why, Duration::from_secs(60), async || {
            self.ended(node)
                .map_err(said)?
                .ok_or_else(|| "it goes on".to_owned())
        });
        let status = status.await?;
        anyhow::ensure!(status.success(), "node {node} ended with {status}");
        Ok(())
    }

    /// Removes all that a node has on its disk.
    pub(crate) fn wipe(&self, node: usize) -> Result<()> {
        Ok(std::fs::remove_dir_all(self.data_dir(node))?)
    }

    /// Returns where a node's data is.
    pub(crate) fn data_dir(&self, node: usize) -> PathBuf {
        self.nodes[node].disk.join("data")
    }

    /// Runs an operator's command against a node.
    pub(crate) fn operate(&self, node: usize, arguments: &[&str]) -> Result<String> {
        let admin = format!("http://{}:{ADMIN}", self.nodes[node].address);
        let binary = self
            .plan
            .binary
            .to_str()
            .context("the binary's path is UTF-8")?;
        let all = [&["cluster", "--admin", &admin, "--token", TOKEN], arguments].concat();
        cage::run(binary, &all)
    }

    /// Fills a node's disk to the last byte.
    pub(crate) fn fill(&self, node: usize) -> Result<()> {
        let mut ballast = File::create(self.nodes[node].disk.join("ballast"))?;
        let block = vec![0; 64 * 1024];
        // The error that ends this is the one that is wanted.
        while ballast.write_all(&block).is_ok() {}
        while ballast.write_all(&[0]).is_ok() {}
        Ok(())
    }

    /// Gives back what [`Cluster::fill`] took.
    pub(crate) fn unfill(&self, node: usize) -> Result<()> {
        Ok(std::fs::remove_file(self.nodes[node].disk.join("ballast"))?)
    }

    /// Lets a node's syncs fail from now on, or no more.
    pub(crate) fn fail_syncs(&self, node: usize, fail: bool) -> Result<()> {
        let id = lock(&self.nodes[node].life).process.as_ref().map(Child::id);
        let id = id.context("only a running node can be told")?;
        let verb = if fail { "enable" } else { "disable" };
        let command = format!("{verb} name=posix/io/sync/*");
        let pipes = self.plan.home.join("fiu");
        let pipes = pipes.to_str().context("the home's path is UTF-8")?;
        // A node that just died would never answer.
        let tell = [
            "5",
            "fiu-ctrl",
            "-f",
            pipes,
            "-c",
            &command,
            &id.to_string(),
        ];
        cage::run("timeout", &tell).map(drop)
    }

    fn clock_file(&self, node: usize) -> PathBuf {
        self.plan.home.join(format!("clock-{node}"))
    }

    /// Sets a node's wall clock forward or back against the true one.
    pub(crate) fn set_clock(&self, node: usize, offset_s: i64) -> Result<()> {
        // In one step, so that nobody reads half of it.
        let new = self.plan.home.join(format!("clock-{node}.new"));
        std::fs::write(&new, format!("{offset_s:+}"))?;
        Ok(std::fs::rename(new, self.clock_file(node))?)
    }

    /// Bounds a node's memory to so many hundredths of what it uses; returns whether that can be
    /// done here.
    pub(crate) fn squeeze(&self, node: usize, percent: u64) -> Result<bool> {
        let Some(group) = &self.nodes[node].group else {
            return Ok(false);
        };
        let used = std::fs::read_to_string(group.join("memory.usage_in_bytes"))?;
        let used: u64 = used.trim().parse()?;
        let limit = (used / 100 * percent).to_string();
        // The kernel refuses a bound that it cannot keep by dropping caches: that is a bound, too.
        drop(std::fs::write(group.join("memory.limit_in_bytes"), limit));
        Ok(true)
    }

    /// Bounds a node's memory to so many bytes; returns whether that can be done here.
    pub(crate) fn bound_memory(&self, node: usize, bytes: u64) -> Result<bool> {
        let Some(group) = &self.nodes[node].group else {
            return Ok(false);
        };
        std::fs::write(group.join("memory.limit_in_bytes"), bytes.to_string())?;
        Ok(true)
    }

    /// Takes the bounds of a node's memory away.
    pub(crate) fn unbound_memory(&self, node: usize) -> Result<()> {
        if let Some(group) = &self.nodes[node].group {
            std::fs::write(group.join("memory.limit_in_bytes"), "-1")?;
        }
        Ok(())
    }

    /// Returns where the system tells of a node's process.
    fn process(&self, node: usize) -> Option<PathBuf> {
        let life = lock(&self.nodes[node].life);
        let id = life.process.as_ref().map(Child::id)?;
        Some(PathBuf::from(format!("/proc/{id}")))
    }

    /// Returns how many files and connections a node's process has open.
    pub(crate) fn open_files(&self, node: usize) -> Option<usize> {
        let open = std::fs::read_dir(self.process(node)?.join("fd"));
        Some(open.ok()?.count())
    }

    /// Returns how much memory a node's process holds, in bytes.
    pub(crate) fn resident(&self, node: usize) -> Option<u64> {
        self.memory(node, "VmRSS:")
    }

    /// Returns how much memory a node's process has held at most, in bytes.
    pub(crate) fn resident_most(&self, node: usize) -> Option<u64> {
        self.memory(node, "VmHWM:")
    }

    /// Returns how much was charged at most to where a node's memory is bounded, its disk included.
    pub(crate) fn charged_most(&self, node: usize) -> Option<u64> {
        let group = self.nodes[node].group.as_ref()?;
        let most = std::fs::read_to_string(group.join("memory.max_usage_in_bytes"));
        most.ok()?.trim().parse().ok()
    }

    fn memory(&self, node: usize, which: &str) -> Option<u64> {
        let status = std::fs::read_to_string(self.process(node)?.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(which))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024)
    }

    /// Returns where edges and watchers find a node.
    pub(crate) fn reporter(&self, node: usize) -> String {
        format!("http://{}:{REPORTER}", self.nodes[node].address)
    }

    /// Returns where readers find a node.
    pub(crate) fn client(&self, node: usize) -> String {
        format!("http://{}:{CLIENT}", self.nodes[node].address)
    }

    /// Returns the nodes of a region.
    pub(crate) fn of_region(&self, region: usize) -> Vec<usize> {
        let nodes = 0..self.nodes.len();
        nodes
            .filter(|node| self.nodes[*node].region == region)
            .collect()
    }

    /// Asks a node's admin listener.
    pub(crate) async fn admin(&self, node: usize, path: &str) -> Result<(u16, String)> {
        let url = format!("http://{}:{ADMIN}{path}", self.nodes[node].address);
        let request = self.http.get(url).bearer_auth(TOKEN);
        let answer = request.timeout(Duration::from_secs(3)).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Returns the sum of a node's metric over all its labels, or with those that are said.
    pub(crate) async fn metric(&self, node: usize, name: &str) -> Result<f64> {
        let (status, metrics) = self.admin(node, "/metrics").await?;
        anyhow::ensure!(status == 200, "{status}: {metrics}");
        Ok(sum_of(&metrics, name))
    }

    /// Returns what a node knows of the cluster.
    pub(crate) async fn status(&self, node: usize) -> Result<Value> {
        let (status, body) = self.admin(node, "/v1/status").await?;
        if status != 200 {
            bail!("{status}: {body}");
        }
        Ok(serde_json::from_str(&body)?)
    }

    /// Returns what the first node says that answers.
    pub(crate) async fn any_status(&self) -> Option<Value> {
        for node in 0..self.nodes.len() {
            if self.runs(node)
                && let Ok(status) = self.status(node).await
            {
                return Some(status);
            }
        }
        None
    }

    /// Returns which node an id of a status belongs to.
    pub(crate) fn index_of(&self, status: &Value, id: u64) -> Option<usize> {
        let rows = status["nodes"].as_array()?;
        let row = rows.iter().find(|row| row["id"] == id)?;
        let admin = row["addresses"]["admin"].as_str()?;
        let mine = |node: &Node| admin == format!("{}:{ADMIN}", node.address);
        self.nodes.iter().position(mine)
    }

    /// Returns by shard who leads it, as a status says.
    pub(crate) fn leaders(&self, status: &Value) -> BTreeMap<u64, usize> {
        let shards = status["shards"].as_array().map_or(&[][..], Vec::as_slice);
        let leads = |shard: &Value| {
            let leader = shard["leader"]["node"].as_u64()?;
            Some((shard["shard"].as_u64()?, self.index_of(status, leader)?))
        };
        shards.iter().filter_map(leads).collect()
    }

    /// Returns what is missing until the cluster is whole, as a node sees it: each shard has three
    /// voters, a leader and a settled owner in each region, and nothing is planned.
    pub(crate) fn missing(&self, status: &Value) -> Option<String> {
        let shards = status["shards"].as_array().map_or(&[][..], Vec::as_slice);
        let all = status["cluster"]["shards"].as_u64().unwrap_or(u64::MAX);
        if shards.len() as u64 != all {
            return Some(format!("{} of {all} shards are known", shards.len()));
        }
        for shard in shards {
            let owners = shard["owners"].as_array().map_or(&[][..], Vec::as_slice);
            let owned = self.plan.regions.iter().all(|(region, _)| {
                let here = owners.iter().find(|owner| owner["region"] == **region);
                here.is_some_and(|owner| owner["node"].is_u64() && owner["settled"] == true)
            });
            let voters = shard["voters"].as_array().map_or(0, Vec::len);
            if !owned || voters != 3 || shard["leader"].is_null() {
                return Some(shard.to_string());
            }
        }
        let pending = status["plan_pending"].as_u64().unwrap_or(1);
        (pending > 0).then(|| format!("{pending} changes are pending"))
    }

    /// Waits until every node is ready and sees the cluster whole.
    pub(crate) async fn wait_whole(&self, deadline: Duration) -> Result<()> {
        for node in 0..self.nodes.len() {
            wait_until(
                format!("node {node} sees the cluster whole"),
                deadline,
                async || {
                    let (status, body) = self.admin(node, "/readyz").await.map_err(said)?;
                    if status != 200 {
                        return Err(body);
                    }
                    let status = self.status(node).await.map_err(said)?;
                    self.missing(&status).map_or(Ok(()), Err)
                },
            )
            .await?;
        }
        Ok(())
    }

    /// Returns the lines of all nodes' logs that hold one of `parts`.
    pub(crate) fn lines_with(&self, parts: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let log = std::fs::read(&node.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines = log
                .lines()
                .filter(|line| parts.iter().any(|part| line.contains(part)));
            found.extend(lines.map(|line| format!("node {index}: {line}")));
        }
        found
    }

    /// Returns a node's log.
    pub(crate) fn log(&self, node: usize) -> String {
        let log = std::fs::read(&self.nodes[node].log).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Ends all nodes.
    pub(crate) fn end(&self) {
        for node in 0..self.nodes.len() {
            // Whatever is left ends with this process.
            drop(self.kill(node));
        }
    }
}

impl Node {
    fn new(plan: &Plan, index: usize, region: usize) -> Result<Self> {
        let [third, fourth] = [region + 1, index + 1].map(u8::try_from);
        let address = Ipv4Addr::new(10, 88, third?, fourth?);
        let disk = plan.home.join(format!("disk-{index}"));
        std::fs::create_dir_all(&disk)?;
        let at = disk.to_str().context("the home's path is UTF-8")?;
        let size = format!("size={}m", plan.disk_mib);
        cage::run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "headcount-chaos", at],
        )?;
        let has = |library: &&str| Path::new(library).exists();
        let first = plan.regions[..region]
            .iter()
            .map(|(_, count)| count)
            .sum::<usize>()
            == index;
        let trick = match (plan.tricks, first) {
            (true, false) if region == 1 && FIU.iter().all(has) => Trick::Disk,
            (true, false) if has(&FAKETIME) => Trick::Clock,
            (true | false, _) => Trick::None,
        };
        let node = Self {
            region,
            address,
            trick,
            config: plan.home.join(format!("node-{index}.toml")),
            log: plan.home.join(format!("node-{index}.log")),
            group: cage::group(&plan.group, index),
            life: Mutex::default(),
            disk,
        };
        std::fs::write(&node.config, node.settings(plan, index))?;
        Ok(node)
    }

    fn settings(&self, plan: &Plan, index: usize) -> String {
        let Self {
            region,
            address,
            disk,
            ..
        } = self;
        let mut count = 0;
        let mut peers = Vec::new();
        for (region, (_, nodes)) in plan.regions.iter().enumerate() {
            for _ in 0..*nodes {
                count += 1;
                if count - 1 != index {
                    peers.push(format!("\"10.88.{}.{count}:{PEER}\"", region + 1));
                }
            }
        }
        let mut sections: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for setting in &plan.settings {
            let (section, setting) = setting.split_once('.').unwrap_or(("node", setting));
            sections
                .entry(section)
                .or_default()
                .push(setting.to_owned());
        }
        let mut node = |key: &str, value: String| {
            sections
                .entry("node")
                .or_default()
                .push(format!("{key} = {value}"));
        };
        node("region", format!("{:?}", plan.regions[*region].0));
        node("name", format!("\"n{index}\""));
        node(
            "data_dir",
            format!("{:?}", disk.join("data").display().to_string()),
        );
        node("join", format!("[{}]", peers.join(", ")));
        let listeners = [
            ("client", CLIENT),
            ("reporter", REPORTER),
            ("peer", PEER),
            ("admin", ADMIN),
        ];
        for (listener, port) in listeners {
            let listens = format!("{listener} = \"{address}:{port}\"");
            sections.entry("listen").or_default().push(listens);
        }
        sections
            .entry("admin")
            .or_default()
            .push(format!("token = {TOKEN:?}"));
        let mut text = String::new();
        for (section, settings) in sections {
            text += &format!("[{section}]\n{}\n\n", settings.join("\n"));
        }
        let (app, secret) = KEY.split_once(':').unwrap_or_default();
        let (app, key) = app.split_once('.').unwrap_or_default();
        text += &format!("[[app]]\nid = {app:?}\nlifecycle.occupancy = true\n\n");
        text += &format!("[[app.key]]\nid = {key:?}\nsecret = {secret:?}\n");
        text += "capability = { \"[*]*\" = [\"*\"] }\n";
        text
    }
}

/// Returns the sum of a metric over all its labels, or with those that `name` ends in; of one that
/// was never set, nothing is told.
fn sum_of(metrics: &str, name: &str) -> f64 {
    let samples = metrics.lines().filter_map(|line| line.rsplit_once(' '));
    let is_ours = |sample: &str| sample == name || sample.split('{').next() == Some(name);
    let ours = samples.filter(|(sample, _)| is_ours(sample));
    ours.filter_map(|(_, value)| value.parse::<f64>().ok())
        .sum()
}

/// Returns what an error says.
pub(crate) fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Looks until `look` finds what it looks for, and returns that; after `deadline` fails with what
/// was missing.
pub(crate) async fn wait_until<T>(
    why: impl std::fmt::Display,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T> {
    let start = tokio::time::Instant::now();
    loop {
        let left = deadline
            .saturating_sub(start.elapsed())
            .max(Duration::from_millis(50));
        let missing = match tokio::time::timeout(left, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(missing)) => missing,
            Err(_) => "the look itself did not end".to_owned(),
        };
        if start.elapsed() >= deadline {
            bail!("not within {deadline:?}: {why}: {missing}");
        }
        // allow-sleep: polls a condition that has a deadline
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_no_other_is() {
        let metrics = "# TYPE node_peer_queue_items gauge\n\
                       node_peer_queue_items{stream=\"raft\"} 2\n\
                       node_peer_queue_items{stream=\"gossip\"} 0.5\n\
                       node_peer_queue_items_max 7\n\n\
                       gateway_attachments 201\n";
        assert!((sum_of(metrics, "node_peer_queue_items") - 2.5).abs() < 1e-9);
        assert!((sum_of(metrics, "gateway_attachments") - 201.0).abs() < 1e-9);
        assert!(sum_of(metrics, "gateway").abs() < 1e-9);
        let gossip = "node_peer_queue_items{stream=\"gossip\"}";
        assert!((sum_of(metrics, gossip) - 0.5).abs() < 1e-9);
    }
}
