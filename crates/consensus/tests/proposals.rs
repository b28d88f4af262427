//! Proposing, reading, and being told who leads.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use headcount_consensus::{
    Epoch, GroupId, InitializeError, Limits, ProposeError, ReadError, Role, StartError, Timing,
};
use headcount_model::{NodeId, ReplicaId};
use headcount_wire::proto::consensus::v1::envelope::Body;

use crate::world::{PATIENCE, World, command, members, membership, wait_until};

const GROUP: GroupId = GroupId(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_proposed_reaches_every_machine_in_one_order() {
    let mut world = World::new(3);
    world.form(GROUP, &[1, 2, 3]).await;
    let leader = world.leader(GROUP).await;
    assert_eq!(
        leader.status().leadership.members,
        membership(GROUP, &[1, 2, 3], &[])
    );

    let first = leader.propose(command("a")).await.unwrap();
    assert_eq!(first.reply, command("took a"));

    // Many in flight from one task keep their order.
    let mut replies: FuturesOrdered<_> = (0..200)
        .map(|n| leader.propose(command(format!("{n}"))))
        .collect();
    let mut last = first.index;
    while let Some(reply) = replies.next().await {
        let index = reply.unwrap().index;
        assert_eq!(index, last + 1);
        last = index;
    }
    let record = world.agree(GROUP, &[1, 2, 3]).await;
    let texts: Vec<_> = record
        .commands
        .iter()
        .map(|(_, command)| command.clone())
        .collect();
    let mut expected = vec![command("a")];
    expected.extend((0..200).map(|n| command(format!("{n}"))));
    assert_eq!(texts, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_refuses_and_says_who_leads() {
    let mut world = World::new(3);
    world.form(GROUP, &[1, 2, 3]).await;
    let leader = world.leader(GROUP).await;
    let other = [1, 2, 3]
        .map(NodeId)
        .into_iter()
        .find(|node| world.group(GROUP, *node).replica() != leader.replica());
    let follower = world.group(GROUP, other.unwrap());
    let hint = follower.wait_leader(PATIENCE).await.unwrap();
    assert_eq!(hint.replica, leader.replica());

    let refused = follower.propose(command("x")).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(hint) }));
    let refused = follower.read_index().await;
    assert_eq!(refused, Err(ReadError::NotLeader { leader: Some(hint) }));
    assert_eq!(follower.status().leading_until, None);
    assert!(follower.status().followers.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_index_covers_what_was_committed_before() {
    let mut world = World::new(3);
    world.form(GROUP, &[1, 2, 3]).await;
    let leader = world.leader(GROUP).await;
    let proposed = leader.propose(command("x")).await.unwrap();
    let index = leader.read_index().await.unwrap();
    assert!(index >= proposed.index);
    let follower = world.group(GROUP, NodeId(3));
    follower.wait_applied(index, PATIENCE).await.unwrap();
    assert!(
        world
            .record(GROUP, NodeId(3))
            .commands
            .iter()
            .any(|(_, c)| *c == command("x"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proposal_lands_under_its_own_epoch_or_not_at_all() {
    let mut world = World::new(3);
    world.form(GROUP, &[1, 2, 3]).await;
    let leader = world.leader(GROUP).await;
    let epoch = leader.leadership().epoch.unwrap();
    assert_eq!(epoch.leader, leader.replica());
    leader.propose_under(epoch, command("now")).await.unwrap();

    let older = Epoch {
        term: epoch.term - 1,
        ..epoch
    };
    let refused = leader.propose_under(older, command("before")).await;
    assert!(
        matches!(refused, Err(ProposeError::NotLeader { .. })),
        "{refused:?}"
    );
    let record = world.agree(GROUP, &[1, 2, 3]).await;
    assert_eq!(record.commands.len(), 1);
}

// On one thread, so that nothing commits between the first and the third of proposals made at once.
#[tokio::test]
async fn limits_are_refusals_not_losses() {
    let limits = Limits {
        proposals_in_flight: 2,
        command_bytes: 100,
        ..Limits::default()
    };
    let mut world = World::with(3, Timing::LOCAL, limits);
    world.form(GROUP, &[1, 2, 3]).await;
    let leader = world.leader(GROUP).await;

    let large = leader.propose(command("x".repeat(101))).await;
    assert_eq!(
        large,
        Err(ProposeError::TooLarge {
            bytes: 101,
            limit: 100
        })
    );

    let three = futures::future::join_all((0..3).map(|n| leader.propose(command(format!("{n}")))));
    let results = three.await;
    assert!(results[0].is_ok() && results[1].is_ok(), "{results:?}");
    assert_eq!(results[2], Err(ProposeError::Overloaded { limit: 2 }));
    leader.propose(command("again")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_formed_once_and_by_one_of_its_voters() {
    let mut world = World::new(3);
    let group = world.start(GROUP, NodeId(1)).await;
    let replica = group.replica();
    let error = group.initialize(&members(GROUP, &[2, 3])).await;
    assert_eq!(error, Err(InitializeError::NotAVoter(replica)));
    group.initialize(&members(GROUP, &[1])).await.unwrap();
    let leader = world.leader(GROUP).await;
    leader.propose(command("alone")).await.unwrap();
    let again = group.initialize(&members(GROUP, &[1])).await;
    assert_eq!(again, Err(InitializeError::Already));

    let config = headcount_consensus::ReplicaConfig {
        group: GROUP,
        replica: ReplicaId(77),
        journal: None,
    };
    let machine = crate::world::Remembering(std::sync::Arc::default());
    let second = world
        .host(NodeId(1))
        .start_group(config, Box::new(machine))
        .await;
    assert!(
        matches!(second, Err(StartError::Started(GROUP))),
        "{second:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eaten_answer_does_not_wedge_replication() {
    let mut world = World::new(3);
    world.form(GROUP, &[1, 2, 3]).await;
    let leader = world.leader(GROUP).await;
    leader.propose(command("before")).await.unwrap();
    world.agree(GROUP, &[1, 2, 3]).await;

    // Every append that carries entries to one follower is lost, until one was: the envelope, and
    // with it the answer that its pipeline waits for.
    let (victim, _) = leader.status().followers.into_iter().next().unwrap();
    let (eaten, mut eaten_now) = tokio::sync::watch::channel(false);
    world.net.eat(move |_, _, envelope| {
        let entries = matches!(&envelope.body, Some(Body::Append(a)) if !a.entries.is_empty());
        let lost = entries && envelope.to == victim.0 && !*eaten.borrow();
        if lost {
            eaten.send_replace(true);
        }
        lost
    });
    let proposed = leader.propose(command("after")).await.unwrap();
    eaten_now.wait_for(|eaten| *eaten).await.unwrap();
    wait_until("the follower that lost an append catches up", || {
        leader.status().followers[&victim].matched >= Some(proposed.index)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_for_this_node_is_refused() {
    let mut world = World::new(2);
    world.start(GROUP, NodeId(1)).await;
    let (told, mut heard) = tokio::sync::mpsc::channel(8);
    world.net.eat(move |_, to, envelope| {
        if to == NodeId(2) {
            told.try_send(envelope.clone()).unwrap();
        }
        to == NodeId(2)
    });
    let request = |group, to, call| headcount_wire::proto::consensus::v1::Envelope {
        group,
        from: 5,
        to,
        call,
        body: Some(Body::Append(
            headcount_wire::proto::consensus::v1::AppendRequest::default(),
        )),
    };
    use headcount_wire::proto::consensus::v1::refusal::Reason;
    for (group, to, reason) in [
        (99, 1001, Reason::UnknownGroup),
        (1, 4242, Reason::UnknownReplica),
        // Without a vote it makes no sense.
        (1, 1001, Reason::Malformed),
    ] {
        world
            .host(NodeId(1))
            .receive(NodeId(2), request(group, to, 7));
        let reply = tokio::time::timeout(PATIENCE, heard.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (reply.group, reply.to, reply.from, reply.call),
            (group, 5, to, 7)
        );
        let Some(Body::Refusal(refusal)) = reply.body else {
            panic!("{reply:?}")
        };
        assert_eq!(refusal.reason(), reason);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_groups_elect_and_commit() {
    let mut world = World::new(3);
    for group in (1..=64).map(GroupId) {
        let first = group.0 % 3 + 1;
        let nodes = [first, first % 3 + 1, (first + 1) % 3 + 1];
        world.form(group, &nodes).await;
    }
    let proposals = (1..=64).map(|group| world.propose(GroupId(group), format!("{group}")));
    futures::future::join_all(proposals).await;
    for group in (1..=64).map(GroupId) {
        let record = world.agree(group, &[1, 2, 3]).await;
        assert!(
            record
                .commands
                .iter()
                .all(|(_, c)| *c == command(format!("{group}")))
        );
    }
    // Whoever forms a group leads it first, which is how leaders are spread.
    for node in world.node_ids() {
        let groups = world.host(node).groups();
        assert_eq!(groups.len(), 64);
        let leads = |group: &headcount_consensus::Group| group.leadership().role == Role::Leader;
        let leading = groups.iter().filter(|group| leads(group)).count();
        assert!((10..=32).contains(&leading), "node {node} leads {leading}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_group_against_a_dead_peer_does_not_spin() {
    let mut world = World::new(3);
    world.form(GROUP, &[1, 2, 3]).await;
    let leader = world.leader(GROUP).await;
    let dead = [1, 2, 3]
        .map(NodeId)
        .into_iter()
        .find(|node| world.group(GROUP, *node).replica() != leader.replica());
    world.down(dead.unwrap()).await;
    leader.propose(command("x")).await.unwrap();
    let before = world.net.sent.load(std::sync::atomic::Ordering::Relaxed);
    // allow-sleep: counts what is sent in a span of time
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sent = world.net.sent.load(std::sync::atomic::Ordering::Relaxed) - before;
    // Heartbeats to two followers, their answers, and a few attempts: some 60.
    assert!(sent < 300, "{sent} envelopes in 2 s");
}
