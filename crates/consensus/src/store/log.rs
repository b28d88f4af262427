//! The write-ahead log: segments of frames, one frame for each batch, one sync for each frame.
//!
//! * A frame carries the next sequence number and the last one that was durable when it was written.
//! * A new segment is created, synced and entered in the floor before its first frame; that frame
//!   begins with a checkpoint of everything but the entries. So an older segment is needed only for
//!   entries, and goes when none of them is.
//! * At open, an invalid frame is the end of the log only if it is in the newest segment, beyond the
//!   floor, and no later frame header says that it was durable. Everything else is damage.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::OpenError;
use super::disk::{Disk, DiskFile};
use super::floor::{self, Floor};
use super::frame::{
    FILE_HEADER, Fault, Fields, FileHeader, FileKind, durable_after, put_frame, read_frame,
};
use super::ledger::Ledger;
use super::record::Record;

/// The directory of the segments.
pub(super) const DIR: &str = "log";

fn path(segment: u64) -> String {
    format!("{DIR}/{segment:012}.log")
}

fn parse(name: &str) -> Option<u64> {
    name.strip_suffix(".log")?.parse().ok()
}

/// The log, open for appending. Only the writer holds it.
#[derive(Debug)]
pub(super) struct Log {
    disk: Arc<dyn Disk>,
    segment_bytes: u64,
    file: Arc<dyn DiskFile>,
    seed: u32,
    /// Where the next frame goes.
    offset: u64,
    /// The sequence of the next frame.
    next: u64,
    /// What is durable; the floor file says so or something older.
    durable: Floor,
    /// What the floor file says.
    saved: Floor,
    ledger: Ledger,
    /// Bytes of each segment, the newest one's as of its last frame.
    sizes: BTreeMap<u64, u64>,
    buffer: Vec<u8>,
}

/// What one commit did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Committed {
    pub(super) bytes: u64,
}

