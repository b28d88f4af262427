//! The event journals.

use super::*;

fn item(index: u64) -> JournalItem {
    let payload = bytes(format!("event {index}"));
    JournalItem {
        index,
        stamp_ms: 1000 + index,
        payload,
    }
}

fn items(indices: impl IntoIterator<Item = u64>) -> Vec<JournalItem> {
    indices.into_iter().map(item).collect()
}

fn put(journal: &Journal, shard: u64, index: u64) {
    let JournalItem {
        index,
        stamp_ms,
        payload,
    } = item(index);
    journal.append(shard, index, stamp_ms, payload).unwrap();
}

fn all(journal: &Journal, shard: u64) -> Vec<JournalItem> {
    journal
        .read(shard, None, usize::MAX, usize::MAX)
        .unwrap()
        .items
}

#[tokio::test]
async fn is_read_back_from_any_index() {
    let store = start(&MemoryDisk::new(), small());
    let journal = store.journal();
    assert_eq!(journal.read_back(1, None, 7, usize::MAX).unwrap().items, []);
    let indices: Vec<u64> = (1..200).filter(|index| index % 3 != 0).collect();
    for index in &indices {
        put(&journal, 1, *index);
    }
    let size = item(100).payload.len();
    for before in (0..=201).map(Some).chain([None]) {
        let older = indices
            .iter()
            .filter(|index| before.is_none_or(|before| **index < before));
        let older: Vec<u64> = older.copied().collect();
        let page = journal.read_back(1, before, 7, usize::MAX).unwrap();
        let expected = older[older.len().saturating_sub(7)..].iter().copied();
        assert_eq!(page.items, items(expected), "before {before:?}");
        assert_eq!(page.range, journal.range(1));
        let page = journal
            .read_back(1, before, usize::MAX, 20 * size)
            .unwrap()
            .items;
        assert!(page.len() >= 19.min(older.len()), "before {before:?}");
        assert_eq!(
            page,
            items(older[older.len() - page.len()..].iter().copied())
        );
        let one = journal.read_back(1, before, usize::MAX, 0).unwrap().items;
        assert_eq!(
            one,
            items(older.last().copied()),
            "at least one if there is one"
        );
    }
    // Page by page to the beginning.
    let (mut before, mut walked) = (None, Vec::new());
    loop {
        let page = journal.read_back(1, before, 10, 100).unwrap().items;
        let Some(first) = page.first() else {
            break;
        };
        before = Some(first.index);
        walked.extend(page.into_iter().rev());
    }
    walked.reverse();
    assert_eq!(walked, items(indices));
}

#[tokio::test]
async fn a_moment_is_found_by_stamps() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    let journal = store.journal();
    assert_eq!(journal.find(1, 0), JournalMoment::default());
    for index in 1..200 {
        put(&journal, 1, index);
    }
    for reopened in [false, true] {
        if reopened {
            store.close().await.unwrap();
        }
        let store = reopened.then(|| start(&disk, small()));
        let journal = store
            .as_ref()
            .map_or_else(|| journal.clone(), Store::journal);
        let (mut near_before, mut near_after) = (0, 0);
        for index in 0..=200 {
            let moment = journal.find(1, item(index).stamp_ms);
            assert!(
                moment.before.is_none_or(|before| before < index),
                "{moment:?}"
            );
            assert!(moment.after.is_none_or(|after| after > index), "{moment:?}");
            near_before += usize::from(moment.before.is_some_and(|before| before + 10 > index));
            near_after += usize::from(moment.after.is_some_and(|after| after < index + 10));
        }
        assert!(
            near_before > 150 && near_after > 150,
            "{near_before} {near_after}"
        );
    }
}

#[tokio::test]
async fn is_read_by_pages_from_any_index() {
    let store = start(&MemoryDisk::new(), small());
    let journal = store.journal();
    assert_eq!(
        journal.range(1),
        JournalRange {
            first: 0,
            last: None
        }
    );
    let indices: Vec<u64> = (1..200).filter(|index| index % 3 != 0).collect();
    for index in &indices {
        put(&journal, 1, *index);
    }
    put(&journal, 2, 5);
    assert_eq!(all(&journal, 1), items(indices.clone()));
    assert_eq!(all(&journal, 2), items([5]));
    assert_eq!(all(&journal, 3), []);
    assert_eq!(
        journal.range(1),
        JournalRange {
            first: 0,
            last: Some(199)
        }
    );
    for after in 0..=200 {
        let page = journal.read(1, Some(after), 7, usize::MAX).unwrap();
        let expected = indices
            .iter()
            .copied()
            .filter(|index| *index > after)
            .take(7);
        assert_eq!(page.items, items(expected), "after {after}");
        let size = item(100).payload.len();
        let page = journal
            .read(1, Some(after), usize::MAX, 20 * size)
            .unwrap()
            .items;
        assert!(page.len() >= 19 || page.last() == items([199]).last() || after >= 199);
        assert!(page.iter().map(|item| item.payload.len()).sum::<usize>() <= 20 * size);
        let one = journal.read(1, Some(after), usize::MAX, 0).unwrap().items;
        assert_eq!(
            one.len(),
            usize::from(after < 199),
            "at least one if there is one"
        );
    }
}

