//! Faults: which there are, what each hits, and what it excuses.

use std::fmt;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};

use crate::plan::Plan;

/// Fault: something that is broken for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nodes end without a word, and start again after a while.
    Crash {
        /// Which.
        nodes: Vec<usize>,
        /// Whether their machines lose power, so that what was not synced is lost or torn, and
        /// nobody is told that connections are over.
        power: bool,
        /// How long they are away.
        down: Duration,
    },
    /// A disk fails at one of the next syncs; its node must stop.
    SyncFails {
        /// Whose.
        node: usize,
        /// How many syncs work before.
        after: u64,
    },
    /// A disk fails at one of the next writes, with half of it done; its node must stop.
    WriteFails {
        /// Whose.
        node: usize,
        /// How many writes work before.
        after: u64,
    },
    /// A disk can be read only from now on, as when a file system finds an error; its node must stop.
    ReadOnly {
        /// Whose.
        node: usize,
    },
    /// A disk is full soon; its node must stop.
    DiskFull {
        /// Whose.
        node: usize,
        /// How many bytes fit.
        room: u64,
    },
    /// A disk is slow.
    SlowDisk {
        /// Whose.
        node: usize,
        /// How long a sync takes.
        sync: Duration,
    },
    /// A node stands still.
    Pause {
        /// Which.
        node: usize,
    },
    /// No way leads from some nodes to others.
    Cut {
        /// From where to where, by node.
        ways: Vec<(usize, usize)>,
        /// What this is called.
        name: &'static str,
    },
    /// No way leads from some nodes to others, and then again one does, and so on.
    Flap {
        /// From where to where, by node.
        ways: Vec<(usize, usize)>,
        /// How long each lasts.
        every: Duration,
    },
    /// A region's edges and watchers do not reach some of its nodes.
    ClientsCut {
        /// The region.
        region: usize,
        /// The nodes.
        nodes: Vec<usize>,
    },
    /// A node is asked to end, as by a rolling restart.
    Stop {
        /// The node.
        node: usize,
        /// How long until it starts again, once it has ended.
        down: Duration,
    },
    /// Ways between two regions are long.
    Slow {
        /// The regions.
        regions: (usize, usize),
        /// How long a way takes.
        delay: Duration,
    },
    /// Little passes between two regions at a time.
    Thin {
        /// The regions.
        regions: (usize, usize),
        /// How much on the way between two nodes, in one direction.
        bytes_per_second: u64,
    },
    /// Connections between two nodes break again and again.
    Resets {
        /// The nodes.
        nodes: (usize, usize),
    },
    /// A wall clock is wrong.
    Clock {
        /// Whose.
        node: usize,
        /// By how much it is ahead.
        ahead_ms: i64,
    },
    /// A monotonic clock runs fast or slow.
    Drift {
        /// Whose.
        node: usize,
        /// How fast, in thousandths.
        permille: u32,
    },
    /// A node is drained, and taken back when this is over.
    Drain {
        /// Which.
        node: usize,
    },
    /// A node's process ends, its disk is lost, and another takes its place with an empty one.
    Replace {
        /// Which.
        node: usize,
        /// How long until then.
        down: Duration,
    },
    /// The regions' shares of coordinators change, so that leaderships move.
    Weights {
        /// The share of each region.
        of: [u32; 3],
    },
}

/// What the nemesis knows of the cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Targets {
    /// Nodes that lead something.
    pub(crate) leaders: Vec<usize>,
    /// Nodes that speak for their region.
    pub(crate) owners: Vec<usize>,
}

/// Kind: what a fault is like, before it is decided whom it hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One node ends.
    CrashOne,
    /// All nodes of a region end.
    CrashRegion,
    /// All nodes end.
    CrashAll,
    /// A node is asked to end.
    Stop,
    /// A disk fails to sync, or to write.
    DiskFails,
    /// A disk is full.
    DiskFull,
    /// A disk can be read only.
    ReadOnly,
    /// A disk is slow.
    SlowDisk,
    /// A node stands still.
    Pause,
    /// A region is cut off.
    CutRegion,
    /// One region does not reach another, which reaches it.
    CutOneWay,
    /// Two regions do not reach each other, but a third.
    CutBridge,
    /// A node is cut off.
    CutNode,
    /// The nodes of a region do not reach each other.
    CutInside,
    /// A region's clients do not reach its nodes.
    CutClients,
    /// Ways come and go.
    Flap,
    /// Ways are long.
    SlowWays,
    /// Ways are thin.
    ThinWays,
    /// Connections break.
    Resets,
    /// A clock is wrong.
    Clock,
    /// A clock runs fast or slow.
    Drift,
    /// A node is drained and taken back.
    Drain,
    /// A node's disk is replaced by an empty one.
    Replace,
    /// Leaderships are moved.
    Weights,
}

