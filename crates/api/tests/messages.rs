//! Publishing, and what a channel's past is told to be.

use std::time::Duration;

use headcount_api::{Config, RealtimeConfig};
use headcount_model::EventKind;
use serde_json::{Value, json};

use crate::client::{Answer, ask};
use crate::node::{NOW_MS, Node, basic, root};
use crate::realtime::Client;

const MSGPACK: &str = "application/x-msgpack";

pub(crate) async fn post_as(node: &Node, headers: &[&str], channel: &str, body: &Value) -> Answer {
    let target = format!("/channels/{channel}/messages");
    let body = serde_json::to_vec(body).unwrap();
    ask(node.address, "POST", &target, headers, &body).await
}

pub(crate) async fn post(node: &Node, channel: &str, body: Value) -> Answer {
    post_as(node, &[&root()], channel, &body).await
}

/// The query of a link to `messages` or `history`.
pub(crate) fn link<'a>(answer: &'a Answer, word: &str, relation: &str) -> Option<&'a str> {
    let wanted = format!("; rel=\"{relation}\"");
    let mut links = answer.headers("link").into_iter();
    let link = links.find_map(|link| link.strip_suffix(wanted.as_str()))?;
    assert!(!link.contains(','), "{link}");
    let target = link.strip_prefix("<./")?.strip_suffix('>')?;
    target.strip_prefix(word)?.strip_prefix('?')
}

