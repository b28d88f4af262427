//! The store as a whole, on a disk in memory unless the operating system's is the point.

mod crashes;
mod damage;
mod journals;
mod operations;
mod random;
mod segments;
mod threads;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::memory::MemoryDisk;
use super::*;

/// Small enough that every limit is met within a few hundred bytes.
fn small() -> StoreConfig {
    StoreConfig {
        segment_bytes: 2048,
        queue_bytes: 1 << 20,
        batch_bytes: 1024,
        journal_segment_bytes: 256,
        journal_block_bytes: 64,
        ..StoreConfig::default()
    }
}

fn bytes(text: impl AsRef<str>) -> Bytes {
    Bytes::copy_from_slice(text.as_ref().as_bytes())
}

fn mark(index: u64) -> Mark {
    Mark {
        index,
        meta: bytes(format!("m{index}")),
    }
}

fn record(index: u64) -> LogRecord {
    let payload = bytes(format!("payload of {index}"));
    LogRecord {
        index,
        meta: mark(index).meta,
        payload,
    }
}

fn records(range: Range<u64>) -> Vec<LogRecord> {
    range.map(record).collect()
}

/// Opens a store and runs its driver in a task of the test's runtime.
fn try_start(disk: &MemoryDisk, config: StoreConfig) -> Result<Store, OpenError> {
    let (store, driver) = Store::open_on(Arc::new(disk.clone()), config)?;
    drop(tokio::spawn(driver.run()));
    Ok(store)
}

fn start(disk: &MemoryDisk, config: StoreConfig) -> Store {
    try_start(disk, config).unwrap()
}

/// What the operations' callbacks were told, by a number of the test's choice.
#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<BTreeMap<u64, Result<(), String>>>>);

impl Told {
    fn done(&self, number: u64) -> Done {
        let told = Arc::clone(&self.0);
        Box::new(move |result| {
            let result = result.map_err(|error| error.to_string());
            let former = told.lock().unwrap().insert(number, result);
            assert_eq!(former, None, "operation {number} was told twice");
        })
    }

    fn get(&self, number: u64) -> Option<Result<(), String>> {
        self.0.lock().unwrap().get(&number).cloned()
    }

    /// The operations that were told that they are durable.
    fn durable(&self) -> Vec<u64> {
        let told = self.0.lock().unwrap();
        told.iter()
            .filter(|(_, result)| result.is_ok())
            .map(|(number, _)| *number)
            .collect()
    }
}

/// Appends and waits until that is durable.
async fn append(store: &Store, group: u64, range: Range<u64>) -> Result<(), StoreError> {
    let (tell, told) = tokio::sync::oneshot::channel();
    let done: Done = Box::new(move |result| tell.send(result).unwrap());
    store.append(group, records(range), done).await?;
    told.await.unwrap().map_err(|_| store.shared().failure())
}

/// Everything that a store can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Dump {
    groups: BTreeMap<u64, GroupDump>,
    dropped: Vec<u64>,
    facts: BTreeMap<String, Bytes>,
    journals: BTreeMap<u64, (u64, Vec<JournalItem>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct GroupDump {
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    range: LogRange,
    entries: Vec<LogRecord>,
    snapshot: Option<(Bytes, Vec<Bytes>)>,
}

fn dump(store: &Store) -> Dump {
    let group = |group: u64| GroupDump {
        vote: store.vote(group),
        committed: store.committed(group),
        range: store.log_range(group),
        entries: store.entries(group, 0..u64::MAX, usize::MAX),
        snapshot: store.snapshot(group).map(|snapshot| {
            let chunks = (0..snapshot.chunks())
                .map(|n| snapshot.chunk(n).unwrap())
                .collect();
            (snapshot.meta().clone(), chunks)
        }),
    };
    let journal = store.journal();
    let all = |shard: u64| {
        let page = journal.read(shard, None, usize::MAX, usize::MAX).unwrap();
        (page.range.first, page.items)
    };
    let state = store.shared().state();
    let (dropped, facts) = (state.dropped.iter().copied().collect(), state.facts.clone());
    drop(state);
    Dump {
        groups: store
            .groups()
            .into_iter()
            .map(|number| (number, group(number)))
            .collect(),
        dropped,
        facts,
        journals: journal
            .shards()
            .into_iter()
            .map(|shard| (shard, all(shard)))
            .collect(),
    }
}

/// Does a little of everything, and waits until all of it is durable. Journal of shard 7 included.
async fn live_a_little(store: &Store) -> Result<(), StoreError> {
    store.put_meta("node", bytes("n-1")).await?;
    append(store, 1, 1..6).await?;
    append(store, 2, 1..4).await?;
    store.save_vote(1, bytes("vote of 1")).await?;
    store.journal().append(7, 1, 1000, bytes("opened"))?;
    store.journal().append(
        7,
        3,
        1010,
        bytes("closed, and a little more to fill a block with"),
    )?;
    store.save_committed(1, bytes("committed of 1"))?;
    let step = JournalStep::Keep { shard: 7 };
    let chunks = vec![bytes("chunk 0"), bytes(""), bytes("chunk 2")];
    store
        .write_snapshot(1, bytes("up to 3"), step, chunks)
        .await?;
    store.purge(1, mark(3)).await?;
    append(store, 3, 1..2).await?;
    store.truncate_after(2, Some(1)).await?;
    store.drop_group(3).await
}
