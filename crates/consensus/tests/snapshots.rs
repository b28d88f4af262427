//! Snapshots: taken, restored at a start, and sent to who is behind.

use headcount_consensus::{GroupId, Limits, ReconcileError, Reconciled, Timing};
use headcount_model::NodeId;

use crate::world::{PATIENCE, Record, World, command, membership, replica, wait_until};

const GROUP: GroupId = GroupId(1);

/// Small enough that a test reaches them.
fn limits() -> Limits {
    Limits {
        snapshot_entries: 50,
        snapshot_entries_kept: 10,
        ..Limits::default()
    }
}

async fn propose_many(world: &World, count: u64) {
    let leader = world.leader(GROUP).await;
    for chunk in (0..count).collect::<Vec<_>>().chunks(20) {
        let proposals = chunk
            .iter()
            .map(|n| leader.propose(command(format!("{n}"))));
        for proposed in futures::future::join_all(proposals).await {
            proposed.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_store_holds_is_what_its_machine_was_given() {
    let mut world = World::with(3, Timing::LOCAL, limits());
    world.form(GROUP, &[1, 2, 3]).await;
    propose_many(&world, 300).await;
    let leader = world.leader(GROUP).await;
    wait_until("the log is purged", || leader.status().purged >= Some(100)).await;
    propose_many(&world, 7).await;
    let record = world.agree(GROUP, &[1, 2, 3]).await;
    let last = record.at.unwrap().index;
    for node in world.node_ids() {
        world.down(node).await;
        let dumps = world.dumps(node).await;
        let [dump] = &dumps[..] else {
            panic!("one group, {} replicas", dumps.len());
        };
        assert_eq!(dump.replica, replica(GROUP, node));
        let all = [1, 2, 3].map(|node| replica(GROUP, NodeId(node)));
        assert_eq!(dump.members.voters, [all.into()]);
        assert_eq!(dump.members.all, all.into());
        // Whoever led meanwhile may have begun with an entry of its own.
        assert!(dump.last() >= Some(last), "{:?} of {last}", dump.last());
        assert!(dump.committed <= dump.last(), "{:?}", dump.committed);

        let (covered, chunks) = dump.snapshot.as_ref().expect("it has taken one");
        let mut commands = Record::parse(chunks).unwrap().commands;
        assert!(commands.iter().all(|(index, _)| index <= covered));
        let later = dump.entries.iter().filter(|entry| entry.index > *covered);
        commands.extend(later.filter_map(|entry| Some((entry.index, entry.command.clone()?))));
        assert_eq!(commands, record.commands);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_behind_the_log_is_given_a_snapshot() {
    let mut world = World::with(4, Timing::LOCAL, limits());
    world.form(GROUP, &[1, 2, 3]).await;
    propose_many(&world, 500).await;
    let leader = world.leader(GROUP).await;
    wait_until("the log is purged", || leader.status().purged >= Some(100)).await;

    world.start(GROUP, NodeId(4)).await;
    let target = membership(GROUP, &[1, 2, 3], &[4]);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        assert!(tokio::time::Instant::now() < deadline);
        match world.leader(GROUP).await.reconcile(&target).await {
            Ok(Reconciled::Done) => break,
            Ok(_) | Err(ReconcileError::NotLeader { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
    let record = world.agree(GROUP, &[1, 2, 3, 4]).await;
    assert_eq!(record.commands.len(), 500);
    assert!(
        world.record(GROUP, NodeId(4)).restored > 0,
        "it came by the log"
    );
    // It goes on by the log from there, and takes snapshots of its own.
    propose_many(&world, 200).await;
    world.agree(GROUP, &[1, 2, 3, 4]).await;
    let learner = world.group(GROUP, NodeId(4));
    wait_until("a snapshot of its own", || {
        learner.status().snapshot >= Some(600)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_takes_the_snapshot_and_the_log_behind_it() {
    let mut world = World::with(3, Timing::LOCAL, limits());
    world.form(GROUP, &[1, 2, 3]).await;
    propose_many(&world, 325).await;
    let before = world.agree(GROUP, &[1, 2, 3]).await;
    let leader = world.leader(GROUP).await;
    // How many there are by then depends on how fast the log grew.
    wait_until("a snapshot", || leader.status().snapshot.is_some()).await;
    for node in world.node_ids() {
        world.down(node).await;
    }
    for node in world.node_ids() {
        world.up(node);
        world.start(GROUP, node).await;
    }
    let after = world.agree(GROUP, &[1, 2, 3]).await;
    assert_eq!(after.commands, before.commands);
    assert!(
        world
            .node_ids()
            .iter()
            .any(|node| world.record(GROUP, *node).restored > 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_too_ask_for_a_snapshot() {
    let limits = Limits {
        snapshot_bytes: 100_000,
        snapshot_entries_kept: 5,
        ..Limits::default()
    };
    let mut world = World::with(3, Timing::LOCAL, limits);
    world.form(GROUP, &[1, 2, 3]).await;
    let leader = world.leader(GROUP).await;
    for _ in 0..30 {
        leader.propose(command("x".repeat(10_000))).await.unwrap();
    }
    wait_until("a snapshot by bytes", || leader.status().snapshot.is_some()).await;
    // Passed over while one of those by bytes is made.
    let on_demand = async {
        while leader.status().snapshot < Some(30) {
            leader.trigger_snapshot().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, on_demand).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_by_bytes_go_on_while_entries_come_faster_than_they_are_made() {
    let limits = Limits {
        snapshot_bytes: 1_000,
        snapshot_entries: 1_000_000,
        ..Limits::default()
    };
    let mut world = World::with(3, Timing::LOCAL, limits);
    world.form(GROUP, &[1, 2, 3]).await;
    let leader = world.leader(GROUP).await;
    let mut last = None;
    for round in 0..4 {
        // Its snapshots hold all commands, and half of one more has to come.
        for _ in 0..40 << round {
            leader.propose(command("x".repeat(100))).await.unwrap();
        }
        let before = last;
        wait_until("a later snapshot", || {
            last = leader.status().snapshot;
            last > before
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_long_comes_back_by_snapshot() {
    let mut world = World::with(3, Timing::LOCAL, limits());
    world.form(GROUP, &[1, 2, 3]).await;
    propose_many(&world, 20).await;
    let leader = world.leader(GROUP).await;
    let away = [1, 2, 3]
        .map(NodeId)
        .into_iter()
        .find(|node| world.group(GROUP, *node).replica() != leader.replica())
        .unwrap();
    let nodes = world.node_ids();
    world.net.isolate(away, true, &nodes);
    propose_many(&world, 400).await;
    wait_until("the log is purged", || leader.status().purged >= Some(100)).await;
    world.net.isolate(away, false, &nodes);
    let record = world.agree(GROUP, &[1, 2, 3]).await;
    assert_eq!(record.commands.len(), 420);
    assert!(world.record(GROUP, away).restored > 0);
}
