//! A world: machines, what runs on them, and what is done to them, step by step.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use headcount_checker::Allowance;
use headcount_consensus::store::memory::{Faults, MemoryDisk};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, watch};

use crate::edge::{self, dialer};
use crate::logs;
use crate::machine::Machine;
use crate::nemesis::{Fault, Targets};
use crate::network::{SimNetwork, Way};
use crate::node;
use crate::operator::{self, Order};
use crate::plan::{self, Plan, REGIONS};
use crate::reader::{Reader, watch_status};
use crate::record::{Phase, Shared};
use crate::time;
use crate::watcher::Watcher;

/// How long a step is: the grain of the network. Timers of programs are exact.
const TICK: Duration = Duration::from_millis(1);

/// How long a cluster may take to grow.
const GROWTH: Duration = Duration::from_secs(120);

/// How long clients run before anything is broken.
const CALM: Duration = Duration::from_secs(3);

/// How long clients go on after the healing.
const HEALING: Duration = Duration::from_secs(2);

/// How long nodes may keep what was removed, once all is settled.
const FORGETTING: Duration = Duration::from_secs(10);

/// The whole of a world.
#[derive(Debug)]
pub struct World {
    pub(crate) plan: Arc<Plan>,
    rng: StdRng,
    now: Duration,
    network: SimNetwork,
    machines: Vec<Machine>,
    order: Vec<usize>,
    nodes: Vec<NodeState>,
    pub(crate) shared: Shared,
    active: Vec<Active>,
    cuts: BTreeMap<(IpAddr, IpAddr), u32>,
    /// What operators are asked for.
    orders: mpsc::UnboundedSender<Order>,
    pub(crate) troubles: Vec<Trouble>,
}

/// A node as its world knows it.
#[derive(Debug)]
struct NodeState {
    disk: MemoryDisk,
    /// When it starts, if it is down.
    start_at: Option<Duration>,
    /// Whether its disk was made to fail in this life.
    disk_fails: bool,
    /// The id of the node whose place it took with an empty disk.
    replaces: Option<u64>,
    /// Asks this life to end.
    asked: watch::Sender<bool>,
    /// How long it then stays down.
    down: Duration,
    /// The trouble of which it is the end that the node is ready again.
    recovering: Vec<usize>,
}

/// A fault that is there now.
#[derive(Debug)]
struct Active {
    fault: Fault,
    until: Duration,
    trouble: usize,
    /// When ways that come and go change next, and whether they are cut.
    turns: (Duration, bool),
}

/// When something was broken, and what.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) nodes: Vec<usize>,
    pub(crate) is_silent: bool,
    pub(crate) from: Duration,
    /// Until when; not yet known while it lasts.
    pub(crate) to: Option<Duration>,
}

impl World {
    /// Makes the world of a plan, at its beginning.
    #[must_use]
    pub fn new(plan: Plan, keeps_trace: bool) -> Self {
        time::set_now(Duration::ZERO);
        let mut rng = StdRng::seed_from_u64(plan.seed ^ 0x5eed_5eed);
        let near = Way {
            delay: Duration::from_millis(1),
            jitter: Duration::from_millis(1),
            ..Way::default()
        };
        let network = SimNetwork::new(rng.random(), near);
        let mut machines: Vec<Machine> = (0..plan.nodes.len())
            .map(|node| Machine::new(format!("node {node}"), plan.node(node)))
            .collect();
        machines.extend((0..3).map(|region| {
            Machine::new(
                format!("clients of {}", REGIONS[region]),
                plan::clients_of(region),
            )
        }));
        machines.push(Machine::new("outside".to_owned(), plan::outside()));
        for machine in &machines {
            network.add(machine.address);
        }
        let allowance = Allowance {
            propagation: plan.linger + plan.backlog + Duration::from_millis(1_500),
            departure: plan.lease.max(plan.grace) + Duration::from_secs(1),
        };
        let nodes = (0..plan.nodes.len()).map(|_| NodeState {
            disk: MemoryDisk::new(),
            start_at: None,
            disk_fails: false,
            replaces: None,
            asked: watch::Sender::new(false),
            down: Duration::ZERO,
            recovering: Vec::new(),
        });
        let shared = Shared::new(allowance, plan.nodes.len());
        if keeps_trace {
            shared.lock().trace.lines = Some(Vec::new());
        }
        let world = Self {
            nodes: nodes.collect(),
            order: (0..machines.len()).collect(),
            plan: Arc::new(plan),
            rng,
            now: Duration::ZERO,
            network,
            machines,
            shared,
            active: Vec::new(),
            cuts: BTreeMap::new(),
            // Nobody is there to obey before the world runs.
            orders: mpsc::unbounded_channel().0,
            troubles: Vec::new(),
        };
        world.reset_ways();
        world
    }

