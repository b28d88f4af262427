//! The service and its client over loopback.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use headcount_model::{
    AppId, ChannelKey, ChannelName, ChannelStatus, EventKind, EventKinds, Fence, HistoryPoint,
    NodeId, Occupancy, OwnerRef, Position, RegionName, ShardId, Timestamp, Transition,
};

use super::*;
use crate::call::testing::{asking, network};

const WITHIN: Duration = Duration::from_secs(10);

/// A holder of shard 1 and of no other.
struct Holder;

fn region() -> RegionName {
    RegionName::new("eu-west-1").unwrap()
}

fn basis() -> Basis {
    Basis {
        age: Duration::from_millis(7),
        unheard: vec![region()],
    }
}

fn here(shard: ShardId) -> Result<(), ReadError> {
    match shard.0 {
        1 => Ok(()),
        2 => Err(ReadError::NoQuorum),
        3 => Err(ReadError::TimedOut),
        other => Err(ReadError::Unavailable(format!("shard {other} is not here"))),
    }
}

fn busy() -> ChannelStatus {
    ChannelStatus::new(true, Occupancy::from_counts([3, 2, 1, 0, 0, 0, 0, 9]))
}

fn items() -> Vec<FollowItem> {
    let transition = Transition {
        number: 4,
        channel: ChannelKey::new("dev", "room").unwrap(),
        active: true,
        occupancy: Occupancy::ZERO,
        at: Timestamp(8),
        is_global_master: false,
    };
    let owner = OwnerRef {
        region: region(),
        fence: Fence(5),
    };
    let early = Early {
        owner,
        transition,
        logged: true,
    };
    vec![
        FollowItem::Record(record()),
        FollowItem::Advanced(12),
        FollowItem::Early(Box::new(early)),
    ]
}

fn record() -> Record {
    Record {
        index: 11,
        entry: Bytes::from_static(b"what it told"),
    }
}

fn past(ask: &HistoryAsk) -> HistoryReply {
    let event = PastEvent {
        shard: ask.shards[0],
        position: Position {
            index: 11,
            ordinal: 2,
        },
        // Comes back as it was asked, but for what has a field of its own.
        event: Bytes::from(format!(
            "{:?}",
            (
                &ask.app,
                ask.kinds,
                ask.from,
                ask.to,
                ask.newest_first,
                ask.after,
                ask.limit
            )
        )),
    };
    HistoryReply {
        events: vec![event],
        lacking: vec![ShardId(1)],
    }
}

fn standing() -> ShardStanding {
    ShardStanding {
        shard: ShardId(1),
        leader: Some(NodeId(3)),
        term: 2,
        regions: vec![RegionStanding {
            region: region(),
            fence: Fence(5),
            settled: true,
        }],
        channels: 6,
    }
}

impl ReadPort for Holder {
    fn status(&self, ask: StatusAsk) -> BoxFuture<'_, Result<StatusReply, ReadError>> {
        let reply = here(ask.shard).map(|()| StatusReply {
            status: if ask.strong {
                busy()
            } else {
                ChannelStatus::new(false, Occupancy::ZERO)
            },
            coordinator: region(),
            basis: basis(),
        });
        async move { reply }.boxed()
    }

    fn list(&self, ask: ListAsk) -> Result<ListReply, ReadError> {
        ask.shards.iter().try_for_each(|shard| here(*shard))?;
        let name = ChannelName::new(&format!("{}{}", ask.prefix, ask.limit)).unwrap();
        let value = ask.with_values.then(|| (busy(), region()));
        Ok(ListReply {
            items: vec![ListedChannel { name, value }],
            more: ask.after.is_none(),
            basis: basis(),
        })
    }

    fn journal(&self, ask: JournalAsk) -> BoxFuture<'_, Result<JournalReply, ReadError>> {
        let reply = here(ask.shard).map(|()| JournalReply {
            first: ask.after.map_or(0, |after| after + 1),
            records: vec![record()],
            through: ask.applied,
        });
        async move { reply }.boxed()
    }

    fn history(&self, ask: HistoryAsk) -> BoxFuture<'_, Result<HistoryReply, ReadError>> {
        let held = ask.shards.iter().try_for_each(|shard| here(*shard));
        async move { held.map(|()| past(&ask)) }.boxed()
    }

    fn follow(
        &self,
        ask: FollowAsk,
    ) -> BoxFuture<'_, Result<(FollowStart, FollowBatches), ReadError>> {
        let begun = here(ask.shard).map(|()| (start(ask.after), stream::iter([items()]).boxed()));
        async move { begun }.boxed()
    }

    fn describe(&self, shards: &[ShardId]) -> Vec<ShardStanding> {
        let held = shards.iter().filter(|shard| here(**shard).is_ok());
        held.map(|_| standing()).collect()
    }
}

fn start(after: Option<u64>) -> FollowStart {
    FollowStart {
        index: 10,
        fence: Fence(5),
        number: 3,
        expired: true,
        resumed: after.is_some(),
    }
}

/// Serves a holder as node 2 and returns a client of a node of `cluster`.
async fn client_of(cluster: &str, delay: Duration) -> ReadClient {
    let router = tonic::transport::Server::builder().add_service(service(&network("c"), Holder));
    ReadClient::new(asking(router, cluster, delay).await)
}

fn status_of(shard: u32, strong: bool) -> StatusAsk {
    StatusAsk {
        shard: ShardId(shard),
        channel: ChannelKey::new("dev", "room").unwrap(),
        strong,
    }
}

