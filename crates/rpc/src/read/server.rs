//! The answering side.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use headcount_model::{
    AppId, CHANNEL_BYTES_MAX, ChannelKey, ChannelName, HistoryPoint, Position, RegionName, ShardId,
    Timestamp,
};
use headcount_wire::proto::read::v1 as proto;
use headcount_wire::proto::read::v1::follow_item::Item;
use headcount_wire::proto::read::v1::follow_response::Part;
use headcount_wire::proto::read::v1::read_server::{Read, ReadServer};
use headcount_wire::{put_early, take_kinds};
use tonic::{Request, Response, Status};

use super::ports::{
    Basis, FollowAsk, FollowItem, FollowStart, HistoryAsk, JournalAsk, ListAsk, ListedChannel,
    PastEvent, ReadError, ReadPort, Record, ShardStanding, StatusAsk,
};
use crate::peers::Network;

/// Most channels of a list.
const LIMIT_MAX: u32 = 1_000;

/// Most events of the past: a page, and one more that tells whether it is the last.
const HISTORY_MAX: u32 = 1_001;

/// Makes the read service. It answers members of the network's cluster only.
pub fn service(network: &Network, port: impl ReadPort) -> ReadServer<ReadService> {
    ReadServer::new(ReadService {
        network: network.clone(),
        port: Arc::new(port),
    })
}

/// Read service; see [`service`].
pub struct ReadService {
    network: Network,
    port: Arc<dyn ReadPort>,
}

impl std::fmt::Debug for ReadService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadService").finish_non_exhaustive()
    }
}

impl From<ReadError> for Status {
    fn from(error: ReadError) -> Self {
        let reason = error.to_string();
        match error {
            ReadError::Unavailable(_) => Self::unavailable(reason),
            ReadError::NoQuorum => Self::aborted(reason),
            ReadError::TimedOut => Self::deadline_exceeded(reason),
            ReadError::Invalid(_) => Self::invalid_argument(reason),
        }
    }
}

fn invalid(field: &str, reason: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {reason}"))
}

fn take_list(request: proto::ListRequest) -> Result<ListAsk, Status> {
    if request.shards.is_empty() {
        return Err(invalid("shards", "at least one is wanted"));
    }
    if !(1..=LIMIT_MAX).contains(&request.limit) {
        return Err(invalid("limit", "it must be from 1 to 1000"));
    }
    if request.prefix.len() > CHANNEL_BYTES_MAX {
        return Err(invalid("prefix", "it is longer than a channel's name"));
    }
    let after = request.after.map(|after| ChannelName::new(&after));
    Ok(ListAsk {
        shards: request.shards.into_iter().map(ShardId).collect(),
        app: AppId::new(&request.app).map_err(|error| invalid("app", error))?,
        prefix: request.prefix,
        after: after.transpose().map_err(|error| invalid("after", error))?,
        limit: request.limit as usize,
        with_values: request.with_values,
    })
}

fn take_history(request: proto::HistoryRequest) -> Result<HistoryAsk, Status> {
    if request.shards.is_empty() {
        return Err(invalid("shards", "at least one is wanted"));
    }
    if !(1..=HISTORY_MAX).contains(&request.limit) {
        return Err(invalid("limit", "it must be from 1 to 1001"));
    }
    let kinds = take_kinds(&request.kinds).map_err(|error| invalid("kinds", error))?;
    if kinds.is_empty() {
        return Err(invalid("kinds", "at least one is wanted"));
    }
    let after = request.after.map(|after| HistoryPoint {
        at: Timestamp(after.at_ms),
        shard: ShardId(after.shard),
        position: Position {
            index: after.index,
            ordinal: after.ordinal,
        },
    });
    Ok(HistoryAsk {
        shards: request.shards.into_iter().map(ShardId).collect(),
        app: AppId::new(&request.app).map_err(|error| invalid("app", error))?,
        kinds,
        from: request.from_ms.map(Timestamp),
        to: request.to_ms.map(Timestamp),
        newest_first: request.newest_first,
        after,
        limit: request.limit as usize,
    })
}

fn put_past(past: PastEvent) -> proto::HistoryRecord {
    proto::HistoryRecord {
        shard: past.shard.0,
        index: past.position.index,
        ordinal: past.position.ordinal,
        event: past.event,
    }
}

