//! Watchers that are cut off at any point go on in another region without loss or duplicate.

use headcount_cluster::{Cluster, Edge, REGIONS, Reader, Watcher, agree, story};
use headcount_model::EventKind;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::{churn, churns, seed, settle, watch_everywhere};

/// Much happens, and memory keeps little of it, so that resuming needs the journal as well.
const BUSY: [&str; 5] = [
    "region.linger=20ms",
    "coordinator.occupancy_interval=100ms",
    "feed.ring_events_max=32",
    "feed.batch_events_max=32",
    "feed.rollup_lag_events=32",
];

/// Moves a watcher to another region whenever it was told a random number of events, until the
/// traffic ends.
async fn roam(cluster: &Cluster, watcher: &mut Watcher, rng: &mut StdRng) {
    loop {
        let before = watcher.history().steps.len();
        let more = rng.random_range(1..12);
        watcher
            .wait_for("more is told", |history| {
                history.steps.len() >= before + more
            })
            .await;
        let first = rng.random_range(0..cluster.len());
        watcher.cut().await;
        if rng.random_bool(0.2) {
            // Away for long: what memory keeps is over.
            tokio::task::yield_now().await;
            let told = Watcher::grpc(cluster, &[first], "").await;
            told.wait_for("much happens meanwhile", |history| history.steps.len() > 60)
                .await;
        }
        watcher.resume(cluster, &[first, (first + 1) % cluster.len()]);
    }
}

#[test]
fn a_watcher_resumes_in_another_region_without_loss_or_duplicate() {
    story(async |_| {
        let seed = seed();
        let cluster = Cluster::start_with(&REGIONS, &BUSY).await;
        let mut watchers = watch_everywhere(&cluster).await;
        let mut roamers = vec![
            Watcher::grpc(&cluster, &[0], "").await,
            Watcher::sse(&cluster, &[1], "").await,
            Watcher::grpc(&cluster, &[2], "").await,
        ];
        let mut churns = churns(&cluster, seed, 6);

        // Traffic in all regions on the same channels, while some watchers move all the time.
        let moves = roamers.iter_mut().enumerate().map(|(at, roamer)| {
            let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(at as u64));
            let cluster = &cluster;
            async move { roam(cluster, roamer, &mut rng).await }
        });
        let moves = futures::future::join_all(moves);
        tokio::select! {
            () = churn(&mut churns, 150) => {}
            _ = moves => unreachable!("watchers move until the traffic ends"),
        }

        // Whoever was cut when the traffic ended goes on; then all have been told the same.
        for roamer in &mut roamers {
            roamer.move_to(&cluster, &[0]).await;
        }
        let moved = roamers.iter().map(|roamer| {
            let steps = roamer.history().steps;
            let is_move = |step: &&headcount_cluster::Step| {
                matches!(step, headcount_cluster::Step::Resumed { .. })
            };
            steps.iter().filter(is_move).count()
        });
        let moved: usize = moved.sum();
        assert!(moved >= 10, "only {moved} moves: too few to show anything");
        watchers.append(&mut roamers);
        let histories = settle(&cluster, &watchers).await;
        let events = histories[0].events().len();
        let opened = histories[0].events();
        let opened = opened
            .iter()
            .filter(|told| told.kind == EventKind::Opened)
            .count();
        eprintln!("{events} events, {opened} opened, {moved} moves");
        assert!(opened >= 10, "only {opened} channels were opened");
        cluster.end().await;
    });
}

#[test]
fn a_cursor_from_before_everything_brings_everything_in_every_region() {
    story(async |_| {
        let seed = seed();
        let cluster = Cluster::start_with(&REGIONS, &BUSY).await;
        let mut late = Vec::new();
        for node in 0..3 {
            let mut watcher = Watcher::grpc(&cluster, &[node], "").await;
            watcher.cut().await;
            late.push(watcher);
        }
        let watchers = watch_everywhere(&cluster).await;
        let mut churns = churns(&cluster, seed, 4);
        churn(&mut churns, 60).await;
        for (churn, edge) in &mut churns {
            churn.leave_all(edge).await;
        }
        let mut histories = settle(&cluster, &watchers).await;

        // Each goes on in the next region, from the journal alone.
        for (at, watcher) in late.iter_mut().enumerate() {
            let node = (at + 1) % 3;
            watcher.resume(&cluster, &[node]);
            let events = histories[0].events().len();
            watcher
                .wait_for("all is told", |told| told.events().len() >= events)
                .await;
            histories.push(watcher.wait_settled(&Reader::new(&cluster, node)).await);
        }
        agree(&histories).unwrap();
        cluster.end().await;
    });
}

#[test]
fn a_prefix_and_kinds_choose_what_is_told() {
    story(async |_| {
        let cluster = Cluster::start_with(&["us-east-1"], &BUSY).await;
        let all = Watcher::grpc(&cluster, &[0], "").await;
        let some = Watcher::grpc(&cluster, &[0], "room:").await;
        let same = Watcher::sse(&cluster, &[0], "room:").await;
        let mut edge = Edge::start(&cluster, "edge", &[0]);
        for channel in ["room:1", "rooms", "lobby", "room:2"] {
            edge.attach("c", channel).await;
        }
        all.wait_for("all are told", |history| history.is_open("room:2"))
            .await;
        for watcher in [&some, &same] {
            watcher
                .wait_for("both rooms are told", |history| history.is_open("room:2"))
                .await;
            watcher.wait_settled(&Reader::new(&cluster, 0)).await;
        }
        agree(&[some.history(), same.history()]).unwrap();
        let reader = Reader::new(&cluster, 0);
        assert_eq!(reader.list("room").await.unwrap().len(), 3);
        cluster.end().await;
    });
}
