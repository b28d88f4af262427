//! What each operation does, before and after a restart.

use super::*;

#[tokio::test]
async fn everything_comes_back_after_a_restart() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    live_a_little(&store).await.unwrap();
    let before = dump(&store);
    store.close().await.unwrap();

    let store = start(&disk, small());
    assert_eq!(dump(&store), before);
    assert_eq!(store.groups(), [1, 2]);
    assert_eq!(
        store.log_range(1),
        LogRange {
            purged: Some(mark(3)),
            last: Some(mark(5))
        }
    );
    assert_eq!(
        store.log_range(2),
        LogRange {
            purged: None,
            last: Some(mark(1))
        }
    );
    assert_eq!(store.vote(1), Some(bytes("vote of 1")));
    assert_eq!(store.committed(1), Some(bytes("committed of 1")));
    assert_eq!(store.meta("node"), Some(bytes("n-1")));
    assert!(store.is_dropped(3));
    let snapshot = store.snapshot(1).unwrap();
    assert_eq!((snapshot.chunks(), snapshot.bytes()), (3, 14));
    assert_eq!(snapshot.chunk(1).unwrap(), bytes(""));
    assert_eq!(snapshot.chunk(2).unwrap(), bytes("chunk 2"));
}

#[tokio::test]
async fn entries_are_readable_before_they_are_durable() {
    let disk = MemoryDisk::new();
    let (store, driver) = Store::open_on(Arc::new(disk.clone()), small()).unwrap();
    let told = Told::default();
    store.append(1, records(1..4), told.done(0)).await.unwrap();
    assert_eq!(store.entries(1, 2..9, usize::MAX), records(2..4));
    assert_eq!(told.get(0), None);
    drop(tokio::spawn(driver.run()));
    append(&store, 1, 4..5).await.unwrap();
    assert_eq!(told.get(0), Some(Ok(())));
}

#[tokio::test]
async fn reads_keep_to_range_and_size() {
    let store = start(&MemoryDisk::new(), small());
    append(&store, 1, 5..10).await.unwrap();
    let size = record(5).payload.len();
    assert_eq!(store.entries(1, 0..7, usize::MAX), records(5..7));
    assert_eq!(store.entries(1, 6..100, 2 * size), records(6..8));
    assert_eq!(store.entries(1, 6..100, 0), records(6..7), "at least one");
    assert_eq!(store.entries(1, 10..100, usize::MAX), []);
    assert_eq!(store.entries(9, 0..100, usize::MAX), []);
}

#[tokio::test]
async fn a_log_has_no_holes() {
    let store = start(&MemoryDisk::new(), small());
    append(&store, 1, 1..3).await.unwrap();
    for wrong in [2, 4] {
        let told = Told::default();
        let error = store
            .append(1, records(wrong..wrong + 1), told.done(0))
            .await
            .unwrap_err();
        let expected = StoreError::NotContiguous {
            group: 1,
            expected: 3,
            found: wrong,
        };
        assert_eq!(error.to_string(), expected.to_string());
        assert_eq!(told.get(0), Some(Err(expected.to_string())));
    }
    let gap = vec![record(3), record(5)];
    assert!(store.append(1, gap, Told::default().done(0)).await.is_err());
    assert_eq!(
        store.log_range(1).last,
        Some(mark(2)),
        "nothing of a refused append stays"
    );
    store.purge(1, mark(9)).await.unwrap();
    assert!(append(&store, 1, 9..10).await.is_err());
    append(&store, 1, 10..11).await.unwrap();
}

