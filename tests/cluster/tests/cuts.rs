//! Regions that are cut off, both ways or one way: they go on counting and telling their own, and
//! all is one again afterwards.

use std::time::Duration;

use headcount_cluster::{
    Cluster, Edge, History, REGIONS, Reader, Status, Watcher, agree_on_counts, story, wait_until,
};
use headcount_model::{Category, EventKind, Modes};
use tokio::time::Instant;

use crate::support::{LASTING, settle, settle_on_the_log, watch_everywhere};

/// The region that is cut off, and the others.
const ALONE: usize = 2;
const MOST: [usize; 2] = [0, 1];

/// Channels of a kind: so many that each of the four shards has some, whoever coordinates it.
fn rooms(kind: &str) -> Vec<String> {
    (0..16).map(|number| format!("{kind}:{number}")).collect()
}

async fn attach(edge: &mut Edge, to: &[String]) {
    let pairs: Vec<_> = to.iter().map(|room| ("c1", room.as_str())).collect();
    edge.attach_all(&pairs, Modes::DEFAULT).await;
}

async fn detach(edge: &mut Edge, from: &[String]) {
    let pairs: Vec<_> = from.iter().map(|room| ("c1", room.as_str())).collect();
    edge.detach_all(&pairs).await;
}

/// Starts an edge in each region, all attached to the channels `steady`, which stand from here on.
async fn standing(cluster: &Cluster) -> Vec<Edge> {
    let mut edges: Vec<Edge> = (0..REGIONS.len())
        .map(|node| Edge::start(cluster, &format!("edge-{node}"), &[node]))
        .collect();
    for edge in &mut edges {
        attach(edge, &rooms("steady")).await;
    }
    agree(cluster, &edges).await;
    edges
}

async fn agree(cluster: &Cluster, edges: &[Edge]) {
    agree_on_counts(cluster, &edges.iter().collect::<Vec<_>>()).await;
}

/// Returns how often each kind of transition of a channel was told: opened, closed, active
/// somewhere and inactive somewhere.
fn transitions(history: &History, room: &str) -> [usize; 4] {
    let kinds = [
        EventKind::Opened,
        EventKind::Closed,
        EventKind::RegionActive,
        EventKind::RegionInactive,
    ];
    kinds.map(|kind| history.count(room, kind))
}

/// Checks that something is so for each of some channels in each history.
fn each(histories: &[History], rooms: &[String], wanted: impl Fn(&History, &str) -> bool) {
    for history in histories {
        for room in rooms {
            assert!(wanted(history, room), "{room}:\n{history}");
        }
    }
}

/// Checks that what stood was opened once and became active once in each region, and never ended.
fn stood(histories: &[History]) {
    each(histories, &rooms("steady"), |history, room| {
        transitions(history, room) == [1, 0, REGIONS.len(), 0]
    });
}

/// Waits until all of some watchers were told something of each of some channels.
async fn told(
    watchers: &[Watcher],
    rooms: &[String],
    why: &str,
    wanted: impl Fn(&History, &str) -> bool,
) {
    for watcher in watchers {
        let all = |history: &History| rooms.iter().all(|room| wanted(history, room));
        watcher.wait_for(why, all).await;
    }
}

/// Waits until a node's own answers about some channels are as wanted.
async fn says(
    cluster: &Cluster,
    node: usize,
    rooms: &[String],
    why: &str,
    wanted: impl Fn(&Status) -> bool,
) {
    let reader = Reader::new(cluster, node);
    for room in rooms {
        wait_until(&format!("node {node} says that {why}"), async || {
            let status = reader.status(room).await?;
            wanted(&status)
                .then_some(())
                .ok_or_else(|| format!("{room}: {status:?}"))
        })
        .await;
    }
}

/// Waits until the region that is cut off hears nobody: a cut takes a moment.
async fn hears_nobody(cluster: &Cluster) {
    let long = Duration::from_millis(500);
    let why = "nobody is heard";
    says(cluster, ALONE, &rooms("steady"), why, |status| {
        status.freshness.age > long
    })
    .await;
}

fn connections(status: &Status) -> u32 {
    status.occupancy.get(Category::Connections)
}

