//! The realtime protocol, frame by frame.

use std::time::Duration;

use futures::{SinkExt as _, StreamExt as _};
use headcount_api::{AppLimits, RealtimeConfig};
use headcount_model::{Modes, Rate};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::client::PATIENCE;
use crate::node::Node;

pub(crate) const HEARTBEAT: u64 = 0;
pub(crate) const ACK: u64 = 1;
pub(crate) const NACK: u64 = 2;
const CONNECTED: u64 = 4;
pub(crate) const DISCONNECTED: u64 = 6;
pub(crate) const CLOSE: u64 = 7;
pub(crate) const CLOSED: u64 = 8;
pub(crate) const ERROR: u64 = 9;
pub(crate) const ATTACH: u64 = 10;
pub(crate) const ATTACHED: u64 = 11;
pub(crate) const DETACH: u64 = 12;
pub(crate) const DETACHED: u64 = 13;
pub(crate) const PRESENCE: u64 = 14;
pub(crate) const MESSAGE: u64 = 15;
const SYNC: u64 = 16;
const AUTH: u64 = 17;

const HAS_PRESENCE: u64 = 1;
const HAS_BACKLOG: u64 = 2;
const RESUMED: u64 = 4;

pub(crate) const ROOT: &str = "key=dev.root:root-secret";

/// A client that speaks frames.
pub(crate) struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    message_pack: bool,
    serial: u64,
}

impl Client {
    /// Connects with a query, and waits for nothing.
    pub(crate) async fn open(node: &Node, query: &str) -> Self {
        let url = format!("ws://{}/?v=6&heartbeats=false&{query}", node.address);
        let (socket, _) = connect_async(url).await.unwrap();
        Self {
            socket,
            message_pack: query.contains("format=msgpack"),
            serial: 0,
        }
    }

    /// Connects, and returns the CONNECTED frame with the client.
    pub(crate) async fn connect(node: &Node, query: &str) -> (Self, Value) {
        let mut client = Self::open(node, query).await;
        let connected = client.expect(CONNECTED).await;
        (client, connected)
    }

    pub(crate) async fn root(node: &Node) -> Self {
        Self::connect(node, ROOT).await.0
    }

    pub(crate) async fn send(&mut self, frame: Value) {
        let message = if self.message_pack {
            Message::binary(rmp_serde::to_vec_named(&frame).unwrap())
        } else {
            Message::text(frame.to_string())
        };
        self.socket.send(message).await.unwrap();
    }

