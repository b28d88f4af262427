//! Where coordinators are, what is said of nodes that fall silent, and nodes that go for good.

use headcount_cluster::{
    Churn, Cluster, Edge, History, REGIONS, Reader, Watcher, agree_on_counts, story, wait_until,
};
use headcount_consensus::store::{Store, StoreConfig};
use headcount_model::EventKind;
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

#[test]
fn pinned_channels_are_coordinated_from_home_while_it_lives() {
    story(async |_| {
        let pins = format!(
            "placement.pins=[{{ prefix = \"ap:\", home = \"{}\", shards = 2 }}]",
            REGIONS[2]
        );
        let settings = ["region.linger=50ms", pins.as_str()];
        let mut cluster = Cluster::start_with(&REGIONS, &settings).await;
        let watchers = [
            Watcher::grpc(&cluster, &[0], "").await,
            Watcher::sse(&cluster, &[1], "").await,
        ];
        let mut edge = Edge::start(&cluster, "edge", &[0]);
        let pinned: Vec<String> = (0..6).map(|number| format!("ap:{number}")).collect();
        for channel in &pinned {
            edge.attach("c1", channel).await;
            edge.attach("c1", &channel.replace("ap:", "free:")).await;
        }
        agree_on_counts(&cluster, &[&edge]).await;
        let at_home = async |cluster: &Cluster, wanted: usize| {
            wait_until("pinned shards are led from home, or not", async || {
                let status = cluster.status(0).await?;
                let pin = status.pins.first().ok_or("no pin is told")?;
                let right = pin.home == REGIONS[2] && pin.shards == [4, 5];
                let right = right && pin.at_home == wanted;
                right.then_some(()).ok_or_else(|| format!("{pin:?}"))
            })
            .await;
        };
        at_home(&cluster, 2).await;
        for channel in &pinned {
            assert_eq!(cluster.coordinator_of(channel).await, 2, "{channel}");
        }
        let reader = Reader::new(&cluster, 1);
        let status = reader.status("ap:1").await.unwrap();
        assert_eq!(status.coordinator, REGIONS[2]);

        // Its home dies: others coordinate, and nothing is lost; then it is led from home again.
        cluster.kill(2).await;
        at_home(&cluster, 0).await;
        for channel in &pinned {
            edge.attach("c2", channel).await;
        }
        agree_on_counts(&cluster, &[&edge]).await;
        cluster.restart(2).await;
        cluster.wait_grown().await;
        at_home(&cluster, 2).await;
        edge.attach("c3", "ap:1").await;
        agree_on_counts(&cluster, &[&edge]).await;
        for history in settle(&cluster, &watchers).await {
            for channel in &pinned {
                assert_eq!(history.count(channel, EventKind::Opened), 1, "{history}");
                assert_eq!(history.count(channel, EventKind::Closed), 0, "{history}");
            }
        }
        cluster.end().await;
    });
}

/// Two nodes in the first region, one in each other.
const PAIRED: [&str; 4] = ["us-east-1", "eu-west-1", "ap-southeast-1", "us-east-1"];

/// Checks that what stood was never told to be gone.
fn stood(history: &History, channel: &str) {
    let gone = [EventKind::Closed, EventKind::RegionInactive];
    let gone: usize = gone.iter().map(|kind| history.count(channel, *kind)).sum();
    let opened = history.count(channel, EventKind::Opened);
    assert_eq!((opened, gone), (1, 0), "{channel}\n{history}");
}

#[test]
fn a_node_is_drained_and_removed_under_load_and_nothing_flaps() {
    story(async |_| {
        let seed = seed();
        let mut cluster = Cluster::start_with(&PAIRED, &["region.linger=50ms"]).await;
        let mut watchers = vec![
            Watcher::grpc(&cluster, &[1], "").await,
            Watcher::sse(&cluster, &[2], "").await,
            // One sits where the drain is, and goes on elsewhere at the end.
            Watcher::grpc(&cluster, &[3, 0], "").await,
        ];
        let mut standing = Edge::start(&cluster, "standing", &[3, 0]);
        for number in 0..8 {
            standing.attach("c1", &format!("standing:{number}")).await;
        }
        let mut churns = Vec::new();
        for (name, nodes) in [("one", &[3, 0]), ("two", &[1, 2])] {
            let edge = Edge::start(&cluster, name, nodes);
            churns.push((Churn::new(seed, "churn:", 6), edge));
        }
        let id = cluster.id_of(3, 0).await;
        cluster.order(1, &format!("nodes/{id}/drain")).await;
        wait_until("the node holds nothing", async || {
            churn(&mut churns, 10).await;
            let nodes = cluster.status(1).await?.nodes;
            let row = nodes
                .into_iter()
                .find(|row| row.id == id)
                .ok_or("it is gone")?;
            let empty = row.held == 0 && row.owned == 0 && row.leaders == 0;
            empty.then_some(()).ok_or_else(|| format!("{row:?}"))
        })
        .await;
        // Empty as it is, it serves those who are there.
        standing.attach("c2", "standing:0").await;
        churn(&mut churns, 10).await;
        let edges: Vec<&Edge> = churns.iter().map(|(_, edge)| edge).collect();
        let edges = [&edges[..], &[&standing]].concat();
        agree_on_counts(&cluster, &edges).await;

        cluster.stop(3).await;
        cluster.order(1, &format!("nodes/{id}/remove")).await;
        churn(&mut churns, 10).await;
        standing.attach("c3", "standing:0").await;
        let edges: Vec<&Edge> = churns.iter().map(|(_, edge)| edge).collect();
        let edges = [&edges[..], &[&standing]].concat();
        agree_on_counts(&cluster, &edges).await;
        let status = cluster.status(0).await.unwrap();
        let row = status.nodes.iter().find(|row| row.id == id);
        assert!(
            row.is_none_or(|row| row.state == "removed" && row.replicas == 0),
            "{row:?}"
        );
        watchers.truncate(3);
        for history in settle(&cluster, &watchers).await {
            (0..8).for_each(|number| stood(&history, &format!("standing:{number}")));
        }
        cluster.end().await;
    });
}