#[test]
fn a_region_that_is_cut_off_goes_on_for_its_own_and_says_how_old_the_rest_is() {
    story(async |_| {
        let cluster = Cluster::start_with(&REGIONS, &LASTING).await;
        let watchers = watch_everywhere(&cluster).await;
        let (most, alone) = watchers.split_at(2 * MOST.len());
        let mut edges = standing(&cluster).await;
        let (brief, kept, elsewhere) = (rooms("brief"), rooms("kept"), rooms("elsewhere"));

        // The others go on.
        cluster.isolate(ALONE);
        let cut = Instant::now();
        hears_nobody(&cluster).await;
        attach(&mut edges[0], &elsewhere).await;
        told(most, &elsewhere, "the majority goes on", |history, room| {
            history.is_open(room)
        })
        .await;

        // It counts and tells its own, too. Nobody coordinates it, so nothing is opened or closed.
        let [active, inactive] = ["active", "inactive"]
            .map(|state| format!("channel.region.{state} {}", REGIONS[ALONE]));
        attach(&mut edges[ALONE], &brief).await;
        told(
            alone,
            &brief,
            "the region tells its own",
            |history, room| history.story(room) == [active.as_str()],
        )
        .await;
        attach(&mut edges[ALONE], &kept).await;
        detach(&mut edges[ALONE], &brief).await;
        told(alone, &brief, "and what ends", |history, room| {
            history.story(room) == [active.as_str(), inactive.as_str()]
        })
        .await;
        told(alone, &kept, "and what stays", |history, room| {
            history.story(room) == [active.as_str()]
        })
        .await;

        // It answers from memory, and says how old that is: by all that passes.
        let reader = Reader::new(&cluster, ALONE);
        let ages = async || {
            let mut ages = Vec::new();
            for room in rooms("steady") {
                let status = reader.status(&room).await?;
                assert!(status.active && connections(&status) == 3, "{status:?}");
                ages.push(status.freshness.age);
            }
            Ok::<_, String>(ages)
        };
        let before = ages().await.expect("it answers");
        let answered = Instant::now();
        let (passed, after) = wait_until("the answers grow old", async || {
            // Answers come after this, so they are older yet.
            let passed = answered.elapsed();
            let ages = ages().await?;
            if passed > Duration::from_secs(2) {
                Ok((passed, ages))
            } else {
                Err(format!("{ages:?}"))
            }
        })
        .await;
        // Ages are told in milliseconds.
        let least = passed - Duration::from_millis(2);
        for (before, after) in before.into_iter().zip(after) {
            assert!(
                after >= before + least,
                "{before:?}, then {after:?} after {passed:?}"
            );
            assert!(
                after <= cut.elapsed() + Duration::from_secs(2),
                "{after:?} is too old"
            );
        }
        let strong = reader.get("/channels/steady:0?consistency=strong").await;
        let strong = strong.expect("it answers");
        assert_eq!(
            (strong.status, strong.error_code()),
            (503, 50003),
            "{strong:?}"
        );
        says(&cluster, ALONE, &elsewhere, "nobody told it", |status| {
            !status.active
        })
        .await;
        for node in MOST {
            let reader = Reader::new(&cluster, node);
            for room in brief.iter().chain(&kept) {
                let status = reader.status(room).await.expect("it answers");
                assert!(!status.active, "{room} at node {node}: {status:?}");
            }
        }
        let histories: Vec<_> = most.iter().map(Watcher::history).collect();
        each(&histories, &brief, |history, room| {
            history.of(room).is_empty()
        });
        each(&histories, &kept, |history, room| {
            history.of(room).is_empty()
        });

        // Together again, each knows all of the other: what is there, and what came and went.
        cluster.cut(ALONE, None);
        agree(&cluster, &edges).await;
        told(
            &watchers,
            &brief,
            "what was brief is over",
            |history, room| transitions(history, room) == [1, 1, 1, 1],
        )
        .await;
        let histories = settle(&cluster, &watchers).await;
        each(&histories, &kept, |history, room| {
            transitions(history, room) == [1, 0, 1, 0]
        });
        each(&histories, &elsewhere, |history, room| {
            transitions(history, room) == [1, 0, 1, 0]
        });
        stood(&histories);
        cluster.end().await;
    });
}

