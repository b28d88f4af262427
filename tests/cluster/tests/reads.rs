//! What answers rest on, and what nodes say of themselves: freshness, strong reads, health.

use std::time::Duration;

use headcount_cluster::{Cluster, Edge, REGIONS, Reader, agree_on_counts, story, wait_until};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[test]
fn answers_say_what_they_rest_on() {
    story(async |_| {
        let mut cluster = Cluster::start(&REGIONS).await;
        let mut edge = Edge::start(&cluster, "edge", &[1]);
        edge.attach("c1", "room").await;
        agree_on_counts(&cluster, &[&edge]).await;

        // Each region answers from its own node, about what is moments old.
        for (node, region) in REGIONS.iter().enumerate() {
            let status = Reader::new(&cluster, node).status("room").await.unwrap();
            let source = status.freshness.source;
            assert!(source.starts_with(&format!("{region}/")), "{source}");
            assert!(
                status.freshness.age < Duration::from_secs(2),
                "{:?}",
                status.freshness.age
            );
            assert_eq!(status.freshness.unheard, Vec::<String>::new());
        }
        let coordinators = (0..3).map(async |node| {
            Reader::new(&cluster, node)
                .status("room")
                .await
                .unwrap()
                .coordinator
        });
        let coordinators = futures::future::join_all(coordinators).await;
        assert!(
            coordinators.iter().all(|of| *of == coordinators[0]),
            "{coordinators:?}"
        );

        // A region that is away is named while it is believed to live.
        cluster.kill(2).await;
        for node in [0, 1] {
            lacks(&cluster, node, &[REGIONS[2]]).await;
        }
        cluster.restart(2).await;
        cluster.wait_grown().await;
        for node in 0..3 {
            lacks(&cluster, node, &[]).await;
        }
        cluster.end().await;
    });
}

/// Waits until a node names exactly these regions as those that it does not hear.
async fn lacks(cluster: &Cluster, node: usize, regions: &[&str]) {
    wait_until(&format!("node {node} lacks {regions:?}"), async || {
        let status = Reader::new(cluster, node).status("room").await?;
        let unheard = status.freshness.unheard;
        (unheard == regions)
            .then_some(())
            .ok_or_else(|| format!("{unheard:?}"))
    })
    .await;
}

#[test]
fn a_minority_tells_its_age_and_confirms_nothing() {
    story(async |_| {
        let mut cluster = Cluster::start(&REGIONS).await;
        let mut edge = Edge::start(&cluster, "edge", &[0]);
        edge.attach("c1", "room").await;
        agree_on_counts(&cluster, &[&edge]).await;
        assert!(
            Reader::new(&cluster, 0)
                .strong("room")
                .await
                .unwrap()
                .active
        );

        // Alone, the node answers from memory, ever older, and lets nobody take it for the truth.
        cluster.kill(1).await;
        cluster.kill(2).await;
        let reader = Reader::new(&cluster, 0);
        wait_until("the answer grows old", async || {
            let status = reader.status("room").await?;
            assert!(status.active, "{status:?}");
            let age = status.freshness.age;
            (age > Duration::from_secs(3))
                .then_some(())
                .ok_or_else(|| format!("{age:?}"))
        })
        .await;
        let answer = reader
            .get("/channels/room?consistency=strong")
            .await
            .unwrap();
        assert_eq!(
            (answer.status, answer.error_code()),
            (503, 50003),
            "{answer:?}"
        );
        assert_eq!(
            cluster.admin(0, "/healthz").await.unwrap().0,
            200,
            "a restart mends nothing"
        );

        // It goes on counting what is attached to it.
        edge.attach("c2", "room").await;
        edge.attach("c1", "other").await;

        // Together again, everybody knows.
        cluster.restart(1).await;
        cluster.restart(2).await;
        cluster.wait_grown().await;
        agree_on_counts(&cluster, &[&edge]).await;
        for node in 0..3 {
            let status = Reader::new(&cluster, node).strong("other").await.unwrap();
            assert!(
                status.active && status.freshness.age.is_zero(),
                "{status:?}"
            );
        }
        cluster.end().await;
    });
}

