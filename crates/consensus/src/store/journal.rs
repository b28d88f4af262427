//! Event journals: files of frames for each shard, derived from the log.
//!
//! Items are gathered in memory and written in blocks, one frame each, without a sync. A mark in the
//! log says up to where the files are durable; it moves when the group's snapshot is written and
//! when the store is closed. At open everything up to the mark must be valid, and what lies beyond it
//! is cut off: the entries that it came from are still in the log, which brings it back.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use super::frame::{
    FILE_HEADER, Fault, Fields, FileHeader, FileKind, put_frame, put_sized, read_frame,
};
use super::log::{io, list};
use super::record::{JournalMark, Record};
use super::shared::Shared;
use super::{Done, OpenError, StoreError};

/// The directory of the journals.
pub(super) const DIR: &str = "journal";
/// The largest payload of an item, in bytes.
const MAX_ITEM: usize = 64 << 20;

fn path(shard: u64, number: u64) -> String {
    format!("{DIR}/{shard}-{number}.events")
}

fn parse(name: &str) -> Option<(u64, u64)> {
    let (shard, number) = name.strip_suffix(".events")?.split_once('-')?;
    Some((shard.parse().ok()?, number.parse().ok()?))
}

/// One item of a shard's journal: what one log entry brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalItem {
    /// Index of the log entry.
    pub index: u64,
    /// When, in milliseconds since 1970, by the coordinator's stamp.
    pub stamp_ms: u64,
    /// Opaque to the store.
    pub payload: Bytes,
}

impl JournalItem {
    fn weight(&self) -> usize {
        20 + self.payload.len()
    }
}

/// What a shard's journal covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalRange {
    /// The log index from which on the journal is complete. 0 if it always was.
    pub first: u64,
    /// The index of the last item, if any is held.
    pub last: Option<u64>,
}

/// A page of a shard's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalPage {
    /// Items in order of their index.
    pub items: Vec<JournalItem>,
    /// What the journal covered when the page was read. If the index after the one asked for lies
    /// before `range.first`, there is a gap.
    pub range: JournalRange,
}

/// Where a moment lies in a shard's journal, to a few items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JournalMoment {
    /// Every item up to this index is older than the moment.
    pub before: Option<u64>,
    /// Every item from this index on is newer.
    pub after: Option<u64>,
}

/// The event journals of a node, one per shard; derived from the logs and kept for a while. A cheap
/// handle, which does not keep the store open.
#[derive(Debug, Clone)]
pub struct Journal {
    pub(super) shared: Arc<Shared>,
}

