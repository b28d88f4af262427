//! Requests of edges, read straight into the model.
//!
//! The generated types allocate twice for each item and are checked and copied after that, which
//! costs more than counting does. What is read here are the same bytes by the same rules: unknown
//! fields are passed over, and of a number that comes twice the last one counts. Only a message that
//! comes twice where one is expected, which no encoder writes, is refused instead of merged.

use headcount_model::{
    Modes, Occupancy, Refusal, RefusalReason, ReportBatch, ReportChange, ReportItems,
};
use prost::Message as _;

use crate::error::WireError;
use crate::fields::{Fields, Value};
use crate::proto::report::v1 as pb;
use crate::proto::types::v1 as types;

/// A request of an edge.
#[derive(Clone, Debug, PartialEq)]
pub enum ReportReceived {
    /// Opens a session.
    Hello(pb::Hello),
    /// Items to count.
    Batch(ReceivedBatch),
    /// Ends the session.
    Goodbye,
    /// Holds nothing that this release knows.
    Nothing,
}

/// A batch as it was received.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReceivedBatch {
    /// The batch, without the items that cannot be read.
    pub batch: ReportBatch,
    /// How many items were received.
    pub total: usize,
    /// Those that cannot be read, by ascending index among all that were received.
    pub refused: Vec<Refusal>,
}

/// Reads a `ReportRequest`.
///
/// # Errors
/// [`WireError::Decode`] for bytes that are none.
pub fn take_report_request(bytes: &[u8]) -> Result<ReportReceived, WireError> {
    let mut received = ReportReceived::Nothing;
    for field in fields(bytes) {
        let field = field?;
        if matches!(field.0, 1..=3) && received != ReportReceived::Nothing {
            return Err(malformed("it has two bodies"));
        }
        match field {
            (1, Value::Bytes(hello)) => {
                let hello = pb::Hello::decode(hello).map_err(|error| malformed(&error))?;
                received = ReportReceived::Hello(hello);
            }
            (2, Value::Bytes(batch)) => received = ReportReceived::Batch(take_batch(batch)?),
            (3, Value::Bytes(goodbye)) => {
                pb::Goodbye::decode(goodbye).map_err(|error| malformed(&error))?;
                received = ReportReceived::Goodbye;
            }
            (1..=3, _) => return Err(malformed("a field has another type")),
            _ => {}
        }
    }
    Ok(received)
}

fn take_batch(bytes: &[u8]) -> Result<ReceivedBatch, WireError> {
    let mut received = ReceivedBatch::default();
    for field in fields(bytes) {
        match field? {
            (1, Value::Varint(sequence)) => received.batch.sequence = sequence,
            (2, Value::Bytes(item)) => {
                if received.total == 0 {
                    // Items of one batch resemble each other.
                    let rest = bytes.len() / item.len().max(1);
                    received.batch.items =
                        ReportItems::with_capacity(rest.min(ITEMS_AHEAD), bytes.len());
                }
                let index = u32::try_from(received.total).map_err(|_| malformed("too long"))?;
                received.total += 1;
                if let Err(reason) = take_change(item, &mut received.batch.items)? {
                    let item = index;
                    received.refused.push(Refusal { item, reason });
                }
            }
            (3, Value::Varint(complete)) => received.batch.set_complete = complete != 0,
            (1..=3, _) => return Err(malformed("a field has another type")),
            _ => {}
        }
    }
    Ok(received)
}

/// Items for which room is made ahead of them.
const ITEMS_AHEAD: usize = 4_096;

/// Reads an item and adds it; the inner error is the reason to refuse it.
fn take_change(
    bytes: &[u8],
    items: &mut ReportItems,
) -> Result<Result<(), RefusalReason>, WireError> {
    let mut added = None;
    for field in fields(bytes) {
        match field? {
            (1..=7, _) if added.is_some() => return Err(malformed("an item has two changes")),
            (kind @ 1..=7, Value::Bytes(change)) => added = Some((kind, change)),
            (1..=7, _) => return Err(malformed("a field has another type")),
            _ => {}
        }
    }
    let Some((kind, bytes)) = added else {
        return Ok(Err(RefusalReason::UnknownItem));
    };
    let change = Change::read(kind, bytes)?;
    Ok(change.check(kind).and_then(|change| items.push(change)))
}

