//! An edge reports; a node counts; things break in between.

use std::collections::BTreeMap;
use std::time::Duration;

use headcount_client::{Client, Config, Ended, Notice, Stopped};
use headcount_model::{
    Category, ChannelName, ConnectionId, EdgeId, Incarnation, MemberId, Modes, Occupancy,
    RefusalCode, ReportItem,
};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use crate::node::Node;
use crate::proxy::Proxy;

/// Longest wait for anything that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// For what must not end what a test waits for.
const FOREVER: Duration = Duration::from_secs(3_600);

fn gateway() -> headcount_gateway::Config {
    headcount_gateway::Config::default()
}

/// Starts a node that ends no session by itself.
async fn node_without_end() -> Node {
    Node::start(headcount_gateway::Config {
        grace: FOREVER,
        ..gateway()
    })
    .await
}

fn config(nodes: &[&Proxy], incarnation: u64) -> Config {
    Config {
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(50),
        connect_timeout: Duration::from_secs(2),
        ..Config::new(
            nodes.iter().map(|proxy| proxy.url()).collect(),
            "Bearer any".into(),
            EdgeId::new("edge").unwrap(),
            Incarnation(incarnation),
        )
    }
}

fn attach(connection: &str, channel: &str) -> ReportItem {
    ReportItem::Attach {
        connection: ConnectionId::new(connection).unwrap(),
        channel: ChannelName::new(channel).unwrap(),
        modes: Modes::DEFAULT,
    }
}

fn closed(connection: &str) -> ReportItem {
    ReportItem::ConnectionClosed {
        connection: ConnectionId::new(connection).unwrap(),
    }
}

async fn flush(client: &Client) {
    let flushed = timeout(PATIENCE, client.flush()).await;
    flushed
        .expect("everything is acknowledged in time")
        .unwrap();
}

/// Waits for the next notice that `pick` picks.
async fn notice<T>(notices: &mut Receiver<Notice>, pick: impl Fn(&Notice) -> Option<T>) -> T {
    let picked = async {
        loop {
            let notice = notices.recv().await.expect("the client goes on");
            if let Some(picked) = pick(&notice) {
                return picked;
            }
        }
    };
    timeout(PATIENCE, picked).await.expect("it is told in time")
}

fn connected(notice: &Notice) -> Option<(u64, bool)> {
    match notice {
        Notice::Connected {
            session, resumed, ..
        } => Some((*session, *resumed)),
        Notice::Disconnected { .. }
        | Notice::Refused(_)
        | Notice::Missed(_)
        | Notice::Stopped(_) => None,
    }
}

fn disconnected(notice: &Notice) -> Option<()> {
    matches!(notice, Notice::Disconnected { .. }).then_some(())
}

fn stopped(notice: &Notice) -> Option<Stopped> {
    match notice {
        Notice::Stopped(stopped) => Some(*stopped),
        Notice::Connected { .. }
        | Notice::Disconnected { .. }
        | Notice::Refused(_)
        | Notice::Missed(_) => None,
    }
}

