//! What is fuzzed: each decoder with real input to begin with, and what must hold of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use headcount_access::{Capability, NonceWindow, QualifiedName, Secret, TokenRequest, issue_token};
use headcount_model::{
    AppId, ChannelKey, ConnectionId, Cursor, EarlyMark, Era, Fence, Incarnation, MemberId, NodeId,
    Occupancy, Position, RegionName, ReportItem, ShardCursor, ShardId, Told,
};
use headcount_realtime::{
    AttachParams, Broadcast, ClientFrame, ConnectQuery, Content, Envelope, Format, Limits, Message,
};
use headcount_relay::{
    Change, GatewayItem, GatewayMessage, Member, MemberKey, Message as Relayed, Newness, OwnerItem,
    OwnerMessage, RegionItem, RegionMessage, RelayChannel,
};
use headcount_rpc::peers::{RelayMessage, RelayParcel};
use headcount_wire::proto::relay::v1 as proto;
use headcount_wire::proto::report::v1 as report;
use headcount_wire::{ReportReceived, take_item, take_report_request};
use prost::Message as _;
use serde_json::{Value, json};

use crate::driver::{Shape, Target};
use crate::mutate::Tree;
use crate::tokens::{NOW_MS, apps, present, valid};

/// Longest reply to a frame that is refused; it names what was wrong, and does not repeat it.
const REPLY_BYTES_MAX: usize = 16 * 1024;

/// Fields of frames, messages, members and requests, and names of params.
const WORDS: [&str; 48] = [
    "action",
    "channel",
    "channelSerial",
    "msgSerial",
    "flags",
    "params",
    "modes",
    "occupancy",
    "rewind",
    "messages",
    "presence",
    "id",
    "name",
    "clientId",
    "connectionId",
    "connectionKey",
    "data",
    "encoding",
    "extras",
    "timestamp",
    "serial",
    "auth",
    "accessToken",
    "keyName",
    "ttl",
    "capability",
    "nonce",
    "mac",
    "metrics",
    "metrics.subscribers",
    "subscribe",
    "publish",
    "presence_subscribe",
    "15s",
    "2m",
    "json",
    "utf-8/cipher+aes-128-cbc/base64",
    "[meta]channel.lifecycle",
    "[meta?rewind=1]log",
    "[?occupancy=metrics]room",
    "resume",
    "recover",
    "heartbeats",
    "heartbeatInterval",
    "remainPresentFor",
    "format",
    "msgpack",
    "v",
];

/// Everything that is fuzzed.
pub fn targets() -> Vec<Target> {
    let mut all = Vec::new();
    for (format, frames, bodies) in [
        (Format::Json, "frames_json", "bodies_json"),
        (Format::MessagePack, "frames_msgpack", "bodies_msgpack"),
    ] {
        let seeds = encoded(format, &frames_of_clients());
        all.push(tree(
            format,
            Target::new(frames, seeds, move |bytes| frame(format, bytes)),
        ));
        let seeds = encoded(format, &bodies_of_publishes());
        all.push(tree(
            format,
            Target::new(bodies, seeds, move |bytes| body(format, bytes)),
        ));
    }
    let seeds = broadcasts()
        .iter()
        .map(|sent| sent.to_bytes().to_vec())
        .collect();
    all.push(tree(
        Format::MessagePack,
        Target::new("broadcasts", seeds, broadcast),
    ));
    let seeds = parcels().into_iter();
    let seeds = seeds.map(|parcel| proto::Parcel::from(&parcel).encode_to_vec());
    all.push(Target::new("relay_parcels", seeds.collect(), parcel));
    all.push(Target::new(
        "report_requests",
        report_requests(),
        report_request,
    ));
    all.push(words(Target::new(
        "attach_params",
        texts(&ATTACHES),
        attach,
    )));
    all.push(words(Target::new(
        "connect_queries",
        texts(&QUERIES),
        query,
    )));
    let cursors: Vec<_> = cursors().iter().map(Cursor::to_token).collect();
    let bodies = cursors
        .iter()
        .map(|token| URL_SAFE_NO_PAD.decode(token).expect("a token"));
    let bodies = bodies.map(|bytes| bytes[..bytes.len() - CHECKSUM_BYTES].to_vec());
    all.push(Target::new("cursor_bodies", bodies.collect(), cursor_body));
    let seeds = cursors.into_iter().map(String::into_bytes).collect();
    all.push(Target::new("cursor_tokens", seeds, cursor_token));
    let capabilities = Target::new("capabilities", texts(&CAPABILITIES), capability);
    all.push(tree(Format::Json, capabilities));
    all.push(credentials());
    let seeds = encoded(Format::Json, &token_requests());
    all.push(tree(
        Format::Json,
        Target::new("token_requests", seeds, token_request()),
    ));
    all
}

