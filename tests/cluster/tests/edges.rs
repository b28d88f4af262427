//! Edges whose streams break: nothing flaps, nothing counts twice, and nobody who is gone stays.

use std::time::Duration;

use headcount_cluster::{Cluster, Edge, History, Proxy, Reader, Watcher, agree_on_counts, story};
use headcount_model::{Category, EventKind};
use tokio::time::Instant;

use crate::support::{LASTING, settle, watch_everywhere};

/// Two nodes in one region, one in another.
const REGIONS: [&str; 3] = ["us-east-1", "us-east-1", "eu-west-1"];

/// Most connections that any event ever told of a channel.
fn most_connections(history: &History, channel: &str) -> u32 {
    let counts = history.of(channel).into_iter();
    counts
        .map(|told| told.occupancy.get(Category::Connections))
        .max()
        .unwrap_or(0)
}

/// Checks that the channel stood all the time, and never counted more than was there.
fn stood(histories: &[History], channel: &str, most: u32) {
    for history in histories {
        let gone = [EventKind::Closed, EventKind::RegionInactive];
        let gone: usize = gone.iter().map(|kind| history.count(channel, *kind)).sum();
        assert_eq!(gone, 0, "{channel} flapped:\n{history}");
        assert!(
            most_connections(history, channel) <= most,
            "{channel} counted twice:\n{history}"
        );
    }
}

#[test]
fn a_broken_stream_resumes_and_nothing_flaps() {
    story(async |_| {
        let cluster = Cluster::start(&REGIONS).await;
        let watchers = watch_everywhere(&cluster).await;
        let way = Proxy::start(cluster.ports(0).reporter).await;
        let mut edge = Edge::start_at("edge", vec![way.url()]);
        edge.wait_connected().await;
        for connection in ["c1", "c2", "c3"] {
            edge.attach(connection, "room").await;
        }
        for round in 0..5 {
            way.cut(Some(cluster.ports(0).reporter));
            assert!(edge.wait_connected().await.1, "the session goes on");
            edge.attach("c1", &format!("round:{round}")).await;
        }
        agree_on_counts(&cluster, &[&edge]).await;
        let histories = settle(&cluster, &watchers).await;
        stood(&histories, "room", 3);
        cluster.end().await;
    });
}

#[test]
fn a_session_moves_to_another_node_of_the_region_in_one_step() {
    story(async |_| {
        let cluster = Cluster::start(&REGIONS).await;
        let watchers = watch_everywhere(&cluster).await;
        let first = Proxy::start(cluster.ports(0).reporter).await;
        let second = Proxy::start(cluster.ports(1).reporter).await;
        let mut edge = Edge::start_at("edge", vec![first.url(), second.url()]);
        edge.wait_connected().await;
        for connection in ["c1", "c2", "c3"] {
            edge.attach(connection, "room").await;
        }
        edge.enter("c1", "room", "ann").await;
        agree_on_counts(&cluster, &[&edge]).await;

        // To the other node and back, with something attached in between.
        first.cut(None);
        let (node, resumed) = edge.wait_connected().await;
        assert_eq!((node, resumed), (second.url(), false));
        edge.detach("c3", "room").await;
        agree_on_counts(&cluster, &[&edge]).await;
        first.cut(Some(cluster.ports(0).reporter));
        second.cut(None);
        edge.wait_connected().await;
        edge.attach("c3", "room").await;
        agree_on_counts(&cluster, &[&edge]).await;

        // What counted at the left nodes has ended by itself: nothing is taken away later either.
        let histories = settle(&cluster, &watchers).await;
        stood(&histories, "room", 3);
        edge.close("c1").await;
        edge.close("c2").await;
        edge.close("c3").await;
        for watcher in &watchers {
            watcher
                .wait_for("the room ends", |history| !history.is_open("room"))
                .await;
        }
        agree_on_counts(&cluster, &[]).await;
        settle(&cluster, &watchers).await;
        cluster.end().await;
    });
}

#[test]
fn an_edge_that_is_gone_counts_for_the_grace_and_no_longer() {
    story(async |_| {
        let cluster = Cluster::start_with(&REGIONS, &LASTING).await;
        let watcher = Watcher::grpc(&cluster, &[2], "").await;
        let mut edge = Edge::start(&cluster, "edge", &[1]);
        edge.attach("c1", "room").await;
        watcher
            .wait_for("the room is opened", |history| history.is_open("room"))
            .await;
        let gone = Instant::now();
        drop(edge);
        watcher
            .wait_for("the room ends", |history| !history.is_open("room"))
            .await;
        // The grace of 2 s, and then the linger.
        let told = gone.elapsed();
        assert!(told >= Duration::from_secs(2), "{told:?}");
        agree_on_counts(&cluster, &[]).await;
        // What is left of 6 s is for slow machines. All else that could have ended it takes longer:
        // an adoption is capped after 8 s, a takeover given up after 10 s, a lease lasts 20 s.
        let counted = gone.elapsed();
        assert!(counted < Duration::from_secs(6), "{counted:?}");
        // A goodbye needs no grace.
        let mut edge = Edge::start(&cluster, "edge", &[1]);
        edge.attach("c1", "room").await;
        watcher
            .wait_for("the room is opened again", |history| {
                history.is_open("room")
            })
            .await;
        edge.goodbye().await;
        watcher
            .wait_for("the room ends again", |history| !history.is_open("room"))
            .await;
        watcher.wait_settled(&Reader::new(&cluster, 2)).await;
        cluster.end().await;
    });
}
