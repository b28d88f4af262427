//! What clients send: frames of official clients, bounds, and the replies to what is refused.

use std::collections::BTreeMap;

use headcount_realtime::{
    CHANNEL_TEXT_BYTES_MAX, ClientFrame, Format, FrameError, Limits, MESSAGES_MAX, Message,
    PARAMS_MAX, PRESENCE_MAX, Payload, PresenceAction, ServerFrame, TEXT_BYTES_MAX,
};
use serde_json::{Value, json};

use crate::support::{encode, take, take_both};

fn attach(channel: &str, flags: u64, params: &[(&str, &str)]) -> ClientFrame {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    ClientFrame::Attach {
        channel: channel.to_owned(),
        channel_serial: None,
        params: params.iter().map(owned).collect::<BTreeMap<_, _>>(),
        flags,
    }
}

fn refused(frame: &Value) -> FrameError {
    take_both(frame).unwrap_err().error
}

#[test]
fn attaches_of_official_clients() {
    let js = json!({ "action": 10, "channel": "room", "params": { "occupancy": "metrics" } });
    let expected = attach("room", 0, &[("occupancy", "metrics")]);
    assert_eq!(take_both(&js), Ok(expected));

    // ably-python sends null for what it does not have, and ATTACH_RESUME.
    let python = json!({ "action": 10, "channel": "room", "params": null, "flags": 32,
        "channelSerial": null, "id": null, "messages": null });
    assert_eq!(take_both(&python), Ok(attach("room", 32, &[])));

    let chat = json!({ "action": 10, "channel": "R::$chat", "flags": 3_080_192,
        "params": { "agent": "chat-js/1.4.0" } });
    let expected = attach("R::$chat", 3_080_192, &[("agent", "chat-js/1.4.0")]);
    assert_eq!(take_both(&chat), Ok(expected));
}

#[test]
fn params_may_be_numbers_and_booleans() {
    let frame = json!({ "action": 10, "channel": "c",
        "params": { "a": 1, "b": -2, "c": true, "d": 1.5, "e": null, "f": 3.0 } });
    let params = [
        ("a", "1"),
        ("b", "-2"),
        ("c", "true"),
        ("d", "1.5"),
        ("f", "3"),
    ];
    assert_eq!(take_both(&frame), Ok(attach("c", 0, &params)));
    assert_eq!(
        refused(&json!({ "action": 10, "channel": "c", "params": { "a": [] } })),
        FrameError::WrongType {
            field: "params.a".to_owned(),
            wanted: "text, a number or a boolean"
        }
    );
}

#[test]
fn publishes_of_official_clients() {
    let frame = json!({ "action": 15, "channel": "room", "msgSerial": 0, "messages": [
        { "name": "n", "data": "{\"a\":1}", "encoding": "json", "action": 0, "size": 8, "id": "x:0" }
    ] });
    let message = Message {
        id: Some("x:0".to_owned()),
        name: Some("n".to_owned()),
        data: Payload::Text("{\"a\":1}".to_owned()),
        encoding: Some("json".to_owned()),
        ..Message::default()
    };
    let expected = ClientFrame::Message {
        channel: "room".to_owned(),
        msg_serial: 0,
        messages: vec![message],
    };
    assert_eq!(take_both(&frame), Ok(expected));
}

#[test]
fn presence_of_official_clients() {
    let frame = json!({ "action": 14, "channel": "room", "msgSerial": 7,
        "presence": [{ "action": 2, "clientId": "u", "data": "hi" }, { "action": 3 }] });
    let Ok(ClientFrame::Presence {
        msg_serial, items, ..
    }) = take_both(&frame)
    else {
        panic!("not taken");
    };
    assert_eq!((msg_serial, items.len()), (7, 2));
    assert_eq!(items[0].client_id.as_deref(), Some("u"));
    assert_eq!(items[0].data, "hi".into());
    assert_eq!(items[1].action, PresenceAction::Leave);
}

#[test]
fn the_small_frames() {
    let channel = || "c".to_owned();
    for (frame, expected) in [
        (json!({ "action": 0 }), ClientFrame::Heartbeat { id: None }),
        (
            json!({ "action": 0, "id": "p" }),
            ClientFrame::Heartbeat {
                id: Some("p".to_owned()),
            },
        ),
        (json!({ "action": 5 }), ClientFrame::Disconnect),
        (json!({ "action": 7 }), ClientFrame::Close),
        (
            json!({ "action": 12, "channel": "c" }),
            ClientFrame::Detach { channel: channel() },
        ),
        (
            json!({ "action": 16, "channel": "c", "channelSerial": "s" }),
            ClientFrame::Sync {
                channel: channel(),
                channel_serial: Some("s".to_owned()),
            },
        ),
        (
            json!({ "action": 17, "auth": { "accessToken": "t" } }),
            ClientFrame::Auth {
                access_token: "t".to_owned(),
            },
        ),
    ] {
        assert_eq!(take_both(&frame), Ok(expected));
    }
}

#[test]
fn unknown_actions_are_for_later_clients() {
    let unknown = |action, msg_serial| Ok(ClientFrame::Unknown { action, msg_serial });
    assert_eq!(
        take_both(&json!({ "action": 99, "x": [1] })),
        unknown(99, None)
    );
    assert_eq!(
        take_both(&json!({ "action": 1, "msgSerial": 4 })),
        unknown(1, None)
    );
    // OBJECT and ANNOTATION wait for an answer.
    assert_eq!(
        take_both(&json!({ "action": 19, "msgSerial": 4 })),
        unknown(19, Some(4))
    );
    assert_eq!(take_both(&json!({ "action": 21 })), unknown(21, Some(0)));
}

