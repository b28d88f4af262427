//! The state of a shard's replica, as readers, the driver and consensus share it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use headcount_coordinator::Shard;
use headcount_feed::{ShardFeed, Start};
use headcount_model::{Command, Entry, Logged, Position, RegionName, ShardId};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::shards::Wakers;

/// Applied entries that may wait for the driver. Beyond it the feed reads the journal instead: a
/// driver that is so far behind has lost its subscribers anyway.
const APPLIED_MAX: usize = 16_384;

/// What was applied, for the driver.
#[derive(Debug)]
pub(crate) enum AppliedItem {
    /// An entry; `None` if it told nothing.
    Entry(u64, Option<Logged>),
    /// Entries are missing: a snapshot replaced the state, or the driver was too slow.
    Jumped(Start),
}

/// Replica: a shard's state on this node.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) id: ShardId,
    region: RegionName,
    shard: RwLock<Shard>,
    applied: Mutex<VecDeque<AppliedItem>>,
    /// Rung for the driver after something was applied.
    pub(crate) bell: Notify,
    /// Rung for the driver after the control state changed in something that concerns the shard.
    pub(crate) placed: Notify,
    /// When the last entry was applied; with the shard's stamp it bounds the next one (R15).
    last_apply: Mutex<Instant>,
    /// Items of batches that were applied since this replica was started, by region.
    traffic: Mutex<BTreeMap<RegionName, u64>>,
    pub(crate) feed: Mutex<ShardFeed>,
    /// Who waits for news of the feed.
    wakers: Wakers,
}

impl Replica {
    pub(crate) fn new(region: RegionName, shard: Shard, feed: ShardFeed, wakers: Wakers) -> Self {
        Self {
            id: shard.id(),
            region,
            shard: RwLock::new(shard),
            applied: Mutex::default(),
            bell: Notify::new(),
            placed: Notify::new(),
            last_apply: Mutex::new(Instant::now()),
            traffic: Mutex::default(),
            feed: Mutex::new(feed),
            wakers,
        }
    }

    pub(crate) fn region(&self) -> &RegionName {
        &self.region
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Shard> {
        self.shard.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Shard> {
        self.shard.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn feed(&self) -> MutexGuard<'_, ShardFeed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody who waits that the feed has news.
    pub(super) fn wake(&self) {
        self.wakers.wake(self.id);
    }

    /// Counts where an entry comes from. Nothing that is replicated depends on it.
    pub(super) fn count(&self, entry: &Entry) {
        let batches = entry.commands.iter().filter_map(|command| match command {
            Command::Batch(batch) => Some(batch),
            Command::Claim(_)
            | Command::ExpireRegion(_)
            | Command::Settled(_)
            | Command::Configure(_)
            | Command::Tick => None,
        });
        for batch in batches {
            let items = (batch.transitions.len() + batch.registers.len()) as u64;
            let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(sum) = traffic.get_mut(&batch.owner.region) {
                *sum += items;
            } else {
                traffic.insert(batch.owner.region.clone(), items);
            }
        }
    }

    /// Returns the items of batches that were applied since this replica was started, by region.
    pub(crate) fn traffic(&self) -> BTreeMap<RegionName, u64> {
        self.traffic
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns how long ago an entry was last applied.
    pub(crate) fn since_last_apply(&self) -> Duration {
        self.last_apply
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
    }

    /// Returns where a feed of the state would begin.
    pub(super) fn feed_start(shard: &Shard, region: &RegionName) -> Start {
        let mark = shard.mark(region);
        Start {
            position: Position::end_of(shard.applied()),
            fence: mark.fence,
            number: mark.number,
            expired: mark.ended,
        }
    }

    /// Notes what was applied, while the state is still locked for writing.
    pub(super) fn note(&self, shard: &Shard, items: impl IntoIterator<Item = AppliedItem>) {
        *self
            .last_apply
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.extend(items);
        if applied.len() > APPLIED_MAX {
            // Entries are in the journal.
            applied.clear();
            applied.push_back(AppliedItem::Jumped(Self::feed_start(shard, &self.region)));
        }
        drop(applied);
        self.bell.notify_one();
    }

    pub(super) fn take_applied(&self) -> VecDeque<AppliedItem> {
        std::mem::take(&mut *self.applied.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
