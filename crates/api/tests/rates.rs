//! The limits of connections, channels and apps: whoever reaches one is told its code, it is
//! counted by its name, and he goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use headcount_api::{AppLimits, Config, RealtimeConfig};
use headcount_model::{AppId, Fence, Rate, ShardId, name_hash, shard_of_hash};
use headcount_relay::{GatewayItem, Message, OwnerItem, OwnerMessage};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::client::{Answer, PATIENCE, ask};
use crate::messages::post_as;
use crate::node::{Node, basic, root};
use crate::realtime::{
    ACK, ATTACH, ATTACHED, Client, DETACHED, DISCONNECTED, ERROR, HEARTBEAT, MESSAGE, NACK, ROOT,
    wait_until,
};
use crate::recorder::Metrics;

const OTHER: &str = "key=other.root:root-secret";

/// So few that whoever hurries reaches it, and so many that whoever waits goes on.
const FEW: Rate = Rate {
    per_second: 2,
    burst: 3,
};

/// Beyond what any test does.
const ANY: Rate = Rate {
    per_second: u32::MAX,
    burst: u32::MAX,
};

async fn node(limits: AppLimits) -> Node {
    Node::realtime(RealtimeConfig {
        limits,
        // Who is refused tries again at once here.
        frame_rate: ANY,
        ..RealtimeConfig::default()
    })
    .await
}

fn free() -> AppLimits {
    AppLimits {
        connects: ANY,
        channels: ANY,
        messages: ANY,
        requests: ANY,
        connection_messages: ANY,
        channel_messages: ANY,
        channel_bytes: ANY,
        ..AppLimits::default()
    }
}

/// Publishes until it is refused; returns how many times it was not, and the error.
async fn publish_until_refused(client: &mut Client, channel: &str) -> (usize, Value) {
    for accepted in 0..1_000 {
        let mut answer = client.publish(channel, "x").await;
        if answer["action"] == NACK {
            return (accepted, answer["error"].take());
        }
    }
    panic!("nothing is refused on {channel}");
}

/// Publishes until it is accepted.
async fn publish_at_last(client: &mut Client, channel: &str) {
    let accepted = async { while client.publish(channel, "x").await["action"] != ACK {} };
    timeout(PATIENCE, accepted).await.expect("it may go on");
}

async fn get_until_refused(node: &Node, target: &str) -> Answer {
    for _ in 0..1_000 {
        let answer = node.get(target).await;
        if answer.status == 429 {
            return answer;
        }
        assert_eq!(answer.status, 200);
    }
    panic!("nothing is refused");
}

fn check(error: &Value, code: u32, metric: &str) {
    assert_eq!(
        (&error["code"], &error["statusCode"]),
        (&json!(code), &json!(429))
    );
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains(&format!("metric = {metric})")),
        "{message}"
    );
}

#[tokio::test]
async fn a_connection_has_so_many_channels_members_and_bytes() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = node(AppLimits {
        connection_channels_max: 1,
        message_bytes_max: 100,
        channel_members_max: 1,
        ..free()
    })
    .await;
    let mut client = Client::root(&node).await;
    client.attach("room", json!({})).await;
    client
        .send(json!({ "action": ATTACH, "channel": "another" }))
        .await;
    assert_eq!(client.expect(ERROR).await["error"]["code"], 90010);
    let large = json!({
        "action": MESSAGE, "channel": "room", "messages": [{ "data": "x".repeat(101) }],
    });
    assert_eq!(client.ask(large).await["error"]["code"], 40009);
    let body = json!({ "data": "x".repeat(101) });
    let answer = post_as(&node, &[&root()], "room", &body).await;
    assert_eq!((answer.status, answer.code()), (413, 40009));
    assert_eq!(client.presence("room", 2, "a").await["action"], ACK);
    let full = client.presence("room", 2, "b").await;
    assert_eq!(full["error"]["code"], 91003);
    let long = "x".repeat(2_049);
    let answer = client.publish(&long, "x").await;
    assert_eq!(answer["error"]["code"], 40010);
    client
        .send(json!({ "action": ATTACH, "channel": long }))
        .await;
    assert_eq!(client.expect(ERROR).await["error"]["code"], 40010);
    assert_eq!(node.get(&format!("/channels/{long}")).await.code(), 40010);
    for (reason, times) in [
        ("channels_per_connection", 1.0),
        ("message_too_large", 2.0),
        ("presence_members", 1.0),
        ("channel_name", 3.0),
    ] {
        assert_eq!(
            metrics.of(&format!("api_rejected_total {reason}")),
            times,
            "{reason}"
        );
    }
    // None of it ended anything, or left anything.
    assert_eq!(client.publish("room", "x").await["action"], ACK);
    let books = node.world.books.lock().unwrap();
    assert_eq!(
        (books.attached("room").len(), books.members("room")),
        (1, vec!["a"])
    );
    assert!(books.attached("another").is_empty() && books.attached(&long).is_empty());
}

