//! Whatever is carried arrives as it was, and what breaks a rule is refused by the field's name.

use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message as _;

use super::*;

fn channel() -> impl Strategy<Value = RelayChannel> {
    ("[ab]", r"(\[meta\])?[a-z:]{1,2}")
        .prop_map(|(app, name)| RelayChannel::new(AppId::new(&app).unwrap(), &name).unwrap())
}

fn bytes() -> impl Strategy<Value = Arc<[u8]>> {
    vec(any::<u8>(), 0..20).prop_map(Arc::from)
}

fn member() -> impl Strategy<Value = Member> {
    let newness = (any::<u64>(), any::<u32>());
    let newness = newness.prop_map(|(serial, index)| Newness { serial, index });
    let newness = prop_oneof![Just(Newness::LAST), newness];
    ("[a-z]{1,3}", "[a-z é]{1,3}", newness, bytes()).prop_map(|(connection, id, newness, data)| {
        let key = MemberKey {
            connection: ConnectionId::new(&connection).unwrap(),
            id: MemberId::new(&id).unwrap(),
        };
        Member { key, newness, data }
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        member().prop_map(Change::Put),
        member().prop_map(Change::Leave),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    (channel(), "[a-z]{1,3}", bytes()).prop_map(|(channel, publisher, body)| Message {
        channel,
        publisher: ConnectionId::new(&publisher).unwrap(),
        body,
    })
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![1..4_u64, 1..=u64::MAX]
}

fn gateway() -> impl Strategy<Value = GatewayMessage> {
    let item = prop_oneof![
        (channel(), any::<bool>()).prop_map(|(channel, on)| GatewayItem::Interest { channel, on }),
        (channel(), vec(change(), 1..4))
            .prop_map(|(channel, changes)| GatewayItem::Changes { channel, changes }),
        message().prop_map(GatewayItem::Publish),
        Just(GatewayItem::Complete),
    ];
    (vec(number(), 5), vec(item, 0..5)).prop_map(|(numbers, items)| GatewayMessage {
        node: NodeId(numbers[0]),
        incarnation: Incarnation(numbers[1]),
        fence: Fence(numbers[2]),
        stream: numbers[3],
        sequence: numbers[4],
        items,
    })
}

fn owner() -> impl Strategy<Value = OwnerMessage> {
    let item = prop_oneof![
        (channel(), vec(member(), 0..4), any::<[bool; 2]>()).prop_map(
            |(channel, members, [first, last])| OwnerItem::Set {
                channel,
                members,
                first,
                last,
            }
        ),
        (channel(), vec(change(), 1..4))
            .prop_map(|(channel, changes)| OwnerItem::Changes { channel, changes }),
        message().prop_map(OwnerItem::Message),
    ];
    let told = (number(), vec(item, 0..5));
    let told = prop_oneof![Just((0, vec![OwnerItem::Restart])), told];
    (number(), number(), told).prop_map(|(fence, stream, (sequence, items))| OwnerMessage {
        fence: Fence(fence),
        stream,
        sequence,
        items,
    })
}

fn region() -> impl Strategy<Value = RegionMessage> {
    let changes = (channel(), 0..9_u64, 0..9_u64, vec(change(), 1..4));
    let item = prop_oneof![
        Just(RegionItem::Ready),
        (channel(), any::<[u64; 2]>()).prop_map(|(channel, [fence, version])| {
            RegionItem::Interest {
                channel,
                fence: Fence(fence),
                version,
            }
        }),
        (
            channel(),
            any::<u64>(),
            vec(member(), 0..4),
            any::<[bool; 2]>()
        )
            .prop_map(
                |(channel, version, members, [first, last])| RegionItem::Set {
                    channel,
                    version,
                    members,
                    first,
                    last,
                }
            ),
        changes.prop_map(|(channel, previous, ahead, changes)| RegionItem::Changes {
            channel,
            previous,
            version: previous + ahead,
            changes: if ahead == 0 { Vec::new() } else { changes },
        }),
        message().prop_map(RegionItem::Message),
        number().prop_map(|stream| RegionItem::Restart { stream }),
    ];
    ("[a-z]{1,4}", vec(number(), 4), vec(item, 0..5)).prop_map(|(region, numbers, items)| {
        RegionMessage {
            region: RegionName::new(&region).unwrap(),
            fence: Fence(numbers[0]),
            to: Fence(numbers[1]),
            stream: numbers[2],
            sequence: numbers[3],
            items,
        }
    })
}

fn parcel() -> impl Strategy<Value = RelayParcel> {
    let message = prop_oneof![
        gateway().prop_map(RelayMessage::Gateway),
        owner().prop_map(RelayMessage::Owner),
        region().prop_map(RelayMessage::Region),
    ];
    (0..SHARDS_MAX, message).prop_map(|(shard, message)| RelayParcel {
        shard: ShardId(shard),
        message,
    })
}

proptest! {
    #[test]
    fn parcels_survive(parcel in parcel()) {
        let encoded = proto::Parcel::from(&parcel).encode_to_vec();
        let decoded = proto::Parcel::decode(&encoded[..]).unwrap();
        prop_assert_eq!(RelayParcel::try_from(decoded), Ok(parcel));
    }

    #[test]
    fn flawed_parcels_make_nothing_panic(parcel in parcel(), flaw in any::<(usize, u8)>()) {
        let mut encoded = proto::Parcel::from(&parcel).encode_to_vec();
        let at = flaw.0 % encoded.len();
        encoded[at] = flaw.1;
        if let Ok(decoded) = proto::Parcel::decode(&encoded[..])
            && let Ok(parcel) = RelayParcel::try_from(decoded)
        {
            prop_assert!(parcel.shard.0 < SHARDS_MAX);
        }
    }
}

fn told(app: &str, name: &str) -> proto::Channel {
    let (app, name) = (app.to_owned(), name.to_owned());
    proto::Channel { app, name }
}

fn sent(message: Kind) -> proto::Parcel {
    proto::Parcel {
        shard: 1,
        channels: vec![told("a", "[meta]log")],
        message: Some(message),
    }
}

fn from_gateway(items: Vec<GatewayKind>) -> proto::GatewayMessage {
    let items = items
        .into_iter()
        .map(|item| proto::GatewayItem { item: Some(item) });
    proto::GatewayMessage {
        node: 1,
        incarnation: 1,
        fence: 1,
        stream: 1,
        sequence: 1,
        items: items.collect(),
    }
}

fn from_owner(sequence: u64, items: Vec<OwnerKind>) -> proto::Parcel {
    let items = items
        .into_iter()
        .map(|item| proto::OwnerItem { item: Some(item) });
    sent(Kind::Owner(proto::OwnerMessage {
        fence: 1,
        stream: 1,
        sequence,
        items: items.collect(),
    }))
}

fn from_region(item: RegionKind) -> proto::RegionMessage {
    proto::RegionMessage {
        region: "eu".to_owned(),
        fence: 1,
        to: 1,
        stream: 1,
        sequence: 1,
        items: vec![proto::RegionItem { item: Some(item) }],
    }
}

fn someone() -> proto::Member {
    proto::Member {
        connection: "c".to_owned(),
        id: "m".to_owned(),
        ..proto::Member::default()
    }
}

#[track_caller]
fn refused(parcel: proto::Parcel, wanted: &str) {
    let error = RelayParcel::try_from(parcel).expect_err(wanted).to_string();
    assert!(error.contains(wanted), "{error:?} is not about {wanted:?}");
}

#[test]
fn channels_are_told_once_and_an_app_as_long_as_it_stays() {
    let channel = |app, name| RelayChannel::new(AppId::new(app).unwrap(), name).unwrap();
    let names = [("a", "x"), ("a", "[meta]log"), ("b", "x"), ("a", "x")];
    let items = names.map(|(app, name)| GatewayItem::Interest {
        channel: channel(app, name),
        on: true,
    });
    let message = GatewayMessage {
        node: NodeId(1),
        incarnation: Incarnation(1),
        fence: Fence(1),
        stream: 1,
        sequence: 1,
        items: items.into(),
    };
    let parcel = proto::Parcel::from(&RelayParcel {
        shard: ShardId(0),
        message: RelayMessage::Gateway(message),
    });
    let wanted = [told("a", "x"), told("", "[meta]log"), told("b", "x")];
    assert_eq!(parcel.channels, wanted);
}

#[test]
fn a_parcel_without_what_it_needs_is_refused() {
    let whole = sent(Kind::Gateway(from_gateway(Vec::new())));
    assert!(RelayParcel::try_from(whole.clone()).is_ok());
    refused(
        proto::Parcel {
            shard: SHARDS_MAX,
            ..whole.clone()
        },
        "shard is 1024",
    );
    refused(
        proto::Parcel {
            message: None,
            ..whole.clone()
        },
        "message is missing",
    );
    let long = "x".repeat(headcount_relay::RELAY_NAME_BYTES_MAX + 1);
    for (channel, wanted) in [
        (told("", "x"), "channels.app is missing"),
        (told("a b", "x"), "channels.app: app id"),
        (told("a", ""), "channels.name: relay channel name is empty"),
        (told("a", &long), "channels.name"),
    ] {
        let channels = vec![channel];
        refused(
            proto::Parcel {
                channels,
                ..whole.clone()
            },
            wanted,
        );
    }
}

#[test]
fn a_gateways_message_is_checked() {
    type Break = fn(&mut proto::GatewayMessage);
    let breaks: [(Break, &str); 5] = [
        (|message| message.node = 0, "gateway.node"),
        (|message| message.incarnation = 0, "gateway.incarnation"),
        (|message| message.fence = 0, "gateway.fence"),
        (|message| message.stream = 0, "gateway.stream"),
        (|message| message.sequence = 0, "gateway.sequence"),
    ];
    for (spoil, wanted) in breaks {
        let mut message = from_gateway(vec![GatewayKind::Complete(proto::Complete {})]);
        spoil(&mut message);
        refused(sent(Kind::Gateway(message)), wanted);
    }
    let interest = proto::Interest {
        channel: 1,
        on: true,
    };
    let none = proto::Changes::default();
    let unsaid = proto::Changes {
        channel: 0,
        changes: vec![proto::Change::default()],
    };
    let nobody = proto::Published::default();
    for (item, wanted) in [
        (GatewayKind::Interest(interest), "channel is 1"),
        (GatewayKind::Changes(none), "changes is missing"),
        (GatewayKind::Changes(unsaid), "change is missing"),
        (GatewayKind::Published(nobody), "published.publisher"),
    ] {
        refused(sent(Kind::Gateway(from_gateway(vec![item]))), wanted);
    }
    let mut unsaid = from_gateway(Vec::new());
    unsaid.items.push(proto::GatewayItem::default());
    refused(sent(Kind::Gateway(unsaid)), "gateway.items.item is missing");
}

#[test]
fn an_owners_restart_comes_alone() {
    let restart = || OwnerKind::Restart(proto::Restart {});
    assert!(RelayParcel::try_from(from_owner(0, vec![restart()])).is_ok());
    refused(from_owner(0, Vec::new()), "owner.sequence is 0");
    refused(
        from_owner(0, vec![restart(), restart()]),
        "owner.sequence is 0",
    );
    refused(from_owner(1, vec![restart()]), "a restart comes alone");
    for (member, wanted) in [
        (
            proto::Member {
                connection: String::new(),
                ..someone()
            },
            "member.connection",
        ),
        (
            proto::Member {
                id: "x".repeat(257),
                ..someone()
            },
            "member.id",
        ),
    ] {
        let set = proto::Set {
            members: vec![member],
            ..proto::Set::default()
        };
        refused(from_owner(1, vec![OwnerKind::Set(set)]), wanted);
    }
}

#[test]
fn a_regions_message_is_checked() {
    type Break = fn(&mut proto::RegionMessage);
    let breaks: [(Break, &str); 5] = [
        (|message| message.region.clear(), "region.region"),
        (|message| message.fence = 0, "region.fence"),
        (|message| message.to = 0, "region.to"),
        (|message| message.stream = 0, "region.stream"),
        (|message| message.sequence = 0, "region.sequence"),
    ];
    for (spoil, wanted) in breaks {
        let mut message = from_region(RegionKind::Ready(proto::Ready {}));
        spoil(&mut message);
        refused(sent(Kind::Region(message)), wanted);
    }
    let put = proto::Change {
        change: Some(ChangeKind::Put(someone())),
    };
    let changes = |previous, version, changes| {
        sent(Kind::Region(from_region(RegionKind::Changes(
            proto::VersionedChanges {
                channel: 0,
                previous,
                version,
                changes,
            },
        ))))
    };
    assert!(RelayParcel::try_from(changes(4, 4, Vec::new())).is_ok());
    assert!(RelayParcel::try_from(changes(4, 6, vec![put.clone()])).is_ok());
    refused(changes(4, 5, Vec::new()), "changes.version is 5");
    refused(changes(4, 4, vec![put.clone()]), "changes.version is 4");
    refused(changes(4, 3, vec![put]), "changes.version is 3");
    let restart = RegionKind::Restart(proto::RegionRestart { stream: 0 });
    refused(sent(Kind::Region(from_region(restart))), "restart.stream");
}
