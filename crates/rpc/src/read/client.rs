//! The asking side.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use headcount_model::{
    ChannelName, ChannelStatus, Fence, NodeId, Occupancy, Position, RegionName, ShardId,
};
use headcount_wire::proto::read::v1 as proto;
use headcount_wire::proto::read::v1::follow_item::Item;
use headcount_wire::proto::read::v1::follow_response::Part;
use headcount_wire::proto::read::v1::read_client::ReadClient as Generated;
use headcount_wire::proto::types::v1 as types;
use headcount_wire::{put_kinds, take_early};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::ports::{
    Basis, FollowAsk, FollowItem, FollowStart, HistoryAsk, HistoryReply, JournalAsk, JournalReply,
    ListAsk, ListReply, ListedChannel, PastEvent, ReadError, Record, RegionStanding, ShardStanding,
    StatusAsk, StatusReply,
};
use crate::peers::{MESSAGE_BYTES_MAX, Network};

/// Batches of a followed shard that may be on an emulated way at a time.
const DELAYED_MAX: usize = 1_024;

/// What follows a start, batch by batch; ends with the first error.
pub type FollowStream = BoxStream<'static, Result<Vec<FollowItem>, ReadError>>;

/// Asks other nodes. A cheap handle.
#[derive(Clone, Debug)]
pub struct ReadClient {
    network: Network,
}

impl From<Status> for ReadError {
    fn from(status: Status) -> Self {
        let reason = status.message().to_owned();
        match status.code() {
            Code::Aborted => Self::NoQuorum,
            Code::DeadlineExceeded => Self::TimedOut,
            Code::InvalidArgument | Code::FailedPrecondition => Self::Invalid(reason),
            Code::Unavailable => Self::Unavailable(reason),
            code => Self::Unavailable(format!("{code:?}: {reason}")),
        }
    }
}

fn odd(field: &str, reason: impl std::fmt::Display) -> ReadError {
    ReadError::Invalid(format!("the answer's {field}: {reason}"))
}

fn take_region(field: &str, name: &str) -> Result<RegionName, ReadError> {
    RegionName::new(name).map_err(|error| odd(field, error))
}

fn take_occupancy(occupancy: Option<types::Occupancy>) -> Occupancy {
    occupancy.unwrap_or_default().into()
}

fn take_basis(basis: Option<proto::Freshness>) -> Result<Basis, ReadError> {
    let basis = basis.ok_or_else(|| odd("freshness", "it is missing"))?;
    let unheard = basis.unheard.iter();
    Ok(Basis {
        age: Duration::from_millis(basis.age_ms),
        unheard: unheard
            .map(|region| take_region("freshness.unheard", region))
            .collect::<Result<_, _>>()?,
    })
}

fn take_listed(listed: proto::ListedChannel) -> Result<ListedChannel, ReadError> {
    let name = ChannelName::new(&listed.name).map_err(|error| odd("items.name", error))?;
    let value = listed.value.map(|value| {
        let status = ChannelStatus::new(true, take_occupancy(value.occupancy));
        let coordinator = take_region("items.value.coordinator", &value.coordinator)?;
        Ok::<_, ReadError>((status, coordinator))
    });
    Ok(ListedChannel {
        name,
        value: value.transpose()?,
    })
}

fn take_record(record: proto::JournalRecord) -> Record {
    Record {
        index: record.index,
        entry: record.entry,
    }
}

fn take_item(item: proto::FollowItem) -> Result<FollowItem, ReadError> {
    let item = item
        .item
        .ok_or_else(|| odd("items.item", "it is missing"))?;
    Ok(match item {
        Item::Record(record) => FollowItem::Record(take_record(record)),
        Item::Advanced(index) => FollowItem::Advanced(index),
        Item::Early(early) => {
            let early = take_early(early).map_err(|error| odd("items.early", error))?;
            FollowItem::Early(Box::new(early))
        }
    })
}

fn take_batch(response: proto::FollowResponse) -> Result<Vec<FollowItem>, ReadError> {
    match response.part {
        Some(Part::Batch(batch)) => batch.items.into_iter().map(take_item).collect(),
        Some(Part::Start(_)) | None => Err(odd("part", "only batches follow the start")),
    }
}

