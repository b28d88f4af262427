//! Processes that end and begin again on the same disk.

use std::sync::{Arc, Mutex};

use headcount_consensus::store::memory::{Faults, MemoryDisk};
use headcount_consensus::store::{Store, StoreConfig};
use headcount_consensus::{Group, GroupId, Host, HostConfig, ProposeError, ReplicaConfig, Timing};
use headcount_model::{NodeId, ReplicaId};

use crate::world::{PATIENCE, Record, Remembering, Side, World, command, members, replica};

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
    // Whoever formed the group is the only one to know of it at first.
    world.agree(group, &[1, 2, 3]).await;
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

/// Starts the only replica of group 1 on a disk.
async fn alone(disk: &MemoryDisk) -> (Host, Group, Arc<Mutex<Record>>) {
    let (group, node) = (GroupId(1), NodeId(1));
    let (store, driver) = Store::open_on(Arc::new(disk.clone()), StoreConfig::default()).unwrap();
    tokio::spawn(driver.run());
    let config = HostConfig::new(node, Timing::LOCAL, 1);
    let host = Host::new(config, store, Arc::new(Side::alone(node))).unwrap();
    let start = ReplicaConfig {
        group,
        replica: replica(group, node),
        journal: None,
    };
    let record = Arc::default();
    let machine = Box::new(Remembering(Arc::clone(&record)));
    let started = host.start_group(start, machine).await.unwrap();
    (host, started, record)
}

/// Lets a disk fail under a proposal, and returns why the node says it must stop.
async fn stops_with(faults: Faults) -> String {
    let disk = MemoryDisk::new();
    let (host, started, record) = alone(&disk).await;
    started
        .initialize(&members(started.id(), &[1]))
        .await
        .unwrap();
    started.wait_leader(PATIENCE).await.unwrap();
    started.propose(command("kept")).await.unwrap();
    let mut fatal = host.fatal();
    assert!(fatal.borrow().is_none());

    disk.set_faults(faults);
    let lost = started.propose(command("lost")).await;
    assert!(
        matches!(lost, Err(ProposeError::Unknown { .. })),
        "{lost:?}"
    );
    let heard = tokio::time::timeout(PATIENCE, fatal.wait_for(Option::is_some)).await;
    let reason = heard.unwrap().unwrap().clone().unwrap().reason;
    assert_eq!(
        record.lock().unwrap().commands.len(),
        1,
        "applied what is not durable"
    );
    host.shutdown().await;

    let (host, started, record) = alone(&disk.crash(|_, _| 0)).await;
    started.wait_leader(PATIENCE).await.unwrap();
    started.wait_recovered(PATIENCE).await.unwrap();
    let commands = record.lock().unwrap().commands.clone();
    let commands: Vec<_> = commands.into_iter().map(|(_, command)| command).collect();
    assert_eq!(commands, [command("kept")]);
    host.shutdown().await;
    reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_the_node_and_acknowledges_nothing() {
    let reason = stops_with(Faults {
        syncs_left: Some(0),
        ..Faults::default()
    })
    .await;
    assert!(reason.contains("injected sync error"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_stops_the_node_and_acknowledges_nothing() {
    let reason = stops_with(Faults {
        writes_left: Some(0),
        ..Faults::default()
    })
    .await;
    assert!(reason.contains("Input/output error"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_panics_stops_the_node() {
    let group = GroupId(1);
    let mut world = World::new(1);
    world.form(group, &[1]).await;
    let leader = world.leader(group).await;
    let mut fatal = world.host(NodeId(1)).fatal();
    let result = leader.propose(command("panic")).await;
    assert!(
        matches!(result, Err(ProposeError::Unknown { .. })),
        "{result:?}"
    );
    let heard = tokio::time::timeout(PATIENCE, fatal.wait_for(Option::is_some)).await;
    let reason = heard.unwrap().unwrap().clone().unwrap().reason;
    assert!(reason.contains("panicked"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_was_shut_down_starts_nothing() {
    let mut world = World::new(1);
    world.form(GroupId(1), &[1]).await;
    let host = world.host(NodeId(1)).clone();
    host.shutdown().await;
    assert!(host.groups().is_empty());
    let config = ReplicaConfig {
        group: GroupId(2),
        replica: ReplicaId(9),
        journal: None,
    };
    let machine = Box::new(Remembering(Arc::default()));
    assert!(host.start_group(config, machine).await.is_err());
}
