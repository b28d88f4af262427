//! The reporter API: requests of edges and the answers to them.

mod received;

use std::ops::RangeInclusive;
use std::time::Duration;

use headcount_model::{
    ChannelName, ConnectionId, EDGE_BYTES_MAX, EdgeId, Hello, Incarnation, MemberId, Modes,
    NameError, Occupancy, Refusal, RefusalCode, RefusalReason, ReportItem, ReportLimits, Welcome,
};

use crate::error::{WireError, named, required};
use crate::proto::report::v1 as pb;
use crate::proto::types::v1 as types;

pub use received::{ReceivedBatch, ReportReceived, take_report_request};

/// Version of the reporter protocol that this release speaks.
pub const REPORT_PROTOCOL: u32 = 1;

impl From<Occupancy> for types::Occupancy {
    fn from(occupancy: Occupancy) -> Self {
        let [
            connections,
            publishers,
            subscribers,
            presence_connections,
            presence_members,
            presence_subscribers,
            object_publishers,
            object_subscribers,
        ] = occupancy.counts();
        Self {
            connections,
            publishers,
            subscribers,
            presence_connections,
            presence_members,
            presence_subscribers,
            object_publishers,
            object_subscribers,
        }
    }
}

impl From<types::Occupancy> for Occupancy {
    fn from(occupancy: types::Occupancy) -> Self {
        Self::from_counts([
            occupancy.connections,
            occupancy.publishers,
            occupancy.subscribers,
            occupancy.presence_connections,
            occupancy.presence_members,
            occupancy.presence_subscribers,
            occupancy.object_publishers,
            occupancy.object_subscribers,
        ])
    }
}

/// Writes a hello that speaks this release's version.
#[must_use]
pub fn put_hello(hello: &Hello) -> pb::Hello {
    pb::Hello {
        protocol_min: REPORT_PROTOCOL,
        protocol_max: REPORT_PROTOCOL,
        edge: hello.edge.as_str().to_owned(),
        incarnation: hello.incarnation.0,
        session: hello.session,
        resume_session: hello.resume,
    }
}

/// Reads a hello.
///
/// # Errors
/// [`WireError`] for a field out of bounds, and for versions that leave out
/// [`REPORT_PROTOCOL`].
pub fn take_hello(hello: &pb::Hello) -> Result<Hello, WireError> {
    let versions: RangeInclusive<u32> = hello.protocol_min..=hello.protocol_max;
    if !versions.contains(&REPORT_PROTOCOL) {
        return Err(WireError::Format {
            what: "protocol_max",
            format: hello.protocol_max,
            known: REPORT_PROTOCOL,
        });
    }
    let edge = EdgeId::new(&hello.edge).map_err(named("edge"))?;
    if edge.as_str().len() > EDGE_BYTES_MAX {
        return Err(named("edge")(NameError::TooLong {
            what: "edge id",
            bytes: edge.as_str().len(),
            max: EDGE_BYTES_MAX,
        }));
    }
    for (field, value) in [
        ("incarnation", hello.incarnation),
        ("session", hello.session),
    ] {
        if value == 0 {
            return Err(WireError::Range { field, value });
        }
    }
    if let Some(value) = hello.resume_session
        && value >= hello.session
    {
        return Err(WireError::Range {
            field: "resume_session",
            value,
        });
    }
    Ok(Hello {
        edge,
        incarnation: Incarnation(hello.incarnation),
        session: hello.session,
        resume: hello.resume_session,
    })
}

/// Writes a welcome.
#[must_use]
pub fn put_welcome(welcome: &Welcome, limits: &ReportLimits) -> pb::Welcome {
    pb::Welcome {
        protocol: REPORT_PROTOCOL,
        session: welcome.session,
        resumed: welcome.resumed,
        last_sequence: welcome.last_sequence,
        limits: Some(pb::Limits {
            window_batches: limits.window_batches,
            batch_items_max: limits.batch_items_max,
            batch_bytes_max: limits.batch_bytes_max,
            grace_ms: u32::try_from(limits.grace.as_millis()).unwrap_or(u32::MAX),
        }),
    }
}