#[tokio::test]
async fn a_log_is_cut_at_both_ends() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    append(&store, 1, 1..8).await.unwrap();
    store.truncate_after(1, Some(5)).await.unwrap();
    append(&store, 1, 6..7).await.unwrap();
    store.purge(1, mark(2)).await.unwrap();
    store.purge(1, mark(1)).await.unwrap();
    append(&store, 2, 1..3).await.unwrap();
    store.truncate_after(2, None).await.unwrap();
    append(&store, 3, 1..3).await.unwrap();
    store.purge(3, mark(8)).await.unwrap();
    store.save_vote(3, bytes("v")).await.unwrap();
    let before = dump(&store);
    assert_eq!(before.groups[&1].entries, records(3..7));
    assert_eq!(before.groups[&1].range.purged, Some(mark(2)));
    assert_eq!(store.log_range(2), LogRange::default());
    assert!(!before.groups.contains_key(&2), "there is nothing of it");
    assert_eq!(
        before.groups[&3].range,
        LogRange {
            purged: Some(mark(8)),
            last: Some(mark(8))
        }
    );
    store.close().await.unwrap();
    assert_eq!(dump(&start(&disk, small())), before);
}

#[tokio::test]
async fn a_dropped_group_is_gone_for_ever() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    append(&store, 4, 1..3).await.unwrap();
    store.save_committed(4, bytes("c")).unwrap();
    store
        .write_snapshot(4, bytes("s"), JournalStep::None, vec![])
        .await
        .unwrap();
    store.drop_group(4).await.unwrap();
    store.drop_group(5).await.unwrap();
    store.close().await.unwrap();

    let store = start(&disk, small());
    assert!(store.groups().is_empty());
    assert!(store.is_dropped(4) && store.is_dropped(5) && !store.is_dropped(6));
    for error in [
        append(&store, 4, 1..2).await.unwrap_err(),
        store.save_vote(4, bytes("v")).await.unwrap_err(),
        store.save_committed(4, bytes("c")).unwrap_err(),
        store.purge(4, mark(1)).await.unwrap_err(),
        store.truncate_after(4, None).await.unwrap_err(),
        store
            .begin_snapshot(4, bytes("s"), JournalStep::None)
            .unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Dropped { group: 4 }), "{error}");
    }
    assert!(
        !disk
            .files()
            .keys()
            .any(|path| path.starts_with(snapshot::DIR))
    );
}

#[tokio::test]
async fn a_snapshot_does_not_bring_a_dropped_group_back() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    append(&store, 4, 1..3).await.unwrap();
    let mut writer = store
        .begin_snapshot(4, bytes("s"), JournalStep::None)
        .unwrap();
    writer.write(bytes("chunk")).await.unwrap();
    store.drop_group(4).await.unwrap();
    let error = writer.finish().await.unwrap_err();
    assert!(matches!(error, StoreError::Dropped { group: 4 }), "{error}");
    append(&store, 5, 1..3).await.unwrap();
    store.close().await.unwrap();
    let store = start(&disk, small());
    assert_eq!(store.groups(), [5]);
    assert!(
        !disk
            .files()
            .keys()
            .any(|path| path.starts_with(snapshot::DIR))
    );
}

#[tokio::test]
async fn facts_are_set_and_removed() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    store.put_meta("a", bytes("1")).await.unwrap();
    store.put_meta("a", bytes("2")).await.unwrap();
    store.put_meta("b", bytes("")).await.unwrap();
    store.put_meta("c", bytes("3")).await.unwrap();
    store.delete_meta("c").await.unwrap();
    store.close().await.unwrap();
    let store = start(&disk, small());
    assert_eq!(store.meta("a"), Some(bytes("2")));
    assert_eq!(store.meta("b"), Some(bytes("")));
    assert_eq!(store.meta("c"), None);
}

#[tokio::test]
async fn a_snapshot_replaces_the_former_one_as_a_whole() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    let step = JournalStep::None;
    store
        .write_snapshot(1, bytes("old"), step, vec![bytes("old chunk")])
        .await
        .unwrap();
    let old = store.snapshot(1).unwrap();

    let mut writer = store.begin_snapshot(1, bytes("new"), step).unwrap();
    writer.write(bytes("new chunk")).await.unwrap();
    assert_eq!(store.snapshot(1).unwrap().meta(), &bytes("old"));
    writer.finish().await.unwrap();
    assert_eq!(store.snapshot(1).unwrap().meta(), &bytes("new"));
    assert_eq!(
        old.chunk(0).unwrap(),
        bytes("old chunk"),
        "still readable by who holds it"
    );

    let mut given_up = store.begin_snapshot(1, bytes("newer"), step).unwrap();
    given_up.write(bytes("x")).await.unwrap();
    drop(given_up);
    store.close().await.unwrap();
    let snapshots = disk
        .files()
        .into_keys()
        .filter(|path| path.starts_with(snapshot::DIR));
    assert_eq!(
        snapshots.count(),
        1,
        "neither the old nor the unfinished file is left"
    );
    let store = start(&disk, small());
    assert_eq!(
        store.snapshot(1).unwrap().chunk(0).unwrap(),
        bytes("new chunk")
    );
}

