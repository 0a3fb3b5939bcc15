//! The job folder, `OUT.latentfarm/`, which holds everything that a job needs to go on after a crash.
//! `render` opens it before it starts anything, and removes it when the job is complete.
//!
//! ```text
//! lock          held while a coordinator works here
//! job           id of the job that the folder belongs to
//! manifest.farm the JobSpec, once the job is planned
//! blobs/        content-addressed: segments, speech, track slices, results
//! scratch/      temporary files of the running processes; emptied at every start
//! nats/         the private server's state
//! watch.json    how `latentfarm top` reaches the private server
//! ```

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use latentfarm_common::error::FileError;
use latentfarm_common::ids::JobId;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A job folder that is locked for this process.
#[derive(Debug)]
pub struct JobFolder {
    path: PathBuf,
    resumed: bool,
    _lock: Flock<File>,
}

/// Why a job folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("cannot use the work folder: mend the cause, or choose another one with --work-dir")]
    File(#[from] FileError),
    #[error("another latentfarm is working in `{}`: wait for it, or write to another output", path.display())]
    Busy { path: PathBuf },
    #[error(
        "`{}` holds an unfinished job with other inputs or settings ({found}): give the same ones to resume it, \
         or --force to discard it", path.display()
    )]
    OtherJob { path: PathBuf, found: String },
    #[error("`{}` exists and is not a job folder: choose another --work-dir", path.display())]
    Foreign { path: PathBuf },
}

impl JobFolder {
    /// Opens the folder for `job`, or creates it. A folder with the same unfinished job is resumed. A folder
    /// with another job is refused, unless `force` allows to empty it.
    pub fn open(path: &Path, job: JobId, force: bool) -> Result<Self, FolderError> {
        let marker = path.join("job");
        let is_new = !path.exists();
        if !is_new && !marker.exists() && !is_empty(path)? {
            return Err(FolderError::Foreign {
                path: path.to_owned(),
            });
        }
        fs::create_dir_all(path).map_err(FileError::at("create", path))?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).map_err(FileError::at("create", &lock_path))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => FolderError::Busy {
                path: path.to_owned(),
            },
            errno => FileError::at("lock", &lock_path)(errno.into()).into(),
        })?;
        let found = fs::read_to_string(&marker)
            .ok()
            .map(|text| text.trim().to_owned());
        let resumed = match found {
            None => false,
            Some(found) if found == job.to_string() => true,
            Some(_) if force => {
                empty(path)?;
                false
            }
            Some(found) => {
                return Err(FolderError::OtherJob {
                    path: path.to_owned(),
                    found,
                });
            }
        };
        if !resumed {
            write_durably(&marker, job.to_string().as_bytes()).map_err(FileError::at("write", &marker))?;
        }
        let folder = Self {
            path: path.to_owned(),
            resumed,
            _lock: lock,
        };
        let scratch = folder.scratch();
        match fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FileError::at("empty", &scratch)(error).into());
            }
            _ => {}
        }
        for dir in [scratch, folder.blobs(), folder.nats()] {
            fs::create_dir_all(&dir).map_err(FileError::at("create", &dir))?;
        }
        Ok(folder)
    }

    /// Whether the folder already held the same job.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    pub fn scratch(&self) -> PathBuf {
        self.path.join("scratch")
    }

    pub fn nats(&self) -> PathBuf {
        self.path.join("nats")
    }

    /// Removes the folder with its contents, once the job is complete.
    pub fn remove(self) -> Result<(), FolderError> {
        fs::remove_dir_all(&self.path).map_err(FileError::at("remove", &self.path))?;
        Ok(())
    }
}

/// Finds the job folder that `given` names: the path itself, or the folder beside an output file of that
/// name. A folder is a job folder if it has one of `files`.
pub fn job_folder_of(given: &Path, files: &[&str]) -> Option<PathBuf> {
    let mut beside = given.as_os_str().to_owned();
    beside.push(".latentfarm");
    [given.to_owned(), beside.into()]
        .into_iter()
        .find(|path| files.iter().any(|file| path.join(file).is_file()))
}

