//! How much a farm's server can still store. A render on an existing farm looks before it uploads anything;
//! the coordinator and the workers ask of an error whether the server's storage was full.

use std::fmt;

use async_nats::jetstream;

use super::error::StreamError;
pub use super::full::{is_full, needs_cluster};
use super::topology::{HALVINGS, MEDIA_BUCKET, Topology};

/// What the operator can do about storage that is full, in one clause.
pub const STORAGE_MEND: &str = "give JetStream more room (`max_file` in the server's configuration, or the account's \
                                limit, and `--store-limit` of the coordinator), or delete jobs that are over";

/// What sets the limit of the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageLimit {
    /// The account that the coordinator signs in to.
    Account,
    /// The bucket of the farm's blobs.
    Bucket,
}

impl fmt::Display for StorageLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account => f.write_str("the account on the NATS server"),
            Self::Bucket => write!(f, "the bucket {MEDIA_BUCKET}"),
        }
    }
}

/// The file storage that is used and allowed at one place of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageRoom {
    /// What sets the limit.
    pub limited_by: StorageLimit,
    /// Bytes that are stored.
    pub used_bytes: u64,
    /// Bytes that may be stored.
    pub limit_bytes: u64,
}

impl StorageRoom {
    /// Returns the bytes that may be stored besides those that are.
    pub fn free_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }
}

/// Returns the storage of the coordinator's account; `None` if it has no limit.
pub async fn account_room(context: &jetstream::Context) -> Result<Option<StorageRoom>, StreamError> {
    let account = context.query_account().await;
    let account =
        account.map_err(|error| StreamError::new("read the account's storage".to_owned(), error))?;
    Ok(room(
        StorageLimit::Account,
        account.storage,
        account.limits.max_storage,
    ))
}

/// Returns the storage that has least room for blobs; `None` if neither the account nor the bucket has a
/// limit.
pub async fn media_room(context: &jetstream::Context) -> Result<Option<StorageRoom>, StreamError> {
    let name = format!("OBJ_{MEDIA_BUCKET}");
    let stream = context.get_stream(&name).await;
    let stream = stream.map_err(|error| StreamError::new(format!("look up the stream {name}"), error))?;
    let info = stream.cached_info();
    let bucket = room(
        StorageLimit::Bucket,
        info.state.bytes,
        Some(info.config.max_bytes).filter(|limit| *limit >= 0),
    );
    let rooms = [account_room(context).await?, bucket].into_iter().flatten();
    Ok(rooms.min_by_key(StorageRoom::free_bytes))
}

fn room(limited_by: StorageLimit, used_bytes: u64, limit: Option<i64>) -> Option<StorageRoom> {
    let limit_bytes = u64::try_from(limit?).ok()?;
    Some(StorageRoom {
        limited_by,
        used_bytes,
        limit_bytes,
    })
}

/// Returns the bytes that the farm's streams reserve together on a server that grants as much.
pub fn reserved_bytes(topology: &Topology) -> u64 {
    let limits = topology.streams().into_iter().map(|stream| stream.max_bytes);
    limits.filter_map(|limit| u64::try_from(limit).ok()).sum()
}

/// Returns the least bytes with which a server can have the farm's streams.
pub fn least_bytes(topology: &Topology) -> u64 {
    reserved_bytes(topology) >> HALVINGS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_reserve_what_the_manual_says() {
        assert_eq!(reserved_bytes(&Topology::default()) >> 20, 43_264);
    }
}
