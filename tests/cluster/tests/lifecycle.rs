//! One channel's life: opened, changed and closed, seen from every region.

use headcount_cluster::{
    Cluster, Edge, History, REGIONS, Reader, agree_on_counts, story, wait_until,
};
use headcount_model::{Category, EventKind, Modes, Occupancy};

use crate::support::{settle, told_everywhere, watch_everywhere};

#[test]
fn the_first_attach_opens_a_channel_in_every_region_in_turn() {
    story(async |_| {
        let cluster = Cluster::start(&REGIONS).await;
        let watchers = watch_everywhere(&cluster).await;
        for (node, region) in REGIONS.iter().enumerate() {
            let channel = format!("first:{region}");
            let (active, inactive) = (
                format!("channel.region.active {region}"),
                format!("channel.region.inactive {region}"),
            );
            let mut edge = Edge::start(&cluster, &format!("edge-{region}"), &[node]);

            // Attached in one region, it is opened everywhere, after the region's own event.
            edge.attach("c1", &channel).await;
            told_everywhere(&watchers, &channel, &[&active, "channel.opened"]).await;
            agree_on_counts(&cluster, &[&edge]).await;

            // A second attachment in the same region changes counts and no state.
            edge.attach("c2", &channel).await;
            agree_on_counts(&cluster, &[&edge]).await;
            edge.detach("c2", &channel).await;

            // The last one leaves: after the linger, the region and then the channel end.
            edge.detach("c1", &channel).await;
            let whole: &[&str] = &[&active, "channel.opened", &inactive, "channel.closed"];
            told_everywhere(&watchers, &channel, whole).await;
            agree_on_counts(&cluster, &[]).await;
            for node in cluster.running() {
                let status = Reader::new(&cluster, node).status(&channel).await.unwrap();
                assert!(!status.active && status.occupancy.is_zero(), "{status:?}");
            }
            edge.goodbye().await;
        }
        let histories = settle(&cluster, &watchers).await;

        // Regional events speak of the region, global ones of the coordinator's.
        let master = Reader::new(&cluster, 0)
            .status("first:us-east-1")
            .await
            .unwrap()
            .coordinator;
        for told in histories
            .iter()
            .flat_map(|history| history.of("first:us-east-1"))
        {
            match told.kind.is_regional() {
                true => {
                    assert_eq!(told.region, "us-east-1");
                    assert_eq!(told.is_global_master, master == "us-east-1", "{told}");
                }
                false => assert_eq!(told.region, master, "{told}"),
            }
        }
        cluster.end().await;
    });
}

#[test]
fn two_regions_at_the_same_instant_open_a_channel_once() {
    story(async |_| {
        let cluster = Cluster::start(&REGIONS).await;
        let watchers = watch_everywhere(&cluster).await;
        let mut here = Edge::start(&cluster, "edge-here", &[0]);
        let mut there = Edge::start(&cluster, "edge-there", &[1]);
        // The streams are open, so that both reports take the same time.
        here.attach("c0", "warm").await;
        there.attach("c0", "warm").await;

        // One round may be decided by chance; of ten, some are close.
        let channels: Vec<String> = (0..10).map(|round| format!("both:{round}")).collect();
        for channel in &channels {
            tokio::join!(here.attach("c1", channel), there.attach("c1", channel));
        }
        for (watcher, channel) in watchers
            .iter()
            .flat_map(|one| channels.iter().map(move |c| (one, c)))
        {
            let why = format!("{channel} is told to be active in both regions");
            let active = |history: &History, region| history.is_active(channel, region);
            let both = |history: &History| {
                active(history, REGIONS[0])
                    && active(history, REGIONS[1])
                    && history.is_open(channel)
            };
            watcher.wait_for(&why, both).await;
        }
        agree_on_counts(&cluster, &[&here, &there]).await;

        // Leaving in one region ends nothing; leaving in both ends it once.
        for channel in &channels {
            here.detach("c1", channel).await;
        }
        for (watcher, channel) in watchers
            .iter()
            .flat_map(|one| channels.iter().map(move |c| (one, c)))
        {
            let why = format!("{channel} is told to be inactive in one region");
            watcher
                .wait_for(&why, |history| !history.is_active(channel, REGIONS[0]))
                .await;
            assert!(watcher.history().is_open(channel));
        }
        agree_on_counts(&cluster, &[&here, &there]).await;
        for channel in &channels {
            there.detach("c1", channel).await;
        }
        agree_on_counts(&cluster, &[&here, &there]).await;
        for history in settle(&cluster, &watchers).await {
            for channel in &channels {
                let count = |kind| history.count(channel, kind);
                let counts = [EventKind::Opened, EventKind::Closed].map(count);
                assert_eq!(counts, [1, 1], "{channel}:\n{history}");
                let counts = [EventKind::RegionActive, EventKind::RegionInactive].map(count);
                assert_eq!(counts, [2, 2], "{channel}:\n{history}");
            }
        }
        cluster.end().await;
    });
}

