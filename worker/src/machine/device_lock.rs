//! The lock of a GPU, by which only one worker of this host has an engine on it at any time.
//!
//! A second engine on a card doubles the memory that is used there and renders no faster. Workers that share a
//! card, for example those of two renders that run at the same moment, therefore take turns. The warm engine takes
//! the lock before a pull, and gives it up between two tasks.
//!
//! Two kinds of files lie in the folder of the device's reservations, and both count only while somebody keeps
//! them locked, so that the kernel frees them however their owner ends:
//!
//! - `engine` is locked by the worker that has the device. The engine process inherits the open file: the lock
//!   lasts until that process has ended too, even if its worker was killed.
//! - `N-NAME-ID.turn` is a place in the queue. A worker takes the device only if nobody has an earlier place, so
//!   that whoever gives the device up does not come first again.

use std::fs::{File, TryLockError};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reservations::{ensure_folder, plain};

/// How often a worker looks whether its turn has come, or whether another worker waits.
const INTERVAL: Duration = Duration::from_millis(100);
/// The suffix of the files that are places in the queue.
const SUFFIX: &str = "turn";

/// One worker's part in the lock of a device.
#[derive(Debug)]
pub struct DeviceLock {
    queue: TurnQueue,
    worker: String,
    held: Option<File>,
    /// The locked file of this worker's place in the queue, and its number; `None` if it does not wait.
    place: Option<(File, u64)>,
}

/// The files of a device's lock, from the view of one worker.
#[derive(Clone, Debug)]
struct TurnQueue {
    folder: PathBuf,
    /// The part of a place's file name after its number.
    own_name: String,
}

impl DeviceLock {
    /// Makes the lock of the device with this key, for a worker of this process, with files under `root`. Nothing is
    /// locked yet.
    pub fn new(root: &Path, key: &str, worker: &str) -> Self {
        // Workers in containers may share the folder, and then have equal names and process ids.
        let id = RandomState::new().build_hasher().finish();
        Self {
            queue: TurnQueue {
                folder: root.join(plain(key)),
                own_name: format!("{}-{id:016x}.{SUFFIX}", plain(worker)),
            },
            worker: worker.to_owned(),
            held: None,
            place: None,
        }
    }

    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The locked file, which the engine process has to inherit; `None` if the lock is not held, or if its folder
    /// cannot be used.
    pub fn file(&self) -> Option<&File> {
        self.held.as_ref()
    }

    /// Takes the lock if it is free and nobody else waits for longer. If it cannot be taken and `is_wanted`, this
    /// worker takes a place in the queue. Returns whether the lock is held.
    ///
    /// # Errors
    /// If the lock's folder cannot be used: workers can then not know of each other.
    pub fn try_take(&mut self, is_wanted: bool) -> io::Result<bool> {
        if self.held.is_some() {
            return Ok(true);
        }
        ensure_folder(&self.queue.folder)?;
        if !is_wanted {
            self.leave_queue();
        } else if self.place.is_none() {
            self.place = Some(self.queue.append()?);
        }
        if !self.queue.is_first(self.own_number()) {
            return Ok(false);
        }
        let file = self.queue.open_engine_file()?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        file.set_len(0)?;
        file.write_all_at(format!("{} {}\n", std::process::id(), self.worker).as_bytes(), 0)?;
        self.held = Some(file);
        self.leave_queue();
        Ok(true)
    }

    /// Returns true if another worker waits for the device.
    pub fn is_wanted_by_others(&self) -> bool {
        !self.queue.others().is_empty()
    }

    /// Gives the lock up. It is free once the engine process that inherited it has ended.
    pub fn release(&mut self) {
        self.held = None;
    }

    /// Names the worker that has the device; `None` if that is this one, or nobody.
    pub fn other_owner(&self) -> Option<String> {
        if self.held.is_some() || self.queue.is_free() {
            return None;
        }
        let mut text = String::new();
        File::open(self.queue.engine_path())
            .and_then(|mut file| file.read_to_string(&mut text))
            .ok()?;
        let (process, worker) = text.trim().split_once(' ')?;
        Some(format!("worker {worker} (process {process}) of this machine"))
    }

    /// Returns a future that ends when [`DeviceLock::try_take`] may do something else than before: a worker that
    /// waits can have the device, or another worker waits for the device that this one has.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + 'static {
        let (queue, is_held, number) = (self.queue.clone(), self.held.is_some(), self.own_number());
        async move {
            if !is_held && number.is_none() {
                return std::future::pending().await;
            }
            loop {
                let is_due = if is_held {
                    !queue.others().is_empty()
                } else {
                    queue.is_first(number) && queue.is_free()
                };
                if is_due {
                    return;
                }
                tokio::time::sleep(INTERVAL).await;
            }
        }
    }

    fn own_number(&self) -> Option<u64> {
        self.place.as_ref().map(|(_, number)| *number)
    }

    fn leave_queue(&mut self) {
        if let Some((file, number)) = self.place.take() {
            // The file goes before its lock: nobody finds it without one.
            let _already_removed = std::fs::remove_file(self.queue.place_path(number));
            drop(file);
        }
    }
}

impl Drop for DeviceLock {
    fn drop(&mut self) {
        self.leave_queue();
    }
}

impl TurnQueue {
    fn engine_path(&self) -> PathBuf {
        self.folder.join("engine")
    }

