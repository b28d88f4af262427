//! `GET /chat/v4/rooms/{room}/occupancy`.

use serde_json::json;

use crate::client::ask;
use crate::node::{Node, basic, root};

#[tokio::test]
async fn a_rooms_occupancy_is_that_of_its_channel() {
    let node = Node::start().await;
    node.world.attach("dev", "lobby::$chat", 3);
    node.world.attach("dev", "a/b c::$chat", 1);
    let headers = [root(), "x-ably-version: 4".to_owned()];
    let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
    for (room, connections) in [("lobby", 3), ("a%2Fb%20c", 1), ("a/b%20c", 1), ("empty", 0)] {
        let target = format!("/chat/v4/rooms/{room}/occupancy");
        let answer = ask(node.address, "GET", &target, &headers, b"").await;
        let wanted = json!({ "connections": connections, "presenceMembers": 0 });
        assert_eq!((answer.status, answer.json()), (200, wanted), "{room}");
        assert!(answer.header("headcount-age-ms").is_some());
    }
}

#[tokio::test]
async fn other_paths_and_callers_are_refused() {
    let node = Node::start().await;
    for (target, code) in [
        ("/chat/v4/rooms/lobby", 40400),
        ("/chat/v4/rooms//occupancy", 40400),
        ("/chat/v3/rooms/lobby/occupancy", 40400),
        ("/chat/v4/rooms/%ff/occupancy", 40010),
        ("/chat/v4/rooms/:lobby/occupancy", 40010),
    ] {
        assert_eq!(node.get(target).await.code(), code, "{target}");
    }
    let rooms = basic("dev.rooms:rooms-secret");
    let denied = node.get_as(&rooms, "/chat/v4/rooms/lobby/occupancy").await;
    assert_eq!((denied.status, denied.code()), (401, 40160));
    let permitted = node.get_as(&rooms, "/chat/v4/rooms/room:1/occupancy").await;
    assert_eq!(permitted.status, 200);
}
