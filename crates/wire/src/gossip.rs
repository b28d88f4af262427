//! What nodes tell each other about counts.

use headcount_model::{
    Batch, Claim, EdgeId, Fence, GatewayAck, GatewayItem, GatewayUpdate, Incarnation, NodeId,
    OwnerRef, ShardId, SourceId, Transition,
};

use crate::error::{WireError, named, required};
use crate::names::{NameReader, NameWriter, put_counts, take_counts};
use crate::proto::gossip::v1 as proto;
use crate::proto::gossip::v1::gateway_item::Item;
use crate::proto::gossip::v1::parcel::Body;
use crate::shard::{
    put_batch, put_claim, put_owner, put_transition, take_batch, take_claim, take_owner,
    take_transition,
};

/// One thing that a node tells another about a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// The shard.
    pub shard: ShardId,
    /// Whether a receiver that does not coordinate the shard takes it on to the coordinator, for
    /// which it is taken on no further (R18). Only commands are.
    pub take_on: bool,
    /// What is told.
    pub body: ParcelBody,
}

/// What a parcel holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParcelBody {
    /// Owner to coordinator: its claim.
    Claim(Claim),
    /// Owner to coordinator: a batch.
    Batch(Batch),
    /// Owner to coordinator: its adoption is over.
    Settled(OwnerRef),
    /// Anybody to coordinator: a region is dead.
    ExpireRegion(OwnerRef),
    /// Gateway to owner.
    Update(GatewayUpdate),
    /// Owner to gateway.
    Ack(GatewayAck),
    /// Owner to the nodes of its region: a transition told ahead of the log.
    Early(OwnerRef, Transition),
    /// Whoever took an owner's commands on, back to the owner.
    Logged(LoggedMark),
}

/// How far a shard's log has come with what an owner told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedMark {
    /// Whose mark it is; its fence is the one claimed.
    pub owner: OwnerRef,
    /// Sequence of the last batch applied.
    pub sequence: u64,
    /// Number of the last transition consumed.
    pub number: u64,
    /// Whether the owner's adoption is over.
    pub settled: bool,
}

/// Encodes parcels for one stream; forgets old names when there are too many.
#[must_use]
pub fn encode_parcels(parcels: &[Parcel], names: &mut NameWriter) -> proto::TellRequest {
    let reset_names = names.is_full();
    if reset_names {
        names.reset();
    }
    let parcels = parcels
        .iter()
        .map(|parcel| put_parcel(parcel, names))
        .collect();
    proto::TellRequest {
        reset_names,
        names: names.take_fresh(),
        parcels,
    }
}

/// Decodes what [`encode_parcels`] made for the same stream.
///
/// # Errors
/// [`WireError`] names what cannot be understood; the stream is of no use after that.
pub fn decode_parcels(
    request: proto::TellRequest,
    names: &mut NameReader,
) -> Result<Vec<Parcel>, WireError> {
    if request.reset_names {
        names.reset();
    }
    names.add(request.names)?;
    request
        .parcels
        .into_iter()
        .map(|parcel| take_parcel(parcel, names))
        .collect()
}

fn put_parcel(parcel: &Parcel, names: &mut NameWriter) -> proto::Parcel {
    let body = match &parcel.body {
        ParcelBody::Claim(claim) => Body::Claim(put_claim(claim, names)),
        ParcelBody::Batch(batch) => Body::Batch(put_batch(batch, names)),
        ParcelBody::Settled(owner) => Body::Settled(put_owner(owner)),
        ParcelBody::ExpireRegion(owner) => Body::ExpireRegion(put_owner(owner)),
        ParcelBody::Update(update) => Body::Update(put_update(update, names)),
        ParcelBody::Ack(ack) => Body::Ack(proto::GatewayAck {
            fence: ack.fence.0,
            stream: ack.stream,
            sequence: ack.sequence,
        }),
        ParcelBody::Early(owner, transition) => Body::Early(proto::Early {
            owner: Some(put_owner(owner)),
            transition: Some(put_transition(transition, names)),
        }),
        ParcelBody::Logged(mark) => Body::Logged(proto::Logged {
            owner: Some(put_owner(&mark.owner)),
            sequence: mark.sequence,
            number: mark.number,
            settled: mark.settled,
        }),
    };
    proto::Parcel {
        shard: parcel.shard.0,
        take_on: parcel.take_on,
        body: Some(body),
    }
}

