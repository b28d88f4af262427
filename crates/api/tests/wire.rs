//! Formats, versions, errors, methods, CORS: what is the same for every request.

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;

use crate::client::{Connection, ask};
use crate::node::{NOW_MS, Node, root};

const MSGPACK: &str = "accept: application/x-msgpack";

#[tokio::test]
async fn time_needs_no_credential_and_comes_in_both_formats() {
    let node = Node::start().await;
    let ask =
        async |target: &str, headers: &[&str]| ask(node.address, "GET", target, headers, b"").await;
    assert_eq!(ask("/time", &[]).await.json(), json!([NOW_MS]));
    assert_eq!(ask("/time", &[MSGPACK]).await.msgpack(), json!([NOW_MS]));
    assert_eq!(
        ask("/time?format=msgpack", &[]).await.msgpack(),
        json!([NOW_MS])
    );
    let accept = "accept: application/json";
    assert_eq!(
        ask("/time?format=msgpack", &[accept]).await.json(),
        json!([NOW_MS])
    );
    let head = self::ask(node.address, "HEAD", "/time", &[], b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn errors_come_in_the_requests_format() {
    let node = Node::start().await;
    for (target, code) in [
        ("/nothing", 40400),
        ("/", 40400),
        ("/stats", 40400),
        ("/channels/x", 40101),
        ("/time?x=%zz", 40000),
        ("/time?v=six", 40017),
    ] {
        let json = ask(node.address, "GET", target, &[], b"").await;
        assert_eq!(json.code(), code, "{target}");
        let msgpack = ask(node.address, "GET", target, &[MSGPACK], b"").await;
        assert_eq!(msgpack.code(), code, "{target}");
        assert_eq!(
            msgpack.header("content-type"),
            Some("application/x-msgpack"),
            "{target}"
        );
    }
    let html = ask(node.address, "GET", "/time?format=html", &[], b"").await;
    assert_eq!((html.status, html.code()), (400, 40003));
}

#[tokio::test]
async fn versions_are_read_from_header_and_query() {
    let node = Node::start().await;
    for (header, status) in [
        ("6", 200),
        ("1.2", 200),
        ("99", 200),
        ("", 400),
        ("v6", 400),
    ] {
        let header = format!("x-ably-version: {header}");
        let answer = ask(node.address, "GET", "/time", &[&header], b"").await;
        assert_eq!(answer.status, status, "{header}");
    }
    let odd = ask(
        node.address,
        "GET",
        "/time",
        &["x-ably-version: \u{fc}"],
        b"",
    )
    .await;
    assert_eq!(odd.code(), 40017);
}

#[tokio::test]
async fn wrong_methods_are_told_what_is_allowed() {
    let node = Node::start().await;
    for (method, target, allowed) in [
        ("POST", "/time", "GET"),
        ("DELETE", "/channels", "GET"),
        ("PUT", "/channels/x", "GET"),
        ("GET", "/keys/dev.root/requestToken", "POST"),
    ] {
        let answer = ask(node.address, method, target, &[], b"").await;
        assert_eq!(
            (answer.status, answer.code()),
            (405, 40500),
            "{method} {target}"
        );
        let allow = answer.header("allow").unwrap();
        assert!(allow.contains(allowed), "{allow}");
    }
}

#[tokio::test]
async fn pages_of_any_origin_may_ask() {
    let node = Node::start().await;
    let origin = "origin: https://example.org";
    let preflight = ask(node.address, "OPTIONS", "/channels/x", &[origin], b"").await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    let methods = preflight.header("access-control-allow-methods").unwrap();
    assert!(methods.contains("GET") && methods.contains("POST"));
    let allowed = preflight.header("access-control-allow-headers").unwrap();
    assert!(allowed.contains("Authorization") && allowed.contains("X-Ably-Version"));

    let refused = ask(node.address, "GET", "/channels/x", &[origin], b"").await;
    assert_eq!(refused.header("access-control-allow-origin"), Some("*"));
    let exposed = refused.header("access-control-expose-headers").unwrap();
    for name in [
        "Link",
        "X-Ably-ErrorCode",
        "X-Ably-ErrorMessage",
        "Headcount-Age-Ms",
    ] {
        assert!(exposed.contains(name), "{name} is not in {exposed}");
    }
    assert_eq!(
        refused.header("www-authenticate"),
        Some("Bearer realm=\"headcount\"")
    );
    assert_eq!(refused.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn requests_are_named() {
    let node = Node::start().await;
    let named = node.get("/channels/x?request_id=abc-1").await;
    assert_eq!(named.header("x-request-id"), Some("abc-1"));
    let first = node.get("/channels/x").await;
    let second = node.get("/nothing?request_id=").await;
    let (first, second) = (first.header("x-request-id"), second.header("x-request-id"));
    assert!(first.is_some() && second.is_some() && first != second);
    let long = format!("/time?request_id={}", "x".repeat(129));
    let answer = node.get(&long).await;
    assert_eq!(answer.header("x-request-id").unwrap().len(), 22);
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let node = Node::start().await;
    let mut connection = Connection::open(node.address).await;
    for _ in 0..3 {
        let answer = connection.ask("GET", "/channels/x", &[&root()], b"").await;
        assert_eq!(answer.status, 200);
    }
}

#[tokio::test]
async fn http2_works_without_tls() {
    let node = Node::start().await;
    node.world.attach("dev", "x", 1);
    let stream = TcpStream::connect(node.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let driving = tokio::spawn(connection);
    let request = http::Request::get(format!("http://{}/channels/x", node.address))
        .header("authorization", root().split_once(": ").unwrap().1)
        .body(axum::body::Body::from(Bytes::new()))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = axum::body::Body::new(response.into_body());
    let body = axum::body::to_bytes(body, 10_000).await.unwrap();
    let details: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(details["status"]["isActive"], true);
    driving.abort();
}