fn take_standing(standing: proto::ShardStanding) -> Result<ShardStanding, ReadError> {
    let region = |standing: proto::RegionStanding| {
        Ok::<_, ReadError>(RegionStanding {
            region: take_region("shards.regions.region", &standing.region)?,
            fence: Fence(standing.fence),
            settled: standing.settled,
        })
    };
    let regions = standing.regions.into_iter().map(region);
    Ok(ShardStanding {
        shard: ShardId(standing.shard),
        leader: Some(NodeId(standing.leader)).filter(|leader| leader.0 > 0),
        term: standing.term,
        regions: regions.collect::<Result<_, ReadError>>()?,
        channels: standing.channels,
    })
}

async fn call<T>(
    delay: Duration,
    within: Duration,
    calling: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, ReadError> {
    let answer = crate::call::call(delay, within, calling).await;
    Ok(answer.ok_or(ReadError::TimedOut)??)
}

impl ReadClient {
    /// Makes a client over a network.
    #[must_use]
    pub fn new(network: Network) -> Self {
        Self { network }
    }

    fn to(&self, node: NodeId) -> Result<(Generated<Channel>, Duration), ReadError> {
        let way = self.network.channel(node);
        let no_way = || ReadError::Unavailable(format!("no way to node {node} is known"));
        let (channel, delay) = way.ok_or_else(no_way)?;
        let client = Generated::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok((client, delay))
    }

    /// Asks a holder for a channel's state, for at most `within`.
    ///
    /// # Errors
    /// [`ReadError`] if it has no answer or cannot be reached.
    pub async fn status(
        &self,
        to: NodeId,
        ask: &StatusAsk,
        within: Duration,
    ) -> Result<StatusReply, ReadError> {
        let (mut client, delay) = self.to(to)?;
        let request = self.network.signed(proto::StatusRequest {
            shard: ask.shard.0,
            channel: Some(types::Channel {
                app: ask.channel.app.as_str().to_owned(),
                name: ask.channel.name.as_str().to_owned(),
            }),
            strong: ask.strong,
        });
        let reply = call(delay, within, client.status(request)).await?;
        Ok(StatusReply {
            status: ChannelStatus::new(reply.active, take_occupancy(reply.occupancy)),
            coordinator: take_region("coordinator", &reply.coordinator)?,
            basis: take_basis(reply.freshness)?,
        })
    }

    /// Asks a holder for a page of channels, for at most `within`.
    ///
    /// # Errors
    /// [`ReadError`] if it does not hold all the shards or cannot be reached.
    pub async fn list(
        &self,
        to: NodeId,
        ask: &ListAsk,
        within: Duration,
    ) -> Result<ListReply, ReadError> {
        let (mut client, delay) = self.to(to)?;
        let request = self.network.signed(proto::ListRequest {
            shards: ask.shards.iter().map(|shard| shard.0).collect(),
            app: ask.app.as_str().to_owned(),
            prefix: ask.prefix.clone(),
            after: ask.after.as_ref().map(|after| after.as_str().to_owned()),
            limit: u32::try_from(ask.limit).unwrap_or(u32::MAX),
            with_values: ask.with_values,
        });
        let reply = call(delay, within, client.list(request)).await?;
        if reply.more && reply.items.is_empty() {
            return Err(odd("items", "there are more, and none of them is here"));
        }
        let items = reply.items.into_iter().map(take_listed);
        Ok(ListReply {
            items: items.collect::<Result<_, _>>()?,
            more: reply.more,
            basis: take_basis(reply.freshness)?,
        })
    }

    /// Asks a holder for a stretch of a shard's journal, for at most `within`.
    ///
    /// # Errors
    /// [`ReadError`] if it does not hold the shard, lags behind what is asked, or cannot be
    /// reached.
    pub async fn journal(
        &self,
        to: NodeId,
        ask: &JournalAsk,
        within: Duration,
    ) -> Result<JournalReply, ReadError> {
        let (mut client, delay) = self.to(to)?;
        let request = self.network.signed(proto::JournalRequest {
            shard: ask.shard.0,
            after: ask.after,
            applied: ask.applied,
        });
        let reply = call(delay, within, client.journal(request)).await?;
        Ok(JournalReply {
            first: reply.first,
            records: reply.records.into_iter().map(take_record).collect(),
            through: reply.through,
        })
    }

    /// Asks a holder for events of the past, for at most `within`.
    ///
    /// # Errors
    /// [`ReadError`] if it does not hold all the shards or cannot be reached.
    pub async fn history(
        &self,
        to: NodeId,
        ask: &HistoryAsk,
        within: Duration,
    ) -> Result<HistoryReply, ReadError> {
        let (mut client, delay) = self.to(to)?;
        let after = ask.after.map(|after| proto::HistoryPoint {
            at_ms: after.at.0,
            shard: after.shard.0,
            index: after.position.index,
            ordinal: after.position.ordinal,
        });
        let request = self.network.signed(proto::HistoryRequest {
            shards: ask.shards.iter().map(|shard| shard.0).collect(),
            app: ask.app.as_str().to_owned(),
            kinds: put_kinds(ask.kinds),
            from_ms: ask.from.map(|from| from.0),
            to_ms: ask.to.map(|to| to.0),
            newest_first: ask.newest_first,
            after,
            limit: u32::try_from(ask.limit).unwrap_or(u32::MAX),
        });
        let reply = call(delay, within, client.history(request)).await?;
        let events = reply.records.into_iter().map(|record| PastEvent {
            shard: ShardId(record.shard),
            position: Position {
                index: record.index,
                ordinal: record.ordinal,
            },
            event: record.event,
        });
        Ok(HistoryReply {
            events: events.collect(),
            lacking: reply.lacking.into_iter().map(ShardId).collect(),
        })
    }

    /// Follows a holder's feed of a shard; waits at most `within` for its start.
    ///
    /// # Errors
    /// [`ReadError`] if it does not hold the shard or cannot be reached.
    pub async fn follow(
        &self,
        to: NodeId,
        ask: &FollowAsk,
        within: Duration,
    ) -> Result<(FollowStart, FollowStream), ReadError> {
        let (mut client, delay) = self.to(to)?;
        let request = self.network.signed(proto::FollowRequest {
            shard: ask.shard.0,
            region: ask.region.as_str().to_owned(),
            after: ask.after,
        });
        let opening = async {
            let response = client.follow(request).await?;
            let mut parts = response.into_inner();
            let first = parts.message().await?;
            Ok(tonic::Response::new((first, parts)))
        };
        let (first, parts) = call(delay, within, opening).await?;
        let Some(Part::Start(start)) = first.and_then(|first| first.part) else {
            return Err(odd("part", "a stream begins with its start"));
        };
        let start = FollowStart {
            index: start.index,
            fence: Fence(start.fence),
            number: start.number,
            expired: start.expired,
            resumed: start.resumed,
        };
        let batches = parts
            .map_err(ReadError::from)
            .and_then(|part| async { take_batch(part) });
        if delay.is_zero() {
            return Ok((start, batches.boxed()));
        }
        let delayed = batches.map(move |batch| {
            let due = Instant::now() + delay;
            async move {
                tokio::time::sleep_until(due).await;
                batch
            }
        });
        Ok((start, delayed.buffered(DELAYED_MAX).boxed()))
    }

    /// Asks a node what it knows of shards, for at most `within`.
    ///
    /// # Errors
    /// [`ReadError`] if it cannot be reached.
    pub async fn describe(
        &self,
        to: NodeId,
        shards: &[ShardId],
        within: Duration,
    ) -> Result<Vec<ShardStanding>, ReadError> {
        let (mut client, delay) = self.to(to)?;
        let request = self.network.signed(proto::DescribeRequest {
            shards: shards.iter().map(|shard| shard.0).collect(),
        });
        let reply = call(delay, within, client.describe(request)).await?;
        reply.shards.into_iter().map(take_standing).collect()
    }
}
