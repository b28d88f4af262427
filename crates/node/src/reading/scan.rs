//! Looking for events of the past in this node's journals.
//!
//! Each shard is read from where the answer begins, page by page, until it cannot add to the best
//! that were found. So a read holds one page of one journal, and the answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headcount_consensus::store::{Journal, JournalItem};
use headcount_model::{
    Era, Event, HistoryPoint, Logged, LoggedEvent, Position, ShardId, Timestamp, WatchEvent,
};
use headcount_rpc::read::HistoryAsk;
use headcount_wire::decode_logged;
use tokio::time::Instant;

/// Journal records, and about how many of their bytes, that are read at a time.
const PAGE_ITEMS: usize = 512;
const PAGE_BYTES: usize = 1 << 20;

/// How far the time that an event tells may be from its entry's: a region's clock is another one,
/// and its batch may have waited.
const SKEW_MAX: Duration = Duration::from_secs(10);

/// The best events that were found, by their places.
#[derive(Debug)]
pub(super) struct Best {
    newest_first: bool,
    max: usize,
    found: BTreeMap<HistoryPoint, Arc<WatchEvent>>,
}

impl Best {
    pub(super) fn new(newest_first: bool, max: usize) -> Self {
        Self {
            newest_first,
            max,
            found: BTreeMap::new(),
        }
    }

    /// Whether nothing at this place or beyond, in the direction of reading, can be among the best.
    fn excludes(&self, point: HistoryPoint) -> bool {
        if self.found.len() < self.max {
            return false;
        }
        let worst = if self.newest_first {
            self.found.first_key_value()
        } else {
            self.found.last_key_value()
        };
        worst.is_none_or(|(worst, _)| {
            if self.newest_first {
                point < *worst
            } else {
                point > *worst
            }
        })
    }

    pub(super) fn take(&mut self, point: HistoryPoint, event: Event) {
        if self.excludes(point) || self.found.contains_key(&point) {
            return;
        }
        let told = WatchEvent {
            shard: point.shard,
            position: Some(point.position),
            event,
        };
        self.found.insert(point, Arc::new(told));
        if self.found.len() > self.max {
            if self.newest_first {
                self.found.pop_first();
            } else {
                self.found.pop_last();
            }
        }
    }

    /// Returns everything in the direction of reading.
    pub(super) fn into_events(self) -> Vec<(HistoryPoint, Arc<WatchEvent>)> {
        let mut events: Vec<_> = self.found.into_iter().collect();
        if self.newest_first {
            events.reverse();
        }
        events
    }
}

/// Why journals are not read to the end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The time is over, or nobody waits any more.
    OutOfTime,
    /// A journal cannot be read.
    Failed(String),
}

/// One read of journals, which blocks its thread.
pub(super) struct Scan<'a> {
    pub(super) journal: &'a Journal,
    pub(super) era: Era,
    pub(super) ask: &'a HistoryAsk,
    pub(super) now: Timestamp,
    pub(super) until: Instant,
    /// Set when nobody waits any more.
    pub(super) abandoned: &'a AtomicBool,
    pub(super) best: Best,
}

