//! Events of the past: what the journals of all shards say, in one order, wherever they are.
//!
//! A journal that begins too late, as that of a replica which came by a snapshot does, is
//! complemented by other holders'.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headcount_api::ports::{HistoryQuery, HistoryRead, ReadError};
use headcount_consensus::store::Journal;
use headcount_model::{Era, HistoryPoint, LoggedEvent, ShardId};
use headcount_rpc::read::{HistoryAsk, HistoryReply, PastEvent};
use headcount_wire::{decode_past_event, encode_past_event};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::scan::{Best, Scan, Stopped};
use super::{Elsewhere, Here};
use crate::clock::Clock;
use crate::telemetry;

/// How long a read of the past may take. As much as other reads: who looks for something rare in a
/// long journal is told to ask for less.
const HISTORY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads of journals that may run at a time, each on a thread of its own: they keep a core busy.
const RUNNING_MAX: usize = 2;

/// Reads that may run or wait for their turn; above it they are refused.
const ADMITTED_MAX: usize = 256;

/// How many other holders are asked for what a shard's journal lacks.
const COMPLEMENTS_MAX: usize = 3;

/// Reads this node's journals. A cheap handle.
#[derive(Clone)]
pub(crate) struct PastHere {
    here: Here,
    journal: Journal,
    clock: Clock,
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
}

/// Tells a thread that nobody waits for it any more.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl PastHere {
    pub(crate) fn new(here: Here, journal: Journal, clock: Clock) -> Self {
        Self {
            here,
            journal,
            clock,
            admitted: Arc::new(Semaphore::new(ADMITTED_MAX)),
            running: Arc::new(Semaphore::new(RUNNING_MAX)),
        }
    }

    fn era(&self) -> Result<Era, ReadError> {
        let control = self.here.control.borrow().clone();
        let facts = control.facts().ok_or_else(|| ReadError::Unavailable {
            reason: "the cluster is not founded".to_owned(),
        })?;
        Ok(facts.era)
    }

    /// Reads the journals of shards that this node holds, within the time.
    async fn scan(
        &self,
        ask: HistoryAsk,
        until: Instant,
    ) -> Result<(Best, Vec<ShardId>), ReadError> {
        let timed_out = || ReadError::TimedOut {
            after: HISTORY_TIMEOUT,
        };
        let Ok(_admitted) = self.admitted.try_acquire() else {
            telemetry::history_refused();
            return Err(ReadError::Overloaded { max: ADMITTED_MAX });
        };
        let turn = Arc::clone(&self.running).acquire_owned();
        let turn = tokio::time::timeout_at(until, turn).await;
        let turn = turn.map_err(|_| timed_out())?;
        let (journal, era) = (self.journal.clone(), self.era()?);
        let now = self.clock.wall();
        let abandoned = Arc::new(AtomicBool::new(false));
        let _waiting = Waiting(Arc::clone(&abandoned));
        let scan = move || {
            let _turn = turn;
            let mut scan = Scan {
                journal: &journal,
                era,
                now,
                until,
                abandoned: &abandoned,
                best: Best::new(ask.newest_first, ask.limit),
                ask: &ask,
            };
            let lacking = scan.run()?;
            Ok((scan.best, lacking))
        };
        let scanned = self.journal.offload(scan).await;
        let internal = |reason: String| ReadError::Internal { reason };
        let scanned = scanned.map_err(|error| internal(error.to_string()))?;
        scanned.map_err(|stopped| match stopped {
            Stopped::OutOfTime => timed_out(),
            Stopped::Failed(reason) => internal(reason),
        })
    }

    /// Reads for another node.
    pub(crate) async fn answer(&self, ask: HistoryAsk) -> Result<HistoryReply, ReadError> {
        let until = Instant::now() + HISTORY_TIMEOUT;
        let (best, lacking) = self.scan(ask, until).await?;
        let events = best.into_events().into_iter().map(|(point, told)| {
            let logged = LoggedEvent {
                position: point.position,
                previous: None,
                event: told.event.clone(),
            };
            PastEvent {
                shard: point.shard,
                position: point.position,
                event: encode_past_event(point.at, &logged),
            }
        });
        Ok(HistoryReply {
            events: events.collect(),
            lacking,
        })
    }
}

/// Reads the journals of all shards, wherever they are. A cheap handle.
#[derive(Clone)]
pub(crate) struct Past {
    pub(crate) here: PastHere,
    pub(crate) elsewhere: Elsewhere,
}

impl Past {
    /// Reads a page.
    pub(crate) async fn read(&self, query: HistoryQuery) -> Result<HistoryRead, ReadError> {
        let until = Instant::now() + HISTORY_TIMEOUT;
        let after = HISTORY_TIMEOUT;
        tokio::time::timeout_at(until, self.read_until(query, until))
            .await
            .unwrap_or(Err(ReadError::TimedOut { after }))
    }

    async fn read_until(
        &self,
        query: HistoryQuery,
        until: Instant,
    ) -> Result<HistoryRead, ReadError> {
        let limit = query.limit;
        let ask = HistoryAsk {
            shards: Vec::new(),
            app: query.app,
            kinds: query.kinds,
            from: query.from,
            to: query.to,
            newest_first: query.newest_first,
            after: query.after,
            // One more tells whether there is one.
            limit: limit + 1,
        };
        let shards = self.here.here.shards()?;
        let (hosted, others) = shards.parted();
        let own = hosted.iter().map(|hosted| hosted.replica.id).collect();
        let here = HistoryAsk {
            shards: own,
            ..ask.clone()
        };
        let (scanned, told) = tokio::join!(
            self.here.scan(here, until),
            self.elsewhere.history(others, &ask)
        );
        let ((mut best, lacking), told) = (scanned?, told?);
        let mut missing: BTreeMap<ShardId, BTreeSet<_>> = BTreeMap::new();
        missing.extend(lacking.into_iter().map(|shard| (shard, BTreeSet::new())));
        let era = self.here.era()?;
        for (node, reply) in told {
            let lacking = reply.lacking.iter();
            missing.extend(lacking.map(|shard| (*shard, BTreeSet::from([node]))));
            merge(&mut best, era, &reply)?;
        }
        for _ in 0..COMPLEMENTS_MAX {
            let told = self.elsewhere.complement(&mut missing, &ask).await;
            if told.is_empty() {
                break;
            }
            for reply in told {
                merge(&mut best, era, &reply)?;
            }
        }
        let mut events = best.into_events();
        let more = events.len() > limit;
        events.truncate(limit);
        let next = events.last().filter(|_| more).map(|(point, _)| *point);
        Ok(HistoryRead {
            events: events.into_iter().map(|(_, event)| event).collect(),
            next,
        })
    }
}

/// Takes what another node has found.
fn merge(best: &mut Best, era: Era, reply: &HistoryReply) -> Result<(), ReadError> {
    for past in &reply.events {
        let (shard, position) = (past.shard, past.position);
        let decoded = decode_past_event(era, shard, position, &past.event);
        let (at, event) = decoded.map_err(|error| ReadError::Internal {
            reason: format!("an event of the past: {error}"),
        })?;
        let point = HistoryPoint {
            at,
            shard,
            position,
        };
        best.take(point, event);
    }
    Ok(())
}
