//! Promises of memory between the workers of one host.
//!
//! A worker that has found room for a task takes the memory only as it loads and computes; until then the driver
//! calls it free, and a second worker would find the same room. So whoever admits a task writes down what the task
//! has not taken yet, and everybody takes off what the others wrote. One gate for each device makes looking and
//! writing a single act.
//!
//! A claim is a file that its owner keeps locked: the kernel lets go of it however the owner ends, and a claim that
//! nobody holds counts for nothing. Workers in containers without a common temporary folder do not see each other.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A gate is held for as long as a device is read; one that stays shut has a holder that was stopped.
const GATE_PATIENCE: Duration = Duration::from_secs(5);
const GATE_INTERVAL: Duration = Duration::from_millis(10);
const SUFFIX: &str = "claim";

/// The claims on one device.
#[derive(Debug)]
pub struct Claims {
    folder: PathBuf,
    own_name: String,
    own: Option<File>,
}

/// Nobody else admits a task to the device while this lives.
#[must_use = "the gate opens when this is dropped"]
#[derive(Debug)]
pub struct Gate {
    /// `None` if other workers may be admitting all the same.
    _lock: Option<File>,
}

impl Claims {
    /// Claims on the device called `key`, by a worker whose name is unique on the host, in files under `root`.
    pub fn new(root: &Path, key: &str, worker: &str) -> Self {
        let plain = |text: &str| -> String {
            let letters = text.chars();
            letters
                .map(|c| {
                    if c.is_ascii_alphanumeric() || c == '-' {
                        c
                    } else {
                        '_'
                    }
                })
                .collect()
        };
        Self {
            folder: root.join(plain(key)),
            own_name: format!("{}-{}.{SUFFIX}", std::process::id(), plain(worker)),
            own: None,
        }
    }

    /// The folder of this user's claims.
    pub fn usual_root() -> PathBuf {
        std::env::temp_dir().join(format!("latentfarm-claims-{}", nix::unistd::getuid()))
    }

    /// Waits until no other worker is admitting. A gate that cannot be had is no reason not to work.
    pub async fn gate(&self) -> Gate {
        let file = match self.open_gate() {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(folder = %self.folder.display(), %error, "other workers of this host cannot be told of memory that is about to be used");
                return Gate { _lock: None };
            }
        };
        let deadline = tokio::time::Instant::now() + GATE_PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Gate { _lock: Some(file) },
                Err(TryLockError::WouldBlock) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(GATE_INTERVAL).await;
                }
                Err(_) => {
                    tracing::warn!(folder = %self.folder.display(), "another worker of this host holds the gate to a device for too long");
                    return Gate { _lock: None };
                }
            }
        }
    }

    /// MiB that others were promised and have not taken yet. Claims that nobody holds any more are removed.
    pub fn others_mib(&self) -> u64 {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return 0;
        };
        let claims = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|suffix| suffix == SUFFIX))
            .filter(|path| path.file_name().is_none_or(|name| name != self.own_name.as_str()));
        claims.filter_map(|path| read_claim(&path)).sum()
    }

    /// Writes down what this worker's task has yet to take.
    pub fn write(&mut self, outstanding_mib: u64) {
        if let Err(error) = self.try_write(outstanding_mib) {
            tracing::debug!(folder = %self.folder.display(), %error, "a claim was not written");
        }
    }

    /// Takes the claim back.
    pub fn release(&mut self) {
        if self.own.take().is_some() {
            // The lock is gone with the file; whoever finds it removes it otherwise.
            let _left_to_others = std::fs::remove_file(self.folder.join(&self.own_name));
        }
    }

    fn open_gate(&self) -> io::Result<File> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)?;
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

impl Drop for Claims {
    fn drop(&mut self) {
        self.release();
    }
}

/// What a claim's holder wrote; `None`, and the file removed, where there is no holder.
fn read_claim(path: &Path) -> Option<u64> {
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
    async fn promises_of_others_count_until_they_are_kept_or_broken() {
        let root = tempfile::tempdir().unwrap();
        let mut first = Claims::new(root.path(), "GPU-1", "w1");
        let mut second = Claims::new(root.path(), "GPU-1", "w2");
        let elsewhere = Claims::new(root.path(), "GPU-2", "w3");
        drop(first.gate().await);
        first.write(5000);
        assert_eq!(first.others_mib(), 0, "its own promise is no obstacle");
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
    async fn a_dead_workers_promise_counts_for_nothing() {
        let root = tempfile::tempdir().unwrap();
        let claims = Claims::new(root.path(), "host", "w1");
        drop(claims.gate().await);
        // What is left when a process is killed: the file, and no lock.
        let left = root.path().join("host/999999-w9.claim");
        std::fs::write(&left, "4000\n").unwrap();
        assert_eq!(claims.others_mib(), 0);
        assert!(!left.exists());
    }

    #[tokio::test]
    async fn one_worker_at_a_time_passes_the_gate() {
        let root = tempfile::tempdir().unwrap();
        let first = Claims::new(root.path(), "GPU-1", "w1");
        let second = Claims::new(root.path(), "GPU-1", "w2");
        let gate = first.gate().await;
        let waiting = second.gate();
        tokio::pin!(waiting);
        assert!((&mut waiting).now_or_never().is_none());
        drop(gate);
        let _passed = waiting.await;
        assert!(
            first.gate().now_or_never().is_none(),
            "the second has the gate now"
        );
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_does_not_stop_work() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut claims = Claims::new(&file, "GPU-1", "w1");
        let _gate = claims.gate().await;
        claims.write(5);
        assert_eq!(claims.others_mib(), 0);
    }
}
