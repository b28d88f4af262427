//! Credentials, and `POST /keys/{keyName}/requestToken`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use headcount_access::{RevocationTarget, Secret, TokenRequest};
use headcount_api::Config;
use serde_json::{Value, json};

use crate::client::{Answer, ask};
use crate::node::{NOW_MS, Node, basic, root};

const KEY: &str = "dev.root";
const TARGET: &str = "/keys/dev.root/requestToken";
const MSGPACK: &str = "application/x-msgpack";

/// A request as ably-python makes it, explicit nulls included, signed with a secret.
fn signed(secret: &str, nonce: &str) -> Value {
    let mut request = json!({
        "keyName": KEY, "ttl": null, "capability": null, "clientId": null,
        "timestamp": NOW_MS, "nonce": nonce,
    });
    let mac = TokenRequest::from_value(&request)
        .unwrap()
        .mac(&Secret::new(secret))
        .unwrap();
    request["mac"] = json!(mac);
    request
}

async fn post(node: &Node, target: &str, headers: &[&str], body: &Value) -> Answer {
    ask(
        node.address,
        "POST",
        target,
        headers,
        &serde_json::to_vec(body).unwrap(),
    )
    .await
}

async fn token(node: &Node) -> String {
    let answer = post(node, TARGET, &[&root()], &json!({"timestamp": NOW_MS})).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_signed_request_yields_a_token_in_both_formats() {
    let node = Node::start().await;
    let request = signed("root-secret", "0123456789abcdef");
    let answer = post(&node, TARGET, &["content-type: application/json"], &request).await;
    assert_eq!(answer.status, 201);
    let details = answer.json();
    assert_eq!(details["keyName"], KEY);
    assert_eq!(details["issued"], NOW_MS);
    assert_eq!(details["expires"], NOW_MS + 3_600_000);
    assert_eq!(details["capability"], r#"{"[*]*":["*"]}"#);
    assert_eq!(details.get("clientId"), None);

    let replayed = post(&node, TARGET, &[], &request).await;
    assert_eq!((replayed.status, replayed.code()), (401, 40105));

    let request = signed("root-secret", "fedcba9876543210");
    let body = rmp_serde::to_vec_named(&request).unwrap();
    let headers = [
        format!("content-type: {MSGPACK}"),
        format!("accept: {MSGPACK}"),
    ];
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    let answer = ask(node.address, "POST", TARGET, &headers, &body).await;
    assert_eq!(answer.status, 201);
    let token = answer.msgpack()["token"].as_str().unwrap().to_owned();
    let used = node
        .get_as(&format!("authorization: Bearer {token}"), "/channels/x")
        .await;
    assert_eq!(used.status, 200);
}

#[tokio::test]
async fn every_way_of_sending_a_credential_works() {
    let node = Node::start().await;
    let token = token(&node).await;
    let coded = STANDARD.encode(&token);
    for header in [
        root(),
        format!("Authorization: bearer {token}"),
        format!("authorization: Bearer {coded}"),
    ] {
        assert_eq!(
            node.get_as(&header, "/channels/x").await.status,
            200,
            "{header}"
        );
    }
    for query in [
        "key=dev.root:root-secret".to_owned(),
        "key=dev.root%3Aroot-secret".to_owned(),
        format!("access_token={token}"),
        format!("accessToken={token}"),
        format!(
            "accessToken={}",
            coded.replace('=', "%3D").replace('+', "%2B")
        ),
    ] {
        let answer = node
            .get_as("x-none: 1", &format!("/channels/x?{query}"))
            .await;
        assert_eq!(answer.status, 200, "{query}");
    }
}

#[tokio::test]
async fn bad_credentials_have_their_codes() {
    let node = Node::start().await;
    for (header, code) in [
        ("x-none: 1", 40101),
        ("authorization: Digest x", 40100),
        ("authorization: Basic", 40100),
        ("authorization: Basic !!!", 40005),
        ("authorization: Bearer !!!", 40005),
        ("authorization: Bearer a.b", 40145),
        ("authorization: Bearer \u{fc}", 40005),
    ] {
        let answer = node.get_as(header, "/channels/x").await;
        assert_eq!(answer.code(), code, "{header}");
    }
    assert_eq!(
        node.get_as(&basic("dev.root:wrong"), "/channels/x")
            .await
            .code(),
        40101
    );
    assert_eq!(
        node.get_as(&basic("dev.gone:x"), "/channels/x")
            .await
            .code(),
        40101
    );
    let answer = node.get_as("x-none: 1", "/channels/x?key=nonsense").await;
    assert_eq!(answer.code(), 40005);
    let answer = node
        .get_as(
            &basic("dev.root:wrong"),
            "/channels/x?key=dev.root:root-secret",
        )
        .await;
    assert_eq!(answer.code(), 40101, "the header counts");
}

#[tokio::test]
async fn keys_can_be_kept_off_plain_http() {
    let node = Node::with(Config {
        basic_over_plain_http: false,
        ..Config::default()
    })
    .await;
    assert_eq!(node.get("/channels/x").await.code(), 40103);
    let by_query = node
        .get_as("x-none: 1", "/channels/x?key=dev.root:root-secret")
        .await;
    assert_eq!(by_query.code(), 40103);
    let answer = post(
        &node,
        TARGET,
        &[],
        &signed("root-secret", "0123456789abcdef"),
    )
    .await;
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let used = node
        .get_as(&format!("authorization: Bearer {token}"), "/channels/x")
        .await;
    assert_eq!(used.status, 200);
    assert_eq!(
        post(&node, TARGET, &[&root()], &json!({})).await.code(),
        40103
    );
}

#[tokio::test]
async fn revoked_tokens_are_refused() {
    let node = Node::start().await;
    let request = json!({"clientId": "bob"});
    let answer = post(&node, TARGET, &[&root()], &request).await;
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let header = format!("authorization: Bearer {token}");
    assert_eq!(node.get_as(&header, "/channels/x").await.status, 200);
    let target = RevocationTarget::ClientId("bob".into());
    node.world
        .revocations
        .lock()
        .unwrap()
        .revoke(KEY, target, NOW_MS + 1)
        .unwrap();
    assert_eq!(node.get_as(&header, "/channels/x").await.code(), 40141);
}

#[tokio::test]
async fn bad_token_requests_are_refused() {
    let node = Node::start().await;
    let auth = root();
    for (target, body, code) in [
        (TARGET, json!([1]), 40001),
        (TARGET, json!(null), 40001),
        (TARGET, json!({"ttl": "long"}), 40003),
        (TARGET, json!({"ttl": 90_000_000}), 40003),
        (TARGET, json!({"capability": "{"}), 40000),
        (TARGET, json!({"capability": "{\"*\":[]}"}), 40000),
        (TARGET, json!({"keyName": "dev.other"}), 40102),
        ("/keys/dev.nometa/requestToken", json!({}), 40102),
        ("/keys/%ff/requestToken", json!({}), 40400),
    ] {
        let answer = post(&node, target, &[&auth], &body).await;
        assert_eq!(answer.code(), code, "{target} {body}");
    }
    let forged = signed("wrong-secret", "0123456789abcdef");
    assert_eq!(post(&node, TARGET, &[], &forged).await.code(), 40101);
    let mut stale = signed("root-secret", "0123456789abcdef");
    stale["timestamp"] = json!(1);
    let unsigned = stale.as_object_mut().unwrap();
    unsigned.remove("mac");
    let mac = TokenRequest::from_value(&stale)
        .unwrap()
        .mac(&Secret::new("root-secret"))
        .unwrap();
    stale["mac"] = json!(mac);
    assert_eq!(post(&node, TARGET, &[], &stale).await.code(), 40104);
    assert_eq!(post(&node, TARGET, &[], &json!({})).await.code(), 40101);
    let token = format!("authorization: Bearer {}", token(&node).await);
    assert_eq!(
        post(&node, TARGET, &[&token], &json!({})).await.code(),
        40162
    );
}

#[tokio::test]
async fn bodies_that_are_no_requests_are_refused() {
    let node = Node::start().await;
    let deep = "[".repeat(60_000);
    let msgpack = format!("content-type: {MSGPACK}");
    let bodies: [(&str, &[u8]); 7] = [
        ("content-type: application/json", b"{"),
        ("content-type: application/json", b"\xff\xfe"),
        ("content-type: text/plain", b"hello"),
        ("content-type: application/json", deep.as_bytes()),
        (&msgpack, b"\xc1"),
        (&msgpack, &[0x91; 60_000]),
        (&msgpack, &[0xdd, 0xff, 0xff, 0xff, 0xff, 0x01]),
    ];
    for (header, body) in bodies {
        let answer = ask(node.address, "POST", TARGET, &[header, &root()], body).await;
        assert_eq!((answer.status, answer.code()), (400, 40001), "{header}");
    }
    let answer = ask(node.address, "POST", TARGET, &[&root()], b"").await;
    assert_eq!(answer.code(), 40001);
}
