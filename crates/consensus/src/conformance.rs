//! openraft's own tests of a log storage and state machine, run on ours; and the same again on a
//! disk of which syncs or writes fail.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use headcount_model::ReplicaId;
use openraft::StorageError;
use openraft::entry::RaftEntry as _;
use openraft::storage::{
    IOFlushed, RaftLogReader as _, RaftLogStorage as _, RaftSnapshotBuilder as _,
    RaftStateMachine as _,
};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt as _;

use crate::log_store::LogStore;
use crate::machine::{AppliedAt, Frozen, Machine, MachineError};
use crate::state_machine::{Growth, SnapshotChunks, StateMachine};
use crate::store::memory::{Faults, MemoryDisk};
use crate::store::{Store, StoreConfig};
use crate::types::{Command, Entry, LeaderId, LogId, Payload, SnapshotMeta, Types, Vote};

/// Remembers nothing.
struct Nothing;

impl Machine for Nothing {
    fn apply(&mut self, _at: AppliedAt, _command: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn advance(&mut self, _at: AppliedAt) {}

    fn freeze(&self) -> Frozen {
        Box::new(Vec::new)
    }

    fn restore(&mut self, _chunks: &[Bytes]) -> Result<(), MachineError> {
        Ok(())
    }
}

/// Opens the store on `disk` and runs its writer.
fn open(disk: &MemoryDisk) -> Store {
    let (store, driver) = Store::open_on(Arc::new(disk.clone()), StoreConfig::default()).unwrap();
    tokio::spawn(driver.run());
    store
}

/// Makes a new replica on a new disk for every test.
#[derive(Default)]
struct Builder {
    /// What each disk does wrong once the store is open.
    faults: Faults,
    next_replica: AtomicU64,
}

impl StoreBuilder<Types, LogStore, StateMachine> for Builder {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<Types>> {
        let disk = MemoryDisk::new();
        let store = open(&disk);
        disk.set_faults(self.faults);
        let replica = ReplicaId(self.next_replica.fetch_add(1, Ordering::Relaxed));
        let log = LogStore::new(store.clone(), replica, 1 << 20);
        let growth = Arc::new(Growth::new(u64::MAX, Arc::default()));
        let machine = StateMachine::new(Box::new(Nothing), store, replica, None, growth);
        Ok(((), log, machine))
    }
}

type Tests = Suite<Types, LogStore, StateMachine, Builder, ()>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes() {
    Tests::test_all(Builder::default()).await.unwrap();
}

/// A disk whose syncs fail, and one of which a write does, once `left` of them have succeeded.
fn failing(left: u64) -> [Faults; 2] {
    let syncs = Faults {
        syncs_left: Some(left),
        ..Faults::default()
    };
    let writes = Faults {
        writes_left: Some(left),
        ..Faults::default()
    };
    [syncs, writes]
}

/// Runs each test of the suite for disks that fail after 0, 1, … syncs or writes, and returns how
/// many of these runs failed. Each must end in a failure that is told, or not need more than there
/// were; a panic fails whoever calls this.
macro_rules! failures {
    ($($test:ident)*) => {{
        let mut failures = 0;
        $(
            for faults in [0, 1, 2, 5].into_iter().flat_map(failing) {
                let builder = Builder { faults, ..Builder::default() };
                let ((), log, machine) = builder.build().await.unwrap();
                let result: io::Result<()> = Tests::$test(log, machine).await;
                failures += u32::from(result.is_err());
            }
        )*
        failures
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_is_told_when_disks_fail() {
    let failures = failures! {
        last_membership_in_log_initial last_membership_in_log last_membership_in_log_multi_step
        get_membership_initial get_membership_from_log_and_empty_sm
        get_membership_from_empty_log_and_sm get_membership_from_log_le_sm_last_applied
        get_membership_from_log_gt_sm_last_applied_1 get_membership_from_log_gt_sm_last_applied_2
        get_initial_state_without_init get_initial_state_membership_from_empty_log_and_sm
        get_initial_state_membership_from_sm_inlog_is_smaller
        get_initial_state_membership_from_log_insm_is_smaller get_initial_state_with_state
        get_initial_state_last_log_gt_sm get_initial_state_last_log_lt_sm
        get_initial_state_inverted_log_order get_initial_state_conflict_at_same_index
        get_initial_state_log_ids get_initial_state_re_apply_committed save_vote get_log_entries
        limited_get_log_entries leader_bounded_stream entries_stream try_get_log_entry
        log_reader_reads_new_entries initial_logs get_log_state get_log_id last_id_in_log
        last_applied_state purge_logs_upto_0 purge_logs_upto_5 purge_logs_upto_20
        delete_logs_after_11 delete_logs_after_5 delete_logs_after_0 delete_logs_after_none
        append_to_log snapshot_meta snapshot_meta_optional apply_single apply_multiple
    };
    // Most of the tests write more than the disks take.
    assert!(
        failures > 160,
        "only {failures} runs were told of a failure"
    );
    for faults in (0..16).flat_map(failing) {
        let builder = Builder {
            faults,
            ..Builder::default()
        };
        // Either; not a panic.
        drop(Tests::transfer_snapshot(&builder).await);
    }
}

fn entry(index: u64) -> Entry {
    let id = LogId::new(
        LeaderId {
            term: 1,
            node_id: 1,
        },
        index,
    );
    Entry::new(
        id,
        Payload::Normal(Command(Bytes::from(format!("{index}")))),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_acknowledged_that_a_crash_loses() {
    for faults in (0..20).flat_map(failing) {
        let disk = MemoryDisk::new();
        let mut log = LogStore::new(open(&disk), ReplicaId(1), 1 << 20);
        disk.set_faults(faults);
        let mut acknowledged = None;
        let mut voted = None;
        let mut failed = false;
        for index in 0..15 {
            let vote = Vote {
                leader_id: LeaderId {
                    term: index + 1,
                    node_id: 1,
                },
                committed: true,
            };
            match log.save_vote(&vote).await {
                Ok(()) => voted = Some(vote),
                Err(_) => failed = true,
            }
            let (sender, flushed) = Types::oneshot();
            let accepted = log.append([entry(index)], IOFlushed::signal(sender)).await;
            match flushed.await.expect("told in every case") {
                Ok(()) => {
                    assert!(!failed, "acknowledged after a failure");
                    acknowledged = Some(index);
                }
                Err(_) => failed = true,
            }
            assert!(accepted.is_ok() || failed);
        }
        assert_eq!(
            failed,
            acknowledged != Some(14),
            "a failure that was not told"
        );

        // The power goes; nothing that was in doubt is kept.
        let mut after = LogStore::new(open(&disk.crash(|_, _| 0)), ReplicaId(1), 1 << 20);
        let last = after.get_log_state().await.unwrap().last_log_id;
        assert!(
            last.map(|id| id.index()) >= acknowledged,
            "lost with {faults:?}"
        );
        let entries = after
            .try_get_log_entries(0..=acknowledged.unwrap_or(0))
            .await
            .unwrap();
        for (entry, expected) in entries.iter().zip(0..) {
            assert_eq!(*entry, self::entry(expected));
        }
        assert!(after.read_vote().await.unwrap() >= voted, "a vote is lost");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_cut_back_is_no_witness_of_where_it_ended() {
    let mut log = LogStore::new(open(&MemoryDisk::new()), ReplicaId(1), 1 << 20);
    let none = log.end().unwrap();
    assert_eq!(log.kept(&none), None, "an empty log");
    let (sender, flushed) = Types::oneshot();
    let entries = (0..10).map(entry);
    log.append(entries, IOFlushed::signal(sender))
        .await
        .unwrap();
    flushed.await.unwrap().unwrap();

    let end = log.end().unwrap();
    let id = |index| entry(index).log_id;
    assert_eq!(log.kept(&end), Some(id(9)));
    log.purge(id(3)).await.unwrap();
    assert_eq!(log.kept(&end), Some(id(9)), "its end is still there");
    let of_another = LogId::new(
        LeaderId {
            term: 1,
            node_id: 2,
        },
        9,
    );
    assert!(log.holds(&id(9)) && log.holds(&id(4)) && log.holds(&id(3)));
    assert!(!log.holds(&of_another), "another leader's entry");
    assert!(!log.holds(&id(2)), "purged before the last");
    assert!(!log.holds(&id(10)), "beyond the end");

    // The same again, and yet it may not be durable.
    log.truncate_after(Some(id(8))).await.unwrap();
    let (sender, _flushed) = Types::oneshot();
    log.append([entry(9)], IOFlushed::signal(sender))
        .await
        .unwrap();
    assert!(log.holds(&id(9)));
    assert_eq!(log.kept(&end), None);
}

/// Looks at its shard's journal when it is restored.
struct Onlooker {
    store: Store,
    seen: Arc<AtomicU64>,
}

impl Machine for Onlooker {
    fn apply(&mut self, _at: AppliedAt, _command: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn advance(&mut self, _at: AppliedAt) {}

    fn freeze(&self) -> Frozen {
        Box::new(Vec::new)
    }

    fn restore(&mut self, _chunks: &[Bytes]) -> Result<(), MachineError> {
        let first = self.store.journal().range(7).first;
        self.seen.store(first, Ordering::Relaxed);
        Ok(())
    }
}

/// Returns a machine with the journal of a shard, and what a snapshot says that is ahead of it.
fn behind(onlooker: Onlooker, store: Store) -> (StateMachine, SnapshotMeta) {
    let growth = Arc::new(Growth::new(u64::MAX, Arc::default()));
    let replica = ReplicaId(1);
    let machine = StateMachine::new(Box::new(onlooker), store, replica, Some(7), growth);
    let leader = LeaderId {
        term: 1,
        node_id: 2,
    };
    let meta = SnapshotMeta {
        last_log_id: Some(LogId::new(leader, 9)),
        ..SnapshotMeta::default()
    };
    (machine, meta)
}

/// Else a watcher that reads meanwhile is told nothing of what lies between, and no gap.
#[tokio::test]
async fn a_journal_has_its_gap_before_the_machine_is_past_it() {
    let store = open(&MemoryDisk::new());
    store
        .journal()
        .append(7, 3, 0, Bytes::from_static(b"told"))
        .unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let onlooker = Onlooker {
        store: store.clone(),
        seen: seen.clone(),
    };
    let (mut machine, meta) = behind(onlooker, store);
    let snapshot = SnapshotChunks {
        chunks: Vec::new(),
        stored_by: None,
    };
    machine.install_snapshot(&meta, snapshot).await.unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 10);
}

/// Else a log that is purged up to the newer one would be missing what lies between them.
#[tokio::test]
async fn a_snapshot_that_was_begun_before_a_newer_one_came_does_not_take_its_place() {
    let store = open(&MemoryDisk::new());
    let onlooker = Onlooker {
        store: store.clone(),
        seen: Arc::default(),
    };
    let (mut machine, meta) = behind(onlooker, store);
    let mut begun = machine.get_snapshot_builder().await;
    let snapshot = SnapshotChunks {
        chunks: vec![Bytes::from_static(b"newer")],
        stored_by: None,
    };
    machine.install_snapshot(&meta, snapshot).await.unwrap();
    let built = begun.build_snapshot().await.unwrap();
    assert_eq!(built.meta, meta);
    let kept = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(
        (kept.meta, kept.snapshot.chunks),
        (meta, vec![Bytes::from_static(b"newer")])
    );
}
