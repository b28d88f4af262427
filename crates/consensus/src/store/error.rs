//! What can go wrong with the store: when it is opened, and afterwards.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a store could not be opened. Nothing of it is served then; a node that gets one of these
/// must stop and say so.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another handle of this one, has the directory open.
    #[error("the store in {} is in use by another process", dir.display())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// A file was written by a release that knows a format which this one does not.
    #[error(
        "{}: format version {found}, this release reads version {supported}: start the node with the \
         release that wrote it, or a later one", file.display()
    )]
    UnknownVersion {
        /// The file, relative to the store's directory.
        file: PathBuf,
        /// The version that the file names.
        found: u32,
        /// The only version that this release reads and writes.
        supported: u32,
    },
    /// What a file holds is not what was written to it.
    #[error(
        "{} is damaged at byte {offset}: {reason}; the store is not opened, restore this node's \
         data or let it rejoin empty under new replica ids", file.display()
    )]
    Damaged {
        /// The file, relative to the store's directory.
        file: PathBuf,
        /// Where in the file the damage was noticed, in bytes from its start.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A file that the store needs is not there.
    #[error("{} is missing: {reason}", file.display())]
    Missing {
        /// The file, relative to the store's directory.
        file: PathBuf,
        /// Why it has to exist.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", file.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory, relative to the store's directory.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Why an operation on an open store failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// A write or sync failed, now or earlier. Nothing is accepted any more; the process must stop.
    #[error("the store has failed: {reason}")]
    Poisoned {
        /// The first failure.
        reason: Arc<str>,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The group was dropped from this store; its id is never to be used again.
    #[error("group {group} was dropped from this store and its id is retired")]
    Dropped {
        /// The retired group id.
        group: u64,
    },
    /// Records must follow the last one without a hole.
    #[error("group {group}: record {found} does not follow the log, which expects {expected}")]
    NotContiguous {
        /// The group.
        group: u64,
        /// The next index of its log.
        expected: u64,
        /// The index that was given.
        found: u64,
    },
    /// Something is larger than the store's formats allow.
    #[error("{what} of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The largest size allowed.
        limit: usize,
    },
    /// A file that was good when the store was opened no longer is, or cannot be read.
    #[error("cannot read {}: {reason}", file.display())]
    Unreadable {
        /// The file, relative to the store's directory.
        file: PathBuf,
        /// What went wrong.
        reason: Arc<str>,
    },
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}
