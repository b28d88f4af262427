//! Snapshots: a file for each group, replaced as a whole.
//!
//! Frame 0 is the meta, then comes a frame for each chunk, then an end frame. A file counts once a
//! record in the log names it, which is written after the file, its name and the journal are
//! durable; at open, files that no record names are removed, and those that one names are verified.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::{Disk, DiskFile};
use super::frame::{FILE_HEADER, FRAME_HEADER, Fault, FileHeader, FileKind, put_frame, read_frame};
use super::log::{io, list};
use super::record::Record;
use super::shared::{Shared, State};
use super::{JournalStep, OpenError, StoreError};

/// The directory of the snapshots.
pub(super) const DIR: &str = "snapshots";
/// What the end frame has for `durable`; a chunk has 0.
const END: u64 = u64::MAX;
/// The largest chunk, in bytes.
const MAX_CHUNK: usize = 64 << 20;

fn path(group: u64, number: u64) -> String {
    format!("{DIR}/{group}-{number}.snap")
}

fn parse(name: &str) -> Option<(u64, u64)> {
    let (group, number) = name.strip_suffix(".snap")?.split_once('-')?;
    Some((group.parse().ok()?, number.parse().ok()?))
}

/// A durable snapshot's file. Stays open, so that it can be read after it was replaced.
#[derive(Debug)]
pub(super) struct SnapshotFile {
    pub(super) path: String,
    file: Arc<dyn DiskFile>,
    seed: u32,
    meta: Bytes,
    /// Offset and length of each chunk's frame.
    frames: Vec<(u64, usize)>,
    chunk_bytes: u64,
    pub(super) file_bytes: u64,
}

/// Verifies the snapshots that the log names and removes all other files. Gives them by group, and
/// the number for the next snapshot.
pub(super) fn open(
    disk: &dyn Disk,
    store: u64,
    named: &BTreeMap<u64, u64>,
) -> Result<(BTreeMap<u64, Arc<SnapshotFile>>, u64), OpenError> {
    for name in list(disk, DIR)? {
        let unnamed = |(group, number)| named.get(&group) != Some(&number);
        if parse(&name).map_or(name.ends_with(".tmp"), unnamed) {
            let file = format!("{DIR}/{name}");
            disk.remove(&file).map_err(io("remove", &file))?;
        }
    }
    let mut snapshots = BTreeMap::new();
    for (&group, &number) in named {
        snapshots.insert(group, Arc::new(load(disk, store, group, number)?));
    }
    Ok((
        snapshots,
        named.values().max().map_or(1, |number| number + 1),
    ))
}

fn load(disk: &dyn Disk, store: u64, group: u64, number: u64) -> Result<SnapshotFile, OpenError> {
    let path = path(group, number);
    let file = disk.open(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => OpenError::Missing {
            file: path.clone().into(),
            reason: format!("the log names it as the snapshot of group {group}"),
        },
        _ => io("open", &path)(error),
    })?;
    let length = file.len().map_err(io("read", &path))?;
    let bytes = file
        .read_at(0, length as usize)
        .map_err(io("read", &path))?;
    let header = FileHeader {
        kind: FileKind::Snapshot,
        store,
        owner: group,
        number,
    };
    let seed = header.seed();
    let read = || {
        header.check(&bytes)?;
        let mut meta = None;
        let mut frames = Vec::new();
        let mut chunk_bytes = 0;
        let mut at = FILE_HEADER;
        for sequence in 0.. {
            let frame = read_frame(&bytes, at, seed)?;
            if frame.sequence != sequence {
                return Err(Fault::damaged(at, "the frames are out of order"));
            }
            let body = frame.body;
            if frame.durable == END {
                if body.end != bytes.len() {
                    return Err(Fault::damaged(body.end, "something follows the end"));
                }
                break;
            }
            if meta.is_none() {
                meta = Some(Bytes::copy_from_slice(&bytes[body.clone()]));
            } else {
                frames.push((at as u64, body.end - at));
                chunk_bytes += body.len() as u64;
            }
            at = body.end;
        }
        let meta = meta.ok_or_else(|| Fault::damaged(FILE_HEADER, "the meta is missing"))?;
        Ok((meta, frames, chunk_bytes))
    };
    let (meta, frames, chunk_bytes) = read().map_err(|fault: Fault| fault.within(&path))?;
    Ok(SnapshotFile {
        path,
        file,
        seed,
        meta,
        frames,
        chunk_bytes,
        file_bytes: length,
    })
}

