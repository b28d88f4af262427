//! Reads from this node's replicas.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use headcount_api::ports::{
    Directory, Freshness, ListItem, ListQuery, ListRead, ReadError, ReadLevel, Source, StatusRead,
};
use headcount_model::{
    ChannelKey, ChannelStatus, Occupancy, RegionName, ShardId, WatchError, WatchFilter, WatchItem,
};
use headcount_placement::Control;
use headcount_rpc::peers::Network;
use headcount_rpc::watch::Watches;
use tokio::sync::watch;

use super::watches::NodeWatches;
use crate::control::ControlHandle;
use crate::shards::{Hosted, Shards};

/// How long a strong read may take.
const STRONG_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers reads at this node.
#[derive(Clone)]
pub(crate) struct NodeDirectory {
    pub(crate) source: Source,
    pub(crate) shards: watch::Receiver<Option<Shards>>,
    pub(crate) control: watch::Receiver<Arc<Control>>,
    pub(crate) handle: ControlHandle,
    pub(crate) network: Network,
    pub(crate) watches: NodeWatches,
}

impl NodeDirectory {
    fn shards(&self) -> Result<Shards, ReadError> {
        let shards = self.shards.borrow().clone();
        shards.ok_or_else(|| unavailable("this node has not joined a cluster".to_owned()))
    }

    /// Returns the regions of which this node hears nothing.
    fn unheard(&self) -> Vec<RegionName> {
        let control = self.control.borrow().clone();
        let (mut all, mut heard) = (BTreeSet::new(), BTreeSet::new());
        for (id, node) in control.nodes() {
            let counted = node.is_live();
            if counted {
                all.insert(node.region.clone());
            }
            if counted && (*id == self.source.node || self.network.is_connected(*id)) {
                heard.insert(node.region.clone());
            }
        }
        all.difference(&heard).cloned().collect()
    }

    fn coordinator(&self, hosted: &Hosted) -> RegionName {
        let control = self.control.borrow().clone();
        let leader = hosted.leader().and_then(|leader| control.node(leader));
        leader.map_or_else(
            || self.source.region.clone(),
            |leader| leader.region.clone(),
        )
    }

    async fn read_status(
        &self,
        channel: ChannelKey,
        level: ReadLevel,
    ) -> Result<StatusRead, ReadError> {
        let (shard, hosted) = self.shards()?.of(&channel);
        let hosted = hosted.ok_or_else(|| not_here(shard))?;
        let age = match level {
            ReadLevel::Local => hosted.age(),
            ReadLevel::Strong => {
                self.catch_up(shard, &hosted).await?;
                Duration::ZERO
            }
        };
        let status = hosted.replica.read().status(&channel);
        let occupancy = status
            .as_ref()
            .map_or(Occupancy::ZERO, |status| status.occupancy);
        Ok(StatusRead {
            status: ChannelStatus::new(status.is_some(), occupancy),
            coordinator: self.coordinator(&hosted),
            freshness: Freshness {
                source: self.source.clone(),
                age,
                unheard: self.unheard(),
            },
        })
    }

    /// Waits until the replica has applied everything that was acknowledged before now.
    async fn catch_up(&self, shard: ShardId, hosted: &Hosted) -> Result<(), ReadError> {
        let reading = async {
            let index = self.handle.read_index(shard, &hosted.group).await?;
            let waited = hosted.group.wait_applied(index, STRONG_TIMEOUT).await;
            waited.map_err(|error| unavailable(error.to_string()))
        };
        let timed_out = ReadError::TimedOut {
            after: STRONG_TIMEOUT,
        };
        tokio::time::timeout(STRONG_TIMEOUT, reading)
            .await
            .map_err(|_| timed_out)?
    }

    fn read_list(&self, query: &ListQuery) -> Result<ListRead, ReadError> {
        let shards = self.shards()?;
        let all: Vec<Hosted> = shards.all().values().cloned().collect();
        if all.len() < shards.count() as usize {
            return Err(unavailable(
                "not all shards are on this node yet".to_owned(),
            ));
        }
        let guards: Vec<_> = all.iter().map(|hosted| hosted.replica.read()).collect();
        let after = query.after.as_ref().map(|after| after.as_str());
        let mut walks: Vec<_> = guards
            .iter()
            .map(|shard| shard.list(query.app.as_str(), &query.prefix, after))
            .collect();
        let mut heads = BinaryHeap::new();
        let mut values = Vec::with_capacity(walks.len());
        for (at, walk) in walks.iter_mut().enumerate() {
            values.push(walk.next().map(|(name, status)| {
                heads.push(Reverse((name.as_str(), at)));
                (name, status)
            }));
        }
        let mut items = Vec::with_capacity(query.limit.min(1_000));
        let mut next = None;
        while let Some(Reverse((_, at))) = heads.pop() {
            let Some((name, status)) = values[at].take() else {
                continue;
            };
            let value = query.with_values.then(|| {
                let status = ChannelStatus::new(true, status.occupancy);
                (status, self.coordinator(&all[at]))
            });
            items.push(ListItem {
                name: name.clone(),
                value,
            });
            values[at] = walks[at].next();
            if let Some((name, _)) = &values[at] {
                heads.push(Reverse((name.as_str(), at)));
            }
            if items.len() == query.limit {
                next = (!heads.is_empty()).then(|| name.clone());
                break;
            }
        }
        drop(heads);
        let age = all.iter().map(Hosted::age).max().unwrap_or_default();
        let freshness = Freshness {
            source: self.source.clone(),
            age,
            unheard: self.unheard(),
        };
        Ok(ListRead {
            items,
            next,
            freshness,
        })
    }
}

impl Directory for NodeDirectory {
    fn status(
        &self,
        channel: ChannelKey,
        level: ReadLevel,
    ) -> BoxFuture<'_, Result<StatusRead, ReadError>> {
        self.read_status(channel, level).boxed()
    }

    fn list(&self, query: ListQuery) -> BoxFuture<'_, Result<ListRead, ReadError>> {
        let read = self.read_list(&query);
        async move { read }.boxed()
    }

    fn watch(
        &self,
        filter: WatchFilter,
        cursor: Option<String>,
    ) -> BoxFuture<'_, Result<BoxStream<'static, WatchItem>, WatchError>> {
        self.watches.watch(filter, cursor)
    }
}

fn unavailable(reason: String) -> ReadError {
    ReadError::Unavailable { reason }
}

fn not_here(shard: ShardId) -> ReadError {
    unavailable(format!("shard {shard} is not on this node yet"))
}