/// Reads a welcome and the limits that come with it.
///
/// # Errors
/// [`WireError`] for another version than ours, and for limits that let nothing pass.
pub fn take_welcome(welcome: &pb::Welcome) -> Result<(Welcome, ReportLimits), WireError> {
    if welcome.protocol != REPORT_PROTOCOL {
        return Err(WireError::Format {
            what: "protocol",
            format: welcome.protocol,
            known: REPORT_PROTOCOL,
        });
    }
    let limits = required("limits", welcome.limits)?;
    for (field, value) in [
        ("limits.window_batches", limits.window_batches),
        ("limits.batch_items_max", limits.batch_items_max),
        ("limits.batch_bytes_max", limits.batch_bytes_max),
    ] {
        if value == 0 {
            return Err(WireError::Range { field, value: 0 });
        }
    }
    let limits = ReportLimits {
        window_batches: limits.window_batches,
        batch_items_max: limits.batch_items_max,
        batch_bytes_max: limits.batch_bytes_max,
        grace: Duration::from_millis(limits.grace_ms.into()),
    };
    let welcome = Welcome {
        session: welcome.session,
        resumed: welcome.resumed,
        last_sequence: welcome.last_sequence,
    };
    Ok((welcome, limits))
}

/// Writes an item.
#[must_use]
pub fn put_item(item: &ReportItem) -> pb::Item {
    use pb::item::Change;
    let change = match item {
        ReportItem::Attach {
            connection,
            channel,
            modes,
        } => Change::Attach(pb::Attach {
            connection: connection.as_str().to_owned(),
            channel: channel.as_str().to_owned(),
            modes: modes.bits(),
        }),
        ReportItem::Detach {
            connection,
            channel,
        } => Change::Detach(pb::Detach {
            connection: connection.as_str().to_owned(),
            channel: channel.as_str().to_owned(),
        }),
        ReportItem::PresenceEnter {
            connection,
            channel,
            member,
        } => Change::PresenceEnter(pb::PresenceEnter {
            connection: connection.as_str().to_owned(),
            channel: channel.as_str().to_owned(),
            member: member.as_str().to_owned(),
        }),
        ReportItem::PresenceLeave {
            connection,
            channel,
            member,
        } => Change::PresenceLeave(pb::PresenceLeave {
            connection: connection.as_str().to_owned(),
            channel: channel.as_str().to_owned(),
            member: member.as_str().to_owned(),
        }),
        ReportItem::ConnectionClosed { connection } => {
            Change::ConnectionClosed(pb::ConnectionClosed {
                connection: connection.as_str().to_owned(),
            })
        }
        ReportItem::Counts { channel, occupancy } => Change::Counts(pb::Counts {
            channel: channel.as_str().to_owned(),
            occupancy: Some((*occupancy).into()),
        }),
        ReportItem::Activity { channel } => Change::Activity(pb::Activity {
            channel: channel.as_str().to_owned(),
        }),
    };
    pb::Item {
        change: Some(change),
    }
}

/// Reads an item. Bounds of counts are the gateway's to check.
///
/// # Errors
/// The reason to refuse it; the other items of its batch are not concerned.
pub fn take_item(item: &pb::Item) -> Result<ReportItem, RefusalReason> {
    use pb::item::Change;
    let change = item.change.as_ref().ok_or(RefusalReason::UnknownItem)?;
    Ok(match change {
        Change::Attach(attach) => ReportItem::Attach {
            connection: connection(&attach.connection)?,
            channel: channel(&attach.channel)?,
            modes: Modes::from_bits(attach.modes).ok_or(RefusalReason::Modes(attach.modes))?,
        },
        Change::Detach(detach) => ReportItem::Detach {
            connection: connection(&detach.connection)?,
            channel: channel(&detach.channel)?,
        },
        Change::PresenceEnter(enter) => ReportItem::PresenceEnter {
            connection: connection(&enter.connection)?,
            channel: channel(&enter.channel)?,
            member: member(&enter.member)?,
        },
        Change::PresenceLeave(leave) => ReportItem::PresenceLeave {
            connection: connection(&leave.connection)?,
            channel: channel(&leave.channel)?,
            member: member(&leave.member)?,
        },
        Change::ConnectionClosed(closed) => ReportItem::ConnectionClosed {
            connection: connection(&closed.connection)?,
        },
        Change::Counts(counts) => ReportItem::Counts {
            channel: channel(&counts.channel)?,
            occupancy: counts.occupancy.unwrap_or_default().into(),
        },
        Change::Activity(activity) => ReportItem::Activity {
            channel: channel(&activity.channel)?,
        },
    })
}

