//! Watches over the feeds of this node's shards.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use headcount_consensus::store::Journal;
use headcount_feed::{Fetch, Page, Subscription};
use headcount_model::{
    Cursor, Era, Logged, Position, ShardId, WatchEnd, WatchError, WatchFilter, WatchItem,
};
use headcount_rpc::watch::Watches;
use headcount_wire::decode_logged;
use tokio::sync::watch;

use crate::shards::{Registration, Shards, Wakers};

/// How often an idle watcher is told its position.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Journal records, and about how many of their bytes, that are read at a time.
const PAGE_ITEMS: usize = 512;
const PAGE_BYTES: usize = 1 << 20;

/// Starts watches at this node.
#[derive(Clone)]
pub(crate) struct NodeWatches {
    pub(crate) config: headcount_feed::Config,
    pub(crate) watchers_max: usize,
    /// Known once the node has a cluster.
    pub(crate) shards: watch::Receiver<Option<Shards>>,
    pub(crate) era: Era,
    pub(crate) journal: Journal,
    pub(crate) wakers: Wakers,
    /// True once the node drains.
    pub(crate) draining: watch::Receiver<bool>,
}

impl NodeWatches {
    fn begin(
        &self,
        filter: WatchFilter,
        cursor: Option<String>,
    ) -> Result<BoxStream<'static, WatchItem>, WatchError> {
        let unavailable = |reason: String| WatchError::Unavailable(reason);
        let shards = self.shards.borrow().clone();
        let shards = shards.ok_or_else(|| unavailable("it has not joined a cluster".to_owned()))?;
        let cursor = cursor.map(|token| Cursor::from_token(&token)).transpose()?;
        let beyond = cursor.iter().flat_map(|cursor| cursor.shards.keys());
        if let Some(shard) = beyond.copied().find(|shard| shard.0 >= shards.count()) {
            return Err(WatchError::UnknownShard {
                shard,
                shards: shards.count(),
            });
        }
        let all: Vec<ShardId> = (0..shards.count()).map(ShardId).collect();
        let missing = all.iter().find(|shard| shards.get(**shard).is_none());
        if let Some(shard) = missing {
            return Err(unavailable(format!("shard {shard} is not on it yet")));
        }
        let max = self.watchers_max;
        let registration = self.wakers.register(max);
        let registration = registration.ok_or(WatchError::TooManyWatchers { max })?;
        let fresh = cursor.is_none();
        let subscription =
            Subscription::new(self.config.clone(), self.era, filter, all.clone(), cursor);
        let mut watching = Watching {
            subscription,
            registration,
            shards,
            era: self.era,
            journal: self.journal.clone(),
            draining: self.draining.clone(),
            pending: all.into_iter().collect(),
            greeting: fresh,
            ended: false,
        };
        // A fresh watch begins here and now, not when its stream is first read.
        watching.read();
        Ok(stream::unfold(watching, Watching::next).boxed())
    }
}

impl Watches for NodeWatches {
    fn watch(
        &self,
        filter: WatchFilter,
        cursor: Option<String>,
    ) -> BoxFuture<'_, Result<BoxStream<'static, WatchItem>, WatchError>> {
        let begun = self.begin(filter, cursor);
        async move { begun }.boxed()
    }
}

/// One watch.
struct Watching {
    subscription: Subscription,
    registration: Registration,
    shards: Shards,
    era: Era,
    journal: Journal,
    draining: watch::Receiver<bool>,
    /// Shards whose feeds are to be read.
    pending: BTreeSet<ShardId>,
    /// Whether the watcher is still to be given its first resume point: it may be cut off before
    /// anything happens.
    greeting: bool,
    ended: bool,
}

impl Watching {
    async fn next(mut self) -> Option<(WatchItem, Self)> {
        if self.ended {
            return None;
        }
        loop {
            self.read();
            for fetch in self.subscription.take_fetches() {
                self.fetch(fetch).await;
            }
            if let Some(item) = self.subscription.take() {
                self.ended = matches!(item, WatchItem::End { .. });
                return Some((item, self));
            }
            if !self.pending.is_empty() {
                continue;
            }
            if std::mem::take(&mut self.greeting)
                && let Some(item) = self.subscription.heartbeat()
            {
                return Some((item, self));
            }
            let idle = tokio::select! {
                biased;
                woken = self.registration.waker.woken() => {
                    self.pending = woken;
                    false
                }
                _ = self.draining.wait_for(|draining| *draining) => {
                    self.subscription.finish(WatchEnd::Moved);
                    false
                }
                () = tokio::time::sleep(HEARTBEAT) => true,
            };
            if let (true, Some(item)) = (idle, self.subscription.heartbeat()) {
                return Some((item, self));
            }
        }
    }

    /// Reads the feeds that have news, until a batch is full.
    fn read(&mut self) {
        while let Some(shard) = self.pending.first().copied() {
            if self.subscription.is_full() {
                return;
            }
            let Some(hosted) = self.shards.get(shard) else {
                self.subscription.finish(WatchEnd::Moved);
                return;
            };
            let feed = hosted.replica.feed();
            self.subscription.read(&feed);
            // A full batch leaves the rest for later, and so does a fetch, whose answer comes back.
            if self.subscription.is_full() && !self.subscription.is_caught_up(&feed) {
                return;
            }
            self.pending.remove(&shard);
        }
    }

    async fn fetch(&mut self, fetch: Fetch) {
        let Fetch { shard, after } = fetch;
        let Some(hosted) = self.shards.get(shard) else {
            self.subscription.finish(WatchEnd::Moved);
            return;
        };
        let (journal, era) = (self.journal.clone(), self.era);
        // Everything that is applied by now is in the journal.
        let applied = hosted.replica.read().applied();
        let read = move || read_page(&journal, era, shard, after, applied);
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(page)) => {
                self.subscription.page(shard, page);
                self.pending.insert(shard);
            }
            Ok(Err(reason)) => {
                tracing::warn!(target: "feed", shard = shard.0, reason, "the journal is not read");
                self.subscription.finish(WatchEnd::Unavailable);
            }
            Err(_) => self.subscription.finish(WatchEnd::Unavailable),
        }
    }
}

fn read_page(
    journal: &Journal,
    era: Era,
    shard: ShardId,
    after: Position,
    applied: u64,
) -> Result<Page, String> {
    // The entry that holds the position belongs to the page, unless the position is its end.
    let whole = after == Position::end_of(after.index);
    let before = if whole {
        Some(after.index)
    } else {
        after.index.checked_sub(1)
    };
    let page = journal.read(u64::from(shard.0), before, PAGE_ITEMS, PAGE_BYTES);
    let page = page.map_err(|error| error.to_string())?;
    let entries = page.items.iter().map(|item| {
        decode_logged(era, shard, item.index, &item.payload).map_err(|error| error.to_string())
    });
    let entries = entries.collect::<Result<Vec<Logged>, _>>()?;
    let last = entries.last().map_or(0, |last| last.index);
    let more = page.range.last.is_some_and(|end| end > last);
    let through = if more && !entries.is_empty() {
        last
    } else {
        applied.max(last)
    };
    let oldest = page
        .range
        .first
        .checked_sub(1)
        .map_or(Position::START, Position::end_of);
    Ok(Page {
        oldest,
        entries,
        through: Position::end_of(through),
    })
}