    fn reset_ways(&self) {
        let places: Vec<(IpAddr, Option<usize>)> = (0..self.plan.nodes.len())
            .map(|node| (self.plan.node(node), Some(self.plan.nodes[node])))
            .chain((0..3).map(|region| (plan::clients_of(region), Some(region))))
            .chain([(plan::outside(), None)])
            .collect();
        for (from, here) in &places {
            for (to, there) in &places {
                let way = match (here, there) {
                    (Some(here), Some(there)) if here != there => self.plan.way(*here, *there),
                    (Some(_), Some(_)) => Way {
                        delay: Duration::from_millis(1),
                        jitter: Duration::from_millis(1),
                        ..Way::default()
                    },
                    (None, _) | (_, None) => Way {
                        delay: Duration::from_millis(10),
                        jitter: Duration::from_millis(5),
                        ..Way::default()
                    },
                };
                self.network.set_way(*from, *to, way);
            }
        }
    }

    /// Returns the disks of all nodes.
    pub(crate) fn disks(&self) -> Vec<MemoryDisk> {
        self.nodes.iter().map(|node| node.disk.clone()).collect()
    }

    fn count(&self, what: &str) {
        self.shared.lock().coverage.count(what);
    }

    /// Lets one step of time pass.
    fn step(&mut self) {
        self.now += TICK;
        time::set_now(self.now);
        self.network.advance(self.now);
        self.order.shuffle(&mut self.rng);
        for at in &self.order {
            self.machines[*at].tick(TICK);
        }
        self.care_for_nodes();
        if self.now.as_millis().is_multiple_of(1_000) {
            let traffic = self.network.traffic();
            self.shared.say(&format_args!(
                "{} connections, {} pieces, {} bytes",
                traffic.connections, traffic.pieces, traffic.bytes
            ));
        }
    }