impl Kind {
    /// Every one, with how often it is made among all.
    pub const WEIGHED: [(Self, u32); 24] = [
        (Self::CrashOne, 22),
        (Self::CrashRegion, 6),
        (Self::CrashAll, 6),
        (Self::Stop, 10),
        (Self::DiskFails, 6),
        (Self::DiskFull, 4),
        (Self::ReadOnly, 3),
        (Self::SlowDisk, 4),
        (Self::Pause, 10),
        (Self::CutRegion, 8),
        (Self::CutOneWay, 5),
        (Self::CutBridge, 5),
        (Self::CutNode, 5),
        (Self::CutInside, 3),
        (Self::CutClients, 4),
        (Self::Flap, 5),
        (Self::SlowWays, 4),
        (Self::ThinWays, 4),
        (Self::Resets, 4),
        (Self::Clock, 4),
        (Self::Drift, 4),
        (Self::Drain, 6),
        (Self::Replace, 4),
        (Self::Weights, 5),
    ];

    /// Those that excuse nothing, as long as they hit one node of a region only.
    pub const PLAIN: [Self; 11] = [
        Self::CrashOne,
        Self::Stop,
        Self::DiskFails,
        Self::DiskFull,
        Self::ReadOnly,
        Self::Resets,
        Self::Clock,
        Self::Drift,
        Self::Drain,
        Self::Replace,
        Self::Weights,
    ];
}

impl Fault {
    /// Chooses a fault, and how long it lasts.
    pub(crate) fn choose(plan: &Plan, targets: &Targets, rng: &mut StdRng) -> (Self, Duration) {
        let is_frail = |node: &usize| plan.frail.contains(node);
        let node = |rng: &mut StdRng| {
            let special = match rng.random_range(0..4) {
                0 => targets.leaders.choose(rng),
                1 => targets.owners.choose(rng),
                _ => None,
            };
            let special = special.copied().filter(is_frail);
            special.unwrap_or_else(|| plan.frail[rng.random_range(0..plan.frail.len())])
        };
        let lease = u64::try_from(plan.lease.as_millis()).unwrap_or(1);
        // Around the lease: much shorter, about as long, much longer.
        let around = |rng: &mut StdRng| {
            let percent = [20, 50, 90, 110, 150, 400][rng.random_range(0..6)];
            Duration::from_millis(lease * percent / 100 + rng.random_range(1..200))
        };
        let lasting = around(rng);
        let all: Vec<usize> = (0..plan.nodes.len()).collect();
        let region = rng.random_range(0..3);
        let inside = plan.nodes_of(region);
        let next = plan.nodes_of((region + 1) % 3);
        let outside = all.iter().copied();
        let outside: Vec<usize> = outside.filter(|of| plan.nodes[*of] != region).collect();
        let ways = |from: &[usize], to: &[usize]| {
            let ways = from
                .iter()
                .flat_map(|from| to.iter().map(|to| (*from, *to)));
            ways.filter(|(from, to)| from != to).collect::<Vec<_>>()
        };
        let both = |one: &[usize], other: &[usize]| [ways(one, other), ways(other, one)].concat();
        let power = !plan.is_plain && rng.random_bool(0.5);
        let down = around(rng);
        let crash = |nodes| Self::Crash { nodes, power, down };
        let cut = |name, ways| Self::Cut { ways, name };
        let chosen = plan.kinds.choose_weighted(rng, |(_, weight)| *weight);
        let (kind, _) = chosen.expect("a plan has kinds of faults");
        let fault = match kind {
            Kind::CrashOne => crash(vec![node(rng)]),
            Kind::CrashRegion => crash(inside),
            Kind::CrashAll => crash(all),
            Kind::Stop => Self::Stop {
                node: node(rng),
                down,
            },
            Kind::DiskFails => {
                let node = node(rng);
                if rng.random_bool(0.5) {
                    let after = rng.random_range(0..8);
                    Self::SyncFails { node, after }
                } else {
                    // A batch is more than one write.
                    let after = rng.random_range(0..20);
                    Self::WriteFails { node, after }
                }
            }
            Kind::DiskFull => Self::DiskFull {
                node: node(rng),
                room: rng.random_range(0..4_000),
            },
            Kind::ReadOnly => Self::ReadOnly { node: node(rng) },
            Kind::SlowDisk => Self::SlowDisk {
                node: node(rng),
                sync: Duration::from_millis(rng.random_range(20..400)),
            },
            Kind::Pause => Self::Pause { node: node(rng) },
            Kind::CutRegion => cut("region", both(&inside, &outside)),
            Kind::CutOneWay => cut("one-way", ways(&inside, &next)),
            Kind::CutBridge => cut("bridge", both(&inside, &next)),
            Kind::CutNode => cut("node", both(&[node(rng)], &all)),
            Kind::CutInside => cut("inside", ways(&inside, &inside)),
            Kind::CutClients => Self::ClientsCut {
                region,
                nodes: match rng.random_bool(0.5) {
                    true => inside,
                    false => inside[..1].to_vec(),
                },
            },
            Kind::Flap => Self::Flap {
                ways: match rng.random_range(0..3) {
                    0 => both(&inside, &outside),
                    1 => both(&inside, &next),
                    _ => ways(&inside, &next),
                },
                // Around a heartbeat.
                every: Duration::from_millis(rng.random_range(40..600)),
            },
            Kind::ThinWays => Self::Thin {
                regions: (region, (region + 1) % 3),
                bytes_per_second: rng.random_range(5_000..125_000),
            },
            Kind::SlowWays => Self::Slow {
                regions: (region, (region + 1) % 3),
                delay: Duration::from_millis(rng.random_range(30..400)),
            },
            Kind::Resets => {
                let one = node(rng);
                let others = plan.frail.iter().copied().filter(|other| *other != one);
                let other = others.choose(rng).expect("more than one node is frail");
                Self::Resets {
                    nodes: (one, other),
                }
            }
            Kind::Clock => Self::Clock {
                node: node(rng),
                ahead_ms: [-3_600_000, -500, 500, 3_600_000][rng.random_range(0..4)],
            },
            Kind::Drift => Self::Drift {
                node: node(rng),
                permille: [950, 990, 1_010, 1_050][rng.random_range(0..4)],
            },
            Kind::Drain => Self::Drain { node: node(rng) },
            Kind::Replace => Self::Replace {
                node: node(rng),
                down,
            },
            Kind::Weights => Self::Weights {
                of: [(); 3].map(|()| [0, 1, 10, 100][rng.random_range(0..4)]),
            },
        };
        (fault, lasting)
    }

