//! Data that is not what was written: the node refuses to start and says where.

use std::fs;
use std::path::{Path, PathBuf};

use headcount_cluster::{Churn, Cluster, Edge, Reader, agree_on_counts, story};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::{churn, seed};

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