/// Cuts the last region off as `cut` does until its lease has run out, and heals that once
/// `meanwhile` is over.
async fn is_expired_and_comes_back(
    cut: impl FnOnce(&Cluster),
    meanwhile: impl AsyncFnOnce(&Cluster, &Watcher),
) {
    let cluster = Cluster::start(&REGIONS).await;
    let near = Watcher::grpc(&cluster, &[ALONE], "").await;
    let far = Watcher::grpc(&cluster, &[0], "").await;
    let (mut here, mut there) = (
        Edge::start(&cluster, "here", &[0]),
        Edge::start(&cluster, "there", &[ALONE]),
    );
    let (alone, both, late) = (rooms("alone"), rooms("both"), rooms("late"));
    attach(&mut there, &alone).await;
    attach(&mut there, &both).await;
    attach(&mut here, &both).await;
    agree_on_counts(&cluster, &[&here, &there]).await;

    // The lease of 2 s runs out, and the others take away what the region had.
    cut(&cluster);
    let watchers = [far, near];
    told(
        &watchers[..1],
        &alone,
        "the region is expired",
        |history, room| !history.is_open(room),
    )
    .await;
    told(
        &watchers[..1],
        &both,
        "the region is expired",
        |history, room| history.is_open(room) && !history.is_active(room, REGIONS[ALONE]),
    )
    .await;
    says(&cluster, 0, &alone, "it is gone", |status| !status.active).await;
    says(&cluster, 0, &both, "one is left", |status| {
        connections(status) == 1
    })
    .await;

    // It takes what it is told all the same.
    attach(&mut there, &late).await;
    meanwhile(&cluster, &watchers[1]).await;

    // It is back, with all that it has by now.
    cluster.cut(ALONE, None);
    agree_on_counts(&cluster, &[&here, &there]).await;
    let histories = settle_on_the_log(&cluster, &watchers).await;
    let global = |history: &History, room: &str| {
        let [opened, closed, ..] = transitions(history, room);
        [opened, closed]
    };
    each(&histories, &alone, |history, room| {
        global(history, room) == [2, 1]
    });
    each(&histories, &both, |history, room| {
        global(history, room) == [1, 0]
    });
    each(&histories, &late, |history, room| {
        global(history, room) == [1, 0]
    });
    cluster.end().await;
}

#[test]
fn a_region_whose_lease_ends_while_it_is_cut_off_is_expired_and_comes_back() {
    story(async |_| {
        let cut = |cluster: &Cluster| cluster.isolate(ALONE);
        is_expired_and_comes_back(cut, async |cluster, near| {
            // It does not hear of its end, and tells what is its own as before.
            let late = rooms("late");
            let why = "the region tells its own";
            told(std::slice::from_ref(near), &late, why, |history, room| {
                history.is_active(room, REGIONS[ALONE])
            })
            .await;
            let alone = rooms("alone");
            each(&[near.history()], &alone, |history, room| {
                history.is_open(room) && history.is_active(room, REGIONS[ALONE])
            });
            says(cluster, ALONE, &alone, "it is as it was", |status| {
                status.active
            })
            .await;
        })
        .await;
    });
}

#[test]
fn a_region_whose_lease_ends_while_nobody_hears_it_is_expired_and_comes_back() {
    story(async |_| {
        let cut = |cluster: &Cluster| cluster.cut_one_way(ALONE, &MOST);
        is_expired_and_comes_back(cut, async |_, _| {}).await;
    });
}

#[test]
fn what_two_nodes_tell_each_other_one_way_only_is_counted_by_the_ways_that_are_left() {
    story(async |_| {
        // Leases are renewed with the leader of the control group, so nobody is declared dead.
        let cluster = Cluster::start(&REGIONS).await;
        let watchers = watch_everywhere(&cluster).await;
        let mut edges = standing(&cluster).await;
        let third = cluster.control_leader().await;
        let (here, there) = ((third + 1) % 3, (third + 2) % 3);
        let mut led = Vec::new();
        for room in rooms("steady") {
            if cluster.coordinator_of(&room).await == there {
                led.push(room);
            }
        }
        assert!(!led.is_empty(), "some shard is coordinated there");

        // What an owner tells the coordinator does not arrive, and then nothing that the coordinator
        // tells the owner. Whoever hears the coordinator knows what is attached all the same.
        for (from, to, knowing) in [
            (here, there, vec![here, there, third]),
            (there, here, vec![there, third]),
        ] {
            cluster.cut_one_way(from, &[to]);
            for (more, connection) in (1..).zip(["c2", "c3", "c4"]) {
                let pairs: Vec<_> = led.iter().map(|room| (connection, room.as_str())).collect();
                edges[here].attach_all(&pairs, Modes::DEFAULT).await;
                for node in &knowing {
                    let why = format!("{connection} is attached");
                    says(&cluster, *node, &led, &why, |status| {
                        connections(status) == 3 + more
                    })
                    .await;
                }
            }
            cluster.cut(from, None);
            agree(&cluster, &edges).await;
            for connection in ["c2", "c3", "c4"] {
                let pairs: Vec<_> = led.iter().map(|room| (connection, room.as_str())).collect();
                edges[here].detach_all(&pairs).await;
            }
            agree(&cluster, &edges).await;
        }
        stood(&settle(&cluster, &watchers).await);
        cluster.end().await;
    });
}

