//! `GET /channels`.

use serde_json::{Value, json};

use crate::client::{Answer, ask};
use crate::node::{Node, basic, root};

/// The query of a link, taken out as ably-js does: the header is split at commas, and the target
/// must be `./word?query`.
fn link(answer: &Answer, relation: &str) -> Option<String> {
    let links = answer.headers("link");
    let wanted = format!("; rel=\"{relation}\"");
    let link = links.into_iter().find(|link| link.ends_with(&wanted))?;
    assert!(!link.contains(','), "{link}");
    let target = link
        .strip_suffix(&wanted)?
        .strip_prefix('<')?
        .strip_suffix('>')?;
    Some(target.strip_prefix("./channels?").unwrap().to_owned())
}

/// Follows `next` to the end and returns the items and how many pages they took.
async fn walk(node: &Node, query: &str) -> (Vec<Value>, usize) {
    let mut items = Vec::new();
    let mut query = query.to_owned();
    for pages in 1..100 {
        let answer = node.get(&format!("/channels?{query}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(link(&answer, "first").is_some() && link(&answer, "current").is_some());
        items.extend(answer.json().as_array().unwrap().iter().cloned());
        match link(&answer, "next") {
            Some(next) => query = next,
            None => return (items, pages),
        }
    }
    panic!("the walk does not end");
}

async fn node_with(names: &[&str]) -> Node {
    let node = Node::start().await;
    for name in names {
        node.world.attach("dev", name, 1);
    }
    node.world.attach("other", "hidden", 1);
    node
}

#[tokio::test]
async fn a_walk_is_sorted_and_whole() {
    let names = ["a b", "a,b", "a/ü", "room:1", "room:10", "room:2", "z"];
    let node = node_with(&names).await;
    for limit in [1, 2, 3, 7, 100] {
        let (items, pages) = walk(&node, &format!("by=id&limit={limit}")).await;
        assert_eq!(items, names, "limit {limit}");
        assert_eq!(pages, names.len().div_ceil(limit));
    }
}

#[tokio::test]
async fn a_walk_keeps_its_prefix() {
    let node = node_with(&["a b:1", "a b:2", "a c", "x"]).await;
    let (items, pages) = walk(&node, "by=id&limit=1&prefix=a%20b").await;
    assert_eq!((items, pages), (vec![json!("a b:1"), json!("a b:2")], 2));
    let (items, _) = walk(&node, "by=id&prefix=a+b").await;
    assert_eq!(items.len(), 2);
    let (items, _) = walk(&node, "by=id&prefix=nothing").await;
    assert!(items.is_empty());
}

#[tokio::test]
async fn short_pages_still_lead_on() {
    let node = node_with(&["a", "b", "c"]).await;
    *node.world.page_max.lock().unwrap() = 1;
    let (items, pages) = walk(&node, "by=id&limit=1000").await;
    assert_eq!((items.len(), pages), (3, 3));
}

#[tokio::test]
async fn the_first_and_current_links_lead_back() {
    let node = node_with(&["a", "b", "c"]).await;
    let first = node.get("/channels?by=id&limit=1").await;
    let second = node
        .get(&format!("/channels?{}", link(&first, "next").unwrap()))
        .await;
    assert_eq!(second.json(), json!(["b"]));
    let current = node
        .get(&format!("/channels?{}", link(&second, "current").unwrap()))
        .await;
    assert_eq!(current.json(), json!(["b"]));
    let again = node
        .get(&format!("/channels?{}", link(&second, "first").unwrap()))
        .await;
    assert_eq!(again.json(), json!(["a"]));
}

#[tokio::test]
async fn channels_that_go_do_not_disturb_a_walk() {
    let node = node_with(&["a", "b", "c"]).await;
    let first = node.get("/channels?by=id&limit=2").await;
    let next = link(&first, "next").unwrap();
    let elsewhere = node_with(&["a", "c", "d"]).await;
    let second = elsewhere.get(&format!("/channels?{next}")).await;
    assert_eq!(second.json(), json!(["c", "d"]));
}

#[tokio::test]
async fn the_version_decides_what_is_listed() {
    let node = node_with(&["x"]).await;
    let list = async |target: &str, version: &str| {
        let version = format!("x-ably-version: {version}");
        let answer = ask(node.address, "GET", target, &[&root(), &version], b"").await;
        answer.json()[0].clone()
    };
    assert_eq!(list("/channels", "6").await, json!("x"));
    assert_eq!(list("/channels?by=value", "6").await["channelId"], "x");
    let value = list("/channels", "2").await;
    assert_eq!(value["status"]["occupancy"]["metrics"]["connections"], 1);
    assert_eq!(value["region"], "ap-southeast-1");
    assert_eq!(list("/channels?by=id", "2").await, json!("x"));
    assert_eq!(
        list("/channels?v=3", "2").await["name"],
        "x",
        "the header wins"
    );
}

#[tokio::test]
async fn lists_come_as_msgpack() {
    let node = node_with(&["x", "y"]).await;
    let accept = "accept: application/x-msgpack";
    let answer = ask(
        node.address,
        "GET",
        "/channels?by=value&limit=1",
        &[&root(), accept],
        b"",
    )
    .await;
    assert_eq!(answer.msgpack()[0]["status"]["isActive"], true);
    assert!(link(&answer, "next").is_some());
}

#[tokio::test]
async fn bad_parameters_are_refused() {
    let node = node_with(&["x"]).await;
    for (query, code) in [
        ("limit=0", 40003),
        ("limit=1001", 40003),
        ("limit=many", 40003),
        ("by=size", 40003),
        ("consistency=strong", 40003),
        ("cursor=AAAA", 40011),
        ("cursor=%00", 40011),
        ("prefix=%ff", 40000),
    ] {
        let answer = node.get(&format!("/channels?{query}")).await;
        assert_eq!((answer.status, answer.code()), (400, code), "{query}");
    }
}

#[tokio::test]
async fn a_cursor_belongs_to_its_prefix() {
    let node = node_with(&["a1", "a2", "b"]).await;
    let first = node.get("/channels?by=id&limit=1&prefix=a").await;
    let next = link(&first, "next")
        .unwrap()
        .replace("prefix=a", "prefix=b");
    let answer = node.get(&format!("/channels?{next}")).await;
    assert_eq!((answer.status, answer.code()), (400, 40011));
}

#[tokio::test]
async fn metachannels_are_listed_only_when_asked_for() {
    let node = node_with(&["x"]).await;
    let answer = node.get("/channels?prefix=%5Bmeta%5D").await;
    assert_eq!((answer.status, answer.json()), (200, json!([])));
    let denied = node
        .get_as(
            &basic("dev.nometa:nometa-secret"),
            "/channels?prefix=[meta]",
        )
        .await;
    assert_eq!(denied.code(), 40160);
}

#[tokio::test]
async fn the_capability_must_cover_the_prefix() {
    let node = node_with(&["room:1", "lobby"]).await;
    let rooms = basic("dev.rooms:rooms-secret");
    assert_eq!(node.get_as(&rooms, "/channels").await.code(), 40160);
    assert_eq!(
        node.get_as(&rooms, "/channels?prefix=ro").await.code(),
        40160
    );
    let answer = node.get_as(&rooms, "/channels?by=id&prefix=room:").await;
    assert_eq!(answer.json(), json!(["room:1"]));
    let nometa = basic("dev.nometa:nometa-secret");
    assert_eq!(node.get_as(&nometa, "/channels").await.status, 200);
}