fn list_of(shards: &[u32]) -> ListAsk {
    ListAsk {
        shards: shards.iter().copied().map(ShardId).collect(),
        app: AppId::new("dev").unwrap(),
        prefix: "room:".to_owned(),
        after: None,
        limit: 50,
        with_values: true,
    }
}

#[tokio::test]
async fn answers_come_as_they_were_given() {
    let client = client_of("c", Duration::ZERO).await;
    let to = NodeId(2);
    let strong = client
        .status(to, &status_of(1, true), WITHIN)
        .await
        .unwrap();
    let wanted = StatusReply {
        status: busy(),
        coordinator: region(),
        basis: basis(),
    };
    assert_eq!(strong, wanted);
    let local = client.status(to, &status_of(1, false), WITHIN).await;
    assert!(!local.unwrap().status.is_active);

    let listed = client.list(to, &list_of(&[1]), WITHIN).await.unwrap();
    assert_eq!(listed.items[0].name.as_str(), "room:50");
    assert_eq!(listed.items[0].value, Some((busy(), region())));
    assert!(listed.more);
    let last = ListAsk {
        after: Some(ChannelName::new("room:50").unwrap()),
        with_values: false,
        ..list_of(&[1])
    };
    let listed = client.list(to, &last, WITHIN).await.unwrap();
    assert_eq!((listed.more, &listed.items[0].value), (false, &None));

    let ask = JournalAsk {
        shard: ShardId(1),
        after: Some(4),
        applied: 20,
    };
    let wanted = JournalReply {
        first: 5,
        records: vec![record()],
        through: 20,
    };
    assert_eq!(client.journal(to, &ask, WITHIN).await, Ok(wanted));
    let held = client.describe(to, &[ShardId(1), ShardId(9)], WITHIN).await;
    assert_eq!(held, Ok(vec![standing()]));
}

#[tokio::test]
async fn a_shard_is_followed_in_order_also_over_a_long_way() {
    for delay in [Duration::ZERO, Duration::from_millis(20)] {
        let client = client_of("c", delay).await;
        let ask = FollowAsk {
            shard: ShardId(1),
            region: region(),
            after: Some(9),
        };
        let (begun, batches) = client.follow(NodeId(2), &ask, WITHIN).await.unwrap();
        assert_eq!(begun, start(Some(9)));
        let batches: Vec<_> = batches.collect().await;
        assert_eq!(batches, [Ok(items())]);
    }
}

#[tokio::test]
async fn the_past_is_asked_for_as_it_was_meant() {
    let client = client_of("c", Duration::ZERO).await;
    let kinds = [EventKind::Opened, EventKind::Occupancy];
    let all = HistoryAsk {
        shards: vec![ShardId(1)],
        app: AppId::new("dev").unwrap(),
        kinds: EventKinds::ALL,
        from: None,
        to: None,
        newest_first: false,
        after: None,
        limit: 1,
    };
    let some = HistoryAsk {
        kinds: kinds.into_iter().collect(),
        from: Some(Timestamp(0)),
        to: Some(Timestamp(9)),
        newest_first: true,
        after: Some(HistoryPoint {
            at: Timestamp(5),
            shard: ShardId(3),
            position: Position {
                index: 7,
                ordinal: 1,
            },
        }),
        limit: 1_001,
        ..all.clone()
    };
    for ask in [&all, &some] {
        let read = client.history(NodeId(2), ask, WITHIN).await;
        assert_eq!(read, Ok(past(ask)));
    }
    let refused = [
        HistoryAsk {
            limit: 1_002,
            ..all.clone()
        },
        HistoryAsk {
            kinds: EventKinds::NONE,
            ..all.clone()
        },
        HistoryAsk {
            shards: Vec::new(),
            ..all.clone()
        },
    ];
    for ask in refused {
        let refused = client.history(NodeId(2), &ask, WITHIN).await;
        assert!(matches!(refused, Err(ReadError::Invalid(_))), "{ask:?}");
    }
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let client = client_of("c", Duration::ZERO).await;
    let to = NodeId(2);
    for (shard, wanted) in [(2, ReadError::NoQuorum), (3, ReadError::TimedOut)] {
        let refused = client.status(to, &status_of(shard, true), WITHIN).await;
        assert_eq!(refused.unwrap_err(), wanted);
    }
    let elsewhere = client.list(to, &list_of(&[1, 9]), WITHIN).await;
    assert!(matches!(elsewhere, Err(ReadError::Unavailable(reason)) if reason.contains("shard 9")));
    for bad in [
        list_of(&[]),
        ListAsk {
            limit: 0,
            ..list_of(&[1])
        },
        ListAsk {
            limit: 1_001,
            ..list_of(&[1])
        },
        ListAsk {
            prefix: "x".repeat(2_049),
            ..list_of(&[1])
        },
    ] {
        let refused = client.list(to, &bad, WITHIN).await;
        assert!(matches!(refused, Err(ReadError::Invalid(_))), "{refused:?}");
    }
    let nobody = client.status(NodeId(3), &status_of(1, false), WITHIN).await;
    assert!(matches!(nobody, Err(ReadError::Unavailable(_))));
    let stranger = client_of("another", Duration::ZERO).await;
    let refused = stranger.status(to, &status_of(1, false), WITHIN).await;
    assert!(matches!(refused, Err(ReadError::Invalid(reason)) if reason.contains("cluster")));
}
