//! A disk in memory that can crash, fill up and fail, for simulations and tests.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::disk::{Disk, DiskFile, DiskLock};

/// What the operating system says where a device fails.
const EIO: i32 = 5;

/// A [`Disk`] in memory. A clone is another handle to the same disk.
///
/// It is a strict one: what was not synced is lost by [`crash`](Self::crash), names included.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    names: BTreeMap<String, Arc<Mutex<Content>>>,
    durable_names: BTreeMap<String, Arc<Mutex<Content>>>,
    faults: Faults,
    syncs: u64,
    locked: bool,
    stores: u64,
}

/// What a [`MemoryDisk`] does wrong. The default is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// This many syncs succeed, all later ones fail.
    pub syncs_left: Option<u64>,
    /// This many writes succeed, and one fails with half of it done. Those after it succeed again,
    /// so that whoever goes on after a failure is found out.
    pub writes_left: Option<u64>,
    /// The files' total size in bytes beyond which writes fail. A write that does not fit is done
    /// in part, as far as there is room.
    pub capacity: Option<u64>,
    /// Nothing can be changed, as when a file system was mounted anew for reading only.
    pub read_only: bool,
    /// How long what is to be synced waits, in a store whose workers are tasks.
    pub sync_time: Duration,
}

impl Faults {
    fn check_writable(&self) -> io::Result<()> {
        match self.read_only {
            true => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            false => Ok(()),
        }
    }

    /// Counts a write; returns whether it is the one that fails.
    fn fails_write(&mut self) -> bool {
        let fails = self.writes_left == Some(0);
        self.writes_left = self.writes_left.and_then(|left| left.checked_sub(1));
        fails
    }
}

#[derive(Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// `now` and `durable` agree before this offset.
    agree: usize,
}

/// The files of a [`MemoryDisk`] by path, as [`MemoryDisk::files`] gives them.
pub type Files = BTreeMap<String, Vec<u8>>;

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that holds these files, durably.
    pub fn with_files(files: &Files) -> Self {
        let disk = Self::new();
        {
            let mut inner = disk.lock_inner();
            for (path, bytes) in files {
                let content = Content {
                    now: bytes.clone(),
                    durable: bytes.clone(),
                    agree: bytes.len(),
                };
                inner
                    .names
                    .insert(path.clone(), Arc::new(Mutex::new(content)));
            }
            inner.durable_names = inner.names.clone();
            inner.stores = 1;
        }
        disk
    }

    fn lock_inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of the lock panics")
    }

    /// All files as they are now, synced or not.
    pub fn files(&self) -> Files {
        let inner = self.lock_inner();
        inner
            .names
            .iter()
            .map(|(path, file)| (path.clone(), content(file).now.clone()))
            .collect()
    }

    /// What the machine's power failure would leave: names and data that were synced, and of each
    /// file's later data as much as `keep` says, given its path and the number of bytes in doubt.
    pub fn crash(&self, mut keep: impl FnMut(&str, usize) -> usize) -> Self {
        let inner = self.lock_inner();
        let mut files = Files::new();
        for (path, file) in &inner.durable_names {
            let file = content(file);
            let agree = file.agree.min(file.now.len());
            let in_doubt = file.now.len() - agree;
            let kept = keep(path, in_doubt).min(in_doubt);
            let mut bytes = file.durable.clone();
            if kept > 0 {
                let end = agree + kept;
                bytes.resize(bytes.len().max(end), 0);
                bytes[agree..end].copy_from_slice(&file.now[agree..end]);
            }
            files.insert(path.clone(), bytes);
        }
        drop(inner);
        Self::with_files(&files)
    }

    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock_inner().faults = faults;
    }

    /// The number of files synced so far.
    pub fn syncs(&self) -> u64 {
        self.lock_inner().syncs
    }
}

fn content(file: &Mutex<Content>) -> MutexGuard<'_, Content> {
    file.lock().expect("no holder of the lock panics")
}

fn not_found(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{path} does not exist"))
}

#[derive(Debug)]
struct MemoryLock(MemoryDisk);

impl DiskLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.0.lock_inner().locked = false;
    }
}

