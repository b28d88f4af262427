//! `POST /keys/{keyName}/revokeTokens`, and what becomes of those who are connected.

use headcount_access::{RevocationTarget, Revocations};
use headcount_api::Config;
use headcount_api::ports::Revoking;
use headcount_model::Timestamp;
use serde_json::{Value, json};

use crate::client::{Answer, Connection, ask};
use crate::node::{NOW_MS, Node, basic, root};
use crate::realtime::Client;

const TARGET: &str = "/keys/dev.root/revokeTokens";
const DISCONNECTED: u64 = 6;
const AUTH: u64 = 17;

async fn post_as(node: &Node, header: &str, target: &str, body: &Value) -> Answer {
    let body = serde_json::to_vec(body).unwrap();
    ask(node.address, "POST", target, &[header], &body).await
}

async fn post(node: &Node, target: &str, body: Value) -> Answer {
    post_as(node, &root(), target, &body).await
}

/// A token for a client, which is as old as the node's clock stands.
async fn token(node: &Node, client_id: &str) -> String {
    let request = json!({ "clientId": client_id });
    let answer = post(node, "/keys/dev.root/requestToken", request).await;
    answer.json()["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn each_target_is_told_what_became_of_it() {
    let node = Node::start().await;
    let body = json!({ "targets": ["clientId:bob", "nobody:x", "channel:room:1"] });
    let answer = post(&node, TARGET, body.clone()).await;
    assert_eq!(answer.status, 201);
    let results = answer.json();
    let revoked =
        |target: &str| json!({ "target": target, "issuedBefore": NOW_MS, "appliesAt": NOW_MS });
    assert_eq!(results[0], revoked("clientId:bob"));
    assert_eq!(results[2], revoked("channel:room:1"));
    assert_eq!(
        (&results[1]["target"], &results[1]["error"]["code"]),
        (&json!("nobody:x"), &json!(40003))
    );
    let wanted = Revoking {
        key_name: "dev.root".to_owned(),
        targets: vec![
            RevocationTarget::ClientId("bob".into()),
            RevocationTarget::Channel("room:1".into()),
        ],
        issued_before: Timestamp(NOW_MS),
        applies_at: Timestamp(NOW_MS),
    };
    assert_eq!(*node.world.revokings.lock().unwrap(), [wanted]);
    let counted = post(
        &node,
        &format!("{TARGET}?newBatchResponse=true"),
        body.clone(),
    )
    .await
    .json();
    assert_eq!(
        (&counted["successCount"], &counted["failureCount"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(counted["results"], results);
    let taken_for_granted = post(&node, &format!("{TARGET}?v=6"), body).await.json();
    assert_eq!(taken_for_granted, counted);
}

#[tokio::test]
async fn clients_can_be_given_time() {
    let node = Node::start().await;
    let body =
        json!({ "targets": ["revocationKey:k"], "issuedBefore": 7, "allowReauthMargin": true });
    let answer = post(&node, TARGET, body).await.json();
    let wanted =
        json!([{ "target": "revocationKey:k", "issuedBefore": 7, "appliesAt": NOW_MS + 30_000 }]);
    assert_eq!(answer, wanted);
}

#[tokio::test]
async fn other_requests_are_refused() {
    let node = Node::start().await;
    let fine = json!({ "targets": ["clientId:bob"] });
    for (body, code) in [
        (json!([]), 40001),
        (json!({}), 40003),
        (json!({ "targets": [] }), 40003),
        (json!({ "targets": vec!["clientId:x"; 101] }), 40003),
        (json!({ "targets": [1] }), 40003),
        (
            json!({ "targets": ["clientId:x"], "issuedBefore": NOW_MS + 1 }),
            40003,
        ),
        (
            json!({ "targets": ["clientId:x"], "allowReauthMargin": 1 }),
            40003,
        ),
    ] {
        assert_eq!(
            post(&node, TARGET, body.clone()).await.code(),
            code,
            "{body}"
        );
    }
    let none = post_as(&node, "x-none: 1", TARGET, &fine).await;
    assert_eq!(none.code(), 40101);
    let other = post_as(&node, &basic("dev.mute:mute-secret"), TARGET, &fine).await;
    assert_eq!(other.code(), 40102);
    let bearer = format!("authorization: Bearer {}", token(&node, "bob").await);
    assert_eq!(post_as(&node, &bearer, TARGET, &fine).await.code(), 40162);
    assert!(node.world.revokings.lock().unwrap().is_empty());
    let many: Vec<_> = (0..11).map(|n| format!("clientId:{n}")).collect();
    let full = post(&node, TARGET, json!({ "targets": many })).await;
    assert_eq!((full.status, full.code()), (429, 42910));
}

#[tokio::test]
async fn whoever_is_given_time_is_asked_for_another_token_once() {
    let node = Node::with(Config::default()).await;
    let (bob, ann) = (token(&node, "bob").await, token(&node, "ann").await);
    let (mut bobs, _) = Client::connect(&node, &format!("access_token={bob}")).await;
    let (mut anns, _) = Client::connect(&node, &format!("access_token={ann}")).await;
    let bob_is_to_go = |announced: &mut Revocations| {
        let target = RevocationTarget::ClientId("bob".into());
        announced.revoke("dev.root", target, NOW_MS + 1).unwrap();
    };
    bob_is_to_go(&mut node.world.announced.lock().unwrap());
    let eve = json!({ "targets": ["clientId:eve"], "allowReauthMargin": true });
    post(&node, TARGET, eve.clone()).await;
    bobs.expect(AUTH).await;
    // Neither are others asked, nor is anybody asked again.
    post(&node, TARGET, eve).await;
    for client in [&mut bobs, &mut anns] {
        client.attach("room", json!({})).await;
    }
    // Who comes with such a token meanwhile is asked as well.
    let (mut late, _) = Client::connect(&node, &format!("access_token={bob}")).await;
    late.expect(AUTH).await;
}

#[tokio::test]
async fn whoever_is_connected_is_cut_off_at_once() {
    let node = Node::with(Config::default()).await;
    let (bob, ann) = (token(&node, "bob").await, token(&node, "ann").await);
    let (mut bobs, _) = Client::connect(&node, &format!("access_token={bob}")).await;
    let (mut anns, _) = Client::connect(&node, &format!("access_token={ann}")).await;
    let mut stream = Connection::open(node.address).await;
    stream
        .send(format!(
            "GET /events?access_token={bob} HTTP/1.1\r\nhost: x\r\n\r\n"
        ))
        .await;
    assert_eq!(stream.read_head().await.unwrap().status, 200);
    // The node's clock stands, so the tokens are as old as it is.
    node.world
        .revocations
        .lock()
        .unwrap()
        .revoke(
            "dev.root",
            RevocationTarget::ClientId("bob".into()),
            NOW_MS + 1,
        )
        .unwrap();
    post(&node, TARGET, json!({ "targets": ["clientId:eve"] })).await;
    let told = bobs.expect(DISCONNECTED).await;
    assert_eq!(told["error"]["code"], 40141);
    let mut ended = stream.block().await.unwrap();
    while !ended.contains("event: end") {
        ended = stream.block().await.unwrap();
    }
    assert!(ended.contains("revoked"), "{ended}");
    anns.attach("room", json!({})).await;
}
