//! What the coordinator of a farm needs to keep the object store small: a list of what is stored, and its removal.
//!
//! A blob may be put again while it is removed. Whoever puts a blob that is there stores its description again, so that
//! it is young; a description that is younger than the one that was listed is not removed, and a put whose blob has gone
//! meanwhile stores it anew.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::object_store::ObjectInfo;
use futures::TryStreamExt as _;

use super::error::BlobError;
use super::object::{LOOK_UP, ObjectStore};
use super::{Backend, Store};
use crate::digest::Digest;
use crate::nats::direct::{DirectReader, last_of};
use crate::wire::blob::BlobRef;

/// The action that errors name if something cannot be removed.
const REMOVE: &str = "remove";

/// One object of the store.
#[derive(Clone, Debug)]
pub struct StoredObject {
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content.
    pub bytes: u64,
    /// The time since the object was stored, or put again.
    pub age: Duration,
    /// The name of its chunks.
    nuid: String,
    /// The sequence number of its description.
    sequence: u64,
}

impl StoredObject {
    /// Makes the description of an object that is in no store, for tests of whoever chooses what to remove.
    pub fn listed(digest: Digest, bytes: u64, age: Duration) -> Self {
        Self {
            digest,
            bytes,
            age,
            nuid: String::new(),
            sequence: 0,
        }
    }
}

impl Store {
    /// Lists what an object store holds. A folder is not listed: it returns nothing.
    pub async fn objects(&self) -> Result<Vec<StoredObject>, BlobError> {
        match &self.backend {
            Backend::Files(_) => Ok(Vec::new()),
            Backend::Objects(store) => store.objects().await,
        }
    }

    /// Removes an object, unless it was put again since it was listed. Returns whether it is gone.
    pub async fn remove(&self, object: &StoredObject) -> Result<bool, BlobError> {
        match &self.backend {
            Backend::Files(_) => Ok(false),
            Backend::Objects(store) => store.remove(object).await,
        }
    }

    /// Removes chunks older than `age` that belong to none of the listed objects, as interrupted puts leave them.
    /// Returns the number of such puts.
    pub async fn remove_leftovers(&self, listed: &[StoredObject], age: Duration) -> Result<usize, BlobError> {
        match &self.backend {
            Backend::Files(_) => Ok(0),
            Backend::Objects(store) => store.remove_leftovers(listed, age).await,
        }
    }
}

impl ObjectStore {
    async fn objects(&self) -> Result<Vec<StoredObject>, BlobError> {
        let failed = |error| self.failed(LOOK_UP, &any_blob())(error);
        let all = self.descriptions();
        let mut reader = DirectReader::new(&self.context.client(), &self.stream(), &all, 1);
        let mut found = Vec::new();
        while let Some(message) = reader.next().await.map_err(failed)? {
            // Another program's objects are left alone.
            let Ok(info) = serde_json::from_slice::<ObjectInfo>(&message.payload) else {
                continue;
            };
            let Ok(digest) = info.name.parse() else { continue };
            found.push(StoredObject {
                digest,
                bytes: info.size as u64,
                age: age_of(&message),
                nuid: info.nuid,
                sequence: message.sequence,
            });
        }
        Ok(found)
    }

    async fn remove(&self, object: &StoredObject) -> Result<bool, BlobError> {
        let blob = BlobRef {
            digest: object.digest,
            bytes: object.bytes,
        };
        let failed = |error| self.failed(REMOVE, &blob)(error);
        let description = self.meta_subject(object.digest);
        self.purge(&description, Some(object.sequence))
            .await
            .map_err(failed)?;
        // Chunks of a description that was stored meanwhile stay.
        let left = last_of(&self.look_ups, &self.stream(), &description).await;
        if left.map_err(failed)?.is_some() {
            return Ok(false);
        }
        self.purge(&self.chunk_subject(&object.nuid), None)
            .await
            .map_err(failed)?;
        Ok(true)
    }

    async fn remove_leftovers(&self, listed: &[StoredObject], age: Duration) -> Result<usize, BlobError> {
        let failed = |error| self.failed(REMOVE, &any_blob())(error);
        let known: HashSet<String> = listed
            .iter()
            .map(|object| self.chunk_subject(&object.nuid))
            .collect();
        let mut removed = 0;
        for subject in self.chunk_subjects().await.map_err(failed)? {
            if known.contains(&subject) {
                continue;
            }
            let last = last_of(&self.look_ups, &self.stream(), &subject).await;
            if last.map_err(failed)?.is_some_and(|chunk| age_of(&chunk) > age) {
                self.purge(&subject, None).await.map_err(failed)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Lists the subjects of all chunks.
    async fn chunk_subjects(&self) -> Result<Vec<String>, async_nats::Error> {
        let stream = self.context.get_stream_no_info(self.stream()).await?;
        let subjects = stream.info_with_subjects(self.chunk_subject(">")).await?;
        let found: Vec<(String, usize)> = subjects.try_collect().await?;
        Ok(found.into_iter().map(|(subject, _count)| subject).collect())
    }

    /// Removes all messages of a subject, or those up to a sequence number.
    async fn purge(&self, subject: &str, up_to: Option<u64>) -> Result<(), async_nats::Error> {
        let stream = self.context.get_stream_no_info(self.stream()).await?;
        let purge = stream.purge().filter(subject);
        match up_to {
            Some(sequence) => purge.sequence(sequence + 1).await?,
            None => purge.await?,
        };
        Ok(())
    }
}

/// What errors about the whole store name.
fn any_blob() -> BlobRef {
    BlobRef {
        digest: Digest::of(b""),
        bytes: 0,
    }
}

fn age_of(message: &StreamMessage) -> Duration {
    let stored = SystemTime::from(message.time);
    // A clock that was put back makes nothing older.
    SystemTime::now().duration_since(stored).unwrap_or_default()
}
