//! The control group's leases, while its leader is cut off (R5), and what an owner said before its
//! lease was over (R1).

use std::time::Duration;

use headcount_cluster::{Cluster, Edge, REGIONS, Watcher, agree_on_counts, story, wait_until};
use headcount_model::{Category, EventKind};
use tokio::time::Instant;

use crate::support::settle;

#[test]
fn a_leader_that_was_cut_off_declares_nobody_dead_once_it_is_heard_again() {
    story(async |_| {
        let settings = ["placement.lease=2s", "placement.suspect_after=1s"];
        let cluster = Cluster::start_with(&REGIONS, &settings).await;
        let leader_of = async |node: usize| {
            let status = cluster.status(node).await?;
            let leader = status.control.leader.ok_or("no leader")?;
            Ok::<_, String>(usize::try_from(leader.node - 1).expect("nodes are few"))
        };
        let old = wait_until("the control group has a leader", async || {
            leader_of(0).await
        })
        .await;
        let others: Vec<usize> = (0..REGIONS.len()).filter(|node| *node != old).collect();
        let lives = async |of: &[usize]| {
            let status = cluster.status(others[0]).await?;
            let lives = of.iter().map(|node| {
                let mut rows = status.nodes.iter();
                let row = rows.find(|row| row.id == *node as u64 + 1);
                row.map(|row| (row.state.clone(), row.incarnation))
            });
            Ok::<_, String>(lives.collect::<Vec<_>>())
        };
        let before = lives(&others).await.expect("it answers");
        let term_before = cluster.status(old).await.expect("it answers").control.term;

        // It hears nobody, so that to it everybody is dead; the others elect another leader.
        cluster.isolate(old);
        wait_until(
            "the one that is cut off believes everybody dead",
            async || {
                let status = cluster.status(old).await?;
                let dead = |id: u64| {
                    let mut rows = status.nodes.iter();
                    rows.any(|row| row.id == id && row.standing.as_deref() == Some("dead"))
                };
                let all = others.iter().all(|node| dead(*node as u64 + 1));
                all.then_some(())
                    .ok_or_else(|| format!("{:?}", status.nodes))
            },
        )
        .await;
        wait_until("the others have a leader", async || {
            let leader = leader_of(others[0]).await?;
            (leader != old)
                .then_some(())
                .ok_or_else(|| "it is still the old one".to_owned())
        })
        .await;

        // Whatever it says now is heard.
        cluster.cut(old, None);
        for node in &others {
            cluster.cut(*node, None);
        }
        wait_until(
            "the old leader has heard of another, and everybody lives",
            async || {
                // It may lead again by then.
                let term = cluster.status(old).await?.control.term;
                let now = lives(&[0, 1, 2]).await?;
                let live = now.iter().flatten().filter(|(state, _)| state == "live");
                (term > term_before && live.count() == REGIONS.len())
                    .then_some(())
                    .ok_or_else(|| format!("term {term}, {now:?}"))
            },
        )
        .await;
        cluster.wait_grown().await;
        let after = lives(&others).await.expect("it answers");
        assert_eq!(after, before, "the others lived all the time");
        cluster.end().await;
    });
}

/// How late an owner's word arrives: well after its lease of 3 s has ended.
const LATE: Duration = Duration::from_secs(8);

#[test]
fn what_an_owner_said_before_its_lease_ended_changes_nothing_afterwards() {
    story(async |_| {
        let settings = ["placement.lease=3s", "placement.suspect_after=1s"];
        let cluster = Cluster::start_with(&REGIONS, &settings).await;
        let leader = cluster.control_leader().await;
        let owner = (leader + 1) % 3;
        let others = [leader, (leader + 2) % 3];
        let region = cluster.region(owner).to_owned();
        let watchers = [
            Watcher::grpc(&cluster, &[others[0]], "").await,
            Watcher::sse(&cluster, &[others[1]], "").await,
        ];
        let mut room = None;
        for name in (0..100).map(|number| format!("room:{number}")) {
            if cluster.coordinator_of(&name).await != owner {
                room = Some(name);
                break;
            }
        }
        let room = room.expect("others coordinate something");
        let coordinator = cluster.coordinator_of(&room).await;
        let mut here = Edge::start(&cluster, "here", &[coordinator]);
        let mut there = Edge::start(&cluster, "there", &[owner]);
        here.attach("c1", &room).await;
        there.attach("c1", &room).await;
        agree_on_counts(&cluster, &[&here, &there]).await;

        // What it says from now on takes long to arrive: its renewals, and then that somebody came.
        cluster.delay(owner, &others, LATE);
        wait_until("a renewal is late", async || {
            let nodes = cluster.status(leader).await?.nodes;
            let row = nodes.iter().find(|row| row.id == owner as u64 + 1);
            let age = row.and_then(|row| row.lease_age_ms).unwrap_or_default();
            // They come every 500 ms.
            (age > 800).then_some(()).ok_or_else(|| format!("{row:?}"))
        })
        .await;
        there.attach("ghost", &room).await;
        there.enter("ghost", &room, "ghost").await;
        let said = Instant::now();
        for watcher in &watchers {
            watcher
                .wait_for("its region is expired", |history| {
                    history.count(&room, EventKind::RegionInactive) == 1
                })
                .await;
        }
        let took = said.elapsed();
        assert!(took < LATE, "after {took:?} its word may have been in time");

        // Whoever came is gone before anybody hears of it. Nobody else says anything, so what comes
        // to the log is the late word.
        there.close("ghost").await;
        let applied = async || cluster.applied(coordinator).await;
        let mut quiet = applied().await;
        wait_until("the late word is in the log", async || {
            let (passed, applied) = (said.elapsed(), applied().await);
            if passed + Duration::from_secs(1) < LATE {
                quiet = applied;
            }
            (applied > quiet && passed > LATE)
                .then_some(())
                .ok_or_else(|| format!("{quiet} entries, {applied} after {passed:?}"))
        })
        .await;
        cluster.cut(owner, None);
        cluster.wait_grown().await;
        agree_on_counts(&cluster, &[&here, &there]).await;
        for history in settle(&cluster, &watchers).await {
            let told = history.of(&room).into_iter();
            let told = told.map(|told| told.occupancy.get(Category::PresenceMembers));
            let told: Vec<_> = told.collect();
            assert!(told.iter().all(|members| *members == 0), "{history}");
            assert_eq!(history.count(&room, EventKind::Closed), 0, "{history}");
            assert!(history.is_active(&room, &region), "it is back: {history}");
        }
        cluster.end().await;
    });
}
