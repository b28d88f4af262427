//! Frames in both formats, and arbitrary messages.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use serde_json::Value;

use headcount_realtime::{
    ClientFrame, Format, Limits, Message, Payload, PresenceAction, PresenceMessage, RefusedFrame,
};

/// Encodes a frame as a client would.
pub(crate) fn encode(format: Format, frame: &Value) -> Vec<u8> {
    match format {
        Format::Json => frame.to_string().into_bytes(),
        Format::MessagePack => rmp_serde::to_vec_named(frame).unwrap(),
    }
}

/// Decodes a server's frame that has no binary in it.
pub(crate) fn decode(format: Format, bytes: &[u8]) -> Value {
    match format {
        Format::Json => serde_json::from_slice(bytes).unwrap(),
        Format::MessagePack => rmp_serde::from_slice(bytes).unwrap(),
    }
}

pub(crate) fn take(format: Format, bytes: &[u8]) -> Result<ClientFrame, RefusedFrame> {
    ClientFrame::decode(format, bytes, &Limits::default())
}

/// Takes the same frame in both formats, which must make no difference.
pub(crate) fn take_both(frame: &Value) -> Result<ClientFrame, RefusedFrame> {
    let json = take(Format::Json, &encode(Format::Json, frame));
    let packed = take(Format::MessagePack, &encode(Format::MessagePack, frame));
    assert_eq!(json, packed);
    json
}

fn payloads() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(Payload::None),
        ".{0,20}".prop_map(Payload::Text),
        vec(any::<u8>(), 0..20).prop_map(|bytes| Payload::Bytes(bytes.into())),
    ]
}

fn extras() -> impl Strategy<Value = Option<Value>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // Of longer fractions serde_json may read the last digit differently.
        any::<i16>().prop_map(|number| Value::from(f64::from(number) / 4.0)),
        ".{0,8}".prop_map(Value::from),
    ];
    let tree = leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(".{0,4}", inner, 0..4)
                .prop_map(|map| map.into_iter().collect()),
        ]
    });
    of(tree.prop_filter("null is the same as absent", |value| !value.is_null()))
}

/// Messages with what a client may say.
pub(crate) fn messages() -> impl Strategy<Value = Message> {
    let texts = (of(".{0,9}"), of(".{0,9}"), of(".{0,9}"), of("[a-z]{1,9}"));
    (texts, payloads(), extras()).prop_map(|((id, name, client_id, encoding), data, extras)| {
        Message {
            id,
            name,
            client_id,
            data,
            encoding,
            extras,
            ..Message::default()
        }
    })
}

/// Presence messages with what a client may say.
pub(crate) fn presence() -> impl Strategy<Value = PresenceMessage> {
    let action = prop_oneof![
        Just(PresenceAction::Enter),
        Just(PresenceAction::Leave),
        Just(PresenceAction::Update),
    ];
    (messages(), action).prop_map(|(message, action)| PresenceMessage {
        id: message.id,
        action,
        client_id: message.client_id,
        connection_id: None,
        data: message.data,
        encoding: message.encoding,
        extras: message.extras,
        timestamp_ms: None,
    })
}
