//! What the relay's stages say to each other, as parcels: outward as it is, inward with every bound
//! checked that `relay.proto` states.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use headcount_model::{
    AppId, ConnectionId, Fence, Incarnation, MemberId, NameError, NodeId, RegionName, SHARDS_MAX,
    ShardId,
};
use headcount_relay::{
    Change, GatewayItem, GatewayMessage, Member, MemberKey, Message, Newness, OwnerItem,
    OwnerMessage, RegionItem, RegionMessage, RelayChannel,
};
use headcount_wire::WireError;
use headcount_wire::proto::relay::v1 as proto;
use headcount_wire::proto::relay::v1::change::Change as ChangeKind;
use headcount_wire::proto::relay::v1::gateway_item::Item as GatewayKind;
use headcount_wire::proto::relay::v1::owner_item::Item as OwnerKind;
use headcount_wire::proto::relay::v1::parcel::Message as Kind;
use headcount_wire::proto::relay::v1::region_item::Item as RegionKind;

/// Relay parcel: one message of a relay's stage, about channels of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayParcel {
    /// The shard.
    pub shard: ShardId,
    /// The message.
    pub message: RelayMessage,
}

/// What a relay parcel holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayMessage {
    /// Gateway to its regional owner.
    Gateway(GatewayMessage),
    /// Regional owner to one of its gateways.
    Owner(OwnerMessage),
    /// Owner to the owner of the same shard in another region.
    Region(RegionMessage),
}

impl From<&RelayParcel> for proto::Parcel {
    fn from(parcel: &RelayParcel) -> Self {
        let mut channels = ChannelWriter::default();
        let message = match &parcel.message {
            RelayMessage::Gateway(message) => Kind::Gateway(channels.gateway(message)),
            RelayMessage::Owner(message) => Kind::Owner(channels.owner(message)),
            RelayMessage::Region(message) => Kind::Region(channels.region(message)),
        };
        Self {
            shard: parcel.shard.0,
            channels: channels.told,
            message: Some(message),
        }
    }
}

impl TryFrom<proto::Parcel> for RelayParcel {
    type Error = WireError;

    fn try_from(parcel: proto::Parcel) -> Result<Self, WireError> {
        if parcel.shard >= SHARDS_MAX {
            return Err(range("shard", u64::from(parcel.shard)));
        }
        let channels = ChannelReader::new(&parcel.channels)?;
        let message = match required("message", parcel.message)? {
            Kind::Gateway(message) => RelayMessage::Gateway(channels.gateway(message)?),
            Kind::Owner(message) => RelayMessage::Owner(channels.owner(message)?),
            Kind::Region(message) => RelayMessage::Region(channels.region(message)?),
        };
        Ok(Self {
            shard: ShardId(parcel.shard),
            message,
        })
    }
}

/// Channels of a parcel that is being written, each told once.
#[derive(Default)]
struct ChannelWriter<'a> {
    places: BTreeMap<&'a RelayChannel, u32>,
    last_app: Option<&'a AppId>,
    told: Vec<proto::Channel>,
}

impl<'a> ChannelWriter<'a> {
    fn place(&mut self, channel: &'a RelayChannel) -> u32 {
        if let Some(place) = self.places.get(channel) {
            return *place;
        }
        let place = u32::try_from(self.told.len()).expect("a message has few items");
        let repeated = self.last_app.replace(&channel.app) == Some(&channel.app);
        let app = if repeated { "" } else { channel.app.as_str() };
        self.told.push(proto::Channel {
            app: app.to_owned(),
            name: channel.name.to_string(),
        });
        self.places.insert(channel, place);
        place
    }

