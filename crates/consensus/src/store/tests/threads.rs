//! The store on the operating system's files, with its own threads.

use std::fs;
use std::path::PathBuf;

use super::*;

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_write_and_everything_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data/node");
    let config = StoreConfig {
        segment_bytes: 20_000,
        ..StoreConfig::default()
    };
    let store = Store::open(&path, config.clone()).unwrap();
    let tasks = (0..16).map(|group| {
        let store = store.clone();
        tokio::spawn(async move {
            for index in 1..100 {
                append(&store, group, index..index + 1).await.unwrap();
                store
                    .journal()
                    .append(group, index, index, bytes("event"))
                    .unwrap();
                if index % 40 == 0 {
                    let keep = JournalStep::Keep { shard: group };
                    let chunks = vec![Bytes::from(vec![group as u8; 10_000]); 3];
                    let meta = bytes(format!("{index}"));
                    store
                        .write_snapshot(group, meta, keep, chunks)
                        .await
                        .unwrap();
                    store.purge(group, mark(index - 5)).await.unwrap();
                }
            }
        })
    });
    for task in futures::future::join_all(tasks).await {
        task.unwrap();
    }
    let stats = store.stats();
    assert!(
        stats.operations > 16 * 99 && stats.syncs < stats.operations,
        "{stats:?}"
    );
    assert!(stats.log_segments < 20, "{stats:?}");
    let before = dump(&store);
    assert_eq!(before.groups.len(), 16);
    assert_eq!(before.groups[&3].entries, records(76..100));
    assert!(matches!(
        Store::open(&path, config.clone()),
        Err(OpenError::Locked { .. })
    ));
    store.close().await.unwrap();

    let store = Store::open(&path, config.clone()).unwrap();
    assert_eq!(dump(&store), before);
    store.close().await.unwrap();

    for file in files(&path)
        .into_iter()
        .filter(|file| file.file_name().unwrap() != "lock")
    {
        let content = fs::read(&file).unwrap();
        for at in [0, 20, content.len() / 2, content.len() - 1] {
            let mut damaged = content.clone();
            damaged[at] ^= 0x10;
            fs::write(&file, damaged).unwrap();
            let error = Store::open(&path, config.clone()).unwrap_err();
            let name = file.strip_prefix(&path).unwrap().to_str().unwrap();
            assert!(error.to_string().contains(name), "{name} at {at}: {error}");
        }
        fs::write(&file, content).unwrap();
    }
    let store = Store::open(&path, config).unwrap();
    assert_eq!(dump(&store), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_last_handle_closes_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
    let shared = Arc::clone(store.shared());
    store
        .append(1, records(1..2), Told::default().done(1))
        .await
        .unwrap();
    drop(store);
    shared.closed().await.unwrap();
    let store = Store::open(dir.path(), StoreConfig::default()).unwrap();
    assert_eq!(store.entries(1, 0..9, usize::MAX), records(1..2));
}