impl Scan<'_> {
    /// Reads the journals of the shards; returns those that lack what was wanted.
    pub(super) fn run(&mut self) -> Result<Vec<ShardId>, Stopped> {
        let mut lacking = Vec::new();
        for shard in &self.ask.shards {
            let lacks = if self.ask.newest_first {
                self.back(*shard)?
            } else {
                self.forth(*shard)?
            };
            if lacks {
                lacking.push(*shard);
            }
        }
        Ok(lacking)
    }

    /// Reads a shard's journal from its end, or from where the answer begins.
    fn back(&mut self, shard: ShardId) -> Result<bool, Stopped> {
        let number = u64::from(shard.0);
        let moment = |stamp: Timestamp| self.journal.find(number, stamp.0).after;
        let to = self.ask.to.and_then(|to| moment(to.after(SKEW_MAX)));
        let after = self.ask.after.and_then(|after| {
            if after.shard == shard {
                Some(after.position.index.saturating_add(1))
            } else {
                moment(after.at)
            }
        });
        let mut before = to.into_iter().chain(after).min();
        let mut oldest = None;
        loop {
            self.check_time()?;
            let page = self
                .journal
                .read_back(number, before, PAGE_ITEMS, PAGE_BYTES);
            let page = page.map_err(|error| Stopped::Failed(error.to_string()))?;
            for item in page.items.iter().rev() {
                let stamp = Timestamp(item.stamp_ms);
                let early = |from: Timestamp| stamp.after(SKEW_MAX) < from;
                let end = place(shard, item, u32::MAX);
                if self.ask.from.is_some_and(early) || self.best.excludes(end) {
                    return Ok(false);
                }
                oldest = Some(stamp);
                self.take(shard, item)?;
            }
            match page.items.first() {
                Some(first) => before = Some(first.index),
                None => return Ok(page.range.first > 0 && self.is_young(oldest)),
            }
        }
    }

    /// Reads a shard's journal from its beginning, or from where the answer begins.
    fn forth(&mut self, shard: ShardId) -> Result<bool, Stopped> {
        let number = u64::from(shard.0);
        let moment = |stamp: Timestamp| self.journal.find(number, stamp.0).before;
        let from = self.ask.from.and_then(|from| moment(before(from)));
        let beyond = self.ask.after.and_then(|after| {
            if after.shard == shard {
                after.position.index.checked_sub(1)
            } else {
                moment(after.at)
            }
        });
        let mut after = from.into_iter().chain(beyond).max();
        let mut lacks = None;
        loop {
            self.check_time()?;
            let page = self.journal.read(number, after, PAGE_ITEMS, PAGE_BYTES);
            let page = page.map_err(|error| Stopped::Failed(error.to_string()))?;
            let wanted = after.map_or(0, |after| after + 1);
            let oldest = page.items.first().map(|first| Timestamp(first.stamp_ms));
            let lacks = *lacks.get_or_insert(wanted < page.range.first && self.is_young(oldest));
            for item in &page.items {
                let late = |to: Timestamp| before(Timestamp(item.stamp_ms)) > to;
                if self.ask.to.is_some_and(late) || self.best.excludes(place(shard, item, 0)) {
                    return Ok(lacks);
                }
                self.take(shard, item)?;
            }
            match page.items.last() {
                Some(last) => after = Some(last.index),
                None => return Ok(lacks),
            }
        }
    }

    /// Whether a journal which begins there may have been longer elsewhere: had it lost its
    /// beginning to age, others had too.
    fn is_young(&self, oldest: Option<Timestamp>) -> bool {
        let retention = self.journal.retention();
        oldest.is_none_or(|oldest| oldest.after(retention) > self.now)
    }

    fn check_time(&self) -> Result<(), Stopped> {
        if self.abandoned.load(Ordering::Relaxed) || Instant::now() >= self.until {
            return Err(Stopped::OutOfTime);
        }
        Ok(())
    }

    /// Takes what is wanted of a record.
    fn take(&mut self, shard: ShardId, item: &JournalItem) -> Result<(), Stopped> {
        let logged = decode_logged(self.era, shard, item.index, &item.payload);
        let logged = logged.map_err(|error| {
            Stopped::Failed(format!("record {} of shard {shard}: {error}", item.index))
        })?;
        let Logged { stamp, events, .. } = logged;
        for LoggedEvent {
            position, event, ..
        } in events
        {
            let point = HistoryPoint {
                at: stamp,
                shard,
                position,
            };
            if wants(self.ask, point, &event) {
                self.best.take(point, event);
            }
        }
        Ok(())
    }
}

/// The place of an event of a journal's record.
fn place(shard: ShardId, item: &JournalItem, ordinal: u32) -> HistoryPoint {
    HistoryPoint {
        at: Timestamp(item.stamp_ms),
        shard,
        position: Position {
            index: item.index,
            ordinal,
        },
    }
}

/// The moment so long before that no event of it tells a later one.
fn before(at: Timestamp) -> Timestamp {
    let skew_ms = u64::try_from(SKEW_MAX.as_millis()).unwrap_or(u64::MAX);
    Timestamp(at.0.saturating_sub(skew_ms))
}