fn words(mut target: Target) -> Target {
    target.words.extend(WORDS);
    target
}

fn tree(format: Format, target: Target) -> Target {
    let tree = match format {
        Format::Json => Tree::Json,
        Format::MessagePack => Tree::MessagePack,
    };
    Target {
        tree,
        ..words(target)
    }
}

fn encode(format: Format, value: &Value) -> Vec<u8> {
    match format {
        Format::Json => value.to_string().into_bytes(),
        Format::MessagePack => rmp_serde::to_vec_named(value).expect("JSON can be packed"),
    }
}

fn encoded(format: Format, values: &[Value]) -> Vec<Vec<u8>> {
    values.iter().map(|value| encode(format, value)).collect()
}

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Frames as official clients send them.
fn frames_of_clients() -> Vec<Value> {
    vec![
        json!({ "action": 0, "id": "p1" }),
        json!({ "action": 5 }),
        json!({ "action": 7 }),
        json!({ "action": 10, "channel": "room", "params": { "occupancy": "metrics" } }),
        json!({ "action": 10, "channel": "[?rewind=1&modes=subscribe]room", "flags": 3_080_192,
            "params": { "agent": "chat-js/1.4.0", "rewind": "2m", "modes": "publish,presence" },
            "channelSerial": "abc" }),
        json!({ "action": 10, "channel": "[meta]channel.lifecycle", "params": null, "flags": 32,
            "channelSerial": null, "id": null, "messages": null }),
        json!({ "action": 12, "channel": "room" }),
        json!({ "action": 14, "channel": "room", "msgSerial": 2, "presence": [
            { "action": 2, "clientId": "ann", "data": { "mood": [1, -2, 0.5] } },
            { "action": 4, "data": "x", "encoding": "utf-8/cipher+aes-128-cbc/base64" },
            { "action": 3, "extras": { "headers": { "a": true } } } ] }),
        json!({ "action": 15, "channel": "room", "msgSerial": 0, "messages": [
            { "name": "n", "data": "{\"a\":1}", "encoding": "json", "action": 0, "size": 8,
              "id": "x:0", "clientId": "ann", "extras": { "ref": { "type": "r" } } },
            { "data": [null, true, "é", 1.5, -1, 18_446_744_073_709_551_615_u64] }, {} ] }),
        json!({ "action": 16, "channel": "room", "channelSerial": "c:1" }),
        json!({ "action": 17, "auth": { "accessToken": "t.t" } }),
        json!({ "action": 19, "channel": "room", "msgSerial": 9, "state": [{}] }),
    ]
}

fn bodies_of_publishes() -> Vec<Value> {
    vec![
        json!({ "name": "n", "data": "x", "clientId": "ann", "timestamp": 1, "id": "i:0" }),
        json!([{ "data": { "a": [1] } }, { "name": "b", "extras": { "push": {} }, "action": 3 }]),
    ]
}

/// A frame of a client: its reply is small, or what it says is the same in both formats and on
/// other nodes.
fn frame(format: Format, bytes: &[u8]) -> Shape {
    let limits = Limits::default();
    let taken = ClientFrame::decode(format, bytes, &limits);
    match &taken {
        Err(refused) => {
            let reply = refused.reply();
            for format in Format::ALL {
                let length = reply.encode(format).len();
                assert!(length <= REPLY_BYTES_MAX, "a reply of {length} bytes");
            }
        }
        Ok(frame) => {
            if format == Format::Json {
                let packed = encode(Format::MessagePack, &json_of(bytes));
                let again = ClientFrame::decode(Format::MessagePack, &packed, &limits);
                assert_eq!(again.as_ref(), Ok(frame), "packed");
            }
            match frame {
                ClientFrame::Attach {
                    channel,
                    params,
                    flags,
                    ..
                } => {
                    if let Ok(name) = QualifiedName::parse(channel) {
                        resolve(&name, params, *flags);
                    }
                }
                ClientFrame::Presence { items, .. } => {
                    relayed(Content::Presence(items.clone()));
                }
                ClientFrame::Message { messages, .. } => {
                    relayed(Content::Messages(messages.clone()));
                }
                ClientFrame::Heartbeat { .. }
                | ClientFrame::Disconnect
                | ClientFrame::Close
                | ClientFrame::Detach { .. }
                | ClientFrame::Sync { .. }
                | ClientFrame::Auth { .. }
                | ClientFrame::Unknown { .. } => {}
            }
        }
    }
    Shape::of(&taken)
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("what decodes is JSON")
}

