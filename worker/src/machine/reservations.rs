//! Memory reservations between the workers of one host.
//!
//! A task that was admitted takes its memory only as it loads and computes. Until then the driver reports the
//! memory as free, and a second worker would admit a task to the same memory. Therefore a worker that admits
//! a task records the memory that the task has not taken yet, and every worker subtracts the reservations of
//! the others. One admission lock for each device makes the reading and the recording a single step.
//!
//! A reservation is a file that its owner keeps locked: the kernel releases the lock however the owner ends,
//! and a file without a lock does not count. Workers in containers without a common temporary folder do not
//! see each other's files. The warm engine writes them; `latentfarm-worker probe` reads them.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to wait for an admission lock. It is held for as long as it takes to read a device; if it is held
/// for longer, its holder was stopped.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
const LOCK_INTERVAL: Duration = Duration::from_millis(10);
/// The suffix of the files that hold reservations.
const SUFFIX: &str = "claim";

/// One worker's reservation on a device, and its view of the others.
#[derive(Debug)]
pub struct Reservations {
    folder: PathBuf,
    own_name: String,
    /// The locked file of this worker's reservation, if it has one.
    own: Option<File>,
}

/// Keeps other workers from admitting a task to the device until it is dropped.
#[must_use = "dropping the guard releases the lock"]
#[derive(Debug)]
pub struct AdmissionLock {
    /// `None` if the lock could not be taken, so that other workers may be admitting tasks too.
    _lock: Option<File>,
}

impl Reservations {
    /// Makes the reservations on the device with this key, by a worker whose name is unique on the host, in
    /// files under `root`. Nothing is written yet.
    pub fn new(root: &Path, key: &str, worker: &str) -> Self {
        Self {
            folder: root.join(plain(key)),
            own_name: format!("{}-{}.{SUFFIX}", std::process::id(), plain(worker)),
            own: None,
        }
    }

    /// Returns the folder of this user's reservations on this host.
    pub fn usual_root() -> PathBuf {
        std::env::temp_dir().join(format!("latentfarm-claims-{}", nix::unistd::getuid()))
    }

    /// Waits until no other worker is admitting a task. If the lock cannot be taken, work goes on without it,
    /// with a warning.
    pub async fn lock_admission(&self) -> AdmissionLock {
        let file = match self.open_lock_file() {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(folder = %self.folder.display(), %error, "cannot record memory reservations: other workers of this host may use the same memory");
                return AdmissionLock { _lock: None };
            }
        };
        let deadline = tokio::time::Instant::now() + LOCK_LIMIT;
        loop {
            match file.try_lock() {
                Ok(()) => return AdmissionLock { _lock: Some(file) },
                Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(LOCK_INTERVAL).await;
                }
                Err(_) => {
                    tracing::warn!(folder = %self.folder.display(), "another worker of this host holds the admission lock of a device for too long, going on without it");
                    return AdmissionLock { _lock: None };
                }
            }
        }
    }

    /// Returns the memory, in MiB, that other workers have reserved and not taken yet. Removes reservations
    /// whose owner has ended.
    pub fn others_mib(&self) -> u64 {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return 0;
        };
        let reservations = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|suffix| suffix == SUFFIX))
            .filter(|path| path.file_name().is_none_or(|name| name != self.own_name.as_str()));
        reservations.filter_map(|path| read_reservation(&path)).sum()
    }

    /// Records the memory that this worker's task has not taken yet.
    pub fn write(&mut self, outstanding_mib: u64) {
        if let Err(error) = self.try_write(outstanding_mib) {
            tracing::debug!(folder = %self.folder.display(), %error, "cannot write a memory reservation");
        }
    }

    /// Removes this worker's reservation, if it has one.
    pub fn release(&mut self) {
        if self.own.take().is_some() {
            // The lock was released with the file handle; if the file stays, another worker removes it.
            let _left_to_others = std::fs::remove_file(self.folder.join(&self.own_name));
        }
    }

    fn open_lock_file(&self) -> io::Result<File> {
        ensure_folder(&self.folder)?;
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.folder.join("gate"))
    }

    fn try_write(&mut self, outstanding_mib: u64) -> io::Result<()> {
        if self.own.is_none() {
            let path = self.folder.join(&self.own_name);
            let file = File::options()
                .create(true)
                .truncate(true)
                .write(true)
                .open(path)?;
            file.try_lock()?;
            self.own = Some(file);
        }
        if let Some(file) = &self.own {
            // One write of one length: a reader sees the old number or the new one.
            file.write_all_at(format!("{outstanding_mib:20}\n").as_bytes(), 0)?;
        }
        Ok(())
    }
}

impl Drop for Reservations {
    fn drop(&mut self) {
        self.release();
    }
}

/// Makes the folder of a device, which only this user can read.
pub(super) fn ensure_folder(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Returns the text as a part of a file name.
pub(super) fn plain(text: &str) -> String {
    text.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_")
}

/// Returns the memory that a reservation's owner wrote; if the owner has ended, `None`, and the file is
/// removed.
fn read_reservation(path: &Path) -> Option<u64> {
    let file = File::open(path).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => std::fs::read_to_string(path).ok()?.trim().parse().ok(),
        Ok(()) => {
            let _already_removed = std::fs::remove_file(path);
            None
        }
        Err(TryLockError::Error(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn reservations_of_others_count_until_they_are_used_or_released() {
        let root = tempfile::tempdir().unwrap();
        let mut first = Reservations::new(root.path(), "GPU-1", "w1");
        let mut second = Reservations::new(root.path(), "GPU-1", "w2");
        let elsewhere = Reservations::new(root.path(), "GPU-2", "w3");
        drop(first.lock_admission().await);
        first.write(5000);
        assert_eq!(first.others_mib(), 0, "its own reservation does not count");
        assert_eq!(second.others_mib(), 5000);
        assert_eq!(elsewhere.others_mib(), 0);
        second.write(70);
        first.write(100);
        assert_eq!((first.others_mib(), second.others_mib()), (70, 100));
        first.release();
        assert_eq!(second.others_mib(), 0);
        drop(second);
        assert_eq!(first.others_mib(), 0);
    }

    #[tokio::test]
    async fn the_reservation_of_a_dead_worker_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        let reservations = Reservations::new(root.path(), "host", "w1");
        drop(reservations.lock_admission().await);
        // A killed process leaves the file without a lock.
        let left = root.path().join("host/999999-w9.claim");
        std::fs::write(&left, "4000\n").unwrap();
        assert_eq!(reservations.others_mib(), 0);
        assert!(!left.exists());
    }

    #[tokio::test]
    async fn one_worker_at_a_time_has_the_admission_lock() {
        let root = tempfile::tempdir().unwrap();
        let first = Reservations::new(root.path(), "GPU-1", "w1");
        let second = Reservations::new(root.path(), "GPU-1", "w2");
        let lock = first.lock_admission().await;
        let waiting = second.lock_admission();
        tokio::pin!(waiting);
        assert!((&mut waiting).now_or_never().is_none());
        drop(lock);
        let _lock = waiting.await;
        assert!(
            first.lock_admission().now_or_never().is_none(),
            "the second has the lock now"
        );
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_does_not_stop_work() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut reservations = Reservations::new(&file, "GPU-1", "w1");
        let _lock = reservations.lock_admission().await;
        reservations.write(5);
        assert_eq!(reservations.others_mib(), 0);
    }
}