fn put_basis(basis: &Basis) -> proto::Freshness {
    let unheard = basis
        .unheard
        .iter()
        .map(|region| region.as_str().to_owned());
    proto::Freshness {
        age_ms: millis(basis.age),
        unheard: unheard.collect(),
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn put_listed(listed: ListedChannel) -> proto::ListedChannel {
    let value = listed
        .value
        .map(|(status, coordinator)| proto::ListedValue {
            occupancy: Some(status.occupancy.metrics.into()),
            coordinator: coordinator.as_str().to_owned(),
        });
    proto::ListedChannel {
        name: listed.name.as_str().to_owned(),
        value,
    }
}

fn put_record(record: Record) -> proto::JournalRecord {
    proto::JournalRecord {
        index: record.index,
        entry: record.entry,
    }
}

fn put_start(start: &FollowStart) -> proto::FollowResponse {
    proto::FollowResponse {
        part: Some(Part::Start(proto::FollowStart {
            index: start.index,
            fence: start.fence.0,
            number: start.number,
            expired: start.expired,
            resumed: start.resumed,
        })),
    }
}

fn put_batch(items: Vec<FollowItem>) -> proto::FollowResponse {
    let items = items.into_iter().map(|item| {
        let item = match item {
            FollowItem::Record(record) => Item::Record(put_record(record)),
            FollowItem::Advanced(index) => Item::Advanced(index),
            FollowItem::Early(early) => Item::Early(put_early(&early)),
        };
        proto::FollowItem { item: Some(item) }
    });
    proto::FollowResponse {
        part: Some(Part::Batch(proto::FollowBatch {
            items: items.collect(),
        })),
    }
}

fn put_standing(standing: ShardStanding) -> proto::ShardStanding {
    let regions = standing.regions.into_iter();
    let regions = regions.map(|standing| proto::RegionStanding {
        region: standing.region.as_str().to_owned(),
        fence: standing.fence.0,
        settled: standing.settled,
    });
    proto::ShardStanding {
        shard: standing.shard.0,
        leader: standing.leader.map_or(0, |leader| leader.0),
        term: standing.term,
        regions: regions.collect(),
        channels: standing.channels,
    }
}

#[tonic::async_trait]
impl Read for ReadService {
    type FollowStream = BoxStream<'static, Result<proto::FollowResponse, Status>>;

    async fn status(
        &self,
        request: Request<proto::StatusRequest>,
    ) -> Result<Response<proto::StatusResponse>, Status> {
        self.network.admit(request.metadata())?;
        let request = request.into_inner();
        let channel = request.channel.unwrap_or_default();
        let channel = ChannelKey::new(&channel.app, &channel.name);
        let ask = StatusAsk {
            shard: ShardId(request.shard),
            channel: channel.map_err(|error| invalid("channel", error))?,
            strong: request.strong,
        };
        let reply = self.port.status(ask).await?;
        Ok(Response::new(proto::StatusResponse {
            active: reply.status.is_active,
            occupancy: Some(reply.status.occupancy.metrics.into()),
            coordinator: reply.coordinator.as_str().to_owned(),
            freshness: Some(put_basis(&reply.basis)),
        }))
    }

    async fn list(
        &self,
        request: Request<proto::ListRequest>,
    ) -> Result<Response<proto::ListResponse>, Status> {
        self.network.admit(request.metadata())?;
        let reply = self.port.list(take_list(request.into_inner())?)?;
        Ok(Response::new(proto::ListResponse {
            items: reply.items.into_iter().map(put_listed).collect(),
            more: reply.more,
            freshness: Some(put_basis(&reply.basis)),
        }))
    }

    async fn journal(
        &self,
        request: Request<proto::JournalRequest>,
    ) -> Result<Response<proto::JournalResponse>, Status> {
        self.network.admit(request.metadata())?;
        let request = request.into_inner();
        let ask = JournalAsk {
            shard: ShardId(request.shard),
            after: request.after,
            applied: request.applied,
        };
        let reply = self.port.journal(ask).await?;
        Ok(Response::new(proto::JournalResponse {
            first: reply.first,
            records: reply.records.into_iter().map(put_record).collect(),
            through: reply.through,
        }))
    }

    async fn history(
        &self,
        request: Request<proto::HistoryRequest>,
    ) -> Result<Response<proto::HistoryResponse>, Status> {
        self.network.admit(request.metadata())?;
        let reply = self
            .port
            .history(take_history(request.into_inner())?)
            .await?;
        Ok(Response::new(proto::HistoryResponse {
            records: reply.events.into_iter().map(put_past).collect(),
            lacking: reply.lacking.iter().map(|shard| shard.0).collect(),
        }))
    }

    async fn follow(
        &self,
        request: Request<proto::FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        self.network.admit(request.metadata())?;
        let request = request.into_inner();
        let region = RegionName::new(&request.region);
        let ask = FollowAsk {
            shard: ShardId(request.shard),
            region: region.map_err(|error| invalid("region", error))?,
            after: request.after,
        };
        let (start, batches) = self.port.follow(ask).await?;
        let start = stream::once(async move { put_start(&start) });
        let parts = start.chain(batches.map(put_batch)).map(Ok);
        Ok(Response::new(parts.boxed()))
    }

    async fn describe(
        &self,
        request: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::DescribeResponse>, Status> {
        self.network.admit(request.metadata())?;
        let shards = request.into_inner().shards.into_iter().map(ShardId);
        let standings = self.port.describe(&shards.collect::<Vec<_>>());
        Ok(Response::new(proto::DescribeResponse {
            shards: standings.into_iter().map(put_standing).collect(),
        }))
    }
}
