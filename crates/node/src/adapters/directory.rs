//! Reads at this node: of its own replicas, and of other nodes for what it does not hold.

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use futures::stream::BoxStream;
use headcount_api::ports::{
    Directory, HistoryQuery, HistoryRead, ListQuery, ListRead, ReadError, ReadLevel, StatusRead,
};
use headcount_model::{ChannelKey, WatchError, WatchFilter, WatchItem};
use headcount_rpc::watch::Watches;

use super::watches::NodeWatches;
use crate::reading::{Elsewhere, Here, Past, merge};

/// Answers reads at this node.
#[derive(Clone)]
pub(crate) struct NodeDirectory {
    pub(crate) here: Here,
    pub(crate) elsewhere: Elsewhere,
    pub(crate) watches: NodeWatches,
    pub(crate) past: Past,
}

impl NodeDirectory {
    async fn read_list(&self, query: ListQuery) -> Result<ListRead, ReadError> {
        let (hosted, others) = self.here.shards()?.parted();
        let told = self.elsewhere.list(others, &query).await?;
        let (page, age) = self.here.list(&hosted, &query);
        let mut freshness = self.here.freshness(age);
        let mut pages = vec![page];
        for (page, basis) in told {
            pages.push(page);
            freshness.age = freshness.age.max(basis.age);
            freshness.unheard.extend(basis.unheard);
        }
        freshness.unheard.sort_unstable();
        freshness.unheard.dedup();
        let page = merge(pages, query.limit);
        Ok(ListRead {
            next: page.next(),
            items: page.items,
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
        let shards = match self.here.shards() {
            Ok(shards) => shards,
            Err(error) => return ready(Err(error)).boxed(),
        };
        match (shards.of(&channel), level) {
            // Most reads are these, and wait for nothing: the future of one that may is large.
            ((_, Some(hosted)), ReadLevel::Local) => {
                ready(Ok(self.here.status_now(&hosted, &channel))).boxed()
            }
            ((shard, Some(hosted)), ReadLevel::Strong) => {
                let read = async move { self.here.status(shard, &hosted, &channel, level).await };
                read.boxed()
            }
            ((shard, None), _) => self.elsewhere.status(shard, channel, level).boxed(),
        }
    }

    fn list(&self, query: ListQuery) -> BoxFuture<'_, Result<ListRead, ReadError>> {
        self.read_list(query).boxed()
    }

    fn watch(
        &self,
        filter: WatchFilter,
        cursor: Option<String>,
    ) -> BoxFuture<'_, Result<BoxStream<'static, WatchItem>, WatchError>> {
        self.watches.watch(filter, cursor)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<'_, Result<HistoryRead, ReadError>> {
        self.past.read(query).boxed()
    }
}