fn refused(field: &'static str) -> impl FnOnce(NameError) -> RefusalReason {
    move |fault| RefusalReason::Name { field, fault }
}

fn connection(text: &str) -> Result<ConnectionId, RefusalReason> {
    ConnectionId::new(text).map_err(refused("connection"))
}

fn channel(text: &str) -> Result<ChannelName, RefusalReason> {
    ChannelName::new(text).map_err(refused("channel"))
}

fn member(text: &str) -> Result<MemberId, RefusalReason> {
    MemberId::new(text).map_err(refused("member"))
}

/// Writes a refusal.
#[must_use]
pub fn put_refusal(refusal: &Refusal) -> pb::Refusal {
    let code = match refusal.reason.code() {
        RefusalCode::UnknownItem => pb::RefusalCode::UnknownItem,
        RefusalCode::InvalidName => pb::RefusalCode::InvalidName,
        RefusalCode::InvalidModes => pb::RefusalCode::InvalidModes,
        RefusalCode::InvalidCount => pb::RefusalCode::InvalidCount,
        RefusalCode::NotPermitted => pb::RefusalCode::NotPermitted,
        RefusalCode::Mixed => pb::RefusalCode::Mixed,
        RefusalCode::NotAttached => pb::RefusalCode::NotAttached,
        RefusalCode::NoPresenceMode => pb::RefusalCode::NoPresenceMode,
        RefusalCode::Overloaded => pb::RefusalCode::Overloaded,
    };
    pb::Refusal {
        item: refusal.item,
        code: code.into(),
        message: refusal.reason.to_string(),
    }
}

