//! A done record that names a worker, before it is known whether it is that worker's. `settle_claims.rs` decides that.

use latentfarm_common::ids::ChunkId;
use latentfarm_common::nats::signature::Signature;
use latentfarm_common::wire::outcome::DoneRecord;
use tokio::time::Instant;

/// A record of which it is not known yet whether it is its worker's.
#[derive(Debug)]
pub(super) struct Claim {
    /// The chunk under whose subject the record is stored.
    pub(super) chunk: ChunkId,
    /// The record's sequence number in the done log.
    pub(super) sequence: u64,
    pub(super) record: DoneRecord,
    pub(super) signature: Signature,
    /// The record is rejected if nothing has shown by then that it is its worker's.
    pub(super) until: Instant,
}
