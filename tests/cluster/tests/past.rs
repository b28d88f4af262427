//! The past of an app, as every node tells it.

use std::collections::BTreeSet;

use headcount_cluster::{Cluster, Edge, Reader, agree_on_counts, story, wait_until};
use headcount_model::Modes;
use serde_json::Value;

/// Three nodes that share a region's copies, and another region.
const REGIONS: [&str; 4] = ["us-east-1", "us-east-1", "us-east-1", "eu-west-1"];

const SPREAD: &[&str] = &[
    "cluster.shards=6",
    "placement.copies=1",
    "region.linger=100ms",
];

const LIFECYCLE: &str = "[meta]channel.lifecycle";

fn ids(told: &[Value]) -> Vec<String> {
    let ids = told.iter().map(|item| item["id"].as_str().unwrap());
    ids.map(str::to_owned).collect()
}

/// Returns what was told of a channel: the events' names in order.
fn story_of(told: &[Value], channel: &str) -> Vec<String> {
    let told = told.iter().filter(|item| {
        let data: Value = serde_json::from_str(item["data"].as_str().unwrap()).unwrap();
        data["channelId"] == channel
    });
    let names = told.map(|item| item["name"].as_str().unwrap().to_owned());
    names.filter(|name| name != "channel.occupancy").collect()
}

#[test]
fn every_node_tells_the_same_past_in_the_same_order() {
    story(async |_| {
        let mut cluster = Cluster::start_with(&REGIONS, SPREAD).await;
        let mut edge = Edge::start(&cluster, "edge", &[1]);
        let rooms: Vec<_> = (0..40).map(|number| format!("room:{number}")).collect();
        let pairs: Vec<_> = rooms.iter().map(|room| ("c1", room.as_str())).collect();
        edge.attach_all(&pairs, Modes::DEFAULT).await;
        agree_on_counts(&cluster, &[&edge]).await;
        edge.detach_all(&pairs[..20]).await;
        agree_on_counts(&cluster, &[&edge]).await;

        let lived = [
            "channel.region.active",
            "channel.opened",
            "channel.region.inactive",
            "channel.closed",
        ];
        let whole = wait_until("every channel's life is told", async || {
            let told = Reader::new(&cluster, 0)
                .history(LIFECYCLE, "forwards", 1_000)
                .await?;
            let whole = rooms[..20]
                .iter()
                .all(|room| story_of(&told, room) == lived);
            if whole {
                Ok(told)
            } else {
                Err(format!("{} events", told.len()))
            }
        })
        .await;
        let once: BTreeSet<_> = ids(&whole).into_iter().collect();
        assert_eq!(once.len(), whole.len(), "nothing is told twice");

        // Whatever a node holds, in pages of any size, in both directions.
        for node in cluster.running() {
            let reader = Reader::new(&cluster, node);
            for limit in [7, 1_000] {
                let forwards = reader.history(LIFECYCLE, "forwards", limit).await.unwrap();
                assert_eq!(ids(&forwards), ids(&whole), "node {node}, pages of {limit}");
                let mut backwards = reader.history(LIFECYCLE, "backwards", limit).await.unwrap();
                backwards.reverse();
                assert_eq!(
                    ids(&backwards),
                    ids(&whole),
                    "node {node}, pages of {limit}"
                );
            }
        }

        // A node that came later knows it too, though its replicas came by snapshots.
        let late = cluster.add("eu-west-1").await;
        wait_until("the new node tells it as well", async || {
            let told = Reader::new(&cluster, late)
                .history(LIFECYCLE, "forwards", 1_000)
                .await?;
            if ids(&told) == ids(&whole) {
                Ok(())
            } else {
                Err(format!("{} events", told.len()))
            }
        })
        .await;
        cluster.end().await;
    });
}
