//! The floor: a small file that says how much of the log is known to be durable.
//!
//! Without it a damaged end of the log could not be told from one that a crash tore. It is replaced
//! as a whole (written aside, synced, renamed), so that it is valid at any time: a floor that cannot
//! be read is damage, never a torn write.

use std::io;

use super::OpenError;
use super::disk::Disk;
use super::frame::{FILE_HEADER, Fault, Fields, FileHeader, FileKind, put_frame, read_frame};

/// The floor's name in the store's directory.
pub(super) const FILE: &str = "floor";
const ASIDE: &str = "floor.tmp";

/// What is known to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Floor {
    pub(super) store: u64,
    /// The oldest segment that is needed; earlier ones may be removed.
    pub(super) first_segment: u64,
    /// The newest segment.
    pub(super) segment: u64,
    /// The newest segment is durable up to here.
    pub(super) offset: u64,
    /// The sequence of the last durable frame.
    pub(super) sequence: u64,
    /// The store was closed in order: the newest segment ends at `offset`.
    pub(super) clean: bool,
}

impl Floor {
    fn header(&self) -> FileHeader {
        FileHeader {
            kind: FileKind::Floor,
            store: self.store,
            owner: 0,
            number: 0,
        }
    }

    /// Replaces the floor, durably.
    pub(super) fn save(&self, disk: &dyn Disk) -> io::Result<()> {
        let header = self.header();
        let mut bytes = header.encode().to_vec();
        put_frame(&mut bytes, header.seed(), 0, 0, |out| {
            for number in [self.first_segment, self.segment, self.offset, self.sequence] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.push(u8::from(self.clean));
        });
        // What a crash left of an earlier attempt.
        match disk.remove(ASIDE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let file = disk.create(ASIDE)?;
        file.write_at(0, &bytes)?;
        file.sync()?;
        disk.rename(ASIDE, FILE)?;
        disk.sync_dir("")
    }

    /// Reads the floor; `None` if there is none.
    pub(super) fn load(disk: &dyn Disk) -> Result<Option<Self>, OpenError> {
        let bytes = match disk
            .open(FILE)
            .and_then(|file| file.read_at(0, file.len()? as usize))
        {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(OpenError::Io {
                    action: "read",
                    file: FILE.into(),
                    source,
                });
            }
        };
        Self::decode(&bytes)
            .map(Some)
            .map_err(|fault| fault.within(FILE))
    }

    fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let store = FileHeader::read_store(bytes, FileKind::Floor, 0, 0)?;
        let seed = FileHeader {
            kind: FileKind::Floor,
            store,
            owner: 0,
            number: 0,
        }
        .seed();
        let frame = read_frame(bytes, FILE_HEADER, seed)?;
        if frame.body.end != bytes.len() {
            return Err(Fault::damaged(frame.body.end, "something follows the end"));
        }
        let mut fields = Fields::new(&bytes[frame.body]);
        let mut read = || {
            Some(Self {
                store,
                first_segment: fields.u64()?,
                segment: fields.u64()?,
                offset: fields.u64()?,
                sequence: fields.u64()?,
                clean: fields.u8()? == 1,
            })
        };
        read().ok_or_else(|| Fault::damaged(FILE_HEADER, "the floor is too short"))
    }
}