impl Journal {
    /// Does something that reads files, where it holds up nobody: on a thread for it, or in place
    /// where the store's driver is a task as well.
    ///
    /// # Errors
    /// If the work panicked, or the runtime ends.
    pub async fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        if self.shared.has_threads() {
            tokio::task::spawn_blocking(work).await
        } else {
            Ok(work())
        }
    }

    /// Appends what the log entry `index` brought about. An index at or before the last, or before
    /// the journal's start, is passed over: a log that is applied again after a restart says
    /// nothing new. Stamps should not go back. Durable with the next snapshot
    /// ([`JournalStep`](super::JournalStep)); until then the log brings it back.
    pub fn append(
        &self,
        shard: u64,
        index: u64,
        stamp_ms: u64,
        payload: Bytes,
    ) -> Result<(), StoreError> {
        if payload.len() > MAX_ITEM {
            let bytes = payload.len();
            return Err(StoreError::TooLarge {
                what: "journal item",
                bytes,
                limit: MAX_ITEM,
            });
        }
        self.shared.check_open()?;
        let mut journals = self.shared.journals();
        journals
            .append(
                &self.shared,
                shard,
                JournalItem {
                    index,
                    stamp_ms,
                    payload,
                },
            )
            .map_err(|error| {
                self.shared
                    .poison(&format!("cannot write a journal: {error}"))
            })
    }

    /// Reads the items after `after` (`None`: from the first), at most `max_items` and about
    /// `max_bytes`, but at least one if there is one. May block for a few reads of files.
    pub fn read(
        &self,
        shard: u64,
        after: Option<u64>,
        max_items: usize,
        max_bytes: usize,
    ) -> Result<JournalPage, StoreError> {
        loop {
            let plan = self
                .shared
                .journals()
                .plan(shard, after, max_items, max_bytes);
            // Files that were removed meanwhile are no longer in the next plan.
            if let Some(page) = plan.read(&self.shared, shard, after, max_items, max_bytes)? {
                return Ok(page);
            }
        }
    }

    /// Reads the last items before `before` (`None`: up to the last), at most `max_items` and about
    /// `max_bytes`, but at least one if there is one; they come in the order of their index. May
    /// block for a few reads of files.
    pub fn read_back(
        &self,
        shard: u64,
        before: Option<u64>,
        max_items: usize,
        max_bytes: usize,
    ) -> Result<JournalPage, StoreError> {
        loop {
            let plan = self
                .shared
                .journals()
                .plan_back(shard, before, max_items, max_bytes);
            if let Some(page) = plan.read_back(&self.shared, shard, before, max_items, max_bytes)? {
                return Ok(page);
            }
        }
    }

    /// Finds a moment in a shard's journal, by the stamps of its items.
    pub fn find(&self, shard: u64, stamp_ms: u64) -> JournalMoment {
        self.shared.journals().find(shard, stamp_ms)
    }

    /// How long items are kept.
    pub fn retention(&self) -> Duration {
        self.shared.config.journal_retention
    }

    /// What the shard's journal covers.
    pub fn range(&self, shard: u64) -> JournalRange {
        self.shared.journals().range(shard)
    }

    /// The shards that have a journal.
    pub fn shards(&self) -> Vec<u64> {
        self.shared.journals().shards.keys().copied().collect()
    }

    /// Empties the shard's journal and lets it begin at `first_index`, durably. A snapshot from
    /// elsewhere does this by itself, see [`JournalStep::Restart`](super::JournalStep::Restart).
    pub async fn replace(&self, shard: u64, first_index: u64) -> Result<(), StoreError> {
        self.shared.check_open()?;
        let (done, told) = self.shared.telling();
        self.shared.restart_journal(shard, first_index, Some(done));
        self.shared.told(told).await
    }

    /// Removes what is older than the retention, in whole segments. Call it now and then; the byte
    /// bound holds without it.
    pub fn trim(&self, now_ms: u64) -> Result<(), StoreError> {
        self.shared.check_open()?;
        let mut journals = self.shared.journals();
        let shards: Vec<u64> = journals.shards.keys().copied().collect();
        for shard in shards {
            journals.trim(&self.shared, shard, now_ms);
        }
        Ok(())
    }
}

/// All journals of a node.
#[derive(Debug, Default)]
pub(super) struct Journals {
    shards: BTreeMap<u64, ShardJournal>,
    /// Bytes of all files, and of what is gathered in memory.
    pub(super) bytes: u64,
    pub(super) removed: u64,
    /// Files were created since the directory was last synced.
    created: bool,
}

#[derive(Debug)]
struct ShardJournal {
    start: u64,
    last: Option<u64>,
    files: VecDeque<JournalFile>,
    /// The file that is written to, which is then the last of `files`.
    active: Option<Arc<dyn DiskFile>>,
    next_file: u64,
    next_sequence: u64,
    /// Files with data that was not synced, by number.
    unsynced: BTreeMap<u64, Arc<dyn DiskFile>>,
    /// File and offset up to which everything is durable.
    durable: (u64, u64),
    /// The mark last given to the log.
    marked: JournalMark,
    /// Items that are not in a file yet.
    tail: Vec<JournalItem>,
    tail_bytes: usize,
}

#[derive(Debug)]
struct JournalFile {
    number: u64,
    bytes: u64,
    last_stamp: u64,
    blocks: Vec<Block>,
}

/// A frame of a journal file.
#[derive(Debug, Clone, Copy)]
struct Block {
    offset: u64,
    bytes: u32,
    items: u32,
    /// Bytes of the items' payloads alone.
    payload_bytes: u32,
    last_index: u64,
    last_stamp: u64,
}

impl Block {
    fn new(offset: u64, bytes: usize, items: &[JournalItem]) -> Option<Self> {
        let payload_bytes: usize = items.iter().map(|item| item.payload.len()).sum();
        let last = items.last()?;
        Some(Self {
            offset,
            bytes: bytes as u32,
            items: items.len() as u32,
            payload_bytes: payload_bytes as u32,
            last_index: last.index,
            last_stamp: last.stamp_ms,
        })
    }
}

/// Where the items of a page are.
#[derive(Debug)]
struct Plan {
    range: JournalRange,
    blocks: Vec<(u64, Block)>,
    tail: Vec<JournalItem>,
}

