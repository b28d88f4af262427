//! Where the traffic of the shards that this node coordinates comes from.

use std::collections::BTreeMap;

use headcount_model::RegionName;
use headcount_rpc::control::ShardsTraffic;
use tokio::sync::watch;

use crate::shards::Shards;
use crate::telemetry;

/// Tells what was applied in this node's shards since it was last asked. What it told and nobody
/// heard is lost: measurements go on.
pub(crate) struct TrafficMeter {
    region: RegionName,
    shards: watch::Receiver<Option<Shards>>,
    /// What each replica had counted when it was last looked at.
    counted: ShardsTraffic,
}

impl TrafficMeter {
    pub(crate) fn new(region: RegionName, shards: watch::Receiver<Option<Shards>>) -> Self {
        Self {
            region,
            shards,
            counted: BTreeMap::new(),
        }
    }

    /// Returns the traffic since the last call, of those shards that are led from here.
    pub(crate) fn take(&mut self) -> ShardsTraffic {
        let Some(shards) = self.shards.borrow().clone() else {
            return BTreeMap::new();
        };
        let mut traffic = BTreeMap::new();
        let mut counted = BTreeMap::new();
        for (shard, hosted) in shards.all().iter() {
            let now = hosted.replica.traffic();
            // What was applied before this node was looked at was another one's to tell.
            let before = self.counted.get(shard).unwrap_or(&now);
            let fresh = now.iter().filter_map(|(region, items)| {
                let before = before.get(region).copied().unwrap_or(0);
                let fresh = items.saturating_sub(before);
                (fresh > 0).then(|| (region.clone(), fresh))
            });
            let fresh: BTreeMap<RegionName, u64> = fresh.collect();
            if hosted.stats().leads && !fresh.is_empty() {
                traffic.insert(*shard, fresh);
            }
            counted.insert(*shard, now);
        }
        self.counted = counted;
        for (region, items) in traffic.values().flatten() {
            telemetry::items_coordinated(*region == self.region, *items);
        }
        traffic
    }
}
