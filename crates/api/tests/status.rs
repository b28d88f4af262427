//! `GET /channels/{id}`.

use std::time::Duration;

use headcount_api::Config;
use headcount_api::ports::{ReadError, ReadLevel};
use headcount_model::RegionName;
use serde_json::{Value, json};

use crate::client::ask;
use crate::node::{Mood, Node, basic, root};

fn metrics(details: &Value) -> Vec<u64> {
    let metrics = details["status"]["occupancy"]["metrics"]
        .as_object()
        .unwrap();
    metrics
        .values()
        .map(|count| count.as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn a_status_has_the_contracts_shape_in_both_formats() {
    let node = Node::start().await;
    node.world.attach("dev", "room:42", 2);
    let expected = json!({
        "channelId": "room:42",
        "name": "room:42",
        "region": "ap-southeast-1",
        "isGlobalMaster": true,
        "status": {"isActive": true, "occupancy": {"metrics": {
            "connections": 2, "publishers": 2, "subscribers": 2,
            "presenceConnections": 2, "presenceMembers": 0, "presenceSubscribers": 2,
            "objectPublishers": 0, "objectSubscribers": 0,
        }}},
    });
    let answer = node
        .get("/channels/room:42?envelope=json&occupancy=metrics")
        .await;
    assert_eq!((answer.status, answer.json()), (200, expected.clone()));
    let accept = "accept: application/x-msgpack";
    let answer = ask(
        node.address,
        "GET",
        "/channels/room%3A42?envelope=msgpack",
        &[&root(), accept],
        b"",
    )
    .await;
    assert_eq!((answer.status, answer.msgpack()), (200, expected));
}

#[tokio::test]
async fn names_are_taken_as_every_client_writes_them() {
    let node = Node::start().await;
    for (written, name) in [
        ("a/b", "a/b"),
        ("a%2Fb", "a/b"),
        ("a/messages/b", "a/messages/b"),
        ("x%2Fmessages", "x/messages"),
        ("a%20b", "a b"),
        ("a+b", "a+b"),
        ("a[b]", "a[b]"),
        ("%5B%3Frewind=1%5Droom", "room"),
        ("[%3Foccupancy=metrics]room", "room"),
        ("%F0%9F%92%AC", "💬"),
        ("room", "room"),
        ("a%25b", "a%b"),
    ] {
        node.world.attach("dev", name, 1);
        let details = node.get(&format!("/channels/{written}")).await.json();
        assert_eq!(details["channelId"], name, "{written}");
        assert_eq!(details["name"], name, "{written}");
        assert_eq!(details["status"]["isActive"], true, "{written}");
    }
}

#[tokio::test]
async fn reading_an_unknown_channel_finds_zeros() {
    let node = Node::start().await;
    for _ in 0..2 {
        let details = node.get("/channels/nobody").await.json();
        assert_eq!(details["status"]["isActive"], false);
        assert_eq!(metrics(&details), [0; 8]);
    }
    assert_eq!(node.get("/channels?by=id").await.json(), json!([]));
}

#[tokio::test]
async fn metachannels_answer_too() {
    let node = Node::start().await;
    for written in ["[meta]log", "%5Bmeta%5Dlog", "[meta%3Frewind=1]log"] {
        let answer = node.get(&format!("/channels/{written}")).await;
        let details = answer.json();
        assert_eq!(details["channelId"], "[meta]log");
        assert_eq!(details["status"]["isActive"], false);
        assert_eq!(metrics(&details), [0; 8]);
    }
    let denied = node
        .get_as(&basic("dev.nometa:nometa-secret"), "/channels/[meta]log")
        .await;
    assert_eq!((denied.status, denied.code()), (401, 40160));
}

#[tokio::test]
async fn bad_names_are_refused() {
    let node = Node::start().await;
    let long = "x".repeat(2049);
    for name in [
        "", ":x", "%ff", "%zz", "%", "a%0Ab", "[foo]x", "[", "%20x", ",x", &long,
    ] {
        let answer = node.get(&format!("/channels/{name}")).await;
        assert_eq!((answer.status, answer.code()), (400, 40010), "{name}");
    }
}

#[tokio::test]
async fn the_capability_decides() {
    let node = Node::start().await;
    let rooms = basic("dev.rooms:rooms-secret");
    assert_eq!(node.get_as(&rooms, "/channels/room:1").await.status, 200);
    assert_eq!(node.get_as(&rooms, "/channels/lobby").await.code(), 40160);
    let mute = basic("dev.mute:mute-secret");
    assert_eq!(node.get_as(&mute, "/channels/room:1").await.code(), 40160);
}

#[tokio::test]
async fn apps_do_not_see_each_other() {
    let node = Node::start().await;
    node.world.attach("dev", "x", 1);
    let other = basic("other.root:root-secret");
    let details = node.get_as(&other, "/channels/x").await.json();
    assert_eq!(details["status"]["isActive"], false);
}

#[tokio::test]
async fn an_answer_says_what_it_rests_on() {
    let node = Node::start().await;
    let fresh = node.get("/channels/x").await;
    assert_eq!(fresh.header("headcount-source"), Some("us-east-1/4"));
    assert_eq!(fresh.header("headcount-age-ms"), Some("7"));
    assert_eq!(fresh.header("headcount-unheard-regions"), None);
    {
        let mut freshness = node.world.freshness.lock().unwrap();
        freshness.age = Duration::from_secs(3);
        freshness.unheard = ["a", "b"]
            .map(|name| RegionName::new(name).unwrap())
            .to_vec();
    }
    for target in ["/channels/x", "/channels"] {
        let stale = node.get(target).await;
        assert_eq!(stale.header("headcount-age-ms"), Some("3000"));
        assert_eq!(stale.header("headcount-unheard-regions"), Some("a,b"));
    }
}

#[tokio::test]
async fn a_strong_read_is_asked_for_by_name() {
    let node = Node::start().await;
    for target in [
        "/channels/x",
        "/channels/x?consistency=local",
        "/channels/x?consistency=strong",
    ] {
        assert_eq!(node.get(target).await.status, 200);
    }
    let levels = node.world.levels.lock().unwrap().clone();
    assert_eq!(
        levels,
        [ReadLevel::Local, ReadLevel::Local, ReadLevel::Strong]
    );
    let other = node.get("/channels/x?consistency=eventual").await;
    assert_eq!((other.status, other.code()), (400, 40003));
}

#[tokio::test]
async fn failing_reads_have_their_codes() {
    let node = Node::start().await;
    let reason = "disk /var is gone".to_owned();
    for (error, status, code) in [
        (ReadError::NoQuorum, 503, 50003),
        (
            ReadError::TimedOut {
                after: Duration::from_secs(1),
            },
            503,
            50003,
        ),
        (
            ReadError::Unavailable {
                reason: reason.clone(),
            },
            503,
            50305,
        ),
        (ReadError::Overloaded { max: 9 }, 429, 42910),
        (ReadError::Internal { reason }, 500, 50000),
    ] {
        *node.world.mood.lock().unwrap() = Mood::Failing(error.clone());
        for target in ["/channels/x?consistency=strong", "/channels"] {
            let answer = node.get(target).await;
            assert_eq!((answer.status, answer.code()), (status, code), "{error}");
            assert_eq!(answer.header("retry-after").is_some(), status == 429);
            let told = String::from_utf8(answer.body).unwrap();
            assert_eq!(
                told.contains("/var"),
                status == 503 && code == 50305,
                "{told}"
            );
        }
    }
}

#[tokio::test]
async fn a_read_that_never_ends_is_given_up() {
    let node = Node::with(Config {
        read_timeout: Duration::from_millis(50),
        ..Config::default()
    })
    .await;
    *node.world.mood.lock().unwrap() = Mood::Hanging;
    for target in ["/channels/x?consistency=strong", "/channels"] {
        let answer = node.get(target).await;
        assert_eq!((answer.status, answer.code()), (503, 50003));
    }
}

#[tokio::test]
async fn a_panic_ends_one_request_only() {
    let node = Node::start().await;
    *node.world.mood.lock().unwrap() = Mood::Panicking;
    let mut connection = crate::client::Connection::open(node.address).await;
    let answer = connection.ask("GET", "/channels/x", &[&root()], b"").await;
    assert_eq!((answer.status, answer.code()), (500, 50000));
    *node.world.mood.lock().unwrap() = Mood::Well;
    let answer = connection.ask("GET", "/channels/x", &[&root()], b"").await;
    assert_eq!(answer.status, 200);
}