#[test]
fn what_is_missing_or_of_another_type_is_named() {
    for (frame, message) in [
        (json!([]), "the frame must be an object"),
        (json!({}), "the frame needs the field action"),
        (
            json!({ "action": "10" }),
            "action must be a whole number, not negative",
        ),
        (
            json!({ "action": -1 }),
            "action must be a whole number, not negative",
        ),
        (json!({ "action": 10 }), "the frame needs the field channel"),
        (
            json!({ "action": 10, "channel": 1 }),
            "channel must be text",
        ),
        (
            json!({ "action": 15, "channel": "c" }),
            "the frame needs the field messages",
        ),
        (
            json!({ "action": 15, "channel": "c", "messages": {} }),
            "messages must be a list",
        ),
        (
            json!({ "action": 15, "channel": "c", "messages": [{}, { "name": 1 }] }),
            "messages[1].name must be text",
        ),
        (
            json!({ "action": 14, "channel": "c", "presence": [7] }),
            "presence[0] must be an object",
        ),
        (
            json!({ "action": 14, "channel": "c", "presence": [{}] }),
            "the frame needs the field presence[0].action",
        ),
        (json!({ "action": 17 }), "the frame needs the field auth"),
        (
            json!({ "action": 17, "auth": {} }),
            "the frame needs the field auth.accessToken",
        ),
    ] {
        let error = refused(&frame);
        assert_eq!((error.code(), error.status()), (40000, 400));
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn clients_only_enter_leave_and_update() {
    for action in [0, 1, 5] {
        let frame = json!({ "action": 14, "channel": "c", "presence": [{ "action": action }] });
        assert_eq!(refused(&frame).code(), 40003);
    }
}

#[test]
fn every_bound_holds() {
    let publish = |messages: Value| json!({ "action": 15, "channel": "c", "messages": messages });
    let enter = |count| {
        let presence = vec![json!({ "action": 2 }); count];
        json!({ "action": 14, "channel": "c", "presence": presence })
    };
    let params = |count: usize| {
        let params: BTreeMap<_, _> = (0..count).map(|index| (index.to_string(), "")).collect();
        json!({ "action": 10, "channel": "c", "params": params })
    };
    let name = |length: usize| publish(json!([{ "name": "n".repeat(length) }]));
    let channel = |length: usize| json!({ "action": 12, "channel": "c".repeat(length) });
    let size =
        |length: usize| publish(json!([{ "data": "d".repeat(length - 1) }, { "name": "n" }]));

    for (largest, too_large, code) in [
        (
            publish(json!(vec![json!({}); MESSAGES_MAX])),
            publish(json!(vec![json!({}); MESSAGES_MAX + 1])),
            40000,
        ),
        (enter(PRESENCE_MAX), enter(PRESENCE_MAX + 1), 40000),
        (params(PARAMS_MAX), params(PARAMS_MAX + 1), 40000),
        (name(TEXT_BYTES_MAX), name(TEXT_BYTES_MAX + 1), 40003),
        (
            channel(CHANNEL_TEXT_BYTES_MAX),
            channel(CHANNEL_TEXT_BYTES_MAX + 1),
            40003,
        ),
        (size(65_536), size(65_537), 40009),
    ] {
        assert!(take_both(&largest).is_ok());
        assert_eq!(refused(&too_large).code(), code);
    }
}

#[test]
fn a_frame_that_is_too_long_is_not_even_read() {
    let limits = Limits {
        frame_bytes_max: 3,
        ..Limits::default()
    };
    let error = ClientFrame::decode(Format::Json, b"{{{{", &limits)
        .unwrap_err()
        .error;
    assert_eq!((error.code(), error.status()), (40009, 413));
    let error = ClientFrame::decode(Format::Json, b"{{{", &limits)
        .unwrap_err()
        .error;
    assert_eq!((error.code(), error.status()), (40001, 400));
}

#[test]
fn refusals_are_told_to_whom_they_concern() {
    let reply = |frame: &Value| take_both(frame).unwrap_err().reply();
    let publish = json!({ "action": 15, "channel": "c", "msgSerial": 3, "messages": [1] });
    assert!(matches!(
        reply(&publish),
        ServerFrame::Nack {
            msg_serial: 3,
            count: 1,
            ..
        }
    ));
    let attach = json!({ "action": 10, "channel": "c", "params": 1 });
    assert!(matches!(
        reply(&attach),
        ServerFrame::Error { channel: Some(channel), .. } if channel == "c"
    ));
    let garbage = take(Format::Json, b"no").unwrap_err();
    assert!(matches!(
        garbage.reply(),
        ServerFrame::Error { channel: None, error } if error.code == 40001
    ));
}

#[test]
fn of_a_repeated_field_the_last_one_counts() {
    let frame = take(
        Format::Json,
        br#"{"action":12,"channel":"a","channel":"b"}"#,
    );
    let channel = "b".to_owned();
    assert_eq!(frame, Ok(ClientFrame::Detach { channel }));
}

#[test]
fn binary_comes_by_message_pack_alone() {
    // {"action":15,"channel":"c","messages":[{"data":bin 00 ff}]}
    let bytes = b"\x83\xa6action\x0f\xa7channel\xa1c\xa8messages\x91\x81\xa4data\xc4\x02\x00\xff";
    let Ok(ClientFrame::Message { messages, .. }) = take(Format::MessagePack, bytes) else {
        panic!("not taken");
    };
    assert_eq!(messages[0].data, Payload::Bytes((&[0, 255][..]).into()));
    assert!(
        take(
            Format::Json,
            &encode(Format::MessagePack, &json!({ "action": 7 }))
        )
        .is_err()
    );
}