/// Writes a small file so that it is complete or absent after a crash. The folder of `path` must exist.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(parent)?.sync_all()
}

fn is_empty(path: &Path) -> Result<bool, FileError> {
    let mut entries = fs::read_dir(path).map_err(FileError::at("read", path))?;
    // A crash between two steps of `open` leaves a lock file alone.
    Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == "lock")))
}

/// Removes everything except the lock file, which is being held.
fn empty(path: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(path).map_err(FileError::at("read", path))? {
        let entry = entry.map_err(FileError::at("read", path))?;
        if entry.file_name() == "lock" {
            continue;
        }
        let removed = match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(entry.path()),
            _ => fs::remove_file(entry.path()),
        };
        removed.map_err(FileError::at("remove", &entry.path()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::digest::Digest;
    use latentfarm_common::error::one_line;

    fn job(name: &str) -> JobId {
        JobId::from_digest(&Digest::of(name.as_bytes()))
    }

    #[test]
    fn the_same_job_is_resumed_and_another_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("out.mp4.latentfarm");
        let first = JobFolder::open(&path, job("a"), false).unwrap();
        assert!(!first.resumed());
        fs::write(first.path().join("manifest"), b"kept").unwrap();
        fs::write(first.scratch().join("left"), b"over").unwrap();
        assert!(matches!(
            JobFolder::open(&path, job("a"), true),
            Err(FolderError::Busy { .. })
        ));
        drop(first);

        let again = JobFolder::open(&path, job("a"), false).unwrap();
        assert!(again.resumed() && again.path().join("manifest").exists());
        assert!(!again.scratch().join("left").exists());
        drop(again);

        assert!(matches!(
            JobFolder::open(&path, job("b"), false),
            Err(FolderError::OtherJob { .. })
        ));
        let forced = JobFolder::open(&path, job("b"), true).unwrap();
        assert!(!forced.resumed() && !forced.path().join("manifest").exists());
        forced.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_of_somebody_else_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("thesis.tex"), b"x").unwrap();
        assert!(matches!(
            JobFolder::open(root.path(), job("a"), true),
            Err(FolderError::Foreign { .. })
        ));
        assert!(root.path().join("thesis.tex").exists());
    }

    #[test]
    fn a_folder_with_nothing_but_a_lock_is_used() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("lock"), b"").unwrap();
        let folder = JobFolder::open(root.path(), job("a"), false).unwrap();
        assert!(!folder.resumed());
        let named = [folder.blobs(), folder.nats(), folder.scratch()];
        assert_eq!(
            named,
            ["blobs", "nats", "scratch"].map(|name| root.path().join(name))
        );
        assert!(named.iter().all(|path| path.is_dir()));
    }

    #[test]
    fn what_cannot_be_emptied_is_named() {
        let root = tempfile::tempdir().unwrap();
        drop(JobFolder::open(root.path(), job("a"), false).unwrap());
        fs::remove_dir(root.path().join("scratch")).unwrap();
        fs::write(root.path().join("scratch"), b"a file").unwrap();
        let error = one_line(&JobFolder::open(root.path(), job("a"), false).unwrap_err());
        assert!(
            error.contains("cannot empty") && error.contains("scratch"),
            "{error}"
        );
    }

    #[test]
    fn a_job_folder_is_found_by_its_name_or_its_output() {
        let folder = tempfile::tempdir().unwrap();
        let job = folder.path().join("out.mp4.latentfarm");
        fs::create_dir(&job).unwrap();
        let output = folder.path().join("out.mp4");
        assert_eq!(job_folder_of(&output, &["job"]), None);
        fs::write(job.join("job"), "x").unwrap();
        assert_eq!(job_folder_of(&output, &["job"]), Some(job.clone()));
        assert_eq!(job_folder_of(&job, &["job"]), Some(job));
    }
}