/// Waits until a node names regions as unheard, and sees that it goes on to.
async fn names(cluster: &Cluster, node: usize, silent: &[&str]) {
    lacks(cluster, node, silent).await;
    let reader = Reader::new(cluster, node);
    let named = Instant::now();
    wait_until("it names them all the time", async || {
        let unheard = reader.status("room").await?.freshness.unheard;
        assert_eq!(unheard, silent, "node {node} after {:?}", named.elapsed());
        // Whoever connects again is found out after 3 s, by the default of the probes.
        (named.elapsed() > Duration::from_secs(4))
            .then_some(())
            .ok_or_else(|| "so far".to_owned())
    })
    .await;
}

#[test]
fn silent_regions_are_named_as_long_as_they_are_silent() {
    story(async |logs| {
        // They are believed to live all the time.
        let settings = ["placement.lease=1m", "placement.suspect_after=10s"];
        let cluster = Cluster::start_apart(&REGIONS, &settings, &logs).await;
        let mut edge = Edge::start(&cluster, "edge", &[0]);
        edge.attach("c1", "room").await;
        agree_on_counts(&cluster, &[&edge]).await;

        // Nobody ends their connections, and they even take new ones.
        cluster.freeze(2).await;
        let silent = [REGIONS[2]];
        tokio::join!(names(&cluster, 0, &silent), names(&cluster, 1, &silent));
        let before = Reader::new(&cluster, 0).status("room").await.unwrap();
        cluster.freeze(1).await;
        let mut silent = [REGIONS[1], REGIONS[2]];
        silent.sort_unstable();
        names(&cluster, 0, &silent).await;
        let after = Reader::new(&cluster, 0).status("room").await.unwrap();
        assert!(
            after.active && after.occupancy == before.occupancy,
            "{after:?}"
        );
        assert!(after.freshness.age > Duration::from_secs(4), "{after:?}");

        cluster.unfreeze(1).await;
        cluster.unfreeze(2).await;
        cluster.wait_grown().await;
        edge.attach("c2", "room").await;
        agree_on_counts(&cluster, &[&edge]).await;
        for node in 0..3 {
            lacks(&cluster, node, &[]).await;
        }
        cluster.end().await;
    });
}

#[test]
fn a_strong_read_sees_what_was_acknowledged_before() {
    story(async |_| {
        let cluster = Cluster::start(&REGIONS).await;
        let mut edges: Vec<Edge> = (0..3)
            .map(|node| Edge::start(&cluster, &format!("edge-{node}"), &[node]))
            .collect();
        for edge in &mut edges {
            edge.attach("c", "warm").await;
        }
        // Whoever sees a count by a strong read somewhere sees it by strong reads everywhere.
        for round in 0..20 {
            let node = round % 3;
            let channel = format!("round:{}", round % 4);
            edges[node].attach(&format!("c{round}"), &channel).await;
            let expected = 1 + u32::try_from(round / 4).unwrap();
            let connections = async |node: usize| {
                let status = Reader::new(&cluster, node).strong(&channel).await?;
                Ok::<u32, String>(status.occupancy.counts()[0])
            };
            wait_until("the coordinator counts it", async || {
                let counted = connections(node).await?;
                (counted == expected)
                    .then_some(())
                    .ok_or_else(|| counted.to_string())
            })
            .await;
            for node in 0..3 {
                assert_eq!(
                    connections(node).await,
                    Ok(expected),
                    "{channel} at node {node}"
                );
            }
        }
        cluster.end().await;
    });
}

