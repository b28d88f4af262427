//! Whatever is encoded decodes to itself, and no bytes make decoding panic.

use std::time::Duration;

use headcount_model::{
    Batch, ChannelKey, ChannelSnapshot, Claim, Command, EdgeId, Entry, Era, Event, EventId,
    EventKind, Fence, GatewayAck, GatewayItem, GatewayUpdate, Incarnation, Logged, LoggedEvent,
    Mark, NodeId, Occupancy, OwnerRef, Pacing, Position, RegionName, RegionSnapshot, Register,
    ShardId, ShardSnapshot, SourceId, Tail, Timestamp, ToldOccupancy, Transition,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{
    LoggedMark, NameReader, NameWriter, Parcel, ParcelBody, decode_entry, decode_logged,
    decode_parcels, decode_snapshot, encode_entry, encode_logged, encode_parcels, encode_snapshot,
};

fn region() -> impl Strategy<Value = RegionName> {
    "[a-z]{1,4}".prop_map(|name| RegionName::new(&name).unwrap())
}

fn owner() -> impl Strategy<Value = OwnerRef> {
    (region(), any::<u64>()).prop_map(|(region, fence)| OwnerRef {
        region,
        fence: Fence(fence),
    })
}

fn channel() -> impl Strategy<Value = ChannelKey> {
    ("[ab]", "c[a-z0-9:]{0,3}").prop_map(|(app, name)| ChannelKey::new(&app, &name).unwrap())
}

fn counts() -> impl Strategy<Value = Occupancy> {
    // Few are large, and many zero.
    (any::<[u8; 8]>(), 0..27_u32).prop_map(|(counts, shift)| {
        Occupancy::from_counts(counts.map(|count| u32::from(count / 4) << shift))
    })
}

fn transition() -> impl Strategy<Value = Transition> {
    let flags = (any::<bool>(), any::<bool>());
    (any::<u64>(), channel(), flags, counts(), any::<u64>()).prop_map(
        |(number, channel, (active, is_global_master), occupancy, at)| Transition {
            number,
            channel,
            active,
            occupancy,
            at: Timestamp(at),
            is_global_master,
        },
    )
}

fn batch() -> impl Strategy<Value = Batch> {
    let register =
        (channel(), counts()).prop_map(|(channel, occupancy)| Register { channel, occupancy });
    let parts = (
        vec(any::<u64>(), 0..3),
        vec(transition(), 0..3),
        vec(register, 0..3),
    );
    (owner(), any::<u64>(), parts).prop_map(
        |(owner, sequence, (dropped, transitions, registers))| Batch {
            owner,
            sequence,
            dropped,
            transitions,
            registers,
        },
    )
}

fn claim() -> impl Strategy<Value = Claim> {
    let tail = (any::<u64>(), vec(transition(), 0..3)).prop_map(|(fence, transitions)| Tail {
        fence: Fence(fence),
        transitions,
    });
    (owner(), any::<u64>(), any::<u64>(), vec(tail, 0..2)).prop_map(
        |(owner, node, incarnation, tails)| Claim {
            owner,
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
            tails,
        },
    )
}

fn pacing() -> impl Strategy<Value = Pacing> {
    (any::<u64>(), any::<u32>()).prop_map(|(version, millis)| {
        let occupancy_interval = Duration::from_millis(u64::from(millis));
        Pacing {
            version,
            occupancy_interval,
        }
    })
}

pub(crate) fn entries() -> impl Strategy<Value = Entry> {
    let command = prop_oneof![
        claim().prop_map(Command::Claim),
        batch().prop_map(Command::Batch),
        owner().prop_map(Command::ExpireRegion),
        owner().prop_map(Command::Settled),
        pacing().prop_map(Command::Configure),
        Just(Command::Tick),
    ];
    (any::<u64>(), region(), vec(command, 0..4)).prop_map(|(stamp, coordinator, commands)| Entry {
        stamp: Timestamp(stamp),
        coordinator,
        commands,
    })
}

fn parcel() -> impl Strategy<Value = Parcel> {
    let source = prop_oneof![
        Just(SourceId::Clients),
        ("[a-z]{1,3}", any::<u64>(), any::<u64>()).prop_map(|(edge, incarnation, session)| {
            let edge = EdgeId::new(&edge).unwrap();
            SourceId::Edge {
                edge,
                incarnation: Incarnation(incarnation),
                session,
            }
        }),
    ];
    let item = prop_oneof![
        (source.clone(), channel(), counts()).prop_map(|(source, channel, occupancy)| {
            GatewayItem::Register {
                source,
                channel,
                occupancy,
            }
        }),
        source.clone().prop_map(GatewayItem::SourceComplete),
        source.prop_map(GatewayItem::SourceEnded),
        channel().prop_map(GatewayItem::Activity),
        Just(GatewayItem::StreamComplete),
        Just(GatewayItem::Recovered),
    ];
    let update = (any::<[u64; 5]>(), vec(item, 0..4)).prop_map(|(numbers, items)| {
        let [node, incarnation, fence, stream, sequence] = numbers;
        let (node, incarnation, fence) = (NodeId(node), Incarnation(incarnation), Fence(fence));
        GatewayUpdate {
            node,
            incarnation,
            fence,
            stream,
            sequence,
            items,
        }
    });
    let body = prop_oneof![
        claim().prop_map(ParcelBody::Claim),
        batch().prop_map(ParcelBody::Batch),
        owner().prop_map(ParcelBody::Settled),
        owner().prop_map(ParcelBody::ExpireRegion),
        update.prop_map(ParcelBody::Update),
        any::<[u64; 3]>().prop_map(|[fence, stream, sequence]| {
            ParcelBody::Ack(GatewayAck {
                fence: Fence(fence),
                stream,
                sequence,
            })
        }),
        (owner(), transition()).prop_map(|(owner, told)| ParcelBody::Early(owner, told)),
        (owner(), any::<([u64; 2], bool)>()).prop_map(|(owner, ([sequence, number], settled))| {
            ParcelBody::Logged(LoggedMark {
                owner,
                sequence,
                number,
                settled,
            })
        }),
    ];
    (any::<u32>(), any::<bool>(), body).prop_map(|(shard, take_on, body)| Parcel {
        shard: ShardId(shard),
        take_on,
        body,
    })
}

fn logged() -> impl Strategy<Value = Logged> {
    let kind = prop::sample::select(EventKind::ALL.to_vec());
    let event = (kind, channel(), region(), transition(), 1..100_u64);
    let event = event.prop_map(|(kind, channel, region, told, number)| Event {
        id: if kind.is_regional() {
            let (era, shard, fence) = (Era(1), ShardId(2), Fence(3));
            EventId::Transition {
                era,
                shard,
                region: region.clone(),
                fence,
                number,
            }
        } else {
            EventId::Log {
                era: Era(1),
                shard: ShardId(2),
                position: Position::START,
            }
        },
        kind,
        channel,
        at: told.at,
        region,
        is_global_master: told.is_global_master,
        active: told.active,
        occupancy: told.occupancy,
    });
    let mark = (region(), any::<u64>(), any::<bool>(), 0..4).prop_map(|(region, n, done, kind)| {
        let fence = Fence(n);
        match kind {
            0 => Mark::Claimed { region, fence },
            1 => Mark::Numbered {
                region,
                fence,
                number: n / 2,
            },
            2 => Mark::Settled { region, fence },
            _ => Mark::Expired {
                region,
                fence,
                done,
            },
        }
    });
    let previous = proptest::option::of(1..9_u64);
    let events = vec((event, previous), 0..4);
    (
        any::<u64>(),
        any::<u64>(),
        region(),
        events,
        vec(mark, 0..3),
    )
        .prop_map(|(index, stamp, coordinator, events, marks)| {
            let events = (0..).zip(events).map(|(ordinal, (mut event, previous))| {
                let position = Position { index, ordinal };
                if let EventId::Log { position: at, .. } = &mut event.id {
                    *at = position;
                }
                let previous = previous.map(|index| Position { index, ordinal: 3 });
                LoggedEvent {
                    position,
                    previous,
                    event,
                }
            });
            Logged {
                index,
                stamp: Timestamp(stamp),
                coordinator,
                events: events.collect(),
                marks,
            }
        })
}

fn snapshot() -> impl Strategy<Value = ShardSnapshot> {
    let expiring = proptest::option::of(proptest::option::of(channel()));
    let region = (region(), any::<[u64; 5]>(), any::<[bool; 2]>(), expiring).prop_map(
        |(name, [fence, node, incarnation, sequence, number], [ended, settled], expiring)| {
            RegionSnapshot {
                name,
                fence: Fence(fence),
                ended,
                settled,
                node: NodeId(node),
                incarnation: Incarnation(incarnation),
                sequence,
                number,
                expiring,
            }
        },
    );
    let told = (counts(), any::<u64>()).prop_map(|(occupancy, until)| ToldOccupancy {
        occupancy,
        until: Timestamp(until),
    });
    let previous = (1..99_u64, any::<u32>());
    let previous = previous.prop_map(|(index, ordinal)| Position { index, ordinal });
    let regions = vec((any::<u16>(), counts()), 0..3);
    let options = (proptest::option::of(previous), proptest::option::of(told));
    let channel = (channel(), regions, options).prop_map(|(key, regions, (previous, told))| {
        ChannelSnapshot {
            key,
            regions,
            previous,
            told,
        }
    });
    let head = (
        any::<u32>(),
        any::<u32>(),
        any::<u64>(),
        any::<u64>(),
        pacing(),
    );
    (head, vec(region, 0..3), vec(channel, 0..600)).prop_map(
        |((shard, era, applied, stamp, pacing), regions, channels)| ShardSnapshot {
            shard: ShardId(shard),
            era: Era(era),
            applied,
            stamp: Timestamp(stamp),
            pacing,
            regions,
            channels,
        },
    )
}

proptest! {
    #[test]
    fn entries_survive(entry in entries()) {
        prop_assert_eq!(decode_entry(&encode_entry(&entry)), Ok(entry));
    }

    #[test]
    fn journal_records_survive(logged in logged()) {
        let decoded = decode_logged(Era(1), ShardId(2), logged.index, &encode_logged(&logged));
        prop_assert_eq!(decoded, Ok(logged));
    }

    #[test]
    fn streams_of_parcels_survive(requests in vec(vec(parcel(), 0..4), 0..6)) {
        let (mut writer, mut reader) = (NameWriter::default(), NameReader::default());
        for parcels in requests {
            let request = encode_parcels(&parcels, &mut writer);
            prop_assert_eq!(decode_parcels(request, &mut reader), Ok(parcels));
        }
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in vec(any::<u8>(), 0..64)) {
        let entry = decode_entry(&bytes);
        let logged = decode_logged(Era(0), ShardId(0), 1, &bytes);
        let snapshot = decode_snapshot(&[bytes.into()]);
        prop_assert!(entry.is_err() && logged.is_err() && snapshot.is_err(), "none has a format");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 8))]
    #[test]
    fn snapshots_survive(snapshot in snapshot()) {
        let chunks = encode_snapshot(&snapshot);
        prop_assert!(chunks.len() == 1 || decode_snapshot(&chunks[..chunks.len() - 1]).is_err());
        prop_assert_eq!(decode_snapshot(&chunks), Ok(snapshot));
    }
}

