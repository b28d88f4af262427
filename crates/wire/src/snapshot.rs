//! A shard's snapshot as chunks of protobuf, and back.

use bytes::Bytes;
use headcount_model::{
    ChannelKey, ChannelSnapshot, Era, Fence, Incarnation, NodeId, Position, RegionName,
    RegionSnapshot, ShardId, ShardSnapshot, Timestamp, ToldOccupancy,
};
use prost::Message;

use crate::error::{WireError, named, required};
use crate::names::{put_counts, take_counts};
use crate::proto::storage::v1 as proto;
use crate::shard::{FORMAT, check_format, decode_error, put_pacing, take_pacing};

/// Channels in one chunk: with the longest names and thirty regions it stays below a megabyte.
const CHUNK_CHANNELS: usize = 256;

/// Encodes a snapshot; equal snapshots give equal bytes.
#[must_use]
pub fn encode_snapshot(snapshot: &ShardSnapshot) -> Vec<Bytes> {
    let head = proto::ShardSnapshotHead {
        format: FORMAT,
        shard: snapshot.shard.0,
        era: snapshot.era.0,
        applied: snapshot.applied,
        stamp_ms: snapshot.stamp.0,
        pacing: Some(put_pacing(&snapshot.pacing)),
        regions: snapshot.regions.iter().map(put_region).collect(),
        channels: snapshot.channels.len() as u64,
    };
    let first = proto::ShardSnapshotChunk {
        head: Some(head),
        channels: Vec::new(),
    };
    let rest = snapshot
        .channels
        .chunks(CHUNK_CHANNELS)
        .map(|channels| proto::ShardSnapshotChunk {
            head: None,
            channels: channels.iter().map(put_channel).collect(),
        });
    std::iter::once(first)
        .chain(rest)
        .map(|chunk| chunk.encode_to_vec().into())
        .collect()
}

/// Decodes what [`encode_snapshot`] made, of this or an earlier release.
///
/// # Errors
/// [`WireError`] names what cannot be understood.
pub fn decode_snapshot(chunks: &[Bytes]) -> Result<ShardSnapshot, WireError> {
    let mut head = None;
    let mut channels = Vec::new();
    for chunk in chunks {
        let decoded = proto::ShardSnapshotChunk::decode(chunk.as_ref());
        let chunk = decoded.map_err(|error| decode_error("shard snapshot", &error))?;
        if head.is_none() {
            head = chunk.head;
        }
        for channel in chunk.channels {
            channels.push(take_channel(channel)?);
        }
    }
    let head = required("head", head)?;
    check_format("shard snapshot", head.format)?;
    if head.channels != channels.len() as u64 {
        return Err(WireError::Contradiction(
            "the snapshot does not hold as many channels as it says",
        ));
    }
    Ok(ShardSnapshot {
        shard: ShardId(head.shard),
        era: Era(head.era),
        applied: head.applied,
        stamp: Timestamp(head.stamp_ms),
        pacing: take_pacing(required("pacing", head.pacing)?),
        regions: head
            .regions
            .into_iter()
            .map(take_region)
            .collect::<Result<_, _>>()?,
        channels,
    })
}

fn put_region(region: &RegionSnapshot) -> proto::SnapshotRegion {
    proto::SnapshotRegion {
        name: region.name.as_str().to_owned(),
        fence: region.fence.0,
        ended: region.ended,
        settled: region.settled,
        node: region.node.0,
        incarnation: region.incarnation.0,
        sequence: region.sequence,
        number: region.number,
        expiring: region.expiring.as_ref().map(|after| proto::Expiring {
            after: after.as_ref().map(put_key),
        }),
    }
}

fn take_region(region: proto::SnapshotRegion) -> Result<RegionSnapshot, WireError> {
    let expiring = region
        .expiring
        .map(|expiring| expiring.after.as_ref().map(take_key).transpose());
    Ok(RegionSnapshot {
        name: RegionName::new(&region.name).map_err(named("region.name"))?,
        fence: Fence(region.fence),
        ended: region.ended,
        settled: region.settled,
        node: NodeId(region.node),
        incarnation: Incarnation(region.incarnation),
        sequence: region.sequence,
        number: region.number,
        expiring: expiring.transpose()?,
    })
}

fn put_key(key: &ChannelKey) -> proto::ChannelName {
    proto::ChannelName {
        app: key.app.as_str().to_owned(),
        name: key.name.as_str().to_owned(),
    }
}

fn take_key(key: &proto::ChannelName) -> Result<ChannelKey, WireError> {
    ChannelKey::new(&key.app, &key.name).map_err(named("channel"))
}

fn put_channel(channel: &ChannelSnapshot) -> proto::SnapshotChannel {
    let regions = channel
        .regions
        .iter()
        .map(|(region, counts)| proto::SnapshotCounts {
            region: u32::from(*region),
            counts: put_counts(counts),
        });
    let previous = channel.previous.unwrap_or_default();
    proto::SnapshotChannel {
        channel: Some(put_key(&channel.key)),
        regions: regions.collect(),
        previous_index: previous.index,
        previous_ordinal: previous.ordinal,
        told: channel.told.map(|told| proto::SnapshotTold {
            counts: put_counts(&told.occupancy),
            until_ms: told.until.0,
        }),
    }
}

fn take_channel(channel: proto::SnapshotChannel) -> Result<ChannelSnapshot, WireError> {
    let counts = |counts: proto::SnapshotCounts| {
        let value = u64::from(counts.region);
        let region = u16::try_from(counts.region);
        let region = region.map_err(|_| WireError::Range {
            field: "regions.region",
            value,
        })?;
        Ok((region, take_counts(&counts.counts)?))
    };
    let told = channel.told.map(|told| {
        let occupancy = take_counts(&told.counts)?;
        Ok(ToldOccupancy {
            occupancy,
            until: Timestamp(told.until_ms),
        })
    });
    let previous = Position {
        index: channel.previous_index,
        ordinal: channel.previous_ordinal,
    };
    Ok(ChannelSnapshot {
        key: take_key(&required("channel", channel.channel)?)?,
        regions: channel
            .regions
            .into_iter()
            .map(counts)
            .collect::<Result<_, WireError>>()?,
        previous: Some(previous).filter(|previous| *previous != Position::START),
        told: told.transpose()?,
    })
}