fn header(store: u64, shard: u64, number: u64) -> FileHeader {
    FileHeader {
        kind: FileKind::Journal,
        store,
        owner: shard,
        number,
    }
}

impl Default for ShardJournal {
    fn default() -> Self {
        Self {
            start: 0,
            last: None,
            files: VecDeque::new(),
            active: None,
            next_file: 1,
            next_sequence: 0,
            unsynced: BTreeMap::new(),
            durable: (0, 0),
            marked: JournalMark::default(),
            tail: Vec::new(),
            tail_bytes: 0,
        }
    }
}

impl ShardJournal {
    fn first_file(&self) -> u64 {
        self.files
            .front()
            .map_or(self.next_file, |file| file.number)
    }

    fn mark(&self) -> JournalMark {
        let first_file = self.first_file();
        let (file, offset) = if self.durable.0 < first_file {
            (first_file, 0)
        } else {
            self.durable
        };
        JournalMark {
            start: self.start,
            first_file,
            file,
            offset,
        }
    }

    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.tail.is_empty()
    }
}

impl Journals {
    fn range(&self, shard: u64) -> JournalRange {
        match self.shards.get(&shard) {
            Some(journal) if !journal.is_empty() => JournalRange {
                first: journal.start,
                last: journal.last,
            },
            Some(journal) => JournalRange {
                first: journal.start,
                last: None,
            },
            None => JournalRange {
                first: 0,
                last: None,
            },
        }
    }

    pub(super) fn files(&self) -> u64 {
        self.shards
            .values()
            .map(|journal| journal.files.len() as u64)
            .sum()
    }

    fn append(&mut self, shared: &Arc<Shared>, shard: u64, item: JournalItem) -> io::Result<()> {
        let journal = self.shards.entry(shard).or_default();
        if item.index < journal.start || journal.last.is_some_and(|last| item.index <= last) {
            return Ok(());
        }
        journal.last = Some(item.index);
        journal.tail_bytes += item.weight();
        self.bytes += item.weight() as u64;
        journal.tail.push(item);
        if journal.tail_bytes >= shared.config.journal_block_bytes {
            self.flush(shared, shard)?;
        }
        while self.bytes > shared.config.journal_bytes && self.remove_oldest(shared) {}
        Ok(())
    }

    /// Writes what is gathered in memory to the shard's file.
    fn flush(&mut self, shared: &Arc<Shared>, shard: u64) -> io::Result<()> {
        let journal = self.shards.entry(shard).or_default();
        let Some(newest) = journal.tail.last() else {
            return Ok(());
        };
        let last_stamp = newest.stamp_ms;
        let full = journal
            .files
            .back()
            .is_none_or(|file| file.bytes >= shared.config.journal_segment_bytes);
        let mut out = Vec::with_capacity(FILE_HEADER + journal.tail_bytes + 64);
        let starts_file = full || journal.active.is_none();
        if starts_file {
            let number = journal.next_file;
            out.extend_from_slice(&header(shared.store, shard, number).encode());
            journal.active = Some(shared.disk.create(&path(shard, number))?);
            journal.next_file += 1;
            let blocks = Vec::new();
            journal.files.push_back(JournalFile {
                number,
                bytes: 0,
                last_stamp,
                blocks,
            });
            self.created = true;
        }
        let file = journal
            .files
            .back_mut()
            .expect("there is one, or it was just added");
        let active = journal
            .active
            .as_ref()
            .expect("it is open, or was just created");
        let at = out.len();
        let seed = header(shared.store, shard, file.number).seed();
        put_frame(&mut out, seed, journal.next_sequence, 0, |out| {
            for item in &journal.tail {
                out.extend_from_slice(&item.index.to_le_bytes());
                out.extend_from_slice(&item.stamp_ms.to_le_bytes());
                put_sized(out, &item.payload);
            }
        });
        active.write_at(file.bytes, &out)?;
        let offset = file.bytes + at as u64;
        file.blocks
            .extend(Block::new(offset, out.len() - at, &journal.tail));
        file.bytes += out.len() as u64;
        file.last_stamp = last_stamp;
        journal.unsynced.insert(file.number, Arc::clone(active));
        journal.next_sequence += 1;
        self.bytes = self.bytes + out.len() as u64 - journal.tail_bytes as u64;
        journal.tail.clear();
        journal.tail_bytes = 0;
        if starts_file {
            self.trim(shared, shard, last_stamp);
        }
        Ok(())
    }

