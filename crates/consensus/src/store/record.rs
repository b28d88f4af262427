//! What the log's frames hold: a sequence of records.
//!
//! A record is a kind byte and its fields; strings of bytes have a length of four bytes before
//! them. A change of this layout needs a new format version.

use bytes::Bytes;

use super::frame::{Fields, put_sized};
use super::{LogRecord, Mark};

/// A durable change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// Entries with consecutive indices. An index that the log already has is the same entry,
    /// written again to free an old segment.
    Append {
        group: u64,
        entries: Vec<LogRecord>,
    },
    Truncate {
        group: u64,
        keep: Option<u64>,
    },
    Purge {
        group: u64,
        upto: Mark,
    },
    Vote {
        group: u64,
        vote: Bytes,
    },
    Committed {
        group: u64,
        committed: Bytes,
    },
    /// The group is gone and its id retired.
    Drop {
        group: u64,
    },
    /// The group's snapshot is the file of this number, which is complete and durable.
    Snapshot {
        group: u64,
        number: u64,
    },
    Fact {
        key: String,
        value: Option<Bytes>,
    },
    Journal {
        shard: u64,
        mark: JournalMark,
    },
}

/// Which part of a shard's journal files is durable and belongs to the journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct JournalMark {
    /// The log index from which on the journal is complete.
    pub(super) start: u64,
    /// The number of the first file; earlier ones may be removed.
    pub(super) first_file: u64,
    /// The file that is durable up to `offset`; files before it are durable as a whole. If it
    /// is `first_file` and `offset` is 0, nothing is.
    pub(super) file: u64,
    pub(super) offset: u64,
}

mod kind {
    pub(super) const APPEND: u8 = 1;
    pub(super) const TRUNCATE: u8 = 2;
    pub(super) const PURGE: u8 = 3;
    pub(super) const VOTE: u8 = 4;
    pub(super) const COMMITTED: u8 = 5;
    pub(super) const DROP: u8 = 6;
    pub(super) const SNAPSHOT: u8 = 7;
    pub(super) const FACT: u8 = 8;
    pub(super) const JOURNAL: u8 = 9;
}