/// The body of a publish over HTTP.
fn body(format: Format, bytes: &[u8]) -> Shape {
    let taken = Message::decode_body(format, bytes, &Limits::default());
    if let Ok(messages) = &taken {
        relayed(Content::Messages(messages.clone()));
    }
    Shape::of(&taken)
}

/// What was taken goes to other nodes, which read the same.
fn relayed(content: Content) {
    let sent = Broadcast::new(Envelope::default(), content);
    let read = Broadcast::from_bytes(sent.to_bytes());
    let read = read.expect("other nodes can read it");
    assert_eq!(read.content(), sent.content(), "relayed");
    let frame = sent.frame(Format::Json, "c", Some("s"));
    let _parsed: Value = serde_json::from_slice(&frame).expect("a frame is JSON");
}

fn broadcasts() -> Vec<Broadcast> {
    let envelope = Envelope {
        id: Some("c:3".to_owned()),
        timestamp_ms: Some(NOW_MS),
        connection_id: Some("c".to_owned()),
    };
    let limits = Limits::default();
    frames_of_clients()
        .iter()
        .filter_map(|frame| {
            let bytes = encode(Format::MessagePack, frame);
            match ClientFrame::decode(Format::MessagePack, &bytes, &limits).ok()? {
                ClientFrame::Message { messages, .. } => Some(Content::Messages(messages)),
                ClientFrame::Presence { items, .. } => Some(Content::Presence(items)),
                _ => None,
            }
        })
        .map(|content| Broadcast::new(envelope.clone(), content))
        .collect()
}

/// What another node has sent.
fn broadcast(bytes: &[u8]) -> Shape {
    let taken = Broadcast::from_bytes(bytes);
    if let Ok(taken) = &taken {
        let again = Broadcast::from_bytes(taken.to_bytes()).expect("it can be read again");
        assert_eq!(
            (again.envelope(), again.content()),
            (taken.envelope(), taken.content())
        );
        let _size = taken.size();
    }
    Shape::of(&taken)
}

fn parcels() -> Vec<RelayParcel> {
    let channel = |name| {
        let app = AppId::new("dev").expect("an app");
        RelayChannel::new(app, name).expect("a channel")
    };
    let connection = || ConnectionId::new("c1").expect("a connection");
    let member = |id| Member {
        key: MemberKey {
            connection: connection(),
            id: MemberId::new(id).expect("a member"),
        },
        newness: Newness {
            serial: 3,
            index: 1,
        },
        data: Arc::from(&b"data"[..]),
    };
    let message = || Relayed {
        channel: channel("[meta]log"),
        publisher: connection(),
        body: Arc::from(broadcasts()[0].to_bytes()),
    };
    let changes = || vec![Change::Put(member("ann")), Change::Leave(member("bé"))];
    let (first, last) = (true, false);
    let gateway = GatewayMessage {
        node: NodeId(4),
        incarnation: Incarnation(7),
        fence: Fence(9),
        stream: 1,
        sequence: 2,
        items: vec![
            GatewayItem::Interest {
                channel: channel("room"),
                on: true,
            },
            GatewayItem::Changes {
                channel: channel("room"),
                changes: changes(),
            },
            GatewayItem::Publish(message()),
            GatewayItem::Complete,
        ],
    };
    let set = OwnerItem::Set {
        channel: channel("a:b"),
        members: vec![member("x")],
        first,
        last,
    };
    let changed = OwnerItem::Changes {
        channel: channel("room"),
        changes: changes(),
    };
    let owner = |sequence, items| OwnerMessage {
        fence: Fence(9),
        stream: 3,
        sequence,
        items,
    };
    let region = RegionMessage {
        region: RegionName::new("eu-west-1").expect("a region"),
        fence: Fence(9),
        to: Fence(8),
        stream: 1,
        sequence: 5,
        items: vec![
            RegionItem::Ready,
            RegionItem::Interest {
                channel: channel("room"),
                fence: Fence(1),
                version: 2,
            },
            RegionItem::Set {
                channel: channel("room"),
                version: 2,
                members: vec![member("x")],
                first,
                last,
            },
            RegionItem::Changes {
                channel: channel("room"),
                previous: 2,
                version: 4,
                changes: changes(),
            },
            RegionItem::Message(message()),
            RegionItem::Restart { stream: 2 },
        ],
    };
    [
        RelayMessage::Gateway(gateway),
        RelayMessage::Owner(owner(1, vec![set, changed, OwnerItem::Message(message())])),
        RelayMessage::Owner(owner(0, vec![OwnerItem::Restart])),
        RelayMessage::Region(region),
    ]
    .into_iter()
    .map(|message| RelayParcel {
        shard: ShardId(3),
        message,
    })
    .collect()
}