impl Log {
    /// Opens the log, creating it if there is none, and hands every record in it to `replay`.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        replay: impl FnMut(Record),
    ) -> Result<Self, OpenError> {
        match Floor::load(&*disk)? {
            Some(floor) => Self::recover(disk, segment_bytes, floor, replay),
            None => Self::create(disk, segment_bytes),
        }
    }

    /// The number that all files of this store carry.
    pub(super) fn store(&self) -> u64 {
        self.durable.store
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn create(disk: Arc<dyn Disk>, segment_bytes: u64) -> Result<Self, OpenError> {
        // A crash during creation leaves at most an empty first segment. Anything else means that
        // the floor was lost.
        for name in list(&*disk, DIR)? {
            let file = format!("{DIR}/{name}");
            let length = disk
                .open(&file)
                .and_then(|file| file.len())
                .map_err(io("read", &file))?;
            if length > FILE_HEADER as u64 {
                let reason = "there are log segments, but nothing says which of their data was \
                              acknowledged";
                return Err(OpenError::Missing {
                    file: floor::FILE.into(),
                    reason: reason.into(),
                });
            }
            disk.remove(&file).map_err(io("remove", &file))?;
        }
        let store = disk.random();
        let (file, seed) = new_segment(&*disk, store, 1).map_err(io("create", &path(1)))?;
        let durable = Floor {
            store,
            first_segment: 1,
            segment: 1,
            offset: FILE_HEADER as u64,
            sequence: 0,
            clean: false,
        };
        durable.save(&*disk).map_err(io("write", floor::FILE))?;
        Ok(Self {
            disk,
            segment_bytes,
            file,
            seed,
            offset: durable.offset,
            next: 1,
            durable,
            saved: durable,
            ledger: Ledger::default(),
            sizes: BTreeMap::from([(1, durable.offset)]),
            buffer: Vec::new(),
        })
    }

    fn recover(
        disk: Arc<dyn Disk>,
        segment_bytes: u64,
        floor: Floor,
        mut replay: impl FnMut(Record),
    ) -> Result<Self, OpenError> {
        remove_leftovers(&*disk, &floor)?;
        let mut ledger = Ledger::default();
        let mut sizes = BTreeMap::new();
        let mut next = None;
        for segment in floor.first_segment..floor.segment {
            let read = Segment::read(&*disk, &floor, segment, &mut next, |record| {
                ledger.apply(&record, segment);
                replay(record);
            })?;
            if let Some(fault) = read.fault {
                return Err(fault.within(path(segment)));
            }
            // Where a segment has lost later frames, the next one does not continue it.
            if read.end == FILE_HEADER {
                let reason = "the segment is empty, though later ones follow";
                return Err(Fault::damaged(read.end, reason).within(path(segment)));
            }
            sizes.insert(segment, read.end as u64);
        }
        let newest = floor.segment;
        let read = Segment::read(&*disk, &floor, newest, &mut next, |record| {
            ledger.apply(&record, newest);
            replay(record);
        })?;
        let next = next.unwrap_or(floor.sequence + 1);
        read.check_end(&floor, next)
            .map_err(|fault| fault.within(path(newest)))?;

        let end = read.end as u64;
        let written = io("write", &path(newest));
        if let Some(fault) = &read.fault {
            tracing::info!(
                segment = newest,
                offset = end,
                bytes = read.bytes.len() - read.end,
                reason = fault.reason(),
                "cutting off the end of the log, which a crash tore before it was acknowledged"
            );
            read.file.set_len(end).map_err(&written)?;
        }
        if end > floor.offset {
            // What lies beyond the floor may never have reached the disk, though it was read back:
            // after a failed sync the system may take it for clean. Writing it again makes the sync
            // below mean what it says.
            let tail = &read.bytes[floor.offset as usize..read.end];
            read.file.write_at(floor.offset, tail).map_err(&written)?;
        }
        read.file.sync().map_err(&written)?;
        let durable = Floor {
            offset: end,
            sequence: next - 1,
            clean: false,
            ..floor
        };
        durable.save(&*disk).map_err(io("write", floor::FILE))?;
        sizes.insert(newest, end);
        Ok(Self {
            seed: read.seed,
            file: read.file,
            disk,
            segment_bytes,
            offset: end,
            next,
            durable,
            saved: durable,
            ledger,
            sizes,
            buffer: Vec::new(),
        })
    }

    /// Writes the records as one frame and syncs it. After an error the log must not be used again.
    pub(super) fn commit(&mut self, records: &[Record]) -> io::Result<Committed> {
        if self.offset >= self.segment_bytes.max(FILE_HEADER as u64 + 1) {
            self.rotate()?;
        }
        let segment = self.durable.segment;
        let first = self.offset == FILE_HEADER as u64;
        let ledger = &self.ledger;
        self.buffer.clear();
        put_frame(
            &mut self.buffer,
            self.seed,
            self.next,
            self.durable.sequence,
            |out| {
                if first {
                    ledger.checkpoint(out);
                }
                for record in records {
                    record.encode(out);
                }
            },
        );
        let bytes = self.append()?;
        self.file.sync()?;
        self.mark_durable();
        for record in records {
            self.ledger.apply(record, segment);
        }
        Ok(Committed { bytes })
    }

    /// Adds an empty frame, not synced, that says that everything before it is durable. If only the
    /// process ends, and not the machine, it protects the last batch as the floor will later.
    pub(super) fn seal(&mut self) -> io::Result<()> {
        if self.offset > FILE_HEADER as u64 {
            self.buffer.clear();
            put_frame(
                &mut self.buffer,
                self.seed,
                self.next,
                self.durable.sequence,
                |_| {},
            );
            self.append()?;
        }
        Ok(())
    }

    /// Whether the floor file lags behind.
    pub(super) fn floor_is_old(&self) -> bool {
        self.saved != self.durable
    }

    /// Brings the floor file up to date.
    pub(super) fn save_floor(&mut self) -> io::Result<()> {
        self.durable.save(&*self.disk)?;
        self.saved = self.durable;
        Ok(())
    }

    /// Removes the segments at the old end that hold nothing that is needed. Called after a commit,
    /// so that the newest segment begins with a durable checkpoint.
    pub(super) fn reclaim(&mut self) -> io::Result<()> {
        let needed = self
            .ledger
            .oldest_live()
            .unwrap_or(u64::MAX)
            .min(self.durable.segment);
        let first = self.durable.first_segment;
        if needed <= first {
            return Ok(());
        }
        self.durable.first_segment = needed;
        self.save_floor()?;
        for segment in first..needed {
            self.disk.remove(&path(segment))?;
            self.sizes.remove(&segment);
        }
        Ok(())
    }

    /// Some entries to be written again, by group and index, if old segments are kept for the sake
    /// of few entries: when they are done, the oldest segment can go.
    pub(super) fn to_rewrite(&self, max_bytes: u64) -> Vec<(u64, u64)> {
        let bound = 2 * self.ledger.live_bytes() + 3 * self.segment_bytes;
        let oldest = self.durable.first_segment;
        if self.bytes() <= bound || oldest >= self.durable.segment {
            return Vec::new();
        }
        self.ledger.entries_in(oldest, max_bytes)
    }

    /// Says in the floor that the log ends here. Nothing may be written afterwards.
    pub(super) fn close(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.mark_durable();
        self.durable.clean = true;
        self.save_floor()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.sizes.values().sum()
    }

    pub(super) fn segments(&self) -> u64 {
        self.sizes.len() as u64
    }

    /// Writes the frame that the buffer holds.
    fn append(&mut self) -> io::Result<u64> {
        self.file.write_at(self.offset, &self.buffer)?;
        let bytes = self.buffer.len() as u64;
        self.offset += bytes;
        self.next += 1;
        self.sizes.insert(self.durable.segment, self.offset);
        if self.buffer.capacity() > 16 << 20 {
            self.buffer = Vec::new();
        }
        Ok(bytes)
    }

    fn mark_durable(&mut self) {
        self.durable.offset = self.offset;
        self.durable.sequence = self.next - 1;
    }

    fn rotate(&mut self) -> io::Result<()> {
        // The old segment may end with an unsynced seal, but must be whole when it is not the newest.
        self.file.sync()?;
        self.mark_durable();
        let segment = self.durable.segment + 1;
        let (file, seed) = new_segment(&*self.disk, self.durable.store, segment)?;
        self.file = file;
        self.seed = seed;
        self.offset = FILE_HEADER as u64;
        self.durable.segment = segment;
        self.durable.offset = self.offset;
        self.sizes.insert(segment, self.offset);
        self.save_floor()
    }
}

