//! Gauges, and the upkeep of the journal: looked at now and then rather than with each change.

use std::time::Duration;

use headcount_consensus::store::Store;
use headcount_model::RegionName;
use headcount_rpc::peers::Network;

use crate::clock::Clock;
use crate::shards::{Shards, Wakers};
use crate::telemetry;

/// How often gauges are set.
const SAMPLE: Duration = Duration::from_secs(1);

/// How many samples lie between two trims of the journal.
const TRIM_EVERY: u32 = 60;

/// What is looked at.
pub(crate) struct Sampler {
    pub(crate) region: RegionName,
    pub(crate) clock: Clock,
    pub(crate) shards: Shards,
    pub(crate) wakers: Wakers,
    pub(crate) store: Store,
    pub(crate) network: Network,
}

impl Sampler {
    /// Runs for ever.
    pub(crate) async fn run(self) {
        let mut owned = telemetry::shards_owned();
        let mut leaders = telemetry::leaders(&self.region);
        let mut in_flight = telemetry::batches_in_flight();
        let mut mail = telemetry::mail_waiting();
        let mut watchers = telemetry::watchers();
        let mut store = telemetry::StoreShares::default();
        let mut queues = self
            .network
            .waiting()
            .map(|(stream, _)| telemetry::peer_queue(stream));
        let mut ticks = tokio::time::interval(SAMPLE);
        let mut until_trim = TRIM_EVERY;
        loop {
            ticks.tick().await;
            let stats: Vec<_> = self
                .shards
                .all()
                .values()
                .map(crate::shards::Hosted::stats)
                .collect();
            owned.set(stats.iter().filter(|stats| stats.owns).count());
            leaders.set(stats.iter().filter(|stats| stats.leads).count());
            in_flight.set(stats.iter().map(|stats| stats.outbox.in_flight).sum());
            mail.set(stats.iter().map(|stats| stats.mail).sum());
            watchers.set(self.wakers.len());
            store.set(&self.store.stats());
            for (queue, (_, items)) in queues.iter_mut().zip(self.network.waiting()) {
                queue.set(items);
            }
            until_trim -= 1;
            if until_trim == 0 {
                until_trim = TRIM_EVERY;
                if let Err(error) = self.store.journal().trim(self.clock.wall().0) {
                    // The store is poisoned then, which stops the node by itself.
                    tracing::error!(target: "feed", %error, "the journal cannot be trimmed");
                }
            }
        }
    }
}