/// What edges send.
fn report_requests() -> Vec<Vec<u8>> {
    use report::item::Change;
    use report::report_request::Body;
    let (connection, channel) = ("connection-1".to_owned(), "room:1".to_owned());
    let changes = [
        Change::Attach(report::Attach {
            connection: connection.clone(),
            channel: channel.clone(),
            modes: 15,
        }),
        Change::PresenceEnter(report::PresenceEnter {
            connection: connection.clone(),
            channel: channel.clone(),
            member: "ann".to_owned(),
        }),
        Change::Counts(report::Counts {
            channel: channel.clone(),
            occupancy: Some(Occupancy::from_counts([7; 8]).into()),
        }),
        Change::Activity(report::Activity { channel }),
        Change::ConnectionClosed(report::ConnectionClosed { connection }),
    ];
    let items = changes.map(|change| report::Item {
        change: Some(change),
    });
    let bodies = [
        Body::Batch(report::Batch {
            sequence: 1,
            items: items.into(),
            set_complete: true,
        }),
        Body::Hello(report::Hello {
            protocol_max: 1,
            edge: "edge".to_owned(),
            ..report::Hello::default()
        }),
        Body::Goodbye(report::Goodbye {}),
    ];
    let encoded = bodies.map(|body| report::ReportRequest { body: Some(body) }.encode_to_vec());
    encoded.into()
}

/// A request of an edge is read, or refused; what is read is what the generated types read.
fn report_request(bytes: &[u8]) -> Shape {
    let received = match take_report_request(bytes) {
        Ok(received) => received,
        Err(error) => return Shape::of(&error),
    };
    let shape = Shape::of(&received);
    let plainly = report::ReportRequest::decode(bytes).expect("what is read is a request");
    match (received, plainly.body) {
        (ReportReceived::Nothing, None) => {}
        (ReportReceived::Hello(hello), Some(report::report_request::Body::Hello(plain))) => {
            assert_eq!(hello, plain);
        }
        (ReportReceived::Goodbye, Some(report::report_request::Body::Goodbye(_))) => {}
        (ReportReceived::Batch(received), Some(report::report_request::Body::Batch(plain))) => {
            let plain: Vec<_> = plain.items.iter().map(take_item).collect();
            assert_eq!(received.total, plain.len());
            let good = plain.iter().filter_map(|item| item.as_ref().ok());
            assert!(
                received
                    .batch
                    .items
                    .iter()
                    .eq(good.map(ReportItem::as_change))
            );
        }
        (received, plain) => panic!("{received:?} is read, and {plain:?} is plain"),
    }
    shape
}

/// A message of the relay's stages, as it comes from another node.
fn parcel(bytes: &[u8]) -> Shape {
    let Ok(decoded) = proto::Parcel::decode(bytes) else {
        return Shape::of(&"no protobuf");
    };
    let taken = RelayParcel::try_from(decoded);
    if let Ok(taken) = &taken {
        let sent = proto::Parcel::from(taken).encode_to_vec();
        let again = proto::Parcel::decode(&sent[..]).expect("our own protobuf");
        assert_eq!(RelayParcel::try_from(again).as_ref(), Ok(taken));
    }
    Shape::of(&taken)
}

/// The channel of an ATTACH, its flags, and its params.
const ATTACHES: [&str; 6] = [
    "room\n0",
    "[meta]channel.lifecycle\n32\nrewind=10",
    "[?rewind=1&occupancy=metrics]room\n196608\nmodes=subscribe,publish\nrewind=2m",
    "[meta?rewind=15s]log\n0\noccupancy=metrics.subscribers",
    "[?modes=presence%5Fsubscribe&a=%20]a:b\n18446744073709551615",
    "R::$chat\n3080192\nagent=chat-js\ndelta=vcdiff",
];

