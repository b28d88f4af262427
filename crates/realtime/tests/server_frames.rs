//! What a node sends, as official clients want it.

use headcount_realtime::{
    ChannelModes, ConnectionDetails, Envelope, Format, Message, Payload, PresenceAction,
    PresenceMessage, ProtocolError, PublishResult, ServerFrame, flags,
};
use serde_json::{Value, json};

use crate::support::decode;

/// Compares the encodings in both formats with what is wanted.
fn check(frame: &ServerFrame, wanted: &Value) {
    for format in Format::ALL {
        assert_eq!(decode(format, &frame.encode(format)), *wanted, "{format}");
    }
}

fn channel() -> String {
    "[?rewind=1]c".to_owned()
}

fn error() -> ProtocolError {
    ProtocolError::new(80008, 400, "expired")
}

#[test]
fn connected() {
    let mut details = ConnectionDetails {
        client_id: None,
        connection_key: "k".to_owned(),
        max_message_size: 65_536,
        max_frame_size: 524_288,
        max_inbound_rate: 50,
        connection_state_ttl_ms: 120_000,
        max_idle_interval_ms: 15_000,
        server_id: "n1".to_owned(),
        site_code: None,
    };
    let frame = |details: &ConnectionDetails, error| ServerFrame::Connected {
        connection_id: "C".to_owned(),
        details: Box::new(details.clone()),
        error,
    };
    let mut wanted = json!({ "action": 4, "connectionId": "C", "connectionDetails": {
        "connectionKey": "k", "maxMessageSize": 65_536, "maxFrameSize": 524_288,
        "maxInboundRate": 50, "connectionStateTtl": 120_000, "maxIdleInterval": 15_000,
        "serverId": "n1" } });
    check(&frame(&details, None), &wanted);

    details.client_id = Some("u".to_owned());
    details.site_code = Some("eu".to_owned());
    wanted["connectionDetails"]["clientId"] = json!("u");
    wanted["connectionDetails"]["siteCode"] = json!("eu");
    wanted["error"] = json!({ "code": 80008, "statusCode": 400, "message": "expired" });
    check(&frame(&details, Some(error())), &wanted);
}

#[test]
fn acknowledgements_serialise_zero() {
    let ack = |results| ServerFrame::Ack {
        msg_serial: 0,
        count: 1,
        results,
    };
    check(
        &ack(vec![]),
        &json!({ "action": 1, "msgSerial": 0, "count": 1 }),
    );
    let serials = vec!["s:0".to_owned()];
    check(
        &ack(vec![PublishResult { serials }]),
        &json!({ "action": 1, "msgSerial": 0, "count": 1, "res": [{ "serials": ["s:0"] }] }),
    );
    let nack = ServerFrame::Nack {
        msg_serial: 0,
        count: 2,
        error: ProtocolError {
            href: Some("h".to_owned()),
            ..error()
        },
    };
    check(
        &nack,
        &json!({ "action": 2, "msgSerial": 0, "count": 2,
            "error": { "code": 80008, "statusCode": 400, "message": "expired", "href": "h" } }),
    );
}

#[test]
fn attachments() {
    let modes = ChannelModes::SUBSCRIBE.flags();
    let attached = ServerFrame::Attached {
        channel: channel(),
        channel_serial: Some("s".to_owned()),
        flags: modes | flags::HAS_PRESENCE | flags::RESUMED,
        params: [("rewind".to_owned(), "1".to_owned())].into(),
        error: None,
    };
    check(
        &attached,
        &json!({ "action": 11, "channel": "[?rewind=1]c", "channelSerial": "s",
            "flags": 0x4_0005, "params": { "rewind": "1" } }),
    );
    let detached = |error| ServerFrame::Detached {
        channel: channel(),
        error,
    };
    check(
        &detached(None),
        &json!({ "action": 13, "channel": "[?rewind=1]c" }),
    );
    let told = json!({ "code": 80008, "statusCode": 400, "message": "expired" });
    check(
        &detached(Some(error())),
        &json!({ "action": 13, "channel": "[?rewind=1]c", "error": told }),
    );
}

#[test]
fn the_small_frames() {
    let told = json!({ "code": 80008, "statusCode": 400, "message": "expired" });
    for (frame, wanted) in [
        (ServerFrame::Heartbeat { id: None }, json!({ "action": 0 })),
        (
            ServerFrame::Heartbeat {
                id: Some("p".to_owned()),
            },
            json!({ "action": 0, "id": "p" }),
        ),
        (
            ServerFrame::Disconnected { error: error() },
            json!({ "action": 6, "error": told }),
        ),
        (ServerFrame::Closed, json!({ "action": 8 })),
        (
            ServerFrame::Error {
                channel: None,
                error: error(),
            },
            json!({ "action": 9, "error": told }),
        ),
        (
            ServerFrame::Error {
                channel: Some(channel()),
                error: error(),
            },
            json!({ "action": 9, "channel": "[?rewind=1]c", "error": told }),
        ),
        (ServerFrame::Auth, json!({ "action": 17 })),
    ] {
        check(&frame, &wanted);
    }
}

#[test]
fn messages_and_members() {
    let message = ServerFrame::Message {
        channel: channel(),
        channel_serial: Some("s".to_owned()),
        envelope: Envelope {
            id: Some("C:0".to_owned()),
            timestamp_ms: Some(1_760_000_000_000),
            connection_id: Some("C".to_owned()),
        },
        messages: vec![Message {
            name: Some("n".to_owned()),
            data: Payload::Text("{}".to_owned()),
            encoding: Some("json".to_owned()),
            extras: Some(json!({ "headers": { "k": 1 } })),
            ..Message::default()
        }],
    };
    check(
        &message,
        &json!({ "action": 15, "channel": "[?rewind=1]c", "channelSerial": "s", "id": "C:0",
            "timestamp": 1_760_000_000_000_u64, "connectionId": "C", "messages": [
                { "name": "n", "data": "{}", "encoding": "json", "action": 0,
                  "extras": { "headers": { "k": 1 } } }] }),
    );
    let member = PresenceMessage {
        id: Some("C:0:0".to_owned()),
        action: PresenceAction::Present,
        client_id: Some("u".to_owned()),
        connection_id: Some("C".to_owned()),
        data: Payload::None,
        encoding: None,
        extras: None,
        timestamp_ms: Some(5),
    };
    let sync = ServerFrame::Sync {
        channel: channel(),
        channel_serial: "q:".to_owned(),
        presence: vec![member],
    };
    check(
        &sync,
        &json!({ "action": 16, "channel": "[?rewind=1]c", "channelSerial": "q:", "presence": [
            { "id": "C:0:0", "action": 1, "clientId": "u", "connectionId": "C", "timestamp": 5 }] }),
    );
}