    fn gateway(&mut self, message: &'a GatewayMessage) -> proto::GatewayMessage {
        let items = message.items.iter().map(|item| {
            let item = match item {
                GatewayItem::Interest { channel, on } => GatewayKind::Interest(proto::Interest {
                    channel: self.place(channel),
                    on: *on,
                }),
                GatewayItem::Changes { channel, changes } => {
                    GatewayKind::Changes(self.changes(channel, changes))
                }
                GatewayItem::Publish(message) => GatewayKind::Published(self.published(message)),
                GatewayItem::Complete => GatewayKind::Complete(proto::Complete {}),
            };
            proto::GatewayItem { item: Some(item) }
        });
        proto::GatewayMessage {
            items: items.collect(),
            node: message.node.0,
            incarnation: message.incarnation.0,
            fence: message.fence.0,
            stream: message.stream,
            sequence: message.sequence,
        }
    }

    fn owner(&mut self, message: &'a OwnerMessage) -> proto::OwnerMessage {
        let items = message.items.iter().map(|item| {
            let item = match item {
                OwnerItem::Set {
                    channel,
                    members,
                    first,
                    last,
                } => OwnerKind::Set(proto::Set {
                    channel: self.place(channel),
                    members: members.iter().map(put_member).collect(),
                    first: *first,
                    last: *last,
                }),
                OwnerItem::Changes { channel, changes } => {
                    OwnerKind::Changes(self.changes(channel, changes))
                }
                OwnerItem::Message(message) => OwnerKind::Published(self.published(message)),
                OwnerItem::Restart => OwnerKind::Restart(proto::Restart {}),
            };
            proto::OwnerItem { item: Some(item) }
        });
        proto::OwnerMessage {
            items: items.collect(),
            fence: message.fence.0,
            stream: message.stream,
            sequence: message.sequence,
        }
    }

    fn region(&mut self, message: &'a RegionMessage) -> proto::RegionMessage {
        let items = message.items.iter().map(|item| proto::RegionItem {
            item: Some(self.region_item(item)),
        });
        proto::RegionMessage {
            items: items.collect(),
            region: message.region.as_str().to_owned(),
            fence: message.fence.0,
            to: message.to.0,
            stream: message.stream,
            sequence: message.sequence,
        }
    }

    fn region_item(&mut self, item: &'a RegionItem) -> RegionKind {
        match item {
            RegionItem::Ready => RegionKind::Ready(proto::Ready {}),
            RegionItem::Interest {
                channel,
                fence,
                version,
            } => RegionKind::Pull(proto::Pull {
                channel: self.place(channel),
                fence: fence.0,
                version: *version,
            }),
            RegionItem::Set {
                channel,
                version,
                members,
                first,
                last,
            } => RegionKind::Set(proto::VersionedSet {
                channel: self.place(channel),
                version: *version,
                members: members.iter().map(put_member).collect(),
                first: *first,
                last: *last,
            }),
            RegionItem::Changes {
                channel,
                previous,
                version,
                changes,
            } => RegionKind::Changes(proto::VersionedChanges {
                channel: self.place(channel),
                previous: *previous,
                version: *version,
                changes: changes.iter().map(put_change).collect(),
            }),
            RegionItem::Message(message) => RegionKind::Published(self.published(message)),
            RegionItem::Restart { stream } => {
                RegionKind::Restart(proto::RegionRestart { stream: *stream })
            }
        }
    }

    fn changes(&mut self, channel: &'a RelayChannel, changes: &[Change]) -> proto::Changes {
        proto::Changes {
            channel: self.place(channel),
            changes: changes.iter().map(put_change).collect(),
        }
    }

    fn published(&mut self, message: &'a Message) -> proto::Published {
        proto::Published {
            channel: self.place(&message.channel),
            publisher: message.publisher.as_str().to_owned(),
            body: shared(&message.body),
        }
    }
}

fn put_change(change: &Change) -> proto::Change {
    let change = match change {
        Change::Put(member) => ChangeKind::Put(put_member(member)),
        Change::Leave(member) => ChangeKind::Leave(put_member(member)),
    };
    proto::Change {
        change: Some(change),
    }
}