fn attach(bytes: &[u8]) -> Shape {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let channel = lines.next().unwrap_or_default();
    let flags = lines.next().unwrap_or_default().parse().unwrap_or_default();
    let params = lines.filter_map(|line| line.split_once('='));
    let params = params
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    match QualifiedName::parse(channel) {
        Ok(name) => resolve(&name, &params, flags),
        Err(fault) => Shape::of(&fault),
    }
}

/// What took effect has the same effect if it is asked for again.
fn resolve(name: &QualifiedName<'_>, params: &BTreeMap<String, String>, flags: u64) -> Shape {
    let base = name.base();
    assert!(!base.is_empty() && !base.starts_with('['), "{name:?}");
    let plain = name.channel();
    let again = QualifiedName::parse(&plain).expect("a channel without params is one");
    assert_eq!((again.channel(), again.params().len()), (plain.clone(), 0));
    let resolved = AttachParams::resolve(name.params(), params, flags);
    if let Ok(resolved) = &resolved {
        let again = AttachParams::resolve(&[], &resolved.echo, flags);
        assert_eq!(again.as_ref(), Ok(resolved));
    }
    Shape::of(&resolved)
}

const QUERIES: [&str; 4] = [
    "key=a&v=6&format=msgpack&heartbeats=true&echo=false&clientId=ann",
    "accessToken=t&v=1.2&heartbeatInterval=5000&remainPresentFor=0",
    "resume=a!b&v=2",
    "recover={\"connectionKey\":\"a!b\",\"msgSerial\":3,\"channelSerials\":{\"c\":\"s\"}}",
];

fn query(bytes: &[u8]) -> Shape {
    let text = String::from_utf8_lossy(bytes);
    let pairs = text
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let pairs: Vec<_> = pairs.collect();
    let parsed = ConnectQuery::parse(&pairs);
    if let Ok(query) = &parsed {
        assert!(
            query
                .version
                .is_none_or(|version| (1..=6).contains(&version)),
            "{query:?}"
        );
        let interval_ms = query.heartbeat_interval_ms;
        assert!(
            interval_ms.is_none_or(|ms| (5_000..=1_800_000).contains(&ms)),
            "{query:?}"
        );
    }
    Shape::of(&parsed)
}

/// Bytes of the checksum at a cursor's end.
const CHECKSUM_BYTES: usize = 4;

fn cursors() -> Vec<Cursor> {
    let told = |number, name| Told {
        number,
        channel: ChannelKey::new("dev", name).expect("a channel"),
        active: number % 2 == 0,
    };
    let early = EarlyMark {
        region: RegionName::new("eu-west-1").expect("a region"),
        fence: Fence(7),
        number: 12,
        told: vec![told(11, "room"), told(12, "a:b,é")],
        overflow: false,
    };
    let log = |index, ordinal| Position { index, ordinal };
    let overflow = EarlyMark {
        overflow: true,
        ..early.clone()
    };
    let shards = [
        (0, log(1, 0), None),
        (3, log(500, u32::MAX), Some(early)),
        (200, log(u64::MAX, 7), Some(overflow)),
    ];
    let shards = shards.map(|(shard, log, early)| (ShardId(shard), ShardCursor { log, early }));
    let era = Era(2);
    vec![
        Cursor::default(),
        Cursor {
            era,
            shards: shards.into(),
        },
    ]
}

fn cursor_token(bytes: &[u8]) -> Shape {
    cursor(&String::from_utf8_lossy(bytes))
}

/// A cursor behind its checksum, which no mutation would find.
fn cursor_body(bytes: &[u8]) -> Shape {
    let (low, high) = bytes.iter().fold((1_u32, 0_u32), |(low, high), byte| {
        let low = (low + u32::from(*byte)) % 65_521;
        (low, (high + low) % 65_521)
    });
    let checksum = ((high << 16) | low).to_le_bytes();
    cursor(&URL_SAFE_NO_PAD.encode([bytes, &checksum].concat()))
}

fn cursor(token: &str) -> Shape {
    let read = Cursor::from_token(token);
    if let Ok(cursor) = &read {
        let again = Cursor::from_token(&cursor.to_token());
        assert_eq!(again.as_ref(), Ok(cursor));
    }
    Shape::of(&read)
}

const CAPABILITIES: [&str; 5] = [
    r#"{"[*]*":["*"]}"#,
    r#"{"room:*":["subscribe","presence"],"[meta]*":["history"],"lobby":["*"]}"#,
    r#"{"*":["publish","channel-metadata","push-admin","statistics"]}"#,
    r#"{"[?rewind=1]a":["subscribe"],"a":["publish"],"a:*:c":["*"]}"#,
    "{}",
];

