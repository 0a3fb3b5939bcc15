//! The folder in which the workers of this machine keep the weights that they have fetched from the farm's store.
//!
//! ```text
//! <dir>/fetch.lock      locked by the worker that fetches; one fetches at a time
//! <dir>/<digest>        a folder of weights, by the digest that identifies them
//! <dir>/<digest>.lock   locked, shared, by the workers that use it; its modification time is that of the last use
//! <dir>/<digest>.part   what was fetched of it so far
//! ```
//! The kernel releases the locks however a worker ends. The supervisor calls this before a task is loaded.

#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use latentfarm_common::clock::since_1970;
use latentfarm_common::digest::Digest;
use latentfarm_common::disk::{free_bytes, written_bytes};
use latentfarm_common::error::{FileError, ignore_not_found};

/// Suffix of what was fetched so far.
const PARTIAL: &str = "part";
/// Suffix of the locked files.
const LOCK: &str = "lock";

/// The weights that are kept on this machine.
#[derive(Clone, Debug)]
pub struct WeightsCache {
    dir: PathBuf,
    limit_bytes: u64,
}

/// A folder of weights that stays as it is until this is dropped.
#[derive(Debug)]
pub struct CachedWeights {
    /// The folder with the weight files.
    pub path: PathBuf,
    _in_use: File,
}

/// The right to fetch weights and to remove others for them, until this is dropped.
#[derive(Debug)]
pub struct FetchLock {
    _lock: File,
}

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file or folder of it cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The weights do not fit beside those that are in use.
    #[error(
        "the weights have {needed_mib} MiB, and of the {limit_mib} MiB of the cache `{}` the weights in use leave \
         {free_mib} MiB: raise --weights-cache-limit",
        dir.display()
    )]
    NoRoom {
        /// Folder of the cache.
        dir: PathBuf,
        /// Size of the weights.
        needed_mib: u64,
        /// Limit of the cache.
        limit_mib: u64,
        /// What others do not use of it.
        free_mib: u64,
    },
    /// The disk has no room for the weights.
    #[error("the weights need {needed_mib} MiB more in the cache `{}`, and its disk has {free_mib} MiB free", dir.display())]
    DiskFull {
        /// Folder of the cache.
        dir: PathBuf,
        /// Size of what is still to be fetched.
        needed_mib: u64,
        /// Free space of the disk.
        free_mib: u64,
    },
}

/// Weights that are kept, in whole or in part.
struct Entry {
    name: String,
    bytes: u64,
    used: SystemTime,
}

impl WeightsCache {
    /// Keeps weights in `dir`, at most so many bytes.
    pub fn new(dir: PathBuf, limit_bytes: u64) -> Self {
        Self { dir, limit_bytes }
    }

    /// Returns the folder of these weights, if they are here in whole.
    pub fn open(&self, identity: Digest) -> Result<Option<CachedWeights>, CacheError> {
        let path = self.dir.join(identity.to_string());
        if !path.is_dir() {
            return Ok(None);
        }
        let lock_path = path.with_extension(LOCK);
        let lock = open_lock(&lock_path)?;
        match lock.try_lock_shared() {
            Ok(()) => {}
            // It is being removed.
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(FileError::at("lock", &lock_path)(error).into()),
        }
        if !path.is_dir() {
            return Ok(None);
        }
        let used = lock.set_modified(UNIX_EPOCH + since_1970());
        used.map_err(FileError::at("write to", &lock_path))?;
        Ok(Some(CachedWeights { path, _in_use: lock }))
    }

