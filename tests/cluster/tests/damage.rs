//! Data that is not what was written: the node refuses to start and says where, unless it is what a
//! write may leave that never was acknowledged.

use std::fs;
use std::path::{Path, PathBuf};

use headcount_cluster::{Churn, Cluster, Edge, History, Reader, Watcher, agree_on_counts, story};
use headcount_model::EventKind;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::{LASTING, churn, seed, settle};

/// All files below a directory that hold something.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    for path in entries {
        if path.is_dir() {
            found.extend(files(&path));
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn a_flipped_byte_or_a_lost_file_keeps_the_node_from_starting() {
    story(async |_| {
        let seed = seed();
        let mut rng = StdRng::seed_from_u64(seed);
        let settings = [
            "consensus.snapshot_entries=100",
            "consensus.snapshot_entries_kept=50",
            "region.linger=20ms",
        ];
        let mut cluster = Cluster::start_with(&["us-east-1"], &settings).await;
        let mut churns = {
            let edge = Edge::start(&cluster, "churn", &[0]);
            vec![(Churn::new(seed, "churn:", 3), edge)]
        };
        churn(&mut churns, 200).await;
        agree_on_counts(&cluster, &[&churns[0].1]).await;
        cluster.stop(0).await;

        // Bytes of every file, the first and last ones among them.
        let all = files(cluster.data_dir(0));
        let mut flips = 0;
        for file in &all {
            let whole = fs::read(file).unwrap();
            let mut places = vec![0, whole.len() - 1];
            places.extend((0..4).map(|_| rng.random_range(0..whole.len())));
            for place in places {
                let mut damaged = whole.clone();
                damaged[place] ^= 1 << rng.random_range(0..8);
                fs::write(file, &damaged).unwrap();
                let name = file
                    .strip_prefix(cluster.data_dir(0))
                    .unwrap()
                    .display()
                    .to_string();
                let reason = cluster
                    .refuses_to_start(0, &format!("{name} at {place}"))
                    .await;
                let says = reason.contains(&name);
                assert!(
                    says,
                    "byte {place} of {name} was flipped, which is told as: {reason}"
                );
                flips += 1;
            }
            fs::write(file, &whole).unwrap();

            // Its directory entry is lost.
            let aside = cluster.data_dir(0).with_extension("aside");
            fs::rename(file, &aside).unwrap();
            let name = file.strip_prefix(cluster.data_dir(0)).unwrap();
            let name = name.display().to_string();
            let reason = cluster.refuses_to_start(0, &format!("no {name}")).await;
            assert!(reason.contains(&name), "{name} is lost, told as: {reason}");
            fs::rename(&aside, file).unwrap();
        }
        eprintln!("{flips} flips in {} files: {all:?}", all.len());
        assert!(all.len() >= 4, "{all:?}");

        // With every byte as it was, everything is there.
        cluster.restart(0).await;
        cluster.wait_grown().await;
        agree_on_counts(&cluster, &[&churns[0].1]).await;
        assert!(Reader::new(&cluster, 0).strong("churn:0").await.is_ok());
        cluster.end().await;
    });
}

/// The newest segment of a node's log.
fn newest_segment(cluster: &Cluster, node: usize) -> PathBuf {
    let segments = files(&cluster.data_dir(node).join("log"));
    segments.last().expect("there is a log").clone()
}

#[test]
fn a_torn_tail_of_the_newest_segment_is_cut_off_and_nothing_acknowledged_with_it() {
    story(async |logs| {
        let mut rng = StdRng::seed_from_u64(seed());
        let mut cluster = Cluster::start_apart(&["us-east-1"], &LASTING, &logs).await;
        let watcher = Watcher::grpc(&cluster, &[0], "").await;
        let mut edge = Edge::start(&cluster, "edge", &[0]);
        let noise = |rng: &mut StdRng, length: usize| -> Vec<u8> {
            (0..length).map(|_| rng.random_range(0..=u8::MAX)).collect()
        };
        for round in 0..6_usize {
            let channel = format!("round:{round}");
            edge.attach("c1", &channel).await;
            let opened = |history: &History| history.is_open(&channel);
            watcher.wait_for("what comes next is told", opened).await;
            // Whatever is applied was committed, by the only voter's sync.
            let applied = cluster.applied(0).await;
            cluster.kill(0).await;

            // What a write leaves that the power ended: noise, room, what was there before.
            let segment = newest_segment(&cluster, 0);
            let whole = fs::read(&segment).unwrap();
            let torn = match round {
                0 => noise(&mut rng, 1),
                1 => noise(&mut rng, 5_000),
                2 => vec![0; 4_096],
                _ => {
                    let stale = if round == 3 {
                        &whole[whole.len().saturating_sub(300)..]
                    } else {
                        let from = rng.random_range(0..whole.len());
                        let length = rng.random_range(1..=whole.len() - from);
                        &whole[from..from + length]
                    };
                    let mut stale = stale.to_vec();
                    // A whole frame, out of sequence, would be no torn one but damage.
                    stale[0] = !stale[0];
                    stale
                }
            };
            fs::write(&segment, [whole, torn].concat()).unwrap();
            cluster.restart(0).await;
            cluster.wait_grown().await;
            let after = cluster.applied(0).await;
            assert!(after >= applied, "{applied} were applied, now {after}");
            agree_on_counts(&cluster, &[&edge]).await;
        }
        for history in settle(&cluster, &[watcher]).await {
            for round in 0..6 {
                let channel = format!("round:{round}");
                let gone = [EventKind::Closed, EventKind::RegionInactive];
                let gone: usize = gone.iter().map(|kind| history.count(&channel, *kind)).sum();
                let told = (history.count(&channel, EventKind::Opened), gone);
                assert_eq!(told, (1, 0), "{history}");
            }
        }
        cluster.end().await;
    });
}