    /// Starts nodes that are to start, and buries those that ended by themselves.
    fn care_for_nodes(&mut self) {
        let carried_out = std::mem::take(&mut self.shared.lock().carried_out);
        for trouble in carried_out {
            self.end_trouble(trouble);
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].start_at.is_some_and(|at| at <= self.now) {
                self.start(node);
            }
            let (ended, ready) = {
                let record = self.shared.lock();
                let life = &record.lives[node];
                (life.ended.clone(), life.ready)
            };
            if ready {
                for trouble in std::mem::take(&mut self.nodes[node].recovering) {
                    self.end_trouble(trouble);
                }
            }
            if let Some(reason) = ended
                && self.machines[node].is_running()
            {
                let asked = *self.nodes[node].asked.borrow();
                if asked && !self.nodes[node].disk_fails {
                    self.take_away(node, true, false);
                    self.nodes[node].start_at = Some(self.now + self.nodes[node].down);
                    continue;
                }
                if !self.nodes[node].disk_fails {
                    let mut record = self.shared.lock();
                    record
                        .wrong
                        .push(format!("node {node} ended by itself: {reason}"));
                }
                self.count("nodes-stopped-by-disks");
                self.take_away(node, true, false);
                let pause = Duration::from_millis(self.rng.random_range(100..3_000));
                self.nodes[node].start_at = Some(self.now + pause);
            }
        }
    }

    fn start(&mut self, node: usize) {
        self.nodes[node].start_at = None;
        self.nodes[node].disk_fails = false;
        self.nodes[node].asked = watch::Sender::new(false);
        let sync = Duration::from_millis(
            self.rng
                .random_range(0..=u64::try_from(self.plan.sync_time_max.as_millis()).unwrap_or(0)),
        );
        let disk = self.nodes[node].disk.clone();
        disk.set_faults(Faults {
            sync_time: sync,
            ..Faults::default()
        });
        {
            let mut record = self.shared.lock();
            let life = &mut record.lives[node];
            life.number += 1;
            life.ready = false;
            life.ended = None;
            record.trace.say(&format_args!("node {node} starts"));
        }
        self.network.start(self.plan.node(node));
        let program = node::run(
            self.plan.clone(),
            node,
            self.nodes[node].replaces,
            disk,
            self.network.clone(),
            self.nodes[node].asked.subscribe(),
            self.shared.clone(),
        );
        self.machines[node].start(program);
    }

    /// Takes a node's program away. `torn`: what was not synced is lost, or a part of it.
    fn take_away(&mut self, node: usize, torn: bool, power: bool) {
        // The disk first: what the program does at its end touches it no more.
        let disk = &self.nodes[node].disk;
        self.nodes[node].disk = if torn {
            let rng = &mut self.rng;
            let keeps = rng.random_bool(0.5);
            disk.crash(|_, doubt| {
                if keeps {
                    rng.random_range(0..=doubt)
                } else {
                    0
                }
            })
        } else {
            MemoryDisk::with_files(&disk.files())
        };
        self.network.crash(self.plan.node(node), power);
        self.machines[node].stop();
        let mut record = self.shared.lock();
        let life = &mut record.lives[node];
        life.ready = false;
        life.ended = None;
        record.trace.say(&format_args!("node {node} is gone"));
    }

    /// Runs until something is so, or the time is up; returns whether it is.
    fn run_until(&mut self, within: Duration, mut is_so: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + within;
        while self.now < end {
            self.step();
            if self.now.as_millis().is_multiple_of(50) && is_so(self) {
                return true;
            }
        }
        false
    }

    /// Runs the whole of it; returns what is wrong.
    pub fn run(&mut self) -> Vec<String> {
        self.start_outside();
        for node in 0..self.nodes.len() {
            // The founder first, then the others close together.
            let at = if node == 0 { 0 } else { 300 + 50 * node as u64 };
            self.nodes[node].start_at = Some(Duration::from_millis(at));
        }
        if !self.run_until(GROWTH, |world| world.missing().is_none()) {
            let missing = self.missing();
            return vec![format!("the cluster does not grow: {missing:?}")];
        }
        self.begin(Phase::Calm);
        self.start_clients();
        self.run_until(CALM, |_| false);
        self.begin(Phase::Safety);
        if self.plan.is_plain {
            self.count("worlds-plain");
        }
        if self.plan.has_crowds {
            self.count("worlds-crowded");
        }
        self.safety();
        self.begin(Phase::Healing);
        self.heal();
        self.run_until(HEALING, |_| false);
        self.begin(Phase::Quiet);
        let deadline = self.now + self.plan.liveness;
        let within = self.plan.liveness;
        let mut missing = None;
        let came = self.run_until(within, |world| {
            missing = world.unsettled();
            missing.is_none()
        });
        let took = self
            .plan
            .liveness
            .saturating_sub(deadline.saturating_sub(self.now));
        let mut wrong = Vec::new();
        if let Some(missing) = missing.filter(|_| !came) {
            wrong.push(format!(
                "C1 convergence: not within {:?} after the healing: {missing}",
                self.plan.liveness
            ));
        }
        self.shared.lock().coverage.add(
            "converged-after-ms",
            took.as_millis().try_into().unwrap_or(u64::MAX),
        );
        let mut left = None;
        let forgot = self.run_until(FORGETTING, |world| {
            left = logs::left(&world.disks());
            left.is_none()
        });
        if let Some(left) = left.filter(|_| !forgot) {
            wrong.push(format!(
                "C1 convergence: not within {FORGETTING:?} more: {left}"
            ));
        }
        wrong.extend(self.judge());
        let traffic = self.network.traffic();
        let files = self
            .nodes
            .iter()
            .flat_map(|node| node.disk.files().into_keys());
        let snapshots = files.filter(|path| path.starts_with("snapshots/")).count();
        let mut record = self.shared.lock();
        record.coverage.add("snapshots", snapshots as u64);
        record.coverage.add("connections", traffic.connections);
        record.coverage.add("pieces", traffic.pieces);
        record.coverage.add("bytes", traffic.bytes);
        record.coverage.add("pieces-held", traffic.held);
        record.coverage.add("resets", traffic.resets);
        record.coverage.add(
            "simulated-ms",
            self.now.as_millis().try_into().unwrap_or(u64::MAX),
        );
        wrong
    }

    /// Returns one line about the world: its trace's hash, whether it is right, and what happened.
    #[must_use]
    pub fn report(&self, wrong: &[String]) -> String {
        let record = self.shared.lock();
        let verdict = if wrong.is_empty() { "right" } else { "WRONG" };
        format!(
            "seed {} {verdict} {} {}",
            self.plan.seed,
            record.trace.digest(),
            record.coverage
        )
    }

    /// Returns the trace, if it is kept.
    #[must_use]
    pub fn trace(&self) -> String {
        let record = self.shared.lock();
        let lines = record.trace.lines.as_deref().unwrap_or_default();
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    fn begin(&mut self, phase: Phase) {
        let mut record = self.shared.lock();
        record.phase = phase;
        record.trace.say(&format_args!("-- {phase:?}"));
    }

    /// Starts what asks from outside all regions.
    fn start_outside(&mut self) {
        let at = self.machines.len() - 1;
        let from = self.network.dialer(plan::outside());
        let admins = self.listeners(3);
        let status = watch_status(admins.clone(), from.clone(), self.shared.clone());
        self.machines[at].start(status);
        let (orders, asked) = mpsc::unbounded_channel();
        self.orders = orders;
        let plan = self.plan.clone();
        let operator = operator::run(asked, plan, admins, from, self.shared.clone());
        self.machines[at].spawn(operator);
    }

    fn listeners(&self, listener: u16) -> Vec<SocketAddr> {
        let nodes = 0..self.plan.nodes.len();
        nodes
            .map(|node| self.plan.listener(node, listener))
            .collect()
    }

    fn start_clients(&mut self) {
        let first = self.nodes.len();
        let outside = self.machines.len() - 1;
        let from_outside = self.network.dialer(plan::outside());
        for nth in 0..self.plan.roamers {
            let watcher = Watcher {
                name: format!("roamer {nth}"),
                nodes: self.listeners(1),
                roams: true,
                seed: self.rng.random(),
                dialer: dialer(from_outside.clone()),
                shared: self.shared.clone(),
            };
            self.machines[outside].spawn(watcher.run());
        }
        for (region, name) in REGIONS.into_iter().enumerate() {
            let here = self.plan.nodes_of(region).into_iter();
            let watcher = Watcher {
                name: format!("watcher of {name}"),
                nodes: here.map(|node| self.plan.listener(node, 1)).collect(),
                roams: false,
                seed: self.rng.random(),
                dialer: dialer(self.network.dialer(plan::clients_of(region))),
                shared: self.shared.clone(),
            };
            self.machines[first + region].start(watcher.run());
        }
        // Before anything happens, so that all of them are told everything.
        let watchers = self.plan.roamers + 3;
        self.run_until(GROWTH, |world| {
            let record = world.shared.lock();
            let begun = record.histories.values();
            begun.filter(|history| history.cursor.is_some()).count() == watchers
        });
        let mut channels: Vec<String> = ["hot:0", "hot:1", "hot:2", "anchor:all"]
            .map(str::to_owned)
            .into();
        let mut registers = Vec::new();
        for (region, name) in REGIONS.into_iter().enumerate() {
            let from = self.network.dialer(plan::clients_of(region));
            let here = self.plan.nodes_of(region);
            let nodes: Vec<SocketAddr> = here
                .iter()
                .map(|node| self.plan.listener(*node, 1))
                .collect();
            let edges = edge::of_region(
                name,
                region,
                &self.plan,
                &nodes,
                &dialer(from),
                &self.shared,
                &mut self.rng,
            );
            for edge in &edges {
                match edge.temper {
                    edge::Temper::Anchor => channels.push(format!("anchor:{}:0", edge.name)),
                    edge::Temper::Register => registers.push(format!("register:{}", edge.name)),
                    edge::Temper::Churn => channels.push(format!("own:{}:0", edge.name)),
                    edge::Temper::Crowd => channels.push(format!("crowd:{}:0", edge.name)),
                }
            }
            for edge in edges {
                self.machines[first + region].spawn(edge.run());
            }
        }
        let from = from_outside;
        for _ in 0..2 {
            let reader = Reader {
                nodes: self.listeners(0),
                channels: channels.clone(),
                registers: registers.clone(),
                seed: self.rng.random(),
                dialer: from.clone(),
                shared: self.shared.clone(),
            };
            self.machines[outside].spawn(reader.run());
        }
        let lister = Reader {
            nodes: self.listeners(0),
            channels,
            registers,
            seed: 0,
            dialer: from,
            shared: self.shared.clone(),
        };
        self.machines[outside].spawn(lister.list_all());
    }

    /// Returns what the cluster lacks to be grown.
    fn missing(&self) -> Option<String> {
        let record = self.shared.lock();
        if let Some(node) = record.lives.iter().position(|life| !life.ready) {
            return Some(format!("node {node} is not ready"));
        }
        let Some(status) = &record.status else {
            return Some("no node tells its status".to_owned());
        };
        if status.nodes.len() != self.nodes.len() || status.shards.is_empty() {
            return Some(format!("{} nodes", status.nodes.len()));
        }
        let lacking = status.shards.iter().find(|shard| {
            let owned = REGIONS.iter().all(|region| {
                let owner = shard.owners.iter().find(|owner| owner.region == *region);
                owner.is_some_and(|owner| owner.node.is_some() && owner.settled)
            });
            !owned || shard.voters.len() != 3 || shard.leader.is_none()
        });
        if let Some(shard) = lacking {
            return Some(format!("{shard:?}"));
        }
        (status.plan_pending > 0).then(|| format!("{} changes pending", status.plan_pending))
    }

    /// Breaks things until the safety phase is over.
    fn safety(&mut self) {
        let end = self.now + self.plan.safety;
        let mut next = self.now + self.fault_pause();
        while self.now < end {
            self.step();
            self.end_faults();
            if self.now >= next {
                next = self.now + self.fault_pause();
                if self.active.len() < self.plan.faults_max {
                    let targets = self.targets();
                    let (fault, lasting) = Fault::choose(&self.plan, &targets, &mut self.rng);
                    self.make(fault, lasting);
                }
            }
        }
    }

    fn fault_pause(&mut self) -> Duration {
        let mean = u64::try_from(self.plan.fault_every.as_millis()).unwrap_or(1_000);
        Duration::from_millis(self.rng.random_range(mean / 4..mean * 2))
    }

    fn targets(&self) -> Targets {
        let record = self.shared.lock();
        let Some(status) = &record.status else {
            return Targets::default();
        };
        let place = |id: u64| {
            let row = status.nodes.iter().find(|row| row.id == id)?;
            self.plan.node_of_peer(&row.addresses.peer)
        };
        let shards = status.shards.iter();
        let leaders = shards
            .clone()
            .filter_map(|shard| shard.leader.as_ref())
            .chain(&status.control.leader);
        let owners = shards.flat_map(|shard| shard.owners.iter().filter_map(|owner| owner.node));
        Targets {
            leaders: leaders.filter_map(|leader| place(leader.node)).collect(),
            owners: owners.filter_map(place).collect(),
        }
    }

    fn make(&mut self, fault: Fault, lasting: Duration) {
        let (nodes, is_silent) = fault.hits(&self.plan);
        let trouble = self.troubles.len();
        self.troubles.push(Trouble {
            nodes,
            is_silent,
            from: self.now,
            to: None,
        });
        self.shared
            .say(&format_args!("fault: {fault} for {lasting:?}"));
        self.count(&format!("fault-{}", fault.name()));
        match &fault {
            Fault::Crash { nodes, power, down } => {
                for node in nodes.clone() {
                    if self.machines[node].is_running() {
                        self.take_away(node, *power, *power);
                    }
                    self.nodes[node].start_at = Some(self.now + *down);
                    self.nodes[node].recovering.push(trouble);
                }
                return;
            }
            Fault::Stop { node, .. }
            | Fault::SyncFails { node, .. }
            | Fault::WriteFails { node, .. }
            | Fault::DiskFull { node, .. }
            | Fault::ReadOnly { node }
                if !self.machines[*node].is_running() =>
            {
                self.end_trouble(trouble);
                return;
            }
            Fault::Replace { node, down } => {
                match self.id_of(*node).filter(|_| !self.has_replaced()) {
                    Some(id) => self.replace(*node, id, *down, trouble),
                    None => self.end_trouble(trouble),
                }
                return;
            }
            Fault::Weights { of } => {
                self.order(Order::Weights(*of));
                self.end_trouble(trouble);
                return;
            }
            Fault::Drain { node } => self.order(Order::Drain(*node)),
            Fault::Drift { node, permille } => self.machines[*node].set_rate(*permille),
            Fault::Stop { node, down } => {
                self.nodes[*node].asked.send_replace(true);
                self.nodes[*node].down = *down;
                self.nodes[*node].recovering.push(trouble);
                self.shared.lock().lives[*node].ready = false;
                return;
            }
            Fault::SyncFails { node, after } => {
                self.fail_disk(*node, trouble, |faults| faults.syncs_left = Some(*after));
                return;
            }
            Fault::WriteFails { node, after } => {
                self.fail_disk(*node, trouble, |faults| faults.writes_left = Some(*after));
                return;
            }
            Fault::ReadOnly { node } => {
                self.fail_disk(*node, trouble, |faults| faults.read_only = true);
                return;
            }
            Fault::DiskFull { node, room } => {
                let files = self.nodes[*node].disk.files();
                let used: u64 = files.values().map(|bytes| bytes.len() as u64).sum();
                self.fail_disk(*node, trouble, |faults| faults.capacity = Some(used + room));
                return;
            }
            // One that is about to fail is not mended by being slow.
            Fault::SlowDisk { node, .. } if self.nodes[*node].disk_fails => {}
            Fault::SlowDisk { node, sync } => {
                self.nodes[*node].disk.set_faults(Faults {
                    sync_time: *sync,
                    ..Faults::default()
                });
            }
            Fault::Pause { node } => self.machines[*node].pause(),
            Fault::Cut { .. } | Fault::ClientsCut { .. } | Fault::Flap { .. } => self.cut(&fault),
            Fault::Slow { regions, delay } => {
                let way = Way {
                    delay: *delay,
                    jitter: *delay / 2,
                    ..Way::default()
                };
                self.set_ways(*regions, way);
            }
            Fault::Thin {
                regions,
                bytes_per_second,
            } => {
                let way = Way {
                    bytes_per_second: Some(*bytes_per_second),
                    ..self.plan.way(regions.0, regions.1)
                };
                self.set_ways(*regions, way);
            }
            Fault::Resets { .. } => {}
            Fault::Clock { node, ahead_ms } => {
                self.machines[*node].ahead_ms = *ahead_ms;
                self.end_trouble(trouble);
                return;
            }
        }
        let turns = match &fault {
            Fault::Flap { every, .. } => (self.now + *every, true),
            _ => (Duration::MAX, false),
        };
        self.active.push(Active {
            fault,
            until: self.now + lasting,
            trouble,
            turns,
        });
    }

    /// Asks an operator for something; what is asked for is done in that order.
    fn order(&self, order: Order) {
        self.shared.lock().orders += 1;
        // The operator lives as long as the world.
        let _sent = self.orders.send(order);
    }

    /// Returns a node's id, if anybody ever told.
    fn id_of(&self, node: usize) -> Option<u64> {
        let record = self.shared.lock();
        operator::id_of(&self.plan, record.status.as_ref()?, node)
    }

    /// Returns whether a disk was lost: another might take with it what only both had.
    fn has_replaced(&self) -> bool {
        self.nodes.iter().any(|node| node.replaces.is_some())
    }

    /// Takes a node away with its disk; what starts there next takes its place.
    fn replace(&mut self, node: usize, id: u64, down: Duration, trouble: usize) {
        if self.machines[node].is_running() {
            self.take_away(node, false, false);
        }
        self.count("disks-lost");
        let state = &mut self.nodes[node];
        state.disk = MemoryDisk::new();
        state.replaces = Some(id);
        state.start_at = Some(self.now + down);
        state.recovering.push(trouble);
    }

    fn set_ways(&self, (one, other): (usize, usize), way: Way) {
        for here in self.plan.nodes_of(one) {
            for there in self.plan.nodes_of(other) {
                let (here, there) = (self.plan.node(here), self.plan.node(there));
                self.network.set_way(here, there, way);
                self.network.set_way(there, here, way);
            }
        }
    }

    fn cut(&mut self, fault: &Fault) {
        for (from, to) in self.ways_of(fault) {
            let cuts = self.cuts.entry((from, to)).or_default();
            *cuts += 1;
            if *cuts == 1 {
                self.network.cut(from, to);
            }
        }
    }

    fn heal_ways(&mut self, fault: &Fault) {
        for (from, to) in self.ways_of(fault) {
            if let Some(cuts) = self.cuts.get_mut(&(from, to)) {
                *cuts = cuts.saturating_sub(1);
                if *cuts == 0 {
                    self.network.heal(from, to);
                }
            }
        }
    }

    fn fail_disk(&mut self, node: usize, trouble: usize, how: impl FnOnce(&mut Faults)) {
        let mut faults = Faults::default();
        how(&mut faults);
        self.nodes[node].disk.set_faults(faults);
        self.nodes[node].disk_fails = true;
        // It may take a while until the disk is used; it fails for this life at the latest.
        self.nodes[node].recovering.push(trouble);
        self.shared.lock().lives[node].ready = false;
    }

    fn ways_of(&self, fault: &Fault) -> Vec<(IpAddr, IpAddr)> {
        match fault {
            Fault::Cut { ways, .. } | Fault::Flap { ways, .. } => ways
                .iter()
                .map(|(from, to)| (self.plan.node(*from), self.plan.node(*to)))
                .collect(),
            Fault::ClientsCut { region, nodes } => {
                let clients = plan::clients_of(*region);
                let nodes = nodes.iter().map(|node| self.plan.node(*node));
                nodes
                    .flat_map(|node| [(clients, node), (node, clients)])
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    /// Ends faults whose time is over, and goes on with those that come again and again.
    fn end_faults(&mut self) {
        let (over, active): (Vec<_>, Vec<_>) = std::mem::take(&mut self.active)
            .into_iter()
            .partition(|active| active.until <= self.now);
        self.active = active;
        for over in over {
            self.end(&over);
        }
        self.turn_ways();
        if self.now.as_millis().is_multiple_of(200) {
            for active in &self.active {
                if let Fault::Resets { nodes } = &active.fault {
                    let (one, other) = (self.plan.node(nodes.0), self.plan.node(nodes.1));
                    self.network.reset(one, other);
                }
            }
        }
    }

    /// Cuts ways that come and go, or lets them be.
    fn turn_ways(&mut self) {
        let mut active = std::mem::take(&mut self.active);
        for active in &mut active {
            let Fault::Flap { every, .. } = &active.fault else {
                continue;
            };
            let (at, is_cut) = active.turns;
            if at > self.now {
                continue;
            }
            active.turns = (self.now + *every, !is_cut);
            match is_cut {
                true => self.heal_ways(&active.fault),
                false => self.cut(&active.fault),
            }
        }
        self.active = active;
    }

    fn end(&mut self, over: &Active) {
        self.shared
            .say(&format_args!("over: {}", over.fault.name()));
        match &over.fault {
            Fault::SlowDisk { node, .. } => {
                if !self.nodes[*node].disk_fails {
                    self.nodes[*node].disk.set_faults(Faults::default());
                }
            }
            Fault::Pause { node } => self.machines[*node].resume(),
            Fault::Flap { .. } if !over.turns.1 => {}
            Fault::Cut { .. } | Fault::ClientsCut { .. } | Fault::Flap { .. } => {
                self.heal_ways(&over.fault);
            }
            Fault::Slow { .. } | Fault::Thin { .. } => self.reset_ways(),
            Fault::Drift { node, .. } => self.machines[*node].set_rate(1_000),
            Fault::Drain { node } => {
                // It is in trouble until it is taken back.
                self.order(Order::Undrain(*node, over.trouble));
                return;
            }
            Fault::Crash { .. }
            | Fault::Stop { .. }
            | Fault::SyncFails { .. }
            | Fault::WriteFails { .. }
            | Fault::DiskFull { .. }
            | Fault::ReadOnly { .. }
            | Fault::Replace { .. }
            | Fault::Weights { .. }
            | Fault::Resets { .. }
            | Fault::Clock { .. } => {}
        }
        self.end_trouble(over.trouble);
    }

    fn end_trouble(&mut self, trouble: usize) {
        self.troubles[trouble].to = Some(self.now);
    }

    /// Ends everything that is broken.
    fn heal(&mut self) {
        for over in std::mem::take(&mut self.active) {
            self.end(&over);
        }
        for node in 0..self.nodes.len() {
            self.machines[node].resume();
            let ends = self.nodes[node].disk_fails || *self.nodes[node].asked.borrow();
            if ends && self.machines[node].is_running() {
                // A disk that failed does not heal: its node starts again. And whoever asked one
                // to end does not wait any longer.
                self.take_away(node, true, false);
                self.nodes[node].start_at = Some(self.now);
            }
            if self.nodes[node].start_at.is_some() {
                self.nodes[node].start_at = Some(self.now);
            }
        }
    }
}
