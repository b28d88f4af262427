//! Processes that end and begin again on the same disk.

use headcount_consensus::GroupId;
use headcount_model::NodeId;

use crate::world::{PATIENCE, World, command};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_after_all_nodes_restart() {
    let mut world = World::new(3);
    let groups: Vec<GroupId> = (1..=8).map(GroupId).collect();
    for group in &groups {
        world.form(*group, &[1, 2, 3]).await;
    }
    let mut acknowledged = Vec::new();
    for n in 0..10 {
        for group in &groups {
            acknowledged.push((*group, world.propose(*group, format!("{n}")).await));
        }
    }
    let before = world.leader(GroupId(1)).await.leadership().epoch;
    for node in world.node_ids() {
        world.down(node).await;
    }
    for node in world.node_ids() {
        world.up(node);
        for group in &groups {
            world.start(*group, node).await;
        }
    }
    for group in &groups {
        let leader = world.leader(*group).await;
        leader.wait_recovered(PATIENCE).await.unwrap();
    }
    assert!(world.leader(GroupId(1)).await.leadership().epoch > before);
    for group in &groups {
        let record = world.agree(*group, &[1, 2, 3]).await;
        let expected: Vec<u64> = acknowledged
            .iter()
            .filter(|(of, _)| of == group)
            .map(|(_, index)| *index)
            .collect();
        let indexes: Vec<u64> = record.commands.iter().map(|(index, _)| *index).collect();
        assert!(expected.iter().all(|index| indexes.contains(index)));
        world.propose(*group, "after").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_restart_one_after_another_under_writes() {
    let group = GroupId(1);
    let mut world = World::new(3);
    world.form(group, &[1, 2, 3]).await;
    let mut proposed = 0;
    for node in [1, 2, 3, 1].map(NodeId) {
        world.down(node).await;
        for _ in 0..20 {
            world.propose(group, format!("{proposed}")).await;
            proposed += 1;
        }
        world.up(node);
        world.start(group, node).await;
        for _ in 0..20 {
            world.propose(group, format!("{proposed}")).await;
            proposed += 1;
        }
        world.agree(group, &[1, 2, 3]).await;
    }
    let record = world.agree(group, &[1, 2, 3]).await;
    for n in 0..proposed {
        let text = command(format!("{n}"));
        assert!(
            record.commands.iter().any(|(_, c)| *c == text),
            "{n} is lost"
        );
    }
}