#[tokio::test]
async fn a_connection_says_so_much_in_a_second() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = node(AppLimits {
        connection_messages: FEW,
        ..free()
    })
    .await;
    let (mut client, connected) = Client::connect(&node, ROOT).await;
    assert_eq!(connected["connectionDetails"]["maxInboundRate"], 2);
    client.attach("room", json!({})).await;
    let (accepted, error) = publish_until_refused(&mut client, "room").await;
    assert!(accepted >= 3, "{accepted}");
    check(&error, 42911, "connection.inboundRate");
    let mut another = Client::root(&node).await;
    assert_eq!(another.publish("room", "x").await["action"], ACK);
    publish_at_last(&mut client, "room").await;
    assert!(metrics.of("api_rejected_total message_rate") >= 1.0);
}

#[tokio::test]
async fn too_many_frames_of_any_kind_end_the_connection() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = Node::realtime(RealtimeConfig {
        frame_rate: FEW,
        ..RealtimeConfig::default()
    })
    .await;
    let mut client = Client::root(&node).await;
    let error = loop {
        client.send(json!({ "action": HEARTBEAT, "id": "p" })).await;
        let frame = client.next().await.unwrap();
        if frame["action"] == ERROR {
            break frame;
        }
    };
    check(&error["error"], 42924, "connection.inboundRate");
    assert_eq!(client.next().await, None);
    assert_eq!(metrics.of("api_rejected_total frame_rate"), 1.0);
    let left = || metrics.of("api_realtime_connections");
    wait_until("nothing is left of it", || left() == 0.0).await;
}

#[tokio::test]
async fn a_channel_takes_so_many_messages_from_whomever() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = node(AppLimits {
        channel_messages: FEW,
        ..free()
    })
    .await;
    let mut listener = Client::root(&node).await;
    listener.attach("room", json!({})).await;
    let mut client = Client::root(&node).await;
    let (accepted, error) = publish_until_refused(&mut client, "room").await;
    assert!(accepted >= 3, "{accepted}");
    check(&error, 42913, "channel.maxRate");
    // What was refused nobody heard.
    assert_eq!(client.publish("other", "x").await["action"], ACK);
    for _ in 0..accepted {
        assert_eq!(listener.expect(MESSAGE).await["messages"][0]["name"], "x");
    }
    // Nor does it help to come another way: REST, another connection, several at once.
    let body = json!(
        (0..4)
            .map(|_| json!({ "name": "late" }))
            .collect::<Vec<_>>()
    );
    let answer = post_as(&node, &[&root()], "room", &body).await;
    assert_eq!((answer.status, answer.code()), (429, 42913));
    assert_eq!(answer.header("retry-after"), Some("1"));
    let mut third = Client::root(&node).await;
    let (_, error) = publish_until_refused(&mut third, "room").await;
    check(&error, 42913, "channel.maxRate");
    publish_at_last(&mut client, "room").await;
    assert!(metrics.of("api_rejected_total channel_message_rate") >= 3.0);
    // Who comes and goes is no message.
    client.attach("room", json!({})).await;
    for member in ["a", "b", "c", "d", "e", "f"] {
        assert_eq!(client.presence("room", 2, member).await["action"], ACK);
    }
}

