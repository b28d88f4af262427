//! Following shards that this node does not hold, while somebody watches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use headcount_feed::{Effect, Input, ShardFeed, Start};
use headcount_model::{NodeId, Position, RegionName, ShardId, Stage};
use headcount_rpc::read::{FollowAsk, FollowItem, FollowStart};
use headcount_wire::decode_logged;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::feeds::{Feeds, Followed};
use crate::clock::Clock;
use crate::reading::Holder;
use crate::shard::{early_event, note_early, note_told};
use crate::shards::Wakers;
use crate::tasks::Tasks;
use crate::telemetry;

/// How long shards stay followed after the last watcher has gone: it may come back.
const LINGER: Duration = Duration::from_secs(30);

/// How long a holder may take to begin.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(2);

/// First and longest wait before a shard is followed again, and how long it must have gone well for
/// the first to hold.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
const STEADY: Duration = Duration::from_secs(1);

/// How often a nearer holder is looked for without a reason.
const LOOK: Duration = Duration::from_secs(5);

/// What following works with.
#[derive(Clone)]
pub(crate) struct Following {
    pub(crate) region: RegionName,
    pub(crate) clock: Clock,
    pub(crate) config: headcount_feed::Config,
    pub(crate) feeds: Feeds,
    pub(crate) wakers: Wakers,
    pub(crate) tasks: Tasks,
}

impl Following {
    /// Runs for ever: keeps exactly those shards followed that are to be.
    pub(crate) async fn run(self) {
        let mut moved = self.feeds.shards().watch_moves();
        let mut interest = self.feeds.interest();
        let mut running: BTreeMap<ShardId, DropGuard> = BTreeMap::new();
        let mut followed = telemetry::shards_followed();
        loop {
            followed.set(running.len());
            moved.mark_unchanged();
            let watched = *interest.borrow_and_update() > 0;
            if !watched && !running.is_empty() {
                // allow-sleep: whoever comes back meanwhile finds the shards followed
                let back = tokio::time::timeout(LINGER, interest.changed()).await;
                if back.is_err() {
                    running.keys().for_each(|shard| self.feeds.end(*shard));
                    running.clear();
                }
                continue;
            }
            if watched {
                self.settle(&mut running);
                followed.set(running.len());
            }
            tokio::select! {
                changed = moved.changed() => if changed.is_err() { return },
                changed = interest.changed() => if changed.is_err() { return },
            }
        }
    }

    fn settle(&self, running: &mut BTreeMap<ShardId, DropGuard>) {
        let shards = self.feeds.shards();
        let wanted: BTreeSet<ShardId> = (0..shards.count())
            .map(ShardId)
            .filter(|shard| shards.serving(*shard).is_none())
            .collect();
        running.retain(|shard, _| {
            let stays = wanted.contains(shard);
            if !stays {
                self.feeds.end(*shard);
            }
            stays
        });
        for shard in wanted {
            running.entry(shard).or_insert_with(|| {
                let ended = CancellationToken::new();
                let follower = Follower {
                    shard,
                    with: self.clone(),
                    followed: None,
                    ended: ended.clone(),
                };
                self.tasks.spawn(async move {
                    let ended = follower.ended.clone();
                    ended.run_until_cancelled(follower.run()).await;
                });
                ended.drop_guard()
            });
        }
    }
}

/// The task that follows one shard.
struct Follower {
    shard: ShardId,
    with: Following,
    followed: Option<Arc<Followed>>,
    ended: CancellationToken,
}

/// Why a holder is not followed any more.
enum Parted {
    /// Another one is nearer.
    Nearer,
    /// It cannot be, for this reason.
    Broken(String),
}

