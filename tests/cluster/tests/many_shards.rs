//! As many shards as a large cluster has, which is 768 replicas with their votes, leaders and owners:
//! they come about without help, and nothing about them is slower than with four.

use std::collections::{BTreeMap, BTreeSet};

use headcount_cluster::{Cluster, Edge, REGIONS, agree_on_counts, story};
use headcount_model::{ChannelKey, EventKind, Modes, shard_of};

use crate::support::{settle, watch_everywhere};

const SHARDS: u32 = 256;

/// The story of a channel that is attached once, in one region.
const WHOLE: [EventKind; 4] = [
    EventKind::RegionActive,
    EventKind::Opened,
    EventKind::RegionInactive,
    EventKind::Closed,
];

#[test]
fn two_hundred_and_fifty_six_shards_come_about_and_tell() {
    story(async |_| {
        let settings = [
            "cluster.shards=256",
            "cluster.timing=wan",
            "region.linger=50ms",
            // Longer than an election takes with that timing.
            "placement.lease=5s",
            "placement.suspect_after=2s",
        ];
        // Waits until each shard has three voters, a leader, and a settled owner in each region.
        let cluster = Cluster::start_with(&REGIONS, &settings).await;
        let status = cluster.status(0).await.unwrap();
        assert_eq!(status.shards.len(), SHARDS as usize);
        let mut led = BTreeMap::<u64, usize>::new();
        for shard in &status.shards {
            assert_eq!(shard.voters.len(), 3, "{shard:?}");
            assert_eq!(shard.owners.len(), 3, "{shard:?}");
            *led.entry(shard.leader.as_ref().unwrap().node).or_default() += 1;
        }
        assert_eq!(led.len(), 3, "one node leads all: {led:?}");
        let fair = SHARDS as usize / 3;
        let spread = led.values().all(|led| led.abs_diff(fair) <= fair / 2);
        assert!(spread, "leaders are not spread: {led:?}");

        // A channel in nearly every shard, attached in one region, and one in all of them.
        let watchers = watch_everywhere(&cluster).await;
        let rooms: Vec<String> = (0..1_000).map(|number| format!("room:{number}")).collect();
        let met: BTreeSet<_> = rooms
            .iter()
            .map(|room| shard_of(&ChannelKey::new("dev", room).unwrap(), SHARDS))
            .collect();
        assert!(met.len() > 240, "{} shards are met", met.len());
        let mut edges: Vec<Edge> = (0..cluster.len())
            .map(|node| Edge::start(&cluster, &format!("edge-{node}"), &[node]))
            .collect();
        for (node, edge) in edges.iter_mut().enumerate() {
            let here = rooms.iter().skip(node).step_by(REGIONS.len());
            let pairs: Vec<_> = here.map(|room| ("c1", room.as_str())).collect();
            edge.attach_all(&pairs, Modes::DEFAULT).await;
            edge.attach("c1", "everywhere").await;
        }
        agree_on_counts(&cluster, &edges.iter().collect::<Vec<_>>()).await;
        for edge in &mut edges {
            edge.close("c1").await;
        }
        agree_on_counts(&cluster, &edges.iter().collect::<Vec<_>>()).await;
        for history in settle(&cluster, &watchers).await {
            let mut stories = BTreeMap::<&str, Vec<EventKind>>::new();
            let told = history.events().into_iter();
            for told in told.filter(|told| told.kind != EventKind::Occupancy) {
                stories.entry(&told.channel).or_default().push(told.kind);
            }
            for room in &rooms {
                assert_eq!(stories[room.as_str()], WHOLE, "{room}");
            }
            assert_eq!(stories["everywhere"].len(), 2 * REGIONS.len() + 2);
        }
        cluster.end().await;
    });
}