#[test]
fn a_lost_disk_is_replaced_by_an_empty_one_that_is_filled_from_the_others() {
    story(async |_| {
        let mut cluster = Cluster::start_with(&PAIRED, &["region.linger=50ms"]).await;
        let watchers = [
            Watcher::grpc(&cluster, &[0], "").await,
            Watcher::sse(&cluster, &[2], "").await,
        ];
        let mut standing = Edge::start(&cluster, "standing", &[0]);
        let mut there = Edge::start(&cluster, "there", &[1]);
        for number in 0..8 {
            standing.attach("c1", &format!("standing:{number}")).await;
            there.attach("c1", &format!("standing:{number}")).await;
        }
        agree_on_counts(&cluster, &[&standing, &there]).await;
        let id = cluster.id_of(3, 0).await;
        let before = cluster.status(0).await.unwrap();
        let held = before
            .nodes
            .iter()
            .find(|row| row.id == id)
            .unwrap()
            .replicas;
        assert!(held > 0);

        // It is refused while its predecessor may be alive, and waits for the lease to run out.
        cluster.kill(3).await;
        cluster.replace(3, id).await;
        cluster.wait_ready(3).await;
        wait_until("the new one holds what the old one did", async || {
            let status = cluster.status(1).await?;
            let old = status.nodes.iter().find(|row| row.id == id);
            let gone = old.is_none_or(|row| row.state == "removed" && row.replicas == 0);
            let new = status.nodes.iter().find(|row| {
                row.id != id && row.addresses.admin == cluster.ports(3).admin.to_string()
            });
            let new = new.ok_or("the new one is not there")?;
            let filled = new.state == "live" && new.replicas >= held && status.plan_pending == 0;
            let done = gone && filled;
            done.then_some(()).ok_or_else(|| format!("{old:?} {new:?}"))
        })
        .await;
        assert_ne!(cluster.id_of(3, 0).await, id);
        // Others lost nothing, and it serves: reads from its own copy, and edges.
        agree_on_counts(&cluster, &[&standing, &there]).await;
        let mut edge = Edge::start(&cluster, "edge", &[3]);
        edge.attach("c1", "standing:0").await;
        edge.attach("c1", "new").await;
        agree_on_counts(&cluster, &[&standing, &there, &edge]).await;
        let read = Reader::new(&cluster, 3).status("standing:1").await.unwrap();
        assert!(read.active, "{read:?}");
        for history in settle(&cluster, &watchers).await {
            (0..8).for_each(|number| stood(&history, &format!("standing:{number}")));
        }
        cluster.end().await;
    });
}

#[test]
fn a_removed_replica_that_a_node_had_no_time_to_forget_is_forgotten_when_it_starts() {
    story(async |_| {
        let mut cluster = Cluster::start(&REGIONS).await;
        cluster.stop(2).await;
        // As it is after a crash between the removal, which is committed, and the forgetting.
        let store = Store::open(cluster.data_dir(2), StoreConfig::default()).unwrap();
        let placed = store.groups();
        let removed = (1..).find(|replica| !placed.contains(replica)).unwrap();
        let vote = "a replica of another node by now".into();
        store.save_vote(removed, vote).await.unwrap();
        assert!(store.groups().contains(&removed));
        store.close().await.unwrap();
        drop(store);

        cluster.restart(2).await;
        cluster.wait_ready(2).await;
        cluster.stop(2).await;
        let store = Store::open(cluster.data_dir(2), StoreConfig::default()).unwrap();
        assert_eq!(store.groups(), placed);
        assert!(store.is_dropped(removed));
        drop(store);
        cluster.end().await;
    });
}