#[tokio::test]
async fn a_log_applied_again_adds_nothing() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    let journal = store.journal();
    for index in 1..30 {
        put(&journal, 1, index);
    }
    let keep = JournalStep::Keep { shard: 1 };
    store
        .write_snapshot(9, bytes("up to 29"), keep, vec![])
        .await
        .unwrap();
    for index in 30..60 {
        put(&journal, 1, index);
    }
    // A crash leaves what the snapshot made durable; the log brings back the rest.
    for kept in [0, 30, usize::MAX] {
        let store = start(&disk.crash(|_, bytes| bytes.min(kept)), small());
        let journal = store.journal();
        assert_eq!(all(&journal, 1), items(1..30));
        for index in 20..60 {
            put(&journal, 1, index);
        }
        assert_eq!(all(&journal, 1), items(1..60));
    }
    // Closing makes everything durable.
    store.close().await.unwrap();
    let store = start(&disk, small());
    assert_eq!(all(&store.journal(), 1), items(1..60));
    put(&store.journal(), 1, 60);
    assert_eq!(all(&store.journal(), 1), items(1..61));
}

#[tokio::test]
async fn old_segments_go_by_age() {
    let disk = MemoryDisk::new();
    let retention = std::time::Duration::from_millis(50);
    let config = StoreConfig {
        journal_retention: retention,
        ..small()
    };
    let store = start(&disk, config.clone());
    let journal = store.journal();
    for index in 1..=40 {
        put(&journal, 1, index);
    }
    journal.trim(1040).unwrap();
    assert_eq!(
        journal.range(1),
        JournalRange {
            first: 0,
            last: Some(40)
        }
    );
    // Removed as new segments begin, and what is left is complete from its start on.
    for index in 41..=200 {
        put(&journal, 1, index);
    }
    let range = journal.range(1);
    assert!((100..=150).contains(&range.first), "{range:?}");
    assert_eq!(all(&journal, 1), items(range.first..201));
    journal.trim(1200).unwrap();
    let range = journal.range(1);
    assert!((140..=151).contains(&range.first), "{range:?}");
    store.close().await.unwrap();
    let store = start(&disk, config);
    let journal = store.journal();
    assert_eq!(journal.range(1), range);
    assert_eq!(all(&journal, 1), items(range.first..201));
    assert_eq!(store.stats().journal_segments_removed, 0);
    // A page tells of the gap.
    assert!(
        journal
            .read(1, Some(range.first - 2), 9, 999)
            .unwrap()
            .range
            .first
            > range.first - 1
    );
    // A journal that is quiet for long is emptied, and does not take the same entries again.
    journal.trim(999_999).unwrap();
    assert_eq!(
        journal.range(1),
        JournalRange {
            first: 201,
            last: None
        }
    );
    put(&journal, 1, 200);
    assert_eq!(all(&journal, 1), []);
    put(&journal, 1, 201);
    assert_eq!(all(&journal, 1), items([201]));
}

#[tokio::test]
async fn the_oldest_segments_go_by_size() {
    let disk = MemoryDisk::new();
    let config = StoreConfig {
        journal_bytes: 3000,
        ..small()
    };
    let store = start(&disk, config.clone());
    let journal = store.journal();
    for index in 1..=30 {
        put(&journal, 1, index);
    }
    for index in 31..=400 {
        put(&journal, 2, index);
        put(&journal, 3, index);
        assert!(store.stats().journal_bytes <= 3000);
    }
    store.save_vote(1, bytes("v")).await.unwrap();
    assert!(store.stats().journal_segments_removed > 10);
    assert_eq!(journal.range(1).first, 31, "the quiet one's are the oldest");
    assert!(journal.range(2).first.abs_diff(journal.range(3).first) < 30);
    let before = dump(&store);
    store.close().await.unwrap();
    let used = disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.starts_with(journal::DIR));
    let used = used.map(|(_, bytes)| bytes.len()).sum::<usize>();
    assert!(used <= 3300, "{used} bytes");
    assert_eq!(dump(&start(&disk, config)), before);
}

#[tokio::test]
async fn a_snapshot_from_elsewhere_starts_a_journal_anew() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    let journal = store.journal();
    for index in 1..50 {
        put(&journal, 1, index);
    }
    let restart = JournalStep::Restart {
        shard: 1,
        first_index: 101,
    };
    store
        .write_snapshot(9, bytes("up to 100"), restart, vec![])
        .await
        .unwrap();
    assert_eq!(
        journal.range(1),
        JournalRange {
            first: 101,
            last: None
        }
    );
    put(&journal, 1, 60);
    put(&journal, 1, 103);
    assert_eq!(all(&journal, 1), items([103]));
    let disk = disk.crash(|_, bytes| bytes);
    let store = start(&disk, small());
    assert_eq!(
        store.journal().range(1),
        JournalRange {
            first: 101,
            last: None
        }
    );
    put(&store.journal(), 1, 103);
    assert_eq!(
        store.journal().range(1),
        JournalRange {
            first: 101,
            last: Some(103)
        }
    );
    store.journal().replace(1, 500).await.unwrap();
    assert_eq!(all(&store.journal(), 1), []);
    store.close().await.unwrap();
    let left = disk
        .files()
        .into_keys()
        .filter(|path| path.starts_with(journal::DIR));
    assert!(left.count() <= 1);
}
