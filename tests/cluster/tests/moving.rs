//! Realtime clients that go from one node to another (R8): nobody is counted twice, nor for long
//! not at all.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use headcount_cluster::{
    Cluster, Logs, REGIONS, Reader, RealtimeClient, Watcher, story, wait_until,
};
use headcount_model::Category;
use tokio::task::JoinHandle;

const ROOM: &str = "room";

/// What a dropped connection counts for by itself, far above what anything here takes.
const SETTINGS: [&str; 3] = [
    "gateway.client_grace=20s",
    "region.adoption_cap=30s",
    "coordinator.occupancy_interval=100ms",
];

/// Above the lease of [`Cluster`], with what it takes to see its end.
const LEASE_ENDED: Duration = Duration::from_secs(4);

/// Two nodes of one region, as processes, and a third one that makes a majority without either.
async fn cluster(more: &[&str], logs: &Logs) -> Cluster {
    let regions = ["us-east-1", "us-east-1", "eu-west-1"];
    let settings = [&SETTINGS, more].concat();
    let cluster = Cluster::start_apart(&regions, &settings, logs).await;
    cluster.wait_grown().await;
    cluster
}

/// Returns a channel of which a node of the first region neither owns nor coordinates the shard.
async fn room_without(cluster: &Cluster, node: usize) -> String {
    for number in 0..100 {
        let room = format!("room:{number}");
        let owner = cluster.owner_of("us-east-1", &room).await;
        if owner != node && cluster.coordinator_of(&room).await != node {
            return room;
        }
    }
    panic!("node {node} owns or coordinates everything");
}

