//! The seam below the store: the few things it asks of a file system, and the real one.
//!
//! Paths are relative to the store's directory, with `/` between their parts. Whatever implements
//! [`Disk`] decides what a crash leaves of data that was not synced.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A file system below one directory.
pub trait Disk: Debug + Send + Sync + 'static {
    /// The store's directory, for messages.
    fn root(&self) -> PathBuf;

    /// Takes the store's lock, which is held while the guard lives; `None` if another holds it.
    fn lock(&self) -> io::Result<Option<Box<dyn DiskLock>>>;

    /// Creates a directory (and the store's own), durably, if it does not exist.
    fn create_dir(&self, dir: &str) -> io::Result<()>;

    /// The names of the files in a directory, in any order.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;

    /// Creates an empty file; fails if it exists.
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Renames a file, replacing what has the new name. Durable after [`sync_dir`](Self::sync_dir).
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. It stays readable through what has it open.
    fn remove(&self, path: &str) -> io::Result<()>;

    /// Makes creations, renames and removals in a directory durable; `""` is the store's own.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;

    /// A number that differs from one store to the next.
    fn random(&self) -> u64;

    /// How long what is to be synced waits, where that is simulated: a worker that is a task sleeps
    /// as long. A real disk takes its time by itself.
    fn sync_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// Holds a store's lock until it is dropped.
pub trait DiskLock: Debug + Send + Sync {}

/// An open file.
pub trait DiskFile: Debug + Send + Sync {
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads exactly `length` bytes.
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>>;

    /// Writes all of `bytes`, extending the file if need be.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts or extends the file.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// Makes what was written, and the length, durable. After a failure nothing is known of any
    /// earlier write, and asking again would not tell: it must not be called again.
    fn sync(&self) -> io::Result<()>;
}

/// The operating system's file system below a directory.
#[derive(Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// A disk that keeps everything below `root`, which need not exist yet.
    pub fn new(root: impl AsRef<Path>) -> Self {
        Self {
            root: root.as_ref().to_owned(),
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        }
    }
}

#[derive(Debug)]
struct RealLock(#[expect(dead_code, reason = "the lock is held while the file is open")] File);

impl DiskLock for RealLock {}

impl Disk for RealDisk {
    fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn lock(&self) -> io::Result<Option<Box<dyn DiskLock>>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.path("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(RealLock(file)))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let path = self.path(dir);
        if path.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(&path)?;
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(dir))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path(path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path(path))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir))?.sync_all()
    }

    fn random(&self) -> u64 {
        RandomState::new().build_hasher().finish()
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
