//! Segments come and go.

use super::*;

fn segments(disk: &MemoryDisk) -> Vec<String> {
    disk.files()
        .into_keys()
        .filter(|path| path.starts_with(log::DIR))
        .collect()
}

#[tokio::test]
async fn segments_go_when_all_groups_have_purged_past_them() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    for index in 1..100 {
        append(&store, 1, index..index + 1).await.unwrap();
        append(&store, 2, index..index + 1).await.unwrap();
    }
    let full = segments(&disk).len();
    assert!(full > 4, "only {full} segments");
    store.purge(1, mark(99)).await.unwrap();
    store.save_vote(1, bytes("v")).await.unwrap();
    assert_eq!(segments(&disk).len(), full, "group 2 still needs them all");
    store.purge(2, mark(98)).await.unwrap();
    store.save_vote(1, bytes("v")).await.unwrap();
    let left = segments(&disk);
    assert!(left.len() <= 2, "{left:?}");
    assert_eq!(store.stats().log_segments, left.len() as u64);
    let sizes = left
        .iter()
        .map(|path| disk.files()[path].len() as u64)
        .sum::<u64>();
    assert!(store.stats().log_bytes.abs_diff(sizes) < 100);
    let before = dump(&store);
    store.close().await.unwrap();
    assert_eq!(dump(&start(&disk, small())), before);
}

#[tokio::test]
async fn a_cold_group_does_not_hold_old_segments() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    // Groups 1 to 3 stop here, with everything that a group can have.
    live_a_little(&store).await.unwrap();
    append(&store, 4, 1..8).await.unwrap();
    store.truncate_after(4, Some(6)).await.unwrap();
    for index in 1..500 {
        append(&store, 5, index..index + 1).await.unwrap();
        if index > 5 {
            store.purge(5, mark(index - 5)).await.unwrap();
        }
        let count = segments(&disk).len();
        assert!(count < 10, "{count} segments after {index} entries");
    }
    let stats = store.stats();
    assert!(stats.rewritten_records >= 9, "{}", stats.rewritten_records);
    assert!(
        stats.rewritten_records < 1000,
        "{}",
        stats.rewritten_records
    );
    assert!(!segments(&disk).contains(&"log/000000000001.log".to_owned()));
    let before = dump(&store);
    assert_eq!(before.groups[&4].entries, records(1..7));
    let crashed = disk.crash(|_, _| 0);
    let after = dump(&start(&crashed, small()));
    assert_eq!(after.groups[&1], before.groups[&1]);
    assert_eq!(after.groups[&4], before.groups[&4]);
    assert_eq!(
        (after.facts, after.dropped),
        (before.facts.clone(), before.dropped.clone())
    );
    store.close().await.unwrap();
    assert_eq!(dump(&start(&disk, small())), before);
}

#[tokio::test]
async fn a_batch_larger_than_a_segment_is_one_frame() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    let payload = Bytes::from(vec![7; 10_000]);
    let entry = LogRecord {
        index: 1,
        meta: bytes("m"),
        payload,
    };
    store
        .append(1, vec![entry.clone()], Told::default().done(1))
        .await
        .unwrap();
    append(&store, 1, 2..3).await.unwrap();
    store.close().await.unwrap();
    let store = start(&disk, small());
    assert_eq!(store.entries(1, 0..9, usize::MAX), [entry, record(2)]);
}

#[tokio::test]
async fn a_segment_that_a_crash_left_unfinished_is_removed() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    live_a_little(&store).await.unwrap();
    let before = dump(&store);
    store.close().await.unwrap();
    for length in [0, 10, 48] {
        let mut files = disk.files();
        files.insert("log/000000000002.log".to_owned(), vec![9; length]);
        let disk = MemoryDisk::with_files(&files);
        assert_eq!(dump(&start(&disk, small())), before);
        assert_eq!(segments(&disk).len(), 1);
    }
    let mut files = disk.files();
    files.insert("log/000000000002.log".to_owned(), vec![9; 49]);
    assert!(try_start(&MemoryDisk::with_files(&files), small()).is_err());
}
