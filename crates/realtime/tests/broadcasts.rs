//! A subscriber's frame of a broadcast is the frame that would be encoded for it alone.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use headcount_realtime::{Broadcast, Content, Envelope, Format, ServerFrame};

use crate::support::{messages, presence};

fn envelopes() -> impl Strategy<Value = Envelope> {
    (of(".{0,9}"), of(any::<u64>()), of(".{0,9}")).prop_map(|(id, timestamp_ms, connection_id)| {
        Envelope {
            id,
            timestamp_ms,
            connection_id,
        }
    })
}

fn contents() -> impl Strategy<Value = Content> {
    prop_oneof![
        vec(messages(), 0..20).prop_map(Content::Messages),
        vec(presence(), 0..20).prop_map(Content::Presence),
    ]
}

/// The same frame, encoded as a whole.
fn plain(broadcast: &Broadcast, format: Format, channel: &str, serial: Option<&str>) -> Bytes {
    let channel = channel.to_owned();
    let channel_serial = serial.map(str::to_owned);
    let envelope = broadcast.envelope().clone();
    let frame = match broadcast.content().clone() {
        Content::Messages(messages) => ServerFrame::Message {
            channel,
            channel_serial,
            envelope,
            messages,
        },
        Content::Presence(presence) => ServerFrame::Presence {
            channel,
            channel_serial,
            envelope,
            presence,
        },
    };
    frame.encode(format)
}

proptest! {
    #[test]
    fn spliced_and_plain_are_the_same_bytes(
        envelope in envelopes(),
        content in contents(),
        subscribers in vec((".{0,40}", of(".{0,9}")), 1..4),
    ) {
        let broadcast = Broadcast::new(envelope, content);
        for (channel, serial) in &subscribers {
            for format in Format::ALL {
                let spliced = broadcast.frame(format, channel, serial.as_deref());
                prop_assert_eq!(spliced, plain(&broadcast, format, channel, serial.as_deref()));
            }
        }
    }
}
