//! A region with more nodes than copies: every node answers and tells the same, wherever the shards
//! are.

use std::collections::BTreeSet;

use headcount_cluster::{
    Churn, Cluster, Edge, Reader, Watcher, agree_on_counts, story, wait_until,
};
use headcount_model::{EventKind, Modes};

use crate::support::{churn, churns, seed, settle, watch_everywhere};

/// Three nodes that share a region's copies, and two regions of one node.
const REGIONS: [&str; 5] = [
    "us-east-1",
    "us-east-1",
    "us-east-1",
    "eu-west-1",
    "ap-southeast-1",
];

/// One copy a region; a node that is gone is soon not waited for any longer.
const SPREAD: &[&str] = &[
    "cluster.shards=6",
    "placement.copies=1",
    "placement.replace_after=3s",
];

/// Channels that fall into all shards.
fn rooms(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("room:{number}")).collect()
}

async fn attach_all(edge: &mut Edge, connection: &str, rooms: &[String]) {
    let pairs: Vec<_> = rooms
        .iter()
        .map(|room| (connection, room.as_str()))
        .collect();
    edge.attach_all(&pairs, Modes::DEFAULT).await;
}

/// Returns the shards that a node holds.
async fn held(cluster: &Cluster, node: usize) -> BTreeSet<u32> {
    let status = cluster.status(node).await.expect("the node answers");
    let held = status.shards.iter().filter(|shard| shard.applied.is_some());
    held.map(|shard| shard.shard).collect()
}

/// Waits until every watcher was told what is attached in which region, and checks that all were
/// told the same. A region that lingers counts nothing, so the lists alone do not say that it ended.
async fn told_alike(cluster: &Cluster, edges: &[(&str, &Edge)], watchers: &[Watcher]) {
    let attached: BTreeSet<(String, String)> = edges
        .iter()
        .flat_map(|(region, edge)| {
            let channels = edge.occupancy().into_keys();
            channels.map(|channel| (channel, (*region).to_owned()))
        })
        .collect();
    for watcher in watchers {
        watcher
            .wait_for("each region's activity is told", |history| {
                let states = history.check().into_iter();
                let active = states.flat_map(|(channel, state)| {
                    let regions = state.active.into_iter();
                    regions.map(move |region| (channel.clone(), region))
                });
                active.collect::<BTreeSet<_>>() == attached
            })
            .await;
    }
    settle(cluster, watchers).await;
}

#[test]
fn every_node_answers_and_tells_the_same_wherever_the_shards_are() {
    story(async |_| {
        let cluster = Cluster::start_with(&REGIONS, SPREAD).await;

        // The region's shards are spread: whatever a node answers of the others, it was told.
        let mut all = BTreeSet::new();
        for node in 0..3 {
            let held = held(&cluster, node).await;
            assert!((1..=4).contains(&held.len()), "node {node} holds {held:?}");
            assert!(all.is_disjoint(&held), "a shard is held twice: {held:?}");
            all.extend(held);
        }
        assert_eq!(all.len(), 6);

        let watchers = watch_everywhere(&cluster).await;
        let mut here = Edge::start(&cluster, "edge-here", &[1]);
        let mut there = Edge::start(&cluster, "edge-there", &[3]);
        let rooms = rooms(40);
        attach_all(&mut here, "c1", &rooms).await;
        attach_all(&mut there, "c2", &rooms[..20]).await;
        agree_on_counts(&cluster, &[&here, &there]).await;

        // Lists are the same in pages of any size, and in order.
        for node in cluster.running() {
            let reader = Reader::new(&cluster, node);
            let whole = reader.list_by("room:", 1_000).await.unwrap();
            assert_eq!(whole.len(), 40);
            assert!(whole.is_sorted_by(|one, next| one.channel < next.channel));
            for limit in [1, 7, 39] {
                assert_eq!(reader.list_by("room:", limit).await.unwrap(), whole);
            }
            assert_eq!(reader.list_by("room:1", 3).await.unwrap().len(), 11);
        }

        // A status names the replica that it comes from: in the region, but often another node.
        let mut forwarded = 0;
        for node in cluster.running() {
            let reader = Reader::new(&cluster, node);
            for (number, room) in rooms.iter().enumerate() {
                let local = reader.status(room).await.unwrap();
                let strong = reader.strong(room).await.unwrap();
                let connections = local.occupancy.counts()[0];
                assert_eq!(connections, if number < 20 { 2 } else { 1 }, "{room}");
                assert_eq!(local.occupancy, strong.occupancy, "{room}");
                assert_eq!(local.coordinator, strong.coordinator, "{room}");
                assert!(strong.freshness.age.is_zero(), "{strong:?}");
                assert!(local.freshness.unheard.is_empty(), "{local:?}");
                let source = &local.freshness.source;
                assert!(source.starts_with(cluster.region(node)), "{source}");
                let own = reader.status("nobody").await.unwrap();
                assert!(!own.active);
                forwarded +=
                    usize::from(*source != format!("{}/{}", cluster.region(node), node + 1));
            }
        }
        assert!(forwarded >= 40, "{forwarded} statuses were forwarded");

        // A strong read sees what was acknowledged before it, through any node.
        for round in 0..5 {
            here.attach(&format!("more-{round}"), "room:0").await;
            wait_until("the strong read has it", async || {
                let mut seen = Vec::new();
                for node in cluster.running() {
                    let strong = Reader::new(&cluster, node).strong("room:0").await?;
                    seen.push(strong.occupancy.counts()[0]);
                }
                let all = seen.iter().all(|count| *count == 3 + round);
                all.then_some(()).ok_or_else(|| format!("{seen:?}"))
            })
            .await;
        }

        // Of shards that a node does not hold it tells its region's transitions ahead of the log
        // too.
        for node in 0..3 {
            let history = watchers[2 * node].history();
            let early = rooms.iter().filter(|room| {
                let told = history.of(room).into_iter();
                told.clone().any(|told| {
                    told.kind == EventKind::RegionActive
                        && told.region == "us-east-1"
                        && told.position.is_none()
                })
            });
            let early = early.count();
            assert!(early > 20, "{early} of 40 were told early at node {node}");
        }

        for room in &rooms[..30] {
            here.detach("c1", room).await;
        }
        agree_on_counts(&cluster, &[&here, &there]).await;
        told_alike(
            &cluster,
            &[(REGIONS[0], &here), (REGIONS[3], &there)],
            &watchers,
        )
        .await;
        cluster.end().await;
    });
}