#[test]
fn names_are_told_once_and_forgotten_together() {
    let parcel = |name: String| Parcel {
        shard: ShardId(1),
        take_on: false,
        body: ParcelBody::Early(
            OwnerRef {
                region: RegionName::new("eu").unwrap(),
                fence: Fence(1),
            },
            Transition {
                number: 1,
                channel: ChannelKey::new("app", &name).unwrap(),
                active: true,
                occupancy: Occupancy::ZERO,
                at: Timestamp(0),
                is_global_master: false,
            },
        ),
    };
    let (mut writer, mut reader) = (NameWriter::default(), NameReader::default());
    let mut resets = 0;
    for n in 0..crate::NAMES_MAX {
        let parcels = [parcel(format!("c{n}")), parcel(format!("c{n}"))];
        let request = encode_parcels(&parcels, &mut writer);
        assert_eq!(request.names.len(), 1);
        resets += u32::from(request.reset_names);
        assert_eq!(decode_parcels(request, &mut reader).unwrap(), parcels);
    }
    assert_eq!(resets, 1);
    let unknown = encode_parcels(&[parcel("x".to_owned())], &mut NameWriter::default());
    let unknown = crate::proto::gossip::v1::TellRequest {
        names: Vec::new(),
        ..unknown
    };
    assert!(decode_parcels(unknown, &mut NameReader::default()).is_err());
}
