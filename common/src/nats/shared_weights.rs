//! Weights that a farm shares: a bucket of the object store with the files, and the list of the files of each folder.
//! `latentfarm share-weights` writes them, and workers read them.
//!
//! The bucket is one of its own, so that the sweep of media does not touch it and workers cannot write to it.

use std::error::Error;

use async_nats::StatusCode;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DirectGetError, DirectGetErrorKind};

use super::connect::Connection;
use super::direct::last_of;
use super::error::StreamError;
use super::subjects::shared_weights;
use super::topology::{DONE, WEIGHTS_BUCKET, WEIGHTS_STREAM, is_not_found, weights_stream};
use crate::blob::{BlobError, Store};
use crate::digest::Digest;
use crate::wire::weights::SharedWeights;
use crate::wire::{self, WireError};

/// Why the list of a folder's files cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SharedWeightsError {
    /// The server does not answer, or refuses.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The list was written by another release, or is damaged.
    #[error("the list of the shared weights cannot be read")]
    Damaged(#[source] WireError),
    /// The list has paths that lead out of a folder, or too many files.
    #[error("the list of the shared weights names files that no folder of weights has")]
    Unsound,
}

/// Opens the store of the weights.
pub fn store(connection: &Connection) -> Result<Store, BlobError> {
    Store::open_existing(&format!("nats://{WEIGHTS_BUCKET}"), Some(&connection.client))
}

/// Creates the bucket of the weights, if the farm has none yet, with as many copies as the farm's other streams. Only
/// the coordinator's key may do so.
pub async fn ensure_bucket(connection: &Connection) -> Result<(), StreamError> {
    let context = &connection.context;
    let failed =
        |cause: async_nats::Error| StreamError::new(format!("create the stream {WEIGHTS_STREAM}"), cause);
    match context.get_stream(WEIGHTS_STREAM).await {
        Ok(_) => return Ok(()),
        Err(error) if is_not_found(error.kind()) => {}
        Err(error) => return Err(failed(error.into())),
    }
    let done = match context.get_stream(DONE).await {
        Ok(done) => done,
        Err(error) if is_not_found(error.kind()) => {
            return Err(failed(
                "the farm has no streams yet: start its coordinator first".into(),
            ));
        }
        Err(error) => return Err(failed(error.into())),
    };
    let config = Config {
        num_replicas: done.cached_info().config.num_replicas,
        ..weights_stream()
    };
    let created = context.create_stream(config).await;
    created.map(|_| ()).map_err(|error| failed(error.into()))
}

/// Stores the list of the files of the weights that this digest identifies, in place of an earlier one.
pub async fn publish(
    connection: &Connection,
    identity: Digest,
    list: &SharedWeights,
) -> Result<(), StreamError> {
    let failed =
        |cause: async_nats::Error| StreamError::new(format!("record the shared weights {identity}"), cause);
    let payload = wire::encode(list).map_err(|error| failed(error.into()))?;
    let message = PublishMessage::build()
        .header(async_nats::header::NATS_ROLLUP, "sub")
        .expected_stream(WEIGHTS_STREAM)
        .payload(payload.into());
    let published = connection.publish(shared_weights(identity), message).await;
    published.map(|_| ()).map_err(|error| failed(error.into()))
}

/// Reads the list of the files of the weights that this digest identifies; `None` if the farm does not share them.
pub async fn find(
    connection: &Connection,
    identity: Digest,
) -> Result<Option<SharedWeights>, SharedWeightsError> {
    let failed =
        |cause: async_nats::Error| StreamError::new(format!("look up the shared weights {identity}"), cause);
    let read = last_of(&connection.context, WEIGHTS_STREAM, &shared_weights(identity)).await;
    let message = match read {
        Ok(Some(message)) => message,
        Ok(None) => return Ok(None),
        // There is no bucket before anybody shares weights.
        Err(error) if is_unserved(error.as_ref()) => return Ok(None),
        Err(error) => return Err(failed(error).into()),
    };
    let list: SharedWeights = wire::decode(&message.payload).map_err(SharedWeightsError::Damaged)?;
    if list.is_sound() {
        Ok(Some(list))
    } else {
        Err(SharedWeightsError::Unsound)
    }
}

/// Whether no server has the stream that was asked for.
fn is_unserved(error: &(dyn Error + 'static)) -> bool {
    let kind = error.downcast_ref::<DirectGetError>().map(DirectGetError::kind);
    matches!(
        kind,
        Some(DirectGetErrorKind::ErrorResponse(StatusCode::NO_RESPONDERS, _))
    )
}