fn header(store: u64, segment: u64) -> FileHeader {
    FileHeader {
        kind: FileKind::Log,
        store,
        owner: 0,
        number: segment,
    }
}

fn new_segment(disk: &dyn Disk, store: u64, segment: u64) -> io::Result<(Arc<dyn DiskFile>, u32)> {
    let header = header(store, segment);
    let file = disk.create(&path(segment))?;
    file.write_at(0, &header.encode())?;
    file.sync()?;
    disk.sync_dir(DIR)?;
    Ok((file, header.seed()))
}

/// Turns an error of the operating system into one that names the file.
pub(super) fn io(action: &'static str, file: &str) -> impl Fn(io::Error) -> OpenError + use<> {
    let file = std::path::PathBuf::from(file);
    move |source| OpenError::Io {
        action,
        file: file.clone(),
        source,
    }
}

/// The files of a directory, in order of their names.
pub(super) fn list(disk: &dyn Disk, dir: &str) -> Result<Vec<String>, OpenError> {
    let mut names = disk.list(dir).map_err(io("list", dir))?;
    names.sort();
    Ok(names)
}

/// Removes segments that are not needed, and one that was being created when a crash came.
fn remove_leftovers(disk: &dyn Disk, floor: &Floor) -> Result<(), OpenError> {
    for name in list(disk, DIR)? {
        let file = format!("{DIR}/{name}");
        let damaged = |reason: &str| Fault::damaged(0, reason).within(&file);
        let segment = parse(&name).ok_or_else(|| damaged("this is not a file of the store"))?;
        if segment > floor.segment {
            let length = disk
                .open(&file)
                .and_then(|file| file.len())
                .map_err(io("read", &file))?;
            if length > FILE_HEADER as u64 {
                return Err(damaged(
                    "the floor does not know of this segment, yet it holds data",
                ));
            }
        } else if segment >= floor.first_segment {
            continue;
        }
        disk.remove(&file).map_err(io("remove", &file))?;
    }
    Ok(())
}

