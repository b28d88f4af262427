//! Processes that are killed: nothing that was told is taken back, and events go on in order.

use headcount_cluster::{
    Cluster, Edge, History, REGIONS, Watcher, agree_on_counts, story, wait_until,
};
use headcount_model::{Category, EventKind};

use crate::support::{LASTING, settle};

fn stood(history: &History, channel: &str) {
    let gone = [EventKind::Closed, EventKind::RegionInactive];
    let gone: usize = gone.iter().map(|kind| history.count(channel, *kind)).sum();
    assert_eq!(
        (history.count(channel, EventKind::Opened), gone),
        (1, 0),
        "{history}"
    );
}

#[test]
fn events_go_on_in_order_when_the_coordinator_is_killed() {
    story(async |logs| {
        let mut cluster = Cluster::start_apart(&REGIONS, &LASTING, &logs).await;
        // Each watcher goes on elsewhere when its node is killed.
        let mut watchers = Vec::new();
        for node in 0..3 {
            let nodes = [node, (node + 1) % 3, (node + 2) % 3];
            watchers.push(Watcher::grpc(&cluster, &nodes, "").await);
            watchers.push(Watcher::sse(&cluster, &nodes, "").await);
        }
        let mut edges: Vec<Edge> = (0..3)
            .map(|node| Edge::start(&cluster, &format!("edge-{node}"), &[node]))
            .collect();
        for edge in &mut edges {
            edge.attach("c1", "standing").await;
        }
        agree_on_counts(&cluster, &edges.iter().collect::<Vec<_>>()).await;

        for round in 0..3 {
            let channel = format!("round:{round}");
            let killed = cluster.coordinator_of(&channel).await;
            let alive = (killed + 1) % 3;

            // Something is under way at the moment of the kill.
            edges[alive].attach("before", &channel).await;
            cluster.kill(killed).await;
            edges[alive].attach("c1", &channel).await;
            edges[(alive + 1) % 3]
                .attach("c1", &format!("{channel}:more"))
                .await;
            for watcher in &watchers {
                let told = |history: &History| {
                    history.is_open(&channel) && history.is_open(&format!("{channel}:more"))
                };
                watcher
                    .wait_for("events go on with another coordinator", told)
                    .await;
            }
            let next = cluster.coordinator_of(&channel).await;
            assert_ne!(next, killed);

            cluster.restart(killed).await;
            cluster.wait_grown().await;
            edges[killed].attach("again", &channel).await;
            agree_on_counts(&cluster, &edges.iter().collect::<Vec<_>>()).await;
        }
        for history in settle(&cluster, &watchers).await {
            stood(&history, "standing");
            (0..3).for_each(|round| stood(&history, &format!("round:{round}")));
        }
        cluster.end().await;
    });
}

#[test]
fn a_region_whose_process_stays_away_is_expired_and_comes_back() {
    story(async |logs| {
        let mut cluster = Cluster::start_apart(&REGIONS, &[], &logs).await;
        let watcher = Watcher::grpc(&cluster, &[0], "").await;
        let mut here = Edge::start(&cluster, "here", &[0]);
        let mut there = Edge::start(&cluster, "there", &[2]);
        there.attach("c1", "alone").await;
        there.attach("c1", "both").await;
        here.attach("c1", "both").await;
        agree_on_counts(&cluster, &[&here, &there]).await;

        // The lease of 2 s runs out: what only the dead region had is closed.
        cluster.kill(2).await;
        watcher
            .wait_for("the region is expired", |history| {
                !history.is_open("alone") && !history.is_active("both", REGIONS[2])
            })
            .await;
        assert!(watcher.history().is_open("both"));
        agree_on_counts(&cluster, &[&here]).await;

        // It comes back with its edge: both are told again.
        cluster.restart(2).await;
        cluster.wait_grown().await;
        agree_on_counts(&cluster, &[&here, &there]).await;
        watcher
            .wait_for("the region is back", |history| {
                history.is_open("alone") && history.is_active("both", REGIONS[2])
            })
            .await;
        settle(&cluster, std::slice::from_ref(&watcher)).await;
        let history = watcher.history();
        assert_eq!(history.count("both", EventKind::Closed), 0, "{history}");
        assert_eq!(history.count("alone", EventKind::Opened), 2, "{history}");
        cluster.end().await;
    });
}

