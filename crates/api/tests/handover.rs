//! Clients that come from another node (R8): what counts where, and from when on.

use std::sync::Arc;
use std::time::Duration;

use headcount_access::ClientIdRule;
use headcount_api::ports::{OldConnection, Released, Whereabouts};
use headcount_api::{Config, RealtimeConfig};
use headcount_model::{AppId, ConnectionId, NodeId};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::node::{Node, Other};
use crate::realtime::{
    CLOSE, CLOSED, Client, DETACH, DETACHED, DISCONNECTED, PRESENCE, ROOT, wait_until,
};
use crate::recorder::Metrics;

/// The node that clients come from.
const OLD: NodeId = NodeId(5);

/// The node that they go to, and from there to another one.
const NEW: NodeId = NodeId(4);

/// A node where a client comes from [`OLD`].
async fn new_node(whereabouts: Whereabouts, config: RealtimeConfig) -> Node {
    let node = Node::realtime(config).await;
    let other = Other::silent(whereabouts);
    node.world.others.lock().unwrap().insert(OLD, other);
    node
}

/// The query of a client that comes from [`OLD`] with a key that nobody made.
fn resume() -> String {
    format!("{ROOT}&resume=abc!{OLD}.def")
}

fn attached(node: &Node, channel: &str) -> usize {
    node.world.books.lock().unwrap().attached(channel).len()
}

fn members(node: &Node, channel: &str) -> usize {
    node.world.books.lock().unwrap().members(channel).len()
}

fn lease(node: &Node) -> watch::Sender<bool> {
    node.world.others.lock().unwrap()[&OLD].lease_ended.clone()
}

fn asked(node: &Node) -> usize {
    node.world.others.lock().unwrap()[&OLD].asked.len()
}

/// Lets the other node be reached.
fn reach(node: &Node, other: &Node) {
    let mut others = node.world.others.lock().unwrap();
    others.get_mut(&OLD).unwrap().realtime = Some(other.realtime.clone());
}

/// Returns the key of a connection, and what is told of it to its node.
fn named(connected: &Value) -> (String, OldConnection) {
    let key = &connected["connectionDetails"]["connectionKey"];
    let key = key.as_str().unwrap().to_owned();
    let (_, secret) = key.split_once('.').unwrap();
    let old = OldConnection {
        app: AppId::new("dev").unwrap(),
        connection: ConnectionId::new(connected["connectionId"].as_str().unwrap()).unwrap(),
        secret: secret.to_owned(),
        identity: ClientIdRule::Any,
    };
    (key, old)
}

#[tokio::test]
async fn who_comes_from_a_node_that_does_not_answer_counts_once_its_lease_has_ended() {
    let metrics = Metrics::default();
    let _recorder = metrics.install();
    let node = new_node(Whereabouts::Here, RealtimeConfig::default()).await;
    let mut other = Client::root(&node).await;
    other.attach("room", json!({})).await;

    // It has a new connection at once, and does everything but count.
    let (mut client, connected) = Client::connect(&node, &resume()).await;
    assert_eq!(connected["error"]["code"], 80008);
    for channel in ["room", "left", "alone", "[meta]log"] {
        client.attach(channel, json!({})).await;
    }
    client.presence("room", 2, "ann").await;
    let entered = other.expect(PRESENCE).await;
    assert_eq!(entered["presence"][0]["clientId"], "ann");
    client.presence("room", 2, "bob").await;
    client.presence("room", 3, "bob").await;
    assert_eq!(client.publish("room", "hello").await["action"], 1);
    client
        .send(json!({ "action": DETACH, "channel": "left" }))
        .await;
    loop {
        if client.next().await.unwrap()["action"] == DETACHED {
            break;
        }
    }
    wait_until("its node is asked, again and again", || asked(&node) > 2).await;
    assert_eq!(attached(&node, "room"), 1, "the other one");
    assert_eq!((attached(&node, "alone"), members(&node, "room")), (0, 0));
    assert_eq!(metrics.of("api_realtime_handovers"), 1.0);

    // Then all that it still has counts.
    lease(&node).send_replace(true);
    wait_until("it counts", || attached(&node, "room") == 2).await;
    assert_eq!((attached(&node, "alone"), attached(&node, "left")), (1, 0));
    let books = || node.world.books.lock().unwrap();
    assert_eq!(books().members("room"), ["ann"]);
    wait_until("the hand-over is over", || {
        metrics.of("api_realtime_handovers") == 0.0
            && metrics.of("api_realtime_handovers_total lease_ended") == 1.0
    })
    .await;

    // And as ever from then on.
    client.attach("later", json!({})).await;
    assert_eq!(attached(&node, "later"), 1);
    client
        .send(json!({ "action": DETACH, "channel": "alone" }))
        .await;
    wait_until("it is detached", || attached(&node, "alone") == 0).await;
    client.send(json!({ "action": CLOSE })).await;
    wait_until("nothing is left of it", || {
        attached(&node, "room") == 1 && attached(&node, "later") == 0
    })
    .await;
}

