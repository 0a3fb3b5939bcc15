//! The farm that jobs run on, as callers hand it in.

use latentfarm_common::blob::Store;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::topology::Topology;

/// A connected farm.
#[derive(Clone, Debug)]
pub struct Farm {
    pub connection: Connection,
    pub topology: Topology,
    /// The blob store, which the workers reach under the same URL.
    pub store: Store,
}
