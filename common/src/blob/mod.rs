//! The blob store keeps immutable content under its SHA-256 digest, in a directory that all machines of the
//! farm mount, or in the NATS object store.
//!
//! The coordinator stores the inputs of chunks and fetches their segments; workers do the reverse.
//!
//! | URL | where a blob is |
//! |---|---|
//! | `file:///abs/dir` | `<dir>/<first 2 digits>/<digest>`; the path is taken as it stands, without escapes |
//! | `nats://bucket` | an object named by the digest, in chunks of 512 KiB |
//!
//! Content may be put twice. Content that `get` returns has been checked against the digest.

mod error;
mod file;
mod object;
mod settle;
mod sweep;

use std::path::{Path, PathBuf};

use async_nats::Client;

pub use error::BlobError;
pub use settle::settled;
pub use sweep::StoredObject;

use crate::wire::blob::BlobRef;
use file::FileStore;
use object::ObjectStore;

/// A handle to a blob store. Clones refer to the same store.
#[derive(Clone, Debug)]
pub struct Store {
    url: String,
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    Files(FileStore),
    Objects(Box<ObjectStore>),
}

impl Store {
    /// Opens the store at `url` and creates its directory if it is absent. A `nats://` URL needs a client.
    pub fn open(url: &str, client: Option<&Client>) -> Result<Self, BlobError> {
        if let Some(path) = url.strip_prefix("file:///") {
            FileStore::create(&Path::new("/").join(path))?;
        }
        Self::open_existing(url, client)
    }

    /// Opens the store at `url` and fails if its directory is absent. Workers use this: a directory that is
    /// created on a machine without the shared mount would take results that no other machine can read.
    pub fn open_existing(url: &str, client: Option<&Client>) -> Result<Self, BlobError> {
        let backend = if let Some(path) = url.strip_prefix("file://") {
            if !path.starts_with('/') {
                return Err(BlobError::Url { url: url.to_owned() });
            }
            Backend::Files(FileStore::open(Path::new(path))?)
        } else if let Some(bucket) = url.strip_prefix("nats://") {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if bucket.is_empty() || !bucket.bytes().all(allowed) {
                return Err(BlobError::Url { url: url.to_owned() });
            }
            let client = client.ok_or_else(|| BlobError::NoClient { url: url.to_owned() })?;
            Backend::Objects(Box::new(ObjectStore::open(bucket, client)))
        } else {
            return Err(BlobError::Url { url: url.to_owned() });
        };
        Ok(Self {
            url: url.to_owned(),
            backend,
        })
    }

    /// Returns the URL of the file store in `dir`, which must be an absolute path in UTF-8.
    pub fn file_url(dir: &Path) -> Result<String, BlobError> {
        match dir.to_str() {
            Some(path) if dir.is_absolute() => Ok(format!("file://{path}")),
            _ => Err(BlobError::Url {
                url: format!("file://{}", dir.display()),
            }),
        }
    }

    /// Returns the URL that the store was opened with.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stores the content of a file and returns its digest and size.
    pub async fn put_file(&self, path: &Path) -> Result<BlobRef, BlobError> {
        match &self.backend {
            Backend::Files(store) => store.put_file(path).await,
            Backend::Objects(store) => store.put_file(path).await,
        }
    }

    /// Stores bytes and returns their digest and size.
    pub async fn put_bytes(&self, bytes: Vec<u8>) -> Result<BlobRef, BlobError> {
        match &self.backend {
            Backend::Files(store) => store.put_bytes(bytes).await,
            Backend::Objects(store) => store.put_bytes(bytes).await,
        }
    }

    /// Writes the blob to a temporary file beside `destination`, checks its digest, and renames it to
    /// `destination`.
    pub async fn get_to_file(&self, blob: &BlobRef, destination: &Path) -> Result<(), BlobError> {
        match &self.backend {
            Backend::Files(store) => store.get_to_file(blob, destination).await,
            Backend::Objects(store) => settled(|| store.get_to_file(blob, destination)).await,
        }
    }

    /// Reads the blob into memory and checks its digest; for small blobs only.
    pub async fn get_bytes(&self, blob: &BlobRef) -> Result<Vec<u8>, BlobError> {
        match &self.backend {
            Backend::Files(store) => store.get_bytes(blob).await,
            Backend::Objects(store) => settled(|| store.get_bytes(blob)).await,
        }
    }

    /// Returns the blob as a file on this machine: the store's own file, or a copy in `scratch` with the
    /// digest as its name. A copy of the right size that is already there is used again without reading it;
    /// see [`Store::verify`].
    pub async fn local_file(&self, blob: &BlobRef, scratch: &Path) -> Result<PathBuf, BlobError> {
        if let Backend::Files(store) = &self.backend {
            return store.local_path(blob);
        }
        let path = scratch.join(blob.digest.to_string());
        if std::fs::metadata(&path).is_ok_and(|meta| meta.len() == blob.bytes) {
            return Ok(path);
        }
        self.get_to_file(blob, &path).await.map(|()| path)
    }

    /// Checks that the blob is there with the right size, without reading it.
    pub async fn check(&self, blob: &BlobRef) -> Result<(), BlobError> {
        match &self.backend {
            Backend::Files(store) => store.local_path(blob).map(|_| ()),
            Backend::Objects(store) => store.check(blob).await,
        }
    }

    /// Whether the store has the blob, whole and undamaged. Reads all of it.
    pub async fn has(&self, blob: &BlobRef) -> Result<bool, BlobError> {
        // A blob that was never stored is not looked for a second time.
        let found = match self.check(blob).await {
            Ok(()) => self.verify(blob).await,
            missing => missing,
        };
        match found {
            Ok(()) => Ok(true),
            Err(BlobError::Missing { .. } | BlobError::WrongSize { .. } | BlobError::Damaged { .. }) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the whole blob and checks its digest.
    pub async fn verify(&self, blob: &BlobRef) -> Result<(), BlobError> {
        match &self.backend {
            Backend::Files(store) => store.verify(blob).await,
            Backend::Objects(store) => settled(|| store.verify(blob)).await,
        }
    }
}
