//! Two regions that do not reach each other, while a third reaches both (R18).

use std::time::Duration;

use headcount_cluster::{Cluster, Edge, REGIONS, Reader, agree_on_counts, story, wait_until};

use crate::support::{settle, watch_everywhere};

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