/// Somebody who asks nodes for the room's connections all the time.
struct Looking {
    seen: Arc<Mutex<Vec<u32>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Looking {
    fn at(cluster: &Cluster, nodes: &[usize], room: &str) -> Self {
        let seen: Arc<Mutex<Vec<u32>>> = Arc::default();
        let tasks = nodes.iter().map(|node| {
            let (reader, seen) = (Reader::new(cluster, *node), Arc::clone(&seen));
            let room = room.to_owned();
            tokio::spawn(async move {
                loop {
                    let status = reader.status(&room).await.expect("the node answers");
                    let connections = status.occupancy.get(Category::Connections);
                    seen.lock().unwrap().push(connections);
                    // allow-sleep: between two looks of many, which are to leave room for others
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        });
        let tasks = tasks.collect();
        Self { seen, tasks }
    }

    /// Waits until so many more looks were taken, and returns the most connections that were ever
    /// seen.
    async fn most(&self, more: usize) -> u32 {
        let before = self.seen.lock().unwrap().len();
        wait_until("nodes are looked at", async || {
            assert!(self.tasks.iter().all(|task| !task.is_finished()));
            let seen = self.seen.lock().unwrap().len();
            let enough = seen >= before + more;
            enough.then_some(()).ok_or_else(|| format!("{seen} looks"))
        })
        .await;
        let seen = self.seen.lock().unwrap();
        seen.iter().copied().max().unwrap_or_default()
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Waits until a node's metric says so.
async fn metric(cluster: &Cluster, node: usize, line: &str) {
    wait_until(&format!("node {node} says {line:?}"), async || {
        let (_, metrics) = cluster.admin(node, "/metrics").await?;
        let said = metrics.lines().any(|said| said == line);
        said.then_some(()).ok_or_else(|| {
            let handovers = metrics.lines().filter(|line| line.contains("handovers"));
            handovers.collect::<Vec<_>>().join("\n")
        })
    })
    .await;
}

/// Waits until every one of the nodes says that the room has so many connections.
async fn connections(cluster: &Cluster, nodes: &[usize], room: &str, expected: u32) {
    for node in nodes {
        let reader = Reader::new(cluster, *node);
        wait_until(&format!("node {node} counts {expected}"), async || {
            let status = reader.status(room).await?;
            let connections = status.occupancy.get(Category::Connections);
            let same = connections == expected;
            same.then_some(()).ok_or_else(|| connections.to_string())
        })
        .await;
    }
}

fn handed_over(outcome: &str, times: u32) -> String {
    format!("api_realtime_handovers_total{{outcome=\"{outcome}\"}} {times}")
}

#[test]
fn who_moves_within_a_region_is_never_counted_twice() {
    story(async |logs| {
        // So long that a node may be frozen without being taken for dead.
        let settings = ["placement.lease=30s", "placement.suspect_after=15s"];
        let cluster = cluster(&settings, &logs).await;
        // One that can be counted while its client's old node is frozen.
        let room = room_without(&cluster, 1).await;
        let client = RealtimeClient::attach(&cluster, 1, &room).await;
        connections(&cluster, &[0, 1, 2], &room, 1).await;
        let looking = Looking::at(&cluster, &[0, 2], &room);

        // Its node does not answer: the old connection is the one that counts.
        cluster.freeze(1).await;
        let mut client = client.move_to(&cluster, 0).await;
        metric(&cluster, 0, "api_realtime_handovers 1").await;
        assert_eq!(looking.most(200).await, 1);
        metric(&cluster, 0, "gateway_attachments 0").await;

        // Then the new one.
        cluster.unfreeze(1).await;
        metric(&cluster, 0, &handed_over("released", 1)).await;
        metric(&cluster, 1, "api_realtime_releases_total 1").await;
        metric(&cluster, 0, "gateway_attachments 1").await;
        metric(&cluster, 1, "gateway_attachments 0").await;

        // Back and forth, without a pause.
        for to in [1, 0, 1] {
            client = client.move_to(&cluster, to).await;
            metric(&cluster, to, "api_realtime_handovers 0").await;
            metric(&cluster, to, "gateway_attachments 1").await;
            metric(&cluster, 1 - to, "gateway_attachments 0").await;
        }
        metric(&cluster, 1, &handed_over("released", 2)).await;
        connections(&cluster, &[0, 1, 2], &room, 1).await;
        assert_eq!(looking.most(100).await, 1);

        // Nothing is left of it anywhere.
        drop(looking);
        client.close().await;
        connections(&cluster, &[0, 1, 2], &room, 0).await;
        cluster.end().await;
    });
}

#[test]
fn who_comes_from_a_killed_node_counts_once_its_lease_has_ended() {
    story(async |logs| {
        let mut cluster = cluster(&[], &logs).await;
        // Not the leader of the control group, after whose end leases begin anew.
        let leader = cluster.control_leader().await;
        let (from, to) = if leader == 1 { (0, 1) } else { (1, 0) };
        let client = RealtimeClient::attach(&cluster, from, ROOM).await;
        connections(&cluster, &[0, 1, 2], ROOM, 1).await;
        let looking = Looking::at(&cluster, &[to, 2], ROOM);
        let killed = Instant::now();
        cluster.kill(from).await;
        let client = client.move_to(&cluster, to).await;
        metric(&cluster, to, &handed_over("lease_ended", 1)).await;
        let took = killed.elapsed();
        eprintln!("let go by a killed node after {took:?}");
        assert!(took < LEASE_ENDED, "{took:?}");
        metric(&cluster, to, "gateway_attachments 1").await;
        connections(&cluster, &[to, 2], ROOM, 1).await;
        assert_eq!(looking.most(500).await, 1);

        // It is the one that counts, and no other.
        drop(looking);
        client.close().await;
        connections(&cluster, &[to, 2], ROOM, 0).await;
        cluster.end().await;
    });
}

#[test]
fn who_moves_to_another_region_is_soon_gone_from_the_old_one() {
    story(async |logs| {
        let cluster = Cluster::start_apart(&REGIONS, &SETTINGS, &logs).await;
        let watcher = Watcher::grpc(&cluster, &[2], "").await;
        let client = RealtimeClient::attach(&cluster, 0, ROOM).await;
        watcher
            .wait_for("it is there", |history| history.is_active(ROOM, REGIONS[0]))
            .await;
        let moved = Instant::now();
        let client = client.move_to(&cluster, 1).await;
        watcher
            .wait_for("it is here, and no more there", |history| {
                history.is_active(ROOM, REGIONS[1]) && !history.is_active(ROOM, REGIONS[0])
            })
            .await;
        let took = moved.elapsed();
        eprintln!("gone from the old region after {took:?}");
        assert!(took < Duration::from_secs(10), "{took:?}");
        metric(&cluster, 1, &handed_over("released", 1)).await;
        metric(&cluster, 0, "api_realtime_releases_total 1").await;
        connections(&cluster, &[0, 1, 2], ROOM, 1).await;
        client.close().await;
        connections(&cluster, &[0, 1, 2], ROOM, 0).await;
        drop(watcher);
        cluster.end().await;
    });
}

#[test]
fn who_comes_late_from_a_node_that_has_stopped_does_not_wait_for_its_lease() {
    story(async |logs| {
        let settings = ["placement.lease=30s", "placement.suspect_after=15s"];
        let mut cluster = cluster(&settings, &logs).await;
        let client = RealtimeClient::attach(&cluster, 1, ROOM).await;
        connections(&cluster, &[0, 1, 2], ROOM, 1).await;
        let looking = Looking::at(&cluster, &[0, 2], ROOM);
        cluster.stop(1).await;
        let moved = Instant::now();
        let client = client.move_to(&cluster, 0).await;
        metric(&cluster, 0, &handed_over("lease_ended", 1)).await;
        let took = moved.elapsed();
        eprintln!("let go by a node that has stopped after {took:?}");
        assert!(took < Duration::from_secs(10), "{took:?}");
        metric(&cluster, 0, "gateway_attachments 1").await;
        assert_eq!(looking.most(100).await, 1);
        drop(looking);
        drop(client);
        cluster.end().await;
    });
}
