//! The blob store in a directory: one file for each blob, which becomes visible only when it is complete.

use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use super::error::{BlobError, check_content};
use crate::digest::{Digest, DigestWriter};
use crate::error::FileError;
use crate::wire::blob::BlobRef;

/// Size of the buffer through which content is copied and hashed.
const COPY_BYTES: usize = 1 << 20;

#[derive(Clone, Debug)]
pub(super) struct FileStore {
    dir: PathBuf,
}

impl FileStore {
    pub(super) fn create(dir: &Path) -> Result<(), BlobError> {
        fs::create_dir_all(dir).map_err(file_error("create directory", dir))
    }

    pub(super) fn open(dir: &Path) -> Result<Self, BlobError> {
        fs::read_dir(dir).map_err(file_error("open the blob directory", dir))?;
        Ok(Self {
            dir: dir.to_path_buf(),
        })
    }

    pub(super) async fn put_file(&self, path: &Path) -> Result<BlobRef, BlobError> {
        let (store, path) = (self.clone(), path.to_path_buf());
        blocking(move || {
            let file = File::open(&path).map_err(file_error("open", &path))?;
            store.put_reader(file, &path)
        })
        .await
    }

    pub(super) async fn put_bytes(&self, bytes: Vec<u8>) -> Result<BlobRef, BlobError> {
        let store = self.clone();
        blocking(move || store.put_reader(&bytes[..], &store.dir)).await
    }

    pub(super) async fn get_to_file(&self, blob: &BlobRef, destination: &Path) -> Result<(), BlobError> {
        let (store, blob, destination) = (self.clone(), *blob, destination.to_path_buf());
        blocking(move || {
            let path = store.local_path(&blob)?;
            let file = File::open(&path).map_err(file_error("open", &path))?;
            let mut staged = Staged::beside(&destination)?;
            let (digest, bytes) = staged.fill(file, &path)?;
            check_content(&blob, digest, bytes, &store.place())?;
            staged.publish(&destination)
        })
        .await
    }

    pub(super) async fn get_bytes(&self, blob: &BlobRef) -> Result<Vec<u8>, BlobError> {
        let (store, blob) = (self.clone(), *blob);
        blocking(move || {
            let path = store.local_path(&blob)?;
            let bytes = fs::read(&path).map_err(file_error("read", &path))?;
            check_content(&blob, Digest::of(&bytes), bytes.len() as u64, &store.place())?;
            Ok(bytes)
        })
        .await
    }

    pub(super) async fn verify(&self, blob: &BlobRef) -> Result<(), BlobError> {
        let (store, blob) = (self.clone(), *blob);
        blocking(move || store.verify_now(&blob)).await
    }

    fn verify_now(&self, blob: &BlobRef) -> Result<(), BlobError> {
        let path = self.local_path(blob)?;
        let (digest, bytes) = Digest::of_file(&path).map_err(file_error("read", &path))?;
        check_content(blob, digest, bytes, &self.place())
    }

    pub(super) fn local_path(&self, blob: &BlobRef) -> Result<PathBuf, BlobError> {
        let path = self.path_of(blob.digest);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() == blob.bytes => Ok(path),
            Ok(metadata) => Err(BlobError::WrongSize {
                digest: blob.digest,
                place: self.place(),
                bytes: blob.bytes,
                found_bytes: metadata.len(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(BlobError::Missing {
                digest: blob.digest,
                place: self.place(),
            }),
            Err(error) => Err(file_error("look at", &path)(error)),
        }
    }

    /// Copies content into the directory, under its digest. A blob that is already there is kept if it is
    /// undamaged and replaced otherwise; a chunk that is rendered again stores the same content again.
    fn put_reader(&self, reader: impl Read, from: &Path) -> Result<BlobRef, BlobError> {
        let mut staged = Staged::in_dir(&self.dir)?;
        let (digest, bytes) = staged.fill(reader, from)?;
        let blob = BlobRef { digest, bytes };
        if self.verify_now(&blob).is_ok() {
            return Ok(blob);
        }
        let path = self.path_of(digest);
        let shard = path.parent().unwrap_or(&self.dir);
        let is_new_shard = !shard.is_dir();
        fs::create_dir_all(shard).map_err(file_error("create directory", shard))?;
        staged.publish(&path)?;
        if is_new_shard {
            sync_dir(&self.dir)?;
        }
        Ok(blob)
    }

    fn path_of(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    fn place(&self) -> String {
        format!("`{}`", self.dir.display())
    }
}

/// A temporary file that gets its final name only when it is complete and on disk. If it is dropped before,
/// it is deleted.
pub(super) struct Staged {
    file: tempfile::NamedTempFile,
}

impl Staged {
    fn in_dir(dir: &Path) -> Result<Self, BlobError> {
        let file = tempfile::Builder::new().prefix(".staged-").tempfile_in(dir);
        file.map(|file| Self { file })
            .map_err(file_error("create a temporary file in", dir))
    }

    pub(super) fn beside(destination: &Path) -> Result<Self, BlobError> {
        Self::in_dir(parent_of(destination))
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let path = self.file.path().to_path_buf();
        self.file.write_all(bytes).map_err(file_error("write", &path))
    }

    /// Copies everything from `reader`, which errors name `from`; returns the digest and the size.
    fn fill(&mut self, mut reader: impl Read, from: &Path) -> Result<(Digest, u64), BlobError> {
        let mut digest = DigestWriter::new();
        let mut buffer = vec![0_u8; COPY_BYTES];
        loop {
            match reader.read(&mut buffer).map_err(file_error("read", from))? {
                0 => return Ok(digest.finish()),
                n => {
                    digest.update(&buffer[..n]);
                    self.write(&buffer[..n])?;
                }
            }
        }
    }

    /// Flushes the file to the disk, renames it to `destination` and flushes the directory.
    pub(super) fn publish(self, destination: &Path) -> Result<(), BlobError> {
        self.file
            .as_file()
            .sync_all()
            .map_err(file_error("sync", self.file.path()))?;
        let renamed = self.file.persist(destination);
        renamed.map_err(|error| file_error("rename to", destination)(error.error))?;
        sync_dir(parent_of(destination))
    }
}

fn parent_of(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn sync_dir(dir: &Path) -> Result<(), BlobError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(file_error("sync directory", dir))
}

/// Returns the conversion of an I/O error to a [`BlobError`] that names the action and the file, for
/// `map_err`.
pub(super) fn file_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> BlobError + 'a {
    move |source| FileError::at(action, path)(source).into()
}

/// Runs file operations on a thread for blocking work, so that they do not block the async runtime.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(BlobError::Interrupted)?
}
