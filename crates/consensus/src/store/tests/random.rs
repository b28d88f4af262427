//! Random operations, restarts and crashes against a naive model.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Append {
        group: u64,
        count: u64,
        size: usize,
    },
    Truncate {
        group: u64,
        keep: u64,
    },
    Purge {
        group: u64,
        ahead: u64,
    },
    Vote {
        group: u64,
        vote: u8,
    },
    Committed {
        group: u64,
        committed: u8,
    },
    Drop {
        group: u64,
    },
    Snapshot {
        group: u64,
        meta: u8,
        chunks: usize,
        size: usize,
    },
    Fact {
        key: u8,
        value: Option<u8>,
    },
    Journal {
        shard: u64,
        skip: u64,
        size: usize,
    },
    Replace {
        shard: u64,
        first: u64,
    },
    /// Waits until everything is durable.
    Settle,
    Reopen,
    /// Loses the machine after settling, with this much of what is in doubt kept.
    Crash {
        kept: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let group = || 1..6_u64;
    let shard = || 1..4_u64;
    prop_oneof![
        12 => (group(), 1..6_u64, 0..200_usize)
            .prop_map(|(group, count, size)| Step::Append { group, count, size }),
        3 => (group(), 0..30_u64).prop_map(|(group, keep)| Step::Truncate { group, keep }),
        4 => (group(), 0..20_u64).prop_map(|(group, ahead)| Step::Purge { group, ahead }),
        2 => (group(), any::<u8>()).prop_map(|(group, vote)| Step::Vote { group, vote }),
        2 => (group(), any::<u8>())
            .prop_map(|(group, committed)| Step::Committed { group, committed }),
        1 => (4..9_u64).prop_map(|group| Step::Drop { group }),
        2 => (group(), any::<u8>(), 0..4_usize, 0..300_usize)
            .prop_map(|(group, meta, chunks, size)| Step::Snapshot { group, meta, chunks, size }),
        1 => (0..4_u8, any::<Option<u8>>()).prop_map(|(key, value)| Step::Fact { key, value }),
        6 => (shard(), 0..4_u64, 0..100_usize)
            .prop_map(|(shard, skip, size)| Step::Journal { shard, skip, size }),
        1 => (shard(), 0..50_u64).prop_map(|(shard, first)| Step::Replace { shard, first }),
        4 => Just(Step::Settle),
        1 => Just(Step::Reopen),
        1 => (0..2000_usize).prop_map(|kept| Step::Crash { kept }),
    ]
}

fn filled(seed: u64, size: usize) -> Bytes {
    (0..size)
        .map(|at| (seed as usize + at) as u8)
        .collect::<Vec<_>>()
        .into()
}

/// What the store should hold, kept in the simplest way.
#[derive(Debug, Default)]
struct Model {
    dump: Dump,
}

impl Model {
    fn group(&mut self, group: u64) -> Option<&mut GroupDump> {
        let dropped = self.dump.dropped.contains(&group);
        (!dropped).then(|| self.dump.groups.entry(group).or_default())
    }
}

fn refresh(group: &mut GroupDump) {
    let last = group.entries.last();
    let last = last.map(|entry| Mark {
        index: entry.index,
        meta: entry.meta.clone(),
    });
    group.range.last = last.or_else(|| group.range.purged.clone());
}

struct World {
    disk: MemoryDisk,
    store: Store,
    model: Model,
    config: StoreConfig,
}