#[test]
fn a_region_that_nobody_hears_tells_its_own_and_how_old_the_rest_is() {
    story(async |_| {
        let cluster = Cluster::start_with(&REGIONS, &LASTING).await;
        let watchers = watch_everywhere(&cluster).await;
        let (most, alone) = watchers.split_at(2 * MOST.len());
        let mut edges = standing(&cluster).await;
        let (unheard, elsewhere) = (rooms("unheard"), rooms("elsewhere"));

        cluster.cut_one_way(ALONE, &MOST);
        attach(&mut edges[0], &elsewhere).await;
        let attached = Instant::now();
        told(most, &elsewhere, "the majority goes on", |history, room| {
            history.is_open(room)
        })
        .await;
        attach(&mut edges[ALONE], &unheard).await;
        told(
            alone,
            &unheard,
            "the region tells its own",
            |history, room| history.is_active(room, REGIONS[ALONE]),
        )
        .await;

        // It hears of the others where a coordinator need not hear that it did. The rest it does
        // not know, and never says otherwise.
        for room in &elsewhere {
            let reader = Reader::new(&cluster, ALONE);
            wait_until("it knows, or says since when it does not", async || {
                let since = attached.elapsed();
                let status = reader.status(room).await?;
                let (age, long) = (status.freshness.age, Duration::from_secs(3));
                let settled = status.active || age >= since && since > long;
                settled
                    .then_some(())
                    .ok_or_else(|| format!("{room} after {since:?}: {status:?}"))
            })
            .await;
        }
        let histories: Vec<_> = most.iter().map(Watcher::history).collect();
        each(&histories, &unheard, |history, room| {
            history.of(room).is_empty()
        });

        cluster.cut(ALONE, None);
        agree(&cluster, &edges).await;
        let histories = settle(&cluster, &watchers).await;
        each(&histories, &unheard, |history, room| {
            transitions(history, room) == [1, 0, 1, 0]
        });
        each(&histories, &elsewhere, |history, room| {
            transitions(history, room) == [1, 0, 1, 0]
        });
        stood(&histories);
        cluster.end().await;
    });
}

#[test]
fn a_region_that_hears_nobody_is_heard_and_coordinates_nothing() {
    story(async |_| {
        let cluster = Cluster::start_with(&REGIONS, &LASTING).await;
        let watchers = watch_everywhere(&cluster).await;
        let (most, alone) = watchers.split_at(2 * MOST.len());
        let mut edges = standing(&cluster).await;
        let (heard, elsewhere) = (rooms("heard"), rooms("elsewhere"));

        for node in MOST {
            cluster.cut_one_way(node, &[ALONE]);
        }
        let cut = Instant::now();
        hears_nobody(&cluster).await;
        attach(&mut edges[ALONE], &heard).await;
        attach(&mut edges[0], &elsewhere).await;
        told(
            alone,
            &heard,
            "the region tells its own",
            |history, room| history.is_active(room, REGIONS[ALONE]),
        )
        .await;
        // Whatever it coordinated is coordinated by another, though its word is still heard there.
        for rooms in [&heard, &elsewhere] {
            told(
                most,
                rooms,
                "the majority hears it, and goes on",
                |history, room| history.is_open(room),
            )
            .await;
            for node in MOST {
                says(&cluster, node, rooms, "it is counted", |status| {
                    connections(status) == 1 && status.coordinator != REGIONS[ALONE]
                })
                .await;
            }
        }
        says(
            &cluster,
            ALONE,
            &elsewhere,
            "it does not know that",
            |status| {
                assert!(!status.active, "{status:?}");
                status.freshness.age + Duration::from_secs(1) > cut.elapsed()
            },
        )
        .await;

        for node in MOST {
            cluster.cut(node, None);
        }
        agree(&cluster, &edges).await;
        let histories = settle(&cluster, &watchers).await;
        each(&histories, &heard, |history, room| {
            transitions(history, room) == [1, 0, 1, 0]
        });
        each(&histories, &elsewhere, |history, room| {
            transitions(history, room) == [1, 0, 1, 0]
        });
        stood(&histories);
        cluster.end().await;
    });
}