fn in_dir(path: &str, dir: &str) -> bool {
    match path.rsplit_once('/') {
        Some((parent, _)) => parent == dir,
        None => dir.is_empty(),
    }
}

impl Disk for MemoryDisk {
    fn root(&self) -> PathBuf {
        PathBuf::from("memory")
    }

    fn lock(&self) -> io::Result<Option<Box<dyn DiskLock>>> {
        let mut inner = self.lock_inner();
        if inner.locked {
            return Ok(None);
        }
        inner.locked = true;
        Ok(Some(Box::new(MemoryLock(self.clone()))))
    }

    fn create_dir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let inner = self.lock_inner();
        let names = inner.names.keys().filter(|path| in_dir(path, dir));
        Ok(names
            .filter_map(|path| path.rsplit('/').next())
            .map(str::to_owned)
            .collect())
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.lock_inner();
        inner.faults.check_writable()?;
        if inner.names.contains_key(path) {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{path} exists"),
            ));
        }
        let file = Arc::<Mutex<Content>>::default();
        inner.names.insert(path.to_owned(), Arc::clone(&file));
        Ok(Arc::new(MemoryFile {
            disk: self.clone(),
            file,
        }))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.lock_inner().names.get(path).map(Arc::clone);
        let file = file.ok_or_else(|| not_found(path))?;
        Ok(Arc::new(MemoryFile {
            disk: self.clone(),
            file,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock_inner();
        inner.faults.check_writable()?;
        let file = inner.names.remove(from).ok_or_else(|| not_found(from))?;
        inner.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut inner = self.lock_inner();
        inner.faults.check_writable()?;
        let removed = inner.names.remove(path);
        removed.map(drop).ok_or_else(|| not_found(path))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut inner = self.lock_inner();
        let inner = &mut *inner;
        inner.durable_names.retain(|path, _| !in_dir(path, dir));
        for (path, file) in inner.names.iter().filter(|(path, _)| in_dir(path, dir)) {
            inner.durable_names.insert(path.clone(), Arc::clone(file));
        }
        Ok(())
    }

    fn random(&self) -> u64 {
        let mut inner = self.lock_inner();
        inner.stores += 1;
        inner.stores
    }

    fn sync_time(&self) -> Duration {
        self.lock_inner().faults.sync_time
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    file: Arc<Mutex<Content>>,
}

impl DiskFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(content(&self.file).now.len() as u64)
    }

    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = content(&self.file);
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = file.now.get(offset..offset + length);
        bytes
            .map(<[u8]>::to_vec)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (room, fails) = {
            let mut inner = self.disk.lock_inner();
            inner.faults.check_writable()?;
            let used = || {
                inner
                    .names
                    .values()
                    .map(|file| content(file).now.len() as u64)
                    .sum()
            };
            let capacity = inner.faults.capacity;
            let room = capacity.map(|capacity| capacity.saturating_sub(used()));
            (room, inner.faults.fails_write())
        };
        let mut file = content(&self.file);
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let growth = (offset + bytes.len()).saturating_sub(file.now.len());
        let missing = room.map_or(0, |room| growth.saturating_sub(room as usize));
        let fits = bytes.len() - missing;
        let written = if fails { fits / 2 } else { fits };
        let end = (offset + written).max(file.now.len());
        file.now.resize(end, 0);
        file.now[offset..offset + written].copy_from_slice(&bytes[..written]);
        file.agree = file.agree.min(offset);
        if fails {
            Err(io::Error::from_raw_os_error(EIO))
        } else if missing > 0 {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.disk.lock_inner().faults.check_writable()?;
        let mut file = content(&self.file);
        let length = usize::try_from(length).map_err(io::Error::other)?;
        file.agree = file.agree.min(length).min(file.now.len());
        file.now.resize(length, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.lock_inner();
        if let Some(left) = &mut inner.faults.syncs_left {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| io::Error::other("injected sync error"))?;
        }
        inner.syncs += 1;
        let mut file = content(&self.file);
        let Content {
            now,
            durable,
            agree,
        } = &mut *file;
        durable.truncate(*agree);
        durable.extend_from_slice(&now[*agree..]);
        *agree = now.len();
        Ok(())
    }
}