#[test]
fn reads_and_watches_recover_from_a_holder_that_is_gone() {
    story(async |_| {
        let mut cluster = Cluster::start_with(&REGIONS, SPREAD).await;
        let lost = 2;
        let orphans = held(&cluster, lost).await;
        assert!(!orphans.is_empty());
        let mut watchers = Vec::new();
        for node in [0, 1, 3] {
            watchers.push(Watcher::grpc(&cluster, &[node], "").await);
            watchers.push(Watcher::sse(&cluster, &[node], "").await);
        }
        let mut here = Edge::start(&cluster, "edge-here", &[0]);
        let mut there = Edge::start(&cluster, "edge-there", &[3]);
        let rooms = rooms(30);
        attach_all(&mut here, "c1", &rooms).await;
        attach_all(&mut there, "c2", &rooms).await;
        agree_on_counts(&cluster, &[&here, &there]).await;

        // Killed: other regions answer for its shards from the next read on.
        cluster.kill(lost).await;
        for node in cluster.running() {
            let reader = Reader::new(&cluster, node);
            assert_eq!(reader.list_by("room:", 11).await.unwrap().len(), 30);
            for room in &rooms {
                let status = reader.status(room).await.unwrap();
                assert_eq!(status.occupancy.counts()[0], 2, "{room} at node {node}");
            }
        }

        // What goes on elsewhere is told here meanwhile.
        attach_all(&mut there, "c3", &rooms).await;
        // The region takes the shards up again on the nodes that are left, and counts on.
        attach_all(&mut here, "c4", &rooms).await;
        let more: Vec<String> = rooms.iter().map(|room| format!("later:{room}")).collect();
        attach_all(&mut here, "c1", &more).await;
        agree_on_counts(&cluster, &[&here, &there]).await;
        wait_until("the shards are held by the others", async || {
            let mut kept = held(&cluster, 0).await;
            kept.extend(held(&cluster, 1).await);
            (kept.len() == 6)
                .then_some(())
                .ok_or_else(|| format!("{kept:?}"))
        })
        .await;
        told_alike(
            &cluster,
            &[(REGIONS[0], &here), (REGIONS[3], &there)],
            &watchers,
        )
        .await;

        // It comes back, and takes its part again.
        cluster.restart(lost).await;
        wait_until("the node takes its part again", async || {
            let held = held(&cluster, lost).await;
            (!held.is_empty())
                .then_some(())
                .ok_or_else(|| "it holds nothing".to_owned())
        })
        .await;
        cluster.wait_grown().await;
        here.detach_all(&[("c1", "room:0"), ("c4", "room:0")]).await;
        agree_on_counts(&cluster, &[&here, &there]).await;
        let back = Watcher::grpc(&cluster, &[lost], "").await;
        here.attach("c5", "last").await;
        back.wait_for("it tells again", |history| history.is_open("last"))
            .await;
        for watcher in &watchers {
            watcher
                .wait_for("all tell it", |history| history.is_open("last"))
                .await;
        }
        agree_on_counts(&cluster, &[&here, &there]).await;
        told_alike(
            &cluster,
            &[(REGIONS[0], &here), (REGIONS[3], &there)],
            &watchers,
        )
        .await;
        cluster.end().await;
    });
}

