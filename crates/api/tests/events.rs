//! `GET /events`.

use std::time::Duration;

use headcount_api::Config;
use headcount_model::{EventKind, Position, ShardId, WatchEnd, WatchItem};
use serde_json::{Value, json};

use crate::client::{Answer, Connection, ask};
use crate::node::{NOW_MS, Node, basic, root};

/// Opens a stream and reads its head and its first block.
async fn open(node: &Node, query: &str, headers: &[&str]) -> (Connection, Answer) {
    let mut connection = Connection::open(node.address).await;
    let mut request = format!("GET /events{query} HTTP/1.1\r\nhost: x\r\n{}\r\n", root());
    for line in headers {
        request.push_str(&format!("{line}\r\n"));
    }
    connection.send(format!("{request}\r\n")).await;
    let head = connection.read_head().await.unwrap();
    if head.status == 200 {
        assert_eq!(connection.block().await.unwrap(), "retry: 2000");
    }
    (connection, head)
}

/// A block's field.
fn field(block: &str, name: &str) -> Option<String> {
    let prefix = format!("{name}: ");
    let line = block.lines().find_map(|line| line.strip_prefix(&prefix));
    line.map(str::to_owned)
}

fn data(block: &str) -> Value {
    serde_json::from_str(&field(block, "data").unwrap()).unwrap()
}

#[tokio::test]
async fn events_are_told_with_resume_points() {
    let node = Node::start().await;
    let (mut stream, head) = open(&node, "", &[]).await;
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert_eq!(head.header("cache-control"), Some("no-store"));
    node.world.tell_opened(&["a", "bb"]);

    let first = stream.block().await.unwrap();
    assert_eq!(field(&first, "event").as_deref(), Some("channel.opened"));
    assert_eq!(
        field(&first, "id"),
        None,
        "an interrupted batch is told again"
    );
    let expected = json!({
        "id": "1.3.1.0", "name": "channel.opened", "timestamp": NOW_MS,
        "data": {
            "channelId": "a", "name": "a", "region": "eu-west-1", "isGlobalMaster": true,
            "status": {"isActive": true, "occupancy": {"metrics": {
                "connections": 1, "publishers": 1, "subscribers": 1,
                "presenceConnections": 1, "presenceMembers": 0, "presenceSubscribers": 1,
                "objectPublishers": 0, "objectSubscribers": 0,
            }}},
        },
    });
    assert_eq!(data(&first), expected);
    let second = stream.block().await.unwrap();
    assert_eq!(field(&second, "id").as_deref(), Some("c1"));
    assert_eq!(data(&second)["data"]["name"], "bb");
}

#[tokio::test]
async fn a_stream_resumes_where_it_was() {
    let node = Node::start().await;
    let (mut stream, _) = open(&node, "", &[]).await;
    node.world.tell_opened(&["a"]);
    let id = field(&stream.block().await.unwrap(), "id").unwrap();
    drop(stream);
    node.world.tell_opened(&["b"]);
    node.world.tell_opened(&["c"]);

    let header = format!("last-event-id: {id}");
    for (query, headers) in [
        (format!("?cursor={id}"), vec![]),
        ("?cursor=c9".to_owned(), vec![header.as_str()]),
        (String::new(), vec![header.as_str()]),
    ] {
        let (mut stream, _) = open(&node, &query, &headers).await;
        for name in ["b", "c"] {
            let block = stream.block().await.unwrap();
            assert_eq!(data(&block)["data"]["name"], name, "{query} {headers:?}");
        }
    }
}

#[tokio::test]
async fn the_request_chooses_what_it_is_told() {
    let node = Node::start().await;
    let (_stream, _) = open(
        &node,
        "?prefix=room%3A&kinds=channel.opened,channel.closed",
        &[],
    )
    .await;
    let filter = node.world.filters.lock().unwrap().pop().unwrap();
    assert_eq!(filter.app.unwrap().as_str(), "dev");
    assert_eq!(filter.prefix, "room:");
    assert!(filter.kinds.contains(EventKind::Closed));
    assert!(!filter.kinds.contains(EventKind::Occupancy));
}

#[tokio::test]
async fn gaps_and_positions_are_told() {
    let node = Node::start().await;
    let (mut stream, _) = open(&node, "", &[]).await;
    node.world.tell(|cursor| WatchItem::Position { cursor });
    assert_eq!(stream.block().await.unwrap(), "id: c1");
    let (shard, from) = (ShardId(9), Position::START);
    node.world.tell(|cursor| WatchItem::Gap {
        shard,
        region: None,
        from,
        cursor,
    });
    let gap = stream.block().await.unwrap();
    assert_eq!(field(&gap, "event").as_deref(), Some("gap"));
    assert_eq!(field(&gap, "id").as_deref(), Some("c2"));
    assert_eq!(data(&gap)["shard"], 9);
    let resync = data(&gap)["resync"].as_str().unwrap().to_owned();
    assert_eq!(node.get(&resync).await.status, 200, "the advice works");
}