/// A segment as it was read.
struct Segment {
    file: Arc<dyn DiskFile>,
    seed: u32,
    bytes: Vec<u8>,
    /// Where the valid frames end.
    end: usize,
    /// The highest durable sequence that they name.
    durable: u64,
    /// What is wrong at `end`, if that is not the file's end.
    fault: Option<Fault>,
}

impl Segment {
    /// Reads and verifies a segment. `next` is the sequence of its first frame, if known.
    fn read(
        disk: &dyn Disk,
        floor: &Floor,
        segment: u64,
        next: &mut Option<u64>,
        mut replay: impl FnMut(Record),
    ) -> Result<Self, OpenError> {
        let name = path(segment);
        let file = disk.open(&name).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => OpenError::Missing {
                file: name.clone().into(),
                reason: format!(
                    "the log consists of segments {} to {}",
                    floor.first_segment, floor.segment
                ),
            },
            _ => io("open", &name)(error),
        })?;
        let length = file.len().map_err(io("read", &name))?;
        let bytes = file
            .read_at(0, length as usize)
            .map_err(io("read", &name))?;
        let header = header(floor.store, segment);
        header.check(&bytes).map_err(|fault| fault.within(&name))?;
        let seed = header.seed();
        let mut read = Self {
            file,
            seed,
            bytes,
            end: FILE_HEADER,
            durable: 0,
            fault: None,
        };
        while read.end < read.bytes.len() {
            let frame = match read_frame(&read.bytes, read.end, seed) {
                Ok(frame) => frame,
                Err(fault) => {
                    read.fault = Some(fault);
                    break;
                }
            };
            if let Some(expected) = *next
                && expected != frame.sequence
            {
                let reason = format!("frame {} where {expected} should be", frame.sequence);
                return Err(Fault::damaged(read.end, reason).within(&name));
            }
            *next = Some(frame.sequence + 1);
            let body = frame.body.clone();
            let mut fields = Fields::new(&read.bytes[body.clone()]);
            while !fields.is_empty() {
                let at = body.start + fields.position();
                let record = Record::decode(&mut fields).ok_or_else(|| {
                    Fault::damaged(at, "a record of unknown kind or shape").within(&name)
                })?;
                replay(record);
            }
            read.durable = read.durable.max(frame.durable);
            read.end = body.end;
        }
        Ok(read)
    }

    /// Checks that what lies at the end of the newest segment was never acknowledged. `next` is the
    /// sequence of the frame that should be there.
    fn check_end(&self, floor: &Floor, next: u64) -> Result<(), Fault> {
        let damaged = |reason: String| Fault::damaged(self.end, reason);
        let reason = self.fault.as_ref().map(Fault::reason);
        let reason = reason.unwrap_or_else(|| "the file ends too early".to_owned());
        let end = self.end as u64;
        if end < floor.offset {
            return Err(damaged(format!(
                "{reason}, though data up to byte {} was acknowledged",
                floor.offset
            )));
        }
        if floor.clean && (end > floor.offset || self.fault.is_some()) {
            return Err(damaged(
                "data follows, though the store was closed before it".to_owned(),
            ));
        }
        if self.fault.is_none() {
            return Ok(());
        }
        let later = durable_after(&self.bytes, self.end, self.seed);
        match later.max(Some(self.durable)).max(Some(floor.sequence)) {
            Some(durable) if durable >= next => Err(damaged(format!(
                "{reason}, though frame {next} was acknowledged"
            ))),
            _ => Ok(()),
        }
    }
}