impl Follower {
    async fn run(mut self) {
        let mut wait = RETRY_FIRST;
        let mut failed: Option<NodeId> = None;
        loop {
            let holders = self.with.feeds.elsewhere().holders(self.shard);
            let other = holders.iter().find(|holder| Some(holder.node) != failed);
            let shard = self.shard.0;
            if let Some(holder) = other.or(holders.first()) {
                let begun = Instant::now();
                match self.follow(holder).await {
                    Parted::Nearer => {
                        failed = None;
                        continue;
                    }
                    Parted::Broken(reason) => {
                        let node = holder.node;
                        tracing::debug!(target: "feed", shard, %node, reason, "not followed");
                        failed = Some(node);
                    }
                }
                if begun.elapsed() >= STEADY {
                    wait = RETRY_FIRST;
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_LONGEST);
        }
    }

    /// Follows a holder for as long as that goes well and nobody is nearer.
    async fn follow(&mut self, holder: &Holder) -> Parted {
        let elsewhere = self.with.feeds.elsewhere().clone();
        let followed = self.followed.as_ref();
        let ask = FollowAsk {
            shard: self.shard,
            region: self.with.region.clone(),
            after: followed.map(|followed| followed.feed().position().index),
        };
        let begun = elsewhere.client.follow(holder.node, &ask, BEGIN_TIMEOUT);
        let (start, mut batches) = match begun.await {
            Ok(begun) => begun,
            Err(error) => return Parted::Broken(error.to_string()),
        };
        self.begin(&start);
        let mut control = elsewhere.control.clone();
        let mut look = tokio::time::interval(LOOK);
        look.reset();
        loop {
            tokio::select! {
                biased;
                batch = batches.next() => match batch {
                    Some(Ok(items)) => {
                        if let Err(reason) = self.take(items) {
                            return Parted::Broken(reason);
                        }
                        continue;
                    }
                    Some(Err(error)) => return Parted::Broken(error.to_string()),
                    None => return Parted::Broken("it does not hold the shard any more".to_owned()),
                },
                changed = control.changed() => if changed.is_err() {
                    return Parted::Broken("the node ends".to_owned());
                },
                _ = look.tick() => {}
            }
            let holders = elsewhere.holders(self.shard);
            let nearest = holders.first().filter(|it| elsewhere.is_connected(it));
            if nearest.is_some_and(|nearest| nearest.nearness < holder.nearness) {
                return Parted::Nearer;
            }
            if holders.iter().all(|it| it.node != holder.node) {
                return Parted::Broken("it is gone, or gives the shard up".to_owned());
            }
        }
    }

    fn begin(&mut self, start: &FollowStart) {
        let begins = Start {
            position: Position::end_of(start.index),
            fence: start.fence,
            number: start.number,
            expired: start.expired,
        };
        match &self.followed {
            None => {
                let Following { region, config, .. } = &self.with;
                let era = self.with.feeds.era();
                let feed = ShardFeed::new(config.clone(), era, self.shard, region.clone(), begins);
                let followed = Arc::new(Followed::new(feed));
                self.followed = Some(Arc::clone(&followed));
                if !self.ended.is_cancelled() {
                    self.with.feeds.begin(self.shard, followed);
                }
            }
            Some(_) if start.resumed => {}
            Some(_) => self.step([Input::Jumped(begins)]),
        }
    }

    fn take(&self, items: Vec<FollowItem>) -> Result<(), String> {
        let era = self.with.feeds.era();
        let input = |item| match item {
            FollowItem::Advanced(index) => Ok(Input::Advanced(Position::end_of(index))),
            FollowItem::Record(record) => {
                let logged = decode_logged(era, self.shard, record.index, &record.entry);
                let logged = logged.map_err(|error| error.to_string())?;
                note_told(&self.with.clock, &logged);
                Ok(Input::Logged(logged))
            }
            FollowItem::Early(early) => {
                let event = early_event(era, self.shard, &early.owner, &early.transition);
                note_early(&self.with.clock, &event);
                Ok(Input::Early {
                    event,
                    logged: early.logged,
                })
            }
        };
        let inputs = items.into_iter().map(input);
        self.step(inputs.collect::<Result<Vec<_>, String>>()?);
        Ok(())
    }

    fn step(&self, inputs: impl IntoIterator<Item = Input>) {
        let Some(followed) = &self.followed else {
            return;
        };
        let mut effects = Vec::new();
        let now = self.with.clock.now();
        let mut feed = followed.feed();
        for input in inputs {
            feed.step(now, input, &mut effects);
        }
        drop(feed);
        if effects.iter().any(|effect| matches!(effect, Effect::Wake)) {
            self.with.wakers.wake(self.shard);
        }
    }
}