/// The fields of any change, by their places in the messages.
#[derive(Default)]
struct Change<'a> {
    connection: &'a str,
    channel: &'a str,
    member: &'a str,
    modes: u32,
    occupancy: Occupancy,
}

impl<'a> Change<'a> {
    fn read(kind: u32, bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut change = Self::default();
        for field in fields(bytes) {
            let (number, value) = field?;
            match (Slot::of(kind, number), value) {
                (Slot::Connection, Value::Bytes(name)) => change.connection = text(name)?,
                (Slot::Channel, Value::Bytes(name)) => change.channel = text(name)?,
                (Slot::Member, Value::Bytes(name)) => change.member = text(name)?,
                // As protobuf has it, a number that is too wide is cut.
                (Slot::Modes, Value::Varint(modes)) => change.modes = modes as u32,
                (Slot::Occupancy, Value::Bytes(counts)) => {
                    let counts = types::Occupancy::decode(counts);
                    change.occupancy = counts.map_err(|error| malformed(&error))?.into();
                }
                (Slot::Unknown, _) => {}
                _ => return Err(malformed("a field has another type")),
            }
        }
        Ok(change)
    }

    fn check(&self, kind: u32) -> Result<ReportChange<'a>, RefusalReason> {
        let Self {
            connection,
            channel,
            member,
            modes,
            occupancy,
        } = *self;
        Ok(match kind {
            ATTACH => {
                let attach = |modes| ReportChange::Attach {
                    connection,
                    channel,
                    modes,
                };
                let Some(modes) = Modes::from_bits(modes) else {
                    // What is wrong with the names is said first.
                    attach(Modes::DEFAULT).check()?;
                    return Err(RefusalReason::Modes(modes));
                };
                attach(modes)
            }
            DETACH => ReportChange::Detach {
                connection,
                channel,
            },
            ENTER => ReportChange::PresenceEnter {
                connection,
                channel,
                member,
            },
            LEAVE => ReportChange::PresenceLeave {
                connection,
                channel,
                member,
            },
            CLOSED => ReportChange::ConnectionClosed { connection },
            COUNTS => ReportChange::Counts { channel, occupancy },
            _ => ReportChange::Activity { channel },
        })
    }
}

// The fields of `Item`.
const ATTACH: u32 = 1;
const DETACH: u32 = 2;
const ENTER: u32 = 3;
const LEAVE: u32 = 4;
const CLOSED: u32 = 5;
const COUNTS: u32 = 6;
const ACTIVITY: u32 = 7;

/// What a field of a change is.
enum Slot {
    Connection,
    Channel,
    Member,
    Modes,
    Occupancy,
    Unknown,
}