    /// Takes the right to fetch; `None` while another worker of this machine fetches.
    pub fn try_lock(&self) -> Result<Option<FetchLock>, CacheError> {
        fs::create_dir_all(&self.dir).map_err(FileError::at("create", &self.dir))?;
        let path = self.dir.join("fetch").with_extension(LOCK);
        let file = open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(FetchLock { _lock: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(FileError::at("lock", &path)(error).into()),
        }
    }

    /// Makes room for weights of this size and returns the folder to fetch them into, which keeps what was fetched of
    /// them before. Others go, those that were not used for longest first, and none that is in use. If the weights cannot
    /// fit, none goes.
    pub fn begin(&self, _right: &FetchLock, identity: Digest, bytes: u64) -> Result<PathBuf, CacheError> {
        let partial = self.partial(identity);
        remove_hidden(&partial)?;
        let missing = bytes.saturating_sub(written_bytes(&partial));
        let mut others = self.entries()?;
        let own = identity.to_string();
        others.retain(|entry| entry.name != own);
        others.sort_by_key(|entry| entry.used);
        let mut kept: u64 = others.iter().map(|entry| entry.bytes).sum();
        let free_bytes = || free_bytes(&self.dir).unwrap_or(u64::MAX);
        // What is not known counts as enough.
        let mut free = free_bytes();
        if bytes <= self.limit_bytes && missing <= free.saturating_add(kept) {
            for entry in &others {
                if kept.saturating_add(bytes) <= self.limit_bytes && missing <= free {
                    break;
                }
                if self.remove(&entry.name)? {
                    tracing::info!(
                        weights = entry.name,
                        "removed weights that were not used for long"
                    );
                    kept -= entry.bytes;
                    free = free_bytes();
                }
            }
        }
        if kept.saturating_add(bytes) > self.limit_bytes {
            return Err(CacheError::NoRoom {
                dir: self.dir.clone(),
                needed_mib: bytes.div_ceil(1 << 20),
                limit_mib: self.limit_bytes >> 20,
                free_mib: self.limit_bytes.saturating_sub(kept) >> 20,
            });
        }
        if missing > free {
            return Err(CacheError::DiskFull {
                dir: self.dir.clone(),
                needed_mib: missing.div_ceil(1 << 20),
                free_mib: free >> 20,
            });
        }
        fs::create_dir_all(&partial).map_err(FileError::at("create", &partial))?;
        Ok(partial)
    }

    /// Returns how much of all weights that are not here in whole is here.
    pub fn arrived_bytes(&self) -> u64 {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        let partial = paths.filter(|path| path.extension().is_some_and(|suffix| suffix == PARTIAL));
        partial.map(|path| written_bytes(&path)).sum()
    }

    /// Makes what was fetched the weights of this digest, and returns them.
    pub fn finish(&self, _right: &FetchLock, identity: Digest) -> Result<CachedWeights, CacheError> {
        let path = self.dir.join(identity.to_string());
        let partial = self.partial(identity);
        // The folder's own entry is what a power failure may lose, and then it is fetched again.
        fs::rename(&partial, &path).map_err(FileError::at("rename", &partial))?;
        let gone = || FileError::at("open", &path)(io::ErrorKind::NotFound.into());
        self.open(identity)?.ok_or_else(|| gone().into())
    }

    /// Removes what was fetched, because it is not what it should be.
    pub fn discard(&self, _right: &FetchLock, identity: Digest) -> Result<(), CacheError> {
        remove_folder(&self.partial(identity))
    }

    fn partial(&self, identity: Digest) -> PathBuf {
        self.dir.join(identity.to_string()).with_extension(PARTIAL)
    }

    /// Removes weights that nobody uses. Returns false if somebody does.
    fn remove(&self, name: &str) -> Result<bool, CacheError> {
        let path = self.dir.join(name);
        let lock_path = path.with_extension(LOCK);
        let lock = open_lock(&lock_path)?;
        if lock.try_lock().is_err() {
            return Ok(false);
        }
        // A removal that is interrupted leaves no folder that looks whole.
        let partial = path.with_extension(PARTIAL);
        if path.is_dir() {
            remove_folder(&partial)?;
            fs::rename(&path, &partial).map_err(FileError::at("rename", &path))?;
        }
        remove_folder(&partial)?;
        Ok(true)
    }

    fn entries(&self) -> Result<Vec<Entry>, CacheError> {
        let listed = fs::read_dir(&self.dir).map_err(FileError::at("read", &self.dir))?;
        let mut entries: Vec<Entry> = Vec::new();
        for found in listed {
            let path = found.map_err(FileError::at("read", &self.dir))?.path();
            let name = path.file_stem().and_then(|name| name.to_str());
            let is_weights = name.is_some_and(|name| name.parse::<Digest>().is_ok());
            let (Some(name), true, true) = (name, is_weights, path.is_dir()) else {
                continue;
            };
            let bytes = written_bytes(&path);
            if let Some(known) = entries.iter_mut().find(|entry| entry.name == name) {
                known.bytes += bytes;
                continue;
            }
            let used = fs::metadata(path.with_extension(LOCK)).and_then(|metadata| metadata.modified());
            entries.push(Entry {
                name: name.to_owned(),
                bytes,
                used: used.unwrap_or(UNIX_EPOCH),
            });
        }
        Ok(entries)
    }
}

fn open_lock(path: &Path) -> Result<File, CacheError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    Ok(file.map_err(FileError::at("open", path))?)
}

fn remove_folder(path: &Path) -> Result<(), CacheError> {
    let removed: io::Result<()> = fs::remove_dir_all(path);
    Ok(ignore_not_found(removed).map_err(FileError::at("remove", path))?)
}

/// Removes the hidden files in a folder and those below it: what an interrupted fetch was writing, and digests that were
/// noted of files which have been replaced since. No file of weights is hidden.
fn remove_hidden(dir: &Path) -> Result<(), CacheError> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_hidden(&path)?;
        } else if entry.file_name().as_encoded_bytes().starts_with(b".") {
            ignore_not_found(fs::remove_file(&path)).map_err(FileError::at("remove", &path))?;
        }
    }
    Ok(())
}
