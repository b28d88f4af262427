//! Leaders that die, are cut off, or hand over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use headcount_consensus::{GroupId, Limits, ProposeError, Timing, TransferError};
use headcount_model::{NodeId, ReplicaId};
use headcount_wire::proto::consensus::v1::envelope::Body;
use tokio::time::Instant;

use crate::world::{World, command, wait_until};

const GROUP: GroupId = GroupId(1);

fn node_of(replica: ReplicaId) -> NodeId {
    NodeId(replica.0 % 1000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_leader_acknowledged_is_kept() {
    let mut world = World::new(3);
    world.form(GROUP, &[1, 2, 3]).await;
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let leader = world.leader(GROUP).await;
        for n in 0..20 {
            acknowledged.push(world.propose(GROUP, format!("{round}/{n}")).await);
        }
        let dead = node_of(leader.replica());
        let before = leader.leadership().epoch;
        world.down(dead).await;

        let next = world.leader(GROUP).await;
        assert!(next.leadership().epoch > before);
        acknowledged.push(world.propose(GROUP, format!("{round}/after")).await);

        world.up(dead);
        world.start(GROUP, dead).await;
    }
    let record = world.agree(GROUP, &[1, 2, 3]).await;
    for index in acknowledged {
        assert!(
            record.commands.iter().any(|(at, _)| *at == index),
            "entry {index} is lost"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_heir_follows_a_dead_leader() {
    let mut world = World::new(3);
    let groups: Vec<GroupId> = (1..=16).map(GroupId).collect();
    for group in &groups {
        // Who is named first leads first.
        world.form(*group, &[2, 3, 1]).await;
        world.propose(*group, "before").await;
        world.agree(*group, &[1, 2, 3]).await;
    }
    let leads = |world: &World, group: GroupId, node: u64| {
        let leader = world.leader_now(group);
        leader.is_some_and(|leader| node_of(leader.replica()) == NodeId(node))
    };
    let led: Vec<GroupId> = groups
        .into_iter()
        .filter(|group| leads(&world, *group, 2))
        .collect();
    assert!(led.len() >= 14, "node 2 leads {led:?}");
    world.down(NodeId(2)).await;
    let mut followed = 0;
    for group in &led {
        world.leader(*group).await;
        followed += usize::from(leads(&world, *group, 3));
    }
    // A machine that is late may let one go to the other.
    let most = led.len() - 2;
    assert!(followed >= most, "{followed} of {} by the heir", led.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_ends_before_another_begins() {
    let mut world = World::new(3);
    world.form(GROUP, &[1, 2, 3]).await;
    let old = world.leader(GROUP).await;
    old.propose(command("before")).await.unwrap();
    let (nodes, cut) = (world.node_ids(), node_of(old.replica()));

    world.net.isolate(cut, true, &nodes);
    let ended = {
        let mut ended = Instant::now();
        wait_until("the lease ends", || {
            match old.status().leading_until {
                Some(until) => ended = until,
                None => return true,
            }
            ended <= Instant::now()
        })
        .await;
        ended
    };
    let mut began = None;
    wait_until("another leader", || {
        let others = nodes.iter().filter(|node| **node != cut);
        let leads = |node: &NodeId| world.group(GROUP, *node).status().leading_until.is_some();
        began = others
            .copied()
            .find(leads)
            .map(|node| (node, Instant::now()));
        began.is_some()
    })
    .await;
    let (new, began) = began.unwrap();
    assert!(ended < began, "two leaders at once");

    // The old one takes nothing more, or cannot say what became of it.
    let lost = old.propose(command("lost")).await;
    let lost_outcome = matches!(
        lost,
        Err(ProposeError::NotLeader { .. } | ProposeError::Unknown { .. })
    );
    assert!(lost_outcome, "{lost:?}");
    world
        .group(GROUP, new)
        .propose(command("after"))
        .await
        .unwrap();

    world.net.isolate(cut, false, &nodes);
    let record = world.agree(GROUP, &[1, 2, 3]).await;
    assert!(record.commands.iter().any(|(_, c)| *c == command("after")));
    assert!(!record.commands.iter().any(|(_, c)| *c == command("lost")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_to_whom_it_is_meant_for() {
    let mut world = World::new(3);
    world.form(GROUP, &[1, 2, 3]).await;
    for _ in 0..4 {
        let old = world.leader(GROUP).await;
        old.propose(command("x")).await.unwrap();
        let (heir, _) = old.status().followers.into_iter().next().unwrap();
        wait_until("the heir was heard of", || {
            old.status().followers[&heir].acknowledged_age.is_some()
        })
        .await;
        let before = old.leadership().epoch;
        old.transfer_leader(heir).await.unwrap();
        assert_eq!(old.status().leading_until, None);
        let new = world.leader(GROUP).await;
        assert_eq!(new.replica(), heir);
        assert!(new.leadership().epoch > before);
        new.propose(command("y")).await.unwrap();
    }
    world.agree(GROUP, &[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_not_handed_to_who_could_not_take_it() {
    let mut world = World::new(3);
    world.form(GROUP, &[1, 2, 3]).await;
    let leader = world.leader(GROUP).await;
    leader.propose(command("x")).await.unwrap();

    let stranger = ReplicaId(9);
    let refused = leader.transfer_leader(stranger).await;
    assert_eq!(refused, Err(TransferError::NotAVoter(stranger)));

    let (heir, _) = leader.status().followers.into_iter().next().unwrap();
    wait_until("the heir has everything", || {
        leader.status().followers[&heir].lag == 0
    })
    .await;
    let nodes = world.node_ids();
    world.net.isolate(node_of(heir), true, &nodes);
    // It was heard of a moment ago, which says nothing of now.
    let refused = leader.transfer_leader(heir).await;
    assert!(
        matches!(refused, Err(TransferError::NotHeard { .. })),
        "{refused:?}"
    );
    leader.propose(command("still here")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_voter_waits_for_nobodys_word() {
    let mut world = World::new(1);
    world.form(GROUP, &[1]).await;
    let leader = world.leader(GROUP).await;
    let proposed = leader.propose(command("x")).await.unwrap();
    let all = Some(proposed.index);
    wait_until("the status tells that it is applied", || {
        leader.status().applied == all
    })
    .await;
    assert_eq!(leader.freshness(), (Some(Duration::ZERO), all));
    assert_eq!(leader.acknowledged(), Some((Duration::ZERO, all)));
    let status = leader.status();
    assert_eq!(status.quorum_acknowledged_age, Some(Duration::ZERO));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_learns_at_once_how_far_logs_are_its_own() {
    let mut world = World::with(3, Timing::WAN, Limits::default());
    world.form(GROUP, &[1, 2, 3]).await;
    let old = world.leader(GROUP).await;
    let many = (0..2_000).map(|n| old.propose(command(format!("{n}"))));
    for proposed in futures::future::join_all(many).await {
        proposed.unwrap();
    }
    world.agree(GROUP, &[1, 2, 3]).await;

    // By whom and to whom entries are sent.
    let sent = Arc::new(Mutex::new(BTreeMap::<(NodeId, NodeId), u32>::new()));
    let counted = Arc::clone(&sent);
    world.net.eat(move |from, to, envelope| {
        let carries =
            |body: &Body| matches!(body, Body::Append(append) if !append.entries.is_empty());
        if envelope.body.as_ref().is_some_and(carries) {
            *counted.lock().unwrap().entry((from, to)).or_default() += 1;
        }
        false
    });
    let (heir, _) = old.status().followers.into_iter().next().unwrap();
    old.transfer_leader(heir).await.unwrap();
    world.propose(GROUP, "after").await;
    world.agree(GROUP, &[1, 2, 3]).await;

    let heir = node_of(heir);
    let nodes = world.node_ids();
    for follower in nodes.into_iter().filter(|node| *node != heir) {
        let appends = sent.lock().unwrap()[&(heir, follower)];
        // One by which it learns that, the empty entry of its term, and what was proposed.
        assert!(appends <= 4, "{appends} appends to {follower}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_proposed_before_a_new_leader_may_write_keeps_its_order() {
    let mut world = World::with(3, Timing::WAN, Limits::default());
    world.form(GROUP, &[1, 2, 3]).await;
    let old = world.leader(GROUP).await;
    old.propose(command("before")).await.unwrap();
    let (heir, _) = old.status().followers.into_iter().next().unwrap();

    // Nobody acknowledges the new leader for a while, so that it has no lease.
    let held_back = Arc::new(AtomicBool::new(true));
    let (holding, heir_node) = (Arc::clone(&held_back), node_of(heir));
    world.net.eat(move |_, to, envelope| {
        let reply = matches!(envelope.body, Some(Body::AppendReply(_)));
        to == heir_node && reply && holding.load(Ordering::Relaxed)
    });
    old.transfer_leader(heir).await.unwrap();
    let new = world.group(GROUP, heir_node);
    let (mut proposed, mut indexes) = (FuturesUnordered::new(), BTreeMap::new());
    let mut ticks = tokio::time::interval(Duration::from_millis(3));
    for number in 0..40 {
        ticks.tick().await;
        let proposal = new.propose(command(format!("{number}")));
        proposed.push(async move { (number, proposal.await.unwrap().index) }.boxed());
        // Polled once, so that it is on its way.
        indexes.extend(proposed.next().now_or_never().flatten());
        held_back.store(number < 20, Ordering::Relaxed);
    }
    while let Some((number, index)) = proposed.next().await {
        indexes.insert(number, index);
    }
    assert!(indexes.values().is_sorted(), "{indexes:?}");
}