#[tokio::test]
async fn the_old_connection_ends_before_the_new_one_counts() {
    let metrics = Metrics::default();
    let _recorder = metrics.install();
    let old = Node::numbered(OLD, Config::default(), RealtimeConfig::default()).await;
    let new = new_node(Whereabouts::Here, RealtimeConfig::default()).await;
    let (mut before, connected) = Client::connect(&old, &format!("{ROOT}&clientId=ann")).await;
    before.attach("room", json!({})).await;
    before.presence("room", 2, "ann").await;
    let (key, _) = named(&connected);

    let query = format!("{ROOT}&clientId=ann&resume={key}");
    let (mut after, again) = Client::connect(&new, &query).await;
    assert_eq!(again["error"]["code"], 80008);
    after.attach("room", json!({})).await;
    after.presence("room", 2, "ann").await;
    assert_eq!((attached(&old, "room"), attached(&new, "room")), (1, 0));

    // The old one ends as if it had been closed; its websocket, still there, is told.
    old.world.settled.send_replace(false);
    reach(&new, &old);
    wait_until("the old one counts no more", || attached(&old, "room") == 0).await;
    assert_eq!(members(&old, "room"), 0);
    let told = loop {
        let frame = before.next().await.unwrap();
        if frame["action"] == DISCONNECTED {
            break frame;
        }
    };
    assert_eq!(told["error"]["code"], 80003);
    assert_eq!(before.next().await, None);

    // But its owners have not heard of it yet.
    assert_eq!(attached(&new, "room"), 0);
    old.world.settled.send_replace(true);
    wait_until("the new one counts", || attached(&new, "room") == 1).await;
    assert_eq!(members(&new, "room"), 1);
    wait_until("it is counted as released", || {
        metrics.of("api_realtime_handovers_total released") == 1.0
            && metrics.of("api_realtime_releases_total") == 1.0
    })
    .await;

    // What has ended cannot be taken up again where it was.
    let (_, gone) = Client::connect(&old, &query).await;
    assert_eq!(gone["error"]["code"], 80008);
}

#[tokio::test]
async fn a_connection_without_a_client_is_handed_over_too() {
    let old = Node::numbered(OLD, Config::default(), RealtimeConfig::default()).await;
    let new = new_node(Whereabouts::Here, RealtimeConfig::default()).await;
    reach(&new, &old);
    let (mut before, connected) = Client::connect(&old, ROOT).await;
    before.attach("room", json!({})).await;
    before.cut();
    let (key, _) = named(&connected);
    let (mut after, _) = Client::connect(&new, &format!("{ROOT}&recover={key}")).await;
    after.attach("room", json!({})).await;
    wait_until("it has moved", || {
        (attached(&old, "room"), attached(&new, "room")) == (0, 1)
    })
    .await;
}

