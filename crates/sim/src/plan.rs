//! What a seed decides before anything runs: regions, nodes, settings, ways and how long.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::edge::CROWD;
use crate::nemesis::Kind;
use crate::network::Way;

/// The regions.
pub const REGIONS: [&str; 3] = ["us-east-1", "eu-west-1", "ap-southeast-1"];

/// The key that may do everything, as `authorization` carries it.
pub const ROOT: &str = "dev.root:root-secret";

/// Plan: everything about a world that is no surprise to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What everything follows from.
    pub seed: u64,
    /// The region of each node, by index into [`REGIONS`].
    pub nodes: Vec<usize>,
    /// How many shards there are.
    pub shards: u32,
    /// Settings of all nodes, each `section.key=value`.
    pub settings: Vec<String>,
    /// How long a node's lease lasts.
    pub lease: Duration,
    /// How long an edge's counts stay after its stream.
    pub grace: Duration,
    /// How long a region stays active after the last has left.
    pub linger: Duration,
    /// What a raft election may take.
    pub election: Duration,
    /// One way between two regions, by their indices; symmetric.
    pub apart: [[Duration; 3]; 3],
    /// How long faults are made.
    pub safety: Duration,
    /// How long everything may take to be right once nothing is broken any more.
    pub liveness: Duration,
    /// How often a fault is made, on average.
    pub fault_every: Duration,
    /// How many faults are there at once, at most.
    pub faults_max: usize,
    /// The kinds of faults that are made, with how often each is among them.
    pub kinds: Vec<(Kind, u32)>,
    /// The nodes that faults of a single node hit.
    pub frail: Vec<usize>,
    /// Whether nothing that is made excuses that counts are taken away: in every region one and the
    /// same node fails, so that edges hear of it and another node has them.
    pub is_plain: bool,
    /// How long what an owner has to tell may wait for what it told before.
    pub backlog: Duration,
    /// How long disks take to sync, at most.
    pub sync_time_max: Duration,
    /// Edges per region that come and go.
    pub edges: usize,
    /// Whether there is one more in each region, which attaches many channels at once.
    pub has_crowds: bool,
    /// Watchers that go on elsewhere every few seconds.
    pub roamers: usize,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Plan {
    /// Makes the plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut nodes = vec![0, 1, 2, 0, 1, 2];
        if rng.random_bool(0.2) {
            nodes.push(rng.random_range(0..3));
        }
        let lease = ms(rng.random_range(8..=30) * 100);
        let linger = ms([0, 50, 300, 1_000][rng.random_range(0..4)]);
        let grace = ms(rng.random_range(15..=30) * 100);
        let occupancy = rng.random_range(1..=6) * 100;
        let shards = rng.random_range(1..=4);
        // Long ways need the patience of a regional profile.
        let is_regional = rng.random_bool(0.3);
        let (timing, farthest, election) = if is_regional {
            ("regional", 45, ms(2_500))
        } else {
            ("local", 20, ms(1_500))
        };
        let mut apart = [[ms(1); 3]; 3];
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            let delay = ms(rng.random_range(3..=farthest));
            apart[one][other] = delay;
            apart[other][one] = delay;
        }
        // What all kinds together would hide, fewer of them show.
        let temper = rng.random_range(0..10);
        let is_plain = temper < 4;
        let all = || Kind::WEIGHED.into_iter();
        let mut kinds: Vec<_> = match temper {
            0..4 => all()
                .filter(|(kind, _)| Kind::PLAIN.contains(kind))
                .collect(),
            4..8 => all().filter(|_| rng.random_bool(0.35)).collect(),
            _ => all().collect(),
        };
        if kinds.is_empty() {
            kinds.push((Kind::CrashOne, 1));
        }
        let frail = match is_plain {
            true => (0..3)
                .map(|region| region + 3 * rng.random_range(0..2))
                .collect(),
            false => (0..nodes.len()).collect(),
        };
        let fault_every = match temper {
            0..4 => rng.random_range(800..=8_000),
            4..8 => rng.random_range(800..=12_000),
            _ => rng.random_range(800..=4_000),
        };
        let snapshot_entries = [100, 150, 5_000][rng.random_range(0..3)];
        let kept = [0, 20, 100][rng.random_range(0..3)];
        let window = [1, 4, 32][rng.random_range(0..3)];
        let items_max = [8, 50, 1_000][rng.random_range(0..3)];
        let millis = |time: Duration| format!("{}ms", time.as_millis());
        let settings = vec![
            "cluster.name=sim".to_owned(),
            format!("cluster.shards={shards}"),
            format!("cluster.timing={timing}"),
            format!("region.linger={}", millis(linger)),
            format!("region.adoption_cap={}", millis(grace * 4)),
            format!("gateway.edge_grace={}", millis(grace)),
            format!("gateway.client_grace={}", millis(grace)),
            "gateway.takeover_timeout=10s".to_owned(),
            format!("gateway.ack_timeout={}ms", rng.random_range(5..=20) * 100),
            format!("gossip.interval={}ms", rng.random_range(1..=100)),
            format!("gossip.resend_after={}ms", rng.random_range(3..=10) * 100),
            format!("gossip.window_batches={window}"),
            format!("gossip.batch_items_max={items_max}"),
            format!("coordinator.occupancy_interval={occupancy}ms"),
            // Watchers are told the same: none is told the newest counts alone when it lags.
            "feed.rollup_lag_events=1000000".to_owned(),
            format!("placement.lease={}", millis(lease)),
            format!("placement.suspect_after={}", millis(lease / 2)),
            format!("network.connect_timeout={}", millis(lease / 4)),
            format!("placement.copies={}", rng.random_range(1..=2)),
            format!("consensus.snapshot_entries={snapshot_entries}"),
            format!("consensus.snapshot_entries_kept={kept}"),
            "consensus.propose_timeout=5s".to_owned(),
            format!("store.floor_interval={}ms", rng.random_range(1..=10) * 100),
            "admin.token=simulated-operator".to_owned(),
        ];
        Self {
            seed,
            nodes,
            shards,
            settings,
            lease,
            grace,
            linger,
            election,
            apart,
            safety: Duration::from_secs(rng.random_range(20..=40)),
            liveness: lease * 4 + grace * 4 + linger + election * 4 + Duration::from_secs(20),
            fault_every: ms(fault_every),
            faults_max: rng.random_range(1..=3),
            kinds,
            frail,
            is_plain,
            // What little passes at a time waits in the owner when many come at once.
            backlog: ms(if window * items_max < 100 { 5_000 } else { 0 }),
            sync_time_max: ms([0, 2, 10, 30][rng.random_range(0..4)]),
            edges: rng.random_range(1..=2),
            roamers: rng.random_range(1..=3),
            // Where little passes at a time they would come faster than they can be told of.
            has_crowds: rng.random_bool(0.25) && window * items_max >= CROWD,
        }
    }

    /// Returns where a node is.
    #[must_use]
    pub fn node(&self, node: usize) -> IpAddr {
        let region = self.nodes[node];
        let before = self.nodes[..node].iter().filter(|of| **of == region);
        let [.., region, nth] = [0, region, before.count() + 1];
        machine(region, u8::try_from(nth).unwrap_or(u8::MAX))
    }

    /// Returns a listener of a node: 0 is the client's, then reporter, peer and admin.
    #[must_use]
    pub fn listener(&self, node: usize, listener: u16) -> SocketAddr {
        SocketAddr::new(self.node(node), 8080 + listener)
    }

    /// Returns the node whose peers reach it there.
    #[must_use]
    pub fn node_of_peer(&self, address: &str) -> Option<usize> {
        let peer = address.parse().ok()?;
        (0..self.nodes.len()).find(|node| self.listener(*node, 2) == peer)
    }

    /// Returns the nodes of a region.
    #[must_use]
    pub fn nodes_of(&self, region: usize) -> Vec<usize> {
        let nodes = 0..self.nodes.len();
        nodes.filter(|node| self.nodes[*node] == region).collect()
    }

    /// Returns what the way between two regions is like.
    #[must_use]
    pub fn way(&self, from: usize, to: usize) -> Way {
        let delay = self.apart[from][to];
        Way {
            delay,
            jitter: delay / 4,
            ..Way::default()
        }
    }
}

fn machine(region: usize, last: u8) -> IpAddr {
    let region = u8::try_from(region + 1).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, region, 0, last).into()
}

/// Returns where the edges and watchers of a region are.
#[must_use]
pub fn clients_of(region: usize) -> IpAddr {
    machine(region, 200)
}

/// Returns where those are who are in no region: roaming watchers and readers.
#[must_use]
pub fn outside() -> IpAddr {
    Ipv4Addr::new(10, 200, 0, 1).into()
}

/// Returns a key as `authorization` carries it.
#[must_use]
pub fn authorization(key: &str) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(key);
    format!("Basic {encoded}")
}