fn take_parcel(parcel: proto::Parcel, names: &NameReader) -> Result<Parcel, WireError> {
    let body = match required("body", parcel.body)? {
        Body::Claim(claim) => ParcelBody::Claim(take_claim(claim, names)?),
        Body::Batch(batch) => ParcelBody::Batch(take_batch(batch, names)?),
        Body::Settled(owner) => ParcelBody::Settled(take_owner(Some(owner))?),
        Body::ExpireRegion(owner) => ParcelBody::ExpireRegion(take_owner(Some(owner))?),
        Body::Update(update) => ParcelBody::Update(take_update(update, names)?),
        Body::Ack(ack) => ParcelBody::Ack(GatewayAck {
            fence: Fence(ack.fence),
            stream: ack.stream,
            sequence: ack.sequence,
        }),
        Body::Early(early) => {
            let transition = required("early.transition", early.transition)?;
            ParcelBody::Early(
                take_owner(early.owner)?,
                take_transition(&transition, names)?,
            )
        }
        Body::Logged(mark) => ParcelBody::Logged(LoggedMark {
            owner: take_owner(mark.owner)?,
            sequence: mark.sequence,
            number: mark.number,
            settled: mark.settled,
        }),
    };
    Ok(Parcel {
        shard: ShardId(parcel.shard),
        take_on: parcel.take_on,
        body,
    })
}

fn put_update(update: &GatewayUpdate, names: &mut NameWriter) -> proto::GatewayUpdate {
    let mut sources: Vec<&SourceId> = Vec::new();
    let mut place = |source| -> u32 {
        let known = sources.iter().position(|known| *known == source);
        let place = known.unwrap_or_else(|| {
            sources.push(source);
            sources.len() - 1
        });
        u32::try_from(place).expect("an update has few sources")
    };
    let items = update.items.iter().map(|item| {
        let item = match item {
            GatewayItem::Register {
                source,
                channel,
                occupancy,
            } => Item::Register(proto::GatewayRegister {
                source: place(source),
                channel: names.number(channel),
                counts: put_counts(occupancy),
            }),
            GatewayItem::SourceComplete(source) => Item::SourceComplete(place(source)),
            GatewayItem::SourceEnded(source) => Item::SourceEnded(place(source)),
            GatewayItem::Activity(channel) => Item::Activity(names.number(channel)),
            GatewayItem::StreamComplete => Item::StreamComplete(proto::StreamComplete {}),
            GatewayItem::Recovered => Item::Recovered(proto::Recovered {}),
        };
        proto::GatewayItem { item: Some(item) }
    });
    let items = items.collect();
    proto::GatewayUpdate {
        node: update.node.0,
        incarnation: update.incarnation.0,
        fence: update.fence.0,
        stream: update.stream,
        sequence: update.sequence,
        items,
        sources: sources.into_iter().map(put_source).collect(),
    }
}

fn take_update(
    update: proto::GatewayUpdate,
    names: &NameReader,
) -> Result<GatewayUpdate, WireError> {
    let sources = update
        .sources
        .iter()
        .map(take_source)
        .collect::<Result<Vec<_>, _>>()?;
    let source = |place: u32| -> Result<SourceId, WireError> {
        let known = sources.get(place as usize).cloned();
        known.ok_or(WireError::Range {
            field: "source",
            value: u64::from(place),
        })
    };
    let item = |item: proto::GatewayItem| -> Result<GatewayItem, WireError> {
        Ok(match required("item", item.item)? {
            Item::Register(register) => GatewayItem::Register {
                source: source(register.source)?,
                channel: names.channel(register.channel)?,
                occupancy: take_counts(&register.counts)?,
            },
            Item::SourceComplete(place) => GatewayItem::SourceComplete(source(place)?),
            Item::SourceEnded(place) => GatewayItem::SourceEnded(source(place)?),
            Item::Activity(channel) => GatewayItem::Activity(names.channel(channel)?),
            Item::StreamComplete(proto::StreamComplete {}) => GatewayItem::StreamComplete,
            Item::Recovered(proto::Recovered {}) => GatewayItem::Recovered,
        })
    };
    Ok(GatewayUpdate {
        node: NodeId(update.node),
        incarnation: Incarnation(update.incarnation),
        fence: Fence(update.fence),
        stream: update.stream,
        sequence: update.sequence,
        items: update
            .items
            .into_iter()
            .map(item)
            .collect::<Result<_, _>>()?,
    })
}

fn put_source(source: &SourceId) -> proto::Source {
    match source {
        SourceId::Edge {
            edge,
            incarnation,
            session,
        } => proto::Source {
            edge: edge.as_str().to_owned(),
            incarnation: incarnation.0,
            session: *session,
        },
        SourceId::Clients => proto::Source::default(),
    }
}

fn take_source(source: &proto::Source) -> Result<SourceId, WireError> {
    if source.edge.is_empty() {
        return Ok(SourceId::Clients);
    }
    Ok(SourceId::Edge {
        edge: EdgeId::new(&source.edge).map_err(named("source.edge"))?,
        incarnation: Incarnation(source.incarnation),
        session: source.session,
    })
}
