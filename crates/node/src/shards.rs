//! The shards that this node hosts, and who waits for news of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use headcount_consensus::Group;
use headcount_model::{ChannelKey, NodeId, RegionName, ShardId, ShardMap};
use headcount_placement::Control;
use headcount_wire::proto::consensus::v1::Freshness;
use headcount_wire::proto::consensus::v1::envelope::Body;
use headcount_wire::proto::storage::v1::LogId;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::shard::{DriverStats, Hearing, Knowledge, Mailbox, Replica};

/// How often a node that is about to stop looks whether the log has what it waits for.
const POLL: Duration = Duration::from_millis(10);

/// How long a replica that was here before waits for its coordinator until it is read without.
const LONELY: Duration = Duration::from_secs(5);

/// A shard on this node.
#[derive(Clone)]
pub(crate) struct Hosted {
    pub(crate) replica: Arc<Replica>,
    pub(crate) group: Group,
    pub(crate) mailbox: Mailbox,
    stats: Arc<Mutex<DriverStats>>,
    knowledge: Arc<Mutex<Knowledge>>,
    hearing: Arc<Mutex<Hearing>>,
    clock: Clock,
    since: Instant,
    /// Whether the replica has caught up and stays: only then is it read.
    serving: bool,
}

impl Hosted {
    pub(crate) fn new(
        replica: Arc<Replica>,
        group: Group,
        mailbox: Mailbox,
        stats: Arc<Mutex<DriverStats>>,
        clock: Clock,
    ) -> Self {
        let now = Instant::now();
        Self {
            replica,
            group,
            mailbox,
            stats,
            knowledge: Arc::default(),
            hearing: Arc::new(Mutex::new(Hearing::new(now, rand::random()))),
            clock,
            since: now,
            serving: false,
        }
    }

    /// Returns what the driver last said about itself.
    pub(crate) fn stats(&self) -> DriverStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the leader of a term said that everything up to an entry is committed. Who led
    /// before says so no more, and who has committed nothing of its own term yet does not know.
    pub(crate) fn hear(&self, term: u64, committed: LogId, freshness: &Freshness) {
        let known = self.group.leadership().epoch.map_or(0, |epoch| epoch.term);
        if term < known || committed.term != term {
            return;
        }
        let now = Instant::now();
        let Some(up_to) = self.hearing().up_to(now, freshness) else {
            return;
        };
        let applied = || self.group.freshness().1;
        let mut knowledge = self
            .knowledge
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        knowledge.hear(now, up_to, committed.index, applied);
    }

    /// Completes what its replica says to another with what only the node knows of clocks.
    pub(crate) fn complete(&self, to: u64, body: &mut Body) {
        let now = Instant::now();
        match body {
            Body::Append(append) => {
                // It was made a moment ago. What was committed since is not in it, so that it may
                // not count for longer than up to then.
                let says = append.committed.map(|id| id.index);
                let acknowledged = self.group.acknowledged();
                let acknowledged = acknowledged.filter(|(_, committed)| says >= *committed);
                append.freshness = acknowledged
                    .and_then(|(acknowledged, _)| self.hearing().freshness(now, to, acknowledged));
            }
            Body::AppendReply(reply) => reply.moment = self.hearing().moment(now),
            _ => {}
        }
    }

    /// Hears what another replica's clock shows.
    pub(crate) fn note_moment(&self, from: u64, moment: u64) {
        self.hearing().note(Instant::now(), from, moment);
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how old the replica's knowledge is: the time since the coordinator said what is
    /// committed and all of that is applied here, or for the coordinator itself, since a quorum
    /// was heard. Where no coordinator was heard since the node started, the time since the last
    /// entry that is applied.
    pub(crate) fn age(&self) -> Duration {
        self.known_age().unwrap_or_else(|| {
            let stamp = self.replica.read().stamp();
            Duration::from_millis(self.clock.wall().0.saturating_sub(stamp.0))
        })
    }

    fn known_age(&self) -> Option<Duration> {
        let (acknowledged, applied) = self.group.freshness();
        acknowledged.or_else(|| {
            let mut knowledge = self
                .knowledge
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            knowledge.age(Instant::now(), applied)
        })
    }

    /// Returns whether the replica can be read: in this life of the node it has had everything
    /// that its coordinator said to be committed. A node that comes back where no coordinator is
    /// reached tells what it knew, with its age, after a while.
    pub(crate) fn is_fit(&self) -> bool {
        let remembers = || self.since.elapsed() >= LONELY && self.replica.read().applied() > 0;
        self.serving || self.known_age().is_some() || remembers()
    }

    /// Returns the node of the shard's coordinator, as far as is known.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.group.leader().map(|leader| leader.node)
    }
}

/// All shards of this node. A cheap handle.
#[derive(Clone)]
pub(crate) struct Shards(Arc<Inner>);

struct Inner {
    map: ShardMap,
    hosted: RwLock<BTreeMap<ShardId, Hosted>>,
    /// Raised whenever a shard begins or ends to be read here.
    moves: watch::Sender<u64>,
}

impl Shards {
    /// Makes the table of a cluster with those shards.
    pub(crate) fn new(map: ShardMap) -> Self {
        Self(Arc::new(Inner {
            map,
            hosted: RwLock::default(),
            moves: watch::Sender::new(0),
        }))
    }

    /// Returns how many shards the cluster has.
    pub(crate) fn count(&self) -> u32 {
        self.0.map.count()
    }