    /// Removes the shard's files that are older than the retention.
    fn trim(&mut self, shared: &Arc<Shared>, shard: u64, now_ms: u64) {
        let retention = u64::try_from(shared.config.journal_retention.as_millis());
        let oldest = now_ms.saturating_sub(retention.unwrap_or(u64::MAX));
        while let Some(journal) = self.shards.get(&shard)
            && let Some(file) = journal.files.front()
            && file.last_stamp < oldest
        {
            self.remove_first(shared, shard);
        }
    }

    /// Removes the file whose last item is oldest; `false` if there is none.
    fn remove_oldest(&mut self, shared: &Arc<Shared>) -> bool {
        let fronts = self.shards.iter().filter_map(|(shard, journal)| {
            journal.files.front().map(|file| (file.last_stamp, *shard))
        });
        let Some((_, shard)) = fronts.min() else {
            return false;
        };
        self.remove_first(shared, shard);
        true
    }

    fn remove_first(&mut self, shared: &Arc<Shared>, shard: u64) {
        let journal = self
            .shards
            .get_mut(&shard)
            .expect("the caller looked at its first file");
        let file = journal
            .files
            .pop_front()
            .expect("the caller looked at its first file");
        let last_index = file.blocks.last().map(|block| block.last_index);
        journal.start = last_index.map_or(journal.start, |last| last + 1);
        journal.unsynced.remove(&file.number);
        if journal.files.is_empty() {
            journal.active = None;
        }
        self.bytes -= file.bytes;
        self.removed += 1;
        self.tell_mark(shared, shard, vec![path(shard, file.number)], None);
    }

    /// Empties a shard's journal; see [`Journal::replace`].
    pub(super) fn restart(
        &mut self,
        shared: &Arc<Shared>,
        shard: u64,
        first_index: u64,
        done: Option<Done>,
    ) {
        let journal = self.shards.entry(shard).or_default();
        let files: Vec<_> = journal
            .files
            .drain(..)
            .map(|file| (path(shard, file.number), file.bytes))
            .collect();
        let file_bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
        self.bytes -= file_bytes + journal.tail_bytes as u64;
        journal.tail.clear();
        journal.tail_bytes = 0;
        journal.active = None;
        journal.unsynced.clear();
        journal.start = first_index;
        journal.last = None;
        self.tell_mark(
            shared,
            shard,
            files.into_iter().map(|(path, _)| path).collect(),
            done,
        );
    }

    /// Gives the shard's mark to the log, and removes `files` when it is durable.
    fn tell_mark(
        &mut self,
        shared: &Arc<Shared>,
        shard: u64,
        files: Vec<String>,
        done: Option<Done>,
    ) {
        let journal = self.shards.get_mut(&shard).expect("the caller has it");
        let mark = journal.mark();
        journal.marked = mark;
        let remover = Arc::clone(shared);
        shared.submit_inside(
            Record::Journal { shard, mark },
            Box::new(move |result| {
                if result.is_ok() {
                    for file in files {
                        remover.remove_later(file);
                    }
                }
                if let Some(done) = done {
                    done(result);
                }
            }),
        );
    }

    /// Finds the blocks and items of a page.
    fn plan(&self, shard: u64, after: Option<u64>, max_items: usize, max_bytes: usize) -> Plan {
        let range = self.range(shard);
        let mut plan = Plan {
            range,
            blocks: Vec::new(),
            tail: Vec::new(),
        };
        let Some(journal) = self.shards.get(&shard) else {
            return plan;
        };
        let wanted = |last: u64| after.is_none_or(|after| last > after);
        // Of the first block, only the last item is sure to be wanted.
        let (mut items, mut bytes) = (0_usize, 0_usize);
        let max_bytes = max_bytes.max(1);
        for file in &journal.files {
            if file
                .blocks
                .last()
                .is_none_or(|block| !wanted(block.last_index))
            {
                continue;
            }
            let begin = file
                .blocks
                .partition_point(|block| !wanted(block.last_index));
            for block in &file.blocks[begin..] {
                if items >= max_items || bytes >= max_bytes {
                    return plan;
                }
                if plan.blocks.is_empty() {
                    items = 1;
                } else {
                    items += block.items as usize;
                    bytes += block.payload_bytes as usize;
                }
                plan.blocks.push((file.number, *block));
            }
        }
        if items >= max_items || bytes >= max_bytes {
            return plan;
        }
        plan.tail = journal
            .tail
            .iter()
            .filter(|item| wanted(item.index))
            .cloned()
            .collect();
        plan
    }

