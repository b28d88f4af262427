//! Nodes that stop and come back: counts and ids stay, and no channel flaps.

use headcount_cluster::{
    Churn, Cluster, Edge, History, REGIONS, Reader, Watcher, agree, agree_on_counts, story,
};
use headcount_model::EventKind;

use crate::support::{LASTING, churn, seed, settle};

/// Starts a watcher at each node that goes on at the others while its own is away.
async fn watch_around(cluster: &Cluster) -> Vec<Watcher> {
    let mut watchers = Vec::new();
    for node in 0..cluster.len() {
        let nodes: Vec<usize> = (0..cluster.len())
            .map(|at| (node + at) % cluster.len())
            .collect();
        watchers.push(Watcher::grpc(cluster, &nodes, "").await);
        watchers.push(Watcher::sse(cluster, &nodes, "").await);
    }
    watchers
}

/// Attaches something in each region: on a channel of its own, and on one that all share.
async fn attach_everywhere(cluster: &Cluster) -> Vec<Edge> {
    let mut edges = Vec::new();
    for node in 0..cluster.len() {
        let mut edge = Edge::start(cluster, &format!("edge-{node}"), &[node]);
        for channel in [format!("own:{node}"), "shared".to_owned()] {
            edge.attach("c1", &channel).await;
            edge.attach("c2", &channel).await;
            edge.enter("c1", &channel, "ann").await;
        }
        edges.push(edge);
    }
    edges
}

/// Checks that what stood was neither closed nor opened again, nor left any region.
fn stood(cluster: &Cluster, history: &History) {
    let channels = (0..cluster.len()).map(|node| format!("own:{node}"));
    for channel in channels.chain(["shared".to_owned()]) {
        let gone = [EventKind::Closed, EventKind::RegionInactive];
        let gone: usize = gone.iter().map(|kind| history.count(&channel, *kind)).sum();
        assert_eq!(
            (history.count(&channel, EventKind::Opened), gone),
            (1, 0),
            "{history}"
        );
    }
}

#[test]
fn one_node_after_another_restarts_and_nothing_flaps() {
    story(async |_| {
        let mut cluster = Cluster::start_with(&REGIONS, &LASTING).await;
        let watchers = watch_around(&cluster).await;
        let mut from_before = Watcher::grpc(&cluster, &[0], "").await;
        from_before.cut().await;
        let mut edges = attach_everywhere(&cluster).await;
        agree_on_counts(&cluster, &edges.iter().collect::<Vec<_>>()).await;

        for node in 0..cluster.len() {
            cluster.stop(node).await;
            // The others go on: what happens meanwhile is told.
            let elsewhere = (node + 1) % cluster.len();
            let channel = format!("during:{node}");
            edges[elsewhere].attach("c1", &channel).await;
            for (at, watcher) in watchers.iter().enumerate() {
                let why = format!("watcher {at} is told what happens while node {node} is away");
                watcher
                    .wait_for(&why, |history| history.is_open(&channel))
                    .await;
            }
            cluster.restart(node).await;
            cluster.wait_grown().await;
            edges[node].attach("c3", &format!("own:{node}")).await;
            agree_on_counts(&cluster, &edges.iter().collect::<Vec<_>>()).await;
        }
        for edge in &mut edges {
            edge.close("c2").await;
        }
        agree_on_counts(&cluster, &edges.iter().collect::<Vec<_>>()).await;
        let mut histories = settle(&cluster, &watchers).await;
        histories
            .iter()
            .for_each(|history| stood(&cluster, history));

        // The journal of a node that was restarted tells all of it again, under the same ids.
        from_before.resume(&cluster, &[1]);
        let events = histories[0].events().len();
        from_before
            .wait_for("all is told", |told| told.events().len() >= events)
            .await;
        histories.push(from_before.wait_settled(&Reader::new(&cluster, 1)).await);
        agree(&histories).unwrap();
        cluster.end().await;
    });
}