#[tokio::test]
async fn nobody_else_ends_a_connection() {
    let node = Node::start().await;
    let (mut ann, connected) = Client::connect(&node, &format!("{ROOT}&clientId=ann")).await;
    ann.attach("room", json!({})).await;
    let (_, own) = named(&connected);
    let foreign = [
        OldConnection {
            app: AppId::new("other").unwrap(),
            ..own.clone()
        },
        OldConnection {
            secret: "guessed".to_owned(),
            ..own.clone()
        },
        OldConnection {
            connection: ConnectionId::new("another").unwrap(),
            ..own.clone()
        },
        OldConnection {
            identity: ClientIdRule::Fixed("eve".to_owned()),
            ..own.clone()
        },
        OldConnection {
            identity: ClientIdRule::Anonymous,
            ..own.clone()
        },
    ];
    for other in foreign {
        let what = format!("{other:?}");
        assert!(!what.contains(&own.secret));
        let answer = node.realtime.release(other).await;
        assert_eq!(answer, Ok(Released::Unknown), "{what}");
    }
    ann.publish("room", "still here").await;
    assert_eq!(attached(&node, "room"), 1);
    let own = OldConnection {
        identity: ClientIdRule::Fixed("ann".to_owned()),
        ..own
    };
    assert_eq!(
        node.realtime.release(own.clone()).await,
        Ok(Released::Ended)
    );
    assert_eq!(attached(&node, "room"), 0);
    assert_eq!(node.realtime.release(own).await, Ok(Released::Unknown));
}

#[tokio::test]
async fn a_drop_and_an_end_change_nothing_for_who_is_held() {
    let grace = Duration::from_millis(200);
    let config = RealtimeConfig {
        grace,
        ..RealtimeConfig::default()
    };

    // Let go in its grace, a connection without a client counts for the rest of it.
    let node = new_node(Whereabouts::Here, config.clone()).await;
    let (mut client, _) = Client::connect(&node, &resume()).await;
    client.attach("room", json!({})).await;
    client.cut();
    lease(&node).send_replace(true);
    wait_until("it counts", || attached(&node, "room") == 1).await;
    wait_until("not beyond its grace", || attached(&node, "room") == 0).await;

    // Let go after its grace, it counts only once its client is back.
    let metrics = Metrics::default();
    let _recorder = metrics.install();
    let node = new_node(Whereabouts::Here, config.clone()).await;
    let (mut client, connected) = Client::connect(&node, &resume()).await;
    client.attach("room", json!({})).await;
    client.presence("room", 2, "ann").await;
    let mut other = Client::root(&node).await;
    other.attach("room", json!({})).await;
    other.next().await.unwrap();
    client.cut();
    assert_eq!(other.expect(PRESENCE).await["presence"][0]["action"], 3);
    lease(&node).send_replace(true);
    wait_until("it is let go", || {
        metrics.of("api_realtime_handovers_total lease_ended") == 1.0
    })
    .await;
    let (key, _) = named(&connected);
    assert_eq!(attached(&node, "room"), 1, "the other one");
    let (_client, again) = Client::connect(&node, &format!("{ROOT}&resume={key}")).await;
    assert_eq!(again.get("error"), None);
    wait_until("it counts", || attached(&node, "room") == 2).await;
    assert_eq!(members(&node, "room"), 1);

    // Back before it is let go, it is held still.
    let node = new_node(Whereabouts::Here, config).await;
    let (mut client, connected) = Client::connect(&node, &resume()).await;
    client.attach("room", json!({})).await;
    client.presence("room", 2, "ann").await;
    let mut other = Client::root(&node).await;
    other.attach("room", json!({})).await;
    other.next().await.unwrap();
    client.cut();
    assert_eq!(other.expect(PRESENCE).await["presence"][0]["action"], 3);
    let (key, _) = named(&connected);
    let (mut client, _) = Client::connect(&node, &format!("{ROOT}&resume={key}")).await;
    assert_eq!(other.expect(PRESENCE).await["presence"][0]["action"], 2);
    client.attach("more", json!({})).await;
    assert_eq!((attached(&node, "room"), attached(&node, "more")), (1, 0));
    assert_eq!(members(&node, "room"), 0);

    // And if it ends before, it never counted; its node is told all the same.
    client.send(json!({ "action": CLOSE })).await;
    while client
        .next()
        .await
        .is_some_and(|frame| frame["action"] != CLOSED)
    {}
    let before = asked(&node);
    wait_until("the node is asked still", || asked(&node) > before).await;
    lease(&node).send_replace(true);
    assert_eq!((attached(&node, "room"), attached(&node, "more")), (1, 0));
}