    /// Finds the blocks and items of a page that is read back; the blocks newest first.
    fn plan_back(
        &self,
        shard: u64,
        before: Option<u64>,
        max_items: usize,
        max_bytes: usize,
    ) -> Plan {
        let mut plan = Plan {
            range: self.range(shard),
            blocks: Vec::new(),
            tail: Vec::new(),
        };
        let Some(journal) = self.shards.get(&shard) else {
            return plan;
        };
        let wanted = |index: u64| before.is_none_or(|before| index < before);
        let (mut items, mut bytes) = (0_usize, 0_usize);
        let max_bytes = max_bytes.max(1);
        for item in journal.tail.iter().rev().filter(|item| wanted(item.index)) {
            if items >= max_items || bytes >= max_bytes {
                return plan;
            }
            items += 1;
            bytes += item.payload.len();
            plan.tail.push(item.clone());
        }
        let last_index = |file: &JournalFile| file.blocks.last().map(|block| block.last_index);
        let older = |file: &JournalFile| last_index(file).is_none_or(wanted);
        let whole_files = journal.files.partition_point(older);
        for file in journal.files.iter().take(whole_files + 1).rev() {
            let whole = file
                .blocks
                .partition_point(|block| wanted(block.last_index));
            // Of the block after them, some items may be wanted, or none.
            let end = file.blocks.len().min(whole + 1);
            for (at, block) in file.blocks[..end].iter().enumerate().rev() {
                if items >= max_items || bytes >= max_bytes {
                    return plan;
                }
                if at < whole {
                    items += block.items as usize;
                    bytes += block.payload_bytes as usize;
                }
                plan.blocks.push((file.number, *block));
            }
        }
        plan
    }

    fn find(&self, shard: u64, stamp_ms: u64) -> JournalMoment {
        let Some(journal) = self.shards.get(&shard) else {
            return JournalMoment::default();
        };
        let mut moment = JournalMoment::default();
        for file in &journal.files {
            let older = file
                .blocks
                .partition_point(|block| block.last_stamp < stamp_ms);
            let last = older
                .checked_sub(1)
                .map(|last| file.blocks[last].last_index);
            moment.before = last.or(moment.before);
            let mut rest = file.blocks[older..].iter();
            if let Some(block) = rest.find(|block| block.last_stamp > stamp_ms) {
                moment.after = Some(block.last_index + 1);
                return moment;
            }
        }
        moment
    }

    /// Writes out a shard's journal and gives what is to be synced, with the place up to which it
    /// is durable then.
    fn begin_sync(&mut self, shared: &Arc<Shared>, shard: u64) -> io::Result<Option<PendingSync>> {
        if !self.shards.contains_key(&shard) {
            return Ok(None);
        }
        self.flush(shared, shard)?;
        let journal = self.shards.get_mut(&shard).expect("it was there before");
        let Some(last) = journal.files.back() else {
            return Ok(None);
        };
        let reached = (last.number, last.bytes);
        let files = std::mem::take(&mut journal.unsynced)
            .into_values()
            .collect();
        let created = std::mem::take(&mut self.created);
        Ok(Some(PendingSync {
            files,
            created,
            reached,
        }))
    }
}

struct PendingSync {
    files: Vec<Arc<dyn DiskFile>>,
    created: bool,
    reached: (u64, u64),
}

/// Makes what was appended to a shard's journal durable; blocks.
pub(super) fn sync(shared: &Arc<Shared>, shard: u64) -> io::Result<()> {
    let Some(pending) = shared.journals().begin_sync(shared, shard)? else {
        return Ok(());
    };
    for file in &pending.files {
        file.sync()?;
    }
    if pending.created {
        shared.disk.sync_dir(DIR)?;
    }
    let mut journals = shared.journals();
    if let Some(journal) = journals.shards.get_mut(&shard) {
        journal.durable = journal.durable.max(pending.reached);
        if journal.mark() != journal.marked {
            journals.tell_mark(shared, shard, Vec::new(), None);
        }
    }
    Ok(())
}

/// Makes all journals durable; blocks.
pub(super) fn sync_all(shared: &Arc<Shared>) -> io::Result<()> {
    let shards: Vec<u64> = shared.journals().shards.keys().copied().collect();
    shards.into_iter().try_for_each(|shard| sync(shared, shard))
}