/// Two nodes in each region, as an upgrade finds them.
const PAIRS: [&str; 6] = [
    "us-east-1",
    "eu-west-1",
    "ap-southeast-1",
    "us-east-1",
    "eu-west-1",
    "ap-southeast-1",
];

#[test]
fn a_rolling_restart_under_churn_tells_no_false_transition() {
    story(async |_| {
        let seed = seed();
        let settings = [&LASTING[..], &["region.linger=100ms"]].concat();
        let mut cluster = Cluster::start_with(&PAIRS, &settings).await;
        let watchers = watch_around(&cluster).await;
        let mut standing = Vec::new();
        let mut churns = Vec::new();
        for region in 0..3 {
            let nodes = [region, region + 3];
            let mut edge = Edge::start(&cluster, &format!("standing-{region}"), &nodes);
            for channel in [format!("own:{region}"), "shared".to_owned()] {
                edge.attach("c1", &channel).await;
            }
            standing.push(edge);
            let edge = Edge::start(&cluster, &format!("churn-{region}"), &nodes);
            let seed = seed.wrapping_add(region as u64);
            churns.push((Churn::new(seed, "churn:", 5), edge));
        }
        for node in 0..cluster.len() {
            churn(&mut churns, 5).await;
            // Changes go on while it stops, while it is away, and while it comes back.
            tokio::join!(cluster.stop(node), churn(&mut churns, 5));
            churn(&mut churns, 5).await;
            tokio::join!(cluster.restart(node), churn(&mut churns, 5));
            cluster.wait_grown().await;
        }
        let edges = churns.iter().map(|(_, edge)| edge).chain(&standing);
        let edges: Vec<&Edge> = edges.collect();
        agree_on_counts(&cluster, &edges).await;
        for history in settle(&cluster, &watchers).await {
            for channel in ["own:0", "own:1", "own:2", "shared"] {
                let gone = [EventKind::Closed, EventKind::RegionInactive];
                let gone: usize = gone.iter().map(|kind| history.count(channel, *kind)).sum();
                let opened = history.count(channel, EventKind::Opened);
                assert_eq!((opened, gone), (1, 0), "{channel}\n{history}");
            }
        }
        cluster.end().await;
    });
}

#[test]
fn all_nodes_restart_at_once_and_nothing_flaps() {
    story(async |_| {
        let mut cluster = Cluster::start_with(&REGIONS, &LASTING).await;
        let watchers = watch_around(&cluster).await;
        let mut from_before = Watcher::grpc(&cluster, &[0], "").await;
        from_before.cut().await;
        let mut edges = attach_everywhere(&cluster).await;
        agree_on_counts(&cluster, &edges.iter().collect::<Vec<_>>()).await;

        // As if the power had failed, twice: nobody is told, everything comes back from disk.
        for round in 0..2 {
            for node in 0..cluster.len() {
                cluster.kill(node).await;
            }
            for node in 0..cluster.len() {
                cluster.restart(node).await;
            }
            cluster.wait_grown().await;
            for (node, edge) in edges.iter_mut().enumerate() {
                edge.attach("c3", &format!("own:{node}")).await;
                edge.attach("c1", &format!("round:{round}")).await;
            }
            agree_on_counts(&cluster, &edges.iter().collect::<Vec<_>>()).await;
        }
        for edge in &mut edges {
            edge.close("c2").await;
        }
        agree_on_counts(&cluster, &edges.iter().collect::<Vec<_>>()).await;
        let mut histories = settle(&cluster, &watchers).await;
        histories
            .iter()
            .for_each(|history| stood(&cluster, history));

        from_before.resume(&cluster, &[2]);
        let events = histories[0].events().len();
        from_before
            .wait_for("all is told", |told| told.events().len() >= events)
            .await;
        histories.push(from_before.wait_settled(&Reader::new(&cluster, 2)).await);
        agree(&histories).unwrap();
        cluster.end().await;
    });
}