#[tokio::test]
async fn a_channel_takes_so_many_bytes() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = node(AppLimits {
        channel_bytes: Rate::over(2, 1_000),
        ..free()
    })
    .await;
    let mut client = Client::root(&node).await;
    let large = |size: usize| {
        json!({
            "action": MESSAGE, "channel": "room", "messages": [{ "data": "x".repeat(size) }],
        })
    };
    assert_eq!(client.ask(large(1_900)).await["action"], ACK);
    let refused = client.ask(large(1_900)).await;
    check(&refused["error"], 42914, "channel.maxBandwidth");
    assert_eq!(metrics.of("api_rejected_total channel_byte_rate"), 1.0);
    let again = async {
        while client.ask(large(1_900)).await["action"] != ACK {
            // allow-sleep: who asks without pause is cut off as a flood.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("it may go on");
}

#[tokio::test]
async fn a_channel_counts_what_other_nodes_relay_to_it() {
    let node = node(AppLimits {
        channel_messages: Rate {
            per_second: 2,
            burst: 1_000,
        },
        ..free()
    })
    .await;
    let mut client = Client::root(&node).await;
    client.attach("room", json!({})).await;
    let there = Node::start().await;
    let message = published_there(&there).await;
    let shard = shard();
    node.realtime.owner(shard, Fence(1));
    for sequence in 1..=50 {
        node.realtime.owner_said(
            shard,
            OwnerMessage {
                fence: Fence(1),
                stream: 1,
                sequence,
                items: vec![OwnerItem::Message(message.clone()); 100],
            },
        );
    }
    // Of the burst nothing is left but what comes back meanwhile.
    let (accepted, error) = publish_until_refused(&mut client, "room").await;
    check(&error, 42913, "channel.maxRate");
    assert!(accepted < 500, "{accepted}");
}

fn shard() -> ShardId {
    shard_of_hash(name_hash("dev", "room"), 4)
}

/// What a node tells its owner of a publish.
async fn published_there(node: &Node) -> Message {
    node.realtime.owner(shard(), Fence(1));
    let mut client = Client::root(node).await;
    assert_eq!(client.publish("room", "x").await["action"], ACK);
    let relayed = node.world.relayed.lock().unwrap();
    let items = relayed.iter().flat_map(|(_, told)| told.items.clone());
    let publish = items.filter_map(|item| match item {
        GatewayItem::Publish(message) => Some(message),
        _ => None,
    });
    publish.last().expect("it is relayed")
}

#[tokio::test]
async fn an_app_says_so_much_and_no_other_app_notices() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = node(AppLimits {
        messages: FEW,
        ..free()
    })
    .await;
    let mut client = Client::root(&node).await;
    client.attach("c", json!({})).await;
    let (accepted, error) = publish_until_refused(&mut client, "a").await;
    assert!(accepted >= 3, "{accepted}");
    check(&error, 42917, "messages.maxRate");
    let body = json!((0..4).map(|_| json!({ "name": "x" })).collect::<Vec<_>>());
    let answer = post_as(&node, &[&root()], "b", &body).await;
    assert_eq!((answer.status, answer.code()), (429, 42917));
    let members: Vec<_> = (0..4)
        .map(|n| json!({ "action": 2, "clientId": n.to_string() }))
        .collect();
    let entered = client
        .ask(json!({ "action": 14, "channel": "c", "presence": members }))
        .await;
    check(&entered["error"], 42917, "messages.maxRate");
    assert!(node.world.books.lock().unwrap().members("c").is_empty());
    let (mut other, _) = Client::connect(&node, OTHER).await;
    assert_eq!(other.publish("a", "x").await["action"], ACK);
    publish_at_last(&mut client, "a").await;
    assert!(metrics.of("api_rejected_total app_message_rate") >= 3.0);
}

#[tokio::test]
async fn an_app_asks_so_often() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = node(AppLimits {
        requests: FEW,
        ..free()
    })
    .await;
    // Whoever does not know the key uses up nothing.
    let stranger = basic("dev.root:guessed");
    for _ in 0..10 {
        let answer = node.get_as(&stranger, "/channels/x").await;
        assert_eq!(answer.code(), 40101);
    }
    for target in ["/channels/x", "/channels", "/channels/x/messages"] {
        let refused = get_until_refused(&node, target).await;
        check(&refused.json()["error"], 42918, "apiRequests.maxRate");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    let other = basic("other.root:root-secret");
    assert_eq!(node.get_as(&other, "/channels/x").await.status, 200);
    // The time is nobody's, and a connection is no request.
    assert_eq!(
        ask(node.address, "GET", "/time", &[], b"").await.status,
        200
    );
    Client::root(&node).await;
    let again = async { while node.get("/channels/x").await.status != 200 {} };
    timeout(PATIENCE, again).await.expect("it may go on");
    assert!(metrics.of("api_rejected_total app_request_rate") >= 3.0);
}