impl Slot {
    fn of(kind: u32, number: u32) -> Self {
        match (kind, number) {
            (COUNTS | ACTIVITY, 1) | (ATTACH..=LEAVE, 2) => Self::Channel,
            (ATTACH..=CLOSED, 1) => Self::Connection,
            (ENTER | LEAVE, 3) => Self::Member,
            (ATTACH, 3) => Self::Modes,
            (COUNTS, 2) => Self::Occupancy,
            _ => Self::Unknown,
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(bytes).map_err(|_| malformed("a name is not UTF-8"))
}

/// The fields of a message, in order, each with its number.
#[inline]
fn fields(bytes: &[u8]) -> Fields<'_> {
    Fields::new(WHAT, bytes)
}

#[cold]
fn malformed<R: ToString + ?Sized>(reason: &R) -> WireError {
    Fields::malformed(WHAT, reason)
}

const WHAT: &str = "report request";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::take_item;

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z:é]{0,40}",
            "\\PC{0,8}",
            Just("x\n".to_owned()),
            Just("y".repeat(3_000)),
        ]
    }

    fn item() -> impl Strategy<Value = pb::Item> {
        use pb::item::Change;
        let names = || (name(), name(), name());
        let modes = prop_oneof![0..64_u32, any::<u32>()];
        let counts = proptest::option::of(any::<[u32; 8]>());
        let change = prop_oneof![
            (names(), modes).prop_map(|((connection, channel, _), modes)| {
                Change::Attach(pb::Attach {
                    connection,
                    channel,
                    modes,
                })
            }),
            names().prop_map(|(connection, channel, _)| {
                Change::Detach(pb::Detach {
                    connection,
                    channel,
                })
            }),
            names().prop_map(|(connection, channel, member)| {
                Change::PresenceEnter(pb::PresenceEnter {
                    connection,
                    channel,
                    member,
                })
            }),
            names().prop_map(|(connection, channel, member)| {
                Change::PresenceLeave(pb::PresenceLeave {
                    connection,
                    channel,
                    member,
                })
            }),
            name().prop_map(|connection| {
                Change::ConnectionClosed(pb::ConnectionClosed { connection })
            }),
            (name(), counts).prop_map(|(channel, counts)| {
                let occupancy = counts.map(|counts| Occupancy::from_counts(counts).into());
                Change::Counts(pb::Counts { channel, occupancy })
            }),
            name().prop_map(|channel| Change::Activity(pb::Activity { channel })),
        ];
        proptest::option::of(change).prop_map(|change| pb::Item { change })
    }

    /// What the generated types make of a batch.
    fn plainly(batch: &pb::Batch) -> ReceivedBatch {
        let mut items = Vec::new();
        let mut refused = Vec::new();
        for (read, item) in batch.items.iter().map(take_item).zip(0..) {
            match read {
                Ok(read) => items.push(read),
                Err(reason) => refused.push(Refusal { item, reason }),
            }
        }
        ReceivedBatch {
            batch: ReportBatch {
                sequence: batch.sequence,
                items: items.into(),
                set_complete: batch.set_complete,
            },
            total: batch.items.len(),
            refused,
        }
    }

    fn request(body: pb::report_request::Body) -> Vec<u8> {
        pb::ReportRequest { body: Some(body) }.encode_to_vec()
    }

    proptest! {
        #[test]
        fn a_batch_is_what_the_generated_types_make_of_it(
            items in proptest::collection::vec(item(), 0..12),
            sequence: u64,
            set_complete: bool,
        ) {
            let batch = pb::Batch { sequence, items, set_complete };
            let expected = ReportReceived::Batch(plainly(&batch));
            let bytes = request(pb::report_request::Body::Batch(batch));
            prop_assert_eq!(take_report_request(&bytes), Ok(expected));
        }

        #[test]
        fn what_is_read_is_what_the_generated_types_read(
            items in proptest::collection::vec(item(), 0..4),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<proptest::sample::Index>(),
        ) {
            let batch = pb::Batch { sequence: 1, items, set_complete: true };
            let mut bytes = request(pb::report_request::Body::Batch(batch));
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            // Groups, and messages that come twice, are refused here only.
            if let Ok(received) = take_report_request(&bytes) {
                let decoded = pb::ReportRequest::decode(&*bytes);
                let decoded = decoded.expect("what is read here is a request").body;
                let expected = match decoded {
                    None => ReportReceived::Nothing,
                    Some(pb::report_request::Body::Hello(hello)) => ReportReceived::Hello(hello),
                    Some(pb::report_request::Body::Goodbye(_)) => ReportReceived::Goodbye,
                    Some(pb::report_request::Body::Batch(batch)) => {
                        ReportReceived::Batch(plainly(&batch))
                    }
                };
                prop_assert_eq!(received, expected);
            }
        }
    }

    #[test]
    fn other_requests_are_read() {
        let hello = pb::Hello {
            edge: "e".to_owned(),
            session: 3,
            ..pb::Hello::default()
        };
        let bytes = request(pb::report_request::Body::Hello(hello.clone()));
        assert_eq!(
            take_report_request(&bytes),
            Ok(ReportReceived::Hello(hello))
        );
        let bytes = request(pb::report_request::Body::Goodbye(pb::Goodbye {}));
        assert_eq!(take_report_request(&bytes), Ok(ReportReceived::Goodbye));
        assert_eq!(take_report_request(&[]), Ok(ReportReceived::Nothing));
        let twice = [bytes.clone(), bytes].concat();
        assert!(take_report_request(&twice).is_err());
    }
}