/// Reads blocks of a shard's files.
struct Blocks<'a> {
    shared: &'a Shared,
    shard: u64,
    /// The file that was read last, which is likely to be read next.
    open: Option<(u64, Arc<dyn DiskFile>)>,
}

impl Blocks<'_> {
    /// Reads the items of a block; `None` if its file is gone.
    fn read(&mut self, number: u64, block: Block) -> Result<Option<Vec<JournalItem>>, StoreError> {
        let unreadable = |reason: String| StoreError::Unreadable {
            file: PathBuf::from(path(self.shard, number)),
            reason: reason.into(),
        };
        let file = match &self.open {
            Some((same, file)) if *same == number => Arc::clone(file),
            _ => match self.shared.disk.open(&path(self.shard, number)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(unreadable(error.to_string())),
            },
        };
        let read = file.read_at(block.offset, block.bytes as usize);
        self.open = Some((number, file));
        let read = Bytes::from(read.map_err(|error| unreadable(error.to_string()))?);
        let seed = header(self.shared.store, self.shard, number).seed();
        let decoded = read_frame(&read, 0, seed)
            .and_then(|frame| decode(&read.slice(frame.body)))
            .map_err(|fault| unreadable(format!("{} at byte {}", fault.reason(), block.offset)))?;
        Ok(Some(decoded))
    }
}

/// The items of a page as they are gathered.
struct Gathered {
    items: Vec<JournalItem>,
    bytes: usize,
    max_items: usize,
    max_bytes: usize,
}

impl Gathered {
    fn new(max_items: usize, max_bytes: usize) -> Self {
        Self {
            items: Vec::new(),
            bytes: 0,
            max_items,
            max_bytes,
        }
    }

    /// Takes an item; false if there is no room for it.
    fn take(&mut self, item: JournalItem) -> bool {
        let fits = self.items.is_empty() || self.bytes + item.payload.len() <= self.max_bytes;
        if self.items.len() == self.max_items || !fits {
            return false;
        }
        self.bytes += item.payload.len();
        self.items.push(item);
        true
    }
}

impl Plan {
    /// Reads the planned page; `None` if a file is gone.
    fn read(
        self,
        shared: &Shared,
        shard: u64,
        after: Option<u64>,
        max_items: usize,
        max_bytes: usize,
    ) -> Result<Option<JournalPage>, StoreError> {
        let mut page = Gathered::new(max_items, max_bytes);
        let mut blocks = Blocks {
            shared,
            shard,
            open: None,
        };
        let mut room = true;
        for (number, block) in self.blocks {
            if !room {
                break;
            }
            let Some(items) = blocks.read(number, block)? else {
                return Ok(None);
            };
            let mut wanted = items
                .into_iter()
                .filter(|item| after.is_none_or(|after| item.index > after));
            room = wanted.all(|item| page.take(item));
        }
        if room {
            self.tail.into_iter().all(|item| page.take(item));
        }
        Ok(Some(JournalPage {
            items: page.items,
            range: self.range,
        }))
    }

    /// Reads the planned page of items before `before`; `None` if a file is gone.
    fn read_back(
        self,
        shared: &Shared,
        shard: u64,
        before: Option<u64>,
        max_items: usize,
        max_bytes: usize,
    ) -> Result<Option<JournalPage>, StoreError> {
        let mut page = Gathered::new(max_items, max_bytes);
        let mut blocks = Blocks {
            shared,
            shard,
            open: None,
        };
        let mut room = self.tail.into_iter().all(|item| page.take(item));
        for (number, block) in self.blocks {
            if !room {
                break;
            }
            let Some(items) = blocks.read(number, block)? else {
                return Ok(None);
            };
            let mut wanted = items
                .into_iter()
                .rev()
                .filter(|item| before.is_none_or(|before| item.index < before));
            room = wanted.all(|item| page.take(item));
        }
        page.items.reverse();
        Ok(Some(JournalPage {
            items: page.items,
            range: self.range,
        }))
    }
}

fn decode(body: &Bytes) -> Result<Vec<JournalItem>, Fault> {
    let mut fields = Fields::new(body);
    let mut items = Vec::new();
    while !fields.is_empty() {
        let mut read = || {
            let index = fields.u64()?;
            let stamp_ms = fields.u64()?;
            Some(JournalItem {
                index,
                stamp_ms,
                payload: body.slice_ref(fields.sized()?),
            })
        };
        items.push(read().ok_or_else(|| Fault::damaged(0, "an item of unknown shape"))?);
    }
    Ok(items)
}