#[tokio::test]
async fn a_slow_reader_is_told_where_to_resume() {
    let node = Node::start().await;
    let (mut stream, _) = open(&node, "", &[]).await;
    node.world.tell_opened(&["a"]);
    let reason = WatchEnd::TooSlow;
    node.world.tell(|cursor| WatchItem::End { reason, cursor });
    let _event = stream.block().await.unwrap();
    let end = stream.block().await.unwrap();
    assert_eq!(field(&end, "event").as_deref(), Some("end"));
    assert_eq!(field(&end, "id").as_deref(), Some("c2"));
    assert_eq!(data(&end)["reason"], "too_slow");
    assert_eq!(stream.block().await, None);
}

#[tokio::test]
async fn requests_that_cannot_be_streams_are_refused() {
    let node = Node::start().await;
    for (query, status, code) in [
        ("?cursor=x", 400, 40011),
        ("?kinds=opened", 400, 40003),
        ("?prefix=%ff", 400, 40000),
        (&format!("?prefix={}", "x".repeat(3_000)), 400, 40003),
    ] {
        let answer = node.get(&format!("/events{query}")).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{query}");
    }
    let header = "last-event-id: x";
    let answer = ask(node.address, "GET", "/events", &[&root(), header], b"").await;
    assert_eq!(answer.code(), 40011);
    let nometa = node
        .get_as(&basic("dev.nometa:nometa-secret"), "/events")
        .await;
    assert_eq!((nometa.status, nometa.code()), (401, 40160));
    assert_eq!(node.get_as("x-none: 1", "/events").await.code(), 40101);
}

#[tokio::test]
async fn the_subscribe_capability_is_enough() {
    let node = Node::start().await;
    let mut connection = Connection::open(node.address).await;
    let key = "key=dev.meta:meta-secret";
    connection
        .send(format!("GET /events?{key} HTTP/1.1\r\nhost: x\r\n\r\n"))
        .await;
    assert_eq!(connection.read_head().await.unwrap().status, 200);
}

#[tokio::test]
async fn quiet_streams_beat() {
    let node = Node::with(Config {
        heartbeat_interval: Duration::from_millis(20),
        ..Config::default()
    })
    .await;
    let (mut stream, _) = open(&node, "", &[]).await;
    for _ in 0..2 {
        assert_eq!(stream.block().await.unwrap(), ": heartbeat");
    }
}

#[tokio::test]
async fn streams_outlive_the_idle_deadlines() {
    let short = Duration::from_millis(50);
    let node = Node::with(Config {
        header_timeout: short,
        idle_timeout: short,
        ..Config::default()
    })
    .await;
    let (mut stream, _) = open(&node, "", &[]).await;
    // allow-sleep: several deadlines must pass for nothing to happen
    tokio::time::sleep(short * 6).await;
    node.world.tell_opened(&["a"]);
    assert!(field(&stream.block().await.unwrap(), "event").is_some());
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let node = Node::start().await;
    let ttl = br#"{"ttl":200}"#;
    let answer = ask(
        node.address,
        "POST",
        "/keys/dev.root/requestToken",
        &[&root()],
        ttl,
    )
    .await;
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let mut connection = Connection::open(node.address).await;
    connection
        .send(format!(
            "GET /events?access_token={token} HTTP/1.1\r\nhost: x\r\n\r\n"
        ))
        .await;
    assert_eq!(connection.read_head().await.unwrap().status, 200);
    let _retry = connection.block().await.unwrap();
    let end = connection.block().await.unwrap();
    assert_eq!(data(&end)["reason"], "token_expired");
    assert_eq!(connection.block().await, None);
}

#[tokio::test]
async fn streams_have_a_bound() {
    let node = Node::with(Config {
        event_streams_max: 1,
        ..Config::default()
    })
    .await;
    let (stream, _) = open(&node, "", &[]).await;
    let refused = node.get("/events").await;
    assert_eq!((refused.status, refused.code()), (429, 42910));
    drop(stream);
    for _ in 0..1000 {
        let (_stream, head) = open(&node, "", &[]).await;
        if head.status == 200 {
            return;
        }
        // allow-sleep: polls until the server notices that the reader has gone
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the place of a reader who left is not given to another");
}

#[tokio::test]
async fn a_shutdown_ends_streams_with_a_resume_point() {
    let mut node = Node::start().await;
    let (mut stream, _) = open(&node, "", &[]).await;
    node.world.tell_opened(&["a"]);
    let _event = stream.block().await.unwrap();
    node.shut_down();
    let end = stream.block().await.unwrap();
    assert_eq!(data(&end)["reason"], "shutdown");
    assert_eq!(field(&end, "id").as_deref(), Some("c1"));
    assert_eq!(stream.block().await, None);
    node.ended().await;
}
