//! How every file of the store is laid out: a header, then frames, and not one byte besides.
//!
//! ```text
//! file header, 48 bytes: magic 8 | version 4 | kind 4 | store 8 | owner 8 | number 8 | zero 4 | crc 4
//! frame: length 4 | magic 4 | sequence 8 | durable 8 | crc of the body 4 | crc of these fields 4
//!        then the body
//! ```
//! All numbers are little-endian, all checksums CRC-32C. Those of frames start from the checksum of
//! their file's header, so that a frame is valid only in the file that it was written to.

use std::ops::Range;
use std::path::Path;

use crate::store::OpenError;

/// The format of all files of the store.
pub(super) const VERSION: u32 = 1;
pub(super) const FILE_HEADER: usize = 48;
pub(super) const FRAME_HEADER: usize = 32;
const FILE_MAGIC: &[u8; 8] = b"headcnt\n";
const FRAME_MAGIC: u32 = 0x4d52_4648;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    Log = 1,
    Floor = 2,
    Snapshot = 3,
    Journal = 4,
}

/// What a file says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) kind: FileKind,
    /// Which store it belongs to.
    pub(super) store: u64,
    /// The group of a snapshot, the shard of a journal, else 0.
    pub(super) owner: u64,
    /// Its number among its like.
    pub(super) number: u64,
}

impl FileHeader {
    pub(super) fn encode(&self) -> [u8; FILE_HEADER] {
        let mut bytes = [0; FILE_HEADER];
        bytes[..8].copy_from_slice(FILE_MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.store.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.owner.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.number.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// What the checksums of the file's frames start from.
    pub(super) fn seed(&self) -> u32 {
        let encoded = self.encode();
        u32_at(&encoded, 44)
    }

    /// Reads the store's number from the header of a file of the given kind, owner and number.
    pub(super) fn read_store(
        bytes: &[u8],
        kind: FileKind,
        owner: u64,
        number: u64,
    ) -> Result<u64, Fault> {
        let damaged = |reason: &str| Fault::Damaged {
            offset: 0,
            reason: reason.to_owned(),
        };
        if bytes.len() < FILE_HEADER {
            return Err(damaged("the file ends inside its header"));
        }
        if &bytes[..8] != FILE_MAGIC {
            return Err(damaged("this is not a file of the store (magic number)"));
        }
        if u32_at(bytes, 44) != crc32c::crc32c(&bytes[..44]) {
            return Err(damaged("checksum of the file header"));
        }
        match u32_at(bytes, 8) {
            VERSION => {}
            found => return Err(Fault::Version { found }),
        }
        let header = Self {
            kind,
            store: u64_at(bytes, 16),
            owner,
            number,
        };
        if bytes[..FILE_HEADER] != header.encode() {
            return Err(damaged("the header belongs to another file"));
        }
        Ok(header.store)
    }

    /// Checks that `bytes` begins with exactly this header.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<(), Fault> {
        let store = Self::read_store(bytes, self.kind, self.owner, self.number)?;
        if store == self.store {
            Ok(())
        } else {
            let reason = "the file belongs to another store".to_owned();
            Err(Fault::Damaged { offset: 0, reason })
        }
    }
}

/// What is wrong with a file.
#[derive(Debug)]
pub(super) enum Fault {
    Version { found: u32 },
    Damaged { offset: u64, reason: String },
}

impl Fault {
    pub(super) fn damaged(offset: usize, reason: impl Into<String>) -> Self {
        Self::Damaged {
            offset: offset as u64,
            reason: reason.into(),
        }
    }

    pub(super) fn reason(&self) -> String {
        match self {
            Self::Version { found } => format!("unknown format version {found}"),
            Self::Damaged { reason, .. } => reason.clone(),
        }
    }

    pub(super) fn within(self, file: impl AsRef<Path>) -> OpenError {
        let file = file.as_ref().to_owned();
        match self {
            Self::Version { found } => OpenError::UnknownVersion {
                file,
                found,
                supported: VERSION,
            },
            Self::Damaged { offset, reason } => OpenError::Damaged {
                file,
                offset,
                reason,
            },
        }
    }
}

/// A frame that was found valid.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) sequence: u64,
    /// In a log: the last sequence that was known to be durable when this frame was written.
    pub(super) durable: u64,
    /// Where the body lies in the bytes that were read.
    pub(super) body: Range<usize>,
}

/// Appends a frame with the body that `fill` writes.
pub(super) fn put_frame(
    out: &mut Vec<u8>,
    seed: u32,
    sequence: u64,
    durable: u64,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.resize(start + FRAME_HEADER, 0);
    fill(out);
    let (header, body) = out[start..].split_at_mut(FRAME_HEADER);
    let length = u32::try_from(body.len()).expect("callers bound bodies far below 4 GiB");
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..8].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    header[16..24].copy_from_slice(&durable.to_le_bytes());
    header[24..28].copy_from_slice(&crc32c::crc32c_append(seed, body).to_le_bytes());
    let crc = crc32c::crc32c_append(seed, &header[..28]);
    header[28..32].copy_from_slice(&crc.to_le_bytes());
}

fn valid_frame_header(bytes: &[u8], seed: u32) -> bool {
    u32_at(bytes, 4) == FRAME_MAGIC
        && u32_at(bytes, 28) == crc32c::crc32c_append(seed, &bytes[..28])
}

/// Reads the frame that begins at `at`.
pub(super) fn read_frame(bytes: &[u8], at: usize, seed: u32) -> Result<Frame, Fault> {
    let rest = &bytes[at..];
    if rest.len() < FRAME_HEADER {
        return Err(Fault::damaged(at, "the file ends inside a frame's header"));
    }
    if !valid_frame_header(rest, seed) {
        return Err(Fault::damaged(at, "checksum of a frame's header"));
    }
    let length = u32_at(rest, 0) as usize;
    let Some(body) = rest[FRAME_HEADER..].get(..length) else {
        return Err(Fault::damaged(at, "the file ends inside a frame"));
    };
    if u32_at(rest, 24) != crc32c::crc32c_append(seed, body) {
        return Err(Fault::damaged(at, "checksum of a frame"));
    }
    let start = at + FRAME_HEADER;
    Ok(Frame {
        sequence: u64_at(rest, 8),
        durable: u64_at(rest, 16),
        body: start..start + length,
    })
}

/// The highest `durable` that any whole frame header after `at` names, at whatever offset it lies.
pub(super) fn durable_after(bytes: &[u8], at: usize, seed: u32) -> Option<u64> {
    let rest = bytes.get(at + 1..)?;
    rest.windows(FRAME_HEADER)
        .filter(|window| valid_frame_header(window, seed))
        .map(|window| u64_at(window, 16))
        .max()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Reads fields from a body whose checksum was good: a failure means that the writer's release
/// wrote something that this one does not know.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// How far into the body reading has come.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(bytes)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32_at(bytes, 0))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|bytes| u64_at(bytes, 0))
    }

    /// A length of four bytes and as many bytes.
    pub(super) fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }
}

/// Writes what [`Fields::sized`] reads.
pub(super) fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("callers bound fields far below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}
