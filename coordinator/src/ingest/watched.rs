//! Notices an input file that changes while it is read. [`super::examine`] begins to watch both files before it reads
//! them, and takes their digests from here when it has read them; what is read later is checked again.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use latentfarm_common::digest::Digest;
use latentfarm_common::error::FileError;
use latentfarm_common::media::MediaError;

use super::error::IngestError;

/// What tells one state of a file from another: device, inode, size, and time of the last change in seconds and
/// nanoseconds.
type FileState = (u64, u64, u64, i64, i64);

/// An input file, as it was when its reading began.
#[derive(Clone, Debug)]
pub(super) struct WatchedFile {
    path: PathBuf,
    begun: FileState,
}

impl WatchedFile {
    /// Begins to watch the file at `path`.
    pub(super) fn begin(path: &Path) -> Result<Self, IngestError> {
        let begun = state(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => MediaError::bad_input(path, "there is no such file").into(),
            _ => IngestError::File(FileError::at("read", path)(error)),
        })?;
        let path = path.to_owned();
        Ok(Self { path, begun })
    }

    /// Returns the digest of the file, whose other readers have ended.
    ///
    /// # Errors
    /// [`IngestError::Changed`] if the file is no longer what it was when its reading began.
    pub(super) fn digest(&self) -> Result<Digest, IngestError> {
        let (digest, _) = Digest::of_file(&self.path).map_err(FileError::at("read", &self.path))?;
        self.check()?;
        Ok(digest)
    }

    /// Returns an error if the file is no longer what it was when its reading began.
    pub(super) fn check(&self) -> Result<(), IngestError> {
        match state(&self.path) {
            Ok(now) if now == self.begun => Ok(()),
            _ => Err(IngestError::Changed {
                path: self.path.clone(),
            }),
        }
    }

    /// Whether both paths lead to one file.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        let identity = |file: &Self| (file.begun.0, file.begun.1);
        identity(self) == identity(other)
    }
}

fn state(path: &Path) -> std::io::Result<FileState> {
    let found = fs::metadata(path)?;
    Ok((
        found.dev(),
        found.ino(),
        found.size(),
        found.mtime(),
        found.mtime_nsec(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_replaced_or_removed_while_it_is_read_is_noticed() {
        type Change = fn(&Path);
        let changes: [Change; 4] = [
            |path| fs::write(path, b"other voice").unwrap(),
            |path| {
                fs::write(path.with_extension("new"), b"voice").unwrap();
                fs::rename(path.with_extension("new"), path).unwrap();
            },
            |path| fs::write(path, b"voi").unwrap(),
            |path| fs::remove_file(path).unwrap(),
        ];
        for change in changes {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.wav");
            fs::write(&path, b"voice").unwrap();
            let watched = WatchedFile::begin(&path).unwrap();
            assert_eq!(watched.digest().unwrap(), Digest::of(b"voice"));
            change(&path);
            let error = watched.check().unwrap_err();
            assert!(
                error.is_bad_input() && error.to_string().contains("a.wav"),
                "{error}"
            );
        }
    }

    #[test]
    fn links_lead_to_the_same_file_and_copies_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("a"), b"voice").unwrap();
        fs::copy(at("a"), at("copy")).unwrap();
        fs::hard_link(at("a"), at("hard")).unwrap();
        let begin = |name: &str| WatchedFile::begin(&at(name)).unwrap();
        assert!(begin("a").is_same_file(&begin("hard")));
        assert!(!begin("a").is_same_file(&begin("copy")));
        assert!(WatchedFile::begin(&at("none")).unwrap_err().is_bad_input());
    }
}