/// A capability: its text is canonical, and it permits together with another what both permit.
fn capability(bytes: &[u8]) -> Shape {
    let parsed = Capability::parse(&String::from_utf8_lossy(bytes));
    if let Ok(parsed) = &parsed {
        let text = parsed.to_string();
        let again = Capability::parse(&text);
        assert_eq!(again.as_ref(), Ok(parsed), "{text}");
        let whole = parsed.intersection(&Capability::everything());
        assert_eq!(whole.as_ref(), Ok(parsed), "everything is the identity");
        let other = Capability::parse(CAPABILITIES[1]).expect("it is well formed");
        // The overlap of many with many may be too much.
        if let Ok(both) = parsed.intersection(&other) {
            for resource in resources(parsed).iter().chain(&resources(&other)) {
                let [one, two] = [parsed, &other].map(|each| each.operations_on(resource));
                assert_eq!(
                    both.operations_on(resource),
                    one.intersection(two),
                    "{resource}"
                );
            }
        }
    }
    Shape::of(&parsed)
}

/// Some resources of those that a capability is about.
fn resources(capability: &Capability) -> Vec<String> {
    let text = capability.to_string();
    let grants: BTreeMap<String, Value> = serde_json::from_str(&text).expect("a map");
    let wild = ["x", "room", "a:b", "meta"];
    let each = |pattern: &String| wild.map(|name| pattern.replace('*', name));
    grants.keys().flat_map(each).collect()
}

/// Keys, tokens and JWTs: no change of a valid one makes another one that is valid.
fn credentials() -> Target {
    let apps = apps();
    let valid = valid(&apps);
    let known: Vec<_> = valid.iter().flat_map(|text| present(&apps, text)).collect();
    assert!(
        known.len() > valid.len(),
        "some are the same however they are presented"
    );
    let seeds = valid.into_iter().map(String::into_bytes).collect();
    Target::new("credentials", seeds, move |bytes| {
        let presented = present(&apps, &String::from_utf8_lossy(bytes));
        for credential in &presented {
            assert!(known.contains(credential), "forged: {credential:?}");
        }
        Shape::of(&presented)
    })
}

fn token_requests() -> Vec<Value> {
    let mut signed = json!({
        "keyName": "dev.root", "ttl": 3_600_000, "capability": "{\"room:*\":[\"subscribe\"]}",
        "clientId": "ann", "timestamp": NOW_MS, "nonce": "0123456789abcdef",
    });
    let mac = TokenRequest::from_value(&signed)
        .and_then(|request| request.mac(&Secret::new("root-secret")));
    signed["mac"] = mac.expect("it can be signed").into();
    vec![
        signed,
        json!({ "keyName": "dev.root", "capability": { "lobby": ["*"] } }),
        json!({ "ttl": "60000", "timestamp": "1760000000000" }),
        json!({ "clientId": "*", "capability": "", "nonce": null }),
    ]
}

/// Requests for tokens: what is issued is valid, and permits no more than the key.
fn token_request() -> impl Fn(&[u8]) -> Shape {
    let apps = apps();
    let key = "dev.rooms:rooms-secret";
    let presenter = present(&apps, key).pop().expect("the key is valid");
    move |bytes| {
        let Ok(body) = serde_json::from_slice::<Value>(bytes) else {
            return Shape::of(&"no JSON");
        };
        let request = match TokenRequest::from_value(&body) {
            Ok(request) => request,
            Err(error) => return Shape::of(&error),
        };
        let mut nonces = NonceWindow::new(4);
        let issued = ["dev.root", "dev.rooms"].map(|name| {
            issue_token(
                &apps,
                name,
                &request,
                Some(&presenter),
                &mut nonces,
                [7; 16],
                NOW_MS,
            )
        });
        for details in issued.iter().flatten() {
            let credential = present(&apps, &details.token).pop().expect("it is valid");
            let key = apps.key(&details.key_name).expect("its key is known");
            for resource in resources(credential.capability()) {
                let [own, whole] = [credential.capability(), key.capability()]
                    .map(|capability| capability.operations_on(&resource));
                assert_eq!(own.intersection(whole), own, "{resource}");
            }
            let encoded = present(&apps, &STANDARD.encode(&details.token)).pop();
            assert_eq!(encoded, Some(credential));
        }
        Shape::of(&issued.map(|issued| issued.map(|details| details.capability)))
    }
}