#[tokio::test]
async fn who_comes_from_another_region_counts_at_once_and_the_old_one_ends() {
    let old = Node::numbered(OLD, Config::default(), RealtimeConfig::default()).await;
    let new = new_node(Whereabouts::Elsewhere, RealtimeConfig::default()).await;
    let (mut before, connected) = Client::connect(&old, ROOT).await;
    before.attach("room", json!({})).await;
    before.cut();
    let (key, _) = named(&connected);
    let (mut after, _) = Client::connect(&new, &format!("{ROOT}&resume={key}")).await;
    after.attach("room", json!({})).await;
    assert_eq!((attached(&old, "room"), attached(&new, "room")), (1, 1));
    wait_until("the old node is asked in vain", || asked(&new) > 1).await;
    reach(&new, &old);
    wait_until("the old one has ended", || attached(&old, "room") == 0).await;
    assert_eq!(attached(&new, "room"), 1);
}

#[tokio::test]
async fn who_comes_from_nowhere_or_with_too_many_counts_at_once() {
    let metrics = Metrics::default();
    let _recorder = metrics.install();
    let full = RealtimeConfig {
        handovers_max: 0,
        ..RealtimeConfig::default()
    };
    for (whereabouts, config, outcome) in [
        (Whereabouts::Nowhere, RealtimeConfig::default(), "removed"),
        (Whereabouts::Here, full, "full"),
    ] {
        let node = new_node(whereabouts, config).await;
        let (mut client, _) = Client::connect(&node, &resume()).await;
        client.attach("room", json!({})).await;
        assert_eq!((attached(&node, "room"), asked(&node)), (1, 0));
        let counted = metrics.of(&format!("api_realtime_handovers_total {outcome}"));
        assert_eq!(counted, 1.0, "{outcome}");
    }
    assert_eq!(metrics.of("api_rejected_total realtime_handovers"), 1.0);
}

#[tokio::test]
async fn nobody_is_held_for_longer_than_the_old_node_would_count_by_itself() {
    let metrics = Metrics::default();
    let _recorder = metrics.install();
    let config = RealtimeConfig {
        heartbeat_interval: Duration::from_millis(50),
        grace: Duration::from_millis(150),
        ..RealtimeConfig::default()
    };
    let node = new_node(Whereabouts::Here, config).await;
    let begun = std::time::Instant::now();
    let (mut client, _) = Client::connect(&node, &resume()).await;
    client.attach("room", json!({})).await;
    assert_eq!(attached(&node, "room"), 0);
    // It shows that it lives all the while.
    let living = tokio::spawn(async move { while client.next().await.is_some() {} });
    wait_until("it counts", || attached(&node, "room") == 1).await;
    living.abort();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let counted = || metrics.of("api_realtime_handovers_total timed_out");
    wait_until("and why is counted", || counted() == 1.0).await;
}