/// A durable snapshot. Stays readable while it is held, even if a newer one takes its place.
#[derive(Debug, Clone)]
pub struct SnapshotReader {
    pub(super) info: Arc<SnapshotFile>,
}

impl SnapshotReader {
    /// The meta given to [`Store::begin_snapshot`](super::Store::begin_snapshot).
    pub fn meta(&self) -> &Bytes {
        &self.info.meta
    }

    /// The number of chunks.
    pub fn chunks(&self) -> usize {
        self.info.frames.len()
    }

    /// Bytes of all chunks together.
    pub fn bytes(&self) -> u64 {
        self.info.chunk_bytes
    }

    /// Reads and verifies the chunk with this number, from 0 to [`chunks`](Self::chunks). Blocks
    /// for one read of a file.
    ///
    /// # Panics
    /// If there is no chunk of that number.
    pub fn chunk(&self, number: usize) -> Result<Bytes, StoreError> {
        let info = &*self.info;
        let (offset, length) = info.frames[number];
        let unreadable = |reason: String| StoreError::Unreadable {
            file: PathBuf::from(&info.path),
            reason: reason.into(),
        };
        let bytes = info
            .file
            .read_at(offset, length)
            .map_err(|e| unreadable(e.to_string()))?;
        let frame = read_frame(&bytes, 0, info.seed)
            .map_err(|fault| unreadable(format!("{}, in chunk {number}", fault.reason())))?;
        if frame.sequence != number as u64 + 1 {
            return Err(unreadable(format!(
                "another chunk in the place of chunk {number}"
            )));
        }
        Ok(Bytes::from(bytes).slice(frame.body))
    }
}

/// A snapshot being written.
#[derive(Debug)]
pub struct SnapshotWriter {
    shared: Arc<Shared>,
    group: u64,
    journal: JournalStep,
    /// Absent only while a job has it.
    file: Option<NewFile>,
}

/// The file of a snapshot that is not finished; removed when dropped.
#[derive(Debug)]
struct NewFile {
    shared: Arc<Shared>,
    group: u64,
    number: u64,
    header: FileHeader,
    meta: Bytes,
    /// Created with the first write.
    file: Option<Arc<dyn DiskFile>>,
    sequence: u64,
    offset: u64,
    frames: Vec<(u64, usize)>,
    chunk_bytes: u64,
    finished: bool,
}

impl SnapshotWriter {
    pub(super) fn new(shared: Arc<Shared>, group: u64, meta: Bytes, journal: JournalStep) -> Self {
        let number = shared.next_snapshot();
        let header = FileHeader {
            kind: FileKind::Snapshot,
            store: shared.store,
            owner: group,
            number,
        };
        let file = NewFile {
            shared: Arc::clone(&shared),
            group,
            number,
            header,
            meta,
            file: None,
            sequence: 0,
            offset: 0,
            frames: Vec::new(),
            chunk_bytes: 0,
            finished: false,
        };
        Self {
            shared,
            group,
            journal,
            file: Some(file),
        }
    }