#[test]
fn a_category_that_comes_and_goes_changes_no_state() {
    story(async |_| {
        let cluster = Cluster::start(&REGIONS).await;
        let watchers = watch_everywhere(&cluster).await;
        let mut edge = Edge::start(&cluster, "edge", &[1]);
        let listens = Modes::SUBSCRIBE;
        edge.attach_as("c1", "room", listens).await;
        agree_on_counts(&cluster, &[&edge]).await;

        // Each change is a crossing, told at once: a publisher comes, a member enters, both leave.
        let has = |category: Category, wanted: bool| {
            move |history: &History| {
                let told = history.of("room");
                let last = told
                    .iter()
                    .rev()
                    .find(|told| told.kind == EventKind::Occupancy);
                last.is_some_and(|told| (told.occupancy.get(category) > 0) == wanted)
            }
        };
        let all = Modes::DEFAULT;
        edge.attach_as("c2", "room", all).await;
        for watcher in &watchers {
            watcher
                .wait_for("a publisher is told", has(Category::Publishers, true))
                .await;
        }
        edge.enter("c2", "room", "ann").await;
        for watcher in &watchers {
            watcher
                .wait_for("a member is told", has(Category::PresenceMembers, true))
                .await;
        }
        edge.leave("c2", "room", "ann").await;
        for watcher in &watchers {
            watcher
                .wait_for("no member is told", has(Category::PresenceMembers, false))
                .await;
        }
        edge.attach_as("c2", "room", listens).await;
        for watcher in &watchers {
            watcher
                .wait_for("no publisher is told", has(Category::Publishers, false))
                .await;
        }
        // An edge that counts itself crosses as well.
        let mut counted = Occupancy::ZERO;
        counted.set(Category::ObjectPublishers, 7);
        let mut counting = Edge::start(&cluster, "counting", &[2]);
        counting.counts("room", counted).await;
        for watcher in &watchers {
            watcher
                .wait_for(
                    "object publishers are told",
                    has(Category::ObjectPublishers, true),
                )
                .await;
        }
        counting.counts("room", Occupancy::ZERO).await;
        agree_on_counts(&cluster, &[&edge, &counting]).await;
        for watcher in &watchers {
            let left = |history: &History| !history.is_active("room", REGIONS[2]);
            watcher.wait_for("the counting region ends", left).await;
        }
        for history in settle(&cluster, &watchers).await {
            let state =
                [EventKind::Opened, EventKind::Closed].map(|kind| history.count("room", kind));
            assert_eq!(state, [1, 0], "{history}");
        }
        cluster.end().await;
    });
}

#[test]
fn ten_thousand_attaches_are_few_registers() {
    story(async |_| {
        let cluster = Cluster::start(&REGIONS).await;
        let watchers = watch_everywhere(&cluster).await;
        let mut edge = Edge::start(&cluster, "edge", &[2]);
        edge.attach("first", "crowd").await;
        agree_on_counts(&cluster, &[&edge]).await;
        let entries_before = cluster.applied(0).await;

        let names: Vec<String> = (0..10_000).map(|number| format!("c{number}")).collect();
        let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "crowd")).collect();
        let start = std::time::Instant::now();
        edge.attach_all(&pairs, Modes::DEFAULT).await;
        agree_on_counts(&cluster, &[&edge]).await;
        let took = start.elapsed();

        // A register per gossip interval at most, and an event per occupancy interval at most; the
        // bounds leave room for slow machines, in time and not in number.
        let intervals =
            |length_ms: u128| usize::try_from(took.as_millis() / length_ms + 2).unwrap();
        let entries = usize::try_from(cluster.applied(0).await - entries_before).unwrap();
        // Each register may be followed by a tick of the pacing.
        assert!(
            entries <= intervals(50) + intervals(300) + 8,
            "{entries} entries in {took:?}"
        );
        wait_until("the last count is told", async || {
            let history = watchers[0].history();
            let told = history.of("crowd");
            let last = told
                .iter()
                .rev()
                .find(|told| told.kind == EventKind::Occupancy);
            let last = last.map_or(0, |told| told.occupancy.get(Category::Connections));
            (last == 10_001)
                .then_some(())
                .ok_or_else(|| last.to_string())
        })
        .await;
        for history in settle(&cluster, &watchers).await {
            let events = history.count("crowd", EventKind::Occupancy);
            assert!(
                events <= intervals(300) + 2,
                "{events} events in {took:?}\n{history}"
            );
        }
        cluster.end().await;
    });
}
