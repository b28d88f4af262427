//! A byte flipped anywhere, and files that are missing or not ours.

use super::memory::Files;
use super::*;

/// The files of a store that was closed, with several segments, snapshots and journal files.
async fn closed() -> (Files, Dump) {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    live_more(&store).await;
    let before = dump(&store);
    store.close().await.unwrap();
    (disk.files(), before)
}

async fn live_more(store: &Store) {
    live_a_little(store).await.unwrap();
    for index in 2..40 {
        append(store, 2, index..index + 1).await.unwrap();
        let event = bytes(format!("event {index} of shard 8"));
        store
            .journal()
            .append(8, index, 1000 + index, event)
            .unwrap();
    }
    let (step, chunks) = (JournalStep::Keep { shard: 8 }, vec![bytes("state of 2")]);
    store
        .write_snapshot(2, bytes("up to 39"), step, chunks)
        .await
        .unwrap();
    // Not synced unless the store is closed.
    store
        .journal()
        .append(8, 40, 1040, bytes("a last event"))
        .unwrap();
    append(store, 2, 40..42).await.unwrap();
}

fn flips(files: &Files) -> impl Iterator<Item = (String, usize, Files)> + '_ {
    files.iter().flat_map(move |(path, content)| {
        (0..content.len()).map(move |at| {
            let mut files = files.clone();
            // Any change of a byte will do; this differs from place to place.
            files.get_mut(path).unwrap()[at] ^= 1 << (at % 8);
            (path.clone(), at, files)
        })
    })
}

#[tokio::test]
async fn a_flipped_byte_anywhere_is_refused() {
    let (files, before) = closed().await;
    assert_eq!(
        dump(&start(&MemoryDisk::with_files(&files), small())),
        before
    );
    for dir in [log::DIR, snapshot::DIR, journal::DIR] {
        let count = files.keys().filter(|path| path.starts_with(dir)).count();
        assert!(count > 1, "there are only {count} files of {dir}");
    }
    let mut refused = 0;
    for (path, at, files) in flips(&files) {
        let disk = MemoryDisk::with_files(&files);
        let error = try_start(&disk, small()).expect_err(&format!("{path} flipped at {at}"));
        let (file, offset) = match &error {
            OpenError::Damaged { file, offset, .. } => (file, *offset),
            OpenError::UnknownVersion { file, .. } | OpenError::Missing { file, .. } => (file, 0),
            error => panic!("{path} flipped at {at}: {error}"),
        };
        assert_eq!(file.to_str(), Some(path.as_str()), "{error}");
        assert!(offset <= at as u64, "{path} flipped at {at}: {error}");
        assert!(error.to_string().contains(&path), "{error}");
        refused += 1;
    }
    assert!(refused > 4000, "only {refused} bytes were flipped");
}

#[tokio::test]
async fn a_flipped_byte_is_refused_or_harmless_after_a_kill() {
    let disk = MemoryDisk::new();
    let store = start(&disk, small());
    live_more(&store).await;
    let files = disk.files();
    let before = dump(&start(&MemoryDisk::with_files(&files), small()));
    assert_eq!(before.groups, dump(&store).groups);
    let (mut refused, mut harmless) = (0, 0);
    for (path, at, files) in flips(&files) {
        match try_start(&MemoryDisk::with_files(&files), small()) {
            Ok(store) => {
                assert_eq!(dump(&store), before, "{path} flipped at {at}");
                harmless += 1;
            }
            Err(_) => refused += 1,
        }
    }
    // What may be harmless is the empty frame at the log's end, and journal data beyond the mark.
    assert!(
        harmless < 300 && refused > 4000,
        "{harmless} harmless, {refused} refused"
    );
}

#[tokio::test]
async fn a_file_that_is_cut_short_or_longer_is_refused() {
    let (files, _) = closed().await;
    for (path, content) in &files {
        for length in (0..content.len()).chain([content.len() + 1]) {
            let mut files = files.clone();
            files.get_mut(path).unwrap().resize(length, 0);
            let result = try_start(&MemoryDisk::with_files(&files), small());
            let journal_grew = length > content.len() && path.starts_with(journal::DIR);
            assert!(
                result.is_err() || journal_grew,
                "{path} resized to {length}"
            );
        }
    }
}

#[tokio::test]
async fn a_missing_file_is_named() {
    let (files, _) = closed().await;
    for path in files.keys() {
        let mut files = files.clone();
        files.remove(path);
        let error = try_start(&MemoryDisk::with_files(&files), small()).unwrap_err();
        let OpenError::Missing { file, .. } = &error else {
            panic!("{path}: {error}")
        };
        assert_eq!(file.to_str(), Some(path.as_str()));
    }
}

#[tokio::test]
async fn files_in_each_others_place_are_refused() {
    let (files, _) = closed().await;
    let (others, _) = {
        // Another store, which differs in its number only.
        let disk = MemoryDisk::new();
        start(&disk, small()).close().await.unwrap();
        for path in disk.files().into_keys() {
            disk::Disk::remove(&disk, &path).unwrap();
        }
        let store = start(&disk, small());
        live_more(&store).await;
        store.close().await.unwrap();
        (disk.files(), ())
    };
    assert_eq!(
        files.keys().collect::<Vec<_>>(),
        others.keys().collect::<Vec<_>>()
    );
    for path in files.keys() {
        for other in files.keys().filter(|other| *other != path) {
            let mut files = files.clone();
            files.insert(path.clone(), files[other].clone());
            let result = try_start(&MemoryDisk::with_files(&files), small());
            assert!(result.is_err(), "{other} in the place of {path}");
        }
        let mut files = files.clone();
        files.insert(path.clone(), others[path].clone());
        let result = try_start(&MemoryDisk::with_files(&files), small());
        assert!(result.is_err(), "another store's {path}");
    }
}

#[tokio::test]
async fn a_later_format_is_refused_by_name() {
    let (files, _) = closed().await;
    for path in files.keys() {
        let mut files = files.clone();
        let header = files.get_mut(path).unwrap();
        header[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let crc = crc32c::crc32c(&header[..44]);
        header[44..48].copy_from_slice(&crc.to_le_bytes());
        let error = try_start(&MemoryDisk::with_files(&files), small()).unwrap_err();
        let expected = format!("{path}: format version 2, this release reads version 1");
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert!(error.to_string().contains("start the node with"), "{error}");
    }
}
