//! Random stops, kills and restarts under load: whatever happens, everybody is told the same in
//! the end, and it is what is attached.

use headcount_cluster::{Churn, Cluster, Edge, Watcher, agree_on_counts, story};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::support::{LASTING, churn, seed, settle_on_the_log};

/// Two regions with two nodes, one with one.
const REGIONS: [&str; 5] = [
    "us-east-1",
    "eu-west-1",
    "ap-southeast-1",
    "us-east-1",
    "eu-west-1",
];

/// The nodes of each region, nearest first.
const NODES: [&[usize]; 3] = [&[0, 3], &[1, 4], &[2]];

/// Takes nodes away and brings them back at random, some rounds.
async fn trouble(cluster: &mut Cluster, rng: &mut StdRng, churns: &mut [(Churn, Edge)]) {
    for _ in 0..6 {
        let victim = rng.random_range(0..REGIONS.len());
        let others: Vec<usize> = (0..REGIONS.len()).filter(|node| *node != victim).collect();
        let second = rng
            .random_bool(0.3)
            .then(|| *others.choose(rng).expect("there are others"));
        let gone: Vec<usize> = std::iter::once(victim).chain(second).collect();
        for node in &gone {
            if rng.random_bool(0.5) {
                eprintln!("stop {node}");
                cluster.stop(*node).await;
            } else {
                eprintln!("kill {node}");
                cluster.kill(*node).await;
            }
        }
        // Edges of regions with a node that runs go on, at the other node if need be.
        let alive = |region: &usize| NODES[*region].iter().any(|node| !gone.contains(node));
        let alive: Vec<usize> = (0..NODES.len()).filter(alive).collect();
        let steps = rng.random_range(1..20);
        let on = churns
            .iter_mut()
            .enumerate()
            .filter(|(region, _)| alive.contains(region));
        let on = on.map(|(_, (churn, edge))| async move {
            for _ in 0..steps {
                churn.step(edge).await;
            }
        });
        futures::future::join_all(on).await;
        for node in &gone {
            eprintln!("restart {node}");
            cluster.restart(*node).await;
        }
        for node in &gone {
            cluster.wait_ready(*node).await;
        }
        churn(churns, 3).await;
    }
}

async fn troubles(settings: &[&str]) {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::start_with(&REGIONS, settings).await;
    let mut watchers = Vec::new();
    for node in 0..REGIONS.len() {
        let nodes: Vec<usize> = (0..REGIONS.len())
            .map(|at| (node + at) % REGIONS.len())
            .collect();
        watchers.push(Watcher::grpc(&cluster, &nodes, "").await);
        watchers.push(Watcher::sse(&cluster, &nodes, "").await);
    }
    let churns = NODES.iter().enumerate().map(|(region, nodes)| {
        let edge = Edge::start(&cluster, &format!("churn-{region}"), nodes);
        (
            Churn::new(seed.wrapping_add(region as u64), "churn:", 5),
            edge,
        )
    });
    let mut churns: Vec<_> = churns.collect();
    churn(&mut churns, 10).await;
    trouble(&mut cluster, &mut rng, &mut churns).await;

    // Peace: what is told ends in what is attached, for everybody.
    cluster.wait_grown().await;
    let edges: Vec<&Edge> = churns.iter().map(|(_, edge)| edge).collect();
    agree_on_counts(&cluster, &edges).await;
    settle_on_the_log(&cluster, &watchers).await;
    cluster.end().await;
}

#[test]
fn nodes_that_come_and_go_leave_everybody_with_the_same_story() {
    story(async |_| {
        troubles(&[&LASTING[..], &["region.linger=50ms"]].concat()).await;
    });
}

#[test]
fn nodes_that_are_given_up_leave_everybody_with_the_same_story() {
    story(async |_| {
        // The shortest lease: whoever is away is soon taken for dead, and its region expired.
        let short = [
            "region.linger=50ms",
            "placement.lease=500ms",
            "placement.suspect_after=250ms",
        ];
        troubles(&short).await;
    });
}