impl Record {
    /// About how many bytes the record takes, for the bounds of queue and batch.
    pub(super) fn weight(&self) -> usize {
        32 + match self {
            Self::Append { entries, .. } => entries
                .iter()
                .map(|entry| entry.meta.len() + entry.payload.len() + 8)
                .sum(),
            Self::Purge { upto, .. } => upto.meta.len(),
            Self::Vote { vote, .. } => vote.len(),
            Self::Committed { committed, .. } => committed.len(),
            Self::Fact { key, value } => key.len() + value.as_ref().map_or(0, Bytes::len),
            Self::Truncate { .. }
            | Self::Drop { .. }
            | Self::Snapshot { .. }
            | Self::Journal { .. } => 0,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let put = |out: &mut Vec<u8>, number: u64| out.extend_from_slice(&number.to_le_bytes());
        let begin = |out: &mut Vec<u8>, kind: u8, owner: u64| {
            out.push(kind);
            put(out, owner);
        };
        match self {
            Self::Append { group, entries } => {
                begin(out, kind::APPEND, *group);
                put(out, entries.first().map_or(0, |entry| entry.index));
                put(out, entries.len() as u64);
                for entry in entries {
                    put_sized(out, &entry.meta);
                    put_sized(out, &entry.payload);
                }
            }
            Self::Truncate { group, keep } => {
                begin(out, kind::TRUNCATE, *group);
                put(out, keep.unwrap_or(0));
                out.push(u8::from(keep.is_some()));
            }
            Self::Purge { group, upto } => {
                begin(out, kind::PURGE, *group);
                put(out, upto.index);
                put_sized(out, &upto.meta);
            }
            Self::Vote { group, vote } => {
                begin(out, kind::VOTE, *group);
                put_sized(out, vote);
            }
            Self::Committed { group, committed } => {
                begin(out, kind::COMMITTED, *group);
                put_sized(out, committed);
            }
            Self::Drop { group } => begin(out, kind::DROP, *group),
            Self::Snapshot { group, number } => {
                begin(out, kind::SNAPSHOT, *group);
                put(out, *number);
            }
            Self::Fact { key, value } => {
                begin(out, kind::FACT, u64::from(value.is_some()));
                put_sized(out, key.as_bytes());
                put_sized(out, value.as_deref().unwrap_or_default());
            }
            Self::Journal { shard, mark } => {
                begin(out, kind::JOURNAL, *shard);
                for number in [mark.start, mark.first_file, mark.file, mark.offset] {
                    put(out, number);
                }
            }
        }
    }

    /// Reads the next record; `None` if it is not one that this release knows. Byte strings are
    /// copied, so that a small one does not hold on to a whole segment.
    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let kind = fields.u8()?;
        let owner = fields.u64()?;
        let sized = |fields: &mut Fields<'_>| fields.sized().map(Bytes::copy_from_slice);
        Some(match kind {
            kind::APPEND => {
                let first = fields.u64()?;
                let count = fields.u64()?;
                let mut entries = Vec::new();
                for index in first..first.checked_add(count)? {
                    let meta = sized(fields)?;
                    let payload = sized(fields)?;
                    entries.push(LogRecord {
                        index,
                        meta,
                        payload,
                    });
                }
                Self::Append {
                    group: owner,
                    entries,
                }
            }
            kind::TRUNCATE => {
                let keep = fields.u64()?;
                Self::Truncate {
                    group: owner,
                    keep: (fields.u8()? == 1).then_some(keep),
                }
            }
            kind::PURGE => {
                let index = fields.u64()?;
                Self::Purge {
                    group: owner,
                    upto: Mark {
                        index,
                        meta: sized(fields)?,
                    },
                }
            }
            kind::VOTE => Self::Vote {
                group: owner,
                vote: sized(fields)?,
            },
            kind::COMMITTED => Self::Committed {
                group: owner,
                committed: sized(fields)?,
            },
            kind::DROP => Self::Drop { group: owner },
            kind::SNAPSHOT => Self::Snapshot {
                group: owner,
                number: fields.u64()?,
            },
            kind::FACT => {
                let key = String::from_utf8(fields.sized()?.to_vec()).ok()?;
                let value = sized(fields)?;
                Self::Fact {
                    key,
                    value: (owner == 1).then_some(value),
                }
            }
            kind::JOURNAL => Self::Journal {
                shard: owner,
                mark: JournalMark {
                    start: fields.u64()?,
                    first_file: fields.u64()?,
                    file: fields.u64()?,
                    offset: fields.u64()?,
                },
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_comes_back() {
        let bytes = Bytes::from_static;
        let entry = |index, payload| LogRecord {
            index,
            meta: bytes(b"m"),
            payload,
        };
        let mark = JournalMark {
            start: 1,
            first_file: 2,
            file: 3,
            offset: 4,
        };
        let records = [
            Record::Append {
                group: 1,
                entries: vec![entry(7, bytes(b"p")), entry(8, bytes(b""))],
            },
            Record::Truncate {
                group: 2,
                keep: Some(u64::MAX),
            },
            Record::Truncate {
                group: 2,
                keep: None,
            },
            Record::Purge {
                group: 3,
                upto: Mark {
                    index: 9,
                    meta: bytes(b"meta"),
                },
            },
            Record::Vote {
                group: 4,
                vote: bytes(b"vote"),
            },
            Record::Committed {
                group: 5,
                committed: bytes(b""),
            },
            Record::Drop { group: u64::MAX },
            Record::Snapshot {
                group: 6,
                number: 11,
            },
            Record::Fact {
                key: "node".to_owned(),
                value: Some(bytes(b"")),
            },
            Record::Fact {
                key: "node".to_owned(),
                value: None,
            },
            Record::Journal { shard: 8, mark },
        ];
        let mut out = Vec::new();
        for record in &records {
            record.encode(&mut out);
        }
        let mut fields = Fields::new(&out);
        for record in &records {
            assert_eq!(Record::decode(&mut fields).as_ref(), Some(record));
        }
        assert!(fields.is_empty());
        for length in 0..out.len() {
            let mut fields = Fields::new(&out[..length]);
            while !fields.is_empty() && Record::decode(&mut fields).is_some() {}
            assert!(fields.position() <= length);
        }
    }
}