/// Reads a refusal's code.
///
/// # Errors
/// [`WireError::Range`] for a code that this release does not know.
pub fn take_refusal_code(code: i32) -> Result<RefusalCode, WireError> {
    let unknown = || WireError::Range {
        field: "code",
        value: code.unsigned_abs().into(),
    };
    match pb::RefusalCode::try_from(code).map_err(|_| unknown())? {
        pb::RefusalCode::Unspecified => Err(unknown()),
        pb::RefusalCode::UnknownItem => Ok(RefusalCode::UnknownItem),
        pb::RefusalCode::InvalidName => Ok(RefusalCode::InvalidName),
        pb::RefusalCode::InvalidModes => Ok(RefusalCode::InvalidModes),
        pb::RefusalCode::InvalidCount => Ok(RefusalCode::InvalidCount),
        pb::RefusalCode::NotPermitted => Ok(RefusalCode::NotPermitted),
        pb::RefusalCode::Mixed => Ok(RefusalCode::Mixed),
        pb::RefusalCode::NotAttached => Ok(RefusalCode::NotAttached),
        pb::RefusalCode::NoPresenceMode => Ok(RefusalCode::NoPresenceMode),
        pb::RefusalCode::Overloaded => Ok(RefusalCode::Overloaded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headcount_model::Category;
    use proptest::prelude::*;

    fn items() -> impl Strategy<Value = ReportItem> {
        let connection = || "[a-z]{1,9}".prop_map(|name| ConnectionId::new(&name).unwrap());
        let channel =
            || "[a-zé:]{1,9}".prop_filter_map("starts badly", |n| ChannelName::new(&n).ok());
        let member = || "[a-z ]{1,9}".prop_map(|name| MemberId::new(&name).unwrap());
        let modes = (0..64_u32).prop_map(|bits| Modes::from_bits(bits).unwrap());
        prop_oneof![
            (connection(), channel(), modes).prop_map(|(connection, channel, modes)| {
                ReportItem::Attach {
                    connection,
                    channel,
                    modes,
                }
            }),
            (connection(), channel()).prop_map(|(connection, channel)| ReportItem::Detach {
                connection,
                channel
            }),
            (connection(), channel(), member()).prop_map(|(connection, channel, member)| {
                ReportItem::PresenceEnter {
                    connection,
                    channel,
                    member,
                }
            }),
            (connection(), channel(), member()).prop_map(|(connection, channel, member)| {
                ReportItem::PresenceLeave {
                    connection,
                    channel,
                    member,
                }
            }),
            connection().prop_map(|connection| ReportItem::ConnectionClosed { connection }),
            (channel(), any::<[u32; 8]>()).prop_map(|(channel, counts)| {
                let occupancy = Occupancy::from_counts(counts);
                ReportItem::Counts { channel, occupancy }
            }),
            channel().prop_map(|channel| ReportItem::Activity { channel }),
        ]
    }

    proptest! {
        #[test]
        fn items_survive(item in items()) {
            prop_assert_eq!(take_item(&put_item(&item)), Ok(item));
        }
    }

    #[test]
    fn hellos_survive_and_bad_ones_name_the_field() {
        let hello = Hello {
            edge: EdgeId::new(&"e".repeat(EDGE_BYTES_MAX)).unwrap(),
            incarnation: Incarnation(3),
            session: 7,
            resume: Some(6),
        };
        let good = put_hello(&hello);
        assert_eq!(take_hello(&good), Ok(hello));
        type Break = fn(&mut pb::Hello);
        let broken: [(&str, Break); 6] = [
            ("edge", |hello| hello.edge.push('e')),
            ("edge", |hello| hello.edge.clear()),
            ("incarnation", |hello| hello.incarnation = 0),
            ("session", |hello| hello.session = 0),
            ("resume_session", |hello| hello.resume_session = Some(7)),
            ("protocol_max", |hello| {
                (hello.protocol_min, hello.protocol_max) = (0, 0);
            }),
        ];
        for (field, break_it) in broken {
            let mut bad = good.clone();
            break_it(&mut bad);
            let error = take_hello(&bad).unwrap_err().to_string();
            assert!(error.starts_with(field), "{field}: {error}");
        }
    }

    #[test]
    fn bad_items_are_refused_by_field() {
        use pb::item::Change;
        let attach = |connection: &str, channel: &str, modes| pb::Item {
            change: Some(Change::Attach(pb::Attach {
                connection: connection.into(),
                channel: channel.into(),
                modes,
            })),
        };
        let codes = [
            attach("", "room", 15),
            attach("a", ":room", 15),
            attach("a", "room", 64),
            pb::Item { change: None },
        ]
        .map(|item| take_item(&item).unwrap_err().code());
        assert_eq!(
            codes,
            [
                RefusalCode::InvalidName,
                RefusalCode::InvalidName,
                RefusalCode::InvalidModes,
                RefusalCode::UnknownItem,
            ]
        );
        let message = take_item(&attach("a", ":room", 15))
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "channel: channel name has ':' at byte 0, which is not allowed there"
        );
    }

    #[test]
    fn welcomes_and_refusals_survive() {
        let welcome = Welcome {
            session: 3,
            resumed: true,
            last_sequence: 9,
        };
        let limits = ReportLimits::default();
        assert_eq!(
            take_welcome(&put_welcome(&welcome, &limits)),
            Ok((welcome, limits))
        );
        let reason = RefusalReason::Count {
            category: Category::Connections,
            count: 20_000_000,
        };
        let refusal = put_refusal(&Refusal { item: 4, reason });
        assert_eq!(
            take_refusal_code(refusal.code),
            Ok(RefusalCode::InvalidCount)
        );
        assert_eq!(
            refusal.message,
            "occupancy: 20000000 connections are above the bound of 10000000"
        );
        assert!(take_refusal_code(0).is_err() && take_refusal_code(99).is_err());
    }
}
