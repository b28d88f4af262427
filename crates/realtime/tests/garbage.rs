//! No input makes the decoder panic, and what is taken survives being said again.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use headcount_realtime::{Broadcast, ClientFrame, Content, Envelope, Format, Message, Payload};

use crate::support::{messages, presence, take};

fn formats() -> impl Strategy<Value = Format> {
    prop_oneof![Just(Format::Json), Just(Format::MessagePack)]
}

/// A frame that a client could send, made by the encoder of frames for subscribers: the two differ
/// in `msgSerial` only, which may be absent.
fn publish(format: Format, messages: Vec<Message>) -> Vec<u8> {
    let broadcast = Broadcast::new(Envelope::default(), Content::Messages(messages));
    broadcast.frame(format, "c", None).to_vec()
}

/// What a message is after a journey through JSON, where binary is base64.
fn in_format(format: Format, mut message: Message) -> Message {
    use base64::Engine as _;
    if let (Format::Json, Payload::Bytes(bytes)) = (format, &message.data) {
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        message.data = Payload::Text(text);
        let inner = message.encoding.map(|encoding| encoding + "/");
        message.encoding = Some(inner.unwrap_or_default() + "base64");
    }
    message
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(format in formats(), bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(take(format, &bytes).is_err() || !bytes.is_empty());
    }

    #[test]
    fn mutated_frames_do_not_panic(
        format in formats(),
        messages in vec(messages(), 1..4),
        changes in vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = publish(format, messages);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Err(refused) = take(format, &bytes) {
            prop_assert!(refused.error.code() >= 40000 && refused.error.status() >= 400);
        }
    }

    #[test]
    fn no_beginning_of_a_frame_is_a_frame(
        format in formats(),
        messages in vec(messages(), 1..4),
        length in any::<Index>(),
    ) {
        let bytes = publish(format, messages);
        let beginning = &bytes[..length.index(bytes.len())];
        prop_assert!(take(format, beginning).is_err());
    }

    #[test]
    fn messages_round_trip(format in formats(), messages in vec(messages(), 1..4)) {
        let taken = take(format, &publish(format, messages.clone()));
        let messages = messages.into_iter().map(|message| in_format(format, message)).collect();
        let expected = ClientFrame::Message { channel: "c".to_owned(), msg_serial: 0, messages };
        prop_assert_eq!(taken, Ok(expected));
    }

    #[test]
    fn presence_round_trips(items in vec(presence(), 1..4)) {
        let broadcast = Broadcast::new(Envelope::default(), Content::Presence(items.clone()));
        let taken = take(Format::MessagePack, &broadcast.frame(Format::MessagePack, "c", None));
        let expected = ClientFrame::Presence { channel: "c".to_owned(), msg_serial: 0, items };
        prop_assert_eq!(taken, Ok(expected));
    }
}
