//! Nodes that do not reach each other for a while: detours through a third that reaches both (R18),
//! and what happens once the way is open again.

use std::time::Duration;

use headcount_cluster::{Cluster, Edge, REGIONS, Reader, agree_on_counts, story, wait_until};

use headcount_model::Modes;

use crate::support::{LASTING, settle, watch_everywhere};

/// More changes than an owner has under way at a time, so that all of them pass only if it is told
/// what was applied.
const CHANGES: u32 = 50;

#[test]
fn what_cannot_go_straight_to_the_coordinator_goes_through_a_third() {
    story(async |_| {
        let cluster = Cluster::start(&REGIONS).await;
        let watchers = watch_everywhere(&cluster).await;

        // Leases are renewed with the leader of the control group, so that one reaches everybody.
        let third = wait_until("the control group has a leader", async || {
            let status = cluster.status(0).await?;
            let leader = status.control.leader.ok_or("no leader")?;
            Ok(usize::try_from(leader.node - 1).expect("nodes are few"))
        })
        .await;
        let (here, there) = ((third + 1) % 3, (third + 2) % 3);
        let mut channel = None;
        for number in 0.. {
            let name = format!("room:{number}");
            if cluster.coordinator_of(&name).await == there {
                channel = Some(name);
                break;
            }
        }
        let channel = channel.expect("some shard is coordinated there");
        let mut edge = Edge::start(&cluster, "edge", &[here]);
        edge.attach("c0", &channel).await;
        agree_on_counts(&cluster, &[&edge]).await;

        cluster.cut(here, Some(there));
        let counted = async |connections: u32| {
            for node in [there, third] {
                let reader = Reader::new(&cluster, node);
                let why = format!("node {node} counts {connections} through the third");
                wait_until(&why, async || {
                    let counts = reader.status(&channel).await?.occupancy.counts()[0];
                    (counts == connections)
                        .then_some(())
                        .ok_or_else(|| format!("{counts} are counted"))
                })
                .await;
            }
        };
        let started = tokio::time::Instant::now();
        for number in 1..=CHANGES {
            edge.attach(&format!("c{number}"), &channel).await;
            if number == 1 {
                counted(2).await;
                // An election takes 0.6 to 1.2 s with the tests' timing, and machines are slow.
                let took = started.elapsed();
                assert!(took < Duration::from_secs(5), "it took {took:?}");
            }
            counted(1 + number).await;
        }
        assert_eq!(cluster.coordinator_of(&channel).await, there);

        cluster.cut(here, None);
        agree_on_counts(&cluster, &[&edge]).await;
        settle(&cluster, &watchers).await;
        cluster.end().await;
    });
}

/// Renewals that are taken on before the story ends: those of several leases.
const RENEWALS: usize = 20;

#[test]
fn a_lease_is_renewed_through_a_third() {
    story(async |_| {
        let cluster = Cluster::start(&REGIONS).await;
        let watchers = watch_everywhere(&cluster).await;
        let leader = cluster.control_leader().await;
        let (here, third) = ((leader + 1) % 3, (leader + 2) % 3);
        let mut edge = Edge::start(&cluster, "edge", &[here]);
        edge.attach("c0", "room").await;
        agree_on_counts(&cluster, &[&edge]).await;

        cluster.cut(here, Some(leader));
        let metric = "placement_renewals_taken_on_total";
        let before = said(&cluster, metric).await.expect("the metric is there");
        wait_until("several leases are over", async || {
            let taken_on = said(&cluster, metric).await? - before;
            (taken_on >= RENEWALS)
                .then_some(())
                .ok_or_else(|| format!("{taken_on} renewals were taken on"))
        })
        .await;
        let status = cluster.status(third).await.expect("it answers");
        let lives = status
            .nodes
            .iter()
            .map(|node| (node.incarnation, &node.state));
        let lives: Vec<_> = lives.collect();
        assert!(
            lives.iter().all(|life| *life == (1, &"live".to_owned())),
            "nobody was declared dead: {lives:?}"
        );

        cluster.cut(here, None);
        agree_on_counts(&cluster, &[&edge]).await;
        let histories = settle(&cluster, &watchers).await;
        for history in histories {
            let told = history.story("room");
            assert_eq!(
                told.len(),
                2,
                "it was active and opened, and no more: {told:?}"
            );
        }
        cluster.end().await;
    });
}

/// Channels that are told while a way is cut; more than what nodes tell each other without a cause.
const ROOMS: usize = 100;

#[test]
fn an_update_that_was_lost_is_told_again_once_the_way_is_open() {
    story(async |_| {
        // Nobody waits for the time after which the gateway misses an acknowledgement.
        let settings = [
            &LASTING[..],
            &["gateway.ack_timeout=1m", "cluster.shards=1"],
        ]
        .concat();
        let regions = ["us-east-1", "us-east-1", "eu-west-1", "ap-southeast-1"];
        let cluster = Cluster::start_with(&regions, &settings).await;
        let owner = cluster.owner_of("us-east-1", "room:0").await;
        let metric = "gateway_update_items_sum";
        told_again(&cluster, 1 - owner, owner, metric).await;
        cluster.end().await;
    });
}

#[test]
fn a_batch_that_was_lost_is_sent_again_once_the_way_is_open() {
    story(async |_| {
        // Nobody waits for the time after which it is sent again, or another way.
        let settings = [
            &LASTING[..],
            &["gossip.resend_after=1m", "cluster.shards=1"],
        ]
        .concat();
        let cluster = Cluster::start_with(&REGIONS, &settings).await;
        let coordinator = cluster.coordinator_of("room:0").await;
        let metric = "gossip_transitions_total";
        told_again(&cluster, (coordinator + 1) % 3, coordinator, metric).await;
        cluster.end().await;
    });
}

/// Cuts the way between two nodes, lets one of them tell the other what is lost, which a metric
/// shows, heals it, and waits until all is counted.
async fn told_again(cluster: &Cluster, from: usize, to: usize, metric: &str) {
    let mut edge = Edge::start(cluster, "edge", &[from]);
    edge.attach("c0", "room:0").await;
    agree_on_counts(cluster, &[&edge]).await;

    cluster.cut(from, Some(to));
    let before = said(cluster, metric).await.expect("the metric is there");
    let rooms: Vec<_> = (1..=ROOMS).map(|room| format!("room:{room}")).collect();
    let pairs: Vec<_> = rooms.iter().map(|room| ("c0", room.as_str())).collect();
    edge.attach_all(&pairs, Modes::DEFAULT).await;
    wait_until("it was told what is lost", async || {
        let told = said(cluster, metric).await? - before;
        (told >= ROOMS)
            .then_some(())
            .ok_or_else(|| format!("{told} were told"))
    })
    .await;
    let (there, here) = (Reader::new(cluster, to), Reader::new(cluster, from));
    for reader in [there, here] {
        let listed = reader.list("").await.expect("it can be asked");
        assert_eq!(listed.len(), 1, "nothing passed");
    }

    cluster.cut(from, None);
    agree_on_counts(cluster, &[&edge]).await;
}

/// Returns what a metric says, for all nodes of this process together.
async fn said(cluster: &Cluster, metric: &str) -> Result<usize, String> {
    let (_, metrics) = cluster.admin(0, "/metrics").await?;
    let value = metrics.lines().find_map(|line| line.strip_prefix(metric));
    let value = value.ok_or_else(|| format!("no {metric}"))?;
    value
        .trim()
        .parse()
        .map_err(|_| format!("{metric} says {value}"))
}
