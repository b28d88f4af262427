//! Slow, large and broken input: it ends cleanly, with an error where somebody can be told, is
//! counted by its reason, and leaves nothing behind.

use std::time::{Duration, Instant};

use headcount_api::Config;

use crate::client::{Connection, PATIENCE, ask};
use crate::node::{Mood, Node, root};
use crate::realtime::wait_until;
use crate::recorder::Metrics;

const SHORT: Duration = Duration::from_millis(100);

fn impatient() -> Config {
    Config {
        header_timeout: SHORT,
        body_timeout: SHORT,
        idle_timeout: SHORT,
        ..Config::default()
    }
}

/// Checks how often something was turned away, and that nothing is left of whoever tried.
async fn counted(metrics: &Metrics, reason: &str, times: usize) {
    let of = |name: &str| metrics.of(name);
    wait_until("no connection is left", || of("api_connections") == 0.0).await;
    let counted = of(&format!("api_rejected_total {reason}"));
    assert_eq!(counted, times as f64, "{reason}");
}

#[tokio::test]
async fn whoever_does_not_finish_the_headers_is_cut_off() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = Node::with(impatient()).await;
    let beginnings = [
        "",
        "P",
        "PRI * HTTP/2.0\r\n",
        "GET /time HTTP/1.1\r\n",
        "GET /time HTTP/1.1\r\nhost: x\r\nx-a",
    ];
    for begun in beginnings {
        let mut connection = Connection::open(node.address).await;
        connection.send(begun).await;
        let received = connection.closed().await;
        let text = String::from_utf8_lossy(&received).into_owned();
        assert!(!text.contains(" 200 "), "{begun:?}: {text}");
    }
    counted(&metrics, "header_timeout", beginnings.len()).await;
}

#[tokio::test]
async fn dripping_headers_does_not_help() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = Node::with(impatient()).await;
    let mut connection = Connection::open(node.address).await;
    connection.send("GET /time HTTP/1.1\r\n").await;
    let started = Instant::now();
    for n in 0..100 {
        connection.send(format!("x-{n}: 1\r\n")).await;
        // allow-sleep: a client drips one header at a time
        tokio::time::sleep(SHORT / 5).await;
        if started.elapsed() > SHORT * 5 {
            break;
        }
    }
    let _received = connection.closed().await;
    counted(&metrics, "header_timeout", 1).await;
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = Node::with(Config {
        header_timeout: SHORT,
        ..Config::default()
    })
    .await;
    let mut connection = Connection::open(node.address).await;
    assert_eq!(connection.ask("GET", "/time", &[], b"").await.status, 200);
    assert!(connection.closed().await.is_empty());
    // The headers of its next request did not come in time.
    counted(&metrics, "header_timeout", 1).await;
}

#[tokio::test]
async fn an_http2_connection_without_requests_is_closed() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = Node::with(impatient()).await;
    let mut connection = Connection::open(node.address).await;
    connection
        .send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await;
    let _settings = connection.closed().await;
    counted(&metrics, "header_timeout", 1).await;
}

#[tokio::test]
async fn slow_bodies_are_given_up() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = Node::with(impatient()).await;
    let mut connection = Connection::open(node.address).await;
    let head = format!(
        "POST /keys/dev.root/requestToken HTTP/1.1\r\nhost: x\r\n{}\r\ncontent-length: 9\r\n\r\n{{",
        root()
    );
    connection.send(head).await;
    let answer = tokio::time::timeout(PATIENCE, connection.read_answer(false)).await;
    let answer = answer.unwrap().unwrap();
    assert_eq!((answer.status, answer.code()), (408, 40800));
    drop(connection);
    counted(&metrics, "body_timeout", 1).await;
}

#[tokio::test]
async fn large_bodies_are_refused() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = Node::start().await;
    let body = vec![b' '; 64 * 1024 + 1];
    let answer = ask(
        node.address,
        "POST",
        "/keys/dev.root/requestToken",
        &[&root()],
        &body,
    )
    .await;
    assert_eq!((answer.status, answer.code()), (413, 40009));
    counted(&metrics, "body_too_large", 1).await;
}

#[tokio::test]
async fn long_targets_and_headers_are_refused() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = Node::start().await;
    let target = format!("/channels/x?pad={}", "x".repeat(16 * 1024));
    let answer = node.get(&target).await;
    assert_eq!((answer.status, answer.code()), (414, 41400));
    let longest = format!("/channels/x?pad={}", "x".repeat(16 * 1024 - 16));
    assert_eq!(node.get(&longest).await.status, 200);

    let large = format!("x-pad: {}", "x".repeat(90 * 1024));
    let answer = ask(node.address, "GET", "/time", &[&large], b"").await;
    assert_eq!((answer.status, answer.code()), (431, 43100));
    let many: Vec<String> = (0..200).map(|n| format!("x-{n}: 1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        ask(node.address, "GET", "/time", &many, b"").await.status,
        431
    );
    let long_token = format!("authorization: Bearer {}", "x".repeat(64 * 1024));
    assert_eq!(node.get_as(&long_token, "/channels/x").await.code(), 40005);
    counted(&metrics, "target_too_long", 1).await;
    counted(&metrics, "header_too_large", 2).await;
}

#[tokio::test]
async fn garbage_is_answered_or_cut_off() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = Node::with(impatient()).await;
    let inputs: [&[u8]; 9] = [
        b"\0\0\0\0\0\0\0\0",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /channels/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /time HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /keys/dev.root/requestToken HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /time HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    for input in &inputs {
        let mut connection = Connection::open(node.address).await;
        connection.send(input).await;
        let received = connection.closed().await;
        let text = String::from_utf8_lossy(&received).into_owned();
        assert!(
            !text.contains(" 200 ") && !text.contains(" 500 "),
            "{input:?}: {text}"
        );
    }
    assert_eq!(node.get("/channels/x").await.status, 200);
    counted(&metrics, "body_incomplete", 1).await;
    counted(&metrics, "malformed", inputs.len() - 1).await;
}

#[tokio::test]
async fn connections_have_a_bound() {
    let metrics = Metrics::default();
    let _installed = metrics.install();
    let node = Node::with(Config {
        connections_max: 1,
        ..Config::default()
    })
    .await;
    let mut first = Connection::open(node.address).await;
    assert_eq!(first.ask("GET", "/time", &[], b"").await.status, 200);
    let mut second = Connection::open(node.address).await;
    let refused = second.read_answer(false).await.unwrap();
    assert_eq!((refused.status, refused.code()), (503, 50305));
    assert!(second.closed().await.is_empty());
    assert_eq!(first.ask("GET", "/time", &[], b"").await.status, 200);
    drop(first);
    counted(&metrics, "connections", 1).await;
}

#[tokio::test]
async fn a_shutdown_waits_for_requests_but_not_for_ever() {
    let mut node = Node::with(Config {
        drain_timeout: SHORT,
        read_timeout: PATIENCE * 10,
        ..Config::default()
    })
    .await;
    *node.world.mood.lock().unwrap() = Mood::Hanging;
    let mut connection = Connection::open(node.address).await;
    connection
        .send(format!(
            "GET /channels/x HTTP/1.1\r\nhost: x\r\n{}\r\n\r\n",
            root()
        ))
        .await;
    let arrived = async {
        while node.world.levels.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, arrived).await.unwrap();
    node.shut_down();
    node.ended().await;
    assert!(connection.closed().await.is_empty());
}