    fn place_path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:010}-{}", self.own_name))
    }

    fn open_engine_file(&self) -> io::Result<File> {
        File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(self.engine_path())
    }

    /// Returns true if no worker has the device.
    fn is_free(&self) -> bool {
        // A shared lock that lasts for a moment makes another worker at most look again.
        File::open(self.engine_path()).map_or(true, |file| {
            !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
        })
    }

    /// Takes the place behind all others.
    fn append(&self) -> io::Result<(File, u64)> {
        // The file gets its name when it is locked, as others remove a place without a lock.
        let unnamed = self.folder.join(format!("new-{}", self.own_name));
        let file = File::create(&unnamed)?;
        file.try_lock()?;
        let number = self.others().last().map_or(1, |(last, _)| last + 1);
        std::fs::rename(&unnamed, self.place_path(number))?;
        Ok((file, number))
    }

    /// Returns true if no other worker has an earlier place than this number; without a number, if no other
    /// worker has a place.
    fn is_first(&self, number: Option<u64>) -> bool {
        let first = self.others().into_iter().next();
        match (first, number) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(first), Some(number)) => (number, self.own_name.clone()) < first,
        }
    }

    /// Returns the places of the other workers, the first one first. Removes those whose owner has ended.
    fn others(&self) -> Vec<(u64, String)> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let mut places: Vec<(u64, String)> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                let (number, owner) = name.split_once('-')?;
                let is_other = owner.ends_with(SUFFIX) && owner != self.own_name;
                Some((number.parse().ok()?, owner.to_owned())).filter(|_| is_other && self.is_live(&name))
            })
            .collect();
        places.sort_unstable();
        places
    }

    fn is_live(&self, name: &str) -> bool {
        let path = self.folder.join(name);
        let Ok(file) = File::open(&path) else { return false };
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => true,
            Ok(()) => {
                let _already_removed = std::fs::remove_file(&path);
                false
            }
            Err(TryLockError::Error(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};

    use futures::FutureExt as _;
    use latentfarm_common::child::keep_open;

    use super::*;

    fn lock(root: &Path, worker: &str) -> DeviceLock {
        DeviceLock::new(root, "GPU-1", worker)
    }

    #[test]
    fn one_worker_at_a_time_has_a_device_and_the_others_know_which() {
        let root = tempfile::tempdir().unwrap();
        let (mut first, mut second) = (lock(root.path(), "w1"), lock(root.path(), "w2"));
        let mut elsewhere = DeviceLock::new(root.path(), "GPU-2", "w3");
        assert!(first.try_take(false).unwrap());
        assert!(!second.try_take(false).unwrap());
        assert!(elsewhere.try_take(false).unwrap(), "another device");
        assert!(
            !first.is_wanted_by_others(),
            "a worker that needs no device does not wait"
        );
        let owner = format!("worker w1 (process {}) of this machine", std::process::id());
        assert_eq!((first.other_owner(), second.other_owner()), (None, Some(owner)));
        first.release();
        assert_eq!(second.other_owner(), None);
        assert!(second.try_take(false).unwrap());
    }

    #[tokio::test]
    async fn whoever_waits_longest_comes_first_and_who_gives_up_comes_last() {
        let root = tempfile::tempdir().unwrap();
        let mut workers = ["w1", "w3", "w2"].map(|name| lock(root.path(), name));
        let mut turns = Vec::new();
        for round in 0..9 {
            for (index, worker) in workers.iter_mut().enumerate() {
                let is_held = worker.try_take(true).unwrap();
                if round > 0 {
                    assert_eq!(is_held, index == round % 3, "round {round}");
                }
            }
            let holder = workers.iter().position(DeviceLock::is_held).unwrap();
            turns.push(holder);
            assert!(
                workers[holder].changed().now_or_never().is_some(),
                "others wait for it"
            );
            workers[holder].release();
            let next = &workers[(holder + 1) % 3];
            assert!(next.changed().now_or_never().is_some(), "its turn has come");
            let last = &workers[(holder + 2) % 3];
            assert!(last.changed().now_or_never().is_none(), "it is not its turn");
            assert!(
                !workers[holder].try_take(true).unwrap(),
                "it comes after those who wait"
            );
        }
        assert_eq!(turns, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_worker_that_no_longer_waits_or_has_ended_holds_nobody_up() {
        let root = tempfile::tempdir().unwrap();
        let (mut first, mut second) = (lock(root.path(), "w1"), lock(root.path(), "w2"));
        assert!(first.try_take(true).unwrap());
        assert!(!second.try_take(true).unwrap());
        assert!(first.is_wanted_by_others());
        assert!(!second.try_take(false).unwrap(), "it has no task any more");
        assert!(!first.is_wanted_by_others());
        // A killed process leaves the file without a lock.
        let left = root.path().join("GPU-1/0000000000-w9-1.turn");
        std::fs::write(&left, "").unwrap();
        assert!(!first.is_wanted_by_others());
        assert!(!left.exists());
        assert!(!second.try_take(true).unwrap());
        drop(second);
        assert!(!first.is_wanted_by_others(), "it has left");
    }

    #[test]
    fn the_lock_of_a_dead_worker_lasts_as_long_as_its_engine() {
        let root = tempfile::tempdir().unwrap();
        let (mut first, mut second) = (lock(root.path(), "w1"), lock(root.path(), "w2"));
        assert!(first.try_take(true).unwrap());
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "echo up; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        keep_open(&mut command, first.file().unwrap()).unwrap();
        let mut engine = command.spawn().unwrap();
        drop(command);
        let mut line = String::new();
        BufReader::new(engine.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        drop(first);
        assert!(!second.try_take(true).unwrap(), "the engine lives");
        engine.kill().unwrap();
        engine.wait().unwrap();
        assert!(second.try_take(true).unwrap());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(lock(&file, "w1").try_take(true).is_err());
    }
}