    /// Returns what it is called in counts.
    #[must_use]
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Crash { nodes, power, .. } => {
                let how = if *power { "power" } else { "kill" };
                match nodes.len() {
                    1 => format!("{how}-one"),
                    2 | 3 => format!("{how}-region"),
                    _ => format!("{how}-all"),
                }
            }
            Self::Stop { .. } => "stop".to_owned(),
            Self::SyncFails { .. } => "disk-eio-sync".to_owned(),
            Self::WriteFails { .. } => "disk-eio-write".to_owned(),
            Self::DiskFull { .. } => "disk-full".to_owned(),
            Self::ReadOnly { .. } => "disk-read-only".to_owned(),
            Self::SlowDisk { .. } => "disk-slow".to_owned(),
            Self::Pause { .. } => "pause".to_owned(),
            Self::Cut { name, .. } => format!("cut-{name}"),
            Self::Flap { .. } => "cut-flapping".to_owned(),
            Self::ClientsCut { .. } => "cut-clients".to_owned(),
            Self::Slow { .. } => "slow-ways".to_owned(),
            Self::Thin { .. } => "thin-ways".to_owned(),
            Self::Resets { .. } => "resets".to_owned(),
            Self::Clock { .. } => "clock".to_owned(),
            Self::Drift { .. } => "drift".to_owned(),
            Self::Drain { .. } => "drain".to_owned(),
            Self::Replace { .. } => "replace".to_owned(),
            Self::Weights { .. } => "weights".to_owned(),
        }
    }

    /// Returns the nodes that it hits, and whether edges and other nodes may take long to notice:
    /// then their counts may be taken away although another node of their region lives.
    #[must_use]
    pub(crate) fn hits(&self, plan: &Plan) -> (Vec<usize>, bool) {
        match self {
            Self::Crash { nodes, power, .. } => (nodes.clone(), *power),
            Self::Stop { node, .. }
            | Self::SyncFails { node, .. }
            | Self::WriteFails { node, .. }
            | Self::DiskFull { node, .. }
            | Self::ReadOnly { node }
            | Self::Drain { node }
            | Self::Replace { node, .. } => (vec![*node], false),
            Self::SlowDisk { node, .. } | Self::Pause { node } => (vec![*node], true),
            Self::Cut { ways, .. } | Self::Flap { ways, .. } => {
                let mut nodes: Vec<usize> = ways.iter().flat_map(|(a, b)| [*a, *b]).collect();
                nodes.sort_unstable();
                nodes.dedup();
                (nodes, true)
            }
            Self::ClientsCut { nodes, .. } => (nodes.clone(), true),
            Self::Slow { regions, .. } | Self::Thin { regions, .. } => {
                let nodes = plan.nodes_of(regions.0).into_iter();
                (nodes.chain(plan.nodes_of(regions.1)).collect(), true)
            }
            Self::Resets { nodes } => (vec![nodes.0, nodes.1], false),
            Self::Clock { .. } | Self::Drift { .. } | Self::Weights { .. } => (Vec::new(), false),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