fn names(answer: &Answer) -> Vec<String> {
    let items = answer.json();
    let names = items.as_array().unwrap().iter();
    names
        .map(|item| item["name"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn what_is_published_is_remembered() {
    let node = Node::start().await;
    let answer = post(&node, "room", json!({ "name": "a", "data": { "k": 1 } })).await;
    assert_eq!(answer.status, 201);
    let published = answer.json();
    assert_eq!(published["channel"], "room");
    assert_eq!(published["serials"].as_array().unwrap().len(), 1);
    let more = json!([{ "name": "b", "clientId": "bob" }, { "name": "c", "id": "own" }]);
    let answer = post(&node, "room", more).await;
    assert_eq!(answer.json()["serials"].as_array().unwrap().len(), 2);
    assert_eq!(
        node.world.books.lock().unwrap().activity,
        1,
        "renewed once in a while"
    );

    let history = node.get("/channels/room/messages").await;
    assert_eq!(
        (history.status, names(&history)),
        (200, vec!["c".into(), "b".into(), "a".into()])
    );
    let items = history.json();
    let first = &items[2];
    assert_eq!(first["data"], r#"{"k":1}"#);
    assert_eq!(
        (&first["encoding"], &first["action"]),
        (&json!("json"), &json!(0))
    );
    assert_eq!(first["timestamp"], NOW_MS);
    let id = format!("{}:0", published["messageId"].as_str().unwrap());
    assert_eq!(
        (&first["id"], &first["serial"]),
        (&json!(id), &published["serials"][0])
    );
    assert_eq!(first.get("connectionId"), None);
    assert_eq!(
        (&items[1]["clientId"], &items[0]["id"]),
        (&json!("bob"), &json!("own"))
    );
    assert_eq!(node.get("/channels/other/messages").await.json(), json!([]));
}

#[tokio::test]
async fn what_is_published_again_under_its_id_is_told_once() {
    let node = Node::start().await;
    let mut client = Client::root(&node).await;
    client.attach("room", json!({})).await;
    let serials = |answer: &Answer| answer.json()["serials"].clone();
    let first = post(&node, "room", json!({ "name": "a", "id": "x:0" })).await;
    assert_eq!(client.told("room").await, ["a"]);
    let again = post(&node, "room", json!({ "name": "a", "id": "x:0" })).await;
    assert_eq!(again.status, 201);
    assert_eq!(again.json()["messageId"], "x:0");
    assert_eq!(serials(&again), serials(&first), "it has its serial");
    // Of several only those are left out that were there before, be it in the same request.
    let several = json!([
        { "name": "a", "id": "x:0" },
        { "name": "b", "id": "x:1" },
        { "name": "b", "id": "x:1" },
        { "name": "c" },
    ]);
    let answer = serials(&post(&node, "room", several).await);
    assert_eq!(answer[0], serials(&first)[0]);
    assert_eq!(answer[1], answer[2]);
    assert_ne!(answer[1], answer[3]);
    assert_eq!(client.told("room").await, ["b", "c"]);
    // In whichever way it comes.
    let by_client = client.publish_as("room", "a", "x:0").await;
    assert_eq!(by_client["res"][0]["serials"], serials(&first));
    // Ids are a channel's own, and what has none is never the same.
    let elsewhere = post(&node, "other", json!({ "name": "a", "id": "x:0" })).await;
    assert_ne!(serials(&elsewhere), serials(&first));
    post(&node, "room", json!({ "name": "c" })).await;
    assert_eq!(client.told("room").await, ["c"]);
    let history = node.get("/channels/room/messages").await;
    assert_eq!(names(&history), ["c", "c", "b", "a"]);
}

#[tokio::test]
async fn an_id_is_remembered_as_long_as_its_message() {
    let node = Node::realtime(RealtimeConfig {
        memory: Duration::from_secs(3_600),
        memory_messages_max: 2,
        ..RealtimeConfig::default()
    })
    .await;
    let serial = async |id: &str| {
        let answer = post(&node, "room", json!({ "name": id, "id": id })).await;
        answer.json()["serials"][0].clone()
    };
    let (first, second) = (serial("1").await, serial("2").await);
    assert_eq!(serial("1").await, first);
    // A third makes the channel forget the first.
    serial("3").await;
    assert_eq!(serial("2").await, second);
    assert_ne!(serial("1").await, first);
}

#[tokio::test]
async fn both_formats_are_taken_and_given() {
    let node = Node::start().await;
    let body = json!([{ "name": "a", "data": "x" }]);
    let body = rmp_serde::to_vec_named(&body).unwrap();
    let (kind, accept) = (
        format!("content-type: {MSGPACK}"),
        format!("accept: {MSGPACK}"),
    );
    let root = root();
    let headers = [&*root, &*kind, &*accept];
    let target = "/channels/%5Bmeta%5Dx/messages";
    let denied = ask(node.address, "POST", target, &headers, &body).await;
    assert_eq!((denied.status, denied.code()), (401, 40160));
    let target = "/channels/a%2Fb/messages";
    let answer = ask(node.address, "POST", target, &headers, &body).await;
    assert_eq!(
        (answer.status, &answer.msgpack()["channel"]),
        (201, &json!("a/b"))
    );
    let history = ask(node.address, "GET", "/channels/a/b/history", &headers, b"").await;
    assert_eq!(history.msgpack()[0]["data"], "x");
}

#[tokio::test]
async fn a_walk_sees_every_message_once_in_both_directions() {
    let node = Node::start().await;
    for n in 0..5 {
        post(&node, "room", json!({ "name": n.to_string() })).await;
    }
    for word in ["messages", "history"] {
        for direction in ["backwards", "forwards"] {
            let mut query = format!("limit=2&direction={direction}&format=json");
            let mut all = Vec::new();
            loop {
                let page = node.get(&format!("/channels/room/{word}?{query}")).await;
                assert!(
                    link(&page, word, "first").is_some() && link(&page, word, "current").is_some()
                );
                all.extend(names(&page));
                match link(&page, word, "next") {
                    Some(next) => query = next.to_owned(),
                    None => break,
                }
            }
            let mut wanted = ["0", "1", "2", "3", "4"];
            if direction == "backwards" {
                wanted.reverse();
            }
            assert_eq!(all, wanted);
        }
    }
    let none = node
        .get(&format!("/channels/room/messages?end={}", NOW_MS - 1))
        .await;
    assert_eq!(none.json(), json!([]));
}

#[tokio::test]
async fn a_history_may_end_where_a_client_attached() {
    let node = Node::start().await;
    let before = post(&node, "room", json!({ "name": "before" }))
        .await
        .json();
    post(&node, "room", json!({ "name": "after" })).await;
    let serial = before["serials"][0].as_str().unwrap();
    let (serial, _) = serial.split_once(':').unwrap();
    let history = node
        .get(&format!("/channels/room/messages?from_serial={serial}"))
        .await;
    assert_eq!(names(&history), ["before"]);
    let unknown = node.get("/channels/room/messages?from_serial=x").await;
    assert_eq!(unknown.code(), 40003);
}

#[tokio::test]
async fn the_lifecycle_is_read_from_the_journals() {
    let node = Node::start().await;
    let world = &node.world;
    world.happened(EventKind::Opened, "a", 30);
    world.happened(EventKind::Occupancy, "a", 20);
    world.happened(EventKind::Closed, "a", 10);
    let target = "/channels/%5Bmeta%5Dchannel.lifecycle/messages";
    let first = node.get(&format!("{target}?limit=2")).await;
    assert_eq!(names(&first), ["channel.closed", "channel.occupancy"]);
    let item = &first.json()[0];
    assert_eq!(
        (&item["encoding"], &item["timestamp"]),
        (&json!("json"), &json!(NOW_MS - 10))
    );
    let data: Value = serde_json::from_str(item["data"].as_str().unwrap()).unwrap();
    assert_eq!(data["channelId"], "a");
    let next = link(&first, "messages", "next").unwrap();
    let last = node.get(&format!("{target}?{next}")).await;
    assert_eq!(names(&last), ["channel.opened"]);
    assert_eq!(link(&last, "messages", "next"), None);
    let forwards = node
        .get(&format!(
            "{target}?direction=forwards&start={}",
            NOW_MS - 20
        ))
        .await;
    assert_eq!(names(&forwards), ["channel.occupancy", "channel.closed"]);
    let other = basic("other.root:root-secret");
    assert_eq!(node.get_as(&other, target).await.json(), json!([]));
}

#[tokio::test]
async fn other_metachannels_are_remembered_here() {
    let node = Node::start().await;
    let _client = crate::realtime::Client::root(&node).await;
    let target = "/channels/[meta]connection.lifecycle/messages";
    let history = node.get(target).await;
    assert_eq!(names(&history), ["connection.opened"]);
    assert_eq!(
        node.get("/channels/[meta]log/history").await.json(),
        json!([])
    );
    let unknown = node.get("/channels/[meta]stats:minute/messages").await;
    assert_eq!((unknown.status, unknown.code()), (404, 40400));
}

#[tokio::test]
async fn bad_requests_have_their_codes() {
    let node = Node::start().await;
    for (target, code) in [
        ("/channels/room/messages?limit=0", 40003),
        ("/channels/room/messages?start=yesterday", 40003),
        ("/channels/room/messages?start=2&end=1", 40003),
        ("/channels/room/messages?direction=sideways", 40003),
        ("/channels/room/messages?cursor=AAAA", 40011),
        (
            "/channels/[meta]channel.lifecycle/messages?cursor=AAAA",
            40011,
        ),
        ("/channels/:room/messages", 40010),
    ] {
        assert_eq!(node.get(target).await.code(), code, "{target}");
    }
    for (body, code) in [
        (json!([]), 40000),
        (json!({ "data": 1 }), 40013),
        (json!({ "name": 1 }), 40000),
        (json!({ "name": "x".repeat(1025) }), 40003),
        (json!({ "data": "x".repeat(262_145) }), 40009),
        (json!({ "data": "x".repeat(600_000) }), 40009),
        (json!({ "clientId": "*" }), 40012),
    ] {
        assert_eq!(post(&node, "room", body).await.code(), code);
    }
    let large = post(&node, "room", json!({ "data": "x".repeat(262_144) })).await;
    assert_eq!(large.status, 201);
    let wrong = ask(node.address, "POST", "/channels/room", &[&root()], b"{}").await;
    assert_eq!((wrong.status, wrong.code()), (405, 40500));
    let wrong = ask(
        node.address,
        "POST",
        "/channels/room/presence",
        &[&root()],
        b"{}",
    )
    .await;
    assert_eq!(wrong.code(), 40500);
}

#[tokio::test]
async fn the_capability_decides() {
    let node = Node::start().await;
    let mute = basic("dev.mute:mute-secret");
    let answer = post_as(&node, &[&mute], "room", &json!({ "name": "a" })).await;
    assert_eq!(answer.status, 201);
    let denied = node.get_as(&mute, "/channels/room/messages").await;
    assert_eq!((denied.status, denied.code()), (401, 40160));
    let meta = basic("dev.meta:meta-secret");
    let history = node
        .get_as(&meta, "/channels/[meta]channel.lifecycle/messages")
        .await;
    assert_eq!(history.status, 200);
    let denied = post_as(&node, &[&meta], "room", &json!({ "name": "a" })).await;
    assert_eq!(denied.code(), 40160);
}

#[tokio::test]
async fn a_publisher_is_who_its_credential_says() {
    let node = Node::start().await;
    let request = json!({ "clientId": "bob" });
    let body = serde_json::to_vec(&request).unwrap();
    let target = "/keys/dev.root/requestToken";
    let answer = ask(node.address, "POST", target, &[&root()], &body).await;
    let token = answer.json()["token"].as_str().unwrap().to_owned();
    let bearer = format!("authorization: Bearer {token}");
    post_as(&node, &[&bearer], "room", &json!({ "name": "a" })).await;
    let forged = json!({ "name": "a", "clientId": "eve" });
    let answer = post_as(&node, &[&bearer], "room", &forged).await;
    assert_eq!(answer.code(), 40012);
    // A key's caller says who he is in a header, in base64.
    let named = "x-ably-clientid: YW5u";
    post_as(&node, &[&root(), named], "room", &json!({ "name": "a" })).await;
    let answer = post_as(&node, &[&bearer, named], "room", &json!({ "name": "a" })).await;
    assert_eq!(answer.code(), 40102);
    let answer = post_as(&node, &[&root(), "x-ably-clientid: ?"], "room", &json!({})).await;
    assert_eq!(answer.code(), 40012);
    let history = node
        .get("/channels/room/messages?direction=forwards")
        .await
        .json();
    let ids: Vec<_> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["clientId"])
        .collect();
    assert_eq!(ids, ["bob", "ann"]);
}

#[tokio::test]
async fn histories_that_cannot_be_read_say_why() {
    let node = Node::with(Config::default()).await;
    let target = "/channels/[meta]channel.lifecycle/messages";
    let full = headcount_api::ports::ReadError::Overloaded { max: 1 };
    *node.world.mood.lock().unwrap() = crate::node::Mood::Failing(full);
    let answer = node.get(target).await;
    assert_eq!((answer.status, answer.code()), (429, 42910));
}