#[test]
fn an_owner_that_was_stopped_past_its_lease_changes_nothing_when_it_wakes_up() {
    story(async |logs| {
        // Two nodes in the region whose owner is stopped, one in each other.
        let regions = ["us-east-1", "us-east-1", "eu-west-1", "ap-southeast-1"];
        let cluster = Cluster::start_apart(&regions, &[], &logs).await;
        let owner = cluster.owner_of("us-east-1", "room").await;
        let next = 1 - owner;
        let watchers = [
            Watcher::grpc(&cluster, &[next], "").await,
            Watcher::sse(&cluster, &[2], "").await,
        ];
        let mut standing = Edge::start(&cluster, "standing", &[next]);
        let mut moving = Edge::start(&cluster, "moving", &[owner, next]);
        standing.attach("c1", "room").await;
        agree_on_counts(&cluster, &[&standing]).await;
        moving.attach("c2", "room").await;
        moving.attach("c2", "brief").await;
        agree_on_counts(&cluster, &[&standing, &moving]).await;
        let life = async |of: usize| {
            let nodes = cluster.status(2).await?.nodes;
            let row = nodes.into_iter().find(|row| row.id == of as u64 + 1);
            row.ok_or_else(|| "it is not listed".to_owned())
        };
        let before = life(owner).await.expect("it is listed").incarnation;

        // All that it knows is over before it wakes up: its edge is elsewhere, with less, and
        // another owns.
        cluster.freeze(owner).await;
        moving.detach("c2", "brief").await;
        moving.detach("c2", "room").await;
        for watcher in &watchers {
            watcher
                .wait_for("what was there is told to be gone", |history| {
                    let last = history.of("room").into_iter().next_back();
                    let left = last.map(|told| told.occupancy.get(Category::Connections));
                    left == Some(1) && !history.is_open("brief")
                })
                .await;
        }
        wait_until("its lease is over", async || {
            let row = life(owner).await?;
            (row.state == "dead")
                .then_some(())
                .ok_or_else(|| format!("{row:?}"))
        })
        .await;

        // It begins another life, and brings nothing back.
        cluster.unfreeze(owner).await;
        wait_until("it lives again", async || {
            let row = life(owner).await?;
            (row.state == "live" && row.incarnation > before)
                .then_some(())
                .ok_or_else(|| format!("{row:?}"))
        })
        .await;
        cluster.wait_grown().await;
        agree_on_counts(&cluster, &[&standing, &moving]).await;
        for history in settle(&cluster, &watchers).await {
            stood(&history, "room");
            let told = history.of("room").into_iter();
            let mut told: Vec<_> = told
                .map(|told| told.occupancy.get(Category::Connections))
                .collect();
            told.dedup();
            assert_eq!(told, [1, 2, 1], "{history}");
            let told = [EventKind::Opened, EventKind::Closed];
            assert_eq!(
                told.map(|kind| history.count("brief", kind)),
                [1, 1],
                "{history}"
            );
        }
        cluster.end().await;
    });
}

#[test]
fn all_processes_are_killed_at_once_and_nothing_flaps() {
    story(async |logs| {
        let mut cluster = Cluster::start_apart(&REGIONS, &LASTING, &logs).await;
        let watcher = Watcher::grpc(&cluster, &[1, 2, 0], "").await;
        let mut edges: Vec<Edge> = (0..3)
            .map(|node| Edge::start(&cluster, &format!("edge-{node}"), &[node]))
            .collect();
        for edge in &mut edges {
            edge.attach("c1", "standing").await;
        }
        agree_on_counts(&cluster, &edges.iter().collect::<Vec<_>>()).await;
        for node in 0..3 {
            cluster.kill(node).await;
        }
        for node in 0..3 {
            cluster.restart(node).await;
        }
        cluster.wait_grown().await;
        edges[1].attach("c1", "after").await;
        agree_on_counts(&cluster, &edges.iter().collect::<Vec<_>>()).await;
        for history in settle(&cluster, std::slice::from_ref(&watcher)).await {
            stood(&history, "standing");
        }
        cluster.end().await;
    });
}

#[test]
fn a_process_with_damaged_data_ends_and_says_why() {
    story(async |logs| {
        let mut cluster = Cluster::start_apart(&["us-east-1"], &[], &logs).await;
        cluster.stop(0).await;
        let dir = cluster.data_dir(0).to_owned();
        let biggest = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap());
        let biggest = biggest.filter(|entry| entry.file_type().unwrap().is_file());
        let biggest = biggest
            .max_by_key(|entry| entry.metadata().unwrap().len())
            .unwrap();
        let mut bytes = std::fs::read(biggest.path()).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(biggest.path(), bytes).unwrap();
        cluster.restart(0).await;
        assert!(cluster.exit_code(0).await.is_some_and(|code| code != 0));
        let name = biggest.file_name().into_string().unwrap();
        wait_until("the reason is told", async || {
            logs.contain(&name)
                .then_some(())
                .ok_or_else(|| format!("nothing about {name}"))
        })
        .await;
    });
}
