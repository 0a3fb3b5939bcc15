//! Immutable content under its SHA-256 digest: in a directory that all machines of the farm reach, or in the
//! NATS object store.
//!
//! | URL | place |
//! |---|---|
//! | `file:///abs/dir` | `<dir>/<first 2 digits>/<digest>`; the path is taken as it stands, without escapes |
//! | `nats://bucket` | an object named by the digest, in chunks of 512 KiB |
//!
//! Putting content twice is harmless. What `get` returns has been checked against the digest.

mod error;
mod file;
mod object;

use std::path::{Path, PathBuf};

use async_nats::Client;

pub use error::BlobError;

use crate::wire::blob::BlobRef;
use file::FileStore;
use object::ObjectStore;

/// A blob store. Clones name the same one.
#[derive(Clone, Debug)]
pub struct Store {
    url: String,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Files(FileStore),
    Objects(Box<ObjectStore>),
}

impl Store {
    /// Opens the store at `url`; a directory is created if absent. `nats://` needs a client.
    pub fn open(url: &str, client: Option<&Client>) -> Result<Self, BlobError> {
        if let Some(path) = url.strip_prefix("file:///") {
            FileStore::create(&Path::new("/").join(path))?;
        }
        Self::open_existing(url, client)
    }

    /// As [`Store::open`], for workers: an absent directory is an error. Created on a machine where the shared
    /// mount is missing, it would take results to where nobody looks.
    pub fn open_existing(url: &str, client: Option<&Client>) -> Result<Self, BlobError> {
        let place = if let Some(path) = url.strip_prefix("file://") {
            if !path.starts_with('/') {
                return Err(BlobError::Url { url: url.to_owned() });
            }
            Place::Files(FileStore::open(Path::new(path))?)
        } else if let Some(bucket) = url.strip_prefix("nats://") {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            if bucket.is_empty() || !bucket.bytes().all(allowed) {
                return Err(BlobError::Url { url: url.to_owned() });
            }
            let client = client.ok_or_else(|| BlobError::NoClient { url: url.to_owned() })?;
            Place::Objects(Box::new(ObjectStore::open(bucket, client)))
        } else {
            return Err(BlobError::Url { url: url.to_owned() });
        };
        Ok(Self {
            url: url.to_owned(),
            place,
        })
    }

    /// URL of the file store in a directory. The path must be absolute and UTF-8.
    pub fn file_url(dir: &Path) -> Result<String, BlobError> {
        match dir.to_str() {
            Some(path) if dir.is_absolute() => Ok(format!("file://{path}")),
            _ => Err(BlobError::Url {
                url: format!("file://{}", dir.display()),
            }),
        }
    }

    /// The URL that it was opened with.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stores the content of a file.
    pub async fn put_file(&self, path: &Path) -> Result<BlobRef, BlobError> {
        match &self.place {
            Place::Files(store) => store.put_file(path).await,
            Place::Objects(store) => store.put_file(path).await,
        }
    }

    /// Stores bytes.
    pub async fn put_bytes(&self, bytes: Vec<u8>) -> Result<BlobRef, BlobError> {
        match &self.place {
            Place::Files(store) => store.put_bytes(bytes).await,
            Place::Objects(store) => store.put_bytes(bytes).await,
        }
    }

    /// Writes the blob to `destination`: to a temporary file beside it, checked, then renamed.
    pub async fn get_to_file(&self, blob: &BlobRef, destination: &Path) -> Result<(), BlobError> {
        match &self.place {
            Place::Files(store) => store.get_to_file(blob, destination).await,
            Place::Objects(store) => store.get_to_file(blob, destination).await,
        }
    }

    /// The blob's bytes; for small ones.
    pub async fn get_bytes(&self, blob: &BlobRef) -> Result<Vec<u8>, BlobError> {
        match &self.place {
            Place::Files(store) => store.get_bytes(blob).await,
            Place::Objects(store) => store.get_bytes(blob).await,
        }
    }

    /// The blob as a file on this machine: where the store keeps it, or a copy in `scratch`, one file a digest. A copy
    /// of the right size that is there already is used again. The content is not read; see [`Store::verify`].
    pub async fn local_file(&self, blob: &BlobRef, scratch: &Path) -> Result<PathBuf, BlobError> {
        if let Place::Files(store) = &self.place {
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
        match &self.place {
            Place::Files(store) => store.local_path(blob).map(|_| ()),
            Place::Objects(store) => store.check(blob).await,
        }
    }

    /// Reads the whole blob and checks its digest.
    pub async fn verify(&self, blob: &BlobRef) -> Result<(), BlobError> {
        match &self.place {
            Place::Files(store) => store.verify(blob).await,
            Place::Objects(store) => store.verify(blob).await,
        }
    }
}
