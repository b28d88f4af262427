//! A cluster that grows at run time, under load: from one node to three regions to several nodes
//! a region.

use headcount_cluster::{Churn, Cluster, Edge, Watcher, agree_on_counts, story};
use headcount_model::EventKind;

use crate::support::{churn, seed, settle};

#[test]
fn one_node_grows_to_three_regions_to_several_nodes_a_region_under_load() {
    story(async |_| {
        let seed = seed();
        let settings = [
            "region.linger=50ms",
            "placement.lease=5s",
            "placement.suspect_after=2s",
        ];
        let mut cluster = Cluster::start_with(&["us-east-1"], &settings).await;
        let mut watchers = vec![
            Watcher::grpc(&cluster, &[0], "").await,
            Watcher::sse(&cluster, &[0], "").await,
        ];
        let mut standing = Edge::start(&cluster, "standing", &[0]);
        standing.attach("c1", "standing").await;
        let edge = Edge::start(&cluster, "churn-0", &[0]);
        let mut churns = vec![(Churn::new(seed, "churn:", 5), edge)];

        // Each node joins while edges report; its own edge begins as soon as it is ready.
        let plan = [
            "eu-west-1",
            "ap-southeast-1",
            "us-east-1",
            "eu-west-1",
            "ap-southeast-1",
        ];
        for region in plan {
            let (node, ()) = tokio::join!(cluster.add(region), churn(&mut churns, 15));
            standing.attach(&format!("c{}", node + 1), "standing").await;
            let edge = Edge::start(&cluster, &format!("churn-{node}"), &[node]);
            churns.push((
                Churn::new(seed.wrapping_add(node as u64), "churn:", 5),
                edge,
            ));
            churn(&mut churns, 5).await;
        }
        cluster.wait_grown().await;

        // Voters and coordinators are spread over the regions.
        let status = cluster.status(0).await.unwrap();
        let region_of = |id: u64| {
            let row = status.nodes.iter().find(|row| row.id == id);
            row.map(|row| row.region.clone()).unwrap_or_default()
        };
        for shard in &status.shards {
            let mut regions: Vec<_> = shard.voters.iter().map(|id| region_of(*id)).collect();
            regions.sort();
            regions.dedup();
            assert_eq!(regions.len(), 3, "voters in one region: {shard:?}");
            assert_eq!(shard.owners.len(), 3, "{shard:?}");
        }

        let mut edges: Vec<&Edge> = churns.iter().map(|(_, edge)| edge).collect();
        edges.push(&standing);
        agree_on_counts(&cluster, &edges).await;
        for node in 0..cluster.len() {
            watchers.push(Watcher::grpc(&cluster, &[node], "after").await);
        }
        standing.attach("c1", "after").await;
        for watcher in &watchers {
            watcher
                .wait_for("growth is over", |history| history.is_open("after"))
                .await;
        }
        let late = watchers.split_off(2);
        for history in settle(&cluster, &watchers).await {
            let gone = [EventKind::Closed, EventKind::RegionInactive];
            let gone: usize = gone
                .iter()
                .map(|kind| history.count("standing", *kind))
                .sum();
            assert_eq!(gone, 0, "what stood flapped:\n{history}");
        }
        settle(&cluster, &late).await;
        cluster.end().await;
    });
}
