//! Faults: which there are, what each hits, and what it excuses.

use std::fmt;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

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
    /// A region's edges and watchers do not reach some of its nodes.
    ClientsCut {
        /// The region.
        region: usize,
        /// The nodes.
        nodes: Vec<usize>,
    },
    /// Ways between two regions are long.
    Slow {
        /// The regions.
        regions: (usize, usize),
        /// How long a way takes.
        delay: Duration,
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
}

/// What the nemesis knows of the cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Targets {
    /// Nodes that lead something.
    pub(crate) leaders: Vec<usize>,
    /// Nodes that speak for their region.
    pub(crate) owners: Vec<usize>,
}

impl Fault {
    /// Chooses a fault, and how long it lasts.
    pub(crate) fn choose(plan: &Plan, targets: &Targets, rng: &mut StdRng) -> (Self, Duration) {
        let node = |rng: &mut StdRng| {
            let special = match rng.random_range(0..4) {
                0 => targets.leaders.choose(rng).copied(),
                1 => targets.owners.choose(rng).copied(),
                _ => None,
            };
            special.unwrap_or_else(|| rng.random_range(0..plan.nodes.len()))
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
        let outside: Vec<usize> = all
            .iter()
            .copied()
            .filter(|node| plan.nodes[*node] != region)
            .collect();
        let both = |one: &[usize], other: &[usize]| {
            let ways = one.iter().flat_map(|one| {
                other
                    .iter()
                    .flat_map(|other| [(*one, *other), (*other, *one)])
            });
            ways.filter(|(one, other)| one != other).collect::<Vec<_>>()
        };
        let power = rng.random_bool(0.5);
        let down = around(rng);
        let fault = match rng.random_range(0..100) {
            0..22 => Self::Crash {
                nodes: vec![node(rng)],
                power,
                down,
            },
            22..28 => Self::Crash {
                nodes: inside,
                power,
                down,
            },
            28..34 => Self::Crash {
                nodes: all,
                power,
                down,
            },
            34..40 => Self::SyncFails {
                node: node(rng),
                after: rng.random_range(0..8),
            },
            40..44 => Self::DiskFull {
                node: node(rng),
                room: rng.random_range(0..4_000),
            },
            44..48 => Self::SlowDisk {
                node: node(rng),
                sync: Duration::from_millis(rng.random_range(20..400)),
            },
            48..58 => Self::Pause { node: node(rng) },
            58..66 => Self::Cut {
                ways: both(&inside, &outside),
                name: "region",
            },
            66..71 => {
                let other = plan.nodes_of((region + 1) % 3);
                let ways = inside
                    .iter()
                    .flat_map(|from| other.iter().map(|to| (*from, *to)));
                Self::Cut {
                    ways: ways.collect(),
                    name: "one-way",
                }
            }
            71..76 => Self::Cut {
                ways: both(&inside, &plan.nodes_of((region + 1) % 3)),
                name: "bridge",
            },
            76..81 => Self::Cut {
                ways: both(&[node(rng)], &all),
                name: "node",
            },
            81..84 => Self::Cut {
                ways: both(&inside, &inside),
                name: "inside",
            },
            84..88 => {
                let nodes = if rng.random_bool(0.5) {
                    inside
                } else {
                    inside[..1].to_vec()
                };
                Self::ClientsCut { region, nodes }
            }
            88..92 => Self::Slow {
                regions: (region, (region + 1) % 3),
                delay: Duration::from_millis(rng.random_range(30..400)),
            },
            92..96 => {
                let one = node(rng);
                Self::Resets {
                    nodes: (
                        one,
                        (one + rng.random_range(1..plan.nodes.len())) % plan.nodes.len(),
                    ),
                }
            }
            _ => Self::Clock {
                node: node(rng),
                ahead_ms: [-3_600_000, -500, 500, 3_600_000][rng.random_range(0..4)],
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
            Self::SyncFails { .. } => "disk-eio".to_owned(),
            Self::DiskFull { .. } => "disk-full".to_owned(),
            Self::SlowDisk { .. } => "disk-slow".to_owned(),
            Self::Pause { .. } => "pause".to_owned(),
            Self::Cut { name, .. } => format!("cut-{name}"),
            Self::ClientsCut { .. } => "cut-clients".to_owned(),
            Self::Slow { .. } => "slow-ways".to_owned(),
            Self::Resets { .. } => "resets".to_owned(),
            Self::Clock { .. } => "clock".to_owned(),
        }
    }

    /// Returns the nodes that it hits, and whether edges and other nodes may take long to notice:
    /// then their counts may be taken away although another node of their region lives.
    #[must_use]
    pub(crate) fn hits(&self, plan: &Plan) -> (Vec<usize>, bool) {
        match self {
            Self::Crash { nodes, power, .. } => (nodes.clone(), *power),
            Self::SyncFails { node, .. } | Self::DiskFull { node, .. } => (vec![*node], false),
            Self::SlowDisk { node, .. } | Self::Pause { node } => (vec![*node], true),
            Self::Cut { ways, .. } => {
                let mut nodes: Vec<usize> = ways.iter().flat_map(|(a, b)| [*a, *b]).collect();
                nodes.sort_unstable();
                nodes.dedup();
                (nodes, true)
            }
            Self::ClientsCut { nodes, .. } => (nodes.clone(), true),
            Self::Slow { regions, .. } => {
                let nodes = plan.nodes_of(regions.0).into_iter();
                (nodes.chain(plan.nodes_of(regions.1)).collect(), true)
            }
            Self::Resets { nodes } => (vec![nodes.0, nodes.1], false),
            Self::Clock { .. } => (Vec::new(), false),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