fn put_member(member: &Member) -> proto::Member {
    proto::Member {
        connection: member.key.connection.as_str().to_owned(),
        id: member.key.id.as_str().to_owned(),
        serial: member.newness.serial,
        index: member.newness.index,
        data: shared(&member.data),
    }
}

/// Returns the same bytes, not a copy: a body goes to as many nodes as are interested.
fn shared(bytes: &Arc<[u8]>) -> Bytes {
    Bytes::from_owner(Arc::clone(bytes))
}

/// Channels of a parcel that is being read.
struct ChannelReader(Vec<RelayChannel>);

impl ChannelReader {
    fn new(told: &[proto::Channel]) -> Result<Self, WireError> {
        let mut channels: Vec<RelayChannel> = Vec::with_capacity(told.len());
        for channel in told {
            let app = match (channel.app.as_str(), channels.last()) {
                ("", Some(last)) => last.app.clone(),
                ("", None) => return Err(WireError::Missing("channels.app")),
                (app, _) => AppId::new(app).map_err(named("channels.app"))?,
            };
            let channel = RelayChannel::new(app, &channel.name);
            channels.push(channel.map_err(named("channels.name"))?);
        }
        Ok(Self(channels))
    }

    fn at(&self, place: u32) -> Result<RelayChannel, WireError> {
        let channel = self.0.get(place as usize).cloned();
        channel.ok_or(range("channel", u64::from(place)))
    }

    fn gateway(&self, message: proto::GatewayMessage) -> Result<GatewayMessage, WireError> {
        let item = |item: proto::GatewayItem| -> Result<GatewayItem, WireError> {
            Ok(match required("gateway.items.item", item.item)? {
                GatewayKind::Interest(interest) => GatewayItem::Interest {
                    channel: self.at(interest.channel)?,
                    on: interest.on,
                },
                GatewayKind::Changes(changes) => {
                    let (channel, changes) = self.changes(changes)?;
                    GatewayItem::Changes { channel, changes }
                }
                GatewayKind::Published(message) => GatewayItem::Publish(self.published(&message)?),
                GatewayKind::Complete(proto::Complete {}) => GatewayItem::Complete,
            })
        };
        Ok(GatewayMessage {
            node: NodeId(positive("gateway.node", message.node)?),
            incarnation: Incarnation(positive("gateway.incarnation", message.incarnation)?),
            fence: Fence(positive("gateway.fence", message.fence)?),
            stream: positive("gateway.stream", message.stream)?,
            sequence: positive("gateway.sequence", message.sequence)?,
            items: all(message.items, item)?,
        })
    }

    fn owner(&self, message: proto::OwnerMessage) -> Result<OwnerMessage, WireError> {
        let item = |item: proto::OwnerItem| -> Result<OwnerItem, WireError> {
            Ok(match required("owner.items.item", item.item)? {
                OwnerKind::Set(set) => OwnerItem::Set {
                    channel: self.at(set.channel)?,
                    members: all(set.members, |member| take_member(&member))?,
                    first: set.first,
                    last: set.last,
                },
                OwnerKind::Changes(changes) => {
                    let (channel, changes) = self.changes(changes)?;
                    OwnerItem::Changes { channel, changes }
                }
                OwnerKind::Published(message) => OwnerItem::Message(self.published(&message)?),
                OwnerKind::Restart(proto::Restart {}) => OwnerItem::Restart,
            })
        };
        let items = all(message.items, item)?;
        if message.sequence == 0 && items != [OwnerItem::Restart] {
            return Err(range("owner.sequence", 0));
        }
        if message.sequence > 0 && items.contains(&OwnerItem::Restart) {
            return Err(WireError::Contradiction(
                "owner.items: a restart comes alone and without a number",
            ));
        }
        Ok(OwnerMessage {
            fence: Fence(positive("owner.fence", message.fence)?),
            stream: positive("owner.stream", message.stream)?,
            sequence: message.sequence,
            items,
        })
    }

