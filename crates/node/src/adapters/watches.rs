//! Watches over the feeds of all shards, wherever those are held.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use headcount_feed::{Fetch, Subscription};
use headcount_model::{Cursor, ShardId, WatchEnd, WatchError, WatchFilter, WatchItem};
use headcount_rpc::watch::Watches;
use tokio::sync::watch;

use crate::following::{Feeds, Interest, Source};
use crate::shards::{Registration, Wakers};
use crate::telemetry;

/// How often an idle watcher is told its position.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How long a watch may take to begin: until shards that this node does not hold are followed.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts watches at this node.
#[derive(Clone)]
pub(crate) struct NodeWatches {
    pub(crate) config: headcount_feed::Config,
    pub(crate) watchers_max: usize,
    pub(crate) feeds: Feeds,
    pub(crate) wakers: Wakers,
    /// True once the node drains.
    pub(crate) draining: watch::Receiver<bool>,
}

impl NodeWatches {
    async fn begin(
        &self,
        filter: WatchFilter,
        cursor: Option<String>,
    ) -> Result<BoxStream<'static, WatchItem>, WatchError> {
        let count = self.feeds.shards().count();
        let cursor = cursor.map(|token| Cursor::from_token(&token)).transpose()?;
        let beyond = cursor.iter().flat_map(|cursor| cursor.shards.keys());
        if let Some(shard) = beyond.copied().find(|shard| shard.0 >= count) {
            return Err(WatchError::UnknownShard {
                shard,
                shards: count,
            });
        }
        let max = self.watchers_max;
        let registration = self.wakers.register(max);
        let registration = registration.ok_or(WatchError::TooManyWatchers { max })?;
        let interest = self.feeds.join();
        let complete = self.feeds.wait_complete(BEGIN_TIMEOUT).await;
        let moves = complete.map_err(|shard| {
            let reason = format!("nobody who holds shard {shard} can be followed");
            WatchError::Unavailable(reason)
        })?;
        let fresh = cursor.is_none();
        let all: Vec<ShardId> = (0..count).map(ShardId).collect();
        let (config, era) = (self.config.clone(), self.feeds.era());
        let subscription = Subscription::new(config, era, filter, all.clone(), cursor);
        let mut watching = Watching {
            subscription,
            registration,
            feeds: self.feeds.clone(),
            moves,
            _interest: interest,
            draining: self.draining.clone(),
            pending: all.into_iter().collect(),
            greeting: fresh,
            rolled_up: 0,
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
        self.begin(filter, cursor).boxed()
    }
}

/// One watch.
struct Watching {
    subscription: Subscription,
    registration: Registration,
    feeds: Feeds,
    /// The count of moves at which every shard was found: a shard that has moved since is read from
    /// another feed, in which the subscription's place means nothing.
    moves: u64,
    _interest: Interest,
    draining: watch::Receiver<bool>,
    /// Shards whose feeds are to be read.
    pending: BTreeSet<ShardId>,
    /// Whether the watcher is still to be given its first resume point: it may be cut off before
    /// anything happens.
    greeting: bool,
    /// How many roll-ups were counted.
    rolled_up: u64,
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
            let rolled_up = self.subscription.rolled_up();
            if rolled_up > self.rolled_up {
                telemetry::rolled_up(rolled_up - self.rolled_up);
                self.rolled_up = rolled_up;
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
            let Some(source) = self.source(shard) else {
                self.subscription.finish(WatchEnd::Moved);
                return;
            };
            let feed = source.feed();
            self.subscription.read(&feed);
            // A full batch leaves the rest for later, and so does a fetch, whose answer comes back.
            if self.subscription.is_full() && !self.subscription.is_caught_up(&feed) {
                return;
            }
            self.pending.remove(&shard);
        }
    }

    /// Returns where a shard is read, unless some shard has moved since the watch began.
    fn source(&self, shard: ShardId) -> Option<Source> {
        let source = self.feeds.source(shard)?;
        // Asked afterwards: a shard that moves in between is not read from its new place.
        (self.feeds.shards().moves() == self.moves).then_some(source)
    }

    async fn fetch(&mut self, fetch: Fetch) {
        let shard = fetch.shard;
        match self.feeds.page(fetch).await {
            Ok(page) => {
                self.subscription.page(shard, page);
                self.pending.insert(shard);
            }
            Err(None) => self.subscription.finish(WatchEnd::Moved),
            Err(Some(reason)) => {
                tracing::warn!(target: "feed", shard = shard.0, reason, "the journal is not read");
                self.subscription.finish(WatchEnd::Unavailable);
            }
        }
    }
}