#[test]
fn strong_reads_are_answered_while_coordinators_move() {
    story(async |_| {
        let cluster = Cluster::start(&REGIONS).await;
        let mut edge = Edge::start(&cluster, "edge", &[0]);
        let rooms: Vec<String> = (0..8).map(|number| format!("room:{number}")).collect();
        for room in &rooms {
            edge.attach("c", room).await;
        }
        agree_on_counts(&cluster, &[&edge]).await;
        // Far enough from each other that nobody leads for a while.
        for node in 0..REGIONS.len() {
            let others: Vec<usize> = (0..REGIONS.len()).filter(|other| *other != node).collect();
            cluster.delay(node, &others, Duration::from_millis(30));
        }
        let (stop, stopped) = watch::channel(false);
        let mut asking = JoinSet::new();
        for node in 0..REGIONS.len() {
            let (reader, rooms) = (Reader::new(&cluster, node), rooms.clone());
            let stopped = stopped.clone();
            asking.spawn(async move {
                let mut answered = 0;
                for room in rooms.iter().cycle() {
                    if *stopped.borrow() {
                        break;
                    }
                    let status = reader.strong(room).await;
                    let status = status.unwrap_or_else(|why| panic!("node {node}: {room}: {why}"));
                    assert_eq!(status.occupancy.counts()[0], 1, "{room} at node {node}");
                    answered += 1;
                }
                answered
            });
        }
        for home in ["eu-west-1", "ap-southeast-1", "us-east-1", "eu-west-1"] {
            let weights =
                REGIONS.map(|region| format!("\"{region}\": {}", u8::from(region == home)));
            cluster
                .weigh(0, &format!("{{{}}}", weights.join(", ")))
                .await;
            wait_until("its region coordinates all", async || {
                let nodes = cluster.status(0).await?.nodes;
                let abroad = nodes.iter().filter(|row| row.region != home);
                let leaders: usize = abroad.map(|row| row.leaders).sum();
                (leaders == 0)
                    .then_some(())
                    .ok_or_else(|| format!("{leaders} shards are coordinated outside {home}"))
            })
            .await;
        }
        stop.send_replace(true);
        while let Some(answered) = asking.join_next().await {
            assert!(answered.unwrap() > 0);
        }
        cluster.end().await;
    });
}

#[test]
fn the_same_list_comes_in_pages_of_any_size_in_every_region() {
    story(async |_| {
        let cluster = Cluster::start(&REGIONS).await;
        let mut edge = Edge::start(&cluster, "edge", &[2]);
        let names: Vec<String> = (0..57)
            .map(|number| format!("list:ü/{number:02}"))
            .collect();
        let pairs: Vec<(&str, &str)> = names.iter().map(|name| ("c", name.as_str())).collect();
        edge.attach_all(&pairs, headcount_model::Modes::DEFAULT)
            .await;
        agree_on_counts(&cluster, &[&edge]).await;
        for node in 0..3 {
            let reader = Reader::new(&cluster, node);
            for limit in [1, 7, 57, 1_000] {
                let listed = reader.list_by("list:", limit).await.unwrap();
                let listed: Vec<_> = listed.into_iter().map(|item| item.channel).collect();
                assert_eq!(listed, names, "limit {limit} at node {node}");
            }
            assert_eq!(reader.list("list:ü/1").await.unwrap().len(), 10);
            assert_eq!(reader.list("nothing").await.unwrap(), []);
        }
        // Reading a channel does not make it.
        for node in 0..3 {
            let status = Reader::new(&cluster, node).status("never").await.unwrap();
            assert!(!status.active && status.occupancy.is_zero());
        }
        assert_eq!(Reader::new(&cluster, 0).list("never").await.unwrap(), []);
        cluster.end().await;
    });
}

#[test]
fn a_node_says_how_it_is() {
    story(async |_| {
        let cluster = Cluster::start(&["us-east-1"]).await;
        for (path, key) in [("/healthz", "healthy"), ("/readyz", "ready")] {
            let (status, body) = cluster.admin(0, path).await.unwrap();
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(
                (status, &body[key]),
                (200, &serde_json::Value::Bool(true)),
                "{body}"
            );
        }
        let mut edge = Edge::start(&cluster, "edge", &[0]);
        edge.attach("c", "zebra").await;
        agree_on_counts(&cluster, &[&edge]).await;
        let (status, metrics) = cluster.admin(0, "/metrics").await.unwrap();
        assert_eq!(status, 200);
        for name in [
            "gateway_items_total",
            "gossip_transitions_total",
            "coordinator_events_total",
        ] {
            assert!(metrics.contains(name), "{name} is missing:\n{metrics}");
        }
        assert!(!metrics.contains("zebra"), "no metric names a channel");
        cluster.end().await;
    });
}