    fn region(&self, message: proto::RegionMessage) -> Result<RegionMessage, WireError> {
        let item =
            |item: proto::RegionItem| self.region_item(required("region.items.item", item.item)?);
        Ok(RegionMessage {
            region: RegionName::new(&message.region).map_err(named("region.region"))?,
            fence: Fence(positive("region.fence", message.fence)?),
            to: Fence(positive("region.to", message.to)?),
            stream: positive("region.stream", message.stream)?,
            sequence: positive("region.sequence", message.sequence)?,
            items: all(message.items, item)?,
        })
    }

    fn region_item(&self, item: RegionKind) -> Result<RegionItem, WireError> {
        Ok(match item {
            RegionKind::Ready(proto::Ready {}) => RegionItem::Ready,
            RegionKind::Pull(pull) => RegionItem::Interest {
                channel: self.at(pull.channel)?,
                fence: Fence(pull.fence),
                version: pull.version,
            },
            RegionKind::Set(set) => RegionItem::Set {
                channel: self.at(set.channel)?,
                version: set.version,
                members: all(set.members, |member| take_member(&member))?,
                first: set.first,
                last: set.last,
            },
            RegionKind::Changes(told) => {
                let follows = if told.changes.is_empty() {
                    told.version == told.previous
                } else {
                    told.version > told.previous
                };
                if !follows {
                    return Err(range("region.items.changes.version", told.version));
                }
                RegionItem::Changes {
                    channel: self.at(told.channel)?,
                    previous: told.previous,
                    version: told.version,
                    changes: all(told.changes, take_change)?,
                }
            }
            RegionKind::Published(message) => RegionItem::Message(self.published(&message)?),
            RegionKind::Restart(restart) => RegionItem::Restart {
                stream: positive("region.items.restart.stream", restart.stream)?,
            },
        })
    }

    fn changes(&self, told: proto::Changes) -> Result<(RelayChannel, Vec<Change>), WireError> {
        if told.changes.is_empty() {
            return Err(WireError::Missing("changes"));
        }
        Ok((self.at(told.channel)?, all(told.changes, take_change)?))
    }

    fn published(&self, message: &proto::Published) -> Result<Message, WireError> {
        let publisher = ConnectionId::new(&message.publisher);
        Ok(Message {
            channel: self.at(message.channel)?,
            publisher: publisher.map_err(named("published.publisher"))?,
            body: Arc::from(&message.body[..]),
        })
    }
}

fn take_change(change: proto::Change) -> Result<Change, WireError> {
    Ok(match required("change", change.change)? {
        ChangeKind::Put(member) => Change::Put(take_member(&member)?),
        ChangeKind::Leave(member) => Change::Leave(take_member(&member)?),
    })
}

fn take_member(member: &proto::Member) -> Result<Member, WireError> {
    let connection = ConnectionId::new(&member.connection).map_err(named("member.connection"))?;
    let id = MemberId::new(&member.id).map_err(named("member.id"))?;
    Ok(Member {
        key: MemberKey { connection, id },
        newness: Newness {
            serial: member.serial,
            index: member.index,
        },
        data: Arc::from(&member.data[..]),
    })
}

fn all<T, U>(
    told: Vec<T>,
    take: impl FnMut(T) -> Result<U, WireError>,
) -> Result<Vec<U>, WireError> {
    told.into_iter().map(take).collect()
}

fn required<T>(field: &'static str, value: Option<T>) -> Result<T, WireError> {
    value.ok_or(WireError::Missing(field))
}

fn positive(field: &'static str, value: u64) -> Result<u64, WireError> {
    if value == 0 {
        return Err(range(field, value));
    }
    Ok(value)
}

fn range(field: &'static str, value: u64) -> WireError {
    WireError::Range { field, value }
}

fn named(field: &'static str) -> impl FnOnce(NameError) -> WireError {
    move |source| WireError::Name { field, source }
}

#[cfg(test)]
mod tests;
