//! Crashes, torn writes, failing syncs and writes, and full disks.

use std::collections::BTreeSet;

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

/// What a store said of everything that it was asked to write until it was closed.
#[derive(Default)]
struct Life {
    told: Told,
    voted: u64,
    snapshot: Option<u64>,
    /// Why it failed, if it did.
    failure: Option<Arc<str>>,
}

impl Life {
    const STEPS: u64 = 29;

    /// Writes whatever a store can write, over and over, and closes it.
    async fn of(store: &Store) -> Self {
        let mut life = Self::default();
        let (told, journal) = (&life.told, store.journal());
        let mut failed = false;
        for step in 1..=Self::STEPS {
            // Each entry of group 1 is awaited by the vote behind it, those of group 2 are not.
            let appended = store.append(1, vec![record(step)], told.done(step)).await;
            failed |= appended.is_err();
            let two = records(2 * step - 1..2 * step + 1);
            failed |= store.append(2, two, told.done(100 + step)).await.is_err();
            match store.save_vote(1, bytes(format!("{step}"))).await {
                Ok(()) => {
                    assert!(!failed, "vote {step} was acknowledged after a failure");
                    life.voted = step;
                }
                Err(_) => failed = true,
            }
            failed |= journal.append(2, step, step, event(step)).is_err();
            if step % 5 == 0 {
                failed |= journal.append(1, step, step, bytes("event")).is_err();
                let (meta, keep) = (bytes(format!("{step}")), JournalStep::Keep { shard: 1 });
                match store
                    .write_snapshot(1, meta, keep, vec![bytes("state")])
                    .await
                {
                    Ok(()) => life.snapshot = Some(step),
                    Err(_) => failed = true,
                }
                failed |= store.purge(1, mark(step - 3)).await.is_err();
            }
            assert!(
                !failed || told.get(step).is_some(),
                "step {step} was not told"
            );
        }
        failed |= store.close().await.is_err();
        life.failure = store.fatal().borrow().clone();
        assert_eq!(failed, life.failure.is_some(), "{:?}", life.failure);
        let told_all = life.told.0.lock().unwrap().len() as u64;
        assert_eq!(told_all, 2 * Self::STEPS, "every callback is called");
        life
    }

    /// Checks that what was acknowledged is there, and that nothing is there in part.
    fn check(&self, store: &Store, case: &str) {
        let acknowledged = self.told.durable();
        let (ones, twos): (Vec<_>, Vec<_>) = acknowledged.iter().partition(|n| **n < 100);
        let ones = ones.last().copied().unwrap_or(0);
        let twos = twos.last().map_or(0, |number| 2 * (number - 100));
        for (group, least) in [(1, ones), (2, twos)] {
            let range = store.log_range(group);
            let index = |mark: Option<Mark>| mark.map_or(0, |mark| mark.index);
            let (purged, last) = (index(range.purged), index(range.last));
            assert!(
                last >= least,
                "{case}: entry {least} of {group} is lost, {last} is the last"
            );
            let entries = store.entries(group, 0..u64::MAX, usize::MAX);
            assert_eq!(entries, records(purged + 1..last + 1), "{case}");
            assert!(group == 1 || last % 2 == 0, "{case}: half of an append");
        }
        let number = |bytes: &Bytes| std::str::from_utf8(bytes).unwrap().parse::<u64>().unwrap();
        let (vote, voted) = (store.vote(1).map_or(0, |vote| number(&vote)), self.voted);
        assert!(vote >= voted, "{case}: vote {voted} is lost, {vote} found");
        let found = store.snapshot(1);
        let at = found.as_ref().map(|found| number(found.meta()));
        assert!(
            at >= self.snapshot,
            "{case}: snapshot {:?} is lost, {at:?} found",
            self.snapshot
        );
        let journal = |shard| store.journal().read(shard, None, 99, 9999).unwrap().items;
        if let (Some(found), Some(at)) = (found, at) {
            assert_eq!(found.chunk(0).unwrap(), bytes("state"), "{case}");
            let kept: Vec<u64> = journal(1).iter().map(|item| item.index).collect();
            let expected: Vec<u64> = (1..=at / 5).map(|n| n * 5).collect();
            assert!(
                kept.starts_with(&expected),
                "{case}: journal {kept:?} with snapshot {at}"
            );
        }
        for (item, index) in journal(2).into_iter().zip(1..) {
            assert_eq!((item.index, item.payload), (index, event(index)), "{case}");
        }
    }
}

/// What an entry has in a journal: enough to be written at once.
fn event(index: u64) -> Bytes {
    bytes(format!("{index:080}"))
}