impl World {
    async fn apply(&mut self, number: usize, step: Step) {
        let Self {
            disk,
            store,
            model,
            config,
        } = self;
        match step {
            Step::Append { group, count, size } => {
                let next = store.log_range(group).last.map_or(1, |mark| mark.index + 1);
                let entries: Vec<_> = (next..next + count)
                    .map(|index| LogRecord {
                        index,
                        meta: bytes(format!("{number}")),
                        payload: filled(index, size),
                    })
                    .collect();
                let result = store
                    .append(group, entries.clone(), Told::default().done(1))
                    .await;
                let state = model.group(group);
                assert_eq!(result.is_ok(), state.is_some());
                if let Some(state) = state {
                    state.entries.extend(entries);
                    refresh(state);
                }
            }
            Step::Truncate { group, keep } => {
                let keep = (keep > 0).then_some(keep);
                drop(store.truncate_after(group, keep).await);
                if let Some(state) = model.group(group) {
                    state
                        .entries
                        .retain(|entry| keep.is_some_and(|keep| entry.index <= keep));
                    refresh(state);
                }
            }
            Step::Purge { group, ahead } => {
                let purged = store.log_range(group).purged.map_or(0, |mark| mark.index);
                drop(store.purge(group, mark(purged + ahead)).await);
                if let Some(state) = model.group(group) {
                    if state.range.purged.is_none() || ahead > 0 {
                        state.range.purged = Some(mark(purged + ahead));
                    }
                    state.entries.retain(|entry| entry.index > purged + ahead);
                    refresh(state);
                }
            }
            Step::Vote { group, vote } => {
                drop(store.save_vote(group, bytes(format!("{vote}"))).await);
                if let Some(state) = model.group(group) {
                    state.vote = Some(bytes(format!("{vote}")));
                }
            }
            Step::Committed { group, committed } => {
                drop(store.save_committed(group, bytes(format!("{committed}"))));
                if let Some(state) = model.group(group) {
                    state.committed = Some(bytes(format!("{committed}")));
                }
            }
            Step::Drop { group } => {
                store.drop_group(group).await.unwrap();
                model.dump.groups.remove(&group);
                if !model.dump.dropped.contains(&group) {
                    model.dump.dropped.push(group);
                    model.dump.dropped.sort_unstable();
                }
            }
            Step::Snapshot {
                group,
                meta,
                chunks,
                size,
            } => {
                let meta = bytes(format!("{meta}"));
                let chunks: Vec<_> = (0..chunks).map(|n| filled(n as u64, size)).collect();
                // Shard and group numbers overlap here; the journal kept is the group's namesake.
                let keep = JournalStep::Keep { shard: group };
                let result = store
                    .write_snapshot(group, meta.clone(), keep, chunks.clone())
                    .await;
                let state = model.group(group);
                assert_eq!(result.is_ok(), state.is_some());
                if let Some(state) = state {
                    state.snapshot = Some((meta, chunks));
                }
            }
            Step::Fact { key, value } => {
                let (key, value) = (
                    format!("{key}"),
                    value.map(|value| bytes(format!("{value}"))),
                );
                if let Some(value) = value {
                    store.put_meta(&key, value.clone()).await.unwrap();
                    model.dump.facts.insert(key, value);
                } else {
                    store.delete_meta(&key).await.unwrap();
                    model.dump.facts.remove(&key);
                }
            }
            Step::Journal { shard, skip, size } => {
                let (first, items) = model.dump.journals.entry(shard).or_default();
                let next = items.last().map_or(*first, |item| item.index + 1) + skip;
                let item = JournalItem {
                    index: next,
                    stamp_ms: next,
                    payload: filled(next, size),
                };
                store
                    .journal()
                    .append(shard, next, next, item.payload.clone())
                    .unwrap();
                items.push(item);
            }
            Step::Replace { shard, first } => {
                store.journal().replace(shard, first).await.unwrap();
                model.dump.journals.insert(shard, (first, Vec::new()));
            }
            Step::Settle => store.put_meta("settled", bytes("x")).await.unwrap(),
            Step::Reopen => {
                store.close().await.unwrap();
                *store = start(disk, config.clone());
            }
            Step::Crash { kept } => {
                store.put_meta("settled", bytes("x")).await.unwrap();
                *disk = disk.crash(|_, bytes| bytes.min(kept));
                *store = start(disk, config.clone());
                // The log would bring back what the journals lost; here the model forgets it.
                for (shard, (first, items)) in &mut model.dump.journals {
                    let page = store
                        .journal()
                        .read(*shard, None, usize::MAX, usize::MAX)
                        .unwrap();
                    assert_eq!(page.range.first, *first);
                    assert!(
                        items.starts_with(&page.items),
                        "a journal holds what it was never given"
                    );
                    *items = page.items;
                }
                let shards = store.journal().shards();
                model
                    .dump
                    .journals
                    .retain(|shard, _| shards.contains(shard));
            }
        }
        model.dump.facts.remove("settled");
        let mut actual = dump(store);
        actual.facts.remove("settled");
        let mut expected = model.dump.clone();
        expected
            .groups
            .retain(|_, group| *group != GroupDump::default());
        assert_eq!(actual, expected, "after step {number}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 2,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn behaves_as_a_naive_model_through_restarts_and_crashes(
        steps in prop::collection::vec(step(), 1..120),
        segment_bytes in 200..4000_u64,
        batch_bytes in 1..2000_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let config = StoreConfig { segment_bytes, batch_bytes, ..small() };
            let disk = MemoryDisk::new();
            let store = start(&disk, config.clone());
            let mut world = World { disk, store, model: Model::default(), config };
            for (number, step) in steps.into_iter().enumerate() {
                world.apply(number, step).await;
            }
        });
    }
}