impl ShardJournal {
    /// Verifies the shard's files up to the mark and cuts off what lies beyond.
    fn open(
        disk: &dyn Disk,
        store: u64,
        shard: u64,
        mark: JournalMark,
        numbers: &[u64],
    ) -> Result<Self, OpenError> {
        let mut journal = Self {
            start: mark.start,
            durable: (mark.file, mark.offset),
            marked: mark,
            next_file: mark.first_file.max(1),
            ..Self::default()
        };
        let end = if mark.offset > 0 {
            mark.file + 1
        } else {
            mark.first_file
        };
        for &number in numbers {
            if !(mark.first_file..end).contains(&number) {
                let file = path(shard, number);
                disk.remove(&file).map_err(io("remove", &file))?;
            }
        }
        for number in mark.first_file..end {
            let name = path(shard, number);
            if !numbers.contains(&number) {
                let reason = format!("the journal of shard {shard} continues in it");
                return Err(OpenError::Missing {
                    file: name.into(),
                    reason,
                });
            }
            let file = disk.open(&name).map_err(io("open", &name))?;
            let length = file.len().map_err(io("read", &name))?;
            let limit = if number == mark.file {
                mark.offset
            } else {
                length
            };
            if length < limit {
                let reason = format!("the file ends, though {limit} bytes of it were synced");
                return Err(Fault::damaged(length as usize, reason).within(name));
            }
            let bytes = file.read_at(0, limit as usize).map_err(io("read", &name))?;
            let read = journal
                .read_file(&header(store, shard, number), &bytes)
                .map_err(|fault| fault.within(&name))?;
            if length > limit {
                file.set_len(limit).map_err(io("write", &name))?;
            }
            journal.files.push_back(read);
            journal.next_file = number + 1;
            journal.active = Some(file);
        }
        Ok(journal)
    }

    fn read_file(&mut self, header: &FileHeader, bytes: &[u8]) -> Result<JournalFile, Fault> {
        header.check(bytes)?;
        let seed = header.seed();
        let mut file = JournalFile {
            number: header.number,
            bytes: bytes.len() as u64,
            last_stamp: 0,
            blocks: Vec::new(),
        };
        let mut at = FILE_HEADER;
        while at < bytes.len() {
            let frame = read_frame(bytes, at, seed)?;
            // The first frame of all may have any sequence: files before it may have been removed.
            if self.last.is_some() && frame.sequence != self.next_sequence {
                return Err(Fault::damaged(at, "the frames are out of order"));
            }
            self.next_sequence = frame.sequence + 1;
            let items = decode(&Bytes::copy_from_slice(&bytes[frame.body.clone()]))?;
            let newest = items
                .last()
                .ok_or_else(|| Fault::damaged(at, "an empty frame"))?;
            self.last = Some(newest.index);
            file.last_stamp = newest.stamp_ms;
            file.blocks
                .extend(Block::new(at as u64, frame.body.end - at, &items));
            at = frame.body.end;
        }
        if file.blocks.is_empty() {
            return Err(Fault::damaged(at, "the file ends before its first frame"));
        }
        Ok(file)
    }
}

/// Opens all journals.
pub(super) fn open(
    disk: &dyn Disk,
    store: u64,
    marks: &BTreeMap<u64, JournalMark>,
) -> Result<Journals, OpenError> {
    let mut numbers: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for name in list(disk, DIR)? {
        if let Some((shard, number)) = parse(&name) {
            numbers.entry(shard).or_default().push(number);
        }
    }
    for shard in marks.keys() {
        numbers.entry(*shard).or_default();
    }
    let mut journals = Journals::default();
    for (shard, numbers) in numbers {
        let unmarked = JournalMark {
            first_file: 1,
            file: 1,
            ..JournalMark::default()
        };
        let mark = marks.get(&shard).copied().unwrap_or(unmarked);
        let journal = ShardJournal::open(disk, store, shard, mark, &numbers)?;
        journals.bytes += journal.files.iter().map(|file| file.bytes).sum::<u64>();
        if !journal.is_empty() || marks.contains_key(&shard) {
            journals.shards.insert(shard, journal);
        }
    }
    Ok(journals)
}
