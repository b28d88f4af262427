//! What several stories share.

use headcount_cluster::{
    Churn, Cluster, Edge, History, Reader, Watcher, agree, agree_on_the_log, wait_until,
};

/// Leases that outlast what a story does to nodes: nobody is declared dead.
pub(crate) const LASTING: [&str; 2] = ["placement.lease=20s", "placement.suspect_after=10s"];

/// Starts a watcher of everything at each running node, over gRPC and by server-sent events.
pub(crate) async fn watch_everywhere(cluster: &Cluster) -> Vec<Watcher> {
    let mut watchers = Vec::new();
    for node in cluster.running() {
        watchers.push(Watcher::grpc(cluster, &[node], "").await);
        watchers.push(Watcher::sse(cluster, &[node], "").await);
    }
    watchers
}

/// Waits until all watchers were told the whole story of a channel.
pub(crate) async fn told_everywhere(watchers: &[Watcher], channel: &str, story: &[&str]) {
    let why = format!("the story of {channel} is told");
    for watcher in watchers {
        watcher
            .wait_for(&why, |history| history.story(channel) == *story)
            .await;
    }
}

/// Waits until every watcher's events end in what every node says and are the same, and checks
/// that they are right. A region that lingers counts nothing, so its end may still be to come when
/// the counts agree.
pub(crate) async fn settle(cluster: &Cluster, watchers: &[Watcher]) -> Vec<History> {
    settle_by(cluster, watchers, agree).await
}

/// Does the same where regions may have told what never reached the log.
pub(crate) async fn settle_on_the_log(cluster: &Cluster, watchers: &[Watcher]) -> Vec<History> {
    settle_by(cluster, watchers, agree_on_the_log).await
}

async fn settle_by(
    cluster: &Cluster,
    watchers: &[Watcher],
    agree: impl Fn(&[History]) -> Result<(), String>,
) -> Vec<History> {
    for watcher in watchers {
        for node in cluster.running() {
            watcher.wait_settled(&Reader::new(cluster, node)).await;
        }
    }
    wait_until("all were told the same", async || {
        let histories: Vec<_> = watchers.iter().map(Watcher::history).collect();
        let faults: Vec<_> = histories.iter().flat_map(History::faults).collect();
        assert_eq!(faults, []);
        agree(&histories).map(|()| histories)
    })
    .await
}

/// Returns the seed of a random story: from `SEED`, else a new one; it is printed, so that a
/// failure can be repeated.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    eprintln!("repeat with SEED={seed}");
    seed
}

/// Makes so many changes through each edge, all edges at a time.
pub(crate) async fn churn(churns: &mut [(Churn, Edge)], steps: usize) {
    let all = churns.iter_mut().map(|(churn, edge)| async move {
        for _ in 0..steps {
            churn.step(edge).await;
        }
    });
    futures::future::join_all(all).await;
}

/// Lets an edge in each running node's region make traffic on the same channels.
pub(crate) fn churns(cluster: &Cluster, seed: u64, channels: usize) -> Vec<(Churn, Edge)> {
    let nodes = cluster.running().into_iter();
    let churns = nodes.map(|node| {
        let edge = Edge::start(cluster, &format!("churn-{node}"), &[node]);
        (
            Churn::new(seed.wrapping_add(node as u64), "churn:", channels),
            edge,
        )
    });
    churns.collect()
}
