//! The control group's leases, while its leader is cut off (R5).

use headcount_cluster::{Cluster, REGIONS, story, wait_until};

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
        wait_until("the old leader follows, and everybody lives", async || {
            let leader = leader_of(old).await?;
            let now = lives(&[0, 1, 2]).await?;
            let live = now.iter().flatten().filter(|(state, _)| state == "live");
            (leader != old && live.count() == REGIONS.len())
                .then_some(())
                .ok_or_else(|| format!("node {leader} leads, {now:?}"))
        })
        .await;
        cluster.wait_grown().await;
        let after = lives(&others).await.expect("it answers");
        assert_eq!(after, before, "the others lived all the time");
        cluster.end().await;
    });
}