fn wants(ask: &HistoryAsk, point: HistoryPoint, event: &Event) -> bool {
    let beyond = ask.after.is_none_or(|after| {
        if ask.newest_first {
            point < after
        } else {
            point > after
        }
    });
    beyond
        && event.channel.app == ask.app
        && ask.kinds.contains(event.kind)
        && ask.from.is_none_or(|from| event.at >= from)
        && ask.to.is_none_or(|to| event.at <= to)
}

#[cfg(test)]
mod tests {
    use headcount_consensus::store::memory::MemoryDisk;
    use headcount_consensus::store::{Store, StoreConfig};
    use headcount_model::{
        AppId, ChannelKey, EventId, EventKind, EventKinds, Occupancy, RegionName,
    };
    use headcount_wire::encode_logged;

    use super::*;

    const ERA: Era = Era(1);
    const SHARDS: u32 = 3;
    const START: u64 = 1_000_000;

    fn region() -> RegionName {
        RegionName::new("eu").unwrap()
    }

    /// A node's journals with what was put into them.
    struct World {
        store: Store,
        told: Vec<(HistoryPoint, Event)>,
    }

    impl World {
        fn new() -> Self {
            let config = StoreConfig {
                journal_segment_bytes: 4 << 10,
                journal_block_bytes: 1 << 10,
                ..StoreConfig::default()
            };
            // Nothing here waits to be durable.
            let (store, _driver) = Store::open_on(Arc::new(MemoryDisk::new()), config).unwrap();
            Self {
                store,
                told: Vec::new(),
            }
        }

        /// Lets an entry tell events at once: their apps, kinds, and how long before the log's
        /// time they were.
        fn log(&mut self, shard: u32, index: u64, stamp: u64, events: &[(&str, EventKind, u64)]) {
            let (shard, at) = (ShardId(shard), Timestamp(stamp));
            let events = (0..).zip(events).map(|(ordinal, (app, kind, ago))| {
                let position = Position { index, ordinal };
                let id = EventId::Log {
                    era: ERA,
                    shard,
                    position,
                };
                let event = Event {
                    id,
                    kind: *kind,
                    channel: ChannelKey::new(app, "room").unwrap(),
                    at: Timestamp(stamp - ago),
                    region: region(),
                    is_global_master: true,
                    active: true,
                    occupancy: Occupancy::ZERO,
                };
                LoggedEvent {
                    position,
                    previous: None,
                    event,
                }
            });
            let logged = Logged {
                index,
                stamp: at,
                coordinator: region(),
                events: events.collect(),
                marks: Vec::new(),
            };
            let record = encode_logged(&logged);
            let journal = self.store.journal();
            journal
                .append(u64::from(shard.0), index, stamp, record)
                .unwrap();
            self.told.extend(logged.events.into_iter().map(|logged| {
                let point = HistoryPoint {
                    at,
                    shard,
                    position: logged.position,
                };
                (point, logged.event)
            }));
        }

        fn scan(&self, ask: &HistoryAsk) -> (Vec<HistoryPoint>, Vec<ShardId>) {
            let mut scan = Scan {
                journal: &self.store.journal(),
                era: ERA,
                ask,
                now: Timestamp(START),
                until: Instant::now() + Duration::from_secs(60),
                abandoned: &AtomicBool::new(false),
                best: Best::new(ask.newest_first, ask.limit),
            };
            let lacking = scan.run().unwrap();
            let events = scan.best.into_events();
            for (point, told) in &events {
                let known = self.told.iter().find(|(known, _)| known == point);
                assert_eq!(known.unwrap().1, told.event);
            }
            (events.iter().map(|(point, _)| *point).collect(), lacking)
        }

        /// What the answer should be.
        fn expected(&self, ask: &HistoryAsk) -> Vec<HistoryPoint> {
            let told = self.told.iter();
            let wanted = told.filter(|(point, event)| wants(ask, *point, event));
            let mut points: Vec<_> = wanted.map(|(point, _)| *point).collect();
            points.sort_unstable();
            if ask.newest_first {
                points.reverse();
            }
            points.truncate(ask.limit);
            points
        }
    }

    fn ask(newest_first: bool, limit: usize) -> HistoryAsk {
        HistoryAsk {
            shards: (0..SHARDS).map(ShardId).collect(),
            app: AppId::new("dev").unwrap(),
            kinds: EventKinds::ALL,
            from: None,
            to: None,
            newest_first,
            after: None,
            limit,
        }
    }