    /// Waits for the next frame; `None` at the end of the websocket.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await;
            return match message.expect("a frame comes in time")? {
                Ok(Message::Text(text)) => Some(serde_json::from_str(&text).unwrap()),
                Ok(Message::Binary(bytes)) => Some(rmp_serde::from_slice(&bytes).unwrap()),
                Ok(Message::Close(_)) | Err(_) => None,
                Ok(_) => continue,
            };
        }
    }

    /// Waits for the next frame, which must be of this action.
    pub(crate) async fn expect(&mut self, action: u64) -> Value {
        let frame = self.next().await.expect("the websocket is open");
        assert_eq!(frame["action"], action, "{frame}");
        frame
    }

    pub(crate) async fn attach(&mut self, channel: &str, more: Value) -> Value {
        let mut frame = json!({ "action": ATTACH, "channel": channel });
        frame
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().cloned().unwrap_or_default());
        self.send(frame).await;
        let attached = self.expect(ATTACHED).await;
        assert_eq!(attached["channel"], channel);
        attached
    }

    /// Sends something that is acknowledged, and returns the ACK or NACK.
    pub(crate) async fn ask(&mut self, mut frame: Value) -> Value {
        let serial = self.serial;
        self.serial += 1;
        frame["msgSerial"] = serial.into();
        self.send(frame).await;
        loop {
            let answer = self.next().await.expect("the websocket is open");
            if answer["action"] == ACK || answer["action"] == NACK {
                assert_eq!(
                    (&answer["msgSerial"], &answer["count"]),
                    (&json!(serial), &json!(1))
                );
                return answer;
            }
        }
    }

    pub(crate) async fn publish(&mut self, channel: &str, name: &str) -> Value {
        self.ask(json!({
            "action": MESSAGE, "channel": channel, "messages": [{ "name": name, "data": "x" }],
        }))
        .await
    }

    pub(crate) async fn publish_as(&mut self, channel: &str, name: &str, id: &str) -> Value {
        let message = json!({ "name": name, "id": id });
        self.ask(json!({ "action": MESSAGE, "channel": channel, "messages": [message] }))
            .await
    }

    /// Waits for a message of a channel that came alone; returns its name and data.
    pub(crate) async fn message(&mut self, channel: &str) -> (String, String) {
        let frame = self.expect(MESSAGE).await;
        assert_eq!(frame["channel"], channel);
        let text = |field: &str| frame["messages"][0][field].as_str().unwrap().to_owned();
        (text("name"), text("data"))
    }

    /// Waits for messages of a channel that came together; returns their names.
    pub(crate) async fn told(&mut self, channel: &str) -> Vec<String> {
        let frame = self.expect(MESSAGE).await;
        assert_eq!(frame["channel"], channel);
        let messages = frame["messages"].as_array().unwrap().iter();
        messages
            .map(|message| message["name"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(crate) async fn presence(&mut self, channel: &str, action: u64, client_id: &str) -> Value {
        self.ask(json!({
            "action": PRESENCE,
            "channel": channel,
            "presence": [{ "action": action, "clientId": client_id, "data": "hi" }],
        }))
        .await
    }

    /// Breaks the connection without a word.
    pub(crate) fn cut(self) {
        drop(self);
    }
}

fn flags(frame: &Value) -> u64 {
    frame["flags"].as_u64().unwrap()
}

/// Waits until the books say so.
pub(crate) async fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !condition() {
            // allow-sleep: the condition has a deadline around it
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "in time: {what}");
}

#[tokio::test]
async fn a_connection_is_told_what_it_needs() {
    let node = Node::start().await;
    for format in ["json", "msgpack"] {
        let query = format!("{ROOT}&format={format}&clientId=ann");
        let (mut client, connected) = Client::connect(&node, &query).await;
        let details = &connected["connectionDetails"];
        assert_eq!(details["clientId"], "ann");
        assert_eq!(details["maxIdleInterval"], 15_000);
        assert_eq!(details["connectionStateTtl"], 120_000);
        assert_eq!(details["siteCode"], "us-east-1");
        assert!(connected["connectionId"].is_string() && details["connectionKey"].is_string());
        client
            .send(json!({ "action": HEARTBEAT, "id": "p1" }))
            .await;
        assert_eq!(client.expect(HEARTBEAT).await["id"], "p1");
        client.send(json!({ "action": CLOSE })).await;
        client.expect(CLOSED).await;
        assert_eq!(client.next().await, None);
    }
}

#[tokio::test]
async fn bad_credentials_are_told_in_the_protocol() {
    let node = Node::start().await;
    for (query, code) in [
        ("", 40101),
        ("key=dev.root:wrong", 40101),
        ("key=x", 40005),
        ("access_token=a.b", 40145),
        ("key=dev.root:root-secret&clientId=*x*&v=9", 40017),
    ] {
        let mut client = Client::open(&node, query).await;
        let error = client.next().await;
        let error = error.unwrap_or_else(|| panic!("{query}: nothing is said"));
        assert_eq!(
            (&error["action"], &error["error"]["code"]),
            (&json!(ERROR), &json!(code))
        );
        assert_eq!(client.next().await, None, "{query}");
    }
    // What is no websocket is nothing here.
    assert_eq!(node.get("/").await.code(), 40400);
}

#[tokio::test]
async fn attachments_count_as_what_they_may_do() {
    let node = Node::start().await;
    let mut client = Client::root(&node).await;
    let attached = client.attach("room", json!({})).await;
    assert_eq!(flags(&attached) >> 16, 0b10_1111);
    let books = || node.world.books.lock().unwrap();
    assert_eq!(books().attached("room"), [Modes::DEFAULT]);

    // Again, with other modes: the same attachment changes.
    let changed = client
        .attach("room", json!({ "params": { "modes": "subscribe" } }))
        .await;
    assert_eq!(changed["params"]["modes"], "subscribe");
    assert_eq!(flags(&changed), 1 << 18 | RESUMED);
    assert_eq!(books().attached("room"), [Modes::SUBSCRIBE]);

    // Under another spelling it is the same channel, and counts once.
    client
        .attach("[?rewind=1]room", json!({ "flags": 1 << 17 }))
        .await;
    assert_eq!(books().attached("room"), [Modes::PUBLISH]);
    client
        .send(json!({ "action": DETACH, "channel": "room" }))
        .await;
    client.expect(DETACHED).await;
    assert_eq!(books().attached("room").len(), 1);
    client
        .send(json!({ "action": DETACH, "channel": "[?rewind=1]room" }))
        .await;
    client.expect(DETACHED).await;
    assert!(books().attached("room").is_empty());

    // An orderly close leaves at once.
    client.attach("room", json!({})).await;
    client.send(json!({ "action": CLOSE })).await;
    client.expect(CLOSED).await;
    wait_until("nothing counts", || books().attached("room").is_empty()).await;
}

#[tokio::test]
async fn what_cannot_be_attached_fails_alone() {
    let node = Node::start().await;
    let (mut client, _) = Client::connect(&node, "key=dev.mute:mute-secret").await;
    for (channel, params, code) in [
        (":hell", json!({}), 40010),
        ("[nope]x", json!({}), 40010),
        ("[meta]channel.lifecycle", json!({}), 40160),
        ("room", json!({ "modes": "subscribe" }), 40160),
        ("room", json!({ "modes": "fly" }), 40003),
        ("room", json!({ "occupancy": "metrics" }), 40160),
        ("room", json!({ "rewind": "soon" }), 40003),
    ] {
        client
            .send(json!({ "action": ATTACH, "channel": channel, "params": params }))
            .await;
        let error = client.expect(ERROR).await;
        assert_eq!(
            (&error["channel"], &error["error"]["code"]),
            (&json!(channel), &json!(code))
        );
    }
    assert_eq!(flags(&client.attach("room", json!({})).await), 1 << 17);

    let mut root = Client::root(&node).await;
    root.send(json!({ "action": ATTACH, "channel": "[meta]nothing" }))
        .await;
    assert_eq!(root.expect(ERROR).await["error"]["code"], 40400);
}

#[tokio::test]
async fn messages_reach_subscribers_in_both_formats_and_are_acknowledged() {
    let node = Node::start().await;
    let (mut here, _) = Client::connect(&node, &format!("{ROOT}&echo=false")).await;
    let (mut there, _) = Client::connect(&node, &format!("{ROOT}&format=msgpack")).await;
    here.attach("room", json!({})).await;
    there.attach("[?rewind=1]room", json!({})).await;
    let ack = here.publish("room", "greet").await;
    assert_eq!(ack["res"][0]["serials"].as_array().unwrap().len(), 1);
    let told = there.expect(MESSAGE).await;
    assert_eq!(told["channel"], "[?rewind=1]room");
    assert_eq!(told["messages"][0]["name"], "greet");
    assert!(told["channelSerial"].is_string() && told["connectionId"].is_string());
    assert_eq!(node.world.books.lock().unwrap().activity, 1);

    // Who wants no echo gets none: the next thing that it hears is of somebody else.
    there.publish("room", "back").await;
    assert_eq!(here.expect(MESSAGE).await["messages"][0]["name"], "back");

    // Not attached, and without the right.
    let (mut nobody, _) = Client::connect(&node, "key=dev.rooms:rooms-secret").await;
    assert_eq!(nobody.publish("room:1", "x").await["error"]["code"], 40160);
    let mut root = Client::root(&node).await;
    assert_eq!(root.publish("[meta]log", "x").await["error"]["code"], 40160);
    assert_eq!(root.publish("room", "from afar").await["action"], ACK);
    root.attach("quiet", json!({ "params": { "modes": "subscribe" } }))
        .await;
    assert_eq!(root.publish("quiet", "x").await["error"]["code"], 40165);
}

#[tokio::test]
async fn presence_is_told_kept_and_synchronised() {
    let node = Node::start().await;
    let mut watcher = Client::root(&node).await;
    watcher.attach("room", json!({})).await;
    let (mut client, _) = Client::connect(&node, &format!("{ROOT}&clientId=ann")).await;
    assert_eq!(
        client.presence("room", 2, "ann").await["error"]["code"],
        91001
    );
    client.attach("room", json!({})).await;
    assert_eq!(
        client.presence("room", 2, "bob").await["error"]["code"],
        40012
    );
    assert_eq!(client.presence("room", 2, "ann").await["action"], ACK);
    let entered = watcher.expect(PRESENCE).await;
    assert_eq!(entered["presence"][0]["action"], 2);
    assert_eq!(entered["presence"][0]["clientId"], "ann");

    let mut late = Client::root(&node).await;
    assert_eq!(
        flags(&late.attach("room", json!({})).await) & HAS_PRESENCE,
        1
    );
    let sync = late.expect(SYNC).await;
    assert!(sync["channelSerial"].as_str().unwrap().ends_with(':'));
    assert_eq!(sync["presence"][0]["action"], 1);

    // One connection may have many members, if it may be anybody.
    for member in ["x", "y"] {
        assert_eq!(late.presence("room", 2, member).await["action"], ACK);
    }
    let members = || {
        let books = node.world.books.lock().unwrap();
        let mut members = books.members("room");
        members.sort_unstable();
        members.join(" ")
    };
    assert_eq!(members(), "ann x y");
    late.presence("room", 3, "x").await;
    assert_eq!(members(), "ann y");

    // Who detaches takes its members along; the leave is not one of its own.
    client
        .send(json!({ "action": DETACH, "channel": "room" }))
        .await;
    let left = loop {
        let told = watcher.expect(PRESENCE).await;
        if told["presence"][0]["clientId"] == "ann" {
            break told;
        }
    };
    assert_eq!(left["presence"][0]["action"], 3);
    let id = left["presence"][0]["id"].as_str().unwrap();
    let connection = left["presence"][0]["connectionId"].as_str().unwrap();
    assert!(!id.starts_with(connection), "{id}");
    wait_until("its member is gone", || members() == "y").await;
}

#[tokio::test]
async fn a_dropped_connection_counts_for_its_grace_and_is_resumed_where_it_was() {
    let grace = Duration::from_millis(300);
    let node = Node::realtime(RealtimeConfig {
        grace,
        ..RealtimeConfig::default()
    })
    .await;
    let (mut client, connected) = Client::connect(&node, &format!("{ROOT}&clientId=ann")).await;
    let key = connected["connectionDetails"]["connectionKey"].clone();
    let serial = client.attach("room", json!({})).await["channelSerial"].clone();
    client.presence("room", 2, "ann").await;
    client.cut();
    let mut other = Client::root(&node).await;
    other.publish("room", "missed").await;
    let books = || node.world.books.lock().unwrap();
    assert_eq!(books().attached("room").len(), 1, "it counts on");

    // Back in time: the same connection, nothing missed, told after it has attached again.
    let resume = format!("{ROOT}&clientId=ann&resume={}", key.as_str().unwrap());
    let (mut client, again) = Client::connect(&node, &resume).await;
    assert_eq!(again["connectionId"], connected["connectionId"]);
    assert_eq!(again.get("error"), None);
    let attached = client
        .attach("room", json!({ "channelSerial": serial }))
        .await;
    assert_eq!(flags(&attached) & RESUMED, RESUMED);
    client.expect(SYNC).await;
    assert_eq!(
        client.expect(MESSAGE).await["messages"][0]["name"],
        "missed"
    );
    assert_eq!(books().members("room"), ["ann"]);

    // Away for longer: it counts no more, and does again once it is back.
    client.cut();
    wait_until("it counts no more", || books().attached("room").is_empty()).await;
    let (_client, again) = Client::connect(&node, &resume).await;
    assert_eq!(again["connectionId"], connected["connectionId"]);
    wait_until("it counts again", || books().attached("room").len() == 1).await;
    assert_eq!(books().members("room"), ["ann"]);
}

#[tokio::test]
async fn members_stay_after_a_drop_as_long_as_the_client_wishes_and_come_back_with_it() {
    let node = Node::realtime(RealtimeConfig {
        grace: Duration::from_secs(60),
        ..RealtimeConfig::default()
    })
    .await;
    let mut other = Client::root(&node).await;
    other.attach("room", json!({})).await;
    let query = format!("{ROOT}&clientId=ann&remainPresentFor=100");
    let (mut client, connected) = Client::connect(&node, &query).await;
    let key = connected["connectionDetails"]["connectionKey"].clone();
    let resume = format!("{query}&resume={}", key.as_str().unwrap());
    client.attach("room", json!({})).await;
    client.presence("room", 2, "ann").await;
    let action = async |other: &mut Client| {
        let frame = other.expect(PRESENCE).await;
        frame["presence"][0]["action"].as_u64().unwrap()
    };
    assert_eq!(action(&mut other).await, 2);

    // Gone from the set long before the attachment.
    client.cut();
    assert_eq!(action(&mut other).await, 3);
    let books = || node.world.books.lock().unwrap();
    wait_until("no member counts", || books().members("room").is_empty()).await;
    assert_eq!(
        books().attached("room").len(),
        2,
        "the attachment counts on"
    );

    // Present again with its connection, as it was.
    let (client, again) = Client::connect(&node, &resume).await;
    assert_eq!(again["connectionId"], connected["connectionId"]);
    assert_eq!(action(&mut other).await, 2);
    wait_until("the member counts", || books().members("room") == ["ann"]).await;

    // Whoever comes back in time was never away.
    client.cut();
    let (client, _) = Client::connect(&node, &resume).await;
    client.cut();
    assert_eq!(action(&mut other).await, 3);
}

#[tokio::test]
async fn what_cannot_be_resumed_is_a_new_connection() {
    let node = Node::realtime(RealtimeConfig {
        resume_window: Duration::from_millis(50),
        ..RealtimeConfig::default()
    })
    .await;
    let keys = [
        ("nonsense", 80018),
        ("abc!def", 80018),
        ("abc!4.def", 80008),
        ("abc!9.def", 80008),
    ];
    for (key, code) in keys {
        let (_, connected) = Client::connect(&node, &format!("{ROOT}&resume={key}")).await;
        assert_eq!(connected["error"]["code"], code);
    }
    let (client, connected) = Client::connect(&node, ROOT).await;
    let key = connected["connectionDetails"]["connectionKey"]
        .as_str()
        .unwrap();
    client.cut();
    // Of another app, or with another secret, it is nobody's.
    let (_, foreign) =
        Client::connect(&node, &format!("key=other.root:root-secret&resume={key}")).await;
    assert_eq!(foreign["error"]["code"], 80008);
    wait_until_unknown(&node, key).await;
}

/// Waits until a connection is over.
async fn wait_until_unknown(node: &Node, key: &str) {
    let waited = timeout(PATIENCE, async {
        loop {
            let (client, connected) = Client::connect(node, &format!("{ROOT}&resume={key}")).await;
            if connected["error"]["code"] == 80008 {
                return;
            }
            client.cut();
            // allow-sleep: longer than the window, so that the connection can end
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    waited.await.expect("the connection ends in time");
}

#[tokio::test]
async fn rewinding_brings_the_past_first() {
    let node = Node::start().await;
    let mut client = Client::root(&node).await;
    for name in ["a", "b", "c"] {
        client.publish("room", name).await;
    }
    let attached = client
        .attach("room", json!({ "params": { "rewind": "2" } }))
        .await;
    assert_eq!(flags(&attached) & HAS_BACKLOG, HAS_BACKLOG);
    for name in ["b", "c"] {
        assert_eq!(client.expect(MESSAGE).await["messages"][0]["name"], name);
    }
}

#[tokio::test]
async fn occupancy_begins_with_the_asker_and_follows_the_log() {
    let node = Node::start().await;
    node.world.attach("dev", "room", 2);
    let mut client = Client::root(&node).await;
    client
        .attach(
            "room",
            json!({ "params": { "occupancy": "metrics.subscribers" } }),
        )
        .await;
    let told = client.expect(MESSAGE).await;
    let message = &told["messages"][0];
    assert_eq!(
        (&message["name"], &message["action"]),
        (&json!("[meta]occupancy"), &json!(3))
    );
    assert_eq!(message["data"], r#"{"metrics":{"subscribers":3}}"#);
    assert_eq!(told.get("channelSerial"), None);
    node.world.tell_opened(&["other", "room"]);
    let told = client.expect(MESSAGE).await;
    assert_eq!(
        told["messages"][0]["data"],
        r#"{"metrics":{"subscribers":1}}"#
    );
}

#[tokio::test]
async fn lifecycle_events_are_told_and_go_on_from_a_serial() {
    let node = Node::start().await;
    *node.world.greets.lock().unwrap() = true;
    let (mut client, _) = Client::connect(&node, "key=dev.meta:meta-secret").await;
    let channel = "[meta]channel.lifecycle";
    client
        .attach(channel, json!({ "channelSerial": "c0" }))
        .await;
    node.world.tell_opened(&["a", "bb"]);
    let first = client.expect(MESSAGE).await;
    assert_eq!(first["messages"][0]["name"], "channel.opened");
    let data: Value = serde_json::from_str(first["messages"][0]["data"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&data["channelId"], &data["isGlobalMaster"]),
        (&json!("a"), &json!(true))
    );
    // Of events that came together, the last says where the client is.
    assert_eq!(first.get("channelSerial"), None);
    let second = client.expect(MESSAGE).await;
    assert_eq!(second["channelSerial"], "c1");
    client.cut();
    node.world.tell_opened(&["ccc"]);

    let (mut client, _) = Client::connect(&node, "key=dev.meta:meta-secret").await;
    let attached = client
        .attach(channel, json!({ "channelSerial": "c1" }))
        .await;
    assert_eq!(flags(&attached), 1 << 18 | RESUMED);
    let third = client.expect(MESSAGE).await;
    assert_ne!(third["messages"][0]["id"], second["messages"][0]["id"]);
    assert_eq!(third["channelSerial"], "c2");

    // A serial of somewhere else is told, and events go on from now.
    let (mut client, _) = Client::connect(&node, "key=dev.meta:meta-secret").await;
    let lost = client
        .attach(channel, json!({ "channelSerial": "nonsense" }))
        .await;
    assert_eq!(
        (flags(&lost), &lost["error"]["code"]),
        (1 << 18, &json!(80023))
    );

    // And the past can be had.
    let (mut client, _) = Client::connect(&node, "key=dev.meta:meta-secret").await;
    let rewound = client
        .attach("[meta?rewind=1]channel.lifecycle", json!({}))
        .await;
    assert_eq!(flags(&rewound) & HAS_BACKLOG, HAS_BACKLOG);
    let told = client.expect(MESSAGE).await;
    assert_eq!(told["messages"][0]["id"], third["messages"][0]["id"]);
}

#[tokio::test]
async fn those_who_keep_up_share_a_watch_and_come_back_to_it() {
    let node = Node::start().await;
    *node.world.greets.lock().unwrap() = true;
    let channel = "[meta]channel.lifecycle";
    let mut clients = Vec::new();
    for format in ["json", "msgpack"] {
        let query = format!("key=dev.meta:meta-secret&format={format}");
        let (mut client, _) = Client::connect(&node, &query).await;
        let attached = client.attach(channel, json!({})).await;
        assert_eq!(attached["channelSerial"], "c0");
        clients.push(client);
    }
    let watches = || node.world.filters.lock().unwrap().len();
    assert_eq!(watches(), 1);
    node.world.tell_opened(&["a", "bb"]);
    for client in &mut clients {
        let first = client.expect(MESSAGE).await;
        let second = client.expect(MESSAGE).await;
        assert_eq!(
            (first.get("channelSerial"), &second["channelSerial"]),
            (None, &json!("c1"))
        );
    }
    // One leaves and misses something; it is told that when it is back, and nothing else.
    clients.pop().unwrap().cut();
    node.world.tell_opened(&["ccc"]);
    let third = clients[0].expect(MESSAGE).await;
    let (mut back, _) = Client::connect(&node, "key=dev.meta:meta-secret").await;
    let attached = back.attach(channel, json!({ "channelSerial": "c1" })).await;
    assert_eq!(flags(&attached), 1 << 18 | RESUMED);
    assert_eq!(back.expect(MESSAGE).await["messages"], third["messages"]);
    assert_eq!(watches(), 1);
    // Where events are missing, everybody begins anew from where it was.
    node.world.tell(|cursor| headcount_model::WatchItem::Gap {
        shard: headcount_model::ShardId(0),
        region: None,
        from: headcount_model::Position::START,
        cursor,
    });
    assert_eq!(back.expect(DETACHED).await["error"]["code"], 80020);
}

#[tokio::test]
async fn connections_are_told_of_on_their_metachannel() {
    let node = Node::start().await;
    let mut watcher = Client::root(&node).await;
    watcher
        .attach("[meta]connection.lifecycle", json!({}))
        .await;
    let (mut client, connected) = Client::connect(&node, &format!("{ROOT}&clientId=ann")).await;
    client.send(json!({ "action": CLOSE })).await;
    for name in ["connection.opened", "connection.closed"] {
        let told = watcher.expect(MESSAGE).await;
        let message = &told["messages"][0];
        assert_eq!(message["name"], name);
        let data: Value = serde_json::from_str(message["data"].as_str().unwrap()).unwrap();
        assert_eq!(data["connectionId"], connected["connectionId"]);
        assert_eq!(
            (&data["clientId"], &data["region"]),
            (&json!("ann"), &json!("us-east-1"))
        );
    }
}

#[tokio::test]
async fn who_is_too_slow_loses_the_channel_and_nobody_else_notices() {
    let node = Node::realtime(RealtimeConfig {
        outbound_max: 4,
        limits: AppLimits {
            connection_messages: Rate::over(1, 100_000),
            channel_messages: Rate::over(1, 100_000),
            channel_bytes: Rate::over(1, 100 << 20),
            ..AppLimits::default()
        },
        ..RealtimeConfig::default()
    })
    .await;
    let mut slow = Client::root(&node).await;
    let attached = slow.attach("room", json!({})).await;
    let mut quick = Client::root(&node).await;
    quick.attach("room", json!({})).await;
    // Far more than the buffers of a socket that nobody reads can hold.
    let data = "x".repeat(60_000);
    let reading = async {
        let mut told = 0;
        while told < 400 {
            let frame = quick.next().await.unwrap();
            told += u64::from(frame["action"] == MESSAGE);
        }
    };
    let mut publisher = Client::root(&node).await;
    let publishing = async {
        for serial in 0..400 {
            let ack = publisher
                .ask(json!({
                    "action": MESSAGE, "channel": "room", "messages": [{ "data": data }],
                }))
                .await;
            assert_eq!(ack["action"], ACK, "{serial}");
        }
    };
    tokio::join!(reading, publishing);
    let detached = loop {
        let frame = slow.next().await.unwrap();
        if frame["action"] != MESSAGE {
            break frame;
        }
    };
    assert_eq!(
        (&detached["action"], &detached["error"]["code"]),
        (&json!(DETACHED), &json!(80020))
    );
    assert!(attached["channelSerial"].is_string());
}

#[tokio::test]
async fn garbage_ends_the_connection_with_a_word() {
    let node = Node::start().await;
    for (frame, code) in [("{", 40001), ("[1,2]", 40000), ("{}", 40000)] {
        let mut client = Client::root(&node).await;
        client.socket.send(Message::text(frame)).await.unwrap();
        assert_eq!(client.expect(ERROR).await["error"]["code"], code, "{frame}");
        assert_eq!(client.next().await, None);
    }
    // What is about a channel fails the channel.
    let mut client = Client::root(&node).await;
    client
        .send(json!({ "action": ATTACH, "channel": "room", "flags": "many" }))
        .await;
    assert_eq!(client.expect(ERROR).await["channel"], "room");
    // What a later client may say is passed over.
    client
        .send(json!({ "action": 99, "channel": "room" }))
        .await;
    client.attach("room", json!({})).await;
}

#[tokio::test]
async fn a_node_that_shuts_down_hands_its_clients_over() {
    let mut node = Node::start().await;
    let mut client = Client::root(&node).await;
    client.attach("room", json!({})).await;
    node.shut_down();
    let told = client.expect(DISCONNECTED).await;
    assert_eq!(
        (&told["error"]["code"], &told["error"]["statusCode"]),
        (&json!(80003), &json!(503))
    );
    assert_eq!(client.next().await, None);
    let world = std::sync::Arc::clone(&node.world);
    node.ended().await;
    wait_until("nothing counts", || {
        world.books.lock().unwrap().attached("room").is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_new_token_takes_the_old_ones_place() {
    let node = Node::start().await;
    let token = |capability: &str| {
        let body = json!({ "capability": capability, "clientId": "ann" }).to_string();
        let node = &node;
        async move {
            let header = crate::node::root();
            let headers = [header.as_str(), "content-type: application/json"];
            let target = "/keys/dev.root/requestToken";
            let answer =
                crate::client::ask(node.address, "POST", target, &headers, body.as_bytes());
            answer.await.json()["token"].as_str().unwrap().to_owned()
        }
    };
    let all = token(r#"{"*":["*"]}"#).await;
    let some = token(r#"{"room":["subscribe"]}"#).await;
    let (mut client, connected) = Client::connect(&node, &format!("access_token={all}")).await;
    assert_eq!(connected["connectionDetails"]["clientId"], "ann");
    client.attach("room", json!({})).await;
    client.attach("other", json!({})).await;
    client
        .send(json!({ "action": AUTH, "auth": { "accessToken": some } }))
        .await;
    let updated = client.expect(CONNECTED).await;
    assert_eq!(updated["connectionId"], connected["connectionId"]);
    let failed = client.expect(ERROR).await;
    assert_eq!(
        (&failed["channel"], &failed["error"]["code"]),
        (&json!("other"), &json!(40160))
    );
    let narrowed = client.expect(ATTACHED).await;
    assert_eq!(flags(&narrowed) >> 16, 0b1100);
    let books = node.world.books.lock().unwrap();
    assert!(books.attached("other").is_empty());
    assert_eq!(
        books.attached("room"),
        [Modes::SUBSCRIBE.union(Modes::PRESENCE_SUBSCRIBE)]
    );
}

#[tokio::test]
async fn a_take_over_by_somebody_else_disturbs_nobody() {
    let node = Node::start().await;
    let (mut ada, connected) = Client::connect(&node, &format!("{ROOT}&clientId=ada")).await;
    let key = connected["connectionDetails"]["connectionKey"]
        .as_str()
        .unwrap();
    let mut eve = Client::open(&node, &format!("{ROOT}&clientId=eve&recover={key}")).await;
    assert_eq!(eve.expect(ERROR).await["error"]["code"], 40102);
    ada.attach("room", json!({})).await;
    // She herself may, before her old websocket is found to be gone.
    let (mut again, same) =
        Client::connect(&node, &format!("{ROOT}&clientId=ada&resume={key}")).await;
    assert_eq!(same["connectionId"], connected["connectionId"]);
    assert_eq!(ada.next().await, None);
    again.attach("room", json!({})).await;
    assert_eq!(node.world.books.lock().unwrap().attached("room").len(), 1);
}

/// Reads server-sent events from a raw connection until `count` blocks with data have come.
async fn blocks(node: &Node, target: &str, last: Option<&str>, count: usize) -> Vec<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut socket = TcpStream::connect(node.address).await.unwrap();
    let last = last.map_or_else(String::new, |last| format!("last-event-id: {last}\r\n"));
    let head = format!(
        "GET {target} HTTP/1.1\r\nhost: x\r\n{}\r\n{last}\r\n",
        crate::node::root()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    let reading = async {
        let mut bytes = [0; 4096];
        while text.matches("\ndata: ").count() < count {
            let read = socket.read(&mut bytes).await.unwrap();
            assert!(read > 0, "the stream goes on: {text}");
            text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        }
    };
    timeout(PATIENCE, reading)
        .await
        .expect("events come in time");
    let blocks = text.split("\n\n");
    blocks
        .filter(|block| block.contains("data: "))
        .map(str::to_owned)
        .collect()
}

fn line<'a>(block: &'a str, name: &str) -> &'a str {
    let line = block.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} in {block}"))
}

#[tokio::test]
async fn channels_are_followed_as_server_sent_events_and_gone_on_with() {
    let node = Node::start().await;
    let mut publisher = Client::root(&node).await;
    publisher.publish("room", "before").await;
    let told = blocks(&node, "/sse?channels=room&rewind=1", None, 1).await;
    assert_eq!(line(&told[0], "event: "), "message");
    let message: Value = serde_json::from_str(line(&told[0], "data: ")).unwrap();
    assert_eq!(
        (&message["name"], &message["channel"]),
        (&json!("before"), &json!("room"))
    );
    let last = line(&told[0], "id: ").to_owned();

    // Cut off: it counts for its grace, as others do, and goes on where it was.
    let attached = || node.world.books.lock().unwrap().attached("room");
    assert_eq!(attached(), [Modes::SUBSCRIBE]);
    publisher.publish("room", "meanwhile").await;
    let told = blocks(&node, "/event-stream?channels=room", Some(&last), 1).await;
    let message: Value = serde_json::from_str(line(&told[0], "data: ")).unwrap();
    assert_eq!(message["name"], "meanwhile");
    assert_eq!(attached().len(), 1, "the same connection");

    // Data alone, of a metachannel; and what cannot be is told.
    let lifecycle = "/sse?channels=[meta]channel.lifecycle&rewind=1&enveloped=false";
    node.world.tell_opened(&["room"]);
    let told = blocks(&node, lifecycle, None, 1).await;
    let details: Value = serde_json::from_str(line(&told[0], "data: ")).unwrap();
    assert_eq!(details["channelId"], "room");
    let told = blocks(&node, "/sse?channels=:hell", None, 1).await;
    assert_eq!(line(&told[0], "event: "), "error");
    assert!(
        line(&told[0], "data: ").contains(r#""channel":":hell""#),
        "{told:?}"
    );
    assert_eq!(node.get("/sse").await.code(), 40003);
    assert_eq!(node.get("/sse?channels=a&lastEvent=x").await.code(), 40003);
}
