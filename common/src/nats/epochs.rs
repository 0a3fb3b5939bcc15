//! The epochs of a farm that takes over the records of another, whose attempts are numbered by epochs: they go on above
//! those.

use async_nats::jetstream::stream::Stream;

use super::connect::Connection;
use super::error::StreamError;
use super::topology::LEASE_BUCKET;

/// Returns a number that no epoch of the farm is above, so far.
pub async fn last(connection: &Connection) -> Result<u64, StreamError> {
    Ok(lease(connection).await?.cached_info().state.last_sequence)
}

/// Makes all later epochs larger than `last`. This is right only while no coordinator is at work, because a lease that is
/// held is lost.
pub async fn raise_above(connection: &Connection, last: u64) -> Result<(), StreamError> {
    let stream = lease(connection).await?;
    if stream.cached_info().state.last_sequence >= last {
        return Ok(());
    }
    // A stream goes on from where it was purged to, although it has never got so far.
    let purged = stream.purge().sequence(last + 1).await;
    purged
        .map(|_| ())
        .map_err(|error| StreamError::new("raise the farm's epoch".to_owned(), error))
}

/// Returns the stream of the coordinator's lease, whose sequence numbers the epochs are.
async fn lease(connection: &Connection) -> Result<Stream, StreamError> {
    let name = format!("KV_{LEASE_BUCKET}");
    let found = connection.context.get_stream(&name).await;
    found.map_err(|error| StreamError::new(format!("look up the stream {name}"), error))
}
