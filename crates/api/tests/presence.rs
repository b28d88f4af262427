//! Who is present on a channel, and who was.

use serde_json::{Value, json};

use crate::client::Answer;
use crate::messages::link;
use crate::node::{Node, basic};
use crate::realtime::Client;

const ENTER: u64 = 2;
const LEAVE: u64 = 3;

fn client_ids(answer: &Answer) -> Vec<String> {
    let items = answer.json();
    let items = items.as_array().unwrap().iter();
    items
        .map(|item| item["clientId"].as_str().unwrap().to_owned())
        .collect()
}

async fn room(members: &[&str]) -> (Node, Client) {
    let node = Node::start().await;
    let mut client = Client::root(&node).await;
    client.attach("room", json!({})).await;
    for member in members {
        client.presence("room", ENTER, member).await;
    }
    (node, client)
}

#[tokio::test]
async fn members_are_present() {
    let (node, _client) = room(&["ann"]).await;
    let answer = node.get("/channels/room/presence").await;
    assert_eq!(answer.status, 200);
    let item = &answer.json()[0];
    assert_eq!(
        (&item["action"], &item["clientId"]),
        (&json!(1), &json!("ann"))
    );
    assert_eq!(item["data"], "hi");
    assert!(
        item["connectionId"].is_string() && item["timestamp"].is_u64() && item["id"].is_string()
    );
    assert_eq!(node.get("/channels/other/presence").await.json(), json!([]));
    assert_eq!(
        node.get("/channels/[meta]log/presence").await.json(),
        json!([])
    );
}

#[tokio::test]
async fn members_come_in_pages() {
    let (node, _client) = room(&["c", "a", "b"]).await;
    let mut query = "limit=2".to_owned();
    let mut all = Vec::new();
    loop {
        let page = node.get(&format!("/channels/room/presence?{query}")).await;
        all.extend(client_ids(&page));
        match link(&page, "presence", "next") {
            Some(next) => query = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(all, ["a", "b", "c"]);
}

#[tokio::test]
async fn members_can_be_chosen() {
    let (node, _client) = room(&["a", "b"]).await;
    let mut other = Client::root(&node).await;
    other.attach("room", json!({})).await;
    other.presence("room", ENTER, "a").await;
    let all = node.get("/channels/room/presence").await;
    let both = node.get("/channels/room/presence?clientId=a").await;
    assert_eq!(
        (client_ids(&all).len(), client_ids(&both)),
        (3, vec!["a".into(), "a".into()])
    );
    let items: Value = both.json();
    let connection = items[0]["connectionId"].as_str().unwrap();
    let one = node
        .get(&format!(
            "/channels/room/presence?connectionId={connection}&clientId=a"
        ))
        .await;
    assert_eq!(one.json(), json!([items[0]]));
    let paged = node.get("/channels/room/presence?clientId=a&limit=1").await;
    let next = link(&paged, "presence", "next").unwrap();
    let rest = node.get(&format!("/channels/room/presence?{next}")).await;
    assert_eq!(rest.json(), json!([items[1]]));
}

#[tokio::test]
async fn what_happened_to_members_is_remembered() {
    let (node, mut client) = room(&["a"]).await;
    client.presence("room", LEAVE, "a").await;
    assert_eq!(node.get("/channels/room/presence").await.json(), json!([]));
    let history = node.get("/channels/room/presence/history?limit=1").await;
    assert_eq!(history.json()[0]["action"], LEAVE);
    let next = link(&history, "history", "next").unwrap();
    let rest = node
        .get(&format!("/channels/room/presence/history?{next}"))
        .await;
    assert_eq!(rest.json()[0]["action"], ENTER);
    assert_eq!(link(&rest, "history", "next"), None);
    // The same cursor means nothing to the history of messages.
    let other = node.get(&format!("/channels/room/history?{next}")).await;
    assert_eq!(other.code(), 40011);
}

#[tokio::test]
async fn the_capability_decides() {
    let (node, _client) = room(&[]).await;
    let mute = basic("dev.mute:mute-secret");
    for target in ["/channels/room/presence", "/channels/room/presence/history"] {
        assert_eq!(node.get_as(&mute, target).await.code(), 40160, "{target}");
    }
    assert_eq!(
        node.get("/channels/room/presence?limit=0").await.code(),
        40003
    );
    assert_eq!(
        node.get("/channels/room/presence?cursor=x").await.code(),
        40011
    );
}
