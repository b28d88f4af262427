//! Regional owners that die: what they told stays told.

use headcount_cluster::{
    Cluster, Edge, Reader, Watcher, agree, agree_on_counts, story, wait_until,
};
use headcount_model::{EventKind, Modes};

use crate::support::LASTING;

/// Two nodes in the region whose owner dies, one in each other.
const REGIONS: [&str; 4] = ["us-east-1", "us-east-1", "eu-west-1", "ap-southeast-1"];

#[test]
fn an_owner_that_stops_is_relieved_before_it_ends() {
    story(async |_| {
        let settings = [&LASTING[..], &["region.linger=50ms"]].concat();
        let mut cluster = Cluster::start_with(&REGIONS, &settings).await;
        let owner = cluster.owner_of("us-east-1", "room").await;
        let next = 1 - owner;
        let far = Watcher::grpc(&cluster, &[2], "").await;
        let mut edge = Edge::start(&cluster, "edge", &[owner, next]);
        edge.attach("c1", "room").await;
        agree_on_counts(&cluster, &[&edge]).await;

        // It does not come back, and nobody waits for the end of its lease: neither does what
        // begins, nor what ends, for which the next owner must have heard every gateway.
        cluster.stop(owner).await;
        assert_eq!(cluster.owner_of("us-east-1", "room").await, next);
        edge.attach("c1", "other").await;
        edge.detach("c1", "room").await;
        far.wait_for("both are told", |history| {
            history.is_open("other") && history.count("room", EventKind::Closed) == 1
        })
        .await;
        agree_on_counts(&cluster, &[&edge]).await;
        let status = cluster.status(2).await.unwrap();
        let states = status.nodes.iter().map(|node| node.state.as_str());
        let stopping = states.filter(|state| *state == "stopping").count();
        assert_eq!(stopping, 1, "{:?}", status.nodes);
        cluster.end().await;
    });
}

#[test]
fn what_an_owner_told_ahead_is_logged_by_the_next() {
    story(async |_| {
        let mut cluster = Cluster::start_with(&REGIONS, &["region.linger=50ms"]).await;
        let owner = cluster.owner_of("us-east-1", "room").await;
        let next = 1 - owner;
        let near = Watcher::grpc(&cluster, &[next], "room").await;
        let far = Watcher::grpc(&cluster, &[2], "room").await;
        let mut edge = Edge::start(&cluster, "edge", &[next]);
        edge.attach("c1", "other").await;

        // Without a majority nothing gets into the log; the region is told at once all the same.
        cluster.kill(2).await;
        cluster.kill(3).await;
        for active in [true, false, true] {
            if active {
                edge.attach("c1", "room").await;
            } else {
                edge.detach("c1", "room").await;
            }
            near.wait_for("the region is told", |history| {
                history.is_active("room", "us-east-1") == active
            })
            .await;
        }
        assert!(!near.history().is_open("room"), "nobody coordinates");

        // Its owner dies before anybody else heard of it. The next one brings it into the log.
        cluster.kill(owner).await;
        cluster.restart(2).await;
        cluster.restart(3).await;
        for watcher in [&near, &far] {
            watcher
                .wait_for("the channel is opened", |history| history.is_open("room"))
                .await;
        }
        for node in [next, 2, 3] {
            wait_until("its count is known everywhere", async || {
                let status = Reader::new(&cluster, node).status("room").await?;
                let counts = status.occupancy.counts();
                (counts[0] == 1)
                    .then_some(())
                    .ok_or_else(|| format!("{counts:?}"))
            })
            .await;
            near.wait_settled(&Reader::new(&cluster, node)).await;
            far.wait_settled(&Reader::new(&cluster, node)).await;
        }
        agree(&[near.history(), far.history()]).unwrap();
        let told = near.history();
        let told = told
            .of("room")
            .into_iter()
            .filter(|told| told.kind.is_regional());
        assert_eq!(told.count(), 3, "{}", near.history());
        cluster.end().await;
    });
}

#[test]
fn an_owner_keeps_what_it_is_told_before_it_knows_of_itself() {
    story(async |_| {
        // A node's gateway and its owners hear of the control group's word in any order. What an
        // owner does not take is told again after this time, which nobody waits here.
        let settings = ["gateway.ack_timeout=1m", "cluster.shards=64"];
        let cluster = Cluster::start_with(&["us-east-1"], &settings).await;
        let mut edge = Edge::start(&cluster, "edge", &[0]);
        let rooms: Vec<String> = (0..500).map(|number| format!("room:{number}")).collect();
        let pairs: Vec<_> = rooms.iter().map(|room| ("c1", room.as_str())).collect();
        edge.attach_all(&pairs, Modes::DEFAULT).await;
        agree_on_counts(&cluster, &[&edge]).await;
        cluster.end().await;
    });
}
