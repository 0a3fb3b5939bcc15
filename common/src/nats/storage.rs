//! How much a farm's server can still store. A render on an existing farm looks before it uploads anything;
//! the coordinator and the workers ask of an error whether the server's storage was full.

use std::error::Error;
use std::fmt;

use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::{self, ErrorCode};

use super::error::StreamError;
use super::topology::{MEDIA_BUCKET, Topology};

/// What the operator can do about storage that is full, in one clause.
pub const STORAGE_MEND: &str = "give JetStream more room (`max_file` in the server's configuration, or the account's \
                                limit), or remove blobs of finished jobs from the bucket farm-media";

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

/// Returns the bytes that the farm's streams reserve of the account together.
pub fn reserved_bytes(topology: &Topology) -> u64 {
    let limits = topology.streams().into_iter().map(|stream| stream.max_bytes);
    limits.filter_map(|limit| u64::try_from(limit).ok()).sum()
}

/// Whether an error, or one of its causes, is the server's answer that its storage is full.
pub fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        // An answer about a stream is in the kind of the error, one about a message is its cause.
        let created = cause
            .downcast_ref::<CreateStreamError>()
            .map(CreateStreamError::kind);
        let answer = match &created {
            Some(CreateStreamErrorKind::JetStream(answer)) => Some(answer),
            _ => cause.downcast_ref::<jetstream::Error>(),
        };
        if answer.is_some_and(says_full) {
            return true;
        }
        next = cause.source();
    }
    false
}

fn says_full(error: &jetstream::Error) -> bool {
    match error.error_code() {
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::INSUFFICIENT_RESOURCES => true,
        // The code stands for any message that was not stored; the text says why.
        ErrorCode::STREAM_STORE_FAILED => {
            let text = error.to_string();
            text.contains("maximum bytes exceeded") || text.contains("no space left")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u64, description: &str) -> jetstream::Error {
        let json = serde_json::json!({ "code": 503, "err_code": code, "description": description });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn answers_of_a_full_server_are_told_from_others_however_deep_they_lie() {
        for (code, description, expected) in [
            (10_002, "resource limits exceeded for account", true),
            (10_047, "insufficient storage resources available", true),
            (10_023, "insufficient resources", true),
            (10_077, "maximum bytes exceeded", true),
            (10_077, "maximum messages exceeded", false),
            (10_071, "wrong last sequence: 1", false),
        ] {
            let error = StreamError::new("store a test".to_owned(), answer(code, description));
            assert_eq!(is_full(&error), expected, "{description}");
        }
        assert!(!is_full(&std::io::Error::other("maximum bytes exceeded")));
    }

    #[test]
    fn the_streams_reserve_what_the_manual_says() {
        assert_eq!(reserved_bytes(&Topology::default()) >> 20, 43_264);
    }
}