    /// Adds a chunk; 256 KiB is a good size, 64 MiB the bound. Chunks are read back as they were
    /// written. If the future is dropped, so is the snapshot.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        if chunk.len() > MAX_CHUNK {
            let bytes = chunk.len();
            return Err(StoreError::TooLarge {
                what: "snapshot chunk",
                bytes,
                limit: MAX_CHUNK,
            });
        }
        let mut file = self.file.take().ok_or(StoreError::Closed)?;
        let file = self
            .shared
            .run(move |shared| match file.chunk(&chunk) {
                Ok(()) => Ok(file),
                Err(error) => Err(shared.poison(&format!("cannot write a snapshot: {error}"))),
            })
            .await?;
        self.file = Some(file);
        Ok(())
    }

    /// Makes the snapshot, and with it what [`JournalStep`] says, durable and puts it in the place
    /// of the former one. The log may be purged up to it when this has returned.
    pub async fn finish(mut self) -> Result<(), StoreError> {
        let file = self.file.take().ok_or(StoreError::Closed)?;
        let (group, journal) = (self.group, self.journal);
        let (number, info) = self
            .shared
            .run(move |shared| {
                let number = file.number;
                let done = file.finish().and_then(|info| {
                    if let JournalStep::Keep { shard } = journal {
                        shared.sync_journal(shard)?;
                    }
                    Ok(info)
                });
                match done {
                    Ok(info) => Ok((number, info)),
                    Err(error) => Err(shared.poison(&format!("cannot write a snapshot: {error}"))),
                }
            })
            .await?;
        if let JournalStep::Restart { shard, first_index } = journal {
            // If a crash comes before the next record, the journal begins later than it need.
            self.shared.restart_journal(shard, first_index, None);
        }
        let info = Arc::new(info);
        let path = info.path.clone();
        let record = Record::Snapshot { group, number };
        let shared = Arc::clone(&self.shared);
        let install = move || shared.install_snapshot(group, info);
        // A group that was dropped meanwhile must not come back.
        let enter = |state: &mut State| state.group(group).map(|_| record.clone());
        let weight = record.weight();
        let result = self.shared.submit_and_wait(weight, enter, install).await;
        if let Err(StoreError::Dropped { .. }) = &result {
            self.shared.remove_later(path);
        }
        result
    }
}

impl NewFile {
    fn aside(&self) -> String {
        format!("{DIR}/{}-{}.tmp", self.group, self.number)
    }

    fn put(&mut self, body: &[u8], durable: u64) -> io::Result<(u64, usize)> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(self.file.insert(self.shared.disk.create(&self.aside())?)),
        };
        let mut out = Vec::with_capacity(FILE_HEADER + 2 * FRAME_HEADER + body.len());
        if self.sequence == 0 {
            out.extend_from_slice(&self.header.encode());
            put_frame(&mut out, self.header.seed(), 0, 0, |out| {
                out.extend_from_slice(&self.meta);
            });
            self.sequence = 1;
        }
        let start = out.len();
        put_frame(
            &mut out,
            self.header.seed(),
            self.sequence,
            durable,
            |out| {
                out.extend_from_slice(body);
            },
        );
        let place = (self.offset + start as u64, out.len() - start);
        file.write_at(self.offset, &out)?;
        self.offset += out.len() as u64;
        self.sequence += 1;
        Ok(place)
    }

    fn chunk(&mut self, chunk: &[u8]) -> io::Result<()> {
        let place = self.put(chunk, 0)?;
        self.frames.push(place);
        self.chunk_bytes += chunk.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> io::Result<SnapshotFile> {
        self.put(&[], END)?;
        let file = self
            .file
            .take()
            .expect("the end frame was just written to it");
        file.sync()?;
        let path = path(self.group, self.number);
        self.shared.disk.rename(&self.aside(), &path)?;
        self.finished = true;
        self.shared.disk.sync_dir(DIR)?;
        Ok(SnapshotFile {
            path,
            file,
            seed: self.header.seed(),
            meta: std::mem::take(&mut self.meta),
            frames: std::mem::take(&mut self.frames),
            chunk_bytes: self.chunk_bytes,
            file_bytes: self.offset,
        })
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // A store that is no longer open may belong to somebody else by now; its next opening
        // removes the file.
        if !self.finished && self.file.is_some() && self.shared.is_open() {
            self.shared.remove_later(self.aside());
        }
    }
}