#[tokio::test]
async fn who_moves_on_while_held_is_held_at_the_next_node_too() {
    let node = new_node(Whereabouts::Here, RealtimeConfig::default()).await;
    let third = Node::numbered(NodeId(6), Config::default(), RealtimeConfig::default()).await;
    let other = Other {
        realtime: Some(node.realtime.clone()),
        ..Other::silent(Whereabouts::Here)
    };
    third.world.others.lock().unwrap().insert(NEW, other);
    let (mut client, connected) = Client::connect(&node, &resume()).await;
    client.attach("room", json!({})).await;
    let (key, old) = named(&connected);
    client.cut();
    let (mut client, _) = Client::connect(&third, &format!("{ROOT}&resume={key}")).await;
    client.attach("room", json!({})).await;
    assert!(node.realtime.release(old).await.is_err(), "not yet");
    let tries = || third.world.others.lock().unwrap()[&NEW].asked.len();
    wait_until("it is asked again", || tries() > 1).await;
    assert_eq!((attached(&node, "room"), attached(&third, "room")), (0, 0));
    lease(&node).send_replace(true);
    wait_until("it counts where it is", || attached(&third, "room") == 1).await;
    assert_eq!(attached(&node, "room"), 0);
}

#[tokio::test]
async fn a_channel_that_may_not_count_is_detached_when_it_would() {
    let node = new_node(Whereabouts::Here, RealtimeConfig::default()).await;
    let (mut client, _) = Client::connect(&node, &resume()).await;
    for channel in ["a", "b", "c"] {
        client.attach(channel, json!({})).await;
    }
    *node.world.refused.lock().unwrap() = Some("b".to_owned());
    lease(&node).send_replace(true);
    let detached = client.expect(DETACHED).await;
    assert_eq!(detached["channel"], "b");
    assert_eq!(detached["error"]["code"], 90021);
    let counts = ["a", "b", "c"].map(|channel| attached(&node, channel));
    assert_eq!(counts, [1, 0, 1]);
}

#[tokio::test]
async fn a_hand_over_does_not_keep_a_node_from_ending() {
    let mut node = new_node(Whereabouts::Here, RealtimeConfig::default()).await;
    let (mut client, _) = Client::connect(&node, &resume()).await;
    client.send(json!({ "action": CLOSE })).await;
    client.expect(CLOSED).await;
    node.shut_down();
    let world = Arc::clone(&node.world);
    tokio::time::timeout(crate::client::PATIENCE, node.ended())
        .await
        .expect("the node ends in time");
    assert!(!world.others.lock().unwrap()[&OLD].asked.is_empty());
}

#[tokio::test]
async fn a_node_knows_when_it_has_no_clients_any_more() {
    let mut node = Node::start().await;
    let mut client = Client::root(&node).await;
    client.attach("room", json!({})).await;
    let realtime = node.realtime.clone();
    let left = tokio::spawn(async move { realtime.left().await });
    node.world.settled.send_replace(false);
    node.shut_down();
    wait_until("nothing counts", || attached(&node, "room") == 0).await;
    assert!(!left.is_finished(), "its owners have not heard of it");
    node.world.settled.send_replace(true);
    tokio::time::timeout(crate::client::PATIENCE, left)
        .await
        .expect("it is known in time")
        .unwrap();
}

#[tokio::test]
async fn a_take_over_by_somebody_else_disturbs_nobody_at_another_node_either() {
    let old = Node::numbered(OLD, Config::default(), RealtimeConfig::default()).await;
    let new = new_node(Whereabouts::Here, RealtimeConfig::default()).await;
    reach(&new, &old);
    let (mut ann, connected) = Client::connect(&old, &format!("{ROOT}&clientId=ann")).await;
    ann.attach("room", json!({})).await;
    let (key, _) = named(&connected);
    let (mut eve, told) = Client::connect(&new, &format!("{ROOT}&clientId=eve&resume={key}")).await;
    assert_eq!(told["error"]["code"], 80008);
    eve.attach("room", json!({})).await;
    wait_until("she counts beside him", || attached(&new, "room") == 1).await;
    assert_eq!(ann.publish("room", "still here").await["action"], 1);
    assert_eq!(attached(&old, "room"), 1);
}