/// Waits until the node counts what `expected` says of connections by channel.
async fn wait_for(node: &Node, expected: &BTreeMap<String, u32>) {
    let counted = async {
        loop {
            let counts = node.counts().await;
            let counts: BTreeMap<_, _> = counts
                .into_iter()
                .map(|(channel, counts)| (channel, counts.get(Category::Connections)))
                .collect();
            if counts == *expected {
                return;
            }
            // allow-sleep: polls a condition that has a deadline
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, counted)
        .await
        .expect("the node counts it in time");
}

#[tokio::test]
async fn what_is_flushed_is_counted() {
    let node = Node::start(gateway()).await;
    let proxy = Proxy::start(node.address).await;
    let (client, _notices) = Client::start(config(&[&proxy], 1));
    let mut sum = Occupancy::ZERO;
    sum.set(Category::Subscribers, 7);
    let enter = ReportItem::PresenceEnter {
        connection: ConnectionId::new("a").unwrap(),
        channel: ChannelName::new("room").unwrap(),
        member: MemberId::new("ann").unwrap(),
    };
    let counts = ReportItem::Counts {
        channel: ChannelName::new("sum").unwrap(),
        occupancy: sum,
    };
    let items = vec![attach("a", "room"), attach("b", "room"), enter, counts];
    client.report(items).await.unwrap();
    flush(&client).await;
    let counted = node.counts().await;
    assert_eq!(counted["room"].counts(), [2, 2, 2, 2, 1, 2, 0, 0]);
    assert_eq!(counted["sum"], sum);
    client.report(vec![closed("a"), closed("b")]).await.unwrap();
    flush(&client).await;
    assert_eq!(node.counts().await.into_keys().collect::<Vec<_>>(), ["sum"]);
}

#[tokio::test]
async fn a_stream_cut_in_the_middle_of_a_batch_resumes() {
    let node = Node::start(gateway()).await;
    let proxy = Proxy::start(node.address).await;
    let (client, mut notices) = Client::start(config(&[&proxy], 1));
    assert_eq!(notice(&mut notices, connected).await, (1, false));
    // A batch of these is some 100 KB; the cuts fall inside batches.
    for round in 0..4 {
        proxy.cut_after(40_000 + round * 50_001);
        let items =
            (0..10_000).map(|n| attach(&format!("c{n}"), &format!("room{round}:{}", n % 10)));
        client.report(items.collect()).await.unwrap();
        flush(&client).await;
        assert_eq!(
            notice(&mut notices, connected).await,
            (1, true),
            "round {round}"
        );
    }
    let counted = node.counts().await;
    assert_eq!(counted.len(), 40);
    assert!(
        counted
            .values()
            .all(|counts| counts.get(Category::Connections) == 1_000)
    );
    assert_eq!(node.stats().await.sessions, 1);
}

#[tokio::test]
async fn a_lost_node_is_replaced_by_the_next() {
    let (first, second) = (Node::start(gateway()).await, Node::start(gateway()).await);
    let (near, far) = (
        Proxy::start(first.address).await,
        Proxy::start(second.address).await,
    );
    let (client, mut notices) = Client::start(config(&[&near, &far], 1));
    client
        .report(vec![attach("a", "room"), attach("b", "room")])
        .await
        .unwrap();
    flush(&client).await;
    assert_eq!(notice(&mut notices, connected).await, (1, false));

    // Gone for good: what changes meanwhile is told with the rest.
    near.cut(None);
    client
        .report(vec![closed("a"), attach("b", "hall")])
        .await
        .unwrap();
    flush(&client).await;
    let (session, resumed) = notice(&mut notices, connected).await;
    assert!(session > 1 && !resumed);
    let expected = BTreeMap::from([("room".to_owned(), 1), ("hall".to_owned(), 1)]);
    wait_for(&second, &expected).await;

    // What the first node still counts is in its grace; the owner's to replace.
    assert_eq!(first.counts().await["room"].get(Category::Connections), 2);
}

#[tokio::test]
async fn a_restarted_node_is_told_the_whole_set() {
    let node = Node::start(gateway()).await;
    let proxy = Proxy::start(node.address).await;
    let (client, mut notices) = Client::start(config(&[&proxy], 1));
    let items = (0..9_000).map(|n| attach(&format!("c{n}"), "room"));
    client.report(items.collect()).await.unwrap();
    flush(&client).await;
    notice(&mut notices, connected).await;

    node.kill();
    let node = Node::start(gateway()).await;
    proxy.cut(Some(node.address));
    assert!(!notice(&mut notices, connected).await.1);
    wait_for(&node, &BTreeMap::from([("room".to_owned(), 9_000)])).await;
}

#[tokio::test]
async fn a_draining_node_hands_its_edges_over() {
    let (first, second) = (Node::start(gateway()).await, Node::start(gateway()).await);
    let (near, far) = (
        Proxy::start(first.address).await,
        Proxy::start(second.address).await,
    );
    let (client, mut notices) = Client::start(config(&[&near, &far], 1));
    client.report(vec![attach("a", "room")]).await.unwrap();
    flush(&client).await;
    notice(&mut notices, connected).await;
    first.drain();
    notice(&mut notices, connected).await;
    wait_for(&second, &BTreeMap::from([("room".to_owned(), 1)])).await;
}

#[tokio::test]
async fn refused_items_are_told_of_and_the_rest_counts() {
    let node = Node::start(gateway()).await;
    let proxy = Proxy::start(node.address).await;
    let (client, mut notices) = Client::start(config(&[&proxy], 1));
    let items = vec![attach("a", "private:x"), attach("a", "room")];
    client.report(items).await.unwrap();
    flush(&client).await;
    let refused = notice(&mut notices, |notice| match notice {
        Notice::Refused(refused) => Some(refused.clone()),
        Notice::Connected { .. }
        | Notice::Disconnected { .. }
        | Notice::Missed(_)
        | Notice::Stopped(_) => None,
    });
    let refused = refused.await;
    assert_eq!(refused.item, attach("a", "private:x"));
    assert_eq!(refused.code, Some(RefusalCode::NotPermitted));
    assert!(
        refused.message.contains("occupancy-report"),
        "{}",
        refused.message
    );
    assert_eq!(
        node.counts().await.into_keys().collect::<Vec<_>>(),
        ["room"]
    );
}

#[tokio::test]
async fn a_full_node_is_told_again_later() {
    let node = Node::start(headcount_gateway::Config {
        entries_max: 1,
        ..gateway()
    })
    .await;
    let proxy = Proxy::start(node.address).await;
    let (client, _notices) = Client::start(Config {
        retry_interval: Duration::from_millis(10),
        ..config(&[&proxy], 1)
    });
    client
        .report(vec![attach("a", "room"), attach("b", "hall")])
        .await
        .unwrap();
    flush(&client).await;
    wait_for(&node, &BTreeMap::from([("room".to_owned(), 1)])).await;
    client.report(vec![closed("a")]).await.unwrap();
    wait_for(&node, &BTreeMap::from([("hall".to_owned(), 1)])).await;
}

#[tokio::test]
async fn an_edge_that_is_faster_than_its_node_waits() {
    let node = Node::start(gateway()).await;
    let proxy = Proxy::start(node.address).await;
    let queue_max = 5_000;
    let (client, mut notices) = Client::start(Config {
        queue_max,
        ack_timeout: PATIENCE,
        ..config(&[&proxy], 1)
    });
    notice(&mut notices, connected).await;
    flush(&client).await;
    let shut = node.gate.acquire().await.unwrap();
    let thousand = |from| {
        (from..from + 1_000)
            .map(|n| attach(&format!("c{n}"), "room"))
            .collect()
    };
    let mut reported = 0;
    let mut report = Box::pin(client.report(thousand(reported)));
    while timeout(Duration::from_millis(500), &mut report)
        .await
        .is_ok()
    {
        reported += 1_000;
        assert!(reported < 400_000, "nothing holds the edge back");
        report.set(client.report(thousand(reported)));
    }
    // The window, the queue, and what waits for the task.
    assert!(
        reported >= 16 * 4_096,
        "{reported} fit in the window at least"
    );
    drop(shut);
    report.await.unwrap();
    reported += 1_000;
    flush(&client).await;
    wait_for(&node, &BTreeMap::from([("room".to_owned(), reported)])).await;
}

#[tokio::test]
async fn a_newer_life_of_the_edge_takes_over() {
    let node = Node::start(gateway()).await;
    let proxy = Proxy::start(node.address).await;
    let (old, mut old_notices) = Client::start(config(&[&proxy], 1));
    old.report(vec![attach("a", "room"), attach("b", "room")])
        .await
        .unwrap();
    flush(&old).await;
    let (new, _notices) = Client::start(config(&[&proxy], 2));
    new.report(vec![attach("c", "room")]).await.unwrap();
    flush(&new).await;
    assert_eq!(notice(&mut old_notices, stopped).await, Stopped::Superseded);
    assert_eq!(old.report(vec![closed("a")]).await, Err(Ended));
    wait_for(&node, &BTreeMap::from([("room".to_owned(), 1)])).await;

    let (_stale, mut notices) = Client::start(config(&[&proxy], 1));
    assert_eq!(
        notice(&mut notices, stopped).await,
        Stopped::StaleIncarnation { seen: 2 }
    );
}

#[tokio::test]
async fn a_client_that_forgot_its_sessions_learns_the_number() {
    let node = Node::start(gateway()).await;
    let proxy = Proxy::start(node.address).await;
    let (client, mut notices) = Client::start(config(&[&proxy], 1));
    client
        .report(vec![attach("a", "room"), attach("b", "room")])
        .await
        .unwrap();
    flush(&client).await;
    assert_eq!(notice(&mut notices, connected).await, (1, false));
    client.goodbye().await.unwrap();
    wait_for(&node, &BTreeMap::new()).await;

    let (again, mut notices) = Client::start(config(&[&proxy], 1));
    assert_eq!(notice(&mut notices, connected).await, (2, false));
    again.report(vec![attach("c", "room")]).await.unwrap();
    flush(&again).await;
    wait_for(&node, &BTreeMap::from([("room".to_owned(), 1)])).await;
}

#[tokio::test]
async fn a_session_outlives_its_client_by_the_grace() {
    let node = Node::start(headcount_gateway::Config {
        grace: Duration::from_millis(200),
        ..gateway()
    })
    .await;
    let proxy = Proxy::start(node.address).await;
    let (client, _notices) = Client::start(config(&[&proxy], 1));
    client.report(vec![attach("a", "room")]).await.unwrap();
    flush(&client).await;
    drop(client);
    assert_eq!(node.counts().await["room"].get(Category::Connections), 1);
    wait_for(&node, &BTreeMap::new()).await;
}

#[tokio::test]
async fn a_client_that_is_dropped_while_a_node_keeps_it_waiting_ends() {
    let still = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(still.local_addr().unwrap()).await;
    let (client, mut notices) = Client::start(Config {
        connect_timeout: FOREVER,
        ..config(&[&proxy], 1)
    });
    let _waiting = still.accept().await.unwrap();
    drop(client);
    let ended = timeout(PATIENCE, notices.recv()).await;
    assert_eq!(ended.expect("it ends at once"), None);
}

#[tokio::test]
async fn a_goodbye_ends_the_session_that_is_just_being_resumed() {
    let node = node_without_end().await;
    let proxy = Proxy::start(node.address).await;
    let (client, _notices) = Client::start(config(&[&proxy], 1));
    client.report(vec![attach("a", "room")]).await.unwrap();
    flush(&client).await;

    let still = TcpListener::bind("127.0.0.1:0").await.unwrap();
    proxy.cut(Some(still.local_addr().unwrap()));
    let (mut edge, _) = still.accept().await.unwrap();
    let goodbye = tokio::spawn(client.goodbye());
    let mut way = TcpStream::connect(node.address).await.unwrap();
    tokio::spawn(async move { copy_bidirectional(&mut edge, &mut way).await });
    let said = timeout(PATIENCE, goodbye).await;
    said.expect("it is said in time").unwrap().unwrap();
    wait_for(&node, &BTreeMap::new()).await;
}

#[tokio::test]
async fn a_goodbye_does_not_wait_for_a_pause() {
    let node = node_without_end().await;
    let proxy = Proxy::start(node.address).await;
    let (client, mut notices) = Client::start(Config {
        backoff_min: FOREVER,
        backoff_max: FOREVER,
        ..config(&[&proxy], 1)
    });
    client.report(vec![attach("a", "room")]).await.unwrap();
    flush(&client).await;
    proxy.cut(None);
    for _stream_and_attempt in 0..2 {
        notice(&mut notices, disconnected).await;
    }
    proxy.cut(Some(node.address));
    let said = timeout(PATIENCE, client.goodbye()).await;
    said.expect("it is said in time").unwrap();
    wait_for(&node, &BTreeMap::new()).await;
}