#[tokio::test]
async fn so_many_channels_come_into_use_and_clients_try_the_others_again() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = node(AppLimits {
        channels: FEW,
        ..free()
    })
    .await;
    let mut client = Client::root(&node).await;
    let mut first_refused = None;
    for number in 0..1_000 {
        let channel = format!("c{number}");
        client
            .send(json!({ "action": ATTACH, "channel": channel }))
            .await;
        let answer = client.next().await.unwrap();
        if answer["action"] == DETACHED {
            // Not ERROR, after which clients would not try again.
            check(&answer["error"], 90021, "channels.maxRate");
            first_refused = Some((number, channel));
            break;
        }
        assert_eq!(answer["action"], ATTACHED);
    }
    let (attached, refused) = first_refused.expect("one is refused");
    assert!(attached >= 3, "{attached}");
    let mut publishing = 0;
    let error = loop {
        publishing += 1;
        let mut answer = client.publish(&format!("p{publishing}"), "x").await;
        if answer["action"] == NACK {
            break answer["error"].take();
        }
    };
    check(&error, 90021, "channels.maxRate");
    let mut answer = None;
    for number in 0..1_000 {
        let body = json!({ "name": "x" });
        let got = post_as(&node, &[&root()], &format!("r{number}"), &body).await;
        if got.status != 201 {
            answer = Some(got);
            break;
        }
    }
    let answer = answer.expect("one is refused");
    assert_eq!((answer.status, answer.code()), (429, 90021));
    // What is in use is not new, and metachannels are always there.
    client.attach("c0", json!({})).await;
    for channel in ["[meta]log", "[meta]connection.lifecycle"] {
        client.attach(channel, json!({})).await;
    }
    let again = async {
        loop {
            client
                .send(json!({ "action": ATTACH, "channel": refused }))
                .await;
            if client.next().await.unwrap()["action"] == ATTACHED {
                break;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("it may go on");
    assert!(metrics.of("api_rejected_total app_channel_rate") >= 3.0);
}

#[tokio::test]
async fn an_app_has_so_many_connections_at_a_rate() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = node(AppLimits {
        connections_max: 2,
        ..free()
    })
    .await;
    let (first, second) = (Client::root(&node).await, Client::root(&node).await);
    let mut third = Client::open(&node, ROOT).await;
    assert_eq!(third.expect(ERROR).await["error"]["code"], 40111);
    assert_eq!(third.next().await, None);
    Client::connect(&node, OTHER).await;
    assert_eq!(metrics.of("api_rejected_total app_connections"), 1.0);
    drop((first, second));

    let node = self::node(AppLimits {
        connects: FEW,
        ..free()
    })
    .await;
    let mut opened = 0;
    let error = loop {
        let mut client = Client::open(&node, ROOT).await;
        let mut frame = client.next().await.unwrap();
        if frame["action"] == DISCONNECTED {
            assert_eq!(client.next().await, None);
            break frame["error"].take();
        }
        opened += 1;
    };
    assert!(opened >= 3, "{opened}");
    check(&error, 80021, "connections.maxRate");
    Client::connect(&node, OTHER).await;
    assert_eq!(metrics.of("api_rejected_total app_connect_rate"), 1.0);
}

#[tokio::test]
async fn an_app_may_have_limits_of_its_own() {
    let strict = AppLimits {
        connection_channels_max: 1,
        message_bytes_max: 100,
        channel_members_max: 1,
        channel_messages: FEW,
        requests: FEW,
        ..free()
    };
    let dev = AppId::new("dev").unwrap();
    let realtime = RealtimeConfig {
        limits: free(),
        app_limits: BTreeMap::from([(dev, strict)]),
        ..RealtimeConfig::default()
    };
    let node = Node::of(Config::default(), realtime).await;
    let (mut strict, connected) = Client::connect(&node, ROOT).await;
    assert_eq!(connected["connectionDetails"]["maxMessageSize"], 100);
    let (mut other, connected) = Client::connect(&node, OTHER).await;
    assert_eq!(connected["connectionDetails"]["maxMessageSize"], 262_144);
    for client in [&mut strict, &mut other] {
        client.attach("room", json!({})).await;
        assert_eq!(client.presence("room", 2, "a").await["action"], ACK);
    }
    assert_eq!(
        strict.presence("room", 2, "b").await["error"]["code"],
        91003
    );
    assert_eq!(other.presence("room", 2, "b").await["action"], ACK);
    let (_, error) = publish_until_refused(&mut strict, "room").await;
    assert_eq!(error["code"], 42913);
    strict
        .send(json!({ "action": ATTACH, "channel": "another" }))
        .await;
    assert_eq!(strict.expect(ERROR).await["error"]["code"], 90010);
    for _ in 0..20 {
        assert_eq!(other.publish("room", "x").await["action"], ACK);
    }
    get_until_refused(&node, "/channels/x").await;
    let header = basic("other.root:root-secret");
    for _ in 0..20 {
        assert_eq!(node.get_as(&header, "/channels/x").await.status, 200);
    }
}