    fn busy() -> World {
        let mut world = World::new();
        let mut seed = 7_u64;
        let mut draw = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for shard in 0..SHARDS {
            let mut stamp = START;
            for index in 1..=2_000 {
                stamp += draw(60);
                let events: Vec<_> = (0..draw(3))
                    .map(|_| {
                        let app = ["dev", "other"][draw(2) as usize];
                        (app, EventKind::ALL[draw(5) as usize], draw(200))
                    })
                    .collect();
                world.log(shard, index, stamp, &events);
            }
        }
        world
    }

    #[test]
    fn a_walk_meets_every_event_once_in_the_order_of_the_logs() {
        let world = busy();
        for newest_first in [true, false] {
            for limit in [7, 333] {
                let (mut ask, mut walked) = (ask(newest_first, limit), Vec::new());
                loop {
                    let (page, lacking) = world.scan(&ask);
                    assert_eq!(lacking, []);
                    let Some(last) = page.last() else {
                        break;
                    };
                    ask.after = Some(*last);
                    walked.extend(page);
                    if limit == 7 && walked.len() > 200 {
                        break;
                    }
                }
                let all = HistoryAsk {
                    after: None,
                    limit: if limit == 7 { walked.len() } else { usize::MAX },
                    ..ask
                };
                assert_eq!(walked, world.expected(&all));
            }
        }
    }

    #[test]
    fn times_and_kinds_choose() {
        let world = busy();
        for newest_first in [true, false] {
            for (from, to) in [
                (None, Some(START)),
                (Some(START + 20_000), Some(START + 20_500)),
                (Some(START + 58_000), None),
                (Some(START + 9_000_000), None),
            ] {
                for kinds in [EventKinds::ALL, [EventKind::Opened].into_iter().collect()] {
                    let ask = HistoryAsk {
                        from: from.map(Timestamp),
                        to: to.map(Timestamp),
                        kinds,
                        ..ask(newest_first, 20)
                    };
                    assert_eq!(world.scan(&ask).0, world.expected(&ask), "{ask:?}");
                }
            }
        }
    }

    #[test]
    fn a_late_event_of_a_region_is_found_by_its_own_time() {
        let mut world = World::new();
        world.log(
            0,
            1,
            START + 9_000,
            &[("dev", EventKind::RegionActive, 9_000)],
        );
        for newest_first in [true, false] {
            let ask = HistoryAsk {
                from: Some(Timestamp(START)),
                to: Some(Timestamp(START)),
                ..ask(newest_first, 1)
            };
            assert_eq!(world.scan(&ask).0.len(), 1);
        }
    }

    #[tokio::test]
    async fn a_journal_that_begins_late_says_so() {
        let mut world = World::new();
        let event = ("dev", EventKind::Opened, 0);
        world.log(0, 1, START, &[event]);
        world.store.journal();
        let restarted = world.store.journal();
        // As a snapshot does; it need not be durable here.
        drop(futures::FutureExt::now_or_never(restarted.replace(1, 50)));
        world.log(1, 60, START, &[event]);
        for newest_first in [true, false] {
            let (found, lacking) = world.scan(&ask(newest_first, 9));
            assert_eq!((found.len(), lacking), (2, vec![ShardId(1)]));
        }
        let recent = HistoryAsk {
            from: Some(Timestamp(START + 20_000)),
            ..ask(true, 1)
        };
        assert_eq!(world.scan(&recent).1, [], "nothing older is wanted");
    }

    #[test]
    fn a_scan_ends_when_nobody_waits_or_the_time_is_over() {
        let world = busy();
        let ask = ask(true, 1_000);
        for (until, abandoned) in [(Duration::ZERO, false), (Duration::from_secs(60), true)] {
            let mut scan = Scan {
                journal: &world.store.journal(),
                era: ERA,
                ask: &ask,
                now: Timestamp(START),
                until: Instant::now() + until,
                abandoned: &AtomicBool::new(abandoned),
                best: Best::new(true, 1_000),
            };
            assert_eq!(scan.run(), Err(Stopped::OutOfTime));
        }
    }
}
