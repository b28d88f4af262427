//! Crashes, torn writes, failing syncs and full disks.

use super::memory::Faults;
use super::*;

/// A disk and what a store on it holds for certain, with one more append written but never synced:
/// everything that was acknowledged, and the frame in doubt.
async fn with_a_frame_in_doubt() -> (MemoryDisk, Dump) {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    live_a_little(&store).await.unwrap();
    let acknowledged = dump(&store);
    disk.set_faults(Faults {
        syncs_left: Some(0),
        ..Faults::default()
    });
    append(&store, 2, 2..4).await.unwrap_err();
    (disk, acknowledged)
}

#[tokio::test]
async fn a_torn_end_is_cut_off_wherever_it_tore() {
    let (disk, acknowledged) = with_a_frame_in_doubt().await;
    let mut in_doubt = 0;
    disk.crash(|path, bytes| {
        in_doubt = if path.starts_with(log::DIR) {
            bytes
        } else {
            in_doubt
        };
        0
    });
    assert!(in_doubt > 60, "only {in_doubt} bytes are in doubt");
    for kept in 0..=in_doubt {
        let left = disk.crash(|path, _| if path.starts_with(log::DIR) { kept } else { 0 });
        let store = start(&left, small());
        let after = dump(&store);
        if kept < in_doubt {
            assert_eq!(after, acknowledged, "{kept} bytes kept");
        } else {
            assert_eq!(
                after.groups[&2].entries,
                records(1..4),
                "it happened to be complete"
            );
        }
        // And it goes on from there, also after another crash.
        store.truncate_after(2, Some(1)).await.unwrap();
        append(&store, 2, 2..3).await.unwrap();
        let again = start(&left.crash(|_, _| 0), small());
        assert_eq!(
            again.entries(2, 0..9, usize::MAX),
            records(1..3),
            "{kept} bytes kept"
        );
    }
}