    pub(crate) fn all(&self) -> RwLockReadGuard<'_, BTreeMap<ShardId, Hosted>> {
        self.0.hosted.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the log has every transition that was told here ahead of it, once the drivers
    /// decide nothing more.
    pub(crate) async fn logged(&self) {
        let is_logged = |hosted: &Hosted| {
            let stats = hosted.stats();
            let waiting = stats.outbox.transitions + stats.outbox.in_flight;
            !stats.owns || stats.quiet && waiting == 0
        };
        while !self.all().values().all(is_logged) {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until whoever speaks for the region's part of each shard that is here has its claim in
    /// the log: from then on it hears gateways.
    pub(crate) async fn claimed(
        &self,
        control: &watch::Receiver<Arc<Control>>,
        region: &RegionName,
    ) {
        let is_claimed = |(shard, hosted): (&ShardId, &Hosted)| {
            let owner = control.borrow().owner(region, *shard);
            let mark = hosted.replica.read().mark(region);
            owner.is_none_or(|owner| mark.fence >= owner.fence)
        };
        while !self.all().iter().all(is_claimed) {
            tokio::time::sleep(POLL).await;
        }
    }

    pub(crate) fn get(&self, shard: ShardId) -> Option<Hosted> {
        self.all().get(&shard).cloned()
    }

    /// Returns the shard if it is read here.
    pub(crate) fn serving(&self, shard: ShardId) -> Option<Hosted> {
        self.get(shard).filter(|hosted| hosted.serving)
    }

    /// Returns a channel's shard, and the replica if it is read here.
    pub(crate) fn of(&self, channel: &ChannelKey) -> (ShardId, Option<Hosted>) {
        let shard = self.0.map.of(channel);
        (shard, self.serving(shard))
    }

    /// Returns the shards that are read here, and those that are not.
    pub(crate) fn parted(&self) -> (Vec<Hosted>, BTreeSet<ShardId>) {
        let all = self.all();
        let serving = all.values().filter(|hosted| hosted.serving).cloned();
        let elsewhere = (0..self.count()).map(ShardId);
        let elsewhere =
            elsewhere.filter(|shard| all.get(shard).is_none_or(|hosted| !hosted.serving));
        (serving.collect(), elsewhere.collect())
    }

    /// Returns how often a shard has begun or ended to be read here.
    pub(crate) fn moves(&self) -> u64 {
        *self.0.moves.borrow()
    }

    pub(crate) fn watch_moves(&self) -> watch::Receiver<u64> {
        self.0.moves.subscribe()
    }

    /// Says whether a shard is to be read here; returns whether that is new.
    pub(crate) fn serve(&self, shard: ShardId, serving: bool) -> bool {
        let hosted = self.0.hosted.write();
        let mut hosted = hosted.unwrap_or_else(PoisonError::into_inner);
        let Some(hosted) = hosted.get_mut(&shard) else {
            return false;
        };
        let moved = std::mem::replace(&mut hosted.serving, serving) != serving;
        if moved {
            // Under the lock: whoever reads the shard in its new place sees that it has moved.
            self.0.moves.send_modify(|moves| *moves += 1);
        }
        moved
    }

    pub(crate) fn insert(&self, shard: ShardId, hosted: Hosted) {
        let mut all = self
            .0
            .hosted
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        all.insert(shard, hosted);
    }

    /// Forgets a shard, which must not be [served](Self::serve) any more.
    pub(crate) fn remove(&self, shard: ShardId) -> Option<Hosted> {
        self.0
            .hosted
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&shard)
    }
}

/// Whoever waits for news of shards.
#[derive(Debug, Default)]
pub(crate) struct Waker {
    shards: Mutex<BTreeSet<ShardId>>,
    bell: Notify,
}

impl Waker {
    /// Notes news of a shard.
    fn wake(&self, shard: ShardId) {
        if self
            .shards
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(shard)
        {
            self.bell.notify_one();
        }
    }

    /// Waits for news and returns the shards that have some.
    pub(crate) async fn woken(&self) -> BTreeSet<ShardId> {
        loop {
            let shards = {
                let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut *shards)
            };
            if !shards.is_empty() {
                return shards;
            }
            self.bell.notified().await;
        }
    }
}

/// Everybody who waits for news. A cheap handle.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wakers(Arc<Mutex<Registered>>);

#[derive(Debug, Default)]
struct Registered {
    last: u64,
    wakers: BTreeMap<u64, Arc<Waker>>,
}

/// A registered waker; dropping it ends the registration.
#[derive(Debug)]
pub(crate) struct Registration {
    number: u64,
    wakers: Wakers,
    pub(crate) waker: Arc<Waker>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.wakers.lock().wakers.remove(&self.number);
    }
}

impl Wakers {
    fn lock(&self) -> MutexGuard<'_, Registered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers somebody, unless there are `max` already.
    pub(crate) fn register(&self, max: usize) -> Option<Registration> {
        let mut registered = self.lock();
        if registered.wakers.len() >= max {
            return None;
        }
        registered.last += 1;
        let (number, waker) = (registered.last, Arc::<Waker>::default());
        registered.wakers.insert(number, Arc::clone(&waker));
        Some(Registration {
            number,
            wakers: self.clone(),
            waker,
        })
    }

    /// Tells everybody that a shard has news.
    pub(crate) fn wake(&self, shard: ShardId) {
        for waker in self.lock().wakers.values() {
            waker.wake(shard);
        }
    }

    /// Returns how many are registered.
    pub(crate) fn len(&self) -> usize {
        self.lock().wakers.len()
    }
}
