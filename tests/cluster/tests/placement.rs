//! Where coordinators are, and what is said of nodes that fall silent.

use headcount_cluster::{
    Churn, Cluster, Edge, REGIONS, Watcher, agree_on_counts, story, wait_until,
};
use headcount_node::admin::status::NodeRow;

use crate::support::{churn, seed, settle, watch_everywhere};

/// Returns a node that does not lead the control group, once one is known to.
async fn not_the_leader(cluster: &Cluster) -> usize {
    wait_until("the control group's leader is known", async || {
        let leader = cluster.status(0).await?.control.leader;
        let leader = leader.ok_or("nobody leads")?.region;
        let mut others = (0..cluster.len()).filter(|node| cluster.region(*node) != leader);
        others.next().ok_or_else(|| "nobody else".to_owned())
    })
    .await
}

#[test]
fn coordinators_follow_traffic_and_nothing_is_told_twice_or_lost() {
    story(async |_| {
        let seed = seed();
        let settings = ["region.linger=20ms", "placement.traffic_steady=3s"];
        let cluster = Cluster::start_with(&REGIONS, &settings).await;
        let watchers = watch_everywhere(&cluster).await;
        let asked = not_the_leader(&cluster).await;
        for region in [2, 1] {
            let edge = Edge::start(&cluster, &format!("edge-{region}"), &[region]);
            let mut churns = vec![(Churn::new(seed, "churn:", 24), edge)];
            wait_until("coordinators are where the traffic is", async || {
                churn(&mut churns, 40).await;
                let status = cluster.status(asked).await?;
                // Those with little traffic may be anywhere.
                let busy = status.shards.iter();
                let busy = busy.filter(|shard| shard.traffic.values().sum::<u64>() > 40);
                let busy: Vec<_> = busy.collect();
                let there = busy.iter().filter(|shard| {
                    let leader = shard.leader.as_ref().map(|leader| leader.region.as_str());
                    leader == Some(REGIONS[region])
                        && shard.follows.as_deref() == Some(REGIONS[region])
                });
                let there = there.count();
                let traffic = status.traffic.ok_or("the leader was not asked")?;
                let local = traffic.local_items * 10 >= traffic.items * 6;
                if there == busy.len() && there > 1 && local {
                    return Ok(());
                }
                Err(format!("{there} of {}: {traffic:?} {busy:?}", busy.len()))
            })
            .await;
            let followers = cluster.status(asked).await.unwrap().regions;
            let followers = followers.iter().find(|row| row.name == REGIONS[region]);
            assert!(followers.unwrap().followers > 1);
            let (churned, mut edge) = churns.pop().unwrap();
            let mut churned = churned;
            churned.leave_all(&mut edge).await;
            edge.goodbye().await;
        }
        let (_, metrics) = cluster.admin(asked, "/metrics").await.unwrap();
        for metric in [
            "placement_leader_moves_total{reason=\"traffic\"}",
            "coordinator_items_total{origin=\"local\"}",
        ] {
            assert!(metrics.contains(metric), "{metric} is not told");
        }
        agree_on_counts(&cluster, &[]).await;
        settle(&cluster, &watchers).await;
        cluster.end().await;
    });
}

#[test]
fn a_silent_node_is_shown_as_suspect_and_then_as_dead_by_every_node() {
    story(async |_| {
        let settings = ["placement.lease=6s", "placement.suspect_after=1s"];
        let mut cluster = Cluster::start_with(&REGIONS, &settings).await;
        let mut edge = Edge::start(&cluster, "edge", &[0]);
        edge.attach("c1", "room").await;
        let watcher = Watcher::grpc(&cluster, &[0], "").await;

        let leader = cluster.status(0).await.unwrap().control.leader.unwrap();
        let leader = (0..3).find(|node| cluster.region(*node) == leader.region);
        let silent = (0..3)
            .find(|node| Some(*node) != leader && *node > 0)
            .unwrap();
        let asked = (0..3)
            .find(|node| *node != silent && Some(*node) != leader)
            .unwrap();
        let row = async |cluster: &Cluster| -> Result<NodeRow, String> {
            let nodes = cluster.status(asked).await?.nodes;
            let mut rows = nodes.into_iter();
            let found = rows.find(|row| row.region == cluster.region(silent));
            found.ok_or_else(|| "the node is not told of".to_owned())
        };
        assert_eq!(
            row(&cluster).await.unwrap().standing.as_deref(),
            Some("live")
        );

        cluster.kill(silent).await;
        wait_until("it is suspect while its lease runs", async || {
            let row = row(&cluster).await?;
            let age = row.lease_age_ms.unwrap_or(0);
            match (row.state.as_str(), row.standing.as_deref()) {
                ("live", Some("suspect")) if (1_000..6_000).contains(&age) => Ok(()),
                ("dead", _) => panic!("it was dead before it was suspect: {row:?}"),
                _ => Err(format!("{row:?}")),
            }
        })
        .await;
        wait_until("the metric tells it, too", async || {
            let (_, metrics) = cluster.admin(asked, "/metrics").await?;
            let told = metrics.contains("placement_nodes{standing=\"suspect\"} 1");
            told.then_some(()).ok_or(metrics)
        })
        .await;
        wait_until("it is dead when its lease has run out", async || {
            let row = row(&cluster).await?;
            let dead = row.state == "dead" && row.standing.as_deref() == Some("dead");
            dead.then_some(()).ok_or_else(|| format!("{row:?}"))
        })
        .await;
        settle(&cluster, std::slice::from_ref(&watcher)).await;
        cluster.end().await;
    });
}