#[tokio::test]
async fn many_groups_share_a_sync() {
    let disk = MemoryDisk::new();
    let store = start(&disk, StoreConfig::default());
    store.save_vote(0, bytes("v")).await.unwrap();
    let before = (disk.syncs(), store.stats());
    let told = Told::default();
    for group in 1..=64 {
        store
            .append(group, records(1..3), told.done(group))
            .await
            .unwrap();
    }
    store.save_vote(1, bytes("v")).await.unwrap();
    assert_eq!(told.durable().len(), 64);
    assert_eq!(disk.syncs() - before.0, 1);
    let stats = store.stats();
    assert_eq!(
        (
            stats.syncs - before.1.syncs,
            stats.operations - before.1.operations
        ),
        (1, 65)
    );
    assert_eq!((stats.last_batch_operations, stats.groups), (65, 65));
    assert_eq!((stats.queued_operations, stats.queued_bytes), (0, 0));
}

#[tokio::test]
async fn appends_wait_while_the_queue_is_full() {
    let config = StoreConfig {
        queue_bytes: 200,
        ..small()
    };
    let (store, driver) = Store::open_on(Arc::new(MemoryDisk::new()), config).unwrap();
    let told = Told::default();
    let mut waiting = Box::pin(async {
        for index in 1..50 {
            store
                .append(1, records(index..index + 1), told.done(index))
                .await
                .unwrap();
        }
    });
    assert!(futures::poll!(&mut waiting).is_pending());
    let entered = store.log_range(1).last.unwrap().index;
    assert!(
        (2..10).contains(&entered),
        "{entered} entries fit the queue"
    );
    assert!(store.stats().queued_bytes <= 200);
    drop(tokio::spawn(driver.run()));
    waiting.await;
    store.save_vote(1, bytes("v")).await.unwrap();
    assert_eq!(told.durable().len(), 49);
}

#[tokio::test]
async fn a_closed_store_takes_nothing() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    let told = Told::default();
    store.append(1, records(1..2), told.done(1)).await.unwrap();
    store.save_committed(1, bytes("c")).unwrap();
    let journal = store.journal();
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert_eq!(
        told.get(1),
        Some(Ok(())),
        "what was taken in before is durable"
    );
    assert!(matches!(
        append(&store, 1, 2..3).await,
        Err(StoreError::Closed)
    ));
    assert!(matches!(
        store.save_vote(1, bytes("v")).await,
        Err(StoreError::Closed)
    ));
    assert!(matches!(
        store.put_meta("k", bytes("v")).await,
        Err(StoreError::Closed)
    ));
    assert!(matches!(
        journal.append(1, 1, 1, bytes("e")),
        Err(StoreError::Closed)
    ));
    let step = JournalStep::None;
    let snapshot = store.write_snapshot(1, bytes("s"), step, vec![]).await;
    assert!(matches!(snapshot, Err(StoreError::Closed)));
    assert_eq!(*store.fatal().borrow(), None);
    assert_eq!(start(&disk, small()).committed(1), Some(bytes("c")));
}

#[tokio::test]
async fn one_process_at_a_time() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    assert!(matches!(
        try_start(&disk, small()),
        Err(OpenError::Locked { .. })
    ));
    store.close().await.unwrap();
    let store = start(&disk, small());
    let shared = Arc::clone(store.shared());
    drop(store);
    shared.closed().await.unwrap();
    start(&disk, small());
}
