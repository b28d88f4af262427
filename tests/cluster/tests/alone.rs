//! A node whose majority is gone, or that was told another region: it says so, at once.

use std::time::Duration;

use headcount_cluster::{Cluster, REGIONS, story, wait_until};

#[test]
fn a_node_that_is_left_alone_says_so() {
    story(async |_| {
        let mut cluster = Cluster::start(&REGIONS).await;
        assert!(cluster.status(0).await.unwrap().control.has_majority);
        cluster.kill(1).await;
        cluster.kill(2).await;
        wait_until(
            "the status says that no majority stands behind it",
            async || {
                let control = cluster.status(0).await?.control;
                let told = !control.has_majority && control.heard_age_ms.is_some_and(|age| age > 0);
                told.then_some(()).ok_or(format!("{control:?}"))
            },
        )
        .await;

        // Started again, it cannot register; whoever asks is answered all the same.
        cluster.kill(0).await;
        cluster.restart(0).await;
        let channels = format!("http://{}/channels", cluster.ports(0).client);
        let asked = cluster.http().get(channels).timeout(Duration::from_secs(5));
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 503);
        let said = answer.text().await.unwrap();
        assert!(said.contains("50305"), "{said}");

        // It is no node of any other region.
        cluster.kill(0).await;
        cluster.relocate(0, "elsewhere");
        let why = cluster.refuses_to_start(0, "another region").await;
        assert!(
            why.contains("elsewhere") && why.contains(REGIONS[0]),
            "{why}"
        );
        cluster.end().await;
    });
}
