//! Replicas that come and go.

use std::collections::BTreeSet;
use std::time::Duration;

use headcount_consensus::{
    GroupId, Membership, ReconcileError, Reconciled, ReplicaConfig, Role, StartError, Step,
};
use headcount_model::NodeId;

use crate::world::{PATIENCE, Remembering, World, command, membership, replica, wait_until};

const GROUP: GroupId = GroupId(1);

/// Calls `reconcile` on whoever leads until it is done, and returns the steps that were taken.
async fn reconcile(world: &World, target: &Membership) -> Vec<Step> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut steps = Vec::new();
    // allow-sleep: the pace at which a driver asks again
    let pause = || tokio::time::sleep(Duration::from_millis(20));
    loop {
        assert!(
            tokio::time::Instant::now() < deadline,
            "no end; so far {steps:?}"
        );
        match world.leader(GROUP).await.reconcile(target).await {
            Ok(Reconciled::Done) => return steps,
            Ok(Reconciled::Stepped(step)) => steps.push(step),
            Ok(Reconciled::Waiting(_)) => pause().await,
            Err(ReconcileError::Target(error)) => panic!("{error}"),
            // Leadership moved, or somebody was not heard of yet.
            Err(_) => pause().await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_catches_up_and_becomes_a_voter() {
    let mut world = World::new(4);
    world.form(GROUP, &[1, 2, 3]).await;
    for n in 0..100 {
        world.propose(GROUP, format!("{n}")).await;
    }
    // A learner first, which listens and does not decide.
    world.start(GROUP, NodeId(4)).await;
    let steps = reconcile(&world, &membership(GROUP, &[1, 2, 3], &[4])).await;
    assert!(
        matches!(steps.as_slice(), [Step::AddLearners(_)]),
        "{steps:?}"
    );
    let record = world.agree(GROUP, &[1, 2, 3, 4]).await;
    assert!(record.commands.len() >= 100);
    assert_eq!(
        world.group(GROUP, NodeId(4)).leadership().role,
        Role::Learner
    );

    // Then it takes the place of a voter that is not the leader.
    let leader = world.leader(GROUP).await;
    let gone = [1, 2, 3]
        .map(NodeId)
        .into_iter()
        .find(|n| replica(GROUP, *n) != leader.replica());
    let gone = gone.unwrap();
    let stay: Vec<u64> = [1, 2, 3, 4]
        .into_iter()
        .filter(|node| *node != gone.0)
        .collect();
    let target = membership(GROUP, &stay, &[]);
    let steps = reconcile(&world, &target).await;
    let voters: BTreeSet<_> = target.voters.keys().copied().collect();
    assert_eq!(
        steps,
        [Step::ReplaceVoters {
            voters,
            keep_removed: false
        }]
    );
    let status = world.leader(GROUP).await.status();
    assert_eq!(status.leadership.members, target);
    assert!(!status.leadership.joint);

    // The one that left is forgotten, and cannot come back as the same.
    world.host(gone).stop_group(GROUP, true).await.unwrap();
    let config = ReplicaConfig {
        group: GROUP,
        replica: replica(GROUP, gone),
        journal: None,
    };
    let machine = Box::new(Remembering(std::sync::Arc::default()));
    let back = world.host(gone).start_group(config, machine).await;
    assert!(
        matches!(back, Err(StartError::Forgotten { .. })),
        "{back:?}"
    );

    world.propose(GROUP, "after").await;
    world.agree(GROUP, &stay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_shall_go_hands_over_and_goes() {
    let mut world = World::new(4);
    world.form(GROUP, &[1, 2, 3]).await;
    world.propose(GROUP, "x").await;
    world.start(GROUP, NodeId(4)).await;
    let target = membership(GROUP, &[2, 3, 4], &[]);
    let leader = world.leader(GROUP).await;
    let steps = reconcile(&world, &target).await;
    if leader.replica() == replica(GROUP, NodeId(1)) {
        assert!(
            steps.iter().any(|step| matches!(step, Step::HandOver(_))),
            "{steps:?}"
        );
    }
    let now = world.leader(GROUP).await;
    assert_ne!(now.replica(), replica(GROUP, NodeId(1)));
    assert_eq!(now.leadership().members, target);
    world.propose(GROUP, "y").await;
    world.agree(GROUP, &[2, 3, 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_grows_to_three() {
    let mut world = World::new(3);
    world.form(GROUP, &[1]).await;
    world.propose(GROUP, "alone").await;
    for node in [2, 3] {
        world.start(GROUP, NodeId(node)).await;
    }
    reconcile(&world, &membership(GROUP, &[1, 2, 3], &[])).await;
    world.propose(GROUP, "together").await;
    let record = world.agree(GROUP, &[1, 2, 3]).await;
    assert!(record.commands.iter().any(|(_, c)| *c == command("alone")));

    // And it lives on without the first.
    world.down(NodeId(1)).await;
    world.propose(GROUP, "without the first").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_newcomer_is_waited_for_without_harm() {
    let mut world = World::new(4);
    world.form(GROUP, &[1, 2, 3]).await;
    world.propose(GROUP, "x").await;
    let target = membership(GROUP, &[1, 2, 4], &[]);
    let leader = world.leader(GROUP).await;
    let step = leader.reconcile(&target).await;
    assert!(
        matches!(step, Ok(Reconciled::Stepped(Step::AddLearners(_)))),
        "{step:?}"
    );
    for _ in 0..5 {
        let waiting = leader.reconcile(&target).await;
        assert!(matches!(waiting, Ok(Reconciled::Waiting(_))), "{waiting:?}");
        world.propose(GROUP, "y").await;
    }
    // It comes at last.
    world.start(GROUP, NodeId(4)).await;
    reconcile(&world, &target).await;
    wait_until("the change is known", || {
        world.group(GROUP, NodeId(4)).leadership().members == target
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_changes_members() {
    let mut world = World::new(3);
    world.form(GROUP, &[1, 2, 3]).await;
    let leader = world.leader(GROUP).await;
    for node in world.node_ids() {
        let group = world.group(GROUP, node);
        if group.replica() != leader.replica() {
            let refused = group.reconcile(&membership(GROUP, &[1, 2], &[3])).await;
            assert!(
                matches!(refused, Err(ReconcileError::NotLeader { .. })),
                "{refused:?}"
            );
        }
    }
    let before = leader.leadership().members;
    assert_eq!(before, membership(GROUP, &[1, 2, 3], &[]));
}