#[tokio::test]
async fn a_torn_end_may_also_hold_anything() {
    let (disk, acknowledged) = with_a_frame_in_doubt().await;
    let whole = disk.crash(|_, bytes| bytes).files();
    let start_of_doubt = disk.crash(|_, _| 0).files();
    let segment = whole
        .keys()
        .rfind(|path| path.starts_with(log::DIR))
        .unwrap();
    for at in start_of_doubt[segment].len()..whole[segment].len() {
        let mut files = whole.clone();
        files.get_mut(segment).unwrap()[at] ^= 0xff;
        assert_eq!(
            dump(&start(&MemoryDisk::with_files(&files), small())),
            acknowledged
        );
        files.get_mut(segment).unwrap()[at..].fill(0);
        assert_eq!(
            dump(&start(&MemoryDisk::with_files(&files), small())),
            acknowledged
        );
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_whichever_sync_fails() {
    let mut failures = 0;
    for syncs in 0..60 {
        let disk = MemoryDisk::new();
        disk.set_faults(Faults {
            syncs_left: Some(syncs),
            ..Faults::default()
        });
        let Ok(store) = try_start(&disk, small()) else {
            start(&disk.crash(|_, _| 0), small());
            start(&disk.crash(|_, bytes| bytes), small());
            continue;
        };
        let fatal = store.fatal();
        let told = Told::default();
        let mut voted = 0;
        let mut snapshot = None;
        let mut failed = false;
        for step in 1..30 {
            // Each entry of group 1 is awaited by the vote behind it, that of group 2 is not.
            let entry = records(step..step + 1);
            let appended = store.append(1, entry.clone(), told.done(step)).await;
            failed |= appended.is_err();
            failed |= store.append(2, entry, told.done(100 + step)).await.is_err();
            match store.save_vote(1, bytes(format!("{step}"))).await {
                Ok(()) => voted = step,
                Err(_) => failed = true,
            }
            if step % 5 == 0 {
                drop(store.journal().append(1, step, step, bytes("event")));
                let (meta, keep) = (bytes(format!("{step}")), JournalStep::Keep { shard: 1 });
                match store
                    .write_snapshot(1, meta, keep, vec![bytes("state")])
                    .await
                {
                    Ok(()) => snapshot = Some(step),
                    Err(_) => failed = true,
                }
                failed |= store.purge(1, mark(step - 3)).await.is_err();
            }
            assert!(
                !failed || told.get(step).is_some(),
                "step {step} was not told"
            );
        }
        assert_eq!(failed, fatal.borrow().is_some(), "{:?}", fatal.borrow());
        if failed {
            failures += 1;
            let reason = fatal.borrow().clone().unwrap();
            assert!(reason.contains("injected sync error"), "{reason}");
            assert!(matches!(
                append(&store, 3, 1..2).await,
                Err(StoreError::Poisoned { .. })
            ));
            assert!(matches!(
                store.close().await,
                Err(StoreError::Poisoned { .. })
            ));
            let (told_all, sent) = (told.0.lock().unwrap().len(), 58);
            assert_eq!(told_all, sent, "every callback is called");
        }
        let acknowledged = told.durable();
        for kept in [0, 17, usize::MAX] {
            let store = start(&disk.crash(|_, bytes| bytes.min(kept)), small());
            let holds = |group: u64, index: u64| {
                let purged = store.log_range(group).purged.map_or(0, |mark| mark.index);
                index <= purged || store.entries(group, index..index + 1, 9) == [record(index)]
            };
            for number in &acknowledged {
                let (group, index) = if *number > 100 {
                    (2, number - 100)
                } else {
                    (1, *number)
                };
                assert!(
                    holds(group, index),
                    "{syncs} syncs: entry {index} of {group} is lost"
                );
            }
            let vote = store
                .vote(1)
                .map_or(0, |v| std::str::from_utf8(&v).unwrap().parse().unwrap());
            assert!(
                vote >= voted,
                "{syncs} syncs: vote {voted} is lost, {vote} found"
            );
            let found = store.snapshot(1).map(|s| s.meta().clone());
            let found = found.map(|m| std::str::from_utf8(&m).unwrap().parse::<u64>().unwrap());
            assert!(
                found >= snapshot,
                "{syncs} syncs: snapshot {snapshot:?} is lost, {found:?} found"
            );
            if let Some(found) = found {
                let kept = store.journal().read(1, None, 99, 9999).unwrap().items;
                let kept: Vec<u64> = kept.iter().map(|item| item.index).collect();
                let expected: Vec<u64> = (1..=found / 5).map(|n| n * 5).collect();
                assert!(
                    kept.starts_with(&expected),
                    "journal {kept:?} with snapshot {found}"
                );
            }
        }
    }
    assert!(failures > 40, "only {failures} of the runs failed");
}

#[tokio::test]
async fn a_full_disk_stops_the_store_and_loses_nothing() {
    let mut stopped = 0;
    for capacity in (0..6000).step_by(97) {
        let disk = MemoryDisk::new();
        disk.set_faults(Faults {
            capacity: Some(capacity),
            ..Faults::default()
        });
        let Ok(store) = try_start(&disk, small()) else {
            continue;
        };
        let mut acknowledged = 0;
        for index in 1..80 {
            if append(&store, 1, index..index + 1).await.is_err() {
                break;
            }
            acknowledged = index;
        }
        if acknowledged < 79 {
            stopped += 1;
            let fatal = store.fatal().borrow().clone().unwrap();
            assert!(fatal.contains("no storage space"), "{fatal}");
        }
        disk.set_faults(Faults::default());
        for left in [disk.crash(|_, _| 0), disk.crash(|_, bytes| bytes)] {
            let store = start(&left, small());
            let found = store.log_range(1).last.map_or(0, |mark| mark.index);
            assert!(
                found >= acknowledged,
                "{found} of {acknowledged} with {capacity} bytes"
            );
            assert_eq!(store.entries(1, 0..99, usize::MAX), records(1..found + 1));
            append(&store, 1, found + 1..found + 2).await.unwrap();
        }
    }
    assert!(stopped > 20, "only {stopped} of the runs filled the disk");
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_written_stops_the_store() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    let step = JournalStep::None;
    store
        .write_snapshot(1, bytes("old"), step, vec![bytes("old")])
        .await
        .unwrap();
    let used = disk
        .files()
        .values()
        .map(|bytes| bytes.len() as u64)
        .sum::<u64>();
    disk.set_faults(Faults {
        capacity: Some(used + 50),
        ..Faults::default()
    });
    let chunk = Bytes::from(vec![0; 500]);
    let result = store
        .write_snapshot(1, bytes("new"), step, vec![chunk])
        .await;
    assert!(matches!(result, Err(StoreError::Poisoned { .. })));
    assert!(matches!(
        store.save_vote(1, bytes("v")).await,
        Err(StoreError::Poisoned { .. })
    ));
    disk.set_faults(Faults::default());
    let store = start(&disk.crash(|_, bytes| bytes), small());
    assert_eq!(store.snapshot(1).unwrap().chunk(0).unwrap(), bytes("old"));
}

#[tokio::test(start_paused = true)]
async fn the_floor_follows_within_its_interval() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    append(&store, 1, 1..2).await.unwrap();
    let before = disk.files()[floor::FILE].clone();
    // allow-sleep: time is paused, and this is the time that the floor may take
    tokio::time::sleep(StoreConfig::default().floor_interval * 2).await;
    let files = disk.files();
    assert_ne!(files[floor::FILE], before);
    // Now even a machine that loses power knows that the end is not torn.
    let left = disk.crash(|_, _| 0);
    let mut files = left.files();
    let segment = files
        .keys()
        .rfind(|path| path.starts_with(log::DIR))
        .unwrap()
        .clone();
    let last = files[&segment].len() - 1;
    files.get_mut(&segment).unwrap()[last] ^= 1;
    let error = try_start(&MemoryDisk::with_files(&files), small()).unwrap_err();
    assert!(error.to_string().contains("acknowledged"), "{error}");
    drop(store);
}