/// Lives on a disk that fails, and looks at what is left after a loss of power and where only the
/// process ended. Returns why the store failed, if it did.
async fn fails_with(faults: Faults) -> Option<String> {
    let disk = MemoryDisk::new();
    disk.set_faults(faults);
    let (life, failure) = match try_start(&disk, small()) {
        Ok(store) => {
            let life = Life::of(&store).await;
            let failure = life.failure.as_ref().map(ToString::to_string);
            if failure.is_some() {
                assert!(matches!(
                    append(&store, 3, 1..2).await,
                    Err(StoreError::Poisoned { .. })
                ));
            }
            (life, failure)
        }
        Err(error) => (Life::default(), Some(error.to_string())),
    };
    disk.set_faults(Faults::default());
    let crashed = |kept: usize| disk.crash(|_, bytes| bytes.min(kept));
    for left in [crashed(0), crashed(17), crashed(usize::MAX), disk.clone()] {
        let case = format!("{faults:?}");
        let store = start(&left, small());
        life.check(&store, &case);
        // And it goes on from there, also after another crash.
        append(&store, 3, 1..2).await.unwrap();
        let store = start(&left.crash(|_, _| 0), small());
        life.check(&store, &case);
        assert_eq!(store.entries(3, 0..9, usize::MAX), records(1..2), "{case}");
    }
    failure
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_whichever_sync_fails() {
    let mut failures = 0;
    for syncs in 0..60 {
        let faults = Faults {
            syncs_left: Some(syncs),
            ..Faults::default()
        };
        if let Some(reason) = fails_with(faults).await {
            failures += 1;
            assert!(reason.contains("injected sync error"), "{reason}");
        }
    }
    assert!(failures > 40, "only {failures} of the runs failed");
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_whichever_write_fails() {
    let mut failures = 0;
    let mut failed = BTreeSet::new();
    loop {
        let faults = Faults {
            writes_left: Some(failures),
            ..Faults::default()
        };
        // Until a run has fewer writes.
        let Some(reason) = fails_with(faults).await else {
            break;
        };
        failures += 1;
        let what = reason.strip_suffix(": Input/output error (os error 5)");
        failed.insert(what.expect(&reason).to_owned());
    }
    assert!(failures > 100, "only {failures} of the runs failed");
    let all = [
        "cannot create log/000000000001.log",
        "cannot write a journal",
        "cannot write a snapshot",
        "cannot write floor",
        "cannot write the log",
    ];
    assert_eq!(failed.into_iter().collect::<Vec<_>>(), all);
}

#[tokio::test]
async fn a_write_that_fails_while_the_store_is_opened_is_named_and_loses_nothing() {
    let (disk, acknowledged) = with_a_frame_in_doubt().await;
    let mut named = Vec::new();
    loop {
        let left = disk.crash(|_, bytes| bytes / 2);
        left.set_faults(Faults {
            writes_left: Some(named.len() as u64),
            ..Faults::default()
        });
        let Err(error) = try_start(&left, small()) else {
            break;
        };
        let OpenError::Io { action, file, .. } = &error else {
            panic!("{error}")
        };
        named.push(format!("{action} {}", file.display()));
        for left in [left.crash(|_, _| 0), left.crash(|_, bytes| bytes), left] {
            assert_eq!(dump(&start(&left, small())), acknowledged, "{error}");
        }
    }
    let mut paths = disk.files().into_keys();
    let newest = paths.rfind(|path| path.starts_with(log::DIR)).unwrap();
    assert_eq!(named, [format!("write {newest}"), "write floor".to_owned()]);
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
async fn a_file_system_that_turns_read_only_stops_the_store_and_loses_nothing() {
    for acknowledged in 1..40 {
        let disk = MemoryDisk::new();
        let store = start(&disk, small());
        append(&store, 1, 1..acknowledged + 1).await.unwrap();
        let read_only = Faults {
            read_only: true,
            ..Faults::default()
        };
        disk.set_faults(read_only);
        let next = acknowledged + 1..acknowledged + 2;
        assert!(append(&store, 1, next.clone()).await.is_err());
        let fatal = store.fatal().borrow().clone().unwrap();
        assert!(fatal.contains("read-only"), "{fatal}");

        // Nothing can be started there before it is mended, either.
        let left = disk.crash(|_, _| 0);
        left.set_faults(read_only);
        let refused = try_start(&left, small())
            .err()
            .map(|error| error.to_string());
        assert!(refused.is_some_and(|why| why.contains("read-only")));
        left.set_faults(Faults::default());
        let store = start(&left, small());
        assert_eq!(
            store.entries(1, 0..99, usize::MAX),
            records(1..acknowledged + 1)
        );
        append(&store, 1, next).await.unwrap();
    }
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