#[test]
fn watchers_move_between_nodes_that_hold_and_that_follow_without_loss_or_duplicate() {
    story(async |_| {
        let seed = seed();
        // Memory keeps little, so that who was away has to be told from a holder's journal.
        let busy = [
            "region.linger=20ms",
            "coordinator.occupancy_interval=100ms",
            "feed.ring_events_max=32",
            "feed.batch_events_max=32",
            "feed.rollup_lag_events=32",
        ];
        let settings: Vec<&str> = SPREAD.iter().copied().chain(busy).collect();
        let cluster = Cluster::start_with(&REGIONS, &settings).await;
        let mut watchers = watch_everywhere(&cluster).await;
        let mut away = Vec::new();
        for node in 0..3 {
            let mut watcher = Watcher::grpc(&cluster, &[node], "").await;
            watcher.cut().await;
            away.push(watcher);
        }
        let mut roamers = vec![
            Watcher::grpc(&cluster, &[0], "").await,
            Watcher::sse(&cluster, &[1], "").await,
            Watcher::grpc(&cluster, &[4], "").await,
        ];
        let mut churns = churns(&cluster, seed, 24);
        for round in 0..12 {
            churn(&mut churns, 8).await;
            for (number, roamer) in roamers.iter_mut().enumerate() {
                let node = (round * 2 + number) % cluster.len();
                roamer
                    .move_to(&cluster, &[node, (node + 1) % cluster.len()])
                    .await;
            }
        }
        for (node, watcher) in away.iter_mut().enumerate() {
            watcher.resume(&cluster, &[(node + 1) % 3]);
        }
        let edges: Vec<_> = churns.iter().map(|(_, edge)| edge).collect();
        agree_on_counts(&cluster, &edges).await;
        let edges: Vec<_> = REGIONS.into_iter().zip(edges).collect();
        watchers.append(&mut roamers);
        watchers.append(&mut away);
        told_alike(&cluster, &edges, &watchers).await;
        cluster.end().await;
    });
}

#[test]
fn holders_restart_under_traffic_and_those_who_follow_miss_nothing() {
    story(async |_| {
        let seed = seed();
        // Long enough for nothing to be placed elsewhere meanwhile.
        let settings = [SPREAD[0], SPREAD[1], "region.linger=20ms"];
        let mut cluster = Cluster::start_with(&REGIONS, &settings).await;
        let mut watchers = Vec::new();
        for node in [0, 3, 4] {
            watchers.push(Watcher::grpc(&cluster, &[node], "").await);
        }
        // From other regions, whose coordinators go on while a node of the first is down.
        let mut traffic = Vec::new();
        for node in [3, 4] {
            let edge = Edge::start(&cluster, &format!("edge-{node}"), &[node]);
            let churn = Churn::new(seed.wrapping_add(node as u64), "churn:", 24);
            traffic.push((churn, edge));
        }
        for holder in [1, 2, 1, 2] {
            let restart = async {
                cluster.kill(holder).await;
                cluster.restart(holder).await;
                cluster.wait_ready(holder).await;
            };
            tokio::join!(restart, churn(&mut traffic, 150));
        }
        let edges: Vec<_> = traffic.iter().map(|(_, edge)| edge).collect();
        agree_on_counts(&cluster, &edges).await;
        let edges: Vec<_> = REGIONS[3..].iter().copied().zip(edges).collect();
        told_alike(&cluster, &edges, &watchers).await;
        cluster.end().await;
    });
}

#[test]
fn what_a_snapshot_left_out_is_read_from_another_holders_journal() {
    story(async |_| {
        let seed = seed();
        let settings = [
            "cluster.shards=2",
            "region.linger=20ms",
            "coordinator.occupancy_interval=100ms",
            "consensus.snapshot_entries=100",
            "consensus.snapshot_entries_kept=0",
        ];
        let mut cluster = Cluster::start_with(&["us-east-1"], &settings).await;
        let whole = Watcher::grpc(&cluster, &[0], "").await;
        let mut resumed = Watcher::grpc(&cluster, &[0], "").await;
        resumed.cut().await;
        let mut churns = churns(&cluster, seed, 12);
        wait_until("snapshots were taken of much", async || {
            churn(&mut churns, 20).await;
            let applied = cluster.applied(0).await;
            (applied > 400)
                .then_some(())
                .ok_or_else(|| format!("{applied} entries are applied"))
        })
        .await;

        // The newcomer begins with snapshots, and its own journal after them.
        let newcomer = cluster.add("eu-west-1").await;
        cluster.wait_grown().await;
        resumed.resume(&cluster, &[newcomer]);
        told_alike(&cluster, &[(REGIONS[0], &churns[0].1)], &[whole, resumed]).await;
        cluster.end().await;
    });
}
